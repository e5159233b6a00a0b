//! Code around handlers.
//!
//! A 404 that is found at the head and a 413 are decided before there is a body. So that an access log and CORS see them,
//! they pass through the wrappers in the place of the handler's response. The innermost `Next` around a panic catches
//! it; the exchange logs and counts it once, whatever a wrapper makes of the 500.

use std::fmt;

use http::Method;

use super::routes::{Call, GuardWalk, RouteMatch, Routes, Seal, add_route, call_by_hand, verify};
use super::{Handler, literal_paths};
use crate::web::response::IntoResponse;
use crate::{Request, Response};

/// Code around a handler, which sees each request before it and each response after it; see [`Handler::wrap`]. Functions and
/// closures are wrappers if they take a [`Request`] and the [`Next`] and return anything that is [`IntoResponse`]:
///
/// ```
/// use heirloom::prelude::*;
/// use std::time::{Duration, Instant};
///
/// /// Logs slow requests.
/// fn watched(request: Request, next: Next) -> Response {
///     let what = format!("{} {:?}", request.method(), request.path());
///     let start = Instant::now();
///     let response = next.call(request);
///     if start.elapsed() > Duration::from_secs(1) {
///         eprintln!("{what} took {:.1?}: {}", start.elapsed(), response.status());
///     }
///     response
/// }
///
/// let handler = Router::new()
///     .get("/", |_: Request| "hello\n")
///     .wrap(watched)
///     .wrap(|request: Request, next: Next| next.call(request).with_header("x-version", 3));
/// let response = handler.call(http::Request::get("/nowhere").body(Body::empty()).unwrap());
/// assert_eq!(response.status(), StatusCode::NOT_FOUND);
/// assert_eq!(response.headers()["x-version"], "3");
/// ```
///
/// What a wrapper can decide on the head alone, it decides in [`guard`](Wrapper::guard), before the body is received; for a
/// function this is [`Handler::guard`]. A wrapper that responds without calling `next` decides too, but once the body is
/// there.
///
/// The route is chosen before the wrappers of the whole router run: a wrapper that changes the method or the path of a
/// request does not lead it to another route.
///
/// A response without a handler (404, 405, and 413 for a body that is too large) passes through the wrappers too: they see
/// the request with an empty body. So does the 500 of a handler that panics. Malformed requests (400, 408, 431 and similar)
/// do not reach them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a wrapper",
    label = "not a function from `Request` and `Next` to a type that implements `IntoResponse`",
    note = "a closure must name the types of its parameters: `|req: Request, next: Next| ...`"
)]
pub trait Wrapper: Send + Sync + 'static {
    /// Sees the head of each request, before its body is received. `Ok` lets the request go on, and the wrapper's `call`
    /// gets it later; an error is the response in place of that call. Default: all go on.
    ///
    /// All guards on a request's route are asked first, from the outermost to the innermost, then come the calls: so a
    /// guard does not see what wrappers around it change, and those see its answer, as they see a 404, with an empty body.
    /// What it puts into the request's extensions is there in the calls. A guard that panics is a 500. Guards run on a worker,
    /// and may block, as for a look-up in a database.
    ///
    /// The rest of a refused request's body is dropped if it is short, as
    /// [`Limits::discard_bytes`](crate::Limits::discard_bytes) says; otherwise the connection is closed. A request that
    /// moves to the next generation before its body is complete is asked about there again.
    ///
    /// # Errors
    /// The response, from any type that is [`IntoResponse`].
    fn guard(&self, _request: &mut Request) -> Result<(), EarlyResponse> {
        Ok(())
    }

    /// Responds to one request, by calling `next` or without it. Default: calls `next`.
    fn call(&self, request: Request, next: Next<'_>) -> Response {
        next.call(request)
    }

    /// Whether `guard` may do anything but let all go on.
    #[doc(hidden)]
    fn has_guard(&self, _: Seal) -> bool {
        true
    }

    /// Answers a request on its way. The request is moved only for wrappers that take it.
    #[doc(hidden)]
    fn call_on_route(&self, _: Seal, handler: &dyn Handler, mut call: Call<'_>) -> Response {
        match call.pass_wrapper() {
            Some(request) => self.call(request, Next { handler, call }),
            None => call.refused(),
        }
    }

    /// Checks the wrapper's configuration, once, before the server serves. Default: no errors.
    ///
    /// # Errors
    /// All configuration errors, in one line.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A function of a request and what follows. Its response may have the lifetime of `next`, as that of a function with the
/// result `impl IntoResponse` has in edition 2024.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a wrapper",
    label = "not a function from `Request` and `Next` to a type that implements `IntoResponse`"
)]
pub trait WrapFn<'n>: Fn(Request, Next<'n>) -> Self::Response {
    /// What it returns.
    type Response: IntoResponse;
}

impl<'n, F, R> WrapFn<'n> for F
where
    F: Fn(Request, Next<'n>) -> R,
    R: IntoResponse,
{
    type Response = R;
}

impl<F> Wrapper for F
where
    F: for<'n> WrapFn<'n> + Send + Sync + 'static,
{
    fn call(&self, request: Request, next: Next<'_>) -> Response {
        self(request, next).into_response()
    }

    fn has_guard(&self, _: Seal) -> bool {
        false
    }
}

/// The response of a guard, which ends a request before its body is received. Every type that is [`IntoResponse`] converts
/// to it, so `?` returns one, and `.into()` makes one.
#[derive(Debug)]
pub struct EarlyResponse(Box<Response>);

impl<R: IntoResponse> From<R> for EarlyResponse {
    fn from(response: R) -> EarlyResponse {
        EarlyResponse(Box::new(response.into_response()))
    }
}

impl EarlyResponse {
    pub(super) fn into_inner(self) -> Response {
        *self.0
    }
}

/// A function as a guard, made by [`Handler::guard`].
pub struct Guard<F>(pub(super) F);

impl<F> Wrapper for Guard<F>
where
    F: Fn(&mut Request) -> Result<(), EarlyResponse> + Send + Sync + 'static,
{
    fn guard(&self, request: &mut Request) -> Result<(), EarlyResponse> {
        self.0(request)
    }
}

impl<F> fmt::Debug for Guard<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

/// What a [`Wrapper`] wraps: the handler, possibly with other wrappers in between.
pub struct Next<'a> {
    handler: &'a dyn Handler,
    call: Call<'a>,
}

impl Next<'_> {
    /// Calls the handler. If that panics, the server logs and counts it, and this returns a 500. In a test without a
    /// server the panic unwinds.
    pub fn call(self, request: Request) -> Response {
        self.call.with_request(self.handler, request)
    }
}

impl Next<'_> {
    /// As `call`, after `watch`.
    pub(crate) fn call_watched(mut self, request: Request, watch: impl FnOnce(&mut Call<'_>)) -> Response {
        self.call.set_request(request);
        watch(&mut self.call);
        self.call.contained(self.handler)
    }
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

/// A handler with a wrapper around it, made by [`Handler::wrap`].
pub struct Wrapped<H, W> {
    pub(super) handler: H,
    pub(super) wrapper: W,
}

impl<H: Handler, W: Wrapper> Handler for Wrapped<H, W> {
    fn call(&self, request: Request) -> Response {
        call_by_hand(self, request)
    }

    fn routes(&self, _: Seal) -> Option<&dyn Routes> {
        Some(self)
    }

    fn guard_on_route(&self, request: &mut Request, walk: &mut GuardWalk<'_>) -> Result<(), EarlyResponse> {
        self.wrapper.guard(request)?;
        walk.pass_wrapper();
        self.handler.guard_on_route(request, walk)
    }

    fn call_on_route(&self, call: Call<'_>) -> Response {
        self.wrapper.call_on_route(Seal::new(), &self.handler, call)
    }
}

impl<H: Handler, W: Wrapper> Routes for Wrapped<H, W> {
    fn find_route(&self, method: &Method, path: &str, found: &mut RouteMatch) {
        add_route(&self.handler, method, path, found);
        if self.wrapper.has_guard(Seal::new()) {
            found.add_guard();
        }
    }

    fn literal_paths(&self, each: &mut dyn FnMut(&str)) {
        literal_paths(&self.handler, each);
    }

    fn verify(&self) -> Result<(), String> {
        match (verify(&self.handler), self.wrapper.check()) {
            (Err(handler), Err(wrapper)) => Err(format!("{handler}; {wrapper}")),
            (handler, wrapper) => handler.and(wrapper),
        }
    }
}

impl<H, W> fmt::Debug for Wrapped<H, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrapped").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Mutex;

    use http::StatusCode;

    use super::super::routes::{Panics, answer, find_route};
    use super::*;
    use crate::web::response::{ResponseExt, plain};
    use crate::web::wrap::Entries;
    use crate::{Body, RequestExt, Router};

    /// Appends its name to the text of the wrappers below it.
    fn says(name: &'static str) -> impl Wrapper {
        move |request: Request, next: Next<'_>| {
            let mut response = next.call(request);
            let status = response.status();
            let said = response.body_mut().read_text().unwrap_or_default();
            (status, format!("{} {name}", said.trim_end()))
        }
    }

    fn request(line: &str) -> Request {
        let (method, target) = line.split_once(' ').unwrap();
        http::Request::builder().method(method).uri(target).body(Body::empty()).unwrap()
    }

    fn shown(mut response: Response) -> String {
        format!("{} {}", response.status().as_u16(), response.body_mut().read_text().unwrap())
    }

    /// Calls the handler as a server does. Returns the text of the response, and the number of reported panics.
    fn served(handler: &impl Handler, line: &str, refusal: Option<StatusCode>) -> (String, usize) {
        let request = request(line);
        let mut found = find_route(handler, request.method(), request.uri().path());
        if let Some(status) = refusal {
            found.refuse(plain(status));
        }
        let panics = Panics::default();
        let mut response = None;
        let mut entries = Entries::default();
        answer(handler, &mut Some(request), &mut found, &panics, &mut entries, &mut response);
        (shown(response.unwrap()), panics.into_inner().unwrap().len())
    }

    #[test]
    fn the_last_wrapper_is_outermost_and_sees_each_response() {
        let inner = Router::new()
            .get("/in/x", (|_: Request| "x").wrap(says("x")))
            .fallback((|_: Request| "f").wrap(says("f")));
        let handler = Router::new()
            .get("/a/{id}", (|req: Request| req.param("id").unwrap_or("?").to_owned()).wrap(says("route")))
            .any("/in/{*rest}", inner.wrap(says("inner")))
            .wrap(says("1"))
            .wrap(says("2"));
        let cases = [
            ("GET /a/7", None, "200 7 route 1 2"),
            ("GET /nowhere", None, "404 404 Not Found 1 2"),
            ("PUT /a/7", None, "405 405 Method Not Allowed 1 2"),
            ("GET /in/x", None, "200 x x inner 1 2"),
            ("PUT /in/x", None, "405 405 Method Not Allowed inner 1 2"),
            ("PUT /in/y", None, "200 f f inner 1 2"),
            ("GET /a/7", Some(StatusCode::PAYLOAD_TOO_LARGE), "413 413 Payload Too Large route 1 2"),
            ("GET /in/x", Some(StatusCode::PAYLOAD_TOO_LARGE), "413 413 Payload Too Large x inner 1 2"),
        ];
        assert_eq!(handler.check(), Ok(()));
        for (line, refusal, want) in cases {
            assert_eq!(served(&handler, line, refusal), (want.to_owned(), 0), "{line}");
            if refusal.is_none() {
                assert_eq!(shown(handler.call(request(line))), want, "{line}, by hand");
            }
        }
    }

    #[test]
    fn a_guard_answers_alone_even_what_would_be_refused() {
        let guard = |_: Request, _: Next<'_>| StatusCode::UNAUTHORIZED;
        let handler = Router::new().get("/", |_: Request| -> Response { unreachable!() }).wrap(guard);
        for line in ["GET /", "GET /nowhere", "PUT /"] {
            assert_eq!(served(&handler, line, None), ("401 ".to_owned(), 0));
        }
    }

    /// Guards are asked first, the outermost first; then come the calls. With a body and without it is the same.
    #[test]
    fn guards_are_asked_before_all_calls() {
        let log = std::sync::Arc::new(Mutex::new(Vec::new()));
        let step = |name: &'static str, answers: bool| {
            let log = std::sync::Arc::clone(&log);
            move |req: &mut Request| {
                log.lock().unwrap().push(format!("{name} {}", req.text().unwrap()));
                req.extensions_mut().insert(name);
                if answers { Err((StatusCode::FORBIDDEN, name).into()) } else { Ok(()) }
            }
        };
        let around = |name: &'static str| {
            let log = std::sync::Arc::clone(&log);
            move |request: Request, next: Next<'_>| {
                log.lock().unwrap().push(name.to_owned());
                next.call(request)
            }
        };
        let handler = |answers: bool| {
            let route =
                (|mut req: Request| format!("{} {:?}", req.text().unwrap(), req.extensions().get::<&str>()))
                    .guard(step("guard route", answers))
                    .wrap(around("call route"));
            let inner =
                Router::new().post("/in", route).wrap(around("call inner")).guard(step("guard inner", false));
            Router::new().nest("/a", inner).wrap(around("call outer")).guard(step("guard outer", false))
        };
        let post = || http::Request::post("/a/in").body(Body::from("body")).unwrap();
        assert_eq!(shown(handler(false).call(post())), "200 body Some(\"guard route\")");
        let guards = ["guard outer ", "guard inner ", "guard route "];
        let calls = ["call outer", "call inner", "call route"];
        assert_eq!(std::mem::take(&mut *log.lock().unwrap()), [guards, calls].concat());
        // The outer calls see the answer; the call within the guard does not happen.
        assert_eq!(shown(handler(true).call(post())), "403 guard route");
        assert_eq!(std::mem::take(&mut *log.lock().unwrap()), [guards, calls].concat());
        assert_eq!(served(&handler(true), "POST /a/in", None), ("403 guard route".to_owned(), 0));
        assert_eq!(std::mem::take(&mut *log.lock().unwrap()), [guards, calls].concat());
        // A refusal comes after the guards.
        assert_eq!(served(&handler(true), "GET /a/in", None).0, "405 405 Method Not Allowed\n");
        let wanted = ["guard outer ", "guard inner ", "call outer", "call inner"];
        assert_eq!(std::mem::take(&mut *log.lock().unwrap()), wanted);
    }

    #[test]
    fn a_guard_that_panics_is_a_500_for_the_wrappers_around_it() {
        let panics = |_: &mut Request| -> Result<(), EarlyResponse> { panic!("as the test wants it") };
        let handler = (|_: Request| "x").wrap(says("in")).guard(panics).wrap(says("out"));
        assert_eq!(served(&handler, "GET /", None), ("500 500 Internal Server Error out".to_owned(), 1));
        let alone = catch_unwind(AssertUnwindSafe(|| handler.call(request("GET /"))));
        assert!(alone.is_err(), "without a server the test must see it");
    }

    #[test]
    fn a_panic_is_a_500_for_the_wrappers_and_reported_to_the_server() {
        let panics = |_: Request| -> Response { panic!("as the test wants it") };
        let handler =
            Router::new().get("/", panics).get("/route", panics.wrap(says("route"))).wrap(says("1"));
        assert_eq!(served(&handler, "GET /", None), ("500 500 Internal Server Error 1".to_owned(), 1));
        assert_eq!(
            served(&handler, "GET /route", None),
            ("500 500 Internal Server Error route 1".to_owned(), 1)
        );
        let caught = Panics::default();
        let (mut asked, mut response) = (Some(request("GET /")), None);
        let (mut found, mut entries) = (RouteMatch::default(), Entries::default());
        answer(&panics, &mut asked, &mut found, &caught, &mut entries, &mut response);
        assert_eq!(shown(response.unwrap()), "500 500 Internal Server Error\n");
        assert_eq!(caught.into_inner().unwrap()[0].downcast_ref::<&str>(), Some(&"as the test wants it"));
        let alone = catch_unwind(AssertUnwindSafe(|| handler.call(request("GET /"))));
        assert!(alone.is_err(), "without a server the test must see it");
    }

    #[test]
    fn a_wrapper_that_panics_itself_is_a_500_for_those_around_it() {
        let panics = |_: Request, _: Next<'_>| -> Response { panic!("as the test wants it") };
        let handler = Router::new().get("/", |_: Request| "x").wrap(says("1")).wrap(panics).wrap(says("2"));
        assert_eq!(served(&handler, "GET /", None), ("500 500 Internal Server Error 2".to_owned(), 1));
        let both = Router::new().wrap(|request: Request, next: Next<'_>| -> Response {
            drop(next.call(request));
            panic!("as the test wants it")
        });
        assert_eq!(served(&both, "GET /", None), ("500 500 Internal Server Error\n".to_owned(), 1));
    }

    /// The wrapper below it still sees each request once, with the route that was found first.
    #[test]
    fn a_wrapper_that_changes_the_path_does_not_change_the_route() {
        let elsewhere = |mut request: Request, next: Next<'_>| {
            *request.uri_mut() = "/b".parse().unwrap();
            next.call(request)
        };
        let router =
            Router::new().get("/a", |req: Request| format!("a {}", req.path())).get("/b", |_: Request| "b");
        let handler = router.wrap(elsewhere);
        assert_eq!(served(&handler, "GET /a", None), ("200 a /b".to_owned(), 0));
        assert_eq!(shown(handler.call(request("GET /a"))), "200 a /b");
        assert_eq!(served(&handler, "GET /c", None).0, "404 404 Not Found\n");
    }

    #[test]
    fn mistakes_of_both_are_reported() {
        struct Wrong;
        impl Wrapper for Wrong {
            fn call(&self, request: Request, next: Next<'_>) -> Response {
                next.call(request)
            }
            fn check(&self) -> Result<(), String> {
                Err("wrong".into())
            }
        }
        let ok = || |_: Request| ().into_response().with_status(StatusCode::OK);
        assert_eq!(Router::new().get("/", ok()).wrap(Wrong).check(), Err("wrong".into()));
        let both = Router::new().get("/", ok()).get("/", ok()).wrap(Wrong).wrap(says("1"));
        assert_eq!(both.check(), Err("GET / is registered twice; wrong".into()));
    }
}
