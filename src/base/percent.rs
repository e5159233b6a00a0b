//! Percent-encoding (RFC 3986 §2.1): the normalized spelling of a path, and decoding.
//!
//! Routes, guards and code that opens files must agree on which path a request names, so all of them see one spelling: a
//! byte that may stand unencoded in a segment (`pchar`, RFC 3986 §3.3) is not encoded, and every other byte is `%XX` with
//! upper-case digits. RFC 3986 §6.2.2.2 decodes unreserved characters only and keeps `%40` and `@` apart. Here
//! sub-delimiters, `:` and `@` are decoded too, because a file has one name for both: a guard on `/@admin/` would
//! otherwise let `/%40admin/` through. Dot segments and empty segments are not resolved: code that resolves them behind a
//! guard must do so before the guard. `uri()` stays as the client sent it, for signatures.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// Everything but `pchar`.
const IN_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// Normalizes a path. The segments stay the same and decode to the same bytes: `%2F` stays, because it is not a separator,
/// and neither `//` nor dot segments are resolved. None if a `%` lacks its two digits.
///
/// A path that is normalized already, as nearly all are, is returned without an allocation.
pub(crate) fn normal_path(raw: &str) -> Option<Cow<'_, str>> {
    // Without a branch for each byte: nearly all paths are.
    if raw.bytes().fold(true, |all, byte| all & is_path_byte(byte)) {
        return Some(Cow::Borrowed(raw));
    }
    let mut normal = String::with_capacity(raw.len());
    for (at, segment) in raw.split('/').enumerate() {
        if at > 0 {
            normal.push('/');
        }
        normal.extend(percent_encode(&decoded(segment)?, IN_SEGMENT));
    }
    Some(Cow::Owned(normal))
}

/// Decodes a string. None if a `%` lacks its two digits.
pub(crate) fn decoded(text: &str) -> Option<Cow<'_, [u8]>> {
    is_well_formed(text.as_bytes()).then(|| percent_decode(text.as_bytes()).into())
}

/// As [`decoded`], if the result is UTF-8.
pub(crate) fn decoded_text(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    String::from_utf8(decoded(text)?.into_owned()).ok().map(Cow::Owned)
}

/// Whether each `%` has its two digits. `percent_decode` would keep a malformed one.
pub(crate) fn is_well_formed(text: &[u8]) -> bool {
    // Without a branch for each byte: hardly any text has one.
    if !text.iter().fold(false, |any, byte| any | (*byte == b'%')) {
        return true;
    }
    let mut parts = text.split(|&byte| byte == b'%');
    parts.next();
    parts.all(|part| matches!(part, [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit()))
}

/// `unreserved / sub-delims` (RFC 3986 §2.2, §2.3). A table, because each request has a Host and a path.
pub(crate) fn is_name_byte(byte: u8) -> bool {
    NAME_BYTES.get(usize::from(byte)).is_some_and(|is_one| *is_one)
}

/// `pchar` without `%`, or `/`.
fn is_path_byte(byte: u8) -> bool {
    PATH_BYTES.get(usize::from(byte)).is_some_and(|is_one| *is_one)
}

#[expect(clippy::indexing_slicing, reason = "a constant")]
const PATH_BYTES: [bool; 256] = {
    let mut table = NAME_BYTES;
    (table[b'/' as usize], table[b':' as usize], table[b'@' as usize]) = (true, true, true);
    table
};

#[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "up to 256")]
const NAME_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~'
            | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use arbtest::arbitrary::{Result, Unstructured};

    use super::*;
    use crate::base::property::{BYTES, CASES, check, list, printable};

    #[test]
    fn each_path_has_one_spelling() {
        let cases = [
            ("/private/x", Some("/private/x")),
            ("/%70rivate/x", Some("/private/x")),
            ("/%7Euser/%2d%2E%5f", Some("/~user/-._")),
            ("/café", Some("/caf%C3%A9")),
            ("/caf%c3%a9", Some("/caf%C3%A9")),
            ("/%ff%Fe", Some("/%FF%FE")),
            // Decoded once.
            ("/%2570rivate", Some("/%2570rivate")),
            ("/%25%37%30", Some("/%2570")),
            // An encoded separator, query mark or backslash stays encoded.
            ("/a%2fb", Some("/a%2Fb")),
            ("/a%5cb\\c", Some("/a%5Cb%5Cc")),
            ("/a%00%3f%23%20", Some("/a%00%3F%23%20")),
            // Characters that a segment may contain are decoded.
            ("/%40a%3A%21%24%26%27%28%29%2a%2B%2c%3b%3D", Some("/@a:!$&'()*+,;=")),
            ("/{a}|\"<^`>", Some("/%7Ba%7D%7C%22%3C%5E%60%3E")),
            // The segments stay the same.
            ("//a///b/", Some("//a///b/")),
            ("/./a/../%2e%2E/b", Some("/./a/../../b")),
            ("/", Some("/")),
            ("", Some("")),
            ("*", Some("*")),
            ("/%", None),
            ("/%4", None),
            ("/%4x", None),
            ("/%+4", None),
            ("/%%34", None),
            ("/%4/1", None),
            ("/%€", None),
            ("/%4€", None),
        ];
        for (raw, want) in cases {
            assert_eq!(normal_path(raw).as_deref(), want, "{raw}");
        }
        assert!(matches!(normal_path("/users/7/a.b-c_d~e@f:g;h=i,j"), Some(Cow::Borrowed(_))));
    }

    #[test]
    fn the_table_and_the_set_say_the_same() {
        for byte in 0..=255_u8 {
            let kept = percent_encode(&[byte], IN_SEGMENT).to_string().len() == 1;
            assert_eq!(kept, is_path_byte(byte) && byte != b'/', "{byte:#x}");
        }
    }

    #[test]
    fn only_what_is_encoded_is_decoded() {
        let cases: [(&str, Option<&[u8]>); 10] = [
            ("", Some(b"")),
            ("a+b", Some(b"a+b")),
            ("100%25+%61", Some(b"100%+a")),
            ("%ff%00", Some(b"\xff\0")),
            ("%2F%2f", Some(b"//")),
            ("%", None),
            ("%F", None),
            ("%+F", None),
            ("% F", None),
            ("a%fg", None),
        ];
        for (text, want) in cases {
            assert_eq!(decoded(text).as_deref(), want, "{text}");
        }
        assert_eq!(decoded_text("J%C3%B8").as_deref(), Some("Jø"));
        assert_eq!(decoded_text("%C3"), None);
    }

    /// Paths made of encoded bytes, plain bytes and separators.
    fn paths(u: &mut Unstructured<'_>) -> Result<String> {
        const PLAIN: &[&str] = &["a", "k", "z", ".", "~", "@", "+", ";", ":", "/", "\\", " ", "é", "{"];
        const NAMED: &[&str] = &["/", "..", "%2e", "%2F", "%25", "%2561"];
        let piece = |u: &mut Unstructured<'_>| {
            Ok(match u.int_in_range(0..=6)? {
                0 => match u.arbitrary::<(u8, bool)>()? {
                    (byte, true) => format!("%{byte:02x}"),
                    (byte, false) => format!("%{byte:02X}"),
                },
                1 => (*u.choose(PLAIN)?).to_owned(),
                _ => (*u.choose(NAMED)?).to_owned(),
            })
        };
        Ok(format!("/{}", list(u, 0..=11, piece)?.concat()))
    }

    fn segments(path: &str) -> Vec<Vec<u8>> {
        path.split('/').map(|segment| decoded(segment).unwrap().into_owned()).collect()
    }

    #[test]
    fn a_spelling_is_its_own() {
        check(CASES, BYTES, |u| {
            let raw = paths(u)?;
            let normal = normal_path(&raw).unwrap();
            assert_eq!(normal_path(&normal).unwrap(), &*normal, "{raw}");
            assert!(normal.is_ascii(), "{raw}");
            Ok(())
        });
    }

    #[test]
    fn which_segments_there_are_and_what_they_stand_for_stays() {
        check(CASES, BYTES, |u| {
            let raw = paths(u)?;
            assert_eq!(segments(&normal_path(&raw).unwrap()), segments(&raw), "{raw}");
            Ok(())
        });
    }

    #[test]
    fn what_stands_for_the_same_is_spelled_the_same() {
        check(CASES, BYTES, |u| {
            let raw = paths(u)?;
            // Another spelling of the same segments.
            let mut other = String::new();
            for (at, segment) in segments(&raw).into_iter().enumerate() {
                other.push_str(if at > 0 { "/" } else { "" });
                for byte in segment {
                    match u.int_in_range(0..=2)? {
                        0 if is_path_byte(byte) && byte != b'/' => other.push(char::from(byte)),
                        1 => other.push_str(&format!("%{byte:02x}")),
                        _ => other.push_str(&format!("%{byte:02X}")),
                    }
                }
            }
            assert_eq!(normal_path(&other), normal_path(&raw), "{other}, {raw}");
            Ok(())
        });
    }

    #[test]
    fn any_text_has_one_or_none() {
        check(CASES, BYTES, |u| {
            let raw = printable(u)?;
            assert_eq!(normal_path(&raw).is_some(), is_well_formed(raw.as_bytes()), "{raw}");
            Ok(())
        });
    }
}
