//! Requests and responses in JSON.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Display;
use std::io;

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::de::DeserializeOwned;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use crate::base::error::Chain;
use crate::base::log::error;
use crate::web::body::BodyError;
use crate::web::extract::{InputError, expect};
use crate::web::response::{AnyError, IntoResponse, ResponseExt, is_busy, log_failure, plain};
use crate::{Body, Response};

/// Reads a body whose `Content-Type` is JSON.
pub(crate) fn json<T: DeserializeOwned>(headers: &HeaderMap, body: &mut Body) -> Result<T, InputError> {
    let is_json = |kind: &str| {
        let structured = kind.split_once('/').is_some_and(|(_, sub)| sub.ends_with("+json"));
        kind == "application/json" || structured
    };
    expect(headers, "application/json", is_json)?;
    let bytes = body.read_bytes()?;
    let mut text = serde_json::Deserializer::from_slice(&bytes);
    let value = serde_path_to_error::deserialize(&mut text);
    let value = value.map_err(|e| of_json(e.inner()).at(e.path()))?;
    text.end().map_err(|e| of_json(&e))?;
    Ok(value)
}

fn of_json(e: &serde_json::Error) -> InputError {
    let status = if e.is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
    let (text, place) = (e.to_string(), (e.line(), e.column()));
    let reason = text.strip_suffix(&format!(" at line {} column {}", place.0, place.1)).unwrap_or(&text);
    InputError { place: (place.0 > 0).then_some(place), ..InputError::of(status, reason) }
}

/// A value as JSON: 200, `application/json`. One that can't be written as JSON makes the response a
/// 500, and is logged.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::Json;
/// # // needs the crate serde: it derives what is written
///
/// #[derive(serde::Serialize)]
/// struct User {
///     id: u64,
/// }
/// let mut response = Json(User { id: 7 }).into_response();
/// assert_eq!(response.headers()["content-type"], "application/json");
/// assert_eq!(response.body_mut().read_text().unwrap(), r#"{"id":7}"#);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(
    /// The value.
    pub T,
);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        respond(HeaderValue::from_static("application/json"), &self.0)
    }
}

fn respond(kind: HeaderValue, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => {
            let mut response = Response::new(Body::from(text));
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(e) => {
            log_failure(format_args!("a response can't be written as JSON: {e}"));
            plain(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// An error for clients that are programs: `application/problem+json` (RFC 9457).
///
/// As the error of a handler's `Result` it converts other errors by `?`. The text of an [`InputError`] is sent to the
/// client; an `io::Error`, an [`AnyError`] and similar ones become a bare 500, and are logged with their sources. One which says
/// that the process has no descriptor left is a 503 with `Retry-After`. For any other error there is [`Problem::internal`].
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::{Json, Problem};
/// # // needs the crate serde: it derives what is read
///
/// #[derive(serde::Deserialize)]
/// struct Order {
///     pieces: u32,
/// }
///
/// fn order(mut req: Request) -> Result<impl IntoResponse, Problem> {
///     let order: Order = req.json()?;
///     if order.pieces > 3 {
///         return Err(Problem::new(StatusCode::CONFLICT)
///             .kind("https://example.com/problems/stock")
///             .title("Not enough in stock")
///             .detail(format!("{} were asked for", order.pieces))
///             .with("left", 3));
///     }
///     std::fs::write("/dev/null", "an order")?;
///     Ok(StatusCode::CREATED)
/// }
///
/// let asked = http::Request::post("/").header("content-type", "application/json");
/// let mut response = Router::new().post("/", order).call(asked.body(r#"{"pieces": 4}"#.into()).unwrap());
/// assert_eq!(response.status(), StatusCode::CONFLICT);
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// assert_eq!(
///     response.body_mut().read_text().unwrap(),
///     r#"{"type":"https://example.com/problems/stock","title":"Not enough in stock","status":409,"detail":"4 were asked for","left":3}"#
/// );
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: StatusCode,
    members: Map<String, Value>,
    /// A resource is exhausted for now: the response has `Retry-After`.
    is_temporary: bool,
}

/// Names that RFC 9457 gives a meaning.
const STANDARD: [&str; 5] = ["type", "title", "status", "detail", "instance"];

impl Problem {
    /// A problem with this status, whose title is the status's reason.
    pub fn new(status: StatusCode) -> Problem {
        Problem { status, members: Map::new(), is_temporary: false }
    }

    /// A 500 without details for the client. The error is logged.
    pub fn internal(error: impl Display) -> Problem {
        log_failure(&error);
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// `type`: a URI that identifies this kind of problem. Default: none, which means `about:blank`.
    #[must_use]
    pub fn kind(self, uri: impl Into<Cow<'static, str>>) -> Problem {
        self.set("type", uri)
    }

    /// `title`: the kind of problem, for people. Default: the status's reason.
    #[must_use]
    pub fn title(self, title: impl Into<Cow<'static, str>>) -> Problem {
        self.set("title", title)
    }

    /// `detail`: what happened this time, for people. Default: none.
    #[must_use]
    pub fn detail(self, detail: impl Into<Cow<'static, str>>) -> Problem {
        self.set("detail", detail)
    }

    /// `instance`: a URI that identifies this occurrence. Default: none.
    #[must_use]
    pub fn instance(self, uri: impl Into<Cow<'static, str>>) -> Problem {
        self.set("instance", uri)
    }

    /// Adds a member for programs. One with a name that RFC 9457 reserves, or with a value that can't be written as JSON, is
    /// left out, and logged.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Problem {
        match serde_json::to_value(value) {
            Ok(value) if !STANDARD.contains(&name) => {
                self.members.insert(name.to_owned(), value);
            }
            Ok(_) => error!("the member {name} of a problem is reserved"),
            Err(e) => error!("the member {name} of a problem can't be written as JSON: {e}"),
        }
        self
    }

    fn set(mut self, name: &str, text: impl Into<Cow<'static, str>>) -> Problem {
        self.members.insert(name.to_owned(), Value::String(text.into().into_owned()));
        self
    }
}

/// The standard members come first, in the order of RFC 9457 and of [`error_pages::problem`](crate::error_pages::problem).
struct Members<'a>(&'a Problem);

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Problem { status, members, .. } = self.0;
        let mut object = to.serialize_map(None)?;
        for name in STANDARD {
            match members.get(name) {
                _ if name == "status" => object.serialize_entry(name, &status.as_u16())?,
                Some(value) => object.serialize_entry(name, value)?,
                None if name == "title" => {
                    object.serialize_entry(name, status.canonical_reason().unwrap_or("Unknown"))?;
                }
                None => {}
            }
        }
        let mut own = members.iter().filter(|(name, _)| !STANDARD.contains(&name.as_str()));
        own.try_for_each(|(name, value)| object.serialize_entry(name, value))?;
        object.end()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let kind = HeaderValue::from_static("application/problem+json");
        let mut response = respond(kind, &Members(&self));
        *response.status_mut() = self.status;
        if self.is_temporary {
            response = response.with_header(RETRY_AFTER, 1);
        }
        response
    }
}

impl From<StatusCode> for Problem {
    fn from(status: StatusCode) -> Problem {
        Problem::new(status)
    }
}

impl Problem {
    /// For an error that may be or hold one with a status of its own.
    fn of(e: &(dyn Error + 'static)) -> Problem {
        if is_busy(e) {
            return Problem { is_temporary: true, ..Problem::new(StatusCode::SERVICE_UNAVAILABLE) };
        }
        if let Some(input) = InputError::within(e) {
            return Problem::of_input(input);
        }
        match BodyError::status_of(e) {
            Some(status) => Problem::new(status).detail(e.to_string()),
            None => Problem::internal(Chain(e)),
        }
    }

    fn of_input(e: &InputError) -> Problem {
        let mut problem = Problem::new(e.status());
        if !e.reason().is_empty() {
            problem = problem.detail(e.reason().to_owned());
        }
        if let Some(field) = e.field() {
            problem = problem.with("field", field);
        }
        match (e.line(), e.column()) {
            (Some(line), Some(column)) => problem.with("line", line).with("column", column),
            _ => problem,
        }
    }
}

impl From<InputError> for Problem {
    fn from(e: InputError) -> Problem {
        Problem::of_input(&e)
    }
}

impl From<io::Error> for Problem {
    fn from(e: io::Error) -> Problem {
        Problem::of(&e)
    }
}

impl From<http::Error> for Problem {
    fn from(e: http::Error) -> Problem {
        Problem::internal(e)
    }
}

impl From<serde_json::Error> for Problem {
    fn from(e: serde_json::Error) -> Problem {
        Problem::internal(e)
    }
}

impl From<AnyError> for Problem {
    fn from(e: AnyError) -> Problem {
        Problem::of(&*e.into_inner())
    }
}

impl From<Box<dyn Error + Send + Sync>> for Problem {
    fn from(e: Box<dyn Error + Send + Sync>) -> Problem {
        Problem::of(&*e)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;
    use crate::web::handler::call_deadline::{Deadline, begin_call, end_call};

    #[derive(Debug)]
    struct Outer(io::Error);

    impl Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("can't load the user")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    fn outer() -> Outer {
        Outer(io::Error::other("the disk is full"))
    }

    /// What is logged of an error, and what the client gets.
    fn outcome(problem: impl FnOnce() -> Problem) -> (Option<String>, Response) {
        // Past the deadline of a call the log's text is noted for another line.
        begin_call(&Deadline::after(std::time::Duration::ZERO).unwrap());
        let problem = problem();
        (end_call(), problem.into_response())
    }

    #[test]
    fn an_error_of_any_type_is_logged_with_its_sources() {
        let boxed = || Box::<dyn Error + Send + Sync>::from(outer());
        for (logged, mut response) in [
            outcome(|| AnyError::from(outer()).into()),
            outcome(|| boxed().into()),
            outcome(|| io::Error::other(outer()).into()),
        ] {
            assert_eq!(logged.as_deref(), Some("can't load the user: the disk is full"));
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert!(response.headers().get(RETRY_AFTER).is_none());
            let text = response.body_mut().read_text().unwrap();
            assert_eq!(text, r#"{"title":"Internal Server Error","status":500}"#);
        }
    }

    #[test]
    fn without_a_descriptor_the_client_is_to_retry() {
        for number in [libc::EMFILE, libc::ENFILE] {
            let error = || io::Error::from_raw_os_error(number);
            for (logged, mut response) in
                [outcome(|| AnyError::from(error()).into()), outcome(|| error().into())]
            {
                assert_eq!((logged, response.status()), (None, StatusCode::SERVICE_UNAVAILABLE));
                assert_eq!(response.headers()[RETRY_AFTER], "1");
                let text = response.body_mut().read_text().unwrap();
                assert_eq!(text, r#"{"title":"Service Unavailable","status":503}"#);
            }
        }
    }
}
