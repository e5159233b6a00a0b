//! How fast a route's handler has been lately: what the wake-up policy of the pool goes by.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

/// How long a handler runs, and for how long of that it blocks.
///
/// One that computes leaves its core to nobody: to wake others for what waits behind it would only
/// make them take turns with it.
#[derive(Debug)]
pub(crate) struct HandlerLatency {
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

impl HandlerLatency {
    /// A handler never seen counts as slow.
    pub(crate) const fn new() -> HandlerLatency {
        HandlerLatency { run: Average::unknown(), blocked: Average::unknown() }
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

impl Default for HandlerLatency {
    fn default() -> HandlerLatency {
        HandlerLatency::new()
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
    fn runs(latency: &HandlerLatency, n: usize, took: Duration, waited: bool) {
        (0..n).for_each(|_| latency.record(took, latency.is_long().then_some(waited)));
    }

    #[test]
    fn unknown_is_slow_then_learned_then_forgotten() {
        let latency = HandlerLatency::new();
        assert!(latency.is_long() && latency.blocks());
        runs(&latency, 1, FAST, false);
        assert!(!latency.is_long());
        runs(&latency, 2, SLOW, true);
        assert!(latency.blocks(), "the second is looked at");
        runs(&latency, 16, FAST, false);
        assert!(!latency.is_long());
        runs(&latency, 10, Duration::from_secs(86_400), true);
        runs(&latency, 1, FAST, false);
        assert!(latency.blocks(), "one of its kind, once fast");
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
    fn a_wait_is_told_from_work() {
        let millisecond = Duration::from_millis(1);
        let latency = HandlerLatency::new();
        let run = latency.start();
        std::thread::park_timeout(millisecond);
        latency.finish(&run, run.begin() + millisecond);
        assert!(latency.blocks());
        let latency = HandlerLatency::new();
        let run = latency.start();
        latency.finish(&run, run.begin() + millisecond);
        assert!(latency.is_long() && !latency.blocks());
    }
}
