//! A server in a program with a main loop and its own signal handling: the program receives the signals, and controls the
//! server by a `Handle`.
//!
//! ```text
//! $ cargo run --example embed -- 127.0.0.1:8001
//! $ curl http://127.0.0.1:8001/
//! served by generation 1
//! $ kill -HUP PID
//! main loop: handing over
//! $ curl http://127.0.0.1:8001/
//! served by generation 2
//! $ kill PID
//! main loop: draining
//! main loop: served ... requests, and is done
//! ```

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use heirloom::prelude::*;
use heirloom::signals::Signals;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The events that this program's main loop waits for.
enum Event {
    Signal(i32),
    Served(Result<(), heirloom::Error>),
}

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    // Before any thread is started, so that what a predecessor left is ours alone.
    heirloom::handover::init()?;
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let (events, wait) = channel();

    // Registered before the server exists, so that signals which arrive while a successor starts are not lost.
    match signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM]) {
        Ok(mut signals) => {
            let events = events.clone();
            beside("signals", move || {
                for signal in signals.forever() {
                    let _ = events.send(Event::Signal(signal));
                }
            });
        }
        Err(e) => log::error!("deaf to signals: {e}"),
    }

    let server = Server::new(|req: Request| format!("served by generation {}\n", req.generation()))
        .listen(listen)
        .process(ProcessConfig::new().signals(Signals::none()));
    let handle = server.handle();
    beside("server", move || {
        let _ = events.send(Event::Served(server.serve()));
    });

    let mut stops = 0;
    loop {
        match wait.recv_timeout(Duration::from_secs(1)) {
            Ok(Event::Signal(SIGHUP)) => {
                log::info!("main loop: handing over");
                handle.handover();
            }
            Ok(Event::Signal(_)) if stops == 0 => {
                log::info!("main loop: draining");
                stops = 1;
                handle.shutdown();
            }
            Ok(Event::Signal(_)) => handle.abort(),
            Ok(Event::Served(outcome)) => {
                let stats = handle.stats();
                log::info!("main loop: served {} requests, and is done", stats.requests);
                return outcome;
            }
            // The program's own work, beside the server.
            Err(RecvTimeoutError::Timeout) => log::debug!("main loop: {}", handle.phase()),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

fn beside(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(e) = thread::Builder::new().name(name.to_owned()).spawn(work) {
        log::error!("no thread for the {name}: {e}");
    }
}
