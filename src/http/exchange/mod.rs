//! One turn of a worker with a connection: read what is there, serve what is complete, write what
//! the socket takes, and park when nothing more can be done. A worker never waits for a client.
//!
//! ```text
//!             ┌─────────────── kept ───────────────┐
//!             ▼                                    │
//!   Head ──► Body ──► handler ──► Respond ──► Discard (what the handler left unread)
//!     │        │         ▲            │            │
//!     │        └ Upload ─┘            │            ▼
//!     └───────────── refused ─────────┴──────► closed, lingering
//! ```

mod blocking;
mod collect;
pub(crate) mod detached;
mod ending;
mod input;
mod outgoing;
mod progress;
mod turn;
mod upload;
mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::base::close_reason::CloseReason;
use crate::base::limits::{Limits, Timeouts};
use crate::base::log::{debug, error};
use crate::base::panic::{contain, panic_text};
use crate::base::phase::PhaseWatch;
use crate::base::wait_group::WaitGroup;
use crate::net::acceptor::Parking;
use crate::net::connection::{Cause, Connection, Ready};
use crate::net::scheduler::latency::HandlerLatency;
use crate::net::scheduler::queue::{Queue, Taken};
use crate::web::handler::Handler;

pub(crate) use collect::Stores;
use detached::{Detached, detach};
pub(crate) use progress::Progress;
use turn::{Step, Turn};
pub(crate) use worker::{CurrentRequest, WorkerState};

/// A connection as this room knows it.
pub(crate) type Client = Connection<Progress>;

/// What is common to all connections of one listener.
#[derive(Debug)]
pub(crate) struct ListenerHandler {
    pub(crate) handler: HandlerBox,
    pub(crate) latency: HandlerLatency,
}

/// A handler without a name to show.
pub(crate) struct HandlerBox(pub(crate) Arc<dyn Handler>);

impl std::fmt::Debug for HandlerBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handler")
    }
}

/// What all workers of a server share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) sites: Vec<ListenerHandler>,
    pub(crate) parking: Arc<Parking<Progress>>,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) stores: Stores,
    pub(crate) phase: PhaseWatch,
    pub(crate) wait_group: WaitGroup,
    pub(crate) detached: Arc<Detached>,
}

/// Serves `client` until it is parked, queued again, closed or detached. A streaming permit that it was
/// taken with is released.
pub(crate) fn serve(
    Ready { connection: mut client, mut cause }: Ready<Progress>,
    mut taken: Taken,
    worker: &mut WorkerState,
    common: &Common,
    queue: &Queue<Ready<Progress>>,
) {
    if let Some(lingering) = client.lingering() {
        return end_lingering(client, lingering.reason, worker, common);
    }
    loop {
        let mut turn = Turn::new(&mut client, worker, common, queue, taken, cause);
        // Handlers are caught where they are called; this is for what else is the user's.
        let step = catch_unwind(AssertUnwindSafe(|| turn.run())).unwrap_or_else(|panic| {
            error!("a worker panicked outside of handlers: {}", panic_text(&*panic));
            let_go(panic, || "a panic".to_owned());
            turn.give_up()
        });
        if turn.has_permit {
            queue.release_permit();
        }
        (taken, cause) = (Taken { has_permit: false, waited: Duration::ZERO }, Cause::Event);
        match step {
            Step::Park(deadline) => match common.parking.park(client, deadline) {
                Ok(()) => return,
                Err(back) => {
                    client = back;
                    // A client that always has more to say is one of many.
                    if queue.has_waiting() {
                        return queue.push(&mut vec![Ready::new(client, Cause::Event)]);
                    }
                }
            },
            Step::Requeue => {
                // This worker comes by next.
                return queue.push_back(Ready::new(client, Cause::Yielded));
            }
            Step::Leave => return common.parking.leave(client),
            Step::WaitForShare => return queue.push_streaming(Ready::new(client, Cause::Event)),
            Step::Close(reason) => {
                client.stream.shutdown_write();
                return close(client, reason, worker, common);
            }
            Step::Linger(reason) => {
                // Our end first, as the last bytes wait for it; the user's `Drop` still counts as in flight.
                let guard = client.guard.take();
                client.begin_lingering(reason);
                forget(&mut client);
                drop(guard);
                return end_lingering(client, reason, worker, common);
            }
            Step::Reset(reason) => {
                client.stream.reset_on_close();
                return close(client, reason, worker, common);
            }
            Step::Detach { place, task, what } => {
                let stall = client.progress.of_route.0.unwrap_or(common.timeouts.response_stall);
                let unsent = std::mem::take(&mut worker.out);
                return detach(place, client, unsent, task, what, stall, &common.parking);
            }
        }
    }
}

fn end_lingering(client: Box<Client>, reason: CloseReason, worker: &WorkerState, common: &Common) {
    if let Some(client) = common.parking.linger(client) {
        close(client, reason, worker, common);
    }
}

fn close(mut client: Box<Client>, reason: CloseReason, worker: &WorkerState, common: &Common) {
    debug!("connection closed: {reason}");
    forget(&mut client);
    worker.counters.closed(reason);
    common.parking.close(client);
}

/// Drops what may be the user's, here, on a worker.
fn forget(client: &mut Client) {
    let progress = std::mem::take(&mut client.progress);
    let head = progress.head();
    let_go(progress, || worker::method_and_path(&head));
}

/// Drops what is the user's, whose `Drop` may panic, as may that of what it panics with: what was
/// decided stays decided. False if it did.
fn let_go<T>(users: T, what: impl Fn() -> String) -> bool {
    contain(|| drop(users), |panic| error!("{}: panicked when dropped: {}", what(), panic_text(panic)))
}
