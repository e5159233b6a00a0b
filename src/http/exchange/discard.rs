//! The rest of a request body that its handler has not read: it is dropped, so that the next request can be found.

use std::ops::ControlFlow;
use std::time::Instant;

use super::input::Filled;
use super::progress::{After, ExchangeStage, Unread};
use super::{Disposition, Exchange, Flow};
use crate::base::close_reason::CloseReason;
use crate::net::acceptor::Deadline;

impl Exchange<'_> {
    /// Reads and drops until a fixed time: the bytes are not needed, so none of them extends it.
    pub(super) fn discard(&mut self, mut unread: Box<Unread>, until: Instant) -> Flow {
        while !unread.decoder.is_done() && !self.worker.input.is_empty() {
            let left = match unread.decoder.decode(self.worker.input.unused()) {
                Ok(decoded) => {
                    self.worker.input.consume(decoded.consumed);
                    unread.budget.checked_sub(decoded.consumed as u64)
                }
                // The body is malformed, so the bytes that follow are no request. The response is sent before the close.
                Err(_) => None,
            };
            match left {
                Some(left) => unread.budget = left,
                None => return self.finish(After::Close(CloseReason::BodyUnread)),
            }
        }
        if unread.decoder.is_done() {
            return ControlFlow::Continue(());
        }
        self.client.progress.stage = ExchangeStage::Discard { unread, until };
        self.flush()?;
        match self.refill()? {
            Filled::Bytes { .. } => ControlFlow::Continue(()),
            Filled::End => ControlFlow::Break(Disposition::Close(CloseReason::ClientCut)),
            Filled::Nothing => ControlFlow::Break(self.park(Deadline::At(until))),
        }
    }
}
