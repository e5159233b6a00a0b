//! The pid file: always there, always whole, naming the process that owns the service.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A file that names a process. Written by rename, so that a reader never sees half of it.
#[derive(Clone, Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// `path` is made absolute: the working directory may change.
    pub(crate) fn new(path: &Path) -> io::Result<PidFile> {
        Ok(PidFile { path: std::path::absolute(path)? })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn name(&self, pid: i32) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let mut file = NamedTempFile::with_prefix_in(".pid-", folder)?;
        writeln!(file, "{pid}")?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        file.persist(&self.path).map_err(|e| e.error)?;
        Ok(())
    }

    /// Removes the file if it still names `pid`.
    pub(crate) fn remove_if(&self, pid: i32) {
        if fs::read_to_string(&self.path).is_ok_and(|text| text.trim() == pid.to_string()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_only_by_the_process_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pid");
        let file = PidFile::new(&path).unwrap();
        file.name(41).unwrap();
        file.name(42).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "42\n");
        file.remove_if(41);
        assert!(path.exists());
        file.remove_if(42);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no temporary file is left");
    }
}
