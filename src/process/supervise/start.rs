//! How the supervisor starts a generation: the first one, one that replaces a dead one, and the successor that a generation
//! requests.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Pid, getpid};

use super::message::{Recipe, SupervisorMessage, borrowed};
use super::state::Generation;
use super::{Supervisor, VARIABLE};
use crate::base::log::{Escaped, error, info};
use crate::base::sys::{self, Session};
use crate::process::handover::channel::Channel;
use crate::process::handover::child::{self, FIRST_FD};
use crate::process::handover::{Hello, Message, Passed, VERSION};

/// How many bytes of history a generation gets of those before it: its channel takes 64 KiB at one time.
const HISTORY_BYTES: usize = 32 << 10;

impl Supervisor {
    /// Starts the successor that a generation has requested.
    pub(super) fn spawn_for(&mut self, pid: Pid, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        let mut text = String::new();
        let read = fds.next().map(File::from).map(|mut file| file.read_to_string(&mut text).is_ok());
        let recipe = read.and_then(|is_read| Recipe::decode(&text).filter(|_| is_read));
        let rest: Vec<OwnedFd> = fds.collect();
        let outcome = match recipe {
            Some(_) if self.kept.is_stopping => Err(io::Error::from_raw_os_error(libc::ESHUTDOWN)),
            Some(recipe) => self.launch(recipe, &borrowed(&rest), None),
            None => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        let answer = match outcome {
            Ok(child) => SupervisorMessage::Spawned { pid: child.as_raw() },
            Err(e) => SupervisorMessage::NotSpawned { errno: e.raw_os_error().unwrap_or(libc::EIO) },
        };
        if let Some(link) = self.kept.get(pid).and_then(|one| one.link.as_ref()) {
            let _ = answer.send(link.as_fd(), &[]);
        }
    }

    /// Starts a program as a generation, with `fds` and a channel to us behind them.
    fn launch(&mut self, recipe: Recipe, fds: &[BorrowedFd<'_>], note: Option<CString>) -> io::Result<Pid> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, its) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let inode = sys::socket_inode(its.as_raw_fd()).unwrap_or_default();
        let number = i32::try_from(fds.len()).unwrap_or(i32::MAX).saturating_add(FIRST_FD);
        let channel = CString::new(format!("{VARIABLE}={number}:{inode}:{}", getpid()))?;
        let mut all = fds.to_vec();
        all.push(its.as_fd());
        let mut variables: Vec<CString> = note.into_iter().collect();
        variables.push(channel);
        let pid = recipe.start(&all, &variables, (Session::Shared, &recipe.mask(self.mask)), sys::spawn)?;
        self.started = Instant::now();
        let recipe = Some(recipe.without(&[child::VARIABLE, VARIABLE]));
        self.kept.generations.push(Generation {
            pid,
            server: pid,
            here: None,
            knows_supervision: false,
            link: Some(ours),
            recipe,
            has_served: false,
        });
        Ok(pid)
    }

    /// Starts the first generation, or another one in place of one that is gone.
    pub(super) fn start(&mut self) {
        let path = self.kept.recipe.path.display().to_string();
        let listeners = std::mem::take(&mut self.kept.listeners);
        let started = match (self.kept.has_served, listeners.is_empty()) {
            (true, _) => self.start_heir(&listeners),
            (false, true) => self.launch(self.kept.recipe.clone(), &[], None),
            (false, false) => self.start_with(&listeners, None),
        };
        self.kept.listeners = listeners;
        match started {
            Ok(pid) => info!(
                "supervisor: started {path} as child {pid}";
                child = pid.as_raw(),
                path:% = Escaped(&path)
            ),
            Err(e) => {
                error!(
                    "supervisor: can't start {path}: {e}";
                    path:% = Escaped(&path),
                    reason:% = Escaped(&e)
                );
                if self.kept.main().is_none() {
                    self.crashed(1);
                }
            }
        }
    }

    /// Starts a generation whose predecessor has just died, and which serves alone.
    fn start_heir(&mut self, listeners: &[Passed]) -> io::Result<Pid> {
        let (mut lifecycle, its_lifecycle) = Channel::pair()?;
        lifecycle.send(&Message::Hello(Hello {
            version: VERSION,
            generation: self.kept.generation,
            pid: getpid().as_raw(),
            nohup: false,
            blocked: self.kept.recipe.mask.clone(),
            above: None,
            command: None,
        }));
        for line in self.kept.history.latest_lines(HISTORY_BYTES) {
            lifecycle.send(&Message::History { line });
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (_, its_connections) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        self.start_with(listeners, Some((its_lifecycle.as_fd(), its_connections.as_fd())))
    }

    fn start_with(
        &mut self,
        listeners: &[Passed],
        channels: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    ) -> io::Result<Pid> {
        let left = child::Left { listeners, channels, state: None, files: &[] };
        self.launch(self.kept.recipe.clone(), &left.fds(), Some(left.variable()?))
    }
}
