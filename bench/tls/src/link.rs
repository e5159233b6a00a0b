//! A client's connection, with TLS or without: rustls's unbuffered interface, so that it reads as much as the socket has, and an
//! idle connection keeps no buffer.

use crate::NAME;
use heirloom_bench::Error;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientConfig, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    UnbufferedClientConnection,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CipherSuite, DigitallySignedStruct, HandshakeKind, NamedGroup, SignatureScheme, version};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How much is read at once.
const ROOM: usize = 1 << 20;
/// Of a handshake message, or of what a record is longer than its content.
const OVERHEAD: usize = 4096;
/// More than connections that begin together.
const TICKETS: usize = 64;
/// A body that is no longer is kept.
const KEPT: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

/// What the client offers: X25519 first, and AES-128-GCM alone, so that all servers use the same. It accepts any certificate without a
/// look at its signatures, so that it costs less than the server.
pub fn config(version: Version, resumes: bool) -> Result<Arc<ClientConfig>, Error> {
    let mut provider = ring::default_provider();
    // OpenSSL asks for the curve of the certificate among these, too.
    provider.kx_groups = vec![ring::kx_group::X25519, ring::kx_group::SECP256R1];
    let (suite, version) = match version {
        Version::Tls12 => (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, &version::TLS12),
        Version::Tls13 => (CipherSuite::TLS13_AES_128_GCM_SHA256, &version::TLS13),
    };
    provider.cipher_suites.retain(|known| known.suite() == suite);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = match resumes {
        true => Resumption::store(Arc::new(Tickets::default())),
        false => Resumption::disabled(),
    };
    Ok(Arc::new(config))
}

/// The sessions of one server. rustls's own store keeps eight, which connections that begin together use up.
#[derive(Debug, Default)]
struct Tickets(Mutex<(Vec<Tls13ClientSessionValue>, Option<Tls12ClientSessionValue>)>);

impl Tickets {
    fn lock(&self) -> MutexGuard<'_, (Vec<Tls13ClientSessionValue>, Option<Tls12ClientSessionValue>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.lock().1 = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.lock().1.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.lock().1 = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let tickets = &mut self.lock().0;
        if tickets.len() < TICKETS {
            tickets.push(value);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.lock().0.pop()
    }
}

#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Buffers that all connections of a client share.
pub struct Shared {
    room: Vec<u8>,
    out: Vec<u8>,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared { room: vec![0; ROOM], out: Vec::new() }
    }
}

pub struct Link {
    pub stream: TcpStream,
    tls: Option<Box<UnbufferedClientConnection>>,
    /// Part of a record.
    kept: Vec<u8>,
    /// What is sent as soon as the handshake allows it.
    request: Option<Arc<[u8]>>,
    answer: Answer,
    /// The server has said close_notify.
    is_ended: bool,
}

/// What a look at a connection has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Not all of the answer is here.
    Nothing,
    Answer,
    /// The server has closed, after the answer or without one.
    Closed {
        answered: bool,
    },
}

impl Link {
    /// Connects and begins the handshake; without a configuration there is none.
    pub fn connect(
        address: SocketAddr,
        config: Option<&Arc<ClientConfig>>,
        shared: &mut Shared,
    ) -> Result<Link, Error> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let tls = match config {
            Some(config) => {
                let name = ServerName::try_from(NAME)?;
                Some(Box::new(UnbufferedClientConnection::new(Arc::clone(config), name)?))
            }
            None => None,
        };
        let answer = Answer::default();
        let mut link = Link { stream, tls, kept: Vec::new(), request: None, answer, is_ended: false };
        link.turn(&mut [], &mut shared.out)?;
        link.send_all(&mut shared.out)?;
        Ok(link)
    }

    /// Whether the handshake was an abbreviated one.
    pub fn is_resumed(&self) -> bool {
        let kind = self.tls.as_ref().and_then(|tls| tls.handshake_kind());
        kind == Some(HandshakeKind::Resumed)
    }

    /// Sends a request, at the latest when the handshake is done.
    pub fn ask(&mut self, request: &Arc<[u8]>, shared: &mut Shared) -> Result<(), Error> {
        self.answer = Answer::default();
        self.request = Some(Arc::clone(request));
        self.turn(&mut [], &mut shared.out)?;
        self.send_all(&mut shared.out)
    }

    /// Reads what has arrived.
    pub fn look(&mut self, shared: &mut Shared) -> Result<Found, Error> {
        let kept = self.kept.len();
        shared.room.get_mut(..kept).ok_or("a long record")?.copy_from_slice(&self.kept);
        let answered = self.answer.is_whole();
        let n = match self.stream.read(shared.room.get_mut(kept..).unwrap_or_default()) {
            Ok(0) => return Ok(Found::Closed { answered }),
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Found::Nothing),
            Err(error) => return Err(error.into()),
        };
        let bytes = shared.room.get_mut(..kept + n).unwrap_or_default();
        let used = self.turn(bytes, &mut shared.out)?;
        self.kept = bytes.get(used..).unwrap_or_default().to_vec();
        self.send_all(&mut shared.out)?;
        Ok(match self.answer.is_whole() {
            answered if self.is_ended => Found::Closed { answered },
            true if !answered => Found::Answer,
            _ => Found::Nothing,
        })
    }

    /// Waits for the answer.
    pub fn wait(&mut self, shared: &mut Shared) -> Result<Found, Error> {
        loop {
            match self.look(shared)? {
                Found::Nothing => {
                    let mut socket = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
                    if poll(&mut socket, PollTimeout::from(10_000u16))? == 0 {
                        return Err("no answer within 10 s".into());
                    }
                }
                found => return Ok(found),
            }
        }
    }

    /// The body of the answer, if it is short.
    pub fn text(&self) -> &str {
        str::from_utf8(&self.answer.body).unwrap_or_default()
    }

    /// The answer announces the close.
    pub fn is_last(&self) -> bool {
        self.answer.is_last
    }

    /// Processes bytes from the server, and encrypts the request. Returns how many bytes were used.
    fn turn(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<usize, Error> {
        let Some(tls) = &mut self.tls else {
            if let Some(request) = self.request.take() {
                out.extend_from_slice(&request);
            }
            self.answer.take(bytes)?;
            return Ok(bytes.len());
        };
        let mut used = 0;
        loop {
            let rest = bytes.get_mut(used..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = tls.process_tls_records(rest);
            let mut is_over = false;
            match state? {
                ConnectionState::EncodeTlsData(mut data) => {
                    append(out, OVERHEAD, |room| data.encode(room), |error: EncodeError| error.into())?;
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        self.answer.take(record.payload)?;
                    }
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    if let Some(request) = self.request.take() {
                        let room = request.len() + request.len() / 1024 * 8 + OVERHEAD;
                        let encrypt = |room: &mut [u8]| traffic.encrypt(&request, room);
                        append(out, room, encrypt, |error: EncryptError| error.into())?;
                    }
                    is_over = true;
                }
                ConnectionState::PeerClosed => self.is_ended = true,
                _ => is_over = true,
            }
            used += discard;
            if is_over {
                return Ok(used);
            }
        }
    }

    fn send_all(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut rest = out.as_slice();
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll(
                        &mut [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)],
                        PollTimeout::from(10_000u16),
                    )?;
                }
                Err(error) => {
                    out.clear();
                    return Err(error.into());
                }
            }
        }
        out.clear();
        Ok(())
    }
}

fn append<E>(
    out: &mut Vec<u8>,
    room: usize,
    f: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    as_error: impl FnOnce(E) -> Error,
) -> Result<(), Error> {
    let old = out.len();
    out.resize(old + room, 0);
    let n = f(out.get_mut(old..).unwrap_or_default()).map_err(as_error)?;
    out.truncate(old + n);
    Ok(())
}

/// What has arrived of a response.
#[derive(Default)]
struct Answer {
    head: Vec<u8>,
    /// How much of the body is missing, once the head is whole.
    left: Option<usize>,
    body: Vec<u8>,
    is_last: bool,
}

impl Answer {
    fn is_whole(&self) -> bool {
        self.left == Some(0)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.left.is_none() {
            // A head comes in one piece, mostly.
            self.head.extend_from_slice(bytes);
            let Some(end) = self.head.windows(4).position(|end| end == b"\r\n\r\n") else { return Ok(()) };
            let body = self.head.split_off(end + 4);
            let head = str::from_utf8(&self.head)?;
            if !head.starts_with("HTTP/1.1 200 ") {
                return Err(head.lines().next().unwrap_or_default().into());
            }
            let mut length = None;
            for (name, value) in head.lines().filter_map(|line| line.split_once(':')) {
                if name.eq_ignore_ascii_case("content-length") {
                    length = Some(value.trim().parse()?);
                }
                self.is_last |= name.eq_ignore_ascii_case("connection") && value.trim() == "close";
            }
            self.left = Some(length.ok_or("no Content-Length")?);
            self.head = Vec::new();
            return self.take_body(&body);
        }
        self.take_body(bytes)
    }

    fn take_body(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let left = self.left.unwrap_or_default();
        self.left = Some(left.checked_sub(bytes.len()).ok_or("more than the body")?);
        if self.body.len() + left <= KEPT {
            self.body.extend_from_slice(bytes);
        }
        Ok(())
    }
}
