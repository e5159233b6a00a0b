//! TLS for some of the clients: a certificate made for the run, and TLS over a socket.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};

/// What a client must trust, and the files of the server.
#[derive(Clone, Debug)]
pub(crate) struct Secrecy {
    config: Arc<ClientConfig>,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    handshakes: Arc<Handshakes>,
}

/// How many handshakes all clients have completed.
#[derive(Debug, Default)]
struct Handshakes {
    full: AtomicU64,
    resumed: AtomicU64,
}

impl Secrecy {
    /// Makes a certificate for the server in this directory.
    pub(crate) fn new(folder: &Path) -> Result<Secrecy, String> {
        let text = |e: &dyn std::fmt::Display| format!("no certificate: {e}");
        let made = rcgen::generate_simple_self_signed(vec!["storm".to_owned()]).map_err(|e| text(&e))?;
        let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        fs::write(&certificate, made.cert.pem()).map_err(|e| text(&e))?;
        fs::write(&key, made.signing_key.serialize_pem()).map_err(|e| text(&e))?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).map_err(|e| text(&e))?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| text(&e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Secrecy { config: Arc::new(config), certificate, key, handshakes: Arc::default() })
    }

    /// For a client with sessions of its own.
    pub(crate) fn of_client(&self) -> Secrecy {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::in_memory_sessions(1);
        Secrecy { config: Arc::new(config), ..self.clone() }
    }

    /// The full handshakes, and those that have resumed a session.
    pub(crate) fn handshakes(&self) -> [u64; 2] {
        let Handshakes { full, resumed } = &*self.handshakes;
        [full, resumed].map(|count| count.load(Ordering::Relaxed))
    }

    /// Agrees with the server on the other end of `fd`.
    pub(crate) fn agree(&self, fd: &OwnedFd) -> Result<Layer, Errno> {
        let name = ServerName::try_from("storm").map_err(|_| Errno::EINVAL)?;
        let tls = ClientConnection::new(Arc::clone(&self.config), name).map_err(|_| Errno::EPROTO)?;
        let mut layer = Layer { tls: Box::new(tls), ended: None };
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

/// TLS on a client's socket. An end that is not announced by close_notify is `EPROTO`.
#[derive(Debug)]
pub(crate) struct Layer {
    tls: Box<ClientConnection>,
    ended: Option<Errno>,
}

impl Layer {
    pub(crate) fn send_all(&mut self, fd: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() || self.tls.wants_write() {
            let n = self.tls.writer().write(bytes).map_err(|e| errno(&e))?;
            bytes = &bytes[n..];
            while self.tls.wants_write() {
                self.tls.write_tls(&mut Kernel(fd, MsgFlags::empty())).map_err(|e| errno(&e))?;
            }
        }
        Ok(())
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
        let quiet = |e: io::Error| e.kind() == ErrorKind::WouldBlock;
        // An empty read: it shows whether there are bytes, and consumes none.
        let news = match self.tls.process_new_packets() {
            Ok(state) => state.plaintext_bytes_to_read() > 0 || state.peer_has_closed(),
            Err(_) => true,
        };
        news || self.ended.is_some() || self.tls.reader().read(&mut []).is_err_and(|e| !quiet(e))
    }

    fn fetch(&mut self, fd: &OwnedFd, flags: MsgFlags) -> Result<(), Errno> {
        self.tls.read_tls(&mut Kernel(fd, flags)).map_err(|e| errno(&e))?;
        self.tls.process_new_packets().map_err(|_| Errno::EPROTO)?;
        Ok(())
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

/// Faults of TLS, such as the end of a handshake without an answer, have no error number.
fn errno(e: &io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::EPROTO, Errno::from_raw)
}
