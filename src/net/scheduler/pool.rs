//! Named threads that pop work and do it. One that dies is replaced.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::base::error::Error;
use crate::base::log::error;
use crate::base::sync::lock;
use crate::net::scheduler::queue::{Parker, Popped, Queue, Taken};

/// The workers of one queue.
#[derive(Debug)]
pub(crate) struct Pool<T> {
    queue: Arc<Queue<T>>,
    crew: Arc<Crew>,
}

/// Called with a worker's name and what it panicked with.
type Died = dyn Fn(&str, &(dyn Any + Send)) + Send + Sync;

/// What a worker of the first ones does before all else.
pub(crate) type Begin = Arc<dyn Fn() -> Result<(), Error> + Send + Sync>;

/// Where workers have their place.
pub(crate) struct Places {
    /// Each is called so, by its number, and by whose it is.
    pub(crate) name: &'static str,
    pub(crate) whose: String,
    pub(crate) count: usize,
    pub(crate) stack_bytes: Option<usize>,
    /// Should not panic.
    pub(crate) begin: Option<Begin>,
}

/// What it takes to put a worker in a place.
struct Crew {
    places: Places,
    /// Works in that place until the queue is closed.
    work: Box<dyn Fn(usize) + Send + Sync>,
    died: Box<Died>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").field("name", &self.places.name).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Pool<T> {
    /// Starts the workers, and waits until each has begun. One that finds nothing in the queue calls `fetch`, as [`Queue::pop`]
    /// does, before it sleeps. Each makes, on its own thread, what it works with: a function of the
    /// work and of how it was taken. It should not panic; `died`
    /// is told by name of a worker whose function does, and then another takes its place.
    ///
    /// # Errors
    /// Why one can't begin, as soon as that is known; then none works.
    pub(crate) fn start<W: FnMut(T, Taken)>(
        places: Places,
        queue: Arc<Queue<T>>,
        make: impl Fn(usize) -> W + Send + Sync + 'static,
        died: impl Fn(&str, &(dyn Any + Send)) + Send + Sync + 'static,
    ) -> Result<Pool<T>, Error> {
        let of_crew = Arc::clone(&queue);
        let work = move |index| {
            let parker = Parker::new(index);
            let mut work = make(index);
            loop {
                match of_crew.pop(&parker) {
                    Popped::Work(item, taken) => work(item, taken),
                    Popped::Closed => return,
                }
            }
        };
        let crew =
            Arc::new(Crew { places, work: Box::new(work), died: Box::new(died), threads: Mutex::default() });
        let pool = Pool { queue, crew };
        match pool.crew.begin() {
            Ok(()) => Ok(pool),
            Err(e) => {
                pool.abandon();
                Err(e)
            }
        }
    }

    /// Ends the workers when they have done what is queued. False if that takes longer than `time`: what
    /// they drop at their end is the user's. Then they are left behind.
    pub(crate) fn finish(self, time: Duration) -> bool {
        self.queue.close();
        let (done, ended) = mpsc::channel::<()>();
        let name = format!("{}-end", self.crew.places.name);
        let crew = self.crew;
        let join = move || {
            // Whoever dies leaves its successor here first.
            loop {
                let next = crew.threads().pop();
                let Some(thread) = next else { break };
                let _ = thread.join();
            }
            drop(done);
        };
        thread::Builder::new().name(name).spawn(join).is_ok()
            && ended.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
    }

    /// Ends them, too, and waits for nobody: some may not have begun yet.
    pub(crate) fn abandon(self) {
        self.queue.close();
    }
}

impl Crew {
    fn name_of(&self, index: usize) -> String {
        format!("{}-{index}{}", self.places.name, self.places.whose)
    }

    /// Fills all places, and waits until each has begun or one has failed to.
    fn begin(self: &Arc<Crew>) -> Result<(), Error> {
        let (tell, told) = mpsc::channel();
        for index in 0..self.places.count {
            let tell = tell.clone();
            let first = move |crew: &Arc<Crew>| {
                let begun = crew.places.begin.as_ref().map_or(Ok(()), |begin| begin());
                let works = begun.is_ok();
                let _ = tell.send(begun);
                // The end of all of these is awaited, not that of their threads.
                drop(tell);
                if works {
                    crew.occupy(index);
                }
            };
            self.hire(index, first).map_err(Error::system("can't start the workers"))?;
        }
        drop(tell);
        // Nobody is awaited who has nothing to begin with.
        if self.places.begin.is_some() { told.iter().collect() } else { Ok(()) }
    }

    fn hire(
        self: &Arc<Crew>,
        index: usize,
        work: impl FnOnce(&Arc<Crew>) + Send + 'static,
    ) -> io::Result<()> {
        let mut builder = thread::Builder::new().name(self.name_of(index));
        if let Some(bytes) = self.places.stack_bytes {
            builder = builder.stack_size(bytes);
        }
        let crew = Arc::clone(self);
        let thread = builder.spawn(move || work(&crew))?;
        self.threads().push(thread);
        Ok(())
    }

    /// Sees to it that somebody works in that place until the queue is closed.
    fn occupy(self: &Arc<Crew>, index: usize) {
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.work)(index))) {
            let name = self.name_of(index);
            (self.died)(&name, &*panic);
            match self.hire(index, move |crew| crew.occupy(index)) {
                Ok(()) => return,
                Err(e) => error!("no thread to replace {name}: {e}: the old one continues"),
            }
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        lock(&self.threads)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::PerWorker;

    const WORKERS: usize = 3;
    const PATIENCE: Duration = Duration::from_secs(60);

    fn places(stack_bytes: Option<usize>, begin: Option<Begin>) -> Places {
        Places { name: "worker", whose: ":8002".to_owned(), count: WORKERS, stack_bytes, begin }
    }

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
        let pool = Pool::start(places(None, None), Arc::clone(&queue), make, died).unwrap();
        queue.push(&mut (0..1_000).collect());
        assert!(pool.finish(PATIENCE));
        let results: Vec<(u32, String)> = results.iter().collect();
        assert_eq!(results.len(), 900, "each is done but those that kill");
        let names = ["worker-0:8002", "worker-1:8002", "worker-2:8002"];
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
            // More than there are addresses.
            places: places(Some(usize::MAX / 4 * 3), None),
            work: Box::new(move |_| {
                assert!(tries.fetch_add(1, Ordering::Relaxed) == 2, "as the test wants it");
            }),
            died: Box::new(move |name, _| dies.send(name.to_owned()).unwrap()),
            threads: Mutex::default(),
        });
        crew.occupy(7);
        assert!(crew.threads().is_empty());
        drop(crew);
        assert_eq!(names_of(dead), ["worker-7:8002", "worker-7:8002"]);
    }

    #[test]
    fn all_have_begun_when_it_has_started_and_who_comes_later_begins_at_first_use() {
        let begun = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&begun);
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
        let places = places(None, Some(Arc::new(move || first.begin())));
        let pool = Pool::start(places, Arc::clone(&queue), make, |_: &str, _: &_| ()).unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), WORKERS);
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
    fn where_one_can_not_begin_none_works() {
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
        let places = places(None, Some(Arc::new(begin)));
        let pool = Pool::start(places, Arc::clone(&queue), make, |_: &str, _: &_| ());
        assert_eq!(pool.unwrap_err().to_string(), "as the test wants it");
        assert_eq!(ended.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected), "all end");
    }

    #[test]
    fn one_that_can_not_begin_does_not_wait_for_those_who_take_long() {
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
        let places = places(None, Some(Arc::new(begin)));
        let pool = Pool::start(places, queue, |_| |_: u32, _: Taken| (), |_: &str, _: &_| ());
        assert_eq!(pool.unwrap_err().to_string(), "as the test wants it");
        drop(end);
    }

    #[test]
    fn one_that_does_not_end_is_left_behind() {
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
            None => Err("only one is to be had"),
        });
        let queue = Arc::new(Queue::new(1, 1));
        let places = Places { count: 1, ..places(None, Some(Arc::new(move || own.begin()))) };
        let pool = Pool::start(places, queue, |_| |_: u32, _: Taken| (), |_: &str, _: &_| ()).unwrap();
        assert!(!pool.finish(Duration::from_millis(10)));
        drop(end);
    }
}
