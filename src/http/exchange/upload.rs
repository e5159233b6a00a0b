//! A request body that its handler reads while it arrives. The handler has the reader, the exchange
//! keeps the other end of the lease and takes the connection's state back when the handler is done,
//! whatever became of the reader.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::StatusCode;
use nix::poll::PollFlags;

use super::progress::Rate;
use crate::base::sync::lock;
use crate::http::codec::Decoder;
use crate::http::codec::encode::CONTINUE;
use crate::http::exchange::blocking::{wait, write_all};
use crate::net::stream::Stream;
use crate::web::body::Unreadable;

#[derive(Debug)]
pub(super) struct Upload {
    pub(super) stream: Stream,
    /// Read from the socket, and how much of it is decoded.
    pub(super) input: Vec<u8>,
    pub(super) used: usize,
    pub(super) decoder: Decoder,
    pub(super) left: u64,
    /// The client waits for a 100 before it sends.
    pub(super) expects: bool,
    /// A read has failed: what comes now is no body.
    pub(super) failed: bool,
    /// Of what came behind content that was read first.
    pub(super) pending: Option<io::Error>,
    pub(super) stall: Duration,
    pub(super) rate: Rate,
    pub(super) received: u64,
    /// For the client. What the handler takes is not its doing.
    pub(super) waited: Duration,
}

/// Both ends of a lease on an upload.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    held: Arc<Mutex<Held>>,
}

#[derive(Debug)]
struct Held {
    /// None while the reader has it, who may wait for the client.
    upload: Option<Upload>,
    ended: bool,
}

impl Lease {
    pub(super) fn new(upload: Upload) -> Lease {
        Lease { held: Arc::new(Mutex::new(Held { upload: Some(upload), ended: false })) }
    }

    /// Ends the lease: the reader gets errors from now on. None: a thread of the handler's is reading,
    /// and what it gets is lost.
    pub(super) fn end(&self) -> Option<Upload> {
        let mut held = self.lock();
        held.ended = true;
        held.upload.take()
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }
}

impl Read for Lease {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let over = || Err(io::Error::other("the request of this body has ended"));
        let Some(mut upload) = self.lock().upload.take() else { return over() };
        let outcome = upload.read(buf);
        upload.failed |= outcome.is_err();
        let mut held = self.lock();
        if held.ended {
            return over();
        }
        held.upload = Some(upload);
        outcome
    }
}

impl Upload {
    /// Fills `buf` with what is there, from as many chunks as that takes, and waits only for the first byte.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if let Some(e) = self.pending.take() {
            return Err(e);
        }
        let mut filled = 0usize;
        while !self.decoder.is_done() {
            if self.used == self.input.len() {
                if filled > 0 {
                    break;
                }
                self.fill()?;
            }
            match self.decode(buf.get_mut(filled..).unwrap_or_default()) {
                Ok(n) => filled = filled.saturating_add(n),
                Err(e) if filled == 0 => return Err(e),
                // Told the next time: what came before it is content.
                Err(e) => {
                    self.pending = Some(e);
                    break;
                }
            }
            if filled == buf.len() {
                break;
            }
        }
        Ok(filled)
    }

    /// Takes one step with what has come; how much content that gave.
    fn decode(&mut self, mut buf: &mut [u8]) -> io::Result<usize> {
        let unused = self.input.get(self.used..).unwrap_or_default();
        // No more than fits: content is never longer than the bytes it came in.
        let window = unused.get(..buf.len()).unwrap_or(unused);
        let decoded = self
            .decoder
            .decode(window)
            .map_err(|refusal| unreadable(ErrorKind::InvalidData, refusal.status, refusal.reason))?;
        let len = buf.write(window.get(decoded.data).unwrap_or_default())?;
        self.used = self.used.saturating_add(decoded.consumed);
        let left = self.left.checked_sub(len as u64).filter(|left| self.decoder.announced() <= *left);
        self.left =
            left.ok_or_else(|| unreadable(ErrorKind::FileTooLarge, StatusCode::PAYLOAD_TOO_LARGE, BEYOND))?;
        Ok(len)
    }

    /// What has come and is not part of what was read.
    pub(super) fn unused(&self) -> &[u8] {
        self.input.get(self.used..).unwrap_or_default()
    }

    /// Waits for bytes, once all that came are used.
    fn fill(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.expects) {
            write_all(&self.stream, CONTINUE, self.stall)?;
        }
        self.used = 0;
        self.input.resize(PIECE_BYTES, 0);
        let outcome = self.receive();
        self.input.truncate(*outcome.as_ref().unwrap_or(&0));
        let n = outcome?;
        self.received = self.received.saturating_add(n as u64);
        Ok(())
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match self.stream.read(&mut self.input) {
                Ok(0) => return Err(unreadable(ErrorKind::UnexpectedEof, StatusCode::BAD_REQUEST, CUT)),
                Ok(n) => return Ok(n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let left = self.rate.time_for(self.received).saturating_sub(self.waited);
                    let begin = Instant::now();
                    wait(&self.stream, PollFlags::POLLIN, self.stall.min(left)).map_err(in_time)?;
                    self.waited += begin.elapsed();
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// Read at a time.
const PIECE_BYTES: usize = 16 << 10;

const BEYOND: &str = "the body exceeds its limit";
const CUT: &str = "the client closed within the body";
const STALLED: &str = "the body took too long";

fn unreadable(kind: ErrorKind, status: StatusCode, reason: &'static str) -> io::Error {
    io::Error::new(kind, Unreadable { status, reason })
}

fn in_time(e: io::Error) -> io::Error {
    match e.kind() {
        ErrorKind::TimedOut => unreadable(ErrorKind::TimedOut, StatusCode::REQUEST_TIMEOUT, STALLED),
        _ => e,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::base::limits::Limits;
    use crate::http::codec::Framing;

    /// An upload of which `input` has been read, and the client, who says the rest.
    fn upload(input: &[u8]) -> (Upload, UnixStream) {
        let (client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let upload = Upload {
            stream: Stream::new(server.into(), true),
            input: input.to_vec(),
            used: 0,
            decoder: Decoder::new(Framing::Chunked, &Limits::default()),
            left: 100,
            expects: false,
            failed: false,
            pending: None,
            stall: Duration::from_secs(20),
            rate: Rate { grace: Duration::from_secs(20), bytes: 0 },
            received: 0,
            waited: Duration::ZERO,
        };
        (upload, client)
    }

    fn read(upload: &mut Upload, most: usize) -> Result<String, ErrorKind> {
        let mut buf = vec![0; most];
        let n = upload.read(&mut buf).map_err(|e| e.kind())?;
        Ok(String::from_utf8(buf[..n].to_vec()).unwrap())
    }

    #[test]
    fn a_read_gets_what_many_chunks_have() {
        let (mut upload, mut client) = upload(b"1\r\na\r\n1;x\r\nb\r\n3\r\ncd");
        assert_eq!(read(&mut upload, 3), Ok("abc".to_owned()));
        assert_eq!(read(&mut upload, 9), Ok("d".to_owned()), "and does not wait for more");
        client.write_all(b"e\r\n1\r\nf\r\n0\r\n\r\nGET").unwrap();
        assert_eq!(read(&mut upload, 9), Ok("ef".to_owned()));
        assert_eq!(read(&mut upload, 9), Ok(String::new()));
        assert_eq!(upload.unused(), b"GET");
    }

    #[test]
    fn an_error_comes_after_the_content_before_it() {
        let cases: &[(&[u8], &str, ErrorKind)] = &[
            (b"1\r\na\r\n1\r\nb\r\nx", "ab", ErrorKind::InvalidData),
            (b"1\r\na\r\n64\r\n", "a", ErrorKind::FileTooLarge),
            (b"x", "", ErrorKind::InvalidData),
        ];
        for &(input, content, kind) in cases {
            let (mut upload, _client) = upload(input);
            if !content.is_empty() {
                assert_eq!(read(&mut upload, 99), Ok(content.to_owned()));
            }
            assert_eq!(read(&mut upload, 99), Err(kind), "{}", input.escape_ascii());
        }
    }
}
