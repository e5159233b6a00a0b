//! A client's socket: blocking, with a limit to each wait, and its errors as the kernel named them.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, UnixAddr,
    bind, connect, recv, send, setsockopt, shutdown, socket, sockopt,
};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use testkit::Addr;

use super::tally::Outcome;
use super::tls::{Layer, Secrecy};

#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    tls: Option<Layer>,
}

/// How to connect.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) to: Addr,
    /// The address to connect from. Each client of a local server has a different one: the ports of
    /// one address are used up by 28,000 connections that closed a moment ago.
    pub(crate) from: Option<Ipv4Addr>,
    /// How long any wait may take.
    pub(crate) patience: Duration,
    /// The receive buffer, where it should be small.
    pub(crate) room: Option<usize>,
    /// Over TLS.
    pub(crate) tls: Option<Secrecy>,
}

impl Way {
    /// The way of client `number` to `to`.
    pub(crate) fn new(to: Addr, number: usize, patience: Duration) -> Way {
        let local =
            matches!(&to, Addr::Tcp(addr) if matches!(addr, SocketAddr::V4(v4) if v4.ip().is_loopback()));
        let octet = |n: usize| u8::try_from(n % 250 + 1).unwrap_or(1);
        let from = local.then(|| Ipv4Addr::new(127, 1, octet(number / 250), octet(number)));
        Way { to, from, patience, room: None, tls: None }
    }

    pub(crate) fn connect(&self) -> Result<Socket, Errno> {
        match &self.to {
            Addr::Tcp(SocketAddr::V4(to)) => self.open(AddressFamily::Inet, &SockaddrIn::from(*to)),
            Addr::Tcp(SocketAddr::V6(to)) => self.open(AddressFamily::Inet6, &SockaddrIn6::from(*to)),
            Addr::Unix(path) => self.open(AddressFamily::Unix, &UnixAddr::new(path)?),
        }
    }

    fn open(&self, family: AddressFamily, to: &dyn SockaddrLike) -> Result<Socket, Errno> {
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        for way in [Timeout::Send, Timeout::Recv] {
            set_socket_timeout(&fd, way, Some(self.patience))
                .map_err(|e| Errno::from_raw(e.raw_os_error()))?;
        }
        if let Some(room) = &self.room {
            setsockopt(&fd, sockopt::RcvBuf, room)?;
        }
        if family != AddressFamily::Unix {
            setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        }
        if let (AddressFamily::Inet, Some(from)) = (family, self.from) {
            // The port is chosen at connect, where it need be free for this peer only.
            setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
            bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
        }
        connect(fd.as_raw_fd(), to)?;
        let tls = self.tls.as_ref().map(|tls| tls.agree(&fd)).transpose()?;
        Ok(Socket { fd, tls })
    }
}

impl Socket {
    pub(crate) fn send_all(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        match &mut self.tls {
            Some(tls) => {
                let records = tls.seal(bytes)?;
                self.send_sealed(&records)
            }
            None => self.send_sealed(bytes),
        }
    }

    /// What these bytes are on the way, which must be sent next: by TLS their records.
    pub(crate) fn seal(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Errno> {
        self.tls.as_mut().map_or_else(|| Ok(bytes.to_vec()), |tls| tls.seal(bytes))
    }

    /// By TLS 1.3 the record that changes the keys of both sides, which must be sent next; else nothing.
    pub(crate) fn seal_key_update(&mut self) -> Result<Vec<u8>, Errno> {
        self.tls.as_mut().map_or_else(|| Ok(Vec::new()), Layer::seal_key_update)
    }

    pub(crate) fn send_sealed(&mut self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let n = send(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Ends this side of the connection, by TCP alone.
    pub(crate) fn end_sending(&self) {
        let _ = shutdown(self.fd.as_raw_fd(), Shutdown::Write);
    }

    /// Its close is a reset.
    pub(crate) fn reset_at_close(&self) {
        let _ = setsockopt(&self.fd, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 });
    }

    /// 0: its end.
    pub(crate) fn receive(&mut self, buf: &mut [u8]) -> Result<usize, Errno> {
        match &mut self.tls {
            Some(tls) => tls.receive(&self.fd, buf),
            None => recv(self.fd.as_raw_fd(), buf, MsgFlags::empty()),
        }
    }

    /// How the protocol below HTTP was broken, if it was.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.tls.as_ref()?.fault()
    }

    /// Whether there is something to receive, an end included, within `wait`.
    pub(crate) fn readable_within(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            if self.tls.as_mut().is_some_and(Layer::is_readable) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            if !poll(&mut fds, timeout).is_ok_and(|ready| ready > 0) {
                return false;
            }
            let Some(tls) = &mut self.tls else { return true };
            if tls.has_news(&self.fd) {
                return true;
            }
        }
    }
}

/// The outcome of a request whose connection could not be made.
pub(crate) fn not_connected(errno: Errno) -> Outcome {
    match errno {
        Errno::ECONNREFUSED | Errno::ENOENT => Outcome::Refused,
        Errno::EINPROGRESS | Errno::EAGAIN | Errno::ETIMEDOUT => Outcome::Timeout,
        Errno::EBADMSG => Outcome::Wrong,
        Errno::EADDRNOTAVAIL | Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => {
            Outcome::OwnLimit
        }
        _ => Outcome::Reset,
    }
}
