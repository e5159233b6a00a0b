//! A request body that its handler reads while it arrives. The reader leases the connection's state; the exchange keeps the
//! other end of the lease and takes the state back when the handler returns, even if the reader still exists.

use std::io::{self, ErrorKind, Read, Write};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::StatusCode;
use nix::poll::PollFlags;

use super::progress::{After, ExchangeStage, Unread};
use super::read_head::RoutedRequest;
use super::stall_limits::StallLimits;
use super::{Disposition, Exchange, Flow, Progress};
use crate::base::close_reason::CloseReason;
use crate::base::sync::lock;
use crate::http::codec::Decoder;
use crate::http::codec::encode::CONTINUE;
use crate::http::exchange::blocking::{wait, write_all};
use crate::net::connection::Ready;
use crate::net::scheduler::queue::Queue;
use crate::net::stream::Stream;
use crate::web::body::{BodyError, BodyKind};
use crate::web::handler::call_deadline::Deadline;

/// A streaming request that waits for a streaming permit.
pub(super) struct PendingUpload {
    pub(super) request: RoutedRequest,
    pub(super) decoder: Decoder,
}

/// The permit of a worker to read a streaming upload: only a share of the workers reads one at a time.
pub(super) struct StreamingPermit<'a>(&'a Queue<Ready<Progress>>);

impl<'a> StreamingPermit<'a> {
    /// None if all permits are taken.
    fn take(queue: &'a Queue<Ready<Progress>>) -> Option<StreamingPermit<'a>> {
        queue.try_acquire_permit().then(|| StreamingPermit(queue))
    }

    /// The permit that the queue gave out together with a connection.
    pub(super) fn taken_with(queue: &'a Queue<Ready<Progress>>) -> StreamingPermit<'a> {
        StreamingPermit(queue)
    }
}

impl Drop for StreamingPermit<'_> {
    fn drop(&mut self) {
        self.0.release_permit();
    }
}

impl Exchange<'_> {
    /// Calls a handler that reads the body while it arrives, on this worker, once a streaming permit is free.
    pub(super) fn upload(&mut self, pending: Box<PendingUpload>) -> Flow {
        self.client.progress.stage = ExchangeStage::Upload(pending);
        // Answers to earlier requests must not wait for this body.
        self.flush()?;
        let Some(permit) = self.permit.take().or_else(|| StreamingPermit::take(self.queue)) else {
            return ControlFlow::Break(self.rest(Disposition::WaitForPermit));
        };
        let ExchangeStage::Upload(pending) = std::mem::take(&mut self.client.progress.stage) else {
            return ControlFlow::Continue(());
        };
        let flow = self.call_with_upload(*pending);
        drop(permit);
        flow
    }

    fn call_with_upload(&mut self, pending: PendingUpload) -> Flow {
        let PendingUpload { mut request, decoder } = pending;
        let RoutedRequest { head, route } = &mut request;
        let limit = route.rules().limits.body_bytes.unwrap_or(self.common.limits.body_bytes);
        let length = decoder.remaining_hint();
        let deadline = route.deadline();
        let lease = Lease::new(Upload {
            stream: self.client.stream.clone(),
            input: self.worker.input.take(),
            used: 0,
            decoder,
            left: limit,
            expects_continue: head.expect_continue,
            failed: false,
            pending: None,
            patience: self.body_patience(&route.rules().limits),
            received: 0,
            waited: Duration::ZERO,
            deadline: deadline.clone(),
        });
        if let Some(request) = &mut head.request {
            *request.body_mut().kind_mut() =
                BodyKind::Source { source: Box::new(lease.clone()), left: length };
        }
        self.prepare_call(route)?;
        self.call(head, route, deadline, |exchange| {
            exchange.drained = false;
            let Some(upload) = lease.end() else { return After::Close(CloseReason::BodyUnread) };
            exchange.worker.input.load(upload.unused());
            // Where the length is unknown, as much is dropped as the handler might have read.
            let discard_bytes = exchange.common.limits.discard_bytes;
            let budget = if length.is_some() { discard_bytes } else { discard_bytes.max(limit) };
            let (after, unread) = upload.after(budget);
            exchange.unread = unread;
            after
        })
    }
}

struct Upload {
    stream: Stream,
    /// Bytes that were read from the socket; `used` of them are decoded.
    input: Vec<u8>,
    used: usize,
    decoder: Decoder,
    /// Bytes of content that are still allowed.
    left: u64,
    /// The client waits for a 100 before it sends.
    expects_continue: bool,
    /// A read has failed: no more content follows.
    failed: bool,
    /// An error that occurred after content; the content is read first.
    pending: Option<io::Error>,
    patience: StallLimits,
    received: u64,
    /// The sum of all waits for the client. The time that the handler takes does not count.
    waited: Duration,
    /// The handler's. When it has passed, reads fail and nothing is written.
    deadline: Option<Deadline>,
}

/// Both ends of a lease on an upload.
#[derive(Clone)]
struct Lease {
    held: Arc<Mutex<LeasedUpload>>,
}

struct LeasedUpload {
    /// None while the reader has it. It may wait for the client.
    upload: Option<Upload>,
    ended: bool,
}

impl Lease {
    fn new(upload: Upload) -> Lease {
        Lease { held: Arc::new(Mutex::new(LeasedUpload { upload: Some(upload), ended: false })) }
    }

    /// Ends the lease: the reader gets errors from now on. None if a thread of the handler's is reading;
    /// the bytes that it gets are lost.
    fn end(&self) -> Option<Upload> {
        let mut held = self.lock();
        held.ended = true;
        held.upload.take()
    }

    fn lock(&self) -> MutexGuard<'_, LeasedUpload> {
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
                // The next read gets the error, because this one has content.
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

    /// Decodes one step of the received bytes. Returns the length of the content.
    fn decode(&mut self, mut buf: &mut [u8]) -> io::Result<usize> {
        let unused = self.input.get(self.used..).unwrap_or_default();
        // At most as many bytes as `buf` holds, because the content is never longer than the encoded bytes.
        let window = unused.get(..buf.len()).unwrap_or(unused);
        let decoded = self
            .decoder
            .decode(window)
            .map_err(|refusal| body_error(ErrorKind::InvalidData, refusal.status, refusal.reason))?;
        let len = buf.write(window.get(decoded.data).unwrap_or_default())?;
        self.used = self.used.saturating_add(decoded.consumed);
        let left = self.left.checked_sub(len as u64).filter(|left| self.decoder.announced() <= *left);
        self.left =
            left.ok_or_else(|| body_error(ErrorKind::FileTooLarge, StatusCode::PAYLOAD_TOO_LARGE, BEYOND))?;
        Ok(len)
    }

    /// What happens to the connection after the response, if up to `budget` bytes may be dropped before the next request.
    fn after(self, budget: u64) -> (After, Option<Box<Unread>>) {
        let beyond = self.decoder.announced() > budget;
        if self.decoder.is_done() {
            (After::Keep, None)
        } else if self.expects_continue || self.failed || self.pending.is_some() || beyond {
            // The client was never asked to send it, or it is malformed, or too long. The response announces the close.
            (After::Close(CloseReason::BodyUnread), None)
        } else {
            (After::Discard, Some(Box::new(Unread { decoder: self.decoder, budget })))
        }
    }

    /// Bytes that have arrived and are not decoded.
    fn unused(&self) -> &[u8] {
        self.input.get(self.used..).unwrap_or_default()
    }

    /// Waits for bytes, once all that have arrived are used.
    fn fill(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.expects_continue) {
            self.send_continue()?;
        }
        self.used = 0;
        self.input.resize(PIECE_BYTES, 0);
        let outcome = self.receive();
        self.input.truncate(*outcome.as_ref().unwrap_or(&0));
        let n = outcome?;
        self.received = self.received.saturating_add(n as u64);
        Ok(())
    }

    fn send_continue(&self) -> io::Result<()> {
        match &self.deadline {
            None => write_all(&self.stream, CONTINUE, self.patience.stall),
            // Everything before it is sent, so the socket takes it at once.
            Some(deadline) => match deadline.while_open(|| self.stream.write(CONTINUE)) {
                Some(Ok(n)) if n == CONTINUE.len() => Ok(()),
                Some(sent) => sent.and(Err(ErrorKind::WriteZero.into())),
                None => Err(too_late()),
            },
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            if self.deadline.as_ref().is_some_and(Deadline::is_past) {
                return Err(too_late());
            }
            match self.stream.read(&mut self.input) {
                Ok(0) => return Err(body_error(ErrorKind::UnexpectedEof, StatusCode::BAD_REQUEST, CUT)),
                Ok(n) => return Ok(n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let left = self.patience.time_for(self.received).saturating_sub(self.waited);
                    let begin = Instant::now();
                    let time = self.patience.stall.min(left);
                    let until = self.deadline.as_ref().map(|it| it.at().saturating_duration_since(begin));
                    match until.filter(|until| *until < time) {
                        // The next step notices that it is too late.
                        Some(until) => wait(&self.stream, PollFlags::POLLIN, until).or_else(if_timed_out)?,
                        None => wait(&self.stream, PollFlags::POLLIN, time).map_err(in_time)?,
                    }
                    self.waited += begin.elapsed();
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// The size of a read.
const PIECE_BYTES: usize = 16 << 10;

const BEYOND: &str = "the body exceeds its limit";
const CUT: &str = "the client closed within the body";
const STALLED: &str = "the body took too long";
const TOO_LATE: &str = "the handler's deadline has passed";

fn body_error(kind: ErrorKind, status: StatusCode, reason: &'static str) -> io::Error {
    io::Error::new(kind, BodyError { status, reason })
}

fn too_late() -> io::Error {
    body_error(ErrorKind::TimedOut, StatusCode::SERVICE_UNAVAILABLE, TOO_LATE)
}

/// The end of a wait that is no error.
fn if_timed_out(e: io::Error) -> io::Result<()> {
    if e.kind() == ErrorKind::TimedOut { Ok(()) } else { Err(e) }
}

fn in_time(e: io::Error) -> io::Error {
    match e.kind() {
        ErrorKind::TimedOut => body_error(ErrorKind::TimedOut, StatusCode::REQUEST_TIMEOUT, STALLED),
        _ => e,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::base::limits::Limits;
    use crate::http::codec::Framing;

    /// An upload of which `input` has arrived, and its client, which may send more.
    fn upload(input: &[u8]) -> (Upload, UnixStream) {
        let (client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let upload = Upload {
            stream: Stream::Unix(Arc::new(server)),
            input: input.to_vec(),
            used: 0,
            decoder: Decoder::new(Framing::Chunked, &Limits::default()),
            left: 100,
            expects_continue: false,
            failed: false,
            pending: None,
            patience: StallLimits { stall: Duration::from_secs(20), grace: Duration::from_secs(20), rate: 0 },
            received: 0,
            waited: Duration::ZERO,
            deadline: None,
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
