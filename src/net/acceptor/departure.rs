//! Connections on their way to the successor. From the send on nobody here touches them; they are
//! let go of when the successor has acknowledged them, and had back only when it has refused them,
//! or when nobody has the other end of the channel any more and all it said has been read.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::arrival::Upstream;
use super::ledger::{Sender, Settled};
use super::parking::{Gate, edge};
use super::{Acceptor, SUCCESSOR};
use crate::base::close_reason::CloseReason;
use crate::base::log::{debug, info, warn};
use crate::net::connection::{Activity, Cause, Connection, Portable, Ready};
use crate::process::handover::parcel::{self, BATCH, BATCH_BYTES, Incoming, Parcel, Receipt, Record};

/// What of a request may have come for its connection to travel.
pub(crate) const PORTABLE_BYTES: usize = 8 << 10;

/// Of a channel that is to be passed on, a tick apart.
const REFUSALS: u32 = 20;

/// For a successor's next word, where the grace is shorter.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to a successor.
pub(super) struct Departure<P> {
    channel: OwnedFd,
    ledger: Sender<Cargo<P>>,
    /// Not sent, or refused.
    upstreams: Vec<Upstream>,
    /// How often one of them was refused.
    refusals: u32,
    /// When the successor last said something.
    heard: Instant,
    /// The channel can't be read.
    deaf: bool,
}

enum Cargo<P> {
    Connections(Vec<Box<Connection<P>>>),
    Upstream(Upstream),
}

/// What the successor has said.
pub(super) struct Heard<P> {
    /// Its own now.
    pub(super) delivered: Vec<Box<Connection<P>>>,
    /// Ours again.
    pub(super) returned: Vec<Box<Connection<P>>>,
    /// The successor has no such listener.
    pub(super) unwanted: Option<usize>,
    /// Nobody has the other end any more. What of its own predecessors' channels it did not take is here.
    pub(super) ended: Option<Vec<Upstream>>,
}

impl<P: Portable> Departure<P> {
    pub(super) fn new(channel: OwnedFd, upstreams: Vec<Upstream>) -> Departure<P> {
        Departure {
            channel,
            ledger: Sender::new(),
            upstreams,
            refusals: 0,
            heard: Instant::now(),
            deaf: false,
        }
    }

    pub(super) fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// How many connections can be sent now.
    pub(super) fn room(&self) -> usize {
        if self.deaf { 0 } else { self.ledger.room() }
    }

    /// Whether all that is to go has arrived.
    pub(super) fn is_empty(&self) -> bool {
        self.ledger.all_settled() && self.upstreams.is_empty()
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// Whether the successor has had no room for longer than the grace, or is too slow to say.
    pub(super) fn is_stuck(&self, grace: Duration) -> bool {
        self.room() == 0 && self.heard.elapsed() >= grace.max(PATIENCE)
    }

    /// Something was refused or was in the way: it may be tried again.
    pub(super) fn unblock(&mut self) {
        self.ledger.unblock();
    }

    /// Sends the first of `leavers`, as many as one packet takes; false when it can't be now.
    /// `name` gives the text a connection's listener was asked for by.
    pub(super) fn send<'n>(
        &mut self,
        leavers: &mut Vec<Box<Connection<P>>>,
        name: impl Fn(usize) -> (&'n str, usize),
    ) -> bool {
        let now = Instant::now();
        let most = leavers.len().min(self.ledger.batch(BATCH));
        if most == 0 {
            return false;
        }
        let mut bytes = 0;
        let mut records = Vec::new();
        for connection in &mut leavers[..most] {
            let (listener, nth) = name(connection.listener);
            let begun = connection.progress.pack(&mut connection.buffered);
            connection.progress = P::unpack(begun);
            bytes += connection.buffered.len() + listener.len();
            if bytes > BATCH_BYTES && !records.is_empty() {
                break;
            }
            let since = |at: Instant| now.saturating_duration_since(at);
            records.push(Record {
                listener: listener.to_owned(),
                nth,
                peer: connection.conn_info.peer,
                idle: match connection.activity {
                    Activity::Idle { since: at } => since(at),
                    _ => Duration::ZERO,
                },
                begun: begun.map(since),
                served: connection.served,
                bytes: connection.buffered.clone(),
            });
        }
        let count = records.len();
        let batch = self.ledger.next();
        let fds: Vec<BorrowedFd<'_>> = leavers[..count].iter().map(|c| c.stream.as_fd()).collect();
        if !self.post(&Parcel::Connections { batch, records }, &fds) {
            return false;
        }
        if !self.ledger.has_sent() {
            info!("handover: connections are on their way to the successor");
        }
        self.ledger.posted(count, Cargo::Connections(leavers.drain(..count).collect()));
        true
    }

    /// Passes on the channels of our own predecessors.
    pub(super) fn send_upstreams(&mut self) {
        while let Some(upstream) = self.upstreams.pop() {
            let parcel = Parcel::Channel { batch: self.ledger.next(), credit: upstream.promised() };
            if self.ledger.is_blocked() || !self.post(&parcel, &[upstream.channel.as_fd()]) {
                self.upstreams.push(upstream);
                return;
            }
            self.ledger.posted(0, Cargo::Upstream(upstream));
        }
    }

    /// What is lost of these only makes totals smaller.
    pub(super) fn send_counts(&mut self, counts: Vec<(String, u64)>) {
        if !counts.is_empty() {
            self.post(&Parcel::Counts(counts), &[]);
        }
    }

    fn post(&mut self, parcel: &Parcel, fds: &[BorrowedFd<'_>]) -> bool {
        match parcel::send(self.channel.as_fd(), &parcel.encode(), fds) {
            Ok(()) => true,
            Err(e) => {
                // Full, or too many descriptors of this user are in flight (ETOOMANYREFS). A
                // broken pipe is read as the end.
                if e.kind() != ErrorKind::WouldBlock {
                    debug!("handover: can't pass connections on just now: {e}");
                }
                self.ledger.block();
                false
            }
        }
    }

    /// Reads what the successor has said.
    pub(super) fn hear(&mut self) -> Heard<P> {
        let mut heard = Heard { delivered: Vec::new(), returned: Vec::new(), unwanted: None, ended: None };
        loop {
            match parcel::receive(self.channel.as_fd()) {
                Ok(Incoming::Packet(received)) => self.take_receipt(&received.packet, &mut heard),
                Ok(Incoming::Nothing) => return heard,
                Ok(Incoming::End) => break,
                Err(e) => {
                    // What was sent stays sent: taking it back could serve a request twice.
                    warn!("handover: can't read the connection channel: {e}");
                    self.deaf = true;
                    return heard;
                }
            }
        }
        let mut upstreams = std::mem::take(&mut self.upstreams);
        for cargo in self.ledger.end() {
            match cargo {
                Cargo::Connections(connections) => heard.returned.extend(connections),
                Cargo::Upstream(upstream) => upstreams.push(upstream),
            }
        }
        heard.ended = Some(upstreams);
        heard
    }

    fn take_receipt(&mut self, packet: &[u8], heard: &mut Heard<P>) {
        let Some(receipt) = Receipt::decode(packet) else {
            return debug!("handover: skipped an unknown packet");
        };
        self.heard = Instant::now();
        match self.ledger.hear(receipt) {
            Settled::Delivered(Cargo::Connections(connections)) => heard.delivered.extend(connections),
            // Our copy of the channel goes with it.
            Settled::Delivered(Cargo::Upstream(_)) | Settled::Nothing => {}
            Settled::Returned { cargo: Cargo::Connections(connections), never } => {
                debug!("handover: {} connections refused", connections.len());
                if let ([connection], true) = (&connections[..], never) {
                    heard.unwanted = Some(connection.listener);
                }
                heard.returned.extend(connections);
            }
            Settled::Returned { cargo: Cargo::Upstream(upstream), .. } => {
                // Tried again at the next tick, a while: then its own predecessor sees the end, and
                // keeps what it has.
                self.ledger.block();
                self.refusals += 1;
                if self.refusals < REFUSALS {
                    self.upstreams.push(upstream);
                }
            }
        }
    }
}

impl<P: Portable> Acceptor<P> {
    /// Step 5 of a handover: what rests here, and what comes to rest, goes to the successor.
    pub(super) fn begin_departure(&mut self, channel: OwnedFd, adopted: &[String]) {
        if let Err(e) = self.parking.poller.add(&channel, EpollEvent::new(EpollFlags::EPOLLIN, SUCCESSOR)) {
            warn!("handover: can't watch the connection channel: connections stay here: {e}");
            return self.parking.set_gate(Gate::Shut);
        }
        let count = |name: &String| adopted.iter().filter(|other| *other == name).count();
        for listed in &mut self.listed {
            // It may know it by another of its names only.
            if let Some(known) = listed.names.iter().position(|name| adopted.contains(name)) {
                listed.names.swap(0, known);
            }
        }
        self.parking.set_adopted(self.listed.iter().map(|l| l.nth < l.names.first().map_or(0, count)));
        // Nobody reads these here any more: what is in them is the successor's to read.
        let upstreams = std::mem::take(&mut self.upstreams).into_values().collect::<Vec<_>>();
        for upstream in &upstreams {
            let _ = self.parking.poller.delete(&upstream.channel);
        }
        self.departure = Some(Departure::new(channel, upstreams));
        self.look_from = Some(0);
        self.pass_on_counts();
        self.hear_successor();
    }

    pub(super) fn can_leave(&self, connection: &Connection<P>) -> bool {
        self.parking.departs(connection)
            && connection.progress.is_portable(connection.buffered.len(), PORTABLE_BYTES)
    }

    /// Sends what can be sent now.
    pub(super) fn depart(&mut self) {
        let Some(departure) = &mut self.departure else {
            // The successor went when these were already on their way here.
            let left = self.parking.leavers().into_iter().chain(std::mem::take(&mut self.leaving));
            return left.for_each(|connection| self.queue(connection));
        };
        departure.send_upstreams();
        let mut leavers = self.parking.leavers();
        leavers.append(&mut self.leaving);
        let mut unwatched = Vec::new();
        loop {
            let room = departure.room();
            if let Some(from) = self.look_from.filter(|_| room > leavers.len()) {
                let parking = &self.parking;
                let wanted = |connection: &Connection<P>| {
                    parking.is_adopted(connection)
                        && connection.lingering().is_none()
                        && connection.progress.is_portable(connection.buffered.len(), PORTABLE_BYTES)
                };
                let (found, next) = parking.slots.take_wanted(from, room - leavers.len(), |c| wanted(c));
                leavers.extend(found);
                self.look_from = next;
            }
            if leavers.is_empty() || room == 0 {
                break;
            }
            let listed = &self.listed;
            let before = leavers.len();
            for connection in &leavers {
                let _ = self.parking.poller_of(connection.site).delete(&connection.stream);
            }
            let name = |listener: usize| (&*listed[listener].names[0], listed[listener].nth);
            while departure.send(&mut leavers, name) {
                self.delivered.get_or_insert(0);
            }
            debug!("handover: sent {} connections", before - leavers.len());
            // They wait here, watched, for their turn.
            for connection in std::mem::take(&mut leavers) {
                let event = EpollEvent::new(edge(), connection.slot.to_bits());
                if self.parking.poller_of(connection.site).add(&connection.stream, event).is_ok() {
                    let lane = self.parking.lane_of(connection.site);
                    self.lanes[lane].batch.push(Ready::new(connection, Cause::Event));
                } else {
                    unwatched.push(connection);
                }
            }
        }
        // What stays here is told of its close, while there is time.
        let stuck = self.draining && departure.is_stuck(self.grace);
        self.parking.set_gate(match departure.room() {
            0 if stuck => Gate::Shut,
            0 => Gate::Waiting,
            _ => Gate::Open,
        });
        for connection in leavers {
            self.queue(connection);
        }
        for connection in unwatched {
            self.end(CloseReason::Broken, connection);
        }
    }

    /// What the successor says of what was sent to it.
    pub(super) fn hear_successor(&mut self) {
        let Some(departure) = &mut self.departure else { return };
        let heard = departure.hear();
        if departure.is_deaf() {
            let _ = self.parking.poller.delete(departure.channel());
            self.parking.set_gate(Gate::Shut);
        }
        if !heard.delivered.is_empty() {
            *self.delivered.get_or_insert(0) += heard.delivered.len();
        }
        for connection in heard.delivered {
            self.counters.handed_over();
            self.parking.close(connection);
        }
        if let Some(listener) = heard.unwanted {
            self.parking.set_not_adopted(listener);
        }
        if let Some(upstreams) = heard.ended {
            if let Some(departure) = self.departure.take() {
                let _ = self.parking.poller.delete(departure.channel());
            }
            // Before workers get what is ours again: they announce its close.
            self.parking.set_gate(Gate::Shut);
            info!("handover: no process has the other end of the connection channel: connections stay here");
            upstreams.into_iter().for_each(|upstream| self.watch_upstream(upstream));
        }
        for mut connection in heard.returned {
            connection.polls_write = false;
            self.admit(connection);
        }
    }

    pub(super) fn pass_on_counts(&mut self) {
        if let Some(departure) = &mut self.departure {
            departure.send_counts(self.all_counters.since(&mut self.told));
        }
    }
}
