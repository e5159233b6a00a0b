//! A server program under test: start it, upgrade it, stop it.
//!
//! Nothing is read from its log, which may have any format or none. Which processes belong to it is known by a variable that
//! every generation inherits; which of them serves, by which process waits on the listeners. So an upgrade is complete when another
//! process waits on them and the old one has ended.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use tempfile::TempDir;

use crate::output::Output;
use crate::proc_fs::{children, descriptors, inode, listening, polled_sockets, processes_with, variable};
use crate::{Addr, Client, DEADLINE, Ended, Outcome, Process, get, pass};

const HUP: i32 = 1;
const KILL: i32 = 9;
const TERM: i32 = 15;
/// The variable that all processes of one server have.
const MARK: &str = "HEIRLOOM_TESTKIT";
/// How often /proc is read.
const TICK: Duration = Duration::from_millis(10);
/// How often it is looked whether a successor has been started, which may live for a few milliseconds.
const SHORT_TICK: Duration = Duration::from_millis(1);
/// Until a successor is usually started. One that the server's main thread does not start is not seen.
const STARTED: Duration = Duration::from_secs(2);
/// What heirloom logs at the end of a handover that has failed.
const FAILED: &str = "still serving";
/// Time for the log of a failure, after the end of the new process.
const LOGGED: Duration = Duration::from_secs(2);
/// The variable by which a successor knows what it inherits.
const HANDOVER: &str = "HEIRLOOM_HANDOVER";

/// What went wrong, with the output of the server. Its `Debug` is the same text, for tests that return it.
pub struct Error {
    what: String,
    output: Vec<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if self.output.is_empty() {
            return write!(f, "; the server has written nothing");
        }
        write!(f, "; the server has written:")?;
        self.output.iter().try_for_each(|line| write!(f, "\n| {line}"))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::error::Error for Error {}

/// A server program that is to be started.
#[derive(Debug)]
#[must_use = "it does nothing until it is started"]
pub struct Program {
    command: Command,
    files: Vec<(PathBuf, Vec<u8>)>,
    timeout: Duration,
}

impl Program {
    /// A program, by its absolute path: `env!("CARGO_BIN_EXE_app")`.
    pub fn new(path: impl AsRef<OsStr>) -> Program {
        Program { command: Command::new(path), files: Vec::new(), timeout: Duration::from_secs(60) }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Program {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        self.command.args(args);
        self
    }

    /// Sets a variable of its environment, which is otherwise that of the test.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Program {
        self.command.env(name, value);
        self
    }

    /// Puts a file into the directory that the program runs in, such as its configuration: `path` is relative to that, as an
    /// argument of the program can be. [`Server::dir`] is the directory, for a test that changes the file before an upgrade.
    pub fn file(mut self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Program {
        self.files.push((path.as_ref().to_owned(), content.as_ref().to_owned()));
        self
    }

    /// How long a start, an upgrade and a stop may each take: 60 s.
    pub fn timeout(mut self, timeout: Duration) -> Program {
        self.timeout = timeout;
        self
    }

    /// Starts it in a new temporary directory, without input. It accepts connections when this returns.
    ///
    /// # Errors
    /// If it can't be started, ends, or does not listen in time; if one of its files can't be written.
    pub fn start(mut self) -> Result<Server, Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mark = format!("{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let failed =
            |what: &str, e: &dyn fmt::Display| Error { what: format!("{what}: {e}"), output: Vec::new() };
        become_subreaper();
        let dir = tempfile::tempdir().map_err(|e| failed("no temporary directory", &e))?;
        for (path, content) in &self.files {
            write_below(dir.path(), path, content)
                .map_err(|e| failed(&format!("can't write {}", path.display()), &e))?;
        }
        let (ours, its) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed("no pipe", &e))?;
        let errors = its.try_clone().map_err(|e| failed("no descriptor", &e))?;
        self.command.stdin(Stdio::null()).stdout(its).stderr(errors).current_dir(&dir).env(MARK, &mark);
        let program = self.command.get_program().to_string_lossy().into_owned();
        let child = spawn(&mut self.command).map_err(|e| failed(&format!("can't start {program}"), &e))?;
        // It has the pipe's other end, too, and would keep it open.
        drop(self.command);
        let first = Process::of(child.id());
        let mut server = Server::of(first, mark, ours, dir, self.timeout);
        server.wait_until_it_listens()?;
        Ok(server)
    }
}

/// Writes a file, and makes the directories that it is in.
fn write_below(dir: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "it is not a path below the directory that the program runs in",
        ));
    }
    let path = dir.join(path);
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, content)
}

/// A running server, with all its generations. When it is dropped, all its processes are killed; after a panic its output is
/// printed first.
#[derive(Debug)]
pub struct Server {
    /// What was started: generation 1, its supervisor, or a script.
    first: Process,
    serving: Process,
    generation: u64,
    mark: String,
    output: Arc<Output>,
    listeners: BTreeSet<u64>,
    addresses: Vec<Addr>,
    timeout: Duration,
    dir: TempDir,
}

/// An upgrade that is complete.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Upgrade {
    /// The process that serves now.
    pub pid: u32,
    /// From the signal to the end of the old process, to 10 ms.
    pub took: Duration,
}

impl Server {
    fn of(first: Process, mark: String, log: OwnedFd, dir: TempDir, timeout: Duration) -> Server {
        Server {
            serving: first.again(),
            first,
            generation: 1,
            mark,
            output: Output::of(log, |_| {}),
            listeners: BTreeSet::new(),
            addresses: Vec::new(),
            timeout,
            dir,
        }
    }

    /// Its first address, to which a load is sent.
    ///
    /// # Panics
    /// Never: a server without an address does not start.
    pub fn address(&self) -> &Addr {
        self.addresses.first().expect("it listens")
    }

    /// All its addresses, in the order in which it has opened them.
    pub fn addresses(&self) -> &[Addr] {
        &self.addresses
    }

    /// The process that serves.
    pub fn pid(&self) -> u32 {
        self.serving.id()
    }

    /// 1, and one more for each upgrade.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The temporary directory that it runs in, which is removed in the end.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What all its processes have written to standard output and standard error.
    pub fn output(&self) -> Vec<String> {
        self.output.lines_with("")
    }

    /// A connection to its first address.
    pub fn client(&self) -> Client {
        Client::to(self.address())
    }

    /// A GET on a new connection.
    pub fn get(&self, path: &str) -> Outcome {
        get(self.address(), path)
    }

    /// Sends HUP, and waits until another process serves and the old one has ended.
    ///
    /// # Errors
    /// If the upgrade fails, if it is not complete in time, or if the old process ends otherwise than with status 0.
    pub fn upgrade(&mut self) -> Result<Upgrade, Error> {
        let target = self.target();
        self.upgrade_by(|_| target.signal(HUP))
    }

    /// As `upgrade`, for an upgrade that is requested otherwise than by HUP: by `heirloomctl`, by your own script, by another
    /// signal. `request` gets the process that serves.
    ///
    /// # Errors
    /// As `upgrade`.
    pub fn upgrade_by(&mut self, request: impl FnOnce(u32)) -> Result<Upgrade, Error> {
        let failures = self.output.lines_with(FAILED).len();
        let begin = Instant::now();
        let mut attempt = Attempt::of(&self.serving, &self.first);
        request(self.serving.id());
        while attempt.is_starting(begin) && self.serving.is_alive() {
            pass(SHORT_TICK);
        }
        loop {
            let old = self.serving.id();
            let new = self.serving().into_iter().find(|pid| *pid != old);
            if let (Some(new), Some(ended)) = (new, self.serving.wait(Duration::ZERO)) {
                self.serving = Process::of(new);
                self.generation += 1;
                self.expect_success(old, ended)?;
                return Ok(Upgrade { pid: new, took: begin.elapsed() });
            }
            let has_failed = new.is_none() && self.serving.is_alive() && attempt.has_failed();
            if has_failed || self.output.lines_with(FAILED).len() > failures {
                return Err(self.error("the upgrade has failed, and the old process serves"));
            }
            if self.processes().is_empty() {
                return Err(self.error("no process of the server is left after an upgrade"));
            }
            if begin.elapsed() > self.timeout {
                let state = match (new, self.serving.is_alive()) {
                    (Some(new), true) => format!("process {new} serves, and {old} has not ended"),
                    (None, true) => format!("process {old} still serves"),
                    (_, false) => format!("process {old} has ended, and no other serves"),
                };
                return Err(self.error(&format!("no upgrade within {:?}: {state}", self.timeout)));
            }
            attempt.look();
            pass(TICK);
        }
    }

    /// Sends TERM, and waits for the end of the server. Stop the load before: its clients are refused afterwards.
    ///
    /// # Errors
    /// If it does not end in time, or otherwise than with status 0.
    pub fn stop(mut self) -> Result<(), Error> {
        self.target().signal(TERM);
        let deadline = Instant::now() + self.timeout;
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let ended = [self.serving.wait(left(deadline)), self.first.wait(left(deadline))];
        match ended {
            [Some(serving), Some(_)] => self.expect_success(self.serving.id(), serving),
            _ => Err(self.error(&format!("it has not stopped within {:?}", self.timeout))),
        }
    }

    fn wait_until_it_listens(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + self.timeout;
        let mut before = BTreeSet::new();
        loop {
            // Twice the same: it may have more than one listener.
            let (pid, now) = self.listeners_now();
            if !now.is_empty() && now == before {
                self.serving = Process::of(pid);
                self.note_addresses(&now);
                return Ok(());
            }
            before = now;
            if let Some(ended) = self.first.wait(Duration::ZERO) {
                // So that all that it has written is there.
                self.output.wait(|_, ended| ended);
                return Err(self.error(&format!("it {} before it listened", text_of(ended))));
            }
            if Instant::now() > deadline {
                return Err(self.error(&format!("no listener within {:?}", self.timeout)));
            }
            pass(TICK);
        }
    }

    /// The process that waits on listeners, and these.
    fn listeners_now(&self) -> (u32, BTreeSet<u64>) {
        let of = |pid: u32| {
            let all: BTreeSet<u64> = listening(pid).into_keys().collect();
            (pid, polled_sockets(pid).intersection(&all).copied().collect::<BTreeSet<u64>>())
        };
        let mut found = self.processes().into_iter().map(of);
        found.find(|(_, listeners)| !listeners.is_empty()).unwrap_or_default()
    }

    fn note_addresses(&mut self, listeners: &BTreeSet<u64>) {
        let pid = self.serving.id();
        let all = listening(pid);
        let inodes = descriptors(pid).into_values().filter_map(|what| inode(&what));
        for addr in inodes.filter(|inode| listeners.contains(inode)).filter_map(|inode| all.get(&inode)) {
            if !self.addresses.contains(addr) {
                self.addresses.push(addr.clone());
            }
        }
        self.listeners.clone_from(listeners);
    }

    /// The processes that accept.
    fn serving(&self) -> Vec<u32> {
        let accepts = |pid: &u32| !self.listeners.is_disjoint(&polled_sockets(*pid));
        self.processes().into_iter().filter(accepts).collect()
    }

    /// All processes of the server, programs that handlers have started included.
    fn processes(&self) -> Vec<u32> {
        processes_with(format!("{MARK}={}", self.mark).as_bytes())
    }

    /// The process that gets the signals: the supervisor, if there is one, which runs the same program.
    fn target(&self) -> Process {
        let exe = |process: &Process| fs::read_link(format!("/proc/{}/exe", process.id())).ok();
        match exe(&self.first) {
            Some(path) if self.first.is_alive() && exe(&self.serving).as_ref() == Some(&path) => {
                self.first.again()
            }
            _ => self.serving.again(),
        }
    }

    fn expect_success(&self, pid: u32, ended: Ended) -> Result<(), Error> {
        match ended {
            Ended::With(status) if !status.success() => {
                Err(self.error(&format!("process {pid} {}", text_of(ended))))
            }
            _ => Ok(()),
        }
    }

    fn error(&self, what: &str) -> Error {
        Error { what: what.to_owned(), output: self.output() }
    }
}

fn text_of(ended: Ended) -> String {
    match ended {
        Ended::With(status) => format!("has ended with {status}"),
        Ended::Unknown => "has ended".to_owned(),
    }
}

/// The successor that an upgrade starts. Its end is how the failure of an upgrade is known where the server logs nothing.
struct Attempt {
    parents: [u32; 2],
    /// By which a successor differs from the programs that handlers start.
    before: Option<Vec<u8>>,
    successor: Option<Process>,
    /// When it was found to have ended.
    ended: Option<Instant>,
}

impl Attempt {
    fn of(serving: &Process, first: &Process) -> Attempt {
        let parents = [serving.id(), first.id()];
        Attempt { parents, before: variable(serving.id(), HANDOVER), successor: None, ended: None }
    }

    /// Whether the successor has not been seen yet, and may still be started. Looks for it.
    fn is_starting(&mut self, since: Instant) -> bool {
        self.look();
        self.successor.is_none() && since.elapsed() < STARTED
    }

    fn look(&mut self) {
        match &self.successor {
            Some(successor) if successor.is_alive() => return,
            Some(_) => drop(self.ended.get_or_insert_with(Instant::now)),
            None => {}
        }
        let is_successor = |pid: &u32| {
            let variable = variable(*pid, HANDOVER);
            variable.is_some() && variable != self.before && !self.parents.contains(pid)
        };
        let found = self.parents.iter().flat_map(|parent| children(*parent)).find(is_successor);
        if let Some(found) = found {
            (self.successor, self.ended) = (Some(Process::of(found)), None);
        }
    }

    /// Whether it was there, no other has taken its place, and a log of that would have been written.
    fn has_failed(&self) -> bool {
        self.ended.is_some_and(|ended| ended.elapsed() > LOGGED)
    }
}

impl From<&Server> for Addr {
    fn from(server: &Server) -> Addr {
        server.address().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the server has written:");
            self.output().iter().for_each(|line| eprintln!("| {line}"));
        }
        let deadline = Instant::now() + DEADLINE;
        loop {
            let mut left: Vec<Process> = self.processes().into_iter().map(Process::of).collect();
            for process in &left {
                process.signal(KILL);
            }
            for process in &mut left {
                process.wait(DEADLINE);
            }
            if left.is_empty() || Instant::now() > deadline {
                break;
            }
        }
        self.first.wait(DEADLINE);
    }
}

/// Makes this process the parent of all that its children leave behind, so that later generations are reaped, and their exit
/// status is known, wherever the tests run.
pub fn become_subreaper() {
    let own = rustix::process::getpid();
    // Any pid means true. Without it the end of later generations is not known.
    let _ = rustix::process::set_child_subreaper(Some(own));
}

/// Starts a program. One that this process has just written is busy while a child of another test, which does not run its
/// own program yet, has a copy of the descriptor.
///
/// # Errors
/// As for [`Command::spawn`].
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match command.spawn() {
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                pass(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}
