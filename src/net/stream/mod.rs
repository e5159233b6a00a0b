//! A client's socket, with TLS or without: reads, writes and the end of a connection.

#[cfg(feature = "tls")]
mod secured;

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::sendfile::sendfile;
use nix::sys::socket::{MsgFlags, recv};
use socket2::SockRef;

use crate::base::stays::Stays;
use crate::base::sys;
use crate::net::conn_info::Socket;
#[cfg(feature = "tls")]
use crate::net::tls::{Carried, ClientRules};
#[cfg(feature = "tls")]
use secured::{Raw, RawLast, Secured};

/// A client's socket. It is always non-blocking: the flag is shared with every process that inherits the socket. A
/// clone is the same socket, for code that reads an upload or speaks another protocol, never at the same time.
#[derive(Clone, Debug)]
pub(crate) enum Stream {
    Tcp(Arc<TcpStream>),
    Unix(Arc<UnixStream>),
    #[cfg(feature = "tls")]
    Tls(Arc<Secured>),
}

/// What a stream is besides its socket, while it is on its way to another process. It has the keys of its TLS, so it is to
/// be dropped as soon as the other process has the connection, and nothing can be read or written meanwhile.
pub(crate) enum Released {
    Plain,
    /// The handshake has not started.
    #[cfg(feature = "tls")]
    NewTls,
    #[cfg(feature = "tls")]
    Tls(ClientRules, Box<Carried>),
}

impl Stream {
    pub(crate) fn new(fd: OwnedFd, is_unix: bool) -> Stream {
        if is_unix { Stream::Unix(Arc::new(fd.into())) } else { Stream::Tcp(Arc::new(fd.into())) }
    }

    /// A handle that answers questions about the client without keeping the connection open.
    pub(crate) fn socket(&self) -> Socket {
        match self {
            Stream::Tcp(s) => Socket::of(s),
            Stream::Unix(s) => Socket::of(s),
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.socket.socket(),
        }
    }

    /// Returns the number of bytes read. 0 is the end; `UnexpectedEof` is an end that TLS did not announce.
    pub(crate) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().read(&mut Raw(&s.socket), buf),
            _ => sys::recv(self.as_fd(), buf),
        })
    }

    /// Returns the number of bytes that were sent. The caller must write the rest again: with TLS, its ciphertext waits for
    /// that.
    pub(crate) fn write(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => uninterrupted(|| s.lock().write(&mut Raw(&s.socket), &[buf])),
            _ => self.send(buf, 0),
        }
    }

    /// std writes to some sockets in a way that raises SIGPIPE.
    fn send(&self, buf: &[u8], flags: libc::c_int) -> io::Result<usize> {
        uninterrupted(|| sys::send(self.as_fd(), buf, flags | libc::MSG_NOSIGNAL))
    }

    /// As `write`, for the last bytes before our FIN: one TCP segment carries both.
    pub(crate) fn write_last(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(_) => self.send(buf, libc::MSG_MORE),
            #[cfg(feature = "tls")]
            Stream::Tls(s) => uninterrupted(|| s.lock().write(&mut RawLast(&s.socket), &[buf])),
            Stream::Unix(_) => self.write(buf),
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

    /// Whether a read of `n` bytes into `room` bytes took everything.
    pub(crate) fn is_drained(&self, n: usize, room: usize) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().is_drained(),
            _ => n < room,
        }
    }

    /// Whether a read would give bytes even if the socket has none.
    pub(crate) fn has_more(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().has_more(),
            _ => false,
        }
    }

    /// Whether part of a TLS record has arrived, which a read does not give yet.
    pub(crate) fn holds_part(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().holds_part(),
            _ => false,
        }
    }

    /// Whether TLS has bytes for the client that the socket did not take.
    pub(crate) fn owes(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().owes(),
            _ => false,
        }
    }

    /// Sends what TLS owes, as far as the socket takes it. An error is that of the next read or write.
    pub(crate) fn send_owed(&self) {
        #[cfg(feature = "tls")]
        if let Stream::Tls(s) = self {
            s.lock().send_owed(&mut Raw(&s.socket));
        }
    }

    /// How many bytes it keeps. Shrinks their buffers to that size.
    pub(crate) fn hold(&self) -> usize {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().hold(),
            _ => 0,
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(_) => true,
            _ => false,
        }
    }

    /// Why it can't move to another process now, which only TLS prevents.
    pub(crate) fn stays(&self) -> Option<Stays> {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().stays(),
            _ => None,
        }
    }

    /// Takes the TLS out of it, so that another process can continue it.
    pub(crate) fn release(&self) -> Result<Released, Stays> {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.release(),
            _ => Ok(Released::Plain),
        }
    }

    /// Continues it here again.
    pub(crate) fn take_back(&self, released: Released) {
        match (self, released) {
            #[cfg(feature = "tls")]
            (Stream::Tls(s), Released::Tls(_, carried)) => s.lock().take_back(*carried),
            _ => {}
        }
    }

    /// How many bytes were decrypted and not read.
    pub(crate) fn unread(&self) -> usize {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().unread(),
            _ => 0,
        }
    }

    /// Whether the connection should end soon, because TLS may not encrypt much more with its keys.
    pub(crate) fn is_worn(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().is_worn(),
            _ => false,
        }
    }

    /// Writes the end of TLS, before `shutdown_write`. Returns whether the socket has taken all bytes.
    pub(crate) fn say_end(&self) -> io::Result<bool> {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.lock().say_end(&mut RawLast(&s.socket)),
            _ => Ok(true),
        }
    }

    /// Reads bytes of the socket, below TLS.
    pub(crate) fn read_raw(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(s) => s.socket.read(buf),
            _ => self.read(buf),
        }
    }

    /// Sends up to `n` bytes of `file`, from its position on, without copying them; 0 is its end.
    ///
    /// # Errors
    /// Those of the socket and of the file; `Unsupported` where the kernel can't do this.
    pub(crate) fn send_file(&self, file: &File, n: usize) -> io::Result<usize> {
        // Unlike a send it has no flag against SIGPIPE.
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

    /// Ends our side before this handle is dropped at once, if the close that this causes would not do so: another handle has
    /// the socket too, or TLS has to announce the end.
    pub(crate) fn end_before_close(&self) {
        let is_shared = match self {
            Stream::Tcp(s) => Arc::strong_count(s) > 1,
            Stream::Unix(s) => Arc::strong_count(s) > 1,
            #[cfg(feature = "tls")]
            Stream::Tls(_) => true,
        };
        if is_shared {
            self.shutdown_write();
        }
    }

    /// Ends our side. A close alone would take effect late if a child of ours is between fork and exec.
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

    /// Makes reads see the end behind the bytes that have arrived.
    pub(crate) fn shutdown_read(&self) {
        let _ = match self {
            Stream::Tcp(s) => s.shutdown(Shutdown::Read),
            Stream::Unix(s) => s.shutdown(Shutdown::Read),
            #[cfg(feature = "tls")]
            Stream::Tls(s) => return s.socket.shutdown_read(),
        };
    }

    /// Makes the close send a reset instead of an orderly end.
    pub(crate) fn reset_on_close(&self) {
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }

    /// The next bytes of the socket, below TLS, which stay there. 0 is the end.
    #[cfg(feature = "proxy")]
    pub(crate) fn peek_at(&self, buf: &mut [u8]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        uninterrupted(|| Ok(recv(self.as_fd().as_raw_fd(), buf, flags)?))
    }

    /// Looks what a read would give, without reading.
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

    /// Whether writes can't reach the client any more, because it has reset the connection or has closed a unix socket. A
    /// client that has only ended its own side is not gone.
    pub(crate) fn is_gone(&self) -> bool {
        // Errors and hang-ups are always reported.
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

/// The result of a [`Stream::peek`].
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn only_a_socket_with_another_handle_is_shut_before_its_close() {
        let (ours, mut client) = UnixStream::pair().unwrap();
        client.set_nonblocking(true).unwrap();
        let stream = Stream::Unix(Arc::new(ours));
        stream.end_before_close();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        let other = stream.clone();
        stream.end_before_close();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop((stream, other));
    }
}
