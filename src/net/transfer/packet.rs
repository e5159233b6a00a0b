//! The text of the connection channel's packets. A predecessor sends connections with the bytes that were read of them,
//! a successor sends credit and receipts. A packet has lines of text like the lifecycle channel's, then the bytes of
//! unfinished requests. Descriptors travel beside the packet, in the order of its lines.
//!
//! Processes of all versions since 4a81a84 exchange these packets: unknown words and keys are skipped. A receiver refuses a
//! packet of an unknown word with a batch number, so `TICKETS`, which no receipt settles, has none. TLS connections have a
//! word of their own: a version that skips what it does not know would take them for plain text.

#[cfg(feature = "tls")]
use std::fmt;
use std::fmt::Write;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::base::sys;
use crate::base::words::{pairs, value_of};
use crate::net::conn_info::ProxyHop;
#[cfg(feature = "tls")]
use crate::net::tls::{ClientRules, PassedKey};
use crate::process::handover::{escape, unescape};
#[cfg(feature = "tls")]
use zeroize::{Zeroize, Zeroizing};

/// Connections in one packet. The kernel's own bound is 253 descriptors.
pub(crate) const BATCH: usize = 64;
/// Bytes of unfinished requests in one packet. The kernel takes about 200 KiB.
pub(crate) const BATCH_BYTES: usize = 64 << 10;
/// The most credit that a receiver grants. Descriptors in flight count against the user's NOFILE limit, which may be
/// 1,024.
pub(crate) const WINDOW: usize = 4 * BATCH;
/// The longest packet: 64 lines with the longest names, and the bytes.
pub(super) const PACKET_BYTES: usize = BATCH_BYTES + (64 << 10);

/// A connection on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionRecord {
    /// The listener's name, and which of the listeners with that name.
    pub(crate) listener: String,
    pub(crate) nth: usize,
    /// None for a unix socket.
    pub(crate) peer: Option<SocketAddr>,
    /// The proxy whose header has named the peer. Versions that do not know this skip it: they serve the connection, and
    /// have no use for it.
    pub(crate) proxy: Option<ProxyHop>,
    /// How long ago its last response was.
    pub(crate) idle: Duration,
    /// How long ago the first byte of the request in `bytes` came; if its head is complete, how long its body is waited for.
    pub(crate) started: Option<Duration>,
    /// How long ago it was accepted.
    pub(crate) age: Duration,
    /// Requests so far.
    pub(crate) served: u64,
    /// The bytes that were read and not answered.
    pub(crate) bytes: Vec<u8>,
    /// None without TLS.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsRecord>,
}

/// The TLS of a connection on its way.
#[cfg(feature = "tls")]
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum TlsRecord {
    /// Its client has sent nothing yet.
    New,
    /// By which rules its client was accepted, and all that continues the session, as `tls::Carried` encodes it.
    Session(ClientRules, Zeroizing<Vec<u8>>),
}

/// Without the keys.
#[cfg(feature = "tls")]
impl fmt::Debug for TlsRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsRecord::New => f.write_str("New"),
            TlsRecord::Session(rules, session) => write!(f, "Session({rules}, {} bytes)", session.len()),
        }
    }
}

#[cfg(feature = "tls")]
impl TlsRecord {
    fn encode(&self, text: &mut String) {
        let _ = match self {
            TlsRecord::New => write!(text, " tls=new"),
            TlsRecord::Session(rules, session) => write!(text, " tls={rules} session={}", session.len()),
        };
    }

    fn session(&self) -> &[u8] {
        match self {
            TlsRecord::New => &[],
            TlsRecord::Session(_, session) => session,
        }
    }

    /// Without its session; and how long that is.
    fn decode(fields: &[(&str, &str)]) -> Option<(TlsRecord, usize)> {
        let value = value_of(fields, "tls")?;
        if value == "new" {
            return Some((TlsRecord::New, 0));
        }
        let session = usize::try_from(number(fields, "session")?).ok()?;
        Some((TlsRecord::Session(value.parse().ok()?, Zeroizing::default()), session))
    }
}

/// A packet of a predecessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// A descriptor for each is beside the packet.
    Connections { batch: u64, records: Vec<ConnectionRecord> },
    /// As `Connections`, for those with TLS.
    #[cfg(feature = "tls")]
    Tls { batch: u64, records: Vec<ConnectionRecord> },
    /// The connection channel of the sender's own predecessor, whose descriptor is beside the packet, and the credit
    /// that is left there.
    Channel { batch: u64, credit: usize },
    /// Counts to add to the receiver's counters, by name.
    Counts(Vec<(String, u64)>),
    /// The keys of session tickets, the current one first. Before GO.
    #[cfg(feature = "tls")]
    Tickets(Vec<PassedKey>),
}

/// A packet of a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Receipt {
    /// So many more connections may be sent.
    Credit(usize),
    /// The batch belongs to the successor now, and so many more connections may be sent.
    Ack { batch: u64, credit: usize },
    /// Nothing of the batch was kept.
    Nak { batch: u64, retry: Retry },
}

/// Whether refused connections may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Retry {
    /// The successor had no room.
    Later,
    /// The successor has no such listener.
    Never,
    /// The successor can't continue one of these; others of its listener may be sent. Earlier versions take it for `Never`.
    Unfit,
}

impl Packet {
    /// All of these connections use TLS, or none does.
    pub(crate) fn connections(is_tls: bool, batch: u64, records: Vec<ConnectionRecord>) -> Packet {
        match is_tls {
            #[cfg(feature = "tls")]
            true => Packet::Tls { batch, records },
            _ => Packet::Connections { batch, records },
        }
    }

    /// The bytes are to be wiped if they hold keys: see [`wipe`].
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = String::new();
        match self {
            Packet::Connections { batch, records } => encode_lines("CONNECTIONS", *batch, records, &mut text),
            #[cfg(feature = "tls")]
            Packet::Tls { batch, records } => encode_lines("TLS", *batch, records, &mut text),
            Packet::Channel { batch, credit } => {
                let _ = writeln!(text, "CHANNEL batch={batch} credit={credit}");
            }
            Packet::Counts(counts) => {
                text.push_str("COUNTS");
                for (name, n) in counts {
                    let _ = write!(text, " {name}={n}");
                }
                text.push('\n');
            }
            #[cfg(feature = "tls")]
            Packet::Tickets(keys) => PassedKey::encode_ages(keys, &mut text),
        }
        let mut packet = text.into_bytes();
        match self {
            Packet::Connections { records, .. } => encode_bytes(records, &mut packet),
            #[cfg(feature = "tls")]
            Packet::Tls { records, .. } => encode_bytes(records, &mut packet),
            #[cfg(feature = "tls")]
            Packet::Tickets(keys) => PassedKey::encode_secrets(keys, &mut packet),
            Packet::Channel { .. } | Packet::Counts(_) => {}
        }
        packet
    }

    /// None for a packet that this version does not know.
    pub(crate) fn decode(packet: &[u8]) -> Option<Packet> {
        let (line, rest) = first_line(packet)?;
        let word = line.split(' ').next()?;
        let fields = pairs(line);
        Some(match word {
            "CONNECTIONS" => {
                let batch = number(&fields, "batch")?;
                Packet::Connections { batch, records: decode_records(Kind::Plain, rest)? }
            }
            #[cfg(feature = "tls")]
            "TLS" => {
                let batch = number(&fields, "batch")?;
                Packet::Tls { batch, records: decode_records(Kind::Tls, rest)? }
            }
            "CHANNEL" => Packet::Channel {
                batch: number(&fields, "batch")?,
                credit: number(&fields, "credit").and_then(|n| usize::try_from(n).ok())?.min(WINDOW),
            },
            "COUNTS" => {
                let count = |(name, n): &(&str, &str)| Some(((*name).to_owned(), n.parse().ok()?));
                Packet::Counts(fields.iter().filter_map(count).collect())
            }
            #[cfg(feature = "tls")]
            "TICKETS" => Packet::Tickets(PassedKey::decode_all(&fields, rest)?),
            _ => return None,
        })
    }

    /// Whether a packet holds keys, so that its bytes are to be wiped. A process without TLS may get one too.
    fn is_secret(packet: &[u8]) -> bool {
        [&b"TICKETS"[..], b"TLS ", b"STREAM "].iter().any(|word| packet.starts_with(word))
    }

    /// The batch number of a packet that can't be decoded, so that it can be refused.
    pub(crate) fn batch_of(packet: &[u8]) -> Option<u64> {
        let (line, _) = first_line(packet)?;
        let fields = pairs(line);
        number(&fields, "batch")
    }
}

impl ConnectionRecord {
    /// How many bytes it takes in its packet, without what all lines have.
    pub(crate) fn len(&self) -> usize {
        [self.listener.len(), self.bytes.len(), self.session().len()].iter().sum()
    }

    fn encode(&self, text: &mut String) {
        let _ = write!(text, "listener={}", escape(self.listener.as_bytes()));
        if self.nth > 0 {
            let _ = write!(text, " nth={}", self.nth);
        }
        if let Some(peer) = self.peer {
            let _ = write!(text, " peer={peer}");
        }
        if let Some(proxy) = self.proxy {
            let _ = match proxy.address {
                Some(address) => write!(text, " proxy={address}"),
                None => write!(text, " proxy=unix"),
            };
            if proxy.is_encrypted {
                text.push_str(" proxy_tls=1");
            }
        }
        let _ = write!(text, " idle_ms={}", self.idle.as_millis());
        if let Some(started) = self.started {
            let _ = write!(text, " begun_ms={}", started.as_millis());
        }
        let (age, served) = (self.age.as_millis(), self.served);
        let _ = write!(text, " age_ms={age} served={served} bytes={}", self.bytes.len());
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            tls.encode(text);
        }
        text.push('\n');
    }

    /// Without its bytes and without TLS; and how many bytes it has.
    fn decode(fields: &[(&str, &str)]) -> Option<(ConnectionRecord, usize)> {
        let field = |key: &str| value_of(fields, key);
        let record = ConnectionRecord {
            listener: String::from_utf8(unescape(field("listener")?)?).ok()?,
            nth: number(fields, "nth").and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
            peer: field("peer").map(str::parse).transpose().ok()?,
            proxy: field("proxy").and_then(|proxy| {
                let address = if proxy == "unix" { None } else { Some(proxy.parse().ok()?) };
                Some(ProxyHop { address, is_encrypted: number(fields, "proxy_tls") == Some(1) })
            }),
            idle: Duration::from_millis(number(fields, "idle_ms").unwrap_or(0)),
            started: number(fields, "begun_ms").map(Duration::from_millis),
            age: Duration::from_millis(number(fields, "age_ms").unwrap_or(0)),
            served: number(fields, "served").unwrap_or(0),
            bytes: Vec::new(),
            #[cfg(feature = "tls")]
            tls: None,
        };
        let bytes = number(fields, "bytes").unwrap_or(0);
        Some((record, usize::try_from(bytes).ok()?))
    }
}

#[cfg(feature = "tls")]
impl ConnectionRecord {
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    fn session(&self) -> &[u8] {
        self.tls.as_ref().map_or(&[], TlsRecord::session)
    }

    fn set_session(&mut self, bytes: &[u8]) {
        if let Some(TlsRecord::Session(_, session)) = &mut self.tls {
            *session = Zeroizing::new(bytes.to_vec());
        }
    }
}

#[cfg(not(feature = "tls"))]
impl ConnectionRecord {
    pub(crate) fn is_tls(&self) -> bool {
        false
    }

    fn session(&self) -> &[u8] {
        &[]
    }

    fn set_session(&mut self, _: &[u8]) {}
}

impl Receipt {
    pub(crate) fn encode(self, takes_tls: bool) -> Vec<u8> {
        let mut text = match self {
            Receipt::Credit(n) => format!("CREDIT n={n}"),
            Receipt::Ack { batch, credit } => format!("ACK batch={batch} credit={credit}"),
            Receipt::Nak { batch, retry } => {
                let unfit = if retry == Retry::Unfit { " unfit=1" } else { "" };
                format!("NAK batch={batch} never={}{unfit}", u8::from(retry != Retry::Later))
            }
        };
        text.push_str(if takes_tls { " tls=1 streams=1\n" } else { " streams=1\n" });
        text.into_bytes()
    }

    /// Whether the sender of a receipt takes TLS connections, on this channel.
    pub(crate) fn says_tls(packet: &[u8]) -> bool {
        first_line(packet).is_some_and(|(line, _)| number(&pairs(line), "tls") == Some(1))
    }

    /// Whether the sender of a receipt knows streams.
    pub(crate) fn says_streams(packet: &[u8]) -> bool {
        first_line(packet).is_some_and(|(line, _)| number(&pairs(line), "streams") == Some(1))
    }

    /// None for a receipt that this version does not know.
    pub(crate) fn decode(packet: &[u8]) -> Option<Receipt> {
        let (line, _) = first_line(packet)?;
        let word = line.split(' ').next()?;
        let fields = pairs(line);
        let credit = |key| Some(usize::try_from(number(&fields, key)?).ok()?.min(WINDOW));
        Some(match word {
            "CREDIT" => Receipt::Credit(credit("n")?),
            "ACK" => Receipt::Ack { batch: number(&fields, "batch")?, credit: credit("credit").unwrap_or(0) },
            "NAK" => {
                let says = |key| number(&fields, key) == Some(1);
                let retry = match (says("never"), says("unfit")) {
                    (false, _) => Retry::Later,
                    (true, false) => Retry::Never,
                    (true, true) => Retry::Unfit,
                };
                Receipt::Nak { batch: number(&fields, "batch")?, retry }
            }
            _ => return None,
        })
    }
}

fn encode_lines(word: &str, batch: u64, records: &[ConnectionRecord], text: &mut String) {
    let _ = writeln!(text, "{word} batch={batch}");
    records.iter().for_each(|record| record.encode(text));
    text.push('\n');
}

fn encode_bytes(records: &[ConnectionRecord], packet: &mut Vec<u8>) {
    // It must not grow, which would leave a copy of keys behind.
    packet.reserve_exact(records.iter().map(|record| record.bytes.len() + record.session().len()).sum());
    for record in records {
        packet.extend_from_slice(&record.bytes);
        packet.extend_from_slice(record.session());
    }
}

/// Which connections a packet has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    #[cfg(feature = "tls")]
    Tls,
}

fn decode_records(kind: Kind, rest: &[u8]) -> Option<Vec<ConnectionRecord>> {
    let mut rest = rest;
    let mut records = Vec::new();
    loop {
        let (line, after) = first_line(rest)?;
        rest = after;
        if line.is_empty() {
            break;
        }
        let fields = pairs(line);
        let (record, bytes) = ConnectionRecord::decode(&fields)?;
        records.push(match kind {
            Kind::Plain => (record, bytes, 0),
            #[cfg(feature = "tls")]
            Kind::Tls => {
                let (tls, session) = TlsRecord::decode(&fields)?;
                (ConnectionRecord { tls: Some(tls), ..record }, bytes, session)
            }
        });
    }
    if records.len() > BATCH {
        return None;
    }
    let mut filled = Vec::with_capacity(records.len());
    for (mut record, bytes, session) in records {
        let (bytes, after) = rest.split_at_checked(bytes)?;
        let (session, after) = after.split_at_checked(session)?;
        record.bytes = bytes.to_vec();
        record.set_session(session);
        rest = after;
        filled.push(record);
    }
    rest.is_empty().then_some(filled)
}

fn first_line(packet: &[u8]) -> Option<(&str, &[u8])> {
    let end = packet.iter().position(|&b| b == b'\n')?;
    let (line, rest) = packet.split_at_checked(end)?;
    Some((std::str::from_utf8(line).ok()?, rest.split_first()?.1))
}

fn number(fields: &[(&str, &str)], key: &str) -> Option<u64> {
    value_of(fields, key)?.parse().ok()
}

/// Overwrites a packet that holds keys, once it is sent or decoded.
pub(crate) fn wipe(packet: &mut [u8]) {
    if Packet::is_secret(packet) {
        #[cfg(feature = "tls")]
        packet.zeroize();
        #[cfg(not(feature = "tls"))]
        std::hint::black_box(packet).fill(0);
    }
}

/// Sends one packet, without waiting.
pub(crate) fn send(channel: BorrowedFd<'_>, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        match sendmsg::<()>(channel.as_raw_fd(), &[IoSlice::new(packet)], control, flags, None) {
            Ok(_) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// A packet with its descriptors, CLOEXEC.
pub(crate) struct ReceivedPacket {
    pub(crate) packet: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
    /// Part of the packet, or some descriptors, are missing: this process has no room for them.
    pub(crate) truncated: bool,
}

/// The result of reading a channel.
pub(crate) enum ChannelRead {
    Packet(ReceivedPacket),
    Nothing,
    /// No process has the other end any more, and all that was sent has been read.
    End,
}

/// Receives one packet, without waiting. A reset is not the end: packets may be queued behind it.
pub(crate) fn receive(channel: BorrowedFd<'_>) -> io::Result<ChannelRead> {
    let mut packet = vec![0; PACKET_BYTES];
    loop {
        match sys::receive(channel, &mut packet) {
            Ok((0, fds, _)) if fds.is_empty() => return Ok(ChannelRead::End),
            Ok((n, fds, truncated)) => {
                packet.truncate(n);
                return Ok(ChannelRead::Packet(ReceivedPacket { packet, fds, truncated }));
            }
            Err(e) => match e.raw_os_error() {
                Some(libc::EINTR | libc::ECONNRESET) => {}
                Some(libc::EAGAIN) => return Ok(ChannelRead::Nothing),
                _ => return Err(e),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use arbtest::arbitrary::{Result, Unstructured};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;
    use crate::base::property::{BYTES, CASES, bytes, check, list, text};

    fn any_record(u: &mut Unstructured<'_>) -> Result<ConnectionRecord> {
        let address = |u: &mut Unstructured<'_>| {
            Ok(u.arbitrary::<Option<(std::net::IpAddr, u16)>>()?.map(SocketAddr::from))
        };
        let ms = |u: &mut Unstructured<'_>| Ok(Duration::from_millis(u.int_in_range(0..=8_999)?));
        Ok(ConnectionRecord {
            listener: text(u, 1..=20, &[' '..='~', 'é'..='é', '\n'..='\n'])?,
            nth: u.int_in_range(0..=2)?,
            peer: address(u)?,
            proxy: match u.arbitrary()? {
                true => Some(ProxyHop { address: address(u)?, is_encrypted: u.arbitrary()? }),
                false => None,
            },
            idle: ms(u)?,
            started: if u.arbitrary()? { Some(ms(u)?) } else { None },
            age: ms(u)?,
            served: u.arbitrary()?,
            bytes: bytes(u, 0..=79)?,
            #[cfg(feature = "tls")]
            tls: None,
        })
    }

    #[cfg(feature = "tls")]
    fn any_tls_record(u: &mut Unstructured<'_>) -> Result<ConnectionRecord> {
        let tls = match u.arbitrary()? {
            true => TlsRecord::New,
            false => {
                let rules = format!("{:032x}", u.arbitrary::<u128>()?).parse().unwrap();
                TlsRecord::Session(rules, Zeroizing::new(bytes(u, 0..=79)?))
            }
        };
        Ok(ConnectionRecord { tls: Some(tls), ..any_record(u)? })
    }

    fn any_packet(u: &mut Unstructured<'_>) -> Result<Packet> {
        #[cfg(feature = "tls")]
        if u.ratio(1, 8)? {
            let ages: [u32; 2] = u.arbitrary()?;
            let ages = format!("{},{}", ages[0], ages[1]);
            let secrets: [u8; 96] = u.arbitrary()?;
            return Ok(Packet::Tickets(PassedKey::decode_all(&[("ages_ms", &ages)], &secrets).unwrap()));
        }
        #[cfg(feature = "tls")]
        if u.ratio(1, 4)? {
            return Ok(Packet::Tls { batch: u.arbitrary()?, records: list(u, 0..=BATCH, any_tls_record)? });
        }
        Ok(match u.int_in_range(0..=2)? {
            0 => Packet::Connections { batch: u.arbitrary()?, records: list(u, 0..=BATCH, any_record)? },
            1 => Packet::Channel { batch: u.arbitrary()?, credit: u.int_in_range(0..=WINDOW)? },
            _ => Packet::Counts(list(u, 0..=8, |u| {
                Ok((text(u, 1..=9, &['a'..='z', '_'..='_', '.'..='.'])?, u.arbitrary()?))
            })?),
        })
    }

    fn any_receipt(u: &mut Unstructured<'_>) -> Result<Receipt> {
        Ok(match u.int_in_range(0..=2)? {
            0 => Receipt::Credit(u.int_in_range(0..=WINDOW)?),
            1 => Receipt::Ack { batch: u.arbitrary()?, credit: u.int_in_range(0..=WINDOW)? },
            _ => {
                let retry = *u.choose(&[Retry::Later, Retry::Never, Retry::Unfit])?;
                Receipt::Nak { batch: u.arbitrary()?, retry }
            }
        })
    }

    /// What looks like a packet: words and keys that there are, with numbers of any length.
    fn almost_a_packet(u: &mut Unstructured<'_>) -> Result<String> {
        let digits = |u: &mut Unstructured<'_>, len| text(u, len, &['0'..='9']);
        let mut packet =
            u.choose(&["CONNECTIONS", "TLS", "CHANNEL", "COUNTS", "TICKETS", "ACK", "NAK"])?.to_string();
        for key in list(u, 0..=3, |u| u.choose(&["batch", "n", "credit", "bytes", "ages_ms"]).copied())? {
            packet += &format!(" {key}={}", digits(u, 0..=20)?);
        }
        packet.push('\n');
        for bytes in list(u, 0..=3, |u| digits(u, 1..=20))? {
            packet += &format!("listener=x bytes={bytes}");
            match u.int_in_range(0..=2)? {
                0 => packet += " tls=new",
                1 => packet += &format!(" tls={} session={}", "7".repeat(32), digits(u, 1..=20)?),
                _ => {}
            }
            packet.push('\n');
        }
        packet += if u.arbitrary()? { "\n" } else { "" };
        Ok(packet)
    }

    #[test]
    fn a_packet_survives_its_encoding() {
        check(CASES, BYTES, |u| {
            let sent = any_packet(u)?;
            assert_eq!(Packet::decode(&sent.encode()), Some(sent));
            Ok(())
        });
    }

    #[test]
    fn half_a_packet_is_none_and_can_still_be_refused() {
        check(CASES, BYTES, |u| {
            let (cut, sent) = (u.int_in_range(1..=39)?, any_packet(u)?);
            let packet = sent.encode();
            let batch_of = match &sent {
                Packet::Connections { batch, records } => Some((batch, records)),
                #[cfg(feature = "tls")]
                Packet::Tls { batch, records } => Some((batch, records)),
                _ => None,
            };
            if let Some((batch, records)) = batch_of {
                let half = &packet[..packet.len().saturating_sub(cut).max(40.min(packet.len() - 1))];
                if !records.is_empty() {
                    assert_eq!(Packet::decode(half), None, "{sent:?} without {cut} bytes");
                    assert_eq!(Packet::batch_of(half), Some(*batch), "{sent:?} without {cut} bytes");
                }
            }
            Ok(())
        });
    }

    /// For version 4a81a84 these are the same two things: a word that it refuses, and a key that it skips.
    #[cfg(feature = "tls")]
    #[test]
    fn tls_connections_have_a_packet_of_their_own() {
        let rules = "7".repeat(32);
        let line = |tls: &str| format!("listener=x idle_ms=1 age_ms=2 served=3 bytes=2{tls}\n");
        let packet = |word: &str, tls: &str, bytes: &str| format!("{word} batch=9\n{}\n{bytes}", line(tls));
        let of = |tls: &str, bytes: &str| Packet::decode(packet("TLS", tls, bytes).as_bytes());
        let Some(Packet::Tls { batch: 9, records }) = of(&format!(" tls={rules} session=3"), "GEkey") else {
            panic!("it is whole")
        };
        // The text is a promise to other versions.
        let text = packet("TLS", &format!(" tls={rules} session=3"), "GEkey");
        assert_eq!(Packet::Tls { batch: 9, records: records.clone() }.encode(), text.as_bytes());
        assert_eq!(records[0].bytes, b"GE");
        let Some(TlsRecord::Session(_, session)) = &records[0].tls else { panic!("it has one") };
        assert_eq!(***session, b"key"[..]);
        let shown = format!("{records:?}");
        assert!(
            shown.contains("3 bytes") && !shown.contains("107, 101, 121") && !shown.contains("key"),
            "{shown}"
        );
        assert!(matches!(of(" tls=new", "GE"), Some(Packet::Tls { .. })));
        for (tls, bytes) in [
            ("".to_owned(), "GE"),
            (" tls=new".to_owned(), "GEkey"),
            (format!(" tls={rules}"), "GE"),
            (format!(" tls={rules}"), "GEkey"),
            (format!(" tls={rules} session=4"), "GEkey"),
            (format!(" tls={rules} session=2"), "GEkey"),
            (format!(" tls={rules}7 session=3"), "GEkey"),
            (" tls=later session=3".to_owned(), "GEkey"),
            (format!(" tls={rules} session=99999999999999999999"), "GEkey"),
        ] {
            assert_eq!(of(&tls, bytes), None, "{tls}");
        }
        // No word and key make a plain connection of one with TLS.
        let plain = packet("CONNECTIONS", &format!(" tls={rules} session=3"), "GEkey");
        assert_eq!(Packet::decode(plain.as_bytes()), None);
        let mut bytes = packet("TLS", " tls=new", "GE").into_bytes();
        wipe(&mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0));
    }

    /// The longest packets are read whole: 64 connections, or one with all that TLS may add.
    #[cfg(feature = "tls")]
    #[test]
    fn a_packet_is_never_longer_than_a_receiver_reads() {
        let longest = ConnectionRecord {
            listener: "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".repeat(5),
            nth: usize::MAX,
            peer: Some("[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap()),
            proxy: Some(ProxyHop {
                address: Some("[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap()),
                is_encrypted: true,
            }),
            idle: Duration::from_millis(u64::MAX),
            started: Some(Duration::from_millis(u64::MAX)),
            age: Duration::from_millis(u64::MAX),
            served: u64::MAX,
            bytes: Vec::new(),
            tls: Some(TlsRecord::Session("7".repeat(32).parse().unwrap(), Zeroizing::default())),
        };
        let packet = Packet::Tls { batch: u64::MAX, records: vec![longest; BATCH] };
        assert!(packet.encode().len() + BATCH_BYTES <= PACKET_BYTES, "{}", packet.encode().len());
    }

    #[cfg(feature = "tls")]
    #[test]
    fn keys_are_whole_or_none_and_never_shown() {
        let secrets: Vec<u8> = (0..3 * 48).collect();
        let packet = |line: &str, keys: usize| [line.as_bytes(), b"\n", &secrets[..keys * 48]].concat();
        for (line, keys, is_known) in [
            ("TICKETS ages_ms=7", 1, true),
            ("TICKETS later=1 ages_ms=7,8", 2, true),
            ("TICKETS ages_ms=7,8,9", 3, false),
            ("TICKETS ages_ms=7", 2, false),
            ("TICKETS ages_ms=7,8", 1, false),
            ("TICKETS ages_ms=", 0, false),
            ("TICKETS ages_ms=-1", 1, false),
            ("TICKETS", 1, false),
        ] {
            let packet = packet(line, keys);
            let decoded = Packet::decode(&packet);
            assert_eq!(decoded.is_some(), is_known, "{line}");
            assert!(Packet::is_secret(&packet));
            // Nobody answers it, whatever is wrong with it.
            assert_eq!(Packet::batch_of(&packet), None);
            let shown = format!("{decoded:?}");
            assert!(!is_known || shown.contains("TicketKey { .. }") && !shown.contains("16, 17"), "{shown}");
            if is_known {
                assert_eq!(Packet::decode(&packet[..packet.len() - 1]), None);
            }
        }
        assert!(!Packet::is_secret(b"COUNTS accepted=1\n"));
    }

    #[test]
    fn a_receipt_survives_its_encoding() {
        check(CASES, BYTES, |u| {
            let (receipt, takes_tls) = (any_receipt(u)?, u.arbitrary()?);
            let packet = receipt.encode(takes_tls);
            assert_eq!(Receipt::decode(&packet), Some(receipt));
            assert_eq!(Receipt::says_tls(&packet), takes_tls);
            Ok(())
        });
    }

    #[test]
    fn no_packet_panics() {
        check(CASES, BYTES, |u| {
            let packet = match u.arbitrary()? {
                true => bytes(u, 0..=299)?,
                false => almost_a_packet(u)?.into_bytes(),
            };
            let _ = (Packet::decode(&packet), Receipt::decode(&packet), Packet::batch_of(&packet));
            Ok(())
        });
    }

    /// To versions that do not know the second word, the first one says what is true of the packet.
    #[test]
    fn what_is_unfit_is_not_sent_again() {
        let unfit = Receipt::Nak { batch: 7, retry: Retry::Unfit };
        assert_eq!(unfit.encode(false), b"NAK batch=7 never=1 unfit=1 streams=1\n");
        let never = Receipt::Nak { batch: 7, retry: Retry::Never };
        assert_eq!(Receipt::decode(b"NAK batch=7 never=1\n"), Some(never));
        let later = Receipt::Nak { batch: 7, retry: Retry::Later };
        assert_eq!(Receipt::decode(b"NAK batch=7 unfit=1\n"), Some(later));
    }

    #[test]
    fn later_versions_may_add_words_and_keys() {
        assert_eq!(Receipt::decode(b"ACK colour=blue batch=7\n"), Some(Receipt::Ack { batch: 7, credit: 0 }));
        assert_eq!(Receipt::decode(b"SALUTE batch=7\n"), None);
        assert_eq!(Packet::decode(b"PRESENT batch=7\n"), None);
        assert_eq!(Packet::batch_of(b"PRESENT batch=7\n"), Some(7));
    }

    #[test]
    fn descriptors_arrive_in_order_and_the_end_comes_last() {
        let pair = || socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let ((a, b), (x, y)) = (pair().unwrap(), pair().unwrap());
        assert!(matches!(receive(b.as_fd()).unwrap(), ChannelRead::Nothing));
        send(a.as_fd(), b"two", &[x.as_fd(), y.as_fd()]).unwrap();
        drop((x, y));
        send(b.as_fd(), b"unread", &[]).unwrap();
        drop(a); // with a packet unread: b sees a reset
        let ChannelRead::Packet(two) = receive(b.as_fd()).unwrap() else { panic!("it was sent") };
        assert_eq!((&*two.packet, two.fds.len(), two.truncated), (&b"two"[..], 2, false));
        send(two.fds[0].as_fd(), b"hello", &[]).unwrap();
        assert!(
            matches!(receive(two.fds[1].as_fd()).unwrap(), ChannelRead::Packet(p) if p.packet == b"hello")
        );
        assert!(matches!(receive(b.as_fd()).unwrap(), ChannelRead::End));
    }
}
