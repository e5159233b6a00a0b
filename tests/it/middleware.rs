//! Handlers around handlers, over the wire: every response passes through them, and its end is reported.

use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use heirloom::prelude::*;
use heirloom::upgrade::Upgraded;
use heirloom::wrap::{Access, AccessLog, RequestIds};
use heirloom::{ResponseEnd, Wrapper};

use crate::support::*;

/// After this time without an end, no more ends are reported.
const PATIENT: Duration = Duration::from_secs(2);

/// Answers with what the wrapper has seen, in a header field.
fn seen(request: Request, next: Next<'_>) -> Response {
    let what = format!("{} {:?}", request.pattern().as_deref().unwrap_or("-"), request.body().len());
    next.call(request).with_header("x-seen", what)
}

#[test]
fn what_is_refused_and_what_panics_passes_through_wrappers() {
    let router = Router::new()
        .post("/echo/{id}", |mut req: Request| req.text())
        .post("/stream", streaming(|mut req: Request| req.text()))
        .get("/panic", |_: Request| -> Response { panic!("as asked") })
        .wrap(seen);
    let limits = Limits::new().body_bytes(8);
    let fixture =
        Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").timeouts(quick()).limits(limits));
    let long = [b'x'; 9];
    let cases: [(&str, Vec<u8>, &str, &str); 8] = [
        ("served", post("/echo/1", b"hello"), "200 hello", "/echo/{id} Some(5)"),
        ("streaming", post("/stream", b"hello"), "200 hello", "/stream Some(5)"),
        ("no route", get("/nowhere").into(), "404 404 Not Found", "- Some(0)"),
        ("no route, with a body", post("/nowhere", b"hello"), "404 404 Not Found", "- Some(0)"),
        ("another method", get("/echo/1").into(), "405 405 Method Not Allowed", "/echo/{id} Some(0)"),
        ("too long", post("/echo/1", &long), "413 413 Payload Too Large", "/echo/{id} Some(0)"),
        (
            "long at last",
            post_chunked("/echo/1", &[&long]),
            "413 413 Payload Too Large",
            "/echo/{id} Some(0)",
        ),
        ("panic", get("/panic").into(), "500 500 Internal Server Error", "/panic Some(0)"),
    ];
    for (name, sent, said, seen) in cases {
        let mut client = fixture.client();
        client.send(&sent);
        let reply = client.reply();
        assert_eq!((reply.said().as_str(), reply.field("x-seen")), (said, Some(seen)), "{name}");
    }
    eventually("the panic is counted", || fixture.stats().panics == 1);
    // Malformed requests do not reach wrappers.
    let mut client = fixture.client();
    client.send("GET / HTTP/1.1\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.status, reply.field("x-seen")), (400, None));
}

/// The responses of `routes`, each end reported.
fn ends() -> (Fixture, Receiver<ResponseEnd>) {
    let (report, reports) = mpsc::channel();
    let wrapper = move |request: Request, next: Next<'_>| {
        let report = report.clone();
        next.call(request).on_end(move |end| report.send(*end).unwrap())
    };
    let fails = |_: Request| Body::from_sized_reader(io::empty(), 5);
    let detached = |_: Request| {
        Body::writer(|out| {
            out.write_all(b"hel")?;
            out.write_all(b"lo")
        })
    };
    let broken = |_: Request| {
        Body::writer(|out| {
            out.write_all(b"hel")?;
            Err(io::Error::other("as asked"))
        })
    };
    let upgrade = |_: Request| {
        let speak = |mut io: Upgraded| {
            let _ = io.write_all(b"bye\n");
        };
        let head = [("connection", "upgrade"), ("upgrade", "x")];
        (StatusCode::SWITCHING_PROTOCOLS, head, Body::upgrade(speak))
    };
    let router = Router::new()
        .get("/small", |_: Request| "hello")
        .get("/big", |_: Request| vec![b'x'; 1 << 20])
        .get("/source", |_: Request| Body::from_reader(io::repeat(b'x').take(300_000)))
        .get("/endless", |_: Request| Body::from_reader(io::repeat(b'x')))
        .get("/204", |_: Request| StatusCode::NO_CONTENT)
        .get("/fails", fails)
        .get("/detached", detached)
        .get("/broken", broken)
        .get("/upgrade", upgrade)
        .get("/panics", |_: Request| "hello".into_response().on_end(|_| panic!("as asked")))
        .wrap(wrapper);
    (Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").timeouts(quick())), reports)
}

#[test]
fn the_end_of_each_response_is_reported_once() {
    let (fixture, reports) = ends();
    let cases = [
        ("GET /small HTTP/1.1", 200, 5, true),
        ("HEAD /small HTTP/1.1", 200, 0, true),
        ("GET /big HTTP/1.1", 200, 1 << 20, true),
        ("HEAD /big HTTP/1.1", 200, 0, true),
        ("GET /source HTTP/1.1", 200, 300_000, true),
        ("HEAD /source HTTP/1.1", 200, 0, true),
        ("GET /204 HTTP/1.1", 204, 0, true),
        ("GET /nowhere HTTP/1.1", 404, 14, true),
        ("GET /fails HTTP/1.1", 200, 0, false),
        ("GET /detached HTTP/1.1", 200, 5, true),
        ("HEAD /detached HTTP/1.1", 200, 0, true),
        ("GET /broken HTTP/1.1", 200, 3, false),
        ("GET /upgrade HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x", 101, 0, true),
        ("GET /upgrade HTTP/1.0", 426, 21, true),
        ("GET /panics HTTP/1.1", 200, 5, true),
    ];
    for (line, status, bytes, complete) in cases {
        let mut client = fixture.client();
        client.send(format!("{line}\r\nHost: h\r\n\r\n"));
        let reply = client.reply_to(line.split(' ').next().unwrap());
        let end = reports.recv_timeout(DEADLINE).expect(line);
        assert_eq!((end.status.as_u16(), end.bytes, end.complete), (status, bytes, complete), "{line}");
        assert_eq!(reply.status, status, "{line}");
    }
    assert!(reports.try_recv().is_err());
}

#[test]
fn the_end_is_reported_if_the_client_disconnects() {
    let (fixture, reports) = ends();
    for line in ["/endless", "/endless"] {
        let mut client = fixture.client();
        client.send(get(line));
        client.take(1000);
        client.reset();
        let end = reports.recv_timeout(DEADLINE).expect("an end");
        assert!(!end.complete && end.bytes >= 64 << 10, "{end:?}");
    }
}

/// A response that can't be written any more is not complete, however short it is.
#[test]
fn a_response_that_no_client_is_there_for_is_cut() {
    let (report, reports) = mpsc::channel();
    let wrapper = move |request: Request, next: Next<'_>| {
        let report = report.clone();
        next.call(request).on_end(move |end| report.send(*end).unwrap())
    };
    let gate = Gate::default();
    let started = gate.clone();
    let late = move |req: Request| {
        started.pass();
        eventually("its client is gone", || req.is_client_gone());
        "hello"
    };
    let router = Router::new().get("/late", late).get("/30k", |_: Request| vec![b'x'; 30_000]).wrap(wrapper);
    let fixture = Fixture::of(gate.clone(), Server::new(router).listen("127.0.0.1:0").timeouts(quick()));
    let mut client = fixture.client();
    client.send(get("/late"));
    gate.wait_for(1);
    client.reset();
    gate.open();
    let end = reports.recv_timeout(DEADLINE).unwrap();
    assert_eq!((end.status, end.bytes, end.complete), (StatusCode::OK, 0, false));
    // Of responses that are sent together, those that the socket has accepted are complete.
    const ALL: usize = 1_000;
    let mut client = Client::narrow(fixture.address());
    client.send(get("/30k").repeat(ALL));
    let mut complete = 0;
    while let Ok(end) = reports.recv_timeout(PATIENT) {
        assert!(end.complete && end.bytes == 30_000, "{end:?}");
        complete += 1;
    }
    assert!(complete < ALL, "its client takes none of them");
    client.reset();
    let ends: Vec<ResponseEnd> = std::iter::from_fn(|| reports.recv_timeout(PATIENT).ok()).collect();
    assert!(!ends.is_empty() && ends.iter().all(|end| !end.complete && end.bytes < 30_000), "{ends:?}");
}

#[test]
fn the_access_log_has_every_response() {
    let (report, reports) = mpsc::channel();
    let log = AccessLog::new().to(move |access: &Access| report.send(access.clone()).unwrap());
    let router = Router::new()
        .get("/users/{id}", |_: Request| "hello")
        .post("/users/{id}", |_: Request| "hello")
        .get("/panic", |_: Request| -> Response { panic!("as asked") })
        .get("/endless", |_: Request| Body::from_reader(io::repeat(b'x')))
        .wrap(RequestIds::new())
        .wrap(log);
    let limits = Limits::new().body_bytes(8);
    let fixture =
        Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").timeouts(quick()).limits(limits));
    let cases = [
        ("GET /users/7?secret=1", "target=/users/7 pattern=/users/{id} status=200 bytes=5", "complete"),
        ("GET /nowhere", "target=/nowhere pattern=- status=404 bytes=14", "complete"),
        ("POST /users/7", "target=/users/7 pattern=/users/{id} status=413 bytes=22", "complete"),
        ("PUT /users/7", "target=/users/7 pattern=/users/{id} status=405 bytes=23", "complete"),
        ("GET /panic", "target=/panic pattern=/panic status=500 bytes=26", "complete"),
        ("GET /endless", "target=/endless pattern=/endless status=200 bytes=", "cut"),
    ];
    for (n, (line, said, end)) in cases.into_iter().enumerate() {
        let mut client = fixture.client();
        let length = if line.starts_with("POST") { "Content-Length: 9\r\n" } else { "" };
        client.send(format!(
            "{line} HTTP/1.1\r\nHost: h\r\nX-Request-Id: r{n}\r\n{length}User-Agent: a b\r\n\r\n"
        ));
        if line == "GET /endless" {
            client.take(1000);
            client.reset();
        } else {
            assert_eq!(client.reply().field("x-request-id"), Some(&*format!("r{n}")));
        }
        let access = reports.recv_timeout(DEADLINE).expect(line);
        let shown = access.to_string();
        assert!(
            shown.contains(&format!(" client={} via=- listener=127.0.0.1:0 method=", access.client())),
            "{shown}"
        );
        assert!(shown.contains(said), "{shown}");
        assert!(shown.ends_with(&format!(" end={end} id=r{n} referer=- agent=\"a b\"")), "{shown}");
        assert_eq!(
            (access.field("X-Request-ID").as_deref(), access.field("x")),
            (Some(&*format!("r{n}")), None)
        );
        assert_eq!((access.host().as_deref(), access.listener()), (Some("h"), Some("127.0.0.1:0")));
    }
}

/// The target is the client's, the pattern that of the route: clients can't choose it.
#[test]
fn the_access_log_of_a_path_that_a_handler_has_changed() {
    let (report, reports) = mpsc::channel();
    let log = AccessLog::new().to(move |access: &Access| report.send(access.to_string()).unwrap());
    let page = Router::new().get("/page", |_: Request| "hello").wrap(log);
    let router = Router::new().fallback(move |mut req: Request| {
        *req.uri_mut() = "/page?of=all".parse().unwrap();
        page.call(req)
    });
    let fixture = Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").timeouts(quick()));
    let mut client = fixture.client();
    client.send(get("/any/thing"));
    assert_eq!(client.reply().said(), "200 hello");
    let shown = reports.recv_timeout(DEADLINE).unwrap();
    assert!(shown.contains(" target=/any/thing pattern=/page status=200 "), "{shown}");
}

/// Whatever a program puts around it: a wrapper or a handler that calls it, and a wrapper that builds a new response.
#[test]
fn no_response_escapes_the_access_log() {
    struct Own(AccessLog);
    impl Wrapper for Own {
        fn call(&self, request: Request, next: Next<'_>) -> Response {
            self.0.call(request, next)
        }
    }
    let (report, reports) = mpsc::channel();
    let log = |name: &'static str| {
        let report = report.clone();
        AccessLog::new()
            .to(move |access| report.send(format!("{name} {}", access.status().as_u16())).unwrap())
    };
    let ok = |_: Request| "hello";
    let inner = ok.wrap(log("inner"));
    let router = Router::new()
        .get("/wrapper", ok.wrap(Own(log("own"))))
        .get("/handler", move |req: Request| inner.call(req))
        .get(
            "/new",
            ok.wrap(log("old")).wrap(|req: Request, next: Next<'_>| {
                drop(next.call(req));
                StatusCode::IM_A_TEAPOT
            }),
        )
        .get("/panic", (|_: Request| -> Response { panic!("as asked") }).wrap(log("panic")))
        .wrap(log("all"));
    let fixture = Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").timeouts(quick()));
    for (path, said) in [
        ("/wrapper", ["own 200", "all 200"]),
        ("/handler", ["inner 200", "all 200"]),
        ("/new", ["old 418", "all 418"]),
        ("/panic", ["panic 500", "all 500"]),
    ] {
        let mut client = fixture.client();
        client.send(get(path));
        client.reply();
        assert_eq!(said.map(|_| reports.recv_timeout(DEADLINE).unwrap()), said.map(str::to_owned), "{path}");
    }
}

#[cfg(feature = "gzip")]
#[test]
fn compressed_bodies_are_framed_as_any_other() {
    use flate2::read::GzDecoder;
    use heirloom::wrap::Gzip;

    let text = || (0..40_000).map(|n| format!("{n} ")).collect::<String>();
    let plain = [("content-type", "text/plain")];
    let router = Router::new()
        .get("/bytes", move |_: Request| text())
        .get("/source", move |_: Request| (plain, Body::from_reader(io::Cursor::new(text()))))
        .get("/stream", move |_: Request| (plain, Body::writer(move |out| out.write_all(text().as_bytes()))))
        .wrap(Gzip::new());
    let fixture = Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").timeouts(quick()));
    for path in ["/bytes", "/source", "/stream"] {
        for version in ["1.1", "1.0"] {
            let mut client = fixture.client();
            let request = |method: &str| {
                format!("{method} {path} HTTP/{version}\r\nHost: h\r\nAccept-Encoding: gzip\r\n\r\n")
            };
            client.send(request("GET"));
            let reply = client.reply();
            assert_eq!(reply.field("content-encoding"), Some("gzip"), "{path}");
            assert!(!matches!(reply.trailing, How::Cut(_)), "{path} {version}: {:?}", reply.trailing);
            let mut unpacked = String::new();
            GzDecoder::new(&reply.body[..]).read_to_string(&mut unpacked).unwrap();
            assert!(unpacked == text(), "{path} {version}");
            assert!(reply.body.len() * 2 < unpacked.len());

            let mut client = fixture.client();
            client.send(request("HEAD"));
            let reply = client.reply_to("HEAD");
            assert_eq!(
                (reply.field("content-encoding"), reply.field("content-length")),
                (Some("gzip"), None)
            );
        }
    }
}
