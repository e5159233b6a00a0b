//! What the supervisor does when a child has ended.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

use super::Supervisor;
use super::restarts::Restarts;
use crate::base::history::millis;
use crate::base::history::{FailedHandover, Note, unix_ms};
use crate::base::log::{error, info};
use crate::process::handover::child::End;

/// Between a HUP and the end of the process that it was sent to: that may not have seen it.
const SAME_MOMENT: Duration = Duration::from_secs(1);

/// The last HUP to a generation that does not know of supervision.
pub(super) struct LastHup {
    at: Instant,
    /// Processes that it had started before.
    successors: Vec<Pid>,
}

impl LastHup {
    pub(super) fn to(server: Pid) -> LastHup {
        LastHup { at: Instant::now(), successors: children(server) }
    }
}

/// The children of all threads of `parent`.
fn children(parent: Pid) -> Vec<Pid> {
    let mut children = Vec::new();
    for thread in entries(&format!("/proc/{parent}/task")) {
        let pids = fs::read_to_string(thread.join("children")).unwrap_or_default();
        children.extend(pids.split(' ').filter_map(|pid| pid.parse().ok()).map(Pid::from_raw));
    }
    children
}

/// The paths in a directory that can be read; else none.
fn entries(directory: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    if let Ok(entries) = fs::read_dir(directory) {
        paths.extend(entries.flatten().map(|entry| entry.path()));
    }
    paths
}

impl Supervisor {
    pub(super) fn reap(&mut self) {
        loop {
            let (pid, end) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) => (pid, End::Exited(status)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, End::Killed(signal)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            // What it has sent before.
            self.read_generation(pid);
            self.ended(pid, end);
        }
    }

    fn ended(&mut self, pid: Pid, end: End) {
        if self.has_heir(pid) {
            return;
        }
        let Some(one) = self.kept.remove(pid) else { return };
        let status = match end {
            End::Killed(signal) => 128_i32.saturating_add(signal as i32),
            End::Exited(status) => status,
            End::Unknown => 1,
        };
        let was_main = self.kept.main == Some(pid);
        if was_main {
            self.kept.main = None;
        }
        if was_main || !self.kept.has_served {
            self.last_status = status;
        }
        // Another one that has not served yet takes over by itself.
        let has_heir = self.kept.generations.iter().any(|other| !other.has_served);
        let is_missed =
            self.kept.has_served && self.kept.main.is_none() && !has_heir && !self.kept.is_stopping;
        if is_missed && (was_main || !one.has_served) {
            error!(
                "supervisor: {pid} has ended with status {status}, and no process serves";
                child = pid.as_raw(),
                status = status
            );
            self.outside.status(&format!("{pid} has ended with status {status}, and no process serves"));
            self.note_crash(was_main, end);
            self.crashed(status);
        } else if !was_main {
            self.note_drained(one.server);
        }
    }

    /// For the generation that is started in place of the one that has crashed.
    fn note_crash(&mut self, was_main: bool, end: End) {
        let now = unix_ms(SystemTime::now());
        let note = if was_main {
            Note::Crashed(now, end.to_string())
        } else {
            let reason = format!("the process that was started in its place {end}");
            Note::Failed(FailedHandover { at: now, reason, steps: Vec::new() })
        };
        self.kept.history.note(self.kept.generation, note);
    }

    /// The process of an earlier generation has ended, which nobody would say after a crash.
    fn note_drained(&mut self, server: Pid) {
        let now = unix_ms(SystemTime::now());
        let found = self.kept.history.generations().find(|one| one.pid == server.as_raw());
        if let Some((number, until)) = found.and_then(|one| Some((one.number, one.until?))) {
            self.kept.history.note(number, Note::Drained(now.saturating_sub(until)));
        }
    }

    /// Whether another process goes on as the child `pid`, which has ended and left it to us: the server of a script, or
    /// the successor that a generation of an earlier version has started by itself.
    fn has_heir(&mut self, pid: Pid) -> bool {
        let Some(one) = self.kept.get(pid) else { return false };
        let server = match () {
            () if one.server != pid => Some(one.server),
            // It sends nothing, and neither does its successor.
            () if !one.knows_supervision && one.has_served && self.kept.main == Some(pid) => {
                self.unknown_child()
            }
            () => None,
        };
        let lives = |server: &Pid| waitpid(*server, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive);
        let Some(server) = server.filter(lives) else { return false };
        info!(
            "supervisor: {server} goes on in place of {pid}";
            child = server.as_raw(),
            ended = pid.as_raw()
        );
        if self.kept.main == Some(pid) {
            self.kept.main = Some(server);
        }
        let is_stopping = self.kept.is_stopping;
        if let Some(one) = self.kept.get_mut(pid) {
            (one.pid, one.server) = (server, server);
            if is_stopping && !one.knows_supervision {
                let _ = kill(server, Signal::SIGTERM);
            }
        }
        // The HUP may have met a process that had handed over already and was about to exit.
        let met_its_end = |hup: &LastHup| hup.at.elapsed() < SAME_MOMENT && hup.successors.contains(&server);
        if self.last_hup.take().is_some_and(|hup| met_its_end(&hup)) && !is_stopping {
            self.pass_on(Signal::SIGHUP);
        }
        true
    }

    /// A child that no generation has reported and that has one of our listeners, or runs our program. The program alone would
    /// not do: by now there may be another one at its path.
    fn unknown_child(&self) -> Option<Pid> {
        let id = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        let program = id(&self.kept.recipe.path);
        let numbers = self.kept.listeners.iter().map(|passed| passed.fd.as_raw_fd());
        let listeners: Vec<_> =
            numbers.filter_map(|fd| id(Path::new(&format!("/proc/self/fd/{fd}")))).collect();
        children(getpid()).into_iter().filter(|pid| self.kept.get(*pid).is_none()).find(|pid| {
            entries(&format!("/proc/{pid}/fd"))
                .iter()
                .any(|file| id(file).is_some_and(|file| listeners.contains(&file)))
                || program.is_some_and(|program| id(Path::new(&format!("/proc/{pid}/exe"))) == Some(program))
        })
    }

    pub(super) fn crashed(&mut self, status: i32) {
        self.last_status = status;
        let mut restarts = Restarts(self.kept.crashes);
        let pause = restarts.crash(self.started.elapsed());
        self.kept.crashes = restarts.0;
        match pause {
            // A service that has never served has nothing to wait for it.
            Some(pause) if self.kept.has_served => {
                if !pause.is_zero() {
                    info!(
                        "supervisor: the next one is started in {} s", pause.as_secs();
                        duration_ms = millis(pause),
                        crashes = self.kept.crashes
                    );
                }
                self.start_at = Instant::now().checked_add(pause);
            }
            _ => {
                error!("supervisor: gives up after {} crashes", self.kept.crashes; crashes = self.kept.crashes);
                self.stop("no generation stays alive");
            }
        }
    }
}
