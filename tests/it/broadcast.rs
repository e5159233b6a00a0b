//! A hub, over the wire: event streams that follow it, a slow one, and a drain. WebSockets are in `websocket.rs`.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heirloom::RunningServer;
use heirloom::broadcast::{Broadcast, Overflow};
use heirloom::prelude::*;
use heirloom::sse::{self, Event};

use crate::support::*;

struct Scene {
    running: RunningServer,
    hub: Broadcast<String>,
    /// How the streams have ended.
    ends: Arc<Mutex<Vec<Result<(), ErrorKind>>>>,
}

impl Scene {
    fn with(hub: Broadcast<String>) -> Scene {
        let ends = Arc::new(Mutex::new(Vec::new()));
        let (followed, ended) = (hub.clone(), Arc::clone(&ends));
        let router = Router::new().get("/events", move |req: Request| {
            let (news, ended) = (followed.subscribe(&req), Arc::clone(&ended));
            sse::response(&req, move |events| {
                let outcome = events.follow(news, Event::data);
                ended.lock().unwrap().push(outcome.as_ref().copied().map_err(std::io::Error::kind));
                outcome
            })
        });
        let timeouts = quick().response_stall(Duration::from_secs(600));
        let running = Server::new(router).listen("127.0.0.1:0").timeouts(timeouts).spawn().unwrap();
        Scene { running, hub, ends }
    }

    /// A client that is subscriber number `n`.
    fn follow(&self, mut client: Client, n: usize) -> Client {
        client.send(get("/events"));
        eventually("it is subscribed", || self.hub.len() == n);
        client
    }

    fn client(&self) -> Client {
        Client::to(self.running.addresses()[0])
    }
}

#[test]
fn each_stream_gets_every_event_until_the_drain() {
    let scene = Scene::with(Broadcast::new(10));
    let mut one = scene.follow(scene.client(), 1);
    assert_eq!(scene.hub.send("a".into()), 1);
    let mut two = scene.follow(scene.client(), 2);
    assert_eq!(scene.hub.send("b\nc".into()), 2);
    scene.running.handle().shutdown();
    eventually("it drains", || scene.running.handle().stats().phase.is_draining());
    assert_eq!(scene.hub.send("late".into()), 0);
    for (client, text) in
        [(&mut one, ":\ndata: a\n\ndata: b\ndata: c\n\n"), (&mut two, ":\ndata: b\ndata: c\n\n")]
    {
        let reply = client.reply();
        assert_eq!((reply.status, reply.trailing, &*reply.text()), (200, How::Chunked, text));
    }
    assert_eq!(*scene.ends.lock().unwrap(), [Ok(()), Ok(())]);
    assert!(scene.hub.is_empty());
    scene.running.stop().unwrap();
}

#[test]
fn a_client_that_closes_is_unsubscribed() {
    let scene = Scene::with(Broadcast::new(10));
    let client = scene.follow(scene.client(), 1);
    client.reset();
    eventually("it is gone", || {
        scene.hub.send("x".into());
        scene.hub.is_empty()
    });
    eventually("its thread ends", || scene.running.handle().stats().detached == 0);
}

/// What the kernel buffers and the queue of a client that does not read: then it is cut, and the other one has everything.
#[test]
fn a_slow_client_is_cut_if_wished_and_delays_no_other() {
    const EVENTS: usize = 1_000;
    let scene = Scene::with(Broadcast::new(5).overflow(Overflow::Disconnect));
    let mut slow = scene.follow(Client::narrow(scene.running.addresses()[0]), 1);
    let mut fast = scene.follow(scene.client(), 2);
    let long = "x".repeat(100_000);
    let mut sent = 0;
    while scene.hub.len() == 2 {
        assert!(sent < EVENTS, "the slow client is never too slow");
        scene.hub.send(long.clone());
        sent += 1;
        // Its events have arrived: it keeps up.
        let mut seen = 0;
        while seen < long.len() {
            seen += fast.sip(1 << 20);
        }
    }
    let reply = slow.reply();
    assert!(matches!(reply.trailing, How::Cut(_)), "{:?}", reply.trailing);
    eventually("its thread ends", || scene.running.handle().stats().detached == 1);
    assert_eq!(*scene.ends.lock().unwrap(), [Err(ErrorKind::ConnectionAborted)]);
}
