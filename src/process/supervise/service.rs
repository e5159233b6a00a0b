//! How the service is known by its pid file: that names the supervisor for good, which holds its locks
//! (`handover::pid_file`). They also show which generation serves, and how handovers go.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::getpid;

use crate::base::log::{Escaped, warn};
use crate::process::handover::pid_file::{PidFile, Record};
use crate::process::handover::{escape, unescape};

pub(super) struct PidFileService {
    pid_file: Option<PidFile>,
    /// Over all generations.
    record: Record,
}

impl Default for PidFileService {
    fn default() -> PidFileService {
        PidFileService { pid_file: None, record: Record::new(0) }
    }
}

impl PidFileService {
    /// What the supervisor leaves to itself of it.
    pub(super) fn encode(&self) -> String {
        let Record { failures, serving, .. } = self.record;
        let path = self.pid_file.as_ref().map(|pid_file| escape(pid_file.path().as_os_str().as_bytes()));
        format!("{failures}:{serving}:{}", path.unwrap_or_default())
    }

    pub(super) fn decode(text: &str) -> Option<PidFileService> {
        let mut fields = text.splitn(3, ':');
        let (failures, serving) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let record = Record { failures, in_progress: false, serving };
        let path = unescape(fields.next()?).filter(|path| !path.is_empty());
        let pid_file = path.and_then(|path| PidFile::new(Path::new(OsStr::from_bytes(&path))).ok());
        Some(PidFileService { pid_file, record })
    }

    /// Takes the locks again, which the program before has lost: it and this one are one process.
    pub(super) fn claim(&self) {
        if let Some(pid_file) = &self.pid_file {
            if let Err(e) = pid_file.claim(self.record) {
                warn!(
                    "supervisor: can't lock the pid file {}: {e}", pid_file.path().display();
                    path:% = Escaped(pid_file.path().display()),
                    reason:% = Escaped(&e)
                );
            }
        }
    }

    /// A generation has written the file at `path`, which names this process.
    pub(super) fn own(&mut self, path: PathBuf, file: File) {
        let before = self.pid_file.replace(PidFile::adopted(path, file, self.record));
        let path = self.pid_file.as_ref().map(PidFile::path);
        if let Some(before) = before.filter(|before| Some(before.path()) != path) {
            remove(&before);
        }
    }

    pub(super) fn serves(&mut self, server: i32) {
        self.record(Record { in_progress: false, serving: server, ..self.record });
    }

    pub(super) fn handover_begins(&mut self) {
        self.record(Record { in_progress: true, ..self.record });
    }

    pub(super) fn handover_failed(&mut self) {
        let failures = self.record.failures.wrapping_add(1);
        self.record(Record { in_progress: false, failures, ..self.record });
    }

    fn record(&mut self, record: Record) {
        self.record = record;
        if let Some(pid_file) = &self.pid_file {
            pid_file.record(record);
        }
    }

    /// The service has ended.
    pub(super) fn ends(&self) {
        self.pid_file.iter().for_each(remove);
    }
}

fn remove(pid_file: &PidFile) {
    if let Err(e) = pid_file.remove_if(getpid().as_raw()) {
        warn!(
            "supervisor: can't remove the pid file {}: {e}", pid_file.path().display();
            path:% = Escaped(pid_file.path().display()),
            reason:% = Escaped(&e)
        );
    }
}
