//! Which handler answers a request: by its path first, then by its method.

mod path_set;
mod pattern;

use std::collections::HashMap;
use std::fmt;
use std::iter;
use std::sync::{Arc, OnceLock};

use http::header::ALLOW;
use http::{HeaderValue, Method, StatusCode};
use matchit::{InsertError, Params};

pub(crate) use self::path_set::PathSet;
use self::pattern::{ParsedPattern, malformed};
use crate::base::key_hash::BuildKeyHasher;
use crate::base::percent::{decoded_text, normal_path};
use crate::web::handler::{
    Call, EarlyResponse, GuardWalk, Handler, Pattern, Route, RouteMatch, RoutePlace, Routes, Seal, Values,
    add_route, call_by_hand, literal_paths, verify,
};
use crate::web::response::{ResponseExt, plain};
use crate::{Request, Response};

/// Answers each path and method with the handler registered for it.
///
/// A pattern is a path, in which `{name}` stands for one segment or part of one (`/v{major}`,
/// `/{id}.json`) and `{*name}` at the end for all the rest, which may be empty: `/a/{*rest}` matches
/// `/a/`, but not `/a`. `{{` and `}}` are the braces themselves. Where several patterns match, literal
/// text goes before `{name}`, and that before `{*name}`. Handlers find the values with
/// [`RequestExt::param`](crate::RequestExt::param).
///
/// The path decides first, then the method: if a pattern matches and has no route for the method, other patterns are not
/// tried.
///
/// Paths and patterns are compared in one spelling, that of [`RequestExt::path`](crate::RequestExt::path):
/// `/caf%C3%A9`, `/caf%c3%a9` and `/café` are the same path, and so are `/~user` and `/%7Euser`. An
/// encoded slash (`%2F`) separates nothing. `/a`, `/a/`, `//a` and `/./a` all differ: neither empty
/// segments nor dot segments are resolved. What that means for a route that protects others is in
/// [`wrap`](crate::wrap#around-some-routes).
///
/// | request | answer |
/// | --- | --- |
/// | a path without route | the fallback, or else 404 |
/// | a path that has routes, but none for the method | 405 with `Allow` |
/// | HEAD where there is a GET | the handler of GET; the body is not sent |
/// | OPTIONS without a route for it | 204 with `Allow`; for `*`, the methods of all routes |
/// | a path with a `%` without its two digits, or a parameter that is not UTF-8 | 400 |
/// | a method that HTTP does not define and no route has; CONNECT | 501 |
///
/// The methods below do not fail: a mistake (a malformed pattern, a route registered twice, two patterns for the same paths)
/// is not registered, and is reported by [`check`](Handler::check). [`Server::serve`](crate::Server::serve) calls that, so
/// the mistake is an error at startup.
///
/// ```
/// use heirloom::prelude::*;
///
/// let router = Router::new()
///     .get("/", |_: Request| "hello\n")
///     .get("/users/{id}", |req: Request| format!("user {}\n", req.param("id").unwrap_or("?")))
///     .put("/files/{*path}", streaming(|_: Request| StatusCode::CREATED));
/// assert_eq!(router.check(), Ok(()));
///
/// let mut response = router.call(http::Request::get("/users/7").body(Body::empty()).unwrap());
/// assert_eq!(response.body_mut().read_text().unwrap(), "user 7\n");
/// let response = router.call(http::Request::post("/users/7").body(Body::empty()).unwrap());
/// assert_eq!(response.headers()["allow"], "GET, HEAD, OPTIONS");
/// ```
pub struct Router {
    paths: Vec<Path>,
    /// Made by the tree when it is first needed, for then no route is missing that goes before another.
    literal: OnceLock<LiteralPaths>,
    /// From a path to its index in `paths`.
    tree: matchit::Router<usize>,
    /// The patterns in the tree for an empty `{*name}`. A route of the program replaces such a pattern.
    implied: Vec<String>,
    fallback: Option<Arc<Route>>,
    errors: Vec<String>,
    /// Methods of routes that HTTP does not define.
    extensions: Vec<Method>,
}

/// The index in `paths` of each path without parameters, in its normal spelling, and the length of the prefix if it is that of
/// a nested handler. They spare most requests the walk through the tree, which has these paths too.
type LiteralPaths = HashMap<String, (usize, usize), BuildKeyHasher>;

/// All routes of one pattern.
struct Path {
    /// The pattern in the spelling that paths are compared in.
    normal: String,
    routes: Vec<Arc<Route>>,
    allow: HeaderValue,
}

/// The parameter for what follows the prefix of a nested handler; no name of a program's.
const BELOW: &str = "{*+}";

impl Router {
    /// A router without routes: it answers every request with 404.
    pub fn new() -> Router {
        Router {
            paths: Vec::new(),
            literal: OnceLock::new(),
            tree: matchit::Router::new(),
            implied: Vec::new(),
            fallback: None,
            errors: Vec::new(),
            extensions: Vec::new(),
        }
    }

    /// Answers GET, and HEAD if that has no route of its own.
    #[must_use]
    pub fn get(self, pattern: &str, handler: impl Handler) -> Router {
        self.route(Method::GET, pattern, handler)
    }

    /// Answers POST.
    #[must_use]
    pub fn post(self, pattern: &str, handler: impl Handler) -> Router {
        self.route(Method::POST, pattern, handler)
    }

    /// Answers PUT.
    #[must_use]
    pub fn put(self, pattern: &str, handler: impl Handler) -> Router {
        self.route(Method::PUT, pattern, handler)
    }

    /// Answers DELETE.
    #[must_use]
    pub fn delete(self, pattern: &str, handler: impl Handler) -> Router {
        self.route(Method::DELETE, pattern, handler)
    }

    /// Answers PATCH.
    #[must_use]
    pub fn patch(self, pattern: &str, handler: impl Handler) -> Router {
        self.route(Method::PATCH, pattern, handler)
    }

    /// Answers HEAD, if the handler of GET would do too much work for it.
    #[must_use]
    pub fn head(self, pattern: &str, handler: impl Handler) -> Router {
        self.route(Method::HEAD, pattern, handler)
    }

    /// Answers OPTIONS, in place of the router's own 204.
    #[must_use]
    pub fn options(self, pattern: &str, handler: impl Handler) -> Router {
        self.route(Method::OPTIONS, pattern, handler)
    }

    /// Answers this method, which need not be one that HTTP defines. CONNECT has no path and is
    /// not routed.
    #[must_use]
    pub fn route(mut self, method: Method, pattern: &str, handler: impl Handler) -> Router {
        self.add(Some(method), pattern, Arc::new(handler));
        self
    }

    /// Answers every method that has no other route at this pattern, including OPTIONS and methods that HTTP does not
    /// define. (HEAD goes to a route for GET, if there is one.)
    #[must_use]
    pub fn any(mut self, pattern: &str, handler: impl Handler) -> Router {
        self.add(None, pattern, Arc::new(handler));
        self
    }

    /// Answers every path without a route, for all methods, instead of 404. It has no pattern and no parameters. Paths below
    /// a [`nest`](Self::nest) are for the nested handler, which has its own.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// let router = Router::new().fallback(|_: Request| (StatusCode::NOT_FOUND, "not here\n"));
    /// # router.check().unwrap();
    /// ```
    #[must_use]
    pub fn fallback(mut self, handler: impl Handler) -> Router {
        self.set_fallback(Arc::new(Route::new(None, RoutePlace::Fallback, Arc::new(handler))));
        self
    }

    /// Gives `handler` all paths that begin with `prefix`: `/api`, `/api/`, and everything below. It may be a router, also a
    /// wrapped or limited one, or any other handler.
    ///
    /// - A nested router sees what follows the prefix: its `/users` is `/api/users`. Both `/api` and `/api/` are its `/`. What
    ///   it has no route for gets its 404, 405, OPTIONS and fallback, not those of the router around it, and they pass
    ///   through its wrappers.
    /// - A route of this router that is more precise, such as `/api/health`, goes before.
    /// - Handlers still see the whole path. [`RequestExt::pattern`](crate::RequestExt::pattern) is the whole pattern,
    ///   [`RequestExt::prefix`](crate::RequestExt::prefix) the part of the path before the nested router's. `ServeDir` serves
    ///   what follows the prefix.
    /// - The prefix may have parameters, which handlers find beside their own.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// use heirloom::wrap::Cors;
    ///
    /// let users = Router::new()
    ///     .get("/", |_: Request| "all\n")
    ///     .get("/{id}", |req: Request| format!("{}\n", req.pattern().unwrap_or_default()));
    /// let router = Router::new().nest("/users", users.wrap(Cors::any_origin()));
    /// assert_eq!(router.check(), Ok(()));
    ///
    /// let ask = |path| router.call(http::Request::get(path).body(Body::empty()).unwrap());
    /// assert_eq!(ask("/users").body_mut().read_text().unwrap(), "all\n");
    /// assert_eq!(ask("/users/7").body_mut().read_text().unwrap(), "/users/{id}\n");
    /// assert_eq!(ask("/users/7/x").headers()["access-control-allow-origin"], "*", "the nested router's 404");
    /// ```
    #[must_use]
    pub fn nest(mut self, prefix: &str, handler: impl Handler) -> Router {
        if let Err(why) = self.add_nest(prefix, Arc::new(handler)) {
            self.errors.push(format!("nest {prefix}{why}"));
        }
        self
    }

    /// Adds the routes of `router` to this one, under the same patterns, and its fallback.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// let admin = heirloom::admin::routes(&Handle::new());
    /// let router = Router::new().get("/", |_: Request| "hello\n").merge(admin);
    /// # router.check().unwrap();
    /// ```
    #[must_use]
    pub fn merge(mut self, router: Router) -> Router {
        for route in router.paths.iter().flat_map(|path| &path.routes) {
            let (text, handler) = (&route.pattern().text, Arc::clone(&route.handler));
            match &route.place {
                RoutePlace::Nest(_) => {
                    if let Err(why) = self.add_nest(text, handler) {
                        self.errors.push(format!("nest {text}{why}"));
                    }
                }
                _ => self.add(route.method.clone(), text, handler),
            }
        }
        self.errors.extend(router.errors);
        if let Some(fallback) = router.fallback {
            self.set_fallback(fallback);
        }
        self
    }

    fn set_fallback(&mut self, route: Arc<Route>) {
        if self.fallback.replace(route).is_some() {
            self.errors.push("there are two fallbacks".to_owned());
        }
    }

    fn add(&mut self, method: Option<Method>, text: &str, handler: Arc<dyn Handler>) {
        let label = Label(method.as_ref().map_or("any", Method::as_str), text);
        match self.place(label, method.as_ref()) {
            Ok((path, names)) => {
                let is_normal = self.paths.get(path).is_some_and(|path| path.normal == text);
                let pattern = Pattern { text: text.to_owned(), names, is_normal };
                self.push(path, Route::new(method.clone(), RoutePlace::At(pattern), handler));
                self.extensions.extend(method.filter(|method| !is_standard(method)));
            }
            Err(why) => self.errors.push(format!("{label}{why}")),
        }
    }

    fn push(&mut self, path: usize, route: Route) {
        if let Some(path) = self.paths.get_mut(path) {
            path.routes.push(Arc::new(route));
            path.allow = allow(&mut path.routes.iter());
        }
    }

    /// The index in `paths` where a route belongs, and the names of its parameters.
    ///
    /// # Errors
    /// What is to follow the route's label.
    fn place(&mut self, label: Label<'_>, method: Option<&Method>) -> Result<(usize, Vec<String>), String> {
        if method == Some(&Method::CONNECT) {
            return Err(": CONNECT has no path and can't be routed".to_owned());
        }
        let parsed = ParsedPattern::of(label.1).map_err(|why| format!(": {why}"))?;
        let mut numbered = self.paths.iter().enumerate();
        let same = |path: &Path| path.normal == parsed.normal && !path.is_nest();
        if let Some((index, path)) = numbered.find(|(_, path)| same(path)) {
            if path.routes.iter().any(|route| route.method.as_ref() == method) {
                return Err(" is registered twice".to_owned());
            }
            return Ok((index, parsed.names));
        }
        let index = self.paths.len();
        self.insert(&parsed.normal, index)?;
        if let Some(empty) = parsed.without_rest() {
            self.imply(empty, index);
        }
        self.paths.push(Path { normal: parsed.normal, routes: Vec::new(), allow: allow(&mut iter::empty()) });
        Ok((index, parsed.names))
    }

    fn add_nest(&mut self, prefix: &str, handler: Arc<dyn Handler>) -> Result<(), String> {
        if prefix.is_empty() || prefix.ends_with('/') {
            return Err(
                ": a prefix is not empty and does not end with '/' (`merge` adds routes without a prefix)"
                    .into(),
            );
        }
        let ParsedPattern { normal, names, .. } =
            ParsedPattern::of(prefix).map_err(|why| format!(": {why}"))?;
        let index = self.paths.len();
        self.insert(&format!("{normal}/{BELOW}"), index)?;
        self.imply(&format!("{normal}/"), index);
        self.imply(&normal, index);
        let pattern = Pattern { text: prefix.to_owned(), names, is_normal: normal == prefix };
        self.paths.push(Path { normal, routes: Vec::new(), allow: allow(&mut iter::empty()) });
        self.push(index, Route::new(None, RoutePlace::Nest(pattern), handler));
        Ok(())
    }

    /// Inserts into the tree, in place of a pattern that is only implied.
    ///
    /// # Errors
    /// What is to follow the route's label.
    fn insert(&mut self, normal: &str, index: usize) -> Result<(), String> {
        self.literal = OnceLock::new();
        let mut inserted = self.tree.insert(normal, index);
        if let Err(InsertError::Conflict { with }) = &inserted {
            if let Some(at) = self.implied.iter().position(|implied| implied == with) {
                self.tree.remove(self.implied.swap_remove(at));
                inserted = self.tree.insert(normal, index);
            }
        }
        inserted.map_err(|e| match e {
            InsertError::Conflict { with } => {
                let is_other =
                    |path: &&Path| path.normal == with || with == format!("{}/{BELOW}", path.normal);
                let mut routes = self.paths.iter().filter(is_other).flat_map(|path| &path.routes);
                let other = routes.next().map_or(with.clone(), |route| Label::of(route).to_string());
                format!(" conflicts with {other}: some paths would match both")
            }
            e => format!(": {}", malformed(&e)),
        })
    }

    /// Adds a pattern that follows from a route's, unless the program has a route for it.
    fn imply(&mut self, normal: &str, index: usize) {
        if self.tree.insert(normal, index).is_ok() {
            self.implied.push(normal.to_owned());
        }
    }

    fn literal(&self) -> &LiteralPaths {
        self.literal.get_or_init(|| {
            let mut literal = LiteralPaths::default();
            for (index, path) in self.paths.iter().enumerate() {
                let mut add = |path: &str, prefix| {
                    if self.tree.at(path).is_ok_and(|hit| *hit.value == index) {
                        literal.insert(path.to_owned(), (index, prefix));
                    }
                };
                let normal = &*path.normal;
                match path.routes.first() {
                    Some(route) if !route.pattern().names.is_empty() => {}
                    Some(nest) if path.is_nest() => literal_paths(&*nest.handler, &mut |below| {
                        add(&format!("{normal}{below}"), normal.len());
                        if below == "/" {
                            add(normal, normal.len());
                        }
                    }),
                    _ => add(normal, 0),
                }
            }
            literal
        })
    }

    fn knows(&self, method: &Method) -> bool {
        is_standard(method) || self.extensions.contains(method)
    }
}

impl Handler for Router {
    fn call(&self, request: Request) -> Response {
        call_by_hand(self, request)
    }

    fn routes(&self, _: Seal) -> Option<&dyn Routes> {
        Some(self)
    }

    fn guard_on_route(&self, request: &mut Request, walk: &mut GuardWalk<'_>) -> Result<(), EarlyResponse> {
        match walk.next_route() {
            Some(route) => route.handler.guard_on_route(request, walk),
            None => Ok(()),
        }
    }

    fn call_on_route(&self, mut call: Call<'_>) -> Response {
        match call.next_route() {
            Some(route) => route.handler.call_on_route(call),
            None => call.refused(),
        }
    }
}

impl Routes for Router {
    fn find_route(&self, method: &Method, path: &str, found: &mut RouteMatch) {
        if *method == Method::CONNECT {
            // A 2xx would open a tunnel.
            return found.refuse(plain(StatusCode::NOT_IMPLEMENTED));
        }
        // What follows a prefix may be empty.
        let (path, is_whole) = if path.is_empty() { ("/", false) } else { (path, true) };
        let literal =
            self.literal().get(path).and_then(|(index, prefix)| Some((self.paths.get(*index)?, *prefix)));
        match literal.and_then(|(known, prefix)| Some((known.route(method)?, prefix))) {
            Some((route, 0)) => {
                add_route(&*route.handler, method, path, found);
                return found.add_literal(route, is_whole);
            }
            Some((nest, prefix)) => {
                add_route(&*nest.handler, method, path.get(prefix..).unwrap_or_default(), found);
                return found.add_literal_nest(nest, prefix);
            }
            None => {}
        }
        let Some(normal) = normal_path(path) else {
            return found.refuse(plain(StatusCode::BAD_REQUEST));
        };
        let hit = self.tree.at(&normal).ok();
        if let Some((known, hit)) = hit.and_then(|hit| Some((self.paths.get(*hit.value)?, hit))) {
            return match known.route(method) {
                Some(route) => match values(route, &normal, &hit.params) {
                    None => found.refuse(plain(StatusCode::BAD_REQUEST)),
                    Some(values) if known.is_nest() => {
                        let below = below(&normal, &hit.params);
                        add_route(&*route.handler, method, normal.get(below..).unwrap_or_default(), found);
                        found.add_nest_with_values(route, values, below);
                    }
                    Some(values) => {
                        add_route(&*route.handler, method, path, found);
                        found.add_with_values(route, values);
                    }
                },
                None => {
                    if let Some(other) = known.routes.first() {
                        found
                            .add_other_method(other, values(other, &normal, &hit.params).unwrap_or_default());
                    }
                    found.refuse(if *method == Method::OPTIONS {
                        allowing(StatusCode::NO_CONTENT, &known.allow)
                    } else if self.knows(method) {
                        allowing(StatusCode::METHOD_NOT_ALLOWED, &known.allow)
                    } else {
                        plain(StatusCode::NOT_IMPLEMENTED)
                    });
                }
            };
        }
        if normal == "*" && *method == Method::OPTIONS {
            let mut all = self.paths.iter().flat_map(|path| &path.routes);
            return found.refuse(allowing(StatusCode::NO_CONTENT, &allow(&mut all)));
        }
        if let Some(route) = self.fallback.as_ref().filter(|_| normal.starts_with('/')) {
            add_route(&*route.handler, method, path, found);
            return found.add_outer(route);
        }
        let status = if self.knows(method) { StatusCode::NOT_FOUND } else { StatusCode::NOT_IMPLEMENTED };
        found.refuse(plain(status));
    }

    fn literal_paths(&self, each: &mut dyn FnMut(&str)) {
        self.literal().keys().for_each(|path| each(path));
    }

    fn verify(&self) -> Result<(), String> {
        let mut errors = self.errors.clone();
        for route in self.paths.iter().flat_map(|path| &path.routes).chain(&self.fallback) {
            errors.extend(verify(&*route.handler).err().map(|why| format!("{}: {why}", Label::of(route))));
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }
}

impl Default for Router {
    fn default() -> Router {
        Router::new()
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes = self.paths.iter().flat_map(|path| &path.routes);
        f.write_str("Router ")?;
        f.debug_list().entries(routes.map(|route| Label::of(route).to_string())).finish()
    }
}

impl Path {
    fn is_nest(&self) -> bool {
        self.routes.iter().any(|route| matches!(route.place, RoutePlace::Nest(_)))
    }

    #[inline(always)]
    fn route(&self, method: &Method) -> Option<&Arc<Route>> {
        let first = self.routes.first()?;
        if first.method.as_ref() == Some(method) { Some(first) } else { self.other_route(method) }
    }

    fn other_route(&self, method: &Method) -> Option<&Arc<Route>> {
        let of = |wanted: Option<&Method>| self.routes.iter().find(|route| route.method.as_ref() == wanted);
        let get = || if *method == Method::HEAD { of(Some(&Method::GET)) } else { None };
        of(Some(method)).or_else(get).or_else(|| of(None))
    }
}

/// The parameters' values, decoded. None if one is not UTF-8.
fn values(route: &Route, path: &str, params: &Params<'_, '_>) -> Option<Values> {
    let names = &route.pattern().names;
    let mut values = Values::with_room(names.len(), path.len());
    for name in names {
        // The tree has no parameter for an empty rest.
        values.push(&decoded_text(params.get(name).unwrap_or_default())?);
    }
    Some(values)
}

/// Where what follows the prefix of a nested handler begins: at a `/`, or at the end.
fn below(normal: &str, params: &Params<'_, '_>) -> usize {
    let rest = params.get("+").map_or(0, str::len);
    let slash = if rest > 0 || normal.ends_with('/') { 1 } else { 0 };
    normal.len().saturating_sub(rest).saturating_sub(slash)
}

/// A route as its author would name it: what was called, and the pattern.
#[derive(Clone, Copy)]
struct Label<'a>(&'a str, &'a str);

impl Label<'_> {
    fn of(route: &Route) -> Label<'_> {
        let text = &route.pattern().text;
        match route.place {
            RoutePlace::At(_) => Label(route.method.as_ref().map_or("any", Method::as_str), text),
            RoutePlace::Nest(_) => Label("nest", text),
            RoutePlace::Fallback => Label("the", "fallback"),
        }
    }
}

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.1)
    }
}

fn allowing(status: StatusCode, allow: &HeaderValue) -> Response {
    let response = if status == StatusCode::NO_CONTENT { Response::default() } else { plain(status) };
    response.with_status(status).with_header(ALLOW, allow.clone())
}

/// The methods HTTP defines and a path can have (RFC 9110 §9, RFC 5789).
const STANDARD: [Method; 8] = [
    Method::DELETE,
    Method::GET,
    Method::HEAD,
    Method::OPTIONS,
    Method::PATCH,
    Method::POST,
    Method::PUT,
    Method::TRACE,
];

fn is_standard(method: &Method) -> bool {
    STANDARD.contains(method)
}

/// The value of `Allow` for these routes.
fn allow(routes: &mut dyn Iterator<Item = &Arc<Route>>) -> HeaderValue {
    let mut methods = vec!["OPTIONS"];
    let mut add = |method| {
        if let Err(at) = methods.binary_search(&method) {
            methods.insert(at, method);
        }
    };
    for route in routes {
        match &route.method {
            Some(method) => add(method.as_str()),
            None => STANDARD.iter().for_each(|method| add(method.as_str())),
        }
        if route.method == Some(Method::GET) {
            add("HEAD");
        }
    }
    HeaderValue::try_from(methods.join(", ")).unwrap_or(HeaderValue::from_static("OPTIONS"))
}

#[cfg(test)]
mod tests;
