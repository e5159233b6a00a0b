//! What the access log knows of a request and its response.
//!
//! **What can be found later is found when it is asked for**: the client and the fields, in the head as received, and the
//! time. The head and the route are shared, so an entry copies no text, and any field can be asked for by its name.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{HOST, REFERER, USER_AGENT};
use http::{Extensions, HeaderMap, HeaderName, Method, StatusCode, Version};

use crate::Request;
use crate::base::time::{Rfc3339, wall_time};
use crate::net::conn_info::ConnInfo;
use crate::web::client::Client;
use crate::web::fields::FieldSource;
use crate::web::handler::{Matched, Route, SharedPattern};
use crate::web::response::ResponseEnd;
use crate::web::wrap::RequestId;

/// A response that has ended, and the request it was for, as the client has sent it. It displays as a line in the format
/// [`AccessFormat::Fields`](super::AccessFormat::Fields).
#[derive(Clone)]
pub struct Access {
    /// When the server started the call.
    started: Instant,
    conn_info: Option<Arc<ConnInfo>>,
    request: Received,
    /// Whether the target is logged with its query.
    with_query: bool,
    pattern: Pattern,
    request_id: Option<RequestId>,
    end: ResponseEnd,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A request.
#[derive(Clone)]
struct Received {
    /// As received, and checked by the server.
    head: Bytes,
    /// If no client has sent it.
    constructed: Option<Box<Constructed>>,
}

#[derive(Clone)]
struct Constructed {
    method: Method,
    target: String,
    version: Version,
    fields: HeaderMap,
}

impl Constructed {
    #[inline(never)]
    fn of(request: &Request) -> Box<Constructed> {
        Box::new(Constructed {
            method: request.method().clone(),
            target: request.uri().to_string(),
            version: request.version(),
            fields: request.headers().clone(),
        })
    }
}

impl Received {
    #[inline(always)]
    fn of(request: &Request) -> Received {
        match request.body().head() {
            Some(head) => Received { constructed: None, head: head.clone() },
            None => Received { constructed: Some(Constructed::of(request)), head: Bytes::new() },
        }
    }

    fn line(&self) -> RequestLine<'_> {
        match &self.constructed {
            None => RequestLine::of_head(&self.head),
            Some(request) => RequestLine {
                method: request.method.as_str().as_bytes(),
                target: request.target.as_bytes(),
                version: request.version,
            },
        }
    }

    fn fields(&self) -> FieldSource<'_> {
        match &self.constructed {
            None => FieldSource::Head(&self.head),
            Some(request) => FieldSource::Map(&request.fields),
        }
    }

    /// All values, as one list.
    fn field(&self, name: &HeaderName) -> Option<Cow<'_, str>> {
        let [value] = self.each_field([name]);
        value.map(text_of)
    }

    /// As `field`, for several names in one pass.
    fn each_field<const N: usize>(&self, names: [&HeaderName; N]) -> [Option<Cow<'_, [u8]>>; N] {
        let mut found = [const { None }; N];
        self.fields().for_each(names, |n, value| {
            if let Some(found) = found.get_mut(n) {
                *found = joined(found.take(), value);
            }
        });
        found
    }
}

/// The first line of a request. Method and target are UTF-8.
#[derive(Clone, Copy)]
pub(super) struct RequestLine<'a> {
    pub(super) method: &'a [u8],
    pub(super) target: &'a [u8],
    pub(super) version: Version,
}

impl RequestLine<'_> {
    fn of_head(head: &[u8]) -> RequestLine<'_> {
        let (method, rest) = split_at_space(head);
        let (target, rest) = split_at_space(rest);
        let is_old = rest.starts_with(b"HTTP/1.0");
        RequestLine { method, target, version: if is_old { Version::HTTP_10 } else { Version::HTTP_11 } }
    }
}

fn split_at_space(text: &[u8]) -> (&[u8], &[u8]) {
    let at = text.iter().position(|b| *b == b' ').unwrap_or(text.len());
    (text.get(..at).unwrap_or_default(), text.get(at.saturating_add(1)..).unwrap_or_default())
}

fn checked(text: &[u8]) -> &str {
    std::str::from_utf8(text).unwrap_or_default()
}

/// As text. What is not UTF-8 is replaced.
pub(super) fn text_of(value: Cow<'_, [u8]>) -> Cow<'_, str> {
    match value {
        Cow::Borrowed(value) => String::from_utf8_lossy(value),
        Cow::Owned(value) => Cow::Owned(String::from_utf8_lossy(&value).into_owned()),
    }
}

/// Path and query of a target, which may be an absolute URI: that with an empty path means `/` (RFC 9110 §4.2.3), and is given
/// without its query.
fn path_and_query_of(target: &[u8]) -> &[u8] {
    if target.starts_with(b"/") {
        return target;
    }
    let Some(at) = target.windows(3).position(|part| part == b"://") else { return target };
    let after = target.get(at.saturating_add(3)..).unwrap_or_default();
    let end = after.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(after.len());
    after.get(end..).filter(|rest| rest.starts_with(b"/")).unwrap_or(b"/")
}

fn path_of(target: &[u8]) -> &[u8] {
    let target = path_and_query_of(target);
    let end = target.iter().position(|b| *b == b'?').unwrap_or(target.len());
    target.get(..end).unwrap_or_default()
}

/// The pattern of a request's route.
#[derive(Clone, Debug)]
enum Pattern {
    Unknown,
    /// The path is the pattern.
    Path,
    Shared(SharedPattern),
}

impl Pattern {
    #[inline(never)]
    fn of(request: &Request) -> Pattern {
        if request.body().routed_prefix().is_none() {
            let matched = request.extensions().get::<Matched>();
            return matched.and_then(Matched::shared_pattern).map_or(Pattern::Unknown, Pattern::Shared);
        }
        let path = request.uri().path();
        let is_own = |head: &Bytes| path_of(RequestLine::of_head(head).target) == path.as_bytes();
        // A handler further outside may have changed the path.
        if request.body().head().is_none_or(is_own) {
            return Pattern::Path;
        }
        Pattern::Shared(SharedPattern::Text(path.into()))
    }
}

fn joined<'a>(all: Option<Cow<'a, [u8]>>, value: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    Some(match all {
        None => Cow::Borrowed(value),
        Some(all) => Cow::Owned([&*all, b", ", value].concat()),
    })
}

impl Access {
    /// `route` is given if the request's pattern is its own. An entry is large: inlined, it is written where it stays.
    #[inline(always)]
    pub(super) fn of(
        request: &Request,
        route: Option<&Arc<Route>>,
        with_query: bool,
        started: Instant,
    ) -> Access {
        Access {
            started,
            end: ResponseEnd { status: StatusCode::OK, bytes: 0, complete: false, at: started },
            with_query,
            conn_info: request.body().conn_info().cloned(),
            request_id: request.extensions().get::<RequestId>().cloned(),
            pattern: match route {
                Some(route) => Pattern::Shared(SharedPattern::Of(Arc::clone(route))),
                None => Pattern::of(request),
            },
            request: Received::of(request),
        }
    }

    /// The wrapper that assigns ids may be further inside.
    pub(super) fn take_id_of(&mut self, response: &Extensions) {
        if self.request_id.is_none() {
            self.request_id = response.get::<RequestId>().cloned();
        }
    }

    pub(super) fn end(&mut self, end: &ResponseEnd) {
        self.end = *end;
    }

    /// When the request was complete and the server called its handler. Where the system's clock is set, this may be a second
    /// late to notice it.
    pub fn time(&self) -> SystemTime {
        wall_time(self.started)
    }

    pub(super) fn display_time(&self) -> Rfc3339 {
        Rfc3339(self.time())
    }

    /// Whom the request is from: see [`RequestExt::client`](crate::RequestExt::client). By the fields as received.
    pub fn client(&self) -> Client {
        Client::named_by(self.conn_info.as_ref(), self.request.fields())
    }

    /// The name of the listener, as given to [`Server::listen`](crate::Server::listen).
    pub fn listener(&self) -> Option<&str> {
        self.conn_info.as_ref()?.listener.as_ref().map(|listener| &*listener.name)
    }

    /// The method that the client has sent.
    pub fn method(&self) -> &str {
        checked(self.line().method)
    }

    /// The version that the client has sent.
    pub fn version(&self) -> Version {
        self.line().version
    }

    /// The path that the client has sent, without the query unless [`AccessLog::query`](super::AccessLog::query) is set, because
    /// queries may contain secrets.
    pub fn target(&self) -> &str {
        checked(self.line().target)
    }

    /// With the target as it is logged.
    pub(super) fn line(&self) -> RequestLine<'_> {
        let mut line = self.request.line();
        let target = if self.with_query { path_and_query_of } else { path_of };
        line.target = target(line.target);
        line
    }

    /// The pattern of the route that matched.
    pub fn pattern(&self) -> Option<&str> {
        self.pattern_on(self.line()).map(checked)
    }

    /// As `pattern`.
    pub(super) fn pattern_on<'a>(&'a self, line: RequestLine<'a>) -> Option<&'a [u8]> {
        match &self.pattern {
            Pattern::Unknown => None,
            Pattern::Path => Some(path_of(line.target)),
            Pattern::Shared(pattern) => Some(pattern.text().as_bytes()),
        }
    }

    /// The status sent to the client.
    pub fn status(&self) -> StatusCode {
        self.end.status
    }

    /// Bytes of the response's body as sent, so after compression.
    pub fn bytes(&self) -> u64 {
        self.end.bytes
    }

    /// From the call of the handler and its wrappers, when the request is complete, until the end of the response was written
    /// to the connection.
    pub fn duration(&self) -> Duration {
        self.end.at.saturating_duration_since(self.started)
    }

    pub(super) fn millis(&self) -> f64 {
        self.duration().as_secs_f64() * 1000.0
    }

    /// Whole milliseconds, and the microseconds after them: their digits cost a fourth of a float's.
    pub(super) fn display_millis(&self) -> (u64, u64) {
        let micros = self.duration().saturating_add(Duration::from_nanos(500)).as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        (micros / 1_000, micros % 1_000)
    }

    /// `Host`, `Referer` and `User-Agent`, in one pass.
    pub(super) fn known_fields(&self) -> [Option<Cow<'_, [u8]>>; 3] {
        self.request.each_field([&HOST, &REFERER, &USER_AGENT])
    }

    /// `Referer` and `User-Agent`.
    pub(super) fn combined_fields(&self) -> [Option<Cow<'_, [u8]>>; 2] {
        self.request.each_field([&REFERER, &USER_AGENT])
    }

    /// False if the client has disconnected or was too slow, or the source of the response failed.
    pub fn is_complete(&self) -> bool {
        self.end.complete
    }

    pub(super) fn display_end(&self) -> &'static str {
        if self.end.complete { "complete" } else { "cut" }
    }

    /// The id, with [`RequestIds`](crate::wrap::RequestIds).
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// The host that the client has asked for: what a trusted proxy says, or `Host`.
    pub fn host(&self) -> Option<Cow<'_, str>> {
        let forwarded = self.client().forwarded_host.map(|host| Cow::Owned(host.into_string()));
        forwarded.or_else(|| self.request.field(&HOST))
    }

    /// `Referer`.
    pub fn referer(&self) -> Option<Cow<'_, str>> {
        self.request.field(&REFERER)
    }

    /// `User-Agent`.
    pub fn user_agent(&self) -> Option<Cow<'_, str>> {
        self.request.field(&USER_AGENT)
    }

    /// A field of the request by its name, as the client has sent it; all values as one list if it is repeated. Bytes that are
    /// not UTF-8 are replaced.
    pub fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        self.request.field(&HeaderName::from_bytes(name.as_bytes()).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Body;

    #[test]
    fn paths_of_targets() {
        for (target, path_and_query) in [
            ("/", "/"),
            ("/a/b?c=/d", "/a/b?c=/d"),
            ("/a://b/c?d", "/a://b/c?d"),
            ("*", "*"),
            ("a.example:443", "a.example:443"),
            ("http://a.example/b/c?d=http://e/f", "/b/c?d=http://e/f"),
            ("https://a.example:443", "/"),
            ("http://a.example?b/c", "/"),
        ] {
            let path = path_and_query.split('?').next().unwrap();
            let head = format!("GET {target} HTTP/1.0\r\nHost: a b\r\n\r\n");
            let request = Received { head: Bytes::from(head), constructed: None };
            let line = request.line();
            assert_eq!((checked(line.target), checked(path_of(line.target))), (target, path));
            assert_eq!(checked(path_and_query_of(line.target)), path_and_query);
            assert_eq!((line.method, line.version), (&b"GET"[..], Version::HTTP_10));
        }
    }

    #[test]
    fn fields_by_name() {
        let head = "GET /a:b HTTP/1.1\r\nHost: h:80\r\nX-List: a\r\nuser-agent:  b c \r\nX-LIST: b,c\r\nEmpty:\r\n\r\n";
        let mut map = HeaderMap::new();
        for (name, value) in
            [("host", "h:80"), ("x-list", "a"), ("user-agent", "b c"), ("x-list", "b,c"), ("empty", "")]
        {
            map.append(name, value.parse().unwrap());
        }
        let mut constructed = http::Request::get("/a:b").body(Body::empty()).unwrap();
        *constructed.headers_mut() = map;
        let received = Received { head: Bytes::from_static(head.as_bytes()), constructed: None };
        for request in [received, Received::of(&constructed)] {
            let line = request.line();
            assert_eq!(
                (line.method, line.target, line.version),
                (&b"GET"[..], &b"/a:b"[..], Version::HTTP_11)
            );
            for (name, value) in [
                ("host", Some("h:80")),
                ("x-list", Some("a, b,c")),
                ("user-agent", Some("b c")),
                ("empty", Some("")),
                ("absent", None),
                ("get /a", None),
            ] {
                let name = HeaderName::from_bytes(name.as_bytes()).ok();
                assert_eq!(name.and_then(|name| request.field(&name)).as_deref(), value);
            }
        }
    }
}
