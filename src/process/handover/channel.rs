//! The lifecycle channel: lines over a socket pair, never blocking.

use std::io::{self, ErrorKind, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt};
use nix::unistd::Pid;

use super::Message;
use crate::base::log::{debug, warn};
use crate::base::time::poll_timeout;

/// A peer that sends a longer line does not speak our protocol.
const LINE_BYTES: usize = 64 << 10;

/// One end of a lifecycle channel.
pub(crate) struct Channel {
    socket: UnixStream,
    input: Vec<u8>,
    ended: bool,
    speaker: Option<Pid>,
    /// Messages that `wait` has received and not returned.
    early: Vec<Message>,
}

impl Channel {
    /// Both ends; CLOEXEC and non-blocking.
    pub(crate) fn pair() -> io::Result<(Channel, Channel)> {
        let (a, b) = UnixStream::pair()?;
        Ok((Channel::new(a.into())?, Channel::new(b.into())?))
    }

    pub(crate) fn new(fd: OwnedFd) -> io::Result<Channel> {
        let socket = UnixStream::from(fd);
        socket.set_nonblocking(true)?;
        Ok(Channel { socket, input: Vec::new(), ended: false, speaker: None, early: Vec::new() })
    }

    /// Makes the kernel report the sender's pid: the child may be a script, with the program below it.
    pub(crate) fn pass_credentials(&self) -> io::Result<()> {
        Ok(setsockopt(&self.socket, sockopt::PassCred, &true)?)
    }

    /// The sender of the last message, if enabled.
    pub(crate) fn speaker(&self) -> Option<Pid> {
        self.speaker
    }

    /// Sends `message`. Messages are few and short: a socket buffer without room for one means that the peer has stopped
    /// reading, which its silence shows.
    pub(crate) fn send(&mut self, message: &Message) {
        let mut line = message.encode();
        line.push('\n');
        match self.socket.write(line.as_bytes()) {
            Ok(n) if n == line.len() => {}
            Ok(_) => warn!("handover: {message} was sent in part: the channel is full"),
            // The peer is gone; its end is read as such.
            Err(e) => debug!("handover: {message} not sent: {e}"),
        }
    }

    /// The messages that have arrived. The end is reported by `has_ended`, after the last message: a reset is
    /// not the end, since lines may still be queued behind it.
    pub(crate) fn receive(&mut self) -> Vec<Message> {
        let mut messages = std::mem::take(&mut self.early);
        let mut buf = [0; 4096];
        while !self.ended {
            match self.read(&mut buf) {
                Ok(0) => self.ended = true,
                Ok(n) => self.input.extend_from_slice(buf.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionReset) => {}
                Err(e) => {
                    warn!("handover: can't read the lifecycle channel: {e}");
                    self.ended = true;
                }
            }
            if self.input.len() > LINE_BYTES {
                warn!("handover: the peer does not use the handover protocol");
                self.ended = true;
            }
        }
        let complete = self.input.iter().rposition(|&b| b == b'\n').map_or(0, |last| last.saturating_add(1));
        let lines: Vec<u8> = self.input.drain(..complete).collect();
        let lines = lines.split(|&b| b == b'\n').filter(|line| !line.is_empty());
        messages.extend(lines.filter_map(decode));
        messages
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut space = nix::cmsg_space!(UnixCredentials);
        let mut parts = [IoSliceMut::new(buf)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let read = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        for message in read.cmsgs()? {
            // 0: from another pid namespace, where we can't reach it.
            match message {
                ControlMessageOwned::ScmCredentials(who) if who.pid() > 0 => {
                    self.speaker = Some(Pid::from_raw(who.pid()));
                }
                _ => {}
            }
        }
        Ok(read.bytes)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Waits for the next message; `receive` returns the ones that arrived with it.
    ///
    /// # Errors
    /// `TimedOut`, or `UnexpectedEof` if the peer is gone without one.
    pub(crate) fn wait(&mut self, time: Duration) -> io::Result<Message> {
        let deadline = Instant::now() + time;
        loop {
            let mut messages = self.receive().into_iter();
            if let Some(message) = messages.next() {
                self.early = messages.collect();
                return Ok(message);
            }
            if self.ended {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if deadline <= Instant::now() {
                return Err(ErrorKind::TimedOut.into());
            }
            match poll(
                &mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)],
                poll_timeout(Some(deadline)),
            ) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn decode(line: &[u8]) -> Option<Message> {
    let message = std::str::from_utf8(line).ok().and_then(Message::decode);
    if message.is_none() {
        debug!("handover: skipped an unknown line: {}", String::from_utf8_lossy(line));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_whole_however_they_are_cut() {
        let (mut a, mut b) = Channel::pair().unwrap();
        a.socket.write_all(b"SERV").unwrap();
        assert_eq!(b.receive(), []);
        a.socket.write_all(b"ING\nWHATEVER x=1\nSTILL-").unwrap();
        assert_eq!(b.receive(), [Message::Serving]);
        a.socket.write_all(b"GOOD\n").unwrap();
        assert_eq!(b.receive(), [Message::StillGood]);
        assert!(!b.has_ended());
    }

    #[test]
    fn messages_of_a_dead_peer_are_received_even_after_a_reset() {
        let (mut a, mut b) = Channel::pair().unwrap();
        b.send(&Message::Commit);
        a.send(&Message::Serving);
        drop(a); // with COMMIT unread: b sees a reset
        let mut received = b.receive();
        received.extend(b.receive());
        assert_eq!(received, [Message::Serving]);
        assert!(b.has_ended());
    }

    #[test]
    fn messages_behind_the_expected_one_are_not_lost() {
        let (mut a, mut b) = Channel::pair().unwrap();
        a.send(&Message::Serving);
        a.send(&Message::Closed);
        assert_eq!(b.wait(Duration::from_secs(60)).unwrap(), Message::Serving);
        assert_eq!(b.receive(), [Message::Closed]);
    }

    #[test]
    fn the_kernel_names_the_sender() {
        let (mut a, mut b) = Channel::pair().unwrap();
        b.pass_credentials().unwrap();
        a.send(&Message::Serving);
        assert_eq!((b.receive(), b.speaker()), (vec![Message::Serving], Some(nix::unistd::getpid())));
    }

    #[test]
    fn a_silent_peer_is_waited_for_until_the_timeout() {
        let (a, mut b) = Channel::pair().unwrap();
        assert_eq!(b.wait(Duration::from_millis(1)).unwrap_err().kind(), ErrorKind::TimedOut);
        drop(a);
        assert_eq!(b.wait(Duration::from_secs(60)).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
