//! How a program starts, serves and ends, with HTTP or without: plain configuration until `serve` or `spawn`, which bind or
//! inherit the listeners, put the running parts together, and run the control loop.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::base::budget::Budget;
use crate::base::contain_panic::panic_text;
use crate::base::error::{self, Error};
use crate::base::file_budget::FileBudget;
use crate::base::limits::{Limits, Timeouts};
use crate::base::log::{self, Escaped, error, info};
use crate::base::phase::Phase;
use crate::base::threads::spawn_part;
use crate::base::wait_group::WaitGroup;
pub(crate) use crate::net::acceptor::PoolPlan;
use crate::net::acceptor::{Acceptor, AcceptorCommand, News, Parking, Setup};
use crate::net::conn_info::ConnInfo;
use crate::net::connection::{Portable, Ready};
use crate::net::listener::{Listener, ListenerConfig};
use crate::net::scheduler::queue::{Backlog, Queue};
use crate::net::sockets::{self, OpenedListeners};
use crate::net::transfer::{ResumeStreams, ServiceKeys};
use crate::process::config::{AboveConfig, ProcessConfig};
use crate::process::control::socket::Bound;
use crate::process::control::{BusyPool, Control, Facts, Inbox, Predecessor};
use crate::process::handover::above::Surroundings;
use crate::process::handover::child::Program;
use crate::process::handover::inherit::{self, Inheritance};
use crate::process::handover::pid_file::PidFile;
use crate::process::handover::{Hello, Message, Owner, Passed, VERSION, original_command, startup_output};
use crate::process::hooks::Runner;
use crate::process::signals::{self, SignalContext, SignalThread};
use crate::process::state::{Event, State, Terms};
use crate::process::stop_timeout;
use crate::process::supervise;
use crate::process::supervise::link::Link;
use crate::process::supervise::message::SupervisorMessage;
use crate::process::systemd::{self, Heir, Manager, StoredListeners};
use crate::process::terminal::{LEADER_FILE, TTY_FILE, Terminal};
use crate::server::assembly::{Assembly, Workers};
use crate::server::control_socket;
use crate::server::handle::Handle;

/// The configuration of every server, with HTTP or without.
#[derive(Default)]
pub(crate) struct Launch {
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) handle: Handle,
    pub(crate) process: ProcessConfig,
}

/// Something that can be served: HTTP, or the program's own protocol.
pub(crate) trait Service {
    /// The protocol of its connections.
    type Progress: Portable;

    /// # Errors
    /// A mistake in the configuration.
    fn plan(&mut self) -> Result<Plan, Error>;

    /// All workers have started when this returns; nothing is accepted yet.
    fn start(self, context: &Context<Self::Progress>) -> Result<ServiceParts<Self::Progress>, Error>;
}

/// Its listeners, and the pools that serve them.
pub(crate) struct Plan {
    pub(crate) listen: Vec<ListenerConfig>,
    pub(crate) pools: PoolPlan,
}

/// What a service is started with.
pub(crate) struct Context<P> {
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) handle: Handle,
    pub(crate) parking: Arc<Parking<P>>,
    pub(crate) wait_group: WaitGroup,
    /// The names of the listeners, as they were configured.
    pub(crate) listeners: Vec<String>,
    /// Descriptors besides those of connections.
    pub(crate) descriptors: Budget,
    keys: ServiceKeys,
}

/// A service that was started.
pub(crate) struct ServiceParts<P> {
    /// One for each pool.
    pub(crate) queues: Vec<Arc<Queue<Ready<P>>>>,
    /// Makes the response for a client that waited too long.
    pub(crate) busy: Box<dyn FnMut() -> Vec<u8> + Send>,
    pub(crate) workers: Arc<dyn Workers>,
    /// The files that requests may have. None where there are no requests.
    pub(crate) files: Option<Arc<FileBudget>>,
    /// None where no stream of a predecessor is continued.
    pub(crate) streams: Option<Arc<dyn ResumeStreams<P>>>,
}

/// Serves until the process should exit, with signals and handovers.
pub(crate) fn serve<S: Service>(mut launch: Launch, service: S) -> Result<(), Error> {
    inherit::adopt()?;
    let (mut inheritance, activated) = inherit::take();
    let supervisor = inherit::take_supervisor();
    let predecessor = inheritance.as_ref().map(|i| &i.predecessor);
    let blocked = match predecessor {
        Some(predecessor) => signals::blocked_at_first(&predecessor.blocked),
        None => signals::blocked(),
    };
    let blocked = blocked.map_err(Error::system("can't read the signal mask"))?;
    let context = signal_context(predecessor, supervisor.as_ref());
    let command = predecessor.and_then(|predecessor| predecessor.command.as_ref());
    let process = &mut launch.process;
    process.check_variables()?;
    let program = Program::capture(process.executable.as_deref(), command, &process.variables, blocked)
        .map_err(Error::system("can't find out how this process was started"))?;
    if process.above.supervise && predecessor.is_none() && supervisor.is_none() {
        let failed = Error::system("can't become the supervisor");
        return Err(failed(supervise::replace_by_supervisor(&program, activated)));
    }
    let mut facts = facts(&process.above, predecessor, &activated, supervisor);
    (facts.nohup, facts.terminal, facts.program) = (context.nohup, context.terminal.clone(), Some(program));
    warn_of_short_stop(&launch.timeouts, &process.above, &facts);

    let (actions, signal_hooks) = (process.signals, std::mem::take(&mut process.signal_hooks));
    let installed = signals::install(&blocked).map_err(Error::system("can't handle signals"));
    let started = installed.and_then(|installed| {
        let inherited = inheritance.as_mut().map_or(activated, |i| std::mem::take(&mut i.listeners));
        let started = start(launch, service, inherited, facts)?;
        let inbox = Arc::clone(&started.handle.shared.inbox);
        let hook_runner = signal_hooks.start()?;
        let on_signal = move |signal, request: Option<_>| {
            let inbox = Arc::clone(&inbox);
            hook_runner
                .dispatch(signal, move || request.into_iter().for_each(|request| inbox.request(request)));
        };
        let signals =
            installed.start(actions, context, on_signal).map_err(Error::system("can't handle signals"))?;
        Ok((started, signals))
    });
    match started {
        Ok((started, signals)) => {
            if let Some(above) = started.facts.refusal() {
                info!("a HUP will have no effect: {above}"; reason:% = Escaped(above));
            }
            startup_output::restore_stderr();
            started.run(inheritance, Some(signals))
        }
        Err(e) => {
            if let Some(inheritance) = &mut inheritance {
                inheritance.lifecycle.send(&Message::failed(&e));
            }
            Err(e)
        }
    }
}

/// The generation of this process, and the processes above it. Reports this process to its supervisor.
fn facts(
    above: &AboveConfig,
    predecessor: Option<&Hello>,
    activated: &[Passed],
    supervisor: Option<Link>,
) -> Facts {
    if let Some(supervisor) = &supervisor {
        supervisor.send(&SupervisorMessage::Here { pid: nix::unistd::getpid().as_raw() });
    }
    let generation = predecessor.map_or(1, |predecessor| predecessor.generation.saturating_add(1));
    log::set_generation(generation);
    let surroundings = match predecessor {
        Some(predecessor) => Surroundings { above: predecessor.above, script: None },
        None if supervisor.is_some() => Surroundings::default(),
        None => original_command::noted().surroundings.clone(),
    };
    let heir = predecessor.map_or(Heir::First, |_| Heir::Successor);
    let stored = activated.iter().filter(|passed| passed.owner == Owner::Server);
    let listeners = stored.map(|passed| passed.name.clone()).collect();
    let store = StoredListeners { enabled: above.store_listeners, listeners };
    let manager = Manager::found(generation, heir, store, supervisor.as_ref().map(Link::sender));
    let under_any_parent = above.under_any_parent;
    Facts { generation, surroundings, under_any_parent, manager, supervisor, ..Facts::default() }
}

/// Logs once for the service that a stop may be cut short. A service manager that is notified gives it more time.
fn warn_of_short_stop(timeouts: &Timeouts, above: &AboveConfig, facts: &Facts) {
    let longest = timeouts.lame_duck.saturating_add(timeouts.drain);
    let is_first = facts.generation == 1 && facts.manager.is_none();
    if is_first {
        stop_timeout::warn_if_short(longest, above.stop_timeout);
    }
}

/// The state of this process on which the meaning of a signal depends.
fn signal_context(predecessor: Option<&Hello>, supervisor: Option<&Link>) -> SignalContext {
    let terminal = match inherit::inherited_fd(TTY_FILE) {
        Some(tty) => Terminal::inherited(tty, inherit::inherited_fd(LEADER_FILE)).map(Some),
        None => Terminal::controlling(),
    };
    let manager_pid = systemd::manager_pid(predecessor.map(|predecessor| predecessor.pid));
    let nohup = predecessor.map(|predecessor| predecessor.nohup);
    let mut context = SignalContext::now(nohup, terminal, manager_pid);
    context.is_supervised = supervisor.is_some();
    context
}

/// Serves in the background, without signals and without handovers.
pub(crate) fn spawn<S: Service>(launch: Launch, service: S) -> Result<RunningServer, Error> {
    let facts = Facts { generation: 1, ..Facts::default() };
    let started = start(launch, service, Vec::new(), facts)?;
    let handle = started.handle.clone();
    let addresses = started.assembly.addresses();
    let thread = thread::Builder::new().name("heirloom-control".into());
    let thread = spawn_part(thread, move || started.run(None, None))
        .map_err(Error::system("no thread for the control loop"))?;
    handle.shared.phase.wait_started();
    let mut running = RunningServer { handle, addresses, thread: Some(thread) };
    if running.handle.phase() == Phase::Exited {
        // The loop could not start, and says why.
        running.end()?;
    }
    Ok(running)
}

/// Starts everything but the control loop.
fn start<S: Service>(
    mut launch: Launch,
    mut service: S,
    inherited: Vec<Passed>,
    mut facts: Facts,
) -> Result<Started<S::Progress>, Error> {
    launch.limits.check()?;
    launch.timeouts.check()?;
    let Plan { listen, pools } = service.plan()?;
    check_names(&listen)?;
    let descriptors = launch.share_descriptors(pools.workers.len(), listen.len().max(inherited.len()));
    let Launch { limits, timeouts, handle, process } = launch;
    facts.version.clone_from(&process.version);
    let terms = terms(&timeouts, &process.above, &facts);
    let Acquired { listeners, adopted, unlink, outside } =
        acquire(process, listen, inherited, &handle, facts.generation)?;
    let reserved: Vec<bool> = listeners.iter().map(|listener| listener.config.reserved).collect();
    let longest_backlog = listeners.iter().map(|listener| listener.config.backlog).max().unwrap_or_default();
    let parking = Parking::new(&limits, &reserved, longest_backlog, pools, timeouts.idle)
        .map_err(Error::system("can't create the acceptor's poller"))?;
    handle.shared.phase.spread_closes(timeouts.close_spread, timeouts.idle_grace);
    let context = Context {
        limits,
        timeouts,
        handle,
        parking: Arc::new(parking),
        wait_group: WaitGroup::new(),
        listeners: listeners.iter().map(|listener| listener.config.name.clone()).collect(),
        descriptors,
        keys: ServiceKeys::of(&listeners),
    };
    let parts = service.start(&context)?;
    context.handle.shared.generation.store(facts.generation, Ordering::Relaxed);
    let (queues, workers) = (parts.queues.clone(), Arc::clone(&parts.workers));
    facts.resumes = parts.streams.as_ref().map(|streams| streams.names()).unwrap_or_default();
    let setup = acceptor_setup(&context, listeners.clone(), parts);
    let handle = context.handle.clone();
    let assembly = assemble(context, listeners, queues, workers);
    let acceptor = start_acceptor(Acceptor::new(setup), Arc::clone(&handle.shared.inbox))?;
    unlink.disarm();
    Ok(Started { handle, assembly, acceptor, terms, adopted, facts, outside })
}

/// The terms of the lifecycle.
fn terms(timeouts: &Timeouts, above: &AboveConfig, facts: &Facts) -> Terms {
    let is_managed = facts.manager.is_some();
    // A supervisor stays the main process.
    let may_lose_main = is_managed && facts.supervisor.is_none();
    Terms {
        ready: timeouts.ready,
        probation: timeouts.probation,
        drain: timeouts.drain,
        lame_duck: timeouts.lame_duck,
        without_main: may_lose_main.then_some(above.drain_without_main),
        is_stored: is_managed && above.store_listeners,
    }
}

/// Everything outside of the process that a server holds while it runs.
struct Acquired {
    listeners: Vec<Listener>,
    adopted: Vec<String>,
    unlink: UnlinkOnFailure,
    outside: (Runner, Option<PidFile>, Option<Bound>),
}

/// Opens the listeners, the pid file and the control socket, and runs the hooks that come before serving.
fn acquire(
    process: ProcessConfig,
    listen: Vec<ListenerConfig>,
    inherited: Vec<Passed>,
    handle: &Handle,
    generation: u32,
) -> Result<Acquired, Error> {
    let pid_file = process.places.pid_file.as_deref().map(usable_pid_file).transpose()?;
    let mut unlink = UnlinkOnFailure(Vec::new());
    let OpenedListeners { listeners, adopted } =
        sockets::open(listen, inherited, &mut |listener| unlink.0.push(listener.clone()))?;
    if listeners.is_empty() {
        return Err(Error::config("nothing to listen on: call `listen`"));
    }
    for hook in process.before_ready {
        hook().map_err(|e| Error::config(format!("before_ready failed: {e}")))?;
    }
    if let Some(pid_file) = &pid_file {
        pid_file.try_replace().map_err(|e| not_replaceable(pid_file, e))?;
    }
    let control_socket = process.places.control_socket.as_deref().map(control_socket::open).transpose()?;
    inherit::close_files();

    process.files.into_iter().for_each(|(name, fd)| handle.pass_fd(name, fd));
    let (mut hooks, is_first) = (process.hooks, generation == 1);
    if is_first {
        hooks.acquire_first()?;
    }
    let inbox = Arc::clone(&handle.shared.inbox);
    let hooks = Runner::start(hooks, is_first, move |ticket, result| inbox.hook(ticket, result))?;
    Ok(Acquired { listeners, adopted, unlink, outside: (hooks, pid_file, control_socket) })
}

/// Puts together the running parts, as the control loop sees them.
fn assemble<P: Portable>(
    context: Context<P>,
    listeners: Vec<Listener>,
    queues: Vec<Arc<Queue<Ready<P>>>>,
    workers: Arc<dyn Workers>,
) -> Arc<Assembly<P>> {
    let shared = &context.handle.shared;
    let assembly = Arc::new(Assembly {
        listeners: Mutex::new(listeners),
        parking: context.parking,
        wait_group: context.wait_group,
        queues,
        workers,
        grace: context.timeouts.idle_grace,
        connections_limit: context.limits.connections,
        files: Arc::clone(&shared.files),
        names: context.listeners,
        records: Arc::clone(&shared.records),
        keys: context.keys,
    });
    let inbox = Arc::clone(&shared.inbox);
    assembly.wait_group.report_ends(move || inbox.event(Event::Drained));
    let _ = shared.gauges.set(Arc::clone(&assembly) as _);
    assembly
}

/// The parts of the acceptor, which reports to the control loop.
fn acceptor_setup<P: Portable>(
    context: &Context<P>,
    listeners: Vec<Listener>,
    ServiceParts { queues, busy, files, streams, .. }: ServiceParts<P>,
) -> Setup<P> {
    let shared = &context.handle.shared;
    let generation = shared.generation.load(Ordering::Relaxed);
    let inbox = Arc::clone(&shared.inbox);
    Setup {
        parking: Arc::clone(&context.parking),
        listeners,
        queues,
        queue_wait: context.timeouts.queue_wait,
        limits: context.limits.clone(),
        process: ConnInfo { files, ..ConnInfo::new(None, shared.phase.clone(), generation) },
        all_counters: shared.records.counters.clone(),
        keys: context.keys.clone(),
        streams,
        busy,
        report: Arc::new(move |news| {
            inbox.event(match news {
                News::ListenersClosed => Event::ListenersClosed,
                News::Drained => Event::Drained,
                News::Checked(outcome) => Event::Checked(outcome),
                News::Progressed => return inbox.progressed(),
                News::AllBusy { pool, backlog: Backlog { connections, waits } } => {
                    return inbox.all_busy(BusyPool { pool, connections, waits });
                }
            });
        }),
    }
}

/// Starts the thread of the acceptor. If that ends early, the process is aborted.
fn start_acceptor<P: Portable>(
    acceptor: Acceptor<P>,
    inbox: Arc<Inbox>,
) -> Result<JoinHandle<Result<(), Error>>, Error> {
    let run = move || {
        let outcome = match catch_unwind(AssertUnwindSafe(|| acceptor.run())) {
            Ok(ran) => ran.map_err(Error::system("the acceptor can't wait for events")),
            Err(panic) => Err(Error::new(
                error::ErrorKind::System,
                format!("the acceptor panicked: {}", panic_text(&*panic)),
            )),
        };
        if let Err(e) = &outcome {
            // Without the acceptor nothing times out, and no listener is opened or closed.
            error!("{e}: this process can't continue");
            inbox.event(Event::Abort);
        }
        outcome
    };
    let thread = thread::Builder::new().name("heirloom-acceptor".into());
    spawn_part(thread, run).map_err(Error::system("no thread for the acceptor"))
}

fn check_names(listen: &[ListenerConfig]) -> Result<(), Error> {
    // Port 0 is a different port each time.
    let mut names = listen.iter().map(|listener| &listener.name).filter(|name| !name.ends_with(":0"));
    while let Some(name) = names.next() {
        if names.clone().any(|other| other == name) {
            return Err(Error::config(format!("can't listen on {name} twice: remove one")));
        }
    }
    Ok(())
}

/// Listeners of a start that may still fail: then the paths of their sockets are removed.
struct UnlinkOnFailure(Vec<Listener>);

impl UnlinkOnFailure {
    /// The start has succeeded.
    fn disarm(mut self) {
        self.0.clear();
    }
}

impl Drop for UnlinkOnFailure {
    fn drop(&mut self) {
        self.0.iter().for_each(Listener::unlink);
    }
}

/// A server whose parts run, and whose control loop does not yet.
struct Started<P> {
    handle: Handle,
    assembly: Arc<Assembly<P>>,
    acceptor: JoinHandle<Result<(), Error>>,
    terms: Terms,
    adopted: Vec<String>,
    facts: Facts,
    outside: (Runner, Option<PidFile>, Option<Bound>),
}

impl<P: Portable> Started<P> {
    fn run(self, inheritance: Option<Inheritance>, mut signals: Option<SignalThread>) -> Result<(), Error> {
        let (state, predecessor) = match inheritance {
            Some(inheritance) => {
                let Inheritance { mut lifecycle, connections, predecessor, state, .. } = inheritance;
                lifecycle.send(&Message::Hello(Hello {
                    version: VERSION,
                    generation: self.facts.generation,
                    pid: nix::unistd::getpid().as_raw(),
                    command: None,
                    ..predecessor
                }));
                self.assembly.parking.command(AcceptorCommand::TakeConnections(connections));
                let predecessor = Predecessor { channel: lifecycle, pid: predecessor.pid, state };
                (State::successor(self.terms, self.adopted, self.facts.resumes.clone()), Some(predecessor))
            }
            None => (State::first(self.terms), None),
        };
        let watched = (&*self.handle.shared.inbox, &self.handle.shared.phase);
        // After an error or a panic, too: other threads wait for the phase.
        let _exited = watched.1.exited_on_drop();
        let outcome = Control::new(state, self.facts, self.outside, &*self.assembly, watched, predecessor)
            .and_then(Control::run);
        let finished = self.assembly.finish(self.acceptor, &mut || drop(signals.take()));
        drop(signals);
        outcome.and(finished)
    }
}

/// A server that runs in the background, by [`Server::spawn`](crate::Server::spawn). Dropping it drains it and waits for
/// its end.
#[derive(Debug)]
pub struct RunningServer {
    handle: Handle,
    addresses: Vec<SocketAddr>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl RunningServer {
    /// The handle that controls the server.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The addresses of its TCP listeners, in the order of their `listen`.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Drains the server and waits for its end, at most [`Timeouts::drain`](crate::Timeouts::drain).
    ///
    /// # Errors
    /// As [`Server::serve`](crate::Server::serve).
    pub fn stop(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        self.handle.shutdown();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(Error::new(error::ErrorKind::System, "the control loop panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.end();
        }
    }
}

/// Tests that the pid file can be written, because at COMMIT it would be too late to refuse.
fn usable_pid_file(path: &Path) -> Result<PidFile, Error> {
    let file = PidFile::new(path).and_then(|file| file.try_out().map(|()| file));
    file.map_err(|e| {
        let advice = match e.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => ": its directory must exist",
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ": its directory must be writable",
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ": make room",
            // A directory, or an empty path.
            ErrorKind::IsADirectory | ErrorKind::InvalidInput => ": expected the path of a file",
            _ => "",
        };
        Error::io(error::ErrorKind::Config, format!("can't write the pid file {}{advice}", path.display()), e)
    })
}

/// The file was usable at startup: a hook has changed the user, or another user's file is in a directory like /tmp.
fn not_replaceable(file: &PidFile, e: io::Error) -> Error {
    let uid = nix::unistd::geteuid();
    let text = format!(
        "can't replace the pid file {} as uid {uid}, which will serve, and no handover would succeed: \
         put it into a directory of that user, such as one made by root (chown {uid}) before the user is changed",
        file.path().display()
    );
    Error::io(error::ErrorKind::Config, text, e)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Instant;

    use super::*;
    use crate::base::status::{InFlight, Stats};

    /// A service whose first connection is the acceptor's death.
    struct FailingService;

    struct Fatal;

    impl Default for Fatal {
        fn default() -> Fatal {
            panic!("as it is meant to");
        }
    }

    impl Portable for Fatal {
        fn is_portable(&self, _: usize, _: usize) -> bool {
            false
        }

        fn pack(&mut self, _: &mut Vec<u8>) -> Option<Instant> {
            None
        }

        fn unpack(_: Option<Instant>) -> Fatal {
            Fatal
        }
    }

    struct NoWorkers;

    impl Workers for NoWorkers {
        fn add_to(&self, _: &mut Stats) {}

        fn in_flight(&self) -> Vec<InFlight> {
            Vec::new()
        }

        fn unnamed(&self) -> &'static str {
            "nothing"
        }

        fn finish(&self, _: &mut dyn FnMut()) -> Result<(), Error> {
            Ok(())
        }
    }

    impl Service for FailingService {
        type Progress = Fatal;

        fn plan(&mut self) -> Result<Plan, Error> {
            let pools = PoolPlan { workers: vec![0], of_handler: vec![0] };
            Ok(Plan { listen: vec![ListenerConfig::new("127.0.0.1:0".to_owned(), 0)], pools })
        }

        fn start(self, _: &Context<Fatal>) -> Result<ServiceParts<Fatal>, Error> {
            let queues = vec![Arc::new(Queue::new(0, 1))];
            let workers = Arc::new(NoWorkers);
            Ok(ServiceParts { queues, busy: Box::new(Vec::new), workers, files: None, streams: None })
        }
    }

    #[test]
    fn a_server_does_not_outlive_its_acceptor() {
        let mut running = spawn(Launch::default(), FailingService).unwrap();
        let _client = TcpStream::connect(running.addresses()[0]).unwrap();
        // It has ended without a stop.
        let outcome = running.thread.take().unwrap().join().unwrap();
        assert_eq!(outcome.unwrap_err().to_string(), "the acceptor panicked: as it is meant to");
    }
}
