//! The header of the PROXY protocol, version 1 and 2, by which a proxy in TCP mode names its client before the client's
//! first byte. The specification is HAProxy's `proxy-protocol.txt`.
//!
//! There is no dependency for it. The crate `ppp` 2.3 calls a header malformed that ends after its third space, which a
//! client's second segment may complete, takes `+80` for a port, and needs `syn` for its error type.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header that is read, and so how much of a connection has to be looked at. Version 1 has at most 107 bytes. Of
/// version 2, addresses and TLS parameters have less than 1 KiB.
pub(crate) const MOST_BYTES: usize = 4096;
const MOST_BYTES_V1: usize = 107;

const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The parameters of the client's TLS, and its bit for TLS at all.
const TYPE_TLS: u8 = 0x20;
const CLIENT_TLS: u8 = 0x01;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderParse {
    /// The start of a header.
    Partial,
    /// A header of so many bytes.
    Whole(usize, NamedClient),
}

/// Whom a header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NamedClient {
    /// The proxy itself, as for a health check.
    Itself,
    Client {
        /// None where the proxy does not know it, or it has none.
        address: Option<SocketAddr>,
        is_encrypted: bool,
    },
}

const UNKNOWN: NamedClient = NamedClient::Client { address: None, is_encrypted: false };

/// # Errors
/// What is wrong.
pub(crate) fn parse(bytes: &[u8]) -> Result<HeaderParse, &'static str> {
    if starts_as(bytes, SIGNATURE_V2) {
        parse_v2(bytes)
    } else if starts_as(bytes, SIGNATURE_V1) {
        parse_v1(bytes)
    } else {
        Err("no PROXY header")
    }
}

fn starts_as(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(a, b)| a == b)
}

fn parse_v1(bytes: &[u8]) -> Result<HeaderParse, &'static str> {
    let most = bytes.get(..MOST_BYTES_V1).unwrap_or(bytes);
    let Some(end) = most.iter().position(|&b| b == b'\n') else {
        if most.len() == MOST_BYTES_V1 {
            return Err("a PROXY header without an end");
        }
        let text = most.strip_suffix(b"\r").unwrap_or(most);
        return if text.iter().all(is_text) { Ok(HeaderParse::Partial) } else { Err(MALFORMED) };
    };
    let line = most.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(MALFORMED)?;
    let text = std::str::from_utf8(line).ok().filter(|_| line.iter().all(is_text)).ok_or(MALFORMED)?;
    let named = named_by_line(text).ok_or(MALFORMED)?;
    Ok(HeaderParse::Whole(end.saturating_add(1), named))
}

const MALFORMED: &str = "a malformed PROXY header";

fn is_text(b: &u8) -> bool {
    matches!(b, b' '..=b'~')
}

fn named_by_line(line: &str) -> Option<NamedClient> {
    let mut words = line.split(' ');
    words.next().filter(|word| *word == "PROXY")?;
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(UNKNOWN);
    }
    let [source, destination, source_port, destination_port] =
        [words.next()?, words.next()?, words.next()?, words.next()?];
    if words.next().is_some() {
        return None;
    }
    let parse_ip = |text: &str| match family {
        "TCP4" => text.parse().map(IpAddr::V4).ok(),
        "TCP6" => text.parse().map(IpAddr::V6).ok(),
        _ => None,
    };
    parse_ip(destination)?;
    parse_port(destination_port)?;
    let address = SocketAddr::new(parse_ip(source)?, parse_port(source_port)?);
    Some(NamedClient::Client { address: Some(address), is_encrypted: false })
}

/// Digits, and no leading zeros.
fn parse_port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

fn parse_v2(bytes: &[u8]) -> Result<HeaderParse, &'static str> {
    let Some((fixed, rest)) = bytes.split_at_checked(16) else { return Ok(HeaderParse::Partial) };
    let &[.., command, family, high, low] = fixed else { return Ok(HeaderParse::Partial) };
    let len = usize::from(u16::from_be_bytes([high, low]));
    let whole = fixed.len().saturating_add(len);
    if whole > MOST_BYTES {
        return Err("a PROXY header that is too long");
    }
    // Checked before the rest has come, which need not come otherwise.
    let (is_local, addresses) = match (command, family) {
        (0x20, _) => (true, 0),
        (0x21, 0x00) => (false, 0),
        (0x21, 0x11) => (false, 12),
        (0x21, 0x21) => (false, 36),
        (0x21, 0x31) => (false, 216),
        (0x21, 0x12 | 0x22 | 0x32) => return Err("a PROXY header for datagrams"),
        _ => return Err(MALFORMED),
    };
    if len < addresses {
        return Err(MALFORMED);
    }
    let Some(rest) = rest.get(..len) else { return Ok(HeaderParse::Partial) };
    if is_local {
        return Ok(HeaderParse::Whole(whole, NamedClient::Itself));
    }
    let (addresses, types) = rest.split_at_checked(addresses).ok_or(MALFORMED)?;
    let is_encrypted = says_tls(types)?;
    Ok(HeaderParse::Whole(whole, NamedClient::Client { address: source(addresses), is_encrypted }))
}

/// The client's address: addresses of source and destination, then their ports. None for a unix socket and no family.
fn source(addresses: &[u8]) -> Option<SocketAddr> {
    let port = |at: usize| Some(u16::from_be_bytes(*addresses.get(at..)?.first_chunk()?));
    match addresses.len() {
        12 => Some(SocketAddr::new(Ipv4Addr::from(*addresses.first_chunk::<4>()?).into(), port(8)?)),
        36 => Some(SocketAddr::new(Ipv6Addr::from(*addresses.first_chunk::<16>()?).into(), port(32)?)),
        _ => None,
    }
}

/// Whether the types and values say that the client speaks TLS to the proxy.
fn says_tls(mut types: &[u8]) -> Result<bool, &'static str> {
    let mut is_encrypted = false;
    while let Some((&kind, rest)) = types.split_first() {
        let (len, rest) = rest.split_first_chunk().ok_or(MALFORMED)?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len))).ok_or(MALFORMED)?;
        if kind == TYPE_TLS {
            is_encrypted = value.first().is_some_and(|flags| flags & CLIENT_TLS != 0);
        }
        types = rest;
    }
    Ok(is_encrypted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::property::{BYTES, CASES, bytes, check};

    fn client(address: &str) -> NamedClient {
        NamedClient::Client { address: Some(address.parse().unwrap()), is_encrypted: false }
    }

    #[test]
    fn version_1() {
        let table: [(&str, Option<NamedClient>); 30] = [
            ("PROXY TCP4 203.0.113.7 10.0.0.5 4711 443\r\n", Some(client("203.0.113.7:4711"))),
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
                Some(client("255.255.255.255:65535")),
            ),
            ("PROXY TCP6 2001:db8::1 fd00::5 0 1\r\n", Some(client("[2001:db8::1]:0"))),
            ("PROXY UNKNOWN\r\n", Some(UNKNOWN)),
            ("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", Some(UNKNOWN)),
            ("PROXY UNKNOWN anything at all\r\n", Some(UNKNOWN)),
            ("PROXY\r\n", None),
            ("PROXY \r\n", None),
            ("PROXY TCP4\r\n", None),
            ("PROXY UNKNOWNS\r\n", None),
            ("PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n", None),
            ("PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n", None),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", None),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n", None),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", None),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n", None),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n", None),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", None),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 -1\r\n", None),
            ("PROXY TCP4 1.2.3.4 1.2.3 1 1\r\n", None),
            ("PROXY TCP4 01.2.3.4 1.2.3.4 1 1\r\n", None),
            ("PROXY TCP4 ::1 ::1 1 1\r\n", None),
            ("PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n", None),
            ("PROXY TCP6 [::1] [::1] 1 1\r\n", None),
            ("PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", None),
            ("PROXY tcp4 1.2.3.4 1.2.3.4 1 1\r\n", None),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n", None),
            ("PROXY TCP4 1.2.3.4\r1.2.3.4 1 1\r\n", None),
            ("proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n", None),
            ("GET / HTTP/1.1\r\n", None),
        ];
        for (text, expected) in table {
            let whole = expected.map(|named| HeaderParse::Whole(text.len(), named));
            assert_eq!(parse(text.as_bytes()).ok(), whole, "{text:?}");
            let more = format!("{text}GET / HTTP/1.1\r\n");
            assert_eq!(parse(more.as_bytes()).ok(), whole, "{text:?}, and a request");
            if whole.is_some() {
                for n in 0..text.len() {
                    assert_eq!(parse(&text.as_bytes()[..n]), Ok(HeaderParse::Partial), "{:?}", &text[..n]);
                }
            }
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        assert_eq!(long.len(), MOST_BYTES_V1);
        assert_eq!(parse(long.as_bytes()), Ok(HeaderParse::Whole(MOST_BYTES_V1, UNKNOWN)));
        let longer = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        assert_eq!(parse(longer.as_bytes()), Err("a PROXY header without an end"));
        assert_eq!(parse(b"PROXY TCP4 \x00"), Err(MALFORMED), "at once");
    }

    /// A header of version 2.
    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE_V2, &[command, family], &len, rest].concat()
    }

    const V4: [u8; 12] = [203, 0, 113, 7, 10, 0, 0, 5, 0x12, 0x67, 1, 187];

    fn with_type(kind: u8, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(value.len()).unwrap().to_be_bytes();
        [&V4, &[kind][..], &len, value].concat()
    }

    #[test]
    fn version_2() {
        let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 16], &[0, 80, 1, 187]].concat();
        let v4 = client("203.0.113.7:4711");
        let encrypted =
            NamedClient::Client { address: Some("203.0.113.7:4711".parse().unwrap()), is_encrypted: true };
        let table: Vec<(&str, Vec<u8>, Option<NamedClient>)> = vec![
            ("TCP over IPv4", header(0x21, 0x11, &V4), Some(v4)),
            ("TCP over IPv6", header(0x21, 0x21, &v6), Some(client("[2001:db8::1]:80"))),
            ("a unix socket", header(0x21, 0x31, &[b'x'; 216]), Some(UNKNOWN)),
            ("no family", header(0x21, 0x00, b""), Some(UNKNOWN)),
            ("no family, with types", header(0x21, 0x00, &[4, 0, 1, 0]), Some(UNKNOWN)),
            ("local", header(0x20, 0x00, b""), Some(NamedClient::Itself)),
            ("local, with addresses", header(0x20, 0x11, &V4), Some(NamedClient::Itself)),
            ("local, with anything", header(0x20, 0xff, &[9; 99]), Some(NamedClient::Itself)),
            ("a type that is not read", header(0x21, 0x11, &with_type(2, b"a.example")), Some(v4)),
            ("TLS", header(0x21, 0x11, &with_type(TYPE_TLS, &[7, 0, 0, 0, 0, 0x21, 0, 0])), Some(encrypted)),
            ("a client without TLS", header(0x21, 0x11, &with_type(TYPE_TLS, &[0, 0, 0, 0, 0])), Some(v4)),
            ("an empty type", header(0x21, 0x11, &with_type(TYPE_TLS, &[])), Some(v4)),
            ("the longest", header(0x21, 0x11, &with_type(4, &[0; MOST_BYTES - 16 - 12 - 3])), Some(v4)),
            ("a longer one", header(0x21, 0x11, &with_type(4, &[0; MOST_BYTES - 16 - 12 - 2])), None),
            ("version 1 in binary", header(0x11, 0x11, &V4), None),
            ("version 3", header(0x31, 0x11, &V4), None),
            ("another command", header(0x22, 0x11, &V4), None),
            ("another family", header(0x21, 0x41, &V4), None),
            ("another transport", header(0x21, 0x13, &V4), None),
            ("datagrams", header(0x21, 0x12, &V4), None),
            ("too short for IPv4", header(0x21, 0x11, &V4[..11]), None),
            ("too short for IPv6", header(0x21, 0x21, &v6[..35]), None),
            ("too short for unix", header(0x21, 0x31, &[0; 215]), None),
            ("a type beyond the end", header(0x21, 0x11, &[&V4[..], &[4, 0, 2, 0]].concat()), None),
            ("a type without a length", header(0x21, 0x11, &[&V4[..], &[4, 0]].concat()), None),
        ];
        for (what, bytes, expected) in table {
            let whole = expected.map(|named| HeaderParse::Whole(bytes.len(), named));
            assert_eq!(parse(&bytes).ok(), whole, "{what}");
            assert_eq!(parse(&[&bytes[..], b"GET /"].concat()).ok(), whole, "{what}, and a request");
            if whole.is_some() {
                for n in 0..bytes.len() {
                    assert_eq!(parse(&bytes[..n]), Ok(HeaderParse::Partial), "{what}: {n}");
                }
            }
        }
    }

    #[test]
    fn where_a_header_ends_depends_on_nothing_that_follows() {
        const TCP4: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.5 4711 443\r\n";
        let with_types = header(0x21, 0x11, &with_type(TYPE_TLS, &[1, 0, 0, 0, 0]));
        check(CASES, BYTES, |u| {
            // A header, or its start, with at most two bytes changed; then anything.
            let start = *u.choose(&[&b""[..], SIGNATURE_V1, SIGNATURE_V2, TCP4, &with_types[..]])?;
            let mut all = start[..u.int_in_range(0..=start.len())?].to_vec();
            for _ in 0..u.int_in_range(0..=2)? {
                let at = u.int_in_range(0..=start.len())?;
                if let Some(byte) = all.get_mut(at) {
                    *byte = u.arbitrary()?;
                }
            }
            all.extend(bytes(u, 0..=300)?);
            crate::fuzzing::proxy_header(&all);
            Ok(())
        });
    }
}
