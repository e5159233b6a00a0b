//! A key of AES-GCM may encrypt 2^24 records: TLS 1.3 changes it in time, TLS 1.2 ends the connection. Most of these tests lower
//! that number, for all suites.

use rustls::{CipherSuiteCommon, Tls13CipherSuite};

use super::*;
use crate::net::tls::buffers::Plaintext;

use content_type::{APPLICATION_DATA as DATA, HANDSHAKE};

const LOWERED: u64 = 40;

/// Neither side notices, however long the connection lasts: with data in both directions, key updates of the client, and moves.
#[test]
fn a_worn_key_is_changed_before_the_next_data() {
    for suite in suites().filter(|suite| is_tls13(*suite)) {
        let mut pair = Pair::new(suite, true);
        for n in 0..5 * LOWERED {
            pair.server.set_records_max(LOWERED);
            pair.converse();
            assert!(!pair.server.is_worn());
            if n % 7 == 0 {
                pair.client.refresh_traffic_keys().unwrap();
            }
            if n % 11 == 0 {
                pair.carry().unwrap();
            }
        }
    }
}

/// One response of many records, as of a stream that lasts, to a client that is slow at times.
#[test]
fn a_response_of_more_records_than_a_key_may_encrypt_arrives() {
    for suite in suites().filter(|suite| is_tls13(*suite)) {
        let mut pair = Pair::new(suite, true);
        pair.server.set_records_max(LOWERED);
        let text: Vec<u8> = (0..3 << 20).map(|n: u32| (n % 251) as u8).collect();
        let (mut rest, mut heard, mut n) = (&text[..], Vec::new(), 0);
        while !rest.is_empty() {
            n += 1;
            pair.wire.full = n % 5 == 0;
            match pair.server.write(&mut pair.wire, &[rest]) {
                Ok(wrote) => rest = &rest[wrote..],
                Err(e) => assert_eq!((e.kind(), pair.wire.full), (ErrorKind::WouldBlock, true)),
            }
            heard.extend(pair.hear());
        }
        assert!(heard == text, "{suite:?}");
        pair.converse();
    }
}

/// The change is one message, by the old key, and asks for nothing.
#[test]
fn the_change_of_a_key_is_one_message_before_the_data() {
    for suite in suites().filter(|suite| is_tls13(*suite)) {
        let mut raw = Raw::new(suite, true);
        raw.server.set_records_max(LOWERED);
        let (data, mut heard) = ((DATA, b"data".to_vec()), Vec::new());
        for _ in raw.rx.seq()..LOWERED / 2 + 2 {
            assert_eq!(raw.server.write(&mut raw.wire, &[b"data"]).unwrap(), 4);
            heard = raw.hear();
            assert_eq!(heard.pop().as_ref(), Some(&data));
            if !heard.is_empty() {
                break;
            }
        }
        assert_eq!(heard, [(HANDSHAKE, KEY_UPDATE.to_vec())], "{suite:?}");
        assert_eq!(raw.rx.seq(), 1);
        raw.send(DATA, b"by the client's old key");
        assert_eq!(raw.read().unwrap(), b"by the client's old key");
    }
}

/// Of a client whose library changes its keys in the same way, and asks for ours each time.
#[test]
fn a_client_that_changes_worn_keys_is_followed() {
    for suite in suites() {
        let SupportedCipherSuite::Tls13(real) = suite else { continue };
        let CipherSuiteCommon { suite, hash_provider, .. } = real.common;
        let common = CipherSuiteCommon { suite, hash_provider, confidentiality_limit: LOWERED };
        let lowered = Box::leak(Box::new(Tls13CipherSuite { common, ..*real }));
        for carried in [false, true] {
            let mut pair = Pair::new(SupportedCipherSuite::Tls13(lowered), carried);
            if carried {
                pair.server.set_records_max(LOWERED + 10);
            }
            for _ in 0..5 * LOWERED {
                pair.converse();
            }
        }
    }
}

/// The sender is bound, as in `rustls`: what arrives is decrypted.
#[test]
fn a_client_that_never_changes_its_key_is_served() {
    for suite in suites() {
        let Raw { mut server, mut wire, tx, rx } = Raw::new(suite, true);
        let (suite, material, seq) = (*tx.suite(), tx.into_material().0, (1 << 24) - 1);
        let mut carried = server.release(&mut wire).unwrap();
        carried.parts.rx.1 = seq;
        let server = TlsSession::resume(Tls::from_files("not", "read"), None, carried).unwrap();
        let mut raw = Raw { server, wire, tx: RecordKey::new(suite, material, seq).unwrap(), rx };
        for _ in 0..3 {
            raw.send(DATA, b"request");
            assert_eq!(raw.read().unwrap(), b"request");
            assert_eq!(raw.server.write(&mut raw.wire, &[b"response"]).unwrap(), 8);
            assert_eq!(raw.hear(), [(DATA, b"response".to_vec())]);
        }
    }
}

/// At half of the records that a key of AES-GCM may really encrypt, and at the last one. In TLS 1.2 the session announces its end
/// and stays, but still serves; in TLS 1.3 it can leave.
#[test]
fn a_worn_session_stays_in_tls12_only() {
    for (suite, half) in suites().flat_map(|suite| [(suite, true), (suite, false)]) {
        let seq = if half { (1 << 23) - 1 } else { (1 << 24) - 1 };
        let Raw { mut server, mut wire, tx, rx } = Raw::new(suite, true);
        let (suite, material) = (*rx.suite(), rx.into_material().0);
        let mut carried = server.release(&mut wire).unwrap();
        carried.parts.tx.1 = seq;
        let server = TlsSession::resume(Tls::from_files("not", "read"), None, carried).unwrap();
        let mut raw = Raw { server, wire, tx, rx: RecordKey::new(suite, material, seq).unwrap() };
        let wears_out = suite.most_records() == 1 << 24;
        let ends = wears_out && suite.version == Version::Tls12;
        assert_eq!(raw.server.is_worn(), ends && !half);
        if ends && !half {
            assert!(raw.server.write(&mut raw.wire, &[b"response"]).is_err());
            continue;
        }
        let mut changes = 0;
        for _ in 0..3 {
            raw.send(DATA, b"request");
            assert_eq!(raw.read().unwrap(), b"request");
            assert_eq!(raw.server.write(&mut raw.wire, &[b"response"]).unwrap(), 8);
            let mut heard = raw.hear();
            assert_eq!(heard.pop(), Some((DATA, b"response".to_vec())));
            changes += heard.len();
            assert_eq!(raw.server.is_worn(), ends);
        }
        assert_eq!(changes, usize::from(wears_out && !ends), "{:?}", suite.id);
        assert_eq!(raw.server.release(&mut raw.wire).err(), ends.then_some(Stays::Worn));
    }
}

/// TLS 1.2: half of the records that a key may encrypt announce the end, and then no data is encrypted, but alerts are.
#[test]
fn a_key_of_tls12_wears_out() {
    let suite = Suite::of(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256).unwrap();
    let records = |seq| {
        let key = |seq| (Zeroizing::new(vec![5; RecordKey::material_bytes(&suite)]), seq);
        Records::new(Parts { suite, tx: key(seq), rx: key(0) })
    };
    assert!(!records((1 << 23) - 1).unwrap().is_worn() && records(1 << 23).unwrap().is_worn());
    assert!(records(1 << 24).is_none());
    let mut last = records((1 << 24) - RESERVED_RECORDS - 1).unwrap();
    let mut say = |say: Say<'_>| {
        let (mut out, mut plain) = (Vec::new(), Vec::new());
        let mut pass = Pass {
            incoming: &mut [],
            used: 0,
            plain: Plaintext::new(&mut [], &mut plain),
            outgoing: &mut out,
            open: false,
            ended: false,
            without_data: 0,
        };
        let said = last.process(&mut pass, &say);
        (said.is_ok(), out.is_empty())
    };
    assert_eq!(say(Say::Data(b"last")), (true, false));
    assert_eq!(say(Say::Data(b"more")), (false, true));
    assert_eq!(say(Say::End), (true, false));
    assert_eq!(say(Say::End), (true, true));
}
