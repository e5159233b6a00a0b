//! How a connection rests between two turns: what it keeps, how much all of them may hold, and until when it waits.

use std::ops::ControlFlow;
use std::time::Instant;

use super::output::Sent;
use super::progress::ExchangeStage;
use super::refuse::broken;
use super::send_body::cut;
use super::stall_limits::Blocked;
use super::{Disposition, Exchange};
use crate::base::close_reason::CloseReason;
use crate::base::phase::Phase;
use crate::net::acceptor::Deadline;

impl Exchange<'_> {
    /// Parks until the client sends or takes more.
    pub(super) fn park(&mut self, deadline: Deadline) -> Disposition {
        self.rest(Disposition::Park(deadline))
    }

    /// Parks until the client takes more of what is written.
    pub(super) fn park_blocked(&mut self, sent: Sent) -> Disposition {
        let patience = self.patience();
        let progress = &mut self.client.progress;
        progress.endings.note_sent(sent.bytes);
        progress.unsent = std::mem::take(&mut self.worker.out);
        // Its length is what counts against the budget.
        progress.unsent.shrink_to_fit();
        let until = Blocked::park(&mut progress.blocked, sent.bytes, Instant::now(), patience);
        match self.common.parking.poll_write(self.client) {
            Ok(()) => self.park(Deadline::At(until)),
            Err(e) => broken(&e),
        }
    }

    /// Ends the turn so that other connections are served. The answers so far go out before.
    pub(super) fn requeue(&mut self) -> Disposition {
        match self.flush() {
            ControlFlow::Continue(()) => self.rest(Disposition::Requeue),
            ControlFlow::Break(disposition) => disposition,
        }
    }

    /// Ends the turn as `disposition` says, if the connection may go on to rest and its bytes may be held.
    pub(super) fn rest(&mut self, disposition: Disposition) -> Disposition {
        // Parked connections are cut at the end of the process. A connection that a worker had then is cut as soon as it
        // would be parked or queued. Otherwise it would be served after the end, or forgotten.
        if self.common.phase.get() == Phase::Exited {
            return match &self.client.progress.stage {
                ExchangeStage::Response(sending) => cut(&sending.body, CloseReason::ResponseTimeout),
                ExchangeStage::Closing(_) => Disposition::Close(CloseReason::ResponseTimeout),
                _ => Disposition::Close(CloseReason::Grace),
            };
        }
        if let ExchangeStage::Response(sending) = &mut self.client.progress.stage {
            sending.shorten_head();
        }
        if !matches!(disposition, Disposition::Park(Deadline::Idle(_))) {
            self.client.activity = self.client.progress.activity();
        }
        if !self.hold() {
            return self.refuse_to_hold();
        }
        disposition
    }

    /// Leaves the unanswered input and the unsent output with the connection. False if that is more than all connections
    /// may hold.
    fn hold(&mut self) -> bool {
        self.client.buffered = self.worker.input.take();
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
}
