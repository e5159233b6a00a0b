//! Listeners whose addresses overlap, or are the same in another spelling.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::Command;

use tempfile::TempDir;
use testkit::{Addr, Client, Exit, Pid, Proc, Signal, get, put_script, skip, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");

/// A server whose later generations may have other flags.
struct Service {
    folder: TempDir,
    server: Proc,
}

impl Service {
    fn start(flags: &[&str]) -> Service {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        symlink(PROGRAM, &program).unwrap();
        let flags = [&["--probation-ms", "0"], flags].concat();
        let server = Proc::start_as_said(program, &flags);
        Service { folder, server }
    }

    /// The next generation has these flags.
    fn next(&self, flags: &str) {
        put_script(self.folder.path().join("program"), format!("#!/bin/sh\nexec {PROGRAM} {flags}\n"));
    }

    /// A handover to a generation with these flags, and the end of the one before.
    fn hand_over(&self, flags: &str) -> Pid {
        let old = self.server.newest();
        self.next(&format!("--probation-ms 0 {flags}"));
        let new = self.server.handover();
        assert_eq!(self.server.wait_exit(old), Exit::Status(0));
        new
    }
}

fn has_ipv6() -> bool {
    let found = TcpListener::bind("[::1]:0").is_ok();
    if !found {
        skip("this host has no IPv6");
    }
    found
}

/// A port that is free now, in both families.
fn free_port() -> u16 {
    TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

fn port_of(server: &Proc) -> u16 {
    let Addr::Tcp(address) = server.addr() else { panic!("not TCP") };
    address.port()
}

/// The same port by IPv4 and by IPv6.
fn both(port: u16) -> [Addr; 2] {
    [Addr::from(&*format!("127.0.0.1:{port}")), Addr::from(&*format!("[::1]:{port}"))]
}

#[test]
fn the_wildcards_of_both_families_have_a_socket_each() {
    if !has_ipv6() {
        return;
    }
    for (one, two) in [("0.0.0.0", "[::]"), ("[::]", "0.0.0.0"), ("[::0]", "0.0.0.0"), ("[::]", "0")] {
        let port = free_port();
        let (one, two) = (format!("{one}:{port}"), format!("{two}:{port}"));
        let server =
            Proc::start_as_said(PROGRAM, &["--listen", &one, "--listen", &two, "--probation-ms", "0"]);
        let listeners = server.facts(server.pid()).listeners;
        assert_eq!(listeners.len(), 2, "{one} {two}");
        let mut kept = both(port).map(|addr| Client::to(&addr));
        kept.iter_mut().for_each(|client| drop(client.get("/pid").ok()));
        for _ in 0..2 {
            let old = server.newest();
            let new = server.handover();
            assert_eq!(server.wait_exit(old), Exit::Status(0));
            for (addr, client) in both(port).iter().zip(&mut kept) {
                assert_eq!(get(addr, "/pid").ok().number(), new.as_raw(), "{addr:?}");
                assert_eq!(client.get("/pid").ok().number(), new.as_raw(), "{addr:?}");
            }
            assert_eq!(server.facts(new).listeners, listeners);
        }
        drop(kept);
        server.stop();
    }
}

/// What a socket takes can't be changed once it is bound.
#[test]
fn a_dual_stack_socket_serves_the_wildcards_that_are_wanted() {
    if !has_ipv6() {
        return;
    }
    let service = Service::start(&["--listen", "[::]:0"]);
    let server = &service.server;
    let port = port_of(server);
    let listeners = server.facts(server.pid()).listeners;
    let mut kept = both(port).map(|addr| Client::to(&addr));
    kept.iter_mut().for_each(|client| drop(client.get("/pid").ok()));
    let (v4, v6) = (format!("--listen 0.0.0.0:{port}"), format!("--listen [::]:{port}"));
    let shared =
        format!("0.0.0.0:{port} is served by the inherited socket of [::]:{port}, which also accepts IPv4");
    let alone =
        format!("0.0.0.0:{port} is served by an inherited socket for both families: it also accepts IPv6");
    let mut said = [0, 0];
    for (flags, says) in [
        (format!("{v6} {v4}"), [1, 0]),
        (format!("{v4} {v6}"), [1, 0]),
        (v6.clone(), [0, 0]),
        (format!("{v4} {v6}"), [1, 0]),
        (v4.clone(), [0, 1]),
        (v4.clone(), [0, 1]),
        (v6.clone(), [0, 0]),
    ] {
        let new = service.hand_over(&flags);
        for (addr, client) in both(port).iter().zip(&mut kept) {
            assert_eq!(get(addr, "/pid").ok().number(), new.as_raw(), "{flags} {addr:?}");
            assert_eq!(client.get("/pid").ok().number(), new.as_raw(), "{flags} {addr:?}");
        }
        assert_eq!(server.facts(new).listeners, listeners, "{flags}");
        said = [said[0] + says[0], said[1] + says[1]];
        assert_eq!([server.count(&shared), server.count(&alone)], said, "{flags}");
    }
    drop(kept);
    server.stop();
    both(port).iter().for_each(|addr| assert_eq!(get(addr, "/pid"), testkit::Outcome::Refused));
}

#[test]
fn a_generation_that_shares_a_socket_can_be_rolled_back() {
    if !has_ipv6() {
        return;
    }
    let service = Service::start(&["--listen", "[::]:0", "--probation-ms", "60000"]);
    let server = &service.server;
    let (old, port) = (server.pid(), port_of(server));
    service.next(&format!("--listen 0.0.0.0:{port} --listen [::]:{port}"));
    let new = server.hup();
    server.wait_for(&format!("child {new}: SERVING"));
    server.paused(old);
    both(port).iter().for_each(|addr| assert_eq!(get(addr, "/pid").ok().number(), new.as_raw(), "{addr:?}"));
    server.signal_to(new, Signal::SIGKILL);
    server.wait_for("; still serving");
    both(port).iter().for_each(|addr| assert_eq!(get(addr, "/pid").ok().number(), old.as_raw(), "{addr:?}"));
    server.stop();
}

#[test]
fn both_sockets_of_the_wildcards_serve_the_one_of_ipv6_alone() {
    if !has_ipv6() {
        return;
    }
    let port = free_port();
    let (v4, v6) = (format!("0.0.0.0:{port}"), format!("[::]:{port}"));
    let service = Service::start(&["--listen", &v4, "--listen", &v6]);
    let server = &service.server;
    let listeners = server.facts(server.pid()).listeners;
    let mut kept = both(port).map(|addr| Client::to(&addr));
    kept.iter_mut().for_each(|client| drop(client.get("/pid").ok()));
    for flags in [format!("--listen {v6}"), format!("--listen {v6}"), format!("--listen {v6} --listen {v4}")]
    {
        let new = service.hand_over(&flags);
        for (addr, client) in both(port).iter().zip(&mut kept) {
            assert_eq!(get(addr, "/pid").ok().number(), new.as_raw(), "{flags} {addr:?}");
            assert_eq!(client.get("/pid").ok().number(), new.as_raw(), "{flags} {addr:?}");
        }
        assert_eq!(server.facts(new).listeners, listeners, "{flags}");
    }
    drop(kept);
    server.stop();
}

#[test]
fn the_wildcard_of_ipv4_can_become_that_of_both_families() {
    if !has_ipv6() {
        return;
    }
    let port = free_port();
    let service = Service::start(&["--listen", &format!("0.0.0.0:{port}")]);
    let mut kept = Client::to(&both(port)[0]);
    kept.get("/pid").ok();
    for _ in 0..2 {
        let new = service.hand_over(&format!("--listen [::]:{port}"));
        both(port)
            .iter()
            .for_each(|addr| assert_eq!(get(addr, "/pid").ok().number(), new.as_raw(), "{addr:?}"));
        // The old process answers on it until it has sent it on.
        until("the connection has moved", || kept.get("/pid").ok().number() == new.as_raw());
    }
    drop(kept);
    service.server.stop();
}

#[test]
fn one_address_is_inherited_in_each_spelling() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| format!("{}/{path}", folder.path().display());
    fs::create_dir(at("run")).unwrap();
    symlink(at("run"), at("var")).unwrap();
    let service = Service::start(&["--listen", "127.0.0.1:0", "--unix", &at("run/socket")]);
    let server = &service.server;
    let port = port_of(server);
    let listeners = server.facts(server.pid()).listeners;
    let addrs = [server.addr(), Addr::Unix(at("run/socket").into())];
    let mut kept = addrs.each_ref().map(Client::to);
    kept.iter_mut().for_each(|client| drop(client.get("/pid").ok()));
    for (tcp, unix) in [
        ("localhost", "var/socket"),
        ("127.1", "run/../run/./socket"),
        ("[::ffff:127.0.0.1]", "var/../var/socket"),
        ("127.0.0.1", "run//socket"),
    ] {
        let new = service.hand_over(&format!("--listen {tcp}:{port} --unix {}", at(unix)));
        for (addr, client) in addrs.iter().zip(&mut kept) {
            assert_eq!(get(addr, "/pid").ok().number(), new.as_raw(), "{tcp} {unix}");
            assert_eq!(client.get("/pid").ok().number(), new.as_raw(), "{tcp} {unix}");
        }
        assert_eq!(server.facts(new).listeners, listeners, "{tcp} {unix}");
    }
    drop(kept);
    server.stop();
    assert!(!folder.path().join("run/socket").exists());
}

/// Fails, and gives its last word.
#[track_caller]
fn fails(flags: &[&str]) -> String {
    let output = Command::new("timeout").args(["20", PROGRAM]).args(flags).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{flags:?}: {said}");
    let error = said.lines().find(|line| line.starts_with("Error: ")).unwrap_or_else(|| panic!("{said}"));
    assert!(!error.contains("another process"), "{error}");
    error.to_owned()
}

#[test]
fn overlapping_addresses_of_one_start_are_reported() {
    let port = free_port();
    let ipv6 = has_ipv6();
    for (first, second) in [
        ("localhost", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "127.1"),
        ("[::]", "127.0.0.1"),
        ("127.0.0.1", "[::]"),
        ("[::]", "[::1]"),
        ("[::]", "[::0]"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
    ] {
        if !ipv6 && [first, second].iter().any(|name| name.starts_with('[')) {
            continue;
        }
        let (first, second) = (format!("{first}:{port}"), format!("{second}:{port}"));
        let error = fails(&["--listen", &first, "--listen", &second]);
        let words = format!(
            "can't listen on {second}: this server listens on {first} too, which overlaps: remove one"
        );
        assert!(error.contains(&words), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (one, two) =
        (format!("unix:{}", path.display()), format!("unix:{}/./socket", folder.path().display()));
    let error = fails(&["--listen", &one, "--listen", &two]);
    assert!(
        error.contains(&format!("this server listens on {one} too, which overlaps: remove one")),
        "{error}"
    );
    assert!(!path.exists());
}

#[test]
fn overlaps_with_the_previous_generation_are_reported() {
    let service = Service::start(&["--listen", "127.0.0.1:0"]);
    let server = &service.server;
    let port = port_of(server);
    for (n, flags) in [format!("--listen 0.0.0.0:{port}"), format!("--listen [::]:{port}")].iter().enumerate()
    {
        if n == 1 && !has_ipv6() {
            continue;
        }
        service.next(flags);
        server.signal(Signal::SIGHUP);
        let line = server.wait_for_nth(" failed: ", n + 1);
        let words = format!(
            "the generation before this one listens on 127.0.0.1:{port}, which overlaps: keep that, or stop the \
             service and start it again"
        );
        assert!(line.contains(&words) && !line.contains("another process"), "{line}");
        assert_eq!(server.get("/pid").ok().number(), server.pid().as_raw());
    }
    // Both at once, one of which it has inherited.
    service.next(&format!("--listen 127.0.0.1:{port} --listen 0.0.0.0:{port}"));
    server.signal(Signal::SIGHUP);
    let words = format!("can't listen on 0.0.0.0:{port}: this server listens on 127.0.0.1:{port} too");
    server.wait_for(&words);
    server.wait_for_nth("; still serving", if has_ipv6() { 3 } else { 2 });
    assert_eq!(server.get("/pid").ok().number(), server.pid().as_raw());
}
