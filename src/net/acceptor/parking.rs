//! Where connections rest, and where workers and the control loop reach the acceptor.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::connection_counts::ConnectionCounts;
use super::pool_events::PoolPoller;
use super::{BACKLOG, BELL, LONGEST_QUEUE, RESERVE, TICK};
use crate::base::limits::Limits;
use crate::base::sync::lock;
use crate::net::connection::{Connection, Linger};
use crate::net::slots::{SlotId, Slots};

/// Which workers are for what.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// How many each pool has.
    pub(crate) workers: Vec<usize>,
    /// Which pool each site's connections go to.
    pub(crate) of_site: Vec<usize>,
}

/// Where connections rest, and where workers and the control loop reach the acceptor.
#[derive(Debug)]
pub(crate) struct Parking<P> {
    pub(super) slots: Slots<Box<Connection<P>>>,
    /// What the acceptor waits on.
    pub(super) poller: Epoll,
    /// What the workers of each pool wait on: their connections.
    pool_pollers: Box<[PoolPoller]>,
    lane_of_site: Box<[usize]>,
    pub(super) bell: EventFd,
    pub(super) counts: ConnectionCounts,
    commands: Mutex<VecDeque<Command>>,
    start: Instant,
    idle: Duration,
    /// In ticks: how long an idle connection is kept in a drain; 0 while there is none.
    pub(super) grace: AtomicU32,
    /// The tick at which the grace of those is over that were idle when the drain began.
    pub(super) grace_over: AtomicU32,
    /// Somebody waits for a connection to end: rung at each.
    pub(super) wanted: AtomicBool,
    gate: AtomicU8,
    /// Which listeners the successor has, too.
    adopted: OnceLock<Box<[AtomicBool]>>,
    /// On their way to the successor.
    leavers: Mutex<Vec<Box<Connection<P>>>>,
}

/// The way to the successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Gate {
    /// Not yet known.
    Unknown,
    /// The successor takes no more for now.
    Waiting,
    Open,
    /// There is no way any more.
    Shut,
}

/// How long a connection may rest.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deadline {
    At(Instant),
    /// Between two requests: the idle timeout from now, or the grace of a drain.
    Idle(Instant),
}

#[derive(Debug)]
pub(crate) enum Command {
    Accept,
    Pause { adopted: Vec<String> },
    CloseShared { shared: Vec<String> },
    CloseLast,
    HandConnections { channel: OwnedFd, adopted: Vec<String> },
    TakeConnections(OwnedFd),
    Drain { grace: Duration },
    Check,
    Stop,
}

impl<P> Parking<P> {
    /// Room for as many as the limits allow, and for those that are taken beyond them: by operators' listeners,
    /// and from the kernel's queue at a stop. `reserved` says of each listener whether it is an operators' one.
    pub(crate) fn new(
        limits: &Limits,
        reserved: &[bool],
        longest_backlog: i32,
        lanes: Lanes,
        idle: Duration,
    ) -> io::Result<Parking<P>> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let poller = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        poller.add(&bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        let pool_pollers = lanes.workers.iter().map(|_| PoolPoller::new()).collect::<Result<_, _>>()?;
        #[expect(clippy::cast_sign_loss, reason = "clamped")]
        let waiting = longest_backlog.clamp(BACKLOG, LONGEST_QUEUE) as usize;
        Ok(Parking {
            slots: Slots::new(limits.connections.saturating_add(waiting + RESERVE)),
            poller,
            pool_pollers,
            lane_of_site: lanes.of_site.into(),
            bell,
            counts: ConnectionCounts::new(reserved, limits.connections_per_peer.is_some()),
            commands: Mutex::default(),
            start: Instant::now(),
            idle,
            grace: AtomicU32::new(0),
            grace_over: AtomicU32::new(u32::MAX),
            wanted: AtomicBool::new(false),
            gate: AtomicU8::new(Gate::Unknown as u8),
            adopted: OnceLock::new(),
            leavers: Mutex::default(),
        })
    }

    /// A place for a connection that no acceptor has accepted, and what is parked in it: for who
    /// plays the acceptor's part.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn admit(&self, stream: &crate::net::stream::Stream) -> Option<SlotId> {
        let slot = self.slots.claim()?;
        self.poller_of(0).add(stream, EpollEvent::new(edge(), slot.to_bits())).ok().map(|()| slot)
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn take(&self, slot: SlotId) -> Option<Box<Connection<P>>> {
        self.slots.take(slot)
    }

    pub(crate) fn command(&self, command: Command) {
        lock(&self.commands).push_back(command);
        self.ring();
    }

    pub(super) fn commands(&self) -> VecDeque<Command> {
        std::mem::take(&mut *lock(&self.commands))
    }

    pub(super) fn ring(&self) {
        // It can only be full, and then it rings already.
        let _ = self.bell.write(1);
    }

    /// Which pool a site's connections go to.
    pub(super) fn lane_of(&self, site: usize) -> usize {
        self.lane_of_site.get(site).copied().unwrap_or(0)
    }

    /// Where a site's connections are registered.
    pub(super) fn poller_of(&self, site: usize) -> &Epoll {
        &self.poller_of_pool(self.lane_of(site)).epoll
    }

    pub(super) fn poller_of_pool(&self, pool: usize) -> &PoolPoller {
        &self.pool_pollers[pool]
    }

    /// An event came: takes the connection it is for, if nobody has it.
    pub(super) fn take_ready(&self, event: &EpollEvent) -> Option<Box<Connection<P>>> {
        let mut connection = self.slots.take(SlotId::from_bits(event.data()))?;
        let closed = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        connection.may_have_ended = event.events().intersects(closed);
        Some(connection)
    }

    /// Connections that are open, wherever they are.
    pub(crate) fn open(&self) -> usize {
        self.slots.taken()
    }

    /// Parks until bytes come, or the socket takes more, or the deadline passes. Given back if there
    /// is something to do already.
    pub(crate) fn park(
        &self,
        connection: Box<Connection<P>>,
        deadline: Deadline,
    ) -> Result<(), Box<Connection<P>>> {
        let deadline = match deadline {
            Deadline::At(time) => self.ticks(time),
            Deadline::Idle(now) => self.idle_deadline(now),
        };
        self.slots.park(connection.slot, connection, deadline).map_err(|mut back| {
            // The event may have been of its end, which is not announced again.
            back.may_have_ended = true;
            back
        })
    }

    /// Drops what still comes of one that lingers, and parks it where more may; gives back what has
    /// ended.
    pub(crate) fn linger(&self, mut connection: Box<Connection<P>>) -> Option<Box<Connection<P>>> {
        while let Some(lingering) = connection.lingering() {
            match connection.linger_on() {
                Linger::More => {}
                Linger::Over => break,
                Linger::Drained => match self.park(connection, Deadline::At(lingering.until)) {
                    Ok(()) => return None,
                    Err(back) => connection = back,
                },
            }
        }
        Some(connection)
    }

    /// Registers one that was accepted as work, and is to be parked now.
    pub(crate) fn watch(&self, connection: &Connection<P>) -> io::Result<()> {
        let event = EpollEvent::new(edge(), connection.slot.to_bits());
        Ok(self.poller_of(connection.site).add(&connection.stream, event)?)
    }

    /// Asks for an event, too, when the socket takes bytes again.
    pub(crate) fn poll_write(&self, connection: &mut Connection<P>) -> io::Result<()> {
        if !connection.polls_write {
            let flags = edge() | EpollFlags::EPOLLOUT;
            let mut event = EpollEvent::new(flags, connection.slot.to_bits());
            self.poller_of(connection.site).modify(&connection.stream, &mut event)?;
            connection.polls_write = true;
        }
        Ok(())
    }

    /// Ends a connection. Its place is free when its socket is closed, not before.
    pub(crate) fn close(&self, connection: Box<Connection<P>>) {
        let slot = connection.slot;
        self.counts.leave(connection.listener, connection.conn_info.peer);
        drop(connection);
        self.slots.release(slot);
        if self.wanted.load(Ordering::SeqCst) {
            self.ring();
        }
    }

    /// Whether a process that has handed over need not announce the close of this connection: it
    /// may still go to the successor.
    pub(crate) fn may_travel(&self, connection: &Connection<P>) -> bool {
        !connection.stream.is_bound_here()
            && self.gate.load(Ordering::Acquire) != Gate::Shut as u8
            && self.adopted.get().is_none_or(|adopted| has(adopted, connection.listener))
    }

    /// Whether the successor takes this connection now, if its next request has not begun, or not
    /// much of it is there.
    pub(crate) fn departs(&self, connection: &Connection<P>) -> bool {
        self.gate.load(Ordering::Acquire) == Gate::Open as u8 && self.is_adopted(connection)
    }

    /// Whether the successor has its listener, and can have the connection itself.
    pub(super) fn is_adopted(&self, connection: &Connection<P>) -> bool {
        !connection.stream.is_bound_here()
            && self.adopted.get().is_some_and(|adopted| has(adopted, connection.listener))
    }

    /// Sends a connection to the successor, which `departs` said.
    pub(crate) fn leave(&self, connection: Box<Connection<P>>) {
        lock(&self.leavers).push(connection);
        self.ring();
    }

    pub(super) fn leavers(&self) -> Vec<Box<Connection<P>>> {
        std::mem::take(&mut *lock(&self.leavers))
    }

    pub(super) fn set_gate(&self, gate: Gate) {
        self.gate.store(gate as u8, Ordering::Release);
    }

    pub(super) fn set_adopted(&self, adopted: impl Iterator<Item = bool>) {
        let _ = self.adopted.set(adopted.map(AtomicBool::new).collect());
    }

    /// A later generation than our own successor has the other end, and knows no such listener.
    pub(super) fn set_not_adopted(&self, listener: usize) {
        if let Some(adopted) = self.adopted.get().and_then(|adopted| adopted.get(listener)) {
            adopted.store(false, Ordering::Release);
        }
    }

    /// Whether a drain has lasted for as long as idle connections are kept in it.
    pub(crate) fn is_grace_over(&self) -> bool {
        self.ticks(Instant::now()) > self.grace_over.load(Ordering::Relaxed)
    }

    pub(super) fn idle_deadline(&self, now: Instant) -> u32 {
        let mut deadline = self.ticks(now + self.idle);
        let grace = self.grace.load(Ordering::Relaxed);
        if grace > 0 {
            deadline = deadline.min(self.ticks(now).saturating_add(grace));
        }
        deadline
    }

    /// A time as ticks since the start, rounded up; never 0, which means none.
    pub(super) fn ticks(&self, at: Instant) -> u32 {
        let ticks = at.saturating_duration_since(self.start).as_millis() / TICK.as_millis();
        u32::try_from(ticks).unwrap_or(u32::MAX - 1).saturating_add(1)
    }
}

fn has(adopted: &[AtomicBool], listener: usize) -> bool {
    adopted.get(listener).is_some_and(|adopted| adopted.load(Ordering::Acquire))
}

/// Registered once; an event that comes while a worker has the connection is kept in its slot.
pub(super) fn edge() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET
}
