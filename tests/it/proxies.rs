//! Behind proxies: whom a request is from, by fields and by the PROXY protocol, and what happens to those who only claim
//! to be a proxy.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use heirloom::prelude::*;
use heirloom::{CloseReason, Proxies};

use crate::support::*;

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Answers with client, proxies, scheme, host, and the connection's peer without its port.
fn router() -> Router {
    let who = |req: Request| {
        let client = req.client();
        let via: Vec<String> = client.via().iter().map(ToString::to_string).collect();
        let host = req.host().unwrap_or_default();
        let peer = req.peer_addr().map_or("-".to_owned(), |peer| peer.ip().to_string());
        format!("{client} via {} {} {host} peer {peer}", via.join(","), client.scheme())
    };
    Router::new().get("/who", who).post("/who", who)
}

fn fixture(proxies: Proxies, change: impl Fn(Server) -> Server) -> Fixture {
    Fixture::with(|_| {
        change(
            Server::new(router())
                .listen(Listen::new("127.0.0.1:0").trust_proxies(proxies.clone()))
                .timeouts(quick()),
        )
    })
}

fn ask(fields: &str) -> String {
    format!("GET /who HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    [V2, &[command, family], &u16::try_from(rest.len()).unwrap().to_be_bytes(), rest].concat()
}

#[test]
fn fields_of_a_trusted_proxy_name_the_client() {
    let fixture = fixture(Proxies::new(["127.0.0.0/8"]).x_forwarded(), |server| server);
    let mut client = fixture.client();
    let all = "X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example\r\n";
    client.send(ask(all));
    assert_eq!(client.reply().said(), "200 203.0.113.7 via 127.0.0.1 https a.example peer 127.0.0.1");
    // The next request on the connection is somebody else's.
    client.send(ask("X-Forwarded-For: 203.0.113.8\r\nForwarded: for=6.6.6.6;proto=https\r\n"));
    assert_eq!(client.reply().said(), "200 203.0.113.8 via 127.0.0.1 http h peer 127.0.0.1");
    client.send(ask("X-Forwarded-For: unknown\r\n"));
    assert_eq!(client.reply().said(), "200 - via 127.0.0.1 http h peer 127.0.0.1");
}

#[test]
fn fields_of_strangers_say_nothing() {
    let fixture = fixture(Proxies::new(["192.0.2.0/24", "unix"]).x_forwarded(), |server| server);
    let mut client = fixture.client();
    client
        .send(ask("X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example\r\n"));
    let said = client.reply().said();
    assert!(said.starts_with("200 127.0.0.1:") && said.ends_with(" via  http h peer 127.0.0.1"), "{said}");
}

#[test]
fn the_proxy_protocol_names_the_client_of_a_connection() {
    let fixture = fixture(Proxies::new(["127.0.0.1"]).proxy_protocol(), |server| server);
    let v4 = [203, 0, 113, 7, 10, 0, 0, 5, 0x12, 0x67, 1, 187];
    let with_tls = [&v4[..], &[0x20, 0, 5, 1, 0, 0, 0, 0]].concat();
    let named = "203.0.113.7:4711 via 127.0.0.1 http h peer 203.0.113.7";
    let table: [(&[u8], &str); 7] = [
        (b"PROXY TCP4 203.0.113.7 10.0.0.5 4711 443\r\n", named),
        (
            b"PROXY TCP6 2001:db8::1 fd00::5 80 443\r\n",
            "[2001:db8::1]:80 via 127.0.0.1 http h peer 2001:db8::1",
        ),
        (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 4711 443\r\n", named),
        (b"PROXY UNKNOWN\r\n", "- via 127.0.0.1 http h peer -"),
        (&v2(0x21, 0x11, &v4), named),
        (&v2(0x21, 0x11, &with_tls), "203.0.113.7:4711 via 127.0.0.1 https h peer 203.0.113.7"),
        (&v2(0x21, 0x31, &[0; 216]), "- via 127.0.0.1 http h peer -"),
    ];
    for (header, expected) in table {
        let shown = String::from_utf8_lossy(header);
        // The header alone, with a request, in bytes, and cut within its last byte.
        let request = ask("X-Forwarded-For: 6.6.6.6\r\n");
        let whole = [header, request.as_bytes(), request.as_bytes()].concat();
        let mut client = fixture.client();
        client.send(&whole);
        assert_eq!(client.reply().said(), format!("200 {expected}"), "{shown}");
        assert_eq!(client.reply().said(), format!("200 {expected}"), "{shown}: pipelined");
        client.send(ask(""));
        assert_eq!(client.reply().said(), format!("200 {expected}"), "{shown}: kept");
        let mut client = fixture.client();
        client.send_bytewise(&whole);
        assert_eq!(client.reply().said(), format!("200 {expected}"), "{shown}: byte by byte");
        let mut client = fixture.client();
        let (first, last) = header.split_at(header.len() - 1);
        client.send(first);
        eventually("it waits", || fixture.stats().in_flight == 1);
        client.send(last);
        eventually("it is between two requests", || fixture.stats().in_flight == 0);
        client.send(ask(""));
        assert_eq!(client.reply().said(), format!("200 {expected}"), "{shown}: in two pieces");
    }
    for header in [v2(0x20, 0, b""), v2(0x20, 0x11, &v4)] {
        let mut client = fixture.client();
        client.send([&header[..], ask("").as_bytes()].concat());
        let said = client.reply().said();
        assert!(
            said.starts_with("200 127.0.0.1:") && said.ends_with(" via  http h peer 127.0.0.1"),
            "{said}"
        );
    }
}

/// A body that is longer than what is looked at for a header.
#[test]
fn what_follows_the_header_is_read_once() {
    let proxies = Proxies::new(["127.0.0.1"]).proxy_protocol();
    let server = Server::new(Router::new().post("/echo", |mut req: Request| req.bytes()))
        .listen(Listen::new("127.0.0.1:0").trust_proxies(proxies))
        .timeouts(quick());
    let fixture = Fixture::with(|_| server);
    let body = patterned(100_000);
    let mut client = fixture.client();
    client.send([&b"PROXY UNKNOWN\r\n"[..], &post("/echo", &body)].concat());
    assert_patterned(&client.reply().body, body.len());
}

/// The client may reach the proxy by another proxy, which says so in a field.
#[test]
fn both_ways_at_once() {
    let proxies = Proxies::new(["127.0.0.1", "10.0.0.0/8"]).proxy_protocol().x_forwarded();
    let fixture = fixture(proxies, |server| server);
    let field = "X-Forwarded-For: 203.0.113.7\r\n";
    let mut client = fixture.client();
    client.send(format!("PROXY TCP4 10.0.0.2 10.0.0.5 4711 443\r\n{}", ask(field)));
    assert_eq!(client.reply().said(), "200 203.0.113.7 via 10.0.0.2,127.0.0.1 http h peer 10.0.0.2");
    // Who comes to the first proxy past the second one is not believed.
    let mut client = fixture.client();
    client.send(format!("PROXY TCP4 198.51.100.9 10.0.0.5 4711 443\r\n{}", ask(field)));
    assert_eq!(client.reply().said(), "200 198.51.100.9:4711 via 127.0.0.1 http h peer 198.51.100.9");
    let mut client = fixture.client();
    client.send(format!("PROXY UNKNOWN\r\n{}", ask(field)));
    assert_eq!(client.reply().said(), "200 - via 127.0.0.1 http h peer -");
}

#[test]
fn a_connection_without_a_valid_header_is_closed() {
    let fixture = fixture(Proxies::new(["127.0.0.1"]).proxy_protocol(), |server| server);
    let table: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"PROXY TCP4 203.0.113.7\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.5 4711 +43\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"PROXY UNKNOWN \x1b\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
    ];
    for (n, bytes) in table.iter().enumerate() {
        let mut client = fixture.client();
        client.send(bytes);
        assert!(client.try_take().is_err(), "{:?}", String::from_utf8_lossy(bytes));
        fixture.expect_closes(CloseReason::ProxyHeader, n as u64 + 1);
    }
    // Part of a header, and the end.
    let mut client = fixture.client();
    client.send(b"PROXY TCP4 ");
    eventually("it waits", || fixture.stats().in_flight == 1);
    client.half_close();
    assert!(client.try_take().is_err());
    fixture.expect_closes(CloseReason::ClientCut, 1);
    let mut client = fixture.client();
    client.half_close();
    assert!(client.try_take().is_err());
    fixture.expect_closes(CloseReason::ClientClosed, 1);
}

#[test]
fn a_slow_header_has_as_long_as_a_head() {
    let timeouts = quick().head(Duration::from_millis(300)).idle(Duration::from_millis(300));
    let proxies = Proxies::new(["127.0.0.1"]).proxy_protocol();
    let fixture = fixture(proxies, |server| server.timeouts(timeouts.clone()).workers(1));
    let mut slow = [fixture.client(), fixture.client(), fixture.client()];
    slow[1].send(b"PROXY TCP4 ");
    slow[2].send(V2);
    let others = [fixture.client(), fixture.client()];
    for mut client in others {
        client.send([&b"PROXY UNKNOWN\r\n"[..], ask("").as_bytes()].concat());
        assert_eq!(client.reply().status, 200, "no worker waits");
    }
    for client in &mut slow {
        assert!(client.try_take().is_err());
    }
    fixture.expect_closes(CloseReason::ProxyHeader, 2);
    eventually("nothing is left", || fixture.stats().in_flight == 0);
}

#[test]
fn headers_of_strangers_are_not_read() {
    let fixture = fixture(Proxies::new(["192.0.2.1", "unix"]).proxy_protocol(), |server| server);
    for n in 1..3 {
        let mut client = fixture.client();
        let _ = client.try_send(b"PROXY TCP4 203.0.113.7 10.0.0.5 4711 443\r\n");
        assert!(client.try_take().is_err());
        fixture.expect_closes(CloseReason::ProxyHeader, n);
    }
}

#[test]
fn connections_are_limited_by_the_client_and_not_by_the_proxy() {
    let limits = Limits::new().connections_per_peer(2);
    let proxies = Proxies::new(["127.0.0.1"]).proxy_protocol();
    let fixture = fixture(proxies, |server| server.limits(limits.clone()));
    let connect = |address: &str| {
        let mut client = fixture.client();
        client.send(format!("PROXY TCP4 {address} 10.0.0.5 1 443\r\n{}", ask("")));
        let reply = client.reply();
        (client, reply.status)
    };
    let (first, second, other) = (connect("203.0.113.7"), connect("203.0.113.7"), connect("203.0.113.8"));
    assert_eq!((first.1, second.1, other.1), (200, 200, 200));
    let (mut third, status) = connect("203.0.113.7");
    assert_eq!((status, third.try_take()), (503, Err(End::Fin)));
    fixture.expect_closes(CloseReason::PeerLimit, 1);
    let unknown: Vec<_> = (0..4).map(|_| fixture.client()).collect();
    drop((first, third));
    eventually("there is room again", || fixture.stats().open == 6);
    assert_eq!(connect("203.0.113.7").1, 200);
    drop(unknown);
}

#[test]
fn a_proxy_that_sends_fields_may_have_many_connections() {
    let limits = Limits::new().connections_per_peer(1);
    let proxies = Proxies::new(["127.0.0.1"]).x_forwarded();
    let fixture = fixture(proxies, |server| server.limits(limits.clone()));
    let mut clients: Vec<_> = (0..4).map(|_| fixture.client()).collect();
    for client in &mut clients {
        client.send(ask("X-Forwarded-For: 203.0.113.7\r\n"));
        assert_eq!(client.reply().status, 200);
    }
}

#[test]
fn a_unix_socket_behind_a_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let proxies = Proxies::new(["unix"]);
    let cases = [
        (
            proxies.clone().proxy_protocol(),
            "PROXY TCP4 203.0.113.7 10.0.0.5 4711 443\r\n",
            "",
            "203.0.113.7:4711 via unix http h peer 203.0.113.7",
        ),
        (
            proxies.clone().forwarded(),
            "",
            "Forwarded: for=203.0.113.7;proto=https\r\n",
            "203.0.113.7 via unix https h peer -",
        ),
        (
            proxies.proxy_protocol().forwarded(),
            "PROXY UNKNOWN\r\n",
            "Forwarded: for=6.6.6.6\r\n",
            "- via unix http h peer -",
        ),
    ];
    for (n, (proxies, header, field, expected)) in cases.into_iter().enumerate() {
        let path = folder.path().join(n.to_string());
        let listen = Listen::new(format!("unix:{}", path.display())).trust_proxies(proxies);
        let _running = Server::new(router()).listen(listen).workers(1).timeouts(quick()).spawn().unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client
            .write_all(format!("{header}{}", ask(&format!("{field}Connection: close\r\n"))).as_bytes())
            .unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with(&format!("\r\n\r\n{expected}")), "{answer}");
    }
}

#[test]
fn what_is_wrong_with_the_list_is_reported_at_the_start() {
    for (proxies, expected) in [
        (
            Proxies::new(["localhost"]).forwarded(),
            "the listener 127.0.0.1:0 trusts \"localhost\", which is neither",
        ),
        (Proxies::new(["::1"]), "the listener 127.0.0.1:0 believes nothing of its proxies"),
    ] {
        let server = Server::new(router()).listen(Listen::new("127.0.0.1:0").trust_proxies(proxies));
        let error = server.spawn().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
