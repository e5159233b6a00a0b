//! The fields of an earlier head, which are checked once.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::framing::ConnectionFields;
use super::head::{Refusal, read_field};
use super::tokens::{TOO_MANY_FIELDS, Tokens};

/// The fields of an earlier head: most clients send the same ones with each request, and most clients of a server begin with the
/// same ones. Equal lines say the same, so those that a head has in common with these are not parsed again.
#[derive(Default)]
pub(super) struct KnownFields {
    /// Their lines as received, and the empty line. Each ends in CRLF.
    text: Bytes,
    /// In the order of the lines. Empty: nothing is known yet.
    fields: Vec<KnownField>,
    /// All of them.
    headers: HeaderMap,
    /// What they say of the connection.
    connection: ConnectionFields,
    /// How many heads in a row had others.
    misses: u8,
}

struct KnownField {
    /// Where its line is in the text.
    line: Range<usize>,
    name: HeaderName,
    value: HeaderValue,
    /// What it and the fields before it say of the connection.
    connection: ConnectionFields,
}

impl KnownFields {
    /// After so many misses in a row, the fields of the next head replace these. If one miss were enough, each request
    /// would be parsed twice where clients alternate.
    pub(super) const MISSES: u8 = 64;
    /// Longer fields are rare, and not kept.
    pub(super) const MOST: usize = 2 << 10;

    /// Whether `rest` starts with the known fields and the empty line, and they are `most` at most.
    #[inline(always)]
    pub(super) fn are_in(&self, rest: &[u8], most: usize) -> bool {
        (1..=most).contains(&self.fields.len()) && rest.starts_with(&self.text)
    }

    /// The length of all lines.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// How many lines at the start of `rest` are the first of the known ones, `most` at most.
    pub(super) fn count_in(&self, rest: &[u8], most: usize) -> usize {
        let is_same = |field: &&KnownField| rest.get(field.line.clone()) == self.text.get(field.line.clone());
        self.fields.iter().take(most).take_while(is_same).count()
    }

    /// The length of so many lines.
    pub(super) fn len_of(&self, count: usize) -> usize {
        self.last_of(count).map_or(0, |last| last.line.end)
    }

    fn last_of(&self, count: usize) -> Option<&KnownField> {
        self.fields.get(count.checked_sub(1)?)
    }

    /// Puts all fields into `headers`, which is empty. The values of all heads share one memory.
    #[inline(always)]
    pub(super) fn copy_to(&self, headers: &mut HeaderMap) -> ConnectionFields {
        match self.fields.as_slice() {
            // One insertion takes less than a copy of the map, and an empty map has room for it.
            [only] => drop(headers.try_append(&only.name, only.value.clone())),
            _ => headers.clone_from(&self.headers),
        }
        self.connection
    }

    /// Adds the first `count` fields to `headers`.
    pub(super) fn add_to(&self, headers: &mut HeaderMap, count: usize) -> Result<ConnectionFields, Refusal> {
        for field in self.fields.get(..count).unwrap_or_default() {
            headers.try_append(&field.name, field.value.clone()).map_err(|_| *TOO_MANY_FIELDS)?;
        }
        Ok(self.last_of(count).map_or_else(ConnectionFields::default, |last| last.connection))
    }

    /// Notes that the fields of a head were the known ones.
    #[inline(always)]
    pub(super) fn note_hit(&mut self) {
        self.misses = 0;
    }

    /// Notes that the fields of a head, which are well-formed, were others. `lines` are theirs, with the empty line.
    #[inline(always)]
    pub(super) fn note_miss(&mut self, lines: &[u8]) {
        if self.fields.is_empty() || self.misses >= KnownFields::MISSES {
            self.replace(lines);
        } else {
            self.misses = self.misses.saturating_add(1);
        }
    }

    #[cold]
    fn replace(&mut self, lines: &[u8]) {
        // The last line ends as all do.
        if lines.len() <= KnownFields::MOST && lines.ends_with(b"\r\n") {
            if let Ok(others) = KnownFields::of(&Bytes::copy_from_slice(lines)) {
                *self = others;
            }
        }
    }

    /// Those of a text that begins with a field and ends with an empty line, all well-formed.
    fn of(text: &Bytes) -> Result<KnownFields, Refusal> {
        let fields = Tokens::of_fields(text);
        let mut known = KnownFields { text: text.clone(), ..KnownFields::default() };
        let lines_len = text.len().saturating_sub(b"\r\n".len());
        let ends = fields.iter().skip(1).map(|next| next.name.start).chain([lines_len]);
        for (field, end) in fields.iter().zip(ends) {
            let (name, value) = read_field(text, field, &mut known.connection)?;
            known.headers.try_append(&name, value.clone()).map_err(|_| *TOO_MANY_FIELDS)?;
            let (line, connection) = (field.name.start..end, known.connection);
            known.fields.push(KnownField { line, name, value, connection });
        }
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use arbtest::arbitrary::Unstructured;

    use super::super::head::{RequestHead, parse_head};
    use super::super::head_memory::HeadMemory;
    use super::*;
    use crate::base::limits::Limits;
    use crate::base::property::{BYTES, CASES, check, list};

    fn parse(memory: &mut HeadMemory, input: &[u8], limits: &Limits) -> Result<Option<RequestHead>, Refusal> {
        let mut head = None;
        parse_head(input, limits, memory, &mut head)?;
        Ok(head)
    }

    #[test]
    fn values_are_shared_until_others_have_come_often() {
        let (mut memory, limits) = (HeadMemory::default(), Limits::default());
        let mut values = |fields: &str, end: &str| {
            let text = format!("GET / HTTP/1.1{end}{fields}{end}{end}");
            let parsed = parse(&mut memory, text.as_bytes(), &limits);
            let alone = parse(&mut HeadMemory::default(), text.as_bytes(), &limits);
            assert_eq!(format!("{parsed:?}"), format!("{alone:?}"), "{fields}");
            let headers = parsed.unwrap().unwrap().request.unwrap().headers().clone();
            ["host", "own"].map(|name| headers[name].clone())
        };
        // Whether the second of two heads shares each value with the first. The one before these may have been copied.
        let mut shares = |fields: &str, end: &str| {
            let [_, first, second] = [(); 3].map(|()| values(fields, end));
            [0, 1].map(|value| first[value].as_bytes().as_ptr() == second[value].as_bytes().as_ptr())
        };
        let (a, b, lf) = ("Host: h\r\nOwn: a", "Host: h\r\nOwn: b", "Host: h\nOwn: a");
        let long = format!("{a}{}", "l".repeat(KnownFields::MOST));
        assert_eq!(shares(a, "\r\n"), [true, true]);
        assert_eq!(shares(b, "\r\n"), [true, false], "the lines before the other one are known");
        assert_eq!(shares(lf, "\n"), [false, false]);
        assert_eq!(shares(a, "\r\n"), [true, true], "a few misses replace nothing");
        for _ in 0..KnownFields::MISSES {
            assert_eq!((shares(&long, "\r\n"), shares(lf, "\n")), ([true, false], [false, false]));
        }
        assert_eq!(shares(b, "\r\n"), [true, true], "after many misses others are known");
        assert_eq!(shares(a, "\r\n"), [true, false]);
    }

    #[test]
    fn a_change_of_a_request_changes_nothing_that_is_known() {
        let (mut memory, limits) = (HeadMemory::default(), Limits::default());
        for target in ["/", "/", "http://other/", "/", "/"] {
            let text = format!("GET {target} HTTP/1.1\r\nHost: h\r\nOwn: a\r\n\r\n");
            let head = parse(&mut memory, text.as_bytes(), &limits).unwrap().unwrap();
            let mut request = head.request.unwrap();
            let host = if target == "/" { "h" } else { "other" };
            assert_eq!(
                (&request.headers()["host"], request.headers().len()),
                (&HeaderValue::from_static(host), 2)
            );
            request.headers_mut().clear();
        }
    }

    #[test]
    fn known_lines_mean_the_same() {
        const FIELDS: &[&[u8]] = &[
            b"Host: a\r\n",
            b"a: \tb \r\n",
            b"A:c\r\n",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close, upgrade\r\n",
            b"Expect: 100-continue\r\n",
            b"Upgrade: d\r\n",
            b"Host: b\r\n",
            b" folded\r\n",
            b"e\r\n",
        ];
        let roomy = Limits { head_bytes: 300, head_fields: 9, ..Limits::default() };
        let tight = Limits { head_bytes: 90, head_fields: 4, ..Limits::default() };
        check(CASES, BYTES, |u| {
            let mut memory = HeadMemory::default();
            let head = |u: &mut Unstructured<'_>| {
                let start =
                    *u.choose(&["GET / HTTP/1.1\r\n", "POST http://f/ HTTP/1.0\r\n", "GET / HTTP/1.1\n"])?;
                let host = *u.choose(&[
                    "Host: a\r\n",
                    "Host: a\r\n",
                    "host:a\r\n",
                    "Host:\r\n",
                    "Host: b b\r\n",
                    "Host: [a\r\n",
                ])?;
                let fields = list(u, 0..=4, |u| u.choose(FIELDS).copied())?.concat();
                Ok([start.as_bytes(), host.as_bytes(), &fields, b"\r\n"].concat())
            };
            let heads = list(u, 2..=3, head)?;
            for _ in 0..20 {
                let input = u.choose(&heads)?;
                let limits = if u.arbitrary()? { &tight } else { &roomy };
                let (parsed, alone) =
                    (parse(&mut memory, input, limits), parse(&mut HeadMemory::default(), input, limits));
                assert_eq!(format!("{parsed:?}"), format!("{alone:?}"), "{}", input.escape_ascii());
            }
            Ok(())
        });
    }
}
