//! TLS before HTTP: a worker goes on with a handshake as far as what has come allows, then parks.

use std::sync::Arc;

use http::StatusCode;

use super::{Flow, Step, Turn, broken};
use crate::base::close_reason::CloseReason;
use crate::base::log::debug;
use crate::http::codec::{Refusal, encode};
use crate::net::acceptor::Deadline;
use crate::net::conn_info::ConnInfo;
use crate::net::connection::Cause;
use crate::net::tls::{Failure, Handshake};

impl Turn<'_> {
    /// Ends the turn unless the handshake is done.
    pub(super) fn shake_hands(&mut self) -> Flow {
        if self.cause == Cause::Expired {
            return Err(Step::Close(CloseReason::HandshakeTimeout));
        }
        match self.client.stream.shake_hands() {
            Ok(Handshake::Done) => {
                let ConnInfo { peer, phase, generation, descriptors, .. } = &*self.client.conn_info;
                let (tls, socket) = (self.client.stream.tls_info(), Some(self.client.stream.socket()));
                let descriptors = descriptors.clone();
                let conn_info =
                    ConnInfo { tls, socket, descriptors, ..ConnInfo::new(*peer, phase.clone(), *generation) };
                self.client.conn_info = Arc::new(conn_info);
                Ok(())
            }
            Ok(blocked) => {
                if blocked == Handshake::Writes {
                    self.common.parking.poll_write(self.client).map_err(|e| broken(&e))?;
                }
                let began = self.client.stream.began();
                // It is for the server to go on, then, and an end of the process waits for that.
                self.client.guard = began.map(|_| self.common.wait_group.guard());
                Err(self.park(began.map_or(Deadline::Idle(self.now), |began| {
                    Deadline::At(began + self.common.timeouts.head)
                })))
            }
            Err(Failure::Gone(e)) => {
                debug!("TLS handshake: the client is gone: {e}");
                Err(Step::Close(if self.client.stream.began().is_some() {
                    CloseReason::ClientCut
                } else {
                    CloseReason::ClientClosed
                }))
            }
            Err(Failure::Refused(e)) => {
                debug!("TLS handshake failed: {e}");
                Err(Step::Linger(CloseReason::HandshakeFailed))
            }
            Err(Failure::Text) => {
                debug!("a client of a TLS listener speaks plain text");
                Err(self.answer_in_the_clear())
            }
        }
    }

    /// People who forget the `s` of `https` are told, as by other servers; it is the same for all and
    /// says nothing of what is behind TLS.
    fn answer_in_the_clear(&mut self) -> Step {
        let refusal =
            Refusal { status: StatusCode::BAD_REQUEST, reason: "plain HTTP request sent to an HTTPS port" };
        let mut answer = Vec::new();
        encode::refusal(&mut answer, &refusal, false, self.worker.date.get(self.now));
        self.worker.counters.response(refusal.status.as_u16());
        let _ = self.client.stream.write_in_the_clear(&answer);
        Step::Linger(CloseReason::HandshakeFailed)
    }
}
