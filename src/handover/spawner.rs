//! The spawner's seat: starts the program again with the listeners and both channels, and knows
//! when its child is dead. It says nothing on the channels; that is the predecessor's part.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use log::{debug, info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::channel::Channel;
use super::state_file::StateFile;
use super::{Hello, Message, escape};
use crate::sys;

/// The variable by which a successor knows what it inherits.
pub(crate) const VARIABLE: &str = "HEIRLOOM_HANDOVER";
/// What a successor finds from here on: listeners, then the lifecycle and the connection channel,
/// the file with the user's state, and the user's files.
pub(crate) const FIRST_FD: i32 = 3;

/// Between the closing of a dying process's descriptors and its end, in milliseconds.
const LAST_BREATH: u16 = 500;

/// How this process was started, so that it can be started again.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: Option<PathBuf>,
    /// Signals blocked when the first generation was started.
    pub(crate) blocked: SigSet,
}

impl Program {
    /// Notes path, arguments, environment and working directory as they are now. `executable`
    /// takes the place of the path this process was started by.
    pub(crate) fn capture(executable: Option<&Path>, blocked: SigSet) -> io::Result<Program> {
        let cwd = first_cwd();
        let path =
            executable.map(Path::to_path_buf).or_else(sys::executable).map_or_else(env::current_exe, Ok)?;
        let path = match &cwd {
            Some(cwd) => cwd.join(path),
            None => path,
        };
        let argv = env::args_os().map(c_string).collect::<io::Result<_>>()?;
        let env = env::vars_os()
            .filter(|(key, _)| key != VARIABLE)
            .map(|(key, value)| variable(&key, &value))
            .collect::<io::Result<_>>()?;
        Ok(Program { path, argv, env, cwd, blocked })
    }

    /// The directory to start in: None, the present one, if the first one is gone or is that.
    fn cwd(&self) -> Option<CString> {
        let cwd = self.cwd.as_deref()?;
        match (fs::metadata(cwd), fs::metadata(".")) {
            (Ok(first), Ok(now)) if same_inode(&first, &now) => None,
            (Ok(first), _) if first.is_dir() => c_string(cwd.as_os_str().to_owned()).ok(),
            _ => {
                warn!("handover: the working directory {} is gone: the present one is used", cwd.display());
                None
            }
        }
    }
}

/// `$PWD` if it names the working directory, so that a symlink in it is looked up anew.
fn first_cwd() -> Option<PathBuf> {
    let pwd = env::var_os("PWD").map(PathBuf::from).filter(|pwd| pwd.is_absolute());
    let named = pwd.filter(|pwd| match (fs::metadata(pwd), fs::metadata(".")) {
        (Ok(pwd), Ok(here)) => same_inode(&pwd, &here),
        _ => false,
    });
    named.or_else(|| env::current_dir().ok())
}

fn same_inode(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn c_string(text: OsString) -> io::Result<CString> {
    CString::new(text.into_vec()).map_err(|e| io::Error::new(ErrorKind::InvalidInput, e))
}

fn variable(key: &OsStr, value: &OsStr) -> io::Result<CString> {
    c_string([key, value].join(OsStr::new("=")))
}

/// Why no child was started.
#[derive(Debug)]
pub(crate) struct SpawnError {
    /// The executable is open for writing: a copy may be under way.
    pub(crate) busy: bool,
    text: String,
}

impl SpawnError {
    fn new(path: &Path, e: &io::Error) -> SpawnError {
        let advice = match e.raw_os_error() {
            Some(libc::ENOENT) => ": put it back, or check its #! line",
            Some(libc::EACCES) => ": check its x bit and that its file system is not mounted noexec",
            Some(libc::ENOEXEC) => ": it is no program for this machine",
            Some(libc::ETXTBSY) => ": it is being written",
            Some(libc::EMFILE | libc::ENFILE) => ": out of file descriptors",
            _ => "",
        };
        SpawnError {
            busy: e.raw_os_error() == Some(libc::ETXTBSY),
            text: format!("can't start {}: {e}{advice}", path.display()),
        }
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A started generation, and the predecessor's ends of its channels.
#[derive(Debug)]
pub(crate) struct Offspring {
    pub(crate) child: Child,
    pub(crate) lifecycle: Channel,
    pub(crate) connections: OwnedFd,
    pub(crate) state: StateFile,
}

/// Starts the next generation. `hello` waits for it in the channel.
pub(crate) fn spawn(
    program: &Program,
    listeners: &[(String, BorrowedFd<'_>)],
    files: &[(String, BorrowedFd<'_>)],
    hello: Hello,
) -> Result<Offspring, SpawnError> {
    let failed = |e: io::Error| SpawnError::new(&program.path, &e);
    let (mut lifecycle, its_lifecycle) = Channel::pair().map_err(failed)?;
    lifecycle.send(&Message::Hello(hello));
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (connections, its_connections) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(|e| failed(e.into()))?;

    let mut fds: Vec<BorrowedFd<'_>> = listeners.iter().map(|(_, fd)| *fd).collect();
    let state = StateFile::new().map_err(failed)?;
    fds.extend([its_lifecycle.as_fd(), its_connections.as_fd(), state.as_fd()]);
    fds.extend(files.iter().map(|(_, fd)| *fd));
    let inode = fs_inode(its_lifecycle.as_fd()).map_err(failed)?;
    let note = format!("channel={inode};listeners={};files={}", names(listeners), names(files));
    let mut env = program.env.clone();
    env.push(variable(VARIABLE.as_ref(), note.as_ref()).map_err(failed)?);

    let path = c_string(program.path.clone().into_os_string()).map_err(failed)?;
    let cwd = program.cwd();
    // HUP and USR1, USR2 wait until the child can hear them; TERM, INT and QUIT end it.
    let mut mask = program.blocked;
    mask.add(Signal::SIGHUP);
    mask.add(Signal::SIGUSR1);
    mask.add(Signal::SIGUSR2);
    let mut defaults = SigSet::empty();
    // Rust's runtime ignores SIGPIPE; a program that we start was not asked about it.
    defaults.add(Signal::SIGPIPE);
    let pid = sys::spawn(&sys::Spawn {
        path: &path,
        argv: &program.argv,
        env: &env,
        cwd: cwd.as_deref(),
        fds: &fds,
        mask: &mask,
        defaults: &defaults,
    })
    .map_err(failed)?;
    info!("handover: started {} as child {pid}", program.path.display());
    Ok(Offspring { child: Child::new(pid), lifecycle, connections, state })
}

fn names(fds: &[(String, BorrowedFd<'_>)]) -> String {
    fds.iter().map(|(name, _)| escape(name.as_bytes())).collect::<Vec<_>>().join(",")
}

fn fs_inode(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(fd)?.st_ino)
}

/// A process of ours, to be killed or reaped. Dropping it does neither.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    /// None on kernels without pidfds: then only the end of its channel tells of its death.
    pidfd: Option<OwnedFd>,
    end: Option<String>,
}

impl Child {
    fn new(pid: Pid) -> Child {
        let pidfd = sys::pidfd_open(pid).map_err(|e| debug!("no pidfd for {pid}: {e}")).ok();
        Child { pid, pidfd, end: None }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Readable when the child has ended.
    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// How the child ended, if it has; reaps it.
    pub(crate) fn end(&mut self) -> Option<&str> {
        if self.end.is_none() {
            self.end = self.wait(WaitPidFlag::WNOHANG);
        }
        self.end.as_deref()
    }

    /// For a child that is about to end: its channel has, or it said so.
    pub(crate) fn wait_briefly(&mut self) {
        if let (None, Some(pidfd)) = (self.end.as_ref(), &self.pidfd) {
            let _ = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], LAST_BREATH);
        }
    }

    /// Kills and reaps it.
    pub(crate) fn kill(&mut self) {
        if self.end().is_none() {
            let _ = kill(self.pid, Signal::SIGKILL);
            self.end = self.wait(WaitPidFlag::empty());
        }
    }

    fn wait(&self, flags: WaitPidFlag) -> Option<String> {
        loop {
            return match waitpid(self.pid, Some(flags)) {
                Ok(WaitStatus::Exited(_, code)) => Some(format!("exited with status {code}")),
                Ok(WaitStatus::Signaled(_, signal, _)) => Some(format!("was killed by {signal}")),
                Ok(_) => None,
                Err(Errno::EINTR) => continue,
                // Somebody else reaped it (a SIGCHLD handler of the user's): dead all the same.
                Err(_) => Some("is gone".to_owned()),
            };
        }
    }
}
