//! Streams between two processes: what becomes of the thread of one that leaves, and how one that arrives gets a thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::detached::{Detached, Detachment, ReservedThread, Task};
use super::on_end::Ending;
use super::{HttpConnection, Progress};
use crate::base::log::warn;
use crate::base::wait_group::{WaitGroup, WaitGuard};
use crate::base::words::pairs;
use crate::http::codec::encode::BodyFraming;
use crate::net::acceptor::Parking;
use crate::net::transfer::{
    Continuation, Departure, LongUnread, Passenger, ResumeStreams, ResumeThread, Retry, StreamKind,
    StreamThread,
};
use crate::web::resume::{Leaving, Resume, ResumedTask};

/// How long the successor may have no room for a stream. Then it stays here.
const ROOM: Duration = Duration::from_secs(10);

/// The thread of a stream that leaves. It has no job until it is known what becomes of the stream.
struct WaitingThread {
    thread: ReservedThread,
    resume: Resume,
    ending: Option<Ending>,
    what: String,
    stall: Duration,
    parking: Arc<Parking<Progress>>,
    /// Of its connection: the process ends after the program's hooks have run.
    guard: Option<WaitGuard>,
}

/// A stream that its thread has given away.
pub(super) struct LeavingStream {
    pub(super) leaving: Leaving,
    pub(super) ending: Option<Ending>,
    /// Of an event stream.
    pub(super) framing: Option<BodyFraming>,
}

impl LeavingStream {
    pub(super) fn depart(
        self,
        mut client: Box<HttpConnection>,
        thread: ReservedThread,
        (what, stall): (String, Duration),
        parking: &Arc<Parking<Progress>>,
    ) {
        let Leaving { resume, mut continuation, unread } = self.leaving;
        if self.framing == Some(BodyFraming::UntilClose) {
            continuation.details = format!("framing=close {}", continuation.details);
        }
        client.buffered = unread;
        take_decrypted(&mut client);
        let (ending, guard, parking) = (self.ending, client.guard.take(), Arc::clone(parking));
        let thread = Box::new(WaitingThread { thread, resume, ending, what, stall, parking, guard });
        let parking = Arc::clone(&thread.parking);
        let unread = match LongUnread::take_from(&mut client.buffered) {
            Ok(long) => long,
            Err(e) => {
                warn!("a stream stays, because there is no memory file for its unread bytes: {e}");
                return thread.returned(client, continuation, None);
            }
        };
        let until = Instant::now() + ROOM;
        let passenger = Box::new(Passenger { continuation, unread, thread, until });
        parking.send_stream(Departure { connection: client, passenger });
    }
}

/// What TLS has decrypted goes with the other unread bytes: a session is always in the packet, and they may be too many for it.
fn take_decrypted(client: &mut HttpConnection) {
    let mut decrypted = vec![0; client.stream.unread()];
    // It reads nothing of the socket, so that it can't fail.
    let taken = client.stream.read(&mut decrypted).unwrap_or_default();
    decrypted.truncate(taken);
    client.buffered.append(&mut decrypted);
}

impl StreamThread<Progress> for WaitingThread {
    fn delivered(self: Box<Self>) {
        let WaitingThread { thread, ending, guard, .. } = *self;
        // The program's code does not run on the acceptor.
        thread.run_last(Box::new(move || {
            if let Some(ending) = ending {
                ending.complete();
            }
            drop(guard);
        }));
    }

    fn returned(
        self: Box<Self>,
        mut connection: Box<HttpConnection>,
        continuation: Continuation,
        unread: Option<LongUnread>,
    ) {
        let WaitingThread { thread, resume, ending, what, stall, parking, guard } = *self;
        connection.guard = guard;
        let task = task(&resume, continuation, ending);
        // Without a name it does not leave again.
        let name = None;
        Detachment { thread, unsent: Vec::new(), unread, task, what, stall, name }
            .start(connection, &parking);
    }
}

/// Continues the streams of predecessors.
pub(crate) struct StreamResumer {
    pub(crate) detached: Arc<Detached>,
    pub(crate) parking: Arc<Parking<Progress>>,
    pub(crate) wait_group: WaitGroup,
    /// How long a write may wait for the client.
    pub(crate) stall: Duration,
}

struct ArrivingStream {
    thread: ReservedThread,
    resume: Resume,
    parking: Arc<Parking<Progress>>,
    wait_group: WaitGroup,
    stall: Duration,
}

impl ResumeStreams<Progress> for StreamResumer {
    fn names(&self) -> Vec<String> {
        self.detached.resumed_names()
    }

    fn reserve(&self, name: &str, kind: StreamKind) -> Result<Box<dyn ResumeThread<Progress>>, Retry> {
        let resume = self.detached.resume(name, kind).ok_or(Retry::Never)?;
        let thread = match kind {
            StreamKind::Events => self.detached.reserve_for_stream(),
            StreamKind::WebSocket | StreamKind::Upgrade => self.detached.reserve_for_upgrade(),
        };
        Ok(Box::new(ArrivingStream {
            thread: thread.ok_or(Retry::Later)?,
            resume,
            parking: Arc::clone(&self.parking),
            wait_group: self.wait_group.clone(),
            stall: self.stall,
        }))
    }
}

impl ResumeThread<Progress> for ArrivingStream {
    fn start(
        self: Box<Self>,
        mut connection: Box<HttpConnection>,
        continuation: Continuation,
        unread: Option<LongUnread>,
    ) {
        let ArrivingStream { thread, resume, parking, wait_group, stall } = *self;
        connection.guard = Some(wait_group.guard());
        let name = Some(continuation.name.as_str().into());
        let what = format!("resumed {}", continuation.name);
        let task = task(&resume, continuation, None);
        Detachment { thread, unsent: Vec::new(), unread, task, what, stall, name }
            .start(connection, &parking);
    }
}

fn task(resume: &Resume, continuation: Continuation, ending: Option<Ending>) -> Task {
    let until_close = pairs(&continuation.details).contains(&("framing", "close"));
    let framing = if until_close { BodyFraming::UntilClose } else { BodyFraming::Chunked };
    match resume.task(continuation) {
        ResumedTask::Stream(write) => Task::Stream { write, framing, ending },
        ResumedTask::Upgrade(speak) => Task::Upgrade { speak, ending },
    }
}
