//! Each refusal: its status, `Connection: close`, a Date (which the client demands of every response),
//! an orderly end, and a reason that is counted and logged. One test, for it reads the log of the
//! whole process.

mod support;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use heirloom::{CloseReason, Limits, Timeouts};
use log::{LevelFilter, Log, Metadata, Record};

use support::*;

struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record.args().to_string());
    }

    fn flush(&self) {}
}

fn was_logged(line: &str) -> bool {
    LINES.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|said| said == line)
}

/// A server on which a client that says this is refused so.
struct Refused {
    status: u16,
    reason: CloseReason,
    says: Vec<u8>,
    fixture: Fixture,
}

impl Refused {
    fn expect(self, row: usize) {
        let Refused { status, reason, says, fixture } = self;
        let mut client = fixture.client();
        let _ = client.try_send(&says);
        let reply = client.reply();
        assert_eq!((reply.status, reply.closes()), (status, true), "row {row}: {reply:?}");
        client.expect_fin();
        drop(client);
        fixture.expect_closes(reason, 1);
        let line = format!("connection closed: {reason}");
        assert!(was_logged(&line), "row {row}: {line}");
    }
}

fn refused(status: u16, reason: CloseReason, says: impl AsRef<[u8]>, fixture: Fixture) -> Refused {
    Refused { status, reason, says: says.as_ref().to_vec(), fixture }
}

fn with_timeouts(timeouts: Timeouts) -> Fixture {
    Fixture::with(|server| server.timeouts(timeouts))
}

#[test]
fn every_refusal_is_sent_counted_and_logged() {
    log::set_logger(&LINES).unwrap();
    log::set_max_level(LevelFilter::Debug);
    let soon = Duration::from_secs(1);
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let post = |path: &str, fields: &str| format!("POST {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let chunked = |path: &str, body: &str| post(path, "Transfer-Encoding: chunked\r\n") + body;
    let slow_heads = || with_timeouts(quick().head(soon));
    let slow_bodies = || with_timeouts(quick().body_stall(soon));
    let limited = |limits: Limits| Fixture::with(|server| server.limits(limits));
    let small = || limited(Limits::new().body_bytes(10));
    let busy = Fixture::with(|server| server.workers(1).timeouts(quick().queue_wait(soon)));
    busy.client().send(support::get("/wait"));
    busy.gate().wait_for(1);
    let alone = limited(Limits::new().connections_per_peer(0));
    let nowhere = Fixture::with(|server| server.temp_dir("/nowhere/at/all"));
    let long = "x".repeat(70_000);

    use CloseReason as R;
    #[rustfmt::skip]
    let table = [
        refused(400, R::Refused, "GET / HTTP/1.1\r\n\r\n", Fixture::new()),
        refused(400, R::Refused, "hello\r\n\r\n", Fixture::new()),
        refused(400, R::Refused, post("/echo", "Content-Length: +5\r\n") + "hello", Fixture::new()),
        refused(400, R::Refused, chunked("/echo", "5 \r\nhello\r\n0\r\n\r\n"), Fixture::new()),
        refused(400, R::BodyUnread, chunked("/count", "5 \r\nhello\r\n0\r\n\r\n"), Fixture::new()),
        refused(404, R::BodyUnread, post("/nowhere", "Content-Length: 5\r\n") + "hello", Fixture::new()),
        refused(405, R::BodyUnread, post("/", "Content-Length: 5\r\n") + "hello", Fixture::new()),
        refused(408, R::HeadTimeout, "GET / HTTP/1.1\r\nHost: h\r\n", slow_heads()),
        refused(408, R::BodyTimeout, post("/echo", "Content-Length: 5\r\n") + "hell", slow_bodies()),
        refused(408, R::BodyTimeout, chunked("/echo", "5\r\nhello\r\n"), slow_bodies()),
        refused(408, R::BodyUnread, post("/count", "Content-Length: 5\r\n") + "hell", slow_bodies()),
        refused(413, R::BodyUnread, post("/echo", "Content-Length: 11\r\n") + "hello, world", small()),
        refused(413, R::BodyUnread, chunked("/echo", "b\r\nhello, worl\r\n0\r\n\r\n"), small()),
        refused(413, R::BodyUnread, chunked("/count", "b\r\nhello, worl\r\n0\r\n\r\n"), small()),
        refused(414, R::Refused, format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", &long[..9_000]), Fixture::new()),
        refused(417, R::Refused, post("/echo", "Expect: x\r\nContent-Length: 5\r\n") + "hello", Fixture::new()),
        refused(431, R::Refused, get(&format!("X: {long}\r\n")), Fixture::new()),
        refused(431, R::Refused, get(&"X: y\r\n".repeat(101)), Fixture::new()),
        refused(431, R::Refused, chunked("/echo", &format!("0\r\nX: {long}\r\n\r\n")), Fixture::new()),
        refused(501, R::Refused, chunked("/echo", "").replace("chunked", "gzip, chunked"), Fixture::new()),
        refused(501, R::Refused, &long, Fixture::new()),
        refused(503, R::Overload, get(""), busy),
        refused(503, R::PeerLimit, get(""), alone),
        refused(503, R::Overload, get(&format!("X: {}", &long[..60_000])), limited(Limits::new().buffered_bytes(10_000))),
        refused(503, R::BodyUnread, post("/echo", "Content-Length: 70000\r\n") + &long, limited(Limits::new().temporary_bytes(10))),
        refused(505, R::Refused, "GET / HTTP/2.0\r\nHost: h\r\n\r\n", Fixture::new()),
        refused(507, R::BodyUnread, post("/echo", "Content-Length: 70000\r\n") + &long, nowhere),
    ];
    // Most of the time is spent waiting for timeouts, so at once.
    let rows = table.into_iter().enumerate().map(|(row, refused)| spawn(move || refused.expect(row)));
    for row in rows.collect::<Vec<_>>() {
        row.join().unwrap();
    }
    assert!(was_logged("refused: 400 Bad Request missing Host"));
}
