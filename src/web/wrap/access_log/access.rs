//! What the access log knows of a request and its response.
//!
//! **Fields of the request are looked up in its head as received** when a line needs them. The head is shared, so a line
//! costs no copy of the fields, and any field can be asked for by its name.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HOST, REFERER, USER_AGENT};
use http::{HeaderMap, HeaderName, Method, StatusCode, Version};

use crate::base::time::Rfc3339;
use crate::net::conn_info::ConnInfo;
use crate::web::client::Client;
use crate::web::request::RequestExt;
use crate::web::response::ResponseEnd;
use crate::web::wrap::RequestId;
use crate::{Request, Response};

/// A response that has ended, and the request it was for. It displays as a line in the format
/// [`AccessFormat::Fields`](super::AccessFormat::Fields).
#[derive(Clone, Debug)]
pub struct Access {
    time: SystemTime,
    client: Client,
    conn_info: Option<Arc<ConnInfo>>,
    method: Method,
    version: Version,
    target: String,
    pattern: Option<String>,
    fields: Fields,
    request_id: Option<RequestId>,
    end: ResponseEnd,
    duration: Duration,
}

/// The fields of a request.
#[derive(Clone, Debug)]
enum Fields {
    /// The head as received, which the server has checked.
    Head(Bytes),
    /// Of a constructed request.
    Map(HeaderMap),
}

impl Fields {
    /// All values, as one list.
    fn get(&self, name: &HeaderName) -> Option<Cow<'_, str>> {
        match self {
            Fields::Head(head) => {
                let lines = head.split(|&b| b == b'\n').skip(1).filter_map(|line| {
                    let colon = line.iter().position(|&b| b == b':')?;
                    let (found, value) = line.split_at_checked(colon)?;
                    let is_it = found.eq_ignore_ascii_case(name.as_str().as_bytes());
                    is_it.then(|| value.get(1..).unwrap_or_default().trim_ascii())
                });
                joined(lines)
            }
            Fields::Map(map) => joined(map.get_all(name).iter().map(|value| value.as_bytes())),
        }
    }
}

fn joined<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<Cow<'a, str>> {
    values.map(String::from_utf8_lossy).reduce(|all, value| Cow::Owned(format!("{all}, {value}")))
}

impl Access {
    pub(super) fn of(request: &Request, with_query: bool) -> Access {
        let uri = request.uri();
        let target = match uri.query() {
            Some(query) if with_query => format!("{}?{query}", uri.path()),
            _ => uri.path().to_owned(),
        };
        let head = request.body().head_bytes();
        Access {
            time: SystemTime::now(),
            client: request.client(),
            conn_info: request.body().conn_info().cloned(),
            method: request.method().clone(),
            version: request.version(),
            target,
            pattern: request.pattern().map(Cow::into_owned),
            fields: if head.is_empty() {
                Fields::Map(request.headers().clone())
            } else {
                Fields::Head(head.clone())
            },
            request_id: request.extensions().get::<RequestId>().cloned(),
            end: ResponseEnd { status: StatusCode::OK, bytes: 0, complete: false },
            duration: Duration::ZERO,
        }
    }

    /// The wrapper that assigns ids may be further inside.
    pub(super) fn take_id_of(&mut self, response: &Response) {
        let id = || response.extensions().get::<RequestId>().cloned();
        self.request_id = self.request_id.take().or_else(id);
    }

    pub(super) fn end(&mut self, end: &ResponseEnd, duration: Duration) {
        (self.end, self.duration) = (*end, duration);
    }

    /// When the request was complete and the wrapper was called.
    pub fn time(&self) -> SystemTime {
        self.time
    }

    #[cfg(test)]
    pub(super) fn set_time(&mut self, time: SystemTime) {
        self.time = time;
    }

    pub(super) fn display_time(&self) -> Rfc3339 {
        Rfc3339(self.time)
    }

    /// Whom the request is from: see [`RequestExt::client`].
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The proxies, as a list; None if there is none.
    pub(super) fn via(&self) -> Option<String> {
        let hops: Vec<String> = self.client.via().iter().map(ToString::to_string).collect();
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
        &self.target
    }

    /// The pattern of the route that matched.
    pub fn pattern(&self) -> Option<&str> {
        self.pattern.as_deref()
    }

    /// The status sent to the client.
    pub fn status(&self) -> StatusCode {
        self.end.status
    }

    /// Bytes of the response's body as sent, so after compression.
    pub fn bytes(&self) -> u64 {
        self.end.bytes
    }

    /// From the call of the wrapper, when the request is complete, until the end of the response was written to the
    /// connection.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    pub(super) fn millis(&self) -> f64 {
        self.duration.as_secs_f64() * 1000.0
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
        self.client.forwarded_host().map(Cow::Borrowed).or_else(|| self.fields.get(&HOST))
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
        for fields in [Fields::Head(Bytes::from_static(head.as_bytes())), Fields::Map(map)] {
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
