//! Packets made by hand, over a TUN device in a network namespace of the test, so that the test controls every byte of its
//! clients.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::Socket;

use super::super::{Listener, ListenerConfig, Place, ROUND_TRIP};
use super::*;
use crate::base::skip::skip;
use crate::net::stream::Stream;
use crate::process::handover::Passed;

const DEADLINE: Duration = Duration::from_secs(20);
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const PUSH: u8 = 0x08;
/// The hop limits with which most hosts, and some, send their packets.
const USUAL: u8 = 64;
const MOST: u8 = 255;

/// The far end of the device.
struct Wire {
    tun: File,
    /// The clients of the tested case; packets to others remain from earlier cases.
    ports: Range<u16>,
}

/// Runs `test` on a thread with its own network namespace, with 10.9.0.1/24 and fd09::1/64 on a TUN device.
fn in_a_network_of_its_own(test: impl FnOnce(&mut Wire) + Send + 'static) {
    let inside = || -> Result<Wire, String> {
        sys::enter_new_network().map_err(|e| format!("a network of its own: {e}"))?;
        let tun = sys::tun(c"far0").map_err(|e| format!("a TUN device: {e}"))?;
        let lines = [
            "link set lo up",
            "addr add 10.9.0.1/24 dev far0",
            "addr add fd09::1/64 dev far0 nodad",
            "link set far0 up",
        ];
        for line in lines {
            let said = Command::new("ip").args(line.split(' ')).output().map_err(|e| format!("ip: {e}"))?;
            if !said.status.success() {
                return Err(format!("ip {line}: {}", String::from_utf8_lossy(&said.stderr)));
            }
        }
        // The kernel makes the routes of IPv6 asynchronously.
        let is_routed = || -> io::Result<()> {
            let socket = UdpSocket::bind("[fd09::1]:0")?;
            socket.connect("[fd09::2]:9")?;
            socket.connect(socket.local_addr()?)?;
            socket.set_nonblocking(true)?;
            socket.send(b"?")?;
            socket.recv(&mut [0]).map(|_| ())
        };
        let deadline = Instant::now() + DEADLINE;
        while let Err(e) = is_routed() {
            assert!(Instant::now() < deadline, "no route: {e}");
        }
        Ok(Wire { tun, ports: 0..0 })
    };
    let run = move || inside().map(|mut wire| test(&mut wire));
    let thread = std::thread::Builder::new().name("network".to_owned()).spawn(run).unwrap();
    if let Err(e) = thread.join().unwrap() {
        skip(&format!("this test needs root, iproute2 and /dev/net/tun: {e}"));
    }
}

impl Wire {
    fn put(&mut self, packet: &[u8]) {
        self.tun.write_all(packet).unwrap();
    }

    /// The next TCP packet that the kernel sends to these clients.
    fn take(&mut self) -> Sent {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing was sent");
            let mut fds = [PollFd::new(self.tun.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap();
            let mut packet = [0; 2048];
            let n = self.tun.read(&mut packet).unwrap();
            // IPv6 also sends router solicitations and group reports.
            if let Some(sent) = Sent::read(&packet[..n]).filter(|sent| self.ports.contains(&sent.to_port)) {
                return sent;
            }
        }
    }
}

#[derive(Debug)]
struct Sent {
    to_port: u16,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
}

impl Sent {
    fn read(packet: &[u8]) -> Option<Sent> {
        let tcp = match packet.first()? >> 4 {
            4 if packet[9] == 6 => &packet[usize::from(packet[0] & 15) * 4..],
            6 if packet[6] == 6 => &packet[40..],
            _ => return None,
        };
        let number = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
        Some(Sent {
            to_port: u16::from_be_bytes(tcp[2..4].try_into().unwrap()),
            sequence: number(4),
            acknowledged: number(8),
            flags: tcp[13],
        })
    }
}

/// A client whose packets arrive with so many hops left.
struct Remote {
    hops: u8,
    from: IpAddr,
    to: IpAddr,
    port: u16,
    at: u16,
    sequence: u32,
    acknowledges: u32,
}

impl Remote {
    fn new(to: IpAddr, at: u16, port: u16, hops: u8) -> Remote {
        let from = if to.is_ipv4() { "10.9.0.2" } else { "fd09::2" };
        Remote { hops, from: from.parse().unwrap(), to, port, at, sequence: 1000, acknowledges: 0 }
    }

    fn packet(&self, flags: u8, data: &[u8]) -> Vec<u8> {
        let mut tcp = [self.port.to_be_bytes(), self.at.to_be_bytes()].concat();
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledges.to_be_bytes());
        // Five words of header, a window, no checksum yet, nothing urgent.
        tcp.extend([5 << 4, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
        tcp.extend(data);
        let length = tcp.len() as u16;
        let (ip, pseudo) = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let ends = [from.octets(), to.octets()].concat();
                let mut ip = vec![0x45, 0];
                ip.extend((20 + length).to_be_bytes());
                ip.extend([0, 0, 0, 0, self.hops, 6, 0, 0]);
                ip.extend(&ends);
                let sum = checksum(&ip);
                ip[10..12].copy_from_slice(&sum);
                (ip, [&ends[..], &[0, 6], &length.to_be_bytes()].concat())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let ends = [from.octets(), to.octets()].concat();
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend(length.to_be_bytes());
                ip.extend([6, self.hops]);
                ip.extend(&ends);
                (ip, [&ends[..], &u32::from(length).to_be_bytes(), &[0, 0, 0, 6]].concat())
            }
            _ => unreachable!("both are of one family"),
        };
        let sum = checksum(&[&pseudo[..], &tcp].concat());
        tcp[16..18].copy_from_slice(&sum);
        [ip, tcp].concat()
    }

    fn asks(&self, wire: &mut Wire) {
        wire.put(&self.packet(SYN, b""));
    }

    fn hears_syn_ack(&mut self, wire: &mut Wire) {
        let sent = wire.take();
        assert_eq!((sent.to_port, sent.flags), (self.port, SYN | ACK), "{sent:?}");
        (self.sequence, self.acknowledges) = (sent.acknowledged, sent.sequence + 1);
    }

    /// Completes the handshake, with `data`.
    fn completes(&mut self, wire: &mut Wire, data: &[u8]) {
        self.says(wire, data);
        self.sequence += data.len() as u32;
    }

    /// Sends `data`, which the next call sends again.
    fn says(&self, wire: &mut Wire, data: &[u8]) {
        wire.put(&self.packet(ACK | PUSH, data));
    }

    /// Expects that `more` bytes are acknowledged, and that no other client is answered before.
    fn hears_ack(&self, wire: &mut Wire, more: u32) {
        let sent = wire.take();
        let wanted = (self.port, ACK, self.sequence + more);
        assert_eq!((sent.to_port, sent.flags, sent.acknowledged), wanted, "{sent:?}");
    }
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    let folded = (folded & 0xFFFF) + (folded >> 16);
    (!(folded as u16)).to_be_bytes()
}

fn listen(at: &str) -> (Listener, u16) {
    let place = Place::resolve(at).unwrap();
    let listener = Listener::bind(ListenerConfig::new(at.to_owned(), 0), &place, false, || None).unwrap();
    let port = listener.socket_addr().unwrap().port();
    (listener, port)
}

/// Makes the listener behave as in a process without CAP_NET_ADMIN.
fn forbid_filters(listener: &Listener) {
    sys::set_option(listener.fd.as_fd(), libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1).unwrap();
}

fn read(stream: &Stream) -> String {
    let mut bytes = [0; 64];
    let Stream::Tcp(socket) = stream else { panic!("of another family") };
    match (&**socket).read(&mut bytes) {
        Ok(n) => String::from_utf8_lossy(&bytes[..n]).into_owned(),
        Err(e) if e.kind() == ErrorKind::WouldBlock => String::new(),
        Err(e) => panic!("{e}"),
    }
}

const FAMILIES: [(&str, &str); 4] = [
    ("10.9.0.1:0", "10.9.0.1"),
    ("[fd09::1]:0", "fd09::1"),
    // Dual-stack.
    ("[::]:0", "10.9.0.1"),
    ("[::]:0", "fd09::1"),
];

#[test]
fn syns_are_dropped_and_started_handshakes_complete() {
    in_a_network_of_its_own(|wire| {
        for (n, filters) in [(0, false), (1, true)] {
            for (family, (at, host)) in (0..).zip(FAMILIES) {
                let case = format!("{at} from {host}, filters {filters}");
                let (mut listener, port) = listen(at);
                if !filters {
                    forbid_filters(&listener);
                }
                let base = 2000 + 100 * n + 10 * family;
                wire.ports = base..base + 10;
                let remote = |n: u16, hops| Remote::new(host.parse().unwrap(), port, base + n, hops);
                let (mut earlier, stranger, neighbour) =
                    (remote(1, USUAL), remote(2, USUAL), remote(3, MOST));
                earlier.asks(wire);
                earlier.hears_syn_ack(wire);

                assert_eq!(listener.refuse_new(), ROUND_TRIP, "{case}");
                stranger.asks(wire);
                earlier.completes(wire, b"with the last packet");
                // The kernel handles packets in the order of their writes, so this shows that the stranger got no answer.
                earlier.hears_ack(wire, 0);
                if !filters {
                    earlier.says(wire, b", and more");
                }
                let (stream, peer) = listener.accept().expect(&case);
                assert_eq!(peer.unwrap().port(), earlier.port, "{case}");
                assert_eq!(read(&stream), "with the last packet", "{case}");
                // Without the filter it received nothing until it was accepted.
                earlier.says(wire, b", and more");
                earlier.hears_ack(wire, 10);
                assert_eq!(read(&stream), ", and more", "{case}");
                assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "{case}");

                // A client that starts at 255 passes if no filter is allowed, as docs/signals.md says.
                neighbour.asks(wire);
                stranger.asks(wire);
                earlier.sequence += 10;
                earlier.says(wire, b".");
                if !filters {
                    remote(3, MOST).hears_syn_ack(wire);
                }
                earlier.hears_ack(wire, 1);
            }
        }
    });
}

/// The socket as a process that was killed within its stop leaves it to another process.
#[test]
fn who_takes_over_a_socket_with_a_barrier_serves_it() {
    in_a_network_of_its_own(|wire| {
        for (n, filters) in [(0, false), (1, true)] {
            for (family, (at, host)) in (0..).zip(FAMILIES) {
                let case = format!("{at} from {host}, filters {filters}");
                let (mut killed, port) = listen(at);
                if !filters {
                    forbid_filters(&killed);
                }
                let base = 3000 + 100 * n + 10 * family;
                wire.ports = base..base + 10;
                let remote = |n: u16| Remote::new(host.parse().unwrap(), port, base + n, USUAL);
                let (mut earlier, mut later) = (remote(1), remote(2));
                earlier.asks(wire);
                earlier.hears_syn_ack(wire);
                killed.refuse_new();
                earlier.completes(wire, b"early");
                earlier.hears_ack(wire, 0);
                let Passed { name, fd, file, owner } = killed.passed().swap_remove(0);
                let left = Passed { name, fd: Arc::new(fd.try_clone().unwrap()), file, owner };
                let config = killed.config.clone();
                drop((killed, fd));

                let mut next = Listener::adopt(config, left).unwrap();
                next.prepare();
                later.asks(wire);
                later.hears_syn_ack(wire);
                later.completes(wire, b"late");
                later.hears_ack(wire, 0);
                // Both at once, because the end of one would be received too.
                let streams = [(); 2].map(|()| next.accept().expect(&case).0);
                for (stream, (remote, data)) in streams.iter().zip([(earlier, "early"), (later, "late")]) {
                    assert_eq!(read(stream), data, "{case}");
                    remote.says(wire, b"!");
                    remote.hears_ack(wire, 1);
                    assert_eq!(read(stream), "!", "{case}");
                }
            }
        }
    });
}

#[test]
fn a_host_whose_hop_limit_is_255_is_reported_as_let_through() {
    in_a_network_of_its_own(|_| {
        let judge = |locked: bool| {
            ["10.9.0.1:0", "[fd09::1]:0", "[::]:0"].map(|at| {
                let (listener, _) = listen(at);
                if locked {
                    forbid_filters(&listener);
                }
                format!("{:?}", Barrier::put_up(listener.fd.as_fd()))
            })
        };
        assert_eq!(judge(true), ["Closed"; 3].map(str::to_owned));
        for path in ["ipv4/ip_default_ttl", "ipv6/conf/all/hop_limit"] {
            fs::write(format!("/proc/sys/net/{path}"), "255").unwrap();
        }
        for said in judge(true) {
            assert!(said.starts_with("OpenToThisHost("), "{said}");
        }
        assert_eq!(judge(false), ["Closed"; 3].map(str::to_owned));
    });
}

/// On a socket of another kind there is nothing to lift.
#[test]
fn a_barrier_is_lifted_once() {
    let at = |name: &str| OwnedFd::from(Socket::from(std::net::TcpListener::bind(name).unwrap()));
    for socket in [at("127.0.0.1:0"), at("[::1]:0")] {
        assert!(!lift(socket.as_fd()));
        Barrier::put_up(socket.as_fd());
        assert!(lift(socket.as_fd()));
        assert!(!lift(socket.as_fd()));
    }
    let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(!lift(unix.as_fd()));
}
