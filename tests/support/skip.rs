//! The one way by which a test is skipped, for the tests of every package.

#![allow(unreachable_pub, reason = "testkit exports it, the others do not")]

use std::fs::OpenOptions;
use std::io::Write;

/// Says that the test of this thread is skipped: it must not look passed. The file that `HEIRLOOM_SKIPS` names gets a line
/// for each, which `.ci/run` counts.
///
/// # Panics
/// When that file can't be written.
pub fn skip(why: &str) {
    let why = why.trim_end().replace('\n', "; ");
    eprintln!("SKIPPED: {why}");
    if let Some(path) = std::env::var_os("HEIRLOOM_SKIPS") {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or_default();
        let file = OpenOptions::new().append(true).open(path);
        file.and_then(|mut file| file.write_all(format!("{test}\t{why}\n").as_bytes()))
            .expect("a file for skipped tests");
    }
}
