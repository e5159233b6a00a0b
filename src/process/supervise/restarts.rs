//! When a generation that has crashed is restarted. Pure.
//!
//! The first five crashes within a minute are restarted at once: clients wait in the accept queues meanwhile. After that
//! the pauses double, from one second to sixteen; a crash after those is the last one, and the supervisor ends with its
//! status. After a minute without a crash the count starts again.

use std::time::Duration;

/// Crashes that are restarted at once.
const AT_ONCE: u32 = 5;
/// Pauses after those, each twice as long as the one before.
const PAUSES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A generation that has lived for this long has recovered.
const CALM: Duration = Duration::from_secs(60);

/// Crashes since the service was calm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restarts(pub(crate) u32);

impl Restarts {
    /// A generation has crashed that was started `lived` ago: the pause before the next one is started. None: it is given up.
    pub(crate) fn crash(&mut self, lived: Duration) -> Option<Duration> {
        self.0 = if lived >= CALM { 1 } else { self.0.saturating_add(1) };
        match self.0.checked_sub(AT_ONCE.saturating_add(1)) {
            None => Some(Duration::ZERO),
            Some(n) if n < PAUSES => Some(FIRST_PAUSE.saturating_mul(1 << n)),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_at_once_then_pauses_then_the_end() {
        let mut restarts = Restarts::default();
        let seconds: Vec<Option<u64>> =
            (0..11).map(|_| restarts.crash(Duration::from_secs(1)).map(|pause| pause.as_secs())).collect();
        let expected = [0, 0, 0, 0, 0, 1, 2, 4, 8, 16].map(Some).into_iter().chain([None]);
        assert_eq!(seconds, expected.collect::<Vec<_>>());
        assert_eq!(restarts.crash(CALM), Some(Duration::ZERO), "it was calm");
        assert_eq!(restarts, Restarts(1));
    }
}
