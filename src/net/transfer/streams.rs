//! Streams on their way: a connection that a thread of the program had, with the state by which the program continues it.
//! They have a word of their own, `STREAM`, which is sent only to a process that says in its receipts that it knows it.
//! One packet is one stream, and the rest of it is the packet of its connection, with TLS or without.
//!
//! The thread of a stream gives its connection away and does not touch it again, unless it gets it back: then this process
//! continues the stream by its own function for that name, so that nothing is lost which the client has sent.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use super::ListenerNames;
use super::packet::{ConnectionRecord, Packet, Retry, wipe};
use super::parcel::Sent;
use crate::base::words::{pairs, value_of};
use crate::net::connection::{Connection, Portable};
use crate::process::handover::state_file::StateFile;
use crate::process::handover::{escape, unescape};

/// What another process needs to continue a stream, besides its connection.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Continuation {
    pub(crate) name: String,
    pub(crate) kind: StreamKind,
    /// What was agreed with the client, in words of the kind of stream.
    pub(crate) details: String,
    /// The program's state.
    pub(crate) state: Vec<u8>,
}

/// Without the state, which may be secret.
impl fmt::Debug for Continuation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Continuation { name, kind, details, state } = self;
        write!(f, "Continuation({name:?}, {kind:?}, {details:?}, {} bytes)", state.len())
    }
}

/// The protocol of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamKind {
    WebSocket,
    Events,
    /// The program's own.
    Upgrade,
}

impl StreamKind {
    const ALL: [StreamKind; 3] = [StreamKind::WebSocket, StreamKind::Events, StreamKind::Upgrade];

    fn word(self) -> &'static str {
        match self {
            StreamKind::WebSocket => "websocket",
            StreamKind::Events => "events",
            StreamKind::Upgrade => "upgrade",
        }
    }
}

/// More bytes than a packet takes, which the client has sent and no code has used.
pub(crate) struct LongUnread {
    pub(crate) file: StateFile,
    pub(crate) bytes: u64,
}

impl LongUnread {
    /// Takes the bytes, if they are too many for a packet.
    ///
    /// # Errors
    /// When there is no descriptor or no memory; the bytes are kept.
    pub(crate) fn take_from(bytes: &mut Vec<u8>) -> io::Result<Option<LongUnread>> {
        if bytes.len() <= INLINE_BYTES {
            return Ok(None);
        }
        let mut file = StateFile::new()?;
        file.write(bytes)?;
        let bytes = std::mem::take(bytes);
        Ok(Some(LongUnread { file, bytes: bytes.len() as u64 }))
    }
}

/// A stream that leaves this process.
pub(crate) struct Departure<P> {
    pub(crate) connection: Box<Connection<P>>,
    pub(crate) passenger: Box<Passenger<P>>,
}

/// What leaves with the connection.
pub(crate) struct Passenger<P> {
    pub(crate) continuation: Continuation,
    /// None if the connection has all of them.
    pub(crate) unread: Option<LongUnread>,
    pub(crate) thread: Box<dyn StreamThread<P>>,
    /// When it is given back, if it is not sent by then.
    pub(crate) until: Instant,
}

impl<P> Departure<P> {
    /// The stream is this process's again.
    pub(super) fn give_back(self) {
        let Passenger { continuation, unread, thread, .. } = *self.passenger;
        thread.returned(self.connection, continuation, unread);
    }
}

/// A stream on its way.
pub(super) struct SentStream<P> {
    sent: Sent<P>,
    passenger: Box<Passenger<P>>,
}

impl<P: Portable> SentStream<P> {
    /// Returns a stream whose TLS can't leave now.
    pub(super) fn release(
        stream: Departure<P>,
        batch: u64,
        names: &ListenerNames,
    ) -> Result<(StreamPacket, SentStream<P>), Departure<P>> {
        let Departure { connection, passenger } = stream;
        match Sent::release(connection, names) {
            Ok((record, sent)) => {
                let file_bytes = passenger.unread.as_ref().map_or(0, |unread| unread.bytes);
                let continuation = passenger.continuation.clone();
                let packet = StreamPacket { batch, continuation, file_bytes, record };
                Ok((packet, SentStream { sent, passenger }))
            }
            Err(connection) => Err(Departure { connection, passenger }),
        }
    }
}

impl<P> SentStream<P> {
    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let file = self.passenger.unread.as_ref().map(|unread| unread.file.as_fd());
        std::iter::once(self.sent.as_fd()).chain(file).collect()
    }

    /// No other process has it.
    pub(super) fn take_back(self) -> Departure<P> {
        Departure { connection: self.sent.take_back(), passenger: self.passenger }
    }

    /// Another process has it, or may have it: its connection is only to be closed.
    pub(super) fn deliver(self) -> Box<Connection<P>> {
        self.passenger.thread.delivered();
        self.sent.give_up()
    }
}

/// The thread of a stream, which waits for what becomes of it.
pub(crate) trait StreamThread<P>: Send {
    /// The stream belongs to another process.
    fn delivered(self: Box<Self>);
    /// The stream is this process's again.
    fn returned(
        self: Box<Self>,
        connection: Box<Connection<P>>,
        continuation: Continuation,
        unread: Option<LongUnread>,
    );
}

/// How this process continues the streams of others.
pub(crate) trait ResumeStreams<P>: Send + Sync {
    /// The names of these streams.
    fn names(&self) -> Vec<String>;

    /// Takes a thread for a stream.
    ///
    /// # Errors
    /// When there is none, or no stream of that name and kind is continued here.
    fn reserve(&self, name: &str, kind: StreamKind) -> Result<Box<dyn ResumeThread<P>>, Retry>;
}

/// A thread that was taken for a stream.
pub(crate) trait ResumeThread<P> {
    fn start(
        self: Box<Self>,
        connection: Box<Connection<P>>,
        continuation: Continuation,
        unread: Option<LongUnread>,
    );
}

/// A packet with a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamPacket {
    pub(super) batch: u64,
    pub(super) continuation: Continuation,
    /// How many bytes the file beside the packet has. 0: there is no file.
    pub(super) file_bytes: u64,
    pub(super) record: ConnectionRecord,
}

/// A packet has this many unread bytes at most; more are in a file beside it.
const INLINE_BYTES: usize = 2 << 10;

const WORD: &str = "STREAM";

impl StreamPacket {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Continuation { name, kind, details, state } = &self.continuation;
        let line = format!(
            "{WORD} batch={} name={} kind={} details={} state_bytes={} file_bytes={}\n",
            self.batch,
            escape(name.as_bytes()),
            kind.word(),
            escape(details.as_bytes()),
            state.len(),
            self.file_bytes
        );
        let record = self.record.clone();
        let mut connection = Packet::connections(record.is_tls(), self.batch, vec![record]).encode();
        // Of the length that it has: it does not grow, which would leave a copy of keys behind.
        let packet = [line.as_bytes(), state, &connection].concat();
        wipe(&mut connection);
        packet
    }

    /// Whether this packet has a stream, perhaps of a kind that this version does not know.
    pub(super) fn is_one(packet: &[u8]) -> bool {
        packet.strip_prefix(WORD.as_bytes()).is_some_and(|rest| rest.starts_with(b" "))
    }

    pub(super) fn decode(packet: &[u8]) -> Option<StreamPacket> {
        let rest = packet.strip_prefix(WORD.as_bytes()).filter(|rest| rest.starts_with(b" "))?;
        let end = rest.iter().position(|&b| b == b'\n')?;
        let (line, rest) = rest.split_at_checked(end)?;
        let fields = pairs(std::str::from_utf8(line).ok()?);
        let field = |key: &str| value_of(&fields, key);
        let text = |key| String::from_utf8(unescape(field(key)?)?).ok();
        let kind = StreamKind::ALL.into_iter().find(|kind| field("kind") == Some(kind.word()))?;
        let (state, connection) =
            rest.split_first()?.1.split_at_checked(field("state_bytes")?.parse().ok()?)?;
        let records = match Packet::decode(connection)? {
            Packet::Connections { records, .. } => records,
            #[cfg(feature = "tls")]
            Packet::Tls { records, .. } => records,
            _ => return None,
        };
        let [record] = <[ConnectionRecord; 1]>::try_from(records).ok()?;
        let state = state.to_vec();
        let continuation = Continuation { name: text("name")?, kind, details: text("details")?, state };
        let (batch, file_bytes) = (field("batch")?.parse().ok()?, field("file_bytes")?.parse().ok()?);
        Some(StreamPacket { batch, continuation, file_bytes, record })
    }
}

/// What another process sends, for `fuzz/`: a packet is read in one way, can be refused by its number, and a stream that
/// decodes encodes to a packet that decodes to the same.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_packet(packet: &[u8]) {
    let Some(decoded) = StreamPacket::decode(packet) else { return };
    assert!(StreamPacket::is_one(packet));
    assert_eq!((Packet::decode(packet), Packet::batch_of(packet)), (None, Some(decoded.batch)));
    let mut again = decoded.encode();
    assert_eq!(StreamPacket::decode(&again).as_ref(), Some(&decoded), "by way of {:?}", again.escape_ascii());
    // Its connection is on one kind of listener only.
    let plain = ListenerNames::of_one(&decoded.record.listener);
    assert!(
        plain.find(&decoded.record).is_none_or(|_| !decoded.record.is_tls()),
        "TLS is taken for plain text"
    );
    wipe(&mut again);
    assert!(again.iter().all(|byte| *byte == 0), "keys may be left behind");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arbtest::arbitrary::{Result, Unstructured};

    use super::*;
    use crate::base::property::{BYTES, CASES, bytes, check, text};

    fn any_stream(u: &mut Unstructured<'_>) -> Result<StreamPacket> {
        let ms = |u: &mut Unstructured<'_>| Ok(Duration::from_millis(u.int_in_range(0..=8_999)?));
        let record = ConnectionRecord {
            listener: text(u, 1..=20, &[' '..='~'])?,
            nth: 0,
            peer: None,
            proxy: None,
            idle: ms(u)?,
            started: None,
            age: ms(u)?,
            served: u.arbitrary()?,
            bytes: bytes(u, 0..=79)?,
            #[cfg(feature = "tls")]
            tls: None,
        };
        let continuation = Continuation {
            name: text(u, 0..=20, &[' '..='~', 'é'..='é', '\n'..='\n'])?,
            kind: *u.choose(&StreamKind::ALL)?,
            details: text(u, 0..=20, &[' '..='~', '\n'..='\n'])?,
            state: bytes(u, 0..=79)?,
        };
        Ok(StreamPacket { batch: u.arbitrary()?, continuation, file_bytes: u.arbitrary()?, record })
    }

    #[test]
    fn a_stream_survives_its_packet() {
        check(CASES, BYTES, |u| {
            let sent = any_stream(u)?;
            let packet = sent.encode();
            assert!(StreamPacket::is_one(&packet));
            assert_eq!(StreamPacket::decode(&packet), Some(sent.clone()));
            check_packet(&packet);
            // Other versions refuse it by its number.
            assert_eq!((Packet::decode(&packet), Packet::batch_of(&packet)), (None, Some(sent.batch)));
            let cut = u.int_in_range(1..=packet.len() - 1)?;
            assert_eq!(StreamPacket::decode(&packet[..cut]), None, "{cut} bytes of {packet:?}");
            Ok(())
        });
    }

    #[test]
    fn no_packet_panics() {
        check(CASES, BYTES, |u| {
            let rest = bytes(u, 0..=199)?;
            check_packet(&rest);
            let numbers = text(u, 0..=20, &['0'..='9'])?;
            let line = format!(
                "STREAM batch={numbers} name=a kind=events details= state_bytes={numbers} file_bytes=1\n"
            );
            check_packet(&[line.as_bytes(), &rest].concat());
            Ok(())
        });
    }

    /// With the longest state, all that TLS may add, and a name and a subprotocol of the greatest length.
    #[cfg(feature = "tls")]
    #[test]
    fn a_packet_is_never_longer_than_a_receiver_reads() {
        use crate::net::transfer::packet::{PACKET_BYTES, TlsRecord};
        use crate::net::transfer::parcel::TLS_BYTES;
        let record = ConnectionRecord {
            listener: "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".repeat(5),
            nth: usize::MAX,
            peer: Some("[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap()),
            proxy: None,
            idle: Duration::from_millis(u64::MAX),
            started: None,
            age: Duration::from_millis(u64::MAX),
            served: u64::MAX,
            bytes: vec![7; INLINE_BYTES],
            tls: Some(TlsRecord::Session(
                "7".repeat(32).parse().unwrap(),
                zeroize::Zeroizing::new(vec![7; TLS_BYTES]),
            )),
        };
        let continuation = Continuation {
            name: "\u{1}".repeat(100),
            kind: StreamKind::WebSocket,
            details: "\u{1}".repeat(1_000),
            state: vec![7; 64 << 10],
        };
        let packet = StreamPacket { batch: u64::MAX, continuation, file_bytes: u64::MAX, record };
        assert!(packet.encode().len() <= PACKET_BYTES, "{}", packet.encode().len());
    }

    #[test]
    fn a_long_text_of_a_client_is_not_put_into_a_packet() {
        let mut short = vec![1; INLINE_BYTES];
        assert!(LongUnread::take_from(&mut short).unwrap().is_none());
        let mut long = vec![7; INLINE_BYTES + 1];
        let mut taken = LongUnread::take_from(&mut long).unwrap().unwrap();
        assert_eq!((short.len(), long.len(), taken.bytes), (INLINE_BYTES, 0, INLINE_BYTES as u64 + 1));
        assert_eq!(taken.file.read(taken.bytes).unwrap(), vec![7; INLINE_BYTES + 1]);
    }
}
