//! What is recorded of requests while somebody wants to know it: durations by route, method and class of status, the wait
//! for a worker, and the sizes of bodies. Each worker records for itself; a look adds up.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use litemap::LiteMap;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::base::histogram::{Histogram, HistogramTotal, Scale};
use crate::base::key_hash::BuildKeyHasher;
use crate::base::sync::lock;

/// The methods that are distinguished. The last is for all others, so that clients can't make up more.
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "_OTHER"];

/// The requests that are counted together, as a worker finds them without comparing texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeriesKey {
    /// Of the route, 0 without one.
    pub(crate) route: u64,
    method: u8,
    class: u8,
}

impl SeriesKey {
    pub(crate) fn new(route: u64, method: &str, status: u16) -> SeriesKey {
        // Each arm is a comparison of one or two words, where a search in `METHODS` calls a function for each.
        let method = match method {
            "GET" => 0,
            "HEAD" => 1,
            "POST" => 2,
            "PUT" => 3,
            "DELETE" => 4,
            "CONNECT" => 5,
            "OPTIONS" => 6,
            "TRACE" => 7,
            "PATCH" => 8,
            _ => 9,
        };
        SeriesKey { route, method, class: u8::try_from(status / 100).unwrap_or(0) }
    }
}

impl Hash for SeriesKey {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.route.rotate_left(16) ^ u64::from(self.method) << 8 ^ u64::from(self.class));
    }
}

/// What is recorded, and of what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Recorded {
    /// From the complete request (for a streaming handler, its head) to the handler's response.
    Duration {
        /// The pattern with all prefixes; empty without a route.
        route: String,
        method: &'static str,
        /// The first digit of the status.
        class: u8,
    },
    /// From the readiness of a connection to a worker.
    QueueWait,
    RequestBytes,
    ResponseBytes,
    /// From the start of the new program to COMMIT, or to the failure.
    Handover {
        outcome: &'static str,
    },
}

const OUTCOMES: [&str; 2] = ["committed", "failed"];

/// What a pattern's text must not contain in the name of a count.
const SPECIAL: &AsciiSet = &CONTROLS.add(b' ').add(b'=').add(b'%');

impl Recorded {
    fn scale(&self) -> Scale {
        match self {
            Recorded::Duration { .. } | Recorded::QueueWait | Recorded::Handover { .. } => Scale::Duration,
            Recorded::RequestBytes | Recorded::ResponseBytes => Scale::Size,
        }
    }

    fn parse(name: &str) -> Option<Recorded> {
        Some(match name {
            "queue_wait" => Recorded::QueueWait,
            "request_bytes" => Recorded::RequestBytes,
            "response_bytes" => Recorded::ResponseBytes,
            _ if name.starts_with("handover,") => {
                let outcome = OUTCOMES.into_iter().find(|outcome| name.ends_with(outcome))?;
                Recorded::Handover { outcome }
            }
            _ => {
                let mut parts = name.strip_prefix("duration,")?.splitn(3, ',');
                let (method, class, route) = (parts.next()?, parts.next()?, parts.next()?);
                let method = METHODS.iter().find(|known| **known == method)?;
                let route = percent_decode_str(route).decode_utf8().ok()?.into_owned();
                Recorded::Duration { route, method, class: class.parse().ok()? }
            }
        })
    }
}

/// The name under which one generation passes it to the next.
impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recorded::Duration { route, method, class } => {
                write!(f, "duration,{method},{class},{}", utf8_percent_encode(route, SPECIAL))
            }
            Recorded::QueueWait => f.write_str("queue_wait"),
            Recorded::RequestBytes => f.write_str("request_bytes"),
            Recorded::ResponseBytes => f.write_str("response_bytes"),
            Recorded::Handover { outcome } => write!(f, "handover,{outcome}"),
        }
    }
}

/// What all workers have recorded, and what earlier generations have.
#[derive(Clone, Default)]
pub(crate) struct AllRequests(Arc<Shared>);

#[derive(Default)]
struct Shared {
    is_wanted: AtomicBool,
    recorded: Mutex<Vec<(Recorded, Arc<Histogram>)>>,
    inherited: Mutex<Totals>,
}

pub(crate) type Totals = LiteMap<Recorded, HistogramTotal>;

/// How the names of these counts begin.
const PREFIX: &str = "histogram.";

impl AllRequests {
    /// Workers that start from now on record. Both outcomes of handovers are there from the start: to Prometheus a counter that
    /// begins with 1 has not increased.
    pub(crate) fn want(&self) {
        if !self.0.is_wanted.swap(true, Ordering::Relaxed) {
            for outcome in OUTCOMES {
                self.0.register(Recorded::Handover { outcome });
            }
        }
    }

    /// Known at compile time without the feature `admin`: what is done only for those that look is not compiled then.
    pub(crate) fn is_wanted(&self) -> bool {
        cfg!(feature = "admin") && self.0.is_wanted.load(Ordering::Relaxed)
    }

    /// None if nobody wants it: then nothing is recorded, and nothing is spent on it.
    pub(crate) fn recorder(&self) -> Option<Box<Recorder>> {
        if !self.is_wanted() {
            return None;
        }
        let new = |recorded| self.0.register(recorded);
        Some(Box::new(Recorder {
            durations: HashMap::default(),
            queue_wait: new(Recorded::QueueWait),
            request_bytes: new(Recorded::RequestBytes),
            response_bytes: new(Recorded::ResponseBytes),
            shared: Arc::clone(&self.0),
        }))
    }

    /// Records how long a handover took. The control loop alone calls this.
    pub(crate) fn handover(&self, committed: bool, took: Duration) {
        if !self.is_wanted() {
            return;
        }
        let [committed_one, failed_one] = OUTCOMES;
        let what = Recorded::Handover { outcome: if committed { committed_one } else { failed_one } };
        if let Some((_, one)) = lock(&self.0.recorded).iter().find(|(one, _)| *one == what) {
            one.record(nanos(took));
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut totals = lock(&self.0.inherited).clone();
        for (recorded, one) in &*lock(&self.0.recorded) {
            let new = || HistogramTotal::new(recorded.scale());
            totals.entry(recorded.clone()).or_insert_with(new).add(one);
        }
        totals
    }

    /// The largest values are those of the next minute from now on.
    pub(crate) fn forget_longest(&self) {
        lock(&self.0.inherited).iter_mut().for_each(|(_, total)| total.longest = 0);
        lock(&self.0.recorded).iter().for_each(|(_, one)| one.forget_longest());
    }

    /// Calls `f` with each count and the name under which it is passed from generation to generation.
    pub(crate) fn for_each_count(&self, f: impl FnMut(&str, u64)) {
        if cfg!(feature = "admin") {
            for_each_count(&self.totals(), f);
        }
    }

    /// Adds a count of an earlier generation. False if the name is not that of one. Without the feature `admin` nobody can look
    /// at it, and it is skipped.
    pub(crate) fn inherit(&self, name: &str, n: u64) -> bool {
        if cfg!(feature = "admin") {
            add_count(&mut lock(&self.0.inherited), name, n)
        } else {
            name.starts_with(PREFIX)
        }
    }
}

/// Calls `f` with each count and its name.
pub(crate) fn for_each_count(totals: &Totals, mut f: impl FnMut(&str, u64)) {
    for (recorded, total) in totals {
        total.for_each_count(|range, n| f(&format!("{PREFIX}{range}.{recorded}"), n));
    }
}

/// Adds a count by its name. False if the name is not that of a histogram; one of a later version is skipped.
pub(crate) fn add_count(totals: &mut Totals, name: &str, n: u64) -> bool {
    let Some(name) = name.strip_prefix(PREFIX) else { return false };
    let known = name.split_once('.').and_then(|(range, name)| Some((range, Recorded::parse(name)?)));
    if let Some((range, recorded)) = known {
        let new = HistogramTotal::new(recorded.scale());
        totals.entry(recorded).or_insert(new).add_count(range, n);
    }
    true
}

impl Shared {
    fn register(&self, recorded: Recorded) -> Arc<Histogram> {
        let one = Arc::new(Histogram::new(recorded.scale()));
        lock(&self.recorded).push((recorded, Arc::clone(&one)));
        one
    }
}

/// Records the requests of one worker.
pub(crate) struct Recorder {
    durations: HashMap<SeriesKey, Arc<Histogram>, BuildKeyHasher>,
    queue_wait: Arc<Histogram>,
    request_bytes: Arc<Histogram>,
    response_bytes: Arc<Histogram>,
    shared: Arc<Shared>,
}

impl Recorder {
    /// `route` is called for the first request of a series.
    pub(crate) fn duration(&mut self, key: SeriesKey, took: Duration, route: impl FnOnce() -> String) {
        match self.durations.get(&key) {
            Some(one) => one.record(nanos(took)),
            None => self.first_duration(key, took, route()),
        }
    }

    #[cold]
    fn first_duration(&mut self, key: SeriesKey, took: Duration, route: String) {
        let method = METHODS.get(usize::from(key.method)).copied().unwrap_or("_OTHER");
        let one = self.shared.register(Recorded::Duration { route, method, class: key.class });
        one.record(nanos(took));
        self.durations.insert(key, one);
    }

    pub(crate) fn queue_wait(&self, waited: Duration) {
        self.queue_wait.record(nanos(waited));
    }

    pub(crate) fn request_bytes(&self, bytes: u64) {
        self.request_bytes.record(bytes);
    }

    pub(crate) fn response_bytes(&self, bytes: u64) {
        self.response_bytes.record(bytes);
    }
}

fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(time.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duration(route: &str, method: &'static str, class: u8) -> Recorded {
        Recorded::Duration { route: route.to_owned(), method, class }
    }

    #[test]
    fn workers_add_up_and_pass_on() {
        let all = AllRequests::default();
        assert!(all.recorder().is_none(), "nobody wants it");
        all.want();
        let (mut a, mut b) = (all.recorder().unwrap(), all.recorder().unwrap());
        let get = SeriesKey::new(1, "GET", 200);
        a.duration(get, Duration::from_micros(50), || "/users/{id}".to_owned());
        b.duration(get, Duration::from_micros(60), || "/users/{id}".to_owned());
        b.duration(get, Duration::from_secs(60), || unreachable!("it is known"));
        b.duration(SeriesKey::new(0, "BREW", 404), Duration::ZERO, String::new);
        a.response_bytes(1000);
        all.handover(true, Duration::from_secs(2));
        all.handover(true, Duration::from_secs(2));
        let counts: Vec<u64> = all.totals().values().map(HistogramTotal::count).collect();
        let names: Vec<Recorded> = all.totals().keys().cloned().collect();
        let expected = [
            duration("", "_OTHER", 4),
            duration("/users/{id}", "GET", 2),
            Recorded::QueueWait,
            Recorded::RequestBytes,
            Recorded::ResponseBytes,
            Recorded::Handover { outcome: "committed" },
            Recorded::Handover { outcome: "failed" },
        ];
        assert_eq!(
            (names.as_slice(), counts.as_slice()),
            (expected.as_slice(), [1, 3, 0, 0, 1, 2, 0].as_slice())
        );

        let next = AllRequests::default();
        all.for_each_count(|name, n| assert!(next.inherit(name, n), "{name}"));
        let filled = |totals: Totals| totals.into_iter().filter(|(_, total)| total.count() > 0).collect();
        let (before, after): (Totals, Totals) = (filled(all.totals()), filled(next.totals()));
        assert_eq!(after, before);
    }

    #[test]
    fn methods_have_their_numbers() {
        for (n, method) in (0..).zip(METHODS) {
            assert_eq!(SeriesKey::new(1, method, 200), SeriesKey { route: 1, method: n, class: 2 });
        }
        assert_eq!(SeriesKey::new(1, "get", 999), SeriesKey { route: 1, method: 9, class: 9 });
    }

    #[test]
    fn names_of_counts() {
        for recorded in [duration("/a b/{x}=%/.é", "GET", 2), duration("", "_OTHER", 5), Recorded::QueueWait]
        {
            let name = recorded.to_string();
            assert!(name.is_ascii() && !name.contains([' ', '=']), "{name}");
            assert_eq!(Recorded::parse(&name), Some(recorded));
        }
        let all = AllRequests::default();
        assert!(!all.inherit("accepted", 1));
        for unknown in
            ["histogram.", "histogram.7.colour", "histogram.7.duration,GET", "histogram.7.duration,GET,x,/"]
        {
            assert!(all.inherit(unknown, 1) && all.totals().is_empty(), "{unknown}");
        }
    }
}
