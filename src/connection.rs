//! The value that moves between acceptor, queue and worker. It does not know who has it, nor what
//! is spoken on it: `P`, its progress, belongs to the exchange.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use socket2::SockRef;

use crate::close_reason::CloseReason;
use crate::origin::Origin;
use crate::slots::SlotId;
use crate::wait_group::Guard;

/// What a closing connection may still send before it is cut off.
const LINGER_BYTES: usize = 256 << 10;

/// A client's socket; non-blocking, always: the flag is shared with whoever inherits it.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Bytes read; 0 is the end.
    pub(crate) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| match self {
            Stream::Tcp(s) => { s }.read(buf),
            Stream::Unix(s) => { s }.read(buf),
        })
    }

    pub(crate) fn write(&self, buf: &[u8]) -> io::Result<usize> {
        uninterrupted(|| match self {
            Stream::Tcp(s) => { s }.write(buf),
            Stream::Unix(s) => { s }.write(buf),
        })
    }

    pub(crate) fn write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        uninterrupted(|| match self {
            Stream::Tcp(s) => { s }.write_vectored(bufs),
            Stream::Unix(s) => { s }.write_vectored(bufs),
        })
    }

    /// Tells the client that nothing more comes. A bare close would tell it late if some child of
    /// ours is between fork and exec.
    pub(crate) fn shutdown_write(&self) {
        let _ = match self {
            Stream::Tcp(s) => s.shutdown(Shutdown::Write),
            Stream::Unix(s) => s.shutdown(Shutdown::Write),
        };
    }

    /// The same socket by another descriptor.
    pub(crate) fn try_clone(&self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Tcp(s) => Stream::Tcp(s.try_clone()?),
            Stream::Unix(s) => Stream::Unix(s.try_clone()?),
        })
    }

    /// Closing sends a reset instead of an orderly end.
    pub(crate) fn reset_on_close(&self) {
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }

    /// Whether bytes wait to be read, without reading them.
    pub(crate) fn has_bytes(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(std::os::fd::AsRawFd::as_raw_fd(&self.as_fd()), &mut [0], flags).is_ok_and(|n| n > 0)
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Stream {
        Stream::Tcp(stream)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(s) => s.as_fd(),
            Stream::Unix(s) => s.as_fd(),
        }
    }
}

impl From<Stream> for OwnedFd {
    fn from(stream: Stream) -> OwnedFd {
        match stream {
            Stream::Tcp(s) => s.into(),
            Stream::Unix(s) => s.into(),
        }
    }
}

fn uninterrupted(mut f: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match f() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A connection: owned by exactly one of acceptor, queue and worker; moved, never shared.
#[derive(Debug)]
pub(crate) struct Connection<P> {
    pub(crate) stream: Stream,
    pub(crate) slot: SlotId,
    /// Which handler and workers it came for.
    pub(crate) site: usize,
    pub(crate) origin: Arc<Origin>,
    /// Read and not used. Empty and without memory while idle.
    pub(crate) buffered: Vec<u8>,
    pub(crate) progress: P,
    /// Held while an exchange is begun and not finished.
    pub(crate) guard: Option<Guard>,
    /// Exchanges so far.
    pub(crate) served: u64,
    /// Parked between two requests, with nothing buffered.
    pub(crate) idle: bool,
    /// The first byte of a response is out: there is no other answer any more.
    pub(crate) answering: bool,
    /// Its deadline passed while it was parked.
    pub(crate) expired: bool,
    /// The client has closed its side: the bytes that wait are its last ones.
    pub(crate) peer_closed: bool,
    /// Registered for writability, too.
    pub(crate) polls_write: bool,
    /// All is said and our side is shut; what still comes is read and dropped, so that no reset
    /// takes the last response from the client (RFC 9112 §9.6).
    pub(crate) lingering: Option<Lingering>,
}

/// The last moments of a connection.
#[derive(Debug)]
pub(crate) struct Lingering {
    pub(crate) reason: CloseReason,
    left: usize,
}

impl<P> Connection<P> {
    pub(crate) fn new(
        stream: Stream,
        slot: SlotId,
        site: usize,
        origin: Arc<Origin>,
        progress: P,
    ) -> Connection<P> {
        Connection {
            stream,
            slot,
            site,
            origin,
            buffered: Vec::new(),
            progress,
            guard: None,
            served: 0,
            idle: true,
            answering: false,
            expired: false,
            peer_closed: false,
            polls_write: false,
            lingering: None,
        }
    }

    /// Shuts our side; from now on only `linger_on` is to be called.
    pub(crate) fn begin_lingering(&mut self, reason: CloseReason) {
        self.stream.shutdown_write();
        self.lingering = Some(Lingering { reason, left: LINGER_BYTES });
        self.idle = false;
        self.buffered = Vec::new();
        self.guard = None;
    }

    /// Drops what has come; true when the connection is over.
    pub(crate) fn linger_on(&mut self) -> bool {
        let Some(lingering) = &mut self.lingering else { return true };
        let mut buf = [0; 4096];
        loop {
            match self.stream.read(&mut buf) {
                Ok(n) if n > 0 && n < lingering.left => lingering.left -= n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
                _ => return true,
            }
        }
    }
}
