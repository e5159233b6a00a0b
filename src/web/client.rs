//! Whom a request is from: the connection's peer, or the client that a trusted proxy names.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::Request;
use crate::net::conn_info::ConnInfo;
use crate::web::fields::FieldSource;
#[cfg(feature = "proxy")]
use crate::web::forwarded;

/// Whom a request is from, and through which proxies: see [`RequestExt::client`](crate::RequestExt::client).
///
/// It displays as its address, or as `-` if that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub(super) address: Address,
    pub(super) via: Via,
    pub(super) is_https: bool,
    /// The host that the client has asked for, if a proxy says so.
    pub(in crate::web) forwarded_host: Option<Box<str>>,
}

/// The proxies that have passed a request on, in that order: mostly none or one, for which nothing is allocated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Via {
    #[default]
    None,
    One(Hop),
    #[cfg_attr(not(feature = "proxy"), allow(dead_code, reason = "nothing is passed on by trusted proxies"))]
    Several(Vec<Hop>),
}

impl Via {
    fn hops(&self) -> &[Hop] {
        match self {
            Via::None => &[],
            Via::One(hop) => std::slice::from_ref(hop),
            Via::Several(hops) => hops,
        }
    }

    #[cfg(feature = "proxy")]
    pub(super) fn push(&mut self, hop: Hop) {
        match self {
            Via::None => *self = Via::One(hop),
            Via::One(first) => *self = Via::Several(vec![*first, hop]),
            Via::Several(hops) => hops.push(hop),
        }
    }

    #[cfg(feature = "proxy")]
    pub(super) fn reverse(&mut self) {
        if let Via::Several(hops) = self {
            hops.reverse();
        }
    }
}

/// A client's address, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) ip: Option<IpAddr>,
    pub(super) port: Option<u16>,
}

/// A proxy that has passed a request on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hop {
    /// Its address.
    Ip(IpAddr),
    /// It has connected to a unix socket.
    Unix,
}

impl Client {
    /// The client's address. None on a unix socket, if no proxy says it, and where a trusted proxy says that it does not know
    /// it, or says something malformed: so treat None as a stranger.
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.ip
    }

    /// The client's address with its port, which many proxies do not say.
    pub fn addr(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.address.ip?, self.address.port?))
    }

    /// The proxies that have passed the request on, the one that the client has connected to first. Empty if none is trusted.
    /// Each one has been named by the next one, and the last one has the connection.
    pub fn via(&self) -> &[Hop] {
        self.via.hops()
    }

    /// Whether the client speaks TLS, to this server or to a trusted proxy that says so.
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// `https` or `http`, as in links to this service.
    pub fn scheme(&self) -> &'static str {
        if self.is_https { "https" } else { "http" }
    }

    pub(super) fn forwarded_host(&self) -> Option<&str> {
        self.forwarded_host.as_deref()
    }

    pub(super) fn of(request: &Request) -> Client {
        Client::named_by(request.body().conn_info(), FieldSource::Map(request.headers()))
    }

    /// The client of a request with these fields.
    #[cfg_attr(not(feature = "proxy"), allow(unused_variables, reason = "no proxy is trusted"))]
    pub(super) fn named_by(conn_info: Option<&Arc<ConnInfo>>, fields: FieldSource<'_>) -> Client {
        let Some(conn_info) = conn_info else { return Client::unknown() };
        #[cfg_attr(not(feature = "proxy"), allow(unused_mut, reason = "a proxy may say more"))]
        let mut client = Client::of_connection(conn_info);
        #[cfg(feature = "proxy")]
        if let Some(proxies) = conn_info.proxies().filter(|_| !conn_info.is_unnamed()) {
            forwarded::apply(&mut client, proxies, fields);
        }
        client
    }

    /// Of a request that no connection has brought.
    fn unknown() -> Client {
        Client { address: Address::default(), via: Via::None, is_https: false, forwarded_host: None }
    }

    fn of_connection(conn_info: &ConnInfo) -> Client {
        let peer = conn_info.peer;
        Client {
            address: Address { ip: peer.map(|peer| peer.ip()), port: peer.map(|peer| peer.port()) },
            via: conn_info.proxy.map_or(Via::None, |proxy| {
                Via::One(Hop::of(proxy.address.map(|address| address.ip().to_canonical())))
            }),
            is_https: conn_info.is_encrypted(),
            forwarded_host: None,
        }
    }
}

impl Hop {
    /// `address` is canonical.
    pub(super) fn of(address: Option<IpAddr>) -> Hop {
        address.map_or(Hop::Unix, Hop::Ip)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.addr(), self.address.ip) {
            (Some(address), _) => address.fmt(f),
            (None, Some(ip)) => ip.fmt(f),
            (None, None) => f.write_str("-"),
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hop::Ip(ip) => ip.fmt(f),
            Hop::Unix => f.write_str("unix"),
        }
    }
}
