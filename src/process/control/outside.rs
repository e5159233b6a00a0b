//! How other programs see the service: which process owns it, by the pid file, and the result of a handover, by the control
//! socket.

use std::time::{Duration, Instant, SystemTime};

use crate::base::history::{FailedHandover, Note, millis, unix_ms};
use crate::base::records::Records;
use crate::base::time::earliest;
use crate::process::control::Engine;
use crate::process::control::identity::Identity;
use crate::process::control::poller::{Poller, Source};
use crate::process::control::socket::command::AnswerLine;
use crate::process::control::socket::{Bound, ClientId, ControlSocket};
use crate::process::control::upgrade::{Outcome, Step, UpgradeWatch};
use crate::process::handover::pid_file::PidFile;
use crate::process::state::{Stage, Why};
use crate::process::supervise::link::SupervisorSender;
use crate::process::systemd::Manager;

pub(super) struct Outside {
    pub(super) identity: Identity,
    pub(super) socket: Option<ControlSocket>,
    pub(super) upgrade: UpgradeWatch,
    /// The client that requested the handover in progress.
    pub(super) waiting: Option<ClientId>,
}

impl Outside {
    /// # Errors
    /// When the socket can't be watched.
    pub(super) fn new(
        (pid_file, manager, bound): (Option<PidFile>, Option<Manager>, Option<Bound>),
        supervisor: Option<SupervisorSender>,
        poller: &Poller,
    ) -> std::io::Result<Outside> {
        let socket = bound.map(ControlSocket::new).transpose()?;
        socket.as_ref().map_or(Ok(()), |socket| poller.add(socket, Source::Socket))?;
        let identity = Identity::new(pid_file, manager, supervisor);
        Ok(Outside { identity, socket, upgrade: UpgradeWatch::default(), waiting: None })
    }

    /// This process is in `stage` from now on, as generation `generation`; `successor` is the pid of the next one.
    pub(super) fn enter(&mut self, stage: Stage, generation: u32, successor: i32, records: &Records) {
        let now = Instant::now();
        match stage {
            Stage::Serving => {
                records.serves(generation);
                self.socket.iter_mut().for_each(ControlSocket::open);
            }
            Stage::Draining(Why::HandedOver) => {
                // First: a client that learns of the new generation, and connects again, reaches it.
                self.socket.iter_mut().for_each(|socket| socket.hand_over(now));
                let next = generation.saturating_add(1);
                records.served(generation);
                records.note(next, Note::Pid(successor));
                records.serves(next);
                let outcome = self.upgrade.commits(now);
                self.report(outcome, next, Some(successor), records);
            }
            Stage::LameDuck | Stage::Draining(_) | Stage::Yielding | Stage::Finished => {
                records.served(generation);
                let outcome = self.upgrade.is_stopped(now);
                self.report(outcome, generation, None, records);
            }
            _ => {}
        }
    }

    /// The next generation is about to be started, perhaps not for the first time: its program may be being written.
    pub(super) fn handover_begins(&mut self) {
        self.upgrade.begins(Instant::now());
        self.identity.reloading();
    }

    /// Why the handover in progress fails.
    pub(super) fn note_failure(&mut self, reason: &str) {
        self.upgrade.note_cause(reason.to_owned());
        self.identity.note_failure(reason);
    }

    /// When `tick` is to be called next.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        let socket = self.socket.as_ref().and_then(ControlSocket::deadline);
        earliest(&[self.identity.next_tick(), socket])
    }

    pub(super) fn tick(&mut self, engine: &dyn Engine) {
        self.identity.tick(engine);
        self.socket.iter_mut().for_each(|socket| socket.tick(Instant::now()));
    }

    /// This process leaves.
    pub(super) fn finish(&mut self) {
        self.identity.finish();
        self.socket.iter_mut().for_each(ControlSocket::remove);
    }

    /// A step of a handover has ended.
    pub(super) fn step(&mut self, step: Option<Step>) {
        let (Some(_), Some(id), Some(socket)) = (step, self.waiting, &mut self.socket) else { return };
        if let Some((step, took)) = self.upgrade.last_step() {
            socket.say(id, &AnswerLine::new("step").with("name", step.name()).with("ms", took.as_millis()));
        }
    }

    pub(super) fn handover_failed(&mut self, generation: u32, records: &Records) {
        self.identity.handover_failed();
        let outcome = self.upgrade.fails(Instant::now());
        self.report(outcome, generation, i32::try_from(std::process::id()).ok(), records);
    }

    /// `serving` is the process that serves from now on, if one does.
    fn report(&mut self, outcome: Option<Outcome>, generation: u32, serving: Option<i32>, records: &Records) {
        let Some(outcome) = outcome else { return };
        note(&outcome, generation, records);
        let (Some(id), Some(socket)) = (self.waiting.take(), &mut self.socket) else { return };
        let ms = |duration: &Duration| duration.as_millis();
        let mut line = match &outcome.committed {
            Ok(()) => AnswerLine::new("ok"),
            Err(reason) => AnswerLine::error("failed", reason),
        };
        if let Some(pid) = serving {
            line = line.with("pid", pid).with("generation", generation);
        }
        for (step, took) in &outcome.steps {
            line = line.with(&format!("{}_ms", step.name()), ms(took));
        }
        socket.answer(id, &[line.with("total_ms", ms(&outcome.total))], Instant::now());
    }
}

/// Notes how a handover ended: of the new generation if it was committed, else of the one that serves on.
fn note(outcome: &Outcome, generation: u32, records: &Records) {
    records.counters.requests.handover(outcome.committed.is_ok(), outcome.total);
    let steps = outcome.steps.iter().map(|(step, took)| (step.name().to_owned(), millis(*took)));
    match &outcome.committed {
        Ok(()) => steps.for_each(|(name, ms)| records.note(generation, Note::Step(name, ms))),
        Err(reason) => {
            let at = unix_ms(SystemTime::now());
            let failed = FailedHandover { at, reason: reason.clone(), steps: steps.collect() };
            records.note(generation, Note::Failed(failed));
        }
    }
}
