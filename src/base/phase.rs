//! The phase of the process, readable everywhere: one atomic, one writer (the control loop).

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::base::close_spread::{ClosePlace, CloseSpread};
use crate::base::sync::lock;
use crate::base::time::earliest;

/// How long a stream may take to leave for the successor. One whose code takes longer stays until the drain deadline. This equals
/// the defaults of `Timeouts::response_stall` and `WebSocketOptions::stall`: code that waits for a client which had paused before
/// the handover can still hand it over. A pause that starts later may outlast this time.
const LEAVE: Duration = Duration::from_secs(30);

/// The phase of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Listeners are bound or inherited; nothing is accepted yet.
    Starting,
    /// Accepting and serving.
    Serving,
    /// Still serving while a successor starts or is on probation.
    HandingOver,
    /// Stopping soon: still accepting, but not ready.
    LameDuck,
    /// A successor serves; this process completes its requests.
    HandedOver,
    /// Stopping: accepts nothing, completes its requests.
    Draining,
    /// `serve()` has returned or is about to.
    Exited,
}

impl Phase {
    const ALL: [Phase; 7] = [
        Phase::Starting,
        Phase::Serving,
        Phase::HandingOver,
        Phase::LameDuck,
        Phase::HandedOver,
        Phase::Draining,
        Phase::Exited,
    ];

    /// Whether the process completes its requests and starts nothing new.
    pub fn is_draining(self) -> bool {
        self >= Phase::HandedOver
    }

    /// Whether a load balancer should send new clients to this address. True for a process that has handed over:
    /// its successor serves behind the same address, and a balancer that checks over an old connection must not
    /// take the service out.
    pub fn is_ready(self) -> bool {
        matches!(self, Phase::Serving | Phase::HandingOver | Phase::HandedOver)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::HandingOver => "handing over",
            Phase::LameDuck => "lame duck",
            Phase::HandedOver => "handed over",
            Phase::Draining => "draining",
            Phase::Exited => "exited",
        })
    }
}

/// The shared view of the phase. Clones show the same phase.
#[derive(Clone)]
pub(crate) struct PhaseWatch {
    shared: Arc<PhaseState>,
}

struct PhaseState {
    phase: AtomicU8,
    closes: CloseSpread,
    /// The names of the streams that the successor continues. Known when it is prepared, and used once it serves alone.
    continued: Mutex<Vec<String>>,
    /// When a successor took over.
    handed_over: Mutex<Option<Instant>>,
    /// What a drain wakes. The lock orders changes of the phase and waits for them.
    wakers: Mutex<Vec<Weak<dyn WakeAtDrain>>>,
    changed: Condvar,
}

/// Something whose threads wait elsewhere than in [`PhaseWatch::wait_draining`].
pub(crate) trait WakeAtDrain: Send + Sync {
    /// Called when the process drains; the phase says so already. Must not wait.
    fn wake(&self);
}

impl PhaseWatch {
    pub(crate) fn new() -> PhaseWatch {
        let phase = AtomicU8::new(Phase::Starting as u8);
        PhaseWatch {
            shared: Arc::new(PhaseState {
                phase,
                closes: CloseSpread::new(),
                continued: Mutex::default(),
                handed_over: Mutex::default(),
                wakers: Mutex::default(),
                changed: Condvar::new(),
            }),
        }
    }

    #[expect(clippy::indexing_slicing, reason = "what is stored is a Phase")]
    pub(crate) fn get(&self) -> Phase {
        Phase::ALL[usize::from(self.shared.phase.load(Ordering::Acquire))]
    }

    pub(crate) fn set(&self, phase: Phase) {
        // The lock orders the store before a waiter's check or after its wait: no wake-up is lost.
        let mut wakers = lock(&self.shared.wakers);
        if phase.is_draining() {
            self.shared.closes.begin();
        }
        if phase == Phase::HandedOver {
            lock(&self.shared.handed_over).get_or_insert_with(Instant::now);
        }
        self.shared.phase.store(phase as u8, Ordering::Release);
        self.shared.changed.notify_all();
        let all = if phase.is_draining() { std::mem::take(&mut *wakers) } else { Vec::new() };
        // They have locks of their own.
        drop(wakers);
        all.iter().filter_map(Weak::upgrade).for_each(|waker| waker.wake());
    }

    /// The successor continues the streams of these names, and of no others.
    pub(crate) fn set_continued(&self, names: Vec<String>) {
        *lock(&self.shared.continued) = names;
    }

    /// As if the time in which streams may leave were over.
    #[cfg(test)]
    pub(crate) fn end_leaving(&self) {
        *lock(&self.shared.handed_over) = Instant::now().checked_sub(LEAVE);
    }

    /// Calls `waker` once when the process drains. One that comes later than that is not called.
    pub(crate) fn wake_at_drain(&self, waker: Weak<dyn WakeAtDrain>) {
        let mut wakers = lock(&self.shared.wakers);
        wakers.retain(|waker| waker.strong_count() > 0);
        if !self.get().is_draining() {
            wakers.push(waker);
        }
    }

    /// Whether both show the phase of the same server.
    pub(crate) fn is_same(&self, other: &PhaseWatch) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Sets [`Phase::Exited`] when the result is dropped. For the thread of the control loop.
    pub(crate) fn exited_on_drop(&self) -> impl Drop + '_ {
        struct ExitedOnDrop<'a>(&'a PhaseWatch);
        impl Drop for ExitedOnDrop<'_> {
            fn drop(&mut self) {
                self.0.set(Phase::Exited);
            }
        }
        ExitedOnDrop(self)
    }

    /// Waits until the process has started: it serves, or it has ended.
    pub(crate) fn wait_started(&self) {
        let mut lock = lock(&self.shared.wakers);
        while self.get() == Phase::Starting {
            lock = self.shared.changed.wait(lock).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until the process drains, for `timeout` at most.
    pub(crate) fn wait_draining(&self, timeout: Duration) -> Waited {
        Drain::of(self.clone()).wait(timeout)
    }

    /// Waits until the phase or the spread of closes changes, for `timeout` at most.
    pub(crate) fn wait_for_change(&self, timeout: Duration) {
        drop(self.shared.changed.wait_timeout(lock(&self.shared.wakers), timeout));
    }

    /// In a drain closes are announced over this time, which ends the grace before the drain deadline.
    pub(crate) fn spread_closes(&self, spread: Duration, grace: Duration) {
        self.shared.closes.configure(spread, grace);
    }

    /// The drain deadline is this far away.
    pub(crate) fn shorten_spread(&self, deadline: Duration) {
        let _lock = lock(&self.shared.wakers);
        self.shared.closes.shorten(deadline);
        self.shared.changed.notify_all();
    }

    /// When the last close is announced, in a drain with a spread.
    pub(crate) fn spread_end(&self) -> Option<Instant> {
        self.shared.closes.end()
    }
}

/// Why a wait ended: the result of [`Drain::wait`], and of the `wait` of an event stream or an upgraded connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Waited {
    /// A read will not block: the client has sent bytes, or has ended. Only where there is something to read.
    Readable,
    /// This process is about to end, because of a stop or because a successor has taken over.
    Draining,
    /// The time is over.
    TimedOut,
}

impl Waited {
    /// Whether this is [`Waited::Draining`].
    pub fn is_draining(self) -> bool {
        self == Waited::Draining
    }
}

/// Reports whether the process drains: [`RequestExt::is_draining`](crate::RequestExt::is_draining) for code that outlives
/// the request. Clones are cheap and report the same. With [`Timeouts::close_spread`](crate::Timeouts::close_spread) it reports
/// that when the turn of its connection has come.
///
/// ```
/// use heirloom::prelude::*;
/// use std::time::Duration;
///
/// fn events(req: Request) -> impl IntoResponse {
///     let drain = req.drain();
///     let ticks = Body::writer(move |out| {
///         while !drain.wait(Duration::from_secs(1)).is_draining() {
///             out.write_all(b"data: tick\n\n")?;
///         }
///         Ok(())
///     });
///     ([(header::CONTENT_TYPE, "text/event-stream")], ticks)
/// }
/// let router = Router::new().get("/events", events);
/// # router.check().unwrap();
/// ```
#[derive(Clone)]
pub struct Drain {
    watch: PhaseWatch,
    /// None: its turn comes with the drain.
    place: Option<ClosePlace>,
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("phase", &self.watch.get()).finish_non_exhaustive()
    }
}

impl Drain {
    pub(crate) fn of(watch: PhaseWatch) -> Drain {
        Drain { watch, place: None }
    }

    /// That of the connection in this slot.
    pub(crate) fn of_slot(&self, slot: u32) -> Drain {
        Drain { watch: self.watch.clone(), place: Some(self.watch.shared.closes.place(slot)) }
    }

    pub(crate) fn watch(&self) -> &PhaseWatch {
        &self.watch
    }

    /// When its turn comes in a drain that has started. None: at once.
    pub(crate) fn turn(&self) -> Option<Instant> {
        self.place.and_then(|place| self.watch.shared.closes.turn(place))
    }

    /// Whether this process is about to end, because of a stop or because a successor has
    /// taken over.
    #[inline]
    pub fn is_draining(&self) -> bool {
        let phase = self.watch.get();
        let is_due = || self.turn().is_none_or(|turn| turn <= Instant::now());
        phase.is_draining() && (phase == Phase::Exited || is_due())
    }

    /// Whether the stream of this connection may leave for the successor now.
    pub(crate) fn moves(&self, name: &str) -> bool {
        let shared = &self.watch.shared;
        let handed_over = *lock(&shared.handed_over);
        let Some(handed_over) = handed_over.filter(|_| self.watch.get() == Phase::HandedOver) else {
            return false;
        };
        let asked = self.turn().map_or(handed_over, |turn| turn.max(handed_over));
        asked.elapsed() < LEAVE && self.is_draining() && lock(&shared.continued).iter().any(|one| one == name)
    }

    /// Waits until this process drains, for `timeout` at most: the pause between two events. Returns
    /// [`Waited::Draining`] at once if it drains already.
    pub fn wait(&self, timeout: Duration) -> Waited {
        let deadline = Instant::now().checked_add(timeout);
        let shared = &self.watch.shared;
        let mut lock = lock(&shared.wakers);
        while !self.is_draining() {
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Waited::TimedOut;
            }
            let until = earliest(&[deadline, self.turn()]);
            let left = until.map_or(Duration::from_secs(3600), |until| until.saturating_duration_since(now));
            lock = shared.changed.wait_timeout(lock, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Waited::Draining
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_survives_the_atomic() {
        let watch = PhaseWatch::new();
        for phase in Phase::ALL {
            watch.set(phase);
            assert_eq!(watch.get(), phase);
        }
    }

    #[test]
    fn a_stream_leaves_only_for_a_successor_that_continues_it() {
        let watch = PhaseWatch::new();
        let drain = Drain::of(watch.clone());
        watch.set_continued(vec!["a".to_owned(), "b".to_owned()]);
        for phase in Phase::ALL {
            watch.set(phase);
            assert_eq!(drain.moves("b"), phase == Phase::HandedOver, "{phase}");
            assert!(!drain.moves("c"));
        }
        watch.set(Phase::HandedOver);
        assert!(drain.moves("b"));
        watch.end_leaving();
        assert!(!drain.moves("b"), "its time is over");
        watch.set_continued(Vec::new());
        assert!(!drain.moves("b"));
    }

    #[test]
    fn a_start_that_fails_ends_the_wait_for_it() {
        let watch = PhaseWatch::new();
        let other = watch.clone();
        let waiter = std::thread::Builder::new().spawn(move || other.wait_started()).unwrap();
        drop(watch.exited_on_drop());
        waiter.join().unwrap();
        assert_eq!(watch.get(), Phase::Exited);
    }

    #[test]
    fn a_waiter_is_woken_by_the_drain() {
        let watch = PhaseWatch::new();
        assert_eq!(watch.wait_draining(Duration::from_millis(1)), Waited::TimedOut);
        let other = watch.clone();
        let waiter =
            std::thread::Builder::new().spawn(move || other.wait_draining(Duration::from_secs(60))).unwrap();
        watch.set(Phase::Draining);
        assert_eq!(waiter.join().unwrap(), Waited::Draining);
    }
}
