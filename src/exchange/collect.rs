//! A request body on its way in: in memory up to a limit, then in an unlinked temporary file.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use super::progress::Begun;
use crate::body::Kind;
use crate::http1::Decoder;

/// A request whose body is not complete.
#[derive(Debug)]
pub(super) struct Collecting {
    pub(super) begun: Begun,
    pub(super) decoder: Decoder,
    store: Store,
    len: u64,
    memory: usize,
    limit: u64,
}

#[derive(Debug)]
enum Store {
    Memory(Vec<u8>),
    File(File),
}

/// Why a body can't be collected.
#[derive(Debug)]
pub(super) enum CollectError {
    TooLarge,
    Disk(io::Error),
}

impl Collecting {
    pub(super) fn new(begun: Begun, decoder: Decoder, memory: usize, limit: u64) -> Collecting {
        let expected = decoder.remaining_hint().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        // What a client announces is not what it sends: no memory on its word alone.
        let store = Store::Memory(Vec::with_capacity(expected.min(memory).min(8 << 10)));
        Collecting { begun, decoder, store, len: 0, memory, limit }
    }

    pub(super) fn add(&mut self, data: &[u8]) -> Result<(), CollectError> {
        self.len += data.len() as u64;
        if self.len > self.limit {
            return Err(CollectError::TooLarge);
        }
        if let Store::Memory(bytes) = &mut self.store {
            if bytes.len() + data.len() <= self.memory {
                bytes.extend_from_slice(data);
                return Ok(());
            }
            let mut file = tempfile::tempfile().map_err(CollectError::Disk)?;
            file.write_all(bytes).map_err(CollectError::Disk)?;
            self.store = Store::File(file);
        }
        match &mut self.store {
            Store::File(file) => file.write_all(data).map_err(CollectError::Disk),
            Store::Memory(_) => Ok(()),
        }
    }

    /// Head and body as they came, if they are still as they came: a body of known length in memory,
    /// which the client was not told to send.
    pub(super) fn received(&self) -> Option<(&[u8], &[u8])> {
        match &self.store {
            Store::Memory(bytes) if self.decoder.remaining_hint().is_some() && !self.begun.expects => {
                Some((&self.begun.text, bytes))
            }
            _ => None,
        }
    }

    /// The complete body.
    pub(super) fn finish(self) -> Result<(Begun, Kind), CollectError> {
        let kind = match self.store {
            Store::Memory(bytes) if bytes.is_empty() => Kind::Empty,
            Store::Memory(bytes) => Kind::Bytes(bytes.into()),
            Store::File(mut file) => {
                file.seek(SeekFrom::Start(0)).map_err(CollectError::Disk)?;
                Kind::File { file, left: self.len }
            }
        };
        Ok((self.begun, kind))
    }
}
