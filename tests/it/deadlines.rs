//! Deadlines of routes, over the wire: the client gets one response in time, and the worker is counted until its handler
//! returns.

use std::io::Read;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use heirloom::error_pages::{self, HttpError};
use heirloom::prelude::*;
use heirloom::wrap::{Access, AccessLog};
use heirloom::{CloseReason, RouteLimits};

use crate::support::*;

/// Passes in a moment, but not before a handler that does nothing has returned.
const SOON: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(600);
const LATE: &str = "503 503 Service Unavailable";

/// `/wait` blocks at the gate; it has a deadline, as all below `/soon`.
fn site(gate: &Gate) -> Router {
    let waits = gate.clone();
    let wait = move |_: Request| {
        waits.pass();
        "too late for the client"
    };
    let panics = gate.clone();
    let inside = Router::new()
        .get("/fast", |req: Request| format!("{} {}", req.deadline().is_some(), req.is_past_deadline()))
        .get("/wait/{id}", wait.clone())
        .post("/wait", wait.clone())
        .get("/panic", move |_: Request| -> Response {
            panics.pass();
            panic!("as the test wants it")
        })
        .get("/until", |req: Request| {
            let at = req.deadline().unwrap();
            let_pass(at.saturating_duration_since(Instant::now()));
            format!("{}", req.is_past_deadline())
        })
        .get("/stream", |_: Request| {
            Body::from_chunks((0..4).map(|n| {
                let_pass(SOON / 3);
                Ok(format!("{n} "))
            }))
        })
        .get(
            "/long",
            limited(RouteLimits::new().deadline(None), |req: Request| format!("{:?}", req.deadline())),
        );
    Router::new()
        .get("/", |_: Request| "Hello, World!")
        .nest("/soon", deadline(SOON, inside))
        .get("/none", |req: Request| format!("{:?}", req.deadline()))
        .get("/relaxed", deadline(LONG, |req: Request| req.is_past_deadline().to_string()))
}

fn start(configure: impl FnOnce(Server) -> Server) -> Fixture {
    let gate = Gate::default();
    let server = Server::new(site(&gate)).listen("127.0.0.1:0").workers(4).timeouts(quick());
    Fixture::of(gate, configure(server))
}

fn past(fixture: &Fixture) -> (u64, u64) {
    let stats = fixture.stats();
    (stats.deadlines_passed, stats.handlers_past_deadline)
}

#[test]
fn a_blocked_handler_is_answered_for_once_and_stays_in_view() {
    let fixture = start(|server| server);
    let mut client = fixture.client();
    let start = Instant::now();
    // What follows is not answered: the response announces the close.
    client.send([get("/none"), get("/soon/wait/7"), get("/")].concat());
    assert_eq!(client.reply().said(), "200 None");
    let reply = client.reply();
    assert_eq!((&*reply.said(), reply.closes()), (LATE, true));
    assert!(start.elapsed() >= SOON);
    client.expect_fin();
    let stats = fixture.stats();
    assert_eq!((stats.requests, stats.responses[4], stats.in_flight), (2, 1, 1));
    assert_eq!(past(&fixture), (1, 1));
    assert!(fixture.running().handle().metrics().contains("\nheirloom_handlers_past_deadline 1\n"));
    // The others serve meanwhile.
    assert_eq!(fixture.client().get("/soon/fast").said(), "200 true false");
    fixture.gate().open();
    eventually("the handler has ended", || past(&fixture) == (1, 0) && fixture.stats().in_flight == 0);
    drop(client);
    fixture.expect_closes(CloseReason::DeadlinePassed, 1);
    assert_eq!(fixture.stats().requests, 3);
}

#[test]
fn a_handler_in_time_is_served_as_without_a_deadline() {
    let fixture = start(|server| server);
    let mut client = fixture.client();
    client.send([get("/soon/fast"), get("/soon/long"), get("/relaxed"), get("/soon/nowhere")].concat());
    for said in ["200 true false", "200 None", "200 false", "404 404 Not Found"] {
        assert_eq!(client.reply().said(), said);
    }
    // A response that is sent for longer than the deadline.
    client.send(get("/soon/stream"));
    assert_eq!(client.reply().said(), "200 0 1 2 3");
    client.expect_kept();
    assert_eq!(past(&fixture), (0, 0));
}

/// Whichever of both threads notices it first.
#[test]
fn a_handler_that_returns_at_the_deadline_is_late() {
    let fixture = start(|server| server);
    for n in 1..=10 {
        let mut client = fixture.client();
        let reply = client.get("/soon/until");
        assert_eq!((&*reply.said(), reply.closes()), (LATE, true));
        client.expect_fin();
        eventually("counted", || past(&fixture) == (n, 0));
        assert_eq!(fixture.stats().requests, n);
    }
}

#[test]
fn head_and_a_panic_after_the_deadline() {
    let fixture = start(|server| server);
    let mut client = fixture.client();
    client.send("HEAD /soon/wait/7 HTTP/1.1\r\nHost: h\r\n\r\n");
    let reply = client.reply_to("HEAD");
    assert_eq!((&*reply.said(), reply.field("content-length"), reply.closes()), ("503", Some("24"), true));
    client.expect_fin();
    let mut client = fixture.client();
    assert_eq!(client.get("/soon/panic").said(), LATE);
    client.expect_fin();
    fixture.gate().open();
    eventually("both have ended", || past(&fixture) == (2, 0) && fixture.stats().panics == 1);
    assert_eq!(fixture.stats().responses, [0, 0, 0, 0, 2]);
}

#[test]
fn the_503_has_the_page_of_the_service() {
    let page = |error: &HttpError| {
        let target = error.request().map(|head| head.uri.to_string()).unwrap_or_default();
        error_pages::problem(error).with_header("x-target", target)
    };
    let fixture = start(|server| server.error_pages(page));
    let mut client = fixture.client();
    let reply = client.get("/soon/wait/7?a=b");
    assert_eq!(reply.said(), r#"503 {"title":"Service Unavailable","status":503}"#);
    assert_eq!(reply.field("content-type"), Some("application/problem+json"));
    assert_eq!((reply.field("x-target"), reply.closes()), (Some("/soon/wait/7?a=b"), true));
    fixture.gate().open();
}

/// The handler waits for a body that does not come: its read fails at the deadline, so its worker is free again.
#[test]
fn a_read_of_a_slow_body_fails_at_the_deadline() {
    let (errors, said) = mpsc::channel();
    let errors = Mutex::new(errors);
    let upload = move |mut req: Request| {
        let outcome = req.body_mut().read_to_end(&mut Vec::new());
        errors
            .lock()
            .unwrap()
            .send((outcome.as_ref().err().map(ToString::to_string), req.is_past_deadline()))
            .unwrap();
        outcome.map(|n| n.to_string())
    };
    let router = Router::new()
        .get("/", |_: Request| "Hello, World!")
        .post("/upload", deadline(SOON, streaming(upload)));
    let fixture = Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").workers(1).timeouts(quick()));
    for (fields, start) in [
        ("Content-Length: 9\r\n", "12345"),
        ("Transfer-Encoding: chunked\r\n", "5\r\n12345\r\n"),
        ("Content-Length: 9\r\nExpect: 100-continue\r\n", ""),
    ] {
        let mut client = fixture.client();
        client.send(format!("POST /upload HTTP/1.1\r\nHost: h\r\n{fields}\r\n{start}"));
        if start.is_empty() {
            assert_eq!(client.take(25), b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let reply = client.reply();
        assert_eq!((&*reply.said(), reply.closes()), (LATE, true));
        let late = (Some("the handler's deadline has passed".to_owned()), true);
        assert_eq!(said.recv_timeout(DEADLINE).unwrap(), late, "{fields}");
        client.expect_fin();
    }
    // In time.
    let mut client = fixture.client();
    client.send(post("/upload", b"123456789"));
    assert_eq!(client.reply().said(), "200 9");
    assert_eq!(said.recv_timeout(DEADLINE).unwrap(), (None, false));
    client.expect_kept();
    assert_eq!(past(&fixture), (3, 0));
}

/// After the 503 no 100 is sent, although the handler begins to read only then.
#[test]
fn a_read_that_begins_late_sends_nothing() {
    let gate = Gate::default();
    let waits = gate.clone();
    let (errors, said) = mpsc::channel();
    let errors = Mutex::new(errors);
    let upload = move |mut req: Request| {
        waits.pass();
        errors.lock().unwrap().send(req.text().is_err()).unwrap();
    };
    let router = Router::new().post("/upload", deadline(SOON, streaming(upload)));
    let fixture = Fixture::of(gate, Server::new(router).listen("127.0.0.1:0").timeouts(quick()));
    let mut client = fixture.client();
    client.send("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.reply().said(), LATE);
    fixture.gate().open();
    assert!(said.recv_timeout(DEADLINE).unwrap());
    client.expect_fin();
}

/// Wrappers outside of the deadline, and the hooks on the end of the response.
#[test]
fn wrappers_see_a_503_when_the_handler_has_returned() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let gate = Gate::default();
    let logged = Arc::clone(&lines);
    let log = AccessLog::new().to(move |access: &Access| {
        logged.lock().unwrap().push((access.status().as_u16(), access.bytes(), access.is_complete()));
    });
    let seen = Arc::new(Mutex::new(Vec::new()));
    let statuses = Arc::clone(&seen);
    let outside = move |req: Request, next: Next| {
        let response = next.call(req);
        statuses.lock().unwrap().push(response.status().as_u16());
        response
    };
    let router = site(&gate).wrap(outside).wrap(log);
    let fixture = Fixture::of(gate, Server::new(router).listen("127.0.0.1:0").timeouts(quick()));
    assert_eq!(fixture.client().get("/soon/wait/7").said(), LATE);
    assert!(lines.lock().unwrap().is_empty());
    fixture.gate().open();
    eventually("logged", || *lines.lock().unwrap() == [(503, 24, true)]);
    assert_eq!(*seen.lock().unwrap(), [503]);
}

/// A stop waits for the handler, although its client has a response.
#[test]
fn a_stop_waits_for_a_handler_past_its_deadline() {
    let fixture = start(|server| server);
    assert_eq!(fixture.client().get("/soon/wait/7").said(), LATE);
    let handle = fixture.running().handle();
    handle.shutdown();
    eventually("it drains", || fixture.stats().phase.is_draining());
    assert_eq!((fixture.stats().in_flight, past(&fixture)), (1, (1, 1)));
    fixture.gate().open();
    fixture.stop().unwrap();
}
