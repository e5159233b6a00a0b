//! How long a client may take: for each byte of a request body or of a response, and on average.

use std::time::{Duration, Instant};

use super::Exchange;
use crate::base::limits::FAR;
use crate::web::handler::RouteLimits;

/// The limits for a slow client.
#[derive(Clone, Copy)]
pub(super) struct StallLimits {
    /// The longest time without a byte.
    pub(super) stall: Duration,
    /// Time before the rate counts.
    pub(super) grace: Duration,
    /// Bytes a second on average. 0: no minimum.
    pub(super) rate: u64,
}

impl StallLimits {
    /// How long so many bytes may take in all.
    pub(super) fn time_for(self, bytes: u64) -> Duration {
        match bytes.checked_mul(1000).and_then(|n| n.checked_div(self.rate)) {
            Some(ms) => self.grace.saturating_add(Duration::from_millis(ms)),
            None => Duration::MAX,
        }
    }

    /// The deadline for the next byte, after this many since `started`.
    pub(super) fn deadline(self, started: Instant, bytes: u64, now: Instant) -> Instant {
        let stalled = now + self.stall;
        started.checked_add(self.time_for(bytes)).map_or(stalled, |too_slow| too_slow.min(stalled))
    }
}

/// A client that has not taken a response at once.
#[derive(Clone, Copy)]
pub(super) struct Blocked {
    /// When the client last took bytes.
    since: Instant,
    /// None while the server does not wait for the client.
    parked: Option<Instant>,
    /// The sum of all waits for the client in this response. The time that its source takes does not count.
    waited: Duration,
    taken: u64,
}

impl Blocked {
    fn new(now: Instant) -> Blocked {
        Blocked { since: now, parked: None, waited: Duration::ZERO, taken: 0 }
    }

    /// Notes that the connection is parked after the client took so many more bytes. Returns the deadline.
    pub(super) fn park(
        blocked: &mut Option<Box<Blocked>>,
        taken: usize,
        now: Instant,
        patience: StallLimits,
    ) -> Instant {
        let blocked = blocked.get_or_insert_with(|| Box::new(Blocked::new(now)));
        blocked.take(taken, now);
        blocked.parked = Some(now);
        let left = patience.time_for(blocked.taken).saturating_sub(blocked.waited);
        let stalled = blocked.since + patience.stall;
        now.checked_add(left).map_or(stalled, |too_slow| too_slow.min(stalled))
    }

    /// Notes that the connection is queued again: the client has taken all there was, so the server does not wait for it.
    pub(super) fn requeue(blocked: &mut Option<Box<Blocked>>, taken: usize, now: Instant) {
        blocked.get_or_insert_with(|| Box::new(Blocked::new(now))).take(taken, now);
    }

    pub(super) fn resume(&mut self, now: Instant) {
        match self.parked.take() {
            Some(parked) => self.waited += now.saturating_duration_since(parked),
            None => self.since = now,
        }
    }

    pub(super) fn take(&mut self, bytes: usize, now: Instant) {
        if bytes > 0 {
            self.since = now;
            self.taken = self.taken.saturating_add(bytes as u64);
        }
    }
}

impl Exchange<'_> {
    /// The limits for a request body of this route.
    pub(super) fn body_patience(&self, limits: &RouteLimits) -> StallLimits {
        let common = self.common;
        StallLimits {
            stall: limits.body_stall.unwrap_or(common.timeouts.body_stall).min(FAR),
            grace: common.timeouts.rate_grace,
            rate: limits.body_rate.unwrap_or(common.limits.body_rate).unwrap_or(0),
        }
    }

    /// The limits for the last response.
    pub(super) fn patience(&self) -> StallLimits {
        self.client.progress.patience.unwrap_or_else(|| self.response_patience(&RouteLimits::new()))
    }

    /// The limits for a response of this route.
    pub(super) fn response_patience(&self, limits: &RouteLimits) -> StallLimits {
        let common = self.common;
        StallLimits {
            stall: limits.response_stall.unwrap_or(common.timeouts.response_stall).min(FAR),
            grace: common.timeouts.rate_grace,
            rate: limits.response_rate.unwrap_or(common.limits.response_rate).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(30);

    #[test]
    fn a_client_may_be_slow_but_not_too_slow() {
        let patience = StallLimits { stall: STALL, grace: Duration::from_secs(10), rate: 100 };
        assert_eq!(patience.time_for(0), Duration::from_secs(10));
        assert_eq!(patience.time_for(500), Duration::from_secs(15));
        assert_eq!(StallLimits { rate: 0, ..patience }.time_for(1), Duration::MAX);
        assert_eq!(patience.time_for(u64::MAX), Duration::MAX);

        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut blocked = None;
        assert_eq!(Blocked::park(&mut blocked, 0, start, patience), at(10));
        blocked.as_mut().unwrap().resume(at(9));
        // 100 bytes are a second more, of which nine are over.
        assert_eq!(Blocked::park(&mut blocked, 100, at(9), patience), at(11));
        blocked.as_mut().unwrap().resume(at(10));
        // A client that has taken much has time, up to a stall.
        assert_eq!(Blocked::park(&mut blocked, 1_000_000, at(10), patience), at(40));
        // Time in which the server did not wait for the client is not counted: the source took an hour.
        blocked.as_mut().unwrap().resume(at(11));
        let later = at(3_600);
        assert_eq!(Blocked::park(&mut blocked, 1, later, patience), later + STALL);
    }

    #[test]
    fn without_a_rate_only_a_stall_counts() {
        let now = Instant::now();
        let patience = StallLimits { stall: STALL, grace: Duration::ZERO, rate: 0 };
        assert_eq!(Blocked::park(&mut None, 0, now, patience), now + STALL);
        assert_eq!(patience.deadline(now, 1, now), now + STALL);
    }

    #[test]
    fn a_body_may_be_slow_but_not_too_slow() {
        let patience = StallLimits { stall: STALL, grace: Duration::from_secs(10), rate: 100 };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(patience.deadline(start, 0, start), at(10));
        assert_eq!(patience.deadline(start, 500, at(14)), at(15));
        assert_eq!(patience.deadline(start, 1_000_000, at(14)), at(44));
    }
}
