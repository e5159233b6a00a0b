//! Named threads that pop work and do it. One that dies is replaced.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use log::error;

use crate::queue::{Popped, Queue, Seat};

/// The workers of one queue.
#[derive(Debug)]
pub(crate) struct Pool<T> {
    queue: Arc<Queue<T>>,
    crew: Arc<Crew>,
}

/// Called with a worker's name and what it panicked with.
type Died = dyn Fn(&str, &(dyn Any + Send)) + Send + Sync;

/// What it takes to put a worker in a place.
struct Crew {
    name: String,
    stack_bytes: Option<usize>,
    /// Works in that place until the queue is closed.
    work: Box<dyn Fn(usize) + Send + Sync>,
    died: Box<Died>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Pool<T> {
    /// Starts `count` workers. One that finds nothing in the queue calls `fetch`, as [`Queue::pop`]
    /// does, before it sleeps. Each makes, on its own thread, what it works with: a function of the
    /// work and of whether a place in the queue's share is taken for it. It should not panic; `died`
    /// is told by name of a worker whose function does, and then another takes its place.
    pub(crate) fn start<W: FnMut(T, bool)>(
        name: &str,
        count: usize,
        stack_bytes: Option<usize>,
        queue: Arc<Queue<T>>,
        make: impl Fn(usize) -> W + Send + Sync + 'static,
        fetch: impl Fn() -> bool + Send + Sync + 'static,
        died: impl Fn(&str, &(dyn Any + Send)) + Send + Sync + 'static,
    ) -> io::Result<Pool<T>> {
        let of_crew = Arc::clone(&queue);
        let work = move |index| {
            let seat = Seat::new(index);
            let mut work = make(index);
            loop {
                match of_crew.pop(&seat, &fetch) {
                    Popped::Work(item) => work(item, false),
                    Popped::InShare(item) => work(item, true),
                    Popped::Closed => return,
                }
            }
        };
        let crew = Arc::new(Crew {
            name: name.to_owned(),
            stack_bytes,
            work: Box::new(work),
            died: Box::new(died),
            threads: Mutex::default(),
        });
        let pool = Pool { queue, crew };
        for index in 0..count {
            if let Err(e) = pool.crew.hire(index) {
                pool.finish();
                return Err(e);
            }
        }
        Ok(pool)
    }

    /// Ends the workers when they have done what is queued.
    pub(crate) fn finish(self) {
        self.queue.close();
        // Whoever dies leaves its successor here first.
        loop {
            let next = self.crew.threads().pop();
            let Some(thread) = next else { return };
            let _ = thread.join();
        }
    }
}

impl Crew {
    fn name_of(&self, index: usize) -> String {
        format!("{}-{index}", self.name)
    }

    fn hire(self: &Arc<Crew>, index: usize) -> io::Result<()> {
        let mut builder = thread::Builder::new().name(self.name_of(index));
        if let Some(bytes) = self.stack_bytes {
            builder = builder.stack_size(bytes);
        }
        let crew = Arc::clone(self);
        let thread = builder.spawn(move || crew.occupy(index))?;
        self.threads().push(thread);
        Ok(())
    }

    /// Sees to it that somebody works in that place until the queue is closed.
    fn occupy(self: &Arc<Crew>, index: usize) {
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.work)(index))) {
            let name = self.name_of(index);
            (self.died)(&name, &*panic);
            match self.hire(index) {
                Ok(()) => return,
                Err(e) => error!("no thread to replace {name}: {e}: the old one goes on"),
            }
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const WORKERS: usize = 3;

    /// What the dead were called, in order of name.
    fn names_of(dead: mpsc::Receiver<String>) -> Vec<String> {
        let mut names: Vec<String> = dead.iter().collect();
        names.sort();
        names
    }

    #[test]
    fn a_worker_that_dies_is_replaced_by_one_of_its_name() {
        let queue = Arc::new(Queue::new(WORKERS, 1));
        let (done, results) = mpsc::channel();
        let (dies, dead) = mpsc::channel();
        let make = move |_| {
            let done = done.clone();
            move |n: u32, _| {
                assert!(n % 10 != 0, "as the test wants it");
                done.send((n, thread::current().name().unwrap().to_owned())).unwrap();
            }
        };
        let died = move |name: &str, panic: &(dyn Any + Send)| {
            assert!(panic.is::<&str>());
            dies.send(name.to_owned()).unwrap();
        };
        let pool = Pool::start("worker", WORKERS, None, Arc::clone(&queue), make, || false, died).unwrap();
        queue.push(&mut (0..1_000).collect());
        pool.finish();
        let results: Vec<(u32, String)> = results.iter().collect();
        assert_eq!(results.len(), 900, "each is done but those that kill");
        let names = ["worker-0", "worker-1", "worker-2"];
        assert!(results.iter().all(|(_, name)| names.contains(&name.as_str())));
        let dead = names_of(dead);
        assert_eq!(dead.len(), 100);
        assert!(dead.iter().all(|name| names.contains(&name.as_str())));
    }

    #[test]
    fn one_that_can_not_be_replaced_goes_on() {
        let (dies, dead) = mpsc::channel();
        let tries = AtomicUsize::new(0);
        let crew = Arc::new(Crew {
            name: "worker".to_owned(),
            // More than there are addresses.
            stack_bytes: Some(1 << 60),
            work: Box::new(move |_| {
                assert!(tries.fetch_add(1, Ordering::Relaxed) == 2, "as the test wants it");
            }),
            died: Box::new(move |name, _| dies.send(name.to_owned()).unwrap()),
            threads: Mutex::default(),
        });
        crew.occupy(7);
        assert!(crew.threads().is_empty());
        drop(crew);
        assert_eq!(names_of(dead), ["worker-7", "worker-7"]);
    }
}
