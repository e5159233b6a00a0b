//! The sources of events in the acceptor's poller. The connections are in the pools' own pollers.

use nix::sys::epoll::{EpollEvent, EpollFlags};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A command, a connection for the successor, or an end that the acceptor waits for.
    Waker,
    /// The connection channel to the successor.
    Successor,
    Listener(u32),
    /// The connection channel of that predecessor.
    Predecessor(u32),
}

impl Source {
    pub(crate) fn key(self) -> u64 {
        let (kind, number) = match self {
            Source::Waker => (0, 0),
            Source::Successor => (1, 0),
            Source::Listener(n) => (2, n),
            Source::Predecessor(n) => (3, n),
        };
        kind << 32 | u64::from(number)
    }

    pub(crate) fn of(key: u64) -> Source {
        let number = key as u32;
        match key >> 32 {
            0 => Source::Waker,
            1 => Source::Successor,
            2 => Source::Listener(number),
            _ => Source::Predecessor(number),
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
        let numbered = [Source::Listener, Source::Predecessor];
        let all = numbered.iter().flat_map(|source| [0, 7, u32::MAX].map(source));
        for source in all.chain([Source::Waker, Source::Successor]) {
            assert_eq!(Source::of(source.key()), source);
        }
    }
}
