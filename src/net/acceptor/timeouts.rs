//! Timeouts of connections that no worker has: an idle connection is closed, a parked one whose deadline has passed goes to a
//! worker, which ends it with the right response, and one that has waited too long for a worker gets a 503 here.

use std::time::Instant;

use super::connections::Connections;
use crate::base::close_reason::CloseReason;
use crate::net::connection::{Activity, Cause, Connection, Cut, Portable, Ready};
use crate::net::stream::Peek;

/// Workers that take nothing for this many times the longest wait in the queue are stuck.
const STUCK: u32 = 4;

impl<P: Portable> Connections<P> {
    /// Once a tick: ends connections that were parked or queued for too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        if self.parking.drain.has_started() {
            // A worker that parked a connection while the drain began may not have known.
            self.parking.hasten_idle();
        }
        let before = self.parking.ticks.at(now).saturating_sub(1);
        for connection in self.parking.take_expired(before) {
            self.expire(connection);
        }
        for pool in 0..self.pools.count() {
            // A request's time in the queue starts here at the latest, even if all workers are in handlers.
            if !self.pools.is_polled(pool) {
                self.collect(pool);
            }
        }
        let Some(limit) = now.checked_sub(self.queue_wait) else { return };
        let stuck = now.checked_sub(self.queue_wait.saturating_mul(STUCK));
        // While workers take connections, a response that waits for its next turn is not cut.
        let stays = |one: &Ready<P>| {
            one.cause == Cause::Yielded && matches!(one.connection.activity, Activity::Responding(_))
        };
        let expired: Vec<_> =
            self.pools.queues().flat_map(|queue| queue.expired(limit, stuck, stays)).collect();
        for one in expired {
            self.refuse(one.connection);
        }
    }

    /// The deadline of a parked connection has passed.
    fn expire(&mut self, mut connection: Box<Connection<P>>) {
        // Bytes that arrived at the last moment are read first, except from a client that sends instead of reading its
        // response.
        let came = || connection.stream.peek() == Peek::Bytes;
        match connection.activity {
            Activity::Lingering(lingering) => self.end(lingering.reason, connection),
            Activity::Idle { .. } | Activity::Receiving if came() => self.queue(connection),
            Activity::Idle { .. } if !P::OPAQUE => {
                let is_drain = self.parking.drain.has_started();
                let reason = if is_drain { CloseReason::Grace } else { CloseReason::Idle };
                if self.has_handed_over() {
                    self.parking.outbox.note_expired(&connection, &self.counters);
                }
                self.counters.ends(reason, || connection.about(String::new()));
                connection.begin_end_of_idle(reason);
                self.linger(connection);
            }
            Activity::Idle { .. } | Activity::Receiving | Activity::Responding(_) => {
                self.queue_for(Cause::Expired, connection);
            }
        }
    }

    /// Ends a connection for which no worker had time.
    fn refuse(&mut self, mut connection: Box<Connection<P>>) {
        match connection.activity {
            Activity::Lingering(_) => return self.linger(connection),
            Activity::Responding(cut) => {
                // A worker has to drop the response's source, which belongs to the user. The client need not wait for that.
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
                Peek::Nothing => return self.park_idle(connection),
            }
        }
        self.answer_busy(&connection);
        self.begin_lingering(CloseReason::Overload, &mut connection);
        self.linger(connection);
    }
}
