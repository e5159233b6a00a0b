//! What the slot table and the queue are made of: std's own, or loom's, which tries every order of
//! steps: `RUSTFLAGS="--cfg loom" cargo test --release --lib loom`.

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
