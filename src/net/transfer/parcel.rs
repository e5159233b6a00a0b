//! A connection as its packet describes it, on both sides: made when it leaves, and read when it has arrived.
//!
//! While it is on its way, the sender keeps it with what was taken out of its stream ([`Released`]): the keys of its TLS are
//! then in no session, so that nothing can be encrypted by them here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::packet::{BATCH_BYTES, ConnectionRecord};
use super::{ListenerName, ListenerNames, PORTABLE_BYTES};
use crate::base::log::debug;
use crate::net::connection::{Activity, Connection, Portable};
use crate::net::stream::{Released, Stream};
#[cfg(feature = "tls")]
use {
    super::packet::TlsRecord,
    crate::net::tls::{Carried, ClientRules, Tls},
};

/// What TLS may add to the bytes of an unfinished request: a client's certificates, a record that is not complete, names.
pub(super) const TLS_BYTES: usize = 40 << 10;

/// The connections of one packet.
pub(super) struct Batch<P> {
    pub(super) records: Vec<ConnectionRecord>,
    pub(super) sent: Vec<Sent<P>>,
    pub(super) is_tls: bool,
}

impl<P: Portable> Batch<P> {
    /// Takes the first of `leaving`, at most `most`, which are of one kind. Those whose TLS can't leave are moved to
    /// `staying`.
    pub(super) fn fill(
        most: usize,
        leaving: &mut Vec<Box<Connection<P>>>,
        staying: &mut Vec<Box<Connection<P>>>,
        names: &ListenerNames,
    ) -> Batch<P> {
        let is_tls = leaving.first().is_some_and(|first| first.stream.is_tls());
        let longest = PORTABLE_BYTES + if is_tls { TLS_BYTES } else { 0 };
        let (mut records, mut sent, mut bytes) = (Vec::new(), Vec::new(), 0usize);
        let mut rest = std::mem::take(leaving).into_iter().peekable();
        while sent.len() < most && (sent.is_empty() || bytes.saturating_add(longest) <= BATCH_BYTES) {
            let Some(connection) = rest.next_if(|next| next.stream.is_tls() == is_tls) else { break };
            match Sent::release(connection, names) {
                Ok((record, one)) => {
                    bytes = bytes.saturating_add(record.len());
                    records.push(record);
                    sent.push(one);
                }
                Err(connection) => staying.push(connection),
            }
        }
        leaving.extend(rest);
        Batch { records, sent, is_tls }
    }
}

/// A connection on its way. Nobody reads or writes it here meanwhile.
pub(super) struct Sent<P> {
    connection: Box<Connection<P>>,
    released: Released,
}

impl<P> Sent<P> {
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.stream.as_fd()
    }

    /// No other process has it: it continues here.
    pub(super) fn take_back(self) -> Box<Connection<P>> {
        let Sent { connection, released } = self;
        connection.stream.take_back(released);
        connection
    }

    /// Another process has it, or may have it: its keys are wiped here, and it is only to be closed.
    pub(super) fn give_up(self) -> Box<Connection<P>> {
        self.connection
    }
}

impl<P: Portable> Sent<P> {
    /// Returns the connection if its TLS can't leave now.
    pub(super) fn release(
        mut connection: Box<Connection<P>>,
        names: &ListenerNames,
    ) -> Result<(ConnectionRecord, Sent<P>), Box<Connection<P>>> {
        match connection.stream.release() {
            Ok(released) => {
                let record = pack(&mut connection, &released, names);
                Ok((record, Sent { connection, released }))
            }
            Err(reason) => {
                debug!("handover: a TLS connection stays here for now: {reason}");
                Err(connection)
            }
        }
    }
}

/// The connection as its packet describes it. It can also be continued here afterwards.
fn pack<P: Portable>(
    connection: &mut Connection<P>,
    #[cfg_attr(not(feature = "tls"), expect(unused_variables, reason = "it is plain"))] released: &Released,
    names: &ListenerNames,
) -> ConnectionRecord {
    let now = Instant::now();
    let since = |at: Instant| now.saturating_duration_since(at);
    let (listener, nth) = names.of(connection.listener);
    let started = connection.progress.pack(&mut connection.buffered);
    connection.progress = P::unpack(started);
    ConnectionRecord {
        listener: listener.to_owned(),
        nth,
        peer: connection.conn_info.peer,
        proxy: connection.conn_info.proxy,
        idle: match connection.activity {
            Activity::Idle { since: at } => since(at),
            _ => Duration::ZERO,
        },
        started: started.map(since),
        age: since(connection.conn_info.since),
        served: connection.served,
        bytes: connection.buffered.clone(),
        #[cfg(feature = "tls")]
        tls: match released {
            Released::Plain => None,
            Released::NewTls => Some(TlsRecord::New),
            Released::Tls(rules, carried) => Some(TlsRecord::Session(*rules, carried.encode())),
        },
    }
}

/// What the stream of a connection is made of that has arrived. Nothing is encrypted or decrypted before the connection
/// belongs to this process.
pub(super) enum Arrived {
    Plain,
    #[cfg(feature = "tls")]
    NewTls(Tls),
    #[cfg(feature = "tls")]
    Tls(Tls, ClientRules, Box<Carried>),
}

impl Arrived {
    /// None for a session that this version does not know.
    pub(super) fn of(record: &ConnectionRecord, listener: &ListenerName) -> Option<Arrived> {
        #[cfg(feature = "tls")]
        if let (Some(record), Some(tls)) = (&record.tls, &listener.tls) {
            return Some(match record {
                TlsRecord::New => Arrived::NewTls(tls.clone()),
                TlsRecord::Session(rules, session) => {
                    Arrived::Tls(tls.clone(), *rules, Box::new(Carried::decode(session)?))
                }
            });
        }
        let _ = (record, listener);
        Some(Arrived::Plain)
    }

    /// None if its keys may encrypt nothing more.
    pub(super) fn stream(self, fd: OwnedFd, is_unix: bool) -> Option<Stream> {
        let stream = Stream::new(fd, is_unix);
        match self {
            Arrived::Plain => Some(stream),
            #[cfg(feature = "tls")]
            Arrived::NewTls(tls) => Some(stream.secured(&tls)),
            #[cfg(feature = "tls")]
            Arrived::Tls(tls, rules, carried) => stream.continued(&tls, rules, *carried),
        }
    }
}

impl ListenerName {
    /// Whether a connection may continue on this listener: it speaks TLS on both sides or on none, and its client was accepted by the
    /// rules that this listener has.
    pub(super) fn takes(&self, record: &ConnectionRecord) -> bool {
        #[cfg(feature = "tls")]
        return match (&self.tls, &record.tls) {
            (None, None) => true,
            (Some(tls), Some(TlsRecord::New)) => tls.is_carried(),
            (Some(tls), Some(TlsRecord::Session(rules, _))) => {
                tls.is_carried() && tls.client_rules() == Some(*rules)
            }
            _ => false,
        };
        #[cfg(not(feature = "tls"))]
        {
            let _ = record;
            true
        }
    }
}
