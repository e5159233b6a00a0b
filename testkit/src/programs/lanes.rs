//! A server with two listeners, each with its own workers:
//! `lanes PUBLIC OFFICE`, where PUBLIC has two, and OFFICE one.

use std::time::Duration;

use heirloom::prelude::*;

use super::{MainResult, start_log};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

pub(super) fn main(args: &[String]) -> MainResult {
    heirloom::handover::init()?;
    start_log();
    let pid = |_: Request| std::process::id().to_string();
    let until_drain = move |req: Request| {
        let _ = req.drain().wait(LONG);
        pid(req)
    };
    Ok(Server::new(Router::new().get("/pid", pid).get("/until-drain", until_drain))
        .timeouts(Timeouts::new().probation(Duration::ZERO))
        .listen(Listen::new(&args[0]).workers(2))
        .listen(Listen::new(&args[1]).workers(1).backlog(16))
        .serve()?)
}
