//! Writes the state of a process to a file when it ends: after a stop, and after each handover.
//!
//! ```text
//! $ cargo run --example dump_state -- 127.0.0.1:8001 report.txt
//! $ curl http://127.0.0.1:8001/hello
//! counted
//! $ curl http://127.0.0.1:8001/hello
//! counted
//! $ kill PID
//! $ cat report.txt
//! ... /hello 2
//! ```

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use heirloom::prelude::*;

type Hits = Arc<Mutex<BTreeMap<String, u64>>>;

fn main() -> Result<(), heirloom::Error> {
    heirloom::handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut args = std::env::args().skip(1);
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let path = PathBuf::from(args.next().unwrap_or_else(|| "report.txt".to_owned()));

    let hits = Hits::default();
    let counted = Arc::clone(&hits);
    let process = ProcessConfig::new()
        .on_drain(|| log::info!("the last requests are being answered"))
        .on_exit(move || {
            if let Err(e) = dump(&hits, &path) {
                log::error!("can't write {}: {e}", path.display());
            }
        });
    log::info!("pid {}", std::process::id());
    Server::new(move |req: Request| {
        let mut hits = counted.lock().unwrap_or_else(PoisonError::into_inner);
        *hits.entry(req.path().into_owned()).or_default() += 1;
        "counted\n"
    })
    .listen(listen)
    .process(process)
    .serve()
}

/// Written at once, so that two generations that end together don't mix their lines.
fn dump(hits: &Hits, path: &Path) -> io::Result<()> {
    let hits = hits.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = std::process::id();
    let report: String = hits.iter().map(|(path, n)| format!("{pid} {path} {n}\n")).collect();
    OpenOptions::new().create(true).append(true).open(path)?.write_all(report.as_bytes())
}
