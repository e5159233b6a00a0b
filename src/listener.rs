//! Bound sockets: made from the text given to `listen`, or from a descriptor inherited with it.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use log::{info, warn};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::connection::Stream;
use crate::error::{Error, Kind};
use crate::sys;

/// What the kernel holds for us while nobody accepts.
pub(crate) const BACKLOG: i32 = 1024;

/// A bound socket.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    /// The text it was asked for by.
    pub(crate) name: String,
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) site: usize,
    kind: ListenerKind,
}

#[derive(Clone, Debug)]
enum ListenerKind {
    Tcp(SocketAddr),
    /// With the inode of the socket file as we found or made it.
    Unix {
        path: PathBuf,
        inode: Option<u64>,
    },
}

impl Listener {
    /// Binds `name`: `ADDRESS:PORT`, `HOST:PORT` or `unix:PATH`.
    pub(crate) fn bind(name: &str, site: usize) -> Result<Listener, Error> {
        let failed = |e: io::Error| {
            Error::io(Kind::Bind, format!("can't listen on {}{}", shown(name), advice(name, &e)), e)
        };
        let socket = match name.strip_prefix("unix:") {
            // The kernel would invent a name.
            Some("") => return Err(failed(ErrorKind::InvalidInput.into())),
            Some(path) => bind_unix(Path::new(path)).map_err(failed)?,
            None => bind_first(name.to_socket_addrs().map_err(failed)?.collect()).map_err(failed)?,
        };
        socket.listen(BACKLOG).map_err(failed)?;
        Listener::adopt(name, socket.into(), site)
    }

    /// Takes a listening socket that was inherited as `name`.
    pub(crate) fn adopt(name: &str, fd: OwnedFd, site: usize) -> Result<Listener, Error> {
        let odd = |e: io::Error| Error::io(Kind::Inherit, format!("the listener {name} is odd"), e);
        let socket = SockRef::from(&fd);
        // Shared with every generation, and so from birth.
        socket.set_nonblocking(true).map_err(odd)?;
        let local = socket.local_addr().map_err(odd)?;
        let kind = match (local.as_socket(), name.strip_prefix("unix:")) {
            (Some(address), None) => {
                // Inherited by accepted sockets, which saves a call for each.
                socket.set_tcp_nodelay(true).map_err(odd)?;
                ListenerKind::Tcp(address)
            }
            (None, Some(path)) => {
                let path = std::path::absolute(path).map_err(odd)?;
                let inode = fs::symlink_metadata(&path).map(|m| m.ino()).ok();
                ListenerKind::Unix { path, inode }
            }
            _ => return Err(odd(io::Error::other("not of the family its name says"))),
        };
        Ok(Listener { name: name.to_owned(), fd: Arc::new(fd), site, kind })
    }

    /// Where clients connect, as text.
    pub(crate) fn address(&self) -> String {
        match &self.kind {
            ListenerKind::Tcp(address) => address.to_string(),
            ListenerKind::Unix { path, .. } => format!("unix:{}", path.display()),
        }
    }

    pub(crate) fn is_unix(&self) -> bool {
        matches!(self.kind, ListenerKind::Unix { .. })
    }

    pub(crate) fn socket_addr(&self) -> Option<SocketAddr> {
        match &self.kind {
            ListenerKind::Tcp(address) => Some(*address),
            ListenerKind::Unix { .. } => None,
        }
    }

    /// A connection that waits, or `WouldBlock`.
    pub(crate) fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        let (fd, peer) = sys::accept(self.fd.as_fd())?;
        Ok(match &self.kind {
            ListenerKind::Tcp(_) => (Stream::Tcp(fd.into()), peer),
            ListenerKind::Unix { .. } => (Stream::Unix(fd.into()), None),
        })
    }

    /// For a process that stops and is the last to have the listener: removes a unix socket's path,
    /// unless somebody else has put another one there.
    pub(crate) fn unlink(&self) {
        let ListenerKind::Unix { path, inode } = &self.kind else { return };
        let now = fs::symlink_metadata(path).map(|m| m.ino()).ok();
        if now.is_some() && now == *inode {
            match fs::remove_file(path) {
                Ok(()) => info!("removed {}", path.display()),
                Err(e) => warn!("can't remove {}: {e}", path.display()),
            }
        }
    }
}

/// A text that is empty can't be seen.
fn shown(name: &str) -> &str {
    if name.is_empty() { "\"\"" } else { name }
}

/// What to do about it.
fn advice(name: &str, e: &io::Error) -> &'static str {
    let is_path = name.starts_with("unix:");
    match e.kind() {
        ErrorKind::AddrInUse => ": another process has it; stop that, or take another address",
        ErrorKind::AlreadyExists => ": remove it, or take another path",
        ErrorKind::PermissionDenied if is_path => ": check the folder's permissions",
        ErrorKind::PermissionDenied => ": ports below 1024 need CAP_NET_BIND_SERVICE",
        ErrorKind::AddrNotAvailable => ": this host has no such address",
        ErrorKind::NotFound | ErrorKind::NotADirectory if is_path => ": its folder must exist",
        ErrorKind::InvalidInput => ": want ADDRESS:PORT, HOST:PORT or unix:PATH",
        _ if name.starts_with(':') => ": for all addresses of this host want 0.0.0.0:PORT or [::]:PORT",
        // What the resolver says has no kind.
        _ if !is_path && e.raw_os_error().is_none() => ": check the host's name",
        _ => "",
    }
}

/// The first address that can be bound, IPv4 first: what `localhost` means to most clients.
fn bind_first(mut addresses: Vec<SocketAddr>) -> io::Result<Socket> {
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let mut last = io::Error::new(ErrorKind::InvalidInput, "the name has no address");
    for address in addresses {
        match bind_tcp(address) {
            Ok(socket) => return Ok(socket),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn bind_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bind_unix(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(e) if e.kind() == ErrorKind::AddrInUse && !is_socket(path) => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "what is there is no socket"));
        }
        Err(e) if e.kind() == ErrorKind::AddrInUse && is_stale(&address) => {
            info!("{} is left from a server that is gone: removed", path.display());
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        other => other?,
    }
    Ok(socket)
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

/// Nobody listens there. Asked without waiting: a live server's backlog may be full.
fn is_stale(address: &SockAddr) -> bool {
    let asked = Socket::new(Domain::UNIX, Type::STREAM, None).and_then(|socket| {
        socket.set_nonblocking(true)?;
        socket.connect(address)
    });
    asked.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}
