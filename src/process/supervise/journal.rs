//! The supervisor's log lines, on standard error, because the program's logger does not exist here. A line that can't be
//! written at once is lost: the reader of a pipe may have stopped reading.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

struct Lines;

impl ::log::Log for Lines {
    fn enabled(&self, metadata: &::log::Metadata<'_>) -> bool {
        metadata.level() <= ::log::LevelFilter::Info
    }

    fn log(&self, record: &::log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("[{} {}] {}\n", record.level(), record.target(), record.args());
            let stderr = io::stderr();
            // A pipe that is ready has room for a page, and takes a line in one piece.
            let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
                let _ = stderr.lock().write_all(line.as_bytes());
            }
        }
    }

    fn flush(&self) {}
}

pub(super) fn start() {
    if ::log::set_logger(&Lines).is_ok() {
        ::log::set_max_level(::log::LevelFilter::Info);
    }
}
