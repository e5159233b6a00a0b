use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use super::*;
use crate::base::sync::{current, lock};
use crate::net::scheduler::policy::LOOK;

/// What is taken, and whether with a streaming permit; None if the queue is closed.
pub(super) fn pop<T>(queue: &Queue<T>, parker: &Parker) -> Option<(T, bool)> {
    match queue.pop(parker) {
        Popped::Work(work, taken) => Some((work, taken.has_permit)),
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
fn streaming_permits_hold_and_never_block_other_work() {
    let queue = Queue::new(1, 1);
    let parker = Parker::new(0);
    assert!(queue.try_acquire_permit());
    assert!(!queue.try_acquire_permit());
    queue.push_streaming(10);
    queue.push(&mut vec![1]);
    assert_eq!(pop(&queue, &parker), Some((1, false)));
    queue.release_permit();
    assert_eq!(pop(&queue, &parker), Some((10, true)));
    assert!(!queue.try_acquire_permit());
}

/// A queue of three workers on one core: the first was woken and took something, then the
/// second; the third sleeps.
fn on_one_core(watched: bool) -> Queue<u32> {
    let queue = Queue::new(3, 1);
    let mut state = queue.lock();
    state.cores = 1;
    state.sleepers.push(Parker::new(2));
    state.note_taken(0, Instant::now());
    state.note_taken(1, Instant::now());
    state.watched = watched;
    state.waiting.extend((0..9).map(|n| (Instant::now(), n)));
    drop(state);
    queue
}

/// The first two count as running from now on, however slow this machine is.
fn keep_running(queue: &Queue<u32>) {
    let at = Instant::now() + Duration::from_secs(600);
    queue.lock().seen.iter_mut().take(2).for_each(|seen| seen.at = at);
}

/// Workers with those numbers come for work, in that order. Whether they take something.
fn come(queue: &Queue<u32>, workers: &[usize]) -> Vec<bool> {
    let takes = |worker: &usize| {
        let mut state = queue.lock();
        !state.is_surplus(*worker) && state.take_waiting(*worker, None).is_some()
    };
    workers.iter().map(takes).collect()
}

fn sleeping(queue: &Queue<u32>) -> usize {
    queue.lock().sleepers.len()
}

#[test]
fn of_two_workers_that_take_turns_on_a_core_one_sleeps() {
    assert_eq!(come(&on_one_core(true), &[0]), [false]);
    assert_eq!(come(&on_one_core(true), &[1, 1, 0]), [true, true, false]);
    assert_eq!(come(&on_one_core(false), &[0, 1, 0]), [true; 3], "nobody would see what they leave");
}

#[test]
fn a_worker_that_is_long_away_keeps_no_other_from_work() {
    let queue = on_one_core(true);
    queue.before_blocking(1);
    assert_eq!(come(&queue, &[0, 0, 0]), [true; 3]);
    // The same holds before a handler that blocks by surprise, once another worker was woken for the work that waits.
    let queue = on_one_core(true);
    queue.lock().note_taken(0, Instant::now());
    assert_eq!(come(&queue, &[0, 0]), [true; 2]);
}

#[test]
fn beside_a_busy_worker_one_is_woken_only_for_another_core() {
    for (watched, cores, asleep) in [(true, 1, 1), (true, 2, 1), (true, 3, 0), (false, 1, 0)] {
        let queue = on_one_core(watched);
        queue.lock().cores = cores;
        keep_running(&queue);
        queue.before_computing();
        assert_eq!(sleeping(&queue), asleep, "{cores} cores, two run, {watched}");
    }
}

#[test]
fn a_push_to_a_busy_and_watched_pool_wakes_no_worker() {
    for (watched, asleep) in [(true, 1), (false, 0)] {
        let queue = on_one_core(watched);
        assert_eq!(come(&queue, &[1]), [true]);
        keep_running(&queue);
        queue.push(&mut vec![9]);
        assert_eq!(sleeping(&queue), asleep);
    }
}

#[test]
fn a_look_wakes_workers_for_a_stuck_front() {
    let queue = on_one_core(false);
    let now = Instant::now() + LOOK;
    let mut watchdog = PoolWatch::new(now);
    let decision = queue.look(&mut watchdog, now);
    assert_eq!(decision, Decision { wake: 1, collect: false, watch: true });
    let state = queue.lock();
    assert!(state.watched && state.sleepers.is_empty() && state.waking == 1);
}

#[test]
fn only_what_waited_too_long_expires() {
    let queue = Queue::new(1, 1);
    queue.push(&mut vec![1, 2]);
    let limit = Instant::now();
    queue.push(&mut vec![3]);
    assert_eq!(queue.expired(limit, None, |_| false), [1, 2]);
    assert_eq!(queue.waiting(), 1);
}

#[test]
fn what_stays_keeps_its_place_while_workers_take_work() {
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
/// no worker sleeps indefinitely: many workers, one wake a batch, the rest woken by those that leave
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
                    while let Popped::Work(n, _) = queue.pop(&parker) {
                        queue.before_blocking(0);
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

/// Events that a test sends; a worker that waits for them says so.
#[derive(Debug)]
struct Sent {
    ready: Mutex<Receiver<Option<u32>>>,
    send: Sender<Option<u32>>,
    waits: Sender<&'static str>,
}

impl Events<u32> for Sent {
    fn wait<'q>(&self, queue: &'q Queue<u32>) -> io::Result<Polled<'q, u32>> {
        self.waits.send("waits").unwrap();
        let first = lock(&self.ready).recv().unwrap();
        let more = std::iter::from_fn(|| lock(&self.ready).try_recv().ok());
        Ok(queue.end_poll(std::iter::once(first).chain(more).flatten()))
    }

    fn interrupt(&self) {
        self.send.send(None).unwrap();
    }

    fn request_watch(&self) {
        self.waits.send("watch").unwrap();
    }
}

/// A queue of `workers` on one core with events, and what is said of these.
fn with_events(workers: usize) -> (Arc<Queue<u32>>, Sender<Option<u32>>, Receiver<&'static str>) {
    let (send, ready) = mpsc::channel();
    let (waits, said) = mpsc::channel();
    let events = Sent { ready: Mutex::new(ready), send: send.clone(), waits };
    let queue = Queue::new(workers, 1).with_events(Box::new(events));
    queue.lock().cores = 1;
    (Arc::new(queue), send, said)
}

fn worker(queue: &Arc<Queue<u32>>, index: usize, done: &Sender<u32>) -> thread::JoinHandle<()> {
    let (queue, done) = (Arc::clone(queue), done.clone());
    let work = move || {
        let parker = Parker::new(index);
        while let Some((n, _)) = pop(&queue, &parker) {
            done.send(n).unwrap();
        }
    };
    thread::Builder::new().spawn(work).unwrap()
}

#[test]
fn a_push_wakes_the_worker_that_waits_for_events() {
    let (queue, send, said) = with_events(2);
    let (done, results) = mpsc::channel();
    let first = worker(&queue, 0, &done);
    assert_eq!(said.recv(), Ok("waits"));
    assert!(queue.is_polled());
    send.send(Some(1)).unwrap();
    assert_eq!(said.recv(), Ok("watch"), "nobody waits while it works");
    assert_eq!((results.recv(), said.recv()), (Ok(1), Ok("waits")));
    queue.push(&mut vec![2]);
    assert_eq!((results.recv(), said.recv()), (Ok(2), Ok("waits")), "it is watched already");
    let second = worker(&queue, 1, &done);
    while queue.lock().sleepers.is_empty() {
        thread::yield_now();
    }
    queue.close();
    first.join().unwrap();
    second.join().unwrap();
    assert_eq!(queue.lock().polling, 0);
    assert!(said.try_recv().is_err() && results.try_recv().is_err());
}

#[test]
fn ready_work_is_done_in_order_and_the_rest_is_watched() {
    let (queue, send, said) = with_events(1);
    let (done, results) = mpsc::channel();
    (1..=3).for_each(|n| send.send(Some(n)).unwrap());
    let worker = worker(&queue, 0, &done);
    assert_eq!(results.iter().take(3).collect::<Vec<_>>(), [1, 2, 3]);
    let watched: Vec<_> = said.iter().take(3).collect();
    assert_eq!(watched, ["waits", "watch", "waits"], "once for all of them");
    queue.close();
    worker.join().unwrap();
}

#[test]
fn an_idle_worker_answers_a_probe_and_a_busy_pool_gives_it_back() {
    let (polls, _send, _said) = with_events(1);
    for queue in [polls, Arc::new(Queue::new(1, 1))] {
        assert!(queue.probe(Probe(Box::new(|| ()))).is_err());
        let (done, _results) = mpsc::channel();
        let worker = worker(&queue, 0, &done);
        let (say, received) = mpsc::channel();
        let mut probe = Probe(Box::new(move || say.send(()).unwrap()));
        while let Err(back) = queue.probe(probe) {
            probe = back;
            thread::yield_now();
        }
        received.recv().unwrap();
        queue.close();
        worker.join().unwrap();
    }
}
