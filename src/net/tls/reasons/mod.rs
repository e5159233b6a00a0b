//! Why `rustls` refuses a key or a certificate: its own errors don't say. This reads only the parts of the DER that name the
//! kind, and a message contains nothing but that and a number of bits.

use rustls::pki_types::PrivateKeyDer;

pub(super) const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
/// The tag `[0]` of a constructed element.
const FIRST: u8 = 0xa0;

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
const DSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const ED448: &[u8] = &[0x2b, 0x65, 0x71];

const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[0x2b, 0x81, 4, 0, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 4, 0, 0x23];

const WANTED: &str =
    "use RSA with 2048 to 4096 bits, ECDSA on P-256 or P-384, or Ed25519, with a certificate for the new key";

/// Why a key is refused.
pub(super) fn of_key(key: &PrivateKeyDer<'_>) -> String {
    let kind = match key {
        PrivateKeyDer::Pkcs1(key) => rsa(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => sec1(key.secret_sec1_der()),
        PrivateKeyDer::Pkcs8(key) => pkcs8(key.secret_pkcs8_der()),
        _ => None,
    };
    match kind {
        Some(kind) => format!("it is {kind}, which is not supported; {WANTED}"),
        None => format!("it is damaged, or of a kind that is not supported; {WANTED}"),
    }
}

/// Why a certificate is refused.
pub(super) fn of_certificate(der: &[u8]) -> &'static str {
    match version(der) {
        Some(1 | 2) => {
            "it is an X.509 certificate of version 1 or 2, which has no names to check; have it issued as \
             version 3, with a subjectAltName"
        }
        _ => "it is damaged: there is no X.509 certificate between BEGIN and END; copy it again",
    }
}

fn version(der: &[u8]) -> Option<u8> {
    let (certificate, _) = inside(der, SEQUENCE)?;
    let (signed, _) = inside(certificate, SEQUENCE)?;
    match inside(signed, FIRST) {
        Some((version, _)) => inside(version, INTEGER)?.0.last()?.checked_add(1),
        // A certificate of version 1 begins with its serial number.
        None => inside(signed, INTEGER).map(|_| 1),
    }
}

fn pkcs8(der: &[u8]) -> Option<String> {
    let (_, rest) = inside(inside(der, SEQUENCE)?.0, INTEGER)?;
    let (algorithm, rest) = inside(rest, SEQUENCE)?;
    let (name, parameters) = inside(algorithm, OID)?;
    match name {
        RSA => rsa(inside(rest, OCTETS)?.0),
        EC => curve(parameters),
        RSA_PSS => Some("an RSA key for RSASSA-PSS alone".to_owned()),
        DSA => Some("a DSA key".to_owned()),
        ED448 => Some("an Ed448 key".to_owned()),
        _ => None,
    }
}

fn sec1(der: &[u8]) -> Option<String> {
    let (_, rest) = inside(inside(der, SEQUENCE)?.0, INTEGER)?;
    let (_, rest) = inside(rest, OCTETS)?;
    curve(inside(rest, FIRST)?.0)
}

fn curve(parameters: &[u8]) -> Option<String> {
    match inside(parameters, OID) {
        Some((P256 | P384, _)) => None,
        Some((P521, _)) => Some("an ECDSA key on the curve P-521".to_owned()),
        _ => Some("an ECDSA key on a curve that is neither P-256 nor P-384".to_owned()),
    }
}

fn rsa(der: &[u8]) -> Option<String> {
    let (_, rest) = inside(inside(der, SEQUENCE)?.0, INTEGER)?;
    let (modulus, _) = inside(rest, INTEGER)?;
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let (first, more) = modulus.get(zeros..)?.split_first()?;
    let bits = more.len().checked_mul(8)?.checked_add(usize::try_from(first.checked_ilog2()?).ok()?)?;
    let bits = bits.checked_add(1)?;
    (!(2_048..=4_096).contains(&bits)).then(|| format!("an RSA key of {bits} bits"))
}

/// The content of the DER element that comes first, if it has this tag, and what follows it.
pub(super) fn inside(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    (*tag == wanted).then_some((content, rest))
}

#[cfg(test)]
mod tests;
