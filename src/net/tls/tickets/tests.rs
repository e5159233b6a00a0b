//! First what is relied on of `rustls`, by a ticketer that notes its calls; then the tickets of listeners, between which a
//! client carries them wherever it likes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, DigitallySignedStruct, Error, HandshakeKind,
    NamedGroup, ServerConfig, ServerConnection, SignatureScheme, SupportedProtocolVersion,
};

use super::*;
use crate::base::sync::lock;
use crate::net::tls::Tls;
use crate::net::tls::testing::{file, listener};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// The configuration of a connection that begins now.
fn config(tls: &Tls) -> Arc<ServerConfig> {
    if tls.current().is_none() {
        tls.reload().unwrap();
    }
    tls.current().unwrap().for_client(false).config
}

/// Offers its last ticket to every server, whatever its name, and believes every certificate: as an attacker does, or a client
/// that an attacker leads elsewhere.
struct Wanderer(Arc<ClientConfig>);

impl Wanderer {
    fn new(version: &'static SupportedProtocolVersion) -> Wanderer {
        let provider = Arc::new(crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(provider)))
            .with_no_client_auth();
        config.resumption = Resumption::store(Arc::new(OnePocket::default()));
        Wanderer(Arc::new(config))
    }

    /// How the handshake was, or why it failed.
    fn visit(&self, server: &Arc<ServerConfig>, name: &'static str) -> Result<HandshakeKind, Error> {
        let mut server = ServerConnection::new(Arc::clone(server))?;
        let name = ServerName::try_from(name).unwrap();
        let mut client = ClientConnection::new(Arc::clone(&self.0), name)?;
        while client.wants_write() || server.wants_write() {
            deliver(&mut client, &mut server)?;
            deliver(&mut server, &mut client)?;
        }
        assert!(!server.is_handshaking() && !client.is_handshaking());
        assert_eq!(server.handshake_kind(), client.handshake_kind());
        Ok(server.handshake_kind().unwrap())
    }

    #[track_caller]
    fn is(&self, kind: HandshakeKind, server: &Arc<ServerConfig>) {
        assert_eq!(self.visit(server, "localhost").unwrap(), kind);
    }
}

/// Gives one side what the other one has to send.
fn deliver<A, B>(from: &mut ConnectionCommon<A>, to: &mut ConnectionCommon<B>) -> Result<(), Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

/// One session at a time, for all names.
#[derive(Debug, Default)]
struct OnePocket {
    kx: Mutex<Option<NamedGroup>>,
    tls12: Mutex<Option<Tls12ClientSessionValue>>,
    tls13: Mutex<Option<Tls13ClientSessionValue>>,
}

impl ClientSessionStore for OnePocket {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        *lock(&self.kx) = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        *lock(&self.kx)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        *lock(&self.tls12) = Some(session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        lock(&self.tls12).clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        *lock(&self.tls12) = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, session: Tls13ClientSessionValue) {
        *lock(&self.tls13) = Some(session);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        lock(&self.tls13).take()
    }
}

#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A ticketer that notes what it is asked for: tickets are sessions in plain text, with a tail.
#[derive(Debug, Default)]
struct Noting {
    calls: Mutex<Vec<&'static str>>,
    lengths: Mutex<Vec<usize>>,
    disabled: bool,
    tail: usize,
}

impl ProducesTickets for Noting {
    fn enabled(&self) -> bool {
        !self.disabled
    }

    fn lifetime(&self) -> u32 {
        1
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        lock(&self.calls).push("encrypt");
        lock(&self.lengths).push(plain.len());
        Some([plain, &vec![7; self.tail]].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        lock(&self.calls).push("decrypt");
        lock(&self.lengths).push(cipher.len());
        Some(cipher[..cipher.len() - self.tail].to_vec())
    }
}

impl Noting {
    fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut lock(&self.calls))
    }
}

/// As this crate configures it, with another ticketer.
fn with(tls: &Tls, ticketer: &Arc<Noting>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::clone(&config(tls));
    config.ticketer = Arc::clone(ticketer) as _;
    Arc::new(config)
}

mod of_rustls {
    use rustls::time_provider::TimeProvider;

    use super::*;

    #[test]
    fn a_handshake_makes_tickets_and_a_ticket_is_decrypted_once() {
        for (version, full, resumed) in [
            (&TLS12, &["encrypt"][..], &["decrypt", "encrypt"][..]),
            (&TLS13, &["encrypt", "encrypt"], &["decrypt", "encrypt", "encrypt"]),
        ] {
            let ticketer = Arc::new(Noting::default());
            let (client, server) = (Wanderer::new(version), with(&listener("localhost.pem"), &ticketer));
            client.is(HandshakeKind::Full, &server);
            assert_eq!(ticketer.calls(), full);
            client.is(HandshakeKind::Resumed, &server);
            assert_eq!(ticketer.calls(), resumed);
        }
    }

    #[test]
    fn a_ticketer_that_is_not_enabled_makes_none() {
        for version in VERSIONS {
            let ticketer = Arc::new(Noting { disabled: true, ..Noting::default() });
            let (client, server) = (Wanderer::new(version), with(&listener("localhost.pem"), &ticketer));
            client.is(HandshakeKind::Full, &server);
            // There is a cache as well, which is no ticket.
            client.is(HandshakeKind::Resumed, &server);
            assert_eq!(ticketer.calls(), [""; 0]);
        }
    }

    /// So the ticketer has to bound it.
    #[test]
    fn a_ticket_of_any_length_is_passed_to_decrypt() {
        for version in VERSIONS {
            let ticketer = Arc::new(Noting { tail: 10_000, ..Noting::default() });
            let (client, server) = (Wanderer::new(version), with(&listener("localhost.pem"), &ticketer));
            client.is(HandshakeKind::Full, &server);
            client.is(HandshakeKind::Resumed, &server);
            assert!(lock(&ticketer.lengths).iter().any(|length| *length > 10_000));
        }
    }

    #[derive(Debug)]
    struct Later;

    impl TimeProvider for Later {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(40_000_000_000)))
        }
    }

    /// So only the end of a key ends its tickets.
    #[test]
    fn the_server_does_not_look_at_the_lifetime_of_a_ticket() {
        for version in VERSIONS {
            let ticketer = Arc::new(Noting::default());
            let tls = listener("localhost.pem");
            let client = Wanderer::new(version);
            client.is(HandshakeKind::Full, &with(&tls, &ticketer));
            let mut later = ServerConfig::clone(&with(&tls, &ticketer));
            later.time_provider = Arc::new(Later);
            client.is(HandshakeKind::Resumed, &Arc::new(later));
        }
    }

    /// So one key serves several hosts of a listener.
    #[test]
    fn a_ticket_is_not_resumed_under_another_name() {
        for version in VERSIONS {
            let ticketer = Arc::new(Noting::default());
            let server = with(&listener("two-hosts.pem"), &ticketer);
            let client = Wanderer::new(version);
            assert_eq!(client.visit(&server, "a.example"), Ok(HandshakeKind::Full));
            assert_eq!(client.visit(&server, "b.example"), Ok(HandshakeKind::Full));
            assert_eq!(client.visit(&server, "b.example"), Ok(HandshakeKind::Resumed));
        }
    }

    /// The attacks that succeed where two listeners have one ticketer without scopes: see the tests below, where they fail.
    #[test]
    fn a_shared_ticketer_resumes_wherever_a_ticket_is_from() {
        for version in VERSIONS {
            let ticketer = Arc::new(Noting::default());
            let open = with(&listener("localhost.pem"), &ticketer);
            let closed = listener("localhost.pem").require_clients(file("localhost.pem"));
            let elsewhere = listener("two-hosts.pem");
            for other in [closed, elsewhere] {
                let mut other = ServerConfig::clone(&with(&other, &ticketer));
                other.send_tls13_tickets = 2;
                let client = Wanderer::new(version);
                client.is(HandshakeKind::Full, &open);
                client.is(HandshakeKind::Resumed, &Arc::new(other));
            }
        }
    }

    #[test]
    fn the_longest_session_fits() {
        let name: &str = Box::leak(format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61)).into());
        for version in VERSIONS {
            let ticketer = Arc::new(Noting::default());
            let server = with(&listener("localhost.pem"), &ticketer);
            Wanderer::new(version).visit(&server, name).unwrap();
            let longest = lock(&ticketer.lengths).iter().copied().max().unwrap();
            let ticket = NAME_BYTES + NONCE_LEN + longest + AES_256_GCM.tag_len();
            assert!((300..MOST_BYTES).contains(&ticket), "{ticket}");
            assert_eq!(
                TicketKey::generate().unwrap().seal(&vec![0; longest], &Scope::default()).unwrap().len(),
                ticket
            );
        }
    }
}

#[test]
fn a_ticket_opens_with_its_key_in_its_scope_and_whole() {
    let (key, other) = (TicketKey::generate().unwrap(), TicketKey::generate().unwrap());
    let here = Scope::default();
    let elsewhere = Scope::of([&b"elsewhere"[..]].into_iter());
    let ticket = key.seal(b"session", &here).unwrap();
    assert_eq!(key.open(&ticket, &here).unwrap(), b"session");
    assert_ne!(key.seal(b"session", &here).unwrap(), ticket, "the nonce is another");
    assert_eq!(key.open(&ticket, &elsewhere), None);
    assert_eq!(other.open(&ticket, &here), None);
    let renamed = TicketKey { name: key.name, ..other };
    assert_eq!(renamed.open(&ticket, &here), None);
    for length in 0..ticket.len() {
        assert_eq!(key.open(&ticket[..length], &here), None);
    }
    for at in 0..ticket.len() {
        let mut changed = ticket.clone();
        changed[at] ^= 1;
        assert_eq!(key.open(&changed, &here), None, "{at}");
    }
    let longer = [&ticket[..], &[0; MOST_BYTES]].concat();
    assert_eq!(key.open(&longer, &here), None);
    assert_eq!(key.seal(&[0; MOST_BYTES], &here), None);
    assert_eq!(format!("{key:?}"), "TicketKey { .. }");
}

#[test]
fn a_session_survives_a_reload_and_a_renewed_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = folder.path().join("cert.pem");
    fs::copy(file("localhost.pem"), &certificate).unwrap();
    for version in VERSIONS {
        let tls = Tls::from_files(&certificate, file("localhost.key"));
        let client = Wanderer::new(version);
        client.is(HandshakeKind::Full, &config(&tls));
        tls.reload().unwrap();
        client.is(HandshakeKind::Resumed, &config(&tls));
        fs::copy(file("renewed.pem"), &certificate).unwrap();
        tls.reload().unwrap();
        client.is(HandshakeKind::Resumed, &config(&tls));
        fs::copy(file("two-hosts.pem"), &certificate).unwrap();
        tls.reload().unwrap();
        client.is(HandshakeKind::Full, &config(&tls));
        fs::copy(file("localhost.pem"), &certificate).unwrap();
    }
}

/// Two generations: what the second one does not share with the first but by the packet.
#[test]
fn two_generations_with_the_same_keys_resume_for_each_other() {
    for version in VERSIONS {
        let (old, new) = (KeyRing::default(), KeyRing::default());
        let (first, second) = (listener("localhost.pem"), listener("renewed.pem"));
        first.use_keys_of(&old);
        second.use_keys_of(&new);
        let client = Wanderer::new(version);
        client.is(HandshakeKind::Full, &config(&first));
        new.adopt(old.pass_on(Instant::now()), Instant::now());
        client.is(HandshakeKind::Resumed, &config(&second));
        client.is(HandshakeKind::Resumed, &config(&first));
        // Without the packet, as with a version that does not know it.
        let third = listener("localhost.pem");
        third.use_keys_of(&KeyRing::default());
        client.is(HandshakeKind::Full, &config(&third));
    }
}

/// The listeners of one server, with one ring: those of CVE-2025-23419.
#[test]
fn a_ticket_is_no_way_around_a_client_certificate() {
    let ring = KeyRing::default();
    let open = listener("localhost.pem");
    let required = listener("localhost.pem").require_clients(file("localhost.pem"));
    let requested = listener("localhost.pem").request_clients(file("localhost.pem"));
    [&open, &required, &requested].into_iter().for_each(|tls| tls.use_keys_of(&ring));
    for version in VERSIONS {
        let client = Wanderer::new(version);
        client.is(HandshakeKind::Full, &config(&open));
        let refused = client.visit(&config(&required), "localhost");
        assert_eq!(refused.unwrap_err(), Error::NoCertificatesPresented);
        // It has issued no ticket and kept no session: each handshake asks for a certificate.
        let client = Wanderer::new(version);
        for _ in 0..2 {
            client.is(HandshakeKind::Full, &config(&requested));
        }
        client.is(HandshakeKind::Full, &config(&open));
    }
}

/// Two virtual hosts of one server, and of one listener whose certificates change.
#[test]
fn a_ticket_is_no_way_around_another_hosts_certificate() {
    let ring = KeyRing::default();
    let (here, there) = (listener("localhost.pem"), listener("two-hosts.pem"));
    let both = listener("localhost.pem").and_files(file("two-hosts.pem"), file("localhost.key"));
    let same = listener("renewed.pem");
    [&here, &there, &both, &same].into_iter().for_each(|tls| tls.use_keys_of(&ring));
    for version in VERSIONS {
        for (other, kind) in
            [(&there, HandshakeKind::Full), (&both, HandshakeKind::Full), (&same, HandshakeKind::Resumed)]
        {
            let client = Wanderer::new(version);
            client.is(HandshakeKind::Full, &config(&here));
            client.is(kind, &config(other));
        }
    }
}

#[test]
fn the_scope_is_that_of_the_names_in_any_order() {
    let der = |name: &str| {
        let pem = fs::read(file(name)).unwrap();
        crate::net::tls::pem::certificates(&pem).unwrap().remove(0).to_vec()
    };
    let [here, renewed, there, without] =
        ["localhost.pem", "renewed.pem", "two-hosts.pem", "v1.pem"].map(der);
    let scope = |all: &[&Vec<u8>]| Scope::of(all.iter().map(|der| &der[..]));
    assert_eq!(scope(&[&here]), scope(&[&renewed]));
    assert_eq!(scope(&[&here, &there]), scope(&[&there, &renewed, &here]));
    let different = [&[&here][..], &[&there], &[&here, &there], &[&without], &[]];
    for (n, one) in different.iter().enumerate() {
        for other in &different[n + 1..] {
            assert_ne!(scope(one), scope(other));
        }
    }
    for length in 0..there.len() {
        let _ = scope(&[&there[..length].to_vec()]);
    }
}

/// Two hosts, and one of them over the rotation of the file by a reload.
#[test]
fn hosts_with_a_key_file_resume_and_errors_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let write = |keys: &[u8], mode| {
        let line = |n: &u8| STANDARD.encode([*n; 80]) + "\n";
        fs::write(&path, keys.iter().map(line).collect::<String>()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for version in VERSIONS {
        write(&[1, 2, 3], 0o600);
        let [one, other] = [(); 2].map(|()| listener("localhost.pem").ticket_keys(&path));
        let client = Wanderer::new(version);
        client.is(HandshakeKind::Full, &config(&one));
        client.is(HandshakeKind::Resumed, &config(&other));
        // A file that can't be used: the keys stay.
        for (keys, mode) in [(&[1, 2][..], 0o600), (&[1, 2, 3], 0o644)] {
            write(keys, mode);
            one.reload().unwrap_err();
            client.is(HandshakeKind::Resumed, &config(&one));
        }
        // A key is appended, as HAProxy's users do; the hosts learn of it one after the other.
        write(&[2, 3, 4], 0o600);
        one.reload().unwrap();
        client.is(HandshakeKind::Resumed, &config(&one));
        client.is(HandshakeKind::Resumed, &config(&other));
        other.reload().unwrap();
        client.is(HandshakeKind::Resumed, &config(&other));
        // The key of its ticket is gone.
        write(&[7, 8, 9], 0o600);
        one.reload().unwrap();
        client.is(HandshakeKind::Full, &config(&one));
        // Another host has the keys, and another certificate or other clients.
        let another = Tls::from_files(file("two-hosts.pem"), file("localhost.key")).ticket_keys(&path);
        client.is(HandshakeKind::Full, &config(&another));
        let client = Wanderer::new(version);
        client.is(HandshakeKind::Full, &config(&one));
        let closed = listener("localhost.pem").require_clients(file("localhost.pem")).ticket_keys(&path);
        assert_eq!(client.visit(&config(&closed), "localhost"), Err(Error::NoCertificatesPresented));
    }
    let tls = listener("localhost.pem").ticket_keys(&path);
    assert!(format!("{tls:?}").contains(&path.display().to_string()));
    fs::remove_file(&path).unwrap();
    assert!(tls.reload().unwrap_err().to_string().contains("No such file"));
}
