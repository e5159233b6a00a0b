//! The `Date` field, formatted once a second.

use std::io::Write;
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use httpdate::HttpDate;

/// The last second of an IMF-fixdate: its year has four digits (RFC 9110 §5.6.7).
const LAST_SECOND: u64 = 253_402_300_799;

/// The field with the end of its line.
pub(crate) type DateLine = [u8; 37];

/// Whether this is a date in the form that servers must send (RFC 9110 §5.6.7).
pub(super) fn is_imf_fixdate(value: &[u8]) -> bool {
    let text = std::str::from_utf8(value).ok();
    let date = text.and_then(|text| httpdate::parse_http_date(text).ok());
    date.is_some_and(|date| line_of(second_of(date)).get(VALUE) == Some(value))
}

/// The line of the current second.
pub(crate) struct DateCache {
    second: u64,
    line: DateLine,
}

impl DateCache {
    pub(crate) fn new(now: SystemTime) -> DateCache {
        let second = second_of(now);
        DateCache { second, line: line_of(second) }
    }

    pub(crate) fn update(&mut self, now: SystemTime) {
        let second = second_of(now);
        if second != self.second {
            *self = DateCache { second, line: line_of(second) };
        }
    }

    pub(crate) fn line(&self) -> &DateLine {
        &self.line
    }
}

/// A clock that is far off must not stop the server: a second outside the range becomes the nearest in it.
fn second_of(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().min(LAST_SECOND))
}

/// Where the value is in the line.
const VALUE: Range<usize> = 6..35;

fn line_of(second: u64) -> DateLine {
    let mut line = *b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
    // An IMF-fixdate is always 29 bytes long, so it fits.
    let _ = write!(&mut line[VALUE], "{}", HttpDate::from(UNIX_EPOCH + Duration::from_secs(second)));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_to_say_it() {
        let cases = [
            ("Sun, 06 Nov 1994 08:49:37 GMT", true),
            ("Sunday, 06-Nov-94 08:49:37 GMT", false),
            ("Sun Nov  6 08:49:37 1994", false),
            ("Mon, 06 Nov 1994 08:49:37 GMT", false),
            ("Sun, 6 Nov 1994 08:49:37 GMT", false),
            ("Sun, 06 Nov 1994 08:49:37 UTC", false),
            ("now", false),
            ("", false),
        ];
        for (text, expected) in cases {
            assert_eq!(is_imf_fixdate(text.as_bytes()), expected, "{text}");
        }
        assert!(!is_imf_fixdate(b"\xff"));
    }

    #[test]
    fn says_the_second() {
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        let cases: [(SystemTime, &[u8; 29]); 7] = [
            (at(784_111_777_000), b"Sun, 06 Nov 1994 08:49:37 GMT"),
            (at(784_111_777_999), b"Sun, 06 Nov 1994 08:49:37 GMT"),
            (at(784_111_778_000), b"Sun, 06 Nov 1994 08:49:38 GMT"),
            (at(784_111_777_000), b"Sun, 06 Nov 1994 08:49:37 GMT"),
            (at(0), b"Thu, 01 Jan 1970 00:00:00 GMT"),
            (UNIX_EPOCH - Duration::from_secs(1), b"Thu, 01 Jan 1970 00:00:00 GMT"),
            (UNIX_EPOCH + Duration::from_secs(LAST_SECOND + 1), b"Fri, 31 Dec 9999 23:59:59 GMT"),
        ];
        let mut cache = DateCache::new(at(5_000));
        for (now, text) in cases {
            cache.update(now);
            let line = [b"Date: ", &text[..], b"\r\n"].concat();
            assert_eq!(cache.line()[..], line);
            assert_eq!(DateCache::new(now).line()[..], line);
        }
    }
}
