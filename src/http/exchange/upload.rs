//! A request body that its handler reads while it arrives. The handler has the reader, the exchange
//! keeps the other end of the lease and takes the connection's state back when the handler is done,
//! whatever became of the reader.

use std::io::{self, ErrorKind, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use nix::poll::PollFlags;

use super::progress::Rate;
use crate::http::codec::Decoder;
use crate::http::codec::encode::CONTINUE;
use crate::http::exchange::blocking::{wait, write_all};
use crate::net::stream::Stream;
use crate::web::body::Unreadable;

#[derive(Debug)]
pub(super) struct Upload {
    pub(super) stream: Stream,
    /// Read and not decoded.
    pub(super) input: Vec<u8>,
    pub(super) decoder: Decoder,
    pub(super) left: u64,
    /// The client waits for a 100 before it sends.
    pub(super) expects: bool,
    /// A read has failed: what comes now is no body.
    pub(super) failed: bool,
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
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for Lease {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let over = || Err(io::Error::other("the request of this body is over"));
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
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        while !self.decoder.is_done() {
            // No more than fits: content is never longer than the bytes it came in.
            let window = self.input.get(..buf.len()).unwrap_or(&self.input);
            let decoded = self
                .decoder
                .decode(window)
                .map_err(|refusal| unreadable(ErrorKind::InvalidData, refusal.status, refusal.reason))?;
            let len = window.get(decoded.data).unwrap_or_default().read(buf)?;
            self.input.drain(..decoded.consumed);
            let left = self.left.checked_sub(len as u64).filter(|left| self.decoder.announced() <= *left);
            self.left = left
                .ok_or_else(|| unreadable(ErrorKind::FileTooLarge, StatusCode::PAYLOAD_TOO_LARGE, BEYOND))?;
            if len > 0 {
                return Ok(len);
            }
            if decoded.consumed == 0 {
                self.fill()?;
            }
        }
        Ok(0)
    }

    fn fill(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.expects) {
            write_all(&self.stream, CONTINUE, self.stall)?;
        }
        let mut piece = [0; 16 << 10];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(unreadable(ErrorKind::UnexpectedEof, StatusCode::BAD_REQUEST, CUT)),
                Ok(n) => {
                    self.input.extend_from_slice(piece.get(..n).unwrap_or_default());
                    self.received = self.received.saturating_add(n as u64);
                    return Ok(());
                }
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

const BEYOND: &str = "the body is beyond its limit";
const CUT: &str = "the client ended within the body";
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
