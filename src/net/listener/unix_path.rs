//! The path of a unix socket: only one server binds it, even if several start there at the same time.
//!
//! A path left by a server that has ended is removed and bound again. Two servers that start at once could each take
//! the other's path for such a leftover, so they exclude each other by a lock: a file beside the path, which is removed again.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::base::log::info;
use crate::process::handover::FileId;

/// What to do while another server starts at the same path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IfLocked {
    Wait,
    /// The other server has the path: `AddrInUse`.
    Fail,
}

/// Listens at `path`; the result is the socket and its file. The file has `mode` at most, or what the umask leaves.
pub(super) fn bind(
    path: &Path,
    backlog: i32,
    if_locked: IfLocked,
    mode: Option<Mode>,
) -> io::Result<(Socket, FileId)> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if let Some(mode) = mode {
        // The file has the mode of the socket, from its first moment on.
        fchmod(&socket, mode)?;
    }
    // A server that has bound and does not listen yet looks like one that has ended.
    let _lock = PathLock::take(path, if_locked)?;
    match socket.bind(&address) {
        Err(e) if e.kind() == ErrorKind::AddrInUse && !is_socket(path) => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "the existing file is not a socket"));
        }
        Err(e) if e.kind() == ErrorKind::AddrInUse && is_stale(&address) => {
            info!("{} was left by a server that has ended: removed", path.display());
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        other => other?,
    }
    let file = FileId::at(path).ok_or(ErrorKind::NotFound)?;
    socket.listen(backlog)?;
    Ok((socket, file))
}

/// Excludes other servers that start at the same path.
struct PathLock {
    path: PathBuf,
    /// Locked while it is open.
    _file: Flock<File>,
}

impl PathLock {
    /// None for a path that can't be bound, a file system without locks, or something in the place of the lock.
    ///
    /// # Errors
    /// `AddrInUse` without if_locked, where another server has the lock.
    fn take(socket: &Path, if_locked: IfLocked) -> io::Result<Option<PathLock>> {
        let Some(name) = socket.file_name() else { return Ok(None) };
        let path = socket.with_file_name([OsStr::new("."), name, OsStr::new(".lock")].join(OsStr::new("")));
        loop {
            // Sticky directories forbid opening another user's file with O_CREAT, but it can be locked. The open never waits,
            // whatever kind of file is there.
            let open = |options: &mut OpenOptions| {
                options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).mode(0o644).open(&path)
            };
            let opened = match open(OpenOptions::new().read(true)) {
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    open(OpenOptions::new().read(true).write(true).create_new(true))
                }
                other => other,
            };
            let file = match opened {
                Ok(file) => file,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                Err(_) => return Ok(None),
            };
            let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock).or_else(|(file, e)| {
                if e == Errno::EWOULDBLOCK && if_locked == IfLocked::Wait {
                    info!("another server is starting at {}: waiting for it", socket.display());
                    Flock::lock(file, FlockArg::LockExclusive)
                } else {
                    Err((file, e))
                }
            });
            let file = match locked {
                Ok(file) => file,
                Err((_, Errno::EINTR)) => continue,
                Err((_, Errno::EWOULDBLOCK)) => return Err(ErrorKind::AddrInUse.into()),
                Err(_) => return Ok(None),
            };
            // The last owner of the lock may have removed the file meanwhile.
            let ours = file.metadata().map(|file| (file.dev(), file.ino()));
            let named = fs::symlink_metadata(&path).map(|file| (file.dev(), file.ino()));
            if named.is_ok_and(|named| ours.is_ok_and(|ours| ours == named)) {
                return Ok(Some(PathLock { path, _file: file }));
            }
        }
    }
}

impl Drop for PathLock {
    fn drop(&mut self) {
        // The file is still locked: a server that waits for it sees that it was removed, and makes another one.
        let _ = fs::remove_file(&self.path);
    }
}

pub(super) fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

/// Whether no process listens there. Connects without waiting: a live server's backlog may be full.
fn is_stale(address: &SockAddr) -> bool {
    let asked = Socket::new(Domain::UNIX, Type::STREAM, None).and_then(|socket| {
        socket.set_nonblocking(true)?;
        socket.connect(address)
    });
    asked.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::super::tests::{adopt, bind as listen};
    use super::*;
    use crate::net::listener::Listener;

    #[test]
    fn of_servers_that_start_on_one_path_one_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        for round in 0..50 {
            // In every second round there is the file of a server that has ended.
            if round % 2 == 0 {
                drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            }
            let start = std::sync::Barrier::new(6);
            let started: Vec<Listener> = std::thread::scope(|scope| {
                let one = || {
                    start.wait();
                    listen(&format!("unix:{}", path.display()))
                };
                let starters = [(); 6].map(|()| scope.spawn(one));
                starters.into_iter().filter_map(|starter| starter.join().unwrap().ok()).collect()
            });
            assert_eq!(started.len(), 1, "round {round}");
            let client = UnixStream::connect(&path).unwrap();
            started[0].accept().unwrap();
            drop(client);
            let names: Vec<_> =
                fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, ["socket"], "nothing is left beside it");
            started[0].unlink();
            assert!(!path.exists());
        }
    }

    /// A program that another test starts has the last listener too, until its exec.
    fn listen_soon(name: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(e) = listen(name) {
            let cause = e.source().and_then(|cause| cause.downcast_ref::<io::Error>());
            let is_in_use = cause.is_some_and(|cause| cause.kind() == ErrorKind::AddrInUse);
            assert!(is_in_use && Instant::now() < deadline, "{e}");
        }
    }

    #[test]
    fn the_lock_of_a_dead_server_prevents_no_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        fs::write(folder.path().join(".socket.lock"), "").unwrap();
        let listener = listen(&format!("unix:{}", path.display())).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(listener);
        // In the place of the lock: a file whose open would block, and one that can't be opened.
        let lock = folder.path().join(".socket.lock");
        nix::unistd::mkfifo(&lock, Mode::S_IRWXU).unwrap();
        listen_soon(&format!("unix:{}", path.display()));
        let puts: [&dyn Fn(); 3] = [
            &|| std::os::unix::fs::symlink("nowhere", &lock).unwrap(),
            &|| drop(std::os::unix::net::UnixListener::bind(&lock).unwrap()),
            // Root can open it.
            &|| nix::unistd::mkfifo(&lock, Mode::empty()).unwrap(),
        ];
        for put in puts {
            let _ = fs::remove_file(&lock);
            put();
            listen_soon(&format!("unix:{}", path.display()));
        }
    }

    /// A successor does not wait for the lock, because its predecessor would kill it in the end.
    #[test]
    fn a_successor_does_not_wait_for_servers_at_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let old = listen(&format!("unix:{}", path.display())).unwrap();
        fs::remove_file(&path).unwrap();
        let starts = PathLock::take(&path, IfLocked::Wait).unwrap();
        assert!(starts.is_some());
        let new = adopt(old.config.clone(), &old).unwrap();
        assert!(new.rebind().is_none());
        drop(starts);
        assert!(new.rebind().is_some());
    }
}
