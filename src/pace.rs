//! How fast a route's handler has been lately: what the wake-up policy of the pool goes by.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A moving average of a handler's run time.
#[derive(Debug)]
pub(crate) struct Pace {
    /// In units of a tenth of a microsecond.
    average: AtomicU32,
}

/// A handler that takes longer than this is worth waking another worker for.
const SLOW: u32 = 1_000;
/// What one run counts at most: enough to be slow at once, and soon forgotten if it was the machine
/// that was busy.
const MOST: u32 = 8 * SLOW;

impl Pace {
    /// A handler never seen counts as slow.
    pub(crate) const fn new() -> Pace {
        Pace { average: AtomicU32::new(SLOW + 1) }
    }

    pub(crate) fn is_slow(&self) -> bool {
        self.average.load(Ordering::Relaxed) > SLOW
    }

    /// An update lost to a race with another worker does no harm to an average.
    pub(crate) fn record(&self, took: Duration) {
        let took = u32::try_from(took.as_nanos() / 100).map_or(MOST, |took| took.min(MOST));
        let old = self.average.load(Ordering::Relaxed);
        let new = old - old / 8 + took / 8;
        if new != old {
            self.average.store(new, Ordering::Relaxed);
        }
    }
}

impl Default for Pace {
    fn default() -> Pace {
        Pace::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_slow_then_learned_then_forgotten() {
        let pace = Pace::new();
        assert!(pace.is_slow());
        pace.record(Duration::from_micros(2));
        assert!(!pace.is_slow());
        pace.record(Duration::from_millis(5));
        assert!(pace.is_slow());
        for _ in 0..8 {
            pace.record(Duration::from_micros(2));
        }
        assert!(!pace.is_slow());
        pace.record(Duration::from_secs(86_400));
        assert!(pace.is_slow());
        for _ in 0..9 {
            pace.record(Duration::from_millis(1));
        }
        pace.record(Duration::from_micros(2));
        assert!(pace.is_slow(), "one of its kind, once fast");
    }
}
