//! The notifications to a service manager: which one follows from which step of the lifecycle. `activation` has the sockets
//! that it passes.
//!
//! A module of our own over `nix` and not the crate `sd-notify`: that has neither BARRIER nor MAINPIDFDID nor
//! LISTEN_PIDFDID, and what is left is one `sendmsg`. Everything is compiled always; without the feature `systemd` the
//! environment is not looked at, so nothing of it runs.
//!
//! Exactly one generation is *main*: systemd takes notifications from it alone (`NotifyAccess=main`), waits for its end and
//! sends it the signals of `systemctl stop`. It is generation 1 until COMMIT, then the successor. Before the COMMIT is sent,
//! one datagram names the successor: whatever that sends as main comes after it. The main process must be systemd's own
//! child, or its end is noticed late: see `handover::child`.

pub(crate) mod activation;
mod message;
mod notifier;

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, getpid, getppid};

use crate::base::log::{info, warn};
use crate::base::time::earliest;
use crate::process::handover::{Owner, Passed, original_command};
use crate::process::supervise::link::SupervisorSender;
pub(crate) use message::Notification;
use message::stored_name;
pub(crate) use notifier::Notifier;
use notifier::NotifyBarrier;

/// Whether this program sends notifications.
pub(crate) const CAN_NOTIFY: bool = cfg!(feature = "systemd");

/// What the drain of an earlier generation is cut to when the main process has died: systemd restarts only after it.
pub(crate) const WITHOUT_MAIN: Duration = Duration::from_secs(5);

/// How long the end of a process waits for systemd to learn which process is main.
const BARRIER_WAIT: Duration = Duration::from_secs(5);
/// How often, and by how much, the time for a stop is extended.
pub(crate) const EXTEND_EVERY: Duration = Duration::from_secs(5);
pub(crate) const EXTEND_BY: Duration = Duration::from_secs(15);

/// A variable of the environment that this process was started with.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The value of NOTIFY_SOCKET, if this program notifies.
pub(crate) fn notify_socket() -> Option<OsString> {
    variable("NOTIFY_SOCKET").filter(|_| CAN_NOTIFY)
}

/// The variable of the watchdog, for the environment of a successor: what is addressed to this process by its pid is left
/// out of that.
pub(crate) fn watchdog_for_successors() -> Option<OsString> {
    notify_socket()?;
    let usec = watchdog_usec(Heir::Successor)?;
    Some(original_command::pair(OsStr::new("WATCHDOG_USEC"), OsStr::new(&usec.to_string())))
}

/// The pid of the service manager, whose repeated signals are not a second stop. `predecessor` started this process, unless
/// that could make it a child of the service manager.
pub(crate) fn manager_pid(predecessor: Option<i32>) -> Option<i32> {
    notify_socket()?;
    let of_user = variable("MANAGERPID").and_then(|pid| pid.to_string_lossy().parse().ok());
    let parent = getppid().as_raw();
    Some(of_user.unwrap_or(if predecessor == Some(parent) { 1 } else { parent }))
}

/// Whether variables that name a process name generation 1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heir {
    First,
    Successor,
}

fn watchdog_usec(heir: Heir) -> Option<u64> {
    let usec = variable("WATCHDOG_USEC")?.to_string_lossy().parse().ok().filter(|usec| *usec > 0);
    let pid = variable("WATCHDOG_PID").filter(|_| heir == Heir::First);
    usec.filter(|_| pid.is_none_or(|pid| pid.to_string_lossy() == getpid().to_string()))
}

/// Sends notifications from this process. None: no service manager is to be notified.
pub(crate) fn notifier() -> Option<Notifier> {
    let socket = notify_socket()?;
    Notifier::new(&socket)
        .inspect_err(|e| warn!("systemd: NOTIFY_SOCKET={} is not usable: {e}", socket.to_string_lossy()))
        .ok()
}

/// The duty of a tick.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    Nothing,
    /// Ask acceptor and workers for progress: the watchdog is fed when they answer.
    AskForProgress,
}

/// The notifications of this process: those that were sent, and those that are due.
pub(crate) struct Manager {
    notifier: Notifier,
    generation: u32,
    is_main: bool,
    is_reloading: bool,
    /// Why the handover in progress fails.
    failure: Option<String>,
    watchdog: Option<Watchdog>,
    /// The end of the stop in progress, and when its time is extended next.
    stop: Option<(Instant, Instant)>,
    barrier: Option<NotifyBarrier>,
    store: StoredListeners,
}

struct Watchdog {
    every: Duration,
    next: Instant,
    /// An answer is awaited.
    asked: bool,
}

/// The listeners that systemd keeps.
#[derive(Default)]
pub(crate) struct StoredListeners {
    /// It is to keep those of this program.
    pub(crate) enabled: bool,
    /// At the start those of an earlier process, which has crashed.
    pub(crate) listeners: Vec<String>,
}

impl Manager {
    /// None: no service manager is to be notified.
    pub(crate) fn found(
        generation: u32,
        heir: Heir,
        store: StoredListeners,
        supervisor: Option<SupervisorSender>,
    ) -> Option<Manager> {
        let notifier = match supervisor {
            Some(supervisor) => notify_socket().map(|_| Notifier::BySupervisor(supervisor)),
            None => notifier(),
        }?;
        // The watchdog is fed three times in the interval, so that one late answer does not end the service.
        let every = watchdog_usec(heir).map(|usec| Duration::from_micros(usec).div_f64(3.0));
        let watchdog = every.map(|every| Watchdog { every, next: Instant::now(), asked: false });
        Some(Manager {
            notifier,
            generation,
            is_main: false,
            is_reloading: false,
            failure: None,
            watchdog,
            stop: None,
            barrier: None,
            store,
        })
    }

    fn send(&self, notification: &Notification<'_>) {
        self.notifier.send(notification, &[]);
    }

    /// This process serves without having been made main: generation 1, or a successor whose predecessor has died.
    pub(crate) fn assume(&mut self, heir: Heir, listeners: &[Passed]) {
        self.is_main = true;
        let status = self.serving();
        self.send(&match heir {
            Heir::First => Notification::Ready { status: &status },
            // The supervisor stays the main process.
            Heir::Successor if self.notifier.is_by_supervisor() => Notification::Ready { status: &status },
            Heir::Successor => Notification::TookOver { pid: getpid().as_raw(), status: &status },
        });
        self.store(listeners);
    }

    /// The predecessor has made this process main.
    pub(crate) fn took_over(&mut self, listeners: &[Passed]) {
        self.is_main = true;
        self.store(listeners);
    }

    fn serving(&self) -> String {
        format!("generation {} (pid {}) serves", self.generation, getpid())
    }

    /// A successor is started. Reported once, however often the executable is tried.
    pub(crate) fn reloading(&mut self) {
        // Also where a handover follows one that has failed, without a pause in between.
        self.failure = None;
        if !self.is_main || std::mem::replace(&mut self.is_reloading, true) {
            return;
        }
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        let monotonic_usec = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let status = format!("generation {} starts its successor", self.generation);
        self.send(&Notification::Reloading { monotonic_usec, status: &status });
    }

    /// Why the handover in progress fails; the first reason counts.
    pub(crate) fn note_failure(&mut self, reason: &str) {
        self.failure.get_or_insert_with(|| reason.to_owned());
    }

    /// This process serves, without a handover in progress.
    pub(crate) fn serves_again(&mut self) {
        if !std::mem::take(&mut self.is_reloading) || !self.is_main {
            return;
        }
        let reason = self.failure.take().unwrap_or_else(|| "the successor did not become ready".to_owned());
        let status = format!("{}; the last handover failed: {reason}", self.serving());
        self.send(&Notification::ServesStill { status: &status });
    }

    /// The service is the successor's. `adopted` are the listeners that it has.
    pub(crate) fn pass(&mut self, pid: Pid, pidfd_id: Option<u64>, adopted: &[String]) {
        if !self.is_main {
            return;
        }
        let generation = self.generation.saturating_add(1);
        let status = format!("generation {generation} (pid {pid}) serves");
        for listener in self.store.listeners.iter().filter(|listener| !adopted.contains(listener)) {
            self.send(&Notification::Remove { listener });
        }
        let main = (!self.notifier.is_by_supervisor()).then(|| (pid.as_raw(), pidfd_id));
        self.send(&Notification::HandedOver { main, status: &status });
        self.barrier = self.notifier.barrier();
        (self.is_main, self.is_reloading) = (false, false);
    }

    /// The service ends, within this time.
    pub(crate) fn stopping(&mut self, within: Duration) {
        if !self.is_main || self.stop.is_some() {
            return;
        }
        // Before the listeners are closed: systemd would keep them open, and clients would wait without end.
        for listener in std::mem::take(&mut self.store.listeners) {
            self.send(&Notification::Remove { listener: &listener });
        }
        let status = format!("generation {} stops: it completes its requests", self.generation);
        self.send(&Notification::Stopping { status: &status });
        let now = Instant::now();
        let Some(end) = now.checked_add(within) else { return };
        self.stop = Some((end, now));
        self.extend(now);
    }

    /// Extends the time for the stop, as long as that goes on.
    fn extend(&mut self, now: Instant) {
        let Some((end, next)) = &mut self.stop else { return };
        if now < *next || now >= *end {
            return;
        }
        *next = now + EXTEND_EVERY;
        // A second more than the rest, for the end of the process.
        let rest = end.saturating_duration_since(now).saturating_add(Duration::from_secs(1));
        let by = rest.min(EXTEND_BY);
        self.send(&Notification::Extend(by));
    }

    /// When `tick` is to be called next.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        if !self.is_main {
            return None;
        }
        let watchdog = self.watchdog.as_ref().map(|watchdog| watchdog.next);
        let stop = self.stop.filter(|(end, next)| next < end).map(|(_, next)| next);
        earliest(&[watchdog, stop])
    }

    /// Does what is due now.
    pub(crate) fn tick(&mut self, now: Instant) -> Duty {
        if !self.is_main {
            return Duty::Nothing;
        }
        self.extend(now);
        match &mut self.watchdog {
            Some(watchdog) if watchdog.next <= now => {
                watchdog.next = now + watchdog.every;
                match std::mem::replace(&mut watchdog.asked, true) {
                    true => Duty::Nothing,
                    false => Duty::AskForProgress,
                }
            }
            _ => Duty::Nothing,
        }
    }

    /// Acceptor and workers have made progress since they were asked.
    pub(crate) fn progressed(&mut self) {
        let Some(watchdog) = &mut self.watchdog else { return };
        watchdog.asked = false;
        if self.is_main {
            self.send(&Notification::Alive);
        }
    }

    fn store(&mut self, listeners: &[Passed]) {
        let before = std::mem::take(&mut self.store.listeners);
        let own = listeners.iter().filter(|passed| self.store.enabled && passed.owner == Owner::Server);
        for Passed { name, fd, .. } in own {
            if stored_name(name).is_none() {
                warn!("systemd: the listener {name} can't be stored: its name is too long");
                continue;
            }
            self.notifier.send(&Notification::Store { listener: name }, &[fd.as_fd()]);
            self.store.listeners.push(name.clone());
        }
        // Nothing would ever accept from them.
        for listener in before.iter().filter(|listener| !self.store.listeners.contains(listener)) {
            self.send(&Notification::Remove { listener });
        }
        if self.store.enabled {
            info!(
                "systemd: {} listeners are stored: they outlive a crash", self.store.listeners.len();
                listeners = self.store.listeners.len()
            );
        }
    }

    /// To be called last: systemd may not yet know that another process is main.
    pub(crate) fn finish(&mut self) {
        if self.barrier.take().is_some_and(|barrier| !barrier.wait(BARRIER_WAIT)) {
            warn!("systemd: it did not confirm within 5 s which process is the main one");
        }
    }
}
