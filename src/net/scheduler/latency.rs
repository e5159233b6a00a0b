//! How fast a route's handler has been lately: what the wake-up policy of the pool goes by.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

/// How long a handler runs, and for how long of that it blocks.
///
/// One that computes leaves its core to nobody: to wake others for what waits behind it would only
/// make them take turns with it.
#[derive(Debug)]
pub(crate) struct Pace {
    run: Average,
    blocked: Average,
}

/// A run of a handler that has begun.
#[derive(Debug)]
pub(crate) struct Run {
    begin: Instant,
    /// How often the thread had given up its core: asked only of long handlers, as it costs a call.
    waits: Option<libc::c_long>,
}

impl Run {
    pub(crate) fn begin(&self) -> Instant {
        self.begin
    }
}

impl Pace {
    /// A handler never seen counts as slow.
    pub(crate) const fn new() -> Pace {
        Pace { run: Average::unknown(), blocked: Average::unknown() }
    }

    /// Whether it takes so long that nothing should wait for its end.
    pub(crate) fn is_long(&self) -> bool {
        self.run.is_long()
    }

    /// Whether it is long, and leaves its core to others meanwhile.
    pub(crate) fn blocks(&self) -> bool {
        self.is_long() && self.blocked.is_long()
    }

    /// By the thread that runs it.
    pub(crate) fn start(&self) -> Run {
        Run { begin: Instant::now(), waits: if self.is_long() { waits() } else { None } }
    }

    pub(crate) fn finish(&self, run: &Run, end: Instant) {
        let waited = run.waits.and_then(|before| waits().map(|after| after != before));
        self.record(end.saturating_duration_since(run.begin), waited);
    }

    fn record(&self, took: Duration, waited: Option<bool>) {
        let took = tenths(took);
        self.run.add(took);
        match waited {
            Some(waited) => self.blocked.add(if waited { took } else { 0 }),
            // Of one that was never long the machine may have been busy. The next will tell.
            None if took > LONG => {}
            None => self.blocked.add(took),
        }
    }
}

impl Default for Pace {
    fn default() -> Pace {
        Pace::new()
    }
}

/// How often this thread has waited for something so far; not counted is what took its core away.
fn waits() -> Option<libc::c_long> {
    getrusage(UsageWho::RUSAGE_THREAD).ok().map(|usage| usage.voluntary_context_switches())
}

/// Of a microsecond.
fn tenths(took: Duration) -> u32 {
    u32::try_from(took.as_nanos() / 100).map_or(MOST, |took| took.min(MOST))
}

/// A moving average, in units of a tenth of a microsecond.
#[derive(Debug)]
struct Average(AtomicU32);

/// A handler that takes longer than this is worth waking another worker for.
const LONG: u32 = 1_000;
/// What one run counts at most: enough to be long at once, and soon forgotten if it was the machine
/// that was busy.
const MOST: u32 = 8 * LONG;

impl Average {
    const fn unknown() -> Average {
        Average(AtomicU32::new(LONG + 1))
    }

    fn is_long(&self) -> bool {
        self.0.load(Ordering::Relaxed) > LONG
    }

    /// An update lost to a race with another worker does no harm to an average.
    fn add(&self, took: u32) {
        let old = self.0.load(Ordering::Relaxed);
        let new = old - old / 8 + took / 8;
        if new != old {
            self.0.store(new, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_micros(2);
    const SLOW: Duration = Duration::from_millis(5);

    /// As `finish` does it, of one that blocks, or computes.
    fn runs(pace: &Pace, n: usize, took: Duration, waited: bool) {
        (0..n).for_each(|_| pace.record(took, pace.is_long().then_some(waited)));
    }

    #[test]
    fn unknown_is_slow_then_learned_then_forgotten() {
        let pace = Pace::new();
        assert!(pace.is_long() && pace.blocks());
        runs(&pace, 1, FAST, false);
        assert!(!pace.is_long());
        runs(&pace, 2, SLOW, true);
        assert!(pace.blocks(), "the second is looked at");
        runs(&pace, 16, FAST, false);
        assert!(!pace.is_long());
        runs(&pace, 10, Duration::from_secs(86_400), true);
        runs(&pace, 1, FAST, false);
        assert!(pace.blocks(), "one of its kind, once fast");
    }

    #[test]
    fn one_that_computes_is_long_and_does_not_block() {
        let pace = Pace::new();
        for _ in 0..100 {
            runs(&pace, 1, SLOW, false);
            assert!(pace.is_long() && !pace.blocks());
        }
        runs(&pace, 2, SLOW, true);
        assert!(pace.blocks());
    }

    #[test]
    fn a_core_that_was_taken_away_once_is_no_wait() {
        let pace = Pace::new();
        runs(&pace, 9, FAST, false);
        runs(&pace, 1, SLOW, false);
        assert!(pace.is_long() && !pace.blocks());
    }

    #[test]
    fn a_wait_is_told_from_work() {
        let millisecond = Duration::from_millis(1);
        let pace = Pace::new();
        let run = pace.start();
        std::thread::park_timeout(millisecond);
        pace.finish(&run, run.begin() + millisecond);
        assert!(pace.blocks());
        let pace = Pace::new();
        let run = pace.start();
        pace.finish(&run, run.begin() + millisecond);
        assert!(pace.is_long() && !pace.blocks());
    }
}
