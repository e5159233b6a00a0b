//! What is carried, as bytes.

use arbtest::arbitrary::{Result, Unstructured};

use super::*;
use crate::base::property::{CASES, bytes, check, list, text};

fn carried(u: &mut Unstructured<'_>) -> Result<Carried> {
    let ids: Vec<_> = ring::ALL_CIPHER_SUITES.iter().map(|suite| suite.suite()).collect();
    let suite = Suite::of(*u.choose(&ids)?).unwrap();
    let len = match suite.version {
        Version::Tls12 => suite.aead.key_len() + 12,
        Version::Tls13 => suite.secret_bytes(),
    };
    let key =
        |u: &mut Unstructured<'_>| Ok((Zeroizing::new(bytes(u, len..=len)?), u.int_in_range(0..=1 << 23)?));
    let (tx, rx) = (key(u)?, key(u)?);
    let name = text(u, 0..=60, &['a'..='z', '.'..='.'])?;
    let alpn = bytes(u, 0..=20)?;
    let client = ClientIdentity {
        server_name: Some(name).filter(|name| !name.is_empty()).map(String::into_boxed_str),
        alpn: Some(alpn).filter(|alpn| !alpn.is_empty()).map(Vec::into_boxed_slice),
        certificates: list(u, 0..=4, |u| bytes(u, 0..=600))?,
    };
    let (incoming, plain) = (Zeroizing::new(bytes(u, 0..=300)?), Zeroizing::new(bytes(u, 0..=300)?));
    assert!(Carried::fits(&client, &incoming, &plain));
    Ok(Carried { parts: Parts { suite, tx, rx }, client, is_resumed: u.arbitrary()?, incoming, plain })
}

#[test]
fn what_is_carried_arrives() {
    check(CASES, 8 << 10, |u| {
        let sent = carried(u)?;
        let encoded = sent.encode();
        assert_eq!(encoded.capacity(), encoded.len(), "it has grown, and left keys behind");
        let got = Carried::decode(&encoded).unwrap();
        assert_eq!(got.parts.suite.id, sent.parts.suite.id);
        assert!(got.parts.tx == sent.parts.tx && got.parts.rx == sent.parts.rx);
        assert_eq!(got.is_resumed, sent.is_resumed);
        assert!(got.client == sent.client && got.incoming == sent.incoming && got.plain == sent.plain);
        let at = u.int_in_range(0..=encoded.len() - 1)?;
        assert!(Carried::decode(&encoded[..at]).is_none(), "cut at {at} of {}", encoded.len());
        assert!(Carried::decode(&[&encoded[..], &[0]].concat()).is_none(), "one byte is left");
        Ok(())
    });
}

/// Format 1 is a promise: processes of different versions exchange it.
#[test]
fn format_1_is_as_it_was() {
    let numbers = |seq: u8| [0, 0, 0, 0, 0, 0, 1, seq];
    let key = |seq: u8, material: &[u8]| [&numbers(seq)[..], &[material.len() as u8], material].concat();
    let rest = [
        &b"\x09localhost"[..],
        b"\x08http/1.1",
        b"\x02\x00\x00\x03one\x00\x00\x00",
        b"\x00\x00\x00\x04\x17\x03\x03\x01",
        b"\x00\x00\x00\x02GE",
    ];
    for (suite, material) in [(0x1301_u16, 32), (0x1302, 48), (0x1303, 32), (0xc02b, 28), (0xcca9, 44)] {
        let (tx, rx) = (vec![1; material], vec![2; material]);
        let head = [&[1][..], &suite.to_be_bytes(), &[1]].concat();
        let bytes = [head, key(5, &tx), key(6, &rx), rest.concat()].concat();
        let carried = Carried::decode(&bytes).unwrap();
        assert_eq!((carried.parts.suite.id, carried.is_resumed), (CipherSuite::from(suite), true));
        assert!((&*carried.parts.tx.0, carried.parts.tx.1) == (&tx, 0x105));
        assert!((&*carried.parts.rx.0, carried.parts.rx.1) == (&rx, 0x106));
        let ClientIdentity { server_name, alpn, certificates } = &carried.client;
        assert_eq!((server_name.as_deref(), alpn.as_deref()), (Some("localhost"), Some(&b"http/1.1"[..])));
        assert_eq!(*certificates, [b"one".to_vec(), Vec::new()]);
        assert_eq!((&**carried.incoming, &**carried.plain), (&[0x17, 3, 3, 1][..], &b"GE"[..]));
        assert!(**carried.encode() == *bytes);
    }
}

/// What decodes is bounded, and encodes to the same bytes.
#[test]
fn damaged_bytes_are_refused_or_mean_something_else() {
    check(CASES * 4, 8 << 10, |u| {
        let mut encoded = carried(u)?.encode().to_vec();
        for _ in 0..u.int_in_range(1..=4)? {
            let at = u.int_in_range(0..=encoded.len() - 1)?;
            encoded[at] = u.arbitrary()?;
        }
        let garbage = bytes(u, 0..=200)?;
        for bytes in [encoded, garbage] {
            if let Some(decoded) = Carried::decode(&bytes) {
                assert!(*decoded.encode() == bytes);
                assert!(Carried::fits(&decoded.client, &decoded.incoming, &decoded.plain));
            }
        }
        Ok(())
    });
}

#[test]
fn bounds_are_those_of_the_encoding() {
    let client = |name: usize, chain: &[usize]| ClientIdentity {
        server_name: Some("n".repeat(name).into()),
        alpn: None,
        certificates: chain.iter().map(|len| vec![7; *len]).collect(),
    };
    for (name, chain, incoming, plain, fits) in [
        (255, &[16 << 10][..], 5 + (16 << 10) + 2_048, 64 << 10, true),
        (256, &[], 0, 0, false),
        (1, &[16 << 10, 1], 0, 0, false),
        (1, &[0; 256], 0, 0, false),
        (1, &[], 5 + (16 << 10) + 2_049, 0, false),
        (1, &[], 0, (64 << 10) + 1, false),
    ] {
        let (client, incoming, plain) = (client(name, chain), vec![1; incoming], vec![2; plain]);
        assert_eq!(Carried::fits(&client, &incoming, &plain), fits);
        let suite = Suite::of(CipherSuite::TLS13_AES_128_GCM_SHA256).unwrap();
        let key = || (Zeroizing::new(vec![3; 32]), 0);
        let parts = Parts { suite, tx: key(), rx: key() };
        let (incoming, plain) = (incoming.into(), plain.into());
        let carried = Carried { parts, client, is_resumed: false, incoming, plain };
        let encoded = carried.encode();
        assert_eq!(Carried::decode(&encoded).is_some(), fits, "{}", encoded.len());
    }
}
