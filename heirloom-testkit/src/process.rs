//! A process, held by a pidfd, so that its number is never mistaken for a later process.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};

use crate::{DEADLINE, pass};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this status, or by a signal.
    With(ExitStatus),
    /// Only its parent, another generation, knows.
    Unknown,
}

/// A process, which may have ended.
#[derive(Debug)]
pub struct Process {
    id: u32,
    /// None: it was gone before we looked.
    pidfd: Option<OwnedFd>,
    ended: Option<Ended>,
}

impl Process {
    /// The process with this number now.
    pub fn of(id: u32) -> Process {
        let pidfd = pid(id).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Process { id, pidfd, ended: None }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Sends a signal, by its number. That the process is gone is no error.
    ///
    /// # Panics
    /// If there is no such signal.
    pub fn signal(&self, number: i32) {
        let signal = Signal::from_named_raw(number).expect("a signal");
        if let Some(pidfd) = &self.pidfd {
            let _ = pidfd_send_signal(pidfd, signal);
        }
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        self.ended.is_none() && self.pidfd.as_ref().is_some_and(|pidfd| !ends_within(pidfd, Duration::ZERO))
    }

    /// Another handle of the same process, by which it can be waited for meanwhile.
    ///
    /// # Panics
    /// Without a descriptor.
    pub fn again(&self) -> Process {
        let pidfd = self.pidfd.as_ref().map(|pidfd| pidfd.try_clone().expect("a descriptor"));
        Process { id: self.id, pidfd, ended: self.ended }
    }

    /// Notes how it ended, which another handle has seen; what was noted first stays.
    #[doc(hidden)]
    pub fn learn(&mut self, ended: Ended) -> Ended {
        *self.ended.get_or_insert(ended)
    }

    /// Waits for its end, and returns how it ended. None: it still runs after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Option<Ended> {
        if self.ended.is_none() {
            self.ended = match &self.pidfd {
                None => Some(Ended::Unknown),
                Some(pidfd) => ends_within(pidfd, timeout).then(|| end_of(self.id)),
            };
        }
        self.ended
    }
}

/// How a process that has ended did so. Orphans come to us where this process is a subreaper, so we learn the end of all but
/// those whose parent lives and reaps them. A parent that is about to end may do neither for a while.
fn end_of(id: u32) -> Ended {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match waitpid(pid(id), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => return Ended::With(ExitStatus::from_raw(status.as_raw())),
            Err(Errno::CHILD) if is_zombie(id) && Instant::now() < deadline => pass(Duration::from_millis(1)),
            _ => return Ended::Unknown,
        }
    }
}

fn pid(id: u32) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(i32::try_from(id).ok()?)
}

fn is_zombie(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

/// Whether the process of `pidfd` is gone or goes in time.
fn ends_within(pidfd: &OwnedFd, timeout: Duration) -> bool {
    let timeout = Timespec::try_from(timeout).expect("a short time");
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&timeout)) {
            Err(Errno::INTR) => {}
            ready => return ready.is_ok_and(|ready| ready > 0),
        }
    }
}
