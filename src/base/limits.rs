//! What bounds a server: sizes and counts in [`Limits`], durations in [`Timeouts`].
//!
//! Both will grow: their fields are private and set by methods, so that a new limit breaks no program. "No limit" is
//! `None` everywhere. A bound that would refuse every client is a mistake, and an error at startup.

use std::time::Duration;

use super::error::Error;

/// Sizes and counts that bound one server.
///
/// `None` means no limit, where a limit is optional. A 0 that would refuse every client is an error of
/// [`Server::serve`](crate::Server::serve); each method says what 0 means otherwise.
///
/// ```
/// let limits = heirloom::Limits::new().body_bytes(64 << 20).requests_per_connection(1_000);
/// # let _ = limits;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Limits {
    pub(crate) head_bytes: usize,
    pub(crate) head_fields: usize,
    pub(crate) target_bytes: usize,
    pub(crate) body_memory_bytes: usize,
    pub(crate) body_bytes: u64,
    pub(crate) discard_bytes: u64,
    pub(crate) buffered_bytes: u64,
    pub(crate) temporary_bytes: u64,
    pub(crate) body_rate: Option<u64>,
    pub(crate) response_rate: Option<u64>,
    pub(crate) connections: usize,
    pub(crate) connections_per_listener: Option<usize>,
    pub(crate) connections_per_peer: Option<usize>,
    pub(crate) requests_per_connection: Option<u64>,
    pub(crate) streaming_percent: u8,
    pub(crate) detached_threads: usize,
}

impl Limits {
    /// The defaults.
    pub fn new() -> Limits {
        Limits::default()
    }

    /// Bytes of a request head, including the request line and the final empty line. Default 64 KiB; above it 431.
    pub fn head_bytes(mut self, bytes: usize) -> Limits {
        self.head_bytes = bytes;
        self
    }

    /// Fields of a request head, and of a trailer section. Default 100; above it 431.
    pub fn head_fields(mut self, fields: usize) -> Limits {
        self.head_fields = fields;
        self
    }

    /// Bytes of a request target. Default 8 KiB; above it 414 (RFC 9110 §4.1 recommends at least 8,000).
    pub fn target_bytes(mut self, bytes: usize) -> Limits {
        self.target_bytes = bytes;
        self
    }

    /// Bytes of a request body that are kept in memory; a longer body goes to an unlinked temporary file. Default
    /// 64 KiB. 0: every body goes to a file.
    pub fn body_memory_bytes(mut self, bytes: usize) -> Limits {
        self.body_memory_bytes = bytes;
        self
    }

    /// Bytes of a request body. Default 2 MiB; above it 413. 0: no bodies.
    pub fn body_bytes(mut self, bytes: u64) -> Limits {
        self.body_bytes = bytes;
        self
    }

    /// Bytes of a body that the handler left unread and that are still read, and dropped, so that the connection can
    /// be kept. Default 256 KiB; above it the connection is closed. 0: it is closed whenever a body is left unread.
    pub fn discard_bytes(mut self, bytes: u64) -> Limits {
        self.discard_bytes = bytes;
        self
    }

    /// Total bytes buffered for partially received requests and unsent responses, while no worker has the
    /// connection. Bodies that a handler returned as one `Bytes` are not counted, because they may be shared.
    /// Default 64 MiB. Beyond it request bodies go to temporary files at once, other requests get 503, and a client
    /// that is slow to read its response is closed. 0: this applies to everything that is not received or sent in one
    /// piece.
    pub fn buffered_bytes(mut self, bytes: u64) -> Limits {
        self.buffered_bytes = bytes;
        self
    }

    /// Total bytes of request bodies in temporary files. Default 1 GiB; above it 503. If the disk is full before
    /// that: 507. 0: no such files.
    pub fn temporary_bytes(mut self, bytes: u64) -> Limits {
        self.temporary_bytes = bytes;
        self
    }

    /// Bytes a second of a request body that a client must send on average, after [`Timeouts::rate_grace`]. Default
    /// 256; below it 408. `None`: no such limit.
    pub fn body_rate(mut self, bytes: impl Into<Option<u64>>) -> Limits {
        self.body_rate = bytes.into();
        self
    }

    /// Bytes a second of a response that a client must read on average, after [`Timeouts::rate_grace`] of waiting
    /// for it; time that the response's source takes is not counted. Default 256; below it the connection is
    /// closed. `None`: no such limit.
    pub fn response_rate(mut self, bytes: impl Into<Option<u64>>) -> Limits {
        self.response_rate = bytes.into();
        self
    }

    /// Connections open at once over all listeners. Default 16,384, and never more than the process's NOFILE limit
    /// allows. At the limit no more are accepted; new clients wait in the kernel's backlog.
    pub fn connections(mut self, connections: usize) -> Limits {
        self.connections = connections;
        self
    }

    /// Connections open at once on one listener. Default: no limit of its own. At the limit no more are accepted
    /// there; new clients wait in the kernel's backlog. It does not bind admin listeners.
    pub fn connections_per_listener(mut self, connections: impl Into<Option<usize>>) -> Limits {
        self.connections_per_listener = connections.into();
        self
    }

    /// Connections that one address may have open at once; a /64 counts as one IPv6 address. Default: no limit,
    /// since all clients behind one proxy have its address. Above it 503, and closed. Connections on unix sockets
    /// have no address, and those to an admin listener are not counted. 0 refuses all others.
    pub fn connections_per_peer(mut self, connections: impl Into<Option<usize>>) -> Limits {
        self.connections_per_peer = connections.into();
        self
    }

    /// Requests served on one connection before it is closed; the last response announces the close. Default: no
    /// limit.
    pub fn requests_per_connection(mut self, requests: impl Into<Option<u64>>) -> Limits {
        self.requests_per_connection = requests.into();
        self
    }

    /// Share of the workers, in per cent, that may run streaming uploads at once. Default 50; always at least one
    /// worker. At most 100.
    pub fn streaming_percent(mut self, percent: u8) -> Limits {
        self.streaming_percent = percent;
        self
    }

    /// Threads for event streams, WebSockets and other upgraded connections. Default 256; above it 503. 0: there are
    /// none.
    pub fn detached_threads(mut self, threads: usize) -> Limits {
        self.detached_threads = threads;
        self
    }

    /// Whether a connection with `served` requests has had its last one.
    pub(crate) fn is_last_request(&self, served: u64) -> bool {
        self.requests_per_connection.is_some_and(|most| served >= most)
    }

    /// # Errors
    /// A bound that would refuse every client.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let zeros = [
            ("head_bytes", self.head_bytes == 0, "no request would fit"),
            ("head_fields", self.head_fields == 0, "no request would fit, because each has a Host field"),
            ("target_bytes", self.target_bytes == 0, "no request would fit"),
            ("body_rate", self.body_rate == Some(0), "None means no limit"),
            ("response_rate", self.response_rate == Some(0), "None means no limit"),
            ("connections", self.connections == 0, "no client could connect"),
            ("connections_per_listener", self.connections_per_listener == Some(0), "no client could connect"),
            (
                "requests_per_connection",
                self.requests_per_connection == Some(0),
                "no request would be answered",
            ),
        ];
        if let Some((name, _, why)) = zeros.iter().find(|(_, is_zero, _)| *is_zero) {
            return Err(Error::config(format!("Limits::{name} is 0: {why}")));
        }
        match self.streaming_percent {
            0..=100 => Ok(()),
            more => {
                let text = format!("Limits::streaming_percent is {more}: 100 is all workers");
                Err(Error::config(text))
            }
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_bytes: 64 << 10,
            head_fields: 100,
            target_bytes: 8 << 10,
            body_memory_bytes: 64 << 10,
            body_bytes: 2 << 20,
            discard_bytes: 256 << 10,
            buffered_bytes: 64 << 20,
            temporary_bytes: 1 << 30,
            body_rate: Some(256),
            response_rate: Some(256),
            connections: 16_384,
            connections_per_listener: None,
            connections_per_peer: None,
            requests_per_connection: None,
            streaming_percent: 50,
            detached_threads: 256,
        }
    }
}

/// Durations that bound one server. Deadlines of connections are accurate to a quarter of a second.
///
/// `None` is no limit. A zero that would cut off every client, or every successor, is an error of
/// [`Server::serve`](crate::Server::serve).
///
/// ```
/// use std::time::Duration;
/// let timeouts = heirloom::Timeouts::new().drain(Duration::from_secs(20)).queue_wait(None);
/// # let _ = timeouts;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Timeouts {
    pub(crate) head: Duration,
    pub(crate) idle: Duration,
    pub(crate) body_stall: Duration,
    pub(crate) response_stall: Duration,
    pub(crate) rate_grace: Duration,
    pub(crate) queue_wait: Duration,
    pub(crate) ready: Duration,
    pub(crate) probation: Duration,
    pub(crate) drain: Duration,
    pub(crate) lame_duck: Duration,
    pub(crate) idle_grace: Duration,
    pub(crate) close_spread: Duration,
}

/// Longer than a process lives, and short enough to be added to any [`Instant`](std::time::Instant).
pub(crate) const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// `None` means never, as does a duration that is too long to be added to an instant.
pub(crate) fn within_reach(time: impl Into<Option<Duration>>) -> Duration {
    time.into().unwrap_or(FAR).min(FAR)
}

impl Timeouts {
    /// The defaults.
    pub fn new() -> Timeouts {
        Timeouts::default()
    }

    /// From the first byte of a request head to its last. Default 10 s; then 408.
    pub fn head(mut self, time: impl Into<Option<Duration>>) -> Timeouts {
        self.head = within_reach(time);
        self
    }

    /// Between two requests of a connection, and before the first. Default 75 s; then closed. This is longer than
    /// the 60 s of common load balancers, so that the balancer closes idle connections: if both close at the same
    /// time, a request that the balancer sends meets a closed connection.
    pub fn idle(mut self, time: impl Into<Option<Duration>>) -> Timeouts {
        self.idle = within_reach(time);
        self
    }

    /// Without a byte of a request body. Default 30 s; then 408.
    pub fn body_stall(mut self, time: impl Into<Option<Duration>>) -> Timeouts {
        self.body_stall = within_reach(time);
        self
    }

    /// Without the client reading a byte of a response. Default 30 s; then closed.
    pub fn response_stall(mut self, time: impl Into<Option<Duration>>) -> Timeouts {
        self.response_stall = within_reach(time);
        self
    }

    /// Before a client's rate counts: [`Limits::body_rate`], [`Limits::response_rate`]. Default 10 s. Zero: at once.
    pub fn rate_grace(mut self, time: impl Into<Option<Duration>>) -> Timeouts {
        self.rate_grace = within_reach(time);
        self
    }

    /// In the queue, waiting for a worker. Default 30 s; then 503 with `Retry-After`.
    pub fn queue_wait(mut self, time: impl Into<Option<Duration>>) -> Timeouts {
        self.queue_wait = within_reach(time);
        self
    }

    /// From the start of a successor until it is prepared to serve. Default 60 s; then it is killed and the old
    /// generation continues to serve.
    pub fn ready(mut self, time: impl Into<Option<Duration>>) -> Timeouts {
        self.ready = within_reach(time);
        self
    }

    /// How long a successor that dies or fails is rolled back. Default 2 s; may be zero.
    pub fn probation(mut self, time: impl Into<Option<Duration>>) -> Timeouts {
        self.probation = within_reach(time);
        self
    }

    /// From the start of a drain to the drain deadline. Default 60 s. Zero: requests in flight are aborted at once.
    pub fn drain(mut self, time: impl Into<Option<Duration>>) -> Timeouts {
        self.drain = within_reach(time);
        self
    }

    /// At a stop: how long `/readyz` fails while connections are still accepted. Default 0 s.
    pub fn lame_duck(mut self, time: impl Into<Option<Duration>>) -> Timeouts {
        self.lame_duck = within_reach(time);
        self
    }

    /// At a drain: how long an idle connection is kept for one more request, which is answered with
    /// `Connection: close`. Default 5 s.
    pub fn idle_grace(mut self, time: impl Into<Option<Duration>>) -> Timeouts {
        self.idle_grace = within_reach(time);
        self
    }

    /// At a drain: the time over which the ends of connections that can't move are spread evenly, so that their clients do not
    /// all reconnect in one moment. Each connection has its turn; until then it is served as before. At its turn the next
    /// response says `Connection: close`, an idle connection has [`idle_grace`](Timeouts::idle_grace) left, and event streams, WebSockets and
    /// other code that asks whether the process drains are notified. The last turn comes `idle_grace` before the
    /// drain deadline at the latest. Default 0 s: all at once.
    pub fn close_spread(mut self, time: Duration) -> Timeouts {
        self.close_spread = within_reach(time);
        self
    }

    /// # Errors
    /// A timeout that would expire at once.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let times = [
            ("head", self.head),
            ("idle", self.idle),
            ("body_stall", self.body_stall),
            ("response_stall", self.response_stall),
            ("queue_wait", self.queue_wait),
            ("ready", self.ready),
        ];
        match times.iter().find(|(_, time)| time.is_zero()) {
            Some((name, _)) => {
                let text =
                    format!("Timeouts::{name} is zero: it would expire at once; None means no timeout");
                Err(Error::config(text))
            }
            None => Ok(()),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body_stall: Duration::from_secs(30),
            response_stall: Duration::from_secs(30),
            rate_grace: Duration::from_secs(10),
            queue_wait: Duration::from_secs(30),
            ready: Duration::from_secs(60),
            probation: Duration::from_secs(2),
            drain: Duration::from_secs(60),
            lame_duck: Duration::ZERO,
            idle_grace: Duration::from_secs(5),
            close_spread: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: u64) -> String {
        match n {
            n if n >= 1 << 30 => format!("{} GiB", n >> 30),
            n if n >= 1 << 20 => format!("{} MiB", n >> 20),
            n => format!("{} KiB", n >> 10),
        }
    }

    /// The second cell of the row that begins with `first`.
    fn cell<'a>(page: &'a str, first: &str) -> &'a str {
        let row =
            page.lines().find_map(|line| line.strip_prefix("| ")?.strip_prefix(first)?.strip_prefix(" | "));
        row.and_then(|rest| rest.split(" | ").next()).unwrap_or_else(|| panic!("no row {first:?}"))
    }

    #[test]
    fn mistakes_are_refused() {
        let is_error = |limits: Limits, name: &str| {
            let said = limits.check().unwrap_err().to_string();
            assert!(said.starts_with(&format!("Limits::{name} is ")), "{said}");
        };
        is_error(Limits { head_bytes: 0, ..Limits::default() }, "head_bytes");
        is_error(Limits { head_fields: 0, ..Limits::default() }, "head_fields");
        is_error(Limits { target_bytes: 0, ..Limits::default() }, "target_bytes");
        is_error(Limits { connections: 0, ..Limits::default() }, "connections");
        is_error(
            Limits { connections_per_listener: Some(0), ..Limits::default() },
            "connections_per_listener",
        );
        is_error(Limits { requests_per_connection: Some(0), ..Limits::default() }, "requests_per_connection");
        is_error(Limits::new().body_rate(0), "body_rate");
        is_error(Limits::new().response_rate(0), "response_rate");
        is_error(Limits { streaming_percent: 101, ..Limits::default() }, "streaming_percent");
        let least = Limits {
            head_bytes: 1,
            head_fields: 1,
            target_bytes: 1,
            body_memory_bytes: 0,
            body_bytes: 0,
            discard_bytes: 0,
            buffered_bytes: 0,
            temporary_bytes: 0,
            body_rate: Some(1),
            response_rate: None,
            connections: 1,
            connections_per_listener: Some(1),
            connections_per_peer: Some(0),
            requests_per_connection: Some(1),
            streaming_percent: 0,
            detached_threads: 0,
        };
        least.check().unwrap();
        let is_error = |timeouts: Timeouts, name: &str| {
            let said = timeouts.check().unwrap_err().to_string();
            assert!(said.starts_with(&format!("Timeouts::{name} is zero: ")), "{said}");
        };
        let zero = Duration::ZERO;
        is_error(Timeouts { head: zero, ..Timeouts::default() }, "head");
        is_error(Timeouts { idle: zero, ..Timeouts::default() }, "idle");
        is_error(Timeouts { body_stall: zero, ..Timeouts::default() }, "body_stall");
        is_error(Timeouts { response_stall: zero, ..Timeouts::default() }, "response_stall");
        is_error(Timeouts { queue_wait: zero, ..Timeouts::default() }, "queue_wait");
        is_error(Timeouts { ready: zero, ..Timeouts::default() }, "ready");
        let short = Timeouts {
            rate_grace: zero,
            probation: zero,
            drain: zero,
            lame_duck: zero,
            idle_grace: zero,
            close_spread: zero,
            ..Timeouts::default()
        };
        short.check().unwrap();
    }

    #[test]
    fn defaults_are_as_documented() {
        let (l, t) = (Limits::default(), Timeouts::default());
        let rate = |n: u64| format!("{n} bytes/s");
        let secs = |time: Duration| format!("{} s", time.as_secs());
        let rows = [
            ("head_bytes", bytes(l.head_bytes as u64)),
            ("head_fields", l.head_fields.to_string()),
            ("target_bytes", bytes(l.target_bytes as u64)),
            ("body_memory_bytes", bytes(l.body_memory_bytes as u64)),
            ("body_bytes", bytes(l.body_bytes)),
            ("discard_bytes", bytes(l.discard_bytes)),
            ("buffered_bytes", bytes(l.buffered_bytes)),
            ("temporary_bytes", bytes(l.temporary_bytes)),
            ("body_rate", rate(l.body_rate.unwrap())),
            ("response_rate", rate(l.response_rate.unwrap())),
            ("connections", format!("{},{:03}", l.connections / 1_000, l.connections % 1_000)),
            ("streaming_percent", l.streaming_percent.to_string()),
            ("detached_threads", l.detached_threads.to_string()),
            ("head", secs(t.head)),
            ("idle", secs(t.idle)),
            ("body_stall", secs(t.body_stall)),
            ("response_stall", secs(t.response_stall)),
            ("rate_grace", secs(t.rate_grace)),
            ("queue_wait", secs(t.queue_wait)),
            ("ready", secs(t.ready)),
            ("probation", secs(t.probation)),
            ("drain", secs(t.drain)),
            ("lame_duck", secs(t.lame_duck)),
            ("idle_grace", secs(t.idle_grace)),
            ("close_spread", secs(t.close_spread)),
        ];
        let page = include_str!("../../docs/configuration.md");
        for (name, value) in rows {
            let said = cell(page, &format!("`{name}`"));
            let goes_on =
                said.strip_prefix(&value).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ',']));
            assert!(goes_on, "{name}: {value} is documented as {said:?}");
        }
        assert_eq!((l.connections_per_listener, l.connections_per_peer), (None, None));
        assert_eq!(l.requests_per_connection, None);
        for name in ["connections_per_listener", "connections_per_peer", "requests_per_connection"] {
            assert!(cell(page, &format!("`{name}`")).starts_with("no limit"), "{name}");
        }
        let page = include_str!("../../docs/security.md");
        assert!(page.contains(&format!("`Timeouts::idle` ({})", secs(t.idle))));
        // Common balancers keep theirs for 60 s, and must be the side that closes.
        assert!(t.idle > Duration::from_secs(60));
        let rows = [
            (
                "a head",
                format!(
                    "{}, {} fields, target {}, {}",
                    bytes(l.head_bytes as u64),
                    l.head_fields,
                    bytes(l.target_bytes as u64),
                    secs(t.head)
                ),
            ),
            (
                "a body",
                format!(
                    "{}; {} without a byte; {} after {}",
                    bytes(l.body_bytes),
                    secs(t.body_stall),
                    rate(l.body_rate.unwrap()),
                    secs(t.rate_grace)
                ),
            ),
            (
                "a body in memory; all of them, with half heads and untaken responses",
                format!("{}; {}", bytes(l.body_memory_bytes as u64), bytes(l.buffered_bytes)),
            ),
            ("temporary files in all", bytes(l.temporary_bytes)),
            (
                "a response that is not taken",
                format!(
                    "{} without a byte; {} after {} of waiting",
                    secs(t.response_stall),
                    rate(l.response_rate.unwrap()),
                    secs(t.rate_grace)
                ),
            ),
            ("what a handler left unread", format!("{}, {}", bytes(l.discard_bytes), secs(t.body_stall))),
            ("waiting for a worker", secs(t.queue_wait)),
        ];
        for (name, value) in rows {
            assert_eq!(cell(page, name), value, "{name}");
        }
    }
}
