//! Why a connection was closed: one vocabulary for logs, counters and tests.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a connection was closed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum CloseReason { $($(#[$doc])* $name,)* }

        impl CloseReason {
            /// Every reason.
            pub const ALL: &'static [CloseReason] = &[$(CloseReason::$name,)*];

            /// A short name, as in logs and metrics.
            pub fn name(self) -> &'static str {
                match self { $(CloseReason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// The client closed between two requests.
    ClientClosed = "client_closed",
    /// The client asked for it: `Connection: close`, or HTTP/1.0.
    ClientAsked = "client_asked",
    /// The client closed in the middle of a request.
    ClientCut = "client_cut",
    /// Reading or writing failed, usually by a reset.
    Broken = "broken",
    /// No request within the idle timeout.
    Idle = "idle",
    /// No request within the grace of a drain.
    Grace = "grace",
    /// A response announced the close, because the process drains.
    Drain = "drain",
    /// It came from elsewhere than a trusted proxy, or did not start with a valid PROXY header in time.
    ProxyHeader = "proxy_header",
    /// A TLS handshake failed.
    HandshakeFailed = "handshake_failed",
    /// A TLS handshake took too long.
    HandshakeTimeout = "handshake_timeout",
    /// A request head took too long.
    HeadTimeout = "head_timeout",
    /// A request body stalled.
    BodyTimeout = "body_timeout",
    /// The client did not read its response.
    ResponseTimeout = "response_timeout",
    /// The request was not HTTP, or exceeded a limit.
    Refused = "refused",
    /// A request body was not read to its end.
    BodyUnread = "body_unread",
    /// The handler asked for it, or its response has no other end.
    Response = "response",
    /// The response could not be completed: its source failed or ended early.
    ResponseFailed = "response_failed",
    /// The handler has missed its deadline, and the client got a 503.
    DeadlinePassed = "deadline_passed",
    /// The limit of requests on one connection was reached, or the one of records that a TLS key may encrypt.
    RequestLimit = "request_limit",
    /// The connection waited too long for a worker.
    Overload = "overload",
    /// The limit of connections of one peer was reached.
    PeerLimit = "peer_limit",
    /// The end of an event stream or of another protocol.
    Detached = "detached",
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
