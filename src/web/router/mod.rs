//! Which handler answers a request: by its path first, then by its method.

mod pattern;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use http::header::ALLOW;
use http::{HeaderValue, Method, StatusCode};
use matchit::{InsertError, Params};

use self::pattern::{ParsedPattern, malformed};
use crate::base::percent::{decoded_text, normal_path};
use crate::web::handler::{
    Call, Handler, Pattern, Route, RouteMatch, Routes, Seal, call_by_hand, find_route, verify,
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
    /// From a path to its index in `paths`.
    tree: matchit::Router<usize>,
    /// The patterns in the tree for an empty `{*name}`. A route of the program replaces such a pattern.
    implied: Vec<String>,
    fallbacks: Vec<Fallback>,
    fallback_tree: matchit::Router<usize>,
    errors: Vec<RouteError>,
    /// Methods of routes that HTTP does not define.
    extensions: Vec<Method>,
}

/// All routes of one pattern.
struct Path {
    /// The pattern in the spelling that paths are compared in.
    normal: String,
    routes: Vec<Arc<Route>>,
    allow: HeaderValue,
}

/// A handler, and the method that it is for. None: any.
struct Endpoint {
    method: Option<Method>,
    handler: Arc<dyn Handler>,
}

struct Fallback {
    /// The prefix of its paths; empty for all paths.
    prefix: String,
    route: Arc<Route>,
    error: Option<String>,
}

/// A route that can't be used. It keeps its pattern and handler, which may become valid when the router is nested.
struct RouteError {
    unplaced: Option<(String, Endpoint)>,
    why: String,
}

impl Router {
    /// A router without routes: it answers every request with 404.
    pub fn new() -> Router {
        Router {
            paths: Vec::new(),
            tree: matchit::Router::new(),
            implied: Vec::new(),
            fallbacks: Vec::new(),
            fallback_tree: matchit::Router::new(),
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
        self.add(pattern.to_owned(), Endpoint { method: Some(method), handler: Arc::new(handler) });
        self
    }

    /// Answers every method that has no other route at this pattern, including OPTIONS and methods that HTTP does not
    /// define. (HEAD goes to a route for GET, if there is one.)
    #[must_use]
    pub fn any(mut self, pattern: &str, handler: impl Handler) -> Router {
        self.add(pattern.to_owned(), Endpoint { method: None, handler: Arc::new(handler) });
        self
    }

    /// Answers every path without a route, for all methods, instead of 404. The fallback of a nested router answers such
    /// paths under its prefix. It has no pattern and no parameters.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// let router = Router::new().fallback(|_: Request| (StatusCode::NOT_FOUND, "not here\n"));
    /// # router.check().unwrap();
    /// ```
    #[must_use]
    pub fn fallback(mut self, handler: impl Handler) -> Router {
        self.add_fallback(String::new(), Arc::new(handler));
        self
    }

    /// Adds the routes of `router`, with `prefix` before each of their patterns: `/users` under
    /// `/api` is `/api/users`, `/` is `/api/`, and an empty pattern is `/api`. The prefix may have
    /// parameters. Handlers see the whole path, and `ServeDir` looks for its parameter `path`, or else
    /// for the whole path.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// let users = Router::new().get("", |_: Request| "all\n").get("/{id}", |_: Request| "one\n");
    /// let router = Router::new().nest("/users", users);
    /// assert_eq!(router.check(), Ok(()));
    /// let mut response = router.call(http::Request::get("/users").body(Body::empty()).unwrap());
    /// assert_eq!(response.body_mut().read_text().unwrap(), "all\n");
    /// ```
    #[must_use]
    pub fn nest(mut self, prefix: &str, router: Router) -> Router {
        if prefix.ends_with('/') {
            let why = format!(
                "the prefix {prefix:?} of nested routes ends with '/', and their patterns begin with it"
            );
            self.errors.push(RouteError { unplaced: None, why });
        }
        for route in router.paths.iter().flat_map(|path| &path.routes) {
            let endpoint = Endpoint { method: route.method.clone(), handler: Arc::clone(&route.handler) };
            self.add(format!("{prefix}{}", route.pattern().text), endpoint);
        }
        for error in router.errors {
            match error.unplaced {
                Some((pattern, endpoint)) => self.add(format!("{prefix}{pattern}"), endpoint),
                None => self.errors.push(error),
            }
        }
        for fallback in &router.fallbacks {
            self.add_fallback(format!("{prefix}{}", fallback.prefix), Arc::clone(&fallback.route.handler));
        }
        self
    }

    fn add(&mut self, text: String, endpoint: Endpoint) {
        match self.place(&text, endpoint.method.as_ref()) {
            Ok((path, names)) => {
                let Endpoint { method, handler } = endpoint;
                if let Some(path) = self.paths.get_mut(path) {
                    let route = Route::new(method.clone(), Some(Pattern { text, names }), handler);
                    path.routes.push(Arc::new(route));
                    path.allow = allow(&path.routes);
                }
                self.extensions.extend(method.filter(|method| !is_standard(method)));
            }
            Err(why) => self.errors.push(RouteError { unplaced: Some((text, endpoint)), why }),
        }
    }

    /// The index in `paths` where a route belongs, and the names of its parameters.
    fn place(&mut self, text: &str, method: Option<&Method>) -> Result<(usize, Vec<String>), String> {
        let label = Label(method, text);
        if method == Some(&Method::CONNECT) {
            return Err(format!("{label}: CONNECT has no path and can't be routed"));
        }
        let parsed = ParsedPattern::of(text).map_err(|why| format!("{label}: {why}"))?;
        let mut numbered = self.paths.iter().enumerate();
        if let Some((index, path)) = numbered.find(|(_, path)| path.normal == parsed.normal) {
            if path.routes.iter().any(|route| route.method.as_ref() == method) {
                return Err(format!("{label} is registered twice"));
            }
            return Ok((index, parsed.names));
        }
        let index = self.paths.len();
        self.insert(&parsed.normal, index).map_err(|e| match e {
            InsertError::Conflict { with } => {
                let mut routes = self.paths.iter().filter(|path| path.normal == with).flat_map(|p| &p.routes);
                let other = routes.next().map_or(with.clone(), |route| Label::of(route).to_string());
                format!("{label} conflicts with {other}: some paths would match both")
            }
            e => format!("{label}: {}", malformed(&e)),
        })?;
        if let Some(empty) = parsed.without_rest() {
            // An error means that the program has a route for it.
            if self.tree.insert(empty, index).is_ok() {
                self.implied.push(empty.to_owned());
            }
        }
        self.paths.push(Path { normal: parsed.normal, routes: Vec::new(), allow: allow(&[]) });
        Ok((index, parsed.names))
    }

    /// Inserts into the tree, in place of a pattern that is only implied.
    fn insert(&mut self, normal: &str, index: usize) -> Result<(), InsertError> {
        let inserted = self.tree.insert(normal, index);
        let Err(InsertError::Conflict { with }) = &inserted else { return inserted };
        let Some(at) = self.implied.iter().position(|implied| implied == with) else { return inserted };
        self.tree.remove(self.implied.swap_remove(at));
        self.tree.insert(normal, index)
    }

    fn add_fallback(&mut self, prefix: String, handler: Arc<dyn Handler>) {
        let index = self.fallbacks.len();
        let added = ParsedPattern::of(&format!("{prefix}/")).and_then(|ParsedPattern { normal, .. }| {
            let bare = normal.strip_suffix('/').unwrap_or_default().to_owned();
            let patterns = [format!("{normal}{{*rest}}"), normal, bare];
            for pattern in patterns.into_iter().filter(|p| !p.is_empty()) {
                self.fallback_tree.insert(pattern, index).map_err(|e| match e {
                    InsertError::Conflict { .. } => "another one serves the same paths".to_owned(),
                    e => malformed(&e).to_owned(),
                })?;
            }
            Ok(())
        });
        // It is kept in any case: some of the patterns may be in the tree.
        let route = Arc::new(Route::new(None, None, handler));
        self.fallbacks.push(Fallback { prefix, route, error: added.err() });
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

    fn call_on_route(&self, request: Request, call: Call<'_>) -> Response {
        match call.next_route() {
            Ok((route, call)) => route.handler.call_on_route(request, call),
            Err(call) => call.into_refusal().map_or_else(|| plain(StatusCode::NOT_FOUND), |refusal| *refusal),
        }
    }
}

impl Routes for Router {
    fn find_route(&self, method: &Method, path: &str) -> RouteMatch {
        if *method == Method::CONNECT {
            // A 2xx would open a tunnel.
            return refused(StatusCode::NOT_IMPLEMENTED);
        }
        let Some(normal) = normal_path(path) else {
            return refused(StatusCode::BAD_REQUEST);
        };
        let hit = self.tree.at(&normal).ok();
        if let Some((known, hit)) = hit.and_then(|hit| Some((self.paths.get(*hit.value)?, hit))) {
            return match known.route(method) {
                Some(route) => match values(route, &hit.params) {
                    Some(values) => found(route, method, path, values),
                    None => refused(StatusCode::BAD_REQUEST),
                },
                None if *method == Method::OPTIONS => allowing(StatusCode::NO_CONTENT, &known.allow),
                None if self.knows(method) => allowing(StatusCode::METHOD_NOT_ALLOWED, &known.allow),
                None => refused(StatusCode::NOT_IMPLEMENTED),
            };
        }
        if normal == "*" && *method == Method::OPTIONS {
            return allowing(StatusCode::NO_CONTENT, &allow(self.paths.iter().flat_map(|path| &path.routes)));
        }
        let hit = self.fallback_tree.at(&normal).ok();
        if let Some(fallback) = hit.and_then(|hit| self.fallbacks.get(*hit.value)) {
            return found(&fallback.route, method, path, Vec::new());
        }
        refused(if self.knows(method) { StatusCode::NOT_FOUND } else { StatusCode::NOT_IMPLEMENTED })
    }

    fn verify(&self) -> Result<(), String> {
        let mut errors: Vec<String> = self.errors.iter().map(|error| error.why.clone()).collect();
        for route in self.paths.iter().flat_map(|path| &path.routes) {
            errors.extend(verify(&*route.handler).err().map(|why| format!("{}: {why}", Label::of(route))));
        }
        for Fallback { prefix, route, error } in &self.fallbacks {
            let both = error.clone().into_iter().chain(verify(&*route.handler).err());
            errors.extend(both.map(|why| format!("the fallback for {prefix}/: {why}")));
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
    fn route(&self, method: &Method) -> Option<&Arc<Route>> {
        let of = |wanted: Option<&Method>| self.routes.iter().find(|route| route.method.as_ref() == wanted);
        let get = || if *method == Method::HEAD { of(Some(&Method::GET)) } else { None };
        of(Some(method)).or_else(get).or_else(|| of(None))
    }
}

/// The parameters' values, decoded. None if one is not UTF-8.
fn values(route: &Route, params: &Params<'_, '_>) -> Option<Vec<String>> {
    let mut values: Vec<String> = params.iter().map(|(_, raw)| decoded_text(raw)).collect::<Option<_>>()?;
    // The tree has no parameter for an empty rest.
    values.resize_with(route.pattern().names.len(), String::new);
    Some(values)
}

/// The match of a route's handler, which may be a router or have limits, with this route added.
fn found(route: &Arc<Route>, method: &Method, path: &str, values: Vec<String>) -> RouteMatch {
    let mut found = find_route(&*route.handler, method, path);
    found.add_outer(route, values);
    found
}

/// A route as its author would name it.
struct Label<'a>(Option<&'a Method>, &'a str);

impl Label<'_> {
    fn of(route: &Route) -> Label<'_> {
        Label(route.method.as_ref(), &route.pattern().text)
    }
}

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.map_or("any", Method::as_str), self.1)
    }
}

fn refused(status: StatusCode) -> RouteMatch {
    RouteMatch::refused(plain(status))
}

fn allowing(status: StatusCode, allow: &HeaderValue) -> RouteMatch {
    let response = if status == StatusCode::NO_CONTENT { Response::default() } else { plain(status) };
    RouteMatch::refused(response.with_status(status).with_header(ALLOW, allow.clone()))
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
fn allow<'r>(routes: impl IntoIterator<Item = &'r Arc<Route>>) -> HeaderValue {
    let mut methods = BTreeSet::from(["OPTIONS"]);
    for route in routes {
        match &route.method {
            Some(method) => methods.insert(method.as_str()),
            None => {
                methods.extend(STANDARD.iter().map(Method::as_str));
                true
            }
        };
        if route.method == Some(Method::GET) {
            methods.insert("HEAD");
        }
    }
    let methods: Vec<&str> = methods.into_iter().collect();
    HeaderValue::try_from(methods.join(", ")).unwrap_or(HeaderValue::from_static("OPTIONS"))
}

#[cfg(test)]
mod tests;
