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
//! The log shows the pid. The old process answers the first two requests and exits, the new process answers the last one.
//! Without `--seconds` a response takes 30 s.

use std::io::Write;
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
    let router = Router::new().get("/ok", move |_: Request| slow_ok(seconds));
    Server::new(router).listen(listen).serve()
}

fn slow_ok(seconds: u64) -> &'static str {
    for i in 1..=seconds {
        // `println!` would panic when the terminal is gone.
        let _ = writeln!(std::io::stdout(), "{} handling request {i}", std::process::id());
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
