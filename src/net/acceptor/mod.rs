//! The acceptor: one thread that opens and closes listeners, and owns every connection that no worker has. It enforces deadlines,
//! transfers connections to a successor and watches busy pools. It waits neither for new connections nor for the bytes of
//! others, because the workers do (`accepting`); it does both for a pool whose workers are all busy. It parses no HTTP and never
//! runs the user's code.

mod accept_error;
mod accepting;
mod busy_pools;
mod commands;
mod connection_counts;
pub(crate) mod connections;
mod drain;
pub(crate) mod event;
pub(crate) mod factory;
mod listeners;
mod parking;
mod pool_events;
mod pools;
mod ticks;
mod timeouts;

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollTimeout};

use crate::base::limits::Limits;
use crate::base::log::info;
use crate::base::status::AllCounters;
use crate::base::sync::lock;
use crate::base::time::poll_timeout;
use crate::net::conn_info::ConnInfo;
use crate::net::connection::{Portable, Ready};
use crate::net::listener::Listener;
use crate::net::scheduler::policy::LOOK;
use crate::net::scheduler::queue::{Backlog, Probe, Queue};
use crate::net::transfer::{ResumeStreams, ServiceKeys, Transfers};

pub(crate) use commands::AcceptorCommand;
use connections::Connections;
use event::AcceptorSource;
pub(crate) use parking::{Deadline, Lingered, Parking};
pub(crate) use pool_events::pool_events;
pub(crate) use pools::PoolPlan;
use ticks::TICK;

/// What the acceptor reports to the control loop.
pub(crate) enum News {
    ListenersClosed,
    Drained,
    Checked(Result<(), String>),
    Progressed,
    /// All workers of that pool have been busy for long while connections wait: once a minute at most.
    AllBusy {
        pool: usize,
        backlog: Backlog,
    },
}

type Report = Arc<dyn Fn(News) + Send + Sync>;

/// What an acceptor is made from.
pub(crate) struct Setup<P> {
    pub(crate) parking: Arc<Parking<P>>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) queues: Vec<Arc<Queue<Ready<P>>>>,
    pub(crate) queue_wait: Duration,
    pub(crate) limits: Limits,
    /// What all connections of this process have in common.
    pub(crate) process: ConnInfo,
    pub(crate) all_counters: AllCounters,
    pub(crate) keys: ServiceKeys,
    /// None where no stream of a predecessor is continued.
    pub(crate) streams: Option<Arc<dyn ResumeStreams<P>>>,
    /// The answer to a connection for which no worker had time.
    pub(crate) busy: Box<dyn FnMut() -> Vec<u8> + Send>,
    pub(crate) report: Report,
}

pub(crate) struct Acceptor<P> {
    connections: Connections<P>,
    transfers: Transfers<P>,
    keys: ServiceKeys,
    next_sweep: Instant,
    /// The control loop knows that the drain is complete.
    is_drained: bool,
    report: Report,
}

/// However it ends, no worker accepts afterwards.
impl<P> Drop for Acceptor<P> {
    fn drop(&mut self) {
        self.connections.accepting.listeners().leave_all(&self.connections.parking);
    }
}

impl<P: Portable> Acceptor<P> {
    pub(crate) fn new(setup: Setup<P>) -> Acceptor<P> {
        let (limit, counters) = (setup.limits.connections, setup.all_counters.clone());
        let (keys, streams) = (setup.keys.clone(), setup.streams.clone());
        Acceptor {
            transfers: Transfers::new(&setup.listeners, limit, counters, keys, streams),
            keys: setup.keys.clone(),
            next_sweep: Instant::now() + TICK,
            is_drained: false,
            report: Arc::clone(&setup.report),
            connections: Connections::new(setup),
        }
    }

    /// Runs until `AcceptorCommand::Stop`.
    ///
    /// # Errors
    /// When it can't wait for events.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 16];
        loop {
            let timeout = self.timeout();
            let n = match self.connections.parking.poller.wait(&mut events, timeout) {
                Ok(n) => n,
                Err(nix::Error::EINTR) => 0,
                // No ordinary condition makes this fail; a retry could spin.
                Err(e) => return Err(e.into()),
            };
            for event in events.iter().take(n) {
                if self.take_event(AcceptorSource::of(event.data())).is_break() {
                    return Ok(());
                }
            }
            self.tick();
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let soon = if self.connections.some_linger() {
            Some(EpollTimeout::ZERO)
        } else if self.connections.pools.are_watched() {
            EpollTimeout::try_from(LOOK).ok()
        } else {
            None
        };
        // A transfer may have to be tried again although no connection is open here.
        let parking = &self.connections.parking;
        // Where no worker waits for events, this thread collects them.
        let has_to_tick = || {
            soon.is_some()
                || self.transfers.are_open()
                || parking.open() > 0
                || !self.connections.pools.are_polled()
        };
        let ticks = self.connections.accepting.ticking.decide(has_to_tick);
        let sweep = ticks.then_some(self.next_sweep);
        let end = || self.connections.accepting.listeners().next_tick();
        soon.unwrap_or_else(|| poll_timeout(sweep.into_iter().chain(end()).min()))
    }

    fn take_event(&mut self, source: AcceptorSource) -> ControlFlow<()> {
        match source {
            AcceptorSource::Waker => {
                let commands = self.connections.parking.commands.take();
                return commands.into_iter().try_for_each(|command| self.obey(command));
            }
            AcceptorSource::Successor => self.transfers.receive_from_successor(&mut self.connections),
            AcceptorSource::Predecessor(key) => {
                self.transfers.receive_from_predecessor(key, &mut self.connections)
            }
        }
        ControlFlow::Continue(())
    }

    /// Does what follows from the events of a turn, and from time. Connections are queued before the pools are looked at, and
    /// the end of a drain is checked when everything else is done.
    fn tick(&mut self) {
        self.connections.end_refused();
        self.connections.linger_all();
        self.transfers.send(&mut self.connections);
        self.connections.pools.push_batches();
        let now = Instant::now();
        self.connections.watch_pools(now);
        if now >= self.next_sweep {
            let queue_wait = self.connections.queue_wait;
            for (pool, backlog) in self.connections.pools.busy_for_long(queue_wait, now) {
                (self.report)(News::AllBusy { pool, backlog });
            }
            self.connections.sweep(now);
            self.transfers.retry(&self.connections);
            self.connections.pools.push_batches();
            self.keys.expire(now);
            self.next_sweep = now + TICK;
        }
        let (all_closed, accepted) = self.connections.accepting.tick(now, &self.connections.parking);
        self.connections.queue_new(accepted);
        self.connections.pools.push_batches();
        if all_closed {
            (self.report)(News::ListenersClosed);
        }
        self.look_for_ends();
    }

    fn obey(&mut self, command: AcceptorCommand) -> ControlFlow<()> {
        let parking = Arc::clone(&self.connections.parking);
        let accepting = Arc::clone(&self.connections.accepting);
        match command {
            AcceptorCommand::Accept => {
                // What the predecessor has sent before GO.
                self.transfers.receive_all(&mut self.connections);
                accepting.listeners().open(&parking);
            }
            AcceptorCommand::Share { names } => accepting.listeners().set_shared(names),
            AcceptorCommand::Pause => accepting.listeners().pause(&parking),
            AcceptorCommand::CloseShared => accepting.listeners().close_shared(&parking),
            AcceptorCommand::CloseLast => accepting.listeners().close_last(&parking),
            AcceptorCommand::HandConnections(channel) => {
                let shared = accepting.listeners().shared().to_vec();
                self.transfers.begin_sending(channel, &shared, &mut self.connections);
            }
            AcceptorCommand::TakeConnections(channel) => {
                self.transfers.begin_receiving(channel, &mut self.connections);
            }
            AcceptorCommand::Drain { grace } => self.connections.begin_drain(grace),
            AcceptorCommand::Check => {
                let checked = self.when_all_have_answered(|| News::Checked(Ok(())));
                for queue in self.connections.pools.queues() {
                    if let Err(Probe(all_busy)) = queue.probe(checked()) {
                        all_busy();
                    }
                }
            }
            AcceptorCommand::CheckProgress => {
                let progressed = self.when_all_have_answered(|| News::Progressed);
                self.connections.pools.queues().for_each(|queue| queue.probe_next(progressed()));
            }
            AcceptorCommand::Stop => {
                self.transfers.send_counts();
                self.connections.cut_all();
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Asks to be woken at each end that matters, and then looks whether it has come: in this order, so that an end
    /// between the two is not missed.
    fn look_for_ends(&mut self) {
        let parking = Arc::clone(&self.connections.parking);
        let accepting = Arc::clone(&self.connections.accepting);
        let is_draining = parking.drain.has_started();
        let mut listeners = accepting.listeners();
        parking.wakes_on_end.store(is_draining || listeners.wait_for_ends(), Ordering::SeqCst);
        listeners.note_ends(&parking);
        let is_over = is_draining
            && !self.is_drained
            && !listeners.are_closing()
            && parking.open() == 0
            && self.transfers.all_arrived();
        let is_over = is_over && listeners.close_rest(&parking);
        drop(listeners);
        if is_over {
            self.is_drained = true;
            // A request on a connection that came later would be answered after the program's `on_exit`.
            self.transfers.stop_receiving(&self.connections);
            self.transfers.send_counts();
            if let Some(delivered) = self.transfers.delivered() {
                info!("handover: {delivered} connections went to the successor"; connections = delivered);
            }
            (self.report)(News::Drained);
        }
    }

    /// Makes a probe for each pool; when all have been called, `news` is reported.
    ///
    /// That this runs proves that the acceptor works. For a check, a worker of each pool has to call its probe, unless all are
    /// in handlers: a pool full of slow requests is not dead, and a rollback would not help it. For progress, one of the workers
    /// has to return: a pool whose handlers all wait for each other is dead.
    fn when_all_have_answered(&self, news: fn() -> News) -> impl Fn() -> Probe {
        let left = Arc::new(Mutex::new(self.connections.pools.queues().count()));
        let report = Arc::clone(&self.report);
        move || {
            let (left, report) = (Arc::clone(&left), Arc::clone(&report));
            Probe(Box::new(move || {
                let mut left = lock(&left);
                *left -= 1;
                if *left == 0 {
                    report(news());
                }
            }))
        }
    }
}
