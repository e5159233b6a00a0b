//! The state of a WebSocket behind its lock: received bytes, bytes to send, and deadlines. Nothing here waits.
//!
//! `tungstenite` reads without blocking and writes into a buffer. The reading thread, senders and the control loop at a
//! drain each take the lock, do what can be done, release it, and poll. So no further thread is needed, and a Close with
//! 1001 is sent wherever the WebSocket's own thread is. A client's Close is taken from its bytes before `tungstenite` reads
//! them (`closing`), because the crate refuses the registered code 1014 and reports a forbidden code as 1002.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, error::ProtocolError};

use super::closing::{ClientClose, CloseScanner};
use super::{Message, WebSocketOptions};
use crate::base::log::debug;
use crate::web::upgrade::Duplex;

/// Room for what is read at a time.
const READ_BYTES: usize = 8 << 10;
/// What a Close may say beyond its code (RFC 6455 §5.5).
const REASON_BYTES: usize = 123;

pub(super) struct ProtocolState {
    protocol: tungstenite::WebSocket<Pipe>,
    options: WebSocketOptions,
    /// Since when an answer to our Ping is waited for.
    pinged: Option<Instant>,
    /// We have said Close: until when the client may answer.
    closing: Option<Instant>,
    /// What the client's Close said.
    said: Option<(u16, String)>,
    /// Nothing more comes, and nothing more is taken.
    over: bool,
    /// Nor can anything be sent.
    broken: bool,
}

/// What a read of a WebSocket returned.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Message(Message),
    /// It is closed, in order or by the client's silence to our Close.
    End,
    Nothing,
}

/// Between the protocol, which writes without waiting, and the connection.
struct Pipe {
    io: Arc<dyn Duplex>,
    frames: CloseScanner,
    /// Came with the handshake, or turned out to be no Close; not read yet.
    early: Vec<u8>,
    out: Vec<u8>,
    /// Of `out`.
    sent: usize,
    /// Of all that was ever in `out`.
    sent_in_all: u64,
    /// When something came last.
    heard: Instant,
    /// When something was taken last, or there was nothing to take.
    taken: Instant,
}

impl ProtocolState {
    pub(super) fn new(
        io: Arc<dyn Duplex>,
        early: Vec<u8>,
        options: WebSocketOptions,
        now: Instant,
    ) -> ProtocolState {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(options.message_bytes))
            .max_frame_size(Some(options.message_bytes));
        let frames = CloseScanner::default();
        let pipe =
            Pipe { io, frames, early, out: Vec::new(), sent: 0, sent_in_all: 0, heard: now, taken: now };
        let protocol = tungstenite::WebSocket::from_raw_socket(pipe, Role::Server, Some(config));
        ProtocolState {
            protocol,
            options,
            pinged: None,
            closing: None,
            said: None,
            over: false,
            broken: false,
        }
    }

    /// The received messages. Errors end the WebSocket.
    pub(super) fn take(&mut self) -> io::Result<Received> {
        while !self.over {
            if self.is_choked() {
                return Ok(Received::Nothing);
            }
            let error = match self.protocol.read() {
                Ok(tungstenite::Message::Text(text)) => {
                    return Ok(Received::Message(Message::Text(text.as_str().to_owned())));
                }
                Ok(tungstenite::Message::Binary(bytes)) => {
                    return Ok(Received::Message(Message::Binary(bytes)));
                }
                Ok(_) => continue,
                Err(error) => error,
            };
            return match error {
                Error::Io(e) if e.kind() == ErrorKind::WouldBlock && self.has_close() => self.take_close(),
                Error::Io(e) if e.kind() == ErrorKind::WouldBlock => Ok(Received::Nothing),
                Error::ConnectionClosed | Error::AlreadyClosed => {
                    self.over = true;
                    Ok(Received::End)
                }
                Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) if self.closing.is_some() => {
                    self.give_up();
                    Ok(Received::End)
                }
                Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                    self.give_up();
                    Err(io::Error::new(ErrorKind::UnexpectedEof, "the client left without a Close"))
                }
                Error::Io(e) => {
                    self.give_up();
                    Err(e)
                }
                Error::Utf8(_) => Err(self.fail(CloseCode::Invalid, &error)),
                Error::Capacity(_) => Err(self.fail(CloseCode::Size, &error)),
                _ => Err(self.fail(CloseCode::Protocol, &error)),
            };
        }
        Ok(Received::End)
    }

    fn has_close(&self) -> bool {
        self.protocol.get_ref().frames.said().is_some()
    }

    /// All that came before it has been read. It is answered by the same, unless it answers ours.
    fn take_close(&mut self) -> io::Result<Received> {
        let now = Instant::now();
        let (code, reason) = match self.protocol.get_ref().frames.said() {
            None => return Ok(Received::Nothing),
            Some(ClientClose::Invalid(text)) => return Err(self.refuse(CloseCode::Protocol, &text)),
            Some(ClientClose::NoText) => {
                return Err(self.refuse(CloseCode::Invalid, "the reason of a Close is not UTF-8"));
            }
            Some(ClientClose::Nothing) => {
                if self.is_open() {
                    self.pass(|protocol| protocol.flush());
                    self.pass(|protocol| protocol.close(None));
                }
                (CloseCode::Status.into(), String::new())
            }
            Some(ClientClose::Reason(code, reason)) => {
                self.close(code, &reason, now);
                (code, reason)
            }
        };
        self.said = Some((code, reason));
        self.over = true;
        Ok(Received::End)
    }

    /// Takes `message` to be sent; how far `sent_in_all` gets with it.
    pub(super) fn say(&mut self, message: Message) -> io::Result<u64> {
        if !self.is_open() {
            return Err(io::Error::new(ErrorKind::BrokenPipe, "the WebSocket is closed"));
        }
        let message = match message {
            Message::Text(text) => tungstenite::Message::Text(text.into()),
            Message::Binary(bytes) => tungstenite::Message::Binary(bytes),
        };
        self.pass(|protocol| protocol.write(message));
        let pipe = self.protocol.get_ref();
        Ok(pipe.sent_in_all.saturating_add(pipe.unsent() as u64))
    }

    /// Says Close, once, unless the client has.
    pub(super) fn close(&mut self, code: u16, reason: &str, now: Instant) {
        if self.is_open() {
            self.closing = Some(now + self.options.closing);
            let end = (0..=REASON_BYTES).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or(0);
            let reason = reason.get(..end).unwrap_or(reason).into();
            // A Pong that waits must go before it.
            self.pass(|protocol| protocol.flush());
            self.pass(|protocol| protocol.close(Some(CloseFrame { code: code.into(), reason })));
        }
    }

    /// Sends what is taken at once; whether that is all. Errors end it.
    pub(super) fn pump(&mut self) -> io::Result<bool> {
        if self.broken {
            return Ok(true);
        }
        let pumped = self.protocol.get_mut().pump();
        if pumped.is_err() {
            self.give_up();
        }
        pumped
    }

    /// Handles expired deadlines; returns the next one. None: the WebSocket has ended.
    pub(super) fn due(&mut self, now: Instant) -> io::Result<Option<Instant>> {
        let pipe = self.protocol.get_ref();
        // Of one that is not listened to, what it takes is its word.
        let heard = if self.is_choked() { pipe.heard.max(pipe.taken) } else { pipe.heard };
        let stall = pipe.taken + self.options.stall;
        let mut next = match self.closing {
            Some(until) => until,
            None if self.pinged.is_some_and(|pinged| pinged >= heard) => heard + self.options.silence,
            None => heard + self.options.ping.min(self.options.silence),
        };
        if pipe.unsent() > 0 {
            next = next.min(stall);
        }
        if self.over {
            return Ok(None);
        }
        if now < next {
            return Ok(Some(next));
        }
        if self.closing.is_some_and(|until| now >= until) {
            self.over = true;
            return Ok(None);
        }
        if pipe.unsent() > 0 && now >= stall {
            self.give_up();
            return Err(io::Error::new(ErrorKind::ConnectionAborted, "the client does not read"));
        }
        if now >= heard + self.options.silence {
            self.give_up();
            return Err(io::Error::new(ErrorKind::ConnectionAborted, "the client does not answer"));
        }
        self.pinged = Some(now);
        self.pass(|protocol| protocol.write(tungstenite::Message::Ping(Vec::new().into())));
        self.pump()?;
        Ok(Some(now))
    }

    /// Whether so much waits for the client that it is not listened to before it takes some: the
    /// answers to its Pings would be more.
    pub(super) fn is_choked(&self) -> bool {
        self.unsent() > self.options.unsent_bytes
    }

    /// Whether messages can be sent.
    pub(super) fn is_open(&self) -> bool {
        !self.over && self.protocol.can_write()
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn unsent(&self) -> usize {
        self.protocol.get_ref().unsent()
    }

    pub(super) fn sent_in_all(&self) -> u64 {
        self.protocol.get_ref().sent_in_all
    }

    /// The deadline for the client to read.
    pub(super) fn stalls(&self) -> Instant {
        self.protocol.get_ref().taken + self.options.stall
    }

    pub(super) fn said(&self) -> Option<(u16, &str)> {
        self.said.as_ref().map(|(code, reason)| (*code, &**reason))
    }

    /// Nothing can be sent or read any more.
    pub(super) fn give_up(&mut self) {
        self.over = true;
        self.broken = true;
    }

    /// The client has violated the protocol: it gets a Close, and nothing more is read (RFC 6455 §7.1.7).
    fn fail(&mut self, code: CloseCode, error: &Error) -> io::Error {
        self.refuse(code, &error.to_string())
    }

    fn refuse(&mut self, code: CloseCode, text: &str) -> io::Error {
        self.close(code.into(), text, Instant::now());
        self.over = true;
        io::Error::new(ErrorKind::InvalidData, text)
    }

    /// Has the protocol put something into the pipe, which takes all of it.
    fn pass(&mut self, put: impl FnOnce(&mut tungstenite::WebSocket<Pipe>) -> Result<(), Error>) {
        if let Err(e) = put(&mut self.protocol) {
            debug!("a WebSocket can't send: {e}");
        }
    }
}

impl Pipe {
    fn unsent(&self) -> usize {
        self.out.len().saturating_sub(self.sent)
    }

    fn pump(&mut self) -> io::Result<bool> {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.io.try_write(rest) {
                Ok(n) => {
                    self.sent = self.sent.saturating_add(n);
                    self.sent_in_all = self.sent_in_all.saturating_add(n as u64);
                    self.taken = Instant::now();
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        // An idle WebSocket has no memory of what was great once.
        if self.out.capacity() > READ_BYTES {
            self.out = Vec::new();
        }
        self.out.clear();
        self.sent = 0;
        Ok(true)
    }
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let early = self.early.len().min(buf.len());
            let n = match buf.get_mut(..early).filter(|room| !room.is_empty()) {
                Some(room) => {
                    room.copy_from_slice(self.early.get(..early).unwrap_or_default());
                    self.early.drain(..early);
                    early
                }
                // Nothing counts that comes behind a Close.
                None if self.frames.said().is_some() => return Err(ErrorKind::WouldBlock.into()),
                None => self.io.try_read(buf)?,
            };
            self.heard = Instant::now();
            let passed = self.frames.pass(buf.get(..n).unwrap_or_default());
            if let Some(odd) = self.frames.odd() {
                self.early = odd;
            }
            if passed > 0 || n == 0 {
                return Ok(passed);
            }
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.unsent() == 0 {
            self.taken = Instant::now();
        }
        // What is sent makes room before more is asked for.
        if self.sent > self.out.len() / 2 {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        self.out.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
