//! An upgrade by pid file and signal.
//!
//! **A process is signalled only if it proves that it is the server**: it holds the lock on the first byte of the file, and
//! the kernel reports its pid. The number in a leftover file may belong to another process by now. The signal is sent by a
//! pidfd that was opened before the check, so that it reaches the process that was checked, or none.
//!
//! **The result** shows in the file, which names the new process, or in the server's second lock, whose place changes
//! when a handover starts and when it has failed (`src/process/handover/pid_file.rs` of heirloom).

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use crate::failure::Failure;
use crate::output::Output;
use crate::process::Process;

/// More than a number and its line ending.
const NAME_BYTES: u64 = 64;
/// The byte that the server locks, and where its record of handovers begins.
const OWNER: i32 = 0;
const RECORD: i32 = 16;
/// How long a process may take to lock the file that names it.
const LOCK_WAIT: Duration = Duration::from_millis(1500);
/// How long the start of a handover may take after a HUP, on a busy machine.
const START_WAIT: Duration = Duration::from_secs(10);

/// A server, by its pid file.
#[derive(Debug)]
pub struct PidFile<'a> {
    path: &'a Path,
    /// A process that runs this program counts as the server, too.
    executable: Option<PathBuf>,
    deadline: Instant,
}

/// A process that has proven to be the server.
struct Server {
    pid: i32,
    process: Process,
    record: Option<Record>,
}

/// The content of the second lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    failures: i32,
    in_progress: bool,
    /// The process that serves. It differs from the one in the file if that is a supervisor.
    serving: i32,
}

/// The content and the locks of a pid file.
struct Claim {
    pid: i32,
    /// The process that holds the lock. None: no process holds it.
    owner: Option<i32>,
    record: Option<Record>,
}

impl<'a> PidFile<'a> {
    pub fn new(path: &'a Path, executable: Option<&Path>, deadline: Instant) -> PidFile<'a> {
        PidFile { path, executable: executable.map(Path::to_path_buf), deadline }
    }

    fn failure(&self, code: &str, text: impl std::fmt::Display) -> Failure {
        Failure::new(code, format!("{}: {text}", self.path.display()))
    }

    /// Signals HUP, and waits for the result: the pid of the process that serves now.
    pub fn upgrade(&self, output: &mut Output) -> Result<i32, Failure> {
        let mut server = self.proven()?;
        while server.record.is_some_and(|record| record.in_progress) {
            output.progress("waiting for the upgrade in progress");
            self.wait_while(|now| now.pid == server.pid && now.record == server.record)?;
            server = self.proven()?;
        }
        self.signal(&server)?;
        output.progress(&format!("HUP sent to process {}", server.pid));
        self.result(&server, output)
    }

    /// # Errors
    /// At the deadline.
    fn wait_while(&self, holds: impl Fn(&Claim) -> bool) -> Result<(), Failure> {
        while self.claim().is_ok_and(|claim| holds(&claim)) {
            if Instant::now() >= self.deadline {
                return Err(self.failure("timeout", "the upgrade in progress is not decided yet"));
            }
            crate::control::pause();
        }
        Ok(())
    }

    fn open(&self) -> io::Result<File> {
        // A named pipe would make us wait for its other end.
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.path)?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a file")) }
    }

    fn claim(&self) -> Result<Claim, Failure> {
        let file = self.open().map_err(|e| match e.kind() {
            ErrorKind::NotFound => self.failure("no-pid-file", "no such file: is the server running?"),
            ErrorKind::PermissionDenied => self.failure("no-permission", "permission denied"),
            _ => self.failure("bad-pid-file", e),
        })?;
        let mut text = Vec::new();
        (&file).take(NAME_BYTES).read_to_end(&mut text).map_err(|e| self.failure("bad-pid-file", e))?;
        let pid = pid_of(&text).ok_or_else(|| {
            let shown: String = String::from_utf8_lossy(&text).chars().take(20).collect();
            self.failure("bad-pid-file", format!("not a pid: {shown:?}"))
        })?;
        let owner = lock_at(&file, OWNER, 1).map(|range| range.l_pid);
        let record = lock_at(&file, RECORD, 0).map(|range| record_of(&range));
        Ok(Claim { pid, owner, record })
    }

    /// The server, or the reason why the process in the file is not known to be the server.
    fn proven(&self) -> Result<Server, Failure> {
        let until = Instant::now() + LOCK_WAIT;
        loop {
            let first = self.claim()?;
            let process = Process::open(first.pid).ok_or_else(|| {
                let text =
                    format!("it names process {}, which does not exist: the server has ended", first.pid);
                self.failure("stale-pid-file", text)
            })?;
            // The pidfd is open, so the number belongs to this process, unless that has ended, which the signal would show.
            let claim = self.claim()?;
            let is_server =
                claim.pid == first.pid && (claim.owner == Some(first.pid) || self.runs_executable(first.pid));
            let is_late = Instant::now() >= until.min(self.deadline);
            // The record is absent for an instant when it changes.
            if is_server && (claim.record.is_some() || is_late) {
                return Ok(Server { pid: first.pid, process, record: claim.record });
            }
            if is_late {
                return Err(self.stranger(first.pid, &process, claim.owner));
            }
            crate::control::pause();
        }
    }

    fn stranger(&self, pid: i32, process: &Process, owner: Option<i32>) -> Failure {
        let why = match owner {
            None => "it holds no lock on the file".to_owned(),
            Some(owner) => format!("the lock on the file is held by {owner}"),
        };
        let text = format!(
            "it names process {pid} ({}), which is not known to be the server: {why}. Nothing was signalled",
            process.name()
        );
        self.failure("not-the-server", text)
    }

    fn runs_executable(&self, pid: i32) -> bool {
        let Some(executable) = self.executable.as_ref().and_then(|path| fs::canonicalize(path).ok()) else {
            return false;
        };
        let Ok(running) = fs::read_link(format!("/proc/{pid}/exe")) else { return false };
        // The file was replaced since the process was started.
        let running = running.as_os_str().as_bytes();
        running.strip_suffix(b" (deleted)").unwrap_or(running) == executable.as_os_str().as_bytes()
    }

    fn signal(&self, server: &Server) -> Result<(), Failure> {
        let pid = server.pid;
        server.process.hang_up().map_err(|e| match e {
            Errno::ESRCH => self.failure("stale-pid-file", format!("process {pid} has just ended")),
            Errno::EPERM => {
                self.failure("no-permission", format!("process {pid} may not be signalled by this user"))
            }
            e => self.failure("no-signal", format!("process {pid}: {}", e.desc())),
        })
    }

    fn result(&self, server: &Server, output: &mut Output) -> Result<i32, Failure> {
        let (pid, sent) = (server.pid, Instant::now());
        let mut has_started = server.record.is_none();
        let mut ended: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let claim = self.claim();
            match &claim {
                Ok(claim) if claim.pid != pid && self.serves(claim) => return Ok(claim.pid),
                Ok(Claim { pid: named, record: Some(record), .. }) if *named == pid => {
                    let before = server.record.unwrap_or(*record);
                    if record.failures != before.failures {
                        return Err(self.failed(pid));
                    }
                    if record.serving != before.serving && !record.in_progress {
                        return Ok(record.serving);
                    }
                    if record.in_progress && !has_started {
                        has_started = true;
                        output.progress("the new process is starting");
                    }
                }
                _ => {}
            }
            if server.process.has_ended() && *ended.get_or_insert(now) + LOCK_WAIT < now {
                let text = format!("process {pid} has ended, and the file names no other server");
                return Err(self.failure("server-ended", text));
            }
            if !has_started && sent + START_WAIT < now {
                return Err(self.no_reaction(server));
            }
            if now >= self.deadline && !has_started && server.process.is_stopped() {
                return Err(self.no_reaction(server));
            }
            if now >= self.deadline {
                let text = format!("the upgrade of process {pid} is not decided yet, and may still succeed");
                return Err(self.failure("timeout", text));
            }
            server.process.pause();
        }
    }

    fn failed(&self, pid: i32) -> Failure {
        let text = format!("the upgrade failed: process {pid} still serves, and its log says why");
        let mut failure = self.failure("failed", text);
        failure.details.insert("pid".to_owned(), pid.into());
        failure
    }

    fn no_reaction(&self, server: &Server) -> Failure {
        let pid = server.pid;
        let text = match server.process.is_stopped() {
            true => format!("process {pid} is stopped, and starts the upgrade when it continues"),
            false => format!("process {pid} has started no upgrade: has HUP another meaning there?"),
        };
        self.failure("no-reaction", text)
    }

    /// Whether the process in the file exists, and is the server as far as that can be known.
    fn serves(&self, claim: &Claim) -> bool {
        // A process of a version without locks holds none.
        claim.owner == Some(claim.pid)
            || (claim.owner.is_none()
                && self.age().is_some_and(|age| age > LOCK_WAIT)
                && Process::open(claim.pid).is_some())
    }

    /// How long the file has been there.
    fn age(&self) -> Option<Duration> {
        fs::metadata(self.path).and_then(|found| found.modified()).ok()?.elapsed().ok()
    }
}

fn pid_of(text: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(text).ok()?.trim_ascii();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|pid| digits && *pid > 0)
}

/// The first lock in this range that another process holds.
fn lock_at(file: &File, start: i32, len: i32) -> Option<libc::flock> {
    let mut range = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start.into(),
        l_len: len.into(),
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_GETLK(&mut range)).ok()?;
    (range.l_type != libc::F_UNLCK as libc::c_short).then_some(range)
}

fn record_of(range: &libc::flock) -> Record {
    let number = |n: libc::off_t| i32::try_from(n).unwrap_or(0);
    let place = number(range.l_start).saturating_sub(RECORD);
    Record {
        failures: place.div_euclid(2),
        in_progress: place.rem_euclid(2) == 1,
        serving: number(range.l_len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_pid() {
        let cases: &[(&[u8], Option<i32>)] = &[
            (b"812\n", Some(812)),
            (b" 812 \r\n", Some(812)),
            (b"812", Some(812)),
            (b"", None),
            (b"\n", None),
            (b"0\n", None),
            (b"-1\n", None),
            (b"+812\n", None),
            (b"812 813\n", None),
            (b"812x\n", None),
            (b"99999999999\n", None),
            (b"\xff\n", None),
        ];
        for (text, pid) in cases {
            assert_eq!(pid_of(text), *pid, "{:?}", String::from_utf8_lossy(text));
        }
    }
}
