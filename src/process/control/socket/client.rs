//! One client of the control socket. Nothing here waits for it: a client that does not send or read in time is dropped.

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, send};

use super::command::{Command, Line};

/// Longer than any command.
const LINE_BYTES: usize = 256;
/// Time to send the command, and then to read the answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    pub(super) peer: Peer,
    input: Vec<u8>,
    output: Vec<u8>,
    stage: Stage,
    /// None while it waits for the end of a handover.
    pub(super) until: Option<Instant>,
}

/// The process at the other end when it connected.
#[derive(Clone, Copy, Debug)]
pub(in crate::process::control) struct Peer {
    pub(in crate::process::control) pid: i32,
    pub(in crate::process::control) uid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its command is not complete.
    Asking,
    /// The answer is not complete.
    Waiting,
    /// The rest of the answer is to be sent.
    Answered,
}

/// What a client has done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has to send or to read more.
    Pending,
    Asked(Command),
    /// The client is to be dropped.
    Over,
}

impl Client {
    pub(super) fn new(stream: UnixStream, peer: Peer, now: Instant) -> Client {
        let until = now.checked_add(PATIENCE);
        Client { stream, peer, input: Vec::new(), output: Vec::new(), stage: Stage::Asking, until }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.stage == Stage::Waiting
    }

    pub(super) fn is_asking(&self) -> bool {
        self.stage == Stage::Asking
    }

    /// Reads and writes as much as is possible now.
    pub(super) fn advance(&mut self, now: Instant) -> Progress {
        match self.stage {
            Stage::Asking => self.read_command(now),
            // Only a hang-up was polled for.
            Stage::Waiting if self.output.is_empty() => Progress::Over,
            Stage::Waiting | Stage::Answered => self.flush(),
        }
    }

    fn read_command(&mut self, now: Instant) -> Progress {
        let mut buf = [0; LINE_BYTES];
        let has_ended = match self.stream.read(&mut buf) {
            Ok(n) => {
                self.input.extend_from_slice(buf.get(..n).unwrap_or_default());
                n == 0
            }
            Err(e) if is_later(e.kind()) => return Progress::Pending,
            Err(_) => return Progress::Over,
        };
        let end = self.input.iter().position(|byte| *byte == b'\n');
        let line = match end {
            Some(end) => self.input.get(..end).unwrap_or_default(),
            // `printf status | socat` sends no end of the line.
            None if has_ended => self.input.as_slice(),
            None if self.input.len() > LINE_BYTES => self.input.as_slice(),
            None => return Progress::Pending,
        };
        match Command::parse(line) {
            Some(command) => {
                self.stage = Stage::Waiting;
                self.until = None;
                Progress::Asked(command)
            }
            None if has_ended && self.input.is_empty() => Progress::Over,
            None => {
                let reason = "commands: status, upgrade, drain, abort, connections, handlers";
                self.answer(&[Line::error("unknown-command", reason)], now)
            }
        }
    }

    /// Sends a part of the answer, as far as that is possible now.
    pub(super) fn say(&mut self, line: &Line) -> Progress {
        line.add_to(&mut self.output);
        self.flush()
    }

    /// Sends the rest of the answer, as far as that is possible now.
    pub(super) fn answer(&mut self, lines: &[Line], now: Instant) -> Progress {
        lines.iter().for_each(|line| line.add_to(&mut self.output));
        self.stage = Stage::Answered;
        self.until = now.checked_add(PATIENCE);
        self.flush()
    }

    fn flush(&mut self) -> Progress {
        while !self.output.is_empty() {
            match self.write() {
                Ok(n) => drop(self.output.drain(..n)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if is_later(e.kind()) => return Progress::Pending,
                Err(_) => return Progress::Over,
            }
        }
        if self.stage == Stage::Answered { Progress::Over } else { Progress::Pending }
    }

    /// A program may have SIGPIPE's default action.
    fn write(&self) -> io::Result<usize> {
        Ok(send(self.stream.as_raw_fd(), &self.output, MsgFlags::MSG_NOSIGNAL)?)
    }

    /// The events to poll for. While it waits, only a hang-up: `echo upgrade | socat` has closed its side.
    pub(super) fn interest(&self) -> EpollFlags {
        match self.stage {
            _ if !self.output.is_empty() => EpollFlags::EPOLLOUT,
            Stage::Asking => EpollFlags::EPOLLIN,
            Stage::Waiting | Stage::Answered => EpollFlags::empty(),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_later(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
