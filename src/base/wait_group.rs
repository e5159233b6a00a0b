//! Counts what must end before the process may: requests, streams, upgraded connections.
//!
//! Each worker counts on its own cache line, and starts and ends are counted apart, so that the sum over all lines is
//! never zero while something is in flight. An end is reported only if a thread waits: std's condvar makes a system
//! call for each `notify_all`, with or without waiters, which cost 0.7 to 1 futex per request.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::base::sync::lock;

/// A count of guards that can be waited for. Clones share the count, and the line it is kept on.
#[derive(Clone)]
pub(crate) struct WaitGroup {
    lines: Arc<Mutex<Vec<Arc<WorkerCounts>>>>,
    own: Arc<WorkerCounts>,
}

/// Starts and ends counted by one worker. Both only grow, so that a sum over all lines can't include an end without its
/// start. On cache lines of its own: two, because processors fetch them in pairs.
#[repr(align(128))]
struct WorkerCounts {
    started: AtomicUsize,
    ended: AtomicUsize,
    waiter: Arc<Waiter>,
}

#[derive(Default)]
struct Waiter {
    waits: AtomicBool,
    report: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// One operation in flight.
pub(crate) struct WaitGuard {
    line: Arc<WorkerCounts>,
}

impl WaitGroup {
    pub(crate) fn new() -> WaitGroup {
        let own = WorkerCounts::new(Arc::default());
        WaitGroup { lines: Arc::new(Mutex::new(vec![Arc::clone(&own)])), own }
    }

    /// The same count on a new line, for another thread.
    pub(crate) fn on_own_line(&self) -> WaitGroup {
        let own = WorkerCounts::new(Arc::clone(&self.own.waiter));
        lock(&self.lines).push(Arc::clone(&own));
        WaitGroup { lines: Arc::clone(&self.lines), own }
    }

    pub(crate) fn guard(&self) -> WaitGuard {
        self.own.started.fetch_add(1, Ordering::SeqCst);
        WaitGuard { line: Arc::clone(&self.own) }
    }

    /// The number of guards: exact if it is zero at some moment of this call, otherwise approximate.
    pub(crate) fn count(&self) -> usize {
        let lines = lock(&self.lines);
        let sum = |of: fn(&WorkerCounts) -> &AtomicUsize| {
            lines.iter().fold(0usize, |sum, line| sum.wrapping_add(of(line).load(Ordering::SeqCst)))
        };
        let ended = sum(|line| &line.ended);
        sum(|line| &line.started).wrapping_sub(ended)
    }

    /// Sets the function that is called at each end of a guard after a call of `is_idle`.
    pub(crate) fn report_ends(&self, report: impl Fn() + Send + Sync + 'static) {
        let _ = self.own.waiter.report.set(Box::new(report));
    }

    /// Whether there is no guard. If there is one, its end will be reported.
    pub(crate) fn is_idle(&self) -> bool {
        // Set before the count is read, so that an end that the count misses sees it.
        self.own.waiter.waits.store(true, Ordering::SeqCst);
        self.count() == 0
    }
}

impl WorkerCounts {
    fn new(waiter: Arc<Waiter>) -> Arc<WorkerCounts> {
        Arc::new(WorkerCounts { started: AtomicUsize::new(0), ended: AtomicUsize::new(0), waiter })
    }
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        self.line.ended.fetch_add(1, Ordering::SeqCst);
        let waiter = &self.line.waiter;
        if waiter.waits.load(Ordering::SeqCst) {
            waiter.report.get().into_iter().for_each(|report| report());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_last_end_is_reported_wherever_its_guard_went() {
        let group = WaitGroup::new();
        let (report, reports) = channel();
        group.report_ends(move || report.send(()).unwrap());
        let lines = [group.clone(), group.on_own_line(), group.on_own_line()];
        let guards: Vec<WaitGuard> = lines.iter().cycle().take(8).map(WaitGroup::guard).collect();
        drop(group.guard());
        assert_eq!((group.count(), reports.try_iter().count()), (8, 0), "nobody has asked");
        assert!(!group.is_idle());
        let threads: Vec<_> = guards
            .into_iter()
            .map(|guard| thread::Builder::new().spawn(move || drop(guard)).unwrap())
            .collect();
        while !group.is_idle() {
            reports.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        threads.into_iter().for_each(|t| t.join().unwrap());
    }
}
