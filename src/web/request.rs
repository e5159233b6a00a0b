//! What a request provides beyond its head.

use std::borrow::Cow;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http::uri::Authority;

use crate::Request;
use crate::base::percent::normal_path;
use crate::base::phase::{Drain, PhaseWatch};
use crate::net::conn_info::{ClientWatch, PeerCredentials};
#[cfg(feature = "tls")]
use crate::net::tls::TlsInfo;
use crate::web::client::Client;
use crate::web::extract::{self, InputError, path::FromParams};
use crate::web::fields::{ascii, credentials};
use crate::web::handler::Matched;
use crate::web::handler::call_deadline::Deadline;

/// The fields after a chunked body, kept in the request's extensions.
#[derive(Clone)]
pub(crate) struct Trailers(pub(crate) HeaderMap);

/// Methods of a [`Request`]. A request that a test constructs has no peer and comes from a first generation that never
/// drains.
///
/// ```
/// use heirloom::prelude::*;
/// let router = Router::new().get("/users/{id}/{*rest}", |req: Request| {
///     let params: Vec<_> = req.params().map(|(_, value)| value).collect();
///     format!("{} {:?}", params.join(" "), req.query_str())
/// });
/// let mut response = router.call(http::Request::get("/users/J%C3%B8/a/b?c=d").body(Body::empty()).unwrap());
/// assert_eq!(response.body_mut().read_text().unwrap(), "Jø a/b Some(\"c=d\")");
/// ```
pub trait RequestExt: sealed::Sealed {
    /// The normalized path that routes are matched against and from which `ServeDir` takes file names: the path of the
    /// target, without the query, in the one spelling that all equivalent spellings share. A guard must check this path,
    /// not `uri().path()`, which is as the client sent it: `/%70rivate/x` is `/private/x`.
    ///
    /// Characters that a segment may contain (letters, digits, ``-._~!$&'()*+,;=:@``) are not encoded; every other byte is,
    /// with upper-case digits: `/caf%C3%A9`, and `%2F` for a slash that is not a separator. Nothing is decoded twice
    /// (`%2570` stays), and no segment is added or removed: `//`, `/./` and `/../` stay as they were sent. So compare
    /// whole paths or prefixes, and refuse dot segments if code behind the guard resolves them.
    ///
    /// It is computed from `uri()` at each call, without an allocation if that is normalized already. In a constructed
    /// request, a path with a malformed `%`, which the server and the router refuse, is left as it is.
    ///
    /// ```
    /// use heirloom::prelude::*;
    ///
    /// /// Refuses all paths below `/private/`.
    /// fn guard(request: Request, next: Next) -> Response {
    ///     if request.path().starts_with("/private/") {
    ///         return StatusCode::FORBIDDEN.into_response();
    ///     }
    ///     next.call(request)
    /// }
    /// let handler = (|_: Request| "ok").wrap(guard);
    /// for path in ["/private/x", "/%70rivate/x", "http://host/priv%61te/"] {
    ///     let response = handler.call(http::Request::get(path).body(Body::empty()).unwrap());
    ///     assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path}");
    /// }
    /// ```
    fn path(&self) -> Cow<'_, str>;

    /// The part of the path that matched `{name}` or `{*name}` in the route's pattern, percent-decoded. None if the pattern
    /// has no such parameter.
    ///
    /// The path is matched before it is decoded, so the value of `{name}` may contain a `/` that the client sent as `%2F`,
    /// and any value may contain `..`: check it before using it as a file name. The value of `{*name}` may be empty.
    fn param(&self, name: &str) -> Option<&str>;

    /// Every parameter of the path with its value, in the pattern's order.
    fn params(&self) -> impl Iterator<Item = (&str, &str)> + Clone;

    /// A parameter of the path, as a type that implements [`FromStr`].
    ///
    /// # Errors
    /// The value is not of that type. As a response this is a 404: the path names no resource. A parameter that the pattern
    /// does not have is a 500, and is logged.
    ///
    /// ```
    /// use heirloom::prelude::*;
    ///
    /// fn user(req: Request) -> Result<String, InputError> {
    ///     let id: u32 = req.param_as("id")?;
    ///     Ok(format!("user {id}\n"))
    /// }
    /// let router = Router::new().get("/users/{id}", user);
    /// let status = |path| router.call(http::Request::get(path).body(Body::empty()).unwrap()).status();
    /// assert_eq!((status("/users/7"), status("/users/ada")), (StatusCode::OK, StatusCode::NOT_FOUND));
    /// ```
    fn param_as<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, InputError>;

    /// The parameters of the path, as a tuple of types that implement [`FromStr`], in the pattern's order. Within a nested
    /// router, those of its own pattern, or with those of the prefix before them.
    ///
    /// # Errors
    /// As [`param_as`](Self::param_as): 404, or 500 if the pattern has another number of parameters.
    ///
    /// ```
    /// use heirloom::prelude::*;
    ///
    /// fn page(req: Request) -> Result<String, InputError> {
    ///     let (year, title) = req.params_as::<(u16, String)>()?;
    ///     Ok(format!("{title}, of {year}\n"))
    /// }
    /// let router = Router::new().get("/{year}/{title}", page);
    /// let mut response = router.call(http::Request::get("/2024/tea").body(Body::empty()).unwrap());
    /// assert_eq!(response.body_mut().read_text().unwrap(), "tea, of 2024\n");
    /// ```
    fn params_as<T: FromParams>(&self) -> Result<T, InputError>;

    /// The pattern of the route that matched, such as `/users/{id}`, by which to count and log requests. Within nested
    /// routers it begins with their prefixes: `/api/users/{id}`, and `/api/` for the `/` of one nested at `/api`. That of a
    /// nested handler without routes is its prefix. Wrappers see it on a 405 too, which answers a pattern without a route for the method.
    /// None for a fallback, where no route matches, and outside a router.
    fn pattern(&self) -> Option<Cow<'_, str>>;

    /// The part of [`path`](Self::path) that is the prefix of the innermost nested router: `/api` in all requests to a router
    /// that is nested at `/api`. Links within that router begin with it. Empty outside nested routers.
    ///
    /// ```
    /// use heirloom::prelude::*;
    ///
    /// let shop = Router::new().get("/", |req: Request| Redirect::see_other(format!("{}/items", req.prefix())));
    /// let router = Router::new().nest("/{town}/shop", shop);
    /// let response = router.call(http::Request::get("/york/shop/").body(Body::empty()).unwrap());
    /// assert_eq!(response.headers()["location"], "/york/shop/items");
    /// ```
    fn prefix(&self) -> Cow<'_, str>;

    /// The query after the `?`, as the client sent it.
    fn query_str(&self) -> Option<&str>;

    /// The head as the client sent it, from the request line to the empty line, for code that needs the case, the order
    /// or the spelling of its fields. Empty for a constructed request.
    fn head_text(&self) -> &[u8];

    /// The fields after a chunked body (RFC 9112 §7.1.2). None if there were none, and on streaming
    /// routes.
    fn trailers(&self) -> Option<&HeaderMap>;

    /// Whom this request is from, and through which proxies. The connection's peer, unless the listener trusts that as a proxy
    /// (`Listen::trust_proxies`, of the feature `proxy`): then the client that the proxy names. Decide and count by this
    /// address, not by [`peer_addr`](Self::peer_addr), which is a proxy's if there is one.
    ///
    /// It is computed at each call.
    ///
    /// ```
    /// use heirloom::prelude::*;
    ///
    /// /// Redirects requests without https.
    /// fn secured(request: Request, next: Next) -> Response {
    ///     if request.client().is_https() {
    ///         return next.call(request);
    ///     }
    ///     let host = request.host().unwrap_or("example.org".into());
    ///     Redirect::permanent(format!("https://{host}{}", request.uri())).into_response()
    /// }
    /// # let handler = (|_: Request| "ok").wrap(secured);
    /// # let request = heirloom::http::Request::get("/a").header("host", "a.example").body(Body::empty()).unwrap();
    /// # assert_eq!(handler.call(request).headers()["location"], "https://a.example/a");
    /// ```
    fn client(&self) -> Client;

    /// The host that the client has asked for, with a port if it is not the scheme's: of the target if that has one, or of
    /// `Host`. Behind a trusted proxy, what that says instead. A client may send any host.
    fn host(&self) -> Option<Cow<'_, str>>;

    /// The token of `Authorization: Bearer TOKEN` (RFC 6750 §2.1), with which API clients authenticate. None if there is
    /// no such field, or more than one, if it has another scheme, or something that is not a token.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// use heirloom::wrap::same_secret;
    ///
    /// const REFUSAL: (StatusCode, [(&str, &str); 1], ()) = (StatusCode::UNAUTHORIZED, [("www-authenticate", "Bearer")], ());
    ///
    /// /// A guard: it decides before the body is received.
    /// fn members_only(req: &mut Request) -> Result<(), EarlyResponse> {
    ///     let token = req.bearer_token().ok_or(REFUSAL)?;
    ///     if same_secret(token, "a-secret") { Ok(()) } else { Err(REFUSAL.into()) }
    /// }
    /// let router = Router::new().post("/notes", |_| StatusCode::CREATED).guard(members_only);
    /// let request = || http::Request::post("/notes");
    /// let status = |request: http::request::Builder| router.call(request.body(Body::empty()).unwrap()).status();
    /// assert_eq!(status(request()), StatusCode::UNAUTHORIZED);
    /// assert_eq!(status(request().header("authorization", "Bearer a-secret")), StatusCode::CREATED);
    /// ```
    fn bearer_token(&self) -> Option<&str>;

    /// The name of the listener, as given to [`Server::listen`](crate::Server::listen). None for a constructed request.
    fn listener(&self) -> Option<&str>;

    /// The other end of the connection: the client, or the proxy before it. None on a unix socket. An IPv4
    /// client of a listener for both families (`[::]:PORT`) has its IPv4 address, not `::ffff:192.0.2.1`.
    fn peer_addr(&self) -> Option<SocketAddr>;

    /// The process, user and group that connected to a unix socket. None on TCP, and once the connection is closed.
    ///
    /// ```
    /// use heirloom::prelude::*;
    ///
    /// /// Allowed for the user that the service runs as, and for root.
    /// fn reload(req: Request) -> Response {
    ///     let own = std::fs::metadata("/proc/self").map(|facts| std::os::unix::fs::MetadataExt::uid(&facts)).ok();
    ///     match req.peer_credentials() {
    ///         Some(peer) if peer.uid == 0 || Some(peer.uid) == own => "reloaded\n".into_response(),
    ///         _ => StatusCode::FORBIDDEN.into_response(),
    ///     }
    /// }
    /// let response = Router::new().post("/reload", reload).call(http::Request::post("/reload").body(Body::empty()).unwrap());
    /// assert_eq!(response.status(), StatusCode::FORBIDDEN, "a constructed request has no peer");
    /// ```
    fn peer_credentials(&self) -> Option<PeerCredentials>;

    /// Whether the client has ended the connection, so that a long handler may give up. Each call is a system call; a
    /// handler that does not call it pays nothing.
    ///
    /// A client that has shut down its side and still reads, as `nc -N` does, counts as gone: it can't be distinguished
    /// from a closed one until something is written. A response that is returned anyway is sent.
    ///
    /// It does not notice that a client's host or network has failed, which shows only when a write stalls; a client
    /// behind a proxy, unless the proxy closes; and, with TLS, an announced end (`close_notify`) before the socket's.
    ///
    /// ```
    /// use heirloom::prelude::*;
    ///
    /// fn search(req: Request) -> String {
    ///     let mut found = 0;
    ///     for (n, place) in (0..100_000_u64).enumerate() {
    ///         // Not at each step: it is a system call.
    ///         if n % 1000 == 0 && req.is_client_gone() {
    ///             break;
    ///         }
    ///         found += u64::from(place % 7 == 0);
    ///     }
    ///     format!("{found}\n")
    /// }
    /// let mut response = Router::new().get("/", search).call(Request::default());
    /// assert_eq!(response.body_mut().read_text().unwrap(), "14286\n");
    /// ```
    fn is_client_gone(&self) -> bool;

    /// A cloneable handle that reports [`RequestExt::is_client_gone`] after the request has been consumed, as in a stream
    /// that outlives it.
    fn client_watch(&self) -> ClientWatch;

    /// The parameters of the TLS connection: version, cipher suite, requested server name, client certificates. None
    /// without TLS.
    #[cfg(feature = "tls")]
    fn tls(&self) -> Option<&TlsInfo>;

    #[cfg(not(feature = "tls"))]
    #[doc(hidden)]
    fn tls(&self) -> Option<&str>
    where
        Self: crate::web::missing::Tls,
    {
        self.never()
    }

    /// Which generation serves this request: 1 for the process started by hand, 2 for its
    /// successor, and so on.
    fn generation(&self) -> u32;

    /// Whether this process is about to end, because of a stop or because a successor has taken over. A long handler
    /// should then finish. [`Timeouts::close_spread`](crate::Timeouts::close_spread) delays it until the turn of this connection.
    fn is_draining(&self) -> bool;

    /// Until when the handler must return its response, if its route has a [`deadline`](crate::deadline()).
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// use std::time::{Duration, Instant};
    ///
    /// /// The time for a query: what is left, or a minute without a deadline.
    /// fn time_left(req: &Request) -> Duration {
    ///     let left = req.deadline().map(|at| at.saturating_duration_since(Instant::now()));
    ///     left.unwrap_or(Duration::from_secs(60))
    /// }
    /// assert_eq!(time_left(&Request::default()), Duration::from_secs(60));
    /// ```
    fn deadline(&self) -> Option<Instant>;

    /// Whether the [`deadline`](Self::deadline) has passed, so that the client has a 503 and the handler should give up.
    fn is_past_deadline(&self) -> bool;

    /// A cloneable handle that reports [`RequestExt::is_draining`] after the request has been consumed, as in a stream that
    /// outlives it.
    fn drain(&self) -> Drain;

    /// Reads the rest of the body into memory.
    ///
    /// # Errors
    /// As [`Body::read_bytes`](crate::Body::read_bytes).
    fn bytes(&mut self) -> io::Result<Bytes>;

    /// Reads the rest of the body as a string.
    ///
    /// # Errors
    /// As [`Body::read_text`](crate::Body::read_text): `InvalidData` if it is not UTF-8.
    fn text(&mut self) -> io::Result<String>;

    /// Reads the body as JSON, if its `Content-Type` says that it is: `application/json`, or one that
    /// ends with `+json`. A feature: `json`.
    ///
    /// # Errors
    /// The fault, with line, column and field; converts to a response: 400, 413, 415, 422.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// # // needs the crate serde: it derives what is read
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Note {
    ///     stars: u8,
    /// }
    ///
    /// fn rate(mut req: Request) -> Result<String, InputError> {
    ///     let note: Note = req.json()?;
    ///     Ok(format!("{} stars\n", note.stars))
    /// }
    /// let router = Router::new().post("/", rate);
    /// let post = || http::Request::post("/").header("content-type", "application/json");
    /// let mut response = router.call(post().body("{\n\"stars\": 300}".into()).unwrap());
    /// assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    /// let said = response.body_mut().read_text().unwrap();
    /// assert!(said.starts_with("line 2, column 12: stars: invalid value"), "{said}");
    /// ```
    #[cfg(feature = "json")]
    fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, InputError>;

    #[cfg(not(feature = "json"))]
    #[doc(hidden)]
    fn json<T>(&mut self) -> Result<T, InputError>
    where
        Self: crate::web::missing::Json,
    {
        self.never()
    }

    /// Reads the body as a form (`application/x-www-form-urlencoded`). For forms with files there is
    /// [`multipart`](Self::multipart). A feature: `form`.
    ///
    /// A field that may be repeated, such as of checkboxes or `<select multiple>`, is a `Vec`, with `#[serde(default)]` also
    /// if it may be absent; other fields are refused if repeated. `on`, which browsers send for a checkbox, is true, and an
    /// empty field is None as an `Option` of a number or a `bool`.
    ///
    /// # Errors
    /// The fault, with the field; converts to a response: 413, 415, 422.
    #[cfg(feature = "form")]
    fn form<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, InputError>;

    #[cfg(not(feature = "form"))]
    #[doc(hidden)]
    fn form<T>(&mut self) -> Result<T, InputError>
    where
        Self: crate::web::missing::Form,
    {
        self.never()
    }

    /// Reads the body as a form with files (`multipart/form-data`), field by field: see [`Multipart`](crate::multipart::Multipart),
    /// which has the limits. The request keeps everything but its body. A feature: `multipart`.
    ///
    /// # Errors
    /// The body is not such a form; converts to a response: 400, 415.
    #[cfg(feature = "multipart")]
    fn multipart(&mut self) -> Result<crate::multipart::Multipart, InputError>;

    #[cfg(not(feature = "multipart"))]
    #[doc(hidden)]
    fn multipart(&mut self) -> Result<String, InputError>
    where
        Self: crate::web::missing::Multipart,
    {
        self.never()
    }

    /// Reads the query, as [`form`](Self::form) does a body. A feature: `form`.
    ///
    /// # Errors
    /// The fault, with the field; converts to a response: 400.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// # // needs the crate serde: it derives what is read
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Page {
    ///     #[serde(default)]
    ///     from: u32,
    /// }
    ///
    /// fn list(req: Request) -> Result<String, InputError> {
    ///     Ok(format!("from {}\n", req.query::<Page>()?.from))
    /// }
    /// let router = Router::new().get("/", list);
    /// let mut response = router.call(http::Request::get("/?from=x").body(Body::empty()).unwrap());
    /// assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    /// assert_eq!(response.body_mut().read_text().unwrap(), "from: invalid digit found in string\n");
    /// ```
    #[cfg(feature = "form")]
    fn query<T: serde::de::DeserializeOwned>(&self) -> Result<T, InputError>;

    #[cfg(not(feature = "form"))]
    #[doc(hidden)]
    fn query<T>(&self) -> Result<T, InputError>
    where
        Self: crate::web::missing::Form,
    {
        self.never()
    }

    /// The cookies that the client sent, except malformed ones: without a name, with a name that is not
    /// ASCII or a value that is not UTF-8. Those hide no others. A feature: `cookies`.
    #[cfg(feature = "cookies")]
    fn cookies(&self) -> impl Iterator<Item = cookie::Cookie<'_>>;

    #[cfg(not(feature = "cookies"))]
    #[doc(hidden)]
    fn cookies(&self) -> Vec<String>
    where
        Self: crate::web::missing::Cookies,
    {
        self.never()
    }

    /// The first cookie of this name. A feature: `cookies`.
    ///
    /// ```
    /// use heirloom::cookie::{Cookie, SameSite};
    /// use heirloom::prelude::*;
    ///
    /// fn visit(req: Request) -> Response {
    ///     let visits = req.cookie("visits").and_then(|c| c.value().parse::<u32>().ok()).unwrap_or(0) + 1;
    ///     let cookie = Cookie::build(("visits", visits.to_string())).http_only(true).same_site(SameSite::Lax);
    ///     format!("{visits}\n").into_response().with_cookie(cookie)
    /// }
    /// let again = http::Request::get("/").header("cookie", "a=b; visits=6").body(Body::empty()).unwrap();
    /// let response = Router::new().get("/", visit).call(again);
    /// assert_eq!(response.headers()["set-cookie"], "visits=7; HttpOnly; SameSite=Lax");
    /// ```
    #[cfg(feature = "cookies")]
    fn cookie(&self, name: &str) -> Option<cookie::Cookie<'_>>;

    #[cfg(not(feature = "cookies"))]
    #[doc(hidden)]
    fn cookie(&self, _name: &str) -> Option<String>
    where
        Self: crate::web::missing::Cookies,
    {
        self.never()
    }

    /// The cookie of this name that [`ResponseExt::with_private_cookie`](crate::ResponseExt::with_private_cookie) has made with this
    /// key, decrypted. None if there is none, or if somebody else has made it. A feature: `sessions`.
    ///
    /// ```
    /// use heirloom::cookie::Cookie;
    /// use heirloom::prelude::*;
    /// use heirloom::session::CookieKey;
    ///
    /// # fn main() -> Result<(), heirloom::Error> {
    /// let key = CookieKey::from_bytes(b"as in a test: not random, and known to everyone")?;
    /// let cookie = Cookie::build(("basket", "3 teapots")).http_only(true).secure(true);
    /// let response = "noted".into_response().with_private_cookie(cookie, &key);
    ///
    /// let again = http::Request::get("/").header("cookie", &response.headers()["set-cookie"]);
    /// let again = again.body(Body::empty()).unwrap();
    /// assert_eq!(again.private_cookie("basket", &key).unwrap().value(), "3 teapots");
    /// assert_ne!(again.cookie("basket").unwrap().value(), "3 teapots");
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "sessions")]
    fn private_cookie(&self, name: &str, key: &crate::session::CookieKey) -> Option<cookie::Cookie<'static>>;

    #[cfg(not(feature = "sessions"))]
    #[doc(hidden)]
    fn private_cookie<K>(&self, _name: &str, _key: &K) -> Option<String>
    where
        Self: crate::web::missing::Sessions,
    {
        self.never()
    }

    /// The cookie of this name that [`ResponseExt::with_signed_cookie`](crate::ResponseExt::with_signed_cookie) has made with this
    /// key. None if there is none, or if somebody else has made it. A feature: `sessions`.
    #[cfg(feature = "sessions")]
    fn signed_cookie(&self, name: &str, key: &crate::session::CookieKey) -> Option<cookie::Cookie<'static>>;

    #[cfg(not(feature = "sessions"))]
    #[doc(hidden)]
    fn signed_cookie<K>(&self, _name: &str, _key: &K) -> Option<String>
    where
        Self: crate::web::missing::Sessions,
    {
        self.never()
    }

    /// The client's session, if [`Sessions`](crate::session::Sessions) are around this route; otherwise one that is empty and
    /// takes nothing. A feature: `sessions`.
    #[cfg(feature = "sessions")]
    fn session(&self) -> crate::session::Session;

    #[cfg(not(feature = "sessions"))]
    #[doc(hidden)]
    fn session(&self) -> String
    where
        Self: crate::web::missing::Sessions,
    {
        self.never()
    }
}

impl RequestExt for Request {
    fn path(&self) -> Cow<'_, str> {
        let raw = self.uri().path();
        normal_path(raw).unwrap_or(Cow::Borrowed(raw))
    }

    fn param(&self, name: &str) -> Option<&str> {
        self.extensions().get::<Matched>()?.param(name)
    }

    fn params(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        let matched = self.extensions().get::<Matched>();
        matched.into_iter().flat_map(Matched::params)
    }

    fn param_as<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, InputError> {
        extract::path::read(name, self.param(name))
    }

    fn params_as<T: FromParams>(&self) -> Result<T, InputError> {
        let own = self.extensions().get::<Matched>().map_or(0, Matched::own_params);
        extract::path::read_all(self.params(), own)
    }

    fn pattern(&self) -> Option<Cow<'_, str>> {
        match self.extensions().get::<Matched>() {
            Some(matched) => matched.pattern(),
            None => self.body().routed_prefix().map(|_| Cow::Borrowed(self.uri().path())),
        }
    }

    fn prefix(&self) -> Cow<'_, str> {
        let routed = || self.body().routed_prefix();
        let bytes = self.extensions().get::<Matched>().map(Matched::prefix).or_else(routed).unwrap_or(0);
        match self.path() {
            Cow::Borrowed(path) => Cow::Borrowed(path.get(..bytes).unwrap_or_default()),
            Cow::Owned(mut path) => {
                path.truncate(bytes);
                Cow::Owned(path)
            }
        }
    }

    fn query_str(&self) -> Option<&str> {
        self.uri().query()
    }

    fn head_text(&self) -> &[u8] {
        self.body().head().map_or(&[], |head| head)
    }

    fn trailers(&self) -> Option<&HeaderMap> {
        self.extensions().get::<Trailers>().map(|trailers| &trailers.0)
    }

    fn client(&self) -> Client {
        Client::of(self)
    }

    fn host(&self) -> Option<Cow<'_, str>> {
        if let Some(host) = self.client().forwarded_host() {
            return Some(Cow::Owned(host.to_owned()));
        }
        let field = || self.headers().get(http::header::HOST).and_then(|host| ascii(host.as_bytes()));
        self.uri().authority().map(Authority::as_str).or_else(field).map(Cow::Borrowed)
    }

    fn bearer_token(&self) -> Option<&str> {
        let token = credentials(self.headers(), "bearer")?;
        let may_contain = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b);
        let characters = token.trim_end_matches('=');
        (!characters.is_empty() && characters.bytes().all(may_contain)).then_some(token)
    }

    fn listener(&self) -> Option<&str> {
        self.body().conn_info()?.listener.as_ref().map(|listener| &*listener.name)
    }

    fn peer_addr(&self) -> Option<SocketAddr> {
        self.body().conn_info().and_then(|o| o.peer)
    }

    fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.body().conn_info().and_then(|o| o.peer_credentials())
    }

    fn is_client_gone(&self) -> bool {
        self.body().conn_info().is_some_and(|o| o.is_client_gone())
    }

    fn client_watch(&self) -> ClientWatch {
        ClientWatch::of(self.body().conn_info().cloned())
    }

    #[cfg(feature = "tls")]
    fn tls(&self) -> Option<&TlsInfo> {
        self.body().conn_info().and_then(|o| o.tls.as_ref())
    }

    fn generation(&self) -> u32 {
        self.body().conn_info().map_or(1, |o| o.generation)
    }

    fn is_draining(&self) -> bool {
        self.body().conn_info().is_some_and(|o| o.drain.is_draining())
    }

    fn deadline(&self) -> Option<Instant> {
        Deadline::of(self).map(Deadline::at)
    }

    fn is_past_deadline(&self) -> bool {
        Deadline::of(self).is_some_and(Deadline::is_past)
    }

    fn drain(&self) -> Drain {
        let drain = self.body().conn_info().map(|o| o.drain.clone());
        drain.unwrap_or_else(|| Drain::of(PhaseWatch::new()))
    }

    fn bytes(&mut self) -> io::Result<Bytes> {
        self.body_mut().read_bytes()
    }

    fn text(&mut self) -> io::Result<String> {
        self.body_mut().read_text()
    }

    #[cfg(feature = "json")]
    fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, InputError> {
        let headers = std::mem::take(self.headers_mut());
        let value = extract::json::json(&headers, self.body_mut());
        *self.headers_mut() = headers;
        value
    }

    #[cfg(feature = "form")]
    fn form<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, InputError> {
        let headers = std::mem::take(self.headers_mut());
        let value = extract::form::form(&headers, self.body_mut());
        *self.headers_mut() = headers;
        value
    }

    #[cfg(feature = "multipart")]
    fn multipart(&mut self) -> Result<crate::multipart::Multipart, InputError> {
        crate::multipart::Multipart::of(self)
    }

    #[cfg(feature = "form")]
    fn query<T: serde::de::DeserializeOwned>(&self) -> Result<T, InputError> {
        extract::form::query(self.query_str())
    }

    #[cfg(feature = "cookies")]
    fn cookies(&self) -> impl Iterator<Item = cookie::Cookie<'_>> {
        let fields = self.headers().get_all(http::header::COOKIE).iter();
        let pairs = fields.flat_map(|field| field.as_bytes().split(|&b| b == b';'));
        // Names that are not ASCII are skipped: Unicode spaces would be trimmed from them, so that a page of another host
        // could forge a cookie with the prefix `__Host-`.
        let named = |pair: &&[u8]| pair.iter().take_while(|&&b| b != b'=').all(u8::is_ascii);
        let texts = pairs.filter(named).filter_map(|pair| std::str::from_utf8(pair).ok());
        texts.filter_map(|text| cookie::Cookie::parse(text).ok())
    }

    #[cfg(feature = "cookies")]
    fn cookie(&self, name: &str) -> Option<cookie::Cookie<'_>> {
        self.cookies().find(|cookie| cookie.name() == name)
    }

    #[cfg(feature = "sessions")]
    fn private_cookie(&self, name: &str, key: &crate::session::CookieKey) -> Option<cookie::Cookie<'static>> {
        let mut named = self.cookies().filter(|cookie| cookie.name() == name);
        named.find_map(|cookie| Some(key.open(&cookie)?.0))
    }

    #[cfg(feature = "sessions")]
    fn signed_cookie(&self, name: &str, key: &crate::session::CookieKey) -> Option<cookie::Cookie<'static>> {
        let mut named = self.cookies().filter(|cookie| cookie.name() == name);
        named.find_map(|cookie| Some(key.verify(&cookie)?.0))
    }

    #[cfg(feature = "sessions")]
    fn session(&self) -> crate::session::Session {
        crate::session::Session::of(self)
    }
}

mod sealed {
    /// Seals the trait, so that methods can be added later.
    pub trait Sealed {}
    impl Sealed for crate::Request {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::base::phase::Waited;
    use crate::net::conn_info::ConnInfo;
    use crate::{Body, Phase};

    #[test]
    fn a_request_made_by_hand_has_no_origin() {
        let mut req = Request::new(Body::from("text"));
        assert_eq!((req.peer_addr(), req.generation(), req.is_draining()), (None, 1, false));
        assert_eq!(req.drain().wait(Duration::from_millis(1)), Waited::TimedOut);
        assert!(!req.is_client_gone() && !req.client_watch().is_gone() && req.peer_credentials().is_none());
        assert_eq!((req.param("a"), req.pattern(), req.query_str()), (None, None, None));
        assert_eq!((req.params().count(), &*req.path()), (0, "/"));
        assert_eq!(req.text().unwrap(), "text");
        assert_eq!(req.bytes().unwrap(), "");
    }

    #[test]
    fn a_bearer_token_is_a_token() {
        let of = |value: &str| {
            let request = http::Request::get("/").header("authorization", value).body(Body::empty()).unwrap();
            request.bearer_token().map(str::to_owned)
        };
        for token in ["abc", "mF_9.B5f-4.1JqM", "a~+/b==", "7"] {
            assert_eq!(of(&format!("Bearer {token}")).as_deref(), Some(token));
        }
        for value in
            ["Bearer", "Bearer ", "Bearer ==", "Bearer a b", "Bearer a=b", "Bearer a,b", "Basic YTpi"]
        {
            assert_eq!(of(value), None, "{value}");
        }
        assert_eq!(Request::default().bearer_token(), None);
    }

    #[test]
    fn the_path_is_the_one_that_routes_see() {
        let cases = [
            ("/private/x?y=%70", "/private/x"),
            ("/%70rivate/%78", "/private/x"),
            ("http://host/%70rivate/é", "/private/%C3%A9"),
            ("http://host", "/"),
            ("/a%2f..%2F%2570//./b", "/a%2F..%2F%2570//./b"),
            ("/100%", "/100%"),
            ("*", "*"),
        ];
        for (target, path) in cases {
            let request = http::Request::get(target).body(Body::empty()).unwrap();
            assert_eq!(request.path(), path, "{target}");
        }
    }

    #[test]
    fn a_served_request_has_its_connection_and_process() {
        let phase = PhaseWatch::new();
        let peer = Some(SocketAddr::from(([127, 0, 0, 1], 9)));
        let conn_info = Arc::new(ConnInfo::new(peer, phase.clone(), 3));
        let mut req = Request::default();
        req.body_mut().set_received(conn_info, Bytes::new());
        let drain = req.drain();
        assert_eq!((req.peer_addr(), req.generation(), req.is_draining()), (peer, 3, false));
        assert!(!drain.is_draining());
        phase.set(Phase::HandedOver);
        assert!(req.is_draining());
        assert_eq!(drain.clone().wait(Duration::MAX), Waited::Draining);
        assert!(drain.is_draining() && drain.wait(Duration::ZERO).is_draining());
    }
}
