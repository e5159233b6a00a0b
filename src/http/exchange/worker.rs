//! What one worker has.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use crossbeam_utils::CachePadded;

use super::input::Input;
use crate::base::status::Counters;
use crate::base::sync::lock;
use crate::base::wait_group::WaitGroup;
use crate::http::codec::DateCache;

/// Buffers that outlive an exchange, and a current_request saying what it does.
#[derive(Debug)]
pub(crate) struct WorkerState {
    /// Of its worker.
    pub(super) place: usize,
    pub(super) input: Input,
    /// Written and not sent.
    pub(super) out: Vec<u8>,
    /// What a response's source gives at a time.
    pub(super) piece: Vec<u8>,
    pub(super) date: Clock,
    pub(super) counters: Arc<CachePadded<Counters>>,
    pub(super) current_request: Arc<CurrentRequest>,
    pub(super) wait_group: WaitGroup,
}

/// Which request's handler runs at a worker, since when.
#[derive(Debug, Default)]
pub(crate) struct CurrentRequest(Mutex<Option<(Bytes, Instant)>>);

impl CurrentRequest {
    pub(super) fn set(&self, what: Option<(Bytes, Instant)>) {
        *lock(&self.0) = what;
    }

    /// Method, path and age, for people.
    pub(crate) fn read(&self) -> Option<String> {
        let current_request = lock(&self.0);
        current_request.as_ref().map(|(head, since)| {
            format!("{}, in its handler for {:.1?}", method_and_path(head), since.elapsed())
        })
    }
}

/// Of a head as received; the query may hold what does not belong into a log.
pub(super) fn method_and_path(head: &[u8]) -> String {
    let line = head.trim_ascii_start().split(|&b| b == b'\r' || b == b'\n').next().unwrap_or_default();
    let end = line.iter().position(|&b| b == b'?').or_else(|| line.iter().rposition(|&b| b == b' '));
    String::from_utf8_lossy(end.and_then(|end| line.get(..end)).unwrap_or(line)).into_owned()
}

/// The date of responses, from a clock that is not asked for each of them.
#[derive(Debug)]
pub(super) struct Clock {
    date: DateCache,
    asked: Instant,
    time: SystemTime,
}

impl Clock {
    const GRAIN: Duration = Duration::from_millis(20);

    fn new() -> Clock {
        let time = SystemTime::now();
        Clock { date: DateCache::new(time), asked: Instant::now(), time }
    }

    pub(super) fn get(&mut self, now: Instant) -> &[u8; 29] {
        if now.saturating_duration_since(self.asked) > Clock::GRAIN {
            (self.asked, self.time) = (now, SystemTime::now());
        }
        self.date.get(self.time)
    }
}

impl WorkerState {
    pub(crate) fn new(
        place: usize,
        counters: Arc<CachePadded<Counters>>,
        current_request: Arc<CurrentRequest>,
        wait_group: WaitGroup,
    ) -> WorkerState {
        // Of a worker that died, it still says what that was doing.
        current_request.set(None);
        let (out, piece) = (Vec::new(), Vec::new());
        WorkerState {
            place,
            input: Input::new(),
            out,
            piece,
            date: Clock::new(),
            counters,
            current_request,
            wait_group,
        }
    }
}
