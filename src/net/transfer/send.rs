//! Sends connections to the successor: idle ones, those that become idle, and those of whose next request only a little has
//! arrived. Connections that are not taken are served here; their close is announced only when they can't be sent any more.
//!
//! A TLS connection leaves `rustls` when its packet is made, and not before: there is no way back. One that can't be sent
//! after all, or comes back, continues here on our own records.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::ListenerNames;
use super::ledger::{Load, SenderLedger, Settled, TlsTaken};
use super::outbox::{Gate, is_portable};
use super::packet::{self, BATCH, ChannelRead, Packet, Receipt, Retry};
use super::parcel::{Batch, Sent};
use super::receive::{PredecessorChannel, Receiver};
use super::streams::{Departure, SentStream};
use crate::base::log::{debug, info, warn};
use crate::base::status::AllCounters;
use crate::base::stays::Stays;
use crate::net::acceptor::connections::Connections;
use crate::net::acceptor::event::AcceptorSource;
use crate::net::connection::{Connection, Portable};

/// How often the successor may refuse channels that are passed on, a tick apart.
const REFUSALS: u32 = 20;

/// Counts in a packet: the names of most have less than 100 bytes.
const COUNTS: usize = 200;

/// How long a successor without credit may be silent, where the grace is shorter.
const LEAST_SILENCE: Duration = Duration::from_secs(1);

/// The way to the successor.
pub(super) struct Sender<P> {
    /// None before COMMIT, and once no process has the other end any more.
    channel: Option<SuccessorChannel<P>>,
    /// Since COMMIT.
    has_begun: bool,
    /// How many connections the successor has, once any was sent.
    delivered: Option<usize>,
    /// The slot from which parked connections are to be looked through.
    scan_from: Option<usize>,
    /// Streams that are not sent yet.
    streams: Vec<Departure<P>>,
    /// Those for which the successor had no room: they are tried again at each tick.
    refused_streams: Vec<Departure<P>>,
    all_counters: AllCounters,
}

impl<P: Portable> Sender<P> {
    pub(super) fn new(all_counters: AllCounters) -> Sender<P> {
        Sender {
            channel: None,
            has_begun: false,
            delivered: None,
            scan_from: None,
            streams: Vec::new(),
            refused_streams: Vec::new(),
            all_counters,
        }
    }

    /// False where the channel can't be watched.
    pub(super) fn begin(
        &mut self,
        channel: OwnedFd,
        takes_listeners: impl Iterator<Item = bool>,
        receiver: &mut Receiver<P>,
        connections: &Connections<P>,
    ) -> bool {
        let parking = &connections.parking;
        self.has_begun = true;
        if let Err(e) = parking.poller.add(&channel, AcceptorSource::Successor.readable()) {
            warn!("handover: can't watch the connection channel: connections stay here: {e}");
            parking.outbox.set_gate(Gate::Shut);
            return false;
        }
        parking.outbox.set_listeners(takes_listeners);
        self.channel = Some(SuccessorChannel::new(channel, receiver.give_up(connections)));
        self.scan_from = Some(0);
        self.send_counts();
        true
    }

    pub(super) fn is_open(&self) -> bool {
        self.channel.is_some()
    }

    pub(super) fn delivered(&self) -> Option<usize> {
        self.delivered
    }

    pub(super) fn all_arrived(&self) -> bool {
        self.streams.is_empty()
            && self.refused_streams.is_empty()
            && self.channel.as_ref().is_none_or(SuccessorChannel::is_empty)
    }

    /// Allows another try for connections that were refused or did not fit into the channel.
    pub(super) fn retry(&mut self) {
        if let Some(channel) = &mut self.channel {
            channel.ledger.unblock();
            self.scan_from = self.scan_from.or(Some(0));
        }
        self.streams.append(&mut self.refused_streams);
    }

    pub(super) fn send_counts(&mut self) {
        let Some(channel) = &mut self.channel else { return };
        for part in self.all_counters.unsent().chunks(COUNTS) {
            if !channel.post(&Packet::Counts(part.to_vec()), &[]) {
                // There may be room at the next time.
                return;
            }
            self.all_counters.mark_sent(part);
        }
    }

    /// Sends the connections that can be sent now, and sets for workers which ones they may add.
    pub(super) fn send(&mut self, names: &ListenerNames, connections: &mut Connections<P>) {
        let mut leaving = connections.parking.outbox.take();
        if let Some(channel) = &mut self.channel {
            channel.send_predecessors();
        }
        // This is set before the first connection is sent, so that workers may send others as soon as it has arrived.
        self.set_gate(connections);
        loop {
            self.scan(&mut leaving, connections);
            let Some(channel) = &mut self.channel else { break };
            if leaving.is_empty() || channel.room() == 0 {
                break;
            }
            leaving.iter_mut().for_each(|connection| connections.parking.unregister(connection));
            // A packet has connections of one kind.
            leaving.sort_by_key(|connection| connection.stream.is_tls());
            let mut staying = Vec::new();
            while channel.send(&mut leaving, &mut staying, names) {}
            if channel.ledger.has_sent() {
                self.delivered.get_or_insert(0);
            }
            for lost in staying.iter().filter(|one| one.stream.stays() == Some(Stays::Lost)) {
                connections.note_kept(lost);
            }
            // These wait here for their turn, or for a client whose TLS is not ready.
            leaving.drain(..).chain(staying).for_each(|connection| connections.queue(connection));
        }
        self.send_streams(names, connections);
        self.set_gate(connections);
        // No successor takes these, or it ended when they were already on their way to this thread.
        leaving.into_iter().for_each(|connection| connections.queue(connection));
    }

    /// Sends the streams that can be sent now, and gives those back that can't leave any more.
    fn send_streams(&mut self, names: &ListenerNames, connections: &Connections<P>) {
        self.streams.append(&mut connections.parking.outbox.take_streams());
        if self.streams.is_empty() {
            return;
        }
        let now = Instant::now();
        for mut stream in std::mem::take(&mut self.streams) {
            let is_over = now >= stream.passenger.until;
            let outbox = &connections.parking.outbox;
            let (takes, may_take) =
                (outbox.takes_listener_of(&stream.connection), outbox.may_take(&stream.connection));
            match &mut self.channel {
                // The command to begin is on its way.
                None if !self.has_begun && !is_over => self.streams.push(stream),
                Some(channel) if !is_over && may_take && channel.ledger.streams() != Some(false) => {
                    if !takes {
                        // Its TLS may be ready later.
                        stream.connection.stream.send_owed();
                        self.streams.push(stream);
                        continue;
                    }
                    connections.parking.unregister(&mut stream.connection);
                    match channel.send_stream(stream, names) {
                        Ok(()) => drop(self.delivered.get_or_insert(0)),
                        Err(stream) => self.streams.push(stream),
                    }
                }
                _ => stream.give_back(),
            }
        }
    }

    fn set_gate(&self, connections: &Connections<P>) {
        let Some(channel) = &self.channel else { return };
        // The close of connections that stay here is announced while there is time.
        let is_stuck = connections.parking.drain.grace().is_some_and(|grace| channel.is_stuck(grace));
        connections.parking.outbox.set_tls_taken(channel.ledger.tls());
        connections.parking.outbox.set_gate(match channel.room() {
            0 if is_stuck || channel.is_unreadable => Gate::Shut,
            0 => Gate::Waiting,
            _ => Gate::Open,
        });
    }

    /// Adds parked connections to those that leave, as many as there is room for.
    fn scan(&mut self, leaving: &mut Vec<Box<Connection<P>>>, connections: &Connections<P>) {
        let room = self.channel.as_ref().map_or(0, SuccessorChannel::room);
        let most = room.saturating_sub(leaving.len());
        let Some(from) = self.scan_from.filter(|_| most > 0) else { return };
        let parking = &connections.parking;
        let (found, next) = parking.slots.take_wanted(from, most, |connection| {
            parking.outbox.takes_listener_of(connection)
                && connection.lingering().is_none()
                && is_portable(connection)
        });
        leaving.extend(found);
        self.scan_from = next;
    }

    /// Reads the successor's receipts. Returns the channels of predecessors that the successor did not take, once no process
    /// has the other end of the channel any more.
    pub(super) fn receive(&mut self, connections: &mut Connections<P>) -> Vec<PredecessorChannel> {
        let Some(channel) = &mut self.channel else { return Vec::new() };
        let mut receipts = channel.receive();
        let parking = &connections.parking;
        if channel.is_unreadable || receipts.ended.is_some() {
            // Before workers get the returned connections, so that they announce the close.
            let _ = parking.poller.delete(&channel.channel);
            parking.outbox.set_gate(Gate::Shut);
        }
        if receipts.ended.is_some() {
            info!("handover: no process has the other end of the connection channel: connections stay here");
            self.channel = None;
        }
        if let Some(listener) = receipts.unknown_listener {
            parking.outbox.remove_listener(listener);
        }
        self.refused_streams.append(&mut receipts.returned_streams);
        if self.channel.is_none() {
            // They can't be sent any more.
            self.streams.append(&mut self.refused_streams);
        }
        if !receipts.delivered.is_empty() {
            *self.delivered.get_or_insert(0) += receipts.delivered.len();
        }
        receipts.delivered.into_iter().for_each(|connection| connections.handed_over(connection));
        receipts.given_up.into_iter().for_each(|connection| connections.give_up(connection));
        receipts.returned.into_iter().for_each(|connection| connections.admit(connection));
        receipts.ended.unwrap_or_default()
    }
}

impl<P> Receipts<P> {
    fn new() -> Receipts<P> {
        let (delivered, returned, returned_streams) = (Vec::new(), Vec::new(), Vec::new());
        let (given_up, unknown_listener, ended) = (Vec::new(), None, None);
        Receipts { delivered, returned_streams, returned, given_up, unknown_listener, ended }
    }
}

/// A successor's connection channel.
struct SuccessorChannel<P> {
    channel: OwnedFd,
    ledger: SenderLedger<Cargo<P>>,
    /// Channels that were not passed on yet, or were refused.
    predecessors: Vec<PredecessorChannel>,
    /// How often one of them was refused.
    refusals: u32,
    /// When the last receipt came.
    last_receipt: Instant,
    /// Reading from the channel has failed.
    is_unreadable: bool,
}

enum Cargo<P> {
    Connections(Vec<Sent<P>>),
    Predecessor(PredecessorChannel),
    Stream(SentStream<P>),
}

/// The results of the receipts that were read.
struct Receipts<P> {
    /// Connections that the successor owns now.
    delivered: Vec<Box<Connection<P>>>,
    /// Streams that may be sent again.
    returned_streams: Vec<Departure<P>>,
    /// Connections that this process owns again.
    returned: Vec<Box<Connection<P>>>,
    /// Connections of which it is not known who owns them.
    given_up: Vec<Box<Connection<P>>>,
    /// The successor does not have this listener.
    unknown_listener: Option<usize>,
    /// No process has the other end any more, and it did not take these channels.
    ended: Option<Vec<PredecessorChannel>>,
}

impl<P: Portable> SuccessorChannel<P> {
    fn new(channel: OwnedFd, predecessors: Vec<PredecessorChannel>) -> SuccessorChannel<P> {
        let ledger = SenderLedger::new();
        SuccessorChannel {
            channel,
            ledger,
            predecessors,
            refusals: 0,
            last_receipt: Instant::now(),
            is_unreadable: false,
        }
    }

    /// How many connections can be sent now.
    fn room(&self) -> usize {
        if self.is_unreadable { 0 } else { self.ledger.room() }
    }

    /// Whether everything to be sent has arrived.
    fn is_empty(&self) -> bool {
        self.ledger.all_settled() && self.predecessors.is_empty()
    }

    /// Whether the successor has had no room for longer than the grace, or is too slow to answer.
    fn is_stuck(&self, grace: Duration) -> bool {
        self.room() == 0 && self.last_receipt.elapsed() >= grace.max(LEAST_SILENCE)
    }

    /// Sends the first of `leaving`, as many as one packet takes; those that have to stay are moved to `staying`. False when
    /// no more can be sent now.
    fn send(
        &mut self,
        leaving: &mut Vec<Box<Connection<P>>>,
        staying: &mut Vec<Box<Connection<P>>>,
        names: &ListenerNames,
    ) -> bool {
        let most = self.ledger.batch(BATCH);
        if most == 0 || leaving.is_empty() {
            return false;
        }
        if self.ledger.tls() != TlsTaken::Yes {
            let (tls, plain) = leaving.drain(..).partition(|connection| connection.stream.is_tls());
            staying.extend::<Vec<_>>(tls);
            *leaving = plain;
        }
        let Batch { records, sent, is_tls } = Batch::fill(most, leaving, staying, names);
        let count = sent.len();
        if count == 0 {
            return true;
        }
        let packet = Packet::connections(is_tls, self.ledger.next_batch(), records);
        let fds: Vec<BorrowedFd<'_>> = sent.iter().map(Sent::as_fd).collect();
        if !self.post(&packet, &fds) {
            leaving.extend(sent.into_iter().map(Sent::take_back));
            return false;
        }
        if !self.ledger.has_sent() {
            info!("handover: connections are on their way to the successor");
        }
        debug!("handover: sent {count} connections");
        self.ledger.posted(Load::Connections(count), Cargo::Connections(sent));
        true
    }

    /// Passes on the channels of our own predecessors.
    fn send_predecessors(&mut self) {
        while let Some(predecessor) = self.predecessors.pop() {
            let packet = Packet::Channel { batch: self.ledger.next_batch(), credit: predecessor.promised() };
            if self.ledger.is_blocked() || !self.post(&packet, &[predecessor.channel.as_fd()]) {
                self.predecessors.push(predecessor);
                return;
            }
            self.ledger.posted(Load::Channel, Cargo::Predecessor(predecessor));
        }
    }

    /// Returns a stream that can't be sent now.
    fn send_stream(&mut self, stream: Departure<P>, names: &ListenerNames) -> Result<(), Departure<P>> {
        if self.ledger.streams() != Some(true) || self.room() == 0 {
            return Err(stream);
        }
        let (packet, stream) = SentStream::release(stream, self.ledger.next_batch(), names)?;
        if !self.post_bytes(packet.encode(), &stream.fds()) {
            return Err(stream.take_back());
        }
        if !self.ledger.has_sent() {
            info!("handover: connections are on their way to the successor");
        }
        debug!("handover: sent a stream");
        self.ledger.posted(Load::Stream, Cargo::Stream(stream));
        Ok(())
    }

    fn post(&mut self, packet: &Packet, fds: &[BorrowedFd<'_>]) -> bool {
        self.post_bytes(packet.encode(), fds)
    }

    /// Wipes the bytes, which may hold keys.
    fn post_bytes(&mut self, mut bytes: Vec<u8>, fds: &[BorrowedFd<'_>]) -> bool {
        let sent = packet::send(self.channel.as_fd(), &bytes, fds);
        packet::wipe(&mut bytes);
        match sent {
            Ok(()) => true,
            Err(e) => {
                // The channel is full, or too many descriptors of this user are in flight (ETOOMANYREFS). A broken pipe
                // is read as the end.
                if e.kind() != ErrorKind::WouldBlock {
                    debug!("handover: can't pass connections on just now: {e}");
                }
                self.ledger.block();
                false
            }
        }
    }

    fn receive(&mut self) -> Receipts<P> {
        let mut receipts = Receipts::new();
        loop {
            match packet::receive(self.channel.as_fd()) {
                Ok(ChannelRead::Packet(received)) => self.take_receipt(&received.packet, &mut receipts),
                Ok(ChannelRead::Nothing) => return receipts,
                Ok(ChannelRead::End) => break,
                Err(e) => {
                    // Connections that were sent are not taken back: a request could be served twice, and a nonce of TLS
                    // used twice. If the successor has them, they live on there.
                    warn!("handover: can't read the connection channel: {e}");
                    self.is_unreadable = true;
                    self.predecessors.clear();
                    for cargo in self.ledger.end() {
                        match cargo {
                            Cargo::Connections(sent) => {
                                receipts.given_up.extend(sent.into_iter().map(Sent::give_up));
                            }
                            Cargo::Stream(stream) => receipts.given_up.push(stream.deliver()),
                            Cargo::Predecessor(_) => {}
                        }
                    }
                    return receipts;
                }
            }
        }
        let mut predecessors = std::mem::take(&mut self.predecessors);
        for cargo in self.ledger.end() {
            match cargo {
                Cargo::Connections(sent) => receipts.returned.extend(sent.into_iter().map(Sent::take_back)),
                Cargo::Predecessor(predecessor) => predecessors.push(predecessor),
                Cargo::Stream(stream) => receipts.returned_streams.push(stream.take_back()),
            }
        }
        receipts.ended = Some(predecessors);
        receipts
    }

    fn take_receipt(&mut self, packet: &[u8], receipts: &mut Receipts<P>) {
        let Some(receipt) = Receipt::decode(packet) else {
            return debug!("handover: skipped an unknown packet");
        };
        self.last_receipt = Instant::now();
        let before = self.ledger.tls();
        self.ledger.note_taken(Receipt::says_tls(packet), Receipt::says_streams(packet));
        match self.ledger.tls() {
            same if same == before => {}
            TlsTaken::Yes => debug!("handover: TLS connections can be sent"),
            _ => debug!("handover: no TLS connections can be sent"),
        }
        match self.ledger.settle(receipt) {
            Settled::Delivered(Cargo::Stream(stream)) => receipts.delivered.push(stream.deliver()),
            Settled::Returned { cargo: Cargo::Stream(stream), retry: Retry::Later } => {
                receipts.returned_streams.push(stream.take_back());
            }
            Settled::Returned { cargo: Cargo::Stream(stream), .. } => stream.take_back().give_back(),
            Settled::Delivered(Cargo::Connections(sent)) => {
                receipts.delivered.extend(sent.into_iter().map(Sent::give_up));
            }
            // Our copy of the channel is closed.
            Settled::Delivered(Cargo::Predecessor(_)) | Settled::Nothing => {}
            Settled::Returned { cargo: Cargo::Connections(sent), retry } => {
                debug!("handover: {} connections refused", sent.len());
                let mut returned: Vec<_> = sent.into_iter().map(Sent::take_back).collect();
                match (&mut returned[..], retry) {
                    ([one], Retry::Never) => receipts.unknown_listener = Some(one.listener),
                    ([one], Retry::Unfit) => one.is_unfit = true,
                    // They are sent one by one.
                    _ => {}
                }
                receipts.returned.append(&mut returned);
            }
            Settled::Returned { cargo: Cargo::Predecessor(predecessor), .. } => {
                // It is tried again at each tick, for a while. Then that predecessor sees the end of its channel, and keeps
                // its connections.
                self.ledger.block();
                self.refusals += 1;
                if self.refusals < REFUSALS {
                    self.predecessors.push(predecessor);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;
    use crate::base::limits::Limits;
    use crate::base::phase::PhaseWatch;
    use crate::net::acceptor::{Parking, PoolPlan, Setup};
    use crate::net::conn_info::ConnInfo;
    use crate::net::stream::Stream;
    use crate::net::transfer::ServiceKeys;

    fn connections() -> Connections<()> {
        let pools = PoolPlan { workers: vec![1], of_handler: vec![0] };
        let limits = Limits::default();
        let parking = Parking::new(&limits, &[false], 1, pools, Duration::from_secs(60)).unwrap();
        Connections::new(Setup {
            parking: Arc::new(parking),
            listeners: Vec::new(),
            queues: Vec::new(),
            queue_wait: Duration::ZERO,
            limits,
            process: ConnInfo::new(None, PhaseWatch::new(), 1),
            all_counters: AllCounters::default(),
            keys: ServiceKeys::none(),
            streams: None,
            busy: Box::new(Vec::new),
            report: Arc::new(|_| {}),
        })
    }

    /// The successor may own it, and its client is served there.
    #[test]
    fn what_a_broken_channel_has_sent_is_closed_and_not_shut() {
        let (mut connections, names) = (connections(), ListenerNames::of_one("x"));
        let (counters, keys) = (AllCounters::default(), ServiceKeys::none());
        let mut receiver = Receiver::new(9, false, counters.clone(), (keys, None));
        let mut sender = Sender::new(counters);
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        assert!(sender.begin(ours, [true].into_iter(), &mut receiver, &connections));
        packet::send(theirs.as_fd(), &Receipt::Credit(9).encode(false), &[]).unwrap();
        assert!(sender.receive(&mut connections).is_empty());
        let (socket, mut client) = UnixStream::pair().unwrap();
        let slot = connections.parking.slots.claim().unwrap();
        let conn_info = Arc::new(ConnInfo::new(None, PhaseWatch::new(), 1));
        let one = Connection::new(Stream::Unix(Arc::new(socket)), slot, (0, 0), conn_info, ());
        connections.parking.send_to_successor(Box::new(one));
        sender.send(&names, &mut connections);
        let mut received = loop {
            let ChannelRead::Packet(received) = packet::receive(theirs.as_fd()).unwrap() else {
                panic!("it was not sent")
            };
            if !received.fds.is_empty() {
                break received;
            }
        };
        assert_eq!(connections.parking.open(), 1);
        // From a pipe no packet can be received.
        sender.channel.as_mut().unwrap().channel = nix::unistd::pipe().unwrap().0;
        assert!(sender.receive(&mut connections).is_empty());
        assert_eq!((connections.parking.open(), sender.all_arrived()), (0, true), "it is given up here");
        let mut successors = UnixStream::from(received.fds.remove(0));
        client.write_all(b"?").unwrap();
        successors.read_exact(&mut [0]).unwrap();
        successors.write_all(b"!").unwrap();
        client.read_exact(&mut [0]).unwrap();
        drop(successors);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "no other process has it");
    }
}
