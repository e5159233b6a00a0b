//! The server: plain data until `serve`, which wires every part and runs the control loop.

use std::any::Any;
use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use log::{error, info, warn};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::acceptor::{Acceptor, Command, News, Parking, Setup};
use crate::admin::admin_routes;
use crate::assembly::{Assembly, Threads};
use crate::budget::Budget;
use crate::control::{Control, Facts, Inbox, Predecessor};
use crate::error::{Error, Kind};
use crate::exchange::detached::Detached;
use crate::exchange::{self, Client, Common, Desk, HandlerBox, Sign, Site, Stores};
use crate::handle::Handle;
use crate::handler::Handler;
use crate::handover::pid_file::PidFile;
use crate::handover::spawner::Program;
use crate::handover::successor::{self, Inheritance};
use crate::handover::{Hello, Message, VERSION};
use crate::hooks::{Hooks, Runner, UserState};
use crate::http1::{DateCache, encode};
use crate::lifecycle::{Event, State, Terms};
use crate::limits::{Limits, Timeouts};
use crate::listener::Listener;
use crate::pace::Pace;
use crate::phase::Phase;
use crate::pool::Pool;
use crate::queue::Queue;
use crate::signals::{self, Circumstances, Signals};
use crate::wait_group::WaitGroup;

/// Descriptors that are not for connections: listeners, channels, files of handlers.
const RESERVED_FDS: u64 = 64;
/// Threads of workers block in handlers: a few for each core, and never very few.
const DEFAULT_WORKERS: usize = 32;

/// Takes over what a predecessor left, before anything else can inherit it in turn. Optional, as
/// the first line of `main`; `serve` does it otherwise. A program that starts others before it
/// serves should call it.
///
/// # Errors
/// When this process was started by a predecessor, but not with what that one says.
pub fn init() -> Result<(), Error> {
    successor::adopt()
}

/// A descriptor that the generation before this one passed on by this name ([`Handle::pass_fd`]);
/// None in a first generation, and the second time. [`init`] must have been called. What nobody has
/// asked for when the server is prepared to serve is closed.
pub fn inherited_fd(name: &str) -> Option<OwnedFd> {
    successor::take_file(name)
}

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
    handler: Box<dyn Handler>,
    listen: Vec<Listen>,
    admin: Vec<String>,
    workers: usize,
    limits: Limits,
    timeouts: Timeouts,
    pid_file: Option<PathBuf>,
    executable: Option<PathBuf>,
    raise_nofile: bool,
    temporary_folder: Option<PathBuf>,
    stack_bytes: Option<usize>,
    before_ready: Vec<Hook>,
    hooks: Hooks,
    handle: Handle,
}

type Hook = Box<dyn FnOnce() -> Result<(), String> + Send>;

struct Listen {
    name: String,
    /// None: the server's own.
    handler: Option<Box<dyn Handler>>,
}

impl Server {
    /// A server for `handler`: a closure, or a [`Router`](crate::Router).
    pub fn new(handler: impl Handler) -> Server {
        Server {
            handler: Box::new(handler),
            listen: Vec::new(),
            admin: Vec::new(),
            workers: DEFAULT_WORKERS,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            pid_file: None,
            executable: None,
            raise_nofile: true,
            temporary_folder: None,
            stack_bytes: None,
            before_ready: Vec::new(),
            hooks: Hooks::default(),
            handle: Handle::new(),
        }
    }

    /// Adds a listener: `ADDRESS:PORT`, `HOST:PORT` or `unix:PATH`. Port 0 takes a free one, which
    /// later generations keep.
    ///
    /// The text is the listener's name at a handover: a successor that asks for the same text
    /// inherits the socket.
    #[must_use]
    pub fn listen(mut self, name: impl Into<String>) -> Server {
        self.listen.push(Listen { name: name.into(), handler: None });
        self
    }

    /// Adds a listener with a handler of its own, on the server's workers.
    #[must_use]
    pub fn listen_with(mut self, name: impl Into<String>, handler: impl Handler) -> Server {
        self.listen.push(Listen { name: name.into(), handler: Some(Box::new(handler)) });
        self
    }

    /// Adds a listener for operators, with `/healthz`, `/readyz`, `/metrics` and `/status`, and a
    /// worker of its own: it answers while all others are in handlers.
    #[must_use]
    pub fn admin(mut self, name: impl Into<String>) -> Server {
        self.admin.push(name.into());
        self
    }

    /// How many requests are handled at once: threads that may block. Default 32.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Server {
        self.workers = workers;
        self
    }

    /// Sizes and counts that bound the server.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Server {
        self.limits = limits;
        self
    }

    /// Durations that bound the server.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Server {
        self.timeouts = timeouts;
        self
    }

    /// A file that names the process that owns the service: written by rename when serving starts,
    /// moved to the successor at the end of its probation, removed at the end. Default: none.
    #[must_use]
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Server {
        self.pid_file = Some(path.into());
        self
    }

    /// The program to start at a handover. Default: the path this process was started by, its
    /// symlinks looked up anew.
    #[must_use]
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Server {
        self.executable = Some(path.into());
        self
    }

    /// Bytes of stack for each worker. Default: that of std, 2 MiB.
    #[must_use]
    pub fn stack_bytes(mut self, bytes: usize) -> Server {
        self.stack_bytes = Some(bytes);
        self
    }

    /// Where request bodies that are too long for memory are kept, in files without a name. Default:
    /// `$TMPDIR`, or /tmp. On a tmpfs they are in memory all the same.
    #[must_use]
    pub fn temporary_folder(mut self, folder: impl Into<PathBuf>) -> Server {
        self.temporary_folder = Some(folder.into());
        self
    }

    /// Whether the soft limit of open files is raised to the hard one. Default: yes.
    #[must_use]
    pub fn raise_nofile(mut self, raise: bool) -> Server {
        self.raise_nofile = raise;
        self
    }

    /// Runs before this generation says that it is prepared: warm-up, a check of its own. An error,
    /// or more than [`Timeouts::ready`], and the predecessor serves on.
    #[must_use]
    pub fn before_ready(mut self, hook: impl FnOnce() -> Result<(), String> + Send + 'static) -> Server {
        self.before_ready.push(Box::new(hook));
        self
    }

    /// Lets go of what only one generation may have (a lock, a single-writer store, a consumer's
    /// place), when a successor is prepared and before it is told to serve. What it returns, `()` or
    /// a [`UserState`], is given to the successor's [`Server::acquire_after_go`]. An error, or more
    /// than [`Timeouts::ready`], and there is no handover.
    ///
    /// This process goes on serving the connections it has. A handover that fails after this is
    /// followed by this process's own `acquire_after_go`, with the state it had released. Runs on a
    /// thread of the hooks, as all but `before_ready` do, one after the other.
    #[must_use]
    pub fn release_before_go<S: Into<UserState>>(
        mut self,
        mut hook: impl FnMut() -> Result<S, String> + Send + 'static,
    ) -> Server {
        self.hooks.release = Some(Box::new(move || hook().map(Into::into)));
        self
    }

    /// Takes what only one generation may have, before anything is accepted: in a first generation
    /// when it starts, in a successor once its predecessor has run [`Server::release_before_go`],
    /// and again in that predecessor if the handover fails. It is given what was released, an empty
    /// state in a first generation or after a crash.
    ///
    /// An error ends this generation: the predecessor serves on. After a crash, or where the other
    /// one's end is not certain, what is wanted may be held for another moment: wait for it here.
    #[must_use]
    pub fn acquire_after_go(
        mut self,
        hook: impl FnMut(UserState) -> Result<(), String> + Send + 'static,
    ) -> Server {
        self.hooks.acquire = Some(Box::new(hook));
        self
    }

    /// Is told of each [`Phase`] this process comes to.
    #[must_use]
    pub fn on_phase(mut self, hook: impl FnMut(Phase) + Send + 'static) -> Server {
        self.hooks.phase.push(Box::new(hook));
        self
    }

    /// Runs when the drain begins, at a stop or after a handover. The exit waits for it, until the
    /// hammer.
    #[must_use]
    pub fn on_drain(mut self, hook: impl FnOnce() + Send + 'static) -> Server {
        self.hooks.drain.push(Box::new(hook));
        self
    }

    /// Runs when the last request is done, before [`Server::serve`] returns: to flush, to dump
    /// state. It has until the hammer, and at least a second; then it is left behind, which the log
    /// says.
    #[must_use]
    pub fn on_exit(mut self, hook: impl FnOnce() + Send + 'static) -> Server {
        self.hooks.exit.push(Box::new(hook));
        self
    }

    /// Passes an open file, socket or pipe on to the next generation: see [`Handle::pass_fd`].
    #[must_use]
    pub fn pass_fd(self, name: impl Into<String>, fd: impl Into<OwnedFd>) -> Server {
        self.handle.pass_fd(name, fd);
        self
    }

    /// Makes `handle` steer this server.
    #[must_use]
    pub fn with_handle(mut self, handle: Handle) -> Server {
        self.handle = handle;
        self
    }

    /// What can be asked of the server from other threads, before and while it serves.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until the process should exit: after a stop, or when a successor has taken over and
    /// all that was begun is done. Binds, or inherits from a predecessor, and acts upon HUP, TERM,
    /// INT, QUIT, USR1 and USR2.
    ///
    /// # Errors
    /// When it can't start, when requests were cut at the end of a drain
    /// ([`Error::is_cut`]), or when this generation was rolled back. A process serves once with
    /// signals: a second call is an error ([`Server::spawn`] has no such limit).
    pub fn serve(self) -> Result<(), Error> {
        init()?;
        let inheritance = successor::take();
        let system = |what: &'static str| move |e: std::io::Error| Error::io(Kind::System, what, e);
        let blocked = match &inheritance {
            Some(inheritance) => signals::blocked_at_first(&inheritance.predecessor.blocked),
            None => signals::blocked(),
        };
        let blocked = blocked.map_err(system("can't read the signal mask"))?;
        let nohup = inheritance.as_ref().is_some_and(|i| i.predecessor.nohup);
        let circumstances = Circumstances::now(nohup);
        let command = inheritance.as_ref().and_then(|i| i.predecessor.command.as_ref());
        let program = Program::capture(self.executable.as_deref(), command, blocked)
            .map_err(system("can't tell how this process was started"))?;
        let generation = inheritance.as_ref().map_or(1, |i| i.predecessor.generation.saturating_add(1));

        let mut inheritance = inheritance;
        let installed = signals::install(&blocked).map_err(system("can't handle signals"));
        let started = installed.and_then(|installed| {
            let started = self.start(inheritance.as_mut(), generation)?;
            let inbox = Arc::clone(&started.inbox);
            let signals = installed
                .start(circumstances, move |wish| inbox.wish(wish))
                .map_err(system("can't handle signals"))?;
            Ok((started, signals))
        });
        let (started, signals) = match started {
            Ok(started) => started,
            Err(e) => {
                if let Some(inheritance) = &mut inheritance {
                    inheritance.lifecycle.send(&Message::Failed { reason: e.to_string() });
                }
                return Err(e);
            }
        };
        let facts_of = |pid_file, hooks| {
            let (nohup, program) = (circumstances.nohup, Some(program));
            Facts { generation, nohup, program, pid_file, hooks }
        };
        started.run(facts_of, inheritance, Some(signals))
    }

    /// Starts serving in the background, without signals and without handovers: for tests, and for
    /// programs that only want the HTTP server.
    ///
    /// # Errors
    /// When it can't start.
    pub fn spawn(self) -> Result<Running, Error> {
        let started = self.start(None, 1)?;
        let handle = started.handle.clone();
        let addresses = started.addresses();
        let facts_of =
            |pid_file, hooks| Facts { generation: 1, nohup: false, program: None, pid_file, hooks };
        let thread = thread::Builder::new()
            .name("heirloom-control".into())
            .spawn(move || started.run(facts_of, None, None))
            .map_err(|e| Error::io(Kind::System, "no thread for the control loop", e))?;
        Ok(Running { handle, addresses, thread: Some(thread) })
    }

    /// Everything up to the point where nothing can fail for want of something.
    fn start(mut self, inheritance: Option<&mut Inheritance>, generation: u32) -> Result<Started, Error> {
        self.check()?;
        if self.raise_nofile {
            raise_nofile();
        }
        self.limits.connections = self.limits.connections.min(connections_by_nofile());
        let pid_file = match &self.pid_file {
            Some(path) => Some(usable_pid_file(path)?),
            None => None,
        };
        let handle = self.handle.clone();
        let sites_of = |handler| Site { handler: HandlerBox(handler), pace: Pace::new() };
        let mut sites = vec![sites_of(self.handler)];
        let mut wanted = Vec::new();
        for listen in self.listen {
            let site = match listen.handler {
                Some(handler) => {
                    sites.push(sites_of(handler));
                    sites.len() - 1
                }
                None => 0,
            };
            wanted.push((listen.name, site));
        }
        let mut lane_of_site = vec![0; sites.len()];
        let admin_lane = (!self.admin.is_empty()).then(|| {
            sites.push(sites_of(Box::new(admin_routes(&handle))));
            lane_of_site.push(1);
            let site = sites.len() - 1;
            wanted.extend(self.admin.iter().map(|name| (name.clone(), site)));
            1
        });

        let mut inherited = inheritance.map(|i| std::mem::take(&mut i.listeners)).unwrap_or_default();
        let mut adopted = Vec::new();
        let mut listeners = Vec::new();
        let mut bound = Bound(Vec::new());
        for (name, site) in wanted {
            let listener = match inherited.iter().position(|(inherited, _)| *inherited == name) {
                Some(index) => {
                    let (name, fd) = inherited.remove(index);
                    adopted.push(name.clone());
                    Listener::adopt(&name, fd, site)?
                }
                None => {
                    let listener = Listener::bind(&name, site)?;
                    bound.0.push(listener.clone());
                    listener
                }
            };
            info!("listening on {}", listener.address());
            listeners.push(listener);
        }
        for hook in self.before_ready {
            hook().map_err(|e| Error::new(Kind::Config, format!("before_ready failed: {e}")))?;
        }
        successor::close_files();

        let is_first = generation == 1;
        if is_first {
            self.hooks.acquire_first()?;
        }
        let hook_inbox = Arc::clone(&handle.shared.inbox);
        let hooks = Runner::start(self.hooks, is_first, move |ticket, told| hook_inbox.hook(ticket, told))?;

        let system = |what: &'static str| move |e: std::io::Error| Error::io(Kind::System, what, e);
        let phase = handle.shared.phase.clone();
        let tallies = handle.shared.tallies.clone();
        let wait_group = WaitGroup::default();
        let parking = Parking::new(&self.limits, listeners.len(), self.timeouts.idle)
            .map_err(system("can't make the acceptor's poller"))?;
        let parking = Arc::new(parking);
        let detached = Arc::new(Detached::new(self.limits.detached_threads, tallies.tally()));
        let memory = Budget::new(self.limits.buffered_bytes);
        let disk = Budget::new(self.limits.temporary_bytes);
        let common = Arc::new(Common {
            sites,
            parking: Arc::clone(&parking),
            limits: self.limits.clone(),
            timeouts: self.timeouts.clone(),
            stores: Stores { memory: memory.clone(), disk: disk.clone(), folder: self.temporary_folder },
            phase: phase.clone(),
            wait_group: wait_group.clone(),
            detached: Arc::clone(&detached),
        });

        let mut pools = Vec::new();
        let mut queues = Vec::new();
        let mut signs = Vec::new();
        let lanes = [("heirloom-worker", self.workers)].into_iter();
        for (name, count) in lanes.chain(admin_lane.map(|_| ("heirloom-admin", 1))) {
            let share = (count * usize::from(self.limits.streaming_percent) / 100).max(1);
            let queue = Arc::new(Queue::new(share));
            let of_pool: Vec<Arc<Sign>> = (0..count).map(|_| Arc::default()).collect();
            signs.extend(of_pool.iter().cloned());
            let (common, of_queue, tallies) = (Arc::clone(&common), Arc::clone(&queue), tallies.clone());
            let tallies_of_the_dead = tallies.clone();
            let make = move |index: usize| {
                let mut desk = Desk::new(tallies.tally(), Arc::clone(&of_pool[index]));
                let (common, queue) = (Arc::clone(&common), Arc::clone(&of_queue));
                move |client: Box<Client>, in_share| {
                    exchange::serve(client, in_share, &mut desk, &common, &queue)
                }
            };
            let of_the_dead = tallies_of_the_dead.clone();
            let died = move |worker: &str, panic: &(dyn Any + Send)| {
                error!("{worker} died and is replaced: {}", exchange::panic_text(panic));
                // A tally has one writer; this is rare enough for one each.
                of_the_dead.tally().worker_replaced();
            };
            let pool = Pool::start(name, count, self.stack_bytes, Arc::clone(&queue), make, died)
                .map_err(system("can't start the workers"))?;
            pools.push(pool);
            queues.push(queue);
        }

        let inbox = Arc::clone(&handle.shared.inbox);
        handle.shared.generation.store(generation, Ordering::Relaxed);
        let assembly = Assembly {
            listeners: Mutex::new(listeners.clone()),
            parking: Arc::clone(&parking),
            detached,
            wait_group,
            queues: queues.clone(),
            signs,
            grace: self.timeouts.idle_grace,
            files: Arc::clone(&handle.shared.files),
            memory,
            disk,
        };
        let assembly = Arc::new(assembly);
        let _ = handle.shared.assembly.set(Arc::clone(&assembly));
        let mut date = DateCache::new(SystemTime::now());
        let news_inbox = Arc::clone(&inbox);
        let acceptor = Acceptor::new(Setup {
            parking,
            listeners,
            queues,
            lane_of_site,
            queue_wait: self.timeouts.queue_wait,
            limits: self.limits.clone(),
            phase: phase.clone(),
            generation,
            tallies: tallies.clone(),
            busy: Box::new(move || {
                let mut answer = Vec::new();
                encode::busy(&mut answer, date.get(SystemTime::now()));
                answer
            }),
            news: Arc::new(move |news| {
                news_inbox.event(match news {
                    News::ListenersClosed => Event::ListenersClosed,
                    News::Drained => Event::Drained,
                    News::Checked(outcome) => Event::Checked(outcome),
                });
            }),
        });
        let acceptor = thread::Builder::new()
            .name("heirloom-acceptor".into())
            .spawn(move || acceptor.run())
            .map_err(system("no thread for the acceptor"))?;
        let terms = Terms {
            ready: self.timeouts.ready,
            probation: self.timeouts.probation,
            drain: self.timeouts.drain,
            lame_duck: self.timeouts.lame_duck,
        };
        let threads = Threads { acceptor, pools };
        bound.0.clear();
        Ok(Started { handle, inbox, assembly, threads, terms, pid_file, adopted, hooks })
    }

    fn check(&self) -> Result<(), Error> {
        let config = |text: String| Err(Error::new(Kind::Config, text));
        if self.listen.is_empty() && self.admin.is_empty() {
            return config("nothing to listen on: call Server::listen".to_owned());
        }
        let mut names: Vec<&str> = self
            .listen
            .iter()
            .map(|listen| &*listen.name)
            .chain(self.admin.iter().map(|name| &**name))
            .collect();
        names.sort_unstable();
        // Port 0 is another one each time.
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1] && !pair[0].ends_with(":0")) {
            return config(format!("can't listen on {} twice: leave one out", pair[0]));
        }
        if self.workers == 0 {
            return config("a server needs a worker: Server::workers(0)".to_owned());
        }
        let own = self.listen.iter().filter_map(|listen| listen.handler.as_deref());
        for handler in [&*self.handler].into_iter().chain(own) {
            if let Err(text) = handler.check() {
                return config(text);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listen: Vec<&str> = self.listen.iter().map(|listen| listen.name.as_str()).collect();
        f.debug_struct("Server")
            .field("listen", &listen)
            .field("admin", &self.admin)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

/// Listeners of a start that may still fail: no socket's path is left behind then.
struct Bound(Vec<Listener>);

impl Drop for Bound {
    fn drop(&mut self) {
        self.0.iter().for_each(Listener::unlink);
    }
}

/// A server whose parts run, and whose control loop does not yet.
struct Started {
    handle: Handle,
    inbox: Arc<Inbox>,
    assembly: Arc<Assembly>,
    threads: Threads,
    terms: Terms,
    pid_file: Option<PidFile>,
    adopted: Vec<String>,
    hooks: Runner,
}

impl Started {
    fn addresses(&self) -> Vec<SocketAddr> {
        let listeners = self.assembly.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().filter_map(Listener::socket_addr).collect()
    }

    fn run(
        self,
        facts_of: impl FnOnce(Option<PidFile>, Runner) -> Facts,
        inheritance: Option<Inheritance>,
        signals: Option<Signals>,
    ) -> Result<(), Error> {
        let facts = facts_of(self.pid_file, self.hooks);
        let (state, predecessor) = match inheritance {
            Some(inheritance) => {
                let Inheritance { mut lifecycle, connections, predecessor, state, .. } = inheritance;
                lifecycle.send(&Message::Hello(Hello {
                    version: VERSION,
                    generation: facts.generation,
                    pid: nix::unistd::getpid().as_raw(),
                    command: None,
                    ..predecessor
                }));
                self.assembly.parking.command(Command::TakeConnections(connections));
                let predecessor = Predecessor { channel: lifecycle, pid: predecessor.pid, state };
                (State::successor(self.terms, self.adopted), Some(predecessor))
            }
            None => (State::first(self.terms), None),
        };
        let phase = &self.handle.shared.phase;
        let outcome = Control::new(state, facts, &*self.assembly, &self.inbox, phase, predecessor)
            .and_then(Control::run);
        self.assembly.finish(self.threads);
        drop(signals);
        outcome
    }
}

/// A server that runs in the background. Dropping it drains it and waits for its end.
#[derive(Debug)]
pub struct Running {
    handle: Handle,
    addresses: Vec<SocketAddr>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Running {
    /// Steers it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Where its TCP listeners are, in the order of their `listen`.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Drains it and waits for its end.
    ///
    /// # Errors
    /// As [`Server::serve`].
    pub fn stop(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        self.handle.drain();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(Error::new(Kind::System, "the control loop panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.end();
        }
    }
}

/// Tried out while nothing depends on it: at COMMIT it would be too late to refuse.
fn usable_pid_file(path: &Path) -> Result<PidFile, Error> {
    let file = PidFile::new(path).and_then(|file| file.try_out().map(|()| file));
    file.map_err(|e| {
        let advice = match e.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => ": its folder must exist",
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ": its folder must be writable",
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ": make room",
            _ => "",
        };
        Error::io(Kind::Config, format!("can't write the pid file {}{advice}", path.display()), e)
    })
}

/// The soft limit of open files is 1,024 on most hosts, for the sake of programs that use select().
fn raise_nofile() {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => {
            if let Err(e) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
                warn!("can't raise the limit of open files from {soft} to {hard}: {e}");
            }
        }
        Ok(_) => {}
        Err(e) => warn!("can't read the limit of open files: {e}"),
    }
}

fn connections_by_nofile() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(soft.saturating_sub(RESERVED_FDS).max(8)).unwrap_or(usize::MAX)
}
