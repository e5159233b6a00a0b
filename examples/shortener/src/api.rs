//! The JSON API. Every error is a problem (RFC 9457).

use heirloom::prelude::*;
use heirloom::{Json, Problem};
use serde::{Deserialize, Serialize};

use crate::link::{Alias, Link, Target};
use crate::store::{Failure, Store};

/// What is sent to make a link. What is not fit is refused as it is read, by its field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    url: Target,
    alias: Option<Alias>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    before: Option<i64>,
    most: Option<u32>,
}

#[derive(Serialize)]
struct Page {
    links: Vec<Link>,
    /// The start of the next page; null if this was the last.
    next: Option<String>,
}

/// `POST /api/links`
pub fn create(store: &Store, mut req: Request) -> Result<impl IntoResponse + use<>, Problem> {
    let new: New = req.json()?;
    let link = store.create(new.alias.as_ref(), &new.url)?;
    let location = format!("/api/links/{}", link.alias);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(link)))
}

/// `GET /api/links?before=ID&most=N`
pub fn list(store: &Store, req: Request) -> Result<impl IntoResponse + use<>, Problem> {
    let wanted: Wanted = req.query()?;
    let most = wanted.most.unwrap_or(100).clamp(1, 1_000);
    let links = store.newest(wanted.before, most)?;
    let last = links.last().filter(|_| links.len() == most as usize);
    let next = last.map(|link| format!("/api/links?before={}&most={most}", link.id));
    Ok(Json(Page { links, next }))
}

/// `GET /api/links/{alias}`
pub fn read(store: &Store, req: Request) -> Result<Json<Link>, Problem> {
    let link = store.find(req.param("alias").unwrap_or_default())?;
    link.map(Json).ok_or(StatusCode::NOT_FOUND.into())
}

/// `DELETE /api/links/{alias}`
pub fn delete(store: &Store, req: Request) -> Result<StatusCode, Problem> {
    match store.delete(req.param("alias").unwrap_or_default())? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(StatusCode::NOT_FOUND.into()),
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        let status = failure.status();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            return Problem::internal(failure);
        }
        let problem = Problem::new(status).detail(failure.to_string());
        if let Failure::Taken = failure { problem.with("field", "alias") } else { problem }
    }
}

impl Failure {
    pub fn status(&self) -> StatusCode {
        match self {
            Failure::Taken => StatusCode::CONFLICT,
            Failure::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Failure::Full => StatusCode::INSUFFICIENT_STORAGE,
            Failure::Other(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
