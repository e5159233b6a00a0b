//! Listening sockets: bound at the address given to `listen`, or inherited by it.

mod barrier;
mod place;
mod unix_path;

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::Mode;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

use crate::base::error::{self, Error};
use crate::base::log::{Escaped, info, warn};
use crate::base::sys;
#[cfg(feature = "proxy")]
use crate::net::proxies::Proxies;
use crate::net::stream::Stream;
#[cfg(feature = "tls")]
use crate::net::tls::Tls;
use crate::process::handover::{FileId, Owner, Passed, later_generation};
use crate::process::systemd::activation::PREFIX;
use barrier::Barrier;
pub(crate) use place::Place;
use unix_path::{IfLocked, is_socket};

/// How many connections the kernel queues until they are accepted, unless a listener is configured otherwise.
pub(crate) const BACKLOG: i32 = 1024;

/// How long a handshake in progress may take when a listener is closed: one round trip.
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// The most that the kernel takes for TCP_KEEPIDLE.
const LONGEST_IDLE: Duration = Duration::from_secs(32_767);

/// The configuration of a listener.
#[derive(Clone)]
pub(crate) struct ListenerConfig {
    /// The text given to `listen`.
    pub(crate) name: String,
    pub(crate) handler_index: usize,
    /// Accepts even at the connection limit.
    pub(crate) reserved: bool,
    pub(crate) backlog: i32,
    /// How long a client may be silent before it is probed.
    pub(crate) keepalive: Option<Duration>,
    /// None: plain text.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Tls>,
    /// None: no proxy is believed.
    #[cfg(feature = "proxy")]
    pub(crate) proxies: Option<Proxies>,
}

impl ListenerConfig {
    pub(crate) fn new(name: String, handler_index: usize) -> ListenerConfig {
        ListenerConfig {
            name,
            handler_index,
            reserved: false,
            backlog: BACKLOG,
            keepalive: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "proxy")]
            proxies: None,
        }
    }

    /// Whether the two listeners look the same to a client.
    pub(crate) fn has_settings_of(&self, other: &ListenerConfig) -> bool {
        #[cfg(feature = "tls")]
        let same_tls = match (&self.tls, &other.tls) {
            (Some(tls), Some(other)) => tls.is_same(other),
            (tls, other) => tls.is_none() && other.is_none(),
        };
        #[cfg(not(feature = "tls"))]
        let same_tls = true;
        #[cfg(feature = "proxy")]
        let same_proxies = self.proxies == other.proxies;
        #[cfg(not(feature = "proxy"))]
        let same_proxies = true;
        same_tls
            && same_proxies
            && (self.handler_index, self.reserved) == (other.handler_index, other.reserved)
    }
}

/// A bound socket.
#[derive(Clone)]
pub(crate) struct Listener {
    pub(crate) config: ListenerConfig,
    /// Its names at a handover: the text given to `listen`, and the names by which it was inherited. So a successor of an
    /// earlier version, or with an earlier configuration, finds it too.
    pub(crate) names: Vec<String>,
    pub(crate) fd: Arc<OwnedFd>,
    kind: ListenerKind,
    pub(crate) owner: Owner,
    /// A barrier was put up on the socket: connections that are accepted may have inherited it.
    barred: bool,
}

#[derive(Clone)]
enum ListenerKind {
    Tcp(SocketAddr),
    Unix {
        path: PathBuf,
        /// The file of the socket, which may not be at the path any more.
        file: FileId,
    },
}

impl Listener {
    /// Binds a new socket at `place`, which is that of `config`; at an IPv6 address for IPv6 alone if `only_v6`. Where the
    /// address is in use, `advice` may say what to do.
    ///
    /// # Errors
    /// An address that can't be bound.
    pub(crate) fn bind(
        config: ListenerConfig,
        place: &Place,
        only_v6: bool,
        advice: impl Fn() -> Option<String>,
    ) -> Result<Listener, Error> {
        let failed = |e: io::Error| {
            let advice = || advice().or_else(|| held_by_later_generation(&config.name));
            let is_in_use = e.kind() == ErrorKind::AddrInUse;
            cannot_listen(&config.name, e, is_in_use.then(advice).flatten())
        };
        let (socket, file) = match (place, config.name.strip_prefix("unix:")) {
            (Place::Tcp(addresses), None) => {
                let socket = bind_first(addresses, only_v6).map_err(failed)?;
                socket.listen(config.backlog).map_err(failed)?;
                (socket, None)
            }
            // The path is bound as it was given, since it may have 108 bytes at most.
            (Place::Unix(_) | Place::Tcp(_), path) => {
                let path = path.unwrap_or(&config.name);
                let (socket, file) =
                    unix_path::bind(Path::new(path), config.backlog, IfLocked::Wait, None).map_err(failed)?;
                (socket, Some(file))
            }
        };
        let passed =
            Passed { name: config.name.clone(), fd: Arc::new(socket.into()), file, owner: Owner::Server };
        Listener::adopt(config, passed)
    }

    /// Takes over a listening socket that was inherited.
    pub(crate) fn adopt(config: ListenerConfig, passed: Passed) -> Result<Listener, Error> {
        let (name, fd) = (&*config.name, passed.fd);
        let odd = |e: io::Error| {
            Error::io(error::ErrorKind::Inherit, format!("unexpected state of the listener {name}"), e)
        };
        let socket = SockRef::from(&*fd);
        // The flag is shared with every generation.
        socket.set_nonblocking(true).map_err(odd)?;
        let local = socket.local_addr().map_err(odd)?;
        let activated = local.as_pathname().filter(|_| name.starts_with(PREFIX));
        let path = name.strip_prefix("unix:").map(Path::new).or(activated);
        let kind = match (local.as_socket(), path) {
            (Some(address), None) => {
                // Inherited by accepted sockets, which saves a call for each.
                socket.set_tcp_nodelay(true).map_err(odd)?;
                ListenerKind::Tcp(address)
            }
            (None, Some(path)) => {
                let path = std::path::absolute(path).map_err(odd)?;
                // A predecessor of an early version does not say which file it is: then it is the socket at the path.
                let found = || FileId::at(&path).filter(|_| is_socket(&path));
                let file = passed.file.or_else(found).unwrap_or(FileId::NONE);
                ListenerKind::Unix { path, file }
            }
            _ => return Err(odd(io::Error::other("its address family does not match its name"))),
        };
        let (names, owner) = (vec![config.name.clone()], passed.owner);
        Ok(Listener { names, config, fd, kind, owner, barred: false })
    }

    /// Whether one of `names` is a name of this listener.
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

    /// Whether it accepts IPv6 alone.
    pub(crate) fn is_only_v6(&self) -> bool {
        SockRef::from(&*self.fd).only_v6().unwrap_or(false)
    }

    /// For an inherited unix socket whose path does not lead to it any more: another socket at that path, unless the path is in
    /// use. A file that another program has put there stays.
    pub(crate) fn rebind(&self) -> Option<Listener> {
        let ListenerKind::Unix { path, file } = &self.kind else { return None };
        if FileId::at(path) == Some(*file) || self.owner == Owner::Systemd {
            return None;
        }
        // Does not wait for another server that starts there: the predecessor waits for us.
        let name = &self.config.name;
        let bound = unix_path::bind(path, self.config.backlog, IfLocked::Fail, None);
        let listener = bound.map_err(|e| cannot_listen(name, e, None)).and_then(|(socket, file)| {
            let passed = Passed {
                name: name.clone(),
                fd: Arc::new(socket.into()),
                file: Some(file),
                owner: Owner::Server,
            };
            Listener::adopt(self.config.clone(), passed)
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

    /// The socket under each of its names, for the next generation.
    pub(crate) fn passed(&self) -> Vec<Passed> {
        let file = match &self.kind {
            ListenerKind::Tcp(_) => None,
            ListenerKind::Unix { file, .. } => Some(*file),
        };
        let by = |name: &String| {
            let (fd, owner) = (Arc::clone(&self.fd), self.owner);
            Passed { name: name.clone(), fd, file, owner }
        };
        self.names.iter().map(by).collect()
    }

    /// Configures the socket before this process accepts. It is shared: the generation before or after us may have set
    /// another backlog, and a process that was killed within its stop has left its barrier.
    pub(crate) fn prepare(&mut self) {
        if self.owner == Owner::Systemd {
            return;
        }
        self.barred |= barrier::lift(self.fd.as_fd());
        if let Err(e) = SockRef::from(&*self.fd).listen(self.config.backlog) {
            warn!("can't set the backlog of {}: {e}", self.address());
        }
    }

    /// The address of clients, as text.
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

    /// How many connections wait to be accepted, where the kernel knows.
    pub(crate) fn waiting(&self) -> Option<usize> {
        if self.is_unix() { None } else { sys::waiting_connections(self.fd.as_fd()) }
    }

    /// Accepts a connection that waits, or fails with `WouldBlock`.
    pub(crate) fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        let (fd, peer) = sys::accept(self.fd.as_fd())?;
        if self.barred {
            barrier::lift(fd.as_fd());
        }
        if let (Some(idle), false) = (self.config.keepalive, self.is_unix()) {
            let keepalive = TcpKeepalive::new().with_time(idle.min(LONGEST_IDLE));
            // This fails if the client has disconnected already, which a read reports.
            let _ = SockRef::from(&fd).set_tcp_keepalive(&keepalive);
        }
        let stream = Stream::new(fd, self.is_unix());
        let peer = peer.filter(|_| !self.is_unix());
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.config.tls {
            return Ok((stream.secured(tls), peer));
        }
        Ok((stream, peer))
    }

    /// For a process that stops and is the last to have the listener: no new client connects from here on. Returns how long
    /// handshakes in progress may still take.
    pub(crate) fn refuse_new(&mut self) -> Duration {
        if self.owner == Owner::Systemd {
            info!(
                "{} belongs to systemd and stays open: clients that connect from now on wait for the next start",
                self.address();
                listener:% = Escaped(&self.config.name)
            );
            return Duration::ZERO;
        }
        if self.is_unix() {
            self.unlink();
            // New clients are refused at once, and those that wait can still be accepted.
            let _ = SockRef::from(&*self.fd).shutdown(Shutdown::Read);
            return Duration::ZERO;
        }
        self.barred = true;
        match Barrier::put_up(self.fd.as_fd()) {
            Barrier::Closed => ROUND_TRIP,
            Barrier::OpenToThisHost(e) => {
                let address = self.address();
                warn!(
                    "can't filter {address}: {e}: a client on this host that connects while it is closed may be reset";
                    listener:% = Escaped(&self.config.name),
                    reason:% = Escaped(&e)
                );
                ROUND_TRIP
            }
            Barrier::Open(e) => {
                warn!(
                    "can't filter {}: {e}: a client that connects while it is closed may be reset",
                    self.address();
                    listener:% = Escaped(&self.config.name),
                    reason:% = Escaped(&e)
                );
                Duration::ZERO
            }
        }
    }

    /// Ends the socket in every process, because a child between fork and exec would keep it open.
    pub(crate) fn shut(&self) {
        if self.owner == Owner::Systemd {
            return;
        }
        let _ = SockRef::from(&*self.fd).shutdown(Shutdown::Read);
    }

    /// Removes a unix socket's path, unless something else is there.
    pub(crate) fn unlink(&self) {
        let ListenerKind::Unix { path, file } = &self.kind else { return };
        if FileId::at(path) == Some(*file) && self.owner == Owner::Server {
            match fs::remove_file(path) {
                Ok(()) => info!("removed {}", path.display(); path:% = Escaped(path.display())),
                Err(e) => warn!(
                    "can't remove {}: {e}", path.display();
                    path:% = Escaped(path.display()),
                    reason:% = Escaped(&e)
                ),
            }
        }
    }
}

/// Listens at `path`, for this user alone. Does not wait for another server that starts there.
pub(crate) fn bind_private(path: &Path) -> io::Result<(OwnedFd, FileId)> {
    let owner_only = Mode::S_IRUSR | Mode::S_IWUSR;
    unix_path::bind(path, BACKLOG, IfLocked::Fail, Some(owner_only))
        .map(|(socket, file)| (socket.into(), file))
}

fn cannot_listen(name: &str, e: io::Error, advised: Option<String>) -> Error {
    let advice = advised.unwrap_or_else(|| advice(name, &e).to_owned());
    Error::io(error::ErrorKind::Bind, format!("can't listen on {}{advice}", shown(name)), e)
}

/// What to do where a later generation of this program has the address.
fn held_by_later_generation(name: &str) -> Option<String> {
    let pid = later_generation::holder_of(name)?;
    Some(format!(
        ": process {pid} listens there, a later generation of this program. If a supervisor has started the program again \
         because generation 1 has ended after a handover, write ProcessConfig::supervise, or Type=notify under systemd. To \
         start the service anew, stop it first (kill -TERM {pid})"
    ))
}

/// An empty name would not be visible.
fn shown(name: &str) -> &str {
    if name.is_empty() { "\"\"" } else { name }
}

/// Advice to the user.
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
        // Errors of the resolver have no kind.
        _ if !is_path && e.raw_os_error().is_none() => ": check the host name",
        _ => "",
    }
}

/// Binds the first address that can be bound; fails with the error of the first one.
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{IpAddr, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use socket2::SockAddr;

    use super::*;

    pub(super) fn bind(name: &str) -> Result<Listener, Error> {
        bind_config(ListenerConfig::new(name.to_owned(), 0))
    }

    fn bind_config(config: ListenerConfig) -> Result<Listener, Error> {
        let place = Place::resolve(&config.name)?;
        Listener::bind(config, &place, false, || None)
    }

    pub(super) fn adopt(config: ListenerConfig, from: &Listener) -> Result<Listener, Error> {
        let Passed { name, fd, file, owner } = from.passed().swap_remove(0);
        Listener::adopt(config, Passed { name, fd: Arc::new(fd.try_clone().unwrap()), file, owner })
    }

    fn connect(listener: &Listener, host: &str, within: Duration) -> io::Result<TcpStream> {
        let host: IpAddr = host.parse().unwrap();
        TcpStream::connect_timeout(&(host, listener.socket_addr().unwrap().port()).into(), within)
    }

    /// Accepts a connection, which arrives soon on one host.
    fn accepted(listener: &Listener) -> Stream {
        loop {
            match listener.accept() {
                Ok((stream, _)) => return stream,
                Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            }
        }
    }

    #[test]
    fn the_kernel_knows_how_many_connections_wait() {
        let listener = bind("127.0.0.1:0").unwrap();
        assert_eq!(listener.waiting(), Some(0));
        let clients = [(); 3].map(|()| connect(&listener, "127.0.0.1", Duration::from_secs(60)).unwrap());
        while listener.waiting() != Some(clients.len()) {}
        accepted(&listener);
        assert_eq!(listener.waiting(), Some(2));
        listener.shut();
        assert_eq!(listener.waiting(), None, "it is no listener any more");
    }

    #[test]
    fn started_handshakes_complete_and_no_other_starts() {
        const BRIEF: Duration = Duration::from_millis(100);
        let families =
            [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")];
        let each = families.iter().flat_map(|family| [(family, true), (family, false)]);
        for ((name, host), filters) in each {
            let Ok(mut listener) = bind(name) else {
                crate::base::skip::skip(&format!("this host can't listen on {name}"));
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
            let mut connected = connect(&listener, host, BRIEF).unwrap();

            assert_eq!(listener.refuse_new(), ROUND_TRIP);
            let stranger = connect(&listener, host, BRIEF).unwrap_err();
            assert_eq!(stranger.kind(), ErrorKind::TimedOut, "{name} {host}");
            connected.write_all(b"hello").unwrap();
            for client in [waiting, connected] {
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

    /// A process that is killed within its stop leaves the socket so to another one that has it.
    #[test]
    fn a_socket_that_was_closed_to_new_clients_serves_again() {
        const PATIENT: Duration = Duration::from_secs(20);
        for (name, host) in
            [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")]
        {
            let Ok(mut killed) = bind(name) else {
                crate::base::skip::skip(&format!("this host can't listen on {name}"));
                continue;
            };
            sys::set_option(killed.fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 9).unwrap();
            let mut connected = connect(&killed, host, PATIENT).unwrap();
            killed.refuse_new();
            connected.write_all(b"a").unwrap();

            let mut next = adopt(killed.config.clone(), &killed).unwrap();
            drop(killed);
            next.prepare();
            let mut new = connect(&next, host, PATIENT).unwrap();
            new.write_all(b"b").unwrap();
            for (mut client, first) in [(connected, b"a"), (new, b"b")] {
                let Stream::Tcp(stream) = accepted(&next) else { panic!("of another family") };
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENT)).unwrap();
                client.write_all(b"c").unwrap();
                let mut received = [0; 2];
                (&*stream).read_exact(&mut received).unwrap();
                assert_eq!(received, [first[0], b'c'], "{name} {host}");
            }
        }
    }

    #[test]
    fn a_unix_socket_that_refuses_gives_waiting_connections() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("socket"), folder.path().join("moved"));
        let mut listener = bind(&format!("unix:{}", path.display())).unwrap();
        let waiting = [(); 3].map(|()| UnixStream::connect(&path).unwrap());
        // For a client that found the path before it was removed.
        fs::hard_link(&path, &moved).unwrap();
        assert_eq!(listener.refuse_new(), Duration::ZERO);
        assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(UnixStream::connect(&moved).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        for _ in &waiting {
            listener.accept().unwrap();
        }
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    /// A successor that finds various things at the path.
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
        // The predecessor says which file its socket has, or it does not.
        for says in [true, false] {
            let inherit = |old: &Listener| {
                let Passed { name, fd, file, owner } = old.passed().swap_remove(0);
                let (fd, file) = (Arc::new(fd.try_clone().unwrap()), file.filter(|_| says));
                let passed = Passed { name, fd, file, owner };
                Listener::adopt(old.config.clone(), passed).unwrap()
            };
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("socket");
            let old = bind(&format!("unix:{}", path.display())).unwrap();

            let new = inherit(&old);
            assert!(new.rebind().is_none());
            assert!(comes_to(&new, &path), "it is there");

            fs::remove_file(&path).unwrap();
            let new = inherit(&old);
            let anew = new.rebind().expect("nobody has the path");
            assert!(comes_to(&anew, &path));
            new.unlink();
            assert!(comes_to(&anew, &path), "the file of another socket");

            // The generation after that, and another one after a generation that was killed before it served.
            let next = inherit(&anew);
            assert!(next.rebind().is_none());
            drop((anew, next));
            if says {
                // The file of a socket that no process has, once no other test's child has it between its fork and its exec.
                let since = Instant::now();
                while inherit(&old).rebind().is_none() {
                    assert!(since.elapsed() < Duration::from_secs(20), "the file of a socket of nobody");
                    std::thread::yield_now();
                }
            } else {
                drop(inherit(&old).rebind());
            }

            fs::remove_file(&path).unwrap();
            fs::write(&path, "not yours").unwrap();
            let new = inherit(&old);
            assert!(new.rebind().is_none());
            new.unlink();
            inherit(&new).unlink();
            assert_eq!(fs::read_to_string(&path).unwrap(), "not yours");

            fs::remove_file(&path).unwrap();
            let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
            if says {
                let new = inherit(&old);
                assert!(new.rebind().is_none());
                new.unlink();
                inherit(&new).unlink();
                reach(&path);
                other.accept().unwrap();
            }
        }
    }

    /// How many clients can connect until the kernel takes no more.
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
        // The kernel takes one more than the backlog.
        waiting.len() - 1
    }

    #[test]
    fn the_backlog_is_that_of_the_generation_that_accepts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let config = |backlog| {
            let config = ListenerConfig::new(format!("unix:{}", path.display()), 0);
            ListenerConfig { backlog, ..config }
        };
        let mut old = bind_config(config(3)).unwrap();
        assert_eq!(backlog_of(&old, &path), 3);
        let mut new = adopt(config(7), &old).unwrap();
        assert_eq!(backlog_of(&new, &path), 3, "only prepared: the old one serves");
        new.prepare();
        assert_eq!(backlog_of(&new, &path), 7);
        old.prepare();
        assert_eq!(backlog_of(&old, &path), 3, "after a rollback");
    }

    #[test]
    fn connections_are_probed_as_configured() {
        let config =
            |keepalive| ListenerConfig { keepalive, ..ListenerConfig::new("127.0.0.1:0".to_owned(), 0) };
        let plain = bind_config(config(None)).unwrap();
        let minute = Duration::from_secs(60);
        let idles = [
            (None, None),
            (Some(minute), Some(minute)),
            (Some(Duration::MAX), Some(LONGEST_IDLE)),
            // A generation without keepalive.
            (None, None),
        ];
        for (asked, set) in idles {
            let listener = adopt(config(asked), &plain).unwrap();
            let _client = connect(&listener, "127.0.0.1", Duration::from_secs(20)).unwrap();
            let stream = accepted(&listener);
            let socket = SockRef::from(&stream);
            let idle = socket.keepalive().unwrap().then(|| socket.tcp_keepalive_time().unwrap());
            assert_eq!(idle, set);
        }
    }
}
