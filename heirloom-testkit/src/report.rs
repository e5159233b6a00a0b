//! What clients have seen.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::Outcome;

/// So many failures are kept with their details; all are counted.
const DETAILS: usize = 1_000;

/// What the clients of a load have seen. Its `Display` is a summary for people.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Requests with a response as expected.
    pub answered: u64,
    /// Requests without one.
    pub failed: u64,
    /// How many have failed in which way: see [`Failure::class`].
    pub losses: BTreeMap<&'static str, u64>,
    /// The first 1,000 failures of each client.
    pub failures: Vec<Failure>,
    /// Connections of all clients.
    pub connects: u64,
    /// Kept connections of which the server has announced that it closes them. No request is lost by that.
    pub closes: u64,
    /// How many responses each process has sent, if [`Load::identify`](crate::Load::identify) says which it was.
    pub answered_by: BTreeMap<String, u64>,
    /// The longest time between a request and its response, or its failure.
    pub slowest: Duration,
}

/// A request without a response, or with a wrong one. `Display` and `Debug` print a wrong response with the first 80 bytes of its
/// body, which often say the error; a service whose bodies carry secrets should use other ones in its tests. Fields that carry
/// secrets are hidden, as [`Response`](crate::Response) says.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Its method and path.
    pub request: String,
    /// What came instead of a response, or the wrong response.
    pub outcome: Outcome,
    /// The process that had answered on the same connection before.
    pub before: Option<String>,
    /// The time since the start of the load.
    pub at: Duration,
}

impl Failure {
    /// `refused`, `reset`, `cut` (an end within the response), `closed` (an end instead of a response), `timeout`, `wrong` (a
    /// response with another status, or one that did not pass its check) or `invalid` (no HTTP).
    pub fn class(&self) -> &'static str {
        match self.outcome {
            Outcome::Ok(_) => "wrong",
            Outcome::Refused => "refused",
            Outcome::Reset => "reset",
            Outcome::Cut => "cut",
            Outcome::Timeout => "timeout",
            Outcome::ClosedAnnounced | Outcome::ClosedSilently => "closed",
            Outcome::Invalid => "invalid",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { request, outcome, before, at } = self;
        write!(f, "{:.3} s: {request}: {}", at.as_secs_f64(), self.class())?;
        if let Outcome::Ok(response) = outcome {
            write!(f, ": {response:?}")?;
        }
        match before {
            Some(process) => write!(f, ", on a connection of {process}"),
            None => Ok(()),
        }
    }
}

impl Report {
    /// Every request was answered as expected, and there were some.
    ///
    /// # Panics
    /// If not, with the report.
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        assert!(self.failed == 0, "requests were lost: {self}");
        assert!(self.answered > 0, "no request was sent");
    }

    /// Nothing was lost, and no client with keep-alive has even seen a close: as over an upgrade of a server without TLS.
    ///
    /// # Panics
    /// If not, with the report.
    #[track_caller]
    pub fn assert_unnoticed(&self) {
        self.assert_nothing_lost();
        assert!(self.closes == 0, "connections were closed: {self}");
    }

    pub(crate) fn answer(&mut self, by: Option<String>) {
        self.answered += 1;
        if let Some(by) = by {
            *self.answered_by.entry(by).or_default() += 1;
        }
    }

    pub(crate) fn fail(&mut self, request: &str, outcome: Outcome, before: Option<String>, at: Duration) {
        let failure = Failure { request: request.to_owned(), outcome, before, at };
        self.failed += 1;
        *self.losses.entry(failure.class()).or_default() += 1;
        if self.failures.len() < DETAILS {
            self.failures.push(failure);
        }
    }

    pub(crate) fn add(&mut self, other: Report) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.connects += other.connects;
        self.closes += other.closes;
        self.slowest = self.slowest.max(other.slowest);
        self.failures.extend(other.failures);
        self.failures.sort_by_key(|failure| failure.at);
        for (class, n) in other.losses {
            *self.losses.entry(class).or_default() += n;
        }
        for (process, n) in other.answered_by {
            *self.answered_by.entry(process).or_default() += n;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { answered, failed, connects, closes, .. } = self;
        write!(
            f,
            "{answered} requests answered, {failed} failed; {connects} connections, {closes} announced closes"
        )?;
        write!(f, "; slowest {:.3} s", self.slowest.as_secs_f64())?;
        for (class, n) in &self.losses {
            write!(f, "\n  {n} {class}")?;
        }
        for (process, n) in &self.answered_by {
            write!(f, "\n  {n} answered by {process}")?;
        }
        for failure in self.failures.iter().take(20) {
            write!(f, "\n  {failure}")?;
        }
        Ok(())
    }
}
