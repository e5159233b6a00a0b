//! How this process was started, as the kernel has it: noted before the program changes it, or may no longer look.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::above::Surroundings;
use super::child::VARIABLE;
use crate::base::sys;

/// Variables by which a service manager addresses one process, by its pid.
const ADDRESSED: &[&str] = &[
    super::SUPERVISION[0],
    super::SUPERVISION[1],
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// This program, also where it has no path.
const ITSELF: &str = "/proc/self/exe";

pub(crate) struct OriginalStart {
    /// `NAME=value`, without the variables that are addressed to this process alone.
    pub(crate) environment: Vec<OsString>,
    /// The path it was started by; None: not known.
    pub(crate) executable: Option<PathBuf>,
    /// What started it.
    pub(crate) surroundings: Surroundings,
}

/// The first call looks.
pub(crate) fn noted() -> &'static OriginalStart {
    static NOTED: OnceLock<OriginalStart> = OnceLock::new();
    NOTED.get_or_init(|| OriginalStart {
        environment: environment(),
        executable: executable(),
        surroundings: Surroundings::look(),
    })
}

/// Whether a variable is meant for this process, and for no other.
pub(crate) fn is_addressed(name: &OsStr) -> bool {
    name == VARIABLE || ADDRESSED.iter().any(|addressed| name == *addressed)
}

fn environment() -> Vec<OsString> {
    let initial = fs::read("/proc/self/environ").map(|block| pairs(&block)).unwrap_or_default();
    // Without /proc, or if the block was overwritten, as by programs that change their title.
    if initial.is_empty() { pairs_of(env::vars_os()) } else { initial }
}

fn pairs(block: &[u8]) -> Vec<OsString> {
    let pairs = block.split(|byte| *byte == 0).filter_map(|pair| {
        let name = pair.split(|byte| *byte == b'=').next().filter(|name| name.len() < pair.len())?;
        let is_ours = !name.is_empty() && !is_addressed(OsStr::from_bytes(name));
        is_ours.then(|| OsString::from_vec(pair.to_vec()))
    });
    pairs.collect()
}

fn pairs_of(vars: env::VarsOs) -> Vec<OsString> {
    vars.filter(|(name, _)| !is_addressed(name)).map(|(name, value)| pair(&name, &value)).collect()
}

/// In the format of an environment.
pub(crate) fn pair(name: &OsStr, value: &OsStr) -> OsString {
    [name, value].join(OsStr::new("="))
}

fn executable() -> Option<PathBuf> {
    let given = sys::executable()?;
    Some(resolved(given, fs::read_link(ITSELF).ok().as_deref(), Path::exists))
}

/// A path by way of a descriptor (fexecve gives `/dev/fd/N`) means something else in another process.
fn resolved(given: PathBuf, link: Option<&Path>, exists: impl Fn(&Path) -> bool) -> PathBuf {
    if !given.starts_with("/dev/fd") && !given.starts_with("/proc") {
        return given;
    }
    let Some(link) = link else { return given };
    match link.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        None => link.to_owned(),
        // Replaced since it was started.
        Some(path) if exists(Path::new(OsStr::from_bytes(path))) => PathBuf::from(OsStr::from_bytes(path)),
        // It has no name: a memfd, or a file that was removed before.
        Some(_) => PathBuf::from(ITSELF),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_by_way_of_a_descriptor_is_resolved() {
        let cases = [
            ("/srv/app", Some("/srv/app-1"), "/srv/app"),
            ("./app", None, "./app"),
            ("/dev/fd/7", Some("/srv/app"), "/srv/app"),
            ("/dev/fd/7/app", Some("/srv/app"), "/srv/app"),
            ("/proc/self/fd/7", Some("/srv/app"), "/srv/app"),
            ("/proc/812/fd/7", Some("/srv/app"), "/srv/app"),
            ("/proc/self/exe", Some("/srv/app"), "/srv/app"),
            ("/dev/fd/7", Some("/srv/app (deleted)"), "/srv/app"),
            ("/dev/fd/7", Some("/srv/old (deleted)"), "/proc/self/exe"),
            ("/dev/fd/7", Some("/memfd:app (deleted)"), "/proc/self/exe"),
            ("/dev/fd/7", None, "/dev/fd/7"),
        ];
        for (given, link, expected) in cases {
            let exists = |path: &Path| path == Path::new("/srv/app");
            let resolved = resolved(given.into(), link.map(Path::new), exists);
            assert_eq!(resolved, Path::new(expected), "{given}, {link:?}");
        }
    }

    #[test]
    fn the_block_without_what_is_addressed_to_one_process() {
        let block = b"A=1\0LISTEN_FDS=1\0LISTEN_ADDR=x\0WATCHDOG_USEC=5\0HEIRLOOM_HANDOVER=channel=1\0B=\xff=\n\0=C\0D\0E=\0";
        let expected: [&[u8]; 4] = [b"A=1", b"LISTEN_ADDR=x", b"B=\xff=\n", b"E="];
        let found = pairs(block);
        assert_eq!(found.iter().map(|pair| pair.as_bytes()).collect::<Vec<_>>(), expected);
        assert!(pairs(b"").is_empty() && pairs(b"app: serving\0").is_empty());
    }
}
