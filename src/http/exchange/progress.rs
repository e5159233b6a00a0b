//! Where an exchange is: what a connection takes along while it rests.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Version};

use super::collect::Collecting;
use super::ending::Ending;
use super::ending::Endings;
use super::outgoing::Outgoing;
use crate::base::budget::Share;
use crate::base::close_reason::CloseReason;
use crate::http::codec::{Decoder, Scan};
use crate::net::connection::Portable;
use crate::web::handler::RouteMatch;

/// Where an exchange is, while its connection rests.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(super) stage: Stage,
    /// Goes out before anything else.
    pub(super) unsent: Vec<u8>,
    /// Of what is in there, or in the worker's buffer.
    pub(super) endings: Endings,
    /// How fast the client takes it, once it has been waited for.
    pub(super) blocked: Option<Blocked>,
    /// What its route allows the client to take for it.
    pub(super) of_route: Patience,
    /// Of the memory that all connections may hold.
    pub(super) held: Option<Share>,
}

/// A stall, and a rate: for one response, where its route says so.
pub(super) type Patience = (Option<Duration>, Option<u64>);

/// A client that has not taken a response at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocked {
    /// It has taken nothing since.
    since: Instant,
    /// None while the client is not waited for.
    parked: Option<Instant>,
    /// In all, for this response. What its source takes is not the client's doing.
    waited: Duration,
    taken: u64,
}

impl Blocked {
    fn new(now: Instant) -> Blocked {
        Blocked { since: now, parked: None, waited: Duration::ZERO, taken: 0 }
    }

    /// Parked, after it took so many bytes more: until when.
    pub(super) fn park(
        blocked: &mut Option<Blocked>,
        taken: usize,
        now: Instant,
        stall: Duration,
        rate: Rate,
    ) -> Instant {
        let blocked = blocked.get_or_insert_with(|| Blocked::new(now));
        blocked.take(taken, now);
        blocked.parked = Some(now);
        let left = rate.time_for(blocked.taken).saturating_sub(blocked.waited);
        (blocked.since + stall).min(now.checked_add(left).unwrap_or(blocked.since + stall))
    }

    /// Others go first: the client, which has taken all there was, is not waited for.
    pub(super) fn yielded(blocked: &mut Option<Blocked>, taken: usize, now: Instant) {
        blocked.get_or_insert_with(|| Blocked::new(now)).take(taken, now);
    }

    pub(super) fn resume(&mut self, now: Instant) {
        match self.parked.take() {
            Some(parked) => self.waited += now.saturating_duration_since(parked),
            None => self.since = now,
        }
    }

    pub(super) fn take(&mut self, bytes: usize, now: Instant) {
        if bytes > 0 {
            self.since = now;
            self.taken = self.taken.saturating_add(bytes as u64);
        }
    }
}

/// What a client must keep up with: bytes a second on average, after a time of grace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) grace: Duration,
    /// 0: none.
    pub(super) bytes: u64,
}

impl Rate {
    /// How long so many bytes may take.
    pub(super) fn time_for(self, bytes: u64) -> Duration {
        match bytes.checked_mul(1000).and_then(|n| n.checked_div(self.bytes)) {
            Some(ms) => self.grace.saturating_add(Duration::from_millis(ms)),
            None => Duration::MAX,
        }
    }
}

impl Progress {
    /// Of the request whose response is on its way, for the log.
    pub(super) fn head(&self) -> Bytes {
        match &self.stage {
            Stage::Respond(response) => response.head.clone(),
            _ => Bytes::new(),
        }
    }
}

impl Portable for Progress {
    fn is_portable(&self, buffered: usize, most: usize) -> bool {
        let come = match &self.stage {
            Stage::Head { .. } => Some(buffered),
            Stage::Body(collecting) => {
                collecting.received().map(|(head, body)| head.len().saturating_add(body.len()))
            }
            _ => None,
        };
        self.unsent.is_empty() && come.is_some_and(|come| come <= most)
    }

    fn pack(&mut self, buffered: &mut Vec<u8>) -> Option<Instant> {
        match std::mem::take(&mut self.stage) {
            Stage::Head { began, .. } => began,
            Stage::Body(collecting) => {
                if let Some((head, body)) = collecting.received() {
                    let rest = std::mem::take(buffered);
                    *buffered = [head, body, &rest].concat();
                }
                Some(Instant::now())
            }
            _ => None,
        }
    }

    fn unpack(begun: Option<Instant>) -> Progress {
        let stage = Stage::Head { scan: Scan::default(), began: begun };
        Progress { stage, ..Progress::default() }
    }
}

#[derive(Debug)]
pub(super) enum Stage {
    Head {
        scan: Scan,
        began: Option<Instant>,
    },
    Body(Box<Collecting>),
    /// A streaming request that waits for its share of the workers.
    Upload(Box<(RequestHead, Decoder)>),
    Respond(Box<Responding>),
    /// Until then.
    Discard(Box<(Decoder, u64, Instant)>),
}

impl Default for Stage {
    fn default() -> Stage {
        Stage::Head { scan: Scan::default(), began: None }
    }
}

impl Stage {
    /// Bytes that rest with it, a body that is collected aside, which has a share of its own.
    pub(super) fn held(&self) -> usize {
        match self {
            Stage::Head { .. } | Stage::Respond(_) => 0,
            Stage::Body(collecting) => collecting.begun.held().saturating_add(collecting.decoder.held()),
            Stage::Upload(waiting) => waiting.0.held(),
            Stage::Discard(rest) => rest.0.held(),
        }
    }

    /// For a connection that closes when what is written is sent.
    pub(super) fn closing(reason: CloseReason, linger: bool) -> Stage {
        let after = After::Close { reason, linger };
        let (outgoing, head) = (Outgoing::done(), Bytes::new());
        Stage::Respond(Box::new(Responding { outgoing, after, head, ending: None }))
    }
}

/// A response whose body is on its way.
#[derive(Debug)]
pub(super) struct Responding {
    pub(super) outgoing: Outgoing,
    pub(super) after: After,
    /// Of the request, for the log.
    pub(super) head: Bytes,
    pub(super) ending: Option<Ending>,
}

/// Of a head, while its response waits for the client.
const HEAD_KEPT: usize = 1 << 10;

impl Responding {
    /// Keeps of a long head what the log needs, for none of it is counted.
    pub(super) fn shorten_head(&mut self) {
        let is_long = self.head.len() > 2 * HEAD_KEPT;
        if let Some(start) = self.head.get(..HEAD_KEPT).filter(|_| is_long) {
            // As if the target ended there.
            self.head = [start, b" "].concat().into();
        }
    }
}

/// A request whose head is complete.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub(super) parts: Parts,
    /// As received.
    pub(super) text: Bytes,
    pub(super) keep_alive: bool,
    pub(super) expects: bool,
    pub(super) route: RouteMatch,
}

/// What becomes of the connection when a response is out.
#[derive(Debug)]
pub(super) enum After {
    Keep,
    /// What is left of the request's body is read and dropped first.
    Discard(Decoder, u64),
    /// Announced.
    Close {
        reason: CloseReason,
        linger: bool,
    },
}

/// What of a request the response depends on; the request itself is the handler's by then.
pub(super) struct AskedOwned {
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) keep_alive: bool,
    pub(super) head: Bytes,
    pub(super) patience: Patience,
}

/// What a field takes in a `HeaderMap` beside its bytes.
const FIELD_BYTES: usize = 112;

impl RequestHead {
    /// Bytes of its head: as it came, and as it was taken apart.
    fn held(&self) -> usize {
        let fields = self.parts.headers.capacity().saturating_mul(FIELD_BYTES);
        self.text.len().saturating_add(fields).saturating_add(self.route.held())
    }

    pub(super) fn asked(&self) -> AskedOwned {
        let limits = &self.route.rules.limits;
        AskedOwned {
            method: self.parts.method.clone(),
            version: self.parts.version,
            keep_alive: self.keep_alive,
            head: self.text.clone(),
            patience: (limits.response_stall, limits.response_rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(30);

    #[test]
    fn a_client_may_be_slow_but_not_too_slow() {
        let rate = Rate { grace: Duration::from_secs(10), bytes: 100 };
        assert_eq!(rate.time_for(0), Duration::from_secs(10));
        assert_eq!(rate.time_for(500), Duration::from_secs(15));
        assert_eq!(Rate { bytes: 0, ..rate }.time_for(1), Duration::MAX);
        assert_eq!(rate.time_for(u64::MAX), Duration::MAX);

        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut blocked = None;
        assert_eq!(Blocked::park(&mut blocked, 0, start, STALL, rate), at(10));
        blocked.as_mut().unwrap().resume(at(9));
        // 100 bytes are a second more, of which nine are over.
        assert_eq!(Blocked::park(&mut blocked, 100, at(9), STALL, rate), at(11));
        blocked.as_mut().unwrap().resume(at(10));
        // Whoever has taken much has time, up to a stall.
        assert_eq!(Blocked::park(&mut blocked, 1_000_000, at(10), STALL, rate), at(40));
        // What was not spent waiting is not counted: the source took an hour.
        blocked.as_mut().unwrap().resume(at(11));
        let later = at(3_600);
        assert_eq!(Blocked::park(&mut blocked, 1, later, STALL, rate), later + STALL);
    }

    #[test]
    fn of_a_long_head_the_log_keeps_the_start() {
        let kept = |head: &str| {
            let (outgoing, after) = (Outgoing::done(), After::Keep);
            let mut responding = Responding { outgoing, after, head: head.to_owned().into(), ending: None };
            responding.shorten_head();
            responding.shorten_head();
            responding.head
        };
        let fields = "x: y\r\n".repeat(1_000);
        let short = "GET /a HTTP/1.1\r\n\r\n";
        assert_eq!(kept(short), short);
        let long = kept(&format!("GET /a HTTP/1.1\r\n{fields}\r\n"));
        assert!(long.len() <= HEAD_KEPT + 1 && long.starts_with(b"GET /a HTTP/1.1\r\nx: y\r\n"));
        let path = "a".repeat(5_000);
        let long = kept(&format!("GET /{path} HTTP/1.1\r\n\r\n"));
        let said = super::super::worker::method_and_path(&long);
        assert!(said.starts_with("GET /aaa") && said.len() == HEAD_KEPT, "{said}");
    }

    #[test]
    fn without_a_rate_only_a_stall_counts() {
        let now = Instant::now();
        let none = Rate { grace: Duration::ZERO, bytes: 0 };
        assert_eq!(Blocked::park(&mut None, 0, now, STALL, none), now + STALL);
    }
}
