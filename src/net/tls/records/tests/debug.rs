//! No key is in the `Debug` text of anything in `net::tls` that holds one: such a type either shows none, or has no `Debug`.

use std::fmt::Debug;
use std::fs;
use std::marker::PhantomData;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::KeyLog;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::*;
use crate::base::sync::lock;
use crate::net::tls::certificates::{ForClient, Loaded};
use crate::net::tls::tickets::TicketKeyFiles;
use crate::net::tls::{KeyRing, PassedKey};

/// Whether a text shows at least four bytes in a row of a secret, in decimal or hexadecimal, or six in base64.
fn shows(text: &str, secret: &[u8]) -> bool {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let lower = text.to_ascii_lowercase();
    let in_base64 = STANDARD.encode(secret);
    let mut in_base64 = in_base64.as_bytes().windows(8).map(|part| std::str::from_utf8(part).unwrap());
    secret.windows(4).any(|bytes| {
        let each = |format: fn(&u8) -> String| bytes.iter().map(format).collect::<Vec<_>>();
        text.contains(&each(u8::to_string).join(","))
            || lower.contains(&each(|byte| format!("{byte:02x}")).concat())
            || lower.contains(&each(|byte| format!("{byte:02x}")).join(","))
            || lower.contains(&each(|byte| format!("0x{byte:x}")).join(","))
    }) || in_base64.any(|part| text.contains(part))
}

#[test]
fn a_key_that_is_shown_is_found() {
    let secret: Vec<u8> = (90..122).collect();
    for text in [
        format!("{secret:?}"),
        format!("{secret:#?}"),
        format!("{secret:02x?}"),
        format!("{:#x?}", &secret[3..9]),
        format!("key={}", STANDARD.encode(&secret)),
        secret.iter().map(|byte| format!("{byte:02X}")).collect(),
    ] {
        assert!(shows(&text, &secret), "{text}");
    }
    assert!(!shows("Tls { files: [91, 92] }", &secret));
}

/// The secrets of a connection, which both sides have.
#[derive(Debug, Default)]
struct Logged(Mutex<Vec<Vec<u8>>>);

impl KeyLog for Logged {
    fn log(&self, _: &str, _: &[u8], secret: &[u8]) {
        lock(&self.0).push(secret.to_vec());
    }
}

/// A session after its handshake, and its secrets.
fn session(tls: &Tls, suite: SupportedCipherSuite) -> (TlsSession, Vec<Vec<u8>>) {
    let logged = Arc::new(Logged::default());
    let mut config = client_config(suite);
    config.key_log = Arc::<Logged>::clone(&logged);
    let mut client = testing::client_with(config);
    let (mut server, mut wire) = (TlsSession::new(tls.clone()), Wire::default());
    while server.shake_hands(&mut wire).unwrap() != Handshake::Done {
        let said = std::mem::take(&mut wire.to_client);
        let mut said = &said[..];
        while !said.is_empty() {
            client.read_tls(&mut said).unwrap();
            client.process_new_packets().unwrap();
        }
        let mut sent = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut sent).unwrap();
        }
        wire.to_server.extend(sent);
    }
    let secrets = lock(&logged.0).clone();
    assert!(!secrets.is_empty());
    (server, secrets)
}

#[track_caller]
fn expect_none_shown(what: &dyn Debug, secrets: &[Vec<u8>]) {
    for text in [format!("{what:?}"), format!("{what:#?}"), format!("{what:x?}")] {
        assert!(!secrets.iter().any(|secret| shows(&text, secret)), "{text}");
    }
}

/// With the configuration of `rustls`, which shows its key log and its ticketer.
#[test]
fn nothing_that_holds_a_key_shows_it() {
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("ticket keys");
    let of_file: Vec<u8> = (0..48).map(|n: u8| n.wrapping_mul(37)).collect();
    fs::write(&key_file, &of_file).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    let private = PrivateKeyDer::from_pem_file(testing::file("localhost.key")).unwrap();
    let ring = KeyRing::default();
    ring.is_used();
    let passed = ring.pass_on(Instant::now());
    let mut names_and_secrets = Vec::new();
    PassedKey::encode_secrets(&passed, &mut names_and_secrets);
    // Of the file, the secret number alone: the certificate has the public key too.
    let scalar =
        private.secret_der().windows(34).find(|window| window[..2] == [4, 32]).unwrap()[2..].to_vec();
    let secrets = [names_and_secrets, scalar, of_file];

    let tls = || testing::listener("localhost.pem");
    for tls in [tls(), tls().carry(false), tls().carried_at_once(), tls().ticket_keys(&key_file)] {
        tls.use_keys_of(&ring);
        tls.reload().unwrap();
        for suite in suites() {
            let (session, mut known) = session(&tls, suite);
            known.extend(secrets.iter().cloned());
            let ForClient { config, secrets: of_connection, .. } = tls.current().unwrap().for_client(true);
            let all: [&dyn Debug; 7] =
                [&session, &session.info(), &tls, &config, &of_connection, &ring, &passed];
            all.into_iter().for_each(|what| expect_none_shown(what, &known));
        }
    }
}

/// Whether a type has `Debug`, decided by the compiler: the constant of `Probe` wins where it exists.
struct Probe<T>(PhantomData<T>);

trait Unshown {
    const IS_SHOWN: bool = false;
}

impl<T> Unshown for Probe<T> {}

impl<T: Debug> Probe<T> {
    const IS_SHOWN: bool = true;
}

#[test]
fn other_types_that_hold_keys_have_no_debug() {
    let shown = [
        Probe::<Loaded>::IS_SHOWN,
        Probe::<ForClient>::IS_SHOWN,
        Probe::<Records>::IS_SHOWN,
        Probe::<RecordKey>::IS_SHOWN,
        Probe::<Carried>::IS_SHOWN,
        Probe::<Parts>::IS_SHOWN,
        Probe::<TicketKeyFiles>::IS_SHOWN,
    ];
    assert_eq!(shown, [false; 7]);
    assert_eq!([Probe::<Tls>::IS_SHOWN], [true], "the probe works");
}
