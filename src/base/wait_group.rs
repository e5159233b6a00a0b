//! Counts what must end before the process may: guards, a mutex and a condvar. Each worker counts
//! on a cache line of its own, and nobody is woken who does not wait.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use crossbeam_utils::CachePadded;

/// A count of guards that can be waited for. Clones share the count, and the line it is kept on.
#[derive(Clone, Debug)]
pub(crate) struct WaitGroup {
    lines: Arc<Mutex<Vec<Arc<CachePadded<Line>>>>>,
    own: Arc<CachePadded<Line>>,
}

/// What was begun and what ended of one worker's. Both only grow, so that a sum of all lines can't
/// show an end without its beginning.
#[derive(Debug)]
struct Line {
    begun: AtomicUsize,
    ended: AtomicUsize,
    waiter: Arc<Waiter>,
}

#[derive(Debug, Default)]
struct Waiter {
    waits: AtomicBool,
    lock: Mutex<()>,
    ended: Condvar,
}

/// One thing begun and not finished.
#[derive(Debug)]
pub(crate) struct Guard {
    line: Arc<CachePadded<Line>>,
}

impl WaitGroup {
    pub(crate) fn new() -> WaitGroup {
        let own = Line::new(Arc::default());
        WaitGroup { lines: Arc::new(Mutex::new(vec![Arc::clone(&own)])), own }
    }

    /// The same count, kept on another line: for one more thread.
    pub(crate) fn on_own_line(&self) -> WaitGroup {
        let own = Line::new(Arc::clone(&self.own.waiter));
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&own));
        WaitGroup { lines: Arc::clone(&self.lines), own }
    }

    pub(crate) fn guard(&self) -> Guard {
        self.own.begun.fetch_add(1, Ordering::SeqCst);
        Guard { line: Arc::clone(&self.own) }
    }

    /// What was begun and had not ended at some moment of this call, if that is none; else about so
    /// many.
    pub(crate) fn count(&self) -> usize {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: fn(&Line) -> &AtomicUsize| {
            lines.iter().fold(0usize, |sum, line| sum.wrapping_add(of(line).load(Ordering::SeqCst)))
        };
        let ended = sum(|line| &line.ended);
        sum(|line| &line.begun).wrapping_sub(ended)
    }

    /// Waits until there is no guard; false if there still is one at `deadline`.
    pub(crate) fn wait_until(&self, deadline: Instant) -> bool {
        let waiter = &self.own.waiter;
        let mut lock = waiter.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the count is looked at: whoever ends later sees that somebody waits.
        waiter.waits.store(true, Ordering::SeqCst);
        while self.count() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            lock = waiter.ended.wait_timeout(lock, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Line {
    fn new(waiter: Arc<Waiter>) -> Arc<CachePadded<Line>> {
        Arc::new(CachePadded::new(Line { begun: AtomicUsize::new(0), ended: AtomicUsize::new(0), waiter }))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.line.ended.fetch_add(1, Ordering::SeqCst);
        let waiter = &self.line.waiter;
        if waiter.waits.load(Ordering::SeqCst) {
            // Under the lock that the waiter counts under: it can't miss this between the two.
            let _lock = waiter.lock.lock().unwrap_or_else(PoisonError::into_inner);
            waiter.ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn waits_for_the_last_guard_wherever_it_went() {
        let group = WaitGroup::new();
        assert!(group.wait_until(Instant::now()));
        let lines = [group.clone(), group.on_own_line(), group.on_own_line()];
        let guards: Vec<Guard> = lines.iter().cycle().take(8).map(WaitGroup::guard).collect();
        assert_eq!(group.count(), 8);
        assert!(!group.wait_until(Instant::now()));
        let threads: Vec<_> = guards
            .into_iter()
            .map(|guard| thread::Builder::new().spawn(move || drop(guard)).unwrap())
            .collect();
        assert!(group.wait_until(Instant::now() + Duration::from_secs(60)));
        threads.into_iter().for_each(|t| t.join().unwrap());
    }

    #[test]
    fn gives_up_at_the_deadline() {
        let group = WaitGroup::new();
        let _guard = group.guard();
        assert!(!group.wait_until(Instant::now() + Duration::from_millis(5)));
    }
}
