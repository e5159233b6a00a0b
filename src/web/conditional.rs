//! Conditional requests (RFC 9110 §13): whether a client's copy, or its assumption, is still current.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{
    ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::base::log::error;
use crate::web::fields::ascii;
use crate::web::response::plain;
use crate::{Request, Response};

/// The current validators of a resource: its entity tag and the time of its last change.
///
/// A handler calls [`check`](Validators::check) before it does its work, and [marks](Validators::mark) its response for the
/// next request:
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::Validators;
///
/// fn page(req: Request) -> Response {
///     let validators = Validators::new().etag("v7");
///     if let Some(answer) = validators.check(&req) {
///         return answer; // 304 or 412
///     }
///     validators.mark("a page that takes long to make\n".into_response())
/// }
///
/// let first = page(http::Request::get("/").body(Body::empty()).unwrap());
/// assert_eq!(first.headers()["etag"], "\"v7\"");
/// let again = http::Request::get("/").header("if-none-match", "\"v7\"");
/// assert_eq!(page(again.body(Body::empty()).unwrap()).status(), StatusCode::NOT_MODIFIED);
/// let lost_update = http::Request::put("/").header("if-match", "\"v6\"");
/// assert_eq!(page(lost_update.body(Body::empty()).unwrap()).status(), StatusCode::PRECONDITION_FAILED);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    etag: Option<OwnTag>,
    modified: Option<SystemTime>,
    absent: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct OwnTag {
    weak: bool,
    opaque: String,
}

/// An entity tag as a header field has it. The text between its quotes is bytes (RFC 9110 §8.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag<'a> {
    pub(crate) weak: bool,
    pub(crate) opaque: &'a [u8],
}

impl OwnTag {
    fn tag(&self) -> Tag<'_> {
        Tag { weak: self.weak, opaque: self.opaque.as_bytes() }
    }
}

impl Validators {
    /// The validators of a resource that exists, without a tag or a time yet.
    pub fn new() -> Validators {
        Validators::default()
    }

    /// The validators of a resource that does not exist: `If-Match` fails, and `If-None-Match: *` holds, so that a client
    /// creates it only if no other client has.
    pub fn absent() -> Validators {
        Validators { absent: true, ..Validators::default() }
    }

    /// Sets a strong entity tag, given without its quotes, which must change whenever a byte of the content changes. A tag
    /// with a quote, a space or a control character is left out, and logged.
    #[must_use]
    pub fn etag(self, opaque: impl Into<String>) -> Validators {
        self.tag(OwnTag { weak: false, opaque: opaque.into() })
    }

    /// Sets a weak entity tag, given without its quotes: the same for equivalent representations.
    #[must_use]
    pub fn weak_etag(self, opaque: impl Into<String>) -> Validators {
        self.tag(OwnTag { weak: true, opaque: opaque.into() })
    }

    /// Sets the time of the last change, which HTTP sends in whole seconds.
    #[must_use]
    pub fn modified(self, time: SystemTime) -> Validators {
        Validators { modified: Some(time), ..self }
    }

    fn tag(self, tag: OwnTag) -> Validators {
        if tag.opaque.chars().all(|c| matches!(c, '!' | '#'..='~')) {
            return Validators { etag: Some(tag), ..self };
        }
        error!("invalid entity tag: {}", tag.opaque);
        self
    }

    /// The response to send instead of the handler's, if a condition of the request fails: 304 if the client's copy is
    /// current, 412 if its assumption is outdated. Conditions are evaluated in the order of RFC 9110 §13.2.2. Call it only if
    /// the handler would respond with success, because an error takes precedence over any condition.
    pub fn check(&self, request: &Request) -> Option<Response> {
        let (method, headers) = (request.method(), request.headers());
        if [Method::CONNECT, Method::OPTIONS, Method::TRACE].contains(method) {
            return None;
        }
        let reads = [Method::GET, Method::HEAD].contains(method);
        if headers.contains_key(IF_MATCH) {
            if !self.matches(headers, &IF_MATCH, |ours, theirs| !ours.weak && ours == theirs) {
                return Some(plain(StatusCode::PRECONDITION_FAILED));
            }
        } else if self.modified_since(headers, &IF_UNMODIFIED_SINCE) == Some(true) {
            return Some(plain(StatusCode::PRECONDITION_FAILED));
        }
        if headers.contains_key(IF_NONE_MATCH) {
            if !self.matches(headers, &IF_NONE_MATCH, |ours, theirs| ours.opaque == theirs.opaque) {
                return None;
            }
            if !reads {
                return Some(plain(StatusCode::PRECONDITION_FAILED));
            }
        } else if !reads || self.modified_since(headers, &IF_MODIFIED_SINCE) != Some(false) {
            return None;
        }
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        Some(self.mark(response))
    }

    /// Whether a requested range refers to the current representation (RFC 9110 §13.1.5): true without `If-Range`.
    pub fn allow_range(&self, request: &Request) -> bool {
        let Some(value) = request.headers().get(IF_RANGE) else { return true };
        let value = value.as_bytes().trim_ascii();
        if (value.starts_with(b"\"") || value.starts_with(b"W/\"")) && value.ends_with(b"\"") {
            let theirs = tags(value).next();
            return self.etag.as_ref().is_some_and(|ours| !ours.weak && theirs == Some(ours.tag()));
        }
        // A date is strong only if nothing can have changed within its second.
        let settled = |time: SystemTime| time.elapsed().is_ok_and(|age| age > Duration::from_secs(2));
        match (self.modified, date(value)) {
            (Some(ours), Some(theirs)) => seconds(ours) == seconds(theirs) && settled(ours),
            _ => false,
        }
    }

    /// The same response with `ETag` and `Last-Modified`, as far as they are known.
    #[must_use]
    pub fn mark(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if let Some(OwnTag { weak, opaque }) = &self.etag {
            let text = format!("{}\"{opaque}\"", if *weak { "W/" } else { "" });
            headers.extend(HeaderValue::try_from(text).ok().map(|value| (ETAG, value)));
        }
        if let Some(text) = self.modified.and_then(|time| last_modified(time, SystemTime::now())) {
            headers.extend(HeaderValue::try_from(text).ok().map(|value| (LAST_MODIFIED, value)));
        }
        response
    }

    fn matches(
        &self,
        headers: &HeaderMap,
        name: &HeaderName,
        same: impl Fn(Tag<'_>, Tag<'_>) -> bool,
    ) -> bool {
        headers.get_all(name).iter().any(|list| match list.as_bytes().trim_ascii() {
            b"*" => !self.absent,
            list => self.etag.as_ref().is_some_and(|ours| tags(list).any(|theirs| same(ours.tag(), theirs))),
        })
    }

    /// None: no condition, or none that counts (RFC 9110 §13.1.3, §13.1.4).
    fn modified_since(&self, headers: &HeaderMap, name: &HeaderName) -> Option<bool> {
        let mut values = headers.get_all(name).iter();
        let value = values.next().filter(|_| values.next().is_none())?;
        let theirs = date(value.as_bytes())?;
        Some(seconds(self.modified?) > seconds(theirs))
    }
}

/// Whole seconds since 1970; 0 for earlier times.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The last second that an HTTP date can express: its year has four digits.
const LAST_SECOND: u64 = 253_402_300_799;

/// A time in the future is sent as the present (RFC 9110 §8.8.2.1). None before 1970 or after 9999: a clock may be wrong, and
/// `httpdate` panics.
fn last_modified(time: SystemTime, now: SystemTime) -> Option<String> {
    let time = time.min(now);
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    (since.as_secs() <= LAST_SECOND).then(|| httpdate::fmt_http_date(time))
}

fn date(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(ascii(value)?).ok()
}

/// The entity tags of a list, up to the first malformed one.
pub(crate) fn tags(mut list: &[u8]) -> impl Iterator<Item = Tag<'_>> {
    std::iter::from_fn(move || {
        while let [b' ' | b'\t' | b',', rest @ ..] = list {
            list = rest;
        }
        let (weak, rest) = match list.strip_prefix(b"W/") {
            Some(rest) => (true, rest),
            None => (false, list),
        };
        let rest = rest.strip_prefix(b"\"")?;
        let (opaque, after) = rest.split_at_checked(rest.iter().position(|&b| b == b'"')?)?;
        list = after.split_first()?.1;
        Some(Tag { weak, opaque })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Body;

    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn then() -> SystemTime {
        // With a fraction of a second, which HTTP does not send.
        httpdate::parse_http_date(THEN).unwrap() + Duration::from_millis(600)
    }

    #[test]
    fn times_that_no_date_can_say_are_left_out() {
        let at = |seconds: i64| match u64::try_from(seconds) {
            Ok(after) => UNIX_EPOCH + Duration::from_secs(after),
            Err(_) => UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()),
        };
        let last = LAST_SECOND as i64;
        let cases = [
            (0, 0, Some("Thu, 01 Jan 1970 00:00:00 GMT")),
            (1, 2, Some("Thu, 01 Jan 1970 00:00:01 GMT")),
            (2, 1, Some("Thu, 01 Jan 1970 00:00:01 GMT")),
            (-1, 1, None),
            // The clock is wrong.
            (1, -1, None),
            (-1, -2, None),
            (last, last + 1, Some("Fri, 31 Dec 9999 23:59:59 GMT")),
            (last + 1, last, Some("Fri, 31 Dec 9999 23:59:59 GMT")),
            (last + 1, last + 2, None),
            (1 << 50, 1 << 60, None),
        ];
        for (time, now, expected) in cases {
            assert_eq!(last_modified(at(time), at(now)).as_deref(), expected, "{time} {now}");
        }
    }

    /// `METHOD name: value|name: value`.
    fn request(line: &str) -> Request {
        let (method, fields) = line.split_once(' ').unwrap_or((line, ""));
        let mut request = http::Request::builder().method(method).uri("/");
        for field in fields.split('|').filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn conditions_and_their_precedence() {
        let strong = Validators::new().etag("a").modified(then());
        let weak = Validators::new().weak_etag("a");
        let dated = Validators::new().modified(then());
        let absent = Validators::absent();
        let (plain, none) = (Validators::new(), 0);
        let f = |text: &str| text.replace("THEN", THEN).replace("BEFORE", BEFORE).replace("LATER", LATER);
        #[rustfmt::skip]
        let cases = [
            (&strong, "GET", none),
            (&strong, "GET if-none-match: \"a\"", 304),
            (&strong, "HEAD if-none-match: \"a\"", 304),
            (&strong, "GET if-none-match: W/\"a\"", 304),
            (&strong, "GET if-none-match: \"b\"", none),
            (&strong, "GET if-none-match: \"b\", \"a\"", 304),
            (&strong, "GET if-none-match: \"b,\", W/\"x\" ,\"a\"", 304),
            (&strong, "GET if-none-match: \"b\"|if-none-match: \"a\"", 304),
            (&strong, "GET if-none-match: *", 304),
            (&strong, "GET if-none-match: a", none),
            (&strong, "GET if-none-match: \"a", none),
            (&strong, "GET if-none-match: \"\"", none),
            (&strong, "PUT if-none-match: \"a\"", 412),
            (&strong, "PUT if-none-match: *", 412),
            (&strong, "PUT if-none-match: \"b\"", none),
            (&absent, "PUT if-none-match: *", none),
            (&plain, "PUT if-none-match: *", 412),
            (&plain, "GET if-none-match: \"a\"", none),
            (&weak, "GET if-none-match: \"a\"", 304),
            (&weak, "GET if-none-match: W/\"a\"", 304),
            (&strong, "PUT if-match: \"a\"", none),
            (&strong, "GET if-match: \"a\"", none),
            (&strong, "PUT if-match: W/\"a\"", 412),
            (&strong, "PUT if-match: \"b\"", 412),
            (&strong, "GET if-match: \"b\"", 412),
            (&strong, "PUT if-match: \"b\", \"a\"", none),
            (&strong, "PUT if-match: *", none),
            (&absent, "PUT if-match: *", 412),
            (&absent, "PUT if-match: \"a\"", 412),
            (&weak, "PUT if-match: W/\"a\"", 412),
            (&strong, "GET if-modified-since: THEN", 304),
            (&strong, "GET if-modified-since: LATER", 304),
            (&strong, "GET if-modified-since: BEFORE", none),
            (&strong, "POST if-modified-since: THEN", none),
            (&strong, "GET if-modified-since: yesterday", none),
            (&strong, "GET if-modified-since: THEN|if-modified-since: THEN", none),
            (&weak, "GET if-modified-since: THEN", none),
            (&dated, "GET if-modified-since: Sunday, 06-Nov-94 08:49:37 GMT", 304),
            (&strong, "PUT if-unmodified-since: THEN", none),
            (&strong, "PUT if-unmodified-since: LATER", none),
            (&strong, "PUT if-unmodified-since: BEFORE", 412),
            (&strong, "PUT if-unmodified-since: yesterday", none),
            (&weak, "PUT if-unmodified-since: BEFORE", none),
            // The tag is evaluated, and the date ignored.
            (&strong, "GET if-none-match: \"b\"|if-modified-since: LATER", none),
            (&strong, "GET if-none-match: \"a\"|if-modified-since: BEFORE", 304),
            (&strong, "PUT if-match: \"a\"|if-unmodified-since: BEFORE", none),
            (&strong, "PUT if-match: \"b\"|if-unmodified-since: LATER", 412),
            // `If-Match` is evaluated before `If-None-Match`.
            (&strong, "GET if-match: \"b\"|if-none-match: \"a\"", 412),
            (&strong, "GET if-match: \"a\"|if-none-match: \"a\"", 304),
            (&strong, "GET if-unmodified-since: BEFORE|if-none-match: \"a\"", 412),
            (&strong, "OPTIONS if-match: \"b\"", none),
        ];
        for (validators, line, want) in cases {
            let answer = validators.check(&request(&f(line)));
            assert_eq!(answer.map_or(none, |answer| answer.status().as_u16()), want, "{line} {validators:?}");
        }
        let answer = strong.check(&request("GET if-none-match: *")).unwrap();
        assert_eq!(
            (&answer.headers()[ETAG], &answer.headers()[LAST_MODIFIED]),
            (&HeaderValue::from_static("\"a\""), &HeaderValue::from_static(THEN))
        );
    }

    /// RFC 9110 §8.8.3: `etagc` has bytes from 0x80 on.
    #[test]
    fn a_tag_beyond_ascii_hides_no_other() {
        let ours = Validators::new().etag("a").modified(then());
        let asked = |name: &'static str, value: &[u8]| {
            let mut request = request("GET");
            request.headers_mut().insert(name, HeaderValue::from_bytes(value).unwrap());
            request
        };
        let status = |request: Request| ours.check(&request).map_or(0, |answer| answer.status().as_u16());
        for (name, value, want) in [
            ("if-none-match", b"\"Zo\xc3\xab\", \"a\"".as_slice(), 304),
            ("if-none-match", b"\"a\", \"\xff\"", 304),
            ("if-none-match", b"\"a\xff\"", 0),
            ("if-none-match", b"\xff, \"a\"", 0),
            ("if-match", b"W/\"\xeb\", \"a\"", 0),
            ("if-match", b"\"\xeb\"", 412),
            ("if-modified-since", b"Sun, 06 Nov 1994 08:49:37 GMT\xff", 0),
        ] {
            assert_eq!(status(asked(name, value)), want, "{name} {value:?}");
        }
        assert!(!ours.allow_range(&asked("if-range", b"\"a\xff\"")));
        assert!(!ours.allow_range(&asked("if-range", b"\xff")));
        let list = b" , W/\"x,y\" ,\"\xff\", bad \"a\"";
        let all: Vec<_> = tags(list).map(|tag| (tag.weak, tag.opaque)).collect();
        assert_eq!(all, [(true, b"x,y".as_slice()), (false, b"\xff")]);
    }

    #[test]
    fn ranges_of_what_has_not_changed() {
        let strong = Validators::new().etag("a").modified(then());
        let weak = Validators::new().weak_etag("a");
        let fresh = Validators::new().modified(SystemTime::now());
        let now = httpdate::fmt_http_date(SystemTime::now());
        let cases = [
            (&strong, "GET".to_owned(), true),
            (&strong, "GET if-range: \"a\"".to_owned(), true),
            (&strong, "GET if-range: W/\"a\"".to_owned(), false),
            (&strong, "GET if-range: \"b\"".to_owned(), false),
            (&weak, "GET if-range: W/\"a\"".to_owned(), false),
            (&strong, format!("GET if-range: {THEN}"), true),
            (&strong, format!("GET if-range: {LATER}"), false),
            (&strong, "GET if-range: yesterday".to_owned(), false),
            (&weak, format!("GET if-range: {THEN}"), false),
            (&fresh, format!("GET if-range: {now}"), false),
        ];
        for (validators, line, want) in cases {
            assert_eq!(validators.allow_range(&request(&line)), want, "{line}");
        }
    }

    #[test]
    fn invalid_validators_are_not_sent() {
        let marked = |validators: Validators| validators.mark(Response::default()).headers().len();
        assert_eq!(marked(Validators::new().etag("a\"b").etag("a b").etag("ä")), 0);
        assert_eq!(marked(Validators::new().modified(UNIX_EPOCH - Duration::from_secs(1))), 0);
        assert_eq!(marked(Validators::new().modified(UNIX_EPOCH + Duration::from_secs(1 << 40))), 1);
        assert_eq!(marked(Validators::new().weak_etag("").modified(then())), 2);
        let ahead = Validators::new().modified(SystemTime::now() + Duration::from_secs(3_600));
        let said = ahead.mark(Response::default()).headers()[LAST_MODIFIED].to_str().unwrap().to_owned();
        assert!(httpdate::parse_http_date(&said).unwrap() <= SystemTime::now(), "{said}");
    }
}
