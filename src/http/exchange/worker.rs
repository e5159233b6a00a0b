//! The state of one worker: its buffers, and the request that it works on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use crossbeam_utils::CachePadded;
use http::{Method, Uri};

use super::ListenerHandler;
use super::input::Input;
use crate::base::percent::normal_path;
use crate::base::requests::Recorder;
use crate::base::status::Counters;
use crate::base::sync::lock;
use crate::base::wait_group::WaitGroup;
use crate::http::codec::{DateCache, HeadMemory};
use crate::web::handler::find_route;

/// Buffers that outlive an exchange, and what the worker shares with observers.
#[derive(Debug)]
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
    pub(super) counters: Arc<CachePadded<Counters>>,
    pub(super) current_request: Arc<CurrentRequest>,
    pub(super) wait_group: WaitGroup,
    /// None if nobody wants to know.
    pub(super) recorder: Option<Box<Recorder>>,
}

/// The request whose handler runs on a worker, and since when.
#[derive(Debug, Default)]
pub(crate) struct CurrentRequest {
    head: Mutex<Option<(Bytes, Instant)>>,
    /// The handler of the worker's last connection, by its index.
    handler: AtomicUsize,
}

impl CurrentRequest {
    /// Sets the head of the request and when its handler began. Returns what was set before.
    pub(super) fn set(&self, what: Option<(Bytes, Instant)>) -> Option<(Bytes, Instant)> {
        std::mem::replace(&mut *lock(&self.head), what)
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
        lock(&self.head).as_ref().map(|(head, since)| (method_and_path(head), since.elapsed()))
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

/// The start of a head as received, without the query, which may hold secrets.
pub(super) fn method_and_path(head: &[u8]) -> String {
    let line = head.trim_ascii_start().split(|&b| b == b'\r' || b == b'\n').next().unwrap_or_default();
    let end = line.iter().position(|&b| b == b'?').or_else(|| line.iter().rposition(|&b| b == b' '));
    String::from_utf8_lossy(end.and_then(|end| line.get(..end)).unwrap_or(line)).into_owned()
}

/// The date of responses, from a clock that is not read for each of them.
#[derive(Debug)]
pub(super) struct DateClock {
    date: DateCache,
    valid_until: Instant,
}

impl DateClock {
    const GRAIN: Duration = Duration::from_millis(20);

    fn new() -> DateClock {
        DateClock { date: DateCache::new(SystemTime::now()), valid_until: Instant::now() + DateClock::GRAIN }
    }

    pub(super) fn get(&mut self, now: Instant) -> &[u8; 29] {
        if now > self.valid_until {
            self.valid_until = now + DateClock::GRAIN;
            self.date.update(SystemTime::now());
        }
        self.date.text()
    }
}

impl WorkerState {
    pub(crate) fn new(
        index: usize,
        counters: Arc<CachePadded<Counters>>,
        current_request: Arc<CurrentRequest>,
        wait_group: WaitGroup,
        recorder: Option<Box<Recorder>>,
    ) -> WorkerState {
        // The thread that had this index before may have died in a handler.
        current_request.set(None);
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
            wait_group,
            recorder,
        }
    }
}
