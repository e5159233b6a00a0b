//! Whether the successor takes a connection, and where workers put one that is to be sent.
//!
//! That the successor has a listener is known in two places, which answer different questions in different threads. The
//! acceptor's `Listeners` knows which sockets are shared with another generation, from PREPARED on: these are not
//! accepted from on probation, and closed without a barrier. Here it is of which listeners the successor takes
//! connections, from COMMIT on, and less than that after a refusal: a later generation may have the other end of the
//! channel and not the listener, or speak TLS there.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock};

use super::PORTABLE_BYTES;
use crate::base::sync::lock;
use crate::net::connection::{Connection, Portable};

#[derive(Debug)]
pub(crate) struct Outbox<P> {
    gate: AtomicU8,
    /// Of each listener, whether the successor takes its connections. Not known before COMMIT.
    listeners: OnceLock<Box<[AtomicBool]>>,
    leaving: Mutex<Vec<Box<Connection<P>>>>,
}

/// Whether the successor takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Gate {
    /// Not yet known.
    Unknown,
    /// Not now.
    Waiting,
    Open,
    /// Never again.
    Shut,
}

impl<P> Outbox<P> {
    pub(crate) fn new() -> Outbox<P> {
        Outbox {
            gate: AtomicU8::new(Gate::Unknown as u8),
            listeners: OnceLock::new(),
            leaving: Mutex::default(),
        }
    }

    fn is_at(&self, gate: Gate) -> bool {
        self.gate.load(Ordering::Acquire) == gate as u8
    }

    pub(super) fn set_gate(&self, gate: Gate) {
        self.gate.store(gate as u8, Ordering::Release);
    }

    pub(super) fn set_listeners(&self, taken: impl Iterator<Item = bool>) {
        let _ = self.listeners.set(taken.map(AtomicBool::new).collect());
    }

    /// The process at the other end of the channel does not take connections of this listener.
    pub(super) fn remove_listener(&self, listener: usize) {
        if let Some(taken) = self.listeners.get().and_then(|listeners| listeners.get(listener)) {
            taken.store(false, Ordering::Release);
        }
    }

    /// Whether a process that has handed over need not announce the close of this connection: it may still go to the
    /// successor.
    pub(crate) fn may_take(&self, connection: &Connection<P>) -> bool {
        !connection.stream.is_bound_here()
            && !self.is_at(Gate::Shut)
            && self.listeners.get().is_none_or(|listeners| has(listeners, connection.listener))
    }

    /// Whether the successor takes this connection now, if it is portable.
    pub(crate) fn takes_now(&self, connection: &Connection<P>) -> bool {
        self.is_at(Gate::Open) && self.takes_listener_of(connection)
    }

    /// Whether the successor takes connections of its listener, and it can be passed on.
    pub(super) fn takes_listener_of(&self, connection: &Connection<P>) -> bool {
        !connection.stream.is_bound_here()
            && self.listeners.get().is_some_and(|listeners| has(listeners, connection.listener))
    }

    /// The acceptor sends it.
    pub(crate) fn push(&self, connection: Box<Connection<P>>) {
        lock(&self.leaving).push(connection);
    }

    pub(super) fn take(&self) -> Vec<Box<Connection<P>>> {
        std::mem::take(&mut *lock(&self.leaving))
    }
}

/// Whether all that was read of it fits into a packet.
pub(crate) fn is_portable<P: Portable>(connection: &Connection<P>) -> bool {
    // A successor takes the next bytes for HTTP, and would answer the header by a 400.
    #[cfg(feature = "proxy")]
    if connection.conn_info.awaits_proxy_header {
        return false;
    }
    connection.progress.is_portable(connection.buffered.len(), PORTABLE_BYTES)
}

fn has(listeners: &[AtomicBool], listener: usize) -> bool {
    listeners.get(listener).is_some_and(|taken| taken.load(Ordering::Acquire))
}
