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
    /// Reading or writing failed: reset, mostly.
    Broken = "broken",
    /// No request within the idle timeout.
    Idle = "idle",
    /// No request within the grace of a drain.
    Grace = "grace",
    /// A response announced the close, since the process drains.
    Drain = "drain",
    /// A TLS handshake that came to nothing.
    HandshakeFailed = "handshake_failed",
    /// A TLS handshake that took too long.
    HandshakeTimeout = "handshake_timeout",
    /// A request head that took too long.
    HeadTimeout = "head_timeout",
    /// A request body that stalled.
    BodyTimeout = "body_timeout",
    /// A response that the client did not take.
    ResponseTimeout = "response_timeout",
    /// A request that is not HTTP, or beyond a limit.
    Refused = "refused",
    /// A request body that was not read to its end.
    BodyUnread = "body_unread",
    /// The handler asked for it, or its response has no other end.
    Response = "response",
    /// The response could not be completed: its source failed or ended early.
    ResponseFailed = "response_failed",
    /// As many requests as one connection may have.
    RequestLimit = "request_limit",
    /// Waited too long for a worker.
    Overload = "overload",
    /// One more than its peer may have.
    PeerLimit = "peer_limit",
    /// The end of an event stream or of another protocol.
    Detached = "detached",
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
