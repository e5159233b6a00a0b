//! The running parts of a server, which carry out the commands of the control loop.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::error::Error;
use crate::base::records::Records;
use crate::base::status::{Gauges, InFlight, ParkedConnection, RunningHandler, Stats};
use crate::base::sync::lock;
use crate::base::wait_group::WaitGroup;
use crate::net::acceptor::{AcceptorCommand, Parking};
use crate::net::connection::Ready;
use crate::net::listener::Listener;
use crate::net::scheduler::queue::Queue;
use crate::net::transfer::ServiceKeys;
use crate::process::control::{BusyPool, Engine};
use crate::process::handover::Passed;
use litemap::LiteMap;

/// The parts of a running server, with any protocol.
pub(crate) struct Assembly<P> {
    /// The acceptor has them too; a socket is closed when both have dropped it.
    pub(crate) listeners: Mutex<Vec<Listener>>,
    /// The names of the listeners, by which their connections are known when they are closed.
    pub(crate) names: Vec<String>,
    pub(crate) parking: Arc<Parking<P>>,
    pub(crate) queues: Vec<Arc<Queue<Ready<P>>>>,
    pub(crate) wait_group: WaitGroup,
    pub(crate) workers: Arc<dyn Workers>,
    pub(crate) grace: Duration,
    /// How many connections may be open.
    pub(crate) connections_limit: usize,
    pub(crate) files: Files,
    pub(crate) records: Arc<Records>,
    pub(crate) keys: ServiceKeys,
}

/// The threads that work on the connections.
pub(crate) trait Workers: Send + Sync {
    fn add_to(&self, stats: &mut Stats);
    /// The operations of the threads now, one line each.
    fn in_flight(&self) -> Vec<InFlight>;
    /// The handlers that run now.
    fn handlers(&self) -> Vec<RunningHandler> {
        Vec::new()
    }
    /// Logs that all workers of a pool are busy while connections wait.
    fn log_all_busy(&self, _busy: BusyPool) {}
    /// A line for operations that are in flight and no thread has.
    fn unnamed(&self) -> &'static str;
    /// Notifies threads that the process drains; its phase says so already.
    fn drain(&self) {}
    /// Ends the threads, when there is nothing more to do or the drain deadline has passed. Calls `last` before it waits for
    /// the user's code.
    ///
    /// # Errors
    /// When the end is not a clean one.
    fn finish(&self, last: &mut dyn FnMut()) -> Result<(), Error>;
}

/// The files that the user's program passes on to the next generation.
pub(crate) type Files = Arc<Mutex<LiteMap<String, Arc<OwnedFd>>>>;

impl<P> Assembly<P> {
    /// The addresses of the TCP listeners.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.open_listeners().iter().filter_map(Listener::socket_addr).collect()
    }

    /// Ends the threads.
    pub(crate) fn finish(
        &self,
        acceptor: JoinHandle<Result<(), Error>>,
        last: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        self.parking.command(AcceptorCommand::Stop);
        let ended = acceptor.join().unwrap_or(Ok(()));
        let finished = self.workers.finish(last);
        ended.and(finished)
    }

    fn release_listeners(&self) {
        self.open_listeners().clear();
    }

    fn open_listeners(&self) -> MutexGuard<'_, Vec<Listener>> {
        lock(&self.listeners)
    }
}

impl<P: Send> Gauges for Assembly<P> {
    fn add_to(&self, stats: &mut Stats) {
        stats.open = self.parking.open() as u64;
        stats.connections_limit = self.connections_limit as u64;
        stats.in_flight = self.wait_group.count() as u64;
        stats.queued = self.queues.iter().map(|queue| queue.waiting() as u64).sum();
        self.workers.add_to(stats);
    }

    fn handlers(&self) -> Vec<RunningHandler> {
        self.workers.handlers()
    }
}

impl<P: Send> Engine for Assembly<P> {
    fn accept(&self) {
        self.parking.command(AcceptorCommand::Accept);
    }

    fn share(&self, names: &[String]) {
        self.parking.command(AcceptorCommand::Share { names: names.to_vec() });
    }

    fn pause(&self) {
        self.parking.command(AcceptorCommand::Pause);
    }

    fn close_shared(&self) {
        self.release_listeners();
        self.parking.command(AcceptorCommand::CloseShared);
    }

    fn close_last(&self) {
        self.release_listeners();
        self.parking.command(AcceptorCommand::CloseLast);
    }

    fn pass_keys(&self, channel: BorrowedFd<'_>) {
        self.keys.pass_on(channel);
    }

    fn rotate_keys(&self) {
        self.keys.rotate();
    }

    fn hand_connections(&self, channel: OwnedFd) {
        self.parking.command(AcceptorCommand::HandConnections(channel));
    }

    fn drain(&self) {
        self.parking.command(AcceptorCommand::Drain { grace: self.grace });
        self.workers.drain();
    }

    fn check(&self) {
        self.parking.command(AcceptorCommand::Check);
    }

    fn check_progress(&self) {
        self.parking.command(AcceptorCommand::CheckProgress);
    }

    fn listeners(&self) -> Vec<Passed> {
        let mut passed = Vec::new();
        for listener in self.open_listeners().iter() {
            passed.extend(listener.passed());
        }
        passed
    }

    fn files(&self) -> Vec<(String, Arc<OwnedFd>)> {
        let files = lock(&self.files);
        files.iter().map(|(name, fd)| (name.clone(), Arc::clone(fd))).collect()
    }

    fn is_idle(&self) -> bool {
        self.wait_group.is_idle()
    }

    fn in_flight(&self) -> Vec<InFlight> {
        let mut named = self.workers.in_flight();
        let unnamed = self.wait_group.count().saturating_sub(named.len());
        let one = || InFlight { what: self.workers.unnamed().to_owned(), place: "", age: None };
        named.extend((0..unnamed).map(|_| one()));
        named
    }

    fn records(&self) -> &Records {
        &self.records
    }

    fn report(&self) -> String {
        format!("{} requests in flight, {} connections open", self.wait_group.count(), self.parking.open())
    }

    fn add_to(&self, stats: &mut Stats) {
        self.records.counters.add_up(stats);
        Gauges::add_to(self, stats);
    }

    fn log_all_busy(&self, busy: BusyPool) {
        self.workers.log_all_busy(busy);
    }

    fn connections(&self, most: usize) -> Vec<ParkedConnection> {
        self.parking.parked(&self.names, most)
    }

    fn handlers(&self) -> Vec<RunningHandler> {
        self.workers.handlers()
    }
}
