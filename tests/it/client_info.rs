//! What a handler learns about its client: whether it is still connected, and which user and process it is.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use heirloom::prelude::*;
use heirloom::wrap::AccessLog;
use heirloom::{ClientWatch, RunningServer, Waited, sse};

use crate::support::*;

struct Scene {
    running: RunningServer,
    /// The reports of the handlers, in order.
    seen: mpsc::Receiver<String>,
}

impl Scene {
    /// On `listen`, where `/leave` waits for the client's end, and `/watch` and `/events` do so on
    /// threads of their own.
    fn new(listen: &str) -> Scene {
        let (report, seen) = mpsc::channel::<String>();
        let (of_leave, of_watch, of_events) = (report.clone(), report.clone(), report);
        let router = Router::new()
            .get("/ask", |req: Request| format!("{}", req.is_client_gone()))
            .get("/who", |req: Request| format!("{:?}", req.peer_credentials()))
            .get("/leave", move |req: Request| {
                of_leave.send("here".into()).unwrap();
                of_leave.send(until_gone(&req.client_watch())).unwrap();
                format!("to the end: {}", req.is_client_gone())
            })
            .get("/watch", move |req: Request| {
                let (report, client) = (of_watch.clone(), req.client_watch());
                Body::writer(move |_| {
                    report.send("here".into()).unwrap();
                    report.send(until_gone(&client)).unwrap();
                    Ok(())
                })
            })
            .get("/events", move |req: Request| {
                let report = of_events.clone();
                sse::response(&req, move |events| {
                    report.send("here".into()).unwrap();
                    let end = loop {
                        match events.wait(Duration::from_millis(1)) {
                            Ok(Waited::TimedOut) => {}
                            other => break other,
                        }
                    };
                    report.send(format!("{:?}", end.map_err(|e| e.kind()))).unwrap();
                    Ok(())
                })
            });
        let running = Server::new(router).listen(listen).workers(2).timeouts(quick()).spawn().unwrap();
        Scene { running, seen }
    }

    fn client(&self) -> Client {
        Client::to(self.running.addresses()[0])
    }

    #[track_caller]
    fn sees(&self, what: &str) {
        assert_eq!(self.seen.recv_timeout(DEADLINE).unwrap(), what);
    }
}

fn until_gone(client: &ClientWatch) -> String {
    let deadline = Instant::now() + DEADLINE;
    while !client.is_gone() && Instant::now() < deadline {
        let_pass(Duration::from_millis(1));
    }
    format!("gone: {}", client.is_gone())
}

#[test]
fn who_waits_for_an_answer_is_there() {
    let scene = Scene::new("127.0.0.1:0");
    let mut client = scene.client();
    for _ in 0..3 {
        client.send(get("/ask"));
        assert_eq!(client.reply().said(), "200 false");
    }
    // Bytes that are not read yet change nothing.
    client.send([get("/ask"), get("/ask")].concat());
    assert_eq!((client.reply().said(), client.reply().said()), ("200 false".into(), "200 false".into()));
}

#[test]
fn a_handler_sees_a_close_and_a_reset() {
    let scene = Scene::new("127.0.0.1:0");
    let ends: [fn(Client); 2] = [drop, Client::reset];
    for path in ["/leave", "/watch"] {
        for end in ends {
            let mut client = scene.client();
            client.send(get(path));
            scene.sees("here");
            end(client);
            scene.sees("gone: true");
        }
    }
}

/// It can't be distinguished from a close, and its response is sent nevertheless.
#[test]
fn a_half_closed_client_counts_as_gone_and_is_answered() {
    let scene = Scene::new("127.0.0.1:0");
    let mut client = scene.client();
    client.send(get("/leave"));
    scene.sees("here");
    client.half_close();
    scene.sees("gone: true");
    assert_eq!(client.reply().said(), "200 to the end: true");
    assert_eq!(client.end(), End::Fin);
    // Likewise one that has ended before its handler was called.
    let mut client = scene.client();
    client.send(get("/leave"));
    client.half_close();
    scene.sees("here");
    scene.sees("gone: true");
    assert_eq!(client.reply().said(), "200 to the end: true");
}

#[test]
fn a_silent_event_stream_ends_with_its_client() {
    let scene = Scene::new("127.0.0.1:0");
    let mut client = scene.client();
    client.send(get("/events"));
    scene.sees("here");
    drop(client);
    scene.sees("Err(BrokenPipe)");
}

/// A socket for both families has an IPv4 peer as `::ffff:127.0.0.1`.
#[test]
fn an_ipv4_peer_of_a_dual_stack_socket_is_ipv4() {
    let (report, logged) = mpsc::channel();
    let router = Router::new().get("/peer", |req: Request| format!("{:?}", req.peer_addr())).wrap(
        AccessLog::new().to(move |access| report.send((access.client().addr(), access.to_string())).unwrap()),
    );
    let server = Server::new(router).listen("[::]:0").workers(2).timeouts(quick());
    let Ok(running) = server.spawn() else {
        return skip::skip("this host has no IPv6");
    };
    let port = running.addresses()[0].port();
    for ip in ["127.0.0.1", "::1"] {
        let mut client = TcpStream::connect((ip, port)).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let peer = client.local_addr().unwrap();
        client.write_all(b"GET /peer HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with(&format!("\r\n\r\n{:?}", Some(peer))), "{answer}");
        let (found, line) = logged.recv_timeout(DEADLINE).unwrap();
        assert_eq!(found, Some(peer));
        assert!(line.contains(&format!(" client={peer} ")), "{line}");
    }
}

#[test]
fn a_unix_socket_has_the_credentials_of_its_peer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let scene = Scene::new(&format!("unix:{}", path.display()));
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.write_all(b"GET /who HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    let own = std::fs::metadata("/proc/self").unwrap();
    let (uid, gid) = (std::os::unix::fs::MetadataExt::uid(&own), std::os::unix::fs::MetadataExt::gid(&own));
    let want =
        format!("Some(PeerCredentials {{ pid: Some({}), uid: {uid}, gid: {gid} }})", std::process::id());
    assert!(answer.ends_with(&want), "{answer}");

    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(get("/leave").as_bytes()).unwrap();
    scene.sees("here");
    drop(client);
    scene.sees("gone: true");
}

#[test]
fn tcp_has_no_credentials() {
    let scene = Scene::new("127.0.0.1:0");
    let mut client = scene.client();
    client.send(get("/who"));
    assert_eq!(client.reply().said(), "200 None");
}
