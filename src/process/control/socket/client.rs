//! One client of the control socket. Nothing here waits for it: a client that does not send or read in time is dropped.

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, send};

use super::command::{AnswerLine, Command};

/// Longer than any command.
const LINE_BYTES: usize = 256;
/// Time to send the command, and then to read the answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct ControlClient {
    stream: UnixStream,
    pub(super) peer: Peer,
    input: Vec<u8>,
    output: Vec<u8>,
    stage: ReplyStage,
    /// None while it waits for the end of a handover.
    pub(super) until: Option<Instant>,
}

/// The process at the other end when it connected.
#[derive(Clone, Copy)]
pub(in crate::process::control) struct Peer {
    pub(in crate::process::control) pid: i32,
    pub(in crate::process::control) uid: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ReplyStage {
    /// Its command is not complete.
    Asking,
    /// The answer is not complete.
    Waiting,
    /// The rest of the answer is to be sent.
    Answered,
}

/// What a client has done.
#[derive(PartialEq, Eq)]
pub(super) enum ClientStep {
    /// It has to send or to read more.
    Pending,
    Asked(Command),
    /// The client is to be dropped.
    Over,
}

impl ControlClient {
    pub(super) fn new(stream: UnixStream, peer: Peer, now: Instant) -> ControlClient {
        let until = now.checked_add(PATIENCE);
        ControlClient {
            stream,
            peer,
            input: Vec::new(),
            output: Vec::new(),
            stage: ReplyStage::Asking,
            until,
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.stage == ReplyStage::Waiting
    }

    pub(super) fn is_asking(&self) -> bool {
        self.stage == ReplyStage::Asking
    }

    /// Reads and writes as much as is possible now.
    pub(super) fn advance(&mut self, now: Instant) -> ClientStep {
        match self.stage {
            ReplyStage::Asking => self.read_command(now),
            // Only a hang-up was polled for.
            ReplyStage::Waiting if self.output.is_empty() => ClientStep::Over,
            ReplyStage::Waiting | ReplyStage::Answered => self.flush(),
        }
    }

    fn read_command(&mut self, now: Instant) -> ClientStep {
        let mut buf = [0; LINE_BYTES];
        let has_ended = match self.stream.read(&mut buf) {
            Ok(n) => {
                self.input.extend_from_slice(buf.get(..n).unwrap_or_default());
                n == 0
            }
            Err(e) if is_later(e.kind()) => return ClientStep::Pending,
            Err(_) => return ClientStep::Over,
        };
        let end = self.input.iter().position(|byte| *byte == b'\n');
        let line = match end {
            Some(end) => self.input.get(..end).unwrap_or_default(),
            // `printf status | socat` sends no end of the line.
            None if has_ended => self.input.as_slice(),
            None if self.input.len() > LINE_BYTES => self.input.as_slice(),
            None => return ClientStep::Pending,
        };
        match Command::parse(line) {
            Some(command) => {
                self.stage = ReplyStage::Waiting;
                self.until = None;
                ClientStep::Asked(command)
            }
            None if has_ended && self.input.is_empty() => ClientStep::Over,
            None => {
                let reason = "commands: status, upgrade, drain, abort, connections, handlers";
                self.answer(&[AnswerLine::error("unknown-command", reason)], now)
            }
        }
    }

    /// Sends a part of the answer, as far as that is possible now.
    pub(super) fn say(&mut self, line: &AnswerLine) -> ClientStep {
        line.add_to(&mut self.output);
        self.flush()
    }

    /// Sends the rest of the answer, as far as that is possible now.
    pub(super) fn answer(&mut self, lines: &[AnswerLine], now: Instant) -> ClientStep {
        lines.iter().for_each(|line| line.add_to(&mut self.output));
        self.stage = ReplyStage::Answered;
        self.until = now.checked_add(PATIENCE);
        self.flush()
    }

    fn flush(&mut self) -> ClientStep {
        while !self.output.is_empty() {
            match self.write() {
                Ok(n) => drop(self.output.drain(..n)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if is_later(e.kind()) => return ClientStep::Pending,
                Err(_) => return ClientStep::Over,
            }
        }
        if self.stage == ReplyStage::Answered { ClientStep::Over } else { ClientStep::Pending }
    }

    /// A program may have SIGPIPE's default action.
    fn write(&self) -> io::Result<usize> {
        Ok(send(self.stream.as_raw_fd(), &self.output, MsgFlags::MSG_NOSIGNAL)?)
    }

    /// The events to poll for. While it waits, only a hang-up: `echo upgrade | socat` has closed its side.
    pub(super) fn interest(&self) -> EpollFlags {
        match self.stage {
            _ if !self.output.is_empty() => EpollFlags::EPOLLOUT,
            ReplyStage::Asking => EpollFlags::EPOLLIN,
            ReplyStage::Waiting | ReplyStage::Answered => EpollFlags::empty(),
        }
    }
}

impl AsFd for ControlClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_later(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
