//! At each bound over all connections: what the client gets, and that nobody else is harmed.

mod support;

use std::time::{Duration, Instant};

use heirloom::{CloseReason, Limits, Timeouts};

use support::*;

const KIB: usize = 1 << 10;

fn with_limits(limits: Limits) -> Fixture {
    Fixture::with(|server| server.limits(limits))
}

/// A head that never ends, of so many bytes.
fn half_a_head(bytes: usize) -> Vec<u8> {
    let mut head = b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ".to_vec();
    head.resize(bytes, b'x');
    head
}

#[track_caller]
fn expect_last(client: &mut Client, status: u16) {
    let reply = client.reply();
    assert_eq!((reply.status, reply.closes()), (status, true), "{reply:?}");
    client.expect_fin();
}

#[test]
fn half_received_heads_hold_no_more_than_the_memory_they_may() {
    let fixture = with_limits(Limits { buffered_bytes: 100 << 10, ..Limits::default() });
    let mut clients: Vec<Client> = (0..5).map(|_| fixture.client()).collect();
    for (n, client) in (1..).zip(&mut clients) {
        client.send(half_a_head(20 * KIB));
        eventually("it is held", || fixture.stats().buffered_bytes >= n * 20 * KIB as u64);
    }
    let mut sixth = fixture.client();
    sixth.send(half_a_head(20 * KIB));
    expect_last(&mut sixth, 503);
    fixture.expect_closes(CloseReason::Overload, 1);
    // Who needs none of it is served, and when somebody has gone there is room again.
    fixture.client().expect_kept();
    clients[0].send("\r\n\r\n");
    assert_eq!(clients[0].reply().said(), "200 Hello, World!");
    eventually("it is given back", || fixture.stats().buffered_bytes <= 4 * 20 * KIB as u64);
    let mut next = fixture.client();
    next.send(half_a_head(20 * KIB));
    next.send("\r\n\r\n");
    assert_eq!(next.reply().said(), "200 Hello, World!");
    drop(clients);
    eventually("all is given back", || fixture.stats().buffered_bytes == 0);
}

#[test]
fn bodies_beyond_the_memory_go_to_files_and_are_served() {
    let fixture = with_limits(Limits { buffered_bytes: 100 << 10, ..Limits::default() });
    let body: Vec<u8> = (0..60 * KIB).map(|n| n.to_le_bytes()[0]).collect();
    let request = post("/echo", &body);
    let mut clients: Vec<Client> = (0..6).map(|_| fixture.client()).collect();
    for client in &mut clients {
        client.send(&request[..request.len() - 1]);
    }
    let held = |memory: u64, files: u64| {
        let stats = fixture.stats();
        stats.buffered_bytes >= memory && stats.temporary_bytes >= files
    };
    eventually("one is in memory, the others are not", || held(60_000, 5 * 60_000));
    assert!(fixture.stats().buffered_bytes <= 100 << 10);
    for client in &mut clients {
        client.send(&request[request.len() - 1..]);
        assert!(client.reply().body == body);
    }
    eventually("all is given back", || fixture.stats().temporary_bytes + fixture.stats().buffered_bytes == 0);
}

#[test]
fn temporary_files_hold_no_more_than_they_may() {
    let fixture = with_limits(Limits { temporary_bytes: 1 << 20, ..Limits::default() });
    let body = vec![b'b'; 700 * KIB];
    let request = post("/echo", &body);
    let mut first = fixture.client();
    first.send(&request[..request.len() - 1]);
    eventually("it is in a file", || fixture.stats().temporary_bytes >= 700_000);
    let mut second = fixture.client();
    second.send(&request[..600 * KIB]);
    expect_last(&mut second, 503);
    first.send(&request[request.len() - 1..]);
    assert!(first.reply().body == body);
    eventually("it is given back", || fixture.stats().temporary_bytes == 0);
    let mut third = fixture.client();
    third.send(&request);
    assert!(third.reply().body == body);
}

/// A file is held until its last byte is out, by a client that does not take it, too.
#[test]
fn a_body_that_goes_back_to_a_slow_client_counts_until_it_is_taken() {
    let fixture = with_limits(Limits { body_bytes: 64 << 20, ..Limits::default() });
    let mut client = Client::narrow(fixture.address());
    let body = vec![b'b'; 20 << 20];
    client.send(post("/echo", &body));
    eventually("all is in a file", || fixture.stats().temporary_bytes == body.len() as u64);
    assert!(client.reply().body == body);
    eventually("it is given back", || fixture.stats().temporary_bytes == 0);
}

#[test]
fn a_folder_for_files_that_is_not_there_costs_long_bodies_only() {
    let fixture = Fixture::with(|server| server.temporary_folder("/nowhere/at/all"));
    let mut client = fixture.client();
    client.send(post("/echo", &vec![b'b'; 200 * KIB]));
    expect_last(&mut client, 507);
    let mut client = fixture.client();
    client.send(post("/echo", b"short"));
    assert_eq!(client.reply().said(), "200 short");
}

#[test]
fn a_listener_may_have_a_limit_of_its_own() {
    let fixture = Fixture::with(|server| {
        server.listen("127.0.0.2:0").limits(Limits { connections_per_listener: 2, ..Limits::default() })
    });
    let other = fixture.running().addresses()[1];
    let mut clients = [fixture.client(), fixture.client()];
    clients.iter_mut().for_each(Client::expect_kept);
    let mut third = fixture.client();
    third.send(get("/"));
    third.expect_silence();
    Client::to(other).expect_kept();
    let [first, _second] = clients;
    drop(first);
    assert_eq!(third.reply().said(), "200 Hello, World!");
}

#[test]
fn a_peer_may_have_a_limit() {
    let fixture = with_limits(Limits { connections_per_peer: Some(3), ..Limits::default() });
    let mut clients: Vec<Client> = (0..3).map(|_| fixture.client()).collect();
    clients.iter_mut().for_each(Client::expect_kept);
    for n in 1..=3 {
        let mut fourth = fixture.client();
        assert_eq!(fourth.reply().status, 503);
        fourth.expect_fin();
        fixture.expect_closes(CloseReason::PeerLimit, n);
    }
    drop(clients.pop());
    eventually("its place is free", || fixture.stats().open == 2);
    fixture.client().expect_kept();
}

fn timed(limits: Limits) -> Fixture {
    // No stall is as long as a test; only the rate can be what ends it.
    let timeouts = Timeouts { rate_grace: Duration::from_millis(500), ..Timeouts::default() };
    Fixture::with(|server| server.limits(limits).timeouts(timeouts))
}

/// A byte every now and then is no stall, and no rate either.
#[test]
fn a_body_that_comes_too_slowly_is_refused() {
    let fixture = timed(Limits { body_rate: 1 << 20, ..Limits::default() });
    let request = post("/echo", &[b'b'; 10_000]);
    let mut client = fixture.client();
    let (start, rest) = request.split_at(request.len() - 10_000);
    client.send(start);
    let begin = Instant::now();
    for byte in rest {
        if client.try_send([*byte]).is_err() || fixture.closes(CloseReason::BodyTimeout) > 0 {
            break;
        }
        let_pass(Duration::from_millis(20));
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_eq!(client.reply().status, 408);
    fixture.expect_closes(CloseReason::BodyTimeout, 1);
    // A quick one, however long it takes after the grace, is not touched.
    let mut client = fixture.client();
    client.send(&request);
    assert_eq!(client.reply().body.len(), 10_000);
}

#[test]
fn a_streamed_body_that_comes_too_slowly_frees_its_worker() {
    let limits = Limits { body_rate: 1 << 20, ..Limits::default() };
    let timeouts = Timeouts { rate_grace: Duration::from_millis(500), ..Timeouts::default() };
    let fixture = Fixture::with(|server| server.workers(1).limits(limits).timeouts(timeouts));
    let request = post("/count", &[b'x'; 10_000]);
    let mut client = fixture.client();
    let (start, rest) = request.split_at(request.len() - 10_000);
    client.send(start);
    for byte in rest {
        if client.try_send([*byte]).is_err() || fixture.stats().responses[3] > 0 {
            break;
        }
        let_pass(Duration::from_millis(20));
    }
    assert_eq!(client.reply().status, 408);
    fixture.client().expect_kept();
}

#[test]
fn a_response_that_is_taken_too_slowly_is_cut() {
    let fixture = timed(Limits { response_rate: 100 << 20, ..Limits::default() });
    let mut client = Client::narrow(fixture.address());
    client.send(get("/big/100000000"));
    while fixture.closes(CloseReason::ResponseTimeout) == 0 {
        client.sip(KIB);
        let_pass(Duration::from_millis(20));
    }
    assert!(matches!(client.reply().trailing, How::Cut(_)));
}
