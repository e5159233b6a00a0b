//! Sends clients that speak plain HTTP to the same address with https.
//!
//! The host of the redirect is from a list of the program's: a `Host` field is the client's word, and a response that
//! repeats any host could be stored by a cache in front of the service, which then sends it to all clients.

use std::fmt;

use http::header::LOCATION;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, StatusCode};

use crate::Request;
use crate::web::handler::{EarlyResponse, Wrapper};
use crate::web::request::RequestExt;
use crate::web::response::{IntoResponse, ResponseExt};
use crate::web::router::PathSet;

/// Redirects requests without TLS to `https`, on the head alone. Whether a request has TLS is known from its connection, or
/// from a proxy that the listener trusts (`Listen::trust_proxies`, see [`Client::is_https`](crate::Client::is_https)).
/// Behind a proxy that ends TLS and is not trusted, each request would be redirected, in a loop.
///
/// The hosts are listed. A request for another one, or for none, is redirected to the first: so nobody can make this
/// service redirect to a foreign host, or have a cache in between keep such a redirect. A health check that speaks plain
/// HTTP is excepted by [`except`](Self::except).
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::wrap::HttpsRedirect;
///
/// let redirect = HttpsRedirect::to(["shop.example", "www.shop.example"]).except("/healthz");
/// let router = Router::new().get("/a", |_: Request| "a\n").get("/healthz", |_: Request| "ok\n").wrap(redirect);
/// assert_eq!(router.check(), Ok(()));
///
/// let ask = |path, host| router.call(http::Request::get(path).header("host", host).body(Body::empty()).unwrap());
/// let response = ask("/a?b=c", "www.shop.example");
/// assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
/// assert_eq!(response.headers()["location"], "https://www.shop.example/a?b=c");
/// assert_eq!(ask("/a", "evil.example").headers()["location"], "https://shop.example/a");
/// assert_eq!(ask("/healthz", "10.0.0.7").status(), StatusCode::OK);
/// ```
#[must_use]
pub struct HttpsRedirect {
    hosts: Vec<String>,
    port: u16,
    status: StatusCode,
    excepted: PathSet,
}

impl HttpsRedirect {
    /// Redirects to the host of the request if it is one of `hosts`, otherwise to the first of them. They have no port.
    pub fn to<T: Into<String>>(hosts: impl IntoIterator<Item = T>) -> HttpsRedirect {
        HttpsRedirect {
            hosts: hosts.into_iter().map(Into::into).collect(),
            port: 443,
            status: StatusCode::PERMANENT_REDIRECT,
            excepted: PathSet::default(),
        }
    }

    /// The port of the `https` listener, as clients reach it. Default 443, which the redirect does not name.
    pub fn port(mut self, port: u16) -> HttpsRedirect {
        self.port = port;
        self
    }

    /// The status: 308 or 301, which clients may store indefinitely, or 307 or 302, to try it. Default 308, with which clients
    /// repeat the method and the body; after 301 and 302 many send GET.
    pub fn status(mut self, status: StatusCode) -> HttpsRedirect {
        self.status = status;
        self
    }

    /// Does not redirect the paths that match `pattern`, as of a route: for health checks, and for `/.well-known/acme-challenge/{token}`.
    pub fn except(mut self, pattern: &str) -> HttpsRedirect {
        self.excepted.add(pattern);
        self
    }

    /// Where a request is redirected to.
    fn location(&self, request: &Request) -> Option<HeaderValue> {
        let asked = request.host();
        let is_asked = |host: &&String| {
            asked.as_deref().is_some_and(|asked| without_port(asked).eq_ignore_ascii_case(host))
        };
        let host = self.hosts.iter().find(is_asked).or(self.hosts.first())?;
        let port = if self.port == 443 { String::new() } else { format!(":{}", self.port) };
        let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        // `OPTIONS *` is about the server.
        let target = if target.starts_with('/') { target } else { "/" };
        HeaderValue::try_from(format!("https://{host}{port}{target}")).ok()
    }
}

/// A host without its port; an IPv6 address keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    }
}

impl Wrapper for HttpsRedirect {
    fn guard(&self, request: &mut Request) -> Result<(), EarlyResponse> {
        if request.client().is_https() || self.excepted.contains(request.uri().path()) {
            return Ok(());
        }
        match self.location(request) {
            Some(location) => Err(self.status.into_response().with_header(LOCATION, location).into()),
            // `check` refuses a configuration without hosts.
            None => Err(StatusCode::FORBIDDEN.into()),
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.hosts.is_empty() {
            return Err("HttpsRedirect: there must be a host".to_owned());
        }
        let is_host = |host: &str| {
            let parsed = host.parse::<Authority>();
            parsed.is_ok_and(|parsed| parsed.host() == host) && without_port(host) == host
        };
        if let Some(host) = self.hosts.iter().find(|host| !is_host(host)) {
            return Err(format!(
                "HttpsRedirect: {host:?} is not a host without a port, such as shop.example"
            ));
        }
        if !matches!(self.status.as_u16(), 301 | 302 | 307 | 308) {
            return Err(format!("HttpsRedirect: {} is not a redirect: 301, 302, 307 or 308", self.status));
        }
        self.excepted.check().map_err(|why| format!("HttpsRedirect: {why}"))
    }
}

impl fmt::Debug for HttpsRedirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsRedirect").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::wrap::testing::{ask, field};
    use crate::{Handler, Router};

    fn around(redirect: HttpsRedirect) -> impl Handler {
        Router::new().any("/{*path}", |_: Request| "x").wrap(redirect)
    }

    #[test]
    fn the_location_has_a_listed_host() {
        let handler = around(HttpsRedirect::to(["a.example", "b.example", "[::1]"]));
        assert_eq!(handler.check(), Ok(()));
        let cases = [
            ("GET /x?y=%20#", "b.example", "https://b.example/x?y=%20"),
            ("POST /x", "B.Example:8080", "https://b.example/x"),
            ("GET /", "[::1]:80", "https://[::1]/"),
            ("GET /", "[::1]", "https://[::1]/"),
            ("GET /", "evil.example", "https://a.example/"),
            ("GET /", "b.example.evil.example", "https://a.example/"),
            ("GET /", "b.example@evil.example", "https://a.example/"),
            ("GET /", "evil.example:b.example", "https://a.example/"),
            ("GET /", "", "https://a.example/"),
            ("GET //evil.example/x", "b.example", "https://b.example//evil.example/x"),
            ("GET http://b.example/x", "evil.example", "https://b.example/x"),
            ("GET http://evil.example/x", "b.example", "https://a.example/x"),
            ("OPTIONS *", "b.example", "https://b.example/"),
        ];
        for (line, host, location) in cases {
            let response = ask(&handler, line, &[("host", host)]);
            assert_eq!(
                (response.status().as_u16(), &*field(&response, "location")),
                (308, location),
                "{line} {host}"
            );
        }
        // What an untrusted client says is no proof of TLS.
        let said = [("host", "a.example"), ("x-forwarded-proto", "https"), ("forwarded", "proto=https")];
        assert_eq!(ask(&handler, "GET /", &said).status(), 308);
    }

    #[test]
    fn port_status_and_exceptions() {
        let redirect = HttpsRedirect::to(["a.example"]).port(8443).status(StatusCode::MOVED_PERMANENTLY);
        let handler = around(redirect.except("/.well-known/acme-challenge/{token}"));
        assert_eq!(handler.check(), Ok(()));
        let response = ask(&handler, "GET /x", &[]);
        assert_eq!(
            (response.status().as_u16(), &*field(&response, "location")),
            (301, "https://a.example:8443/x")
        );
        assert_eq!(ask(&handler, "GET /.well-known/acme-challenge/abc", &[]).status(), 200);
    }

    #[test]
    fn invalid_settings_are_errors_at_startup() {
        let to = |host: &str| HttpsRedirect::to([host]);
        for host in ["", "a.example:80", "https://a.example", "a.example/", "a b", "[::1]:80", "u@a.example"]
        {
            assert!(around(to(host)).check().is_err(), "{host}");
        }
        assert!(around(HttpsRedirect::to::<String>([])).check().is_err());
        assert!(around(to("a.example").status(StatusCode::SEE_OTHER)).check().is_err());
        assert!(around(to("a.example").except("/*path")).check().is_err());
        assert_eq!(ask(&around(HttpsRedirect::to::<String>([])), "GET /", &[]).status(), 403);
    }
}
