//! What is reported to the service manager: the order of notifications, their senders, their descriptors.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use testkit::{Client, Exit, NotifySocket, Pid, Proc, Signal, beside, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");

fn command(program: &Path, socket: &NotifySocket, flags: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["--listen", "127.0.0.1:0", "--probation-ms", "0"]).args(flags);
    command.env("NOTIFY_SOCKET", socket.path());
    command
}

/// It serves, and has said so.
fn start(socket: &NotifySocket, flags: &[&str], variables: &[(&str, &str)]) -> Proc {
    let mut command = command(Path::new(PROGRAM), socket, flags);
    command.envs(variables.iter().copied());
    let server = Proc::start_command(command);
    let ready = socket.next();
    assert_eq!((ready.pid, &*ready.keys()), (server.pid(), "READY=1 STATUS"));
    server
}

fn parent(pid: Pid) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_handover_names_the_successor_before_it_is_main() {
    let socket = NotifySocket::new();
    let server =
        start(&socket, &[], &[("LISTEN_FDS", "1"), ("LISTEN_PID", "1"), ("LISTEN_FDNAMES", "stale")]);
    let mut old = server.pid();
    for _ in 0..5 {
        let new = server.handover();
        let reloading = socket.next();
        assert_eq!((reloading.pid, &*reloading.keys()), (old, "RELOADING=1 MONOTONIC_USEC STATUS"));
        let passed = socket.next();
        let expected = format!("MAINPID={new} READY=1 WATCHDOG=1 STATUS");
        assert_eq!((passed.pid, passed.keys()), (old, expected));
        assert!(passed.value("STATUS").unwrap().ends_with(&format!("(pid {new}) serves")));
        // The successor is a child of the process that plays the service manager.
        assert_eq!(parent(new), std::process::id().cast_signed());

        let barrier = socket.next();
        assert_eq!((barrier.pid, &*barrier.keys(), barrier.fds.len()), (old, "BARRIER=1", 1));
        assert!(server.alive().contains(&old), "it may not leave before the barrier");
        drop(barrier);
        assert_eq!(server.wait_exit(old), Exit::Status(0));
        old = new;
    }
    server.stop();
    let stopping = socket.next();
    assert_eq!((stopping.pid, &*stopping.keys()), (old, "STOPPING=1 STATUS"));
    let rest = socket.drain(1);
    assert!(
        rest.iter().all(|notice| notice.pid == old && notice.keys() == "EXTEND_TIMEOUT_USEC"),
        "{rest:?}"
    );
}

#[test]
fn a_failed_handover_is_ready_again_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("server");
    fs::copy(PROGRAM, &program).unwrap();
    let socket = NotifySocket::new();
    let server = Proc::start_command(command(&program, &socket, &[]));
    socket.next_with("READY=1");
    let bad = |script: &str| {
        let new = folder.path().join("new");
        fs::write(&new, script).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, &program).unwrap();
    };
    for (script, reason) in
        [("#!/bin/sh\nexit 3\n", "has ended"), ("no program", "not a program for this machine")]
    {
        bad(script);
        server.signal(Signal::SIGHUP);
        assert_eq!(socket.next().keys(), "RELOADING=1 MONOTONIC_USEC STATUS");
        let again = socket.next();
        assert_eq!((again.pid, &*again.keys()), (server.pid(), "READY=1 STATUS"));
        assert!(again.value("STATUS").unwrap().contains(reason), "{again:?}");
    }
    fs::remove_file(&program).unwrap();
    fs::copy(PROGRAM, &program).unwrap();
    server.handover();
    assert_eq!(socket.next().keys(), "RELOADING=1 MONOTONIC_USEC STATUS");
    assert!(socket.next().keys().starts_with("MAINPID="));
    server.stop();
}

/// Signals of the service manager, which the test plays: it is the parent of every generation.
#[test]
fn a_term_of_the_service_manager_never_counts_as_a_second_one() {
    let socket = NotifySocket::new();
    let server = start(&socket, &[], &[]);
    let mut client = server.client();
    client.ask("/sleep/1000");
    server.in_flight(server.pid(), 1);
    for _ in 0..5 {
        let heard = server.count("SIGTERM from");
        server.signal(Signal::SIGTERM);
        server.wait_for_nth("SIGTERM from", heard + 1);
    }
    assert_eq!(client.answer().ok().text(), "ok\n");
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
    assert_eq!(server.count("abort"), 0);
}

#[test]
fn a_main_process_that_stops_cuts_no_drain() {
    let socket = NotifySocket::new();
    let server = start(&socket, &[], &[]);
    let (first, mut client) = (server.pid(), server.client());
    client.ask("/sleep/6500");
    server.in_flight(first, 1);
    let second = server.handover();
    let _waiting = beside("barrier", move || drop(socket.next_with("BARRIER=1")));
    server.signal_to(second, Signal::SIGTERM);
    assert_eq!(server.wait_exit(second), Exit::Status(0));
    server.signal_to(first, Signal::SIGTERM);
    server.signal_to(first, Signal::SIGTERM);
    assert_eq!(client.answer().ok().text(), "ok\n");
    assert_eq!(server.wait_exit(first), Exit::Status(0));
}

#[test]
fn a_main_process_that_dies_cuts_the_drains_before_it() {
    let socket = NotifySocket::new();
    let server = start(&socket, &["--drain-timeout-ms", "60000"], &[]);
    let (first, mut client) = (server.pid(), server.client());
    client.ask("/sleep/30000");
    server.in_flight(first, 1);
    let second = server.handover();
    let mut other = server.client();
    other.ask("/sleep/30000");
    server.in_flight(second, 1);
    let third = server.handover();
    server.signal_to(third, Signal::SIGKILL);
    // Both after 5 s, and not after 30 s; the first knows it from the second.
    assert_eq!(server.wait_exit(second), Exit::Status(1));
    assert_eq!(server.wait_exit(first), Exit::Status(1));
    assert!(!client.answer().is_ok() && !other.answer().is_ok());
}

#[test]
fn the_watchdog_is_fed_while_workers_make_progress() {
    let socket = NotifySocket::new();
    let stale = [("WATCHDOG_USEC", "300000")];
    let server = start(&socket, &["--workers", "1"], &stale);
    for _ in 0..3 {
        let fed = socket.next();
        assert_eq!((fed.pid, &*fed.keys()), (server.pid(), "WATCHDOG=1"));
    }
    let new = server.handover();
    loop {
        let notice = socket.next();
        if notice.pid == new {
            assert_eq!(notice.keys(), "WATCHDOG=1");
            break;
        }
    }
    // The only worker is in a handler: no progress.
    let mut client = Client::to(&server.addr());
    client.ask("/sleep/2000");
    server.in_flight(new, 1);
    let fed = socket.drain(60);
    assert!(fed.len() <= 3, "{fed:?}");
    assert_eq!(client.answer().ok().text(), "ok\n");
    until("it is fed again", || socket.has().is_some_and(|notice| notice.keys() == "WATCHDOG=1"));
    server.stop();
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let socket = NotifySocket::new();
    let variables = [("WATCHDOG_USEC", "30000"), ("WATCHDOG_PID", "1")];
    let server = start(&socket, &[], &variables);
    assert!(socket.drain(40).is_empty());
    server.stop();
}

#[test]
fn stored_listeners_are_removed_before_they_are_closed() {
    let socket = NotifySocket::new();
    let server = start(&socket, &["--store-listeners"], &[]);
    let stored = socket.next();
    assert_eq!((&*stored.keys(), stored.fds.len()), ("FDSTORE=1 FDNAME=heirloom-127.0.0.1%3A0", 1));
    let new = server.handover();
    let again = socket.next_with("FDSTORE=1");
    assert_eq!((again.pid, again.fds.len()), (new, 1));
    // Its queue is the service's: a client can connect as long as it is stored.
    server.signal(Signal::SIGTERM);
    let removed = socket.next();
    assert_eq!(removed.keys(), "FDSTOREREMOVE=1 FDNAME=heirloom-127.0.0.1%3A0");
    assert_eq!(socket.next().keys(), "STOPPING=1 STATUS");
    drop((stored, again));
    assert_eq!(server.wait_exit(new), Exit::Status(0));
}
