//! Facts about a process, from /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::time::Duration;

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
        let fds = descriptors(pid);
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

        let listening = listening(pid);
        let listeners =
            fds.values().filter_map(|what| inode(what)).filter(|n| listening.contains(n)).collect();

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

/// What an epoll instance watches.
fn targets(fdinfo: &str) -> Vec<i32> {
    let fd = |line: &str| line.strip_prefix("tfd:")?.split_whitespace().next()?.parse().ok();
    fdinfo.lines().filter_map(fd).collect()
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

/// Inodes of the sockets that `pid` waits on. They show which process accepts. The kernel's table of listeners does not:
/// it also has all connections of the host, and takes seconds to read.
pub(crate) fn polled_sockets(pid: Pid) -> BTreeSet<u64> {
    let fds = descriptors(pid);
    let pollers = fds.iter().filter(|(_, what)| *what == "anon_inode:[eventpoll]");
    let info = |fd: &i32| fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
    let targets = pollers.flat_map(|(fd, _)| targets(&info(fd)));
    targets.filter_map(|fd| inode(fds.get(&fd)?)).collect()
}

/// The kind of each descriptor of `pid`.
fn descriptors(pid: Pid) -> BTreeMap<i32, String> {
    let link = |fd: i32| fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok();
    let what = |fd: i32| Some((fd, link(fd)?.to_string_lossy().into_owned()));
    numbers(&format!("/proc/{pid}/fd")).into_iter().filter_map(what).collect()
}

/// Entries of a directory that are numbers.
pub(crate) fn numbers(folder: &str) -> Vec<i32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The inode of a socket.
fn inode(what: &str) -> Option<u64> {
    what.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Inodes of all sockets that listen where `pid` runs.
fn listening(pid: Pid) -> BTreeSet<u64> {
    let lines = |name: &str| {
        let table = File::open(format!("/proc/{pid}/net/{name}")).ok();
        table.into_iter().flat_map(|table| BufReader::new(table).lines().map_while(Result::ok).skip(1))
    };
    let field = |line: &str, n: usize| line.split_whitespace().nth(n).map(str::to_owned);
    // Those that listen come first. All connections of the host follow, which can take half a minute to read.
    let of_tcp = ["tcp", "tcp6"].into_iter().flat_map(|name| {
        lines(name).take_while(|line| field(line, 3).as_deref() == Some("0A")).collect::<Vec<_>>()
    });
    let of_unix = lines("unix").filter(|line| field(line, 3).as_deref() == Some("00010000"));
    let tcp_inodes = of_tcp.filter_map(|line| field(&line, 9)?.parse().ok());
    tcp_inodes.chain(of_unix.filter_map(|line| field(&line, 6)?.parse().ok())).collect()
}
