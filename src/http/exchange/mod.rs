//! One worker at work on one connection: it reads what has arrived, serves each complete request, writes what the
//! socket takes, and parks the connection when it would have to wait. A worker never waits for a client.
//!
//! ```text
//!               ┌───────────────────── kept ──────────────────────┐
//!               ▼                                                 │
//!   read_head ─────► read_body ─────► call ──► respond ──► send_body ──► discard
//!     │     │          │               ▲         │                         (what the handler has
//!     │     └──────► upload ───────────┘         │                          not read of a body)
//!     ▼                ▼                         ▼
//!   refuse ──────────────────────────────────► closing
//! ```
//!
//! Each step is a file. [`ExchangeStage`] says which step is next; a step either goes on, or ends the worker's turn with
//! what happens to the connection now, its [`Disposition`].
//!
//! **A turn has a time limit, and needs no clock of its own.** The time at which a handler ends is measured for its route's
//! average anyway; the clock is read only for a response or a body that takes several steps. The end of a handler is the
//! beginning of the next one if both requests came in one read, and the start of the turn that of the first one, whose bytes are
//! there: so a request costs one reading of the clock, and a turn one. After any other read or write it is read again, because
//! that time must not count as the handler's. 5 ms are long compared to what it
//! costs to queue a connection (some microseconds, and a check whether its client is still there), and longer than 128 fast
//! requests take: a client that pipelines such requests gets the same turns as without the limit.

mod blocking;
mod call_handler;
mod conversation;
pub(crate) mod deadline;
pub(crate) mod detached;
mod discard;
mod error_page;
#[cfg(feature = "tls")]
mod handshake;
mod input;
mod keep_alive;
mod on_end;
mod output;
mod park;
mod progress;
#[cfg(feature = "proxy")]
mod proxy_header;
mod read_body;
mod read_head;
mod refuse;
mod respond;
mod resume;
mod send_body;
mod send_file;
mod stall_limits;
mod streaming_body;
mod worker;

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::base::close_reason::CloseReason;
use crate::base::contain_panic::{contain, panic_text};
use crate::base::limits::{Limits, Timeouts};
use crate::base::log::{debug, error};
use crate::base::phase::PhaseWatch;
use crate::base::wait_group::WaitGroup;
use crate::net::acceptor::{Deadline, Lingered, Parking};
use crate::net::connection::{Activity, Cause, Connection, Ready};
use crate::net::scheduler::latency::HandlerLatency;
use crate::net::scheduler::queue::{Queue, Taken};
use crate::web::error_pages::ErrorPages;
use crate::web::handler::Handler;
use crate::web::wrap::Entries;

use deadline::Deadlines;
use detached::{Detached, Detachment};
pub(crate) use progress::Progress;
use progress::{ExchangeStage, Unread};
pub(crate) use read_body::Stores;
pub(crate) use refuse::overloaded;
pub(crate) use resume::StreamResumer;
use streaming_body::StreamingPermit;
use worker::method_and_path;
pub(crate) use worker::{CurrentRequest, WorkerState};

/// A turn that has lasted this long, or has served this many requests, ends after the request, the
/// run of chunks or the piece of a response in progress: the connection goes to the end of the queue, so that
/// a client that always has more for a worker to do is one of many.
const TURN_TIME: Duration = Duration::from_millis(5);
const TURN_REQUESTS: usize = 128;

/// A connection that speaks HTTP.
pub(crate) type HttpConnection = Connection<Progress>;

/// What is common to all connections of one listener.
pub(crate) struct ListenerHandler {
    pub(crate) handler: HandlerBox,
    pub(crate) latency: HandlerLatency,
}

/// A handler, with a `Debug` that does not require one of the handler.
pub(crate) struct HandlerBox(pub(crate) Arc<dyn Handler>);

/// What all workers of a server share.
pub(crate) struct Common {
    pub(crate) handlers: Vec<ListenerHandler>,
    pub(crate) parking: Arc<Parking<Progress>>,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) stores: Stores,
    pub(crate) phase: PhaseWatch,
    pub(crate) wait_group: WaitGroup,
    pub(crate) detached: Arc<Detached>,
    pub(crate) deadlines: Arc<Deadlines>,
    pub(crate) error_pages: Option<ErrorPages>,
}

/// What happens to a connection when its worker's turn ends.
enum Disposition {
    /// The acceptor keeps it until the client sends or takes more, or until the deadline.
    Park(Deadline),
    /// Other connections are served first.
    Requeue,
    /// It goes to the successor.
    HandOver,
    /// It is queued until a streaming upload may start.
    WaitForPermit,
    Close(CloseReason),
    /// As `Close`, where the client has closed and all that it sent was read: unread bytes would make the close a reset,
    /// and the last response, which waits for our end, would be lost.
    CloseRead(CloseReason),
    Linger(CloseReason),
    /// The response is incomplete, and only a reset shows it.
    Reset(CloseReason),
    Detach(Box<Detachment>),
}

/// Whether the turn goes on.
type Flow<T = ()> = ControlFlow<Disposition, T>;

/// Serves a connection until it is parked, queued again, closed or detached.
pub(crate) fn serve(
    Ready { connection: mut client, mut cause }: Ready<Progress>,
    mut taken: Taken,
    worker: &mut WorkerState,
    common: &Common,
    queue: &Queue<Ready<Progress>>,
) {
    if let Some(lingering) = client.lingering() {
        return linger(client, lingering.reason, worker, common, queue);
    }
    if let Some(recorder) = &worker.recorder {
        recorder.queue_wait(taken.waited());
    }
    worker.current_request.set_handler(client.handler_index);
    loop {
        let permit = taken.has_permit.then(|| StreamingPermit::taken_with(queue));
        let disposition =
            Exchange::new(&mut client, worker, common, queue, permit, taken.at).run(cause, &taken);
        match settle(client, disposition, worker, common, queue) {
            Some(back) => client = back,
            None => return,
        }
        (taken, cause) = (Taken::directly(), Cause::Event);
    }
}

/// Carries out a disposition. Gives the connection back if there is more to do for it at once.
fn settle(
    mut client: Box<HttpConnection>,
    disposition: Disposition,
    worker: &WorkerState,
    common: &Common,
    queue: &Queue<Ready<Progress>>,
) -> Option<Box<HttpConnection>> {
    match disposition {
        Disposition::Park(deadline) => match common.parking.park(client, deadline) {
            Ok(()) => {}
            // A client that always sends more is one of many.
            Err(back) if queue.has_waiting() => queue.push(&mut vec![Ready::new(back, Cause::Event)]),
            Err(back) => return Some(back),
        },
        Disposition::Requeue => {
            // This worker goes to the queue next.
            queue.push_back(Ready::new(client, Cause::Yielded));
        }
        Disposition::HandOver => common.parking.send_to_successor(client),
        Disposition::WaitForPermit => queue.push_streaming(Ready::new(client, Cause::Event)),
        Disposition::Close(reason) => {
            client.stream.shutdown_write();
            close(client, reason, worker, common);
        }
        Disposition::CloseRead(reason) => {
            client.stream.end_before_close();
            close(client, reason, worker, common);
        }
        Disposition::Linger(reason) => {
            // Our FIN is sent first, because the last bytes wait for it; the `Drop` of the user's values still counts as
            // in flight.
            let guard = client.guard.take();
            client.begin_lingering(reason);
            drop_progress(&mut client);
            drop(guard);
            linger(client, reason, worker, common, queue);
        }
        Disposition::Reset(reason) => {
            client.stream.reset_on_close();
            close(client, reason, worker, common);
        }
        Disposition::Detach(detachment) => detachment.start(client, &common.parking),
    }
    None
}

fn linger(
    client: Box<HttpConnection>,
    reason: CloseReason,
    worker: &WorkerState,
    common: &Common,
    queue: &Queue<Ready<Progress>>,
) {
    match common.parking.linger(client) {
        Lingered::Parked => {}
        // This worker goes to the queue next.
        Lingered::More(client) => queue.push_back(Ready::new(client, Cause::Yielded)),
        Lingered::Over(client) => close(client, reason, worker, common),
    }
}

fn close(mut client: Box<HttpConnection>, reason: CloseReason, worker: &WorkerState, common: &Common) {
    debug!("connection closed: {reason}");
    drop_progress(&mut client);
    worker.counters.closed(reason);
    common.parking.close(client);
}

/// Drops values that may be the user's on a worker, not on the acceptor.
fn drop_progress(client: &mut HttpConnection) {
    let progress = std::mem::take(&mut client.progress);
    let head = progress.head();
    drop_contained(progress, || method_and_path(&head));
}

/// Drops a value of the user's. Its `Drop` may panic, as may that of the panic's payload, and neither changes what was
/// decided. False if it did.
fn drop_contained<T>(value: T, what: impl Fn() -> String) -> bool {
    contain(|| drop(value), |panic| note_panic_of_drop(&what(), panic))
}

fn note_panic_of_drop(what: &str, panic: &(dyn Any + Send)) {
    error!("{what}: panicked when dropped: {}", panic_text(panic));
}

/// One worker's turn with one connection: one exchange of a request and a response after the other.
struct Exchange<'a> {
    client: &'a mut HttpConnection,
    worker: &'a mut WorkerState,
    common: &'a Common,
    queue: &'a Queue<Ready<Progress>>,
    listener_handler: &'a ListenerHandler,
    permit: Option<StreamingPermit<'a>>,
    /// The rest of the request's body, if it is dropped after the response.
    unread: Option<Box<Unread>>,
    /// The last read left room in the buffer: the socket is empty.
    drained: bool,
    /// The head of the request with which the connection ends.
    last_head: Option<Bytes>,
    /// Those of the access log for the response that is being decided on.
    entries: Entries,
    turn: Turn,
}

/// The time for which the worker has the connection.
struct Turn {
    /// Requests so far.
    served: usize,
    /// When it ends, as soon as there is a place to end it.
    ends: Instant,
    /// When it started, the last handler ended, or a body or a response was last continued: precise
    /// enough for deadlines and dates.
    now: Instant,
    /// Whether the next handler begins at `now`: the last one ended then, or the turn started, and nothing was read or written
    /// since except the first bytes of the turn.
    is_current: bool,
}

impl<'a> Exchange<'a> {
    fn new(
        client: &'a mut HttpConnection,
        worker: &'a mut WorkerState,
        common: &'a Common,
        queue: &'a Queue<Ready<Progress>>,
        permit: Option<StreamingPermit<'a>>,
        now: Instant,
    ) -> Exchange<'a> {
        #[expect(clippy::indexing_slicing, reason = "the index comes from the listener's configuration")]
        let listener_handler = &common.handlers[client.handler_index];
        Exchange {
            client,
            worker,
            common,
            queue,
            listener_handler,
            permit,
            unread: None,
            drained: false,
            last_head: None,
            entries: Entries::default(),
            turn: Turn { served: 0, ends: now + TURN_TIME, now, is_current: true },
        }
    }

    /// Takes steps until one of them ends the turn.
    fn run(mut self, cause: Cause, taken: &Taken) -> Disposition {
        let steps = || {
            let mut flow = self.resume(cause, taken);
            loop {
                match flow {
                    ControlFlow::Continue(()) => flow = self.step(),
                    ControlFlow::Break(disposition) => return disposition,
                }
            }
        };
        // A handler's panic is caught where it is called; this is for other code of the user's.
        let disposition = catch_unwind(AssertUnwindSafe(steps)).unwrap_or_else(|panic| {
            error!("a worker panicked outside of handlers: {}", panic_text(&*panic));
            drop_contained(panic, || "a panic".to_owned());
            self.worker.current_request.end();
            Disposition::Reset(CloseReason::ResponseFailed)
        });
        if let Disposition::Close(reason)
        | Disposition::CloseRead(reason)
        | Disposition::Linger(reason)
        | Disposition::Reset(reason) = &disposition
        {
            self.worker.counters.ends(*reason, || {
                let head = self.last_head.take().unwrap_or_else(|| self.client.progress.head());
                self.client.about(method_and_path(&head))
            });
        }
        disposition
    }

    /// Takes over from the connection what it kept while it rested.
    fn resume(&mut self, cause: Cause, taken: &Taken) -> Flow {
        self.client.activity = Activity::Receiving;
        let buffered = std::mem::take(&mut self.client.buffered);
        self.worker.input.load(&buffered);
        self.worker.out.clear();
        self.worker.out.append(&mut self.client.progress.unsent);
        self.client.progress.held = None;
        if let Some(blocked) = &mut self.client.progress.blocked {
            blocked.resume(self.turn.now);
        }
        #[cfg(feature = "proxy")]
        if self.client.conn_info.awaits_proxy_header {
            self.read_proxy_header(cause)?;
        }
        #[cfg(feature = "tls")]
        if self.client.stream.is_handshaking() {
            self.shake_hands(cause)?;
            self.turn.is_current = false;
        }
        if cause == Cause::Expired {
            return ControlFlow::Break(self.expire());
        }
        // No handler should run for a client that has disconnected. If the connection did not wait, the next write shows it.
        let has_waited = cause == Cause::Yielded || taken.at >= taken.since + TURN_TIME;
        if has_waited && self.client.stream.is_gone() {
            debug!("the client is gone");
            return ControlFlow::Break(Disposition::Close(CloseReason::Broken));
        }
        ControlFlow::Continue(())
    }

    #[inline(always)]
    fn step(&mut self) -> Flow {
        match self.client.progress.stage {
            ExchangeStage::Head { scan, since } => self.read_head(scan, since),
            ref mut stage => {
                let stage = std::mem::take(stage);
                self.go_on(stage)
            }
        }
    }

    fn go_on(&mut self, stage: ExchangeStage) -> Flow {
        match stage {
            // `step` reads it in place.
            ExchangeStage::Head { .. } => ControlFlow::Continue(()),
            ExchangeStage::Body(collecting) => self.read_body(collecting),
            ExchangeStage::Upload(request) => self.upload(request),
            ExchangeStage::Response(sending) => self.send_body(sending),
            ExchangeStage::Discard { unread, until } => self.discard(unread, until),
            ExchangeStage::Closing(reason) => ControlFlow::Break(self.close(reason)),
        }
    }

    /// Whether other connections come first before anything more is started.
    fn is_over(&self) -> bool {
        self.turn.served >= TURN_REQUESTS || self.turn.now >= self.turn.ends
    }

    /// Drops a value of the user's, in the exchange that `head` started.
    fn drop_users<T>(&self, value: T, head: &[u8]) {
        if !drop_contained(value, || method_and_path(head)) {
            self.worker.counters.panicked();
        }
    }
}
