//! The pid file: always there, always whole, naming the process that owns the service.

use std::ffi::OsString;
use std::fs::{self, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

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

    /// Whether it could be written now: with its folder there, and room for a number.
    pub(crate) fn try_out(&self) -> io::Result<()> {
        if self.path.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        }
        fs::remove_file(self.written(0)?)
    }

    /// Whether it could be replaced now, by the user that this process is by now.
    pub(crate) fn try_replace(&self) -> io::Result<()> {
        self.try_out()?;
        let folder = fs::metadata(self.path.parent().unwrap_or(Path::new("/")))?;
        let Ok(file) = fs::symlink_metadata(&self.path) else { return Ok(()) };
        let user = geteuid();
        let owns = |metadata: &Metadata| metadata.uid() == user.as_raw();
        // Of others' files in a sticky folder nobody else may remove any.
        let is_sticky = folder.mode() & libc::S_ISVTX != 0;
        if is_sticky && !user.is_root() && !owns(&file) && !owns(&folder) {
            return Err(ErrorKind::PermissionDenied.into());
        }
        Ok(())
    }

    pub(crate) fn name(&self, pid: i32) -> io::Result<()> {
        let written = self.written(pid)?;
        fs::rename(&written, &self.path).inspect_err(|_| drop(fs::remove_file(&written)))
    }

    /// A file beside it that says `pid`, to be renamed.
    fn written(&self, pid: i32) -> io::Result<PathBuf> {
        let mut name = OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(format!("-{}", std::process::id()));
        let path = self.path.with_file_name(name);
        // Left by a process of this number that died at it.
        let _ = fs::remove_file(&path);
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let whole =
            writeln!(file, "{pid}").and_then(|()| file.set_permissions(Permissions::from_mode(0o644)));
        whole.inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(path)
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
