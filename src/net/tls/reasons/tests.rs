use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::*;

fn key(text: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap()
}

#[test]
fn keys_that_are_not_supported_are_named() {
    let cases = [
        (include_str!("../../../../tests/keys/p521.key"), "curve P-521"),
        (include_str!("../../../../tests/keys/p521-sec1.key"), "curve P-521"),
        (include_str!("../../../../tests/keys/secp256k1.key"), "neither P-256 nor P-384"),
        (include_str!("../../../../tests/keys/rsa1024.key"), "RSA key of 1024 bits"),
        (include_str!("../../../../tests/keys/rsa1024-pkcs1.key"), "RSA key of 1024 bits"),
        (include_str!("../../../../tests/keys/rsa-pss.key"), "RSASSA-PSS alone"),
        (include_str!("../../../../tests/keys/ed448.key"), "Ed448"),
        // Their kind is supported.
        (include_str!("../../../../tests/keys/v1.key"), "damaged"),
        (include_str!("../../../../tests/keys/rsa2048.key"), "damaged"),
        (include_str!("../../../../tests/keys/rsa2048-pkcs1.key"), "damaged"),
    ];
    for (text, expected) in cases {
        let said = of_key(&key(text));
        assert!(said.contains(expected) && said.contains("use RSA with 2048 to 4096 bits"), "{said}");
    }
}

#[test]
fn certificates_that_are_not_supported_are_named() {
    let der = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
    assert!(of_certificate(&der(include_str!("../../../../tests/keys/v1.pem"))).contains("version 3"));
    assert!(of_certificate(&der(include_str!("../../../../tests/keys/p521.pem"))).contains("damaged"));
    assert!(of_certificate(b"no DER").contains("damaged"));
}

/// Nothing panics, wherever a key is cut or changed.
#[test]
fn damaged_files_are_reported_as_such() {
    for text in [
        include_str!("../../../../tests/keys/rsa1024.key"),
        include_str!("../../../../tests/keys/p521-sec1.key"),
    ] {
        let whole = key(text);
        let der = whole.secret_der();
        for at in 0..der.len() {
            let mut changed = der.to_vec();
            for byte in [0, 0x30, 0x7f, 0x80, 0x81, 0x84, 0xff] {
                changed[at] = byte;
                for bytes in [&changed, &der[..at], &der[at..]] {
                    let said = [pkcs8(bytes), sec1(bytes), rsa(bytes)];
                    assert!(said.iter().flatten().all(|said| said.len() < 70), "{said:?}");
                    assert!(version(bytes).is_none_or(|version| version > 0));
                }
            }
        }
    }
}
