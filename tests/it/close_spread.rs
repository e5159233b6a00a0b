//! `Timeouts::close_spread`, in one process: before its turn a connection is served as before, at its turn it is notified. The spread
//! over time is measured in testkit/tests/it/close_spread.rs.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use heirloom::CloseReason;
use heirloom::broadcast::Broadcast;
use heirloom::prelude::*;
use heirloom::sse::{self, Event};
use heirloom::stream::StreamServer;

use crate::support::*;

/// Longer than a test: hardly a turn comes.
const HOURS: Duration = Duration::from_secs(1_000 * 3600);
/// Shorter than a test.
const BRIEF: Duration = Duration::from_millis(400);

const CLIENTS: usize = 20;

fn spread_over(time: Duration) -> Timeouts {
    quick().drain(None).close_spread(time)
}

fn clients(fixture: &Fixture) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| fixture.client()).collect();
    clients.iter_mut().for_each(Client::expect_kept);
    clients
}

#[track_caller]
fn start_drain(fixture: &Fixture) {
    let handle = fixture.running().handle();
    handle.shutdown();
    assert!(handle.wait_draining(DEADLINE).is_draining(), "not spread");
}

#[test]
fn before_its_turn_a_connection_is_kept() {
    let fixture = Fixture::with(|server| server.timeouts(spread_over(HOURS)));
    let mut all = clients(&fixture);
    start_drain(&fixture);
    for _ in 0..3 {
        all.retain_mut(|client| !client.get("/").closes());
        // One may have the first place.
        assert!(all.len() >= CLIENTS - 1, "{}", all.len());
    }
    // A client has its response a moment before the request is over.
    eventually("no request is in flight", || fixture.stats().in_flight == 0);
    fixture.running().handle().abort();
    fixture.stop().unwrap();
}

#[test]
fn all_turns_come() {
    // A client that waits for its next request is not idle for as long.
    let timeouts = spread_over(BRIEF).idle_grace(Duration::from_secs(2));
    let fixture = Fixture::with(|server| server.timeouts(timeouts));
    let mut busy = clients(&fixture);
    let idle = busy.split_off(CLIENTS / 2);
    start_drain(&fixture);
    while !busy.is_empty() {
        // Each is told that its connection closes, and is not cut before.
        busy.retain_mut(|client| {
            let closes = client.get("/").closes();
            if closes {
                client.expect_fin();
            }
            !closes
        });
    }
    for mut client in idle {
        client.expect_fin();
    }
    eventually("all have ended", || fixture.stats().open == 0);
    assert_eq!(fixture.closes(CloseReason::Drain) + fixture.closes(CloseReason::Grace), CLIENTS as u64);
    fixture.stop().unwrap();
}

/// The last turn comes before the drain deadline, however long the spread.
#[test]
fn the_drain_deadline_ends_the_spread() {
    let timeouts = quick().idle_grace(Duration::ZERO).drain(BRIEF).close_spread(HOURS);
    let fixture = Fixture::with(|server| server.timeouts(timeouts));
    let all = clients(&fixture);
    start_drain(&fixture);
    all.into_iter().for_each(|mut client| client.expect_fin());
    fixture.stop().unwrap();
}

fn events(hub: &Broadcast<u32>) -> Router {
    let hub = hub.clone();
    Router::new()
        .get("/", |_: Request| "Hello, World!")
        .get("/waits", |req: Request| {
            sse::response(&req, |events| {
                assert!(events.wait(Duration::MAX)?.is_draining());
                events.send(&Event::data("end"))
            })
        })
        .get("/follows", move |req: Request| {
            let values = hub.subscribe(&req);
            sse::response(&req, |events| events.follow(values, Event::data))
        })
}

#[test]
fn event_streams_end_at_their_turns() {
    let hub = Broadcast::new(10);
    let server = |time| {
        let server = Server::new(events(&hub)).listen("127.0.0.1:0").workers(2).timeouts(spread_over(time));
        Fixture::of(Gate::default(), server)
    };
    let streams = |fixture: &Fixture| {
        let open = |path: &str| {
            let mut client = fixture.client();
            client.send(get(path));
            client
        };
        let all: Vec<Client> = (0..CLIENTS).map(|n| open(["/waits", "/follows"][n % 2])).collect();
        eventually("all stream", || fixture.stats().detached == CLIENTS as u64 && hub.len() == CLIENTS / 2);
        all
    };
    let patient = server(HOURS);
    let all = streams(&patient);
    start_drain(&patient);
    assert!(hub.send(1) >= CLIENTS / 2 - 1, "a value after the start of the drain");
    assert!(patient.stats().detached >= CLIENTS as u64 - 1);
    patient.running().handle().abort();
    drop(all);
    let _ = patient.stop();

    let fixture = server(BRIEF);
    let all = streams(&fixture);
    start_drain(&fixture);
    for (n, mut client) in all.into_iter().enumerate() {
        let reply = client.reply();
        assert_eq!(reply.trailing, How::Chunked, "whole");
        assert_eq!(reply.text(), if n % 2 == 0 { ":\ndata: end\n\n" } else { ":\n" });
    }
    fixture.stop().unwrap();
}

/// Whatever its thread waits for.
#[cfg(feature = "websocket")]
#[test]
fn a_websocket_gets_its_1001_at_its_turn() {
    use heirloom::websocket::WebSocket;

    let handler = |req: Request| {
        WebSocket::upgrade(&req).speak(|socket| {
            let sender = socket.sender();
            eventually("it is closed", || !sender.is_open());
            Ok(())
        })
    };
    let server = Server::new(handler).listen("127.0.0.1:0").workers(2).timeouts(spread_over(BRIEF));
    let fixture = Fixture::of(Gate::default(), server);
    let mut all: Vec<Client> = (0..CLIENTS).map(|_| fixture.client()).collect();
    for client in &mut all {
        client.send(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        assert_eq!(client.reply().status, 101);
    }
    start_drain(&fixture);
    for mut client in all {
        assert_eq!(client.take(4), [0x88, 2, 3, 0xe9], "1001");
        client.send([0x88, 0x82, 0, 0, 0, 0, 3, 0xe9]);
        client.expect_fin();
    }
    fixture.stop().unwrap();
}

#[test]
fn without_http_a_connection_may_be_parked_until_its_turn() {
    let (give, given) = mpsc::channel();
    let server = StreamServer::new().timeouts(spread_over(HOURS)).listen("127.0.0.1:0");
    let running = server.spawn(move |incoming| {
        // Dropped where the test has ended.
        incoming.into_iter().for_each(|connection| drop(give.send(connection)));
    });
    let running = running.unwrap();
    let mut clients: Vec<TcpStream> =
        (0..CLIENTS).map(|_| TcpStream::connect(running.addresses()[0]).unwrap()).collect();
    let connections: Vec<_> = (0..CLIENTS).map(|_| given.recv_timeout(DEADLINE).unwrap()).collect();
    running.handle().shutdown();
    assert!(running.handle().wait_draining(DEADLINE).is_draining());
    let parked = connections.into_iter().filter_map(|connection| connection.park().ok()).count();
    assert!(parked >= CLIENTS - 1, "{parked}");
    clients.iter_mut().for_each(|client| drop(client.write_all(b"x")));
    for _ in 0..parked {
        drop(given.recv_timeout(DEADLINE).unwrap());
    }
    running.handle().abort();
    running.stop().unwrap();
}
