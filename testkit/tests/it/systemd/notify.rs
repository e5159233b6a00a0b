//! What is reported to the service manager: the order of notifications, their senders, their descriptors.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use testkit::{Begin, Exit, NotifySocket, Pid, Proc, Signal, monotonic_usec, pidfd_number};

use super::{Installed, PROGRAM, command, start};

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
        let before = monotonic_usec();
        let new = server.handover();
        let reloading = socket.next();
        assert_eq!((reloading.pid, &*reloading.keys()), (old, "RELOADING=1 MONOTONIC_USEC STATUS"));
        let since: u64 = reloading.value("MONOTONIC_USEC").unwrap().parse().unwrap();
        assert!((before..=monotonic_usec()).contains(&since), "{since}");
        let passed = socket.next();
        let expected = format!("MAINPID={new} READY=1 WATCHDOG=1 STATUS");
        assert_eq!((passed.pid, passed.keys()), (old, expected));
        assert!(passed.value("STATUS").unwrap().ends_with(&format!("(pid {new}) serves")));
        // On a kernel whose pidfds have no numbers there is none to be named.
        let number = passed.value("MAINPIDFDID").map(|number| number.parse().unwrap());
        assert_eq!(number, pidfd_number(new), "MAINPIDFDID");
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

/// Only a service manager that is to be notified needs it.
#[test]
fn without_a_notify_socket_a_successor_is_a_child() {
    let mut command = Command::new(PROGRAM);
    command.args(["--listen", "127.0.0.1:0", "--probation-ms", "0"]).env("NOTIFY_SOCKET", "");
    let server = Proc::start_command(command);
    let mut client = server.client();
    client.ask("/sleep/1500");
    server.in_flight(server.pid(), 1);
    let new = server.handover();
    assert_eq!(parent(new), server.pid().as_raw());
    assert_eq!(client.answer().ok().text(), "ok\n");
    server.stop();
}

/// A script that stays is the child of the service manager, and the server below it is main.
#[test]
fn a_script_in_between_is_not_main() {
    let (installed, socket) = (Installed::new(), NotifySocket::new());
    let server = Proc::start_command(command(&installed.path(), &socket, &[]));
    socket.next_with("READY=1");
    let mut client = server.client();
    client.begin();
    server.in_flight(server.pid(), 1);
    // Its own status says nothing of the server.
    installed.write(&format!("#!/bin/sh\n{PROGRAM} \"$@\"\nexit 0\n"));
    let script = server.handover();
    socket.next_with("RELOADING=1");
    let passed = socket.next();
    let main = Pid::from_raw(passed.value("MAINPID").unwrap().parse().unwrap());
    assert_eq!((parent(main), parent(script)), (script.as_raw(), std::process::id().cast_signed()));
    assert_eq!(server.get("/pid").ok().number(), main.as_raw());
    drop(socket.next_with("BARRIER=1"));
    // It dies, and its predecessor's drain is cut short.
    server.signal_to(main, Signal::SIGKILL);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(1));
    assert!(!client.answer().is_ok());
}

#[test]
fn a_failed_handover_is_ready_again_and_says_why() {
    let (installed, socket) = (Installed::new(), NotifySocket::new());
    let server = Proc::start_command(command(&installed.path(), &socket, &[]));
    socket.next_with("READY=1");
    for (text, reason) in
        // How it ended is known when it is reaped, which nobody does here.
        [("#!/bin/sh\nexit 3\n", "has ended"), ("no program", "not a program for this machine")]
    {
        installed.write(text);
        server.signal(Signal::SIGHUP);
        assert_eq!(socket.next().keys(), "RELOADING=1 MONOTONIC_USEC STATUS");
        let again = socket.next();
        assert_eq!((again.pid, &*again.keys()), (server.pid(), "READY=1 STATUS"));
        assert!(again.value("STATUS").unwrap().contains(reason), "{again:?}");
    }
    installed.put(PROGRAM.as_ref());
    server.handover();
    assert_eq!(socket.next().keys(), "RELOADING=1 MONOTONIC_USEC STATUS");
    assert!(socket.next().keys().starts_with("MAINPID="));
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

/// A HUP in a handover that fails starts the next one at once: for the service manager it is all one reload.
#[test]
fn the_status_is_that_of_the_last_failure() {
    let (installed, socket) = (Installed::new(), NotifySocket::new());
    let server = Proc::start_command(command(&installed.path(), &socket, &[]));
    socket.next_with("READY=1");
    let gate = installed.folder.path().join("gate");
    mkfifo(&gate, Mode::S_IRWXU).unwrap();
    installed.write(&format!("#!/bin/sh\nread line <{}\nexit 3\n", gate.display()));
    let first = server.hup();
    server.signal(Signal::SIGHUP);
    server.wait_for_nth("SIGHUP from", 2);
    // The control loop handles both in their order.
    server.phase(server.pid());
    fs::write(&gate, "\n").unwrap();
    let second = server.child(2);
    fs::write(&gate, "\n").unwrap();
    assert_eq!(socket.next().keys(), "RELOADING=1 MONOTONIC_USEC STATUS");
    let ready = socket.next();
    assert_eq!(ready.keys(), "READY=1 STATUS");
    let status = ready.value("STATUS").unwrap();
    assert!(first != second && status.contains(&format!("child {second} ")), "{status}");
    server.stop();
}

/// Otherwise systemd would keep it open, and its clients would wait without end.
#[test]
fn a_listener_that_the_successor_lacks_is_stored_no_more() {
    let (installed, socket) = (Installed::new(), NotifySocket::new());
    let path = installed.folder.path().join("socket");
    let flags = ["--store-listeners", "--unix", path.to_str().unwrap()];
    let server = Proc::start_command(command(&installed.path(), &socket, &flags));
    for name in ["FDNAME=heirloom-127.0.0.1%3A0", &format!("FDNAME=heirloom-unix%3A{}", path.display())] {
        assert_eq!(socket.next_with(name).fds.len(), 1);
    }
    let flags = "--listen 127.0.0.1:0 --probation-ms 0 --store-listeners";
    installed.write(&format!("#!/bin/sh\nexec {PROGRAM} {flags}\n"));
    let new = server.handover();
    socket.next_with("RELOADING=1");
    let removed = socket.next();
    let expected = format!("FDSTOREREMOVE=1 FDNAME=heirloom-unix%3A{}", path.display());
    assert_eq!((removed.pid, removed.keys()), (server.pid(), expected));
    assert!(socket.next().keys().starts_with(&format!("MAINPID={new} ")));
    socket.next_with("FDNAME=heirloom-127.0.0.1%3A0");
    server.stop();
}

/// The configuration has changed since the crash.
#[test]
fn a_stored_listener_without_a_listen_is_removed_at_the_start() {
    let socket = NotifySocket::new();
    let old = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for (flags, kept) in [(&[][..], false), (&["--store-listeners"], true)] {
        let mut command = Command::new("sh");
        let passes = r#"exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" "$@""#;
        command.args(["-c", passes, PROGRAM, "--listen", "127.0.0.1:0"]).args(flags);
        command.env("LISTEN_FDNAMES", "heirloom-127.0.0.1%3A1").env("NOTIFY_SOCKET", socket.path());
        let server = Proc::begin(command, Stdio::from(OwnedFd::from(old.try_clone().unwrap())));
        assert_eq!(socket.next().keys(), "READY=1 STATUS");
        if kept {
            assert_eq!(socket.next().keys(), "FDSTORE=1 FDNAME=heirloom-127.0.0.1%3A0");
        }
        assert_eq!(socket.next().keys(), "FDSTOREREMOVE=1 FDNAME=heirloom-127.0.0.1%3A1");
        server.signal(Signal::SIGTERM);
        server.wait_gone();
        while socket.has().is_some() {}
    }
}
