//! An admin listener (feature `admin`) for operators: health, readiness, metrics and status, on a worker of its own, so that it responds while
//! all others are in handlers.
//!
//! ```text
//! $ cargo run --example admin -- 127.0.0.1:8001 127.0.0.1:8002
//! $ curl http://127.0.0.1:8001/until-drain &
//! told
//! $ curl -o /dev/null -w '%{http_code}' http://127.0.0.1:8002/healthz
//! 200
//! $ curl -o /dev/null -w '%{http_code}' http://127.0.0.1:8002/readyz
//! 200
//! $ curl http://127.0.0.1:8002/metrics | grep -c '^heirloom_'
//! ...
//! $ curl http://127.0.0.1:8002/metrics | grep '^admin_'
//! admin_waiting 1
//! $ kill PID
//! ```
//!
//! The only worker waits in its handler, and the admin listener still responds.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use heirloom::prelude::*;

static WAITING: AtomicU64 = AtomicU64::new(0);

fn main() -> Result<(), heirloom::Error> {
    heirloom::handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut args = std::env::args().skip(1);
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let admin = args.next().unwrap_or_else(|| "127.0.0.1:8002".to_owned());
    let router = Router::new().get("/until-drain", |req: Request| {
        WAITING.fetch_add(1, Ordering::Relaxed);
        let waited = req.drain().wait(Duration::from_secs(600));
        WAITING.fetch_sub(1, Ordering::Relaxed);
        if waited.is_draining() { "told\n" } else { "not told\n" }
    });
    log::info!("pid {}", std::process::id());
    Server::new(router).listen(listen).admin(admin).metrics(metrics).workers(1).serve()
}

/// A metric of our own, beside those of the server.
fn metrics(out: &mut String) {
    let waiting = WAITING.load(Ordering::Relaxed);
    let _ = writeln!(
        out,
        "# HELP admin_waiting Requests that wait for the drain.\n# TYPE admin_waiting gauge\nadmin_waiting {waiting}"
    );
}
