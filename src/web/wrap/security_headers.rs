//! Header fields with which a browser is stricter about a page.

use std::fmt::Display;

use http::header::{
    CONTENT_SECURITY_POLICY, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderName, HeaderValue};

use crate::web::handler::{Next, Wrapper};
use crate::web::request::RequestExt;
use crate::{Request, Response};

/// Adds header fields with which browsers protect the service's users. A field that the handler has set stays as it is.
///
/// | field | default | why |
/// | --- | --- | --- |
/// | `Strict-Transport-Security` | `max-age=31536000` | only over `https`: for a year, browsers do not use plain HTTP. Other hosts below this one are not included, as they may lack it |
/// | `X-Content-Type-Options` | `nosniff` | an upload that claims to be text is not run as a script |
/// | `X-Frame-Options`, `Content-Security-Policy` | `SAMEORIGIN`, `frame-ancestors 'self'` | no other site shows a page within its own, under which users click without knowing |
/// | `Referrer-Policy` | `strict-origin-when-cross-origin` | other sites learn this site's name, and no path. Not `no-referrer`, with which browsers send `Origin: null` with a form |
/// | `Cross-Origin-Opener-Policy` | `same-origin` | a page that opens this one in a window, or is opened by it, can't reach into it. A sign-in by a pop-up window of another site needs `same-origin-allow-popups` |
///
/// A policy for scripts (`Content-Security-Policy: default-src 'self'; ...`) depends on the pages, so [`set`](Self::set) it;
/// it replaces the default and should contain `frame-ancestors` too.
///
/// A browser that knows `frame-ancestors`, as all do since 2018, ignores `X-Frame-Options` beside it; older browsers know only that,
/// so both are sent. Neither is derived from the other: with `frame-ancestors 'none'`, set `X-Frame-Options: DENY`, and where other
/// sites may show the page, `SAMEORIGIN` keeps them out only in old browsers, since it can't name a site.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::wrap::SecurityHeaders;
///
/// let headers = SecurityHeaders::new()
///     .set("content-security-policy", "default-src 'self'; frame-ancestors 'none'")
///     .set("strict-transport-security", "max-age=63072000; includeSubDomains")
///     .set("x-frame-options", "DENY");
/// let router = Router::new().get("/", |_: Request| Html("<p>hello")).wrap(headers);
/// assert_eq!(router.check(), Ok(()));
/// let response = router.call(Request::default());
/// assert_eq!(response.headers()["x-content-type-options"], "nosniff");
/// assert_eq!(response.headers()["x-frame-options"], "DENY");
/// assert!(!response.headers().contains_key("strict-transport-security"), "not over plain HTTP");
/// ```
///
/// They are on all responses that pass through wrappers, as the 404 of a router; a refusal of the server itself, such as
/// a 400, has none.
#[derive(Clone, Debug)]
#[must_use]
pub struct SecurityHeaders {
    fields: Vec<(HeaderName, HeaderValue)>,
    /// The fields that can't be sent, and why.
    errors: Vec<String>,
}

impl SecurityHeaders {
    /// With the defaults above.
    pub fn new() -> SecurityHeaders {
        let fields = [
            (STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "SAMEORIGIN"),
            (CONTENT_SECURITY_POLICY, "frame-ancestors 'self'"),
            (REFERRER_POLICY, "strict-origin-when-cross-origin"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ];
        let fields = fields.map(|(name, value)| (name, HeaderValue::from_static(value)));
        SecurityHeaders { fields: fields.into(), errors: Vec::new() }
    }

    /// Changes the value of a field, or adds a field, such as `Permissions-Policy` or `Cross-Origin-Resource-Policy`.
    pub fn set<K, V>(mut self, name: K, value: V) -> SecurityHeaders
    where
        K: TryInto<HeaderName, Error: Display>,
        V: TryInto<HeaderValue, Error: Display>,
    {
        match (name.try_into(), value.try_into()) {
            (Ok(name), Ok(value)) => match self.fields.iter_mut().find(|(known, _)| *known == name) {
                Some(field) => field.1 = value,
                None => self.fields.push((name, value)),
            },
            (Ok(name), Err(e)) => self.errors.push(format!("the value of {name}: {e}")),
            (Err(e), _) => self.errors.push(format!("the name of a field: {e}")),
        }
        self
    }

    /// Leaves out a field.
    pub fn without<K>(mut self, name: K) -> SecurityHeaders
    where
        K: TryInto<HeaderName, Error: Display>,
    {
        match name.try_into() {
            Ok(name) => self.fields.retain(|(known, _)| *known != name),
            Err(e) => self.errors.push(format!("the name of a field: {e}")),
        }
        self
    }
}

impl Default for SecurityHeaders {
    fn default() -> SecurityHeaders {
        SecurityHeaders::new()
    }
}

impl Wrapper for SecurityHeaders {
    fn call(&self, request: Request, next: Next<'_>) -> Response {
        let is_https = request.client().is_https();
        let mut response = next.call(request);
        let headers = response.headers_mut();
        for (name, value) in &self.fields {
            if (is_https || *name != STRICT_TRANSPORT_SECURITY) && !headers.contains_key(name) {
                headers.insert(name, value.clone());
            }
        }
        response
    }

    fn check(&self) -> Result<(), String> {
        if self.errors.is_empty() {
            return Ok(());
        }
        Err(format!("SecurityHeaders: {}", self.errors.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::response::{IntoResponse, ResponseExt};
    use crate::web::wrap::testing::{ask, field};
    use crate::{Handler, Router};

    fn around(headers: SecurityHeaders) -> impl Handler {
        let own = |_: Request| "x".into_response().with_header(CONTENT_SECURITY_POLICY, "default-src 'none'");
        Router::new().get("/", |_: Request| "x").get("/own", own).wrap(headers)
    }

    #[test]
    fn each_field_can_be_changed_and_left_out() {
        let names = [
            "x-content-type-options",
            "x-frame-options",
            "content-security-policy",
            "referrer-policy",
            "cross-origin-opener-policy",
            "strict-transport-security",
        ];
        for line in ["GET /", "GET /nowhere"] {
            let response = ask(&around(SecurityHeaders::new()), line, &[]);
            let said = names.map(|name| field(&response, name));
            let policy = "frame-ancestors 'self'";
            let referrer = "strict-origin-when-cross-origin";
            assert_eq!(said, ["nosniff", "SAMEORIGIN", policy, referrer, "same-origin", ""], "{line}");
        }
        for name in names {
            let changed = around(SecurityHeaders::new().set(name, "a").set(name, "b"));
            let wanted = if name == "strict-transport-security" { "" } else { "b" };
            assert_eq!(field(&ask(&changed, "GET /", &[]), name), wanted);
            let without = around(SecurityHeaders::new().without(name));
            assert_eq!(field(&ask(&without, "GET /", &[]), name), "");
            assert_eq!((changed.check(), without.check()), (Ok(()), Ok(())));
        }
        let own = ask(&around(SecurityHeaders::new()), "GET /own", &[]);
        assert_eq!(field(&own, "content-security-policy"), "default-src 'none'");
        assert_eq!(field(&own, "x-frame-options"), "SAMEORIGIN");
    }

    #[test]
    fn invalid_fields_are_errors_at_startup() {
        let headers = SecurityHeaders::new().set("a b", "c").set("x-a", "a\nb").without("\u{eb}");
        let error = around(headers).check().unwrap_err();
        assert!(error.starts_with("SecurityHeaders: the name of a field: "), "{error}");
        assert_eq!(error.matches("; ").count(), 2, "{error}");
    }
}
