//! Clients that ask without pause beside a test, and what became of each request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Addr, Client, Outcome, beside, get};

/// Some keep their connection until the server announces its close, others connect again for each
/// request. None of them retries.
#[derive(Debug)]
pub struct Crowd {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

/// The outcomes of the requests of a crowd.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: usize,
    /// With the process that had answered on the same connection before, if one had.
    pub failed: Vec<(Outcome, Option<i32>)>,
}

impl Crowd {
    /// So many of its clients connect again for each request.
    pub const NEW: usize = 2;
    pub const ALL: usize = 2 * Crowd::NEW;

    /// They ask for `/pid` until `stop`. Those that keep their connection have it when this returns.
    pub fn of(addr: &Addr) -> Crowd {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |keeps: bool| {
            let (addr, stop) = (addr.clone(), Arc::clone(&stop));
            let mut kept = keeps.then(|| Client::to(&addr));
            let first = kept.as_mut().map(|client| client.get("/pid"));
            beside("client", move || match kept.zip(first) {
                Some((client, first)) => keep_asking(client, first, &addr, &stop),
                None => ask_anew(&addr, &stop),
            })
        };
        let clients = (0..Crowd::ALL).map(|n| client(n % 2 == 0)).collect();
        Crowd { stop, clients }
    }

    /// Each client finishes its request.
    #[track_caller]
    pub fn stop(mut self) -> Tally {
        self.end().expect("a client panicked")
    }

    fn end(&mut self) -> std::thread::Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for client in self.clients.drain(..) {
            let tally = client.join()?;
            all.answered += tally.answered;
            all.failed.extend(tally.failed);
        }
        Ok(all)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Tally {
    /// True if it was answered.
    fn count(&mut self, outcome: Outcome, before: Option<i32>) -> bool {
        let ok = outcome.is_ok();
        if ok {
            self.answered += 1;
        } else {
            self.failed.push((outcome, before));
        }
        ok
    }
}

fn ask_anew(addr: &Addr, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    // No client sends anything: a closed connection stays in the kernel's tables for a minute, which other tests
    // have to read.
    let (_silence, tick) = std::sync::mpsc::channel::<()>();
    while !stop.load(Ordering::Relaxed) {
        tally.count(get(addr, "/pid"), None);
        let _ = tick.recv_timeout(Duration::from_millis(1));
    }
    tally
}

fn keep_asking(mut client: Client, first: Outcome, addr: &Addr, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let (mut outcome, mut server) = (first, None);
    loop {
        let next = match &outcome {
            Outcome::Ok(response) if !response.closes() => Some(response.number()),
            _ => None,
        };
        tally.count(outcome, server);
        if next.is_none() {
            client = Client::to(addr);
        }
        server = next;
        if stop.load(Ordering::Relaxed) {
            return tally;
        }
        outcome = client.get("/pid");
    }
}
