//! An id for each request, by which the logs of several programs can be correlated.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderName, HeaderValue};

use super::TraceContext;
use crate::web::fields::ascii;
use crate::web::handler::{Next, Wrapper};
use crate::{Request, Response};

/// Longer ids are replaced.
const MOST_BYTES: usize = 128;

const TRACEPARENT: &str = "traceparent";

/// Gives each request a [`RequestId`] in its extensions, and repeats it in the response's `X-Request-Id` and extensions. An id
/// that a client or proxy sends in that field is kept if it is valid: 1 to 128 letters, digits and `-_.:/+=@~`. Any other
/// is replaced.
///
/// A generated id differs from those of all other processes, and can be guessed: it is a name, not a secret.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::wrap::{RequestId, RequestIds};
///
/// let handler = (|req: Request| format!("{}\n", req.extensions().get::<RequestId>().unwrap()))
///     .wrap(RequestIds::new());
/// let mut response = handler.call(http::Request::get("/").body(Body::empty()).unwrap());
/// let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
/// assert_eq!(response.body_mut().read_text().unwrap(), format!("{id}\n"));
/// ```
#[derive(Debug)]
pub struct RequestIds {
    field: HeaderName,
    trusting: bool,
    traces: bool,
    /// Keyed by the system's randomness.
    random: RandomState,
    /// The prefix of this process; different in each generation.
    prefix: u64,
    next: AtomicU64,
}

/// The id of a request by [`RequestIds`], in its extensions and those of its response.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestIds {
    /// Uses the field `X-Request-Id`.
    pub fn new() -> RequestIds {
        let random = RandomState::new();
        RequestIds {
            field: HeaderName::from_static("x-request-id"),
            trusting: true,
            traces: false,
            prefix: random.hash_one(std::process::id()),
            random,
            next: AtomicU64::new(1),
        }
    }

    /// Uses another field.
    #[must_use]
    pub fn field(mut self, name: HeaderName) -> RequestIds {
        self.field = name;
        self
    }

    /// Whether a valid id that a client sends is kept. Default: yes. If not, every request gets a new one.
    #[must_use]
    pub fn trust_clients(mut self, trust: bool) -> RequestIds {
        self.trusting = trust;
        self
    }

    /// Also takes part in traces by W3C Trace Context. A request's `traceparent` is continued, unless it is malformed or clients
    /// are not trusted, and otherwise a trace begins; a handler finds it as [`TraceContext`] in the request's extensions, to
    /// send it along with its own requests. The response has it in a `traceparent` of its own. A request without an id of its
    /// own in the other field has the id of the trace that it continues. Default: no.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// use heirloom::wrap::{RequestId, RequestIds, TraceContext};
    ///
    /// let handler = (|req: Request| req.extensions().get::<TraceContext>().unwrap().traceparent().to_owned())
    ///     .wrap(RequestIds::new().traceparent(true));
    /// let sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// let response = handler.call(heirloom::http::Request::get("/").header("traceparent", sent).body(Body::empty()).unwrap());
    /// assert_eq!(response.headers()["x-request-id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    /// ```
    #[must_use]
    pub fn traceparent(mut self, traces: bool) -> RequestIds {
        self.traces = traces;
        self
    }

    fn trace(&self, request: &Request) -> TraceContext {
        let [span, high, low] =
            [(); 3].map(|()| self.random.hash_one(self.next.fetch_add(1, Ordering::Relaxed)));
        let sent = only(request, &HeaderName::from_static(TRACEPARENT)).filter(|_| self.trusting);
        let continued = sent.and_then(|sent| TraceContext::continued(sent, span));
        continued.unwrap_or_else(|| TraceContext::new([high, low], span))
    }

    fn sent(&self, request: &Request) -> Option<RequestId> {
        let text = only(request, &self.field)?;
        let sane = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/+=@~".contains(&b);
        let is_sane = !text.is_empty() && text.len() <= MOST_BYTES && text.bytes().all(sane);
        (self.trusting && is_sane).then(|| RequestId(text.into()))
    }

    fn made(&self) -> RequestId {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        RequestId(format!("{:016x}-{n:x}", self.prefix).into())
    }
}

/// The value of a field that is there once.
fn only<'a>(request: &'a Request, name: &HeaderName) -> Option<&'a str> {
    let mut values = request.headers().get_all(name).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    ascii(value.as_bytes())
}

impl Default for RequestIds {
    fn default() -> RequestIds {
        RequestIds::new()
    }
}

impl Wrapper for RequestIds {
    fn call(&self, mut request: Request, next: Next<'_>) -> Response {
        let trace = self.traces.then(|| self.trace(&request));
        let of_trace = trace.as_ref().filter(|trace| trace.parent_id().is_some());
        let id = self.sent(&request).or_else(|| of_trace.map(|trace| RequestId(trace.trace_id().into())));
        let id = id.unwrap_or_else(|| self.made());
        if let Some(trace) = &trace {
            request.extensions_mut().insert(trace.clone());
        }
        request.extensions_mut().insert(id.clone());
        let mut response = next.call(request);
        if let Ok(value) = HeaderValue::try_from(&*id.0) {
            response.headers_mut().insert(self.field.clone(), value);
        }
        response.extensions_mut().insert(id);
        if let Some(trace) = trace {
            if let Ok(value) = HeaderValue::try_from(trace.traceparent()) {
                response.headers_mut().insert(TRACEPARENT, value);
            }
            response.extensions_mut().insert(trace);
        }
        response
    }
}

impl Deref for RequestId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Handler;
    use crate::web::wrap::testing::{ask, field, request};

    fn handler(ids: RequestIds) -> impl Handler {
        (|req: Request| req.extensions().get::<RequestId>().map(RequestId::to_string).unwrap_or_default())
            .wrap(ids)
    }

    #[test]
    fn what_is_sane_is_kept_and_anything_else_replaced() {
        let handler = handler(RequestIds::new());
        let long = "x".repeat(MOST_BYTES);
        for id in ["a", "7f3c-11ee.A_b:/+=@~", &long] {
            let mut response = ask(&handler, "GET /", &[("x-request-id", id)]);
            assert_eq!(field(&response, "x-request-id"), id);
            assert_eq!(response.body_mut().read_text().unwrap(), id);
            assert_eq!(&**response.extensions().get::<RequestId>().unwrap(), id);
        }
        let longer = "x".repeat(MOST_BYTES + 1);
        let mut made = Vec::new();
        for id in ["", "a b", "a\"", "a,b", "é", &longer] {
            let mut request = request("GET /", &[]);
            request.headers_mut().insert("x-request-id", HeaderValue::from_bytes(id.as_bytes()).unwrap());
            let mut response = handler.call(request);
            let given = field(&response, "x-request-id");
            assert_ne!(given, id);
            assert_eq!(response.body_mut().read_text().unwrap(), given);
            made.push(given);
        }
        made.push(field(
            &ask(&handler, "GET /", &[("x-request-id", "a"), ("x-request-id", "b")]),
            "x-request-id",
        ));
        made.push(field(&ask(&handler, "GET /", &[]), "x-request-id"));
        let unlike: std::collections::BTreeSet<&String> = made.iter().collect();
        assert_eq!(unlike.len(), made.len(), "{made:?}");
        assert_ne!(RequestIds::new().prefix, RequestIds::new().prefix);
    }

    #[test]
    fn untrusted_clients_and_another_field() {
        let ids = RequestIds::new().field(HeaderName::from_static("x-trace")).trust_clients(false);
        let response = ask(&handler(ids), "GET /", &[("x-trace", "a")]);
        assert_eq!(field(&response, "x-request-id"), "");
        assert!(field(&response, "x-trace").ends_with("-1"));
    }

    #[test]
    fn traces_are_continued_or_begun() {
        const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traced = |ids: RequestIds| {
            (|req: Request| req.extensions().get::<TraceContext>().unwrap().traceparent().to_owned())
                .wrap(ids)
        };
        let handler = traced(RequestIds::new().traceparent(true));
        let mut spans = std::collections::BTreeSet::new();
        for fields in [&[("traceparent", SENT)][..], &[("traceparent", SENT), ("x-request-id", "a-1")]] {
            let mut response = ask(&handler, "GET /", fields);
            let context = response.extensions().get::<TraceContext>().unwrap().clone();
            assert_eq!(field(&response, "traceparent"), context.traceparent());
            assert_eq!(response.body_mut().read_text().unwrap(), context.traceparent());
            assert_eq!(context.trace_id(), &SENT[3..35]);
            assert_eq!((context.parent_id(), context.is_sampled()), (Some(&SENT[36..52]), true));
            let id = if fields.len() == 1 { &SENT[3..35] } else { "a-1" };
            assert_eq!(field(&response, "x-request-id"), id);
            spans.insert(context.span_id().to_owned());
        }
        let distrusts = traced(RequestIds::new().traceparent(true).trust_clients(false));
        let twice = [("traceparent", SENT), ("traceparent", SENT)];
        for response in [
            ask(&handler, "GET /", &[]),
            ask(&handler, "GET /", &[("traceparent", "00-x")]),
            ask(&handler, "GET /", &twice),
            ask(&distrusts, "GET /", &twice[..1]),
        ] {
            let context = response.extensions().get::<TraceContext>().unwrap().clone();
            assert_eq!((context.parent_id(), context.is_sampled()), (None, false));
            assert_ne!(field(&response, "x-request-id"), context.trace_id());
            spans.insert(context.trace_id().to_owned());
            spans.insert(context.span_id().to_owned());
        }
        assert_eq!(spans.len(), 10, "{spans:?}");
        let response = ask(&self::handler(RequestIds::new()), "GET /", &twice[..1]);
        assert_eq!(field(&response, "traceparent"), "", "by default nothing is said");
    }
}
