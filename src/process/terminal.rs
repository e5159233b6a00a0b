//! The controlling terminal of this process: whether it was closed, or its session only lost its leader.
//!
//! If generation 1, or a program that waits for it, leads the session of a terminal (tmux, screen, script, sshd, sudo), its
//! end is the leader's end: the kernel takes the terminal from the session and sends SIGHUP to the foreground, and
//! the program behind the terminal closes it, because its job is done. No user has closed a terminal then. If one does, the
//! terminal hangs up first, and then the kernel signals the leader. So the order of the two events distinguishes the cases,
//! and an epoll reports events in the order in which they happened, however late it is read. One thing may spoil that order:
//! see `leader_has_left`.
//!
//! Time alone would not do: a terminal that is closed right after an upgrade hangs up within milliseconds of the
//! predecessor's end, too. sudo's two halves end at once, and consoles hang up at the leader's end: there only signals show it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::{Pid, getpgrp, getpid, getsid};

use crate::base::log::debug;
use crate::base::sync::lock;
use crate::base::sys;

/// The names by which both descriptors go to a successor.
pub(crate) const TTY_FILE: &str = "heirloom:terminal";
pub(crate) const LEADER_FILE: &str = "heirloom:session-leader";

/// How a terminal was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Its window was closed, or its connection broke.
    Closed,
    /// The session's leader ended while the terminal was open.
    LeaderEnded,
}

/// The controlling terminal of this process, or of the generations before it. As a descriptor it becomes readable when the
/// terminal is lost.
pub(crate) struct Terminal {
    poller: Epoll,
    /// Its hang-up means that it was closed. Otherwise a hang-up may also be a part of the leader's end.
    shows_close: bool,
    /// The process on the other side, if the leader is one half (sudo) and had a terminal of its own.
    holder: Option<Holder>,
    state: Mutex<TerminalState>,
}

enum TerminalState {
    Held {
        tty: OwnedFd,
        /// None on kernels without pidfds, and where the leader is outside our pid namespace.
        leader: Option<OwnedFd>,
    },
    Lost(Loss),
}

impl TerminalState {
    /// Whether the leader has ended, and not by the signal that a closed terminal sends. False where that can't be known:
    /// before Linux 6.15, and until its parent has reaped it.
    ///
    /// A terminal is in the list of an epoll from its last change on, such as new settings, which a shell makes before it
    /// exits, until the list is read: so it may be the first of two though it has hung up after the leader's end. A leader that
    /// catches SIGHUP and exits is then taken for one that has left: rarer than a shell that exits in a window, which closes at once.
    fn leader_has_left(&self) -> bool {
        let TerminalState::Held { leader: Some(leader), .. } = self else { return false };
        let status = sys::pidfd_exit_status(leader.as_fd()).ok().flatten();
        status.is_some_and(|status| !(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGHUP))
    }
}

const TTY: u64 = 0;
const LEADER: u64 = 1;

impl Terminal {
    /// None: this process has no controlling terminal.
    ///
    /// # Errors
    /// When that can't be found out.
    pub(crate) fn controlling() -> io::Result<Option<Terminal>> {
        let tty = match open() {
            Ok(tty) => tty,
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return Ok(None),
            Err(e) => return Err(e),
        };
        let leader = getsid(None)?;
        let pidfd = sys::pidfd_open(leader).inspect_err(|e| debug!("no pidfd for the session's leader: {e}"));
        let holder = Some(leader).filter(|leader| *leader != getpid()).and_then(Holder::of);
        let shows_close = sys::is_pty(tty.as_fd()) && holder.is_none();
        let holder = holder.filter(|holder| !holder.has_no_terminal());
        Ok(Some(Terminal { holder, ..Terminal::of(tty, pidfd.ok(), shows_close)? }))
    }

    /// The terminal that a predecessor has passed. Its session may be another one than ours.
    pub(crate) fn inherited(tty: OwnedFd, leader: Option<OwnedFd>) -> io::Result<Terminal> {
        let shows_close = true;
        Terminal::of(tty, leader, shows_close)
    }

    fn of(tty: OwnedFd, leader: Option<OwnedFd>, shows_close: bool) -> io::Result<Terminal> {
        let poller = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // The leader is added first: if both have ended already, their order is unknown, and the predecessor, which served,
        // decides.
        if let Some(leader) = &leader {
            poller.add(leader, EpollEvent::new(EpollFlags::EPOLLIN, LEADER))?;
        }
        if shows_close {
            // A hang-up is reported without being asked for.
            poller.add(&tty, EpollEvent::new(EpollFlags::empty(), TTY))?;
        }
        Ok(Terminal {
            poller,
            shows_close,
            holder: None,
            state: Mutex::new(TerminalState::Held { tty, leader }),
        })
    }

    /// Whether it, or the terminal through which it is shown, has hung up, whatever the cause.
    pub(crate) fn has_hung_up(&self) -> bool {
        if self.holder.as_ref().is_some_and(Holder::has_no_terminal) {
            return true;
        }
        match &*lock(&self.state) {
            TerminalState::Held { tty, .. } => {
                let mut fds = [PollFd::new(tty.as_fd(), PollFlags::empty())];
                poll(&mut fds, 0u8).is_ok_and(|ready| ready > 0)
            }
            TerminalState::Lost(loss) => *loss == Loss::Closed,
        }
    }

    /// How it was lost; None: it is still there.
    pub(crate) fn loss(&self) -> Option<Loss> {
        let mut state = lock(&self.state);
        if let TerminalState::Lost(loss) = *state {
            return Some(loss);
        }
        let mut events = [EpollEvent::empty(); 2];
        let n = self.poller.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let loss = match (n, events.map(|event| event.data())) {
            (0, _) => return None,
            (_, [LEADER, _]) => Loss::LeaderEnded,
            (2, [TTY, LEADER]) if state.leader_has_left() => Loss::LeaderEnded,
            _ => Loss::Closed,
        };
        // This closes both descriptors: the program on the other side may wait for that.
        *state = TerminalState::Lost(loss);
        Some(loss)
    }

    /// Whether a successor needs a session of its own: we are in the group of the session's leader, as it or below it, without
    /// job control, so the kernel signals our whole group when the leader ends.
    pub(crate) fn ends_with_leader(&self) -> bool {
        // An inherited terminal is not that of our session.
        getsid(None).is_ok_and(|leader| leader == getpgrp()) && open().is_ok()
    }

    /// The descriptors for a successor, by name.
    pub(crate) fn files(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        match &*lock(&self.state) {
            TerminalState::Held { tty, leader } if self.shows_close => {
                let mut files = vec![(TTY_FILE.to_owned(), tty.try_clone()?)];
                if let Some(leader) = leader {
                    files.push((LEADER_FILE.to_owned(), leader.try_clone()?));
                }
                Ok(files)
            }
            _ => Ok(Vec::new()),
        }
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poller.0.as_fd()
    }
}

fn open() -> io::Result<OwnedFd> {
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    Ok(OpenOptions::new().read(true).custom_flags(flags).open("/dev/tty")?.into())
}

/// A program whose child leads the session of the terminal that it holds, as sudo does: both end at once, and which of them
/// comes first says nothing. It passes on the signals that it gets when its own terminal is closed.
struct Holder {
    pid: String,
}

impl Holder {
    /// The holder above a session's leader, which has the same name if the leader is one half of it.
    fn of(leader: Pid) -> Option<Holder> {
        let leader = Stat::of(&leader.to_string())?;
        let holder = Stat::of(&leader.parent)?;
        (holder.name == leader.name).then_some(Holder { pid: leader.parent })
    }

    fn has_no_terminal(&self) -> bool {
        Stat::of(&self.pid).is_some_and(|stat| stat.terminal == "0")
    }
}

/// Of `/proc/PID/stat`.
struct Stat {
    name: String,
    parent: String,
    terminal: String,
}

impl Stat {
    fn of(pid: &str) -> Option<Stat> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ').map(str::to_owned);
        Some(Stat {
            name: head.split_once('(')?.1.to_owned(),
            parent: fields.nth(1)?,
            // After the group and the session.
            terminal: fields.nth(2)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    use nix::fcntl::OFlag;
    use nix::pty::{posix_openpt, ptsname_r, unlockpt};
    use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};

    use super::*;

    /// A socket stands for each: one hangs up when it is shut down, one is readable when something is written. A child that
    /// another test starts may have copies of both.
    struct Stage {
        terminal: Terminal,
        master: UnixStream,
        leader: UnixStream,
    }

    impl Stage {
        fn new(shows_close: bool) -> Stage {
            let ((tty, master), (pidfd, leader)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
            let terminal = Terminal::of(tty.into(), Some(pidfd.into()), shows_close).unwrap();
            Stage { terminal, master, leader }
        }

        fn hang_up(&self) {
            self.master.shutdown(Shutdown::Both).unwrap();
        }

        fn end_leader(&self) {
            // No process reads it if the terminal is lost already.
            let _ = (&self.leader).write(b".");
        }
    }

    /// The settings of a terminal change, then its session's leader ends, then it is closed, and only now it is looked at.
    #[test]
    fn a_leader_that_left_a_changed_terminal_is_the_cause() {
        for (end, cause) in [("exit 3", Loss::LeaderEnded), ("kill -HUP $$", Loss::Closed)] {
            let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
            unlockpt(&master).unwrap();
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).custom_flags(libc::O_NOCTTY);
            let slave = OwnedFd::from(options.open(ptsname_r(&master).unwrap()).unwrap());
            let mut sh = Command::new("sh");
            let mut leader =
                sh.args(["-c", &format!("read line; {end}")]).stdin(Stdio::piped()).spawn().unwrap();
            let pidfd = sys::pidfd_open(Pid::from_raw(leader.id().cast_signed())).unwrap();
            let terminal = Terminal::of(slave.try_clone().unwrap(), pidfd.try_clone().ok(), true).unwrap();
            assert_eq!(terminal.loss(), None);
            tcsetattr(&slave, SetArg::TCSANOW, &tcgetattr(&slave).unwrap()).unwrap();
            drop(leader.stdin.take());
            leader.wait().unwrap();
            drop(master);
            assert_eq!(poll(&mut [PollFd::new(slave.as_fd(), PollFlags::empty())], 10_000u16), Ok(1));
            let is_known = matches!(sys::pidfd_exit_status(pidfd.as_fd()), Ok(Some(_)));
            assert_eq!(terminal.loss(), Some(if is_known { cause } else { Loss::Closed }));
        }
    }

    #[test]
    fn what_came_first_is_the_cause_however_late_it_is_looked_at() {
        for _ in 0..100 {
            let stage = Stage::new(true);
            assert_eq!((stage.terminal.loss(), stage.terminal.has_hung_up()), (None, false));
            stage.hang_up();
            stage.end_leader();
            assert!(stage.terminal.has_hung_up());
            assert_eq!(stage.terminal.loss(), Some(Loss::Closed));

            let stage = Stage::new(true);
            stage.end_leader();
            stage.hang_up();
            assert_eq!(stage.terminal.loss(), Some(Loss::LeaderEnded));
            assert!(!stage.terminal.has_hung_up());
        }
    }

    #[test]
    fn what_comes_later_changes_nothing() {
        let stage = Stage::new(true);
        stage.end_leader();
        assert_eq!(stage.terminal.loss(), Some(Loss::LeaderEnded));
        stage.hang_up();
        assert_eq!(stage.terminal.loss(), Some(Loss::LeaderEnded));

        let stage = Stage::new(true);
        stage.hang_up();
        assert_eq!(stage.terminal.loss(), Some(Loss::Closed));
        stage.end_leader();
        assert_eq!(stage.terminal.loss(), Some(Loss::Closed));
    }

    #[test]
    fn where_its_leaders_end_hangs_it_up_only_that_is_seen() {
        let stage = Stage::new(false);
        stage.hang_up();
        assert_eq!((stage.terminal.loss(), stage.terminal.has_hung_up()), (None, true));
        stage.end_leader();
        assert_eq!(stage.terminal.loss(), Some(Loss::LeaderEnded));
    }

    #[test]
    fn if_the_order_is_unknown_the_leader_ended_first() {
        let ((tty, master), (pidfd, mut leader)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        master.shutdown(Shutdown::Both).unwrap();
        leader.write_all(b".").unwrap();
        assert_eq!(
            Terminal::inherited(tty.into(), Some(pidfd.into())).unwrap().loss(),
            Some(Loss::LeaderEnded)
        );
    }

    #[test]
    fn a_successor_gets_what_is_held_and_tells() {
        let names = |stage: &Stage| -> Vec<String> {
            stage.terminal.files().unwrap().into_iter().map(|(name, _)| name).collect()
        };
        let stage = Stage::new(true);
        assert_eq!(names(&stage), [TTY_FILE, LEADER_FILE]);
        stage.end_leader();
        assert_eq!(stage.terminal.loss(), Some(Loss::LeaderEnded));
        assert!(names(&stage).is_empty());
        assert!(names(&Stage::new(false)).is_empty());
    }
}
