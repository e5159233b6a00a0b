//! The handshake of a WebSocket (RFC 6455 §4.2).

use http::header::{
    ALLOW, CONNECTION, HOST, HeaderName, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use tungstenite::handshake::derive_accept_key;

use crate::web::fields::{self, ascii};
use crate::web::response::IntoResponse;
use crate::{Request, Response};

/// The content of a valid request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HandshakeRequest {
    /// The value of `Sec-WebSocket-Accept`.
    pub(super) accept: String,
    /// The offered subprotocols, the preferred one first.
    pub(super) protocols: Vec<String>,
    /// The origin of the page (scheme, host and port), if the client is a browser.
    pub(super) origin: Option<String>,
    /// The host to which the request was sent.
    pub(super) host: String,
}

/// Status and text of the answer to an invalid request.
pub(super) type Rejection = (StatusCode, &'static str);

pub(super) fn read(req: &Request) -> Result<HandshakeRequest, Rejection> {
    let headers = req.headers();
    // HEAD is allowed wherever GET is.
    if !matches!(*req.method(), Method::GET | Method::HEAD) {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "a WebSocket handshake needs GET"));
    }
    if req.version() < Version::HTTP_11
        || *req.method() == Method::HEAD
        || !has(headers, UPGRADE, "websocket")
    {
        return Err((StatusCode::UPGRADE_REQUIRED, "this resource needs a WebSocket handshake"));
    }
    if headers.get_all(SEC_WEBSOCKET_VERSION).iter().ne([&"13"]) {
        return Err((StatusCode::UPGRADE_REQUIRED, "only WebSocket version 13 is supported"));
    }
    if !has(headers, CONNECTION, "upgrade") {
        return Err((StatusCode::BAD_REQUEST, "the Connection field lacks upgrade"));
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next().filter(|key| is_key(key.as_bytes())), keys.next()) else {
        return Err((StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is not 16 bytes in base64"));
    };
    let text = |name| headers.get(name).and_then(|value| ascii(value.as_bytes())).map(str::to_owned);
    Ok(HandshakeRequest {
        accept: derive_accept_key(key.as_bytes()),
        protocols: elements(headers, SEC_WEBSOCKET_PROTOCOL).map(str::to_owned).collect(),
        origin: headers.get(ORIGIN).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
        host: req
            .uri()
            .authority()
            .map(|host| host.as_str().to_owned())
            .or_else(|| text(HOST))
            .unwrap_or_default(),
    })
}

/// The response that starts the WebSocket, without its body.
pub(super) fn accept(asked: &HandshakeRequest, protocol: Option<&str>) -> Response {
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    for (name, value) in [(SEC_WEBSOCKET_ACCEPT, Some(&*asked.accept)), (SEC_WEBSOCKET_PROTOCOL, protocol)] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(name, value);
        }
    }
    response
}

/// A refusal that names the supported protocol and version (RFC 9110 §15.5.22, RFC 6455 §4.2.2).
pub(super) fn refuse((status, text): Rejection) -> Response {
    let mut response = (status, format!("{} {text}\n", status.as_u16())).into_response();
    let headers = response.headers_mut();
    match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        StatusCode::FORBIDDEN => {}
        _ => {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
    }
    response
}

/// Whether `host` served the page of `origin`. Otherwise a page of another site could open a WebSocket here, and the browser
/// would send our cookies. The scheme is not compared, because a proxy may have terminated TLS.
pub(super) fn is_same(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let bare = |text: &str| text.strip_suffix(port).unwrap_or(text).to_ascii_lowercase();
    !authority.is_empty() && bare(authority) == bare(host)
}

/// 16 bytes are 22 letters and `==`; 4 bits of the last letter have no meaning.
fn is_key(key: &[u8]) -> bool {
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.strip_suffix(b"==").is_some_and(|letters| letters.len() == 22 && letters.iter().all(letter))
}

fn has(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    elements(headers, name).any(|element| element.eq_ignore_ascii_case(wanted))
}

fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().flat_map(|value| fields::elements(value.as_bytes())).filter_map(ascii)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Body;

    const GOOD: &str = "GET|connection: keep-alive, Upgrade|upgrade: h2c, WebSocket|sec-websocket-version: 13|\
                        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==|host: h:81";

    fn request(text: &str) -> Request {
        let mut parts = text.split('|');
        let mut req = http::Request::builder().method(parts.next().unwrap()).uri("/ws");
        for part in parts {
            let (name, value) = part.split_once(": ").unwrap();
            req = req.header(name, value);
        }
        req.body(Body::empty()).unwrap()
    }

    #[test]
    fn a_good_request() {
        let with =
            format!("{GOOD}|origin: http://h:81|sec-websocket-protocol: a, b|sec-websocket-protocol: c");
        let asked = read(&request(&with)).unwrap();
        assert_eq!(asked.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "RFC 6455 §1.3");
        assert_eq!(asked.protocols, ["a", "b", "c"]);
        assert_eq!((asked.origin.as_deref(), &*asked.host), (Some("http://h:81"), "h:81"));
        let response = accept(&asked, Some("b"));
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["sec-websocket-protocol"], "b");
        assert_eq!(response.headers()["upgrade"], "websocket");
        assert!(!accept(&asked, None).headers().contains_key("sec-websocket-protocol"));
    }

    #[test]
    fn elements_beyond_ascii_hide_no_others() {
        let mut good = request(&GOOD.replace("keep-alive, Upgrade", "x").replace("h2c, WebSocket", "x"));
        for (name, value) in [
            (CONNECTION, b"\xff, Upgrade".as_slice()),
            (UPGRADE, b"websocket, \xc3\xab"),
            (SEC_WEBSOCKET_PROTOCOL, b"a, \xff, b"),
        ] {
            good.headers_mut().insert(name, HeaderValue::from_bytes(value).unwrap());
        }
        assert_eq!(read(&good).unwrap().protocols, ["a", "b"]);
    }

    #[test]
    fn bad_requests() {
        let cases = [
            ("GET", "POST", 405),
            ("GET", "HEAD", 426),
            ("h2c, WebSocket", "h2c", 426),
            ("|upgrade: h2c, WebSocket", "", 426),
            ("version: 13", "version: 8", 426),
            ("version: 13", "version: 13, 8", 426),
            ("|sec-websocket-version: 13", "", 426),
            ("|sec-websocket-version: 13", "|sec-websocket-version: 13|sec-websocket-version: 13", 426),
            ("keep-alive, Upgrade", "keep-alive", 400),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ", 400),
            ("dGhlIHNhbXBsZSBub25jZQ==", "", 400),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhl IHNhbXBsZSBub25jZ==", 400),
            ("|host", "|sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==|host", 400),
        ];
        for (from, to, status) in cases {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from}");
            let refusal = read(&request(&text)).unwrap_err();
            assert_eq!(refusal.0, status, "{text}");
            let response = refuse(refusal);
            match status {
                405 => assert_eq!(response.headers()["allow"], "GET, HEAD"),
                _ => {
                    assert_eq!(response.headers()["sec-websocket-version"], "13");
                    assert_eq!(response.headers()["upgrade"], "websocket");
                }
            }
        }
        let mut old = request(GOOD);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(read(&old).unwrap_err().0, 426);
    }

    #[test]
    fn origins() {
        for (origin, host, same) in [
            ("http://h", "h", true),
            ("http://h:80", "h", true),
            ("https://h", "H:443", true),
            ("https://h:8443", "h:8443", true),
            ("http://[::1]:81", "[::1]:81", true),
            ("https://h:80", "h", false),
            ("http://h:81", "h", false),
            ("http://h.evil", "h", false),
            ("http://evil", "h", false),
            ("null", "h", false),
            ("null", "null", false),
            ("file://", "", false),
            ("http://", "", false),
            ("", "", false),
        ] {
            assert_eq!(is_same(origin, host), same, "{origin} {host}");
        }
    }
}
