//! The sources of events in the acceptor's poller. The connections are in the pools' own pollers.

use nix::sys::epoll::{EpollEvent, EpollFlags};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptorSource {
    /// A command, a connection for the successor, or an end that the acceptor waits for.
    Waker,
    /// The connection channel to the successor.
    Successor,
    /// The connection channel of that predecessor.
    Predecessor(u32),
}

impl AcceptorSource {
    pub(crate) fn key(self) -> u64 {
        let (kind, number) = match self {
            AcceptorSource::Waker => (0, 0),
            AcceptorSource::Successor => (1, 0),
            AcceptorSource::Predecessor(n) => (2, n),
        };
        kind << 32 | u64::from(number)
    }

    pub(crate) fn of(key: u64) -> AcceptorSource {
        let number = key as u32;
        match key >> 32 {
            0 => AcceptorSource::Waker,
            1 => AcceptorSource::Successor,
            _ => AcceptorSource::Predecessor(number),
        }
    }

    /// A registration for readability.
    pub(crate) fn readable(self) -> EpollEvent {
        EpollEvent::new(EpollFlags::EPOLLIN, self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_source() {
        let all = [0, 7, u32::MAX].map(AcceptorSource::Predecessor).into_iter();
        for source in all.chain([AcceptorSource::Waker, AcceptorSource::Successor]) {
            assert_eq!(AcceptorSource::of(source.key()), source);
        }
    }
}
