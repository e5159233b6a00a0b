//! Where an exchange is: what a connection takes along while it rests.

use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Version};

use super::collect::Collecting;
use super::outgoing::Outgoing;
use crate::close_reason::CloseReason;
use crate::connection::Portable;
use crate::http1::{Decoder, Scan};

/// Where an exchange is, while its connection rests.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(super) stage: Stage,
    /// Goes out before anything else.
    pub(super) unsent: Vec<u8>,
    /// Since when the client has taken nothing of it.
    pub(super) stalled: Option<Instant>,
}

impl Portable for Progress {
    fn is_portable(&self, buffered: usize, most: usize) -> bool {
        let come = match &self.stage {
            Stage::Head { .. } => Some(buffered),
            Stage::Body(collecting) => collecting.received().map(|(head, body)| head.len() + body.len()),
            _ => None,
        };
        self.unsent.is_empty() && come.is_some_and(|come| come <= most)
    }

    fn pack(&mut self, buffered: &mut Vec<u8>) -> Option<Instant> {
        match std::mem::take(&mut self.stage) {
            Stage::Head { began, .. } => began,
            Stage::Body(collecting) => {
                if let Some((head, body)) = collecting.received() {
                    let rest = std::mem::take(buffered);
                    *buffered = [head, body, &rest].concat();
                }
                Some(Instant::now())
            }
            _ => None,
        }
    }

    fn unpack(begun: Option<Instant>) -> Progress {
        let stage = Stage::Head { scan: Scan::default(), began: begun };
        Progress { stage, ..Progress::default() }
    }
}

#[derive(Debug)]
pub(super) enum Stage {
    Head {
        scan: Scan,
        began: Option<Instant>,
    },
    Body(Box<Collecting>),
    /// A streaming request that waits for its share of the workers.
    Upload(Box<(Begun, Decoder)>),
    Respond(Box<Responding>),
    Discard(Box<(Decoder, u64)>),
}

impl Default for Stage {
    fn default() -> Stage {
        Stage::Head { scan: Scan::default(), began: None }
    }
}

impl Stage {
    /// For a connection that closes when what is written is sent.
    pub(super) fn closing(reason: CloseReason, linger: bool) -> Stage {
        let after = After::Close { reason, linger };
        Stage::Respond(Box::new(Responding { outgoing: Outgoing::done(), after, head: Bytes::new() }))
    }
}

/// A response whose body is on its way.
#[derive(Debug)]
pub(super) struct Responding {
    pub(super) outgoing: Outgoing,
    pub(super) after: After,
    /// Of the request, for the log.
    pub(super) head: Bytes,
}

/// A request whose head is complete.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) parts: Parts,
    /// As received.
    pub(super) text: Bytes,
    pub(super) keep_alive: bool,
    pub(super) expects: bool,
}

/// What becomes of the connection when a response is out.
#[derive(Debug)]
pub(super) enum After {
    Keep,
    /// What is left of the request's body is read and dropped first.
    Discard(Decoder, u64),
    /// Announced.
    Close {
        reason: CloseReason,
        linger: bool,
    },
}

/// What of a request the response depends on; the request itself is the handler's by then.
pub(super) struct AskedOwned {
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) keep_alive: bool,
    pub(super) head: Bytes,
}

impl Begun {
    pub(super) fn asked(&self) -> AskedOwned {
        AskedOwned {
            method: self.parts.method.clone(),
            version: self.parts.version,
            keep_alive: self.keep_alive,
            head: self.text.clone(),
        }
    }
}
