//! The events of the parked connections of one pool, for which its workers wait.
//!
//! Any thread may wait here: an event takes its connection out of its slot once, whichever thread gets the event.
//!
//! A connection is registered once, edge-triggered, when it is parked for the first time. An event that comes while a worker
//! has the connection is kept in its slot, and the worker that wants to park it finds it there. One-shot registration costs
//! a system call more for each request (3.25 instead of 2.15 at 64 connections, in a prototype with a fixed answer), and has to be renewed under the slot's
//! lock, because the number of a swept descriptor may be reused.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::accepting::Accepted;
use super::parking::Parking;
use crate::base::sys::epoll_wait;
use crate::net::connection::{Cause, Portable, Ready};
use crate::net::scheduler::queue::{Events, Polled, Queue};

/// Events that are taken at a time.
pub(super) const EVENTS: usize = 64;
/// No slot has this index: the lower half of the keys of events that do not belong to a connection.
const NO_SLOT: u32 = u32::MAX;
const INTERRUPT: u64 = NO_SLOT as u64;

/// Where the events of a wait are put.
pub(super) type Room = [MaybeUninit<EpollEvent>; EVENTS];

pub(super) const NO_EVENTS: Room = [MaybeUninit::uninit(); EVENTS];

/// The source of an event in a pool's epoll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PoolEvent {
    /// A connection, which its slot may not have any more.
    Connection,
    /// Clients wait at the listener with that number.
    Listener(usize),
    Interrupt,
}

impl PoolEvent {
    #[inline]
    pub(super) fn of(event: &EpollEvent) -> PoolEvent {
        let key = event.data();
        match key as u32 {
            NO_SLOT if key == INTERRUPT => PoolEvent::Interrupt,
            NO_SLOT => PoolEvent::Listener((key >> 32) as usize - 1),
            _ => PoolEvent::Connection,
        }
    }

    /// A registration of that listener: edge-triggered, so that each event wakes one worker.
    pub(super) fn of_listener(place: usize) -> EpollEvent {
        let key = (place as u64 + 1) << 32 | INTERRUPT;
        EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, key)
    }
}

/// The epoll of one pool.
pub(super) struct PoolPoller {
    pub(super) epoll: Epoll,
    /// Registered edge-triggered and never read: each write brings back one thread that waits, or the next one.
    interrupt: EventFd,
}

impl PoolPoller {
    pub(super) fn new() -> io::Result<PoolPoller> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let interrupt = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&interrupt, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, INTERRUPT))?;
        Ok(PoolPoller { epoll, interrupt })
    }

    /// The events that occur within `timeout`.
    pub(super) fn wait<'a>(&self, timeout: EpollTimeout, room: &'a mut Room) -> io::Result<&'a [EpollEvent]> {
        match epoll_wait(self.epoll.0.as_fd(), room, timeout) {
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(&[]),
            outcome => outcome,
        }
    }

    fn interrupt(&self) {
        // A write fails only when the counter is full, and then it is ready already.
        let _ = self.interrupt.write(1);
    }
}

/// What the workers of one pool wait for.
struct PoolEvents<P> {
    parking: Arc<Parking<P>>,
    pool: usize,
}

/// The events of the connections of that pool.
pub(crate) fn pool_events<P>(parking: &Arc<Parking<P>>, pool: usize) -> Box<dyn Events<Ready<P>>>
where
    P: Portable,
{
    Box::new(PoolEvents { parking: Arc::clone(parking), pool })
}

impl<P: Portable> PoolEvents<P> {
    /// Accepts from the listeners among the sources of these events. Whether an interrupt is among them, and the new connections.
    #[inline(never)]
    fn take_special(&self, events: &[EpollEvent]) -> (bool, Accepted<P>) {
        let (mut is_interrupted, mut accepted) = (false, Vec::new());
        for event in events {
            match PoolEvent::of(event) {
                PoolEvent::Connection => {}
                PoolEvent::Interrupt => is_interrupted = true,
                PoolEvent::Listener(place) => self.parking.accept(place, &mut accepted),
            }
        }
        (is_interrupted, accepted)
    }
}

impl<P: Portable> Events<Ready<P>> for PoolEvents<P> {
    fn wait<'q>(&self, queue: &'q Queue<Ready<P>>) -> io::Result<Polled<'q, Ready<P>>> {
        let poller = self.parking.poller_of_pool(self.pool);
        let mut room = NO_EVENTS;
        loop {
            let events = poller.wait(EpollTimeout::NONE, &mut room)?;
            let is_special = |event: &EpollEvent| PoolEvent::of(event) != PoolEvent::Connection;
            let (mut is_over, mut accepted) = (events.is_empty(), Vec::new());
            if events.iter().any(is_special) {
                (is_over, accepted) = self.take_special(events);
            }
            let mut ready = events.iter().filter_map(|event| self.parking.take_ready(event)).peekable();
            if !accepted.is_empty() {
                let ready = ready.chain(accepted);
                return Ok(queue.end_poll(ready.map(|one| Ready::new(one, Cause::Event))));
            }
            // The events of connections that other workers have are kept in their slots.
            if ready.peek().is_some() || is_over || queue.has_waiting() {
                return Ok(queue.end_poll(ready.map(|one| Ready::new(one, Cause::Event))));
            }
        }
    }

    fn interrupt(&self) {
        self.parking.poller_of_pool(self.pool).interrupt();
    }

    fn request_watch(&self) {
        self.parking.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn poller(connections: u64) -> (PoolPoller, Vec<(UnixStream, UnixStream)>) {
        let poller = PoolPoller::new().unwrap();
        let pair = |key| {
            let (client, server) = UnixStream::pair().unwrap();
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, key);
            poller.epoll.add(&server, event).unwrap();
            (client, server)
        };
        let pairs = (0..connections).map(pair).collect();
        (poller, pairs)
    }

    fn keys(poller: &PoolPoller, timeout: EpollTimeout) -> Vec<u64> {
        let mut room = NO_EVENTS;
        poller.wait(timeout, &mut room).unwrap().iter().map(EpollEvent::data).collect()
    }

    #[test]
    fn an_interrupt_is_for_one_and_is_kept_for_the_next() {
        let (poller, mut pairs) = poller(1);
        assert_eq!(keys(&poller, EpollTimeout::ZERO), [0; 0]);
        poller.interrupt();
        poller.interrupt();
        assert_eq!(keys(&poller, EpollTimeout::NONE), [INTERRUPT]);
        assert_eq!(keys(&poller, EpollTimeout::ZERO), [0; 0], "once, though nobody reads it");
        poller.interrupt();
        pairs[0].0.write_all(b"1").unwrap();
        let both: BTreeSet<u64> = keys(&poller, EpollTimeout::NONE).into_iter().collect();
        assert_eq!(both, BTreeSet::from([0, INTERRUPT]));
    }

    #[test]
    fn of_many_that_wait_each_event_comes_to_one() {
        const ROUNDS: usize = 200;
        let (poller, mut pairs) = poller(3);
        let poller = Arc::new(poller);
        let (got, events) = mpsc::channel();
        let wait = |_| {
            let (poller, got) = (Arc::clone(&poller), got.clone());
            let loops = move || {
                loop {
                    let keys = keys(&poller, EpollTimeout::NONE);
                    let is_over = keys.contains(&INTERRUPT);
                    keys.into_iter().filter(|key| *key != INTERRUPT).for_each(|key| got.send(key).unwrap());
                    if is_over {
                        // As in a closed queue, each thread interrupts the next.
                        return poller.interrupt();
                    }
                }
            };
            thread::Builder::new().spawn(loops).unwrap()
        };
        let threads: Vec<_> = (0..4).map(wait).collect();
        for _ in 0..ROUNDS {
            pairs.iter_mut().for_each(|(client, _)| client.write_all(b"1").unwrap());
            let got: BTreeSet<u64> = events.iter().take(pairs.len()).collect();
            assert_eq!(got, BTreeSet::from([0, 1, 2]));
        }
        poller.interrupt();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(events.try_recv().is_err(), "none comes twice");
    }
}
