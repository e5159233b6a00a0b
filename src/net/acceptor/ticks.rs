//! Deadlines of parked connections are kept in ticks, since a sweep looks at all of them once a tick.

use std::time::{Duration, Instant};

pub(super) const TICK: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Ticks {
    start: Instant,
}

impl Ticks {
    pub(super) fn new() -> Ticks {
        Ticks { start: Instant::now() }
    }

    /// A time as ticks since the start, rounded up; never 0, which means no deadline.
    pub(super) fn at(&self, time: Instant) -> u32 {
        let ticks = time.saturating_duration_since(self.start).as_millis() / TICK.as_millis();
        u32::try_from(ticks).unwrap_or(u32::MAX - 1).saturating_add(1)
    }

    pub(super) fn now(&self) -> u32 {
        self.at(Instant::now())
    }
}

/// A duration in ticks, rounded up; never 0.
pub(super) fn ticks_of(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX).max(1)
}
