//! A generation's side of its supervisor: it asks for successors there, and hears there that the service ends.

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
use super::words::{Heard, Named, Recipe, Word, hear};
use crate::base::log::debug;
use crate::base::sys;
use crate::base::time::poll_timeout;
use crate::process::handover::Passed;

/// The supervisor has nothing else to do.
const ANSWER: Duration = Duration::from_secs(5);

/// Speaks to the supervisor. If that is gone, nothing happens: its end is read elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Voice {
    socket: Arc<OwnedFd>,
    /// The supervisor's.
    pub(crate) pid: i32,
}

impl Voice {
    pub(crate) fn say(&self, word: &Word) {
        self.say_with(word, &[]);
    }

    pub(crate) fn say_with(&self, word: &Word, fds: &[BorrowedFd<'_>]) {
        if let Err(e) = word.send(self.socket.as_fd(), fds) {
            debug!("can't speak to the supervisor: {e}");
        }
    }
}

/// The channel to the supervisor. As a descriptor it becomes readable when that says something or is gone.
#[derive(Debug)]
pub(crate) struct Link {
    voice: Voice,
    /// Received while something else was waited for.
    early: VecDeque<Word>,
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
        let voice = Voice { socket: Arc::new(sys::adopt(fd).ok()?), pid };
        Some(Link { voice, early: VecDeque::new(), has_ended: false })
    }

    pub(crate) fn voice(&self) -> Voice {
        self.voice.clone()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.voice.pid
    }

    pub(crate) fn say(&self, word: &Word) {
        self.voice.say(word);
    }

    /// This generation owns the service, with these listeners.
    pub(crate) fn serves(&self, generation: u32, listeners: &[Passed<Arc<OwnedFd>>]) {
        let named = |passed: &Passed<Arc<OwnedFd>>| Named {
            name: passed.name.clone(),
            file: passed.file,
            owner: passed.owner,
        };
        let named = listeners.iter().map(named).collect();
        let fds: Vec<BorrowedFd<'_>> = listeners.iter().map(|passed| passed.fd.as_fd()).collect();
        self.voice.say_with(&Word::Serving { generation, listeners: named }, &fds);
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
        let all: Vec<BorrowedFd<'_>> = [file.as_fd()].into_iter().chain(fds.iter().copied()).collect();
        Word::Spawn.send(self.as_fd(), &all)?;
        let deadline = Instant::now() + ANSWER;
        loop {
            match hear(self.as_fd()) {
                Heard::Word(Word::Spawned { pid }, _) => return Ok(Pid::from_raw(pid)),
                Heard::Word(Word::NotSpawned { errno }, _) => {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                Heard::Word(word, _) => self.early.push_back(word),
                Heard::Unknown => {}
                Heard::End => {
                    self.has_ended = true;
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "the supervisor is gone"));
                }
                Heard::Nothing if deadline <= Instant::now() => {
                    return Err(io::Error::new(ErrorKind::TimedOut, "the supervisor does not answer"));
                }
                Heard::Nothing => {
                    let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut fds, poll_timeout(Some(deadline)));
                }
            }
        }
    }

    pub(crate) fn has_early(&self) -> bool {
        !self.early.is_empty() || self.has_ended
    }

    /// What the supervisor has said; then `has_ended` says whether it is gone.
    pub(crate) fn receive(&mut self) -> Vec<Word> {
        let mut words: Vec<Word> = self.early.drain(..).collect();
        loop {
            match hear(self.as_fd()) {
                Heard::Word(word, _) => words.push(word),
                Heard::Unknown => {}
                Heard::Nothing => return words,
                Heard::End => {
                    self.has_ended = true;
                    return words;
                }
            }
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.voice.socket.as_fd()
    }
}
