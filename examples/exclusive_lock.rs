//! A file that only one generation may write to: released before the successor serves, acquired by it, and acquired again by
//! the old process if the handover fails. The number of lines is passed on as state.
//!
//! ```text
//! $ cargo run --example exclusive_lock -- 127.0.0.1:8001 lines.txt
//! $ curl -d hello http://127.0.0.1:8001/lines
//! 1
//! $ kill -HUP PID
//! $ curl -d 'hello again' http://127.0.0.1:8001/lines
//! 2
//! $ cat lines.txt
//! 1 hello
//! 2 hello again
//! ```

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use heirloom::handover::HandoverState;
use heirloom::prelude::*;
use nix::fcntl::{Flock, FlockArg};

/// The resource that only one generation may hold.
struct Store {
    file: Flock<File>,
    lines: u64,
}

impl Store {
    /// Waits until it is released: a generation that has crashed may need a moment.
    fn open(path: &Path, state: &HandoverState) -> Result<Store, String> {
        let open = || OpenOptions::new().create(true).read(true).append(true).open(path);
        let file = open().map_err(|e| format!("can't open {}: {e}", path.display()))?;
        let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e.to_string())?;
        let lines = match state.version {
            1 => u64::from_le_bytes(state.bytes.clone().try_into().map_err(|_| "not a number of lines")?),
            _ => BufReader::new(&*file).lines().count() as u64,
        };
        Ok(Store { file, lines })
    }
}

fn main() -> Result<(), heirloom::Error> {
    heirloom::handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut args = std::env::args().skip(1);
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let path = PathBuf::from(args.next().unwrap_or_else(|| "lines.txt".to_owned()));

    let store = Arc::new(Mutex::new(None::<Store>));
    let (taken, released) = (Arc::clone(&store), Arc::clone(&store));
    let router = Router::new()
        .post("/lines", move |mut req: Request| add(&store, &mut req))
        .get("/pid", |_: Request| std::process::id().to_string());
    let release = move || -> Result<_, String> {
        let lines = lock(&released).take().map_or(0, |store| store.lines);
        Ok(HandoverState { version: 1, bytes: lines.to_le_bytes().to_vec() })
    };
    let acquire = move |state| -> Result<(), String> {
        *lock(&taken) = Some(Store::open(&path, &state)?);
        Ok(())
    };
    log::info!("pid {}", std::process::id());
    Server::new(router).listen(listen).process(ProcessConfig::new().exclusive(release, acquire)).serve()
}

fn add(store: &Mutex<Option<Store>>, req: &mut Request) -> Response {
    let Ok(text) = req.text() else { return StatusCode::BAD_REQUEST.into_response() };
    match &mut *lock(store) {
        Some(store) => {
            let number = store.lines + 1;
            if let Err(e) = writeln!(store.file, "{number} {}", text.trim()) {
                log::error!("can't write: {e}");
                return StatusCode::INSUFFICIENT_STORAGE.into_response();
            }
            store.lines = number;
            (StatusCode::CREATED, format!("{number}\n")).into_response()
        }
        // Between release and commit, on a connection that has not moved yet.
        None => {
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], "in a moment\n").into_response()
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
