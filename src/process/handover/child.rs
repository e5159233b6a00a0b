//! Starts the program again, with the listeners and both channels, and reports the child's death. It sends nothing
//! except the HELLO; the control loop does the rest.
//!
//! The new process is our child, except where a service manager is notified (NOTIFY_SOCKET). There it becomes a child of our
//! own parent by CLONE_PARENT: systemd learns the end of a main process at once only if that is its own child, and when it
//! learns it late, `systemctl stop` kills requests. `waitpid` knows nothing of such a process, so it is dead when its pidfd
//! says so, and not before; without pidfds it stays our child, as it does where the kernel refuses CLONE_PARENT. The
//! alternative, a process in between that exits at once, needs a fork of a process with threads, and its pid is known late.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::statfs::fstatfs;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

use super::channel::Channel;
use super::startup_output::{OutputPipe, StartupMessages};
use super::state_file::StateFile;
use super::{CommandLine, Hello, Message, Passed, escape, original_command};
use crate::base::log::{Escaped, debug, info, warn};
use crate::base::sys::{self, Session};
use crate::process::signals;
use crate::process::supervise::link::Link;
use crate::process::supervise::message::Recipe;
use crate::process::systemd;

/// The variable by which a successor knows what it inherits.
pub(crate) const VARIABLE: &str = "HEIRLOOM_HANDOVER";
/// What a successor finds from here on: listeners, then the lifecycle and the connection channel,
/// the file with the user's state, and the user's files.
pub(crate) const FIRST_FD: i32 = 3;

/// Between the closing of a dying process's descriptors and its end, in milliseconds.
const LAST_BREATH: u16 = 500;

/// Between SIGKILL and the end of a process that can end, in milliseconds, on a busy machine.
const KILLED: u16 = 5_000;

/// The length of a command in a message; a byte takes up to three, a line has 64 KiB.
const COMMAND_BYTES: usize = 16 << 10;

/// How this process was started, so that it can be started again.
pub(crate) struct Program {
    path: PathBuf,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: Option<PathBuf>,
    /// Signals blocked when the first generation was started.
    pub(crate) blocked: SigSet,
}

impl Program {
    /// Notes arguments and working directory as they are now, and path and environment as they were when this process was
    /// started. `executable` takes the place of that path; `variables` are set in the environment, or removed from it.
    ///
    /// `command` is how a predecessor started us: a script in between that had the program take its
    /// own place is not seen from here, but its successor is to be run in turn.
    pub(crate) fn capture(
        executable: Option<&Path>,
        command: Option<&CommandLine>,
        variables: &[(OsString, Option<OsString>)],
        blocked: SigSet,
    ) -> io::Result<Program> {
        let start = original_command::noted();
        let cwd = first_cwd();
        let handed = command.map(|command| PathBuf::from(OsString::from_vec(command.path.clone())));
        let path = executable.map(Path::to_path_buf).or(handed).or_else(|| start.executable.clone());
        let path = path.map_or_else(env::current_exe, Ok)?;
        let path = match &cwd {
            Some(cwd) => cwd.join(path),
            None => path,
        };
        let argv: Vec<OsString> = match command {
            Some(command) => command.argv.iter().map(|arg| OsString::from_vec(arg.clone())).collect(),
            None => env::args_os().collect(),
        };
        let argv = argv.into_iter().map(c_string).collect::<io::Result<_>>()?;
        let mut env = start.environment.clone();
        for (name, value) in variables {
            let head = original_command::pair(name, OsStr::new(""));
            env.retain(|pair| !pair.as_bytes().starts_with(head.as_bytes()));
            env.extend(value.as_ref().map(|value| original_command::pair(name, value)));
        }
        env.extend(systemd::watchdog_for_successors());
        let env = env.into_iter().map(c_string).collect::<io::Result<_>>()?;
        Ok(Program { path, argv, env, cwd, blocked })
    }

    /// None where it is too long for a message: then the successor goes by what it sees.
    pub(crate) fn command(&self) -> Option<CommandLine> {
        let argv: Vec<Vec<u8>> = self.argv.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        let bytes = argv
            .iter()
            .fold(self.path.as_os_str().len(), |sum, arg| sum.saturating_add(arg.len()).saturating_add(1));
        (bytes <= COMMAND_BYTES)
            .then(|| CommandLine { path: self.path.as_os_str().as_bytes().to_vec(), argv })
    }

    /// How it is started.
    pub(crate) fn recipe(&self) -> Recipe {
        let (mask, cwd) = (signals::numbers(&self.blocked), self.cwd());
        Recipe { path: self.path.clone(), cwd, mask, argv: self.argv.clone(), env: self.env.clone() }
    }

    /// The directory to start in: None, the present one, if the first one is gone or is that.
    fn cwd(&self) -> Option<PathBuf> {
        let cwd = self.cwd.as_deref()?;
        match (fs::metadata(cwd), fs::metadata(".")) {
            (Ok(first), Ok(now)) if same_inode(&first, &now) => None,
            (Ok(first), _) if first.is_dir() => Some(cwd.to_owned()),
            _ => {
                warn!(
                    "handover: the working directory {} is gone: using the current one", cwd.display();
                    path:% = Escaped(cwd.display())
                );
                None
            }
        }
    }
}

/// `$PWD` if it names the working directory, so that a symlink in it is resolved again.
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
    c_string(original_command::pair(key, value))
}

/// Why no child was started.
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
            Some(libc::ENOEXEC) => ": it is not a program for this machine",
            Some(libc::ETXTBSY) => ": it is being written",
            Some(libc::EMFILE) => ": out of file descriptors, raise the limit (ulimit -n)",
            Some(libc::ENFILE) => ": this host is out of file descriptors",
            Some(libc::EAGAIN) => ": out of processes, raise the limit (ulimit -u, pids.max)",
            Some(libc::ENOMEM) => ": out of memory",
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

/// A generation that was started, and the predecessor's ends of its channels.
pub(crate) struct Spawned {
    pub(crate) child: Child,
    pub(crate) lifecycle: Channel,
    pub(crate) connections: OwnedFd,
    pub(crate) state: StateFile,
    pub(crate) messages: StartupMessages,
}

/// What a successor finds from its third descriptor on.
pub(crate) struct Left<'a> {
    pub(crate) listeners: &'a [Passed],
    /// Its ends of the lifecycle and the connection channel. None: there is no predecessor.
    pub(crate) channels: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
    pub(crate) state: Option<BorrowedFd<'a>>,
    pub(crate) files: &'a [(String, BorrowedFd<'a>)],
}

impl Left<'_> {
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = Vec::new();
        for passed in self.listeners {
            fds.push(passed.fd.as_fd());
        }
        if let Some((lifecycle, connections)) = self.channels {
            fds.extend_from_slice(&[lifecycle, connections]);
        }
        fds.extend(self.state);
        for (_, fd) in self.files {
            fds.push(*fd);
        }
        fds
    }

    /// The variable that describes them.
    pub(crate) fn variable(&self) -> io::Result<CString> {
        let channel = match self.channels {
            Some((lifecycle, _)) => format!("channel={};", fs_inode(lifecycle)?),
            None => String::new(),
        };
        let (mut listeners, mut paths, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        for passed in self.listeners {
            listeners.push(escape(passed.name.as_bytes()));
            paths.push(passed.file.map_or(String::new(), |file| file.to_string()));
            owners.push(passed.owner.word().to_owned());
        }
        let state = if self.state.is_some() { ";state=1" } else { "" };
        let (mut files, mut inodes) = (Vec::new(), Vec::new());
        for (name, _) in self.files {
            files.push(escape(name.as_bytes()));
        }
        for fd in self.fds() {
            inodes.push(fs_inode(fd)?.to_string());
        }
        let [listeners, files, inodes, paths] =
            [listeners, files, inodes, paths].map(|words| words.join(","));
        let owners = match owners.iter().all(String::is_empty) {
            true => String::new(),
            false => format!(";owners={}", owners.join(",")),
        };
        let note = format!(
            "{channel}listeners={listeners}{state};files={files};sockets={inodes};paths={paths}{owners}"
        );
        variable(VARIABLE.as_ref(), note.as_ref())
    }
}

/// Starts the next generation, in a session of its own or in ours. `hello` waits for it in the channel. Under a supervisor,
/// that starts it.
pub(crate) fn spawn(
    program: &Program,
    listeners: &[Passed],
    files: &[(String, BorrowedFd<'_>)],
    hello: Hello,
    session: Session,
    link: Option<&mut Link>,
) -> Result<Spawned, SpawnError> {
    let failed = |e: io::Error| SpawnError::new(&program.path, &e);
    let (mut lifecycle, its_lifecycle) = Channel::pair().map_err(failed)?;
    lifecycle.pass_credentials().map_err(failed)?;
    lifecycle.send(&Message::Hello(hello));
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (connections, its_connections) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(|e| failed(e.into()))?;

    let state = StateFile::new().map_err(failed)?;
    let (pipe, messages) = OutputPipe::start();
    let mut files = files.to_vec();
    files.extend(pipe.as_ref().map(OutputPipe::file));
    let left = Left {
        listeners,
        channels: Some((its_lifecycle.as_fd(), its_connections.as_fd())),
        state: Some(state.as_fd()),
        files: &files,
    };
    let note = left.variable().map_err(failed)?;
    let fds = left.fds();

    // HUP and USR1, USR2 wait until the child can receive them; TERM, INT and QUIT end it.
    let mut mask = program.blocked;
    mask.add(Signal::SIGHUP);
    mask.add(Signal::SIGUSR1);
    mask.add(Signal::SIGUSR2);
    let recipe = Recipe { mask: signals::numbers(&mask), ..program.recipe() };
    let child = match link {
        Some(link) => link.spawn(&recipe, note, &fds).map(Child::of_supervisor),
        None => recipe.start(&fds, &[note], (session, &mask), start),
    };
    let child = child.map_err(failed)?;
    info!(
        "handover: started {} as child {}", program.path.display(), child.pid();
        successor = child.pid().as_raw(),
        path:% = Escaped(program.path.display())
    );
    Ok(Spawned { child, lifecycle, connections, state, messages })
}

fn start(spawn: &sys::Spawn<'_>) -> io::Result<Child> {
    // Without pidfds nothing would report the end of a process that is not our child.
    if systemd::notify_socket().is_some() && sys::pidfd_open(getpid()).is_ok() {
        if let Some((pid, pidfd)) = sys::spawn_sibling(spawn)? {
            return Ok(Child::new(Process { pid, pidfd: Some(pidfd) }, Kinship::Sibling));
        }
        info!("systemd: the kernel refuses CLONE_PARENT: the successor is a child of this process");
    }
    Ok(Child::new(Process::new(sys::spawn(spawn)?), Kinship::Child))
}

/// The number by which systemd knows a process beside its pid: that of its pidfd, where those have numbers of their own
/// (Linux 6.9).
pub(crate) fn pidfd_id(pidfd: BorrowedFd<'_>) -> Option<u64> {
    const PIDFS: u64 = 0x5049_4446;
    let kind = fstatfs(pidfd).ok()?.filesystem_type();
    let is_numbered = u64::try_from(kind.0).is_ok_and(|kind| kind == PIDFS);
    is_numbered.then(|| fs_inode(pidfd).ok()).flatten()
}

fn fs_inode(fd: BorrowedFd<'_>) -> io::Result<u64> {
    sys::file_id(fd.as_raw_fd()).map(|(_, inode)| inode).ok_or_else(io::Error::last_os_error)
}

/// A child process, to be killed or reaped. Dropping it does neither.
pub(crate) struct Child {
    process: Process,
    kinship: Kinship,
    /// The generation itself, where our child is a script that waits for it.
    below: Option<Process>,
    end: Option<End>,
}

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exited(i32),
    Killed(Signal),
    /// The kernel does not report how.
    Unknown,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exited(code) => write!(f, "exited with status {code}"),
            End::Killed(signal) => write!(f, "was killed by {signal}"),
            End::Unknown => f.write_str("has ended"),
        }
    }
}

/// Which process is its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kinship {
    /// Ours: we reap it.
    Child,
    /// A child of our parent, which reaps it: a service manager or the supervisor. Our pidfd reports its end.
    Sibling,
}

struct Process {
    pid: Pid,
    /// None on kernels without pidfds: then only the end of its channel reports its death.
    pidfd: Option<OwnedFd>,
}

impl Process {
    fn new(pid: Pid) -> Process {
        let pidfd = sys::pidfd_open(pid).map_err(|e| debug!("no pidfd for {pid}: {e}")).ok();
        Process { pid, pidfd }
    }

    /// How it has ended, where another process reaps it. Without a pidfd only a pid that nobody has proves it.
    fn end_unreaped(&self) -> Option<End> {
        match &self.pidfd {
            Some(pidfd) if self.ends_within(0) => Some(reaped_status(pidfd.as_fd())),
            Some(_) => None,
            None => (kill(self.pid, None) == Err(Errno::ESRCH)).then_some(End::Unknown),
        }
    }

    fn ends_within(&self, milliseconds: u16) -> bool {
        self.pidfd.as_ref().is_some_and(|pidfd| {
            let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, milliseconds).is_ok_and(|ready| ready > 0)
        })
    }
}

/// The status of a process that has ended. The kernel reports it from Linux 6.15 on, when the parent has reaped the process.
fn reaped_status(pidfd: BorrowedFd<'_>) -> End {
    let mut status = sys::pidfd_exit_status(pidfd);
    if matches!(status, Ok(None)) {
        // Without an event only the hang-up that follows the reaping is reported.
        let _ = poll(&mut [PollFd::new(pidfd, PollFlags::empty())], LAST_BREATH);
        status = sys::pidfd_exit_status(pidfd);
    }
    let Ok(Some(status)) = status else { return End::Unknown };
    match WaitStatus::from_raw(getpid(), status) {
        Ok(WaitStatus::Exited(_, code)) => End::Exited(code),
        Ok(WaitStatus::Signaled(_, signal, _)) => End::Killed(signal),
        _ => End::Unknown,
    }
}

impl Child {
    fn new(process: Process, kinship: Kinship) -> Child {
        Child { process, kinship, below: None, end: None }
    }

    /// One that the supervisor has started for us.
    fn of_supervisor(pid: Pid) -> Child {
        Child::new(Process::new(pid), Kinship::Sibling)
    }

    pub(crate) fn pid(&self) -> Pid {
        self.process.pid
    }

    /// The process that serves: the child, or the one it waits for.
    pub(crate) fn server(&self) -> Pid {
        self.below.as_ref().map_or(self.process.pid, |below| below.pid)
    }

    /// Its number, where that is known: see [`pidfd_id`].
    pub(crate) fn server_pidfd_id(&self) -> Option<u64> {
        pidfd_id(self.below.as_ref().unwrap_or(&self.process).pidfd.as_ref()?.as_fd())
    }

    /// Notes that `pid` has sent a message for it. True if that is new: our child is a script, and another process must be
    /// watched.
    pub(crate) fn speaks_by(&mut self, pid: Pid) -> bool {
        let news = pid != self.server();
        if news {
            self.below = Some(Process::new(pid));
        }
        news
    }

    /// Readable when the child, or the process that it waits for, has ended.
    pub(crate) fn pidfds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let below = self.below.as_ref().and_then(|below| below.pidfd.as_ref());
        self.process.pidfd.iter().chain(below).map(AsFd::as_fd)
    }

    /// How the child ended, if it has; reaps it.
    pub(crate) fn end(&mut self) -> Option<End> {
        if self.end.is_none() {
            self.end = self.wait(WaitPidFlag::WNOHANG);
        }
        self.end
    }

    /// As `end`, in words; `alive` if it has not.
    pub(crate) fn end_or(&mut self, alive: &str) -> String {
        self.end().map_or_else(|| alive.to_owned(), |end| end.to_string())
    }

    /// Whether the generation has ended: the process that our child waits for may outlive it.
    pub(crate) fn is_gone(&mut self) -> bool {
        match &self.below {
            Some(below) => below.ends_within(0),
            None => self.end().is_some(),
        }
    }

    /// How the generation has ended, as far as is known: our child, or the process that it waits for.
    pub(crate) fn server_end(&mut self) -> Option<End> {
        match &self.below {
            Some(below) => below.end_unreaped(),
            None => self.end(),
        }
    }

    /// For a child that is about to end: its channel has ended, or it has said so.
    pub(crate) fn wait_briefly(&mut self) {
        if self.end.is_none() {
            let _ = self.process.ends_within(LAST_BREATH);
        }
    }

    /// Kills it and the process that it waits for, and reaps it if it ends at once.
    pub(crate) fn kill(&mut self) {
        if let Some(pidfd) = self.below.as_ref().and_then(|below| below.pidfd.as_ref()) {
            let _ = sys::pidfd_kill(pidfd.as_fd());
        }
        if self.end().is_none() {
            match (self.kinship, &self.process.pidfd) {
                (Kinship::Sibling, Some(pidfd)) => drop(sys::pidfd_kill(pidfd.as_fd())),
                _ => drop(kill(self.process.pid, Signal::SIGKILL)),
            }
            // A process that waits for a hanging file system ends only when that answers.
            let can_wait = self.process.pidfd.is_some();
            let _ = self.process.ends_within(KILLED);
            self.end = self.wait(if can_wait { WaitPidFlag::WNOHANG } else { WaitPidFlag::empty() });
        }
    }

    fn wait(&self, flags: WaitPidFlag) -> Option<End> {
        if self.kinship == Kinship::Sibling {
            return self.process.end_unreaped();
        }
        loop {
            return match waitpid(self.process.pid, Some(flags)) {
                Ok(WaitStatus::Exited(_, code)) => Some(End::Exited(code)),
                Ok(WaitStatus::Signaled(_, signal, _)) => Some(End::Killed(signal)),
                Ok(_) => None,
                Err(Errno::EINTR) => continue,
                // Other code reaps our children (a SIGCHLD handler of the user's), which proves nothing by itself.
                Err(_) => self.process.end_unreaped(),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::unistd::getppid;

    use super::*;
    use crate::base::skip::skip;

    #[test]
    fn echild_alone_proves_no_death() {
        let child = |pid, pidfd| Child {
            process: Process { pid, pidfd },
            kinship: Kinship::Child,
            below: None,
            end: None,
        };
        // waitpid fails with ECHILD for each of them.
        let alive = getppid();
        assert_eq!(child(alive, None).end(), None);
        assert_eq!(child(alive, sys::pidfd_open(alive).ok()).end(), None);
        let mut program = Command::new("true").spawn().unwrap();
        let dead = Pid::from_raw(program.id().cast_signed());
        let pidfd = sys::pidfd_open(dead).unwrap();
        program.wait().unwrap();
        let end = child(dead, Some(pidfd)).end();
        assert!(matches!(end, Some(End::Exited(0) | End::Unknown)), "{end:?}");
        assert_eq!(child(Pid::from_raw(i32::MAX), None).end(), Some(End::Unknown));
    }

    /// What the test in the namespace expects.
    const EXPECTED: &str = "HEIRLOOM_TEST_KINSHIP";

    /// The kernel refuses CLONE_PARENT to the first process of a pid namespace: it has no siblings.
    #[test]
    fn the_first_process_of_a_namespace_starts_a_child() {
        if let Some(expected) = env::var_os(EXPECTED) {
            return starts(&expected.to_string_lossy());
        }
        if !systemd::CAN_NOTIFY {
            return;
        }
        let unshare = |command: &[&str]| {
            let as_root: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--map-root-user"] };
            let mut unshare = Command::new("unshare");
            unshare.args(as_root).args(["--fork", "--pid", "--kill-child"]).args(command);
            unshare
        };
        match unshare(&["true"]).output() {
            Ok(tried) if tried.status.success() => {}
            tried => return skip(&format!("unshare --pid: {tried:?}")),
        }
        let this = env::current_exe().unwrap();
        let name = "process::handover::child::tests::the_first_process_of_a_namespace_starts_a_child";
        let test = [this.to_str().unwrap(), "--exact", name];
        // A shell that stays.
        let below_init = [&["sh", "-c", "\"$0\" \"$@\" && true"], &test[..]].concat();
        for (command, expected) in [(&test[..], "Child"), (&below_init[..], "Sibling")] {
            let ran =
                unshare(command).env(EXPECTED, expected).env("NOTIFY_SOCKET", "/none").output().unwrap();
            let said = String::from_utf8_lossy(&ran.stdout);
            assert!(ran.status.success() && said.contains("1 passed"), "{expected}: {said}");
        }
    }

    fn starts(expected: &str) {
        let none = SigSet::empty();
        let mut child = start(&sys::Spawn {
            path: c"/bin/sh",
            argv: &[c"sh".to_owned(), c"-c".to_owned(), c"exit 7".to_owned()],
            env: &[],
            cwd: None,
            fds: &[],
            mask: &none,
            defaults: &none,
            session: Session::Shared,
        })
        .unwrap();
        assert_eq!(format!("{:?}", child.kinship), expected);
        while child.end().is_none() {
            child.wait_briefly();
        }
        let status = child.end();
        assert!(
            status == Some(End::Exited(7)) || expected == "Sibling" && status == Some(End::Unknown),
            "{status:?}"
        );
    }
}
