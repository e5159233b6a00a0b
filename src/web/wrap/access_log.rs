//! The access log: requests and how their responses ended.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::USER_AGENT;
use http::{Method, StatusCode};

use super::RequestId;
use crate::base::log::{Value, info_as_is};
use crate::web::handler::{Next, Wrapper};
use crate::web::request::RequestExt;
use crate::web::response::ResponseExt;
use crate::{Request, Response};

const TARGET: &str = "heirloom::access";

/// Logs each response when it has ended: through the `log` crate, at `info`, with the target
/// `heirloom::access`, so that a logger can send these lines elsewhere. A line has the fields of
/// [`Access`] in the order given there:
///
/// ```text
/// peer=127.0.0.1:50412 method=GET target=/users/7 pattern=/users/{id} status=200 bytes=7 ms=0.131 end=complete id=3f9a6c01d2b4e587-1 agent=curl/8.5.0
/// ```
///
/// An unknown value is `-`; a value with spaces, quotes or control characters is quoted, with escapes.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::wrap::AccessLog;
/// let handler = Router::new().get("/", |_: Request| "hello\n").wrap(AccessLog::new());
/// ```
pub struct AccessLog {
    query: bool,
    sink: Option<Sink>,
}

type Sink = Arc<dyn Fn(&Access) + Send + Sync>;

/// A response that has ended, and the request it was for. It displays as a line of the log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Access {
    /// The address of the client; None on a unix socket.
    pub peer: Option<SocketAddr>,
    /// The method of the request.
    pub method: Method,
    /// The path, without the query unless [`AccessLog::query`] is set, because queries may contain secrets.
    pub target: String,
    /// The pattern of the route that matched.
    pub pattern: Option<String>,
    /// The status sent to the client.
    pub status: StatusCode,
    /// Bytes of the response's body as sent, so after compression.
    pub bytes: u64,
    /// From the call of the wrapper, when the request is complete, until the end of the response was written to the
    /// connection.
    pub duration: Duration,
    /// False if the client has disconnected or was too slow, or the source of the response failed.
    pub complete: bool,
    /// The id, with [`RequestIds`](super::RequestIds).
    pub request_id: Option<String>,
    /// `User-Agent`.
    pub user_agent: Option<String>,
}

impl AccessLog {
    /// Logs at `info`, with the target `heirloom::access`.
    pub fn new() -> AccessLog {
        AccessLog { query: false, sink: None }
    }

    /// Whether targets include the query. Default: no, because queries may contain secrets.
    #[must_use]
    pub fn query(mut self, query: bool) -> AccessLog {
        self.query = query;
        self
    }

    /// Gives each entry to `sink` instead of the log: for another format, a file, counters. It runs
    /// where [`ResponseExt::on_end`] does.
    ///
    /// ```
    /// use heirloom::wrap::AccessLog;
    /// let log = AccessLog::new().to(|access| {
    ///     if access.status.is_server_error() {
    ///         eprintln!("{access}");
    ///     }
    /// });
    /// ```
    #[must_use]
    pub fn to(mut self, sink: impl Fn(&Access) + Send + Sync + 'static) -> AccessLog {
        self.sink = Some(Arc::new(sink));
        self
    }
}

impl Default for AccessLog {
    fn default() -> AccessLog {
        AccessLog::new()
    }
}

impl Wrapper for AccessLog {
    fn call(&self, request: Request, next: Next<'_>) -> Response {
        if self.sink.is_none() && !log::log_enabled!(target: TARGET, log::Level::Info) {
            return next.call(request);
        }
        let started = Instant::now();
        let uri = request.uri();
        let target = match uri.query() {
            Some(query) if self.query => format!("{}?{query}", uri.path()),
            _ => uri.path().to_owned(),
        };
        let agent = request.headers().get(USER_AGENT);
        let id = request.extensions().get::<RequestId>().map(RequestId::to_string);
        let mut access = Access {
            peer: request.peer_addr(),
            method: request.method().clone(),
            target,
            pattern: request.pattern().map(str::to_owned),
            status: StatusCode::OK,
            bytes: 0,
            duration: Duration::ZERO,
            complete: false,
            request_id: id,
            user_agent: agent.map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned()),
        };
        let response = next.call(request);
        // The wrapper that assigns ids may be further inside.
        let id = || response.extensions().get::<RequestId>().map(RequestId::to_string);
        access.request_id = access.request_id.or_else(id);
        let sink = self.sink.clone();
        response.on_end(move |end| {
            (access.status, access.bytes, access.complete) = (end.status, end.bytes, end.complete);
            access.duration = started.elapsed();
            match sink {
                Some(sink) => sink(&access),
                // Its values are escaped already.
                None => info_as_is!(target: TARGET, "{access}"),
            }
        })
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("query", &self.query).finish_non_exhaustive()
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(f, "peer={peer}")?,
            None => write!(f, "peer=-")?,
        }
        write!(f, " method={} target={}", self.method, Value(&self.target))?;
        write!(f, " pattern={}", Known(self.pattern.as_deref()))?;
        write!(f, " status={} bytes={}", self.status.as_u16(), self.bytes)?;
        write!(f, " ms={:.3}", self.duration.as_secs_f64() * 1000.0)?;
        write!(f, " end={}", if self.complete { "complete" } else { "cut" })?;
        let (id, agent) = (self.request_id.as_deref(), self.user_agent.as_deref());
        write!(f, " id={} agent={}", Known(id), Known(agent))
    }
}

/// An unknown value is a dash.
struct Known<'a>(Option<&'a str>);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(text) => Value(text).fmt(f),
            None => f.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_can_be_taken_apart_whatever_it_has() {
        let mut access = Access {
            peer: Some(SocketAddr::from(([127, 0, 0, 1], 9))),
            method: Method::GET,
            target: "/users/7".into(),
            pattern: Some("/users/{id}".into()),
            status: StatusCode::OK,
            bytes: 7,
            duration: Duration::from_micros(1_234),
            complete: true,
            request_id: Some("a-1".into()),
            user_agent: Some("curl/8 (x)".into()),
        };
        let line = "peer=127.0.0.1:9 method=GET target=/users/7 pattern=/users/{id} status=200 bytes=7 \
                    ms=1.234 end=complete id=a-1 agent=\"curl/8 (x)\"";
        assert_eq!(access.to_string(), line);
        (access.peer, access.pattern, access.request_id, access.complete) = (None, None, None, false);
        access.target = "/?a=b".into();
        access.user_agent = Some("\" status=200\r\nx\u{202e}".into());
        let line = "peer=- method=GET target=\"/?a=b\" pattern=- status=200 bytes=7 ms=1.234 end=cut id=- \
                    agent=\"\\\" status=200\\r\\nx\\u{202e}\"";
        assert_eq!(access.to_string(), line);
        for (agent, shown) in [("", "\"\""), ("-", "\"-\"")] {
            access.user_agent = Some(agent.into());
            assert!(access.to_string().ends_with(&format!("agent={shown}")));
        }
    }
}
