//! The signal thread: turns signals into requests. The state decides what a request leads to.
//!
//! A hang-up drains and never aborts, however often it comes, because the shell and the kernel may both send it.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal as NixSignal, pthread_sigmask};
use nix::unistd::{getpid, getsid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::exfiltrator::WithRawSiginfo;
use signal_hook::iterator::{Handle, SignalsInfo};

use crate::base::log::{Escaped, debug, info, warn};
use crate::base::sys::{self, SignalSender};
use crate::base::threads::spawn;
use crate::process::state::SAME_REQUEST;
use crate::process::terminal::{Loss, Terminal};

/// A signal to the process and to its group arrives twice, so a repeated second stop does not count as the third.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// A signal that a server handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// SIGHUP.
    Hup,
    /// SIGINT, Ctrl-C.
    Int,
    /// SIGQUIT.
    Quit,
    /// SIGTERM.
    Term,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
}

impl Signal {
    const ALL: [Signal; 6] =
        [Signal::Hup, Signal::Int, Signal::Quit, Signal::Term, Signal::Usr1, Signal::Usr2];

    const fn number(self) -> i32 {
        match self {
            Signal::Hup => SIGHUP,
            Signal::Int => SIGINT,
            Signal::Quit => SIGQUIT,
            Signal::Term => SIGTERM,
            Signal::Usr1 => SIGUSR1,
            Signal::Usr2 => SIGUSR2,
        }
    }
}

/// The action of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignalAction {
    /// Hand over to a successor.
    Handover,
    /// Drain and exit; a second one aborts, a third has the signal's default action.
    Stop,
    /// Abort requests in flight and exit.
    Abort,
    /// Log a line: phase, generation, requests in flight.
    Report,
    /// No action. The log names the sender; hooks run nevertheless.
    Nothing,
}

/// The action of each signal. Two presets are for operators who are used to other servers, and each signal can be given
/// another action.
///
/// | | default | [`endless`](Signals::endless) | [`nginx`](Signals::nginx) |
/// | --- | --- | --- | --- |
/// | HUP | handover | handover | handover |
/// | INT | stop | stop | abort |
/// | QUIT | stop | stop | stop |
/// | TERM | stop | stop | abort |
/// | USR1 | report | report | report |
/// | USR2 | nothing, with a hint in the log | abort | handover |
///
/// A HUP caused by a closed terminal is distinguished, whatever the action of HUP.
///
/// ```no_run
/// use heirloom::prelude::*;
/// use heirloom::signals::{Signal, SignalAction, Signals};
///
/// # fn main() -> Result<(), heirloom::Error> {
/// Server::new(|_: Request| "ok\n")
///     .listen("127.0.0.1:8001")
///     .process(
///         ProcessConfig::new()
///             .signals(Signals::nginx().with(Signal::Term, SignalAction::Stop))
///             .on_signal(Signal::Usr1, || eprintln!("time to reopen the log files")),
///     )
///     .serve()
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signals {
    /// In the order of `Signal`. None: no action, with a hint.
    actions: [Option<SignalAction>; 6],
}

impl Signals {
    /// The signals of Go's `endless`: USR2 aborts.
    pub fn endless() -> Signals {
        Signals::default().with(Signal::Usr2, SignalAction::Abort)
    }

    /// The signals of nginx: TERM and INT abort, QUIT drains, USR2 hands over as HUP does. (WINCH, which keeps a predecessor
    /// without workers, is missing: probation replaces it.)
    pub fn nginx() -> Signals {
        Signals::default()
            .with(Signal::Int, SignalAction::Abort)
            .with(Signal::Term, SignalAction::Abort)
            .with(Signal::Usr2, SignalAction::Handover)
    }

    /// For a program that handles signals itself and uses a [`Handle`](crate::Handle): only a closed terminal has an action.
    /// Handlers that were installed before, or are added by signal-hook, are called as usual, and stay when serving has ended.
    pub fn none() -> Signals {
        Signals { actions: [Some(SignalAction::Nothing); 6] }
    }

    /// The same with another action for one signal. If no signal stops it, a server ends only by SIGKILL.
    #[must_use]
    pub fn with(mut self, signal: Signal, action: SignalAction) -> Signals {
        self.actions[signal as usize] = Some(action);
        self
    }

    fn action(&self, signal: Signal) -> Option<SignalAction> {
        self.actions[signal as usize]
    }
}

impl Default for Signals {
    fn default() -> Signals {
        let stop = Some(SignalAction::Stop);
        Signals {
            actions: [Some(SignalAction::Handover), stop, stop, stop, Some(SignalAction::Report), None],
        }
    }
}

/// The request that follows from a received signal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignalRequest {
    Handover,
    /// HUP of a terminal that is gone, or a stop by the service manager.
    Drain,
    Stop,
    Abort,
    Report,
}

/// Handlers for HUP, USR1 and USR2, whose signals are pending.
pub(crate) struct Installed {
    signals: SignalsInfo<WithRawSiginfo>,
}

/// The running signal thread. Dropping it ends the thread and gives TERM, INT and QUIT their default
/// action back, so that the rest of the program can be ended, unless it has handlers of its own.
pub(crate) struct SignalThread {
    thread: Option<JoinHandle<()>>,
    handle: Handle,
    /// The program has its own handlers.
    is_guest: bool,
}

/// Blocked in a successor until it can receive them.
const WAITING: [NixSignal; 3] = [NixSignal::SIGHUP, NixSignal::SIGUSR1, NixSignal::SIGUSR2];
const STOPS: [i32; 3] = [SIGTERM, SIGINT, SIGQUIT];

/// Signals belong to the process, and so to one server of it.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The state of signals and terminal when this process was started.
#[derive(Clone)]
pub(crate) struct SignalContext {
    /// SIGHUP was ignored: nohup, for this generation or an earlier one.
    pub(crate) nohup: bool,
    /// None: no controlling terminal, or it can't be opened.
    pub(crate) terminal: Option<Arc<Terminal>>,
    /// A HUP of the kernel means that the terminal was closed, if the terminal itself does not show it.
    trusts_kernel: bool,
    /// The service manager. It repeats its TERM: to each generation when the main process has ended, and at `systemctl stop`.
    manager: Option<i32>,
    /// A stop counts once, because the supervisor and a group may both deliver it.
    pub(crate) is_supervised: bool,
}

impl SignalContext {
    /// To be called before any handler is installed. `predecessor_nohup`: None in a first generation.
    pub(crate) fn now(
        predecessor_nohup: Option<bool>,
        terminal: io::Result<Option<Terminal>>,
        manager: Option<i32>,
    ) -> SignalContext {
        let terminal = terminal.inspect_err(|e| debug!("can't open the terminal: {e}"));
        // To a first generation the end of its session's leader is a hang-up, as to every program. A successor without
        // a terminal can have lost it only while its predecessor still served, which then judges what it was.
        let trusts_kernel = predecessor_nohup.is_none() || terminal.is_err();
        SignalContext {
            nohup: predecessor_nohup == Some(true) || sys::is_ignored(SIGHUP),
            terminal: terminal.ok().flatten().map(Arc::new),
            trusts_kernel,
            manager,
            is_supervised: false,
        }
    }
}

/// The signals blocked in this thread, from which those it starts take theirs.
pub(crate) fn blocked() -> io::Result<SigSet> {
    Ok(SigSet::thread_get_mask()?)
}

/// As `blocked`, in a successor: without the signals that were blocked for the start, unless the first generation had them
/// blocked too. The rest is the mask of this process's start, including real-time signals, which a HELLO does not list.
pub(crate) fn blocked_at_first(by_first: &[i32]) -> io::Result<SigSet> {
    let mut mask = blocked()?;
    for signal in WAITING.into_iter().filter(|signal| !by_first.contains(&(*signal as i32))) {
        mask.remove(signal);
    }
    Ok(mask)
}

/// Installs the handlers that a successor needs, then restores the mask of the first generation, which every thread started
/// from now on, and its child programs, inherit. TERM, INT and QUIT still end the process, because it does not serve yet.
pub(crate) fn install(blocked: &SigSet) -> io::Result<Installed> {
    if TAKEN.load(Ordering::SeqCst) {
        return Err(io::Error::other("another server of this process handles them, or did before"));
    }
    let signals = SignalsInfo::<WithRawSiginfo>::new([SIGHUP, SIGUSR1, SIGUSR2])?;
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(blocked), None)?;
    Ok(Installed { signals })
}

impl Installed {
    /// Handles TERM, INT and QUIT too, and starts the thread.
    pub(crate) fn start(
        self,
        actions: Signals,
        context: SignalContext,
        mut on_signal: impl FnMut(Signal, Option<SignalRequest>) + Send + 'static,
    ) -> io::Result<SignalThread> {
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(io::Error::other("another server of this process handles them, or did before"));
        }
        let is_guest = actions == Signals::none();
        let mut signals = self.signals;
        let handle = signals.handle();
        for signal in STOPS {
            handle.add_signal(signal)?;
        }
        let ends = |signal: &Signal| {
            matches!(actions.action(*signal), Some(SignalAction::Stop | SignalAction::Abort))
        };
        let ends: Vec<i32> = Signal::ALL.into_iter().filter(ends).map(Signal::number).collect();
        if !context.is_supervised {
            sys::end_at_third(&ends, [SAME_REQUEST, SAME_SIGNAL], context.manager)?;
        }
        let thread = thread::Builder::new().name("heirloom-signals".into());
        let thread = spawn(thread, move || {
            // Only this thread unblocks them, whatever mask this process was started with: a parent that waits for its own
            // signals would otherwise make the server deaf.
            let numbers = Signal::ALL.into_iter().map(Signal::number);
            let ours: SigSet = numbers.filter_map(|n| NixSignal::try_from(n).ok()).collect();
            if let Err(e) = pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&ours), None) {
                warn!("can't unblock signals: {e}"; reason:% = Escaped(&e));
            }
            for info in &mut signals {
                let ours = Signal::ALL.into_iter().find(|ours| ours.number() == info.si_signo);
                if let Some(signal) = ours {
                    on_signal(signal, interpret(sys::sender(&info), signal, actions, &context));
                }
            }
        })?;
        Ok(SignalThread { thread: Some(thread), handle, is_guest })
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        if !self.is_guest {
            // PID 1 has no default action.
            sys::end_at_next();
            if getpid().as_raw() != 1 {
                STOPS.into_iter().for_each(sys::default_action);
            }
        }
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn interpret(
    sender: SignalSender,
    signal: Signal,
    actions: Signals,
    context: &SignalContext,
) -> Option<SignalRequest> {
    let name = signal_hook::low_level::signal_name(signal.number()).unwrap_or("a signal");
    let sender_pid = match sender {
        SignalSender::Process { pid, .. } => Some(pid),
        SignalSender::Kernel | SignalSender::Unknown => None,
    };
    // 0 stands for any sender, and any leader, outside our pid namespace: they need not be the same.
    let by_session_leader =
        || sender_pid.is_some_and(|pid| pid != 0 && getsid(None).is_ok_and(|leader| leader.as_raw() == pid));
    let by_manager = || sender_pid.is_some() && sender_pid == context.manager;
    let terminal = context.terminal.as_ref();
    // A closed terminal: the kernel says so, or the shell passes it on (bash does, to each job).
    let by_kernel = signal == Signal::Hup && sender == SignalSender::Kernel;
    let hang_up = if by_kernel {
        context.trusts_kernel || terminal.is_some_and(|tty| tty.loss() == Some(Loss::Closed))
    } else {
        signal == Signal::Hup && by_session_leader() && terminal.is_some_and(|tty| tty.has_hung_up())
    };
    let (request, action) = if hang_up {
        match context.nohup {
            true => (None, "the terminal was closed, ignored under nohup"),
            false => (Some(SignalRequest::Drain), "the terminal was closed: drain and exit"),
        }
    } else if by_kernel {
        (None, "the session's leader has ended and the terminal was not closed: ignored")
    } else {
        match actions.action(signal) {
            Some(SignalAction::Handover) => (Some(SignalRequest::Handover), "handover"),
            // As a drain it never aborts.
            Some(SignalAction::Stop) if context.is_supervised => (Some(SignalRequest::Drain), "stop"),
            Some(SignalAction::Stop) if by_manager() => {
                (Some(SignalRequest::Drain), "stop, by the service manager")
            }
            Some(SignalAction::Stop) => (Some(SignalRequest::Stop), "stop"),
            Some(SignalAction::Abort) => (Some(SignalRequest::Abort), "abort requests in flight"),
            Some(SignalAction::Report) => (Some(SignalRequest::Report), "report"),
            Some(SignalAction::Nothing) => (None, "nothing"),
            None => (None, "no action: HUP hands over, TERM stops, a second TERM aborts"),
        }
    };
    let uid = match sender {
        SignalSender::Process { uid, .. } => Some(uid),
        SignalSender::Kernel | SignalSender::Unknown => None,
    };
    info!(
        "{name} from {}: {action}", described(sender);
        signal:% = name,
        action:% = action,
        sender = sender_pid,
        uid = uid
    );
    request
}

/// The sender of a signal, for the log.
fn described(sender: SignalSender) -> String {
    match sender {
        SignalSender::Kernel => "the kernel".to_owned(),
        SignalSender::Process { pid, .. } if pid == getpid().as_raw() => "this process".to_owned(),
        SignalSender::Process { pid: 0, uid } => format!("outside our pid namespace, uid {uid}"),
        SignalSender::Process { pid, uid } => {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            let name = match name {
                Ok(name) => format!(" ({})", name.trim_end()),
                Err(_) if fs::exists("/proc/self").unwrap_or(false) => " (gone)".to_owned(),
                // There is no source for a name.
                Err(_) => String::new(),
            };
            format!("pid {pid}{name}, uid {uid}")
        }
        SignalSender::Unknown => "an unknown sender".to_owned(),
    }
}

/// The numbers for the HELLO.
pub(crate) fn numbers(set: &SigSet) -> Vec<i32> {
    set.iter().map(|signal| signal as i32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_docs_is_the_code() {
        let named = |name: &str| match name {
            "handover" => Some(SignalAction::Handover),
            "stop" => Some(SignalAction::Stop),
            "abort" => Some(SignalAction::Abort),
            "report" => Some(SignalAction::Report),
            "nothing, with a hint in the log" => None,
            other => panic!("{other}"),
        };
        let rows: Vec<Vec<&str>> = include_str!("signals.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("/// | "))
            .map(|line| line.trim_end_matches(" |").split(" | ").collect())
            .skip(2)
            .collect();
        assert_eq!(rows.len(), Signal::ALL.len());
        for (row, signal) in rows.into_iter().zip(Signal::ALL) {
            assert_eq!(row[0], format!("{signal:?}").to_uppercase());
            for (cell, signals) in
                row[1..].iter().zip([Signals::default(), Signals::endless(), Signals::nginx()])
            {
                assert_eq!(signals.action(signal), named(cell), "{row:?}");
            }
        }
    }

    #[test]
    fn each_can_have_another_action() {
        for signal in Signal::ALL {
            let signals = Signals::endless().with(signal, SignalAction::Nothing);
            for other in Signal::ALL {
                let want = if other == signal {
                    Some(SignalAction::Nothing)
                } else {
                    Signals::endless().action(other)
                };
                assert_eq!(signals.action(other), want);
            }
            assert_eq!(
                signal_hook::low_level::signal_name(signal.number()).map(|name| name.replace("SIG", "")),
                Some(format!("{signal:?}").to_uppercase())
            );
        }
    }
}
