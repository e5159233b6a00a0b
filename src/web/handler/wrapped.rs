//! Handlers around handlers.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use http::StatusCode;
use http::request::Parts;

use super::{Handler, Resolved};
use crate::web::response::{IntoResponse, plain};
use crate::{Request, Response};

/// Something between the server and a handler: it sees each request before, and each response
/// after. [`Handler::wrap`] puts it there. Functions and closures are wrappers if they take a
/// [`Request`] and the [`Next`] and return anything that is [`IntoResponse`]:
///
/// ```
/// use heirloom::prelude::*;
/// use std::time::{Duration, Instant};
///
/// /// Tells the log which requests take long.
/// fn watched(request: Request, next: Next) -> Response {
///     let what = format!("{} {:?}", request.method(), request.path());
///     let begun = Instant::now();
///     let response = next.call(request);
///     if begun.elapsed() > Duration::from_secs(1) {
///         log::warn!("{what} took {:.1?}: {}", begun.elapsed(), response.status());
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
/// One that answers without asking the next is a guard: what it wraps never sees the request.
/// Those that many programs need are in [`wrap`](crate::wrap).
///
/// What is refused before its body is read (404, 405, 413 and the like) goes through the wrappers,
/// too, with an empty body, and so does the 500 of a handler that panics. What is no request (400,
/// 408, 431 and the like) does not.
pub trait Wrapper: Send + Sync + 'static {
    /// Answers one request, by asking `next` or without it.
    fn call(&self, request: Request, next: Next<'_>) -> Response;

    /// As [`Handler::check`]. Default: all is well.
    ///
    /// # Errors
    /// Every mistake that was found, as text for whoever wrote the program.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl<F, R> Wrapper for F
where
    F: Fn(Request, Next<'_>) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    fn call(&self, request: Request, next: Next<'_>) -> Response {
        self(request, next).into_response()
    }
}

/// What a [`Wrapper`] is around: the handler, perhaps with other wrappers between.
pub struct Next<'a> {
    handler: &'a dyn Handler,
    /// Decided already.
    refusal: Option<Response>,
}

impl Next<'_> {
    /// Asks it. A panic is its 500, which the server logs and counts; in a test without a server it
    /// is a panic.
    pub fn call(self, request: Request) -> Response {
        let ask = || match self.refusal {
            Some(refusal) => self.handler.refuse(request, refusal),
            None => self.handler.call(request),
        };
        if !CAUGHT.with_borrow(Option::is_some) {
            return ask();
        }
        catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|panic| {
            CAUGHT.with_borrow_mut(|caught| caught.get_or_insert_default().push(panic));
            plain(StatusCode::INTERNAL_SERVER_ERROR)
        })
    }
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

thread_local! {
    /// What has panicked below a wrapper, while someone collects it.
    static CAUGHT: RefCell<Option<Vec<Box<dyn Any + Send>>>> = const { RefCell::new(None) };
}

/// Runs a handler and tells what panicked in it and was made a response.
pub(crate) fn collecting_panics<T>(run: impl FnOnce() -> T) -> (T, Vec<Box<dyn Any + Send>>) {
    CAUGHT.set(Some(Vec::new()));
    let outcome = run();
    (outcome, CAUGHT.take().unwrap_or_default())
}

/// A handler with a wrapper around it, made by [`Handler::wrap`].
pub struct Wrapped<H, W> {
    pub(super) handler: H,
    pub(super) wrapper: W,
}

impl<H: Handler, W: Wrapper> Handler for Wrapped<H, W> {
    fn call(&self, request: Request) -> Response {
        self.wrapper.call(request, Next { handler: &self.handler, refusal: None })
    }

    fn resolve(&self, head: &Parts) -> Resolved<'_> {
        self.handler.resolve(head).wrapped()
    }

    fn refuse(&self, request: Request, refusal: Response) -> Response {
        self.wrapper.call(request, Next { handler: &self.handler, refusal: Some(refusal) })
    }

    fn check(&self) -> Result<(), String> {
        match (self.handler.check(), self.wrapper.check()) {
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
    use super::*;
    use crate::web::response::ResponseExt;
    use crate::{Body, RequestExt, Router};

    /// Appends its name to what the others below have said.
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

    /// As the exchange does it.
    fn asked(handler: &impl Handler, line: &str, refusal: Option<StatusCode>) -> String {
        let (parts, body) = request(line).into_parts();
        let mut found = handler.resolve(&parts);
        let mut request = Request::from_parts(parts, body);
        found.attach(&mut request);
        let endpoint = found.endpoint.unwrap_or(handler);
        shown(match refusal.map(plain).or(found.refusal) {
            Some(refusal) => endpoint.refuse(request, refusal),
            None => endpoint.call(request),
        })
    }

    #[test]
    fn the_last_one_is_outermost_and_each_response_passes_all_around_it() {
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
            assert_eq!(asked(&handler, line, refusal), want, "{line}");
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
            assert_eq!(asked(&handler, line, None), "401 ");
        }
    }

    #[test]
    fn a_panic_is_a_500_for_the_wrappers_and_told_to_the_server() {
        let handler = Router::new().get("/", |_: Request| -> Response { panic!("as asked") }).wrap(says("1"));
        let (said, panics) = collecting_panics(|| asked(&handler, "GET /", None));
        assert_eq!(said, "500 500 Internal Server Error 1");
        assert_eq!(panics.len(), 1);
        assert_eq!(panics[0].downcast_ref::<&str>(), Some(&"as asked"));
        let alone = catch_unwind(AssertUnwindSafe(|| handler.call(request("GET /"))));
        assert!(alone.is_err(), "without a server nobody would know");
    }

    #[test]
    fn mistakes_of_both_are_told() {
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
