//! A handover costs no request, leaks nothing, and carries everything over.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use testkit::{Addr, Begin, Client, Exit, Outcome, Proc, Signal, beside, get, kitchen_sink, until};

#[test]
fn a_keep_alive_client_never_loses_a_request() {
    let server = kitchen_sink!("--probation-ms", "5000");
    let old = server.pid();
    let mut client = server.client();
    assert_eq!(client.get("/pid").ok().number(), old.as_raw());
    let new = server.hup_to_probation();
    assert!(!client.get("/pid").ok().closes(), "in probation nothing is announced");
    server.committed(new);
    // The old process answers until the connection goes along or its close is announced, then the new one does.
    until("the connection has moved, or is to be closed", || {
        let response = client.get("/pid").ok();
        let moved = response.number() == new.as_raw();
        assert!(moved || response.number() == old.as_raw());
        if response.closes() {
            assert!(!moved, "the new process announces nothing");
            assert_eq!(client.get("/pid"), Outcome::ClosedAnnounced);
        }
        moved || response.closes()
    });
    assert_eq!(server.wait_exit(old), Exit::Status(0));
}

/// Asks again and again, beside twenty handovers; gives what failed.
fn across_twenty_handovers(mut ask: impl FnMut(&Addr) -> Outcome + Send + 'static) -> Vec<Outcome> {
    let server = kitchen_sink!("--probation-ms", "0");
    let done = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let (addr, stop, count) = (server.addr(), Arc::clone(&done), Arc::clone(&asked));
    let asking = beside("asking", move || {
        let mut failed = Vec::new();
        while !stop.load(Ordering::SeqCst) {
            let outcome = ask(&addr);
            count.fetch_add(1, Ordering::SeqCst);
            failed.extend((!outcome.is_ok()).then_some(outcome));
        }
        failed
    });
    for _ in 0..20 {
        let before = asked.load(Ordering::SeqCst);
        server.handover();
        until("requests between two handovers", || asked.load(Ordering::SeqCst) > before + 5);
    }
    done.store(true, Ordering::SeqCst);
    let failed = asking.join().expect("the asking thread");
    server.wait_for("serving as generation 21");
    failed
}

#[test]
fn twenty_handovers_lose_no_new_connection() {
    assert_eq!(across_twenty_handovers(|addr| get(addr, "/ok")), []);
}

#[test]
fn twenty_handovers_lose_no_request() {
    let mut client = None;
    let ask = move |addr: &Addr| {
        let mut connected: Client = client.take().unwrap_or_else(|| Client::to(addr));
        let outcome = connected.get("/ok");
        if matches!(&outcome, Outcome::Ok(response) if !response.closes()) {
            client = Some(connected);
        }
        outcome
    };
    assert_eq!(across_twenty_handovers(ask), []);
}

#[test]
fn twenty_handovers_lose_no_post() {
    let ask = |addr: &Addr| {
        let mut client = Client::to(addr);
        client.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 16256\r\n\r\n");
        client.send([b'x'; 8000]);
        client.send([b'x'; 8256]);
        match client.answer() {
            Outcome::Ok(response) if response.body.len() != 16256 => Outcome::Cut,
            other => other,
        }
    };
    assert_eq!(across_twenty_handovers(ask), []);
}

#[test]
fn every_listener_is_inherited() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let unix = path.to_str().unwrap();
    let more = ["--listen", "127.0.0.2:0", "--unix", unix, "--admin", "127.0.0.3:0"];
    let server = kitchen_sink!("--probation-ms", "0", more[0], more[1], more[2], more[3], more[4], more[5]);
    let addrs = server.addrs();
    assert_eq!(addrs.len(), 4);
    let (inodes, file) = (server.facts(server.pid()).listeners, fs::metadata(&path).unwrap().ino());
    assert_eq!(inodes.len(), 4);

    for generation in 2..4 {
        let old = server.newest();
        let new = server.handover();
        for addr in &addrs[..3] {
            assert_eq!(get(addr, "/pid").ok().number(), new.as_raw(), "{addr:?}");
            assert_eq!(get(addr, "/generation").ok().number(), generation);
        }
        assert_eq!(get(&addrs[3], "/healthz").ok().status, 200);
        assert_eq!(server.wait_exit(old), Exit::Status(0));
        assert_eq!(server.facts(new).listeners, inodes);
        assert_eq!(fs::metadata(&path).unwrap().ino(), file);
    }
    assert_eq!(server.addrs(), addrs, "no later generation has bound a socket of its own");
    server.stop();
    assert!(!path.exists());
    addrs.iter().for_each(|addr| assert_eq!(get(addr, "/pid"), Outcome::Refused));
}

#[test]
fn listeners_of_one_name_keep_their_order() {
    let server = kitchen_sink!("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--probation-ms", "0");
    let answers = |addr: &Addr| get(addr, "/ok").ok().status;
    let before: Vec<u16> = server.addrs().iter().map(answers).collect();
    assert_eq!(before, [200, 200, 404]);
    server.handover();
    assert_eq!(server.addrs().iter().map(answers).collect::<Vec<_>>(), before);
}

#[test]
fn a_unix_path_that_somebody_else_has_taken_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let server = kitchen_sink!("--unix", path.to_str().unwrap());
    fs::remove_file(&path).unwrap();
    fs::write(&path, "not yours").unwrap();
    server.stop();
    assert_eq!(fs::read_to_string(&path).unwrap(), "not yours");
}

#[test]
fn the_fifth_generation_has_what_the_first_had_and_no_more() {
    let server = kitchen_sink!("--probation-ms", "0", "--admin", "127.0.0.2:0");
    // Descriptors that this test was itself started with are none of the server's.
    let ours: Vec<String> = testkit::Facts::own().leaky.into_values().collect();
    let facts_of = |server: &Proc| {
        server.open(server.newest(), 0);
        // A thread names itself once it runs; the first one has the program's name.
        let unnamed = |name: &&String| *name == "kitchen_sink";
        let threads = || server.facts(server.newest()).threads;
        until("every thread has its name", || threads().iter().filter(unnamed).count() == 1);
        let mut facts = server.facts(server.newest());
        facts.leaky.retain(|_, what| !ours.contains(what));
        facts
    };
    server.get("/ok").ok();
    let first = facts_of(&server);
    assert_eq!(first.leaky.len(), 0, "{:?}", first.leaky);
    let of_heirloom = |name: &&String| name.starts_with("heirloom-") || *name == "kitchen_sink";
    assert_eq!(first.threads.iter().filter(of_heirloom).count(), first.threads.len(), "{:?}", first.threads);

    for _ in 2..=5 {
        let old = server.newest();
        server.handover();
        server.get("/ok").ok();
        assert_eq!(server.wait_exit(old), Exit::Status(0));
        // It was notified of that.
        server.wait_for(&format!("predecessor {old} is gone"));
        let now = facts_of(&server);
        assert_eq!(now.leaky.len(), 0, "{:?}", now.leaky);
        assert_eq!(now.environ, first.environ);
        assert_eq!(now.threads, first.threads);
        assert_eq!(now.listeners, first.listeners);
        assert_eq!(now.zombies, [0; 0]);
        assert_eq!(now.kinds_of_fds(), first.kinds_of_fds(), "{:?}\n{:?}", now.fds, first.fds);
        assert!(now.resident_kib < first.resident_kib * 2, "{first:?} {now:?}");
    }
}

#[test]
fn a_slow_request_outlives_three_handovers() {
    let server = kitchen_sink!("--probation-ms", "0");
    let first = server.pid();
    let mut slow = server.client();
    slow.begin();
    server.in_flight(first, 1);
    for _ in 0..3 {
        let old = server.newest();
        let new = server.handover();
        assert_eq!(server.get("/pid").ok().number(), new.as_raw());
        if old != first {
            server.wait_exit(old);
        }
        server.reaped_all(first);
    }
    assert_eq!(server.alive(), [first, server.newest()]);
    assert_eq!(slow.finish().ok().text(), "ok");
    drop(slow);
    assert_eq!(server.wait_exit(first), Exit::Status(0));
}

#[test]
fn a_process_that_has_handed_over_does_not_heed_the_first_term() {
    let server = kitchen_sink!("--probation-ms", "0");
    let old = server.pid();
    let mut slow = server.client();
    slow.begin();
    server.in_flight(old, 1);
    let new = server.handover();
    server.signal_to(old, Signal::SIGTERM);
    server.wait_for("SIGTERM from");
    assert_eq!(slow.finish().ok().text(), "ok");
    drop(slow);
    assert_eq!(server.wait_exit(old), Exit::Status(0));
    assert_eq!(server.get("/pid").ok().number(), new.as_raw());
}

#[test]
fn an_upload_in_progress_is_finished() {
    let server = kitchen_sink!("--probation-ms", "0");
    // Enough to be on disk by then.
    let body: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let (before, after) = body.split_at(150_000);
    let mut client = server.client();
    client.send(format!("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(before);
    server.in_flight(server.pid(), 1);
    server.handover();
    client.send(after);
    assert!(client.answer().ok().body == body);
    drop(client);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

#[test]
fn a_chunked_upload_in_progress_is_finished() {
    let server = kitchen_sink!("--probation-ms", "0");
    let mut client = server.client();
    client.send(
        "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n7\r\n se",
    );
    server.in_flight(server.pid(), 1);
    server.handover();
    client.send("cond\r\n0\r\n\r\n");
    assert_eq!(client.answer().ok().text(), "first second");
}

#[test]
fn a_head_in_pieces_is_finished() {
    let server = kitchen_sink!("--probation-ms", "0");
    let mut client = server.client();
    client.send("GET /ok HTTP/1.1\r\nHo");
    server.in_flight(server.pid(), 1);
    server.handover();
    client.send("st: test\r\n\r\n");
    assert_eq!(client.answer().ok().text(), "ok\n");
}

#[test]
fn a_slow_reader_gets_the_whole_response() {
    const BYTES: usize = 20_000_000;
    let server = kitchen_sink!("--probation-ms", "0");
    let mut client = server.client();
    client.ask(&format!("/big/{BYTES}"));
    client.head().expect("a head");
    client.take(1000).expect("its first bytes");
    server.handover();
    assert_eq!(server.alive(), [server.pid(), server.newest()]);
    assert_eq!(client.take(BYTES - 1000).expect("the rest").len(), BYTES - 1000);
    drop(client);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

#[test]
fn a_streamed_response_is_finished() {
    let server = kitchen_sink!("--probation-ms", "0");
    let mut client = server.client();
    client.ask("/stream");
    server.in_flight(server.pid(), 1);
    server.handover();
    assert_eq!(client.answer().ok().body.len(), 1 << 20);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = kitchen_sink!("--probation-ms", "0");
    let mut client = server.client();
    for path in ["/until-drain", "/ok", "/204", "/echo"] {
        client.ask(path);
    }
    server.in_flight(server.pid(), 1);
    server.handover();
    let statuses = [(); 4].map(|()| client.answer().ok().status);
    assert_eq!(statuses, [200, 200, 204, 405]);
}

#[test]
fn a_connection_that_has_said_nothing_yet_is_served() {
    let server = kitchen_sink!("--probation-ms", "0");
    let mut silent = [server.client(), server.client()];
    server.open(server.pid(), 2);
    server.handover();
    for client in &mut silent {
        assert_eq!(client.get("/ok").ok().text(), "ok\n");
    }
}

#[test]
fn unix_clients_lose_nothing_either() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let server = kitchen_sink!("--probation-ms", "0", "--unix", path.to_str().unwrap());
    let unix = Addr::Unix(path);
    let mut slow = Client::to(&unix);
    slow.begin();
    server.in_flight(server.pid(), 1);
    let new = server.handover();
    assert_eq!(get(&unix, "/pid").ok().number(), new.as_raw());
    assert_eq!(slow.finish().ok().text(), "ok");
}

/// The old process answers for the handler in time, works on while it drains, and ends when the handler has returned.
#[test]
fn a_handler_past_its_deadline_is_waited_for() {
    let server = kitchen_sink!("--probation-ms", "0");
    let old = server.pid();
    let mut before = server.client();
    before.ask("/late/4000");
    let mut during = server.client();
    assert_eq!(before.answer().ok().status, 503);
    during.ask("/late/3000");
    server.in_flight(old, 2);
    let new = server.handover();
    let response = during.answer().ok();
    assert_eq!((response.status, response.closes()), (503, true));
    let mut after = server.client();
    after.ask("/late/60000");
    assert_eq!(after.answer().ok().status, 503);
    server.wait_for("GET /late/{ms}: has returned past its deadline, in its handler for 4.*");
    assert_eq!(server.wait_exit(old), Exit::Status(0));
    assert_eq!(server.get("/pid").ok().number(), new.as_raw());
    let metrics = server.get("/metrics").ok();
    assert!(
        metrics.text().contains("\nheirloom_handler_deadlines_passed_total 3\n"),
        "with those of generation 1"
    );
    assert!(metrics.text().contains("\nheirloom_handlers_past_deadline 1\n"));
}
