//! The listeners: from which ones connections are accepted, the limits of accepting, and how listeners are closed.
//!
//! A listener that is the last of its kind is not closed at once, because the kernel would reset the clients in its
//! accept queue. It is shut to new clients first (`net::listener::barrier`), and served for another moment.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::accept_error::Pauses;
use super::accepting::NewSocket;
use super::parking::Parking;
use super::pool_events::PoolEvent;
use crate::base::limits::Limits;
use crate::base::log::{Escaped, error, info, warn};
use crate::net::listener::Listener;

/// New connections per listener and turn: the events that the same thread has taken wait meanwhile.
pub(super) const ACCEPTS_PER_TURN: usize = 16;
/// How often the log says that a limit is reached.
const FULL_LOGGED: Duration = Duration::from_secs(10);

pub(super) struct Listeners {
    all: Vec<Polled>,
    accepting: bool,
    /// The names of listeners that another generation also has, as it calls them: the successor from PREPARED on, or the
    /// predecessor.
    shared: Vec<String>,
    /// A successor on probation accepts from those that are shared.
    paused: bool,
    /// At the connection limit: no listener is polled until a place is free.
    is_full: bool,
    full_logged: Option<Instant>,
    pauses: Pauses,
    /// All listeners are to be closed, and the control loop waits for that.
    closing: bool,
    /// The limit of connections, except those of reserved listeners.
    limit: usize,
    per_listener: usize,
}

struct Polled {
    listener: Listener,
    /// Its number among all listeners, including closed ones.
    place: usize,
    is_polled: bool,
    /// It has reached its own limit of connections.
    is_full: bool,
    /// It is being closed: it is served at least until then, and until no client waits in its queue.
    closing: Option<Instant>,
    /// A listener of operators, who want to see the drain: it is closed when everything else has ended.
    stays: bool,
}

/// What an accept came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Accepted,
    /// It failed because of one connection. The next one may succeed.
    Failed,
    /// Nobody waits, or accepting pauses.
    Over,
}

impl Polled {
    /// Admin listeners accept even at the connection limit, and so do clients that wait on a listener that is being closed
    /// would be reset.
    fn has_reserve(&self) -> bool {
        self.listener.config.reserved || self.closing.is_some()
    }
}

impl Listeners {
    pub(super) fn new(listeners: Vec<Listener>, limits: &Limits) -> Listeners {
        let polled = |(place, listener)| Polled {
            listener,
            place,
            is_polled: false,
            is_full: false,
            closing: None,
            stays: false,
        };
        Listeners {
            all: listeners.into_iter().enumerate().map(polled).collect(),
            accepting: false,
            shared: Vec::new(),
            paused: false,
            is_full: false,
            full_logged: None,
            pauses: Pauses::new(),
            closing: false,
            limit: limits.connections,
            per_listener: limits.connections_per_listener.unwrap_or(usize::MAX),
        }
    }

    /// Accepts from all of them.
    pub(super) fn open<P>(&mut self, parking: &Parking<P>) {
        (self.accepting, self.paused) = (true, false);
        self.all.iter_mut().for_each(|polled| polled.listener.prepare());
        self.poll(parking);
    }

    pub(super) fn set_shared(&mut self, names: Vec<String>) {
        self.shared = names;
    }

    pub(super) fn shared(&self) -> &[String] {
        &self.shared
    }

    /// Stops accepting from the shared listeners, from which the successor accepts.
    pub(super) fn pause<P>(&mut self, parking: &Parking<P>) {
        self.paused = true;
        self.poll(parking);
    }

    /// Clients wait on this listener. As many are accepted as wait now, without a call that fails because nobody does: that
    /// costs as much as one that succeeds. Another event reports those that come later.
    pub(super) fn accept<P>(&mut self, place: usize, parking: &Parking<P>, mut take: impl FnMut(NewSocket)) {
        // The event may be older than the end of the polling.
        let is_polled = |polled: &Polled| polled.place == place && polled.is_polled;
        let Some(index) = self.all.iter().position(is_polled) else { return };
        let waiting = self.all.get(index).and_then(|polled| polled.listener.waiting());
        // A stack that does not count those of a listener may report none.
        let waiting = waiting.filter(|waiting| *waiting > 0).unwrap_or(usize::MAX);
        let mut left = waiting.min(ACCEPTS_PER_TURN);
        while left > 0 {
            let Some(polled) = self.all.get_mut(index) else { return };
            if !polled.has_reserve() && parking.counts.of_listener(place) >= self.per_listener {
                polled.is_full = true;
                let what = format!("{} connections on {}", self.per_listener, polled.listener.config.name);
                self.log_full(&what);
                return self.poll(parking);
            }
            if !polled.has_reserve() && parking.open() >= self.limit {
                self.is_full = true;
                self.log_full(&format!("{} connections", self.limit));
                return self.poll(parking);
            }
            match self.accept_one(index, parking, &mut take) {
                Outcome::Accepted => left -= 1,
                // The client that waits may not be the one that it concerned, and no other event would report it.
                Outcome::Failed => {}
                Outcome::Over => return,
            }
        }
        if waiting > ACCEPTS_PER_TURN {
            self.report_again(index, parking);
        }
    }

    /// Makes the poller report a listener again, although nobody else may come.
    fn report_again<P>(&self, index: usize, parking: &Parking<P>) {
        let Some(polled) = self.all.get(index) else { return };
        let mut event = PoolEvent::of_listener(polled.place);
        let poller = parking.poller_of(polled.listener.config.handler_index);
        if let Err(e) = poller.modify(polled.listener.fd.as_fd(), &mut event) {
            error!("can't change the watch on {}: {e}", polled.listener.config.name);
        }
    }

    /// Logs this rarely, because at a limit one connection is accepted for each that ends.
    fn log_full(&mut self, what: &str) {
        let now = Instant::now();
        if self.full_logged.is_none_or(|logged| now.saturating_duration_since(logged) >= FULL_LOGGED) {
            warn!("at the limit of {what}: accepting again when a connection ends");
            self.full_logged = Some(now);
        }
    }

    /// Accepts one connection.
    fn accept_one<P>(
        &mut self,
        index: usize,
        parking: &Parking<P>,
        take: &mut impl FnMut(NewSocket),
    ) -> Outcome {
        let Some(polled) = self.all.get(index) else { return Outcome::Over };
        let Some(slot) = parking.slots.claim() else {
            self.pauses.begin("the reserve of connection slots is used up");
            self.poll(parking);
            return Outcome::Over;
        };
        match polled.listener.accept() {
            Ok((stream, peer)) => {
                self.pauses.note_success();
                let place = (polled.place, polled.listener.config.handler_index);
                take(NewSocket { stream, peer, slot, place });
                Outcome::Accepted
            }
            Err(e) => {
                parking.unclaim(slot);
                let again = self.pauses.note_failure(&e);
                if self.pauses.until().is_some() {
                    self.poll(parking);
                }
                if again { Outcome::Failed } else { Outcome::Over }
            }
        }
    }

    /// Polls the listeners that are to be polled, and only those.
    fn poll<P>(&mut self, parking: &Parking<P>) {
        for polled in &mut self.all {
            let is_left = self.paused && polled.listener.is_among(&self.shared);
            let is_open = polled.closing.is_some() || polled.stays || (self.accepting && !is_left);
            let has_room = !polled.is_full && (!self.is_full || polled.has_reserve());
            let wanted = is_open && self.pauses.until().is_none() && (has_room || polled.closing.is_some());
            if wanted == polled.is_polled {
                continue;
            }
            let fd = polled.listener.fd.as_fd();
            let poller = parking.poller_of(polled.listener.config.handler_index);
            let changed = match wanted {
                true => poller.add(fd, PoolEvent::of_listener(polled.place)),
                false => poller.delete(fd),
            };
            match changed {
                Ok(()) => polled.is_polled = wanted,
                Err(e) => error!("can't change the watch on {}: {e}", polled.listener.config.name),
            }
        }
    }

    /// Closes the listeners that another generation also has.
    pub(super) fn close_shared<P>(&mut self, parking: &Parking<P>) {
        let shared = std::mem::take(&mut self.shared);
        self.close(parking, |listener| !listener.is_among(&shared));
        self.shared = shared;
    }

    /// Closes all listeners, which no other generation has.
    pub(super) fn close_last<P>(&mut self, parking: &Parking<P>) {
        self.close(parking, |_| true);
    }

    /// Closes all listeners, except that those of operators stay until everything else has ended.
    fn close<P>(&mut self, parking: &Parking<P>, is_last: impl Fn(&Listener) -> bool) {
        (self.accepting, self.closing) = (false, true);
        let now = Instant::now();
        for mut polled in std::mem::take(&mut self.all) {
            if is_last(&polled.listener) {
                polled.stays = polled.listener.config.reserved;
                if !polled.stays {
                    polled.closing = Some(now + polled.listener.refuse_new());
                }
                self.all.push(polled);
            } else {
                unregister(&polled, parking);
            }
        }
        self.poll(parking);
    }

    /// Closes the admin listeners too. True when all listeners are closed.
    pub(super) fn close_rest<P>(&mut self, parking: &Parking<P>) -> bool {
        for polled in &mut self.all {
            if polled.closing.is_none() {
                polled.closing = Some(Instant::now() + polled.listener.refuse_new());
            }
        }
        self.poll(parking);
        self.all.is_empty()
    }

    /// Ends a pause, and closes the listeners whose time has come. True when that was the last which was to be closed.
    pub(super) fn tick<P>(
        &mut self,
        now: Instant,
        parking: &Parking<P>,
        mut take: impl FnMut(NewSocket),
    ) -> bool {
        if self.pauses.end(now) {
            self.poll(parking);
        }
        let is_due = |polled: &Polled| polled.closing.is_some_and(|until| until <= now);
        while let Some(index) = self.all.iter().position(is_due) {
            if self.pauses.until().is_none() {
                while self.accept_one(index, parking, &mut take) != Outcome::Over {}
            }
            if self.pauses.until().is_some() {
                // The waiting clients would be reset, so they are accepted when there is room.
                return false;
            }
            let polled = self.all.remove(index);
            unregister(&polled, parking);
            polled.listener.shut();
            info!(
                "listener {} is closed", polled.listener.address();
                listener:% = Escaped(&polled.listener.config.name)
            );
        }
        let all_closed = self.closing && self.all.iter().all(|polled| polled.stays);
        self.closing &= !all_closed;
        all_closed
    }

    /// Accepts from none of them any more. They stay open.
    pub(super) fn leave_all<P>(&mut self, parking: &Parking<P>) {
        self.all.drain(..).for_each(|polled| unregister(&polled, parking));
    }

    /// Whether some are to be closed that are not closed yet.
    pub(super) fn are_closing(&self) -> bool {
        self.closing
    }

    /// When to call `tick` at the latest. No listener is served in a pause.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.pauses.until().or_else(|| self.all.iter().filter_map(|polled| polled.closing).min())
    }

    /// Whether a connection that ends makes room.
    pub(super) fn wait_for_ends(&self) -> bool {
        self.is_full || self.all.iter().any(|polled| polled.is_full)
    }

    /// Accepts again where there is room again.
    pub(super) fn note_ends<P>(&mut self, parking: &Parking<P>) {
        if !self.wait_for_ends() {
            return;
        }
        for polled in &mut self.all {
            let of_it = parking.counts.of_listener(polled.place);
            polled.is_full = !polled.has_reserve() && of_it >= self.per_listener;
        }
        self.is_full &= parking.open() >= self.limit;
        self.poll(parking);
    }
}

/// The listener can be dropped then; the socket lives on if another process has it.
fn unregister<P>(polled: &Polled, parking: &Parking<P>) {
    if polled.is_polled {
        let poller = parking.poller_of(polled.listener.config.handler_index);
        let _ = poller.delete(polled.listener.fd.as_fd());
    }
}
