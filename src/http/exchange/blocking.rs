//! Waiting for a non-blocking socket, on threads that may block: streaming uploads and detached threads.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use crate::base::time::poll_timeout;
use crate::net::stream::Stream;

/// Waits until the stream is ready; `TimedOut` if it is not within `time`.
pub(super) fn wait(stream: &Stream, flags: PollFlags, time: Duration) -> io::Result<()> {
    match wait_for(&mut [PollFd::new(stream.as_fd(), flags)], Some(time))? {
        true => Ok(()),
        false => Err(ErrorKind::TimedOut.into()),
    }
}

/// Waits until one of the descriptors is ready; false if none is ready within `time` (None: indefinitely).
pub(super) fn wait_for(fds: &mut [PollFd<'_>], time: Option<Duration>) -> io::Result<bool> {
    let deadline = time.and_then(|time| Instant::now().checked_add(time));
    loop {
        match poll(fds, poll_timeout(deadline)) {
            Ok(0) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => return Ok(false),
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Writes all of `bytes`, each piece within `stall`.
pub(super) fn write_all(stream: &Stream, mut bytes: &[u8], stall: Duration) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(e) if e.kind() == ErrorKind::WouldBlock => wait(stream, PollFlags::POLLOUT, stall)?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
