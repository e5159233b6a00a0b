//! HUP reloads the configuration: the new generation reads it before it takes over. An invalid file costs nothing, because
//! the old generation continues to serve with its configuration.
//!
//! ```text
//! $ echo 'greeting = hello' > app.conf
//! $ cargo run --example config_reload -- 127.0.0.1:8001 app.conf
//! $ curl http://127.0.0.1:8001/
//! hello
//! $ echo 'greeting = good evening' > app.conf
//! $ curl http://127.0.0.1:8001/
//! hello
//! $ kill -HUP PID
//! $ curl http://127.0.0.1:8001/
//! good evening
//! ```
//!
//! Write `greetings = x` into the file, and `kill -HUP PID`: the log of the old generation shows the error, because
//! `handover::fail` reports it there, and nothing changes.

use std::fs;

use heirloom::handover;
use heirloom::prelude::*;

struct Config {
    greeting: String,
}

impl Config {
    fn read(path: &str) -> Result<Config, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("can't read {path}: {e}"))?;
        let mut greeting = None;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
                Some(("greeting", value)) => greeting = Some(value.to_owned()),
                _ => return Err(format!("{path}: not understood: {line}")),
            }
        }
        Ok(Config { greeting: greeting.ok_or_else(|| format!("{path}: no greeting"))? })
    }
}

fn main() -> Result<(), heirloom::Error> {
    handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut args = std::env::args().skip(1);
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let path = args.next().unwrap_or_else(|| "app.conf".to_owned());

    log::info!("pid {}", std::process::id());
    // An error here ends this generation before it has accepted anything.
    let config = Config::read(&path).map_err(handover::fail)?;
    Server::new(move |_: Request| format!("{}\n", config.greeting)).listen(listen).serve()
}
