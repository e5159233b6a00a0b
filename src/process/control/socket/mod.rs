//! The control socket: an operator's program sends commands to the control loop, and gets their results.
//!
//! **The loop owns the listener and its clients; it never waits for one of them.** A poller of its own, of which the
//! loop's poller has one descriptor, keeps them apart from what the loop lives on. There are at most [`MOST_CLIENTS`]:
//! one more takes the place of the one that has been slow for the longest time. Each has one command, and seconds to
//! send it and to read the answer.
//!
//! **The listening socket moves with a handover as the terminal does**, as a file by a name that earlier versions close.
//! Both processes have it until COMMIT, and only the owner of the service accepts: clients that connect in between wait
//! in the kernel's queue, and none is refused. A client that asked for the upgrade stays with the process that it asked.

pub(super) mod client;
pub(super) mod command;

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;

use crate::base::log::{Escaped, debug, info, warn};
use crate::base::time::earliest;
use crate::process::control::socket::client::{ClientStep, ControlClient, Peer};
use crate::process::control::socket::command::{AnswerLine, Command};
use crate::process::handover::FileId;
use crate::process::handover::inherit;
use litemap::LiteMap;

/// At the same time.
const MOST_CLIENTS: usize = 16;
/// The descriptors of a control socket: the listener, the poller and the clients.
pub(crate) const DESCRIPTORS: u64 = 2 + MOST_CLIENTS as u64;
/// Time between two attempts to accept a client, where the process has no descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// The key of the listener; clients are numbered from 1.
const LISTENER: u64 = 0;

/// The name by which it is passed on, before the id of its file.
const FILE: &str = "heirloom:control:";

/// A control socket as it was bound or inherited.
pub(crate) struct Bound {
    listener: UnixListener,
    path: PathBuf,
    /// Of the socket at `path`.
    file: FileId,
    /// No other process has the socket yet: its path is removed if this process never owns the service.
    is_new: bool,
    /// The predecessor's, at another path, to be removed when this process owns the service.
    replaces: Option<(PathBuf, FileId)>,
}

impl Bound {
    /// A socket that was just bound at `path`.
    pub(crate) fn new(fd: OwnedFd, path: PathBuf, file: FileId) -> Bound {
        Bound { listener: UnixListener::from(fd), path, file, is_new: true, replaces: None }
    }

    /// That of the predecessor, if `path` leads to it; else where it is.
    pub(crate) fn inherited(passed: PassedSocket, path: &Path) -> Result<Bound, (PathBuf, FileId)> {
        let PassedSocket { listener, file } = passed;
        if FileId::at(path) == Some(file) {
            return Ok(Bound { listener, path: path.to_owned(), file, is_new: false, replaces: None });
        }
        let address = listener.local_addr().ok();
        let at = address.and_then(|address| address.as_pathname().map(Path::to_owned)).unwrap_or_default();
        Err((std::path::absolute(&at).unwrap_or(at), file))
    }

    pub(crate) fn replacing(mut self, other: Option<(PathBuf, FileId)>) -> Bound {
        self.replaces = other;
        self
    }

    fn unlink(&self) {
        unlink(&self.path, self.file);
    }
}

/// Removes the path, unless something else is there.
fn unlink(path: &Path, file: FileId) {
    if FileId::at(path) == Some(file) {
        match fs::remove_file(path) {
            Ok(()) => info!("removed {}", path.display(); path:% = Escaped(path.display())),
            Err(e) => warn!(
                "can't remove {}: {e}", path.display();
                path:% = Escaped(path.display()),
                reason:% = Escaped(&e)
            ),
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if self.is_new {
            self.unlink();
        }
    }
}

/// The socket of a predecessor.
pub(crate) struct PassedSocket {
    listener: UnixListener,
    file: FileId,
}

impl PassedSocket {
    /// None if the predecessor has none.
    pub(crate) fn take() -> Option<PassedSocket> {
        let (name, fd) = inherit::inherited_by_prefix(FILE)?;
        let file = FileId::parse(name.strip_prefix(FILE)?)?;
        Some(PassedSocket { listener: UnixListener::from(fd), file })
    }
}

/// Which client of the socket.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClientId(u64);

pub(super) struct ControlSocket {
    /// None when another generation has the service.
    bound: Option<Bound>,
    is_open: bool,
    /// No client can be accepted until then. The listener is not polled meanwhile: it would keep the loop awake.
    paused_until: Option<Instant>,
    poller: Epoll,
    clients: LiteMap<ClientId, ControlClient>,
    last: u64,
}

impl ControlSocket {
    pub(super) fn new(bound: Bound) -> io::Result<ControlSocket> {
        bound.listener.set_nonblocking(true)?;
        let poller = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let (bound, clients) = (Some(bound), LiteMap::new());
        Ok(ControlSocket { bound, is_open: false, paused_until: None, poller, clients, last: LISTENER })
    }

    /// What the next generation gets.
    pub(super) fn passed(&self) -> Option<(String, BorrowedFd<'_>)> {
        self.bound.as_ref().map(|bound| (format!("{FILE}{}", bound.file), bound.listener.as_fd()))
    }

    /// This process owns the service.
    pub(super) fn open(&mut self) {
        let Some(bound) = self.bound.as_mut().filter(|_| !self.is_open) else { return };
        match watch(&self.poller, &bound.listener) {
            Ok(()) => {
                self.is_open = true;
                bound.is_new = false;
                info!("control socket {}", bound.path.display(); path:% = Escaped(bound.path.display()));
                if let Some((path, file)) = bound.replaces.take() {
                    unlink(&path, file);
                }
            }
            Err(e) => warn!(
                "can't watch the control socket {}: {e}", bound.path.display();
                path:% = Escaped(bound.path.display()),
                reason:% = Escaped(&e)
            ),
        }
    }

    /// Another generation owns the service. Clients that have sent no command yet are sent there.
    pub(super) fn hand_over(&mut self, now: Instant) {
        if let Some(bound) = self.bound.take() {
            let _ = self.poller.delete(&bound.listener);
        }
        self.is_open = false;
        self.paused_until = None;
        let moved = AnswerLine::error("moved", "the service was handed over: connect again");
        let asking: Vec<ClientId> =
            self.clients.iter().filter(|(_, client)| client.is_asking()).map(|(id, _)| *id).collect();
        for id in asking {
            self.answer(id, std::slice::from_ref(&moved), now);
        }
    }

    /// The service ends with this process, if it owns it.
    pub(super) fn remove(&mut self) {
        if let Some(bound) = self.bound.take().filter(|_| self.is_open) {
            bound.unlink();
        }
    }

    /// When `tick` is to be called next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let first = self.clients.values().filter_map(|client| client.until).min();
        earliest(&[first, self.paused_until])
    }

    /// Drops clients that have been slow for too long, and accepts others again.
    pub(super) fn tick(&mut self, now: Instant) {
        self.clients.retain(|_, client| client.until.is_none_or(|until| until > now));
        if let (Some(_), Some(bound)) = (self.paused_until.take_if(|until| *until <= now), &self.bound) {
            if let Err(e) = watch(&self.poller, &bound.listener) {
                debug!("can't watch the control socket: {e}");
                self.paused_until = now.checked_add(ACCEPT_AGAIN);
            }
        }
    }

    /// Does what is possible without waiting. Returns what was asked; each is to be answered.
    pub(super) fn advance(&mut self, now: Instant) -> Vec<(ClientId, Peer, Command)> {
        let mut events = [EpollEvent::empty(); MOST_CLIENTS + 1];
        let n = self.poller.wait(&mut events, 0u8).unwrap_or(0);
        let mut asked = Vec::new();
        for key in events.iter().take(n).map(EpollEvent::data) {
            if key == LISTENER {
                asked.extend(self.accept_all(now));
            } else {
                asked.extend(self.advance_client(ClientId(key), now));
            }
        }
        asked
    }

    /// Accepts a few clients, the next ones in the loop's next turn.
    fn accept_all(&mut self, now: Instant) -> Vec<(ClientId, Peer, Command)> {
        let mut asked = Vec::new();
        for _ in 0..MOST_CLIENTS {
            let Some(bound) = &self.bound else { break };
            let stream = match bound.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => {
                    debug!("can't accept on the control socket: {e}");
                    let _ = self.poller.delete(&bound.listener);
                    self.paused_until = now.checked_add(ACCEPT_AGAIN);
                    break;
                }
            };
            let Some(peer) = peer_of(&stream) else { continue };
            let mut client = ControlClient::new(stream, peer, now);
            if !is_allowed(peer.uid) {
                warn!("control: pid {}, uid {} is refused", peer.pid, peer.uid; sender = peer.pid, uid = peer.uid);
                let reason = format!("this server serves uid {} and the superuser", geteuid());
                let _ = client.answer(&[AnswerLine::error("not-permitted", &reason)], now);
                continue;
            }
            self.make_room();
            self.last = self.last.wrapping_add(1).max(1);
            let id = ClientId(self.last);
            if self.poller.add(&client, EpollEvent::new(EpollFlags::EPOLLIN, id.0)).is_ok() {
                self.clients.insert(id, client);
                // Most commands are there already.
                asked.extend(self.advance_client(id, now));
            }
        }
        asked
    }

    /// Drops the client that has been here for the longest time and does not wait for us.
    fn make_room(&mut self) {
        if self.clients.len() >= MOST_CLIENTS {
            let oldest = self.clients.iter().find(|(_, client)| !client.is_waiting()).map(|(id, _)| *id);
            let oldest = oldest.or_else(|| self.clients.keys().next().copied());
            oldest.into_iter().for_each(|id| drop(self.clients.remove(&id)));
        }
    }

    fn advance_client(&mut self, id: ClientId, now: Instant) -> Option<(ClientId, Peer, Command)> {
        let client = self.clients.get_mut(&id)?;
        let (peer, progress) = (client.peer, client.advance(now));
        self.settle(id, &progress);
        match progress {
            ClientStep::Asked(command) => Some((id, peer, command)),
            ClientStep::Pending | ClientStep::Over => None,
        }
    }

    /// Sends a part of an answer.
    pub(super) fn say(&mut self, id: ClientId, line: &AnswerLine) {
        if let Some(client) = self.clients.get_mut(&id) {
            let progress = client.say(line);
            self.settle(id, &progress);
        }
    }

    /// Sends an answer, or the rest of one.
    pub(super) fn answer(&mut self, id: ClientId, lines: &[AnswerLine], now: Instant) {
        if let Some(client) = self.clients.get_mut(&id) {
            let progress = client.answer(lines, now);
            self.settle(id, &progress);
        }
    }

    /// Polls a client for what it is waited for, or drops it.
    fn settle(&mut self, id: ClientId, progress: &ClientStep) {
        let Some(client) = self.clients.get(&id) else { return };
        let mut event = EpollEvent::new(client.interest(), id.0);
        if *progress == ClientStep::Over || self.poller.modify(client, &mut event).is_err() {
            self.clients.remove(&id);
        }
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poller.0.as_fd()
    }
}

fn watch(poller: &Epoll, listener: &UnixListener) -> io::Result<()> {
    Ok(poller.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?)
}

/// None: it has gone.
fn peer_of(stream: &std::os::unix::net::UnixStream) -> Option<Peer> {
    stream.set_nonblocking(true).ok()?;
    let credentials = getsockopt(stream, sockopt::PeerCredentials).ok()?;
    Some(Peer { pid: credentials.pid(), uid: credentials.uid() })
}

/// The file's mode has the same effect, unless it was changed.
fn is_allowed(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}
