//! How other programs learn which process owns the service: by the pid file, and from systemd. Neither a file system that
//! hangs nor a service manager delays this process for longer than a second.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::unistd::getpid;

use crate::base::log::{Escaped, debug, error, info};
use crate::process::control::Engine;
use crate::process::control::successor::Successor;
use crate::process::handover::pid_file::{self, PidFile, Record};
use crate::process::state::{Stage, State, Why};
use crate::process::supervise::link::SupervisorSender;
use crate::process::supervise::message::SupervisorMessage;
use crate::process::systemd::{Duty, Heir, Manager};

pub(super) struct Identity {
    /// None: no file names it.
    pid_file: Option<PidFile>,
    /// None: no service manager is to be notified.
    manager: Option<Manager>,
    /// The listeners that the successor has, by name.
    pub(super) adopted: Vec<String>,
    /// None: the service is known by the process that serves.
    supervisor: Option<SupervisorSender>,
    record: Record,
}

impl Identity {
    pub(super) fn new(
        pid_file: Option<PidFile>,
        manager: Option<Manager>,
        supervisor: Option<SupervisorSender>,
    ) -> Identity {
        let record = Record::new(getpid().as_raw());
        Identity { pid_file, manager, adopted: Vec::new(), supervisor, record }
    }

    /// This process owns the service from now on, although no predecessor has passed it on.
    pub(super) fn assume(&mut self, heir: Heir, engine: &dyn Engine) {
        if self.supervisor.is_none() {
            self.name(getpid().as_raw());
        }
        if let Some(manager) = &mut self.manager {
            manager.assume(heir, &engine.listeners());
        }
    }

    /// The successor owns the service from now on.
    pub(super) fn pass(&mut self, successor: &Successor) {
        match &self.supervisor {
            Some(supervisor) => supervisor.send(&SupervisorMessage::Committed { pid: successor.pid() }),
            None => self.name(successor.server_pid().as_raw()),
        }
        if let Some(manager) = &mut self.manager {
            manager.pass(successor.server_pid(), successor.server_pidfd_id(), &self.adopted);
        }
    }

    /// The predecessor has passed the service on to this process.
    pub(super) fn took_over(&mut self, engine: &dyn Engine) {
        if let Some(manager) = &mut self.manager {
            manager.took_over(&engine.listeners());
        }
    }

    /// A handover starts.
    pub(super) fn reloading(&mut self) {
        self.record(Record { in_progress: true, ..self.record }, &SupervisorMessage::HandoverBegins);
        self.manager.iter_mut().for_each(Manager::reloading);
    }

    /// It is over, and this process still serves.
    pub(super) fn handover_failed(&mut self) {
        let failures = self.record.failures.wrapping_add(1);
        self.record(
            Record { failures, in_progress: false, ..self.record },
            &SupervisorMessage::HandoverFailed,
        );
    }

    fn record(&mut self, record: Record, word: &SupervisorMessage) {
        if std::mem::replace(&mut self.record, record) == record {
            return;
        }
        if let Some(supervisor) = &self.supervisor {
            return supervisor.send(word);
        }
        let Some(pid_file) = &self.pid_file else { return };
        let file = pid_file.clone();
        let written = move || {
            file.record(record);
            Ok(())
        };
        if let Err(e) = pid_file::in_time(written) {
            debug!("can't lock the pid file {}: {e}", pid_file.path().display());
        }
    }

    /// This process owns the service, and the file names it.
    fn claim(&self) {
        let Some(pid_file) = &self.pid_file else { return };
        let (file, record) = (pid_file.clone(), self.record);
        if let Err(e) = pid_file::in_time(move || file.claim(record)) {
            debug!("can't lock the pid file {}: {e}", pid_file.path().display());
        }
    }

    /// Why the handover in progress fails.
    pub(super) fn note_failure(&mut self, reason: &str) {
        self.manager.iter_mut().for_each(|manager| manager.note_failure(reason));
    }

    /// A stage was entered.
    pub(super) fn entered(&mut self, state: &State) {
        if state.stage() == Stage::Serving && self.supervisor.is_none() {
            self.claim();
        }
        let Some(manager) = &mut self.manager else { return };
        match state.stage() {
            Stage::Serving => manager.serves_again(),
            Stage::LameDuck | Stage::Draining(Why::Stop) => manager.stopping(state.longest_stop()),
            _ => {}
        }
    }

    /// The listeners are about to be closed for good.
    pub(super) fn closing(&mut self, within: Duration) {
        self.manager.iter_mut().for_each(|manager| manager.stopping(within));
    }

    /// When `tick` is to be called next.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.manager.as_ref()?.next_tick()
    }

    pub(super) fn tick(&mut self, engine: &dyn Engine) {
        let Some(manager) = &mut self.manager else { return };
        if manager.tick(Instant::now()) == Duty::AskForProgress {
            engine.check_progress();
        }
    }

    /// Acceptor and workers have answered.
    pub(super) fn progressed(&mut self) {
        self.manager.iter_mut().for_each(Manager::progressed);
    }

    fn name(&self, pid: i32) {
        let Some(pid_file) = &self.pid_file else { return };
        let file = pid_file.clone();
        match pid_file::in_time(move || file.name(pid)) {
            Ok(()) => info!(
                "pid file {} names {pid}", pid_file.path().display();
                path:% = Escaped(pid_file.path().display()),
                named_pid = pid
            ),
            Err(e) => not_written(pid_file, &e),
        }
    }

    /// The file names the supervisor: a generation of an earlier version may have named itself.
    pub(super) fn name_supervisor(&self) {
        let (Some(pid_file), Some(supervisor)) = (&self.pid_file, self.supervisor.clone()) else { return };
        let (file, pid) = (pid_file.clone(), supervisor.pid);
        let named = pid_file::in_time(move || {
            if let Some(written) = file.name_other(pid)? {
                let path = file.path().to_owned();
                supervisor.send_with(&SupervisorMessage::PidFile { path }, &[written.as_fd()]);
                info!(
                    "pid file {} names {pid}", file.path().display();
                    path:% = Escaped(file.path().display()),
                    named_pid = pid
                );
            }
            Ok(())
        });
        if let Err(e) = named {
            not_written(pid_file, &e);
        }
    }

    /// The supervisor is gone: `stage` is that of this process, which continues without it.
    pub(super) fn supervisor_gone(&mut self, stage: Stage) {
        self.supervisor = None;
        if stage == Stage::Serving {
            self.name(getpid().as_raw());
        }
    }

    /// This process leaves. The pid file is removed if it still names it; one that names the supervisor is its business.
    pub(super) fn finish(&mut self) {
        self.manager.iter_mut().for_each(Manager::finish);
        let Some(pid_file) = &self.pid_file else { return };
        let (file, pid) = (pid_file.clone(), getpid().as_raw());
        if let Err(e) = pid_file::in_time(move || file.remove_if(pid)) {
            error!(
                "can't remove the pid file {}: {e}", pid_file.path().display();
                path:% = Escaped(pid_file.path().display()),
                reason:% = Escaped(&e)
            );
        }
    }
}

fn not_written(pid_file: &PidFile, e: &io::Error) {
    error!(
        "can't write the pid file {}: {e}", pid_file.path().display();
        path:% = Escaped(pid_file.path().display()),
        reason:% = Escaped(e)
    );
}
