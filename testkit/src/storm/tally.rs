//! What is counted. Each request has one outcome and each connection one end.

use std::time::{Duration, Instant};

use super::halt::Clock;
use super::histogram::Histogram;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    /// Nobody listens.
    Refused,
    /// A reset before the whole answer.
    Reset,
    /// An end before the whole answer.
    Cut,
    Timeout,
    /// Another status or body than asked for: of another request, mostly.
    Wrong,
    /// Sent with others, of which an earlier one was answered with an announced close. HTTP says that
    /// it was not processed; a client that does not retry has lost it all the same.
    Dismissed,
    /// Not the server's doing: no port or descriptor is left on our side.
    OwnLimit,
}

impl Outcome {
    pub(crate) const ALL: [Outcome; 8] = [
        Outcome::Ok,
        Outcome::Refused,
        Outcome::Reset,
        Outcome::Cut,
        Outcome::Timeout,
        Outcome::Wrong,
        Outcome::Dismissed,
        Outcome::OwnLimit,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Refused => "refused",
            Outcome::Reset => "reset",
            Outcome::Cut => "cut",
            Outcome::Timeout => "timeout",
            Outcome::Wrong => "wrong",
            Outcome::Dismissed => "dismissed",
            Outcome::OwnLimit => "own_limit",
        }
    }

    pub(crate) fn is_failure(self) -> bool {
        !matches!(self, Outcome::Ok | Outcome::OwnLimit)
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With the answer to a request that asked for it.
    Asked,
    /// With an answer that said so.
    Announced,
    /// Out of the blue, when nothing was asked on it.
    Silent,
    /// Bytes came that answer nothing: the connection is out of step, and left.
    Stray,
    /// With a request on it.
    Lost,
    /// We left: the load has ended, or an answer was wrong.
    Ours,
}

impl End {
    pub(crate) const ALL: [End; 6] =
        [End::Asked, End::Announced, End::Silent, End::Stray, End::Lost, End::Ours];

    pub(crate) fn name(self) -> &'static str {
        match self {
            End::Asked => "asked",
            End::Announced => "announced",
            End::Silent => "silent",
            End::Stray => "stray",
            End::Lost => "lost",
            End::Ours => "ours",
        }
    }
}

/// One failure, to be looked into.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) at: Duration,
    pub(crate) since_signal: Option<Duration>,
    pub(crate) mode: &'static str,
    pub(crate) what: &'static str,
    /// Answers that the connection had given before.
    pub(crate) answers: u64,
    pub(crate) detail: String,
}

/// So many of each client's failures are told in full; all are counted.
const TOLD: usize = 20;

#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) begun: u64,
    /// By outcome, then fresh connection or reused.
    outcomes: [[u64; 2]; Outcome::ALL.len()],
    /// Connections tried.
    pub(crate) tried: u64,
    pub(crate) connected: u64,
    pub(crate) reconnects: u64,
    ends: [u64; End::ALL.len()],
    pub(crate) latency: Histogram,
    /// Of requests under way near a signal.
    pub(crate) near: Histogram,
    pub(crate) failures: Vec<Failure>,
}

impl Tally {
    /// A request that was begun has come to its outcome.
    pub(crate) fn outcome(&mut self, outcome: Outcome, reused: bool) {
        self.outcomes[outcome as usize][usize::from(reused)] += 1;
    }

    pub(crate) fn end(&mut self, end: End) {
        self.ends[end as usize] += 1;
    }

    pub(crate) fn answered(&mut self, clock: &Clock, begun: Instant) {
        let ended = Instant::now();
        self.latency.add(ended - begun);
        if clock.near(begun, ended) {
            self.near.add(ended - begun);
        }
    }

    pub(crate) fn tell(&mut self, failure: Failure) {
        if self.failures.len() < TOLD {
            self.failures.push(failure);
        }
    }

    pub(crate) fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].iter().sum()
    }

    pub(crate) fn on_fresh(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize][0]
    }

    pub(crate) fn on_reused(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize][1]
    }

    pub(crate) fn ended(&self, end: End) -> u64 {
        self.ends[end as usize]
    }

    /// Everything that a server should never do to a client.
    pub(crate) fn failed(&self) -> u64 {
        let outcomes: u64 =
            Outcome::ALL.into_iter().filter(|outcome| outcome.is_failure()).map(|o| self.of(o)).sum();
        outcomes + self.ended(End::Silent) + self.ended(End::Stray)
    }

    /// What does not add up, once the load has ended.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let outcomes: u64 = Outcome::ALL.into_iter().map(|outcome| self.of(outcome)).sum();
        let ends: u64 = self.ends.iter().sum();
        if self.begun != outcomes {
            return Some(format!("{} requests begun, {outcomes} outcomes", self.begun));
        }
        (self.connected != ends).then(|| format!("{} connections, {ends} ends", self.connected))
    }

    pub(crate) fn merge(&mut self, other: &Tally) {
        self.begun += other.begun;
        for (ours, theirs) in self.outcomes.iter_mut().flatten().zip(other.outcomes.iter().flatten()) {
            *ours += theirs;
        }
        self.tried += other.tried;
        self.connected += other.connected;
        self.reconnects += other.reconnects;
        self.ends.iter_mut().zip(other.ends).for_each(|(ours, theirs)| *ours += theirs);
        self.latency.merge(&other.latency);
        self.near.merge(&other.near);
        self.failures.extend_from_slice(&other.failures);
        self.failures.sort_by_key(|failure| failure.at);
    }
}
