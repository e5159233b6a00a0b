//! The handle of a server: does what signals do, for programs that handle signals themselves, and reports phase and
//! statistics.

use std::fmt;
use std::os::fd::OwnedFd;
#[cfg(feature = "admin")]
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::base::phase::{Phase, PhaseWatch, Waited};
use crate::base::records::Records;
#[cfg(feature = "admin")]
use crate::base::status::RunningHandler;
use crate::base::status::{Gauges, Stats};
use crate::base::sync::lock;
use crate::process::control::Inbox;
use crate::process::state::Event;
#[cfg(feature = "admin")]
use crate::server::admin::program::ProgramHooks;
use crate::server::assembly::Files;

/// Controls and observes a server from any thread. Clones belong to the same server. A request that is made before the
/// server serves takes effect when it does.
///
/// ```
/// use heirloom::prelude::*;
///
/// let server = Server::new(|_: Request| "ok\n").listen("127.0.0.1:0");
/// let handle = server.handle();
/// let running = server.spawn().unwrap();
/// assert!(!handle.phase().is_draining());
/// assert_eq!(handle.stats().requests, 0);
/// handle.shutdown();
/// running.stop().unwrap();
/// ```
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<HandleState>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("phase", &self.phase()).finish_non_exhaustive()
    }
}

pub(crate) struct HandleState {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) phase: PhaseWatch,
    pub(crate) records: Arc<Records>,
    pub(crate) generation: AtomicU32,
    pub(crate) files: Files,
    pub(crate) gauges: OnceLock<Arc<dyn Gauges>>,
    /// What the program adds for operators.
    #[cfg(feature = "admin")]
    pub(in crate::server) program: Mutex<ProgramHooks>,
}

impl Handle {
    /// A handle without a server: [`Server::with_handle`](crate::Server::with_handle) connects it to one. For handlers that
    /// need a handle before the server is built.
    pub fn new() -> Handle {
        Handle {
            shared: Arc::new(HandleState {
                inbox: Arc::default(),
                phase: PhaseWatch::new(),
                records: Arc::default(),
                generation: AtomicU32::new(1),
                files: Arc::default(),
                gauges: OnceLock::new(),
                #[cfg(feature = "admin")]
                program: Mutex::default(),
            }),
        }
    }

    /// Starts a successor and hands over to it, as HUP does.
    pub fn handover(&self) {
        self.shared.inbox.event(Event::Handover);
    }

    /// Completes the requests in flight and exits, as the first TERM does; repeated calls have no further effect.
    pub fn shutdown(&self) {
        self.shared.inbox.event(Event::Drain);
    }

    /// Aborts the requests in flight and exits, as a second TERM does. `serve` then returns
    /// [`ErrorKind::Aborted`](crate::ErrorKind::Aborted) if there were any.
    pub fn abort(&self) {
        self.shared.inbox.event(Event::Abort);
    }

    /// Passes an open file, socket or pipe on to the next generation, which gets it from
    /// [`inherited_fd`](crate::handover::inherited_fd) by this name: the same open file, with its position and
    /// its locks. It is passed at each handover that starts from now on; another file with the same name replaces it. Each
    /// generation passes on its own files only: call this again in the next one to keep it.
    pub fn pass_fd(&self, name: impl Into<String>, fd: impl Into<OwnedFd>) {
        let mut files = lock(&self.shared.files);
        files.insert(name.into(), Arc::new(fd.into()));
    }

    /// The phase of the process.
    pub fn phase(&self) -> Phase {
        self.shared.phase.get()
    }

    /// Waits until the process drains, for `timeout` at most. [`Timeouts::close_spread`](crate::Timeouts::close_spread) does not delay it.
    pub fn wait_draining(&self, timeout: Duration) -> Waited {
        self.shared.phase.wait_draining(timeout)
    }

    /// A snapshot of the server's counters and gauges.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::new(self.shared.generation.load(Ordering::Relaxed), self.phase());
        self.shared.records.counters.add_up(&mut stats);
        if let Some(gauges) = self.shared.gauges.get() {
            gauges.add_to(&mut stats);
        }
        stats
    }

    /// The handlers and streams that run now.
    #[cfg(feature = "admin")]
    pub(crate) fn handlers(&self) -> Vec<RunningHandler> {
        self.shared.gauges.get().map(|gauges| gauges.handlers()).unwrap_or_default()
    }

    #[cfg(feature = "admin")]
    fn program(&self) -> ProgramHooks {
        lock(&self.shared.program).clone()
    }

    /// Whether new clients should come: not in a lame duck, in a drain, and when the program says so. The reason if not.
    #[cfg(feature = "admin")]
    pub(in crate::server) fn check_ready(&self) -> Result<(), String> {
        match self.phase() {
            phase if phase.is_ready() => self.program().check_ready(),
            phase => Err(phase.to_string()),
        }
    }

    /// The metrics in the text format of Prometheus, version 0.0.4, for a handler of your own: `docs/metrics.md` has each. The
    /// histograms of requests are among them if the server has an admin listener, or [`admin::routes`](crate::admin::routes)
    /// was called for this handle before it serves. Those of [`Server::metrics`](crate::Server::metrics) follow.
    #[cfg(feature = "admin")]
    pub fn metrics(&self) -> String {
        let (stats, records) = (self.stats(), &self.shared.records);
        let version = records.version_of(stats.generation);
        let requests = records.counters.requests.totals();
        let ready = self.check_ready().is_ok();
        let mut text = crate::server::admin::metrics::text(&stats, ready, &requests, version.as_deref());
        self.program().write_metrics(&mut text);
        text
    }

    // A bound without a lifetime in it would be an error here, and not where this is called.
    #[cfg(not(feature = "admin"))]
    #[doc(hidden)]
    pub fn metrics<'a>(&'a self) -> String
    where
        &'a Handle: crate::web::missing::Admin,
    {
        crate::web::missing::Admin::never(&self)
    }
}

impl Default for Handle {
    fn default() -> Handle {
        Handle::new()
    }
}
