//! Receives connections from predecessors, and grants them credit for as many as there is room for.
//!
//! A batch is acknowledged before its connections are registered and read. So none of them is touched here while the
//! predecessor may still take it back, and no key of its TLS is used.
//!
//! A process with TLS listeners says in each receipt that it takes TLS connections (`tls=1`), and sends one as soon as it
//! begins to read a channel: its predecessor may have been in contact with a process that takes none.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ledger::{Load, ReceiverLedger};
use super::packet::{self, ChannelRead, ConnectionRecord, Packet, Receipt, ReceivedPacket, Retry};
use super::parcel::Arrived;
use super::streams::{LongUnread, ResumeStreams, StreamPacket};
use super::{ListenerName, ListenerNames, ServiceKeys};
use crate::base::log::{debug, info, warn};
use crate::base::status::AllCounters;
use crate::net::acceptor::connections::Connections;
use crate::net::acceptor::event::AcceptorSource;
use crate::net::acceptor::factory::Origin;
use crate::net::connection::{Activity, Connection, Portable};
use crate::net::slots::SlotId;
use crate::net::stream::Stream;
use litemap::LiteMap;

/// Packets of one predecessor in a turn of the acceptor, so that they can't starve the connections of this process.
const PACKETS_PER_TURN: usize = 16;

/// A predecessor's connection channel: that of our own predecessor, or one that was passed on.
pub(super) struct PredecessorChannel {
    pub(super) channel: OwnedFd,
    ledger: ReceiverLedger,
    /// Whether this process takes TLS connections.
    takes_tls: bool,
    /// How many connections have arrived by it.
    came: usize,
    /// A batch was refused, which the log says once.
    has_refused: bool,
}

impl PredecessorChannel {
    /// `promised` connections may arrive without a further grant.
    fn new(channel: OwnedFd, promised: usize, takes_tls: bool) -> PredecessorChannel {
        let ledger = ReceiverLedger::new(promised);
        PredecessorChannel { channel, ledger, takes_tls, came: 0, has_refused: false }
    }

    /// The first receipt, which is sent even if it grants nothing.
    fn greet(&mut self, room: usize) {
        let before = self.promised();
        self.renew(room);
        if self.promised() == before {
            let _ = self.send(Receipt::Credit(0));
        }
    }

    /// How many connections were granted and have not arrived.
    pub(super) fn promised(&self) -> usize {
        self.ledger.promised()
    }

    /// Grants again when there is room again.
    fn renew(&mut self, room: usize) {
        let credit = self.ledger.renew(room);
        if credit > 0 && self.send(Receipt::Credit(credit)).is_err() {
            self.ledger.take_back(credit);
        }
    }

    /// If true, the `came` connections of the batch belong to this process from now on. If false, the caller must close the
    /// channel: its end gives them back.
    fn acknowledge(&mut self, batch: u64, came: usize, room: usize) -> bool {
        let credit = self.ledger.take(came, room);
        let is_ours = match self.send(Receipt::Ack { batch, credit }) {
            Ok(()) => true,
            // The predecessor is dead, so the connections that it has sent are ours.
            Err(e) => matches!(e.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN)),
        };
        self.came += if is_ours { came } else { 0 };
        is_ours
    }

    /// Refuses a batch. If false, the caller must close the channel, which has the same effect.
    fn refuse(&mut self, batch: u64, load: Load, retry: Retry) -> bool {
        self.ledger.refuse(load, retry);
        self.send(Receipt::Nak { batch, retry }).is_ok()
    }

    fn send(&self, receipt: Receipt) -> io::Result<()> {
        packet::send(self.channel.as_fd(), &receipt.encode(self.takes_tls), &[])
    }
}

/// All predecessors that may still send connections.
pub(super) struct Receiver<P> {
    channels: LiteMap<u32, PredecessorChannel>,
    next_key: u32,
    /// How many connections there may be.
    limit: usize,
    takes_tls: bool,
    all_counters: AllCounters,
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "there are none"))]
    keys: ServiceKeys,
    /// None where no stream is continued.
    streams: Option<Arc<dyn ResumeStreams<P>>>,
}

impl<P: Portable> Receiver<P> {
    pub(super) fn new(
        limit: usize,
        takes_tls: bool,
        all_counters: AllCounters,
        (keys, streams): (ServiceKeys, Option<Arc<dyn ResumeStreams<P>>>),
    ) -> Receiver<P> {
        Receiver { channels: LiteMap::new(), next_key: 0, limit, takes_tls, all_counters, keys, streams }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    pub(super) fn channels(&self) -> Vec<u32> {
        self.channels.keys().copied().collect()
    }

    pub(super) fn add(&mut self, channel: OwnedFd, promised: usize, connections: &Connections<P>) {
        self.watch(PredecessorChannel::new(channel, promised, self.takes_tls), connections);
    }

    pub(super) fn watch(&mut self, mut channel: PredecessorChannel, connections: &Connections<P>) {
        let key = self.next_key;
        self.next_key += 1;
        match connections.parking.poller.add(&channel.channel, AcceptorSource::Predecessor(key).readable()) {
            Ok(()) => {
                channel.greet(self.room(connections));
                self.channels.insert(key, channel);
            }
            Err(e) => warn!("handover: can't watch a connection channel: {e}"),
        }
    }

    /// Gives up all channels, unread, so that they can be passed on: the successor reads what is in them.
    pub(super) fn give_up(&mut self, connections: &Connections<P>) -> Vec<PredecessorChannel> {
        let channels: Vec<_> =
            std::mem::take(&mut self.channels).into_iter().map(|(_, channel)| channel).collect();
        for channel in &channels {
            let _ = connections.parking.poller.delete(&channel.channel);
        }
        channels
    }

    /// How many connections can still be granted.
    fn room(&self, connections: &Connections<P>) -> usize {
        if connections.parking.drain.has_started() {
            return 0;
        }
        let promised = self.channels.values().map(PredecessorChannel::promised);
        promised.fold(self.limit.saturating_sub(connections.parking.open()), usize::saturating_sub)
    }

    pub(super) fn renew_credit(&mut self, connections: &Connections<P>) {
        for key in self.channels() {
            let room = self.room(connections);
            if let Some(channel) = self.channels.get_mut(&key) {
                channel.renew(room);
            }
        }
    }

    /// Reads what a predecessor has sent.
    pub(super) fn receive(&mut self, key: u32, names: &ListenerNames, connections: &mut Connections<P>) {
        for _ in 0..PACKETS_PER_TURN {
            let Some(channel) = self.channels.get(&key) else { return };
            match packet::receive(channel.channel.as_fd()) {
                Ok(ChannelRead::Packet(received)) => self.unpack(key, received, names, connections),
                Ok(ChannelRead::Nothing) => return,
                Ok(ChannelRead::End) => return self.forget(key, connections),
                Err(e) => {
                    warn!("handover: can't read a connection channel: {e}");
                    return self.forget(key, connections);
                }
            }
        }
    }

    fn forget(&mut self, key: u32, connections: &Connections<P>) {
        if let Some(channel) = self.channels.remove(&key) {
            if channel.came > 0 {
                info!(
                    "handover: {} connections came from a predecessor", channel.came;
                    connections = channel.came
                );
            }
            let _ = connections.parking.poller.delete(&channel.channel);
        }
    }

    fn unpack(
        &mut self,
        key: u32,
        received: ReceivedPacket,
        names: &ListenerNames,
        connections: &mut Connections<P>,
    ) {
        let ReceivedPacket { mut packet, mut fds, truncated } = received;
        match Packet::decode(&packet) {
            Some(Packet::Connections { batch, records }) => {
                self.take_connections(key, Batch::new(batch, records, fds, truncated), names, connections);
            }
            #[cfg(feature = "tls")]
            Some(Packet::Tls { batch, records }) => {
                self.take_connections(key, Batch::new(batch, records, fds, truncated), names, connections);
            }
            Some(Packet::Channel { batch, credit }) => {
                let Some(channel) = self.channels.get_mut(&key) else { return };
                match fds.pop().filter(|_| !truncated) {
                    Some(passed) if channel.acknowledge(batch, 0, 0) => self.add(passed, credit, connections),
                    Some(_) => self.forget(key, connections),
                    None => self.refuse(key, batch, Load::Channel, Retry::Later, connections),
                }
            }
            Some(Packet::Counts(counts)) => self.all_counters.inherit(counts),
            #[cfg(feature = "tls")]
            Some(Packet::Tickets(keys)) => self.keys.adopt(keys),
            None if StreamPacket::is_one(&packet) => {
                fds.truncate(if truncated { 0 } else { fds.len() });
                self.take_stream(key, &packet, fds, names, connections);
            }
            None => {
                debug!("handover: skipped {} unknown bytes on the connection channel", packet.len());
                if let Some(batch) = Packet::batch_of(&packet) {
                    // The number is unknown. If credit is granted twice, the slots refuse the connections.
                    let many = Load::Connections(usize::MAX);
                    self.refuse(key, batch, many, Retry::Later, connections);
                }
            }
        }
        packet::wipe(&mut packet);
    }

    fn refuse(&mut self, key: u32, batch: u64, load: Load, retry: Retry, connections: &Connections<P>) {
        let Some(channel) = self.channels.get_mut(&key) else { return };
        if !channel.refuse(batch, load, retry) {
            self.forget(key, connections);
        }
    }

    /// Takes all of a batch or nothing.
    fn take_connections(
        &mut self,
        key: u32,
        batch: Batch,
        names: &ListenerNames,
        connections: &mut Connections<P>,
    ) {
        let Batch { batch, records, fds } = batch;
        let came = records.len();
        let has_listeners = records.iter().all(|record| names.place(record).is_some());
        let listeners: Option<Vec<_>> = records.iter().map(|record| names.find(record)).collect();
        let slots: Vec<SlotId> = (0..came).map_while(|_| connections.parking.slots.claim()).collect();
        let room = self.room(connections);
        let Some(channel) = self.channels.get_mut(&key) else { return };
        // That this process takes no TLS at all is not the listener's fault: the channel may be passed on.
        let is_final = channel.takes_tls || !records.iter().any(ConnectionRecord::is_tls);
        let retry = match listeners {
            None if is_final && has_listeners => Retry::Unfit,
            None if is_final => Retry::Never,
            _ => Retry::Later,
        };
        let (Some(fds), Some(listeners), true) = (fds, listeners, slots.len() == came) else {
            if !std::mem::replace(&mut channel.has_refused, true) {
                log_refusal(&records, names, retry);
            }
            connections.parking.slots.release_all(slots);
            return self.refuse(key, batch, Load::Connections(came), retry, connections);
        };
        if !channel.acknowledge(batch, came, room) {
            warn!("handover: can't acknowledge {came} connections, so their predecessor keeps them");
            connections.parking.slots.release_all(slots);
            return self.forget(key, connections);
        }
        let arrived = records.into_iter().zip(fds).zip(slots).zip(listeners);
        for (((record, fd), slot), (listener, name, arrived)) in arrived {
            let Some(stream) = arrived.stream(fd, name.is_unix) else {
                connections.parking.slots.release(slot);
                continue;
            };
            let connection = make(record, stream, slot, (listener, name.handler_index), connections);
            connections.admit(connection);
        }
    }

    /// Takes a stream, for which this process has a function and a thread.
    fn take_stream(
        &mut self,
        key: u32,
        packet: &[u8],
        fds: Vec<OwnedFd>,
        names: &ListenerNames,
        connections: &mut Connections<P>,
    ) {
        let Some(StreamPacket { batch, continuation, file_bytes, record }) = StreamPacket::decode(packet)
        else {
            let batch = Packet::batch_of(packet).unwrap_or_default();
            return self.refuse(key, batch, Load::Stream, Retry::Never, connections);
        };
        let thread = match (&self.streams, names.find(&record)) {
            (Some(streams), Some(place)) => {
                streams.reserve(&continuation.name, continuation.kind).map(|thread| (thread, place))
            }
            _ => Err(Retry::Never),
        };
        let (thread, (listener, name, arrived)) = match thread {
            Ok(found) => found,
            Err(retry) => return self.refuse(key, batch, Load::Stream, retry, connections),
        };
        let mut fds = fds.into_iter();
        let (fd, file) = (fds.next(), fds.next());
        let unread = file.map(|file| LongUnread { file: file.into(), bytes: file_bytes });
        let is_whole = unread.is_some() == (file_bytes > 0);
        let (Some(fd), Some(slot)) = (fd.filter(|_| is_whole), connections.parking.slots.claim()) else {
            return self.refuse(key, batch, Load::Stream, Retry::Later, connections);
        };
        let room = self.room(connections);
        let Some(channel) = self.channels.get_mut(&key) else { return };
        if !channel.acknowledge(batch, 1, room) {
            warn!("handover: can't acknowledge a stream, so its predecessor keeps it");
            connections.parking.slots.release(slot);
            return self.forget(key, connections);
        }
        let Some(stream) = arrived.stream(fd, name.is_unix) else {
            connections.parking.slots.release(slot);
            return;
        };
        debug!("handover: a stream came from a predecessor");
        let place = (listener, name.handler_index);
        thread.start(make(record, stream, slot, place, connections), continuation, unread);
    }
}

/// A connection that belongs to this process now.
fn make<P: Portable>(
    record: ConnectionRecord,
    stream: Stream,
    slot: SlotId,
    place: (usize, usize),
    connections: &Connections<P>,
) -> Box<Connection<P>> {
    let now = Instant::now();
    let ago = |elapsed: Duration| now.checked_sub(elapsed).unwrap_or(now);
    let progress = P::unpack(record.started.map(ago));
    let origin = Origin::Moved { peer: record.peer, proxy: record.proxy, since: ago(record.age) };
    let (mut connection, _) =
        connections.accepting.factory.make(&connections.parking, stream, (slot, place), origin, progress);
    connection.buffered = record.bytes;
    if !connection.has_part() {
        connection.activity = Activity::Idle { since: ago(record.idle) };
    }
    connection.served = record.served;
    connection
}

/// Connections as they arrived; without their descriptors where some are missing.
struct Batch {
    batch: u64,
    records: Vec<ConnectionRecord>,
    fds: Option<Vec<OwnedFd>>,
}

impl Batch {
    fn new(batch: u64, records: Vec<ConnectionRecord>, fds: Vec<OwnedFd>, truncated: bool) -> Batch {
        let is_whole = !truncated && fds.len() == records.len();
        Batch { batch, records, fds: if is_whole { Some(fds) } else { None } }
    }
}

impl ListenerNames {
    /// The listener that takes this connection.
    fn place(&self, record: &ConnectionRecord) -> Option<(usize, &ListenerName)> {
        self.0.iter().enumerate().find(|(_, listener)| {
            listener.nth == record.nth && listener.names.contains(&record.listener) && listener.takes(record)
        })
    }

    /// That listener, and what the connection's stream is made of.
    pub(super) fn find(&self, record: &ConnectionRecord) -> Option<(usize, &ListenerName, Arrived)> {
        let (index, listener) = self.place(record)?;
        Some((index, listener, Arrived::of(record, listener)?))
    }

    /// Those for which `find` has nothing.
    fn not_taken<'r>(&self, records: &'r [ConnectionRecord]) -> Vec<&'r ConnectionRecord> {
        records.iter().filter(|record| self.find(record).is_none()).collect()
    }
}

/// One connection that is not taken refuses its whole batch. The others follow one by one, so they are not counted.
fn log_refusal(records: &[ConnectionRecord], names: &ListenerNames, retry: Retry) {
    let not_taken = names.not_taken(records);
    let (stay, listener) = (not_taken.len(), not_taken.first().map(|record| &*record.listener));
    match retry {
        Retry::Never if not_taken.iter().any(|record| record.is_tls()) => {
            info!(
                "handover: {stay} connections stay with a predecessor: their listener has no TLS with the same rules \
                 for clients now, or is gone";
                connections = stay,
                listener = listener
            );
        }
        Retry::Never => {
            info!(
                "handover: {stay} connections stay with a predecessor: their listener now uses TLS, or is gone";
                connections = stay,
                listener = listener
            );
        }
        Retry::Unfit => {
            info!(
                "handover: {stay} TLS connections stay with a predecessor: this program can't continue their sessions";
                connections = stay,
                listener = listener
            );
        }
        Retry::Later => {
            let came = records.len();
            warn!(
                "handover: no room for {came} connections of a predecessor, which keeps them for now";
                connections = came
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_what_is_not_taken() {
        let records = ["tcp:1", "tcp:2", "tcp:1"].map(|name| {
            let text = format!("CONNECTIONS batch=1\nlistener={name}\n\n");
            match Packet::decode(text.as_bytes()) {
                Some(Packet::Connections { records, .. }) => records.into_iter().next().unwrap(),
                other => panic!("{other:?}"),
            }
        });
        let not_taken = |name: &str| {
            let names = ListenerNames::of_one(name);
            names.not_taken(&records).into_iter().map(|record| record.listener.clone()).collect::<Vec<_>>()
        };
        assert_eq!(not_taken("tcp:1"), ["tcp:2"]);
        assert_eq!(not_taken("tcp:3"), ["tcp:1", "tcp:2", "tcp:1"]);
    }
}
