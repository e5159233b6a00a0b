//! Locks. The slot table and the queue use std's, or under test loom's, which tries every order of steps:
//! `RUSTFLAGS="--cfg loom" cargo test --lib loom`.

use std::sync::{Mutex as StdMutex, MutexGuard as StdGuard, PoisonError};

#[cfg(not(all(test, loom)))]
pub(crate) use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    sync::{Mutex, MutexGuard},
    thread::{Thread, current, park},
};

#[cfg(all(test, loom))]
pub(crate) use loom::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    sync::{Mutex, MutexGuard},
    thread::{Thread, current, park},
};

/// Locks `mutex`, also after a thread panicked while it held the lock: no code here leaves the value behind a lock
/// half-changed, and one panic must not become many.
pub(crate) fn lock<T: ?Sized>(mutex: &StdMutex<T>) -> StdGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], for code that loom tests.
pub(crate) fn lock_checked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
