//! What the control loop orders, and how the acceptor is woken.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::base::sync::lock;

/// An order of the control loop.
pub(crate) enum AcceptorCommand {
    Accept,
    /// Another generation also has the listeners with these names.
    Share {
        names: Vec<String>,
    },
    /// Accept no more from those that are shared.
    Pause,
    /// Close all listeners, of which those that are shared live on elsewhere.
    CloseShared,
    /// Close all listeners, which no other generation has.
    CloseLast,
    /// Send connections of shared listeners to the successor.
    HandConnections(OwnedFd),
    TakeConnections(OwnedFd),
    Drain {
        grace: Duration,
    },
    /// Report whether the acceptor and a worker of each pool live.
    Check,
    /// Report `News::Progressed` when a worker of each pool has looked for work.
    CheckProgress,
    /// Cut what is left, and end.
    Stop,
}

pub(super) struct Commands {
    waiting: Mutex<VecDeque<AcceptorCommand>>,
    waker: EventFd,
}

impl Commands {
    pub(super) fn new() -> io::Result<Commands> {
        let waker = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Commands { waiting: Mutex::default(), waker })
    }

    pub(super) fn waker(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }

    pub(super) fn add(&self, command: AcceptorCommand) {
        lock(&self.waiting).push_back(command);
        self.wake();
    }

    pub(super) fn take(&self) -> VecDeque<AcceptorCommand> {
        // The waker is read before the commands are taken, so that a later command wakes again.
        let _ = self.waker.read();
        std::mem::take(&mut *lock(&self.waiting))
    }

    pub(super) fn wake(&self) {
        // A write fails only when the counter is full, and then it is readable already.
        let _ = self.waker.write(1);
    }
}
