//! Facts about a process, from /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use heirloom_testkit::internal::{descriptors, inode, listening, numbers};
use nix::unistd::Pid;

use crate::pass;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The kind of each descriptor.
    pub fds: BTreeMap<i32, String>,
    /// Descriptors above 2 that a program started by the process would get unasked.
    pub leaky: BTreeMap<i32, String>,
    /// Names of the threads, sorted; the kernel has room for 15 bytes of each.
    pub threads: Vec<String>,
    /// As at the start, without the variables that heirloom adds; sorted.
    pub environ: Vec<Vec<u8>>,
    /// Inodes of sockets that listen.
    pub listeners: BTreeSet<u64>,
    pub resident_kib: u64,
    /// Children that wait to be reaped.
    pub zombies: Vec<i32>,
}

impl Facts {
    /// The facts of the test's own process.
    pub fn own() -> Facts {
        Facts::of(nix::unistd::getpid())
    }

    pub(crate) fn of(pid: Pid) -> Facts {
        let home = format!("/proc/{pid}");
        let text = |file: &str| fs::read_to_string(format!("{home}/{file}")).unwrap_or_default();
        let fds = descriptors(id(pid));
        let leaks = |fd: i32| {
            let info = text(&format!("fdinfo/{fd}"));
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
            fd > 2 && flags.is_some_and(|flags| flags & 0o2_000_000 == 0)
        };
        let leaky = fds.iter().filter(|(fd, _)| leaks(**fd)).map(|(fd, what)| (*fd, what.clone())).collect();

        let threads = numbers(&format!("{home}/task"));
        let mut names: Vec<String> =
            threads.iter().map(|thread| text(&format!("task/{thread}/comm")).trim_end().to_owned()).collect();
        names.sort();
        let environ = fs::read(format!("{home}/environ")).unwrap_or_default();
        let of_user = |pair: &&[u8]| !pair.is_empty() && !pair.starts_with(b"HEIRLOOM_");
        let mut environ: Vec<Vec<u8>> =
            environ.split(|&byte| byte == 0).filter(of_user).map(<[u8]>::to_vec).collect();
        environ.sort();

        let listening = listening(id(pid));
        let listeners =
            fds.values().filter_map(|what| inode(what)).filter(|n| listening.contains_key(n)).collect();

        let resident = text("status");
        let resident = resident.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split(' ').rev().nth(1));
        Facts {
            leaky,
            threads: names,
            environ,
            listeners,
            resident_kib: resident.and_then(|kib| kib.trim().parse().ok()).unwrap_or(0),
            zombies: zombies_of(pid),
            fds,
        }
    }

    /// What the descriptors are, without which one it is: equal for generations that leak nothing.
    pub fn kinds_of_fds(&self) -> Vec<String> {
        let kind = |what: &String| what.split_once(":[").map_or(what.as_str(), |(kind, _)| kind).to_owned();
        let mut kinds: Vec<String> = self.fds.values().map(kind).collect();
        kinds.sort();
        kinds
    }
}

pub(crate) fn zombies_of(parent: Pid) -> Vec<i32> {
    let is_one = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(&format!("Z {parent} ")))
    };
    numbers("/proc").into_iter().filter(is_one).collect()
}

/// Time of the processor that all threads of `pid` have had, in ticks: 100 a second.
fn ticks(pid: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // After the name: utime and stime are fields 14 and 15, counted from 1.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    fields[11..=12].iter().map(|n| n.parse::<u64>().expect("a number")).sum()
}

/// Below 5 % of a processor, over the quietest of a few seconds: what others do to this host is none
/// of the server's doing.
///
/// # Panics
/// If it is more in each of them.
#[track_caller]
pub fn expect_calm(pid: Pid) {
    let second = || {
        let before = ticks(pid);
        pass(Duration::from_secs(1));
        ticks(pid) - before
    };
    let mut seconds = std::iter::repeat_with(second).take(4);
    assert!(seconds.any(|ticks| ticks < 5), "it spins");
}

/// Inodes of the sockets that `pid` waits on.
pub(crate) fn polled_sockets(pid: Pid) -> BTreeSet<u64> {
    heirloom_testkit::internal::polled_sockets(id(pid))
}

/// The number as std has it.
pub(crate) fn id(pid: Pid) -> u32 {
    u32::try_from(pid.as_raw()).expect("a process")
}
