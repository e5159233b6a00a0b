//! Error pages, over the wire: which responses get one, and what stays as it was.

use std::time::Duration;

use heirloom::error_pages::{self, HttpError};
use heirloom::prelude::*;
use heirloom::wrap::BasicAuth;

use crate::support::*;

fn site() -> impl Handler {
    Router::new()
        .get("/", |_: Request| "Hello, World!")
        .get("/bare", |_: Request| StatusCode::GONE)
        .get("/own", |_: Request| (StatusCode::NOT_FOUND, "mine"))
        .get("/none", |_: Request| None::<&str>)
        .get("/panic", |_: Request| -> Response { panic!("as the test wants it") })
        .get("/failed", |_: Request| std::fs::read("/nonexistent"))
        .get("/users/{id}", |req: Request| req.param_as::<u32>("id").map(|id| id.to_string()))
        .get("/writer", |_: Request| (StatusCode::BAD_GATEWAY, Body::writer(|out| out.write_all(b"mine"))))
        .get("/busy", |_: Request| {
            StatusCode::SERVICE_UNAVAILABLE.into_response().with_header("retry-after", 7)
        })
        .post("/text", |mut req: Request| req.text())
        .nest("/in", (|_: Request| "in").wrap(BasicAuth::user("in", "a", "b")))
}

/// A page that shows what the hook gets.
fn page(error: &HttpError) -> Response {
    let request = error.request().map(|head| format!("{} {}", head.method, head.uri));
    let text =
        format!("{}|{}|{}", error.title(), error.detail().unwrap_or("-"), request.as_deref().unwrap_or("-"));
    Html(text).into_response().with_header("x-page", "yes")
}

fn ask(fixture: &Fixture, request: &str) -> (Client, Reply) {
    let mut client = fixture.client();
    client.send(request);
    let reply = client.reply_to(request.split(' ').next().unwrap());
    (client, reply)
}

fn request(line: &str, fields: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

#[test]
fn each_error_without_a_body_of_its_own_gets_the_page() {
    let limits = Limits::new().body_bytes(10).head_bytes(2_000).target_bytes(500);
    let fixture = Fixture::with(|_| {
        Server::new(site()).listen("127.0.0.1:0").timeouts(quick()).limits(limits).error_pages(page)
    });
    let chunked = "Transfer-Encoding: chunked\r\n";
    let long = format!("X: {}\r\n", "x".repeat(3_000));
    let long_target = format!("GET /{}", "x".repeat(600));
    let cases = [
        (request("GET /nowhere", ""), "404 404 Not Found|-|GET /nowhere", false),
        (request("PUT /bare", ""), "405 405 Method Not Allowed|-|PUT /bare", false),
        (request("GET /bare", ""), "410 410 Gone|-|GET /bare", false),
        (request("GET /none", ""), "404 404 Not Found|-|GET /none", false),
        (request("GET /panic", ""), "500 500 Internal Server Error|-|GET /panic", false),
        (request("GET /failed", ""), "500 500 Internal Server Error|-|GET /failed", false),
        (
            request("GET /users/ada", ""),
            "404 404 Not Found|id: invalid digit found in string|GET /users/ada",
            false,
        ),
        (request("GET /busy", ""), "503 503 Service Unavailable|-|GET /busy", false),
        (request("GET /in", ""), "401 401 Unauthorized|-|GET /in", false),
        (request("GET /%zz", ""), "400 400 Bad Request|malformed request target|-", true),
        (request("BREW /", ""), "501 501 Not Implemented|-|BREW /", false),
        (request("POST /text", "Content-Length: 11\r\n"), "413 413 Payload Too Large|-|POST /text", true),
        (
            request("POST /text", chunked) + "x\r\n",
            "400 400 Bad Request|malformed chunk size|POST /text",
            true,
        ),
        (request("GET /", "bad field\r\n"), "400 400 Bad Request|malformed field name|-", true),
        (request("GET /", &long), "431 431 Request Header Fields Too Large|request head too long|-", true),
        (request(&long_target, ""), "414 414 URI Too Long|request target too long|-", true),
        (
            "GET / HTTP/2.0\r\n\r\n".into(),
            "505 505 HTTP Version Not Supported|only HTTP/1.0 and HTTP/1.1 are supported|-",
            true,
        ),
    ];
    for (request, said, closes) in cases {
        let (_client, reply) = ask(&fixture, &request);
        assert_eq!((&*reply.said(), reply.closes()), (said, closes), "{}", request.escape_debug());
        assert_eq!(reply.field("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(reply.field("x-page"), Some("yes"));
    }
    let field = |line: &str, name: &str| ask(&fixture, &request(line, "")).1.field(name).map(str::to_owned);
    assert_eq!(field("PUT /bare", "allow").as_deref(), Some("GET, HEAD, OPTIONS"));
    assert_eq!(field("GET /busy", "retry-after").as_deref(), Some("7"));
    assert!(field("GET /in", "www-authenticate").is_some());
    assert_eq!(fixture.stats().panics, 1);
}

#[test]
fn what_a_handler_has_written_stays() {
    let fixture =
        Fixture::with(|_| Server::new(site()).listen("127.0.0.1:0").timeouts(quick()).error_pages(page));
    for (line, said) in
        [("GET /", "200 Hello, World!"), ("GET /own", "404 mine"), ("GET /writer", "502 mine")]
    {
        let (_, reply) = ask(&fixture, &request(line, ""));
        assert_eq!((&*reply.said(), reply.field("x-page")), (said, None), "{line}");
    }
}

#[test]
fn head_gets_the_fields_of_the_page_and_no_body() {
    let fixture =
        Fixture::with(|_| Server::new(site()).listen("127.0.0.1:0").timeouts(quick()).error_pages(page));
    for (request, kept) in [(request("HEAD /nowhere", ""), true), (request("HEAD /", "bad field\r\n"), false)]
    {
        let (mut client, reply) = ask(&fixture, &request);
        assert_eq!((reply.body.len(), reply.field("x-page")), (0, Some("yes")));
        assert_ne!(reply.field("content-length"), Some("0"));
        if kept {
            client.expect_kept();
        } else {
            client.expect_fin();
        }
    }
}

#[test]
fn a_timeout_within_head_and_body_gets_the_page() {
    let soon = Duration::from_millis(300);
    let timeouts = quick().head(soon).body_stall(soon);
    let fixture =
        Fixture::with(|_| Server::new(site()).listen("127.0.0.1:0").timeouts(timeouts).error_pages(page));
    let cut = "GET / HTTP/1.1\r\nHost: h\r\n";
    let stalled = request("POST /text", "Content-Length: 5\r\n");
    for (request, target) in [(cut, "-"), (&*stalled, "POST /text")] {
        let (mut client, reply) = ask(&fixture, request);
        let said = format!("408 408 Request Timeout|the request took too long|{target}");
        assert_eq!((reply.said(), reply.closes()), (said, true));
        client.expect_fin();
    }
}

#[test]
fn accept_decides_also_where_no_head_can_be_read() {
    let fixture = Fixture::with(|_| {
        Server::new(site()).listen("127.0.0.1:0").timeouts(quick()).error_pages(error_pages::by_accept)
    });
    for (accept, kind, not_found) in [
        ("text/html", "text/html; charset=utf-8", "<h1>404 Not Found</h1>"),
        ("application/json", "application/problem+json", r#"{"title":"Not Found","status":404}"#),
        ("*/*", "text/plain; charset=utf-8", "404 Not Found\n"),
    ] {
        let fields = format!("Accept: {accept}\r\n");
        let (_, reply) = ask(&fixture, &request("GET /nowhere", &fields));
        assert_eq!((reply.status, reply.field("content-type")), (404, Some(kind)));
        assert_eq!(reply.field("vary"), Some("accept"));
        assert!(reply.text().contains(not_found), "{reply:?}");
        let (_, reply) = ask(&fixture, &request("GET /", &format!("bad field\r\n{fields}")));
        assert_eq!((reply.status, reply.field("content-type")), (400, Some(kind)));
        assert!(reply.text().contains("malformed field name"), "{reply:?}");
    }
}

/// A hook that panics, and one whose body can't be read, leave the built-in text.
#[test]
fn a_hook_that_fails_changes_nothing() {
    let panics = |_: &HttpError| -> Response { panic!("as the test wants it") };
    let unreadable = |_: &HttpError| Body::writer(|_| Ok(()));
    let server = || Server::new(site()).listen("127.0.0.1:0").timeouts(quick());
    for (fixture, panicked) in [
        (Fixture::with(|_| server().error_pages(panics)), 2),
        (Fixture::with(|_| server().error_pages(unreadable)), 0),
    ] {
        let (mut client, reply) = ask(&fixture, &request("GET /nowhere", ""));
        assert_eq!(reply.said(), "404 404 Not Found");
        assert_eq!(reply.field("content-type"), Some("text/plain; charset=utf-8"));
        client.expect_kept();
        let (_client, reply) = ask(&fixture, &request("GET /", "bad field\r\n"));
        assert_eq!((&*reply.said(), reply.closes()), ("400 malformed field name", true));
        assert_eq!(fixture.stats().panics, panicked);
    }
}

/// Without the threads for a stream it is a 503, whose text is the crate's.
#[test]
fn a_response_that_is_replaced_gets_the_page() {
    let limits = Limits::new().detached_threads(0);
    let fixture = Fixture::with(|_| {
        Server::new(site()).listen("127.0.0.1:0").timeouts(quick()).limits(limits).error_pages(page)
    });
    let (_client, reply) = ask(&fixture, &request("GET /writer", ""));
    assert_eq!(reply.said(), "503 503 Service Unavailable|-|GET /writer");
    assert_eq!(reply.field("retry-after"), Some("1"));
}
