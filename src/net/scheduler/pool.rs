//! The threads of a pool: each takes work from the queue and does it, and one that panics is replaced.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::base::error::Error;
use crate::base::log::error;
use crate::base::sync::lock;
use crate::base::threads::{Gate, spawn};
use crate::net::scheduler::queue::{Parker, Popped, Queue, Taken};

/// The workers of one queue.
pub(crate) struct Pool<T> {
    queue: Arc<Queue<T>>,
    threads: Arc<Threads>,
}

/// Called with a worker's name and the payload of its panic.
type Died = dyn Fn(&str, &(dyn Any + Send)) + Send + Sync;

/// Each of the first workers calls this before it takes work. It should not panic.
pub(crate) type Init = Arc<dyn Fn() -> Result<(), Error> + Send + Sync>;

/// The name, the number and the start of a pool's threads.
pub(crate) struct PoolConfig {
    /// A thread's name is this, its number and the suffix.
    pub(crate) name: &'static str,
    pub(crate) suffix: String,
    pub(crate) count: usize,
    pub(crate) stack_bytes: Option<usize>,
    pub(crate) init: Option<Init>,
}

impl PoolConfig {
    pub(crate) fn thread_name(&self, index: usize) -> String {
        format!("{}-{index}{}", self.name, self.suffix)
    }

    /// The name of all of them: the number is `N`.
    pub(crate) fn threads_name(&self) -> String {
        format!("{}-N{}", self.name, self.suffix)
    }
}

/// The means to start a worker, and all workers that were started.
struct Threads {
    config: PoolConfig,
    /// Works as the worker with that number until the queue is closed.
    work: Box<dyn Fn(usize) + Send + Sync>,
    died: Box<Died>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl<T: Send + 'static> Pool<T> {
    /// Starts the workers, and waits until each has done its `init`. Each calls `make` on its own thread, with its number, for
    /// the function that does the work. That should not panic: a worker whose function does is replaced, and `died`
    /// is called with its name.
    ///
    /// # Errors
    /// When an `init` or the start of a thread fails, as soon as that is known. No worker takes work then.
    pub(crate) fn start<W: FnMut(T, Taken)>(
        config: PoolConfig,
        queue: Arc<Queue<T>>,
        make: impl Fn(usize) -> W + Send + Sync + 'static,
        died: impl Fn(&str, &(dyn Any + Send)) + Send + Sync + 'static,
    ) -> Result<Pool<T>, Error> {
        let of_worker = Arc::clone(&queue);
        let work = move |index| {
            let parker = Parker::new(index);
            let mut work = make(index);
            while let Popped::Work(item, taken) = of_worker.pop(&parker) {
                work(item, taken);
            }
        };
        let threads =
            Threads { config, work: Box::new(work), died: Box::new(died), handles: Mutex::default() };
        let pool = Pool { queue, threads: Arc::new(threads) };
        match pool.threads.start() {
            Ok(()) => Ok(pool),
            Err(e) => {
                pool.abandon();
                Err(e)
            }
        }
    }

    /// Ends the workers when they have done the queued work. False if that takes longer than `time`, because values of the
    /// user that they drop at their end may block: then they are left behind.
    pub(crate) fn finish(self, time: Duration) -> bool {
        self.queue.close();
        let (done, ended) = Gate::new();
        let name = format!("{}-end", self.threads.config.name);
        let threads = self.threads;
        let join = move || {
            // A worker that panics adds its replacement before it ends.
            loop {
                let next = threads.handles().pop();
                let Some(thread) = next else { break };
                let _ = thread.join();
            }
            drop(done);
        };
        spawn(thread::Builder::new().name(name), join).is_ok() && ended.wait_for(time)
    }

    /// Ends the workers and waits for none: some may still be in their `init`.
    pub(crate) fn abandon(self) {
        self.queue.close();
    }
}

impl Threads {
    /// Starts all workers, and waits until each has done its `init` or one has failed.
    fn start(self: &Arc<Threads>) -> Result<(), Error> {
        let failed = Arc::new(Mutex::new(None));
        let (done, known) = Gate::new();
        let done = Arc::new(done);
        for index in 0..self.config.count {
            let (failed, done, known) = (Arc::clone(&failed), Arc::clone(&done), known.clone());
            let first = move |threads: &Arc<Threads>| match threads.init() {
                Ok(()) => {
                    drop(done);
                    threads.work(index);
                }
                Err(e) => {
                    lock(&failed).get_or_insert(e);
                    known.open();
                }
            };
            self.spawn(index, first).map_err(Error::system("can't start the workers"))?;
        }
        drop(done);
        if self.config.init.is_some() {
            known.wait();
        }
        let failed = lock(&failed).take();
        failed.map_or(Ok(()), Err)
    }

    fn init(&self) -> Result<(), Error> {
        self.config.init.as_ref().map_or(Ok(()), |init| init())
    }

    fn spawn(
        self: &Arc<Threads>,
        index: usize,
        work: impl FnOnce(&Arc<Threads>) + Send + 'static,
    ) -> io::Result<()> {
        let mut builder = thread::Builder::new().name(self.config.thread_name(index));
        if let Some(bytes) = self.config.stack_bytes {
            builder = builder.stack_size(bytes);
        }
        let threads = Arc::clone(self);
        let thread = spawn(builder, move || work(&threads))?;
        self.handles().push(thread);
        Ok(())
    }

    /// Works as the worker with that number until the queue is closed. After a panic another thread continues, or this one
    /// where none can be started.
    fn work(self: &Arc<Threads>, index: usize) {
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.work)(index))) {
            let name = self.config.thread_name(index);
            (self.died)(&name, &*panic);
            match self.spawn(index, move |threads| threads.work(index)) {
                Ok(()) => return,
                Err(e) => error!("no thread to replace {name}: {e}: the old one continues"),
            }
        }
    }

    fn handles(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        lock(&self.handles)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::RecvTimeoutError;
    use std::sync::{Barrier, mpsc};

    use super::*;
    use crate::PerWorker;

    const WORKERS: usize = 3;
    const PATIENCE: Duration = Duration::from_secs(60);

    fn config(stack_bytes: Option<usize>, init: Option<Init>) -> PoolConfig {
        PoolConfig { name: "worker", suffix: ":8002".to_owned(), count: WORKERS, stack_bytes, init }
    }

    /// The names of workers that died, sorted.
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
        let pool = Pool::start(config(None, None), Arc::clone(&queue), make, died).unwrap();
        queue.push(&mut (0..1_000).collect());
        assert!(pool.finish(PATIENCE));
        let results: Vec<(u32, String)> = results.iter().collect();
        assert_eq!(results.len(), 900, "each is done except those that panic");
        let names = ["worker-0:8002", "worker-1:8002", "worker-2:8002"];
        assert!(results.iter().all(|(_, name)| names.contains(&name.as_str())));
        let dead = names_of(dead);
        assert_eq!(dead.len(), 100);
        assert!(dead.iter().all(|name| names.contains(&name.as_str())));
    }

    #[test]
    fn a_worker_that_can_not_be_replaced_continues() {
        let (dies, dead) = mpsc::channel();
        let tries = AtomicUsize::new(0);
        let threads = Arc::new(Threads {
            // More than there are addresses.
            config: config(Some(usize::MAX / 4 * 3), None),
            work: Box::new(move |_| {
                assert!(tries.fetch_add(1, Ordering::Relaxed) == 2, "as the test wants it");
            }),
            died: Box::new(move |name, _| dies.send(name.to_owned()).unwrap()),
            handles: Mutex::default(),
        });
        threads.work(7);
        assert!(threads.handles().is_empty());
        drop(threads);
        assert_eq!(names_of(dead), ["worker-7:8002", "worker-7:8002"]);
    }

    #[test]
    fn workers_start_eagerly_and_later_ones_at_first_use() {
        let started = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&started);
        let own = PerWorker::new(move || Ok::<_, String>(counted.fetch_add(1, Ordering::SeqCst)));
        let (first, asked) = (own.clone(), own);
        let queue = Arc::new(Queue::new(WORKERS, 1));
        let (done, results) = mpsc::channel();
        let all = Arc::new(Barrier::new(WORKERS));
        let make = move |_| {
            let (done, asked, all) = (done.clone(), asked.clone(), Arc::clone(&all));
            move |dies: bool, _| {
                if dies {
                    all.wait();
                    panic!("as the test wants it");
                }
                done.send((thread::current().id(), asked.with(|number| *number))).unwrap();
            }
        };
        let config = config(None, Some(Arc::new(move || first.begin())));
        let pool = Pool::start(config, Arc::clone(&queue), make, |_: &str, _: &_| ()).unwrap();
        assert_eq!(started.load(Ordering::SeqCst), WORKERS);
        queue.push(&mut vec![true; WORKERS]);
        queue.push(&mut vec![false; 100]);
        assert!(pool.finish(PATIENCE));
        let mut numbers = BTreeMap::new();
        for (thread, number) in results {
            assert_eq!(*numbers.entry(format!("{thread:?}")).or_insert(number), number);
        }
        assert!(!numbers.is_empty() && numbers.values().all(|number| *number >= WORKERS), "{numbers:?}");
        assert_eq!(numbers.values().collect::<BTreeSet<_>>().len(), numbers.len(), "{numbers:?}");
    }

    #[test]
    fn where_one_init_fails_no_worker_takes_work() {
        let tries = AtomicUsize::new(0);
        let begin = move || match tries.fetch_add(1, Ordering::SeqCst) {
            1 => Err(Error::config("as the test wants it")),
            _ => Ok(()),
        };
        let queue = Arc::new(Queue::new(WORKERS, 1));
        let (lives, ended) = mpsc::channel::<()>();
        let make = move |_| {
            let lives = lives.clone();
            move |_: u32, _| lives.send(()).unwrap()
        };
        let config = config(None, Some(Arc::new(begin)));
        let pool = Pool::start(config, Arc::clone(&queue), make, |_: &str, _: &_| ());
        assert_eq!(pool.err().unwrap().to_string(), "as the test wants it");
        assert_eq!(ended.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected), "all end");
    }

    #[test]
    fn an_init_that_fails_does_not_wait_for_those_that_hang() {
        let tries = AtomicUsize::new(0);
        let (end, hangs) = mpsc::channel::<()>();
        let hangs = Mutex::new(hangs);
        let begin = move || match tries.fetch_add(1, Ordering::SeqCst) {
            1 => Err(Error::config("as the test wants it")),
            _ => {
                let _ = lock(&hangs).recv();
                Ok(())
            }
        };
        let queue = Arc::new(Queue::new(WORKERS, 1));
        let config = config(None, Some(Arc::new(begin)));
        let pool = Pool::start(config, queue, |_| |_: u32, _: Taken| (), |_: &str, _: &_| ());
        assert_eq!(pool.err().unwrap().to_string(), "as the test wants it");
        drop(end);
    }

    #[test]
    fn a_worker_that_does_not_end_is_left_behind() {
        struct Hangs(mpsc::Receiver<()>);
        impl Drop for Hangs {
            fn drop(&mut self) {
                let _ = self.0.recv();
            }
        }
        let (end, ends) = mpsc::channel();
        let ends = Mutex::new(Some(ends));
        let own = PerWorker::new(move || match ends.lock().unwrap().take() {
            Some(ends) => Ok(Hangs(ends)),
            None => Err("there is only one"),
        });
        let queue = Arc::new(Queue::new(1, 1));
        let config = PoolConfig { count: 1, ..config(None, Some(Arc::new(move || own.begin()))) };
        let pool = Pool::start(config, queue, |_| |_: u32, _: Taken| (), |_: &str, _: &_| ()).unwrap();
        assert!(!pool.finish(Duration::from_millis(10)));
        drop(end);
    }
}
