//! The running parts of a server, and how they do what the control loop asks.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::acceptor::{Command, Parking};
use crate::budget::Budget;
use crate::control::Service;
use crate::exchange::detached::Detached;
use crate::exchange::{Client, Progress, Sign};
use crate::listener::Listener;
use crate::pool::Pool;
use crate::queue::Queue;
use crate::status::Stats;
use crate::wait_group::WaitGroup;

/// What can be reached of a running server.
#[derive(Debug)]
pub(crate) struct Assembly {
    /// The acceptor has them, too; a socket is closed when both have let go.
    pub(crate) listeners: Mutex<Vec<Listener>>,
    pub(crate) parking: Arc<Parking<Progress>>,
    pub(crate) queues: Vec<Arc<Queue<Box<Client>>>>,
    pub(crate) detached: Arc<Detached>,
    pub(crate) wait_group: WaitGroup,
    /// One for each worker.
    pub(crate) signs: Vec<Arc<Sign>>,
    pub(crate) grace: Duration,
    pub(crate) files: Files,
    pub(crate) memory: Budget,
    pub(crate) disk: Budget,
}

/// What the user's program passes on to the next generation.
pub(crate) type Files = Arc<Mutex<BTreeMap<String, Arc<OwnedFd>>>>;

/// The threads of a running server.
pub(crate) struct Threads {
    pub(crate) acceptor: JoinHandle<()>,
    pub(crate) pools: Vec<Pool<Box<Client>>>,
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("pools", &self.pools.len()).finish_non_exhaustive()
    }
}

impl Assembly {
    pub(crate) fn add_to(&self, stats: &mut Stats) {
        stats.open = self.parking.open() as u64;
        stats.in_flight = self.wait_group.count() as u64;
        stats.queued = self.queues.iter().map(|queue| queue.look().waiting as u64).sum();
        stats.workers = self.signs.len() as u64;
        stats.buffered_bytes = self.memory.held();
        stats.temporary_bytes = self.disk.held();
        stats.detached = self.detached.count() as u64;
    }

    /// Ends the threads. Workers that are in handlers are left behind: the process ends under them.
    pub(crate) fn finish(&self, threads: Threads) {
        self.parking.command(Command::Stop);
        let _ = threads.acceptor.join();
        let idle = self.signs.iter().all(|sign| sign.read().is_none());
        for pool in threads.pools {
            if idle {
                pool.finish();
            }
        }
    }

    fn let_go_of_listeners(&self) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Service for Assembly {
    fn accept(&self) {
        self.parking.command(Command::Accept);
    }

    fn pause(&self, adopted: &[String]) {
        self.parking.command(Command::Pause { adopted: adopted.to_vec() });
    }

    fn close_shared(&self, shared: &[String]) {
        self.let_go_of_listeners();
        self.parking.command(Command::CloseShared { shared: shared.to_vec() });
    }

    fn close_last(&self) {
        self.let_go_of_listeners();
        self.parking.command(Command::CloseLast);
    }

    fn hand_connections(&self, channel: OwnedFd, adopted: &[String]) {
        self.parking.command(Command::HandConnections { channel, adopted: adopted.to_vec() });
    }

    fn drain(&self) {
        self.parking.command(Command::Drain { grace: self.grace });
    }

    fn check(&self) {
        self.parking.command(Command::Check);
    }

    fn listeners(&self) -> Vec<(String, Arc<OwnedFd>)> {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().map(|listener| (listener.name.clone(), Arc::clone(&listener.fd))).collect()
    }

    fn files(&self) -> Vec<(String, Arc<OwnedFd>)> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.iter().map(|(name, fd)| (name.clone(), Arc::clone(fd))).collect()
    }

    fn wait_idle(&self, deadline: Instant) -> bool {
        self.wait_group.wait_until(deadline)
    }

    fn in_flight(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.signs.iter().filter_map(|sign| sign.read()).collect();
        lines.extend(self.detached.in_flight());
        let unnamed = self.wait_group.count().saturating_sub(lines.len());
        lines.extend((0..unnamed).map(|_| "a request whose client is slow to send or to read".to_owned()));
        lines
    }

    fn report(&self) -> String {
        format!("{} requests in flight, {} connections open", self.wait_group.count(), self.parking.open())
    }
}
