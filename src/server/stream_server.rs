//! The lifecycle without HTTP: connections as blocking streams for a program's own threads, with signals, handover,
//! probation, drain, hooks and the pid file as for an HTTP server.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::base::close_reason::CloseReason;
use crate::base::error::{Error, ErrorKind};
use crate::base::limits::{Limits, Timeouts};
use crate::base::log::{debug, error, info};
use crate::base::phase::{Drain, Phase, PhaseWatch};
use crate::base::status::{Counters, InFlight, Stats};
use crate::base::sync::lock;
use crate::base::threads::{Gate, spawn_part};
use crate::base::wait_group::WaitGroup;
use crate::net::acceptor::{Deadline, Lingered, Parking, PoolPlan, pool_events};
use crate::net::conn_info::PeerCredentials;
use crate::net::connection::{self, Activity, Cause, Portable, Ready};
use crate::net::listener::ListenerConfig;
use crate::net::scheduler::queue::{Parker, Popped, Queue};
use crate::net::stream::{Peek, Stream};
use crate::process::config::ProcessConfig;
use crate::server::assembly::Workers;
use crate::server::handle::Handle;
use crate::server::launch::{self, Context, Launch, Plan, RunningServer, Service, ServiceParts};
use litemap::LiteMap;

/// How long a service may take to end before signals have their default action again.
const TIDIES: Duration = Duration::from_millis(500);

/// A service of the program's own, on its own threads, with the lifecycle of a
/// [`Server`](crate::Server): HUP starts a successor that inherits the listeners, TERM serves the connected clients and
/// ends, and in neither case is a client refused or reset.
///
/// The program gets every connection as a blocking stream, which counts as in flight until it is dropped or parked. The
/// protocol decides how a client is notified before its connection ends; [`Connection::drain`] says when.
///
/// ```no_run
/// use heirloom::stream::{Connection, StreamServer};
/// use std::io::{BufRead, BufReader, Write};
/// use std::thread;
///
/// fn main() -> Result<(), heirloom::Error> {
///     StreamServer::new().listen("127.0.0.1:7001").serve(|incoming| {
///         for connection in incoming {
///             // If there is no thread for it, this connection is closed, and no other.
///             let _ = thread::Builder::new().spawn(move || talk(connection));
///         }
///     })
/// }
///
/// fn talk(connection: Connection) -> std::io::Result<()> {
///     let mut lines = BufReader::new(&connection);
///     let mut line = String::new();
///     while lines.read_line(&mut line)? > 0 {
///         let last = connection.drain().is_draining();
///         (&connection).write_all(format!("{}{}", line, if last { "BYE\n" } else { "" }).as_bytes())?;
///         if last {
///             break;
///         }
///         line.clear();
///     }
///     Ok(())
/// }
/// ```
///
/// Of [`Limits`], the numbers of connections apply; of [`Timeouts`], those that do not concern requests: `idle` and
/// `idle_grace` for parked connections, `queue_wait` for connections that no thread takes.
pub struct StreamServer {
    listen: Vec<String>,
    busy: Vec<u8>,
    work: Option<Work>,
    launch: Launch,
}

type Work = Box<dyn FnOnce(Incoming) + Send>;

impl StreamServer {
    /// A server without listeners.
    pub fn new() -> StreamServer {
        StreamServer { listen: Vec::new(), busy: Vec::new(), work: None, launch: Launch::default() }
    }

    /// Adds a listener: `ADDRESS:PORT`, `HOST:PORT` or `unix:PATH`. Port 0 takes a free one, which
    /// later generations keep. The string is the listener's name at a handover: a successor that is configured with the
    /// same string, or with the same address in another spelling, inherits the socket.
    #[must_use]
    pub fn listen(mut self, name: impl ToString) -> StreamServer {
        self.listen.push(name.to_string());
        self
    }

    /// The bytes that a client gets before its connection is closed because no thread took it within
    /// [`Timeouts::queue_wait`](crate::Timeouts::queue_wait), or because it has more connections than
    /// [`Limits::connections_per_peer`](crate::Limits::connections_per_peer). Default: none.
    #[must_use]
    pub fn busy(mut self, answer: impl Into<Vec<u8>>) -> StreamServer {
        self.busy = answer.into();
        self
    }

    /// Sizes and counts that bound the server. Default: those of [`Limits::new`].
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> StreamServer {
        self.launch.limits = limits;
        self
    }

    /// Durations that bound the server. Default: those of [`Timeouts::new`].
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> StreamServer {
        self.launch.timeouts = timeouts;
        self
    }

    /// How the process starts, hands over and ends, with the program's own hooks.
    #[must_use]
    pub fn process(mut self, process: ProcessConfig) -> StreamServer {
        self.launch.process = process;
        self
    }

    /// Makes `handle` control this server.
    #[must_use]
    pub fn with_handle(mut self, handle: Handle) -> StreamServer {
        self.launch.handle = handle;
        self
    }

    /// Controls the server from other threads, before and while it serves.
    pub fn handle(&self) -> Handle {
        self.launch.handle.clone()
    }

    /// Serves until the process should exit: after a stop, or when a successor has taken over and all connections in flight
    /// are done. `work` runs on a thread of its own, `heirloom-service`, and gets the connections. If it returns early, the
    /// process drains as at a stop. `serve` waits for its end; if that takes more than half a second, TERM, INT and QUIT
    /// have their default action again.
    ///
    /// # Errors
    /// As [`Server::serve`](crate::Server::serve), and when `work` panicked.
    pub fn serve(mut self, work: impl FnOnce(Incoming) + Send + 'static) -> Result<(), Error> {
        self.work = Some(Box::new(work));
        launch::serve(std::mem::take(&mut self.launch), self)
    }

    /// As `serve`, in the background, without signals and handovers: for tests. It serves when this returns.
    ///
    /// # Errors
    /// When it can't start.
    pub fn spawn(mut self, work: impl FnOnce(Incoming) + Send + 'static) -> Result<RunningServer, Error> {
        self.work = Some(Box::new(work));
        launch::spawn(std::mem::take(&mut self.launch), self)
    }
}

impl Default for StreamServer {
    fn default() -> StreamServer {
        StreamServer::new()
    }
}

impl fmt::Debug for StreamServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamServer").field("listen", &self.listen).finish_non_exhaustive()
    }
}

impl Service for StreamServer {
    type Progress = StreamProgress;

    fn plan(&mut self) -> Result<Plan, Error> {
        // The program's threads wait only on the queue.
        let pools = PoolPlan { workers: vec![0], of_handler: vec![0] };
        let listen = self.listen.iter().map(|name| ListenerConfig::new(name.clone(), 0)).collect();
        Ok(Plan { listen, pools })
    }

    fn start(self, context: &Context<StreamProgress>) -> Result<ServiceParts<StreamProgress>, Error> {
        // No work needs a streaming permit.
        let queue = Arc::new(Queue::new(0, 1).with_events(pool_events(&context.parking, 0)));
        let shared = &context.handle.shared;
        let dispatch = Arc::new(Dispatch {
            parking: Arc::clone(&context.parking),
            queue: Arc::clone(&queue),
            wait_group: context.wait_group.clone(),
            listeners: context.listeners.clone(),
            phase: shared.phase.clone(),
            counters: Mutex::new(shared.records.counters.register()),
            in_use: Mutex::default(),
        });
        let (incoming, handle) = (Incoming { dispatch: Arc::clone(&dispatch) }, context.handle.clone());
        let (ends, ended) = Gate::new();
        let service = move || {
            let _ends = ends;
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                if let Some(work) = self.work {
                    work(incoming);
                }
            }));
            if handle.phase() != Phase::Exited {
                match &outcome {
                    Ok(()) => info!("the service has returned: stopping"),
                    Err(_) => error!("the service panicked: stopping"),
                }
                handle.shutdown();
            }
            outcome.map_err(|_| Error::new(ErrorKind::System, "the service panicked"))
        };
        let thread = spawn_part(thread::Builder::new().name("heirloom-service".into()), service)
            .map_err(Error::system("no thread for the service"))?;
        let (busy, workers) = (
            self.busy,
            ProgramThreads { dispatch, service: Mutex::new(Some(ServiceThread { thread, ended })) },
        );
        Ok(ServiceParts {
            queues: vec![queue],
            busy: Box::new(move || busy.clone()),
            workers: Arc::new(workers),
            files: None,
            streams: None,
        })
    }
}

/// The server does not know the protocol.
#[derive(Default)]
pub(crate) struct StreamProgress;

impl Portable for StreamProgress {
    const OPAQUE: bool = true;

    /// Always true: the program parks a connection only between two requests.
    fn is_portable(&self, _: usize, _: usize) -> bool {
        true
    }

    fn pack(&mut self, _: &mut Vec<u8>) -> Option<Instant> {
        None
    }

    fn unpack(_: Option<Instant>) -> StreamProgress {
        StreamProgress
    }
}

type NetConnection = connection::Connection<StreamProgress>;

/// Gives out connections and takes them back.
struct Dispatch {
    parking: Arc<Parking<StreamProgress>>,
    queue: Arc<Queue<Ready<StreamProgress>>>,
    wait_group: WaitGroup,
    listeners: Vec<String>,
    phase: PhaseWatch,
    /// Written under the lock, because the program has several threads.
    counters: Mutex<Arc<Counters>>,
    /// The connections that the program has, by slot.
    in_use: Mutex<LiteMap<u64, OpenConnection>>,
}

/// A connection that the program has.
struct OpenConnection {
    peer: Option<SocketAddr>,
    listener: usize,
    since: Instant,
}

impl Dispatch {
    fn in_use(&self) -> MutexGuard<'_, LiteMap<u64, OpenConnection>> {
        lock(&self.in_use)
    }

    fn listener(&self, index: usize) -> &str {
        self.listeners.get(index).map_or("", |name| name)
    }

    fn give(&self, inner: &mut NetConnection, cause: Cause) -> io::Result<Wake> {
        let wake = match cause {
            Cause::Expired => Wake::Expired,
            _ if inner.is_idle() => Wake::Readable,
            _ => Wake::New,
        };
        SockRef::from(&inner.stream).set_nonblocking(false)?;
        inner.guard = Some(self.wait_group.guard());
        inner.activity = Activity::Receiving;
        let held =
            OpenConnection { peer: inner.conn_info.peer, listener: inner.listener, since: Instant::now() };
        self.in_use().insert(inner.slot.to_bits(), held);
        Ok(wake)
    }

    fn linger(&self, inner: Box<NetConnection>, reason: CloseReason) {
        match self.parking.linger(inner) {
            Lingered::Parked => {}
            Lingered::More(inner) => self.queue.push(&mut vec![Ready::new(inner, Cause::Yielded)]),
            Lingered::Over(inner) => self.end(inner, reason),
        }
    }

    /// The connection, if it is for the program; other events are handled here.
    fn wanted(
        &self,
        Ready { connection: inner, cause }: Ready<StreamProgress>,
    ) -> Option<(Box<NetConnection>, Cause)> {
        if let Some(lingering) = inner.lingering() {
            let reason = lingering.reason;
            self.linger(inner, reason);
            return None;
        }
        if !inner.is_idle() || cause == Cause::Expired {
            return Some((inner, cause));
        }
        // The bytes are for the successor, unless the client closed.
        if !inner.poll.may_have_ended && self.parking.outbox.takes_now(&inner) {
            self.parking.send_to_successor(inner);
            return None;
        }
        if inner.stream.peek() == Peek::Nothing {
            self.rest(inner);
            return None;
        }
        Some((inner, cause))
    }

    fn take_back(&self, inner: &NetConnection) {
        self.in_use().remove(&inner.slot.to_bits());
    }

    /// Parks it until there is something to read, or it has been idle for too long.
    fn rest(&self, mut inner: Box<NetConnection>) {
        let since = inner.idle_since();
        // It counts as in flight until here, where the acceptor can see it.
        inner.guard = None;
        loop {
            if self.parking.outbox.takes_now(&inner) {
                return self.parking.send_to_successor(inner);
            }
            match self.parking.park(inner, Deadline::Idle(since)) {
                Ok(()) => return,
                // The announced bytes may have been read since.
                Err(back) if back.stream.peek() == Peek::Nothing => inner = back,
                Err(back) => return self.queue.push(&mut vec![Ready::new(back, Cause::Event)]),
            }
        }
    }

    fn end(&self, inner: Box<NetConnection>, reason: CloseReason) {
        debug!("connection closed: {reason}");
        let counters = lock(&self.counters);
        if inner.lingering().is_none() {
            counters.ends(reason, || inner.about(String::new()));
        }
        counters.closed(reason);
        drop(counters);
        self.parking.close(inner);
    }
}

/// The program's own threads, as the server sees them.
struct ProgramThreads {
    dispatch: Arc<Dispatch>,
    service: Mutex<Option<ServiceThread>>,
}

/// The program's thread, and the notification of its end.
struct ServiceThread {
    thread: JoinHandle<Result<(), Error>>,
    ended: Gate,
}

impl Workers for ProgramThreads {
    fn add_to(&self, _: &mut Stats) {}

    fn in_flight(&self) -> Vec<InFlight> {
        let in_flight = |held: &OpenConnection| {
            let listener = self.dispatch.listener(held.listener);
            let peer = held.peer.map_or_else(String::new, |peer| format!(" of {peer}"));
            let what = format!("a connection{peer} to {listener}");
            InFlight { what, place: ",", age: Some(held.since.elapsed()) }
        };
        self.dispatch.in_use().values().map(in_flight).collect()
    }

    fn unnamed(&self) -> &'static str {
        "a connection that is about to be given out or closed"
    }

    /// Connections that the program's threads still have are left behind: the process ends meanwhile.
    fn finish(&self, last: &mut dyn FnMut()) -> Result<(), Error> {
        let cut = !self.dispatch.in_use().is_empty();
        self.dispatch.queue.close();
        let service = lock(&self.service).take();
        match service {
            Some(ServiceThread { thread, ended }) if !cut => {
                if !ended.wait_for(TIDIES) {
                    last();
                }
                thread.join().unwrap_or(Ok(()))
            }
            _ => Ok(()),
        }
    }
}

/// The connections of a service, for the program's threads: an iterator that waits for the next
/// one. Clones, and references in several threads, get each connection once.
///
/// It ends when no further connection can come: the process has drained, or was aborted.
#[derive(Clone)]
pub struct Incoming {
    dispatch: Arc<Dispatch>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

impl Iterator for Incoming {
    type Item = Connection;

    fn next(&mut self) -> Option<Connection> {
        (&*self).next()
    }
}

impl Iterator for &Incoming {
    type Item = Connection;

    fn next(&mut self) -> Option<Connection> {
        let dispatch = &self.dispatch;
        loop {
            let ready = match dispatch.queue.pop(&Parker::of_guest()) {
                Popped::Work(ready, _) => ready,
                Popped::Closed => return None,
            };
            // This thread may not come back for long.
            dispatch.queue.before_blocking(usize::MAX);
            let Some((mut inner, cause)) = dispatch.wanted(ready) else { continue };
            match dispatch.give(&mut inner, cause) {
                Ok(wake) => {
                    let drain = inner.conn_info.drain.clone();
                    let (inner, dispatch, timed) =
                        (Some(inner), Arc::clone(dispatch), AtomicBool::new(false));
                    return Some(Connection { inner, dispatch, wake, drain, timed });
                }
                Err(e) => {
                    debug!("can't give out a connection: {e}");
                    dispatch.end(inner, CloseReason::Broken);
                }
            }
        }
    }
}

/// Why a connection is given to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// It was just accepted. Bytes need not have arrived yet.
    New,
    /// It was parked, maybe by an earlier generation, and there is something to read: bytes, or the
    /// client's end.
    Readable,
    /// It was parked for longer than [`Timeouts::idle`](crate::Timeouts::idle), or than
    /// [`Timeouts::idle_grace`](crate::Timeouts::idle_grace) in a drain: time for a last message.
    Expired,
}

/// A client's connection: a blocking stream that is in flight until it is dropped or parked.
///
/// Dropping it ends it properly: the client can read all bytes that were written, without a reset, even if it continues to
/// send. While a thread panics the connection is reset instead, so that a truncated response does not look complete.
pub struct Connection {
    /// None when it is parked.
    inner: Option<Box<NetConnection>>,
    dispatch: Arc<Dispatch>,
    wake: Wake,
    drain: Drain,
    /// It has timeouts, or has had some.
    timed: AtomicBool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("wake", &self.wake).finish_non_exhaustive()
    }
}

impl Connection {
    /// Why the program got this connection.
    pub fn wake(&self) -> Wake {
        self.wake
    }

    /// The address of the client. None on a unix socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.inner.as_ref()?.conn_info.peer
    }

    /// The process that connected to a unix socket. None on TCP.
    pub fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.inner.as_ref()?.conn_info.peer_credentials()
    }

    /// The string given to [`StreamServer::listen`] for the listener that accepted it.
    pub fn listener(&self) -> &str {
        self.inner.as_ref().map_or("", |inner| self.dispatch.listener(inner.listener))
    }

    /// Reports whether this process drains. A connection should then end between two requests, with a last message to the
    /// client. It is cut at the drain deadline ([`Timeouts::drain`](crate::Timeouts::drain)).
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Gives the connection back until there is something to read. Meanwhile it takes no thread, is not in flight, and after
    /// a handover moves to the new process, which its client does not notice. Then it comes out of [`Incoming`] again, there.
    ///
    /// Call it between two requests: bytes that the program has read and not used are lost, and so is the program's state of
    /// this connection.
    ///
    /// # Errors
    /// The connection, if no process would serve its next request: this one stops, or the successor does not take it. Send a
    /// last message and end it.
    pub fn park(mut self) -> Result<(), Connection> {
        let stays = |inner: &NetConnection| match self.dispatch.phase.get() {
            Phase::HandedOver => self.dispatch.parking.outbox.may_take(inner) || !self.drain.is_draining(),
            _ => !self.drain.is_draining(),
        };
        match self.inner.take() {
            Some(inner) if stays(&inner) => {
                self.dispatch.take_back(&inner);
                match self.make_ready(&inner) {
                    Ok(()) => self.dispatch.rest(inner),
                    Err(e) => {
                        debug!("can't park a connection: {e}");
                        self.dispatch.end(inner, CloseReason::Broken);
                    }
                }
                Ok(())
            }
            inner => {
                self.inner = inner;
                Err(self)
            }
        }
    }

    /// Back to the state of an accepted connection, because another process may get it next.
    fn make_ready(&self, inner: &NetConnection) -> io::Result<()> {
        let socket = SockRef::from(&inner.stream);
        if self.timed.load(Ordering::Relaxed) {
            socket.set_read_timeout(None)?;
            socket.set_write_timeout(None)?;
        }
        socket.set_nonblocking(true)
    }

    /// How long a read waits before it fails with `WouldBlock`. Default, and None: indefinitely. Zero is an error. Parking
    /// removes it.
    ///
    /// # Errors
    /// As of [`TcpStream::set_read_timeout`].
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.timed.store(true, Ordering::Relaxed);
        match self.stream()? {
            Stream::Tcp(stream) => stream.set_read_timeout(timeout),
            Stream::Unix(stream) => stream.set_read_timeout(timeout),
            #[cfg(feature = "tls")]
            Stream::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// How long a write waits before it fails with `WouldBlock`. Default, and None: indefinitely. Zero is an error. Parking
    /// removes it.
    ///
    /// # Errors
    /// As of [`TcpStream::set_write_timeout`].
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.timed.store(true, Ordering::Relaxed);
        match self.stream()? {
            Stream::Tcp(stream) => stream.set_write_timeout(timeout),
            Stream::Unix(stream) => stream.set_write_timeout(timeout),
            #[cfg(feature = "tls")]
            Stream::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The socket, for its options. None on a unix socket.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self.stream() {
            Ok(Stream::Tcp(stream)) => Some(&**stream),
            _ => None,
        }
    }

    /// The socket, for its options. None on TCP.
    pub fn unix(&self) -> Option<&UnixStream> {
        match self.stream() {
            Ok(Stream::Unix(stream)) => Some(&**stream),
            _ => None,
        }
    }

    fn stream(&self) -> io::Result<&Stream> {
        let inner = self.inner.as_ref();
        inner.map(|inner| &inner.stream).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(mut inner) = self.inner.take() else { return };
        self.dispatch.take_back(&inner);
        let ready = self.make_ready(&inner);
        if thread::panicking() || ready.is_err() {
            inner.stream.reset_on_close();
            return self.dispatch.end(inner, CloseReason::Broken);
        }
        lock(&self.dispatch.counters).ends(CloseReason::Detached, || inner.about(String::new()));
        inner.begin_lingering(CloseReason::Detached);
        self.dispatch.linger(inner, CloseReason::Detached);
    }
}

impl Read for &Connection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream()?.read(buf)
    }
}

impl Write for &Connection {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream()?.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Connection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }
}

impl Write for Connection {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
