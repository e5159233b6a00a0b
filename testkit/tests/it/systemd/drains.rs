//! How long a generation drains that has handed over, and for which the service manager's signals are meant.

use std::io::Write;
use std::os::unix::net::UnixStream;

use testkit::{Exit, NotifySocket, Signal, beside};

use super::{reports_status, start};

/// Signals of the service manager, which the test plays: it is the parent of every generation.
#[test]
fn a_term_of_the_service_manager_never_counts_as_a_second_one() {
    let socket = NotifySocket::new();
    let server = start(&socket, &[], &[]);
    let mut client = server.client();
    client.ask("/sleep/1000");
    server.in_flight(server.pid(), 1);
    for _ in 0..5 {
        let before = server.count("SIGTERM from");
        server.signal(Signal::SIGTERM);
        server.wait_for_nth("SIGTERM from", before + 1);
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
    drop(socket.next_with("BARRIER=1"));
    server.signal_to(second, Signal::SIGTERM);
    assert_eq!(server.wait_exit(second), Exit::Status(0));
    server.signal_to(first, Signal::SIGTERM);
    server.signal_to(first, Signal::SIGTERM);
    assert_eq!(client.answer().ok().text(), "ok\n");
    assert_eq!(server.wait_exit(first), Exit::Status(0));
    // The main process alone says that the service stops.
    let stopping = socket.drain(1).into_iter().filter(|notice| notice.keys() == "STOPPING=1 STATUS");
    assert_eq!(stopping.map(|notice| notice.pid).collect::<Vec<_>>(), [second]);
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

/// The successor's status, where the kernel reports it to a process that is not its parent.
#[test]
fn a_main_process_that_exits_well_without_a_word_cuts_no_drain() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    let socket = NotifySocket::new();
    let server = start(&socket, &["--control", control.to_str().unwrap()], &[]);
    let (first, mut client) = (server.pid(), server.client());
    client.ask("/sleep/6500");
    server.in_flight(first, 1);
    let second = server.handover();
    let _waiting = beside("barrier", move || drop(socket.next_with("BARRIER=1")));
    UnixStream::connect(&control).unwrap().write_all(b"abort\n").unwrap();
    assert_eq!(server.wait_exit(second), Exit::Status(0));
    if reports_status() {
        server.wait_for(&format!("child {second} exited with status 0"));
        assert_eq!(client.answer().ok().text(), "ok\n");
        assert_eq!(server.wait_exit(first), Exit::Status(0));
    } else {
        // For all it knows the successor has died.
        assert_eq!(server.wait_exit(first), Exit::Status(1));
    }
    assert_eq!(server.count("predecessor *: STOPPING"), 0);
}

#[test]
fn the_time_without_a_main_process_is_configurable() {
    let socket = NotifySocket::new();
    let server = start(&socket, &["--drain-without-main-ms", "100", "--drain-timeout-ms", "600000"], &[]);
    let (first, mut client) = (server.pid(), server.client());
    client.ask("/sleep/4500");
    server.in_flight(first, 1);
    let second = server.handover();
    drop(socket.next_with("BARRIER=1"));
    server.signal_to(second, Signal::SIGKILL);
    // Within less than the default.
    assert_eq!(server.wait_exit(first), Exit::Status(1));
    assert!(!client.answer().is_ok());
}
