//! The program's hooks of signals, on a thread of their own: neither the signal thread nor the other hooks wait for them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::caught;
use crate::base::contain_panic::contain_drop;
use crate::base::error::{Error, ErrorKind};
use crate::base::sync::lock;
use crate::base::threads::JobThread;
use crate::process::signals::Signal;
use litemap::LiteMap;

/// The hooks as the program has configured them.
#[derive(Default)]
pub(crate) struct SignalHooks {
    pub(crate) before: Vec<(Signal, SignalHook)>,
    pub(crate) after: Vec<(Signal, SignalHook)>,
}

pub(crate) type SignalHook = Box<dyn FnMut() + Send>;

/// Runs the hooks of a signal around its action.
#[derive(Default)]
pub(crate) struct SignalHookRunner {
    hooks: Arc<Mutex<SignalHooks>>,
    thread: Option<JobThread>,
    /// Signals with hooks, and whether the action of the last one is still due.
    hooked: LiteMap<Signal, Arc<AtomicBool>>,
}

impl SignalHooks {
    /// # Errors
    /// If no thread can be started. Without hooks none is needed.
    pub(crate) fn start(self) -> Result<SignalHookRunner, Error> {
        let signals = self.before.iter().chain(&self.after);
        let mut hooked = LiteMap::new();
        for (signal, _) in signals {
            hooked.insert(*signal, Arc::default());
        }
        if hooked.is_empty() {
            return Ok(SignalHookRunner::default());
        }
        let thread = JobThread::start(thread::Builder::new().name("heirloom-on-signal".into()))
            .map_err(|e| Error::io(ErrorKind::System, "no thread for the hooks of signals", e))?;
        Ok(SignalHookRunner { hooks: Arc::new(Mutex::new(self)), thread: Some(thread), hooked })
    }

    fn run(&mut self, signal: Signal, action: impl FnOnce()) {
        let run = |hooks: &mut Vec<(Signal, SignalHook)>, name| {
            for (_, hook) in hooks.iter_mut().filter(|(of, _)| *of == signal) {
                let _ = caught(name, hook);
            }
        };
        run(&mut self.before, "on_signal");
        action();
        run(&mut self.after, "after_signal");
    }
}

impl SignalHookRunner {
    /// Runs the hooks before, `action`, and the hooks after. If there are none, or if the last signal of this kind still waits
    /// for its hooks, `action` runs at once: so a hook that hangs never keeps a server from handling its signals.
    pub(crate) fn dispatch(&self, signal: Signal, action: impl FnOnce() + Send + 'static) {
        let (Some(thread), Some(waiting)) = (&self.thread, self.hooked.get(&signal)) else { return action() };
        if waiting.swap(true, Ordering::SeqCst) {
            return action();
        }
        let (hooks, waits) = (Arc::clone(&self.hooks), Arc::clone(waiting));
        let action = Arc::new(Mutex::new(Some(action)));
        let of_job = Arc::clone(&action);
        let job = move || {
            lock(&hooks).run(signal, || {
                waits.store(false, Ordering::SeqCst);
                run_once(&of_job);
            });
        };
        if let Err(job) = thread.run(Box::new(job)) {
            contain_drop(job);
            run_once(&action);
        }
    }
}

fn run_once(action: &Mutex<Option<impl FnOnce()>>) {
    let action = lock(action).take();
    action.into_iter().for_each(|action| action());
}

/// As with the other hooks, these are dropped on their thread.
impl Drop for SignalHookRunner {
    fn drop(&mut self) {
        let hooks = std::mem::take(&mut self.hooks);
        let Some(thread) = self.thread.take() else { return };
        if let Err(job) = thread.run(Box::new(move || drop(hooks))) {
            contain_drop(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_hanging_signal_hook_blocks_no_other_signal() {
        let (log, seen) = channel();
        let (open, gate) = channel::<()>();
        let say = |text: &'static str| {
            let log = log.clone();
            move || log.send(text).unwrap()
        };
        let (before, held) = (say("before"), say("held"));
        let hang = move || {
            held();
            gate.recv().unwrap();
        };
        let hooks = SignalHooks {
            before: vec![
                (Signal::Usr1, Box::new(before)),
                (Signal::Usr1, Box::new(|| panic!("a hook's own affair"))),
                (Signal::Term, Box::new(hang)),
            ],
            after: vec![(Signal::Usr1, Box::new(say("after")))],
        };
        let runner = hooks.start().unwrap();
        let next = || seen.recv_timeout(Duration::from_secs(60)).unwrap();
        runner.dispatch(Signal::Hup, say("hup"));
        assert_eq!(seen.try_recv(), Ok("hup"), "it has none");
        runner.dispatch(Signal::Usr1, say("usr1"));
        assert_eq!([next(), next(), next()], ["before", "usr1", "after"]);
        runner.dispatch(Signal::Term, say("term 1"));
        assert_eq!(next(), "held");
        runner.dispatch(Signal::Term, say("term 2"));
        assert_eq!(next(), "term 2");
        open.send(()).unwrap();
        assert_eq!(next(), "term 1");
    }

    #[test]
    fn without_hooks_there_is_no_thread() {
        let runner = SignalHooks::default().start().unwrap();
        assert!(runner.thread.is_none());
    }
}
