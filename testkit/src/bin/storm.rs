//! Load with exact accounting while a server is handed over again and again: every request of
//! clients that never retry has exactly one outcome, and the sums must match.
//!
//! `cargo build --release -p testkit --bin storm --bin kitchen_sink`, then `target/release/storm --upgrades 100`;
//! `--selftest` shows that storm sees every fault it has a name for.

#[path = "../storm/mod.rs"]
mod storm;

use std::io::Write;

use storm::flags::{Flags, USAGE};
use storm::mask;

fn main() {
    // Before any thread starts, so that none but the guard takes them.
    mask::block();
    let flags = Flags::parse(std::env::args().skip(1));
    let status = match flags {
        Ok(flags) if flags.selftest => status_of(storm::selftest::run().map(|text| (text, true))),
        Ok(flags) => status_of(storm::run::run(&flags)),
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "storm: {problem}\n{USAGE}");
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
