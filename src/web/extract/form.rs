//! Forms and queries.

use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;

use super::{InputError, expect};
use crate::Body;

/// Reads a body whose `Content-Type` is that of a form.
pub(crate) fn form<T: DeserializeOwned>(headers: &HeaderMap, body: &mut Body) -> Result<T, InputError> {
    const FORM: &str = "application/x-www-form-urlencoded";
    expect(headers, FORM, |kind| kind == FORM)?;
    pairs(&body.read_bytes()?, StatusCode::UNPROCESSABLE_ENTITY)
}

/// Reads the query.
pub(crate) fn query<T: DeserializeOwned>(query: Option<&str>) -> Result<T, InputError> {
    pairs(query.unwrap_or_default().as_bytes(), StatusCode::BAD_REQUEST)
}

fn pairs<T: DeserializeOwned>(bytes: &[u8], unfit: StatusCode) -> Result<T, InputError> {
    /// The error text of `serde_html_form` for a repeated field that should be one value.
    const SEVERAL: &str = "unsupported value";
    let pairs = serde_html_form::Deserializer::new(form_urlencoded::parse(bytes));
    serde_path_to_error::deserialize(pairs).map_err(|e| {
        let (reason, field) = (e.inner().to_string(), e.path().to_string());
        let comes = form_urlencoded::parse(bytes).filter(|(name, _)| *name == field).count();
        if reason == SEVERAL && comes > 1 {
            return InputError::of(unfit, format!("duplicate field `{field}`"));
        }
        InputError::of(unfit, reason).at(e.path())
    })
}
