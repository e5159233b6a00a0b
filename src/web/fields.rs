//! Parts of a field's value. A value is bytes, not text: one byte beyond ASCII in an irrelevant part must not hide the
//! other parts. So no code decodes a whole value to read a part of it.

use http::HeaderMap;
use http::header::AUTHORIZATION;

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
