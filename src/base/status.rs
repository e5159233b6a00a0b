//! Counters. Each thread has its own, and a snapshot adds them up.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use litemap::LiteMap;

use crate::base::close_reason::CloseReason;
use crate::base::last_closes::{ClosedConnection, LastCloses};
use crate::base::order::greatest_first;
use crate::base::phase::Phase;
use crate::base::requests::AllRequests;
use crate::base::stays::Stays;
use crate::base::sync::lock;

/// The counters of one thread, on cache lines of its own: two, because processors fetch them in pairs.
#[repr(align(128))]
pub(crate) struct Counters {
    accepted: AtomicU64,
    requests: AtomicU64,
    /// Indexed by the first digit of the status, 1 to 5.
    responses: [AtomicU64; 5],
    panics: AtomicU64,
    workers_replaced: AtomicU64,
    handed_over: AtomicU64,
    deadlines_passed: AtomicU64,
    handshakes_full: AtomicU64,
    handshakes_resumed: AtomicU64,
    closes: Box<[AtomicU64]>,
    tls_kept: Box<[AtomicU64]>,
    last_closes: LastCloses,
}

impl Counters {
    fn new(last_closes: LastCloses) -> Counters {
        Counters {
            accepted: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            responses: Default::default(),
            panics: AtomicU64::new(0),
            workers_replaced: AtomicU64::new(0),
            handed_over: AtomicU64::new(0),
            deadlines_passed: AtomicU64::new(0),
            handshakes_full: AtomicU64::new(0),
            handshakes_resumed: AtomicU64::new(0),
            closes: CloseReason::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            tls_kept: Stays::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            last_closes,
        }
    }

    pub(crate) fn accepted(&self) {
        add(&self.accepted);
    }

    pub(crate) fn response(&self, status: u16) {
        add(&self.requests);
        if let Some(class) = self.responses.get(usize::from(status / 100).wrapping_sub(1)) {
            add(class);
        }
    }

    pub(crate) fn panicked(&self) {
        add(&self.panics);
    }

    pub(crate) fn worker_replaced(&self) {
        add(&self.workers_replaced);
    }

    pub(crate) fn handed_over(&self) {
        add(&self.handed_over);
    }

    pub(crate) fn deadline_passed(&self) {
        add(&self.deadlines_passed);
    }

    #[cfg(feature = "tls")]
    pub(crate) fn handshake(&self, is_resumed: bool) {
        add(if is_resumed { &self.handshakes_resumed } else { &self.handshakes_full });
    }

    pub(crate) fn closed(&self, reason: CloseReason) {
        add(&self.closes[reason as usize]);
    }

    /// A TLS connection ends here in a handover, because it could not move.
    pub(crate) fn tls_kept(&self, reason: Stays) {
        add(&self.tls_kept[reason as usize]);
    }

    /// It was decided that a connection ends, which may take a while.
    pub(crate) fn ends(&self, reason: CloseReason, about: impl FnOnce() -> ClosedConnection) {
        self.last_closes.add(reason, about);
    }
}

/// Each counter has one writer, so a load and a store suffice instead of a locked instruction.
fn add(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// The counters of all threads.
#[derive(Clone, Default)]
pub(crate) struct AllCounters {
    all: Arc<Mutex<Vec<Arc<Counters>>>>,
    /// Counts of earlier generations, by name.
    inherited: Arc<Mutex<LiteMap<String, u64>>>,
    pub(crate) requests: AllRequests,
    pub(crate) last_closes: LastCloses,
    /// What the successor has of them.
    sent: Arc<Mutex<LiteMap<String, u64>>>,
}

impl AllCounters {
    /// Somebody may look: histograms are recorded and the last closes kept, by threads that start from now on.
    pub(crate) fn want(&self) {
        self.requests.want();
        self.last_closes.want();
    }

    /// Counters for a thread that starts.
    pub(crate) fn register(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::new(self.last_closes.clone()));
        lock(&self.all).push(Arc::clone(&counters));
        counters
    }

    /// Adds the counts of an earlier generation, so that totals survive a handover.
    pub(crate) fn inherit(&self, counts: Vec<(String, u64)>) {
        let mut inherited = lock(&self.inherited);
        for (name, n) in counts {
            if self.requests.inherit(&name, n) {
                continue;
            }
            let sum = inherited.entry(name).or_default();
            *sum = sum.saturating_add(n);
        }
    }

    /// All counts, own and inherited, which count as sent with that.
    pub(crate) fn send_all(&self) -> Vec<(String, u64)> {
        self.send_all_anew();
        let all = self.unsent();
        self.mark_sent(&all);
        all
    }

    /// A successor has none of the counts.
    pub(crate) fn send_all_anew(&self) {
        lock(&self.sent).clear();
    }

    /// The counts, own and inherited, that the successor does not have.
    pub(crate) fn unsent(&self) -> Vec<(String, u64)> {
        let (mut stats, sent) = (self.totals(), lock(&self.sent));
        let mut unsent = Vec::new();
        let mut note = |name: &str, count: u64| {
            let before = sent.get(name).copied().unwrap_or(0);
            if count > before {
                unsent.push((name.to_owned(), count - before));
            }
        };
        stats.for_each_count(&mut |name, count| note(name, *count));
        self.requests.for_each_count(note);
        unsent
    }

    /// The successor has these.
    pub(crate) fn mark_sent(&self, counts: &[(String, u64)]) {
        let mut sent = lock(&self.sent);
        for (name, n) in counts {
            let before = sent.entry(name.clone()).or_default();
            *before = before.saturating_add(*n);
        }
    }

    /// The sums so far, without gauges.
    pub(crate) fn totals(&self) -> Stats {
        let mut stats = Stats::new(0, Phase::Serving);
        self.add_up(&mut stats);
        stats
    }

    /// The sums so far, with those of earlier generations.
    pub(crate) fn add_up(&self, stats: &mut Stats) {
        let all = lock(&self.all);
        let sum = |counter: &dyn Fn(&Counters) -> &AtomicU64| -> u64 {
            all.iter().map(|counters| counter(counters).load(Ordering::Relaxed)).sum()
        };
        stats.accepted = sum(&|t| &t.accepted);
        stats.requests = sum(&|t| &t.requests);
        stats.panics = sum(&|t| &t.panics);
        stats.workers_replaced = sum(&|t| &t.workers_replaced);
        stats.handed_over = sum(&|t| &t.handed_over);
        stats.deadlines_passed = sum(&|t| &t.deadlines_passed);
        stats.handshakes_full = sum(&|t| &t.handshakes_full);
        stats.handshakes_resumed = sum(&|t| &t.handshakes_resumed);
        for class in 0..5 {
            stats.responses[class] = sum(&|t| &t.responses[class]);
        }
        stats.closes =
            CloseReason::ALL.iter().map(|reason| (*reason, sum(&|t| &t.closes[*reason as usize]))).collect();
        stats.tls_kept = Stays::ALL
            .iter()
            .map(|reason| (reason.name(), sum(&|t| &t.tls_kept[*reason as usize])))
            .collect();
        let inherited = lock(&self.inherited);
        stats.for_each_count(&mut |name, count| {
            *count = count.saturating_add(inherited.get(name).copied().unwrap_or(0));
        });
    }
}

/// A part of the server that contributes to a snapshot.
pub(crate) trait Gauges: Send + Sync {
    fn add_to(&self, stats: &mut Stats);
    /// The handlers that run now.
    fn handlers(&self) -> Vec<RunningHandler>;
}

/// A handler that runs now.
#[derive(Clone)]
pub(crate) struct RunningHandler {
    pub(crate) method: String,
    /// Without the query, which may hold secrets.
    pub(crate) path: String,
    pub(crate) age: Duration,
    pub(crate) thread: String,
    pub(crate) is_past_deadline: bool,
}

impl RunningHandler {
    pub(crate) fn oldest_first(handlers: Vec<RunningHandler>) -> Vec<RunningHandler> {
        greatest_first(handlers, |handler| u64::try_from(handler.age.as_nanos()).unwrap_or(u64::MAX))
    }

    /// `what` is a method and a path.
    pub(crate) fn new(what: &str, age: Duration, thread: String) -> RunningHandler {
        let (method, path) = what.split_once(' ').unwrap_or((what, ""));
        RunningHandler {
            method: method.to_owned(),
            path: path.to_owned(),
            age,
            thread,
            is_past_deadline: false,
        }
    }
}

/// An operation that is in flight, as the log shows it.
pub(crate) struct InFlight {
    /// A method and a path, without the query; or what it is instead of a request.
    pub(crate) what: String,
    /// What has it, after a comma.
    pub(crate) place: &'static str,
    /// None where it is not known.
    pub(crate) age: Option<Duration>,
}

impl fmt::Display for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.what, self.place)?;
        self.age.map_or(Ok(()), |age| write!(f, " for {age:.1?}"))
    }
}

/// A connection that no worker has.
#[derive(Clone)]
pub(crate) struct ParkedConnection {
    pub(crate) listener: String,
    /// None for a unix socket.
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) activity: &'static str,
    /// How long it has been idle, if it is.
    pub(crate) idle: Option<Duration>,
    /// Requests so far.
    pub(crate) requests: u64,
}

/// A snapshot of a server's counters and gauges.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// 1 for the process that was started by hand, 2 for its successor, and so on.
    pub generation: u32,
    /// The phase of the process.
    pub phase: Phase,
    /// Connections accepted. Like all totals here, over all generations so far.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// How many connections may be open: fewer than [`Limits::connections`](crate::Limits::connections) if descriptors are few.
    pub connections_limit: u64,
    /// Requests answered.
    pub requests: u64,
    /// Responses by the first digit of their status, from 1xx to 5xx.
    pub responses: [u64; 5],
    /// Panics of handlers and of the values they created.
    pub panics: u64,
    /// Workers that died and were replaced.
    pub workers_replaced: u64,
    /// Connections passed on to the next generation, at each handover.
    pub handed_over: u64,
    /// Handlers that had not returned at their route's [`deadline`](crate::deadline()): the client got a 503.
    pub deadlines_passed: u64,
    /// TLS handshakes that were completed in full.
    pub handshakes_full: u64,
    /// TLS handshakes that resumed an earlier session.
    pub handshakes_resumed: u64,
    /// Handlers past their deadline that run now, each on a worker.
    pub handlers_past_deadline: u64,
    /// Requests in flight: started and not finished.
    pub in_flight: u64,
    /// Connections that wait for a worker now.
    pub queued: u64,
    /// Workers, in all pools.
    pub workers: u64,
    /// Threads of event streams and upgraded connections now.
    pub detached: u64,
    /// Bytes that connections hold in memory while no worker has them, of [`Limits::buffered_bytes`](crate::Limits::buffered_bytes).
    pub buffered_bytes: u64,
    /// The limit of the bytes in memory.
    pub buffered_bytes_limit: u64,
    /// Bytes of request bodies in temporary files, of [`Limits::temporary_bytes`](crate::Limits::temporary_bytes).
    pub temporary_bytes: u64,
    /// The limit of the bytes in temporary files.
    pub temporary_bytes_limit: u64,
    /// Connections closed, by reason.
    pub closes: Vec<(CloseReason, u64)>,
    /// TLS connections that ended in a handover because they could not move, by reason (`docs/metrics.md`).
    pub tls_kept: Vec<(&'static str, u64)>,
}

impl Stats {
    /// By the reason's name.
    pub(crate) fn closes_by_reason(&self) -> LiteMap<String, u64> {
        let mut closes = LiteMap::new();
        for (reason, n) in &self.closes {
            closes.insert(reason.to_string(), *n);
        }
        closes
    }

    pub(crate) fn new(generation: u32, phase: Phase) -> Stats {
        Stats {
            generation,
            phase,
            accepted: 0,
            open: 0,
            connections_limit: 0,
            requests: 0,
            responses: [0; 5],
            panics: 0,
            workers_replaced: 0,
            handed_over: 0,
            deadlines_passed: 0,
            handshakes_full: 0,
            handshakes_resumed: 0,
            handlers_past_deadline: 0,
            in_flight: 0,
            queued: 0,
            workers: 0,
            detached: 0,
            buffered_bytes: 0,
            buffered_bytes_limit: 0,
            temporary_bytes: 0,
            temporary_bytes_limit: 0,
            closes: Vec::new(),
            tls_kept: Vec::new(),
        }
    }

    /// The totals, by the names under which they are passed from generation to generation.
    fn for_each_count(&mut self, f: &mut dyn FnMut(&str, &mut u64)) {
        f("accepted", &mut self.accepted);
        f("requests", &mut self.requests);
        f("panics", &mut self.panics);
        f("workers_replaced", &mut self.workers_replaced);
        f("handed_over", &mut self.handed_over);
        f("deadlines_passed", &mut self.deadlines_passed);
        f("handshakes_full", &mut self.handshakes_full);
        f("handshakes_resumed", &mut self.handshakes_resumed);
        for (class, count) in (1..).zip(&mut self.responses) {
            f(&format!("responses.{class}xx"), count);
        }
        for (reason, count) in &mut self.closes {
            f(&format!("closes.{reason}"), count);
        }
        for (reason, count) in &mut self.tls_kept {
            f(&format!("tls_kept.{reason}"), count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_of_all_threads_add_up() {
        let all_counters = AllCounters::default();
        let (a, b) = (all_counters.register(), all_counters.register());
        a.response(200);
        b.response(503);
        b.response(200);
        b.closed(CloseReason::Idle);
        let mut stats = Stats::new(3, Phase::Serving);
        all_counters.add_up(&mut stats);
        assert_eq!((stats.requests, stats.responses), (3, [0, 2, 0, 0, 1]));
        assert_eq!(stats.closes.iter().map(|(_, n)| n).sum::<u64>(), 1);
    }
}
