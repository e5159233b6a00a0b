//! When a worker is woken, when one goes to sleep although work waits, and when the acceptor watches a pool. Pure: a
//! snapshot of a pool and what happens to it give a decision; `queue` carries it out.
//!
//! **There is one way of waiting.** Each pool has an epoll with all its parked connections and its listeners: a new
//! connection is an event like others (`acceptor::accepting`).
//!
//! - A worker that finds the queue empty waits there: it *polls*. At most one worker for each core does so; the others *sleep*.
//! - A worker that finds several connections ready queues them and takes the first. So an ordinary request costs no thread
//!   switch and no futex.
//! - Before it calls a handler that is known to block, it wakes another worker, unless one polls and nothing is queued.
//! - The acceptor waits for none of these events. It *watches* a busy pool: each millisecond it looks whether all workers are
//!   in handlers, and wakes one. Where none is left to wake it collects the events itself, so that each connection has its
//!   place in the queue and its time there is limited.
//!
//! `queue/loom_tests.rs` runs these steps (poll, push, sleep, wake, interrupt, close, the call of a handler that blocks) in every
//! order, `slots/loom_tests.rs` what an event and a worker that parks do to a connection.
//!
//! **Why a poller for each core, and not one leader.** While the only leader is in a handler that blocks by surprise, no
//! thread sees an event until the next look, a millisecond later; where another worker polls, it is seen at once. On one
//! core both are the same. One leader (a condition in `may_poll`) and this in turns, 5 to 7 rounds of a second, on two cores at a load
//! average of 12, not pinned: CPU for a request 0.88 of this with one connection, 0.91 with 16 and 0.97 with 64, and
//! preemptions 1.7, 2.7 and 5.7 times as many. That is to be repeated on an idle machine before it is changed.
//!
//! **Why the acceptor does not wait for events** (decided on 2026-11-29). Before, it did so for an idle pool, and passed this
//! to the workers of a busy one. Both were built as `kitchen_sink --workers 16` (release) and run in turns, 5 to 9 rounds
//! of a second each, on two cores that other programs used too; `wrk` with one thread, the server on one core and the
//! client on the other. Medians of the ratios new to old of each round:
//!
//! | scenario | CPU for a request | p99 |
//! | --- | --- | --- |
//! | 1 connection | 1.01 | 0.92 |
//! | 16, in two runs | 1.02, 1.02 | 0.95, 1.08 |
//! | 64, in two runs | 1.02, 0.97 | 1.07, 1.15 |
//! | 1,000 | 1.00 | 0.99 |
//! | 16, a new connection for each request | 0.98 | 1.01 |
//! | 64, a handler that blocks 1 ms, in two runs | 1.10, 0.99 | 0.82, 0.90 |
//! | 50 requests/s on 20 connections | 1.02 | 0.62 |
//! | 1, 64 and a new connection for each request, not pinned | 0.97, 1.01, 1.02 | 1.73, 0.84, 1.06 |
//! | 50 requests/s on 20 connections, not pinned | 0.65 | 0.74 |
//!
//! System calls for a request (`strace -c -f`) are as before with 1 connection (3.10) and 16 (2.11); with 50 requests/s they
//! are 8.1 instead of 11.8, and on two cores thread switches are 1.3 instead of 6.3. What it loses: where all workers are in
//! handlers for long, the acceptor sees events, and accepts new clients, up to 250 ms late, which moves a 503 for `queue_wait` by as much. No
//! worker could have served them meanwhile.
//!
//! **A batch wakes one worker, and looks bound the wait of the rest.** Bare prototypes with a fixed answer and 16 workers,
//! beside hyper with 64 connections: a wake for each connection 0.94 of its requests/s, for each batch 0.97, only if no
//! worker was awake 0.83. Behind eight handlers that block by surprise a fast request waited 4.8 ms at most with the
//! looks, and 800 to 4,000 ms without.
//!
//! **A worker is woken only where it helps.** More runnable workers than cores take turns on them, and each that is
//! preempted keeps the request that it took for as long as the others have their time slices: that was most of the
//! p99. So while as many workers as there are cores run (have taken work within 0.2 ms) none is woken, and a worker that
//! comes for work sleeps if as many others as there are cores have taken something since it last did. Workers in
//! handlers that are known to block do not count. Both rules need the acceptor's watch: where all those that run block
//! by surprise, it wakes others within 1 ms. Without the watch each push wakes a worker.
//!
//! **A handler that computes is not a handler that blocks** (`latency` distinguishes them). Before one that blocks another
//! worker is woken if work waits or no thread would see new events. Before one that computes that would only make two
//! workers take turns, so another is woken only if a core is left: with 32 workers and a handler that computes
//! 70 µs on one core, the p99 was 20 times that of hyper before, and equals it now.
//!
//! | event | cores | awake | sleeping | polling | waiting | running | watched | decision |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | pushed | 2 | 2 | 30 | 0 | 9 | 2 | no | wake |
//! | pushed | 2 | 2 | 30 | 0 | 9 | 2 | yes | – |
//! | pushed | 2 | 2 | 30 | 1 | 9 | 1 | yes | wake |
//! | polled | 2 | 1 | 31 | 0 | 9 | 1 | yes | wake |
//! | polled | 2 | 1 | 31 | 0 | 1 | 1 | yes | – |
//! | polled | 2 | 2 | 30 | 0 | 9 | 1 | yes | – |
//! | before blocking | 2 | 2 | 30 | 0 | 0 | 2 | yes | wake |
//! | before blocking | 2 | 2 | 30 | 1 | 0 | 1 | yes | – |
//! | before blocking | 2 | 2 | 30 | 1 | 1 | 2 | yes | wake |
//! | before computing | 2 | 2 | 30 | 1 | 0 | 1 | no | – |
//! | before computing | 2 | 2 | 30 | 0 | 1 | 2 | yes | – |
//! | before computing | 2 | 2 | 30 | 0 | 1 | 1 | yes | wake |
//! | before computing | 2 | 2 | 30 | 0 | 0 | 2 | no | wake |
//! | comes for work | 2 | 3 | 29 | 0 | 9 | 2 | yes | sleep |
//! | comes for work | 2 | 3 | 29 | 0 | 9 | 1 | yes | take |
//! | comes for work | 2 | 2 | 30 | 0 | 9 | 2 | yes | take |
//! | comes for work | 2 | 3 | 29 | 0 | 9 | 2 | no | take |
//! | finds nothing | 2 | 2 | 30 | 1 | 0 | 0 | no | poll |
//! | finds nothing | 2 | 3 | 29 | 2 | 0 | 0 | no | sleep |
//! | takes work | 2 | 2 | 30 | 1 | 0 | 0 | no | – |
//! | takes work | 2 | 2 | 30 | 1 | 1 | 0 | no | watch |
//! | takes work | 2 | 2 | 30 | 0 | 0 | 0 | no | watch |
//! | takes work | 2 | 2 | 30 | 0 | 9 | 0 | yes | – |
//!
//! (For "comes for work", "running" is the number of other workers that have taken something since this one last did.)
//!
//! **The watch.** A worker that takes work, and leaves other work or no worker that polls, requests it. The acceptor
//! ends it when no worker has taken or polled anything for 5 ms and nothing is left that it could wake one for. At each
//! look:
//!
//! - A front of the queue that has waited for 1 ms is stuck, and 1, 2, 4 ... workers are woken at successive looks; only
//!   one where some workers run, none while they run on all cores. The age counts, not whether the front has moved:
//!   each worker that is woken takes one piece of work, so it always has, and a queue behind handlers that
//!   block by surprise waited 17 to 25 ms.
//! - If no worker polls and none has done anything for 1 ms, all that are awake are in handlers: one is woken to poll.
//! - Where no worker has polled for 5 ms (all are in handlers, or busy with what they queue themselves), the acceptor
//!   collects the events, so that these connections have their place in the queue too. It also does so four times a
//!   second without a watch: the wait that `Timeouts::queue_wait` limits begins there.

use std::time::{Duration, Instant};

/// How often the acceptor looks at a pool that it watches, and how long the front of a queue waits before it is stuck.
pub(crate) const LOOK: Duration = Duration::from_millis(1);

/// [`LOOK`] minus a timer's granularity, so that this does not cost a whole look.
const NEARLY_A_LOOK: Duration = Duration::from_micros(875);

/// After so long without a worker that polls the acceptor collects events; after so long without progress it
/// no longer watches the pool.
const PAUSE: Duration = Duration::from_millis(5);

/// A worker that took work less than this ago runs: it is expected back soon.
pub(super) const RECENT: Duration = Duration::from_micros(200);

/// What a pool's workers do at one moment, as numbers.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Processors for these workers: as many of them as that do best at once while no handler blocks.
    pub(super) cores: usize,
    /// Workers that do not sleep.
    pub(super) awake: usize,
    pub(super) sleeping: usize,
    /// Workers that were woken and have not come yet: each takes work without being woken again.
    pub(super) waking: usize,
    /// Workers that wait for events.
    pub(super) polling: usize,
    /// Work in the queue.
    pub(super) waiting: usize,
    /// Whether the acceptor looks at this pool each [`LOOK`].
    pub(super) watched: bool,
}

/// After or before which another worker may have to be woken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueEvent {
    /// Work was queued by a thread that will not take it.
    Pushed,
    /// A worker has queued what it found, and takes the first of it.
    Polled,
    /// A worker is about to block for long.
    BeforeBlocking,
    /// A worker is about to compute for long, without leaving its core.
    BeforeComputing,
}

impl Snapshot {
    /// Whether a worker is woken. `running` counts those that took work a moment ago.
    pub(super) fn wakes(&self, event: QueueEvent, running: impl FnOnce() -> usize) -> bool {
        let is_needed = self.waiting > 0 || self.polling == 0;
        let has_core = || !self.watched || running() < self.cores;
        match event {
            QueueEvent::Pushed => has_core(),
            QueueEvent::Polled => self.waiting > 1 && self.awake < self.cores,
            QueueEvent::BeforeBlocking => is_needed,
            QueueEvent::BeforeComputing => is_needed && has_core(),
        }
    }

    /// Whether a worker that comes for work sleeps instead of taking any. `others` counts the workers that have taken
    /// something since it last did.
    pub(super) fn is_surplus(&self, others: impl FnOnce() -> usize) -> bool {
        self.watched && self.awake > self.cores && others() >= self.cores
    }

    /// Whether a worker that finds nothing in the queue waits for events instead of sleeping.
    pub(super) fn may_poll(&self) -> bool {
        self.polling < self.cores
    }

    /// Whether a worker that has just taken work requests the acceptor's watch for what it leaves.
    pub(super) fn needs_watch(&self) -> bool {
        !self.watched && (self.polling == 0 || self.waiting > 0)
    }

    /// Workers that can be woken.
    fn idle(&self) -> usize {
        self.sleeping.saturating_add(self.polling)
    }
}

/// What workers have done so far. It differs from an earlier value if they have done something since.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PoolProgress {
    /// How often one took work.
    pub(super) taken: usize,
    /// How often one came back from waiting for events.
    pub(super) polled: usize,
}

/// What the acceptor sees when it looks at a pool.
#[derive(Clone, Copy)]
pub(super) struct Look {
    pub(super) snapshot: Snapshot,
    pub(super) progress: PoolProgress,
    /// 0 if nothing waits.
    pub(super) running: usize,
    /// How long the front of the queue has waited.
    pub(super) front_waits: Option<Duration>,
    pub(super) now: Instant,
}

/// What follows from a look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// So many workers are woken.
    pub(super) wake: usize,
    /// The acceptor collects events, as no worker does.
    pub(crate) collect: bool,
    /// It looks again after [`LOOK`].
    pub(crate) watch: bool,
}

/// What the acceptor remembers of its looks at a pool.
pub(crate) struct PoolWatch {
    /// How many workers the next look wakes for a front that is stuck.
    next: usize,
    progress: PoolProgress,
    /// When it last saw progress.
    at: Instant,
    /// When it last saw that a worker polled or had polled, or collected the events itself.
    polled: Instant,
}

impl PoolWatch {
    pub(crate) fn new(now: Instant) -> PoolWatch {
        PoolWatch { next: 1, progress: PoolProgress::default(), at: now, polled: now }
    }

    pub(super) fn decide(&mut self, look: &Look) -> Decision {
        let Look { snapshot, progress, now, .. } = look;
        let collect = self.has_to_collect(look);
        if *progress != self.progress {
            (self.progress, self.at) = (*progress, *now);
        }
        let still = now.saturating_duration_since(self.at);
        let is_behind = snapshot.waiting > snapshot.waking && snapshot.idle() > 0;
        // No thread would see new events, and there is a worker that can.
        let is_blind = snapshot.polling == 0 && snapshot.sleeping > 0;
        let mut wake = self.wakes_for_front(look, is_behind);
        if is_blind && snapshot.waking == 0 && still >= NEARLY_A_LOOK {
            wake = wake.max(1);
        }
        Decision { wake, collect, watch: is_behind || is_blind || still < PAUSE }
    }

    fn has_to_collect(&mut self, look: &Look) -> bool {
        let polls = look.snapshot.polling > 0 || look.progress.polled != self.progress.polled;
        let collects = !polls && look.now.saturating_duration_since(self.polled) >= PAUSE;
        if polls || collects {
            self.polled = look.now;
        }
        collects
    }

    fn wakes_for_front(&mut self, look: &Look, is_behind: bool) -> usize {
        if !is_behind {
            self.next = 1;
            return 0;
        }
        let is_stuck = look.front_waits.is_some_and(|waits| waits >= NEARLY_A_LOOK);
        match look.running {
            _ if !is_stuck => 0,
            0 => {
                let wakes = self.next.min(look.snapshot.idle());
                self.next = wakes.saturating_mul(2);
                wakes
            }
            running if running < look.snapshot.cores => 1,
            // The queue is long, not stuck: another worker would only take turns with those that run.
            _ => {
                self.next = (self.next / 2).max(1);
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [(&str, QueueEvent); 4] = [
        ("pushed", QueueEvent::Pushed),
        ("polled", QueueEvent::Polled),
        ("before blocking", QueueEvent::BeforeBlocking),
        ("before computing", QueueEvent::BeforeComputing),
    ];

    /// The rows of the table at the head of this file, as cells.
    fn rows() -> Vec<Vec<&'static str>> {
        let lines = include_str!("policy.rs").lines().take_while(|line| line.starts_with("//!"));
        let rows = lines.filter_map(|line| line.strip_prefix("//! | ")?.strip_suffix(" |"));
        rows.map(|row| row.split(" | ").collect()).skip_while(|row: &Vec<_>| row[0] != "event").collect()
    }

    fn decision(event: &str, snapshot: &Snapshot, running: usize) -> &'static str {
        let choose = |is: bool, yes, no| if is { yes } else { no };
        match event {
            "comes for work" => choose(snapshot.is_surplus(|| running), "sleep", "take"),
            "finds nothing" => choose(snapshot.may_poll(), "poll", "sleep"),
            "takes work" => choose(snapshot.needs_watch(), "watch", "–"),
            _ => {
                let event = EVENTS.iter().find(|(name, _)| *name == event).expect(event).1;
                choose(snapshot.wakes(event, || running), "wake", "–")
            }
        }
    }

    #[test]
    fn the_table_at_the_head_of_the_file_is_the_code() {
        let rows = rows();
        assert_eq!(rows.len(), 25, "a heading, a line, and the cases");
        for row in &rows[2..] {
            let numbers: Vec<usize> = row[1..7].iter().map(|cell| cell.parse().unwrap()).collect();
            let [cores, awake, sleeping, polling, waiting, running] = numbers[..] else { panic!("{row:?}") };
            let watched = row[7] == "yes";
            let snapshot = Snapshot { cores, awake, sleeping, waking: 0, polling, waiting, watched };
            assert_eq!(decision(row[0], &snapshot, running), row[8], "{row:?}");
        }
    }

    /// A pool of 16 workers on two cores, and what a look at it decides.
    struct Pool {
        watchdog: PoolWatch,
        look: Look,
    }

    impl Pool {
        fn new() -> Pool {
            let now = Instant::now();
            let snapshot = Snapshot { cores: 2, ..Snapshot::default() };
            let look =
                Look { snapshot, progress: PoolProgress::default(), running: 0, front_waits: None, now };
            Pool { watchdog: PoolWatch::new(now), look }
        }

        fn after(&mut self, time: Duration, change: impl FnOnce(&mut Look)) -> Decision {
            self.look.now += time;
            change(&mut self.look);
            self.watchdog.decide(&self.look)
        }
    }

    #[test]
    fn a_stuck_front_wakes_workers_and_a_moving_queue_none() {
        // waiting, sleeping, waking, front in looks, running: wakes
        let cases = [
            ("an empty queue", [0, 16, 0, 0, 0], 0),
            ("stuck", [9, 16, 0, 1, 0], 1),
            ("still", [8, 15, 0, 1, 0], 2),
            ("still", [6, 13, 0, 1, 0], 4),
            ("no more sleep than that", [9, 3, 0, 1, 0], 3),
            ("all are awake: nobody to wake, and one at a time from then on", [9, 0, 0, 1, 0], 0),
            ("stuck", [9, 16, 0, 1, 0], 1),
            ("a fresh front", [9, 16, 0, 0, 0], 0),
            ("as many are waking as work waits", [2, 16, 2, 1, 0], 0),
            ("stuck again", [9, 16, 0, 1, 0], 1),
            ("others run, but not on all cores", [9, 15, 0, 1, 1], 1),
            ("a long queue, and work is done on all cores", [9, 15, 0, 1, 2], 0),
            ("stuck again", [9, 15, 0, 1, 0], 1),
            ("still", [9, 14, 0, 1, 0], 2),
            ("work is done on all cores again", [9, 12, 0, 1, 2], 0),
            ("stuck: half as many as would have been next", [9, 12, 0, 1, 0], 2),
            ("work is done on all cores", [9, 12, 0, 1, 2], 0),
            ("still", [9, 12, 0, 1, 2], 0),
            ("still", [9, 12, 0, 1, 2], 0),
            ("stuck: one at least", [9, 12, 0, 1, 0], 1),
        ];
        let mut pool = Pool::new();
        for (what, [waiting, sleeping, waking, front, running], wakes) in cases {
            let decision = pool.after(LOOK, |look| {
                let snapshot = &mut look.snapshot;
                (snapshot.waiting, snapshot.sleeping, snapshot.waking) = (waiting, sleeping, waking);
                look.front_waits = (waiting > 0).then(|| LOOK * u32::try_from(front).unwrap());
                look.running = running;
                look.progress.taken += 1;
            });
            assert_eq!(decision.wake, wakes, "{what}");
        }
    }

    #[test]
    fn when_all_awake_are_in_handlers_one_is_woken_to_poll() {
        let mut pool = Pool::new();
        let decision = pool.after(LOOK, |look| {
            look.progress.taken += 1;
            look.snapshot.sleeping = 14;
        });
        assert_eq!(decision, Decision { wake: 0, collect: false, watch: true }, "it took something");
        assert_eq!(pool.after(LOOK, |_| ()).wake, 1);
        assert_eq!(pool.after(LOOK, |look| look.snapshot.waking = 1).wake, 0, "it is on its way");
        let decision = pool.after(LOOK, |look| (look.snapshot.waking, look.snapshot.polling) = (0, 1));
        assert_eq!(decision, Decision { wake: 0, collect: false, watch: true });
    }

    #[test]
    fn a_timer_that_is_a_little_early_costs_no_look() {
        let mut pool = Pool::new();
        pool.after(LOOK, |look| {
            look.progress.taken += 1;
            look.snapshot.sleeping = 14;
        });
        assert_eq!(pool.after(NEARLY_A_LOOK, |_| ()).wake, 1, "all that are awake are in handlers");
        let decision = pool.after(LOOK, |look| {
            look.progress.taken += 1;
            (look.snapshot.polling, look.snapshot.waiting) = (1, 9);
            look.front_waits = Some(NEARLY_A_LOOK);
        });
        assert_eq!(decision.wake, 1, "the front is stuck");
    }

    #[test]
    fn events_are_collected_where_no_worker_has_polled_for_a_while() {
        let mut pool = Pool::new();
        let mut looks = |change: fn(&mut Look)| (1..=10).find(|_| pool.after(LOOK, change).collect);
        // All work at what they queue themselves, or are in handlers: each 5 ms.
        assert_eq!(looks(|look| look.progress.taken += 1), Some(5));
        assert_eq!(looks(|look| look.progress.taken += 1), Some(5));
        assert_eq!(looks(|_| ()), Some(5));
        assert_eq!(looks(|look| look.progress.polled += 1), None);
        assert_eq!(looks(|look| look.snapshot.polling = 1), None);
    }

    #[test]
    fn a_pool_is_watched_until_it_is_idle_or_all_are_in_handlers() {
        let mut pool = Pool::new();
        let mut looks = |change: fn(&mut Look)| (1..=10).find(|_| !pool.after(LOOK, change).watch);
        let idle = |look: &mut Look| (look.snapshot.sleeping, look.snapshot.polling) = (14, 2);
        assert_eq!(looks(idle), Some(5));
        assert_eq!(looks(|look| look.progress.polled += 1), None);
        assert_eq!(looks(|look| look.snapshot.polling = 0), None, "others sleep, and none polls");
        assert_eq!(looks(|look| (look.snapshot.polling, look.snapshot.waiting) = (1, 1)), None, "work waits");
        assert_eq!(looks(|look| look.snapshot.waking = 1), Some(1), "a worker comes for it");
        let all_away = |look: &mut Look| {
            let snapshot = &mut look.snapshot;
            (snapshot.sleeping, snapshot.polling, snapshot.waking) = (0, 0, 0);
        };
        assert_eq!(looks(all_away), Some(1), "nobody to wake");
    }
}
