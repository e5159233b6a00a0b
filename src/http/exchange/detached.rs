//! Connections that leave the pool of workers: event streams and other protocols, each on a thread of its own,
//! named, counted and limited.
//!
//! **A response that is written has a thread, one that is pulled has none.** Code that writes can't be stopped in the
//! middle and continued by another worker; an iterator can (`Body::from_chunks`).
//!
//! **Threads are woken without a descriptor for each**: event streams wait for the phase's Condvar, other protocols as
//! `conversation` says.
//!
//! **Where closes are spread, `heirloom-closes` calls the wakers**: a WebSocket gets its 1001 whatever its own thread waits
//! for. The thread exists only in such a drain.

use std::io::{self, ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::base::budget::Budget;
use crate::base::close_reason::CloseReason;
use crate::base::contain_panic::panic_text;
use crate::base::log::{debug, error};
use crate::base::phase::{Drain, Phase, PhaseWatch};
use crate::base::status::{Counters, InFlight, RunningHandler};
use crate::base::sync::lock;
use crate::base::threads::{Job, JobThread, spawn};
use crate::http::codec::encode::{self, BodyFraming, LAST_CHUNK};
use crate::http::exchange::blocking::write_all;
use crate::http::exchange::conversation::{Conversation, DrainEvents, Waker};
use crate::http::exchange::on_end::Ending;
use crate::http::exchange::resume::LeavingStream;
use crate::http::exchange::{HttpConnection, Progress, drop_contained};
use crate::net::acceptor::{Lingered, Parking};
use crate::net::stream::Stream;
use crate::net::transfer::{LongUnread, StreamKind};
use crate::web::body::{DetachedWriter, UpgradeHandler};
use crate::web::resume::{DetachedOut, Exit, Passage, Resume};
use crate::web::upgrade::{Parts, Upgraded};
use litemap::LiteMap;

/// How often `heirloom-closes` looks whose turn has come.
const TURNS: Duration = Duration::from_millis(50);

/// The threads of one server's detached connections.
pub(crate) struct Detached {
    limit: usize,
    /// Descriptors besides those of connections.
    descriptors: Budget,
    phase: PhaseWatch,
    /// How streams of other processes continue here, by name.
    resumes: LiteMap<String, Resume>,
    inner: Mutex<RunningThreads>,
}

struct RunningThreads {
    /// Threads that are reserved or in use.
    count: usize,
    next: u64,
    running: LiteMap<u64, RunningTask>,
    /// Of the connections that speak other protocols, if there is one.
    drain_events: Weak<DrainEvents>,
    /// Written only by the thread that holds the lock.
    counters: Arc<Counters>,
}

struct RunningTask {
    what: String,
    since: Instant,
    drain: Drain,
    /// None once it was notified that the process drains, and for event streams.
    waker: Option<Arc<Waker>>,
}

/// A thread that waits for its connection, and counts against the limit.
pub(super) struct ReservedThread {
    place: Place,
    thread: JobThread,
    /// Set for a thread that speaks another protocol.
    waker: Option<Arc<Waker>>,
}

/// Counts a thread until it is dropped.
struct Place {
    detached: Arc<Detached>,
    id: u64,
}

/// A connection's way to a thread of its own.
pub(super) struct Detachment {
    pub(super) thread: ReservedThread,
    /// Bytes that are sent before anything else.
    pub(super) unsent: Vec<u8>,
    /// The bytes that another process has read, if they are many.
    pub(super) unread: Option<LongUnread>,
    pub(super) task: Task,
    /// Method and path of the request, for the log.
    pub(super) what: String,
    /// How long a write may wait for the client.
    pub(super) stall: Duration,
    /// By which another process knows how to continue. None for a stream that ends with this one.
    pub(super) name: Option<Arc<str>>,
}

/// What a thread does with its connection.
pub(super) enum Task {
    Stream { write: DetachedWriter, framing: BodyFraming, ending: Option<Ending> },
    Upgrade { speak: UpgradeHandler, ending: Option<Ending> },
}

impl Detached {
    /// A pool of at most `limit` threads.
    pub(crate) fn new(
        limit: usize,
        descriptors: Budget,
        phase: PhaseWatch,
        counters: Arc<Counters>,
        resumes: LiteMap<String, Resume>,
    ) -> Detached {
        let inner = RunningThreads {
            count: 0,
            next: 0,
            running: LiteMap::new(),
            drain_events: Weak::new(),
            counters,
        };
        Detached { limit, descriptors, phase, resumes, inner: Mutex::new(inner) }
    }

    /// The names of the streams that this process can continue.
    pub(super) fn resumed_names(&self) -> Vec<String> {
        self.resumes.keys().cloned().collect()
    }

    pub(super) fn resume(&self, name: &str, kind: StreamKind) -> Option<Resume> {
        self.resumes.get(name).filter(|resume| resume.kind() == kind).cloned()
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().count
    }

    /// Each connection.
    pub(crate) fn in_flight(&self) -> Vec<InFlight> {
        let lock = self.lock();
        let in_flight = |it: &RunningTask| {
            let (what, age) = (it.what.to_string(), Some(it.since.elapsed()));
            InFlight { what, place: ", detached,", age }
        };
        lock.running.values().map(in_flight).collect()
    }

    pub(crate) fn handlers(&self) -> Vec<RunningHandler> {
        let lock = self.lock();
        let handler = |(id, it): (&u64, &RunningTask)| {
            RunningHandler::new(&it.what, it.since.elapsed(), thread_name(*id))
        };
        lock.running.iter().map(handler).collect()
    }

    /// Notifies all connections with a waker that the process drains, each at its turn. The phase must say so already.
    pub(crate) fn drain(self: &Arc<Detached>) {
        if let Some(events) = self.drain_events() {
            events.begin();
        }
        if self.notify_by_turns() {
            return;
        }
        let detached = Arc::clone(self);
        let notify = move || {
            while !detached.notify_by_turns() {
                detached.phase.wait_for_change(TURNS);
            }
        };
        if let Err(e) = spawn(thread::Builder::new().name("heirloom-closes".into()), notify) {
            error!("no thread to spread closes: {e}: all are announced now");
            self.phase.shorten_spread(Duration::ZERO);
            self.notify_by_turns();
        }
    }

    /// Notifies the connections whose turn has come. True when the last turn has.
    fn notify_by_turns(&self) -> bool {
        // A connection that comes later finds that its turn has come.
        let is_over = self.phase.get() == Phase::Exited
            || self.phase.spread_end().is_none_or(|end| end <= Instant::now());
        let due = |(_, it): (&u64, &mut RunningTask)| it.waker.take_if(|_| it.drain.is_draining());
        let wakers: Vec<_> = self.lock().running.iter_mut().filter_map(due).collect();
        wakers.iter().for_each(|waker| waker.drain());
        if let Some(events) = self.drain_events().filter(|_| is_over) {
            events.end();
        }
        is_over
    }

    fn drain_events(&self) -> Option<Arc<DrainEvents>> {
        self.lock().drain_events.upgrade()
    }

    /// Reserves a thread for a response. None at the limit, or if the system has no more threads. This comes before
    /// the response is started, as long as another one can be sent instead.
    pub(super) fn reserve_for_stream(self: &Arc<Detached>) -> Option<ReservedThread> {
        self.reserve(None)
    }

    /// As `reserve_for_stream`, for another protocol. Also None if no descriptor is left for the events of a drain.
    pub(super) fn reserve_for_upgrade(self: &Arc<Detached>) -> Option<ReservedThread> {
        let events = {
            let mut lock = self.lock();
            lock.drain_events.upgrade().map_or_else(
                || {
                    let events = Arc::new(DrainEvents::new()?);
                    lock.drain_events = Arc::downgrade(&events);
                    Ok::<_, io::Error>(events)
                },
                Ok,
            )
        };
        match events {
            Ok(events) => self.reserve(Some(Arc::new(Waker::new(events, self.descriptors.clone())))),
            Err(e) => {
                error!("no descriptor for a detached connection: {e}");
                None
            }
        }
    }

    fn reserve(self: &Arc<Detached>, waker: Option<Arc<Waker>>) -> Option<ReservedThread> {
        // It is counted before the thread starts, so that the limit holds.
        let place = {
            let mut lock = self.lock();
            if lock.count >= self.limit {
                return None;
            }
            lock.count = lock.count.saturating_add(1);
            lock.next = lock.next.wrapping_add(1);
            Place { detached: Arc::clone(self), id: lock.next }
        };
        match JobThread::start(thread::Builder::new().name(thread_name(place.id))) {
            Ok(thread) => Some(ReservedThread { place, thread, waker }),
            Err(e) => {
                error!("no thread for a detached connection: {e}");
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, RunningThreads> {
        lock(&self.inner)
    }
}

fn thread_name(id: u64) -> String {
    format!("heirloom-detached-{id}")
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lock = self.detached.lock();
        lock.count = lock.count.saturating_sub(1);
    }
}

impl ReservedThread {
    /// Runs a job, and ends.
    pub(super) fn run_last(self, job: Job) {
        let thread = self.thread.clone();
        let _ = thread.run(Box::new(move || {
            let _thread = self;
            job();
        }));
    }
}

impl Detachment {
    /// Gives the connection to the thread.
    pub(super) fn start(self, client: Box<HttpConnection>, parking: &Arc<Parking<Progress>>) {
        let (detached, id) = (Arc::clone(&self.thread.place.detached), self.thread.place.id);
        let thread = self.thread.thread.clone();
        let (what, waker) = (self.what.clone(), self.thread.waker.clone());
        let drain = client.conn_info.drain.clone();
        detached.lock().running.insert(id, RunningTask { what, since: Instant::now(), drain, waker });
        let parking = Arc::clone(parking);
        let job = move || {
            let stall = self.stall;
            // The thread counts until its connection is closed.
            let (client, thread, leaving) = self.run(client);
            {
                let mut lock = detached.lock();
                let what = lock.running.remove(&id).map(|task| task.what).unwrap_or_default();
                if let Some(leaving) = leaving {
                    drop(lock);
                    return leaving.depart(client, thread, (what, stall), &parking);
                }
                lock.counters.ends(CloseReason::Detached, || client.about(what));
            }
            let mut lingered = Lingered::More(client);
            // No worker waits for this thread, so it may linger here.
            while let Lingered::More(client) = lingered {
                lingered = parking.linger(client);
            }
            if let Lingered::Over(client) = lingered {
                debug!("connection closed: {}", CloseReason::Detached);
                detached.lock().counters.closed(CloseReason::Detached);
                parking.close(client);
            }
        };
        // The thread waits for it.
        let _ = thread.run(Box::new(job));
    }

    /// Runs the task. Returns the connection in the state in which it is to be closed, unless the stream leaves.
    fn run(
        self,
        mut client: Box<HttpConnection>,
    ) -> (Box<HttpConnection>, ReservedThread, Option<LeavingStream>) {
        let Detachment { thread, unsent, unread, task, what, stall, name } = self;
        let started = unread.map_or(Ok(()), |mut unread| {
            client.buffered = unread.file.read(unread.bytes)?;
            Ok(())
        });
        if let Err(e) = started.and_then(|()| write_all(&client.stream, &unsent, stall)) {
            debug!("{what}: the client closed before the stream started: {e}");
            drop_contained(task, || what.clone());
            // The client did not get the answers before this response either.
            drop(std::mem::take(&mut client.progress.endings));
            client.begin_lingering(CloseReason::Detached);
            return (client, thread, None);
        }
        client.progress.endings.note_sent(unsent.len());
        let exit = name.and_then(|name| {
            let resume = thread.place.detached.resumes.get(&*name)?.clone();
            Some(Exit { name, resume })
        });
        let passage = Passage::new(exit, Arc::clone(&client.conn_info));
        let framing = if let Task::Stream { framing, .. } = &task { Some(*framing) } else { None };
        let by_close = framing == Some(BodyFraming::UntilClose);
        let (outcome, ending) = match task {
            Task::Stream { write, framing, ending } => {
                stream(&client, write, (framing, stall), ending, &passage)
            }
            Task::Upgrade { speak, ending } => {
                (upgrade(&mut client, speak, thread.waker.as_ref(), stall, &passage), ending)
            }
        };
        let complete = matches!(outcome, Ok(Ok(())));
        if let (true, Some(leaving)) = (complete, passage.take()) {
            return (client, thread, Some(LeavingStream { leaving, ending, framing }));
        }
        if let (true, Some(ending)) = (complete, ending) {
            ending.complete();
        }
        match &outcome {
            Ok(Ok(())) => {}
            Ok(Err(e)) => debug!("{what}: ended: {e}"),
            Err(panic) => {
                error!("{what}: panicked on its own thread: {}", panic_text(&**panic));
                thread.place.detached.lock().counters.panicked();
            }
        }
        drop_contained(outcome, || what.clone());
        if by_close && !complete {
            // Where only the close ends a body, an orderly close would make it look complete.
            client.stream.reset_on_close();
        } else {
            client.begin_lingering(CloseReason::Detached);
        }
        (client, thread, None)
    }
}

/// The result of the user's code, which may have panicked.
type TaskResult = thread::Result<io::Result<()>>;

fn stream(
    client: &HttpConnection,
    write: DetachedWriter,
    (framing, stall): (BodyFraming, Duration),
    mut ending: Option<Ending>,
    passage: &Passage,
) -> (TaskResult, Option<Ending>) {
    let mut writer = Writer { stream: &client.stream, framing, stall, passage, given: 0 };
    let outcome = catch_unwind(AssertUnwindSafe(|| write(&mut writer)));
    ending.iter_mut().for_each(|ending| ending.set_bytes(writer.given));
    // The missing last chunk shows the client that a stream is incomplete.
    let outcome = outcome.map(|written| match written {
        Ok(()) if framing == BodyFraming::Chunked && !passage.leaves() => {
            write_all(&client.stream, LAST_CHUNK, stall)
        }
        other => other,
    });
    (outcome, ending)
}

fn upgrade(
    client: &mut HttpConnection,
    speak: UpgradeHandler,
    waker: Option<&Arc<Waker>>,
    stall: Duration,
    passage: &Passage,
) -> TaskResult {
    let Some(waker) = waker else { return Ok(Err(ErrorKind::Unsupported.into())) };
    let drain = client.conn_info.drain.clone();
    let stream = client.stream.clone();
    let io = Arc::new(Conversation { stream, drain, waker: Arc::clone(waker), has_reported: false.into() });
    let early = std::mem::take(&mut client.buffered);
    let parts = Parts { io, early, passage: passage.clone() };
    catch_unwind(AssertUnwindSafe(|| speak(Upgraded::new(parts, stall)))).map(Ok)
}

/// Frames each write as a chunk and sends it at once.
struct Writer<'a> {
    stream: &'a Stream,
    framing: BodyFraming,
    stall: Duration,
    passage: &'a Passage,
    /// Bytes of the body so far.
    given: u64,
}

impl DetachedOut for Writer<'_> {
    fn passage(&self) -> Option<&Passage> {
        Some(self.passage)
    }
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
