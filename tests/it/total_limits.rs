//! At each bound over all connections: what the client gets, and that no other client is affected.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use heirloom::prelude::*;
use heirloom::{CloseReason, ErrorKind};

use crate::support::*;

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
    let fixture = with_limits(Limits::new().buffered_bytes(100 << 10));
    let mut clients: Vec<Client> = (0..5).map(|_| fixture.client()).collect();
    for (n, client) in (1..).zip(&mut clients) {
        client.send(half_a_head(20 * KIB));
        eventually("it is held", || fixture.stats().buffered_bytes >= n * 20 * KIB as u64);
    }
    let mut sixth = fixture.client();
    sixth.send(half_a_head(20 * KIB));
    expect_last(&mut sixth, 503);
    fixture.expect_closes(CloseReason::Overload, 1);
    // Clients that need none of it are served, and when one has disconnected, the others can use its share.
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

/// Three equal requests of 40 KiB each, with memory for two.
#[track_caller]
fn expect_room_for_two(fixture: &Fixture, request: &[u8], reason: CloseReason) {
    let mut clients: Vec<Client> = (0..2).map(|_| fixture.client()).collect();
    for (n, client) in (1..).zip(&mut clients) {
        client.send(request);
        eventually("it is held", || fixture.stats().buffered_bytes >= n * 40_000);
    }
    let mut third = fixture.client();
    third.send(request);
    expect_last(&mut third, 503);
    fixture.expect_closes(reason, 1);
    drop(clients);
    fixture.gate().open();
    eventually("all is given back", || fixture.stats().buffered_bytes == 0);
}

/// Waiting bytes include those that a parser has already seen.
#[test]
fn heads_and_trailers_that_wait_for_the_rest_of_a_body_count() {
    let long = "x".repeat(40_000);
    let after_head =
        format!("POST /echo HTTP/1.1\r\nHost: h\r\nX-Long: {long}\r\nContent-Length: 10\r\n\r\nhello");
    let in_trailers = format!(
        "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Long: {long}"
    );
    for request in [after_head, in_trailers] {
        let fixture = with_limits(Limits::new().buffered_bytes(100_000));
        expect_room_for_two(&fixture, request.as_bytes(), CloseReason::Overload);
    }
    // Many short fields take more memory than they have bytes.
    let fields: String = (10..100).map(|n| format!("{n}:\r\n")).collect();
    let request = format!("POST /echo HTTP/1.1\r\nHost: h\r\n{fields}Content-Length: 10\r\n\r\nhello");
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.send(&request);
    eventually("it is held", || fixture.stats().buffered_bytes > 10_000);
    client.send("hello");
    assert_eq!(client.reply().said(), "200 hellohello");
}

#[test]
fn uploads_that_wait_for_a_worker_count() {
    let limits = Limits::new().buffered_bytes(100_000);
    let fixture = Fixture::with(|server| server.workers(2).limits(limits));
    let mut first = fixture.client();
    first.send(post("/discard/wait", b"x"));
    fixture.gate().wait_for(1);
    expect_room_for_two(&fixture, &post("/discard", &vec![b'x'; 40_000]), CloseReason::Overload);
    assert_eq!(first.reply().said(), "200 ok");
}

/// Requests in a turn, if they take no time.
const TURN: usize = 128;

/// One worker, and the clients that wait for it in this order: one whose handler waits, one that pipelines, three others.
struct Turns {
    fixture: Fixture,
    /// The calls of the last three clients' handlers.
    second: Gate,
    order: Arc<Mutex<Vec<&'static str>>>,
    holder: Client,
    pipeliner: Client,
    others: [Client; 3],
}

impl Turns {
    fn new(pause: Duration, pipeline: impl FnOnce(&mut Client)) -> Turns {
        let (first, second) = (Gate::default(), Gate::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let (wait_first, wait_second) = (first.clone(), second.clone());
        let (greedy, other) = (Arc::clone(&order), Arc::clone(&order));
        let router = Router::new()
            .get("/first", move |_: Request| wait_first.pass())
            .get("/greedy", move |_: Request| {
                greedy.lock().unwrap().push("greedy");
                if !pause.is_zero() {
                    let_pass(pause);
                }
            })
            .get("/other", move |_: Request| {
                other.lock().unwrap().push("other");
                wait_second.pass();
            });
        let server = Server::new(router).listen("127.0.0.1:0").workers(1).timeouts(quick());
        let fixture = Fixture::of(second.clone(), server);
        let mut holder = fixture.client();
        holder.send(get("/first"));
        first.wait_for(1);
        let mut pipeliner = fixture.client();
        pipeline(&mut pipeliner);
        eventually("it waits", || fixture.stats().queued == 1);
        let mut others = [fixture.client(), fixture.client(), fixture.client()];
        others.iter_mut().for_each(|client| client.send(get("/other")));
        eventually("all wait", || fixture.stats().queued == 4);
        first.open();
        second.wait_for(1);
        Turns { fixture, second, order, holder, pipeliner, others }
    }
}

/// A turn has a number of requests: after it the others are served.
#[test]
fn a_client_that_pipelines_has_turns_like_others() {
    // On a busy machine the time of a turn may end after fewer requests.
    let turns = (0..20).map(|_| requests_in_a_turn());
    assert!(turns.inspect(|n| assert!(*n <= TURN)).any(|n| n == TURN));
}

fn requests_in_a_turn() -> usize {
    const GREEDY: usize = 1_000;
    let requests = get("/greedy").repeat(GREEDY);
    let mut turns = Turns::new(Duration::ZERO, |pipeliner| pipeliner.send(&requests));
    let so_far = turns.order.lock().unwrap().clone();
    let turn = so_far.iter().filter(|name| **name == "greedy").count();
    // Further bytes that it has sent count, though no parser has seen them.
    let beyond = requests.len() / GREEDY * (GREEDY - turn);
    eventually("it is held", || turns.fixture.stats().buffered_bytes == beyond as u64);
    turns.second.open();
    for client in &mut turns.others {
        assert_eq!(client.reply().status, 200);
    }
    (0..GREEDY).for_each(|n| assert_eq!(turns.pipeliner.reply().status, 200, "response {n}"));
    assert_eq!(turns.holder.reply().status, 200);
    // All of them were served before its second turn.
    let order = turns.order.lock().unwrap();
    assert_eq!(order[turn..turn + 3], ["other"; 3]);
    assert_eq!(order.len(), GREEDY + 3);
    turn
}

/// A turn has a time, too: after a request that takes longer others go first.
#[test]
fn a_client_that_pipelines_slow_requests_has_turns_like_others() {
    let mut turns = Turns::new(Duration::from_millis(10), |pipeliner| {
        pipeliner.send(get("/greedy").repeat(10));
        // The end of its side is not the end of the connection.
        pipeliner.half_close();
    });
    // A connection with its response has not waited for its next turn.
    assert_eq!(turns.pipeliner.reply().status, 200);
    turns.second.open();
    turns.others.iter_mut().for_each(|client| assert_eq!(client.reply().status, 200));
    (1..10).for_each(|n| assert_eq!(turns.pipeliner.reply().status, 200, "response {n}"));
    turns.pipeliner.expect_fin();
    assert_eq!(turns.order.lock().unwrap()[..4], ["greedy", "other", "other", "other"]);
}

#[test]
fn bodies_beyond_the_memory_go_to_files_and_are_served() {
    let fixture = with_limits(Limits::new().buffered_bytes(100 << 10));
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
    let fixture = with_limits(Limits::new().temporary_bytes(1 << 20));
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
fn an_echoed_body_counts_until_the_client_has_read_it() {
    let fixture = with_limits(Limits::new().body_bytes(64 << 20));
    let mut client = Client::narrow(fixture.address());
    let body = vec![b'b'; 20 << 20];
    client.send(post("/echo", &body));
    eventually("all is in a file", || fixture.stats().temporary_bytes == body.len() as u64);
    assert!(client.reply().body == body);
    eventually("it is given back", || fixture.stats().temporary_bytes == 0);
}

#[test]
fn a_folder_for_files_that_is_not_there_costs_long_bodies_only() {
    let fixture = Fixture::with(|server| server.temp_dir("/nowhere/at/all"));
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
        server.listen("127.0.0.2:0").limits(Limits::new().connections_per_listener(2))
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

/// The limit per peer does not apply to admin listeners: a monitor may run on the same host as a proxy.
#[test]
fn limits_of_listeners_and_peers_do_not_bind_operators() {
    let limits = Limits::new().connections_per_listener(2).connections_per_peer(1);
    let fixture = Fixture::with(|server| server.listen("127.0.0.2:0").limits(limits).admin("127.0.0.1:0"));
    let addresses = fixture.running().addresses().to_vec();
    let mut operators: Vec<Client> = (0..5).map(|_| Client::to(addresses[2])).collect();
    for operator in &mut operators {
        assert_eq!(operator.get("/healthz").said(), "200 ok");
    }
    // They do not count against the peer's limit of one.
    let mut client = fixture.client();
    client.expect_kept();
    let mut second = fixture.client();
    assert_eq!(second.reply().status, 503);
    // One listener is full, and accepts again: the others do not count as full.
    let alone = Limits::new().connections_per_listener(1);
    let fixture = Fixture::with(|server| server.limits(alone).admin("127.0.0.1:0"));
    let admin = fixture.running().addresses()[1];
    let (mut held, mut operator) = (fixture.client(), Client::to(admin));
    held.expect_kept();
    let mut waits = fixture.client();
    waits.send(get("/"));
    waits.expect_silence();
    assert_eq!(operator.get("/healthz").said(), "200 ok");
    assert_eq!(Client::to(admin).get("/healthz").said(), "200 ok");
    drop(held);
    assert_eq!(waits.reply().said(), "200 Hello, World!");
    assert_eq!(Client::to(admin).get("/healthz").said(), "200 ok");
}

#[test]
fn limits_that_exclude_every_client_are_errors_at_start() {
    let refused = |server: Server| {
        let error = server.listen("127.0.0.1:0").spawn().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        error.to_string()
    };
    let server = || Server::new(|_: Request| "");
    let limits = Limits::new().connections(0);
    assert_eq!(refused(server().limits(limits)), "Limits::connections is 0: no client could connect");
    let timeouts = Timeouts::new().idle(Duration::ZERO);
    assert!(refused(server().timeouts(timeouts)).starts_with("Timeouts::idle is zero"));
    assert!(refused(server().workers(0)).contains("needs 1 to 10000 workers"));
    assert!(refused(server().stack_bytes(0)).contains("stack"));
    // The smallest valid value serves.
    let limits = Limits::new()
        .head_fields(1)
        .body_memory_bytes(0)
        .body_bytes(0)
        .discard_bytes(0)
        .temporary_bytes(0)
        .connections(1)
        .connections_per_listener(1)
        .requests_per_connection(1)
        .streaming_percent(0)
        .detached_threads(0);
    let fixture = Fixture::with(|server| server.limits(limits).workers(1).stack_bytes(64 << 10));
    let mut client = fixture.client();
    let reply = client.get("/");
    assert_eq!((reply.said(), reply.closes()), ("200 Hello, World!".to_owned(), true));
    // So does the largest.
    let limits = Limits::new()
        .head_bytes(usize::MAX)
        .head_fields(usize::MAX)
        .target_bytes(usize::MAX)
        .body_memory_bytes(usize::MAX)
        .body_bytes(u64::MAX)
        .discard_bytes(u64::MAX)
        .buffered_bytes(u64::MAX)
        .temporary_bytes(u64::MAX)
        .connections(usize::MAX)
        .connections_per_listener(usize::MAX)
        .connections_per_peer(usize::MAX)
        .requests_per_connection(u64::MAX)
        .streaming_percent(100)
        .detached_threads(usize::MAX);
    let never = Duration::MAX;
    let timeouts = Timeouts::new()
        .head(never)
        .idle(never)
        .body_stall(never)
        .response_stall(never)
        .rate_grace(never)
        .queue_wait(never)
        .ready(never)
        .probation(never)
        .drain(never)
        .lame_duck(Duration::ZERO)
        .idle_grace(Duration::ZERO);
    let fixture = Fixture::with(|server| server.limits(limits).timeouts(timeouts));
    let mut client = fixture.client();
    client.send(post("/echo", b"all of it"));
    assert_eq!(client.reply().said(), "200 all of it");
}

#[test]
fn a_peer_may_have_a_limit() {
    let fixture = with_limits(Limits::new().connections_per_peer(3));
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
    // No stall is as long as a test; only the rate can end it.
    let timeouts = Timeouts::new().rate_grace(Duration::from_millis(500));
    Fixture::with(|server| server.limits(limits).timeouts(timeouts))
}

/// An occasional byte is no stall, but it is below the rate.
#[test]
fn a_body_that_comes_too_slowly_is_refused() {
    let fixture = timed(Limits::new().body_rate(1 << 20));
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
    // A fast client is not cut, however long the body takes after the grace.
    let mut client = fixture.client();
    client.send(&request);
    assert_eq!(client.reply().body.len(), 10_000);
}

#[test]
fn a_streamed_body_that_comes_too_slowly_frees_its_worker() {
    let limits = Limits::new().body_rate(1 << 20);
    let timeouts = Timeouts::new().rate_grace(Duration::from_millis(500));
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
    let fixture = timed(Limits::new().response_rate(100 << 20));
    let mut client = Client::narrow(fixture.address());
    client.send(get("/big/100000000"));
    while fixture.closes(CloseReason::ResponseTimeout) == 0 {
        client.sip(KIB);
        let_pass(Duration::from_millis(20));
    }
    assert!(matches!(client.reply().trailing, How::Cut(_)));
}
