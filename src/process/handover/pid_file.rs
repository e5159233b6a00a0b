//! The pid file: it always exists, is always complete, and names the process that owns the service.
//!
//! **The process that it names holds a lock on it**, and so proves that it is the server: a number alone may be that of
//! another process by now. It is a record lock (`fcntl`), because the kernel tells every reader which process holds the lock,
//! and releases it with the process. A lock on the first byte means "this is the server".
//!
//! **A second lock shows the results of handovers**, for programs that have only this file and a signal. It begins at
//! [`RECORD`] plus twice the number of handovers that have failed here, plus one while one is in progress; its length is
//! the pid of the process that serves. A successful one shows in the file itself, which then names another process.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{geteuid, getpid};

use crate::base::log::debug;
use crate::base::read;
use crate::base::sync::lock;
use crate::base::threads::{Gate, spawn};

/// More than a number and its line ending.
const NAME_BYTES: u64 = 64;

/// The byte that its owner locks.
const OWNER: i32 = 0;
/// Where the record of handovers begins, apart from the other lock, with which the kernel would merge it.
const RECORD: i32 = 16;
/// The record begins again after so many failures.
const MOST_FAILURES: i32 = 1 << 19;

/// Time for a slow file system.
const PATIENCE: Duration = Duration::from_secs(1);

/// A file that names a process. Written by rename, so that a reader never sees half of it.
#[derive(Clone)]
pub(crate) struct PidFile {
    path: PathBuf,
    /// The file with this process's locks, if it names this process. To close any other descriptor of it releases them.
    owned: Arc<Mutex<Option<File>>>,
}

/// The handovers of this process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) failures: u32,
    pub(crate) in_progress: bool,
    /// The process that serves.
    pub(crate) serving: i32,
}

impl Record {
    pub(crate) fn new(serving: i32) -> Record {
        Record { failures: 0, in_progress: false, serving }
    }

    fn start(self) -> i32 {
        let failures = i32::try_from(self.failures).unwrap_or(0).rem_euclid(MOST_FAILURES);
        RECORD.saturating_add(failures.saturating_mul(2)).saturating_add(self.in_progress.into())
    }
}

impl PidFile {
    /// `path` is made absolute: the working directory may change.
    pub(crate) fn new(path: &Path) -> io::Result<PidFile> {
        Ok(PidFile { path: std::path::absolute(path)?, owned: Arc::default() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it could be written now: its directory exists and has room for a number.
    pub(crate) fn try_out(&self) -> io::Result<()> {
        if self.path.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        }
        fs::remove_file(self.written(0)?.0)
    }

    /// Whether it could be replaced now, by the user that this process is by now.
    pub(crate) fn try_replace(&self) -> io::Result<()> {
        self.try_out()?;
        let folder = fs::metadata(self.path.parent().unwrap_or(Path::new("/")))?;
        let Ok(file) = fs::symlink_metadata(&self.path) else { return Ok(()) };
        let user = geteuid();
        let owns = |metadata: &Metadata| metadata.uid() == user.as_raw();
        // In a sticky directory only its owner may remove a file.
        let is_sticky = folder.mode() & libc::S_ISVTX != 0;
        if is_sticky && !user.is_root() && !owns(&file) && !owns(&folder) {
            return Err(ErrorKind::PermissionDenied.into());
        }
        Ok(())
    }

    /// As `new`, for a file that names this process and was opened elsewhere. It is locked.
    pub(crate) fn adopted(path: PathBuf, file: File, record: Record) -> PidFile {
        own(&file, record);
        PidFile { path, owned: Arc::new(Mutex::new(Some(file))) }
    }

    /// It names the process `pid` from now on, which is to lock the file that this returns. None: it has done that.
    pub(crate) fn name_other(&self, pid: i32) -> io::Result<Option<File>> {
        let is_named = self.named().is_some_and(|text| text.trim() == pid.to_string());
        let owner = || File::open(&self.path).ok().and_then(|file| owner(&file));
        if is_named && owner() == Some(pid) {
            return Ok(None);
        }
        let (written, file) = self.written(pid)?;
        fs::rename(&written, &self.path).inspect_err(|_| drop(fs::remove_file(&written)))?;
        Ok(Some(file))
    }

    /// It names `pid` from now on. If that is this process, it is locked before it can be read.
    pub(crate) fn name(&self, pid: i32) -> io::Result<()> {
        let (written, file) = self.written(pid)?;
        let owned = (pid == own_pid()).then_some(file);
        owned.iter().for_each(|file| own(file, Record::new(pid)));
        fs::rename(&written, &self.path).inspect_err(|_| drop(fs::remove_file(&written)))?;
        *lock(&self.owned) = owned;
        Ok(())
    }

    /// Locks the file, which the predecessor has let name this process.
    pub(crate) fn claim(&self, record: Record) -> io::Result<()> {
        let mut owned = lock(&self.owned);
        if owned.is_some() {
            return Ok(());
        }
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&self.path)?;
        if read::text(NAME_BYTES, &file)?.trim() == own_pid().to_string() {
            own(&file, record);
            *owned = Some(file);
        }
        Ok(())
    }

    /// Tells how handovers have gone, if the file names this process.
    pub(crate) fn record(&self, record: Record) {
        if let Some(file) = &*lock(&self.owned) {
            write_record(file, record);
        }
    }

    /// A file beside it that says `pid`, to be renamed.
    fn written(&self, pid: i32) -> io::Result<(PathBuf, File)> {
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
        Ok((path, file))
    }

    /// Removes the file if it still names `pid`. Another file is left alone, without waiting for it.
    pub(crate) fn remove_if(&self, pid: i32) -> io::Result<()> {
        if self.named().is_some_and(|text| text.trim() == pid.to_string()) {
            fs::remove_file(&self.path)?;
        }
        Ok(())
    }

    fn named(&self) -> Option<String> {
        // A named pipe would make us wait for its other end.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&self.path).ok()?;
        let is_file = file.metadata().is_ok_and(|found| found.is_file());
        is_file.then(|| read::text(NAME_BYTES, &file).ok()).flatten()
    }
}

fn own_pid() -> i32 {
    getpid().as_raw()
}

/// Takes the locks of a process that owns the service. Where the file system has none, only the pid says so.
fn own(file: &File, record: Record) {
    set(file, libc::F_WRLCK, OWNER, 1);
    write_record(file, record);
}

fn write_record(file: &File, record: Record) {
    // First: the kernel merges ranges that touch.
    set(file, libc::F_UNLCK, RECORD, 0);
    set(file, libc::F_WRLCK, record.start(), record.serving.max(1));
}

/// The other process that holds the first lock.
fn owner(file: &File) -> Option<i32> {
    let mut range = range(libc::F_WRLCK, OWNER, 1);
    fcntl(file, FcntlArg::F_GETLK(&mut range)).ok()?;
    (i32::from(range.l_type) != libc::F_UNLCK).then_some(range.l_pid)
}

/// A length of 0 reaches to the end of any file.
pub(super) fn range(kind: i32, start: i32, len: i32) -> libc::flock {
    #[expect(clippy::cast_possible_truncation, reason = "small constants, as the call has them")]
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start.into(),
        l_len: len.into(),
        l_pid: 0,
    }
}

fn set(file: &File, kind: i32, start: i32, len: i32) {
    let range = range(kind, start, len);
    let _ = fcntl(file, FcntlArg::F_SETLK(&range)).inspect_err(|e| debug!("can't lock the pid file: {e}"));
}

/// Does `work` on a thread of its own: the control loop does not wait for a file system that hangs. Where no thread
/// can be started it is done here, because a pid file that names a dead process is worse than a wait.
///
/// # Errors
/// Those of `work`, and `TimedOut`, after which it may still be done.
pub(crate) fn in_time(work: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> io::Result<()> {
    in_time_by(thread::Builder::new().name("heirloom-pid-file".into()), Arc::new(work))
}

fn in_time_by(
    thread: thread::Builder,
    work: Arc<dyn Fn() -> io::Result<()> + Send + Sync>,
) -> io::Result<()> {
    let (done, ended) = Gate::new();
    let outcome = Arc::new(Mutex::new(None));
    let (of_thread, to_fill) = (Arc::clone(&work), Arc::clone(&outcome));
    let run = move || {
        *lock(&to_fill) = Some(of_thread());
        drop(done);
    };
    let Ok(worker) = spawn(thread, run) else { return work() };
    if !ended.wait_for(PATIENCE) {
        return Err(io::Error::new(ErrorKind::TimedOut, "its file system does not answer"));
    }
    // It has nothing more to do.
    let _ = worker.join();
    lock(&outcome).take().unwrap_or_else(|| Err(io::Error::other("panicked")))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn removed_only_by_the_process_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pid");
        let file = PidFile::new(&path).unwrap();
        file.name(41).unwrap();
        file.name(42).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "42\n");
        file.remove_if(41).unwrap();
        assert!(path.exists());
        file.remove_if(42).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no temporary file is left");
    }

    #[test]
    fn what_was_put_in_its_place_is_left_alone_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pid");
        let file = PidFile::new(&path).unwrap();
        let puts: [&dyn Fn(); 3] = [
            &|| nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            &|| fs::create_dir(&path).unwrap(),
            &|| fs::write(&path, "42, and more".repeat(1000)).unwrap(),
        ];
        for put in puts {
            put();
            file.remove_if(42).unwrap();
            assert!(path.exists());
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        }
    }

    #[test]
    fn a_file_system_that_hangs_is_not_waited_for() {
        let (answer, hangs) = mpsc::channel::<()>();
        let hangs = Mutex::new(hangs);
        let outcome = in_time(move || {
            let _ = hangs.lock().unwrap().recv();
            Ok(())
        });
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::TimedOut);
        drop(answer);
        assert!(in_time(|| Ok(())).is_ok());
        assert_eq!(in_time(|| Err(ErrorKind::NotFound.into())).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn without_a_thread_it_is_done_all_the_same() {
        let (done, outcome) = mpsc::channel();
        // No room for a stack of this size; with 64 bits it is also the most that musl takes.
        let size = if cfg!(target_pointer_width = "64") { usize::MAX / 4 } else { usize::MAX / 4 * 3 };
        let none = thread::Builder::new().stack_size(size);
        let work = move || {
            done.send(thread::current().id()).unwrap();
            Ok(())
        };
        in_time_by(none, Arc::new(work)).unwrap();
        assert_eq!(outcome.recv().unwrap(), thread::current().id());
    }
}
