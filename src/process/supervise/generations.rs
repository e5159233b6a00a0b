//! What the supervisor does about the words of a generation.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::Supervisor;
use super::words::{Heard, Named, Word, borrowed, hear};
use crate::base::log::{info, warn};
use crate::process::handover::Passed;

impl Supervisor {
    pub(super) fn hear_generation(&mut self, pid: Pid) {
        loop {
            let Some(link) = self.keeps.get(pid).and_then(|one| one.link.as_ref()) else { return };
            match hear(link.as_fd()) {
                Heard::Word(word, fds) => self.obey(pid, word, fds),
                Heard::Unknown => {}
                Heard::Nothing => return,
                Heard::End => {
                    if let Some(one) = self.keeps.get_mut(pid) {
                        one.link = None;
                    }
                    return;
                }
            }
        }
    }

    fn obey(&mut self, pid: Pid, word: Word, fds: Vec<OwnedFd>) {
        match word {
            Word::Serving { generation, listeners } => self.serves(pid, generation, listeners, fds),
            Word::Stopping { within } => {
                self.outside.stopping(within);
                if !std::mem::replace(&mut self.keeps.is_stopping, true) {
                    info!("supervisor: {pid} ends the service");
                    self.keeps.listeners.clear();
                }
            }
            Word::Notify { text } => self.outside.relay(&text, &borrowed(&fds)),
            Word::PidFile { path } => {
                if let Some(file) = fds.into_iter().next() {
                    self.keeps.service.own(path, file.into());
                }
            }
            Word::HandoverBegins if self.keeps.main == Some(pid) => self.keeps.service.handover_begins(),
            Word::HandoverFailed if self.keeps.main == Some(pid) => self.keeps.service.handover_failed(),
            Word::Spawn => self.spawn_for(pid, fds),
            Word::Here { pid: server } => {
                if let Some(one) = self.keeps.get_mut(pid) {
                    one.here = Some(Pid::from_raw(server));
                    // Else a generation of an earlier version has left its channel to its successor, which is on probation.
                    if !one.has_served {
                        one.takes_over();
                    }
                }
            }
            Word::Committed { pid: child } => {
                let Some(one) = self.keeps.get_mut(Pid::from_raw(child)) else { return };
                one.has_served = true;
                let is_mute = !one.speaks;
                self.keeps.main = Some(Pid::from_raw(child));
                if is_mute {
                    // Its number is said by nobody else.
                    self.keeps.generation = self.keeps.generation.saturating_add(1);
                    info!("supervisor: {child} serves, and does not know of supervision");
                    self.keeps.service.serves(child);
                }
            }
            _ => {}
        }
    }

    fn serves(&mut self, pid: Pid, generation: u32, listeners: Vec<Named>, fds: Vec<OwnedFd>) {
        let before = self.keeps.main.replace(pid);
        self.keeps.has_served = true;
        let number = std::mem::replace(&mut self.keeps.generation, generation);
        if let Some(one) = self.keeps.get_mut(pid) {
            one.takes_over();
            one.has_served = true;
            let recipe = one.recipe.take();
            self.keeps.recipe = recipe.unwrap_or_else(|| std::mem::take(&mut self.keeps.recipe));
        }
        if self.keeps.is_stopping {
            // It began to serve while the stop was on its way.
            if let Some(link) = self.keeps.get(pid).and_then(|one| one.link.as_ref()) {
                let _ = Word::Stop.send(link.as_fd(), &[]);
            }
            return;
        }
        let passed = listeners.into_iter().zip(fds).map(|(named, fd)| {
            let Named { name, file, owner } = named;
            Passed { name, fd, file, owner }
        });
        self.keeps.listeners = passed.collect();
        if before == Some(pid) && number == generation {
            return;
        }
        info!("supervisor: {pid} serves as generation {generation}");
        if std::mem::take(&mut self.hup_waits) {
            self.pass_on(Signal::SIGHUP);
        }
        self.keeps.service.serves(self.keeps.main().map_or(0, |main| main.server.as_raw()));
        self.follow(pid);
    }

    /// Replaces itself by the program that has proven itself as generation `pid`, if that is another one.
    fn follow(&mut self, pid: Pid) {
        let id = |path: &str| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        let (own, its) = (id("/proc/self/exe"), id(&format!("/proc/{pid}/exe")));
        let path = fs::metadata(&self.keeps.recipe.path).ok().map(|found| (found.dev(), found.ino()));
        if own.is_some() && its.is_some() && its != own && path == its {
            info!("supervisor: continues as the new version of {}", self.keeps.recipe.path.display());
            let e = self.keeps.exec();
            warn!("supervisor: can't become the new version: {e}; the old one continues");
        }
    }
}
