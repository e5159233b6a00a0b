//! A server with two listeners, each with its own workers:
//! `lanes PUBLIC OFFICE`, where PUBLIC has two, and OFFICE one.

use std::time::Duration;

use heirloom::prelude::*;

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(600);

fn main() -> Result<(), heirloom::Error> {
    heirloom::handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    log::info!("pid {}", std::process::id());
    let pid = |_: Request| std::process::id().to_string();
    let until_drain = move |req: Request| {
        let _ = req.drain().wait(FOR_EVER);
        pid(req)
    };
    Server::new(Router::new().get("/pid", pid).get("/until-drain", until_drain))
        .timeouts(Timeouts::new().probation(Duration::ZERO))
        .listen(Listen::new(&args[0]).workers(2))
        .listen(Listen::new(&args[1]).workers(1).backlog(16))
        .serve()
}
