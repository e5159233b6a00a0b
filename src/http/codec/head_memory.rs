//! The memory of heads, and what a worker's next head has in common with the one before.

use bytes::{Bytes, BytesMut};

use super::known_fields::KnownFields;
use super::tokens::Tokens;

/// The memory of heads. A worker's next head takes the place of the one before, unless something of that is kept: a head
/// that is kept keeps its memory, and the next one gets its own.
#[derive(Default)]
pub(crate) struct HeadMemory {
    /// The last head, whose exchange is over.
    text: Bytes,
    /// Heads of which something was kept when the next one came: what the entries of an access log keep is
    /// free again when the responses are sent.
    kept: Vec<Bytes>,
    /// The oldest of these, once they are as many as there may be.
    oldest: usize,
    pub(super) tokens: Tokens,
    pub(super) fields: KnownFields,
}

impl HeadMemory {
    /// Longer heads are rare, and have memory of their own: a handler that keeps a field keeps all of this.
    const MOST: usize = 2 << 10;
    /// How many heads of which something is kept are remembered.
    pub(super) const MOST_KEPT: usize = 32;

    /// Copies the text of a head.
    #[inline(always)]
    pub(super) fn copy(&mut self, text: &[u8]) -> Bytes {
        if text.len() > HeadMemory::MOST {
            return Bytes::copy_from_slice(text);
        }
        // Split, it counts its handles from the start, and need not be converted for each head.
        let new = || BytesMut::with_capacity(text.len()).split_off(0);
        let mut copy = match std::mem::take(&mut self.text).try_into_mut() {
            Ok(last) => last,
            Err(none) if none.is_empty() => new(),
            Err(last) => self.oldest_free(last).unwrap_or_else(new),
        };
        copy.clear();
        copy.extend_from_slice(text);
        copy.freeze()
    }

    /// Keeps a head of which something is kept. Gives the memory of the oldest one, or a copy if something of that is still kept.
    #[inline(never)]
    fn oldest_free(&mut self, last: Bytes) -> Option<BytesMut> {
        if self.kept.len() < HeadMemory::MOST_KEPT {
            self.kept.push(last);
            return None;
        }
        let oldest = std::mem::replace(self.kept.get_mut(self.oldest)?, last);
        self.oldest = self.oldest.wrapping_add(1) % HeadMemory::MOST_KEPT;
        Some(oldest.into())
    }

    /// Takes a head that its exchange no longer needs, and leaves nothing of it to that.
    pub(crate) fn recycle(&mut self, text: &mut Bytes) {
        if text.len() <= HeadMemory::MOST {
            std::mem::swap(&mut self.text, text);
        }
    }
}
