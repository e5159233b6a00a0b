//! The call of a handler: the request that it gets, and its panic.
//!
//! Refusals pass through the route's wrappers, so that an access log and CORS see them. So does the 500 of a handler that
//! panicked: the panic comes back beside the response that the wrappers made of that 500, and is logged and counted once,
//! here.

use std::any::Any;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::progress::After;
use super::refuse::broken;
use super::worker::method_and_path;
use super::{Exchange, Flow, drop_contained};
use crate::base::contain_panic::panic_text;
use crate::base::log::error;
use crate::http::codec::{RequestHead, RequestSummary};
use crate::web::body::{Body, BodyKind};
use crate::web::handler::{Panics, RouteMatch, answer};
use crate::{Request, Response};

impl Exchange<'_> {
    /// Calls the handler and sends its response.
    pub(super) fn answer(
        &mut self,
        mut head: RequestHead,
        route: RouteMatch,
        body: BodyKind,
        after: After,
    ) -> Flow {
        let summary = head.summary();
        self.prepare_call(&route)?;
        let response = self.call(&summary, head, route, body);
        self.respond(&summary, response, after)
    }

    #[inline]
    pub(super) fn call(
        &mut self,
        summary: &RequestSummary,
        head: RequestHead,
        mut route: RouteMatch,
        body: BodyKind,
    ) -> Response {
        let body = Body::received(body, Arc::clone(&self.client.conn_info), head.text);
        let mut request = Request::from_parts(head.parts, body);
        let refusal = route.attach(&mut request);
        // Where several responses are written together, the limits of the last one apply.
        self.client.progress.patience = Some(self.response_patience(&route.rules().limits));
        let listener_handler = self.listener_handler();
        let latency = route.latency().unwrap_or(&listener_handler.latency);
        // `now` is from before the last read, whose time must not count as the handler's.
        let run = latency.start();
        self.worker.current_request.set(Some((summary.text.clone(), run.begin())));
        let panics = Panics::default();
        let response = answer(&*listener_handler.handler.0, request, &route, refusal, &panics);
        self.now = Instant::now();
        latency.finish(&run, self.now);
        let panics = panics.into_inner().unwrap_or_else(PoisonError::into_inner);
        panics.into_iter().for_each(|panic| self.report_panic(panic, &summary.text));
        self.worker.current_request.set(None);
        response
    }

    /// Before a handler that takes long, another worker is woken for queued work, and finished answers are sent. No such
    /// handler runs for a client that has disconnected.
    pub(super) fn prepare_call(&mut self, route: &RouteMatch) -> Flow {
        let latency = route.latency().unwrap_or(&self.listener_handler().latency);
        if !latency.is_long() {
            return ControlFlow::Continue(());
        }
        if latency.blocks() {
            self.queue.before_blocking(self.worker.index);
        } else {
            self.queue.before_computing();
        }
        match self.try_flush() {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break(broken(&e)),
        }
    }

    fn report_panic(&self, panic: Box<dyn Any + Send>, head: &[u8]) {
        let what = self.worker.current_request.read().unwrap_or_default();
        error!("a handler panicked ({}): {what}", panic_text(&*panic));
        self.worker.counters.panicked();
        drop_contained(panic, || method_and_path(head));
    }
}
