//! A program in which SIGPIPE is not ignored, such as one whose main is written in C: a client that disconnects must not end
//! it. This test has a process of its own, because signals belong to the process.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use heirloom::prelude::*;

use support::{Fixture, Gate};

#[test]
fn no_disconnected_client_raises_a_signal() {
    let raised = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGPIPE, Arc::clone(&raised)).unwrap();
    let router = Router::new()
        .get("/short", |_: Request| "short")
        .get("/bytes", |_: Request| vec![b'x'; 8 << 20])
        .get("/stream", |_: Request| Body::from_reader(std::io::repeat(b'x')));
    let server = Server::new(router).listen("127.0.0.1:0").workers(4);
    let fixture = Fixture::of(Gate::default(), server);
    for path in ["/short", "/bytes", "/stream"] {
        for _ in 0..5 {
            let mut client = fixture.client();
            client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
            // Then a write after a reset fails with EPIPE.
            client.half_close();
            client.take(5);
            client.reset();
        }
    }
    support::eventually("all are gone", || fixture.stats().open == 0);
    assert!(!raised.load(Ordering::SeqCst));
}
