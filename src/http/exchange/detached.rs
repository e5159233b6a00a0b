//! Connections that leave the pool: event streams and other protocols, each on a thread of its own,
//! named, counted and capped.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::base::budget::{Budget, Share};
use crate::base::close_reason::CloseReason;
use crate::base::log::{debug, error};
use crate::base::panic::panic_text;
use crate::base::status::Counters;
use crate::base::sync::lock;
use crate::http::codec::encode::{self, BodyFraming, LAST_CHUNK};
use crate::http::exchange::blocking::{wait_for, write_all};
use crate::http::exchange::ending::Ending;
use crate::http::exchange::{Client, Progress, let_go};
use crate::net::acceptor::Parking;
use crate::net::stream::Stream;
use crate::web::body::{DetachedWriter, UpgradeHandler};
use crate::web::upgrade::{Duplex, Parts, Upgraded, Wants};

/// The threads of one server's detached connections.
#[derive(Debug)]
pub(crate) struct Detached {
    cap: usize,
    /// Beyond those of connections.
    descriptors: Budget,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// A place is taken before a thread is there, so that the cap holds.
    places: usize,
    next: u64,
    running: BTreeMap<u64, Running>,
    /// Written under the lock, since these threads are many.
    counters: Arc<CachePadded<Counters>>,
}

#[derive(Debug)]
struct Running {
    what: String,
    since: Instant,
    bell: Option<Arc<Waker>>,
}

/// A thread that waits for what it is to do, and its place under the cap.
#[derive(Debug)]
pub(super) struct Place {
    detached: Arc<Detached>,
    id: u64,
    thread: mpsc::Sender<Job>,
    /// For one that speaks another protocol.
    bell: Option<Arc<Waker>>,
}

/// Wakes a thread that waits for its client.
struct Waker {
    event: EventFd,
    at_drain: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// Of the event.
    _descriptor: Share,
}

type Job = Box<dyn FnOnce() + Send>;

/// What a thread is to do.
pub(super) enum Task {
    Stream { write: DetachedWriter, framing: BodyFraming, ending: Option<Ending> },
    Upgrade { speak: UpgradeHandler, ending: Option<Ending> },
}

impl Detached {
    pub(crate) fn new(cap: usize, descriptors: Budget, counters: Arc<CachePadded<Counters>>) -> Detached {
        let inner = Inner { places: 0, next: 0, running: BTreeMap::new(), counters };
        Detached { cap, descriptors, inner: Mutex::new(inner) }
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().places
    }

    /// What runs, one line each.
    pub(crate) fn in_flight(&self) -> Vec<String> {
        let lock = self.lock();
        let line = |it: &Running| format!("{}, detached, for {:.1?}", it.what, it.since.elapsed());
        lock.running.values().map(line).collect()
    }

    /// Tells all who can be told that the process drains; its phase says so already.
    pub(crate) fn drain(&self) {
        let bells: Vec<_> = self.lock().running.values().filter_map(|it| it.bell.clone()).collect();
        bells.iter().for_each(|bell| bell.drain());
    }

    /// None: as many run as may, or as the system lets us have. Asked for before the response is
    /// begun, so that there still is another one.
    pub(super) fn place(self: &Arc<Detached>, with_bell: bool) -> Option<Place> {
        let descriptor = if with_bell { Some(self.descriptors.one()?) } else { None };
        let bell = match descriptor.map(Waker::new).transpose() {
            Ok(bell) => bell.map(Arc::new),
            Err(e) => {
                error!("no descriptor for a detached connection: {e}");
                return None;
            }
        };
        let (thread, jobs) = mpsc::channel::<Job>();
        let place = {
            let mut lock = self.lock();
            if lock.places >= self.cap {
                return None;
            }
            lock.places = lock.places.saturating_add(1);
            lock.next = lock.next.wrapping_add(1);
            Place { detached: Arc::clone(self), id: lock.next, thread, bell }
        };
        let run = move || {
            if let Ok(job) = jobs.recv() {
                job();
            }
        };
        match thread::Builder::new().name(format!("heirloom-detached-{}", place.id)).spawn(run) {
            Ok(_) => Some(place),
            Err(e) => {
                error!("no thread for a detached connection: {e}");
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lock = self.detached.lock();
        lock.places = lock.places.saturating_sub(1);
    }
}

/// Gives the connection to a thread. `unsent` goes out first.
pub(super) fn detach(
    place: Place,
    client: Box<Client>,
    unsent: Vec<u8>,
    task: Task,
    what: String,
    stall: Duration,
    parking: &Arc<Parking<Progress>>,
) {
    let running = Running { what: what.clone(), since: Instant::now(), bell: place.bell.clone() };
    place.detached.lock().running.insert(place.id, running);
    let (thread, parking) = (place.thread.clone(), Arc::clone(parking));
    let job = move || {
        let client = work(client, unsent, task, &what, stall, &place);
        finish(&place.detached, place.id, client, &parking);
    };
    // It waits for nothing else.
    let _ = thread.send(Box::new(job));
}

fn finish(detached: &Detached, id: u64, client: Box<Client>, parking: &Parking<Progress>) {
    detached.lock().running.remove(&id);
    if let Some(client) = parking.linger(client) {
        debug!("connection closed: {}", CloseReason::Detached);
        detached.lock().counters.closed(CloseReason::Detached);
        parking.close(client);
    }
}

/// Leaves the connection as it is to be closed.
fn work(
    mut client: Box<Client>,
    unsent: Vec<u8>,
    task: Task,
    what: &str,
    stall: Duration,
    place: &Place,
) -> Box<Client> {
    if let Err(e) = write_all(&client.stream, &unsent, stall) {
        debug!("{what}: the client closed before the stream started: {e}");
        let_go(task, || what.to_owned());
        // Nor did it get the answers before that.
        drop(std::mem::take(&mut client.progress.endings));
        client.begin_lingering(CloseReason::Detached);
        return client;
    }
    client.progress.endings.note_sent(unsent.len());
    let by_close = matches!(task, Task::Stream { framing: BodyFraming::UntilClose, .. });
    let (outcome, ending) = match task {
        Task::Stream { write, framing, mut ending } => {
            let mut writer = Writer { stream: &client.stream, framing, stall, given: 0 };
            let outcome = catch_unwind(AssertUnwindSafe(|| write(&mut writer)));
            ending.iter_mut().for_each(|ending| ending.set_bytes(writer.given));
            // Without its last chunk the client can tell that a stream is incomplete.
            let outcome = outcome.map(|written| match written {
                Ok(()) if framing == BodyFraming::Chunked => write_all(&client.stream, LAST_CHUNK, stall),
                other => other,
            });
            (outcome, ending)
        }
        Task::Upgrade { speak, ending } => {
            let outcome = match &place.bell {
                Some(bell) => {
                    let stream = client.stream.clone();
                    let io = Arc::new(Conversation { stream, bell: Arc::clone(bell) });
                    let early = std::mem::take(&mut client.buffered);
                    let parts = Parts { io, conn_info: Arc::clone(&client.conn_info), early };
                    catch_unwind(AssertUnwindSafe(|| speak(Upgraded::new(parts, stall)))).map(Ok)
                }
                None => Ok(Err(ErrorKind::Unsupported.into())),
            };
            (outcome, ending)
        }
    };
    let whole = matches!(outcome, Ok(Ok(())));
    if let (true, Some(ending)) = (whole, ending) {
        ending.complete();
    }
    match &outcome {
        Ok(Ok(())) => {}
        Ok(Err(e)) => debug!("{what}: ended: {e}"),
        Err(panic) => {
            error!("{what}: panicked on its own thread: {}", panic_text(&**panic));
            place.detached.lock().counters.panicked();
        }
    }
    let_go(outcome, || what.to_owned());
    if by_close && !whole {
        // Where only the close ends a body, an orderly one would make it look whole.
        client.stream.reset_on_close();
    } else {
        client.begin_lingering(CloseReason::Detached);
    }
    client
}

/// Frames each write as a chunk and sends it at once.
struct Writer<'a> {
    stream: &'a Stream,
    framing: BodyFraming,
    stall: Duration,
    /// Bytes of the body, so far.
    given: u64,
}

impl Write for Writer<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.framing == BodyFraming::Chunked {
            let mut chunk = Vec::with_capacity(buf.len().saturating_add(16));
            encode::chunk(&mut chunk, buf);
            write_all(self.stream, &chunk, self.stall)?;
        } else {
            write_all(self.stream, buf, self.stall)?;
        }
        self.given = self.given.saturating_add(buf.len() as u64);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection that speaks another protocol.
struct Conversation {
    stream: Stream,
    bell: Arc<Waker>,
}

impl Duplex for Conversation {
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }

    fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }

    fn wait(&self, wants: Wants, timeout: Option<Duration>) -> io::Result<bool> {
        // The socket does not tell of what TLS has decrypted already.
        if wants.read && self.stream.has_more() {
            return Ok(true);
        }
        let flag = |wanted, flag| if wanted { flag } else { PollFlags::empty() };
        let flags = flag(wants.read, PollFlags::POLLIN) | flag(wants.write, PollFlags::POLLOUT);
        let stream = PollFd::new(self.stream.as_fd(), flags);
        if !wants.ring {
            return wait_for(&mut [stream], timeout);
        }
        let mut fds = [stream, PollFd::new(self.bell.event.as_fd(), PollFlags::POLLIN)];
        let woken = wait_for(&mut fds, timeout)?;
        let [_, bell] = fds;
        // Taken before what it stands for is looked at: a ring that comes then is one more.
        if bell.any() == Some(true) {
            let _ = self.bell.event.read();
        }
        Ok(woken)
    }

    fn ring(&self) {
        self.bell.ring();
    }

    fn at_drain(&self, tell: Box<dyn FnOnce() + Send>) {
        *self.bell.lock() = Some(tell);
    }

    fn shutdown_write(&self) {
        self.stream.shutdown_write();
    }
}

impl Waker {
    fn new(descriptor: Share) -> io::Result<Waker> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Waker { event, at_drain: Mutex::new(None), _descriptor: descriptor })
    }

    fn ring(&self) {
        // It fails only when it has rung 2^64 times and nobody came.
        let _ = self.event.write(1);
    }

    fn drain(&self) {
        let tell = self.lock().take();
        if let Some(tell) = tell {
            tell();
        }
        self.ring();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<dyn FnOnce() + Send>>> {
        lock(&self.at_drain)
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").finish_non_exhaustive()
    }
}
