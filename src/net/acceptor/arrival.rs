//! Connections that come from a predecessor, and the credit that keeps them to what there is room
//! for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::ledger::Receiver;
use super::{Acceptor, Listed, PACKETS_PER_TURN, SPECIAL};
use crate::base::log::{debug, info, warn};
use crate::net::connection::{Activity, Connection, Portable};
use crate::net::stream::Stream;
use crate::process::handover::parcel::{self, Incoming, Parcel, Receipt, Received, Record};

/// A predecessor's connection channel: this process's own predecessor's, or one that was passed on.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) channel: OwnedFd,
    ledger: Receiver,
    /// Connections that have come.
    came: usize,
    has_refused: bool,
}

impl Upstream {
    pub(super) fn new(channel: OwnedFd, promised: usize) -> Upstream {
        Upstream { channel, ledger: Receiver::new(promised), came: 0, has_refused: false }
    }

    /// Connections that have come by it.
    pub(super) fn came(&self) -> usize {
        self.came
    }

    /// Granted, and not yet come.
    pub(super) fn promised(&self) -> usize {
        self.ledger.promised()
    }

    /// Grants again when there is room again.
    pub(super) fn renew(&mut self, room: usize) {
        let credit = self.ledger.renew(room);
        if credit > 0 && self.say(Receipt::Credit(credit)).is_err() {
            self.ledger.take_back(credit);
        }
    }

    /// `came` connections are ours from here on, if this says so: then none of them has been
    /// touched before their predecessor let go of them. If not, the channel is to be closed: its end
    /// gives them back.
    pub(super) fn acknowledge(&mut self, batch: u64, came: usize, room: usize) -> bool {
        let credit = self.ledger.take(came, room);
        let ours = match self.say(Receipt::Ack { batch, credit }) {
            Ok(()) => true,
            // It is dead, and what it had sent is ours.
            Err(e) => matches!(e.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN)),
        };
        self.came += if ours { came } else { 0 };
        ours
    }

    /// Whether nothing has been refused before; for the log, which need not hear it again.
    fn is_first_refusal(&mut self) -> bool {
        !std::mem::replace(&mut self.has_refused, true)
    }

    /// Nothing of a batch of `came` was kept. If this can't be said, the channel is to be closed: its
    /// end says it, too.
    pub(super) fn refuse(&mut self, batch: u64, came: usize, never: bool) -> bool {
        self.ledger.refuse(came);
        self.say(Receipt::Nak { batch, never }).is_ok()
    }

    fn say(&self, receipt: Receipt) -> io::Result<()> {
        parcel::send(self.channel.as_fd(), &receipt.encode(), &[])
    }
}

impl<P: Portable> Acceptor<P> {
    pub(super) fn watch_upstream(&mut self, mut upstream: Upstream) {
        let key = self.next_upstream;
        self.next_upstream += 1;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, key << 32 | SPECIAL);
        match self.parking.poller.add(&upstream.channel, event) {
            Ok(()) => {
                upstream.renew(self.room());
                self.upstreams.insert(key, upstream);
            }
            Err(e) => warn!("handover: can't watch a connection channel: {e}"),
        }
    }

    /// Places for connections that come from predecessors.
    fn room(&self) -> usize {
        if self.draining {
            return 0;
        }
        let promised = self.upstreams.values().map(Upstream::promised);
        promised.fold(self.limit.saturating_sub(self.parking.open()), usize::saturating_sub)
    }

    /// Once a tick: what could not be sent or taken for want of something may be now.
    pub(super) fn renew_credit(&mut self) {
        if let Some(departure) = &mut self.departure {
            departure.unblock();
            self.look_from = self.look_from.or(Some(0));
        }
        for key in self.upstreams.keys().copied().collect::<Vec<_>>() {
            let room = self.room();
            if let Some(upstream) = self.upstreams.get_mut(&key) {
                upstream.renew(room);
            }
        }
    }

    pub(super) fn hear_upstream(&mut self, key: u64) {
        for _ in 0..PACKETS_PER_TURN {
            let Some(upstream) = self.upstreams.get(&key) else { return };
            match parcel::receive(upstream.channel.as_fd()) {
                Ok(Incoming::Packet(received)) => self.unpack(key, received),
                Ok(Incoming::Nothing) => return,
                Ok(Incoming::End) => return self.forget_upstream(key),
                Err(e) => {
                    warn!("handover: can't read a connection channel: {e}");
                    return self.forget_upstream(key);
                }
            }
        }
    }

    fn forget_upstream(&mut self, key: u64) {
        if let Some(upstream) = self.upstreams.remove(&key) {
            if upstream.came() > 0 {
                info!("handover: {} connections came from a predecessor", upstream.came());
            }
            let _ = self.parking.poller.delete(&upstream.channel);
        }
    }

    fn unpack(&mut self, key: u64, received: Received) {
        let Received { packet, mut fds, truncated } = received;
        match Parcel::decode(&packet) {
            Some(Parcel::Connections { batch, records }) => {
                let whole = !truncated && fds.len() == records.len();
                self.take_connections(key, batch, records, if whole { Some(fds) } else { None });
            }
            Some(Parcel::Channel { batch, credit }) => {
                let Some(upstream) = self.upstreams.get_mut(&key) else { return };
                match fds.pop().filter(|_| !truncated) {
                    Some(channel) if upstream.acknowledge(batch, 0, 0) => {
                        self.watch_upstream(Upstream::new(channel, credit));
                    }
                    Some(_) => self.forget_upstream(key),
                    None => self.send_back(key, batch, 0, false),
                }
            }
            Some(Parcel::Counts(counts)) => self.all_counters.inherit(counts),
            None => {
                debug!("handover: skipped {} unknown bytes on the connection channel", packet.len());
                if let Some(batch) = Parcel::batch_of(&packet) {
                    // However many there were: credit that is granted twice is refused by the slots.
                    self.send_back(key, batch, usize::MAX, false);
                }
            }
        }
    }

    fn send_back(&mut self, key: u64, batch: u64, came: usize, never: bool) {
        let Some(upstream) = self.upstreams.get_mut(&key) else { return };
        if !upstream.refuse(batch, came, never) {
            self.forget_upstream(key);
        }
    }

    /// All of a batch or nothing: `fds` is None when some are missing.
    fn take_connections(&mut self, key: u64, batch: u64, records: Vec<Record>, fds: Option<Vec<OwnedFd>>) {
        let came = records.len();
        // All that travels is plain text. Served by a listener that speaks TLS by now, it would pass by the
        // handshake and by the certificates that clients may have to show.
        let fits = |l: &Listed, r: &Record| l.nth == r.nth && l.names.contains(&r.listener) && !l.tls;
        let places: Option<Vec<usize>> =
            records.iter().map(|r| self.listed.iter().position(|l| fits(l, r))).collect();
        let slots: Vec<_> = (0..came).map_while(|_| self.parking.slots.claim()).collect();
        let room = self.room();
        let Some(upstream) = self.upstreams.get_mut(&key) else { return };
        let all_fit = slots.len() == came;
        let never = places.is_none();
        let (Some(fds), Some(places), true) = (fds, places, all_fit) else {
            if upstream.is_first_refusal() {
                if never {
                    info!(
                        "handover: {came} connections stay with a predecessor: their listener now uses TLS, or is gone"
                    );
                } else {
                    warn!(
                        "handover: no room for {came} connections of a predecessor, which keeps them for now"
                    );
                }
            }
            self.parking.slots.release_all(slots);
            return self.send_back(key, batch, came, never);
        };
        if !upstream.acknowledge(batch, came, room) {
            warn!("handover: can't acknowledge {came} connections, so their predecessor keeps them");
            self.parking.slots.release_all(slots);
            return self.forget_upstream(key);
        }
        let now = Instant::now();
        let ago = |elapsed: Duration| now.checked_sub(elapsed).unwrap_or(now);
        for (((record, fd), slot), place) in records.into_iter().zip(fds).zip(slots).zip(places) {
            let listed = &self.listed[place];
            let stream = Stream::new(fd, listed.unix);
            let progress = P::unpack(record.begun.map(ago));
            let conn_info = Arc::new(self.conn_info(record.peer, &stream));
            self.parking.counts.enter(place, record.peer);
            let mut connection =
                Box::new(Connection::new(stream, slot, (place, listed.site), conn_info, progress));
            if record.bytes.is_empty() {
                connection.activity = Activity::Idle { since: ago(record.idle) };
            }
            connection.buffered = record.bytes;
            connection.served = record.served;
            self.admit(connection);
        }
    }
}
