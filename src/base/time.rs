//! Timeouts of `poll` and `epoll_wait`, times of the wall clock without reading it, and times as text.
//!
//! Each thread keeps the text of the last second, so that it formats only the milliseconds of further times in it.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::thread::LocalKey;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::PollTimeout;

use super::line::put_digits;

/// The first of these times, if there is any.
pub(crate) fn earliest(times: &[Option<Instant>]) -> Option<Instant> {
    times.iter().flatten().min().copied()
}

/// The time until `deadline`, or no timeout. Rounded up to whole milliseconds, because rounding down would spend the last
/// one in a busy loop, and capped at the longest possible timeout.
pub(crate) fn poll_timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    PollTimeout::try_from(left.saturating_add(Duration::from_micros(999))).unwrap_or(PollTimeout::MAX)
}

/// How long the two clocks are taken to run alike: a wall clock that is set is noticed after this time.
const ALIKE: Duration = Duration::from_secs(1);

thread_local! {
    /// The same time by both clocks.
    static BOTH_CLOCKS: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
    static LAST_RFC3339: LastSecond<20> = const { Cell::new((u64::MAX, [b' '; 20])) };
    static LAST_COMMON: LastSecond<26> = const { Cell::new((u64::MAX, [b' '; 26])) };
}

/// What the wall clock showed at a time that is not in the future. It is read once a second at most.
pub(crate) fn wall_time(at: Instant) -> SystemTime {
    let known = BOTH_CLOCKS.try_with(Cell::get).ok().flatten();
    let since = |(instant, wall): (Instant, SystemTime)| match at.checked_duration_since(instant) {
        Some(later) if later >= ALIKE => None,
        Some(later) => wall.checked_add(later),
        None => Some(wall.checked_sub(instant.saturating_duration_since(at)).unwrap_or(UNIX_EPOCH)),
    };
    known.and_then(since).unwrap_or_else(|| {
        let both = (Instant::now(), SystemTime::now());
        note_both_clocks(both);
        since(both).unwrap_or(both.1)
    })
}

/// For this thread, until the next second.
pub(crate) fn note_both_clocks(both: (Instant, SystemTime)) {
    // A thread that is ending keeps nothing.
    let _ = BOTH_CLOCKS.try_with(|known| known.set(Some(both)));
}

/// The last second that this thread has written, since 1970, and its text.
type LastSecond<const N: usize> = Cell<(u64, [u8; N])>;

/// The text of this second.
fn text_of_second<const N: usize>(
    last: &'static LocalKey<LastSecond<N>>,
    second: u64,
    make: impl FnOnce() -> [u8; N],
) -> [u8; N] {
    match last.try_with(Cell::get) {
        Ok((known, text)) if known == second => text,
        _ => {
            let text = make();
            let _ = last.try_with(|last| last.set((second, text)));
            text
        }
    }
}

/// A time as in RFC 3339, in UTC, with milliseconds: `2026-11-29T09:31:06.123Z`. It has years of four digits.
pub(crate) struct Rfc3339(pub(crate) SystemTime);

/// A time as in the Common Log Format, in UTC: `29/Nov/2026:09:31:06 +0000`. It has years of four digits.
pub(crate) struct CommonLogTime(pub(crate) SystemTime);

/// A time in the calendar. One before 1970 is taken for its start.
struct Calendar {
    year: u64,
    month: u64,
    day: u64,
    second_of_day: u64,
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Calendar {
    /// By days since 1 March of year 0, because the leap day is the last one of such a year; see "chrono-Compatible Low-Level
    /// Date Algorithms" by Howard Hinnant.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "at most 2^64 seconds, each step is smaller than the one before"
    )]
    fn of(second: u64) -> Calendar {
        let days = second / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Calendar {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            second_of_day: second % 86_400,
        }
    }

    /// Hours, minutes and seconds.
    fn clock(&self) -> [u64; 3] {
        let (minutes, seconds) = (self.second_of_day / 60, self.second_of_day % 60);
        [minutes / 60, minutes % 60, seconds]
    }
}

/// Adds these numbers to the zeros at these places, digit by digit: formatted numbers cost four times as much.
fn put_all<const N: usize>(mut text: [u8; N], numbers: &[(Range<usize>, u64)]) -> [u8; N] {
    for (place, number) in numbers {
        put_digits(text.get_mut(place.clone()).unwrap_or_default(), *number);
    }
    text
}

impl Rfc3339 {
    pub(crate) fn text(&self) -> [u8; 24] {
        let since = since_1970(self.0);
        let start = text_of_second(&LAST_RFC3339, since.as_secs(), || {
            let time = Calendar::of(since.as_secs());
            let [hour, minute, second] = time.clock();
            let date = [(0..4, time.year.min(9_999)), (5..7, time.month), (8..10, time.day)];
            let text = put_all(*b"0000-00-00T00:00:00.", &date);
            put_all(text, &[(11..13, hour), (14..16, minute), (17..19, second)])
        });
        let mut text = *b"0000-00-00T00:00:00.000Z";
        text.split_at_mut(start.len()).0.copy_from_slice(&start);
        put_all(text, &[(20..23, since.subsec_millis().into())])
    }
}

impl CommonLogTime {
    pub(crate) fn text(&self) -> [u8; 26] {
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let second = since_1970(self.0).as_secs();
        text_of_second(&LAST_COMMON, second, || {
            let time = Calendar::of(second);
            let month =
                MONTHS.iter().zip(1..).find(|(_, n)| *n == time.month).map_or("Jan", |(name, _)| name);
            let mut text = *b"00/Jan/0000:00:00:00 +0000";
            text.get_mut(3..6).unwrap_or_default().copy_from_slice(month.as_bytes());
            let [hour, minute, second] = time.clock();
            let text = put_all(text, &[(0..2, time.day), (7..11, time.year.min(9_999))]);
            put_all(text, &[(12..14, hour), (15..17, minute), (18..20, second)])
        })
    }
}

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
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

    #[test]
    fn times_in_the_calendar() {
        for (seconds, rfc3339, common) in [
            (0, "1970-01-01T00:00:00.000Z", "01/Jan/1970:00:00:00 +0000"),
            (951_782_399, "2000-02-28T23:59:59.000Z", "28/Feb/2000:23:59:59 +0000"),
            (951_782_400, "2000-02-29T00:00:00.000Z", "29/Feb/2000:00:00:00 +0000"),
            (951_868_800, "2000-03-01T00:00:00.000Z", "01/Mar/2000:00:00:00 +0000"),
            (1_795_944_666, "2026-11-29T09:31:06.000Z", "29/Nov/2026:09:31:06 +0000"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z", "28/Feb/2100:23:59:59 +0000"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z", "01/Mar/2100:00:00:00 +0000"),
            (253_402_300_799, "9999-12-31T23:59:59.000Z", "31/Dec/9999:23:59:59 +0000"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(Rfc3339(time).to_string(), rfc3339);
            assert_eq!(CommonLogTime(time).text(), common.as_bytes());
        }
        let before = UNIX_EPOCH - Duration::from_millis(1);
        assert_eq!(Rfc3339(before).to_string(), "1970-01-01T00:00:00.000Z");
        let then = UNIX_EPOCH + Duration::from_micros(1_999);
        assert_eq!(Rfc3339(then).to_string(), "1970-01-01T00:00:00.001Z");
        // Each day of some centuries, by another way.
        for day in 0..110_000 {
            let time = UNIX_EPOCH + Duration::from_secs(day * 86_400);
            let text = httpdate::fmt_http_date(time);
            let date = text[5..16].replace(' ', "/");
            assert_eq!(date.as_bytes(), &CommonLogTime(time).text()[..11]);
        }
    }

    #[test]
    fn the_wall_clock_of_an_instant() {
        let (at, wall) = (Instant::now() + Duration::from_secs(10), UNIX_EPOCH + Duration::from_secs(1_000));
        note_both_clocks((at, wall));
        let millis = Duration::from_millis;
        assert_eq!(wall_time(at), wall);
        assert_eq!(wall_time(at + millis(999)), wall + millis(999));
        assert_eq!(wall_time(at - millis(9_000)), wall - millis(9_000), "a request that took long");
        // Too long ago: both are read again.
        note_both_clocks((at - millis(20_000), wall));
        let now = wall_time(Instant::now());
        assert!(now > wall + Duration::from_secs(1_000_000_000), "{now:?}");
    }
}
