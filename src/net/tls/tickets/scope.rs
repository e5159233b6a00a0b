//! Where a ticket is valid: on listeners whose certificates are for the same names. A renewed certificate has the same ones,
//! so that tickets survive it; another virtual host has others, and its own listener.

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::super::reasons::{OCTETS, OID, SEQUENCE, inside};

/// The tag `[3]` of a certificate's extensions.
const EXTENSIONS: u8 = 0xa3;
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// A hash of the names of a listener's certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope([u8; SHA256_OUTPUT_LEN]);

impl Scope {
    /// Of these certificates (DER), in any order.
    pub(crate) fn of<'a>(certificates: impl Iterator<Item = &'a [u8]>) -> Scope {
        // Without names, a certificate has a scope of its own.
        let mut all: Vec<&[u8]> = certificates.map(|der| names(der).unwrap_or(der)).collect();
        all.sort_unstable();
        all.dedup();
        let mut hash = Context::new(&SHA256);
        for names in all {
            hash.update(&(names.len() as u64).to_be_bytes());
            hash.update(names);
        }
        let mut scope = Scope::default();
        scope.0.copy_from_slice(hash.finish().as_ref());
        scope
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The content of the extension subjectAltName.
fn names(der: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = inside(der, SEQUENCE)?;
    let (mut signed, _) = inside(certificate, SEQUENCE)?;
    let extensions = loop {
        let (tag, content, rest) = element(signed)?;
        if tag == EXTENSIONS {
            break content;
        }
        signed = rest;
    };
    let (mut extensions, _) = inside(extensions, SEQUENCE)?;
    loop {
        let (extension, rest) = inside(extensions, SEQUENCE)?;
        let (name, value) = inside(extension, OID)?;
        if name == SUBJECT_ALT_NAME {
            // Before the value there may be a flag: critical.
            let value = element(value).and_then(|(tag, content, rest)| match tag {
                OCTETS => Some(content),
                _ => Some(inside(rest, OCTETS)?.0),
            });
            return value;
        }
        extensions = rest;
    }
}

/// The tag and content of the element that comes first, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let tag = *der.first()?;
    let (content, rest) = inside(der, tag)?;
    Some((tag, content, rest))
}
