//! Handlers written for tiny_http, by raw bytes, through a server of ours.

#![cfg(feature = "tiny_http")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use heirloom::prelude::*;
use heirloom::{RunningServer, TinyHttp};
use tiny_http::{Header, Response as TinyResponse, StatusCode as TinyStatus};

use crate::support::{DEADLINE, assert_patterned, eventually, let_pass, patterned, spawn};

fn body_of(request: &mut tiny_http::Request) -> Vec<u8> {
    let mut body = Vec::new();
    request.as_reader().read_to_end(&mut body).unwrap();
    body
}

fn write_raw(request: tiny_http::Request, bytes: &[u8]) -> std::io::Result<()> {
    let mut writer = request.into_writer();
    writer.write_all(bytes)?;
    writer.flush()
}

/// A handler as in a tiny_http service.
fn handle(mut request: tiny_http::Request) {
    let url = request.url().to_owned();
    let path = url.split('?').next().unwrap_or_default();
    let answered = match path {
        "/echo" | "/streamed" => {
            let body = body_of(&mut request);
            request.respond(TinyResponse::from_data(body))
        }
        "/head" => {
            let method = request.method().to_string();
            let lines = request.headers().iter().map(|h| format!("{}: {}\n", h.field, h.value));
            let text = format!("{method} {url}\n{}", lines.collect::<String>());
            request.respond(TinyResponse::from_string(text))
        }
        "/peer" => {
            let text = format!("{:?} {:?}", TinyHttp::peer_addr(&request), request.remote_addr());
            request.respond(TinyResponse::from_string(text))
        }
        "/big" => request.respond(TinyResponse::from_data(patterned(5 << 20))),
        // Answers before it has read, with more than any socket's buffer takes.
        "/both" => request.respond(TinyResponse::from_data(patterned(1 << 20))),
        "/chunked" => {
            let data = std::io::Cursor::new(patterned(100_000));
            request.respond(TinyResponse::new(TinyStatus(200), vec![], data, None, None))
        }
        "/empty" => request.respond(TinyResponse::empty(204)),
        "/status" => {
            let cookie = |value: &str| Header::from_bytes("Set-Cookie", value).unwrap();
            let response = TinyResponse::from_string("short and stout").with_status_code(418);
            request.respond(response.with_header(cookie("a=1")).with_header(cookie("b=2")))
        }
        "/panic" => panic!("as the test wants it"),
        "/dropped" => {
            drop(request);
            Ok(())
        }
        "/sleep" => {
            let_pass(Duration::from_millis(300));
            request.respond(TinyResponse::from_string("slept"))
        }
        // Breaks the connection that it has.
        "/garbage" => write_raw(request, b"this is no response\r\n\r\n"),
        "/raw" => write_raw(request, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nraw"),
        "/unended" => write_raw(request, b"HTTP/1.1 200 OK\r\n\r\nno end"),
        "/upgrade" => {
            drop(request.upgrade("echo", TinyResponse::empty(101)));
            Ok(())
        }
        _ => request.respond(TinyResponse::from_string("not here").with_status_code(404)),
    };
    answered.unwrap();
}

fn serve() -> RunningServer {
    let limits = Limits::new().body_bytes(64 << 20);
    let tiny = Arc::new(TinyHttp::new(handle));
    let router = Router::new().post("/streamed", streaming(tiny.clone())).fallback(tiny);
    Server::new(router).listen("127.0.0.1:0").workers(8).limits(limits).spawn().unwrap()
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

/// Sends a request on a new connection, which the server closes in the end.
#[track_caller]
fn ask(addr: SocketAddr, head: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let writer = stream.try_clone().unwrap();
    let text = format!("{head}\r\nHost: test\r\nConnection: close\r\n\r\n").into_bytes();
    let bytes = [text.as_slice(), body].concat();
    let writing = spawn(move || {
        let _ = { &writer }.write_all(&bytes);
    });
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    writing.join().unwrap();
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    Answer { status: head[9..12].parse().unwrap(), head, body: all[end..].to_vec() }
}

#[track_caller]
fn text(addr: SocketAddr, head: &str) -> (u16, String) {
    let answer = ask(addr, head, b"");
    (answer.status, String::from_utf8(answer.body).unwrap())
}

#[test]
fn requests_and_responses_arrive_as_they_are() {
    let server = serve();
    let addr = server.addresses()[0];
    let echoed = ask(addr, "POST /echo HTTP/1.1\r\nContent-Length: 5", b"hello");
    assert_eq!((echoed.status, &*echoed.body), (200, &b"hello"[..]));
    let (status, head) = text(addr, "GET /head?a=b%20c&d HTTP/1.1\r\nX-One: 1\r\nX-Two: a, b\r\nX-Two: c");
    assert_eq!(status, 200);
    assert_eq!(
        head,
        "GET /head?a=b%20c&d\nX-One: 1\nX-Two: a, b\nX-Two: c\nHost: test\n".to_owned() + &peer(&head)
    );
    let (status, head) = text(addr, "PURGE http://elsewhere.example/head HTTP/1.1");
    assert!(status == 200 && head.starts_with("PURGE /head\n"), "{head}");
    assert_eq!(text(addr, "GET /nowhere HTTP/1.1"), (404, "not here".to_owned()));
    let teapot = ask(addr, "GET /status HTTP/1.1", b"");
    assert_eq!((teapot.status, &*teapot.body), (418, &b"short and stout"[..]));
    assert!(teapot.head.contains("Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n"), "{}", teapot.head);
    assert_eq!(teapot.head.matches("Date: ").count(), 1, "{}", teapot.head);
    let empty = ask(addr, "GET /empty HTTP/1.1", b"");
    assert_eq!((empty.status, empty.body.len()), (204, 0));
}

/// The line about the client.
fn peer(head: &str) -> String {
    let line = head.lines().find(|line| line.starts_with("Heirloom-Peer: 127.0.0.1:"));
    format!("{}\n", line.expect("a peer"))
}

#[test]
fn the_peer_address_is_passed_on_and_can_not_be_forged() {
    let server = serve();
    let addr = server.addresses()[0];
    let (_, said) = text(addr, "GET /peer HTTP/1.1\r\nHeirloom-Peer: 1.2.3.4:5");
    assert!(said.starts_with("Some(127.0.0.1:") && said.ends_with(" None"), "{said}");
}

#[test]
fn head_has_the_length_and_no_body() {
    let server = serve();
    let addr = server.addresses()[0];
    let head = ask(addr, "HEAD /status HTTP/1.1", b"");
    assert_eq!((head.status, head.body.len()), (418, 0));
    assert!(head.head.contains("Content-Length: 15\r\n"), "{}", head.head);
    // The next one on the same private connection is not confused.
    assert_eq!(text(addr, "GET /nowhere HTTP/1.1").0, 404);
}

#[test]
fn large_bodies_both_ways() {
    let server = serve();
    let addr = server.addresses()[0];
    let body = patterned(9 << 20);
    let echoed = ask(addr, &format!("PUT /echo HTTP/1.1\r\nContent-Length: {}", body.len()), &body);
    assert_eq!(echoed.status, 200);
    assert!(echoed.head.contains(&format!("Content-Length: {}\r\n", body.len())), "collected, so known");
    assert_patterned(&echoed.body, body.len());
    let mut chunks = Vec::new();
    for piece in body.chunks(70_001) {
        chunks.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunks.extend_from_slice(piece);
        chunks.extend_from_slice(b"\r\n");
    }
    chunks.extend_from_slice(b"0\r\n\r\n");
    for path in ["/echo", "/streamed"] {
        let echoed = ask(addr, &format!("POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked"), &chunks);
        assert_eq!(echoed.status, 200, "{path}");
        assert_patterned(&echoed.body, body.len());
    }
    assert_patterned(&ask(addr, "GET /big HTTP/1.1", b"").body, 5 << 20);
    assert_patterned(&ask(addr, "GET /chunked HTTP/1.1", b"").body, 100_000);
    // The handler writes much before it has read much: neither side waits for the other indefinitely.
    let both = ask(addr, &format!("POST /both HTTP/1.1\r\nContent-Length: {}", body.len()), &body);
    assert_patterned(&both.body, 1 << 20);
    assert_eq!(text(addr, "GET /nowhere HTTP/1.1").0, 404);
}

#[test]
fn what_fails_is_answered_and_the_next_request_is_served() {
    let server = serve();
    let addr = server.addresses()[0];
    for round in 0..20 {
        for (path, status) in [
            ("/panic", 500),
            ("/dropped", 500),
            ("/garbage", 502),
            ("/unended", 502),
            ("/upgrade", 502),
            ("/raw", 200),
            ("/nowhere", 404),
        ] {
            assert_eq!(text(addr, &format!("GET {path} HTTP/1.1")).0, status, "{path}, round {round}");
        }
    }
    assert_eq!(server.handle().stats().panics, 0, "it is not ours that panicked");
}

#[test]
fn workers_handle_as_many_requests_at_once_as_there_are() {
    let inside: Arc<(Mutex<usize>, Condvar)> = Arc::default();
    let all_in = inside.clone();
    let tiny = TinyHttp::new(move |request| {
        let (count, changed) = &*all_in;
        let mut count = count.lock().unwrap();
        *count += 1;
        changed.notify_all();
        let (count, late) = changed.wait_timeout_while(count, DEADLINE, |count| *count < 32).unwrap();
        drop(count);
        let _ =
            request.respond(TinyResponse::from_string(if late.timed_out() { "alone" } else { "together" }));
    });
    let server = Server::new(tiny).listen("127.0.0.1:0").workers(32).spawn().unwrap();
    let addr = server.addresses()[0];
    let clients: Vec<_> = (0..32).map(|_| spawn(move || text(addr, "GET / HTTP/1.1").1)).collect();
    let answers: BTreeSet<String> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert_eq!(answers, BTreeSet::from(["together".to_owned()]));
}

#[test]
fn every_request_of_many_is_answered() {
    let server = serve();
    let addr = server.addresses()[0];
    let clients: Vec<_> = (0..16)
        .map(|n| {
            spawn(move || {
                let mut stream = TcpStream::connect(addr).unwrap();
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                for k in 0..200 {
                    let body = format!("{n} {k}");
                    let head =
                        format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
                    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
                    let mut answer = Vec::new();
                    while !answer.ends_with(format!("\r\n\r\n{body}").as_bytes()) {
                        let mut piece = [0; 4096];
                        let read = stream.read(&mut piece).unwrap();
                        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answer));
                        answer.extend_from_slice(&piece[..read]);
                    }
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(server.handle().stats().requests, 3200);
}

#[test]
fn a_slow_handler_is_finished_at_a_stop() {
    let server = serve();
    let addr = server.addresses()[0];
    let asked = spawn(move || text(addr, "GET /sleep HTTP/1.1"));
    eventually("it is in flight", || server.handle().stats().in_flight == 1);
    server.stop().unwrap();
    assert_eq!(asked.join().unwrap(), (200, "slept".to_owned()));
}

fn threads_named(prefix: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with(prefix)).count()
}

/// Alone in its process, so that it counts its own threads only.
#[test]
#[ignore = "run by the test below"]
fn no_thread_is_left_when_it_is_dropped() {
    for _ in 0..3 {
        let server = serve();
        assert_eq!(text(server.addresses()[0], "GET /nowhere HTTP/1.1").0, 404);
        drop(server);
        eventually("its threads end", || threads_named("heirloom-tiny") == 0);
    }
    // The threads of tiny_http's own pool end when they have been idle for five seconds, all but four.
    let own = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = own();
    eventually("and its own accept", || own() <= before);
}

#[test]
fn its_threads_end_with_it() {
    let test = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new(test);
    let output = command
        .args(["--ignored", "--exact", "tiny_http::no_thread_is_left_when_it_is_dropped"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
