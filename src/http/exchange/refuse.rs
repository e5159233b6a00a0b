//! Every answer that the server gives by itself: 400 and the like to bytes that are no request, 408 at a deadline, 413,
//! 503 and 507 where a body can't be kept, 503 where connections hold too much memory. The 503 of an overloaded server is
//! here too; the acceptor sends it.

use std::io;
use std::time::SystemTime;

use http::{Method, StatusCode};

use super::progress::{After, ExchangeStage, Unread};
use super::read_body::CollectError;
use super::read_head::RoutedRequest;
use super::send_body::cut;
use super::{Disposition, Exchange, Flow};
use crate::base::close_reason::CloseReason;
use crate::base::log::{debug, warn};
use crate::http::codec::{
    DateCache, Decoder, Framing, HeadMemory, Refusal, RequestHead, encode, is_to_head, parse_head,
};
use crate::web::body::status_of_store;
use crate::web::handler::RouteMatch;
use crate::web::response::{busy, plain};

const TIMED_OUT: Refusal =
    Refusal { status: StatusCode::REQUEST_TIMEOUT, reason: "the request took too long" };
const TOO_MUCH_HELD: Refusal = Refusal {
    status: StatusCode::SERVICE_UNAVAILABLE,
    reason: "too much memory is held by incomplete requests",
};

impl Exchange<'_> {
    /// Answers bytes that are no request. Nothing that follows them is read as one.
    pub(super) fn refuse(&mut self, refusal: &Refusal) -> Disposition {
        debug!("refused: {} {}", refusal.status, refusal.reason);
        self.last_head = Some(self.client.progress.head());
        self.client.served = self.client.served.saturating_add(1);
        self.worker.counters.response(refusal.status.as_u16());
        let to_head = match &self.client.progress.stage {
            ExchangeStage::Body(collecting) => collecting.request.head.summary.method == Method::HEAD,
            ExchangeStage::Upload(pending) => pending.request.head.summary.method == Method::HEAD,
            _ => is_to_head(self.worker.input.unused()) || is_to_head(&self.client.buffered),
        };
        if !self.refuse_with_page(refusal, to_head) {
            let date = self.worker.date.get(self.turn.now);
            if to_head {
                encode::refusal_to_head(&mut self.worker.out, refusal, date);
            } else {
                encode::refusal(&mut self.worker.out, refusal, date);
            }
        }
        self.close(CloseReason::Refused)
    }

    /// The refusal that the head would have got at once, if it had arrived in one piece. A scan does not parse after every
    /// piece, so a head that remains incomplete is checked once more.
    pub(super) fn refusal_of_incomplete_head(&self) -> Option<Refusal> {
        let input = self.worker.input.unused();
        parse_head(input, &self.common.limits, &mut HeadMemory::default(), &mut None).err()
    }

    /// Answers a connection whose deadline passed while it was parked.
    pub(super) fn expire(&mut self) -> Disposition {
        let reason = match &self.client.progress.stage {
            ExchangeStage::Response(sending) => return cut(&sending.body, CloseReason::ResponseTimeout),
            ExchangeStage::Closing(_) => return Disposition::Close(CloseReason::ResponseTimeout),
            _ if !self.worker.out.is_empty() => return Disposition::Close(CloseReason::ResponseTimeout),
            ExchangeStage::Discard { .. } => return Disposition::Linger(CloseReason::BodyUnread),
            ExchangeStage::Head { .. } => match self.refusal_of_incomplete_head() {
                Some(refusal) => return self.refuse(&refusal),
                None => CloseReason::HeadTimeout,
            },
            ExchangeStage::Body(_) | ExchangeStage::Upload(_) => CloseReason::BodyTimeout,
        };
        self.refuse(&TIMED_OUT);
        Disposition::Linger(reason)
    }

    /// Closes this connection, because all connections together hold as many bytes as they may.
    pub(super) fn refuse_to_hold(&mut self) -> Disposition {
        warn!("the limit of buffered bytes is reached: a connection is closed");
        match &self.client.progress.stage {
            ExchangeStage::Response(sending) => return cut(&sending.body, CloseReason::Overload),
            ExchangeStage::Closing(_) => return Disposition::Close(CloseReason::Overload),
            _ if !self.client.progress.unsent.is_empty() => return Disposition::Close(CloseReason::Overload),
            _ => {}
        }
        self.refuse(&TOO_MUCH_HELD);
        Disposition::Linger(CloseReason::Overload)
    }

    /// Refuses a request whose body can't be kept.
    pub(super) fn refuse_body(&mut self, request: &mut RoutedRequest, e: &CollectError) -> Flow {
        let RoutedRequest { head, route } = request;
        route.refuse(match e {
            CollectError::TooLarge => plain(StatusCode::PAYLOAD_TOO_LARGE),
            CollectError::Store(e) => match status_of_store(e) {
                StatusCode::SERVICE_UNAVAILABLE => busy(),
                status => plain(status),
            },
        });
        self.answer_unread(head, route)
    }

    /// Answers a request whose route has a refusal, without reading its body, or the rest of it. The refusal passes
    /// through the handler's wrappers.
    pub(super) fn answer_unread(&mut self, head: &mut RequestHead, route: &mut RouteMatch) -> Flow {
        self.answer(head, route, After::Close(CloseReason::BodyUnread))
    }

    /// Answers a request as a guard has decided, before its body is received. A short body is dropped and the connection
    /// kept; the client of a long one, or of one that waits for a 100, is notified of the close.
    pub(super) fn answer_early(&mut self, head: &mut RequestHead, route: &mut RouteMatch) -> Flow {
        let budget = self.common.limits.discard_bytes;
        let after = match head.framing {
            Framing::Length(n) if n <= budget && !head.expect_continue => {
                let decoder = Decoder::new(head.framing, &self.common.limits);
                self.unread = Some(Box::new(Unread { decoder, budget }));
                After::Discard
            }
            _ => After::Close(CloseReason::BodyUnread),
        };
        self.answer(head, route, after)
    }
}

pub(super) fn broken(e: &io::Error) -> Disposition {
    debug!("connection broken: {e}");
    Disposition::Close(CloseReason::Broken)
}

/// Makes the answer of a server that has no worker left, which the acceptor sends.
pub(crate) fn overloaded() -> impl FnMut() -> Vec<u8> + Send + 'static {
    let mut date = DateCache::new(SystemTime::now());
    move || {
        let mut answer = Vec::new();
        date.update(SystemTime::now());
        encode::busy(&mut answer, date.line());
        answer
    }
}
