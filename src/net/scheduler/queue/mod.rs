//! Work that waits for a worker: a list, its lock, and the workers that sleep or wait for events. `policy` decides which
//! worker is woken.

mod parker;

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crate::base::log::error;
use crate::base::sync::lock_checked;
use crate::base::sync::{Mutex, MutexGuard};
use crate::net::scheduler::policy::{Decision, Look, PoolProgress, PoolWatch, QueueEvent, RECENT, Snapshot};

pub(crate) use parker::Parker;

/// Any number of threads push and pop. The queue itself has no limit: its owner limits the number of connections.
pub(crate) struct Queue<T> {
    state: Mutex<QueueState<T>>,
    events: Option<Box<dyn Events<T>>>,
}

/// What a pool's workers wait for when the queue is empty, and how they reach the acceptor.
pub(crate) trait Events<T>: Send + Sync {
    /// Waits until work is ready, or for an interrupt, and passes that work to [`Queue::end_poll`], whose result it returns.
    /// It does not call that if it fails.
    fn wait<'q>(&self, queue: &'q Queue<T>) -> io::Result<Polled<'q, T>>;

    /// Brings back one worker that waits, or the next that would.
    fn interrupt(&self);

    /// Makes the acceptor look at this pool now, and until the pool is idle.
    fn request_watch(&self);
}

struct QueueState<T> {
    waiting: VecDeque<(Instant, T)>,
    /// Waits for a streaming permit, not only for a worker.
    streaming: VecDeque<(Instant, T)>,
    /// Streaming permits that are free.
    permits: usize,
    /// The worker that fell asleep last is woken first: its caches are the warmest.
    sleepers: Vec<Parker>,
    waking: usize,
    polling: usize,
    progress: PoolProgress,
    probe: Option<Probe>,
    closed: bool,
    cores: usize,
    /// What each worker was last seen doing.
    seen: Vec<Seen>,
    watched: bool,
}

#[derive(Clone, Copy)]
struct Seen {
    /// The value of `progress.taken` when it last took work.
    turn: usize,
    at: Instant,
    /// The worker sleeps, polls, or is in a handler that is known to block.
    away: bool,
}

/// A liveness probe: called by the next worker that looks at the queue.
pub(crate) struct Probe(pub(crate) Box<dyn FnOnce() + Send>);

/// The queue, locked, when a worker has added what it found ready.
pub(crate) struct Polled<'q, T> {
    state: MutexGuard<'q, QueueState<T>>,
    /// When it was added. None if nothing was ready, as when an event's connection is with another worker.
    at: Option<Instant>,
}

/// The result of a `pop`.
pub(crate) enum Popped<T> {
    Work(T, Taken),
    /// The queue is closed.
    Closed,
}

/// How work was taken.
#[derive(Clone, Copy)]
pub(crate) struct Taken {
    /// A streaming permit was acquired for it, which [`Queue::release_permit`] gives back.
    pub(crate) has_permit: bool,
    /// When the work was queued.
    pub(crate) since: Instant,
    /// When it was taken. The clock is read once for each piece of work.
    pub(crate) at: Instant,
}

impl Taken {
    /// Work that was not in the queue.
    pub(crate) fn directly() -> Taken {
        let at = Instant::now();
        Taken { has_permit: false, since: at, at }
    }

    /// How long the work was in the queue.
    pub(crate) fn waited(&self) -> Duration {
        self.at.saturating_duration_since(self.since)
    }
}

/// Work that waits although every worker has some already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// How many connections wait.
    pub(crate) connections: usize,
    /// How long the first of them has waited.
    pub(crate) waits: Duration,
}

/// How many of these workers do best at once while no handler blocks. 0 workers: only guests.
fn cores(workers: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if workers == 0 { cores } else { cores.min(workers) }
}

impl<T> Queue<T> {
    /// A queue for the workers with the numbers 0 to `workers`, and for any number of guests.
    pub(crate) fn new(workers: usize, permits: usize) -> Queue<T> {
        Queue {
            state: Mutex::new(QueueState {
                waiting: VecDeque::new(),
                streaming: VecDeque::new(),
                permits,
                sleepers: Vec::new(),
                waking: 0,
                polling: 0,
                progress: PoolProgress::default(),
                probe: None,
                closed: false,
                cores: cores(workers),
                seen: vec![Seen { turn: 0, at: Instant::now(), away: true }; workers],
                watched: false,
            }),
            events: None,
        }
    }

    /// Workers that find nothing in the queue wait for these events.
    pub(crate) fn with_events(self, events: Box<dyn Events<T>>) -> Queue<T> {
        Queue { events: Some(events), ..self }
    }

    /// Adds a batch, which another thread will take.
    pub(crate) fn push(&self, batch: &mut Vec<T>) {
        if batch.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut state = self.lock();
        state.waiting.extend(batch.drain(..).map(|work| (now, work)));
        if state.snapshot().wakes(QueueEvent::Pushed, || state.running(now)) {
            self.wake_up(1, state);
        }
    }

    /// Adds what the calling worker leaves for later; it looks at the queue next.
    pub(crate) fn push_back(&self, work: T) {
        self.add(std::iter::once(work), self.lock());
    }

    /// The calling worker no longer waits for events. It looks at the queue next, which stays locked meanwhile unless
    /// another worker has to be woken.
    pub(crate) fn end_poll(&self, ready: impl Iterator<Item = T>) -> Polled<'_, T> {
        let mut state = self.lock();
        state.polling = state.polling.saturating_sub(1);
        state.progress.polled = state.progress.polled.wrapping_add(1);
        self.add(ready, state)
    }

    fn add<'q>(
        &'q self,
        found: impl Iterator<Item = T>,
        mut state: MutexGuard<'q, QueueState<T>>,
    ) -> Polled<'q, T> {
        let mut at = None;
        state.waiting.extend(found.map(|work| (*at.get_or_insert_with(Instant::now), work)));
        if state.snapshot().wakes(QueueEvent::Polled, || state.running(at.unwrap_or_else(Instant::now))) {
            self.wake_up(1, state);
            state = self.lock();
        }
        Polled { state, at }
    }

    /// Adds work that waits for a streaming permit.
    pub(crate) fn push_streaming(&self, work: T) {
        let mut state = self.lock();
        state.streaming.push_back((Instant::now(), work));
        if state.permits > 0 {
            self.wake_up(1, state);
        }
    }

    /// Waits for work.
    #[inline(always)]
    pub(crate) fn pop(&self, parker: &Parker) -> Popped<T> {
        let mut was_woken = false;
        let mut may_poll = true;
        let mut state = self.lock();
        // The time, where it is known because the worker has just waited for events.
        let mut now = None;
        loop {
            if let Some(probe) = state.probe.take() {
                drop(state);
                (probe.0)();
                (state, now, was_woken) = (self.lock(), None, false);
                continue;
            }
            // A worker that was woken takes the work for which it was woken.
            let is_surplus = !was_woken && state.is_surplus(parker.index);
            was_woken = false;
            let work = state.take_streaming();
            let work =
                if is_surplus { work } else { work.or_else(|| state.take_waiting(parker.index, now.take())) };
            if let Some((work, taken)) = work {
                self.request_watch(state);
                return Popped::Work(work, taken);
            }
            if state.closed {
                // An interrupt brings back one worker that polls; each passes it on.
                self.wake_up(1, state);
                return Popped::Closed;
            }
            state.note_away(parker.index);
            let may_wait = may_poll && !is_surplus && state.snapshot().may_poll();
            if let Some(events) = self.events.as_ref().filter(|_| may_wait) {
                state.polling = state.polling.saturating_add(1);
                drop(state);
                match events.wait(self) {
                    Ok(polled) => (state, now) = (polled.state, polled.at),
                    Err(e) => {
                        error!("a worker can't wait for events: {e}");
                        (state, may_poll) = (self.end_poll(std::iter::empty()).state, false);
                    }
                }
                continue;
            }
            parker.prepare();
            state.sleepers.push(parker.clone());
            drop(state);
            parker.park();
            state = self.lock();
            state.waking = state.waking.saturating_sub(1);
            (now, was_woken, may_poll) = (None, true, true);
        }
    }

    /// Requests the acceptor's watch, if it is needed for the work that is left.
    fn request_watch(&self, mut state: MutexGuard<'_, QueueState<T>>) {
        let Some(events) = &self.events else { return };
        if state.snapshot().needs_watch() {
            state.watched = true;
            drop(state);
            events.request_watch();
        }
    }

    /// The worker with that number is about to block for long.
    pub(crate) fn before_blocking(&self, worker: usize) {
        let mut state = self.lock();
        state.note_away(worker);
        if state.snapshot().wakes(QueueEvent::BeforeBlocking, || 0) {
            self.wake_up(1, state);
        }
    }

    /// A worker is about to compute for long, without leaving its core.
    pub(crate) fn before_computing(&self) {
        let state = self.lock();
        if state.snapshot().wakes(QueueEvent::BeforeComputing, || state.running(Instant::now())) {
            self.wake_up(1, state);
        }
    }

    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting() > 0
    }

    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Whether a worker waits for events.
    pub(crate) fn is_polled(&self) -> bool {
        self.lock().polling > 0
    }

    /// None if nothing waits, or a worker is free or on its way. A queue for guests has no workers.
    pub(crate) fn backlog(&self, now: Instant) -> Option<Backlog> {
        let state = self.lock();
        let (since, _) = state.waiting.front().filter(|_| !state.has_free_worker())?;
        Some(Backlog { connections: state.waiting.len(), waits: now.saturating_duration_since(*since) })
    }

    /// Whether a worker is free or on its way. True in a queue for guests.
    pub(crate) fn has_free_worker(&self) -> bool {
        self.lock().has_free_worker()
    }

    /// Called by the acceptor: checks the pool, and wakes the workers that it needs.
    pub(crate) fn look(&self, watchdog: &mut PoolWatch, now: Instant) -> Decision {
        let mut state = self.lock();
        let decision = watchdog.decide(&state.look(now));
        state.watched = decision.watch;
        if decision.wake > 0 {
            self.wake_up(decision.wake, state);
        }
        decision
    }

    /// Acquires a streaming permit, if one is free.
    pub(crate) fn try_acquire_permit(&self) -> bool {
        let mut state = self.lock();
        let is_free = state.permits > 0;
        state.permits = state.permits.saturating_sub(1);
        is_free
    }

    pub(crate) fn release_permit(&self) {
        let mut state = self.lock();
        state.permits = state.permits.saturating_add(1);
        if !state.streaming.is_empty() {
            self.wake_up(1, state);
        }
    }

    /// Takes out the work that has waited since before `limit`. Work for which `stays` is true keeps its place, because it
    /// will be served, unless no worker has taken anything since before `stuck`.
    pub(crate) fn expired(
        &self,
        limit: Instant,
        stuck: Option<Instant>,
        stays: impl Fn(&T) -> bool,
    ) -> Vec<T> {
        let mut state = self.lock();
        let mut expired = Vec::new();
        let is_stuck = stuck.is_some_and(|stuck| state.seen.iter().all(|seen| seen.at < stuck));
        let mut staying = Vec::new();
        while let Some((since, work)) = pop_before(&mut state.waiting, limit) {
            match !is_stuck && stays(&work) {
                true => staying.push((since, work)),
                false => expired.push(work),
            }
        }
        staying.into_iter().rev().for_each(|entry| state.waiting.push_front(entry));
        expired.extend(std::iter::from_fn(|| pop_before(&mut state.streaming, limit)).map(|(_, work)| work));
        expired
    }

    /// Makes a worker call `probe`; gives it back if no worker is free.
    pub(crate) fn probe(&self, probe: Probe) -> Result<(), Probe> {
        let mut state = self.lock();
        if state.sleepers.is_empty() && state.polling == 0 {
            return Err(probe);
        }
        state.probe = Some(probe);
        self.wake_up(1, state);
        Ok(())
    }

    /// Makes the next worker that looks at the queue call `probe`, even if all of them are in handlers for long.
    pub(crate) fn probe_next(&self, probe: Probe) {
        let mut state = self.lock();
        state.probe = Some(probe);
        self.wake_up(1, state);
    }

    /// Closes the queue: workers end when no work is left.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.wake_up(usize::MAX, state);
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<T>> {
        lock_checked(&self.state)
    }

    /// Wakes up to `n` workers that sleep; if none does, interrupts one that waits for events. Does so after it has
    /// released the lock, or the first thing a worker does would be to wait for it.
    fn wake_up(&self, n: usize, mut state: MutexGuard<'_, QueueState<T>>) {
        let Some(first) = state.sleepers.pop() else {
            let polls = state.polling > 0;
            drop(state);
            if let Some(events) = self.events.as_ref().filter(|_| polls) {
                events.interrupt();
            }
            return;
        };
        let stay = state.sleepers.len().saturating_sub(n.saturating_sub(1));
        let others = if n > 1 { state.sleepers.split_off(stay) } else { Vec::new() };
        state.waking = state.waking.saturating_add(1).saturating_add(others.len());
        drop(state);
        first.wake();
        others.iter().for_each(Parker::wake);
    }
}

impl<T> QueueState<T> {
    fn has_free_worker(&self) -> bool {
        !self.sleepers.is_empty() || self.waking > 0 || self.polling > 0 || self.seen.is_empty()
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            cores: self.cores,
            waiting: self.waiting.len(),
            sleeping: self.sleepers.len(),
            waking: self.waking,
            polling: self.polling,
            awake: self.seen.len().saturating_sub(self.sleepers.len()),
            watched: self.watched,
        }
    }

    fn look(&self, now: Instant) -> Look {
        Look {
            snapshot: self.snapshot(),
            progress: self.progress,
            running: if self.waiting.is_empty() { 0 } else { self.running(now) },
            front_waits: self.waiting.front().map(|(since, _)| now.saturating_duration_since(*since)),
            now,
        }
    }

    fn running(&self, now: Instant) -> usize {
        let runs = |seen: &&Seen| !seen.away && now.saturating_duration_since(seen.at) < RECENT;
        self.seen.iter().filter(runs).count()
    }

    fn is_surplus(&self, worker: usize) -> bool {
        !self.closed && self.snapshot().is_surplus(|| self.others_since(worker))
    }

    /// How many workers have taken something since this one last did, and are not away.
    fn others_since(&self, worker: usize) -> usize {
        let age = |seen: &Seen| self.progress.taken.wrapping_sub(seen.turn);
        let Some(own_age) = self.seen.get(worker).map(age) else { return 0 };
        // They can't have taken work more often than work was taken in all, and that is mostly too seldom already.
        if own_age < self.cores {
            return 0;
        }
        self.seen.iter().filter(|other| !other.away && age(other) < own_age).count()
    }

    fn take_streaming(&mut self) -> Option<(T, Taken)> {
        if self.permits == 0 {
            return None;
        }
        let (since, work) = self.streaming.pop_front()?;
        self.permits = self.permits.saturating_sub(1);
        self.progress.taken = self.progress.taken.wrapping_add(1);
        Some((work, Taken { has_permit: true, since, at: Instant::now() }))
    }

    fn take_waiting(&mut self, worker: usize, now: Option<Instant>) -> Option<(T, Taken)> {
        let (since, work) = self.waiting.pop_front()?;
        let taken = Taken { has_permit: false, since, at: now.unwrap_or_else(Instant::now) };
        self.note_taken(worker, taken.at);
        Some((work, taken))
    }

    fn note_taken(&mut self, worker: usize, at: Instant) {
        let taken = &mut self.progress.taken;
        *taken = taken.wrapping_add(1);
        if let Some(seen) = self.seen.get_mut(worker) {
            *seen = Seen { turn: *taken, at, away: false };
        }
    }

    fn note_away(&mut self, worker: usize) {
        if let Some(seen) = self.seen.get_mut(worker) {
            seen.away = true;
        }
    }
}

fn pop_before<T>(queue: &mut VecDeque<(Instant, T)>, limit: Instant) -> Option<(Instant, T)> {
    let is_old = queue.front().is_some_and(|(since, _)| *since < limit);
    if is_old { queue.pop_front() } else { None }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod loom_tests;
