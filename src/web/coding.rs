//! The codings that a client accepts (RFC 9110 §12.5.3), the weights in such fields, and the `Vary` that caches need for them.

#[cfg(any(feature = "gzip", feature = "files"))]
use http::header::ACCEPT_ENCODING;
use http::header::VARY;
use http::{HeaderMap, HeaderName, HeaderValue};

#[cfg(any(feature = "gzip", feature = "files"))]
use crate::web::fields::ascii;
use crate::web::fields::elements;

/// Type and length of the 200 that a 304 stands for, in the response's extensions. A wrapper needs them, because the 304
/// has no such fields.
#[cfg(any(feature = "gzip", feature = "files"))]
#[derive(Clone)]
#[cfg_attr(not(feature = "gzip"), expect(dead_code, reason = "for the wrapper"))]
pub(crate) struct Whole {
    pub(crate) kind: HeaderValue,
    pub(crate) len: u64,
}

/// Adds `name` to `Vary`, the fields that a cache must compare.
pub(crate) fn vary(headers: &mut HeaderMap, name: HeaderName) {
    let named = |value: &HeaderValue| {
        let is_one = |n: &[u8]| n == b"*" || n.eq_ignore_ascii_case(name.as_str().as_bytes());
        elements(value.as_bytes()).any(is_one)
    };
    if !headers.get_all(VARY).iter().any(named) {
        headers.append(VARY, HeaderValue::from(name));
    }
}

/// Whether gzip is acceptable, and not less preferred than no coding at all.
#[cfg(any(feature = "gzip", feature = "files"))]
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    for value in headers.get_all(ACCEPT_ENCODING) {
        for item in elements(value.as_bytes()).filter_map(ascii) {
            let mut parts = item.split(';').map(str::trim);
            let coding = parts.next().unwrap_or_default().to_ascii_lowercase();
            let Some(weight) = weight(parts) else { continue };
            match &*coding {
                "gzip" | "x-gzip" => gzip = Some(weight),
                "*" => any = Some(weight),
                "identity" => identity = Some(weight),
                _ => {}
            }
        }
    }
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && gzip >= identity.unwrap_or(0)
}

/// The weight in thousandths; None: not a weight.
pub(crate) fn weight<'a>(mut parameters: impl Iterator<Item = &'a str>) -> Option<u32> {
    let Some(parameter) = parameters.next() else { return Some(1000) };
    let (name, value) = parameter.split_once('=')?;
    let (whole, fraction) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|b| b.is_ascii_digit());
    if !name.trim().eq_ignore_ascii_case("q") || !digits || parameters.next().is_some() {
        return None;
    }
    let thousandths: u32 = format!("{fraction:0<3}").parse().ok()?;
    match (whole, thousandths) {
        ("0", thousandths) => Some(thousandths),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vary_names_each_field_once() {
        let mut headers = HeaderMap::new();
        for name in ["origin", "accept-encoding", "origin"] {
            vary(&mut headers, HeaderName::from_static(name));
        }
        assert_eq!(headers.get_all(VARY).iter().collect::<Vec<_>>(), ["origin", "accept-encoding"]);
        headers.clear();
        headers.insert(VARY, HeaderValue::from_static("Cookie , ORIGIN"));
        vary(&mut headers, HeaderName::from_static("origin"));
        headers.append(VARY, HeaderValue::from_static("*"));
        vary(&mut headers, HeaderName::from_static("cookies"));
        assert_eq!(headers.get_all(VARY).iter().collect::<Vec<_>>(), ["Cookie , ORIGIN", "*"]);
    }

    #[cfg(any(feature = "gzip", feature = "files"))]
    #[test]
    fn who_accepts_it() {
        let cases = [
            ("gzip", true),
            ("GZip", true),
            ("x-gzip", true),
            ("br, gzip;q=0.5", true),
            ("br ,\tgzip ; q=1.000", true),
            ("*", true),
            ("*;q=0.1", true),
            ("gzip;q=0.5, identity;q=0.5", true),
            ("identity;q=0, *", true),
            ("gzip;Q=0.001", true),
            ("", false),
            ("br", false),
            ("identity", false),
            ("gzip;q=0", false),
            ("gzip;q=0.000, *", false),
            ("*;q=0", false),
            ("gzip;q=0.4, identity;q=0.5", false),
            ("identity, *;q=0.5", false),
            ("gzip;q=2", false),
            ("gzip;q=1.1", false),
            ("gzip;q=", false),
            ("gzip;q=0.1234", false),
            ("gzip;q=-1", false),
            ("gzip;x=1", false),
            ("gzip;q=1;x=1", false),
            ("gzipped", false),
        ];
        for (value, accepted) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(accepts_gzip(&headers), accepted, "{value}");
        }
        let mut headers = HeaderMap::new();
        assert!(!accepts_gzip(&headers));
        headers.append(ACCEPT_ENCODING, HeaderValue::from_static("br"));
        headers.append(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(accepts_gzip(&headers));
        for (value, accepted) in [
            (b"br;v=\"\xc3\xab\", gzip".as_slice(), true),
            (b"\xff, gzip;q=0.5", true),
            (b"gzip, \xff;q=1", true),
            (b"gzip\xff", false),
            (b"gzip;q=\xff", false),
        ] {
            headers.clear();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_bytes(value).unwrap());
            assert_eq!(accepts_gzip(&headers), accepted, "{value:?}");
        }
    }
}
