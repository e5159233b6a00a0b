//! A deadline for the routes of a service: the client gets a 503 in time, although the handler still runs.
//!
//! ```text
//! $ cargo run --example deadlines -- 127.0.0.1:8001
//! $ curl -i http://127.0.0.1:8001/slow/5000
//! HTTP/1.1 503 Service Unavailable
//! ...
//! Connection: close
//! ...
//! 503 Service Unavailable
//! $ curl http://127.0.0.1:8001/slow/10
//! done, with time to spare
//! $ curl http://127.0.0.1:8001/patient/700
//! done, without a deadline
//! $ kill PID
//! [... WARN  heirloom::http] GET /slow/{ms}: has returned past its deadline, in its handler for ... of 500.0ms, on heirloom-worker-...
//! ```

use std::time::{Duration, Instant};

use heirloom::RouteLimits;
use heirloom::prelude::*;

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let router = Router::new()
        .get("/slow/{ms}", work)
        .get("/patient/{ms}", limited(RouteLimits::new().deadline(None), work));
    log::info!("pid {}", std::process::id());
    Server::new(deadline(Duration::from_millis(500), router)).listen(listen).serve()
}

fn work(req: Request) -> Result<String, InputError> {
    let ms: u64 = req.param_as("ms")?;
    #[expect(clippy::disallowed_methods, reason = "stands for a call of a library that can't be stopped")]
    std::thread::sleep(Duration::from_millis(ms));
    Ok(match req.deadline() {
        None => "done, without a deadline\n".to_owned(),
        Some(at) if at > Instant::now() => "done, with time to spare\n".to_owned(),
        Some(_) => "nobody reads this\n".to_owned(),
    })
}
