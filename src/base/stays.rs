//! Why a TLS connection does not move to the next generation: one vocabulary for the log, the counters and the tests.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a TLS connection stays with its process.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Stays { $($(#[$doc])* $name,)* }

        impl Stays {
            pub(crate) const ALL: &'static [Stays] = &[$(Stays::$name,)*];

            /// A short name, as in the log and the metrics.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Stays::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// Its handshake is under way.
    NotReady = "handshake",
    /// `Tls::carry(false)`.
    SwitchedOff = "switched_off",
    /// One side has ended it.
    Ended = "ended",
    /// The socket does not take what is to be sent.
    Unsent = "unsent",
    /// Part of a handshake message has arrived.
    Fragment = "fragment",
    /// More is kept than a handover carries, such as a client's very long certificates.
    TooLong = "too_long",
    /// Its keys have encrypted so many records that it should end.
    Worn = "worn",
    /// The client may have changed its keys more often than a move can find out.
    KeyUpdates = "key_updates",
    /// `rustls` did not give its keys. The session is lost.
    Lost = "lost",
    /// Since its handshake, `Tls::reload` has changed which client certificates are accepted.
    RulesChanged = "rules_changed",
    /// The successor has no such listener with TLS, or accepts other client certificates there.
    NoListener = "no_listener",
    /// The successor can't continue its session, as one of another version.
    Unfit = "unfit",
    /// The successor takes no TLS connections, as versions that can't.
    NotTaken = "not_taken",
    /// The successor has had no room for too long, or has ended.
    NoRoom = "no_room",
}

impl Stays {
    /// Whether the connection may move later, so that its close need not be announced yet.
    pub(crate) fn may_pass(self) -> bool {
        matches!(self, Stays::NotReady | Stays::Unsent | Stays::Fragment)
    }
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
