//! What an accept error means. None ends the accepting: the next connection is accepted at once, or after a pause.

use std::fmt::Display;
use std::io;
use std::time::{Duration, Instant};

use super::listeners::ACCEPTS_PER_TURN;
use crate::base::log::warn;

/// The first pause, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Why an accept failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    NobodyWaits,
    /// The error concerns one connection, which was reset while it waited, whose network is down, or which a firewall
    /// forbids: the next one may succeed.
    OfConnection,
    /// The next accept fails too, until something changes.
    Lasting,
}

impl Failure {
    fn of(e: &io::Error) -> Failure {
        match e.raw_os_error() {
            // EINVAL is the error of a listener that is shut and whose queue is empty.
            Some(libc::EAGAIN | libc::EINVAL) => Failure::NobodyWaits,
            Some(
                libc::EINTR
                | libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EPERM
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::EOPNOTSUPP
                | libc::ETIMEDOUT,
            ) => Failure::OfConnection,
            _ => Failure::Lasting,
        }
    }
}

/// Pauses after accepts that failed.
pub(super) struct Pauses {
    until: Option<Instant>,
    next: Duration,
    /// How many failures in a row each concerned one connection.
    in_a_row: usize,
}

impl Pauses {
    pub(super) fn new() -> Pauses {
        Pauses { until: None, next: PAUSE.0, in_a_row: 0 }
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    pub(super) fn note_success(&mut self) {
        (self.next, self.in_a_row) = (PAUSE.0, 0);
    }

    /// Whether to accept the next one at once. If not, a pause may have started.
    pub(super) fn note_failure(&mut self, e: &io::Error) -> bool {
        let failure = Failure::of(e);
        self.in_a_row = if failure == Failure::OfConnection { self.in_a_row + 1 } else { 0 };
        match failure {
            Failure::NobodyWaits => false,
            // More in a row have a common cause, a sandbox for example.
            Failure::OfConnection if self.in_a_row < ACCEPTS_PER_TURN => true,
            Failure::OfConnection | Failure::Lasting => {
                self.in_a_row = 0;
                self.begin(e);
                false
            }
        }
    }

    pub(super) fn begin(&mut self, why: impl Display) {
        if self.next == PAUSE.0 {
            warn!("can't accept: {why}: retrying until it works");
        }
        self.until = Some(Instant::now() + self.next);
        self.next = (self.next * 2).min(PAUSE.1);
    }

    /// Whether a pause has just ended.
    pub(super) fn end(&mut self, now: Instant) -> bool {
        self.until.take_if(|until| now >= *until).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_accept_that_failed_means() {
        let table: &[(Failure, &[i32])] = &[
            (Failure::NobodyWaits, &[libc::EAGAIN, libc::EINVAL]),
            (Failure::Lasting, &[libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM]),
            (Failure::OfConnection, &[libc::EINTR, libc::ECONNABORTED, libc::ECONNRESET, libc::ETIMEDOUT]),
            // Errors that a firewall causes.
            (Failure::OfConnection, &[libc::EPERM, libc::EPROTO, libc::ENOPROTOOPT, libc::EOPNOTSUPP]),
            // Errors of the connection's network: accept(2) recommends treating them as EAGAIN.
            (Failure::OfConnection, &[libc::ENETDOWN, libc::ENETUNREACH, libc::EHOSTDOWN]),
            (Failure::OfConnection, &[libc::EHOSTUNREACH, libc::ENONET]),
            // Unexpected errors lead to a pause, because an immediate retry could spin.
            (Failure::Lasting, &[libc::EBADF, libc::ENOSYS, libc::ENOTSOCK, libc::EFAULT]),
        ];
        for (means, errors) in table {
            for errno in *errors {
                let e = io::Error::from_raw_os_error(*errno);
                assert_eq!(Failure::of(&e), *means, "{e}");
            }
        }
        assert_eq!(Failure::of(&io::Error::other("without a number")), Failure::Lasting);
    }
}
