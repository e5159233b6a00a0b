//! Answers for handlers that have not returned at the deadline of their route.
//!
//! **The handler stays on its worker.** It can't be stopped, and on another thread it would not have the worker's values; the
//! price is that the pool is short of a worker until the handler returns. One thread, `heirloom-deadlines`, watches all of
//! them. It starts with the first request on a route with a deadline; a request on any other route costs nothing.
//!
//! **A request is answered once.** The worker and this thread decide under the lock of the request's `Deadline`. The thread
//! sends the 503 and ends the sending side under it, without waiting: the worker has sent all earlier responses before the
//! call, and what the socket does not take now is cut. If earlier responses are not sent yet, the worker sends the 503
//! when the handler returns. Once the 503 is sent, the worker drops the response and closes the connection.

use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Method, StatusCode, Version};

use super::error_page::{add_page, write_closing};
use super::on_end::Ending;
use super::refuse::broken;
use super::worker::method_and_path;
use super::{Disposition, Exchange, Flow};
use crate::Response;
use crate::base::close_reason::CloseReason;
use crate::base::history::millis;
use crate::base::limits::Limits;
use crate::base::log::{Escaped, error, key_value, warn};
use crate::base::status::Counters;
use crate::base::sync::lock;
use crate::base::threads::spawn;
use crate::http::codec::{DateCache, RequestSummary};
use crate::net::stream::Stream;
use crate::web::error_pages::ErrorPages;
use crate::web::handler::RouteMatch;
use crate::web::handler::call_deadline::{Deadline, Outcome, begin_call, end_call};
use crate::web::response::plain;
use litemap::LiteMap;

/// After a deadline a line is logged at this interval, as long as the handler runs.
const REPEAT: Duration = Duration::from_secs(60);

/// The calls of one server that have a deadline.
pub(crate) struct Deadlines(Arc<Shared>);

struct Shared {
    error_pages: Option<ErrorPages>,
    limits: Limits,
    /// Those of the thread.
    counters: Arc<Counters>,
    watched: Mutex<Watched>,
    changed: Condvar,
}

#[derive(Default)]
struct Watched {
    /// With when something is to be done for them. None: they have returned in time, and are only about to end.
    calls: LiteMap<u64, (Option<Instant>, Arc<WatchedCall>)>,
    next: u64,
    has_thread: bool,
    /// Until when the thread sleeps. None: until it is notified.
    waits_until: Option<Instant>,
    is_over: bool,
}

/// A handler that runs.
struct WatchedCall {
    deadline: Deadline,
    /// None if earlier responses are not sent yet.
    stream: Option<Stream>,
    version: Version,
    to_head: bool,
    head: Bytes,
    /// Method and pattern, for the log.
    what: String,
    thread: Thread,
}

/// A call that is watched until this is dropped.
pub(super) struct Watch<'a> {
    deadlines: &'a Deadlines,
    id: u64,
    call: Arc<WatchedCall>,
}

impl Deadlines {
    pub(crate) fn new(error_pages: Option<ErrorPages>, limits: Limits, counters: Arc<Counters>) -> Deadlines {
        let (watched, changed) = (Mutex::default(), Condvar::new());
        Deadlines(Arc::new(Shared { error_pages, limits, counters, watched, changed }))
    }

    /// The names of the threads whose handlers run past their deadline.
    pub(crate) fn past(&self) -> Vec<String> {
        let watched = lock(&self.0.watched);
        let past = watched.calls.values().filter(|(_, call)| call.deadline.outcome().is_passed());
        past.map(|(_, call)| call.thread.name().unwrap_or_default().to_owned()).collect()
    }

    fn watch(&self, call: WatchedCall) -> Watch<'_> {
        let (at, call) = (call.deadline.at(), Arc::new(call));
        let mut watched = lock(&self.0.watched);
        let id = watched.next;
        watched.next = id.wrapping_add(1);
        watched.calls.insert(id, (Some(at), Arc::clone(&call)));
        if !watched.has_thread {
            let shared = Arc::clone(&self.0);
            let thread = thread::Builder::new().name("heirloom-deadlines".into());
            let started = spawn(thread, move || shared.run());
            watched.has_thread = started.is_ok();
            if let Err(e) = started {
                error!("no thread for deadlines: {e}: a handler that is late is answered when it returns");
            }
        } else if watched.waits_until.is_none_or(|until| until > at) {
            self.0.changed.notify_one();
        }
        drop(watched);
        Watch { deadlines: self, id, call }
    }
}

impl Drop for Deadlines {
    fn drop(&mut self) {
        lock(&self.0.watched).is_over = true;
        self.0.changed.notify_one();
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        lock(&self.deadlines.0.watched).calls.remove(&self.id);
    }
}

impl Shared {
    fn run(&self) {
        let mut watched = lock(&self.watched);
        while !watched.is_over {
            let now = Instant::now();
            // There are about as many calls as workers.
            let next = watched.calls.iter().filter_map(|(id, (due, _))| Some(((*due)?, *id))).min();
            watched = match next {
                Some((at, id)) if at <= now => self.handle(watched, at, id),
                _ => self.wait_for_change(watched, next.map(|(at, _)| at), now),
            };
        }
    }

    fn wait_for_change<'l>(
        &self,
        mut watched: MutexGuard<'l, Watched>,
        until: Option<Instant>,
        now: Instant,
    ) -> MutexGuard<'l, Watched> {
        watched.waits_until = until;
        match until {
            None => self.changed.wait(watched).unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let time = until.saturating_duration_since(now);
                let woken = self.changed.wait_timeout(watched, time);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// Does what is due for a call, without the lock, and notes when it is due again.
    fn handle<'l>(
        &'l self,
        watched: MutexGuard<'l, Watched>,
        at: Instant,
        id: u64,
    ) -> MutexGuard<'l, Watched> {
        let Some(call) = watched.calls.get(&id).map(|(_, call)| Arc::clone(call)) else { return watched };
        drop(watched);
        if call.deadline.outcome().is_passed() {
            warn!(
                "{}: runs past its deadline, {}", call.what, call.since_when();
                request:% = Escaped(&call.what),
                duration_ms = millis(call.deadline.since().elapsed())
            );
        } else {
            self.pass(&call);
        }
        let again = at.checked_add(REPEAT).unwrap_or(at);
        let mut watched = lock(&self.watched);
        if let Some((due, call)) = watched.calls.get_mut(&id) {
            *due = call.deadline.outcome().is_passed().then_some(again);
        }
        watched
    }

    /// Answers for a handler that has not returned.
    fn pass(&self, call: &WatchedCall) {
        let (response, bytes) = self.response(call);
        call.deadline.pass(|| {
            self.counters.deadline_passed();
            let outcome = call.stream.as_ref().map_or(Outcome::Passed, |stream| {
                self.counters.response(StatusCode::SERVICE_UNAVAILABLE.as_u16());
                Outcome::Answered { bytes: send_last(stream, &response).then_some(bytes) }
            });
            warn!(
                "{}: past its deadline, 503: {}", call.what, call.since_when();
                request:% = Escaped(&call.what),
                duration_ms = millis(call.deadline.since().elapsed())
            );
            outcome
        });
    }

    /// The 503, and the length of its body.
    fn response(&self, call: &WatchedCall) -> (Vec<u8>, u64) {
        let mut response = plain(StatusCode::SERVICE_UNAVAILABLE);
        if let Some(pages) = &self.error_pages {
            add_page(pages, &mut response, &call.head, &self.limits, &self.counters);
        }
        let mut out = Vec::new();
        let content = response.body_mut().read_bytes().unwrap_or_default();
        let date = DateCache::new(SystemTime::now());
        let (parts, _) = response.into_parts();
        write_closing(&mut out, (call.version, &parts), &content, call.to_head, date.line());
        (out, if call.to_head { 0 } else { content.len() as u64 })
    }
}

/// Sends the last bytes of a connection without waiting, and ends its sending side. False if the client does not get all.
fn send_last(stream: &Stream, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match stream.write_last(bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(_) => {
                stream.shutdown();
                return false;
            }
        }
    }
    stream.shutdown_write();
    true
}

impl WatchedCall {
    /// For the log.
    fn since_when(&self) -> String {
        let since = self.deadline.since();
        let (age, limit) = (since.elapsed(), self.deadline.at().saturating_duration_since(since));
        format!(
            "in its handler for {age:.1?} of {limit:.1?}, on {}",
            self.thread.name().unwrap_or("a thread")
        )
    }
}

impl<'a> Exchange<'a> {
    /// Watches the deadline of the call that follows.
    #[cold]
    pub(super) fn watch(
        &mut self,
        deadline: Deadline,
        summary: &RequestSummary,
        route: &RouteMatch,
    ) -> Flow<Watch<'a>> {
        if let Err(e) = self.try_flush() {
            return ControlFlow::Break(broken(&e));
        }
        let is_all_sent = self.worker.out.is_empty();
        let pattern = route.pattern();
        let what = match &*pattern {
            "" => method_and_path(&summary.text),
            pattern => format!("{} {pattern}", summary.method),
        };
        begin_call(&deadline);
        ControlFlow::Continue(self.common.deadlines.watch(WatchedCall {
            deadline,
            stream: is_all_sent.then(|| self.client.stream.clone()),
            version: summary.version,
            to_head: summary.method == Method::HEAD,
            head: summary.text.clone(),
            what,
            thread: thread::current(),
        }))
    }

    /// Continues if a response may still be sent: this one, or a 503 that replaces it. Otherwise the connection is closed.
    #[cold]
    pub(super) fn end_watch(&mut self, watch: Watch<'a>, response: &mut Response) -> Flow {
        let call = Arc::clone(&watch.call);
        let (outcome, failure) = (call.deadline.end(), end_call());
        drop(watch);
        if outcome == Outcome::Kept {
            return ControlFlow::Continue(());
        }
        if outcome == Outcome::Late {
            self.worker.counters.deadline_passed();
        }
        let mut how = call.since_when();
        if let Some(failure) = &failure {
            how = format!("{how}, with an error: {failure}");
        }
        warn!(
            "{}: has returned past its deadline, {how}", call.what;
            request:% = Escaped(&call.what),
            duration_ms = millis(call.deadline.since().elapsed()),
            reason = key_value(&failure.as_ref().map(Escaped))
        );
        let Outcome::Answered { bytes } = outcome else {
            if response.status() != StatusCode::SERVICE_UNAVAILABLE {
                *response = call.deadline.checked(std::mem::take(response));
            }
            return ControlFlow::Continue(());
        };
        let (extensions, status) = (response.extensions_mut(), StatusCode::SERVICE_UNAVAILABLE);
        if let Some(mut ending) = Ending::of(&mut self.entries, extensions, status, self.turn.now) {
            if let Some(bytes) = bytes {
                ending.set_bytes(bytes);
                ending.complete();
            }
        }
        self.drop_users(std::mem::take(response), &call.head);
        self.last_head = Some(call.head.clone());
        ControlFlow::Break(Disposition::Linger(CloseReason::DeadlinePassed))
    }
}
