//! What becomes of a connection that no worker has: the acceptor's thread queues it for a worker, parks it, sends it to the
//! successor, or ends it. `timeouts` decides when idle ones are closed. Workers park by themselves (`parking`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollTimeout;

use super::Setup;
use super::accepting::{Accepted, Accepting, Refused};
use super::parking::{Deadline, Lingered, Parking};
use super::pool_events::{EVENTS, NO_EVENTS, PoolEvent};
use super::pools::Pools;
use crate::base::close_reason::CloseReason;
use crate::base::history::millis;
#[cfg(feature = "proxy")]
use crate::base::log::warn;
use crate::base::log::{debug, error, info};
use crate::base::phase::Phase;
use crate::base::status::Counters;
use crate::net::connection::{Activity, Cause, Connection, Cut, Lingering, Portable, Ready};
use crate::net::transfer::is_portable;

/// How often events are taken for a pool whose workers are busy, in one turn of the acceptor.
const COLLECTS_PER_TURN: usize = 16;

/// How often the log says that connections are turned away.
#[cfg(feature = "proxy")]
const LOG_PAUSE: Duration = Duration::from_secs(10);

pub(crate) struct Connections<P> {
    pub(crate) parking: Arc<Parking<P>>,
    pub(super) pools: Pools<P>,
    pub(super) counters: Arc<Counters>,
    pub(crate) accepting: Arc<Accepting<P>>,
    /// The answer to a connection for which no worker had time.
    busy: Box<dyn FnMut() -> Vec<u8> + Send>,
    pub(super) queue_wait: Duration,
    /// When the log last said that a connection did not come from a trusted proxy.
    #[cfg(feature = "proxy")]
    stranger_logged: Option<Instant>,
    /// Connections that linger, and have sent more bytes than are dropped in one step.
    lingering: Vec<Box<Connection<P>>>,
}

impl<P: Portable> Connections<P> {
    pub(crate) fn new(setup: Setup<P>) -> Connections<P> {
        let of_accepts = setup.all_counters.register();
        let accepting = Accepting::new(setup.listeners, &setup.limits, setup.process, of_accepts);
        let accepting = setup.parking.accept_by(Arc::new(accepting));
        Connections {
            accepting,
            parking: setup.parking,
            pools: Pools::new(setup.queues),
            counters: setup.all_counters.register(),
            busy: setup.busy,
            queue_wait: setup.queue_wait,
            #[cfg(feature = "proxy")]
            stranger_logged: None,
            lingering: Vec::new(),
        }
    }

    /// Queues connections that this thread has accepted, or parks them.
    pub(super) fn queue_new(&mut self, accepted: Accepted<P>) {
        for connection in accepted {
            if P::OPAQUE || self.pools.has_free_worker(self.parking.pool_of(connection.handler_index)) {
                // Its first request has mostly arrived: a worker reads before the connection is registered anywhere.
                self.queue(connection);
            } else {
                // One that sends nothing does not wait for a worker, and none waits in front of those that are registered.
                self.admit(connection);
            }
        }
    }

    /// Ends the connections that were accepted and are refused.
    pub(super) fn end_refused(&mut self) {
        for Refused { reason, connection } in self.accepting.take_refused() {
            match reason {
                #[cfg(feature = "proxy")]
                CloseReason::ProxyHeader => self.turn_stranger_away(connection),
                _ => self.turn_away(connection),
            }
        }
    }

    /// Parks a connection that another process had, or queues it if it has part of a request.
    pub(crate) fn admit(&mut self, connection: Box<Connection<P>>) {
        if connection.has_part() { self.queue(connection) } else { self.park_idle(connection) }
    }

    /// Looks at the pools: workers are woken for work that waits, and events are collected for which no worker waits.
    pub(super) fn watch_pools(&mut self, now: Instant) {
        for pool in 0..self.pools.count() {
            if self.pools.look(pool, now) {
                self.collect(pool);
            }
        }
        self.pools.push_batches();
    }

    /// Queues the connections of a pool that are ready now, and accepts for it. Several rounds, because one takes few of each; if
    /// more may be left, the next look continues.
    pub(super) fn collect(&mut self, pool: usize) {
        let more = self.collect_some(pool);
        self.pools.set_unfinished(pool, more);
    }

    /// Whether more may be left.
    fn collect_some(&mut self, pool: usize) -> bool {
        let parking = Arc::clone(&self.parking);
        let mut room = NO_EVENTS;
        for _ in 0..COLLECTS_PER_TURN {
            let events = match parking.poller_of_pool(pool).wait(EpollTimeout::ZERO, &mut room) {
                Ok(events) => events,
                Err(e) => {
                    error!("the acceptor can't collect events: {e}");
                    return false;
                }
            };
            let mut has_new = false;
            for event in events {
                match PoolEvent::of(event) {
                    PoolEvent::Interrupt => {}
                    PoolEvent::Listener(place) => {
                        has_new = true;
                        let mut accepted = Vec::new();
                        parking.accept(place, &mut accepted);
                        self.queue_new(accepted);
                    }
                    PoolEvent::Connection => {
                        if let Some(connection) = parking.take_ready(event) {
                            self.take_event(connection);
                        }
                    }
                }
            }
            if events.len() < EVENTS && !has_new {
                return false;
            }
        }
        true
    }

    fn take_event(&mut self, connection: Box<Connection<P>>) {
        let outbox = &self.parking.outbox;
        if connection.lingering().is_some() {
            self.linger(connection);
        } else if !connection.poll.may_have_ended && outbox.takes_now(&connection) && is_portable(&connection)
        {
            outbox.push(connection);
        } else {
            self.queue(connection);
        }
    }

    pub(crate) fn queue(&mut self, connection: Box<Connection<P>>) {
        self.queue_for(Cause::Event, connection);
    }

    pub(super) fn queue_for(&mut self, cause: Cause, connection: Box<Connection<P>>) {
        self.pools.add(self.parking.pool_of(connection.handler_index), Ready::new(connection, cause));
    }

    /// Refuses a connection of a peer that has too many. It does not linger: the peer would have one more for that time.
    fn turn_away(&mut self, mut connection: Box<Connection<P>>) {
        debug!("a peer is at its connection limit");
        self.answer_busy(&connection);
        self.begin_lingering(CloseReason::PeerLimit, &mut connection);
        connection.linger_on();
        self.end(CloseReason::PeerLimit, connection);
    }

    /// Its listener takes connections of trusted proxies alone. Logged at most every ten seconds.
    #[cfg(feature = "proxy")]
    fn turn_stranger_away(&mut self, connection: Box<Connection<P>>) {
        let now = Instant::now();
        if self.stranger_logged.is_none_or(|at| now.saturating_duration_since(at) >= LOG_PAUSE) {
            self.stranger_logged = Some(now);
            let listener = connection.conn_info.listener.as_ref().map_or("", |listener| &listener.name);
            match connection.conn_info.peer {
                Some(peer) => warn!("{listener}: a connection from {peer} is closed: not a trusted proxy"),
                None => warn!("{listener}: a connection is closed: not a trusted proxy"),
            }
        }
        self.end(CloseReason::ProxyHeader, connection);
    }

    pub(super) fn answer_busy(&mut self, connection: &Connection<P>) {
        let _ = connection.stream.write(&(self.busy)());
        if !P::OPAQUE {
            self.counters.response(503);
        }
    }

    /// Drops more bytes of the connections that linger.
    pub(super) fn linger_all(&mut self) {
        for connection in std::mem::take(&mut self.lingering) {
            self.linger(connection);
        }
    }

    pub(super) fn some_linger(&self) -> bool {
        !self.lingering.is_empty()
    }

    pub(super) fn linger(&mut self, connection: Box<Connection<P>>) {
        let Some(Lingering { reason, .. }) = connection.lingering() else { return };
        match self.parking.linger(connection) {
            Lingered::Parked => {}
            Lingered::More(connection) => self.lingering.push(connection),
            Lingered::Over(connection) => self.end(reason, connection),
        }
    }

    pub(super) fn park_idle(&mut self, mut connection: Box<Connection<P>>) {
        let since = connection.idle_since();
        if let Err(ready) = self.parking.park(connection, Deadline::Idle(since)) {
            self.queue(ready);
        }
    }

    /// Ends a connection that no worker has; it may still send.
    pub(super) fn begin_lingering(&self, reason: CloseReason, connection: &mut Connection<P>) {
        self.counters.ends(reason, || connection.about(String::new()));
        connection.begin_lingering(reason);
    }

    pub(crate) fn end(&mut self, reason: CloseReason, connection: Box<Connection<P>>) {
        debug!("connection closed: {reason}");
        if connection.lingering().is_none() {
            self.counters.ends(reason, || connection.about(String::new()));
            connection.stream.shutdown_write();
        }
        self.counters.closed(reason);
        self.parking.close(connection);
    }

    /// Ends our part of a connection that the successor has acknowledged.
    pub(crate) fn handed_over(&mut self, connection: Box<Connection<P>>) {
        self.counters.handed_over();
        self.parking.close(connection);
    }

    /// Ends our part of a connection that the successor may own: the socket is closed here and not shut, which would act on
    /// the successor's too.
    pub(crate) fn give_up(&mut self, connection: Box<Connection<P>>) {
        self.counters.ends(CloseReason::Broken, || connection.about(String::new()));
        self.counters.closed(CloseReason::Broken);
        self.parking.close(connection);
    }

    /// Counts a TLS connection that could not move.
    pub(crate) fn note_kept(&self, connection: &Connection<P>) {
        self.parking.outbox.note_kept(connection, &self.counters);
    }

    pub(super) fn has_handed_over(&self) -> bool {
        self.accepting.factory.process.drain.watch().get() == Phase::HandedOver
    }

    pub(super) fn begin_drain(&mut self, grace: Duration) {
        self.parking.drain.start(grace, self.parking.ticks.now());
        self.parking.hasten_idle();
        let connections = self.parking.open();
        info!(
            "{connections} connections open; idle ones are kept for {grace:?} more";
            connections = connections,
            duration_ms = millis(grace)
        );
        if let Some(end) = self.accepting.factory.process.drain.watch().spread_end() {
            let time = end.saturating_duration_since(Instant::now());
            info!(
                "the closes of those that stay are spread over {time:.0?}";
                connections = connections,
                duration_ms = millis(time)
            );
        }
    }

    /// At the drain deadline the log names each remaining connection, although the process may continue to run.
    pub(super) fn cut_all(&mut self) {
        for connection in self.parking.take_expired(u32::MAX) {
            let Activity::Responding(cut) = connection.activity else {
                self.end(CloseReason::Grace, connection);
                continue;
            };
            match cut {
                Cut::ShownByFraming => connection.stream.shutdown(),
                // Our FIN would make the response look complete.
                Cut::ShownByReset => connection.stream.reset_on_close(),
                Cut::Complete => {}
            }
            self.queue_for(Cause::Expired, connection);
        }
        self.pools.push_batches();
    }
}
