//! What a program started by a handler gets: in every generation what it gets in the first, and
//! what it would get from a program without heirloom.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};

use nix::libc;
use testkit::{Exit, Pid, Proc};

use crate::TESTKIT;

/// HUP, INT, QUIT, USR1, USR2 and TERM: those that the server handles.
const HANDLED: u64 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 9 | 1 << 11 | 1 << 14;

/// What a child says of itself that it has from its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Child {
    /// Mask, ignored signals, user, limits of power, ...: by the kernel's names.
    status: BTreeMap<String, String>,
    /// The kind of each descriptor; two pipes of one kind are equal.
    fds: Vec<String>,
    /// Each variable, with its odd bytes escaped.
    environment: BTreeSet<String>,
}

impl Child {
    fn of(ask: impl Fn(&str) -> Vec<u8>) -> Child {
        let text = |what| String::from_utf8(ask(what)).unwrap();
        let inherited =
            ["SigBlk", "SigIgn", "Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "CapEff", "Seccomp"];
        let pairs = text("status");
        let pairs = pairs.lines().filter_map(|line| line.split_once(":\t"));
        let status = pairs.filter(|(name, _)| inherited.contains(name));
        let kind = |line: &str| line.split(":[").next().unwrap().to_owned();
        Child {
            status: status.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            fds: text("fds").lines().filter(|line| !line.contains("/proc/")).map(kind).collect(),
            environment: ask("env")
                .split(|byte| *byte == 0)
                .map(|pair| pair.escape_ascii().to_string())
                .collect(),
        }
    }

    /// The content of an environment must not be logged: only differences are reported.
    #[track_caller]
    fn is_like(&self, other: &Child, which: &str) {
        let differs: Vec<_> = self.environment.symmetric_difference(&other.environment).collect();
        assert!(differs.is_empty(), "{which}: {differs:?}");
        assert_eq!((&self.status, &self.fds), (&other.status, &other.fds), "{which}");
    }

    fn by(server: &Proc, how: &str) -> Child {
        Child::of(|what| server.get(&format!("/child/{how}/{what}")).ok().body)
    }

    /// The facts of the same program without heirloom.
    fn control(wrapper: &[&str], how: &str) -> Child {
        Child::of(|what| {
            let words = [wrapper, &[TESTKIT, "parent", "describe", how, what]].concat();
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).env("RUST_LOG", "info").stdin(Stdio::null());
            command.output().unwrap().stdout
        })
    }

    fn ignored(&self) -> u64 {
        u64::from_str_radix(&self.status["SigIgn"], 16).unwrap()
    }

    /// Its ignored signals, except those that the server handles: a process that handles a signal can't pass on
    /// that it was ignored.
    fn but_for_the_handled(mut self) -> Child {
        let ignored = format!("{:016x}", self.ignored() & !HANDLED);
        self.status.insert("SigIgn".to_owned(), ignored);
        self
    }

    /// Without the one variable that stays, without effect, in a process that was started as a successor.
    fn without_our_variable(mut self) -> Child {
        self.environment.retain(|pair| !pair.starts_with("HEIRLOOM_HANDOVER="));
        self
    }
}

/// Five generations of a server that `wrapper` starts.
fn is_the_same_in_every_generation(wrapper: &[&str]) -> Child {
    if testkit::lacks("env") || testkit::lacks("find") {
        return Child::control(&["env"], "std");
    }
    let controls = ["std", "raw"].map(|how| Child::control(wrapper, how));
    let words = [wrapper, &[TESTKIT, "parent", "--listen", "127.0.0.1:0"]].concat();
    let server = Proc::start_as_said(words[0], &words[1..]);
    let first = ["std", "raw"].map(|how| Child::by(&server, how));
    for (control, first) in controls.iter().zip(&first) {
        assert_eq!(first.ignored() & HANDLED, 0);
        first.is_like(&control.clone().but_for_the_handled(), "the first generation");
    }
    for generation in 2..=5 {
        let old = server.newest();
        server.handover();
        assert_eq!(server.wait_exit(old), Exit::Status(0));
        for (how, first) in ["std", "raw"].into_iter().zip(&first) {
            let now = Child::by(&server, how).without_our_variable();
            now.is_like(first, &format!("generation {generation}, by {how}"));
        }
    }
    server.stop();
    let [std, _] = first;
    std
}

#[test]
fn started_by_nothing_special() {
    is_the_same_in_every_generation(&["env"]);
}

#[test]
fn started_with_signals_blocked() {
    // 40: one of the real-time signals.
    let child = is_the_same_in_every_generation(&["env", "--block-signal=USR2,WINCH,40"]);
    assert_eq!(child.status["SigBlk"], "0000008008000800");
}

#[test]
fn started_with_all_that_can_be_blocked_blocked() {
    let child = is_the_same_in_every_generation(&["env", "--block-signal"]);
    assert_ne!(child.status["SigBlk"], "0000000000000000");
}

#[test]
fn started_with_signals_ignored() {
    let child = is_the_same_in_every_generation(&["env", "--ignore-signal=WINCH,QUIT,USR1,41"]);
    assert_eq!(child.ignored() & (1 << 27 | 1 << 40), 1 << 27 | 1 << 40);
}

#[test]
fn started_with_sigpipe_ignored_or_not() {
    let ignored = is_the_same_in_every_generation(&["env", "--ignore-signal=PIPE"]);
    let default = is_the_same_in_every_generation(&["env", "--default-signal=PIPE"]);
    ignored.is_like(&default, "with it ignored");
}

#[test]
fn started_under_nohup() {
    is_the_same_in_every_generation(&["env", "--ignore-signal=HUP"]);
}

#[test]
fn started_with_an_environment_of_bytes() {
    let child = is_the_same_in_every_generation(&["env", "A=1", "EMPTY=", "LINES=a\nb", "SPACE= x "]);
    assert!(child.environment.contains(r"LINES=a\nb"));
}

/// The soft and the hard limit of open files that a child has.
fn nofile(server: &Proc, how: &str) -> (u64, u64) {
    let limits = server.get(&format!("/child/{how}/limits")).ok();
    let line = limits.text().lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().map_while(|number| number.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// As docs/configuration.md says: what the server has raised they inherit, unless that is switched off.
#[test]
fn the_limit_of_open_files_is_inherited_as_documented() {
    let line = "ulimit -Sn 200 && ulimit -Hn 512 && exec \"$@\"";
    for (flags, soft) in [(&[][..], 512), (&["--keep-nofile"][..], 200)] {
        let words = [&["-c", line, "sh", TESTKIT, "parent", "--listen", "127.0.0.1:0"], flags].concat();
        let server = Proc::start_as_said("sh", &words);
        for generation in 1..=3 {
            for how in ["std", "raw"] {
                assert_eq!(nofile(&server, how), (soft, 512), "{flags:?}, generation {generation}, by {how}");
            }
            server.handover();
        }
        server.stop();
    }
}

/// The scheduling policies of the threads with that name (proc_pid_stat(5)); a name has 15 bytes at most.
fn policies(pid: Pid, name: &str) -> Vec<i32> {
    let stats = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let stats = stats.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    let of = |stat: String| {
        let (id, rest) = stat.rsplit_once(')')?;
        let is_meant = id.split_once('(')?.1 == name;
        is_meant.then(|| rest.split_whitespace().nth(38)?.parse().ok())?
    };
    stats.filter_map(of).collect()
}

#[test]
fn all_threads_keep_the_scheduling_policy_of_the_process() {
    for (flag, policy) in [("--other", libc::SCHED_OTHER), ("--batch", libc::SCHED_BATCH)] {
        let server = Proc::start_as_said("chrt", &[flag, "0", TESTKIT, "parent", "--listen", "127.0.0.1:0"]);
        for generation in 1..=2 {
            // A thread that serves has its name and its policy.
            server.get("/pid").ok();
            for name in ["heirloom-accept", "heirloom-worker"] {
                let policies = policies(server.newest(), name);
                let all_keep_it = !policies.is_empty() && policies.iter().all(|one| *one == policy);
                assert!(all_keep_it, "{flag}, {name}, generation {generation}: {policies:?}");
            }
            server.handover();
        }
        server.stop();
    }
}

/// It is itself a server, and is not taken in by the variable that its parent has.
#[test]
fn a_server_started_by_a_server_is_a_first_generation() {
    let server = Proc::start_as_said(TESTKIT, &["parent", "--listen", "127.0.0.1:0"]);
    server.handover();
    let environment = Child::by(&server, "std").environment;
    let note = environment.iter().find(|pair| pair.starts_with("HEIRLOOM_HANDOVER="));
    let flags = [note.expect("it stays in a successor"), TESTKIT, "parent", "--listen", "127.0.0.1:0"];
    let inner = Proc::start_as_said("env", &flags);
    inner.wait_for("serving as generation 1");
    inner.handover();
}
