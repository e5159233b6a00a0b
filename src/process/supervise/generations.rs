//! What the supervisor does about the messages of a generation.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::Supervisor;
use super::message::{MessageRead, NamedListener, SupervisorMessage, borrowed, read_message};
use crate::base::log::{Escaped, info, set_generation, warn};
use crate::base::read;
use crate::process::handover::Passed;

/// More of a history is not read.
const HISTORY_BYTES: u64 = 1 << 20;

impl Supervisor {
    pub(super) fn read_generation(&mut self, pid: Pid) {
        loop {
            let Some(link) = self.kept.get(pid).and_then(|one| one.link.as_ref()) else { return };
            match read_message(link.as_fd()) {
                MessageRead::Message(message, fds) => self.handle(pid, message, fds),
                MessageRead::Unknown => {}
                MessageRead::Nothing => return,
                MessageRead::End => {
                    if let Some(one) = self.kept.get_mut(pid) {
                        one.link = None;
                    }
                    return;
                }
            }
        }
    }

    fn handle(&mut self, pid: Pid, message: SupervisorMessage, fds: Vec<OwnedFd>) {
        match message {
            SupervisorMessage::Serving { generation, listeners } => {
                self.serves(pid, generation, listeners, fds)
            }
            SupervisorMessage::Stopping { within } => {
                self.outside.stopping(within);
                if !std::mem::replace(&mut self.kept.is_stopping, true) {
                    info!("supervisor: {pid} ends the service"; child = pid.as_raw());
                    self.kept.listeners.clear();
                }
            }
            SupervisorMessage::Notify { text } => self.outside.relay(&text, &borrowed(&fds)),
            SupervisorMessage::PidFile { path } => {
                if let Some(file) = fds.into_iter().next() {
                    self.kept.service.own(path, file.into());
                }
            }
            SupervisorMessage::HandoverBegins if self.kept.main == Some(pid) => {
                self.kept.service.handover_begins()
            }
            SupervisorMessage::HandoverFailed if self.kept.main == Some(pid) => {
                self.kept.service.handover_failed()
            }
            SupervisorMessage::History => {
                let file = fds.into_iter().next().map(File::from);
                if let Some(Ok(text)) = file.map(|file| read::text(HISTORY_BYTES, &file)) {
                    text.lines().for_each(|line| self.kept.history.read(line));
                }
            }
            SupervisorMessage::Spawn => self.spawn_for(pid, fds),
            SupervisorMessage::Here { pid: server } => {
                if let Some(one) = self.kept.get_mut(pid) {
                    one.here = Some(Pid::from_raw(server));
                    // Else a generation of an earlier version has left its channel to its successor, which is on probation.
                    if !one.has_served {
                        one.takes_over();
                    }
                }
            }
            SupervisorMessage::Committed { pid: child } => {
                // It has introduced itself before, on its own link.
                self.read_generation(Pid::from_raw(child));
                let Some(one) = self.kept.get_mut(Pid::from_raw(child)) else { return };
                one.has_served = true;
                let is_unaware = !one.knows_supervision;
                self.kept.main = Some(Pid::from_raw(child));
                if is_unaware {
                    // No other process reports its number.
                    self.kept.generation = self.kept.generation.saturating_add(1);
                    set_generation(self.kept.generation);
                    info!("supervisor: {child} serves, and does not know of supervision"; child = child);
                    self.kept.service.serves(child);
                }
            }
            _ => {}
        }
    }

    fn serves(&mut self, pid: Pid, generation: u32, listeners: Vec<NamedListener>, fds: Vec<OwnedFd>) {
        let before = self.kept.main.replace(pid);
        self.kept.has_served = true;
        let number = std::mem::replace(&mut self.kept.generation, generation);
        if let Some(one) = self.kept.get_mut(pid) {
            one.takes_over();
            one.has_served = true;
            let recipe = one.recipe.take();
            self.kept.recipe = recipe.unwrap_or_else(|| std::mem::take(&mut self.kept.recipe));
        }
        if self.kept.is_stopping {
            // It began to serve while the stop was on its way.
            if let Some(link) = self.kept.get(pid).and_then(|one| one.link.as_ref()) {
                let _ = SupervisorMessage::Stop.send(link.as_fd(), &[]);
            }
            return;
        }
        let passed = listeners.into_iter().zip(fds).map(|(named, fd)| {
            let NamedListener { name, file, owner } = named;
            let fd = Arc::new(fd);
            Passed { name, fd, file, owner }
        });
        self.kept.listeners = passed.collect();
        if before == Some(pid) && number == generation {
            return;
        }
        set_generation(generation);
        info!("supervisor: {pid} serves as generation {generation}"; child = pid.as_raw());
        if std::mem::take(&mut self.hup_waits) {
            self.pass_on(Signal::SIGHUP);
        }
        self.kept.service.serves(self.kept.main().map_or(0, |main| main.server.as_raw()));
        self.follow(pid);
    }

    /// Replaces itself by the program that has proven itself as generation `pid`, if that is another one.
    fn follow(&mut self, pid: Pid) {
        let id = |path: &str| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        let (own, its) = (id("/proc/self/exe"), id(&format!("/proc/{pid}/exe")));
        let path = fs::metadata(&self.kept.recipe.path).ok().map(|found| (found.dev(), found.ino()));
        if own.is_some() && its.is_some() && its != own && path == its {
            info!(
                "supervisor: continues as the new version of {}", self.kept.recipe.path.display();
                path:% = Escaped(self.kept.recipe.path.display())
            );
            let e = self.kept.exec();
            warn!("supervisor: can't become the new version: {e}; the old one continues"; reason:% = Escaped(&e));
        }
    }
}
