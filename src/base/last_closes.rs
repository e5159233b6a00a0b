//! The last connections that were closed, with what is known of each, for an operator that looks for the reason.
//!
//! Only the count knows of closes that clients decide between two requests, or announce: they are the ordinary ones, and
//! nothing is spent on them. Of each other reason the last few are kept, so that many closes of one reason, as in a drain,
//! don't displace the one of another. Nothing is kept without an admin listener, and nothing is read or passed on without the
//! feature `admin`.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use litemap::LiteMap;
use percent_encoding::{percent_decode_str, utf8_percent_encode};

use crate::base::close_reason::CloseReason;
use crate::base::history::SPECIAL;
use crate::base::order::greatest_first;
use crate::base::sync::lock;
use crate::base::words::{pairs, value_of};

/// Closes that are kept of each reason, reasons that are known, and closes that are listed.
const OF_REASON: usize = 8;
const REASONS: usize = 64;
const LISTED: usize = 50;
/// Of a listener's name, or of a request's method and path.
const TEXT_CHARS: usize = 120;

/// How a connection was closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClosedConnection {
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) listener: String,
    /// The client's address. Empty for a unix socket.
    pub(crate) client: String,
    /// Requests so far.
    pub(crate) requests: u64,
    /// Milliseconds since it was accepted.
    pub(crate) age: u64,
    /// Method and path, without the query, if it was closed because of a request, or in one.
    pub(crate) request: String,
}

/// The last closes of all threads, and of earlier generations.
#[derive(Clone, Default)]
pub(crate) struct LastCloses(Arc<Shared>);

#[derive(Default)]
struct Shared {
    is_wanted: AtomicBool,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// By the name of the reason, which may be one of another version; the latest last, each with its number.
    closes: LiteMap<String, VecDeque<(u64, ClosedConnection)>>,
    next: u64,
    /// The successor has those with a lower number.
    passed: u64,
}

impl LastCloses {
    pub(crate) fn want(&self) {
        self.0.is_wanted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, reason: CloseReason, about: impl FnOnce() -> ClosedConnection) {
        let is_ordinary = matches!(reason, CloseReason::ClientClosed | CloseReason::ClientAsked);
        if cfg!(feature = "admin") && !is_ordinary && self.0.is_wanted.load(Ordering::Relaxed) {
            let about = about();
            lock(&self.0.kept).add(reason.name(), about);
        }
    }

    /// The latest first, each with the name of its reason.
    pub(crate) fn list(&self) -> Vec<(String, ClosedConnection)> {
        let kept = lock(&self.0.kept);
        let named = |(reason, closes): (&String, &VecDeque<(u64, ClosedConnection)>)| {
            closes.iter().map(|(_, close)| (reason.clone(), close.clone())).collect::<Vec<_>>()
        };
        let mut all = greatest_first(kept.closes.iter().flat_map(named).collect(), |(_, close)| close.at);
        all.truncate(LISTED);
        all
    }

    /// Lines about all of them, which the successor has with that.
    pub(crate) fn pass_all(&self) -> Vec<String> {
        lock(&self.0.kept).passed = 0;
        self.pass_rest()
    }

    /// Lines about those that the successor does not have.
    pub(crate) fn pass_rest(&self) -> Vec<String> {
        if !cfg!(feature = "admin") {
            return Vec::new();
        }
        let mut kept = lock(&self.0.kept);
        let (passed, next) = (kept.passed, kept.next);
        kept.passed = next;
        let mut lines = Vec::new();
        for (reason, closes) in &kept.closes {
            let new = closes.iter().filter(|(number, _)| *number >= passed);
            lines.extend(new.map(|(_, close)| format!("reason={reason} {close}")));
        }
        lines
    }

    /// Adds a close of an earlier generation. What this version does not know is skipped.
    pub(crate) fn read(&self, line: &str) {
        if !cfg!(feature = "admin") {
            return;
        }
        let words = pairs(line);
        let word = |name: &str| value_of(&words, name);
        let text =
            |name: &str| percent_decode_str(word(name).unwrap_or_default()).decode_utf8_lossy().into_owned();
        let number = |name: &str| word(name)?.parse::<u64>().ok();
        let (Some(reason), Some(at)) = (word("reason"), number("at")) else { return };
        let about = ClosedConnection {
            at,
            listener: text("listener"),
            client: text("client"),
            requests: number("requests").unwrap_or(0),
            age: number("age_ms").unwrap_or(0),
            request: text("request"),
        };
        lock(&self.0.kept).add(reason, about);
    }
}

impl Kept {
    fn add(&mut self, reason: &str, about: ClosedConnection) {
        if !self.closes.contains_key(reason) {
            if self.closes.len() >= REASONS {
                return;
            }
            self.closes.insert(reason.to_owned(), VecDeque::new());
        }
        let Some(closes) = self.closes.get_mut(reason) else { return };
        if closes.len() >= OF_REASON {
            closes.pop_front();
        }
        closes.push_back((self.next, about));
        self.next = self.next.wrapping_add(1);
    }
}

/// As words of a line.
impl fmt::Display for ClosedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at={} requests={} age_ms={}", self.at, self.requests, self.age)?;
        let texts = [("listener", &self.listener), ("client", &self.client), ("request", &self.request)];
        texts.into_iter().filter(|(_, text)| !text.is_empty()).try_for_each(|(name, text)| {
            let start: String = text.chars().take(TEXT_CHARS).collect();
            write!(f, " {name}={}", utf8_percent_encode(&start, SPECIAL))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(at: u64, request: &str) -> ClosedConnection {
        let (listener, client) = ("[::1]:80".to_owned(), "192.0.2.7:4711".to_owned());
        ClosedConnection { at, listener, client, requests: 3, age: 70, request: request.to_owned() }
    }

    #[test]
    fn many_of_one_reason_displace_no_other() {
        let closes = LastCloses::default();
        closes.add(CloseReason::Refused, || unreachable!("nobody wants it"));
        closes.want();
        closes.add(CloseReason::ClientClosed, || unreachable!("ordinary"));
        closes.add(CloseReason::BodyTimeout, || close(1, "POST /a b=ü%"));
        (2..1_000).for_each(|at| closes.add(CloseReason::Drain, || close(at, "")));
        let times = |closes: &LastCloses| closes.list().iter().map(|(_, one)| one.at).collect::<Vec<_>>();
        assert_eq!(times(&closes), [999, 998, 997, 996, 995, 994, 993, 992, 1]);

        // The next generation gets all of them, and what comes later.
        let next = LastCloses::default();
        closes.pass_all().iter().for_each(|line| next.read(line));
        assert_eq!(next.list(), closes.list());
        assert_eq!(closes.pass_rest(), [""; 0]);
        closes.add(CloseReason::Grace, || close(1_000, ""));
        closes.pass_rest().iter().for_each(|line| next.read(line));
        assert_eq!(next.list(), closes.list());
        assert_eq!(closes.pass_all().len(), 10, "for another successor");
    }

    #[test]
    fn what_other_versions_write_is_bounded() {
        let closes = LastCloses::default();
        for line in ["", "reason=idle", "at=7", "reason=idle at=x"] {
            closes.read(line);
            assert_eq!(closes.list(), [], "{line}");
        }
        closes.read("colour=blue reason=sunset at=7");
        assert_eq!(closes.list(), [("sunset".to_owned(), ClosedConnection { at: 7, ..Default::default() })]);
        (0..1_000).for_each(|n| closes.read(&format!("reason=r{n} at={n}")));
        assert_eq!((closes.list().len(), lock(&closes.0.kept).closes.len()), (LISTED, REASONS));
        let long = close(1, &"ü".repeat(1_000)).to_string();
        assert!(long.len() < 1_000, "{long}");
    }
}
