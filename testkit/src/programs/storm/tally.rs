//! What is counted. Each request has one outcome and each connection one end.

use std::time::{Duration, Instant};

use super::halt::Clock;
use super::histogram::Histogram;

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    /// No process listens.
    Refused,
    /// A reset before the whole answer.
    Reset,
    /// An end before the whole answer.
    Cut,
    Timeout,
    /// Another status or body than asked for: of another request, mostly; or what is no TLS record of this connection.
    Wrong,
    /// Sent with others, of which an earlier one was answered with an announced close. HTTP says that
    /// it was not processed; a client that does not retry has lost it all the same.
    Dismissed,
    /// Not a fault of the server: no port or descriptor is left on the client's side.
    OwnLimit,
    /// Refused after a TERM, before the server was started again, when no process should have listened.
    Away,
    /// Lost with a successor that storm killed on probation, which had accepted the connection itself; or with a process that
    /// storm killed while connections moved.
    Crashed,
    /// Sent when the end of its connection, which was idle, had come already: a stop's, and it crossed with it.
    Crossed,
}

impl Outcome {
    pub(crate) const ALL: [Outcome; 11] = [
        Outcome::Ok,
        Outcome::Refused,
        Outcome::Reset,
        Outcome::Cut,
        Outcome::Timeout,
        Outcome::Wrong,
        Outcome::Dismissed,
        Outcome::OwnLimit,
        Outcome::Away,
        Outcome::Crashed,
        Outcome::Crossed,
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
            Outcome::Away => "away",
            Outcome::Crashed => "crashed",
            Outcome::Crossed => "crossed",
        }
    }

    pub(crate) fn is_failure(self) -> bool {
        use Outcome::{Away, Crashed, Crossed, Ok, OwnLimit};
        !matches!(self, Ok | OwnLimit | Away | Crashed | Crossed)
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
    /// Bytes arrived that answer nothing: the connection is out of step, and left.
    Stray,
    /// With a request on it.
    Lost,
    /// We left: the load has ended, or an answer was wrong.
    Ours,
    /// With its process, which storm had stopped or killed, and when nothing was asked on it.
    Gone,
}

impl End {
    pub(crate) const ALL: [End; 7] =
        [End::Asked, End::Announced, End::Silent, End::Stray, End::Lost, End::Ours, End::Gone];

    pub(crate) fn name(self) -> &'static str {
        match self {
            End::Asked => "asked",
            End::Announced => "announced",
            End::Silent => "silent",
            End::Stray => "stray",
            End::Lost => "lost",
            End::Ours => "ours",
            End::Gone => "gone",
        }
    }
}

/// One failure, for the report.
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

/// So many failures of each client are reported in full; all are counted.
const TOLD: usize = 20;

/// The least number of samples for a meaningful p99.9.
const ENOUGH: u64 = 1000;

#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    /// Indexed by outcome, then by new or reused connection.
    outcomes: [[u64; 2]; Outcome::ALL.len()],
    /// Connections tried.
    pub(crate) tried: u64,
    pub(crate) connected: u64,
    pub(crate) reconnects: u64,
    ends: [u64; End::ALL.len()],
    /// Requests and KeyUpdates that a signal has divided, and KeyUpdates.
    pub(crate) divided: u64,
    pub(crate) key_updates: u64,
    /// Events that came from another process than the one before on the stream.
    pub(crate) travelled: u64,
    pub(crate) latency: Histogram,
    /// The same for each part of the load: far from a signal, and under way near one.
    parts: Vec<[Histogram; 2]>,
    pub(crate) failures: Vec<Failure>,
}

impl Tally {
    /// The outcome of a request that was started.
    pub(crate) fn outcome(&mut self, outcome: Outcome, reused: bool) {
        self.outcomes[outcome as usize][usize::from(reused)] += 1;
    }

    pub(crate) fn end(&mut self, end: End) {
        self.ends[end as usize] += 1;
    }

    pub(crate) fn answered(&mut self, clock: &Clock, begin: Instant) {
        let ended = Instant::now();
        self.latency.add(ended - begin);
        let part = clock.part();
        if self.parts.len() <= part {
            self.parts.resize_with(part + 1, Default::default);
        }
        self.parts[part][usize::from(clock.near(begin, ended))].add(ended - begin);
    }

    /// Latencies of requests far from any signal, or in flight near one.
    pub(crate) fn latency_when(&self, near: bool) -> Histogram {
        let mut sum = Histogram::default();
        self.parts.iter().for_each(|part| sum.merge(&part[usize::from(near)]));
        sum
    }

    /// How many times as long p99.9 is near a signal as it is far from one, in thousandths: the median
    /// of the parts of the load in which there is enough of both, and how many these are.
    pub(crate) fn ratio(&self) -> Option<(u64, usize)> {
        let enough = |part: &&[Histogram; 2]| part.iter().all(|times| times.count() >= ENOUGH);
        let ratio = |[far, near]: &[Histogram; 2]| near.per_mille(999) * 1000 / far.per_mille(999).max(1);
        let mut ratios: Vec<u64> = self.parts.iter().filter(enough).map(ratio).collect();
        ratios.sort_unstable();
        Some((*ratios.get(ratios.len().saturating_sub(1) / 2)?, ratios.len()))
    }

    pub(crate) fn note_failure(&mut self, failure: Failure) {
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

    /// Counts that do not add up, once the load has ended.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let outcomes: u64 = Outcome::ALL.into_iter().map(|outcome| self.of(outcome)).sum();
        let ends: u64 = self.ends.iter().sum();
        if self.requests != outcomes {
            return Some(format!("{} requests started, {outcomes} outcomes", self.requests));
        }
        (self.connected != ends).then(|| format!("{} connections, {ends} ends", self.connected))
    }

    pub(crate) fn merge(&mut self, other: &Tally) {
        self.requests += other.requests;
        for (ours, theirs) in self.outcomes.iter_mut().flatten().zip(other.outcomes.iter().flatten()) {
            *ours += theirs;
        }
        self.tried += other.tried;
        self.connected += other.connected;
        self.reconnects += other.reconnects;
        self.divided += other.divided;
        self.key_updates += other.key_updates;
        self.travelled += other.travelled;
        self.ends.iter_mut().zip(other.ends).for_each(|(ours, theirs)| *ours += theirs);
        self.latency.merge(&other.latency);
        if self.parts.len() < other.parts.len() {
            self.parts.resize_with(other.parts.len(), Default::default);
        }
        for (ours, theirs) in self.parts.iter_mut().flatten().zip(other.parts.iter().flatten()) {
            ours.merge(theirs);
        }
        self.failures.extend_from_slice(&other.failures);
        self.failures.sort_by_key(|failure| failure.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_median_of_the_parts_that_have_enough() {
        let times = |n, ms| {
            let mut times = Histogram::default();
            (0..n).for_each(|_| times.add(Duration::from_millis(ms)));
            times
        };
        let part = |near| [times(ENOUGH, 10), times(ENOUGH, near)];
        let mut tally = Tally { parts: vec![part(20), part(90), part(30)], ..Tally::default() };
        tally.parts.push([times(5, 1), times(ENOUGH, 99)]);
        let (ratio, parts) = tally.ratio().unwrap();
        assert!((2900..=3100).contains(&ratio) && parts == 3, "{ratio} {parts}");
        assert_eq!(tally.latency_when(false).count(), 3 * ENOUGH + 5);
        assert_eq!(Tally::default().ratio(), None);
    }
}
