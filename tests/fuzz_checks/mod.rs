//! For `fuzz/` and the property tests only: decodes the bytes of a peer. A value that was decoded must encode to bytes that
//! decode to the same value, and the places where input is split must not matter.
//!
//! These files are here because `fuzz/` is a package of its own, of which the library's package contains nothing.

mod exchange;
mod http1;
#[cfg(test)]
mod tests;

pub use exchange::exchange;
pub use http1::{body, head};

use crate::net::transfer::packet::{Packet, Receipt};
use crate::process::handover::Message;

/// A line of the lifecycle channel.
pub fn message(line: &[u8]) {
    // The channel splits lines, and skips lines that are not UTF-8.
    let Ok(line) = std::str::from_utf8(line) else { return };
    for line in line.lines() {
        if let Some(message) = Message::decode(line) {
            let again = message.encode();
            assert!(!again.contains('\n'), "{again:?} is more than a line");
            assert_eq!(Message::decode(&again), Some(message), "by way of {again:?}");
        }
    }
}

/// A packet of the connection channel, from a predecessor.
pub fn packet(packet: &[u8]) {
    let batch = Packet::batch_of(packet);
    if let Some(decoded) = Packet::decode(packet) {
        if let Packet::Connections { batch: n, .. } | Packet::Channel { batch: n, .. } = &decoded {
            assert_eq!(batch, Some(*n), "it can't be refused by its number");
        }
        let again = decoded.encode();
        assert_eq!(Packet::decode(&again), Some(decoded), "by way of {again:?}");
    }
}

/// A packet of the connection channel with a stream, from a predecessor, and what was agreed with the client.
pub fn stream(packet: &[u8]) {
    crate::net::transfer::check_stream_packet(packet);
    #[cfg(feature = "websocket")]
    crate::websocket::check_details(&String::from_utf8_lossy(packet));
}

/// The first bytes of a connection from a proxy. The end of a header does not depend on what follows it, and none of its
/// prefixes is a whole one, or wrong.
#[cfg(feature = "proxy")]
pub fn proxy_header(bytes: &[u8]) {
    use crate::net::proxy_header::{HeaderParse, MOST_BYTES, parse};
    let whole = parse(bytes);
    let end = match whole {
        Ok(HeaderParse::Whole(len, _)) => {
            assert!(len <= bytes.len().min(MOST_BYTES), "{len} of {} bytes", bytes.len());
            len
        }
        Ok(HeaderParse::Partial) => {
            assert!(bytes.len() < MOST_BYTES, "it waits for more than is ever looked at");
            bytes.len()
        }
        Err(_) => return,
    };
    for n in 0..end {
        assert_eq!(parse(&bytes[..n]), Ok(HeaderParse::Partial), "the first {n} bytes");
    }
    if let Ok(HeaderParse::Whole(..)) = whole {
        assert_eq!(parse(&bytes[..end]), whole, "without what follows");
        assert_eq!(parse(&[&bytes[..end], b"\0\r\n"].concat()), whole, "with something else");
    }
}

/// A packet of the connection channel, from a successor.
pub fn receipt(packet: &[u8]) {
    if let Some(receipt) = Receipt::decode(packet) {
        let again = receipt.encode(Receipt::says_tls(packet));
        assert_eq!(Receipt::decode(&again), Some(receipt), "by way of {again:?}");
    }
}

/// A TLS session, from another process.
#[cfg(feature = "tls")]
pub fn tls_session(bytes: &[u8]) {
    crate::net::tls::checks::carried(bytes);
}

/// Records of a TLS client, some of them malformed.
#[cfg(feature = "tls")]
pub fn tls_records(bytes: &[u8]) {
    crate::net::tls::checks::records(bytes);
}
