//! A generation's side of its supervisor: it asks for successors there, and learns there that the service ends.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::Pid;

use super::VARIABLE;
use super::message::{MessageRead, NamedListener, Recipe, SupervisorMessage, read_message};
use crate::base::log::debug;
use crate::base::sys;
use crate::base::time::poll_timeout;
use crate::process::handover::Passed;

/// The supervisor has nothing else to do.
const ANSWER: Duration = Duration::from_secs(5);

/// Speaks to the supervisor. If that is gone, nothing happens: its end is read elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct SupervisorSender {
    socket: Arc<OwnedFd>,
    /// The supervisor's.
    pub(crate) pid: i32,
}

impl SupervisorSender {
    pub(crate) fn send(&self, message: &SupervisorMessage) {
        self.send_with(message, &[]);
    }

    pub(crate) fn send_with(&self, message: &SupervisorMessage, fds: &[BorrowedFd<'_>]) {
        if let Err(e) = message.send(self.socket.as_fd(), fds) {
            debug!("can't send to the supervisor: {e}");
        }
    }
}

/// The channel to the supervisor. As a descriptor it becomes readable when that sends something or is gone.
#[derive(Debug)]
pub(crate) struct Link {
    sender: SupervisorSender,
    /// Received while something else was waited for.
    early: VecDeque<SupervisorMessage>,
    pub(crate) has_ended: bool,
}

impl Link {
    /// That of this process. None: it has no supervisor, or the variable is a copy in another process.
    pub(crate) fn inherited() -> Option<Link> {
        let value = std::env::var_os(VARIABLE)?;
        let mut fields = std::str::from_utf8(value.as_bytes()).ok()?.split(':');
        let (fd, inode, pid) =
            (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        if sys::socket_inode(fd) != Some(inode) {
            return None;
        }
        let sender = SupervisorSender { socket: Arc::new(sys::adopt(fd).ok()?), pid };
        Some(Link { sender, early: VecDeque::new(), has_ended: false })
    }

    pub(crate) fn sender(&self) -> SupervisorSender {
        self.sender.clone()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.sender.pid
    }

    pub(crate) fn send(&self, message: &SupervisorMessage) {
        self.sender.send(message);
    }

    /// This generation owns the service, with these listeners.
    pub(crate) fn serves(&self, generation: u32, listeners: &[Passed]) {
        let named = |passed: &Passed| NamedListener {
            name: passed.name.clone(),
            file: passed.file,
            owner: passed.owner,
        };
        let named = listeners.iter().map(named).collect();
        let fds: Vec<BorrowedFd<'_>> = listeners.iter().map(|passed| passed.fd.as_fd()).collect();
        self.sender.send_with(&SupervisorMessage::Serving { generation, listeners: named }, &fds);
    }

    /// What is known of all generations, for one that replaces this one after a crash.
    pub(crate) fn keep_history(&self, lines: &str) {
        match super::memory_file(lines.as_bytes()) {
            Ok(file) => self.sender.send_with(&SupervisorMessage::History, &[file.as_fd()]),
            Err(e) => debug!("can't send the history to the supervisor: {e}"),
        }
    }

    /// Has the supervisor start a program, with this variable and what it describes.
    ///
    /// # Errors
    /// Its own, and `TimedOut`.
    pub(crate) fn spawn(
        &mut self,
        recipe: &Recipe,
        variable: CString,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<Pid> {
        let mut recipe = recipe.clone();
        recipe.env.push(variable);
        let mut file = super::memory_file(recipe.encode().as_bytes())?;
        file.flush()?;
        let mut all = vec![file.as_fd()];
        all.extend_from_slice(fds);
        SupervisorMessage::Spawn.send(self.as_fd(), &all)?;
        let deadline = Instant::now() + ANSWER;
        loop {
            match read_message(self.as_fd()) {
                MessageRead::Message(SupervisorMessage::Spawned { pid }, _) => return Ok(Pid::from_raw(pid)),
                MessageRead::Message(SupervisorMessage::NotSpawned { errno }, _) => {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                MessageRead::Message(message, _) => self.early.push_back(message),
                MessageRead::Unknown => {}
                MessageRead::End => {
                    self.has_ended = true;
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "the supervisor is gone"));
                }
                MessageRead::Nothing if deadline <= Instant::now() => {
                    return Err(io::Error::new(ErrorKind::TimedOut, "the supervisor does not answer"));
                }
                MessageRead::Nothing => {
                    let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut fds, poll_timeout(Some(deadline)));
                }
            }
        }
    }

    pub(crate) fn has_early(&self) -> bool {
        !self.early.is_empty() || self.has_ended
    }

    /// What the supervisor has sent; then `has_ended` says whether it is gone.
    pub(crate) fn receive(&mut self) -> Vec<SupervisorMessage> {
        let mut messages: Vec<SupervisorMessage> = self.early.drain(..).collect();
        loop {
            match read_message(self.as_fd()) {
                MessageRead::Message(message, _) => messages.push(message),
                MessageRead::Unknown => {}
                MessageRead::Nothing => return messages,
                MessageRead::End => {
                    self.has_ended = true;
                    return messages;
                }
            }
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sender.socket.as_fd()
    }
}
