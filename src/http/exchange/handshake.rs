//! TLS before HTTP: a worker continues a handshake as far as the bytes that have arrived allow, then parks.

use std::ops::ControlFlow;
use std::sync::Arc;

use http::StatusCode;

use super::refuse::broken;
use super::{Disposition, Exchange, Flow};
use crate::base::close_reason::CloseReason;
use crate::base::log::debug;
use crate::base::phase::Phase;
use crate::http::codec::{Refusal, encode};
use crate::net::acceptor::Deadline;
use crate::net::conn_info::ConnInfo;
use crate::net::connection::Cause;
use crate::net::tls::{Handshake, SessionError};

impl Exchange<'_> {
    /// Ends the turn unless the handshake is done.
    pub(super) fn shake_hands(&mut self, cause: Cause) -> Flow {
        if cause == Cause::Expired {
            if self.common.phase.get() == Phase::HandedOver {
                self.common.parking.outbox.note_kept(self.client, &self.worker.counters);
            }
            return ControlFlow::Break(Disposition::Close(CloseReason::HandshakeTimeout));
        }
        let mut shaken = self.client.stream.shake_hands();
        if self.client.poll.may_have_ended && matches!(shaken, Ok(Handshake::Reads)) {
            // An end that was announced with the bytes is not announced again.
            shaken = self.client.stream.shake_hands();
        }
        match shaken {
            Ok(Handshake::Done) => {
                let (stream, conn_info) = (&self.client.stream, &self.client.conn_info);
                self.worker.counters.handshake(stream.is_resumed());
                let (proxy, listener) = (conn_info.proxy, conn_info.listener.clone());
                let plain = conn_info.of_connection(conn_info.peer, proxy, listener, stream.socket());
                self.client.conn_info = Arc::new(ConnInfo { tls: stream.tls_info(), ..plain });
                ControlFlow::Continue(())
            }
            Ok(blocked) => {
                if blocked == Handshake::Writes {
                    if let Err(e) = self.common.parking.poll_write(self.client) {
                        return ControlFlow::Break(broken(&e));
                    }
                }
                let since = self.client.stream.began();
                // A handshake that has started is in flight: the end of the process waits for it.
                self.client.guard = since.map(|_| self.common.wait_group.guard());
                let deadline = since.map_or(Deadline::Idle(self.turn.now), |since| {
                    Deadline::At(since + self.common.timeouts.head)
                });
                ControlFlow::Break(self.park(deadline))
            }
            Err(SessionError::Gone(e)) => {
                debug!("TLS handshake: the client is gone: {e}");
                ControlFlow::Break(Disposition::Close(match self.client.stream.began() {
                    Some(_) => CloseReason::ClientCut,
                    None => CloseReason::ClientClosed,
                }))
            }
            Err(SessionError::Refused(e)) => {
                debug!("TLS handshake failed: {e}");
                ControlFlow::Break(Disposition::Linger(CloseReason::HandshakeFailed))
            }
            Err(SessionError::Text) => {
                debug!("a client of a TLS listener speaks plain text");
                ControlFlow::Break(self.answer_in_plain_text())
            }
        }
    }

    /// A plain HTTP request gets an explanation, because people forget the `s` of `https`; other servers do the same. The text
    /// is the same for all requests and reveals nothing about the service.
    fn answer_in_plain_text(&mut self) -> Disposition {
        let refusal =
            Refusal { status: StatusCode::BAD_REQUEST, reason: "plain HTTP request sent to an HTTPS port" };
        let mut answer = Vec::new();
        encode::refusal(&mut answer, &refusal, self.worker.date.get(self.turn.now));
        self.worker.counters.response(refusal.status.as_u16());
        let _ = self.client.stream.write_in_the_clear(&answer);
        Disposition::Linger(CloseReason::HandshakeFailed)
    }
}
