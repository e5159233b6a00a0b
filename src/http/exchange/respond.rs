//! A response: whether it can be sent, and how it is framed, each decided once, here.

use std::ops::ControlFlow;
use std::sync::Arc;

use http::header::UPGRADE;
use http::{HeaderMap, StatusCode};

use super::detached::{Detachment, ReservedThread, Task};
use super::on_end::Ending;
use super::progress::{After, ExchangeStage};
use super::send_body::{OutgoingBody, Sending};
use super::worker::method_and_path;
use super::{Disposition, Exchange, Flow};
use crate::Response;
use crate::base::log::{error, warn};
use crate::base::stays::Stays;
use crate::http::codec::RequestSummary;
use crate::http::codec::encode::{self, BodyFraming, BodyLength, ResponseHead};
use crate::web::body::BodyKind;
use crate::web::response::{ResponseExt, busy, plain};
use crate::web::resume::ResumeName;

impl Exchange<'_> {
    /// Sends a response. `after` is what becomes of the connection as far as the request's body is concerned.
    pub(super) fn respond(
        &mut self,
        request: &RequestSummary,
        response: &mut Response,
        after: After,
    ) -> Flow {
        self.add_error_page(request, response);
        let status = response.status();
        let mut ending = Ending::of(&mut self.entries, response.extensions_mut(), status, self.turn.now);
        // A replacement is in memory and has a final status, and is never replaced in turn.
        let mut thread = None;
        let framing = loop {
            match self.prepare(request, response, after, &mut thread) {
                Ok(framing) => break framing,
                Err(status) => {
                    let mut replacement = instead(status, response.headers(), &request.text);
                    self.add_error_page(request, &mut replacement);
                    let replaced = std::mem::replace(response, replacement);
                    self.drop_users(replaced, &request.text);
                    ending.iter_mut().for_each(|ending| ending.set_status(status));
                }
            }
        };
        let after = self.keep_or_close(request, response, framing, after);
        self.note_last(after, &request.text);
        self.write_head(request, response, framing, !matches!(after, After::Close(_)));
        let mut name = None;
        if !response.extensions().is_empty() {
            name = response.extensions_mut().remove::<ResumeName>().map(|ResumeName(name)| name);
            self.drop_users(std::mem::take(response.extensions_mut()), &request.text);
        }
        let bytes = if let BodyFraming::Length(length) = framing { length } else { 0 };
        if framing.has_body() && OutgoingBody::copy_small(response.body().kind(), &mut self.worker.out) {
            // The body is dropped with the response.
            self.end_after_output(ending, bytes);
            return self.finish(after);
        }
        let body = match (response.body_mut().take_kind(), thread) {
            (BodyKind::Upgrade(speak), Some(thread)) => {
                self.client.buffered = self.worker.input.take();
                return self.detach(thread, Task::Upgrade { speak, ending }, name, request);
            }
            (BodyKind::Detached(write), Some(thread)) => {
                return self.detach(thread, Task::Stream { write, framing, ending }, name, request);
            }
            (kind, _) if framing.has_body() => OutgoingBody::new(kind, framing),
            (kind, _) => {
                self.drop_users(kind, &request.text);
                None
            }
        };
        match body {
            Some(body) => {
                let unread = self.unread.take();
                let sending = Sending { body, after, unread, head: request.text.clone(), ending };
                self.client.progress.stage = ExchangeStage::Response(Box::new(sending));
                ControlFlow::Continue(())
            }
            None => {
                self.end_after_output(ending, bytes);
                self.finish(after)
            }
        }
    }

    #[inline]
    fn write_head(
        &mut self,
        request: &RequestSummary,
        response: &Response,
        framing: BodyFraming,
        keep_alive: bool,
    ) {
        let head = ResponseHead {
            version: request.version,
            status: response.status(),
            headers: response.headers(),
            framing,
            keep_alive,
            date: self.worker.date.get(self.turn.now),
        };
        head.write(&mut self.worker.out);
        self.worker.counters.response(response.status().as_u16());
    }

    /// Decides how a response is framed, and takes the descriptor that it needs, or the thread if it leaves the pool of workers.
    ///
    /// # Errors
    /// The status of the response to send instead: this one is impossible, or there is no thread or descriptor for it.
    fn prepare(
        &self,
        request: &RequestSummary,
        response: &mut Response,
        after: After,
        thread: &mut Option<ReservedThread>,
    ) -> Result<BodyFraming, StatusCode> {
        let length = match response.body().kind() {
            BodyKind::Upgrade(_) => BodyLength::Upgrade,
            _ => response.body().len().map_or(BodyLength::Unknown, BodyLength::Known),
        };
        let framing = match encode::framing(request, response.status(), response.headers(), length) {
            // The rest of the request's body must not be read as the other protocol.
            Ok(BodyFraming::Upgrade) if after != After::Keep => Err(StatusCode::INTERNAL_SERVER_ERROR),
            framing => framing,
        }?;
        let no_thread = || {
            warn!("no thread is left for {}", method_and_path(&request.text));
            StatusCode::SERVICE_UNAVAILABLE
        };
        let detached = &self.common.detached;
        match response.body_mut().kind_mut() {
            BodyKind::Upgrade(_) => {
                *thread = Some(detached.reserve_for_upgrade().ok_or_else(no_thread)?);
            }
            BodyKind::Detached(_) if framing.has_body() => {
                *thread = Some(detached.reserve_for_stream().ok_or_else(no_thread)?);
            }
            // The handler has opened the file itself.
            BodyKind::File { descriptor: descriptor @ None, .. } => {
                *descriptor = self.common.stores.files.descriptors.one();
                if descriptor.is_none() && framing.has_body() {
                    warn!("no descriptor is left for the file of {}: 503", method_and_path(&request.text));
                    return Err(StatusCode::SERVICE_UNAVAILABLE);
                }
            }
            _ => {}
        }
        Ok(framing)
    }

    fn detach(
        &mut self,
        thread: ReservedThread,
        task: Task,
        name: Option<Arc<str>>,
        request: &RequestSummary,
    ) -> Flow {
        let stall = self.patience().stall;
        ControlFlow::Break(Disposition::Detach(Box::new(Detachment {
            thread,
            unsent: std::mem::take(&mut self.worker.out),
            unread: None,
            task,
            what: method_and_path(&request.text),
            stall,
            name: name.filter(|_| self.client.stream.stays().is_none_or(Stays::may_pass)),
        })))
    }
}

/// The response that replaces one that can't be sent.
fn instead(status: StatusCode, headers: &HeaderMap, head: &[u8]) -> Response {
    match status {
        StatusCode::SERVICE_UNAVAILABLE => return busy(),
        // RFC 9110 §15.5.22: a 426 names the protocols.
        StatusCode::UPGRADE_REQUIRED => {
            if let Some(protocols) = headers.get(UPGRADE) {
                return plain(status).with_header(UPGRADE, protocols.clone());
            }
        }
        StatusCode::INTERNAL_SERVER_ERROR => {
            let why = "a 1xx response must be a 101 with an Upgrade field, after the request body was read";
            error!("invalid response: {}: {why}", method_and_path(head));
        }
        _ => {}
    }
    plain(status)
}
