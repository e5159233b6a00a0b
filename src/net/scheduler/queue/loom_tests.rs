#![cfg(loom)]
//! Every order of steps, up to three preemptions, of those who push and those who sleep. Whoever
//! sleeps for ever is a deadlock to loom: so nobody here closes a queue before its work is done,
//! unless the close is what is looked at.

use loom::thread::{self, JoinHandle};

use super::tests::pop;
use super::*;
use crate::base::sync::AtomicUsize;

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(f);
}

fn queue(share: usize) -> Arc<Queue<usize>> {
    Arc::new(Queue::new(2, share))
}

/// How often each piece of work has been done, and how many are in the share.
struct Counters {
    done: [AtomicUsize; 3],
    left: AtomicUsize,
    in_share: AtomicUsize,
}

impl Counters {
    fn new(pieces: usize) -> Arc<Counters> {
        let done = std::array::from_fn(|_| AtomicUsize::new(0));
        Arc::new(Counters { done, left: AtomicUsize::new(pieces), in_share: AtomicUsize::new(0) })
    }

    /// Whether it was the last.
    fn do_piece(&self, piece: usize) -> bool {
        assert_eq!(self.done[piece].fetch_add(1, Ordering::Relaxed), 0, "{piece} done twice");
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Works until all is done; who does the last piece sends all home.
fn worker(queue: &Arc<Queue<usize>>, counters: &Arc<Counters>) -> JoinHandle<()> {
    worker_at(0, queue, counters)
}

fn worker_at(place: usize, queue: &Arc<Queue<usize>>, counters: &Arc<Counters>) -> JoinHandle<()> {
    let (queue, counters) = (Arc::clone(queue), Arc::clone(counters));
    thread::spawn(move || {
        let parker = Parker::new(place);
        loop {
            let is_last = match queue.pop(&parker, || false) {
                Popped::Work(piece, Taken { in_share: false, .. }) => counters.do_piece(piece),
                Popped::Work(piece, _) => {
                    let before = counters.in_share.fetch_add(1, Ordering::Relaxed);
                    assert!(before < queue.lock().share, "more than the share");
                    let is_last = counters.do_piece(piece);
                    counters.in_share.fetch_sub(1, Ordering::Relaxed);
                    queue.leave_share();
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

/// Nobody sleeps, nobody is thought to come, nothing waits.
fn expect_rest(queue: &Queue<usize>) {
    let look = queue.look();
    assert_eq!((look.waiting, look.sleeping, look.coming, look.front), (0, 0, 0, None));
    let state = queue.lock();
    assert!(state.shared.is_empty() && state.in_share == 0 && state.probe.is_none());
}

fn join(workers: impl IntoIterator<Item = JoinHandle<()>>) {
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}

#[test]
fn one_call_is_enough_for_each_batch() {
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
fn two_workers_do_a_batch_once_and_go_home() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(2));
        let workers = [worker(&queue, &counters), worker(&queue, &counters)];
        queue.push(&mut vec![0, 1]);
        join(workers);
        expect_rest(&queue);
    });
}

#[test]
fn of_two_who_push_neither_is_overheard() {
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

/// Each worker is gone for good with its first piece, but calls for the rest before.
#[test]
fn who_leaves_work_behind_wakes_another_for_it() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(2));
        let workers = [(); 2].map(|()| {
            let (queue, counters) = (Arc::clone(&queue), Arc::clone(&counters));
            thread::spawn(move || {
                let Popped::Work(piece, _) = queue.pop(&Parker::new(0), || false) else { panic!() };
                queue.wake_for_rest(0, false);
                counters.do_piece(piece);
            })
        });
        queue.push(&mut vec![0, 1]);
        join(workers);
        expect_rest(&queue);
    });
}

/// Of two on one core, one goes to bed while there is work: what it leaves is done.
#[test]
fn who_goes_to_bed_early_leaves_it_to_one_who_is_up() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(3));
        {
            let mut state = queue.lock();
            (state.most, state.attended) = (1, true);
        }
        queue.push_found(0..3);
        join([worker_at(0, &queue, &counters), worker_at(1, &queue, &counters)]);
        expect_rest(&queue);
    });
}

/// The acceptor's nudge comes for nothing, or just as the others come by themselves.
#[test]
fn a_wake_too_many_does_no_harm() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(1));
        let workers = [worker(&queue, &counters), worker(&queue, &counters)];
        queue.wake(2);
        queue.push(&mut vec![0]);
        queue.wake(1);
        join(workers);
        expect_rest(&queue);
    });
}

/// Handlers are free to unpark their own thread.
#[test]
fn a_token_that_a_handler_left_is_no_call() {
    model(|| {
        let queue = queue(1);
        let worker = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                let parker = Parker::new(0);
                for _ in 0..2 {
                    current().unpark();
                    assert!(matches!(queue.pop(&parker, || false), Popped::Work(..)));
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
fn a_close_sends_all_home() {
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
        queue.push_shared(1);
        queue.close();
        join([worker]);
        expect_rest(&queue);
        assert_eq!(counters.left.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn work_for_the_share_is_done_and_the_share_never_exceeded() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(2));
        let workers = [worker(&queue, &counters), worker(&queue, &counters)];
        queue.push_shared(0);
        queue.push_shared(1);
        join(workers);
        expect_rest(&queue);
    });
}

#[test]
fn both_lanes_are_emptied_whoever_is_called_for_which() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(2));
        let workers = [worker(&queue, &counters), worker(&queue, &counters)];
        queue.push_shared(0);
        queue.push(&mut vec![1]);
        join(workers);
        expect_rest(&queue);
    });
}

/// A turn that entered the share on its way takes no second place in it, and leaves while others
/// wait or just begin to.
#[test]
fn who_waits_for_the_share_is_called_when_it_is_left() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(1));
        assert!(queue.enter_share());
        let worker = worker(&queue, &counters);
        let waits = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.push_shared(0))
        };
        queue.leave_share();
        join([worker, waits]);
        expect_rest(&queue);
    });
}

/// By turns that find on their way that they need it, and by a worker that is called for it.
#[test]
fn a_place_in_the_share_is_entered_by_one() {
    model(|| {
        let (queue, counters) = (queue(1), Counters::new(1));
        let worker = worker(&queue, &counters);
        let turn = |queue: &Queue<usize>, counters: &Counters| {
            if queue.enter_share() {
                assert_eq!(counters.in_share.fetch_add(1, Ordering::Relaxed), 0, "more than the share");
                counters.in_share.fetch_sub(1, Ordering::Relaxed);
                queue.leave_share();
            }
        };
        let other = {
            let (queue, counters) = (Arc::clone(&queue), Arc::clone(&counters));
            thread::spawn(move || turn(&queue, &counters))
        };
        queue.push_shared(0);
        turn(&queue, &counters);
        join([worker, other]);
        expect_rest(&queue);
    });
}

#[test]
fn a_full_share_does_not_hold_up_other_work() {
    model(|| {
        let queue = queue(1);
        assert!(queue.enter_share());
        let worker = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || pop(&queue, &Parker::new(0)))
        };
        queue.push_shared(0);
        queue.push(&mut vec![1]);
        assert_eq!(worker.join().unwrap(), Some((1, false)));
        queue.leave_share();
        assert_eq!(pop(&queue, &Parker::new(0)), Some((0, true)));
    });
}

#[test]
fn a_probe_is_called_once_or_given_back_and_work_beside_it_is_done() {
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
        queue.push_shared(2);
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
