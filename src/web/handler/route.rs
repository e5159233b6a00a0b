//! A handler in a router, and the routes around it.

use std::fmt;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::Method;

use super::Handler;
use crate::net::scheduler::latency::HandlerLatency;

/// A handler in a router.
pub(crate) struct Route {
    /// None: any.
    pub(crate) method: Option<Method>,
    pub(crate) place: RoutePlace,
    pub(crate) handler: Arc<dyn Handler>,
    pub(super) latency: HandlerLatency,
    /// Each has another, from 1 on.
    pub(super) number: u32,
}

/// Which paths a route is for.
#[derive(Debug)]
pub(crate) enum RoutePlace {
    At(Pattern),
    /// All paths that begin with it. The handler's routes are for what follows.
    Nest(Pattern),
    /// All paths without another route.
    Fallback,
}

impl Route {
    pub(crate) fn new(method: Option<Method>, place: RoutePlace, handler: Arc<dyn Handler>) -> Route {
        static ROUTES: AtomicU32 = AtomicU32::new(1);
        let number = ROUTES.fetch_add(1, Ordering::Relaxed);
        Route { method, place, handler, latency: HandlerLatency::new(), number }
    }

    pub(super) fn is_nest(&self) -> bool {
        matches!(self.place, RoutePlace::Nest(_))
    }

    /// Empty for a fallback.
    pub(crate) fn pattern(&self) -> &Pattern {
        static NONE: Pattern = Pattern { text: String::new(), names: Vec::new(), is_normal: false };
        match &self.place {
            RoutePlace::At(pattern) | RoutePlace::Nest(pattern) => pattern,
            RoutePlace::Fallback => &NONE,
        }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("method", &self.method)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// A route's pattern, and the names of its parameters in order.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) text: String,
    pub(crate) names: Vec<String>,
    /// Whether it is in its normal spelling, which paths are compared with.
    pub(crate) is_normal: bool,
}

/// The pattern of a route that matched.
#[derive(Clone, Debug)]
pub(crate) enum SharedPattern {
    Of(Arc<Route>),
    Text(Box<str>),
}

impl SharedPattern {
    pub(crate) fn text(&self) -> &str {
        match self {
            SharedPattern::Of(route) => &route.pattern().text,
            SharedPattern::Text(text) => text,
        }
    }
}

/// Routes in the routers around another one, the innermost first: mostly one, for which nothing is allocated.
pub(super) struct OuterRoutes {
    first: Arc<Route>,
    further: Vec<Arc<Route>>,
}

impl OuterRoutes {
    pub(super) fn add(outer: &mut Option<OuterRoutes>, route: Arc<Route>) {
        match outer {
            None => *outer = Some(OuterRoutes { first: route, further: Vec::new() }),
            Some(outer) => outer.further.push(route),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.further.len().saturating_add(1)
    }

    pub(super) fn get(&self, at: usize) -> Option<&Route> {
        match at.checked_sub(1) {
            None => Some(&self.first),
            Some(further) => self.further.get(further).map(|route| &**route),
        }
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Route>> {
        iter::once(&self.first).chain(&self.further)
    }
}
