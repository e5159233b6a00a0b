//! Whether a connection is kept after a response, decided once, here (RFC 9112 §9.3, §9.6). A close is announced by the
//! response's head.

use bytes::Bytes;

use super::Exchange;
use super::progress::After;
use crate::Response;
use crate::base::close_reason::CloseReason;
use crate::base::phase::Phase;
use crate::http::codec::RequestSummary;
use crate::http::codec::encode::{self, BodyFraming};
use crate::net::stream::Peek;
use crate::web::body::BodyKind;

impl Exchange<'_> {
    /// Decides whether the connection is kept, which the response's head then says.
    pub(super) fn keep_or_close(
        &self,
        request: &RequestSummary,
        response: &Response,
        framing: BodyFraming,
        after: After,
    ) -> After {
        if matches!(after, After::Close(_)) {
            return after;
        }
        let draining = self.client.conn_info.drain.is_draining();
        let ends_connection = || {
            matches!(response.body().kind(), BodyKind::Detached(_) | BodyKind::Upgrade(_))
                || framing == BodyFraming::UntilClose
                || encode::says_close(response.headers())
        };
        let reason = if !request.keep_alive {
            CloseReason::ClientAsked
        } else if self.common.limits.is_last_request(self.client.served) || self.client.stream.is_worn() {
            CloseReason::RequestLimit
        } else if draining && (ends_connection() || !self.is_kept_while_draining()) {
            CloseReason::Drain
        } else if !draining && ends_connection() {
            CloseReason::Response
        } else {
            return after;
        };
        if reason == CloseReason::Drain && self.common.phase.get() == Phase::HandedOver {
            self.common.parking.outbox.note_kept(self.client, &self.worker.counters);
        }
        match after {
            After::Discard => After::Close(CloseReason::BodyUnread),
            After::Keep | After::Close(_) => After::Close(reason),
        }
    }

    /// Notes the request with which the connection ends, if its response announces that, and the client did not ask for it.
    pub(super) fn note_last(&mut self, after: After, head: &Bytes) {
        if matches!(after, After::Close(reason) if reason != CloseReason::ClientAsked) {
            self.last_head = Some(head.clone());
        }
    }

    /// While draining, what the client has already sent is still answered; the last of these responses announces
    /// the close.
    fn is_kept_while_draining(&self) -> bool {
        if self.common.phase.get() == Phase::HandedOver && self.common.parking.outbox.may_take(self.client) {
            return true;
        }
        let has_request = !self.worker.input.unused().iter().all(|byte| b"\r\n".contains(byte));
        // A client that never stops sending is notified too.
        has_request
            || (!self.common.parking.is_grace_over(self.client) && self.client.stream.peek() == Peek::Bytes)
    }
}
