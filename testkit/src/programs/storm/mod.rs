//! Load with exact accounting while a server is handed over again and again: every request of
//! clients that never retry has exactly one outcome, and the sums must match.
//!
//! `cargo build --release -p testkit --bin testkit --bin kitchen_sink`, then `target/release/testkit storm --upgrades 100`;
//! `--selftest` shows that storm sees every fault it has a name for.
//!
//! Imports of its modules point down only:
//! `run`, `selftest` and `streams_move` over `soak`, over `rounds`, over `client` with `divided`, `streams` with `messages`, `herd`, `server`, `report`, over `link`, over
//! `socket` and `tally`, and `socket` over `tls`.

mod asking;
mod binaries;
mod client;
mod divided;
mod flags;
mod guard;
mod halt;
mod herd;
mod histogram;
mod link;
mod mask;
mod messages;
mod report;
mod rounds;
mod run;
mod selftest;
mod server;
mod soak;
mod socket;
mod streams;
mod streams_move;
mod tally;
mod tls;
mod windows;

use std::io::Write;

pub(super) use streams_move::main as streams_move;

use flags::{Flags, USAGE};

use super::MainResult;

pub(super) fn main(args: &[String]) -> MainResult {
    if let Some("--help" | "-h") = args.first().map(String::as_str) {
        println!("{USAGE}");
        return Ok(());
    }
    // Before any thread starts, so that none but the guard takes them.
    mask::block();
    let flags = Flags::parse(args.iter().cloned());
    let status = match flags {
        Ok(flags) if flags.selftest => status_of(selftest::run().map(|text| (text, true))),
        Ok(flags) => status_of(run::run(&flags)),
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "storm: {problem}\nTry 'testkit storm --help'.");
            2
        }
    };
    std::process::exit(status);
}

/// Prints the result; the text has its table printed already.
fn status_of(result: Result<(String, bool), String>) -> i32 {
    match result {
        Ok((text, good)) => {
            let _ = writeln!(std::io::stdout(), "{text}");
            i32::from(!good)
        }
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "storm: {problem}");
            1
        }
    }
}
