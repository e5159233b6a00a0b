//! What the user's program does when a signal comes, on a thread of its own: neither the signal
//! thread nor the other hooks wait for it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SendError};
use std::thread;

use super::caught;
use crate::base::error::{Error, ErrorKind};
use crate::process::signals::Signal;

/// What the user gave to the builder.
#[derive(Default)]
pub(crate) struct SignalHooks {
    pub(crate) before: Vec<(Signal, SignalHook)>,
    pub(crate) after: Vec<(Signal, SignalHook)>,
}

pub(crate) type SignalHook = Box<dyn FnMut() + Send>;

/// The way of a signal past its hooks.
#[derive(Debug, Default)]
pub(crate) struct SignalDesk {
    jobs: Option<mpsc::Sender<Job>>,
    /// Signals with hooks, and whether what the last one leads to has yet to come.
    hooked: BTreeMap<Signal, Arc<AtomicBool>>,
}

/// A signal, and what it leads to.
struct Job(Signal, Box<dyn FnOnce() + Send>);

impl SignalHooks {
    /// # Errors
    /// When there is no thread to be had. Without hooks none is wanted.
    pub(crate) fn start(self) -> Result<SignalDesk, Error> {
        let signals = self.before.iter().chain(&self.after);
        let hooked: BTreeMap<_, _> = signals.map(|(signal, _)| (*signal, Arc::default())).collect();
        if hooked.is_empty() {
            return Ok(SignalDesk::default());
        }
        let (jobs, receiver) = mpsc::channel();
        thread::Builder::new()
            .name("heirloom-on-signal".into())
            .spawn(move || self.run(&receiver))
            .map_err(|e| Error::io(ErrorKind::System, "no thread for the hooks of signals", e))?;
        Ok(SignalDesk { jobs: Some(jobs), hooked })
    }

    fn run(mut self, jobs: &Receiver<Job>) {
        let run = |hooks: &mut Vec<(Signal, SignalHook)>, name, signal| {
            for (_, hook) in hooks.iter_mut().filter(|(of, _)| *of == signal) {
                let _ = caught(name, hook);
            }
        };
        for Job(signal, lead_on) in jobs {
            run(&mut self.before, "on_signal", signal);
            lead_on();
            run(&mut self.after, "after_signal", signal);
        }
    }
}

impl SignalDesk {
    /// Runs the hooks before, `lead_on`, and the hooks after. Where there are none, and where the
    /// last one of the same signal still waits for its hooks, it is led on at once: a hook that
    /// hangs never makes a server deaf.
    pub(crate) fn hear(&self, signal: Signal, lead_on: impl FnOnce() + Send + 'static) {
        let (Some(jobs), Some(waiting)) = (&self.jobs, self.hooked.get(&signal)) else { return lead_on() };
        if waiting.swap(true, Ordering::SeqCst) {
            return lead_on();
        }
        let waits = Arc::clone(waiting);
        let lead_on = move || {
            waits.store(false, Ordering::SeqCst);
            lead_on();
        };
        if let Err(SendError(Job(_, lead_on))) = jobs.send(Job(signal, Box::new(lead_on))) {
            lead_on();
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Job").field(&self.0).finish_non_exhaustive()
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
        let desk = hooks.start().unwrap();
        let next = || seen.recv_timeout(Duration::from_secs(60)).unwrap();
        desk.hear(Signal::Hup, say("hup"));
        assert_eq!(seen.try_recv(), Ok("hup"), "it has none");
        desk.hear(Signal::Usr1, say("usr1"));
        assert_eq!([next(), next(), next()], ["before", "usr1", "after"]);
        desk.hear(Signal::Term, say("term 1"));
        assert_eq!(next(), "held");
        desk.hear(Signal::Term, say("term 2"));
        assert_eq!(next(), "term 2");
        open.send(()).unwrap();
        assert_eq!(next(), "term 1");
    }

    #[test]
    fn without_hooks_there_is_no_thread() {
        let desk = SignalHooks::default().start().unwrap();
        assert!(desk.jobs.is_none());
    }
}
