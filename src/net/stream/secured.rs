//! A socket and the TLS on it, together.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::{Released, Stream};
use crate::base::stays::Stays;
use crate::base::sync::lock;
use crate::net::tls::{Carried, ClientRules, Handshake, SessionError, Tls, TlsInfo, TlsSession};

/// A socket with TLS on it.
#[derive(Debug)]
pub(crate) struct Secured {
    pub(super) socket: Stream,
    session: Mutex<TlsSession>,
}

impl Secured {
    pub(super) fn lock(&self) -> MutexGuard<'_, TlsSession> {
        lock(&self.session)
    }

    pub(super) fn release(&self) -> Result<Released, Stays> {
        let mut session = self.lock();
        if session.is_new() {
            return Ok(Released::NewTls);
        }
        let rules = session.rules().ok_or(Stays::NotReady)?;
        Ok(Released::Tls(rules, Box::new(session.release(&mut Raw(&self.socket))?)))
    }
}

impl Stream {
    /// A stream on which TLS starts with the client's first byte.
    pub(crate) fn secured(self, tls: &Tls) -> Stream {
        self.with(TlsSession::new(tls.clone()))
    }

    /// A stream whose TLS another process had, by whose rules it accepted the client. None if its keys may encrypt nothing
    /// more.
    pub(crate) fn continued(self, tls: &Tls, rules: ClientRules, carried: Carried) -> Option<Stream> {
        Some(self.with(TlsSession::resume(tls.clone(), Some(rules), carried)?))
    }

    fn with(self, session: TlsSession) -> Stream {
        Stream::Tls(Arc::new(Secured { socket: self, session: Mutex::new(session) }))
    }

    /// Whether the handshake has to be completed before anything can be read or written.
    pub(crate) fn is_handshaking(&self) -> bool {
        matches!(self, Stream::Tls(s) if s.lock().is_handshaking())
    }

    /// Continues the handshake as far as possible.
    pub(crate) fn shake_hands(&self) -> Result<Handshake, SessionError> {
        match self {
            Stream::Tls(s) => s.lock().shake_hands(&mut Raw(&s.socket)),
            _ => Ok(Handshake::Done),
        }
    }

    /// When the handshake started, if it has.
    pub(crate) fn began(&self) -> Option<Instant> {
        match self {
            Stream::Tls(s) => s.lock().began(),
            _ => None,
        }
    }

    /// Whether the handshake has resumed an earlier session.
    pub(crate) fn is_resumed(&self) -> bool {
        matches!(self, Stream::Tls(s) if s.lock().is_resumed())
    }

    /// The result of the handshake.
    pub(crate) fn tls_info(&self) -> Option<TlsInfo> {
        match self {
            Stream::Tls(s) => s.lock().info(),
            _ => None,
        }
    }

    /// Writes without TLS, for a client that does not use it.
    pub(crate) fn write_in_the_clear(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tls(s) => s.socket.write(bytes),
            _ => self.write(bytes),
        }
    }
}

/// The socket below TLS.
pub(super) struct Raw<'a>(pub(super) &'a Stream);

impl Read for Raw<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The socket below TLS, for the last bytes before our FIN.
pub(super) struct RawLast<'a>(pub(super) &'a Stream);

impl Read for RawLast<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for RawLast<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write_last(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
