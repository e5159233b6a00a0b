//! The hooks as the control loop calls them: which call is the last one, and what is known of the state that passes
//! from one generation to the next.

use std::sync::Arc;

use crate::base::log::{Escaped, error};
use crate::base::phase::Phase;
use crate::process::handover::state_file::StateFile;
use crate::process::handover::{Message, StateHead};
use crate::process::hooks::{Handed, HandoverState, HookResult, Runner};
use crate::process::state::Event;

pub(super) struct HookCalls {
    runner: Runner,
    /// The ticket of the last call. A result with another ticket is too late: its handover has failed meanwhile.
    ticket: u64,
    /// What this process released last.
    released: Arc<HandoverState>,
    /// What the predecessor released, until it is acquired.
    inherited: Option<Handed>,
    /// Why the last call of `acquire` failed.
    not_acquired: Option<String>,
    /// `on_exit` has run.
    exited: bool,
}

impl HookCalls {
    pub(super) fn new(runner: Runner) -> HookCalls {
        HookCalls {
            runner,
            ticket: 0,
            released: Arc::default(),
            inherited: None,
            not_acquired: None,
            exited: false,
        }
    }

    fn next_ticket(&mut self) -> u64 {
        self.ticket = self.ticket.wrapping_add(1);
        self.ticket
    }

    /// Releases the exclusive resources; the state is written to `file`. Returns the result if there is no hook to wait for.
    pub(super) fn release(&mut self, file: Option<StateFile>) -> Option<Event> {
        let ticket = self.next_ticket();
        match self.runner.release(ticket, file) {
            Ok(true) => None,
            Ok(false) => Some(Event::Released(Ok(()))),
            Err(e) => self.result(ticket, HookResult::Released(Err(e))),
        }
    }

    /// Acquires the exclusive resources, with the predecessor's state, or with our own after a failed handover. Returns the
    /// result if there is no hook to wait for.
    pub(super) fn acquire(&mut self) -> Option<Event> {
        let ticket = self.next_ticket();
        let own = || Handed::State(Arc::clone(&self.released));
        let state = self.inherited.take().unwrap_or_else(own);
        match self.runner.acquire(ticket, state) {
            Ok(true) => None,
            Ok(false) => Some(Event::Acquired(Ok(()))),
            Err(e) => self.result(ticket, HookResult::Acquired(Err(e))),
        }
    }

    /// Takes the result of a hook. Returns its event, unless it is too late.
    pub(super) fn result(&mut self, ticket: u64, result: HookResult) -> Option<Event> {
        let event = match result {
            HookResult::Exited => {
                self.exited = true;
                return None;
            }
            HookResult::Released(Ok((state, written))) => {
                self.released = state;
                if let Err(e) = &written {
                    error!("handover: can't pass on the state: {e}; still serving"; reason:% = Escaped(e));
                }
                Event::Released(written)
            }
            HookResult::Released(Err(e)) => {
                error!(
                    "handover: the release hook failed: {e}; still serving";
                    hook = "release",
                    reason:% = Escaped(&e)
                );
                Event::Released(Err(e))
            }
            HookResult::Acquired(outcome) => {
                if let Err(e) = &outcome {
                    error!("handover: {e}"; hook = "acquire", reason:% = Escaped(e));
                    self.not_acquired = Some(e.clone());
                }
                Event::Acquired(outcome)
            }
        };
        (ticket == self.ticket).then_some(event)
    }

    /// Calls the hooks of a phase, and of the drain that starts with it.
    pub(super) fn phase(&self, phase: Phase) {
        self.runner.phase(phase);
        if phase.is_draining() && phase != Phase::Exited {
            self.runner.drain();
        }
    }

    /// Starts `on_exit`, after everything that was called before.
    pub(super) fn exit(&mut self) {
        let ticket = self.next_ticket();
        match self.runner.exit(ticket) {
            Ok(runs) => self.exited = !runs,
            Err(e) => error!("can't run on_exit: {e}"; hook = "on_exit", reason:% = Escaped(&e)),
        }
    }

    pub(super) fn have_exited(&self) -> bool {
        self.exited
    }

    /// Why this process never had the exclusive resources.
    pub(super) fn not_acquired(self) -> Option<String> {
        self.not_acquired
    }

    /// Adds to GO how much of the state is in the file.
    pub(super) fn with_state(&self, message: Message) -> Message {
        match message {
            Message::Go { probation, records, .. } if *self.released != HandoverState::default() => {
                let bytes = self.released.bytes.len() as u64;
                let head = StateHead { version: self.released.version, bytes };
                Message::Go { probation, state: Some(head), records }
            }
            other => other,
        }
    }

    /// Takes the predecessor's state from `file`, after its GO.
    pub(super) fn inherit(&mut self, file: Option<StateFile>, head: StateHead) {
        self.inherited = file.map(|file| Handed::File(file, head));
    }
}
