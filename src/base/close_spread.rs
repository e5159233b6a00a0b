//! When the close of each connection is announced in a drain: of all at once, or spread over a time
//! ([`Timeouts::close_spread`](crate::Timeouts::close_spread)), so that their clients do not all reconnect in one moment.
//!
//! **A connection's place is the number of its slot times the golden ratio, modulo 1.** These places are even for any
//! number of neighbouring slots. So nothing has to be counted or assigned while connections come and go, and each
//! thread knows the place of its connection without asking another. The sequence starts at a random place in each process: instances
//! that stop together do not announce their closes in step, and no client is always the first.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The golden ratio's fraction, as 2^32 parts.
const GOLDEN: u32 = 0x9E37_79B9;

/// Where in the spread a connection's close is, as 2^32 parts of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClosePlace(u32);

impl ClosePlace {
    fn of(slot: u32, start: u32) -> ClosePlace {
        ClosePlace(slot.wrapping_mul(GOLDEN).wrapping_add(start))
    }

    /// How long after the start of the drain its close is announced.
    fn delay(self, spread: Duration) -> Duration {
        let nanos = spread.as_nanos().saturating_mul(self.0.into()) >> u32::BITS;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The time over which closes are spread: the last of them has the grace before the drain deadline too.
fn bounded(spread: Duration, deadline: Duration, grace: Duration) -> Duration {
    spread.min(deadline.saturating_sub(grace))
}

/// The spread of one process.
pub(super) struct CloseSpread {
    first_place: u32,
    /// When the drain began.
    start: OnceLock<Instant>,
    spread_millis: AtomicU64,
    grace_millis: AtomicU64,
}

impl CloseSpread {
    /// No spread: all closes are announced at the start of the drain.
    pub(super) fn new() -> CloseSpread {
        CloseSpread {
            first_place: RandomState::new().hash_one(0) as u32,
            start: OnceLock::new(),
            spread_millis: AtomicU64::new(0),
            grace_millis: AtomicU64::new(0),
        }
    }

    pub(super) fn configure(&self, spread: Duration, grace: Duration) {
        self.spread_millis.store(millis(spread), Ordering::Relaxed);
        self.grace_millis.store(millis(grace), Ordering::Relaxed);
    }

    /// The drain begins.
    pub(super) fn begin(&self) {
        let _ = self.start.set(Instant::now());
    }

    /// The drain deadline is this far away: the spread is shortened, never prolonged.
    pub(super) fn shorten(&self, deadline: Duration) {
        let grace = Duration::from_millis(self.grace_millis.load(Ordering::Relaxed));
        let spread = bounded(self.spread(), deadline, grace);
        self.spread_millis.store(millis(spread), Ordering::Relaxed);
    }

    fn spread(&self) -> Duration {
        Duration::from_millis(self.spread_millis.load(Ordering::Relaxed))
    }

    pub(super) fn place(&self, slot: u32) -> ClosePlace {
        ClosePlace::of(slot, self.first_place)
    }

    /// When the close is announced. None: with the start of the drain.
    pub(super) fn turn(&self, place: ClosePlace) -> Option<Instant> {
        self.after_start(|spread| place.delay(spread))
    }

    /// When the last close is announced. None: with the start of the drain.
    pub(super) fn end(&self) -> Option<Instant> {
        self.after_start(|spread| spread)
    }

    fn after_start(&self, delay: impl FnOnce(Duration) -> Duration) -> Option<Instant> {
        let spread = self.spread();
        if spread.is_zero() {
            return None;
        }
        self.start.get()?.checked_add(delay(spread))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_spread_ends_a_grace_before_the_deadline() {
        // (spread, deadline, grace, result), in seconds
        let cases = [
            (0, 60, 5, 0),
            (10, 60, 5, 10),
            (55, 60, 5, 55),
            (56, 60, 5, 55),
            (600, 60, 5, 55),
            (10, 5, 5, 0),
            (10, 4, 5, 0),
            (10, 0, 0, 0),
            (10, 60, 0, 10),
        ];
        for (spread, deadline, grace, result) in cases {
            let case = bounded(spread * SECOND, deadline * SECOND, grace * SECOND);
            assert_eq!(case, result * SECOND, "{spread} {deadline} {grace}");
        }
    }

    #[test]
    fn a_place_is_a_part_of_the_spread() {
        let cases = [
            (0, SECOND, Duration::ZERO),
            (1 << 30, SECOND, SECOND / 4),
            (1 << 31, 8 * SECOND, 4 * SECOND),
            (3 << 30, 8 * SECOND, 6 * SECOND),
            (1 << 31, Duration::ZERO, Duration::ZERO),
        ];
        for (place, spread, delay) in cases {
            assert_eq!(ClosePlace(place).delay(spread), delay, "{place} of {spread:?}");
        }
        assert!(ClosePlace(u32::MAX).delay(SECOND) < SECOND);
        let years = Duration::from_secs(u64::MAX);
        assert!(ClosePlace(u32::MAX).delay(years) <= years);
    }

    /// In each tenth of the spread is a tenth of the connections, wherever the sequence starts and whichever slots they have.
    #[test]
    fn places_are_even_for_any_number_of_connections() {
        for count in [10u32, 30, 100, 1_000, 16_384] {
            for start in [0, 1, 0x8000_0000, 0xDEAD_BEEF] {
                for (first, step) in [(0, 1), (7, 1), (1_000, 1), (0, 2), (3, 5)] {
                    let mut tenths = [0u32; 10];
                    for n in 0..count {
                        let delay = ClosePlace::of(first + n * step, start).delay(10 * SECOND);
                        tenths[delay.as_secs() as usize] += 1;
                    }
                    let even = count / 10;
                    let room = 2 + even / 20;
                    assert!(
                        tenths.iter().all(|n| n.abs_diff(even) <= room),
                        "{count} from {first} by {step}, {start}: {tenths:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_nearer_deadline_brings_turns_forward() {
        let closes = CloseSpread::new();
        let place = ClosePlace(1 << 31);
        closes.begin();
        assert_eq!((closes.turn(place), closes.end()), (None, None), "no spread");
        let closes = CloseSpread::new();
        closes.configure(10 * SECOND, SECOND);
        assert_eq!((closes.turn(place), closes.end()), (None, None), "no drain");
        closes.begin();
        let start = *closes.start.get().unwrap();
        let turns = || (closes.turn(place).map(|at| at - start), closes.end().map(|at| at - start));
        assert_eq!(turns(), (Some(5 * SECOND), Some(10 * SECOND)));
        closes.shorten(60 * SECOND);
        assert_eq!(turns(), (Some(5 * SECOND), Some(10 * SECOND)), "the deadline is later");
        closes.begin();
        closes.shorten(5 * SECOND);
        assert_eq!(turns(), (Some(2 * SECOND), Some(4 * SECOND)));
        closes.shorten(SECOND);
        assert_eq!(turns(), (None, None), "all at once");
    }
}
