//! Wrappers that many programs need, to be put around handlers with
//! [`Handler::wrap`](crate::Handler::wrap). How to write one's own:
//! [`Wrapper`](crate::Wrapper).
//!
//! | wrapper | what it does |
//! | --- | --- |
//! | [`AccessLog`] | a line in the log for each response, when its end is out |
//! | [`RequestIds`] | gives each request a name, which its response tells |
//! | [`ServerTiming`] | tells the client how long the handler took |
//! | [`BasicAuth`] | user and password, or 401 |
//! | [`Cors`] | lets pages of other origins in |
#![cfg_attr(feature = "gzip", doc = "| [`Gzip`] | compresses responses for who accepts it |")]
//!
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
//! let inside = Router::new().get("/inside/report", |_: Request| "secret\n");
//! let router = Router::new()
//!     .get("/", |_: Request| "hello\n")
//!     .any("/inside/{*rest}", inside.wrap(BasicAuth::user("inside", "admin", "not this one")));
//! assert_eq!(router.check(), Ok(()));
//! ```
//!
//! - `{*rest}` may be empty: the route is `/inside/` and all beneath it, however the client spells it
//!   ([`RequestExt::path`](crate::RequestExt::path)). `/inside` itself is another path: it goes to the fallback. `ServeDir` has
//!   only a redirect to `/inside/` for it, which shows that there is such a directory.
//! - [`Router::any`](crate::Router::any) guards every method. With `get` the others are 405, for the path decides first.
//! - A wrapper that looks at the path itself, around several routes, looks at `request.path()`.
//! - A guard stands before a path, not before a file. What else leads to the file (a link, a file system that
//!   ignores the case of names, `report.gz` beside `report`) is not guarded. The surest way is a directory of its own for
//!   what is protected, with its own `ServeDir` behind the guard.

mod access_log;
mod basic_auth;
mod cors;
#[cfg(feature = "gzip")]
mod gzip;
mod request_id;
mod server_timing;

pub use access_log::{Access, AccessLog};
pub use basic_auth::{BasicAuth, BasicUser, same_secret};
pub use cors::Cors;
#[cfg(feature = "gzip")]
pub use gzip::Gzip;
pub use request_id::{RequestId, RequestIds};
pub use server_timing::ServerTiming;

/// `GET /path`, with header fields from lines `name: value`, and shown answers: for the tests here.
#[cfg(test)]
mod testing {
    use crate::{Body, Handler, Request, Response};

    pub(super) fn request(line: &str, fields: &[(&str, &str)]) -> Request {
        let (method, target) = line.split_once(' ').unwrap();
        let mut builder = http::Request::builder().method(method).uri(target);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(Body::empty()).unwrap()
    }

    pub(super) fn ask(handler: &impl Handler, line: &str, fields: &[(&str, &str)]) -> Response {
        handler.call(request(line, fields))
    }

    /// All values of a field, in order.
    pub(super) fn field(response: &Response, name: &str) -> String {
        let values = response.headers().get_all(name).iter().map(|value| value.to_str().unwrap());
        values.collect::<Vec<_>>().join(" | ")
    }
}
