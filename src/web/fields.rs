//! Parts of a field's value. A value is bytes, not text: one byte beyond ASCII in an irrelevant part must not hide the
//! other parts. So no code decodes a whole value to read a part of it.

use std::io::BufRead;

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
                for line in lines(head).skip(1) {
                    let value = |name: &&HeaderName| value_of(line, name.as_str().as_bytes());
                    if let Some((n, value)) =
                        names.iter().zip(0..).find_map(|(name, n)| Some((n, value(name)?)))
                    {
                        f(n, value);
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

/// The lines with their ends, found faster than by looking at each byte.
fn lines(mut head: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = { head }.skip_until(b'\n').ok()?;
        let (line, rest) = head.split_at_checked(len)?;
        head = rest;
        (len > 0).then_some(line)
    })
}

/// The value in a line, if the field has this name.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    found.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
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
