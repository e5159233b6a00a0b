//! Timeouts of `poll` and `epoll_wait`.

use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

/// The time until `deadline`, or no timeout. Rounded up to whole milliseconds, because rounding down would spend the last
/// one in a busy loop, and capped at the longest possible timeout.
pub(crate) fn poll_timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    PollTimeout::try_from(left.saturating_add(Duration::from_micros(999))).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poll_timeouts_are_rounded_up_to_milliseconds() {
        let now = Instant::now();
        assert_eq!(poll_timeout(Some(now)), PollTimeout::ZERO);
        assert_eq!(poll_timeout(None), PollTimeout::NONE);
        assert_eq!(poll_timeout(now.checked_add(Duration::from_secs(1 << 40))), PollTimeout::MAX);
        let soon =
            poll_timeout(Some(Instant::now() + Duration::from_secs(3_600) - Duration::from_micros(500)));
        assert!(soon.as_millis().is_some_and(|ms| (3_590_000..=3_600_000).contains(&ms)), "{soon:?}");
    }
}
