//! Threads, and the wait for their end.
//!
//! **Each has one type for all its uses**, because a user's build compiles std's code anew for each type: 900 lines of LLVM IR for
//! the closure of a thread. A channel of std is not used: its three kinds are compiled for each type, 17,000 lines.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::base::error::Error;
use crate::base::sync::lock;

pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Starts a thread.
pub(crate) fn spawn(thread: Builder, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let work: Job = Box::new(work);
    thread.spawn(work)
}

/// Starts a thread that ends with an outcome.
pub(crate) fn spawn_part(
    thread: Builder,
    work: impl FnOnce() -> Result<(), Error> + Send + 'static,
) -> io::Result<JoinHandle<Result<(), Error>>> {
    let work: Box<dyn FnOnce() -> Result<(), Error> + Send> = Box::new(work);
    thread.spawn(work)
}

/// A thread that runs jobs one after another, and ends when the last clone of this is dropped.
#[derive(Clone)]
pub(crate) struct JobThread(Arc<LastClone>);

/// Ends the thread once it has no more jobs.
struct LastClone(Arc<Jobs>);

#[derive(Default)]
struct Jobs {
    to_do: Mutex<ToDo>,
    changed: Condvar,
}

#[derive(Default)]
struct ToDo {
    jobs: VecDeque<Job>,
    /// No job comes any more, or none is run any more.
    is_closed: bool,
}

impl JobThread {
    pub(crate) fn start(thread: Builder) -> io::Result<JobThread> {
        let jobs = Arc::new(Jobs::default());
        let its_end = EndOfThread(Arc::clone(&jobs));
        spawn(thread, move || its_end.0.run_all())?;
        Ok(JobThread(Arc::new(LastClone(jobs))))
    }

    /// # Errors
    /// Returns the job if the thread has ended, because a job panicked.
    pub(crate) fn run(&self, job: Job) -> Result<(), Job> {
        let Jobs { to_do, changed } = &*self.0.0;
        let mut to_do = lock(to_do);
        if to_do.is_closed {
            return Err(job);
        }
        to_do.jobs.push_back(job);
        changed.notify_one();
        Ok(())
    }
}

impl Jobs {
    fn run_all(&self) {
        while let Some(job) = self.next() {
            job();
        }
    }

    /// Waits for a job. None: all clones are dropped, and all jobs are done.
    fn next(&self) -> Option<Job> {
        let waits = |to_do: &mut ToDo| to_do.jobs.is_empty() && !to_do.is_closed;
        let to_do = self.changed.wait_while(lock(&self.to_do), waits);
        to_do.unwrap_or_else(PoisonError::into_inner).jobs.pop_front()
    }

    fn close(&self) {
        lock(&self.to_do).is_closed = true;
        self.changed.notify_one();
    }
}

impl Drop for LastClone {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Is dropped at the end of the thread, also by a panic; and where it did not start.
struct EndOfThread(Arc<Jobs>);

impl Drop for EndOfThread {
    fn drop(&mut self) {
        self.0.close();
        // Those who wait for what a job owns wait no longer.
        let left = std::mem::take(&mut lock(&self.0.to_do).jobs);
        drop(left);
    }
}

/// Is opened once; threads wait until then.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

/// Opens its gate when it is dropped, also by a panic.
pub(crate) struct OpensGate(Gate);

impl Gate {
    /// A gate, and what opens it.
    pub(crate) fn new() -> (OpensGate, Gate) {
        let gate = Gate::default();
        (OpensGate(gate.clone()), gate)
    }

    pub(crate) fn open(&self) {
        let (is_open, opened) = &*self.0;
        *lock(is_open) = true;
        opened.notify_all();
    }

    pub(crate) fn wait(&self) {
        let (is_open, opened) = &*self.0;
        drop(opened.wait_while(lock(is_open), |is_open| !*is_open));
    }

    /// False if it is not open after `time`.
    pub(crate) fn wait_for(&self, time: Duration) -> bool {
        let (is_open, opened) = &*self.0;
        let waited = opened.wait_timeout_while(lock(is_open), time, |is_open| !*is_open);
        waited.is_ok_and(|(is_open, _)| *is_open)
    }
}

impl Drop for OpensGate {
    fn drop(&mut self) {
        self.0.open();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn jobs_run_in_order_until_one_panics() {
        let thread = JobThread::start(Builder::new()).unwrap();
        let (done, results) = channel();
        for n in 0..3 {
            let done = done.clone();
            assert!(thread.run(Box::new(move || done.send(n).unwrap())).is_ok());
        }
        assert_eq!(results.iter().take(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(thread.run(Box::new(|| panic!("as the test wants it"))).is_ok());
        // The channel closes while the thread unwinds.
        while thread.run(Box::new(|| ())).is_ok() {}
        assert!(thread.run(Box::new(|| ())).is_err());
    }

    #[test]
    fn the_thread_of_jobs_ends_with_its_last_clone() {
        let (opens, ended) = Gate::new();
        let thread = JobThread::start(Builder::new()).unwrap();
        let (first, waits) = Gate::new();
        assert!(thread.run(Box::new(move || waits.wait())).is_ok());
        assert!(thread.clone().run(Box::new(move || drop(opens))).is_ok());
        drop(thread);
        assert!(!ended.wait_for(Duration::ZERO));
        drop(first);
        ended.wait();
        assert!(ended.wait_for(Duration::ZERO), "it stays open");
    }

    #[test]
    fn a_panic_opens_a_gate() {
        let (opens, gate) = Gate::new();
        let panics = move || {
            let _opens = opens;
            panic!("as the test wants it");
        };
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        gate.wait();
    }
}
