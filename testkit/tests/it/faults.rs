//! Resources that the system refuses: the server waits, works with those it has, and continues when it gets more. And the
//! cost of an idle server.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use testkit::{
    Client, Crowd, Proc, copy_program, expect_calm, kitchen_sink, lacks, pass, raise_nofile, skip,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");

const CLIENTS: usize = 100;

/// So many clients that have sent a request and not read the response.
fn asking(server: &Proc) -> Vec<Client> {
    let ask = |_| {
        let mut client = server.client();
        client.ask("/pid");
        client
    };
    (0..CLIENTS).map(ask).collect()
}

/// Each is answered and disconnects, so that the next one can connect.
#[track_caller]
fn expect_all_served(server: &Proc, clients: Vec<Client>) {
    for mut client in clients {
        assert_eq!(client.answer().ok().number(), server.pid().as_raw());
    }
}

#[test]
fn few_descriptors_and_many_clients() {
    let line = "ulimit -n 64 && exec \"$@\"";
    let server = Proc::start_as_said("sh", &["-c", line, "sh", PROGRAM, "--listen", "127.0.0.1:0"]);
    // As many as the limit allows are connected and stay.
    let mut held: Vec<Client> = (0..8).map(|_| server.client()).collect();
    held.iter_mut().for_each(|client| assert!(client.get("/ok").is_ok()));
    let waiting = asking(&server);
    server.wait_for("at the limit of 8 connections");
    expect_calm(server.pid());
    assert!(waiting.iter().all(|client| !client.has_ended()), "nobody is reset");
    held.iter_mut().for_each(|client| assert!(client.get("/ok").is_ok()));
    drop(held);
    expect_all_served(&server, waiting);
    assert!(server.get("/ok").is_ok());
    server.stop();
}

#[test]
fn descriptors_that_run_out_and_come_back() {
    if lacks("prlimit") {
        return;
    }
    let server = kitchen_sink!();
    let set = |soft: usize| {
        let limit = format!("--nofile={soft}:");
        let mut command = Command::new("prlimit");
        assert!(command.args([&limit, "--pid", &server.pid().to_string()]).status().unwrap().success());
    };
    let fds = server.facts(server.pid()).fds.len();
    set(fds + 5);
    let mut held: Vec<Client> = (0..5).map(|_| server.client()).collect();
    held.iter_mut().for_each(|client| assert!(client.get("/ok").is_ok()));
    let waiting = asking(&server);
    // Not by its text, which is another one with another C library.
    server.wait_for(&format!("can't accept: {}", io::Error::from_raw_os_error(nix::libc::EMFILE)));
    expect_calm(server.pid());
    assert!(waiting.iter().all(|client| !client.has_ended()), "nobody is reset");
    held.iter_mut().for_each(|client| assert!(client.get("/ok").is_ok()));
    // Some because a slot is free, the rest because of the limit.
    let mut waiting = waiting.into_iter();
    drop(held);
    expect_all_served(&server, waiting.by_ref().take(CLIENTS / 2).collect());
    set(1_000);
    expect_all_served(&server, waiting.collect());
    assert!(server.get("/ok").is_ok());
    server.stop();
}

/// Runs `flags` as a user without other processes, whose number of processes is limited.
fn as_user(uid: &str, processes: &str, program: &str, flags: &[&str]) -> Vec<String> {
    let limit = format!("--nproc={processes}:");
    let user = [format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()];
    let words = ["prlimit".to_owned(), limit, "setpriv".to_owned()].into_iter().chain(user);
    words.chain([program.to_owned()]).chain(flags.iter().map(|&flag| flag.to_owned())).collect()
}

/// Only root can become another user.
fn can_not_become_another() -> bool {
    let ordinary = !nix::unistd::geteuid().is_root();
    if ordinary {
        skip("this test needs root");
    }
    ordinary || lacks("prlimit") || lacks("setpriv")
}

/// The program, where ordinary users can run it.
fn of_everybody() -> (tempfile::TempDir, String) {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("program").to_str().unwrap().to_owned();
    // By another program: one of our own children may have it open for writing otherwise.
    copy_program(PROGRAM, &program);
    (folder, program)
}

#[test]
fn too_few_threads_to_start() {
    if can_not_become_another() {
        return;
    }
    let (_folder, program) = of_everybody();
    let words = as_user("65531", "10", &program, &["--listen", "127.0.0.1:0", "--workers", "32"]);
    let output = Command::new(&words[0]).args(&words[1..]).env("RUST_LOG", "info").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.contains("can't start the workers: Resource temporarily unavailable"), "{said}");
}

#[test]
fn no_thread_for_a_stream() {
    if can_not_become_another() {
        return;
    }
    let (_folder, program) = of_everybody();
    let words = as_user("65532", "200", &program, &["--listen", "127.0.0.1:0"]);
    let server = Proc::start_as_said(&words[0], &words[1..]);
    let set = |soft: &str| {
        let mut command = Command::new("prlimit");
        let limit = format!("--nproc={soft}:");
        command.args([&limit, "--pid", &server.pid().to_string()]).uid(65_532).gid(65_532);
        assert!(command.status().unwrap().success());
    };
    set("1");
    for path in ["/events", "/panic", "/ok"] {
        let status = server.get(path).ok().status;
        assert_eq!(
            status,
            if path == "/events" {
                503
            } else if path == "/panic" {
                500
            } else {
                200
            }
        );
    }
    server.wait_for("no thread for a detached connection: Resource temporarily unavailable");
    server.wait_for("no thread is left for GET /events");
    server.wait_for("a handler panicked (as asked): GET /panic");
    set("200");
    let mut client = server.client();
    client.ask("/events");
    assert_eq!(client.head().unwrap().0, 200);
    drop(client);
    server.stop();
}

/// An idle client costs a descriptor and a small slot.
#[test]
fn idle_connections_cost_next_to_nothing() {
    const IDLE: usize = 2_000;
    raise_nofile();
    let server = kitchen_sink!("--workers", "4");
    // First what the work itself takes, and the table of connections.
    let crowd = Crowd::of(&server.addr());
    pass(Duration::from_millis(300));
    assert_eq!(crowd.stop().failed, []);
    server.open(server.pid(), 0);
    let before = server.facts(server.pid());
    assert_eq!(before.threads.len(), 4 + 3, "{:?}", before.threads);
    let mut clients: Vec<Client> = (0..IDLE).map(|_| server.client()).collect();
    for client in &mut clients {
        assert!(client.get("/ok").is_ok());
    }
    let after = server.facts(server.pid());
    assert_eq!(after.fds.len() - before.fds.len(), IDLE);
    assert_eq!(after.threads, before.threads);
    let grown = (after.resident_kib - before.resident_kib) as usize;
    assert!(grown < IDLE, "{grown} KiB for {IDLE} connections");
    expect_calm(server.pid());
    // They are not dead, either.
    for client in &mut clients {
        assert!(client.get("/ok").is_ok());
    }
    drop(clients);
    server.stop();
}
