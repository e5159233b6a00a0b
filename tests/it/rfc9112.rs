//! RFC 9112, HTTP/1.1, message by message: what it demands of a server that receives and sends. The
//! sections are named in `docs/http.md`, which says where each demand is kept.

use heirloom::CloseReason;
use heirloom::prelude::*;

use crate::support::tables::{Case, GET, HELLO, Then, Then::*, expect, run};
use crate::support::*;

/// The request bytes, the responses, and the connection afterwards.
type Row<'a> = (&'a [u8], &'a [&'a str], Then);

#[track_caller]
fn check(fixture: &Fixture, rows: &[Row<'_>]) {
    for (sent, said, then) in rows {
        let name = sent.escape_ascii().to_string();
        let case: Case<'_> = (&name, &[*sent], said, *then);
        run(fixture, &[case]);
    }
}

/// Answers every path but `/` with what it has seen: method, target, version, each Host, the body.
fn mirror() -> Fixture {
    let seen = |mut req: Request| -> std::io::Result<String> {
        let body = req.text()?;
        let hosts: Vec<&str> =
            req.headers().get_all("host").iter().map(|host| host.to_str().unwrap()).collect();
        Ok(format!("{} {} {:?} {hosts:?} {body:?}", req.method(), req.uri(), req.version()))
    };
    let router = Router::new().get("/", |_: Request| "Hello, World!").fallback(seen);
    let server = Server::new(router).listen("127.0.0.1:0").workers(4).timeouts(quick());
    Fixture::of(Gate::default(), server)
}

/// A request with these field lines.
fn with(fields: &str) -> Vec<u8> {
    format!("GET /x HTTP/1.1\r\nHost: h\r\n{fields}\r\n").into_bytes()
}

/// A chunked body behind its head.
fn chunked(body: &str) -> Vec<u8> {
    format!("POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes()
}

const SEEN: &str = "200 GET /x HTTP/1.1 [\"h\"] \"\"";
const HELLO_SENT: &str = "200 POST /x HTTP/1.1 [\"h\"] \"hello\"";

// Section 2: messages.

#[test]
fn line_ends() {
    #[rustfmt::skip]
    let rows: &[Row<'_>] = &[
        (b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n", &[SEEN], Kept),
        (b"GET /x HTTP/1.1\nHost: h\n\n", &[SEEN], Kept),
        // Some by CRLF, some by LF.
        (b"GET /x HTTP/1.1\r\nHost: h\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/1.1\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/1.1\r\nHost: h\r\n\n", &["400"], Closed),
        (b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\nContent-Length: 5\r\n\r\nhello", &["400"], Closed),
        (b"GET /x HTTP/1.1\nHost: h\n\r\n", &["400"], Closed),
        // A bare CR.
        (b"GET /x HTTP/1.1\rHost: h\r\r\n\n", &["400"], Closed),
        (b"GET /x HTTP/1.1\r\nHost: h\rX: a\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/1.1\r\nHost: h\r\n\rX: a\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/1.1\r\nHost: h\r\r\n\r\n", &["400"], Closed),
        (b"GET /x\r HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/1.1\r\nHost: h\r\nX: \ra\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/1.1\r\nHost: h\r\nX\r: a\r\n\r\n", &["400"], Closed),
    ];
    check(&mirror(), rows);
}

#[test]
fn octets_are_not_characters() {
    let rows: &[Row<'_>] = &[
        (b"GET /x HTTP/1.1\r\nHost: h\r\nX: \xff\x80\xc0\r\n\r\n", &[SEEN], Kept),
        // Bytes that some decoders turn into an LF or a colon.
        (b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\xc4\x8aContent-Length: 5\r\n\r\n", &[SEEN], Kept),
        (b"GET /x HTTP/1.1\r\nHost: h\r\nX\xef\xbc\x9a a: b\r\n\r\n", &["400"], Closed),
        (b"G\xc3\x8bT /x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
    ];
    check(&mirror(), rows);
}

#[test]
fn empty_lines_before_a_request() {
    let rows: &[Row<'_>] = &[
        (b"\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n", &[SEEN], Kept),
        (b"\r\n\r\n\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n", &[SEEN], Kept),
        (b"\n\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n", &[SEEN], Kept),
        (b"\r\n\r\n\r\n\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"\rGET /x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        // An empty line, as old clients end a body.
        (
            b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
            &[HELLO_SENT, SEEN],
            Kept,
        ),
    ];
    check(&mirror(), rows);
}

#[test]
fn whitespace_before_the_first_field() {
    let rows: &[Row<'_>] = &[
        (b"GET /x HTTP/1.1\r\n Host: h\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/1.1\r\n\tX: a\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/1.1\r\n \r\nHost: h\r\n\r\n", &["400"], Closed),
    ];
    check(&mirror(), rows);
}

#[test]
fn what_is_no_request() {
    let rows: &[Row<'_>] = &[
        (b"hello\r\n\r\n", &["400"], Closed),
        (b"\0\0\0\0\r\n\r\n", &["400"], Closed),
        (b" GET /x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &["400"], Closed),
        // TLS, HTTP/0.9 and HTTP/2 to a port that speaks neither.
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", &["400"], Closed),
        (b"GET /x\r\n", &["400"], Closed),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &["505"], Closed),
    ];
    check(&mirror(), rows);
}

#[test]
fn versions() {
    let rows: &[Row<'_>] = &[
        (b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n", &[SEEN], Kept),
        // A later minor is read as ours.
        (b"GET /x HTTP/1.2\r\nHost: h\r\n\r\n", &[SEEN], Kept),
        (b"GET /x HTTP/1.9\r\nHost: h\r\n\r\n", &[SEEN], Kept),
        (b"GET /x HTTP/1.2\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/1.0\r\n\r\n", &["200 GET /x HTTP/1.0 [] \"\""], Closed),
        (b"GET /x HTTP/0.9\r\n\r\n", &["505"], Closed),
        (b"GET /x HTTP/2.0\r\nHost: h\r\n\r\n", &["505"], Closed),
        (b"GET /x HTTP/9.9\r\nHost: h\r\n\r\n", &["505"], Closed),
        (b"HEAD /x HTTP/9.9\r\nHost: h\r\n\r\n", &["HEAD 505"], Closed),
        // One digit each, and the name in capitals.
        (b"GET /x HTTP/1.10\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/01.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/1.\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/ 1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP 1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/1,1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/1.1x\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/-1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x http/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x Http/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x ICY/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
    ];
    check(&mirror(), rows);
}

// Section 3: the request line.

#[test]
fn request_lines() {
    let rows: &[Row<'_>] = &[
        (b"GET  /x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET\t/x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x  HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x\tHTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x\x0bHTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x HTTP/1.1 \r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x y HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"/x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"Extra lineGET /x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        // A method is a token.
        (b"G@T /x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"\"GET\" /x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET: /x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
    ];
    check(&mirror(), rows);
}

#[test]
fn a_method_beyond_all_limits() {
    let fixture = Fixture::new();
    for len in [1_000, 64 << 10, 100_000] {
        let mut client = fixture.client();
        let _ = client.try_send([&vec![b'A'; len][..], b" / HTTP/1.1\r\nHost: h\r\n\r\n"].concat());
        expect(&mut client, "a long method", &["501"], if len == 1_000 { Kept } else { Closed });
    }
}

#[test]
fn a_target_beyond_the_limit() {
    let fixture = mirror();
    let target = |len: usize| [b"GET /", &vec![b'a'; len - 1][..], b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
    // 8,000 bytes of a request line are recommended; a target of as many is taken.
    for (len, status, then) in [(8_000, "200", Kept), (8 << 10, "200", Kept), ((8 << 10) + 1, "414", Closed)]
    {
        let mut client = fixture.client();
        client.send(target(len));
        let said = client.reply();
        assert_eq!((said.status.to_string().as_str(), said.closes()), (status, then == Closed), "{len}");
    }
    // It need not end.
    let mut client = fixture.client();
    client.send([b"GET /", &vec![b'a'; 9_000][..]].concat());
    expect(&mut client, "no end", &["414"], Closed);
}

#[test]
fn hosts() {
    let status = |field: &str, version: &str| {
        let fixture = mirror();
        let mut client = fixture.client();
        client.send(format!("GET /x HTTP/{version}\r\n{field}\r\n"));
        let reply = client.reply();
        assert_eq!(reply.closes(), reply.status != 200 || version == "1.0", "{field}");
        reply.status
    };
    #[rustfmt::skip]
    let fit = [
        "Host: h\r\n", "host:h\r\n", "HOST: \t h \t\r\n", "Host:\r\n", "Host: h:80\r\n", "Host: h:\r\n", "Host: 127.0.0.1:1\r\n",
        "Host: [::1]\r\n", "Host: [::ffff:1.2.3.4]:80\r\n", "Host: [v1.x:y]\r\n", "Host: a_b.example.\r\n", "Host: xn--4ca\r\n", "Host: %C3%A4\r\n",
        "Host: a,b\r\n",
    ];
    for field in fit {
        assert_eq!(status(field, "1.1"), 200, "{field}");
        assert_eq!(status(field, "1.0"), 200, "{field}");
    }
    #[rustfmt::skip]
    let wrong = [
        "Host: h\r\nHost: h\r\n", "Host: h\r\nhost: g\r\n", "Host: h\r\nX: a\r\nHost:\r\n", "Host: a b\r\n", "Host: a, b\r\n", "Host: a/b\r\n",
        "Host: http://h\r\n", "Host: u@h\r\n", "Host: h:x\r\n", "Host: h:-1\r\n", "Host: h:+1\r\n", "Host: h:65536\r\n", "Host: h:80:80\r\n", "Host: :80\r\n",
        "Host: ::1\r\n", "Host: [::1\r\n", "Host: [::1]x\r\n", "Host: []\r\n", "Host: [::g]\r\n", "Host: h?x\r\n", "Host: h#x\r\n", "Host: h\\x\r\n",
        "Host: %\r\n", "Host: %0\r\n", "Host: \u{e4}\r\n", "Host: \"h\"\r\n", "Host: <h>\r\n",
    ];
    for field in wrong {
        assert_eq!(status(field, "1.1"), 400, "{field}");
        assert_eq!(status(field, "1.0"), 400, "{field}");
    }
    assert_eq!(status("", "1.1"), 400);
    assert_eq!(status("X-Host: h\r\n", "1.1"), 400);
    assert_eq!(status("", "1.0"), 200);
}

#[test]
fn origin_form() {
    #[rustfmt::skip]
    let rows: &[Row<'_>] = &[
        (b"GET /a/../b//c?d=e&f HTTP/1.1\r\nHost: h\r\n\r\n", &["200 GET /a/../b//c?d=e&f HTTP/1.1 [\"h\"] \"\""], Kept),
        (b"GET //h/x HTTP/1.1\r\nHost: h\r\n\r\n", &["200 GET //h/x HTTP/1.1 [\"h\"] \"\""], Kept),
        (b"GET /%2e%00?%zz HTTP/1.1\r\nHost: h\r\n\r\n", &["200 GET /%2e%00?%zz HTTP/1.1 [\"h\"] \"\""], Kept),
        (b"GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x% HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET ?x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET \\x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /x#y HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /<x> HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /\x7f HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
    ];
    check(&mirror(), rows);
}

#[test]
fn absolute_form() {
    #[rustfmt::skip]
    let rows: &[Row<'_>] = &[
        (b"GET http://h/x HTTP/1.1\r\nHost: h\r\n\r\n", &["200 GET http://h/x HTTP/1.1 [\"h\"] \"\""], Kept),
        // The target's host counts.
        (b"GET http://g:81/x HTTP/1.1\r\nHost: h\r\n\r\n", &["200 GET http://g:81/x HTTP/1.1 [\"g:81\"] \"\""], Kept),
        (b"GET HTTP://g/x HTTP/1.1\r\nHost:\r\n\r\n", &["200 GET http://g/x HTTP/1.1 [\"g\"] \"\""], Kept),
        (b"GET http://g/x HTTP/1.0\r\n\r\n", &["200 GET http://g/x HTTP/1.0 [\"g\"] \"\""], Closed),
        (b"GET http://h HTTP/1.1\r\nHost: h\r\n\r\n", &[HELLO], Kept),
        (b"GET http://h?x HTTP/1.1\r\nHost: h\r\n\r\n", &[HELLO], Kept),
        // Host must be there and well-formed even so.
        (b"GET http://h/x HTTP/1.1\r\n\r\n", &["400"], Closed),
        (b"GET http://h/x HTTP/1.1\r\nHost: a b\r\n\r\n", &["400"], Closed),
        (b"GET http://h/x HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET http:///x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET http://u:p@h/x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET http://h:x/ HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET http:/x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET http:x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET file:///etc/passwd HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"GET ftp://h/x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
    ];
    check(&mirror(), rows);
}

#[test]
fn authority_form() {
    let rows: &[Row<'_>] = &[
        // Well-formed, and no proxy is here.
        (b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", &["501"], Kept),
        (b"CONNECT [::1]:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", &["501"], Kept),
        (b"CONNECT h HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"CONNECT h: HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"CONNECT h:80/x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"CONNECT u@h:80 HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"CONNECT /x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"CONNECT http://h:80/ HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"CONNECT * HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        // For CONNECT only.
        (b"GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"OPTIONS h:80 HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
    ];
    check(&mirror(), rows);
}

#[test]
fn asterisk_form() {
    let rows: &[Row<'_>] = &[
        (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", &["204"], Kept),
        (b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"options * HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"OPTIONS ** HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
        (b"OPTIONS *?x HTTP/1.1\r\nHost: h\r\n\r\n", &["400"], Closed),
    ];
    check(&mirror(), rows);
}

// Section 5: fields.

#[test]
fn fields() {
    let fixture = mirror();
    let good = [
        "X:a\r\n",
        "X: a \t\r\n",
        "X:\r\n",
        "X: \r\n",
        "!#$%&'*+-.^_`|~09aZ: a\r\n",
        "X: a\tb\r\n",
        "X: \u{e4}\r\n",
    ];
    for field in good {
        check(&fixture, &[(&with(field), &[SEEN], Kept)]);
    }
    #[rustfmt::skip]
    let wrong = [
        // Space around a name.
        "X : a\r\n", "X\t: a\r\n", "X \t: a\r\n", "Transfer-Encoding : chunked\r\n", "Content-Length : 5\r\n",
        // Folded.
        "X: a\r\n b\r\n", "X: a\r\n\tb\r\n", "X: a\r\n \r\n", "X:\r\n a\r\n", "Transfer-Encoding:\r\n chunked\r\n", "Host: h\r\n g\r\n",
        // No name, no colon, a name that is not a token.
        ": a\r\n", "a\r\n", "X y: a\r\n", "X[]: a\r\n", "X(: a\r\n", "X\u{e4}: a\r\n", "\"X\": a\r\n", "X/Y: a\r\n", "X@: a\r\n", "X\0: a\r\n", "\0X: a\r\n", "X\x0b: a\r\n",
        // Bytes that no value has.
        "X: a\0b\r\n", "X: \x01\r\n", "X: a\x08\r\n", "X: \x0b\r\n", "X: \x0c\r\n", "X: \x1f\r\n", "X: \x7f\r\n",
    ];
    for field in wrong {
        check(&fixture, &[(&[&with(field)[..], GET].concat(), &["400"], Closed)]);
    }
}

// Section 6: the length of a body.

#[test]
fn content_lengths() {
    let fixture = mirror();
    let post = |fields: &str| format!("POST /x HTTP/1.1\r\nHost: h\r\n{fields}\r\nhello").into_bytes();
    let good = [
        "Content-Length: 5\r\n",
        "content-length:5\r\n",
        "Content-Length: \t5 \t\r\n",
        "Content-Length: 0005\r\n",
    ];
    for field in good {
        check(&fixture, &[(&post(field), &[HELLO_SENT], Kept)]);
    }
    #[rustfmt::skip]
    let wrong = [
        "", "+5", "-5", "-0", "5x", "x", "0x5", "0X5", "5.0", "5e0", "5 5", "5,", ",5", "5, 5", "5,6", "5;a", "\"5\"", "'5'", "5_", "1_0", "5\u{a0}", "\u{ff15}", "\u{665}", "5\0", "\x0b5", "5\x0c",
        "18446744073709551616", "18446744073709551621", "99999999999999999999", "-18446744073709551611",
        "5\r\nContent-Length: 5", "5\r\nContent-Length: 6", "5\r\nContent-Length:", "0\r\nContent-Length: 5", "5\r\n 6", "5\r\nX: a\r\ncontent-length: 5",
    ];
    for length in wrong {
        let request = post(&format!("Content-Length: {length}\r\n"));
        check(&fixture, &[(&[&request[..], GET].concat(), &["400"], Closed)]);
    }
    // More than any client sends; no memory is reserved for it.
    for length in ["2097153", "9223372036854775807", "9223372036854775808", "18446744073709551615"] {
        check(&fixture, &[(&post(&format!("Content-Length: {length}\r\n")), &["413"], Closed)]);
    }
}

#[test]
fn transfer_codings() {
    let fixture = mirror();
    let post = |version: &str, fields: &str| {
        let host = if version == "1.0" { "" } else { "Host: h\r\n" };
        format!("POST /x HTTP/{version}\r\n{host}{fields}\r\n5\r\nhello\r\n0\r\n\r\n").into_bytes()
    };
    #[rustfmt::skip]
    let good = [
        "Transfer-Encoding: chunked\r\n", "transfer-encoding:CHUNKED\r\n", "Transfer-Encoding: \tChunked \r\n", "Transfer-Encoding: ,chunked, ,\r\n",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n",
    ];
    for field in good {
        check(&fixture, &[(&post("1.1", field), &[HELLO_SENT], Kept)]);
    }
    // Chunked is not the last, or not once, or not it.
    #[rustfmt::skip]
    let wrong = [
        "", ",", "identity", "gzip", "xchunked", "chunkedx", "chunked;a=b", "chunked;", "\"chunked\"", "'chunked'", "chunked gzip", "chunked chunked", "chunk", "\u{a0}chunked", "chun\u{212a}ed",
        "chunked, identity", "chunked, gzip", "chunked, chunked", "gzip, chunked, chunked", "chunked\r\nTransfer-Encoding: chunked", "chunked\r\nTransfer-Encoding: identity",
        "chunked\r\nTransfer-Encoding: x", "x\r\nTransfer-Encoding: y", "gzip;a=\"x, chunked\"",
        // Bytes and lines that are wrong before they are codings.
        "\x0bchunked", "\x0cchunked", "chunked\0", "\0chunked", "chunked\r\n ", "\r\n chunked", "chu\rnked",
    ];
    for codings in wrong {
        let request = post("1.1", &format!("Transfer-Encoding: {codings}\r\n"));
        check(&fixture, &[(&[&request[..], GET].concat(), &["400"], Closed)]);
    }
    // Chunked is the last, of others that are not known here.
    for codings in
        ["gzip, chunked", "identity, chunked", "x\r\nTransfer-Encoding: chunked", "gzip;a=\"b\", chunked"]
    {
        let request = post("1.1", &format!("Transfer-Encoding: {codings}\r\n"));
        check(&fixture, &[(&[&request[..], GET].concat(), &["501"], Closed)]);
    }
    // 1.0 does not know it.
    for fields in
        ["Transfer-Encoding: chunked\r\n", "Transfer-Encoding: identity\r\nConnection: keep-alive\r\n"]
    {
        check(&fixture, &[(&[&post("1.0", fields)[..], GET].concat(), &["400"], Closed)]);
    }
}

#[test]
fn both_length_and_coding() {
    let fixture = mirror();
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 15\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: identity\r\n",
        "Content-Length: 5\r\nTransfer-Encoding:\r\n",
        "content-length: 5\r\nX: a\r\ntransfer-ENCODING: , chunked\r\n",
    ] {
        for version in ["1.1", "1.0"] {
            let request = format!("POST /x HTTP/{version}\r\nHost: h\r\n{fields}\r\n5\r\nhello\r\n0\r\n\r\n");
            check(&fixture, &[(&[request.as_bytes(), GET].concat(), &["400"], Closed)]);
        }
    }
    // Names that only resemble are other fields.
    for fields in [
        "Content_Length: 5\r\n",
        "Transfer_Encoding: chunked\r\n",
        "X-Content-Length: 5\r\n",
        "Content-Length-: 5\r\n",
    ] {
        check(&fixture, &[(&with(fields), &[SEEN], Kept)]);
    }
}

#[test]
fn without_either_there_is_no_body() {
    let fixture = mirror();
    let none: &str = "200 POST /x HTTP/1.1 [\"h\"] \"\"";
    let request = [&b"POST /x HTTP/1.1\r\nHost: h\r\n\r\n"[..], GET].concat();
    check(&fixture, &[(&request, &[none, HELLO], Kept)]);
    // Any method may have one.
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "TRACE"] {
        let request = format!("{method} /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
        let said = format!("200 {method} /x HTTP/1.1 [\"h\"] \"hello\"");
        let said = if method == "HEAD" { "HEAD 200" } else { said.as_str() };
        check(&fixture, &[(&[request.as_bytes(), GET].concat(), &[said, HELLO], Kept)]);
    }
}

// Section 7: chunked.

#[test]
fn chunk_sizes() {
    let fixture = mirror();
    let good = [
        "5\r\nhello\r\n0\r\n\r\n",
        "005\r\nhello\r\n0000\r\n\r\n",
        "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n",
    ];
    for body in good {
        check(&fixture, &[(&[&chunked(body)[..], GET].concat(), &[HELLO_SENT, HELLO], Kept)]);
    }
    let ten = "200 POST /x HTTP/1.1 [\"h\"] \"0123456789\"";
    for size in ["a", "A", "0a", "000000000000000A"] {
        let body = format!("{size}\r\n0123456789\r\n0\r\n\r\n");
        check(&fixture, &[(&chunked(&body), &[ten], Kept)]);
    }
    #[rustfmt::skip]
    let wrong = [
        "", " ", "x", "g", "+5", "-5", "-0", "0x5", "0X5", "x5", "5h", "5_", "5.", "5,", "\"5\"", " 5", "\t5", "5 ", "5\t", "5 5", "\u{a0}5", "\u{ff15}", "5\0", "\x0b5", "5\x0c",
        // 17 digits, however small, and what a u64 can't hold.
        "00000000000000005", "10000000000000000", "fffffffffffffffff", "100000000000000005",
    ];
    for size in wrong {
        let body = format!("{size}\r\nhello\r\n0\r\n\r\n");
        check(&fixture, &[(&[&chunked(&body)[..], GET].concat(), &["400"], Closed)]);
    }
    // Larger than a body may be: no memory is reserved for it, and the response is 413 once that much has arrived.
    let limits = Limits::new().body_bytes(1_000);
    let fixture = Fixture::with(|server| server.limits(limits));
    let head = b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = fixture.client();
    client.send([&head[..], b"ffffffffffffffff\r\n", &[b'x'; 1_001]].concat());
    expect(&mut client, "beyond the limit", &["413"], Closed);
}

#[test]
fn chunk_line_ends() {
    let fixture = mirror();
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5\n\rhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r\r\n0\r\n\r\n",
        "5\r\nhello \r\n0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\r\n\r0\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        check(&fixture, &[(&chunked(body), &["400"], Closed)]);
    }
}

#[test]
fn chunk_extensions() {
    let fixture = mirror();
    #[rustfmt::skip]
    let good = [
        ";a", ";a=b", ";a=\"b\"", ";a=\"\"", ";a=\";\\\"\\\\ =\"", ";a;b=c;d", " ;a", ";\ta = b", " ; a = \"b\" ; c", ";!#$=%&'",
    ];
    for extension in good {
        let body = format!("5{extension}\r\nhello\r\n0{extension}\r\n\r\n");
        check(&fixture, &[(&[&chunked(&body)[..], GET].concat(), &[HELLO_SENT, HELLO], Kept)]);
    }
    #[rustfmt::skip]
    let wrong = [
        ";", ";;", ";a;", ";=b", ";a=", ";a==b", ";a=b=c", ";a b", ";a=b c", ";a=\"b", ";a=\"b\"c", ";a=\"\r\n\"", ";a=\"\n\"", ";a=\"\\\r\n\"", ";a\n", ";a\rb", ";\ra", ";a\0", ";a=\"\0\"", ";a=\x7f",
        ";a=\"\x01\"", ";[a]", ";a=(b)", ",a", "a=b", ";a ", ";\u{e4}",
    ];
    for extension in wrong {
        let body = format!("5{extension}\r\nhello\r\n0\r\n\r\n");
        check(&fixture, &[(&[&chunked(&body)[..], GET].concat(), &["400"], Closed)]);
    }
    // 4 KiB of them in a body, however many chunks it has.
    let long = format!("1;a={}\r\nx\r\n0\r\n\r\n", "b".repeat(4 << 10));
    let many = format!("{}0\r\n\r\n", "1;a\r\nx\r\n".repeat(2_000));
    for body in [long, many] {
        let mut client = fixture.client();
        let _ = client.try_send(chunked(&body));
        expect(&mut client, "long extensions", &["400"], Closed);
    }
}

#[test]
fn trailers() {
    let fixture = Fixture::new();
    let post = |trailers: &str| {
        let head = "POST /trailers HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        [head.as_bytes(), b"5\r\nhello\r\n0\r\n", trailers.as_bytes(), b"\r\n", GET].concat()
    };
    #[rustfmt::skip]
    let good = [
        ("", "200"), ("X-Sum: 1\r\n", "200 x-sum=1"), ("x:a\r\nX: b \r\n", "200 x=a x=b"), ("X:\r\n", "200 x="),
        // Trailers don't change decisions that depend on the head.
        ("Content-Length: 100\r\nX: y\r\n", "200 x=y"), ("Transfer-Encoding: chunked\r\n", "200"), ("Host: other\r\n", "200"), ("Connection: close\r\n", "200"), ("Authorization: x\r\n", "200"),
        ("Cookie: a\r\n", "200"), ("Content-Type: a/b\r\n", "200"), ("Expect: 100-continue\r\n", "200"), ("Range: bytes=0-1\r\n", "200"), ("If-Match: *\r\n", "200"), ("X-Forwarded-For: ::1\r\n", "200"),
        ("Trailer: x\r\n", "200"), ("TE: x\r\n", "200"), ("Upgrade: x\r\n", "200"), ("Content-Encoding: gzip\r\n", "200"), ("Keep-Alive: x\r\n", "200"),
    ];
    for (trailers, said) in good {
        check(&fixture, &[(&post(trailers), &[said, HELLO], Kept)]);
    }
    for trailers in [
        "X : a\r\n",
        ": a\r\n",
        "X\r\n",
        "X: a\n",
        "X: a\r\n b\r\n",
        " X: a\r\n",
        "X: a\0\r\n",
        "X: a\rY: b\r\n",
        "X(: a\r\n",
    ] {
        check(&fixture, &[(&post(trailers), &["400"], Closed)]);
    }
    let many = "X: y\r\n".repeat(101);
    let long = format!("X: {}\r\n", "y".repeat(64 << 10));
    for trailers in [many, long] {
        let mut client = fixture.client();
        let _ = client.try_send(post(&trailers));
        expect(&mut client, "too much of them", &["431"], Closed);
    }
}

// Section 8: messages that end early.

#[test]
fn a_request_that_ends_early_is_none() {
    let fixture = mirror();
    let parts: [&[u8]; 6] = [
        b"GET /x HTTP/1.1\r\nHost: h\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\n\r",
        b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhell",
        b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: a\r\n",
    ];
    let count = parts.len() as u64;
    for part in parts {
        let mut client = fixture.client();
        client.send(part);
        client.half_close();
        client.expect_fin();
    }
    fixture.expect_closes(CloseReason::ClientCut, count);
    assert_eq!(fixture.stats().requests, 0, "no handler has seen any of them");
}

// Section 9: connections.

#[test]
fn persistence() {
    let fixture = mirror();
    let asked = |version: &str, fields: &str| {
        let mut client = fixture.client();
        client.send(format!("GET / HTTP/{version}\r\nHost: h\r\n{fields}\r\n"));
        let reply = client.reply();
        let said = reply.field("connection").map(str::to_owned);
        match said.as_deref() {
            Some("close") => client.expect_fin(),
            _ => client.expect_kept(),
        }
        said
    };
    #[rustfmt::skip]
    let cases = [
        ("1.1", "", None), ("1.1", "Connection: keep-alive\r\n", None), ("1.1", "Connection: closed\r\n", None), ("1.1", "Connection:\r\n", None), ("1.1", "Keep-Alive: timeout=5\r\n", None),
        ("1.1", "Proxy-Connection: close\r\n", None), ("1.1", "X-Connection: close\r\n", None),
        ("1.1", "Connection: close\r\n", Some("close")), ("1.1", "connection: CLOSE\r\n", Some("close")), ("1.1", "Connection: ,close,\r\n", Some("close")),
        ("1.1", "Connection: keep-alive, close\r\n", Some("close")), ("1.1", "Connection: close, keep-alive\r\n", Some("close")), ("1.1", "Connection: x\r\nConnection: close\r\n", Some("close")),
        ("1.2", "", None), ("1.2", "Connection: close\r\n", Some("close")),
        ("1.0", "", Some("close")), ("1.0", "Connection: x\r\n", Some("close")), ("1.0", "Connection: close\r\n", Some("close")), ("1.0", "Keep-Alive: timeout=5\r\n", Some("close")),
        ("1.0", "Proxy-Connection: keep-alive\r\n", Some("close")), ("1.0", "Connection: keep-alive, close\r\n", Some("close")),
        ("1.0", "Connection: keep-alive\r\n", Some("keep-alive")), ("1.0", "connection: x, Keep-Alive\r\n", Some("keep-alive")),
    ];
    for (version, fields, said) in cases {
        assert_eq!(asked(version, fields).as_deref(), said, "{version} {fields}");
    }
}

#[test]
fn after_close_nothing_is_processed() {
    let fixture = mirror();
    let last = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let rest = [GET, b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", GET].concat();
    check(&fixture, &[(&[&last[..], &rest].concat(), &[HELLO], Closed)]);
    check(&fixture, &[(&[GET, last, &rest].concat(), &[HELLO, HELLO], Closed)]);
    check(&fixture, &[(&[&b"GET / HTTP/1.0\r\n\r\n"[..], &rest].concat(), &[HELLO], Closed)]);
    // A refused body, and the bytes after it.
    check(&fixture, &[(&[&b"GET / HTTP/1.1\r\n\r\n"[..], &rest].concat(), &["400"], Closed)]);
    let requests = 2 * (1 + 2 + 1 + 1);
    assert_eq!(fixture.stats().requests, requests, "each in one write and byte by byte");
}
