//! The request target, and the hosts that it and the `Host` field name.

use std::net::Ipv6Addr;

use bytes::Bytes;
use http::{Method, Uri};

use super::framing::content_length;
use super::head::Refusal;
use crate::base::percent::{is_name_byte, is_well_formed};

pub(super) const BAD_TARGET: Refusal = Refusal::bad("malformed request target");

/// Accepts the four forms of RFC 9112 §3.2, each only with the methods that may use it.
// Many requests have no need of it: inlined, it would keep the compiler from inlining the steps of every head.
#[inline(never)]
pub(super) fn parse_target(method: &Method, target: Bytes) -> Result<Uri, Refusal> {
    let (is_path, is_asterisk, len) = (target.starts_with(b"/"), *target == *b"*", target.len());
    // No form has a fragment, and `Uri` drops it: of a path, which most targets are, the length shows that.
    if !is_path && target.contains(&b'#') {
        return Err(BAD_TARGET);
    }
    let uri = Uri::from_maybe_shared(target).map_err(|_| BAD_TARGET)?;
    let fits = if is_path {
        *method != Method::CONNECT && uri.path_and_query().is_some_and(|whole| whole.as_str().len() == len)
    } else if is_asterisk {
        *method == Method::OPTIONS
    } else {
        // RFC 9110 §4.2.1 and §4.2.4: a host, and no userinfo.
        let names_host = uri.authority().is_some_and(|authority| is_host(authority.as_str().as_bytes()));
        names_host
            && match *method {
                // RFC 9110 §9.3.6: the port must be there.
                Method::CONNECT => {
                    uri.scheme().is_none() && uri.path_and_query().is_none() && uri.port_u16().is_some()
                }
                _ => matches!(uri.scheme_str(), Some("http" | "https")),
            }
    };
    // A path must decode in one way only. A query may hold a `%`, as in "100%".
    if fits && is_well_formed(uri.path().as_bytes()) { Ok(uri) } else { Err(BAD_TARGET) }
}

/// `uri-host [ ":" port ]` (RFC 9110 §7.2) with a host of at least one byte.
pub(super) fn is_host(value: &[u8]) -> bool {
    let plain_len = value.iter().position(|&byte| !is_name_byte(byte)).unwrap_or(value.len());
    let host_len = match (value.first(), value.get(plain_len)) {
        (Some(b'['), _) => value.iter().position(|&b| b == b']').map_or(0, |at| at.saturating_add(1)),
        (_, None | Some(b':')) => plain_len,
        _ => value.iter().position(|&b| b == b':').unwrap_or(value.len()),
    };
    let Some((host, after)) = value.split_at_checked(host_len) else { return false };
    let host_fits = match host {
        [] => false,
        [b'[', literal @ .., b']'] => is_ip_literal(literal),
        // Nearly every host is one of these.
        _ if host_len == plain_len => true,
        name => name.iter().all(|&byte| byte == b'%' || is_name_byte(byte)) && is_well_formed(name),
    };
    host_fits && (after.is_empty() || after.strip_prefix(b":").is_some_and(is_port))
}

/// `*DIGIT` (RFC 3986 §3.2.3) that a port can be.
fn is_port(port: &[u8]) -> bool {
    port.is_empty() || content_length(port).is_some_and(|number| number <= u64::from(u16::MAX))
}

/// RFC 3986 §3.2.2, without zone identifiers: they mean nothing on another machine.
fn is_ip_literal(literal: &[u8]) -> bool {
    if let [b'v' | b'V', future @ ..] = literal {
        let mut halves = future.splitn(2, |&b| b == b'.');
        let (version, address) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        return !version.is_empty()
            && version.iter().all(u8::is_ascii_hexdigit)
            && !address.is_empty()
            && address.iter().all(|&b| b == b':' || is_name_byte(b));
    }
    std::str::from_utf8(literal).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}
