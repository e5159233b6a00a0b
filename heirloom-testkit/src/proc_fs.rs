//! Facts about a process, from /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Addr;

/// Inodes of the sockets that `pid` waits on. They show which process accepts. The kernel's table of listeners does not:
/// it also has all connections of the host, and takes seconds to read.
pub fn polled_sockets(pid: u32) -> BTreeSet<u64> {
    let fds = descriptors(pid);
    let pollers = fds.iter().filter(|(_, what)| *what == "anon_inode:[eventpoll]");
    let info = |fd: &i32| fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
    let targets = pollers.flat_map(|(fd, _)| targets(&info(fd)));
    targets.filter_map(|fd| inode(fds.get(&fd)?)).collect()
}

/// What an epoll instance watches.
fn targets(fdinfo: &str) -> Vec<i32> {
    let fd = |line: &str| line.strip_prefix("tfd:")?.split_whitespace().next()?.parse().ok();
    fdinfo.lines().filter_map(fd).collect()
}

/// The kind of each descriptor of `pid`.
pub fn descriptors(pid: u32) -> BTreeMap<i32, String> {
    let link = |fd: i32| fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok();
    let what = |fd: i32| Some((fd, link(fd)?.to_string_lossy().into_owned()));
    numbers(&format!("/proc/{pid}/fd")).into_iter().filter_map(what).collect()
}

/// Entries of a directory that are numbers.
pub fn numbers(folder: &str) -> Vec<i32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Processes that were started with this variable, `NAME=VALUE`. Those that have ended have none.
pub fn processes_with(variable: &[u8]) -> Vec<u32> {
    let has_it = |pid: &u32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|found| found == variable)
    };
    numbers("/proc").into_iter().filter_map(|pid| u32::try_from(pid).ok()).filter(has_it).collect()
}

/// The value of a variable that `pid` was started with.
pub(crate) fn variable(pid: u32, name: &str) -> Option<Vec<u8>> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |pair: &[u8]| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec);
    environ.split(|byte| *byte == 0).find_map(value)
}

/// The processes that the main thread of `pid` has started and not reaped. None where the kernel does not list them.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The inode of a socket.
pub fn inode(what: &str) -> Option<u64> {
    what.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The sockets that listen where `pid` runs, by their inodes.
pub fn listening(pid: u32) -> BTreeMap<u64, Addr> {
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
    let tcp = of_tcp
        .filter_map(|line| Some((field(&line, 9)?.parse().ok()?, Addr::Tcp(address(&field(&line, 1)?)?))));
    let unix = of_unix.filter_map(|line| {
        Some((field(&line, 6)?.parse().ok()?, Addr::Unix(field(&line, 7).unwrap_or_default().into())))
    });
    tcp.chain(unix).collect()
}

/// An address as the kernel's tables have it: words of the host's byte order in hexadecimal.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = (0..ip.len() / 8).map(|n| u32::from_str_radix(ip.get(8 * n..8 * n + 8)?, 16).ok());
    let bytes: Vec<u8> =
        words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    match bytes.len() {
        4 => Some((Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?), port).into()),
        16 => Some((Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?), port).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_the_tables_of_the_kernel() {
        let pid = std::process::id();
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(local) else { continue };
            let addr = listener.local_addr().unwrap();
            assert!(listening(pid).values().any(|found| *found == Addr::Tcp(addr)), "{addr}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(listening(pid).values().any(|found| *found == Addr::Unix(path.clone())));
    }

    #[test]
    fn what_is_no_address_is_none() {
        for text in
            ["", ":", "0100007F", "0100007F:", "0100007F:G", "01:1F90", "€€€€€€€€:1F90", "0100007f0100007f:1"]
        {
            assert_eq!(address(text), None, "{text}");
        }
    }
}
