//! Limits of a route, and whether its handler reads the body while it arrives.

use std::time::Duration;

use http::Method;

use super::call_deadline::Deadline;
use super::routes::{Call, GuardWalk, RouteMatch, RouteRules, Routes, Seal, add_route, call_by_hand, verify};
use super::{EarlyResponse, Handler, literal_paths};
use crate::base::limits::within_reach;
use crate::{Request, Response};

/// Limits of one route, for [`limited`]. Anything not set here falls back to the server's [`Limits`](crate::Limits) and
/// [`Timeouts`](crate::Timeouts). `None` is no limit, whatever the server's limit is. A stall or a rate of zero, which would
/// refuse every client, is an error of [`Server::serve`](crate::Server::serve).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct RouteLimits {
    pub(crate) body_bytes: Option<u64>,
    pub(crate) body_stall: Option<Duration>,
    pub(crate) body_rate: Option<Option<u64>>,
    pub(crate) response_stall: Option<Duration>,
    pub(crate) response_rate: Option<Option<u64>>,
    pub(crate) deadline: Option<Option<Duration>>,
}

impl RouteLimits {
    /// The limits of the server.
    pub const fn new() -> RouteLimits {
        RouteLimits {
            body_bytes: None,
            body_stall: None,
            body_rate: None,
            response_stall: None,
            response_rate: None,
            deadline: None,
        }
    }

    /// Bytes of a request body; above it 413. 0: no bodies. See [`Limits::body_bytes`](crate::Limits::body_bytes).
    pub fn body_bytes(mut self, bytes: u64) -> RouteLimits {
        self.body_bytes = Some(bytes);
        self
    }

    /// Without a byte of a request body; then 408. See [`Timeouts::body_stall`](crate::Timeouts::body_stall).
    pub fn body_stall(mut self, time: impl Into<Option<Duration>>) -> RouteLimits {
        self.body_stall = Some(within_reach(time));
        self
    }

    /// Bytes a second of a request body that a client must send on average; below it 408. See
    /// [`Limits::body_rate`](crate::Limits::body_rate).
    pub fn body_rate(mut self, bytes: impl Into<Option<u64>>) -> RouteLimits {
        self.body_rate = Some(bytes.into());
        self
    }

    /// Without the client reading a byte of a response; then the connection is closed. See
    /// [`Timeouts::response_stall`](crate::Timeouts::response_stall).
    pub fn response_stall(mut self, time: impl Into<Option<Duration>>) -> RouteLimits {
        self.response_stall = Some(within_reach(time));
        self
    }

    /// Bytes a second of a response that a client must read on average; below it the connection is closed. See
    /// [`Limits::response_rate`](crate::Limits::response_rate).
    pub fn response_rate(mut self, bytes: impl Into<Option<u64>>) -> RouteLimits {
        self.response_rate = Some(bytes.into());
        self
    }

    /// How long the handler may take until it returns its response; then 503. See [`deadline`](crate::deadline()). Default: no
    /// deadline.
    pub fn deadline(mut self, time: impl Into<Option<Duration>>) -> RouteLimits {
        self.deadline = Some(time.into());
        self
    }

    /// These, and `outer` where they are not set.
    pub(super) fn or(self, outer: &RouteLimits) -> RouteLimits {
        RouteLimits {
            body_bytes: self.body_bytes.or(outer.body_bytes),
            body_stall: self.body_stall.or(outer.body_stall),
            body_rate: self.body_rate.or(outer.body_rate),
            response_stall: self.response_stall.or(outer.response_stall),
            response_rate: self.response_rate.or(outer.response_rate),
            deadline: self.deadline.or(outer.deadline),
        }
    }

    /// # Errors
    /// A bound that would refuse every client.
    fn check(&self) -> Result<(), String> {
        let stalls = [
            ("body_stall", self.body_stall),
            ("response_stall", self.response_stall),
            ("deadline", self.deadline.flatten()),
        ];
        let rates = [("body_rate", self.body_rate), ("response_rate", self.response_rate)];
        if let Some((name, _)) = stalls.iter().find(|(_, time)| *time == Some(Duration::ZERO)) {
            return Err(format!("RouteLimits::{name} is zero: it would always have run out; None is never"));
        }
        match rates.iter().find(|(_, rate)| *rate == Some(Some(0))) {
            Some((name, _)) => Err(format!("RouteLimits::{name} is 0: None is no limit")),
            None => Ok(()),
        }
    }
}

/// The same handler, called before the request body is complete: it reads the body while it arrives. It holds a worker
/// meanwhile, so only a share of the workers may do this at once
/// ([`Limits::streaming_percent`](crate::Limits::streaming_percent)). Any other handler runs when the body is complete.
///
/// Around a router, it applies to all routes.
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
/// [`Limits::body_bytes`](crate::Limits::body_bytes) applies.
///
/// Around a router, it applies to all routes that have no such limit.
///
/// ```
/// use heirloom::prelude::*;
/// let router = Router::new().post("/note", max_body(1_000, |mut req: Request| req.text()));
/// let status = |len| router.call(http::Request::post("/note").body("x".repeat(len).into()).unwrap()).status();
/// assert_eq!((status(1_000), status(1_001)), (StatusCode::OK, StatusCode::PAYLOAD_TOO_LARGE));
/// ```
pub fn max_body(bytes: u64, handler: impl Handler) -> impl Handler {
    limited(RouteLimits::new().body_bytes(bytes), handler)
}

/// The same handler, which must return its response within `time`; then the client gets a 503 and `Connection: close`, and the
/// handler's response is dropped when it comes. Around a router, it applies to all routes that set no deadline.
///
/// The time begins when the handler is called: with the complete body, or on a [`streaming`] route with the first byte of it. A
/// response that is sent for long, such as a file or an event stream, has other limits.
///
/// **The handler is not stopped**: blocking code can't be. It reads its deadline from the request
/// ([`RequestExt::deadline`](crate::RequestExt::deadline),
/// [`is_past_deadline`](crate::RequestExt::is_past_deadline)), and should pass it on as the timeout of what it waits for, such as a
/// query or a client. On a streaming route, reads of the body fail from then on. Until it returns it keeps its worker, so the
/// pool is short of one: the log has a warning at the deadline, each minute after it, and at the end; the metrics
/// `heirloom_handlers_past_deadline` and `heirloom_handler_deadlines_passed_total` count them, and `heirloomctl handlers` lists
/// them. A drain waits for it as for any handler.
///
/// The 503 has the service's page ([`Server::error_pages`](crate::Server::error_pages)), and no header fields of wrappers,
/// which run on the worker. Those outside of the deadline see a 503 when the handler has returned.
///
/// ```
/// use heirloom::prelude::*;
/// use std::time::{Duration, Instant};
///
/// fn search(req: Request) -> String {
///     let mut found = 0;
///     for n in 0..100_000_u64 {
///         // Not at each step: it reads a clock.
///         if n % 1000 == 0 && req.is_past_deadline() {
///             return String::new(); // the client has its 503 already
///         }
///         found += u64::from(n % 7 == 0);
///     }
///     let left = req.deadline().map(|at| at.saturating_duration_since(Instant::now()));
///     format!("{found}, and {} to spare\n", if left.is_some() { "time" } else { "eternity" })
/// }
/// let router = Router::new().get("/search", deadline(Duration::from_secs(60), search));
/// let mut response = router.call(http::Request::get("/search").body(Body::empty()).unwrap());
/// assert_eq!(response.body_mut().read_text().unwrap(), "14286, and time to spare\n");
/// ```
pub fn deadline(time: Duration, handler: impl Handler) -> impl Handler {
    limited(RouteLimits::new().deadline(time), handler)
}

/// The same handler with these limits. Around a router, they apply to all routes that do not set the same limit.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::{RouteLimits, limited};
/// use std::time::Duration;
///
/// // A device on a bad line sends little data, slowly.
/// let patient = RouteLimits::new().body_bytes(4 << 10).body_stall(Duration::from_secs(300)).body_rate(None);
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

    fn guard_on_route(&self, request: &mut Request, walk: &mut GuardWalk<'_>) -> Result<(), EarlyResponse> {
        self.handler.guard_on_route(request, walk)
    }

    fn call_on_route(&self, call: Call<'_>) -> Response {
        if self.rules.limits.deadline.is_none() {
            return self.handler.call_on_route(call);
        }
        let deadline = call.request().and_then(Deadline::of).cloned();
        let response = self.handler.call_on_route(call);
        match deadline {
            Some(deadline) => deadline.checked(response),
            None => response,
        }
    }
}

impl<H: Handler> Routes for Ruled<H> {
    fn find_route(&self, method: &Method, path: &str, found: &mut RouteMatch) {
        add_route(&self.handler, method, path, found);
        found.add_rules(&self.rules);
    }

    fn literal_paths(&self, each: &mut dyn FnMut(&str)) {
        literal_paths(&self.handler, each);
    }

    fn verify(&self) -> Result<(), String> {
        match (self.rules.limits.check(), verify(&self.handler)) {
            (Err(limits), Err(handler)) => Err(format!("{limits}; {handler}")),
            (limits, handler) => limits.and(handler),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RequestExt;

    #[test]
    fn the_body_of_a_request_without_a_server_is_limited() {
        let routed = |handler| {
            let inner = crate::Router::new().post("/nested", max_body(20, streaming(handler)));
            crate::Router::new().nest("/deep", inner).post("/own", handler)
        };
        let router = max_body(10, routed(|mut req: Request| req.text()));
        let sent = |path: &str, len: usize, is_known: bool| {
            let text = "x".repeat(len);
            let body = match is_known {
                true => crate::Body::from(text),
                false => crate::Body::from_reader(std::io::Cursor::new(text)),
            };
            router.call(http::Request::post(path).body(body).unwrap()).status().as_u16()
        };
        for is_known in [true, false] {
            for (path, limit) in [("/own", 10), ("/deep/nested", 20)] {
                assert_eq!(sent(path, limit, is_known), 200, "{path} {is_known}");
                assert_eq!(sent(path, limit + 1, is_known), 413, "{path} {is_known}");
            }
            assert_eq!(sent("/nothing", 11, is_known), 404);
        }
    }

    #[test]
    fn zeros_that_refuse_every_client_are_errors() {
        let limits = RouteLimits::new;
        let cases = [
            (limits().body_stall(Duration::ZERO), Some("RouteLimits::body_stall is zero: it would")),
            (limits().response_stall(Duration::ZERO), Some("RouteLimits::response_stall is zero: it would")),
            (limits().deadline(Duration::ZERO), Some("RouteLimits::deadline is zero: it would")),
            (limits().body_rate(0), Some("RouteLimits::body_rate is 0: None is no limit")),
            (limits().response_rate(0), Some("RouteLimits::response_rate is 0: None is no limit")),
            (limits().body_rate(None).response_rate(None).body_stall(None).response_stall(None), None),
            (limits().body_bytes(0).deadline(None), None),
        ];
        for (limits, why) in cases {
            let checked = limited(limits, |_: Request| ()).check();
            assert_eq!(checked.is_err(), why.is_some(), "{checked:?}");
            assert!(why.is_none_or(|why| checked.unwrap_err().starts_with(why)));
        }
        let routed = crate::Router::new().post("/a", limited(limits().body_rate(0), |_: Request| ()));
        assert_eq!(routed.check(), Err("POST /a: RouteLimits::body_rate is 0: None is no limit".to_owned()));
    }
}
