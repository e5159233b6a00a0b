//! Unlinked temporary files. All of them together have a budget of bytes, and, with the other files of requests, one of
//! descriptors.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::{env, process};

use crate::base::budget::{Budget, Share};
use crate::base::error::lacks_descriptor;
use crate::base::sys::Limit;

/// The files that requests may have.
pub(crate) struct FileBudget {
    /// Descriptors besides those of connections.
    pub(crate) descriptors: Budget,
    /// Bytes in temporary files.
    pub(crate) temporary: Budget,
    /// For temporary files. None: the system's.
    folder: Option<PathBuf>,
    /// The limit of one file. A process that writes beyond it is killed by SIGXFSZ.
    file_bytes: u64,
}

/// Why bytes can't be kept in a temporary file.
#[derive(Debug)]
pub(crate) enum StoreError {
    /// Temporary files hold as many bytes as they may.
    Full,
    /// No descriptor is left in the budget.
    NoDescriptor,
    Disk(io::Error),
}

/// A temporary file, which is counted while it exists.
#[derive(Debug)]
pub(crate) struct SpillFile {
    pub(crate) file: File,
    pub(crate) len: u64,
    most: u64,
    pub(crate) bytes: Share,
    pub(crate) descriptor: Share,
}

impl FileBudget {
    pub(crate) fn new(descriptors: Budget, temporary: Budget, folder: Option<PathBuf>) -> FileBudget {
        FileBudget { descriptors, temporary, folder, file_bytes: Limit::file_size().soft }
    }

    /// An empty file.
    pub(crate) fn create(&self) -> Result<SpillFile, StoreError> {
        let descriptor = self.descriptors.one().ok_or(StoreError::NoDescriptor)?;
        let folder = self.folder.clone().unwrap_or_else(env::temp_dir);
        let file = unnamed_file(&folder).map_err(|e| match lacks_descriptor(&e) {
            true => StoreError::NoDescriptor,
            false => StoreError::Disk(io::Error::new(e.kind(), format!("{e}: {}", folder.display()))),
        })?;
        Ok(SpillFile { file, len: 0, most: self.file_bytes, bytes: self.temporary.share(), descriptor })
    }
}

/// A file without a name. Not by the crate `tempfile`: it and the five crates that it needs took users one to two seconds of
/// compile time.
fn unnamed_file(folder: &Path) -> io::Result<File> {
    match options().custom_flags(libc::O_TMPFILE | libc::O_EXCL).open(folder) {
        // What open(2) and file systems without such files say.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT)) => {
            unlinked_file(folder)
        }
        result => result,
    }
}

/// A file whose name is removed at once.
fn unlinked_file(folder: &Path) -> io::Result<File> {
    loop {
        let name = format!(".heirloom-{:016x}", RandomState::new().hash_one(process::id()));
        let path = folder.join(name);
        match options().create_new(true).open(&path) {
            Ok(file) => return fs::remove_file(&path).map(|()| file),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

/// No other user may open it meanwhile.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

impl SpillFile {
    /// Writes bytes at the end, unless a limit forbids them.
    pub(crate) fn append(&mut self, data: &[u8]) -> Result<(), StoreError> {
        let len = self.len.saturating_add(data.len() as u64);
        if len > self.most {
            return Err(StoreError::Disk(ErrorKind::FileTooLarge.into()));
        }
        if !self.bytes.hold(len) {
            return Err(StoreError::Full);
        }
        self.file.write_all(data).map_err(StoreError::Disk)?;
        self.len = len;
        Ok(())
    }

    /// The next read is at the start.
    pub(crate) fn rewind(&mut self) -> Result<(), StoreError> {
        self.file.rewind().map_err(StoreError::Disk)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn files_are_counted_while_they_exist() {
        let (descriptors, bytes) = (Budget::new(2), Budget::new(10));
        let budget = FileBudget::new(descriptors.clone(), bytes.clone(), None);
        let mut file = budget.create().unwrap();
        let mut other = budget.create().unwrap();
        assert!(matches!(budget.create(), Err(StoreError::NoDescriptor)));
        file.append(b"hello").unwrap();
        other.append(b"1234").unwrap();
        assert!(matches!(file.append(b" world"), Err(StoreError::Full)));
        file.append(b"!").unwrap();
        assert_eq!((bytes.held(), descriptors.held(), file.len), (10, 2, 6));
        file.rewind().unwrap();
        let mut text = String::new();
        file.file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello!");
        drop((file, other));
        assert_eq!((bytes.held(), descriptors.held()), (0, 0));
    }

    #[test]
    fn a_file_has_no_name_and_is_for_its_owner_alone() {
        for create in [unnamed_file, unlinked_file] {
            let folder = tempfile::tempdir().unwrap();
            let mut file = create(folder.path()).unwrap();
            file.write_all(b"hello").unwrap();
            file.rewind().unwrap();
            assert_eq!(io::read_to_string(&file).unwrap(), "hello");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
            let found = file.metadata().unwrap();
            assert_eq!((found.nlink(), found.mode() & 0o777), (0, 0o600));
        }
    }

    #[test]
    fn a_missing_directory_is_a_disk_error_that_names_it() {
        let budget = FileBudget::new(Budget::new(1), Budget::new(1), Some("/nonexistent".into()));
        let Err(StoreError::Disk(e)) = budget.create() else { panic!("no error") };
        assert_eq!(e.to_string(), "No such file or directory (os error 2): /nonexistent");
    }

    #[test]
    fn a_file_never_exceeds_the_limit_of_one_file() {
        let mut budget = FileBudget::new(Budget::new(1), Budget::new(u64::MAX), None);
        budget.file_bytes = 3;
        let mut file = budget.create().unwrap();
        file.append(b"abc").unwrap();
        assert!(matches!(file.append(b"d"), Err(StoreError::Disk(e)) if e.kind() == ErrorKind::FileTooLarge));
    }
}
