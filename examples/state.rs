//! State that handlers share, without globals: created in `main`, and passed to the handlers that need it.
//!
//! ```text
//! $ cargo run --example state -- 127.0.0.1:8001
//! $ curl -X POST http://127.0.0.1:8001/votes/tea
//! tea: 1
//! $ curl -X POST http://127.0.0.1:8001/votes/coffee
//! coffee: 1
//! $ curl -X POST http://127.0.0.1:8001/votes/tea
//! tea: 2
//! $ curl http://127.0.0.1:8001/votes
//! coffee: 1
//! tea: 2
//! 3 votes in all
//! $ kill -HUP PID
//! $ curl http://127.0.0.1:8001/votes
//! 0 votes in all
//! ```
//!
//! State in memory belongs to one process: the new generation starts without it. The example `exclusive_lock` passes some
//! on, and `shortener` keeps it in a database that both generations have open.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use heirloom::prelude::*;
use heirloom::with_state;

/// All workers use it at once, so a changing field has a lock or is atomic.
#[derive(Default)]
struct Poll {
    votes: Mutex<BTreeMap<String, u64>>,
    all: AtomicU64,
}

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let poll = Arc::new(Poll::default());
    let router =
        Router::new().post("/votes/{what}", with_state(&poll, vote)).get("/votes", with_state(&poll, result));
    log::info!("pid {}", std::process::id());
    Server::new(router).listen(listen).serve()
}

fn vote(poll: &Poll, req: Request) -> String {
    let what = req.param("what").unwrap_or_default();
    // The lock is held for the count alone, not while the response is made or sent.
    let votes = {
        let mut votes = poll.votes.lock().unwrap_or_else(PoisonError::into_inner);
        let count = votes.entry(what.to_owned()).or_default();
        *count += 1;
        *count
    };
    poll.all.fetch_add(1, Ordering::Relaxed);
    format!("{what}: {votes}\n")
}

fn result(poll: &Poll, _: Request) -> String {
    let votes = poll.votes.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut text = String::new();
    for (what, votes) in votes {
        let _ = writeln!(text, "{what}: {votes}");
    }
    text + &format!("{} votes in all\n", poll.all.load(Ordering::Relaxed))
}
