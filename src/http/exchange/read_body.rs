//! A request body that is complete before its handler runs: in memory up to a limit, then in an unlinked temporary file.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use super::input::Filled;
use super::progress::{After, ExchangeStage};
use super::read_head::RoutedRequest;
use super::stall_limits::StallLimits;
use super::{Disposition, Exchange, Flow};
use crate::base::budget::{Budget, Share};
use crate::base::close_reason::CloseReason;
use crate::base::file_budget::{FileBudget, SpillFile, StoreError};
use crate::http::codec::Decoder;
use crate::net::acceptor::Deadline;
use crate::web::body::BodyKind;
use crate::web::request::Trailers;

impl Exchange<'_> {
    pub(super) fn read_body(&mut self, mut collecting: Box<Collecting>) -> Flow {
        // A body that is written to a file takes time, which is not the handler's.
        self.turn.is_current = false;
        while !collecting.decoder.is_done() && !self.worker.input.is_empty() {
            let most = collecting.room();
            let input = self.worker.input.unused_mut();
            let decoded = match collecting.decoder.decode_run(input, most) {
                Ok(decoded) => decoded,
                Err(refusal) => {
                    self.client.progress.stage = ExchangeStage::Body(collecting);
                    return ControlFlow::Break(self.refuse(&refusal));
                }
            };
            let data = input.get(decoded.data).unwrap_or_default();
            if let Err(e) = collecting.add(data, &self.common.stores) {
                collecting.store = CollectedBody::Nothing;
                return self.refuse_body(&mut collecting.request, &e);
            }
            self.worker.input.consume(decoded.consumed);
        }
        if collecting.decoder.is_done() {
            let finished = collecting.finish();
            let RoutedRequest { head, route } = &mut collecting.request;
            return match finished {
                Ok(()) => self.answer(head, route, After::Keep),
                Err(e) => self.refuse_body(&mut collecting.request, &e),
            };
        }
        let until = collecting.deadline(self.turn.now);
        self.client.progress.stage = ExchangeStage::Body(collecting);
        self.flush()?;
        match self.refill()? {
            Filled::Bytes { .. } => ControlFlow::Continue(()),
            Filled::End => ControlFlow::Break(Disposition::Close(CloseReason::ClientCut)),
            Filled::Nothing => ControlFlow::Break(self.park(Deadline::At(until))),
        }
    }
}

/// Where request bodies are kept, and how many bytes in all.
pub(crate) struct Stores {
    pub(crate) memory: Budget,
    pub(crate) files: Arc<FileBudget>,
}

/// The limits of one body.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// How many of its bytes may be in memory.
    pub(super) memory: usize,
    pub(super) all: u64,
    pub(super) patience: StallLimits,
}

/// A request whose body is not complete.
pub(super) struct Collecting {
    pub(super) request: RoutedRequest,
    decoder: Decoder,
    store: CollectedBody,
    len: u64,
    bounds: Bounds,
    /// When its first byte was expected.
    pub(super) started: Instant,
}

#[derive(Default)]
enum CollectedBody {
    Memory(Vec<u8>, Share),
    File(SpillFile),
    /// It was taken, or is dropped because the request is refused.
    #[default]
    Nothing,
}

/// Why a body can't be kept.
pub(super) enum CollectError {
    TooLarge,
    Store(StoreError),
}

impl From<StoreError> for CollectError {
    fn from(e: StoreError) -> CollectError {
        CollectError::Store(e)
    }
}

impl Collecting {
    pub(super) fn new(
        request: RoutedRequest,
        decoder: Decoder,
        bounds: Bounds,
        stores: &Stores,
        started: Instant,
    ) -> Collecting {
        let expected = decoder.remaining_hint().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        // A client may announce more than it sends, so it gets no memory for the announcement.
        let bytes = Vec::with_capacity(expected.min(bounds.memory).min(8 << 10));
        let store = CollectedBody::Memory(bytes, stores.memory.share());
        Collecting { request, decoder, store, len: 0, bounds, started }
    }

    /// How much more content is allowed.
    fn room(&self) -> u64 {
        self.bounds.all.saturating_sub(self.len)
    }

    fn add(&mut self, data: &[u8], stores: &Stores) -> Result<(), CollectError> {
        self.len = self.len.saturating_add(data.len() as u64);
        // The server does not wait for the data of a chunk that exceeds the limit.
        if self.len.saturating_add(self.decoder.announced()) > self.bounds.all {
            return Err(CollectError::TooLarge);
        }
        if let CollectedBody::Memory(bytes, share) = &mut self.store {
            if bytes.len().saturating_add(data.len()) <= self.bounds.memory && share.hold(self.len) {
                bytes.extend_from_slice(data);
                return Ok(());
            }
        }
        if let CollectedBody::Memory(bytes, _) = &self.store {
            // It is too long for memory, or other connections hold all memory for bodies.
            let mut file = stores.files.create()?;
            file.append(bytes)?;
            self.store = CollectedBody::File(file);
        }
        match &mut self.store {
            CollectedBody::File(file) => Ok(file.append(data)?),
            CollectedBody::Memory(..) | CollectedBody::Nothing => Ok(()),
        }
    }

    /// The deadline for the next byte.
    fn deadline(&self, now: Instant) -> Instant {
        self.bounds.patience.deadline(self.started, self.len, now)
    }

    /// Bytes of memory besides the content.
    pub(super) fn held(&self) -> usize {
        self.request.held().saturating_add(self.decoder.held())
    }

    /// Head and body as they came, if they are still unchanged: a body of known length in memory,
    /// without a 100 that asked the client to send it.
    pub(super) fn received(&self) -> Option<(&[u8], &[u8])> {
        match &self.store {
            CollectedBody::Memory(bytes, _)
                if self.decoder.remaining_hint().is_some() && !self.request.head.expect_continue =>
            {
                Some((&self.request.head.summary.text, bytes))
            }
            _ => None,
        }
    }

    /// Gives the request its complete body.
    fn finish(&mut self) -> Result<(), CollectError> {
        let body = match std::mem::take(&mut self.store) {
            CollectedBody::Nothing => BodyKind::Empty,
            CollectedBody::Memory(bytes, _) if bytes.is_empty() => BodyKind::Empty,
            // Its share ends here: there are at most as many bodies in handlers as workers.
            CollectedBody::Memory(bytes, _) => BodyKind::Bytes(bytes.into()),
            CollectedBody::File(mut spilled) => {
                spilled.rewind()?;
                BodyKind::spilled(spilled)
            }
        };
        if let Some(request) = &mut self.request.head.request {
            *request.body_mut().kind_mut() = body;
            let trailers = self.decoder.take_trailers();
            if !trailers.is_empty() {
                request.extensions_mut().insert(Trailers(trailers));
            }
        }
        Ok(())
    }
}
