//! Sends notifications: one datagram each, to the socket that NOTIFY_SOCKET names. A generation below a supervisor gives
//! them to that, which sends them as the main process.

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, connect, sendmsg};
use nix::unistd::pipe2;

use super::message::Notification;
use crate::base::log::{debug, warn};
use crate::process::supervise::link::SupervisorSender;
use crate::process::supervise::message::SupervisorMessage;

/// A service manager that does not read for so long misses a notification.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) enum Notifier {
    /// The address of the service manager's socket. The socket itself is made for each datagram: there are few.
    Direct(UnixAddr),
    BySupervisor(SupervisorSender),
}

impl Notifier {
    /// `socket` is the value of NOTIFY_SOCKET: a path, or an abstract name after an `@`.
    pub(crate) fn new(socket: &OsStr) -> io::Result<Notifier> {
        let address = match socket.as_bytes() {
            [b'@', name @ ..] => UnixAddr::new_abstract(name)?,
            [b'/', ..] => UnixAddr::new(socket)?,
            _ => return Err(io::Error::other("neither a path nor an abstract name")),
        };
        Ok(Notifier::Direct(address))
    }

    pub(crate) fn is_by_supervisor(&self) -> bool {
        matches!(self, Notifier::BySupervisor(_))
    }

    /// Sends it with these descriptors. The log has what can't be sent.
    pub(crate) fn send(&self, notification: &Notification<'_>, fds: &[BorrowedFd<'_>]) {
        self.send_text(&notification.encode(), fds);
    }

    pub(crate) fn send_text(&self, text: &str, fds: &[BorrowedFd<'_>]) {
        match self.try_send(text, fds) {
            Ok(()) => debug!("systemd: sent {}", text.replace('\n', " ")),
            Err(e) => warn!("systemd: can't send {}: {e}", text.replace('\n', " ")),
        }
    }

    fn try_send(&self, text: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let address = match self {
            Notifier::Direct(address) => address,
            Notifier::BySupervisor(supervisor) => {
                supervisor.send_with(&SupervisorMessage::Notify { text: text.to_owned() }, fds);
                return Ok(());
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        connect(socket.as_raw_fd(), address)?;
        let fds: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
        let parts = [IoSlice::new(text.as_bytes())];
        let mut flags = MsgFlags::MSG_NOSIGNAL;
        // It comes again soon, and a service manager that does not read would hold up every one of them.
        flags.set(MsgFlags::MSG_DONTWAIT, text == Notification::Alive.encode());
        sendmsg::<()>(socket.as_raw_fd(), &parts, rights, flags, None)?;
        Ok(())
    }

    /// Asks the service manager to report when it has handled all that was sent before. None: the sender need not stay
    /// until then, as a supervisor has sent it.
    pub(crate) fn barrier(&self) -> Option<NotifyBarrier> {
        if self.is_by_supervisor() {
            return None;
        }
        match pipe2(OFlag::O_CLOEXEC) {
            Ok((ours, its)) => {
                self.send(&Notification::Barrier, &[its.as_fd()]);
                Some(NotifyBarrier(ours))
            }
            Err(e) => {
                warn!("systemd: no pipe for a barrier: {e}");
                None
            }
        }
    }
}

/// The end of a pipe whose other end the service manager closes.
pub(crate) struct NotifyBarrier(OwnedFd);

impl NotifyBarrier {
    /// Whether everything was handled within this time.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_ends_when_its_descriptor_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(path.as_os_str()).unwrap();
        notifier.send(&Notification::Alive, &[]);
        let barrier = notifier.barrier().unwrap();
        assert!(!barrier.wait(Duration::ZERO));
        let mut buf = [0; 64];
        let mut next = || {
            let (n, fds, cut) = crate::base::sys::receive(socket.as_fd(), &mut buf).unwrap();
            assert!(!cut);
            (String::from_utf8(buf[..n].to_vec()).unwrap(), fds)
        };
        let (text, fds) = next();
        assert_eq!((&*text, fds.len()), ("WATCHDOG=1", 0));
        let (text, fds) = next();
        assert_eq!((&*text, fds.len()), ("BARRIER=1", 1));
        assert!(!barrier.wait(Duration::ZERO));
        drop(fds);
        assert!(barrier.wait(Duration::from_secs(20)));
    }

    #[test]
    fn a_socket_is_a_path_or_an_abstract_name() {
        for (socket, is_good) in
            [("/run/systemd/notify", true), ("@name", true), ("vsock:2:1", false), ("", false)]
        {
            assert_eq!(Notifier::new(OsStr::new(socket)).is_ok(), is_good, "{socket}");
        }
    }
}
