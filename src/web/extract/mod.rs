//! Reads a client's input as a type of the handler: parameters of the path, JSON, forms, with files too, queries.

#[cfg(feature = "form")]
pub(crate) mod form;
#[cfg(feature = "json")]
pub(crate) mod json;
#[cfg(feature = "multipart")]
pub mod multipart;
pub(crate) mod path;

use std::fmt;
use std::io;

use http::StatusCode;
#[cfg(any(feature = "json", feature = "form", feature = "multipart"))]
use http::{HeaderMap, header::CONTENT_TYPE};

use crate::Response;
use crate::web::body::{Author, BodyError};
#[cfg(any(feature = "json", feature = "form", feature = "multipart"))]
use crate::web::fields::essence;
use crate::web::response::{IntoResponse, busy, log_failure, plain};

/// Why a client's input can't be read as the type that the handler wants: which field, and where.
///
/// Handlers can pass it on by `?`, also as an [`io::Error`] or a boxed error: the response is the same. It is plain text,
/// with this status:
///
/// | error | status |
/// | --- | --- |
/// | a parameter of the path that is not of the wanted type: there is no such resource | 404 |
/// | malformed or truncated JSON, or bytes after its end; a malformed multipart form; a query that does not match the type | 400 |
/// | `Content-Type` is not JSON, or not that of a form | 415 |
/// | fields that are missing, unknown or of another type | 422 |
/// | a body that is too large, or too slow (streaming routes); a field beyond a limit of its form | 413, 408 |
/// | what the program finds wrong itself: [`InputError::not_found`], [`InputError::new`] | 404; 4xx |
/// | no room in temporary files, or on the disk | 503, 507 |
/// | a failure of the server while it reads the body, or a parameter that the route does not have; the reason is only logged | 500 |
#[derive(Debug)]
pub struct InputError {
    status: StatusCode,
    reason: String,
    field: Option<String>,
    /// Line and column, from 1.
    place: Option<(usize, usize)>,
}

impl InputError {
    /// What the program itself finds wrong with a request, for `?` also in a handler that returns an
    /// [`AnyError`](crate::AnyError), an [`io::Error`] or a `Problem`. The client gets the reason. A status other than 4xx is a 500, and the
    /// reason is then only logged.
    ///
    /// ```
    /// use heirloom::prelude::*;
    ///
    /// fn rename(mut req: Request) -> Result<StatusCode, AnyError> {
    ///     let name = req.text()?;
    ///     if name.is_empty() {
    ///         return Err(InputError::new(StatusCode::UNPROCESSABLE_ENTITY, "the name is empty").into());
    ///     }
    ///     std::fs::rename("old", name)?;
    ///     Ok(StatusCode::NO_CONTENT)
    /// }
    /// let response = Router::new().post("/", rename).call(http::Request::post("/").body(Body::empty()).unwrap());
    /// assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    /// ```
    pub fn new(status: StatusCode, reason: impl Into<String>) -> InputError {
        let reason = reason.into();
        if status.is_client_error() {
            return InputError::of(status, reason);
        }
        log_failure(format_args!("an InputError of status {status}: {reason}"));
        InputError::of(StatusCode::INTERNAL_SERVER_ERROR, "")
    }

    /// The 404 of a handler that returns `None`, for one whose result is another:
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// # fn find(_: u64) -> std::io::Result<Option<String>> { Ok(None) }
    ///
    /// fn show(req: Request) -> Result<Html<String>, AnyError> {
    ///     let (id,) = req.params_as::<(u64,)>()?;
    ///     let note = find(id)?.ok_or_else(InputError::not_found)?;
    ///     Ok(Html(format!("<p>{note}</p>")))
    /// }
    /// let router = Router::new().get("/notes/{id}", show);
    /// let response = router.call(http::Request::get("/notes/7").body(Body::empty()).unwrap());
    /// assert_eq!(response.status(), StatusCode::NOT_FOUND);
    /// ```
    pub fn not_found() -> InputError {
        InputError::of(StatusCode::NOT_FOUND, "")
    }

    fn of(status: StatusCode, reason: impl Into<String>) -> InputError {
        InputError { status, reason: reason.into(), field: None, place: None }
    }

    /// The one that an error is or holds, if it was passed on as a boxed or an I/O error.
    pub(crate) fn within<'e>(e: &'e (dyn std::error::Error + 'static)) -> Option<&'e InputError> {
        e.downcast_ref().or_else(|| e.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref())
    }

    /// The response that says what is wrong.
    pub(crate) fn response(&self) -> Response {
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => busy(),
            status if self.reason.is_empty() => plain(status),
            status => (status, format!("{self}\n")).into_response().map(|body| body.by(Author::Detail)),
        }
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The reason, without the position; empty if the status says it all.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The field that is wrong, such as `items[1].price`. None if the error does not belong to one field.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// The line of a JSON text, from 1.
    pub fn line(&self) -> Option<usize> {
        self.place.map(|(line, _)| line)
    }

    /// The column in that line, in bytes, from 1.
    pub fn column(&self) -> Option<usize> {
        self.place.map(|(_, column)| column)
    }

    #[cfg(any(feature = "json", feature = "form"))]
    fn at(mut self, path: &serde_path_to_error::Path) -> InputError {
        let path = path.to_string();
        // Where the text ends within an object no field is known.
        let path = path.strip_suffix('?').map_or(&*path, |known| known.trim_end_matches('.'));
        self.field = (!path.is_empty() && path != ".").then(|| path.to_owned());
        self
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "line {line}, column {column}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        if self.reason.is_empty() {
            return write!(f, "{}", self.status);
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for InputError {}

impl From<InputError> for io::Error {
    fn from(e: InputError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, e)
    }
}

impl IntoResponse for InputError {
    fn into_response(self) -> Response {
        self.response()
    }
}

impl From<io::Error> for InputError {
    fn from(e: io::Error) -> InputError {
        let e = match e.downcast::<InputError>() {
            Ok(input) => return input,
            Err(e) => e,
        };
        match BodyError::status_of(&e) {
            Some(status) => InputError::of(status, e.to_string()),
            None => {
                log_failure(format_args!("a request body can't be read: {e}"));
                InputError::of(StatusCode::INTERNAL_SERVER_ERROR, "the body can't be read")
            }
        }
    }
}

/// The media type, without parameters, must be as wanted.
#[cfg(any(feature = "json", feature = "form", feature = "multipart"))]
fn expect(headers: &HeaderMap, wanted: &str, fits: impl Fn(&str) -> bool) -> Result<(), InputError> {
    let given = headers.get(CONTENT_TYPE);
    if given.is_some_and(|given| fits(&essence(given.as_bytes()))) {
        return Ok(());
    }
    let reason = format!("the body must be {wanted}, by its Content-Type");
    Err(InputError::of(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::response::AnyError;

    fn shown(e: impl IntoResponse) -> (u16, String) {
        let mut response = e.into_response();
        (response.status().as_u16(), response.body_mut().read_text().unwrap())
    }

    #[test]
    fn a_program_says_what_is_wrong_through_errors_of_any_type() {
        let text = |status, text: &str| (status, text.to_owned());
        assert_eq!(shown(InputError::not_found()), shown(None::<String>));
        assert_eq!(shown(AnyError::from(InputError::not_found())), text(404, "404 Not Found\n"));
        assert_eq!(shown(io::Error::from(InputError::not_found())), text(404, "404 Not Found\n"));
        assert_eq!(InputError::not_found().to_string(), "404 Not Found");
        let taken = || InputError::new(StatusCode::CONFLICT, "the name is taken");
        assert_eq!(shown(AnyError::from(taken())), text(409, "the name is taken\n"));
        assert_eq!(shown(InputError::from(io::Error::from(taken()))), text(409, "the name is taken\n"));
        for none in [StatusCode::OK, StatusCode::BAD_GATEWAY] {
            assert_eq!(shown(InputError::new(none, "secret")), text(500, "500 Internal Server Error\n"));
        }
    }

    #[cfg(feature = "json")]
    #[test]
    fn a_bare_status_is_a_problem_without_detail() {
        use crate::Problem;
        assert_eq!(
            shown(Problem::from(AnyError::from(InputError::not_found()))).1,
            r#"{"title":"Not Found","status":404}"#
        );
        let taken = InputError::new(StatusCode::CONFLICT, "taken");
        assert_eq!(shown(Problem::from(taken)).1, r#"{"title":"Conflict","status":409,"detail":"taken"}"#);
    }
}
