//! The HTTP server as a program configures it: plain data until `serve`. `launch` starts and ends it, `http_workers` has
//! its threads.

#[cfg(feature = "admin")]
pub(crate) mod admin;
pub(crate) mod assembly;
mod control_socket;
mod descriptors;
pub(crate) mod handle;
mod http_workers;
pub(crate) mod launch;
pub(crate) mod listen_config;
#[cfg(feature = "stream_server")]
pub(crate) mod stream_server;
#[cfg(feature = "tiny_http")]
pub(crate) mod tiny_http;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::error::Error;
use crate::base::limits::{Limits, Timeouts};
#[cfg(feature = "admin")]
use crate::base::sync::lock;
use crate::http::exchange::deadline::Deadlines;
use crate::http::exchange::detached::Detached;
use crate::http::exchange::{self, Common, HandlerBox, ListenerHandler, Progress, StreamResumer};
#[cfg(feature = "admin")]
use crate::net::listener::ListenerConfig;
use crate::net::scheduler::latency::HandlerLatency;
use crate::net::scheduler::pool::{Init, PoolConfig};
use crate::process::config::ProcessConfig;
#[cfg(feature = "admin")]
use crate::server::admin::program::ProgramHooks;
use crate::server::handle::Handle;
use crate::server::http_workers::{Budgets, HttpWorkers};
use crate::server::launch::{Context, Launch, Plan, PoolPlan, RunningServer, Service, ServiceParts};
use crate::server::listen_config::Listen;
use crate::web::error_pages::{ErrorPageFn, ErrorPages};
use crate::web::handler::{Handler, verify};
use crate::web::per_worker::PerWorker;
use crate::web::resume::Resume;

/// With more, a new thread may get no memory map for its stack, which ends the process.
const MOST_WORKERS: usize = 10_000;

/// How many kinds of streams a program may resume, and how long their names may be: a successor reports all of them at once.
const MOST_RESUMES: usize = 100;
const RESUME_NAME_BYTES: usize = 100;
/// With less the first call of a handler may overflow it, which ends the process.
const LEAST_STACK: usize = 64 << 10;
/// Not by cores, because handlers that block need no core; nor by memory, of which a worker needs 35 KiB. See `workers`.
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
    #[cfg(feature = "admin")]
    admin: Vec<String>,
    workers: usize,
    temp_dir: Option<PathBuf>,
    stack_bytes: Option<usize>,
    per_worker: Vec<Init>,
    error_pages: Option<ErrorPages>,
    #[cfg(feature = "admin")]
    program: ProgramHooks,
    resumes: Vec<(String, Resume)>,
    launch: Launch,
}

impl Server {
    /// A server for `handler`: a closure, or a [`Router`](crate::Router).
    pub fn new(handler: impl Handler) -> Server {
        Server {
            handler: Arc::new(handler),
            listen: Vec::new(),
            #[cfg(feature = "admin")]
            admin: Vec::new(),
            workers: DEFAULT_WORKERS,
            temp_dir: None,
            stack_bytes: None,
            per_worker: Vec::new(),
            error_pages: None,
            #[cfg(feature = "admin")]
            program: ProgramHooks::default(),
            resumes: Vec::new(),
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
    /// The string is the listener's name at a handover: a successor that is configured with the same string, or with the
    /// same address in another spelling, inherits the socket. A [`SocketAddr`](std::net::SocketAddr) stands for its text.
    ///
    /// With the feature `systemd` a server without a `listen` serves the sockets that systemd passes to it.
    #[must_use]
    pub fn listen(mut self, listen: impl Into<Listen>) -> Server {
        self.listen.push(listen.into());
        self
    }

    /// Adds a listener for operators, with `/healthz`, `/readyz`, `/metrics` and `/status` (see
    /// [`crate::admin::routes`]). It has a dedicated worker, which answers while all others are in handlers.
    /// `name` is an address as for [`listen`](Server::listen). Default: none.
    #[cfg(feature = "admin")]
    #[must_use]
    pub fn admin(mut self, name: impl ToString) -> Server {
        self.admin.push(name.to_string());
        self
    }

    #[cfg(not(feature = "admin"))]
    #[doc(hidden)]
    #[must_use]
    pub fn admin<T: crate::web::missing::Admin>(self, name: T) -> Server {
        name.never()
    }

    /// The number of requests handled at once, each on a thread that may block. Default 32; at most 10,000, including workers
    /// of single listeners.
    ///
    /// Handlers that compute need no more workers than there are cores. Handlers that wait, for a database or another
    /// service, need as many as requests wait at once: requests/s multiplied by the time of a handler. 512 workers instead
    /// of 32 take 10 MiB more of memory, 17 MiB once all have worked, and 20 ms more to start; those that sleep cost a
    /// request nothing.
    ///
    /// The default is small and does not depend on the machine, because each worker creates the values of
    /// [`per_worker`](Server::per_worker) before the server is ready, and in a handover both generations have theirs: with 32
    /// workers, 64 database connections, where PostgreSQL allows 100 by default.
    ///
    /// When all workers are busy and a connection has waited for a second, the log names the routes of their handlers.
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
    /// and the reason, and at a handover the predecessor continues to serve. The worker of an admin listener has none.
    ///
    /// Several are created in the order in which they are given. In a successor all of this happens before it acquires what
    /// is [exclusive](ProcessConfig::exclusive).
    #[must_use]
    pub fn per_worker<T: 'static>(mut self, values: &PerWorker<T>) -> Server {
        let values = values.clone();
        self.per_worker.push(Arc::new(move || values.begin()));
        self
    }

    /// Makes the bodies of error responses (4xx and 5xx) that no handler has written: those of the router, of refused and
    /// malformed requests, of panics and errors, and those that a handler returns without a body, such as a
    /// [`StatusCode`](http::StatusCode). A response whose body a handler or a wrapper has written stays as it is.
    ///
    /// `hook` returns a page, or one of [`error_pages::by_accept`](crate::error_pages::by_accept),
    /// [`problem`](crate::error_pages::problem), [`html`](crate::error_pages::html) and
    /// [`text`](crate::error_pages::text). Its content and its header fields are used; the status and the fields of the
    /// response, such as `Allow` and `Retry-After`, stay. A `HEAD` gets the fields alone. A closure must name the type of its
    /// parameter, `|error: &HttpError| ...`: without it, the compiler says that an implementation of `ErrorPageFn` is not
    /// general enough.
    ///
    /// It is called on a worker, after all wrappers, and should be short. If it panics or its body can't be read, the client
    /// gets the text as without a hook. The 503 of the acceptor, when the queue for workers is full, has no body in any case,
    /// because its request is not read.
    ///
    /// ```
    /// use heirloom::error_pages::{self, HttpError};
    /// use heirloom::prelude::*;
    ///
    /// /// The site's own pages for browsers, and problems for programs.
    /// fn page(error: &HttpError) -> Response {
    ///     if error.preferred(&["application/json", "text/html"]) == Some("text/html") {
    ///         Html(format!("<title>My site</title><h1>{}</h1>", error.title())).into_response()
    ///     } else {
    ///         error_pages::problem(error)
    ///     }
    /// }
    ///
    /// let server = Server::new(Router::new()).error_pages(page);
    /// # let _ = server;
    /// ```
    #[must_use]
    pub fn error_pages<F>(mut self, hook: F) -> Server
    where
        F: for<'e> ErrorPageFn<'e> + Send + Sync + 'static,
    {
        self.error_pages = Some(ErrorPages::new(hook));
        self
    }

    /// Adds metrics of the program's own to `/metrics` of [`admin`](Server::admin) and of
    /// [`admin::routes`]. `hook` appends them in the text format of Prometheus, at each request for them, on
    /// the admin listener's worker. One that panics adds nothing, and is logged. Several hooks are called in their order.
    ///
    /// Names that begin with `heirloom_` are the server's. The counts of the program start at zero in each generation, while those of
    /// the server continue.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// use std::fmt::Write;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// static SOLD: AtomicU64 = AtomicU64::new(0);
    ///
    /// fn metrics(out: &mut String) {
    ///     let sold = SOLD.load(Ordering::Relaxed);
    ///     let _ = writeln!(out, "# HELP shop_sold_total Pieces sold.\n# TYPE shop_sold_total counter\nshop_sold_total {sold}");
    /// }
    ///
    /// let router = Router::new().post("/sales", |_: Request| {
    ///     SOLD.fetch_add(1, Ordering::Relaxed);
    ///     StatusCode::CREATED
    /// });
    /// let server = Server::new(router).admin("127.0.0.1:9001").metrics(metrics);
    /// # let _ = server;
    /// ```
    ///
    /// With the crate prometheus-client it is `.metrics(move |out| prometheus_client::encoding::text::encode(out, &registry).unwrap())`.
    #[cfg(feature = "admin")]
    #[must_use]
    pub fn metrics(mut self, hook: impl Fn(&mut String) + Send + Sync + 'static) -> Server {
        self.program.add_metrics(hook);
        self
    }

    // The bound `Fn` gives a closure's parameter its type, so that the missing feature is all that is said.
    #[cfg(not(feature = "admin"))]
    #[doc(hidden)]
    #[must_use]
    pub fn metrics<F: Fn(&mut String) + crate::web::missing::Admin>(self, hook: F) -> Server {
        hook.never()
    }

    /// Asks `hook` at each `/readyz`, on the admin listener's worker: an error makes it a 503 with the error's text, and
    /// `heirloom_ready` 0, so that a load balancer sends no new clients. For what a program depends on and may lose, such as its database.
    /// It should be short. Requests are served as before. One that panics is not ready. Several hooks must all be ready.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// use std::sync::atomic::{AtomicBool, Ordering};
    ///
    /// static CONNECTED: AtomicBool = AtomicBool::new(true);
    ///
    /// let server = Server::new(Router::new())
    ///     .admin("127.0.0.1:9001")
    ///     .readiness(|| if CONNECTED.load(Ordering::Relaxed) { Ok(()) } else { Err("no database") });
    /// # let _ = server;
    /// ```
    #[cfg(feature = "admin")]
    #[must_use]
    pub fn readiness<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        mut self,
        hook: impl Fn() -> Result<(), E> + Send + Sync + 'static,
    ) -> Server {
        self.program.add_readiness(hook);
        self
    }

    #[cfg(not(feature = "admin"))]
    #[doc(hidden)]
    #[must_use]
    pub fn readiness<F: crate::web::missing::Admin>(self, hook: F) -> Server {
        hook.never()
    }

    /// Says how streams of this name continue that a predecessor hands over: WebSockets, event streams and other protocols
    /// whose responses are [`resumable`](crate::ResponseExt::resumable). `resume` is made by
    /// `websocket::resumed`, [`sse::resumed`](crate::sse::resumed) or [`upgrade::resumed`](crate::upgrade::resumed). Their threads count against
    /// [`Limits::detached_threads`](crate::Limits::detached_threads); a stream for which there is none within ten seconds
    /// stays with the predecessor.
    ///
    /// A name that is given twice is an error at the start, as are more than 100 names and a name that is empty or has more
    /// than 100 bytes.
    #[must_use]
    pub fn resume(mut self, name: impl Into<String>, resume: Resume) -> Server {
        self.resumes.push((name.into(), resume));
        self
    }

    /// The directory for request bodies that are too long for memory, in unlinked files. Default: `$TMPDIR`, or /tmp. On a
    /// tmpfs they are in memory nevertheless.
    #[must_use]
    pub fn temp_dir(mut self, directory: impl Into<PathBuf>) -> Server {
        self.temp_dir = Some(directory.into());
        self
    }

    /// Sizes and counts that bound the server. Default: those of [`Limits::new`], which suit the open Internet.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Server {
        self.launch.limits = limits;
        self
    }

    /// Durations that bound the server. Default: those of [`Timeouts::new`], which suit the open Internet.
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

    /// A handle that controls the server from other threads, before and while it serves.
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
    pub fn serve(mut self) -> Result<(), Error> {
        launch::serve(std::mem::take(&mut self.launch), self)
    }

    /// Serves in the background, without signals and without handovers: for tests, and for programs that only want the
    /// HTTP server. When this returns, the server accepts connections ([`Phase::Serving`](crate::Phase::Serving)).
    ///
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
    pub fn spawn(mut self) -> Result<RunningServer, Error> {
        launch::spawn(std::mem::take(&mut self.launch), self)
    }
}

impl Service for Server {
    type Progress = Progress;

    /// Handler 0 is the server's, the next ones belong to listeners with a handler or workers of their own,
    /// the last the admin's. The pools are in the same order.
    fn plan(&mut self) -> Result<Plan, Error> {
        self.check()?;
        let mut pools = PoolPlan { workers: vec![self.shared_workers()], of_handler: vec![0] };
        let mut listen = Vec::new();
        for one in &self.listen {
            let handler_index = if one.has_own_handler_or_pool() { pools.of_handler.len() } else { 0 };
            if one.has_own_handler_or_pool() {
                pools.of_handler.push(if one.workers.is_some() { pools.workers.len() } else { 0 });
                pools.workers.extend(one.workers);
            }
            listen.push(one.config(handler_index));
        }
        #[cfg(feature = "admin")]
        if !self.admin.is_empty() {
            let handler_index = pools.of_handler.len();
            let admin = |name: &String| ListenerConfig {
                reserved: true,
                ..ListenerConfig::new(name.clone(), handler_index)
            };
            listen.extend(self.admin.iter().map(admin));
            pools.of_handler.push(pools.workers.len());
            pools.workers.push(1);
        }
        #[cfg(feature = "tls")]
        self.listen.iter().try_for_each(Listen::reads_certificates)?;
        Ok(Plan { listen, pools })
    }

    fn start(mut self, context: &Context<Progress>) -> Result<ServiceParts<Progress>, Error> {
        #[cfg(feature = "admin")]
        lock(&context.handle.shared.program).add(std::mem::take(&mut self.program));
        let (limits, all_counters) = (&context.limits, &context.handle.shared.records.counters);
        let budgets = Budgets::new(limits);
        let stores = budgets.stores(context.descriptors.clone(), self.temp_dir.clone());
        let error_pages = self.error_pages.clone();
        let resumes = std::mem::take(&mut self.resumes).into_iter().collect();
        #[cfg(feature = "admin")]
        let admin = self.admin_handler(&context.handle);
        #[cfg(not(feature = "admin"))]
        let admin = None;
        let (handlers, configs) = self.sites_and_pools(admin);
        let files = Some(Arc::clone(&stores.files));
        let phase = context.handle.shared.phase.clone();
        let detached = Arc::new(Detached::new(
            limits.detached_threads,
            context.descriptors.clone(),
            phase.clone(),
            all_counters.register(),
            resumes,
        ));
        let streams = StreamResumer {
            detached: Arc::clone(&detached),
            parking: Arc::clone(&context.parking),
            wait_group: context.wait_group.clone(),
            stall: context.timeouts.response_stall,
        };
        let deadlines = Deadlines::new(error_pages.clone(), limits.clone(), all_counters.register());
        let common = Common {
            handlers,
            parking: Arc::clone(&context.parking),
            limits: limits.clone(),
            timeouts: context.timeouts.clone(),
            stores,
            phase,
            wait_group: context.wait_group.clone(),
            detached,
            deadlines: Arc::new(deadlines),
            error_pages,
        };
        let (queues, workers) = HttpWorkers::start(Arc::new(common), all_counters, budgets, configs)?;
        Ok(ServiceParts {
            queues,
            busy: Box::new(exchange::overloaded()),
            workers: Arc::new(workers),
            files,
            streams: Some(Arc::new(streams)),
        })
    }
}

impl Server {
    #[cfg(feature = "admin")]
    fn admin_handler(&self, handle: &Handle) -> Option<Arc<dyn Handler>> {
        (!self.admin.is_empty()).then(|| Arc::new(admin::routes(handle)) as Arc<dyn Handler>)
    }

    /// The handler of each listener, and the pools, in the order of `plan`.
    fn sites_and_pools(self, admin: Option<Arc<dyn Handler>>) -> (Vec<ListenerHandler>, Vec<PoolConfig>) {
        let with_latency =
            |handler| ListenerHandler { handler: HandlerBox(handler), latency: HandlerLatency::new() };
        let workers = self.shared_workers();
        let (begins, stack_bytes, shared) = (self.per_worker, self.stack_bytes, self.handler);
        let init: Option<Init> = (!begins.is_empty())
            .then(|| Arc::new(move || begins.iter().try_for_each(|begin| begin())) as Init);
        let pool = |name, suffix, count, init| PoolConfig { name, suffix, count, stack_bytes, init };
        let mut handlers = vec![with_latency(Arc::clone(&shared))];
        let mut pools = vec![pool("heirloom-worker", String::new(), workers, init.clone())];
        for listen in self.listen.into_iter().filter(Listen::has_own_handler_or_pool) {
            if let Some(count) = listen.workers {
                pools.push(pool("worker", listen.mark(), count, init.clone()));
            }
            handlers.push(with_latency(listen.handler.unwrap_or_else(|| Arc::clone(&shared))));
        }
        if let Some(admin) = admin {
            handlers.push(with_latency(admin));
            pools.push(pool("heirloom-admin", String::new(), 1, None));
        }
        (handlers, pools)
    }

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
        if self.resumes.len() > MOST_RESUMES {
            return config(format!(
                "{} names of streams, at most {MOST_RESUMES}: Server::resume",
                self.resumes.len()
            ));
        }
        let is_odd = |name: &&String| name.is_empty() || name.len() > RESUME_NAME_BYTES;
        if let Some(name) = self.resumes.iter().map(|(name, _)| name).find(is_odd) {
            return config(format!(
                "the name of a stream has {} bytes, at least 1 and at most {RESUME_NAME_BYTES}: Server::resume",
                name.len()
            ));
        }
        let mut names = self.resumes.iter().map(|(name, _)| name);
        while let Some(name) = names.next() {
            if names.clone().any(|other| other == name) {
                return config(format!("two functions resume streams of the name {name:?}: Server::resume"));
            }
        }
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

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listen: Vec<&str> = self.listen.iter().map(Listen::name).collect();
        let mut shown = f.debug_struct("Server");
        #[cfg(feature = "admin")]
        shown.field("admin", &self.admin);
        shown.field("listen", &listen).field("workers", &self.workers).finish_non_exhaustive()
    }
}
