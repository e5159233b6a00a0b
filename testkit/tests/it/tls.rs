//! TLS from outside: what clients of several kinds see, and what bad ones can't do. `main.rs` has this file twice: the second
//! time each connection continues on our own records after its handshake, as one that has moved does.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use heirloom::CloseReason;
use heirloom::prelude::*;
use heirloom::tls::Tls;
use rustls::HandshakeKind;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use socket2::SockRef;

use crate::secure::{Authority, Pair, Secure, SecureEnd};
use crate::support::*;

/// A server's certificates.
fn tls(pair: &Pair) -> Tls {
    let tls = Tls::from_files(&pair.certificate, &pair.key);
    if module_path!().ends_with("tls_on_own_records") { tls.carried_at_once() } else { tls }
}

/// A server by TLS, as `localhost`.
fn fixture(authority: &Authority, configure: impl FnOnce(Server) -> Server) -> Fixture {
    let pair = authority.server("server", &["localhost"]);
    let gate = Gate::default();
    let router = routes(&gate).get("/tls", parameters);
    let server =
        Server::new(router).listen(Listen::new("127.0.0.1:0").tls(tls(&pair))).workers(4).timeouts(quick());
    Fixture::of(gate, configure(server))
}

fn parameters(req: Request) -> String {
    match req.tls() {
        Some(tls) => format!(
            "{} {} {} {}",
            tls.version(),
            tls.cipher_suite(),
            tls.server_name().unwrap_or("-"),
            tls.client_certificates().len()
        ),
        None => "plain".to_owned(),
    }
}

#[test]
fn both_versions_and_what_a_handler_sees() {
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server.listen("127.0.0.1:0"));
    let trust = authority.trusted();
    for (version, expected) in [
        (&TLS13, "200 TLSv1.3 TLS_AES_256_GCM_SHA384 localhost 0"),
        (&TLS12, "200 TLSv1.2 TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 localhost 0"),
    ] {
        let config = trust.clone().only(version).config();
        // The second is a resumption.
        for _ in 0..2 {
            let mut client = Secure::to(fixture.address(), "localhost", &config).unwrap();
            assert_eq!(client.get("/tls"), expected);
            assert_eq!(client.get("/"), "200 Hello, World!");
            client.say_end();
            assert_eq!(client.end(), SecureEnd::Announced);
        }
    }
    let mut plain = Client::to(fixture.running().addresses()[1]);
    assert_eq!(plain.get("/tls").said(), "200 plain");
    fixture.expect_closes(CloseReason::ClientClosed, 4);
}

#[test]
fn alpn_is_http_1_1_or_nothing() {
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server);
    let offers =
        [(&["h2", "http/1.1"][..], Some("http/1.1")), (&["http/1.1"], Some("http/1.1")), (&[], None)];
    for (offered, agreed) in offers {
        let config = authority.trusted().offering(offered).config();
        let mut client = Secure::to(fixture.address(), "localhost", &config).unwrap();
        assert_eq!(client.tls.alpn_protocol(), agreed.map(str::as_bytes));
        assert_eq!(client.get("/"), "200 Hello, World!");
    }
    let config = authority.trusted().offering(&["h2"]).config();
    let refused = Secure::to(fixture.address(), "localhost", &config).err().unwrap();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    fixture.expect_closes(CloseReason::HandshakeFailed, 1);
}

#[test]
fn large_bodies_both_ways() {
    const LENGTH: usize = 8 << 20;
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server.limits(Limits::new().body_bytes(64 << 20)));
    let mut client = Secure::to(fixture.address(), "localhost", &authority.trusted().config()).unwrap();
    client.send(get(&format!("/big/{LENGTH}")));
    assert_patterned(&client.reply().2, LENGTH);
    client.send(post("/echo", &patterned(LENGTH)));
    assert_patterned(&client.reply().2, LENGTH);
    client.send(post("/count", &patterned(LENGTH)));
    assert_eq!(client.reply().2, LENGTH.to_string().as_bytes());
    assert_eq!(client.get("/"), "200 Hello, World!");
}

/// A turn of each is over after the first: that takes its time.
fn naps(authority: &Authority, served: &Arc<AtomicUsize>) -> Fixture {
    let counted = Arc::clone(served);
    let nap = move |_: Request| {
        counted.fetch_add(1, Ordering::SeqCst);
        let_pass(Duration::from_millis(10));
    };
    let pair = authority.server("server", &["localhost"]);
    let server = Server::new(Router::new().get("/nap", nap))
        .listen(Listen::new("127.0.0.1:0").tls(tls(&pair)))
        .workers(1)
        .timeouts(quick());
    Fixture::of(Gate::default(), server)
}

#[test]
fn a_half_close_is_answered_and_a_reset_starts_no_handler() {
    let (authority, served) = (Authority::new("authority"), Arc::new(AtomicUsize::new(0)));
    let fixture = naps(&authority, &served);
    let config = authority.trusted().config();
    let mut clients = [(); 2].map(|()| Secure::to(fixture.address(), "localhost", &config).unwrap());
    for client in &mut clients {
        client.send(get("/nap").repeat(60));
        client.half_close();
    }
    for client in &mut clients {
        (0..60).for_each(|n| assert_eq!(client.reply().0, 200, "response {n}"));
        client.end();
    }
    assert_eq!(served.load(Ordering::SeqCst), 120);
    let mut client = Secure::to(fixture.address(), "localhost", &config).unwrap();
    client.send(get("/nap").repeat(1_000));
    client.reply();
    SockRef::from(&client.socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    eventually("it is closed", || fixture.stats().open == 0);
    let served = served.load(Ordering::SeqCst);
    assert!(served < 600, "{served} of 1,120 were served, 1,000 of them for a client that left after one");
}

#[test]
fn many_requests_in_one_record_are_all_answered() {
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server.workers(1));
    let mut client = Secure::to(fixture.address(), "localhost", &authority.trusted().config()).unwrap();
    // More than one turn serves, in as few records as they fit in, and all of them there at once.
    let all = get("/").repeat(1_000);
    let sent = client.ciphertext(&all);
    client.socket.write_all(&sent).unwrap();
    for _ in 0..1_000 {
        assert_eq!(client.reply().2, b"Hello, World!");
    }
    // The same with each byte of the ciphertext by itself.
    let sent = client.ciphertext([get("/"), get("/")].concat());
    for byte in sent {
        client.socket.write_all(&[byte]).unwrap();
    }
    assert_eq!((client.reply().0, client.reply().0), (200, 200));
}

#[test]
fn half_finished_handshakes_hold_no_worker() {
    const SLOW: usize = 500;
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server.workers(2));
    let config = authority.trusted().config();
    let slow: Vec<TcpStream> = (0..SLOW)
        .map(|n| {
            let mut socket = TcpStream::connect(fixture.address()).unwrap();
            let hello = hello(&config);
            // Nothing, one byte, a half, all but one, and all without an answer.
            let part = [0, 1, hello.len() / 2, hello.len() - 1, hello.len()][n % 5];
            socket.write_all(&hello[..part]).unwrap();
            socket
        })
        .collect();
    // Each of those that have said all is answered, and then waits.
    for socket in slow.iter().skip(4).step_by(5) {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        assert!({ socket }.read(&mut [0; 16]).unwrap() > 0);
    }
    for _ in 0..20 {
        let mut client = Secure::to(fixture.address(), "localhost", &config).unwrap();
        assert_eq!(client.get("/"), "200 Hello, World!");
    }
    assert_eq!(fixture.closes(CloseReason::HandshakeTimeout), 0, "they still are on their way");
}

/// A client's first flight.
fn hello(config: &Arc<rustls::ClientConfig>) -> Vec<u8> {
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut tls = rustls::ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    hello
}

fn brief() -> Timeouts {
    quick()
        .head(Duration::from_millis(1500))
        .body_stall(Duration::from_millis(500))
        .response_stall(Duration::from_millis(500))
}

#[test]
fn a_handshake_has_as_long_as_a_head() {
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server.timeouts(brief()));
    let hello = hello(&authority.trusted().config());
    let cut: Vec<Client> = [1, hello.len() / 2, hello.len()]
        .into_iter()
        .map(|n| {
            let mut client = fixture.client();
            client.send(&hello[..n]);
            client
        })
        .collect();
    fixture.expect_closes(CloseReason::HandshakeTimeout, 3);
    for mut client in cut {
        // The server's flight may be there; no plain text ever is.
        let mut said = Vec::new();
        while let Ok(byte) = client.try_take() {
            said.push(byte);
        }
        assert!(!String::from_utf8_lossy(&said).contains("HTTP"));
    }
}

#[test]
fn a_head_has_as_long_however_its_records_are_cut() {
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server.timeouts(brief()));
    let config = authority.trusted().config();
    // Within a record, and between two.
    for records in [false, true] {
        let mut client = Secure::to(fixture.address(), "localhost", &config).unwrap();
        assert_eq!(client.get("/"), "200 Hello, World!");
        if records {
            client.send("GET / HT");
        } else {
            let sent = client.ciphertext(get("/"));
            client.socket.write_all(&sent[..sent.len() - 1]).unwrap();
        }
        assert_eq!(client.reply().0, 408);
        assert_eq!(client.end(), SecureEnd::Announced);
    }
    fixture.expect_closes(CloseReason::HeadTimeout, 2);
}

#[test]
fn what_is_no_tls_is_refused() {
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server);
    let mut text = fixture.client();
    let reply = text.get("/");
    assert_eq!(reply.said(), "400 plain HTTP request sent to an HTTPS port");
    assert!(reply.closes());
    text.expect_fin();

    let hello = hello(&authority.trusted().config());
    let mut flipped = hello.clone();
    flipped[5] ^= 0xff;
    let garbage: &[&[u8]] =
        &[&[0; 100], b"\x80\x2e\x01\x00\x02", b"ssh-2.0-client\r\n", &[0xff; 4_000], &flipped];
    for bytes in garbage {
        let mut client = fixture.client();
        client.send(bytes);
        client.half_close();
        let mut said = Vec::new();
        while let Ok(byte) = client.try_take() {
            said.push(byte);
        }
        // A fatal alert; nothing at all if the bytes are not even a record.
        assert!(said.is_empty() || (said[0], said[5]) == (21, 2), "{bytes:?}: {said:?}");
    }
    fixture.expect_closes(CloseReason::HandshakeFailed, 1 + garbage.len() as u64);

    // Clients that disappear.
    fixture.client().half_close();
    let mut cut = fixture.client();
    cut.send(&hello[..100]);
    cut.half_close();
    let mut reset = fixture.client();
    reset.send(&hello);
    reset.take(5);
    reset.reset();
    fixture.expect_closes(CloseReason::ClientCut, 2);
    fixture.expect_closes(CloseReason::ClientClosed, 1);
    let mut client = Secure::to(fixture.address(), "localhost", &authority.trusted().config()).unwrap();
    assert_eq!(client.get("/"), "200 Hello, World!");
}

#[test]
fn ciphertext_that_was_changed_ends_the_connection() {
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server);
    let mut client = Secure::to(fixture.address(), "localhost", &authority.trusted().config()).unwrap();
    assert_eq!(client.get("/"), "200 Hello, World!");
    let good = client.ciphertext(get("/"));
    let mut bad = client.ciphertext(get("/big/100000"));
    bad[20] ^= 1;
    client.socket.write_all(&[good, bad].concat()).unwrap();
    let error = client.receive(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    fixture.expect_closes(CloseReason::Broken, 1);
}

#[test]
fn keys_change_in_the_middle() {
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server);
    let mut client = Secure::to(fixture.address(), "localhost", &authority.trusted().config()).unwrap();
    for _ in 0..5 {
        client.tls.refresh_traffic_keys().unwrap();
        assert_eq!(client.get("/"), "200 Hello, World!");
        client.send(post("/echo", &patterned(100_000)));
        assert_patterned(&client.reply().2, 100_000);
    }
    // Endless, and without a request: this is no real client.
    let mut all = Vec::new();
    for _ in 0..100 {
        client.tls.refresh_traffic_keys().unwrap();
        client.tls.write_tls(&mut all).unwrap();
    }
    client.socket.write_all(&all).unwrap();
    fixture.expect_closes(CloseReason::Broken, 1);
}

#[test]
fn a_truncated_body_is_distinguished_from_a_complete_one() {
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server);
    let config = authority.trusted().config();
    // By close_notify, and without.
    for announced in [true, false] {
        let mut client = Secure::to(fixture.address(), "localhost", &config).unwrap();
        client.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf");
        if announced {
            client.say_end();
        } else {
            client.half_close();
        }
        assert_eq!(client.end(), SecureEnd::Announced);
    }
    fixture.expect_closes(CloseReason::ClientCut, 2);
    // Said right behind the request: it is answered all the same.
    let mut client = Secure::to(fixture.address(), "localhost", &config).unwrap();
    client.send([get("/"), get("/bytes/100000")].concat());
    client.say_end();
    assert_eq!(client.reply().2, b"Hello, World!");
    assert_patterned(&client.reply().2, 100_000);
    assert_eq!(client.end(), SecureEnd::Announced);
    // The same with an announced close, and what TLS says unread.
    let mut client = Secure::to(fixture.address(), "localhost", &config).unwrap();
    client.send("GET /bytes/3000000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    client.say_end();
    assert_patterned(&client.reply().2, 3_000_000);
    assert_eq!(client.end(), SecureEnd::Announced);
}

#[test]
fn a_body_without_length_is_complete_only_by_close_notify() {
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server);
    let config = authority.trusted().config();
    for (path, length, end) in [
        ("/stream", Some(10_000), SecureEnd::Announced),
        ("/stream/1000000", Some(1_000_000), SecureEnd::Announced),
        ("/fails/early", Some(1_000), SecureEnd::Announced),
        ("/fails/error", None, SecureEnd::Bare(End::Reset)),
        ("/fails/panic", None, SecureEnd::Bare(End::Reset)),
    ] {
        let mut client = Secure::to(fixture.address(), "localhost", &config).unwrap();
        client.send(format!("GET {path} HTTP/1.0\r\n\r\n"));
        let (received, how) = client.rest();
        assert_eq!(how, end, "{path}");
        let body = received.windows(4).position(|four| four == b"\r\n\r\n").map(|at| received.len() - at - 4);
        assert!(length.is_none() || body == length, "{path}: {body:?}");
    }
}

#[test]
fn a_client_that_takes_little_holds_no_worker_and_little_memory() {
    const SLOW: usize = 20;
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server.workers(2));
    let config = authority.trusted().config();
    let mut slow: Vec<Secure> = (0..SLOW)
        .map(|_| {
            let mut client = Secure::narrow(fixture.address(), "localhost", &config);
            client.send(get("/big/20000000"));
            client
        })
        .collect();
    eventually("all wait for their clients", || fixture.stats().buffered_bytes > 1_000 * SLOW as u64);
    for _ in 0..20 {
        let mut client = Secure::to(fixture.address(), "localhost", &config).unwrap();
        assert_eq!(client.get("/"), "200 Hello, World!");
    }
    let held = fixture.stats().buffered_bytes;
    assert!(held < (SLOW as u64) * (160 << 10), "{held}");
    // Each gets all of it, when it takes it.
    assert_patterned(&slow[0].reply().2, 20_000_000);
}

#[test]
fn who_takes_nothing_is_cut_off() {
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server.timeouts(brief()));
    let config = authority.trusted().config();
    let mut client = Secure::narrow(fixture.address(), "localhost", &config);
    client.send(get("/big/20000000"));
    fixture.expect_closes(CloseReason::ResponseTimeout, 1);
    let (received, _) = client.rest();
    assert!(received.len() < 20_000_000, "it shows by its length");
}

#[test]
fn streams_and_other_protocols() {
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server);
    let config = authority.trusted().config();
    let mut client = Secure::to(fixture.address(), "localhost", &config).unwrap();
    client.send(get("/detached"));
    let (received, end) = client.rest();
    let text = String::from_utf8_lossy(&received).into_owned();
    assert!(text.ends_with("4\r\none\n\r\n4\r\ntwo\n\r\n0\r\n\r\n"), "{text}");
    assert_eq!(end, SecureEnd::Announced);

    let mut client = Secure::to(fixture.address(), "localhost", &config).unwrap();
    let ask = "GET /upgrade HTTP/1.1\r\nHost: h\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nfirst ";
    client.send(ask);
    assert_eq!(client.reply().0, 101);
    assert_eq!(client.exactly(6), b"first ");
    for n in 0..100 {
        let line = format!("line {n} ");
        client.send(&line);
        assert_eq!(client.exactly(line.len()), line.as_bytes());
    }
    client.send("end.");
    assert_eq!(client.exactly(4), b"end.");
    assert_eq!(client.end(), SecureEnd::Announced);
}

#[test]
fn a_stop_announces_each_end() {
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server.timeouts(quick().idle_grace(DEADLINE)));
    let config = authority.trusted().config();
    let mut busy = Secure::to(fixture.address(), "localhost", &config).unwrap();
    let mut kept = Secure::to(fixture.address(), "localhost", &config).unwrap();
    assert_eq!(kept.get("/"), "200 Hello, World!");
    // In the middle of a handshake.
    let mut late = Secure::begin(TcpStream::connect(fixture.address()).unwrap(), "localhost", &config);
    late.tls.write_tls(&mut late.socket).unwrap();
    late.socket.peek(&mut [0]).unwrap();
    busy.send(get("/wait"));
    fixture.gate().wait_for(1);
    fixture.running().handle().shutdown();
    eventually("it drains", || fixture.stats().phase.is_draining());
    for client in [&mut kept, &mut late] {
        client.send(get("/"));
        let (_, head, body) = client.reply();
        assert_eq!(body, b"Hello, World!");
        assert!(head.contains("Connection: close"), "{head}");
        assert_eq!(client.end(), SecureEnd::Announced);
    }
    fixture.gate().open();
    assert!(busy.reply().1.contains("Connection: close"));
    assert_eq!(busy.end(), SecureEnd::Announced);
    fixture.stop().unwrap();
}

#[test]
fn an_idle_connection_ends_by_close_notify() {
    let authority = Authority::new("authority");
    let timeouts = quick().idle(Duration::from_millis(250));
    let fixture = fixture(&authority, |server| server.timeouts(timeouts));
    let config = authority.trusted().config();
    let mut asked = Secure::to(fixture.address(), "localhost", &config).unwrap();
    assert_eq!(asked.get("/"), "200 Hello, World!");
    let mut silent = Secure::to(fixture.address(), "localhost", &config).unwrap();
    for client in [&mut asked, &mut silent] {
        assert_eq!(client.end(), SecureEnd::Announced);
    }
    // Without a handshake there is no session whose end could be announced.
    let mut never = fixture.client();
    never.expect_fin();
    fixture.expect_closes(CloseReason::Idle, 3);
}

#[test]
fn clients_get_the_certificate_of_the_name_they_ask_for() {
    let authority = Authority::new("authority");
    let first = authority.server("first", &["one.test", "localhost"]);
    let second = authority.server("second", &["two.test", "*.wild.test"]);
    let tls = tls(&first).and_files(&second.certificate, &second.key);
    let gate = Gate::default();
    let server = Server::new(routes(&gate).get("/tls", parameters))
        .listen(Listen::new("127.0.0.1:0").tls(tls))
        .timeouts(quick());
    let fixture = Fixture::of(gate, server);
    let config = authority.trusted().config();
    for (name, known) in [
        ("one.test", true),
        ("two.test", true),
        ("a.wild.test", true),
        ("ONE.test", true),
        ("a.b.wild.test", false),
        ("other.test", false),
        ("127.0.0.1", false),
    ] {
        match Secure::to(fixture.address(), name, &config) {
            Ok(mut client) => {
                assert!(known, "{name}");
                let text = client.get("/tls").to_ascii_lowercase();
                assert!(text.ends_with(&format!("{} 0", name.to_ascii_lowercase())), "{text}");
            }
            // The first one, which the client does not take for that name.
            Err(e) => assert!(!known && e.to_string().contains("not valid for name"), "{name}: {e}"),
        }
    }
}

#[test]
fn mutual_tls() {
    let authority = Authority::new("authority");
    let (ours, theirs) = (Authority::new("our clients"), Authority::new("others' clients"));
    let pair = authority.server("server", &["localhost"]);
    let (known, stranger) = (ours.client("known"), theirs.client("stranger"));
    let tls = tls(&pair);
    let gate = Gate::default();
    let server = Server::new(routes(&gate).get("/tls", parameters).get("/der", |req: Request| {
        req.tls().and_then(|tls| tls.client_certificates().next()).unwrap_or_default().to_vec()
    }));
    let server = server
        .listen(Listen::new("127.0.0.1:0").tls(tls.clone().require_clients(ours.file())))
        .listen(Listen::new("127.0.0.1:0").tls(tls.request_clients(ours.file())))
        .timeouts(quick());
    let fixture = Fixture::of(gate, server);
    let addresses = fixture.running().addresses().to_vec();
    let trust = authority.trusted();
    for version in [&TLS12, &TLS13] {
        for address in &addresses {
            let config = trust.clone().only(version).showing(&known).config();
            // Both handshakes are full ones: the certificate is shown each time.
            for _ in 0..2 {
                let mut client = Secure::to(*address, "localhost", &config).unwrap();
                assert_eq!(client.tls.handshake_kind(), Some(HandshakeKind::Full));
                assert!(client.get("/tls").ends_with(" localhost 1"));
                client.send(get("/der"));
                assert_eq!(client.reply().2, known.der());
            }
            let config = trust.clone().only(version).showing(&stranger).config();
            refused(Secure::to(*address, "localhost", &config));
        }
        let config = trust.clone().only(version).config();
        refused(Secure::to(addresses[0], "localhost", &config));
        let mut nobody = Secure::to(addresses[1], "localhost", &config).unwrap();
        assert!(nobody.get("/tls").ends_with(" localhost 0"));
    }
    fixture.expect_closes(CloseReason::HandshakeFailed, 6);
}

/// A client's session and how it goes on at other listeners of the same server: those of CVE-2025-23419. It offers its ticket
/// to each, since it knows them by the same name.
#[test]
fn a_session_is_resumed_only_where_the_same_rules_hold() {
    let (authority, ours) = (Authority::new("authority"), Authority::new("our clients"));
    let [pair, renewed] = ["pair", "renewed"].map(|file| authority.server(file, &["localhost"]));
    let other = authority.server("other", &["localhost", "other.test"]);
    let reloaded = tls(&pair);
    let gate = Gate::default();
    let on = |tls: Tls| Listen::new("127.0.0.1:0").tls(tls);
    let server = Server::new(routes(&gate).get("/tls", parameters))
        .listen(on(reloaded.clone()))
        .listen(on(tls(&renewed)))
        .listen(on(tls(&other)))
        .listen(on(tls(&pair).request_clients(ours.file())))
        .listen(on(tls(&pair).require_clients(ours.file())))
        .timeouts(quick());
    let fixture = Fixture::of(gate, server);
    let addresses = fixture.running().addresses().to_vec();
    for version in [&TLS12, &TLS13] {
        let visit = |config: &Arc<rustls::ClientConfig>, listener: usize| {
            let mut client = Secure::to(addresses[listener], "localhost", config).unwrap();
            assert!(client.get("/tls").ends_with(" localhost 0"));
            client.tls.handshake_kind().unwrap()
        };
        for (listener, expected) in [
            (0, HandshakeKind::Resumed),
            (1, HandshakeKind::Resumed),
            (2, HandshakeKind::Full),
            (3, HandshakeKind::Full),
        ] {
            let config = authority.trusted().only(version).config();
            assert_eq!(visit(&config, 0), HandshakeKind::Full);
            assert_eq!(visit(&config, listener), expected, "listener {listener}");
        }
        let config = authority.trusted().only(version).config();
        assert_eq!(visit(&config, 0), HandshakeKind::Full);
        reloaded.reload().unwrap();
        assert_eq!(visit(&config, 0), HandshakeKind::Resumed);
        refused(Secure::to(addresses[4], "localhost", &config));
    }
    let stats = fixture.stats();
    assert_eq!((stats.handshakes_full, stats.handshakes_resumed), (14, 6));
}

/// By TLS 1.3 a client learns it with the first answer.
#[track_caller]
fn refused(client: std::io::Result<Secure>) {
    let error = client.and_then(|mut client| {
        client.try_send(get("/"))?;
        client.receive(&mut [0; 100])
    });
    let error = error.unwrap_err();
    assert!(error.to_string().contains("received fatal alert"), "{error}");
}

/// A server with this certificate, and what renews that.
fn serving(pair: &Pair) -> (Fixture, Tls) {
    let tls = tls(pair);
    let gate = Gate::default();
    let listen = Listen::new("127.0.0.1:0").tls(tls.clone());
    let server = Server::new(routes(&gate)).listen(listen).timeouts(quick());
    (Fixture::of(gate, server), tls)
}

#[test]
fn certificates_are_read_anew_and_bad_ones_leave_the_old() {
    let authority = Authority::new("authority");
    let pair = authority.server("server", &["old.test"]);
    let (fixture, renewed) = serving(&pair);
    let config = authority.trusted().config();
    let serves = |name: &str| Secure::to(fixture.address(), name, &config).is_ok();
    let mut open = Secure::to(fixture.address(), "old.test", &config).unwrap();
    assert_eq!(open.get("/"), "200 Hello, World!");

    let other = authority.server("other", &["new.test"]);
    type Break<'a> = (&'a str, &'a dyn Fn(), &'a [&'a str]);
    let breaks: &[Break<'_>] = &[
        (
            "empty",
            &|| fs::write(&pair.certificate, "").unwrap(),
            &["server.pem", "none in it", "CERTIFICATE"],
        ),
        (
            "no PEM",
            &|| fs::write(&pair.certificate, "-----BEGIN CERTIFICATE-----\n!\n").unwrap(),
            &["server.pem", "PEM"],
        ),
        (
            "no certificate",
            &|| {
                fs::write(&pair.certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
                    .unwrap()
            },
            &["server.pem"],
        ),
        ("gone", &|| fs::remove_file(&pair.certificate).unwrap(), &["server.pem", "No such file"]),
        (
            "of another key",
            &|| assert!(fs::copy(&other.certificate, &pair.certificate).unwrap() > 0),
            &["server.key", "does not belong to the certificate", "server.pem"],
        ),
        ("no key", &|| fs::write(&pair.key, "").unwrap(), &["server.key", "not encrypted"]),
        (
            "a certificate as key",
            &|| assert!(fs::copy(&other.certificate, &pair.key).unwrap() > 0),
            &["server.key"],
        ),
    ];
    for (name, break_it, words) in breaks {
        break_it();
        let error = renewed.reload().unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{name}: {error}");
        assert!(serves("old.test") && !serves("new.test"), "{name}");
        // So does a start.
        let tls = tls(&pair);
        let start =
            Server::new(|_: Request| "").listen(Listen::new("127.0.0.1:0").tls(tls)).spawn().unwrap_err();
        assert_eq!(start.to_string(), error);
    }
    fs::copy(&other.key, &pair.key).unwrap();
    renewed.reload().unwrap();
    assert!(serves("new.test") && !serves("old.test"));
    assert_eq!(open.get("/"), "200 Hello, World!", "what is open stays");
}

const P521: [&str; 2] =
    [include_str!("../../../tests/keys/p521.pem"), include_str!("../../../tests/keys/p521.key")];
const RSA_1024: [&str; 2] =
    [include_str!("../../../tests/keys/rsa1024.pem"), include_str!("../../../tests/keys/rsa1024.key")];
const V1: [&str; 2] =
    [include_str!("../../../tests/keys/v1.pem"), include_str!("../../../tests/keys/v1.key")];
const ENCRYPTED: &str = include_str!("../../../tests/keys/encrypted.key");

/// No message contains eight bytes in a row of a key file, as base64, hexadecimal or decimal.
#[track_caller]
fn expect_nothing_of(secrets: &[&str], message: &str) {
    let squeezed: String = message.chars().filter(|c| !c.is_whitespace()).collect();
    for secret in secrets {
        // Markers are known to all.
        let body: String = secret.lines().filter(|line| !line.starts_with('-')).collect();
        let decoded = PemObject::from_pem_slice(secret.as_bytes());
        let der =
            decoded.map_or_else(|_| Vec::new(), |(_, der): (rustls::pki_types::pem::SectionKind, _)| der);
        for bytes in [body.as_bytes(), &der] {
            for eight in bytes.windows(8) {
                let hex: String = eight.iter().map(|byte| format!("{byte:02x}")).collect();
                let decimal = eight.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
                let lower = squeezed.to_ascii_lowercase();
                let text = std::str::from_utf8(eight).is_ok_and(|text| squeezed.contains(text));
                assert!(!text && !lower.contains(&hex) && !squeezed.contains(&decimal), "{message}");
            }
        }
    }
}

/// All texts of an error.
fn all_of(error: &heirloom::Error) -> String {
    let mut all = format!("{error} {error:?} {error:#?}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        all.push_str(&format!(" {error} {error:?}"));
        source = error.source();
    }
    all
}

#[test]
fn a_key_that_lost_its_line_ends_serves() {
    let authority = Authority::new("authority");
    let pair = authority.server("server", &["localhost"]);
    let (fixture, renewed) = serving(&pair);
    let config = authority.trusted().config();
    let texts = [fs::read_to_string(&pair.certificate).unwrap(), fs::read_to_string(&pair.key).unwrap()];
    for end in ["", "\\n", "\r\n", " "] {
        for (file, text) in [&pair.certificate, &pair.key].into_iter().zip(&texts) {
            fs::write(file, format!("\u{feff}{}", text.replace('\n', end))).unwrap();
        }
        renewed.reload().unwrap();
        let mut client = Secure::to(fixture.address(), "localhost", &config).unwrap();
        assert_eq!(client.get("/"), "200 Hello, World!", "{end:?}");
    }
}

#[test]
fn no_error_has_anything_of_a_key() {
    let authority = Authority::new("authority");
    let pair = authority.server("server", &["localhost"]);
    let good = fs::read_to_string(&pair.key).unwrap();
    let good_certificate = fs::read_to_string(&pair.certificate).unwrap();
    let one_line = good.replace('\n', "");
    let body = good.lines().nth(1).unwrap();
    let raw = rustls::pki_types::PrivateKeyDer::from_pem_file(&pair.key).unwrap();
    type Case<'a> = (&'a str, Vec<u8>, Vec<u8>, &'a [&'a str]);
    let cert = || good_certificate.clone().into_bytes();
    let cases: Vec<Case<'_>> = vec![
        ("cut", cert(), one_line.split("-----END").next().unwrap().into(), &["server.key", "END"]),
        ("no begin", cert(), one_line[27..].into(), &["server.key", "BEGIN"]),
        ("begin only", cert(), format!("-----BEGIN {body}").into(), &["server.key", "BEGIN"]),
        ("label", cert(), format!("-----BEGIN {body}-----\n{body}\n-----END").into(), &["server.key"]),
        ("no spaces", cert(), one_line.replace(' ', "").into(), &["server.key", "line ends are missing"]),
        ("no base64", cert(), one_line.replace(body, &format!("!{body}")).into(), &["line ends are missing"]),
        ("damaged", cert(), good.replace(body, &body[4..]).into(), &["server.key", "damaged"]),
        ("swapped", good.clone().into(), cert(), &["server.pem", "private key"]),
        ("both keys", good.clone().into(), good.clone().into(), &["server.pem", "private key"]),
        ("DER", cert(), raw.secret_der().to_vec(), &["server.key", "binary"]),
        (
            "as a certificate",
            good.replace("PRIVATE KEY", "CERTIFICATE").into(),
            good.clone().into(),
            &["server.pem"],
        ),
        ("encrypted", cert(), ENCRYPTED.into(), &["server.key", "encrypted", "openssl pkey"]),
        (
            "another's",
            cert(),
            V1[1].into(),
            &["server.key", "does not belong to the certificate", "server.pem"],
        ),
        ("P-521", P521[0].into(), P521[1].into(), &["server.key", "P-521", "use RSA"]),
        ("RSA 1024", RSA_1024[0].into(), RSA_1024[1].into(), &["server.key", "1024 bits", "use RSA"]),
        ("X.509 v1", V1[0].into(), V1[1].into(), &["server.pem", "version 1", "subjectAltName"]),
    ];
    let secrets = [&*good, P521[1], RSA_1024[1], V1[1], ENCRYPTED];
    for (name, certificate, key, words) in cases {
        fs::write(&pair.certificate, certificate).unwrap();
        fs::write(&pair.key, key).unwrap();
        let tls = tls(&pair);
        let reloaded = tls.reload().unwrap_err();
        let start =
            Server::new(|_: Request| "").listen(Listen::new("127.0.0.1:0").tls(tls)).spawn().unwrap_err();
        let as_authority = Tls::from_files(&pair.certificate, &pair.key).require_clients(&pair.key).reload();
        for error in [&reloaded, &start, &as_authority.unwrap_err()] {
            expect_nothing_of(&secrets, &all_of(error));
        }
        let said = reloaded.to_string();
        assert!(words.iter().all(|word| said.contains(word)), "{name}: {said}");
        assert_eq!(said, start.to_string());
    }
    // The content of a file where its name should be.
    fs::write(&pair.certificate, &good_certificate).unwrap();
    // Base64 may have a `/` anywhere.
    let with_slashes = format!("MIGHAgEA/{}{body}", "MBMG/".repeat(12));
    for content in [
        good.clone(),
        one_line,
        format!("LS0tLS1CRUdJTiBQ{body}"),
        body.repeat(9),
        body.to_owned(),
        with_slashes,
    ] {
        let tls = Tls::from_files(&pair.certificate, &content).require_clients(&content);
        let error = tls.reload().unwrap_err();
        expect_nothing_of(&[&good], &format!("{} {tls:?}", all_of(&error)));
        assert!(error.to_string().contains("give the name of a file"), "{error}");
    }
}

/// RFC 5246 7.2.2, RFC 8446 6.2: handshake_failure is what says that the two have nothing in common.
#[test]
fn nothing_in_common_is_handshake_failure() {
    use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server);
    // The server's key is ECDSA.
    let rsa_only = || {
        let mut provider = ring::default_provider();
        provider.cipher_suites.retain(|suite| !format!("{suite:?}").contains("ECDSA"));
        let all = provider.signature_verification_algorithms;
        let mapping: Vec<_> =
            all.mapping.iter().copied().filter(|(scheme, _)| format!("{scheme:?}").contains("RSA")).collect();
        let rsa = WebPkiSupportedAlgorithms { all: all.all, mapping: Vec::leak(mapping) };
        CryptoProvider { signature_verification_algorithms: rsa, ..provider }
    };
    let ecdsa_unsaid = || CryptoProvider {
        signature_verification_algorithms: ring::default_provider().signature_verification_algorithms,
        ..rsa_only()
    };
    for (version, provider) in [(&TLS12, rsa_only()), (&TLS12, ecdsa_unsaid()), (&TLS13, rsa_only())] {
        let config = authority.trusted().only(version).by(provider).config();
        let refused = Secure::to(fixture.address(), "localhost", &config).err().unwrap();
        assert!(refused.to_string().contains("HandshakeFailure"), "{version:?}: {refused}");
    }
    // Suites of which the server knows none.
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| format!("{suite:?}").contains("TLS_ECDHE_RSA_WITH_AES_128_GCM"));
    let mut hello = hello(&authority.trusted().only(&TLS12).by(provider).config());
    let at = hello.windows(2).position(|two| two == [0xc0, 0x2f]).unwrap();
    hello[at..at + 2].copy_from_slice(&[0, 0x2f]);
    let mut client = fixture.client();
    client.send(&hello);
    assert_eq!(client.take(7), [21, 3, 3, 0, 2, 2, 40]);
    fixture.expect_closes(CloseReason::HandshakeFailed, 4);
}

#[test]
fn authorities_of_clients_are_checked_at_the_start() {
    let authority = Authority::new("authority");
    let pair = authority.server("server", &["localhost"]);
    let empty = authority.path("empty.pem");
    fs::write(&empty, "").unwrap();
    for file in [&empty, &pair.key, &authority.path("missing.pem")] {
        let tls = tls(&pair).require_clients(file);
        let error =
            Server::new(|_: Request| "").listen(Listen::new("127.0.0.1:0").tls(tls)).spawn().unwrap_err();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(error.to_string().contains(name) && error.to_string().contains("authority"), "{error}");
    }
}

#[test]
fn a_handler_sees_that_its_client_has_gone() {
    let authority = Authority::new("authority");
    let (sender, seen) = std::sync::mpsc::channel();
    let leave = move |req: Request| {
        let client = req.client_watch();
        sender.send(client.is_gone()).unwrap();
        eventually("the client has gone", || client.is_gone() && req.is_client_gone());
        sender.send(client.is_gone()).unwrap();
    };
    let pair = authority.server("server", &["localhost"]);
    let tls = tls(&pair);
    let running =
        Server::new(leave).listen(Listen::new("127.0.0.1:0").tls(tls)).timeouts(quick()).spawn().unwrap();
    let mut client = Secure::to(running.addresses()[0], "localhost", &authority.trusted().config()).unwrap();
    client.send(get("/"));
    assert!(!seen.recv_timeout(DEADLINE).unwrap());
    client.say_end();
    drop(client);
    assert!(seen.recv_timeout(DEADLINE).unwrap());
}

/// The thread that answers for the handler writes records of its own, and the end of TLS.
#[test]
fn a_handler_past_its_deadline_is_answered_for() {
    let authority = Authority::new("authority");
    let pair = authority.server("server", &["localhost"]);
    let gate = Gate::default();
    let waits = gate.clone();
    let late = move |_: Request| waits.pass();
    let router = Router::new()
        .get("/", |_: Request| "Hello, World!")
        .get("/late", deadline(Duration::from_millis(300), late));
    let server = Server::new(router).listen(Listen::new("127.0.0.1:0").tls(tls(&pair))).timeouts(quick());
    let fixture = Fixture::of(gate, server);
    for version in [&TLS13, &TLS12] {
        let config = authority.trusted().only(version).config();
        let mut client = Secure::to(fixture.address(), "localhost", &config).unwrap();
        client.send([get("/"), get("/late")].concat());
        assert_eq!(client.reply().2, b"Hello, World!");
        let (status, head, body) = client.reply();
        assert_eq!((status, &*body), (503, &b"503 Service Unavailable\n"[..]));
        assert!(head.contains("Connection: close\r\n"), "{head}");
        assert_eq!(client.end(), SecureEnd::Announced);
    }
    assert_eq!(fixture.stats().handlers_past_deadline, 2);
    fixture.gate().open();
    eventually("both have returned", || fixture.stats().handlers_past_deadline == 0);
    fixture.expect_closes(CloseReason::DeadlinePassed, 2);
}

/// `openssl s_client` with its keys changed: `K` asks for a KeyUpdate in return, `k` does not.
#[test]
fn openssl_changes_its_keys() {
    if Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_err() {
        return testkit::skip("no openssl here (apt-get install openssl)");
    }
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server);
    let suites = [
        ("-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"),
        ("-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"),
        ("-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"),
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ];
    for (version, kind, suite) in suites {
        let address = fixture.address().to_string();
        // What it says of key updates is on its standard error.
        let mut client = Command::new("sh")
            .args(["-c", "exec openssl s_client \"$@\" 2>&1", "sh", "-connect", &address])
            .args(["-servername", "localhost", "-verify_return_error", version, kind, suite, "-CAfile"])
            .arg(authority.file())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut input, mut output) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
        let mut heard = Vec::new();
        let mut until = |expected: &str| {
            while !String::from_utf8_lossy(&heard).contains(expected) {
                let mut piece = [0; 4 << 10];
                let n = output.read(&mut piece).unwrap();
                assert!(n > 0, "{suite}: {expected} is missing in {}", String::from_utf8_lossy(&heard));
                heard.extend_from_slice(&piece[..n]);
            }
            heard.clear();
        };
        until("---\n");
        for round in 0..6 {
            input.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            until("Hello, World!");
            if version == "-tls1_3" {
                input.write_all(if round % 2 == 0 { b"K\n" } else { b"k\n" }).unwrap();
                until("KEYUPDATE");
            }
        }
        drop(input);
        client.wait().unwrap();
    }
}
