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
use crate::web::response::{IntoResponse, busy, log_failure};

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
    fn new(status: StatusCode, reason: impl Into<String>) -> InputError {
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
            status => (status, format!("{self}\n")).into_response().map(|body| body.by(Author::Detail)),
        }
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The reason, without the position.
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
            Some(status) => InputError::new(status, e.to_string()),
            None => {
                log_failure(format_args!("a request body can't be read: {e}"));
                InputError::new(StatusCode::INTERNAL_SERVER_ERROR, "the body can't be read")
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
    Err(InputError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason))
}
