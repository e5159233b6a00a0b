//! Receives connections from predecessors, and grants them credit for as many as there is room for.
//!
//! A batch is acknowledged before its connections are registered and read. So none of them is touched here while the
//! predecessor may still take it back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::ledger::ReceiverLedger;
use super::packet::{self, ChannelRead, ConnectionRecord, Packet, Receipt, ReceivedPacket, Retry};
use super::{ListenerName, ListenerNames, ServiceKeys};
use crate::base::log::{debug, info, warn};
use crate::base::status::AllCounters;
use crate::net::acceptor::connections::{Connections, Origin};
use crate::net::acceptor::event::AcceptorSource;
use crate::net::connection::{Activity, Portable};
use crate::net::slots::SlotId;
use crate::net::stream::Stream;
use litemap::LiteMap;

/// Packets of one predecessor in a turn of the acceptor, so that they can't starve the connections of this process.
const PACKETS_PER_TURN: usize = 16;

/// A predecessor's connection channel: that of our own predecessor, or one that was passed on.
#[derive(Debug)]
pub(super) struct PredecessorChannel {
    pub(super) channel: OwnedFd,
    ledger: ReceiverLedger,
    /// How many connections have arrived by it.
    came: usize,
    /// A batch was refused, which the log says once.
    has_refused: bool,
}

impl PredecessorChannel {
    /// `promised` connections may arrive without a further grant.
    fn new(channel: OwnedFd, promised: usize) -> PredecessorChannel {
        PredecessorChannel { channel, ledger: ReceiverLedger::new(promised), came: 0, has_refused: false }
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

    /// Refuses a batch of `came` connections. If false, the caller must close the channel, which has the same effect.
    fn refuse(&mut self, batch: u64, came: usize, retry: Retry) -> bool {
        self.ledger.refuse(came);
        self.send(Receipt::Nak { batch, retry }).is_ok()
    }

    fn send(&self, receipt: Receipt) -> io::Result<()> {
        packet::send(self.channel.as_fd(), &receipt.encode(), &[])
    }
}

/// All predecessors that may still send connections.
pub(super) struct Receiver {
    channels: LiteMap<u32, PredecessorChannel>,
    next_key: u32,
    /// How many connections there may be.
    limit: usize,
    all_counters: AllCounters,
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "there are none"))]
    keys: ServiceKeys,
}

impl Receiver {
    pub(super) fn new(limit: usize, all_counters: AllCounters, keys: ServiceKeys) -> Receiver {
        Receiver { channels: LiteMap::new(), next_key: 0, limit, all_counters, keys }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    pub(super) fn channels(&self) -> Vec<u32> {
        self.channels.keys().copied().collect()
    }

    pub(super) fn add<P>(&mut self, channel: OwnedFd, promised: usize, connections: &Connections<P>) {
        self.watch(PredecessorChannel::new(channel, promised), connections);
    }

    pub(super) fn watch<P>(&mut self, mut channel: PredecessorChannel, connections: &Connections<P>) {
        let key = self.next_key;
        self.next_key += 1;
        match connections.parking.poller.add(&channel.channel, AcceptorSource::Predecessor(key).readable()) {
            Ok(()) => {
                channel.renew(self.room(connections));
                self.channels.insert(key, channel);
            }
            Err(e) => warn!("handover: can't watch a connection channel: {e}"),
        }
    }

    /// Gives up all channels, unread, so that they can be passed on: the successor reads what is in them.
    pub(super) fn give_up<P>(&mut self, connections: &Connections<P>) -> Vec<PredecessorChannel> {
        let channels: Vec<_> =
            std::mem::take(&mut self.channels).into_iter().map(|(_, channel)| channel).collect();
        for channel in &channels {
            let _ = connections.parking.poller.delete(&channel.channel);
        }
        channels
    }

    /// How many connections can still be granted.
    fn room<P>(&self, connections: &Connections<P>) -> usize {
        if connections.parking.drain.has_started() {
            return 0;
        }
        let promised = self.channels.values().map(PredecessorChannel::promised);
        promised.fold(self.limit.saturating_sub(connections.parking.open()), usize::saturating_sub)
    }

    pub(super) fn renew_credit<P>(&mut self, connections: &Connections<P>) {
        for key in self.channels() {
            let room = self.room(connections);
            if let Some(channel) = self.channels.get_mut(&key) {
                channel.renew(room);
            }
        }
    }

    /// Reads what a predecessor has sent.
    pub(super) fn receive<P: Portable>(
        &mut self,
        key: u32,
        names: &ListenerNames,
        connections: &mut Connections<P>,
    ) {
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

    fn forget<P>(&mut self, key: u32, connections: &Connections<P>) {
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

    fn unpack<P: Portable>(
        &mut self,
        key: u32,
        received: ReceivedPacket,
        names: &ListenerNames,
        connections: &mut Connections<P>,
    ) {
        let ReceivedPacket { mut packet, mut fds, truncated } = received;
        match Packet::decode(&packet) {
            Some(Packet::Connections { batch, records }) => {
                let is_whole = !truncated && fds.len() == records.len();
                let batch = Batch { batch, records, fds: if is_whole { Some(fds) } else { None } };
                self.take_connections(key, batch, names, connections);
            }
            Some(Packet::Channel { batch, credit }) => {
                let Some(channel) = self.channels.get_mut(&key) else { return };
                match fds.pop().filter(|_| !truncated) {
                    Some(passed) if channel.acknowledge(batch, 0, 0) => self.add(passed, credit, connections),
                    Some(_) => self.forget(key, connections),
                    None => self.refuse(key, batch, 0, Retry::Later, connections),
                }
            }
            Some(Packet::Counts(counts)) => self.all_counters.inherit(counts),
            #[cfg(feature = "tls")]
            Some(Packet::Tickets(keys)) => self.keys.adopt(keys),
            None => {
                debug!("handover: skipped {} unknown bytes on the connection channel", packet.len());
                if let Some(batch) = Packet::batch_of(&packet) {
                    // The number is unknown. If credit is granted twice, the slots refuse the connections.
                    self.refuse(key, batch, usize::MAX, Retry::Later, connections);
                }
            }
        }
        ServiceKeys::wipe(&mut packet);
    }

    fn refuse<P>(&mut self, key: u32, batch: u64, came: usize, retry: Retry, connections: &Connections<P>) {
        let Some(channel) = self.channels.get_mut(&key) else { return };
        if !channel.refuse(batch, came, retry) {
            self.forget(key, connections);
        }
    }

    /// Takes all of a batch or nothing.
    fn take_connections<P: Portable>(
        &mut self,
        key: u32,
        batch: Batch,
        names: &ListenerNames,
        connections: &mut Connections<P>,
    ) {
        let Batch { batch, records, fds } = batch;
        let came = records.len();
        let listeners: Option<Vec<_>> = records.iter().map(|record| names.find(record)).collect();
        let slots: Vec<SlotId> = (0..came).map_while(|_| connections.parking.slots.claim()).collect();
        let room = self.room(connections);
        let Some(channel) = self.channels.get_mut(&key) else { return };
        let retry = if listeners.is_none() { Retry::Never } else { Retry::Later };
        let (Some(fds), Some(listeners), true) = (fds, listeners, slots.len() == came) else {
            if !std::mem::replace(&mut channel.has_refused, true) {
                log_refusal(came, retry);
            }
            connections.parking.slots.release_all(slots);
            return self.refuse(key, batch, came, retry, connections);
        };
        if !channel.acknowledge(batch, came, room) {
            warn!("handover: can't acknowledge {came} connections, so their predecessor keeps them");
            connections.parking.slots.release_all(slots);
            return self.forget(key, connections);
        }
        let now = Instant::now();
        let ago = |elapsed: Duration| now.checked_sub(elapsed).unwrap_or(now);
        for (((record, fd), slot), (listener, name)) in records.into_iter().zip(fds).zip(slots).zip(listeners)
        {
            let stream = Stream::new(fd, name.is_unix);
            let progress = P::unpack(record.started.map(ago));
            let place = (listener, name.handler_index);
            let origin = Origin::Moved { peer: record.peer, proxy: record.proxy, since: ago(record.age) };
            let (mut connection, _) = connections.make(stream, slot, place, origin, progress);
            if record.bytes.is_empty() {
                connection.activity = Activity::Idle { since: ago(record.idle) };
            }
            connection.buffered = record.bytes;
            connection.served = record.served;
            connections.admit(connection);
        }
    }
}

/// Connections as they arrived; without their descriptors where some are missing.
struct Batch {
    batch: u64,
    records: Vec<ConnectionRecord>,
    fds: Option<Vec<OwnedFd>>,
}

impl ListenerNames {
    /// The listener that takes this connection. One that speaks TLS takes none.
    fn find(&self, record: &ConnectionRecord) -> Option<(usize, &ListenerName)> {
        self.0.iter().enumerate().find(|(_, listener)| {
            listener.nth == record.nth && listener.names.contains(&record.listener) && !listener.is_tls
        })
    }
}

fn log_refusal(came: usize, retry: Retry) {
    match retry {
        Retry::Never => {
            info!(
                "handover: {came} connections stay with a predecessor: their listener now uses TLS, or is gone";
                connections = came
            );
        }
        Retry::Later => {
            warn!(
                "handover: no room for {came} connections of a predecessor, which keeps them for now";
                connections = came
            );
        }
    }
}
