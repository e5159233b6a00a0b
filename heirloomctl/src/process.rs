//! A process, held by a pidfd, so that no later process of the same number is taken for it.

use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A process of this number.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// None: there is none, or no pidfds.
    pub fn open(pid: i32) -> Option<Process> {
        pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok().map(Process)
    }

    pub fn has_ended(&self) -> bool {
        poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)
            .is_ok_and(|ready| ready > 0)
    }
}
