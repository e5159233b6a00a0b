//! A function from request to response.

pub(crate) mod call_deadline;
mod limits;
mod route;
mod routes;
mod values;
mod wrapped;

use std::sync::Arc;

use crate::web::response::IntoResponse;
use crate::{Request, Response};

pub use limits::{RouteLimits, deadline, limited, max_body, streaming};
pub(crate) use route::{Pattern, Route, RoutePlace, SharedPattern};
#[cfg(any(test, fuzzing))]
pub(crate) use routes::RouteRules;
pub(crate) use routes::{
    Call, GuardWalk, Matched, Panics, RouteMatch, Routes, Seal, add_route, answer, call_by_hand, find_route,
    verify,
};
pub(crate) use values::Values;
pub use wrapped::{EarlyResponse, Guard, Next, Wrapped, Wrapper};

/// Answers requests. Closures and functions from [`Request`] to anything that is
/// [`IntoResponse`] are handlers; so is [`Router`](crate::Router).
///
/// A handler runs on a worker and may block. If it panics, the client gets a 500 and the worker continues.
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
/// is a handler too. Such a request has no peer, comes from a first generation, and never drains.
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
/// The limit of a route ([`max_body`]) applies to such a request, too: 413. The server's
/// [`Limits::body_bytes`](crate::Limits::body_bytes), other limits, timeouts and what is on the wire **don't, because there is
/// no server**: for those see [`Server::spawn`](crate::Server::spawn).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not a function from `Request` to a type that implements `IntoResponse`",
    note = "a handler is a `Router`, or a function or closure `Fn(Request) -> impl IntoResponse` that is `Send + Sync + 'static`",
    note = "a closure must name the type of a parameter that it uses: `|req: Request| ...`",
    note = "a handler is a blocking function, not an `async` one; a function that has a state too is wrapped in `with_state`"
)]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn call(&self, request: Request) -> Response;

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

    /// The same handler with a guard around it: a function that sees the head of each request before its body is received,
    /// and before all wrappers. It returns `Ok`, and the request goes on, or an error of any type that is [`IntoResponse`],
    /// which is the response then: the client's body is not received, and a client that waits for `100 Continue` before
    /// it sends one gets the response instead. [`Wrapper::guard`] has the details.
    ///
    /// ```
    /// use heirloom::prelude::*;
    ///
    /// fn members_only(req: &mut Request) -> Result<(), EarlyResponse> {
    ///     let word = req.headers().get("x-word").ok_or(StatusCode::UNAUTHORIZED)?;
    ///     if word == "friend" { Ok(()) } else { Err(StatusCode::FORBIDDEN.into()) }
    /// }
    ///
    /// let router = Router::new().post("/upload", max_body(100 << 20, |mut req: Request| req.text())).guard(members_only);
    /// let response = router.call(http::Request::post("/upload").body("a stranger's".into()).unwrap());
    /// assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    /// ```
    fn guard<F>(self, guard: F) -> Wrapped<Self, Guard<F>>
    where
        Self: Sized,
        F: Fn(&mut Request) -> Result<(), EarlyResponse> + Send + Sync + 'static,
    {
        self.wrap(Guard(guard))
    }

    /// Checks the configuration of the crate's own handlers below this one, such as the patterns of a
    /// [`Router`](crate::Router). A server does the same before it serves. Provided: implementing it has no effect on
    /// a server.
    ///
    /// # Errors
    /// All configuration errors, in one line.
    fn check(&self) -> Result<(), String> {
        self.routes(Seal::new()).map_or(Ok(()), Routes::verify)
    }

    #[doc(hidden)]
    fn routes(&self, _: Seal) -> Option<&dyn Routes> {
        None
    }

    /// Asks the guards on the request's route, the outermost first, until one answers.
    #[doc(hidden)]
    fn guard_on_route(&self, _: &mut Request, _: &mut GuardWalk<'_>) -> Result<(), EarlyResponse> {
        Ok(())
    }

    /// Answers a request whose route was found before.
    #[doc(hidden)]
    fn call_on_route(&self, mut call: Call<'_>) -> Response {
        match call.take_request() {
            Some(request) => self.call(request),
            None => call.refused(),
        }
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

/// For a handler of several routes, and for `Arc<dyn Handler>`, if a program chooses the handler at run time.
impl<H: Handler + ?Sized> Handler for Arc<H> {
    fn call(&self, request: Request) -> Response {
        (**self).call(request)
    }

    fn routes(&self, seal: Seal) -> Option<&dyn Routes> {
        (**self).routes(seal)
    }

    fn guard_on_route(&self, request: &mut Request, walk: &mut GuardWalk<'_>) -> Result<(), EarlyResponse> {
        (**self).guard_on_route(request, walk)
    }

    fn call_on_route(&self, call: Call<'_>) -> Response {
        (**self).call_on_route(call)
    }
}

/// A handler from a function of a state and a request. The state is created once and shared by all requests. What changes in
/// it needs a lock or an atomic, because all workers use it at once.
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
///
/// A closure must name the type of the state, `|shop: &Shop, _| ...`: without it, the compiler says that an implementation of
/// `StateFn` is not general enough. A response that outlives its handler, such as a stream, needs an `Arc` of its own: see
/// [`with_arc`].
pub fn with_state<S, F>(state: &Arc<S>, handler: F) -> impl Handler + use<S, F>
where
    S: Send + Sync + ?Sized + 'static,
    F: for<'s> StateFn<'s, S> + Send + Sync + 'static,
{
    let state = Arc::clone(state);
    move |request: Request| handler(&state, request).into_response()
}

/// As [`with_state`], for a function that gets the [`Arc`]: the response of a stream goes on when its handler has returned, and
/// takes the state along.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::sse::{self, Event};
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// struct Shop {
///     name: String,
/// }
///
/// fn news(shop: Arc<Shop>, req: Request) -> Response {
///     sse::response(&req, move |events| {
///         while !events.wait(Duration::from_secs(1))?.is_draining() {
///             events.send(&Event::data(&shop.name))?;
///         }
///         Ok(())
///     })
/// }
///
/// let shop = Arc::new(Shop { name: "Tea".to_owned() });
/// let router = Router::new().get("/news", with_arc(&shop, news));
/// # router.check().unwrap();
/// ```
pub fn with_arc<S, F, R>(state: &Arc<S>, handler: F) -> impl Handler + use<S, F, R>
where
    S: Send + Sync + ?Sized + 'static,
    F: Fn(Arc<S>, Request) -> R + Send + Sync + 'static,
    R: IntoResponse + 'static,
{
    let state = Arc::clone(state);
    move |request: Request| handler(Arc::clone(&state), request)
}

/// A function of a state and a request, for [`with_state`]. Its response may borrow from the state, as that of a function
/// with the result `impl IntoResponse` does in edition 2024.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler with a state of type `{S}`",
    label = "not a function from `&{S}` and `Request` to a type that implements `IntoResponse`",
    note = "a closure must name the type of its state: `|state: &{S}, req: Request| ...`"
)]
pub trait StateFn<'s, S: ?Sized + 's>: Fn(&'s S, Request) -> Self::Response {
    /// What it returns.
    type Response: IntoResponse;
}

impl<'s, S, F, R> StateFn<'s, S> for F
where
    S: ?Sized + 's,
    F: Fn(&'s S, Request) -> R,
    R: IntoResponse,
{
    type Response = R;
}

/// Calls `each` with the paths of the handler's routes without parameters, in their normal spelling.
pub(crate) fn literal_paths(handler: &dyn Handler, each: &mut dyn FnMut(&str)) {
    if let Some(routes) = handler.routes(Seal::new()) {
        routes.literal_paths(each);
    }
}
