//! Connections on their way from one process to the next, over the connection channel: sequenced packets with
//! descriptors, one channel for each handover. ARCHITECTURE.md has the protocol.
//!
//! - **Channels are passed on, connections are not relayed.** A process that hands over gives its successor the channels
//!   of its own predecessors. A relay would keep each generation in between alive for the slowest handler of the oldest.
//! - **The end of the channel stands for the successor's death.** That it was reaped proves less: the successor is not
//!   always our child, its channel may have been passed to a third process, and a descriptor in flight keeps the other end
//!   alive, which a pid does not.
//! - **A record contains elapsed times, not remaining ones**: the successor's own timeouts apply.
//! - **The keys of session tickets go first**, before GO, in a packet that is not answered: a predecessor that waited for an
//!   answer of a version without such keys would wait in vain.
//! - **Streams travel too** (`streams`): each with a state of the program's code, by a word of its own.
//! - **TLS travels as keys and sequence numbers**, in packets of their own (`packet.rs`), by the same rule of one owner
//!   (`ledger`): only to a process that says that it takes them, and only to a listener with the same rules for clients. No
//!   connection changes between plain text and TLS: it would bypass the handshake, and the certificates that clients may have
//!   to show.

mod ledger;
mod outbox;
pub(crate) mod packet;
mod parcel;
mod receive;
mod send;
mod service_keys;
mod streams;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::base::status::AllCounters;
use crate::net::acceptor::connections::Connections;
use crate::net::connection::Portable;
use crate::net::listener::Listener;
#[cfg(feature = "tls")]
use crate::net::tls::Tls;

pub(crate) use outbox::{Outbox, is_portable};
pub(crate) use packet::Retry;
use receive::Receiver;
use send::Sender;
pub(crate) use service_keys::ServiceKeys;
#[cfg(any(test, fuzzing))]
pub(crate) use streams::check_packet as check_stream_packet;
pub(crate) use streams::{
    Continuation, Departure, LongUnread, Passenger, ResumeStreams, ResumeThread, StreamKind, StreamThread,
};

/// How many bytes of an unfinished request may go with its connection.
pub(crate) const PORTABLE_BYTES: usize = 8 << 10;

/// Both directions, as the acceptor has them.
pub(crate) struct Transfers<P> {
    names: ListenerNames,
    sender: Sender<P>,
    receiver: Receiver<P>,
}

/// The names of each connection's listener in another process. Includes listeners that are closed.
struct ListenerNames(Vec<ListenerName>);

struct ListenerName {
    /// The successor is sent the first of them.
    names: Vec<String>,
    /// Which of the listeners with the same first name.
    nth: usize,
    handler_index: usize,
    is_unix: bool,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

impl ListenerNames {
    fn new(listeners: &[Listener]) -> ListenerNames {
        let mut all: Vec<ListenerName> = Vec::new();
        for listener in listeners {
            let nth = all.iter().filter(|other| other.names.first() == listener.names.first()).count();
            all.push(ListenerName {
                names: listener.names.clone(),
                nth,
                handler_index: listener.config.handler_index,
                is_unix: listener.is_unix(),
                #[cfg(feature = "tls")]
                tls: listener.config.tls.clone(),
            });
        }
        ListenerNames(all)
    }

    /// One TCP listener without TLS.
    #[cfg(any(test, fuzzing))]
    fn of_one(name: &str) -> ListenerNames {
        ListenerNames(vec![ListenerName {
            names: vec![name.to_owned()],
            nth: 0,
            handler_index: 0,
            is_unix: false,
            #[cfg(feature = "tls")]
            tls: None,
        }])
    }

    /// Puts the name first by which the successor knows the listener; it may know only one of them.
    fn prefer(&mut self, adopted: &[String]) {
        for listener in &mut self.0 {
            if let Some(known) = listener.names.iter().position(|name| adopted.contains(name)) {
                listener.names.swap(0, known);
            }
        }
    }

    /// For each listener, whether the successor has adopted it.
    fn are_among(&self, adopted: &[String]) -> impl Iterator<Item = bool> {
        let count = |name: &String| adopted.iter().filter(|other| *other == name).count();
        self.0.iter().map(move |listener| listener.nth < listener.names.first().map_or(0, count))
    }

    /// Whether any of them takes TLS connections.
    fn take_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.0.iter().any(|listener| listener.tls.as_ref().is_some_and(Tls::is_carried));
        #[cfg(not(feature = "tls"))]
        false
    }

    fn of(&self, listener: usize) -> (&str, usize) {
        self.0.get(listener).map_or(("", 0), |l| (l.names.first().map_or("", |name| name), l.nth))
    }
}

impl<P: Portable> Transfers<P> {
    /// `limit` is that of connections.
    pub(crate) fn new(
        listeners: &[Listener],
        limit: usize,
        all_counters: AllCounters,
        keys: ServiceKeys,
        streams: Option<Arc<dyn ResumeStreams<P>>>,
    ) -> Transfers<P> {
        let names = ListenerNames::new(listeners);
        let sender = Sender::new(all_counters.clone());
        let receiver = Receiver::new(limit, names.take_tls(), all_counters, (keys, streams));
        Transfers { names, sender, receiver }
    }

    /// Step 5 of a handover: idle connections, and those that become idle, go to the successor by `channel`.
    pub(crate) fn begin_sending(
        &mut self,
        channel: OwnedFd,
        adopted: &[String],
        connections: &mut Connections<P>,
    ) {
        self.names.prefer(adopted);
        if self.sender.begin(channel, self.names.are_among(adopted), &mut self.receiver, connections) {
            self.receive_from_successor(connections);
        }
    }

    /// Takes connections from a predecessor.
    pub(crate) fn begin_receiving(&mut self, channel: OwnedFd, connections: &mut Connections<P>) {
        self.receiver.add(channel, 0, connections);
    }

    /// Takes nothing more from predecessors: the end of their channels gives back what has not been acknowledged.
    pub(crate) fn stop_receiving(&mut self, connections: &Connections<P>) {
        drop(self.receiver.give_up(connections));
    }

    pub(crate) fn receive_from_successor(&mut self, connections: &mut Connections<P>) {
        for channel in self.sender.receive(connections) {
            self.receiver.watch(channel, connections);
        }
    }

    pub(crate) fn receive_from_predecessor(&mut self, key: u32, connections: &mut Connections<P>) {
        self.receiver.receive(key, &self.names, connections);
    }

    /// Takes what predecessors have sent so far.
    pub(crate) fn receive_all(&mut self, connections: &mut Connections<P>) {
        for key in self.receiver.channels() {
            self.receive_from_predecessor(key, connections);
        }
    }

    /// Sends what can be sent now.
    pub(crate) fn send(&mut self, connections: &mut Connections<P>) {
        self.sender.send(&self.names, connections);
    }

    /// Once a tick: what could not be sent or received may be now.
    pub(crate) fn retry(&mut self, connections: &Connections<P>) {
        self.sender.retry();
        self.receiver.renew_credit(connections);
    }

    /// Whether a tick may find something to try again.
    pub(crate) fn are_open(&self) -> bool {
        self.sender.is_open() || !self.receiver.is_empty()
    }

    /// Whether the successor has acknowledged all that was sent.
    pub(crate) fn all_arrived(&self) -> bool {
        self.sender.all_arrived()
    }

    pub(crate) fn send_counts(&mut self) {
        self.sender.send_counts();
    }

    /// How many connections the successor has, once any was sent.
    pub(crate) fn delivered(&self) -> Option<usize> {
        self.sender.delivered()
    }
}
