//! A client: asks, never retries, counts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::asking::{Asked, Mode, Pauses, Sizes, ask, between, mix};
use super::halt::{Clock, Halt};
use super::link::{Idle, Link};
use super::socket::{Way, not_connected};
use super::tally::{End, Failure, Outcome, Tally};

/// The pause after a failed connection attempt, so that a refused client does not spin.
pub(crate) const AFTER_REFUSAL: Duration = Duration::from_millis(10);
/// How long after an announced close its end may take; we look for bytes that follow it.
const TO_THE_END: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) mode: Mode,
    /// The upper half of the identities of its requests.
    pub(crate) number: u64,
    pub(crate) way: Way,
    pub(crate) sizes: Sizes,
    pub(crate) pauses: Pauses,
    /// Whether some of the processes are of another version, which may have no streams that move.
    pub(crate) alternates: bool,
    /// Stops after so many requests, or else on demand.
    pub(crate) budget: Option<u64>,
    pub(crate) tally: Arc<Mutex<Tally>>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) halt: Arc<Halt>,
}

impl Client {
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends requests until it is stopped; then completes the request in flight.
    pub(crate) fn run(&self) {
        let mut link = None;
        while self.goes_on() {
            if self.mode.streams() {
                self.stream();
            } else {
                link = self.round(link).and_then(|link| self.think(link));
            }
            if link.is_none() && self.mode.leaves() {
                let away = self.pauses.away;
                self.halt.pause(between([away / 2, away * 3 / 2], self.turn()));
            }
        }
        if let Some(mut link) = link {
            let end = self.last_look(&mut link, Duration::ZERO);
            self.left(end.unwrap_or(End::Ours), &link);
        }
    }

    /// Whether it is to send one more request.
    pub(crate) fn goes_on(&self) -> bool {
        !self.halt.is_called() && self.budget.is_none_or(|budget| self.tally().requests < budget)
    }

    pub(crate) fn next(&self) -> Asked {
        let id = {
            let mut tally = self.tally();
            tally.requests += 1;
            self.number << 32 | tally.requests
        };
        ask(self.mode, id, &self.sizes)
    }

    /// Sends one request, or as many as fit into one piece; returns the connection if it continues.
    fn round(&self, link: Option<Link>) -> Option<Link> {
        let mut begin = Instant::now();
        let mut link = match link {
            Some(link) => link,
            None => self.connect()?,
        };
        if self.mode == Mode::Preconnect && link.answers == 0 {
            link = self.rest(link, between([Duration::ZERO, self.pauses.before_first], self.turn()))?;
            begin = Instant::now();
        }
        let batch: Vec<Asked> = (0..self.mode.depth()).map(|_| self.next()).collect();
        let before = link.answers;
        let bytes: Vec<u8> = batch.iter().flat_map(|asked| &asked.bytes).copied().collect();
        self.send(&mut link, &bytes, &mut begin);

        let (mut closes, mut loss, mut step) = (false, None, true);
        for asked in &batch {
            let outcome = if closes {
                self.fail(Outcome::Dismissed.name(), &link, "after an announced close");
                Outcome::Dismissed
            } else if loss.is_none() {
                match link.answer(&self.halt) {
                    Ok(answer) => {
                        closes = answer.closes;
                        let fault = asked.fault(&answer);
                        if let Some(fault) = &fault {
                            self.fail(Outcome::Wrong.name(), &link, fault);
                            step = false;
                        }
                        self.tally().answered(&self.clock, begin);
                        if fault.is_some() { Outcome::Wrong } else { Outcome::Ok }
                    }
                    Err(lost) => {
                        let outcome = self.named(lost.outcome, &link);
                        if outcome.is_failure() {
                            self.fail(outcome.name(), &link, &lost.detail);
                        }
                        *loss.insert(outcome)
                    }
                }
            } else {
                loss.unwrap_or(Outcome::Cut)
            };
            self.tally().outcome(outcome, before > 0);
        }
        let end = match () {
            () if loss.is_some() => Some(End::Lost),
            // Its responses can't be distinguished any more.
            () if !step => Some(End::Ours),
            () if closes => {
                let announced = if self.mode == Mode::Close { End::Asked } else { End::Announced };
                let stray = self.last_look(&mut link, TO_THE_END).filter(|end| *end == End::Stray);
                Some(stray.unwrap_or(announced))
            }
            () if self.mode == Mode::Preconnect && link.answers >= self.visit() => Some(End::Ours),
            () => None,
        };
        match end {
            Some(end) => {
                self.left(end, &link);
                None
            }
            None => Some(link),
        }
    }

    /// Sends requests. Their time does not begin before the waits for signals.
    fn send(&self, link: &mut Link, bytes: &[u8], begin: &mut Instant) {
        match self.mode {
            Mode::Halves => self.send_halves(link, bytes),
            Mode::Rekey => self.send_with_key_updates(link, bytes),
            _ => return link.send(bytes, self.mode.pieces(), self.pause(), &self.halt),
        }
        *begin = Instant::now();
    }

    /// A new connection for a request; if there is none, that is the request's outcome.
    pub(crate) fn connect(&self) -> Option<Link> {
        let begin = Instant::now();
        self.tally().tried += 1;
        match Link::open(&self.way, self.mode.pace()) {
            Ok(link) => {
                let mut tally = self.tally();
                if tally.connected > 0 && !self.mode.leaves() {
                    tally.reconnects += 1;
                }
                tally.connected += 1;
                Some(link)
            }
            Err(errno) => {
                let mut outcome = not_connected(errno);
                let now = Instant::now();
                outcome = match outcome {
                    Outcome::Refused if self.clock.stops.touch(begin, now) => Outcome::Away,
                    // Within a TLS handshake: the process had accepted the connection.
                    Outcome::Reset if self.clock.crashes.touch(begin, now) => Outcome::Crashed,
                    Outcome::Reset if self.clock.kills.touch(begin, now) => Outcome::Crashed,
                    other => other,
                };
                if outcome.is_failure() || outcome == Outcome::OwnLimit {
                    self.note_failure(outcome.name(), 0, format!("connect: {errno}"));
                }
                self.tally().requests += 1;
                self.tally().outcome(outcome, false);
                self.halt.pause(AFTER_REFUSAL);
                None
            }
        }
    }

    /// Waits before the next request and watches the connection meanwhile, as one that pools
    /// connections does. Without a wait there is no look: a connection that was closed costs the
    /// request that is sent on it.
    fn think(&self, mut link: Link) -> Option<Link> {
        let think = self.pauses.think;
        if self.mode == Mode::Idle {
            return self.rest(link, between(self.pauses.idle, self.turn()));
        }
        if think.is_zero() && !link.has_more() {
            return Some(link);
        }
        let until = Instant::now() + between([think / 2, think * 3 / 2], self.turn());
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // In slices, so that the end of the load is noticed.
            if let Some(end) = self.last_look(&mut link, left.min(Duration::from_millis(100))) {
                self.left(end, &link);
                return None;
            }
            if left.is_zero() || self.halt.is_called() {
                return Some(link);
            }
        }
    }

    /// Leaves a connection alone for a while, looks whether it lives, and lets pass what a request takes
    /// on its way: a connection that is closed meanwhile costs the request.
    fn rest(&self, mut link: Link, pause: Duration) -> Option<Link> {
        self.halt.pause(pause);
        if let Some(end) = self.last_look(&mut link, Duration::ZERO) {
            self.left(end, &link);
            return None;
        }
        self.halt.pause(self.pauses.one_way);
        link.look_for_crossing();
        Some(link)
    }

    /// The name of a loss: one that storm itself has caused has a different name.
    pub(crate) fn named(&self, outcome: Outcome, link: &Link) -> Outcome {
        let stopped = || self.clock.stops.touch(link.quiet_since, Instant::now());
        match outcome {
            Outcome::Reset | Outcome::Cut if self.crashed(link) || self.killed(link) => Outcome::Crashed,
            // A process that stops has to end idle connections, and can't know which requests are on their way.
            Outcome::Cut if link.crossed && stopped() => Outcome::Crossed,
            _ => outcome,
        }
    }

    /// Whether it was accepted by a successor that storm has killed on probation.
    fn crashed(&self, link: &Link) -> bool {
        let [from, to] = link.opened;
        self.clock.crashes.touch(from, to)
    }

    /// Whether storm has killed a process since the connection was certainly open. One that is read slowly has its last answer
    /// long after the server has sent it.
    fn killed(&self, link: &Link) -> bool {
        let open_at = if self.mode.pace().is_some() { link.opened[0] } else { link.quiet_since };
        self.clock.kills.touch(open_at, Instant::now())
    }

    /// The end of a connection without a request on it, if it arrives in time.
    pub(crate) fn last_look(&self, link: &mut Link, wait: Duration) -> Option<End> {
        let end = match link.idle(wait) {
            Idle::Quiet => return None,
            Idle::Ended | Idle::Reset if self.crashed(link) || self.killed(link) => End::Gone,
            // A process that stops has to close idle connections, but not by a reset.
            Idle::Ended if self.clock.stops.touch(link.quiet_since, Instant::now()) => End::Gone,
            Idle::Ended | Idle::Reset => End::Silent,
            Idle::Bytes => End::Stray,
        };
        Some(end)
    }

    /// Notes the end of a connection.
    pub(crate) fn left(&self, end: End, link: &Link) {
        self.tally().end(end);
        match end {
            End::Silent => self.fail(end.name(), link, "the connection was closed, unannounced, while idle"),
            End::Stray => self.fail(end.name(), link, "bytes that nothing was asked for"),
            End::Asked | End::Announced | End::Lost | End::Ours | End::Gone => {}
        }
    }

    /// A number that is this client's at this point of its life, the same each time.
    pub(crate) fn turn(&self) -> u64 {
        let tally = self.tally();
        self.number << 32 | (tally.requests + tally.connected)
    }

    /// How many requests a client sends that disconnects by itself.
    fn visit(&self) -> u64 {
        1 + mix(self.number << 32 | self.tally().connected) % 3
    }

    /// Between two pieces of an upload.
    fn pause(&self) -> Duration {
        Duration::from_millis(mix(self.tally().requests) % 12)
    }

    pub(crate) fn fail(&self, what: &'static str, link: &Link, detail: &str) {
        self.note_failure(what, link.answers, detail.to_owned());
    }

    fn note_failure(&self, what: &'static str, answers: u64, detail: String) {
        let now = Instant::now();
        let since_signal = self.clock.signal().map(|signal| now.saturating_duration_since(signal));
        let at = now - self.clock.began();
        self.tally().note_failure(Failure {
            at,
            since_signal,
            mode: self.mode.name(),
            what,
            answers,
            detail,
        });
    }
}
