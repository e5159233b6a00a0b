//! The value that moves between acceptor, queue and worker. It does not know who has it, nor what
//! is spoken on it: `P`, its progress, belongs to the exchange.

#[cfg(feature = "tls")]
mod secured;

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::sendfile::sendfile;
use nix::sys::socket::{MsgFlags, recv};
use socket2::SockRef;

use crate::base::close_reason::CloseReason;
use crate::base::sys;
use crate::base::wait_group::Guard;
use crate::net::conn_info::{ConnInfo, Socket};
use crate::net::slots::SlotId;
#[cfg(feature = "tls")]
use secured::{Raw, Secured};

/// What a closing connection may still send, and for how long, before it is cut off.
const LINGER_BYTES: usize = 16 << 20;
const LINGER: Duration = Duration::from_secs(2);
/// For one that was idle, and closes when it sees that we have.
const LAST_WORD: Duration = Duration::from_millis(500);
/// How much of that is dropped at a time.
const LINGER_PIECES: usize = 16;

/// A client's socket; non-blocking, always: the flag is shared with whoever inherits it. A clone is the
/// same, for who reads an upload or speaks another protocol, never at once.
#[derive(Clone, Debug)]
pub(crate) enum Stream {
    Tcp(Arc<TcpStream>),
    Unix(Arc<UnixStream>),
    #[cfg(feature = "tls")]
    Tls(Arc<Secured>),
}

impl Stream {
    pub(crate) fn new(fd: OwnedFd, is_unix: bool) -> Stream {
        if is_unix { Stream::Unix(Arc::new(fd.into())) } else { Stream::Tcp(Arc::new(fd.into())) }
    }

    /// For who asks about the client and does not keep the connection.
    pub(crate) fn socket(&self) -> Socket {
        match self {
            Stream::Tcp(s) => Socket::of(s),
            Stream::Unix(s) => Socket::of(s),
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.socket.socket(),
        }
    }

    /// Bytes read; 0 is the end, `UnexpectedEof` one that TLS did not announce.
    pub(crate) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| match self {
            Stream::Tcp(s) => (&**s).read(buf),
            Stream::Unix(s) => (&**s).read(buf),
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().read(&mut Raw(&s.socket), buf),
        })
    }

    /// Bytes that are out. The rest is to be written again: what TLS has made of it waits for that.
    pub(crate) fn write(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => uninterrupted(|| s.lock().write(&mut Raw(&s.socket), &[buf])),
            _ => self.send(buf, 0),
        }
    }

    /// Not by std, which writes to some sockets in a way that raises SIGPIPE.
    fn send(&self, buf: &[u8], flags: libc::c_int) -> io::Result<usize> {
        uninterrupted(|| SockRef::from(self).send_with_flags(buf, flags | libc::MSG_NOSIGNAL))
    }

    /// As `write`, of what our end follows at once: a TCP segment carries both.
    pub(crate) fn write_last(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(_) => self.send(buf, libc::MSG_MORE),
            _ => self.write(buf),
        }
    }

    pub(crate) fn write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        uninterrupted(|| match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => {
                let bufs: Vec<&[u8]> = bufs.iter().map(|buf| &**buf).collect();
                s.lock().write(&mut Raw(&s.socket), &bufs)
            }
            _ => SockRef::from(self).send_vectored_with_flags(bufs, libc::MSG_NOSIGNAL),
        })
    }

    /// Whether a read of `n` bytes for which there was `room` took all there was.
    pub(crate) fn is_drained(&self, n: usize, room: usize) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().is_drained(),
            _ => n < room,
        }
    }

    /// Whether a read has something to show, whatever the socket says.
    pub(crate) fn has_more(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().has_more(),
            _ => false,
        }
    }

    /// Whether something has come of which a read shows nothing yet: part of a TLS record.
    pub(crate) fn holds_part(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().holds_part(),
            _ => false,
        }
    }

    /// Bytes kept with it, from now on in no more memory than they need.
    pub(crate) fn hold(&self) -> usize {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().hold(),
            _ => 0,
        }
    }

    /// Whether it ends with this process: what TLS has agreed upon can't be passed on.
    pub(crate) fn is_bound_here(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(_) => true,
            _ => false,
        }
    }

    /// Says what is to be said at the end, before `shutdown_write`; whether all is out.
    pub(crate) fn say_end(&self) -> io::Result<bool> {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().say_end(&mut Raw(&s.socket)),
            _ => Ok(true),
        }
    }

    /// Reads what nobody wants, as it comes.
    fn read_raw(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.socket.read(buf),
            _ => self.read(buf),
        }
    }

    /// Sends up to `n` bytes of `file`, from where it stands, without copying them; 0 is its end.
    ///
    /// # Errors
    /// Those of the socket and of the file; `Unsupported` where it is not for the kernel to do this.
    pub(crate) fn send_file(&self, file: &File, n: usize) -> io::Result<usize> {
        // Unlike a send it can't be told not to signal that the client has gone.
        if !sys::is_ignored(libc::SIGPIPE) {
            return Err(ErrorKind::Unsupported.into());
        }
        uninterrupted(|| match self {
            Stream::Tcp(s) => Ok(sendfile(s, file, None, n)?),
            Stream::Unix(s) => Ok(sendfile(s, file, None, n)?),
            #[cfg(feature = "tls")]
            Stream::Tls(_) => Err(ErrorKind::Unsupported.into()),
        })
    }

    /// Tells the client that nothing more comes. A bare close would tell it late if some child of
    /// ours is between fork and exec.
    pub(crate) fn shutdown_write(&self) {
        let _ = match self {
            Stream::Tcp(s) => s.shutdown(Shutdown::Write),
            Stream::Unix(s) => s.shutdown(Shutdown::Write),
            #[cfg(feature = "tls")]
            Stream::Tls(s) => {
                let _ = self.say_end();
                return s.socket.shutdown_write();
            }
        };
    }

    /// Closing sends a reset instead of an orderly end.
    pub(crate) fn reset_on_close(&self) {
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }

    /// What a read would find, without reading it.
    pub(crate) fn peek(&self) -> Peek {
        if self.has_more() {
            return Peek::Bytes;
        }
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(self.as_fd().as_raw_fd(), &mut [0], flags) {
            Ok(0) => Peek::End,
            Ok(_) => Peek::Bytes,
            Err(nix::Error::EAGAIN) => Peek::Nothing,
            Err(_) => Peek::End,
        }
    }

    /// Whether nothing that is written reaches the client any more: it has reset the connection, or has closed
    /// a unix socket. One that has only ended its own side is there.
    pub(crate) fn is_gone(&self) -> bool {
        // Errors and hang-ups are told unasked.
        let mut socket = [PollFd::new(self.as_fd(), PollFlags::empty())];
        loop {
            match poll(&mut socket, PollTimeout::ZERO) {
                Ok(n) => return n > 0,
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Ends both directions, while the descriptor stays.
    pub(crate) fn shutdown(&self) {
        let _ = match self {
            Stream::Tcp(s) => s.shutdown(Shutdown::Both),
            Stream::Unix(s) => s.shutdown(Shutdown::Both),
            #[cfg(feature = "tls")]
            Stream::Tls(s) => return s.socket.shutdown(),
        };
    }
}

/// What waits on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peek {
    Bytes,
    Nothing,
    End,
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(s) => s.as_fd(),
            Stream::Unix(s) => s.as_fd(),
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.socket.as_fd(),
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

/// What is spoken on a connection, as far as another process can go on with it.
pub(crate) trait Portable: Default + fmt::Debug + Send + 'static {
    /// The acceptor does not know when it is whose turn to speak: a new connection is work before its first byte,
    /// and so is one that has rested for too long. Nothing is said without being asked to.
    const UNSPOKEN: bool = false;

    /// Whether it is between two requests, or in one of which `buffered` bytes in all, `most` at
    /// most, are enough to begin anew.
    fn is_portable(&self, buffered: usize, most: usize) -> bool;
    /// Leaves in `buffered` all that has come of an unfinished request; since when it comes.
    fn pack(&mut self, buffered: &mut Vec<u8>) -> Option<Instant>;
    /// What was packed in another process.
    fn unpack(begun: Option<Instant>) -> Self;
}

/// A connection: owned by exactly one of acceptor, queue and worker; moved, never shared.
#[derive(Debug)]
pub(crate) struct Connection<P> {
    pub(crate) stream: Stream,
    pub(crate) slot: SlotId,
    /// Which listener it came by, and so for which handler and workers.
    pub(crate) listener: usize,
    pub(crate) site: usize,
    pub(crate) conn_info: Arc<ConnInfo>,
    /// Read and not used. Empty and without memory while idle.
    pub(crate) buffered: Vec<u8>,
    pub(crate) progress: P,
    /// Held while an exchange is begun and not finished.
    pub(crate) guard: Option<Guard>,
    /// Exchanges so far.
    pub(crate) served: u64,
    /// Parked between two requests, with nothing buffered, since then.
    pub(crate) idle: Option<Instant>,
    /// Parked in the middle of a response: there is no other answer any more.
    pub(crate) answering: Option<Answering>,
    /// Its deadline passed while it was parked.
    pub(crate) expired: bool,
    /// In the queue so that others go first: there is more to do for it at once.
    pub(crate) yielded: bool,
    /// The client may have closed its side behind the bytes that wait; that is not announced again.
    pub(crate) may_have_ended: bool,
    /// Registered for writability, too.
    pub(crate) polls_write: bool,
    /// All is said and our side is shut; what still comes is read and dropped, so that no reset
    /// takes the last response from the client (RFC 9112 §9.6).
    pub(crate) lingering: Option<Lingering>,
}

/// How a client can tell that the response it is getting is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answering {
    /// By its framing.
    Framed,
    /// Only by a reset.
    UntilClose,
    /// It is complete: only the rest of the request is read.
    Whole,
}

/// The last moments of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lingering {
    pub(crate) reason: CloseReason,
    /// Whatever the client goes on to say.
    pub(crate) until: Instant,
    left: usize,
}

/// What a lingering connection has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linger {
    /// It has ended, or has said too much.
    Over,
    Drained,
    More,
}

impl<P> Connection<P> {
    pub(crate) fn new(
        stream: Stream,
        slot: SlotId,
        (listener, site): (usize, usize),
        conn_info: Arc<ConnInfo>,
        progress: P,
    ) -> Connection<P> {
        Connection {
            stream,
            slot,
            listener,
            site,
            conn_info,
            buffered: Vec::new(),
            progress,
            guard: None,
            served: 0,
            idle: None,
            answering: None,
            expired: false,
            yielded: false,
            may_have_ended: false,
            polls_write: false,
            lingering: None,
        }
    }

    /// Shuts our side; from now on only `linger_on` is to be called.
    pub(crate) fn begin_lingering(&mut self, reason: CloseReason) {
        self.linger_for(LINGER, reason);
    }

    /// As `begin_lingering`, for one between two requests: so that one that is on its way is read
    /// and dropped, and not met by a reset.
    pub(crate) fn begin_end_of_idle(&mut self, reason: CloseReason) {
        self.linger_for(LAST_WORD, reason);
    }

    fn linger_for(&mut self, time: Duration, reason: CloseReason) {
        self.stream.shutdown_write();
        self.lingering = Some(Lingering { reason, until: Instant::now() + time, left: LINGER_BYTES });
        self.idle = None;
        self.buffered = Vec::new();
        self.guard = None;
    }

    /// Drops some of what has come.
    pub(crate) fn linger_on(&mut self) -> Linger {
        let Some(lingering) = &mut self.lingering else { return Linger::Over };
        let mut buf = [0; 16 << 10];
        for _ in 0..LINGER_PIECES {
            match self.stream.read_raw(&mut buf) {
                Ok(n) if n > 0 && n < lingering.left => lingering.left = lingering.left.saturating_sub(n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Linger::Drained,
                _ => return Linger::Over,
            }
        }
        if Instant::now() < lingering.until { Linger::More } else { Linger::Over }
    }
}
