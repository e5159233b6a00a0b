//! A request body on its way in: in memory up to a limit, then in an unlinked temporary file.

use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use super::progress::{Rate, RequestHead};
use crate::base::budget::{Budget, Share};
use crate::base::error::lacks_descriptor;
use crate::http::codec::Decoder;
use crate::web::body::Kind;

/// Where bodies of requests are kept, and how much in all.
#[derive(Debug)]
pub(crate) struct Stores {
    pub(crate) memory: Budget,
    pub(crate) disk: Budget,
    /// Beyond those of connections.
    pub(crate) descriptors: Budget,
    /// None: the system's.
    folder: Option<PathBuf>,
    /// Of one file. Whoever writes beyond it is killed by SIGXFSZ.
    file_bytes: u64,
}

impl Stores {
    pub(crate) fn new(memory: Budget, disk: Budget, descriptors: Budget, folder: Option<PathBuf>) -> Stores {
        let file_bytes = getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
        Stores { memory, disk, descriptors, folder, file_bytes }
    }
}

/// What bounds one body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) memory: usize,
    pub(super) all: u64,
    /// Without a byte.
    pub(super) stall: Duration,
    pub(super) rate: Rate,
}

/// A request whose body is not complete.
#[derive(Debug)]
pub(super) struct Collecting {
    pub(super) begun: RequestHead,
    pub(super) decoder: Decoder,
    store: Store,
    len: u64,
    bounds: Bounds,
    began: Instant,
}

#[derive(Debug)]
enum Store {
    Memory(Vec<u8>, Share),
    /// With what it holds of the disk, and of the descriptors.
    File(File, Share, Share),
}

/// Why a body can't be collected.
#[derive(Debug)]
pub(super) enum CollectError {
    TooLarge,
    /// Temporary files hold as much as they may.
    Full,
    /// As many descriptors are open as may be.
    NoDescriptor,
    Disk(io::Error),
}

impl CollectError {
    fn of_open(e: io::Error) -> CollectError {
        if lacks_descriptor(&e) { CollectError::NoDescriptor } else { CollectError::Disk(e) }
    }
}

impl Collecting {
    pub(super) fn new(
        begun: RequestHead,
        decoder: Decoder,
        bounds: Bounds,
        stores: &Stores,
        now: Instant,
    ) -> Collecting {
        let expected = decoder.remaining_hint().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        // What a client announces is not what it sends: no memory on its word alone.
        let bytes = Vec::with_capacity(expected.min(bounds.memory).min(8 << 10));
        let store = Store::Memory(bytes, stores.memory.share());
        Collecting { begun, decoder, store, len: 0, bounds, began: now }
    }

    /// How much more content there may be.
    pub(super) fn room(&self) -> u64 {
        self.bounds.all.saturating_sub(self.len)
    }

    pub(super) fn add(&mut self, data: &[u8], stores: &Stores) -> Result<(), CollectError> {
        self.len = self.len.saturating_add(data.len() as u64);
        // A chunk beyond the limit is not waited for.
        if self.len.saturating_add(self.decoder.announced()) > self.bounds.all {
            return Err(CollectError::TooLarge);
        }
        if let Store::Memory(bytes, share) = &mut self.store {
            if bytes.len().saturating_add(data.len()) <= self.bounds.memory && share.hold(self.len) {
                bytes.extend_from_slice(data);
                return Ok(());
            }
        }
        if self.len > stores.file_bytes {
            return Err(CollectError::Disk(ErrorKind::FileTooLarge.into()));
        }
        if let Store::Memory(bytes, _) = &self.store {
            // Too long for memory, or others have it all.
            let mut share = stores.disk.share();
            if !share.hold(bytes.len() as u64) {
                return Err(CollectError::Full);
            }
            let descriptor = stores.descriptors.one().ok_or(CollectError::NoDescriptor)?;
            let mut file = match &stores.folder {
                Some(folder) => tempfile::tempfile_in(folder),
                None => tempfile::tempfile(),
            }
            .map_err(CollectError::of_open)?;
            file.write_all(bytes).map_err(CollectError::Disk)?;
            self.store = Store::File(file, share, descriptor);
        }
        match &mut self.store {
            Store::File(file, share, _) => {
                if !share.hold(self.len) {
                    return Err(CollectError::Full);
                }
                file.write_all(data).map_err(CollectError::Disk)
            }
            Store::Memory(..) => Ok(()),
        }
    }

    /// How long the next byte may be waited for.
    pub(super) fn until(&self, now: Instant) -> Instant {
        let Bounds { stall, rate, .. } = self.bounds;
        let by_rate = self.began.checked_add(rate.time_for(self.len));
        by_rate.map_or(now + stall, |by_rate| by_rate.min(now + stall))
    }

    /// Head and body as they came, if they are still as they came: a body of known length in memory,
    /// which the client was not told to send.
    pub(super) fn received(&self) -> Option<(&[u8], &[u8])> {
        match &self.store {
            Store::Memory(bytes, _) if self.decoder.remaining_hint().is_some() && !self.begun.expects => {
                Some((&self.begun.text, bytes))
            }
            _ => None,
        }
    }

    /// Without what has come of the body.
    pub(super) fn into_begun(self: Box<Self>) -> RequestHead {
        self.begun
    }

    /// The complete body.
    pub(super) fn finish(self) -> (RequestHead, Result<Kind, CollectError>) {
        let kind = match self.store {
            Store::Memory(bytes, _) if bytes.is_empty() => Ok(Kind::Empty),
            // From here on as many at most as there are workers.
            Store::Memory(bytes, _) => Ok(Kind::Bytes(bytes.into())),
            Store::File(mut file, share, descriptor) => match file.seek(SeekFrom::Start(0)) {
                Ok(_) => {
                    let (share, descriptor) = (Some(share), Some(descriptor));
                    Ok(Kind::File { file, left: self.len, share, descriptor })
                }
                Err(e) => Err(CollectError::Disk(e)),
            },
        };
        (self.begun, kind)
    }
}
