//! USR1 reopens the log file, so that it can be rotated (logrotate's `postrotate`).
//!
//! ```text
//! $ cargo run --example log_reopen -- 127.0.0.1:8001 requests.log
//! $ curl http://127.0.0.1:8001/one
//! ok
//! $ mv requests.log requests.log.1
//! $ curl http://127.0.0.1:8001/two
//! ok
//! $ kill -USR1 PID
//! $ curl http://127.0.0.1:8001/three
//! ok
//! $ cat requests.log.1
//! ... target=/one ...
//! ... target=/two ...
//! $ cat requests.log
//! ... target=/three ...
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use heirloom::prelude::*;
use heirloom::signals::Signal;
use heirloom::wrap::{Access, AccessLog};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    heirloom::handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut args = std::env::args().skip(1);
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let path = args.next().unwrap_or_else(|| "requests.log".to_owned());

    let file = Arc::new(Mutex::new(open(&path)?));
    let written = Arc::clone(&file);
    let log = AccessLog::new().to(move |access: &Access| {
        let mut file = written.lock().unwrap_or_else(PoisonError::into_inner);
        // In one write, because two generations may have the file open.
        if let Err(e) = file.write_all(format!("{access}\n").as_bytes()) {
            log::error!("can't log a request: {e}");
        }
    });
    let reopen = move || match open(&path) {
        Ok(new) => *file.lock().unwrap_or_else(PoisonError::into_inner) = new,
        Err(e) => log::error!("can't open {path}, the old file is written on: {e}"),
    };
    log::info!("pid {}", std::process::id());
    let handler = (|_: Request| "ok\n").wrap(log);
    Server::new(handler)
        .listen(listen)
        .process(ProcessConfig::new().on_signal(Signal::Usr1, reopen))
        .serve()?;
    Ok(())
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
