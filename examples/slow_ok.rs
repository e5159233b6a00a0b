//! A slow response that survives an upgrade: the manual test.
//!
//! ```text
//! $ cargo run --example slow_ok -- --listen 127.0.0.1:8001 --seconds 3
//! $ curl http://127.0.0.1:8001/ok &
//! ok
//! $ curl http://127.0.0.1:8001/ok &
//! ok
//! $ kill -HUP PID
//! $ curl http://127.0.0.1:8001/ok
//! ok
//! ```
//!
//! The log shows the pid, and each second of each request is a line of its own: `7683 handling request 2: second 1 of 3`. The
//! old process answers the first two requests and exits, the new process answers the last one, which is its first. Without
//! `--seconds` a response takes 30 s.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use heirloom::prelude::*;

fn main() -> Result<(), heirloom::Error> {
    heirloom::handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let (mut listen, mut seconds) = ("localhost:8001".to_owned(), 30);
    let mut args = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    while let Some(flag) = args.next() {
        match (flag.as_str(), args.next()) {
            ("--listen", Some(value)) => listen = value,
            ("--seconds", Some(value)) => match value.parse() {
                Ok(value) => seconds = value,
                Err(_) => usage(&format!("--seconds {value}: not a number")),
            },
            _ => usage(&format!("{flag}: not understood, or without its value")),
        }
    }
    log::info!("pid {}", std::process::id());
    let requests = AtomicU64::new(0);
    let router = Router::new()
        .get("/ok", move |_: Request| slow_ok(requests.fetch_add(1, Ordering::Relaxed) + 1, seconds));
    Server::new(router).listen(listen).serve()
}

fn slow_ok(request: u64, seconds: u64) -> &'static str {
    let pid = std::process::id();
    for second in 1..=seconds {
        // In one piece, since other processes write there too. `println!` would panic when the terminal is gone.
        let line = format!("{pid} handling request {request}: second {second} of {seconds}\n");
        let _ = std::io::stdout().write_all(line.as_bytes());
        #[expect(clippy::disallowed_methods, reason = "stands for work that takes time")]
        std::thread::sleep(Duration::from_secs(1));
    }
    "ok\n"
}

#[expect(clippy::exit, reason = "a command line that is wrong")]
fn usage(problem: &str) {
    eprintln!("slow_ok: {problem}\nusage: slow_ok [--listen ADDR] [--seconds N]");
    std::process::exit(2);
}
