//! `Timeouts::close_spread` at a handover with TLS whose connections do not move: idle and busy ones, event streams and WebSockets
//! reconnect as soon as they end, without loss. Prints how many handshakes that makes at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use testkit::{Addr, Exit, Proc};

use crate::secure::{Authority, Secure, SecureEnd};
use crate::support::get;

const SLICE: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Idle,
    Busy,
    Events,
    WebSocket,
}

const KINDS: [(Kind, usize); 4] =
    [(Kind::Idle, 100), (Kind::Busy, 10), (Kind::Events, 10), (Kind::WebSocket, 10)];

const UPGRADE: &str = "GET /ws/stay HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

impl Kind {
    /// What makes a connection one of this kind.
    fn begin(self, client: &mut Secure) {
        match self {
            Kind::Idle | Kind::Busy => assert_eq!(client.get("/ok"), "200 ok"),
            Kind::Events => {
                client.send(get("/events"));
                assert_eq!(client.reply().0, 200);
            }
            Kind::WebSocket => {
                client.send(UPGRADE);
                assert_eq!(client.reply().0, 101);
            }
        }
    }

    /// Until the server ends it, which is always announced.
    fn until_end(self, client: &mut Secure) {
        match self {
            Kind::Idle => {}
            Kind::Busy => loop {
                client.send(get("/ok"));
                let (status, head, _) = client.reply();
                assert_eq!(status, 200);
                if head.contains("Connection: close\r\n") {
                    break;
                }
            },
            Kind::Events => {
                let (bytes, end) = client.rest();
                assert!(bytes.ends_with(b"\r\n0\r\n\r\n"), "whole");
                return assert_eq!(end, SecureEnd::Announced);
            }
            Kind::WebSocket => {
                assert_eq!(client.exactly(4), [0x88, 2, 3, 0xe9], "1001");
                client.send([0x88, 0x82, 0, 0, 0, 0, 3, 0xe9]);
            }
        }
        assert_eq!(client.end(), SecureEnd::Announced, "{self:?}");
    }
}

/// When a client saw its end, and when it was connected again.
type Times = (Kind, Instant, Instant);

fn client(kind: Kind, address: SocketAddr, config: Arc<ClientConfig>) -> JoinHandle<Times> {
    let mut client = Secure::to(address, "localhost", &config).unwrap();
    kind.begin(&mut client);
    let stay = move || {
        kind.until_end(&mut client);
        let ended = Instant::now();
        let mut client = Secure::to(address, "localhost", &config).unwrap();
        let connected = Instant::now();
        assert_eq!(client.get("/generation"), "200 2");
        (kind, ended, connected)
    };
    thread::Builder::new().spawn(stay).unwrap()
}

/// How many of these times are in each slice from the first on.
fn slices(times: impl Iterator<Item = Instant> + Clone) -> Vec<usize> {
    let first = times.clone().min().unwrap();
    let mut slices = Vec::new();
    for time in times {
        let slice = ((time - first).as_millis() / SLICE.as_millis()) as usize;
        slices.resize(slices.len().max(slice + 1), 0);
        slices[slice] += 1;
    }
    slices
}

/// A handover with this spread: the ends of all clients.
fn handover(authority: &Authority, spread_ms: &str) -> Vec<Times> {
    let pair = authority.server("server", &["localhost"]);
    let [cert, key] = [&pair.certificate, &pair.key].map(|path| path.to_str().unwrap().to_owned());
    let pairs = [
        ["--tls-listen", "127.0.0.1:0"],
        ["--cert", &cert],
        ["--key", &key],
        ["--probation-ms", "0"],
        ["--idle-grace-ms", "300"],
        ["--close-spread-ms", spread_ms],
    ];
    let flags = [pairs.as_flattened(), &["--tls-stay"]].concat();
    let server = Proc::start_as_said(env!("CARGO_BIN_EXE_kitchen_sink"), &flags);
    let Some(Addr::Tcp(address)) = server.addrs().pop() else { panic!("a port") };
    let config = authority.trusted().config();
    let all = KINDS.into_iter().flat_map(|(kind, count)| std::iter::repeat_n(kind, count));
    let clients: Vec<_> = all.map(|kind| client(kind, address, Arc::clone(&config))).collect();
    let old = server.newest();
    server.handover();
    let times: Vec<Times> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert_eq!(server.wait_exit(old), Exit::Status(0));
    server.stop();
    times
}

#[test]
fn a_handover_with_tls_ends_connections_over_the_spread() {
    let authority = Authority::new("authority");
    for spread_ms in ["0", "3000"] {
        let times = handover(&authority, spread_ms);
        let handshakes = slices(times.iter().map(|(_, _, connected)| *connected));
        println!("spread {spread_ms} ms: handshakes in each {SLICE:?}: {handshakes:?}");
        for (kind, _) in KINDS {
            let ends = slices(times.iter().filter(|(of, ..)| *of == kind).map(|(_, ended, _)| *ended));
            println!("spread {spread_ms} ms: ends of {kind:?} in each {SLICE:?}: {ends:?}");
            assert!(spread_ms == "0" || ends.len() > 1, "{kind:?} ended all at once: {ends:?}");
        }
    }
}
