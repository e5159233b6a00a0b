//! The workers of an HTTP server: their pools and queues, and how the control loop sees them.

use std::any::Any;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::base::budget::Budget;
use crate::base::contain_panic::panic_text;
use crate::base::error::Error;
use crate::base::file_budget::FileBudget;
use crate::base::history::millis;
use crate::base::limits::Limits;
use crate::base::log::{Escaped, error, warn};
use crate::base::order::greatest_first;
use crate::base::status::{AllCounters, InFlight, RunningHandler, Stats};
use crate::base::sync::lock;
use crate::http::exchange::deadline::Deadlines;
use crate::http::exchange::detached::Detached;
use crate::http::exchange::{self, Common, CurrentRequest, Progress, Stores, WorkerState};
use crate::net::acceptor::pool_events;
use crate::net::connection::Ready;
use crate::net::scheduler::pool::{Pool, PoolConfig};
use crate::net::scheduler::queue::Queue;
use crate::process::control::BusyPool;
use crate::server::assembly::Workers;
use litemap::LiteMap;

/// The time for workers to drop their values, which may belong to the program, at the end.
const LAST_DROPS: Duration = Duration::from_secs(5);

/// The budgets that all exchanges share.
pub(super) struct Budgets {
    memory: Budget,
    temporary: Budget,
}

impl Budgets {
    pub(super) fn new(limits: &Limits) -> Budgets {
        let (memory, temporary) = (Budget::new(limits.buffered_bytes), Budget::new(limits.temporary_bytes));
        Budgets { memory, temporary }
    }

    pub(super) fn stores(&self, descriptors: Budget, temp_dir: Option<PathBuf>) -> Stores {
        let files = FileBudget::new(descriptors, self.temporary.clone(), temp_dir);
        Stores { memory: self.memory.clone(), files: Arc::new(files) }
    }
}

pub(super) struct HttpWorkers {
    /// One for each worker, with the name of its thread.
    current_requests: Vec<(String, Arc<CurrentRequest>)>,
    /// The name of each pool's threads, and which of the workers are its own.
    names: Vec<(String, Range<usize>)>,
    /// The handlers belong to the workers, and are dropped with the last of them.
    common: Weak<Common>,
    pools: Mutex<Vec<Pool<Ready<Progress>>>>,
    detached: Arc<Detached>,
    deadlines: Arc<Deadlines>,
    budgets: Budgets,
}

type Queues = Vec<Arc<Queue<Ready<Progress>>>>;

impl HttpWorkers {
    /// Starts the threads of all pools. If one pool can't be started, those before it are abandoned.
    pub(super) fn start(
        common: Arc<Common>,
        all_counters: &AllCounters,
        budgets: Budgets,
        configs: Vec<PoolConfig>,
    ) -> Result<(Queues, HttpWorkers), Error> {
        let (mut queues, mut pools, mut current_requests) = (Vec::new(), Vec::new(), Vec::new());
        let mut names = Vec::new();
        for (index, config) in configs.into_iter().enumerate() {
            let count = config.count;
            let permits = (count.saturating_mul(common.limits.streaming_percent.into()) / 100).max(1);
            let events = pool_events(&common.parking, index);
            let queue = Arc::new(Queue::new(count, permits).with_events(events));
            let of_pool: Vec<Arc<CurrentRequest>> = (0..count).map(|_| Arc::default()).collect();
            let threads = (0..count).map(|index| config.thread_name(index));
            let first = current_requests.len();
            current_requests.extend(threads.zip(of_pool.iter().cloned()));
            names.push((config.threads_name(), first..current_requests.len()));
            match start_pool(config, &common, all_counters, &queue, of_pool) {
                Ok(pool) => pools.push(pool),
                Err(e) => {
                    pools.into_iter().for_each(Pool::abandon);
                    return Err(e);
                }
            }
            queues.push(queue);
        }
        let (pools, detached) = (Mutex::new(pools), Arc::clone(&common.detached));
        let deadlines = Arc::clone(&common.deadlines);
        let common = Arc::downgrade(&common);
        Ok((queues, HttpWorkers { current_requests, names, common, pools, detached, deadlines, budgets }))
    }
}

fn start_pool(
    config: PoolConfig,
    common: &Arc<Common>,
    all_counters: &AllCounters,
    queue: &Arc<Queue<Ready<Progress>>>,
    current_requests: Vec<Arc<CurrentRequest>>,
) -> Result<Pool<Ready<Progress>>, Error> {
    let (common, of_workers, counters) = (Arc::clone(common), Arc::clone(queue), all_counters.clone());
    let make = move |index: usize| {
        let wait_group = common.wait_group.on_own_line();
        let current_request = current_requests.get(index).cloned().unwrap_or_default();
        let recorder = counters.requests.recorder();
        let mut worker = WorkerState::new(index, counters.register(), current_request, wait_group, recorder);
        let (common, queue) = (Arc::clone(&common), Arc::clone(&of_workers));
        move |ready: Ready<Progress>, taken| exchange::serve(ready, taken, &mut worker, &common, &queue)
    };
    let counters = all_counters.clone();
    let died = move |worker: &str, panic: &(dyn Any + Send)| {
        error!("{worker} died and is replaced: {}", panic_text(panic));
        // Counters have one writer. A replacement is so rare that each may register its own.
        counters.register().worker_replaced();
    };
    Pool::start(config, Arc::clone(queue), make, died)
}

/// What a worker does that is in no handler.
const OTHER: &str = "no handler";
/// So many routes are named.
const NAMED: usize = 5;

/// The most frequent of these texts, with how often they occur: `6 in GET /a, 2 in GET /b`.
fn counted(texts: impl Iterator<Item = String>) -> String {
    let mut counts: LiteMap<String, usize> = LiteMap::new();
    for text in texts {
        let count = counts.entry(text).or_insert(0);
        *count = count.saturating_add(1);
    }
    let mut counts = greatest_first(counts.into_iter().collect(), |(_, count)| *count as u64);
    let others: usize = counts.split_off(counts.len().min(NAMED)).iter().map(|(_, count)| count).sum();
    let mut named: Vec<String> = counts.iter().map(|(text, count)| format!("{count} in {text}")).collect();
    if others > 0 {
        named.push(format!("{others} in others"));
    }
    named.join(", ")
}

impl Workers for HttpWorkers {
    fn add_to(&self, stats: &mut Stats) {
        stats.workers = self.current_requests.len() as u64;
        stats.buffered_bytes = self.budgets.memory.held();
        stats.temporary_bytes = self.budgets.temporary.held();
        (stats.buffered_bytes_limit, stats.temporary_bytes_limit) =
            (self.budgets.memory.limit(), self.budgets.temporary.limit());
        stats.detached = self.detached.count() as u64;
        stats.handlers_past_deadline = self.deadlines.past().len() as u64;
    }

    fn in_flight(&self) -> Vec<InFlight> {
        let handlers = self.current_requests.iter().filter_map(|(_, current_request)| current_request.get());
        let in_flight = |(what, age)| InFlight { what, place: ", in its handler", age: Some(age) };
        let mut all: Vec<InFlight> = handlers.map(in_flight).collect();
        all.extend(self.detached.in_flight());
        all
    }

    fn handlers(&self) -> Vec<RunningHandler> {
        let past = self.deadlines.past();
        let handler = |(thread, current_request): &(String, Arc<CurrentRequest>)| {
            let (what, age) = current_request.get()?;
            let handler = RunningHandler::new(&what, age, thread.clone());
            Some(RunningHandler { is_past_deadline: past.contains(thread), ..handler })
        };
        let mut all: Vec<RunningHandler> = self.current_requests.iter().filter_map(handler).collect();
        all.extend(self.detached.handlers());
        all
    }

    fn log_all_busy(&self, BusyPool { pool, connections, waits }: BusyPool) {
        let Some(common) = self.common.upgrade() else { return };
        let Some((name, workers)) = self.names.get(pool) else { return };
        let of_pool = self.current_requests.get(workers.clone()).unwrap_or_default();
        let route = |(_, request): &(String, Arc<CurrentRequest>)| request.route(&common.handlers);
        let routes = counted(of_pool.iter().map(|worker| route(worker).unwrap_or_else(|| OTHER.to_owned())));
        let count = of_pool.len();
        warn!(
            "all workers {name} are busy ({count}) while connections wait ({connections}, the first for {waits:.1?}): {routes}";
            pool:% = Escaped(name),
            connections = connections,
            duration_ms = millis(waits),
            routes:% = Escaped(&routes)
        );
    }

    fn unnamed(&self) -> &'static str {
        "a request whose client is slow to send or to read"
    }

    fn drain(&self) {
        self.detached.drain();
    }

    /// Workers that are in handlers are left behind: the process ends meanwhile.
    fn finish(&self, _: &mut dyn FnMut()) -> Result<(), Error> {
        let idle = self.current_requests.iter().all(|(_, current_request)| current_request.read().is_none());
        let pools = std::mem::take(&mut *lock(&self.pools));
        if idle {
            let until = Instant::now() + LAST_DROPS;
            let left = |pool: Pool<_>| !pool.finish(until.saturating_duration_since(Instant::now()));
            if pools.into_iter().map(left).fold(false, |any, left| any | left) {
                warn!("workers are left behind: dropping their values takes longer than {LAST_DROPS:?}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_routes_are_named() {
        let counted = |texts: &str| counted(texts.chars().map(|c| format!("GET /{c}")));
        assert_eq!(counted("bab"), "2 in GET /b, 1 in GET /a");
        let many = counted("abcdefghbcdefffg");
        assert!(
            many.starts_with("4 in GET /f, 2 in GET /b, 2 in GET /c") && many.ends_with(", 4 in others"),
            "{many}"
        );
        assert_eq!(counted(""), "");
    }
}
