//! RFC 9110, the semantics of HTTP, as far as they bind a server with any handlers. `docs/http.md` lists the sections, and
//! where each demand is kept.

use std::io::{Read, Write};

use heirloom::CloseReason;
use heirloom::prelude::*;

use crate::support::tables::{GET, HELLO, Then::*, expect, run};
use crate::support::*;

fn serve(handler: impl Handler) -> Fixture {
    let server = Server::new(handler).listen("127.0.0.1:0").workers(4).timeouts(quick());
    Fixture::of(Gate::default(), server)
}

/// Answers with what its path says: `/STATUS`, with the fields that the query lists as `name=value;`.
fn as_asked(req: Request) -> Response {
    let Some(status) = req.uri().path().strip_prefix('/').and_then(|status| status.parse().ok()) else {
        return "Hello, World!".into_response();
    };
    let mut response = http::Response::builder().status::<u16>(status);
    for field in req.query_str().unwrap_or_default().split(';').filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once('=').unwrap();
        response = response.header(name, value.replace('_', " "));
    }
    response.body("hello".into()).unwrap()
}

// Section 5: fields and lists.

#[test]
fn lists_with_empty_elements() {
    let fixture = Fixture::new();
    #[rustfmt::skip]
    let cases = [
        ("", &b"GET / HTTP/1.1\r\nHost: h\r\nConnection: , ,close,\t,\r\n\r\n"[..], &[HELLO][..], Closed),
        ("", b"GET / HTTP/1.1\r\nHost: h\r\nConnection:,,\r\n\r\n", &[HELLO], Kept),
        ("", b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: ,, chunked ,\r\n\r\n1\r\na\r\n0\r\n\r\n", &["200 a"], Kept),
        ("", b"POST /echo HTTP/1.1\r\nHost: h\r\nExpect: ,\r\nContent-Length: 1\r\n\r\na", &["200 a"], Kept),
        ("", b"POST /echo HTTP/1.0\r\nExpect: 100-continue, ,100-CONTINUE\r\nContent-Length: 1\r\n\r\na", &["200 a"], Closed),
        // No list.
        ("", b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: ,1\r\n\r\na", &["400"], Closed),
        ("", b"GET / HTTP/1.1\r\nHost: h,\x20\r\n\r\n", &[HELLO], Kept),
        ("", b"GET / HTTP/1.1\r\nHost: h, \x09x\r\n\r\n", &["400"], Closed),
    ];
    for (name, sent, said, then) in cases {
        run(&fixture, &[(name, &[sent], said, then)]);
    }
}

#[test]
fn repeated_fields_keep_their_order() {
    let fixture = serve(|req: Request| {
        let values = req.headers().get_all("x").iter().map(|value| value.to_str().unwrap());
        values.collect::<Vec<_>>().join("|")
    });
    let mut client = fixture.client();
    client.send("GET /x HTTP/1.1\r\nHost: h\r\nX: a, b\r\nY: z\r\nx: \"c,d\"\r\nX:\r\nX: e \r\n\r\n");
    assert_eq!(client.reply().said(), "200 a, b|\"c,d\"||e");
}

// Section 6: messages.

#[test]
fn a_date_that_is_none_is_not_sent() {
    let fixture = serve(as_asked);
    let mut client = fixture.client();
    let theirs = "Sun,_06_Nov_1994_08:49:37_GMT";
    let date = |client: &mut Client, fields: &str| {
        // Each response must have exactly one, well-formed.
        let reply = client.get(&format!("/200?{fields}"));
        reply.field("date").unwrap() == theirs.replace('_', " ")
    };
    assert!(date(&mut client, &format!("date={theirs}")));
    assert!(date(&mut client, &format!("date={theirs};date=now")));
    assert!(date(&mut client, &format!("date=now;date={theirs}")));
    for wrong in [
        "now",
        "",
        "Sunday,_06-Nov-94_08:49:37_GMT",
        "Sun_Nov__6_08:49:37_1994",
        "Mon,_06_Nov_1994_08:49:37_GMT",
    ] {
        assert!(!date(&mut client, &format!("date={wrong}")), "{wrong}");
    }
    for status in [200, 204, 301, 304, 404, 500, 599] {
        assert!(client.get(&format!("/{status}")).field("date").is_some());
    }
}

#[test]
fn trailers_stay_apart() {
    let fixture = serve(|mut req: Request| {
        let body = req.text().unwrap();
        let trailers = req.trailers().map_or(0, HeaderMap::len);
        format!("{body} {} {trailers}", req.headers().contains_key("x-late"))
    });
    let mut client = fixture.client();
    client.send("POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Late: 1\r\n\r\n");
    assert_eq!(client.reply().said(), "200 hello false 1");
}

// Section 7: routing of messages, connections, other protocols.

#[test]
fn switching_protocols() {
    let fixture = Fixture::new();
    let ask = |version: &str, fields: &str| {
        let mut client = fixture.client();
        client.send(format!("GET /upgrade HTTP/{version}\r\nHost: h\r\n{fields}\r\n"));
        let reply = client.reply();
        assert_eq!(reply.field("upgrade"), Some("echo"), "{fields}");
        let named = reply.field("connection").unwrap().split(", ").any(|option| option == "upgrade");
        assert!(named, "{reply:?}");
        if reply.status == 101 {
            client.send("bye.");
            assert_eq!(client.take(4), b"bye.");
            client.expect_fin();
        } else if version == "1.1" {
            client.expect_kept();
        } else {
            client.expect_fin();
        }
        reply.status
    };
    for fields in [
        "Connection: upgrade\r\nUpgrade: echo\r\n",
        "connection: x, UPGRADE\r\nupgrade: other, ECHO\r\n",
        "Connection: x\r\nConnection: upgrade\r\nUpgrade: other\r\nUpgrade: echo\r\n",
    ] {
        assert_eq!(ask("1.1", fields), 101, "{fields}");
        // RFC 9110 §7.8: ignored in 1.0.
        assert_eq!(ask("1.0", fields), 426, "{fields}");
    }
    for fields in [
        "",
        "Upgrade: echo\r\n",
        "Connection: upgrade\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\n",
        "Connection: upgrade\r\nUpgrade: echo/2\r\n",
        "Connection: upgrade\r\nUpgrade: echoes\r\n",
        "Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    ] {
        assert_eq!(ask("1.1", fields), 426, "{fields}");
    }
    // A client that offers an unwanted protocol is served as usual.
    let mut client = fixture.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: h2c, websocket\r\n\r\n");
    assert_eq!(client.reply().said(), HELLO);
    client.expect_kept();
}

#[test]
fn a_switch_comes_behind_the_request_and_its_100() {
    let speak = || {
        let fields = [("upgrade", "echo")];
        let body = Body::upgrade(|mut io| {
            let mut all = Vec::new();
            let _ = io.read_to_end(&mut all);
            let _ = io.write_all(&all);
        });
        (StatusCode::SWITCHING_PROTOCOLS, fields, body)
    };
    let router = Router::new()
        .post("/", move |_: Request| speak())
        .post("/unread", streaming(move |_: Request| speak()))
        .get("/", |_: Request| "Hello, World!");
    let fixture = serve(router);
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: echo\r\nContent-Length: 5\r\n"
        )
    };
    let mut client = fixture.client();
    client.send(head("/") + "Expect: 100-continue\r\n\r\n");
    assert_eq!(client.reply().status, 100);
    client.send("hello, world");
    assert_eq!(client.reply().status, 101);
    client.half_close();
    assert_eq!(client.take(7), b", world");
    client.expect_fin();
    // The rest of a body is not passed to the next protocol.
    let mut client = fixture.client();
    client.send(head("/unread") + "\r\nhello");
    assert_eq!(client.reply().status, 500);
}

// Section 8: content.

#[test]
fn a_length_that_is_known_is_sent() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    for (path, length) in [
        ("/", Some("13")),
        ("/bytes/0", Some("0")),
        ("/big/70000", Some("70000")),
        ("/stream", None),
        ("/204", None),
        ("/304", None),
    ] {
        assert_eq!(client.get(path).field("content-length"), length, "{path}");
    }
}

#[test]
fn handlers_can_not_break_framing() {
    let fixture = serve(as_asked);
    let fields = [
        "content-length=3",
        "content-length=99",
        "content-length=x",
        "content-length=5;content-length=6",
        "transfer-encoding=chunked",
        "transfer-encoding=gzip",
        "content-length=3;transfer-encoding=chunked",
        "connection=keep-alive",
        "connection=x;x=y",
        "keep-alive=timeout=5",
        "date=now;date=then",
    ];
    for fields in fields {
        for version in ["1.1", "1.0"] {
            let mut client = fixture.client();
            client.send(format!("GET /200?{fields} HTTP/{version}\r\nHost: h\r\n\r\n"));
            let reply = client.reply();
            assert_eq!((reply.said().as_str(), reply.trailing), ("200 hello", How::Length), "{fields}");
            assert_eq!(reply.field("content-length"), Some("5"));
            assert_eq!(reply.field("keep-alive"), None);
            assert_eq!(reply.field("connection"), (version == "1.0").then_some("close"));
            if version == "1.1" { client.expect_kept() } else { client.expect_fin() }
        }
    }
    // They may close.
    let mut client = fixture.client();
    client.send("GET /200?connection=keep-alive;connection=close HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    expect(&mut client, "closes", &["200 hello"], Closed);
}

// Section 9: methods.

#[test]
fn methods() {
    let fixture = Fixture::new();
    let ask = |method: &str, path: &str| {
        let mut client = fixture.client();
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let reply = client.reply_to(method);
        client.expect_kept();
        let allow = reply.field("allow").map(str::to_owned);
        (reply.status, allow)
    };
    let root = Some("GET, HEAD, OPTIONS".to_owned());
    let echo = Some("OPTIONS, POST, PUT".to_owned());
    #[rustfmt::skip]
    let cases = [
        ("GET", "/", 200, None), ("HEAD", "/", 200, None), ("OPTIONS", "/", 204, root.clone()), ("OPTIONS", "/echo", 204, echo.clone()),
        // Known, and not for this target.
        ("POST", "/", 405, root.clone()), ("PUT", "/", 405, root.clone()), ("DELETE", "/", 405, root.clone()), ("PATCH", "/", 405, root.clone()), ("TRACE", "/", 405, root),
        ("GET", "/echo", 405, echo.clone()), ("HEAD", "/echo", 405, echo),
        // Unknown methods; names are case-sensitive.
        ("BREW", "/", 501, None), ("get", "/", 501, None), ("Get", "/", 501, None), ("M-SEARCH", "/", 501, None), ("PROPFIND", "/nowhere", 501, None), ("!#$%&'*+-.^_`|~", "/", 501, None),
        ("GET", "/nowhere", 404, None), ("HEAD", "/nowhere", 404, None), ("OPTIONS", "/nowhere", 404, None), ("TRACE", "/nowhere", 404, None),
    ];
    for (method, path, status, allow) in cases {
        assert_eq!(ask(method, path), (status, allow), "{method} {path}");
    }
    let (status, allow) = ask("OPTIONS", "*");
    assert_eq!((status, allow.as_deref()), (204, Some("GET, HEAD, OPTIONS, POST, PUT")));
}

/// All fields of GET except those that depend on its content.
#[test]
fn head_has_the_fields_of_get() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let paths = [
        "/",
        "/bytes/100000",
        "/big/70000",
        "/stream",
        "/204",
        "/304",
        "/nowhere",
        "/echo",
        "/panic",
        "/close",
    ];
    for path in paths {
        for version in ["1.1", "1.0"] {
            let mut ask = |method: &str| {
                client = fixture.client();
                client.send(format!("{method} {path} HTTP/{version}\r\nHost: h\r\n\r\n"));
                let mut reply = client.reply_to(method).timeless();
                reply.fields.retain(|(name, _)| name != "Transfer-Encoding");
                (reply.status, reply.fields)
            };
            assert_eq!(ask("GET"), ask("HEAD"), "{path} {version}");
        }
    }
}

/// The server's own responses to it have no body either; bytes after the head would show at the end.
#[test]
fn head_gets_no_content() {
    let fixture = Fixture::new();
    let cases: [(&str, &str, bool); 9] = [
        ("HEAD / HTTP/1.1\r\n\r\n", "400", true),
        ("\r\nHEAD / HTTP/1.1\r\n\r\n", "400", true),
        ("HEAD / HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n", "400", true),
        ("HEAD / HTTP/9.0\r\n\r\n", "505", true),
        ("HEAD / HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n", "417", true),
        ("HEAD / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400", true),
        ("HEAD /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", "404", true),
        ("HEAD /nowhere HTTP/1.1\r\nHost: h\r\n\r\n", "404", false),
        ("HEAD /panic HTTP/1.1\r\nHost: h\r\n\r\n", "500", false),
    ];
    for (sent, status, closes) in cases {
        let wanted = format!("HEAD {status}");
        let mut client = fixture.client();
        client.send(sent);
        expect(&mut client, sent, &[&wanted], if closes { Closed } else { Kept });
    }
    let long = format!("HEAD /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(9_000));
    let mut client = fixture.client();
    client.send(long);
    expect(&mut client, "long", &["HEAD 414"], Closed);
}

#[test]
fn a_slow_or_unlucky_head_gets_no_content() {
    let soon = std::time::Duration::from_secs(1);
    let timeouts = quick().head(soon).queue_wait(soon);
    let fixture = Fixture::with(|server| server.workers(1).timeouts(timeouts));
    let mut client = fixture.client();
    client.send("HEAD / HTTP/1.1\r\n");
    expect(&mut client, "slow", &["HEAD 408"], Closed);
    let mut busy = fixture.client();
    busy.send(get("/wait"));
    fixture.gate().wait_for(1);
    let mut client = fixture.client();
    client.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
    expect(&mut client, "busy", &["HEAD 503"], Closed);
}

#[test]
fn connect_opens_no_tunnel_by_accident() {
    let fixture = serve(as_asked);
    for (path, status) in [("h:80", "501"), ("404:80", "501")] {
        let mut client = fixture.client();
        client.send(format!("CONNECT {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        expect(&mut client, path, &[status], Kept);
    }
    // A handler may mean it.
    let fixture = serve(|req: Request| {
        let speak = |mut io: heirloom::upgrade::Upgraded| {
            let _ = io.write_all(b"tunnel");
        };
        match *req.method() {
            Method::CONNECT => Body::upgrade(speak).into_response(),
            _ => "Hello, World!".into_response(),
        }
    });
    let mut client = fixture.client();
    client.send("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n");
    let reply = client.reply_to("HEAD");
    assert_eq!(
        (reply.status, reply.field("content-length"), reply.field("transfer-encoding")),
        (200, None, None)
    );
    assert_eq!(client.take(6), b"tunnel");
    client.expect_fin();
}

// Section 10: expectations.

#[test]
fn expectations() {
    let fixture = Fixture::new();
    let post = |version: &str, expect: &str| {
        format!("POST /echo HTTP/{version}\r\nHost: h\r\n{expect}Content-Length: 5\r\n\r\n")
    };
    for expect in [
        "Expect: 100-continue\r\n",
        "expect: 100-CONTINUE\r\n",
        "Expect: 100-continue\r\nExpect: 100-continue\r\n",
    ] {
        let mut client = fixture.client();
        client.send(post("1.1", expect));
        let interim = client.reply();
        assert_eq!((interim.status, interim.fields.len()), (100, 0), "{expect}");
        client.send("hello");
        assert_eq!(client.reply().said(), "200 hello");
        client.expect_kept();
    }
    for expectation in
        ["200-ok", "100", "100-continue, x", "100-continue=1", "100-continue;a=b", "\"100-continue\""]
    {
        for version in ["1.1", "1.0"] {
            let mut client = fixture.client();
            client.send(post(version, &format!("Expect: {expectation}\r\n")));
            expect(&mut client, expectation, &["417"], Closed);
        }
    }
}

// Section 13 and 14: preconditions and ranges are for handlers that know the representation.

#[test]
fn preconditions_and_ranges_are_left_to_handlers() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    for field in [
        "If-Match: \"x\"",
        "If-None-Match: *",
        "If-Modified-Since: Sun, 06 Nov 2094 08:49:37 GMT",
        "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
        "Range: bytes=0-1",
        "If-Range: \"x\"",
    ] {
        client.send(format!("GET / HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n"));
        let reply = client.reply();
        assert_eq!((reply.said().as_str(), reply.field("accept-ranges")), (HELLO, None), "{field}");
    }
}

// Section 15: status codes.

/// It would be taken for an interim response, and the client would wait for another.
#[test]
fn no_final_response_is_1xx() {
    let fixture = serve(as_asked);
    for version in ["1.1", "1.0"] {
        for path in ["/100", "/101", "/101?upgrade=echo", "/102", "/103?link=x", "/199"] {
            let mut client = fixture.client();
            client.send(format!(
                "GET {path} HTTP/{version}\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
            ));
            expect(&mut client, path, &["500"], if version == "1.1" { Kept } else { Closed });
        }
    }
}

#[test]
fn statuses_without_content() {
    let fixture = serve(as_asked);
    let fields = "content-length=5;transfer-encoding=chunked;etag=x";
    for version in ["1.1", "1.0"] {
        for (status, length) in [(204, None), (205, Some("0")), (304, Some("5"))] {
            let mut client = fixture.client();
            client.send(format!(
                "GET /{status}?{fields} HTTP/{version}\r\nHost: h\r\nConnection: keep-alive\r\n\r\n"
            ));
            let reply = client.reply();
            assert_eq!((reply.status, reply.body.len()), (status, 0));
            let said = ["content-length", "transfer-encoding", "etag"].map(|name| reply.field(name));
            assert_eq!(said, [length, None, Some("x")], "{status}");
            // Bytes after it would be taken for the next response.
            client.expect_kept();
        }
    }
}

#[test]
fn statuses_that_are_not_known() {
    let fixture = serve(as_asked);
    let mut client = fixture.client();
    for status in [200, 299, 399, 418, 499, 599, 600, 999] {
        let reply = client.get(&format!("/{status}"));
        assert_eq!(reply.said(), format!("{status} hello"));
    }
    client.expect_kept();
}

/// The same as for bodies that the server collects: see `refusals.rs`.
#[test]
fn faults_of_a_streamed_body_are_reported() {
    let limits = Limits::new().body_bytes(10);
    let timeouts = quick().body_stall(std::time::Duration::from_millis(300));
    let fixture = Fixture::with(|server| server.limits(limits).timeouts(timeouts));
    let head = "POST /count HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, status) in [("zz\r\n", "400"), ("b\r\nhello, worl\r\n0\r\n\r\n", "413"), ("5\r\nhel", "408")] {
        let mut client = fixture.client();
        client.send([head, body].concat());
        expect(&mut client, body, &[status], Closed);
    }
    fixture.expect_closes(CloseReason::BodyUnread, 3);
    let mut client = fixture.client();
    client.send([head.as_bytes(), b"5\r\nhello\r\n0\r\n\r\n", GET].concat());
    expect(&mut client, "whole", &["200 5", HELLO], Kept);
}
