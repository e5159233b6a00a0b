//! TLS: the certificates of a listener, and what a handler can ask about a connection.

mod buffers;
mod certificates;
mod client_rules;
mod clock;
mod pem;
mod reasons;
mod records;
mod session;
#[cfg(test)]
pub(crate) mod testing;
mod tickets;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use crate::base::error::Error;

use certificates::{ClientAuth, Loaded, Spec};
pub(crate) use client_rules::ClientRules;
pub(crate) use records::Carried;
#[cfg(any(test, fuzzing))]
pub(crate) use records::checks;
pub(crate) use session::{Handshake, SessionError, TlsSession};
use tickets::RingPlace;
pub(crate) use tickets::{KeyRing, PassedKey};

/// What a TLS listener needs: certificates with their keys, and which clients are accepted.
///
/// It is plain data until [`Server::serve`](crate::Server::serve) reads the files and reports what is wrong with them. TLS
/// 1.2 and 1.3, by `rustls`. ALPN offers HTTP/1.1 only.
///
/// A clone controls the same listener: [`Tls::reload`] reads the files again. A successor reads them when
/// it starts, so that a handover also uses new certificates.
///
/// ```no_run
/// use heirloom::prelude::*;
/// use heirloom::tls::Tls;
///
/// fn main() -> Result<(), heirloom::Error> {
///     let tls = Tls::from_files("cert.pem", "key.pem");
///     let renewed = tls.clone();
///     let router = Router::new().post("/renewed", move |_: Request| match renewed.reload() {
///         Ok(()) => (StatusCode::OK, "new connections get the new certificate\n".to_owned()),
///         Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the old one stays: {e}\n")),
///     });
///     Server::new(router).listen(Listen::new("0.0.0.0:8443").tls(tls)).serve()
/// }
/// ```
#[derive(Clone)]
pub struct Tls {
    spec: Arc<Spec>,
    current: CurrentConfig,
    moves: Moves,
    ring: RingPlace,
}

/// Whether a connection may leave `rustls`, for which it gives its keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moves {
    /// See [`Tls::carry`].
    Never,
    /// When it leaves the process.
    Possibly,
    /// See [`Tls::carried_at_once`].
    AtOnce,
}

/// The configuration of new connections; None before `serve`.
type CurrentConfig = Arc<RwLock<Option<Arc<Loaded>>>>;

impl Tls {
    /// A certificate (PEM, followed by the chain that leads to its authority) and its private key (PEM: PKCS#8, SEC1 or
    /// PKCS#1, not encrypted). Both may be in one file. Line endings may be LF, CRLF, CR, the two characters `\n`, or
    /// missing.
    pub fn from_files(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Tls {
        let none = Spec { pairs: Vec::new(), clients: None, ticket_keys: Vec::new() };
        let (current, moves, ring) = (Arc::default(), Moves::Possibly, Arc::default());
        Tls { spec: Arc::new(none), current, moves, ring }.and_files(certificate, key)
    }

    /// Adds a certificate. A client gets the first one that has the requested name (SNI) and a kind of key that the client
    /// supports; if there is none, the first of all.
    #[must_use]
    pub fn and_files(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Tls {
        self.with(|spec| spec.pairs.push((certificate.into(), key.into())))
    }

    /// Mutual TLS: a client must present a certificate that an authority in this file (PEM) has issued. The handshake fails
    /// for other clients. Default: no certificate is requested.
    #[must_use]
    pub fn require_clients(self, authorities: impl Into<PathBuf>) -> Tls {
        self.with(|spec| spec.clients = Some(ClientAuth { authorities: authorities.into(), required: true }))
    }

    /// As [`Tls::require_clients`], but clients without a certificate are accepted too. The handler sees whether there is
    /// one ([`TlsInfo::client_certificates`]).
    #[must_use]
    pub fn request_clients(self, authorities: impl Into<PathBuf>) -> Tls {
        self.with(|spec| spec.clients = Some(ClientAuth { authorities: authorities.into(), required: false }))
    }

    /// Takes the keys of session tickets from this file, for several hosts that serve the same names: a session of one is
    /// resumed by the others. Default: keys are generated, rotated every six hours, and passed on at each handover.
    ///
    /// The file has the format of nginx, 48 or 80 random bytes, which are one key; or that of HAProxy, at least three lines
    /// with as many bytes each in base64, of which the last three count: the last but one encrypts, all three decrypt. Further
    /// files may be added by further calls: the first one has the key that encrypts, all keys of all files decrypt. Its group may only
    /// read it, and others must not (mode 600 or 640).
    ///
    /// A handover and [`Tls::reload`] read the file again. Rotate the keys at least every twelve hours, since one that is stolen
    /// decrypts recorded TLS 1.2 connections whose tickets it has encrypted. Without effect together with
    /// [`Tls::require_clients`] and [`Tls::request_clients`], where no session is resumed.
    #[must_use]
    pub fn ticket_keys(self, file: impl Into<PathBuf>) -> Tls {
        self.with(|spec| spec.ticket_keys.push(file.into()))
    }

    /// Whether idle connections move to the successor at a handover, with their keys, so that their clients notice nothing. Default:
    /// they do.
    ///
    /// With `false` no key of a connection leaves `rustls`, and no connection of a predecessor is taken: the responses of the
    /// old process announce the close of its connections, and clients connect again. Session tickets have keys of their own,
    /// which are passed on as before.
    #[must_use]
    pub fn carry(self, carried: bool) -> Tls {
        let mut tls = self.with(|_| {});
        tls.moves = if carried { Moves::Possibly } else { Moves::Never };
        tls
    }

    /// Reads the files again. New connections use the new content; open ones keep the old.
    ///
    /// # Errors
    /// What is wrong, and with which file; the old certificates stay in use. The text contains nothing from the file, and
    /// may be shown to clients.
    pub fn reload(&self) -> Result<(), Error> {
        let loaded = self.spec.load(&self.ring)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(loaded));
        Ok(())
    }

    /// For tests of this crate: each connection leaves `rustls` after its handshake, and continues on the record layer by
    /// which connections move.
    #[doc(hidden)]
    #[must_use]
    pub fn carried_at_once(mut self) -> Tls {
        self.moves = Moves::AtOnce;
        self
    }

    /// Whether connections may come from a predecessor.
    pub(crate) fn is_carried(&self) -> bool {
        self.moves != Moves::Never
    }

    /// Which clients it accepts now; None before `serve`.
    pub(crate) fn client_rules(&self) -> Option<ClientRules> {
        self.current().map(|loaded| loaded.rules)
    }

    /// Whether both are clones of one.
    pub(crate) fn is_same(&self, other: &Tls) -> bool {
        Arc::ptr_eq(&self.current, &other.current)
    }

    /// The keys of its tickets, once a server has it.
    pub(crate) fn key_ring(&self) -> Option<KeyRing> {
        self.ring.get().cloned()
    }

    /// The keys of its tickets are in this ring from now on, unless it has one.
    pub(crate) fn use_keys_of(&self, ring: &KeyRing) {
        ring.is_used();
        let _ = self.ring.set(ring.clone());
    }

    /// The configuration for a connection that begins now.
    fn current(&self) -> Option<Arc<Loaded>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the specification. Clones that exist already keep theirs, and no longer belong to the same listener.
    fn with(mut self, change: impl FnOnce(&mut Spec)) -> Tls {
        change(Arc::make_mut(&mut self.spec));
        (self.current, self.ring) = (Arc::default(), Arc::default());
        self
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.spec).finish_non_exhaustive()
    }
}

/// The parameters of a TLS connection, from [`RequestExt::tls`](crate::RequestExt::tls).
///
/// ```
/// use heirloom::prelude::*;
///
/// fn parameters(req: Request) -> String {
///     match req.tls() {
///         Some(tls) => format!("{} for {}\n", tls.version(), tls.server_name().unwrap_or("nobody")),
///         None => "plain text\n".to_owned(),
///     }
/// }
/// let mut response = Handler::call(&parameters, http::Request::get("/").body(Body::empty()).unwrap());
/// assert_eq!(response.body_mut().read_text().unwrap(), "plain text\n");
/// ```
#[derive(Debug)]
pub struct TlsInfo {
    version: &'static str,
    cipher_suite: String,
    server_name: Option<Box<str>>,
    client_certificates: Vec<Vec<u8>>,
}

impl TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub fn version(&self) -> &str {
        self.version
    }

    /// The cipher suite by its name at IANA, such as `TLS_AES_256_GCM_SHA384`.
    pub fn cipher_suite(&self) -> &str {
        &self.cipher_suite
    }

    /// The host that the client requested in its handshake (SNI). None without SNI, as for an IP address. The `Host` field
    /// of a request may name another.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The client's certificate chain as DER, its own certificate first. It was issued by an authority of
    /// [`Tls::require_clients`] or [`Tls::request_clients`], and valid at the handshake. Empty if none was requested or
    /// presented.
    pub fn client_certificates(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.client_certificates.iter().map(Vec::as_slice)
    }
}
