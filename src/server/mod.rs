//! The HTTP server: its configuration, handlers and workers. `launch` starts and ends it.

pub(crate) mod admin;
pub(crate) mod assembly;
pub(crate) mod handle;
pub(crate) mod launch;
pub(crate) mod listen_config;
pub(crate) mod stream_server;
#[cfg(feature = "tiny_http")]
pub(crate) mod tiny_http;

use std::any::Any;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::base::budget::Budget;
use crate::base::error::Error;
use crate::base::limits::{Limits, Timeouts};
use crate::base::log::{error, warn};
use crate::base::panic::panic_text;
use crate::base::status::Stats;
use crate::base::sync::lock;
use crate::http::exchange::detached::Detached;
use crate::http::exchange::{
    self, Common, CurrentRequest, HandlerBox, ListenerHandler, Progress, Stores, WorkerState,
};
use crate::net::acceptor::pool_events;
use crate::net::connection::Ready;
use crate::net::listener::ListenerConfig;
use crate::net::scheduler::latency::HandlerLatency;
use crate::net::scheduler::pool::{Init, Pool, PoolConfig};
use crate::net::scheduler::queue::Queue;
use crate::process::config::ProcessConfig;
use crate::server::assembly::Staff;
use crate::server::handle::Handle;
use crate::server::launch::{Business, Ground, Launch, Plan, PoolPlan, Running, Works};
use crate::server::listen_config::Listen;
use crate::web::handler::{Handler, verify};
use crate::web::per_worker::PerWorker;

/// The time for workers to drop their values, which may belong to the program, at the end.
const LAST_DROPS: Duration = Duration::from_secs(5);
/// With more, a new thread may get no memory map for its stack, which ends the process.
const MOST_WORKERS: usize = 10_000;
/// With less the first call of a handler may overflow it, which ends the process.
const LEAST_STACK: usize = 64 << 10;
/// Threads of workers block in handlers: a few for each core, and never very few.
const DEFAULT_WORKERS: usize = 32;

/// A server, to be configured and run.
///
/// ```no_run
/// use heirloom::prelude::*;
///
/// fn main() -> Result<(), heirloom::Error> {
///     let router = Router::new().get("/ok", |_: Request| "ok\n");
///     Server::new(router).listen("127.0.0.1:8001").workers(8).serve()
/// }
/// ```
pub struct Server {
    handler: Arc<dyn Handler>,
    listen: Vec<Listen>,
    admin: Vec<String>,
    workers: usize,
    temp_dir: Option<PathBuf>,
    stack_bytes: Option<usize>,
    per_worker: Vec<Init>,
    launch: Launch,
}

impl Server {
    /// A server for `handler`: a closure, or a [`Router`](crate::Router).
    pub fn new(handler: impl Handler) -> Server {
        Server {
            handler: Arc::new(handler),
            listen: Vec::new(),
            admin: Vec::new(),
            workers: DEFAULT_WORKERS,
            temp_dir: None,
            stack_bytes: None,
            per_worker: Vec::new(),
            launch: Launch::default(),
        }
    }

    /// Adds a listener: `ADDRESS:PORT`, `HOST:PORT` or `unix:PATH`; or a [`Listen`], which may speak TLS and have its
    /// own handler, workers, backlog and more. Port 0 takes a free one, which later generations keep.
    ///
    /// ```no_run
    /// # use heirloom::prelude::*;
    /// # fn main() -> Result<(), heirloom::Error> {
    /// # let (site, office) = (Router::new(), Router::new());
    /// Server::new(site)
    ///     .listen("0.0.0.0:8001")
    ///     .listen("unix:/run/app/app.sock")
    ///     .listen(Listen::new("127.0.0.1:8002").handler(office))
    ///     .serve()
    /// # }
    /// ```
    ///
    /// The text is the listener's name at a handover: a successor that is configured with the same text, or with the
    /// same address in another spelling, inherits the socket.
    #[must_use]
    pub fn listen(mut self, listen: impl Into<Listen>) -> Server {
        self.listen.push(listen.into());
        self
    }

    /// Adds a listener for operators, with `/healthz`, `/readyz`, `/metrics` and `/status`, and a
    /// worker of its own: it answers while all others are in handlers.
    #[must_use]
    pub fn admin(mut self, name: impl Into<String>) -> Server {
        self.admin.push(name.into());
        self
    }

    /// The number of requests handled at once, each on a thread that may block. Default 32; at most 10,000, including workers
    /// of single listeners.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Server {
        self.workers = workers;
        self
    }

    /// Bytes of stack for each worker, at least 64 KiB. Default: std's, 2 MiB.
    #[must_use]
    pub fn stack_bytes(mut self, bytes: usize) -> Server {
        self.stack_bytes = Some(bytes);
        self
    }

    /// Creates a value of `values` on the thread of each worker, after [`before_ready`](ProcessConfig::before_ready) and before
    /// this generation reports that it is prepared. A failure is therefore an error of [`Server::serve`] that names the value
    /// and the reason, and at a handover the predecessor continues to serve. The worker of [`Server::admin`] has none.
    ///
    /// Several are created in the order in which they are given. In a successor all of this happens before it acquires what
    /// is [exclusive](ProcessConfig::exclusive).
    #[must_use]
    pub fn per_worker<T: 'static>(mut self, values: &PerWorker<T>) -> Server {
        let values = values.clone();
        self.per_worker.push(Arc::new(move || values.begin()));
        self
    }

    /// The directory for request bodies that are too long for memory, in unlinked files. Default: `$TMPDIR`, or /tmp. On a
    /// tmpfs they are in memory nevertheless.
    #[must_use]
    pub fn temp_dir(mut self, folder: impl Into<PathBuf>) -> Server {
        self.temp_dir = Some(folder.into());
        self
    }

    /// Sizes and counts that bound the server.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Server {
        self.launch.limits = limits;
        self
    }

    /// Durations that bound the server.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Server {
        self.launch.timeouts = timeouts;
        self
    }

    /// How the process starts, hands over and ends, with the program's own hooks.
    #[must_use]
    pub fn process(mut self, process: ProcessConfig) -> Server {
        self.launch.process = process;
        self
    }

    /// Makes `handle` control this server.
    #[must_use]
    pub fn with_handle(mut self, handle: Handle) -> Server {
        self.launch.handle = handle;
        self
    }

    /// Controls the server from other threads, before and while it serves.
    pub fn handle(&self) -> Handle {
        self.launch.handle.clone()
    }

    /// Serves until the process should exit: after a stop, or when a successor has taken over and all requests in flight are
    /// done. Binds the listeners or inherits them from a predecessor, and handles HUP, TERM, INT, QUIT, USR1 and USR2.
    ///
    /// # Errors
    /// When it can't start, when requests were cut at the end of a drain
    /// ([`ErrorKind::Aborted`](crate::ErrorKind::Aborted)), or when this generation was rolled back. A process serves once with
    /// signals: a second call is an error ([`Server::spawn`] has no such limit).
    pub fn serve(self) -> Result<(), Error> {
        launch::serve(self)
    }

    /// Starts serving in the background, without signals and without handovers: for tests, and for
    /// programs that only want the HTTP server.
    /// Any number of them may run in one process, also beside one that serves with signals.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// use std::io::{Read, Write};
    ///
    /// let server = Server::new(|_: Request| "ok\n").listen("127.0.0.1:0").spawn().unwrap();
    /// let mut client = std::net::TcpStream::connect(server.addresses()[0]).unwrap();
    /// client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    /// let mut answer = String::new();
    /// client.read_to_string(&mut answer).unwrap();
    /// assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok\n"));
    /// // Or drop it: it completes its requests.
    /// server.stop().unwrap();
    /// ```
    ///
    /// # Errors
    /// When it can't start.
    pub fn spawn(self) -> Result<Running, Error> {
        launch::spawn(self)
    }
}

impl Business for Server {
    type Progress = Progress;

    fn launch(&mut self) -> &mut Launch {
        &mut self.launch
    }

    /// ListenerHandler 0 is the server's own handler, the next ones those of listeners with handlers or workers of their own,
    /// the last the admin's. The pools are in the same order.
    fn plan(&mut self) -> Result<Plan, Error> {
        self.check()?;
        let mut pools = PoolPlan { workers: vec![self.shared_workers()], of_site: vec![0] };
        let mut listen = Vec::new();
        for one in &self.listen {
            let site = if one.has_own_site() { pools.of_site.len() } else { 0 };
            if one.has_own_site() {
                pools.of_site.push(if one.workers.is_some() { pools.workers.len() } else { 0 });
                pools.workers.extend(one.workers);
            }
            listen.push(one.config(site));
        }
        if !self.admin.is_empty() {
            let site = pools.of_site.len();
            let admin =
                |name: &String| ListenerConfig { reserved: true, ..ListenerConfig::new(name.clone(), site) };
            listen.extend(self.admin.iter().map(admin));
            pools.of_site.push(pools.workers.len());
            pools.workers.push(1);
        }
        #[cfg(feature = "tls")]
        self.listen.iter().try_for_each(Listen::reads_certificates)?;
        Ok(Plan { listen, pools })
    }

    fn start(self, ground: &Ground<Progress>) -> Result<Works<Progress>, Error> {
        let site = |handler| ListenerHandler { handler: HandlerBox(handler), latency: HandlerLatency::new() };
        let (begins, stack_bytes) = (self.per_worker.clone(), self.stack_bytes);
        let init: Option<Init> = (!begins.is_empty())
            .then(|| Arc::new(move || begins.iter().try_for_each(|begin| begin())) as Init);
        let pool = |name, suffix, count, init| PoolConfig { name, suffix, count, stack_bytes, init };
        let (shared, workers) = (Arc::clone(&self.handler), self.shared_workers());
        let mut sites = vec![site(Arc::clone(&shared))];
        let mut lanes = vec![pool("heirloom-worker", String::new(), workers, init.clone())];
        for listen in self.listen.into_iter().filter(Listen::has_own_site) {
            if let Some(count) = listen.workers {
                lanes.push(pool("worker", listen.mark(), count, init.clone()));
            }
            sites.push(site(listen.handler.unwrap_or_else(|| Arc::clone(&shared))));
        }
        if !self.admin.is_empty() {
            sites.push(site(Arc::new(admin::routes(&ground.handle))));
            lanes.push(pool("heirloom-admin", String::new(), 1, None));
        }
        let (limits, all_counters) = (&ground.limits, &ground.handle.shared.all_counters);
        let detached = Arc::new(Detached::new(
            limits.detached_threads,
            ground.descriptors.clone(),
            all_counters.register(),
        ));
        let memory = Budget::new(limits.buffered_bytes);
        let disk = Budget::new(limits.temporary_bytes);
        let common = Arc::new(Common {
            sites,
            parking: Arc::clone(&ground.parking),
            limits: limits.clone(),
            timeouts: ground.timeouts.clone(),
            stores: Stores::new(memory.clone(), disk.clone(), ground.descriptors.clone(), self.temp_dir),
            phase: ground.handle.shared.phase.clone(),
            wait_group: ground.wait_group.clone(),
            detached: Arc::clone(&detached),
        });

        let mut pools = Vec::new();
        let mut queues = Vec::new();
        let mut current_requests = Vec::new();
        for (lane, places) in lanes.into_iter().enumerate() {
            let count = places.count;
            let permits = (count.saturating_mul(limits.streaming_percent.into()) / 100).max(1);
            let events = pool_events(&ground.parking, lane);
            let queue = Arc::new(Queue::new(count, permits).with_events(events));
            let of_pool: Vec<Arc<CurrentRequest>> = (0..count).map(|_| Arc::default()).collect();
            current_requests.extend(of_pool.iter().cloned());
            let (common, of_queue, all_counters) =
                (Arc::clone(&common), Arc::clone(&queue), all_counters.clone());
            let of_the_dead = all_counters.clone();
            let make = move |index: usize| {
                let wait_group = common.wait_group.on_own_line();
                let current_request = of_pool.get(index).cloned().unwrap_or_default();
                let mut worker =
                    WorkerState::new(index, all_counters.register(), current_request, wait_group);
                let (common, queue) = (Arc::clone(&common), Arc::clone(&of_queue));
                move |ready: Ready<Progress>, taken| {
                    exchange::serve(ready, taken, &mut worker, &common, &queue)
                }
            };
            let died = move |worker: &str, panic: &(dyn Any + Send)| {
                error!("{worker} died and is replaced: {}", panic_text(panic));
                // Counters have one writer; this is rare enough for separate ones.
                of_the_dead.register().worker_replaced();
            };
            match Pool::start(places, Arc::clone(&queue), make, died) {
                Ok(pool) => pools.push(pool),
                Err(e) => {
                    pools.into_iter().for_each(Pool::abandon);
                    return Err(e);
                }
            }
            queues.push(queue);
        }
        let workers = Workers { current_requests, pools: Mutex::new(pools), detached, memory, disk };
        Ok(Works { queues, busy: Box::new(exchange::overloaded()), staff: Box::new(workers) })
    }
}

impl Server {
    fn check(&self) -> Result<(), Error> {
        let config = |text: String| Err(Error::config(text));
        if !(1..=MOST_WORKERS).contains(&self.workers) {
            let workers = self.workers;
            return config(format!("a server needs 1 to {MOST_WORKERS} workers: Server::workers({workers})"));
        }
        if let Some(bytes) = self.stack_bytes.filter(|bytes| *bytes < LEAST_STACK) {
            let text =
                format!("a worker needs at least {LEAST_STACK} bytes of stack: Server::stack_bytes({bytes})");
            return config(text);
        }
        if let Err(text) = verify(&*self.handler) {
            return config(text);
        }
        self.listen.iter().try_for_each(Listen::check)?;
        let own = self.listen.iter().filter_map(|one| one.workers);
        let all = own.fold(self.shared_workers(), usize::saturating_add);
        if all > MOST_WORKERS {
            return config(format!("too many workers over all listeners: {all}, at most {MOST_WORKERS}"));
        }
        Ok(())
    }

    /// None if each listener has its own.
    fn shared_workers(&self) -> usize {
        let all_have_own = !self.listen.is_empty() && self.listen.iter().all(|one| one.workers.is_some());
        if all_have_own { 0 } else { self.workers }
    }
}

/// The workers of all pools.
#[derive(Debug)]
struct Workers {
    /// One for each worker.
    current_requests: Vec<Arc<CurrentRequest>>,
    pools: Mutex<Vec<Pool<Ready<Progress>>>>,
    detached: Arc<Detached>,
    memory: Budget,
    disk: Budget,
}

impl Staff for Workers {
    fn add_to(&self, stats: &mut Stats) {
        stats.workers = self.current_requests.len() as u64;
        stats.buffered_bytes = self.memory.held();
        stats.temporary_bytes = self.disk.held();
        stats.detached = self.detached.count() as u64;
    }

    fn in_flight(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.current_requests.iter().filter_map(|current_request| current_request.read()).collect();
        lines.extend(self.detached.in_flight());
        lines
    }

    fn unnamed(&self) -> &'static str {
        "a request whose client is slow to send or to read"
    }

    fn drain(&self) {
        self.detached.drain();
    }

    /// Workers that are in handlers are left behind: the process ends meanwhile.
    fn finish(&self, _: &mut dyn FnMut()) -> Result<(), Error> {
        let idle = self.current_requests.iter().all(|current_request| current_request.read().is_none());
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

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listen: Vec<&str> = self.listen.iter().map(Listen::name).collect();
        f.debug_struct("Server")
            .field("listen", &listen)
            .field("admin", &self.admin)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}
