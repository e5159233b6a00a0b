//! Limits how often a client may ask.
//!
//! **The generic cell rate algorithm, written here**: per key one number, the time until which the requests so far are paid
//! for. The crate governor has the same, but brings 20 crates, futures and timers among them, and its table of keys has no
//! bound.
//!
//! **Two tables bound the memory.** A key is in the younger one; when that is full, or after the time in which any key is
//! forgiven, it becomes the older one, whose keys are dropped at the next change. So neither a request nor a flood of new
//! keys ever makes a request wait for a scan. Keys are kept as keyed hashes of 64 bits: each takes the same memory, and
//! no client can find another one with the same.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderName, StatusCode};

use crate::base::sync::lock;
use crate::web::handler::{EarlyResponse, Wrapper};
use crate::web::response::{ResponseExt, plain};
use crate::{Request, RequestExt};

/// Refuses requests beyond a rate with 429 (Too Many Requests) and `Retry-After`, before their bodies are received.
///
/// `RateLimit::new(100, Duration::from_secs(60))` allows each client 100 requests a minute: up to 100 at once, and then one each
/// 0.6 s. A client is its address ([`RequestExt::client`], so that of a proxy's client behind a trusted proxy), in IPv6 its
/// network of 64 bits; [`by_header`](RateLimit::by_header) and [`by`](RateLimit::by) count by something else.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::wrap::RateLimit;
/// use std::time::Duration;
///
/// let per_hour = |n| RateLimit::new(n, Duration::from_secs(3600));
/// let login = (|_: Request| "welcome\n").wrap(per_hour(20).burst(2));
/// let router = Router::new().post("/login", login).get("/", |_: Request| "hello\n").wrap(per_hour(10_000));
/// let ask = || router.call(http::Request::post("/login").body(Body::empty()).unwrap());
/// assert_eq!((ask().status(), ask().status()), (StatusCode::OK, StatusCode::OK));
/// let refused = ask();
/// assert_eq!((refused.status(), &refused.headers()["retry-after"]), (StatusCode::TOO_MANY_REQUESTS, &HeaderValue::from(180)));
/// ```
///
/// Each process counts for itself: during a handover a client may use the limits of both generations, and a new generation starts
/// at zero. Clones count together. Limit several machines in the proxy before them.
#[derive(Clone)]
pub struct RateLimit {
    requests: u32,
    per: Duration,
    burst: u32,
    max_keys: usize,
    key: Key,
    counts: Arc<Mutex<Counts>>,
}

/// What a request is counted by. None: it is not limited.
type KeyFn = Arc<dyn Fn(&Request, &RandomState) -> Option<u64> + Send + Sync>;

#[derive(Clone)]
enum Key {
    Client,
    Header(HeaderName),
    By(KeyFn),
}

struct Counts {
    start: Instant,
    hasher: RandomState,
    /// By key: until when its requests are paid for, since `start`.
    young: HashMap<u64, Duration>,
    old: HashMap<u64, Duration>,
    /// When `young` was started.
    since: Duration,
}

impl RateLimit {
    /// `requests` in the time `per`, for each client: that many at once, and one more each time that a part of `per` is over.
    pub fn new(requests: u32, per: Duration) -> RateLimit {
        let counts = Counts {
            start: Instant::now(),
            hasher: RandomState::new(),
            young: HashMap::new(),
            old: HashMap::new(),
            since: Duration::ZERO,
        };
        let counts = Arc::new(Mutex::new(counts));
        RateLimit { requests, per, burst: requests, max_keys: 100_000, key: Key::Client, counts }
    }

    /// How many requests may come at once. Default: as many as in the whole time.
    #[must_use]
    pub fn burst(mut self, requests: u32) -> RateLimit {
        self.burst = requests;
        self
    }

    /// Counts by the value of this field, such as an API key, and requests without it by their client. A client can send any
    /// value: check it in a guard outside of this one, or let a proxy set it.
    ///
    /// # Panics
    /// If the name is not one of a header field.
    #[must_use]
    pub fn by_header(mut self, name: &'static str) -> RateLimit {
        self.key = Key::Header(HeaderName::from_static(name));
        self
    }

    /// Counts by what `key` returns for the head of a request. Requests for which it is None are not limited.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// use heirloom::wrap::{BasicUser, RateLimit};
    /// use std::time::Duration;
    ///
    /// /// By the user that `BasicAuth`, which must be outside of this, has let in.
    /// let by_user = RateLimit::new(60, Duration::from_secs(60))
    ///     .by(|req: &Request| req.extensions().get::<BasicUser>().map(|user| user.0.clone()));
    /// # let _ = by_user;
    /// ```
    #[must_use]
    pub fn by<K: Hash>(mut self, key: impl Fn(&Request) -> Option<K> + Send + Sync + 'static) -> RateLimit {
        self.key = Key::By(Arc::new(move |request, hasher| key(request).map(|key| hasher.hash_one(key))));
        self
    }

    /// How many keys are remembered at most. Default 100,000, about 4 MB. If more come in the time of a burst, the oldest are
    /// forgotten, and their clients may ask more often.
    #[must_use]
    pub fn max_keys(mut self, keys: usize) -> RateLimit {
        self.max_keys = keys;
        self
    }

    /// The time that one request costs.
    fn interval(&self) -> Duration {
        self.per.checked_div(self.requests).unwrap_or_default()
    }

    fn key(&self, request: &Request, hasher: &RandomState) -> Option<u64> {
        match &self.key {
            Key::By(key) => key(request, hasher),
            Key::Header(name) => match request.headers().get(name) {
                Some(value) => Some(hasher.hash_one(("field", value.as_bytes()))),
                None => Some(hasher.hash_one(("client", client(request)))),
            },
            Key::Client => Some(hasher.hash_one(("client", client(request)))),
        }
    }

    /// Counts a request. None: it may go on. Otherwise the time after which the next one may.
    fn count(&self, request: &Request, now: Instant) -> Option<Duration> {
        // The key may be code of the program's, which should not run under the lock.
        let hasher = lock(&self.counts).hasher.clone();
        let key = self.key(request, &hasher)?;
        let interval = self.interval();
        let most = interval.saturating_mul(self.burst);
        let mut counts = lock(&self.counts);
        let now = now.saturating_duration_since(counts.start);
        counts.rotate(now, most, self.max_keys);
        let paid = counts.paid(key).unwrap_or(now).max(now);
        let after = paid.saturating_add(interval);
        let wait = after.saturating_sub(now).checked_sub(most).filter(|wait| !wait.is_zero());
        counts.young.insert(key, if wait.is_some() { paid } else { after });
        wait
    }
}

impl Counts {
    fn paid(&self, key: u64) -> Option<Duration> {
        self.young.get(&key).or_else(|| self.old.get(&key)).copied()
    }

    /// Drops the old keys when the young ones are too many, or as old as the time in which all requests are paid for.
    fn rotate(&mut self, now: Duration, time: Duration, max_keys: usize) {
        if self.young.len() >= max_keys.div_ceil(2) || now.saturating_sub(self.since) > time {
            self.old = std::mem::take(&mut self.young);
            self.since = now;
        }
    }
}

/// The client's address. All clients without one are one client.
fn client(request: &Request) -> Option<IpAddr> {
    request.client().ip().map(|ip| match ip.to_canonical() {
        // A subscriber has a network of this size, or a larger one.
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    })
}

impl Wrapper for RateLimit {
    fn guard(&self, request: &mut Request) -> Result<(), EarlyResponse> {
        match self.count(request, Instant::now()) {
            None => Ok(()),
            Some(wait) => {
                let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
                Err(plain(StatusCode::TOO_MANY_REQUESTS).with_header(RETRY_AFTER, seconds).into())
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        match (self.interval().is_zero(), self.burst, self.max_keys) {
            (true, ..) => Err(format!("RateLimit::new({}, {:?}) is no rate", self.requests, self.per)),
            (_, 0, _) => Err("RateLimit::burst(0) would refuse every request".to_owned()),
            (.., 0) => Err("RateLimit::max_keys(0) would limit nobody".to_owned()),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("requests", &self.requests)
            .field("per", &self.per)
            .field("burst", &self.burst)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Handler;
    use crate::base::phase::PhaseWatch;
    use crate::net::conn_info::ConnInfo;
    use crate::web::wrap::testing::request;

    const MINUTE: Duration = Duration::from_secs(60);

    fn from(peer: &str) -> Request {
        let peer = Some(format!("{peer}:1000").parse().unwrap());
        let mut request = Request::default();
        let conn_info = Arc::new(ConnInfo::new(peer, PhaseWatch::new(), 1));
        request.body_mut().set_received(conn_info, bytes::Bytes::new());
        request
    }

    /// Which of these requests, at these milliseconds, have to wait for how many.
    fn waits(limit: &RateLimit, times: &[u64]) -> Vec<Option<u64>> {
        let start = lock(&limit.counts).start;
        let request = from("192.0.2.1");
        let wait = |ms: &u64| limit.count(&request, start + Duration::from_millis(*ms));
        times.iter().map(|ms| wait(ms).map(|wait| wait.as_millis() as u64)).collect()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let limit = || RateLimit::new(60, MINUTE);
        assert_eq!(
            waits(&limit().burst(1), &[0, 0, 999, 1000, 1500, 9000]),
            [None, Some(1000), Some(1), None, Some(500), None]
        );
        let three = limit().burst(3);
        assert_eq!(waits(&three, &[0, 0, 0, 0, 400]), [None, None, None, Some(1000), Some(600)]);
        // What was refused is not counted.
        assert_eq!(waits(&three, &[1000, 1000, 2000, 10_000]), [None, Some(1000), None, None]);
        assert_eq!(waits(&three, &[10_000, 10_000, 10_000]), [None, None, Some(1000)]);
        let all_at_once = waits(&limit(), &[0; 61]);
        assert_eq!((all_at_once.iter().flatten().count(), all_at_once[60]), (1, Some(1000)));
    }

    #[test]
    fn who_is_counted_together() {
        let same = |limit: &RateLimit, a: &Request, b: &Request| {
            let hasher = RandomState::new();
            limit.key(a, &hasher) == limit.key(b, &hasher)
        };
        let limit = RateLimit::new(1, MINUTE);
        for (a, b, together) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("[::ffff:192.0.2.1]", "192.0.2.1", true),
            ("[2001:db8:0:1::1]", "[2001:db8:0:1:ffff::]", true),
            ("[2001:db8:0:1::1]", "[2001:db8:0:2::1]", false),
        ] {
            assert_eq!(same(&limit, &from(a), &from(b)), together, "{a} {b}");
        }
        assert!(same(&limit, &Request::default(), &Request::default()), "without an address");
        let keyed = |value: &str| request("GET /", &[("x-key", value)]);
        let by_header = limit.clone().by_header("x-key");
        assert!(same(&by_header, &keyed("a"), &keyed("a")) && !same(&by_header, &keyed("a"), &keyed("b")));
        assert!(!same(&by_header, &from("192.0.2.1"), &from("192.0.2.2")));
        let by_path = limit.by(|req: &Request| req.uri().path().strip_prefix("/a").map(str::to_owned));
        assert!(!same(&by_path, &request("GET /a1", &[]), &request("GET /a2", &[])));
        assert_eq!(by_path.count(&request("GET /b", &[]), Instant::now()), None);
        assert_eq!(
            by_path.count(&request("GET /b", &[]), Instant::now()),
            None,
            "without a key there is no limit"
        );
    }

    fn ask_for(limit: &RateLimit, path: &str, at: Duration) -> Option<Duration> {
        let start = lock(&limit.counts).start;
        limit.count(&request(&format!("GET {path}"), &[]), start + at)
    }

    #[test]
    fn the_memory_is_bounded_and_keys_that_are_paid_for_are_dropped() {
        let limit =
            RateLimit::new(60, MINUTE).max_keys(10).by(|req: &Request| Some(req.uri().path().to_owned()));
        for n in 0..100 {
            assert_eq!(ask_for(&limit, &format!("/{n}"), Duration::ZERO), None);
            let counts = lock(&limit.counts);
            assert!(counts.young.len() <= 5 && counts.old.len() <= 5);
        }
        // One that asks all the time is not forgotten, however many others come.
        let patient =
            RateLimit::new(1, MINUTE).max_keys(10).by(|req: &Request| Some(req.uri().path().to_owned()));
        let ask = |path: &str| ask_for(&patient, path, Duration::ZERO).is_some();
        assert!(!ask("/me"));
        for n in 0..100 {
            assert!(!ask(&format!("/{n}")) && ask("/me"), "{n}");
        }
        // After the time of a burst, twice.
        for minutes in [2, 4] {
            assert_eq!(ask_for(&limit, "/x", minutes * MINUTE), None);
        }
        let counts = lock(&limit.counts);
        assert_eq!((counts.young.len(), counts.old.len()), (1, 1));
    }

    #[test]
    fn what_is_no_limit_is_an_error() {
        let said = |limit: RateLimit| (|_: Request| ()).wrap(limit).check();
        assert_eq!(said(RateLimit::new(1, MINUTE)), Ok(()));
        assert_eq!(said(RateLimit::new(0, MINUTE)), Err("RateLimit::new(0, 60s) is no rate".to_owned()));
        assert_eq!(
            said(RateLimit::new(9, Duration::ZERO)),
            Err("RateLimit::new(9, 0ns) is no rate".to_owned())
        );
        assert!(said(RateLimit::new(1, MINUTE).burst(0)).is_err());
        assert!(said(RateLimit::new(1, MINUTE).max_keys(0)).is_err());
    }
}
