//! One connection's TLS, over a socket that never blocks. Bytes that were read and not used, and bytes that were encrypted
//! and not sent, are kept here and not in `rustls`: so their size is known, and an idle connection has none.
//!
//! This is rustls's unbuffered interface. The buffered one keeps 4 KiB for each idle connection, reads 4 KiB at a time, and
//! does not report whether part of a record has arrived: a client that sends a record byte by byte would count as idle, and
//! not as slow. Plaintext is reported as written only as far as the socket has taken its ciphertext. So the exchange parks,
//! counts and times a TLS connection as any other one, and knows of TLS only in the handshake.
//!
//! A session that moves continues on records of our own: see `carry.rs`.

mod carry;
mod rustls_engine;

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use rustls::server::UnbufferedServerConnection;
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion};

use super::buffers::{Pass, Plaintext, Say, read_once, recycle, spare};
use super::certificates::{ForClient, RequestedName};
use super::client_rules::ClientRules;
use super::records::{ClientIdentity, Records, TrafficSecrets};
use super::{Tls, TlsInfo};

/// Bytes of ciphertext in one read: slightly more than the longest record.
const READ_BYTES: usize = 17 << 10;
/// The longest handshake message, with all its records. `rustls` accepts none that is longer.
const MOST_BYTES: usize = 128 << 10;
/// How much plaintext is encrypted before the socket has taken the last ciphertext: two records.
const WRITE_BYTES: usize = 32 << 10;

/// The server's side of one connection.
pub(crate) struct TlsSession {
    tls: Tls,
    /// When the client's first byte came.
    began: Option<Instant>,
    handshake: HandshakeFacts,
    engine: Engine,
    /// Bytes that were read and are no whole record yet.
    incoming: Vec<u8>,
    /// Bytes that were decrypted and not read yet.
    plain: Vec<u8>,
    /// Encrypted bytes; the socket has taken the first `taken` of them.
    outgoing: Vec<u8>,
    taken: usize,
    /// How much of the plaintext in `outgoing` was not reported to its writer as written.
    unreported: usize,
    state: SessionState,
    /// How the client has ended its side.
    end: Option<SessionEnd>,
    /// The last read left room in the buffer: the socket had no more bytes.
    drained: bool,
}

/// What is known of the handshake.
#[derive(Clone, Copy, Default)]
struct HandshakeFacts {
    /// Which clients were accepted when it began.
    rules: Option<ClientRules>,
    /// It has resumed an earlier session.
    is_resumed: bool,
}

/// What encrypts and decrypts.
enum Engine {
    /// Nothing: the client's first byte has not arrived, or the session has left.
    None,
    Rustls(Box<RustlsEngine>),
    /// Our own record layer, after a handshake of `rustls`.
    Records(Box<(Records, ClientIdentity)>),
}

struct RustlsEngine {
    connection: UnbufferedServerConnection,
    asked: RequestedName,
    /// What a move takes; None if the session can't move.
    secrets: Option<Arc<TrafficSecrets>>,
    /// How many records of the client had no data. Its KeyUpdates are among them.
    without_data: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionState {
    Handshake,
    Open,
    /// close_notify is written; nothing follows it.
    Closed,
    /// After a TLS error, nothing more is decrypted.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionEnd {
    /// By close_notify.
    Orderly,
    /// By the end of its socket alone.
    Bare,
}

/// How far a handshake has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    Done,
    /// The client has to send something.
    Reads,
    /// The client has to take something.
    Writes,
}

/// Why a handshake failed.
#[derive(Debug)]
pub(crate) enum SessionError {
    /// The client sent text, such as HTTP without TLS.
    Text,
    /// The client has disconnected, or its socket failed.
    Gone(io::Error),
    /// The error. An alert was sent to the client.
    Refused(rustls::Error),
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSession")
            .field("state", &self.state)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl TlsSession {
    pub(crate) fn new(tls: Tls) -> TlsSession {
        TlsSession {
            tls,
            began: None,
            handshake: HandshakeFacts::default(),
            engine: Engine::None,
            incoming: Vec::new(),
            plain: Vec::new(),
            outgoing: Vec::new(),
            taken: 0,
            unreported: 0,
            state: SessionState::Handshake,
            end: None,
            drained: false,
        }
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.state == SessionState::Handshake
    }

    /// When the client's first byte came.
    pub(crate) fn began(&self) -> Option<Instant> {
        self.began
    }

    #[cfg(test)]
    pub(crate) fn is_on_records(&self) -> bool {
        matches!(self.engine, Engine::Records(_))
    }

    /// Whether there is something to read without the socket.
    pub(crate) fn has_more(&self) -> bool {
        !self.plain.is_empty() || self.end.is_some() || self.state == SessionState::Broken
    }

    /// How many bytes were decrypted and not read.
    pub(crate) fn unread(&self) -> usize {
        self.plain.len()
    }

    /// Whether part of a record has arrived.
    pub(crate) fn holds_part(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// How many bytes it keeps. Shrinks their buffers to that size.
    pub(crate) fn hold(&mut self) -> usize {
        for kept in [&mut self.incoming, &mut self.plain, &mut self.outgoing] {
            kept.shrink_to_fit();
        }
        let fragment = match &self.engine {
            Engine::Records(engine) => engine.0.held(),
            _ => 0,
        };
        [self.incoming.len(), self.plain.len(), self.outgoing.len(), fragment].iter().sum()
    }

    /// Whether an event is certain to report the next readable bytes.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained && !self.has_more()
    }

    /// Continues the handshake as far as the received bytes allow. It reads until a read leaves room: if the end of the client
    /// may have come with its bytes, the caller has to call again.
    pub(crate) fn shake_hands(
        &mut self,
        socket: &mut (impl Read + Write),
    ) -> Result<Handshake, SessionError> {
        self.drained = false;
        loop {
            if !self.flush(socket).map_err(SessionError::Gone)? {
                return Ok(Handshake::Writes);
            }
            if self.state != SessionState::Handshake {
                self.carry_if_tested(socket);
                return Ok(Handshake::Done);
            }
            if self.drained {
                return Ok(Handshake::Reads);
            }
            match self.fetch(socket) {
                Ok(true) => {}
                Ok(false) => return Err(SessionError::Gone(ErrorKind::UnexpectedEof.into())),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Handshake::Reads),
                Err(e) => return Err(SessionError::Gone(e)),
            }
            // No TLS record begins with a letter.
            if self.began.is_none() && self.incoming.first().is_some_and(u8::is_ascii_uppercase) {
                self.state = SessionState::Broken;
                return Err(SessionError::Text);
            }
            if let Err(e) = self.begin().and_then(|()| self.process(&mut [], &Say::Nothing).map(|_| ())) {
                let _ = self.flush(socket);
                return Err(SessionError::Refused(e));
            }
        }
    }

    /// The negotiated parameters, once the handshake is done.
    pub(crate) fn info(&self) -> Option<TlsInfo> {
        let (version, cipher_suite, server_name, client_certificates) = match &self.engine {
            Engine::None => return None,
            Engine::Rustls(engine) => {
                let RustlsEngine { connection, asked, .. } = &**engine;
                let version = match connection.protocol_version()? {
                    ProtocolVersion::TLSv1_3 => "TLSv1.3",
                    _ => "TLSv1.2",
                };
                let certificates = connection.peer_certificates().unwrap_or_default();
                let certificates = certificates.iter().map(|der| der.to_vec()).collect();
                let suite = iana_name(connection.negotiated_cipher_suite()?.suite());
                (version, suite, asked.get().cloned(), certificates)
            }
            Engine::Records(engine) => {
                let (records, client) = &**engine;
                let suite = records.suite();
                let certificates = client.certificates.clone();
                (suite.version().name(), iana_name(suite.id()), client.server_name.clone(), certificates)
            }
        };
        Some(TlsInfo { version, cipher_suite, server_name, client_certificates })
    }

    /// Whether the handshake has resumed an earlier session, once it is done.
    pub(crate) fn is_resumed(&self) -> bool {
        self.handshake.is_resumed
    }

    /// Bytes read; 0 is the end that the client announced, and `UnexpectedEof` one that it did not.
    pub(crate) fn read(&mut self, socket: &mut (impl Read + Write), buf: &mut [u8]) -> io::Result<usize> {
        let mut n = self.plain.as_slice().read(buf)?;
        self.plain.drain(..n);
        if self.plain.is_empty() {
            self.plain = Vec::new();
        }
        self.drained = false;
        while n < buf.len() && self.end.is_none() && self.state != SessionState::Broken {
            // More may have arrived since, beyond the room of the buffer: the next call reads it.
            if n > 0 && self.drained {
                break;
            }
            match self.fetch(socket) {
                Ok(true) => {}
                Ok(false) => self.end = Some(SessionEnd::Bare),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.drained = true;
                    break;
                }
                Err(e) if n == 0 => return Err(e),
                Err(_) => break,
            }
            match self.process(buf.get_mut(n..).unwrap_or_default(), &Say::Nothing) {
                Ok(filled) => n = n.saturating_add(filled),
                Err(e) if n == 0 => {
                    let _ = self.flush(socket);
                    return Err(io::Error::new(ErrorKind::InvalidData, e));
                }
                // The next call reports it.
                Err(_) => break,
            }
        }
        // Answers to key updates, which `rustls` keeps for the next write. Bytes that the socket does not take now are sent
        // before that.
        let _ = self.flush(socket);
        match (n, self.end, self.state) {
            (1.., ..) => Ok(n),
            (0, Some(SessionEnd::Orderly), _) => Ok(0),
            (0, Some(SessionEnd::Bare), _) => Err(ErrorKind::UnexpectedEof.into()),
            (0, None, SessionState::Broken) => Err(io::Error::new(ErrorKind::InvalidData, "broken TLS")),
            (0, None, _) if buf.is_empty() => Ok(0),
            (0, None, _) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// How many bytes of `bufs` were sent: encrypted, and the socket has taken the ciphertext. Bytes that are only encrypted are
    /// not reported yet, and the writer has to write them again, as it must after `WouldBlock`.
    pub(crate) fn write(&mut self, socket: &mut (impl Read + Write), bufs: &[&[u8]]) -> io::Result<usize> {
        if self.state != SessionState::Open {
            return Err(ErrorKind::NotConnected.into());
        }
        if self.unreported == 0 {
            if !self.flush(socket)? {
                return Err(ErrorKind::WouldBlock.into());
            }
            let mut filled = bufs.iter().filter(|buf| !buf.is_empty());
            let mut gathered = Vec::new();
            let plain = match (filled.next(), filled.next()) {
                (None, _) => return Ok(0),
                (Some(only), None) => only.get(..WRITE_BYTES).unwrap_or(only),
                // A head and the start of its body are one record.
                _ => {
                    gathered.reserve_exact(WRITE_BYTES);
                    for buf in bufs {
                        let room = WRITE_BYTES.saturating_sub(gathered.len());
                        gathered.extend_from_slice(buf.get(..room).unwrap_or(buf));
                    }
                    &gathered
                }
            };
            self.process(&mut [], &Say::Data(plain)).map_err(io::Error::other)?;
            self.unreported = plain.len();
        }
        self.flush(socket)?;
        // A byte of plaintext is at least one byte of ciphertext.
        let left = self.unreported.min(self.outgoing.len().saturating_sub(self.taken));
        let reported = self.unreported.saturating_sub(left);
        self.unreported = left;
        if reported == 0 && left > 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(reported) }
    }

    /// Whether there are bytes that the socket did not take.
    pub(crate) fn owes(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Sends these, as far as the socket takes them.
    pub(crate) fn send_owed(&mut self, socket: &mut impl Write) {
        let _ = self.flush(socket);
    }

    /// Writes close_notify, once. Returns whether the socket has taken all bytes.
    pub(crate) fn say_end(&mut self, socket: &mut (impl Read + Write)) -> io::Result<bool> {
        if self.state == SessionState::Open {
            self.process(&mut [], &Say::End).map_err(io::Error::other)?;
            self.state = SessionState::Closed;
        }
        self.flush(socket)
    }

    fn begin(&mut self) -> Result<(), rustls::Error> {
        if self.began.is_none() {
            let none = || rustls::Error::General("no certificate is loaded".into());
            let loaded = self.tls.current().ok_or_else(none)?;
            self.handshake.rules = Some(loaded.rules);
            let ForClient { config, asked, secrets } = loaded.for_client(self.tls.is_carried());
            let connection = UnbufferedServerConnection::new(config)?;
            self.engine =
                Engine::Rustls(Box::new(RustlsEngine { connection, asked, secrets, without_data: 0 }));
            self.began = Some(Instant::now());
        }
        Ok(())
    }

    /// Reads once; false at the socket's end.
    fn fetch(&mut self, socket: &mut impl Read) -> io::Result<bool> {
        if self.incoming.len() > MOST_BYTES {
            return Err(io::Error::new(ErrorKind::InvalidData, "a TLS message that is too long"));
        }
        let read = read_once(socket, READ_BYTES, &mut self.incoming);
        self.drained = *read.as_ref().unwrap_or(&0) < READ_BYTES;
        read.map(|n| n > 0)
    }

    /// Decrypts the whole records that have arrived, into `buf`; what does not fit is kept. Then encrypts what `say` holds, if
    /// the handshake is done.
    fn process(&mut self, buf: &mut [u8], say: &Say<'_>) -> Result<usize, rustls::Error> {
        if let (Engine::Records(_), Say::Data(_), true) = (&self.engine, say, self.outgoing.is_empty()) {
            self.outgoing = spare();
        }
        let mut pass = Pass {
            incoming: &mut self.incoming,
            used: 0,
            plain: Plaintext::new(buf, &mut self.plain),
            outgoing: &mut self.outgoing,
            open: false,
            ended: false,
            without_data: 0,
        };
        let outcome = match &mut self.engine {
            Engine::None => return Ok(0),
            Engine::Rustls(engine) => {
                let outcome = rustls_engine::process(&mut engine.connection, &mut pass, say);
                engine.without_data = engine.without_data.saturating_add(pass.without_data);
                outcome
            }
            Engine::Records(engine) => engine.0.process(&mut pass, say),
        };
        let Pass { used, open, ended, plain: Plaintext { filled, .. }, .. } = pass;
        if ended {
            self.end = Some(SessionEnd::Orderly);
        }
        if outcome.is_err() {
            self.state = SessionState::Broken;
        } else if open && self.state == SessionState::Handshake {
            self.state = SessionState::Open;
            self.handshake.is_resumed = matches!(&self.engine, Engine::Rustls(engine)
                if engine.connection.handshake_kind() == Some(HandshakeKind::Resumed));
        }
        self.drop_incoming(used);
        outcome.map(|()| filled)
    }

    /// Drops so many bytes from the start of `incoming`, and its memory if nothing is left.
    fn drop_incoming(&mut self, used: usize) {
        if used >= self.incoming.len() {
            self.incoming = Vec::new();
        } else {
            self.incoming.drain(..used);
        }
    }

    /// Writes encrypted bytes. Returns whether the socket has taken all of them.
    fn flush(&mut self, socket: &mut impl Write) -> io::Result<bool> {
        while let Some(rest) = self.outgoing.get(self.taken..).filter(|rest| !rest.is_empty()) {
            match socket.write(rest) {
                Ok(n) => self.taken = self.taken.saturating_add(n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        if self.outgoing.capacity() > 0 {
            recycle(std::mem::take(&mut self.outgoing));
        }
        self.taken = 0;
        Ok(true)
    }
}

/// The library's own name distinguishes suites that IANA does not.
fn iana_name(suite: CipherSuite) -> String {
    format!("{suite:?}").replacen("TLS13_", "TLS_", 1)
}

#[cfg(test)]
mod tests;
/// The same tests over our own records.
#[cfg(test)]
#[allow(clippy::duplicate_mod, reason = "each test runs over both")]
#[path = "tests.rs"]
mod tests_when_carried;
