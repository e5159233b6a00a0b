//! Work that waits for a worker: a list, the workers that sleep, and when to wake one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::sync::lock_checked;
use crate::base::sync::{AtomicBool, Mutex, MutexGuard, Ordering, Thread, current, park};

/// Any number of threads push and pop. Nothing is ever refused: the owner bounds what exists.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<(Instant, T)>,
    /// Wait for a share of the workers, not only for a worker.
    shared: VecDeque<(Instant, T)>,
    in_share: usize,
    share: usize,
    /// The one that slept last is woken first: its caches are the warmest.
    sleepers: Vec<Parker>,
    /// Called and not yet here: each will take something without being called again.
    coming: usize,
    /// A worker is to show that it lives.
    probe: Option<Probe>,
    closed: bool,
    workers: usize,
    /// How many of them do best at once.
    most: usize,
    places: Vec<Place>,
    /// How often something was taken: moves while workers do.
    taken: usize,
    /// The acceptor will look again soon, so that nothing is lost with a worker that goes to bed
    /// before its work is done.
    attended: bool,
}

/// What a worker was last seen doing.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// What `taken` was with the last it took.
    turn: usize,
    at: Instant,
    /// It sleeps, looks for work elsewhere, or has said that it will be long away.
    away: bool,
}

/// Called by a worker that comes by.
pub(crate) struct Probe(pub(crate) Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Probe")
    }
}

/// A worker's place to sleep.
#[derive(Clone, Debug)]
pub(crate) struct Parker {
    place: usize,
    thread: Thread,
    called: Arc<AtomicBool>,
}

impl Parker {
    /// Of the calling thread, which is the worker of that number.
    pub(crate) fn new(place: usize) -> Parker {
        Parker { place, thread: current(), called: Arc::new(AtomicBool::new(false)) }
    }

    /// Of a thread that is none of the queue's own workers.
    pub(crate) fn of_guest() -> Parker {
        Parker::new(usize::MAX)
    }

    fn call(&self) {
        self.called.store(true, Ordering::Release);
        self.thread.unpark();
    }

    fn wait_for_call(&self) {
        // A handler may have left its thread a token: only a call counts.
        while !self.called.load(Ordering::Acquire) {
            park();
        }
    }
}

/// What a worker gets.
#[derive(Debug)]
pub(crate) enum Popped<T> {
    Work(T, Taken),
    /// The queue is closed.
    Closed,
}

/// How work was taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// A place in the share is taken for it; `leave_share` gives it back.
    pub(crate) in_share: bool,
    /// How long it was in the queue.
    pub(crate) waited: Duration,
}

/// What a look at the queue shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) waiting: usize,
    pub(crate) sleeping: usize,
    /// Called and not yet here.
    pub(crate) coming: usize,
    /// How often something was taken so far.
    pub(crate) taken: usize,
    /// Since when the front waits.
    pub(crate) front: Option<Instant>,
    /// Took something a moment ago and will be back in another.
    pub(crate) moving: usize,
    /// As many keep all cores busy.
    pub(crate) most: usize,
    /// To be looked at again soon.
    pub(crate) attended: bool,
}

impl Look {
    /// Whether more waits than the workers that are called will take, and others sleep: to be
    /// looked at again soon, for those that come may be long away with the first they take.
    pub(crate) fn is_due_again(&self) -> bool {
        self.sleeping > 0 && self.waiting > self.coming
    }
}

/// How long the front may wait before it is taken for stuck, and how often that is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(1);

/// A worker that took something less than this ago is taken to be back soon.
const SOON: Duration = Duration::from_micros(200);

/// How many of so many workers do best at once while no handler blocks: one for each core.
pub(crate) fn at_once(workers: usize) -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(workers)
}

/// Decides how many sleeping workers are woken for work that those who are awake don't get to:
/// 1, 2, 4 ... at each look that finds the front stuck, one where some move but not on all cores.
/// Nine pieces of which eight block are all begun after four looks.
#[derive(Debug)]
pub(crate) struct Nudge {
    next: usize,
}

impl Nudge {
    pub(crate) fn new() -> Nudge {
        Nudge { next: 1 }
    }

    /// How many to wake now.
    pub(crate) fn wakes(&mut self, look: &Look, now: Instant) -> usize {
        if !look.is_due_again() {
            self.next = 1;
            return 0;
        }
        // A timer's grain must not cost a whole look.
        let stuck = look.front.is_some_and(|since| now.saturating_duration_since(since) >= LOOK - LOOK / 8);
        if !stuck {
            return 0;
        }
        if look.moving >= look.most {
            // Long, not stuck: another worker would only take turns with them on the same cores.
            self.next = (self.next / 2).max(1);
            return 0;
        }
        if look.moving > 0 {
            return 1;
        }
        let wakes = self.next.min(look.sleeping);
        self.next = 2 * wakes;
        wakes
    }
}

impl<T> Queue<T> {
    /// `share`: how many of the `workers` may be in the share at once. None, if only guests pop.
    pub(crate) fn new(workers: usize, share: usize) -> Queue<T> {
        let most = if workers == 0 { usize::MAX } else { at_once(workers) };
        Queue {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                shared: VecDeque::new(),
                in_share: 0,
                share,
                sleepers: Vec::new(),
                coming: 0,
                probe: None,
                closed: false,
                workers,
                most,
                places: vec![Place { turn: 0, at: Instant::now(), away: true }; workers],
                taken: 0,
                attended: false,
            }),
        }
    }

    /// Adds a batch under one lock, and wakes a worker unless as many as do best are at it.
    pub(crate) fn push(&self, batch: &mut Vec<T>) {
        if batch.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut state = self.lock();
        state.waiting.extend(batch.drain(..).map(|work| (now, work)));
        if !state.attended || state.moving(now) < state.most {
            wake(1, state);
        }
    }

    /// Adds what a worker has found, who does it next. Another is woken to help where fewer than
    /// do best are up.
    pub(crate) fn push_found(&self, found: impl Iterator<Item = T>) {
        let now = Instant::now();
        let mut state = self.lock();
        state.waiting.extend(found.map(|work| (now, work)));
        if state.waiting.len() > 1 && state.up() < state.most {
            wake(1, state);
        }
    }

    /// Adds work that waits for a place in the share.
    pub(crate) fn push_shared(&self, work: T) {
        let mut state = self.lock();
        state.shared.push_back((Instant::now(), work));
        if state.in_share < state.share {
            wake(1, state);
        }
    }

    /// Waits for work. Before it sleeps it calls `fetch`, which looks for work elsewhere and pushes
    /// it; false: there is none.
    pub(crate) fn pop(&self, parker: &Parker, mut fetch: impl FnMut() -> bool) -> Popped<T> {
        let mut called = false;
        let mut fetched = true;
        loop {
            let mut state = self.lock();
            let was_called = std::mem::take(&mut called);
            state.coming -= usize::from(was_called);
            if let Some(probe) = state.probe.take() {
                drop(state);
                (probe.0)();
                continue;
            }
            if state.in_share < state.share {
                if let Some((since, work)) = state.shared.pop_front() {
                    state.in_share += 1;
                    return Popped::Work(work, Taken { in_share: true, waited: since.elapsed() });
                }
            }
            let is_surplus = !was_called && state.is_surplus(parker.place);
            if !is_surplus {
                if let Some((since, work)) = state.waiting.pop_front() {
                    let now = Instant::now();
                    state.note_taken(parker.place, now);
                    let waited = now.saturating_duration_since(since);
                    return Popped::Work(work, Taken { in_share: false, waited });
                }
                if state.closed {
                    return Popped::Closed;
                }
            }
            state.note_away(parker.place);
            if fetched && !is_surplus {
                drop(state);
                fetched = fetch();
                continue;
            }
            parker.called.store(false, Ordering::Relaxed);
            state.sleepers.push(parker.clone());
            drop(state);
            parker.wait_for_call();
            (called, fetched) = (true, true);
        }
    }

    /// Wakes a worker if work waits, or is wanted to be looked for: by the one of that place, which
    /// is about to be long away.
    pub(crate) fn wake_for_rest(&self, place: usize, look: bool) {
        let mut state = self.lock();
        state.note_away(place);
        if look || !state.waiting.is_empty() {
            wake(1, state);
        }
    }

    /// As `wake_for_rest`, by one that will be at it for long without leaving its core: another does
    /// good only where there is a core for it. Where nobody looks again, one is woken in any case.
    pub(crate) fn wake_beside(&self, look: bool) {
        let state = self.lock();
        let waits = look || !state.waiting.is_empty();
        if waits && (!state.attended || state.moving(Instant::now()) < state.most) {
            wake(1, state);
        }
    }

    /// Wakes up to `n` workers.
    pub(crate) fn wake(&self, n: usize) {
        wake(n, self.lock());
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    pub(crate) fn look(&self) -> Look {
        self.lock().look(Instant::now())
    }

    /// By the acceptor: a look that says whether to come again within [`LOOK`], which it must then
    /// do. It does so anyway if `again`.
    pub(crate) fn attend(&self, now: Instant, again: bool) -> Look {
        let mut state = self.lock();
        let look = state.look(now);
        state.attended = again || look.is_due_again();
        Look { attended: state.attended, ..look }
    }

    /// Takes a place in the share, if one is free.
    pub(crate) fn enter_share(&self) -> bool {
        let mut state = self.lock();
        let free = state.in_share < state.share;
        state.in_share += usize::from(free);
        free
    }

    pub(crate) fn leave_share(&self) {
        let mut state = self.lock();
        state.in_share -= 1;
        if !state.shared.is_empty() {
            wake(1, state);
        }
    }

    /// Takes out what has waited since before `limit`. What `stays` keeps its place, for its turn will come,
    /// unless no worker has taken anything since before `stuck`.
    pub(crate) fn expired(
        &self,
        limit: Instant,
        stuck: Option<Instant>,
        stays: impl Fn(&T) -> bool,
    ) -> Vec<T> {
        let mut state = self.lock();
        let mut expired = Vec::new();
        let is_stuck = stuck.is_some_and(|stuck| state.places.iter().all(|place| place.at < stuck));
        let mut staying = Vec::new();
        while let Some((since, work)) = pop_before(&mut state.waiting, limit) {
            match !is_stuck && stays(&work) {
                true => staying.push((since, work)),
                false => expired.push(work),
            }
        }
        staying.into_iter().rev().for_each(|entry| state.waiting.push_front(entry));
        expired.extend(std::iter::from_fn(|| pop_before(&mut state.shared, limit)).map(|(_, work)| work));
        expired
    }

    /// Has a worker call `probe`; gives it back if none is free to.
    pub(crate) fn probe(&self, probe: Probe) -> Result<(), Probe> {
        let mut state = self.lock();
        if state.sleepers.is_empty() {
            return Err(probe);
        }
        state.probe = Some(probe);
        wake(1, state);
        Ok(())
    }

    /// No more will come: workers end when nothing waits.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        wake(usize::MAX, state);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        lock_checked(&self.state)
    }
}

impl<T> State<T> {
    fn look(&self, now: Instant) -> Look {
        Look {
            waiting: self.waiting.len(),
            sleeping: self.sleepers.len(),
            coming: self.coming,
            taken: self.taken,
            front: self.waiting.front().map(|(since, _)| *since),
            moving: self.moving(now),
            most: self.most,
            attended: self.attended,
        }
    }

    /// Workers that are not in bed.
    fn up(&self) -> usize {
        self.workers.saturating_sub(self.sleepers.len())
    }

    fn moving(&self, now: Instant) -> usize {
        let moves = |place: &&Place| !place.away && now.saturating_duration_since(place.at) < SOON;
        self.places.iter().filter(moves).count()
    }

    /// Whether as many others as do best have taken something since the worker of that place last
    /// did: it would only take turns with them, and keep what it took from its client meanwhile.
    fn is_surplus(&self, place: usize) -> bool {
        if self.closed || !self.attended || self.up() <= self.most {
            return false;
        }
        let Some(own) = self.places.get(place) else { return false };
        let age = |place: &Place| self.taken.wrapping_sub(place.turn);
        let since = |other: &&Place| !other.away && age(other) < age(own);
        self.places.iter().filter(since).count() >= self.most
    }

    fn note_taken(&mut self, place: usize, at: Instant) {
        self.taken = self.taken.wrapping_add(1);
        if let Some(place) = self.places.get_mut(place) {
            *place = Place { turn: self.taken, at, away: false };
        }
    }

    fn note_away(&mut self, place: usize) {
        if let Some(place) = self.places.get_mut(place) {
            place.away = true;
        }
    }
}

fn pop_before<T>(queue: &mut VecDeque<(Instant, T)>, limit: Instant) -> Option<(Instant, T)> {
    let is_old = queue.front().is_some_and(|(since, _)| *since < limit);
    if is_old { queue.pop_front() } else { None }
}

/// Woken outside the lock, or the first thing a worker does is wait for it.
fn wake<T>(n: usize, mut state: MutexGuard<'_, State<T>>) {
    if n == 1 {
        let parker = state.sleepers.pop();
        state.coming += usize::from(parker.is_some());
        drop(state);
        if let Some(parker) = parker {
            parker.call();
        }
    } else {
        let keep = state.sleepers.len().saturating_sub(n);
        let called = state.sleepers.split_off(keep);
        state.coming += called.len();
        drop(state);
        called.iter().for_each(Parker::call);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// What is taken, and whether in the share; None if the queue is closed.
    pub(super) fn pop<T>(queue: &Queue<T>, parker: &Parker) -> Option<(T, bool)> {
        match queue.pop(parker, || false) {
            Popped::Work(work, taken) => Some((work, taken.in_share)),
            Popped::Closed => None,
        }
    }

    #[test]
    fn first_in_first_out_and_closed_only_when_empty() {
        let queue = Queue::new(1, 1);
        queue.push(&mut vec![1, 2]);
        queue.push(&mut vec![3]);
        queue.close();
        let parker = Parker::new(0);
        let got: Vec<_> = (0..4).map(|_| pop(&queue, &parker)).collect();
        assert_eq!(got, [Some((1, false)), Some((2, false)), Some((3, false)), None]);
    }

    #[test]
    fn the_share_is_never_exceeded_and_never_blocks_other_work() {
        let queue = Queue::new(1, 1);
        let parker = Parker::new(0);
        assert!(queue.enter_share());
        assert!(!queue.enter_share());
        queue.push_shared(10);
        queue.push(&mut vec![1]);
        assert_eq!(pop(&queue, &parker), Some((1, false)));
        queue.leave_share();
        assert_eq!(pop(&queue, &parker), Some((10, true)));
        assert!(!queue.enter_share());
    }

    #[test]
    fn a_stuck_front_wakes_one_two_four_and_a_moving_one_nobody() {
        let now = Instant::now();
        let old = now.checked_sub(LOOK);
        let look = |waiting, sleeping, coming, front| Look { waiting, sleeping, coming, front, ..IDLE };
        let cases = [
            ("empty", look(0, 16, 0, None), 0),
            ("stuck", look(9, 16, 0, old), 1),
            ("still", look(8, 15, 0, old), 2),
            ("still", look(6, 13, 0, old), 4),
            ("no more sleep than that", look(9, 3, 0, old), 3),
            ("all are awake: nobody to wake, and from the start next time", look(9, 0, 0, old), 0),
            ("stuck", look(9, 16, 0, old), 1),
            ("a fresh front", look(9, 16, 0, Some(now)), 0),
            ("as many come as wait", look(2, 16, 2, old), 0),
            ("stuck anew", look(9, 16, 0, old), 1),
            ("others move, but not on all cores", Look { moving: 1, ..look(9, 15, 0, old) }, 1),
            ("long, and worked at on all cores", Look { moving: 2, ..look(9, 15, 0, old) }, 0),
        ];
        let mut nudge = Nudge::new();
        for (what, look, wakes) in cases {
            assert_eq!(nudge.wakes(&look, now), wakes, "{what}");
        }
    }

    const IDLE: Look = Look {
        waiting: 0,
        sleeping: 0,
        coming: 0,
        taken: 0,
        front: None,
        moving: 0,
        most: 2,
        attended: false,
    };

    /// A queue of three workers on one core: the first was called and took something, then the
    /// second; the third sleeps.
    fn on_one_core(attended: bool) -> Queue<u32> {
        let queue = Queue::new(3, 1);
        let mut state = queue.lock();
        state.most = 1;
        state.sleepers.push(Parker::new(2));
        state.note_taken(0, Instant::now());
        state.note_taken(1, Instant::now());
        state.attended = attended;
        drop(state);
        queue.push_found(0..9);
        queue
    }

    /// Workers of those places come by, in that order. Whether they take something.
    fn come_by(queue: &Queue<u32>, places: &[usize]) -> Vec<bool> {
        let takes = |place: &usize| {
            let mut state = queue.lock();
            let surplus = state.is_surplus(*place);
            if !surplus {
                assert!(state.waiting.pop_front().is_some());
                state.note_taken(*place, Instant::now());
            }
            !surplus
        };
        places.iter().map(takes).collect()
    }

    #[test]
    fn of_two_who_take_turns_on_a_core_one_goes_to_bed() {
        assert_eq!(come_by(&on_one_core(true), &[0]), [false]);
        assert_eq!(come_by(&on_one_core(true), &[1, 1, 0]), [true, true, false]);
        assert_eq!(come_by(&on_one_core(false), &[0, 1, 0]), [true; 3], "nobody would see what they leave");
    }

    #[test]
    fn who_is_long_away_keeps_nobody_from_work() {
        let queue = on_one_core(true);
        queue.wake_for_rest(1, false);
        assert_eq!(come_by(&queue, &[0, 0, 0]), [true; 3]);
        // Nor who blocks without a word, once another was called for what waits.
        let queue = on_one_core(true);
        queue.lock().note_taken(0, Instant::now());
        assert_eq!(come_by(&queue, &[0, 0]), [true; 2]);
    }

    #[test]
    fn beside_one_that_computes_another_is_woken_only_for_another_core() {
        for (attended, cores, sleeping) in [(true, 1, 1), (true, 2, 1), (true, 3, 0), (false, 1, 0)] {
            let queue = on_one_core(attended);
            queue.lock().most = cores;
            queue.wake_beside(false);
            assert_eq!(queue.look().sleeping, sleeping, "{cores} cores, two at it, {attended}");
        }
    }

    #[test]
    fn a_push_wakes_nobody_while_all_cores_are_at_it_and_it_is_looked_after() {
        for (attended, sleeping) in [(true, 1), (false, 0)] {
            let queue = on_one_core(attended);
            assert_eq!(come_by(&queue, &[1]), [true]);
            queue.push(&mut vec![9]);
            assert_eq!(queue.look().sleeping, sleeping);
        }
    }

    #[test]
    fn only_what_waited_too_long_expires() {
        let queue = Queue::new(1, 1);
        queue.push(&mut vec![1, 2]);
        let limit = Instant::now();
        queue.push(&mut vec![3]);
        assert_eq!(queue.expired(limit, None, |_| false), [1, 2]);
        assert_eq!(queue.look().waiting, 1);
    }

    #[test]
    fn what_stays_keeps_its_place_while_workers_come_by() {
        let queue = Queue::new(1, 1);
        queue.push(&mut vec![1, 2, 3]);
        let limit = Instant::now();
        queue.lock().note_taken(0, Instant::now());
        assert_eq!(queue.expired(limit, Some(limit), |n| *n != 2), [2]);
        queue.push(&mut vec![4]);
        let limit = Instant::now();
        assert_eq!(queue.expired(limit, None, |_| true), [0; 0]);
        assert_eq!(queue.expired(limit, Some(limit), |_| true), [1, 3, 4], "nothing was taken since");
        queue.push(&mut vec![5, 6]);
        let limit = Instant::now();
        queue.lock().note_taken(0, Instant::now());
        assert_eq!(queue.expired(limit, Some(limit), |_| true), [0; 0]);
        let parker = Parker::new(0);
        assert_eq!([5, 6].map(|_| pop(&queue, &parker)), [Some((5, false)), Some((6, false))]);
    }

    /// Whatever the order of pushes, wakes and sleeps, nothing is lost, nothing comes twice, and
    /// nobody sleeps for ever: many workers, one wake a batch, the rest woken by those who leave
    /// work behind, as in the server.
    #[test]
    fn every_piece_of_work_is_done_once() {
        const WORKERS: usize = 4;
        const BATCHES: u32 = 2_000;
        let queue = Arc::new(Queue::new(WORKERS, WORKERS));
        let (done, results) = mpsc::channel();
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                let (queue, done) = (Arc::clone(&queue), done.clone());
                thread::Builder::new()
                    .spawn(move || {
                        let parker = Parker::new(0);
                        while let Popped::Work(n, _) = queue.pop(&parker, || false) {
                            queue.wake_for_rest(0, false);
                            current().unpark(); // a token as a handler may leave it
                            done.send(n).unwrap();
                        }
                    })
                    .unwrap()
            })
            .collect();
        for n in 0..BATCHES {
            queue.push(&mut vec![3 * n, 3 * n + 1, 3 * n + 2]);
        }
        let mut got: Vec<u32> = results.iter().take(3 * BATCHES as usize).collect();
        queue.close();
        workers.into_iter().for_each(|w| w.join().unwrap());
        got.sort_unstable();
        assert_eq!(got, (0..3 * BATCHES).collect::<Vec<_>>());
    }

    #[test]
    fn a_sleeping_worker_answers_a_probe_and_a_busy_pool_gives_it_back() {
        let queue: Arc<Queue<u8>> = Arc::new(Queue::new(1, 1));
        assert!(queue.probe(Probe(Box::new(|| ()))).is_err());
        let worker = {
            let queue = Arc::clone(&queue);
            thread::Builder::new().spawn(move || pop(&queue, &Parker::new(0))).unwrap()
        };
        let (said, heard) = mpsc::channel();
        let mut probe = Probe(Box::new(move || said.send(()).unwrap()));
        while let Err(back) = queue.probe(probe) {
            probe = back;
            thread::yield_now();
        }
        heard.recv().unwrap();
        queue.close();
        assert_eq!(worker.join().unwrap(), None);
    }
}

#[cfg(test)]
mod loom_tests;
