//! Requests per second and their latency over a run.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use testkit::beside;

use crate::programs::storm::asking::Mode;
use crate::programs::storm::halt::{Clock, Halt};
use crate::programs::storm::histogram::Histogram;
use crate::programs::storm::tally::Tally;

/// A run has so many intervals.
const INTERVALS: u32 = 180;
/// The modes whose latency is the server's own.
const QUICK: [Mode; 2] = [Mode::Keepalive, Mode::Close];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    /// Its end.
    pub(crate) at: Duration,
    pub(crate) requests_per_second: f64,
    /// In milliseconds, of the quick modes.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

#[derive(Debug)]
pub(crate) struct Timeline {
    intervals: Arc<Mutex<Vec<Interval>>>,
    done: Arc<Halt>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Sum {
    requests: u64,
    quick: Histogram,
}

impl Timeline {
    pub(crate) fn start(
        length: Duration,
        tallies: Vec<(Mode, Arc<Mutex<Tally>>)>,
        clock: &Arc<Clock>,
    ) -> Timeline {
        let every = (length / INTERVALS).max(Duration::from_secs(1));
        let (intervals, done) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Halt::default()));
        let (clock, out, until) = (Arc::clone(clock), Arc::clone(&intervals), Arc::clone(&done));
        let thread = beside("timeline", move || {
            let (mut before, mut began) = (sum(&tallies), clock.began().elapsed());
            loop {
                until.pause(every);
                if until.is_called() {
                    // Its rest is too short to say anything.
                    return;
                }
                let (now, at) = (sum(&tallies), clock.began().elapsed());
                let interval = since(&before, &now, at, at - began);
                out.lock().unwrap_or_else(PoisonError::into_inner).push(interval);
                (before, began) = (now, at);
            }
        });
        Timeline { intervals, done, thread: Some(thread) }
    }

    pub(crate) fn end(&mut self) {
        self.done.call();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    pub(crate) fn intervals(&self) -> Vec<Interval> {
        self.intervals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn sum(tallies: &[(Mode, Arc<Mutex<Tally>>)]) -> Sum {
    let mut sum = Sum::default();
    for (mode, tally) in tallies {
        let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        sum.requests += tally.requests;
        if QUICK.contains(mode) {
            sum.quick.merge(&tally.latency);
        }
    }
    sum
}

fn since(before: &Sum, now: &Sum, at: Duration, length: Duration) -> Interval {
    let quick = now.quick.since(&before.quick);
    let ms = |share| Duration::from_micros(quick.per_mille(share)).as_secs_f64() * 1000.0;
    let requests = u32::try_from(now.requests - before.requests).unwrap_or(u32::MAX);
    Interval {
        at,
        requests_per_second: f64::from(requests) / length.as_secs_f64(),
        p50: ms(500),
        p99: ms(990),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_counts_its_own_requests() {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let tallies = [(Mode::Keepalive, Arc::clone(&tally)), (Mode::Slow, Arc::clone(&tally))];
        let add = |n: u64, ms| {
            let mut tally = tally.lock().unwrap();
            tally.requests += n;
            (0..n).for_each(|_| tally.latency.add(Duration::from_millis(ms)));
        };
        add(1000, 500);
        let before = sum(&tallies);
        assert_eq!((before.requests, before.quick.count()), (2000, 1000));
        add(100, 2);
        let interval = since(&before, &sum(&tallies), Duration::from_secs(20), Duration::from_secs(10));
        assert!((interval.requests_per_second - 20.0).abs() < 1e-9, "{interval:?}");
        assert!((2.0..2.1).contains(&interval.p50) && (2.0..2.1).contains(&interval.p99), "{interval:?}");
    }
}
