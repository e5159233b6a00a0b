//! The PROXY header of a connection, before TLS and HTTP: a worker looks whether it has arrived as a whole, and parks the
//! connection otherwise.
//!
//! The header stays in the socket until then, and is read to its last byte and no further: TLS reads the socket itself.
//! So a client that sends a part of it holds no memory of the server.

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use super::progress::ExchangeStage;
use super::refuse::broken;
use super::{Disposition, Exchange, Flow};
use crate::base::close_reason::CloseReason;
use crate::base::log::{debug, warn};
use crate::http::codec::{Scan, encode};
use crate::net::acceptor::Deadline;
use crate::net::conn_info::ProxyHop;
use crate::net::connection::Cause;
use crate::net::proxy_header::{self, HeaderParse, MOST_BYTES, NamedClient};

impl Exchange<'_> {
    /// Ends the turn unless the header has been read.
    pub(super) fn read_proxy_header(&mut self, cause: Cause) -> Flow {
        let mut bytes = [0; MOST_BYTES];
        let arrived = match self.client.stream.peek_at(&mut bytes) {
            Ok(0) => return ControlFlow::Break(Disposition::Close(CloseReason::ClientClosed)),
            Ok(n) => bytes.get(..n).unwrap_or_default(),
            Err(e) if e.kind() == ErrorKind::WouldBlock => &[],
            Err(e) => return ControlFlow::Break(broken(&e)),
        };
        match proxy_header::parse(arrived) {
            Ok(HeaderParse::Whole(len, named)) => {
                // No more than what has just been seen.
                let header = bytes.get_mut(..len).unwrap_or_default();
                match self.client.stream.read_raw(header) {
                    Ok(n) if n == len => self.take_client_of_proxy(named),
                    Ok(_) => self.refuse_proxy_header("a PROXY header that can't be read"),
                    Err(e) => ControlFlow::Break(broken(&e)),
                }
            }
            Ok(HeaderParse::Partial) => self.wait_for_proxy_header(!arrived.is_empty(), cause),
            Err(why) => self.refuse_proxy_header(why),
        }
    }

    fn wait_for_proxy_header(&mut self, has_begun: bool, cause: Cause) -> Flow {
        let since = match &self.client.progress.stage {
            ExchangeStage::Head { since, .. } if has_begun => since.or(Some(self.turn.now)),
            _ => None,
        };
        let until = since.map(|since| since + self.common.timeouts.head);
        // Bytes that are left in the socket look like news to the acceptor, so the time is checked here too.
        if cause == Cause::Expired || until.is_some_and(|until| until <= Instant::now()) {
            return self.refuse_proxy_header("a PROXY header that took too long");
        }
        if self.client.poll.may_have_ended && self.client.conn_info.is_client_gone() {
            return ControlFlow::Break(Disposition::Close(CloseReason::ClientCut));
        }
        self.client.progress.stage = ExchangeStage::Head { scan: Scan::default(), since };
        // As for a handshake: one that has started is in flight.
        self.client.guard = since.map(|_| self.common.wait_group.guard());
        ControlFlow::Break(self.park(until.map_or(Deadline::Idle(self.turn.now), Deadline::At)))
    }

    /// From here on the connection is that of the client.
    fn take_client_of_proxy(&mut self, named: NamedClient) -> Flow {
        let proxy = &self.client.conn_info;
        let (peer, hop) = match named {
            NamedClient::Itself => (proxy.peer, None),
            NamedClient::Client { address, is_encrypted } => {
                (address, Some(ProxyHop { address: proxy.peer, is_encrypted }))
            }
        };
        let (listener, socket) = (proxy.listener.clone(), self.client.stream.socket());
        let conn_info = Arc::new(proxy.of_connection(peer, hop, listener, socket));
        self.client.progress.stage = ExchangeStage::default();
        self.client.guard = None;
        // The proxy's own address was not counted.
        let of_peer = self.common.parking.count_peer(self.client.listener, conn_info.limited_peer());
        self.client.conn_info = conn_info;
        if self.common.limits.connections_per_peer.is_some_and(|most| of_peer > most) {
            debug!("a peer is at its connection limit");
            let mut answer = Vec::new();
            encode::busy(&mut answer, self.worker.date.get(self.turn.now));
            self.worker.counters.response(503);
            let _ = self.client.stream.write(&answer);
            return ControlFlow::Break(Disposition::Linger(CloseReason::PeerLimit));
        }
        ControlFlow::Continue(())
    }

    /// Nothing is answered: neither a proxy nor the client behind it would know what to make of it.
    fn refuse_proxy_header(&self, why: &str) -> Flow {
        let conn_info = &self.client.conn_info;
        let listener = conn_info.listener.as_ref().map_or("", |listener| &listener.name);
        match conn_info.peer {
            Some(peer) => warn!("{listener}: a connection of the proxy {peer} is closed: {why}"),
            None => warn!("{listener}: a connection of a proxy is closed: {why}"),
        }
        ControlFlow::Break(Disposition::Close(CloseReason::ProxyHeader))
    }
}
