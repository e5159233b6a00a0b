//! What no client may send: our records end the connection with the error of `rustls`, and with an alert.

use super::*;

const BAD_RECORD_MAC: u8 = 20;
const RECORD_OVERFLOW: u8 = 22;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;
const UNEXPECTED_MESSAGE: u8 = 10;

use content_type::{ALERT, APPLICATION_DATA as DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, HEARTBEAT};

/// What `rustls` makes of the same bytes.
#[derive(Clone, Copy, PartialEq)]
enum Rustls {
    Same,
    /// It ends the connection with another error.
    OtherError,
    /// It accepts them, or waits for more.
    Accepts,
}

struct Case {
    name: &'static str,
    sends: fn(&mut Raw),
    alert: Option<u8>,
    rustls: Rustls,
}

fn of_both_versions() -> Vec<Case> {
    use Rustls::{OtherError, Same};
    fn case(name: &'static str, alert: impl Into<Option<u8>>, rustls: Rustls, sends: fn(&mut Raw)) -> Case {
        Case { name, sends, alert: alert.into(), rustls }
    }
    vec![
        case("changed ciphertext", BAD_RECORD_MAC, Same, |raw| {
            let mut record = raw.seal(DATA, b"data");
            *record.last_mut().unwrap() ^= 1;
            raw.wire.to_server.extend(record);
        }),
        case("a record left out", BAD_RECORD_MAC, Same, |raw| {
            raw.seal(DATA, b"first");
            raw.send(DATA, b"second");
        }),
        case("a record twice", BAD_RECORD_MAC, Same, |raw| {
            let record = raw.seal(DATA, b"data");
            raw.wire.to_server.extend(record.repeat(2));
        }),
        case("too short for a tag", BAD_RECORD_MAC, Same, |raw| {
            raw.wire.to_server.extend([DATA, 3, 3, 0, 15]);
            raw.wire.to_server.extend([0; 15]);
        }),
        case("an unknown content type", UNEXPECTED_MESSAGE, Same, |raw| {
            raw.wire.to_server.extend([25, 3, 3, 0, 1, 0]);
        }),
        case("another protocol", DECODE_ERROR, Same, |raw| {
            raw.wire.to_server.extend([DATA, 4, 3, 0, 1, 0]);
        }),
        case("change_cipher_spec", UNEXPECTED_MESSAGE, OtherError, |raw| {
            raw.wire.to_server.extend([CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1]);
        }),
        case("encrypted change_cipher_spec", UNEXPECTED_MESSAGE, OtherError, |raw| {
            raw.send(CHANGE_CIPHER_SPEC, &[1]);
        }),
        case("a heartbeat", UNEXPECTED_MESSAGE, OtherError, |raw| raw.send(HEARTBEAT, &[1, 0, 0])),
        case("33 empty records", UNEXPECTED_MESSAGE, Same, |raw| (0..33).for_each(|_| raw.send(DATA, b""))),
        case("a longer alert", DECODE_ERROR, Same, |raw| raw.send(ALERT, &[2, 80, 0])),
        case("a shorter alert", DECODE_ERROR, OtherError, |raw| raw.send(ALERT, &[2])),
        case("an alert of a third level", ILLEGAL_PARAMETER, Same, |raw| raw.send(ALERT, &[3, 80])),
        case("a fatal alert", None, Same, |raw| raw.send(ALERT, &[2, 80])),
        case("five warnings", UNEXPECTED_MESSAGE, Same, |raw| (0..5).for_each(|_| raw.send(ALERT, &[1, 90]))),
        case("an empty handshake record", UNEXPECTED_MESSAGE, Rustls::Accepts, |raw| {
            raw.send(HANDSHAKE, b"")
        }),
    ]
}

fn of_tls13() -> Vec<Case> {
    use Rustls::{Accepts, OtherError, Same};
    fn case(name: &'static str, alert: impl Into<Option<u8>>, rustls: Rustls, sends: fn(&mut Raw)) -> Case {
        Case { name, sends, alert: alert.into(), rustls }
    }
    vec![
        case("all zeros", UNEXPECTED_MESSAGE, Same, |raw| raw.send(0, &[0; 20])),
        case("no content at all", UNEXPECTED_MESSAGE, Same, |raw| raw.send(0, b"")),
        case("one byte too many", RECORD_OVERFLOW, Same, |raw| raw.send(DATA, &[1; CONTENT_MAX + 1])),
        // Content of 1 byte, its type, and zeros up to one more than the longest inner plaintext.
        case("padding that is too long", RECORD_OVERFLOW, Same, |raw| {
            let mut content = vec![0; CONTENT_MAX + 1];
            (content[0], content[1]) = (1, DATA);
            raw.send(0, &content);
        }),
        case("a record that is too long", RECORD_OVERFLOW, Accepts, |raw| {
            let [high, low] = (CONTENT_MAX as u16 + 257).to_be_bytes();
            raw.wire.to_server.extend([DATA, 3, 3, high, low]);
        }),
        // The type is authenticated as data: `rustls` does not look at it.
        case("a handshake record", UNEXPECTED_MESSAGE, Accepts, |raw| {
            let mut record = raw.seal(DATA, b"data");
            record[0] = HANDSHAKE;
            raw.wire.to_server.extend(record);
        }),
        case("a warning of TLS 1.2", DECODE_ERROR, Same, |raw| raw.send(ALERT, &[1, 100])),
        case("a Finished", UNEXPECTED_MESSAGE, Same, |raw| {
            raw.send(HANDSHAKE, &[&[20, 0, 0, 32][..], &[0; 32]].concat());
        }),
        case("a ClientHello", UNEXPECTED_MESSAGE, OtherError, |raw| raw.send(HANDSHAKE, &[1, 0, 0, 0])),
        case("a KeyUpdate that asks for something else", ILLEGAL_PARAMETER, Same, |raw| {
            raw.send_key_update(2)
        }),
        case("a KeyUpdate of two bytes", DECODE_ERROR, OtherError, |raw| {
            raw.send(HANDSHAKE, &[24, 0, 0, 2, 0, 0]);
        }),
        case("an endless handshake message", DECODE_ERROR, OtherError, |raw| {
            raw.send(HANDSHAKE, &[24, 0xff, 0xff, 0xff]);
        }),
        case("two KeyUpdates in one record", UNEXPECTED_MESSAGE, Same, |raw| {
            raw.send(HANDSHAKE, &[KEY_UPDATE, KEY_UPDATE].concat());
        }),
        case("33 KeyUpdates", UNEXPECTED_MESSAGE, Same, |raw| (0..33).for_each(|_| raw.send_key_update(0))),
        case("data within a message", UNEXPECTED_MESSAGE, Same, |raw| {
            raw.send(HANDSHAKE, &[24, 0]);
            raw.send(DATA, b"data");
        }),
        case("the old key after a KeyUpdate", BAD_RECORD_MAC, Same, |raw| {
            raw.send(HANDSHAKE, &KEY_UPDATE);
            raw.send(DATA, b"data");
        }),
    ]
}

fn of_tls12() -> Vec<Case> {
    use Rustls::{OtherError, Same};
    fn case(name: &'static str, alert: impl Into<Option<u8>>, rustls: Rustls, sends: fn(&mut Raw)) -> Case {
        Case { name, sends, alert: alert.into(), rustls }
    }
    vec![
        case("one byte too many", RECORD_OVERFLOW, Same, |raw| raw.send(DATA, &[1; CONTENT_MAX + 1])),
        case("a record that is too long", RECORD_OVERFLOW, OtherError, |raw| {
            let [high, low] = (CONTENT_MAX as u16 + 2_049).to_be_bytes();
            raw.wire.to_server.extend([DATA, 3, 3, high, low]);
        }),
        case("another type than was authenticated", BAD_RECORD_MAC, Same, |raw| {
            let mut record = raw.seal(DATA, &[2, 80]);
            record[0] = ALERT;
            raw.wire.to_server.extend(record);
        }),
        case("another version than was authenticated", BAD_RECORD_MAC, Same, |raw| {
            let mut record = raw.seal(DATA, b"data");
            record[2] = 1;
            raw.wire.to_server.extend(record);
        }),
        case("a Finished", UNEXPECTED_MESSAGE, Same, |raw| {
            raw.send(HANDSHAKE, &[&[20, 0, 0, 12][..], &[0; 12]].concat());
        }),
        case("a KeyUpdate", UNEXPECTED_MESSAGE, Same, |raw| raw.send(HANDSHAKE, &KEY_UPDATE)),
    ]
}

#[test]
fn what_no_client_may_send_ends_the_connection() {
    for suite in suites() {
        let of_version = if is_tls13(suite) { of_tls13() } else { of_tls12() };
        for Case { name, sends, alert, rustls } in of_both_versions().into_iter().chain(of_version) {
            let end = |carried| {
                let mut raw = Raw::new(suite, carried);
                sends(&mut raw);
                let first = raw.read();
                // An error after data is reported by the next call.
                let end = if first.as_ref().is_ok_and(|data| !data.is_empty()) { raw.read() } else { first };
                (end, raw)
            };
            let (ours, mut raw) = end(true);
            let what = format!("{name}, {suite:?}: {ours:?}");
            assert!(ours.is_err() && !is_pending(&ours), "{what}");
            let heard: Vec<_> =
                raw.hear().into_iter().filter(|(_, content)| content != &KEY_UPDATE).collect();
            assert_eq!(
                heard,
                alert.map(|alert| (ALERT, vec![2, alert])).into_iter().collect::<Vec<_>>(),
                "{what}"
            );
            assert!(raw.read().is_err() && raw.server.write(&mut raw.wire, &[b"data"]).is_err(), "{what}");
            assert_eq!(raw.hear(), [], "{what}");
            let (theirs, _) = end(false);
            match rustls {
                Rustls::Same => assert_eq!(ours, theirs, "{what}"),
                Rustls::OtherError => assert!(theirs.is_err() && !is_pending(&theirs), "{what} {theirs:?}"),
                Rustls::Accepts => assert!(theirs.is_ok() || is_pending(&theirs), "{what} {theirs:?}"),
            }
        }
    }
}

fn is_pending(read: &Result<Vec<u8>, String>) -> bool {
    *read == Err(io::Error::from(ErrorKind::WouldBlock).to_string())
}

/// What a client may send without data changes nothing.
#[test]
fn what_is_allowed_a_few_times_is() {
    for (suite, carried) in suites().flat_map(|suite| [(suite, false), (suite, true)]) {
        let mut raw = Raw::new(suite, carried);
        (0..32).for_each(|_| raw.send(DATA, b""));
        (0..4).for_each(|_| raw.send(ALERT, &[1, 90]));
        (0..31).for_each(|_| raw.send(DATA, b""));
        if is_tls13(suite) {
            (0..31).for_each(|_| raw.send_key_update(0));
            raw.send(DATA, b"one");
            (0..31).for_each(|_| raw.send_key_update(0));
            // The content's type is followed by zeros.
            raw.send(0, &[b"more".as_slice(), &[DATA, 0, 0]].concat());
            let mut longest = vec![0; CONTENT_MAX];
            (longest[0], longest[1]) = (b'!', DATA);
            raw.send(0, &longest);
        } else {
            raw.send(DATA, b"onemore!");
        }
        assert_eq!(raw.read().unwrap(), b"onemore!", "{suite:?}");
        assert_eq!(raw.server.write(&mut raw.wire, &[b"response"]).unwrap(), 8);
        assert_eq!(raw.hear(), [(DATA, b"response".to_vec())]);
    }
}

/// RFC 5246 §7.2.2: a refusal is a warning, so the connection continues; the second request ends it.
#[test]
fn renegotiation_is_refused_once() {
    // A message that `rustls` parses too: no session, one suite, no compression, no extensions.
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2b, 1, 0]].concat();
    let hello = [&[1, 0, 0, body.len() as u8], &body[..]].concat();
    for (suite, carried) in suites().flat_map(|suite| [(suite, false), (suite, true)]) {
        if is_tls13(suite) {
            continue;
        }
        let mut raw = Raw::new(suite, carried);
        let (first, second) = hello.split_at(3);
        raw.send(HANDSHAKE, first);
        raw.send(HANDSHAKE, second);
        raw.send(DATA, b"data");
        assert_eq!(raw.read().unwrap(), b"data", "{suite:?} {carried}");
        assert_eq!(raw.hear(), [(ALERT, vec![1, 100])]);
        raw.send(HANDSHAKE, &hello);
        assert!(raw.read().unwrap_err().contains("TooManyRenegotiationRequests"));
    }
}

/// A KeyUpdate may come in pieces; several requests that arrive together get one answer, by the old key.
#[test]
fn key_updates_are_answered() {
    for suite in suites().filter(|suite| is_tls13(*suite)) {
        let mut raw = Raw::new(suite, true);
        raw.send(HANDSHAKE, &[24, 0]);
        assert!(is_pending(&raw.read()));
        assert!(raw.server.hold() > 0 && raw.server.release(&mut raw.wire).is_err());
        raw.send(HANDSHAKE, &[0, 1, 1]);
        raw.tx = raw.tx.next_generation().unwrap();
        assert!(is_pending(&raw.read()));
        assert_eq!(raw.hear(), [(HANDSHAKE, KEY_UPDATE.to_vec())]);
        raw.send_key_update(1);
        raw.send_key_update(0);
        raw.send_key_update(1);
        raw.send(DATA, b"data");
        assert_eq!(raw.read().unwrap(), b"data");
        assert_eq!(raw.server.write(&mut raw.wire, &[b"response"]).unwrap(), 8);
        assert_eq!(raw.hear(), [(HANDSHAKE, KEY_UPDATE.to_vec()), (DATA, b"response".to_vec())]);
        assert_eq!(raw.server.hold(), 0);
    }
}

/// A client that asks for new keys again and again, and reads nothing: what is kept for it does not grow, and the answer that is
/// owed is sent before the session leaves.
#[test]
fn requests_for_new_keys_without_reading_hold_one_answer() {
    for (suite, carried) in suites().flat_map(|suite| [(suite, false), (suite, true)]) {
        if !is_tls13(suite) {
            continue;
        }
        let mut raw = Raw::new(suite, carried);
        raw.wire.full = true;
        let mut most = 0;
        for _ in 0..1_000 {
            raw.send_key_update(1);
            raw.send(DATA, b"x");
            assert_eq!(raw.read().unwrap(), b"x");
            most = most.max(raw.server.hold());
        }
        let answer = HEADER + KEY_UPDATE.len() + 1 + 16;
        assert!(most <= answer, "{suite:?} {carried}: {most} bytes");
        if carried {
            assert_eq!(raw.server.release(&mut raw.wire).err(), Some(Stays::Unsent));
            raw.wire.full = false;
            let session = raw.server.release(&mut raw.wire).unwrap();
            assert_eq!(raw.hear(), [(HANDSHAKE, KEY_UPDATE.to_vec()), (HANDSHAKE, KEY_UPDATE.to_vec())]);
            raw.server = TlsSession::resume(Tls::from_files("not", "read"), None, session).unwrap();
        }
        raw.wire.full = false;
        assert_eq!(raw.server.write(&mut raw.wire, &[b"response"]).unwrap(), 8);
        assert_eq!(raw.hear().last(), Some(&(DATA, b"response".to_vec())));
    }
}

#[test]
fn nothing_follows_close_notify() {
    for (suite, carried) in suites().flat_map(|suite| [(suite, false), (suite, true)]) {
        let mut raw = Raw::new(suite, carried);
        assert!(raw.server.say_end(&mut raw.wire).unwrap());
        assert_eq!(raw.hear(), [(ALERT, vec![1, 0])]);
        assert!(raw.server.release(&mut raw.wire).is_err());
        // What the client still sends is read.
        raw.send(DATA, b"late");
        assert_eq!(raw.read().unwrap(), b"late", "{suite:?} {carried}");
        raw.send(ALERT, &[1, 0]);
        raw.send(DATA, b"after the end");
        assert_eq!(raw.read().unwrap(), b"", "{suite:?} {carried}");
        assert_eq!(raw.hear(), []);
    }
}
