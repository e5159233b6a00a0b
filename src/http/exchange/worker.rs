//! The state of one worker: its buffers, and the request that it works on.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use http::{Method, Uri};

use super::ListenerHandler;
use super::input::Input;
use crate::base::percent::normal_path;
use crate::base::requests::Recorder;
use crate::base::status::Counters;
use crate::base::sync::lock;
use crate::base::wait_group::WaitGroup;
use crate::http::codec::{DateCache, DateLine, HeadMemory};
use crate::web::handler::{Panics, find_route};

/// Buffers that outlive an exchange, and what the worker shares with observers.
pub(crate) struct WorkerState {
    /// The worker's index.
    pub(super) index: usize,
    pub(super) input: Input,
    pub(super) heads: HeadMemory,
    /// Written, not sent yet.
    pub(super) out: Vec<u8>,
    /// One piece of a response's source.
    pub(super) piece: Vec<u8>,
    pub(super) date: DateClock,
    pub(super) counters: Arc<Counters>,
    pub(super) current_request: Arc<CurrentRequest>,
    /// Those of the handler that runs, and of its guards.
    pub(super) panics: Panics,
    pub(super) wait_group: WaitGroup,
    /// None if nobody wants to know.
    pub(super) recorder: Option<Box<Recorder>>,
}

/// The request whose handler runs on a worker, and since when.
#[derive(Default)]
pub(crate) struct CurrentRequest {
    /// Whether one runs, so that its end takes no lock.
    runs: AtomicBool,
    /// The start of the last request's head, and when its handler began.
    last: Mutex<(Vec<u8>, Option<Instant>)>,
    /// The handler of the worker's last connection, by its index.
    handler: AtomicUsize,
}

impl CurrentRequest {
    /// Notes that the handler of the request with this head begins.
    #[inline(always)]
    pub(super) fn begin(&self, head: &[u8], now: Instant) {
        let mut last = lock(&self.last);
        last.0.clear();
        last.0.extend_from_slice(start_of(head));
        last.1 = Some(now);
        drop(last);
        self.runs.store(true, Ordering::Release);
    }

    pub(super) fn end(&self) {
        self.runs.store(false, Ordering::Release);
    }

    pub(super) fn set_handler(&self, index: usize) {
        self.handler.store(index, Ordering::Relaxed);
    }

    /// Method, path and age, for the log.
    pub(crate) fn read(&self) -> Option<String> {
        self.get().map(|(what, age)| format!("{what}, in its handler for {age:.1?}"))
    }

    /// Method and path, and age.
    pub(crate) fn get(&self) -> Option<(String, Duration)> {
        if !self.runs.load(Ordering::Acquire) {
            return None;
        }
        let last = lock(&self.last);
        Some((method_and_path(&last.0), last.1?.elapsed()))
    }

    /// Method and pattern of the request's route, which is looked up again so that ordinary requests need not note it. Without
    /// a route, method and path.
    pub(crate) fn route(&self, handlers: &[ListenerHandler]) -> Option<String> {
        let (what, _) = self.get()?;
        let pattern = || {
            let (method, target) = what.split_once(' ')?;
            let method: Method = method.parse().ok()?;
            let target: Uri = target.parse().ok()?;
            let path = normal_path(target.path())?;
            let handler = handlers.get(self.handler.load(Ordering::Relaxed))?;
            let pattern = find_route(&*handler.handler.0, &method, &path).pattern();
            (!pattern.is_empty()).then(|| format!("{method} {pattern}"))
        };
        Some(pattern().unwrap_or(what))
    }
}

/// As much of a head as `method_and_path` needs, without a search in a short one.
fn start_of(head: &[u8]) -> &[u8] {
    const SHORT: usize = 512;
    let line = || head.trim_ascii_start().split(|byte| *byte == b'\n').next();
    if head.len() <= SHORT { head } else { line().unwrap_or_default() }
}

/// The start of a head as received, without the query, which may hold secrets.
pub(super) fn method_and_path(head: &[u8]) -> String {
    let line = head.trim_ascii_start().split(|&b| b == b'\r' || b == b'\n').next().unwrap_or_default();
    let end = line.iter().position(|&b| b == b'?').or_else(|| line.iter().rposition(|&b| b == b' '));
    String::from_utf8_lossy(end.and_then(|end| line.get(..end)).unwrap_or(line)).into_owned()
}

/// The date of responses, from a clock that is not read for each of them.
pub(super) struct DateClock {
    date: DateCache,
    valid_until: Instant,
}

impl DateClock {
    const GRAIN: Duration = Duration::from_millis(20);

    fn new() -> DateClock {
        DateClock { date: DateCache::new(SystemTime::now()), valid_until: Instant::now() + DateClock::GRAIN }
    }

    pub(super) fn get(&mut self, now: Instant) -> &DateLine {
        if now > self.valid_until {
            self.valid_until = now + DateClock::GRAIN;
            self.date.update(SystemTime::now());
        }
        self.date.line()
    }
}

impl WorkerState {
    pub(crate) fn new(
        index: usize,
        counters: Arc<Counters>,
        current_request: Arc<CurrentRequest>,
        wait_group: WaitGroup,
        recorder: Option<Box<Recorder>>,
    ) -> WorkerState {
        // The thread that had this index before may have died in a handler.
        current_request.end();
        let (out, piece) = (Vec::new(), Vec::new());
        WorkerState {
            index,
            input: Input::new(),
            heads: HeadMemory::default(),
            out,
            piece,
            date: DateClock::new(),
            counters,
            current_request,
            panics: Panics::default(),
            wait_group,
            recorder,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_request_is_seen_until_its_handler_ends() {
        let current = CurrentRequest::default();
        assert_eq!(current.read(), None);
        let path = "p".repeat(2000);
        let heads = [
            ("GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), "GET /a"),
            (format!("GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n"), &*format!("GET /{path}")),
            (format!("GET /c HTTP/1.1\nX: {path}\n\n"), "GET /c"),
        ];
        for (head, what) in heads {
            current.begin(head.as_bytes(), Instant::now());
            assert_eq!(current.get().unwrap().0, what);
            current.end();
            assert!(current.get().is_none());
        }
    }
}
