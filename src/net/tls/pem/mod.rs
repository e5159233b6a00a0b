//! PEM as deployments really have it: with the line endings of any system, with the two characters `\n` for a line ending,
//! or with no line endings at all, as environment variables and secret stores leave it. Errors name the kind of fault and
//! never quote the text, which may be a private key. For the same reason the errors of `rustls` are not passed on.

use std::fmt;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

const CERTIFICATE: &[u8] = b"CERTIFICATE";
/// PKCS#8, PKCS#1 and SEC1.
const KEYS: [&[u8]; 3] = [b"PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY"];

/// What is wrong with a file, and how to mend it. Contains nothing from the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no section of the wanted kind.
    Missing {
        why: &'static str,
        wanted: &'static str,
    },
    Utf16,
    BadMarker,
    NoEnd,
    OtherEnd,
    NotBase64 {
        one_line: bool,
    },
    Headers,
    Encrypted,
    OpenSsh,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Missing { why, wanted } => return write!(f, "there is none in it: {why}; {wanted}"),
            Fault::Utf16 => "it is UTF-16 text; save it as UTF-8",
            Fault::BadMarker => "it is not valid PEM: a BEGIN or END line is damaged; copy it again",
            Fault::NoEnd => "it is not valid PEM: a BEGIN line has no END line; the file is truncated, copy it again",
            Fault::OtherEnd => {
                "it is not valid PEM: a BEGIN line is followed by the END line of something else; copy it again"
            }
            Fault::NotBase64 { one_line: false } => {
                "it is not valid PEM: the text between BEGIN and END is not base64; copy it again"
            }
            Fault::NotBase64 { one_line: true } => {
                "it is not valid PEM: its line ends are missing, and the text between BEGIN and END is not base64; \
                 copy it again"
            }
            Fault::Headers => {
                "there are header lines after a BEGIN line; write it without them, by `openssl`"
            }
            Fault::Encrypted => {
                "it is encrypted, and a server can't ask for the password; decrypt it by `openssl pkey`"
            }
            Fault::OpenSsh => "it is in OpenSSH's own format; convert it by `ssh-keygen -p -m PKCS8`",
        })
    }
}

/// All certificates of a file; never none.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let (mut all, mut other) = (Vec::new(), None);
    for section in Sections::of(text)? {
        let section = section?;
        match section.label {
            CERTIFICATE => all.push(section.decode()?),
            label => other = other.or(Some(instead_of_certificate(label))),
        }
    }
    let missing = Fault::Missing {
        why: other.unwrap_or_else(|| nothing_in(text)),
        wanted: "expected PEM with a line BEGIN CERTIFICATE",
    };
    if all.is_empty() { Err(missing) } else { Ok(all) }
}

/// The first private key of a file.
pub(super) fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, Fault> {
    let (mut unusable, mut other) = (None, None);
    for section in Sections::of(text)? {
        let section = section?;
        match section.label {
            label if KEYS.contains(&label) => return section.decode(),
            b"ENCRYPTED PRIVATE KEY" => unusable = unusable.or(Some(Fault::Encrypted)),
            b"OPENSSH PRIVATE KEY" => unusable = unusable.or(Some(Fault::OpenSsh)),
            label => other = other.or(Some(instead_of_key(label))),
        }
    }
    let missing = Fault::Missing {
        why: other.unwrap_or_else(|| nothing_in(text)),
        wanted: "expected PEM: PKCS#8, SEC1 or PKCS#1, not encrypted",
    };
    Err(unusable.unwrap_or(missing))
}

fn instead_of_certificate(label: &[u8]) -> &'static str {
    match label {
        b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => {
            "it has a certificate request; get the certificate from your authority"
        }
        b"TRUSTED CERTIFICATE" => {
            "it has a certificate in OpenSSL's own format: convert it by `openssl x509`"
        }
        b"PKCS7" => "it is PKCS#7: convert it by `openssl pkcs7 -print_certs`",
        label if label.ends_with(b"PRIVATE KEY") => "it has a private key",
        b"PUBLIC KEY" => "it has a public key",
        _ => "it has something else",
    }
}

fn instead_of_key(label: &[u8]) -> &'static str {
    match label {
        CERTIFICATE => "it has a certificate",
        b"PUBLIC KEY" => "it has a public key",
        _ => "it has something else",
    }
}

/// Why there is no section.
fn nothing_in(text: &[u8]) -> &'static str {
    if text.trim_ascii().is_empty() {
        "it is empty"
    } else if text.contains(&0) || text.first() == Some(&0x30) {
        "it is binary (DER or PKCS#12), which `openssl` can convert"
    } else if find(text, b"-----BEGIN").is_some() && find(text, BEGIN).is_none() {
        "its line ends are missing, and so are the spaces in its BEGIN and END lines"
    } else {
        "no line begins with -----BEGIN"
    }
}

/// The text between a BEGIN and its END.
struct Section<'a> {
    label: &'a [u8],
    body: &'a [u8],
}

impl Section<'_> {
    fn decode<T: PemObject>(&self) -> Result<T, Fault> {
        if self.body.contains(&b':') {
            let encrypted = find(self.body, b"ENCRYPTED").is_some();
            return Err(if encrypted { Fault::Encrypted } else { Fault::Headers });
        }
        let fault = Fault::NotBase64 { one_line: line_end(self.body.trim_ascii()).is_none() };
        let body = without_line_ends(self.body).ok_or(fault)?;
        // Written again in the form that rustls reads, because its reader decodes secrets in constant time.
        let text = [BEGIN, self.label, DASHES, b"\n", &body, b"\n", END, self.label, DASHES].concat();
        T::from_pem_slice(&text).map_err(|_| fault)
    }
}

/// The sections of a text, up to the first that is damaged.
struct Sections<'a> {
    rest: &'a [u8],
}

impl<'a> Sections<'a> {
    fn of(text: &'a [u8]) -> Result<Sections<'a>, Fault> {
        if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
            return Err(Fault::Utf16);
        }
        Ok(Sections { rest: text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text) })
    }

    /// The text after the next BEGIN that starts a line, or that follows the last END directly.
    fn next_begin(&mut self) -> Option<&'a [u8]> {
        let mut line: &[u8] = self.rest;
        loop {
            let (before, after) = split(line, BEGIN)?;
            let mut start = before;
            while let Some((_, rest)) = line_end(start) {
                start = rest;
            }
            if start.iter().all(|b| b.is_ascii_whitespace() || b"'\"".contains(b)) {
                return Some(after);
            }
            // This BEGIN is within a comment, which ends with the line.
            line = line_end(after)?.1;
        }
    }

    fn section(&mut self, after: &'a [u8]) -> Result<Section<'a>, Fault> {
        let (label, after) = label(after)?;
        let (body, end) = split(after, END).ok_or(Fault::NoEnd)?;
        if find(body, BEGIN).is_some() {
            return Err(Fault::NoEnd);
        }
        let (ended, rest) = self::label(end)?;
        self.rest = rest;
        if ended == label { Ok(Section { label, body }) } else { Err(Fault::OtherEnd) }
    }
}

impl<'a> Iterator for Sections<'a> {
    type Item = Result<Section<'a>, Fault>;

    fn next(&mut self) -> Option<Result<Section<'a>, Fault>> {
        let after = self.next_begin()?;
        let section = self.section(after);
        if section.is_err() {
            self.rest = &[];
        }
        Some(section)
    }
}

/// The rest of a marker, and the text after it.
fn label(after: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let (label, rest) = split(after, DASHES).ok_or(Fault::BadMarker)?;
    let fits = |b: &u8| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b' ';
    if label.iter().all(fits) { Ok((label, rest)) } else { Err(Fault::BadMarker) }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

fn split<'a>(text: &'a [u8], by: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (before, rest) = text.split_at_checked(find(text, by)?)?;
    Some((before, rest.strip_prefix(by)?))
}

/// The text before and after the first line ending, which may be a real one or the characters `\n`.
fn line_end(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().enumerate().position(|(at, byte)| match byte {
        b'\n' | b'\r' => true,
        b'\\' => text.get(at.saturating_add(1)).is_some_and(|next| b"nr".contains(next)),
        _ => false,
    })?;
    let (before, rest) = text.split_at_checked(at)?;
    let width = if rest.first() == Some(&b'\\') { 2 } else { 1 };
    Some((before, rest.split_at_checked(width)?.1))
}

/// None if it has a backslash that stands for no line end.
fn without_line_ends(body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(body.len());
    let mut bytes = body.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b'\\' {
            // It may have been escaped several times, or stand before a real line ending.
            while bytes.next_if_eq(&b'\\').is_some() {}
            bytes.next_if(|next| b"nr\n\r".contains(next))?;
        } else if !byte.is_ascii_whitespace() {
            out.push(byte);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests;
