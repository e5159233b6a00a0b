//! The signal thread: turns signals into wishes. What a wish leads to is not known here.

use std::fs::{self, File};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use log::{info, warn};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::unistd::{getpid, getsid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::exfiltrator::origin::{Origin, WithOrigin};
use signal_hook::iterator::{Handle, SignalsInfo};
use signal_hook::low_level::siginfo::{Cause, Sent};

use crate::sys;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// HUP.
    Handover,
    /// HUP of a terminal that is gone.
    HangUp,
    /// TERM, INT, QUIT.
    Stop(i32),
    /// USR1.
    Report,
    /// USR2.
    Hint,
}

/// Handlers for HUP, USR1 and USR2, which wait to be heard.
#[derive(Debug)]
pub(crate) struct Installed {
    signals: SignalsInfo<WithOrigin>,
}

/// The running signal thread. Dropping it ends the thread and gives TERM, INT and QUIT their default
/// action back, so that whatever the program still does can be ended.
#[derive(Debug)]
pub(crate) struct Signals {
    thread: Option<JoinHandle<()>>,
    handle: Handle,
}

/// Blocked in a successor until it can hear them.
const WAITING: [Signal; 3] = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];
const STOPS: [i32; 3] = [SIGTERM, SIGINT, SIGQUIT];

/// Signals belong to the process, and so to one server of it.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What was true of signals and terminal when this process was started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    /// SIGHUP was ignored: nohup, for this generation or an earlier one.
    pub(crate) nohup: bool,
    /// /dev/tty could be opened.
    pub(crate) terminal: bool,
}

impl Circumstances {
    /// To be asked before any handler is installed.
    pub(crate) fn now(inherited_nohup: bool) -> Circumstances {
        Circumstances { nohup: inherited_nohup || sys::is_ignored(SIGHUP), terminal: terminal_opens() }
    }
}

/// The signals blocked in this thread, from which those it starts take theirs.
pub(crate) fn blocked() -> io::Result<SigSet> {
    Ok(SigSet::thread_get_mask()?)
}

/// As `blocked`, in a successor: without what waits until it can hear, unless the first generation
/// had that blocked, too. All else is what this process was started with, real-time signals as well,
/// for which a HELLO has no numbers.
pub(crate) fn blocked_at_first(by_first: &[i32]) -> io::Result<SigSet> {
    let mut mask = blocked()?;
    for signal in WAITING.into_iter().filter(|signal| !by_first.contains(&(*signal as i32))) {
        mask.remove(signal);
    }
    Ok(mask)
}

/// Installs the handlers that a successor can't do without, then restores the mask that the first
/// generation had: every thread started from now on, and what it starts, has that. TERM, INT and
/// QUIT still end the process, as it serves nobody yet.
pub(crate) fn install(blocked: &SigSet) -> io::Result<Installed> {
    if TAKEN.load(Ordering::SeqCst) {
        return Err(io::Error::other("a server of this process has them, or has had them"));
    }
    let signals = SignalsInfo::<WithOrigin>::new([SIGHUP, SIGUSR1, SIGUSR2])?;
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(blocked), None)?;
    Ok(Installed { signals })
}

impl Installed {
    /// Handles TERM, INT and QUIT, too, and starts the thread.
    pub(crate) fn start(
        self,
        circumstances: Circumstances,
        wish: impl Fn(Wish) + Send + 'static,
    ) -> io::Result<Signals> {
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(io::Error::other("a server of this process has them, or has had them"));
        }
        let mut signals = self.signals;
        let handle = signals.handle();
        for signal in STOPS {
            handle.add_signal(signal)?;
        }
        let thread = thread::Builder::new().name("heirloom-signals".into()).spawn(move || {
            // Here alone they are never blocked, whatever mask this process was started with: a
            // parent that waits for its own signals would make us deaf.
            let numbers = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];
            let ours: SigSet = numbers.into_iter().filter_map(|n| Signal::try_from(n).ok()).collect();
            if let Err(e) = pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&ours), None) {
                warn!("can't unblock signals: {e}");
            }
            for origin in &mut signals {
                if let Some(asked) = interpret(&origin, circumstances) {
                    wish(asked);
                }
            }
        })?;
        Ok(Signals { thread: Some(thread), handle })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        STOPS.into_iter().for_each(sys::default_action);
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn interpret(origin: &Origin, circumstances: Circumstances) -> Option<Wish> {
    let name = signal_hook::low_level::signal_name(origin.signal).unwrap_or("a signal");
    let sender = sender(origin);
    // 0 is all that is known of a sender, and of a leader, outside our pid namespace: not the same one.
    let by_session_leader = || {
        let leads = |pid| pid != 0 && getsid(None).is_ok_and(|leader| leader.as_raw() == pid);
        origin.process.is_some_and(|p| leads(p.pid))
    };
    let terminal_gone = || circumstances.terminal && !terminal_opens();
    // A closed terminal: the kernel says so, or the shell passes it on (bash does, to each job).
    let hang_up = origin.signal == SIGHUP
        && (matches!(origin.cause, Cause::Kernel) || (by_session_leader() && terminal_gone()));
    let (wish, meaning) = match origin.signal {
        SIGHUP if hang_up && circumstances.nohup => (None, "the terminal was closed, ignored under nohup"),
        SIGHUP if hang_up => (Some(Wish::HangUp), "the terminal was closed: drain and exit"),
        SIGHUP => (Some(Wish::Handover), "handover"),
        SIGTERM | SIGINT | SIGQUIT => (Some(Wish::Stop(origin.signal)), "stop"),
        SIGUSR1 => (Some(Wish::Report), "report"),
        _ => (Some(Wish::Hint), "no meaning here: HUP hands over, TERM stops, a second TERM cuts"),
    };
    info!("{name} from {sender}: {meaning}");
    wish
}

/// Who sent a signal, for people.
fn sender(origin: &Origin) -> String {
    match (&origin.cause, &origin.process) {
        (Cause::Kernel, _) => "the kernel".to_owned(),
        (Cause::Sent(Sent::User | Sent::TKill | Sent::Queue), Some(p)) if p.pid == getpid().as_raw() => {
            "this process".to_owned()
        }
        (_, Some(p)) if p.pid == 0 => format!("outside our pid namespace, uid {}", p.uid),
        (_, Some(p)) => {
            let name = fs::read_to_string(format!("/proc/{}/comm", p.pid));
            let name = name.map_or_else(|_| "gone".to_owned(), |name| name.trim_end().to_owned());
            format!("pid {} ({name}), uid {}", p.pid, p.uid)
        }
        _ => "an unknown sender".to_owned(),
    }
}

fn terminal_opens() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Takes the signal's default action: for TERM, INT and QUIT the process ends by it.
pub(crate) fn reraise(signal: i32) {
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}

/// As numbers, for the HELLO.
pub(crate) fn numbers(set: &SigSet) -> Vec<i32> {
    set.iter().map(|signal| signal as i32).collect()
}
