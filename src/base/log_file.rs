//! A log file that can be rotated under a running server.
//!
//! **The file follows its path by itself.** USR1 reaches one generation, and a predecessor may still write for as long as
//! its last request lasts. So a write looks, at most once a second, whether the path still leads to the open file, and
//! opens it again if not: every generation changes over within a second of its next line, with a signal or without.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::base::log::error;
use crate::base::sync::lock;

/// How often a write looks whether the path leads to another file.
const LOOK: Duration = Duration::from_secs(1);
/// How often the log says that nothing can be written.
const FAILURE_LOGGED: Duration = Duration::from_secs(10);

/// A log file that is appended to and may be rotated: renamed or removed while the server runs. Clones write to the same
/// file.
///
/// It is opened again at [`reopen`](LogFile::reopen), which [`ProcessConfig::log_file`](crate::ProcessConfig::log_file) calls
/// at USR1; and without a signal within a second of the next line, in a process that drains after a handover too.
///
/// ```no_run
/// use heirloom::LogFile;
/// use heirloom::prelude::*;
/// use heirloom::wrap::{AccessFormat, AccessLog};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let file = LogFile::open("access.log")?;
///     let log = AccessLog::new().format(AccessFormat::Combined).to_file(&file);
///     Server::new((|_: Request| "hello\n").wrap(log))
///         .listen("127.0.0.1:8001")
///         .process(ProcessConfig::new().log_file(&file))
///         .serve()?;
///     Ok(())
/// }
/// ```
///
/// It is a [`Write`], so a logger can write to it: `env_logger`'s by `Target::Pipe(Box::new(file.clone()))` (its lines have a time with its feature
/// `humantime`). Each write is
/// passed on as it is, so that whole lines of several processes stay whole.
#[derive(Clone)]
pub struct LogFile(Arc<Inner>);

impl fmt::Debug for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogFile").field(&self.0.path).finish()
    }
}

struct Inner {
    path: PathBuf,
    open: Mutex<Open>,
}

struct Open {
    file: File,
    looked: Instant,
    failure_logged: Option<Instant>,
}

impl LogFile {
    /// Opens the file for appending, and creates it if it does not exist. A relative path is relative to the working directory
    /// of this moment.
    ///
    /// # Errors
    /// Those of [`OpenOptions::open`], with the path.
    pub fn open(path: impl AsRef<Path>) -> io::Result<LogFile> {
        let path = std::path::absolute(path)?;
        let file = append_to(&path).map_err(|e| {
            io::Error::new(e.kind(), format!("can't open the log file {}: {e}", path.display()))
        })?;
        let open = Mutex::new(Open { file, looked: Instant::now(), failure_logged: None });
        Ok(LogFile(Arc::new(Inner { path, open })))
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Opens the path again, after a rotation.
    ///
    /// # Errors
    /// As for [`open`](LogFile::open); the old file is written on then.
    pub fn reopen(&self) -> io::Result<()> {
        let file = append_to(&self.0.path)?;
        lock(&self.0.open).file = file;
        Ok(())
    }

    /// As `reopen`, for a signal: a failure is logged.
    pub(crate) fn reopen_or_log(&self) {
        if let Err(e) = self.reopen() {
            error!("can't open {} again, the old file is written on: {e}", self.0.path.display());
        }
    }

    /// Writes a line, with its end, in one piece. A failure is logged at most every ten seconds: by another way, one hopes.
    pub(crate) fn write_line(&self, line: &mut Vec<u8>) {
        line.push(b'\n');
        let Err(e) = (&mut &*self).write_all(line) else { return };
        let now = Instant::now();
        let mut open = lock(&self.0.open);
        if open.failure_logged.is_none_or(|at| now.saturating_duration_since(at) >= FAILURE_LOGGED) {
            open.failure_logged = Some(now);
            // The logger may write to this file.
            drop(open);
            error!("can't write to {}: {e}", self.0.path.display());
        }
    }
}

impl Inner {
    /// Opens the path again if it leads elsewhere.
    fn look(&self, open: &mut Open) {
        let now = Instant::now();
        if now.saturating_duration_since(open.looked) < LOOK {
            return;
        }
        open.looked = now;
        let at_path = self.path.metadata().ok().map(|found| (found.dev(), found.ino()));
        let is_same = open.file.metadata().is_ok_and(|own| at_path == Some((own.dev(), own.ino())));
        if !is_same {
            if let Ok(file) = append_to(&self.path) {
                open.file = file;
            }
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl Write for &LogFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut open = lock(&self.0.open);
        self.0.look(&mut open);
        open.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_go_where_the_path_leads() {
        let folder = tempfile::tempdir().unwrap();
        let [path, old] = ["log", "log.1"].map(|name| folder.path().join(name));
        fs::write(&path, "earlier\n").unwrap();
        let file = LogFile::open(&path).unwrap();
        assert_eq!(file.path(), path);
        file.write_line(&mut "one".into());
        fs::rename(&path, &old).unwrap();
        file.write_line(&mut "two".into());
        file.reopen().unwrap();
        file.clone().write_all(b"three\n").unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "earlier\none\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn a_rotation_is_seen_without_a_signal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let file = LogFile::open(&path).unwrap();
        let pass_second = || lock(&file.0.open).looked -= LOOK;
        for _ in 0..2 {
            file.write_line(&mut "here".into());
            pass_second();
            file.write_line(&mut "still here".into());
            assert_eq!(fs::read_to_string(&path).unwrap(), "here\nstill here\n");
            fs::remove_file(&path).unwrap();
            pass_second();
        }
        // Nothing can be opened there: the last file that was open is written on.
        file.write_line(&mut "a new one".into());
        let kept = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        pass_second();
        file.write_line(&mut "into the old one".into());
        assert!(file.reopen().is_err());
        assert_eq!(io::read_to_string(kept).unwrap(), "a new one\ninto the old one\n");
    }
}
