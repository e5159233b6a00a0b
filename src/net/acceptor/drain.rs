//! The drain, as acceptor and workers see it: how long idle connections are kept.
//!
//! That the process drains is recorded in two places, for two questions. Its phase (`base::phase`), which the control loop
//! publishes, decides the answers to clients and to the program. `Drain` decides when idle connections end. It begins later,
//! when the acceptor carries out the command, which follows those that close listeners and begin the transfer. It is set
//! before parked connections get their new deadlines, so that one that is parked meanwhile gets the right one.

use std::sync::OnceLock;
use std::time::Duration;

use super::ticks::ticks_of;

/// Written once, by the acceptor.
#[derive(Default)]
pub(crate) struct Draining(OnceLock<DrainStart>);

struct DrainStart {
    /// How long an idle connection is kept.
    grace: Duration,
    /// The tick of the start.
    tick: u32,
}

impl Draining {
    /// `now` is a tick.
    pub(super) fn start(&self, grace: Duration, now: u32) {
        let _ = self.0.set(DrainStart { grace, tick: now });
    }

    pub(crate) fn has_started(&self) -> bool {
        self.0.get().is_some()
    }

    /// How long an idle connection is kept.
    pub(crate) fn grace(&self) -> Option<Duration> {
        self.0.get().map(|started| started.grace)
    }

    /// The latest deadline of a connection whose grace counts from the tick that `since` returns, which gets that of the start.
    pub(super) fn limit(&self, since: impl FnOnce(u32) -> u32) -> u32 {
        self.0.get().map_or(u32::MAX, |started| since(started.tick).saturating_add(ticks_of(started.grace)))
    }

    /// Whether a connection would have been kept for as long as it is, if it had been idle since the start. `since` returns from
    /// when on its grace counts then.
    pub(super) fn is_grace_over(&self, now: u32, since: impl FnOnce(u32) -> u32) -> bool {
        self.has_started() && now > self.limit(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::acceptor::ticks::TICK;

    #[test]
    fn idle_connections_are_kept_for_the_grace() {
        let drain = Draining::default();
        assert_eq!(
            (drain.has_started(), drain.limit(|_| 7), drain.is_grace_over(u32::MAX, |start| start)),
            (false, u32::MAX, false)
        );
        drain.start(3 * TICK, 10);
        assert_eq!(
            (drain.grace(), drain.limit(|_| 7), drain.limit(|start| start + 2)),
            (Some(3 * TICK), 10, 15)
        );
        let over = |now| drain.is_grace_over(now, |start| start);
        assert!(!over(13) && over(14));
        let over_at_its_turn = |now| drain.is_grace_over(now, |start| start.max(20));
        assert!(!over_at_its_turn(23) && over_at_its_turn(24));
        let brief = Draining::default();
        brief.start(Duration::ZERO, 10);
        assert_eq!(brief.limit(|start| start), 11, "a deadline of 0 means none");
    }
}
