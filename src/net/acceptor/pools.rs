//! The pools of workers, as the acceptor sees them: what it queues for each, and whether queued work is taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::busy_pools::BusyLog;
use crate::net::connection::Ready;
use crate::net::scheduler::policy::PoolWatch;
use crate::net::scheduler::queue::{Backlog, Queue};

/// Which workers serve which listeners.
pub(crate) struct PoolPlan {
    /// How many workers each pool has.
    pub(crate) workers: Vec<usize>,
    /// The pool of each handler.
    pub(crate) of_handler: Vec<usize>,
}

pub(super) struct Pools<P>(Vec<PoolQueue<P>>);

struct PoolQueue<P> {
    queue: Arc<Queue<Ready<P>>>,
    /// The connections to queue.
    batch: Vec<Ready<P>>,
    watchdog: PoolWatch,
    /// Whether to look again soon.
    watched: bool,
    /// Events were left when some were collected.
    is_unfinished: bool,
    /// Whether a worker is free, if that was asked since the last batch was pushed.
    has_free_worker: Option<bool>,
    busy_log: BusyLog,
}

impl<P> Pools<P> {
    pub(super) fn new(queues: Vec<Arc<Queue<Ready<P>>>>) -> Pools<P> {
        let pool = |queue| PoolQueue {
            queue,
            batch: Vec::new(),
            watchdog: PoolWatch::new(Instant::now()),
            watched: false,
            is_unfinished: false,
            has_free_worker: None,
            busy_log: BusyLog::default(),
        };
        Pools(queues.into_iter().map(pool).collect())
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = &Arc<Queue<Ready<P>>>> {
        self.0.iter().map(|pool| &pool.queue)
    }

    /// Connections to queue with the pool's next batch.
    pub(super) fn add(&mut self, pool: usize, ready: Ready<P>) {
        if let Some(pool) = self.0.get_mut(pool) {
            pool.batch.push(ready);
        }
    }

    pub(super) fn push_batches(&mut self) {
        for pool in &mut self.0 {
            pool.queue.push(&mut pool.batch);
            pool.has_free_worker = None;
        }
    }

    /// Looks at a pool, and wakes the workers that it needs. True when events are to be collected, for which no worker
    /// waits.
    pub(super) fn look(&mut self, pool: usize, now: Instant) -> bool {
        let Some(pool) = self.0.get_mut(pool) else { return false };
        let decision = pool.queue.look(&mut pool.watchdog, now);
        let unfinished = std::mem::take(&mut pool.is_unfinished);
        pool.watched = decision.watch;
        decision.collect || (unfinished && !pool.queue.is_polled())
    }

    /// Whether to look again soon.
    pub(super) fn are_watched(&self) -> bool {
        self.0.iter().any(|pool| pool.watched || pool.is_unfinished)
    }

    pub(super) fn set_unfinished(&mut self, pool: usize, is_unfinished: bool) {
        if let Some(pool) = self.0.get_mut(pool) {
            pool.is_unfinished = is_unfinished;
        }
    }

    /// Whether a worker of each pool waits for events.
    pub(super) fn are_polled(&self) -> bool {
        self.0.iter().all(|pool| pool.queue.is_polled())
    }

    /// The pools whose workers have all been busy for long while connections wait, if the log is to say so now.
    pub(super) fn busy_for_long(
        &mut self,
        queue_wait: Duration,
        now: Instant,
    ) -> impl Iterator<Item = (usize, Backlog)> {
        self.0.iter_mut().enumerate().filter_map(move |(index, pool)| {
            let backlog = pool.queue.backlog(now)?;
            pool.busy_log.is_due(backlog, queue_wait, now).then_some((index, backlog))
        })
    }

    /// Whether a worker of that pool is free, or on its way. The queue is asked once for each batch: what is added to a batch
    /// changes nothing before it is pushed.
    pub(super) fn has_free_worker(&mut self, pool: usize) -> bool {
        let Some(pool) = self.0.get_mut(pool) else { return false };
        *pool.has_free_worker.get_or_insert_with(|| pool.queue.has_free_worker())
    }

    /// Whether a worker of that pool waits for events.
    pub(super) fn is_polled(&self, pool: usize) -> bool {
        self.0.get(pool).is_some_and(|pool| pool.queue.is_polled())
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}
