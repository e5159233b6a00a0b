//! The supervisor: the first process of a service, which keeps its pid, starts generations, and restarts them when they
//! crash. It serves no client. The generations hand over to each other as they do without it, connections included; they only
//! have their successors started here, as children of a process that stays.
//!
//! It must not crash, so it does little. All that runs in it: one thread without locks, and nothing of the program's. That
//! thread waits in `poll` for signals (a signalfd) and for packets of its generations, starts programs by `posix_spawn`,
//! reaps children, and keeps the listeners open; it writes lines to standard error. `init` as PID 1 becomes the supervisor before
//! the program has done anything. Otherwise `serve` replaces its process by the same program (`exec`, the pid stays), and a
//! variable makes that one a supervisor before `main` is called. After each handover it replaces itself in the same way if the
//! executable has changed, with its state in a file in memory; it does not try a version that does not declare that it can do that.
//!
//! To the outside it is the service: the pid file names it, and it holds its locks (`service`); a service manager takes
//! notifications from it alone, which generations give to it (`outside`). MAINPID never changes.
//!
//! A stop is passed on as a message, and generations count no signals to stop: however often a terminal, a group or a
//! service manager delivers it to all of them, it is one stop. A generation of a version without supervision sends nothing
//! here: it gets signals instead, and starts its successor itself. That finds the channel to us where the earlier generation
//! has left it open, and becomes our child at the end of that.

mod generations;
mod journal;
pub(crate) mod link;
pub(crate) mod message;
mod outside;
mod reap;
mod restarts;
mod service;
mod start;
mod state;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::getpid;

use crate::base::log::{Escaped, error, info, set_generation};
use crate::base::sys;
use crate::base::time::{earliest, poll_timeout};
use crate::process::handover::child::{self, Program};
use crate::process::handover::{Passed, SUPERVISION};
use crate::process::supervise::message::SupervisorMessage;
use crate::process::supervise::outside::Relay;
use crate::process::supervise::reap::LastHup;
use crate::process::supervise::state::Kept;

/// The variable by which a generation finds its channel to the supervisor: descriptor, inode and the supervisor's pid.
pub(crate) const VARIABLE: &str = SUPERVISION[0];
/// The variable that makes a process the supervisor: the descriptor of its state, and its inode.
pub(crate) const STATE_VARIABLE: &str = SUPERVISION[1];

/// A file in memory with these bytes, to be read from the beginning.
pub(crate) fn memory_file(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("heirloom-supervisor", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// Before `main`: does not return if this process was made the supervisor.
pub(crate) extern "C" fn before_main() {
    if let Some(kept) = state::inherited() {
        run(kept);
    }
}
sys::before_main!(before_main);

/// `init` of a process that is PID 1 and nobody's generation: it becomes the supervisor and does not return. `sockets` are
/// those of a service manager.
pub(crate) fn as_pid_1(sockets: impl FnOnce() -> Vec<Passed>) {
    let is_named =
        [VARIABLE, STATE_VARIABLE, child::VARIABLE].iter().any(|name| std::env::var_os(name).is_some());
    if getpid().as_raw() != 1 || is_named {
        return;
    }
    let program = SigSet::thread_get_mask()
        .map_err(io::Error::from)
        .and_then(|blocked| Program::capture(None, None, &[], blocked));
    // Without a recipe nothing can be started: the process serves by itself then, as it would without `init`.
    if let Ok(program) = program {
        run(Kept::new(program.recipe(), sockets()));
    }
}

/// Replaces this process by a supervisor of the same program, which has `sockets` of a service manager. Returns only if
/// that fails.
pub(crate) fn replace_by_supervisor(program: &Program, sockets: Vec<Passed>) -> io::Error {
    if std::env::var_os(STATE_VARIABLE).is_some() {
        // It was tried already; once more would go on without end.
        return io::Error::other("its state was not found where it was left");
    }
    Kept::new(program.recipe(), sockets).exec()
}

fn run(kept: Kept) -> ! {
    journal::start();
    let status = match Supervisor::new(kept) {
        Ok(mut supervisor) => supervisor.run(),
        Err(e) => {
            error!("supervisor: can't handle signals: {e}"; reason:% = Escaped(&e));
            1
        }
    };
    sys::exit_now(status)
}

struct Supervisor {
    signals: SignalFd,
    /// Blocked when it was started, except those that it handles: a recipe names no real-time signals.
    mask: SigSet,
    kept: Kept,
    /// When a generation is to be started.
    start_at: Option<Instant>,
    /// When the last one was.
    started: Instant,
    /// Of the last generation that owned the service or was to.
    last_status: i32,
    /// For the generation that serves next.
    hup_waits: bool,
    last_hup: Option<LastHup>,
    outside: Relay,
}

impl Supervisor {
    fn new(kept: Kept) -> io::Result<Supervisor> {
        let handled = [
            Signal::SIGHUP,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGCHLD,
        ];
        let handled: SigSet = handled.into_iter().collect();
        let mut blocked = handled;
        // A closed standard error is none of its business.
        blocked.add(Signal::SIGPIPE);
        let mut mask = SigSet::thread_get_mask()?;
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None)?;
        blocked.iter().for_each(|signal| mask.remove(signal));
        let signals = SignalFd::with_flags(&handled, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let _ = set_child_subreaper(true);
        kept.service.claim();
        set_generation(kept.generation);
        let start_at = (kept.generations.is_empty() && !kept.is_stopping).then(Instant::now);
        Ok(Supervisor {
            signals,
            mask,
            kept,
            start_at,
            started: Instant::now(),
            last_status: 1,
            hup_waits: false,
            last_hup: None,
            outside: Relay::default(),
        })
    }

    /// Runs until the service has ended; its status.
    fn run(&mut self) -> i32 {
        info!("supervisor: pid {} keeps the service", getpid());
        loop {
            // Also those that ended before the signalfd was there.
            self.reap();
            if self.start_at.is_some_and(|at| at <= Instant::now()) {
                self.start_at = None;
                self.start();
            }
            if self.kept.generations.is_empty() && self.start_at.is_none() {
                self.kept.service.ends();
                info!(
                    "supervisor: the service has ended with status {}", self.last_status;
                    status = self.last_status
                );
                return self.last_status;
            }
            self.wait();
            self.outside.tick(self.kept.main.is_some());
            while let Ok(Some(signal)) = self.signals.read_signal() {
                self.handle_signal(signal.ssi_signo, signal.ssi_code);
            }
            self.read_generations();
        }
    }

    fn read_generations(&mut self) {
        self.kept.pids().into_iter().for_each(|pid| self.read_generation(pid));
    }

    fn wait(&self) {
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let links = self.kept.generations.iter().filter_map(|one| one.link.as_ref());
        fds.extend(links.map(|link| PollFd::new(link.as_fd(), PollFlags::POLLIN)));
        // Whatever it returns, everything is looked at.
        let next = earliest(&[self.start_at, self.outside.next_tick()]);
        let _ = poll(&mut fds, poll_timeout(next));
    }

    fn handle_signal(&mut self, number: u32, code: i32) {
        let Some(signal) = i32::try_from(number).ok().and_then(|n| Signal::try_from(n).ok()) else { return };
        match signal {
            Signal::SIGCHLD => {}
            Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT => self.stop(&format!("{signal}")),
            // The terminal was closed. The kernel signals each generation as well, which knows about nohup.
            Signal::SIGHUP if code == libc::SI_KERNEL => {}
            other => {
                // First: a generation may have started to serve before this signal was sent, and another one may have ended.
                self.reap();
                self.read_generations();
                self.pass_on(other);
            }
        }
    }

    fn pass_on(&mut self, signal: Signal) {
        match self.kept.main() {
            Some(main) => {
                info!(
                    "supervisor: {signal} goes to {}", main.server;
                    signal:% = signal,
                    child = main.server.as_raw()
                );
                let is_unsure = signal == Signal::SIGHUP && !main.knows_supervision;
                self.last_hup = is_unsure.then(|| LastHup::to(main.server));
                let _ = kill(main.server, signal);
            }
            // The next generation gets it.
            None => self.hup_waits |= signal == Signal::SIGHUP,
        }
    }

    fn stop(&mut self, why: &str) {
        if std::mem::replace(&mut self.kept.is_stopping, true) {
            return;
        }
        info!("supervisor: {why}: the service ends"; reason = why);
        self.start_at = None;
        self.stopping_by_itself();
        // The generations serve the clients that wait, and close them for good.
        self.kept.listeners.clear();
        for one in &self.kept.generations {
            match &one.link {
                Some(link) if one.knows_supervision => drop(SupervisorMessage::Stop.send(link.as_fd(), &[])),
                _ => drop(kill(one.server, Signal::SIGTERM)),
            }
        }
    }
}

/// The value of a variable with a descriptor and its inode, if that descriptor is open and the same.
fn named_file(value: &OsStr) -> Option<OwnedFd> {
    let (fd, inode) = std::str::from_utf8(value.as_bytes()).ok()?.split_once(':')?;
    let (fd, inode): (i32, u64) = (fd.parse().ok()?, inode.parse().ok()?);
    let file = fs::metadata(format!("/proc/self/fd/{fd}"));
    // Without /proc the number has to do.
    if file.is_ok_and(|file| file.ino() != inode) {
        return None;
    }
    sys::adopt(fd).ok()
}
