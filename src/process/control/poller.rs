//! The sources of events that the control loop waits for.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::base::error::Error;
use crate::base::time::poll_timeout;

/// Where an event of the loop comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Inbox,
    Predecessor,
    Successor,
    /// The end of a child.
    Child,
    Terminal,
    Socket,
    Supervisor,
}

impl Source {
    const ALL: [Source; 7] = [
        Source::Inbox,
        Source::Predecessor,
        Source::Successor,
        Source::Child,
        Source::Terminal,
        Source::Socket,
        Source::Supervisor,
    ];
}

pub(super) struct Poller(Epoll);

impl Poller {
    pub(super) fn new() -> Result<Poller, Error> {
        let poller = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC);
        poller.map(Poller).map_err(Error::system("can't create the control loop's poller"))
    }

    pub(super) fn add(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, source as u64))?)
    }

    pub(super) fn remove(&self, fd: impl AsFd) {
        // It may have been removed before: a child's pidfd when the child ended.
        let _ = self.0.delete(fd);
    }

    /// Sources that are ready, in the order in which they became so; none at `until`.
    pub(super) fn wait(&self, until: Option<Instant>) -> Result<Vec<Source>, Error> {
        let mut events = [EpollEvent::empty(); 16];
        let n = match self.0.wait(&mut events, poll_timeout(until)) {
            Ok(n) => n,
            Err(nix::Error::EINTR) => 0,
            Err(e) => return Err(Error::system("the control loop can't wait for events")(e)),
        };
        let source = |event: &EpollEvent| Source::ALL.into_iter().find(|s| *s as u64 == event.data());
        Ok(events.iter().take(n).filter_map(source).collect())
    }
}
