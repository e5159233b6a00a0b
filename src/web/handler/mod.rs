//! A function from request to response, and what the server must know of it at the head.

mod wrapped;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;

use crate::net::scheduler::latency::HandlerLatency;
use crate::web::response::IntoResponse;
use crate::{Request, Response};

pub(crate) use wrapped::collecting_panics;
pub use wrapped::{Next, Wrapped, Wrapper};

/// Answers requests. Closures and functions from [`Request`] to anything that is
/// [`IntoResponse`] are handlers; so is [`Router`](crate::Router).
///
/// A handler runs on a worker and may block. One that panics answers 500; the worker lives.
///
/// ```
/// use heirloom::prelude::*;
/// let handler = |req: Request| format!("you asked for {}\n", req.path());
/// let mut response = Handler::call(&handler, http::Request::get("/x").body(Body::empty()).unwrap());
/// assert_eq!(response.body_mut().read_text().unwrap(), "you asked for /x\n");
/// ```
///
/// [`Handler::wrap`] puts something around it that sees each request and each response.
///
/// A test needs no socket: it makes a request by hand, and looks at the response. A [`Router`](crate::Router)
/// is a handler, too. Such a request has no peer, comes from a first generation, and never drains.
///
/// ```
/// use heirloom::prelude::*;
///
/// fn routes() -> Router {
///     Router::new().post("/users/{id}", |mut req: Request| -> std::io::Result<String> {
///         let text = req.text()?;
///         Ok(format!("{} says {text}\n", req.param("id").unwrap_or_default()))
///     })
/// }
///
/// let request = http::Request::post("/users/7").header("content-type", "text/plain").body(Body::from("hello"));
/// let mut response = routes().call(request.unwrap());
/// assert_eq!(response.status(), StatusCode::OK);
/// assert_eq!(response.body_mut().read_text().unwrap(), "7 says hello\n");
/// let request = http::Request::get("/users/7").body(Body::empty());
/// assert_eq!(routes().call(request.unwrap()).status(), StatusCode::METHOD_NOT_ALLOWED);
/// ```
///
/// Limits, timeouts and what is on the wire are a server's: for those see [`Server::spawn`](crate::Server::spawn).
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn call(&self, request: Request) -> Response;

    /// What holds for a request with this head, decided before its body is read. A handler that
    /// stands for another one passes this on, [`Resolved::wrapped`] if it has something to add.
    fn resolve(&self, head: &Parts) -> Resolved<'_> {
        let _ = head;
        Resolved::default()
    }

    /// Answers a request that is refused without its handler, for what [`Handler::resolve`] has
    /// found or because its body is too large: the body is empty, `refusal` is the answer.
    /// Default: that. A handler that stands for another one passes this on.
    fn refuse(&self, request: Request, refusal: Response) -> Response {
        let _ = request;
        refusal
    }

    /// Whether the handler is put together as it was meant; asked once, before serving starts. A
    /// handler that stands for another one passes this on. Default: it is.
    ///
    /// # Errors
    /// Every mistake that was found, as text for whoever wrote the program.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// The same handler with `wrapper` around it. The last one is the outermost: it sees requests
    /// first and responses last.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// let handler = Router::new()
    ///     .get("/", |_: Request| "hello\n")
    ///     .wrap(|request: Request, next: Next| next.call(request).with_header("x-version", 3));
    /// assert_eq!(handler.check(), Ok(()));
    /// ```
    fn wrap<W: Wrapper>(self, wrapper: W) -> Wrapped<Self, W>
    where
        Self: Sized,
    {
        Wrapped { handler: self, wrapper }
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

impl<H: Handler + ?Sized> Handler for Arc<H> {
    fn call(&self, request: Request) -> Response {
        (**self).call(request)
    }

    fn resolve(&self, head: &Parts) -> Resolved<'_> {
        (**self).resolve(head)
    }

    fn refuse(&self, request: Request, refusal: Response) -> Response {
        (**self).refuse(request, refusal)
    }

    fn check(&self) -> Result<(), String> {
        (**self).check()
    }
}

impl Handler for Box<dyn Handler> {
    fn call(&self, request: Request) -> Response {
        (**self).call(request)
    }

    fn resolve(&self, head: &Parts) -> Resolved<'_> {
        (**self).resolve(head)
    }

    fn refuse(&self, request: Request, refusal: Response) -> Response {
        (**self).refuse(request, refusal)
    }

    fn check(&self) -> Result<(), String> {
        (**self).check()
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
    /// The route that matched. Borrowed: a count shared by all workers would be contended.
    pub(crate) pattern: Option<&'h Arc<Pattern>>,
    /// Of the pattern's parameters, decoded.
    pub(crate) values: Vec<String>,
    pub(crate) rules: RouteRules,
    pub(crate) latency: Option<&'h HandlerLatency>,
}

impl Resolved<'_> {
    /// The same, but the handler that was asked is the one to call ([`Handler::refuse`] for a
    /// request that is refused), so that every response passes through it.
    #[must_use]
    pub fn wrapped(self) -> Self {
        Resolved { endpoint: None, ..self }
    }

    /// Tells the request which route matched it. Without parameters the path says it already.
    pub(crate) fn attach(&mut self, request: &mut Request) {
        let Some(pattern) = self.pattern else { return };
        if self.values.is_empty() && pattern.text == request.uri().path() {
            request.body_mut().set_routed();
        } else {
            let matched = Matched { pattern: Arc::clone(pattern), values: std::mem::take(&mut self.values) };
            request.extensions_mut().insert(matched);
        }
    }
}

impl fmt::Debug for Resolved<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pattern = self.pattern.map(|p| &p.text);
        f.debug_struct("Resolved")
            .field("pattern", &pattern)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

/// The route that matched a request, kept in the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Matched {
    pub(crate) pattern: Arc<Pattern>,
    pub(crate) values: Vec<String>,
}

/// A route's pattern, and the names of its parameters in order.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) text: String,
    pub(crate) names: Vec<String>,
}

/// What one route may have otherwise than its server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteRules {
    pub(crate) limits: RouteLimits,
    /// Whether the handler reads the body while it arrives, holding a worker meanwhile.
    pub(crate) streaming: bool,
}

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
    fn or(self, outer: &RouteLimits) -> RouteLimits {
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

/// A function of some state and a request, as a handler. The state is made once and shared by all
/// requests: no globals. What changes in it needs a lock or an atomic, as it is seen by all workers
/// at once.
///
/// It is short for a closure that captures an [`Arc`]; several such closures can share one:
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::with_state;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// struct Shop {
///     sold: AtomicU64,
/// }
///
/// fn sell(shop: &Shop, _: Request) -> String {
///     format!("{} sold\n", shop.sold.fetch_add(1, Ordering::Relaxed) + 1)
/// }
///
/// let shop = Arc::new(Shop { sold: AtomicU64::new(0) });
/// let router = Router::new().post("/sales", with_state(&shop, sell)).get("/sales", {
///     let shop = Arc::clone(&shop);
///     move |_: Request| format!("{} sold\n", shop.sold.load(Ordering::Relaxed))
/// });
/// let mut response = router.call(http::Request::post("/sales").body(Body::empty()).unwrap());
/// assert_eq!(response.body_mut().read_text().unwrap(), "1 sold\n");
/// ```
pub fn with_state<S, F, R>(state: &Arc<S>, handler: F) -> impl Handler + use<S, F, R>
where
    S: Send + Sync + ?Sized + 'static,
    F: Fn(&S, Request) -> R + Send + Sync + 'static,
    R: IntoResponse + 'static,
{
    let state = Arc::clone(state);
    move |request: Request| handler(&state, request)
}

struct Ruled<H> {
    handler: H,
    rules: RouteRules,
}

impl<H: Handler> Handler for Ruled<H> {
    fn call(&self, request: Request) -> Response {
        self.handler.call(request)
    }

    fn resolve(&self, head: &Parts) -> Resolved<'_> {
        let mut found = self.handler.resolve(head);
        found.rules.limits = found.rules.limits.or(&self.rules.limits);
        found.rules.streaming |= self.rules.streaming;
        found
    }

    fn refuse(&self, request: Request, refusal: Response) -> Response {
        self.handler.refuse(request, refusal)
    }

    fn check(&self) -> Result<(), String> {
        self.handler.check()
    }
}
