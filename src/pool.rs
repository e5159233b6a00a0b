//! Named threads that pop work and do it.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::queue::{Popped, Queue, Seat};

/// The workers of one queue.
#[derive(Debug)]
pub(crate) struct Pool<T> {
    queue: Arc<Queue<T>>,
    threads: Vec<JoinHandle<()>>,
}

impl<T: Send + 'static> Pool<T> {
    /// Starts `count` workers. Each makes, on its own thread, what it works with: a function of the
    /// work and of whether a place in the queue's share is taken for it.
    pub(crate) fn start<W: FnMut(T, bool)>(
        name: &str,
        count: usize,
        stack_bytes: Option<usize>,
        queue: Arc<Queue<T>>,
        make: impl Fn(usize) -> W + Send + Sync + 'static,
    ) -> io::Result<Pool<T>> {
        let make = Arc::new(make);
        let mut pool = Pool { queue: Arc::clone(&queue), threads: Vec::with_capacity(count) };
        for index in 0..count {
            let (queue, make) = (Arc::clone(&queue), Arc::clone(&make));
            let run = move || {
                let seat = Seat::new();
                let mut work = make(index);
                loop {
                    match queue.pop(&seat) {
                        Popped::Work(item) => work(item, false),
                        Popped::InShare(item) => work(item, true),
                        Popped::Closed => return,
                    }
                }
            };
            let mut builder = thread::Builder::new().name(format!("{name}-{index}"));
            if let Some(bytes) = stack_bytes {
                builder = builder.stack_size(bytes);
            }
            match builder.spawn(run) {
                Ok(thread) => pool.threads.push(thread),
                Err(e) => {
                    pool.finish();
                    return Err(e);
                }
            }
        }
        Ok(pool)
    }

    /// Ends the workers when they have done what is queued.
    pub(crate) fn finish(self) {
        self.queue.close();
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}
