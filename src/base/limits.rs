//! What bounds a server: sizes in [`Limits`], durations in [`Timeouts`]. Plain data; each field
//! says its default and why.

use std::time::Duration;

use super::error::{Error, Kind};

/// Sizes and counts that bound one server. Where 0 would leave every client without an answer, it is an error of
/// [`Server::serve`](crate::Server::serve); elsewhere it means what its field says.
///
/// ```
/// let limits = heirloom::Limits { body_bytes: 64 << 20, ..Default::default() };
/// # let _ = limits;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request head, request line and final empty line included. Default 64 KiB;
    /// above it 431.
    pub head_bytes: usize,
    /// Fields of a request head, and of a trailer section. Default 100; above it 431.
    pub head_fields: usize,
    /// Bytes of a request target. Default 8 KiB; above it 414 (RFC 9110 §4.1 asks for at least
    /// 8,000).
    pub target_bytes: usize,
    /// Bytes of a request body kept in memory; what is longer goes to an unlinked temporary file.
    /// Default 64 KiB. 0: all go to files.
    pub body_memory_bytes: usize,
    /// Bytes of a request body. Default 2 MiB; above it 413. 0: no bodies.
    pub body_bytes: u64,
    /// Bytes of a body that the handler left unread and that are still read, and dropped, so that
    /// the connection can be kept. Default 256 KiB; above it the connection closes, with 0 whenever a body is left.
    pub discard_bytes: u64,
    /// Bytes that connections may hold in memory, all together, while no worker has them: what has
    /// come of requests, and what clients have not taken of responses, but for a body that a handler
    /// returned in one piece, which may be shared. Default 64 MiB. Beyond it bodies go to temporary
    /// files at once; other requests get 503, and who is slow to take a response is closed. 0: that is what happens
    /// to all that does not come, or go, in one piece.
    pub buffered_bytes: u64,
    /// Bytes that request bodies may hold in temporary files, all together. Default 1 GiB; above it
    /// 503. Where the disk is full before that: 507. 0: no such files.
    pub temporary_bytes: u64,
    /// Bytes a second of a request body that a client must keep up with on average, after
    /// [`Timeouts::rate_grace`]. Default 256; below it 408. 0 for none.
    pub body_rate: u64,
    /// Bytes a second of a response that a client must take on average, after
    /// [`Timeouts::rate_grace`] of waiting for it; what the response's source takes is not counted.
    /// Default 256; below it the connection is closed. 0 for none.
    pub response_rate: u64,
    /// Connections open at once over all listeners. Default 16,384, and never more than the
    /// process's NOFILE limit allows; at the limit no more are accepted and the kernel's backlog
    /// pushes back.
    pub connections: usize,
    /// Connections open at once on one listener. Default: no limit of its own; at the limit no more are
    /// accepted there, and the kernel's backlog pushes back. Listeners of operators are not bound by it.
    pub connections_per_listener: usize,
    /// Connections that one address may have open at once, a /64 being one address of IPv6. Default: no
    /// limit, since all clients behind one proxy have its address. Above it 503, and closed. Connections by a unix
    /// socket have no address, and those by a listener of operators are not counted. `Some(0)` refuses all others.
    pub connections_per_peer: Option<usize>,
    /// Requests served on one connection before it is closed, announced. Default: no limit.
    pub requests_per_connection: u64,
    /// Share of the workers, in per cent, that may run streaming uploads at once. Default 50; at
    /// least one worker, and all with 100, which is the most that may be said.
    pub streaming_percent: u8,
    /// Threads for event streams and hijacked connections. Default 256; above it 503. 0: there are none.
    pub detached_threads: usize,
}

impl Limits {
    /// # Errors
    /// What can't be meant, since nobody would be answered.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let zeros = [
            ("head_bytes", self.head_bytes == 0, "no request would fit"),
            ("head_fields", self.head_fields == 0, "no request would fit, for each has a Host field"),
            ("target_bytes", self.target_bytes == 0, "no request would fit"),
            ("connections", self.connections == 0, "nobody could connect"),
            ("connections_per_listener", self.connections_per_listener == 0, "nobody could connect"),
            ("requests_per_connection", self.requests_per_connection == 0, "no request would be answered"),
        ];
        if let Some((name, _, why)) = zeros.iter().find(|(_, is_zero, _)| *is_zero) {
            return Err(Error::new(Kind::Config, format!("Limits::{name} is 0: {why}")));
        }
        match self.streaming_percent {
            0..=100 => Ok(()),
            more => {
                let text = format!("Limits::streaming_percent is {more}: 100 are all workers");
                Err(Error::new(Kind::Config, text))
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
            body_rate: 256,
            response_rate: 256,
            connections: 16_384,
            connections_per_listener: usize::MAX,
            connections_per_peer: None,
            requests_per_connection: u64::MAX,
            streaming_percent: 50,
            detached_threads: 256,
        }
    }
}

/// Durations that bound one server. Deadlines of connections are kept to a quarter of a second.
/// `Duration::MAX` is never. Where zero would cut off every client, or every successor, it is an error of
/// [`Server::serve`](crate::Server::serve).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of a request head to its last. Default 10 s; then 408.
    pub head: Duration,
    /// Between two requests of a connection, and before the first. Default 75 s; then closed. It is longer
    /// than the 60 s of common balancers, so that the balancer closes idle connections: if both close at
    /// the same time, a request that the balancer sends meets a closed connection.
    pub idle: Duration,
    /// Without a byte of a request body. Default 30 s; then 408.
    pub body_stall: Duration,
    /// Without a byte of a response taken by the client. Default 30 s; then closed.
    pub response_stall: Duration,
    /// Before a client's rate counts: [`Limits::body_rate`], [`Limits::response_rate`]. Default 10 s. Zero: at
    /// once.
    pub rate_grace: Duration,
    /// In the queue, waiting for a worker. Default 30 s; then 503 with `Retry-After`.
    pub queue_wait: Duration,
    /// From the start of a successor until it is prepared to serve. Default 60 s; then it is
    /// killed and the old generation serves on.
    pub ready: Duration,
    /// During which a successor that dies or fails is rolled back. Default 2 s; may be zero.
    pub probation: Duration,
    /// From the start of a drain to the drain deadline. Default 60 s. Zero: what is in flight is cut at once.
    pub drain: Duration,
    /// At a stop: how long readiness says no while connections are still accepted. Default 0 s.
    pub lame_duck: Duration,
    /// At a drain: how long an idle connection is kept for one more request, which is answered
    /// with `Connection: close`. Default 5 s.
    pub idle_grace: Duration,
}

/// Longer than a process lives, and short enough to be added to any [`Instant`](std::time::Instant).
pub(crate) const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

impl Timeouts {
    /// # Errors
    /// What can't be meant.
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
                    format!("Timeouts::{name} is zero: it would always have run out; Duration::MAX is never");
                Err(Error::new(Kind::Config, text))
            }
            None => Ok(()),
        }
    }

    /// Each no longer than can be counted: `Duration::MAX` for "never" is no mistake.
    pub(crate) fn within_reach(self) -> Timeouts {
        Timeouts {
            head: self.head.min(FAR),
            idle: self.idle.min(FAR),
            body_stall: self.body_stall.min(FAR),
            response_stall: self.response_stall.min(FAR),
            rate_grace: self.rate_grace.min(FAR),
            queue_wait: self.queue_wait.min(FAR),
            ready: self.ready.min(FAR),
            probation: self.probation.min(FAR),
            drain: self.drain.min(FAR),
            lame_duck: self.lame_duck.min(FAR),
            idle_grace: self.idle_grace.min(FAR),
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
    fn what_can_not_be_meant() {
        let is_error = |limits: Limits, name: &str| {
            let said = limits.check().unwrap_err().to_string();
            assert!(said.starts_with(&format!("Limits::{name} is ")), "{said}");
        };
        is_error(Limits { head_bytes: 0, ..Limits::default() }, "head_bytes");
        is_error(Limits { head_fields: 0, ..Limits::default() }, "head_fields");
        is_error(Limits { target_bytes: 0, ..Limits::default() }, "target_bytes");
        is_error(Limits { connections: 0, ..Limits::default() }, "connections");
        is_error(Limits { connections_per_listener: 0, ..Limits::default() }, "connections_per_listener");
        is_error(Limits { requests_per_connection: 0, ..Limits::default() }, "requests_per_connection");
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
            body_rate: 0,
            response_rate: 0,
            connections: 1,
            connections_per_listener: 1,
            connections_per_peer: Some(0),
            requests_per_connection: 1,
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
            ("body_rate", rate(l.body_rate)),
            ("response_rate", rate(l.response_rate)),
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
        ];
        let page = include_str!("../../docs/configuration.md");
        for (name, value) in rows {
            let said = cell(page, &format!("`{name}`"));
            let goes_on =
                said.strip_prefix(&value).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ',']));
            assert!(goes_on, "{name}: {value} is documented as {said:?}");
        }
        assert_eq!((l.connections_per_listener, l.connections_per_peer), (usize::MAX, None));
        assert_eq!(l.requests_per_connection, u64::MAX);
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
                    rate(l.body_rate),
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
                    rate(l.response_rate),
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
