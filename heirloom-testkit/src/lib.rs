//! Tests that upgrade **your** [heirloom](https://docs.rs/heirloom) server under load, and count what its clients lose.
//!
//! ```no_run
//! use heirloom_testkit::{Error, Load, Program, Request};
//!
//! # const APP: &str = "";
//! # /*
//! const APP: &str = env!("CARGO_BIN_EXE_app");
//! # */
//!
//! // #[test]
//! fn upgrades_lose_nothing() -> Result<(), Error> {
//!     // In a temporary directory, on a free port.
//!     let mut server = Program::new(APP).args(["--listen", "127.0.0.1:0"]).start()?;
//!     let load = Load::new()
//!         .keep_alive(8)
//!         .close(4)
//!         .get("/ok")
//!         .request(Request::new("POST", "/notes").body("tea").expect_status(201))
//!         .start(&server);
//!     for _ in 0..3 {
//!         load.wait_for(200);
//!         server.upgrade()?; // HUP; returns when the new process serves and the old one has exited
//!     }
//!     load.wait_for(200);
//!     let report = load.stop();
//!     server.stop()?; // TERM
//!     report.assert_nothing_lost();
//!     Ok(())
//! }
//! # fn main() {}
//! ```
//!
//! No client retries: a request without a complete, expected response is lost. [`Report`] says how many were, and how;
//! [`Report::assert_unnoticed`] also demands that no kept connection was closed.
//!
//! What the program has to do: listen on an address that an argument, a variable or a file ([`Program::file`]) names, port 0
//! included. Its addresses are
//! found in /proc, so it needs no logger and no pid file. Its output is kept and shown when something fails. When the
//! [`Server`] is dropped, after a panic too, all its processes are killed, those that handlers have started included.
//!
//! This process becomes a subreaper (`PR_SET_CHILD_SUBREAPER`), so that it learns how each generation ends. Linux only; no TLS.

mod client;
mod load;
mod output;
mod proc_fs;
mod process;
mod report;
mod request;
mod server;

use std::time::{Duration, Instant};

pub use client::{Addr, Client, End, Outcome, Response, get};
pub use load::{Load, RunningLoad};
pub use process::{Ended, Process};
pub use report::{Failure, Report};
pub use request::Request;
pub use server::{Error, Program, Server, Upgrade};

/// For heirloom's own tests; may change at any time.
#[doc(hidden)]
pub mod internal {
    pub use crate::output::Output;
    pub use crate::proc_fs::{descriptors, inode, listening, numbers, polled_sockets, processes_with};
    pub use crate::server::{become_subreaper, spawn};
}

/// How long a client waits for a response, and [`until`] for a fact: 20 s. A busy machine needs part of it.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Lets `time` pass between things that happen at unrelated times.
pub fn pass(time: Duration) {
    let (_silence, tick) = std::sync::mpsc::channel::<()>();
    let _ = tick.recv_timeout(time);
}

/// Polls until `fact` holds: for facts without an event.
///
/// # Panics
/// At the [`DEADLINE`].
#[track_caller]
pub fn until(what: &str, mut fact: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !fact() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        pass(Duration::from_millis(5));
    }
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
