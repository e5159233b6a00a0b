//! A fault of a client, of the user's code or of the system costs only the request where it
//! happens: afterwards the server serves, and holds nothing.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heirloom::prelude::*;
use heirloom::upgrade::Upgraded;
use heirloom::{CloseReason, RunningServer};

use crate::support::*;

const KIB: usize = 1 << 10;

/// No client is connected, and nothing is left of earlier ones.
#[track_caller]
fn expect_nothing_left(fixture: &Fixture, accepted: u64) {
    eventually("all have come", || fixture.stats().accepted >= accepted);
    eventually("all are closed", || fixture.stats().open == 0);
    eventually("nothing is left", || {
        let stats = fixture.stats();
        stats.in_flight + stats.queued + stats.detached + stats.buffered_bytes + stats.temporary_bytes == 0
    });
    fixture.client().expect_kept();
}

// Clients.

#[test]
fn a_reset_at_every_byte_of_a_request() {
    let fixture = Fixture::with(|server| server.workers(2));
    let requests = [
        get("/").into_bytes(),
        post("/echo", b"hello"),
        post_chunked("/echo", &[b"hel", b"lo"]),
        post("/count", b"hello"),
        post_chunked("/count", &[b"hel", b"lo"]),
        get("/detached").into_bytes(),
    ];
    let mut accepted = 0;
    for request in &requests {
        for n in 0..=request.len() {
            // At once; and when the server has started the request.
            for is_started in [false, true] {
                let before = fixture.stats().requests;
                let mut client = fixture.client();
                client.send(&request[..n]);
                if is_started && n > 0 {
                    eventually("it is started", || {
                        fixture.stats().in_flight > 0 || fixture.stats().requests > before
                    });
                }
                client.reset();
                accepted += 1;
            }
        }
        expect_nothing_left(&fixture, accepted);
        accepted = fixture.stats().accepted;
    }
}

#[test]
fn a_reset_within_a_body_that_is_in_a_file() {
    let fixture = Fixture::new();
    let request = post("/echo", &patterned(300 * KIB));
    for n in [100 * KIB, 200 * KIB, 300 * KIB] {
        let mut client = fixture.client();
        client.send(&request[..n]);
        eventually("it is in a file", || fixture.stats().temporary_bytes > 50_000);
        client.reset();
        eventually("it is gone", || fixture.stats().temporary_bytes == 0);
    }
    expect_nothing_left(&fixture, 3);
}

/// No further pipelined request is started once the client has disconnected, even if it never had a turn.
#[test]
fn no_handler_is_started_for_a_disconnected_client() {
    let gate = Gate::default();
    let (entered, served) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&served);
    let handler = move |req: Request| {
        counted.fetch_add(1, Ordering::SeqCst);
        entered.pass();
        eventually("its client is gone", || req.is_client_gone());
        let_pass(Duration::from_millis(10));
    };
    let server = Server::new(Router::new().get("/", handler)).listen("127.0.0.1:0").workers(1);
    let fixture = Fixture::of(gate.clone(), server.timeouts(quick()));
    let mut clients = [fixture.client(), fixture.client()];
    clients[0].send(get("/").repeat(60));
    gate.wait_for(1);
    clients[1].send(get("/").repeat(60));
    eventually("it waits", || fixture.stats().queued == 1);
    clients.into_iter().for_each(Client::reset);
    gate.open();
    eventually("both are closed", || fixture.stats().open == 0);
    assert_eq!(served.load(Ordering::SeqCst), 1);
    fixture.expect_closes(CloseReason::Broken, 2);
}

#[test]
fn a_reset_within_a_response() {
    let fixture = Fixture::with(|server| server.workers(2));
    let mut accepted = 0;
    for path in ["/big/3000000", "/stream/3000000", "/zeros/3000000", "/upgrade", "/detached/wait"] {
        for n in [0, 1, 17, 60, 200, 4_096, 65_536, 1_000_000, 2_999_999] {
            // A short response gets no longer.
            if n > 60 && !path.ends_with("000") {
                continue;
            }
            let mut client = Client::with_buffer(fixture.address(), 64 << 10);
            client.send(get(path));
            if path == "/upgrade" {
                client = fixture.client();
                client
                    .send(get(path).replace("\r\n\r\n", "\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n"));
                accepted += 1;
            }
            client.take(n);
            client.reset();
            accepted += 1;
        }
    }
    fixture.gate().open();
    expect_nothing_left(&fixture, accepted);
}

// Lengths.

/// More than was announced is not sent: it would be read as the next response.
#[test]
fn what_is_beyond_the_announced_length_is_cut_off() {
    let file = || {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"hello, more").unwrap();
        io::Seek::rewind(&mut file).unwrap();
        file
    };
    let router = Router::new()
        .get("/", |_: Request| "Hello, World!")
        .get("/reader", |_: Request| Body::from_sized_reader(io::repeat(b'x'), 5))
        .get("/none", |_: Request| Body::from_sized_reader(io::repeat(b'x'), 0))
        .get("/file", move |_: Request| Body::from_file(file(), 5))
        .get("/header", |_: Request| ([("content-length", "3")], "hello"))
        .get("/header/file", |_: Request| ([("content-length", "99")], "hello"));
    let running = serve(router);
    let mut client = client_of(&running);
    for (path, body) in [
        ("/reader", "xxxxx"),
        ("/none", ""),
        ("/file", "hello"),
        ("/header", "hello"),
        ("/header/file", "hello"),
    ] {
        assert_eq!(client.get(path).text(), body, "{path}");
        client.expect_kept();
    }
}

#[test]
fn what_is_short_of_the_announced_length_is_seen() {
    let router = Router::new()
        .get("/", |_: Request| "Hello, World!")
        .get("/reader", |_: Request| Body::from_sized_reader(&b"hello"[..], 6))
        .get("/none", |_: Request| Body::from_sized_reader(io::empty(), 1))
        .get("/file", |_: Request| Body::from_file(tempfile::tempfile().unwrap(), 6));
    let running = serve(router);
    for path in ["/reader", "/none", "/file"] {
        let reply = client_of(&running).get(path);
        assert_eq!((reply.status, reply.trailing), (200, How::Cut(End::Fin)), "{path}");
    }
    eventually("each is counted", || {
        running.handle().stats().closes.contains(&(CloseReason::ResponseFailed, 3))
    });
    client_of(&running).expect_kept();
}

/// An empty chunk would be the end.
#[test]
fn an_empty_write_ends_no_chunked_body() {
    let router = Router::new()
        .get("/detached", |_: Request| {
            Body::writer(|out| {
                out.write_all(b"")?;
                assert_eq!(out.write(b"")?, 0);
                out.write_all(b"one\n")?;
                assert_eq!(out.write(b"")?, 0);
                out.flush()?;
                out.write_all(b"two\n")
            })
        })
        .get("/never", |_: Request| Body::writer(|out| out.write(b"").map(drop)))
        .get("/source", |_: Request| Body::from_reader(b"one\n".chain(io::empty()).chain(&b"two\n"[..])))
        .get("/empty", |_: Request| Body::from_reader(io::empty()));
    let running = serve(router);
    for (path, body) in
        [("/detached", "one\ntwo\n"), ("/never", ""), ("/source", "one\ntwo\n"), ("/empty", "")]
    {
        let reply = client_of(&running).get(path);
        assert_eq!((reply.text().as_str(), reply.trailing), (body, How::Chunked), "{path}");
    }
}

// Panics.

/// Panics when it is dropped, and not before.
#[derive(Clone, Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "as the test wants it");
    }
}

/// Sends hello, then does what `then` says.
struct Hello<F> {
    said: bool,
    then: F,
    _bomb: Option<Bomb>,
}

fn hello<F: FnMut() -> io::Result<usize> + Send + 'static>(bomb: Option<Bomb>, then: F) -> Hello<F> {
    Hello { said: false, then, _bomb: bomb }
}

impl<F: FnMut() -> io::Result<usize>> Read for Hello<F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if std::mem::replace(&mut self.said, true) {
            return (self.then)();
        }
        buf[..5].copy_from_slice(b"hello");
        Ok(5)
    }
}

struct Unanswerable;

impl IntoResponse for Unanswerable {
    fn into_response(self) -> Response {
        panic!("as the test wants it")
    }
}

/// A wrapper that panics at one path.
fn touchy(request: Request, next: Next<'_>) -> Response {
    assert!(request.uri().path() != "/wrapper", "as the test wants it");
    next.call(request)
}

fn serve(handler: impl Handler) -> RunningServer {
    Server::new(handler).listen("127.0.0.1:0").workers(WORKERS).timeouts(quick()).spawn().unwrap()
}

fn client_of(running: &RunningServer) -> Client {
    Client::to(running.addresses()[0])
}

const WORKERS: usize = 4;

fn panicking() -> Router {
    let poisoned = Arc::new(Mutex::new(0));
    let poisons = Arc::clone(&poisoned);
    let with_bomb = |body: Body| {
        let mut response = body.into_response();
        response.extensions_mut().insert(Arc::new(Bomb));
        response
    };
    Router::new()
        .get("/", |_: Request| "Hello, World!")
        .get("/handler", |_: Request| -> Response { panic!("as the test wants it") })
        .get("/handler/bomb", |_: Request| -> Response { std::panic::panic_any(Bomb) })
        .get("/handler/drop", |_: Request| {
            let _bomb = Bomb;
            "never seen"
        })
        .post("/handler/upload", streaming(|_: Request| -> Response { panic!("as the test wants it") }))
        .get("/into", |_: Request| Unanswerable)
        .get("/extension", move |_: Request| with_bomb("hello".into()))
        .get("/extension/source", move |_: Request| with_bomb(Body::from_reader(&b"hello"[..])))
        .get("/source", |_: Request| Body::from_reader(hello(None, || panic!("as the test wants it"))))
        .get("/source/bomb", |_: Request| Body::from_reader(hello(None, || std::panic::panic_any(Bomb))))
        .get("/source/both", |_: Request| {
            Body::from_reader(hello(Some(Bomb), || panic!("as the test wants it")))
        })
        .get("/source/fails", |_: Request| {
            Body::from_reader(hello(Some(Bomb), || Err(io::Error::other("as the test wants it"))))
        })
        .get("/source/drop", |_: Request| Body::from_reader(hello(Some(Bomb), || Ok(0))))
        .get("/source/sized", |_: Request| Body::from_sized_reader(hello(Some(Bomb), || Ok(0)), 5))
        .get("/source/lies", |_: Request| Body::from_reader(hello(Some(Bomb), || Ok(usize::MAX))))
        .get("/detached", |_: Request| {
            Body::writer(|out| {
                out.write_all(b"hello")?;
                panic!("as the test wants it")
            })
        })
        .get("/detached/bomb", |_: Request| {
            Body::writer(|out| {
                out.write_all(b"hello")?;
                std::panic::panic_any(Bomb)
            })
        })
        .get("/upgrade", |_: Request| {
            let head = [("upgrade", "echo"), ("connection", "upgrade")];
            let speak = |mut io: Upgraded| {
                io::Write::write_all(&mut io, b"hello").unwrap();
                panic!("as the test wants it")
            };
            (StatusCode::SWITCHING_PROTOCOLS, head, Body::upgrade(speak))
        })
        .get("/upgrade/refused", |_: Request| {
            let bomb = Bomb;
            Body::upgrade(move |_| drop(bomb))
        })
        .get("/poison", move |_: Request| -> Response {
            let _lock = poisons.lock();
            panic!("as the test wants it")
        })
        .get("/poisoned", move |_: Request| match poisoned.lock() {
            Ok(n) => n.to_string(),
            Err(_) => "it is poisoned".to_owned(),
        })
}

/// The response of the client, for each place where code of the user may panic: a 500 if no response was decided yet; the
/// decided response if it is complete; otherwise one that is visibly incomplete.
#[test]
fn wherever_the_users_code_panics() {
    const FAILED: &str = "500 500 Internal Server Error";
    const WHOLE: How = How::Chunked;
    const CUT: How = How::Cut(End::Fin);
    let table = [
        ("GET /handler", FAILED, How::Length),
        ("GET /handler/bomb", FAILED, How::Length),
        ("GET /handler/drop", FAILED, How::Length),
        ("POST /handler/upload", FAILED, How::Length),
        ("GET /into", FAILED, How::Length),
        ("GET /wrapper", FAILED, How::Length),
        ("GET /poison", FAILED, How::Length),
        ("GET /upgrade/refused", FAILED, How::Length),
        ("GET /extension", "200 hello", How::Length),
        ("GET /extension/source", "200 hello", WHOLE),
        ("GET /source", "200 hello", CUT),
        ("GET /source/bomb", "200 hello", CUT),
        ("GET /source/both", "200 hello", CUT),
        ("GET /source/fails", "200 hello", CUT),
        ("GET /source/lies", "200 hello", CUT),
        ("GET /source/drop", "200 hello", WHOLE),
        ("GET /source/sized", "200 hello", How::Length),
        ("HEAD /source/drop", "200", How::NoBody),
        ("GET /detached", "200 hello", CUT),
        ("GET /detached/bomb", "200 hello", CUT),
    ];
    let running = serve(panicking().wrap(touchy));
    for (asked, said, trailing) in table {
        let before = running.handle().stats().panics;
        for _ in 0..3 {
            let mut client = client_of(&running);
            client.send(format!("{asked} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"));
            let reply = client.reply_to(asked.split(' ').next().unwrap());
            assert_eq!((reply.said().as_str(), reply.trailing), (said, trailing), "{asked}");
            match trailing {
                CUT => client.expect_fin(),
                // A complete response does not even cost the connection.
                _ => client.expect_kept(),
            }
        }
        eventually("each is counted", || running.handle().stats().panics >= before + 3);
    }
    assert_eq!(client_of(&running).get("/poisoned").said(), "200 it is poisoned");
    let mut client = client_of(&running);
    client.send("GET /upgrade HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(client.reply().status, 101);
    assert_eq!(client.take(5), b"hello");
    client.expect_fin();
    drop(client);
    eventually("all are closed", || running.handle().stats().open == 0);
    assert_eq!((running.handle().stats().detached, running.handle().stats().workers_replaced), (0, 0));
    running.stop().unwrap();
}

#[test]
fn after_a_hundred_panics_all_workers_serve() {
    let gate = Gate::default();
    let waits = gate.clone();
    let router = panicking().get("/wait", move |_: Request| {
        waits.pass();
        "waited\n"
    });
    let running = serve(router.wrap(touchy));
    let places = ["/handler", "/handler/bomb", "/source/bomb", "/source/drop", "/extension", "/wrapper"];
    for n in 0..100 {
        let _ = client_of(&running).get(places[n % places.len()]);
    }
    let mut clients: Vec<Client> = (0..WORKERS).map(|_| client_of(&running)).collect();
    clients.iter_mut().for_each(|client| client.send(get("/wait")));
    gate.wait_for(WORKERS);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.reply().said(), "200 waited");
    }
    drop(clients);
    let stats = running.handle().stats();
    assert!(stats.panics >= 100, "{stats:?}");
    running.stop().unwrap();
}
