//! Listening sockets that systemd passes: by `systemd-socket-activate`, and by a shell that does the same.

use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket, sockopt};
use nix::unistd::geteuid;
use testkit::{Addr, Client, Exit, Outcome, Proc, Signal, get, lacks, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");
/// Makes the standard input descriptor 3, as the socket of one unit.
const PASSES: &str = r#"exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" "$@""#;

/// The server with this socket, called `name` by systemd, and with `flags`.
fn begin(socket: impl Into<OwnedFd>, name: &str, flags: &[&str]) -> Proc {
    let mut command = Command::new("sh");
    command.args(["-c", PASSES, PROGRAM, "--probation-ms", "0"]).args(flags).env("LISTEN_FDNAMES", name);
    Proc::begin(command, Stdio::from(socket.into()))
}

fn serves(socket: impl Into<OwnedFd>, name: &str, flags: &[&str]) -> Proc {
    let server = begin(socket, name, flags);
    server.wait_for("serving as generation 1");
    server
}

#[test]
fn a_socket_is_found_by_name_or_address_and_outlives_a_stop() {
    for by_name in [true, false] {
        let ours = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = ours.local_addr().unwrap();
        let addr = Addr::from(&*address.to_string());
        let listen = if by_name { "systemd:web".to_owned() } else { address.to_string() };
        let server = serves(ours.try_clone().unwrap(), "web", &["--listen", &listen]);
        assert_eq!(get(&addr, "/generation").ok().text(), "1");
        for generation in 2..=4 {
            server.signal_to(server.newest(), Signal::SIGHUP);
            server.wait_for(&format!("serving as generation {generation}"));
            until("it has the service", || get(&addr, "/generation").ok().number() == generation);
            server.settled();
        }
        assert_eq!(server.count("inherits the socket of systemd:web"), usize::from(!by_name));

        server.signal(Signal::SIGTERM);
        server.wait_for(&format!("{addr} belongs to systemd and stays open", addr = address));
        server.wait_gone();
        // Neither filtered nor shut: clients connect, and wait for the next start.
        assert!(getsockopt(&ours, sockopt::AcceptConn).unwrap());
        let mut waiting = Client::to(&addr);
        let server = serves(ours.try_clone().unwrap(), "web", &["--listen", &listen]);
        assert_eq!(waiting.get("/generation").ok().text(), "1");
        server.stop();
    }
}

/// As a unit starts it whose ExecStart= has no flags.
#[test]
fn without_a_listener_all_sockets_of_systemd_are_served() {
    let ours = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = Addr::from(&*ours.local_addr().unwrap().to_string());
    let server = serves(ours.try_clone().unwrap(), "web", &[]);
    for generation in 2..=4 {
        server.signal_to(server.newest(), Signal::SIGHUP);
        server.wait_for(&format!("serving as generation {generation}"));
        until("it has the service", || get(&addr, "/generation").ok().number() == generation);
        server.settled();
    }
    server.signal(Signal::SIGTERM);
    server.wait_gone();
    assert!(getsockopt(&ours, sockopt::AcceptConn).unwrap());
    // A listener for operators may be one of them.
    let server = serves(ours, "admin", &["--admin", "systemd:admin"]);
    assert!(get(&addr, "/readyz").is_ok());
    server.stop();
}

#[test]
fn without_a_listener_and_without_a_socket_it_says_so() {
    let mut command = Command::new(PROGRAM);
    command.envs([("LISTEN_FDS", "1"), ("LISTEN_PID", "1")]);
    let server = Proc::begin(command, Stdio::null());
    server.wait_for("nothing to listen on");
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(2));
}

#[test]
fn a_unix_socket_of_systemd_keeps_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let ours = UnixListener::bind(&path).unwrap();
    for listen in ["systemd:web".to_owned(), format!("unix:{}", path.display())] {
        let server = serves(ours.try_clone().unwrap(), "web", &["--listen", &listen]);
        let addr = Addr::Unix(path.clone());
        assert_eq!(get(&addr, "/ok").ok().text(), "ok\n");
        server.signal(Signal::SIGHUP);
        server.wait_for("serving as generation 2");
        server.settled();
        server.signal(Signal::SIGTERM);
        server.wait_gone();
        assert!(path.exists());
    }
}

#[test]
fn what_is_no_listening_socket_is_refused_by_name() {
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let connected = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let stream = TcpStream::connect(connected.local_addr().unwrap()).unwrap();
    let file = tempfile::tempfile().unwrap();
    let none = SockFlag::empty();
    let packets = socket(AddressFamily::Unix, SockType::SeqPacket, none, None).unwrap();
    let cases: [(OwnedFd, &str); 4] = [
        (udp.into(), "a datagram socket"),
        (packets, "a socket that is no stream"),
        (stream.into(), "a socket that does not listen"),
        (file.into(), "no socket"),
    ];
    for (fd, why) in cases {
        let server = begin(fd, "odd", &["--listen", "127.0.0.1:0"]);
        server.wait_for(&format!("systemd has passed systemd:odd as descriptor 3, which is {why}"));
        assert_eq!(server.wait_exit(server.pid()), Exit::Status(1));
    }
}

#[test]
fn a_socket_or_a_name_without_its_other_half_is_reported() {
    let ours = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = ours.local_addr().unwrap();
    let server = serves(ours.try_clone().unwrap(), "web", &["--listen", "127.0.0.1:0"]);
    server.wait_for(&format!("nothing listens on {address}, which systemd has passed"));
    server.stop();
    let server = begin(ours, "web", &["--listen", "systemd:other"]);
    server
        .wait_for("can't listen on systemd:other: systemd has passed no socket of this FileDescriptorName=");
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(1));
}

#[test]
fn variables_for_another_process_are_ignored() {
    let mut command = Command::new(PROGRAM);
    command.args(["--listen", "127.0.0.1:0"]);
    command.envs([("LISTEN_FDS", "1"), ("LISTEN_PID", "1"), ("LISTEN_FDNAMES", "web")]);
    let server = Proc::start_command(command);
    assert_eq!(server.get("/ok").ok().text(), "ok\n");
    server.stop();
}

/// A process that got the pid of another one. Not known where pidfds have no numbers.
#[test]
fn variables_for_an_earlier_process_of_this_pid_are_ignored() {
    let ours = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", PASSES, PROGRAM, "--listen", "127.0.0.1:0"]);
    command.envs([("LISTEN_FDNAMES", "web"), ("LISTEN_PIDFDID", "1")]);
    let server = Proc::begin(command, Stdio::from(OwnedFd::from(ours)));
    server.wait_for("serving as generation 1");
    let is_numbered = testkit::pidfd_number(server.pid()).is_some();
    assert_eq!(server.count("nothing listens on "), usize::from(!is_numbered));
    server.stop();
}

#[test]
fn systemd_socket_activate_starts_it() {
    if lacks("systemd-socket-activate") {
        assert!(!geteuid().is_root(), "as root this test must run: apt-get install systemd");
        return;
    }
    // Ports that are free now.
    let free = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let free = free.map(|listener| listener.local_addr().unwrap().to_string());
    let addrs = [Addr::from(&*free[0]), Addr::from(&*free[1])];
    let mut command = Command::new("systemd-socket-activate");
    command.args([
        "--listen",
        &free[0],
        "--listen",
        &free[1],
        "--fdname=web:other",
        "--setenv=RUST_LOG=info",
    ]);
    command.args([PROGRAM, "--probation-ms", "0"]);
    let server = Proc::begin(command, Stdio::null());
    // The first connection starts it.
    until("it is started", || !matches!(get(&addrs[0], "/ok"), Outcome::Refused));
    server.wait_for("serving as generation 1");
    for generation in ["1", "2"] {
        for addr in &addrs {
            until("it has the service", || get(addr, "/generation").ok().text() == generation);
        }
        if generation == "1" {
            server.signal(Signal::SIGHUP);
        }
    }
    server.settled();
    server.stop();
}
