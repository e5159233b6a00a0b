//! What the crate's own handlers know about a request before its body is read.
//!
//! A program's handler implements `Handler::call` and nothing else. A router, a wrapper, and a handler with limits
//! also know which route and which limits belong to a request's head. They report them by `Routes`, a trait that no program
//! can name, so that no handler of a program can pass on a part of it and forget the rest: code around another handler is
//! a `Wrapper`.
//!
//! A route is looked up once per request, when the head is complete. A `RouteMatch` owns what was found, so that the
//! exchange keeps it while it waits for the body. That costs an ordinary request one count of an `Arc` and no
//! allocation. Nor does a router that is a handler of another router's route; one within that costs a `Vec` for the routes above it.
//!
//! **Guards see a request before all wrappers**, from the outermost to the innermost, and before its body is read. They
//! are asked on a walk of their own along the route, always in this order, with a body and without, so that a guard never
//! depends on what a wrapper around it does. The answer of a guard takes the place of the response of its wrapper: the
//! wrappers around that one see it, those within don't.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use http::{Method, StatusCode};

use super::call_deadline::Deadline;
use super::route::{OuterRoutes, Pattern, Route, RoutePlace, SharedPattern};
use super::{EarlyResponse, Handler, RouteLimits, Values};
use crate::base::sync::lock;
use crate::net::scheduler::latency::HandlerLatency;
use crate::web::response::{ResponseExt, plain};
use crate::web::wrap::Entries;
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
    /// Adds what belongs to a request with this method and path.
    fn find_route(&self, _method: &Method, _path: &str, _found: &mut RouteMatch) {}

    /// Calls `each` with the paths for which there are routes without parameters, in their normal spelling.
    fn literal_paths(&self, _each: &mut dyn FnMut(&str)) {}

    /// Lists the configuration errors, if there are any.
    fn verify(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Finds the route and the limits of a request with this method and path.
pub(crate) fn find_route(handler: &dyn Handler, method: &Method, path: &str) -> RouteMatch {
    let mut found = RouteMatch::default();
    add_route(handler, method, path, &mut found);
    found
}

/// As [`find_route`], for a handler within another one. A match is large, so that all of them add to one.
pub(crate) fn add_route(handler: &dyn Handler, method: &Method, path: &str, found: &mut RouteMatch) {
    if let Some(routes) = handler.routes(Seal::new()) {
        routes.find_route(method, path, found);
    }
}

/// Lists the handler's configuration errors, if there are any.
pub(crate) fn verify(handler: &dyn Handler) -> Result<(), String> {
    handler.routes(Seal::new()).map_or(Ok(()), Routes::verify)
}

/// Answers a request for which no server has looked up the route.
pub(crate) fn call_by_hand(routes: &dyn Routes, mut request: Request) -> Response {
    let mut found = RouteMatch::default();
    routes.find_route(request.method(), request.uri().path(), &mut found);
    found.bound_body(&mut request);
    found.attach(&mut request);
    found.ask_guards(routes, &mut request, None);
    if let Some(deadline) = found.deadline() {
        request.extensions_mut().insert(deadline);
    }
    let mut entries = Entries::default();
    let response = routes.call_on_route(Call::new(&mut found, &mut Some(request), None, &mut entries));
    if entries.is_empty() {
        return response;
    }
    // The handler that calls this one may be a server's.
    entries.note_response(response.extensions());
    response.on_end(move |end| entries.for_each(|entry| entry.end(end)))
}

/// Answers a request for a server: a panic becomes a 500, which the wrappers around the handler see, and is added to
/// `panics`. The response stays in `place`, because it is large.
#[inline]
pub(crate) fn answer<'r>(
    handler: &dyn Handler,
    request: &mut Option<Request>,
    found: &mut RouteMatch,
    panics: &Panics,
    entries: &mut Entries,
    place: &'r mut Option<Response>,
) -> &'r mut Response {
    if let Some(request) = request {
        found.attach(request);
        if found.has_guards() {
            found.ask_guards(handler, request, Some(panics));
        }
    }
    let call = Call::new(found, request, Some(panics), entries);
    contained(panics, place, || handler.call_on_route(call))
}

/// The panics of one call.
pub(crate) type Panics = Mutex<Vec<Box<dyn Any + Send>>>;

/// Calls a handler. A panic becomes a 500.
#[inline(always)]
fn contained<'r>(
    panics: &Panics,
    place: &'r mut Option<Response>,
    call: impl FnOnce() -> Response,
) -> &'r mut Response {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| *place = Some(call()))) {
        lock(panics).push(panic);
    }
    place.get_or_insert_with(internal_error)
}

#[cold]
fn internal_error() -> Response {
    plain(StatusCode::INTERNAL_SERVER_ERROR)
}

/// One call of a handler, on its way from the outermost wrapper or router to the handler that answers.
pub struct Call<'a> {
    found: &'a RouteMatch,
    /// The request, until a handler or a wrapper takes it: it is large, and each function that passes it on would copy it.
    request: &'a mut Option<Request>,
    /// How many of the routes it has passed.
    depth: usize,
    instead: Option<Box<Instead>>,
    /// How many wrappers it has passed.
    wrappers: usize,
    /// Where panics are collected. None without a server, where they unwind.
    panics: Option<&'a Panics>,
    entries: &'a mut Entries,
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("depth", &self.depth).finish_non_exhaustive()
    }
}

impl<'a> Call<'a> {
    fn new(
        found: &'a mut RouteMatch,
        request: &'a mut Option<Request>,
        panics: Option<&'a Panics>,
        entries: &'a mut Entries,
    ) -> Call<'a> {
        let instead = found.instead.take();
        Call { found, request, depth: 0, instead, wrappers: 0, panics, entries }
    }

    /// The request, until it is taken.
    pub(crate) fn request(&self) -> Option<&Request> {
        self.request.as_ref()
    }

    /// The request, for the handler that answers it. None if the call is refused.
    pub(super) fn take_request(&mut self) -> Option<Request> {
        if self.instead.is_some() { None } else { self.request.take() }
    }

    /// Passes a wrapper, which gets the request. None if its guard has answered.
    pub(super) fn pass_wrapper(&mut self) -> Option<Request> {
        let wrapper = self.wrappers;
        self.wrappers = wrapper.saturating_add(1);
        let is_answered = self.instead.as_ref().is_some_and(|instead| instead.wrapper == Some(wrapper));
        if is_answered { None } else { self.request.take() }
    }

    /// Passes a wrapper that leaves the request where it is, and has no guard.
    pub(crate) fn pass_watcher(&mut self) {
        self.wrappers = self.wrappers.saturating_add(1);
    }

    /// The request, until it is taken; its route, if the request's pattern is its own; and those that are notified when the
    /// response has ended.
    pub(crate) fn parts(&mut self) -> Option<(&Request, Option<&Arc<Route>>, &mut Entries)> {
        Some((self.request.as_ref()?, self.found.sole_route(), self.entries))
    }

    /// The answer of a guard, or else the one in place of the handler's.
    pub(crate) fn refused(self) -> Response {
        *self.request = None;
        match self.instead {
            Some(instead) => instead.response,
            None => plain(StatusCode::NOT_FOUND),
        }
    }

    /// The next route on the way.
    pub(crate) fn next_route(&mut self) -> Option<&'a Route> {
        let route = self.found.route_at(self.depth)?;
        self.depth = self.depth.saturating_add(1);
        Some(route)
    }

    /// The time at which the server started the call. None if no server made it.
    pub(crate) fn started(&self) -> Option<Instant> {
        self.found.started
    }

    /// Calls `handler` with a wrapper's request.
    pub(super) fn with_request(mut self, handler: &dyn Handler, request: Request) -> Response {
        self.set_request(request);
        self.contained(handler)
    }

    pub(super) fn set_request(&mut self, request: Request) {
        *self.request = Some(request);
    }

    /// Calls `handler`; a panic becomes a 500.
    pub(super) fn contained(self, handler: &dyn Handler) -> Response {
        let Some(panics) = self.panics else { return handler.call_on_route(self) };
        let mut place = None;
        contained(panics, &mut place, || handler.call_on_route(self));
        place.unwrap_or_default()
    }
}

/// An answer in place of another one.
struct Instead {
    /// A guard's, in place of the response of its wrapper: the number of the wrapper on the route, from the outermost. None: in
    /// place of the handler's, as 404, 405, 413 ... Wrappers see it as they see the handler's.
    wrapper: Option<usize>,
    response: Response,
}

/// A walk along the route of a request, from the outermost handler to the innermost, on which guards are asked.
pub struct GuardWalk<'a> {
    found: &'a RouteMatch,
    depth: usize,
    wrappers: usize,
}

impl fmt::Debug for GuardWalk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardWalk").field("depth", &self.depth).finish_non_exhaustive()
    }
}

impl<'a> GuardWalk<'a> {
    pub(crate) fn next_route(&mut self) -> Option<&'a Route> {
        let route = self.found.route_at(self.depth)?;
        self.depth = self.depth.saturating_add(1);
        Some(route)
    }

    pub(super) fn pass_wrapper(&mut self) {
        self.wrappers = self.wrappers.saturating_add(1);
    }
}

/// What was found for a request's method and path. The default: no route, no parameters, the server's limits.
#[derive(Default)]
pub struct RouteMatch {
    /// The route in the innermost router.
    route: Option<Arc<Route>>,
    /// A route of the pattern that matched, where none has the method.
    other_method: Option<Arc<Route>>,
    /// The routes in the routers around that one, if there are any.
    outer: Option<OuterRoutes>,
    /// The values of the pattern's parameters, decoded, if it has any.
    values: Option<Values>,
    /// None: the server's limits. Boxed, because few routes have rules.
    rules: Option<Box<RouteRules>>,
    instead: Option<Box<Instead>>,
    /// Bytes of the path, in its normal spelling, that the prefixes of nested handlers have matched.
    prefix: usize,
    /// The innermost route is that of a nested handler without routes.
    is_opaque: bool,
    /// The path is the prefixes and the pattern of its route, in the same spelling: then it identifies the route, for which
    /// nothing is allocated.
    is_pattern: bool,
    guards: Guards,
    /// When the call started, by a clock that the server has read already.
    started: Option<Instant>,
}

impl fmt::Debug for RouteMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteMatch").field("pattern", &self.pattern()).finish_non_exhaustive()
    }
}

/// Whether the guards of a route are asked.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Guards {
    /// No wrapper on the route has one.
    #[default]
    None,
    ToAsk,
    Asked,
}

impl RouteMatch {
    /// Sets the answer in place of the handler's.
    pub(crate) fn refuse(&mut self, response: Response) {
        self.instead = Some(Box::new(Instead { wrapper: None, response }));
    }

    /// Applies the route's limit to a body that no server has received.
    fn bound_body(&mut self, request: &mut Request) {
        let Some(limit) = self.rules().limits.body_bytes.filter(|_| !self.is_refused()) else { return };
        match request.body().len() {
            Some(len) if len > limit => self.refuse(plain(StatusCode::PAYLOAD_TOO_LARGE)),
            Some(_) => {}
            None => request.body_mut().bound(limit),
        }
    }

    /// Notes when the call starts.
    pub(crate) fn start(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// Notes that there is a wrapper with a guard on the route.
    pub(super) fn add_guard(&mut self) {
        self.guards = Guards::ToAsk;
    }

    /// Whether there may be guards to ask before the body is read.
    pub(crate) fn has_guards(&self) -> bool {
        self.guards == Guards::ToAsk
    }

    /// Whether a guard has answered the request.
    pub(crate) fn is_answered(&self) -> bool {
        self.instead.as_ref().is_some_and(|instead| instead.wrapper.is_some())
    }

    /// Asks the guards on the route, once, after `attach`. They see no body.
    pub(crate) fn ask_guards(
        &mut self,
        // Rust 1.85 can't make a `dyn Handler` of a `dyn Routes`.
        handler: &(impl Handler + ?Sized),
        request: &mut Request,
        panics: Option<&Panics>,
    ) {
        if self.guards != Guards::ToAsk {
            return;
        }
        self.guards = Guards::Asked;
        let content = request.body_mut().take_kind();
        let mut walk = GuardWalk { found: self, depth: 0, wrappers: 0 };
        let ask = AssertUnwindSafe(|| handler.guard_on_route(request, &mut walk));
        let said = match panics {
            None => ask(),
            Some(panics) => catch_unwind(ask).unwrap_or_else(|panic| {
                lock(panics).push(panic);
                Err(EarlyResponse::from(plain(StatusCode::INTERNAL_SERVER_ERROR)))
            }),
        };
        let wrapper = Some(walk.wrappers);
        if let Err(early) = said {
            self.instead = Some(Box::new(Instead { wrapper, response: early.into_inner() }));
        }
        *request.body_mut().kind_mut() = content;
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.instead.is_some()
    }

    /// Where the route differs from its server. None if it does not.
    pub(crate) fn own_rules(&self) -> Option<&RouteRules> {
        self.rules.as_deref()
    }

    /// As `own_rules`, with rules that set nothing in place of none.
    pub(crate) fn rules(&self) -> &RouteRules {
        self.own_rules().unwrap_or(&RouteRules::NONE)
    }

    /// The deadline of a call that begins now, if the route has one.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Deadline> {
        self.own_rules()?.limits.deadline.flatten().and_then(Deadline::after)
    }

    /// Adds the rules of a handler around this one, which apply where the present ones set nothing.
    pub(crate) fn add_rules(&mut self, outer: &RouteRules) {
        self.rules.get_or_insert_default().add(outer);
    }

    /// Adds the route whose handler has found this.
    #[inline(always)]
    pub(crate) fn add_outer(&mut self, route: &Arc<Route>) {
        self.is_pattern = false;
        match &self.route {
            None => self.route = Some(Arc::clone(route)),
            Some(_) => OuterRoutes::add(&mut self.outer, Arc::clone(route)),
        }
    }

    /// As `add_outer`, for a route whose pattern in its normal spelling is the path, if `is_whole`.
    #[inline(always)]
    pub(crate) fn add_literal(&mut self, route: &Arc<Route>, is_whole: bool) {
        let is_innermost = self.route.is_none() && self.other_method.is_none();
        self.add_outer(route);
        self.is_pattern = is_innermost && is_whole && route.pattern().is_normal;
    }

    /// As `add_outer`, with the values of that route's parameters.
    pub(crate) fn add_with_values(&mut self, route: &Arc<Route>, values: Values) {
        if self.routes().all(|route| matches!(route.place, RoutePlace::Fallback)) {
            self.values = values.some();
        }
        self.add_outer(route);
    }

    /// Notes a route of the pattern that has matched, and the values of that pattern's parameters: none of its routes has the
    /// method.
    pub(crate) fn add_other_method(&mut self, route: &Arc<Route>, values: Values) {
        self.other_method = Some(Arc::clone(route));
        self.values = values.some();
    }

    /// How long the handler of this route takes. None without a route.
    pub(crate) fn latency(&self) -> Option<&HandlerLatency> {
        self.route.as_ref().map(|route| &route.latency)
    }

    /// The number of the route: other numbers for other routes, also below other prefixes. 0 without a route.
    pub(crate) fn number(&self) -> u64 {
        // Exact for up to 65,535 routes and three prefixes.
        self.routes().fold(0, |number, route| number << 16 | u64::from(route.number))
    }

    /// The prefixes and the pattern of the route, as [`RequestExt::pattern`](crate::RequestExt::pattern) has them; empty
    /// without a route.
    pub(crate) fn pattern(&self) -> String {
        let placed = || self.routes().filter(|route| !matches!(route.place, RoutePlace::Fallback));
        match placed().next() {
            Some(innermost) if !innermost.is_nest() || self.is_opaque => {}
            _ => return String::new(),
        }
        let mut patterns: Vec<&str> = Vec::new();
        for (i, route) in placed().enumerate() {
            // A router that is the handler of an ordinary route has the whole path.
            if i == 0 || route.is_nest() {
                patterns.push(&route.pattern().text);
            }
        }
        patterns.into_iter().rev().collect()
    }

    /// Bytes on the heap.
    pub(crate) fn held(&self) -> usize {
        self.values.as_ref().map_or(0, Values::held)
    }

    /// Adds the route of a nested handler, and the bytes of the path that its prefix has matched.
    pub(crate) fn add_nest(&mut self, route: &Arc<Route>, prefix: usize) {
        self.is_opaque = self.route.is_none() && self.instead.is_none();
        self.prefix = self.prefix.saturating_add(prefix);
        self.add_outer(route);
    }

    /// As `add_nest`, for a path that begins with the prefix in its normal spelling.
    pub(crate) fn add_literal_nest(&mut self, route: &Arc<Route>, prefix: usize) {
        let is_pattern = self.is_pattern && route.pattern().is_normal;
        self.add_nest(route, prefix);
        self.is_pattern = is_pattern;
    }

    /// As `add_nest`, with the values of the prefix's parameters.
    pub(crate) fn add_nest_with_values(&mut self, route: &Arc<Route>, mut values: Values, prefix: usize) {
        self.values.iter().flat_map(Values::iter).for_each(|value| values.push(value));
        self.values = values.some();
        self.add_nest(route, prefix);
    }

    /// All routes, the innermost first. One for another method answers nothing, and only its pattern counts.
    fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.other_method.iter().chain(&self.route).chain(self.outer())
    }

    /// The routes in the routers around the innermost one, the innermost of them first.
    fn outer(&self) -> impl DoubleEndedIterator<Item = &Arc<Route>> {
        self.outer.iter().flat_map(OuterRoutes::iter)
    }

    /// The route whose pattern is the request's. None if it is nested, or if none matched.
    fn sole_route(&self) -> Option<&Arc<Route>> {
        let is_sole = self.outer.is_none() && self.other_method.is_none();
        self.route.as_ref().filter(|route| is_sole && matches!(route.place, RoutePlace::At(_)))
    }

    /// The route at a depth, counted from the outermost.
    fn route_at(&self, depth: usize) -> Option<&Route> {
        match &self.outer {
            None if depth == 0 => self.route.as_deref(),
            None => None,
            Some(outer) => match outer.len().checked_sub(depth)? {
                0 => self.route.as_deref(),
                left => outer.get(left.saturating_sub(1)),
            },
        }
    }

    /// Attaches the route that matched to the request. Once guards were asked, that is done.
    #[inline(always)]
    pub(crate) fn attach(&mut self, request: &mut Request) {
        // A route that is attached already is replaced.
        let is_attached = || self.outer.is_some() && request.extensions().get::<Matched>().is_some();
        if self.is_pattern && !is_attached() {
            request.body_mut().set_routed(self.prefix);
        } else if self.guards != Guards::Asked {
            self.attach_match(request);
        }
    }

    fn attach_match(&mut self, request: &mut Request) {
        let is_nested = |route: &&Arc<Route>| route.is_nest();
        let nests: Vec<_> = self.outer().rev().chain(&self.route).filter(is_nested).cloned().collect();
        let is_placed = |route: &&Arc<Route>| !matches!(route.place, RoutePlace::Fallback);
        let Some(route) = self.routes().find(is_placed).map(Arc::clone) else { return };
        let has_pattern = !route.is_nest() || self.is_opaque;
        let values = self.values.take().unwrap_or_default();
        let matched = Matched { route, nests, values, prefix: self.prefix, has_pattern };
        request.extensions_mut().insert(matched);
    }
}

/// The route that matched a request, kept in the request's extensions.
#[derive(Clone)]
pub(crate) struct Matched {
    /// The innermost route that is no fallback: that of a nested handler, if this has no route for the path.
    route: Arc<Route>,
    /// Those whose prefixes the path begins with, the outermost first.
    nests: Vec<Arc<Route>>,
    values: Values,
    prefix: usize,
    has_pattern: bool,
}

impl Matched {
    /// The prefixes and the pattern of the route.
    pub(crate) fn pattern(&self) -> Option<Cow<'_, str>> {
        if !self.has_pattern {
            return None;
        }
        Some(match &*self.nests {
            [] => Cow::Borrowed(&self.route.pattern().text),
            _ => self.patterns().map(|pattern| &*pattern.text).collect(),
        })
    }

    /// As `pattern`, for what outlives the request.
    pub(crate) fn shared_pattern(&self) -> Option<SharedPattern> {
        let is_own = self.has_pattern && self.nests.is_empty();
        if is_own {
            return Some(SharedPattern::Of(Arc::clone(&self.route)));
        }
        self.pattern().map(|text| SharedPattern::Text(text.into()))
    }

    /// Those of the prefixes and of the route, in the order of the path.
    fn patterns(&self) -> impl Iterator<Item = &Pattern> + Clone {
        let own = (!self.route.is_nest()).then_some(&self.route);
        self.nests.iter().chain(own).map(|route| route.pattern())
    }

    /// Bytes of the path that the prefixes have matched.
    pub(crate) fn prefix(&self) -> usize {
        self.prefix
    }

    /// How many parameters the route's own pattern has.
    pub(crate) fn own_params(&self) -> usize {
        if self.route.is_nest() { 0 } else { self.route.pattern().names.len() }
    }

    /// The parameters, in the order of the pattern.
    pub(crate) fn params(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        let names = self.patterns().flat_map(|pattern| &pattern.names);
        names.zip(self.values.iter()).map(|(name, value)| (&**name, value))
    }

    /// The first parameter of this name.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        let mut before: usize = 0;
        for pattern in self.patterns() {
            if let Some(at) = pattern.names.iter().position(|own| own == name) {
                return self.values.get(before.saturating_add(at));
            }
            before = before.saturating_add(pattern.names.len());
        }
        None
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
