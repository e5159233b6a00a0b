//! A function from request to response, and what the server must know of it at the head.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;

use crate::pace::Pace;
use crate::response::IntoResponse;
use crate::{Request, Response};

/// Answers requests. Closures and functions from [`Request`] to anything that is
/// [`IntoResponse`] are handlers; so is [`Router`](crate::Router).
///
/// A handler runs on a worker and may block. One that panics answers 500; the worker lives.
///
/// ```
/// use heirloom::prelude::*;
/// let handler = |req: Request| format!("you asked for {}\n", req.uri().path());
/// let mut response = handler.call(http::Request::get("/x").body(Body::empty()).unwrap());
/// assert_eq!(response.body_mut().text().unwrap(), "you asked for /x\n");
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn call(&self, request: Request) -> Response;

    /// What holds for a request with this head, decided before its body is read. A handler that
    /// wraps another one passes this on.
    fn resolve(&self, head: &Parts) -> Resolved<'_> {
        let _ = head;
        Resolved::default()
    }
}

impl<F, R> Handler for F
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    fn call(&self, request: Request) -> Response {
        self(request).into_response()
    }
}

/// What [`Handler::resolve`] found. The default: the handler itself, without route, parameters or
/// limits of its own.
#[derive(Default)]
pub struct Resolved<'h> {
    /// Who answers; None: the handler that was asked.
    pub(crate) endpoint: Option<&'h dyn Handler>,
    /// Answered at once, without reading the body: 404, 405.
    pub(crate) refusal: Option<Response>,
    /// The path's parameters, and the route's pattern.
    pub(crate) matched: Option<Matched>,
    pub(crate) rules: RouteRules,
    pub(crate) pace: Option<&'h Pace>,
}

impl fmt::Debug for Resolved<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolved").field("matched", &self.matched).field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// The route that matched a request, kept in the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Matched {
    pub(crate) pattern: Arc<str>,
    pub(crate) params: Vec<(String, String)>,
}

/// What one route may have otherwise than its server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteRules {
    /// Bytes of a request body; above it 413. None: [`Limits::body_bytes`](crate::Limits).
    pub body_bytes: Option<u64>,
    /// Whether the handler reads the body while it arrives, holding a worker meanwhile (at most a
    /// share of them, [`Limits::streaming_percent`](crate::Limits)). Default: no.
    pub streaming: bool,
}
