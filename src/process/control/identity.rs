//! The pid file, as the control loop writes it. A file system that hangs is not waited for longer than a second.

use crate::base::log::{error, info};
use crate::process::handover::pid_file::{self, PidFile};

/// How the service's process is named to the outside. None: by nothing.
#[derive(Debug)]
pub(super) struct Identity(pub(super) Option<PidFile>);

impl Identity {
    /// `pid` owns the service from now on.
    pub(super) fn name(&self, pid: i32) {
        let Some(pid_file) = &self.0 else { return };
        let file = pid_file.clone();
        match pid_file::in_time(move || file.name(pid)) {
            Ok(()) => info!("pid file {} names {pid}", pid_file.path().display()),
            Err(e) => error!("can't write the pid file {}: {e}", pid_file.path().display()),
        }
    }

    /// The service ends, if `pid` still owns it.
    pub(super) fn remove(&self, pid: i32) {
        let Some(pid_file) = &self.0 else { return };
        let file = pid_file.clone();
        if let Err(e) = pid_file::in_time(move || file.remove_if(pid)) {
            error!("can't remove the pid file {}: {e}", pid_file.path().display());
        }
    }
}
