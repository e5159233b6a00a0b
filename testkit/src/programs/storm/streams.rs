//! Clients of streams, each of which is one connection: a WebSocket whose messages are echoed, and server-sent events.
//!
//! A message with its echo, and each event, is a request with an outcome. The server ends a stream when its process drains:
//! a WebSocket by a Close with 1001, a stream of events by its event `end` and the end of the response, or by the latter alone
//! where the drain begins just before another event. These are announced ends; the client connects again. A message that crosses with a 1001 has no echo and is `crossed`: a client that receives
//! a 1001 knows which of its messages have no answer, and that the server will not answer them.

use std::time::{Duration, Instant};

use super::asking::{Mode, between};
use super::client::Client;
use super::link::{Idle, Link, Loss};
use super::tally::{End, Outcome};

/// The key and its answer are those of the example in RFC 6455.
pub(crate) const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: storm\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
pub(crate) const ACCEPTED: &str = "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=";

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// The process goes away, the service stays.
pub(crate) const GOING_AWAY: u16 = 1001;
/// How long the server's end may take after a Close.
const TO_THE_END: Duration = Duration::from_secs(1);

/// From a signal until the drain that it leads to has reached each stream.
const DRAINS_WITHIN: Duration = Duration::from_secs(10);

/// One message from the server.
enum Frame {
    Text(Vec<u8>),
    Close(u16),
    /// Answered here, or of no interest.
    Control,
}

/// One event, and the end of all.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// Its id.
    Id(u64),
    /// The last one, as the server says.
    Last,
    /// The end of the response.
    End,
}

impl Client {
    /// One connection, from its first request to its end.
    pub(crate) fn stream(&self) {
        let begin = Instant::now();
        let Some(mut link) = self.connect() else { return };
        let handshake = self.next();
        link.send(&handshake.bytes, usize::MAX, Duration::ZERO, &self.halt);
        let head = link.stream_head(&self.halt).and_then(|head| self.check(&head));
        let outcome = self.outcome_of(&head, &link, begin);
        self.tally().outcome(outcome, false);
        let end = match head {
            Err(loss) => end_after(&loss),
            Ok(()) if self.mode == Mode::WebSocket => self.echoes(&mut link),
            Ok(()) => self.events(&mut link),
        };
        self.left(end, &link);
    }

    fn check(&self, head: &str) -> Result<(), Loss> {
        let lower = head.to_ascii_lowercase();
        let as_expected = match self.mode {
            Mode::WebSocket => {
                lower.starts_with("http/1.1 101 ") && lower.lines().any(|line| line == ACCEPTED)
            }
            _ => {
                lower.starts_with("http/1.1 200 ")
                    && lower.lines().any(|line| line == "transfer-encoding: chunked")
            }
        };
        if as_expected { Ok(()) } else { Err(Loss::wrong(&format!("not a stream: {head:?}"))) }
    }

    /// The outcome of a request; a failure is noted.
    fn outcome_of<T>(&self, answer: &Result<T, Loss>, link: &Link, begin: Instant) -> Outcome {
        match answer {
            Ok(_) => {
                self.tally().answered(&self.clock, begin);
                Outcome::Ok
            }
            Err(loss) => {
                let outcome = self.named(loss.outcome, link);
                if outcome.is_failure() {
                    self.fail(outcome.name(), link, &loss.detail);
                }
                outcome
            }
        }
    }

    /// Sends messages, one after the other, and checks the echo of each.
    fn echoes(&self, link: &mut Link) -> End {
        while self.goes_on() {
            match self.watch(link) {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(loss) => return self.ended_idle(&loss, link),
            }
            if !self.goes_on() {
                break;
            }
            let begin = Instant::now();
            let id = self.next().id;
            let text = format!("storm {id:x}");
            link.send(&masked(TEXT, text.as_bytes()), usize::MAX, Duration::ZERO, &self.halt);
            let echo = self.echo(link, text.as_bytes());
            if let Ok(Some(GOING_AWAY)) = echo {
                self.tally().outcome(Outcome::Crossed, true);
                return self.close(link);
            }
            let echo = echo.and_then(|code| match code {
                None => Ok(()),
                Some(code) => Err(Loss::wrong(&format!("a Close with {code} instead of an echo"))),
            });
            let outcome = self.outcome_of(&echo, link, begin);
            self.tally().outcome(outcome, true);
            if let Err(loss) = echo {
                return end_after(&loss);
            }
        }
        End::Ours
    }

    /// Waits between two messages; the end of the connection, if the server ends it meanwhile.
    fn watch(&self, link: &mut Link) -> Result<Option<End>, Loss> {
        let think = self.pauses.think.max(Duration::from_millis(1));
        let until = Instant::now() + between([think / 2, think * 3 / 2], self.turn());
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // In slices, so that the end of the load is noticed.
            if link.has_news(left.min(Duration::from_millis(100))) {
                link.expect_now();
                match self.frame(link)? {
                    Frame::Control => {}
                    Frame::Close(GOING_AWAY) => return Ok(Some(self.close(link))),
                    Frame::Close(_) | Frame::Text(_) => return Ok(Some(End::Stray)),
                }
            } else if left.is_zero() || self.halt.is_called() {
                return Ok(None);
            }
        }
    }

    /// None: the echo; or the code of a Close in its place.
    fn echo(&self, link: &mut Link, text: &[u8]) -> Result<Option<u16>, Loss> {
        loop {
            match self.frame(link)? {
                Frame::Control => {}
                Frame::Text(echo) if echo == text => return Ok(None),
                Frame::Text(echo) => {
                    let shown = String::from_utf8_lossy(&echo[..echo.len().min(60)]).into_owned();
                    return Err(Loss::wrong(&format!("the echo of another message: {shown:?}")));
                }
                Frame::Close(code) => return Ok(Some(code)),
            }
        }
    }

    fn frame(&self, link: &mut Link) -> Result<Frame, Loss> {
        let head = link.take(2, &self.halt)?;
        let length = match head[1] {
            126 => {
                let more = link.take(2, &self.halt)?;
                usize::from(u16::from_be_bytes([more[0], more[1]]))
            }
            length if length < 126 => usize::from(length),
            _ => return Err(Loss::wrong("a masked or enormous message")),
        };
        let payload = link.take(length, &self.halt)?;
        match head[0] {
            TEXT => Ok(Frame::Text(payload)),
            CLOSE => Ok(Frame::Close(payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code)))),
            PING => {
                link.send(&masked(PONG, &payload), usize::MAX, Duration::ZERO, &self.halt);
                Ok(Frame::Control)
            }
            PONG => Ok(Frame::Control),
            other => Err(Loss::wrong(&format!("a frame that starts with {other:#x}"))),
        }
    }

    /// Answers a Close, and waits for the end of the connection.
    fn close(&self, link: &mut Link) -> End {
        let answer = masked(CLOSE, &GOING_AWAY.to_be_bytes());
        link.send(&answer, usize::MAX, Duration::ZERO, &self.halt);
        if link.idle(TO_THE_END) == Idle::Bytes { End::Stray } else { End::Announced }
    }

    /// An end while no message was under way.
    fn ended_idle(&self, loss: &Loss, link: &Link) -> End {
        match self.named(loss.outcome, link) {
            Outcome::Crashed => End::Gone,
            Outcome::Wrong => End::Stray,
            _ => End::Silent,
        }
    }

    /// Receives events, which must be complete and in order, until the server ends them.
    fn events(&self, link: &mut Link) -> End {
        let (mut text, mut last) = (String::new(), false);
        for n in 1.. {
            if !self.goes_on() {
                return End::Ours;
            }
            let begin = Instant::now();
            link.expect_now();
            let event = match self.event(link, &mut text) {
                Ok(Event::Last) if !last => {
                    last = true;
                    self.event(link, &mut text)
                }
                other => other,
            };
            let event = event.and_then(|event| match event {
                Event::End if last || self.may_drain() => Ok(false),
                Event::Id(id) if id == n && !last => Ok(true),
                other => {
                    Err(Loss::wrong(&format!("{other:?} in place of event {n}, the last one seen: {last}")))
                }
            });
            if let Ok(false) = event {
                return End::Announced;
            }
            // A wait for an event is a request once it has an outcome.
            self.tally().requests += 1;
            let outcome = match &event {
                Ok(_) => Outcome::Ok,
                Err(_) => self.outcome_of(&event, link, begin),
            };
            self.tally().outcome(outcome, true);
            if let Err(loss) = event {
                return end_after(&loss);
            }
        }
        End::Ours
    }

    /// Whether a process may have started to drain, since there was a signal.
    fn may_drain(&self) -> bool {
        self.clock.signal().is_some_and(|signal| signal.elapsed() < DRAINS_WITHIN)
    }

    /// The next event, or the end of them.
    fn event(&self, link: &mut Link, text: &mut String) -> Result<Event, Loss> {
        loop {
            while let Some((event, rest)) = text.split_once("\n\n") {
                let event = parsed(event);
                *text = rest.to_owned();
                if let Some(event) = event? {
                    return Ok(event);
                }
            }
            let size = link.take_line(&self.halt)?;
            let size = std::str::from_utf8(&size).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
            let size = size.ok_or_else(|| Loss::wrong("a chunk without a size"))?;
            let mut chunk = link.take(size + 2, &self.halt)?;
            if chunk.split_off(size) != b"\r\n" {
                return Err(Loss::wrong("a chunk of another size than it said"));
            }
            if size == 0 {
                return Ok(Event::End);
            }
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
    }
}

/// None: a comment.
fn parsed(event: &str) -> Result<Option<Event>, Loss> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    match (field("event:"), field("id:").and_then(|id| id.parse().ok())) {
        (Some("end"), _) => Ok(Some(Event::Last)),
        (None, Some(id)) => Ok(Some(Event::Id(id))),
        (None, None) if event.lines().all(|line| line.starts_with(':')) => Ok(None),
        _ => Err(Loss::wrong(&format!("an event that is none of ours: {event:?}"))),
    }
}

/// The end of a connection whose last request had this outcome.
fn end_after(loss: &Loss) -> End {
    // After a wrong answer the connection is left.
    if loss.outcome == Outcome::Wrong { End::Ours } else { End::Lost }
}

/// A frame of a client, which must be masked: by zeros, as any mask will do.
fn masked(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or(125).min(125);
    let mut frame = vec![kind, 0x80 | length, 0, 0, 0, 0];
    frame.extend_from_slice(&payload[..usize::from(length)]);
    frame
}
