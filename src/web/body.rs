//! The body of a request or a response.
//!
//! Peer, drain and the text of the head, which every request has, are kept in its `Body`: an `http::Extensions` entry would
//! cost an allocation for each request.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::iter::Fuse;
use std::ops::Deref;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use http::StatusCode;

use crate::base::budget::Share;
use crate::base::file_budget::{SpillFile, StoreError};
use crate::base::log::{error, warn};
use crate::net::conn_info::ConnInfo;
use crate::web::resume::DetachedOut;
use crate::web::upgrade::Upgraded;

/// The body of a request or of a response.
///
/// A request's body is complete when the handler runs, in memory or in an unlinked temporary file, except on
/// [`streaming`](crate::streaming) routes. It is read by [`Read`], [`read_bytes`](Body::read_bytes) or
/// [`read_text`](Body::read_text). A response's body is bytes, or a source from which the server pulls a piece whenever the
/// client has received the last one.
///
/// ```
/// use heirloom::Body;
/// let mut body = Body::from("hello");
/// assert_eq!(body.len(), Some(5));
/// assert_eq!(body.read_text().unwrap(), "hello");
/// assert_eq!(Body::from_reader(std::io::empty()).len(), None);
/// ```
pub struct Body {
    kind: BodyKind,
    received: Option<Received>,
    /// The path is the pattern of the route that matched, with prefixes of nested routers of so many bytes.
    routed: Option<u16>,
    author: Author,
}

/// How a request was received.
struct Received {
    conn_info: Arc<ConnInfo>,
    /// Its head as received.
    head: Bytes,
}

/// Who has written the content of a response.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Author {
    #[default]
    Handler,
    /// This crate: the text of the status.
    Status,
    /// This crate: what is wrong with the client's input.
    Detail,
}

/// The content of a body, for the exchange.
#[derive(Default)]
pub(crate) enum BodyKind {
    #[default]
    Empty,
    Bytes(InMemory),
    File {
        file: File,
        left: u64,
        /// The share of the budget of temporary files, for a temporary file.
        share: Option<Share>,
        /// The share of the budget of descriptors, once it is counted.
        descriptor: Option<Share>,
    },
    Source {
        source: Box<dyn Read + Send>,
        left: Option<u64>,
    },
    Detached(DetachedWriter),
    Upgrade(UpgradeHandler),
}

/// Bytes as they were given: as `Bytes`, those of a `Vec` with spare room would take an allocation more.
pub(crate) enum InMemory {
    Shared(Bytes),
    Own(Vec<u8>),
}

impl InMemory {
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            InMemory::Shared(bytes) => bytes,
            InMemory::Own(bytes) => bytes.into(),
        }
    }
}

impl Deref for InMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            InMemory::Shared(bytes) => bytes,
            InMemory::Own(bytes) => bytes,
        }
    }
}

impl From<Bytes> for InMemory {
    fn from(bytes: Bytes) -> InMemory {
        InMemory::Shared(bytes)
    }
}

impl From<Vec<u8>> for InMemory {
    fn from(bytes: Vec<u8>) -> InMemory {
        InMemory::Own(bytes)
    }
}

impl BodyKind {
    /// The content of a temporary file, from its position on.
    pub(crate) fn spilled(spilled: SpillFile) -> BodyKind {
        let SpillFile { file, len, bytes, descriptor, .. } = spilled;
        BodyKind::File { file, left: len, share: Some(bytes), descriptor: Some(descriptor) }
    }
}

/// Logs why bytes of a client can't be kept in a temporary file. Returns the status for the client.
pub(crate) fn status_of_store(e: &StoreError) -> StatusCode {
    match e {
        StoreError::Full => {
            warn!("the limit of temporary bytes is reached: 503");
            StatusCode::SERVICE_UNAVAILABLE
        }
        StoreError::NoDescriptor => {
            warn!("no descriptor is left for a temporary file: 503");
            StatusCode::SERVICE_UNAVAILABLE
        }
        StoreError::Disk(e) => {
            error!("can't write a request body to a temporary file: {e}");
            StatusCode::INSUFFICIENT_STORAGE
        }
    }
}

/// Why a request's body can't be read to its end, inside an `io::Error`: a handler that passes the error on responds with
/// this status.
#[derive(Debug)]
pub(crate) struct BodyError {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
}

impl BodyError {
    /// The status for an error.
    pub(crate) fn status_of(e: &(dyn Error + 'static)) -> Option<StatusCode> {
        let inner = e.downcast_ref::<io::Error>()?.get_ref()?;
        inner.downcast_ref::<BodyError>().map(|unreadable| unreadable.status)
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)
    }
}

impl Error for BodyError {}

/// Writes a response on a thread of its own.
pub(crate) type DetachedWriter = Box<dyn FnOnce(&mut dyn DetachedOut) -> io::Result<()> + Send>;

/// Speaks another protocol on the connection, on a thread of its own.
pub(crate) type UpgradeHandler = Box<dyn FnOnce(Upgraded) + Send>;

impl Body {
    /// A body without bytes.
    pub const fn empty() -> Body {
        Body::of(BodyKind::Empty)
    }

    /// A response of unknown length, read from `source` until it ends. `source` is read on a worker and may block it; while
    /// the client is slow to receive what was read, no worker waits.
    pub fn from_reader(source: impl Read + Send + 'static) -> Body {
        Body::of(BodyKind::Source { source: Box::new(source), left: None })
    }

    /// As [`Body::from_reader`], with a length that is announced to the client. If `source` ends
    /// early the connection is cut, so that the client notices.
    pub fn from_sized_reader(source: impl Read + Send + 'static, len: u64) -> Body {
        Body::of(BodyKind::Source { source: Box::new(source), left: Some(len) })
    }

    /// The next `len` bytes of `file`, from its position. They are sent by `sendfile` where possible. If the file ends early
    /// the connection is cut, so that the client notices.
    pub fn from_file(file: File, len: u64) -> Body {
        Body::of(BodyKind::File { file, left: len, share: None, descriptor: None })
    }

    /// As [`Body::from_file`], for a file whose descriptor is counted already.
    #[cfg(feature = "files")]
    pub(crate) fn counted_file(file: File, len: u64, descriptor: Option<Share>) -> Body {
        Body::of(BodyKind::File { file, left: len, share: None, descriptor })
    }

    /// A response of unknown length, in chunks from `chunks`. A worker takes the next chunk whenever the client has received
    /// the last one. An error cuts the response, so that the client notices.
    ///
    /// At an empty chunk the worker first serves other waiting connections, then takes the next chunk. A chunk of some KiB
    /// costs an allocation and a copy; chunks of a few bytes cost more than their bytes.
    ///
    /// ```
    /// use heirloom::prelude::*;
    ///
    /// fn table(_: Request) -> Body {
    ///     let row = |n: u64| format!("{n},{}\n", n * n);
    ///     let chunk = move |of: u64| Ok((of * 500 + 1..=of * 500 + 500).map(row).collect::<String>());
    ///     Body::from_chunks((0..20).map(chunk))
    /// }
    /// let mut response = Router::new().get("/", table).call(Request::default());
    /// assert!(response.body_mut().read_text().unwrap().ends_with("\n10000,100000000\n"));
    /// ```
    ///
    /// [`std::iter::from_fn`] makes an iterator of a closure.
    pub fn from_chunks<C: Into<Bytes>>(
        chunks: impl IntoIterator<Item = io::Result<C>, IntoIter: Send + 'static>,
    ) -> Body {
        Body::from_reader(Chunks { chunks: chunks.into_iter().fuse(), chunk: Bytes::new() })
    }

    /// A response written by `write` on a thread of its own, for long streams and for code that writes and may block: it
    /// holds no worker. (For server-sent events use [`sse::response`](crate::sse::response).)
    ///
    /// Each write is sent at once, as a chunk of its own, and waits for the client; `flush` does nothing. Put many small
    /// writes into a [`BufWriter`](std::io::BufWriter). Writes fail once the client has disconnected, or has read nothing
    /// for [`Timeouts::response_stall`](crate::Timeouts::response_stall). An error that `write` returns cuts the response,
    /// so that the client notices.
    ///
    /// `write` should end when the process drains: move a [`RequestExt::drain`](crate::RequestExt::drain) into it. Code that
    /// writes rarely can check [`RequestExt::client_watch`](crate::RequestExt::client_watch) for a disconnected client.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// use std::io::{BufWriter, Write};
    ///
    /// fn report(_: Request) -> Body {
    ///     Body::writer(|out| {
    ///         let mut out = BufWriter::new(out);
    ///         for n in 0..10_000 {
    ///             writeln!(out, "{n}")?;
    ///         }
    ///         out.flush()
    ///     })
    /// }
    /// # Router::new().get("/report", report).check().unwrap();
    /// ```
    ///
    /// At most [`Limits::detached_threads`](crate::Limits::detached_threads) run at once; above
    /// that the client gets 503.
    pub fn writer(write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static) -> Body {
        Body::detached(|mut out| write(&mut out))
    }

    /// A response written by `write`, which may leave this process.
    pub(crate) fn detached(
        write: impl FnOnce(&mut dyn DetachedOut) -> io::Result<()> + Send + 'static,
    ) -> Body {
        Body::of(BodyKind::Detached(Box::new(write)))
    }

    /// For a 101 response: after its head is sent, `speak` has the connection to itself, on a thread of its own, see
    /// [`Upgraded`]. The response must name the protocol in its `Upgrade` field; `Connection: upgrade` is added. With another
    /// status, or to an HTTP/1.0 client, it is a 500. (For WebSockets use the feature `websocket`.)
    ///
    /// At most [`Limits::detached_threads`](crate::Limits::detached_threads) run at once; above
    /// that the client gets 503.
    pub fn upgrade(speak: impl FnOnce(Upgraded) + Send + 'static) -> Body {
        Body::of(BodyKind::Upgrade(Box::new(speak)))
    }

    /// The number of remaining bytes, if known.
    pub fn len(&self) -> Option<u64> {
        match &self.kind {
            BodyKind::Empty => Some(0),
            BodyKind::Bytes(bytes) => Some(bytes.len() as u64),
            BodyKind::File { left, .. } => Some(*left),
            BodyKind::Source { left, .. } => *left,
            BodyKind::Detached(_) | BodyKind::Upgrade(_) => None,
        }
    }

    /// Whether it is certain that no byte remains.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// Reads the remaining bytes into memory.
    ///
    /// # Errors
    /// Those of the source: a temporary file that can't be read, a client that has disconnected or is too slow (streaming
    /// routes).
    pub fn read_bytes(&mut self) -> io::Result<Bytes> {
        if let BodyKind::Bytes(bytes) = &mut self.kind {
            return Ok(std::mem::replace(bytes, Bytes::new().into()).into_bytes());
        }
        let mut all = Vec::new();
        self.read_to_end(&mut all)?;
        Ok(all.into())
    }

    /// Reads the remaining bytes as a string.
    ///
    /// # Errors
    /// As [`Body::read_bytes`], and `InvalidData` if it is not UTF-8.
    pub fn read_text(&mut self) -> io::Result<String> {
        String::from_utf8(self.read_bytes()?.into()).map_err(|_| {
            let unreadable = BodyError { status: StatusCode::BAD_REQUEST, reason: "the body is not UTF-8" };
            io::Error::new(ErrorKind::InvalidData, unreadable)
        })
    }

    pub(crate) const fn of(kind: BodyKind) -> Body {
        Body { kind, received: None, routed: None, author: Author::Handler }
    }

    #[inline(always)]
    fn in_memory(bytes: InMemory) -> Body {
        Body::of(if bytes.is_empty() { BodyKind::Empty } else { BodyKind::Bytes(bytes) })
    }

    /// Sets the connection on which the request was received, and its head.
    #[inline(always)]
    pub(crate) fn set_received(&mut self, conn_info: Arc<ConnInfo>, head: Bytes) {
        self.received = Some(Received { conn_info, head });
    }

    /// A source of unknown length ends with an error after `limit` bytes, unless that is its end.
    pub(crate) fn bound(&mut self, limit: u64) {
        self.kind = match self.take_kind() {
            BodyKind::Source { source, left: None } => {
                BodyKind::Source { source: Box::new(Bounded { source, left: limit }), left: None }
            }
            other => other,
        };
    }

    /// None if no server has received the request.
    pub(crate) fn head(&self) -> Option<&Bytes> {
        self.received.as_ref().map(|received| &received.head)
    }

    pub(crate) fn conn_info(&self) -> Option<&Arc<ConnInfo>> {
        self.received.as_ref().map(|received| &received.conn_info)
    }

    /// Notes that the request matched a route without parameters: its path is the pattern, of which `prefix` bytes are the
    /// prefixes of nested routers. A path is at most as long as a `u16` can count.
    pub(crate) fn set_routed(&mut self, prefix: usize) {
        self.routed = u16::try_from(prefix).ok();
    }

    /// The bytes of the prefixes, if the path is the pattern of the route that matched.
    pub(crate) fn routed_prefix(&self) -> Option<usize> {
        self.routed.map(usize::from)
    }

    /// This body, marked as text of this crate, in place of which a server may send an error page.
    pub(crate) fn by(self, author: Author) -> Body {
        Body { author, ..self }
    }

    pub(crate) fn author(&self) -> Author {
        self.author
    }

    pub(crate) fn kind(&self) -> &BodyKind {
        &self.kind
    }

    pub(crate) fn take_kind(&mut self) -> BodyKind {
        std::mem::take(&mut self.kind)
    }

    pub(crate) fn kind_mut(&mut self) -> &mut BodyKind {
        &mut self.kind
    }
}

/// A source with a limit.
struct Bounded {
    source: Box<dyn Read + Send>,
    left: u64,
}

impl Read for Bounded {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buf)?;
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        let beyond = || BodyError { status, reason: "the body is longer than its limit" };
        let left = self.left.checked_sub(n as u64);
        self.left = left.ok_or_else(|| io::Error::new(ErrorKind::FileTooLarge, beyond()))?;
        Ok(n)
    }
}

/// A source of chunks.
struct Chunks<I> {
    chunks: Fuse<I>,
    /// The rest of the last chunk.
    chunk: Bytes,
}

impl<C: Into<Bytes>, I: Iterator<Item = io::Result<C>>> Read for Chunks<I> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() && !buf.is_empty() {
            let Some(next) = self.chunks.next() else { return Ok(0) };
            self.chunk = next?.into();
            if self.chunk.is_empty() {
                // An empty chunk: the next one is taken after a worker has served others.
                return Err(ErrorKind::Interrupted.into());
            }
        }
        (&mut self.chunk).reader().read(buf)
    }
}

impl Default for Body {
    fn default() -> Body {
        Body::empty()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::in_memory(bytes.into())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::in_memory(bytes.into())
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        text.into_bytes().into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Body {
        text.as_bytes().into()
    }
}

impl From<&'static [u8]> for Body {
    #[inline(always)]
    fn from(bytes: &'static [u8]) -> Body {
        Body::in_memory(Bytes::from_static(bytes).into())
    }
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = |left: u64| usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        match &mut self.kind {
            BodyKind::Empty => Ok(0),
            BodyKind::Bytes(InMemory::Shared(bytes)) => bytes.reader().read(buf),
            BodyKind::Bytes(_) => {
                let mut bytes = self.read_bytes()?;
                let n = (&mut bytes).reader().read(buf)?;
                self.kind = BodyKind::Bytes(bytes.into());
                Ok(n)
            }
            BodyKind::File { file, left, .. } => {
                let room = room(*left);
                let n = file.read(buf.get_mut(..room).unwrap_or_default())?;
                *left = left.saturating_sub(n as u64);
                Ok(n)
            }
            BodyKind::Source { source, left: None } => source.read(buf),
            BodyKind::Source { source, left: Some(left) } => {
                let room = room(*left);
                let n = source.read(buf.get_mut(..room).unwrap_or_default())?;
                *left = left.saturating_sub(n as u64);
                Ok(n)
            }
            BodyKind::Detached(_) | BodyKind::Upgrade(_) => {
                Err(io::Error::new(ErrorKind::Unsupported, "this body is a writer and can't be read"))
            }
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            BodyKind::Empty => "empty",
            BodyKind::Bytes(_) => "bytes",
            BodyKind::File { .. } => "file",
            BodyKind::Source { .. } => "source",
            BodyKind::Detached(_) => "detached",
            BodyKind::Upgrade(_) => "upgrade",
        };
        f.debug_struct("Body").field("kind", &kind).field("len", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    }

    #[test]
    fn every_readable_kind_gives_its_bytes_in_any_pieces() {
        let bodies: Vec<(Body, Option<u64>)> = vec![
            (Body::from("hello"), Some(5)),
            (Body::from(b"hello".to_vec()), Some(5)),
            (Body::from_file(file(b"hello, more"), 5), Some(5)),
            (Body::from_reader(&b"hello"[..]), None),
            (Body::from_sized_reader(&b"hello, more"[..], 5), Some(5)),
            (Body::from_chunks(["", "h", "ell", "", "o", ""].map(Ok)), None),
        ];
        for (mut body, len) in bodies {
            assert_eq!(body.len(), len);
            let mut first = [0; 2];
            body.read_exact(&mut first).unwrap();
            assert_eq!(&first, b"he");
            assert_eq!(body.read_text().unwrap(), "llo");
            assert_eq!(body.read_bytes().unwrap(), "", "read twice");
        }
    }

    #[test]
    fn a_body_that_is_written_can_not_be_read() {
        assert!(Body::writer(|_| Ok(())).read_bytes().is_err());
        assert!(Body::upgrade(|_| ()).read_bytes().is_err());
    }
}
