#![cfg(loom)]
//! Every order of steps, up to three preemptions, of threads that push, sleep and wait for events. A thread that
//! sleeps indefinitely is a deadlock to loom: so no thread here closes a queue before its work is done, unless the close
//! is what is tested.

use std::sync::Arc;

use loom::sync::Condvar;
use loom::thread::{self, JoinHandle};

use super::tests::pop;
use super::*;
use crate::base::sync::{AtomicUsize, Ordering, current};
use crate::net::scheduler::policy::LOOK;

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(f);
}

fn queue(permits: usize) -> Arc<Queue<usize>> {
    Arc::new(Queue::new(2, permits))
}

/// Events as an epoll gives them: each to one that waits, and interrupts that may be one.
#[derive(Default)]
struct Ready {
    /// Work that is ready, and whether there was an interrupt.
    state: Mutex<(Vec<usize>, bool)>,
    changed: Condvar,
    watch_requests: AtomicUsize,
}

impl Ready {
    fn send(&self, work: usize) {
        self.state.lock().unwrap().0.push(work);
        self.changed.notify_one();
    }
}

impl Events<usize> for Arc<Ready> {
    fn wait<'q>(&self, queue: &'q Queue<usize>) -> io::Result<Polled<'q, usize>> {
        let mut state = self.state.lock().unwrap();
        while state.0.is_empty() && !state.1 {
            state = self.changed.wait(state).unwrap();
        }
        let (ready, _) = std::mem::take(&mut *state);
        drop(state);
        Ok(queue.end_poll(ready.into_iter()))
    }

    fn interrupt(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_one();
    }

    fn request_watch(&self) {
        self.watch_requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// A queue for two workers, of which so many may wait for events.
fn queue_with_events(cores: usize) -> (Arc<Queue<usize>>, Arc<Ready>) {
    let ready = Arc::new(Ready::default());
    let queue = Queue::new(2, 1).with_events(Box::new(Arc::clone(&ready)));
    queue.lock().cores = cores;
    (Arc::new(queue), ready)
}

/// How often each piece of work has been done, and how many have a streaming permit.
struct Counters {
    done: [AtomicUsize; 3],
    left: AtomicUsize,
    streaming: AtomicUsize,
}

impl Counters {
    fn new(pieces: usize) -> Arc<Counters> {
        let done = std::array::from_fn(|_| AtomicUsize::new(0));
        Arc::new(Counters { done, left: AtomicUsize::new(pieces), streaming: AtomicUsize::new(0) })
    }

    /// Whether it was the last.
    fn do_piece(&self, piece: usize) -> bool {
        assert_eq!(self.done[piece].fetch_add(1, Ordering::Relaxed), 0, "{piece} done twice");
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Works until all is done; the worker that does the last piece closes the queue.
fn worker(queue: &Arc<Queue<usize>>, counters: &Arc<Counters>) -> JoinHandle<()> {
    worker_at(0, queue, counters)
}

fn worker_at(index: usize, queue: &Arc<Queue<usize>>, counters: &Arc<Counters>) -> JoinHandle<()> {
    let (queue, counters) = (Arc::clone(queue), Arc::clone(counters));
    thread::spawn(move || {
        let parker = Parker::new(index);
        loop {
            let is_last = match queue.pop(&parker) {
                Popped::Work(piece, Taken { has_permit: false, .. }) => counters.do_piece(piece),
                Popped::Work(piece, _) => {
                    let before = counters.streaming.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(before, 0, "all tests have one permit");
                    let is_last = counters.do_piece(piece);
                    counters.streaming.fetch_sub(1, Ordering::Relaxed);
                    queue.release_permit();
                    is_last
                }
                Popped::Closed => return,
            };
            if is_last {
                queue.close();
            }
        }
    })
}

/// No worker sleeps, polls or counts as waking, nothing waits, and all permits are free.
fn expect_rest(queue: &Queue<usize>) {
    let state = queue.lock();
    let Snapshot { waiting, sleeping, waking, polling, .. } = state.snapshot();
    assert_eq!((waiting, sleeping, waking, polling), (0, 0, 0, 0));
    assert!(state.streaming.is_empty() && state.permits == 1 && state.probe.is_none());
}

fn join(workers: impl IntoIterator<Item = JoinHandle<()>>) {
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}

#[test]
fn one_wake_is_enough_for_each_batch() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(3));
        let worker = worker(&queue, &counters);
        queue.push(&mut vec![0, 1]);
        queue.push(&mut vec![2]);
        join([worker]);
        expect_rest(&queue);
    });
}

#[test]
fn two_workers_do_a_batch_once_and_end() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(2));
        let workers = [worker(&queue, &counters), worker(&queue, &counters)];
        queue.push(&mut vec![0, 1]);
        join(workers);
        expect_rest(&queue);
    });
}

#[test]
fn of_two_that_push_neither_is_missed() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(2));
        let worker = worker(&queue, &counters);
        let other = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.push(&mut vec![0]))
        };
        queue.push(&mut vec![1]);
        join([worker, other]);
        expect_rest(&queue);
    });
}

/// Each worker ends with its first piece, and wakes another for the rest before.
#[test]
fn a_worker_that_leaves_work_behind_wakes_another_for_it() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(2));
        let workers = [(); 2].map(|()| {
            let (queue, counters) = (Arc::clone(&queue), Arc::clone(&counters));
            thread::spawn(move || {
                let Popped::Work(piece, _) = queue.pop(&Parker::new(0)) else { panic!() };
                queue.before_blocking(0);
                counters.do_piece(piece);
            })
        });
        queue.push(&mut vec![0, 1]);
        join(workers);
        expect_rest(&queue);
    });
}

/// One of two workers on one core sleeps while there is work, and the work it leaves is done.
#[test]
fn a_surplus_worker_leaves_work_to_one_that_is_awake() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(3));
        {
            let mut state = queue.lock();
            (state.cores, state.watched) = (1, true);
            state.waiting.extend((0..3).map(|n| (Instant::now(), n)));
        }
        join([worker_at(0, &queue, &counters), worker_at(1, &queue, &counters)]);
        expect_rest(&queue);
    });
}

/// The acceptor wakes workers without need, or just as they return by themselves.
#[test]
fn a_wake_too_many_does_no_harm() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(1));
        let workers = [worker(&queue, &counters), worker(&queue, &counters)];
        queue.wake_up(2, queue.lock());
        queue.push(&mut vec![0]);
        queue.wake_up(1, queue.lock());
        join(workers);
        expect_rest(&queue);
    });
}

/// Handlers are free to unpark their own thread.
#[test]
fn a_token_that_a_handler_left_is_no_wake() {
    model(|| {
        let queue = queue(1);
        let worker = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                let parker = Parker::new(0);
                for _ in 0..2 {
                    current().unpark();
                    assert!(matches!(queue.pop(&parker), Popped::Work(..)));
                }
            })
        };
        queue.push(&mut vec![0]);
        queue.push(&mut vec![1]);
        join([worker]);
        expect_rest(&queue);
    });
}

#[test]
fn a_close_ends_all_workers() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(1));
        let workers = [worker(&queue, &counters), worker(&queue, &counters)];
        queue.close();
        join(workers);
        expect_rest(&queue);
    });
}

#[test]
fn a_closed_queue_is_emptied_first() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(2));
        let worker = worker(&queue, &counters);
        queue.push(&mut vec![0]);
        queue.push_streaming(1);
        queue.close();
        join([worker]);
        expect_rest(&queue);
        assert_eq!(counters.left.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn streaming_work_is_done_and_permits_are_never_exceeded() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(2));
        let workers = [worker(&queue, &counters), worker(&queue, &counters)];
        queue.push_streaming(0);
        queue.push_streaming(1);
        join(workers);
        expect_rest(&queue);
    });
}

#[test]
fn both_lists_are_emptied_whichever_worker_is_woken_for_which() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(2));
        let workers = [worker(&queue, &counters), worker(&queue, &counters)];
        queue.push_streaming(0);
        queue.push(&mut vec![1]);
        join(workers);
        expect_rest(&queue);
    });
}

/// A permit is released while others wait for it or just begin to.
#[test]
fn work_that_waits_for_a_permit_is_done_when_one_is_released() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(1));
        assert!(queue.try_acquire_permit());
        let worker = worker(&queue, &counters);
        let waits = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.push_streaming(0))
        };
        queue.release_permit();
        join([worker, waits]);
        expect_rest(&queue);
    });
}

/// A permit is taken by exchanges that need it only later, and by a worker that is woken for it.
#[test]
fn a_permit_is_acquired_by_one() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(1));
        let worker = worker(&queue, &counters);
        let turn = |queue: &Queue<usize>, counters: &Counters| {
            if queue.try_acquire_permit() {
                assert_eq!(counters.streaming.fetch_add(1, Ordering::Relaxed), 0, "two with one permit");
                counters.streaming.fetch_sub(1, Ordering::Relaxed);
                queue.release_permit();
            }
        };
        let other = {
            let (queue, counters) = (Arc::clone(&queue), Arc::clone(&counters));
            thread::spawn(move || turn(&queue, &counters))
        };
        queue.push_streaming(0);
        turn(&queue, &counters);
        join([worker, other]);
        expect_rest(&queue);
    });
}

#[test]
fn permits_that_are_all_taken_do_not_hold_up_other_work() {
    model(|| {
        let queue = queue(1);
        assert!(queue.try_acquire_permit());
        let worker = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || pop(&queue, &Parker::new(0)))
        };
        queue.push_streaming(0);
        queue.push(&mut vec![1]);
        assert_eq!(worker.join().unwrap(), Some((1, false)));
        queue.release_permit();
        assert_eq!(pop(&queue, &Parker::new(0)), Some((0, true)));
    });
}

#[test]
fn a_probe_is_called_once_or_returned() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(2));
        let worker = worker(&queue, &counters);
        let called = Arc::clone(&counters);
        let last = {
            let queue = Arc::clone(&queue);
            move || {
                if called.do_piece(0) {
                    queue.close();
                }
            }
        };
        let other = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.push(&mut vec![1]))
        };
        if let Err(Probe(back)) = queue.probe(Probe(Box::new(last))) {
            back();
        }
        join([worker, other]);
        expect_rest(&queue);
    });
}

#[test]
fn what_expires_is_not_done_and_what_is_done_does_not_expire() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(3));
        let worker = worker(&queue, &counters);
        queue.push(&mut vec![0, 1]);
        queue.push_streaming(2);
        let limit = Instant::now().checked_add(LOOK).unwrap();
        let lasts: Vec<bool> =
            queue.expired(limit, None, |_| false).into_iter().map(|piece| counters.do_piece(piece)).collect();
        if lasts.contains(&true) {
            queue.close();
        }
        join([worker]);
        expect_rest(&queue);
    });
}

/// Workers that wait for events, that sleep, or are about to do either, while work is pushed and events come.
#[test]
fn work_that_is_pushed_and_work_that_is_ready_is_done_once() {
    for cores in [1, 2] {
        model(move || {
            let ((queue, ready), counters) = (queue_with_events(cores), Counters::new(3));
            let workers = [worker_at(0, &queue, &counters), worker_at(1, &queue, &counters)];
            ready.send(0);
            queue.push(&mut vec![1]);
            ready.send(2);
            join(workers);
            expect_rest(&queue);
        });
    }
}

/// All workers come back from waiting for events, though interrupts may be one.
#[test]
fn a_close_ends_workers_that_wait_for_events() {
    model(|| {
        let ((queue, _ready), counters) = (queue_with_events(2), Counters::new(1));
        let workers = [worker_at(0, &queue, &counters), worker_at(1, &queue, &counters)];
        queue.close();
        join(workers);
        expect_rest(&queue);
    });
}

#[test]
fn streaming_work_is_done_by_workers_that_wait_for_events() {
    model(|| {
        let ((queue, _ready), counters) = (queue_with_events(2), Counters::new(2));
        let workers = [worker_at(0, &queue, &counters), worker_at(1, &queue, &counters)];
        queue.push_streaming(0);
        queue.push_streaming(1);
        join(workers);
        expect_rest(&queue);
    });
}

/// Each worker waits in its handler until both pieces are taken. The second may become ready before, while or after the first
/// worker calls its handler.
#[test]
fn before_a_worker_blocks_another_waits_for_events() {
    model(|| {
        let (queue, ready) = queue_with_events(1);
        let taken = Arc::new((Mutex::new(0), Condvar::new()));
        let workers = [0, 1].map(|index| {
            let (queue, taken) = (Arc::clone(&queue), Arc::clone(&taken));
            thread::spawn(move || {
                let Popped::Work(..) = queue.pop(&Parker::new(index)) else { panic!() };
                queue.before_blocking(index);
                let (count, changed) = &*taken;
                let mut count = count.lock().unwrap();
                *count += 1;
                changed.notify_one();
                while *count < 2 {
                    count = changed.wait(count).unwrap();
                }
            })
        });
        ready.send(0);
        ready.send(1);
        join(workers);
        expect_rest(&queue);
    });
}

/// A worker that blocks by surprise in its first piece of work has left nothing unknown to the acceptor: no work, and no
/// events for which no thread waits.
#[test]
fn what_a_worker_leaves_is_seen_by_another_or_watched() {
    model(|| {
        let (queue, ready) = queue_with_events(1);
        let of_worker = Arc::clone(&queue);
        let worker = thread::spawn(move || {
            let Popped::Work(..) = of_worker.pop(&Parker::new(0)) else { panic!() };
            assert!(of_worker.lock().watched);
        });
        ready.send(0);
        ready.send(1);
        worker.join().unwrap();
        assert_eq!(ready.watch_requests.load(Ordering::Relaxed), 1);
    });
}
