//! Waiting on a non-blocking socket, for threads that may: streaming uploads and detached threads.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::connection::Stream;

/// Waits until the stream is ready; `TimedOut` if it is not within `time` (None: for ever).
pub(super) fn wait(stream: &Stream, flags: PollFlags, time: Option<Duration>) -> io::Result<()> {
    let deadline = time.map(|time| Instant::now() + time);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut [PollFd::new(stream.as_fd(), flags)], timeout) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => return Err(ErrorKind::TimedOut.into()),
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Writes all of `bytes`, each piece within `stall`.
pub(super) fn write_all(stream: &Stream, mut bytes: &[u8], stall: Duration) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => wait(stream, PollFlags::POLLOUT, Some(stall))?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
