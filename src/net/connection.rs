//! A connection: the value that moves between acceptor, queue and worker. It is owned by exactly one of them, moved and
//! never shared. `P`, its progress, is the state of the protocol above; nothing here knows the protocol.
//!
//! A closing connection lingers (RFC 9112 §9.6): the last response is sent, our side is shut, and bytes that the client
//! still sends are read and dropped, because a reset could destroy the response. It is parked meanwhile: the thread that
//! gets its event drops the bytes and parks it again, for at most 2 s and 16 MiB.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::base::close_reason::CloseReason;
use crate::base::history::{millis, unix_ms};
use crate::base::last_closes::ClosedConnection;
use crate::base::wait_group::WaitGuard;
use crate::net::conn_info::ConnInfo;
use crate::net::slots::SlotId;
use crate::net::stream::Stream;

/// How much a closing connection may still send, and for how long, before it is cut off.
const LINGER_BYTES: usize = 16 << 20;
const LINGER: Duration = Duration::from_secs(2);
/// How long an idle connection lingers: its client closes when it sees our FIN.
const IDLE_LINGER: Duration = Duration::from_millis(500);
/// How many reads one step of lingering makes.
const LINGER_READS: usize = 16;

/// The state of a connection's protocol, as far as another process can continue it.
pub(crate) trait Portable: Default + Send + 'static {
    /// The acceptor does not know whether client or server speaks next: a new connection goes to a worker before its
    /// first byte, as does one that was idle for too long, and nothing is written without the program's order. So a
    /// service without HTTP (`StreamServer`) has the same acceptor.
    const OPAQUE: bool = false;

    /// Whether it is between two requests, or in one that can be read again from its first byte, because all of it is
    /// in the `buffered` bytes, of which there are at most `most`.
    fn is_portable(&self, buffered: usize, most: usize) -> bool;
    /// Puts all bytes of an unfinished request into `buffered`. Returns when its first byte arrived, or, if its head is
    /// complete, since when its body is waited for.
    fn pack(&mut self, buffered: &mut Vec<u8>) -> Option<Instant>;
    /// The progress of a connection that was packed in another process.
    fn unpack(started: Option<Instant>) -> Self;
}

/// A protocol without state.
#[cfg(test)]
impl Portable for () {
    fn is_portable(&self, buffered: usize, _: usize) -> bool {
        buffered == 0
    }

    fn pack(&mut self, _: &mut Vec<u8>) -> Option<Instant> {
        None
    }

    fn unpack(_: Option<Instant>) {}
}

/// A client's connection.
pub(crate) struct Connection<P> {
    pub(crate) stream: Stream,
    pub(crate) slot: SlotId,
    /// The listener that accepted it.
    pub(crate) listener: usize,
    /// The handler, and so the workers, of that listener.
    pub(crate) handler_index: usize,
    pub(crate) conn_info: Arc<ConnInfo>,
    /// Bytes that were read and not used. Empty and without memory while it is idle.
    pub(crate) buffered: Vec<u8>,
    pub(crate) progress: P,
    /// Held from the start of a request until its response is complete.
    pub(crate) guard: Option<WaitGuard>,
    /// Requests so far.
    pub(crate) served: u64,
    pub(crate) activity: Activity,
    /// A successor can't continue it.
    pub(crate) is_unfit: bool,
    pub(crate) poll: PollState,
}

/// What its pool's epoll has to do with a connection.
#[derive(Default)]
pub(crate) struct PollState {
    /// What it reports.
    pub(crate) interest: Interest,
    /// It has reported that the client may have closed its side, after the bytes that are unread, and does not report it again.
    pub(crate) may_have_ended: bool,
}

/// The events for which a connection is registered with its pool's epoll. It is registered when it is first parked: most
/// connections that end after one request never are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Interest {
    #[default]
    None,
    Read,
    ReadWrite,
}

/// The activity of a connection when a worker last had it, which decides how it ends at a timeout.
#[derive(Clone, Copy)]
pub(crate) enum Activity {
    /// Between two requests, with nothing buffered.
    Idle { since: Instant },
    /// A request, or the first bytes of one, are being received, or it is new.
    Receiving,
    /// In the middle of a response: the client can't get another one.
    Responding(Cut),
    /// Only `linger_on` is to be called.
    Lingering(Lingering),
}

/// How a client notices that a response that stops here is incomplete.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Its length or its chunks show it.
    ShownByFraming,
    /// The response ends with the connection, so only a reset shows it.
    ShownByReset,
    /// The response is complete; only the rest of the request is read.
    Complete,
}

/// The end of a connection.
#[derive(Clone, Copy)]
pub(crate) struct Lingering {
    pub(crate) reason: CloseReason,
    /// When it ends at the latest.
    pub(crate) until: Instant,
    left: usize,
}

/// What a lingering connection did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linger {
    /// It has ended, or sent too much.
    Over,
    /// All received bytes are dropped.
    Drained,
    /// More bytes have arrived.
    More,
}

/// A connection in a worker's queue.
pub(crate) struct Ready<P> {
    pub(crate) connection: Box<Connection<P>>,
    pub(crate) cause: Cause,
}

/// Why a connection needs a worker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It is new, bytes have arrived, or its socket takes bytes again.
    Event,
    /// It was queued behind others, and can continue at once.
    Yielded,
    /// The deadline of its parking passed, no worker had time for its response, or the process ends.
    Expired,
}

impl<P> Ready<P> {
    pub(crate) fn new(connection: Box<Connection<P>>, cause: Cause) -> Ready<P> {
        Ready { connection, cause }
    }
}

impl<P> Connection<P> {
    pub(crate) fn new(
        stream: Stream,
        slot: SlotId,
        (listener, handler_index): (usize, usize),
        conn_info: Arc<ConnInfo>,
        progress: P,
    ) -> Connection<P> {
        Connection {
            stream,
            slot,
            listener,
            handler_index,
            conn_info,
            buffered: Vec::new(),
            progress,
            guard: None,
            served: 0,
            activity: Activity::Receiving,
            is_unfit: false,
            poll: PollState::default(),
        }
    }

    #[cfg(feature = "stream_server")]
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.activity, Activity::Idle { .. })
    }

    /// Whether something of a request was read.
    pub(crate) fn has_part(&self) -> bool {
        !self.buffered.is_empty() || self.stream.has_more() || self.stream.holds_part()
    }

    /// Since when it is idle; from now on, if it was not idle before.
    pub(crate) fn idle_since(&mut self) -> Instant {
        match self.activity {
            Activity::Idle { since } => since,
            _ => {
                let since = Instant::now();
                self.activity = Activity::Idle { since };
                since
            }
        }
    }

    /// What is known of it at its end. `request` is the method and the path of the request that it ends with.
    pub(crate) fn about(&self, request: String) -> ClosedConnection {
        let ConnInfo { peer, listener, since, .. } = &*self.conn_info;
        ClosedConnection {
            at: unix_ms(SystemTime::now()),
            listener: listener.as_ref().map(|listener| listener.name.clone()).unwrap_or_default(),
            client: peer.map(|peer| peer.to_string()).unwrap_or_default(),
            requests: self.served,
            age: millis(since.elapsed()),
            request,
        }
    }

    pub(crate) fn lingering(&self) -> Option<Lingering> {
        match self.activity {
            Activity::Lingering(lingering) => Some(lingering),
            _ => None,
        }
    }

    /// Shuts our side; only `linger_on` is to be called afterwards.
    pub(crate) fn begin_lingering(&mut self, reason: CloseReason) {
        self.linger_for(LINGER, reason);
    }

    /// As `begin_lingering`, for an idle connection: a request that is on its way is read and dropped, and not answered by a reset.
    pub(crate) fn begin_end_of_idle(&mut self, reason: CloseReason) {
        self.linger_for(IDLE_LINGER, reason);
    }

    fn linger_for(&mut self, time: Duration, reason: CloseReason) {
        self.stream.shutdown_write();
        let until = Instant::now() + time;
        self.activity = Activity::Lingering(Lingering { reason, until, left: LINGER_BYTES });
        self.buffered = Vec::new();
        self.guard = None;
    }

    /// Drops some received bytes.
    pub(crate) fn linger_on(&mut self) -> Linger {
        let Activity::Lingering(lingering) = &mut self.activity else { return Linger::Over };
        let mut buf = [0; 16 << 10];
        for _ in 0..LINGER_READS {
            match self.stream.read_raw(&mut buf) {
                Ok(n) if n > 0 && n < lingering.left => lingering.left = lingering.left.saturating_sub(n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Linger::Drained,
                _ => return Linger::Over,
            }
        }
        if Instant::now() < lingering.until { Linger::More } else { Linger::Over }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::base::phase::PhaseWatch;

    #[test]
    fn a_lingering_connection_is_dropped_piece_by_piece() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = listener.accept().unwrap().0;
        socket.set_nonblocking(true).unwrap();
        client.set_nonblocking(true).unwrap();
        let slot = SlotId::from_bits(0);
        let conn_info = Arc::new(ConnInfo::new(None, PhaseWatch::new(), 1));
        let mut connection = Connection::new(Stream::Tcp(Arc::new(socket)), slot, (0, 0), conn_info, ());
        connection.begin_lingering(CloseReason::Response);
        assert_eq!(connection.linger_on(), Linger::Drained);
        // The sockets hold more than one step drops, and less than a client may send.
        let mut sent = 0;
        while let Ok(n) = client.write(&[0; 1 << 16]) {
            sent += n;
        }
        let piece = LINGER_READS * (16 << 10);
        assert!(sent > piece && sent < LINGER_BYTES, "{sent}");
        assert_eq!(connection.linger_on(), Linger::More);
        let dropped = LINGER_BYTES - connection.lingering().unwrap().left;
        assert!((1..=piece).contains(&dropped), "others go first after a piece: {dropped}");
    }
}
