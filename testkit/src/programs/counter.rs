//! A server of a protocol of its own, which numbers the client's bytes and moves to the next process.

use std::io::{self, Read, Write};
use std::time::Duration;

use heirloom::Waited;
use heirloom::prelude::*;
use heirloom::upgrade::{self, Upgraded};

use super::{MainResult, start_log};

pub(super) fn main(_: &[String]) -> MainResult {
    heirloom::handover::init()?;
    start_log();
    let start = |_: Request| {
        let body = Body::upgrade(|io| drop(count(io, 0)));
        let fields = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "count")];
        (StatusCode::SWITCHING_PROTOCOLS, fields, body).into_response().resumable("bytes")
    };
    let resumed = upgrade::resumed(|io, state| drop(state.parse().and_then(|n| count(io, n))));
    Ok(Server::new(Router::new().get("/count", start))
        .resume("bytes", resumed)
        .timeouts(Timeouts::new().probation(Duration::ZERO))
        .listen("127.0.0.1:0")
        .serve()?)
}

/// A line for each byte: its number and the process.
fn count(mut io: Upgraded, mut n: u64) -> io::Result<()> {
    while let Waited::Readable = io.wait(None)? {
        if io.read(&mut [0])? == 0 {
            return Ok(());
        }
        n += 1;
        writeln!(io, "{n} {}", std::process::id())?;
    }
    io.hand_over(n.to_string())
}
