//! What the access log knows of a request and its response.
//!
//! **What can be found later is found when it is asked for**: the client and the fields, in the head as received, and the
//! time. The head and the route are shared, so an entry copies no text, and any field can be asked for by its name.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{HOST, REFERER, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Extensions, HeaderMap, HeaderName, Method, StatusCode, Uri, Version};

use crate::Request;
use crate::base::time::{Rfc3339, wall_time};
use crate::net::conn_info::ConnInfo;
use crate::web::client::Client;
use crate::web::fields::FieldSource;
use crate::web::handler::{Matched, SharedPattern};
use crate::web::response::ResponseEnd;
use crate::web::wrap::RequestId;

/// A response that has ended, and the request it was for. It displays as a line in the format
/// [`AccessFormat::Fields`](super::AccessFormat::Fields).
#[derive(Clone, Debug)]
pub struct Access {
    /// When the server started the call.
    started: Instant,
    client: OnceLock<Client>,
    conn_info: Option<Arc<ConnInfo>>,
    method: Method,
    version: Version,
    target: Target,
    pattern: Pattern,
    fields: Fields,
    request_id: Option<RequestId>,
    end: ResponseEnd,
}

/// What is logged of a request's target. The path is shared with the request.
#[derive(Clone, Debug)]
enum Target {
    Path(PathAndQuery),
    Text(String),
}

impl Target {
    fn of(uri: &Uri, with_query: bool) -> Target {
        match (uri.path_and_query(), uri.query()) {
            (_, Some(query)) if with_query => Target::Text(format!("{}?{query}", uri.path())),
            (Some(path), _) => Target::Path(path.clone()),
            (None, _) => Target::Text(uri.path().to_owned()),
        }
    }

    fn text(&self) -> &str {
        match self {
            Target::Path(path) => path.path(),
            Target::Text(text) => text,
        }
    }
}

/// The pattern of a request's route.
#[derive(Clone, Debug)]
enum Pattern {
    Unknown,
    /// The target is the pattern.
    Target,
    Shared(SharedPattern),
}

/// The fields of a request.
#[derive(Clone, Debug)]
enum Fields {
    /// The head as received, which the server has checked.
    Head(Bytes),
    /// Of a constructed request.
    Map(Box<HeaderMap>),
}

impl Fields {
    fn source(&self) -> FieldSource<'_> {
        match self {
            Fields::Head(head) => FieldSource::Head(head),
            Fields::Map(map) => FieldSource::Map(map),
        }
    }

    /// All values, as one list.
    fn get(&self, name: &HeaderName) -> Option<Cow<'_, str>> {
        let [value] = self.get_each([name]);
        value
    }

    /// As `get`, for several names in one pass.
    fn get_each<const N: usize>(&self, names: [&HeaderName; N]) -> [Option<Cow<'_, str>>; N] {
        let mut found = [const { None }; N];
        self.source().for_each(names, |n, value| {
            if let Some(found) = found.get_mut(n) {
                *found = joined(found.take(), value);
            }
        });
        found
    }
}

fn joined<'a>(all: Option<Cow<'a, str>>, value: &'a [u8]) -> Option<Cow<'a, str>> {
    // Nearly always it is UTF-8, which the other function learns byte by byte.
    let value = std::str::from_utf8(value).map_or_else(|_| String::from_utf8_lossy(value), Cow::Borrowed);
    Some(match all {
        None => value,
        Some(all) => Cow::Owned(format!("{all}, {value}")),
    })
}

impl Access {
    pub(super) fn of(request: &Request, with_query: bool, started: Instant) -> Access {
        let target = Target::of(request.uri(), with_query);
        let is_pattern = request.body().routed_prefix().is_some() && matches!(target, Target::Path(_));
        let matched = || match request.extensions().get::<Matched>() {
            Some(matched) => matched.shared_pattern(),
            // The path, beside which the target has a query.
            None => request.body().routed_prefix().map(|_| SharedPattern::Text(request.uri().path().into())),
        };
        let head = request.body().head_bytes();
        Access {
            started,
            client: OnceLock::new(),
            conn_info: request.body().conn_info().cloned(),
            method: request.method().clone(),
            version: request.version(),
            pattern: if is_pattern {
                Pattern::Target
            } else {
                matched().map_or(Pattern::Unknown, Pattern::Shared)
            },
            target,
            fields: if head.is_empty() {
                Fields::Map(Box::new(request.headers().clone()))
            } else {
                Fields::Head(head.clone())
            },
            request_id: request.extensions().get::<RequestId>().cloned(),
            end: ResponseEnd { status: StatusCode::OK, bytes: 0, complete: false, at: started },
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
    pub fn client(&self) -> &Client {
        self.client.get_or_init(|| Client::named_by(self.conn_info.as_ref(), self.fields.source()))
    }

    /// The proxies, as a list; None if there is none.
    pub(super) fn via(&self) -> Option<String> {
        let hops: Vec<String> = self.client().via().iter().map(ToString::to_string).collect();
        (!hops.is_empty()).then(|| hops.join(","))
    }

    /// The name of the listener, as given to [`Server::listen`](crate::Server::listen).
    pub fn listener(&self) -> Option<&str> {
        self.conn_info.as_ref()?.listener.as_ref().map(|listener| &*listener.name)
    }

    /// The method of the request.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The version that the client has sent.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The path, without the query unless [`AccessLog::query`](super::AccessLog::query) is set, because queries may contain
    /// secrets.
    pub fn target(&self) -> &str {
        self.target.text()
    }

    /// The pattern of the route that matched.
    pub fn pattern(&self) -> Option<&str> {
        match &self.pattern {
            Pattern::Unknown => None,
            Pattern::Target => Some(self.target.text()),
            Pattern::Shared(pattern) => Some(pattern.text()),
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

    /// `Host` or what a proxy says instead, `Referer` and `User-Agent`.
    pub(super) fn known_fields(&self) -> [Option<Cow<'_, str>>; 3] {
        let [host, referer, agent] = self.fields.get_each([&HOST, &REFERER, &USER_AGENT]);
        [self.client().forwarded_host().map(Cow::Borrowed).or(host), referer, agent]
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
        self.client().forwarded_host().map(Cow::Borrowed).or_else(|| self.fields.get(&HOST))
    }

    /// `Referer`.
    pub fn referer(&self) -> Option<Cow<'_, str>> {
        self.fields.get(&REFERER)
    }

    /// `User-Agent`.
    pub fn user_agent(&self) -> Option<Cow<'_, str>> {
        self.fields.get(&USER_AGENT)
    }

    /// A field of the request by its name, as the client has sent it; all values as one list if it is repeated. Bytes that are
    /// not UTF-8 are replaced.
    pub fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        self.fields.get(&HeaderName::from_bytes(name.as_bytes()).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_by_name() {
        let head = "GET /a:b HTTP/1.1\r\nHost: h:80\r\nX-List: a\r\nuser-agent:  b c \r\nX-LIST: b,c\r\nEmpty:\r\n\r\n";
        let mut map = HeaderMap::new();
        for (name, value) in
            [("host", "h:80"), ("x-list", "a"), ("user-agent", "b c"), ("x-list", "b,c"), ("empty", "")]
        {
            map.append(name, value.parse().unwrap());
        }
        for fields in [Fields::Head(Bytes::from_static(head.as_bytes())), Fields::Map(Box::new(map))] {
            for (name, value) in [
                ("host", Some("h:80")),
                ("x-list", Some("a, b,c")),
                ("user-agent", Some("b c")),
                ("empty", Some("")),
                ("absent", None),
                ("get /a", None),
            ] {
                let name = HeaderName::from_bytes(name.as_bytes()).ok();
                assert_eq!(name.and_then(|name| fields.get(&name)).as_deref(), value);
            }
        }
    }
}
