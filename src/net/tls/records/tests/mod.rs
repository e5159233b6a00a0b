//! A server's session, over `rustls` or over our records, and clients of it in the same thread: one of `rustls`, and one
//! that sends any record.

mod assumptions;
mod carried;
mod debug;
mod differential;
mod key_limits;
mod refusals;
mod vectors;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::{CipherSuite, ClientConfig, ClientConnection, ExtractedSecrets, SupportedCipherSuite};
use zeroize::Zeroizing;

use super::extract::material_of;
use super::key::RecordKey;
use super::*;
use crate::base::stays::Stays;
use crate::net::tls::{Handshake, Tls, TlsSession, testing};

/// The suites of both versions that the certificate of the tests allows: it has a key for ECDSA.
pub(super) fn suites() -> impl Iterator<Item = SupportedCipherSuite> {
    let of_rsa = |suite: &SupportedCipherSuite| format!("{suite:?}").contains("RSA_WITH");
    ring::ALL_CIPHER_SUITES
        .iter()
        .copied()
        .filter(move |suite| !of_rsa(suite) || format!("{suite:?}").contains("ECDSA"))
}

pub(super) fn is_tls13(suite: SupportedCipherSuite) -> bool {
    suite.tls13().is_some()
}

/// The configuration of a client that has this suite alone.
pub(super) fn client_config(suite: SupportedCipherSuite) -> ClientConfig {
    let provider = CryptoProvider { cipher_suites: vec![suite], ..ring::default_provider() };
    let mut config = testing::client_config(provider, &[suite.version()]);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// The server's end: bytes to it and from it.
#[derive(Default)]
pub(super) struct Wire {
    pub(super) to_server: VecDeque<u8>,
    pub(super) to_client: Vec<u8>,
    /// It takes nothing.
    pub(super) full: bool,
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.to_server.read(buf)? {
            0 if !buf.is_empty() => Err(ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.full {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.to_client.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A session after its handshake, and its client.
pub(super) struct Pair {
    pub(super) server: TlsSession,
    pub(super) client: ClientConnection,
    pub(super) wire: Wire,
    secrets: Arc<TrafficSecrets>,
}

impl Pair {
    /// On our records if `carried`, otherwise on `rustls`.
    pub(super) fn new(suite: SupportedCipherSuite, carried: bool) -> Pair {
        let tls = testing::listener("localhost.pem");
        let pair = Pair::of(suite, if carried { tls.carried_at_once() } else { tls });
        assert_eq!(pair.server.is_on_records(), carried);
        pair
    }

    /// On `rustls`, from where it can be carried.
    pub(super) fn movable(suite: SupportedCipherSuite) -> Pair {
        Pair::of(suite, testing::listener("localhost.pem"))
    }

    fn of(suite: SupportedCipherSuite, tls: Tls) -> Pair {
        tls.reload().unwrap();
        let mut config = client_config(suite);
        let secrets = Arc::new(TrafficSecrets::new(Arc::clone(&config.key_log)));
        config.key_log = Arc::<TrafficSecrets>::clone(&secrets);
        config.enable_secret_extraction = true;
        let client = testing::client_with(config);
        let mut pair = Pair { server: TlsSession::new(tls), client, wire: Wire::default(), secrets };
        while pair.server.shake_hands(&mut pair.wire).unwrap() != Handshake::Done {
            pair.hear();
        }
        assert_eq!(pair.hear(), b"");
        pair
    }

    /// Gives the client what the server has sent; returns the plaintext. What the client sends waits for the server.
    #[track_caller]
    pub(super) fn hear(&mut self) -> Vec<u8> {
        let mut plain = Vec::new();
        self.try_hear(&mut plain).unwrap();
        plain
    }

    /// An error is an alert that the client has got, or found a reason for.
    pub(super) fn try_hear(&mut self, plain: &mut Vec<u8>) -> Result<(), Error> {
        let said = std::mem::take(&mut self.wire.to_client);
        let mut said = &said[..];
        while !said.is_empty() {
            self.client.read_tls(&mut said).unwrap();
            let processed = self.client.process_new_packets();
            let _ = self.client.reader().read_to_end(plain);
            processed?;
        }
        let sent = self.sent();
        self.wire.to_server.extend(sent);
        Ok(())
    }

    /// What the client has to send.
    pub(super) fn sent(&mut self) -> Vec<u8> {
        let mut sent = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut sent).unwrap();
        }
        sent
    }

    /// The client's plaintext, as one record if it fits.
    pub(super) fn say(&mut self, plain: &[u8]) -> Vec<u8> {
        self.client.writer().write_all(plain).unwrap();
        self.sent()
    }

    pub(super) fn read(&mut self, room: usize) -> Result<Vec<u8>, String> {
        read(&mut self.server, &mut self.wire, room)
    }

    /// Carries the session as to another process.
    pub(super) fn carry(&mut self) -> Result<(), Stays> {
        let released = self.server.release(&mut self.wire);
        // Otherwise its process would try again and again.
        assert!(released.is_ok() || self.server.stays().is_some());
        let bytes = released?.encode();
        let again = Carried::decode(&bytes).unwrap();
        assert!(*again.encode() == *bytes);
        let tls = Tls::from_files("not", "read");
        self.server = TlsSession::resume(tls, None, again).unwrap();
        Ok(())
    }

    /// Exchanges bytes in both directions.
    #[track_caller]
    pub(super) fn converse(&mut self) {
        let sent = self.say(b"request");
        self.wire.to_server.extend(sent);
        assert_eq!(self.read(100).unwrap(), b"request");
        assert_eq!(self.server.write(&mut self.wire, &[b"response"]).unwrap(), 8);
        assert_eq!(self.hear(), b"response");
    }

    /// Continues the client without `rustls`.
    pub(super) fn raw(self) -> Raw {
        let Pair { server, client, wire, secrets } = self;
        let suite = Suite::negotiated(client.negotiated_cipher_suite().unwrap()).unwrap();
        let ExtractedSecrets { tx, rx } = client.dangerous_extract_secrets().unwrap();
        let key = |side: (u64, rustls::ConnectionTrafficSecrets), label| {
            RecordKey::new(suite, material_of(&suite, &side.1, &secrets, label).unwrap(), side.0).unwrap()
        };
        let (tx, rx) = (key(tx, "CLIENT_TRAFFIC_SECRET_0"), key(rx, "SERVER_TRAFFIC_SECRET_0"));
        Raw { server, wire, tx, rx }
    }
}

pub(super) fn read(server: &mut TlsSession, wire: &mut Wire, room: usize) -> Result<Vec<u8>, String> {
    let mut buf = vec![0; room];
    let n = server.read(wire, &mut buf).map_err(|e| e.to_string())?;
    buf.truncate(n);
    Ok(buf)
}

/// A session after its handshake, and a client that sends any record.
pub(super) struct Raw {
    pub(super) server: TlsSession,
    pub(super) wire: Wire,
    pub(super) tx: RecordKey,
    pub(super) rx: RecordKey,
}

impl Raw {
    pub(super) fn new(suite: SupportedCipherSuite, carried: bool) -> Raw {
        Pair::new(suite, carried).raw()
    }

    /// The next record of this type, which is not sent.
    pub(super) fn seal(&mut self, content_type: u8, content: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        self.tx.seal(content_type, content, &mut record).unwrap();
        record
    }

    pub(super) fn send(&mut self, content_type: u8, content: &[u8]) {
        let record = self.seal(content_type, content);
        self.wire.to_server.extend(record);
    }

    pub(super) fn send_key_update(&mut self, requested: u8) {
        self.send(content_type::HANDSHAKE, &[24, 0, 0, 1, requested]);
        self.tx = self.tx.next_generation().unwrap();
    }

    pub(super) fn read(&mut self) -> Result<Vec<u8>, String> {
        read(&mut self.server, &mut self.wire, 32 << 10)
    }

    /// What the server has sent: type and content of each record.
    pub(super) fn hear(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut said = std::mem::take(&mut self.wire.to_client);
        let (mut rest, mut heard) = (&mut said[..], Vec::new());
        while !rest.is_empty() {
            let Ok(Some((header, payload))) = whole_record(self.rx.suite().version, rest) else {
                panic!("no record")
            };
            let bytes = HEADER + payload.len();
            let Ok((content_type, content)) = open(&mut self.rx, header, payload) else {
                panic!("a record of another key")
            };
            if content == KEY_UPDATE {
                self.rx = self.rx.next_generation().unwrap();
                heard.push((content_type, KEY_UPDATE.to_vec()));
            } else {
                heard.push((content_type, content.to_vec()));
            }
            rest = &mut rest[bytes..];
        }
        heard
    }
}
