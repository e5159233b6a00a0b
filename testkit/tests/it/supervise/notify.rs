//! Under a service manager that is to be notified, which a test plays: the supervisor is the main process for good, and
//! all notifications come from it.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};

use nix::sys::socket::{getsockopt, sockopt};
use testkit::{Addr, Client, NotifySocket, Proc, Signal, get, until};

use super::{PROGRAM, Place, Supervised};

/// It serves, and has said so.
fn start(place: &Place, socket: &NotifySocket, flags: &[&str], variables: &[(&str, &str)]) -> Supervised {
    let mut command = place.command(&[], flags);
    command.arg("--supervise").env("NOTIFY_SOCKET", socket.path()).envs(variables.iter().copied());
    let server = Proc::begin(command, Stdio::null());
    server.wait_for("supervisor: * serves as generation 1");
    let supervised = Supervised { supervisor: server.pid(), server };
    assert_eq!(next(&supervised, socket), "READY=1 STATUS");
    supervised
}

/// The next notification, which is the supervisor's.
#[track_caller]
fn next(supervised: &Supervised, socket: &NotifySocket) -> String {
    let notice = socket.next();
    assert_eq!(notice.pid, supervised.supervisor, "{notice:?}");
    notice.keys()
}

#[test]
fn each_handover_is_reported_and_never_another_main_process() {
    let (place, socket) = (Place::new(), NotifySocket::new());
    let supervised = start(&place, &socket, &[], &[]);
    for generation in 2..=6 {
        supervised.signal(Signal::SIGHUP);
        assert_eq!(next(&supervised, &socket), "RELOADING=1 MONOTONIC_USEC STATUS");
        let ready = socket.next();
        assert_eq!((ready.pid, &*ready.keys()), (supervised.supervisor, "READY=1 WATCHDOG=1 STATUS"));
        let status = ready.value("STATUS").unwrap();
        assert!(status.starts_with(&format!("generation {generation} (pid ")), "{status}");
        supervised.serves(generation);
    }
    supervised.stops_well();
    assert_eq!(next(&supervised, &socket), "STOPPING=1 STATUS");
    let rest = socket.drain(1);
    assert!(rest.iter().all(|notice| notice.keys() == "EXTEND_TIMEOUT_USEC"), "{rest:?}");
}

#[test]
fn a_failed_handover_and_a_crash_are_reported_with_their_reason() {
    let (place, socket) = (Place::new(), NotifySocket::new());
    let supervised = start(&place, &socket, &[], &[]);
    place.put("/bin/false");
    supervised.signal(Signal::SIGHUP);
    assert_eq!(next(&supervised, &socket), "RELOADING=1 MONOTONIC_USEC STATUS");
    let again = socket.next();
    assert_eq!((again.pid, &*again.keys()), (supervised.supervisor, "READY=1 STATUS"));
    assert!(again.value("STATUS").unwrap().contains("the last handover failed: "), "{again:?}");
    place.put(PROGRAM);

    supervised.server.signal_to(supervised.server.serving(), Signal::SIGKILL);
    let crash = socket.next();
    assert_eq!((crash.pid, &*crash.keys()), (supervised.supervisor, "STATUS"));
    assert!(crash.value("STATUS").unwrap().ends_with(", and no process serves"));
    assert_eq!(next(&supervised, &socket), "READY=1 STATUS");
    supervised.serves(2);
    supervised.stops_well();
}

#[test]
fn the_watchdog_is_fed_only_while_the_generation_makes_progress() {
    let (place, socket) = (Place::new(), NotifySocket::new());
    let flags = ["--workers", "1"];
    let mut command = place.command(&["sh", "-c", r#"WATCHDOG_PID=$$ exec "$0" "$@""#], &flags);
    command.arg("--supervise").env("NOTIFY_SOCKET", socket.path()).env("WATCHDOG_USEC", "300000");
    let server = Proc::begin(command, Stdio::null());
    server.wait_for("supervisor: * serves as generation 1");
    let supervised = Supervised { supervisor: server.pid(), server };
    assert_eq!(next(&supervised, &socket), "READY=1 STATUS");
    for generation in 1..=3 {
        for _ in 0..3 {
            let fed = socket.next_with("WATCHDOG=1");
            assert_eq!(fed.pid, supervised.supervisor);
        }
        // The only worker is in a handler: no progress.
        let (serving, mut client) = (supervised.server.serving(), Client::to(&supervised.server.addr()));
        client.ask("/sleep/2000");
        supervised.server.in_flight(serving, 1);
        let fed = socket.drain(60);
        assert!(fed.len() <= 3, "{fed:?}");
        assert_eq!(client.answer().ok().text(), "ok\n");
        supervised.hand_over_to(generation + 1);
    }
    supervised.stops_well();
}

/// The generation that serves stops first; the supervisor asks for more time as long as earlier ones drain.
#[test]
fn the_time_for_a_stop_is_extended_while_any_generation_drains() {
    let (place, socket) = (Place::new(), NotifySocket::new());
    let supervised = start(&place, &socket, &[], &[]);
    let mut client = supervised.server.client();
    client.ask("/sleep/7000");
    let first = supervised.server.serving();
    supervised.server.in_flight(first, 1);
    supervised.hand_over_to(2);
    let second = supervised.server.serving();
    socket.next_with("READY=1");
    supervised.signal(Signal::SIGTERM);
    assert_eq!(next(&supervised, &socket), "STOPPING=1 STATUS");
    supervised.server.wait_exit(second);
    socket.drain(20);
    assert_eq!(next(&supervised, &socket), "EXTEND_TIMEOUT_USEC");
    assert_eq!(client.answer().ok().text(), "ok\n");
    supervised.server.wait_for("supervisor: the service has ended with status 0");
    supervised.server.wait_gone();
}

#[test]
fn stored_listeners_are_the_supervisors() {
    let (place, socket) = (Place::new(), NotifySocket::new());
    let supervised = start(&place, &socket, &["--store-listeners"], &[]);
    let stored = socket.next();
    assert_eq!(
        (stored.pid, &*stored.keys()),
        (supervised.supervisor, "FDSTORE=1 FDNAME=heirloom-127.0.0.1%3A0")
    );
    assert_eq!(stored.fds.len(), 1);
    supervised.signal(Signal::SIGTERM);
    supervised.server.wait_for("supervisor: the service has ended with status 0");
    assert_eq!(next(&supervised, &socket), "FDSTOREREMOVE=1 FDNAME=heirloom-127.0.0.1%3A0");
    assert_eq!(next(&supervised, &socket), "STOPPING=1 STATUS");
}

/// Over handovers, a crash, a new version of the supervisor, and a stop.
#[test]
fn a_socket_of_systemd_stays_its_own() {
    let place = Place::new();
    let ours = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = Addr::from(&*ours.local_addr().unwrap().to_string());
    let passes = r#"exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" "$@""#;
    for round in 0..2 {
        let mut command = Command::new("sh");
        command.args(["-c", passes]).arg(place.program());
        command.args(["--listen", "systemd:web", "--probation-ms", "0", "--supervise"]);
        command.env("LISTEN_FDNAMES", "web");
        let server = Proc::begin(command, Stdio::from(std::os::fd::OwnedFd::from(ours.try_clone().unwrap())));
        server.wait_for("supervisor: * serves as generation 1");
        let supervised = Supervised { supervisor: server.pid(), server };
        let serves = |n: usize| {
            supervised.server.wait_for(&format!("supervisor: * serves as generation {n}"));
            until("it serves", || get(&addr, "/generation").ok().number() == i32::try_from(n).unwrap());
        };
        serves(1);
        if round == 1 {
            place.put_copy();
        }
        supervised.signal(Signal::SIGHUP);
        serves(2);
        if round == 1 {
            supervised.server.wait_for("supervisor: continues as the new version of");
        }
        let main = supervised.server.lines("supervisor: * serves as generation 2");
        let pid = main[0].split("supervisor: ").nth(1).unwrap().split(' ').next().unwrap();
        supervised.server.signal_to(supervised.server.known(pid.parse().unwrap()), Signal::SIGKILL);
        serves(3);
        supervised.signal(Signal::SIGTERM);
        supervised.server.wait_for("belongs to systemd and stays open");
        supervised.server.wait_for("supervisor: the service has ended with status 0");
        supervised.server.wait_gone();
        // Neither filtered nor shut: clients connect, and wait for the next start.
        assert!(getsockopt(&ours, sockopt::AcceptConn).unwrap());
    }
}
