//! Requests that a handover divides: one part arrives before it and the other after it, cut between two records of TLS or at any
//! byte of one; and KeyUpdates before, at and after the connection moves.

use std::time::Duration;

use super::asking::{between, mix};
use super::client::Client;
use super::link::Link;

/// A process starts, commits, and takes the connections of its predecessor in about this time.
const HANDOVER: [Duration; 2] = [Duration::ZERO, Duration::from_millis(150)];

impl Client {
    /// Sends a request, a part of it before a signal.
    pub(crate) fn send_halves(&self, link: &mut Link, bytes: &[u8]) {
        let (first, second) = bytes.split_at(within(bytes, self.turn()));
        let (first, second) = match mix(self.turn()) % 3 {
            // As two records.
            0 => (link.seal(first), link.seal(second)),
            _ => {
                let mut record = link.seal(bytes);
                let rest = record.split_off(within(&record, self.turn()));
                (record, rest)
            }
        };
        link.send_sealed([&first, &second], || self.over_a_signal());
    }

    /// Sends a request and KeyUpdates.
    pub(crate) fn send_with_key_updates(&self, link: &mut Link, bytes: &[u8]) {
        let (turn, cut) = (self.turn(), within(bytes, self.turn()));
        let (first, second) = match mix(turn) % 6 {
            // Before the request.
            0 => ([self.key_update(link), link.seal(bytes)].concat(), Vec::new()),
            // Before the move, which takes place while the connection is idle, and after it.
            1 => (self.key_update(link), [self.key_update(link), link.seal(bytes)].concat()),
            // At the move: the pause before it has no other purpose.
            2 => {
                link.send_sealed([&[], &[]], || self.over_a_signal());
                (self.key_update(link), link.seal(bytes))
            }
            // Between the parts of a request, before the move or after it.
            3 => ([link.seal(&bytes[..cut]), self.key_update(link)].concat(), link.seal(&bytes[cut..])),
            4 => (link.seal(&bytes[..cut]), [self.key_update(link), link.seal(&bytes[cut..])].concat()),
            // A part of it before the move.
            _ => {
                let mut update = self.key_update(link);
                let rest = update.split_off(within(&update, turn));
                (update, [rest, link.seal(bytes)].concat())
            }
        };
        link.send_sealed([&first, &second], || match mix(turn) % 6 {
            0 => {}
            2 => self.halt.pause(between(HANDOVER, turn)),
            _ => self.over_a_signal(),
        });
    }

    fn key_update(&self, link: &mut Link) -> Vec<u8> {
        self.tally().key_updates += 1;
        link.seal_key_update()
    }

    /// Waits for a signal, and for a while after it, so that the handover is at any of its steps.
    fn over_a_signal(&self) {
        if self.clock.next_signal(self.pauses.signal) {
            self.tally().divided += 1;
            self.halt.pause(between(HANDOVER, self.turn()));
        }
    }
}

/// A place in the bytes, neither at their beginning nor at their end.
fn within(bytes: &[u8], turn: u64) -> usize {
    match bytes.len() {
        0 | 1 => 0,
        length => 1 + usize::try_from(mix(turn) >> 8).unwrap_or(usize::MAX) % (length - 1),
    }
}
