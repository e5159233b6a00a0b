//! Certificates made for a test, and a client that speaks TLS.

#![allow(dead_code, reason = "each test crate uses its own part")]

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use socket2::{Domain, Socket, Type};

use crate::support::{DEADLINE, End, get};

/// An authority, and the files of the certificates that it has issued.
pub(crate) struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The files of a certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pair {
    pub(crate) fn der(&self) -> Vec<u8> {
        certificates(&self.certificate)[0].to_vec()
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.path().join("authority.pem"), issuer.pem()).unwrap();
        Authority { folder, issuer }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.path("authority.pem")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Certifies a server by these names, in files named `name`.
    pub(crate) fn server(&self, name: &str, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        self.certify(name, names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    pub(crate) fn client(&self, name: &str) -> Pair {
        self.certify(name, vec![name.to_owned()], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn certify(&self, name: &str, names: Vec<String>, usage: ExtendedKeyUsagePurpose) -> Pair {
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair =
            Pair { certificate: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) };
        fs::write(&pair.certificate, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    /// The configuration of a client that trusts this authority.
    pub(crate) fn trusted(&self) -> Trust {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file()).unwrap()).unwrap();
        Trust {
            roots: Arc::new(roots),
            versions: vec![&TLS12, &TLS13],
            shows: None,
            alpn: Vec::new(),
            provider: Arc::new(ring::default_provider()),
        }
    }
}

/// What a client trusts and shows.
#[derive(Clone)]
pub(crate) struct Trust {
    roots: Arc<RootCertStore>,
    versions: Vec<&'static SupportedProtocolVersion>,
    shows: Option<Pair>,
    alpn: Vec<Vec<u8>>,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    pub(crate) fn by(mut self, provider: CryptoProvider) -> Trust {
        self.provider = Arc::new(provider);
        self
    }

    pub(crate) fn only(mut self, version: &'static SupportedProtocolVersion) -> Trust {
        self.versions = vec![version];
        self
    }

    pub(crate) fn showing(mut self, pair: &Pair) -> Trust {
        self.shows = Some(pair.clone());
        self
    }

    pub(crate) fn offering(mut self, protocols: &[&str]) -> Trust {
        self.alpn = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(Arc::clone(&self.roots));
        let mut config = match &self.shows {
            Some(pair) => {
                builder.with_client_auth_cert(certificates(&pair.certificate), key(&pair.key)).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.clone();
        Arc::new(config)
    }
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).unwrap().map(Result::unwrap).collect()
}

fn key(file: &Path) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(file).unwrap()
}

/// A TLS client that distinguishes an announced end from a bare one.
pub(crate) struct Secure {
    pub(crate) tls: ClientConnection,
    pub(crate) socket: TcpStream,
    unread: Vec<u8>,
}

/// How a TLS connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SecureEnd {
    /// With a close_notify.
    Announced,
    Bare(End),
}

impl Secure {
    /// Connects, and agrees with the server as `name`.
    pub(crate) fn to(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> io::Result<Secure> {
        Secure::over(TcpStream::connect(address).unwrap(), name, config)
    }

    /// With a receive buffer that makes the server wait early.
    pub(crate) fn narrow(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> Secure {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        socket.connect(&address.into()).unwrap();
        Secure::over(socket.into(), name, config).unwrap()
    }

    pub(crate) fn begin(socket: TcpStream, name: &str, config: &Arc<ClientConfig>) -> Secure {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let tls = ClientConnection::new(Arc::clone(config), name).unwrap();
        Secure { tls, socket, unread: Vec::new() }
    }

    pub(crate) fn over(socket: TcpStream, name: &str, config: &Arc<ClientConfig>) -> io::Result<Secure> {
        let mut client = Secure::begin(socket, name, config);
        while client.tls.is_handshaking() {
            client.tls.complete_io(&mut client.socket)?;
        }
        Ok(client)
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let mut stream = rustls::Stream::new(&mut self.tls, &mut self.socket);
        stream.write_all(bytes.as_ref())?;
        stream.flush()
    }

    /// The bytes that would be sent.
    pub(crate) fn ciphertext(&mut self, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        self.tls.writer().write_all(bytes.as_ref()).unwrap();
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).unwrap();
        }
        out
    }

    /// Reads once; 0 at an announced end.
    pub(crate) fn receive(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        rustls::Stream::new(&mut self.tls, &mut self.socket).read(buf)
    }

    fn fill(&mut self) -> Result<(), SecureEnd> {
        let mut piece = [0; 16 << 10];
        match self.receive(&mut piece) {
            Ok(0) => Err(SecureEnd::Announced),
            Ok(n) => {
                self.unread.extend_from_slice(&piece[..n]);
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(SecureEnd::Bare(End::Fin)),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Err(SecureEnd::Bare(End::Reset)),
            Err(e) => panic!("{e} after {:?}", String::from_utf8_lossy(&self.unread)),
        }
    }

    /// The next response of known length: status, head and body.
    pub(crate) fn try_reply(&mut self) -> Result<(u16, String, Vec<u8>), SecureEnd> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.fill()?;
        };
        let head = String::from_utf8(self.unread.drain(..end).collect()).unwrap();
        let status = head[9..12].parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        while self.unread.len() < length {
            self.fill()?;
        }
        Ok((status, head, self.unread.drain(..length).collect()))
    }

    #[track_caller]
    pub(crate) fn reply(&mut self) -> (u16, String, Vec<u8>) {
        match self.try_reply() {
            Ok(reply) => reply,
            Err(end) => panic!("{end:?} instead of a response"),
        }
    }

    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> String {
        self.send(get(path));
        let (status, _, body) = self.reply();
        format!("{status} {}", String::from_utf8_lossy(&body)).trim_end().to_owned()
    }

    #[track_caller]
    pub(crate) fn exactly(&mut self, n: usize) -> Vec<u8> {
        while self.unread.len() < n {
            self.fill().unwrap();
        }
        self.unread.drain(..n).collect()
    }

    /// All received bytes, and how the connection ends.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, SecureEnd) {
        loop {
            if let Err(end) = self.fill() {
                return (std::mem::take(&mut self.unread), end);
            }
        }
    }

    /// How the server ends the connection; further bytes are a failure.
    #[track_caller]
    pub(crate) fn end(&mut self) -> SecureEnd {
        assert!(self.unread.is_empty(), "{:?}", String::from_utf8_lossy(&self.unread));
        match self.fill() {
            Err(end) => end,
            Ok(()) => panic!("more was said: {:?}", String::from_utf8_lossy(&self.unread)),
        }
    }

    /// Says that it will say no more.
    pub(crate) fn say_end(&mut self) {
        self.tls.send_close_notify();
        self.tls.write_tls(&mut self.socket).unwrap();
    }

    pub(crate) fn half_close(&mut self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }
}
