//! The user's state in transfer to the next generation: a file in memory, without a name.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::base::read;

/// More than that behind the state is no record of ours.
const MOST_BEHIND: u64 = 64 << 20;

/// Written by the predecessor before GO, read by the successor after it.
pub(crate) struct StateFile(File);

impl StateFile {
    pub(crate) fn new() -> io::Result<StateFile> {
        let fd = memfd_create("heirloom-state", MFdFlags::MFD_CLOEXEC)?;
        Ok(StateFile(fd.into()))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(bytes)
    }

    /// Writes `bytes` behind a state of `behind` bytes.
    pub(crate) fn write_behind(&self, behind: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, behind)
    }

    /// Reads so many bytes behind a state of `behind` bytes.
    ///
    /// # Errors
    /// Also when there are fewer.
    pub(crate) fn read_behind(&self, behind: u64, bytes: u64) -> io::Result<Vec<u8>> {
        let mut read = vec![0; usize::try_from(bytes.min(MOST_BEHIND)).unwrap_or(0)];
        self.0.read_exact_at(&mut read, behind)?;
        Ok(read)
    }

    pub(crate) fn try_clone(&self) -> io::Result<StateFile> {
        self.0.try_clone().map(StateFile)
    }

    /// # Errors
    /// Also when there are fewer bytes than announced.
    pub(crate) fn read(&mut self, bytes: u64) -> io::Result<Vec<u8>> {
        self.0.seek(SeekFrom::Start(0))?;
        let state = read::at_most(bytes, &self.0)?;
        if state.len() as u64 == bytes { Ok(state) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl From<OwnedFd> for StateFile {
    fn from(fd: OwnedFd) -> StateFile {
        StateFile(fd.into())
    }
}

impl AsFd for StateFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_last_is_read() {
        let mut writer = StateFile::new().unwrap();
        let mut reader = StateFile::from(OwnedFd::from(writer.0.try_clone().unwrap()));
        writer.write(b"longer than the next").unwrap();
        writer.write(b"state").unwrap();
        assert_eq!(reader.read(5).unwrap(), b"state");
        assert!(reader.read(6).is_err(), "there is no more");
        writer.try_clone().unwrap().write_behind(5, b"and records").unwrap();
        assert_eq!(reader.read(5).unwrap(), b"state");
        assert_eq!(reader.read_behind(5, 11).unwrap(), b"and records");
        assert!(reader.read_behind(5, 12).is_err(), "there is no more");
    }
}
