//! TLS from outside: what clients of several kinds see, and what bad ones can't do.

#[path = "support/secure.rs"]
mod secure;
mod support;

use std::io::Write;

use heirloom::prelude::*;
use heirloom::{CloseReason, Limits, Tls};
use rustls::version::{TLS12, TLS13};

use secure::{Authority, Secure, SecureEnd};
use support::*;

/// A server by TLS, as `localhost`.
fn fixture(authority: &Authority, configure: impl FnOnce(Server) -> Server) -> Fixture {
    let pair = authority.server("server", &["localhost"]);
    let gate = Gate::default();
    let router = routes(&gate).get("/tls", told);
    let server = Server::new(router)
        .listen_tls("127.0.0.1:0", Tls::from_files(pair.certificate, pair.key))
        .workers(4)
        .timeouts(quick());
    Fixture::of(gate, configure(server))
}

fn told(req: Request) -> String {
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
fn both_versions_and_what_a_handler_is_told() {
    let authority = Authority::new("authority");
    let fixture = fixture(&authority, |server| server.listen("127.0.0.1:0"));
    let trust = authority.trusted();
    for (version, told) in [
        (&TLS13, "200 TLSv1.3 TLS_AES_256_GCM_SHA384 localhost 0"),
        (&TLS12, "200 TLSv1.2 TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 localhost 0"),
    ] {
        let config = trust.clone().only(version).config();
        // The second is a resumption.
        for _ in 0..2 {
            let mut client = Secure::to(fixture.address(), "localhost", &config).unwrap();
            assert_eq!(client.get("/tls"), told);
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
    let fixture =
        fixture(&authority, |server| server.limits(Limits { body_bytes: 64 << 20, ..Limits::default() }));
    let mut client = Secure::to(fixture.address(), "localhost", &authority.trusted().config()).unwrap();
    client.send(get(&format!("/big/{LENGTH}")));
    assert_patterned(&client.reply().2, LENGTH);
    client.send(post("/echo", &patterned(LENGTH)));
    assert_patterned(&client.reply().2, LENGTH);
    client.send(post("/count", &patterned(LENGTH)));
    assert_eq!(client.reply().2, LENGTH.to_string().as_bytes());
    assert_eq!(client.get("/"), "200 Hello, World!");
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
