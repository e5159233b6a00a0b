//! How far an exchange has come: what its connection keeps while it rests.

use std::time::Instant;

use bytes::Bytes;

use super::on_end::Endings;
use super::read_body::Collecting;
use super::send_body::Sending;
use super::stall_limits::{Blocked, StallLimits};
use super::streaming_body::PendingUpload;
use crate::base::budget::Share;
use crate::base::close_reason::CloseReason;
use crate::http::codec::{Decoder, Scan};
use crate::net::connection::{Activity, Cut, Portable};

/// How far an exchange has come, while its connection rests.
#[derive(Default)]
pub(crate) struct Progress {
    pub(super) stage: ExchangeStage,
    /// Bytes that are sent before anything else.
    pub(super) unsent: Vec<u8>,
    /// The ends of the responses in `unsent`, or in the worker's buffer.
    pub(super) endings: Endings,
    /// How fast the client takes the response, once the server had to wait for it. Few connections have it, so it is apart.
    pub(super) blocked: Option<Box<Blocked>>,
    /// The stall limits of the last response's route. None if they are the server's.
    pub(super) patience: Option<StallLimits>,
    /// The share of the memory that all connections may hold.
    pub(super) held: Option<Share>,
    /// When the first byte arrived of a request that a predecessor has received in part. If its head was complete, the time
    /// for its body counts from here, or each handover would start it again.
    pub(super) moved_since: Option<Instant>,
}

/// The next step of an exchange.
pub(super) enum ExchangeStage {
    Head {
        scan: Scan,
        /// When the first byte of the head arrived.
        since: Option<Instant>,
    },
    Body(Box<Collecting>),
    /// A streaming request that waits for a streaming permit.
    Upload(Box<PendingUpload>),
    /// A response whose body is not all written.
    Response(Box<Sending>),
    /// The rest of a request body is read and dropped, at most until this time.
    Discard {
        unread: Box<Unread>,
        until: Instant,
    },
    /// The connection is closed when all written bytes are sent.
    Closing(CloseReason),
}

/// The rest of a request body that its handler has not read.
pub(super) struct Unread {
    pub(super) decoder: Decoder,
    /// How many more bytes may be dropped.
    pub(super) budget: u64,
}

/// What becomes of the connection when a response is out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Keep,
    /// Kept, once the rest of the request's body, which the exchange has as `unread`, is read and dropped.
    Discard,
    /// The response announces it.
    Close(CloseReason),
}

impl Default for ExchangeStage {
    fn default() -> ExchangeStage {
        ExchangeStage::Head { scan: Scan::default(), since: None }
    }
}

impl ExchangeStage {
    /// Bytes of memory. The content of a body that is collected is not counted: it has a share of its own.
    pub(super) fn held(&self) -> usize {
        match self {
            ExchangeStage::Head { .. } | ExchangeStage::Response(_) | ExchangeStage::Closing(_) => 0,
            ExchangeStage::Body(collecting) => collecting.held(),
            ExchangeStage::Upload(pending) => pending.request.held(),
            ExchangeStage::Discard { unread, .. } => unread.decoder.held(),
        }
    }
}

impl Progress {
    /// The head of the request that is being received or answered, for the log.
    pub(super) fn head(&self) -> Bytes {
        match &self.stage {
            ExchangeStage::Response(sending) => sending.head.clone(),
            ExchangeStage::Body(collecting) => collecting.request.head.summary.text.clone(),
            ExchangeStage::Upload(pending) => pending.request.head.summary.text.clone(),
            _ => Bytes::new(),
        }
    }

    /// Whether a response is being sent, and how the client notices that it is incomplete.
    pub(super) fn activity(&self) -> Activity {
        match &self.stage {
            ExchangeStage::Response(sending) if sending.body.ends_with_connection() => {
                Activity::Responding(Cut::ShownByReset)
            }
            ExchangeStage::Response(_) | ExchangeStage::Closing(_) => {
                Activity::Responding(Cut::ShownByFraming)
            }
            _ if !self.unsent.is_empty() => Activity::Responding(Cut::ShownByFraming),
            ExchangeStage::Discard { .. } => Activity::Responding(Cut::Complete),
            ExchangeStage::Head { .. } | ExchangeStage::Body(_) | ExchangeStage::Upload(_) => {
                Activity::Receiving
            }
        }
    }
}

impl Portable for Progress {
    fn is_portable(&self, buffered: usize, most: usize) -> bool {
        let received = match &self.stage {
            ExchangeStage::Head { .. } => Some(buffered),
            ExchangeStage::Body(collecting) => {
                collecting.received().map(|(head, body)| head.len().saturating_add(body.len()))
            }
            _ => None,
        };
        self.unsent.is_empty() && received.is_some_and(|bytes| bytes <= most)
    }

    fn pack(&mut self, buffered: &mut Vec<u8>) -> Option<Instant> {
        match std::mem::take(&mut self.stage) {
            ExchangeStage::Head { since, .. } => since,
            ExchangeStage::Body(collecting) => {
                if let Some((head, body)) = collecting.received() {
                    let rest = std::mem::take(buffered);
                    *buffered = [head, body, &rest].concat();
                }
                Some(collecting.started)
            }
            _ => None,
        }
    }

    fn unpack(since: Option<Instant>) -> Progress {
        let stage = ExchangeStage::Head { scan: Scan::default(), since };
        Progress { stage, moved_since: since, ..Progress::default() }
    }
}
