#![cfg(loom)]
//! Every order of the steps of an acceptor that goes to sleep and a worker that opens a connection.

use std::sync::Arc;

use loom::thread;

use super::*;

#[test]
fn a_connection_opened_while_the_acceptor_goes_to_sleep_ticks() {
    loom::model(|| {
        let shared = Arc::new((Ticking::new(), AtomicBool::new(false)));
        let opens = Arc::clone(&shared);
        let worker = thread::spawn(move || {
            opens.1.store(true, Ordering::Release);
            opens.0.is_off()
        });
        let (ticking, is_open) = &*shared;
        let ticks = ticking.decide(|| is_open.load(Ordering::Acquire));
        let wakes = worker.join().unwrap();
        assert!(ticks || wakes);
    });
}
