//! The cipher suites of `rustls` with `ring`, as what encrypting a record takes.

use ring::{aead, hkdf};
use rustls::{CipherSuite, SupportedCipherSuite};

/// The two versions of TLS that `rustls` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Tls12,
    Tls13,
}

impl Version {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Version::Tls12 => "TLSv1.2",
            Version::Tls13 => "TLSv1.3",
        }
    }
}

/// A cipher suite. Its number decides the version too: no suite belongs to both.
#[derive(Clone, Copy)]
pub(crate) struct Suite {
    pub(super) id: CipherSuite,
    pub(super) version: Version,
    pub(super) aead: &'static aead::Algorithm,
    /// The hash by which TLS 1.3 derives keys.
    pub(super) hash: hkdf::Algorithm,
}

impl Suite {
    /// The suite with this number at IANA; None if it is not one of `rustls` with `ring`.
    pub(super) fn of(id: CipherSuite) -> Option<Suite> {
        use Version::{Tls12, Tls13};
        use aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305};
        let (version, aead, hash) = match id {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => (Tls13, &AES_128_GCM, hkdf::HKDF_SHA256),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => (Tls13, &AES_256_GCM, hkdf::HKDF_SHA384),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => (Tls13, &CHACHA20_POLY1305, hkdf::HKDF_SHA256),
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => (Tls12, &AES_128_GCM, hkdf::HKDF_SHA256),
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => (Tls12, &AES_256_GCM, hkdf::HKDF_SHA384),
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => {
                (Tls12, &CHACHA20_POLY1305, hkdf::HKDF_SHA256)
            }
            _ => return None,
        };
        Some(Suite { id, version, aead, hash })
    }

    pub(super) fn negotiated(suite: SupportedCipherSuite) -> Option<Suite> {
        Suite::of(suite.suite())
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    pub(crate) fn id(&self) -> CipherSuite {
        self.id
    }

    /// How long a traffic secret is.
    pub(super) fn secret_bytes(&self) -> usize {
        self.hash.hmac_algorithm().digest_algorithm().output_len()
    }

    /// A record that carries its nonce: the 8 bytes of TLS 1.2 with AES-GCM (RFC 5288 §3).
    pub(super) fn explicit_nonce(&self) -> usize {
        match self.version {
            Version::Tls12 if *self.aead != aead::CHACHA20_POLY1305 => 8,
            _ => 0,
        }
    }

    /// How many records one key may encrypt: 2^24 of AES-GCM (as in `rustls`), and as many as can be counted of ChaCha20.
    pub(super) fn most_records(&self) -> u64 {
        if *self.aead == aead::CHACHA20_POLY1305 { u64::MAX >> 1 } else { 1 << 24 }
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::ring;

    use super::*;

    #[test]
    fn every_suite_of_rustls_is_known_and_no_other() {
        for suite in ring::ALL_CIPHER_SUITES {
            let known = Suite::negotiated(*suite).unwrap();
            assert_eq!(known.version == Version::Tls13, suite.tls13().is_some(), "{suite:?}");
            let limit = match suite {
                SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
                SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
            };
            assert!(known.most_records() <= limit, "{suite:?}");
        }
        let known = (0..=u16::MAX).filter_map(|id| Suite::of(CipherSuite::from(id))).count();
        assert_eq!(known, ring::ALL_CIPHER_SUITES.len());
    }
}
