//! Two listeners in one process with a handler each: one is public, the other is internal and has workers of its own, so that
//! it responds while visitors keep all others busy. They share state, and are handed over together.
//!
//! ```text
//! $ cargo run --example two_listeners -- 127.0.0.1:8001 127.0.0.1:8002
//! $ curl http://127.0.0.1:8001/
//! welcome, visitor 1
//! $ curl http://127.0.0.1:8001/
//! welcome, visitor 2
//! $ curl http://127.0.0.1:8002/visitors
//! 2
//! $ curl http://127.0.0.1:8001/visitors
//! 404 Not Found
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use heirloom::prelude::*;

fn main() -> Result<(), heirloom::Error> {
    heirloom::handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut args = std::env::args().skip(1);
    let public = args.next().unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let private = args.next().unwrap_or_else(|| "127.0.0.1:8002".to_owned());

    let visitors = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&visitors);
    let site = Router::new().get("/", move |_: Request| {
        format!("welcome, visitor {}\n", counted.fetch_add(1, Ordering::Relaxed) + 1)
    });
    let office =
        Router::new().get("/visitors", move |_: Request| format!("{}\n", visitors.load(Ordering::Relaxed)));
    log::info!("pid {}", std::process::id());
    Server::new(site).listen(public).listen(Listen::new(private).handler(office).workers(2)).serve()
}
