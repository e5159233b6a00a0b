//! How the control loop starts the next generation, and dismisses one that must not serve.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use super::socket::ControlSocket;
use super::successor::Successor;
use super::upgrade::Step;
use super::{Control, own_pid};
use crate::base::log::{Escaped, error, info, warn};
use crate::base::sys::Session;
use crate::process::handover::child::Spawned;
use crate::process::handover::{Hello, VERSION, child};
use crate::process::signals;
use crate::process::state::Event;
use crate::process::supervise::link::Link;

impl Control<'_> {
    /// Starts the next generation.
    pub(super) fn spawn(&mut self) -> Event {
        self.outside.handover_begins();
        let Some(program) = &self.facts.program else {
            warn!(
                "handover: not possible: this server does not own its process";
                reason = "this server does not own its process"
            );
            self.outside.note_failure("this server does not own its process");
            return Event::SpawnFailed;
        };
        if let Some(above) = self.facts.refusal() {
            error!("handover: {above}; still serving"; reason:% = Escaped(&above));
            self.outside.note_failure(&above.to_string());
            return Event::SpawnFailed;
        }
        let hello = Hello {
            version: VERSION,
            generation: self.facts.generation,
            pid: own_pid(),
            nohup: self.facts.nohup,
            blocked: signals::numbers(&program.blocked),
            above: self.facts.surroundings.above,
            command: program.command(),
        };
        let terminal = self.facts.terminal.as_ref();
        // The supervisor's end is the service's, so the group of a session's leader does no harm below it.
        let has_supervisor = self.facts.supervisor.is_some();
        let ends = terminal.is_some_and(|terminal| !has_supervisor && terminal.ends_with_leader());
        let session = if ends { Session::Own } else { Session::Shared };
        let terminal = terminal.map(|terminal| terminal.files()).transpose().unwrap_or_else(|e| {
            warn!("handover: the successor can't watch its terminal: {e}"; reason:% = Escaped(&e));
            None
        });
        let (user, terminal) = (self.engine.files(), terminal.unwrap_or_default());
        let mut files: Vec<(String, BorrowedFd<'_>)> = Vec::new();
        for (name, fd) in &user {
            files.push((name.clone(), fd.as_fd()));
        }
        for (name, fd) in &terminal {
            files.push((name.clone(), fd.as_fd()));
        }
        files.extend(self.outside.socket.as_ref().and_then(ControlSocket::passed));
        let link = self.facts.supervisor.as_mut();
        let spawned = child::spawn(program, &self.engine.listeners(), &files, hello, session, link);
        // What it has sent meanwhile does not wake the poller.
        if self.facts.supervisor.as_ref().is_some_and(Link::has_early) {
            self.inbox.supervisor();
        }
        match spawned {
            Ok(spawned) => self.follow(spawned),
            Err(e) if e.busy => {
                if !std::mem::replace(&mut self.progress.writer_logged, true) {
                    info!("handover: {e}; trying again"; reason:% = Escaped(&e));
                }
                Event::ProgramBusy
            }
            Err(e) => {
                error!("handover: {e}; still serving"; reason:% = Escaped(&e));
                self.outside.note_failure(&e.to_string());
                Event::SpawnFailed
            }
        }
    }

    /// Makes the started process the successor of this one.
    fn follow(&mut self, spawned: Spawned) -> Event {
        let (successor, watched) = Successor::new(spawned, &self.poller);
        if let Some(old) = self.successor.replace(successor) {
            self.strays.retire(old, &self.poller);
        }
        if let Err(e) = watched {
            error!(
                "handover: can't watch the child: {e}";
                successor = self.successor.as_ref().map(Successor::pid),
                reason:% = Escaped(&e)
            );
            self.outside.note_failure(&format!("can't watch the child: {e}"));
            return Event::SuccessorGone;
        }
        if let Some(script) = self.facts.surroundings.script.take() {
            warn!(
                "handover: if the script of {script} starts this program again when this process ends, that start \
                 fails, because the successor has the address";
                successor = self.successor.as_ref().map(Successor::pid)
            );
        }
        let step = self.outside.upgrade.note_step(Step::Spawn, Instant::now());
        self.outside.step(step);
        Event::Spawned
    }

    pub(super) fn dismiss_successor(&mut self) -> Option<Event> {
        let late = self.outside.upgrade.late();
        let word = self.successor.take()?.dismiss(self.state.stage(), late, &self.poller);
        self.outside.identity.note_failure(&word.end);
        self.outside.upgrade.note_output(&word.wrote);
        word.child.into_iter().for_each(|child| self.strays.push(child));
        word.was_stopped.then_some(Event::Drain)
    }
}
