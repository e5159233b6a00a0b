//! The call of a handler: the request that it gets, and its panic.
//!
//! Refusals pass through the route's wrappers, so that an access log and CORS see them. So does the 500 of a handler that
//! panicked: the panic comes back beside the response that the wrappers made of that 500, and is logged and counted once,
//! here.
//!
//! Guards are asked when the head is there and before the body is: they see the request with an empty body. A request
//! without a body is asked about in the call.

use std::any::Any;
use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::time::Instant;

use http::{Extensions, StatusCode};

use super::progress::After;
use super::refuse::broken;
use super::{Exchange, Flow, drop_contained};
use crate::base::contain_panic::panic_text;
use crate::base::log::{Escaped, error, key_value};
use crate::base::requests::SeriesKey;
use crate::http::codec::RequestHead;
use crate::web::handler::call_deadline::Deadline;
use crate::web::handler::{RouteMatch, answer};
use crate::web::spare::recycle;
use crate::web::wrap::RequestId;

impl Exchange<'_> {
    /// Calls the handler and sends its response.
    pub(super) fn answer(&mut self, head: &mut RequestHead, route: &mut RouteMatch, after: After) -> Flow {
        self.prepare_call(route)?;
        let deadline = route.deadline();
        self.call(head, route, deadline, |_| after)
    }

    /// As `answer`, after `prepare_call`. `after` is called as soon as the handler has returned.
    #[inline]
    pub(super) fn call(
        &mut self,
        head: &mut RequestHead,
        route: &mut RouteMatch,
        deadline: Option<Deadline>,
        after: impl FnOnce(&mut Self) -> After,
    ) -> Flow {
        let RequestHead { request, summary, .. } = head;
        let mut watch = None;
        if let Some(request) = request {
            if let Some(recorder) = &self.worker.recorder {
                if let Some(bytes @ 1..) = request.body().len() {
                    recorder.request_bytes(bytes);
                }
            }
            if let Some(deadline) = deadline {
                request.extensions_mut().insert(deadline.clone());
                watch = Some(self.watch(deadline, summary, route)?);
            }
        }
        // Where several responses are written together, the limits of the last one apply.
        self.client.progress.patience = route.own_rules().map(|rules| self.response_patience(&rules.limits));
        let listener_handler = self.listener_handler;
        let latency = route.latency().unwrap_or(&listener_handler.latency);
        if !self.turn.is_current {
            self.turn.now = Instant::now();
        }
        let run = latency.start(self.turn.now);
        route.start(self.turn.now);
        self.worker.current_request.begin(&summary.text, run.begin());
        let mut place = None;
        let handler = &*listener_handler.handler.0;
        let panics = &self.worker.panics;
        let response = answer(handler, request, route, panics, &mut self.entries, &mut place);
        (self.turn.now, self.turn.is_current) = (Instant::now(), true);
        let latency = route.latency().unwrap_or(&listener_handler.latency);
        let took = latency.finish(&run, self.turn.now);
        self.end_call(response.extensions());
        let answered = match watch {
            None => ControlFlow::Continue(()),
            Some(watch) => self.end_watch(watch, response),
        };
        if let Some(recorder) = &mut self.worker.recorder {
            let status = match &answered {
                ControlFlow::Continue(()) => response.status(),
                // The client has had the answer at the deadline.
                ControlFlow::Break(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            let key = SeriesKey::new(route.number(), summary.method.as_str(), status.as_u16());
            recorder.duration(key, took, || route.pattern());
        }
        let after = after(self);
        answered?;
        let flow = self.respond(summary, response, after);
        recycle(&mut place);
        self.worker.heads.recycle(&mut summary.text);
        flow
    }

    #[inline(always)]
    fn end_call(&mut self, extensions: &Extensions) {
        let panics = self.worker.panics.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !panics.is_empty() {
            let panics = std::mem::take(panics);
            panics.into_iter().for_each(|panic| self.report_panic(panic, extensions.get()));
        }
        self.worker.current_request.end();
    }

    /// Asks the guards on the route of a request that has a body, before anything is done for the body.
    pub(super) fn ask_guards(&mut self, head: &mut RequestHead, route: &mut RouteMatch) -> Flow {
        self.prepare_call(route)?;
        let RequestHead { request: Some(request), summary, .. } = head else {
            return ControlFlow::Continue(());
        };
        self.worker.current_request.begin(&summary.text, Instant::now());
        route.attach(request);
        route.ask_guards(&*self.listener_handler.handler.0, request, Some(&self.worker.panics));
        self.turn.now = Instant::now();
        self.end_call(&Extensions::new());
        ControlFlow::Continue(())
    }

    /// Before a handler that takes long, another worker is woken for queued work, and finished answers are sent. No such
    /// handler runs for a client that has disconnected.
    #[inline(always)]
    pub(super) fn prepare_call(&mut self, route: &RouteMatch) -> Flow {
        let latency = route.latency().unwrap_or(&self.listener_handler.latency);
        if latency.is_long() { self.prepare_long_call(latency.blocks()) } else { ControlFlow::Continue(()) }
    }

    fn prepare_long_call(&mut self, blocks: bool) -> Flow {
        self.turn.is_current = false;
        if blocks {
            self.queue.before_blocking(self.worker.index);
        } else {
            self.queue.before_computing();
        }
        match self.try_flush() {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break(broken(&e)),
        }
    }

    fn report_panic(&self, panic: Box<dyn Any + Send>, id: Option<&RequestId>) {
        let current_request = &self.worker.current_request;
        let what = current_request.read().unwrap_or_default();
        let request = current_request.get().map(|(what, _)| Escaped(what));
        error!(
            "a handler panicked ({}): {what}", panic_text(&*panic);
            request = key_value(&request),
            id = key_value(&id),
            reason:% = Escaped(panic_text(&*panic))
        );
        self.worker.counters.panicked();
        drop_contained(panic, || current_request.get().map(|(what, _)| what).unwrap_or_default());
    }
}
