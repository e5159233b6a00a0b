//! The end of the load, and the clock of the signals.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::windows::Windows;

/// Near a signal: a request that starts within this time of it, or is in flight then.
pub(crate) const NEAR: Duration = Duration::from_millis(250);

/// Called once, seen by all threads. Every pause of a client is a wait on it.
#[derive(Debug, Default)]
pub(crate) struct Halt {
    called: AtomicBool,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Halt {
    pub(crate) fn is_called(&self) -> bool {
        self.called.load(Ordering::SeqCst)
    }

    pub(crate) fn call(&self) {
        let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.called.store(true, Ordering::SeqCst);
        self.bell.notify_all();
    }

    /// Waits for as long, or until it is called.
    pub(crate) fn pause(&self, pause: Duration) {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.bell.wait_timeout_while(lock, pause, |()| !self.is_called());
    }
}

/// When it all began, when the last signal was sent, and what of that must cost something.
#[derive(Debug)]
pub(crate) struct Clock {
    began: Instant,
    /// Microseconds; 0: none yet.
    signal: AtomicU64,
    lock: Mutex<()>,
    bell: Condvar,
    /// The part of the load that this is: for a comparison of near and far within each.
    part: AtomicUsize,
    /// From a TERM until the server serves again.
    pub(crate) stops: Windows,
    /// From the HUP to a process until its successor, killed on probation, is gone.
    pub(crate) crashes: Windows,
    /// From the HUP of a handover during which a process is killed until the service is whole again.
    pub(crate) kills: Windows,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock {
            began: Instant::now(),
            signal: AtomicU64::new(0),
            lock: Mutex::default(),
            bell: Condvar::new(),
            part: AtomicUsize::new(0),
            stops: Windows::default(),
            crashes: Windows::default(),
            kills: Windows::default(),
        }
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// A signal is sent now.
    pub(crate) fn mark(&self) {
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.signal.store(now.max(1), Ordering::SeqCst);
        self.bell.notify_all();
    }

    /// Waits for a signal after now, for as long; returns whether there was one.
    pub(crate) fn next_signal(&self, within: Duration) -> bool {
        let begin = Instant::now();
        let comes = || self.signal().is_some_and(|signal| signal > begin);
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.bell.wait_timeout_while(lock, within, |()| !comes());
        comes()
    }

    pub(crate) fn part(&self) -> usize {
        self.part.load(Ordering::Relaxed)
    }

    pub(crate) fn set_part(&self, part: usize) {
        self.part.store(part, Ordering::Relaxed);
    }

    /// The last signal.
    pub(crate) fn signal(&self) -> Option<Instant> {
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            micros => Some(self.began + Duration::from_micros(micros)),
        }
    }

    /// Whether a request was under way near the last signal. (One that was near an earlier one and
    /// ends after the last began before it, and so is near.)
    pub(crate) fn near(&self, begin: Instant, ended: Instant) -> bool {
        self.signal().is_some_and(|signal| signal <= ended && begin <= signal + NEAR)
    }
}
