//! The kit of the tests that run real processes: start one, wait for what its log says, ask it as a
//! client that never retries, look at it from outside. Everything has a deadline, and nothing is
//! ever waited for by time alone.

mod begin;
mod browser;
mod crowd;
mod facts;
mod family;
pub mod golden;
pub mod handover;
mod notify;
mod proc;
mod shell;
#[path = "../../tests/support/skip.rs"]
mod skip;

pub use begin::Begin;
pub use browser::{Browser, Page};
pub use crowd::{Crowd, Tally};
pub use facts::{Facts, expect_calm};
pub use family::Exit;
pub use heirloom_testkit::{Addr, Client, DEADLINE, End, Outcome, Response, beside, get, pass, until};
pub use nix::sys::signal::Signal;
pub use nix::unistd::Pid;
pub use notify::{Notice, NotifySocket, monotonic_usec, pidfd_number};
pub use proc::Proc;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
pub use shell::{LogPipe, Shell, copy_program, lacks, outside_of_cargo, put_script, unshare};
pub use skip::skip;

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

/// Lets this process, and those it starts, open as many files as it may; how many that is, and the
/// hard limit.
pub fn raise_nofile() -> (u64, u64) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    (current.unwrap_or(u64::MAX), maximum.unwrap_or(u64::MAX))
}
