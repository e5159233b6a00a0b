//! Timeouts of `poll` and `epoll_wait`, and times as text.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::PollTimeout;

/// The time until `deadline`, or no timeout. Rounded up to whole milliseconds, because rounding down would spend the last
/// one in a busy loop, and capped at the longest possible timeout.
pub(crate) fn poll_timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    PollTimeout::try_from(left.saturating_add(Duration::from_micros(999))).unwrap_or(PollTimeout::MAX)
}

/// A time as in RFC 3339, in UTC, with milliseconds: `2026-11-29T09:31:06.123Z`. It has years of four digits.
pub(crate) struct Rfc3339(pub(crate) SystemTime);

/// A time as in the Common Log Format, in UTC: `29/Nov/2026:09:31:06 +0000`.
pub(crate) struct CommonLogTime(pub(crate) SystemTime);

/// A time in the calendar. One before 1970 is taken for its start.
struct Calendar {
    year: u64,
    month: u64,
    day: u64,
    second_of_day: u64,
    millis: u32,
}

impl Calendar {
    /// By days since 1 March of year 0, because the leap day is the last one of such a year; see "chrono-Compatible Low-Level
    /// Date Algorithms" by Howard Hinnant.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "at most 2^64 seconds, each step is smaller than the one before"
    )]
    fn of(time: SystemTime) -> Calendar {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let days = since.as_secs() / 86_400 + 719_468;
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
            second_of_day: since.as_secs() % 86_400,
            millis: since.subsec_millis(),
        }
    }

    fn write_clock(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minutes, seconds) = (self.second_of_day / 60, self.second_of_day % 60);
        write!(f, "{:02}:{:02}:{seconds:02}", minutes / 60, minutes % 60)
    }
}

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = Calendar::of(self.0);
        let (minute, second) = (time.second_of_day / 60, time.second_of_day % 60);
        // Digit by digit: seven formatted numbers cost four times as much.
        let mut text = *b"0000-00-00T00:00:00.000Z";
        for (place, mut number) in [
            (0..4, time.year.min(9_999)),
            (5..7, time.month),
            (8..10, time.day),
            (11..13, minute / 60),
            (14..16, minute % 60),
            (17..19, second),
            (20..23, time.millis.into()),
        ] {
            for digit in text.get_mut(place).unwrap_or_default().iter_mut().rev() {
                *digit = digit.saturating_add((number % 10) as u8);
                number /= 10;
            }
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Display for CommonLogTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let time = Calendar::of(self.0);
        let month = MONTHS.iter().zip(1..).find(|(_, n)| *n == time.month).map_or("Jan", |(name, _)| name);
        write!(f, "{:02}/{month}/{:04}:", time.day, time.year)?;
        time.write_clock(f)?;
        f.write_str(" +0000")
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
            assert_eq!(CommonLogTime(time).to_string(), common);
        }
        let before = UNIX_EPOCH - Duration::from_millis(1);
        assert_eq!(Rfc3339(before).to_string(), "1970-01-01T00:00:00.000Z");
        let then = UNIX_EPOCH + Duration::from_micros(1_999);
        assert_eq!(Rfc3339(then).to_string(), "1970-01-01T00:00:00.001Z");
        // Each day of some centuries, by another way.
        for day in 0..110_000 {
            let time = UNIX_EPOCH + Duration::from_secs(day * 86_400);
            let text = httpdate::fmt_http_date(time);
            let [date, common] = [&text[5..16].replace(' ', "/"), &CommonLogTime(time).to_string()[..11]];
            assert_eq!(date, common);
        }
    }
}
