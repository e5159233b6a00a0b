//! A log file that is rotated: USR1 opens it again (logrotate's `postrotate`).
//!
//! ```text
//! $ cargo run --example log_reopen -- 127.0.0.1:8001 requests.log
//! $ curl http://127.0.0.1:8001/one
//! ok
//! $ mv requests.log requests.log.1
//! $ kill -USR1 PID
//! $ curl -A me -e http://a.example/ http://127.0.0.1:8001/two
//! ok
//! $ cat requests.log.1
//! 127.0.0.1 - - [...] "GET /one HTTP/1.1" 200 3 "-" "curl/..."
//! $ cat requests.log
//! 127.0.0.1 - - [...] "GET /two HTTP/1.1" 200 3 "http://a.example/" "me"
//! ```
//!
//! Without the signal it is opened again as well, within a second of the next line: so a process that drains after a handover
//! does not write to the old file until its end.

use heirloom::prelude::*;
use heirloom::wrap::{AccessFormat, AccessLog};
use heirloom::{LogFile, handover};

fn main() -> Result<(), heirloom::Error> {
    handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut args = std::env::args().skip(1);
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let path = args.next().unwrap_or_else(|| "requests.log".to_owned());
    let file = LogFile::open(path).map_err(handover::fail)?;
    log::info!("pid {}", std::process::id());
    let handler = (|_: Request| "ok\n").wrap(AccessLog::new().format(AccessFormat::Combined).to_file(&file));
    Server::new(handler).listen(listen).process(ProcessConfig::new().log_file(&file)).serve()
}
