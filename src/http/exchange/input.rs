//! The bytes a worker has read and not used. One buffer per worker: a parked connection takes
//! along only what is left in it.

use std::io::{self, ErrorKind};

use crate::net::stream::Stream;

const SIZE: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Input {
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// Bytes; `drained`: all that were there, by a read that left room.
    Bytes {
        drained: bool,
    },
    Nothing,
    End,
}

impl Input {
    pub(super) fn new() -> Input {
        Input { buf: vec![0; SIZE], start: 0, end: 0 }
    }

    /// Starts anew with what a connection brings along.
    pub(super) fn load(&mut self, bytes: &[u8]) {
        (self.start, self.end) = (0, 0);
        if bytes.len() >= self.buf.len() {
            self.buf.resize(bytes.len().saturating_add(SIZE), 0);
        }
        if let Some(room) = self.buf.get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            self.end = bytes.len();
        }
    }

    pub(super) fn unused(&self) -> &[u8] {
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

    /// Takes what is left, to park with.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let rest = self.unused().to_vec();
        (self.start, self.end) = (0, 0);
        // A head near its limit made it grow; the next connection needs no more than most.
        if self.buf.len() > 4 * SIZE {
            self.buf.truncate(SIZE);
            self.buf.shrink_to_fit();
        }
        rest
    }

    /// Reads once. What may stay in the buffer is bounded by who parses it.
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
            // Of a request its own framing tells whether it is whole.
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(Filled::End),
            Err(e) => Err(e),
        }
    }
}
