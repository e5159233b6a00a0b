//! The program's hooks run in order on one thread of their own. The control loop waits for none of them except, at the end,
//! `on_exit`. Hooks of signals have another thread. So a hook that hangs stops handovers, which the ready time bounds, and
//! not the service.

mod on_signal;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::base::contain_panic::contain_drop;
use crate::base::error::{Error, ErrorKind};
use crate::base::log::error;
use crate::base::phase::Phase;
use crate::base::sync::lock;
use crate::base::threads::JobThread;
use crate::process::handover::StateHead;
use crate::process::handover::state_file::StateFile;

pub(crate) use on_signal::SignalHooks;

/// The program's state, passed from one generation to the next by [`ProcessConfig::exclusive`](crate::ProcessConfig::exclusive):
/// bytes, and the version of the program's format for them.
///
/// ```
/// use heirloom::handover::HandoverState;
/// let state = HandoverState { version: 1, bytes: b"42".to_vec() };
/// assert_eq!(state.version, 1);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HandoverState {
    /// The version of the format, chosen by the program. 0 if there is no state.
    pub version: u32,
    /// The state. Empty if there is none.
    pub bytes: Vec<u8>,
}

/// Omits the bytes, which may be secret.
impl fmt::Debug for HandoverState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandoverState")
            .field("version", &self.version)
            .field("bytes", &format_args!("{} bytes", self.bytes.len()))
            .finish()
    }
}

impl From<()> for HandoverState {
    fn from((): ()) -> HandoverState {
        HandoverState::default()
    }
}

type Release = Box<dyn FnMut() -> Result<HandoverState, String> + Send>;
type Acquire = Box<dyn FnMut(HandoverState) -> Result<(), String> + Send>;

/// The hooks as the program has configured them.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) release: Option<Release>,
    pub(crate) acquire: Option<Acquire>,
    pub(crate) phase: Vec<Box<dyn FnMut(Phase) + Send>>,
    pub(crate) drain: Vec<Box<dyn FnOnce() + Send>>,
    pub(crate) exit: Vec<Box<dyn FnOnce() + Send>>,
}

/// The result of a hook.
#[derive(Debug)]
pub(crate) enum HookResult {
    /// The state that was released, and the result of writing it for the successor.
    Released(Result<(Arc<HandoverState>, Result<(), String>), String>),
    Acquired(Result<(), String>),
    /// The exit hooks have run.
    Exited,
}

/// A state to be acquired. It may be large: it is read, copied and written where the hooks run.
pub(crate) enum Handed {
    State(Arc<HandoverState>),
    /// Called by a predecessor.
    File(StateFile, StateHead),
}

impl Handed {
    fn state(self) -> Result<HandoverState, String> {
        match self {
            Handed::State(state) => Ok(Arc::unwrap_or_clone(state)),
            Handed::File(mut file, head) => match file.read(head.bytes) {
                Ok(bytes) => Ok(HandoverState { version: head.version, bytes }),
                Err(e) => Err(format!("can't read the predecessor's state: {e}")),
            },
        }
    }
}

/// The hooks, running. Without any there is no thread.
pub(crate) struct Runner(Option<(JobThread, Arc<Mutex<RunningHooks>>)>);

/// What the thread of the hooks uses.
struct RunningHooks {
    hooks: Hooks,
    /// This generation has the exclusive resources.
    holds: bool,
    report: Box<dyn Fn(u64, HookResult) + Send>,
}

enum HookJob {
    Release(u64, Option<StateFile>),
    Acquire(u64, Handed),
    Phase(Phase),
    Drain,
    Exit(u64),
}

impl Hooks {
    fn is_empty(&self) -> bool {
        let exclusive = self.release.is_some() || self.acquire.is_some();
        !exclusive && self.phase.is_empty() && self.drain.is_empty() && self.exit.is_empty()
    }

    /// A first generation calls this before it serves.
    pub(crate) fn acquire_first(&mut self) -> Result<(), Error> {
        self.acquire(Handed::State(Arc::default())).map_err(Error::config)
    }

    fn acquire(&mut self, handed: Handed) -> Result<(), String> {
        let Some(acquire) = &mut self.acquire else { return Ok(()) };
        let state = handed.state()?;
        let acquired = caught("acquire", || acquire(state)).unwrap_or_else(Err);
        acquired.map_err(|e| format!("the acquire hook failed: {e}"))
    }

    fn release(&mut self) -> Result<HandoverState, String> {
        let Some(release) = &mut self.release else { return Ok(HandoverState::default()) };
        caught("release", release).unwrap_or_else(Err)
    }
}

impl RunningHooks {
    fn run(&mut self, job: HookJob) {
        let hooks = &mut self.hooks;
        match job {
            HookJob::Release(ticket, file) => {
                let released = hooks.release();
                self.holds = released.is_err();
                let written = |state: HandoverState| {
                    let written = file.map_or(Ok(()), |mut file| file.write(&state.bytes));
                    (Arc::new(state), written.map_err(|e| e.to_string()))
                };
                (self.report)(ticket, HookResult::Released(released.map(written)));
            }
            // A failed release has released nothing.
            HookJob::Acquire(ticket, _) if self.holds => (self.report)(ticket, HookResult::Acquired(Ok(()))),
            HookJob::Acquire(ticket, state) => {
                let acquired = hooks.acquire(state);
                self.holds = acquired.is_ok();
                (self.report)(ticket, HookResult::Acquired(acquired));
            }
            HookJob::Phase(phase) => {
                for hook in &mut hooks.phase {
                    let _ = caught("on_phase", || hook(phase));
                }
            }
            HookJob::Drain => {
                for hook in hooks.drain.drain(..) {
                    let _ = caught("on_drain", hook);
                }
            }
            HookJob::Exit(ticket) => {
                for hook in hooks.exit.drain(..) {
                    let _ = caught("on_exit", hook);
                }
                (self.report)(ticket, HookResult::Exited);
            }
        }
    }
}

fn caught<T>(name: &str, hook: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(hook)).map_err(|panic| {
        error!("{name} panicked"; hook = name, reason = "it panicked");
        contain_drop(panic);
        format!("{name} panicked")
    })
}

impl Runner {
    /// `holds`: this generation has the exclusive resources. Results of hooks go to `report`, with the ticket of their call.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn start(
        hooks: Hooks,
        holds: bool,
        report: impl Fn(u64, HookResult) + Send + 'static,
    ) -> Result<Runner, Error> {
        if hooks.is_empty() {
            return Ok(Runner(None));
        }
        let thread = JobThread::start(thread::Builder::new().name("heirloom-hooks".into()))
            .map_err(|e| Error::io(ErrorKind::System, "no thread for the hooks", e))?;
        let running = RunningHooks { hooks, holds, report: Box::new(report) };
        Ok(Runner(Some((thread, Arc::new(Mutex::new(running))))))
    }

    /// False if there is nothing to run. An error if the hooks' thread has ended.
    fn ask(&self, job: HookJob) -> Result<bool, String> {
        let Some((thread, hooks)) = &self.0 else { return Ok(false) };
        let hooks = Arc::clone(hooks);
        let ran = thread.run(Box::new(move || lock(&hooks).run(job)));
        ran.map(|()| true).map_err(|_| "the thread of the hooks has ended".to_owned())
    }

    /// The state is written to `file`.
    pub(crate) fn release(&self, ticket: u64, file: Option<StateFile>) -> Result<bool, String> {
        self.ask(HookJob::Release(ticket, file))
    }

    pub(crate) fn acquire(&self, ticket: u64, state: Handed) -> Result<bool, String> {
        self.ask(HookJob::Acquire(ticket, state))
    }

    pub(crate) fn phase(&self, phase: Phase) {
        let _ = self.ask(HookJob::Phase(phase));
    }

    pub(crate) fn drain(&self) {
        let _ = self.ask(HookJob::Drain);
    }

    /// Runs `on_exit`, after all earlier calls.
    pub(crate) fn exit(&self, ticket: u64) -> Result<bool, String> {
        self.ask(HookJob::Exit(ticket))
    }
}

/// The hooks are dropped on their thread: values of the program's may block or panic there.
impl Drop for Runner {
    fn drop(&mut self) {
        let Some((thread, hooks)) = self.0.take() else { return };
        if let Err(job) = thread.run(Box::new(move || drop(hooks))) {
            contain_drop(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::panic::panic_any;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_state_is_debugged_by_its_length() {
        let state = HandoverState { version: 7, bytes: b"a secret".to_vec() };
        assert_eq!(format!("{state:?}"), "HandoverState { version: 7, bytes: 8 bytes }");
    }

    #[test]
    fn hooks_run_in_order_and_report_with_their_ticket() {
        let (log, seen) = channel();
        let say = |text: &'static str| {
            let log = log.clone();
            move || log.send(text.to_owned()).unwrap()
        };
        let (release, drain, exit) = (say("release"), say("drain"), say("exit"));
        let (acquired, phases) = (log.clone(), log.clone());
        let hooks = Hooks {
            release: Some(Box::new(move || {
                release();
                Ok(HandoverState { version: 7, bytes: b"state".to_vec() })
            })),
            acquire: Some(Box::new(move |state| {
                acquired.send(format!("acquire {}", state.version)).unwrap();
                if state.version == 9 { Err("no".to_owned()) } else { Ok(()) }
            })),
            phase: vec![Box::new(move |phase| phases.send(phase.to_string()).unwrap())],
            drain: vec![Box::new(drain), Box::new(|| panic!("a hook's own affair"))],
            exit: vec![Box::new(exit)],
        };
        let (results, received) = channel();
        let runner =
            Runner::start(hooks, true, move |ticket, result| results.send((ticket, result)).unwrap())
                .unwrap();
        let nine = HandoverState { version: 9, bytes: Vec::new() };
        let (mut file, none) = (StateFile::new().unwrap(), || Handed::State(Arc::default()));
        let written = file.as_fd().try_clone_to_owned().unwrap().into();
        assert_eq!(runner.release(1, Some(written)), Ok(true));
        assert_eq!(runner.acquire(2, Handed::State(Arc::new(nine))), Ok(true));
        assert_eq!(runner.acquire(3, none()), Ok(true));
        assert_eq!(runner.acquire(4, none()), Ok(true), "it holds it already");
        runner.phase(Phase::Draining);
        runner.drain();
        assert_eq!(runner.exit(5), Ok(true));
        let answers: Vec<_> = (0..5).map(|_| received.recv_timeout(LONG).unwrap()).collect();
        assert!(matches!(&answers[0], (1, HookResult::Released(Ok((state, Ok(()))))) if state.version == 7));
        assert_eq!(file.read(5).unwrap(), b"state");
        let (2, HookResult::Acquired(Err(e))) = &answers[1] else { panic!("{answers:?}") };
        assert_eq!(e, "the acquire hook failed: no");
        let [.., three, four, five] = &answers[..] else { panic!("{answers:?}") };
        assert!(matches!(
            (three, four),
            ((3, HookResult::Acquired(Ok(()))), (4, HookResult::Acquired(Ok(()))))
        ));
        assert!(matches!(five, (5, HookResult::Exited)));
        let order: Vec<String> = seen.try_iter().collect();
        assert_eq!(order, ["release", "acquire 9", "acquire 0", "draining", "drain", "exit"]);
    }

    #[test]
    fn an_ended_hook_thread_is_an_error() {
        let hooks = Hooks { drain: vec![Box::new(|| ())], ..Hooks::default() };
        let runner = Runner::start(hooks, true, |_, _| panic!("as the test wants it")).unwrap();
        // The thread ends while it unwinds.
        while runner.exit(0).is_ok() {}
        assert!(
            runner.release(1, None).is_err() && runner.acquire(2, Handed::State(Arc::default())).is_err()
        );
        assert!(runner.exit(3).is_err());
    }

    #[test]
    fn hooks_are_dropped_on_their_thread() {
        struct Says(std::sync::mpsc::Sender<Option<String>>);
        impl Drop for Says {
            fn drop(&mut self) {
                self.0.send(thread::current().name().map(str::to_owned)).unwrap();
                panic!("as the test wants it");
            }
        }
        let (says, dropped) = channel();
        let value = Says(says);
        let keeps = move || {
            let _ = &value;
        };
        let hooks = Hooks { exit: vec![Box::new(keeps)], ..Hooks::default() };
        drop(Runner::start(hooks, true, |_, _| ()).unwrap());
        assert_eq!(dropped.recv_timeout(LONG).unwrap().unwrap(), "heirloom-hooks");
    }

    #[test]
    fn what_a_hook_panicked_with_may_panic_again() {
        struct Bad;
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("once more");
            }
        }
        let hooks = Hooks { drain: vec![Box::new(|| panic_any(Bad))], ..Hooks::default() };
        let (results, received) = channel();
        let runner = Runner::start(hooks, true, move |_, answer| results.send(answer).unwrap()).unwrap();
        runner.drain();
        assert_eq!(runner.release(1, None), Ok(true));
        assert!(matches!(received.recv_timeout(LONG), Ok(HookResult::Released(Ok(_)))));
    }

    #[test]
    fn a_release_that_panics_has_released_nothing() {
        let hooks = Hooks { release: Some(Box::new(|| panic!("no"))), ..Hooks::default() };
        let (results, received) = channel();
        let runner = Runner::start(hooks, true, move |_, answer| results.send(answer).unwrap()).unwrap();
        assert_eq!(runner.release(1, None), Ok(true));
        assert!(matches!(received.recv_timeout(LONG), Ok(HookResult::Released(Err(_)))));
    }

    #[test]
    fn without_hooks_nothing_runs() {
        let runner = Runner::start(Hooks::default(), true, |_, _| {}).unwrap();
        assert_eq!(runner.release(1, None), Ok(false));
        assert_eq!(runner.acquire(2, Handed::State(Arc::default())), Ok(false));
        assert_eq!(runner.exit(3), Ok(false));
    }
}
