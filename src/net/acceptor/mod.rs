//! The acceptor: one thread that accepts, and owns every connection on which no worker works. It sees to deadlines,
//! transfers connections to a successor and watches busy pools. It waits for no connection's bytes, which workers do
//! themselves; it never parses HTTP, and never runs user code.

mod arrival;
mod connection_counts;
mod departure;
mod ledger;
mod parking;
mod pool_events;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};

use crate::base::budget::Budget;
use crate::base::close_reason::CloseReason;
use crate::base::limits::Limits;
use crate::base::log::{debug, error, info, warn};
use crate::base::phase::PhaseWatch;
use crate::base::status::{AllCounters, Counters};
use crate::base::sync::lock;
use crate::base::sys;
use crate::base::time::poll_timeout;
use crate::net::conn_info::ConnInfo;
use crate::net::connection::{Activity, Cause, Connection, Cut, Linger, Portable, Ready};
use crate::net::listener::{BACKLOG, Listener};
use crate::net::scheduler::policy::{LOOK, Watchdog};
use crate::net::scheduler::queue::{Probe, Queue};
use crate::net::stream::{Peek, Stream};

use arrival::Upstream;
use departure::Departure;
pub(crate) use departure::PORTABLE_BYTES;
use parking::edge;
pub(crate) use parking::{Command, Deadline, Lanes, Parking};
pub(crate) use pool_events::pool_events;

/// Connections beyond the limit of which `BACKLOG` or more come from the kernel's queue: those of operators.
const RESERVE: usize = 64;
/// A kernel's queue that is longer is taken over in several goes.
const LONGEST_QUEUE: i32 = 1 << 16;
/// Deadlines are kept to this grain: the sweep looks at all of them once a tick.
const TICK: Duration = Duration::from_millis(250);
/// New connections per listener and turn, so that they can't starve the parked ones.
const ACCEPTS_PER_TURN: usize = 64;
/// After an accept that failed for want of something.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Workers that take nothing for so many times what may be waited for them are stuck.
const STUCK: u32 = 4;

/// A limit that is reached is said so often.
const FULL_SAID: Duration = Duration::from_secs(10);

/// Keys of what is no connection: no slot has this index.
const SPECIAL: u64 = 0xFFFF_FFFF;
const BELL: u64 = SPECIAL;
const SUCCESSOR: u64 = 1 << 32 | SPECIAL;
const FIRST_LISTENER: u64 = 2;
const FIRST_UPSTREAM: u64 = 1 << 16;

/// Packets of one predecessor in a turn, so that they can't starve what is here already.
const PACKETS_PER_TURN: usize = 16;

/// What the acceptor tells the control loop.
#[derive(Debug)]
pub(crate) enum News {
    ListenersClosed,
    Drained,
    Checked(Result<(), String>),
}

/// What an acceptor is made of.
pub(crate) struct Acceptor<P> {
    parking: Arc<Parking<P>>,
    listeners: Vec<Polled>,
    lanes: Vec<Lane<P>>,
    queue_wait: Duration,
    /// Connections, those of reserved listeners aside.
    limit: usize,
    per_listener: usize,
    per_peer: Option<usize>,
    /// When it was last said that a limit is reached.
    full_said: Option<Instant>,
    phase: PhaseWatch,
    generation: u32,
    descriptors: Budget,
    counters: Arc<CachePadded<Counters>>,
    /// The answer to who waited too long for a worker.
    busy: Box<dyn FnMut() -> Vec<u8> + Send>,
    news: Arc<dyn Fn(News) + Send + Sync>,
    accepting: bool,
    /// At the connection limit: no listener is polled until a place is free.
    full: bool,
    /// Accepts in a row that failed for what each connection has.
    lost_in_a_row: usize,
    /// After a failed accept: no listener is polled until then.
    pause_until: Option<Instant>,
    back_off: Duration,
    /// Told to close the listeners, and the control loop waits to hear that they are.
    closing: bool,
    draining: bool,
    /// How long an idle connection is kept in a drain.
    grace: Duration,
    drained: bool,
    /// Closing connections that have more to say than was dropped in one go.
    lingering: Vec<Box<Connection<P>>>,
    next_sweep: Instant,
    /// All listeners there were, closed ones too: what connections came by.
    listed: Vec<Listed>,
    departure: Option<Departure<P>>,
    /// Connections the successor has, once any was sent.
    delivered: Option<usize>,
    /// Taken on their event, to go to the successor.
    leaving: Vec<Box<Connection<P>>>,
    /// From where on parked connections are to be looked at for the successor.
    look_from: Option<usize>,
    upstreams: BTreeMap<u64, Upstream>,
    next_upstream: u64,
    all_counters: AllCounters,
    /// What the successor has been told to add to its counters.
    told: BTreeMap<String, u64>,
}

struct Polled {
    listener: Listener,
    /// Among all there were.
    place: usize,
    polled: bool,
    /// It has as many connections as it may.
    full: bool,
    /// A successor has it, too.
    adopted: bool,
    /// It is being closed: served until then at least, and until nobody waits on it.
    closing: Option<Instant>,
    /// Of operators, who want to see the drain: closed when all else is at its end.
    stays: bool,
}

/// Operators are answered at the connection limit, too; and who waits on a listener that is being closed
/// would be reset.
fn has_reserve(polled: &Polled) -> bool {
    polled.listener.wanted.reserved || polled.closing.is_some()
}

/// How a connection's listener is named in another process.
struct Listed {
    /// The successor is told the first.
    names: Vec<String>,
    /// Of those with the first name.
    nth: usize,
    site: usize,
    unix: bool,
    tls: bool,
}

/// A queue, what is to be pushed to it, and what the last look at it showed.
struct Lane<P> {
    queue: Arc<Queue<Ready<P>>>,
    batch: Vec<Ready<P>>,
    watchdog: Watchdog,
    /// Whether it is looked at again soon.
    watched: bool,
}

/// Why an accept failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    NobodyWaits,
    /// It was reset while it waited, its network is gone, a firewall forbids it: the next may be had.
    OfConnection,
    /// The next fails, too, until something changes.
    Lasting,
}

impl Failure {
    fn of(e: &io::Error) -> Failure {
        match e.raw_os_error() {
            // The latter of one that is shut, and has been served empty.
            Some(libc::EAGAIN | libc::EINVAL) => Failure::NobodyWaits,
            Some(
                libc::EINTR
                | libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EPERM
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::EOPNOTSUPP
                | libc::ETIMEDOUT,
            ) => Failure::OfConnection,
            _ => Failure::Lasting,
        }
    }
}

/// What the server gives an acceptor.
pub(crate) struct Setup<P> {
    pub(crate) parking: Arc<Parking<P>>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) queues: Vec<Arc<Queue<Ready<P>>>>,
    pub(crate) queue_wait: Duration,
    pub(crate) limits: Limits,
    pub(crate) phase: PhaseWatch,
    pub(crate) generation: u32,
    /// What requests may have beyond their connections' descriptors.
    pub(crate) descriptors: Budget,
    pub(crate) all_counters: AllCounters,
    pub(crate) busy: Box<dyn FnMut() -> Vec<u8> + Send>,
    pub(crate) news: Arc<dyn Fn(News) + Send + Sync>,
}

impl<P: Portable> Acceptor<P> {
    pub(crate) fn new(setup: Setup<P>) -> Acceptor<P> {
        let polled = |(place, listener)| Polled {
            listener,
            place,
            polled: false,
            full: false,
            adopted: false,
            closing: None,
            stays: false,
        };
        let mut listed: Vec<Listed> = Vec::new();
        for listener in &setup.listeners {
            let nth = listed.iter().filter(|other| other.names.first() == listener.names.first()).count();
            let (names, unix, tls) = (listener.names.clone(), listener.is_unix(), listener.is_tls());
            listed.push(Listed { names, nth, site: listener.wanted.site, unix, tls });
        }
        let lane = |queue| Lane {
            queue,
            batch: Vec::new(),
            watchdog: Watchdog::new(Instant::now()),
            watched: false,
        };
        Acceptor {
            parking: setup.parking,
            listeners: setup.listeners.into_iter().enumerate().map(polled).collect(),
            lanes: setup.queues.into_iter().map(lane).collect(),
            queue_wait: setup.queue_wait,
            limit: setup.limits.connections,
            per_listener: setup.limits.connections_per_listener.unwrap_or(usize::MAX),
            per_peer: setup.limits.connections_per_peer,
            full_said: None,
            phase: setup.phase,
            generation: setup.generation,
            descriptors: setup.descriptors,
            counters: setup.all_counters.register(),
            busy: setup.busy,
            news: setup.news,
            accepting: false,
            full: false,
            lost_in_a_row: 0,
            pause_until: None,
            back_off: BACK_OFF.0,
            closing: false,
            draining: false,
            grace: Duration::ZERO,
            drained: false,
            lingering: Vec::new(),
            next_sweep: Instant::now() + TICK,
            listed,
            departure: None,
            delivered: None,
            leaving: Vec::new(),
            look_from: None,
            upstreams: BTreeMap::new(),
            next_upstream: FIRST_UPSTREAM,
            all_counters: setup.all_counters,
            told: BTreeMap::new(),
        }
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// When it can't wait for events.
    pub(crate) fn run(mut self) -> io::Result<()> {
        // A worker is not preempted by this thread, which finds several connections when it runs: 9 % of the CPU of a new
        // connection. On a core that is computed on without end it runs a time slice later, about 3 ms.
        sys::wake_politely();
        let mut events = [EpollEvent::empty(); 256];
        loop {
            let timeout = self.timeout();
            let n = match self.parking.poller.wait(&mut events, timeout) {
                Ok(n) => n,
                Err(nix::Error::EINTR) => 0,
                // Nothing sane makes this fail; a loop that spins would hide it.
                Err(e) => return Err(e.into()),
            };
            for event in &events[..n] {
                match event.data() {
                    BELL => {
                        // Silenced before the commands are taken: a later one rings again.
                        let _ = self.parking.bell.read();
                        if !self.obey() {
                            return Ok(());
                        }
                    }
                    SUCCESSOR => self.hear_successor(),
                    special => match special >> 32 {
                        upstream @ FIRST_UPSTREAM.. => self.hear_upstream(upstream),
                        listener => self.accept(listener.wrapping_sub(FIRST_LISTENER) as usize),
                    },
                }
            }
            for connection in std::mem::take(&mut self.lingering) {
                self.linger(connection);
            }
            self.depart();
            self.push_batches();
            let now = Instant::now();
            self.watch_pools(now);
            if now >= self.next_sweep {
                self.sweep(now);
                self.renew_credit();
                self.push_batches();
                self.next_sweep = now + TICK;
            }
            if self.pause_until.is_some_and(|until| now >= until) {
                self.pause_until = None;
                self.poll_listeners();
            }
            self.close_served_listeners(now);
            self.watch_for_ends();
        }
    }

    fn timeout(&self) -> EpollTimeout {
        if !self.lingering.is_empty() {
            return EpollTimeout::ZERO;
        }
        if self.lanes.iter().any(|lane| lane.watched) {
            return EpollTimeout::try_from(LOOK).unwrap_or(EpollTimeout::ZERO);
        }
        // Between generations there may be something to try again, with nothing open here.
        let ticks = self.parking.open() > 0 || self.departure.is_some() || !self.upstreams.is_empty();
        let sweep = ticks.then_some(self.next_sweep);
        // No listener is looked at in a pause.
        let closing = self.listeners.iter().filter_map(|polled| polled.closing).min();
        let accepting = self.pause_until.or(closing);
        poll_timeout(sweep.into_iter().chain(accepting).min())
    }

    /// Looks at the pools: wakes workers for what waits, and collects events for which no worker waits.
    fn watch_pools(&mut self, now: Instant) {
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            let decision = lane.queue.look(&mut lane.watchdog, now);
            lane.watched = decision.watch;
            if decision.collect {
                self.collect(index);
            }
        }
        self.push_batches();
    }

    /// Queues the connections of a pool that are ready now.
    fn collect(&mut self, pool: usize) {
        let parking = Arc::clone(&self.parking);
        let outcome = parking.poller_of_pool(pool).wait(EpollTimeout::ZERO, |events| {
            for connection in events.iter().filter_map(|event| parking.take_ready(event)) {
                self.on_event(connection);
            }
        });
        if let Err(e) = outcome {
            error!("the acceptor can't collect events: {e}");
        }
    }

    fn on_event(&mut self, connection: Box<Connection<P>>) {
        if connection.lingering().is_some() {
            return self.linger(connection);
        }
        if !connection.may_have_ended && self.can_leave(&connection) {
            return self.leaving.push(connection);
        }
        self.queue(connection);
    }

    fn queue(&mut self, connection: Box<Connection<P>>) {
        self.queue_for(Cause::Event, connection);
    }

    fn queue_for(&mut self, cause: Cause, connection: Box<Connection<P>>) {
        let lane = self.parking.lane_of(connection.site);
        self.lanes[lane].batch.push(Ready::new(connection, cause));
    }

    fn push_batches(&mut self) {
        for lane in &mut self.lanes {
            lane.queue.push(&mut lane.batch);
        }
    }

    /// Once a tick: what has waited too long, parked or queued.
    fn sweep(&mut self, now: Instant) {
        if self.draining {
            // Who was about to park when the drain began may not have known.
            self.hasten_idle();
        }
        let ticks = self.parking.ticks(now) - 1;
        for mut connection in self.parking.slots.take_expired(ticks) {
            // What came in the last moment is read first; a response is not helped by that.
            let came = || connection.stream.peek() == Peek::Bytes;
            match connection.activity {
                Activity::Lingering(lingering) => self.end(lingering.reason, connection),
                Activity::Idle { .. } | Activity::Receiving if came() => self.queue(connection),
                Activity::Idle { .. } if !P::OPAQUE => {
                    let reason = if self.draining { CloseReason::Grace } else { CloseReason::Idle };
                    connection.begin_end_of_idle(reason);
                    self.linger(connection);
                }
                Activity::Idle { .. } | Activity::Receiving | Activity::Responding(_) => {
                    self.queue_for(Cause::Expired, connection);
                }
            }
        }
        for lane in 0..self.lanes.len() {
            // A request's time in the queue begins here at the latest, though all workers are in handlers.
            if !self.lanes[lane].queue.is_polled() {
                self.collect(lane);
            }
        }
        let Some(limit) = now.checked_sub(self.queue_wait) else { return };
        let stuck = now.checked_sub(self.queue_wait.saturating_mul(STUCK));
        for lane in 0..self.lanes.len() {
            // A response is not cut because others went first, while workers come by.
            let queue = &self.lanes[lane].queue;
            let expired = queue.expired(limit, stuck, |one| {
                one.cause == Cause::Yielded && matches!(one.connection.activity, Activity::Responding(_))
            });
            for one in expired {
                self.refuse(one.connection);
            }
        }
    }

    /// Answers what no worker had time for.
    fn refuse(&mut self, mut connection: Box<Connection<P>>) {
        match connection.activity {
            Activity::Lingering(_) => return self.linger(connection),
            Activity::Responding(cut) => {
                // A worker has to drop its source, which is the user's. The client need not wait for that.
                if cut == Cut::ShownByFraming {
                    connection.stream.shutdown();
                }
                return self.queue_for(Cause::Expired, connection);
            }
            Activity::Idle { .. } | Activity::Receiving => {}
        }
        if !P::OPAQUE && connection.guard.is_none() && connection.buffered.is_empty() {
            match connection.stream.peek() {
                Peek::Bytes => {}
                Peek::End => return self.end(CloseReason::ClientClosed, connection),
                Peek::Nothing => return self.rest(connection),
            }
        }
        self.say_busy(&connection);
        connection.begin_lingering(CloseReason::Overload);
        self.linger(connection);
    }

    fn say_busy(&mut self, connection: &Connection<P>) {
        let _ = connection.stream.write(&(self.busy)());
        if !P::OPAQUE {
            self.counters.response(503);
        }
    }

    fn linger(&mut self, mut connection: Box<Connection<P>>) {
        while let Some(lingering) = connection.lingering() {
            match connection.linger_on() {
                Linger::Over => return self.end(lingering.reason, connection),
                // Others first.
                Linger::More => return self.lingering.push(connection),
                Linger::Drained => match self.parking.park(connection, Deadline::At(lingering.until)) {
                    Ok(()) => return,
                    Err(back) => connection = back,
                },
            }
        }
    }

    /// Parks a connection between two requests.
    fn rest(&mut self, mut connection: Box<Connection<P>>) {
        let since = connection.idle_since();
        if let Err(ready) = self.parking.park(connection, Deadline::Idle(since)) {
            self.queue(ready);
        }
    }

    fn end(&mut self, reason: CloseReason, connection: Box<Connection<P>>) {
        debug!("connection closed: {reason}");
        if connection.lingering().is_none() {
            connection.stream.shutdown_write();
        }
        self.counters.closed(reason);
        self.parking.close(connection);
    }

    fn accept(&mut self, place: usize) {
        let Some(index) = self.listeners.iter().position(|polled| polled.place == place) else { return };
        let reserved = has_reserve(&self.listeners[index]);
        for _ in 0..ACCEPTS_PER_TURN {
            if !reserved && self.parking.counts.of_listener(place) >= self.per_listener {
                let name = &self.listeners[index].listener.wanted.name;
                let what = format!("{} connections on {name}", self.per_listener);
                self.say_full(&what);
                self.listeners[index].full = true;
                return self.poll_listeners();
            }
            if !reserved && self.parking.open() >= self.limit {
                self.say_full(&format!("{} connections", self.limit));
                self.full = true;
                return self.poll_listeners();
            }
            if !self.accept_one(index) {
                return;
            }
        }
    }

    /// Not each time: at a limit one is accepted for each that ends.
    fn say_full(&mut self, what: &str) {
        let now = Instant::now();
        if self.full_said.is_none_or(|said| now.saturating_duration_since(said) >= FULL_SAID) {
            warn!("at the limit of {what}: accepting again when a connection ends");
            self.full_said = Some(now);
        }
    }

    /// False when no more can be accepted now.
    fn accept_one(&mut self, index: usize) -> bool {
        let Some(polled) = self.listeners.get(index) else { return false };
        let Some(slot) = self.parking.slots.claim() else {
            self.pause("the reserve of connection slots is used up");
            return false;
        };
        match polled.listener.accept() {
            Ok((stream, peer)) => {
                self.back_off = BACK_OFF.0;
                self.lost_in_a_row = 0;
                let place = (polled.place, polled.listener.wanted.site);
                let conn_info = Arc::new(self.conn_info(peer, &stream));
                self.counters.accepted();
                let of_peer = self.parking.counts.enter(place.0, peer);
                let connection = Box::new(Connection::new(stream, slot, place, conn_info, P::default()));
                if self.per_peer.is_some_and(|most| of_peer > most) {
                    self.turn_away(connection);
                } else if P::OPAQUE {
                    self.queue(connection);
                } else {
                    self.admit(connection);
                }
                true
            }
            Err(e) => {
                self.parking.slots.release(slot);
                self.accept_failed(&e)
            }
        }
    }

    /// One more than its peer may have. It is not lingered for: that would let it have one more.
    fn turn_away(&mut self, mut connection: Box<Connection<P>>) {
        debug!("a peer is at its connection limit");
        self.say_busy(&connection);
        connection.begin_lingering(CloseReason::PeerLimit);
        connection.linger_on();
        self.end(CloseReason::PeerLimit, connection);
    }

    fn conn_info(&self, peer: Option<SocketAddr>, stream: &Stream) -> ConnInfo {
        let socket = Some(stream.socket());
        let descriptors = Some(self.descriptors.clone());
        ConnInfo { socket, descriptors, ..ConnInfo::new(peer, self.phase.clone(), self.generation) }
    }

    fn admit(&mut self, connection: Box<Connection<P>>) {
        let slot = connection.slot;
        let event = EpollEvent::new(edge(), slot.to_bits());
        // Registered while away: an event from now on is kept in the slot.
        if let Err(e) = self.parking.poller_of(connection.site).add(&connection.stream, event) {
            warn!("can't watch a new connection: {e}");
            return self.end(CloseReason::Broken, connection);
        }
        if connection.buffered.is_empty() { self.rest(connection) } else { self.queue(connection) }
    }

    /// No accept error ends the acceptor. True to go on at once.
    fn accept_failed(&mut self, e: &io::Error) -> bool {
        let failure = Failure::of(e);
        self.lost_in_a_row = if failure == Failure::OfConnection { self.lost_in_a_row + 1 } else { 0 };
        match failure {
            Failure::NobodyWaits => false,
            // So many in a row are of more than one: a sandbox, say.
            Failure::OfConnection if self.lost_in_a_row < ACCEPTS_PER_TURN => true,
            Failure::OfConnection | Failure::Lasting => {
                self.lost_in_a_row = 0;
                self.pause(e);
                false
            }
        }
    }

    /// Accepts nothing for a while.
    fn pause(&mut self, why: impl std::fmt::Display) {
        if self.back_off == BACK_OFF.0 {
            warn!("can't accept: {why}: retrying until it works");
        }
        self.pause_until = Some(Instant::now() + self.back_off);
        self.back_off = (self.back_off * 2).min(BACK_OFF.1);
        self.poll_listeners();
    }

    /// Polls the listeners that should be, and only those.
    fn poll_listeners(&mut self) {
        for index in 0..self.listeners.len() {
            let polled = &self.listeners[index];
            let open = polled.closing.is_some() || polled.stays || (self.accepting && !polled.adopted);
            let room = !polled.full && (!self.full || has_reserve(polled));
            let wanted = open && self.pause_until.is_none() && (room || polled.closing.is_some());
            if wanted == polled.polled {
                continue;
            }
            let fd = polled.listener.fd.as_fd();
            let key = (polled.place as u64 + FIRST_LISTENER) << 32 | SPECIAL;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, key);
            let changed =
                if wanted { self.parking.poller.add(fd, event) } else { self.parking.poller.delete(fd) };
            match changed {
                Ok(()) => self.listeners[index].polled = wanted,
                Err(e) => error!("can't change the watch on {}: {e}", polled.listener.wanted.name),
            }
        }
    }

    /// Does what it was told; false to stop.
    fn obey(&mut self) -> bool {
        for command in self.parking.commands() {
            match command {
                Command::Accept => {
                    self.accepting = true;
                    for polled in &mut self.listeners {
                        polled.adopted = false;
                        polled.listener.claim();
                    }
                    self.poll_listeners();
                }
                Command::Pause { adopted } => {
                    for polled in &mut self.listeners {
                        polled.adopted = polled.listener.is_among(&adopted);
                    }
                    self.poll_listeners();
                }
                Command::CloseShared { shared } => {
                    self.close_listeners(|listener| !listener.is_among(&shared))
                }
                Command::CloseLast => self.close_listeners(|_| true),
                Command::HandConnections { channel, adopted } => self.begin_departure(channel, &adopted),
                Command::TakeConnections(channel) => self.watch_upstream(Upstream::new(channel, 0)),
                Command::Drain { grace } => self.drain(grace),
                Command::Check => self.check(),
                Command::Stop => {
                    self.pass_on_counts();
                    self.cut_parked();
                    return false;
                }
            }
        }
        true
    }

    /// Closes all listeners, those of operators when there is nothing else any more. Those that are the last of
    /// their kind are first shut to who is new, and served empty: what the kernel has accepted for us would
    /// be reset.
    fn close_listeners(&mut self, is_last: impl Fn(&Listener) -> bool) {
        self.accepting = false;
        self.closing = true;
        let now = Instant::now();
        for mut polled in std::mem::take(&mut self.listeners) {
            if is_last(&polled.listener) {
                polled.stays = polled.listener.wanted.reserved;
                if !polled.stays {
                    polled.closing = Some(now + polled.listener.refuse_new());
                }
                self.listeners.push(polled);
            } else {
                self.close_listener(&polled);
            }
        }
        self.poll_listeners();
    }

    /// Closes the listeners whose time has come, when nobody waits on them any more.
    fn close_served_listeners(&mut self, now: Instant) {
        let is_due = |polled: &Polled| polled.closing.is_some_and(|until| until <= now);
        while let Some(index) = self.listeners.iter().position(is_due) {
            if self.pause_until.is_none() {
                while self.accept_one(index) {}
            }
            if self.pause_until.is_some() {
                // Who waits would be reset: they are taken when there is room.
                return;
            }
            let polled = self.listeners.remove(index);
            self.close_listener(&polled);
            polled.listener.shut();
            info!("listener {} is closed", polled.listener.address());
        }
        if self.closing && self.listeners.iter().all(|polled| polled.stays) {
            self.closing = false;
            (self.news)(News::ListenersClosed);
        }
    }

    /// Deregisters what is then dropped: the socket lives on if another process has it.
    fn close_listener(&self, polled: &Polled) {
        if polled.polled {
            let _ = self.parking.poller.delete(polled.listener.fd.as_fd());
        }
    }

    fn drain(&mut self, grace: Duration) {
        self.draining = true;
        self.grace = grace;
        let ticks = u32::try_from(grace.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX).max(1);
        // First the rule for who parks from now on, then those who are parked.
        self.parking.grace.store(ticks, Ordering::Relaxed);
        let over = self.parking.ticks(Instant::now()).saturating_add(ticks);
        self.parking.grace_over.store(over, Ordering::Relaxed);
        self.hasten_idle();
        info!("{} connections open; idle ones are kept for {grace:?} more", self.parking.open());
    }

    /// No idle connection is kept for longer than the grace from now.
    fn hasten_idle(&self) {
        let grace = self.parking.grace.load(Ordering::Relaxed);
        let limit = self.parking.ticks(Instant::now()).saturating_add(grace);
        self.parking.slots.redate(|connection, deadline| {
            // Nothing is owed to who has its answer and does not send the rest of its request.
            let ends_early =
                matches!(connection.activity, Activity::Idle { .. } | Activity::Responding(Cut::Complete));
            if ends_early { deadline.min(limit) } else { deadline }
        });
    }

    /// Asks to be told of each end that matters, then looks whether it has come: in this order, so
    /// that an end between the two is not missed.
    fn watch_for_ends(&mut self) {
        let one_is_full = self.listeners.iter().any(|polled| polled.full);
        self.parking.wanted.store(self.draining || self.full || one_is_full, Ordering::SeqCst);
        if one_is_full {
            for polled in &mut self.listeners {
                let of_it = self.parking.counts.of_listener(polled.place);
                polled.full = !has_reserve(polled) && of_it >= self.per_listener;
            }
            self.poll_listeners();
        }
        if self.full && self.parking.open() < self.limit {
            self.full = false;
            self.poll_listeners();
        }
        let all_arrived = self.departure.as_ref().is_none_or(Departure::is_empty);
        if !self.draining || self.drained || self.closing || self.parking.open() > 0 || !all_arrived {
            return;
        }
        for polled in &mut self.listeners {
            polled.closing.get_or_insert_with(|| Instant::now() + polled.listener.refuse_new());
        }
        self.poll_listeners();
        if self.listeners.is_empty() {
            self.drained = true;
            self.pass_on_counts();
            if let Some(delivered) = self.delivered {
                info!("handover: {delivered} connections went to the successor");
            }
            (self.news)(News::Drained);
        }
    }

    /// At the drain deadline: the log names each connection that is left, though the process may live on.
    fn cut_parked(&mut self) {
        for connection in self.parking.slots.take_expired(u32::MAX) {
            let Activity::Responding(cut) = connection.activity else {
                self.end(CloseReason::Grace, connection);
                continue;
            };
            // As in `refuse`; and where only the end ends it, an orderly one would make it look whole.
            match cut {
                Cut::ShownByFraming => connection.stream.shutdown(),
                Cut::ShownByReset => connection.stream.reset_on_close(),
                Cut::Complete => {}
            }
            self.queue_for(Cause::Expired, connection);
        }
        self.push_batches();
    }

    /// We live, or this would not run; a worker of each pool shows that it does, unless all are in
    /// handlers.
    fn check(&mut self) {
        let left = Arc::new(Mutex::new(self.lanes.len()));
        let answered = |news: &Arc<dyn Fn(News) + Send + Sync>| {
            let (left, news) = (Arc::clone(&left), Arc::clone(news));
            move || {
                let mut left = lock(&left);
                *left -= 1;
                if *left == 0 {
                    news(News::Checked(Ok(())));
                }
            }
        };
        for lane in &self.lanes {
            if let Err(Probe(all_busy)) = lane.queue.probe(Probe(Box::new(answered(&self.news)))) {
                all_busy();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_accept_that_failed_means() {
        let table: &[(Failure, &[i32])] = &[
            (Failure::NobodyWaits, &[libc::EAGAIN, libc::EINVAL]),
            (Failure::Lasting, &[libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM]),
            (Failure::OfConnection, &[libc::EINTR, libc::ECONNABORTED, libc::ECONNRESET, libc::ETIMEDOUT]),
            // By a firewall.
            (Failure::OfConnection, &[libc::EPERM, libc::EPROTO, libc::ENOPROTOOPT, libc::EOPNOTSUPP]),
            // Of its network: accept(2) has these treated as EAGAIN.
            (Failure::OfConnection, &[libc::ENETDOWN, libc::ENETUNREACH, libc::EHOSTDOWN]),
            (Failure::OfConnection, &[libc::EHOSTUNREACH, libc::ENONET]),
            // What should not be is not tried without end at once.
            (Failure::Lasting, &[libc::EBADF, libc::ENOSYS, libc::ENOTSOCK, libc::EFAULT]),
        ];
        for (means, errors) in table {
            for errno in *errors {
                let e = io::Error::from_raw_os_error(*errno);
                assert_eq!(Failure::of(&e), *means, "{e}");
            }
        }
        assert_eq!(Failure::of(&io::Error::other("without a number")), Failure::Lasting);
    }
}
