//! Handlers written for `tiny_http`, with the whole lifecycle: an in-process `tiny_http::Server` on a
//! private unix socket, to which workers pass requests, one persistent connection for each.
//!
//! Connections to it are made one at a time, and each is tested by a request that is answered here: in a burst some would
//! wait indefinitely behind others that are kept, since tiny_http's own pool counts a thread that was woken and does
//! not run yet as free.
//!
//! A response is collected before it is passed on. So its connection is free at once, there are as many of them as
//! workers, however slow clients are, and a response that breaks is a 502, not half a 200.

use std::fmt;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ::tiny_http::{Response as TinyResponse, Server as TinyServer};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::stat::Mode;
use tempfile::{SpooledData, SpooledTempFile, TempDir};

use crate::base::contain_panic::{contain_drop, panic_text};
use crate::base::limits::Limits;
use crate::base::log::{error, warn};
use crate::base::sync::lock;
use crate::base::time::poll_timeout;
use crate::http::codec::framing::content_length;
use crate::http::codec::{Decoder, Framing, encode};
use crate::net::stream::{Peek, Stream};
use crate::web::handler::{Handler, Routes, Seal};
use crate::web::request::RequestExt;
use crate::web::response::IntoResponse;
use crate::{Body, Request, Response};

/// How long the test request of a new connection may take.
const PROBE: Duration = Duration::from_secs(5);
/// A response's head.
const HEAD_BYTES: usize = 64 << 10;
const HEAD_FIELDS: usize = 128;
/// Bytes of a response in memory; a longer one is collected in an unlinked file.
const MEMORY_BYTES: usize = 64 << 10;
/// The largest response: an endless one must not fill the disk.
const RESPONSE_BYTES: u64 = 4 << 30;
const PIECE: usize = 64 << 10;
/// The field with the client's address, because tiny_http sees a unix socket.
const PEER: &str = "heirloom-peer";

/// Fields that belong to the connection and not to the request (RFC 9110 §7.6.1), and framing, which is decided anew. The
/// client has already received its 100.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    PEER,
];

/// A handler that takes an ordinary `tiny_http::Request`.
///
/// ```
/// use heirloom::{Handler, TinyHttp};
/// use heirloom::prelude::*;
/// # // needs the crate tiny_http: the handler is written for it
///
/// let handler = TinyHttp::new(|request| {
///     let text = format!("you asked for {}\n", request.url());
///     let _ = request.respond(tiny_http::Response::from_string(text));
/// });
/// let mut response = handler.call(http::Request::get("/x").body(Body::empty()).unwrap());
/// assert_eq!(response.body_mut().read_text().unwrap(), "you asked for /x\n");
/// ```
///
/// It runs on a dedicated thread for each worker, may block, and answers by `respond`. A request that is dropped, or whose
/// handler panics, gets a 500, as with tiny_http itself. The request body is complete when the handler runs, unless the
/// route is [`streaming`](crate::streaming). A response is collected in memory or in an unlinked temporary file before it
/// is sent, so a slow client does not hold the handler.
///
/// Not supported: `upgrade`, `into_writer` with anything except one complete response, responses above 4 GiB
/// (502), and `remote_addr`, which is None: use [`TinyHttp::peer_addr`].
pub struct TinyHttp {
    handler: UserHandler,
    idle: Mutex<Vec<ServerLink>>,
    /// The server that links are made to, one at a time.
    server: Mutex<Option<Arc<PrivateServer>>>,
}

impl fmt::Debug for TinyHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TinyHttp").finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct UserHandler(Arc<dyn Fn(::tiny_http::Request) + Send + Sync>);

impl TinyHttp {
    /// Makes a handler of heirloom from a handler of tiny_http. The `tiny_http::Server` behind it is started when a
    /// [`Server`](crate::Server) starts, or by the first request.
    pub fn new(handler: impl Fn(::tiny_http::Request) + Send + Sync + 'static) -> TinyHttp {
        TinyHttp { handler: UserHandler(Arc::new(handler)), idle: Mutex::default(), server: Mutex::default() }
    }

    /// The address of the client, from a header field that the server adds, because tiny_http sees a unix socket. None if
    /// the client's connection is a unix socket. If a client sends a field of that name, it is removed.
    pub fn peer_addr(request: &::tiny_http::Request) -> Option<SocketAddr> {
        let field =
            request.headers().iter().find(|header| header.field.as_str().as_str().eq_ignore_ascii_case(PEER));
        field?.value.as_str().parse().ok()
    }

    fn exchange(&self, request: Request) -> io::Result<Response> {
        let mut link = self.link()?;
        let method = request.method().clone();
        let answer = link.exchange(ForwardedRequest::new(request), &method)?;
        lock(&self.idle).push(link);
        answer.into_response()
    }

    /// An idle link that still works.
    fn link(&self) -> io::Result<ServerLink> {
        loop {
            let idle = lock(&self.idle).pop();
            match idle {
                Some(link) if link.stream.peek() == Peek::Nothing => return Ok(link),
                Some(_) => warn!("tiny_http closed its connection: opening another"),
                None => return self.connect(),
            }
        }
    }

    fn connect(&self) -> io::Result<ServerLink> {
        let mut server = lock(&self.server);
        if let Some(open) = &*server {
            match open.connect() {
                Ok(link) => return Ok(link),
                Err(e) => warn!("tiny_http no longer accepts connections: {e}: restarting it"),
            }
        }
        let open = PrivateServer::open(self.handler.clone())?;
        let link = open.connect()?;
        *server = Some(open);
        Ok(link)
    }
}

impl Handler for TinyHttp {
    fn call(&self, request: Request) -> Response {
        let what = format!("{} {}", request.method(), request.uri().path());
        self.exchange(request).unwrap_or_else(|e| {
            error!("{what}: no answer from tiny_http: {e}");
            (StatusCode::BAD_GATEWAY, "no answer\n").into_response()
        })
    }

    fn routes(&self, _: Seal) -> Option<&dyn Routes> {
        Some(self)
    }
}

impl Routes for TinyHttp {
    fn verify(&self) -> Result<(), String> {
        let link = self.link().map_err(|e| format!("tiny_http can't be started: {e}"))?;
        lock(&self.idle).push(link);
        Ok(())
    }
}

/// A `tiny_http::Server` that no other process can reach.
///
/// Its socket is bound in a private directory and opened by `O_PATH`; then the directory is removed, and connections are made
/// by `/proc/self/fd`. So no other user can connect to it, and nothing is left behind, however the process ends. Any user
/// of the host could see an abstract name and connect to it.
struct PrivateServer {
    handler: UserHandler,
    /// A target that no client can know.
    probe: String,
    counts: Mutex<Counts>,
    // Dropped in this order: the server first, which then waits for one more connection.
    server: TinyServer,
    socket: SocketFile,
}

#[derive(Default)]
struct Counts {
    links: usize,
    /// As many as links, so that no request on a link waits for a thread.
    threads: usize,
    ever: usize,
}

/// The socket's file, after its name was removed.
struct SocketFile(OwnedFd);

impl SocketFile {
    fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // tiny_http's accept checks at the next connection whether it should end.
        let _ = self.connect();
    }
}

impl PrivateServer {
    fn open(handler: UserHandler) -> io::Result<Arc<PrivateServer>> {
        // Mode 0700, and removed when this returns.
        let folder = tempfile::tempdir()?;
        let listener = UnixListener::bind(folder.path().join("socket"))?;
        PrivateServer::on(listener, &folder, handler)
    }

    fn on(listener: UnixListener, folder: &TempDir, handler: UserHandler) -> io::Result<Arc<PrivateServer>> {
        let path = folder.path().join("socket");
        let socket = SocketFile(open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?);
        let probe = format!("{}", folder.path().display());
        let server = TinyServer::from_listener(listener, None).map_err(io::Error::other)?;
        Ok(Arc::new(PrivateServer { handler, probe, counts: Mutex::default(), server, socket }))
    }

    /// A new link that has answered a test request. Only one is made at a time.
    fn connect(self: &Arc<PrivateServer>) -> io::Result<ServerLink> {
        let stream = Stream::Unix(Arc::new(self.socket.connect()?));
        let mut link = ServerLink { stream, server: Arc::clone(self) };
        self.enter()?;
        let Stream::Unix(stream) = &link.stream else { return Err(ErrorKind::Unsupported.into()) };
        stream.set_nonblocking(true)?;
        let mut probe =
            ForwardedRequest::of(format!("HEAD {} HTTP/1.1\r\nHost: probe\r\n\r\n", self.probe).into_bytes());
        let answer = link.converse(&mut probe, &Method::HEAD, Some(Instant::now() + PROBE))?;
        match answer.head {
            Some((StatusCode::NO_CONTENT, ..)) => Ok(link),
            _ => Err(io::Error::new(ErrorKind::InvalidData, "not the expected response")),
        }
    }

    /// Counts a link, and starts its thread. The link is counted until it is dropped.
    fn enter(self: &Arc<PrivateServer>) -> io::Result<()> {
        let mut counts = lock(&self.counts);
        counts.links = counts.links.saturating_add(1);
        if counts.threads >= counts.links {
            return Ok(());
        }
        counts.ever = counts.ever.wrapping_add(1);
        let (name, server) = (format!("heirloom-tiny-{}", counts.ever), Arc::clone(self));
        thread::Builder::new().name(name).spawn(move || server.work())?;
        counts.threads = counts.threads.saturating_add(1);
        Ok(())
    }

    fn leave(&self) {
        let mut counts = lock(&self.counts);
        counts.links = counts.links.saturating_sub(1);
        drop(counts);
        // One of the threads sees it.
        self.server.unblock();
    }

    fn work(&self) {
        loop {
            // An error is a call to look around, or the end of its accepting: links go on.
            if let Ok(request) = self.server.recv() {
                if request.url() == self.probe {
                    let _ = request.respond(TinyResponse::empty(204));
                } else if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.handler.0)(request))) {
                    // The request was dropped on the way, and so answered.
                    error!("500: a handler for tiny_http panicked: {}", panic_text(&*panic));
                    contain_drop(panic);
                }
            }
            let mut counts = lock(&self.counts);
            if counts.threads > counts.links {
                counts.threads = counts.threads.saturating_sub(1);
                return;
            }
        }
    }
}

/// A connection to the server: one exchange at a time.
struct ServerLink {
    stream: Stream,
    server: Arc<PrivateServer>,
}

impl Drop for ServerLink {
    fn drop(&mut self) {
        self.server.leave();
    }
}

impl ServerLink {
    fn exchange(&mut self, mut out: ForwardedRequest, method: &Method) -> io::Result<CollectedResponse> {
        self.converse(&mut out, method, None)
    }

    /// Sends and receives at once: the handler may answer before it has read, or instead.
    fn converse(
        &mut self,
        out: &mut ForwardedRequest,
        method: &Method,
        deadline: Option<Instant>,
    ) -> io::Result<CollectedResponse> {
        let mut answer = CollectedResponse::new(method);
        let mut buf = [0; 16 << 10];
        loop {
            let waits_to_send = self.send(out)?;
            match self.stream.read(&mut buf) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => answer.take(buf.get(..n).unwrap_or_default())?,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if answer.is_done() && out.is_done() {
                        return Ok(answer);
                    }
                    let flags = if waits_to_send {
                        PollFlags::POLLIN | PollFlags::POLLOUT
                    } else {
                        PollFlags::POLLIN
                    };
                    self.wait(flags, deadline)?;
                }
                Err(e) => return Err(e),
            }
            if answer.is_done() && out.is_done() {
                return Ok(answer);
            }
        }
    }

    /// True if there is more than the socket accepts now.
    fn send(&self, out: &mut ForwardedRequest) -> io::Result<bool> {
        while let Some(bytes) = out.next()? {
            match self.stream.write(bytes) {
                Ok(n) => out.at = out.at.saturating_add(n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    fn wait(&self, flags: PollFlags, deadline: Option<Instant>) -> io::Result<()> {
        match poll(&mut [PollFd::new(self.stream.as_fd(), flags)], poll_timeout(deadline)) {
            Ok(0) => Err(ErrorKind::TimedOut.into()),
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// A request while it is sent.
struct ForwardedRequest {
    bytes: Vec<u8>,
    at: usize,
    /// The body, and whether it is sent in chunks.
    body: Option<Body>,
    chunked: bool,
}

impl ForwardedRequest {
    fn of(bytes: Vec<u8>) -> ForwardedRequest {
        ForwardedRequest { bytes, at: 0, body: None, chunked: false }
    }

    /// In strict form, because tiny_http misreads a head that is not.
    fn new(request: Request) -> ForwardedRequest {
        let peer = request.peer_addr();
        let (head, body) = request.into_parts();
        let mut bytes = Vec::with_capacity(1024);
        bytes.extend_from_slice(head.method.as_str().as_bytes());
        bytes.push(b' ');
        let target = head.uri.path_and_query().map_or("*", |target| target.as_str());
        for byte in target.bytes() {
            if byte.is_ascii_graphic() {
                bytes.push(byte);
            } else {
                bytes.extend_from_slice(format!("%{byte:02X}").as_bytes());
            }
        }
        bytes.extend_from_slice(b" HTTP/1.1\r\n");
        let mut field = |name: &HeaderName, value: &[u8]| {
            encode::field_name(&mut bytes, name);
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        };
        for (name, value) in &head.headers {
            if HOP_BY_HOP.contains(&name.as_str()) {
                continue;
            }
            // It closes the connection on anything but ASCII, and what else is in the value is not to be lost.
            match value.as_bytes() {
                ascii if ascii.is_ascii() => field(name, ascii),
                bytes => {
                    let shown = |&b: &u8| if b.is_ascii() { b } else { b'?' };
                    field(name, &bytes.iter().map(shown).collect::<Vec<u8>>());
                }
            }
        }
        if let Some(peer) = peer {
            field(&HeaderName::from_static(PEER), peer.to_string().as_bytes());
        }
        let chunked = body.len().is_none();
        match body.len() {
            None => field(&http::header::TRANSFER_ENCODING, b"chunked"),
            Some(0) if matches!(head.method, Method::GET | Method::HEAD) => {}
            Some(len) => field(&http::header::CONTENT_LENGTH, len.to_string().as_bytes()),
        }
        bytes.extend_from_slice(b"\r\n");
        let body = (body.len() != Some(0)).then_some(body);
        ForwardedRequest { bytes, at: 0, body, chunked }
    }

    fn is_done(&self) -> bool {
        self.at >= self.bytes.len() && self.body.is_none()
    }

    /// What is to be sent next; None when everything was sent.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if self.at >= self.bytes.len() {
            let Some(body) = &mut self.body else { return Ok(None) };
            let mut piece = vec![0; PIECE];
            let n = body.read(&mut piece)?;
            piece.truncate(n);
            self.at = 0;
            self.bytes.clear();
            match (n, self.chunked) {
                (0, true) => self.bytes.extend_from_slice(encode::LAST_CHUNK),
                (_, true) => encode::chunk(&mut self.bytes, &piece),
                (_, false) => self.bytes = piece,
            }
            if n == 0 {
                self.body = None;
            }
        }
        Ok(self.bytes.get(self.at..).filter(|rest| !rest.is_empty()))
    }
}

/// A response, as far as it has been received.
struct CollectedResponse {
    without_body: bool,
    raw: Vec<u8>,
    head: Option<(StatusCode, HeaderMap, Decoder)>,
    body: SpooledTempFile,
    len: u64,
}

impl CollectedResponse {
    fn new(method: &Method) -> CollectedResponse {
        CollectedResponse {
            without_body: *method == Method::HEAD,
            raw: Vec::new(),
            head: None,
            body: SpooledTempFile::new(MEMORY_BYTES),
            len: 0,
        }
    }

    fn is_done(&self) -> bool {
        self.head.as_ref().is_some_and(|(_, _, decoder)| decoder.is_done())
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.head.is_some() {
            return self.take_body(bytes);
        }
        self.raw.extend_from_slice(bytes);
        let raw = std::mem::take(&mut self.raw);
        let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS];
        let mut head = httparse::Response::new(&mut fields);
        match head.parse(&raw).map_err(|e| invalid(format!("not a response: {e}")))? {
            httparse::Status::Partial if raw.len() > HEAD_BYTES => Err(invalid("a head without an end")),
            httparse::Status::Partial => {
                self.raw = raw;
                Ok(())
            }
            httparse::Status::Complete(len) => {
                self.head = Some(self.understand(&head)?);
                self.take_body(raw.get(len..).unwrap_or_default())
            }
        }
    }

    fn understand(&self, head: &httparse::Response<'_, '_>) -> io::Result<(StatusCode, HeaderMap, Decoder)> {
        let status = head.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or_else(|| invalid("an invalid status"))?;
        if status.is_informational() {
            return Err(invalid("another protocol can't be passed on"));
        }
        let mut headers = HeaderMap::new();
        for field in head.headers.iter() {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_bytes(field.value))
            {
                headers.append(name, value);
            }
        }
        let length = headers.get(http::header::CONTENT_LENGTH).map(|v| content_length(v.as_bytes()));
        let framing = if self.without_body || matches!(status.as_u16(), 204 | 304) {
            Framing::None
        } else if headers.contains_key(http::header::TRANSFER_ENCODING) {
            Framing::Chunked
        } else {
            let length = length.ok_or_else(|| invalid("a response without a known length"))?;
            Framing::Length(length.ok_or_else(|| invalid("an invalid length"))?)
        };
        for name in HOP_BY_HOP.into_iter().filter(|name| *name != "content-length") {
            headers.remove(name);
        }
        Ok((status, headers, Decoder::new(framing, &Limits::default())))
    }

    fn take_body(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Some((_, _, decoder)) = &mut self.head else { return Ok(()) };
        while !bytes.is_empty() && !decoder.is_done() {
            let decoded = decoder.decode(bytes).map_err(|e| invalid(e.reason))?;
            let data = bytes.get(decoded.data).unwrap_or_default();
            self.len = self.len.saturating_add(data.len() as u64);
            if self.len > RESPONSE_BYTES {
                return Err(invalid("a response without an end"));
            }
            self.body.write_all(data)?;
            bytes = bytes.get(decoded.consumed..).unwrap_or_default();
        }
        // One request, one response.
        if bytes.is_empty() { Ok(()) } else { Err(invalid("more than one response")) }
    }

    fn into_response(self) -> io::Result<Response> {
        let Some((status, headers, _)) = self.head else { return Err(ErrorKind::UnexpectedEof.into()) };
        let body = match self.body.into_inner() {
            SpooledData::InMemory(bytes) => Body::from(bytes.into_inner()),
            SpooledData::OnDisk(mut file) => {
                file.rewind()?;
                Body::from_file(file, self.len)
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use socket2::SockRef;

    use super::*;

    fn url_of(request: ::tiny_http::Request) {
        let text = request.url().to_owned();
        request.respond(TinyResponse::from_string(text)).unwrap();
    }

    #[track_caller]
    fn answers(tiny: &TinyHttp) {
        let mut response = tiny.call(http::Request::get("/x").body(Body::empty()).unwrap());
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.body_mut().read_text().unwrap(), "/x");
    }

    #[test]
    fn a_connection_that_breaks_is_replaced() {
        let tiny = TinyHttp::new(url_of);
        for _ in 0..5 {
            answers(&tiny);
            assert_eq!(lock(&tiny.idle).len(), 1, "it is kept");
            lock(&tiny.idle)[0].stream.shutdown();
        }
        answers(&tiny);
        let server = lock(&tiny.server).clone().unwrap();
        assert_eq!(lock(&server.counts).links, 1);
    }

    #[test]
    fn a_server_that_accepts_no_more_is_replaced() {
        let tiny = TinyHttp::new(url_of);
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let accepting = listener.try_clone().unwrap();
        let first = PrivateServer::on(listener, &folder, tiny.handler.clone()).unwrap();
        *lock(&tiny.server) = Some(Arc::clone(&first));
        answers(&tiny);
        // As after one accept error: its thread ends, and the process goes on.
        SockRef::from(&accepting).shutdown(Shutdown::Both).unwrap();
        answers(&tiny);
        lock(&tiny.idle).clear();
        answers(&tiny);
        let second = lock(&tiny.server).clone().unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!((lock(&first.counts).links, lock(&second.counts).links), (0, 1));
    }

    #[test]
    fn heads_are_strict_whatever_the_client_sent() {
        let head = |request: http::request::Builder, body: Body| {
            let outgoing = ForwardedRequest::new(request.body(body).unwrap());
            String::from_utf8(outgoing.bytes).unwrap()
        };
        let get = http::Request::get("http://host:80/a%20b?c=d")
            .header("host", "host")
            .header("connection", "close, x")
            .header("upgrade", "websocket")
            .header("expect", "100-continue")
            .header("content-length", "7")
            .header("heirloom-peer", "1.2.3.4:5")
            .header("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap())
            .header("cookie", HeaderValue::from_bytes(b"name=Zo\xc3\xab; session=abc").unwrap())
            .header("x-kept", "a b");
        let fields = "Host: host\r\nX-Latin: caf?\r\nCookie: name=Zo??; session=abc\r\nX-Kept: a b\r\n";
        assert_eq!(head(get, Body::empty()), format!("GET /a%20b?c=d HTTP/1.1\r\n{fields}\r\n"));
        let post = http::Request::post("/");
        assert_eq!(head(post, Body::empty()), "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
        let post = http::Request::post("/");
        assert_eq!(head(post, Body::from("abc")), "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n");
        let put = http::Request::put("/");
        let chunked = head(put, Body::from_reader(io::empty()));
        assert_eq!(chunked, "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        let options = http::Request::options("*");
        assert_eq!(head(options, Body::empty()), "OPTIONS * HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
    }

    #[test]
    fn answers_come_in_any_pieces_and_end_where_they_say() {
        type Case<'t> = (&'t str, Method, Option<(u16, &'t str)>);
        let table: &[Case<'_>] = &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Method::GET, Some((200, "abc"))),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                Method::GET,
                Some((200, "abc")),
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::HEAD, Some((200, ""))),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", Method::GET, Some((304, ""))),
            ("HTTP/1.1 204 No Content\r\n\r\n", Method::GET, Some((204, ""))),
            ("HTTP/1.1 200 OK\r\n\r\nabc", Method::GET, None),
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc", Method::GET, None),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc", Method::GET, None),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Method::GET, None),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Method::GET, None),
            ("nonsense\r\n\r\n", Method::GET, None),
        ];
        for (text, method, expected) in table {
            for size in 1..=text.len() {
                let mut answer = CollectedResponse::new(method);
                let taken = text.as_bytes().chunks(size).try_for_each(|piece| answer.take(piece));
                assert_eq!(taken.is_ok(), expected.is_some(), "{text:?} in pieces of {size}: {taken:?}");
                let Some((status, body)) = expected else { continue };
                assert!(answer.is_done(), "{text:?}");
                let mut response = answer.into_response().unwrap();
                assert_eq!(response.status().as_u16(), *status);
                assert_eq!(response.body_mut().read_text().unwrap(), *body);
            }
        }
    }
}
