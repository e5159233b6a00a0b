//! A successor may have other listeners than its predecessor: the next release's own flags decide.

use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use testkit::{Addr, Begin, End, Exit, Outcome, Proc, get, put_script};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");

/// A server with a second listener, whose successor is started with `flags` instead. The length of a probation is the
/// predecessor's to say.
fn server(probation_ms: &str, flags: &str) -> (Proc, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    symlink(PROGRAM, at("program")).unwrap();
    let second = at("second");
    let listen = ["--unix", second.to_str().unwrap(), "--probation-ms", probation_ms];
    let server = Proc::start(at("program"), &listen);
    put_script(at("program"), format!("#!/bin/sh\nexec {PROGRAM} {flags}\n"));
    (server, folder)
}

fn second(folder: &Path) -> Addr {
    Addr::Unix(folder.join("second"))
}

#[test]
fn what_it_does_not_adopt_is_stopped_and_what_is_new_is_bound() {
    let (server, folder) = server("5000", "--listen 127.0.0.1:0 --listen 127.0.0.2:0");
    let (old, second) = (server.pid(), second(folder.path()));
    let mut in_flight = testkit::Client::to(&second);
    in_flight.begin();
    server.in_flight(old, 1);
    let mut idle = testkit::Client::to(&second);
    idle.get("/ok").ok();

    let new = server.hup();
    server.wait_for(&format!("child {new}: SERVING"));
    // A long probation.
    server.signal_to(new, testkit::Signal::SIGSTOP);
    assert_eq!(get(&second, "/pid").ok().number(), old.as_raw(), "in probation");
    server.signal_to(new, testkit::Signal::SIGCONT);
    server.committed(new);
    server.wait_for("idle ones are kept for");
    assert_eq!(get(&second, "/pid"), Outcome::Refused);
    assert!(!folder.path().join("second").exists());
    assert!(idle.get("/ok").ok().closes());
    assert_eq!(idle.end(), End::Fin);
    assert_eq!(in_flight.finish().ok().text(), "ok");
    drop((in_flight, idle));
    assert_eq!(server.wait_exit(old), Exit::Status(0));

    for addr in [&server.addrs()[0], &server.addrs()[2]] {
        assert_eq!(get(addr, "/pid").ok().number(), new.as_raw());
    }
}

#[test]
fn what_it_does_not_adopt_comes_back_with_a_rollback() {
    let (server, folder) = server("600000", "--listen 127.0.0.1:0 --listen 127.0.0.2:0");
    let new = server.hup();
    server.wait_for(&format!("child {new}: SERVING"));
    server.signal_to(new, testkit::Signal::SIGKILL);
    server.wait_exit(new);
    assert_eq!(server.get("/pid").ok().number(), server.pid().as_raw());
    assert_eq!(get(&second(folder.path()), "/pid").ok().number(), server.pid().as_raw());
}

#[test]
fn a_successor_that_can_not_bind_reports_why() {
    let (server, folder) = server("5000", "--listen 127.0.0.1:0 --unix /no/such/folder/socket");
    let new = server.hup();
    let line = server.wait_for(&format!("child {new} failed: "));
    assert!(line.contains("/no/such/folder/socket"), "{line}");
    server.wait_exit(new);
    assert_eq!(server.get("/pid").ok().number(), server.pid().as_raw());
    assert_eq!(get(&second(folder.path()), "/pid").ok().number(), server.pid().as_raw());
    assert_eq!(server.alive(), [server.pid()]);
}
