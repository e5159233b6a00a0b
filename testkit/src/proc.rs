//! A server under test, with all its generations.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Once, PoisonError};

use heirloom_testkit::internal::{Output, become_subreaper, spawn};
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, pipe2};

use crate::facts::{polled_sockets, zombies_of};
use crate::family::{Exit, Family, message};
use crate::{Addr, Client, DEADLINE, Facts, Outcome, until};

/// A running server. Dropping it kills all its generations, awaits their end, and prints their log
/// if the test has failed.
#[derive(Debug)]
pub struct Proc {
    first: Pid,
    newest: Mutex<Pid>,
    family: Arc<Family>,
    output: Arc<Output>,
    /// Inodes of the first generation's.
    listeners: BTreeSet<u64>,
}

impl Proc {
    /// Starts `program` with `flags` on a free port of 127.0.0.1; it serves when this returns.
    #[track_caller]
    pub fn start(program: impl AsRef<OsStr>, flags: &[&str]) -> Proc {
        let flags = [&["--listen", "127.0.0.1:0"], flags].concat();
        Proc::start_as_said(program, &flags)
    }

    /// As `start`, with nothing added to `flags`.
    #[track_caller]
    pub fn start_as_said(program: impl AsRef<OsStr>, flags: &[impl AsRef<OsStr>]) -> Proc {
        let mut command = Command::new(program);
        command.args(flags);
        Proc::start_command(command)
    }

    /// Runs `command`, which is or becomes a server; it serves when this returns.
    #[track_caller]
    pub fn start_command(command: Command) -> Proc {
        let (mut proc, _) = Proc::spawn(command, Family::of);
        proc.wait_for("serving as generation 1");
        proc.note_listeners();
        proc
    }

    /// As `start`, as the leader of a new process group, for `signal_group`.
    #[track_caller]
    pub fn start_group(program: impl AsRef<OsStr>, flags: &[&str]) -> Proc {
        let mut command = Command::new(program);
        command.args(["--listen", "127.0.0.1:0"]).args(flags).process_group(0);
        Proc::start_command(command)
    }

    /// Starts `command`, which makes a pid namespace and runs a server in it, and ends it when it
    /// is killed. `pid` is the server's as we see it; the log has those of the namespace.
    #[track_caller]
    pub fn start_inside(command: Command) -> Proc {
        let (mut proc, maker) = Proc::spawn(command, Family::inside);
        proc.wait_for("serving as generation 1");
        let server = proc.family.pids().into_iter().find(|pid| *pid != maker);
        proc.first = server.expect("its log has named it");
        proc.newest = Mutex::new(proc.first);
        proc.note_listeners();
        proc
    }

    /// Runs `command` with this standard input, and waits for nothing.
    #[track_caller]
    pub fn begin(command: Command, input: Stdio) -> Proc {
        Proc::spawn_with(command, input, Family::of).0
    }

    /// Runs `command`, which makes a pid namespace, and waits for nothing. `pid` is the maker of the namespace.
    #[track_caller]
    pub fn begin_inside(command: Command) -> Proc {
        Proc::spawn(command, Family::inside).0
    }

    #[track_caller]
    fn spawn(command: Command, family_of: impl FnOnce(Pid) -> Family) -> (Proc, Pid) {
        Proc::spawn_with(command, Stdio::null(), family_of)
    }

    #[track_caller]
    fn spawn_with(mut command: Command, input: Stdio, family_of: impl FnOnce(Pid) -> Family) -> (Proc, Pid) {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let errors = theirs.try_clone().expect("a descriptor");
        command.stdin(input).stdout(theirs).stderr(errors).env("RUST_LOG", "info");
        prepare_for_children();
        let pid = spawn(&mut command).expect("a program that starts").id();
        // It has the pipe's other end, too, and would keep it open.
        drop(command);
        let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
        (Proc::of(pid, Arc::new(family_of(pid)), ours), pid)
    }

    /// A server that something else has started, and that writes to the other end of `log`.
    #[track_caller]
    pub(crate) fn started(log: OwnedFd) -> Proc {
        let family = Arc::new(Family::default());
        let mut proc = Proc::of(Pid::from_raw(0), family, log);
        proc.wait_for("serving as generation 1");
        proc.first = proc.family.pids()[0];
        proc.newest = Mutex::new(proc.first);
        proc.note_listeners();
        proc
    }

    fn of(first: Pid, family: Arc<Family>, log: OwnedFd) -> Proc {
        let reader = Arc::clone(&family);
        let output = Output::of(log, move |line| reader.read(line));
        Proc { first, newest: Mutex::new(first), family, output, listeners: BTreeSet::new() }
    }

    /// Before any client has connected, the polled sockets are the listeners.
    #[track_caller]
    fn note_listeners(&mut self) {
        let count = self.count("listening on ");
        let control = self.control_sockets();
        let listeners =
            || polled_sockets(self.first).difference(&control).copied().collect::<BTreeSet<u64>>();
        until("it accepts", || listeners().len() == count);
        self.listeners = listeners();
    }

    /// The inode of the control socket, if there is one.
    fn control_sockets(&self) -> BTreeSet<u64> {
        let paths: Vec<String> = self.output.lines_with("control socket ");
        let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
        let inode = |line: &str| {
            let path = line.split_whitespace().nth(7)?;
            let is_ours =
                paths.iter().any(|logged| message(logged).ends_with(&format!("control socket {path}")));
            is_ours.then(|| line.split_whitespace().nth(6)?.parse().ok()).flatten()
        };
        table.lines().filter_map(inode).collect()
    }

    /// The first generation.
    pub fn pid(&self) -> Pid {
        self.first
    }

    /// The generation that the last `handover` led to.
    pub fn newest(&self) -> Pid {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The generation that serves, which it says itself, where a program between us and it has started the first one.
    #[track_caller]
    pub fn serving(&self) -> Pid {
        self.known(self.get("/pid").ok().number())
    }

    /// The process that the server's own log and responses call `pid`.
    #[track_caller]
    pub fn known(&self, pid: i32) -> Pid {
        self.family.known(pid).expect("it runs")
    }

    /// The addresses of the first generation, in the order of its flags.
    pub fn addrs(&self) -> Vec<Addr> {
        let mut addrs: Vec<Addr> = Vec::new();
        for line in self.output.lines_with("listening on ") {
            let addr = Addr::from(message(&line).split_once("listening on ").expect("as asked for").1);
            if !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
        addrs
    }

    /// Its first listener.
    pub fn addr(&self) -> Addr {
        self.addrs().swap_remove(0)
    }

    /// A connection to its first listener.
    pub fn client(&self) -> Client {
        Client::to(&self.addr())
    }

    /// Sends a request on a new connection.
    pub fn get(&self, path: &str) -> Outcome {
        crate::get(&self.addr(), path)
    }

    /// The first line with `text`; `*` in it stands for anything.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_for_nth(text, 1)
    }

    /// The `n`th line with `text`, counted from 1 and from the beginning.
    #[track_caller]
    pub fn wait_for_nth(&self, text: &str, n: usize) -> String {
        self.output.wait_for_nth(text, n)
    }

    /// How many lines with `text` there are so far.
    pub fn count(&self, text: &str) -> usize {
        self.output.lines_with(text).len()
    }

    /// The lines with `text` so far.
    pub fn lines(&self, text: &str) -> Vec<String> {
        self.output.lines_with(text)
    }

    /// Signals the newest generation.
    pub fn signal(&self, signal: Signal) {
        self.signal_to(self.newest(), signal);
    }

    pub fn signal_to(&self, pid: Pid, signal: Signal) {
        self.family.signal(pid, signal);
    }

    /// Signals every process of the server at once, as a terminal does. Only after `start_group`.
    pub fn signal_group(&self, signal: Signal) {
        // As long as one of them lives, no other group has the number.
        if !self.alive().is_empty() {
            let _ = killpg(self.first, signal);
        }
    }

    /// HUP to the newest generation; gives the pid of the child that was started for it.
    #[track_caller]
    pub fn hup(&self) -> Pid {
        let started = self.count(" as child ");
        self.signal(Signal::SIGHUP);
        self.child(started + 1)
    }

    /// The `n`th child that any generation has started.
    #[track_caller]
    pub fn child(&self, n: usize) -> Pid {
        let line = self.wait_for_nth(" as child ", n);
        let pid = message(&line).rsplit(' ').next().and_then(|pid| pid.parse().ok());
        Pid::from_raw(pid.expect("a pid at the line's end"))
    }

    /// HUP to the newest generation; the new one serves, on probation, when this returns.
    #[track_caller]
    pub fn hup_to_probation(&self) -> Pid {
        let pid = self.hup();
        self.wait_for(&format!("child {pid}: SERVING"));
        self.paused(self.newest());
        pid
    }

    /// HUP to the newest generation; the new one owns the service when this returns.
    #[track_caller]
    pub fn handover(&self) -> Pid {
        let pid = self.hup();
        self.committed(pid);
        pid
    }

    /// Waits until `pid` owns the service, and its predecessor drains.
    #[track_caller]
    pub fn committed(&self, pid: Pid) {
        let said = self.wait_for(&format!("to child {pid}: COMMIT"));
        let all = self.output.lines_with("to child *: COMMIT");
        let n = all.iter().position(|line| *line == said).expect("it was read") + 1;
        let heard = self.wait_for_nth("handover: predecessor *: COMMIT", n);
        let old = heard.rsplit_once(": COMMIT").and_then(|(head, _)| head.rsplit(' ').next()?.parse().ok());
        self.paused(Pid::from_raw(old.expect("a pid")));
        // The phase that follows from COMMIT is published by now.
        self.wait_for_nth("draining (handed over to ", n);
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = pid;
    }

    fn report(&self, pid: Pid) -> String {
        let text = format!("pid {pid} generation ");
        let reports = self.count(&text);
        self.signal_to(pid, Signal::SIGUSR1);
        self.wait_for_nth(&text, reports + 1)
    }

    /// The report of `pid`, requested by USR1.
    #[track_caller]
    pub fn phase(&self, pid: Pid) -> String {
        let report = self.report(pid);
        let phase = report.split(": ").next().and_then(|head| head.rsplit("generation ").next());
        phase.and_then(|phase| phase.split_once(' ')).expect("a report").1.to_owned()
    }

    /// The only generation that runs, once it serves and nothing more is on its way; None if none
    /// is left. Takes it for the newest.
    #[track_caller]
    pub fn settled(&self) -> Option<Pid> {
        let mut before = None;
        until("at most one generation, which serves", || {
            let now = match self.alive()[..] {
                [] => return true,
                [pid] => (self.is_serving(pid) && self.alive() == [pid]).then_some(pid),
                _ => None,
            };
            // Twice: what its predecessor said last may have been read with the first report.
            now.is_some() && std::mem::replace(&mut before, now) == now
        });
        let pid = self.alive().first().copied();
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = pid.unwrap_or(self.first);
        pid
    }

    /// Asked by USR1; false if it ends instead of answering.
    fn is_serving(&self, pid: Pid) -> bool {
        let text = format!("pid {pid} generation ");
        let reports = self.count(&text);
        self.signal_to(pid, Signal::SIGUSR1);
        until("a report or an end", || self.count(&text) > reports || !self.alive().contains(&pid));
        let last = self.output.lines_with(&text).pop();
        last.is_some_and(|line| line.contains(" serving: "))
    }

    /// Waits until `pid` accepts no more: what connects now goes to another generation.
    #[track_caller]
    pub fn paused(&self, pid: Pid) {
        until("it accepts no more", || self.listeners.is_disjoint(&polled_sockets(pid)));
    }

    /// How many requests are in flight in `pid` now.
    #[track_caller]
    pub fn requests_in_flight(&self, pid: Pid) -> usize {
        let report = self.report(pid);
        let before = report.split_once(" requests in flight").map(|(before, _)| before);
        before.and_then(|text| text.rsplit(' ').next()?.parse().ok()).expect("a report")
    }

    /// Waits until so many requests are in flight in `pid`.
    #[track_caller]
    pub fn in_flight(&self, pid: Pid, requests: usize) {
        let text = format!(": {requests} requests in flight");
        until(&text, || self.report(pid).contains(&text));
    }

    /// Waits until so many connections are open in `pid`.
    #[track_caller]
    pub fn open(&self, pid: Pid, connections: usize) {
        let text = format!(" {connections} connections open");
        until(&text, || self.report(pid).contains(&text));
    }

    /// How `pid` ended.
    #[track_caller]
    pub fn wait_exit(&self, pid: Pid) -> Exit {
        match self.family.wait_exit(pid) {
            Some(exit) => exit,
            None => panic!("{pid} still runs after {DEADLINE:?}"),
        }
    }

    /// TERM to the newest generation, which ends well; then nothing is left of the server.
    #[track_caller]
    pub fn stop(&self) {
        self.signal(Signal::SIGTERM);
        assert!(matches!(self.wait_exit(self.newest()), Exit::Status(0) | Exit::Untold));
        self.wait_gone();
    }

    /// Waits until no process has the log open any more.
    #[track_caller]
    pub fn wait_gone(&self) {
        self.output.wait_end();
    }

    /// Generations that still run.
    pub fn alive(&self) -> Vec<Pid> {
        self.family.alive()
    }

    /// The facts about `pid` that are visible from outside.
    pub fn facts(&self, pid: Pid) -> Facts {
        Facts::of(pid)
    }

    /// Waits until `pid` has reaped all of its children that have ended.
    #[track_caller]
    pub fn reaped_all(&self, pid: Pid) {
        until("all that have ended are reaped", || zombies_of(pid).is_empty());
    }

    /// Without the lines that only the kit has requested.
    fn print_log(&self) {
        let asked = |line: &&String| !line.contains("SIGUSR1 from") && !is_report(line);
        for line in self.output.lines_with("").iter().filter(asked) {
            eprintln!("| {line}");
        }
    }
}

fn is_report(line: &str) -> bool {
    line.contains("pid ") && line.contains(" generation ")
}

impl Drop for Proc {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_log();
            self.family.print_states();
        }
        // A child whose name was not read before its parent died introduces itself.
        let gone = self.output.wait(|_, ended| {
            self.family.kill();
            ended
        });
        for pid in self.family.pids() {
            let _ = self.family.wait_exit(pid);
        }
        assert!(gone || std::thread::panicking(), "a process of the server was not killed");
    }
}

/// Before something is started. Makes this process the parent of all that its children leave behind, so that later
/// generations are reaped, and their exit status is known, wherever the tests run. Under `nohup` SIGHUP is ignored,
/// which children inherit: with a handler in its place they start with the default action.
pub(crate) fn prepare_for_children() {
    static HANGUPS: Once = Once::new();
    become_subreaper();
    HANGUPS.call_once(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        if ignored & 1 == 1 {
            signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::default()).expect("a handler");
        }
    });
}
