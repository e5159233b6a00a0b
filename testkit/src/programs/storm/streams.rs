//! Clients of streams, each of which is one connection and moves with its handler to each successor: a WebSocket that counts its
//! messages, and server-sent events.
//!
//! A message with its answer, and each event, is a request with an outcome. The server ends a stream at a stop, or where the
//! successor does not continue it: a WebSocket by a Close with 1001, a stream of events by the complete end of the response. These
//! are announced ends; the client connects again. A message that crosses with a 1001 has no answer and is `crossed`: a client that
//! receives a 1001 knows which of its messages have no answer, and that the server will not answer them.

use std::time::{Duration, Instant};

use super::asking::{Mode, between, mix};
use super::client::{AFTER_REFUSAL, Client};
use super::link::{Idle, Link, Loss};
use super::messages::{self, CLOSE, LAST, PING, PONG, TEXT};
use super::tally::{End, Outcome};

/// The key and its answer are those of the example in RFC 6455.
pub(crate) const HANDSHAKE: &str = "GET /ws/count HTTP/1.1\r\nHost: storm\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
pub(crate) const ACCEPTED: &str = "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=";

/// The process goes away, the service stays.
pub(crate) const GOING_AWAY: u16 = 1001;
/// How long the server's end may take after a Close.
const TO_THE_END: Duration = Duration::from_secs(1);

/// From a signal until the drain that it leads to has reached each stream.
const DRAINS_WITHIN: Duration = Duration::from_secs(10);

/// The bytes of a message that are sent one by one, at most: enough for some short messages.
const BYTE_BY_BYTE: usize = 150;
const BETWEEN_BYTES: Duration = Duration::from_millis(1);

/// One message from the server.
enum Frame {
    Text(Vec<u8>),
    Close(u16),
    /// Answered here, or of no interest.
    Control,
}

/// An event's id, and the process that has sent it.
type Event = (u64, u64);

/// What a WebSocket has had.
#[derive(Default)]
struct Counts {
    answers: u64,
    /// Sent, and the number of the last one that was answered.
    pings: u64,
    pongs: u64,
}

impl Client {
    /// One connection, from its first request to its end.
    pub(crate) fn stream(&self) {
        let begin = Instant::now();
        let Some(mut link) = self.connect() else { return };
        let handshake = self.next();
        link.send(&handshake.bytes, usize::MAX, Duration::ZERO, &self.halt);
        let head = link.stream_head(&self.halt);
        if self.alternates && head.as_ref().is_ok_and(|head| head.starts_with("HTTP/1.1 404 ")) {
            // The other version has no streams that move.
            self.tally().outcome(Outcome::Ok, false);
            self.left(End::Ours, &link);
            return self.halt.pause(AFTER_REFUSAL);
        }
        let head = head.and_then(|head| self.check(&head));
        let outcome = self.outcome_of(&head, &link, begin);
        self.tally().outcome(outcome, false);
        let end = match head {
            Err(loss) => end_after(&loss),
            Ok(()) if self.mode == Mode::WebSocket => self.messages(&mut link),
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

    /// Sends messages, some at once, and checks that each is counted once.
    fn messages(&self, link: &mut Link) -> End {
        let mut counts = Counts::default();
        while self.goes_on() {
            match self.watch(link, &mut counts) {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(loss) => return self.ended_idle(&loss, link),
            }
            if !self.goes_on() {
                break;
            }
            let ids: Vec<u64> = (0..self.mode.depth()).map(|_| self.next().id).collect();
            let bytes = messages::batch(&ids, &mut counts.pings);
            let open_at = link.quiet_since;
            self.send_messages(link, &bytes);
            let begin = Instant::now();
            for left in (1..=ids.len()).rev() {
                let answer = self.count(link, &mut counts, left == 1);
                if let Ok(Some(GOING_AWAY)) = answer {
                    (0..left).for_each(|_| self.tally().outcome(Outcome::Crossed, true));
                    return self.close(link);
                }
                let answer = answer.and_then(|code| match code {
                    None => Ok(()),
                    Some(code) => Err(Loss::wrong(&format!("a Close with {code} instead of a count"))),
                });
                if answer.is_err() {
                    // Answers to the first part may have waited here over the handover.
                    link.quiet_since = open_at;
                }
                let outcome = self.outcome_of(&answer, link, begin);
                let lost = if answer.is_err() { left } else { 1 };
                (0..lost).for_each(|_| self.tally().outcome(outcome, true));
                if let Err(loss) = answer {
                    return end_after(&loss);
                }
            }
        }
        End::Ours
    }

    /// Sends them at once, byte by byte, or in two parts, of which the second follows a handover.
    fn send_messages(&self, link: &mut Link, bytes: &[u8]) {
        let (first, rest) = bytes.split_at(bytes.len().min(BYTE_BY_BYTE));
        match mix(self.turn()) % 4 {
            0 => link.send(bytes, usize::MAX, Duration::ZERO, &self.halt),
            1 => {
                link.send(first, 1, BETWEEN_BYTES, &self.halt);
                link.send(rest, usize::MAX, Duration::ZERO, &self.halt);
            }
            _ => self.send_halves(link, bytes),
        }
    }

    /// Waits between two messages; the end of the connection, if the server ends it meanwhile.
    fn watch(&self, link: &mut Link, counts: &mut Counts) -> Result<Option<End>, Loss> {
        let think = self.pauses.think.max(Duration::from_millis(1));
        let until = Instant::now() + between([think / 2, think * 3 / 2], self.turn());
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // In slices, so that the end of the load is noticed.
            if link.has_news(left.min(Duration::from_millis(100))) {
                link.expect_now();
                match self.frame(link, counts)? {
                    Frame::Control => {}
                    Frame::Close(GOING_AWAY) => return Ok(Some(self.close(link))),
                    Frame::Close(_) | Frame::Text(_) => return Ok(Some(End::Stray)),
                }
            } else if left.is_zero() || self.halt.is_called() {
                return Ok(None);
            }
        }
    }

    /// None: the next count; or the code of a Close in its place.
    fn count(&self, link: &mut Link, counts: &mut Counts, is_last: bool) -> Result<Option<u16>, Loss> {
        let text = loop {
            match self.frame(link, counts)? {
                Frame::Control => {}
                Frame::Text(text) => break text,
                Frame::Close(code) => return Ok(Some(code)),
            }
        };
        counts.answers += 1;
        let expected = counts.answers.to_string();
        if text != expected.as_bytes() {
            let shown = String::from_utf8_lossy(&text[..text.len().min(60)]);
            return Err(Loss::wrong(&format!("{shown:?} in place of the count {expected}")));
        }
        // A Ping came before the end of a message, and so does its Pong. A later one answers all.
        if is_last && counts.pongs != counts.pings {
            return Err(Loss::wrong(&format!(
                "Ping {} without a Pong, the last one {}",
                counts.pings, counts.pongs
            )));
        }
        Ok(None)
    }

    fn frame(&self, link: &mut Link, counts: &mut Counts) -> Result<Frame, Loss> {
        let head = link.take(2, &self.halt)?;
        // Neither counts nor control frames are longer.
        if head[1] >= 126 {
            return Err(Loss::wrong("a masked or a long message"));
        }
        let payload = link.take(usize::from(head[1]), &self.halt)?;
        match head[0] ^ LAST {
            TEXT => Ok(Frame::Text(payload)),
            CLOSE => Ok(Frame::Close(payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code)))),
            PING => {
                let pong = messages::frame(LAST | PONG, &payload, self.turn());
                link.send(&pong, usize::MAX, Duration::ZERO, &self.halt);
                Ok(Frame::Control)
            }
            PONG => {
                let number = payload.try_into().map_or(0, u64::from_be_bytes);
                if number <= counts.pongs || number > counts.pings {
                    let Counts { pings, pongs, .. } = counts;
                    return Err(Loss::wrong(&format!("Pong {number} after Pong {pongs} of {pings} Pings")));
                }
                counts.pongs = number;
                Ok(Frame::Control)
            }
            _ => Err(Loss::wrong(&format!("a frame that starts with {:#x}", head[0]))),
        }
    }

    /// Answers a Close, and waits for the end of the connection.
    fn close(&self, link: &mut Link) -> End {
        let answer = messages::frame(LAST | CLOSE, &GOING_AWAY.to_be_bytes(), self.turn());
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
        let (mut text, mut pids) = (String::new(), [0, 0]);
        for n in 1.. {
            if !self.goes_on() {
                return End::Ours;
            }
            let begin = Instant::now();
            link.expect_now();
            let event = self.event(link, &mut text).and_then(|event| match event {
                None if self.may_drain() => Ok(false),
                Some((id, pid)) if id == n && self.is_in_order(&mut pids, pid) => Ok(true),
                other => Err(Loss::wrong(&format!("{other:?} in place of event {n} of {pids:?}"))),
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

    /// Whether it is of the process that sent the last event, or of a later one. The pids are that one's and the one's before.
    fn is_in_order(&self, pids: &mut [u64; 2], pid: u64) -> bool {
        let [former, last] = *pids;
        if pid != last {
            *pids = [last, pid];
            self.tally().travelled += u64::from(last != 0);
        }
        pid != former
    }

    /// Whether a process may have started to drain, since there was a signal.
    fn may_drain(&self) -> bool {
        self.clock.signal().is_some_and(|signal| signal.elapsed() < DRAINS_WITHIN)
    }

    /// The next event; None: the end of the response.
    fn event(&self, link: &mut Link, text: &mut String) -> Result<Option<Event>, Loss> {
        loop {
            while let Some((event, rest)) = text.split_once("\n\n") {
                let event = parsed(event);
                *text = rest.to_owned();
                if let Some(event) = event? {
                    return Ok(Some(event));
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
                return Ok(None);
            }
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
    }
}

/// None: a comment.
fn parsed(event: &str) -> Result<Option<Event>, Loss> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    match [field("id:"), field("data:")].map(|value| value?.parse().ok()) {
        [Some(id), Some(pid)] => Ok(Some((id, pid))),
        _ if event.lines().all(|line| line.starts_with(':')) => Ok(None),
        _ => Err(Loss::wrong(&format!("an event that is none of ours: {event:?}"))),
    }
}

/// The end of a connection whose last request had this outcome.
fn end_after(loss: &Loss) -> End {
    // After a wrong answer the connection is left.
    if loss.outcome == Outcome::Wrong { End::Ours } else { End::Lost }
}
