//! The kit of the tests that run real processes: start one, wait for what its log says, ask it as a
//! client that never retries, look at it from outside. Everything has a deadline, and nothing is
//! ever waited for by time alone.

mod browser;
mod client;
mod crowd;
mod facts;
mod family;
pub mod golden;
pub mod handover;
mod journal;
mod notify;
mod proc;
mod shell;
#[path = "../../tests/support/skip.rs"]
mod skip;

use std::time::{Duration, Instant};

pub use browser::Browser;
pub use client::{Addr, Client, End, Outcome, Response, get};
pub use crowd::{Crowd, Tally};
pub use facts::{Facts, expect_calm};
pub use family::Exit;
pub use nix::sys::signal::Signal;
pub use nix::unistd::Pid;
pub use notify::{Notice, NotifySocket, monotonic_usec, pidfd_number};
pub use proc::Proc;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
pub use shell::{LogPipe, Shell, lacks, unshare};
pub use skip::skip;

/// How long a test waits for an event that is expected immediately. A busy machine needs part of it.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Starts `kitchen_sink` with these flags on a free port.
#[macro_export]
macro_rules! kitchen_sink {
    ($($flag:expr),* $(,)?) => {
        $crate::Proc::start(env!("CARGO_BIN_EXE_kitchen_sink"), &[$($flag.as_ref()),*])
    };
}

/// Starts `slow_ok`, whose response takes so many seconds, on a free port.
#[macro_export]
macro_rules! slow_ok {
    ($seconds:literal) => {
        $crate::Proc::start(env!("CARGO_BIN_EXE_slow_ok"), &["--seconds", stringify!($seconds)])
    };
}

/// Lets `time` pass between things that happen at unrelated times.
pub fn pass(time: Duration) {
    let (_silence, tick) = std::sync::mpsc::channel::<()>();
    let _ = tick.recv_timeout(time);
}

/// Polls until `fact` holds: for facts without an event.
///
/// # Panics
/// At the deadline.
#[track_caller]
pub fn until(what: &str, mut fact: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !fact() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        pass(Duration::from_millis(5));
    }
}

/// Lets this process, and those it starts, open as many files as it may; how many that is, and the
/// hard limit.
pub fn raise_nofile() -> (u64, u64) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    (current.unwrap_or(u64::MAX), maximum.unwrap_or(u64::MAX))
}

/// Runs `work` beside the test on a named thread.
///
/// # Panics
/// If no thread can be started.
pub fn beside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).expect("a thread")
}
