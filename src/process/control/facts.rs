//! What the control loop is given: facts about its process and the generation before it.

use std::sync::Arc;

use crate::process::handover::above::{Above, Surroundings};
use crate::process::handover::channel::Channel;
use crate::process::handover::child::Program;
use crate::process::handover::state_file::StateFile;
use crate::process::supervise::link::Link;
use crate::process::systemd::Manager;
use crate::process::terminal::Terminal;

/// What the loop needs to know of its process.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) generation: u32,
    /// The program's, if it says it.
    pub(crate) version: Option<String>,
    pub(crate) nohup: bool,
    pub(crate) terminal: Option<Arc<Terminal>>,
    /// None: this process does not hand over (in-process servers).
    pub(crate) program: Option<Program>,
    pub(crate) surroundings: Surroundings,
    /// The program says that what is above it does not end the service with it.
    pub(crate) under_any_parent: bool,
    pub(crate) manager: Option<Manager>,
    pub(crate) supervisor: Option<Link>,
    /// The names of the streams that this process can continue.
    pub(crate) resumes: Vec<String>,
}

impl Facts {
    /// Why this process must not hand over.
    pub(crate) fn refusal(&self) -> Option<Above> {
        self.surroundings.above.filter(|above| !self.under_any_parent || *above == Above::Kernel)
    }
}

/// The generation before this one.
pub(crate) struct Predecessor {
    pub(crate) channel: Channel,
    pub(crate) pid: i32,
    /// Where it leaves the user's state.
    pub(crate) state: Option<StateFile>,
}
