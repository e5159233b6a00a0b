//! Bytes on the wire: tables of requests, their responses, and the state
//! of the connection afterwards.

use std::time::Duration;

use arbtest::arbitrary::{Result, Unstructured};
use heirloom::{CloseReason, Handler, Limits, Next};

use crate::property::{bytes, check, cuts, list};
use crate::support::tables::{Case, GET, HELLO, Then::*, expect, run};
use crate::support::*;

#[test]
fn kept_and_closed() {
    let fixture = Fixture::with(|server| server.limits(small_bodies()));
    #[rustfmt::skip]
    let cases: &[Case<'_>] = &[
        ("1.1", &[GET], &[HELLO], Kept),
        ("1.1, close", &[b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"], &[HELLO], Closed),
        ("1.1, close among others", &[b"GET / HTTP/1.1\r\nHost: h\r\nConnection: x, ClOsE\r\n\r\n"], &[HELLO], Closed),
        ("1.1, close, more behind it", &[b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", GET], &[HELLO], Closed),
        ("1.0", &[b"GET / HTTP/1.0\r\n\r\n"], &[HELLO], Closed),
        ("1.0, keep-alive", &[b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"], &[HELLO], Kept),
        ("1.0, both", &[b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"], &[HELLO], Closed),
        ("1.2 is 1.1", &[b"GET / HTTP/1.2\r\nHost: h\r\n\r\n"], &[HELLO], Kept),
        ("the handler closes", &[b"GET /close HTTP/1.1\r\nHost: h\r\n\r\n"], &["200 bye"], Closed),
        ("bare LF", &[b"GET / HTTP/1.1\nHost: h\n\n"], &[HELLO], Kept),
        ("empty lines before", &[b"\r\n\n\r\n", GET], &[HELLO], Kept),
        ("absolute form", &[b"GET http://h/ HTTP/1.1\r\nHost: other\r\n\r\n"], &[HELLO], Kept),
        ("query", &[b"GET /?a=b HTTP/1.1\r\nHost: h\r\n\r\n"], &[HELLO], Kept),
        ("HEAD", &[b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"], &["HEAD 200"], Kept),
        ("HEAD, chunked for GET", &[b"HEAD /stream HTTP/1.1\r\nHost: h\r\n\r\n"], &["HEAD 200"], Kept),
        ("HEAD, big", &[b"HEAD /big/123456789 HTTP/1.1\r\nHost: h\r\n\r\n"], &["HEAD 200"], Kept),
        ("HEAD, bytes", &[b"HEAD /bytes/100000 HTTP/1.1\r\nHost: h\r\n\r\n"], &["HEAD 200"], Kept),
        ("HEAD, a source that would fail", &[b"HEAD /fails/panic HTTP/1.1\r\nHost: h\r\n\r\n"], &["HEAD 200"], Kept),
        ("204", &[b"GET /204 HTTP/1.1\r\nHost: h\r\n\r\n"], &["204"], Kept),
        ("304", &[b"GET /304 HTTP/1.1\r\nHost: h\r\n\r\n"], &["304"], Kept),
        ("204, 1.0", &[b"GET /204 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"], &["204"], Kept),
        ("404", &[b"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n"], &["404"], Kept),
        ("404 to HEAD", &[b"HEAD /nowhere HTTP/1.1\r\nHost: h\r\n\r\n"], &["HEAD 404"], Kept),
        ("405", &[b"DELETE / HTTP/1.1\r\nHost: h\r\n\r\n"], &["405"], Kept),
        ("OPTIONS", &[b"OPTIONS / HTTP/1.1\r\nHost: h\r\n\r\n"], &["204"], Kept),
        ("OPTIONS *", &[b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"], &["204"], Kept),
        ("an unknown method", &[b"BREW / HTTP/1.1\r\nHost: h\r\n\r\n"], &["501"], Kept),
        ("CONNECT", &[b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n"], &["501"], Kept),
        ("404, its body unread", &[b"POST /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", GET], &["404"], Closed),
        ("405, its body unread", &[b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", GET], &["405"], Closed),
        ("a body to GET", &[b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"], &[HELLO], Kept),
        ("panic", &[b"GET /panic HTTP/1.1\r\nHost: h\r\n\r\n", GET], &["500", HELLO], Kept),
        ("panic, 1.0", &[b"GET /panic HTTP/1.0\r\n\r\n"], &["500"], Closed),
    ];
    run(&fixture, cases);
}

#[test]
fn a_refusal_without_a_body_keeps_the_connection() {
    let fixture = Fixture::new();
    let cases: &[Case<'_>] = &[
        ("404", &[b"POST /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"], &["404"], Kept),
        ("405", &[b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"], &["405"], Kept),
    ];
    run(&fixture, cases);
}

#[test]
fn what_heads_say_of_bodies() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let mut head = |path: &str| {
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let reply = client.reply_to("HEAD");
        assert_eq!(reply.field("transfer-encoding"), None, "{reply:?}");
        reply.field("content-length").map(str::to_owned)
    };
    assert_eq!(head("/").as_deref(), Some("13"));
    assert_eq!(head("/big/123456789").as_deref(), Some("123456789"));
    assert_eq!(head("/stream"), None);
    assert_eq!(head("/204"), None);
    assert_eq!(client.get("/204").field("content-length"), None);
    assert_eq!(client.get("/304").field("content-length"), None);
    let reply = client.get("/bytes/0");
    assert_eq!((reply.field("content-length"), reply.trailing), (Some("0"), How::Length));
    client.send("DELETE /echo HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.reply().field("allow"), Some("OPTIONS, POST, PUT"));
}

#[test]
fn refused_heads() {
    let fixture = Fixture::new();
    let long_target = [b"GET /", &[b'a'; 8 << 10][..], b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
    let long_field = [b"GET / HTTP/1.1\r\nHost: h\r\nX: ", &[b'a'; 64 << 10][..], b"\r\n\r\n"].concat();
    let many_fields = [b"GET / HTTP/1.1\r\nHost: h\r\n", "X: y\r\n".repeat(100).as_bytes(), b"\r\n"].concat();
    // Each is followed by bytes that must not be taken for a request.
    #[rustfmt::skip]
    let cases: &[(&str, &[u8], &str)] = &[
        ("garbage", b"\x16\x03\x01\x02\r\n\r\n", "400"),
        ("no target", b"GET\r\n\r\n", "400"),
        ("two spaces", b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", "400"),
        ("a target without slash", b"GET x HTTP/1.1\r\nHost: h\r\n\r\n", "400"),
        ("a fragment", b"GET /#x HTTP/1.1\r\nHost: h\r\n\r\n", "400"),
        ("* to GET", b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", "400"),
        ("another protocol", b"GET / ICY/1.1\r\nHost: h\r\n\r\n", "400"),
        ("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", "505"),
        ("HTTP/3.0", b"GET / HTTP/3.0\r\nHost: h\r\n\r\n", "505"),
        ("HTTP/0.9", b"GET / HTTP/0.9\r\n\r\n", "505"),
        ("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"),
        ("empty lines", b"\r\n\r\n\r\n\r\n\r\n", "400"),
        ("no Host", b"GET / HTTP/1.1\r\n\r\n", "400"),
        ("two Hosts", b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", "400"),
        ("a bad Host", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400"),
        ("space before colon", b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n", "400"),
        ("obs-fold", b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", "400"),
        ("NUL", b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", "400"),
        ("bare CR", b"GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", "400"),
        ("a nameless field", b"GET / HTTP/1.1\r\nHost: h\r\n: a\r\n\r\n", "400"),
        ("length and coding", b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("two lengths", b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "400"),
        ("one length twice", b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 5\r\n\r\nhello", "400"),
        ("length +5", b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nhello", "400"),
        ("length 5x", b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5x\r\n\r\nhello", "400"),
        ("length -1", b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\nhello", "400"),
        ("no length", b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\nhello", "400"),
        ("length 2^64", b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551616\r\n\r\nhello", "400"),
        ("length 2^64-1", b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551615\r\n\r\nhello", "413"),
        ("length 2^63-1", b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 9223372036854775807\r\n\r\nhello", "413"),
        ("coding xchunked", b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400"),
        ("coding gzip, chunked", b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501"),
        ("chunked, identity", b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "400"),
        ("chunked twice", b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("chunked in 1.0", b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("another expectation", b"POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\na", "417"),
        ("a long target", &long_target, "414"),
        ("a long field", &long_field, "431"),
        ("many fields", &many_fields, "431"),
    ];
    for (name, head, status) in cases {
        for follow in [&b""[..], GET] {
            // Byte by byte if it is short.
            for step in if head.len() < 200 { &[1, usize::MAX][..] } else { &[usize::MAX] } {
                let mut client = fixture.client();
                let bytes = [head, follow].concat();
                let _ = bytes.chunks(*step).try_for_each(|piece| client.try_send(piece));
                expect(&mut client, name, &[*status], Closed);
            }
        }
    }
}

#[test]
fn refused_bodies() {
    let fixture = Fixture::new();
    let head = b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let trailers = ["0\r\n", &"X: y\r\n".repeat(101), "\r\n"].concat();
    let long_trailer = ["0\r\nX: ", &"y".repeat(64 << 10), "\r\n\r\n"].concat();
    let extensions = ["1;", &"x".repeat(5 << 10), "\r\na\r\n0\r\n\r\n"].concat();
    #[rustfmt::skip]
    let cases: &[(&str, &[u8], &str)] = &[
        ("no size", b"\r\n", "400"),
        ("no hex", b"zz\r\n", "400"),
        ("negative", b"-1\r\na\r\n", "400"),
        ("0x", b"0x1\r\na\r\n", "400"),
        ("17 digits", b"00000000000000001\r\na\r\n", "400"),
        ("bare LF", b"1\na\r\n0\r\n\r\n", "400"),
        ("longer than its size", b"1\r\nab\r\n0\r\n\r\n", "400"),
        ("a space after its size", b"1 \r\na\r\n0\r\n\r\n", "400"),
        ("a broken extension", b"1;=\r\na\r\n0\r\n\r\n", "400"),
        ("long extensions", extensions.as_bytes(), "400"),
        ("a broken trailer", b"0\r\nX\r\n\r\n", "400"),
        ("many trailers", trailers.as_bytes(), "431"),
        ("a long trailer", long_trailer.as_bytes(), "431"),
        ("huge", b"ffffffffffffffff\r\na", "413"),
    ];
    for (name, body, status) in cases {
        let mut client = fixture.client();
        let _ = client.try_send([head, *body, GET].concat());
        expect(&mut client, name, &[*status], Closed);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let fixture = Fixture::with(|server| server.limits(small_bodies()));
    let three = [post("/echo", b"first"), post_chunked("/echo", &[b"sec", b"ond"]), get("/bytes/5").into()];
    let slow = [get("/sleep/30"), get("/"), get("/sleep/1"), get("/stream"), get("/")].concat();
    let mixed = [post("/discard", &[b'x'; 5_000]), get("/204").into(), GET.to_vec(), post("/count", b"1234")];
    let stream = format!("200 {}", String::from_utf8(patterned(10_000)).unwrap());
    #[rustfmt::skip]
    let cases: &[Case<'_>] = &[
        ("three", &[&three.concat()], &["200 first", "200 second", "200 abcde"], Kept),
        ("slow ones", &[slow.as_bytes()], &["200 ok", HELLO, "200 ok", &stream, HELLO], Kept),
        ("streaming ones", &[&mixed.concat()], &["200 ok", "204", HELLO, "200 4"], Kept),
        ("a refusal ends it", &[GET, b"GET / HTTP/1.1\r\n\r\n", GET], &[HELLO, "400"], Closed),
        ("a close ends it", &[GET, b"GET / HTTP/1.0\r\n\r\n", GET], &[HELLO, HELLO], Closed),
        ("HEAD between", &[GET, b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", GET], &[HELLO, "HEAD 200", HELLO], Kept),
    ];
    run(&fixture, cases);
}

#[test]
fn a_thousand_pipelined_requests() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let mut expected = Vec::new();
    let mut bytes = Vec::new();
    for n in 0..1_000 {
        let (request, answer) = match n % 5 {
            0 => (post("/echo", format!("{n}").as_bytes()), format!("200 {n}")),
            1 => (post_chunked("/echo", &[b"a", format!("{n}").as_bytes()]), format!("200 a{n}")),
            2 if n % 100 == 2 => (get("/sleep/2").into_bytes(), "200 ok".to_owned()),
            3 if n % 50 == 3 => (post("/discard", b"abc"), "200 ok".to_owned()),
            _ => (GET.to_vec(), HELLO.to_owned()),
        };
        bytes.extend(request);
        expected.push(answer);
    }
    client.send(&bytes);
    for (n, expected) in expected.iter().enumerate() {
        assert_eq!(client.reply().said(), *expected, "response {n}");
    }
    client.expect_kept();
    assert_eq!(fixture.stats().requests, 1_001);
}

#[test]
fn a_pipeline_longer_than_all_buffers() {
    let fixture = Fixture::new();
    let mut client = Client::narrow(fixture.address());
    let mut writer = client.twin();
    let pipeline = get("/bytes/20000").repeat(500);
    let writer = spawn(move || writer.send(pipeline));
    for _ in 0..500 {
        assert_patterned(&client.reply().body, 20_000);
    }
    writer.join().unwrap();
    client.expect_kept();
}

#[test]
fn unknown_length() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let reply = client.get("/stream");
    assert_patterned(&reply.body, 10_000);
    assert_eq!((reply.trailing, reply.closes()), (How::Chunked, false));
    let reply = client.get("/stream/3000000");
    assert_patterned(&reply.body, 3_000_000);
    client.expect_kept();

    for fields in ["", "Connection: keep-alive\r\n"] {
        let mut client = fixture.client();
        client.send(format!("GET /stream HTTP/1.0\r\n{fields}\r\n"));
        let reply = client.reply();
        assert_patterned(&reply.body, 10_000);
        assert_eq!((reply.trailing, reply.closes()), (How::Close, true));
        client.expect_fin();
    }
}

#[test]
fn ten_mebibytes_to_a_slow_reader() {
    const LEN: usize = 10 << 20;
    let fixture = Fixture::new();
    for path in ["/big", "/bytes", "/stream"] {
        let mut client = Client::narrow(fixture.address());
        client.send(get(&format!("{path}/{LEN}")));
        // A little at a time, then at once.
        for _ in 0..200 {
            client.sip(100);
        }
        let reply = client.reply();
        assert_patterned(&reply.body, LEN);
        client.expect_kept();
    }
}

#[test]
fn request_bodies_at_every_limit() {
    const MEMORY: usize = 64 << 10;
    const MAXIMUM: usize = BODY_MAXIMUM as usize;
    let fixture = Fixture::with(|server| server.limits(small_bodies()));
    for len in [0, 1, MEMORY - 1, MEMORY, MEMORY + 1, 3 * MEMORY, MAXIMUM - 1, MAXIMUM] {
        let body = patterned(len);
        let mut client = fixture.client();
        for chunk in [None, Some(usize::MAX), Some(10_000), Some(MEMORY)] {
            let request = match chunk {
                None => post("/echo", &body),
                Some(chunk) => post_chunked("/echo", &body.chunks(chunk.min(len.max(1))).collect::<Vec<_>>()),
            };
            client.send(request);
            let reply = client.reply();
            assert_eq!(reply.status, 200, "{len} {chunk:?}");
            assert_patterned(&reply.body, len);
        }
        client.expect_kept();
    }
}

/// The client sends everything before it reads: bytes that it has not sent yet must not cost it the response.
#[test]
fn a_body_beyond_the_maximum() {
    let fixture = Fixture::with(|server| server.limits(small_bodies()));
    for beyond in [1, 8 << 20] {
        let body = patterned(BODY_MAXIMUM as usize + beyond);
        for request in [post("/echo", &body), post_chunked("/echo", &[&body])] {
            let mut client = fixture.client();
            // The server does not read indefinitely; writing may fail, reading must not.
            let _ = client.try_send(&request);
            expect(&mut client, &format!("{beyond} beyond"), &["413"], Closed);
        }
    }
}

/// As above, with a body that fits into a lingering close.
#[test]
fn a_body_a_little_beyond_the_maximum() {
    let limits = Limits::new().body_bytes(100 << 10);
    let fixture = Fixture::with(|server| server.limits(limits));
    let body = patterned((100 << 10) + 1);
    for request in [post("/echo", &body), post_chunked("/echo", &[&body])] {
        let mut client = fixture.client();
        client.send(&request);
        expect(&mut client, "beyond", &["413"], Closed);
    }
}

#[test]
fn chunked_with_extensions_and_trailers() {
    let fixture = Fixture::new();
    let head = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    let heads = ["/echo", "/trailers", "/count", "/discard"].map(head);
    let [echo, trailers, count, discard] = heads.each_ref().map(|head| head.as_bytes());
    #[rustfmt::skip]
    let cases: &[Case<'_>] = &[
        ("none", &[echo, b"0\r\n\r\n"], &["200"], Kept),
        ("zeros", &[echo, b"0003\r\nabc\r\n000\r\n\r\n"], &["200 abc"], Kept),
        ("upper case", &[echo, b"A\r\n0123456789\r\n0\r\n\r\n"], &["200 0123456789"], Kept),
        ("extensions", &[echo, b"3;a;b=c; d = \"e\\\"\xc3\xa9;\"\r\nabc\r\n0;x\r\n\r\n"], &["200 abc"], Kept),
        ("trailers", &[trailers, b"3\r\nabc\r\n0\r\nX-One: 1\r\nX-Two: 2\r\n\r\n"], &["200 x-one=1 x-two=2"], Kept),
        ("trailers that are none", &[trailers, b"0\r\nContent-Length: 5\r\nHost: x\r\nX: y\r\n\r\n"], &["200 x=y"], Kept),
        ("trailers not asked for", &[echo, b"3\r\nabc\r\n0\r\nX: y\r\n\r\n", GET], &["200 abc", HELLO], Kept),
        ("trailers, streaming", &[count, b"3\r\nabc\r\n0\r\nX: y\r\n\r\n", GET], &["200 3", HELLO], Kept),
        ("trailers, unread", &[discard, b"3\r\nabc\r\n0\r\nX: y\r\n\r\n", GET], &["200 ok", HELLO], Kept),
    ];
    run(&fixture, cases);
}

#[test]
fn expect_100_continue() {
    let fixture = Fixture::with(|server| server.limits(small_bodies()));
    let head = |line: &str, len: u64| {
        format!("{line} HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: {len}\r\n\r\n")
    };
    // It waits, gets 100, and continues.
    for (line, answer) in [("POST /echo", "200 hello"), ("POST /count", "200 5"), ("POST /first", "200 hel")]
    {
        let mut client = fixture.client();
        for _ in 0..2 {
            client.send(head(line, 5));
            assert_eq!(client.reply().status, 100, "{line}");
            client.send("hello");
            assert_eq!(client.reply().said(), answer);
        }
        client.expect_kept();
    }
    // It waits, and gets the refusal.
    let refused =
        [("POST /nowhere", 5, "404"), ("POST /", 5, "405"), ("POST /echo", BODY_MAXIMUM + 1, "413")];
    for (line, len, answer) in refused {
        let mut client = fixture.client();
        client.send(head(line, len));
        expect(&mut client, line, &[answer], Closed);
    }
    // If the handler does not read, no 100 is sent.
    let mut client = fixture.client();
    client.send(head("POST /discard", 5));
    expect(&mut client, "unread", &["200 ok"], Closed);
    // It does not wait: one response each, with or without a 100.
    let mut client = fixture.client();
    for line in ["POST /echo", "POST /count"] {
        client.send(head(line, 5) + "hello" + &get("/"));
        let first = client.reply();
        let answer = if first.status == 100 { client.reply() } else { first };
        assert_eq!(answer.status, 200);
        assert_eq!(client.reply().said(), HELLO);
    }
    // No 100 without a body.
    client.send(head("POST /echo", 0));
    assert_eq!(client.reply().said(), "200");
    client.expect_kept();
    // HTTP/1.0 has no 100.
    let mut client = fixture.client();
    client.send("POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    eventually("the head is read", || fixture.stats().in_flight == 1);
    client.expect_silence();
    client.send("hello");
    expect(&mut client, "1.0", &["200 hello"], Closed);
}

#[test]
fn a_body_that_its_handler_leaves() {
    let limits = Limits::new().discard_bytes(50_000);
    let fixture = Fixture::with(|server| server.limits(limits));
    // Up to the limit it is dropped, and the next request is served.
    for request in [post("/discard", &[b'x'; 50_000]), post_chunked("/discard", &[&[b'x'; 40_000]])] {
        let mut client = fixture.client();
        client.send([&request, GET].concat());
        expect(&mut client, "within", &["200 ok", HELLO], Kept);
    }
    let mut client = fixture.client();
    client.send(post("/first", b"hello"));
    expect(&mut client, "partly read", &["200 hel"], Kept);
    // Beyond it the connection closes: announced if the length was.
    let mut client = fixture.client();
    client.send([&post("/discard", &[b'x'; 150_000])[..], GET].concat());
    expect(&mut client, "beyond", &["200 ok"], Closed);
    fixture.expect_closes(CloseReason::BodyUnread, 1);
    // Without an announced length, as many bytes are dropped as a body may have.
    let mut client = fixture.client();
    client.send([&post_chunked("/discard", &[&[b'x'; 50_000][..]; 3])[..], GET].concat());
    expect(&mut client, "beyond, chunked", &["200 ok", HELLO], Kept);
}

/// The server does not wait for it either.
#[test]
fn a_chunk_beyond_the_limit_of_the_body_is_refused_by_its_size() {
    let limits = Limits::new().body_bytes(1000);
    let fixture = Fixture::with(|server| server.limits(limits));
    for path in ["/echo", "/count"] {
        for (chunks, status) in
            [("3e8\r\n", None), ("3e9\r\n", Some(413)), ("ffffffffffffffff\r\n", Some(413))]
        {
            let head = format!("POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
            let mut client = fixture.client();
            client.send(head + chunks);
            match status {
                Some(status) => {
                    let reply = client.reply();
                    assert_eq!((reply.status, reply.closes()), (status, true), "{path} {chunks:?}");
                }
                None => client.expect_silence(),
            }
        }
    }
}

/// Empty lines, as old clients send them after a body (RFC 9112 §2.2).
#[test]
fn an_empty_line_begins_no_request() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.send([&post("/echo", b"hi")[..], b"\r\n"].concat());
    expect(&mut client, "behind a body", &["200 hi"], Kept);
    for _ in 0..3 {
        client.send("\r\n");
        eventually("it is dropped", || fixture.stats().in_flight == 0);
    }
    client.send(GET);
    expect(&mut client, "then", &[HELLO], Kept);
    for _ in 0..5 {
        client.send("\r\n");
    }
    expect(&mut client, "too many", &["400 too many empty lines before the request"], Closed);
}

/// The handler has already returned the response: it must reach the client.
#[test]
fn a_left_body_that_is_malformed() {
    let fixture = Fixture::new();
    for (path, status) in [("/discard", 200), ("/first", 200), ("/count", 400)] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        let mut client = fixture.client();
        client.send(head + "3\r\nabc\r\nzz\r\n");
        assert_eq!(client.reply().status, status, "{path}");
        client.expect_fin();
    }
}

#[test]
fn a_streamed_body_that_ends_early() {
    let fixture = Fixture::new();
    let head = "POST /count HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = fixture.client();
    client.send([head, "3\r\nab"].concat());
    client.half_close();
    assert_eq!(client.reply().status, 400);
    client.expect_fin();
}

#[test]
fn split_at_every_byte() {
    let fixture = Fixture::new();
    let requests = [
        get("/").into_bytes(),
        b"GET / HTTP/1.0\nConnection: keep-alive\n\n".to_vec(),
        post("/echo", b"hello"),
        post_chunked("/echo", &[b"hel", b"lo"]),
        b"POST /trailers HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\nX: y\r\n\r\n".to_vec(),
        post_chunked("/count", &[b"hel", b"lo"]),
        post_chunked("/discard", &[b"hel", b"lo"]),
        [GET, &post("/echo", b"x")].concat(),
    ];
    for request in requests {
        let replies = if request.starts_with(GET) && request.len() > GET.len() { 2 } else { 1 };
        let answers =
            |client: &mut Client| -> Vec<Reply> { (0..replies).map(|_| client.reply().timeless()).collect() };
        let mut client = fixture.client();
        client.send(&request);
        let whole = answers(&mut client);
        for at in 1..request.len() {
            eventually("the last one is over", || fixture.stats().in_flight == 0);
            let (first, second) = request.split_at(at);
            client.send(first);
            let started = || fixture.stats().in_flight == 1;
            eventually("the first part is read", || started() || first.starts_with(GET));
            client.send(second);
            assert_eq!(answers(&mut client), whole, "{:?} at {at}", String::from_utf8_lossy(&request));
        }
        client.expect_kept();
        drop(client);
        eventually("all are gone", || fixture.stats().open == 0);
    }
}

#[test]
fn a_panic_costs_no_worker() {
    let fixture = Fixture::with(|server| server.workers(1));
    let mut client = fixture.client();
    for _ in 0..5 {
        assert_eq!(client.get("/panic").said(), "500 500 Internal Server Error");
    }
    client.expect_kept();
    fixture.client().expect_kept();
    assert_eq!(fixture.stats().panics, 5);
}

/// Each place where the user's code can panic on a worker.
#[test]
fn a_panic_outside_the_handler_costs_no_worker() {
    let handler = (|_: heirloom::Request| "fine\n").wrap(|request: heirloom::Request, next: Next<'_>| {
        assert!(request.uri().path() != "/panic", "as the test wants it");
        next.call(request)
    });
    let server = heirloom::Server::new(handler).listen("127.0.0.1:0").workers(1).timeouts(quick());
    let running = server.spawn().unwrap();
    let mut client = Client::to(running.addresses()[0]);
    client.send(get("/panic"));
    let mut other = Client::to(running.addresses()[0]);
    assert_eq!(other.get("/").said(), "200 fine");
    assert_eq!(client.reply().status, 500);
}

#[test]
fn a_source_that_panics_when_dropped_costs_no_worker() {
    struct Touchy;

    impl std::io::Read for Touchy {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Ok(0)
        }
    }

    impl Drop for Touchy {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "as the test wants it");
        }
    }

    let router = heirloom::Router::new()
        .get("/", |_: heirloom::Request| "fine\n")
        .get("/touchy", |_: heirloom::Request| heirloom::Body::from_reader(Touchy));
    let server = heirloom::Server::new(router).listen("127.0.0.1:0").workers(1).timeouts(quick());
    let running = server.spawn().unwrap();
    let mut client = Client::to(running.addresses()[0]);
    client.send("HEAD /touchy HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut other = Client::to(running.addresses()[0]);
    assert_eq!(other.get("/").said(), "200 fine");
}

#[test]
fn a_response_that_fails_shows() {
    let fixture = Fixture::new();
    let paths =
        ["/fails/error", "/fails/panic", "/fails/error?2000", "/fails/panic?2000", "/fails/early?2000"];
    for path in paths {
        let mut client = fixture.client();
        let reply = client.get(path);
        assert!(reply.body.len() <= 1_000);
        assert_eq!((reply.status, reply.trailing), (200, How::Cut(End::Fin)), "{path}");
    }
    // A response without framing can only be reset.
    for path in ["/fails/error", "/fails/panic"] {
        let mut client = fixture.client();
        client.send(format!("GET {path} HTTP/1.0\r\n\r\n"));
        match client.try_reply_to("GET") {
            Ok(reply) => assert_eq!(reply.trailing, How::Cut(End::Reset), "{path}"),
            Err(end) => assert_eq!(end, End::Reset, "{path}"),
        }
    }
    // A body with a length has an end, even if the client would close.
    let mut client = fixture.client();
    client.send("GET /fails/early?2000 HTTP/1.0\r\n\r\n");
    assert_eq!(client.reply().trailing, How::Cut(End::Fin));
    fixture.expect_closes(CloseReason::ResponseFailed, 8);
    fixture.client().expect_kept();
}

#[test]
fn detached_streams() {
    let limits = Limits::new().detached_threads(1);
    let fixture = Fixture::with(|server| server.limits(limits));
    let run_out = || eventually("its thread ends", || fixture.stats().detached == 0);
    for (version, how) in [("1.1", How::Chunked), ("1.0", How::Close)] {
        let mut client = fixture.client();
        client.send(format!("GET /detached HTTP/{version}\r\nHost: h\r\n\r\n"));
        let reply = client.reply();
        assert_eq!((reply.said().as_str(), reply.trailing, reply.closes()), ("200 one\ntwo", how, true));
        client.expect_fin();
        run_out();
    }
    let mut client = fixture.client();
    client.send("HEAD /detached HTTP/1.1\r\nHost: h\r\n\r\n");
    expect(&mut client, "HEAD", &["HEAD 200"], Closed);

    // It arrives piece by piece, and only one may run.
    let mut client = fixture.client();
    client.send(get("/detached/wait"));
    fixture.gate().wait_for(1);
    assert_eq!(fixture.stats().detached, 1);
    let mut other = fixture.client();
    assert_eq!(other.get("/detached").status, 503);
    other.send("GET /upgrade HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(other.reply().status, 503);
    other.expect_kept();
    fixture.gate().open();
    assert_eq!(client.reply().said(), "200 one\ntwo");
    client.expect_fin();
    run_out();
    assert_eq!(other.get("/detached").status, 200);
    fixture.expect_closes(CloseReason::Detached, 4);
}

#[test]
fn a_detached_stream_that_fails_shows() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    assert_eq!(client.get("/detached/fails").trailing, How::Cut(End::Fin));
}

#[test]
fn a_detached_stream_that_fails_shows_even_to_1_0() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.send("GET /detached/fails HTTP/1.0\r\n\r\n");
    match client.try_reply_to("GET") {
        Ok(reply) => assert_eq!(reply.trailing, How::Cut(End::Reset)),
        Err(end) => assert_eq!(end, End::Reset),
    }
}

/// Unread bytes of the client must not cost it the end of the stream.
#[test]
fn a_detached_stream_to_a_client_that_keeps_sending() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.send(get("/detached/wait"));
    fixture.gate().wait_for(1);
    client.send(GET);
    fixture.gate().open();
    assert_eq!(client.reply().said(), "200 one\ntwo");
    client.expect_fin();
}

#[test]
fn upgrades() {
    let fixture = Fixture::new();
    let request = "GET /upgrade HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    for early in ["", "early "] {
        let mut client = fixture.client();
        client.send([request, early].concat());
        let reply = client.reply();
        assert_eq!((reply.status, reply.field("upgrade")), (101, Some("echo")));
        assert_eq!(reply.field("connection"), Some("upgrade"));
        client.send("one");
        let wanted = [early, "one"].concat();
        assert_eq!(client.take(wanted.len()), wanted.as_bytes());
        client.send("bye.");
        assert_eq!(client.take(4), b"bye.");
        client.expect_fin();
    }
    // After a response, with a request body before it.
    let mut client = fixture.client();
    client.send([GET, request.as_bytes(), b"now."].concat());
    assert_eq!(client.reply().said(), HELLO);
    assert_eq!(client.reply().status, 101);
    assert_eq!(client.take(4), b"now.");
    client.expect_fin();
    // Bytes after the end cause no reset.
    let mut client = fixture.client();
    client.send(request);
    assert_eq!(client.reply().status, 101);
    client.send(format!(".{}", "x".repeat(100_000)));
    assert_eq!(client.take(256)[0], b'.');
    client.expect_fin();
    // Half-closed: earlier bytes are still answered.
    let mut client = fixture.client();
    client.send([request, "last"].concat());
    client.half_close();
    assert_eq!(client.reply().status, 101);
    assert_eq!(client.take(4), b"last");
    client.expect_fin();
    // HTTP/1.0 has no upgrade.
    let mut client = fixture.client();
    client.send("GET /upgrade HTTP/1.0\r\n\r\n");
    expect(&mut client, "1.0", &["426"], Closed);
    fixture.expect_closes(CloseReason::Detached, 5);
}

#[test]
fn half_closed_after_the_request() {
    let fixture = Fixture::new();
    let requests = [
        get("/").into_bytes(),
        get("/bytes/1000000").into_bytes(),
        get("/big/1000000").into_bytes(),
        get("/stream/1000000").into_bytes(),
        post("/echo", b"hello"),
        post_chunked("/count", &[b"hello"]),
        post("/discard", &[b'x'; 100_000]),
        get("/").repeat(300).into_bytes(),
    ];
    for request in requests {
        let name = String::from_utf8_lossy(&request[..20]).into_owned();
        let mut client = Client::narrow(fixture.address());
        client.send(&request);
        client.half_close();
        let replies = if name.starts_with("GET / ") && request.len() > 1_000 { 300 } else { 1 };
        for _ in 0..replies {
            let reply = client.reply();
            assert_eq!(reply.status, 200, "{name}");
            assert!(!matches!(reply.trailing, How::Cut(_)), "{name}");
        }
        assert_eq!(client.end(), End::Fin, "{name}");
    }
    let all = 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1;
    fixture.expect_closes(CloseReason::ClientClosed, all);
}

#[test]
fn half_closed_while_the_handler_runs() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.send(get("/wait"));
    fixture.gate().wait_for(1);
    client.half_close();
    fixture.gate().open();
    expect(&mut client, "half-closed", &["200 waited"], Cut);
}

/// The request and the end both arrived while a worker had the connection.
#[test]
fn half_closed_behind_a_request_sent_while_the_handler_runs() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.send(get("/wait"));
    fixture.gate().wait_for(1);
    client.send(GET);
    client.half_close();
    fixture.gate().open();
    expect(&mut client, "half-closed", &["200 waited", HELLO], Cut);
}

#[test]
fn half_closed_within_a_request() {
    let fixture = Fixture::new();
    for part in
        ["G", "GET / HTTP/1.1\r\nHost", "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhel"]
    {
        let mut client = fixture.client();
        client.send(part);
        client.half_close();
        client.expect_fin();
    }
    fixture.expect_closes(CloseReason::ClientCut, 3);
    let mut client = fixture.client();
    client.half_close();
    client.expect_fin();
    fixture.expect_closes(CloseReason::ClientClosed, 1);
}

#[test]
fn a_client_that_resets_costs_nothing() {
    let fixture = Fixture::with(|server| server.workers(1));
    for request in [get("/"), get("/big/10000000"), get("/zeros/10000000"), "GET /".to_owned()] {
        for _ in 0..10 {
            let mut client = Client::narrow(fixture.address());
            client.send(&request);
            client.reset();
        }
    }
    eventually("all have come", || fixture.stats().accepted == 40);
    eventually("all are closed", || fixture.stats().open == 0);
    fixture.client().expect_kept();
}

#[test]
fn unix_sockets_speak_the_same() {
    use std::io::{Read, Write};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let fixture = Fixture::with(|server| server.listen(format!("unix:{}", path.display())));
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nHello, World!"), "{text}");
    assert_eq!(fixture.running().addresses().len(), 1);
    fixture.stop().unwrap();
    assert!(!path.exists());
}

/// A valid request and its description, for messages of failures.
#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    bytes: Vec<u8>,
}

fn asked(u: &mut Unstructured<'_>) -> Result<Asked> {
    const PATHS: &[&str] = &["/", "/204", "/304", "/panic", "/nowhere", "/stream", "/sleep/1"];
    const TAKERS: &[&str] = &["/echo", "/count", "/discard", "/trailers"];
    let plain = |method, text: String| Ok(Asked { method, bytes: text.into_bytes() });
    let path = |u: &mut Unstructured<'_>| {
        Ok(match u.int_in_range(0..=9)? {
            kind @ 0..=2 => {
                format!("/{}/{}", ["big", "bytes", "stream"][kind], u.int_in_range(0..=99_999_u32)?)
            }
            _ => (*u.choose(PATHS)?).to_owned(),
        })
    };
    match u.int_in_range(0..=12)? {
        0..=3 => plain("GET", get(&path(u)?)),
        4 => plain("HEAD", get(&path(u)?).replacen("GET", "HEAD", 1)),
        5 => plain("GET", "\r\nGET / HTTP/1.0\nConnection: Keep-Alive\n\n".to_owned()),
        6 => plain("DELETE", "DELETE /echo HTTP/1.1\r\nHost: h\r\n\r\n".to_owned()),
        7..=9 => Ok(Asked { method: "POST", bytes: post(u.choose(TAKERS)?, &bytes(u, 0..=2_999)?) }),
        _ => {
            let path = u.choose(TAKERS)?;
            let chunks = list(u, 0..=4, |u| bytes(u, 0..=2_999))?;
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).filter(|c| !c.is_empty()).collect();
            Ok(Asked { method: "POST", bytes: post_chunked(path, &chunks) })
        }
    }
}

/// Requests that are sent together and split anywhere get the same responses as each alone.
#[test]
fn pieces_do_not_matter() {
    let fixture = Fixture::new();
    check(64, 256 << 10, |u| {
        let requests = list(u, 1..=9, asked)?;
        let alone: Vec<Reply> = requests
            .iter()
            .map(|asked| {
                let mut client = fixture.client();
                client.send(&asked.bytes);
                client.reply_to(asked.method).timeless()
            })
            .collect();
        let all = requests.iter().map(|asked| &asked.bytes[..]).collect::<Vec<_>>().concat();
        let cuts = cuts(u, all.len(), 19)?;
        let mut client = fixture.client();
        let mut writer = client.twin();
        let writer = spawn(move || {
            let mut from = 0;
            for to in cuts {
                writer.send(&all[from..to]);
                from = to;
                let_pass(Duration::from_micros(200));
            }
        });
        for (asked, alone) in requests.iter().zip(alone) {
            assert_eq!(client.reply_to(asked.method).timeless(), alone);
        }
        writer.join().unwrap();
        client.expect_kept();
        Ok(())
    });
}
