//! Refuses requests that a page of another origin makes a browser send, by what the browser says about them.
//!
//! The rules are those of `net/http.CrossOriginProtection` in Go 1.25. A token in each form is not needed for this: every
//! browser since 2023 sends `Sec-Fetch-Site`, which pages can't set, and older ones send `Origin` with these methods.

use std::fmt;

use http::header::ORIGIN;
use http::{Method, StatusCode};

use crate::Request;
use crate::web::body::Author;
use crate::web::fields::ascii;
use crate::web::handler::{EarlyResponse, Wrapper};
use crate::web::request::RequestExt;
use crate::web::response::IntoResponse;
use crate::web::router::PathSet;

/// Refuses cross-site requests that may change something (CSRF): what a page of another origin makes the browser of a
/// user send, with the user's cookies. They get 403 on the head alone, before their body is received.
///
/// | request | |
/// | --- | --- |
/// | GET, HEAD, OPTIONS | passes: so these must change nothing |
/// | with `Sec-Fetch-Site: same-origin` or `none` (typed, or from a bookmark) | passes |
/// | with another `Sec-Fetch-Site`: `cross-site`, `same-site` | 403 |
/// | without it, with an `Origin` that has the request's [`host`](RequestExt::host) | passes |
/// | without it, with another `Origin`, `null` included | 403 |
/// | with neither | passes: no browser sends it, and a page can't leave them out |
///
/// What would be 403 passes if its origin is trusted or its path excepted. Browsers send `Sec-Fetch-Site` to `https` and
/// to `localhost` only; over plain `http` the decision is by `Origin`, which does not show whether an `https` page of the
/// same host has sent the request, or an `http` one. [`Cors`](super::Cors) is about reading responses and does not replace
/// this; a WebSocket's handshake is a GET, and `WebSocket::upgrade` checks its origin itself.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::wrap::Csrf;
///
/// let router = Router::new()
///     .post("/transfer", |_: Request| "done\n")
///     .post("/hooks/{name}", |_: Request| "thanks\n")
///     .wrap(Csrf::new().trust_origin("https://app.example").except("/hooks/{name}"));
/// assert_eq!(router.check(), Ok(()));
///
/// let post = |path, site| {
///     let request = http::Request::post(path).header("host", "bank.example").header("sec-fetch-site", site);
///     router.call(request.body(Body::empty()).unwrap()).status()
/// };
/// assert_eq!(post("/transfer", "same-origin"), StatusCode::OK);
/// assert_eq!(post("/transfer", "cross-site"), StatusCode::FORBIDDEN);
/// assert_eq!(post("/hooks/payment", "cross-site"), StatusCode::OK);
/// ```
#[derive(Default)]
#[must_use]
pub struct Csrf {
    trusted: Vec<String>,
    excepted: PathSet,
}

impl Csrf {
    /// Protects all paths, and trusts no other origin.
    pub fn new() -> Csrf {
        Csrf::default()
    }

    /// Lets requests of this origin's pages pass, with an `Origin` exactly as a browser writes it: `https://app.example`,
    /// `http://localhost:3000`.
    pub fn trust_origin(mut self, origin: impl Into<String>) -> Csrf {
        self.trusted.push(origin.into());
        self
    }

    /// Does not protect the paths that match `pattern`, as of a route: for requests that are authenticated by something
    /// else than a cookie, such as a signature. The pattern is that of the whole path, also within a nested router.
    pub fn except(mut self, pattern: &str) -> Csrf {
        self.excepted.add(pattern);
        self
    }

    /// Why a request is refused; None if it passes.
    fn refusal(&self, request: &Request) -> Option<&'static str> {
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            return None;
        }
        let origin = request.headers().get(ORIGIN).map(|origin| origin.as_bytes());
        let why = match request.headers().get("sec-fetch-site").map(|site| site.as_bytes()) {
            Some(b"same-origin" | b"none") => return None,
            None | Some(b"") => match origin {
                None | Some(b"") => return None,
                Some(origin) if is_of_host(origin, request) => return None,
                Some(_) => "cross-origin request: its Origin is not this host\n",
            },
            Some(_) => "cross-origin request, by its Sec-Fetch-Site\n",
        };
        let is_trusted =
            origin.is_some_and(|origin| self.trusted.iter().any(|trusted| trusted.as_bytes() == origin));
        (!is_trusted && !self.excepted.contains(request.uri().path())).then_some(why)
    }
}

/// Whether an origin has the host, with its port, that the request is to. The scheme is not compared: where TLS ends
/// elsewhere, it is not known.
fn is_of_host(origin: &[u8], request: &Request) -> bool {
    let host_of = |origin| Some(ascii(origin)?.split_once("://")?.1);
    match (host_of(origin), request.host()) {
        (Some(origin), Some(host)) => !host.is_empty() && origin.eq_ignore_ascii_case(&host),
        _ => false,
    }
}

/// Whether a text is an origin as a browser writes it.
pub(super) fn is_origin(text: &str) -> bool {
    let host = text.split_once("://").map(|(_, host)| host);
    host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', '*', '@']))
        && text.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase())
}

impl Wrapper for Csrf {
    fn guard(&self, request: &mut Request) -> Result<(), EarlyResponse> {
        match self.refusal(request) {
            Some(why) => {
                Err((StatusCode::FORBIDDEN, why).into_response().map(|body| body.by(Author::Detail)).into())
            }
            None => Ok(()),
        }
    }

    fn check(&self) -> Result<(), String> {
        if let Some(origin) = self.trusted.iter().find(|origin| !is_origin(origin)) {
            return Err(format!("Csrf: {origin:?} is not an origin such as https://app.example"));
        }
        self.excepted.check().map_err(|why| format!("Csrf: {why}"))
    }
}

impl fmt::Debug for Csrf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Csrf").field("trusted", &self.trusted).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::wrap::testing::ask;
    use crate::{Handler, Router};

    fn around(csrf: Csrf) -> impl Handler {
        Router::new().any("/{*path}", |_: Request| "x").wrap(csrf)
    }

    /// The cases of Go's own test, and some more.
    #[test]
    fn the_rules_are_those_of_go() {
        let handler = around(Csrf::new());
        let cases = [
            ("POST", "same-origin", "", 200),
            ("POST", "none", "", 200),
            ("POST", "cross-site", "", 403),
            ("POST", "same-site", "", 403),
            ("POST", "Same-Origin", "", 403),
            ("POST", "same-origin, cross-site", "", 403),
            ("POST", "\u{eb}", "", 403),
            ("POST", "", "", 200),
            ("POST", "", "https://example.com", 200),
            ("POST", "", "http://example.com", 200),
            ("POST", "", "https://EXAMPLE.com", 200),
            ("POST", "", "https://attacker.example", 403),
            ("POST", "", "https://example.com.attacker.example", 403),
            ("POST", "", "https://attacker.example/https://example.com", 403),
            ("POST", "", "https://example.com:444", 403),
            ("POST", "", "https://example.com/", 403),
            ("POST", "", "example.com", 403),
            ("POST", "", "null", 403),
            ("POST", "same-origin", "https://attacker.example", 200),
            ("POST", "cross-site", "https://example.com", 403),
            ("PUT", "cross-site", "", 403),
            ("DELETE", "same-site", "", 403),
            ("PATCH", "cross-site", "", 403),
            ("TRACE", "cross-site", "", 403),
            ("GET", "cross-site", "https://attacker.example", 200),
            ("HEAD", "cross-site", "", 200),
            ("OPTIONS", "cross-site", "", 200),
        ];
        for (method, site, origin, status) in cases {
            let fields = [("host", "example.com"), ("sec-fetch-site", site), ("origin", origin)];
            let given: Vec<_> = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
            let response = ask(&handler, &format!("{method} /"), &given);
            assert_eq!(response.status(), status, "{method} {site:?} {origin:?}");
            assert_eq!(ask(&handler, &format!("{method} /"), &fields).status(), status, "empty fields");
        }
        // Of the target, and none at all.
        let origin = [("origin", "https://example.com")];
        assert_eq!(ask(&handler, "POST http://example.com/", &origin).status(), 200);
        assert_eq!(ask(&handler, "POST /", &origin).status(), 403);
    }

    #[test]
    fn exceptions_are_by_origin_and_by_path() {
        let handler = around(Csrf::new().trust_origin("https://app.example").except("/hooks/{*rest}"));
        assert_eq!(handler.check(), Ok(()));
        let cases = [
            ("/", "https://app.example", 200),
            ("/", "http://app.example", 403),
            ("/", "https://app.example:8443", 403),
            ("/", "https://other.example", 403),
            ("/hooks/a", "https://other.example", 200),
            ("/%68ooks/a", "https://other.example", 200),
            ("/hooks", "https://other.example", 403),
            ("/hooks%2Fa", "https://other.example", 403),
            ("/x/../hooks/a", "https://other.example", 403),
        ];
        for (path, origin, status) in cases {
            for site in ["", "cross-site"] {
                let fields = [("host", "example.com"), ("sec-fetch-site", site), ("origin", origin)];
                let response = ask(&handler, &format!("POST {path}"), &fields);
                assert_eq!(response.status(), status, "{path} {origin} {site:?}");
            }
        }
    }

    #[test]
    fn invalid_settings_are_errors_at_startup() {
        for origin in
            ["app.example", "https://app.example/", "https://", "https://*.example", "https://a@b", "null"]
        {
            assert!(around(Csrf::new().trust_origin(origin)).check().is_err(), "{origin}");
        }
        let wrong = around(Csrf::new().except("/hooks/:name")).check();
        assert!(
            wrong.unwrap_err().starts_with("Csrf: \"/hooks/:name\": :name is no parameter: write {name}")
        );
    }
}
