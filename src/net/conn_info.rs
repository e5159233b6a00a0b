//! Where a request comes from: what a handler can learn about its connection and its process.
//!
//! A connection's socket is behind an `Arc`, and its requests have a `Weak`. So a handler on any thread can find out by one
//! system call whether the client has disconnected, and which client it is, without keeping the connection open. This costs
//! one small allocation for each connection. The alternatives are worse: the number of the descriptor might belong to
//! another connection by then, and a duplicate would be one more descriptor for each connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use crate::base::file_budget::FileBudget;
use crate::base::phase::{Drain, PhaseWatch};
use crate::net::listener::ListenerConfig;
#[cfg(feature = "proxy")]
use crate::net::proxies::Proxies;
#[cfg(feature = "tls")]
use crate::net::tls::TlsInfo;

/// Made once per connection, with TLS once more after the handshake, and shared by its requests.
pub(crate) struct ConnInfo {
    /// Canonical; None for a unix socket. Where a trusted proxy has sent a PROXY header, the address in it.
    pub(crate) peer: Option<SocketAddr>,
    /// The proxy that has sent such a header.
    pub(crate) proxy: Option<ProxyHop>,
    /// The connection is to start with that header, which has not been read yet.
    #[cfg(feature = "proxy")]
    pub(crate) awaits_proxy_header: bool,
    /// None where there is no connection.
    pub(crate) listener: Option<Arc<ListenerConfig>>,
    /// None where there is no connection.
    pub(crate) socket: Option<Socket>,
    /// When the connection was accepted, by this process or an earlier one.
    pub(crate) since: Instant,
    /// When this connection is to end, because the process drains.
    pub(crate) drain: Drain,
    pub(crate) generation: u32,
    /// The files that all requests may have. None where there is no HTTP server.
    #[cfg_attr(
        not(any(feature = "files", feature = "multipart")),
        allow(dead_code, reason = "some handlers open files")
    )]
    pub(crate) files: Option<Arc<FileBudget>>,
    /// None without TLS.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsInfo>,
}

impl ConnInfo {
    pub(crate) fn new(peer: Option<SocketAddr>, phase: PhaseWatch, generation: u32) -> ConnInfo {
        ConnInfo {
            peer: peer.map(canonical),
            proxy: None,
            #[cfg(feature = "proxy")]
            awaits_proxy_header: false,
            listener: None,
            socket: None,
            since: Instant::now(),
            drain: Drain::of(phase),
            generation,
            files: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// A handle for a connection of the same process.
    pub(crate) fn of_connection(
        &self,
        peer: Option<SocketAddr>,
        proxy: Option<ProxyHop>,
        listener: Option<Arc<ListenerConfig>>,
        socket: Socket,
    ) -> ConnInfo {
        ConnInfo {
            proxy,
            listener,
            socket: Some(socket),
            since: self.since,
            drain: self.drain.clone(),
            files: self.files.clone(),
            ..ConnInfo::new(peer, self.drain.watch().clone(), self.generation)
        }
    }

    pub(crate) fn is_client_gone(&self) -> bool {
        self.socket.as_ref().is_some_and(Socket::has_ended)
    }

    /// The peer by which connections are limited. None for a trusted proxy, which has the connections of many clients.
    pub(crate) fn limited_peer(&self) -> Option<SocketAddr> {
        #[cfg(feature = "proxy")]
        if self.trusts_peer() {
            return None;
        }
        self.peer
    }

    /// Whether the peer is a proxy whose statements are believed.
    #[cfg(feature = "proxy")]
    pub(crate) fn trusts_peer(&self) -> bool {
        let address = self.peer.map(|peer| peer.ip());
        !self.is_unnamed() && self.proxies().is_some_and(|proxies| proxies.trust(address))
    }

    /// Whether this is a client that its proxy did not name, and so no client of a unix socket.
    #[cfg(feature = "proxy")]
    pub(crate) fn is_unnamed(&self) -> bool {
        self.peer.is_none() && self.proxy.is_some()
    }

    #[cfg(feature = "proxy")]
    pub(crate) fn proxies(&self) -> Option<&Proxies> {
        self.listener.as_ref().and_then(|listener| listener.proxies.as_ref())
    }

    /// Whether the client's side is encrypted, as far as the connection shows it.
    pub(crate) fn is_encrypted(&self) -> bool {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return true;
        }
        self.proxy.is_some_and(|proxy| proxy.is_encrypted)
    }

    pub(crate) fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.socket.as_ref().and_then(Socket::credentials)
    }
}

/// What a connection's PROXY header says besides the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxyHop {
    /// Of the proxy itself. None for a unix socket.
    pub(crate) address: Option<SocketAddr>,
    /// The client speaks TLS to it.
    pub(crate) is_encrypted: bool,
}

/// An IPv4 address as such: a socket for both families has it as `::ffff:a.b.c.d`.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        // Includes the scope.
        IpAddr::V6(_) => address,
    }
}

/// A client's socket, while the server has it: this keeps no connection open.
#[derive(Clone)]
pub(crate) struct Socket(Weak<dyn AsFd + Send + Sync>);

impl Socket {
    pub(crate) fn of<S: AsFd + Send + Sync + 'static>(socket: &Arc<S>) -> Socket {
        let socket: Weak<S> = Arc::downgrade(socket);
        Socket(socket)
    }

    /// Whether the client has shut its side or reset it, or the server has closed the connection.
    fn has_ended(&self) -> bool {
        let Some(socket) = self.0.upgrade() else { return true };
        // Errors and hang-ups are always reported.
        let ended = PollFlags::from_bits_retain(libc::POLLRDHUP);
        loop {
            match poll(&mut [PollFd::new(socket.as_fd(), ended)], PollTimeout::ZERO) {
                Ok(n) => return n > 0,
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn credentials(&self) -> Option<PeerCredentials> {
        PeerCredentials::of(self.0.upgrade()?.as_fd())
    }
}

/// The process that connected to a unix socket, by the kernel's record (`SO_PEERCRED`).
///
/// The values describe the process that called `connect`, at that time. Since then it may have passed the socket on or have
/// ended, and its pid may belong to another process: decide by `uid` and `gid` what a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The process. None if it is in a pid namespace that this process can't see.
    pub pid: Option<u32>,
    /// Its effective user; 65534 if this user namespace has no number for it.
    pub uid: u32,
    /// Its effective group; 65534 if this user namespace has no number for it.
    pub gid: u32,
}

impl PeerCredentials {
    /// None if it is no unix socket.
    fn of(socket: BorrowedFd<'_>) -> Option<PeerCredentials> {
        let found = getsockopt(&socket, sockopt::PeerCredentials).ok()?;
        // The kernel gives -1 where it knows no process.
        let known = found.uid() != u32::MAX;
        let pid = u32::try_from(found.pid()).ok().filter(|pid| *pid != 0);
        known.then(|| PeerCredentials { pid, uid: found.uid(), gid: found.gid() })
    }
}

/// Reports whether the client has disconnected: [`RequestExt::is_client_gone`](crate::RequestExt::is_client_gone) for code
/// that outlives the request. Clones are cheap and report the same.
///
/// ```
/// use heirloom::prelude::*;
/// use std::io::Read;
///
/// /// A long computation, which stops when the client has disconnected.
/// fn primes(req: Request) -> Body {
///     let client = req.client_watch();
///     let primes = (2..u64::MAX).filter(|n| (2..*n).all(|d| n % d > 0));
///     Body::from_chunks(primes.take_while(move |_| !client.is_gone()).map(|n| Ok(format!("{n}\n"))))
/// }
/// # Router::new().get("/primes", primes).check().unwrap();
/// ```
#[derive(Clone)]
pub struct ClientWatch(Option<Arc<ConnInfo>>);

impl fmt::Debug for ClientWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientWatch").finish_non_exhaustive()
    }
}

impl ClientWatch {
    pub(crate) fn of(conn_info: Option<Arc<ConnInfo>>) -> ClientWatch {
        ClientWatch(conn_info)
    }

    /// Whether the connection has ended: the client has closed it (see
    /// [`RequestExt::is_client_gone`](crate::RequestExt::is_client_gone)), or the server has, because the response is
    /// complete or the connection has moved to another process.
    pub fn is_gone(&self) -> bool {
        self.0.as_ref().is_some_and(|conn_info| conn_info.is_client_gone())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use nix::unistd::{getegid, geteuid};
    use socket2::SockRef;

    use super::*;

    #[test]
    fn a_peer_is_canonical() {
        for (text, expected) in [
            ("127.0.0.1:9", "127.0.0.1:9"),
            ("[::ffff:127.0.0.1]:9", "127.0.0.1:9"),
            ("[::ffff:7f00:1]:9", "127.0.0.1:9"),
            ("[::1]:9", "[::1]:9"),
            ("[::127.0.0.1]:9", "[::127.0.0.1]:9"),
            ("[64:ff9b::127.0.0.1]:9", "[64:ff9b::127.0.0.1]:9"),
            ("[fe80::1%3]:9", "[fe80::1%3]:9"),
        ] {
            let peer = Some(text.parse().unwrap());
            let expected: SocketAddr = expected.parse().unwrap();
            assert_eq!(ConnInfo::new(peer, PhaseWatch::new(), 1).peer, Some(expected), "{text}");
        }
    }

    fn watch(socket: Socket) -> ClientWatch {
        let conn_info = ConnInfo { socket: Some(socket), ..ConnInfo::new(None, PhaseWatch::new(), 1) };
        ClientWatch::of(Some(Arc::new(conn_info)))
    }

    /// Waits until the watch reports it, which may take a moment even on one host.
    fn learns_of_it(watch: &ClientWatch) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !watch.is_gone() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        watch.is_gone()
    }

    fn connected() -> (TcpStream, Arc<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, Arc::new(listener.accept().unwrap().0))
    }

    #[test]
    fn a_client_of_tcp_ends_in_three_ways() {
        let ends: [fn(TcpStream) -> Option<TcpStream>; 3] = [
            |client| {
                drop(client);
                None
            },
            |client| {
                client.shutdown(Shutdown::Write).unwrap();
                Some(client)
            },
            |client| {
                SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                None
            },
        ];
        for end in ends {
            let (mut client, server) = connected();
            let watch = watch(Socket::of(&server));
            assert!(!watch.is_gone());
            client.write_all(b"not read").unwrap();
            assert!(!watch.is_gone(), "a client that has sent something is there");
            let _kept = end(client);
            assert!(learns_of_it(&watch));
        }
    }

    #[test]
    fn a_client_of_a_unix_socket_ends_in_two() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let server = Arc::new(server);
        let closed = watch(Socket::of(&server));
        client.write_all(b"not read").unwrap();
        assert!(!closed.is_gone());
        drop(client);
        assert!(closed.is_gone());
        let (client, server) = UnixStream::pair().unwrap();
        let server = Arc::new(server);
        let shut = watch(Socket::of(&server));
        assert!(!shut.is_gone());
        client.shutdown(Shutdown::Write).unwrap();
        assert!(shut.is_gone());
    }

    #[test]
    fn what_is_closed_here_is_gone_and_not_kept_open() {
        let (client, server) = connected();
        let watch = watch(Socket::of(&server));
        drop(server);
        assert!(watch.is_gone());
        assert_eq!(client.peek(&mut [0]).unwrap(), 0, "the client sees the end");
        assert!(!ClientWatch::of(None).is_gone());
    }

    #[test]
    fn who_has_connected() {
        let (_client, server) = UnixStream::pair().unwrap();
        let found = PeerCredentials::of(server.as_fd()).unwrap();
        let own = (Some(std::process::id()), geteuid().as_raw(), getegid().as_raw());
        assert_eq!((found.pid, found.uid, found.gid), own);
        let (_client, server) = connected();
        assert_eq!(PeerCredentials::of(server.as_fd()), None);
    }
}
