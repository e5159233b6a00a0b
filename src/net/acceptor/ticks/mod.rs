//! Deadlines of parked connections are kept in ticks, since a sweep looks at all of them once a tick. While no connection is
//! open there are no ticks.

use std::time::{Duration, Instant};

use crate::base::sync::{AtomicBool, Ordering};

pub(super) const TICK: Duration = Duration::from_millis(250);
const TICK_NANOS: u32 = TICK.subsec_nanos();
const TICKS_PER_SECOND: u64 = 1_000_000_000 / TICK_NANOS as u64;

pub(super) struct Ticks {
    start: Instant,
}

impl Ticks {
    pub(super) fn new() -> Ticks {
        Ticks { start: Instant::now() }
    }

    /// A time as ticks since the start, rounded up; never 0, which means no deadline.
    pub(super) fn at(&self, time: Instant) -> u32 {
        let since = time.saturating_duration_since(self.start);
        // Not by the 128 bits of `as_millis`, whose division is slow.
        let ticks = since.as_secs().saturating_mul(TICKS_PER_SECOND);
        let ticks = ticks.saturating_add(u64::from(since.subsec_nanos() / TICK_NANOS));
        u32::try_from(ticks).unwrap_or(u32::MAX - 1).saturating_add(1)
    }

    pub(super) fn now(&self) -> u32 {
        self.at(Instant::now())
    }
}

/// Whether the acceptor wakes at each tick, as it has to while a connection is open.
pub(super) struct Ticking(AtomicBool);

impl Ticking {
    pub(super) fn new() -> Ticking {
        Ticking(AtomicBool::new(false))
    }

    /// For the acceptor, before it waits: whether it wakes at the next tick, because `has_to` says so. A thread that opens a
    /// connection which `has_to` does not see yet finds [`is_off`](Ticking::is_off) true afterwards, and wakes the acceptor.
    pub(super) fn decide(&self, has_to: impl FnOnce() -> bool) -> bool {
        // Both sides exchange the value, so that the later one knows what the earlier one did before.
        self.0.swap(false, Ordering::AcqRel);
        let ticks = has_to();
        self.0.store(ticks, Ordering::Release);
        ticks
    }

    /// Whether the acceptor has to be woken for the connection that the caller has just opened.
    pub(super) fn is_off(&self) -> bool {
        !self.0.fetch_or(false, Ordering::AcqRel)
    }
}

/// A duration in ticks, rounded up; never 0.
pub(super) fn ticks_of(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_the_next_tick() {
        let ticks = Ticks::new();
        let cases = [(0, 1), (249, 1), (250, 2), (999, 4), (1_000, 5), (3_600_000, 14_401)];
        for (millis, tick) in cases {
            assert_eq!(ticks.at(ticks.start + Duration::from_millis(millis)), tick, "{millis}");
        }
        assert_eq!(ticks.at(ticks.start - TICK), 1, "before the start");
        let years = ticks.start + Duration::from_secs(u64::from(u32::MAX));
        assert_eq!(ticks.at(years), u32::MAX, "the last tick");
    }
}

#[cfg(test)]
mod loom_tests;
