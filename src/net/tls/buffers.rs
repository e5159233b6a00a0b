//! What an engine of a TLS session works on: the session's buffers, and what it has to send.

use std::io::Read;

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
