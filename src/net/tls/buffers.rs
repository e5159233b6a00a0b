//! What an engine of a TLS session works on: the session's buffers, and what it has to send.
//!
//! A buffer that is new for each read or write would be zeroed each time, 17 or 33 KiB for a request of a hundred bytes. So
//! each thread keeps one of both, and sessions take turns.

use std::cell::Cell;
use std::io::{self, Read};

/// What to send after everything that has arrived was processed.
pub(super) enum Say<'a> {
    Nothing,
    Data(&'a [u8]),
    End,
}

/// The buffers for one pass over the received bytes, and what the pass has found.
pub(super) struct Pass<'a> {
    pub(super) incoming: &'a mut [u8],
    /// How many bytes of `incoming` were processed.
    pub(super) used: usize,
    pub(super) plain: Plaintext<'a>,
    /// Encrypted bytes are appended here.
    pub(super) outgoing: &'a mut Vec<u8>,
    /// The handshake is complete.
    pub(super) open: bool,
    /// The client has said close_notify.
    pub(super) ended: bool,
    /// How many of the processed records had no data, where `rustls` has processed them.
    pub(super) without_data: usize,
}

/// How many whole records these bytes start with.
pub(super) fn whole_records(mut bytes: &[u8]) -> usize {
    let mut count: usize = 0;
    while let Some(([.., high, low], rest)) = bytes.split_first_chunk::<5>() {
        let Some(after) = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) else { break };
        (count, bytes) = (count.saturating_add(1), after);
    }
    count
}

/// Where decrypted bytes go.
pub(super) struct Plaintext<'a> {
    /// The buffer of the reader.
    room: &'a mut [u8],
    /// How many bytes of it are filled.
    pub(super) filled: usize,
    /// What does not fit.
    rest: &'a mut Vec<u8>,
}

impl<'a> Plaintext<'a> {
    pub(super) fn new(room: &'a mut [u8], rest: &'a mut Vec<u8>) -> Plaintext<'a> {
        Plaintext { room, filled: 0, rest }
    }

    pub(super) fn take(&mut self, mut content: &[u8]) {
        // Reading from a slice fills the room there is.
        let n = content.read(self.room.get_mut(self.filled..).unwrap_or_default()).unwrap_or(0);
        self.filled = self.filled.saturating_add(n);
        self.rest.extend_from_slice(content);
    }
}

thread_local! {
    static ROOM_TO_READ: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What is not longer is zeroed: a buffer that it would shorten is needed for long ones.
const SMALL: usize = 4 << 10;
/// A longer buffer is not kept.
const SPARE_MAX: usize = 64 << 10;

/// Reads up to `most` bytes once, and appends them.
pub(super) fn read_once(socket: &mut impl Read, most: usize, into: &mut Vec<u8>) -> io::Result<usize> {
    let mut room = ROOM_TO_READ.take();
    if room.len() < most {
        room.resize(most, 0);
    }
    let read = socket.read(room.get_mut(..most).unwrap_or_default());
    if let Ok(n) = read {
        into.extend_from_slice(room.get(..n).unwrap_or_default());
    }
    ROOM_TO_READ.set(room);
    read
}

/// Appends what `f` writes into so much room, at the end of `out`.
pub(super) fn append<E>(
    out: &mut Vec<u8>,
    room: usize,
    f: impl FnOnce(&mut [u8]) -> Result<usize, E>,
) -> Result<(), E> {
    let old = out.len();
    if old == 0 && room > SMALL {
        // Its content is overwritten, and only what it is too short by is zeroed.
        *out = SPARE.take();
    }
    out.resize(old.saturating_add(room), 0);
    let outcome = f(out.get_mut(old..).unwrap_or_default());
    out.truncate(old.saturating_add(outcome.as_ref().map_or(0, |n| *n)));
    outcome.map(|_| ())
}

/// An empty buffer for ciphertext.
pub(super) fn spare() -> Vec<u8> {
    let mut spare = SPARE.take();
    spare.clear();
    spare
}

/// Keeps the memory of ciphertext that was sent, if it is the longest so far.
pub(super) fn recycle(out: Vec<u8>) {
    if out.capacity() <= SPARE_MAX {
        let kept = SPARE.take();
        SPARE.set(if out.capacity() >= kept.capacity() { out } else { kept });
    }
}
