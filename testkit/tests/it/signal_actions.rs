//! Signals with other actions, and with hooks.

use std::fs;

use tempfile::TempDir;
use testkit::{Exit, Proc, Signal};

use crate::TESTKIT;

fn hooked(signals: &str) -> (Proc, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("signals"), signals).unwrap();
    let flags = ["hooked", folder.path().to_str().unwrap(), "127.0.0.1:0", "0"];
    (Proc::start_as_said(TESTKIT, &flags), folder)
}

#[track_caller]
fn position(server: &Proc, text: &str) -> usize {
    let all = server.lines("");
    all.iter().position(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text}"))
}

#[test]
fn hooks_run_before_and_after_what_a_signal_means() {
    let (server, _folder) = hooked("");
    server.signal(Signal::SIGUSR1);
    server.wait_for("generation 1 serving: ");
    server.wait_for("hook: after USR1");
    assert!(position(&server, "hook: before USR1") < position(&server, "generation 1 serving: "));
    assert!(position(&server, "hook: before USR1") < position(&server, "hook: after USR1"));
    // In each generation.
    server.handover();
    server.signal(Signal::SIGUSR1);
    server.wait_for_nth("hook: after USR1", 2);
    server.stop();
}

#[test]
fn a_hook_that_hangs_does_not_prevent_a_stop() {
    let (server, folder) = hooked("");
    fs::write(folder.path().join("term-hangs"), "").unwrap();
    server.signal(Signal::SIGTERM);
    server.wait_for("hook: term hangs");
    assert_eq!(server.get("/pid").ok().number(), server.pid().as_raw());
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
    server.wait_for("hook: exit");
}

#[test]
fn as_nginx_has_them() {
    let (server, _folder) = hooked("nginx");
    let old = server.pid();
    server.signal(Signal::SIGUSR2);
    server.wait_for("SIGUSR2 from *: handover");
    server.wait_for(": COMMIT");
    assert_eq!(server.wait_exit(old), Exit::Status(0));
    let new = server.settled().expect("the successor");
    assert_eq!(server.get("/pid").ok().number(), new.as_raw());
    server.signal(Signal::SIGQUIT);
    server.wait_for("SIGQUIT from *: stop");
    server.wait_gone();

    let (server, _folder) = hooked("nginx");
    let mut client = server.client();
    client.ask("/never");
    server.in_flight(server.pid(), 1);
    server.signal(Signal::SIGTERM);
    server.wait_for("SIGTERM from *: abort requests in flight");
    server.wait_for("abort: cut GET /never");
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(1));
}

#[test]
fn as_endless_has_them() {
    let (server, _folder) = hooked("endless");
    let mut client = server.client();
    client.ask("/never");
    server.in_flight(server.pid(), 1);
    server.signal(Signal::SIGTERM);
    server.wait_for("draining (");
    server.signal(Signal::SIGUSR2);
    server.wait_for("abort: cut GET /never");
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(1));
}

#[test]
fn a_signal_that_means_nothing_is_logged() {
    let (server, _folder) = hooked("quiet");
    server.signal(Signal::SIGHUP);
    server.wait_for("SIGHUP from *: nothing");
    server.signal(Signal::SIGUSR2);
    server.wait_for("SIGUSR2 from *: no action");
    assert_eq!(server.phase(server.pid()), "serving");
    assert_eq!(server.alive(), [server.pid()]);
    server.stop();
}
