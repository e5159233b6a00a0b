//! Entity tags around `Gzip` (RFC 9110 §8.8.3.3). A compressed representation has a strong tag of its own: its handler's,
//! with a suffix within the quotes. When one comes back in a condition, the handler sees its own tag.
//!
//! | the handler's tag | sent with what is compressed | with what is not |
//! | --- | --- | --- |
//! | `"a"` | `"a-gzip"` | `"a"` |
//! | `"a-gzip"`, which ends like one of these | `"a-gzip-gzip"` | `"a-gzip-identity"` |
//! | `W/"a"` | `W/"a"` | `W/"a"` |
//!
//! So each tag that a client has stands for one form of one version.

use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::Request;
use crate::web::conditional::{Tag, tags};

const COMPRESSED: &[u8] = b"-gzip";
const PLAIN: &[u8] = b"-identity";

/// The coding of a representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Compressed,
}

/// The conditions of a request as its client sent them, if they name tags. In the request, the handler's tags have replaced
/// them.
#[derive(Default)]
pub(super) struct Conditions {
    accepts_gzip: bool,
    if_match: Vec<HeaderValue>,
    if_none_match: Vec<HeaderValue>,
}

impl Conditions {
    /// Takes the conditions of a request, and replaces them there by the handler's tags.
    pub(super) fn of(request: &mut Request, accepts_gzip: bool) -> Conditions {
        // A read concerns the form that is sent: a tag of the other form does not match. A change concerns all forms.
        let reads = [Method::GET, Method::HEAD].contains(request.method());
        let counts = |form| !reads || accepts_gzip || form == Form::Plain;
        let headers = request.headers_mut();
        // A compressed response has no ranges, so a client can't resume it: it gets the whole.
        let in_range = headers.get(IF_RANGE).and_then(|value| tags(value.as_bytes()).next());
        let in_range = in_range.filter(|tag| !is_own(*tag)).map(|tag| match meant(tag) {
            (own, Form::Plain) => written(own.weak, &[own.opaque]),
            (_, Form::Compressed) => None,
        });
        match in_range {
            Some(Some(own)) => drop(headers.insert(IF_RANGE, own)),
            Some(None) => [IF_RANGE, RANGE].into_iter().for_each(|name| drop(headers.remove(name))),
            None => {}
        }
        let if_match = in_own_tags(headers, IF_MATCH, counts);
        Conditions { accepts_gzip, if_match, if_none_match: in_own_tags(headers, IF_NONE_MATCH, counts) }
    }

    /// The form that the client of a 304 with these fields has; None: unknown.
    pub(super) fn confirmed(&self, headers: &HeaderMap) -> Option<Form> {
        let has = |form: &Form| names(&self.if_none_match, headers, *form);
        let forms = [Form::Compressed, Form::Plain].into_iter();
        forms.filter(|form| self.accepts_gzip || *form == Form::Plain).find(has)
    }

    /// Whether a part with these fields is not what the client wants: a part always belongs to the plain form.
    pub(super) fn exclude_part(&self, headers: &HeaderMap) -> bool {
        let names = |form| names(&self.if_match, headers, form);
        names(Form::Compressed) && !names(Form::Plain)
    }
}

/// Whether the lists have the handler's tag, as it is sent with this form.
fn names(lists: &[HeaderValue], headers: &HeaderMap, form: Form) -> bool {
    let own = headers.get(ETAG).and_then(|value| tags(value.as_bytes()).next());
    let mut theirs = lists.iter().flat_map(|list| tags(list.as_bytes())).map(meant);
    own.is_some_and(|own| theirs.any(|(tag, of)| of == form && tag.opaque == own.opaque))
}

/// Rewrites the lists of a field, and returns the original ones.
fn in_own_tags(headers: &mut HeaderMap, name: HeaderName, counts: impl Fn(Form) -> bool) -> Vec<HeaderValue> {
    let theirs: Vec<HeaderValue> = headers.get_all(&name).iter().cloned().collect();
    if !theirs.iter().all(|list| tags(list.as_bytes()).all(is_own)) {
        headers.remove(&name);
        for list in &theirs {
            let own = own_list(list.as_bytes(), &counts).unwrap_or_else(|| list.clone());
            headers.append(name.clone(), own);
        }
    }
    theirs
}

/// A list as the handler's tags, without those of forms that don't count. It may be empty: then it matches nothing.
/// None if it has no tags.
fn own_list(list: &[u8], counts: impl Fn(Form) -> bool) -> Option<HeaderValue> {
    tags(list).next()?;
    let own = tags(list).map(meant).filter(|(_, form)| counts(*form));
    let texts: Vec<Vec<u8>> = own.map(|(tag, _)| text(tag.weak, &[tag.opaque])).collect();
    HeaderValue::from_bytes(&texts.join(b", ".as_slice())).ok()
}

/// Replaces the handler's tag by that of the form that is sent.
pub(super) fn put(headers: &mut HeaderMap, form: Form) {
    let sent = headers.get(ETAG).and_then(|value| {
        let own = tags(value.as_bytes()).next()?;
        let suffix = match form {
            Form::Compressed if !own.weak => COMPRESSED,
            _ if ends_like_ours(own.opaque) => PLAIN,
            _ => return None,
        };
        written(own.weak, &[own.opaque, suffix])
    });
    if let Some(sent) = sent {
        headers.insert(ETAG, sent);
    }
}

fn ends_like_ours(opaque: &[u8]) -> bool {
    opaque.ends_with(COMPRESSED) || opaque.ends_with(PLAIN)
}

/// The handler's tag that was sent as this one, and the form that it was sent with.
fn meant(tag: Tag<'_>) -> (Tag<'_>, Form) {
    let own = |opaque| Tag { weak: tag.weak, opaque };
    if let Some(opaque) = tag.opaque.strip_suffix(COMPRESSED) {
        return (own(opaque), Form::Compressed);
    }
    match tag.opaque.strip_suffix(PLAIN).filter(|opaque| ends_like_ours(opaque)) {
        Some(opaque) => (own(opaque), Form::Plain),
        None => (tag, Form::Plain),
    }
}

/// Whether a tag of the handler is sent unchanged.
fn is_own(tag: Tag<'_>) -> bool {
    meant(tag) == (tag, Form::Plain)
}

fn text(weak: bool, parts: &[&[u8]]) -> Vec<u8> {
    let before: &[u8] = if weak { b"W/\"" } else { b"\"" };
    [&[before], parts, &[b"\""]].concat().concat()
}

fn written(weak: bool, parts: &[&[u8]]) -> Option<HeaderValue> {
    HeaderValue::from_bytes(&text(weak, parts)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Body;

    #[test]
    fn each_tag_stands_for_one_form_of_one_version() {
        let sent = |own: &str, form| {
            let mut headers = HeaderMap::new();
            headers.insert(ETAG, HeaderValue::from_str(own).unwrap());
            put(&mut headers, form);
            headers[ETAG].to_str().unwrap().to_owned()
        };
        let mut seen = std::collections::BTreeMap::new();
        for (own, compressed, plain) in [
            ("\"a\"", "\"a-gzip\"", "\"a\""),
            ("\"\"", "\"-gzip\"", "\"\""),
            ("\"a-gzip\"", "\"a-gzip-gzip\"", "\"a-gzip-identity\""),
            ("\"a-identity\"", "\"a-identity-gzip\"", "\"a-identity-identity\""),
            ("\"a-gzip-gzip\"", "\"a-gzip-gzip-gzip\"", "\"a-gzip-gzip-identity\""),
            ("\"a-gzip-identity\"", "\"a-gzip-identity-gzip\"", "\"a-gzip-identity-identity\""),
            ("W/\"a\"", "W/\"a\"", "W/\"a\""),
            ("W/\"b-gzip\"", "W/\"b-gzip-identity\"", "W/\"b-gzip-identity\""),
            ("no tag", "no tag", "no tag"),
        ] {
            assert_eq!(
                (sent(own, Form::Compressed), sent(own, Form::Plain)),
                (compressed.into(), plain.into())
            );
            let Some(tag) = tags(own.as_bytes()).next() else { continue };
            for (form, there) in [(Form::Compressed, compressed), (Form::Plain, plain)] {
                let form = if tag.weak { Form::Plain } else { form };
                assert_eq!(meant(tags(there.as_bytes()).next().unwrap()), (tag, form), "{there}");
                assert!(seen.insert(there, own).is_none_or(|other| other == own), "{there}");
            }
        }
    }

    /// Method, whether gzip is accepted, the request's fields, and the fields that the handler gets.
    #[test]
    fn conditions_are_in_the_handlers_tags() {
        let cases = [
            ("GET", true, "if-none-match: \"a-gzip\"", "if-none-match: \"a\""),
            ("HEAD", true, "if-none-match: \"a-gzip\"", "if-none-match: \"a\""),
            (
                "GET",
                true,
                "if-none-match: \"b\" , W/\"a-gzip\",\"a\"",
                "if-none-match: \"b\", W/\"a\", \"a\"",
            ),
            ("GET", true, "if-none-match: *", "if-none-match: *"),
            ("GET", true, "if-none-match: \"a\"  ,\"b\"", "if-none-match: \"a\"  ,\"b\""),
            ("GET", true, "if-none-match: \"a-gzip-identity\"", "if-none-match: \"a-gzip\""),
            ("GET", true, "if-none-match: \"x-identity\"", "if-none-match: \"x-identity\""),
            ("GET", true, "if-none-match: bad-gzip", "if-none-match: bad-gzip"),
            // The tag of the form that is not sent.
            ("GET", false, "if-none-match: \"a-gzip\"", "if-none-match: "),
            ("HEAD", false, "if-none-match: \"a-gzip\", \"b\"", "if-none-match: \"b\""),
            ("GET", false, "if-match: \"a-gzip\"", "if-match: "),
            // A change concerns a version in every form.
            ("PUT", false, "if-match: \"a-gzip\"", "if-match: \"a\""),
            ("DELETE", true, "if-match: \"b\", \"a-gzip\"", "if-match: \"b\", \"a\""),
            ("PUT", false, "if-match: *", "if-match: *"),
            ("PUT", true, "if-none-match: \"a-gzip\"", "if-none-match: \"a\""),
            ("GET", true, "range: bytes=1-|if-range: \"a-gzip\"", ""),
            ("GET", true, "range: bytes=1-|if-range: \"a\"", "range: bytes=1-|if-range: \"a\""),
            (
                "GET",
                true,
                "range: bytes=1-|if-range: \"a-gzip-identity\"",
                "range: bytes=1-|if-range: \"a-gzip\"",
            ),
            ("GET", true, "range: bytes=1-|if-range: yesterday", "range: bytes=1-|if-range: yesterday"),
            ("GET", true, "if-match: \"a\"|if-match: \"b-gzip\"", "if-match: \"a\"|if-match: \"b\""),
        ];
        for (method, accepts, theirs, own) in cases {
            let mut request = http::Request::builder().method(method);
            for field in theirs.split('|') {
                let (name, value) = field.split_once(": ").unwrap();
                request = request.header(name, value);
            }
            let mut request = request.body(Body::empty()).unwrap();
            Conditions::of(&mut request, accepts);
            let fields = request.headers().iter();
            let mut got: Vec<String> = fields.map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
            let mut want: Vec<&str> = own.split('|').filter(|field| !field.is_empty()).collect();
            got.sort();
            want.sort_unstable();
            assert_eq!(got, want, "{method} {accepts} {theirs}");
        }
    }
}
