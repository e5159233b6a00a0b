//! Forms with files (`multipart/form-data`, RFC 7578), read field by field.
//!
//! ```
//! use heirloom::prelude::*;
//! use std::io;
//!
//! fn upload(mut req: Request) -> Result<String, InputError> {
//!     let mut form = req.multipart()?.file_bytes(50 << 20);
//!     let (mut title, mut bytes) = (String::new(), 0);
//!     while let Some(mut field) = form.next_field()? {
//!         match field.name() {
//!             "title" => title = field.text()?,
//!             // It is `Read`; what the client calls the file is no path.
//!             "photo" => bytes = io::copy(&mut field, &mut io::sink())?,
//!             _ => {}
//!         }
//!     }
//!     Ok(format!("{title}: {bytes} bytes\n"))
//! }
//! let router = Router::new().post("/photos", max_body(51 << 20, upload));
//! # let form = "--x\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nCat\r\n\
//! #     --x\r\nContent-Disposition: form-data; name=\"photo\"; filename=\"c.jpg\"\r\n\r\n12345\r\n--x--\r\n";
//! # let post = http::Request::post("/photos").header("content-type", "multipart/form-data; boundary=x");
//! # let mut response = router.call(post.body(form.into()).unwrap());
//! # assert_eq!(response.body_mut().read_text().unwrap(), "Cat: 5 bytes\n");
//! ```
//!
//! The fields come in the client's order, and one that is not read is skipped. In memory is a piece of a field at a time,
//! so an upload of any length needs no more than some 100 KiB. The body itself is complete when the handler runs, in a
//! temporary file if it is long; on a [`streaming`](crate::streaming) route it is read while it arrives.
//!
//! Errors are responses by `?`, also as an [`io::Error`] or a boxed error: 400 for a malformed or incomplete form, 413
//! beyond a limit, 415 for another `Content-Type`. Each names the field.

// The parser is multer's, which expects an executor. There is none: its source blocks, so whatever it waits for is there at
// the next poll. It takes from a source until that is not ready, and so would have a whole body in memory; so the source
// is not ready after each piece.

use std::fmt::{self, Display};
use std::io::{self, Read, Seek, SeekFrom};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use futures_core::Stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};

use super::{InputError, expect};
use crate::base::budget::Budget;
use crate::base::file_budget::{FileBudget, SpillFile, StoreError};
use crate::web::body::{BodyKind, status_of_store};
use crate::web::fields::ascii;
use crate::{Body, Request};

/// The size of a read.
const PIECE_BYTES: usize = 32 << 10;
/// What may precede a field's content: a boundary and its header fields, which multer holds in memory.
const HEAD_BYTES: u64 = 16 << 10;
/// RFC 2046 §5.1.1.
const LONGEST_BOUNDARY: usize = 70;

/// A form with files, made by [`RequestExt::multipart`](crate::RequestExt::multipart).
///
/// | limit | default | beyond it |
/// | --- | --- | --- |
/// | the whole form: [`max_body`](crate::max_body) of the route, or [`Limits::body_bytes`](crate::Limits::body_bytes) | 2 MiB | 413, before any of it is read if its length is announced |
/// | [`fields`](Self::fields) | 1,000 | 413 |
/// | [`field_bytes`](Self::field_bytes), of a field that is not a file, and of every [`text`](Field::text) | 1 MiB | 413 |
/// | [`file_bytes`](Self::file_bytes), of a field with a file name | no limit of its own | 413 |
/// | the header fields of a field | 16 KiB, 32 fields | 400 |
#[must_use]
pub struct Multipart {
    parts: multer::Multipart<'static>,
    /// The field whose content comes next.
    current: Option<multer::Field<'static>>,
    /// The bytes of the body that have been read.
    received: Arc<AtomicU64>,
    count: usize,
    limits: FieldLimits,
    /// None without a server.
    files: Option<Arc<FileBudget>>,
}

#[derive(Clone, Copy)]
struct FieldLimits {
    fields: usize,
    field_bytes: u64,
    file_bytes: u64,
}

impl Multipart {
    pub(crate) fn of(request: &mut Request) -> Result<Multipart, InputError> {
        const FORM: &str = "multipart/form-data";
        let headers = request.headers();
        expect(headers, FORM, |kind| kind == FORM)?;
        let kind = headers.get(CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind.as_bytes()));
        let boundary = multer::parse_boundary(kind.unwrap_or_default())
            .ok()
            .filter(|boundary| (1..=LONGEST_BOUNDARY).contains(&boundary.len()));
        let boundary = boundary.ok_or_else(|| bad("the Content-Type has no boundary"))?;
        let files = request.body().conn_info().and_then(|conn_info| conn_info.files.clone());
        let received = Arc::<AtomicU64>::default();
        let body = Body::of(request.body_mut().take_kind());
        let pieces = Pieces { body, received: Arc::clone(&received), pause: false };
        Ok(Multipart {
            parts: multer::Multipart::new(pieces, boundary),
            current: None,
            received,
            count: 0,
            limits: FieldLimits { fields: 1_000, field_bytes: 1 << 20, file_bytes: u64::MAX },
            files,
        })
    }

    /// How many fields the form may have. Default 1,000.
    pub fn fields(mut self, fields: usize) -> Multipart {
        self.limits.fields = fields;
        self
    }

    /// Bytes of a field that is not a file, and of the text of every field. Default 1 MiB.
    pub fn field_bytes(mut self, bytes: u64) -> Multipart {
        self.limits.field_bytes = bytes;
        self
    }

    /// Bytes of a file: a field with a file name. Default: as many as the body may have.
    pub fn file_bytes(mut self, bytes: u64) -> Multipart {
        self.limits.file_bytes = bytes;
        self
    }

    /// The next field; None after the last one. What is left of the field before it is skipped.
    ///
    /// # Errors
    /// A malformed or incomplete form, too many fields, a body that can't be read.
    pub fn next_field(&mut self) -> Result<Option<Field<'_>>, InputError> {
        while self.next_chunk()?.is_some() {}
        let begin = self.received.load(Ordering::Relaxed);
        let next = loop {
            if let Poll::Ready(next) = poll(|cx| self.parts.poll_next_field(cx)) {
                break next.map_err(of_multer)?;
            }
            if self.received.load(Ordering::Relaxed).saturating_sub(begin) > HEAD_BYTES {
                return Err(bad("a boundary, or the end of a field's header, does not come"));
            }
        };
        let Some(part) = next else { return Ok(None) };
        if self.count >= self.limits.fields {
            let reason = format!("more fields than {}", self.limits.fields);
            return Err(InputError::of(StatusCode::PAYLOAD_TOO_LARGE, reason));
        }
        self.count = self.count.saturating_add(1);
        let name = part.name().ok_or_else(|| bad("a field has no name"))?.to_owned();
        let limit = if part.file_name().is_some() { self.limits.file_bytes } else { self.limits.field_bytes };
        let head =
            Head { name, file_name: part.file_name().map(str::to_owned), headers: part.headers().clone() };
        self.current = Some(part);
        Ok(Some(Field { form: self, head, limit, read: 0, chunk: Bytes::new() }))
    }

    /// The next bytes of the current field.
    fn next_chunk(&mut self) -> Result<Option<Bytes>, InputError> {
        let Some(part) = &mut self.current else { return Ok(None) };
        let chunk = loop {
            if let Poll::Ready(chunk) = poll(|cx| Pin::new(&mut *part).poll_next(cx)) {
                break chunk.transpose().map_err(of_multer)?;
            }
        };
        if chunk.is_none() {
            self.current = None;
        }
        Ok(chunk)
    }
}

impl fmt::Debug for Multipart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Multipart").field("fields", &self.count).finish_non_exhaustive()
    }
}

/// A field of a form. It is read by [`Read`], or by one of the methods that take it whole.
pub struct Field<'f> {
    form: &'f mut Multipart,
    head: Head,
    limit: u64,
    /// The number of bytes that have come.
    read: u64,
    /// The bytes that have come and are not read.
    chunk: Bytes,
}

struct Head {
    name: String,
    file_name: Option<String>,
    headers: HeaderMap,
}

impl Field<'_> {
    /// The name of the field.
    pub fn name(&self) -> &str {
        &self.head.name
    }

    /// What the client calls the file; None for a field that is not a file. It may be empty, which browsers send for a file
    /// that is not chosen, and may contain `/` and `..`: never use it as a path.
    pub fn file_name(&self) -> Option<&str> {
        self.head.file_name.as_deref()
    }

    /// The media type that the client states, such as `image/png`. None if it states none, as browsers do for text.
    pub fn content_type(&self) -> Option<&str> {
        self.head.headers.get(CONTENT_TYPE).and_then(|value| ascii(value.as_bytes()))
    }

    /// All header fields.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The content as text, of at most [`Multipart::field_bytes`].
    ///
    /// # Errors
    /// 413 beyond the limit; 400 if it is not UTF-8.
    pub fn text(mut self) -> Result<String, InputError> {
        self.limit = self.limit.min(self.form.limits.field_bytes);
        let bytes = self.all()?;
        String::from_utf8(bytes).map_err(|_| self.error(StatusCode::BAD_REQUEST, "not UTF-8"))
    }

    /// The content, trimmed, as a type that implements [`FromStr`], such as a number.
    ///
    /// # Errors
    /// As [`text`](Self::text); 422 if it is not of that type.
    pub fn parse<T: FromStr<Err: Display>>(self) -> Result<T, InputError> {
        let name = self.head.name.clone();
        let text = self.text()?;
        text.trim().parse().map_err(|e: T::Err| {
            let error = InputError::of(StatusCode::UNPROCESSABLE_ENTITY, e.to_string());
            InputError { field: Some(name), ..error }
        })
    }

    /// The content, of at most `limit` bytes.
    ///
    /// # Errors
    /// 413 beyond the limit.
    pub fn bytes(mut self, limit: u64) -> Result<Bytes, InputError> {
        self.limit = self.limit.min(limit);
        Ok(self.all()?.into())
    }

    /// Keeps the content in an unlinked temporary file, which is gone when it is dropped. Its bytes count against
    /// [`Limits::temporary_bytes`](crate::Limits::temporary_bytes), besides those of the request's body if that is in a file too.
    ///
    /// # Errors
    /// 413 beyond [`Multipart::file_bytes`], 503 beyond `temporary_bytes`, 507 if the disk is full.
    pub fn save_to_temporary_file(mut self) -> Result<TemporaryFile, InputError> {
        let budget = self.form.files.clone().unwrap_or_else(without_server);
        let mut spilled = budget.create().map_err(|e| self.not_stored(&e))?;
        while let Some(chunk) = self.next()? {
            spilled.append(&chunk).map_err(|e| self.not_stored(&e))?;
        }
        spilled.rewind().map_err(|e| self.not_stored(&e))?;
        Ok(TemporaryFile { spilled })
    }

    fn all(&mut self) -> Result<Vec<u8>, InputError> {
        let mut all = Vec::new();
        while let Some(chunk) = self.next()? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    /// The next bytes, unless they exceed the limit.
    fn next(&mut self) -> Result<Option<Bytes>, InputError> {
        if !self.chunk.is_empty() {
            return Ok(Some(std::mem::take(&mut self.chunk)));
        }
        let Some(chunk) = self.form.next_chunk().map_err(|e| self.named(e))? else { return Ok(None) };
        self.read = self.read.saturating_add(chunk.len() as u64);
        if self.read > self.limit {
            let reason = format!("longer than {} bytes", self.limit);
            return Err(self.error(StatusCode::PAYLOAD_TOO_LARGE, &reason));
        }
        Ok(Some(chunk))
    }

    fn error(&self, status: StatusCode, reason: &str) -> InputError {
        self.named(InputError::of(status, reason))
    }

    fn not_stored(&self, e: &StoreError) -> InputError {
        self.error(status_of_store(e), "the server can't keep it now")
    }

    fn named(&self, e: InputError) -> InputError {
        InputError { field: Some(self.head.name.clone()), ..e }
    }
}

impl Read for Field<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.next()? {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        (&mut self.chunk).reader().read(buf)
    }
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Field").field("name", &self.head.name).finish_non_exhaustive()
    }
}

/// The content of a field in an unlinked temporary file, at its start. It is gone when this is dropped.
#[derive(Debug)]
pub struct TemporaryFile {
    spilled: SpillFile,
}

impl TemporaryFile {
    /// The number of its bytes.
    pub fn len(&self) -> u64 {
        self.spilled.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.spilled.len == 0
    }

    /// The file.
    pub fn file(&self) -> &std::fs::File {
        &self.spilled.file
    }
}

impl Read for TemporaryFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.spilled.file.read(buf)
    }
}

impl Seek for TemporaryFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.spilled.file.seek(to)
    }
}

/// All of it, as the body of a response.
impl TryFrom<TemporaryFile> for Body {
    type Error = io::Error;

    fn try_from(mut file: TemporaryFile) -> io::Result<Body> {
        file.rewind()?;
        Ok(Body::of(BodyKind::spilled(file.spilled)))
    }
}

/// A body, of which multer gets a piece at each other poll.
struct Pieces {
    body: Body,
    received: Arc<AtomicU64>,
    pause: bool,
}

impl Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        self.pause = !self.pause;
        if !self.pause {
            return Poll::Pending;
        }
        let mut piece = vec![0; PIECE_BYTES];
        let read = loop {
            match self.body.read(&mut piece) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        Poll::Ready(match read {
            Ok(0) => None,
            Ok(n) => {
                self.received.fetch_add(n as u64, Ordering::Relaxed);
                piece.truncate(n);
                Some(Ok(piece.into()))
            }
            Err(e) => Some(Err(e)),
        })
    }
}

/// Nothing ever wakes the task: it is polled again at once, and that reads the next piece.
fn poll<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll(&mut Context::from_waker(Waker::noop()))
}

/// For a handler that a test calls by hand.
fn without_server() -> Arc<FileBudget> {
    Arc::new(FileBudget::new(Budget::new(u64::MAX), Budget::new(u64::MAX), None))
}

fn bad(reason: &str) -> InputError {
    InputError::of(StatusCode::BAD_REQUEST, reason)
}

fn of_multer(e: multer::Error) -> InputError {
    use multer::Error::{IncompleteFieldData, IncompleteHeaders, IncompleteStream, StreamReadFailed};
    match e {
        StreamReadFailed(e) => match e.downcast::<io::Error>() {
            Ok(e) => InputError::from(*e),
            Err(e) => InputError::from(io::Error::other(e)),
        },
        IncompleteFieldData { .. } | IncompleteHeaders | IncompleteStream => {
            bad("the form is malformed, or incomplete")
        }
        e => bad(&e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::request::RequestExt;
    use crate::web::response::IntoResponse;

    const KIND: &str = "multipart/form-data; boundary=b";

    fn request(kind: &str, body: impl Into<Body>) -> Request {
        http::Request::post("/").header("content-type", kind).body(body.into()).unwrap()
    }

    /// A body that arrives in pieces of one length.
    fn in_pieces(text: &str, len: usize) -> Body {
        let pieces: Vec<_> = text.as_bytes().chunks(len).map(<[u8]>::to_vec).collect();
        Body::from_chunks(pieces.into_iter().map(Ok))
    }

    fn part(head: &str, content: &str) -> String {
        format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
    }

    /// All fields, as text.
    fn read(mut form: Multipart) -> Result<String, InputError> {
        let mut all = Vec::new();
        while let Some(field) = form.next_field()? {
            let head = format!("{} {:?} {:?}", field.name(), field.file_name(), field.content_type());
            all.push(format!("{head} {:?}", field.text()?));
        }
        Ok(all.join("|"))
    }

    #[test]
    fn fields_come_in_order_in_any_pieces() {
        let text = [
            part("name=\"a\"", "1"),
            part(
                "name=\"f\"; filename=\"../x y.txt\"\r\nContent-Type: text/plain; charset=x",
                "line\r\n--\r\n--c\r\n",
            ),
            part("name=\"\u{e9}\"; filename=\"\"\r\nContent-Type: application/octet-stream", ""),
            part("name=a", "again"),
            "--b--\r\nepilogue".to_owned(),
        ]
        .concat();
        let wanted = "a None None \"1\"|f Some(\"../x y.txt\") Some(\"text/plain; charset=x\") \"line\\r\\n--\\r\\n--c\\r\\n\"|\
                      \u{e9} Some(\"\") Some(\"application/octet-stream\") \"\"|a None None \"again\"";
        for len in [1, 2, 3, 7, 60, 10_000] {
            for kind in
                [KIND, "Multipart/Form-Data;boundary=\"b\"", "multipart/form-data; charset=utf-8; boundary=b"]
            {
                let read = read(request(kind, in_pieces(&text, len)).multipart().unwrap());
                assert_eq!(read.unwrap(), wanted, "{len} {kind}");
            }
        }
        // A preamble, and a form without fields.
        for (text, wanted) in
            [(format!("hi\r\n{}--b--", part("name=a", "1")), "a None None \"1\""), ("--b--\r\n".into(), "")]
        {
            assert_eq!(read(request(KIND, in_pieces(&text, 5)).multipart().unwrap()).unwrap(), wanted);
        }
    }

    #[test]
    fn a_field_that_is_not_read_is_skipped() {
        let text = format!("{}{}--b--", part("name=a", &"x".repeat(100_000)), part("name=c", "2"));
        let mut form = request(KIND, in_pieces(&text, 900)).multipart().unwrap();
        let mut first = form.next_field().unwrap().unwrap();
        first.read_exact(&mut [0; 10]).unwrap();
        assert_eq!(form.next_field().unwrap().unwrap().parse::<u8>().unwrap(), 2);
        assert!(form.next_field().unwrap().is_none() && form.next_field().unwrap().is_none());
    }

    #[test]
    fn what_is_no_such_form_has_a_status() {
        for (kind, status) in [
            ("application/x-www-form-urlencoded", 415),
            ("multipart/mixed; boundary=b", 415),
            ("", 415),
            ("multipart/form-data", 400),
            ("multipart/form-data; boundary=", 400),
            ("multipart/form-data; boundary=\"\"", 400),
            (&format!("multipart/form-data; boundary={}", "b".repeat(71)), 400),
        ] {
            let error = request(kind, "--b--").multipart().unwrap_err();
            assert_eq!(error.status(), status, "{kind}");
        }
        let fields = "X-Long: x\r\n".repeat(33);
        let cases = [
            (String::new(), 400),
            ("--".into(), 400),
            ("x".repeat(100_000), 400),
            ("--b".into(), 400),
            ("--b\r\n".into(), 400),
            ("--bx\r\n\r\n".into(), 400),
            (part("name=a", "1"), 400),
            (part("name=a", "1").trim_end().to_owned(), 400),
            (part("filename=a", "1"), 400),
            (part(&format!("name=a\r\n{}", fields.trim_end()), "1"), 400),
            (part(&format!("name=a\r\nX-Long: {}", "x".repeat(100_000)), "1"), 400),
            (part("name=a\r\nno field", "1"), 400),
            (format!("{}--b--", part("name=a", "1")).replace('1', "\u{0}"), 200),
        ];
        for (text, status) in cases {
            for len in [1, 100_000] {
                let read = read(request(KIND, in_pieces(&text, len)).multipart().unwrap());
                let got = read.as_ref().map_or_else(|e| e.status().as_u16(), |_| 200);
                assert_eq!(got, status, "{:?} {len}: {read:?}", &text[..text.len().min(80)]);
            }
        }
    }

    #[test]
    fn limits_are_kept_and_name_the_field() {
        let text = format!("{}{}--b--", part("name=a", "12345"), part("name=f; filename=x", "123456"));
        let form = || request(KIND, in_pieces(&text, 8)).multipart().unwrap();
        let said = |form: Multipart| {
            read(form).map_or_else(|e| format!("{} {e}", e.status().as_u16()), |_| "200".into())
        };
        assert_eq!(said(form().fields(2).field_bytes(6)), "200");
        assert_eq!(said(form().fields(1)), "413 more fields than 1");
        assert_eq!(said(form().field_bytes(5)), "413 f: longer than 5 bytes", "a text in memory");
        assert_eq!(said(form().field_bytes(4)), "413 a: longer than 4 bytes");
        assert_eq!(said(form().file_bytes(5)), "413 f: longer than 5 bytes");
        let mut form = form().field_bytes(5);
        assert_eq!(form.next_field().unwrap().unwrap().bytes(4).unwrap_err().status(), 413);
        // By each way of reading, and a handler may go on.
        let mut file = form.next_field().unwrap().unwrap();
        let mut all = String::new();
        assert_eq!((file.read_to_string(&mut all).unwrap(), &*all), (6, "123456"));
        let mut form = request(KIND, in_pieces(&text, 8)).multipart().unwrap().field_bytes(3);
        let error = io::copy(&mut form.next_field().unwrap().unwrap(), &mut io::sink()).unwrap_err();
        assert_eq!(error.into_response().status(), 413);
    }

    #[test]
    fn values_that_do_not_fit() {
        let form = |content: &[u8]| {
            let text =
                [b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n", content, b"\r\n--b--"].concat();
            request(KIND, text).multipart().unwrap()
        };
        let parse = |content: &[u8]| form(content).next_field().unwrap().unwrap().parse::<u8>();
        assert_eq!(parse(b" 7\n").unwrap(), 7);
        let error = parse(b"300").unwrap_err();
        assert_eq!((error.status().as_u16(), error.field()), (422, Some("a")));
        assert_eq!(parse(b"\xff").unwrap_err().status(), 400);
        assert_eq!(form(b"\xff").next_field().unwrap().unwrap().bytes(1).unwrap(), b"\xff".as_slice());
    }

    #[test]
    fn a_file_is_kept_and_read_again() {
        let text = format!("{}--b--", part("name=f; filename=x", &"0123456789".repeat(10_000)));
        let mut form = request(KIND, in_pieces(&text, 1_000)).multipart().unwrap();
        let mut file = form.next_field().unwrap().unwrap().save_to_temporary_file().unwrap();
        assert_eq!((file.len(), file.is_empty()), (100_000, false));
        file.seek(SeekFrom::Start(99_995)).unwrap();
        let mut end = String::new();
        file.read_to_string(&mut end).unwrap();
        assert_eq!(end, "56789");
        let mut body = Body::try_from(file).unwrap();
        assert_eq!((body.len(), body.read_text().unwrap().len()), (Some(100_000), 100_000));
    }

    #[test]
    fn the_error_of_a_body_keeps_its_status() {
        let end = crate::web::body::BodyError { status: StatusCode::REQUEST_TIMEOUT, reason: "too slow" };
        let pieces = [Ok(part("name=a", "1").into_bytes()), Err(io::Error::other(end))];
        let mut form = request(KIND, Body::from_chunks(pieces)).multipart().unwrap();
        let mut field = form.next_field().unwrap().unwrap();
        let error = io::copy(&mut field, &mut io::sink()).unwrap_err();
        assert_eq!(InputError::from(error).status(), 408);
    }

    /// Whatever a client sends, the form ends.
    #[test]
    fn no_bytes_make_it_spin() {
        use crate::base::property::{BYTES, CASES, check, list};
        check(CASES, BYTES, |u| {
            let parts: [&[u8]; 9] = [
                b"--b",
                b"--",
                b"\r\n",
                b"\r\n\r\n",
                b"Content-Disposition: form-data; name=a",
                b"\r",
                b"-",
                b"x",
                b" ",
            ];
            let text = list(u, 0..=30, |u| Ok(*u.choose(&parts)?))?.concat();
            let pieces: Vec<_> = text.chunks(u.int_in_range(1..=20)?).map(<[u8]>::to_vec).collect();
            let body = Body::from_chunks(pieces.into_iter().map(Ok));
            let mut form = request(KIND, body).multipart().unwrap();
            while let Ok(Some(field)) = form.next_field() {
                let _ = field.bytes(10);
            }
            Ok(())
        });
    }
}
