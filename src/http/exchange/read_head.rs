//! Reads a request head from the connection, and decides what follows before its body is read. The limits of a head and its
//! grammar are in `codec/head.rs`.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use super::input::Filled;
use super::progress::{After, ExchangeStage};
use super::read_body::{Bounds, Collecting};
use super::streaming_body::PendingUpload;
use super::worker::WorkerState;
use super::{Disposition, Exchange, Flow};
use crate::base::close_reason::CloseReason;
use crate::http::codec::encode::CONTINUE;
use crate::http::codec::{Decoder, Framing, RequestHead, Scan};
use crate::net::acceptor::Deadline;
use crate::net::connection::Activity;
use crate::net::transfer::PORTABLE_BYTES;
use crate::web::body::BodyKind;
use crate::web::handler::{RouteMatch, add_route};
use crate::web::response::plain;

/// A request whose head is complete, with its route, which is looked up once.
pub(super) struct RoutedRequest {
    pub(super) head: RequestHead,
    pub(super) route: RouteMatch,
}

impl RoutedRequest {
    /// Bytes of memory.
    pub(super) fn held(&self) -> usize {
        self.head.held().saturating_add(self.route.held())
    }
}

impl Exchange<'_> {
    /// The stage is `Head`, with these values.
    #[inline(always)]
    pub(super) fn read_head(&mut self, mut scan: Scan, since: Option<Instant>) -> Flow {
        if let Some(b'\r' | b'\n') = self.worker.input.unused().first() {
            match scan.skip_empty_lines(self.worker.input.unused()) {
                Ok(n) => self.worker.input.consume(n),
                Err(refusal) => return ControlFlow::Break(self.refuse(&refusal)),
            }
        }
        if self.is_due_to_successor() {
            return self.hand_over(scan, since);
        }
        if !self.worker.input.is_empty() {
            if self.is_over() {
                self.note_head(scan, since.or(Some(self.turn.now)));
                return ControlFlow::Break(self.requeue());
            }
            let WorkerState { input, heads, .. } = &mut *self.worker;
            let mut place = None;
            match scan.parse(input.unused(), &self.common.limits, heads, &mut place) {
                Ok(Some(head)) => return self.accept(head),
                Ok(None) => {}
                Err(refusal) => return ControlFlow::Break(self.refuse(&refusal)),
            }
        }
        self.read_more_of_head(scan, since)
    }

    fn read_more_of_head(&mut self, scan: Scan, since: Option<Instant>) -> Flow {
        let is_idle = self.worker.input.is_empty() && !self.client.stream.holds_part();
        let since = if is_idle { None } else { since.or(Some(self.turn.now)) };
        self.note_head(scan, since);
        // Answers to earlier requests don't wait for the next one.
        self.flush()?;
        self.client.progress.blocked = None;
        self.client.progress.moved_since = None;
        self.client.guard = None;
        if since.is_some() {
            self.client.guard = Some(self.worker.wait_group.guard());
        }
        match self.fill()? {
            Filled::Bytes { .. } => ControlFlow::Continue(()),
            Filled::End if since.is_some() => ControlFlow::Break(self.end_in_head()),
            Filled::End => ControlFlow::Break(Disposition::CloseRead(CloseReason::ClientClosed)),
            // Part of a TLS record has arrived: the next step notes when.
            Filled::Nothing if since.is_none() && self.client.stream.holds_part() => {
                ControlFlow::Continue(())
            }
            Filled::Nothing => {
                let deadline = since.map_or(Deadline::Idle(self.turn.now), |since| {
                    Deadline::At(since + self.common.timeouts.head)
                });
                ControlFlow::Break(self.park(deadline))
            }
        }
    }

    /// Notes how far the head has come, in place: the stage is `Head`.
    #[inline(always)]
    fn note_head(&mut self, scan: Scan, since: Option<Instant>) {
        if let ExchangeStage::Head { scan: noted, since: noted_since } = &mut self.client.progress.stage {
            (*noted, *noted_since) = (scan, since);
        }
    }

    fn end_in_head(&mut self) -> Disposition {
        match self.refusal_of_incomplete_head() {
            Some(refusal) => self.refuse(&refusal),
            None => Disposition::Close(CloseReason::ClientCut),
        }
    }

    /// Whether the successor is to have this connection now, with what has been read and not answered.
    fn is_due_to_successor(&self) -> bool {
        let unread = || self.worker.input.unused().len().saturating_add(self.client.stream.unread());
        self.common.parking.outbox.takes_now(self.client) && unread() <= PORTABLE_BYTES
    }

    fn hand_over(&mut self, scan: Scan, since: Option<Instant>) -> Flow {
        let stream = &self.client.stream;
        let is_idle = self.worker.input.is_empty() && !stream.holds_part() && !stream.has_more();
        let since = if is_idle { None } else { since.or(Some(self.turn.now)) };
        self.note_head(scan, since);
        self.flush()?;
        // A request that has started to arrive counts as in flight until the successor has it.
        self.client.guard = since.map(|_| self.worker.wait_group.guard());
        self.client.activity = match since {
            None => Activity::Idle { since: self.turn.now },
            Some(_) => Activity::Receiving,
        };
        self.client.buffered = self.worker.input.take();
        ControlFlow::Break(Disposition::HandOver)
    }

    /// Accepts a complete head: its route is looked up and the request is checked before the body is read.
    #[inline(always)]
    fn accept(&mut self, head: &mut RequestHead) -> Flow {
        self.worker.input.consume(head.len);
        self.note_head(Scan::default(), None);
        if self.client.guard.is_none() {
            self.client.guard = Some(self.worker.wait_group.guard());
        }
        self.client.served = self.client.served.saturating_add(1);
        self.turn.served = self.turn.served.saturating_add(1);
        let handler = &*self.listener_handler.handler.0;
        let mut route = RouteMatch::default();
        add_route(handler, &head.summary.method, head.path(), &mut route);
        if let Some(request) = &mut head.request {
            let conn_info = Arc::clone(&self.client.conn_info);
            request.body_mut().set_received(conn_info, head.summary.text.clone());
        }
        match head.framing {
            Framing::None | Framing::Length(0) => {
                self.client.progress.moved_since = None;
                self.answer(head, &mut route, After::Keep)
            }
            _ => self.accept_body(head, &mut route),
        }
    }

    fn accept_body(&mut self, head: &mut RequestHead, route: &mut RouteMatch) -> Flow {
        let started = self.client.progress.moved_since.take().unwrap_or(self.turn.now);
        let limits = &self.common.limits;
        let limit = route.rules().limits.body_bytes.unwrap_or(limits.body_bytes);
        if !route.is_refused() && matches!(head.framing, Framing::Length(n) if n > limit) {
            route.refuse(plain(StatusCode::PAYLOAD_TOO_LARGE));
        }
        if route.is_refused() {
            return self.answer_unread(head, route);
        }
        if route.has_guards() {
            self.ask_guards(head, route)?;
            if route.is_answered() {
                return self.answer_early(head, route);
            }
        }
        if !route.rules().streaming && self.take_body(head) {
            return self.answer(head, route, After::Keep);
        }
        let request = RoutedRequest { head: std::mem::take(head), route: std::mem::take(route) };
        let RoutedRequest { head, route } = &request;
        let decoder = Decoder::new(head.framing, limits);
        if route.rules().streaming {
            self.client.progress.stage = ExchangeStage::Upload(Box::new(PendingUpload { request, decoder }));
            return ControlFlow::Continue(());
        }
        if head.expect_continue && self.worker.input.is_empty() {
            self.worker.out.extend_from_slice(CONTINUE);
        }
        let patience = self.body_patience(&route.rules().limits);
        let bounds = Bounds { memory: limits.body_memory_bytes, all: limit, patience };
        let collecting = Collecting::new(request, decoder, bounds, &self.common.stores, started);
        self.client.progress.stage = ExchangeStage::Body(Box::new(collecting));
        ControlFlow::Continue(())
    }

    /// Gives the request its body, if all of it came with the head and it may be in memory. It needs no share of the memory for
    /// bodies that are being received.
    fn take_body(&mut self, head: &mut RequestHead) -> bool {
        let (Some(request), Framing::Length(length)) = (&mut head.request, head.framing) else {
            return false;
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let input = &mut self.worker.input;
        let Some(body) = input.unused().get(..length) else { return false };
        if length > self.common.limits.body_memory_bytes {
            return false;
        }
        *request.body_mut().kind_mut() = BodyKind::Bytes(body.to_vec().into());
        input.consume(length);
        true
    }
}
