#![cfg(loom)]
//! Every order of steps of who pushes and who sleeps: loom reports a worker that sleeps for ever as a
//! deadlock.

use loom::sync::atomic::AtomicUsize;
use loom::thread;

use super::*;

fn bounded(f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(f);
}

/// Works until the queue is closed; how much it did.
fn worker(queue: &Arc<Queue<u8>>) -> thread::JoinHandle<usize> {
    let queue = Arc::clone(queue);
    thread::spawn(move || {
        let seat = Seat::new();
        let mut done = 0;
        loop {
            match queue.pop(&seat) {
                Popped::Work(_) => done += 1,
                Popped::InShare(_) => {
                    done += 1;
                    queue.leave_share();
                }
                Popped::Closed => return done,
            }
        }
    })
}

#[test]
fn loom_work_pushed_beside_a_worker_that_goes_to_sleep_is_done() {
    bounded(|| {
        let queue = Arc::new(Queue::new(1));
        let worker = worker(&queue);
        queue.push(&mut vec![1]);
        queue.push(&mut vec![2]);
        queue.close();
        assert_eq!(worker.join().unwrap(), 2);
    });
}

#[test]
fn loom_a_batch_is_done_once_by_two_workers() {
    bounded(|| {
        let queue = Arc::new(Queue::new(1));
        let workers = [worker(&queue), worker(&queue)];
        queue.push(&mut vec![1, 2]);
        queue.close();
        assert_eq!(workers.map(|worker| worker.join().unwrap()).iter().sum::<usize>(), 2);
    });
}

/// Nobody closes the queue before the work is done: the one call must be enough.
#[test]
fn loom_one_call_is_enough_for_a_batch() {
    bounded(|| {
        let queue = Arc::new(Queue::new(1));
        let done = Arc::new(AtomicUsize::new(0));
        let worker = {
            let (queue, done) = (Arc::clone(&queue), Arc::clone(&done));
            thread::spawn(move || {
                let seat = Seat::new();
                for _ in 0..2 {
                    assert!(matches!(queue.pop(&seat), Popped::Work(_)));
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        queue.push(&mut vec![1, 2]);
        worker.join().unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn loom_the_share_is_never_exceeded_and_its_work_is_done() {
    bounded(|| {
        let queue = Arc::new(Queue::new(1));
        let workers = [worker(&queue), worker(&queue)];
        queue.push_shared(1);
        queue.push_shared(2);
        // Whoever waits for the share is called when it is left, so this ends without a close.
        let done = loop {
            let look = queue.lock();
            assert!(look.in_share <= look.share);
            if look.shared.is_empty() && look.in_share == 0 {
                break 2;
            }
            drop(look);
            thread::yield_now();
        };
        queue.close();
        assert_eq!(workers.map(|worker| worker.join().unwrap()).iter().sum::<usize>(), done);
    });
}

/// By somebody who is no worker of this queue, and so takes nothing else himself.
#[test]
fn loom_who_waits_for_the_share_is_called_when_it_is_left() {
    bounded(|| {
        let queue = Arc::new(Queue::new(1));
        assert!(queue.enter_share());
        queue.push_shared(1);
        let worker = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.pop(&Seat::new()))
        };
        queue.leave_share();
        assert_eq!(worker.join().unwrap(), Popped::InShare(1));
    });
}

#[test]
fn loom_a_probe_is_called_or_given_back() {
    bounded(|| {
        let queue = Arc::new(Queue::<u8>::new(1));
        let worker = worker(&queue);
        let called = Arc::new(AtomicUsize::new(0));
        let probe = {
            let called = Arc::clone(&called);
            Probe(Box::new(move || {
                called.fetch_add(1, Ordering::SeqCst);
            }))
        };
        let given_back = queue.probe(probe).is_err();
        queue.close();
        worker.join().unwrap();
        assert_eq!(called.load(Ordering::SeqCst), usize::from(!given_back));
    });
}
