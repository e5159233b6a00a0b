//! The range of bytes that a client requests (RFC 9110 §14.1.2, §14.2).

use crate::web::fields::{ascii, elements};

/// The part of a file to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// No range, one that is malformed or in another unit, or several: they may be ignored.
    All,
    /// `count` is at least 1.
    Part { start: u64, count: u64 },
    /// The range lies beyond the end.
    Nothing,
}

/// The value of a `Range` field, for so many bytes.
pub(super) fn wanted(value: &str, len: u64) -> Wanted {
    let Some((unit, ranges)) = value.split_once('=') else { return Wanted::All };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::All;
    }
    let mut found = None;
    for range in elements(ranges.as_bytes()) {
        match ascii(range).and_then(|range| part(range, len)) {
            None => return Wanted::All,
            Some(Wanted::Nothing) => found = found.or(Some(Wanted::Nothing)),
            Some(_) if matches!(found, Some(Wanted::Part { .. } | Wanted::All)) => found = Some(Wanted::All),
            Some(part) => found = Some(part),
        }
    }
    found.unwrap_or(Wanted::All)
}

/// None: malformed.
fn part(range: &str, len: u64) -> Option<Wanted> {
    let (first, last) = range.split_once('-')?;
    if first.is_empty() {
        return Some(match number(last)?.min(len) {
            // The last bytes of an empty file are the whole file.
            0 if len == 0 && number(last)? > 0 => Wanted::All,
            0 => Wanted::Nothing,
            count => Wanted::Part { start: len.saturating_sub(count), count },
        });
    }
    let start = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < start {
        return None;
    }
    if start >= len {
        return Some(Wanted::Nothing);
    }
    let last = last.min(len.saturating_sub(1));
    Some(Wanted::Part { start, count: last.saturating_sub(start).saturating_add(1) })
}

/// Digits only. A number that is too long for a `u64` is beyond every file.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ten_bytes() {
        let part = |start, count| Wanted::Part { start, count };
        let cases = [
            ("bytes=0-9", part(0, 10)),
            ("bytes=0-0", part(0, 1)),
            ("bytes=9-9", part(9, 1)),
            ("bytes=3-", part(3, 7)),
            ("bytes=3-99", part(3, 7)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-99", part(0, 10)),
            ("Bytes = 1-2", part(1, 2)),
            ("bytes=0-18446744073709551615", part(0, 10)),
            ("bytes=0-99999999999999999999999", part(0, 10)),
            ("bytes=-99999999999999999999999", part(0, 10)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=10-10", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=20-, 30-", Wanted::Nothing),
            ("bytes=20-, 1-2", part(1, 2)),
            ("bytes=1-2, 20-", part(1, 2)),
            ("bytes=1-2, 4-5", Wanted::All),
            ("bytes=1-2, 4-5, 7-8", Wanted::All),
            ("bytes=2-1", Wanted::All),
            ("bytes=a-b", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("bytes=1", Wanted::All),
            ("bytes=-", Wanted::All),
            ("bytes=--1", Wanted::All),
            ("bytes=", Wanted::All),
            ("bytes=1-2, x", Wanted::All),
            ("lines=1-2", Wanted::All),
            ("1-2", Wanted::All),
            ("", Wanted::All),
        ];
        for (value, want) in cases {
            assert_eq!(wanted(value, 10), want, "{value}");
        }
        for (value, want) in
            [("bytes=-5", Wanted::All), ("bytes=0-", Wanted::Nothing), ("bytes=-0", Wanted::Nothing)]
        {
            assert_eq!(wanted(value, 0), want, "{value} of nothing");
        }
    }
}
