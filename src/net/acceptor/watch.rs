//! Who waits for the events of a pool's parked connections: the acceptor, or, while there is much
//! to do, its workers themselves. A worker that finds its own work needs no thread to switch to and
//! none to wake.
//!
//! The acceptor lends the watch with the first batch it queues. It comes back when no event has come
//! for a moment, or when no worker looks any more because all are in handlers.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::base::log::error;
use crate::net::scheduler::queue::{LOOK, at_once};

/// How long workers wait for events before the acceptor does.
const MOMENT: Duration = Duration::from_millis(5);

/// The watch over the parked connections of one pool.
#[derive(Debug)]
pub(super) struct Watch {
    /// Of the connections; in the acceptor's own while it has the watch, which would cost each event
    /// a detour while it has not.
    pub(super) poller: Epoll,
    key: u64,
    /// Workers that wait at once, at most: one for each core, as more would take turns on it.
    most: usize,
    lent: AtomicBool,
    waiting: AtomicUsize,
    /// How often workers came back from waiting.
    turns: AtomicUsize,
}

/// When the acceptor last saw workers take turns.
#[derive(Debug)]
pub(super) struct Seen {
    /// How often they waited, and how often they took something from the queue.
    turns: (usize, usize),
    at: Instant,
    /// When one last waited, or came back from it.
    looked: Instant,
}

/// What a worker's wait came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// The watch is not to be had, or nothing comes: to bed.
    InVain,
    Events(usize),
}

impl Watch {
    /// `key`: of its event in the acceptor's poller, `all`.
    pub(super) fn new(key: u64, workers: usize, all: &Epoll) -> io::Result<Watch> {
        let poller = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let watch = Watch {
            poller,
            key,
            most: at_once(workers),
            lent: AtomicBool::new(true),
            waiting: AtomicUsize::new(0),
            turns: AtomicUsize::new(0),
        };
        watch.take_back(all)?;
        Ok(watch)
    }

    /// By the acceptor, which has the watch, and keeps it where no worker would take it.
    pub(super) fn lend(&self, all: &Epoll) -> Option<Seen> {
        if self.most == 0 || all.delete(self.poller.0.as_fd()).is_err() {
            return None;
        }
        self.lent.store(true, Ordering::SeqCst);
        let now = Instant::now();
        Some(Seen { turns: (0, 0), at: now, looked: now })
    }

    pub(super) fn is_lent(&self) -> bool {
        self.lent.load(Ordering::SeqCst)
    }

    /// Lent, and nobody there to see an event.
    pub(super) fn is_deserted(&self) -> bool {
        self.is_lent() && self.waiting.load(Ordering::SeqCst) == 0
    }

    /// Whether workers have taken no turn, here or at their queue, for so long that all may be away
    /// in handlers; or none here for so long that what they queue themselves may keep them from it.
    pub(super) fn is_forgotten(&self, seen: &mut Seen, taken: usize, now: Instant) -> bool {
        let turns = (self.turns.load(Ordering::Relaxed), taken);
        if turns.0 != seen.turns.0 || !self.is_deserted() {
            *seen = Seen { turns, at: now, looked: now };
        } else if turns != seen.turns {
            (seen.turns, seen.at) = (turns, now);
        }
        // A timer's grain must not cost a whole look.
        now.saturating_duration_since(seen.at) >= LOOK - LOOK / 8
            || now.saturating_duration_since(seen.looked) >= MOMENT
    }

    /// The acceptor is told of events again, at once if there are some. By whoever wants that first.
    pub(super) fn take_back(&self, all: &Epoll) -> io::Result<()> {
        if self.lent.swap(false, Ordering::SeqCst) {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, self.key);
            if let Err(e) = all.add(self.poller.0.as_fd(), event) {
                // Tried again while it counts as lent.
                self.lent.store(true, Ordering::SeqCst);
                return Err(e.into());
            }
        }
        Ok(())
    }

    /// By a worker that has nothing to do. The last to wait in vain gives the watch back.
    pub(super) fn wait(&self, events: &mut [EpollEvent], all: &Epoll) -> Waited {
        if !self.is_lent() {
            return Waited::InVain;
        }
        if self.waiting.fetch_add(1, Ordering::SeqCst) >= self.most {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            return Waited::InVain;
        }
        let timeout = EpollTimeout::try_from(MOMENT).unwrap_or(EpollTimeout::ZERO);
        let outcome = self.poller.wait(events, timeout);
        self.turns.fetch_add(1, Ordering::Relaxed);
        let others = self.waiting.fetch_sub(1, Ordering::SeqCst) - 1;
        match outcome {
            Ok(n) if n > 0 => Waited::Events(n),
            Err(nix::Error::EINTR) => Waited::Events(0),
            _ => {
                if others == 0 {
                    if let Err(e) = self.take_back(all) {
                        error!("the acceptor can't watch connections: {e}");
                    }
                }
                Waited::InVain
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const KEY: u64 = 7;

    /// A watch with one connection, whose other end is given, and the acceptor's poller.
    fn watched(workers: usize) -> (Watch, Epoll, UnixStream, UnixStream) {
        let all = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let watch = Watch::new(KEY, workers, &all).unwrap();
        let (client, server) = UnixStream::pair().unwrap();
        watch.poller.add(&server, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 1)).unwrap();
        (watch, all, client, server)
    }

    fn told(all: &Epoll) -> bool {
        let mut events = [EpollEvent::empty()];
        all.wait(&mut events, EpollTimeout::ZERO).unwrap() == 1 && events[0].data() == KEY
    }

    fn look(watch: &Watch, all: &Epoll) -> Waited {
        watch.wait(&mut [EpollEvent::empty(); 4], all)
    }

    #[test]
    fn an_event_is_told_to_who_has_the_watch() {
        let (watch, all, mut client, _server) = watched(4);
        client.write_all(b"1").unwrap();
        assert!(told(&all), "the acceptor has it at first");
        assert_eq!(look(&watch, &all), Waited::InVain, "and no worker");
        watch.lend(&all).unwrap();
        assert!(!told(&all));
        assert_eq!(look(&watch, &all), Waited::Events(1), "also what came before");
        client.write_all(b"2").unwrap();
        assert_eq!(look(&watch, &all), Waited::Events(1));
        assert!(watch.is_lent() && watch.is_deserted());
    }

    #[test]
    fn who_waits_in_vain_gives_it_back_and_no_event_is_lost() {
        let (watch, all, mut client, _server) = watched(4);
        watch.lend(&all).unwrap();
        assert_eq!(look(&watch, &all), Waited::InVain);
        assert!(!watch.is_lent() && !told(&all));
        client.write_all(b"1").unwrap();
        assert!(told(&all));
        watch.lend(&all).unwrap();
        watch.take_back(&all).unwrap();
        watch.take_back(&all).unwrap();
        assert!(told(&all), "taken back with an event in it, however often");
    }

    #[test]
    fn it_is_taken_back_from_workers_that_are_all_away() {
        let (watch, all, _client, _server) = watched(4);
        let mut seen = watch.lend(&all).unwrap();
        let start = Instant::now();
        let at = |looks: u32| start + looks * LOOK;
        assert!(!watch.is_forgotten(&mut seen, 1, at(0)), "a turn at the queue");
        assert!(!watch.is_forgotten(&mut seen, 2, at(1)), "another");
        watch.turns.fetch_add(1, Ordering::Relaxed);
        assert!(!watch.is_forgotten(&mut seen, 2, at(2)), "one here");
        assert!(watch.is_forgotten(&mut seen, 2, at(3)), "none");
        watch.waiting.fetch_add(1, Ordering::SeqCst);
        assert!(!watch.is_forgotten(&mut seen, 2, at(4)), "somebody looks");
    }

    #[test]
    fn it_is_taken_back_from_workers_that_queue_their_own_work() {
        let (watch, all, _client, _server) = watched(4);
        let mut seen = watch.lend(&all).unwrap();
        let start = Instant::now();
        let looks = u32::try_from(MOMENT.as_millis() / LOOK.as_millis()).unwrap();
        let mut is_forgotten =
            |watch: &Watch, n: u32| watch.is_forgotten(&mut seen, n as usize, start + n * LOOK);
        assert_eq!((1..looks).find(|n| is_forgotten(&watch, *n)), None, "they take something all the time");
        watch.turns.fetch_add(1, Ordering::Relaxed);
        assert_eq!((looks..2 * looks).find(|n| is_forgotten(&watch, *n)), None, "one has looked");
        assert!(is_forgotten(&watch, 2 * looks), "none has for a moment");
    }

    #[test]
    fn no_more_wait_than_do_good_and_none_where_no_worker_looks() {
        let (watch, all, mut client, _server) = watched(1);
        let watch = Arc::new(watch);
        watch.lend(&all).unwrap();
        watch.waiting.fetch_add(1, Ordering::SeqCst);
        assert_eq!(look(&watch, &all), Waited::InVain);
        assert!(watch.is_lent(), "the other one is there");
        watch.waiting.fetch_sub(1, Ordering::SeqCst);
        let (all, of_thread) = (Arc::new(all), Arc::clone(&watch));
        let waiter = {
            let all = Arc::clone(&all);
            thread::Builder::new().spawn(move || {
                loop {
                    match look(&of_thread, &all) {
                        Waited::InVain => _ = of_thread.lend(&all),
                        Waited::Events(n) => return n,
                    }
                }
            })
        };
        client.write_all(b"1").unwrap();
        assert_eq!(waiter.unwrap().join().unwrap(), 1);
        let (watch, all, ..) = watched(0);
        assert!(watch.lend(&all).is_none());
    }
}
