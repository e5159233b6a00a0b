//! How long a route's handler runs, and whether it blocks. `policy` uses both before a handler is called.
//!
//! - A handler that blocks is distinguished from one that computes by its thread's voluntary context switches (`getrusage`). That
//!   is a system call, so it is asked only about routes that are long. A long run of a route that was never long says
//!   nothing: the machine may have been busy.
//! - A run counts for 0.8 ms at most in the average of its route. Otherwise one that was preempted for 10 ms makes its route
//!   count as long for the next 20 requests, with a futex for each.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

/// How long a handler runs, and for how much of that it blocks.
pub(crate) struct HandlerLatency {
    run: Average,
    blocked: Average,
}

/// A run of a handler.
pub(crate) struct Run {
    begin: Instant,
    /// How often the thread had given up its core; only for long handlers.
    waits: Option<libc::c_long>,
}

impl Run {
    pub(crate) fn begin(&self) -> Instant {
        self.begin
    }
}

impl HandlerLatency {
    /// A handler that never ran counts as long, and as one that blocks.
    pub(crate) const fn new() -> HandlerLatency {
        HandlerLatency { run: Average::unknown(), blocked: Average::unknown() }
    }

    /// Whether it takes so long that no other work should wait for its end.
    pub(crate) fn is_long(&self) -> bool {
        self.run.is_long()
    }

    /// Whether it takes long because it blocks, and leaves its core to others.
    pub(crate) fn blocks(&self) -> bool {
        self.is_long() && self.blocked.is_long()
    }

    /// Called by the thread that runs the handler.
    pub(crate) fn start(&self, begin: Instant) -> Run {
        Run { begin, waits: if self.is_long() { waits() } else { None } }
    }

    /// Returns how long the handler took.
    #[inline]
    pub(crate) fn finish(&self, run: &Run, end: Instant) -> Duration {
        let waited = run.waits.and_then(|before| waits().map(|after| after != before));
        let took = end.saturating_duration_since(run.begin);
        self.record(took, waited);
        took
    }

    fn record(&self, took: Duration, waited: Option<bool>) {
        let took = tenths(took);
        self.run.add(took);
        match waited {
            Some(waited) => self.blocked.add(if waited { took } else { 0 }),
            // It was never long, so the machine may have been busy. The next run shows it.
            None if took > LONG => {}
            None => self.blocked.add(took),
        }
    }
}

impl Default for HandlerLatency {
    fn default() -> HandlerLatency {
        HandlerLatency::new()
    }
}

/// How often this thread has waited for something so far. A preemption does not count.
fn waits() -> Option<libc::c_long> {
    getrusage(UsageWho::RUSAGE_THREAD).ok().map(|usage| usage.voluntary_context_switches())
}

/// In tenths of a microsecond, `MOST` at most.
fn tenths(took: Duration) -> u32 {
    if took.as_secs() > 0 { MOST } else { MOST.min(took.subsec_nanos() / 100) }
}

/// A moving average, in units of a tenth of a microsecond.
struct Average(AtomicU32);

/// A handler that takes longer than this is worth waking another worker for.
const LONG: u32 = 1_000;
/// What one run counts at most: enough to be long at once, and soon forgotten.
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
        let new = old.saturating_sub(old / 8).saturating_add(took / 8);
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

    /// Runs of a handler that waits, or does not.
    fn runs(latency: &HandlerLatency, n: usize, took: Duration, waited: bool) {
        (0..n).for_each(|_| latency.record(took, latency.is_long().then_some(waited)));
    }

    #[test]
    fn an_unknown_handler_is_long_and_averages_follow_what_it_does() {
        let latency = HandlerLatency::new();
        assert!(latency.is_long() && latency.blocks());
        runs(&latency, 1, FAST, false);
        assert!(!latency.is_long());
        runs(&latency, 2, SLOW, true);
        assert!(latency.blocks(), "the second run is measured");
        runs(&latency, 16, FAST, false);
        assert!(!latency.is_long());
        runs(&latency, 10, Duration::from_secs(86_400), true);
        runs(&latency, 1, FAST, false);
        assert!(latency.blocks(), "one fast run after long ones");
    }

    #[test]
    fn one_that_computes_is_long_and_does_not_block() {
        let latency = HandlerLatency::new();
        for _ in 0..100 {
            runs(&latency, 1, SLOW, false);
            assert!(latency.is_long() && !latency.blocks());
        }
        runs(&latency, 2, SLOW, true);
        assert!(latency.blocks());
    }

    #[test]
    fn a_core_that_was_taken_away_once_is_no_wait() {
        let latency = HandlerLatency::new();
        runs(&latency, 9, FAST, false);
        runs(&latency, 1, SLOW, false);
        assert!(latency.is_long() && !latency.blocks());
    }

    #[test]
    fn a_wait_is_distinguished_from_work() {
        let millisecond = Duration::from_millis(1);
        let latency = HandlerLatency::new();
        let run = latency.start(Instant::now());
        std::thread::park_timeout(millisecond);
        latency.finish(&run, run.begin() + millisecond);
        assert!(latency.blocks());
        let latency = HandlerLatency::new();
        let run = latency.start(Instant::now());
        latency.finish(&run, run.begin() + millisecond);
        assert!(latency.is_long() && !latency.blocks());
    }
}
