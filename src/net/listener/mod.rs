//! Bound sockets: made from the text given to `listen`, or from a descriptor inherited with it.

mod barrier;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::base::error::{self, Error};
use crate::base::log::{info, warn};
use crate::base::sys;
use crate::net::stream::Stream;
#[cfg(feature = "tls")]
use crate::net::tls::Tls;
use crate::process::handover::{FileId, Passed};
use barrier::Barrier;

/// What the kernel holds for us while nobody accepts, unless a listener says otherwise.
pub(crate) const BACKLOG: i32 = 1024;

/// How long a handshake that has begun may take to its end when a listener is closed: one round trip.
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// The most that the kernel takes for TCP_KEEPIDLE.
const LONGEST_IDLE: Duration = Duration::from_secs(32_767);

/// A listener as it is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// By this text.
    pub(crate) name: String,
    pub(crate) site: usize,
    /// Accepts at the connection limit, too.
    pub(crate) reserved: bool,
    pub(crate) backlog: i32,
    /// After which silence clients are probed.
    pub(crate) keepalive: Option<Duration>,
    /// None: plain text.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Tls>,
}

impl Wanted {
    pub(crate) fn new(name: String, site: usize) -> Wanted {
        Wanted {
            name,
            site,
            reserved: false,
            backlog: BACKLOG,
            keepalive: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// A client can't tell by which of the two it came.
    pub(crate) fn has_settings_of(&self, other: &Wanted) -> bool {
        #[cfg(feature = "tls")]
        let same_tls = match (&self.tls, &other.tls) {
            (Some(tls), Some(other)) => tls.is_same(other),
            (tls, other) => tls.is_none() && other.is_none(),
        };
        #[cfg(not(feature = "tls"))]
        let same_tls = true;
        same_tls && (self.site, self.reserved) == (other.site, other.reserved)
    }
}

/// Where a socket is bound, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The first of these that can be had.
    Tcp(Vec<SocketAddr>),
    Unix(PathBuf),
}

impl Place {
    /// The same for each way to write the path.
    pub(crate) fn unix(path: &Path) -> Place {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let folder = absolute.parent().and_then(|folder| folder.canonicalize().ok());
        Place::Unix(match folder.zip(absolute.file_name()) {
            Some((folder, name)) => folder.join(name),
            None => absolute,
        })
    }

    /// Looks up `ADDRESS:PORT`, `HOST:PORT` or `unix:PATH`. IPv4 comes first: what `localhost` means to most clients.
    ///
    /// # Errors
    /// What has no address.
    pub(crate) fn resolve(name: &str) -> Result<Place, Error> {
        match name.strip_prefix("unix:") {
            // The kernel would invent a name.
            Some("") => Err(cannot_listen(name, ErrorKind::InvalidInput.into(), None)),
            Some(path) => Ok(Place::unix(Path::new(path))),
            None => {
                let found = name.to_socket_addrs().map_err(|e| cannot_listen(name, e, None))?;
                let mut addresses: Vec<SocketAddr> = found.collect();
                addresses.sort_by_key(SocketAddr::is_ipv6);
                Ok(Place::Tcp(addresses))
            }
        }
    }
}

/// A bound socket.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub(crate) wanted: Wanted,
    /// What it is called at a handover: what was given to `listen`, and what it was inherited by. So a successor of an
    /// earlier version, or with the configuration from before, finds it, too.
    pub(crate) names: Vec<String>,
    pub(crate) fd: Arc<OwnedFd>,
    kind: ListenerKind,
    /// A barrier was put up on the socket: who is accepted may have inherited it.
    barred: bool,
}

#[derive(Clone, Debug)]
enum ListenerKind {
    Tcp(SocketAddr),
    Unix {
        path: PathBuf,
        /// The socket's own file, which may be at its path no longer.
        file: FileId,
    },
}

impl Listener {
    /// Binds a new socket at `place`, which is that of `wanted`; at an IPv6 address for IPv6 alone if `only_v6`.
    /// `ours` is asked what to do where the address is in use.
    ///
    /// # Errors
    /// What can't be bound.
    pub(crate) fn bind(
        wanted: Wanted,
        place: &Place,
        only_v6: bool,
        ours: impl Fn() -> Option<String>,
    ) -> Result<Listener, Error> {
        let failed = |e: io::Error| {
            let ours = if e.kind() == ErrorKind::AddrInUse { ours() } else { None };
            cannot_listen(&wanted.name, e, ours)
        };
        let (socket, file) = match (place, wanted.name.strip_prefix("unix:")) {
            (Place::Tcp(addresses), None) => {
                let socket = bind_first(addresses, only_v6).map_err(failed)?;
                socket.listen(wanted.backlog).map_err(failed)?;
                (socket, None)
            }
            // By the path as it was given, which has 108 bytes at most.
            (Place::Unix(_) | Place::Tcp(_), path) => {
                let path = path.unwrap_or(&wanted.name);
                let (socket, file) =
                    bind_unix(Path::new(path), wanted.backlog, Patience::Waits).map_err(failed)?;
                (socket, Some(file))
            }
        };
        Listener::adopt(wanted.clone(), Passed { name: wanted.name, fd: socket.into(), file })
    }

    /// Takes a listening socket that was inherited by that name.
    pub(crate) fn adopt(wanted: Wanted, passed: Passed<OwnedFd>) -> Result<Listener, Error> {
        let (name, fd) = (&*wanted.name, passed.fd);
        let odd = |e: io::Error| {
            Error::io(error::ErrorKind::Inherit, format!("unexpected state of the listener {name}"), e)
        };
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
                // A predecessor of a version that does not say which file it is has the socket that is there.
                let found = || FileId::at(&path).filter(|_| is_socket(&path));
                let file = passed.file.or_else(found).unwrap_or(FileId::NONE);
                ListenerKind::Unix { path, file }
            }
            _ => return Err(odd(io::Error::other("its address family does not match its name"))),
        };
        Ok(Listener { names: vec![wanted.name.clone()], wanted, fd: Arc::new(fd), kind, barred: false })
    }

    /// Whether one of `names` is its own.
    pub(crate) fn is_among(&self, names: &[String]) -> bool {
        self.names.iter().any(|name| names.contains(name))
    }

    /// Where it is bound.
    pub(crate) fn place(&self) -> Place {
        match &self.kind {
            ListenerKind::Tcp(address) => Place::Tcp(vec![*address]),
            ListenerKind::Unix { path, .. } => Place::unix(path),
        }
    }

    /// Takes no IPv4, although its address is one of IPv6.
    pub(crate) fn is_only_v6(&self) -> bool {
        SockRef::from(&*self.fd).only_v6().unwrap_or(false)
    }

    /// For an adopted unix socket whose path leads to it no longer: another one at that path, if nobody else has
    /// that. What another program has put there stays.
    pub(crate) fn bound_anew(&self) -> Option<Listener> {
        let ListenerKind::Unix { path, file } = &self.kind else { return None };
        if FileId::at(path) == Some(*file) {
            return None;
        }
        // Without waiting for another server that starts there: the predecessor waits for us.
        let name = &self.wanted.name;
        let bound = bind_unix(path, self.wanted.backlog, Patience::None);
        let listener = bound.map_err(|e| cannot_listen(name, e, None)).and_then(|(socket, file)| {
            let passed = Passed { name: name.clone(), fd: socket.into(), file: Some(file) };
            Listener::adopt(self.wanted.clone(), passed)
        });
        match listener {
            Ok(listener) => {
                warn!("{} was removed while the server ran: bound again", path.display());
                Some(listener)
            }
            Err(e) => {
                warn!("{} is no longer this server's socket, new clients can't connect: {e}", path.display());
                None
            }
        }
    }

    /// As the next generation gets it: by each of its names.
    pub(crate) fn passed(&self) -> Vec<Passed<Arc<OwnedFd>>> {
        let file = match &self.kind {
            ListenerKind::Tcp(_) => None,
            ListenerKind::Unix { file, .. } => Some(*file),
        };
        let by = |name: &String| Passed { name: name.clone(), fd: Arc::clone(&self.fd), file };
        self.names.iter().map(by).collect()
    }

    /// Makes the socket as it should be, as accepting begins. It is shared: the generation before or after us,
    /// which may serve in our place, may have asked for another backlog, and one that was killed within its stop
    /// has left its barrier.
    pub(crate) fn claim(&mut self) {
        self.barred |= barrier::lift(self.fd.as_fd());
        if let Err(e) = SockRef::from(&*self.fd).listen(self.wanted.backlog) {
            warn!("can't set the backlog of {}: {e}", self.address());
        }
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

    /// Whether its clients speak TLS.
    pub(crate) fn is_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.wanted.tls.is_some();
        #[cfg(not(feature = "tls"))]
        return false;
    }

    /// A connection that waits, or `WouldBlock`.
    pub(crate) fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        let (fd, peer) = sys::accept(self.fd.as_fd())?;
        if self.barred {
            barrier::lift(fd.as_fd());
        }
        if let (Some(idle), false) = (self.wanted.keepalive, self.is_unix()) {
            let keepalive = TcpKeepalive::new().with_time(idle.min(LONGEST_IDLE));
            // Refused by what is gone already, which shows when it is read.
            let _ = SockRef::from(&fd).set_tcp_keepalive(&keepalive);
        }
        let stream = Stream::new(fd, self.is_unix());
        let peer = peer.filter(|_| !self.is_unix());
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.wanted.tls {
            return Ok((stream.secured(tls), peer));
        }
        Ok((stream, peer))
    }

    /// For a process that stops and is the last to have the listener: nobody new connects from here
    /// on. Gives how long those may still arrive who had begun to.
    pub(crate) fn refuse_new(&mut self) -> Duration {
        if self.is_unix() {
            self.unlink();
            // Refuses at once, and what waits can still be accepted.
            let _ = SockRef::from(&*self.fd).shutdown(Shutdown::Read);
            return Duration::ZERO;
        }
        self.barred = true;
        match Barrier::put_up(self.fd.as_fd()) {
            Barrier::Closed => ROUND_TRIP,
            Barrier::OpenToThisHost(e) => {
                let address = self.address();
                warn!(
                    "can't filter {address}: {e}: a client on this host that connects while it is closed may be reset"
                );
                ROUND_TRIP
            }
            Barrier::Open(e) => {
                warn!(
                    "can't filter {}: {e}: a client that connects while it is closed may be reset",
                    self.address()
                );
                Duration::ZERO
            }
        }
    }

    /// Ends it for whoever else has it: a child of ours between fork and exec would keep it open.
    pub(crate) fn shut(&self) {
        let _ = SockRef::from(&*self.fd).shutdown(Shutdown::Read);
    }

    /// Removes a unix socket's path, unless something else is there by now.
    pub(crate) fn unlink(&self) {
        let ListenerKind::Unix { path, file } = &self.kind else { return };
        if FileId::at(path) == Some(*file) {
            match fs::remove_file(path) {
                Ok(()) => info!("removed {}", path.display()),
                Err(e) => warn!("can't remove {}: {e}", path.display()),
            }
        }
    }
}

/// `ours` is what to do where it is in use by this server or the generation before it.
fn cannot_listen(name: &str, e: io::Error, ours: Option<String>) -> Error {
    let advice = ours.unwrap_or_else(|| advice(name, &e).to_owned());
    Error::io(error::ErrorKind::Bind, format!("can't listen on {}{advice}", shown(name)), e)
}

/// A text that is empty can't be seen.
fn shown(name: &str) -> &str {
    if name.is_empty() { "\"\"" } else { name }
}

/// What to do about it.
fn advice(name: &str, e: &io::Error) -> &'static str {
    let is_path = name.starts_with("unix:");
    match e.kind() {
        ErrorKind::AddrInUse => ": another process uses it; stop that process, or use another address",
        ErrorKind::AlreadyExists => ": remove it, or use another path",
        ErrorKind::PermissionDenied if is_path => ": check the directory's permissions",
        ErrorKind::PermissionDenied => ": ports below 1024 need CAP_NET_BIND_SERVICE",
        ErrorKind::AddrNotAvailable => ": this host has no such address",
        ErrorKind::NotFound | ErrorKind::NotADirectory if is_path => ": its directory must exist",
        ErrorKind::InvalidInput => ": expected ADDRESS:PORT, HOST:PORT or unix:PATH",
        _ if name.starts_with(':') => ": for all addresses of this host use 0.0.0.0:PORT or [::]:PORT",
        // What the resolver says has no kind.
        _ if !is_path && e.raw_os_error().is_none() => ": check the host name",
        _ => "",
    }
}

/// The first address that can be bound, or why the first of all can't.
fn bind_first(addresses: &[SocketAddr], only_v6: bool) -> io::Result<Socket> {
    let mut first = None;
    for address in addresses {
        match bind_tcp(*address, only_v6) {
            Ok(socket) => return Ok(socket),
            Err(e) => first = first.or(Some(e)),
        }
    }
    Err(first.unwrap_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the name has no address")))
}

fn bind_tcp(address: SocketAddr, only_v6: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if only_v6 && address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What is done while another server is starting at the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    Waits,
    /// It has the path.
    None,
}

/// Listens at `path`, and says which file that is.
fn bind_unix(path: &Path, backlog: i32, patience: Patience) -> io::Result<(Socket, FileId)> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A server that has bound and does not listen yet looks like one that is gone.
    let _lock = PathLock::take(path, patience)?;
    match socket.bind(&address) {
        Err(e) if e.kind() == ErrorKind::AddrInUse && !is_socket(path) => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "the existing file is not a socket"));
        }
        Err(e) if e.kind() == ErrorKind::AddrInUse && is_stale(&address) => {
            info!("{} was left by a server that has ended: removed", path.display());
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        other => other?,
    }
    let file = FileId::at(path).ok_or(ErrorKind::NotFound)?;
    socket.listen(backlog)?;
    Ok((socket, file))
}

/// Excludes other servers that start at the same path. The lock is a file beside it, which is removed again.
struct PathLock {
    path: PathBuf,
    /// Locked while it is open.
    _file: Flock<File>,
}

impl PathLock {
    /// None: a path that can't be bound, a file system without locks, or something in the place of the lock.
    ///
    /// # Errors
    /// `AddrInUse` without patience, if another server has the lock.
    fn take(socket: &Path, patience: Patience) -> io::Result<Option<PathLock>> {
        let Some(name) = socket.file_name() else { return Ok(None) };
        let path = socket.with_file_name([OsStr::new("."), name, OsStr::new(".lock")].join(OsStr::new("")));
        loop {
            // Another user's is not created, which sticky folders forbid, but can be locked. Never waits, whatever
            // is there.
            let open = |options: &mut OpenOptions| {
                options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).mode(0o644).open(&path)
            };
            let opened = match open(OpenOptions::new().read(true)) {
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    open(OpenOptions::new().read(true).write(true).create_new(true))
                }
                other => other,
            };
            let file = match opened {
                Ok(file) => file,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                Err(_) => return Ok(None),
            };
            let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock).or_else(|(file, e)| {
                if e == Errno::EWOULDBLOCK && patience == Patience::Waits {
                    info!("another server is starting at {}: waiting for it", socket.display());
                    Flock::lock(file, FlockArg::LockExclusive)
                } else {
                    Err((file, e))
                }
            });
            let file = match locked {
                Ok(file) => file,
                Err((_, Errno::EINTR)) => continue,
                Err((_, Errno::EWOULDBLOCK)) => return Err(ErrorKind::AddrInUse.into()),
                Err(_) => return Ok(None),
            };
            // Its last owner may have removed it meanwhile.
            let ours = file.metadata().map(|file| (file.dev(), file.ino()));
            let named = fs::symlink_metadata(&path).map(|file| (file.dev(), file.ino()));
            if named.is_ok_and(|named| ours.is_ok_and(|ours| ours == named)) {
                return Ok(Some(PathLock { path, _file: file }));
            }
        }
    }
}

impl Drop for PathLock {
    fn drop(&mut self) {
        // While it is locked: a server that waits for it sees that it is gone, and makes another.
        let _ = fs::remove_file(&self.path);
    }
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{IpAddr, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn bind(name: &str) -> Result<Listener, Error> {
        bind_wanted(Wanted::new(name.to_owned(), 0))
    }

    fn bind_wanted(wanted: Wanted) -> Result<Listener, Error> {
        let place = Place::resolve(&wanted.name)?;
        Listener::bind(wanted, &place, false, || None)
    }

    fn adopt(wanted: Wanted, from: &Listener) -> Result<Listener, Error> {
        let Passed { name, fd, file } = from.passed().swap_remove(0);
        Listener::adopt(wanted, Passed { name, fd: fd.try_clone().unwrap(), file })
    }

    fn connect(listener: &Listener, host: &str, within: Duration) -> io::Result<TcpStream> {
        let host: IpAddr = host.parse().unwrap();
        TcpStream::connect_timeout(&(host, listener.socket_addr().unwrap().port()).into(), within)
    }

    /// Until it has come, which on one host is no question of time.
    fn accepted(listener: &Listener) -> Stream {
        loop {
            match listener.accept() {
                Ok((stream, _)) => return stream,
                Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            }
        }
    }

    #[test]
    fn who_has_begun_to_connect_comes_in_and_nobody_else() {
        const BRIEF: Duration = Duration::from_millis(100);
        let families =
            [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")];
        let each = families.iter().flat_map(|family| [(family, true), (family, false)]);
        for ((name, host), filters) in each {
            let Ok(mut listener) = bind(name) else {
                eprintln!("SKIPPED: this host can't listen on {name}");
                continue;
            };
            let set =
                |level, option, value| sys::set_option(listener.fd.as_fd(), level, option, value).unwrap();
            if !filters {
                set(libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1);
            }
            let waiting = connect(&listener, host, BRIEF).unwrap();
            // From here on a handshake ends with the client's first byte.
            set(libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 9);
            let mut begun = connect(&listener, host, BRIEF).unwrap();

            assert_eq!(listener.refuse_new(), ROUND_TRIP);
            let stranger = connect(&listener, host, BRIEF).unwrap_err();
            assert_eq!(stranger.kind(), ErrorKind::TimedOut, "{name} {host}");
            begun.write_all(b"hello").unwrap();
            for client in [waiting, begun] {
                let (stream, peer) = (accepted(&listener), client.local_addr().unwrap());
                let Stream::Tcp(inner) = &stream else { panic!("of another family") };
                assert_eq!(inner.peer_addr().unwrap().port(), peer.port());
                assert!(!barrier::lift(stream.as_fd()), "it is lifted already");
            }

            listener.shut();
            let refused = connect(&listener, host, BRIEF).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "although it is still open");
        }
    }

    /// As one that is killed within its stop leaves it, to a process that has the socket, too.
    #[test]
    fn a_socket_that_was_closed_to_new_clients_serves_again() {
        const PATIENT: Duration = Duration::from_secs(20);
        for (name, host) in
            [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")]
        {
            let Ok(mut killed) = bind(name) else {
                eprintln!("SKIPPED: this host can't listen on {name}");
                continue;
            };
            sys::set_option(killed.fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 9).unwrap();
            let mut begun = connect(&killed, host, PATIENT).unwrap();
            killed.refuse_new();
            begun.write_all(b"a").unwrap();

            let mut next = adopt(killed.wanted.clone(), &killed).unwrap();
            drop(killed);
            next.claim();
            let mut new = connect(&next, host, PATIENT).unwrap();
            new.write_all(b"b").unwrap();
            for (mut client, first) in [(begun, b"a"), (new, b"b")] {
                let Stream::Tcp(stream) = accepted(&next) else { panic!("of another family") };
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENT)).unwrap();
                client.write_all(b"c").unwrap();
                let mut heard = [0; 2];
                (&*stream).read_exact(&mut heard).unwrap();
                assert_eq!(heard, [first[0], b'c'], "{name} {host}");
            }
        }
    }

    #[test]
    fn a_unix_socket_refuses_at_once_and_gives_who_waits() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("socket"), folder.path().join("moved"));
        let mut listener = bind(&format!("unix:{}", path.display())).unwrap();
        let waiting = [(); 3].map(|()| UnixStream::connect(&path).unwrap());
        // Who has found the path before it is removed.
        fs::hard_link(&path, &moved).unwrap();
        assert_eq!(listener.refuse_new(), Duration::ZERO);
        assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(UnixStream::connect(&moved).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        for _ in &waiting {
            listener.accept().unwrap();
        }
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn of_servers_that_start_on_one_path_one_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        for round in 0..50 {
            // In turn with the file of a server that is gone, and without.
            if round % 2 == 0 {
                drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            }
            let start = std::sync::Barrier::new(6);
            let started: Vec<Listener> = std::thread::scope(|scope| {
                let one = || {
                    start.wait();
                    bind(&format!("unix:{}", path.display()))
                };
                let starters = [(); 6].map(|()| scope.spawn(one));
                starters.into_iter().filter_map(|starter| starter.join().unwrap().ok()).collect()
            });
            assert_eq!(started.len(), 1, "round {round}");
            let client = UnixStream::connect(&path).unwrap();
            started[0].accept().unwrap();
            drop(client);
            let names: Vec<_> =
                fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, ["socket"], "nothing is left beside it");
            started[0].unlink();
            assert!(!path.exists());
        }
    }

    #[test]
    fn the_lock_of_a_dead_server_prevents_no_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        fs::write(folder.path().join(".socket.lock"), "").unwrap();
        let listener = bind(&format!("unix:{}", path.display())).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(listener);
        // Something in its place that opens and never ends, and what can't be opened.
        let lock = folder.path().join(".socket.lock");
        nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).unwrap();
        bind(&format!("unix:{}", path.display())).unwrap();
        let puts: [&dyn Fn(); 3] = [
            &|| std::os::unix::fs::symlink("nowhere", &lock).unwrap(),
            &|| drop(std::os::unix::net::UnixListener::bind(&lock).unwrap()),
            // To root it can.
            &|| nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::empty()).unwrap(),
        ];
        for put in puts {
            let _ = fs::remove_file(&lock);
            put();
            bind(&format!("unix:{}", path.display())).unwrap();
        }
    }

    /// Its predecessor waits for it, and would kill it in the end.
    #[test]
    fn a_successor_does_not_wait_for_servers_at_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let old = bind(&format!("unix:{}", path.display())).unwrap();
        fs::remove_file(&path).unwrap();
        let starts = PathLock::take(&path, Patience::Waits).unwrap();
        assert!(starts.is_some());
        let new = adopt(old.wanted.clone(), &old).unwrap();
        assert!(new.bound_anew().is_none());
        drop(starts);
        assert!(new.bound_anew().is_some());
    }

    /// What a successor finds at the path, and what it makes of it.
    #[test]
    fn a_successor_has_what_its_predecessor_had_and_nothing_else() {
        let reach = |path: &Path| {
            let mut client = UnixStream::connect(path).unwrap();
            client.write_all(b"!").unwrap();
        };
        let comes_to = |listener: &Listener, path: &Path| {
            reach(path);
            let came = listener.accept().is_ok();
            while listener.accept().is_ok() {}
            came
        };
        // By a predecessor that says which file its socket has, and by one that does not.
        for says in [true, false] {
            let inherit = |old: &Listener| {
                let Passed { name, fd, file } = old.passed().swap_remove(0);
                let passed = Passed { name, fd: fd.try_clone().unwrap(), file: file.filter(|_| says) };
                Listener::adopt(old.wanted.clone(), passed).unwrap()
            };
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("socket");
            let old = bind(&format!("unix:{}", path.display())).unwrap();

            let new = inherit(&old);
            assert!(new.bound_anew().is_none());
            assert!(comes_to(&new, &path), "it is there");

            fs::remove_file(&path).unwrap();
            let new = inherit(&old);
            let anew = new.bound_anew().expect("nobody has the path");
            assert!(comes_to(&anew, &path));
            new.unlink();
            assert!(comes_to(&anew, &path), "the file of another socket");

            // The generation after that, and one that was killed before it served.
            let next = inherit(&anew);
            assert!(next.bound_anew().is_none());
            drop((anew, next));
            assert!(inherit(&old).bound_anew().is_some() || !says, "the file of a socket of nobody");

            fs::remove_file(&path).unwrap();
            fs::write(&path, "not yours").unwrap();
            let new = inherit(&old);
            assert!(new.bound_anew().is_none());
            new.unlink();
            inherit(&new).unlink();
            assert_eq!(fs::read_to_string(&path).unwrap(), "not yours");

            fs::remove_file(&path).unwrap();
            let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
            if says {
                let new = inherit(&old);
                assert!(new.bound_anew().is_none());
                new.unlink();
                inherit(&new).unlink();
                reach(&path);
                other.accept().unwrap();
            }
        }
    }

    /// How many can connect to it until the kernel takes no more.
    fn backlog_of(listener: &Listener, path: &Path) -> usize {
        let address = SockAddr::unix(path).unwrap();
        let connect = || {
            let client = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            client.set_nonblocking(true)?;
            client.connect(&address).map(|()| client)
        };
        let waiting: Vec<Socket> = std::iter::from_fn(|| connect().ok()).collect();
        assert_eq!(connect().unwrap_err().kind(), ErrorKind::WouldBlock);
        for _ in &waiting {
            listener.accept().unwrap();
        }
        // The kernel takes one more than it is told.
        waiting.len() - 1
    }

    #[test]
    fn its_backlog_is_that_of_who_accepts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let wanted = |backlog| {
            let wanted = Wanted::new(format!("unix:{}", path.display()), 0);
            Wanted { backlog, ..wanted }
        };
        let mut old = bind_wanted(wanted(3)).unwrap();
        assert_eq!(backlog_of(&old, &path), 3);
        let mut new = adopt(wanted(7), &old).unwrap();
        assert_eq!(backlog_of(&new, &path), 3, "only prepared: the old one serves");
        new.claim();
        assert_eq!(backlog_of(&new, &path), 7);
        old.claim();
        assert_eq!(backlog_of(&old, &path), 3, "after a rollback");
    }

    #[test]
    fn connections_are_probed_as_asked() {
        let wanted = |keepalive| Wanted { keepalive, ..Wanted::new("127.0.0.1:0".to_owned(), 0) };
        let plain = bind_wanted(wanted(None)).unwrap();
        let minute = Duration::from_secs(60);
        let idles = [
            (None, None),
            (Some(minute), Some(minute)),
            (Some(Duration::MAX), Some(LONGEST_IDLE)),
            // As a generation that does not ask for it.
            (None, None),
        ];
        for (asked, set) in idles {
            let listener = adopt(wanted(asked), &plain).unwrap();
            let _client = connect(&listener, "127.0.0.1", Duration::from_secs(20)).unwrap();
            let stream = accepted(&listener);
            let socket = SockRef::from(&stream);
            let idle = socket.keepalive().unwrap().then(|| socket.tcp_keepalive_time().unwrap());
            assert_eq!(idle, set);
        }
    }
}
