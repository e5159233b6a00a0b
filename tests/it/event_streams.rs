//! Long-lived responses, byte by byte: server-sent events and bodies that are written on a dedicated thread.

use std::io::{BufWriter, Write};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use heirloom::prelude::*;
use heirloom::sse::{self, Event};
use heirloom::{RunningServer, Waited};

use crate::support::*;

struct Scene {
    running: RunningServer,
    /// How the writing of the stream ended.
    reports: mpsc::Receiver<String>,
}

impl Scene {
    fn new() -> Scene {
        let (report, reports) = mpsc::channel::<String>();
        let report = Mutex::new(report);
        let router = Router::new()
            .get("/events", |req: Request| {
                sse::response(&req, |events| {
                    let last = events.last_id().unwrap_or("none").to_owned();
                    events.send(&Event::data(format!("after {last}\nand on")).id(1))?;
                    events.send(&Event::data("").name("empty"))
                })
            })
            .get("/endless", move |req: Request| {
                let report = report.lock().unwrap().clone();
                sse::response(&req, move |events| {
                    let end = loop {
                        match events.wait(Duration::from_millis(1)) {
                            Ok(Waited::TimedOut) => {}
                            other => break other,
                        }
                        if let Err(e) = events.send(&Event::data("x".repeat(1000))) {
                            break Err(e);
                        }
                    };
                    report.send(format!("{:?}", end.map_err(|e| e.kind()))).unwrap();
                    Ok(())
                })
            })
            .get("/letters", |_: Request| {
                Body::writer(|out| (b'a'..=b'e').try_for_each(|letter| out.write_all(&[letter])))
            })
            .get("/buffered", |_: Request| {
                Body::writer(|out| {
                    let mut out = BufWriter::new(out);
                    (b'a'..=b'e').try_for_each(|letter| out.write_all(&[letter]))?;
                    out.flush()
                })
            })
            .get("/pieces", |_: Request| Body::from_chunks((0..300).map(|_| Ok(vec![b'p'; 1000]))));
        let running = Server::new(router).listen("127.0.0.1:0").workers(1).timeouts(quick()).spawn().unwrap();
        Scene { running, reports }
    }

    fn client(&self) -> Client {
        Client::to(self.running.addresses()[0])
    }
}

#[test]
fn events_in_chunks_and_to_1_0_without() {
    let scene = Scene::new();
    let body = "data: after none\ndata: and on\n\nevent: empty\ndata: \n\n";
    let body = format!(":\nid: 1\n{body}");
    for (version, how) in [("1.1", How::Chunked), ("1.0", How::Close)] {
        let mut client = scene.client();
        client.send(format!("GET /events HTTP/{version}\r\nHost: h\r\n\r\n"));
        let reply = client.reply();
        assert_eq!((reply.status, reply.trailing, reply.text()), (200, how, body.clone()));
        assert_eq!(reply.field("content-type"), Some("text/event-stream"));
        assert_eq!(reply.field("cache-control"), Some("no-store"));
        client.expect_fin();
    }
    let mut client = scene.client();
    client.send("GET /events HTTP/1.1\r\nHost: h\r\nLast-Event-ID: 41\r\n\r\n");
    assert!(client.reply().text().contains("data: after 41\n"));
    let mut client = scene.client();
    client.send("HEAD /events HTTP/1.1\r\nHost: h\r\n\r\n");
    let reply = client.reply_to("HEAD");
    assert_eq!((reply.status, reply.field("content-type")), (200, Some("text/event-stream")));
    eventually("no thread is left", || scene.running.handle().stats().detached == 0);
}

#[test]
fn a_disconnected_client_ends_the_thread() {
    let scene = Scene::new();
    for reset in [false, true] {
        let mut client = scene.client();
        client.send(get("/endless"));
        assert!(client.take(500).starts_with(b"HTTP/1.1 200 OK\r\n"));
        match reset {
            true => client.reset(),
            false => drop(client),
        }
        let reports = scene.reports.recv_timeout(DEADLINE).unwrap();
        assert!(matches!(&*reports, "Err(BrokenPipe)" | "Err(ConnectionReset)"), "{reports}");
        eventually("its thread ends", || scene.running.handle().stats().detached == 0);
    }
}

#[test]
fn a_drain_ends_it() {
    let scene = Scene::new();
    let mut client = scene.client();
    client.send(get("/endless"));
    eventually("it streams", || scene.running.handle().stats().detached == 1);
    scene.running.handle().shutdown();
    assert_eq!(client.reply().trailing, How::Chunked, "whole");
    let reports = scene.reports.recv_timeout(DEADLINE).unwrap();
    // Reported by the wait, or by a send before it.
    assert!(matches!(&*reports, "Ok(Draining)" | "Err(Interrupted)"), "{reports}");
    scene.running.stop().unwrap();
}

#[test]
fn a_write_is_a_chunk_unless_it_is_gathered() {
    let scene = Scene::new();
    for (path, chunks) in [("/letters", 5), ("/buffered", 1)] {
        let mut client = scene.client();
        client.send(get(path));
        let mut all = Vec::new();
        while !all.ends_with(b"\r\n0\r\n\r\n") {
            all.extend(client.take(1));
        }
        let all = String::from_utf8(all).unwrap();
        let body = all.split_once("\r\n\r\n").unwrap().1;
        // Each has a line with its length and one with itself; the last is followed by an empty one.
        assert_eq!(body.lines().count(), 2 * chunks + 2, "{body:?}");
        client.expect_fin();
    }
}

#[test]
fn pieces_are_pulled_and_the_connection_is_kept() {
    let scene = Scene::new();
    let mut client = scene.client();
    for _ in 0..2 {
        let reply = client.get("/pieces");
        assert_eq!((reply.trailing, reply.body.len()), (How::Chunked, 300_000));
        assert!(reply.body.iter().all(|byte| *byte == b'p'));
    }
}
