//! Parts of a field's value. A value is bytes, not text: one byte beyond ASCII in an irrelevant part must not hide the
//! other parts. So no code decodes a whole value to read a part of it.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

/// The elements of a comma-separated list, empty ones left out (RFC 9110 §5.6.1.2).
pub(crate) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// A media type in lower case, without its parameters (RFC 9110 §8.3.1). Empty if it is not ASCII.
#[cfg(any(test, feature = "json", feature = "form", feature = "multipart", feature = "gzip"))]
pub(crate) fn essence(content_type: &[u8]) -> String {
    let essence = content_type.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    ascii(essence).unwrap_or_default().to_ascii_lowercase()
}

/// The values of a head's fields, as received and checked by the server.
#[derive(Clone, Copy)]
pub(crate) enum FieldSource<'h> {
    /// The head as text, from the request line on.
    Head(&'h [u8]),
    Map(&'h HeaderMap),
}

impl<'h> FieldSource<'h> {
    /// Calls `f` with each value of these fields, in one pass, and the place of the field's name among `names`.
    pub(crate) fn for_each<const N: usize>(
        self,
        names: [&HeaderName; N],
        mut f: impl FnMut(usize, &'h [u8]),
    ) {
        /// Among few fields it costs less to compare names than to hash those that are looked up.
        const FEW: usize = 24;
        match self {
            FieldSource::Head(head) => {
                let names = names.map(|name| name.as_str().as_bytes());
                for line in lines(head).skip(1) {
                    let first = line.first().map(u8::to_ascii_lowercase);
                    let found =
                        names.iter().position(|name| name.first().copied() == first && is_named(line, name));
                    if let Some((n, name)) = found.and_then(|n| Some((n, names.get(n)?))) {
                        f(n, line.get(name.len().saturating_add(1)..).unwrap_or_default().trim_ascii());
                    }
                }
            }
            FieldSource::Map(map) if map.keys_len() > FEW => {
                for (name, n) in names.iter().zip(0..) {
                    map.get_all(*name).iter().for_each(|value| f(n, value.as_bytes()));
                }
            }
            FieldSource::Map(map) => {
                for (found, value) in map {
                    if let Some(n) = names.iter().position(|name| *name == found) {
                        f(n, value.as_bytes());
                    }
                }
            }
        }
    }
}

/// The lines with their ends.
fn lines(mut head: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (line, rest) = head.split_at_checked(line_len(head))?;
        head = rest;
        (!line.is_empty()).then_some(line)
    })
}

/// The length of the first line with its end, found eight bytes at a time.
fn line_len(head: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const LINE_ENDS: u64 = u64::from_ne_bytes([b'\n'; 8]);
    let mut before = 0usize;
    for word in head.chunks_exact(8) {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default()) ^ LINE_ENDS;
        // The lowest bit is in the first byte that is zero.
        let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeros != 0 {
            return before.saturating_add(zeros.trailing_zeros() as usize / 8).saturating_add(1);
        }
        before = before.saturating_add(8);
    }
    let rest = head.get(before..).unwrap_or_default();
    rest.iter().position(|b| *b == b'\n').map_or(head.len(), |at| before.saturating_add(at).saturating_add(1))
}

/// Whether the field in a line has this name.
fn is_named(line: &[u8], name: &[u8]) -> bool {
    line.get(name.len()) == Some(&b':')
        && line.get(..name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name))
}

/// A part as text, if it is ASCII.
pub(crate) fn ascii(part: &[u8]) -> Option<&str> {
    if part.is_ascii() { std::str::from_utf8(part).ok() } else { None }
}

/// What follows this scheme in `Authorization` (RFC 9110 §11.4). None with two such fields, since another program on the way
/// may have believed the other one.
pub(crate) fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (named, credentials) = ascii(value.as_bytes())?.split_once(' ')?;
    named.eq_ignore_ascii_case(scheme).then_some(credentials.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_those_of_the_scheme_in_the_only_field() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            credentials(&headers, "bearer").map(str::to_owned)
        };
        for value in ["Bearer abc", "bearer abc", "BEARER   abc "] {
            assert_eq!(of(&[value]).as_deref(), Some("abc"), "{value}");
        }
        for values in [&[][..], &["Bearer"], &["Basic abc"], &["Bearerabc"], &["Bearer abc", "Bearer abc"]] {
            assert_eq!(of(values), None, "{values:?}");
        }
    }

    #[test]
    fn lines_are_found_wherever_they_end() {
        for len in 0..40 {
            for end in 0..=len {
                let mut head = vec![0x0b; len];
                head.extend_from_slice(b"\x8a\xff");
                assert_eq!(line_len(&head), head.len());
                head[end] = b'\n';
                head.extend_from_slice(b"x\n");
                assert_eq!(line_len(&head), end + 1, "{len}");
            }
        }
        let found = lines(b"a\r\n\r\nb").collect::<Vec<_>>();
        assert_eq!(found, [b"a\r\n".as_slice(), b"\r\n", b"b"]);
    }

    #[test]
    fn parts_do_not_hide_each_other() {
        let list = |value: &'static [u8]| elements(value).collect::<Vec<_>>();
        assert_eq!(list(b" a,,\t b c ,\xff,"), [b"a".as_slice(), b"b c", b"\xff"]);
        assert!(list(b" ,").is_empty());
        for (value, want) in [
            (b"Text/HTML; title=\"Zo\xeb\"".as_slice(), "text/html"),
            (b" application/json ;\xc3\xab", "application/json"),
            (b"text/plain", "text/plain"),
            (b"text/pl\xe4in; charset=utf-8", ""),
            (b"", ""),
        ] {
            assert_eq!(essence(value), want, "{value:?}");
        }
        assert_eq!((ascii(b"a"), ascii(b"\xc3\xab")), (Some("a"), None));
    }
}
