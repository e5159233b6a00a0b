//! Connections that come from a predecessor, and the credit that keeps them to what there is room
//! for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::handover::parcel::{self, Receipt, WINDOW};

/// A predecessor's connection channel: this process's own predecessor's, or one that was passed on.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) channel: OwnedFd,
    /// Granted, and not yet come.
    pub(super) promised: usize,
    /// How much may be granted at once: less after a batch for which there was no room.
    window: usize,
    /// Connections that have come.
    came: usize,
    has_refused: bool,
}

impl Upstream {
    pub(super) fn new(channel: OwnedFd, promised: usize) -> Upstream {
        Upstream { channel, promised, window: WINDOW, came: 0, has_refused: false }
    }

    /// Connections that have come by it.
    pub(super) fn came(&self) -> usize {
        self.came
    }

    /// What to grant now, of `room`.
    fn grant(&mut self, room: usize) -> usize {
        let credit = self.window.saturating_sub(self.promised).min(room);
        self.promised += credit;
        credit
    }

    /// Grants again when there is room again.
    pub(super) fn renew(&mut self, room: usize) {
        if self.promised < self.window.div_ceil(2) {
            let credit = self.grant(room);
            if credit > 0 && self.say(Receipt::Credit(credit)).is_err() {
                self.promised -= credit;
            }
        }
    }

    /// `came` connections are ours from here on, if this says so: then none of them has been
    /// touched before their predecessor let go of them.
    pub(super) fn acknowledge(&mut self, batch: u64, came: usize, room: usize) -> bool {
        self.promised = self.promised.saturating_sub(came);
        self.window = (2 * self.window).min(WINDOW);
        let credit = self.grant(room);
        let ours = match self.say(Receipt::Ack { batch, credit }) {
            Ok(()) => true,
            // It is dead, and what it had sent is ours.
            Err(e) => matches!(e.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN)),
        };
        self.came += if ours { came } else { 0 };
        ours
    }

    /// Whether nothing has been refused before; for the log, which need not hear it again.
    pub(super) fn is_first_refusal(&mut self) -> bool {
        !std::mem::replace(&mut self.has_refused, true)
    }

    /// Nothing of a batch of `came` was kept.
    pub(super) fn refuse(&mut self, batch: u64, came: usize) {
        self.promised = self.promised.saturating_sub(came);
        self.window = (self.window / 2).max(4);
        // If this is lost, so is the channel, and that gives them back, too.
        let _ = self.say(Receipt::Nak { batch });
    }

    fn say(&self, receipt: Receipt) -> io::Result<()> {
        parcel::send(self.channel.as_fd(), &receipt.encode(), &[])
    }
}
