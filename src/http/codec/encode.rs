//! The response: how it is framed, decided once in [`plan`], and its bytes.

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Method, StatusCode, Version};

use super::date::is_imf_fixdate;
use super::head::{Refusal, content_length};
use crate::web::fields::elements;

/// The interim answer to `Expect: 100-continue` (RFC 9110 §10.1.1).
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What ends a chunked body (RFC 9112 §7.1).
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What of a request bears on how its response is framed.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) version: Version,
    /// Client and server both want the connection kept.
    pub(crate) keep_alive: bool,
    /// It asks for the protocol that the response switches to.
    pub(crate) switches: bool,
}

/// How a response goes out, and what becomes of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) framing: BodyFraming,
    pub(crate) keep_alive: bool,
    /// Whether a body follows; if not, the handler's is dropped.
    pub(crate) send_body: bool,
}

/// What the head says about the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFraming {
    None,
    Length(u64),
    Chunked,
    UntilClose,
    /// No body: after the head the connection speaks another protocol.
    Upgrade,
}

/// Decides how a response is framed (RFC 9112 §6.3) and whether its connection is kept.
///
/// `body_len` is the length of the handler's body if known; `upgrade` says that the handler wants
/// the connection.
///
/// # Errors
/// The status to answer with in place of invalid response: 500 for a 1xx (RFC 9110 §15.2:
/// no final one) or an upgrade that its status or fields don't fit, 426 for a switch to what the client
/// has not asked for, 501 for a CONNECT that is granted and leads nowhere.
pub(crate) fn plan(
    asked: &Asked<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    body_len: Option<u64>,
    upgrade: bool,
) -> Result<Plan, StatusCode> {
    // RFC 9112 §6.3: what follows 2xx to CONNECT is a tunnel, whatever the fields say.
    let tunnels = *asked.method == Method::CONNECT && status.is_success();
    if upgrade {
        let named = status == StatusCode::SWITCHING_PROTOCOLS && headers.contains_key(UPGRADE);
        return match () {
            () if tunnels || (named && asked.switches) => {
                Ok(Plan { framing: BodyFraming::Upgrade, keep_alive: false, send_body: false })
            }
            () if named => Err(StatusCode::UPGRADE_REQUIRED),
            () => Err(StatusCode::INTERNAL_SERVER_ERROR),
        };
    }
    if tunnels {
        return Err(StatusCode::NOT_IMPLEMENTED);
    }
    if status.is_informational() {
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    }

    let framing = match (status, body_len) {
        (StatusCode::NO_CONTENT, _) => BodyFraming::None,
        // RFC 9110 §15.3.6: never content, and the client must be told so.
        (StatusCode::RESET_CONTENT, _) => BodyFraming::Length(0),
        _ if announces_only(asked.method, status) => match body_len {
            Some(0) => own_length(headers).map_or(BodyFraming::None, BodyFraming::Length),
            Some(length) => BodyFraming::Length(length),
            None => BodyFraming::None,
        },
        (_, Some(length)) => BodyFraming::Length(length),
        (_, None) if asked.version == Version::HTTP_10 => BodyFraming::UntilClose,
        (_, None) => BodyFraming::Chunked,
    };
    let send_body = match framing {
        BodyFraming::Length(length) => length > 0 && !announces_only(asked.method, status),
        BodyFraming::Chunked | BodyFraming::UntilClose => true,
        BodyFraming::None | BodyFraming::Upgrade => false,
    };
    let keep_alive = asked.keep_alive && framing != BodyFraming::UntilClose && !says_close(headers);
    Ok(Plan { framing, keep_alive, send_body })
}

/// Whether Content-Length would say what another response has (RFC 9110 §8.6).
fn announces_only(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD || status == StatusCode::NOT_MODIFIED
}

/// The handler's own Content-Length: an empty body to HEAD or 304 says nothing about the length.
fn own_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let length = content_length(values.next()?.as_bytes())?;
    values.next().is_none().then_some(length)
}

fn says_close(headers: &HeaderMap) -> bool {
    let mut options = headers.get_all(CONNECTION).iter().flat_map(|value| elements(value.as_bytes()));
    options.any(|option| option.eq_ignore_ascii_case(b"close"))
}

/// Writes a response's head.
///
/// Framing and Connection are as planned, whatever the handler set; a Date of its own is kept if it is
/// one, so that a gateway can pass it on (RFC 9110 §6.6.1). `http`'s types hold no CR or LF, so no value can end
/// the head early. The status line says 1.1 to 1.0 clients too (RFC 9110 §6.2).
pub(crate) fn head(
    out: &mut Vec<u8>,
    version: Version,
    status: StatusCode,
    headers: &HeaderMap,
    plan: &Plan,
    date: &[u8; 29],
) {
    status_line(out, status);
    let mut has_date = false;
    // Upgrade is hop-by-hop: Connection must name it (RFC 9110 §7.8).
    let mut upgrade = plan.framing == BodyFraming::Upgrade && status == StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in headers {
        if is_ours(name) || (*name == DATE && (has_date || !is_imf_fixdate(value.as_bytes()))) {
            continue;
        }
        has_date |= *name == DATE;
        upgrade |= *name == UPGRADE;
        capitalised(out, name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !has_date {
        date_field(out, date);
    }
    match plan.framing {
        BodyFraming::Length(length) => length_field(out, length),
        BodyFraming::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        BodyFraming::None | BodyFraming::UntilClose | BodyFraming::Upgrade => {}
    }
    let option = match plan.keep_alive {
        _ if plan.framing == BodyFraming::Upgrade => "",
        true if version == Version::HTTP_10 => "keep-alive",
        true => "",
        false => "close",
    };
    let line = match (upgrade, option) {
        (false, "") => &[][..],
        (true, "") => &["Connection: upgrade\r\n"],
        (false, _) => &["Connection: ", option, "\r\n"],
        (true, _) => &["Connection: upgrade, ", option, "\r\n"],
    };
    line.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    out.extend_from_slice(b"\r\n");
}

/// Fields that only the plan writes.
fn is_ours(name: &HeaderName) -> bool {
    *name == CONTENT_LENGTH
        || *name == TRANSFER_ENCODING
        || *name == CONNECTION
        || name.as_str() == "keep-alive"
}

/// Writes a piece of a chunked body. An empty piece is nothing: its chunk would be the last.
pub(crate) fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    number::<16>(out, data.len() as u64);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Writes the whole answer to what is no request; the connection closes after it. To a HEAD without
/// the content that it announces.
pub(crate) fn refusal(out: &mut Vec<u8>, refusal: &Refusal, to_head: bool, date: &[u8; 29]) {
    status_line(out, refusal.status);
    date_field(out, date);
    out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\n");
    length_field(out, (refusal.reason.len() as u64).saturating_add(1));
    out.extend_from_slice(b"Connection: close\r\n\r\n");
    if !to_head {
        out.extend_from_slice(refusal.reason.as_bytes());
        out.push(b'\n');
    }
}

/// Writes the whole answer of a server that has no worker to spare; the connection closes after it.
/// Nobody has looked whether the request is a HEAD, so there is no content.
pub(crate) fn busy(out: &mut Vec<u8>, date: &[u8; 29]) {
    status_line(out, StatusCode::SERVICE_UNAVAILABLE);
    date_field(out, date);
    length_field(out, 0);
    out.extend_from_slice(b"Retry-After: 1\r\nConnection: close\r\n\r\n");
}

fn status_line(out: &mut Vec<u8>, status: StatusCode) {
    if status == StatusCode::OK {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    // The space is there even without a reason (RFC 9112 §4).
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn date_field(out: &mut Vec<u8>, date: &[u8; 29]) {
    out.extend_from_slice(b"Date: ");
    out.extend_from_slice(date);
    out.extend_from_slice(b"\r\n");
}

fn length_field(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    number::<10>(out, length);
    out.extend_from_slice(b"\r\n");
}

/// Names are stored in lower case; old clients and people read `Content-Type` better.
pub(crate) fn capitalised(out: &mut Vec<u8>, name: &HeaderName) {
    let mut starts = true;
    out.extend(name.as_str().bytes().map(|byte| {
        let shown = if starts { byte.to_ascii_uppercase() } else { byte };
        starts = byte == b'-';
        shown
    }));
}

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "BASE is 10 or 16, and a u64 has at most 20 decimal digits"
)]
fn number<const BASE: u64>(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut len = 0;
    for slot in digits.iter_mut().rev() {
        *slot = b"0123456789abcdef"[(number % BASE) as usize];
        len += 1;
        number /= BASE;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[digits.len() - len..]);
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const DATE_TEXT: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

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
        keep_alive: bool,
        status: u16,
        own: &'static [(&'static str, &'static str)],
        len: Option<u64>,
        upgrade: bool,
        switches: bool,
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
        switches: false,
    };

    fn planned(case: &Case) -> Result<Plan, StatusCode> {
        let asked = Asked {
            method: &case.method,
            version: case.version,
            keep_alive: case.keep_alive,
            switches: case.switches,
        };
        let status = StatusCode::from_u16(case.status).unwrap();
        plan(&asked, status, &fields(case.own), case.len, case.upgrade)
    }

    /// The plan and the lines after the status line, Date left out.
    fn said(case: &Case) -> (Plan, String) {
        let own = fields(case.own);
        let status = StatusCode::from_u16(case.status).unwrap();
        let plan = planned(case).unwrap();
        let mut out = Vec::new();
        head(&mut out, case.version, status, &own, &plan, DATE_TEXT);
        let text = String::from_utf8(out).unwrap();
        let (line, rest) = text.split_once("\r\n").unwrap();
        assert!(line.starts_with(&format!("HTTP/1.1 {} ", case.status)), "{line}");
        assert_eq!(rest.matches("Date: ").count(), 1);
        let rest = rest.replace("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "");
        (plan, rest.strip_suffix("\r\n").unwrap().replace("\r\n", "|"))
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
            (Case { ..USUAL }, F::Length(13), true, true, "Content-Length: 13|"),
            (Case { len: Some(0), ..USUAL }, F::Length(0), true, false, "Content-Length: 0|"),
            (Case { len: Some(u64::MAX), ..USUAL }, F::Length(u64::MAX), true, true, "Content-Length: 18446744073709551615|"),
            (Case { len: None, ..USUAL }, F::Chunked, true, true, "Transfer-Encoding: chunked|"),
            (Case { own: OWN, ..USUAL }, F::Length(13), true, true, "Content-Length: 13|"),
            (Case { own: OWN, len: None, ..USUAL }, F::Chunked, true, true, "Transfer-Encoding: chunked|"),
            (Case { own: CLOSE, ..USUAL }, F::Length(13), false, true, "Content-Length: 13|Connection: close|"),
            (Case { keep_alive: false, ..USUAL }, F::Length(13), false, true, "Content-Length: 13|Connection: close|"),
            // 1.0.
            (Case { version: v10, ..USUAL }, F::Length(13), true, true, "Content-Length: 13|Connection: keep-alive|"),
            (Case { version: v10, keep_alive: false, ..USUAL }, F::Length(13), false, true, "Content-Length: 13|Connection: close|"),
            (Case { version: v10, len: None, ..USUAL }, F::UntilClose, false, true, "Connection: close|"),
            // HEAD and 304: as of the body that is not sent.
            (Case { method: head.clone(), ..USUAL }, F::Length(13), true, false, "Content-Length: 13|"),
            (Case { method: head.clone(), len: None, ..USUAL }, F::None, true, false, ""),
            (Case { method: head.clone(), len: None, version: v10, ..USUAL }, F::None, true, false, "Connection: keep-alive|"),
            (Case { method: head.clone(), len: Some(0), ..USUAL }, F::None, true, false, ""),
            (Case { method: head.clone(), len: Some(0), own: OWN, ..USUAL }, F::Length(7), true, false, "Content-Length: 7|"),
            (Case { method: head.clone(), len: Some(0), own: &[("content-length", "+7")], ..USUAL }, F::None, true, false, ""),
            (Case { method: head, len: Some(0), own: &[("content-length", "7"), ("content-length", "7")], ..USUAL }, F::None, true, false, ""),
            (Case { status: 304, ..USUAL }, F::Length(13), true, false, "Content-Length: 13|"),
            (Case { status: 304, len: Some(0), ..USUAL }, F::None, true, false, ""),
            (Case { status: 304, len: None, ..USUAL }, F::None, true, false, ""),
            // No body.
            (Case { status: 204, own: OWN, ..USUAL }, F::None, true, false, ""),
            (Case { status: 205, ..USUAL }, F::Length(0), true, false, "Content-Length: 0|"),
            // Other protocols.
            (Case { status: 101, upgrade: true, switches: true, own: SWITCH, len: None, ..USUAL }, F::Upgrade, false, false, "Upgrade: websocket|Connection: upgrade|"),
            (Case { status: 426, own: SWITCH, ..USUAL }, F::Length(13), true, true, "Upgrade: websocket|Content-Length: 13|Connection: upgrade|"),
            (Case { method: Method::CONNECT, upgrade: true, ..USUAL }, F::Upgrade, false, false, ""),
            (Case { method: Method::CONNECT, status: 405, ..USUAL }, F::Length(13), true, true, "Content-Length: 13|"),
            // Fields of the handler.
            (Case { own: &[("content-type", "a/b"), ("x", ""), ("set-cookie", "a"), ("set-cookie", "b")], ..USUAL }, F::Length(13), true, true, "Content-Type: a/b|X: |Set-Cookie: a|Set-Cookie: b|Content-Length: 13|"),
            (Case { own: &[("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("date", "Sun, 06 Nov 1994 08:49:38 GMT")], ..USUAL }, F::Length(13), true, true, "Content-Length: 13|"),
            (Case { own: &[("date", "now"), ("date", "Sun Nov  6 08:49:37 1994")], ..USUAL }, F::Length(13), true, true, "Content-Length: 13|"),
        ];
        for (row, (case, framing, keep_alive, send_body, lines)) in cases.iter().enumerate() {
            let plan = Plan { framing: *framing, keep_alive: *keep_alive, send_body: *send_body };
            assert_eq!(said(case), (plan, (*lines).to_owned()), "row {row}");
        }
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
            (Case { status: 101, own: SWITCH, switches: true, ..USUAL }, 500),
            (Case { status: 101, upgrade: true, ..USUAL }, 500),
            (Case { status: 200, upgrade: true, own: SWITCH, switches: true, ..USUAL }, 500),
            (Case { status: 101, upgrade: true, own: SWITCH, ..USUAL }, 426),
            (Case { method: connect.clone(), ..USUAL }, 501),
            (Case { method: connect.clone(), status: 204, ..USUAL }, 501),
            (Case { method: connect, status: 405, upgrade: true, ..USUAL }, 500),
        ];
        for (row, (case, status)) in cases.iter().enumerate() {
            assert_eq!(planned(case).unwrap_err().as_u16(), *status, "row {row}");
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
        refusal(&mut out, &malformed, false, DATE_TEXT);
        let expected = "HTTP/1.1 400 Bad Request\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Content-Type: text/plain; charset=utf-8\r\nContent-Length: 15\r\nConnection: close\r\n\r\n\
            malformed Host\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);

        let mut out = Vec::new();
        refusal(&mut out, &malformed, true, DATE_TEXT);
        assert_eq!(String::from_utf8(out).unwrap(), expected.replace("malformed Host\n", ""));

        let mut out = Vec::new();
        busy(&mut out, DATE_TEXT);
        let expected = "HTTP/1.1 503 Service Unavailable\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Content-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
