//! What a client sent, read as a type of the handler's: JSON, forms, queries.

#[cfg(feature = "json")]
pub(crate) mod json;

use std::fmt;
use std::io;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;

use crate::base::log::error;
use crate::web::body::BodyError;
use crate::web::fields::essence;
use crate::web::response::IntoResponse;
use crate::{Body, Response};

/// Why a client's input can't be read as the type that the handler wants: which field, and where.
///
/// Handlers can pass it on by `?`. As a response it is plain text, with this status:
///
/// | error | status |
/// | --- | --- |
/// | malformed or truncated JSON, or bytes after its end; a query that does not match the type | 400 |
/// | `Content-Type` is not JSON, or not that of a form | 415 |
/// | fields that are missing, unknown or of another type | 422 |
/// | a body that is too large, or too slow (streaming routes) | 413, 408 |
/// | a failure of the server while it reads the body; the reason is only logged | 500 |
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

impl IntoResponse for InputError {
    fn into_response(self) -> Response {
        (self.status, format!("{self}\n")).into_response()
    }
}

impl From<io::Error> for InputError {
    fn from(e: io::Error) -> InputError {
        match BodyError::status_of(&e) {
            Some(status) => InputError::new(status, e.to_string()),
            None => {
                error!("500: a request body can't be read: {e}");
                InputError::new(StatusCode::INTERNAL_SERVER_ERROR, "the body can't be read")
            }
        }
    }
}

/// A body that says it is JSON.
#[cfg(feature = "json")]
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

#[cfg(feature = "json")]
fn of_json(e: &serde_json::Error) -> InputError {
    let status = if e.is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
    let (text, place) = (e.to_string(), (e.line(), e.column()));
    let reason = text.strip_suffix(&format!(" at line {} column {}", place.0, place.1)).unwrap_or(&text);
    InputError { place: (place.0 > 0).then_some(place), ..InputError::new(status, reason) }
}

/// A body that says it is a form.
#[cfg(feature = "form")]
pub(crate) fn form<T: DeserializeOwned>(headers: &HeaderMap, body: &mut Body) -> Result<T, InputError> {
    const FORM: &str = "application/x-www-form-urlencoded";
    expect(headers, FORM, |kind| kind == FORM)?;
    pairs(&body.read_bytes()?, StatusCode::UNPROCESSABLE_ENTITY)
}

/// What follows the `?`.
#[cfg(feature = "form")]
pub(crate) fn query<T: DeserializeOwned>(query: Option<&str>) -> Result<T, InputError> {
    pairs(query.unwrap_or_default().as_bytes(), StatusCode::BAD_REQUEST)
}

#[cfg(feature = "form")]
fn pairs<T: DeserializeOwned>(bytes: &[u8], unfit: StatusCode) -> Result<T, InputError> {
    /// What `serde_html_form` says of a field that comes several times and is to be one value.
    const SEVERAL: &str = "unsupported value";
    let pairs = serde_html_form::Deserializer::new(form_urlencoded::parse(bytes));
    serde_path_to_error::deserialize(pairs).map_err(|e| {
        let (reason, field) = (e.inner().to_string(), e.path().to_string());
        let comes = form_urlencoded::parse(bytes).filter(|(name, _)| *name == field).count();
        if reason == SEVERAL && comes > 1 {
            return InputError::new(unfit, format!("duplicate field `{field}`"));
        }
        InputError::new(unfit, reason).at(e.path())
    })
}

/// The media type, without parameters, must be as wanted.
fn expect(headers: &HeaderMap, wanted: &str, fits: impl Fn(&str) -> bool) -> Result<(), InputError> {
    let given = headers.get(CONTENT_TYPE);
    if given.is_some_and(|given| fits(&essence(given.as_bytes()))) {
        return Ok(());
    }
    let reason = format!("the body must be {wanted}, by its Content-Type");
    Err(InputError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason))
}
