//! What the acceptor's thread shares with the others: where connections are parked, and how workers and the control loop
//! reach the acceptor.

use std::io;
#[cfg(feature = "proxy")]
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::accepting::{Accepted, Accepting};
use super::commands::{AcceptorCommand, Commands};
use super::connection_counts::ConnectionCounts;
use super::drain::Draining;
use super::event::AcceptorSource;
use super::pool_events::PoolPoller;
use super::pools::PoolPlan;
use super::ticks::Ticks;
use crate::base::limits::Limits;
use crate::base::log::warn;
use crate::base::status::ParkedConnection;
use crate::net::connection::{Activity, Connection, Cut, Interest, Linger, Portable};
use crate::net::listener::BACKLOG;
use crate::net::slots::{SlotId, Slots};
use crate::net::transfer::{Departure, Outbox};

/// Connections that operators' listeners may accept beyond the limit.
const RESERVE: usize = 64;
/// The deadline of a connection whose real one the next sweep calculates.
const NEXT_SWEEP: u32 = 1;
/// At a stop, a longer queue of the kernel is accepted in several steps.
const LONGEST_BACKLOG: i32 = 1 << 16;

pub(crate) struct Parking<P> {
    pub(crate) slots: Slots<Box<Connection<P>>>,
    /// The acceptor waits here.
    pub(crate) poller: Epoll,
    /// The connections and the listeners of each pool are registered here, and its workers wait here.
    pool_pollers: Box<[PoolPoller]>,
    pool_of_handler: Box<[usize]>,
    pub(super) counts: ConnectionCounts,
    pub(super) commands: Commands,
    pub(super) ticks: Ticks,
    /// How long a connection may be idle.
    idle: Duration,
    pub(crate) drain: Draining,
    /// The acceptor waits for connections to end, and is woken at each end.
    pub(super) wakes_on_end: AtomicBool,
    pub(crate) outbox: Outbox<P>,
    /// Set before a listener is registered anywhere.
    accepting: OnceLock<Arc<Accepting<P>>>,
}

/// The state of a lingering connection after some of its bytes were dropped.
pub(crate) enum Lingered<P> {
    Parked,
    /// More has arrived than is dropped in one step. Others are served first, because a client may always send more.
    More(Box<Connection<P>>),
    Over(Box<Connection<P>>),
}

/// How long a connection may be parked.
#[derive(Clone, Copy)]
pub(crate) enum Deadline {
    At(Instant),
    /// Between two requests since then, until the idle timeout or the grace of a drain ends. Only the next sweep calculates
    /// when that is, because most connections are not parked for so long.
    Idle(Instant),
}

impl<P> Parking<P> {
    /// There is room for as many connections as the limits allow, and for two kinds beyond them: those of operators' listeners,
    /// and those from the kernel's queue at a stop. `reserved` says of each listener whether it is for operators.
    pub(crate) fn new(
        limits: &Limits,
        reserved: &[bool],
        longest_backlog: i32,
        pools: PoolPlan,
        idle: Duration,
    ) -> io::Result<Parking<P>> {
        let commands = Commands::new()?;
        let poller = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        poller.add(commands.waker(), AcceptorSource::Waker.readable())?;
        let pool_pollers = pools.workers.iter().map(|_| PoolPoller::new()).collect::<Result<_, _>>()?;
        #[expect(clippy::cast_sign_loss, reason = "clamped")]
        let waiting = longest_backlog.clamp(BACKLOG, LONGEST_BACKLOG) as usize;
        Ok(Parking {
            slots: Slots::new(limits.connections.saturating_add(waiting + RESERVE)),
            poller,
            pool_pollers,
            pool_of_handler: pools.of_handler.into(),
            counts: ConnectionCounts::new(reserved, limits.connections_per_peer.is_some()),
            commands,
            ticks: Ticks::new(),
            idle,
            drain: Draining::default(),
            wakes_on_end: AtomicBool::new(false),
            outbox: Outbox::new(),
            accepting: OnceLock::new(),
        })
    }

    /// The connection that is parked in a slot: for code that takes the acceptor's part.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn take(&self, slot: SlotId) -> Option<Box<Connection<P>>> {
        self.slots.take(slot)
    }

    pub(crate) fn command(&self, command: AcceptorCommand) {
        self.commands.add(command);
    }

    pub(super) fn wake(&self) {
        self.commands.wake();
    }

    /// The pool that serves the connections of this handler.
    pub(super) fn pool_of(&self, handler_index: usize) -> usize {
        self.pool_of_handler.get(handler_index).copied().unwrap_or(0)
    }

    /// Where connections of this handler are registered.
    pub(super) fn poller_of(&self, handler_index: usize) -> &Epoll {
        &self.poller_of_pool(self.pool_of(handler_index)).epoll
    }

    pub(super) fn poller_of_pool(&self, pool: usize) -> &PoolPoller {
        &self.pool_pollers[pool]
    }

    /// From now on connections are accepted in this way.
    pub(super) fn accept_by(&self, accepting: Arc<Accepting<P>>) -> Arc<Accepting<P>> {
        Arc::clone(self.accepting.get_or_init(|| accepting))
    }

    /// Accepts the clients that wait at the listener with that number, and adds their connections.
    pub(super) fn accept(&self, listener: usize, accepted: &mut Accepted<P>)
    where
        P: Portable,
    {
        if let Some(accepting) = self.accepting.get() {
            accepting.accept(listener, self, accepted);
        }
    }

    /// Takes the connection of an event, if it is parked.
    pub(super) fn take_ready(&self, event: &EpollEvent) -> Option<Box<Connection<P>>> {
        let mut connection = self.slots.take(SlotId::from_bits(event.data()))?;
        let closed = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        connection.poll.may_have_ended = event.events().intersects(closed);
        Some(connection)
    }

    /// How many connections are open, wherever they are.
    pub(crate) fn open(&self) -> usize {
        self.slots.taken()
    }

    /// Parks until bytes come, or the socket takes more, or the deadline passes. Gives the connection back if there is
    /// something to do already.
    pub(crate) fn park(
        &self,
        mut connection: Box<Connection<P>>,
        deadline: Deadline,
    ) -> Result<(), Box<Connection<P>>> {
        // Registered before it is parked: an event from now on is kept in the slot.
        // An answer of TLS to its client may be unsent while there is nothing to write.
        let interest = if connection.stream.owes() { Interest::ReadWrite } else { Interest::Read };
        if let Err(e) = self.register(&mut connection, interest) {
            warn!("can't watch a connection: {e}");
            // No event would come. What has arrived is read and answered, then the next read sees the end.
            connection.stream.shutdown_read();
            return Err(connection);
        }
        let deadline = match deadline {
            Deadline::At(time) => self.ticks.at(time),
            Deadline::Idle(since) => {
                connection.activity = Activity::Idle { since };
                NEXT_SWEEP
            }
        };
        self.slots.park(connection.slot, connection, deadline).map_err(|mut back| {
            // The event may have reported its end, which is not reported again.
            back.poll.may_have_ended = true;
            back
        })
    }

    /// Drops some received bytes of a lingering connection, and parks it if more may arrive.
    pub(crate) fn linger(&self, mut connection: Box<Connection<P>>) -> Lingered<P> {
        let Some(lingering) = connection.lingering() else { return Lingered::Over(connection) };
        match connection.linger_on() {
            Linger::More => Lingered::More(connection),
            Linger::Over => Lingered::Over(connection),
            Linger::Drained => match self.park(connection, Deadline::At(lingering.until)) {
                Ok(()) => Lingered::Parked,
                Err(back) => Lingered::More(back),
            },
        }
    }

    /// The connections whose deadlines have passed before the tick `now`.
    pub(super) fn take_expired(&self, now: u32) -> Vec<Box<Connection<P>>> {
        self.slots.take_expired(now, |connection, deadline| match connection.activity {
            Activity::Idle { since } => {
                let idle_from = |start| self.kept_from(connection, self.ticks.at(since).max(start));
                self.ticks.at(since + self.idle).min(self.drain.limit(idle_from))
            }
            _ => deadline,
        })
    }

    /// In a drain, no idle connection is kept for longer than the grace from now, or from its turn.
    pub(super) fn hasten_idle(&self) {
        let now = self.ticks.now();
        self.slots.redate(|connection, deadline| {
            // A client that has its response, and does not send the rest of its request, ends early too.
            let ends_early =
                matches!(connection.activity, Activity::Idle { .. } | Activity::Responding(Cut::Complete));
            let limit = || self.drain.limit(|_| self.kept_from(connection, now));
            if ends_early { deadline.min(limit()) } else { deadline }
        });
    }

    /// From when on, in ticks, the grace of a connection counts that is idle since the tick `since`.
    fn kept_from(&self, connection: &Connection<P>, since: u32) -> u32 {
        connection.conn_info.drain.turn().map_or(since, |turn| since.max(self.ticks.at(turn)))
    }

    /// At most `most` of the parked connections; `names` are the listeners' names.
    pub(crate) fn parked(&self, names: &[String], most: usize) -> Vec<ParkedConnection> {
        let listed = |connection: &Connection<P>| {
            let idle = match connection.activity {
                Activity::Idle { since } => Some(since.elapsed()),
                _ => None,
            };
            ParkedConnection {
                listener: names.get(connection.listener).cloned().unwrap_or_default(),
                peer: connection.conn_info.peer,
                activity: match connection.activity {
                    Activity::Idle { .. } => "idle",
                    Activity::Receiving => "receiving",
                    Activity::Responding(_) => "responding",
                    Activity::Lingering(_) => "closing",
                },
                idle,
                requests: connection.served,
            }
        };
        self.slots.parked(|connection| listed(connection)).take(most).collect()
    }

    /// Whether a drain has lasted for as long as this connection is kept in it if it is idle.
    pub(crate) fn is_grace_over(&self, connection: &Connection<P>) -> bool {
        self.drain.is_grace_over(self.ticks.now(), |start| self.kept_from(connection, start))
    }

    /// Also requests an event when the socket accepts bytes again.
    pub(crate) fn poll_write(&self, connection: &mut Connection<P>) -> io::Result<()> {
        self.register(connection, Interest::ReadWrite)
    }

    #[inline]
    fn register(&self, connection: &mut Connection<P>, interest: Interest) -> io::Result<()> {
        if connection.poll.interest >= interest {
            return Ok(());
        }
        let epoll = self.poller_of(connection.handler_index);
        let mut event = EpollEvent::new(edge(interest), connection.slot.to_bits());
        match connection.poll.interest {
            Interest::None => epoll.add(&connection.stream, event)?,
            _ => epoll.modify(&connection.stream, &mut event)?,
        }
        connection.poll.interest = interest;
        Ok(())
    }

    pub(crate) fn unregister(&self, connection: &mut Connection<P>) {
        if connection.poll.interest > Interest::None {
            let _ = self.poller_of(connection.handler_index).delete(&connection.stream);
            connection.poll.interest = Interest::None;
        }
    }

    /// Counts a connection of this peer, whose address came later than the connection. Gives how many the peer has now.
    #[cfg(feature = "proxy")]
    pub(crate) fn count_peer(&self, listener: usize, peer: Option<SocketAddr>) -> usize {
        self.counts.enter_peer(listener, peer)
    }

    /// Gives back a slot for which no connection was accepted.
    pub(super) fn unclaim(&self, slot: SlotId) {
        self.slots.release(slot);
        self.note_end();
    }

    /// Ends a connection. Its slot is free when its socket is closed, not before.
    pub(crate) fn close(&self, connection: Box<Connection<P>>) {
        let slot = connection.slot;
        self.counts.leave(connection.listener, connection.conn_info.limited_peer());
        drop(connection);
        self.slots.release(slot);
        self.note_end();
    }

    fn note_end(&self) {
        if self.wakes_on_end.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Sends a connection to the successor, if `outbox` takes it now.
    pub(crate) fn send_to_successor(&self, connection: Box<Connection<P>>) {
        self.outbox.push(connection);
        self.wake();
    }

    /// Sends a stream to the successor, or gives it back to its thread.
    pub(crate) fn send_stream(&self, stream: Departure<P>) {
        self.outbox.push_stream(stream);
        self.wake();
    }
}

fn edge(interest: Interest) -> EpollFlags {
    let reads = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    if interest == Interest::ReadWrite { reads | EpollFlags::EPOLLOUT } else { reads }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    #[cfg(feature = "tls")]
    use std::io::{ErrorKind, Read};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use nix::sys::epoll::EpollTimeout;
    #[cfg(feature = "tls")]
    use rustls::ClientConnection;

    use super::super::pool_events::NO_EVENTS;
    use super::*;
    use crate::base::phase::PhaseWatch;
    use crate::net::conn_info::ConnInfo;
    use crate::net::stream::{Peek, Stream};
    #[cfg(feature = "tls")]
    use crate::{
        base::stays::Stays,
        net::stream::Released,
        net::tls::{Handshake, testing},
    };

    fn parking() -> Parking<()> {
        let pools = PoolPlan { workers: vec![1], of_handler: vec![0] };
        Parking::new(&Limits::default(), &[false], 1, pools, Duration::from_secs(60)).unwrap()
    }

    fn connection(parking: &Parking<()>, stream: Stream) -> Box<Connection<()>> {
        let slot = parking.slots.claim().unwrap();
        let conn_info = Arc::new(ConnInfo::new(None, PhaseWatch::new(), 1));
        Box::new(Connection::new(stream, slot, (0, 0), conn_info, ()))
    }

    /// A connection that is ready now.
    fn ready(parking: &Parking<()>) -> Option<Box<Connection<()>>> {
        let mut room = NO_EVENTS;
        let events = parking.poller_of_pool(0).wait(EpollTimeout::ZERO, &mut room).unwrap();
        events.iter().find_map(|event| parking.take_ready(event))
    }

    fn rest(parking: &Parking<()>, connection: Box<Connection<()>>) -> Result<(), Box<Connection<()>>> {
        parking.park(connection, Deadline::Idle(Instant::now()))
    }

    #[test]
    fn a_connection_is_registered_when_it_is_first_parked() {
        let (ours, mut client) = UnixStream::pair().unwrap();
        let parking = parking();
        let new = connection(&parking, Stream::Unix(Arc::new(ours)));
        assert_eq!(new.poll.interest, Interest::None);
        // Bytes that came before are not missed.
        client.write_all(b"1").unwrap();
        assert!(ready(&parking).is_none());
        assert!(rest(&parking, new).is_ok());
        let mut one = ready(&parking).unwrap();
        assert_eq!(one.poll.interest, Interest::Read);
        parking.poll_write(&mut one).unwrap();
        assert_eq!(one.poll.interest, Interest::ReadWrite);
        // The event that it is writable comes before it is parked.
        assert!(ready(&parking).is_none());
        let mut one = rest(&parking, one).unwrap_err();
        parking.unregister(&mut one);
        client.write_all(b"2").unwrap();
        assert!(ready(&parking).is_none());
        assert!(rest(&parking, one).is_ok());
        assert!(ready(&parking).is_some(), "registered again");
    }

    #[test]
    fn a_connection_that_can_not_be_registered_ends() {
        let (ours, _client) = UnixStream::pair().unwrap();
        let parking = parking();
        let stream = Stream::Unix(Arc::new(ours));
        assert!(rest(&parking, connection(&parking, stream.clone())).is_ok());
        // A socket can't be registered twice.
        let back = rest(&parking, connection(&parking, stream)).unwrap_err();
        assert_eq!(back.stream.peek(), Peek::End);
    }

    /// The client has asked for new keys, and reads nothing: the answer waits for room in the socket, not for the client's next
    /// bytes. Until it is sent, the connection can't move.
    #[cfg(feature = "tls")]
    #[test]
    fn tls_bytes_that_are_owed_are_polled_for() {
        let (ours, mut client) = UnixStream::pair().unwrap();
        for end in [&ours, &client] {
            end.set_nonblocking(true).unwrap();
        }
        let below = Stream::Unix(Arc::new(ours.try_clone().unwrap()));
        let (tls, mut client_tls) = (testing::listener("localhost.pem"), testing::client());
        tls.reload().unwrap();
        let stream = Stream::Unix(Arc::new(ours)).secured(&tls);
        let mut handshake = Handshake::Reads;
        while handshake != Handshake::Done || client_tls.is_handshaking() {
            exchange(&mut client_tls, &mut client);
            handshake = stream.shake_hands().unwrap();
        }
        exchange(&mut client_tls, &mut client);

        let mut junk = 0;
        while let Ok(n) = below.write(&[0; 1 << 10]) {
            junk += n;
        }
        client_tls.refresh_traffic_keys().unwrap();
        client_tls.write_tls(&mut client).unwrap();
        let would_block = |read: io::Result<usize>| read.unwrap_err().kind() == ErrorKind::WouldBlock;
        assert!(would_block(stream.read(&mut [0; 100])));
        assert_eq!((stream.release().err(), stream.owes()), (Some(Stays::Unsent), true));
        let parking = parking();
        assert!(rest(&parking, connection(&parking, stream)).is_ok());
        assert!(ready(&parking).is_none(), "the socket is full");

        let mut taken = vec![0; junk];
        client.read_exact(&mut taken).unwrap();
        let one = ready(&parking).expect("the socket takes bytes");
        assert_eq!(one.poll.interest, Interest::ReadWrite);
        assert!(would_block(one.stream.read(&mut [0; 100])));
        assert!(!one.stream.owes());
        let moved = one.stream.clone();
        assert!(rest(&parking, one).is_ok());
        assert!(ready(&parking).is_none(), "there is nothing to write any more");
        let Ok(Released::Tls(rules, carried)) = moved.release() else { panic!("it moves") };
        let next = below.continued(&tls, rules, *carried).unwrap();
        assert_eq!(next.write(b"by new keys").unwrap(), 11);
        exchange(&mut client_tls, &mut client);
        let mut heard = [0; 100];
        let n = client_tls.reader().read(&mut heard).unwrap();
        assert_eq!(&heard[..n], b"by new keys");
    }

    /// Sends all that the client has to send, and reads all that has arrived for it.
    #[cfg(feature = "tls")]
    fn exchange(tls: &mut ClientConnection, socket: &mut UnixStream) {
        loop {
            while tls.wants_write() {
                tls.write_tls(socket).unwrap();
            }
            match tls.read_tls(socket) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                read => assert!(read.unwrap() > 0),
            }
            tls.process_new_packets().unwrap();
        }
    }
}
