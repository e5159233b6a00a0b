//! A connection that speaks another protocol, on a thread of its own: how the thread waits, and what wakes it.
//!
//! **A drain wakes all threads by two eventfds**, which all connections share and which exist as long as there is such a connection. They are
//! written once and never reset, and a thread polls one only until the drain that it reports is there. The first wait after that
//! returns at once, because the drain may have come after the thread looked and before it waited. So no wake is lost, and a drain
//! ends two waits at most.
//!
//! **A WebSocket with a sender has one eventfd more, of its own.** The first sender makes it. That needs no lock against the thread
//! that waits: a sender is made by that thread, between two waits, or is the clone of another one. If no descriptor is
//! left, the thread looks each second instead, until a later sender makes the event. What it looks for is rare: a slow client has not taken all of a message, or
//! a sender has closed.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::blocking::wait_for;
use crate::base::budget::{Budget, Share};
use crate::base::phase::Drain;
use crate::base::sync::lock;
use crate::net::stream::Stream;
use crate::web::upgrade::{Duplex, Wants};

/// How often a thread looks whose senders can't wake it.
const LOOK: Duration = Duration::from_secs(1);

/// The connection below an upgrade.
pub(super) struct Conversation {
    pub(super) stream: Stream,
    /// When this connection is to end.
    pub(super) drain: Drain,
    pub(super) waker: Arc<Waker>,
    /// A wait has ended since this connection is to end.
    pub(super) has_reported: AtomicBool,
}

/// What wakes the threads of all connections in a drain.
pub(super) struct DrainEvents {
    started: EventFd,
    /// The turn of each connection has come.
    over: EventFd,
}

/// What wakes the thread of one connection.
pub(super) struct Waker {
    events: Arc<DrainEvents>,
    descriptors: Budget,
    /// There is a sender, or was one.
    is_rung: AtomicBool,
    /// Made for a sender, once there is a descriptor for it.
    own: OnceLock<OwnEvent>,
    at_drain: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

struct OwnEvent {
    event: EventFd,
    _descriptor: Share,
}

fn event() -> io::Result<EventFd> {
    Ok(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?)
}

/// `other` in place of an event that does not exist.
fn readable<'a>(event: Option<&'a EventFd>, other: &PollFd<'a>) -> PollFd<'a> {
    event.map_or_else(|| other.clone(), |event| PollFd::new(event.as_fd(), PollFlags::POLLIN))
}

/// It fails only after 2^64 calls without a read.
fn write(event: &EventFd) {
    let _ = event.write(1);
}

impl DrainEvents {
    pub(super) fn new() -> io::Result<DrainEvents> {
        Ok(DrainEvents { started: event()?, over: event()? })
    }

    /// The phase says already that the process drains.
    pub(super) fn begin(&self) {
        write(&self.started);
    }

    /// The turn of each connection has come.
    pub(super) fn end(&self) {
        write(&self.over);
    }

    /// The event that a connection waits for, and when its turn comes without one. None once it is to end.
    fn next(&self, drain: &Drain) -> Option<(&EventFd, Option<Instant>)> {
        if drain.is_draining() {
            None
        } else if drain.watch().get().is_draining() {
            Some((&self.over, drain.turn()))
        } else {
            Some((&self.started, None))
        }
    }
}

impl Waker {
    pub(super) fn new(events: Arc<DrainEvents>, descriptors: Budget) -> Waker {
        Waker {
            events,
            descriptors,
            is_rung: AtomicBool::new(false),
            own: OnceLock::new(),
            at_drain: Mutex::default(),
        }
    }

    /// Calls what was to be called at the drain.
    pub(super) fn drain(&self) {
        let notify = self.lock().take();
        if let Some(notify) = notify {
            notify();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<dyn FnOnce() + Send>>> {
        lock(&self.at_drain)
    }

    fn own_event(&self) -> Option<OwnEvent> {
        let descriptor = self.descriptors.one()?;
        event().ok().map(|event| OwnEvent { event, _descriptor: descriptor })
    }
}

impl Duplex for Conversation {
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }

    fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }

    fn wait(&self, wants: Wants, timeout: Option<Duration>) -> io::Result<bool> {
        // A poll of the socket does not show what TLS has decrypted already.
        if wants.read && self.stream.has_more() {
            return Ok(true);
        }
        let flag = |wanted, flag| if wanted { flag } else { PollFlags::empty() };
        let flags = flag(wants.read, PollFlags::POLLIN) | flag(wants.write, PollFlags::POLLOUT);
        let stream = PollFd::new(self.stream.as_fd(), flags);
        if !wants.ring {
            return wait_for(&mut [stream], timeout);
        }
        // Asked once: what becomes true after this, the event reports.
        let next = self.waker.events.next(&self.drain);
        if next.is_none() && !self.has_reported.swap(true, Ordering::Relaxed) {
            return Ok(true);
        }
        let now = Instant::now();
        let deadline = timeout.and_then(|timeout| now.checked_add(timeout));
        let (event, turn) = next.unzip();
        let turn = turn.flatten();
        let own = self.waker.own.get().map(|own| &own.event);
        // A turn can come earlier than it was to come.
        let looks = turn.is_some() || own.is_none() && self.waker.is_rung.load(Ordering::Relaxed);
        let until = [deadline, turn, looks.then(|| now + LOOK)].into_iter().flatten().min();

        let count = 1_usize.saturating_add(own.iter().chain(&event).count());
        let mut fds = [stream.clone(), readable(own.or(event), &stream), readable(event, &stream)];
        let fds = fds.get_mut(..count).unwrap_or_default();
        let woken = wait_for(fds, until.map(|until| until.saturating_duration_since(now)))?;
        // Reset before the caller looks at the reason: a wake after this is one more.
        if let Some(own) = own.filter(|_| fds.get(1).and_then(PollFd::any) == Some(true)) {
            let _ = own.read();
        }
        Ok(woken || deadline.is_none_or(|deadline| Instant::now() < deadline))
    }

    fn expect_rings(&self) {
        self.waker.is_rung.store(true, Ordering::Relaxed);
        if self.waker.own.get().is_none() {
            self.waker.own_event().map(|own| self.waker.own.set(own));
        }
    }

    fn ring(&self) {
        if let Some(own) = self.waker.own.get() {
            write(&own.event);
        }
    }

    fn at_drain(&self, notify: Box<dyn FnOnce() + Send>) {
        *self.waker.lock() = Some(notify);
    }

    fn shutdown_write(&self) {
        self.stream.shutdown_write();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::AtomicU64;
    use std::thread::{Builder, JoinHandle};

    use super::*;
    use crate::base::phase::{Phase, PhaseWatch};

    /// No test waits for so long.
    const LONG: Duration = Duration::from_secs(60);
    const RING: Wants = Wants { read: true, write: false, ring: true };

    /// A connection and its client.
    fn pair(drain: Drain, events: &Arc<DrainEvents>, descriptors: u64) -> (Arc<Conversation>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let waker = Arc::new(Waker::new(Arc::clone(events), Budget::new(descriptors)));
        let stream = Stream::new(ours.into(), true);
        (Arc::new(Conversation { stream, drain, waker, has_reported: AtomicBool::new(false) }), theirs)
    }

    /// A thread that waits until `is_done`, however often it is woken. Returns how often it was.
    fn waits(io: &Arc<Conversation>, is_done: impl Fn() -> bool + Send + 'static) -> JoinHandle<u64> {
        let io = Arc::clone(io);
        let wait = move || {
            let begin = Instant::now();
            let mut wakes = 0;
            while !is_done() {
                assert!(io.wait(RING, Some(LONG)).unwrap(), "woken after {:?}", begin.elapsed());
                wakes += 1;
            }
            wakes
        };
        Builder::new().spawn(wait).unwrap()
    }

    #[test]
    fn no_drain_is_missed_and_none_is_reported_twice() {
        for _ in 0..200 {
            let (watch, events) = (PhaseWatch::new(), Arc::new(DrainEvents::new().unwrap()));
            let drain = Drain::of(watch.clone());
            let pairs: Vec<_> = (0..4).map(|_| pair(drain.clone(), &events, 1)).collect();
            pairs.iter().step_by(2).for_each(|(io, _)| io.expect_rings());
            let threads: Vec<_> = pairs
                .iter()
                .map(|(io, _)| {
                    let drain = drain.clone();
                    waits(io, move || drain.is_draining())
                })
                .collect();
            watch.set(Phase::HandedOver);
            events.begin();
            for thread in threads {
                assert!(thread.join().unwrap() <= 1);
            }
            let (io, client) = &pairs[0];
            // Unless its thread has noticed the drain without a wait.
            io.wait(RING, Some(Duration::ZERO)).unwrap();
            // Now only the client counts.
            assert!(!io.wait(RING, Some(Duration::ZERO)).unwrap());
            io::Write::write_all(&mut &*client, b"x").unwrap();
            assert!(io.wait(RING, Some(LONG)).unwrap());
        }
    }

    #[test]
    fn a_drain_between_a_look_and_a_wait_is_noticed() {
        let (watch, events) = (PhaseWatch::new(), Arc::new(DrainEvents::new().unwrap()));
        let (io, _client) = pair(Drain::of(watch.clone()), &events, 0);
        watch.set(Phase::HandedOver);
        events.begin();
        assert!(io.wait(RING, Some(Duration::ZERO)).unwrap());
        assert!(!io.wait(RING, Some(Duration::ZERO)).unwrap(), "once");
    }

    #[test]
    fn spread_closes_wake_each_at_its_turn_and_all_at_the_end() {
        let (watch, events) = (PhaseWatch::new(), Arc::new(DrainEvents::new().unwrap()));
        watch.spread_closes(2 * LONG, Duration::ZERO);
        let drain = Drain::of(watch.clone());
        let of_slots: Vec<Drain> = (0..32).map(|slot| drain.of_slot(slot)).collect();
        let pairs: Vec<_> = of_slots.iter().map(|drain| pair(drain.clone(), &events, 0)).collect();
        let threads: Vec<_> = pairs
            .iter()
            .zip(&of_slots)
            .map(|((io, _), drain)| {
                let drain = drain.clone();
                waits(io, move || drain.is_draining())
            })
            .collect();
        watch.set(Phase::Draining);
        events.begin();
        // Their turns were far away.
        watch.shorten_spread(Duration::ZERO);
        events.end();
        for thread in threads {
            assert!(thread.join().unwrap() <= 2);
        }

        // Without the end: by the turn alone.
        let watch = PhaseWatch::new();
        watch.spread_closes(Duration::from_millis(50), Duration::ZERO);
        let drain = Drain::of(watch.clone()).of_slot(7);
        let (io, _client) = pair(drain.clone(), &Arc::new(DrainEvents::new().unwrap()), 0);
        watch.set(Phase::Draining);
        waits(&io, move || drain.is_draining()).join().unwrap();
    }

    /// Each number is said once, with a ring behind it, at any moment of the wait.
    #[test]
    fn no_ring_is_lost() {
        let events = Arc::new(DrainEvents::new().unwrap());
        let (io, _client) = pair(Drain::of(PhaseWatch::new()), &events, 1);
        io.expect_rings();
        let [said, heard] = [0, 0].map(|n| Arc::new(AtomicU64::new(n)));
        let seen = (Arc::clone(&said), Arc::clone(&heard));
        let thread = waits(&io, move || {
            let now = seen.0.load(Ordering::SeqCst);
            seen.1.store(now, Ordering::SeqCst);
            now == 20_000
        });
        for n in 1..=20_000 {
            said.store(n, Ordering::SeqCst);
            io.ring();
            // Alternately as fast as possible, and one after the other.
            while n % 4 == 0 && heard.load(Ordering::SeqCst) < n && !thread.is_finished() {
                std::thread::yield_now();
            }
        }
        thread.join().unwrap();
    }

    #[test]
    fn without_a_descriptor_a_ring_is_noticed_soon() {
        let events = Arc::new(DrainEvents::new().unwrap());
        let (io, _client) = pair(Drain::of(PhaseWatch::new()), &events, 0);
        io.expect_rings();
        let [rung, looks] = [0, 0].map(|n| Arc::new(AtomicU64::new(n)));
        let seen = (Arc::clone(&rung), Arc::clone(&looks));
        let thread = waits(&io, move || {
            let is_rung = seen.0.load(Ordering::SeqCst) == 1;
            seen.1.fetch_add(1, Ordering::SeqCst);
            is_rung
        });
        while looks.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        rung.store(1, Ordering::SeqCst);
        io.ring();
        assert!(thread.join().unwrap() >= 1, "it waited");
        // A time that is over is one.
        assert!(!io.wait(RING, Some(Duration::from_millis(1))).unwrap());
    }

    #[test]
    fn only_a_sender_takes_a_descriptor() {
        let events = Arc::new(DrainEvents::new().unwrap());
        let (io, _client) = pair(Drain::of(PhaseWatch::new()), &events, 1);
        assert_eq!(io.waker.descriptors.held(), 0);
        io.ring();
        assert!(!io.wait(RING, Some(Duration::ZERO)).unwrap(), "no thread expects it");
        io.expect_rings();
        io.expect_rings();
        assert_eq!(io.waker.descriptors.held(), 1);
        let descriptors = io.waker.descriptors.clone();
        drop(io);
        assert_eq!(descriptors.held(), 0);
    }
}
