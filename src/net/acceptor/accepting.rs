//! The role of accepting: the thread that has the lock of the listeners accepts.
//!
//! That is a worker that waits for events: a listener is registered with the epoll of the pool that serves it, so that a new
//! connection costs no thread switch. Where no worker waits, the acceptor collects these events at its ticks. It alone opens,
//! pauses and closes listeners, under the same lock: nothing is accepted from a listener after that.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::factory::{Factory, Origin};
use super::listeners::Listeners;
use super::parking::Parking;
use super::ticks::Ticking;
use crate::base::close_reason::CloseReason;
use crate::base::limits::Limits;
use crate::base::status::Counters;
use crate::base::sync::lock;
use crate::net::conn_info::ConnInfo;
use crate::net::connection::{Connection, Portable};
use crate::net::listener::Listener;
use crate::net::slots::SlotId;
use crate::net::stream::Stream;

/// Refused connections that wait for the acceptor, at most.
const MOST_REFUSED: usize = 64;

pub(crate) struct Accepting<P> {
    listeners: Mutex<Listeners>,
    pub(crate) factory: Factory,
    per_peer: Option<usize>,
    /// Those of the thread that has the lock of the listeners.
    counters: Arc<Counters>,
    refused: Mutex<Vec<Refused<P>>>,
    /// The acceptor times connections out.
    pub(super) ticking: Ticking,
}

/// Connections that were just accepted.
pub(super) type Accepted<P> = Vec<Box<Connection<P>>>;

/// A socket that was just accepted.
pub(super) struct NewSocket {
    pub(super) stream: Stream,
    pub(super) peer: Option<SocketAddr>,
    pub(super) slot: SlotId,
    /// The numbers of its listener and of the handler of that.
    pub(super) place: (usize, usize),
}

/// A connection that was accepted, and that the acceptor is to end.
pub(super) struct Refused<P> {
    /// Its peer has too many connections, or is not a trusted proxy.
    pub(super) reason: CloseReason,
    pub(super) connection: Box<Connection<P>>,
}

impl<P> Accepting<P> {
    pub(super) fn listeners(&self) -> MutexGuard<'_, Listeners> {
        lock(&self.listeners)
    }
}

impl<P: Portable> Accepting<P> {
    pub(super) fn new(
        listeners: Vec<Listener>,
        limits: &Limits,
        process: ConnInfo,
        counters: Arc<Counters>,
    ) -> Accepting<P> {
        Accepting {
            factory: Factory::new(process, listeners.iter().map(|listener| &listener.config)),
            listeners: Mutex::new(Listeners::new(listeners, limits)),
            per_peer: limits.connections_per_peer,
            counters,
            refused: Mutex::default(),
            ticking: Ticking::new(),
        }
    }

    /// Accepts the clients that wait at the listener with that number, and adds their connections.
    pub(super) fn accept(&self, listener: usize, parking: &Parking<P>, accepted: &mut Accepted<P>) {
        let mut listeners = self.listeners();
        listeners.accept(listener, parking, |new| accepted.extend(self.admit(new, parking)));
        let has_to_wait = listeners.wait_for_ends() || listeners.next_tick().is_some();
        drop(listeners);
        if has_to_wait || (!accepted.is_empty() && self.ticking.is_off()) {
            parking.wake();
        }
    }

    /// [`Listeners::tick`], and the clients that waited at the listeners that it has closed.
    pub(super) fn tick(&self, now: Instant, parking: &Parking<P>) -> (bool, Accepted<P>) {
        let mut accepted = Vec::new();
        let take = |new| accepted.extend(self.admit(new, parking));
        (self.listeners().tick(now, parking, take), accepted)
    }

    /// Makes the connection of a new socket, unless it is refused.
    fn admit(&self, new: NewSocket, parking: &Parking<P>) -> Option<Box<Connection<P>>> {
        self.counters.accepted();
        let NewSocket { stream, peer, slot, place } = new;
        let at = (slot, place);
        let (connection, of_peer) =
            self.factory.make(parking, stream, at, Origin::Accepted(peer), P::default());
        #[cfg(feature = "proxy")]
        if connection.conn_info.awaits_proxy_header && !connection.conn_info.trusts_peer() {
            self.refuse(Refused { reason: CloseReason::ProxyHeader, connection }, parking);
            return None;
        }
        if self.per_peer.is_some_and(|most| of_peer > most) {
            self.refuse(Refused { reason: CloseReason::PeerLimit, connection }, parking);
            return None;
        }
        Some(connection)
    }

    /// Leaves it to the acceptor, which answers it and reads what its client sends, so that the answer arrives. Those that are left
    /// count as open, so beyond a number they are closed at once.
    fn refuse(&self, refused: Refused<P>, parking: &Parking<P>) {
        let mut left = lock(&self.refused);
        if left.len() < MOST_REFUSED {
            left.push(refused);
            drop(left);
            return parking.wake();
        }
        drop(left);
        let Refused { reason, connection } = refused;
        self.counters.ends(reason, || connection.about(String::new()));
        self.counters.closed(reason);
        parking.close(connection);
    }

    pub(super) fn take_refused(&self) -> Vec<Refused<P>> {
        std::mem::take(&mut *lock(&self.refused))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use nix::sys::epoll::EpollTimeout;

    use super::super::listeners::ACCEPTS_PER_TURN;
    use super::super::parking::Parking;
    use super::super::pool_events::{NO_EVENTS, PoolEvent};
    use super::super::pools::PoolPlan;
    use super::*;
    use crate::base::phase::{Phase, PhaseWatch};
    use crate::base::status::{AllCounters, Stats};
    use crate::net::listener::{ListenerConfig, Place};

    struct Server {
        parking: Parking<()>,
        accepting: Arc<Accepting<()>>,
        listener: Listener,
        all_counters: AllCounters,
    }

    /// Accepts from one listener, which the only pool has to serve.
    fn server(name: &str, limits: &Limits) -> Server {
        let place = Place::resolve(name).unwrap();
        let listener =
            Listener::bind(ListenerConfig::new(name.to_owned(), 0), &place, false, || None).unwrap();
        let pools = PoolPlan { workers: vec![1], of_handler: vec![0] };
        let parking = Parking::new(limits, &[false], 1, pools, Duration::from_secs(60)).unwrap();
        let (process, all_counters) = (ConnInfo::new(None, PhaseWatch::new(), 1), AllCounters::default());
        let accepting = Accepting::new(vec![listener.clone()], limits, process, all_counters.register());
        let accepting = parking.accept_by(Arc::new(accepting));
        accepting.listeners().open(&parking);
        Server { parking, accepting, listener, all_counters }
    }

    impl Server {
        /// Waits for an event of the listener, and accepts. None if `timeout` passes.
        fn turn(&self, timeout: EpollTimeout) -> Option<Accepted<()>> {
            let mut room = NO_EVENTS;
            let events = self.parking.poller_of_pool(0).wait(timeout, &mut room).unwrap();
            let place = events.iter().map(PoolEvent::of).find(|event| *event != PoolEvent::Interrupt)?;
            assert_eq!(place, PoolEvent::Listener(0));
            Some(self.accept())
        }

        fn accept(&self) -> Accepted<()> {
            let mut accepted = Vec::new();
            self.parking.accept(0, &mut accepted);
            accepted
        }

        fn connect(&self) -> TcpStream {
            TcpStream::connect(self.listener.socket_addr().unwrap()).unwrap()
        }
    }

    #[test]
    fn clients_beyond_those_of_a_turn_have_the_next_one() {
        let path = std::env::temp_dir().join(format!("heirloom-accepting-{}.sock", std::process::id()));
        let unix = format!("unix:{}", path.display());
        for name in ["127.0.0.1:0", &unix] {
            let server = server(name, &Limits::default());
            let clients = 2 * ACCEPTS_PER_TURN + 3;
            let tcp: Vec<TcpStream> =
                (0..clients).take_while(|_| name != unix).map(|_| server.connect()).collect();
            let unix: Vec<UnixStream> =
                (tcp.len()..clients).map(|_| UnixStream::connect(&path).unwrap()).collect();
            let mut accepted = Vec::new();
            while accepted.len() < clients {
                let turn = server.turn(EpollTimeout::NONE).unwrap();
                assert!(turn.len() <= ACCEPTS_PER_TURN);
                accepted.extend(turn);
            }
            assert_eq!((accepted.len(), server.parking.open()), (clients, clients));
            assert!(server.turn(EpollTimeout::ZERO).is_none_or(|turn| turn.is_empty()), "nobody else waits");
            drop((tcp, unix));
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_event_from_before_a_pause_accepts_nobody() {
        let server = server("127.0.0.1:0", &Limits::default());
        let _client = server.connect();
        let names = server.listener.names.clone();
        server.accepting.listeners().set_shared(names);
        server.accepting.listeners().pause(&server.parking);
        assert!(server.accept().is_empty());
        assert!(server.turn(EpollTimeout::ZERO).is_none());
        server.accepting.listeners().open(&server.parking);
        assert_eq!(server.turn(EpollTimeout::NONE).unwrap().len(), 1, "reported again");
        server.accepting.listeners().leave_all(&server.parking);
        let _late = server.connect();
        assert!(server.turn(EpollTimeout::ZERO).is_none());
        assert!(server.accept().is_empty());
    }

    #[test]
    fn a_flood_of_refused_connections_is_closed_at_once() {
        let limits = Limits { connections_per_peer: Some(1), ..Limits::default() };
        let server = server("127.0.0.1:0", &limits);
        let clients: Vec<TcpStream> = (0..MOST_REFUSED + 6).map(|_| server.connect()).collect();
        let mut accepted = Vec::new();
        let mut stats = Stats::new(1, Phase::Serving);
        while stats.accepted < clients.len() as u64 {
            accepted.extend(server.turn(EpollTimeout::NONE).unwrap());
            server.all_counters.add_up(&mut stats);
        }
        // Each that is closed leaves its peer's count, but the first one and those that wait for the acceptor are more than one.
        assert_eq!((accepted.len(), server.accepting.take_refused().len()), (1, MOST_REFUSED));
        assert_eq!(server.parking.open(), 1 + MOST_REFUSED, "the others are closed");
    }

    #[test]
    fn at_a_limit_the_acceptor_is_woken_and_polls_again_at_an_end() {
        let limits = Limits { connections: 1, connections_per_peer: Some(1), ..Limits::default() };
        let server = server("127.0.0.1:0", &limits);
        let _clients = [server.connect(), server.connect()];
        let mut accepted = server.turn(EpollTimeout::NONE).unwrap();
        while server.parking.open() == 0 || !server.accepting.listeners().wait_for_ends() {
            accepted.extend(server.turn(EpollTimeout::NONE).unwrap());
        }
        assert_eq!(accepted.len(), 1);
        let mut events = [nix::sys::epoll::EpollEvent::empty(); 1];
        assert_eq!(server.parking.poller.wait(&mut events, EpollTimeout::NONE), Ok(1), "the acceptor wakes");
        assert!(server.turn(EpollTimeout::ZERO).is_none(), "the other client waits");
        // The peer's first connection is still counted, so its second one is refused.
        server.parking.slots.release(accepted.pop().unwrap().slot);
        server.accepting.listeners().note_ends(&server.parking);
        assert!(server.turn(EpollTimeout::NONE).unwrap().is_empty());
        let refused = server.accepting.take_refused();
        assert!(matches!(refused[..], [Refused { reason: CloseReason::PeerLimit, .. }]));
        let mut stats = Stats::new(1, Phase::Serving);
        server.all_counters.add_up(&mut stats);
        assert_eq!(stats.accepted, 2);
    }
}
