//! Where a worker is parked until it is woken.

use std::sync::Arc;

use crate::base::sync::{AtomicBool, Ordering, Thread, current, park};

/// Where a worker sleeps, and its number.
#[derive(Clone)]
pub(crate) struct Parker {
    pub(super) index: usize,
    thread: Thread,
    woken: Arc<AtomicBool>,
}

impl Parker {
    /// The parker of the calling thread, which is the worker with that number.
    pub(crate) fn new(index: usize) -> Parker {
        Parker { index, thread: current(), woken: Arc::new(AtomicBool::new(false)) }
    }

    /// A parker for a thread that is not one of the queue's workers.
    #[cfg(feature = "stream_server")]
    pub(crate) fn of_guest() -> Parker {
        Parker::new(usize::MAX)
    }

    /// Called before others can see that this worker sleeps.
    pub(super) fn prepare(&self) {
        self.woken.store(false, Ordering::Relaxed);
    }

    pub(super) fn park(&self) {
        // A handler may have left its thread a token: only `wake` counts.
        while !self.woken.load(Ordering::Acquire) {
            park();
        }
    }

    pub(super) fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}
