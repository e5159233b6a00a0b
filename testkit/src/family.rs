//! All processes of a server: the first generation, and those that its log names. Held by
//! pidfds, so that no number is mistaken for a later process.

use std::fs::{self, DirEntry};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::facts::numbers;
use crate::{DEADLINE, pass};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Status(i32),
    Killed(Signal),
    /// Only its parent, another generation, knows.
    Untold,
}

#[derive(Debug, Default)]
pub(crate) struct Family {
    members: Mutex<Vec<Member>>,
    /// The process that made the pid namespace of the log's numbers.
    maker: Option<Pid>,
}

#[derive(Debug)]
struct Member {
    pid: Pid,
    /// None: it was gone before we looked.
    pidfd: Option<OwnedFd>,
    exit: Option<Exit>,
}

impl Family {
    pub(crate) fn of(first: Pid) -> Family {
        let family = Family::default();
        family.add(first);
        family
    }

    /// A family in the pid namespace that `maker` makes.
    pub(crate) fn inside(maker: Pid) -> Family {
        Family { maker: Some(maker), ..Family::of(maker) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, pid: Pid) {
        let mut members = self.lock();
        if members.iter().all(|member| member.pid != pid) {
            let raw = rustix::process::Pid::from_raw(pid.as_raw()).expect("a pid");
            let pidfd = pidfd_open(raw, PidfdFlags::empty()).ok();
            members.push(Member { pid, pidfd, exit: None });
        }
    }

    /// Adds the process that a line of the log names: a generation names its child, and each program names itself.
    pub(crate) fn read(&self, line: &str) {
        let words = ["as child ", "] pid "];
        let Some(pid) = words.iter().find_map(|word| line.split_once(word)?.1.parse().ok()) else { return };
        match self.maker {
            Some(maker) => seen_from_here(maker, pid).into_iter().for_each(|pid| self.add(pid)),
            // Every known process is killed in the end, and the first process of this host is never a server.
            None if pid == 1 => {}
            None => self.add(Pid::from_raw(pid)),
        }
    }

    /// The process whose log and responses call it `pid`.
    pub(crate) fn known(&self, pid: i32) -> Option<Pid> {
        let pid = match self.maker {
            Some(maker) => seen_from_here(maker, pid)?,
            None => Pid::from_raw(pid),
        };
        self.add(pid);
        Some(pid)
    }

    pub(crate) fn signal(&self, pid: Pid, signal: Signal) {
        let members = self.lock();
        let member = members.iter().find(|member| member.pid == pid).expect("a known process");
        let raw = rustix::process::Signal::from_named_raw(signal as i32).expect("a signal");
        if let Some(pidfd) = &member.pidfd {
            // It may be gone; the test will see.
            let _ = pidfd_send_signal(pidfd, raw);
        }
    }

    /// How `pid` ended; None at the deadline.
    pub(crate) fn wait_exit(&self, pid: Pid) -> Option<Exit> {
        let pidfd = {
            let members = self.lock();
            let member = members.iter().find(|member| member.pid == pid).expect("a known process");
            match (member.exit, &member.pidfd) {
                (Some(exit), _) => return Some(exit),
                (None, Some(pidfd)) => pidfd.try_clone().expect("a descriptor"),
                (None, None) => return Some(Exit::Untold),
            }
        };
        if !ends_within(&pidfd, DEADLINE.as_millis()) {
            return None;
        }
        let exit = exit_of_dead(pid);
        let mut members = self.lock();
        let member = members.iter_mut().find(|member| member.pid == pid).expect("a known process");
        Some(*member.exit.get_or_insert(exit))
    }

    /// The processes that have not ended.
    pub(crate) fn alive(&self) -> Vec<Pid> {
        let lives = |member: &&Member| {
            Some(member.pid) != self.maker && member.pidfd.as_ref().is_some_and(|fd| !ends_within(fd, 0))
        };
        self.lock().iter().filter(lives).map(|member| member.pid).collect()
    }

    pub(crate) fn pids(&self) -> Vec<Pid> {
        self.lock().iter().map(|member| member.pid).collect()
    }

    /// A report for a test that has failed.
    pub(crate) fn print_states(&self) {
        for pid in self.pids() {
            let alive = self.alive().contains(&pid);
            let exit = if alive { None } else { self.wait_exit(pid) };
            let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let stat = |thread: DirEntry| fs::read_to_string(thread.path().join("stat")).ok();
            let state = |stat: String| stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
            let states: String = threads.filter_map(stat).filter_map(state).collect();
            eprintln!("| {pid}: {exit:?}, its threads: {states:?}");
        }
    }

    pub(crate) fn kill(&self) {
        for pid in self.pids() {
            self.signal(pid, Signal::SIGKILL);
        }
    }
}

/// The process with the number `inside` in the pid namespace that `maker` has made for its children.
fn seen_from_here(maker: Pid, inside: i32) -> Option<Pid> {
    let namespace = fs::read_link(format!("/proc/{maker}/ns/pid_for_children")).ok()?;
    let is_it = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let innermost = numbers.and_then(|numbers| numbers.split_whitespace().last()?.parse().ok());
        innermost == Some(inside)
            && fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|link| link == namespace)
    };
    numbers("/proc").into_iter().find(is_it).map(Pid::from_raw)
}

/// Orphans come to us (see Proc), so we learn the end of all but those whose parent lives and reaps them. A parent that is
/// about to end may do neither for a while.
fn exit_of_dead(pid: Pid) -> Exit {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => return Exit::Status(status),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Exit::Killed(signal),
            Err(Errno::ECHILD) if is_zombie(pid) && Instant::now() < deadline => {
                pass(Duration::from_millis(1))
            }
            _ => return Exit::Untold,
        }
    }
}

fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

/// Whether the process of `pidfd` is gone or goes in time.
fn ends_within(pidfd: &OwnedFd, milliseconds: u128) -> bool {
    let timeout = PollTimeout::try_from(milliseconds).expect("a short time");
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            ready => return ready.is_ok_and(|ready| ready > 0),
        }
    }
}
