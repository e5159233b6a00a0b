//! Which handler answers a request: by its path first, then by its method.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use http::header::ALLOW;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use matchit::{InsertError, Params};

use crate::base::percent::{decoded_text, normal_path};
use crate::net::scheduler::latency::HandlerLatency;
use crate::web::handler::{Handler, Pattern, Resolved};
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
/// The path decides first, then the method: a path with routes for other methods only is not
/// looked for elsewhere.
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
/// | a known path, another method | 405 with `Allow` |
/// | HEAD where there is a GET | the handler of GET; the body is not sent |
/// | OPTIONS without a route for it | 204 with `Allow`; for `*`, the methods of all routes |
/// | a path with a `%` without its two digits, or a parameter that is not UTF-8 | 400 |
/// | a method that HTTP does not define and no route has; CONNECT | 501 |
///
/// Registering can't fail: what can't be meant (a malformed pattern, a route registered twice, two
/// patterns for the same paths) is kept out and reported by [`check`](Handler::check), which the
/// server asks before it serves.
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
    /// What is in the tree for a `{*name}` that is empty. A route of the program's goes before.
    implied: Vec<String>,
    fallbacks: Vec<Fallback>,
    fallback_tree: matchit::Router<usize>,
    mistakes: Vec<Mistake>,
    /// Methods of routes that HTTP does not define.
    extensions: Vec<Method>,
}

struct Path {
    pattern: Arc<Pattern>,
    /// The pattern in the spelling that paths are compared in.
    normal: String,
    routes: Vec<Route>,
    allow: HeaderValue,
}

struct Route {
    /// None: any.
    method: Option<Method>,
    handler: Box<dyn Handler>,
    latency: HandlerLatency,
}

struct Fallback {
    /// Of the paths it is for; empty for all.
    prefix: String,
    route: Route,
    mistake: Option<String>,
}

/// What was registered and can't be used. It keeps its route, which may be right once it is nested.
struct Mistake {
    route: Option<(String, Route)>,
    why: String,
}

impl Router {
    /// A router without routes: it answers 404 to everything.
    pub fn new() -> Router {
        Router {
            paths: Vec::new(),
            tree: matchit::Router::new(),
            implied: Vec::new(),
            fallbacks: Vec::new(),
            fallback_tree: matchit::Router::new(),
            mistakes: Vec::new(),
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

    /// Answers HEAD, where the handler of GET would do too much.
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
        self.add(pattern.to_owned(), Route::new(Some(method), handler));
        self
    }

    /// Answers every method that has no route of its own at this pattern (for HEAD: neither it nor
    /// GET), OPTIONS and unknown ones included.
    #[must_use]
    pub fn any(mut self, pattern: &str, handler: impl Handler) -> Router {
        self.add(pattern.to_owned(), Route::new(None, handler));
        self
    }

    /// Answers, in place of 404, every path without route, whatever the method. Of a nested router:
    /// every such path under its prefix. It has no pattern and no parameters.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// let router = Router::new().fallback(|_: Request| (StatusCode::NOT_FOUND, "not here\n"));
    /// # router.check().unwrap();
    /// ```
    #[must_use]
    pub fn fallback(mut self, handler: impl Handler) -> Router {
        self.add_fallback(String::new(), Route::new(None, handler));
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
            self.mistakes.push(Mistake { route: None, why });
        }
        for path in router.paths {
            for route in path.routes {
                self.add(format!("{prefix}{}", path.pattern.text), route);
            }
        }
        for mistake in router.mistakes {
            match mistake.route {
                Some((pattern, route)) => self.add(format!("{prefix}{pattern}"), route),
                None => self.mistakes.push(mistake),
            }
        }
        for fallback in router.fallbacks {
            self.add_fallback(format!("{prefix}{}", fallback.prefix), fallback.route);
        }
        self
    }

    fn add(&mut self, pattern: String, route: Route) {
        match self.place(&pattern, route.method.as_ref()) {
            Ok(index) => {
                self.extensions.extend(route.method.clone().filter(|m| !is_standard(m)));
                if let Some(path) = self.paths.get_mut(index) {
                    path.routes.push(route);
                    path.allow = allow(&path.routes);
                }
            }
            Err(why) => self.mistakes.push(Mistake { route: Some((pattern, route)), why }),
        }
    }

    /// The index in `paths` where a route belongs.
    fn place(&mut self, pattern: &str, method: Option<&Method>) -> Result<usize, String> {
        let label = Label(method, pattern);
        if method == Some(&Method::CONNECT) {
            return Err(format!("{label}: CONNECT has no path and can't be routed"));
        }
        let parsed = parsed(pattern).map_err(|why| format!("{label}: {why}"))?;
        let mut numbered = self.paths.iter().enumerate();
        if let Some((index, path)) = numbered.find(|(_, p)| p.normal == parsed.normal) {
            if path.routes.iter().any(|r| r.method.as_ref() == method) {
                return Err(format!("{label} is registered twice"));
            }
            return Ok(index);
        }
        let index = self.paths.len();
        match self.insert(&parsed.normal, index) {
            Ok(()) => {
                if let Some(empty) = parsed.without_rest() {
                    // An error means that the program has a route for it.
                    if self.tree.insert(empty, index).is_ok() {
                        self.implied.push(empty.to_owned());
                    }
                }
                let pattern = Arc::new(Pattern { text: pattern.to_owned(), names: parsed.names });
                let normal = parsed.normal;
                self.paths.push(Path { pattern, normal, routes: Vec::new(), allow: allow(&[]) });
                Ok(index)
            }
            Err(InsertError::Conflict { with }) => {
                let of = |p: &&Path| p.normal == with;
                let other = self.paths.iter().find(of).and_then(|p| Some((p, p.routes.first()?)));
                let other = other
                    .map_or(with.clone(), |(p, r)| Label(r.method.as_ref(), &p.pattern.text).to_string());
                Err(format!("{label} conflicts with {other}: some paths would match both"))
            }
            Err(e) => Err(format!("{label}: {}", malformed(&e))),
        }
    }

    /// Into the tree, in place of what is only implied.
    fn insert(&mut self, normal: &str, index: usize) -> Result<(), InsertError> {
        let inserted = self.tree.insert(normal, index);
        let Err(InsertError::Conflict { with }) = &inserted else { return inserted };
        let Some(at) = self.implied.iter().position(|implied| implied == with) else { return inserted };
        self.tree.remove(self.implied.swap_remove(at));
        self.tree.insert(normal, index)
    }

    fn add_fallback(&mut self, prefix: String, route: Route) {
        let index = self.fallbacks.len();
        let added = parsed(&format!("{prefix}/")).and_then(|Parsed { normal, .. }| {
            let bare = normal.strip_suffix('/').unwrap_or_default().to_owned();
            let patterns = [format!("{normal}{{*rest}}"), normal, bare];
            for pattern in patterns.into_iter().filter(|p| !p.is_empty()) {
                self.fallback_tree.insert(pattern, index).map_err(|e| match e {
                    InsertError::Conflict { .. } => "there is another one for the same paths".to_owned(),
                    e => malformed(&e).to_owned(),
                })?;
            }
            Ok(())
        });
        // Kept even so: some of the patterns may have found their place.
        self.fallbacks.push(Fallback { prefix, route, mistake: added.err() });
    }

    fn knows(&self, method: &Method) -> bool {
        is_standard(method) || self.extensions.contains(method)
    }
}

impl Handler for Router {
    fn call(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let mut found = self.resolve(&parts);
        let mut request = Request::from_parts(parts, body);
        found.attach(&mut request);
        match (found.refusal, found.endpoint) {
            (Some(refusal), Some(endpoint)) => endpoint.refuse(request, refusal),
            (Some(refusal), None) => refusal,
            (None, Some(endpoint)) => endpoint.call(request),
            (None, None) => plain(StatusCode::NOT_FOUND),
        }
    }

    fn resolve(&self, head: &Parts) -> Resolved<'_> {
        let method = &head.method;
        if *method == Method::CONNECT {
            // A 2xx would open a tunnel.
            return refused(plain(StatusCode::NOT_IMPLEMENTED));
        }
        let Some(asked) = normal_path(head.uri.path()) else {
            return refused(plain(StatusCode::BAD_REQUEST));
        };
        let hit = self.tree.at(&asked).ok();
        if let Some((path, hit)) = hit.and_then(|hit| Some((self.paths.get(*hit.value)?, hit))) {
            return match path.route(method) {
                Some(route) => match path.values(&hit.params) {
                    Some(values) => route.resolve(head, Some(&path.pattern), values),
                    None => refused(plain(StatusCode::BAD_REQUEST)),
                },
                None if *method == Method::OPTIONS => refused(allowing(StatusCode::NO_CONTENT, &path.allow)),
                None if self.knows(method) => refused(allowing(StatusCode::METHOD_NOT_ALLOWED, &path.allow)),
                None => refused(plain(StatusCode::NOT_IMPLEMENTED)),
            };
        }
        if asked == "*" && *method == Method::OPTIONS {
            let all = allow(self.paths.iter().flat_map(|p| &p.routes));
            return refused(allowing(StatusCode::NO_CONTENT, &all));
        }
        let hit = self.fallback_tree.at(&asked).ok();
        if let Some(fallback) = hit.and_then(|hit| self.fallbacks.get(*hit.value)) {
            return fallback.route.resolve(head, None, Vec::new());
        }
        refused(plain(if self.knows(method) { StatusCode::NOT_FOUND } else { StatusCode::NOT_IMPLEMENTED }))
    }

    fn refuse(&self, request: Request, refusal: Response) -> Response {
        let (parts, body) = request.into_parts();
        let endpoint = self.resolve(&parts).endpoint;
        match endpoint {
            Some(endpoint) => endpoint.refuse(Request::from_parts(parts, body), refusal),
            None => refusal,
        }
    }

    fn check(&self) -> Result<(), String> {
        let mut mistakes: Vec<String> = self.mistakes.iter().map(|m| m.why.clone()).collect();
        for path in &self.paths {
            for route in &path.routes {
                if let Err(why) = route.handler.check() {
                    mistakes.push(format!("{}: {why}", Label(route.method.as_ref(), &path.pattern.text)));
                }
            }
        }
        for fallback in &self.fallbacks {
            for why in fallback.mistake.clone().into_iter().chain(fallback.route.handler.check().err()) {
                mistakes.push(format!("the fallback for {}/: {why}", fallback.prefix));
            }
        }
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes.join("; ")) }
    }
}

impl Default for Router {
    fn default() -> Router {
        Router::new()
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes = self
            .paths
            .iter()
            .flat_map(|p| p.routes.iter().map(|r| Label(r.method.as_ref(), &p.pattern.text)));
        f.write_str("Router ")?;
        f.debug_list().entries(routes.map(|label| label.to_string())).finish()
    }
}

impl Path {
    fn route(&self, method: &Method) -> Option<&Route> {
        let of = |wanted: Option<&Method>| self.routes.iter().find(|r| r.method.as_ref() == wanted);
        let get = || if *method == Method::HEAD { of(Some(&Method::GET)) } else { None };
        of(Some(method)).or_else(get).or_else(|| of(None))
    }

    /// The parameters' values, decoded. None if one is not UTF-8.
    fn values(&self, params: &Params<'_, '_>) -> Option<Vec<String>> {
        let mut values: Vec<String> =
            params.iter().map(|(_, raw)| decoded_text(raw)).collect::<Option<_>>()?;
        // An empty rest is none of the tree's parameters.
        values.resize_with(self.pattern.names.len(), String::new);
        Some(values)
    }
}

impl Route {
    fn new(method: Option<Method>, handler: impl Handler) -> Route {
        Route { method, handler: Box::new(handler), latency: HandlerLatency::new() }
    }

    /// The handler may be a router itself, or have rules: what it knows goes before what we know.
    fn resolve<'h>(
        &'h self,
        head: &Parts,
        pattern: Option<&'h Arc<Pattern>>,
        values: Vec<String>,
    ) -> Resolved<'h> {
        let mut found = self.handler.resolve(head);
        found.endpoint = found.endpoint.or(Some(&*self.handler));
        found.latency = found.latency.or(Some(&self.latency));
        if found.pattern.is_none() {
            (found.pattern, found.values) = (pattern, values);
        }
        found
    }
}

/// A route as its author would name it.
struct Label<'a>(Option<&'a Method>, &'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.map_or("any", Method::as_str), self.1)
    }
}

fn refused<'h>(response: Response) -> Resolved<'h> {
    Resolved { refusal: Some(response), ..Resolved::default() }
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
fn allow<'r>(routes: impl IntoIterator<Item = &'r Route>) -> HeaderValue {
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

/// A pattern, taken apart.
struct Parsed {
    /// In the spelling that paths are compared in.
    normal: String,
    /// Of its parameters.
    names: Vec<String>,
    /// Where in `normal` a final `{*name}` begins.
    rest: Option<usize>,
}

impl Parsed {
    /// What matches the paths where the rest is empty.
    fn without_rest(&self) -> Option<&str> {
        self.normal.get(..self.rest?)
    }
}

/// Takes a pattern apart, or says why no path can match it.
fn parsed(pattern: &str) -> Result<Parsed, String> {
    if !pattern.starts_with('/') {
        return Err("a pattern begins with '/'".into());
    }
    if let Some(c) = pattern.chars().find(|c| matches!(c, '?' | '#') || c.is_whitespace() || c.is_control()) {
        return Err(format!("no path has a {c:?}"));
    }
    let spelled = |literal: &str| {
        let why = "a '%' comes before two hexadecimal digits (one that is meant as such is %25)";
        normal_path(literal).map(Cow::into_owned).ok_or(why)
    };
    let (mut normal, mut names, mut last) = (String::new(), Vec::<String>::new(), None);
    let (mut literal, mut rest) = (String::new(), pattern);
    while let Some((before, from)) = rest.find(['{', '}']).and_then(|at| rest.split_at_checked(at)) {
        literal.push_str(before);
        let mut chars = from.chars();
        let brace = chars.next().unwrap_or_default();
        rest = chars.as_str();
        if let Some(after) = rest.strip_prefix(brace) {
            literal.push(brace);
            rest = after;
            continue;
        }
        let Some((param, after)) = rest.split_once('}').filter(|_| brace == '{') else {
            return Err("a brace has no partner (one that is meant as such is written twice)".into());
        };
        let name = param.strip_prefix('*').unwrap_or(param);
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
            return Err(format!("{name:?} is no name for a parameter"));
        }
        if names.iter().any(|n| n == name) {
            return Err(format!("two parameters are named {name:?}"));
        }
        names.push(name.into());
        normal.push_str(&spelled(&std::mem::take(&mut literal))?);
        last = (name != param).then_some(normal.len());
        normal.push_str(&format!("{{{param}}}"));
        rest = after;
    }
    literal.push_str(rest);
    normal.push_str(&spelled(&literal)?);
    Ok(Parsed { normal, names, rest: last })
}

fn malformed(e: &InsertError) -> &'static str {
    match e {
        InsertError::InvalidParamSegment => "a segment can have one parameter only",
        InsertError::InvalidCatchAll => "{*name} can only be a whole segment, and the last",
        _ => "the pattern is malformed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::handler::{RouteLimits, RouteRules, max_body, streaming};
    use crate::{Body, IntoResponse, RequestExt};

    fn request(line: &str) -> Request {
        let (method, target) = line.split_once(' ').unwrap();
        http::Request::builder().method(method).uri(target).body(Body::empty()).unwrap()
    }

    /// Status, `Allow` if there is one, body.
    fn shown(response: impl IntoResponse) -> String {
        let mut response = response.into_response();
        let allow = response.headers().get(ALLOW).map(|v| format!(" [{}]", v.to_str().unwrap()));
        let body = response.body_mut().read_text().unwrap();
        let shown = format!("{}{} {body}", response.status().as_u16(), allow.unwrap_or_default());
        shown.trim_end().to_owned()
    }

    /// A handler that says its name, what matched and the parameters.
    fn says(name: &'static str) -> impl Handler {
        move |req: Request| {
            let params: Vec<String> = req.params().map(|(n, v)| format!("{n}={v}")).collect();
            format!("{name} {} {}", req.pattern().unwrap_or("-"), params.join("&"))
        }
    }

    fn check(router: &Router, cases: &[(&str, &str)]) {
        assert_eq!(router.check(), Ok(()));
        for (line, want) in cases {
            assert_eq!(shown(router.call(request(line))), *want, "{line}");
            // As the exchange does it: resolve, then call the endpoint.
            let (parts, body) = request(line).into_parts();
            let mut found = router.resolve(&parts);
            let mut request = Request::from_parts(parts, body);
            found.attach(&mut request);
            let got = match (found.refusal, found.endpoint) {
                (Some(refusal), _) => refusal,
                (None, Some(endpoint)) => {
                    assert!(found.latency.is_some(), "{line}");
                    endpoint.call(request)
                }
                (None, None) => panic!("{line}: neither endpoint nor refusal"),
            };
            assert_eq!(shown(got), *want, "{line}, resolved");
        }
    }

    #[test]
    fn paths_and_parameters() {
        let router = Router::new()
            .get("/", says("root"))
            .get("/users/{id}", says("user"))
            .get("/users/me", says("me"))
            .get("/users/{id}/posts/{post}", says("post"))
            .get("/img/{name}.png", says("png"))
            .get("/files/{*path}", says("file"))
            .get("/{{x}}", says("braces"));
        let cases = [
            ("GET /", "200 root /"),
            ("GET /users/7", "200 user /users/{id} id=7"),
            ("GET /users/7?id=8", "200 user /users/{id} id=7"),
            ("GET http://other/users/7", "200 user /users/{id} id=7"),
            ("GET /users/me", "200 me /users/me"),
            ("GET /users/7/posts/9", "200 post /users/{id}/posts/{post} id=7&post=9"),
            ("GET /img/a.png", "200 png /img/{name}.png name=a"),
            ("GET /files/a/b%20c/", "200 file /files/{*path} path=a/b c/"),
            ("GET /{x}", "200 braces /{{x}}"),
            ("GET /users", "404 404 Not Found"),
            ("GET /users/", "404 404 Not Found"),
            ("GET /users/7/", "404 404 Not Found"),
            ("GET /users/me/", "404 404 Not Found"),
            ("GET /files/", "200 file /files/{*path} path="),
            ("GET /files", "404 404 Not Found"),
            ("GET //", "404 404 Not Found"),
            ("GET *", "404 404 Not Found"),
        ];
        check(&router, &cases);
    }

    #[test]
    fn values_are_decoded_after_matching() {
        let router = Router::new().get("/{v}", says("v"));
        let cases = [
            ("GET /J%C3%B8", "200 v /{v} v=Jø"),
            ("GET /a%2fb%2F", "200 v /{v} v=a/b/"),
            ("GET /100%25+%61", "200 v /{v} v=100%+a"),
            ("GET /..", "200 v /{v} v=.."),
            ("GET /%FF", "400 400 Bad Request"),
            ("GET /%C3", "400 400 Bad Request"),
            ("GET /%", "400 400 Bad Request"),
            ("GET /%4", "400 400 Bad Request"),
            ("GET /%4x", "400 400 Bad Request"),
            ("GET /%+4", "400 400 Bad Request"),
            ("GET /%%34", "400 400 Bad Request"),
        ];
        check(&router, &cases);
    }

    #[test]
    fn paths_and_patterns_have_one_spelling() {
        let router = Router::new()
            .get("/café", says("café"))
            .get("/%7Euser", says("user"))
            .get("/a b/{v}".replace(' ', "%20").as_str(), says("space"))
            .get("/@{name}(1)", says("at"))
            .get("/a%2fb", says("slash"))
            .get("/{{x}}", says("braces"))
            .nest("/pr%69vate", Router::new().get("/ü/{*rest}", says("nested")).fallback(says("private")));
        let cases = [
            ("GET /caf%C3%A9", "200 café /café"),
            ("GET /caf%c3%a9", "200 café /café"),
            ("GET /%63af%c3%A9", "200 café /café"),
            ("GET /café", "200 café /café"),
            ("GET /~user", "200 user /%7Euser"),
            ("GET /%7euser", "200 user /%7Euser"),
            ("GET /%7Euser", "200 user /%7Euser"),
            ("GET /a%20b/%7Ec%2fd", "200 space /a%20b/{v} v=~c/d"),
            ("GET /%40%C3%A9%281%29", "200 at /@{name}(1) name=é"),
            ("GET /@x(1)", "200 at /@{name}(1) name=x"),
            ("GET /a%2Fb", "200 slash /a%2fb"),
            ("GET /a/b", "404 404 Not Found"),
            ("GET /a%252Fb", "404 404 Not Found"),
            ("GET /%7bx%7D", "200 braces /{{x}}"),
            ("GET /{x}", "200 braces /{{x}}"),
            ("GET /private/%C3%BC/%70%2f", "200 nested /pr%69vate/ü/{*rest} rest=p/"),
            ("GET /%70rivate/ü/", "200 nested /pr%69vate/ü/{*rest} rest="),
            ("GET http://h/%70rivate/x", "200 private -"),
            ("GET /privat%65/", "200 private -"),
            ("GET /%70rivate", "200 private -"),
            ("GET /private%2Fx", "404 404 Not Found"),
            ("GET /%2570rivate/x", "404 404 Not Found"),
            ("GET //private/x", "404 404 Not Found"),
            ("GET /./private/x", "404 404 Not Found"),
            ("GET /x/../private/x", "404 404 Not Found"),
            ("GET /Private/x", "404 404 Not Found"),
            ("GET /%", "400 400 Bad Request"),
            ("GET /caf%C3%A", "400 400 Bad Request"),
        ];
        check(&router, &cases);
    }

    #[test]
    fn a_rest_may_be_empty() {
        let router = Router::new()
            .any("/private/{*rest}", says("guard"))
            .get("/t/{id}/{*rest}", says("of id"))
            .get("/own/{*rest}", says("rest"))
            .get("/own/", says("own"))
            .get("/{*all}", says("all"));
        let cases = [
            ("GET /private/", "200 guard /private/{*rest} rest="),
            ("PUT /%70rivate/", "200 guard /private/{*rest} rest="),
            ("GET /private/x", "200 guard /private/{*rest} rest=x"),
            ("GET /private//", "200 guard /private/{*rest} rest=/"),
            ("GET /private", "200 all /{*all} all=private"),
            ("GET /t/7/", "200 of id /t/{id}/{*rest} id=7&rest="),
            ("GET /t/7/8", "200 of id /t/{id}/{*rest} id=7&rest=8"),
            ("GET /own/", "200 own /own/"),
            ("GET /own/x", "200 rest /own/{*rest} rest=x"),
            ("PUT /own/", "405 [GET, HEAD, OPTIONS] 405 Method Not Allowed"),
            ("GET /", "200 all /{*all} all="),
        ];
        check(&router, &cases);

        // Whichever is registered first: a route of the program's own goes before.
        let first = Router::new().get("/", says("own")).get("/{*all}", says("all"));
        let last = Router::new().get("/{*all}", says("all")).get("/", says("own")).post("/", says("post"));
        check(&first, &[("GET /", "200 own /"), ("GET /x", "200 all /{*all} all=x")]);
        let cases = [("GET /", "200 own /"), ("POST /", "200 post /"), ("GET /x", "200 all /{*all} all=x")];
        check(&last, &cases);
        let named = Router::new()
            .get("/{a}/{*rest}", says("rest"))
            .get("/{b}/", says("own"))
            .get("/lit/{*rest}", says("lit"));
        let cases = [
            ("GET /x/", "200 own /{b}/ b=x"),
            ("GET /x/y", "200 rest /{a}/{*rest} a=x&rest=y"),
            ("GET /lit/", "200 lit /lit/{*rest} rest="),
        ];
        check(&named, &cases);
        let nested = Router::new().nest("/n", Router::new().any("/{*rest}", says("n")).get("/", says("own")));
        check(&nested, &[("GET /n/", "200 own /n/"), ("GET /n/x", "200 n /n/{*rest} rest=x")]);
        // Wherever there are routes of both kinds, no path is without one.
        let fallback = Router::new().any("/private/{*rest}", says("guard")).fallback(says("fallback"));
        check(
            &fallback,
            &[("GET /private/", "200 guard /private/{*rest} rest="), ("GET /private", "200 fallback -")],
        );
    }

    #[test]
    fn methods() {
        let purge = Method::from_bytes(b"PURGE").unwrap();
        let router = Router::new()
            .get("/a", says("get"))
            .post("/a", says("post"))
            .put("/b", says("put"))
            .delete("/b", says("delete"))
            .patch("/b", says("patch"))
            .get("/c", says("get"))
            .head("/c", says("head"))
            .options("/c", says("options"))
            .any("/d", says("any"))
            .get("/d", says("get"))
            .route(purge, "/e", says("purge"));
        let cases = [
            ("GET /a", "200 get /a"),
            ("HEAD /a", "200 get /a"),
            ("POST /a", "200 post /a"),
            ("OPTIONS /a", "204 [GET, HEAD, OPTIONS, POST]"),
            ("PUT /a", "405 [GET, HEAD, OPTIONS, POST] 405 Method Not Allowed"),
            ("TRACE /a", "405 [GET, HEAD, OPTIONS, POST] 405 Method Not Allowed"),
            ("PURGE /a", "405 [GET, HEAD, OPTIONS, POST] 405 Method Not Allowed"),
            ("BREW /a", "501 501 Not Implemented"),
            ("get /a", "501 501 Not Implemented"),
            ("PUT /b", "200 put /b"),
            ("DELETE /b", "200 delete /b"),
            ("PATCH /b", "200 patch /b"),
            ("HEAD /b", "405 [DELETE, OPTIONS, PATCH, PUT] 405 Method Not Allowed"),
            ("HEAD /c", "200 head /c"),
            ("OPTIONS /c", "200 options /c"),
            ("GET /d", "200 get /d"),
            ("HEAD /d", "200 get /d"),
            ("OPTIONS /d", "200 any /d"),
            ("BREW /d", "200 any /d"),
            ("PURGE /e", "200 purge /e"),
            ("GET /e", "405 [OPTIONS, PURGE] 405 Method Not Allowed"),
            ("OPTIONS *", "204 [DELETE, GET, HEAD, OPTIONS, PATCH, POST, PURGE, PUT, TRACE]"),
            ("OPTIONS /x", "404 404 Not Found"),
            ("BREW /x", "501 501 Not Implemented"),
            ("PURGE /x", "404 404 Not Found"),
            ("CONNECT a:1", "501 501 Not Implemented"),
            ("CONNECT /d", "501 501 Not Implemented"),
        ];
        check(&router, &cases);
        check(&Router::new().get("/", says("get")), &[("OPTIONS *", "204 [GET, HEAD, OPTIONS]")]);
        check(&Router::default(), &[("OPTIONS *", "204 [OPTIONS]"), ("GET /", "404 404 Not Found")]);
    }

    #[test]
    fn the_path_decides_before_the_method() {
        let router = Router::new().get("/users/{id}", says("user")).post("/users/me", says("me"));
        check(&router, &[("GET /users/me", "405 [OPTIONS, POST] 405 Method Not Allowed")]);
    }

    #[test]
    fn nested_routers_and_fallbacks() {
        let deep = Router::new().get("/x", says("x"));
        let api = Router::new()
            .get("", says("bare"))
            .get("/", says("slash"))
            .post("/{id}", says("one"))
            .nest("/deep", deep)
            .fallback(says("api fallback"));
        let tenant = Router::new().get("/{id}", says("of tenant")).fallback(says("tenant fallback"));
        let router = Router::new().get("/api/v", says("outer")).nest("/api", api).nest("/t/{tenant}", tenant);
        let cases = [
            ("GET /api", "200 bare /api"),
            ("GET /api/", "200 slash /api/"),
            ("GET /api/v", "200 outer /api/v"),
            ("POST /api/7", "200 one /api/{id} id=7"),
            ("GET /api/7", "405 [OPTIONS, POST] 405 Method Not Allowed"),
            ("GET /api/deep/x", "200 x /api/deep/x"),
            ("GET /api/deep/y", "200 api fallback -"),
            ("GET /apix", "404 404 Not Found"),
            ("GET /t/a/b", "200 of tenant /t/{tenant}/{id} tenant=a&id=b"),
            ("GET /t/a", "200 tenant fallback -"),
            ("GET /t/a/b/c", "200 tenant fallback -"),
            ("GET /t/", "404 404 Not Found"),
            ("CONNECT a:1", "501 501 Not Implemented"),
        ];
        check(&router, &cases);

        let router = router.fallback(says("fallback"));
        let cases = [
            ("GET /", "200 fallback -"),
            ("BREW /x", "200 fallback -"),
            ("GET /apix/y", "200 fallback -"),
            ("GET /api/deep/y", "200 api fallback -"),
            ("CONNECT a:1", "501 501 Not Implemented"),
            ("OPTIONS *", "204 [GET, HEAD, OPTIONS, POST]"),
        ];
        check(&router, &cases);
    }

    #[test]
    fn a_router_can_be_a_handler_and_shared() {
        let inner = Arc::new(Router::new().get("/in/{id}", says("inner")));
        let boxed: Box<dyn Handler> = Box::new(Arc::clone(&inner));
        let router = Router::new().any("/in/{*rest}", boxed).fallback(inner);
        let cases = [
            ("GET /in/7", "200 inner /in/{id} id=7"),
            ("PUT /in/7", "405 [GET, HEAD, OPTIONS] 405 Method Not Allowed"),
            ("GET /in/7/8", "404 404 Not Found"),
            ("GET /x", "404 404 Not Found"),
        ];
        check(&router, &cases);
    }

    #[test]
    fn mistakes_name_the_routes() {
        let ok = || |_: Request| ();
        let cases = [
            (Router::new().get("/a", ok()).get("/a", ok()), "GET /a is registered twice"),
            (Router::new().any("/a", ok()).any("/a", ok()), "any /a is registered twice"),
            (
                Router::new().get("/u/{id}", ok()).post("/u/{name}", ok()),
                "POST /u/{name} conflicts with GET /u/{id}: some paths would match both",
            ),
            (
                Router::new().any("/{*rest}", ok()).get("/{x}", ok()),
                "GET /{x} conflicts with any /{*rest}: some paths would match both",
            ),
            (Router::new().get("a", ok()), "GET a: a pattern begins with '/'"),
            (Router::new().get("", ok()), "GET : a pattern begins with '/'"),
            (Router::new().get("/a?b", ok()), "GET /a?b: no path has a '?'"),
            (Router::new().get("/a b", ok()), "GET /a b: no path has a ' '"),
            (
                Router::new().get("/100%", ok()),
                "GET /100%: a '%' comes before two hexadecimal digits (one that is meant as such is %25)",
            ),
            (
                Router::new().get("/%{x}", ok()),
                "GET /%{x}: a '%' comes before two hexadecimal digits (one that is meant as such is %25)",
            ),
            (Router::new().get("/é", ok()).get("/%c3%a9", ok()), "GET /%c3%a9 is registered twice"),
            (
                Router::new().get("/é/{a}", ok()).get("/%C3%A9/{b}", ok()),
                "GET /%C3%A9/{b} conflicts with GET /é/{a}: some paths would match both",
            ),
            (Router::new().get("/{}", ok()), "GET /{}: \"\" is no name for a parameter"),
            (Router::new().get("/{a/b}", ok()), "GET /{a/b}: \"a/b\" is no name for a parameter"),
            (Router::new().get("/{a}/{a}", ok()), "GET /{a}/{a}: two parameters are named \"a\""),
            (
                Router::new().get("/{a", ok()),
                "GET /{a: a brace has no partner (one that is meant as such is written twice)",
            ),
            (
                Router::new().get("/a}", ok()),
                "GET /a}: a brace has no partner (one that is meant as such is written twice)",
            ),
            (Router::new().get("/{a}-{b}", ok()), "GET /{a}-{b}: a segment can have one parameter only"),
            (
                Router::new().get("/{*a}/b", ok()),
                "GET /{*a}/b: {*name} can only be a whole segment, and the last",
            ),
            (
                Router::new().route(Method::CONNECT, "/", ok()),
                "CONNECT /: CONNECT has no path and can't be routed",
            ),
            (
                Router::new().fallback(ok()).fallback(ok()),
                "the fallback for /: there is another one for the same paths",
            ),
            (
                Router::new().nest("/a/", Router::new()),
                "the prefix \"/a/\" of nested routes ends with '/', and their patterns begin with it",
            ),
            (Router::new().nest("a", Router::new().get("/b", ok())), "GET a/b: a pattern begins with '/'"),
            (
                Router::new().nest("/{id}", Router::new().get("/{id}", ok()).fallback(ok())),
                "GET /{id}/{id}: two parameters are named \"id\"",
            ),
            (
                Router::new().nest("a", Router::new().fallback(ok())),
                "the fallback for a/: a pattern begins with '/'",
            ),
            (
                Router::new().get("/b", ok()).nest("/a", Router::new().get("/b", ok()).get("/b", ok())),
                "GET /a/b is registered twice",
            ),
            (
                Router::new().any("/a", streaming(Arc::new(Router::new().get("b", ok())))),
                "any /a: GET b: a pattern begins with '/'",
            ),
            (
                Router::new().get("a", ok()).get("b", ok()),
                "GET a: a pattern begins with '/'; GET b: a pattern begins with '/'",
            ),
        ];
        for (router, why) in cases {
            assert_eq!(router.check(), Err(why.to_owned()));
            router.call(request("GET /a"));
        }
        assert_eq!(
            Router::new().nest("/a", Router::new().get("", ok())).check(),
            Ok(()),
            "right once nested"
        );
    }

    /// matchit has its own idea of conflicts; no two patterns may make it or us panic.
    #[test]
    fn no_patterns_panic() {
        let pieces = [
            "/", "/a", "/{x}", "/{y}", "/{x}s", "/p{x}", "/p{x}s", "/{*r}", "/é", "/{x}é", "/{{", "/}}a",
            "{", "}",
        ];
        let pairs: Vec<String> = pieces.iter().flat_map(|a| pieces.map(|b| format!("{a}{b}"))).collect();
        for a in pieces {
            for b in &pairs {
                let inner = Router::new().get(b, says("b")).fallback(says("b"));
                let router = Router::new().get(a, says("a")).get(b, says("b")).nest(a, inner);
                let _ = router.check();
                for path in ["/", "/a", "/ps", "/pé", "/{", "/a/ps", "/%C3%A9s/é"] {
                    let _ = router.call(request(&format!("GET {path}")));
                }
            }
        }
    }

    #[test]
    fn rules_are_found_before_the_body_is_read() {
        let ok = |_: Request| ();
        let rules = |streaming, body_bytes| RouteRules {
            streaming,
            limits: RouteLimits { body_bytes, ..RouteLimits::default() },
        };
        let inner = Router::new().post("/plain", ok).post("/small", max_body(1, ok));
        let router = Router::new()
            .post("/none", ok)
            .post("/streaming", streaming(ok))
            .post("/both", streaming(max_body(9, ok)))
            .post("/twice", max_body(8, max_body(7, ok)))
            .any("/plain", max_body(6, Arc::new(inner)))
            .fallback(streaming(ok));
        let cases = [
            ("POST /none", rules(false, None)),
            ("POST /streaming", rules(true, None)),
            ("POST /both", rules(true, Some(9))),
            ("POST /twice", rules(false, Some(7))),
            ("POST /plain", rules(false, Some(6))),
            ("POST /elsewhere", rules(true, None)),
        ];
        for (line, want) in cases {
            let (parts, _) = request(line).into_parts();
            let found = router.resolve(&parts);
            assert_eq!(found.rules, want, "{line}");
            let wrapped = found.wrapped();
            assert_eq!(wrapped.rules, want, "{line}");
            assert!(wrapped.endpoint.is_none() && wrapped.latency.is_some());
        }
    }

    #[test]
    fn each_route_has_its_own_pace() {
        let router = Router::new().get("/a", |_: Request| ()).post("/a", |_: Request| ());
        let latency = |line| router.resolve(&request(line).into_parts().0).latency.map(std::ptr::from_ref);
        assert_eq!(latency("GET /a"), latency("HEAD /a"));
        assert_ne!(latency("GET /a"), latency("POST /a"));
    }

    #[test]
    fn debug_lists_the_routes() {
        let router = Router::new().get("/a", |_: Request| ()).any("/b", |_: Request| ());
        assert_eq!(format!("{router:?}"), r#"Router ["GET /a", "any /b"]"#);
    }
}
