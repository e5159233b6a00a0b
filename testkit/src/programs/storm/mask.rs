//! The signals that end storm: one thread of it receives them, and no program that it starts less
//! than it should.

use nix::sys::signal::SigSet;
use testkit::Signal;

pub(crate) fn fatal() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGHUP].into_iter().collect()
}

/// Must run before the first thread starts, so that only the guard receives the signals.
pub(crate) fn block() {
    let _ = fatal().thread_block();
}

/// Starts a program with the original mask, because it would inherit the blocked signals.
pub(crate) fn unblocked<T>(start: impl FnOnce() -> T) -> T {
    let _ = fatal().thread_unblock();
    let started = start();
    block();
    started
}
