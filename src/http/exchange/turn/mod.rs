//! One worker with one connection, for as long as something can be done.

#[cfg(feature = "tls")]
mod handshake;

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::UPGRADE;
use http::{Extensions, HeaderMap, Method, StatusCode};

use super::collect::{Bounds, CollectError, Collecting};
use super::detached::{Place, Task};
use super::ending::Ending;
use super::input::Filled;
use super::outgoing::{self, Outgoing, Pulled, Pulls, Sent};
use super::progress::{After, AskedOwned, Blocked, Rate, RequestHead, Responding, Stage};
use super::upload::{Lease, Upload};
use super::worker::{WorkerState, method_and_path};
use super::{Client, Common, Progress, let_go};
use crate::base::close_reason::CloseReason;
use crate::base::limits::FAR;
use crate::base::log::{debug, error, warn};
use crate::base::panic::panic_text;
use crate::base::phase::Phase;
use crate::http::codec::encode::{self, Asked, BodyFraming, Plan};
use crate::http::codec::{Decoder, Framing, Head, Refusal, Scan, has_asked_for, is_to_head};
use crate::net::acceptor::{Deadline, PORTABLE_BYTES};
use crate::net::connection::{Activity, Cause, Cut, Ready};
use crate::net::scheduler::queue::{Queue, Taken};
use crate::net::stream::{Peek, Stream};
use crate::web::body::{Body, Kind};
use crate::web::handler::{Handler, RouteLimits, answer, find_route};
use crate::web::request::Trailers;
use crate::web::response::{ResponseExt, busy, plain};
use crate::{Request, Response};

/// A turn that has lasted this long, or has served this many requests, goes no further than the request, the
/// run of chunks or the piece of a response that it is at: the connection goes to the end of the queue, so that
/// a client which always has more for a worker to do is one of many.
const TURN_TIME: Duration = Duration::from_millis(5);
const TURN_REQUESTS: usize = 128;
/// Answers to pipelined requests are gathered up to this, then written.
const BATCH_BYTES: usize = 64 << 10;
/// Bodies up to this are copied behind their head, to go out in one write.
const COPY_BYTES: usize = 32 << 10;

/// How a turn ends.
pub(super) enum Step {
    Park(Deadline),
    /// Others first.
    Requeue,
    /// To the successor.
    Leave,
    WaitForShare,
    Close(CloseReason),
    Linger(CloseReason),
    /// The response is incomplete, and only a reset shows it.
    Reset(CloseReason),
    Detach {
        place: Place,
        task: Task,
        what: String,
    },
}

/// Whether to go on in this turn.
type Flow = Result<(), Step>;

enum Never {}

/// One worker with one connection.
pub(super) struct Turn<'a> {
    client: &'a mut Box<Client>,
    worker: &'a mut WorkerState,
    common: &'a Common,
    queue: &'a Queue<Ready<Progress>>,
    /// A place among the streaming workers is taken for it.
    pub(super) has_permit: bool,
    /// How long the connection was in the queue.
    waited: Duration,
    cause: Cause,
    /// The last read left room: there was no more.
    drained: bool,
    served: usize,
    began: Instant,
    /// When the turn began, the last handler ended, or a body or a response was last gone on with: near
    /// enough for deadlines and dates.
    now: Instant,
}

impl<'a> Turn<'a> {
    pub(super) fn new(
        client: &'a mut Box<Client>,
        worker: &'a mut WorkerState,
        common: &'a Common,
        queue: &'a Queue<Ready<Progress>>,
        Taken { has_permit, waited }: Taken,
        cause: Cause,
    ) -> Turn<'a> {
        let (drained, served, now) = (false, 0, Instant::now());
        Turn { client, worker, common, queue, has_permit, waited, cause, drained, served, began: now, now }
    }

    /// Goes through the stages until one of them ends the turn.
    pub(super) fn run(&mut self) -> Step {
        match self.go() {
            Ok(never) => match never {},
            Err(step) => step,
        }
    }

    /// After a panic that nobody expected: whatever was on its way is incomplete.
    pub(super) fn give_up(&mut self) -> Step {
        self.worker.current_request.set(None);
        Step::Reset(CloseReason::ResponseFailed)
    }

    /// Drops what is the user's.
    fn let_go<T>(&self, users: T, head: &[u8]) {
        if !let_go(users, || method_and_path(head)) {
            self.worker.counters.panicked();
        }
    }

    fn go(&mut self) -> Result<Never, Step> {
        self.client.activity = Activity::Receiving;
        let buffered = std::mem::take(&mut self.client.buffered);
        self.worker.input.load(&buffered);
        self.worker.out.clear();
        self.worker.out.append(&mut self.client.progress.unsent);
        self.client.progress.held = None;
        if let Some(blocked) = &mut self.client.progress.blocked {
            blocked.resume(self.now);
        }
        #[cfg(feature = "tls")]
        if self.client.stream.is_handshaking() {
            self.shake_hands()?;
        }
        let had_to_wait = self.cause == Cause::Yielded || self.waited >= TURN_TIME;
        if self.cause == Cause::Expired {
            return Err(self.expire());
        }
        // Its handler would work for nobody. Of one that is served at once the next write tells it.
        if had_to_wait && self.client.stream.is_gone() {
            debug!("the client is gone");
            return Err(Step::Close(CloseReason::Broken));
        }
        loop {
            match std::mem::take(&mut self.client.progress.stage) {
                Stage::Head { scan, began } => self.head(scan, began)?,
                Stage::Body(collecting) => self.body(collecting)?,
                Stage::Upload(waiting) => self.upload(waiting)?,
                Stage::Respond(response) => self.respond_on(response)?,
                Stage::Discard(rest) => self.discard(*rest)?,
            }
        }
    }

    fn head(&mut self, mut scan: Scan, began: Option<Instant>) -> Flow {
        match scan.skip_empty_lines(self.worker.input.unused()) {
            Ok(n) => self.worker.input.consume(n),
            Err(refusal) => return Err(self.refuse(&refusal)),
        }
        if self.departs() {
            return Err(self.leave(scan, began)?);
        }
        if !self.worker.input.is_empty() {
            if self.is_over() {
                self.client.progress.stage = Stage::Head { scan, began: began.or(Some(self.now)) };
                return Err(self.make_room());
            }
            match scan.parse(self.worker.input.unused(), &self.common.limits) {
                Ok(Some(head)) => return self.begin(head),
                Ok(None) => {}
                Err(refusal) => return Err(self.refuse(&refusal)),
            }
        }
        let nothing_came = self.worker.input.is_empty() && !self.client.stream.holds_part();
        let began = if nothing_came { None } else { began.or(Some(self.now)) };
        self.client.progress.stage = Stage::Head { scan, began };
        // Answers to what came before don't wait for what comes next.
        self.flush()?;
        self.client.progress.blocked = None;
        self.client.guard = None;
        if began.is_some() {
            self.client.guard = Some(self.worker.wait_group.guard());
        }
        match self.fill()? {
            Filled::Bytes { .. } => Ok(()),
            Filled::End if began.is_some() => Err(self.cut_in_head()),
            Filled::End => Err(Step::Close(CloseReason::ClientClosed)),
            // It is noted that something has begun.
            Filled::Nothing if began.is_none() && self.client.stream.holds_part() => Ok(()),
            Filled::Nothing => {
                let deadline = began.map_or(Deadline::Idle(self.now), |began| {
                    Deadline::At(began + self.common.timeouts.head)
                });
                Err(self.park(deadline))
            }
        }
    }

    /// The client has ended within a head.
    fn cut_in_head(&mut self) -> Step {
        self.refuse_unseen().unwrap_or(Step::Close(CloseReason::ClientCut))
    }

    /// A scan does not look at every piece: when no more comes, what would have been refused had it
    /// come at once is refused so.
    fn refuse_unseen(&mut self) -> Option<Step> {
        let refusal = Scan::default().parse(self.worker.input.unused(), &self.common.limits).err()?;
        Some(self.refuse(&refusal))
    }

    /// Whether others are to go first before anything more is begun.
    fn is_over(&self) -> bool {
        self.served >= TURN_REQUESTS || self.now.saturating_duration_since(self.began) >= TURN_TIME
    }

    /// Ends the turn so that others go first. What is answered goes out before.
    fn make_room(&mut self) -> Step {
        if let Err(step) = self.flush() {
            return step;
        }
        if let Some(step) = self.at_the_end() {
            return step;
        }
        if let Stage::Respond(response) = &mut self.client.progress.stage {
            response.shorten_head();
        }
        if self.hold() { Step::Requeue } else { self.too_much() }
    }

    /// Those that rest at the end are cut. One that was with a worker then is cut as soon as it would rest or let
    /// others go first, or it would be served after the end, or forgotten.
    fn at_the_end(&self) -> Option<Step> {
        if self.common.phase.get() != Phase::Exited {
            return None;
        }
        Some(match &self.client.progress.stage {
            Stage::Respond(response) => cut(&response.outgoing, CloseReason::ResponseTimeout),
            _ => Step::Close(CloseReason::Grace),
        })
    }

    /// Whether the successor is to have this connection now, with what has been read and not answered.
    fn departs(&self) -> bool {
        self.worker.input.unused().len() <= PORTABLE_BYTES && self.common.parking.departs(self.client)
    }

    fn leave(&mut self, scan: Scan, began: Option<Instant>) -> Result<Step, Step> {
        let began = if self.worker.input.is_empty() { None } else { began.or(Some(self.now)) };
        self.client.progress.stage = Stage::Head { scan, began };
        self.flush()?;
        // What is begun counts until the successor has it.
        self.client.guard = began.map(|_| self.worker.wait_group.guard());
        self.client.activity =
            if began.is_none() { Activity::Idle { since: self.now } } else { Activity::Receiving };
        self.client.buffered = self.worker.input.take();
        Ok(Step::Leave)
    }

    /// A head is complete: what it asks for is checked before its body is read.
    fn begin(&mut self, head: Head) -> Flow {
        self.worker.input.consume(head.len);
        if self.client.guard.is_none() {
            self.client.guard = Some(self.worker.wait_group.guard());
        }
        self.client.served = self.client.served.saturating_add(1);
        self.served = self.served.saturating_add(1);
        let common = self.common;
        let route = find_route(self.handler(), &head.parts.method, head.parts.uri.path());
        let mut begun = RequestHead {
            parts: head.parts,
            text: head.text,
            keep_alive: head.keep_alive,
            expects: head.expect_continue,
            route,
        };
        if matches!(head.framing, Framing::None | Framing::Length(0)) {
            return self.call(begun, Kind::Empty);
        }

        let rules = &begun.route.rules;
        let limit = rules.limits.body_bytes.unwrap_or(common.limits.body_bytes);
        if !begun.route.is_refused() && matches!(head.framing, Framing::Length(n) if n > limit) {
            begun.route.refuse(plain(StatusCode::PAYLOAD_TOO_LARGE));
        }
        if begun.route.is_refused() {
            return self.refuse_unread(begun);
        }
        let decoder = Decoder::new(head.framing, &common.limits);
        if begun.route.rules.streaming {
            self.client.progress.stage = Stage::Upload(Box::new((begun, decoder)));
            return Ok(());
        }
        if begun.expects && self.worker.input.is_empty() {
            self.worker.out.extend_from_slice(encode::CONTINUE);
        }
        let (stall, rate) = self.body_patience(&begun.route.rules.limits);
        let bounds = Bounds { memory: common.limits.body_memory_bytes, all: limit, stall, rate };
        let collecting = Collecting::new(begun, decoder, bounds, &common.stores, self.now);
        self.client.progress.stage = Stage::Body(Box::new(collecting));
        Ok(())
    }

    /// How long a byte of a body may be waited for, and how fast they must come.
    fn body_patience(&self, limits: &RouteLimits) -> (Duration, Rate) {
        let common = self.common;
        let bytes = limits.body_rate.or(common.limits.body_rate).unwrap_or(0);
        let rate = Rate { grace: common.timeouts.rate_grace, bytes };
        (limits.body_stall.unwrap_or(common.timeouts.body_stall).min(FAR), rate)
    }

    /// As `body_patience`, for what the client takes of its response.
    fn response_patience(&self) -> (Duration, Rate) {
        let (common, (stall, bytes)) = (self.common, self.client.progress.of_route);
        let rate = Rate {
            grace: common.timeouts.rate_grace,
            bytes: bytes.or(common.limits.response_rate).unwrap_or(0),
        };
        (stall.unwrap_or(common.timeouts.response_stall).min(FAR), rate)
    }

    /// The handler of the listener that the connection came by.
    fn handler(&self) -> &'a dyn Handler {
        let common = self.common;
        #[expect(clippy::indexing_slicing, reason = "it is what its listener was given")]
        let site = &common.sites[self.client.site];
        &*site.handler.0
    }

    fn body(&mut self, mut collecting: Box<Collecting>) -> Flow {
        while !collecting.decoder.is_done() && !self.worker.input.is_empty() {
            let most = collecting.room();
            let input = self.worker.input.unused_mut();
            let decoded = match collecting.decoder.decode_run(input, most) {
                Ok(decoded) => decoded,
                Err(refusal) => {
                    self.client.progress.stage = Stage::Body(collecting);
                    return Err(self.refuse(&refusal));
                }
            };
            let data = input.get(decoded.data).unwrap_or_default();
            if let Err(e) = collecting.add(data, &self.common.stores) {
                return self.refuse_body(collecting.into_begun(), &e);
            }
            self.worker.input.consume(decoded.consumed);
        }
        if collecting.decoder.is_done() {
            let trailers = collecting.decoder.take_trailers();
            if !trailers.is_empty() {
                collecting.begun.parts.extensions.insert(Trailers(trailers));
            }
            return match collecting.finish() {
                (begun, Ok(kind)) => self.call(begun, kind),
                (begun, Err(e)) => self.refuse_body(begun, &e),
            };
        }
        let until = collecting.until(self.now);
        self.client.progress.stage = Stage::Body(collecting);
        self.flush()?;
        match self.refill()? {
            Filled::Bytes { .. } => Ok(()),
            Filled::End => Err(Step::Close(CloseReason::ClientCut)),
            Filled::Nothing => Err(self.park(Deadline::At(until))),
        }
    }

    fn refuse_body(&mut self, mut begun: RequestHead, e: &CollectError) -> Flow {
        begun.route.refuse(match self.body_status(e) {
            StatusCode::SERVICE_UNAVAILABLE => busy(),
            status => plain(status),
        });
        self.refuse_unread(begun)
    }

    /// Answers a request whose route has a refusal, without reading its body, or any more of it.
    fn refuse_unread(&mut self, begun: RequestHead) -> Flow {
        let asked = begun.asked();
        let response = self.run_handler(&asked, begun, Kind::Empty)?;
        self.respond(&asked, response, unread())
    }

    fn body_status(&self, e: &CollectError) -> StatusCode {
        match e {
            CollectError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            CollectError::Full => {
                warn!("the limit of temporary bytes is reached: 503");
                StatusCode::SERVICE_UNAVAILABLE
            }
            CollectError::NoDescriptor => {
                warn!("no descriptor is left for a temporary file: 503");
                StatusCode::SERVICE_UNAVAILABLE
            }
            CollectError::Disk(e) => {
                error!("can't write a request body to a temporary file: {e}");
                StatusCode::INSUFFICIENT_STORAGE
            }
        }
    }

    /// A handler that reads the body while it arrives, on this worker, if a streaming permit is free.
    fn upload(&mut self, waiting: Box<(RequestHead, Decoder)>) -> Flow {
        self.client.progress.stage = Stage::Upload(waiting);
        // What was answered before must not wait for this body.
        self.flush()?;
        if !self.has_permit && !self.queue.try_acquire_permit() {
            return Err(if self.hold() { Step::WaitForShare } else { self.too_much() });
        }
        self.has_permit = true;
        let Stage::Upload(waiting) = std::mem::take(&mut self.client.progress.stage) else { return Ok(()) };
        let (begun, decoder) = *waiting;
        let flow = self.upload_with_permit(begun, decoder);
        self.has_permit = false;
        self.queue.release_permit();
        flow
    }

    fn upload_with_permit(&mut self, begun: RequestHead, decoder: Decoder) -> Flow {
        let common = self.common;
        let limits = &begun.route.rules.limits;
        let limit = limits.body_bytes.unwrap_or(common.limits.body_bytes);
        let len = decoder.remaining_hint();
        let (stall, rate) = self.body_patience(limits);
        let lease = Lease::new(Upload {
            stream: self.client.stream.clone(),
            input: self.worker.input.take(),
            used: 0,
            decoder,
            left: limit,
            expects: begun.expects,
            failed: false,
            pending: None,
            stall,
            rate,
            received: 0,
            waited: Duration::ZERO,
        });
        let asked = begun.asked();
        let kind = Kind::Source { source: Box::new(lease.clone()), left: len };
        let response = self.run_handler(&asked, begun, kind)?;
        self.drained = false;
        let Some(upload) = lease.end() else { return self.respond(&asked, response, unread()) };
        self.worker.input.load(upload.unused());
        // The client is told of the close if that is known by now; where its body's length is not, as much is
        // dropped as might have been read.
        let budget = match len {
            Some(_) => common.limits.discard_bytes,
            None => common.limits.discard_bytes.max(limit),
        };
        let beyond = upload.decoder.announced() > budget;
        let after = if upload.decoder.is_done() {
            After::Keep
        } else if upload.expects || upload.failed || upload.pending.is_some() || beyond {
            // It was never told to send, or what it sends is no body, or more than is worth reading.
            unread()
        } else {
            After::Discard(upload.decoder, budget)
        };
        self.respond(&asked, response, after)
    }

    fn call(&mut self, begun: RequestHead, kind: Kind) -> Flow {
        let asked = begun.asked();
        let response = self.run_handler(&asked, begun, kind)?;
        self.respond(&asked, response, After::Keep)
    }

    fn run_handler(&mut self, asked: &AskedOwned, begun: RequestHead, kind: Kind) -> Result<Response, Step> {
        let common = self.common;
        #[expect(clippy::indexing_slicing, reason = "it is what its listener was given")]
        let site = &common.sites[self.client.site];
        let RequestHead { parts, text, mut route, .. } = begun;
        let body = Body::received(kind, Arc::clone(&self.client.conn_info), text);
        let mut request = Request::from_parts(parts, body);
        let refusal = route.attach(&mut request);
        let latency = route.latency().unwrap_or(&site.latency);
        if latency.is_long() {
            // Neither queued work nor finished answers wait for it.
            if latency.blocks() {
                self.queue.before_blocking(self.worker.place);
            } else {
                self.queue.before_computing();
            }
            if let Err(e) = self.try_flush() {
                // Nobody is there for whom it would run.
                self.let_go(request, &asked.head);
                return Err(broken(&e));
            }
        }
        // Not `now`: since then there was a read, and its time is not the handler's.
        let (run, head) = (latency.start(), &asked.head);
        self.worker.current_request.set(Some((head.clone(), run.begin())));
        let (response, panics) = answer(&*site.handler.0, request, &route, refusal);
        self.now = Instant::now();
        latency.finish(&run, self.now);
        panics.into_iter().for_each(|panic| self.panicked(panic, head));
        self.worker.current_request.set(None);
        Ok(response)
    }

    fn panicked(&self, panic: Box<dyn Any + Send>, head: &[u8]) {
        let what = self.worker.current_request.read().unwrap_or_default();
        error!("a handler panicked ({}): {what}", panic_text(&*panic));
        self.worker.counters.panicked();
        let_go(panic, || method_and_path(head));
    }

    /// In the place of a response that something is lacking for.
    fn send_busy(
        &mut self,
        asked: &AskedOwned,
        instead_of: (Extensions, Kind),
        after: After,
        mut ending: Option<Ending>,
    ) -> Flow {
        self.let_go(instead_of, &asked.head);
        ending.iter_mut().for_each(|ending| ending.set_status(StatusCode::SERVICE_UNAVAILABLE));
        self.send(asked, busy(), after, ending)
    }

    /// Decides, once, how the response goes out and what becomes of the connection.
    fn respond(&mut self, asked: &AskedOwned, mut response: Response, after: After) -> Flow {
        let status = response.status();
        let ending = Ending::of(response.extensions_mut(), status);
        self.send(asked, response, after, ending)
    }

    fn send(
        &mut self,
        asked: &AskedOwned,
        response: Response,
        after: After,
        mut ending: Option<Ending>,
    ) -> Flow {
        let (parts, body) = response.into_parts();
        let len = body.len();
        let mut kind = body.into_kind();
        let upgrade = matches!(kind, Kind::Upgrade(_));
        let detaches = matches!(kind, Kind::Detached(_));
        let closes = detaches || matches!(after, After::Close { .. });
        let keep_alive = asked.keep_alive && !closes && self.may_keep();
        let wants = Asked {
            method: &asked.method,
            version: asked.version,
            keep_alive,
            switches: upgrade && has_asked_for(&asked.head, &parts.headers, &self.common.limits),
        };
        let plan = match encode::plan(&wants, parts.status, &parts.headers, len, upgrade) {
            // What is left of the body must not be taken for what is spoken next.
            Ok(Plan { framing: BodyFraming::Upgrade, .. }) if !matches!(after, After::Keep) => {
                Err(StatusCode::INTERNAL_SERVER_ERROR)
            }
            plan => plan,
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(status) => {
                self.let_go((parts.extensions, kind), &asked.head);
                ending.iter_mut().for_each(|ending| ending.set_status(status));
                return self.send(asked, in_place(status, &parts.headers, &asked.head), after, ending);
            }
        };
        let place = if plan.framing == BodyFraming::Upgrade || (detaches && plan.send_body) {
            self.common.detached.place(upgrade)
        } else {
            None
        };
        if place.is_none() && (upgrade || (detaches && plan.send_body)) {
            warn!("no thread is left for {}", method_and_path(&asked.head));
            return self.send_busy(asked, (parts.extensions, kind), after, ending);
        }
        // One that a handler has opened itself.
        if let Kind::File { descriptor: descriptor @ None, .. } = &mut kind {
            *descriptor = self.common.stores.descriptors.one();
            if descriptor.is_none() && plan.send_body {
                warn!("no descriptor is left for the file of {}: 503", method_and_path(&asked.head));
                return self.send_busy(asked, (parts.extensions, kind), after, ending);
            }
        }

        // Of answers that wait together, the last one's holds.
        self.client.progress.of_route = asked.patience;
        let date = self.worker.date.get(self.now);
        encode::head(&mut self.worker.out, asked.version, parts.status, &parts.headers, &plan, date);
        self.worker.counters.response(parts.status.as_u16());
        self.let_go(parts.extensions, &asked.head);
        let after = match after {
            After::Close { .. } => after,
            After::Discard(..) if !plan.keep_alive => unread(),
            After::Keep if !plan.keep_alive => {
                After::Close { reason: self.why_close(asked), linger: asked.keep_alive }
            }
            kept => kept,
        };
        let outgoing = match kind {
            Kind::Upgrade(speak) => {
                self.client.buffered = self.worker.input.take();
                return Err(self.detach(place, Task::Upgrade { speak, ending }, asked));
            }
            Kind::Detached(write) if plan.send_body => {
                let task = Task::Stream { write, framing: plan.framing, ending };
                return Err(self.detach(place, task, asked));
            }
            kind if plan.send_body => Outgoing::new(kind, plan.framing, &mut self.worker.out, COPY_BYTES),
            kind => {
                self.let_go(kind, &asked.head);
                None
            }
        };
        match outgoing {
            Some(outgoing) => {
                let head = asked.head.clone();
                let responding = Responding { outgoing, after, head, ending };
                self.client.progress.stage = Stage::Respond(Box::new(responding));
                Ok(())
            }
            None => {
                self.end_behind_out(ending, if plan.send_body { len.unwrap_or(0) } else { 0 });
                self.after(after)
            }
        }
    }

    /// A response with a body of so many bytes is complete when the socket has all of `out`.
    fn end_behind_out(&mut self, ending: Option<Ending>, bytes: u64) {
        if let Some(ending) = ending {
            self.client.progress.endings.push(ending, self.worker.out.len(), bytes);
        }
    }

    fn detach(&mut self, place: Option<Place>, task: Task, asked: &AskedOwned) -> Step {
        match place {
            Some(place) => Step::Detach { place, task, what: method_and_path(&asked.head) },
            None => Step::Close(CloseReason::Overload),
        }
    }

    /// While draining, what the client has already sent is still answered; the last of it announces
    /// the close.
    fn may_keep(&self) -> bool {
        let more_came = || {
            let begun = !self.worker.input.unused().iter().all(|byte| b"\r\n".contains(byte));
            // Who never stops asking is told all the same.
            begun || (!self.common.parking.is_grace_over() && self.client.stream.peek() == Peek::Bytes)
        };
        !self.common.limits.is_last_request(self.client.served)
            && match self.common.phase.get() {
                Phase::HandedOver if self.common.parking.may_travel(self.client) => true,
                phase => !phase.is_draining() || more_came(),
            }
    }

    fn why_close(&self, asked: &AskedOwned) -> CloseReason {
        if !asked.keep_alive {
            CloseReason::ClientAsked
        } else if self.common.limits.is_last_request(self.client.served) {
            CloseReason::RequestLimit
        } else if self.common.phase.get().is_draining() {
            CloseReason::Drain
        } else {
            CloseReason::Response
        }
    }

    /// Goes on with a response whose body is not all in `out`.
    fn respond_on(&mut self, response: Box<Responding>) -> Flow {
        // Its source is user code, too, and may be what keeps a worker.
        self.worker.current_request.set(Some((response.head.clone(), Instant::now())));
        let pulled = self.pull_all(response);
        self.worker.current_request.set(None);
        self.now = Instant::now();
        self.after(pulled?)
    }

    fn pull_all(&mut self, mut response: Box<Responding>) -> Result<After, Step> {
        // By a client that has not been waited for.
        let mut taken = 0usize;
        let mut is_first = true;
        loop {
            let sent = if response.outgoing.joins_head() {
                Ok(Sent { bytes: 0, all: true })
            } else {
                response.outgoing.flush(&mut self.worker.out, &self.client.stream)
            };
            match sent {
                Ok(sent) if sent.all => self.note_taken(sent),
                Ok(sent) => {
                    self.client.progress.stage = Stage::Respond(response);
                    return Err(self.park_blocked(sent));
                }
                Err(e) => return Err(broken(&e)),
            }
            if !std::mem::take(&mut is_first) && response.outgoing.has_more() {
                self.now = Instant::now();
                if self.is_over() {
                    Blocked::yielded(&mut self.client.progress.blocked, taken, self.now);
                    self.client.progress.stage = Stage::Respond(response);
                    return Err(self.make_room());
                }
            }
            match response.outgoing.pulls() {
                Pulls::Nothing => {}
                Pulls::File => self.queue.before_computing(),
                Pulls::Source => self.queue.before_blocking(self.worker.place),
            }
            let WorkerState { piece, out, .. } = &mut *self.worker;
            let stream = &self.client.stream;
            let pulled = catch_unwind(AssertUnwindSafe(|| response.outgoing.pull(piece, out, stream)));
            let Responding { outgoing, head, ending, .. } = &mut *response;
            ending.iter_mut().for_each(|ending| ending.set_bytes(outgoing.given()));
            // What has ended is whole, even if its end panics.
            self.let_go(outgoing.take_ended(), head);
            let what = || method_and_path(head);
            match pulled {
                Ok(Ok(Pulled::Piece)) => continue,
                Ok(Ok(Pulled::Sent(bytes))) => {
                    match &mut self.client.progress.blocked {
                        Some(blocked) => blocked.take(bytes, Instant::now()),
                        None => taken = taken.saturating_add(bytes),
                    }
                    continue;
                }
                Ok(Ok(Pulled::Blocked)) => {
                    self.client.progress.stage = Stage::Respond(response);
                    return Err(self.park_blocked(Sent { bytes: taken, all: false }));
                }
                Ok(Ok(Pulled::End)) => {
                    let (ending, given) = (ending.take(), outgoing.given());
                    self.end_behind_out(ending, given);
                    return Ok(response.after);
                }
                Ok(Err(e)) => {
                    error!("{}: its response's source failed: {e}", what());
                    self.let_go(e, head);
                }
                Err(panic) => {
                    error!("{}: its response's source panicked: {}", what(), panic_text(&*panic));
                    self.worker.counters.panicked();
                    self.let_go(panic, head);
                }
            }
            let step = cut(outgoing, CloseReason::ResponseFailed);
            // The head, and answers before it, have not waited for a file's first piece.
            let _ = self.try_flush();
            let head = head.clone();
            self.let_go(response, &head);
            return Err(step);
        }
    }

    /// A response is in `out` or beyond.
    fn after(&mut self, after: After) -> Flow {
        match after {
            After::Keep => {}
            After::Discard(decoder, budget) => {
                let until = self.now + self.common.timeouts.body_stall;
                self.client.progress.stage = Stage::Discard(Box::new((decoder, budget, until)));
                return Ok(());
            }
            After::Close { reason, linger } => {
                // The client's own end of TLS, unread, would be answered by a reset.
                let whole = !linger && self.worker.input.is_empty() && !self.client.stream.is_bound_here();
                self.client.progress.stage = Stage::closing(reason, linger);
                self.flush_last()?;
                self.say_end()?;
                return Err(if whole { Step::Close(reason) } else { Step::Linger(reason) });
            }
        }
        if self.worker.out.len() >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Until a fixed time: what nobody wants is not waited for byte by byte.
    fn discard(&mut self, (mut decoder, mut budget, until): (Decoder, u64, Instant)) -> Flow {
        while !decoder.is_done() && !self.worker.input.is_empty() {
            let decoded = match decoder.decode(self.worker.input.unused()) {
                Ok(decoded) => decoded,
                // Whatever comes next is no request; the answer is out, or goes out first.
                Err(_) => return self.after(unread()),
            };
            self.worker.input.consume(decoded.consumed);
            match budget.checked_sub(decoded.consumed as u64) {
                Some(rest) => budget = rest,
                None => return self.after(unread()),
            }
        }
        if decoder.is_done() {
            return Ok(());
        }
        self.client.progress.stage = Stage::Discard(Box::new((decoder, budget, until)));
        self.flush()?;
        match self.refill()? {
            Filled::Bytes { .. } => Ok(()),
            Filled::End => Err(Step::Close(CloseReason::ClientCut)),
            Filled::Nothing => Err(self.park(Deadline::At(until))),
        }
    }

    /// What is no request gets its answer, and nothing after it is read as one.
    fn refuse(&mut self, refusal: &Refusal) -> Step {
        debug!("refused: {} {}", refusal.status, refusal.reason);
        self.client.served = self.client.served.saturating_add(1);
        self.worker.counters.response(refusal.status.as_u16());
        let to_head = match &self.client.progress.stage {
            Stage::Body(collecting) => collecting.begun.parts.method == Method::HEAD,
            Stage::Upload(waiting) => waiting.0.parts.method == Method::HEAD,
            _ => is_to_head(self.worker.input.unused()) || is_to_head(&self.client.buffered),
        };
        let date = self.worker.date.get(self.now);
        encode::refusal(&mut self.worker.out, refusal, to_head, date);
        self.say_last(CloseReason::Refused)
    }

    /// The deadline passed while the connection was parked.
    fn expire(&mut self) -> Step {
        let reason = match &self.client.progress.stage {
            Stage::Respond(response) => return cut(&response.outgoing, CloseReason::ResponseTimeout),
            _ if !self.worker.out.is_empty() => return Step::Close(CloseReason::ResponseTimeout),
            Stage::Discard(_) => return Step::Linger(CloseReason::BodyUnread),
            Stage::Head { .. } => match self.refuse_unseen() {
                Some(step) => return step,
                None => CloseReason::HeadTimeout,
            },
            Stage::Body(_) | Stage::Upload(_) => CloseReason::BodyTimeout,
        };
        let refusal = Refusal { status: StatusCode::REQUEST_TIMEOUT, reason: "the request took too long" };
        let _ = self.refuse(&refusal);
        Step::Linger(reason)
    }

    fn say_last(&mut self, reason: CloseReason) -> Step {
        self.client.progress.stage = Stage::closing(reason, true);
        match self.flush_last() {
            Ok(()) => Step::Linger(reason),
            Err(step) => step,
        }
    }

    /// As `fill`, for more of a body; not once the turn is over and more may be there.
    fn refill(&mut self) -> Result<Filled, Step> {
        if !self.drained {
            self.now = Instant::now();
            if self.is_over() {
                return Err(self.make_room());
            }
        }
        self.fill()
    }

    /// Reads once, unless it is known that nothing is there.
    fn fill(&mut self) -> Result<Filled, Step> {
        if self.drained {
            self.drained = false;
            return Ok(Filled::Nothing);
        }
        let filled = self.worker.input.fill(&self.client.stream).map_err(|e| broken(&e))?;
        if let Filled::Bytes { drained } = filled {
            // An end that was announced with the bytes is not announced again.
            self.drained = drained && !self.client.may_have_ended;
        }
        Ok(filled)
    }

    /// Writes what is in `out`; ends the turn if the socket does not take it all.
    fn flush(&mut self) -> Flow {
        self.flush_by(outgoing::write_out)
    }

    /// As `flush`, before a step that shuts our side.
    fn flush_last(&mut self) -> Flow {
        self.flush_by(outgoing::write_last)
    }

    fn flush_by(&mut self, write: impl Fn(&mut Vec<u8>, &Stream) -> io::Result<Sent>) -> Flow {
        if self.worker.out.is_empty() {
            return Ok(());
        }
        match write(&mut self.worker.out, &self.client.stream) {
            Ok(sent) if sent.all => {
                self.note_taken(sent);
                Ok(())
            }
            Ok(sent) => Err(self.park_blocked(sent)),
            Err(e) => Err(broken(&e)),
        }
    }

    /// As `flush`, for what TLS says at the end.
    fn say_end(&mut self) -> Flow {
        match self.client.stream.say_end() {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.park_blocked(Sent { bytes: 0, all: false })),
            Err(e) => Err(broken(&e)),
        }
    }

    /// Writes what the socket takes now; what it does not stays for the next flush.
    fn try_flush(&mut self) -> io::Result<()> {
        if !self.worker.out.is_empty() {
            let sent = outgoing::write_out(&mut self.worker.out, &self.client.stream)?;
            self.note_taken(sent);
        }
        Ok(())
    }

    fn note_taken(&mut self, sent: Sent) {
        self.client.progress.endings.note_sent(sent.bytes);
        if let Some(blocked) = &mut self.client.progress.blocked {
            blocked.take(sent.bytes, Instant::now());
        }
    }

    /// Parks until the client takes more.
    fn park_blocked(&mut self, sent: Sent) -> Step {
        let (stall, rate) = self.response_patience();
        let progress = &mut self.client.progress;
        progress.endings.note_sent(sent.bytes);
        progress.unsent = std::mem::take(&mut self.worker.out);
        // It is counted by its length.
        progress.unsent.shrink_to_fit();
        let until = Blocked::park(&mut progress.blocked, sent.bytes, Instant::now(), stall, rate);
        if let Err(e) = self.common.parking.poll_write(self.client) {
            return broken(&e);
        }
        self.park(Deadline::At(until))
    }

    fn park(&mut self, deadline: Deadline) -> Step {
        if let Some(step) = self.at_the_end() {
            return step;
        }
        if let Stage::Respond(response) = &mut self.client.progress.stage {
            response.shorten_head();
        }
        if !self.hold() {
            return self.too_much();
        }
        if let Deadline::Idle(since) = deadline {
            self.client.activity = Activity::Idle { since };
        }
        Step::Park(deadline)
    }

    /// Takes along what is read and not answered, and what is not sent; false if that is more than
    /// may be held in all.
    fn hold(&mut self) -> bool {
        self.client.buffered = self.worker.input.take();
        self.client.activity = match &self.client.progress.stage {
            Stage::Respond(response) if response.outgoing.ends_with_connection() => {
                Activity::Responding(Cut::ShownByReset)
            }
            Stage::Respond(_) => Activity::Responding(Cut::ShownByFraming),
            _ if !self.client.progress.unsent.is_empty() => Activity::Responding(Cut::ShownByFraming),
            Stage::Discard(_) => Activity::Responding(Cut::Complete),
            _ => Activity::Receiving,
        };
        let progress = &mut self.client.progress;
        let held = [
            self.client.buffered.len(),
            progress.unsent.len(),
            progress.stage.held(),
            self.client.stream.hold(),
        ];
        let bytes = held.iter().fold(0, |sum: u64, n| sum.saturating_add(*n as u64));
        if bytes == 0 {
            return true;
        }
        progress.held.get_or_insert_with(|| self.common.stores.memory.share()).hold(bytes)
    }

    /// Memory is for those who are there already.
    fn too_much(&mut self) -> Step {
        warn!("the limit of buffered bytes is reached: a connection is closed");
        if let Stage::Respond(response) = &self.client.progress.stage {
            return cut(&response.outgoing, CloseReason::Overload);
        }
        if !self.client.progress.unsent.is_empty() {
            return Step::Close(CloseReason::Overload);
        }
        let refusal = Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: "too much memory is held by incomplete requests",
        };
        let _ = self.refuse(&refusal);
        Step::Linger(CloseReason::Overload)
    }
}

/// What goes out instead of a response that can't be one.
fn in_place(status: StatusCode, theirs: &HeaderMap, head: &[u8]) -> Response {
    match theirs.get(UPGRADE) {
        // RFC 9110 §15.5.22: it says to what.
        Some(protocols) if status == StatusCode::UPGRADE_REQUIRED => {
            return plain(status).with_header(UPGRADE, protocols.clone());
        }
        _ if status == StatusCode::INTERNAL_SERVER_ERROR => {
            let why = "a 1xx response must be a 101 with an Upgrade field, after the request body was read";
            error!("invalid response: {}: {why}", method_and_path(head));
        }
        _ => {}
    }
    plain(status)
}

fn unread() -> After {
    After::Close { reason: CloseReason::BodyUnread, linger: true }
}

/// The client must see that the response is incomplete: where its framing can't show it, by a reset.
fn cut(outgoing: &Outgoing, reason: CloseReason) -> Step {
    if outgoing.ends_with_connection() { Step::Reset(reason) } else { Step::Close(reason) }
}

fn broken(e: &io::Error) -> Step {
    debug!("connection broken: {e}");
    Step::Close(CloseReason::Broken)
}
