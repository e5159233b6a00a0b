//! The response: its framing, decided once by [`framing`], and its bytes.

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use super::date::{DateLine, is_imf_fixdate};
use super::framing::content_length;
use super::head::{Refusal, RequestSummary};
use crate::web::fields::elements;

/// The interim answer to `Expect: 100-continue` (RFC 9110 §10.1.1).
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The end of a chunked body (RFC 9112 §7.1).
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The body that a handler returned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLength {
    Known(u64),
    Unknown,
    /// No body: the handler speaks another protocol on the connection.
    Upgrade,
}

/// How the end of a response is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFraming {
    /// No body follows, and none is announced.
    None,
    /// No body follows; the length is that of another response (HEAD, 304).
    Announced(u64),
    Length(u64),
    Chunked,
    UntilClose,
    /// No body: after the head the connection speaks another protocol.
    Upgrade,
}

impl BodyFraming {
    /// Whether a body follows. If not, the handler's is dropped.
    pub(crate) fn has_body(self) -> bool {
        match self {
            BodyFraming::Length(length) => length > 0,
            BodyFraming::Chunked | BodyFraming::UntilClose => true,
            BodyFraming::None | BodyFraming::Announced(_) | BodyFraming::Upgrade => false,
        }
    }
}

/// Decides how a response is framed (RFC 9112 §6.3).
///
/// # Errors
/// The status to answer with instead of an impossible response: 500 for a 1xx (RFC 9110 §15.2: not a
/// final one) or an upgrade whose status or fields don't match it, 426 for a switch to a protocol that the client
/// has not requested, 501 for a CONNECT that is granted without a tunnel.
#[inline]
pub(crate) fn framing(
    request: &RequestSummary,
    status: StatusCode,
    headers: &HeaderMap,
    body: BodyLength,
) -> Result<BodyFraming, StatusCode> {
    // RFC 9112 §6.3: what follows 2xx to CONNECT is a tunnel, whatever the fields say.
    let tunnels = request.method == Method::CONNECT && status.is_success();
    let length = match body {
        BodyLength::Upgrade if tunnels => return Ok(BodyFraming::Upgrade),
        BodyLength::Upgrade => return switch(request, status, headers),
        BodyLength::Known(length) => Some(length),
        BodyLength::Unknown => None,
    };
    if tunnels {
        return Err(StatusCode::NOT_IMPLEMENTED);
    }
    if status.is_informational() {
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    }
    Ok(match (status, length) {
        (StatusCode::NO_CONTENT, _) => BodyFraming::None,
        // RFC 9110 §15.3.6: a 205 has no content, and says so by its length.
        (StatusCode::RESET_CONTENT, _) => BodyFraming::Length(0),
        _ if request.method == Method::HEAD || status == StatusCode::NOT_MODIFIED => {
            // An empty body does not show the length that a GET would have (RFC 9110 §8.6).
            let length = if length == Some(0) { own_length(headers) } else { length };
            length.map_or(BodyFraming::None, BodyFraming::Announced)
        }
        (_, Some(length)) => BodyFraming::Length(length),
        (_, None) if request.version == Version::HTTP_10 => BodyFraming::UntilClose,
        (_, None) => BodyFraming::Chunked,
    })
}

fn switch(
    request: &RequestSummary,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<BodyFraming, StatusCode> {
    if status != StatusCode::SWITCHING_PROTOCOLS || !headers.contains_key(UPGRADE) {
        Err(StatusCode::INTERNAL_SERVER_ERROR)
    } else if request.asks_for(headers) {
        Ok(BodyFraming::Upgrade)
    } else {
        Err(StatusCode::UPGRADE_REQUIRED)
    }
}

/// The Content-Length that the handler has set.
fn own_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let length = content_length(values.next()?.as_bytes())?;
    values.next().is_none().then_some(length)
}

/// Whether the handler wants the connection closed.
#[inline(always)]
pub(crate) fn says_close(headers: &HeaderMap) -> bool {
    // Most responses have few fields, and comparing names costs less than hashing one.
    headers.keys().any(|name| *name == CONNECTION) && lists_close(headers)
}

fn lists_close(headers: &HeaderMap) -> bool {
    let close =
        |value: &HeaderValue| elements(value.as_bytes()).any(|option| option.eq_ignore_ascii_case(b"close"));
    headers.get_all(CONNECTION).iter().any(close)
}

/// A response's head.
///
/// Framing and Connection are as decided, whatever the handler set. A Date of the handler's is kept if it is
/// valid, so that a gateway can pass it on (RFC 9110 §6.6.1). `http`'s types hold no CR or LF, so no value can end
/// the head early. The status line says 1.1 to 1.0 clients too (RFC 9110 §6.2).
pub(crate) struct ResponseHead<'a> {
    /// The version of the request.
    pub(crate) version: Version,
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) framing: BodyFraming,
    pub(crate) keep_alive: bool,
    pub(crate) date: &'a DateLine,
}

impl ResponseHead<'_> {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let &ResponseHead { version, status, headers, framing, keep_alive, date } = self;
        status_line(out, status);
        let mut has_date = false;
        // Upgrade is hop-by-hop: Connection must name it (RFC 9110 §7.8).
        let upgrades = matches!(framing, BodyFraming::Upgrade);
        let mut upgrade = upgrades && status == StatusCode::SWITCHING_PROTOCOLS;
        for (name, value) in headers {
            // Nearly every response has a type, which is none of the fields below.
            if *name != CONTENT_TYPE {
                if is_ours(name) || (*name == DATE && (has_date || !is_imf_fixdate(value.as_bytes()))) {
                    continue;
                }
                has_date |= *name == DATE;
                upgrade |= *name == UPGRADE;
            }
            field_name(out, name);
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if !has_date {
            out.extend_from_slice(date);
        }
        match framing {
            BodyFraming::Length(length) | BodyFraming::Announced(length) => length_field(out, length),
            BodyFraming::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            BodyFraming::None | BodyFraming::UntilClose | BodyFraming::Upgrade => {}
        }
        // A connection of 1.1 is kept unless it says otherwise.
        let is_silent = upgrades || (keep_alive && version != Version::HTTP_10);
        let connection: &[u8] = match (upgrade, keep_alive) {
            (false, _) if is_silent => b"",
            (true, _) if is_silent => b"Connection: upgrade\r\n",
            (false, true) => b"Connection: keep-alive\r\n",
            (true, true) => b"Connection: upgrade, keep-alive\r\n",
            (false, false) => b"Connection: close\r\n",
            (true, false) => b"Connection: upgrade, close\r\n",
        };
        if !connection.is_empty() {
            out.extend_from_slice(connection);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Fields that only the server writes.
fn is_ours(name: &HeaderName) -> bool {
    *name == CONTENT_LENGTH
        || *name == TRANSFER_ENCODING
        || *name == CONNECTION
        || name.as_str() == "keep-alive"
}

/// Writes a piece of a chunked body. Nothing for an empty piece: its chunk would be the last.
pub(crate) fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    number::<16>(out, data.len() as u64);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Writes the complete answer to bytes that are no request; the connection closes after it.
pub(crate) fn refusal(out: &mut Vec<u8>, refusal: &Refusal, date: &DateLine) {
    refusal_to_head(out, refusal, date);
    out.extend_from_slice(refusal.reason.as_bytes());
    out.push(b'\n');
}

/// As [`refusal`], for a HEAD: without the announced content.
pub(crate) fn refusal_to_head(out: &mut Vec<u8>, refusal: &Refusal, date: &DateLine) {
    status_line(out, refusal.status);
    out.extend_from_slice(date);
    out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\n");
    length_field(out, (refusal.reason.len() as u64).saturating_add(1));
    out.extend_from_slice(b"Connection: close\r\n\r\n");
}

/// Writes the complete answer of a server that has no worker left; the connection closes after it.
/// The request is not read, and may be a HEAD, so the answer has no content.
pub(crate) fn busy(out: &mut Vec<u8>, date: &DateLine) {
    status_line(out, StatusCode::SERVICE_UNAVAILABLE);
    out.extend_from_slice(date);
    length_field(out, 0);
    out.extend_from_slice(b"Retry-After: 1\r\nConnection: close\r\n\r\n");
}

#[inline(always)]
fn status_line(out: &mut Vec<u8>, status: StatusCode) {
    match status {
        StatusCode::OK => out.extend_from_slice(b"HTTP/1.1 200 OK\r\n"),
        _ => other_status_line(out, status),
    }
}

fn other_status_line(out: &mut Vec<u8>, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    // The space is there even without a reason (RFC 9112 §4).
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn length_field(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    number::<10>(out, length);
    out.extend_from_slice(b"\r\n");
}

/// Writes a name and the colon behind it. Names are stored in lower case; old clients and people read `Content-Type` better.
#[inline(always)]
pub(crate) fn field_name(out: &mut Vec<u8>, name: &HeaderName) {
    // Nearly every response has it.
    if *name == CONTENT_TYPE {
        out.extend_from_slice(b"Content-Type: ");
    } else {
        other_field_name(out, name);
    }
}

fn other_field_name(out: &mut Vec<u8>, name: &HeaderName) {
    let start = out.len();
    out.extend_from_slice(name.as_str().as_bytes());
    let mut starts = true;
    for byte in out.get_mut(start..).unwrap_or_default() {
        if starts {
            byte.make_ascii_uppercase();
        }
        starts = *byte == b'-';
    }
    out.extend_from_slice(b": ");
}

#[expect(clippy::arithmetic_side_effects, clippy::cast_possible_truncation, reason = "BASE is 10 or 16")]
fn number<const BASE: u64>(out: &mut Vec<u8>, value: u64) {
    if value >= BASE {
        number::<BASE>(out, value / BASE);
    }
    out.extend(b"0123456789abcdef".get((value % BASE) as usize));
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const DATE_LINE: &DateLine = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

    fn fields(lines: &'static [(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for &(name, value) in lines {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        fields
    }

    struct Case {
        method: Method,
        version: Version,
        /// Whether it is to be kept, whatever the handler says.
        keep_alive: bool,
        status: u16,
        own: &'static [(&'static str, &'static str)],
        len: Option<u64>,
        upgrade: bool,
        asks: bool,
    }

    /// GET in 1.1 on a connection that is to be kept, answered 200 with 13 bytes.
    const USUAL: Case = Case {
        method: Method::GET,
        version: Version::HTTP_11,
        keep_alive: true,
        status: 200,
        own: &[],
        len: Some(13),
        upgrade: false,
        asks: false,
    };

    fn framed(case: &Case) -> Result<BodyFraming, StatusCode> {
        let request = RequestSummary {
            method: case.method.clone(),
            version: case.version,
            keep_alive: case.keep_alive,
            upgrade: case.asks,
            text: Bytes::from_static(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"),
        };
        let body = match case.len {
            _ if case.upgrade => BodyLength::Upgrade,
            Some(length) => BodyLength::Known(length),
            None => BodyLength::Unknown,
        };
        framing(&request, StatusCode::from_u16(case.status).unwrap(), &fields(case.own), body)
    }

    /// The framing and the lines after the status line, Date left out.
    fn said(case: &Case) -> (BodyFraming, String) {
        let (headers, framing) = (fields(case.own), framed(case).unwrap());
        let head = ResponseHead {
            version: case.version,
            status: StatusCode::from_u16(case.status).unwrap(),
            headers: &headers,
            framing,
            keep_alive: case.keep_alive,
            date: DATE_LINE,
        };
        let mut out = Vec::new();
        head.write(&mut out);
        let text = String::from_utf8(out).unwrap();
        let (line, rest) = text.split_once("\r\n").unwrap();
        assert!(line.starts_with(&format!("HTTP/1.1 {} ", case.status)), "{line}");
        assert_eq!(rest.matches("Date: ").count(), 1);
        let rest = rest.replace("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "");
        (framing, rest.strip_suffix("\r\n").unwrap().replace("\r\n", "|"))
    }

    #[test]
    fn framing_and_connection() {
        use BodyFraming as F;
        const OWN: &[(&str, &str)] =
            &[("content-length", "7"), ("transfer-encoding", "gzip"), ("keep-alive", "timeout=5")];
        const CLOSE: &[(&str, &str)] = &[("connection", "x-foo, Close")];
        const SWITCH: &[(&str, &str)] = &[("connection", "Upgrade"), ("upgrade", "websocket")];
        let (head, v10) = (Method::HEAD, Version::HTTP_10);
        #[rustfmt::skip]
        let cases = [
            (Case { ..USUAL }, F::Length(13), true, "Content-Length: 13|"),
            (Case { len: Some(0), ..USUAL }, F::Length(0), false, "Content-Length: 0|"),
            (Case { len: Some(u64::MAX), ..USUAL }, F::Length(u64::MAX), true, "Content-Length: 18446744073709551615|"),
            (Case { len: None, ..USUAL }, F::Chunked, true, "Transfer-Encoding: chunked|"),
            (Case { own: OWN, ..USUAL }, F::Length(13), true, "Content-Length: 13|"),
            (Case { own: OWN, len: None, ..USUAL }, F::Chunked, true, "Transfer-Encoding: chunked|"),
            (Case { own: CLOSE, ..USUAL }, F::Length(13), true, "Content-Length: 13|"),
            (Case { own: CLOSE, keep_alive: false, ..USUAL }, F::Length(13), true, "Content-Length: 13|Connection: close|"),
            (Case { keep_alive: false, ..USUAL }, F::Length(13), true, "Content-Length: 13|Connection: close|"),
            // 1.0.
            (Case { version: v10, ..USUAL }, F::Length(13), true, "Content-Length: 13|Connection: keep-alive|"),
            (Case { version: v10, keep_alive: false, ..USUAL }, F::Length(13), true, "Content-Length: 13|Connection: close|"),
            (Case { version: v10, keep_alive: false, len: None, ..USUAL }, F::UntilClose, true, "Connection: close|"),
            // HEAD and 304: as of the body that is not sent.
            (Case { method: head.clone(), ..USUAL }, F::Announced(13), false, "Content-Length: 13|"),
            (Case { method: head.clone(), len: None, ..USUAL }, F::None, false, ""),
            (Case { method: head.clone(), len: None, version: v10, ..USUAL }, F::None, false, "Connection: keep-alive|"),
            (Case { method: head.clone(), len: Some(0), ..USUAL }, F::None, false, ""),
            (Case { method: head.clone(), len: Some(0), own: OWN, ..USUAL }, F::Announced(7), false, "Content-Length: 7|"),
            (Case { method: head.clone(), len: Some(0), own: &[("content-length", "+7")], ..USUAL }, F::None, false, ""),
            (Case { method: head, len: Some(0), own: &[("content-length", "7"), ("content-length", "7")], ..USUAL }, F::None, false, ""),
            (Case { status: 304, ..USUAL }, F::Announced(13), false, "Content-Length: 13|"),
            (Case { status: 304, len: Some(0), ..USUAL }, F::None, false, ""),
            (Case { status: 304, len: None, ..USUAL }, F::None, false, ""),
            // No body.
            (Case { status: 204, own: OWN, ..USUAL }, F::None, false, ""),
            (Case { status: 205, ..USUAL }, F::Length(0), false, "Content-Length: 0|"),
            // Other protocols.
            (Case { status: 101, upgrade: true, asks: true, own: SWITCH, len: None, ..USUAL }, F::Upgrade, false, "Upgrade: websocket|Connection: upgrade|"),
            (Case { status: 426, own: SWITCH, ..USUAL }, F::Length(13), true, "Upgrade: websocket|Content-Length: 13|Connection: upgrade|"),
            (Case { method: Method::CONNECT, upgrade: true, ..USUAL }, F::Upgrade, false, ""),
            (Case { method: Method::CONNECT, status: 405, ..USUAL }, F::Length(13), true, "Content-Length: 13|"),
            // Fields of the handler.
            (Case { own: &[("content-type", "a/b"), ("x", ""), ("set-cookie", "a"), ("set-cookie", "b")], ..USUAL }, F::Length(13), true, "Content-Type: a/b|X: |Set-Cookie: a|Set-Cookie: b|Content-Length: 13|"),
            (Case { own: &[("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("date", "Sun, 06 Nov 1994 08:49:38 GMT")], ..USUAL }, F::Length(13), true, "Content-Length: 13|"),
            (Case { own: &[("date", "now"), ("date", "Sun Nov  6 08:49:37 1994")], ..USUAL }, F::Length(13), true, "Content-Length: 13|"),
        ];
        for (row, (case, framing, has_body, lines)) in cases.iter().enumerate() {
            assert_eq!(said(case), (*framing, (*lines).to_owned()), "row {row}");
            assert_eq!(framing.has_body(), *has_body, "row {row}");
        }
        assert!(says_close(&fields(CLOSE)));
        assert!(!says_close(&fields(OWN)) && !says_close(&fields(SWITCH)));
    }

    #[test]
    fn responses_that_can_not_be() {
        const SWITCH: &[(&str, &str)] = &[("upgrade", "websocket")];
        let connect = Method::CONNECT;
        #[rustfmt::skip]
        let cases = [
            (Case { status: 100, ..USUAL }, 500),
            (Case { status: 103, ..USUAL }, 500),
            (Case { status: 103, upgrade: true, own: SWITCH, ..USUAL }, 500),
            (Case { status: 101, own: SWITCH, asks: true, ..USUAL }, 500),
            (Case { status: 101, upgrade: true, ..USUAL }, 500),
            (Case { status: 200, upgrade: true, own: SWITCH, asks: true, ..USUAL }, 500),
            (Case { status: 101, upgrade: true, own: SWITCH, ..USUAL }, 426),
            (Case { method: connect.clone(), ..USUAL }, 501),
            (Case { method: connect.clone(), status: 204, ..USUAL }, 501),
            (Case { method: connect, status: 405, upgrade: true, ..USUAL }, 500),
        ];
        for (row, (case, status)) in cases.iter().enumerate() {
            assert_eq!(framed(case).unwrap_err().as_u16(), *status, "row {row}");
        }
    }

    #[test]
    fn status_lines() {
        let cases = [
            (200, "HTTP/1.1 200 OK"),
            (404, "HTTP/1.1 404 Not Found"),
            (299, "HTTP/1.1 299 "),
            (999, "HTTP/1.1 999 "),
        ];
        for (status, line) in cases {
            let mut out = Vec::new();
            status_line(&mut out, StatusCode::from_u16(status).unwrap());
            assert_eq!(out, format!("{line}\r\n").as_bytes());
        }
    }

    #[test]
    fn chunks() {
        let long = [b'x'; 0x12c];
        let framed = [b"12c\r\n", &long[..], b"\r\n"].concat();
        let cases: &[(&[u8], &[u8])] = &[
            (b"", b""),
            (b"a", b"1\r\na\r\n"),
            (&long[..16], b"10\r\nxxxxxxxxxxxxxxxx\r\n"),
            (&long, &framed),
        ];
        for (data, expected) in cases {
            let mut out = Vec::new();
            chunk(&mut out, data);
            assert_eq!(out, *expected);
        }
    }

    #[test]
    fn last_answers() {
        let mut out = Vec::new();
        let malformed = Refusal::bad("malformed Host");
        refusal(&mut out, &malformed, DATE_LINE);
        let expected = "HTTP/1.1 400 Bad Request\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Content-Type: text/plain; charset=utf-8\r\nContent-Length: 15\r\nConnection: close\r\n\r\n\
            malformed Host\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);

        let mut out = Vec::new();
        refusal_to_head(&mut out, &malformed, DATE_LINE);
        assert_eq!(String::from_utf8(out).unwrap(), expected.replace("malformed Host\n", ""));

        let mut out = Vec::new();
        busy(&mut out, DATE_LINE);
        let expected = "HTTP/1.1 503 Service Unavailable\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Content-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
