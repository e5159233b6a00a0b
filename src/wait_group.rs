//! Counts what must end before the process may: a mutex, a condvar, and guards.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// A count of guards that can be waited for. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(crate) struct WaitGroup {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    count: Mutex<usize>,
    zero: Condvar,
}

/// One thing begun and not finished.
#[derive(Debug)]
pub(crate) struct Guard {
    inner: Arc<Inner>,
}

impl WaitGroup {
    pub(crate) fn guard(&self) -> Guard {
        *self.inner.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Guard { inner: Arc::clone(&self.inner) }
    }

    pub(crate) fn count(&self) -> usize {
        *self.inner.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is no guard; false if there still is one at `deadline`.
    pub(crate) fn wait_until(&self, deadline: Instant) -> bool {
        let mut count = self.inner.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            count = self.inner.zero.wait_timeout(count, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Counting and checking under the lock that the waiter checks under: it can't miss zero.
        let mut count = self.inner.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count -= 1;
        if *count == 0 {
            self.inner.zero.notify_all();
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
        let group = WaitGroup::default();
        assert!(group.wait_until(Instant::now()));
        let guards: Vec<Guard> = (0..8).map(|_| group.guard()).collect();
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
        let group = WaitGroup::default();
        let _guard = group.guard();
        assert!(!group.wait_until(Instant::now() + Duration::from_millis(5)));
    }
}
