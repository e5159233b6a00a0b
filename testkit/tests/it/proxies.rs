//! Behind proxies: what is known of a client goes with its connection from one process to the next, and the PROXY header
//! comes before TLS.

#[cfg(feature = "tls")]
use std::io::Write;
#[cfg(feature = "tls")]
use std::net::TcpStream;

use testkit::{Addr, Client, End, Exit, Proc};

const HEADER: &str = "PROXY TCP4 203.0.113.7 10.0.0.5 4711 443\r\n";

/// Version 2, of a client that speaks TLS to the proxy.
const HEADER_V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x14\xcb\0\x71\x07\x0a\0\0\x05\x12\x67\x01\xbb\x20\0\x05\x01\0\0\0\0";

const ASKED: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

fn start(by_header: &str) -> (Proc, Addr) {
    let server = Proc::start_as_said(env!("CARGO_BIN_EXE_behind_proxy"), &["127.0.0.1:0", by_header]);
    let address = server.addrs().pop().unwrap();
    (server, address)
}

#[test]
fn the_client_of_a_moved_connection_stays_known() {
    let folder = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", folder.path().join("socket").display());
    for (listen, proxy) in [("127.0.0.1:0", "127.0.0.1"), (&*unix, "unix")] {
        let (server, address) = start(listen);
        let mut plain = Client::to(&address);
        plain.send(HEADER);
        let mut secured = Client::to(&address);
        secured.send(HEADER_V2);
        for _ in 0..3 {
            for (client, scheme) in [(&mut plain, "http"), (&mut secured, "https")] {
                client.send(ASKED);
                let response = client.answer().ok();
                let expected = format!("203.0.113.7:4711 by {scheme}, past {proxy}\n");
                assert_eq!((response.text(), response.closes()), (&*expected, false));
                assert_eq!(client.get("/pid").ok().number(), server.newest().as_raw());
            }
            let old = server.newest();
            server.handover();
            assert_eq!(server.wait_exit(old), Exit::Status(0));
        }
        server.stop();
    }
}

/// The successor would take the header for a request.
#[test]
fn a_connection_whose_header_is_due_stays_where_it_is() {
    let (server, address) = start("127.0.0.1:0");
    let old = server.newest();
    let [mut silent, mut whole, mut split] = [(); 3].map(|()| Client::to(&address));
    let (first, last) = HEADER.split_at(9);
    split.send(first);
    server.in_flight(old, 1);
    server.open(old, 3);
    server.handover();
    whole.send(format!("{HEADER}{ASKED}"));
    split.send(format!("{last}{ASKED}"));
    for client in [&mut whole, &mut split] {
        // The header is the first process's, the request after it may be either's.
        let text = client.answer().ok();
        assert_eq!(text.text(), "203.0.113.7:4711 by http, past 127.0.0.1\n");
    }
    assert_eq!(silent.end(), End::Fin, "at the end of the grace");
    assert_eq!(server.wait_exit(old), Exit::Status(0));
    server.stop();
}

#[cfg(feature = "tls")]
#[test]
fn the_header_comes_before_the_handshake() {
    use crate::secure::{Authority, Secure};
    use heirloom::prelude::*;
    use heirloom::{CloseReason, Proxies};

    let authority = Authority::new("authority");
    let pair = authority.server("server", &["localhost"]);
    let tls = heirloom::tls::Tls::from_files(&pair.certificate, &pair.key);
    let who = |req: Request| format!("{} {} {:?}", req.client(), req.client().scheme(), req.client().via());
    let listen =
        Listen::new("127.0.0.1:0").tls(tls).trust_proxies(Proxies::new(["127.0.0.1"]).proxy_protocol());
    let fixture =
        crate::support::Fixture::with(|_| Server::new(who).listen(listen).timeouts(crate::support::quick()));
    let config = authority.trusted().config();
    for header in [HEADER.as_bytes(), HEADER_V2] {
        for piece in [header.len(), 1] {
            let mut socket = TcpStream::connect(fixture.address()).unwrap();
            socket.set_nodelay(true).unwrap();
            header.chunks(piece).for_each(|piece| socket.write_all(piece).unwrap());
            let mut client = Secure::over(socket, "localhost", &config).unwrap();
            for _ in 0..2 {
                assert_eq!(client.get("/"), "200 203.0.113.7:4711 https [Ip(127.0.0.1)]");
            }
        }
        // The handshake's first bytes are in the same segment.
        let socket = TcpStream::connect(fixture.address()).unwrap();
        let mut client = Secure::begin(socket, "localhost", &config);
        let mut hello = header.to_vec();
        client.tls.write_tls(&mut hello).unwrap();
        client.socket.write_all(&hello).unwrap();
        assert_eq!(client.get("/"), "200 203.0.113.7:4711 https [Ip(127.0.0.1)]");
    }
    // A handshake without a header, and a header without a handshake.
    assert!(Secure::to(fixture.address(), "localhost", &config).is_err());
    fixture.expect_closes(CloseReason::ProxyHeader, 1);
    let mut client = fixture.client();
    client.send(format!("{HEADER}{ASKED}"));
    assert_eq!(client.reply().status, 400);
    fixture.expect_closes(CloseReason::HandshakeFailed, 1);
}
