//! Whether the successor takes a connection, and where workers put one that is to be sent.
//!
//! That the successor has a listener is known in two places, which answer different questions in different threads. The
//! acceptor's `Listeners` knows which sockets are shared with another generation, from PREPARED on: these are not
//! accepted from on probation, and closed without a barrier. Here it is of which listeners the successor takes
//! connections, from COMMIT on, and less than that after a refusal: a later generation may have the other end of the
//! channel and not the listener, or speak TLS there.
//!
//! A TLS connection has more reasons to stay: those of its session, and a successor that does not take TLS (`receive.rs`).
//! One that may move later is kept as a plain one is that waits for room; the close of the others is announced, and counted
//! by its reason.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock};

use super::PORTABLE_BYTES;
use super::ledger::TlsTaken;
use super::streams::Departure;
use crate::base::log::{debug, info};
use crate::base::status::Counters;
use crate::base::stays::Stays;
use crate::base::sync::lock;
use crate::net::connection::{Connection, Portable};

pub(crate) struct Outbox<P> {
    gate: AtomicU8,
    tls: AtomicU8,
    /// Of each listener, whether the successor takes its connections. Not known before COMMIT.
    listeners: OnceLock<Box<[AtomicBool]>>,
    leaving: Mutex<Vec<Box<Connection<P>>>>,
    /// A TLS connection could not move, which the log says once.
    has_kept_tls: AtomicBool,
    /// Streams, which their threads have put here.
    streams: Mutex<Vec<Departure<P>>>,
}

/// Whether the successor takes connections.
#[derive(Clone, Copy, PartialEq, Eq)]
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
            tls: AtomicU8::new(TlsTaken::Unknown as u8),
            listeners: OnceLock::new(),
            leaving: Mutex::default(),
            has_kept_tls: AtomicBool::new(false),
            streams: Mutex::default(),
        }
    }

    fn is_at(&self, gate: Gate) -> bool {
        self.gate.load(Ordering::Acquire) == gate as u8
    }

    pub(super) fn set_gate(&self, gate: Gate) {
        self.gate.store(gate as u8, Ordering::Release);
    }

    fn tls_is(&self, taken: TlsTaken) -> bool {
        self.tls.load(Ordering::Acquire) == taken as u8
    }

    pub(super) fn set_tls_taken(&self, taken: TlsTaken) {
        self.tls.store(taken as u8, Ordering::Release);
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
        !self.is_at(Gate::Shut)
            && self.listeners.get().is_none_or(|listeners| has(listeners, connection.listener))
            && self.why_kept(connection).is_none_or(Stays::may_pass)
    }

    /// Whether the successor takes this connection now, if it is portable.
    pub(crate) fn takes_now(&self, connection: &Connection<P>) -> bool {
        self.is_at(Gate::Open) && self.takes_listener_of(connection)
    }

    /// Whether the successor takes connections of its listener, and it can be passed on.
    pub(super) fn takes_listener_of(&self, connection: &Connection<P>) -> bool {
        !connection.is_unfit
            && self.listeners.get().is_some_and(|listeners| has(listeners, connection.listener))
            && (!connection.stream.is_tls()
                || self.tls_is(TlsTaken::Yes) && connection.stream.stays().is_none())
    }

    /// Why a TLS connection does not go to the successor. None for plain text, which stays for no reason of its own.
    fn why_kept(&self, connection: &Connection<P>) -> Option<Stays> {
        if !connection.stream.is_tls() {
            return None;
        }
        let has_no_listener = || {
            let listeners = self.listeners.get();
            listeners
                .is_some_and(|listeners| !has(listeners, connection.listener))
                .then_some(Stays::NoListener)
        };
        let is_not_taken = || self.tls_is(TlsTaken::No).then_some(Stays::NotTaken);
        let has_no_room = || self.is_at(Gate::Shut).then_some(Stays::NoRoom);
        let is_unfit = || connection.is_unfit.then_some(Stays::Unfit);
        connection
            .stream
            .stays()
            .or_else(is_unfit)
            .or_else(has_no_listener)
            .or_else(is_not_taken)
            .or_else(has_no_room)
    }

    /// Counts a TLS connection that ends here after a handover, because it could not move. The log names the reason of the
    /// first one.
    pub(crate) fn note_kept(&self, connection: &Connection<P>, counters: &Counters) {
        if let Some(reason) = self.why_kept(connection) {
            self.note_reason(reason, counters);
        }
    }

    /// As `note_kept`, for one that has waited until the end of its time.
    pub(crate) fn note_expired(&self, connection: &Connection<P>, counters: &Counters) {
        if connection.stream.is_tls() {
            self.note_reason(self.why_kept(connection).unwrap_or(Stays::NoRoom), counters);
        }
    }

    fn note_reason(&self, reason: Stays, counters: &Counters) {
        counters.tls_kept(reason);
        if self.has_kept_tls.swap(true, Ordering::Relaxed) {
            debug!("a TLS connection can't move to the successor: {reason}");
        } else {
            info!("a TLS connection can't move to the successor: {reason}");
        }
    }

    /// The acceptor sends it.
    pub(crate) fn push(&self, connection: Box<Connection<P>>) {
        lock(&self.leaving).push(connection);
    }

    /// The acceptor sends it, or gives it back.
    pub(crate) fn push_stream(&self, stream: Departure<P>) {
        lock(&self.streams).push(stream);
    }

    pub(super) fn take_streams(&self) -> Vec<Departure<P>> {
        std::mem::take(&mut *lock(&self.streams))
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
    let buffered = connection.buffered.len().saturating_add(connection.stream.unread());
    connection.progress.is_portable(buffered, PORTABLE_BYTES)
}

fn has(listeners: &[AtomicBool], listener: usize) -> bool {
    listeners.get(listener).is_some_and(|taken| taken.load(Ordering::Acquire))
}
