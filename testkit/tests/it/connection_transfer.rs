//! Connections move to the new process: no client sees a close, however much it has sent so far, and even if one of the
//! processes dies meanwhile.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use testkit::{
    Addr, Begin, Client, Exit, Outcome, Pid, Proc, Signal, copy_program, kitchen_sink, lacks, skip, until,
};

/// A crowd of clients, each with one connection that has been asked once.
fn crowd(server: &Proc, size: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..size).map(|_| server.client()).collect();
    for client in &mut clients {
        client.ask("/ok");
    }
    for client in &mut clients {
        client.answer().ok();
    }
    clients
}

/// Each asks which process serves it: all at once, so that none waits for the one before.
fn who_serves(clients: &mut [Client]) -> Vec<Outcome> {
    for client in clients.iter_mut() {
        client.ask("/pid");
    }
    clients.iter_mut().map(Client::answer).collect()
}

#[track_caller]
fn all_served_by(clients: &mut [Client], pid: Pid) {
    for outcome in who_serves(clients) {
        let response = outcome.ok();
        assert_eq!(response.number(), pid.as_raw());
        assert!(!response.closes());
    }
}

fn came(server: &Proc) -> usize {
    let line = server.wait_for("connections came from a predecessor");
    let number = line.rsplit("handover: ").next().and_then(|rest| rest.split(' ').next()?.parse().ok());
    number.expect("a number")
}

#[test]
fn an_idle_client_keeps_its_connection_over_ten_handovers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let server = kitchen_sink!("--probation-ms", "0", "--unix", path.to_str().unwrap());
    let mut clients = crowd(&server, 3);
    let mut by_unix = Client::to(&Addr::Unix(path));
    by_unix.get("/ok").ok();
    clients.push(by_unix);
    for _ in 0..10 {
        let old = server.newest();
        let new = server.handover();
        assert_eq!(server.wait_exit(old), Exit::Status(0), "it has nothing to wait for");
        all_served_by(&mut clients, new);
    }
}

#[test]
fn a_connection_that_has_said_nothing_yet_goes_along() {
    let server = kitchen_sink!("--probation-ms", "0");
    let mut silent = [server.client(), server.client()];
    server.open(server.pid(), 2);
    let new = server.handover();
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
    all_served_by(&mut silent, new);
}

/// The part of a request before the handover, and the part after it.
#[test]
fn a_request_that_is_not_complete_goes_along_with_what_has_come() {
    let head = "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 7000\r\n\r\n";
    let body = "b".repeat(7000);
    let whole = format!("{head}{body}");
    for cut in [1, head.len() - 2, head.len(), head.len() + 1, whole.len() - 1] {
        let server = kitchen_sink!("--probation-ms", "0");
        let mut client = server.client();
        client.send(&whole[..cut]);
        server.in_flight(server.pid(), 1);
        let new = server.handover();
        assert_eq!(server.wait_exit(server.pid()), Exit::Status(0), "after {cut} bytes");
        server.in_flight(new, 1);
        client.send(&whole[cut..]);
        assert_eq!(client.answer().ok().text(), body, "after {cut} bytes");
        assert_eq!(client.get("/pid").ok().number(), new.as_raw());
    }
}

/// What a request body may take is counted over all processes, or a client with a slow one would stay for as long as
/// handovers follow each other.
#[test]
fn a_slow_body_gets_no_more_time_by_handovers() {
    let server = kitchen_sink!("--probation-ms", "0");
    let Addr::Tcp(addr) = server.addr() else { panic!("TCP") };
    let mut client = TcpStream::connect(addr).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    client.write_all(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    until("the server gives up", || {
        server.handover();
        client.write_all(b"a").unwrap();
        client.read_exact(&mut answer).is_ok()
    });
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[test]
fn a_request_of_which_much_has_come_is_finished_first() {
    let server = kitchen_sink!("--probation-ms", "0");
    let body = "b".repeat(20_000);
    let requests = [
        (
            "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 20000\r\n\r\n".to_owned(),
            format!("{}+", &body[..10_000]),
            body[10_001..].to_owned(),
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            "5\r\nfirst\r\n".to_owned(),
            "0\r\n\r\n".to_owned(),
        ),
    ];
    let mut clients: Vec<Client> = Vec::new();
    for (head, before, _) in &requests {
        let mut client = server.client();
        client.send(head);
        client.send(before);
        clients.push(client);
    }
    server.in_flight(server.pid(), 2);
    let new = server.handover();
    assert_eq!(server.alive(), [server.pid(), new]);
    for (client, (_, _, after)) in clients.iter_mut().zip(&requests) {
        client.send(after);
        let response = client.answer().ok();
        assert_eq!(response.status, 200);
        assert!(!response.closes());
    }
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0), "its connections have followed");
    all_served_by(&mut clients, new);
}

#[test]
fn a_busy_connection_follows_after_its_response() {
    let server = kitchen_sink!("--probation-ms", "0");
    let old = server.pid();
    let mut client = server.client();
    let mut idle = server.client();
    idle.get("/ok").ok();
    client.begin();
    server.in_flight(old, 1);
    let new = server.handover();
    // There is room for the next one after each.
    server.open(new, 1);
    let slow = client.finish_and("GET /pid HTTP/1.1\r\nHost: test\r\n\r\n").ok();
    assert!(!slow.closes());
    let next = client.answer().ok();
    assert_eq!(next.number(), new.as_raw(), "it came with the end of the one before, and goes along");
    assert!(!next.closes());
    assert_eq!(server.wait_exit(old), Exit::Status(0));
}

#[test]
fn a_generation_in_between_passes_on_its_arrivals() {
    let server = kitchen_sink!("--probation-ms", "0");
    let first = server.pid();
    let mut slow = server.client();
    let mut idle = crowd(&server, 10);
    slow.begin();
    server.in_flight(first, 1);
    for _ in 0..3 {
        let old = server.newest();
        server.handover();
        if old != first {
            assert!(matches!(server.wait_exit(old), Exit::Status(0) | Exit::Untold), "its parent lives");
        }
    }
    let newest = server.newest();
    assert_eq!(server.alive(), [first, newest]);
    all_served_by(&mut idle, newest);
    assert!(!slow.finish().ok().closes());
    assert_eq!(slow.get("/pid").ok().number(), newest.as_raw(), "from the first to the fourth, directly");
    assert_eq!(server.wait_exit(first), Exit::Status(0));
}

#[test]
fn totals_survive_handovers() {
    let server = kitchen_sink!("--probation-ms", "0");
    let mut client = server.client();
    for _ in 0..3 {
        for _ in 0..4 {
            client.get("/ok").ok();
        }
        let old = server.newest();
        server.handover();
        server.wait_exit(old);
    }
    let metrics = client.get("/metrics").ok();
    let value = |name: &str| {
        let line = metrics.text().lines().find(|line| line.starts_with(&format!("{name} ")));
        line.and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
    };
    assert_eq!(value("heirloom_requests_total").as_deref(), Some("12"));
    assert_eq!(value("heirloom_connections_accepted_total").as_deref(), Some("1"));
    assert_eq!(value("heirloom_connections_handed_over_total").as_deref(), Some("3"));
}

#[test]
fn ten_thousand_idle_clients_keep_their_connections() {
    let (soft, hard) = testkit::raise_nofile();
    if soft < 21_000 {
        skip(&format!("NOFILE is {soft} of {hard}"));
        return;
    }
    let server = kitchen_sink!("--probation-ms", "0");
    let mut clients = crowd(&server, 10_000);
    let new = server.handover();
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
    server.open(new, 10_000);
    all_served_by(&mut clients, new);
}

/// An ordinary user with the limit that most hosts give: descriptors in flight count against it.
#[test]
fn an_ordinary_user_with_1024_descriptors_loses_nothing() {
    if lacks("setpriv") || lacks("prlimit") || !nix::unistd::geteuid().is_root() {
        skip("only root can become an ordinary user");
        return;
    }
    testkit::raise_nofile();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.path().join("kitchen_sink");
    copy_program(env!("CARGO_BIN_EXE_kitchen_sink"), &program);
    let program = program.to_str().unwrap();
    let flags =
        ["--reuid=12345", "--regid=12345", "--clear-groups", "prlimit", "--nofile=1024:1024", program];
    let own = ["--listen", "127.0.0.1:0", "--probation-ms", "0"];
    let server = Proc::start_as_said("setpriv", &[&flags[..], &own[..]].concat());
    let mut clients = crowd(&server, 900);
    for _ in 0..3 {
        let old = server.newest();
        let new = server.handover();
        assert_eq!(server.wait_exit(old), Exit::Status(0));
        all_served_by(&mut clients, new);
    }
}

/// The successor finds that it has no descriptors left in the middle of it.
#[test]
fn what_the_successor_has_no_room_for_stays_and_is_served() {
    if lacks("prlimit") {
        return;
    }
    let server = kitchen_sink!("--probation-ms", "6000", "--idle-grace-ms", "60000");
    let mut clients = crowd(&server, 300);
    let new = server.hup_to_probation();
    // It stays on probation until its limit is set, however long that takes here.
    server.signal_to(new, Signal::SIGSTOP);
    let limit = |n: usize| {
        let (pid, nofile) = (format!("--pid={new}"), format!("--nofile={n}:"));
        assert!(Command::new("prlimit").args([pid, nofile]).status().unwrap().success());
    };
    let open = server.facts(new).fds.len();
    limit(open + 100);
    server.signal_to(new, Signal::SIGCONT);
    server.committed(new);
    server.wait_for("which keeps them for now");
    for outcome in who_serves(&mut clients) {
        assert!(!outcome.ok().closes());
    }
    limit(open + 1000);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0), "they follow when there is room");
    all_served_by(&mut clients, new);
    server.handover();
    server.wait_exit(new);
    all_served_by(&mut clients, server.newest());
}

#[test]
fn a_successor_that_is_slow_to_take_them_costs_no_request() {
    let server = kitchen_sink!("--probation-ms", "0");
    let mut clients = crowd(&server, 3_000);
    let new = stop_on_the_way(&server);
    for client in &mut clients {
        client.ask("/pid");
    }
    server.signal_to(new, Signal::SIGCONT);
    for client in &mut clients {
        assert!(!client.answer().ok().closes());
    }
    server.committed(new);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
    all_served_by(&mut clients, new);
}

/// A handover whose successor holds still in the middle of it, with connections in the channel.
fn stop_on_the_way(server: &Proc) -> Pid {
    let new = server.hup();
    server.wait_for(&format!("to child {new}: COMMIT"));
    server.signal_to(new, Signal::SIGSTOP);
    server.wait_for("connections are on their way");
    new
}

/// Connections that the successor has acknowledged are lost with it, and no others.
#[test]
fn a_killed_successor_loses_only_what_it_had_acknowledged() {
    let server = kitchen_sink!("--probation-ms", "0", "--idle-grace-ms", "60000");
    let old = server.pid();
    let mut clients = crowd(&server, 3_000);
    let new = stop_on_the_way(&server);
    server.signal_to(new, Signal::SIGKILL);
    server.wait_exit(new);
    server.wait_for("connections stay here");
    let (mut served, mut lost) = (0, 0);
    for outcome in who_serves(&mut clients) {
        match outcome {
            Outcome::Ok(response) => {
                assert_eq!(response.number(), old.as_raw());
                assert!(response.closes(), "no process takes over any more, and they are notified");
                served += 1;
            }
            _ => lost += 1,
        }
    }
    server.wait_exit(old);
    let line = server.wait_for("connections went to the successor");
    assert!(line.contains(&format!("handover: {lost} connections")), "{served} served, {lost} lost: {line}");
}

/// Connections that were in the channel or acknowledged continue.
#[test]
fn a_killed_predecessor_loses_only_what_it_had_not_sent() {
    let server = kitchen_sink!("--probation-ms", "0");
    let old = server.pid();
    let mut clients = crowd(&server, 3_000);
    let new = stop_on_the_way(&server);
    server.signal_to(old, Signal::SIGKILL);
    server.wait_exit(old);
    server.signal_to(new, Signal::SIGCONT);
    let came = came(&server);
    let mut served = 0;
    for outcome in who_serves(&mut clients) {
        if let Outcome::Ok(response) = outcome {
            assert_eq!(response.number(), new.as_raw());
            served += 1;
        }
    }
    assert_eq!(served, came);
    assert!(served > 0);
    // The next good one works.
    server.signal_to(new, Signal::SIGHUP);
    server.wait_for_nth("handover: predecessor *: COMMIT", 2);
    assert_eq!(server.wait_exit(new), Exit::Status(0));
}
