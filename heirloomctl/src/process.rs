//! A process, identified by a pidfd, so that no later process with the same number is taken for it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::control::{PAUSE, pause};

/// A process of this number.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    /// None where the kernel, or a filter of system calls, refuses them.
    pidfd: Option<OwnedFd>,
}

impl Process {
    /// None if there is none.
    pub fn open(pid: i32) -> Option<Process> {
        match pidfd_open(rustix::process::Pid::from_raw(pid)?, PidfdFlags::empty()) {
            Ok(pidfd) => Some(Process { pid, pidfd: Some(pidfd) }),
            Err(rustix::io::Errno::SRCH) => None,
            Err(_) => exists(pid).then_some(Process { pid, pidfd: None }),
        }
    }

    pub fn has_ended(&self) -> bool {
        match &self.pidfd {
            Some(pidfd) => ends_within(pidfd, PollTimeout::ZERO),
            None => !exists(self.pid),
        }
    }

    /// Waits for a moment, at most until its end.
    pub fn pause(&self) {
        match &self.pidfd {
            Some(pidfd) if !self.has_ended() => {
                let _ = ends_within(pidfd, PollTimeout::try_from(PAUSE).unwrap_or(PollTimeout::ZERO));
            }
            _ => pause(),
        }
    }

    /// # Errors
    /// Those of `kill`.
    pub fn hang_up(&self) -> Result<(), Errno> {
        match &self.pidfd {
            Some(pidfd) => pidfd_send_signal(pidfd, rustix::process::Signal::HUP)
                .map_err(|e| Errno::from_raw(e.raw_os_error())),
            None => kill(Pid::from_raw(self.pid), Signal::SIGHUP),
        }
    }

    /// Whether it is known to be stopped, by SIGSTOP or a debugger.
    pub fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The name before it may hold anything.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        matches!(state, Some('T' | 't'))
    }

    /// The name of its program.
    pub fn name(&self) -> String {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        name.trim_end().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    }
}

fn exists(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

fn ends_within(pidfd: &OwnedFd, timeout: PollTimeout) -> bool {
    poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready > 0)
}
