//! TLS for some of the clients: certificates made for the run, each cipher suite in turn, and TLS over a socket.
//!
//! A record that can't be decrypted, an alert and every other breach of the protocol is `EBADMSG`: no end of a connection,
//! but wrong bytes, which nothing excuses. So is a nonce that is used twice: in TLS 1.3 and by ChaCha20 it follows from the number of
//! the record, and the client can decrypt one of the two only; by AES-GCM in TLS 1.2 the record names it, and it is compared
//! with all others of the connection.

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore, SupportedCipherSuite,
};

/// A key of a kind that `ring` can use, but not make.
const RSA_KEY: &str = include_str!("../../../../tests/keys/rsa2048.key");
/// The names of the server, each with a kind of key of its own: some cipher suites of TLS 1.2 need RSA, the others ECDSA.
const NAMES: [&str; 2] = ["storm", "rsa.storm"];

/// What a client must trust and offer, and the files of the server.
#[derive(Clone, Debug)]
pub(crate) struct Secrecy {
    roots: Arc<RootCertStore>,
    config: Arc<ClientConfig>,
    suite: SupportedCipherSuite,
    /// Certificates and their keys.
    pub(crate) pairs: Vec<[PathBuf; 2]>,
    handshakes: Arc<Handshakes>,
}

/// How many handshakes a client has completed.
#[derive(Debug, Default)]
struct Handshakes {
    full: AtomicU64,
    resumed: AtomicU64,
}

/// The TLS of a client, by what its mode needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suites {
    All,
    /// Those of TLS 1.3.
    WithKeyUpdates,
}

impl Secrecy {
    /// Makes certificates for the server in this directory, for `names` of its names.
    pub(crate) fn new(folder: &Path, names: usize) -> Result<Secrecy, String> {
        let text = |e: &dyn std::fmt::Display| format!("no certificate: {e}");
        let keys = [KeyPair::generate(), KeyPair::from_pem(RSA_KEY)];
        let (mut roots, mut pairs) = (RootCertStore::empty(), Vec::new());
        for (name, key) in NAMES.into_iter().zip(keys).take(names) {
            let key = key.map_err(|e| text(&e))?;
            let params = CertificateParams::new([name.to_owned()]).map_err(|e| text(&e))?;
            let made = params.self_signed(&key).map_err(|e| text(&e))?;
            let pair = ["pem", "key"].map(|kind| folder.join(name).with_extension(kind));
            fs::write(&pair[0], made.pem()).map_err(|e| text(&e))?;
            fs::write(&pair[1], key.serialize_pem()).map_err(|e| text(&e))?;
            roots.add(made.der().clone()).map_err(|e| text(&e))?;
            pairs.push(pair);
        }
        let (roots, suite) = (Arc::new(roots), ring::ALL_CIPHER_SUITES[0]);
        let config = config(&roots, suite)?;
        Ok(Secrecy { roots, config, suite, pairs, handshakes: Arc::default() })
    }

    /// For the `n`th client, which has a cipher suite and sessions of its own.
    pub(crate) fn of_client(&self, n: usize, suites: Suites) -> Result<Secrecy, String> {
        let possible = |suite: &&SupportedCipherSuite| match suites {
            Suites::All => NAMES.iter().position(|name| *name == name_for(**suite)) < Some(self.pairs.len()),
            Suites::WithKeyUpdates => suite.version() == &TLS13,
        };
        let possible: Vec<_> = ring::ALL_CIPHER_SUITES.iter().filter(possible).collect();
        let suite = *possible[n % possible.len()];
        let config = config(&self.roots, suite)?;
        Ok(Secrecy { config, suite, handshakes: Arc::default(), ..self.clone() })
    }

    /// The name of the cipher suite.
    pub(crate) fn suite(&self) -> &'static str {
        self.suite.suite().as_str().unwrap_or("unknown")
    }

    /// The full handshakes, and those that have resumed a session.
    pub(crate) fn handshakes(&self) -> [u64; 2] {
        let Handshakes { full, resumed } = &*self.handshakes;
        [full, resumed].map(|count| count.load(Ordering::Relaxed))
    }

    /// Agrees with the server on the other end of `fd`.
    pub(crate) fn agree(&self, fd: &OwnedFd) -> Result<Layer, Errno> {
        let name = ServerName::try_from(name_for(self.suite)).map_err(|_| Errno::EINVAL)?;
        let tls = ClientConnection::new(Arc::clone(&self.config), name).map_err(|_| Errno::EPROTO)?;
        let mut layer =
            Layer { tls: Box::new(tls), ended: None, fault: None, nonces: Nonces::of(self.suite) };
        while layer.tls.is_handshaking() {
            layer.tls.complete_io(&mut Kernel(fd, MsgFlags::empty())).map_err(|e| errno(&e))?;
        }
        let count = match layer.tls.handshake_kind() {
            Some(HandshakeKind::Resumed) => &self.handshakes.resumed,
            _ => &self.handshakes.full,
        };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(layer)
    }
}

/// Of a client with this cipher suite alone.
fn config(roots: &Arc<RootCertStore>, suite: SupportedCipherSuite) -> Result<Arc<ClientConfig>, String> {
    let provider = CryptoProvider { cipher_suites: vec![suite], ..ring::default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[suite.version()])
        .map_err(|e| format!("no TLS: {e}"))?
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(1);
    Ok(Arc::new(config))
}

/// The server's name whose key is of the kind that the suite needs.
fn name_for(suite: SupportedCipherSuite) -> &'static str {
    let rsa = suite.suite().as_str().is_some_and(|name| name.contains("_RSA_"));
    NAMES[usize::from(rsa)]
}

/// TLS on a client's socket. An end that is not announced by close_notify is `EPROTO`.
#[derive(Debug)]
pub(crate) struct Layer {
    tls: Box<ClientConnection>,
    ended: Option<Errno>,
    /// How the protocol was broken.
    fault: Option<String>,
    nonces: Option<Nonces>,
}

/// The nonces of the server by AES-GCM in TLS 1.2, which are in its records.
#[derive(Debug, Default)]
struct Nonces {
    seen: HashSet<[u8; 8]>,
    /// The beginning of a record: its header and its nonce.
    start: Vec<u8>,
    /// What follows of the record.
    rest: usize,
    is_repeated: bool,
}

impl Nonces {
    fn of(suite: SupportedCipherSuite) -> Option<Nonces> {
        let gcm = suite.suite().as_str().is_some_and(|name| name.contains("_GCM_"));
        (gcm && suite.version() == &TLS12).then(Nonces::default)
    }

    /// The next bytes from the server.
    fn look_at(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            if self.rest > 0 {
                let n = self.rest.min(bytes.len());
                self.rest -= n;
                bytes = &bytes[n..];
                continue;
            }
            self.start.push(*first);
            bytes = rest;
            if let Ok([_, _, _, high, low, nonce @ ..]) = <[u8; 13]>::try_from(&self.start[..]) {
                self.is_repeated |= !self.seen.insert(nonce);
                self.rest = usize::from(u16::from_be_bytes([high, low])).saturating_sub(nonce.len());
                self.start.clear();
            }
        }
    }
}

impl Layer {
    /// The records with these bytes, which must be sent next.
    pub(crate) fn seal(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, Errno> {
        let mut records = Vec::new();
        while !bytes.is_empty() || self.tls.wants_write() {
            let n = self.tls.writer().write(bytes).map_err(|e| errno(&e))?;
            bytes = &bytes[n..];
            while self.tls.wants_write() {
                self.tls.write_tls(&mut records).map_err(|e| errno(&e))?;
            }
        }
        Ok(records)
    }

    /// The record of a KeyUpdate that asks for one of the server, which must be sent next. Empty in TLS 1.2, which has none.
    pub(crate) fn seal_key_update(&mut self) -> Result<Vec<u8>, Errno> {
        if self.tls.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Ok(Vec::new());
        }
        self.tls.refresh_traffic_keys().map_err(|_| Errno::EPROTO)?;
        self.seal(&[])
    }

    /// 0: its end, announced by TLS.
    pub(crate) fn receive(&mut self, fd: &OwnedFd, buf: &mut [u8]) -> Result<usize, Errno> {
        loop {
            match self.tls.reader().read(buf) {
                Ok(n) => return Ok(n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Err(Errno::EPROTO),
            }
            if let Some(errno) = self.ended {
                return Err(errno);
            }
            self.fetch(fd, MsgFlags::empty())?;
        }
    }

    /// Reads what has arrived; returns whether it contains more than TLS's own messages.
    pub(crate) fn has_news(&mut self, fd: &OwnedFd) -> bool {
        match self.fetch(fd, MsgFlags::MSG_DONTWAIT) {
            Ok(()) | Err(Errno::EAGAIN) => {}
            Err(errno) => self.ended = Some(errno),
        }
        self.is_readable()
    }

    /// Whether a receive would not have to wait.
    pub(crate) fn is_readable(&mut self) -> bool {
        let news = match self.tls.process_new_packets() {
            Ok(state) => state.plaintext_bytes_to_read() > 0 || state.peer_has_closed(),
            Err(_) => true,
        };
        news || self.ended.is_some()
    }

    fn fetch(&mut self, fd: &OwnedFd, flags: MsgFlags) -> Result<(), Errno> {
        let n = self.tls.read_tls(&mut Tap(Kernel(fd, flags), &mut self.nonces)).map_err(|e| errno(&e))?;
        if self.nonces.as_ref().is_some_and(|nonces| nonces.is_repeated) {
            self.fault = Some("a nonce was used twice".to_owned());
            return Err(Errno::EBADMSG);
        }
        match self.tls.process_new_packets() {
            Ok(state) if n == 0 && !state.peer_has_closed() => Err(Errno::EPROTO),
            Ok(_) => Ok(()),
            Err(e) => {
                self.fault = Some(e.to_string());
                Err(Errno::EBADMSG)
            }
        }
    }

    /// How the protocol was broken, if it was.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }
}

/// Sees what is read.
struct Tap<'a>(Kernel<'a>, &'a mut Option<Nonces>);

impl Read for Tap<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buf)?;
        self.1.iter_mut().for_each(|nonces| nonces.look_at(&buf[..n]));
        Ok(n)
    }
}

/// The socket, with the kernel's own errors.
struct Kernel<'a>(&'a OwnedFd, MsgFlags);

impl Read for Kernel<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.0.as_raw_fd(), buf, self.1)?)
    }
}

impl Write for Kernel<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(send(self.0.as_raw_fd(), buf, self.1 | MsgFlags::MSG_NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An end that is not announced has no error number.
fn errno(e: &io::Error) -> Errno {
    match e.kind() {
        ErrorKind::InvalidData => Errno::EBADMSG,
        _ => e.raw_os_error().map_or(Errno::EPROTO, Errno::from_raw),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, ServerConnection};
    use testkit::beside;

    use super::*;

    /// A client of the `n`th cipher suite, and its server, after their handshake.
    fn pair(n: usize) -> (Layer, OwnedFd, ServerConnection, UnixStream) {
        let folder = tempfile::tempdir().unwrap();
        let secrecy = Secrecy::new(folder.path(), NAMES.len()).unwrap().of_client(n, Suites::All).unwrap();
        let rsa = NAMES.iter().position(|name| *name == name_for(secrecy.suite)).unwrap();
        let [certificate, key] = &secrecy.pairs[rsa];
        let (certificate, key) =
            (CertificateDer::from_pem_file(certificate), PrivateKeyDer::from_pem_file(key));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.unwrap()], key.unwrap())
            .unwrap();
        let mut server = ServerConnection::new(Arc::new(config)).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let ours = OwnedFd::from(ours);
        let agreeing = beside("server", move || {
            while server.is_handshaking() || server.wants_write() {
                server.complete_io(&mut theirs).unwrap();
            }
            (server, theirs)
        });
        let layer = secrecy.agree(&ours).unwrap();
        assert_eq!(secrecy.handshakes(), [1, 0]);
        let (server, theirs) = agreeing.join().unwrap();
        assert_eq!(server.negotiated_cipher_suite().unwrap().suite(), secrecy.suite.suite());
        (layer, ours, server, theirs)
    }

    /// Tickets come first, which are no news. The end comes later if another test's child process, which has
    /// not yet executed its program, has the other socket open too.
    fn wait_for_news(layer: &mut Layer, fd: &OwnedFd) {
        while !layer.has_news(fd) {
            let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, PollTimeout::from(10_000u16)), Ok(1));
        }
    }

    fn sealed(server: &mut ServerConnection, text: &[u8]) -> Vec<u8> {
        server.writer().write_all(text).unwrap();
        let mut record = Vec::new();
        server.write_tls(&mut record).unwrap();
        record
    }

    #[test]
    fn no_corrupted_record_is_taken_for_an_end() {
        for n in 0..ring::ALL_CIPHER_SUITES.len() {
            let (mut layer, ours, mut server, mut theirs) = pair(n);
            let mut buf = [0; 16];
            theirs.write_all(&sealed(&mut server, b"good")).unwrap();
            assert_eq!(layer.receive(&ours, &mut buf), Ok(4));
            let mut record = sealed(&mut server, b"bad");
            *record.last_mut().unwrap() ^= 1;
            theirs.write_all(&record).unwrap();
            assert_eq!(layer.receive(&ours, &mut buf), Err(Errno::EBADMSG));
            assert!(layer.fault().is_some_and(|fault| fault.contains("decrypt")), "{:?}", layer.fault());
        }
    }

    /// As it would come from a second process with the keys of the first.
    #[test]
    fn no_record_is_accepted_twice() {
        let (mut layer, ours, mut server, mut theirs) = pair(0);
        let record = sealed(&mut server, b"once");
        theirs.write_all(&record).unwrap();
        assert_eq!(layer.receive(&ours, &mut [0; 16]), Ok(4));
        theirs.write_all(&record).unwrap();
        assert!(layer.has_news(&ours));
        assert_eq!(layer.receive(&ours, &mut [0; 16]), Err(Errno::EBADMSG));
    }

    /// The client itself does not notice: it takes the nonce from the record.
    #[test]
    fn a_nonce_is_found_again() {
        let suites = ring::ALL_CIPHER_SUITES.iter().filter(|suite| Nonces::of(**suite).is_some());
        assert_eq!(suites.count(), 4);
        let record = |nonce: u8, length: u8| {
            let mut record = vec![23, 3, 3, 0, length, 1, 2, 3, 4, 5, 6, 7, nonce];
            record.resize(5 + usize::from(length), 0);
            record
        };
        let different = [record(1, 30), record(2, 24), record(3, 200)].concat();
        for piece in [1, 7, 29, 1000] {
            let mut nonces = Nonces::default();
            different.chunks(piece).for_each(|bytes| nonces.look_at(bytes));
            assert!(!nonces.is_repeated && nonces.seen.len() == 3);
            record(2, 99).chunks(piece).for_each(|bytes| nonces.look_at(bytes));
            assert!(nonces.is_repeated);
        }
        // In the records of a real server.
        let gcm = ring::ALL_CIPHER_SUITES.iter().position(|suite| Nonces::of(*suite).is_some()).unwrap();
        let (mut layer, ours, mut server, mut theirs) = pair(gcm);
        for _ in 0..3 {
            theirs.write_all(&sealed(&mut server, b"good")).unwrap();
            assert_eq!(layer.receive(&ours, &mut [0; 16]), Ok(4));
        }
        assert_eq!(layer.nonces.unwrap().seen.len(), 3);
    }

    #[test]
    fn an_end_shows_whether_it_was_announced() {
        let (mut layer, ours, _server, theirs) = pair(0);
        assert!(!layer.is_readable());
        drop(theirs);
        wait_for_news(&mut layer, &ours);
        assert_eq!(layer.receive(&ours, &mut [0; 16]), Err(Errno::EPROTO));

        let (mut layer, ours, mut server, mut theirs) = pair(0);
        server.send_close_notify();
        theirs.write_all(&sealed(&mut server, b"")).unwrap();
        wait_for_news(&mut layer, &ours);
        assert_eq!(layer.receive(&ours, &mut [0; 16]), Ok(0));
    }
}
