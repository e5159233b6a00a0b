//! Who owns what on the way from one process to the next: the bookkeeping of both ends of a
//! connection channel, without the channel. `model` tries it in every order of packets and deaths.

use std::collections::BTreeMap;

use crate::process::handover::parcel::{Receipt, WINDOW};

/// The sender's side: what was sent and not yet settled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sender<C> {
    credit: usize,
    /// The channel takes no more until something was read from it.
    blocked: bool,
    last: u64,
    sent: BTreeMap<u64, C>,
    /// After a refusal one by one, so that the one that does not fit keeps no others back.
    singly: bool,
}

/// What a receipt says of what was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Settled<C> {
    /// The receiver's own.
    Delivered(C),
    /// The sender's again; `never`: there is no use in sending it again.
    Returned { cargo: C, never: bool },
    /// Nothing of it.
    Nothing,
}

impl<C> Sender<C> {
    pub(super) fn new() -> Sender<C> {
        Sender { credit: 0, blocked: false, last: 0, sent: BTreeMap::new(), singly: false }
    }

    /// How many connections may go now.
    pub(super) fn room(&self) -> usize {
        if self.blocked { 0 } else { self.credit }
    }

    /// How many may go in one packet.
    pub(super) fn batch(&self, most: usize) -> usize {
        self.room().min(if self.singly { 1 } else { most })
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    pub(super) fn block(&mut self) {
        self.blocked = true;
    }

    pub(super) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// The number that the next packet is to bear.
    pub(super) fn next(&self) -> u64 {
        self.last + 1
    }

    /// That packet is on its way: from here on the sender leaves alone what is in it.
    pub(super) fn posted(&mut self, connections: usize, cargo: C) {
        self.last += 1;
        self.credit = self.credit.saturating_sub(connections);
        self.sent.insert(self.last, cargo);
    }

    pub(super) fn has_sent(&self) -> bool {
        self.last > 0
    }

    pub(super) fn all_settled(&self) -> bool {
        self.sent.is_empty()
    }

    pub(super) fn hear(&mut self, receipt: Receipt) -> Settled<C> {
        self.blocked = false;
        match receipt {
            Receipt::Credit(n) => {
                self.credit = self.credit.saturating_add(n);
                Settled::Nothing
            }
            Receipt::Ack { batch, credit } => {
                self.credit = self.credit.saturating_add(credit);
                self.singly = false;
                self.sent.remove(&batch).map_or(Settled::Nothing, Settled::Delivered)
            }
            Receipt::Nak { batch, never } => {
                self.singly = true;
                match self.sent.remove(&batch) {
                    Some(cargo) => Settled::Returned { cargo, never },
                    None => Settled::Nothing,
                }
            }
        }
    }

    /// Nobody has the other end any more, and all it said has been heard: what is not settled was
    /// touched by nobody, and is the sender's again.
    pub(super) fn end(&mut self) -> impl Iterator<Item = C> + use<C> {
        (self.credit, self.blocked) = (0, true);
        std::mem::take(&mut self.sent).into_values()
    }
}

/// The receiver's side: what may come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Receiver {
    /// Granted, and not yet come.
    promised: usize,
    /// How much may be granted at once: less after a batch for which there was no room.
    window: usize,
}

impl Receiver {
    /// With what is left of a credit that somebody else has granted.
    pub(super) fn new(promised: usize) -> Receiver {
        Receiver { promised, window: WINDOW }
    }

    pub(super) fn promised(&self) -> usize {
        self.promised
    }

    /// What to grant of `room`, if it is time to.
    pub(super) fn renew(&mut self, room: usize) -> usize {
        if self.promised < self.window.div_ceil(2) { self.grant(room) } else { 0 }
    }

    fn grant(&mut self, room: usize) -> usize {
        let credit = self.window.saturating_sub(self.promised).min(room);
        self.promised = self.promised.saturating_add(credit);
        credit
    }

    /// A grant was not heard.
    pub(super) fn take_back(&mut self, credit: usize) {
        self.promised = self.promised.saturating_sub(credit);
    }

    /// So many have come and are taken: what to grant beside the receipt.
    pub(super) fn take(&mut self, came: usize, room: usize) -> usize {
        self.promised = self.promised.saturating_sub(came);
        self.window = (2 * self.window).min(WINDOW);
        self.grant(room)
    }

    /// So many have come and are refused.
    pub(super) fn refuse(&mut self, came: usize) {
        self.promised = self.promised.saturating_sub(came);
        self.window = (self.window / 2).max(1);
    }
}

#[cfg(test)]
mod model;
