//! The request head: bytes in, a [`RequestHead`] or a [`Refusal`] out.
//!
//! `tokens.rs` finds the parts; what they mean is decided here. Both are strict, because everything that two parsers
//! on one path read differently is a way to smuggle a request (RFC 9112 §11.2). There is one leniency:
//! the lines of a head may end in a bare LF (RFC 9112 §2.2 allows it, and other servers accept it), because people
//! type heads that way. Then all lines must end in LF: a single bare LF among CRLFs has passed through a proxy that
//! took it for a part of a value. A bare CR is never accepted.

use std::ops::Range;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST,
    UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use super::framing::{ConnectionFields, Framing};
use super::head_memory::HeadMemory;
use super::known_fields::KnownFields;
use super::target::{BAD_TARGET, parse_target};
use super::tokens::{Field, TOO_MANY_FIELDS, Tokens};
use crate::base::limits::Limits;
use crate::web::fields::{FieldSource, elements};
use crate::{Body, Request};

/// A request head, and what it says about what follows.
#[derive(Debug, Default)]
pub(crate) struct RequestHead {
    /// The request, with an empty body. None before it is parsed, and once its handler has it.
    pub(crate) request: Option<Request>,
    pub(crate) summary: RequestSummary,
    pub(crate) framing: Framing,
    /// Whether the client waits for 100 before it sends its body.
    pub(crate) expect_continue: bool,
    /// Bytes of the head, including empty lines before it.
    pub(crate) len: usize,
}

/// The parts of a request head that its response depends on. The request itself moves to the handler.
#[derive(Debug, Default)]
pub(crate) struct RequestSummary {
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// Whether the client wants the connection kept.
    pub(crate) keep_alive: bool,
    /// Whether the client asks for the protocols of its `Upgrade` fields: in HTTP/1.1, with `Connection: upgrade`.
    pub(crate) upgrade: bool,
    /// The head as received, from the request line to the empty line, for the log.
    pub(crate) text: Bytes,
}

impl RequestHead {
    /// Bytes of memory: the head as received, and as parsed.
    pub(crate) fn held(&self) -> usize {
        /// What a field takes in a `HeaderMap` besides its bytes.
        const FIELD_BYTES: usize = 112;
        let fields = self.request.as_ref().map_or(0, |request| request.headers().capacity());
        self.summary.text.len().saturating_add(fields.saturating_mul(FIELD_BYTES))
    }

    /// The path of the request's target.
    #[inline(always)]
    pub(crate) fn path(&self) -> &str {
        if let Some(request) = &self.request { request.uri().path() } else { "" }
    }
}

impl RequestSummary {
    /// Whether the client has asked for each protocol that the response's fields name, and they name one (RFC 9110
    /// §7.8).
    pub(crate) fn asks_for(&self, response: &HeaderMap) -> bool {
        let is_asked_for = |protocol: &[u8]| {
            let mut is_listed = false;
            FieldSource::Head(&self.text).for_each([&UPGRADE], |_, value| {
                is_listed |= elements(value).any(|asked| asked.eq_ignore_ascii_case(protocol));
            });
            is_listed
        };
        let values = response.get_all(UPGRADE).iter();
        let mut named = values.flat_map(|value| elements(value.as_bytes())).peekable();
        self.upgrade && named.peek().is_some() && named.all(is_asked_for)
    }
}

/// Why bytes are no request. Where the next request starts is unknown, so the answer closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
}

impl Refusal {
    pub(super) const fn bad(reason: &'static str) -> Refusal {
        Refusal { status: StatusCode::BAD_REQUEST, reason }
    }

    pub(super) const fn too_large(reason: &'static str) -> Refusal {
        Refusal { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason }
    }
}

pub(super) const HEAD_TOO_LONG: Refusal = Refusal::too_large("request head too long");
const METHOD_TOO_LONG: Refusal = Refusal { status: StatusCode::NOT_IMPLEMENTED, reason: "unknown method" };

/// Empty lines forgiven before a request line. RFC 9112 §2.2 asks for one at least.
const EMPTY_LINES: usize = 4;

/// A `HeaderMap` that grows by itself has room for this many fields at first.
const FIRST_FIELDS: usize = 6;

/// Parses a head that arrives piece by piece: once for each piece that ends a line, of which there are at most as
/// many as a head may have, and when it has doubled. However small the pieces, a long line costs time linear in its
/// length.
///
/// Wrong bytes are refused when their line has ended at the latest: the refusal is the same as for the head in one piece.
#[derive(Clone, Copy, Default)]
pub(crate) struct Scan {
    seen: usize,
    parsed: usize,
    /// Empty lines that were skipped before what is parsed.
    empty_lines: usize,
}

impl Scan {
    /// How many bytes at the start of `input` are empty lines: no request starts with them, and the caller
    /// drops them.
    pub(crate) fn skip_empty_lines(&mut self, input: &[u8]) -> Result<usize, Refusal> {
        let left = EMPTY_LINES.saturating_sub(self.empty_lines);
        let (rest, lines) = skip_empty_lines(input, left)?;
        if lines > 0 {
            let empty_lines = self.empty_lines.saturating_add(lines);
            *self = Scan { empty_lines, ..Scan::default() };
        }
        Ok(input.len().saturating_sub(rest.len()))
    }

    /// As [`parse_head`]; `input` starts with the same bytes as at the last call that gave `Ok(None)`.
    #[inline]
    pub(crate) fn parse<'p>(
        &mut self,
        input: &[u8],
        limits: &Limits,
        memory: &mut HeadMemory,
        place: &'p mut Option<RequestHead>,
    ) -> Result<Option<&'p mut RequestHead>, Refusal> {
        let ends_line = || input.get(self.seen..).unwrap_or_default().contains(&b'\n');
        let due = input.len() / 2 >= self.parsed || input.len() >= limits.head_bytes || ends_line();
        if !due {
            self.seen = input.len();
            return Ok(None);
        }
        let head = parse_head(input, limits, memory, place)?;
        if head.is_some() {
            *self = Scan::default();
        } else {
            (self.seen, self.parsed) = (input.len(), input.len());
        }
        Ok(head)
    }
}

/// Parses the head that `input` starts with. It is large, so it is written where it stays, in `place`. None if it is not
/// complete yet.
pub(crate) fn parse_head<'p>(
    input: &[u8],
    limits: &Limits,
    memory: &mut HeadMemory,
    place: &'p mut Option<RequestHead>,
) -> Result<Option<&'p mut RequestHead>, Refusal> {
    let window = input.get(..limits.head_bytes).unwrap_or(input);
    let (lines, _) = skip_empty_lines(window, EMPTY_LINES)?;
    if memory.tokens.find(lines, limits, &memory.fields)? {
        let len = memory.tokens.len;
        let text = memory.copy(lines.get(..len).unwrap_or_default());
        let head = assemble(&memory.tokens, text, &mut memory.fields, place)?;
        head.len = window.len().saturating_sub(lines.len()).saturating_add(len);
        return Ok(Some(head));
    }
    if window.len() < limits.head_bytes {
        return Ok(None);
    }
    // RFC 9112 §3: the bytes so far are longer than any known method.
    let is_in_method = !matches!(lines, [] | [b'\r', ..]) && !lines.contains(&b' ');
    Err(if is_in_method { METHOD_TOO_LONG } else { HEAD_TOO_LONG })
}

/// The rest of the input after at most `most` empty lines, and how many lines these were.
fn skip_empty_lines(mut input: &[u8], most: usize) -> Result<(&[u8], usize), Refusal> {
    let mut lines: usize = 0;
    while let Some(rest) = input.strip_prefix(b"\r\n").or_else(|| input.strip_prefix(b"\n")) {
        if lines >= most {
            return Err(Refusal::bad("too many empty lines before the request"));
        }
        (input, lines) = (rest, lines.saturating_add(1));
    }
    Ok((input, lines))
}

/// Whether a request that may be incomplete, or malformed after its method, is a HEAD: an answer to it has
/// no content (RFC 9110 §9.3.2).
pub(crate) fn is_to_head(input: &[u8]) -> bool {
    skip_empty_lines(input, EMPTY_LINES).is_ok_and(|(lines, _)| lines.starts_with(b"HEAD "))
}

/// The tokens are parts of the head's text.
fn assemble<'p>(
    tokens: &Tokens,
    text: Bytes,
    known: &mut KnownFields,
    place: &'p mut Option<RequestHead>,
) -> Result<&'p mut RequestHead, Refusal> {
    let version = tokens.version;
    let head = place.insert(RequestHead {
        request: None,
        summary: RequestSummary { method: Method::GET, version, keep_alive: false, upgrade: false, text },
        framing: Framing::None,
        expect_continue: false,
        len: 0,
    });
    let RequestHead { request, summary, framing, expect_continue, .. } = &mut *head;
    let text = &summary.text;
    // Set where the body stays: a body is large.
    let request = request.insert(Request::new(Body::empty()));
    let part = |range: &Range<usize>| text.get(range.clone()).unwrap_or_default();
    *request.version_mut() = version;
    // A new request is a GET of `/`.
    if !tokens.is_get {
        *request.method_mut() = Method::from_bytes(part(&tokens.method)).map_err(|_| METHOD_TOO_LONG)?;
    }
    if !tokens.is_root || *request.method() == Method::CONNECT {
        *request.uri_mut() = parse_target(request.method(), text.slice(tokens.target.clone()))?;
    }

    let headers = request.headers_mut();
    let fields = if tokens.are_known {
        known.note_hit();
        known.copy_to(headers)
    } else {
        let fields = assemble_fields(tokens, text, known, headers)?;
        known.note_miss(text.get(tokens.fields_start..).unwrap_or_default());
        fields
    };
    if version == Version::HTTP_11 && !fields.host {
        return Err(Refusal::bad("missing Host"));
    }
    *framing = fields.framing(version)?;
    summary.upgrade = fields.upgrade && version == Version::HTTP_11;
    let uri = request.uri();
    if let (Some(_), Some(authority)) = (uri.scheme(), uri.authority()) {
        // The target's host replaces that of the Host field (RFC 9112 §3.2.2), so that no handler reads the latter.
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| BAD_TARGET)?;
        request.headers_mut().try_insert(HOST, host).map_err(|_| *TOO_MANY_FIELDS)?;
    }
    summary.method = request.method().clone();
    summary.keep_alive = !fields.close && (version == Version::HTTP_11 || fields.keep_alive);
    // RFC 9110 §10.1.1: 100 is never sent to a 1.0 client, and not where no body is announced.
    let has_body = !matches!(framing, Framing::None | Framing::Length(0));
    *expect_continue = fields.expect_continue && version == Version::HTTP_11 && has_body;
    Ok(head)
}

fn assemble_fields(
    tokens: &Tokens,
    text: &Bytes,
    known: &KnownFields,
    headers: &mut HeaderMap,
) -> Result<ConnectionFields, Refusal> {
    let count = tokens.known.saturating_add(tokens.fields.len());
    if count > FIRST_FIELDS {
        headers.try_reserve(count).map_err(|_| *TOO_MANY_FIELDS)?;
    }
    let mut fields = known.add_to(headers, tokens.known)?;
    for field in &tokens.fields {
        let (name, value) = read_field(text, field, &mut fields)?;
        headers.try_append(name, value).map_err(|_| *TOO_MANY_FIELDS)?;
    }
    Ok(fields)
}

/// Name and value of a field in `text`. What it says of the connection is noted in `fields`.
#[inline(always)]
pub(super) fn read_field(
    text: &Bytes,
    field: &Field,
    fields: &mut ConnectionFields,
) -> Result<(HeaderName, HeaderValue), Refusal> {
    // `http` accepts the same names and values, except that a name is at most 64 KiB long.
    let name = text.get(field.name.clone()).and_then(field_name).ok_or(HEAD_TOO_LONG)?;
    let value = text.slice(field.value.clone());
    fields.note(&name, &value)?;
    Ok((name, HeaderValue::from_maybe_shared(value).map_err(|_| HEAD_TOO_LONG)?))
}

/// Names as most clients write them are compared as they are; others are copied in lower case, to be found by `http`.
fn field_name(name: &[u8]) -> Option<HeaderName> {
    Some(match name {
        b"Host" => HOST,
        b"Accept" => ACCEPT,
        b"Cookie" => COOKIE,
        b"Connection" => CONNECTION,
        b"User-Agent" => USER_AGENT,
        b"Content-Type" => CONTENT_TYPE,
        b"Content-Length" => CONTENT_LENGTH,
        b"Accept-Encoding" => ACCEPT_ENCODING,
        b"Accept-Language" => ACCEPT_LANGUAGE,
        _ => return HeaderName::from_bytes(name).ok(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use arbtest::arbitrary::{self, Unstructured};

    use super::*;
    use crate::base::property::{BYTES, CASES, bytes, check, cuts, list};

    type Parsed = Result<Option<RequestHead>, Refusal>;

    fn parse(input: &[u8], limits: &Limits) -> Parsed {
        parse_with(&mut HeadMemory::default(), input, limits)
    }

    fn parse_with(memory: &mut HeadMemory, input: &[u8], limits: &Limits) -> Parsed {
        let mut head = None;
        parse_head(input, limits, memory, &mut head)?;
        Ok(head)
    }

    fn scan_with(scan: &mut Scan, input: &[u8], limits: &Limits) -> Parsed {
        let mut head = None;
        scan.parse(input, limits, &mut HeadMemory::default(), &mut head)?;
        Ok(head)
    }

    /// One line that says what became of a head: the status, or what it asks for.
    fn said(parsed: &Parsed) -> String {
        match parsed {
            Err(refusal) => refusal.status.as_u16().to_string(),
            Ok(None) => "more".to_owned(),
            Ok(Some(head)) => {
                let RequestHead { request, summary, framing, expect_continue, len } = head;
                let request = request.as_ref().unwrap();
                let kept = if summary.keep_alive { "keep" } else { "close" };
                let expects = if *expect_continue { " 100" } else { "" };
                format!(
                    "{} {} {:?} {framing:?} {kept}{expects} {len}",
                    request.method(),
                    request.uri(),
                    request.version()
                )
            }
        }
    }

    fn said_of(input: &[u8]) -> String {
        said(&parse(input, &Limits::default()))
    }

    /// Where the head is the whole input.
    fn with_len(expected: &str, input: &[u8]) -> String {
        if expected.len() == 3 { expected.to_owned() } else { format!("{expected} {}", input.len()) }
    }

    #[test]
    fn request_lines() {
        const CASES: &[(&[u8], &str)] = &[
            (b"GET / HTTP/1.1", "GET / HTTP/1.1 None keep"),
            (b"GET / HTTP/1.0", "GET / HTTP/1.0 None close"),
            (b"\r\n\n\r\nGET / HTTP/1.1", "GET / HTTP/1.1 None keep"),
            (b"\n\n\n\n\nGET / HTTP/1.1", "400"),
            (b"\rGET / HTTP/1.1", "400"),
            (b" GET / HTTP/1.1", "400"),
            // Methods: any token.
            (b"get / HTTP/1.1", "get / HTTP/1.1 None keep"),
            (b"M-SEARCH! / HTTP/1.1", "M-SEARCH! / HTTP/1.1 None keep"),
            (b"G(T / HTTP/1.1", "400"),
            (b"/ HTTP/1.1", "400"),
            (b"\x16\x03\x01\x02\x00", "400"),
            // Versions.
            (b"GET / HTTP/1.2", "GET / HTTP/1.1 None keep"),
            (b"GET / HTTP/1.9", "GET / HTTP/1.1 None keep"),
            (b"GET / HTTP/2.0", "505"),
            (b"GET / HTTP/3.0", "505"),
            (b"GET / HTTP/0.9", "505"),
            (b"GET / HTTP/10.0", "400"),
            (b"GET / HTTP/1.10", "400"),
            (b"GET / HTTP/2", "400"),
            (b"GET / http/1.1", "400"),
            (b"GET / HTTP/1,1", "400"),
            (b"GET / HTTP/1.1 ", "400"),
            (b"GET / HTTPS/1.1", "400"),
            (b"GET /", "400"),
            (b"GET", "400"),
            // Targets.
            (b"GET  / HTTP/1.1", "400"),
            (b"GET /a b HTTP/1.1", "400"),
            (b"GET /a\tb HTTP/1.1", "400"),
            (b"GET /a?b=c HTTP/1.1", "GET /a?b=c HTTP/1.1 None keep"),
            (b"GET //a/../%2e HTTP/1.1", "GET //a/../%2e HTTP/1.1 None keep"),
            (b"GET /\xc3\xa4 HTTP/1.1", "GET /\u{e4} HTTP/1.1 None keep"),
            (b"GET /\xff HTTP/1.1", "400"),
            (b"GET /%41%c3%A4?100% HTTP/1.1", "GET /%41%c3%A4?100% HTTP/1.1 None keep"),
            (b"GET /% HTTP/1.1", "400"),
            (b"GET /%4 HTTP/1.1", "400"),
            (b"GET /%zz HTTP/1.1", "400"),
            (b"GET /a%%41 HTTP/1.1", "400"),
            (b"GET http://b/%4g HTTP/1.1", "400"),
            (b"GET /a#b HTTP/1.1", "400"),
            (b"GET a HTTP/1.1", "400"),
            (b"GET a:80 HTTP/1.1", "400"),
            (b"GET http://b/c?d HTTP/1.1", "GET http://b/c?d HTTP/1.1 None keep"),
            (b"GET HTTPS://b:1 HTTP/1.1", "GET https://b:1/ HTTP/1.1 None keep"),
            (b"GET http://[::1]:80/ HTTP/1.1", "GET http://[::1]:80/ HTTP/1.1 None keep"),
            (b"GET http://b#c HTTP/1.1", "400"),
            (b"GET http:/// HTTP/1.1", "400"),
            (b"GET http://u@b/ HTTP/1.1", "400"),
            (b"GET http://:80/ HTTP/1.1", "400"),
            (b"GET http://b:99999/ HTTP/1.1", "400"),
            (b"GET ftp://b/ HTTP/1.1", "400"),
            (b"OPTIONS * HTTP/1.1", "OPTIONS * HTTP/1.1 None keep"),
            (b"OPTIONS / HTTP/1.1", "OPTIONS / HTTP/1.1 None keep"),
            (b"GET * HTTP/1.1", "400"),
            (b"CONNECT b:443 HTTP/1.1", "CONNECT b:443 HTTP/1.1 None keep"),
            (b"CONNECT b HTTP/1.1", "400"),
            (b"CONNECT b: HTTP/1.1", "400"),
            (b"CONNECT u@b:443 HTTP/1.1", "400"),
            (b"CONNECT / HTTP/1.1", "400"),
            (b"CONNECT http://b:443/ HTTP/1.1", "400"),
            (b"CONNECT * HTTP/1.1", "400"),
        ];
        for &(line, expected) in CASES {
            let input = [line, b"\r\nHost: a\r\n\r\n"].concat();
            assert_eq!(said_of(&input), with_len(expected, &input), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn hosts() {
        const CASES: &[(&str, &str, bool)] = &[
            ("1.1", "Host: a.example:8080", true),
            ("1.1", "Host:", true),
            ("1.1", "Host: 127.0.0.1", true),
            ("1.1", "Host: [::1]:80", true),
            ("1.1", "Host: [v7.a:b]", true),
            ("1.1", "Host: a_b-c.%41~", true),
            ("1.1", "Host: a:", true),
            ("1.1", "Host: a:65535", true),
            ("1.1", "Accept: a", false),
            ("1.1", "Host: a\r\nHost: a", false),
            ("1.1", "Host: a\r\nhost: b", false),
            ("1.1", "Host: a b", false),
            ("1.1", "Host: a, b", false),
            ("1.1", "Host: a/b", false),
            ("1.1", "Host: u@a", false),
            ("1.1", "Host: http://a", false),
            ("1.1", "Host: a:b", false),
            ("1.1", "Host: a:+80", false),
            ("1.1", "Host: a:65536", false),
            ("1.1", "Host: a:80:80", false),
            ("1.1", "Host: :80", false),
            ("1.1", "Host: ::1", false),
            ("1.1", "Host: [::1", false),
            ("1.1", "Host: [::1]80", false),
            ("1.1", "Host: [::1%25lo]", false),
            ("1.1", "Host: [a]", false),
            ("1.1", "Host: [v.a]", false),
            ("1.1", "Host: []", false),
            ("1.1", "Host: %4", false),
            ("1.1", "Host: %zz", false),
            ("1.1", "Host: a%41%", false),
            ("1.1", "Host: %41%4:1", false),
            ("1.1", "Host: \u{e4}", false),
            ("1.0", "Accept: a", true),
            ("1.0", "Host: a", true),
            ("1.0", "Host: a\r\nHost: a", false),
            ("1.0", "Host: a b", false),
        ];
        for (version, field, fits) in CASES {
            let input = format!("GET / HTTP/{version}\r\n{field}\r\n\r\n");
            assert_eq!(said_of(input.as_bytes()) != "400", *fits, "{version} {field}");
        }
    }

    #[test]
    fn the_targets_host_wins() {
        for fields in ["Host: a\r\n", "Host:\r\nAccept: b\r\n"] {
            let input = format!("GET http://b:80/ HTTP/1.1\r\n{fields}\r\n");
            let head = parse(input.as_bytes(), &Limits::default()).unwrap().unwrap();
            assert_eq!(head.request.unwrap().headers().get_all(HOST).iter().collect::<Vec<_>>(), ["b:80"]);
        }
    }

    #[test]
    fn framing_and_connection() {
        const CASES: &[(&str, &str, &str)] = &[
            ("1.1", "", "None keep"),
            ("1.1", "Content-Length: 0", "Length(0) keep"),
            ("1.1", "Content-Length: \t 5 ", "Length(5) keep"),
            ("1.1", "Content-Length: 18446744073709551615", "Length(18446744073709551615) keep"),
            ("1.1", "Content-Length: 000000000000000000000000005", "Length(5) keep"),
            ("1.0", "content-length: 5", "Length(5) close"),
            ("1.1", "Content-Length: 18446744073709551616", "400"),
            ("1.1", "Content-Length: 99999999999999999999999", "400"),
            ("1.1", "Content-Length:", "400"),
            ("1.1", "Content-Length: +5", "400"),
            ("1.1", "Content-Length: -5", "400"),
            ("1.1", "Content-Length: 5x", "400"),
            ("1.1", "Content-Length: 0x5", "400"),
            ("1.1", "Content-Length: 5 5", "400"),
            ("1.1", "Content-Length: 5, 5", "400"),
            ("1.1", "Content-Length: 5,", "400"),
            ("1.1", "Content-Length: 5\r\nContent-Length: 5", "400"),
            ("1.1", "Content-Length: 5\r\nContent-Length: 6", "400"),
            ("1.1", "Transfer-Encoding: chunked", "Chunked keep"),
            ("1.1", "transfer-encoding: , CHUNKED ,", "Chunked keep"),
            ("1.1", "Transfer-Encoding:\r\nTransfer-Encoding: chunked", "Chunked keep"),
            ("1.0", "Transfer-Encoding: chunked", "400"),
            ("1.1", "Transfer-Encoding: chunked\r\nContent-Length: 5", "400"),
            ("1.1", "Content-Length: 5\r\nTransfer-Encoding: xchunked", "400"),
            ("1.1", "Transfer-Encoding:", "400"),
            ("1.1", "Transfer-Encoding: chunked, chunked", "400"),
            ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "400"),
            ("1.1", "Transfer-Encoding: chunked, identity", "400"),
            ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip", "400"),
            ("1.1", "Transfer-Encoding: xchunked", "400"),
            ("1.1", "Transfer-Encoding: identity", "400"),
            ("1.1", "Transfer-Encoding: gzip", "400"),
            ("1.1", "Transfer-Encoding: chunked;a=b", "400"),
            ("1.1", "Transfer-Encoding: \"chunked\"", "400"),
            ("1.1", "Transfer-Encoding: \u{85}chunked", "400"),
            ("1.1", "Transfer-Encoding: chun\u{212a}ed", "400"),
            ("1.1", "Transfer-Encoding: gzip;a=\"b, chunked\"", "400"),
            ("1.1", "Transfer-Encoding: gzip, chunked, chunked", "400"),
            ("1.1", "Transfer-Encoding: gzip, chunked, gzip", "400"),
            ("1.1", "Transfer-Encoding: gzip, chunked", "501"),
            ("1.1", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", "501"),
            ("1.1", "Transfer-Encoding: identity, chunked", "501"),
            ("1.1", "Transfer-Encoding: gzip;a=\"b\", chunked", "501"),
            ("1.1", "Transfer-Encoding: \u{b}chunked", "400"),
            ("1.1", "Connection: close", "None close"),
            ("1.1", "Connection: Upgrade , CLOSE", "None close"),
            ("1.1", "Connection: upgrade\r\nConnection: close", "None close"),
            ("1.1", "Connection: keep-alive, close", "None close"),
            ("1.1", "Connection: closed", "None keep"),
            ("1.0", "Connection: Keep-Alive", "None keep"),
            ("1.0", "Connection: keep-alive, close", "None close"),
            ("1.1", "Expect: 100-Continue\r\nContent-Length: 5", "Length(5) keep 100"),
            ("1.1", "Transfer-Encoding: chunked\r\nExpect: 100-continue, 100-continue", "Chunked keep 100"),
            ("1.1", "Expect: 100-continue", "None keep"),
            ("1.1", "Expect: 100-continue\r\nContent-Length: 0", "Length(0) keep"),
            ("1.0", "Expect: 100-continue\r\nContent-Length: 5", "Length(5) close"),
            ("1.1", "Expect: 200-ok", "417"),
            ("1.1", "Expect: 100-continue, x", "417"),
            ("1.0", "Expect: x", "417"),
        ];
        for (version, fields, expected) in CASES {
            let end = if fields.is_empty() { "" } else { "\r\n" };
            let input = format!("POST / HTTP/{version}\r\nHost: a\r\n{fields}{end}\r\n");
            let expected = match *expected {
                status if status.len() == 3 => status.to_owned(),
                head => with_len(&format!("POST / HTTP/{version} {head}"), input.as_bytes()),
            };
            assert_eq!(said_of(input.as_bytes()), expected, "{version} {fields}");
        }
    }

    #[test]
    fn lines() {
        const CASES: &[(&[u8], &str)] = &[
            (b"GET / HTTP/1.1\nHost: a\n\nGET", "GET / HTTP/1.1 None keep 24"),
            (b"\r\nGET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.1 None keep 26"),
            (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1 None keep 28"),
            // Ends of both kinds.
            (b"GET / HTTP/1.1\r\nHost: a\n\r\n", "400"),
            (b"GET / HTTP/1.1\nHost: a\r\n\n", "400"),
            (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\nHost: a\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\n", "400"),
            (b"GET / HTTP/1.7\r\nHost: a\n\r\n", "400"),
            (b"GET / HTTP/1.1\rHost: a\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\rb", "400"),
            (b"GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x01\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x7f\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\xff\t\r\n\r\n", "GET / HTTP/1.1 None keep 35"),
            (b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\tb: c\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nb\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX(: b\r\n\r\n", "400"),
            (b"", "more"),
            (b"\r\n\r", "more"),
            (b" G", "400"),
            (b"GET / HT", "more"),
            (b"GET / HTTP/2", "more"),
            (b"GET / HTTP/1.2\r\nHost", "more"),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r", "more"),
        ];
        for &(input, expected) in CASES {
            assert_eq!(said_of(input), expected, "{}", input.escape_ascii());
        }
    }

    #[test]
    fn requests_that_get_no_content() {
        let cases: [(&[u8], bool); 8] = [
            (b"HEAD / HTTP/1.1\r\n\r\n", true),
            (b"HEAD ", true),
            (b"\r\nHEAD  \0", true),
            (b"HEAD", false),
            (b"HEADS / HTTP/1.1\r\n\r\n", false),
            (b"head / HTTP/1.1\r\n\r\n", false),
            (b"\r\n\r\n\r\n\r\n\r\nHEAD / HTTP/1.1", false),
            (b"", false),
        ];
        for (input, expected) in cases {
            assert_eq!(is_to_head(input), expected, "{}", input.escape_ascii());
        }
    }

    #[test]
    fn protocols_that_were_asked_for() {
        const CASES: &[(&str, &[&str], bool)] = &[
            ("1.1\r\nConnection: Upgrade\r\nUpgrade: a", &["a"], true),
            ("1.1\r\nConnection: x, upgrade\r\nUpgrade: b, A", &["a"], true),
            ("1.1\r\nConnection: upgrade\r\nUpgrade: b\r\nUpgrade: a/1", &["a/1"], true),
            ("1.1\r\nConnection: upgrade\r\nUpgrade: b, a", &["a, b"], true),
            ("1.1\r\nConnection: upgrade\r\nUpgrade: b", &["b", "a"], false),
            ("1.1\r\nConnection: upgrade\r\nUpgrade: a", &["b"], false),
            ("1.1\r\nConnection: upgrade\r\nUpgrade: a/1", &["a"], false),
            ("1.1\r\nConnection: upgrade\r\nUpgrade: a", &[], false),
            ("1.1\r\nConnection: upgrade\r\nUpgrade:", &[""], false),
            ("1.1\r\nConnection: close\r\nUpgrade: a", &["a"], false),
            ("1.1\r\nUpgrade: a", &["a"], false),
            ("1.1\r\nConnection: upgrade", &["a"], false),
            ("1.0\r\nConnection: upgrade\r\nUpgrade: a", &["a"], false),
        ];
        for (rest, protocols, expected) in CASES {
            let head = format!("GET / HTTP/{rest}\r\nHost: h\r\n\r\n");
            let mut response = HeaderMap::new();
            for protocol in *protocols {
                response.append(UPGRADE, HeaderValue::from_static(protocol));
            }
            let head = parse(head.as_bytes(), &Limits::default()).unwrap().unwrap();
            assert_eq!(head.summary.asks_for(&response), *expected, "{rest} {protocols:?}");
        }
    }

    #[test]
    fn a_head_takes_the_memory_of_the_last_unless_that_is_kept() {
        let (memory, limits) = (&mut HeadMemory::default(), Limits::default());
        let mut read = |path: &str| {
            let text = format!("GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n");
            let text = parse_with(memory, text.as_bytes(), &limits).unwrap().unwrap().summary.text;
            memory.recycle(&mut text.clone());
            text
        };
        let first = read("a").as_ptr();
        let kept = read("b");
        assert_eq!(kept.as_ptr(), first);
        assert_ne!(read("c").as_ptr(), first);
        assert!(kept.starts_with(b"GET /b "));
    }

    #[test]
    fn heads_of_requests_that_wait_for_one_write_take_turns() {
        let (memory, limits) = (&mut HeadMemory::default(), Limits::default());
        let mut read = |text: &str| {
            let head = parse_with(memory, text.as_bytes(), &limits).unwrap().unwrap().summary.text;
            memory.recycle(&mut head.clone());
            head
        };
        let kept = read("GET /kept HTTP/1.1\r\nHost: h\r\n\r\n");
        let (mut waiting, mut places) = (Vec::new(), BTreeSet::new());
        for n in 0..20 * HeadMemory::MOST_KEPT {
            let text = format!("GET /{n:04} HTTP/1.1\r\nHost: h\r\n\r\n");
            let head = read(&text);
            places.insert(head.as_ptr());
            waiting.push((head, text));
            if waiting.len() == 16 {
                assert!(waiting.drain(..).all(|(head, text)| head == text), "each has its own");
            }
        }
        assert!(places.len() <= HeadMemory::MOST_KEPT + 2, "{}", places.len());
        assert!(kept.starts_with(b"GET /kept "));
    }

    #[test]
    fn every_field_arrives() {
        let input = b"GET / HTTP/1.1\r\nHost: a\r\nX-Own:  b c \r\nCookie: 1\r\nAccept:\r\ncookie: 2\r\n\r\n";
        let head = parse(input, &Limits::default()).unwrap().unwrap();
        let request = head.request.unwrap();
        let fields: Vec<(&str, &[u8])> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let expected: [(&str, &[u8]); 5] =
            [("host", b"a"), ("x-own", b"b c"), ("cookie", b"1"), ("cookie", b"2"), ("accept", b"")];
        assert_eq!(fields, expected);
    }

    #[test]
    fn limits() {
        let head = |target: usize, fields: usize| {
            let target = "t".repeat(target);
            format!("GET /{target} HTTP/1.1\r\nHost: a\r\n{}\r\n", "b: c\r\n".repeat(fields)).into_bytes()
        };
        let bounds = |head_bytes, head_fields, target_bytes| Limits {
            head_bytes,
            head_fields,
            target_bytes,
            ..Limits::default()
        };
        let whole = head(0, 1);
        let line = |len: usize| [b"GET /", &[b't'; 99][..len]].concat();
        let cases: &[(Vec<u8>, Limits, &str)] = &[
            (whole.clone(), bounds(whole.len(), 2, 1), "GET"),
            (whole.clone(), bounds(whole.len() - 1, 2, 1), "431"),
            (whole.clone(), bounds(whole.len(), 1, 1), "431"),
            (whole.clone(), bounds(whole.len(), 2, 0), "414"),
            (whole.clone(), bounds(0, 0, 0), "431"),
            (b"ABCDE".to_vec(), bounds(5, 0, 0), "501"),
            (b"ABCDE".to_vec(), bounds(6, 0, 0), "more"),
            (b"ABCD ".to_vec(), bounds(5, 0, 0), "431"),
            (b"\r\nABC".to_vec(), bounds(5, 0, 0), "501"),
            (b"\r\n\r\n\r".to_vec(), bounds(5, 0, 0), "431"),
            (whole[..20].to_vec(), bounds(20, 2, 1), "431"),
            (whole[..20].to_vec(), bounds(21, 2, 1), "more"),
            // After a target that is too long, nothing matters.
            (line(9), bounds(99, 9, 10), "more"),
            (line(10), bounds(99, 9, 10), "414"),
            (line(90), bounds(80, 9, 10), "414"),
            ([&line(10)[..], b" HTTP/4.0\r\n"].concat(), bounds(99, 9, 10), "414"),
            ([&line(10)[..], b"\0"].concat(), bounds(99, 9, 10), "414"),
            ([&line(9)[..], b"\0"].concat(), bounds(99, 9, 10), "400"),
            (line(90), bounds(60, 9, 99), "431"),
            // Beyond the room on the stack, and beyond what `http` holds.
            (head(0, 99), Limits::default(), "GET"),
            (head(0, 100), Limits::default(), "431"),
            (head(0, 300), bounds(1 << 20, 301, 1), "GET"),
            (head(0, 301), bounds(1 << 20, 301, 1), "431"),
            (head(0, 40_000), bounds(1 << 20, usize::MAX, 1), "431"),
            (head(65_533, 0), bounds(1 << 20, 1, 65_534), "GET"),
            (head(65_534, 0), bounds(1 << 20, 1, usize::MAX), "414"),
            (
                [&b"GET / HTTP/1.1\r\n"[..], &[b'n'; 1 << 16], b": a\r\n\r\n"].concat(),
                bounds(1 << 20, 9, 9),
                "431",
            ),
        ];
        for (row, (input, limits, expected)) in cases.iter().enumerate() {
            assert_eq!(said(&parse(input, limits)).split(' ').next(), Some(*expected), "row {row}");
        }
    }

    #[test]
    fn a_scan_seldom_parses() {
        let input = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(60_000));
        let (mut scan, mut parses, mut before) = (Scan::default(), 0, 0);
        for len in 1..input.len() {
            let part = &input.as_bytes()[..len];
            assert!(scan_with(&mut scan, part, &Limits::default()).unwrap().is_none());
            parses += usize::from(scan.parsed != before);
            before = scan.parsed;
        }
        assert!(parses < 20, "{parses}");
        assert!(scan_with(&mut scan, input.as_bytes(), &Limits::default()).unwrap().is_some());
        assert_eq!((scan.seen, scan.parsed), (0, 0));
    }

    const LINES: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\n",
        b"POST /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa HTTP/1.0\n",
        b"GET /b HTTP/1.3\r\n",
        b"GET / HTTP/2.0\r\n",
        b"GET /\0 HTTP/1.1\r\n",
        b"\r\nGET / HTTP/1.1\r\n",
        b"\r\n\r\n\n",
        b"GET / HTTP/1\r\n",
        b"",
    ];

    const FIELDS: &[&[u8]] = &[
        b"Host: a\r\n",
        b"Host: a\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"a:b\r\n",
        b" c\r\n",
        b"d : e\r\n",
        b"f:\rg\r\n",
        b"\r",
        b"\n",
        b"\r\n",
        b"\xff",
    ];

    /// Heads, right and wrong, that random bytes would seldom make.
    fn heads(u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
        let line = *u.choose(LINES)?;
        let fields = list(u, 0..=7, |u| u.choose(FIELDS).copied())?.concat();
        Ok([line, &fields, b"\r\n\r\n", &bytes(u, 0..=3)?].concat())
    }

    fn tight() -> Limits {
        Limits { head_bytes: 90, head_fields: 4, target_bytes: 30, ..Limits::default() }
    }

    #[test]
    fn splits_do_not_matter() {
        check(CASES, BYTES, |u| {
            let input = heads(u)?;
            let whole = parse(&input, &tight());
            let mut scan = Scan::default();
            let mut parsed = Ok(None);
            for cut in cuts(u, input.len(), 40)? {
                let part = &input[..cut];
                parsed = scan_with(&mut scan, part, &tight());
                let line_ends = part.ends_with(b"\n");
                assert!(!line_ends || said(&parsed) == said(&parse(part, &tight())), "{cut}: {parsed:?}");
                assert!(
                    matches!(parsed, Ok(None)) || said(&parsed) == said(&whole),
                    "{cut}: {parsed:?} {whole:?}"
                );
                if !matches!(parsed, Ok(None)) {
                    break;
                }
            }
            // A refusal may come later in pieces, but a head may not.
            if let (Ok(whole), Ok(parsed)) = (whole, parsed) {
                assert_eq!(format!("{whole:?}"), format!("{parsed:?}"));
            }
            Ok(())
        });
    }

    #[test]
    fn a_prefix_refused_stays_refused() {
        check(CASES, BYTES, |u| {
            let input = heads(u)?;
            let mut refused = None;
            for len in 0..=input.len() {
                let parsed = parse(&input[..len], &tight());
                match refused {
                    Some(refusal) => assert_eq!(parsed.map(drop), Err(refusal), "{}", input.escape_ascii()),
                    None => refused = parsed.err(),
                }
            }
            Ok(())
        });
    }

    #[test]
    fn any_bytes_are_answered() {
        check(CASES, BYTES, |u| {
            let start: &[u8] = if u.arbitrary()? { b"GET / HTTP/1.1\r\nHost: " } else { b"" };
            let input = [start, &bytes(u, 0..=199)?, b"\r\n\r\n"].concat();
            if let Ok(Some(head)) = parse(&input, &Limits::default()) {
                assert!(head.len <= input.len(), "{}", input.escape_ascii());
            }
            Ok(())
        });
    }
}
