//! An HTTP client that never retries and hides nothing: each way a request can fail has a name.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::{DEADLINE, Request};

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addr {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addr::Tcp(addr) => addr.fmt(f),
            Addr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Addr {
        Addr::Tcp(addr)
    }
}

impl From<&Addr> for Addr {
    fn from(addr: &Addr) -> Addr {
        addr.clone()
    }
}

impl From<&str> for Addr {
    /// In the format of the log: `ADDRESS:PORT` or `unix:PATH`.
    fn from(text: &str) -> Addr {
        match text.strip_prefix("unix:") {
            Some(path) => Addr::Unix(path.into()),
            None => Addr::Tcp(text.parse().expect("ADDRESS:PORT")),
        }
    }
}

/// The outcome of a request.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// A whole response, of whatever status.
    Ok(Response),
    /// The connection was refused: no process listens.
    Refused,
    /// A reset instead of a whole response.
    Reset,
    /// An end within the response.
    Cut,
    /// No whole response in time.
    Timeout,
    /// An end instead of a response, after the last one had announced it.
    ClosedAnnounced,
    /// An end instead of a response, which nothing had announced.
    ClosedSilently,
    /// Not a response of HTTP/1.1.
    Invalid,
}

impl Outcome {
    /// The response.
    ///
    /// # Panics
    /// If there was none.
    #[track_caller]
    pub fn ok(self) -> Response {
        match self {
            Outcome::Ok(response) => response,
            other => panic!("no response: {other:?}"),
        }
    }

    /// Whether it is a 200.
    pub fn is_ok(&self) -> bool {
        matches!(self, Outcome::Ok(response) if response.status == 200)
    }
}

/// A whole response. `Debug` prints the first 80 bytes of its body, and `(hidden)` for the values of `Set-Cookie`, `Authorization`
/// and other fields that carry secrets: those with `token`, `secret` or `api-key` in their name, too.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The fields of the head, in their order.
    pub headers: Vec<(String, String)>,
    /// The body, decoded if it was chunked.
    pub body: Vec<u8>,
}

impl Response {
    /// The first field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        header.map(|(_, value)| value.as_str())
    }

    /// It announces that the connection ends with it.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The body as text.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// The body as a number.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn number(&self) -> i32 {
        self.text().parse().expect("a number")
    }
}

/// Without the values of fields that carry secrets, because the output of a failed test is kept in logs that many read.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<(&str, Cow<'_, str>)> =
            self.headers.iter().map(|(name, value)| (name.as_str(), printable(name, value))).collect();
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(80)]);
        write!(f, "{} {headers:?} {} bytes {body:?}", self.status, self.body.len())
    }
}

const HIDDEN: &str = "(hidden)";

/// A field's value, or what is printed in its place. Of a cookie the name and the attributes are left.
fn printable<'v>(name: &str, value: &'v str) -> Cow<'v, str> {
    let name = name.to_ascii_lowercase();
    match &*name {
        "set-cookie" => {
            let (pair, attributes) = value.find(';').map_or((value, ""), |at| value.split_at(at));
            let cookie = pair.split_once('=').map(|(cookie, _)| cookie.to_owned() + "=").unwrap_or_default();
            Cow::Owned(cookie + HIDDEN + attributes)
        }
        "authorization"
        | "proxy-authorization"
        | "authentication-info"
        | "proxy-authentication-info"
        | "cookie" => Cow::Borrowed(HIDDEN),
        // As services name their own: X-Auth-Token, X-Api-Key.
        _ if ["token", "secret", "api-key"].iter().any(|word| name.contains(word)) => Cow::Borrowed(HIDDEN),
        _ => Cow::Borrowed(value),
    }
}

/// How a connection without a request ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// It was closed.
    Fin,
    /// It was reset.
    Reset,
    /// It did not, in time.
    Open,
    /// Bytes arrived instead.
    Bytes,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: Result<Stream, Option<Outcome>>,
    /// Read and not used.
    input: Vec<u8>,
    announced: bool,
}

/// Sends a request on a new connection, which the server may keep.
pub fn get(addr: &Addr, path: &str) -> Outcome {
    Client::to(addr).get(path)
}

impl Client {
    /// Connects; a failure is the outcome of the first request.
    pub fn to(addr: &Addr) -> Client {
        let stream = Stream::connect(addr).map_err(|e| Some(failed(&e)));
        Client { stream, input: Vec::new(), announced: false }
    }

    /// Sends a request for `path`, and reads its response.
    pub fn get(&mut self, path: &str) -> Outcome {
        self.ask(path);
        self.answer()
    }

    /// Counts the connection's deadline from now on: for one that is used for long.
    pub fn renew(&mut self) {
        if let Ok(Stream::Tcp(_, deadline) | Stream::Unix(_, deadline)) = &mut self.stream {
            *deadline = Instant::now() + 2 * DEADLINE;
        }
    }

    /// Sends a request, and reads its response.
    pub fn request(&mut self, request: &Request) -> Outcome {
        self.send(request.bytes(""));
        self.answer()
    }

    /// Sends a request whose `answer` is read later.
    pub fn ask(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    }

    /// Sends bytes. That it failed is seen when the answer is read, which may be there all the same.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        if let Ok(stream) = &mut self.stream {
            let _ = stream.write_all(bytes.as_ref());
        }
    }

    /// Reads the next response.
    pub fn answer(&mut self) -> Outcome {
        let (status, headers) = match self.head() {
            Ok(head) => head,
            Err(outcome) => return outcome,
        };
        let mut response = Response { status, headers, body: Vec::new() };
        let length = response.header("content-length").and_then(|l| l.parse().ok());
        let chunked = response.header("transfer-encoding").is_some();
        let body = match (status, chunked, length) {
            (204 | 304, _, _) => Ok(Vec::new()),
            (_, true, _) => self.chunks(),
            (_, false, Some(length)) => self.take(length),
            (_, false, None) => self.rest(),
        };
        self.announced = response.closes();
        match body {
            Ok(body) => response.body = body,
            Err(outcome) => return outcome,
        }
        Outcome::Ok(response)
    }

    /// Reads a response's head and leaves its body, for `take`.
    pub fn head(&mut self) -> Result<(u16, Vec<(String, String)>), Outcome> {
        let end = loop {
            if let Some(end) = self.input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            self.fill()?;
        };
        let head: Vec<u8> = self.input.drain(..end).collect();
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let pair = |line: &str| line.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned()));
        Ok((status.ok_or(Outcome::Invalid)?, lines.filter_map(pair).collect()))
    }

    /// Reads so many bytes of a body.
    pub fn take(&mut self, bytes: usize) -> Result<Vec<u8>, Outcome> {
        while self.input.len() < bytes {
            self.fill().map_err(within)?;
        }
        Ok(self.input.drain(..bytes).collect())
    }

    fn chunks(&mut self) -> Result<Vec<u8>, Outcome> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(end) = self.input.windows(2).position(|bytes| bytes == b"\r\n") {
                    break self.take(end + 2)?;
                }
                self.fill().map_err(within)?;
            };
            let line = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(line.trim_end(), 16).map_err(|_| Outcome::Invalid)?;
            let chunk = self.take(size + 2)?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> Result<Vec<u8>, Outcome> {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(Outcome::ClosedSilently | Outcome::ClosedAnnounced | Outcome::Cut) => {
                    return Ok(std::mem::take(&mut self.input));
                }
                Err(other) => return Err(within(other)),
            }
        }
    }

    fn fill(&mut self) -> Result<(), Outcome> {
        let stream = match &mut self.stream {
            Ok(stream) => stream,
            Err(outcome) => return Err(outcome.take().unwrap_or(Outcome::ClosedSilently)),
        };
        let mut buf = [0; 64 << 10];
        let read = loop {
            match stream.read(&mut buf) {
                // A read with a timeout is not restarted by the kernel.
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) if !self.input.is_empty() => Err(Outcome::Cut),
            Ok(0) if self.announced => Err(Outcome::ClosedAnnounced),
            Ok(0) => Err(Outcome::ClosedSilently),
            Ok(n) => {
                self.input.extend_from_slice(&buf[..n]);
                Ok(())
            }
            Err(e) => Err(failed(&e)),
        }
    }

    /// Whether the end has arrived already, as a client sees it that checks before it sends.
    pub fn has_ended(&self) -> bool {
        let fd = match &self.stream {
            Ok(Stream::Tcp(stream, _)) => stream.as_fd(),
            Ok(Stream::Unix(stream, _)) => stream.as_fd(),
            Err(_) => return true,
        };
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        !matches!(recv(fd, &mut [0u8][..], flags), Ok((1, _)) | Err(Errno::AGAIN))
    }

    /// Waits for the end of the connection, and returns how it ended.
    pub fn end(&mut self) -> End {
        match self.fill() {
            Ok(()) => End::Bytes,
            Err(Outcome::ClosedSilently | Outcome::ClosedAnnounced) => End::Fin,
            Err(Outcome::Timeout) => End::Open,
            Err(_) => End::Reset,
        }
    }
}

/// An end means something else once the response has started.
fn within(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::ClosedSilently | Outcome::ClosedAnnounced => Outcome::Cut,
        other => other,
    }
}

fn failed(e: &io::Error) -> Outcome {
    match e.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => Outcome::Refused,
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Outcome::Timeout,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => Outcome::Reset,
        _ => panic!("the test itself can't go on: {e}"),
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream, Instant),
    Unix(UnixStream, Instant),
}

impl Stream {
    fn connect(addr: &Addr) -> io::Result<Stream> {
        // A connection has one deadline for all that is asked on it.
        let deadline = Instant::now() + 2 * DEADLINE;
        Ok(match addr {
            Addr::Tcp(addr) => {
                let stream = TcpStream::connect_timeout(addr, DEADLINE)?;
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(DEADLINE))?;
                Stream::Tcp(stream, deadline)
            }
            Addr::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_write_timeout(Some(DEADLINE))?;
                Stream::Unix(stream, deadline)
            }
        })
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = |deadline: &Instant| {
            let left = deadline.saturating_duration_since(Instant::now());
            Some(left.clamp(Duration::from_millis(1), DEADLINE))
        };
        match self {
            Stream::Tcp(stream, deadline) => {
                stream.set_read_timeout(left(deadline))?;
                stream.read(buf)
            }
            Stream::Unix(stream, deadline) => {
                stream.set_read_timeout(left(deadline))?;
                stream.read(buf)
            }
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Tcp(stream, _) => stream.write_all(bytes),
            Stream::Unix(stream, _) => stream.write_all(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_response_are_not_printed() {
        let cases = [
            ("Set-Cookie", "id=s3cret; Path=/; HttpOnly", "id=(hidden); Path=/; HttpOnly"),
            ("set-cookie", "id=s3cret", "id=(hidden)"),
            ("Set-Cookie", "s3cret; Path=/", "(hidden); Path=/"),
            ("Cookie", "id=s3cret", "(hidden)"),
            ("AUTHORIZATION", "Bearer s3cret", "(hidden)"),
            ("Proxy-Authorization", "Basic s3cret", "(hidden)"),
            ("Authentication-Info", "nextnonce=s3cret", "(hidden)"),
            ("X-Auth-Token", "s3cret", "(hidden)"),
            ("X-API-Key", "s3cret", "(hidden)"),
            // A challenge is for everyone.
            ("WWW-Authenticate", "Bearer realm=tea", "Bearer realm=tea"),
            ("Location", "/login", "/login"),
        ];
        let headers =
            cases.iter().map(|(name, value, _)| ((*name).to_owned(), (*value).to_owned())).collect();
        let response = Response { status: 403, headers, body: b"wrong password".to_vec() };
        let expected: Vec<(&str, &str)> = cases.iter().map(|(name, _, printed)| (*name, *printed)).collect();
        let expected = format!("403 {expected:?} 14 bytes \"wrong password\"");
        assert_eq!(format!("{response:?}"), expected);
        // As a failed test prints it.
        let mut report = crate::Report::default();
        report.fail("GET /", Outcome::Ok(response), None, Duration::ZERO);
        let expected = format!("0.000 s: GET /: wrong: {expected}");
        assert_eq!(report.failures[0].to_string(), expected);
        let printed = [report.to_string(), format!("{report:?}")];
        assert!(
            printed.iter().all(|text| text.contains("wrong password") && !text.contains("s3cret")),
            "{printed:?}"
        );
    }
}
