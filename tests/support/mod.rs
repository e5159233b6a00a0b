//! What the wire tests share: a client that sends raw bytes and distinguishes FIN from RST, a server with a route for each case,
//! and functions that wait for an event.

#![allow(dead_code, reason = "each test crate uses its own part")]

pub(crate) mod skip;
pub(crate) mod tables;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use heirloom::prelude::*;
use heirloom::upgrade::Upgraded;
use heirloom::{CloseReason, RunningServer, Stats};
use socket2::{Domain, SockRef, Socket, Type};

/// After which something is not slow but broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Lets time pass where only time can be waited for.
pub(crate) fn let_pass(time: Duration) {
    let (_held, silent) = mpsc::channel::<()>();
    let _ = silent.recv_timeout(time);
}

/// Polls for a condition without an event.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        let_pass(Duration::from_millis(2));
    }
}

pub(crate) fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::Builder::new().name("client".into()).spawn(f).unwrap()
}

/// After so many bytes the pattern repeats.
const PERIOD: usize = 23;

/// Bytes that show their place, so that lost, doubled and swapped pieces are found.
pub(crate) fn pattern(at: u64) -> u8 {
    b'a' + (at % PERIOD as u64) as u8
}

/// Copied: computed byte by byte, megabytes take seconds in a debug build for a small processor.
pub(crate) fn patterned(len: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..PERIOD as u64).map(pattern).collect();
    let mut bytes = period.repeat(len.div_ceil(PERIOD));
    bytes.truncate(len);
    bytes
}

#[track_caller]
pub(crate) fn assert_patterned(body: &[u8], len: usize) {
    assert_eq!(body.len(), len, "length");
    if body != patterned(len) {
        let wrong = body.iter().enumerate().find(|(at, byte)| **byte != pattern(*at as u64));
        panic!("byte out of place: {wrong:?}");
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Reset,
}

/// A response as the client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailing: How,
}

/// How the end of the body was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    NoBody,
    Length,
    Chunked,
    Close,
    /// The connection ended before the body.
    Cut(End),
}

impl Reply {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "repeated {name}: {self:?}");
        value
    }

    pub(crate) fn closes(&self) -> bool {
        self.field("connection").is_some_and(|value| value.split(", ").any(|option| option == "close"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Status and body, as the tables write it.
    pub(crate) fn said(&self) -> String {
        format!("{} {}", self.status, self.text()).trim_end().to_owned()
    }

    /// Without its date.
    pub(crate) fn timeless(mut self) -> Reply {
        self.fields.retain(|(name, _)| name != "Date");
        self
    }
}

/// A client that sends exactly the given bytes.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
    end: Option<End>,
}

impl Client {
    pub(crate) fn to(address: SocketAddr) -> Client {
        Client::over(TcpStream::connect(address).unwrap())
    }

    /// With a receive buffer that makes the server wait early.
    pub(crate) fn narrow(address: SocketAddr) -> Client {
        Client::with_buffer(address, 4 << 10)
    }

    pub(crate) fn with_buffer(address: SocketAddr, bytes: usize) -> Client {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        socket.connect(&address.into()).unwrap();
        Client::over(socket.into())
    }

    fn over(stream: TcpStream) -> Client {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Client { stream, unread: Vec::new(), end: None }
    }

    /// The same connection, for another thread to write.
    pub(crate) fn twin(&self) -> Client {
        Client::over(self.stream.try_clone().unwrap())
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// The possible ends for a client whose server has sent everything and closes.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    #[track_caller]
    pub(crate) fn send_bytewise(&mut self, bytes: impl AsRef<[u8]>) {
        bytes.as_ref().iter().for_each(|byte| self.send([*byte]));
    }

    /// Sends it again and again, until nothing more is taken for a second, or `most` is sent; how much
    /// was.
    pub(crate) fn send_until_blocked(&mut self, bytes: &[u8], most: usize) -> usize {
        self.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut sent = 0;
        while sent < most {
            match self.stream.write(&bytes[sent % bytes.len()..]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("after {sent} bytes: {e}"),
            }
        }
        self.stream.set_write_timeout(Some(DEADLINE)).unwrap();
        sent
    }

    pub(crate) fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Ends the connection by a reset.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads until `f` finds what it wants, or the connection ends.
    #[track_caller]
    fn until<T>(&mut self, mut f: impl FnMut(&mut Vec<u8>) -> Option<T>) -> Result<T, End> {
        let mut piece = vec![0; 64 << 10];
        loop {
            if let Some(found) = f(&mut self.unread) {
                return Ok(found);
            }
            if let Some(end) = self.end {
                return Err(end);
            }
            match self.stream.read(&mut piece) {
                Ok(0) => self.end = Some(End::Fin),
                Ok(n) => self.unread.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == ErrorKind::ConnectionReset => self.end = Some(End::Reset),
                Err(e) => panic!("after {:?}: {e}", String::from_utf8_lossy(&self.unread)),
            }
        }
    }

    /// Exactly `n` bytes.
    #[track_caller]
    pub(crate) fn take(&mut self, n: usize) -> Vec<u8> {
        let taken = self.until(|unread| (unread.len() >= n).then(|| unread.drain(..n).collect()));
        taken.unwrap_or_else(|end| panic!("{end:?} after {:?}", String::from_utf8_lossy(&self.unread)))
    }

    /// A byte, or how it ended.
    pub(crate) fn try_take(&mut self) -> Result<u8, End> {
        self.until(|unread| (!unread.is_empty()).then(|| unread.remove(0)))
    }

    /// Reads at least one byte and up to `n`, without reading ahead.
    #[track_caller]
    pub(crate) fn sip(&mut self, n: usize) -> usize {
        let mut piece = vec![0; n];
        let n = self.stream.read(&mut piece).unwrap();
        assert!(n > 0, "cut after {} bytes", self.unread.len());
        self.unread.extend_from_slice(&piece[..n]);
        n
    }

    #[track_caller]
    fn line(&mut self) -> Result<String, End> {
        self.until(|unread| {
            let at = unread.windows(2).position(|two| two == b"\r\n")?;
            let line: Vec<u8> = unread.drain(..at + 2).collect();
            Some(String::from_utf8(line[..at].to_vec()).unwrap())
        })
    }

    /// The next response, an interim one too, to a request with this method.
    #[track_caller]
    pub(crate) fn reply_to(&mut self, method: &str) -> Reply {
        self.try_reply_to(method).unwrap_or_else(|end| {
            panic!("{end:?} instead of a response, after {:?}", String::from_utf8_lossy(&self.unread))
        })
    }

    #[track_caller]
    pub(crate) fn reply(&mut self) -> Reply {
        self.reply_to("GET")
    }

    #[track_caller]
    pub(crate) fn try_reply_to(&mut self, method: &str) -> Result<Reply, End> {
        let line = self.line()?;
        let rest = line.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("status line {line:?}"));
        let (status, _reason) = rest.split_once(' ').unwrap_or_else(|| panic!("status line {line:?}"));
        let status: u16 = status.parse().unwrap();
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("field line {line:?}"));
            fields.push((name.to_owned(), value.to_owned()));
        }
        let mut reply = Reply { status, fields, body: Vec::new(), trailing: How::NoBody };
        let chunked = reply.field("transfer-encoding").map(|value| assert_eq!(value, "chunked")).is_some();
        let length: Option<usize> = reply.field("content-length").map(|value| value.parse().unwrap());
        assert!(!(chunked && length.is_some()), "framed twice: {reply:?}");
        let date =
            reply.field("date").map(|date| date.len() == 29 && httpdate::parse_http_date(date).is_ok());
        assert!(date.unwrap_or(status < 200), "Date: {reply:?}");
        if method == "HEAD" || status < 200 || matches!(status, 204 | 304) {
            return Ok(reply);
        }
        reply.trailing = if chunked {
            self.chunked(&mut reply.body)
        } else if let Some(length) = length {
            self.exactly(&mut reply.body, length).map_or_else(How::Cut, |()| How::Length)
        } else {
            match self.until(|_| None::<()>) {
                Err(End::Reset) => How::Cut(End::Reset),
                _ => {
                    reply.body = std::mem::take(&mut self.unread);
                    How::Close
                }
            }
        };
        Ok(reply)
    }

    #[track_caller]
    fn chunked(&mut self, body: &mut Vec<u8>) -> How {
        loop {
            let size = match self.line() {
                Ok(line) => {
                    usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("chunk size {line:?}"))
                }
                Err(end) => return How::Cut(end),
            };
            if let Err(end) = self.exactly(body, size) {
                return How::Cut(end);
            }
            match self.line() {
                Ok(line) => assert_eq!(line, "", "after a chunk"),
                Err(end) => return How::Cut(end),
            }
            if size == 0 {
                return How::Chunked;
            }
        }
    }

    #[track_caller]
    fn exactly(&mut self, body: &mut Vec<u8>, mut left: usize) -> Result<(), End> {
        self.until(|unread| {
            let n = left.min(unread.len());
            // A test that is slow here is a client that does not read.
            body.extend_from_slice(&unread[..n]);
            unread.drain(..n);
            left -= n;
            (left == 0).then_some(())
        })
    }

    /// How the server ends it; anything more that it says is a failure.
    #[track_caller]
    pub(crate) fn end(&mut self) -> End {
        let said = self.until(|unread| (!unread.is_empty()).then(|| unread.clone()));
        match said {
            Err(end) => end,
            Ok(said) => panic!("more was said: {:?}", String::from_utf8_lossy(&said)),
        }
    }

    #[track_caller]
    pub(crate) fn expect_fin(&mut self) {
        assert_eq!(self.end(), End::Fin);
    }

    /// Expects that nothing arrives and the connection stays open.
    #[track_caller]
    pub(crate) fn expect_silence(&mut self) {
        self.stream.set_nonblocking(true).unwrap();
        let read = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        assert!(
            self.unread.is_empty() && read.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock),
            "{read:?} {:?}",
            String::from_utf8_lossy(&self.unread)
        );
    }

    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> Reply {
        self.send(get(path));
        self.reply()
    }

    /// The connection serves a further request.
    #[track_caller]
    pub(crate) fn expect_kept(&mut self) {
        let reply = self.get("/");
        assert_eq!((reply.said().as_str(), reply.closes()), ("200 Hello, World!", false));
    }
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

pub(crate) fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

pub(crate) fn post_chunked(path: &str, chunks: &[&[u8]]) -> Vec<u8> {
    let mut out =
        format!("POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for chunk in chunks {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// Holds handlers until it is opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    shared: Arc<(Mutex<(usize, bool)>, Condvar)>,
}

impl Gate {
    /// In a handler: waits until the gate is open.
    pub(crate) fn pass(&self) {
        let (lock, changed) = &*self.shared;
        let mut state = lock.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        changed.notify_all();
        let _open = changed.wait_timeout_while(state, 3 * DEADLINE, |state| !state.1);
    }

    /// Waits until `n` requests have reached the gate.
    #[track_caller]
    pub(crate) fn wait_for(&self, n: usize) {
        let (lock, changed) = &*self.shared;
        let state = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, wait) = changed.wait_timeout_while(state, DEADLINE, |state| state.0 < n).unwrap();
        assert!(!wait.timed_out(), "{} of {n} at the gate", state.0);
    }

    pub(crate) fn came(&self) -> usize {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) fn open(&self) {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.shared.1.notify_all();
    }
}

/// A server under test. Its gate opens before it stops, also after a failure.
#[derive(Debug)]
pub(crate) struct Fixture {
    gate: Gate,
    running: Option<RunningServer>,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        Fixture::with(|server| server)
    }

    pub(crate) fn with(configure: impl FnOnce(Server) -> Server) -> Fixture {
        let gate = Gate::default();
        let server = Server::new(routes(&gate)).listen("127.0.0.1:0").workers(4).timeouts(quick());
        Fixture::of(gate, configure(server))
    }

    /// The fixture of a server whose handlers wait at `gate`.
    pub(crate) fn of(gate: Gate, server: Server) -> Fixture {
        Fixture { gate, running: Some(server.spawn().unwrap()) }
    }

    pub(crate) fn running(&self) -> &RunningServer {
        self.running.as_ref().unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running().addresses()[0]
    }

    pub(crate) fn client(&self) -> Client {
        Client::to(self.address())
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(crate) fn stats(&self) -> Stats {
        self.running().handle().stats()
    }

    pub(crate) fn closes(&self, reason: CloseReason) -> u64 {
        self.stats().closes.iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| *n)
    }

    /// Waits until that many connections have ended so.
    #[track_caller]
    pub(crate) fn expect_closes(&self, reason: CloseReason, n: u64) {
        let deadline = Instant::now() + DEADLINE;
        while self.closes(reason) != n {
            assert!(Instant::now() < deadline, "{n} times {reason}, but {:?}", self.stats().closes);
            let_pass(Duration::from_millis(2));
        }
    }

    pub(crate) fn stop(mut self) -> Result<(), heirloom::Error> {
        self.gate.open();
        self.running.take().unwrap().stop()
    }

    /// The server, for a test that stops it without opening the gate.
    pub(crate) fn into_running(mut self) -> RunningServer {
        self.gate = Gate::default();
        self.running.take().unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.gate.open();
    }
}

/// Defaults, but a stop that does not wait for idle clients.
pub(crate) fn quick() -> Timeouts {
    // Limits that a busy machine could reach; a test of one of these sets it.
    const LONG: Duration = Duration::from_secs(600);
    let patient =
        Timeouts::new().head(LONG).body_stall(LONG).response_stall(LONG).rate_grace(LONG).queue_wait(LONG);
    patient.idle_grace(Duration::from_millis(250))
}

/// The default of 2 MiB is too much to send in the tables of a debug build.
pub(crate) const BODY_MAXIMUM: u64 = 1 << 20;

pub(crate) fn small_bodies() -> Limits {
    Limits::new().body_bytes(BODY_MAXIMUM)
}

/// A route for every way to take a request and to answer it.
pub(crate) fn routes(gate: &Gate) -> Router {
    let (wait, wait_detached, wait_streaming) = (gate.clone(), gate.clone(), gate.clone());
    Router::new()
        .get("/", |_: Request| "Hello, World!")
        .post("/echo", echo)
        .put("/echo", echo)
        .get("/sleep/{ms}", |req: Request| {
            let_pass(Duration::from_millis(number(&req)));
            "ok\n"
        })
        .get("/wait", move |_: Request| {
            wait.pass();
            "waited\n"
        })
        .get("/stream", |_: Request| Body::from_reader(Patterned::new(10_000, 1_000)))
        .get("/stream/{n}", |req: Request| Body::from_reader(Patterned::new(number(&req), 1 << 20)))
        .get("/big/{n}", |req: Request| {
            let n = number(&req);
            Body::from_sized_reader(Patterned::new(n, 1 << 20), n)
        })
        .get("/bytes/{n}", |req: Request| patterned(number(&req) as usize))
        .get("/zeros/{n}", |req: Request| vec![0; number(&req) as usize])
        .get("/late/{n}", |req: Request| Body::from_reader(Late(Patterned::new(number(&req), 1 << 20))))
        .get("/panic", |_: Request| -> Response { panic!("as the test wants it") })
        .get("/204", |_: Request| StatusCode::NO_CONTENT)
        .get("/304", |_: Request| StatusCode::NOT_MODIFIED)
        .get("/close", |_: Request| ([("connection", "close")], "bye\n"))
        .get("/fails/{how}", fails)
        .post("/discard", streaming(|_: Request| "ok\n"))
        .post("/discard/wait", {
            streaming(move |_: Request| {
                wait_streaming.pass();
                "ok\n"
            })
        })
        .post(
            "/count",
            streaming(|mut req: Request| -> io::Result<String> {
                Ok(io::copy(req.body_mut(), &mut io::sink())?.to_string())
            }),
        )
        .post(
            "/first",
            streaming(|mut req: Request| -> io::Result<Vec<u8>> {
                let mut first = vec![0; 3];
                req.body_mut().read_exact(&mut first)?;
                Ok(first)
            }),
        )
        .post("/trailers", |req: Request| {
            let trailers = req.trailers().cloned().unwrap_or_default();
            trailers.iter().map(|(n, v)| format!("{n}={} ", v.to_str().unwrap())).collect::<String>()
        })
        .get("/detached", |_: Request| {
            Body::writer(|out| {
                out.write_all(b"one\n")?;
                out.write_all(b"two\n")
            })
        })
        .get("/detached/wait", move |_: Request| {
            let gate = wait_detached.clone();
            Body::writer(move |out| {
                out.write_all(b"one\n")?;
                gate.pass();
                out.write_all(b"two\n")
            })
        })
        .get("/detached/fails", |_: Request| {
            Body::writer(|out| {
                out.write_all(b"one\n")?;
                Err(io::Error::other("as the test wants it"))
            })
        })
        .get("/upgrade", |_: Request| {
            let speak = |mut io: Upgraded| {
                let mut line = [0; 256];
                while let Ok(n @ 1..) = io.read(&mut line) {
                    if io.write_all(&line[..n]).is_err() || line[..n].contains(&b'.') {
                        return;
                    }
                }
            };
            let fields = [("upgrade", "echo"), ("connection", "upgrade")];
            (StatusCode::SWITCHING_PROTOCOLS, fields, Body::upgrade(speak))
        })
}

fn echo(req: Request) -> Body {
    let len = req.body().len().unwrap_or(0);
    Body::from_sized_reader(req.into_body(), len)
}

fn number(req: &Request) -> u64 {
    req.params().next().unwrap().1.parse().unwrap()
}

/// Sends some, then breaks off as asked.
fn fails(req: Request) -> Body {
    let breaks = match req.param("how").unwrap() {
        "early" => Breaks { left: 1_000, then: || Ok(0) },
        "panic" => Breaks { left: 1_000, then: || panic!("as the test wants it") },
        _ => Breaks { left: 1_000, then: || Err(io::Error::other("as the test wants it")) },
    };
    match req.query_str() {
        Some(len) => Body::from_sized_reader(breaks, len.parse().unwrap()),
        None => Body::from_reader(breaks),
    }
}

struct Breaks {
    left: usize,
    then: fn() -> io::Result<usize>,
}

impl Read for Breaks {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return (self.then)();
        }
        let n = self.left.min(buf.len()).min(300);
        buf[..n].fill(b'x');
        self.left -= n;
        Ok(n)
    }
}

/// How long [`Late`] thinks before its first byte.
pub(crate) const LATE: Duration = Duration::from_millis(3_500);

struct Late(Patterned);

impl Read for Late {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0.at == 0 {
            let_pass(LATE);
        }
        self.0.read(buf)
    }
}

struct Patterned {
    at: u64,
    left: u64,
    piece: usize,
}

impl Patterned {
    fn new(len: u64, piece: usize) -> Patterned {
        Patterned { at: 0, left: len, piece }
    }
}

impl Read for Patterned {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = buf.len().min(self.piece).min(usize::try_from(self.left).unwrap());
        for byte in &mut buf[..n] {
            *byte = pattern(self.at);
            self.at += 1;
        }
        self.left -= n as u64;
        Ok(n)
    }
}
