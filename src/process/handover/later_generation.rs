//! Which later generation of this program has an address that a first generation can't bind. After a handover generation 1
//! exits; a supervisor that does not know of handovers takes that for a crash and starts the program again, which finds its
//! address in use for as long as the service lives.
//!
//! A later generation is known by its executable, by the variable that its predecessor has given to it, and by the socket
//! that this variable names: programs that a server starts have a copy of the variable, but not the socket.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::child::VARIABLE;
use super::inherit::Variable;

/// The pid of the newest later generation that has the listener of this name. None also in a process that has a predecessor.
pub(crate) fn holder_of(listener: &str) -> Option<i32> {
    if std::env::var_os(VARIABLE).is_some() {
        return None;
    }
    let own = executable("self")?;
    let mut newest = None;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let name = entry.file_name();
        let Ok(name) = std::str::from_utf8(name.as_bytes()) else { continue };
        let Ok(pid) = name.parse() else { continue };
        if executable(name).is_some_and(|path| path == own) && has_inherited(name, listener).is_some() {
            newest = newest.max(Some((start_time(pid), pid)));
        }
    }
    newest.map(|(_, pid)| pid)
}

/// The path of a process's executable, also if the file was replaced since.
fn executable(process: &str) -> Option<PathBuf> {
    let link = fs::read_link(format!("/proc/{process}/exe")).ok()?.into_os_string();
    let path = link.as_bytes().strip_suffix(b" (deleted)").unwrap_or(link.as_bytes()).to_vec();
    Some(OsString::from_vec(path).into())
}

/// Some if the process was started with this listener and has it still.
fn has_inherited(process: &str, listener: &str) -> Option<()> {
    let environment = fs::read(format!("/proc/{process}/environ")).ok()?;
    let head = format!("{VARIABLE}=");
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|pair| pair.strip_prefix(head.as_bytes()))?;
    let note = Variable::parse(OsStr::from_bytes(value))?;
    let at = note.listeners.iter().position(|name| name == listener)?;
    let socket = format!("socket:[{}]", note.sockets.get(at)?);
    let mut fds = fs::read_dir(format!("/proc/{process}/fd")).ok()?.flatten();
    let is_it = |fd: fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == &*socket);
    fds.any(is_it).then_some(())
}

/// In ticks since the start of the host; field 22 of `stat`, in which the second may contain spaces.
fn start_time(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    fields.split(' ').nth(19).and_then(|ticks| ticks.parse().ok()).unwrap_or_default()
}
