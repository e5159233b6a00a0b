//! The crate's own sources, which are private to it: what is measured is what servers run.

#[allow(dead_code, reason = "it also adds up and writes")]
#[path = "../../../../../src/base/histogram.rs"]
pub mod histogram;
#[path = "../../../../../src/base/key_hash.rs"]
pub mod key_hash;
#[allow(dead_code, reason = "it also adds up and passes on")]
#[path = "../../../../../src/base/requests.rs"]
pub mod requests;

/// The one function of `base::sync` that they need: the rest of that is loom's.
pub mod sync {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
