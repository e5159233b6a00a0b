//! The socket of a service manager, played by a test: what each process reports, in which order, and with which descriptors.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use nix::unistd::Pid;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{PidfdFlags, pidfd_open};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use crate::{DEADLINE, pass};

/// What NOTIFY_SOCKET names.
#[derive(Debug)]
pub struct NotifySocket {
    socket: UnixDatagram,
    folder: TempDir,
}

/// One notification.
#[derive(Debug)]
pub struct Notice {
    /// The sender, as the kernel knows it.
    pub pid: Pid,
    /// `KEY=value` each.
    pub lines: Vec<String>,
    pub fds: Vec<OwnedFd>,
}

impl Notice {
    /// The value of `key`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }

    /// Without the values of STATUS, MONOTONIC_USEC and EXTEND_TIMEOUT_USEC, and without MAINPIDFDID.
    pub fn keys(&self) -> String {
        let shown = |line: &String| match line.split_once('=') {
            Some((key @ ("STATUS" | "MONOTONIC_USEC" | "EXTEND_TIMEOUT_USEC"), _)) => Some(key.to_owned()),
            // Not every kernel has it.
            Some(("MAINPIDFDID", _)) => None,
            _ => Some(line.clone()),
        };
        self.lines.iter().filter_map(shown).collect::<Vec<_>>().join(" ")
    }
}

/// The number of a process's pidfd, by which systemd knows it as MAINPIDFDID. None where pidfds have no numbers of their own:
/// before Linux 6.9.
pub fn pidfd_number(pid: Pid) -> Option<u64> {
    const PIDFS: u64 = 0x5049_4446;
    let pidfd = pidfd_open(rustix::process::Pid::from_raw(pid.as_raw())?, PidfdFlags::empty()).ok()?;
    let is_numbered = rustix::fs::fstatfs(&pidfd).is_ok_and(|found| u64::try_from(found.f_type) == Ok(PIDFS));
    is_numbered.then(|| rustix::fs::fstat(&pidfd).ok().map(|found| found.st_ino)).flatten()
}

/// Microseconds of CLOCK_MONOTONIC.
pub fn monotonic_usec() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000
}

impl NotifySocket {
    /// A new one, in a directory of its own.
    ///
    /// # Panics
    /// When there is none to be had.
    #[expect(clippy::new_without_default, reason = "it makes a file")]
    pub fn new() -> NotifySocket {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        rustix::net::sockopt::set_socket_passcred(&socket, true).expect("a unix socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("a socket");
        NotifySocket { socket, folder }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// The next notification.
    ///
    /// # Panics
    /// When none arrives.
    #[track_caller]
    pub fn next(&self) -> Notice {
        self.receive(RecvFlags::empty()).expect("a notification")
    }

    /// The next one, if it is there.
    pub fn has(&self) -> Option<Notice> {
        self.receive(RecvFlags::DONTWAIT).ok()
    }

    /// Reads until there is one with `line`; the rest is dropped.
    ///
    /// # Panics
    /// When none arrives.
    #[track_caller]
    pub fn next_with(&self, line: &str) -> Notice {
        loop {
            let notice = self.next();
            if notice.lines.iter().any(|own| own == line) {
                return notice;
            }
        }
    }

    /// Waits until nothing has arrived for `quiet` rounds of a few milliseconds; returns what has arrived.
    pub fn drain(&self, quiet: u32) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut silent = 0;
        while silent < quiet {
            match self.has() {
                Some(notice) => {
                    notices.push(notice);
                    silent = 0;
                }
                None => {
                    silent += 1;
                    pass(std::time::Duration::from_millis(5));
                }
            }
        }
        notices
    }

    fn receive(&self, flags: RecvFlags) -> std::io::Result<Notice> {
        let mut bytes = vec![0; 4096];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let read = recvmsg(self.socket.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
        let (mut pid, mut fds) = (Pid::from_raw(0), Vec::new());
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(rights) => fds.extend(rights),
                RecvAncillaryMessage::ScmCredentials(sender) => {
                    pid = Pid::from_raw(sender.pid.as_raw_nonzero().get())
                }
                _ => {}
            }
        }
        bytes.truncate(read.bytes);
        let text = String::from_utf8(bytes).expect("text");
        Ok(Notice { pid, lines: text.lines().map(str::to_owned).collect(), fds })
    }
}
