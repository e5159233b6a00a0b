//! One direction's key with its sequence number: how a record becomes ciphertext, and back (RFC 5246 §6.2.3.3, RFC 5288,
//! RFC 7905, RFC 8446 §5.2 and §5.3).
//!
//! A nonce is the IV and the sequence number, so a sequence number must never be used twice with one key. That is why a key
//! is no `Clone`, why its number is counted before its cipher runs, and why [`RecordKey::into_material`] consumes it.
//!
//! `ring` does not wipe its keys when they are dropped; everything else here that is secret is wiped.

use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{KeyType, Prk};
use zeroize::Zeroizing;

use super::suite::{Suite, Version};

/// The header of a record.
pub(super) const HEADER: usize = 5;
/// The content of a record at most.
pub(super) const CONTENT_MAX: usize = 1 << 14;
/// The content types of records, and the messages in them.
pub(super) mod content_type {
    pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(crate) const ALERT: u8 = 21;
    pub(crate) const HANDSHAKE: u8 = 22;
    pub(crate) const APPLICATION_DATA: u8 = 23;
    pub(crate) const HEARTBEAT: u8 = 24;
}
/// An authentication tag of any of the ciphers.
const TAG: usize = 16;
/// Bytes of an IV of any of the ciphers.
const IV: usize = aead::NONCE_LEN;

/// What a key is made of: in TLS 1.3 the traffic secret, in TLS 1.2 the key and then its IV.
pub(crate) type Material = Zeroizing<Vec<u8>>;

/// A record can't be encrypted or decrypted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed;

impl From<ring::error::Unspecified> for Failed {
    fn from(_: ring::error::Unspecified) -> Failed {
        Failed
    }
}

/// The key of one direction. It has no `Debug`.
pub(super) struct RecordKey {
    suite: Suite,
    cipher: LessSafeKey,
    iv: Zeroizing<[u8; IV]>,
    material: Material,
    /// How many records it has encrypted or decrypted.
    seq: u64,
}

impl RecordKey {
    /// None if the material has the wrong length.
    pub(super) fn new(suite: Suite, material: Material, seq: u64) -> Option<RecordKey> {
        let (key, iv) = match suite.version {
            Version::Tls13 => traffic_key(&suite, &material)?,
            Version::Tls12 => {
                let (key, iv) = material.split_at_checked(suite.aead.key_len())?;
                (Zeroizing::new(key.to_vec()), Zeroizing::new(iv.try_into().ok()?))
            }
        };
        let cipher = LessSafeKey::new(UnboundKey::new(suite.aead, &key).ok()?);
        Some(RecordKey { suite, cipher, iv, material, seq })
    }

    /// How long the material of this suite is.
    pub(super) fn material_bytes(suite: &Suite) -> usize {
        match suite.version {
            Version::Tls13 => suite.secret_bytes(),
            Version::Tls12 => suite.aead.key_len().saturating_add(IV),
        }
    }

    pub(super) fn suite(&self) -> &Suite {
        &self.suite
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// The material and the sequence number, for the one who continues.
    pub(super) fn into_material(self) -> (Material, u64) {
        (self.material, self.seq)
    }

    /// The key of the next generation (RFC 8446 §7.2). None in TLS 1.2, which has none.
    pub(super) fn next_generation(&self) -> Option<RecordKey> {
        RecordKey::new(self.suite, next_secret(&self.suite, &self.material)?, 0)
    }

    /// Appends a record with this content to `out`.
    pub(super) fn seal(&mut self, content_type: u8, content: &[u8], out: &mut Vec<u8>) -> Result<(), Failed> {
        let (seq, start) = (self.count()?, out.len());
        let sealed = self.seal_as(seq, content_type, content, out);
        if sealed.is_err() {
            out.truncate(start);
        }
        sealed
    }

    fn seal_as(&self, seq: u64, content_type: u8, content: &[u8], out: &mut Vec<u8>) -> Result<(), Failed> {
        let nonce = self.nonce(seq);
        let explicit = nonce.get(IV.saturating_sub(self.suite.explicit_nonce())..).unwrap_or_default();
        let (outer, inner): (u8, &[u8]) = match self.suite.version {
            Version::Tls13 => (content_type::APPLICATION_DATA, &[content_type]),
            Version::Tls12 => (content_type, &[]),
        };
        let sealed = [explicit.len(), content.len(), inner.len(), TAG].iter().sum::<usize>();
        let [high, low] = u16::try_from(sealed).map_err(|_| Failed)?.to_be_bytes();
        let header = [outer, 3, 3, high, low];
        out.extend_from_slice(&header);
        out.extend_from_slice(explicit);
        let start = out.len();
        out.extend_from_slice(content);
        out.extend_from_slice(inner);
        let aad = self.aad(seq, header, content.len())?;
        let plain = out.get_mut(start..).unwrap_or_default();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.cipher.seal_in_place_separate_tag(nonce, aad, plain)?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Decrypts the payload of a record in place. In TLS 1.3 the content is followed by its kind and by zeros.
    pub(super) fn open<'a>(
        &mut self,
        header: [u8; HEADER],
        payload: &'a mut [u8],
    ) -> Result<&'a mut [u8], Failed> {
        let (explicit, sealed) = payload.split_at_mut_checked(self.suite.explicit_nonce()).ok_or(Failed)?;
        let content = sealed.len().checked_sub(TAG).ok_or(Failed)?;
        let seq = self.seq;
        let mut nonce = self.nonce(seq);
        if let Some(place) = nonce.get_mut(IV.saturating_sub(explicit.len())..) {
            place.copy_from_slice(explicit);
        }
        let aad = self.aad(seq, header, content)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plain = self.cipher.open_in_place(nonce, aad, sealed)?;
        self.count()?;
        Ok(plain)
    }

    /// Takes the next sequence number.
    fn count(&mut self) -> Result<u64, Failed> {
        let seq = self.seq;
        self.seq = seq.checked_add(1).ok_or(Failed)?;
        Ok(seq)
    }

    /// RFC 8446 §5.3: the number, from the right, and the IV. TLS 1.2 leaves the construction to the sender (RFC 5288 §3):
    /// this is the one of `rustls`, which must continue.
    fn nonce(&self, seq: u64) -> [u8; IV] {
        let mut nonce = *self.iv;
        for (byte, of_seq) in nonce.iter_mut().rev().zip(seq.to_be_bytes().iter().rev()) {
            *byte ^= of_seq;
        }
        nonce
    }

    fn aad(&self, seq: u64, header: [u8; HEADER], content: usize) -> Result<Aad<AdditionalData>, Failed> {
        let [kind, major, minor, high, low] = header;
        Ok(Aad::from(match self.suite.version {
            // A receiver ignores the version (RFC 8446 §5.1), which a sender may not change: §5.2.
            Version::Tls13 => AdditionalData::Tls13([kind, 3, 3, high, low]),
            Version::Tls12 => {
                let [high, low] = u16::try_from(content).map_err(|_| Failed)?.to_be_bytes();
                let [a, b, c, d, e, f, g, h] = seq.to_be_bytes();
                AdditionalData::Tls12([a, b, c, d, e, f, g, h, kind, major, minor, high, low])
            }
        }))
    }
}

/// What is authenticated beside a record's content.
enum AdditionalData {
    Tls12([u8; 13]),
    Tls13([u8; HEADER]),
}

impl AsRef<[u8]> for AdditionalData {
    fn as_ref(&self) -> &[u8] {
        match self {
            AdditionalData::Tls12(bytes) => bytes,
            AdditionalData::Tls13(bytes) => bytes,
        }
    }
}

/// The key and the IV of a traffic secret (RFC 8446 §7.3).
pub(super) fn traffic_key(suite: &Suite, secret: &[u8]) -> Option<(Material, Zeroizing<[u8; IV]>)> {
    let key = expand(suite, secret, b"key", suite.aead.key_len())?;
    let iv = expand(suite, secret, b"iv", IV)?;
    Some((key, Zeroizing::new(iv.as_slice().try_into().ok()?)))
}

/// The traffic secret of the next generation (RFC 8446 §7.2). None in TLS 1.2.
pub(super) fn next_secret(suite: &Suite, secret: &[u8]) -> Option<Material> {
    match suite.version {
        Version::Tls13 => expand(suite, secret, b"traffic upd", suite.secret_bytes()),
        Version::Tls12 => None,
    }
}

/// HKDF-Expand-Label without a context (RFC 8446 §7.1).
fn expand(suite: &Suite, secret: &[u8], label: &[u8], len: usize) -> Option<Material> {
    struct Bytes(usize);
    impl KeyType for Bytes {
        fn len(&self) -> usize {
            self.0
        }
    }
    const PREFIX: &[u8] = b"tls13 ";
    if secret.len() != suite.secret_bytes() {
        return None;
    }
    let label_len = u8::try_from(PREFIX.len().checked_add(label.len())?).ok()?;
    let info = [&u16::try_from(len).ok()?.to_be_bytes()[..], &[label_len], PREFIX, label, &[0]];
    let mut derived = Zeroizing::new(vec![0; len]);
    let secret = Prk::new_less_safe(suite.hash, secret);
    secret.expand(&info, Bytes(len)).ok()?.fill(&mut derived).ok()?;
    Some(derived)
}
