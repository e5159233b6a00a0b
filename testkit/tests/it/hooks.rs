//! What a program does at the turns of its life: what only one generation may have, what goes along
//! from one to the next, and what happens at the end.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use testkit::{Addr, Client, Exit, Outcome, Proc, Signal, beside, get, pass};

use crate::TESTKIT;

fn hooked(probation_ms: &str) -> (Proc, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["hooked", folder.path().to_str().unwrap(), "127.0.0.1:0", probation_ms];
    (Proc::start_as_said(TESTKIT, &flags), folder)
}

/// A handover by then is a good one.
#[track_caller]
fn still_hands_over(server: &Proc) {
    let old = server.newest();
    assert_eq!(server.get("/pid").ok().number(), old.as_raw());
    let new = server.handover();
    assert_eq!(server.get("/pid").ok().number(), new.as_raw());
    assert_eq!(server.wait_exit(old), Exit::Status(0));
}

#[test]
fn they_run_in_order() {
    let (server, _folder) = hooked("0");
    let old = server.pid();
    server.handover();
    server.wait_exit(old);
    server.stop();
    let lines = server.lines("hook: ");
    let said: Vec<&str> = lines.iter().map(|line| line.rsplit("hook: ").next().unwrap()).collect();
    let at =
        |text: &str| said.iter().position(|said| *said == text).unwrap_or_else(|| panic!("{text}: {said:?}"));
    assert_eq!(at("acquire version 0 bytes 0"), 0);
    assert!(at("phase serving") < at("phase handing over"));
    assert!(at("phase handing over") < at("release"));
    assert!(at("release") < at("acquire version 7 bytes 0"));
    assert!(at("phase handed over") < at("drain"));
    assert!(at("drain") < at("exit"));
    assert!(at("acquire version 7 bytes 0") < at("phase draining"));
    assert_eq!(said.last(), Some(&"exit"));
    assert_eq!(said.iter().filter(|said| **said == "exit").count(), 2);
}

#[test]
fn state_of_any_size_goes_along() {
    let (server, folder) = hooked("0");
    for (round, size) in ["1", "70000", "5000000"].into_iter().enumerate() {
        fs::write(folder.path().join("size"), size).unwrap();
        server.handover();
        server.wait_for_nth(&format!("acquire version 7 bytes {size}"), 1);
        assert_eq!(server.count("hook: release"), round + 1);
    }
}

#[test]
fn open_files_go_along_under_their_names() {
    let (server, _folder) = hooked("0");
    let udp = server.get("/udp").ok();
    assert_eq!(server.get("/odd").ok().text(), "false");
    let pids: Vec<String> = [(); 3].map(|()| server.handover().to_string()).to_vec();
    assert_eq!(server.get("/udp").ok().text(), udp.text(), "the same socket");
    assert_eq!(server.get("/odd").ok().text(), "true");
    let written = server.get("/file").ok();
    let lines: Vec<&str> = written.text().lines().collect();
    assert_eq!(lines[1..], pids, "each generation wrote to the one file");
}

/// Each way not to hand over; then the predecessor has again what it had released, and the next
/// handover is a good one.
#[test]
fn a_handover_that_fails_leaves_what_was_released_where_it_was() {
    for (obstacle, line, acquires_again) in [
        ("release-fails", "the release hook failed: as asked; still serving", false),
        ("release-panics", "the release hook failed: release panicked; still serving", false),
        ("release-hangs", "still serving", false),
        ("acquire-fails", "failed: the acquire hook failed: as asked; still serving", true),
        ("acquire-panics", "failed: the acquire hook failed: acquire panicked; still serving", true),
        ("acquire-hangs", "was killed by SIGKILL", true),
    ] {
        let (server, folder) = hooked("0");
        let path = folder.path().join(obstacle);
        fs::write(&path, "").unwrap();
        let acquired = server.count("hook: acquire version");
        server.hup();
        if obstacle == "release-hangs" {
            // The thread of the hooks is lost: there is none left to run them.
            server.wait_for("was killed by SIGKILL");
            assert_eq!(server.get("/pid").ok().number(), server.pid().as_raw());
            continue;
        }
        server.wait_for(line);
        if obstacle == "acquire-hangs" {
            // It would have closed the listeners, which are shared, to new clients.
            assert_eq!(server.count("handover: predecessor *: STOPPING"), 0);
        }
        if !acquires_again {
            fs::remove_file(&path).unwrap();
        }
        if acquires_again {
            // The first one, the one that failed, and the one after the rollback.
            server.wait_for_nth("hook: acquire version", acquired + 2);
        }
        still_hands_over(&server);
    }
}

#[test]
fn a_successor_that_dies_on_probation_gives_back_what_it_had() {
    let (server, _folder) = hooked("60000");
    let new = server.hup_to_probation();
    server.signal_to(new, Signal::SIGKILL);
    server.wait_for("still serving");
    server.wait_for_nth("hook: acquire version 7", 2);
    assert_eq!(server.get("/pid").ok().number(), server.pid().as_raw());
}

#[test]
fn an_exit_hook_that_hangs_is_cut_by_an_abort() {
    let (server, folder) = hooked("0");
    fs::write(folder.path().join("exit-hangs"), "").unwrap();
    server.signal(Signal::SIGTERM);
    server.wait_for("on_exit did not finish in time");
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

#[test]
fn a_second_stop_cuts_an_exit_hook() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["patient", "exit-hangs"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    let flags = ["hooked", folder.path().to_str().unwrap(), "127.0.0.1:0", "0"];
    let server = Proc::start_as_said(TESTKIT, &flags);
    server.signal(Signal::SIGTERM);
    server.wait_for("hook: exit hangs");
    // A signal within half a second counts as the same one.
    pass(Duration::from_millis(600));
    server.signal(Signal::SIGTERM);
    server.wait_for("abort: nothing was in flight");
    server.wait_gone();
}

/// A connection that arrived later would be served after the hook, which has written the counts of the program.
#[test]
fn nothing_arrives_once_exit_hooks_run() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["patient", "exit-hangs"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    let flags = ["hooked", folder.path().to_str().unwrap(), "127.0.0.1:0", "0"];
    let server = Proc::start_as_said(TESTKIT, &flags);
    let old = server.pid();
    // More than goes along with a connection.
    let halves = [300_000, 100_000];
    let mut client = server.client();
    client.send(format!(
        "GET /pid HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
        halves[0] + halves[1]
    ));
    client.send(vec![b'1'; halves[0]]);
    server.in_flight(old, 1);
    let new = server.handover();
    server.signal_to(new, Signal::SIGTERM);
    server.wait_for("hook: exit hangs");
    server.wait_for("connections stay here");
    fs::remove_file(folder.path().join("exit-hangs")).unwrap();
    client.send(vec![b'2'; halves[1]]);
    let response = client.answer().ok();
    assert!(response.closes(), "its successor takes nothing more");
    assert_eq!(response.number(), old.as_raw());
    assert_eq!(server.wait_exit(old), Exit::Status(0));
    server.signal_to(new, Signal::SIGKILL);
    server.wait_exit(new);
}

/// A stop of all generations, as Ctrl-C is one, while the newest has not got all it needs.
#[test]
fn a_stop_while_the_successor_acquires_resets_no_client() {
    for _ in 0..5 {
        let (server, folder) = hooked("0");
        fs::write(folder.path().join("acquire-hangs"), "").unwrap();
        let new = server.hup();
        server.wait_for("hook: acquire hangs");
        for pid in [server.pid(), new] {
            server.signal_to(pid, Signal::SIGTERM);
        }
        let mut served = 0;
        loop {
            match server.get("/pid") {
                outcome if outcome.is_ok() => served += 1,
                outcome => break assert_eq!(outcome, Outcome::Refused, "after {served}"),
            }
        }
        server.wait_gone();
    }
}

#[test]
fn a_term_while_hooks_run_ends_the_service() {
    for (obstacle, stage) in [("release-hangs", "hook: release"), ("acquire-hangs", "GO probation_ms")] {
        let (server, folder) = hooked("0");
        fs::write(folder.path().join(obstacle), "").unwrap();
        server.signal(Signal::SIGHUP);
        server.wait_for(stage);
        server.signal_to(server.pid(), Signal::SIGTERM);
        server.wait_gone();
    }
}

/// The example, under load: each line that was acknowledged to a client is there, once, and no number twice.
#[test]
fn a_file_that_only_one_generation_may_write_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    let flags = ["127.0.0.1:0", path.to_str().unwrap()];
    let server = Proc::start_as_said(env!("CARGO_BIN_EXE_exclusive_lock"), &flags);
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|n| {
            let (addr, over) = (server.addr(), Arc::clone(&over));
            beside(&format!("client {n}"), move || add_lines(&addr, n, &over))
        })
        .collect();
    for _ in 0..3 {
        server.handover();
    }
    over.store(true, Ordering::SeqCst);
    let confirmed: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let written = lines(&path);
    assert_eq!(confirmed.len(), written.len(), "confirmed, and written");
    for line in &confirmed {
        assert_eq!(written.iter().filter(|other| *other == line).count(), 1, "{line}");
    }
    for (n, line) in (1..).zip(&written) {
        assert_eq!(line.split(' ').next(), Some(&*format!("{n}")), "no number is left out or twice");
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

/// The lines that were acknowledged to this client.
fn add_lines(addr: &Addr, n: usize, over: &AtomicBool) -> Vec<String> {
    let mut client = Client::to(addr);
    let mut confirmed = Vec::new();
    let mut k = 0;
    while !over.load(Ordering::SeqCst) {
        k += 1;
        let text = format!("{n}-{k}");
        client
            .send(format!("POST /lines HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
        let response = client.answer().ok();
        match response.status {
            201 => confirmed.push(format!("{} {text}", response.text().trim())),
            // Between release and commit.
            503 => assert_eq!(response.header("retry-after"), Some("1")),
            other => panic!("{other}"),
        }
    }
    confirmed
}

#[test]
fn what_a_process_has_learned_is_written_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report");
    let flags = ["127.0.0.1:0", path.to_str().unwrap()];
    let server = Proc::start_as_said(env!("CARGO_BIN_EXE_dump_state"), &flags);
    let first = server.pid();
    assert!(matches!(get(&server.addr(), "/a"), Outcome::Ok(_)));
    server.get("/a").ok();
    let second = server.hup();
    server.committed(second);
    server.wait_exit(first);
    server.get("/b").ok();
    server.stop();
    assert_eq!(lines(&path), [format!("{first} /a 2"), format!("{second} /b 1")]);
}
