//! For `fuzz/` and the property tests only: what a peer may send, decoded. Whatever decodes must
//! encode to something that decodes to the same, and where input is split must not matter.

mod exchange;
mod http1;
#[cfg(test)]
mod tests;

pub use exchange::exchange;
pub use http1::{body, head};

use crate::process::handover::Message;
use crate::process::handover::parcel::{Parcel, Receipt};

/// A line of the lifecycle channel.
pub fn message(line: &[u8]) {
    // The channel cuts lines at their ends, and skips what is no text.
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
pub fn parcel(packet: &[u8]) {
    let batch = Parcel::batch_of(packet);
    if let Some(parcel) = Parcel::decode(packet) {
        if let Parcel::Connections { batch: n, .. } | Parcel::Channel { batch: n, .. } = &parcel {
            assert_eq!(batch, Some(*n), "it can't be refused by its number");
        }
        let again = parcel.encode();
        assert_eq!(Parcel::decode(&again), Some(parcel), "by way of {again:?}");
    }
}

/// A packet of the connection channel, from a successor.
pub fn receipt(packet: &[u8]) {
    if let Some(receipt) = Receipt::decode(packet) {
        let again = receipt.encode();
        assert_eq!(Receipt::decode(&again), Some(receipt), "by way of {again:?}");
    }
}
