//! What the crate's own handlers know about a request before its body is read.
//!
//! A program's handler implements `Handler::call` and nothing else. A router, a wrapper, and a handler with limits
//! also know which route and which limits belong to a request's head. They report them by `Routes`, a trait that no program
//! can name, so that no handler of a program can pass on a part of it and forget the rest: code around another handler is
//! a `Wrapper`.
//!
//! A route is looked up once per request, when the head is complete. A `RouteMatch` owns what was found, so that the
//! exchange keeps it while it waits for the body. That costs an ordinary request one count of an `Arc` and no
//! allocation. A router that is a handler of another router's route costs a `Vec` for the routes above it.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use http::{Method, StatusCode};

use super::{Handler, RouteLimits};
use crate::base::sync::lock;
use crate::net::scheduler::latency::HandlerLatency;
use crate::web::response::plain;
use crate::{Request, Response};

/// Only this crate can call or override a method that takes a `Seal`.
#[derive(Debug)]
pub struct Seal(());

impl Seal {
    pub(super) fn new() -> Seal {
        Seal(())
    }
}

/// A handler that knows more than how to answer a request.
pub trait Routes: Handler {
    /// Finds what belongs to a request with this method and path.
    fn find_route(&self, _method: &Method, _path: &str) -> RouteMatch {
        RouteMatch::default()
    }

    /// Lists the configuration errors, if there are any.
    fn verify(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Finds the route and the limits of a request with this method and path.
pub(crate) fn find_route(handler: &dyn Handler, method: &Method, path: &str) -> RouteMatch {
    handler.routes(Seal::new()).map_or_else(RouteMatch::default, |routes| routes.find_route(method, path))
}

/// Lists the handler's configuration errors, if there are any.
pub(crate) fn verify(handler: &dyn Handler) -> Result<(), String> {
    handler.routes(Seal::new()).map_or(Ok(()), Routes::verify)
}

/// Answers a request for which no server has looked up the route.
pub(crate) fn call_by_hand(routes: &dyn Routes, mut request: Request) -> Response {
    let mut found = routes.find_route(request.method(), request.uri().path());
    let refusal = found.attach(&mut request);
    routes.call_on_route(request, Call { found: &found, depth: 0, refusal, panics: None })
}

/// Answers a request for a server, after `RouteMatch::attach`: a panic becomes a 500, which the wrappers around the
/// handler see, and is added to `panics`.
#[inline]
pub(crate) fn answer(
    handler: &dyn Handler,
    request: Request,
    found: &RouteMatch,
    refusal: Option<Box<Response>>,
    panics: &Panics,
) -> Response {
    Call { found, depth: 0, refusal, panics: Some(panics) }.contained(handler, request)
}

/// The panics of one call.
pub(crate) type Panics = Mutex<Vec<Box<dyn Any + Send>>>;

/// One call of a handler, on its way from the outermost wrapper or router to the handler that answers.
pub struct Call<'a> {
    found: &'a RouteMatch,
    /// How many of the routes it has passed.
    depth: usize,
    /// The answer in place of the innermost handler's.
    refusal: Option<Box<Response>>,
    /// Where panics are collected. None without a server, where they unwind.
    panics: Option<&'a Panics>,
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("depth", &self.depth).finish_non_exhaustive()
    }
}

impl<'a> Call<'a> {
    /// The next route on the way, and the call as that route's handler gets it.
    pub(crate) fn next_route(self) -> Result<(&'a Route, Call<'a>), Call<'a>> {
        match self.found.route_at(self.depth) {
            Some(route) => Ok((route, Call { depth: self.depth.saturating_add(1), ..self })),
            None => Err(self),
        }
    }

    /// The answer in place of the innermost handler's.
    pub(crate) fn into_refusal(self) -> Option<Box<Response>> {
        self.refusal
    }

    /// Calls `handler`. With a server, a panic becomes a 500.
    pub(super) fn contained(self, handler: &dyn Handler, request: Request) -> Response {
        let Some(panics) = self.panics else { return handler.call_on_route(request, self) };
        let mut response = None;
        let call = || response = Some(handler.call_on_route(request, self));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
            lock(panics).push(panic);
        }
        response.unwrap_or_else(|| plain(StatusCode::INTERNAL_SERVER_ERROR))
    }
}

/// What was found for a request's method and path. The default: no route, no parameters, the server's limits.
#[derive(Debug, Default)]
pub struct RouteMatch {
    /// The route in the innermost router.
    route: Option<Arc<Route>>,
    /// The routes in the routers around that one, the innermost first.
    outer: Vec<Arc<Route>>,
    /// The values of the pattern's parameters, decoded.
    values: Vec<String>,
    /// None: the server's limits. Boxed, because few routes have rules and each match is copied several times.
    rules: Option<Box<RouteRules>>,
    /// The answer in place of the handler's: 404, 405, 413 ... Wrappers see it as they see the handler's.
    refusal: Option<Box<Response>>,
}

impl RouteMatch {
    pub(crate) fn refused(response: Response) -> RouteMatch {
        RouteMatch { refusal: Some(Box::new(response)), ..RouteMatch::default() }
    }

    /// Sets the answer in place of the handler's.
    pub(crate) fn refuse(&mut self, response: Response) {
        self.refusal = Some(Box::new(response));
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.refusal.is_some()
    }

    /// Where the route differs from its server.
    pub(crate) fn rules(&self) -> &RouteRules {
        self.rules.as_deref().unwrap_or(&RouteRules::NONE)
    }

    /// Adds the rules of a handler around this one, which apply where the present ones set nothing.
    pub(crate) fn add_rules(&mut self, outer: &RouteRules) {
        self.rules.get_or_insert_default().add(outer);
    }

    /// Adds the route whose handler has found this, and the values of that route's parameters.
    pub(crate) fn add_outer(&mut self, route: &Arc<Route>, values: Vec<String>) {
        if self.matched().is_none() {
            self.values = values;
        }
        match self.route {
            Some(_) => self.outer.push(Arc::clone(route)),
            None => self.route = Some(Arc::clone(route)),
        }
    }

    /// How long the handler of this route takes. None without a route.
    pub(crate) fn latency(&self) -> Option<&HandlerLatency> {
        self.route.as_ref().map(|route| &route.latency)
    }

    /// Bytes on the heap.
    pub(crate) fn held(&self) -> usize {
        self.values.iter().fold(0, |sum, value| sum.saturating_add(value.capacity()))
    }

    /// The innermost route that has a pattern.
    fn matched(&self) -> Option<&Arc<Route>> {
        self.route.iter().chain(&self.outer).find(|route| route.pattern.is_some())
    }

    /// The route at a depth, counted from the outermost.
    fn route_at(&self, depth: usize) -> Option<&Route> {
        match self.outer.len().checked_sub(depth) {
            Some(0) => self.route.as_deref(),
            Some(left) => self.outer.get(left.saturating_sub(1)).map(|route| &**route),
            None => None,
        }
    }

    /// Attaches the route that matched to the request, and returns the answer in place of the handler's, if there is one.
    pub(crate) fn attach(&mut self, request: &mut Request) -> Option<Box<Response>> {
        if let Some(route) = self.matched() {
            // Without parameters, the path may identify the route.
            if self.values.is_empty() && route.pattern().text == request.uri().path() {
                request.body_mut().set_routed();
            } else {
                let route = Arc::clone(route);
                let matched = Matched { route, values: std::mem::take(&mut self.values) };
                request.extensions_mut().insert(matched);
            }
        }
        self.refusal.take()
    }
}

/// A handler in a router.
pub(crate) struct Route {
    /// None: any.
    pub(crate) method: Option<Method>,
    /// None for a fallback.
    pattern: Option<Pattern>,
    pub(crate) handler: Arc<dyn Handler>,
    latency: HandlerLatency,
}

impl Route {
    pub(crate) fn new(method: Option<Method>, pattern: Option<Pattern>, handler: Arc<dyn Handler>) -> Route {
        Route { method, pattern, handler, latency: HandlerLatency::new() }
    }

    pub(crate) fn pattern(&self) -> &Pattern {
        static NONE: Pattern = Pattern { text: String::new(), names: Vec::new() };
        self.pattern.as_ref().unwrap_or(&NONE)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("method", &self.method)
            .field("pattern", &self.pattern)
            .finish_non_exhaustive()
    }
}

/// A route's pattern, and the names of its parameters in order.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) text: String,
    pub(crate) names: Vec<String>,
}

/// The route that matched a request, kept in the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Matched {
    route: Arc<Route>,
    values: Vec<String>,
}

impl Matched {
    pub(crate) fn pattern(&self) -> &str {
        &self.route.pattern().text
    }

    /// How many parameters the route's own pattern has.
    pub(crate) fn own_params(&self) -> usize {
        self.route.pattern().names.len()
    }

    /// The parameters, in the order of the pattern.
    pub(crate) fn params(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.route.pattern().names.iter().zip(&self.values).map(|(name, value)| (&**name, &**value))
    }
}

/// Where a route differs from its server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteRules {
    pub(crate) limits: RouteLimits,
    /// Whether the handler reads the body while it arrives, holding a worker meanwhile.
    pub(crate) streaming: bool,
}

impl RouteRules {
    const NONE: RouteRules = RouteRules { limits: RouteLimits::new(), streaming: false };

    fn add(&mut self, outer: &RouteRules) {
        self.limits = std::mem::take(&mut self.limits).or(&outer.limits);
        self.streaming |= outer.streaming;
    }
}
