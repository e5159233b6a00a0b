//! Limits of a route, and whether its handler reads the body while it arrives.

use std::time::Duration;

use http::Method;

use super::Handler;
use super::routes::{Call, RouteMatch, RouteRules, Routes, Seal, call_by_hand, find_route, run, verify};
use crate::{Request, Response};

/// Limits of one route, for [`limited`]. Where one is None, which is the default, that of the server
/// holds: of its [`Limits`](crate::Limits) and [`Timeouts`](crate::Timeouts).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteLimits {
    /// Bytes of a request body; above it 413. See [`Limits::body_bytes`](crate::Limits::body_bytes).
    pub body_bytes: Option<u64>,
    /// Without a byte of a request body; then 408. See
    /// [`Timeouts::body_stall`](crate::Timeouts::body_stall).
    pub body_stall: Option<Duration>,
    /// Bytes a second of a request body, on average; below it 408, 0 for none. See
    /// [`Limits::body_rate`](crate::Limits::body_rate).
    pub body_rate: Option<u64>,
    /// Without a byte of a response taken by the client; then closed. See
    /// [`Timeouts::response_stall`](crate::Timeouts::response_stall).
    pub response_stall: Option<Duration>,
    /// Bytes a second of a response that a client must take, on average; below it closed, 0 for
    /// none. See [`Limits::response_rate`](crate::Limits::response_rate).
    pub response_rate: Option<u64>,
}

impl RouteLimits {
    /// These, and `outer` where they say nothing.
    pub(super) fn or(self, outer: &RouteLimits) -> RouteLimits {
        RouteLimits {
            body_bytes: self.body_bytes.or(outer.body_bytes),
            body_stall: self.body_stall.or(outer.body_stall),
            body_rate: self.body_rate.or(outer.body_rate),
            response_stall: self.response_stall.or(outer.response_stall),
            response_rate: self.response_rate.or(outer.response_rate),
        }
    }
}

/// The same handler, reading the body of its requests while it arrives. It holds a worker
/// meanwhile, so at most a share of the workers does this at once
/// ([`Limits::streaming_percent`](crate::Limits::streaming_percent)). Any other handler runs when
/// the body is complete.
///
/// Of a router, it holds for all routes.
///
/// ```
/// use heirloom::prelude::*;
///
/// fn upload(mut req: Request) -> std::io::Result<String> {
///     let n = std::io::copy(req.body_mut(), &mut std::io::sink())?;
///     Ok(format!("{n} bytes\n"))
/// }
/// let router = Router::new().put("/files/{name}", streaming(max_body(1 << 30, upload)));
/// # router.check().unwrap();
/// ```
pub fn streaming(handler: impl Handler) -> impl Handler {
    Ruled { handler, rules: RouteRules { streaming: true, ..Default::default() } }
}

/// The same handler, with a request body of at most `bytes`; above that 413. Without this
/// [`Limits::body_bytes`](crate::Limits::body_bytes) holds.
///
/// Of a router, it holds for all routes that don't say otherwise.
///
/// ```
/// use heirloom::prelude::*;
/// let router = Router::new().post("/note", max_body(1_000, |mut req: Request| req.text()));
/// # router.check().unwrap();
/// ```
pub fn max_body(bytes: u64, handler: impl Handler) -> impl Handler {
    limited(RouteLimits { body_bytes: Some(bytes), ..Default::default() }, handler)
}

/// The same handler with limits of its own. Of a router, they hold for all routes that don't say
/// otherwise.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::{RouteLimits, limited};
/// use std::time::Duration;
///
/// // From a device on a bad line: little, and slowly.
/// let patient = RouteLimits {
///     body_bytes: Some(4 << 10),
///     body_stall: Some(Duration::from_secs(300)),
///     body_rate: Some(0),
///     ..Default::default()
/// };
/// let router = Router::new().post("/reading", limited(patient, |mut req: Request| req.text()));
/// # router.check().unwrap();
/// ```
pub fn limited(limits: RouteLimits, handler: impl Handler) -> impl Handler {
    Ruled { handler, rules: RouteRules { limits, streaming: false } }
}

struct Ruled<H> {
    handler: H,
    rules: RouteRules,
}

impl<H: Handler> Handler for Ruled<H> {
    fn call(&self, request: Request) -> Response {
        call_by_hand(self, request)
    }

    fn routes(&self, _: Seal) -> Option<&dyn Routes> {
        Some(self)
    }
}

impl<H: Handler> Routes for Ruled<H> {
    fn find_route(&self, method: &Method, path: &str) -> RouteMatch {
        let mut found = find_route(&self.handler, method, path);
        found.rules.add(&self.rules);
        found
    }

    fn run(&self, request: Request, call: Call<'_>) -> Response {
        run(&self.handler, request, call)
    }

    fn verify(&self) -> Result<(), String> {
        verify(&self.handler)
    }
}
