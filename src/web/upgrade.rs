//! Connections that have left HTTP, after a 101: [`Upgraded`] and its halves, for threads that may block.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::phase::Waited;
use crate::net::conn_info::{ConnInfo, PeerCredentials};
use crate::net::transfer::StreamKind;
use crate::web::resume::{Passage, Resume, ResumedTask, StreamState};

/// How much `wait` reads ahead to learn whether there are bytes.
const AHEAD: usize = 4 << 10;

/// Both directions of a connection after an upgrade by [`Body::upgrade`]. Reads and writes block; bytes that the client sent
/// right after its request are read first.
///
/// One thread may do both, or [`Upgraded::split`] gives a half to each of two threads. The connection ends when the closure
/// that got it returns, even if another thread still has a half.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::Waited;
/// use heirloom::upgrade::Upgraded;
/// use std::io::{Read, Write};
///
/// /// Echoes the client's bytes, and sends bye when the process drains.
/// fn echo(_: Request) -> impl IntoResponse {
///     let speak = |mut io: Upgraded| {
///         let mut buf = [0; 1024];
///         while let Ok(Waited::Readable) = io.wait(None) {
///             match io.read(&mut buf) {
///                 Ok(n) if n > 0 && io.write_all(&buf[..n]).is_ok() => {}
///                 _ => return,
///             }
///         }
///         let _ = io.write_all(b"bye\n");
///     };
///     (StatusCode::SWITCHING_PROTOCOLS, [(header::UPGRADE, "echo")], Body::upgrade(speak))
/// }
/// # Router::new().get("/echo", echo).check().unwrap();
/// ```
///
/// [`Body::upgrade`]: crate::Body::upgrade
pub struct Upgraded {
    reader: UpgradedReader,
    writer: UpgradedWriter,
    passage: Passage,
}

/// How an upgraded connection of another process continues here, on a thread of its own: for
/// [`Server::resume`](crate::Server::resume). `speak` gets the state that the other process's code gave to
/// [`Upgraded::hand_over`]; bytes that were read there and not used are read first.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::upgrade::{self, Upgraded};
/// use heirloom::Waited;
/// use std::io::{self, Read, Write};
///
/// /// Numbers the client's bytes, over all upgrades of the program.
/// fn count(mut io: Upgraded, mut n: u64) -> io::Result<()> {
///     while let Waited::Readable = io.wait(None)? {
///         if io.read(&mut [0])? == 0 {
///             return Ok(());
///         }
///         n += 1;
///         writeln!(io, "{n}")?;
///     }
///     io.hand_over(n.to_string())
/// }
///
/// let start = |_: Request| {
///     let speak = |io| drop(count(io, 0));
///     let response = (StatusCode::SWITCHING_PROTOCOLS, [(header::UPGRADE, "count")], Body::upgrade(speak));
///     response.into_response().resumable("bytes")
/// };
/// let server = Server::new(Router::new().get("/count", start)).resume(
///     "bytes",
///     upgrade::resumed(|io, state| drop(state.parse().and_then(|n| count(io, n)))),
/// );
/// # let _ = server;
/// ```
pub fn resumed(speak: impl Fn(Upgraded, StreamState) + Send + Sync + 'static) -> Resume {
    let speak = Arc::new(speak);
    Resume::new(StreamKind::Upgrade, move |_, state| {
        let speak = Arc::clone(&speak);
        ResumedTask::Upgrade(Box::new(move |io| speak(io, state)))
    })
}

/// The reading half, see [`Upgraded::split`].
pub struct UpgradedReader {
    io: Arc<dyn Duplex>,
    conn_info: Arc<ConnInfo>,
    /// Bytes that were read and not used.
    early: Vec<u8>,
    timeout: Option<Duration>,
}

/// The writing half, see [`Upgraded::split`].
pub struct UpgradedWriter {
    io: Arc<dyn Duplex>,
    timeout: Option<Duration>,
}

/// The connection below an upgrade. Only `wait` blocks.
pub(crate) trait Duplex: Send + Sync {
    /// `WouldBlock` if there are no bytes; 0 is the end.
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize>;
    fn try_write(&self, buf: &[u8]) -> io::Result<usize>;
    /// False if no requested event occurred in time. A thread that waits for rings consumes the ring.
    fn wait(&self, wants: Wants, timeout: Option<Duration>) -> io::Result<bool>;
    /// Called before another thread can ring, while no thread waits for rings.
    #[cfg_attr(not(any(test, feature = "websocket")), expect(dead_code, reason = "for websockets"))]
    fn expect_rings(&self);
    /// Wakes a thread that waits for rings.
    #[cfg_attr(not(any(test, feature = "websocket")), expect(dead_code, reason = "for websockets"))]
    fn ring(&self);
    /// Called once at the drain. It must not block.
    #[cfg_attr(not(feature = "websocket"), expect(dead_code, reason = "for websockets"))]
    fn at_drain(&self, notify: Box<dyn FnOnce() + Send>);
    fn shutdown_write(&self);
}

/// The events that a thread waits for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wants {
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// The drain rings too.
    pub(crate) ring: bool,
}

/// The parts of an [`Upgraded`].
pub(crate) struct Parts {
    pub(crate) io: Arc<dyn Duplex>,
    pub(crate) early: Vec<u8>,
    pub(crate) passage: Passage,
}

impl Upgraded {
    /// A write waits at most `stall` for the client.
    pub(crate) fn new(parts: Parts, stall: Duration) -> Upgraded {
        let writer = UpgradedWriter { io: Arc::clone(&parts.io), timeout: Some(stall) };
        let Parts { io, early, passage } = parts;
        let conn_info = Arc::clone(passage.conn_info());
        Upgraded { reader: UpgradedReader { io, conn_info, early, timeout: None }, writer, passage }
    }

    #[cfg(feature = "websocket")]
    pub(crate) fn into_parts(self) -> Parts {
        let UpgradedReader { io, early, .. } = self.reader;
        Parts { io, early, passage: self.passage }
    }

    /// Waits until there is something to read, until the process drains, or for `timeout`; None: indefinitely. Once the process
    /// drains, it returns at once each time: reads and writes still work until the drain deadline, so that the protocol can
    /// end properly.
    ///
    /// # Errors
    /// Those of the connection, such as a reset.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Waited> {
        self.reader.wait(timeout)
    }

    /// How long a read waits before it fails with `TimedOut`; None, the default: indefinitely. A thread that waits for the
    /// client indefinitely does not notice that the process drains, and is cut at the end: [`Upgraded::wait`] notices both.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.reader.timeout = timeout;
    }

    /// How long a write waits for the client to read before it fails with `TimedOut`; None: indefinitely. Default: [`Timeouts::response_stall`](crate::Timeouts::response_stall).
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.writer.timeout = timeout;
    }

    /// The other end of the connection, see [`RequestExt::peer_addr`](crate::RequestExt::peer_addr).
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.reader.conn_info.peer
    }

    /// The process that connected to a unix socket, see
    /// [`RequestExt::peer_credentials`](crate::RequestExt::peer_credentials).
    pub fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.reader.conn_info.peer_credentials()
    }

    /// Whether this process is about to end.
    pub fn is_draining(&self) -> bool {
        self.reader.conn_info.drain.is_draining()
    }

    /// Whether the process drains and the connection moves to its successor, by [`hand_over`](Upgraded::hand_over).
    pub fn is_moving(&self) -> bool {
        self.passage.is_open(StreamKind::Upgrade)
    }

    /// Gives the connection to the next process, where the code of [`resumed`] continues it with `state`. It is
    /// [`resumable`](crate::ResponseExt::resumable), the next program resumes its name, and [`wait`](Upgraded::wait) has
    /// returned [`Waited::Draining`]. In all other cases the connection ends, as when this is dropped.
    ///
    /// # Errors
    /// `InvalidInput` if the state is longer than 64 KiB; then the connection ends.
    pub fn hand_over(self, state: impl Into<StreamState>) -> io::Result<()> {
        let state = state.into().checked()?;
        if self.is_moving() {
            self.passage.leave(StreamKind::Upgrade, String::new(), state, self.reader.early);
        }
        Ok(())
    }

    /// A half for each direction, to be used by two threads at once, as a proxy does:
    ///
    /// ```
    /// use heirloom::upgrade::Upgraded;
    /// use std::io::{self, Write};
    /// use std::net::{Shutdown, TcpStream};
    /// use std::thread;
    ///
    /// fn tunnel(io: Upgraded, target: &str) -> io::Result<()> {
    ///     let (mut from_client, mut to_client) = io.split();
    ///     let (mut to_target, mut from_target) = {
    ///         let target = TcpStream::connect(target)?;
    ///         (target.try_clone()?, target)
    ///     };
    ///     thread::scope(|scope| {
    ///         scope.spawn(move || {
    ///             let _ = io::copy(&mut from_client, &mut to_target);
    ///             to_target.shutdown(Shutdown::Write)
    ///         });
    ///         io::copy(&mut from_target, &mut to_client)?;
    ///         to_client.end();
    ///         Ok(())
    ///     })
    /// }
    /// ```
    pub fn split(self) -> (UpgradedReader, UpgradedWriter) {
        (self.reader, self.writer)
    }
}

impl UpgradedReader {
    /// As [`Upgraded::wait`].
    ///
    /// # Errors
    /// Those of the connection.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Waited> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if self.conn_info.drain.is_draining() {
                return Ok(Waited::Draining);
            }
            if !self.early.is_empty() {
                return Ok(Waited::Readable);
            }
            // A descriptor does not show that decrypted bytes are available: only a read does.
            let mut buf = [0; AHEAD];
            match self.io.try_read(&mut buf) {
                Ok(n) => {
                    self.early.extend(buf.iter().take(n));
                    return Ok(Waited::Readable);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if !self.io.wait(Wants { read: true, ring: true, ..Wants::default() }, left)? {
                return Ok(Waited::TimedOut);
            }
        }
    }

    /// As [`Upgraded::set_read_timeout`].
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }
}

impl UpgradedWriter {
    /// As [`Upgraded::set_write_timeout`].
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// Ends this direction, which the client sees as the end of the stream; reading continues.
    pub fn end(self) {
        self.io.shutdown_write();
    }
}

impl Read for UpgradedReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.early.is_empty() {
            let n = (&*self.early).read(buf)?;
            self.early.drain(..n);
            return Ok(n);
        }
        loop {
            match self.io.try_read(buf) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            if !self.io.wait(Wants { read: true, ..Wants::default() }, self.timeout)? {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Write for UpgradedWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            match self.io.try_write(buf) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            if !self.io.wait(Wants { write: true, ..Wants::default() }, self.timeout)? {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Upgraded {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buf)
    }
}

impl Write for Upgraded {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writer.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgraded").field("peer", &self.peer_addr()).finish_non_exhaustive()
    }
}

impl fmt::Debug for UpgradedReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradedReader").field("peer", &self.conn_info.peer).finish_non_exhaustive()
    }
}

impl fmt::Debug for UpgradedWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradedWriter").finish_non_exhaustive()
    }
}
