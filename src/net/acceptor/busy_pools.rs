//! When the log says that all workers of a pool are busy while connections wait.
//!
//! A line is due when the first connection has waited for a second and the last line is a minute old, so that neither a
//! short burst nor an hour of overload fills the log.

use std::time::{Duration, Instant};

use crate::net::scheduler::queue::Backlog;

/// How long the first connection waits before that is logged. Where `Timeouts::queue_wait` is shorter, that.
const LONG: Duration = Duration::from_secs(1);
/// The time between two lines about one pool.
const PAUSE: Duration = Duration::from_secs(60);

/// What was logged about one pool.
#[derive(Default)]
pub(super) struct BusyLog {
    at: Option<Instant>,
}

impl BusyLog {
    /// Whether a line is due for this backlog. If so, it counts as logged.
    pub(super) fn is_due(&mut self, backlog: Backlog, queue_wait: Duration, now: Instant) -> bool {
        let is_due = backlog.waits >= LONG.min(queue_wait)
            && self.at.is_none_or(|at| now.saturating_duration_since(at) >= PAUSE);
        if is_due {
            self.at = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_after_a_second_and_then_once_a_minute() {
        let start = Instant::now();
        let mut log = BusyLog::default();
        let queue_wait = Duration::from_secs(30);
        // Milliseconds since the start, how long the first has waited, and whether a line is due.
        let looks = [
            (0, 0, false),
            (999, 999, false),
            (1_000, 1_000, true),
            (1_250, 1_250, false),
            (30_000, 30_000, false),
            (60_999, 5_000, false),
            (61_000, 999, false),
            (61_250, 1_249, true),
            (61_500, 1_499, false),
            (200_000, 1_000, true),
        ];
        for (at, waits, is_due) in looks {
            let backlog = Backlog { connections: 1, waits: Duration::from_millis(waits) };
            let now = start + Duration::from_millis(at);
            assert_eq!(log.is_due(backlog, queue_wait, now), is_due, "{at} ms, waits for {waits} ms");
        }
    }

    #[test]
    fn a_short_queue_wait_makes_the_line_due_earlier() {
        let backlog = Backlog { connections: 9, waits: Duration::from_millis(300) };
        let (mut log, queue_wait) = (BusyLog::default(), Duration::from_millis(300));
        assert!(log.is_due(backlog, queue_wait, Instant::now()));
    }
}
