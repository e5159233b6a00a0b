//! A bounded sum that all connections share: bytes in memory, bytes in temporary files, descriptors besides those of the
//! connections themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A bounded sum. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Sum>);

#[derive(Debug)]
struct Sum {
    limit: u64,
    held: AtomicU64,
}

/// One holder's part of the sum, returned when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    held: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Budget {
        Budget(Arc::new(Sum { limit, held: AtomicU64::new(0) }))
    }

    /// An empty share.
    pub(crate) fn share(&self) -> Share {
        Share { budget: self.clone(), held: 0 }
    }

    /// A share of one unit, or None if that would exceed the budget.
    pub(crate) fn one(&self) -> Option<Share> {
        let mut share = self.share();
        share.hold(1).then_some(share)
    }

    pub(crate) fn limit(&self) -> u64 {
        self.0.limit
    }

    pub(crate) fn held(&self) -> u64 {
        self.0.held.load(Ordering::Relaxed)
    }
}

impl Share {
    /// Changes this share to `bytes`. False, without a change, if that would exceed the budget.
    pub(crate) fn hold(&mut self, bytes: u64) -> bool {
        let inner = &self.budget.0;
        let Some(more) = bytes.checked_sub(self.held) else {
            inner.held.fetch_sub(self.held.saturating_sub(bytes), Ordering::Relaxed);
            self.held = bytes;
            return true;
        };
        let fits = |held: u64| held.checked_add(more).filter(|sum| *sum <= inner.limit);
        let held = inner.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        if held {
            self.held = bytes;
        }
        held
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.held.fetch_sub(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_sum_is_never_exceeded_and_all_comes_back() {
        let budget = Budget::new(100);
        let (mut a, mut b) = (budget.share(), budget.share());
        assert!(a.hold(60) && !b.hold(41) && b.hold(40));
        assert!(!a.hold(61) && a.hold(10) && b.hold(90) && !a.hold(11) && !b.hold(u64::MAX));
        assert_eq!(budget.held(), 100);
        drop(b);
        assert_eq!(budget.held(), 10);
        drop(a);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn whoever_holds_at_once() {
        let budget = Budget::new(1_000);
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let budget = budget.clone();
                let hold = move || {
                    let mut share = budget.share();
                    for k in 0..10_000u64 {
                        share.hold((k * (n + 7)) % 600);
                        assert!(budget.held() <= 1_000);
                    }
                };
                thread::Builder::new().spawn(hold).unwrap()
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(budget.held(), 0);
    }
}
