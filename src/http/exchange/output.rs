//! Writing to the socket: what a worker has in its buffer, as far as the socket takes it.

use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::time::Instant;

use super::on_end::Ending;
use super::progress::{After, ExchangeStage};
use super::refuse::broken;
use super::{Disposition, Exchange, Flow};
use crate::base::close_reason::CloseReason;
use crate::net::stream::Stream;

/// Answers to pipelined requests are gathered up to this size, then written.
const BATCH_BYTES: usize = 64 << 10;

/// How much of what was to be written the socket took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) bytes: usize,
    pub(super) all: bool,
}

impl Sent {
    pub(super) const ALL: Sent = Sent { bytes: 0, all: true };
    pub(super) const NOTHING: Sent = Sent { bytes: 0, all: false };
}

impl Exchange<'_> {
    /// Writes what is in the buffer; ends the turn if the socket does not take it all.
    #[inline(always)]
    pub(super) fn flush(&mut self) -> Flow {
        if self.worker.out.is_empty() { ControlFlow::Continue(()) } else { self.flush_by(write_out) }
    }

    /// As `flush`, before the sending side is shut down.
    fn flush_last(&mut self) -> Flow {
        if self.worker.out.is_empty() { ControlFlow::Continue(()) } else { self.flush_by(write_last) }
    }

    #[inline(always)]
    fn flush_by(&mut self, write: impl Fn(&mut Vec<u8>, &Stream) -> io::Result<Sent>) -> Flow {
        self.turn.is_current = false;
        match write(&mut self.worker.out, &self.client.stream) {
            Ok(sent) if sent.all => {
                self.note_taken(sent.bytes);
                ControlFlow::Continue(())
            }
            Ok(sent) => ControlFlow::Break(self.park_blocked(sent)),
            Err(e) => ControlFlow::Break(broken(&e)),
        }
    }

    /// Writes what the socket takes now; the rest stays for the next flush.
    pub(super) fn try_flush(&mut self) -> io::Result<()> {
        if !self.worker.out.is_empty() {
            self.turn.is_current = false;
            let sent = write_out(&mut self.worker.out, &self.client.stream)?;
            self.note_taken(sent.bytes);
        }
        Ok(())
    }

    pub(super) fn note_taken(&mut self, bytes: usize) {
        self.client.progress.endings.note_sent(bytes);
        if let Some(blocked) = &mut self.client.progress.blocked {
            blocked.take(bytes, Instant::now());
        }
    }

    /// Notes that a response, with a body of so many bytes, is complete when the socket has all that is in the buffer now.
    #[inline(always)]
    pub(super) fn end_after_output(&mut self, ending: Option<Ending>, bytes: u64) {
        if let Some(recorder) = &self.worker.recorder {
            recorder.response_bytes(bytes);
        }
        if let Some(ending) = ending {
            self.client.progress.endings.push(ending, self.worker.out.len(), bytes);
        }
    }

    /// Continues when a response is in the buffer, or sent.
    #[inline(always)]
    pub(super) fn finish(&mut self, after: After) -> Flow {
        match after {
            After::Keep if self.worker.out.len() < BATCH_BYTES => ControlFlow::Continue(()),
            After::Keep => self.flush(),
            After::Discard => {
                let until = self.turn.now + self.common.timeouts.body_stall;
                let Some(unread) = self.unread.take() else {
                    return ControlFlow::Break(self.close(CloseReason::BodyUnread));
                };
                self.client.progress.stage = ExchangeStage::Discard { unread, until };
                ControlFlow::Continue(())
            }
            After::Close(reason) => ControlFlow::Break(self.close(reason)),
        }
    }

    /// Closes the connection once all that is written is sent.
    pub(super) fn close(&mut self, reason: CloseReason) -> Disposition {
        // A client that asked for the close sends nothing more, so no reset can destroy its response; if it does, Linux
        // lets it read what came before the reset, which the shutdown has sent. With TLS it sends close_notify: the kernel
        // would answer these unread bytes by a reset.
        let at_once = reason == CloseReason::ClientAsked
            && self.worker.input.is_empty()
            && !self.client.stream.is_tls();
        self.client.progress.stage = ExchangeStage::Closing(reason);
        match self.send_end() {
            ControlFlow::Break(disposition) => disposition,
            ControlFlow::Continue(()) if at_once => Disposition::Close(reason),
            ControlFlow::Continue(()) => Disposition::Linger(reason),
        }
    }

    /// Writes all that is left, and the end of TLS.
    fn send_end(&mut self) -> Flow {
        self.flush_last()?;
        match self.client.stream.say_end() {
            Ok(true) => ControlFlow::Continue(()),
            Ok(false) => ControlFlow::Break(self.park_blocked(Sent::NOTHING)),
            Err(e) => ControlFlow::Break(broken(&e)),
        }
    }
}

/// Writes a buffer; what the socket does not take stays in it.
#[inline(always)]
pub(super) fn write_out(out: &mut Vec<u8>, stream: &Stream) -> io::Result<Sent> {
    write_by(|rest| stream.write(rest), out)
}

/// As `write_out`, if the sending side is shut down right after it.
fn write_last(out: &mut Vec<u8>, stream: &Stream) -> io::Result<Sent> {
    write_by(|rest| stream.write_last(rest), out)
}

#[inline(always)]
fn write_by(mut write: impl FnMut(&[u8]) -> io::Result<usize>, out: &mut Vec<u8>) -> io::Result<Sent> {
    let mut bytes = 0usize;
    while let Some(rest) = out.get(bytes..).filter(|rest| !rest.is_empty()) {
        match write(rest) {
            Ok(n) => bytes = bytes.saturating_add(n),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                out.drain(..bytes);
                return Ok(Sent { bytes, all: false });
            }
            Err(e) => return Err(e),
        }
    }
    out.clear();
    Ok(Sent { bytes, all: true })
}
