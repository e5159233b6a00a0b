//! The call of a handler: the request that it gets, and its panic.
//!
//! Refusals pass through the route's wrappers, so that an access log and CORS see them. So does the 500 of a handler that
//! panicked: the panic comes back beside the response that the wrappers made of that 500, and is logged and counted once,
//! here.
//!
//! Guards are asked when the head is there and before the body is: the request that they see is taken apart again, and
//! what they have put into its extensions stays in its head. A request without a body is asked about in the call.

use std::any::Any;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::progress::After;
use super::read_head::RoutedRequest;
use super::refuse::broken;
use super::worker::method_and_path;
use super::{Exchange, Flow, drop_contained};
use crate::base::contain_panic::panic_text;
use crate::base::log::error;
use crate::http::codec::{RequestHead, RequestSummary};
use crate::web::body::{Body, BodyKind};
use crate::web::handler::deadline::Deadline;
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
        let deadline = route.deadline();
        let response = self.call(&summary, head, route, body, deadline)?;
        self.respond(&summary, response, after)
    }

    #[inline]
    pub(super) fn call(
        &mut self,
        summary: &RequestSummary,
        head: RequestHead,
        mut route: RouteMatch,
        body: BodyKind,
        deadline: Option<Deadline>,
    ) -> Flow<Response> {
        let body = Body::received(body, Arc::clone(&self.client.conn_info), head.text);
        let mut request = Request::from_parts(head.parts, body);
        let mut watch = None;
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(deadline.clone());
            watch = Some(self.watch(deadline, summary, &route)?);
        }
        // Where several responses are written together, the limits of the last one apply.
        self.client.progress.patience = Some(self.response_patience(&route.rules().limits));
        let listener_handler = self.listener_handler();
        let latency = route.latency().unwrap_or(&listener_handler.latency);
        // `now` is from before the last read, whose time must not count as the handler's.
        let run = latency.start();
        self.worker.current_request.set(Some((summary.text.clone(), run.begin())));
        let panics = Panics::default();
        let response = answer(&*listener_handler.handler.0, request, &mut route, &panics);
        self.now = Instant::now();
        let latency = route.latency().unwrap_or(&listener_handler.latency);
        latency.finish(&run, self.now);
        self.end_call(panics, &summary.text);
        match watch {
            None => ControlFlow::Continue(response),
            Some(watch) => self.end_watch(watch, response),
        }
    }

    fn end_call(&self, panics: Panics, head: &[u8]) {
        let panics = panics.into_inner().unwrap_or_else(PoisonError::into_inner);
        panics.into_iter().for_each(|panic| self.report_panic(panic, head));
        self.worker.current_request.set(None);
    }

    /// Asks the guards on the route of a request that has a body, before anything is done for the body.
    pub(super) fn ask_guards(&mut self, RoutedRequest { head, route }: &mut RoutedRequest) -> Flow {
        self.prepare_call(route)?;
        let (no_parts, _) = Request::default().into_parts();
        let parts = std::mem::replace(&mut head.parts, no_parts);
        let body = Body::received(BodyKind::Empty, Arc::clone(&self.client.conn_info), head.text.clone());
        let mut request = Request::from_parts(parts, body);
        self.worker.current_request.set(Some((head.text.clone(), Instant::now())));
        let panics = Panics::default();
        route.attach(&mut request);
        route.ask_guards(&*self.listener_handler().handler.0, &mut request, Some(&panics));
        (head.parts, _) = request.into_parts();
        self.now = Instant::now();
        self.end_call(panics, &head.text);
        ControlFlow::Continue(())
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
