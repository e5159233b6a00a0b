//! A connection and the answers on it.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::halt::Halt;
use super::socket::{Socket, Way};
use super::tally::Outcome;

/// More than any answer asked for.
const MOST: usize = 64 << 20;

#[derive(Debug)]
pub(crate) struct Link {
    socket: Socket,
    /// Received and not used.
    input: Vec<u8>,
    /// Answers so far.
    pub(crate) answers: u64,
    /// When the way to it began, and when it was there.
    pub(crate) opened: [Instant; 2],
    /// The last answer, or its opening: when it was certainly open.
    pub(crate) quiet_since: Instant,
    /// It had ended before the first byte of the last request was sent.
    pub(crate) crossed: bool,
    /// Why the last request could not be sent completely. Its answer may have arrived nevertheless.
    unsent: Option<Errno>,
    deadline: Instant,
    patience: Duration,
    pace: Option<Pace>,
    /// Bytes received since the last pause.
    unpaused: usize,
}

/// Receives slowly: so much, then a pause.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) bytes: usize,
    pub(crate) pause: Duration,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// It announces that the connection ends with it.
    pub(crate) closes: bool,
    pub(crate) body: Vec<u8>,
}

/// No answer.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    pub(crate) outcome: Outcome,
    pub(crate) detail: String,
}

impl Loss {
    pub(crate) fn wrong(detail: &str) -> Loss {
        Loss { outcome: Outcome::Wrong, detail: detail.to_owned() }
    }
}

/// What a connection has to say that nothing was asked on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    Quiet,
    Ended,
    Reset,
    Bytes,
}

/// How a response's body ends.
enum Frame {
    Length(usize),
    Chunks,
    End,
}

impl Link {
    pub(crate) fn open(way: &Way, pace: Option<Pace>) -> Result<Link, Errno> {
        let begin = Instant::now();
        let socket = way.connect()?;
        let patience = way.patience;
        let now = Instant::now();
        Ok(Link {
            socket,
            input: Vec::new(),
            answers: 0,
            opened: [begin, now],
            quiet_since: now,
            crossed: false,
            unsent: None,
            deadline: now + patience,
            patience,
            pace,
            unpaused: 0,
        })
    }

    /// Sends the bytes in pieces, with a pause between two. What is not taken shows at the answer.
    pub(crate) fn send(&mut self, bytes: &[u8], pieces: usize, pause: Duration, halt: &Halt) {
        self.unsent = None;
        for (n, piece) in bytes.chunks(pieces).enumerate() {
            if n > 0 {
                halt.pause(pause);
            }
            if let Err(errno) = self.socket.send_all(piece) {
                self.unsent = Some(errno);
                break;
            }
        }
        self.deadline = Instant::now() + self.patience;
    }

    /// What these bytes are on the way, which must be sent next. A connection that is broken shows it at the answer.
    pub(crate) fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.socket.seal(bytes).unwrap_or_default()
    }

    /// A KeyUpdate, which must be sent next; empty where there is none.
    pub(crate) fn seal_key_update(&mut self) -> Vec<u8> {
        self.socket.seal_key_update().unwrap_or_default()
    }

    /// Sends a part of what was sealed, and the other one after the pause. What is not taken shows at the answer.
    pub(crate) fn send_sealed(&mut self, [first, second]: [&[u8]; 2], pause: impl FnOnce()) {
        self.unsent = self.socket.send_sealed(first).err();
        if self.unsent.is_none() {
            pause();
            self.unsent = self.socket.send_sealed(second).err();
        }
        self.deadline = Instant::now() + self.patience;
    }

    /// The head of the next answer with the end of its last line, which stays in the input.
    fn head(&mut self, halt: &Halt) -> Result<String, Loss> {
        loop {
            if let Some(end) = find(&self.input, b"\r\n\r\n") {
                return Ok(String::from_utf8_lossy(&self.input[..end + 2]).into_owned());
            }
            self.fill(halt)?;
        }
    }

    /// The head of an answer whose body is a stream: what follows it is taken by `take`.
    pub(crate) fn stream_head(&mut self, halt: &Halt) -> Result<String, Loss> {
        let head = self.head(halt)?;
        self.input.drain(..head.len() + 2);
        self.answers += 1;
        Ok(head)
    }

    /// So many bytes of a stream.
    pub(crate) fn take(&mut self, count: usize, halt: &Halt) -> Result<Vec<u8>, Loss> {
        while self.input.len() < count {
            self.fill(halt)?;
        }
        self.quiet_since = Instant::now();
        Ok(self.input.drain(..count).collect())
    }

    /// The rest of a line of a stream, without its end.
    pub(crate) fn take_line(&mut self, halt: &Halt) -> Result<Vec<u8>, Loss> {
        let length = loop {
            if let Some(length) = find(&self.input, b"\r\n") {
                break length;
            }
            self.fill(halt)?;
        };
        let mut line = self.take(length + 2, halt)?;
        line.truncate(length);
        Ok(line)
    }

    /// The time of an answer counts from now.
    pub(crate) fn expect_now(&mut self) {
        self.deadline = Instant::now() + self.patience;
    }

    /// Whether there is input, an end included, within `wait`; it stays there.
    pub(crate) fn has_news(&mut self, wait: Duration) -> bool {
        self.has_more() || self.socket.readable_within(wait)
    }

    /// The next answer, received slowly if that was requested.
    pub(crate) fn answer(&mut self, halt: &Halt) -> Result<Answer, Loss> {
        let head = self.head(halt)?;
        let start = head.len() + 2;
        let (status, closes, frame) = parse(&head).ok_or_else(|| Loss::wrong("no head of a response"))?;
        let (body, end) = match frame {
            Frame::Length(length) if length <= MOST => {
                while self.input.len() < start + length {
                    self.fill(halt)?;
                }
                (self.input[start..start + length].to_vec(), start + length)
            }
            Frame::Length(_) => return Err(Loss::wrong("an enormous length")),
            Frame::Chunks => self.chunks(start, halt)?,
            Frame::End => loop {
                match self.receive(halt) {
                    Ok(0) => break (self.input[start..].to_vec(), self.input.len()),
                    Ok(_) => {}
                    Err(errno) => return Err(self.loss(errno)),
                }
            },
        };
        self.input.drain(..end);
        self.answers += 1;
        self.quiet_since = Instant::now();
        Ok(Answer { status, closes, body })
    }

    /// Where a chunked body that starts at `at` ends.
    fn chunks(&mut self, mut at: usize, halt: &Halt) -> Result<(Vec<u8>, usize), Loss> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(length) = find(&self.input[at..], b"\r\n") {
                    break at..at + length;
                }
                self.fill(halt)?;
            };
            let size = std::str::from_utf8(&self.input[line.clone()]).ok();
            let size =
                size.and_then(|size| usize::from_str_radix(size, 16).ok()).filter(|size| *size <= MOST);
            let size = size.ok_or_else(|| Loss::wrong("a chunk without a size"))?;
            let data = line.end + 2;
            while self.input.len() < data + size + 2 {
                self.fill(halt)?;
            }
            body.extend_from_slice(&self.input[data..data + size]);
            if self.input[data + size..data + size + 2] != *b"\r\n" {
                return Err(Loss::wrong("a chunk of another size than it said"));
            }
            at = data + size + 2;
            if size == 0 {
                return Ok((body, at));
            }
        }
    }

    fn fill(&mut self, halt: &Halt) -> Result<(), Loss> {
        match self.receive(halt) {
            Ok(0) => Err(self.cut()),
            Ok(_) => Ok(()),
            Err(errno) => Err(self.loss(errno)),
        }
    }

    fn receive(&mut self, halt: &Halt) -> Result<usize, Errno> {
        if Instant::now() > self.deadline {
            return Err(Errno::EAGAIN);
        }
        let mut buf = [0; 16 << 10];
        let n = self.socket.receive(&mut buf)?;
        self.input.extend_from_slice(&buf[..n]);
        if let Some(pace) = self.pace {
            self.unpaused += n;
            if self.unpaused >= pace.bytes {
                self.unpaused = 0;
                halt.pause(pace.pause);
            }
        }
        Ok(n)
    }

    fn cut(&self) -> Loss {
        // A failed send has used up the reset, the end is all that is left to see.
        match self.unsent {
            Some(errno) => self.loss(errno),
            None => Loss {
                outcome: Outcome::Cut,
                detail: format!("the end after {} bytes of the answer", self.input.len()),
            },
        }
    }

    fn loss(&self, errno: Errno) -> Loss {
        let outcome = match errno {
            Errno::EAGAIN | Errno::ETIMEDOUT => Outcome::Timeout,
            Errno::EBADMSG => Outcome::Wrong,
            _ => Outcome::Reset,
        };
        let fault = self.socket.fault().unwrap_or_default();
        Loss { outcome, detail: format!("{errno} {fault} after {} bytes of the answer", self.input.len()) }
    }

    /// Input that arrived before the request is sent.
    pub(crate) fn look_for_crossing(&mut self) {
        let mut buf = [0; 16];
        let came = self.socket.readable_within(Duration::ZERO).then(|| self.socket.receive(&mut buf));
        self.crossed = came == Some(Ok(0));
        if let Some(Ok(n)) = came {
            self.input.extend_from_slice(&buf[..n]);
        }
    }

    /// Whether more bytes have arrived than were requested.
    pub(crate) fn has_more(&self) -> bool {
        !self.input.is_empty()
    }

    /// Input that arrives within `wait` without a request.
    pub(crate) fn idle(&mut self, wait: Duration) -> Idle {
        if self.has_more() {
            return Idle::Bytes;
        }
        if !self.socket.readable_within(wait) {
            return Idle::Quiet;
        }
        match self.socket.receive(&mut [0; 16]) {
            Ok(0) => Idle::Ended,
            Ok(_) | Err(Errno::EBADMSG) => Idle::Bytes,
            Err(_) => Idle::Reset,
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The status, whether the head announces a close, and how the body ends.
fn parse(head: &str) -> Option<(u16, bool, Frame)> {
    let mut lines = head.lines();
    let status: u16 = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let (mut closes, mut frame) = (false, Frame::End);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("connection") {
            closes = value.eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("content-length") {
            frame = Frame::Length(value.parse().ok()?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            frame = Frame::Chunks;
        }
    }
    let bodiless = matches!(status, 204 | 304);
    Some((status, closes, if bodiless { Frame::Length(0) } else { frame }))
}
