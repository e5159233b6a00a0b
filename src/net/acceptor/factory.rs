//! Makes connections from sockets, and counts them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::parking::Parking;
use crate::net::conn_info::{ConnInfo, ProxyHop};
use crate::net::connection::{Connection, Portable};
use crate::net::listener::ListenerConfig;
#[cfg(feature = "proxy")]
use crate::net::proxies::Proxies;
use crate::net::slots::SlotId;
use crate::net::stream::Stream;

/// Where a connection comes from.
#[derive(Clone, Copy)]
pub(crate) enum Origin {
    /// A listener. None for a unix socket.
    Accepted(Option<SocketAddr>),
    /// A predecessor, which has read the header of a proxy, if there was one.
    Moved { peer: Option<SocketAddr>, proxy: Option<ProxyHop>, since: Instant },
}

pub(crate) struct Factory {
    /// What all connections of this process have in common.
    pub(super) process: ConnInfo,
    /// What the connections of each listener have in common.
    listeners: Vec<Arc<ListenerConfig>>,
}

impl Factory {
    pub(super) fn new<'a>(process: ConnInfo, listeners: impl Iterator<Item = &'a ListenerConfig>) -> Factory {
        Factory { process, listeners: listeners.map(|config| Arc::new(config.clone())).collect() }
    }

    /// Makes a connection and counts it. Also returns how many connections its peer has now.
    pub(crate) fn make<P: Portable>(
        &self,
        parking: &Parking<P>,
        stream: Stream,
        (slot, place): (SlotId, (usize, usize)),
        origin: Origin,
        progress: P,
    ) -> (Box<Connection<P>>, usize) {
        let (peer, proxy, since) = match origin {
            Origin::Accepted(peer) => (peer, None, Instant::now()),
            Origin::Moved { peer, proxy, since } => (peer, proxy, since),
        };
        let listener = self.listeners.get(place.0).cloned();
        let mut conn_info = self.process.of_connection(peer, proxy, listener, stream.socket());
        conn_info.since = since;
        #[cfg(feature = "tls")]
        if matches!(origin, Origin::Moved { .. }) {
            conn_info.tls = stream.tls_info();
        }
        conn_info.drain = self.process.drain.of_slot(slot.index());
        #[cfg(feature = "proxy")]
        {
            let is_new = matches!(origin, Origin::Accepted(_));
            conn_info.awaits_proxy_header = is_new && conn_info.proxies().is_some_and(Proxies::uses_protocol);
        }
        let of_peer = parking.counts.enter(place.0, conn_info.limited_peer());
        (Box::new(Connection::new(stream, slot, place, Arc::new(conn_info), progress)), of_peer)
    }
}
