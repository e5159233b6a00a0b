//! The server under storm: a real process, and all the generations that follow it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{getpid, pipe2};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use testkit::{Addr, Exit, Pid, Signal, beside};

use super::halt::Halt;
use super::mask;
use super::windows::Windows;

/// The end of the log line about connections that went to a successor.
const WENT: &str = " connections went to the successor";
/// The end of the log line about a successor that was killed because it was silent.
const KILLED: &str = " was killed by SIGKILL";
/// A signal that has had no effect for so long has none.
const SETTLED: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Server {
    facts: Mutex<LogFacts>,
    news: Condvar,
    began: Instant,
    /// The directory for its temporary files.
    temporary: PathBuf,
}

/// What the log has reported so far.
#[derive(Debug, Default)]
struct LogFacts {
    /// Each with the time at which it was read.
    lines: Vec<(Duration, String)>,
    addrs: Vec<Addr>,
    processes: Vec<Process>,
    /// Gets the signals in place of the generation that serves.
    supervisor: Option<Pid>,
    /// The generation that serves, committed.
    serving: u32,
    /// Handovers that were started, committed, and rolled back by the predecessor.
    started: usize,
    committed: usize,
    given_up: usize,
    /// Each successor that has accepted on probation.
    accepting: Vec<Pid>,
    departures: Vec<Departed>,
    /// The log has ended: no process has its other end.
    ended: bool,
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    generation: u32,
    /// None: it was gone before we looked.
    pidfd: Option<OwnedFd>,
    exit: Option<Exit>,
    /// By storm.
    killed: bool,
}

/// A process of a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Predecessor,
    Successor,
}

/// What a process holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Holdings {
    pub(crate) fds: usize,
    pub(crate) threads: usize,
    pub(crate) resident_kib: u64,
}

/// The connections that went to a successor, and when the log said so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Departed {
    pub(crate) at: Instant,
    pub(crate) connections: usize,
}

impl Server {
    /// Starts it; it serves when this returns.
    pub(crate) fn start(
        program: &Path,
        args: &[String],
        temporary: &Path,
        deadline: Instant,
    ) -> Result<Arc<Server>, String> {
        // Orphans of a generation become children of this process: its successor, whose end is then reported here.
        set_child_subreaper(true).map_err(|e| format!("no subreaper: {e}"))?;
        let server = Arc::new(Server {
            facts: Mutex::new(LogFacts::default()),
            news: Condvar::new(),
            began: Instant::now(),
            temporary: temporary.to_owned(),
        });
        server.start_again(program, args, deadline)?;
        Ok(server)
    }

    /// Starts it if no process serves; it serves when this returns.
    pub(crate) fn start_again(
        self: &Arc<Server>,
        program: &Path,
        args: &[String],
        deadline: Instant,
    ) -> Result<(), String> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(|e| format!("no pipe: {e}"))?;
        let errors = theirs.try_clone().map_err(|e| format!("no descriptor: {e}"))?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(theirs).stderr(errors);
        command.env("RUST_LOG", "info").env("TMPDIR", &self.temporary);
        let child = mask::unblocked(|| command.spawn()).map_err(|e| format!("{}: {e}", program.display()))?;
        // It holds the other end of the pipe, whose end is the end of the last process.
        drop(command);
        {
            let mut facts = self.lock();
            (facts.serving, facts.ended) = (0, false);
            facts.add(Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)), 1);
        }
        let reader = Arc::clone(self);
        beside("log", move || reader.read(ours));
        if !self.wait(deadline.min(Instant::now() + Duration::from_secs(20)), |facts| facts.serving == 1) {
            self.kill();
            return Err(format!("the server does not serve; its log:\n{}", self.log_between(None, None)));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, LogFacts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, from: OwnedFd) {
        for line in BufReader::new(File::from(from)).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut facts = self.lock();
            facts.take(&line);
            facts.lines.push((self.began.elapsed(), line));
            self.news.notify_all();
        }
        self.lock().ended = true;
        self.news.notify_all();
    }

    /// Waits until `fact` holds or no writer is left; returns whether it holds.
    fn wait(&self, deadline: Instant, fact: impl Fn(&LogFacts) -> bool) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let waiting = |facts: &mut LogFacts| !fact(facts) && !facts.ended;
        let facts = self.news.wait_timeout_while(self.lock(), left, waiting);
        fact(&facts.unwrap_or_else(PoisonError::into_inner).0)
    }

    pub(crate) fn addrs(&self) -> Vec<Addr> {
        self.lock().addrs.clone()
    }

    pub(crate) fn serving(&self) -> u32 {
        self.lock().serving
    }

    /// Signals the generation that serves; gives its number.
    pub(crate) fn signal(&self, signal: Signal) -> u32 {
        let facts = self.lock();
        facts.signalled().into_iter().for_each(|process| process.signal(signal));
        facts.serving
    }

    /// The process that serves.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.lock().current().map(|process| process.pid)
    }

    pub(crate) fn supervisor(&self) -> Option<Pid> {
        self.lock().supervisor
    }

    /// Hands over to the next generation by so many signals, a millisecond apart. Returns the time from the first signal until a
    /// successor owns the service.
    pub(crate) fn hand_over(&self, deadline: Instant, hups: u32, quiet: &Halt) -> Result<Duration, String> {
        let given_up = self.lock().given_up;
        let begin = Instant::now();
        let old = self.signal(Signal::SIGHUP);
        for _ in 1..hups {
            quiet.pause(Duration::from_millis(1));
            // To the same process, the one that the sender of the first signal knows.
            let facts = self.lock();
            let same = facts.processes.iter().rev().find(|process| process.generation == old);
            let same = facts.supervisor().or(same);
            same.into_iter().for_each(|process| process.signal(Signal::SIGHUP));
        }
        self.wait(deadline, |facts| facts.serving > old || facts.given_up > given_up);
        let took = begin.elapsed();
        self.reap();
        let facts = self.lock();
        match facts.serving {
            new if new > old => Ok(took),
            _ if facts.given_up > given_up => Err(format!("generation {old} has given the handover up")),
            _ => Err(format!("generation {old} has not handed over within {took:.1?}")),
        }
    }

    /// Waits until the signals that were sent at once have no further effect.
    pub(crate) fn settle(&self, deadline: Instant, quiet: &Halt) -> Result<(), String> {
        let mut seen = None;
        loop {
            let fact = |facts: &LogFacts| facts.started == facts.committed;
            if !self.wait(deadline, fact) {
                return Err("a handover that was asked for with others came to nothing".to_owned());
            }
            let now = Some(self.lock().started);
            if seen == now {
                return Ok(());
            }
            seen = now;
            quiet.pause(SETTLED);
        }
    }

    /// A handover that is given up before GO.
    pub(crate) fn refuse(&self, deadline: Instant) -> Result<(), String> {
        let given_up = self.lock().given_up;
        let old = self.signal(Signal::SIGHUP);
        self.serves_on(old, given_up, deadline)
    }

    fn serves_on(&self, old: u32, given_up: usize, deadline: Instant) -> Result<(), String> {
        self.wait(deadline, |facts| facts.serving != old || facts.given_up > given_up);
        let facts = self.lock();
        // A process that did not start or has died is not waited for.
        match facts.given_up > given_up && facts.serving == old {
            true => Ok(()),
            false => Err(format!("generation {old} has not said that it serves on")),
        }
    }

    /// A handover whose successor is killed when it accepts already, and has not been committed.
    pub(crate) fn crash_on_probation(&self, deadline: Instant, crashes: &Windows) -> Result<(), String> {
        let (given_up, accepting) = {
            let facts = self.lock();
            (facts.given_up, facts.accepting.len())
        };
        crashes.open();
        let old = self.signal(Signal::SIGHUP);
        self.wait(deadline, |facts| facts.accepting.len() > accepting || facts.given_up > given_up);
        let pidfd = {
            let facts = self.lock();
            let pid = facts.accepting.get(accepting);
            let victim = facts.processes.iter().rev().find(|process| Some(&process.pid) == pid);
            let Some(victim) = victim.filter(|_| facts.serving == old) else {
                return Err("nobody is on probation".to_owned());
            };
            crashes.strike();
            victim.signal(Signal::SIGKILL);
            victim.pidfd.as_ref().and_then(|pidfd| pidfd.try_clone().ok())
        };
        let gone = pidfd.is_none_or(|pidfd| ended_within(&pidfd, 10_000));
        crashes.close();
        if !gone {
            return Err("a killed process does not end".to_owned());
        }
        self.serves_on(old, given_up, deadline)
    }

    /// A handover that is committed; then, after the pause, one of the two is killed. What is left of the service is complete or
    /// gone when this returns: whether it serves.
    pub(crate) fn kill_in_handover(
        &self,
        side: Side,
        deadline: Instant,
        kills: &Windows,
        pause: impl FnOnce(),
    ) -> Result<bool, String> {
        kills.open();
        let old = self.signal(Signal::SIGHUP);
        if !self.wait(deadline, |facts| facts.serving > old) {
            return Err(format!("generation {old} has not handed over"));
        }
        pause();
        let pidfd = {
            let mut facts = self.lock();
            let (new, is_newer) = (facts.serving, side == Side::Successor);
            let of_side = |process: &&mut Process| process.generation == if is_newer { new } else { old };
            let victim = facts.processes.iter_mut().rev().find(of_side).ok_or("nobody to kill")?;
            kills.strike();
            victim.killed = true;
            victim.signal(Signal::SIGKILL);
            victim.pidfd.as_ref().and_then(|pidfd| pidfd.try_clone().ok())
        };
        if pidfd.is_some_and(|pidfd| !ended_within(&pidfd, 10_000)) {
            return Err("a killed process does not end".to_owned());
        }
        self.reap();
        Ok(side == Side::Predecessor)
    }

    pub(crate) fn departures(&self) -> Vec<Departed> {
        self.lock().departures.clone()
    }

    /// What the `n`th process that handed over has passed on, when it has.
    pub(crate) fn departed(&self, n: usize, deadline: Instant) -> Result<Departed, String> {
        self.wait(deadline, |facts| facts.departures.len() > n);
        let departed = self.lock().departures.get(n).copied();
        departed.ok_or_else(|| "the connections have not all gone to the successor".to_owned())
    }

    /// Reaps inherited processes. There are no other children.
    pub(crate) fn reap(&self) {
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) => (pid, Exit::Status(status)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Killed(signal)),
                _ => break,
            };
            let mut facts = self.lock();
            match facts.processes.iter_mut().rev().find(|process| process.pid == pid) {
                Some(process) => process.exit = Some(exit),
                // It ended before its name was read.
                None => facts.processes.push(Process {
                    pid,
                    generation: 0,
                    pidfd: None,
                    exit: Some(exit),
                    killed: false,
                }),
            }
        }
        // A long run has more processes than this one may have descriptors.
        let has_ended = |process: &&mut Process| process.pidfd.as_ref().is_some_and(|fd| ended_within(fd, 0));
        self.lock().processes.iter_mut().filter(has_ended).for_each(|process| process.pidfd = None);
    }

    /// Stops the last generation and waits for the end of all.
    pub(crate) fn stop(&self, deadline: Instant) -> Result<(), String> {
        self.signal(Signal::SIGTERM);
        let ended = self.wait(deadline, |facts| facts.ended);
        let mut left = self.alive();
        while !left.is_empty() && Instant::now() < deadline {
            // Processes that have closed the log end at once.
            wait_for_end(&self.lock().processes, deadline.min(Instant::now() + Duration::from_millis(100)));
            left = self.alive();
        }
        self.reap();
        match (ended, left.as_slice()) {
            (true, []) => Ok(()),
            (_, left) => Err(format!("processes are left over: {left:?}, log at its end: {ended}")),
        }
    }

    pub(crate) fn alive(&self) -> Vec<Pid> {
        let lives = |process: &&Process| process.pidfd.as_ref().is_some_and(|fd| !ended_within(fd, 0));
        self.lock().processes.iter().filter(lives).map(|process| process.pid).collect()
    }

    /// Ends by number: how many ended well, how many only their parent knows of, and all others.
    pub(crate) fn exits(&self) -> (usize, usize, Vec<String>) {
        let (mut well, mut untold, mut badly) = (0, 0, Vec::new());
        for process in &self.lock().processes {
            match process.exit {
                Some(Exit::Status(0)) => well += 1,
                None | Some(Exit::Untold) => untold += 1,
                Some(Exit::Killed(nix::sys::signal::Signal::SIGKILL)) if process.killed => {}
                Some(exit) => {
                    badly.push(format!("generation {} ({}): {exit:?}", process.generation, process.pid))
                }
            }
        }
        (well, untold, badly)
    }

    /// What the generation that serves holds now.
    pub(crate) fn holdings(&self) -> Holdings {
        let Some(pid) = self.pid() else { return Holdings::default() };
        let count = |folder: &str| fs::read_dir(format!("/proc/{pid}/{folder}")).map_or(0, Iterator::count);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        Holdings {
            fds: count("fd"),
            threads: count("task"),
            resident_kib: resident.and_then(|kib| kib.parse().ok()).unwrap_or(0),
        }
    }

    /// The log of all generations between two times since `began`.
    pub(crate) fn log_between(&self, from: Option<Duration>, to: Option<Duration>) -> String {
        let within = |at: &Duration| from.is_none_or(|from| from <= *at) && to.is_none_or(|to| *at <= to);
        let facts = self.lock();
        let lines = facts.lines.iter().filter(|(at, _)| within(at));
        lines.map(|(at, line)| format!("{:9.3} {line}\n", at.as_secs_f64())).collect()
    }

    /// Times in `log_between` count from here.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Kills all generations: those that the log has named, and their orphans.
    pub(crate) fn kill(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            self.lock().processes.iter().for_each(|process| process.signal(Signal::SIGKILL));
            // Not reaped, so that its number is still its own.
            for pid in children() {
                let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
            }
            self.reap();
            let none_left = waitpid(None, Some(WaitPidFlag::WNOHANG)) == Err(Errno::ECHILD);
            if none_left && self.lock().ended || Instant::now() > deadline {
                return;
            }
            let tick = Instant::now() + Duration::from_millis(20);
            self.wait(tick, |_| false);
        }
    }
}

impl LogFacts {
    /// The process that serves; the last one of its generation, as others may have failed to become it.
    fn current(&self) -> Option<&Process> {
        self.processes.iter().rev().find(|process| process.generation == self.serving)
    }

    fn supervisor(&self) -> Option<&Process> {
        self.processes.iter().rev().find(|process| Some(process.pid) == self.supervisor)
    }

    fn signalled(&self) -> Option<&Process> {
        self.supervisor().or_else(|| self.current())
    }

    /// A line of the supervisor.
    fn take_supervisors(&mut self, line: &str) {
        let pid = |text: &str| text.split(' ').next()?.parse().ok().map(Pid::from_raw);
        if let Some((pid, generation)) = line.split_once(" serves as generation ") {
            let pid = pid.parse().ok().map(Pid::from_raw);
            pid.into_iter().for_each(|pid| self.add(pid, generation.trim().parse().unwrap_or(0)));
        } else if let Some((_, child)) = line.split_once(" as child ") {
            // The first one is given no name by anything else.
            let generation = u32::from(self.serving == 0);
            pid(child).into_iter().for_each(|pid| self.add(pid, generation));
        } else if let Some(rest) = line.strip_prefix("pid ") {
            self.supervisor = pid(rest);
        }
    }

    fn take(&mut self, line: &str) {
        if let Some((_, rest)) = line.split_once("] supervisor: ") {
            self.take_supervisors(rest);
        } else if let Some((_, name)) = line.split_once("] listening on ") {
            let addr = Addr::from(name);
            if !self.addrs.contains(&addr) {
                self.addrs.push(addr);
            }
        } else if let Some((_, generation)) = line.split_once("] serving as generation ") {
            // A predecessor that serves on says so, too: then it is the one it was.
            self.serving = generation.trim().parse().unwrap_or(self.serving);
        } else if line.contains("; still serving")
            || line.contains("] handover: child ") && line.ends_with(KILLED)
        {
            self.given_up += 1;
        } else if let Some((_, count)) =
            line.split_once("] handover: ").filter(|(_, rest)| rest.ends_with(WENT))
        {
            let connections = count.trim_end_matches(WENT).parse().unwrap_or(0);
            self.departures.push(Departed { at: Instant::now(), connections });
        } else if let Some((_, rest)) =
            line.split_once("] handover: child ").filter(|(_, r)| r.ends_with(": SERVING"))
        {
            let pid = rest.trim_end_matches(": SERVING").parse();
            self.accepting.extend(pid.into_iter().map(Pid::from_raw));
        } else if line.contains("] handover: to child ") && line.ends_with(": COMMIT") {
            self.committed += 1;
        } else if let Some(hello) = line.split_once(": HELLO ").map(|(_, hello)| hello) {
            let field =
                |name: &str| hello.split(' ').find_map(|field| field.strip_prefix(name)?.parse().ok());
            if let (Some(generation), Some(pid)) = (field("generation="), field("pid=")) {
                self.add(Pid::from_raw(i32::try_from(pid).unwrap_or(0)), generation);
            }
        } else if let Some(pid) = ["as child ", "] pid "].iter().find_map(|word| line.split_once(word)) {
            // Its generation is reported later.
            self.started += usize::from(line.contains("as child "));
            pid.1.trim().parse().into_iter().for_each(|pid| self.add(Pid::from_raw(pid), 0));
        }
    }

    fn add(&mut self, pid: Pid, generation: u32) {
        // A number that was used before names a new process.
        let lives = |process: &Process| process.pidfd.as_ref().is_some_and(|fd| !ended_within(fd, 0));
        let known = self.processes.iter_mut().rev().find(|process| process.pid == pid && lives(process));
        match known {
            Some(process) => process.generation = process.generation.max(generation),
            None => {
                let raw = rustix::process::Pid::from_raw(pid.as_raw());
                let pidfd = raw.and_then(|raw| pidfd_open(raw, PidfdFlags::empty()).ok());
                self.processes.push(Process { pid, generation, pidfd, exit: None, killed: false });
            }
        }
    }
}

impl Process {
    fn signal(&self, signal: Signal) {
        let raw = rustix::process::Signal::from_named_raw(signal as i32);
        if let (Some(pidfd), Some(raw)) = (&self.pidfd, raw) {
            // It may have ended; the code that waits for it will notice.
            let _ = pidfd_send_signal(pidfd, raw);
        }
    }
}

/// Our own, by /proc: as the subreaper we get all that outlive their parents.
fn children() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = format!(" {} ", getpid());
    let is_ours = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name: the state's letter, then the parent.
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.get(1..).is_some_and(|rest| rest.starts_with(&own)))
    };
    pids.filter(is_ours).map(Pid::from_raw).collect()
}

/// Waits until one of the running processes has ended.
fn wait_for_end(processes: &[Process], deadline: Instant) {
    let alive = |fd: &&OwnedFd| !ended_within(fd, 0);
    if let Some(fd) = processes.iter().filter_map(|process| process.pidfd.as_ref()).find(alive) {
        let left = deadline.saturating_duration_since(Instant::now());
        ended_within(fd, u16::try_from(left.as_millis()).unwrap_or(u16::MAX));
    }
}

/// Whether the process of `pidfd` is gone, or goes in time.
fn ended_within(pidfd: &OwnedFd, ms: u16) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(ms)).is_ok_and(|ready| ready > 0)
}
