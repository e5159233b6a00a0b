//! Connections that leave the pool: event streams and other protocols, each on a thread of its own,
//! named, counted and capped.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use log::{debug, error};
use nix::poll::PollFlags;

use crate::acceptor::Parking;
use crate::body::{DetachedWriter, Duplex, UpgradeHandler, Upgraded};
use crate::close_reason::CloseReason;
use crate::connection::Stream;
use crate::exchange::blocking::{wait, write_all};
use crate::exchange::ending::Ending;
use crate::exchange::{Client, Progress, let_go, panic_text};
use crate::http1::encode::{self, BodyFraming, LAST_CHUNK};
use crate::status::Tally;

/// The threads of one server's detached connections.
#[derive(Debug)]
pub(crate) struct Detached {
    cap: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// A place is taken before a thread is there, so that the cap holds.
    places: usize,
    next: u64,
    running: BTreeMap<u64, (String, Instant)>,
    /// Written under the lock, since these threads are many.
    tally: Arc<CachePadded<Tally>>,
}

/// A thread that waits for what it is to do, and its place under the cap.
#[derive(Debug)]
pub(super) struct Place {
    detached: Arc<Detached>,
    id: u64,
    thread: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

/// What a thread is to do.
pub(super) enum Task {
    Stream { write: DetachedWriter, framing: BodyFraming, ending: Option<Ending> },
    Upgrade { speak: UpgradeHandler, ending: Option<Ending> },
}

impl Detached {
    pub(crate) fn new(cap: usize, tally: Arc<CachePadded<Tally>>) -> Detached {
        let inner = Inner { places: 0, next: 0, running: BTreeMap::new(), tally };
        Detached { cap, inner: Mutex::new(inner) }
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().places
    }

    /// What runs, one line each.
    pub(crate) fn in_flight(&self) -> Vec<String> {
        let lock = self.lock();
        let line =
            |(what, since): &(String, Instant)| format!("{what}, detached, for {:.1?}", since.elapsed());
        lock.running.values().map(line).collect()
    }

    /// None: as many run as may, or as the system lets us have. Asked for before the response is
    /// begun, so that there still is another one.
    pub(super) fn place(self: &Arc<Detached>) -> Option<Place> {
        let (thread, jobs) = mpsc::channel::<Job>();
        let place = {
            let mut lock = self.lock();
            if lock.places >= self.cap {
                return None;
            }
            lock.places += 1;
            lock.next += 1;
            Place { detached: Arc::clone(self), id: lock.next, thread }
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
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.detached.lock().places -= 1;
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
    place.detached.lock().running.insert(place.id, (what.clone(), Instant::now()));
    let (thread, parking) = (place.thread.clone(), Arc::clone(parking));
    let job = move || {
        let client = work(client, unsent, task, &what, stall, &place.detached);
        finish(&place.detached, place.id, client, &parking);
    };
    // It waits for nothing else.
    let _ = thread.send(Box::new(job));
}

fn finish(detached: &Detached, id: u64, client: Box<Client>, parking: &Parking<Progress>) {
    detached.lock().running.remove(&id);
    if let Some(client) = parking.linger(client) {
        detached.lock().tally.closed(CloseReason::Detached);
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
    detached: &Detached,
) -> Box<Client> {
    if let Err(e) = write_all(&client.stream, &unsent, stall) {
        debug!("{what}: the client is gone before the stream began: {e}");
        let_go(task, || what.to_owned());
        client.begin_lingering(CloseReason::Detached);
        return client;
    }
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
        Task::Upgrade { speak, ending } => match client.stream.try_clone() {
            Ok(stream) => {
                let buffered = std::mem::take(&mut client.buffered);
                let io = Conversation { stream, buffered, stall, read_timeout: None };
                (catch_unwind(AssertUnwindSafe(|| speak(Upgraded::new(io)))).map(Ok), ending)
            }
            Err(e) => (Ok(Err(e)), ending),
        },
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
            detached.lock().tally.panicked();
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
            let mut chunk = Vec::with_capacity(buf.len() + 16);
            encode::chunk(&mut chunk, buf);
            write_all(self.stream, &chunk, self.stall)?;
        } else {
            write_all(self.stream, buf, self.stall)?;
        }
        self.given += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection that speaks another protocol.
struct Conversation {
    stream: Stream,
    buffered: Vec<u8>,
    stall: Duration,
    read_timeout: Option<Duration>,
}

impl Duplex for Conversation {
    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }
}

impl Read for Conversation {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.buffered.is_empty() {
            let n = self.buffered.len().min(buf.len());
            buf[..n].copy_from_slice(&self.buffered[..n]);
            self.buffered.drain(..n);
            return Ok(n);
        }
        loop {
            match self.stream.read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    wait(&self.stream, PollFlags::POLLIN, self.read_timeout)?
                }
                other => return other,
            }
        }
    }
}

impl Write for Conversation {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        write_all(&self.stream, buf, self.stall)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
