//! All that a TLS session is, as plain data: what a handover carries, and its encoding.
//!
//! ```text
//! format 1   suite 2   resumed 1   tx secret, rx secret: number 8, length 1, bytes   server name, ALPN: length 1, bytes
//! certificates: count 1, each length 3, bytes   incoming: length 4, bytes   plain: length 4, bytes
//! ```
//!
//! Numbers are big-endian; an absent server name or ALPN is empty. A decoder refuses another format, a suite or a flag that it
//! does not know, a length that is above its bound, and bytes that are left: so each encoding that decodes encodes to the
//! same bytes. It holds keys: it is wiped when it is dropped.

use rustls::CipherSuite;
use zeroize::Zeroizing;

use super::key::{CONTENT_MAX, HEADER, Material, RecordKey};
use super::suite::Suite;
use super::{Parts, Records};

const FORMAT: u8 = 1;
/// Of all certificates together. A longer chain stays with its process.
const CERTIFICATES_MAX: usize = 16 << 10;
/// Part of a record: no whole one stays undecrypted.
const INCOMING_MAX: usize = HEADER + CONTENT_MAX + 2_048;
/// What was decrypted and not read. A connection is parked when it has been read.
const PLAIN_MAX: usize = 64 << 10;

/// What the handshake has shown of the client.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct ClientIdentity {
    /// The name that the client has requested.
    pub(crate) server_name: Option<Box<str>>,
    pub(crate) alpn: Option<Box<[u8]>>,
    /// Its chain, as DER.
    pub(crate) certificates: Vec<Vec<u8>>,
}

/// A session without its process. It has no `Clone` and no `Debug`: its owner alone may continue the connection.
pub(crate) struct Carried {
    pub(in crate::net::tls) parts: Parts,
    pub(in crate::net::tls) client: ClientIdentity,
    /// The handshake has resumed an earlier session.
    pub(in crate::net::tls) is_resumed: bool,
    /// Bytes that are no whole record yet.
    pub(in crate::net::tls) incoming: Zeroizing<Vec<u8>>,
    /// Bytes that were decrypted and not read yet.
    pub(in crate::net::tls) plain: Zeroizing<Vec<u8>>,
}

impl Carried {
    /// Whether it is within the bounds of its encoding.
    pub(in crate::net::tls) fn fits(client: &ClientIdentity, incoming: &[u8], plain: &[u8]) -> bool {
        let name = client.server_name.as_deref().map_or(1, str::len);
        let alpn = client.alpn.as_deref().map_or(1, <[u8]>::len);
        (1..=255).contains(&name)
            && (1..=255).contains(&alpn)
            && client.certificates.len() <= 255
            && client.certificates.iter().map(Vec::len).sum::<usize>() <= CERTIFICATES_MAX
            && incoming.len() <= INCOMING_MAX
            && plain.len() <= PLAIN_MAX
    }

    /// The bytes for another process, which are wiped when they are dropped.
    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let Carried { parts, client, is_resumed, incoming, plain } = self;
        let name = client.server_name.as_deref().unwrap_or_default();
        let alpn = client.alpn.as_deref().unwrap_or_default();
        // It must not grow, which would leave a copy of the keys behind.
        let certificates = client.certificates.iter().map(|der| der.len().saturating_add(3)).sum();
        let keys = [&parts.tx, &parts.rx].iter().map(|(material, _)| material.len().saturating_add(9)).sum();
        let fixed = 4 + 1 + 1 + 1 + 4 + 4;
        let room =
            [fixed, keys, name.len(), alpn.len(), certificates, incoming.len(), plain.len()].iter().sum();
        let mut out = Zeroizing::new(Vec::with_capacity(room));
        out.push(FORMAT);
        out.extend_from_slice(&u16::from(parts.suite.id).to_be_bytes());
        out.push(u8::from(*is_resumed));
        for (material, seq) in [&parts.tx, &parts.rx] {
            out.extend_from_slice(&seq.to_be_bytes());
            put(&mut out, 1, material);
        }
        put(&mut out, 1, name.as_bytes());
        put(&mut out, 1, alpn);
        out.push(u8::try_from(client.certificates.len()).unwrap_or(u8::MAX));
        for der in &client.certificates {
            put(&mut out, 3, der);
        }
        put(&mut out, 4, incoming);
        put(&mut out, 4, plain);
        out
    }

    /// None for what no `encode` has made.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Carried> {
        let mut rest = bytes;
        let [FORMAT, high, low, is_resumed @ (0 | 1)] = *take_array(&mut rest)? else { return None };
        let suite = Suite::of(CipherSuite::from(u16::from_be_bytes([high, low])))?;
        let mut key = || -> Option<(Material, u64)> {
            let seq = u64::from_be_bytes(*take_array(&mut rest)?);
            let material = Zeroizing::new(take(&mut rest, 1, 64)?.to_vec());
            (material.len() == RecordKey::material_bytes(&suite)).then_some((material, seq))
        };
        let (tx, rx) = (key()?, key()?);
        let name = std::str::from_utf8(take(&mut rest, 1, 255)?).ok()?;
        let alpn = take(&mut rest, 1, 255)?;
        let [count] = *take_array(&mut rest)?;
        let mut certificates = Vec::new();
        let mut room = CERTIFICATES_MAX;
        for _ in 0..count {
            let der = take(&mut rest, 3, room)?;
            room = room.checked_sub(der.len())?;
            certificates.push(der.to_vec());
        }
        let incoming = Zeroizing::new(take(&mut rest, 4, INCOMING_MAX)?.to_vec());
        let plain = Zeroizing::new(take(&mut rest, 4, PLAIN_MAX)?.to_vec());
        let client = ClientIdentity {
            server_name: Some(name).filter(|name| !name.is_empty()).map(Box::from),
            alpn: Some(alpn).filter(|alpn| !alpn.is_empty()).map(Box::from),
            certificates,
        };
        let parts = Parts { suite, tx, rx };
        let carried = Carried { parts, client, is_resumed: is_resumed == 1, incoming, plain };
        rest.is_empty().then_some(carried)
    }

    /// The records and the rest, for the session that continues. None if its keys may encrypt nothing more.
    pub(in crate::net::tls) fn into_records(self) -> Option<(Records, ClientIdentity, Vec<u8>, Vec<u8>)> {
        let Carried { parts, client, mut incoming, mut plain, .. } = self;
        Some((Records::new(parts)?, client, std::mem::take(&mut *incoming), std::mem::take(&mut *plain)))
    }
}

/// A length of so many bytes, and the bytes.
fn put(out: &mut Vec<u8>, width: usize, bytes: &[u8]) {
    let len = bytes.len().to_be_bytes();
    out.extend_from_slice(len.get(len.len().saturating_sub(width)..).unwrap_or_default());
    out.extend_from_slice(bytes);
}

fn take<'a>(rest: &mut &'a [u8], width: usize, most: usize) -> Option<&'a [u8]> {
    let (len, after) = rest.split_at_checked(width)?;
    let len = len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
    let (bytes, after) = after.split_at_checked(len)?;
    *rest = after;
    (len <= most).then_some(bytes)
}

fn take_array<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (array, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(array)
}
