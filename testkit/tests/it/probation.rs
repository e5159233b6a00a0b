//! Between GO and COMMIT either generation can take the service; a death loses it for neither, and
//! a stop ends both.

use std::fs;

use testkit::{Begin, Exit, Outcome, Pid, Signal, kitchen_sink, until};

/// Longer than any test: probation does not end.
const LONG: &str = "600000";

#[test]
fn when_the_successor_dies_the_predecessor_accepts_again() {
    let server = kitchen_sink!("--probation-ms", LONG);
    let mut kept = server.client();
    kept.get("/ok").ok();
    for _ in 0..2 {
        let new = server.hup_to_probation();
        server.signal_to(new, Signal::SIGKILL);
        server.wait_exit(new);
        assert_eq!(server.get("/pid").ok().number(), server.pid().as_raw());
        server.wait_for(&format!("child {new} was killed by SIGKILL"));
        assert!(!kept.get("/ok").ok().closes());
    }
    // Once more, for good: nothing is stuck.
    let new = server.hup_to_probation();
    assert_eq!(server.alive(), [server.pid(), new]);
    server.reaped_all(server.pid());
}

#[test]
fn when_the_predecessor_dies_the_successor_serves_on() {
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let server = kitchen_sink!("--probation-ms", LONG, "--pid-file", pid_file.to_str().unwrap());
    let (old, new) = (server.pid(), server.hup_to_probation());
    server.signal_to(old, Signal::SIGKILL);
    assert_eq!(server.wait_exit(old), Exit::Killed(Signal::SIGKILL));
    assert_eq!(server.get("/pid").ok().number(), new.as_raw());
    server.wait_for("serving as generation 2");
    server.wait_for(&format!("pid file * names {new}"));
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{new}\n"));

    server.signal_to(new, Signal::SIGHUP);
    let third = server.child(2);
    server.wait_for(&format!("child {third}: SERVING"));
    until("the third generation serves", || server.get("/pid").ok().number() == third.as_raw());
}

/// `stopped` chooses which of the two generations is stopped.
fn a_stop_ends_both(stopped: impl Fn(Pid, Pid) -> Vec<Pid>) {
    let server = kitchen_sink!("--probation-ms", LONG);
    let mut slow = server.client();
    slow.begin();
    server.in_flight(server.pid(), 1);
    let (old, new) = (server.pid(), server.hup_to_probation());
    let mut later = server.client();
    later.begin();
    server.in_flight(new, 1);

    for (pid, n) in stopped(old, new).into_iter().zip(1..) {
        server.signal_to(pid, Signal::SIGTERM);
        server.wait_for_nth("SIGTERM from", n);
    }
    server.wait_for("draining (stop requested): 1 requests in flight");
    assert_eq!((slow.finish().ok().status, later.finish().ok().status), (200, 200));
    drop((slow, later));
    assert_eq!(server.wait_exit(old), Exit::Status(0));
    assert!(matches!(server.wait_exit(new), Exit::Status(0) | Exit::Untold));
    server.wait_gone();
    assert_eq!(server.get("/ok"), Outcome::Refused);
}

#[test]
fn a_stop_of_the_predecessor_ends_both() {
    a_stop_ends_both(|old, _| vec![old]);
}

#[test]
fn a_stop_of_the_successor_ends_both() {
    a_stop_ends_both(|_, new| vec![new]);
}

#[test]
fn a_stop_of_every_process_as_by_service_managers_ends_both() {
    a_stop_ends_both(|old, new| vec![old, new]);
}

#[test]
fn a_stop_of_either_removes_what_names_the_service() {
    for to_new in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (pid_file, socket) = (folder.path().join("pid"), folder.path().join("socket"));
        let (pid_file, socket) = (pid_file.to_str().unwrap(), socket.to_str().unwrap());
        let server = kitchen_sink!("--probation-ms", LONG, "--pid-file", pid_file, "--unix", socket);
        let new = server.hup_to_probation();
        server.signal_to(if to_new { new } else { server.pid() }, Signal::SIGTERM);
        server.wait_gone();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "to the successor: {to_new}: {left:?}");
    }
}

fn a_hup_in_probation_is_remembered_once(of: impl Fn(Pid, Pid) -> Pid) {
    let server = kitchen_sink!("--probation-ms", "6000");
    let (old, new) = (server.pid(), server.hup_to_probation());
    let signalled = of(old, new);
    // A long probation.
    let other = if signalled == old { new } else { old };
    server.signal_to(other, Signal::SIGSTOP);
    for n in 2..=4 {
        server.signal_to(signalled, Signal::SIGHUP);
        server.wait_for_nth("SIGHUP from", n);
    }
    server.signal_to(other, Signal::SIGCONT);
    server.committed(new);
    let third = server.child(2);
    server.committed(third);
    server.wait_exit(new);
    server.stop();
    assert_eq!(server.count(" as child "), 2, "handovers");
}

#[test]
fn a_hup_to_the_predecessor_in_probation_is_remembered_once() {
    a_hup_in_probation_is_remembered_once(|old, _| old);
}

#[test]
fn a_hup_to_the_successor_in_probation_is_remembered_once() {
    a_hup_in_probation_is_remembered_once(|_, new| new);
}

#[test]
fn a_hup_to_a_process_that_has_handed_over_is_passed_on() {
    let server = kitchen_sink!("--probation-ms", "0");
    let old = server.pid();
    let mut slow = server.client();
    slow.begin();
    server.in_flight(old, 1);
    let new = server.handover();
    server.signal_to(old, Signal::SIGHUP);
    let third = server.child(2);
    server.committed(third);
    assert!(matches!(server.wait_exit(new), Exit::Status(0) | Exit::Untold));
    assert_eq!(slow.finish().ok().text(), "ok");
    assert_eq!(server.get("/generation").ok().number(), 3);
}

#[test]
fn a_hundred_hups_are_at_most_two_handovers() {
    let server = kitchen_sink!("--probation-ms", "2000");
    let new = server.hup();
    for _ in 0..100 {
        server.signal(Signal::SIGHUP);
    }
    server.committed(new);
    let third = server.child(2);
    server.committed(third);
    server.wait_exit(new);
    assert_eq!(server.get("/generation").ok().number(), 3);
    server.stop();
    assert_eq!(server.count(" as child "), 2, "handovers");
}
