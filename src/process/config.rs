//! What a program configures of its process, whatever it serves.
//!
//! All of it is one value, given to `Server::process` or `StreamServer::process`: each option is documented once and is
//! an ordinary method, and a program can build its configuration in a function of its own. The servers themselves have
//! only what every program sets: limits, timeouts and the handle.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::error::{BoxError, Chain, Error, in_one_line};
use crate::base::log_file::LogFile;
use crate::base::phase::Phase;
use crate::process::handover::original_command;
use crate::process::hooks::{HandoverState, Hooks, SignalHooks};
use crate::process::signals::{Signal, Signals};
use crate::process::systemd::WITHOUT_MAIN;

/// How the process of a server starts, hands over and ends: its pid file, its environment, its signals, and the
/// program's own hooks.
///
/// ```no_run
/// use heirloom::prelude::*;
///
/// # fn warm_up() -> std::io::Result<()> { Ok(()) }
/// # fn flush() {}
/// fn main() -> Result<(), heirloom::Error> {
///     let process = ProcessConfig::new()
///         .pid_file("/run/app/app.pid")
///         .before_ready(warm_up) // an error, and the old process continues to serve
///         .on_exit(flush);
///     Server::new(|_: Request| "ok\n").listen("127.0.0.1:8001").process(process).serve()
/// }
/// ```
#[must_use]
pub struct ProcessConfig {
    pub(crate) places: Places,
    pub(crate) version: Option<String>,
    pub(crate) executable: Option<PathBuf>,
    /// None: to be removed.
    pub(crate) variables: Vec<(OsString, Option<OsString>)>,
    pub(crate) raise_nofile: bool,
    pub(crate) above: AboveConfig,
    pub(crate) before_ready: Vec<BeforeReady>,
    pub(crate) hooks: Hooks,
    pub(crate) signals: Signals,
    pub(crate) signal_hooks: SignalHooks,
    pub(crate) files: Vec<(String, OwnedFd)>,
}

/// Where the server is found from outside.
#[derive(Default)]
pub(crate) struct Places {
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) control_socket: Option<PathBuf>,
}

/// What the process does about the one above it.
pub(crate) struct AboveConfig {
    pub(crate) under_any_parent: bool,
    pub(crate) supervise: bool,
    pub(crate) store_listeners: bool,
    pub(crate) drain_without_main: Duration,
    /// How long it waits for a stop, if that is known.
    pub(crate) stop_timeout: Option<Duration>,
}

type BeforeReady = Box<dyn FnOnce() -> Result<(), String> + Send>;

fn text(error: impl Into<BoxError>) -> String {
    Chain(&*error.into()).to_string()
}

/// For the log.
fn line(error: impl Into<BoxError>) -> String {
    in_one_line(&text(error))
}

impl ProcessConfig {
    /// The defaults.
    pub fn new() -> ProcessConfig {
        ProcessConfig {
            places: Places::default(),
            version: None,
            executable: None,
            variables: Vec::new(),
            raise_nofile: true,
            above: AboveConfig {
                under_any_parent: false,
                supervise: false,
                store_listeners: false,
                drain_without_main: WITHOUT_MAIN,
                stop_timeout: None,
            },
            before_ready: Vec::new(),
            hooks: Hooks::default(),
            signals: Signals::default(),
            signal_hooks: SignalHooks::default(),
            files: Vec::new(),
        }
    }

    /// A file that names the process that owns the service: written by rename when serving starts, moved to the
    /// successor at COMMIT, removed at the end. Default: none.
    ///
    /// The user that serves must be able to replace it: if [`before_ready`](Self::before_ready) changes the user, put
    /// it into a directory of that user. Otherwise `serve` returns an error.
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> ProcessConfig {
        self.places.pid_file = Some(path.into());
        self
    }

    /// A unix socket for operators: its one-line commands report what the server does, start an upgrade and tell its
    /// result, or stop the server. [`guide::control`](crate::guide::control) has them, and the program `heirloomctl` uses them.
    /// Default: none.
    ///
    /// The socket has mode 0600, and only the user that serves and the superuser are answered. It moves with handovers:
    /// the path leads to the process that owns the service. Like the pid file it belongs in a directory of that user.
    pub fn control_socket(mut self, path: impl Into<PathBuf>) -> ProcessConfig {
        self.places.control_socket = Some(path.into());
        self
    }

    /// The program's version, which `/status` shows for each generation: `version(env!("CARGO_PKG_VERSION"))`. Default: none.
    pub fn version(mut self, version: impl Into<String>) -> ProcessConfig {
        self.version = Some(version.into());
        self
    }

    /// The program to start at a handover. Default: the path by which this process was started; its symlinks are
    /// resolved again each time.
    pub fn executable(mut self, path: impl Into<PathBuf>) -> ProcessConfig {
        self.executable = Some(path.into());
        self
    }

    /// Sets a variable in the environment of the next generation. That gets the environment with which the first one
    /// was started, whatever the program has set since; a variable that is passed on stays for the generations after
    /// it, until it is set again or removed.
    ///
    /// `serve` returns an error if the name is empty or contains a `=`, if either contains a NUL, or if the name is
    /// addressed to one process (`HEIRLOOM_HANDOVER`, `LISTEN_FDS`, `WATCHDOG_USEC` and the like).
    pub fn pass_env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> ProcessConfig {
        self.variables.push((name.into(), Some(value.into())));
        self
    }

    /// Removes a variable from the environment of the next generation. Errors as for [`pass_env`](Self::pass_env).
    pub fn remove_env(mut self, name: impl Into<OsString>) -> ProcessConfig {
        self.variables.push((name.into(), None));
        self
    }

    /// Passes an open file, socket or pipe on to the next generation: see
    /// [`Handle::pass_fd`](crate::Handle::pass_fd).
    pub fn pass_fd(mut self, name: impl Into<String>, fd: impl Into<OwnedFd>) -> ProcessConfig {
        self.files.push((name.into(), fd.into()));
        self
    }

    /// Whether the soft limit of open files (`RLIMIT_NOFILE`) is raised to the hard one, so that as many connections
    /// are possible as the host allows. Default: yes.
    ///
    /// Programs that handlers start inherit the limit. If one of them needs the usual 1,024, because it uses
    /// `select()` or closes every possible descriptor, switch this off, or start it by `prlimit --nofile=1024:`. It
    /// takes effect with a new first generation: a successor inherits the limit that its predecessor has raised.
    pub fn raise_nofile(mut self, raise: bool) -> ProcessConfig {
        self.raise_nofile = raise;
        self
    }

    /// Allows handovers under a process that is known to take the end of generation 1 for the end of the service. Without
    /// this, a HUP is refused there, with an error in the log that says what to write instead: see
    /// [`guide::handover`](crate::guide::handover). It does not apply to PID 1, with which the kernel ends its container.
    pub fn handover_under_any_parent(mut self) -> ProcessConfig {
        self.above.under_any_parent = true;
        self
    }

    /// Has systemd keep the listeners while the service runs, so that clients wait in the backlog when the service crashes and
    /// is restarted, instead of being refused. The unit needs `FileDescriptorStoreMax=`. At a stop they are closed as usual.
    /// It has an effect with the feature `systemd`, in a service that notifies: see [`guide::systemd`](crate::guide::systemd).
    pub fn store_listeners(mut self) -> ProcessConfig {
        self.above.store_listeners = true;
        self
    }

    /// How long a generation that has handed over may still drain when the main process of a systemd service has died.
    /// systemd restarts the service only when every process of it has ended. Default: 5 s.
    pub fn drain_without_main(mut self, time: Duration) -> ProcessConfig {
        self.above.drain_without_main = time;
        self
    }

    /// Declares how long the supervisor waits between TERM and SIGKILL: `stop_grace_period` of Docker Compose,
    /// `terminationGracePeriodSeconds` of Kubernetes, `stopwaitsecs` of supervisord. If a stop may take as long
    /// ([`Timeouts::drain`](crate::Timeouts::drain) and [`lame_duck`](crate::Timeouts::lame_duck)), the log has a warning at the
    /// start. Nothing else depends on it. Default: not known, and in a container its default is compared.
    pub fn stop_timeout(mut self, time: Duration) -> ProcessConfig {
        self.above.stop_timeout = Some(time);
        self
    }

    /// Keeps one pid for the whole life of the service: this process becomes a supervisor, which starts the serving generations
    /// as its children, restarts them when they crash, and ends with them. Send HUP and TERM to it; the pid file names
    /// it. For containers, runit, s6, supervisord and terminals.
    ///
    /// `serve` replaces this process by the same program, which becomes the supervisor before `main` is called: it has nothing
    /// of the program's. As PID 1 a program that calls [`init`](crate::handover::init) first needs no `supervise`.
    pub fn supervise(mut self) -> ProcessConfig {
        self.above.supervise = true;
        self
    }

    /// Runs before this generation reports that it is prepared: warm-up, a check of its own. If it returns an error,
    /// or takes longer than [`Timeouts::ready`](crate::Timeouts::ready), the predecessor continues to serve.
    pub fn before_ready<E: Into<BoxError>>(
        mut self,
        hook: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> ProcessConfig {
        self.before_ready.push(Box::new(|| hook().map_err(text)));
        self
    }

    /// Hands over a resource that only one generation may hold: a lock, a single-writer store, a consumer's position.
    ///
    /// `release` releases it when a successor is prepared, before the successor serves. It returns `()` or a
    /// [`HandoverState`], which the successor's `acquire` gets. If it returns an error,
    /// or takes longer than [`Timeouts::ready`](crate::Timeouts::ready), there is no handover. This process continues
    /// to serve the connections it has.
    ///
    /// `acquire` acquires it, before anything is accepted: in a first generation when it starts, in a successor after its
    /// predecessor's `release`, and again in that predecessor, with the state that it had released, if the handover
    /// fails. The state is empty in a first generation and after a crash. An error ends this generation: its
    /// predecessor continues to serve. After a crash the resource may be held for another moment: wait for it in
    /// `acquire`.
    ///
    /// Both run on the hooks' thread, as all hooks but `before_ready` do, one after the other.
    ///
    /// ```
    /// use heirloom::handover::HandoverState;
    /// use heirloom::prelude::*;
    ///
    /// # fn close_store() -> std::io::Result<()> { Ok(()) }
    /// # fn open_store() -> std::io::Result<()> { Ok(()) }
    /// let process = ProcessConfig::new().exclusive(close_store, |_: HandoverState| open_store());
    /// # let _ = process;
    /// ```
    pub fn exclusive<S: Into<HandoverState>, E: Into<BoxError>, F: Into<BoxError>>(
        mut self,
        mut release: impl FnMut() -> Result<S, E> + Send + 'static,
        mut acquire: impl FnMut(HandoverState) -> Result<(), F> + Send + 'static,
    ) -> ProcessConfig {
        self.hooks.release = Some(Box::new(move || release().map(Into::into).map_err(line)));
        self.hooks.acquire = Some(Box::new(move |state| acquire(state).map_err(line)));
        self
    }

    /// Runs at each [`Phase`] that this process enters.
    pub fn on_phase(mut self, hook: impl FnMut(Phase) + Send + 'static) -> ProcessConfig {
        self.hooks.phase.push(Box::new(hook));
        self
    }

    /// Runs when the drain starts, at a stop or after a handover. The exit waits for it, until the drain deadline.
    pub fn on_drain(mut self, hook: impl FnOnce() + Send + 'static) -> ProcessConfig {
        self.hooks.drain.push(Box::new(hook));
        self
    }

    /// Runs when every request is complete, before `serve` returns: to flush, to write statistics. It has until the
    /// drain deadline, and at least a second; then `serve` returns without it and logs that.
    pub fn on_exit(mut self, hook: impl FnOnce() + Send + 'static) -> ProcessConfig {
        self.hooks.exit.push(Box::new(hook));
        self
    }

    /// What each signal means. Default: HUP hands over, TERM, INT and QUIT stop, USR1 reports.
    pub fn signals(mut self, signals: Signals) -> ProcessConfig {
        self.signals = signals;
        self
    }

    /// Runs when `signal` arrives, before what it means is done: for USR1, to reopen log files. Several hooks run in
    /// the order in which they were given, on a thread of their own. A signal that arrives again while they run does
    /// not wait for them: a hook that hangs does not keep a signal from stopping the server.
    pub fn on_signal(mut self, signal: Signal, hook: impl FnMut() + Send + 'static) -> ProcessConfig {
        self.signal_hooks.before.push((signal, Box::new(hook)));
        self
    }

    /// Opens a log file again when USR1 arrives, before the program's own hooks that are given later.
    pub fn log_file(self, file: &LogFile) -> ProcessConfig {
        let file = file.clone();
        self.on_signal(Signal::Usr1, move || file.reopen_or_log())
    }

    /// As [`on_signal`](Self::on_signal), after what the signal means was started: a handover or a drain has started
    /// then, and is not over ([`on_phase`](Self::on_phase) reports that).
    pub fn after_signal(mut self, signal: Signal, hook: impl FnMut() + Send + 'static) -> ProcessConfig {
        self.signal_hooks.after.push((signal, Box::new(hook)));
        self
    }

    /// # Errors
    /// A variable that can't be passed on.
    pub(crate) fn check_variables(&self) -> Result<(), Error> {
        for (name, value) in &self.variables {
            let has = |text: &OsString, byte: u8| text.as_bytes().contains(&byte);
            let why = if name.is_empty() || has(name, b'=') || has(name, 0) {
                "its name must not contain = or NUL"
            } else if value.as_ref().is_some_and(|value| has(value, 0)) {
                "its value contains a NUL"
            } else if original_command::is_addressed(name) {
                "it is addressed to one process"
            } else {
                continue;
            };
            let name = name.to_string_lossy();
            return Err(Error::config(format!("can't pass on the variable {name}: {why}")));
        }
        Ok(())
    }
}

impl Default for ProcessConfig {
    fn default() -> ProcessConfig {
        ProcessConfig::new()
    }
}

impl fmt::Debug for ProcessConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessConfig")
            .field("pid_file", &self.places.pid_file)
            .field("control_socket", &self.places.control_socket)
            .field("version", &self.version)
            .field("executable", &self.executable)
            .field("raise_nofile", &self.raise_nofile)
            .field("signals", &self.signals)
            .finish_non_exhaustive()
    }
}
