//! A fast hash for tables whose keys clients can't choose: a program has a few for each of its routes, and one
//! multiplication for each word spreads them well enough. Clients can look for keys that collide with those in a table, which
//! costs a comparison; they can't add any.

use std::hash::{BuildHasherDefault, Hasher};

pub(crate) type BuildKeyHasher = BuildHasherDefault<KeyHasher>;

#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        let words = bytes.chunks_exact(8);
        let rest = words.remainder().iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        words.for_each(|word| self.write_u64(word.try_into().map_or(0, u64::from_le_bytes)));
        self.write_u64(rest);
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_u64(&mut self, n: u64) {
        // The upper bits depend on all others, and a table takes the lower ones.
        self.0 = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
