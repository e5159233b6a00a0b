//! Guards, over the wire: what they refuse costs no body, and what they let through is served as without them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};

use heirloom::CloseReason;
use heirloom::prelude::*;
use heirloom::wrap::{Access, AccessLog, BasicAuth, BasicUser, Cors};

use crate::support::*;

const LONG: usize = 9 << 20;

/// Lets requests with `X-Word: friend` pass.
fn friends_only(req: &mut Request) -> Result<(), EarlyResponse> {
    match req.headers().get("x-word").ok_or(StatusCode::UNAUTHORIZED)?.as_bytes() {
        b"friend" => Ok(()),
        b"panic" => panic!("as asked"),
        _ => Err((StatusCode::FORBIDDEN, format!("not you, at {:?}\n", req.pattern())).into()),
    }
}

/// A server whose guarded routes count their calls.
fn guarded() -> (Fixture, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let count = move |mut req: Request| {
        counted.fetch_add(1, Ordering::Relaxed);
        let mut bytes = Vec::new();
        req.body_mut().read_to_end(&mut bytes).map(|n| format!("{n} bytes"))
    };
    let inside = Router::new()
        .post("/upload/{name}", count.clone())
        .post("/stream", streaming(count))
        .guard(friends_only)
        .wrap(|req: Request, next: Next| next.call(req).with_header("x-outside", "seen"));
    let router =
        Router::new().get("/", |_: Request| "Hello, World!").nest("/in", max_body(LONG as u64 + 1, inside));
    let fixture = Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").timeouts(quick()));
    (fixture, calls)
}

fn head(path: &str, fields: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

#[test]
fn a_long_body_is_refused_before_a_byte_of_it_is_sent() {
    let (fixture, calls) = guarded();
    let cases = [
        ("/in/upload/a", "Content-Length: 9437184\r\n", "401"),
        (
            "/in/upload/a",
            "Content-Length: 9437184\r\nX-Word: foe\r\n",
            "403 not you, at Some(\"/in/upload/{name}\")",
        ),
        ("/in/upload/a", "Transfer-Encoding: chunked\r\n", "401"),
        ("/in/stream", "Content-Length: 9437184\r\n", "401"),
        (
            "/in/stream",
            "Transfer-Encoding: chunked\r\nX-Word: foe\r\n",
            "403 not you, at Some(\"/in/stream\")",
        ),
        ("/in/upload/a", "Content-Length: 9437184\r\nX-Word: panic\r\n", "500 500 Internal Server Error"),
    ];
    for (path, fields, said) in cases {
        let mut client = fixture.client();
        client.send(head(path, fields));
        let reply = client.reply();
        assert_eq!((&*reply.said(), reply.closes()), (said, true), "{path} {fields}");
        assert_eq!(reply.field("x-outside"), Some("seen"));
        client.half_close();
        client.expect_fin();
    }
    // A client that sends all of it before it reads gets the response too.
    let mut client = fixture.client();
    client.send(head("/in/upload/a", "Content-Length: 9437184\r\n"));
    client.send(vec![b'x'; LONG]);
    assert_eq!(client.reply().said(), "401");
    drop(client);
    fixture.expect_closes(CloseReason::BodyUnread, 7);
    assert_eq!((calls.load(Ordering::Relaxed), fixture.stats().panics), (0, 1));
}

#[test]
fn no_100_is_sent_when_a_guard_answers() {
    let (fixture, calls) = guarded();
    for path in ["/in/upload/a", "/in/stream"] {
        let mut client = fixture.client();
        client.send(head(path, "Expect: 100-continue\r\nContent-Length: 5\r\n"));
        let reply = client.reply();
        assert_eq!((&*reply.said(), reply.closes()), ("401", true), "{path}");
        let mut client = fixture.client();
        client.send(head(path, "Expect: 100-continue\r\nContent-Length: 5\r\nX-Word: friend\r\n"));
        assert_eq!(client.take(25), b"HTTP/1.1 100 Continue\r\n\r\n", "{path}");
        client.send("hello");
        assert_eq!(client.reply().said(), "200 5 bytes");
        client.expect_kept();
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[test]
fn a_short_body_is_dropped_and_the_connection_kept() {
    let (fixture, calls) = guarded();
    let mut client = fixture.client();
    for path in ["/in/upload/a", "/in/stream", "/in/nowhere"] {
        // The second request is there before the first is answered.
        client.send([post(path, b"GET / HTTP"), get("/").into()].concat());
        let reply = client.reply();
        if path == "/in/nowhere" {
            assert_eq!((&*reply.said(), reply.closes()), ("401", true), "no route, and a body");
            continue;
        }
        assert_eq!((&*reply.said(), reply.closes()), ("401", false), "{path}");
        assert_eq!(client.reply().said(), "200 Hello, World!");
    }
    // In pieces.
    let mut client = fixture.client();
    client.send(head("/in/upload/a", "Content-Length: 6\r\n"));
    assert_eq!(client.reply().said(), "401");
    client.send("abc");
    client.send("defGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.reply().said(), "200 Hello, World!");
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    let with_word = String::from_utf8(post("/in/upload/a", b"hello")).unwrap();
    client.send(with_word.replace("Host: h\r\n", "Host: h\r\nX-Word: friend\r\n"));
    assert_eq!(client.reply().said(), "200 5 bytes");
    client.expect_kept();
}

#[test]
fn the_shipped_guards_decide_on_the_head() {
    let (say, ends) = mpsc::channel::<(u16, bool)>();
    let log = AccessLog::new().to(move |access: &Access| {
        let _ = say.send((access.status().as_u16(), access.pattern().is_some()));
    });
    let hello = |req: Request| {
        format!("{} sent {:?}", req.extensions().get::<BasicUser>().unwrap().0, req.body().len())
    };
    let handler = Router::new()
        .post("/", hello)
        .wrap(BasicAuth::user("here", "Aladdin", "open sesame"))
        .wrap(Cors::origins(["https://app.example"]))
        .wrap(log);
    let fixture = Fixture::with(|_| Server::new(handler).listen("127.0.0.1:0").timeouts(quick()));
    const AUTH: &str = "Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n";
    const ORIGIN: &str = "Origin: https://app.example\r\n";
    let long = format!("{ORIGIN}Content-Length: {LONG}\r\n");
    let mut client = fixture.client();
    client.send(head("/", &long));
    let reply = client.reply();
    assert_eq!((&*reply.said(), reply.closes()), ("401 401 Unauthorized", true));
    assert_eq!(reply.field("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(ends.recv().unwrap(), (401, true));

    let mut client = fixture.client();
    let preflight = format!("{long}Access-Control-Request-Method: POST\r\n");
    client.send(head("/", &preflight).replace("POST /", "OPTIONS /"));
    let reply = client.reply();
    // The router's own answer to OPTIONS would not have these fields.
    assert_eq!((reply.status, reply.field("access-control-allow-methods")), (204, Some("GET, HEAD, POST")));
    assert_eq!(ends.recv().unwrap().0, 204);

    let mut client = fixture.client();
    client.send(head("/", &format!("{AUTH}Content-Length: 5\r\n")));
    client.send("hello");
    assert_eq!(client.reply().said(), "200 Aladdin sent Some(5)");
    assert_eq!(ends.recv().unwrap(), (200, true));
    client.send(head("/", AUTH));
    assert_eq!(client.reply().said(), "200 Aladdin sent Some(0)");
}

/// What the socket takes until it is full. Later: as much as the server has read meanwhile, to a piece.
fn fill(mut client: &UnixStream) -> usize {
    let mut sent = 0;
    while let Ok(n) = client.write(&[b'x'; PIECE]) {
        sent += n;
    }
    sent
}

/// A buffer of a worker.
const BUFFER: usize = 64 << 10;
const PIECE: usize = 4 << 10;

/// The client has sent all that its socket takes before the server sees the request.
#[test]
fn at_most_a_buffer_of_a_refused_body_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = format!("unix:{}", path.display());
    let client = Arc::new(OnceLock::<UnixStream>::new());
    let gate = Gate::default();
    let (say, read) = mpsc::channel();

    let (of_guard, said, waiting) = (Arc::clone(&client), say.clone(), gate.clone());
    let guard = move |_: &mut Request| {
        let _ = said.send(fill(of_guard.get().unwrap()));
        Err::<(), EarlyResponse>(StatusCode::UNAUTHORIZED.into())
    };
    let of_log = Arc::clone(&client);
    let log = AccessLog::new().to(move |access: &Access| {
        if access.status() == StatusCode::UNAUTHORIZED {
            let _ = say.send(fill(of_log.get().unwrap()));
        }
    });
    let upload = |req: Request| format!("{:?}", req.body().len());
    let inside = max_body(LONG as u64 + 1, Router::new().post("/", upload).guard(guard));
    let router = Router::new().nest("/in", inside).get("/wait", move |_: Request| waiting.pass());
    let server = Server::new(router.wrap(log)).listen(listener).workers(1).timeouts(quick());
    let fixture = Fixture::of(gate, server);

    let mut busy = UnixStream::connect(&path).unwrap();
    busy.write_all(get("/wait").as_bytes()).unwrap();
    fixture.gate().wait_for(1);
    let mut stranger = UnixStream::connect(&path).unwrap();
    stranger.write_all(head("/in/", &format!("Content-Length: {LONG}\r\n")).as_bytes()).unwrap();
    stranger.set_nonblocking(true).unwrap();
    let there = fill(&stranger);
    assert!(there > 2 * BUFFER, "only {there} bytes are there");
    client.set(stranger.try_clone().unwrap()).unwrap();
    fixture.gate().open();

    let before_the_guard = read.recv_timeout(DEADLINE).unwrap();
    let until_the_response = before_the_guard + read.recv_timeout(DEADLINE).unwrap();
    assert!(
        until_the_response <= BUFFER + PIECE,
        "{before_the_guard} and {until_the_response} of {there} bytes"
    );
    stranger.set_nonblocking(false).unwrap();
    stranger.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut start = [0; 12];
    stranger.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 401");
}
