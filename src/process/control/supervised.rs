//! What a generation sends to its supervisor, and receives from it. A stop of the supervisor is a drain, however often it comes.

use std::time::Duration;

use super::Control;
use crate::base::log::{info, warn};
use crate::base::phase::Phase;
use crate::process::state::{Event, Stage, Why};
use crate::process::supervise::message::SupervisorMessage;

impl Control<'_> {
    /// The stage was entered: which process serves, and whether the service ends.
    pub(super) fn notify_supervisor(&mut self) {
        let Some(supervisor) = &self.facts.supervisor else { return };
        match self.state.stage() {
            Stage::Serving => {
                // First: the supervisor locks the file before it logs that this generation serves.
                self.outside.identity.name_supervisor();
                supervisor.serves(self.facts.generation, &self.engine.listeners());
            }
            Stage::LameDuck | Stage::Yielding | Stage::Draining(Why::Stop) if !self.progress.ends_service => {
                self.progress.ends_service = true;
                supervisor.send(&SupervisorMessage::Stopping { within: self.state.longest_stop() });
            }
            _ => {}
        }
    }

    /// This generation serves, or its predecessor has sent more: the supervisor keeps what is known so far.
    pub(super) fn pass_history_to_supervisor(&self) {
        if let (Some(supervisor), Stage::Serving) = (&self.facts.supervisor, self.state.stage()) {
            supervisor.keep_history(&self.engine.records().lines_about_all());
        }
    }

    pub(super) fn read_supervisor(&mut self) {
        let Some(supervisor) = &mut self.facts.supervisor else { return };
        let messages = supervisor.receive();
        if supervisor.has_ended {
            warn!("the supervisor is gone: this process serves on without it"; supervisor = supervisor.pid());
            self.outside.identity.supervisor_gone(self.state.stage());
            if let Some(supervisor) = self.facts.supervisor.take() {
                self.poller.remove(&supervisor);
            }
        }
        if messages.contains(&SupervisorMessage::Stop) {
            info!("the supervisor ends the service"; reason = "stop requested");
            self.handle(Event::Drain);
        }
    }

    /// An abort of the generation that serves ends the service.
    pub(super) fn supervised_service_aborts(&mut self) {
        // The phase is still the one before.
        let is_main = matches!(self.phase.get(), Phase::Serving | Phase::HandingOver);
        if let Some(supervisor) = self.facts.supervisor.as_ref().filter(|_| is_main) {
            supervisor.send(&SupervisorMessage::Stopping { within: Duration::ZERO });
            self.progress.ends_service = true;
        }
    }
}
