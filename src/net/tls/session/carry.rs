//! How a session leaves its process, and continues in another one.
//!
//! It leaves `rustls` when it leaves the process, and not before. There is no way back into `rustls`: a session that is taken
//! back continues on our own records. Its keys have one owner at any time: here the engine, then the [`Carried`], then the
//! engine that is made of it. If its owner is unclear, it must be dropped: a connection may be lost, and no nonce may
//! be used twice.

use std::io::{Read, Write};
use std::mem;
use std::time::Instant;

use zeroize::Zeroizing;

use super::{Engine, HandshakeFacts, RustlsEngine, SessionState, TlsSession, rustls_engine};
use crate::base::stays::Stays;
use crate::net::tls::buffers::{Pass, Plaintext};
use crate::net::tls::records::{Carried, ClientIdentity, GENERATIONS_MAX, extract};
use crate::net::tls::{ClientRules, Moves, Tls};

impl TlsSession {
    /// Whether the client has sent nothing yet: then there is nothing to release.
    pub(crate) fn is_new(&self) -> bool {
        matches!(self.engine, Engine::None)
            && self.state == SessionState::Handshake
            && self.incoming.is_empty()
    }

    /// Which clients were accepted at its handshake.
    pub(crate) fn rules(&self) -> Option<ClientRules> {
        self.handshake.rules
    }

    /// Why it can't leave now, without an attempt. After a `release` that has failed there is a reason until the client
    /// sends something.
    pub(crate) fn stays(&self) -> Option<Stays> {
        if !self.tls.is_carried() {
            return Some(Stays::SwitchedOff);
        }
        if self.is_new() {
            return None;
        }
        let is_fragment = match &self.engine {
            Engine::None => false,
            Engine::Rustls(engine) if engine.secrets.is_none() => return Some(Stays::SwitchedOff),
            Engine::Rustls(engine) if engine.without_data > GENERATIONS_MAX => {
                return Some(Stays::KeyUpdates);
            }
            Engine::Rustls(_) => self.holds_whole_record(),
            Engine::Records(engine) => engine.0.held() > 0,
        };
        match (self.state, self.end) {
            (SessionState::Handshake, None) => Some(Stays::NotReady),
            (SessionState::Open, None) if self.handshake.rules != self.tls.client_rules() => {
                Some(Stays::RulesChanged)
            }
            (SessionState::Open, None) if self.is_worn() => Some(Stays::Worn),
            (SessionState::Open, None) if self.unreported > 0 || !self.outgoing.is_empty() => {
                Some(Stays::Unsent)
            }
            (SessionState::Open, None) if is_fragment => Some(Stays::Fragment),
            (SessionState::Open, None) => (!self.fits()).then_some(Stays::TooLong),
            (SessionState::Broken, _) => Some(Stays::Lost),
            _ => Some(Stays::Ended),
        }
    }

    fn fits(&self) -> bool {
        let (incoming, plain) = (&self.incoming, &self.plain);
        match &self.engine {
            Engine::None => true,
            Engine::Rustls(engine) => Carried::fits(&engine.client(), incoming, plain),
            Engine::Records(engine) => Carried::fits(&engine.1, incoming, plain),
        }
    }

    /// Takes the session out, if it is idle as far as TLS is concerned. Then nothing can be read or written here, unless
    /// it is taken back.
    pub(crate) fn release(&mut self, socket: &mut impl Write) -> Result<Carried, Stays> {
        self.settle(socket)?;
        self.leave_rustls()?;
        let Engine::Records(engine) = &self.engine else { return Err(Stays::NotReady) };
        let (records, client) = &**engine;
        if !records.is_at_rest() {
            return Err(Stays::Fragment);
        }
        if records.is_worn() {
            return Err(Stays::Worn);
        }
        if !Carried::fits(client, &self.incoming, &self.plain) {
            return Err(Stays::TooLong);
        }
        let Engine::Records(engine) = mem::replace(&mut self.engine, Engine::None) else {
            return Err(Stays::NotReady);
        };
        let (records, client) = *engine;
        self.state = SessionState::Broken;
        let incoming = Zeroizing::new(mem::take(&mut self.incoming));
        let plain = Zeroizing::new(mem::take(&mut self.plain));
        let is_resumed = self.handshake.is_resumed;
        Ok(Carried { parts: records.into_parts(), client, is_resumed, incoming, plain })
    }

    /// Continues a session that was accepted by these rules. None if its keys may encrypt nothing more.
    pub(crate) fn resume(tls: Tls, rules: Option<ClientRules>, carried: Carried) -> Option<TlsSession> {
        let handshake = HandshakeFacts { rules, is_resumed: carried.is_resumed };
        let (records, client, incoming, plain) = carried.into_records()?;
        let mut session = TlsSession { handshake, ..TlsSession::new(tls) };
        session.began = Some(Instant::now());
        session.engine = Engine::Records(Box::new((records, client)));
        session.state = SessionState::Open;
        (session.incoming, session.plain) = (incoming, plain);
        Some(session)
    }

    /// Whether the close should be announced, because its keys may not encrypt much more.
    pub(crate) fn is_worn(&self) -> bool {
        matches!(&self.engine, Engine::Records(engine) if engine.0.is_worn())
    }

    #[cfg(test)]
    pub(crate) fn set_records_max(&mut self, records_max: u64) {
        let Engine::Records(engine) = &mut self.engine else { panic!("it is on rustls") };
        engine.0.set_records_max(records_max);
    }

    /// Sends what is owed.
    fn settle(&mut self, socket: &mut impl Write) -> Result<(), Stays> {
        match (self.state, self.end) {
            (SessionState::Open, None) => {}
            (SessionState::Handshake, _) => return Err(Stays::NotReady),
            _ => return Err(Stays::Ended),
        }
        if self.unreported > 0 || !self.flush(socket).unwrap_or(false) {
            return Err(Stays::Unsent);
        }
        let is_settled = match &mut self.engine {
            Engine::None => true,
            Engine::Records(engine) => engine.0.answer_key_update(&mut self.outgoing).is_ok(),
            Engine::Rustls(engine) => {
                let mut pass = Pass {
                    incoming: &mut self.incoming,
                    used: 0,
                    plain: Plaintext::new(&mut [], &mut self.plain),
                    outgoing: &mut self.outgoing,
                    open: true,
                    ended: false,
                    without_data: 0,
                };
                rustls_engine::settle(&mut engine.connection, &mut pass)
            }
        };
        if is_settled && self.flush(socket).unwrap_or(false) { Ok(()) } else { Err(Stays::Unsent) }
    }

    /// From `rustls` to our own records, in this process.
    fn leave_rustls(&mut self) -> Result<(), Stays> {
        let Engine::Rustls(engine) = &self.engine else { return Ok(()) };
        let client = engine.client();
        if !Carried::fits(&client, &self.incoming, &self.plain) {
            return Err(Stays::TooLong);
        }
        // What `rustls` has decrypted of a message it does not give back.
        if self.holds_whole_record() {
            return Err(Stays::Fragment);
        }
        if engine.secrets.is_none() {
            return Err(Stays::SwitchedOff);
        }
        if engine.without_data > GENERATIONS_MAX {
            return Err(Stays::KeyUpdates);
        }
        let Engine::Rustls(engine) = mem::replace(&mut self.engine, Engine::None) else {
            return Err(Stays::NotReady);
        };
        let RustlsEngine { connection, secrets, .. } = *engine;
        match secrets.and_then(|secrets| extract(connection, &secrets)) {
            Some(records) => {
                self.engine = Engine::Records(Box::new((records, client)));
                Ok(())
            }
            None => {
                self.state = SessionState::Broken;
                Err(Stays::Lost)
            }
        }
    }

    /// Whether a whole record is kept after each whole one was processed: it has part of a handshake message.
    fn holds_whole_record(&self) -> bool {
        let Some(([.., high, low], payload)) = self.incoming.split_first_chunk::<5>() else { return false };
        payload.len() >= usize::from(u16::from_be_bytes([*high, *low]))
    }

    /// Continues the session here again, after its `release`.
    pub(crate) fn take_back(&mut self, carried: Carried) {
        let Some(session) = TlsSession::resume(self.tls.clone(), self.rules(), carried) else { return };
        let (began, drained) = (self.began, self.drained);
        *self = TlsSession { began, drained, ..session };
    }

    /// Carries the session as a handover does, but to itself, if the test switch is on.
    pub(super) fn carry_if_tested(&mut self, socket: &mut (impl Read + Write)) {
        if self.tls.moves != Moves::AtOnce || matches!(self.engine, Engine::Records(_)) {
            return;
        }
        let Ok(carried) = self.release(socket) else { return };
        let bytes = carried.encode();
        drop(carried);
        if let Some(carried) = Carried::decode(&bytes) {
            self.take_back(carried);
        }
    }
}

impl RustlsEngine {
    fn client(&self) -> ClientIdentity {
        let certificates = self.connection.peer_certificates().unwrap_or_default();
        ClientIdentity {
            server_name: self.asked.get().cloned(),
            alpn: self.connection.alpn_protocol().map(Box::from),
            certificates: certificates.iter().map(|der| der.to_vec()).collect(),
        }
    }
}
