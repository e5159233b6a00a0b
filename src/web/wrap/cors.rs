//! Pages of other origins (the CORS protocol of the Fetch standard).

use std::fmt;
use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::web::coding::vary;
use crate::web::fields::ascii;
use crate::web::handler::{EarlyResponse, Next, Wrapper};
use crate::web::response::IntoResponse;
use crate::web::wrap::csrf::is_origin;
use crate::{Request, Response};

/// Informs browsers which other origins' pages may read the responses. It answers preflights (OPTIONS
/// with `Access-Control-Request-Method`) itself, with 204, on the head alone; the wrapped handler does not see them. For an origin that is not
/// allowed the responses lack the permission, and the browser hides them from the page: CORS protects users of browsers,
/// and does not keep other clients from sending requests.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::wrap::Cors;
/// use std::time::Duration;
///
/// let cors = Cors::origins(["https://app.example", "http://localhost:3000"])
///     .methods([Method::GET, Method::PUT])
///     .headers([header::CONTENT_TYPE])
///     .credentials()
///     .max_age(Duration::from_secs(3600));
/// let handler = Router::new().get("/", |_: Request| "hello\n").wrap(cors);
/// assert_eq!(handler.check(), Ok(()));
///
/// let request = http::Request::get("/").header("origin", "https://app.example");
/// let response = handler.call(request.body(Body::empty()).unwrap());
/// assert_eq!(response.headers()["access-control-allow-origin"], "https://app.example");
/// ```
pub struct Cors {
    origins: Origins,
    methods: Vec<Method>,
    headers: Headers,
    exposed: Vec<HeaderName>,
    credentials: bool,
    max_age: Option<Duration>,
}

enum Origins {
    Any,
    Listed(Vec<String>),
    If(Box<dyn Fn(&str) -> bool + Send + Sync>),
}

enum Headers {
    Listed(Vec<HeaderName>),
    /// Every field that the preflight names.
    Any,
}

impl Cors {
    /// Every origin, without credentials: for public content.
    pub fn any_origin() -> Cors {
        Cors::of(Origins::Any)
    }

    /// These origins, each as a browser writes it: `https://app.example`, `http://localhost:3000`.
    pub fn origins<T: Into<String>>(origins: impl IntoIterator<Item = T>) -> Cors {
        Cors::of(Origins::Listed(origins.into_iter().map(Into::into).collect()))
    }

    /// The origins for which `allowed` returns true.
    ///
    /// ```
    /// use heirloom::wrap::Cors;
    /// let cors = Cors::origins_if(|origin| {
    ///     origin.strip_prefix("https://").is_some_and(|host| host.ends_with(".app.example"))
    /// });
    /// ```
    pub fn origins_if(allowed: impl Fn(&str) -> bool + Send + Sync + 'static) -> Cors {
        Cors::of(Origins::If(Box::new(allowed)))
    }

    fn of(origins: Origins) -> Cors {
        Cors {
            origins,
            methods: vec![Method::GET, Method::HEAD, Method::POST],
            headers: Headers::Listed(Vec::new()),
            exposed: Vec::new(),
            credentials: false,
            max_age: None,
        }
    }

    /// The methods that pages may use. Default: GET, HEAD and POST, which browsers always allow.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Cors {
        self.methods = methods.into_iter().collect();
        self
    }

    /// The request fields that pages may set, beyond those that browsers always allow. Default: none. JSON needs
    /// `Content-Type`.
    #[must_use]
    pub fn headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Cors {
        self.headers = Headers::Listed(names.into_iter().collect());
        self
    }

    /// Pages may set any request field.
    #[must_use]
    pub fn any_header(mut self) -> Cors {
        self.headers = Headers::Any;
        self
    }

    /// The response fields that pages may read, beyond those that browsers always allow. Default: none.
    #[must_use]
    pub fn expose(mut self, names: impl IntoIterator<Item = HeaderName>) -> Cors {
        self.exposed = names.into_iter().collect();
        self
    }

    /// Requests may have cookies and passwords. Default: they may not. Together with [`any_origin`](Cors::any_origin) it is an
    /// error at startup.
    #[must_use]
    pub fn credentials(mut self) -> Cors {
        self.credentials = true;
        self
    }

    /// How long a browser may cache a preflight, in whole seconds. Default: the browser's, 5 s.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Cors {
        self.max_age = Some(age);
        self
    }

    /// The value of `Access-Control-Allow-Origin` for `origin`; None: no such field.
    fn permission(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        let allowed = |origin: &&HeaderValue| match (&self.origins, ascii(origin.as_bytes())) {
            (Origins::Listed(origins), Some(origin)) => origins.iter().any(|allowed| allowed == origin),
            (Origins::If(allowed), Some(origin)) => allowed(origin),
            _ => false,
        };
        match self.origins {
            Origins::Any => Some(HeaderValue::from_static("*")),
            _ => origin.filter(allowed).cloned(),
        }
    }

    /// The fields that preflights and other responses have in common.
    fn permit(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) -> bool {
        if !matches!(self.origins, Origins::Any) {
            vary(headers, ORIGIN);
        }
        let Some(permission) = self.permission(origin) else { return false };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, permission);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        true
    }

    fn preflight(&self, request: &Request) -> Response {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        let permitted = self.permit(request.headers().get(ORIGIN), headers);
        let asked = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS);
        let names = match &self.headers {
            Headers::Listed(names) => list(names.iter().map(HeaderName::as_str)),
            Headers::Any => {
                vary(headers, ACCESS_CONTROL_REQUEST_HEADERS);
                asked.cloned()
            }
        };
        if !permitted {
            return response;
        }
        let methods = list(self.methods.iter().map(Method::as_str));
        let age = self.max_age.map(|age| HeaderValue::from(age.as_secs()));
        let fields = [
            (ACCESS_CONTROL_ALLOW_METHODS, methods),
            (ACCESS_CONTROL_ALLOW_HEADERS, names),
            (ACCESS_CONTROL_MAX_AGE, age),
        ];
        headers.extend(fields.into_iter().filter_map(|(name, value)| Some((name, value?))));
        response
    }
}

/// None for an empty list.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> Option<HeaderValue> {
    let names: Vec<&str> = names.collect();
    HeaderValue::try_from(names.join(", ")).ok().filter(|list| !list.is_empty())
}

impl Wrapper for Cors {
    fn guard(&self, request: &mut Request) -> Result<(), EarlyResponse> {
        let headers = request.headers();
        let asks = headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) && headers.contains_key(ORIGIN);
        if request.method() == Method::OPTIONS && asks {
            return Err(self.preflight(request).into());
        }
        Ok(())
    }

    fn call(&self, request: Request, next: Next<'_>) -> Response {
        let origin = request.headers().get(ORIGIN).cloned();
        let mut response = next.call(request);
        let permitted = self.permit(origin.as_ref(), response.headers_mut());
        let exposed = list(self.exposed.iter().map(HeaderName::as_str)).filter(|_| permitted);
        response.headers_mut().extend(exposed.map(|names| (ACCESS_CONTROL_EXPOSE_HEADERS, names)));
        response
    }

    fn check(&self) -> Result<(), String> {
        match &self.origins {
            Origins::Any if self.credentials => {
                Err("Cors: credentials need a list of origins: browsers refuse any".to_owned())
            }
            Origins::Listed(origins) => {
                match origins.iter().find(|origin| *origin != "null" && !is_origin(origin)) {
                    Some(origin) => {
                        Err(format!("Cors: {origin:?} is not an origin such as https://app.example"))
                    }
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Cors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origins = match &self.origins {
            Origins::Any => "any".to_owned(),
            Origins::Listed(origins) => format!("{origins:?}"),
            Origins::If(_) => "by a closure".to_owned(),
        };
        f.debug_struct("Cors").field("origins", &origins).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::wrap::testing::{ask, field};
    use crate::{Handler, Router};

    const A: &str = "https://a.example";

    /// The configuration, the request's fields, and the fields of the response.
    type Case<'a> = (Cors, &'a [(&'a str, &'a str)], &'a str);

    fn around(cors: Cors) -> impl Handler {
        Router::new().get("/", |_: Request| "x").wrap(cors)
    }

    /// The fields of CORS, shortened.
    fn said(response: &Response) -> String {
        let mut fields: Vec<String> = Vec::new();
        for (name, value) in response.headers() {
            let name = name.as_str();
            if let Some(name) = name.strip_prefix("access-control-").or((name == "vary").then_some(name)) {
                fields.push(format!("{name}: {}", value.to_str().unwrap()));
            }
        }
        fields.sort();
        format!("{} {}", response.status().as_u16(), fields.join("; "))
    }

    #[test]
    fn responses_name_the_allowed_origin() {
        let listed = || Cors::origins([A, "null"]);
        let cases: [Case<'_>; 10] = [
            (listed(), &[], "200 vary: origin"),
            (listed(), &[("origin", A)], "200 allow-origin: https://a.example; vary: origin"),
            (listed(), &[("origin", "https://b.example")], "200 vary: origin"),
            (listed(), &[("origin", "http://a.example")], "200 vary: origin"),
            (listed(), &[("origin", "https://a.example.evil")], "200 vary: origin"),
            (listed(), &[("origin", "null")], "200 allow-origin: null; vary: origin"),
            (Cors::any_origin(), &[("origin", A)], "200 allow-origin: *"),
            (Cors::any_origin(), &[], "200 allow-origin: *"),
            (
                listed()
                    .credentials()
                    .expose([HeaderName::from_static("x-a"), HeaderName::from_static("x-b")]),
                &[("origin", A)],
                "200 allow-credentials: true; allow-origin: https://a.example; expose-headers: x-a, x-b; vary: origin",
            ),
            (
                Cors::origins_if(|origin| origin.ends_with(".example")),
                &[("origin", A)],
                "200 allow-origin: https://a.example; vary: origin",
            ),
        ];
        for (cors, fields, want) in cases {
            assert_eq!(said(&ask(&around(cors), "GET /", fields)), want, "{fields:?}");
        }
        let refused = ask(&around(listed()), "GET /nowhere", &[("origin", A)]);
        assert_eq!(said(&refused), "404 allow-origin: https://a.example; vary: origin");
    }

    #[test]
    fn preflights_are_answered_here() {
        let cors = || {
            Cors::origins([A]).methods([Method::PUT, Method::DELETE]).max_age(Duration::from_millis(61_500))
        };
        let asks = ("access-control-request-method", "PUT");
        let names = ("access-control-request-headers", "x-a, content-type");
        let content_type = http::header::CONTENT_TYPE;
        let cases: [Case<'_>; 5] = [
            (
                cors().headers([content_type]),
                &[("origin", A), asks, names],
                "204 allow-headers: content-type; allow-methods: PUT, DELETE; \
                 allow-origin: https://a.example; max-age: 61; vary: origin",
            ),
            (
                cors().any_header().credentials(),
                &[("origin", A), asks, names],
                "204 allow-credentials: true; allow-headers: x-a, content-type; allow-methods: PUT, DELETE; \
                 allow-origin: https://a.example; max-age: 61; vary: access-control-request-headers; vary: origin",
            ),
            (cors(), &[("origin", "https://b.example"), asks], "204 vary: origin"),
            (
                Cors::any_origin(),
                &[("origin", A), asks],
                "204 allow-methods: GET, HEAD, POST; allow-origin: *",
            ),
            // Not a preflight: the router answers it.
            (cors(), &[("origin", A)], "204 allow-origin: https://a.example; vary: origin"),
        ];
        for (cors, fields, want) in cases {
            let response = ask(&around(cors), "OPTIONS /", fields);
            assert_eq!(said(&response), want, "{fields:?}");
            assert_eq!(field(&response, "allow").is_empty(), fields.contains(&asks));
        }
    }

    #[test]
    fn invalid_settings_are_errors_at_startup() {
        assert!(around(Cors::any_origin().credentials()).check().is_err());
        for origin in
            ["a.example", "https://a.example/", "https://", "https://*.example", "https://A.example", "*", ""]
        {
            assert!(around(Cors::origins([origin])).check().is_err(), "{origin}");
        }
        for origin in [A, "http://localhost:3000", "null", "http://[::1]:80", "chrome-extension://abc"] {
            assert_eq!(around(Cors::origins([origin])).check(), Ok(()), "{origin}");
        }
    }
}
