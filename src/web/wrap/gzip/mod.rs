//! Compressed responses for clients that accept them (RFC 9110 §8.4.1.3 and §12.5.3).

mod tags;

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE,
};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::web::body::{Author, Body, BodyKind};
use crate::web::coding::{Whole, accepts_gzip, vary};
use crate::web::fields::{ascii, elements, essence};
use crate::web::handler::{Next, Wrapper};
use crate::web::response::plain;
use crate::web::resume::DetachedOut;
use crate::{Request, Response};
use tags::{Conditions, Form};

const GZIP: HeaderValue = HeaderValue::from_static("gzip");
/// A body in memory up to this size is compressed there before it is sent; a longer one piece by piece.
const AT_ONCE_BYTES: usize = 1 << 20;
/// A piece of a source.
const PIECE_BYTES: usize = 32 << 10;
/// After this many bytes of a source something is sent, because one that compresses very well would be read for long.
const MOST_BYTES: usize = 8 * PIECE_BYTES;

/// Compresses responses for clients that accept gzip.
///
/// It compresses textual types (`text/*`, JSON, XML, JavaScript, WebAssembly, SVG, uncompressed fonts) that are not known to
/// be short; not responses that are encoded already, partial (206), without a body (204, 304), marked `no-transform`, or
/// event streams, unless enabled. `Vary`, `Content-Length` and `Accept-Ranges` are adapted.
///
/// A compressed response has a strong entity tag of its own, the handler's with a suffix: `"v7"` becomes `"v7-gzip"`. When a
/// client sends it in `If-None-Match` or `If-Match`, the handler sees its own tag, so [`Validators`](crate::Validators) work
/// as without this wrapper, and `If-Match` protects from lost updates. A handler's own tag that ends in `-gzip` or
/// `-identity` is sent as `"...-identity"` with an uncompressed response, so that tags are never confused; weak tags stay as
/// they are. A 304 has the tag that its client has, and `Vary` if the 200 has or may have it. A part (206) is a part of the
/// uncompressed representation, and has its tag; `If-Range` with the tag of the compressed one gets the whole.
///
/// A body in memory is compressed before it is sent, a source while it is pulled, a detached stream while it is written. Each
/// piece of a source is sent before the next one is pulled, and each write of a stream at once, so that nothing waits in the
/// compressor: small writes compress badly, unless a [`BufWriter`](io::BufWriter) collects them.
///
/// A response that contains both a secret and text that an attacker chose reveals the secret by its length (BREACH): wrap only
/// routes without such responses.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::wrap::Gzip;
///
/// let handler = (|_: Request| "hello ".repeat(1_000)).wrap(Gzip::new());
/// let request = http::Request::get("/").header("accept-encoding", "gzip, br");
/// let mut response = handler.call(request.body(Body::empty()).unwrap());
/// assert_eq!(response.headers()["content-encoding"], "gzip");
/// assert!(response.body_mut().read_bytes().unwrap().len() < 100);
/// ```
pub struct Gzip {
    level: Compression,
    min_bytes: u64,
    event_streams: bool,
    streams: Arc<AtomicUsize>,
    most_streams: usize,
}

impl Gzip {
    /// A wrapper with the defaults below.
    pub fn new() -> Gzip {
        Gzip {
            level: Compression::new(5),
            min_bytes: 1024,
            event_streams: false,
            streams: Arc::default(),
            most_streams: 256,
        }
    }

    /// From 1, fast, to 9, small. Default 5.
    #[must_use]
    pub fn level(mut self, level: u32) -> Gzip {
        self.level = Compression::new(level.clamp(1, 9));
        self
    }

    /// A body that is known to be shorter is not compressed. Default 1,024 bytes.
    #[must_use]
    pub fn min_bytes(mut self, bytes: u64) -> Gzip {
        self.min_bytes = bytes;
        self
    }

    /// Whether `text/event-stream` is compressed too. Default: no, because proxies buffer compressed streams.
    #[must_use]
    pub fn event_streams(mut self, compress: bool) -> Gzip {
        self.event_streams = compress;
        self
    }

    /// How many responses may be compressed piece by piece at once, each of which holds about 300 KiB until its client has
    /// received it; further ones are not compressed. Default 256.
    #[must_use]
    pub fn streams(mut self, most: usize) -> Gzip {
        self.most_streams = most;
        self
    }

    /// Whether a response with this head gains by compression.
    fn suits(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::PARTIAL_CONTENT)
            && !status.is_informational()
            && !headers.contains_key(CONTENT_RANGE)
            && may_be_coded(headers)
            && headers.get(CONTENT_TYPE).is_some_and(|value| self.is_text(value))
    }

    /// Whether the 200 of a 304 or 206 would be compressed for clients that accept it. None: unknown.
    fn suits_whole(&self, parts: &Parts) -> Option<bool> {
        let Parts { headers, extensions, .. } = parts;
        let text = |name| headers.get(name).and_then(|value| ascii(value.as_bytes()));
        let of_fields = || {
            let kind = headers
                .get(CONTENT_TYPE)
                .filter(|kind| essence(kind.as_bytes()) != "multipart/byteranges")?;
            let len = match text(CONTENT_RANGE) {
                Some(range) => range.rsplit_once('/').and_then(|(_, len)| len.parse().ok()),
                None => text(CONTENT_LENGTH).and_then(|len| len.parse().ok()),
            };
            // An unknown length counts as long, as for a 200.
            Some(Whole { kind: kind.clone(), len: len.unwrap_or(u64::MAX) })
        };
        if !may_be_coded(headers) {
            return Some(false);
        }
        let whole = extensions.get::<Whole>().cloned().or_else(of_fields)?;
        Some(self.is_text(&whole.kind) && whole.len >= self.min_bytes)
    }

    fn is_text(&self, content_type: &HeaderValue) -> bool {
        match essence(content_type.as_bytes()).split_once('/') {
            Some(("text", "event-stream")) => self.event_streams,
            Some(("text", _)) => true,
            Some(("image", kind)) => matches!(kind, "svg+xml" | "bmp" | "x-icon" | "vnd.microsoft.icon"),
            Some(("font", kind)) => matches!(kind, "ttf" | "otf" | "collection"),
            Some(("application", kind)) => {
                let texts = [
                    "json",
                    "javascript",
                    "x-javascript",
                    "ecmascript",
                    "xml",
                    "wasm",
                    "x-ndjson",
                    "yaml",
                    "toml",
                    "sql",
                    "graphql",
                    "rtf",
                    "vnd.ms-fontobject",
                    "x-www-form-urlencoded",
                ];
                texts.contains(&kind)
                    || ["+json", "+xml", "+text", "+yaml"].iter().any(|end| kind.ends_with(end))
            }
            _ => false,
        }
    }

    fn permit(&self) -> Option<Permit> {
        let permit = Permit(Arc::clone(&self.streams));
        (permit.0.fetch_add(1, Ordering::Relaxed) < self.most_streams).then_some(permit)
    }

    /// Compresses a body. An error gives the body back if it can't be compressed now.
    fn compress(&self, kind: BodyKind) -> Result<BodyKind, BodyKind> {
        match kind {
            BodyKind::Empty | BodyKind::Upgrade(_) => Err(kind),
            BodyKind::Bytes(bytes) if bytes.len() <= AT_ONCE_BYTES => {
                let mut encoder = GzEncoder::new(Vec::new(), self.level);
                match encoder.write_all(&bytes).and_then(|()| encoder.finish()) {
                    Ok(packed) if packed.len() < bytes.len() => Ok(BodyKind::Bytes(packed.into())),
                    _ => Err(BodyKind::Bytes(bytes)),
                }
            }
            BodyKind::Bytes(_) | BodyKind::File { .. } | BodyKind::Source { .. } => {
                let Some(permit) = self.permit() else { return Err(kind) };
                let packing = Packing {
                    source: Body::of(kind),
                    encoder: GzEncoder::new(Vec::new(), self.level),
                    sent: 0,
                    ended: false,
                    _permit: permit,
                };
                Ok(BodyKind::Source { source: Box::new(packing), left: None })
            }
            BodyKind::Detached(write) => {
                let Some(permit) = self.permit() else { return Err(BodyKind::Detached(write)) };
                let level = self.level;
                Ok(BodyKind::Detached(Box::new(move |out| {
                    let _permit = permit;
                    let mut encoder = GzEncoder::new(out, level);
                    write(&mut AtOnce(&mut encoder))?;
                    encoder.finish().map(drop)
                })))
            }
        }
    }

    /// Compresses the response if it is suitable, accepted, and shorter that way.
    fn answer(&self, parts: &mut Parts, mut body: Body, accepted: bool, head_only: bool) -> (Form, Body) {
        let headers = &mut parts.headers;
        let announced = || ascii(headers.get(CONTENT_LENGTH)?.as_bytes())?.parse().ok();
        let len = if head_only { body.len().filter(|len| *len > 0).or_else(announced) } else { body.len() };
        if len.is_some_and(|len| len < self.min_bytes) {
            return (Form::Plain, body);
        }
        vary(headers, ACCEPT_ENCODING);
        if !accepted {
            return (Form::Plain, body);
        }
        let mut kind = body.take_kind();
        // A body in memory may not become shorter, which HEAD reports as GET does.
        if !head_only || matches!(&kind, BodyKind::Bytes(bytes) if bytes.len() <= AT_ONCE_BYTES) {
            kind = match self.compress(kind) {
                Ok(kind) => kind,
                Err(kind) => return (Form::Plain, Body::of(kind)),
            };
        }
        if head_only {
            // The body is not sent, so its length is left open.
            kind = BodyKind::Source { source: Box::new(io::empty()), left: None };
        }
        headers.insert(CONTENT_ENCODING, GZIP);
        headers.remove(CONTENT_LENGTH);
        headers.remove(ACCEPT_RANGES);
        (Form::Compressed, Body::of(kind))
    }
}

/// Whether the response is neither encoded already nor marked `no-transform`.
fn may_be_coded(headers: &HeaderMap) -> bool {
    let as_it_is = |value: &HeaderValue| {
        elements(value.as_bytes()).any(|directive| directive.eq_ignore_ascii_case(b"no-transform"))
    };
    !headers.contains_key(CONTENT_ENCODING) && !headers.get_all(CACHE_CONTROL).iter().any(as_it_is)
}

impl Default for Gzip {
    fn default() -> Gzip {
        Gzip::new()
    }
}

impl Wrapper for Gzip {
    fn call(&self, mut request: Request, next: Next<'_>) -> Response {
        let accepted = accepts_gzip(request.headers());
        let head_only = request.method() == Method::HEAD;
        let conditions = Conditions::of(&mut request, accepted);
        let response = next.call(request);
        if response.status() == StatusCode::PARTIAL_CONTENT && conditions.exclude_part(response.headers()) {
            return plain(StatusCode::PRECONDITION_FAILED);
        }
        let (mut parts, body) = response.into_parts();
        let (form, body) = match parts.status {
            StatusCode::NOT_MODIFIED | StatusCode::PARTIAL_CONTENT => {
                let whole = self.suits_whole(&parts);
                if whole.unwrap_or(true) {
                    vary(&mut parts.headers, ACCEPT_ENCODING);
                }
                // Without a tag of the client, it is as the 200 would be.
                let would_be =
                    || if accepted && whole == Some(true) { Form::Compressed } else { Form::Plain };
                let form = match parts.status {
                    StatusCode::NOT_MODIFIED => conditions.confirmed(&parts.headers).unwrap_or_else(would_be),
                    _ => Form::Plain,
                };
                (form, body)
            }
            // The text of an error may be replaced by the service's page.
            status if self.suits(status, &parts.headers) && body.author() == Author::Handler => {
                self.answer(&mut parts, body, accepted, head_only)
            }
            _ => (Form::Plain, body),
        };
        tags::put(&mut parts.headers, form);
        Response::from_parts(parts, body)
    }
}

impl fmt::Debug for Gzip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gzip")
            .field("level", &self.level)
            .field("min_bytes", &self.min_bytes)
            .finish_non_exhaustive()
    }
}

/// One of the responses that are compressed piece by piece.
struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A source, compressed as it is pulled.
struct Packing {
    source: Body,
    /// The bytes that it has written wait to be sent.
    encoder: GzEncoder<Vec<u8>>,
    /// How many of these were sent.
    sent: usize,
    ended: bool,
    _permit: Permit,
}

impl Read for Packing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut packed = 0usize;
        while self.encoder.get_ref().len() <= self.sent && !self.ended {
            self.encoder.get_mut().clear();
            self.sent = 0;
            let mut piece = [0; PIECE_BYTES];
            match self.source.read(&mut piece)? {
                0 => {
                    self.encoder.try_finish()?;
                    self.ended = true;
                }
                n => {
                    self.encoder.write_all(piece.get(..n).unwrap_or_default())?;
                    packed = packed.saturating_add(n);
                    if n < PIECE_BYTES || packed >= MOST_BYTES {
                        // The source has no more bytes now, and those that it gave must not wait for the next ones.
                        self.encoder.flush()?;
                    }
                }
            }
        }
        let n = self.encoder.get_ref().get(self.sent..).unwrap_or_default().read(buf)?;
        self.sent = self.sent.saturating_add(n);
        Ok(n)
    }
}

/// Sends each write before it returns.
struct AtOnce<'a, W: Write>(&'a mut GzEncoder<W>);

impl<W: Write> Write for AtOnce<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write_all(buf)?;
        self.0.flush()?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The encoder's state ends with the process, and the stream with it.
impl<W: Write> DetachedOut for AtOnce<'_, W> {}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;
    use crate::Handler;
    use crate::web::response::{IntoResponse, ResponseExt};
    use crate::web::wrap::testing::{ask, field};

    const ACCEPTS: (&str, &str) = ("accept-encoding", "gzip");

    fn unpacked(packed: &[u8]) -> String {
        let mut text = String::new();
        GzDecoder::new(packed).read_to_string(&mut text).unwrap();
        text
    }

    /// Status, type, further field, length: whether it is compressed, and whether it has `Vary`.
    #[test]
    fn what_is_compressed() {
        let cases = [
            (200, "text/plain; charset=utf-8", ("a", "b"), 2000, true, true),
            (200, "TEXT/HTML", ("a", "b"), 2000, true, true),
            (200, "application/problem+json", ("a", "b"), 2000, true, true),
            (200, "image/svg+xml", ("a", "b"), 2000, true, true),
            (404, "text/plain", ("a", "b"), 2000, true, true),
            (200, "text/plain", ("a", "b"), 1024, true, true),
            (200, "text/plain", ("a", "b"), 1023, false, false),
            (200, "image/png", ("a", "b"), 2000, false, false),
            (200, "application/octet-stream", ("a", "b"), 2000, false, false),
            (200, "application/zip", ("a", "b"), 2000, false, false),
            (200, "text/event-stream", ("a", "b"), 2000, false, false),
            (200, "text", ("a", "b"), 2000, false, false),
            (206, "text/plain", ("content-range", "bytes 0-1999/9999"), 2000, false, true),
            (206, "image/png", ("content-range", "bytes 0-1999/9999"), 2000, false, false),
            (206, "multipart/byteranges; boundary=x", ("a", "b"), 2000, false, true),
            (200, "text/plain", ("content-encoding", "br"), 2000, false, false),
            (200, "text/plain", ("cache-control", "public, No-Transform"), 2000, false, false),
            (204, "text/plain", ("a", "b"), 0, false, false),
            (304, "text/plain", ("a", "b"), 0, false, true),
            (304, "image/png", ("a", "b"), 0, false, false),
            (304, "text/plain", ("cache-control", "no-transform"), 0, false, false),
        ];
        for (status, kind, (name, value), len, compressed, varies) in cases {
            let answer = move |_: Request| {
                let fields = [("content-type", kind), (name, value), ("content-length", "2000")];
                (StatusCode::from_u16(status).unwrap(), fields, Body::from("x".repeat(len)))
            };
            let handler = answer.wrap(Gzip::new());
            let what = format!("{status} {kind} {name} {len}");
            let mut response = ask(&handler, "GET /", &[ACCEPTS]);
            let encoding = if name == "content-encoding" { value } else { "" };
            assert_eq!(
                field(&response, "content-encoding"),
                if compressed { "gzip" } else { encoding },
                "{what}"
            );
            assert_eq!(field(&response, "vary"), if varies { "accept-encoding" } else { "" }, "{what}");
            let bytes = response.body_mut().read_bytes().unwrap();
            if compressed {
                assert_eq!(field(&response, "content-length"), "", "{what}");
                assert_eq!(unpacked(&bytes), "x".repeat(len), "{what}");
            } else {
                assert_eq!(bytes, "x".repeat(len), "{what}");
            }
            let response = ask(&handler, "GET /", &[]);
            assert_eq!(field(&response, "content-encoding"), encoding, "{what}");
            assert_eq!(field(&response, "vary"), if varies { "accept-encoding" } else { "" }, "{what}");
        }
    }

    #[test]
    fn parts_beyond_ascii_hide_no_others() {
        let handler = (|_: Request| {
            let kind = HeaderValue::from_bytes(b"text/plain; title=\"Zo\xc3\xab\"").unwrap();
            Body::from("x".repeat(2000)).into_response().with_header("content-type", kind)
        })
        .wrap(Gzip::new());
        assert_eq!(field(&ask(&handler, "GET /", &[ACCEPTS]), "content-encoding"), "gzip");
        let handler = (|_: Request| {
            let cache = HeaderValue::from_bytes(b"x=\xff, no-transform").unwrap();
            "x".repeat(2000).into_response().with_header("cache-control", cache)
        })
        .wrap(Gzip::new());
        assert_eq!(field(&ask(&handler, "GET /", &[ACCEPTS]), "content-encoding"), "");
    }

    #[test]
    fn fields_are_put_right() {
        let answer = |req: Request| {
            let tag = req.uri().path().trim_start_matches('/').replace('\'', "\"");
            "x".repeat(2000).into_response().with_header("etag", tag).with_header("accept-ranges", "bytes")
        };
        let handler = answer.wrap(Gzip::new());
        for line in ["GET", "HEAD"] {
            for (tag, sent) in [("'a'", "\"a-gzip\""), ("W/'a'", "W/\"a\"")] {
                let response = ask(&handler, &format!("{line} /{tag}"), &[ACCEPTS]);
                assert_eq!(field(&response, "etag"), sent);
                assert_eq!(field(&response, "accept-ranges"), "");
                assert_eq!(field(&response, "content-encoding"), "gzip");
            }
            let response = ask(&handler, &format!("{line} /'a'"), &[]);
            assert_eq!(field(&response, "etag"), "\"a\"");
            assert_eq!(field(&response, "accept-ranges"), "bytes");
        }
        // A HEAD of its own says how long the body would be.
        let answer =
            |_: Request| ([("content-type", "text/plain"), ("content-length", "2000")], Body::empty());
        let response = ask(&answer.wrap(Gzip::new()), "HEAD /", &[ACCEPTS]);
        assert_eq!(
            (field(&response, "content-encoding"), field(&response, "content-length")),
            ("gzip".into(), String::new())
        );
    }

    #[test]
    fn random_bytes_stay_as_they_are() {
        let mut state = 1_u64;
        let mut noise = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        let bytes: Vec<u8> = (0..5000).map(|_| noise()).collect();
        let sent = bytes.clone();
        let handler =
            (move |_: Request| ([("content-type", "text/x")], Body::from(bytes.clone()))).wrap(Gzip::new());
        let mut response = ask(&handler, "GET /", &[ACCEPTS]);
        assert_eq!(field(&response, "content-encoding"), "");
        assert_eq!(response.body_mut().read_bytes().unwrap(), sent);
        assert_eq!(field(&ask(&handler, "HEAD /", &[ACCEPTS]), "content-encoding"), "");
    }

    /// Returns its pieces one by one, and reports how many were read.
    struct Pieces(Vec<Vec<u8>>, Arc<AtomicUsize>);

    impl Read for Pieces {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            self.1.fetch_add(1, Ordering::SeqCst);
            let piece = self.0.remove(0);
            buf[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    #[test]
    fn what_a_source_gave_is_sent_before_it_is_asked_for_more() {
        let asked = Arc::new(AtomicUsize::new(0));
        let pieces = vec![b"one ".to_vec(), b"two ".to_vec(), vec![b'3'; 1000]];
        let source = Pieces(pieces, Arc::clone(&asked));
        let mut packing =
            match Gzip::new().compress(BodyKind::Source { source: Box::new(source), left: None }) {
                Ok(BodyKind::Source { source, left: None }) => source,
                _ => panic!("no source"),
            };
        let (mut packed, mut piece) = (Vec::new(), [0; 4096]);
        for (n, so_far) in [(1, "one "), (2, "one two ")] {
            let len = packing.read(&mut piece).unwrap();
            packed.extend_from_slice(&piece[..len]);
            let mut text = [0; 100];
            let mut decoder = GzDecoder::new(&packed[..]);
            decoder.read_exact(&mut text[..so_far.len()]).unwrap();
            assert_eq!(&text[..so_far.len()], so_far.as_bytes());
            assert_eq!(asked.load(Ordering::SeqCst), n);
        }
        packing.read_to_end(&mut packed).unwrap();
        assert_eq!(unpacked(&packed), format!("one two {}", "3".repeat(1000)));
    }

    #[test]
    fn long_bodies_in_any_pieces() {
        let text: String = (0..400_000).map(|n| format!("{n} ")).collect();
        let sent = text.clone();
        let bodies: [fn(String) -> Body; 3] = [
            |text| Body::from(text),
            |text| Body::from_sized_reader(io::Cursor::new(text), 2_688_890),
            |text| Body::from_reader(io::Cursor::new(text)),
        ];
        assert_eq!(text.len(), 2_688_890);
        for body in bodies {
            let text = text.clone();
            let handler = (move |_: Request| ([("content-type", "text/plain")], body(text.clone())))
                .wrap(Gzip::new().streams(1));
            let mut response = ask(&handler, "GET /", &[ACCEPTS]);
            assert_eq!((field(&response, "content-encoding"), response.body().len()), ("gzip".into(), None));
            let mut second = ask(&handler, "GET /", &[ACCEPTS]);
            assert_eq!(field(&second, "content-encoding"), "", "beyond the limit");
            assert_eq!(second.body_mut().read_bytes().unwrap().len(), sent.len());
            let mut packed = Vec::new();
            let mut piece = [0; 777];
            loop {
                match response.body_mut().read(&mut piece).unwrap() {
                    0 => break,
                    n => packed.extend_from_slice(&piece[..n]),
                }
            }
            assert!(unpacked(&packed) == sent);
            drop(response);
            let response = ask(&handler, "GET /", &[ACCEPTS]);
            assert_eq!(field(&response, "content-encoding"), "gzip", "there is room again");
        }
    }

    #[test]
    fn a_source_that_fails_fails() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("as asked"))
            }
        }
        let handler =
            (|_: Request| ([("content-type", "text/plain")], Body::from_reader(Fails))).wrap(Gzip::new());
        let mut response = ask(&handler, "GET /", &[ACCEPTS]);
        assert_eq!(response.body_mut().read_bytes().unwrap_err().to_string(), "as asked");
    }

    #[test]
    fn a_stream_is_compressed_write_by_write() {
        let handler = (|_: Request| {
            let write = |out: &mut dyn Write| {
                out.write_all(b"one ")?;
                out.write_all(b"two")
            };
            ([("content-type", "text/event-stream")], Body::writer(write))
        })
        .wrap(Gzip::new().event_streams(true));
        let response = ask(&handler, "GET /", &[ACCEPTS]);
        assert_eq!(field(&response, "content-encoding"), "gzip");
        let BodyKind::Detached(write) = response.into_body().take_kind() else { panic!("no stream") };
        let mut packed = Vec::new();
        write(&mut packed).unwrap();
        assert_eq!(unpacked(&packed), "one two");
    }
}
