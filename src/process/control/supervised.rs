//! What a generation tells its supervisor, and hears there. A stop of the supervisor is a drain, however often it comes.

use std::time::Duration;

use super::Control;
use crate::base::log::{info, warn};
use crate::base::phase::Phase;
use crate::process::state::{Event, Stage, Why};
use crate::process::supervise::words::Word;

impl Control<'_> {
    /// The stage was entered: who serves, and whether the service ends.
    pub(super) fn tell_supervisor(&mut self) {
        let Some(supervisor) = &self.facts.supervisor else { return };
        match self.state.stage() {
            Stage::Serving => {
                // First: the supervisor locks the file before it says that this generation serves.
                self.outside.identity.name_supervisor();
                supervisor.serves(self.facts.generation, &self.engine.listeners());
            }
            Stage::LameDuck | Stage::Yielding | Stage::Draining(Why::Stop) if !self.progress.ends_service => {
                self.progress.ends_service = true;
                supervisor.say(&Word::Stopping { within: self.state.longest_stop() });
            }
            _ => {}
        }
    }

    pub(super) fn read_supervisor(&mut self) {
        let Some(supervisor) = &mut self.facts.supervisor else { return };
        let words = supervisor.receive();
        if supervisor.has_ended {
            warn!("the supervisor is gone: this process serves on without it");
            self.outside.identity.supervisor_gone(self.state.stage());
            if let Some(supervisor) = self.facts.supervisor.take() {
                self.poller.remove(&supervisor);
            }
        }
        if words.contains(&Word::Stop) {
            info!("the supervisor ends the service");
            self.handle(Event::Drain);
        }
    }

    /// An abort of the generation that serves ends the service.
    pub(super) fn supervised_service_aborts(&mut self) {
        // The phase is still the one before.
        let is_main = matches!(self.phase.get(), Phase::Serving | Phase::HandingOver);
        if let Some(supervisor) = self.facts.supervisor.as_ref().filter(|_| is_main) {
            supervisor.say(&Word::Stopping { within: Duration::ZERO });
            self.progress.ends_service = true;
        }
    }
}
