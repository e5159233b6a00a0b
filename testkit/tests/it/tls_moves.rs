//! TLS connections move to the new process: no client sees a close or a handshake, whatever it has sent so far; and those that
//! can't move are notified before they are closed.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedCipherSuite};
use testkit::{Addr, Exit, Pid, Proc, Signal, until};

use crate::TESTKIT;
use crate::secure::{Authority, Secure, SecureEnd};
use crate::support::get;

/// A server that reads its TLS from a file, anew in each generation.
struct Sealed {
    server: Proc,
    authority: Authority,
}

impl Sealed {
    /// With these lines beside its certificate.
    fn start(lines: &[&str]) -> Sealed {
        let authority = Authority::new("authority");
        authority.server("server", &["localhost"]);
        symlink(TESTKIT, authority.path("program")).unwrap();
        write(&authority, lines);
        let mut command = Command::new(authority.path("program"));
        command.arg("sealed").arg(authority.path("tls"));
        let server = Proc::start_command(command);
        Sealed { server, authority }
    }

    /// What later generations, and reloads, read.
    fn write(&self, lines: &[&str]) {
        write(&self.authority, lines);
    }

    /// Makes `program` the program of later generations.
    fn put(&self, program: &Path) {
        let new = self.authority.path("new");
        symlink(program, &new).unwrap();
        fs::rename(new, self.authority.path("program")).unwrap();
    }

    fn address(&self) -> SocketAddr {
        match self.server.addrs().pop() {
            Some(Addr::Tcp(addr)) => addr,
            other => panic!("{other:?}"),
        }
    }

    fn client(&self, config: &Arc<ClientConfig>) -> Secure {
        Secure::to(self.address(), "localhost", config).unwrap()
    }

    /// A client of each suite of both versions.
    fn clients(&self) -> Vec<Secure> {
        suites().map(|suite| self.client(&only(&self.authority, suite))).collect()
    }

    fn of_both_versions(&self) -> [Arc<ClientConfig>; 2] {
        [&TLS12, &TLS13].map(|version| self.authority.trusted().only(version).config())
    }

    /// Hands over, and waits for the end of the old process.
    fn handover(&self) -> Pid {
        let old = self.server.newest();
        let new = self.server.handover();
        assert_eq!(self.server.wait_exit(old), Exit::Status(0));
        new
    }

    /// How many TLS connections of any generation could not move, for this reason.
    fn kept(&self, reason: &str) -> u64 {
        let response = self.server.get("/metrics").ok();
        let name = format!("heirloom_tls_connections_kept_total{{reason=\"{reason}\"}} ");
        response.text().lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    }
}

fn write(authority: &Authority, lines: &[&str]) {
    let path = |name: &str| authority.path(name).display().to_string();
    let pair = format!("pair {} {}\n", path("server.pem"), path("server.key"));
    let text: String =
        lines.iter().map(|line| line.replace("AUTHORITY", &path("authority.pem")) + "\n").collect();
    fs::write(authority.path("tls"), pair + &text).unwrap();
}

/// Those that the server's key is for.
fn suites() -> impl Iterator<Item = SupportedCipherSuite> {
    let name = |suite: &SupportedCipherSuite| format!("{:?}", suite.suite());
    ring::ALL_CIPHER_SUITES.iter().copied().filter(move |suite| !name(suite).contains("_RSA_"))
}

fn only(authority: &Authority, suite: SupportedCipherSuite) -> Arc<ClientConfig> {
    let provider = CryptoProvider { cipher_suites: vec![suite], ..ring::default_provider() };
    authority.trusted().by(provider).only(suite.version()).config()
}

/// Which process answers, and whether it announces the close. None: the connection was lost.
pub(crate) fn ask(client: &mut Secure) -> Option<(Pid, bool)> {
    client.try_send(get("/pid")).ok()?;
    let (status, head, body) = client.try_reply().ok()?;
    assert_eq!(status, 200);
    let pid = String::from_utf8(body).unwrap().parse().unwrap();
    Some((Pid::from_raw(pid), head.contains("Connection: close")))
}

/// It is asked until it announces the close, with which it ends. Others may move meanwhile.
#[track_caller]
pub(crate) fn is_told(client: &mut Secure, pid: Pid) {
    loop {
        let (by, closes) = ask(client).unwrap();
        assert_eq!(by, pid);
        if closes {
            return assert_eq!(client.end(), SecureEnd::Announced);
        }
    }
}

/// It is served by `pid` soon, and by others before without a close.
#[track_caller]
pub(crate) fn follows(client: &mut Secure, pid: Pid) {
    until("it moves", || {
        let (by, closes) = ask(client).unwrap();
        assert!(!closes);
        by == pid
    });
}

#[track_caller]
fn served_by(client: &mut Secure, pid: Pid) {
    assert_eq!(ask(client), Some((pid, false)));
}

#[track_caller]
fn answered_by(client: &mut Secure, pid: Pid) {
    let (status, head, body) = client.reply();
    assert_eq!((status, &*String::from_utf8_lossy(&body)), (200, &*pid.to_string()));
    assert!(!head.contains("Connection: close"), "{head}");
}

#[test]
fn idle_connections_of_every_suite_move_ten_times() {
    let sealed = Sealed::start(&[]);
    let mut clients = sealed.clients();
    assert_eq!(clients.len(), 6, "three AEADs, two versions");
    let first = sealed.server.pid();
    let before: Vec<String> = clients.iter_mut().map(|client| client.get("/tls")).collect();
    clients.iter_mut().for_each(|client| served_by(client, first));
    for _ in 0..10 {
        let new = sealed.handover();
        clients.iter_mut().for_each(|client| served_by(client, new));
    }
    let after: Vec<String> = clients.iter_mut().map(|client| client.get("/tls")).collect();
    assert_eq!(before, after);
    assert!(before.iter().all(|tls| tls.contains(" localhost []")), "{before:?}");
}

/// Of a record, of a request, and of both: before the move and after it.
#[test]
fn halves_move_with_their_connection() {
    let sealed = Sealed::start(&[]);
    let request = get("/pid");
    let (first, second) = request.split_at(9);
    let mut clients = Vec::new();
    for config in sealed.of_both_versions() {
        let mut client = sealed.client(&config);
        let whole = client.ciphertext(&request).len();
        drop(client);
        for cut in [1, 4, 5, 6, whole / 2, whole - 1] {
            let mut client = sealed.client(&config);
            served_by(&mut client, sealed.server.pid());
            let sent = client.ciphertext(&request);
            clients.push((client, sent[..cut].to_vec(), sent[cut..].to_vec()));
        }
        let mut client = sealed.client(&config);
        let (sent, rest) = (client.ciphertext(first), client.ciphertext(second));
        clients.push((client, sent, rest));
        let mut client = sealed.client(&config);
        let (sent, rest) = (client.ciphertext(first), client.ciphertext(second));
        clients.push((client, [sent, rest[..8].to_vec()].concat(), rest[8..].to_vec()));
    }
    for (client, sent, _) in &mut clients {
        client.socket.write_all(sent).unwrap();
    }
    sealed.server.in_flight(sealed.server.pid(), clients.len());
    sealed.handover();
    let new = sealed.handover();
    sealed.server.in_flight(new, clients.len());
    for (client, _, rest) in &mut clients {
        client.socket.write_all(rest).unwrap();
    }
    for (client, ..) in &mut clients {
        answered_by(client, new);
        served_by(client, new);
    }
}

/// A client of TLS 1.3 changes its key, and asks for another one of the server, which owes that then: before, while and after
/// the connection moves.
#[test]
fn keys_are_updated_at_any_time() {
    let sealed = Sealed::start(&[]);
    let of_tls13 = suites().filter(|suite| suite.tls13().is_some());
    let mut clients: Vec<Secure> =
        of_tls13.map(|suite| sealed.client(&only(&sealed.authority, suite))).collect();
    let update = |client: &mut Secure| {
        client.tls.refresh_traffic_keys().unwrap();
        let sent = client.ciphertext("");
        client.socket.write_all(&sent).unwrap();
    };
    let mut pid = sealed.server.pid();
    let mut rests = vec![Vec::new(); clients.len()];
    for _ in 0..3 {
        for (client, rest) in clients.iter_mut().zip(&mut rests) {
            client.socket.write_all(rest).unwrap();
            served_by(client, pid);
            update(client);
            served_by(client, pid);
            // Its answer is owed when the connection leaves.
            update(client);
        }
        pid = sealed.handover();
        for (client, rest) in clients.iter_mut().zip(&mut rests) {
            served_by(client, pid);
            update(client);
            update(client);
            served_by(client, pid);
            // A part of an update, whose rest comes after the next move.
            client.tls.refresh_traffic_keys().unwrap();
            let sent = client.ciphertext("");
            client.socket.write_all(&sent[..7]).unwrap();
            *rest = sent[7..].to_vec();
        }
        pid = sealed.handover();
    }
    for (client, rest) in clients.iter_mut().zip(&rests) {
        client.socket.write_all(rest).unwrap();
        served_by(client, pid);
    }
}

#[test]
fn a_connection_moves_after_large_bodies_in_both_directions() {
    let sealed = Sealed::start(&[]);
    let mut clients = sealed.clients();
    for _ in 0..2 {
        for client in &mut clients {
            client.send(get("/big/3000000"));
            let (status, _, body) = client.reply();
            assert_eq!((status, body.len()), (200, 3_000_000));
            let body = "b".repeat(1_000_000);
            client.send(format!(
                "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ));
            assert!(client.reply().2 == body.as_bytes());
        }
        let new = sealed.handover();
        clients.iter_mut().for_each(|client| served_by(client, new));
    }
}

/// One that has sent nothing, and one that has sent half of its ClientHello: the former moves, the latter follows.
#[test]
fn connections_without_a_handshake_move_too() {
    let sealed = Sealed::start(&[]);
    let config = sealed.authority.trusted().config();
    let begin = || Secure::begin(TcpStream::connect(sealed.address()).unwrap(), "localhost", &config);
    let (mut silent, mut half, mut ready) = (begin(), begin(), begin());
    let hello = half.ciphertext("");
    half.socket.write_all(&hello[..50]).unwrap();
    while ready.tls.is_handshaking() {
        ready.tls.complete_io(&mut ready.socket).unwrap();
    }
    sealed.server.open(sealed.server.pid(), 3);
    sealed.server.in_flight(sealed.server.pid(), 1);
    let new = sealed.server.handover();
    half.socket.write_all(&hello[50..]).unwrap();
    for client in [&mut silent, &mut half] {
        while client.tls.is_handshaking() {
            client.tls.complete_io(&mut client.socket).unwrap();
        }
    }
    for client in [&mut silent, &mut half, &mut ready] {
        follows(client, new);
    }
    assert_eq!(sealed.server.wait_exit(sealed.server.pid()), Exit::Status(0));
    assert_eq!(sealed.kept("handshake"), 0);
}

#[test]
fn a_handler_sees_the_clients_certificate_after_the_move() {
    for line in ["require AUTHORITY", "request AUTHORITY"] {
        let sealed = Sealed::start(&[line]);
        let pair = sealed.authority.client("customer");
        let der = pair.der();
        let shown = format!(" localhost [{}:{}]", der.len(), der[der.len() - 1]);
        let mut clients: Vec<Secure> = [&TLS12, &TLS13]
            .map(|version| sealed.client(&sealed.authority.trusted().only(version).showing(&pair).config()))
            .into();
        for _ in 0..3 {
            let new = sealed.handover();
            for client in &mut clients {
                served_by(client, new);
                let tls = client.get("/tls");
                assert!(tls.ends_with(&shown), "{tls} {shown}");
            }
        }
    }
}

/// The next generation accepts other clients, has no TLS, or has no such listener: no connection moves under its rules.
#[test]
fn connections_stay_where_the_listener_has_changed() {
    let other = Authority::new("other");
    let of_other = format!("require {}", other.file().display());
    for (old, new, reason) in [
        (&[][..], &["require AUTHORITY"][..], "no_listener"),
        (&["require AUTHORITY"], &["request AUTHORITY"], "no_listener"),
        (&["require AUTHORITY"], &[], "no_listener"),
        (&["require AUTHORITY"], &[&of_other], "no_listener"),
        (&[], &["listen 127.0.0.2:0"], "no_listener"),
        (&[], &["plain"], "not_taken"),
        (&["stay"], &[], "switched_off"),
        (&[], &["stay"], "not_taken"),
    ] {
        let sealed = Sealed::start(old);
        let trusted = sealed.authority.trusted();
        let config = match old {
            ["require AUTHORITY"] => trusted.showing(&sealed.authority.client("customer")).config(),
            _ => trusted.config(),
        };
        let mut clients = [sealed.client(&config), sealed.client(&config)];
        let first = sealed.server.pid();
        clients.iter_mut().for_each(|client| served_by(client, first));
        sealed.write(new);
        sealed.server.handover();
        clients.iter_mut().for_each(|client| is_told(client, first));
        assert_eq!(sealed.server.wait_exit(first), Exit::Status(0));
        assert_eq!(sealed.kept(reason), 2, "{old:?} {new:?}");
    }
}

/// `Tls::reload` leaves open connections as they are, but they don't take their old rules to the next generation.
#[test]
fn connections_stay_whose_rules_were_changed_by_a_reload() {
    let sealed = Sealed::start(&["request AUTHORITY"]);
    let config = sealed.authority.trusted().config();
    let (mut before, first) = (sealed.client(&config), sealed.server.pid());
    let file = sealed.authority.file();
    let both = [fs::read(&file).unwrap(), fs::read(Authority::new("other").file()).unwrap()].concat();
    fs::write(&file, both).unwrap();
    before.send("POST /reload HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(before.reply().2, b"reloaded");
    let mut after = sealed.client(&config);
    served_by(&mut after, first);
    served_by(&mut before, first);
    let new = sealed.server.handover();
    is_told(&mut before, first);
    assert_eq!(sealed.server.wait_exit(first), Exit::Status(0));
    served_by(&mut after, new);
    assert_eq!(sealed.kept("rules_changed"), 1);
}

#[test]
fn a_bad_program_is_not_noticed() {
    let sealed = Sealed::start(&[]);
    let mut clients = sealed.clients();
    let first = sealed.server.pid();
    clients.iter_mut().for_each(|client| served_by(client, first));
    sealed.put(Path::new("/bin/false"));
    sealed.server.signal(Signal::SIGHUP);
    sealed.server.wait_for("exited with status 1; still serving");
    clients.iter_mut().for_each(|client| served_by(client, first));
    sealed.put(Path::new(TESTKIT));
    let new = sealed.handover();
    clients.iter_mut().for_each(|client| served_by(client, new));
}
