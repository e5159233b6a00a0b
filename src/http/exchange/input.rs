//! The bytes that a worker has read and not used. One buffer per worker: a parked connection keeps
//! only what is left in it.
//!
//! **A read that leaves room has drained the socket**, so no second read asks for EAGAIN. Except when the event said
//! that the peer has closed: its FIN came with the bytes and is not announced again.

use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::time::Instant;

use super::refuse::broken;
use super::{Exchange, Flow};
use crate::net::stream::Stream;

const SIZE: usize = 64 << 10;

pub(super) struct Input {
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

/// The outcome of a read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    Bytes {
        /// The read left room in the buffer: the socket has no more bytes.
        drained: bool,
    },
    Nothing,
    End,
}

impl Exchange<'_> {
    /// As `fill`, for the next bytes of a body. Ends the turn instead, when its time is over.
    pub(super) fn refill(&mut self) -> Flow<Filled> {
        if !self.drained {
            self.turn.now = Instant::now();
            if self.is_over() {
                return ControlFlow::Break(self.requeue());
            }
        }
        self.turn.is_current = false;
        self.fill()
    }

    /// Reads once, unless the socket is known to be empty.
    #[inline(always)]
    pub(super) fn fill(&mut self) -> Flow<Filled> {
        if std::mem::take(&mut self.drained) { ControlFlow::Continue(Filled::Nothing) } else { self.read() }
    }

    fn read(&mut self) -> Flow<Filled> {
        self.turn.is_current &= self.turn.served == 0;
        match self.worker.input.fill(&self.client.stream) {
            Ok(filled) => {
                if let Filled::Bytes { drained } = filled {
                    // An end that was announced with the bytes is not announced again.
                    self.drained = drained && !self.client.poll.may_have_ended;
                }
                ControlFlow::Continue(filled)
            }
            Err(e) => ControlFlow::Break(broken(&e)),
        }
    }
}

impl Input {
    pub(super) fn new() -> Input {
        Input { buf: vec![0; SIZE], start: 0, end: 0 }
    }

    /// Starts with the bytes that a connection has kept.
    pub(super) fn load(&mut self, bytes: &[u8]) {
        (self.start, self.end) = (0, 0);
        if bytes.is_empty() {
            return;
        }
        if bytes.len() >= self.buf.len() {
            self.buf.resize(bytes.len().saturating_add(SIZE), 0);
        }
        if let Some(room) = self.buf.get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            self.end = bytes.len();
        }
    }

    pub(super) fn unused(&self) -> &[u8] {
        if self.is_empty() {
            return &[];
        }
        self.buf.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn unused_mut(&mut self) -> &mut [u8] {
        self.buf.get_mut(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_add(n);
        debug_assert!(self.start <= self.end);
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Takes the bytes that are not used.
    #[inline]
    pub(super) fn take(&mut self) -> Vec<u8> {
        if self.is_empty() && self.buf.len() <= 4 * SIZE { Vec::new() } else { self.take_rest() }
    }

    fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.unused().to_vec();
        (self.start, self.end) = (0, 0);
        // A head near its limit made the buffer grow; few connections need that.
        if self.buf.len() > 4 * SIZE {
            self.buf.truncate(SIZE);
            self.buf.shrink_to_fit();
        }
        rest
    }

    /// Reads once. The parsers bound what may stay in the buffer.
    #[inline(always)]
    pub(super) fn fill(&mut self, stream: &Stream) -> io::Result<Filled> {
        if self.end == self.buf.len() {
            if self.start > 0 {
                self.buf.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end.saturating_sub(self.start));
            } else {
                self.buf.resize(self.buf.len().saturating_mul(2), 0);
            }
        }
        let room = self.buf.get_mut(self.end..).unwrap_or_default();
        match stream.read(room) {
            Ok(0) => Ok(Filled::End),
            Ok(n) => {
                let drained = stream.is_drained(n, room.len());
                self.end = self.end.saturating_add(n);
                Ok(Filled::Bytes { drained })
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(Filled::Nothing),
            // The framing of a request shows whether it is complete.
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(Filled::End),
            Err(e) => Err(e),
        }
    }
}
