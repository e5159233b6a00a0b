//! Which process owns a connection that is on its way: the bookkeeping of both ends of a connection channel, without the
//! channel. `model` tries it in every order of packets, refusals and deaths.
//!
//! The sender does not touch a connection after it has sent it. The connection is the receiver's when that has acknowledged
//! it. The sender gets it back only when the receiver has refused it, or when no process has the other end of the channel and
//! all receipts have been read. So a connection is never read by two processes, and is lost only with the process that had it.
//!
//! The keys of a TLS connection go by the same rule: no nonce is used by two processes. A receiver that takes TLS says so in
//! each receipt, and so does one that knows streams. The last receipt counts, since the channel may have been passed to a
//! process of another version: that one refuses what it does not know, by a receipt that does not say it.
//!
//! That a stream is refused says nothing of the room for connections: it may be its name, or a thread that is missing.

use litemap::LiteMap;

use super::packet::{Receipt, Retry, WINDOW};

/// Whether the process at the other end of the channel takes TLS connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum TlsTaken {
    /// There was no receipt yet.
    Unknown,
    Yes,
    No,
}

/// What is in a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Load {
    /// So many.
    Connections(usize),
    Stream,
    Channel,
}

impl Load {
    /// How much credit it takes.
    fn credit(self) -> usize {
        match self {
            Load::Connections(n) => n,
            Load::Stream => 1,
            Load::Channel => 0,
        }
    }
}

/// The sender's side: the packets that were sent and not settled.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct SenderLedger<C> {
    credit: usize,
    /// The channel takes no more until a receipt was read from it.
    blocked: bool,
    last: u64,
    sent: LiteMap<u64, (Load, C)>,
    /// After a refusal of some, connections are sent one by one, so that one that does not fit does not delay the others.
    singly: bool,
    tls: TlsTaken,
    /// Whether the process at the other end knows streams. None: there was no receipt yet.
    streams: Option<bool>,
}

/// The effect of a receipt on a packet that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Settled<C> {
    /// The cargo belongs to the receiver.
    Delivered(C),
    /// The cargo belongs to the sender again.
    Returned { cargo: C, retry: Retry },
    /// The receipt settles nothing.
    Nothing,
}

impl<C> SenderLedger<C> {
    pub(super) fn new() -> SenderLedger<C> {
        let (sent, tls) = (LiteMap::new(), TlsTaken::Unknown);
        SenderLedger { credit: 0, blocked: false, last: 0, sent, singly: false, tls, streams: None }
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

    /// The batch number of the next packet.
    pub(super) fn next_batch(&self) -> u64 {
        self.last + 1
    }

    /// Notes that the packet is on its way: the sender no longer touches its cargo.
    pub(super) fn posted(&mut self, load: Load, cargo: C) {
        self.last += 1;
        self.credit = self.credit.saturating_sub(load.credit());
        self.sent.insert(self.last, (load, cargo));
    }

    pub(super) fn has_sent(&self) -> bool {
        self.last > 0
    }

    pub(super) fn all_settled(&self) -> bool {
        self.sent.is_empty()
    }

    /// Whether TLS connections may be sent.
    pub(super) fn tls(&self) -> TlsTaken {
        self.tls
    }

    /// Whether streams may be sent. None: not known yet.
    pub(super) fn streams(&self) -> Option<bool> {
        self.streams
    }

    /// Notes what the receipt that is settled next says of its sender: whether it takes TLS connections, and knows streams.
    pub(super) fn note_taken(&mut self, tls: bool, streams: bool) {
        self.tls = if tls { TlsTaken::Yes } else { TlsTaken::No };
        self.streams = Some(streams);
    }

    pub(super) fn settle(&mut self, receipt: Receipt) -> Settled<C> {
        self.blocked = false;
        match receipt {
            Receipt::Credit(n) => {
                self.credit = self.credit.saturating_add(n);
                Settled::Nothing
            }
            Receipt::Ack { batch, credit } => {
                self.credit = self.credit.saturating_add(credit);
                let Some((load, cargo)) = self.sent.remove(&batch) else { return Settled::Nothing };
                self.singly &= !matches!(load, Load::Connections(_));
                Settled::Delivered(cargo)
            }
            Receipt::Nak { batch, retry } => {
                let Some((load, cargo)) = self.sent.remove(&batch) else { return Settled::Nothing };
                self.singly |= matches!(load, Load::Connections(_));
                Settled::Returned { cargo, retry }
            }
        }
    }

    /// No process has the other end, and all receipts have been read: no process has touched what is not settled, and
    /// it is the sender's again.
    pub(super) fn end(&mut self) -> impl Iterator<Item = C> + use<C> {
        (self.credit, self.blocked) = (0, true);
        std::mem::take(&mut self.sent).into_iter().map(|(_, (_, cargo))| cargo)
    }
}

/// The receiver's side: how many connections may arrive.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ReceiverLedger {
    /// How many were granted and have not arrived.
    promised: usize,
    /// How many may be granted at once: fewer after a batch for which there was no room.
    window: usize,
}

impl ReceiverLedger {
    /// `promised` is what is left of the credit that another process has granted.
    pub(super) fn new(promised: usize) -> ReceiverLedger {
        ReceiverLedger { promised, window: WINDOW }
    }

    pub(super) fn promised(&self) -> usize {
        self.promised
    }

    /// How many of `room` to grant now.
    pub(super) fn renew(&mut self, room: usize) -> usize {
        if self.promised < self.window.div_ceil(2) { self.grant(room) } else { 0 }
    }

    fn grant(&mut self, room: usize) -> usize {
        let credit = self.window.saturating_sub(self.promised).min(room);
        self.promised = self.promised.saturating_add(credit);
        credit
    }

    /// A grant could not be sent.
    pub(super) fn take_back(&mut self, credit: usize) {
        self.promised = self.promised.saturating_sub(credit);
    }

    /// Notes that so many have arrived and are taken. Returns how many to grant with the receipt.
    pub(super) fn take(&mut self, came: usize, room: usize) -> usize {
        self.promised = self.promised.saturating_sub(came);
        self.window = (2 * self.window).min(WINDOW);
        self.grant(room)
    }

    /// Notes what has arrived and is refused. Less is granted at once if that may be for want of room.
    pub(super) fn refuse(&mut self, load: Load, retry: Retry) {
        self.promised = self.promised.saturating_sub(load.credit());
        if load != Load::Stream && retry == Retry::Later {
            self.window = (self.window / 2).max(1);
        }
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_refusal_connections_go_singly_until_one_is_taken() {
        let mut ledger = SenderLedger::new();
        assert_eq!((ledger.room(), ledger.is_blocked()), (0, false));
        ledger.settle(Receipt::Credit(9));
        assert_eq!((ledger.room(), ledger.batch(5)), (9, 5));
        ledger.block();
        assert_eq!((ledger.batch(5), ledger.is_blocked()), (0, true));
        ledger.unblock();
        assert_eq!(ledger.batch(5), 5);
        ledger.posted(Load::Connections(5), "five");
        let retry = Retry::Later;
        assert_eq!(
            ledger.settle(Receipt::Nak { batch: 1, retry }),
            Settled::Returned { cargo: "five", retry }
        );
        assert_eq!((ledger.room(), ledger.batch(5)), (4, 1));
        ledger.posted(Load::Connections(1), "one");
        assert_eq!(ledger.settle(Receipt::Ack { batch: 2, credit: 1 }), Settled::Delivered("one"));
        assert_eq!((ledger.room(), ledger.batch(5)), (4, 4));
    }

    #[test]
    fn a_refused_stream_narrows_nothing_for_connections() {
        let mut sender = SenderLedger::new();
        sender.settle(Receipt::Credit(9));
        sender.posted(Load::Stream, "stream");
        assert_eq!(sender.room(), 8);
        let retry = Retry::Never;
        let returned = Settled::Returned { cargo: "stream", retry };
        assert_eq!(sender.settle(Receipt::Nak { batch: 1, retry }), returned);
        assert_eq!((sender.room(), sender.batch(5)), (8, 5));
        // Nor does one that is taken say that there is room for several connections.
        sender.posted(Load::Connections(5), "five");
        sender.posted(Load::Stream, "another");
        sender.settle(Receipt::Nak { batch: 2, retry: Retry::Later });
        assert_eq!(sender.settle(Receipt::Ack { batch: 3, credit: 0 }), Settled::Delivered("another"));
        assert_eq!(sender.batch(5), 1);
        let mut receiver = ReceiverLedger::new(WINDOW);
        (0..WINDOW).for_each(|_| receiver.refuse(Load::Stream, Retry::Later));
        assert_eq!((receiver.promised(), receiver.renew(usize::MAX)), (0, WINDOW));
    }

    #[test]
    fn only_want_of_room_narrows_what_is_granted() {
        let mut receiver = ReceiverLedger::new(WINDOW);
        (0..WINDOW / 2).for_each(|_| receiver.refuse(Load::Connections(1), Retry::Unfit));
        (0..WINDOW / 2).for_each(|_| receiver.refuse(Load::Connections(1), Retry::Never));
        assert_eq!((receiver.promised(), receiver.renew(usize::MAX)), (0, WINDOW));
        receiver.refuse(Load::Connections(WINDOW), Retry::Later);
        assert_eq!(receiver.renew(usize::MAX), WINDOW / 2);
    }

    #[test]
    fn the_last_receipt_says_what_is_taken() {
        let mut ledger = SenderLedger::<()>::new();
        assert_eq!((ledger.tls(), ledger.streams()), (TlsTaken::Unknown, None));
        ledger.note_taken(true, true);
        assert_eq!((ledger.tls(), ledger.streams()), (TlsTaken::Yes, Some(true)));
        ledger.note_taken(false, false);
        assert_eq!((ledger.tls(), ledger.streams()), (TlsTaken::No, Some(false)));
    }

    #[test]
    fn a_receipt_that_comes_late_settles_nothing() {
        let mut ledger = SenderLedger::new();
        ledger.settle(Receipt::Credit(2));
        ledger.posted(Load::Stream, "stream");
        let nak = Receipt::Nak { batch: 1, retry: Retry::Later };
        assert!(matches!(ledger.settle(nak), Settled::Returned { .. }));
        assert_eq!(ledger.settle(nak), Settled::Nothing);
        assert_eq!(ledger.settle(Receipt::Ack { batch: 1, credit: 0 }), Settled::Nothing);
        assert_eq!(ledger.settle(Receipt::Nak { batch: 7, retry: Retry::Never }), Settled::Nothing);
        assert_eq!((ledger.room(), ledger.batch(5)), (1, 1));
    }

    #[test]
    fn a_receipt_unblocks_and_the_end_blocks_for_good() {
        let mut ledger = SenderLedger::new();
        ledger.settle(Receipt::Credit(9));
        ledger.block();
        ledger.settle(Receipt::Credit(1));
        assert_eq!((ledger.room(), ledger.is_blocked(), ledger.has_sent()), (10, false, false));
        ledger.posted(Load::Connections(2), "two");
        assert!(ledger.has_sent() && !ledger.all_settled());
        assert_eq!(ledger.end().collect::<Vec<_>>(), ["two"]);
        assert_eq!((ledger.is_blocked(), ledger.all_settled()), (true, true));
        ledger.unblock();
        assert_eq!(ledger.room(), 0);
    }

    #[test]
    fn credit_is_renewed_when_half_of_the_window_is_used() {
        let half = WINDOW.div_ceil(2);
        assert_eq!(ReceiverLedger::new(half).renew(usize::MAX), 0);
        let mut ledger = ReceiverLedger::new(half - 1);
        assert_eq!(ledger.renew(usize::MAX), WINDOW - (half - 1));
        assert_eq!(ledger.promised(), WINDOW);
        ledger.take_back(WINDOW);
        assert_eq!((ledger.promised(), ledger.renew(7)), (0, 7));
    }

    #[test]
    fn a_refusal_halves_the_window_and_what_is_taken_doubles_it() {
        let mut ledger = ReceiverLedger::new(WINDOW);
        ledger.refuse(Load::Connections(WINDOW), Retry::Later);
        assert_eq!((ledger.promised(), ledger.renew(usize::MAX)), (0, WINDOW / 2));
        while ledger.promised() > 1 {
            ledger.refuse(Load::Connections(ledger.promised()), Retry::Later);
            ledger.renew(usize::MAX);
        }
        ledger.refuse(Load::Connections(1), Retry::Later);
        assert_eq!(ledger.renew(usize::MAX), 1, "one at least");
        assert_eq!((ledger.take(1, usize::MAX), ledger.take(2, usize::MAX)), (2, 4));
    }
}
