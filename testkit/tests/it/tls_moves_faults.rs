//! TLS connections on their way to a process that can't take them, or to or from one that dies: each has one owner at any time,
//! which never writes a record by a number that another one has used. A client would see that: its library refuses the record.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::ClientConfig;
use testkit::handover::{Packet, Part};
use testkit::{Exit, Pid, Proc, Signal, lacks, skip, until};

use crate::secure::{Secure, SecureEnd};
use crate::support::get;
use crate::tls_moves::{ask, follows, is_told};
use crate::tls_tickets::{Secured, Watched, old_version, spellings};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");

fn client(secured: &Secured, config: &Arc<ClientConfig>) -> Secure {
    Secure::to(secured.address(), "localhost", config).unwrap()
}

/// Clients of both versions, by turns, each of which has had a response.
fn crowd(secured: &Secured, size: usize) -> Vec<Secure> {
    let configs = secured.clients();
    let mut clients: Vec<Secure> = configs.iter().cycle().take(size).map(|c| client(secured, c)).collect();
    for client in &mut clients {
        assert_eq!(client.get("/ok"), "200 ok");
    }
    clients
}

/// All ask at once, so that none waits for the one before.
fn ask_all(clients: &mut [Secure]) -> Vec<Option<(Pid, bool)>> {
    clients.iter_mut().map(ask).collect()
}

#[test]
fn connections_stay_if_the_successor_is_an_old_version() {
    let Some(old) = old_version() else { return };
    let secured = Secured::start(&["--probation-ms", "0"]);
    let mut clients = crowd(&secured, 4);
    let first = secured.server.pid();
    secured.put(&old);
    let mut plain = secured.server.client();
    plain.get("/ok").ok();
    let second = secured.server.handover();
    clients.iter_mut().for_each(|client| is_told(client, first));
    until("plain text moves", || plain.get("/pid").ok().number() == second.as_raw());
    assert_eq!(secured.server.wait_exit(first), Exit::Status(0));
    assert_eq!(secured.server.count("a TLS connection can't move to the successor: not_taken"), 4);
    assert_eq!(secured.server.count("skipped"), 1, "the keys of tickets, and no connection");
    // From that version none comes, which is as it has always been.
    let mut clients = crowd(&secured, 2);
    secured.put(Path::new(PROGRAM));
    let third = secured.server.handover();
    clients.iter_mut().for_each(|client| is_told(client, second));
    until("plain text moves", || plain.get("/pid").ok().number() == third.as_raw());
    secured.server.stop();
}

/// The half of an upload that is too long to move.
const HALF: &str = "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 40000\r\n\r\n";

/// The sender does not see that its channel was passed on. An old version at its other end refuses the packet, and gives the
/// connection back with that.
#[test]
fn a_channel_passed_to_an_old_version_loses_no_connection() {
    let Some(old) = old_version() else { return };
    let secured = Secured::start(&["--probation-ms", "0"]);
    let first = secured.server.pid();
    let configs = secured.clients();
    let mut clients: Vec<Secure> = configs.iter().cycle().take(4).map(|c| client(&secured, c)).collect();
    for client in &mut clients {
        client.send(HALF.to_owned() + &"b".repeat(20_000));
    }
    secured.server.in_flight(first, 4);
    let second = secured.server.handover();
    secured.put(&old);
    let third = secured.server.handover();
    assert!(matches!(secured.server.wait_exit(second), Exit::Status(0) | Exit::Untold));
    let finish = |client: &mut Secure| {
        client.send("b".repeat(20_000));
        let (status, head, body) = client.reply();
        assert_eq!((status, body.len()), (200, 40_000));
        head.contains("Connection: close")
    };
    let [one, two, three, four] = &mut clients[..] else { panic!("four") };
    // It is sent, and comes back.
    if !finish(one) {
        secured.server.wait_for("skipped");
        is_told(one, first);
    }
    // From now on the close is announced at once, in vain or not.
    assert!(finish(two));
    assert_eq!(two.end(), SecureEnd::Announced);
    // The next generation takes TLS, and says so.
    secured.put(Path::new(PROGRAM));
    let fourth = secured.server.handover();
    assert!(matches!(secured.server.wait_exit(third), Exit::Status(0) | Exit::Untold));
    // To the second, and to the fourth.
    secured.server.wait_for_nth("handover: TLS connections can be sent", 2);
    for client in [three, four] {
        assert!(!finish(client));
        follows(client, fourth);
    }
    assert_eq!(secured.server.wait_exit(first), Exit::Status(0));
    secured.server.stop();
}

/// Hands over to a process that stops as soon as connections are on their way.
fn stop_on_the_way(secured: &Secured) -> Pid {
    let new = secured.server.hup();
    secured.server.wait_for(&format!("to child {new}: COMMIT"));
    secured.server.signal_to(new, Signal::SIGSTOP);
    secured.server.wait_for("connections are on their way");
    new
}

#[test]
fn a_killed_successor_loses_only_what_it_had_acknowledged() {
    let secured = Secured::start(&["--probation-ms", "0", "--idle-grace-ms", "60000"]);
    let old = secured.server.pid();
    let mut clients = crowd(&secured, 400);
    let new = stop_on_the_way(&secured);
    secured.server.signal_to(new, Signal::SIGKILL);
    secured.server.wait_exit(new);
    secured.server.wait_for("connections stay here");
    let answers = ask_all(&mut clients);
    let lost = answers.iter().filter(|answer| answer.is_none()).count();
    assert!(answers.iter().flatten().all(|answer| *answer == (old, true)), "each is notified");
    secured.server.wait_exit(old);
    let line = secured.server.wait_for("connections went to the successor");
    assert!(line.contains(&format!("handover: {lost} connections")), "{lost} lost: {line}");
}

#[test]
fn a_killed_predecessor_loses_only_what_it_had_not_sent() {
    let secured = Secured::start(&["--probation-ms", "0"]);
    let old = secured.server.pid();
    let mut clients = crowd(&secured, 400);
    let new = stop_on_the_way(&secured);
    secured.server.signal_to(old, Signal::SIGKILL);
    secured.server.wait_exit(old);
    secured.server.signal_to(new, Signal::SIGCONT);
    let line = secured.server.wait_for("connections came from a predecessor");
    let answers = ask_all(&mut clients);
    let kept = answers.iter().flatten().count();
    assert!(kept > 0 && line.contains(&format!("handover: {kept} connections")), "{kept}: {line}");
    assert!(answers.iter().flatten().all(|answer| *answer == (new, false)));
    // They can move on.
    secured.server.signal_to(new, Signal::SIGHUP);
    let newest = secured.server.child(2);
    secured.server.wait_for(&format!("to child {newest}: COMMIT"));
    assert_eq!(secured.server.wait_exit(new), Exit::Status(0));
    assert!(ask_all(&mut clients).iter().flatten().all(|answer| *answer == (newest, false)));
}

#[test]
fn a_successor_that_is_slow_to_take_them_costs_nothing() {
    let secured = Secured::start(&["--probation-ms", "0"]);
    let old = secured.server.pid();
    let mut clients = crowd(&secured, 400);
    let new = stop_on_the_way(&secured);
    clients.iter_mut().for_each(|client| client.send(get("/pid")));
    secured.server.signal_to(new, Signal::SIGCONT);
    for client in &mut clients {
        let (status, head, _) = client.reply();
        assert!(status == 200 && !head.contains("Connection: close"), "{head}");
    }
    secured.server.committed(new);
    assert_eq!(secured.server.wait_exit(old), Exit::Status(0));
    assert!(ask_all(&mut clients).iter().all(|answer| *answer == Some((new, false))));
}

/// They come back, on our own records, are served, and follow when there is room.
#[test]
fn what_the_successor_has_no_descriptors_for_stays() {
    if lacks("prlimit") {
        return;
    }
    let secured = Secured::start(&["--probation-ms", "6000", "--idle-grace-ms", "60000"]);
    let server = &secured.server;
    let mut clients = crowd(&secured, 300);
    let new = server.hup_to_probation();
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
    assert!(ask_all(&mut clients).iter().flatten().all(|(_, closes)| !closes));
    limit(open + 1_000);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0), "they follow when there is room");
    assert!(ask_all(&mut clients).iter().all(|answer| *answer == Some((new, false))));
}

#[test]
fn ten_thousand_idle_connections_move() {
    let (soft, hard) = testkit::raise_nofile();
    if soft < 21_000 {
        skip(&format!("NOFILE is {soft} of {hard}"));
        return;
    }
    let secured = Secured::start(&["--probation-ms", "0"]);
    let mut clients = crowd(&secured, 10_000);
    let begin = std::time::Instant::now();
    let new = secured.server.handover();
    assert_eq!(secured.server.wait_exit(secured.server.pid()), Exit::Status(0));
    eprintln!("10,000 TLS connections moved in {:?}", begin.elapsed());
    secured.server.open(new, 10_000);
    assert!(ask_all(&mut clients).iter().all(|answer| *answer == Some((new, false))));
}

/// A played successor that owns the service, and takes TLS.
fn until_commit(watched: &Watched) -> Part {
    let mut part = watched.until_go();
    let lifecycle = &mut part.ends.lifecycle;
    lifecycle.say("SERVING");
    lifecycle.say("STILL-GOOD");
    assert_eq!(lifecycle.hear().as_deref(), Some("COMMIT"));
    part.ends.connections.send(b"CREDIT n=0 tls=1\n", &[]);
    part
}

/// The next packet with TLS connections, and the number of its batch.
fn tls_packet(part: &Part) -> (Packet, String) {
    loop {
        let packet = part.ends.connections.receive().unwrap();
        let line = packet.bytes.split(|byte| *byte == b'\n').next().unwrap();
        if let Some(batch) = String::from_utf8_lossy(line).strip_prefix("TLS batch=") {
            let batch = batch.to_owned();
            return (packet, batch);
        }
    }
}

/// However often a successor refuses them, they continue where they were, until one refuses that knows no TLS.
#[test]
fn refused_connections_continue_on_records_and_leave_again() {
    let watched = Watched::start();
    let mut clients = crowd(&watched.secured, 2);
    let old = watched.secured.server.pid();
    let part = until_commit(&watched);
    let mut keys = Vec::new();
    let mut refused = 0;
    while refused < 10 {
        let (packet, batch) = tls_packet(&part);
        refused += packet.fds.len();
        keys.extend(packet.bytes);
        part.ends.connections.send(format!("NAK batch={batch} never=0 tls=1\n").as_bytes(), &[]);
    }
    let (_, batch) = tls_packet(&part);
    part.ends.connections.send(format!("NAK batch={batch} never=0\n").as_bytes(), &[]);
    let told = std::thread::Builder::new();
    let told = told.spawn(move || clients.iter_mut().for_each(|client| is_told(client, old))).unwrap();
    // The other one may have been on its way.
    let refuse = || {
        while !told.is_finished() {
            let Some(packet) = part.ends.connections.receive() else { return };
            let text = String::from_utf8_lossy(&packet.bytes).into_owned();
            if let Some(batch) = text.strip_prefix("TLS batch=").and_then(|text| text.lines().next()) {
                part.ends.connections.send(format!("NAK batch={batch} never=0\n").as_bytes(), &[]);
            }
        }
    };
    refuse();
    told.join().unwrap();
    assert_eq!(watched.secured.server.wait_exit(old), Exit::Status(0));
    // It logs all that it can, and no key.
    let log = watched.secured.server.lines("").join("\n");
    let text = keys.windows(2).position(|two| two == b"\n\n").unwrap();
    for eight in keys[text + 2..text + 100].windows(8) {
        assert!(spellings(eight).iter().all(|run| !log.contains(run)));
    }
}

/// Of two connections of a listener, the successor can't read the session of one.
#[test]
fn an_unfit_session_keeps_no_other_connection() {
    let watched = Watched::start();
    let mut clients = crowd(&watched.secured, 2);
    let old = watched.secured.server.pid();
    let part = until_commit(&watched);
    let mut unfit = None;
    let arrived = loop {
        let (packet, batch) = tls_packet(&part);
        if packet.fds.len() == 1 && unfit.is_some() {
            part.ends.connections.send(format!("ACK batch={batch} credit=0 tls=1\n").as_bytes(), &[]);
            break packet;
        }
        part.ends.connections.send(format!("NAK batch={batch} never=1 unfit=1 tls=1\n").as_bytes(), &[]);
        if packet.fds.len() == 1 {
            unfit = Some(packet);
        }
    };
    let has = |packet: &Packet, client: &Secure| {
        let peer = format!(" peer={} ", client.socket.local_addr().unwrap());
        packet.bytes.windows(peer.len()).any(|run| run == peer.as_bytes())
    };
    let unfit = unfit.unwrap();
    let at = clients.iter().position(|client| has(&unfit, client)).unwrap();
    assert!(!has(&arrived, &clients[at]), "the other one comes");
    is_told(&mut clients[at], old);
    watched.secured.server.wait_for("a TLS connection can't move to the successor: unfit");
    assert_eq!(watched.secured.server.wait_exit(old), Exit::Status(0));
}

/// At each step of what it does with a packet: what it has not acknowledged is served here, and the rest is lost with it.
#[test]
fn a_successor_that_dies_has_what_it_has_acknowledged() {
    for is_acknowledged in [false, true] {
        let watched = Watched::start();
        let server = &watched.secured.server;
        let mut clients = crowd(&watched.secured, 2);
        let old = server.pid();
        let part = until_commit(&watched);
        let (packet, batch) = tls_packet(&part);
        let first = packet.fds.len();
        if is_acknowledged {
            part.ends.connections.send(format!("ACK batch={batch} credit=0 tls=1\n").as_bytes(), &[]);
        }
        drop((packet, part));
        // Once all are acknowledged it ends, and need not see the end of the channel.
        if !(is_acknowledged && first == clients.len()) {
            server.wait_for("connections stay here");
        }
        let answers = ask_all(&mut clients);
        let lost = answers.iter().filter(|answer| answer.is_none()).count();
        assert_eq!(lost, if is_acknowledged { first } else { 0 });
        assert!(answers.iter().flatten().all(|answer| *answer == (old, true)));
        assert_eq!(server.wait_exit(old), Exit::Status(0));
    }
}

#[test]
fn connections_move_under_supervision() {
    let secured = Secured::begin(&["--supervise", "--probation-ms", "0"], |command| {
        let server = Proc::begin(command, Stdio::null());
        server.wait_for("serving as generation 1");
        server
    });
    let mut clients = crowd(&secured, 4);
    let mut pid = ask(&mut clients[0]).unwrap().0;
    for generation in 2..4 {
        secured.server.signal_to(secured.server.pid(), Signal::SIGHUP);
        secured.server.wait_for(&format!("serving as generation {generation}"));
        for client in &mut clients {
            until("it has moved", || {
                let (by, closes) = ask(client).unwrap();
                assert!(!closes);
                by != pid
            });
        }
        pid = ask(&mut clients[0]).unwrap().0;
    }
    secured.server.stop();
}
