//! Socket activation: the listening sockets that systemd has bound, or kept in its store over a crash.
//!
//! A socket of a `.socket` unit belongs to systemd, which holds it open before, between and after the processes of the
//! service. So this crate makes no change to it that would outlast the process: no filter, no shutdown, no other backlog, no
//! removal of a path. Each is named `systemd:NAME` after its `FileDescriptorName=`; a program may `listen` on that name, or
//! on the socket's address. A socket from the store is one that this program has bound, and bears its own name again.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};
use nix::unistd::getpid;

use super::message::stored_listener;
use super::{CAN_NOTIFY, variable};
use crate::base::error::{Error, ErrorKind};
use crate::base::log::debug;
use crate::base::sys;
use crate::process::handover::child::{FIRST_FD, pidfd_id};
use crate::process::handover::{Owner, Passed};

/// The prefix of the name of a listener whose socket belongs to systemd.
pub(crate) const PREFIX: &str = "systemd:";

/// The sockets as the environment describes them.
#[derive(PartialEq, Eq)]
struct Announced {
    names: Vec<String>,
}

impl Announced {
    /// None: nothing, or for another process. `own` are the pid and the number of the pidfd, where that is known.
    fn read(variable: impl Fn(&str) -> Option<OsString>, own: (i32, Option<u64>)) -> Option<Announced> {
        let number = |name| variable(name)?.to_string_lossy().parse::<u64>().ok();
        let count = usize::try_from(number("LISTEN_FDS")?).ok().filter(|count| (1..=1024).contains(count))?;
        if number("LISTEN_PID") != u64::try_from(own.0).ok() {
            return None;
        }
        // The variables were meant for an earlier process with the same pid.
        if own.1.zip(number("LISTEN_PIDFDID")).is_some_and(|(own, meant)| own != meant) {
            return None;
        }
        let given = variable("LISTEN_FDNAMES").map(|names| names.to_string_lossy().into_owned());
        let given: Vec<&str> = given.as_deref().unwrap_or_default().split(':').collect();
        let mut names: Vec<String> = Vec::new();
        for index in 0..count {
            let name = given.get(index).filter(|name| !name.is_empty()).unwrap_or(&"unknown");
            names.push((*name).to_owned());
        }
        Some(Announced { names })
    }

    /// The name of each socket's listener. Several sockets of one unit have one name.
    fn listeners(&self) -> Vec<(String, Owner)> {
        let mut listeners: Vec<(String, Owner)> = Vec::new();
        for name in &self.names {
            if let Some(listener) = stored_listener(name) {
                listeners.push((listener, Owner::Server));
                continue;
            }
            let with_number = |n: usize| match n {
                1 => format!("{PREFIX}{name}"),
                n => format!("{PREFIX}{name}:{n}"),
            };
            let is_taken = |name: &String| listeners.iter().any(|(taken, _)| taken == name);
            let free = (1..).map(with_number).find(|name| !is_taken(name));
            listeners.push((free.unwrap_or_default(), Owner::Systemd));
        }
        listeners
    }
}

/// Takes over the sockets that systemd has passed to this process.
///
/// # Errors
/// One that is no listening stream socket.
pub(crate) fn look() -> Result<Vec<Passed>, Error> {
    if !CAN_NOTIFY || variable("LISTEN_FDS").is_none() {
        return Ok(Vec::new());
    }
    let pid = getpid();
    let own_id = sys::pidfd_open(pid).ok().and_then(|pidfd| pidfd_id(pidfd.as_fd()));
    let Some(announced) = Announced::read(variable, (pid.as_raw(), own_id)) else {
        debug!("systemd: LISTEN_FDS is ignored: it is meant for another process");
        return Ok(Vec::new());
    };
    let mut passed = Vec::new();
    for (fd, (name, owner)) in (FIRST_FD..).zip(announced.listeners()) {
        let refused = |why: &str| {
            let text = format!(
                "systemd has passed {name} as descriptor {fd}, which is {why}: remove it from the unit"
            );
            Error::new(ErrorKind::Inherit, text)
        };
        let socket = sys::adopt(fd).map_err(|e| refused(&format!("not open ({e})")))?;
        if let Some(why) = unusable(socket.as_fd()) {
            return Err(refused(why));
        }
        passed.push(Passed { name, fd: Arc::new(socket), file: None, owner });
    }
    Ok(passed)
}

/// Why nothing can be accepted from it.
fn unusable(socket: BorrowedFd<'_>) -> Option<&'static str> {
    match getsockopt(&socket, sockopt::SockType) {
        Ok(SockType::Stream) => {}
        Ok(SockType::Datagram) => return Some("a datagram socket"),
        Ok(_) => return Some("a socket that is no stream"),
        Err(_) => return Some("no socket"),
    }
    let family = getsockname::<SockaddrStorage>(std::os::fd::AsRawFd::as_raw_fd(&socket)).ok()?.family();
    if !matches!(family, Some(AddressFamily::Inet | AddressFamily::Inet6 | AddressFamily::Unix)) {
        return Some("a socket of another family than IP and unix");
    }
    match getsockopt(&socket, sockopt::AcceptConn) {
        Ok(true) => None,
        _ => Some("a socket that does not listen (Accept=yes)"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Option<Vec<String>> {
        let variable = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        Announced::read(variable, (7, Some(99))).map(|announced| announced.names)
    }

    #[test]
    fn only_sockets_for_this_process_are_taken() {
        let (fds, pid) = (("LISTEN_FDS", "2"), ("LISTEN_PID", "7"));
        let unknown = || Some(vec!["unknown".to_owned(); 2]);
        let cases = [
            (vec![], None),
            (vec![fds], None),
            (vec![pid], None),
            (vec![fds, pid], unknown()),
            (vec![fds, ("LISTEN_PID", "8")], None),
            (vec![fds, ("LISTEN_PID", "x")], None),
            (vec![("LISTEN_FDS", "0"), pid], None),
            (vec![("LISTEN_FDS", "-1"), pid], None),
            (vec![("LISTEN_FDS", "100000"), pid], None),
            (vec![fds, pid, ("LISTEN_PIDFDID", "99")], unknown()),
            (vec![fds, pid, ("LISTEN_PIDFDID", "98")], None),
            (vec![fds, pid, ("LISTEN_FDNAMES", "web")], Some(vec!["web".into(), "unknown".into()])),
            (vec![fds, pid, ("LISTEN_FDNAMES", "a:b:c")], Some(vec!["a".into(), "b".into()])),
        ];
        for (variables, names) in cases {
            assert_eq!(read(&variables), names, "{variables:?}");
        }
    }

    #[test]
    fn sockets_have_names_of_their_own() {
        let names = ["web", "admin", "web", "heirloom-127.0.0.1%3A80"].map(str::to_owned).to_vec();
        let named = Announced { names }.listeners();
        let expected = [
            ("systemd:web", Owner::Systemd),
            ("systemd:admin", Owner::Systemd),
            ("systemd:web:2", Owner::Systemd),
            ("127.0.0.1:80", Owner::Server),
        ];
        assert_eq!(named, expected.map(|(name, owner)| (name.to_owned(), owner)));
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (udp, datagram) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UnixDatagram::unbound().unwrap());
        let (stream, _other) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        assert_eq!(unusable(listener.as_fd()), None);
        assert_eq!(unusable(udp.as_fd()), Some("a datagram socket"));
        assert_eq!(unusable(datagram.as_fd()), Some("a datagram socket"));
        assert_eq!(unusable(stream.as_fd()), Some("a socket that does not listen (Accept=yes)"));
        assert_eq!(unusable(file.as_fd()), Some("no socket"));
    }
}
