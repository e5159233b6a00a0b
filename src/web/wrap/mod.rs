//! Wrappers that many programs need, for [`Handler::wrap`](crate::Handler::wrap). [`Wrapper`](crate::Wrapper) shows how to
//! write your own.
//!
//! | wrapper | what it does |
//! | --- | --- |
//! | [`AccessLog`] | logs a line for each response, when it has ended |
//! | [`RequestIds`] | gives each request an id, which its response repeats |
//! | [`ServerTiming`] | reports to the client how long the handler took |
//! | [`BasicAuth`] | requires user and password, otherwise 401 |
//! | [`RateLimit`] | refuses requests beyond a rate with 429, by client or by another key |
//! | [`Cors`] | allows pages of other origins |
//! | [`Csrf`] | refuses what pages of other origins make browsers send |
//! | [`HttpsRedirect`] | redirects plain HTTP to https |
//! | [`SecurityHeaders`] | adds header fields with which browsers are stricter |
#![cfg_attr(feature = "gzip", doc = "| [`Gzip`] | compresses responses for clients that accept gzip |")]
//!
//! [`BasicAuth`], [`RateLimit`], [`Csrf`], [`HttpsRedirect`] and the preflights of [`Cors`] are [guards](crate::Handler::guard): they decide
//! before a body is received.
//! The last one is outermost. In this order the log has the bytes that were sent and the status of
//! every request, refused ones included, and a preflight needs no password:
//!
//! ```
//! use heirloom::prelude::*;
//! use heirloom::wrap::{AccessLog, BasicAuth, Cors, RequestIds, ServerTiming};
//!
//! let handler = Router::new()
//!     .get("/", |_: Request| "hello\n")
//!     .wrap(BasicAuth::user("the back office", "admin", "not this one"))
//!     .wrap(Cors::origins(["https://app.example"]))
//!     .wrap(ServerTiming::new("handler"))
//!     .wrap(RequestIds::new())
//!     .wrap(AccessLog::new());
//! assert_eq!(handler.check(), Ok(()));
//! ```
//!
//! # Around some routes
//!
//! A wrapper around one handler guards the paths of that handler's route, and nothing else:
//!
//! ```
//! use heirloom::prelude::*;
//! use heirloom::wrap::BasicAuth;
//!
//! let inside = Router::new().get("/report", |_: Request| "secret\n");
//! let router = Router::new()
//!     .get("/", |_: Request| "hello\n")
//!     .nest("/inside", inside.wrap(BasicAuth::user("inside", "admin", "not this one")));
//! assert_eq!(router.check(), Ok(()));
//! ```
//!
//! - [`Router::nest`](crate::Router::nest) gives the wrapped router `/inside`, `/inside/` and all paths below, with every
//!   method, however the client spells them ([`RequestExt::path`](crate::RequestExt::path)). A more precise route of the
//!   router around it, such as `/inside/logo.png`, is not guarded.
//! - A handler at `/inside/{*rest}` instead guards `/inside/` and all paths below it: `{*rest}` may be empty. `/inside` itself
//!   is another path then. [`Router::any`](crate::Router::any) guards every method. With `get` the others are 405, because
//!   the path decides first.
//! - A wrapper around several routes that checks the path itself must use `request.path()`.
//! - A guard protects a path, not a file. Other ways to the file (a link, a case-insensitive file system, `report.gz` beside
//!   `report`) are not guarded. Keep protected files in a directory of their own, with a `ServeDir` of its own behind the
//!   guard.

mod access_log;
mod basic_auth;
mod cors;
mod csrf;
#[cfg(feature = "gzip")]
mod gzip;
mod https_redirect;
mod rate_limit;
mod request_id;
mod security_headers;
mod server_timing;
mod trace_context;

pub(crate) use access_log::Entries;
pub use access_log::{Access, AccessFormat, AccessLog};
pub use basic_auth::{BasicAuth, BasicUser, same_secret};
pub use cors::Cors;
pub use csrf::Csrf;
#[cfg(feature = "gzip")]
pub use gzip::Gzip;
pub use https_redirect::HttpsRedirect;
pub use rate_limit::RateLimit;
pub use request_id::{RequestId, RequestIds};
pub use security_headers::SecurityHeaders;
pub use server_timing::ServerTiming;
pub use trace_context::TraceContext;

/// `GET /path`, with header fields from lines `name: value`, and shown answers: for the tests here.
#[cfg(test)]
pub(crate) mod testing {
    use crate::{Body, Handler, Request, Response};

    pub(crate) fn request(line: &str, fields: &[(&str, &str)]) -> Request {
        let (method, target) = line.split_once(' ').unwrap();
        let mut builder = http::Request::builder().method(method).uri(target);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(Body::empty()).unwrap()
    }

    pub(crate) fn ask(handler: &impl Handler, line: &str, fields: &[(&str, &str)]) -> Response {
        handler.call(request(line, fields))
    }

    /// All values of a field, in order.
    pub(crate) fn field(response: &Response, name: &str) -> String {
        let values = response.headers().get_all(name).iter().map(|value| value.to_str().unwrap());
        values.collect::<Vec<_>>().join(" | ")
    }
}
