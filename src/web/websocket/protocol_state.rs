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

use super::closing::{ClientClose, FrameScanner, Passed};
use super::{Message, WebSocketOptions};
use crate::base::log::debug;
use crate::web::upgrade::Duplex;

/// The size of a read.
const READ_BYTES: usize = 8 << 10;
/// The longest reason of a Close, which follows the code (RFC 6455 §5.5).
const REASON_BYTES: usize = 123;

pub(super) struct ProtocolState {
    protocol: tungstenite::WebSocket<Pipe>,
    options: WebSocketOptions,
    /// When our Ping was sent, until it is answered.
    pinged: Option<Instant>,
    /// Set when we have sent a Close: the deadline for the client's answer.
    closing: Option<Instant>,
    /// Code and reason of the client's Close.
    said: Option<(u16, String)>,
    /// No further message is read or accepted.
    over: bool,
    /// Nothing can be sent either.
    broken: bool,
    moving: Moving,
}

/// Whether the WebSocket moves to the next process.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Moving {
    #[default]
    No,
    /// Its code gets no further message.
    Asked,
    /// Its code knows.
    Told,
    /// Its code is done: what was accepted is sent, and nothing more is accepted.
    Leaving,
    /// The next process reads and writes.
    Left,
    /// No process has taken it. What was read of the client is answered, then it ends here.
    CameBack,
    /// Its code was too slow to move: it ends at its next read.
    Late,
    /// It ends here.
    Never,
}

/// What a read of a WebSocket returned.
#[derive(PartialEq, Eq)]
pub(super) enum ReadOutcome {
    Message(Message),
    /// The WebSocket is closed, in order or because the client did not answer our Close.
    End,
    /// It moves to another process.
    Moving,
    Nothing,
}

/// The buffers between the protocol, which never waits, and the connection.
struct Pipe {
    io: Arc<dyn Duplex>,
    frames: FrameScanner,
    /// Bytes that are not read yet: they arrived with the handshake, or behind a frame, or turned out not to be a Close.
    early: Vec<u8>,
    /// How many bytes of `early` were read.
    early_read: usize,
    out: Vec<u8>,
    /// How many bytes of `out` were sent.
    sent: usize,
    /// How many bytes were sent in all.
    sent_in_all: u64,
    /// When the last bytes arrived.
    heard: Instant,
    /// When the client last took bytes, or there were none to take.
    taken: Instant,
}

impl ProtocolState {
    pub(super) fn new(
        io: Arc<dyn Duplex>,
        early: Vec<u8>,
        options: WebSocketOptions,
        heard: Instant,
    ) -> ProtocolState {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(options.message_bytes))
            .max_frame_size(Some(options.message_bytes));
        let frames = FrameScanner::default();
        let (out, sent, sent_in_all) = (Vec::new(), 0, 0);
        let taken = Instant::now();
        let pipe = Pipe { io, frames, early, early_read: 0, out, sent, sent_in_all, heard, taken };
        let protocol = tungstenite::WebSocket::from_raw_socket(pipe, Role::Server, Some(config));
        ProtocolState {
            protocol,
            options,
            pinged: None,
            closing: None,
            said: None,
            over: false,
            broken: false,
            moving: Moving::No,
        }
    }

    /// The WebSocket may move to another process one day.
    pub(super) fn may_move(&mut self) {
        self.protocol.get_mut().frames.keep_unfinished();
    }

    /// No process has taken it.
    pub(super) fn came_back(&mut self) {
        self.moving = Moving::CameBack;
    }

    pub(super) fn moving(&self) -> Moving {
        self.moving
    }

    /// The WebSocket is to move now. A Close under way ends here.
    pub(super) fn ask_to_move(&mut self) {
        let is_between = !self.has_close() && self.protocol.get_ref().frames.can_leave();
        if self.moving == Moving::No && self.is_open() && is_between {
            self.moving = Moving::Asked;
        }
    }

    /// The time to move is over. False for a WebSocket whose code knows that it moves.
    pub(super) fn stay(&mut self) -> bool {
        if self.moving == Moving::Asked {
            self.moving = Moving::Late;
        }
        matches!(self.moving, Moving::No | Moving::Never)
    }

    /// The WebSocket ends here.
    pub(super) fn do_not_move(&mut self) {
        self.moving = Moving::Never;
    }

    /// Sends what is owed, and returns the unread bytes when all is sent: from then on the next process reads and writes.
    pub(super) fn leave(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.over || !self.protocol.can_write() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        self.moving = Moving::Leaving;
        // A waiting Pong.
        self.pass(|protocol| protocol.flush());
        if !self.pump()? {
            return Ok(None);
        }
        self.give_up();
        self.moving = Moving::Left;
        let pipe = self.protocol.get_mut();
        let mut unread = pipe.frames.take_unfinished();
        unread.extend_from_slice(pipe.rest());
        Ok(Some(unread))
    }

    /// When the last bytes of the client arrived.
    pub(super) fn heard(&self) -> Instant {
        self.protocol.get_ref().heard
    }

    /// The received messages. Errors end the WebSocket.
    pub(super) fn take(&mut self) -> io::Result<ReadOutcome> {
        if self.moving == Moving::Late {
            self.moving = Moving::Never;
            self.close(CloseCode::Away.into(), "", Instant::now());
        }
        while !self.over {
            if matches!(self.moving, Moving::Asked | Moving::Told) {
                self.moving = Moving::Told;
                return Ok(ReadOutcome::Moving);
            }
            if self.is_choked() {
                return Ok(ReadOutcome::Nothing);
            }
            let error = match self.protocol.read() {
                Ok(tungstenite::Message::Text(text)) => {
                    return Ok(ReadOutcome::Message(Message::Text(text.as_str().to_owned())));
                }
                Ok(tungstenite::Message::Binary(bytes)) => {
                    return Ok(ReadOutcome::Message(Message::Binary(bytes)));
                }
                Ok(_) => continue,
                Err(error) => error,
            };
            return match error {
                Error::Io(e) if e.kind() == ErrorKind::WouldBlock && self.has_close() => self.take_close(),
                Error::Io(e) if e.kind() == ErrorKind::WouldBlock && self.moving == Moving::CameBack => {
                    self.moving = Moving::Never;
                    self.close(CloseCode::Away.into(), "", Instant::now());
                    Ok(ReadOutcome::Nothing)
                }
                Error::Io(e) if e.kind() == ErrorKind::WouldBlock => Ok(ReadOutcome::Nothing),
                Error::ConnectionClosed | Error::AlreadyClosed => {
                    self.over = true;
                    Ok(ReadOutcome::End)
                }
                Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) if self.closing.is_some() => {
                    self.give_up();
                    Ok(ReadOutcome::End)
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
        Ok(ReadOutcome::End)
    }

    fn has_close(&self) -> bool {
        self.protocol.get_ref().frames.said().is_some()
    }

    /// Takes the client's Close, after all messages before it were read. It is answered by the same, unless it is the answer
    /// to ours.
    fn take_close(&mut self) -> io::Result<ReadOutcome> {
        let now = Instant::now();
        let (code, reason) = match self.protocol.get_ref().frames.said() {
            None => return Ok(ReadOutcome::Nothing),
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
        Ok(ReadOutcome::End)
    }

    /// Accepts `message` for sending. Returns the value of `sent_in_all` at which it is sent.
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

    /// Sends a Close, once, unless the client has sent one.
    pub(super) fn close(&mut self, code: u16, reason: &str, now: Instant) {
        if self.is_open() {
            self.closing = Some(now + self.options.closing);
            let end = (0..=REASON_BYTES).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or(0);
            let reason = reason.get(..end).unwrap_or(reason).into();
            // A waiting Pong must be sent before it.
            self.pass(|protocol| protocol.flush());
            self.pass(|protocol| protocol.close(Some(CloseFrame { code: code.into(), reason })));
        }
    }

    /// Sends the bytes that the socket takes at once. Returns whether these were all. Errors end the WebSocket.
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
        // While nothing is read from the client, the bytes that it takes are its sign of life.
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

    /// Whether so many bytes wait for the client that nothing is read from it until it takes some, because answers to its Pings
    /// would add to them.
    pub(super) fn is_choked(&self) -> bool {
        self.unsent() > self.options.unsent_bytes
    }

    /// Whether messages can be sent.
    pub(super) fn is_open(&self) -> bool {
        !self.over && self.moving != Moving::Leaving && self.protocol.can_write()
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

    /// Ends everything: nothing can be sent or read any more.
    pub(super) fn give_up(&mut self) {
        self.over = true;
        self.broken = true;
    }

    /// Handles a violation of the protocol: the client gets a Close, and nothing more is read (RFC 6455 §7.1.7).
    fn fail(&mut self, code: CloseCode, error: &Error) -> io::Error {
        self.refuse(code, &error.to_string())
    }

    fn refuse(&mut self, code: CloseCode, text: &str) -> io::Error {
        self.close(code.into(), text, Instant::now());
        self.over = true;
        io::Error::new(ErrorKind::InvalidData, text)
    }

    /// Calls `put`, by which the protocol writes into the pipe, which accepts everything.
    fn pass(&mut self, put: impl FnOnce(&mut tungstenite::WebSocket<Pipe>) -> Result<(), Error>) {
        if let Err(e) = put(&mut self.protocol) {
            debug!("a WebSocket can't send: {e}");
        }
    }
}

impl Pipe {
    /// The bytes that are not read yet.
    fn rest(&self) -> &[u8] {
        self.early.get(self.early_read..).unwrap_or_default()
    }

    fn note_read(&mut self, bytes: usize) {
        self.early_read = self.early_read.saturating_add(bytes);
        if self.early_read >= self.early.len() {
            (self.early, self.early_read) = (Vec::new(), 0);
        } else if self.early_read > self.early.len() / 2 && self.early_read > READ_BYTES {
            // Of a long message that another process had started to read, the rest is kept once.
            self.early = self.rest().to_vec();
            self.early_read = 0;
        }
    }

    /// These are read next.
    fn put_back(&mut self, mut bytes: Vec<u8>) {
        bytes.extend_from_slice(self.rest());
        (self.early, self.early_read) = (bytes, 0);
    }

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
        // An idle WebSocket keeps no large buffer.
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
            let (n, is_new) = match self.rest().len().min(buf.len()) {
                // Bytes after a Close are ignored.
                0 if self.frames.said().is_some() => return Err(ErrorKind::WouldBlock.into()),
                0 => {
                    let n = self.io.try_read(buf)?;
                    self.heard = Instant::now();
                    (n, true)
                }
                n => {
                    if let (Some(to), Some(from)) = (buf.get_mut(..n), self.rest().get(..n)) {
                        to.copy_from_slice(from);
                    }
                    (n, false)
                }
            };
            let came = buf.get(..n).unwrap_or_default();
            let passed = self.frames.pass(came);
            let used = match passed {
                Passed::Frame(used) => used,
                Passed::Close => n,
            };
            if is_new {
                self.early.extend_from_slice(came.get(used..).unwrap_or_default());
            } else {
                self.note_read(used);
            }
            if let Some(odd) = self.frames.odd() {
                self.put_back(odd);
            }
            if passed != Passed::Close || n == 0 {
                return Ok(used);
            }
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.unsent() == 0 {
            self.taken = Instant::now();
        }
        // The bytes that were sent are removed before more are accepted.
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
