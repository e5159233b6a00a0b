//! What `rustls` does and does not document, and what leaving it depends on. A failure here means that a new version of
//! `rustls` does otherwise: then the code that relies on it has to change.

use std::sync::Mutex;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{KeyLog, ServerConfig};

use super::*;
use crate::net::tls::records::GENERATIONS_MAX;

/// A key log that notes the labels.
#[derive(Debug, Default)]
struct Labels {
    logged: Mutex<Vec<String>>,
}

impl Labels {
    fn now(&self) -> Vec<String> {
        self.logged.lock().unwrap().clone()
    }
}

impl KeyLog for Labels {
    fn log(&self, label: &str, _: &[u8], _: &[u8]) {
        self.logged.lock().unwrap().push(label.to_owned());
    }
}

/// `rustls` alone, with its client.
struct Bare {
    server: UnbufferedServerConnection,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    client: ClientConnection,
}

/// How a pass over the incoming bytes has ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Passed {
    discard: usize,
    plain: Vec<u8>,
    encoded: Vec<u8>,
    writable: bool,
}

impl Bare {
    fn new(suite: SupportedCipherSuite, configure: impl FnOnce(&mut ServerConfig)) -> Bare {
        let tls = testing::listener("localhost.pem");
        tls.reload().unwrap();
        let mut config = (*tls.current().unwrap().for_client(false).config).clone();
        configure(&mut config);
        let server = UnbufferedServerConnection::new(Arc::new(config)).unwrap();
        let client = testing::client_with(client_config(suite));
        Bare { server, incoming: Vec::new(), outgoing: Vec::new(), client }
    }

    fn agreed(suite: SupportedCipherSuite, configure: impl FnOnce(&mut ServerConfig)) -> Bare {
        let mut bare = Bare::new(suite, configure);
        while bare.client.is_handshaking() || bare.server.is_handshaking() {
            bare.of_client();
            bare.pass();
            bare.hear();
        }
        bare
    }

    fn of_client(&mut self) -> usize {
        let old = self.incoming.len();
        while self.client.wants_write() {
            self.client.write_tls(&mut self.incoming).unwrap();
        }
        self.incoming.len() - old
    }

    fn hear(&mut self) -> Vec<u8> {
        let mut plain = Vec::new();
        let said = std::mem::take(&mut self.outgoing);
        let mut said = &said[..];
        while !said.is_empty() {
            self.client.read_tls(&mut said).unwrap();
            self.client.process_new_packets().unwrap();
            let _ = self.client.reader().read_to_end(&mut plain);
        }
        plain
    }

    fn say(&mut self, plain: &[u8]) {
        self.client.writer().write_all(plain).unwrap();
        self.of_client();
    }

    /// Lets `rustls` do all that it can.
    fn pass(&mut self) -> Passed {
        let mut passed = Passed::default();
        loop {
            let UnbufferedStatus { mut discard, state } = self.server.process_tls_records(&mut self.incoming);
            let last = match state.unwrap() {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.unwrap();
                        discard += record.discard;
                        passed.plain.extend_from_slice(record.payload);
                    }
                    false
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    let Err(EncodeError::InsufficientSize(e)) = data.encode(&mut []) else { panic!() };
                    let mut encoded = vec![0; e.required_size];
                    data.encode(&mut encoded).unwrap();
                    passed.encoded.extend(encoded);
                    false
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    false
                }
                ConnectionState::WriteTraffic(_) => {
                    passed.writable = true;
                    true
                }
                _ => true,
            };
            passed.discard += discard;
            self.incoming.drain(..discard);
            if last {
                self.outgoing.extend(&passed.encoded);
                return passed;
            }
        }
    }

    fn write(&mut self, plain: &[u8]) {
        let UnbufferedStatus { state, .. } = self.server.process_tls_records(&mut self.incoming);
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = state else { panic!() };
        let mut room = vec![0; plain.len() + 200];
        let n = traffic.encrypt(plain, &mut room).unwrap();
        self.outgoing.extend(&room[..n]);
    }
}

/// With the logger, as a session has it.
fn extractable(secrets: &Arc<TrafficSecrets>) -> impl FnOnce(&mut ServerConfig) {
    let secrets = Arc::clone(secrets);
    move |config| {
        config.enable_secret_extraction = true;
        config.key_log = secrets;
    }
}

fn secrets() -> Arc<TrafficSecrets> {
    Arc::new(TrafficSecrets::new(Arc::new(rustls::NoKeyLog {})))
}

/// `dangerous_into_kernel_connection` consumes the connection in either case, by its signature.
#[test]
fn keys_are_given_if_configured_and_after_the_handshake_only() {
    for suite in suites() {
        let bare = Bare::agreed(suite, |_| ());
        let refused = bare.server.dangerous_into_kernel_connection();
        assert!(refused.is_err_and(|e| e.to_string().contains("Secret extraction is disabled")));

        let mut bare = Bare::new(suite, extractable(&secrets()));
        bare.of_client();
        bare.pass();
        assert!(bare.server.is_handshaking());
        let refused = bare.server.dangerous_into_kernel_connection();
        assert!(refused.is_err_and(|e| e == Error::HandshakeNotComplete));

        let bare = Bare::agreed(suite, extractable(&secrets()));
        assert!(bare.server.dangerous_into_kernel_connection().is_ok());
    }
}

/// The server's number counts its tickets, which are one record; the client's begins at 0 with each key.
#[test]
fn sequence_numbers_are_those_of_the_next_records() {
    for suite in suites() {
        for (records, tickets) in [(0, 2), (1, 2), (3, 0)] {
            let logged = secrets();
            let mut bare = Bare::agreed(suite, |config| {
                config.send_tls13_tickets = tickets;
                extractable(&logged)(config);
            });
            for _ in 0..records {
                bare.say(b"request");
                assert_eq!(bare.pass().plain, b"request");
                bare.write(b"response");
                assert_eq!(bare.hear(), b"response");
            }
            let (ExtractedSecrets { tx, rx }, _) = bare.server.dangerous_into_kernel_connection().unwrap();
            // In TLS 1.2 both Finished messages are encrypted by the keys of the data, and the ticket comes before them.
            let (tickets, finished) = if is_tls13(suite) { (u64::from(tickets > 0), 0) } else { (0, 1) };
            assert_eq!((tx.0, rx.0), (records + tickets + finished, records + finished), "{suite:?}");
        }
    }
}

/// Each secret comes once, before any data can be encrypted; and the log of the configuration gets what it would get alone.
#[test]
fn traffic_secrets_are_logged_once_and_in_time() {
    for suite in suites() {
        let alone = Arc::new(Labels::default());
        let log = Arc::clone(&alone);
        Bare::agreed(suite, |config| config.key_log = log);

        let behind = Arc::new(Labels::default());
        let secrets = Arc::new(TrafficSecrets::new(Arc::<Labels>::clone(&behind)));
        let mut bare = Bare::new(suite, extractable(&secrets));
        let mut writable = false;
        while !writable {
            bare.of_client();
            writable = bare.pass().writable;
            bare.hear();
        }
        let labels = behind.now();
        assert_eq!(labels, alone.now(), "{suite:?}");
        for label in ["CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"] {
            let times = labels.iter().filter(|logged| *logged == label).count();
            assert_eq!(times, usize::from(is_tls13(suite)), "{suite:?}");
        }
        bare.say(b"request");
        bare.pass();
        bare.write(b"response");
        assert_eq!(behind.now(), labels, "nothing is logged later");
    }
}

/// A log that wants nothing gets nothing of TLS 1.3 behind ours.
#[test]
fn a_log_that_wants_nothing_gets_nothing_through_ours() {
    #[derive(Debug)]
    struct Unwilling;
    impl KeyLog for Unwilling {
        fn log(&self, label: &str, _: &[u8], _: &[u8]) {
            panic!("{label}");
        }
        fn will_log(&self, _: &str) -> bool {
            false
        }
    }
    for suite in suites().filter(|suite| is_tls13(*suite)) {
        let secrets = Arc::new(TrafficSecrets::new(Arc::new(Unwilling)));
        assert!(!format!("{secrets:?}").contains(char::is_numeric), "no secret is in {secrets:?}");
        Bare::agreed(suite, extractable(&secrets));
    }
}

/// A defect of `rustls`, and why `settle` is needed: after a KeyUpdate that requests one, the connection has new keys, but its
/// own KeyUpdate is neither sent nor reported as pending, and extraction succeeds and loses it. If this fails, `rustls`
/// reports the answer or refuses: then see whether `settle` is still needed.
#[test]
fn an_owed_key_update_is_lost_by_extraction() {
    for suite in suites().filter(|suite| is_tls13(*suite)) {
        let logged = secrets();
        let mut bare = Bare::agreed(suite, extractable(&logged));
        bare.client.refresh_traffic_keys().unwrap();
        bare.of_client();
        let passed = bare.pass();
        assert!(passed.writable && passed.encoded.is_empty() && !bare.server.wants_write());
        let mut records = extract(bare.server, &logged).expect("it is not refused");
        assert_eq!(records.tx.seq(), 0, "the new key, which the client does not expect");
        let mut record = Vec::new();
        records.tx.seal(content_type::APPLICATION_DATA, b"lost", &mut record).unwrap();
        bare.client.read_tls(&mut &record[..]).unwrap();
        assert_eq!(bare.client.process_new_packets().unwrap_err(), Error::DecryptError);
    }
}

/// Why `settle` helps: an encryption that has no room queues the answer, and takes no sequence number.
#[test]
fn an_encryption_without_room_queues_an_owed_key_update() {
    for suite in suites().filter(|suite| is_tls13(*suite)) {
        for owes in [true, false] {
            let logged = secrets();
            let mut bare = Bare::agreed(suite, extractable(&logged));
            if owes {
                bare.client.refresh_traffic_keys().unwrap();
                bare.of_client();
                bare.pass();
            }
            let state = bare.server.process_tls_records(&mut bare.incoming).state;
            let Ok(ConnectionState::WriteTraffic(mut traffic)) = state else { panic!() };
            assert!(matches!(traffic.encrypt(&[0], &mut []), Err(EncryptError::InsufficientSize(_))));
            assert_eq!(bare.server.wants_write(), owes);
            assert_eq!(bare.pass().encoded.is_empty(), !owes);
            let mut records = extract(bare.server, &logged).unwrap();
            assert_eq!(records.tx.seq(), if owes { 0 } else { 1 });
            records.tx.seal(content_type::APPLICATION_DATA, b"heard", &mut bare.outgoing).unwrap();
            let said = bare.outgoing;
            bare.client.read_tls(&mut &said[..]).unwrap();
            bare.client.process_new_packets().unwrap();
            let mut heard = [0; 5];
            bare.client.reader().read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"heard");
        }
    }
}

/// Part of a record is neither changed nor discarded; a whole one is discarded.
#[test]
fn part_of_a_record_stays_as_it_came() {
    for suite in suites() {
        let mut bare = Bare::agreed(suite, extractable(&secrets()));
        bare.say(b"request");
        let whole = bare.incoming.clone();
        for n in 0..whole.len() {
            bare.incoming = whole[..n].to_vec();
            let passed = bare.pass();
            assert!(passed.writable && passed.discard == 0 && passed.plain.is_empty());
            assert_eq!(bare.incoming, whole[..n]);
        }
        bare.incoming = whole;
        assert_eq!(bare.pass().plain, b"request");
        assert!(bare.incoming.is_empty());
    }
}

/// Part of a handshake message is decrypted in place and not discarded: a whole record is left, by which a session knows.
#[test]
fn part_of_a_handshake_message_leaves_a_whole_record() {
    for suite in suites() {
        let mut raw = Raw::new(suite, false);
        let message = if is_tls13(suite) { [24, 0] } else { [1, 0] };
        raw.send(content_type::HANDSHAKE, &message);
        assert!(raw.read().is_err());
        assert!(raw.server.hold() > 5);
        // The switch is not on: but that is asked last.
        assert_eq!(raw.server.release(&mut raw.wire).err(), Some(Stays::Fragment), "{suite:?}");
    }
}

/// All tickets come with the handshake: after it the server sends only what its user writes, and no handshake message.
#[test]
fn no_ticket_follows_the_handshake() {
    for suite in suites() {
        let mut raw = Raw::new(suite, false);
        for _ in 0..5 {
            raw.send(content_type::APPLICATION_DATA, b"request");
            assert_eq!(raw.read().unwrap(), b"request");
            raw.server.write(&mut raw.wire, &[b"response"]).unwrap();
            assert_eq!(raw.hear(), [(content_type::APPLICATION_DATA, b"response".to_vec())]);
        }
    }
}

/// The generation of both keys is found, up to a bound.
#[test]
fn keys_of_later_generations_are_recognised() {
    for suite in suites().filter(|suite| is_tls13(*suite)) {
        for generations in [0, 1, 2, GENERATIONS_MAX, GENERATIONS_MAX + 1] {
            let logged = secrets();
            let mut bare = Bare::agreed(suite, extractable(&logged));
            for _ in 0..generations {
                bare.client.refresh_traffic_keys().unwrap();
                bare.say(b"request");
                assert_eq!(bare.pass().plain, b"request");
                bare.write(b"response");
                assert_eq!(bare.hear(), b"response");
            }
            let is_found = generations <= GENERATIONS_MAX;
            assert_eq!(extract(bare.server, &logged).is_some(), is_found, "{generations}");
        }
    }
}
