//! All processes of a server: the first generation, and those that its log names. Held by
//! pidfds, so that no number is mistaken for a later process.

use std::fs::{self, DirEntry};
use std::os::unix::process::ExitStatusExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use heirloom_testkit::internal::numbers;
use heirloom_testkit::{Ended, Process};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::DEADLINE;
use crate::facts::id;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Status(i32),
    Killed(Signal),
    /// Only its parent, another generation, knows.
    Untold,
}

#[derive(Debug, Default)]
pub(crate) struct Family {
    members: Mutex<Vec<Process>>,
    /// The process that made the pid namespace of the log's numbers.
    maker: Option<Pid>,
}

impl From<Ended> for Exit {
    fn from(ended: Ended) -> Exit {
        let Ended::With(status) = ended else { return Exit::Untold };
        let signal = status.signal().and_then(|number| Signal::try_from(number).ok());
        status.code().map(Exit::Status).or(signal.map(Exit::Killed)).unwrap_or(Exit::Untold)
    }
}

impl Family {
    pub(crate) fn of(first: Pid) -> Family {
        let family = Family::default();
        family.add(first);
        family
    }

    /// A family in the pid namespace that `maker` makes.
    pub(crate) fn inside(maker: Pid) -> Family {
        Family { maker: Some(maker), ..Family::of(maker) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Process>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, pid: Pid) {
        let mut members = self.lock();
        if members.iter().all(|member| member.id() != id(pid)) {
            members.push(Process::of(id(pid)));
        }
    }

    /// Adds a process that was just started. Its number may be that of an earlier one.
    fn add_new(&self, pid: Pid) {
        let mut members = self.lock();
        if members.iter().all(|member| member.id() != id(pid) || !member.is_alive()) {
            members.push(Process::of(id(pid)));
        }
    }

    /// Adds the process that a line of the log names: a generation names its child, and each program names itself.
    pub(crate) fn read(&self, line: &str) {
        let message = message(line);
        let words = ["as child ", "] pid "];
        let named = words.iter().find_map(|word| message.split_once(word)?.1.parse().ok());
        let itself = || message.strip_prefix("pid ")?.parse().ok();
        let Some(pid) = named.or_else(itself) else { return };
        match self.maker {
            Some(maker) => seen_from_here(maker, pid).into_iter().for_each(|pid| self.add(pid)),
            // Every known process is killed in the end, and the first process of this host is never a server.
            None if pid == 1 => {}
            None if message.contains("as child ") => self.add_new(Pid::from_raw(pid)),
            None => self.add(Pid::from_raw(pid)),
        }
    }

    /// The process whose log and responses call it `pid`.
    pub(crate) fn known(&self, pid: i32) -> Option<Pid> {
        let pid = match self.maker {
            Some(maker) => seen_from_here(maker, pid)?,
            None => Pid::from_raw(pid),
        };
        self.add(pid);
        Some(pid)
    }

    pub(crate) fn signal(&self, pid: Pid, signal: Signal) {
        // It may be gone; the test will see.
        self.member(pid).signal(signal as i32);
    }

    fn member(&self, pid: Pid) -> Process {
        self.lock().iter().rfind(|member| member.id() == id(pid)).expect("a known process").again()
    }

    /// How `pid` ended; None at the deadline.
    pub(crate) fn wait_exit(&self, pid: Pid) -> Option<Exit> {
        let mut process = self.member(pid);
        let ended = process.wait(DEADLINE)?;
        // The first call has reaped it.
        let mut members = self.lock();
        let member = members.iter_mut().rfind(|member| member.id() == id(pid)).expect("a known process");
        Some(member.learn(ended).into())
    }

    /// The processes that have not ended.
    pub(crate) fn alive(&self) -> Vec<Pid> {
        let members = self.lock();
        let alive = members.iter().filter(|member| member.is_alive()).map(pid_of);
        alive.filter(|pid| Some(*pid) != self.maker).collect()
    }

    pub(crate) fn pids(&self) -> Vec<Pid> {
        self.lock().iter().map(pid_of).collect()
    }

    /// A report for a test that has failed.
    pub(crate) fn print_states(&self) {
        for pid in self.pids() {
            let alive = self.alive().contains(&pid);
            let exit = if alive { None } else { self.wait_exit(pid) };
            let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let stat = |thread: DirEntry| fs::read_to_string(thread.path().join("stat")).ok();
            let state = |stat: String| stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
            let states: String = threads.filter_map(stat).filter_map(state).collect();
            eprintln!("| {pid}: {exit:?}, its threads: {states:?}");
        }
    }

    pub(crate) fn kill(&self) {
        for pid in self.pids() {
            self.signal(pid, Signal::SIGKILL);
        }
    }
}

/// A line's message, if it is JSON; otherwise the line.
pub(crate) fn message(line: &str) -> &str {
    let json = line.split_once("\"message\":\"").and_then(|(_, rest)| Some(rest.split_once('"')?.0));
    json.unwrap_or(line)
}

fn pid_of(process: &Process) -> Pid {
    Pid::from_raw(i32::try_from(process.id()).expect("a pid"))
}

/// The process with the number `inside` in the pid namespace that `maker` has made for its children.
fn seen_from_here(maker: Pid, inside: i32) -> Option<Pid> {
    let namespace = fs::read_link(format!("/proc/{maker}/ns/pid_for_children")).ok()?;
    let is_it = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let innermost = numbers.and_then(|numbers| numbers.split_whitespace().last()?.parse().ok());
        innermost == Some(inside)
            && fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|link| link == namespace)
    };
    numbers("/proc").into_iter().find(is_it).map(Pid::from_raw)
}
