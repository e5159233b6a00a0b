//! The keys of session tickets, as the parts of a server have them: the acceptor receives them, workers use them, and the
//! control loop passes them on. Without TLS there are none.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::net::listener::Listener;

#[cfg(feature = "tls")]
use {
    super::packet::{self, Packet},
    crate::base::log::debug,
    crate::net::tls::{KeyRing, PassedKey, Tls},
    zeroize::Zeroizing,
};

/// The keys of a server. A clone is the same.
#[derive(Clone)]
pub(crate) struct ServiceKeys {
    #[cfg(feature = "tls")]
    ring: KeyRing,
}

#[cfg(test)]
impl ServiceKeys {
    pub(super) fn none() -> ServiceKeys {
        ServiceKeys {
            #[cfg(feature = "tls")]
            ring: KeyRing::default(),
        }
    }
}

#[cfg(feature = "tls")]
impl ServiceKeys {
    /// Of the server with these listeners. A `Tls` that has had keys before, of a start that failed, keeps them.
    pub(crate) fn of(listeners: &[Listener]) -> ServiceKeys {
        let all = || listeners.iter().filter_map(|listener| listener.config.tls.as_ref());
        let ring = all().find_map(Tls::key_ring).unwrap_or_default();
        all().for_each(|tls| tls.use_keys_of(&ring));
        ServiceKeys { ring }
    }

    /// Sends them to the successor, before GO, so that it has them before it accepts.
    pub(crate) fn pass_on(&self, channel: BorrowedFd<'_>) {
        let keys = self.ring.pass_on(Instant::now());
        if keys.is_empty() {
            return;
        }
        let packet = Zeroizing::new(Packet::Tickets(keys).encode());
        match packet::send(channel, &packet, &[]) {
            Ok(()) => debug!("handover: the keys of session tickets went to the successor"),
            Err(e) => debug!("handover: the successor has no keys of session tickets: {e}"),
        }
    }

    /// This generation has the service to itself, and may make new keys.
    pub(crate) fn rotate(&self) {
        self.ring.rotate();
    }

    /// Drops those that are too old.
    pub(crate) fn expire(&self, now: Instant) {
        self.ring.expire(now);
    }

    /// Takes over those of a predecessor.
    pub(super) fn adopt(&self, keys: Vec<PassedKey>) {
        debug!("handover: {} keys of session tickets came from a predecessor", keys.len());
        self.ring.adopt(keys, Instant::now());
    }
}

#[cfg(not(feature = "tls"))]
impl ServiceKeys {
    pub(crate) fn of(_: &[Listener]) -> ServiceKeys {
        ServiceKeys {}
    }

    pub(crate) fn pass_on(&self, _: BorrowedFd<'_>) {}

    pub(crate) fn rotate(&self) {}

    pub(crate) fn expire(&self, _: Instant) {}
}
