//! What lasts, over TLS: WebSockets, event streams and other protocols are what they are without. `main.rs` has this file
//! twice: the second time each connection continues on our own records after its handshake.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use heirloom::prelude::*;
use heirloom::sse::{self, Event};
use heirloom::tls::Tls;
use heirloom::upgrade::Upgraded;
use heirloom::websocket::WebSocket;
use heirloom::{RunningServer, Waited};
use rustls::{ClientConnection, StreamOwned};
use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::secure::{Authority, Secure};
use crate::support::*;

type Stream = StreamOwned<ClientConnection, TcpStream>;

struct Scene {
    authority: Authority,
    running: RunningServer,
}

impl Scene {
    fn new() -> Scene {
        let authority = Authority::new("authority");
        let pair = authority.server("server", &["localhost"]);
        let router = Router::new()
            .get("/ws", |req: Request| {
                WebSocket::upgrade(&req).speak(|socket| {
                    while let Some(message) = socket.read()? {
                        socket.send(message)?;
                    }
                    Ok(())
                })
            })
            .get("/events", |req: Request| {
                sse::response(&req, |events| {
                    events.send(&Event::data("first"))?;
                    let _ = events.wait(Duration::from_secs(600))?;
                    events.send(&Event::data("last"))
                })
            })
            .get("/halves", |_: Request| switch(halves))
            .get("/bytes", |_: Request| switch(bytes));
        let tls = Tls::from_files(pair.certificate, pair.key);
        let tls = if module_path!().ends_with("on_own_records") { tls.carried_at_once() } else { tls };
        let server = Server::new(router).listen(Listen::new("127.0.0.1:0").tls(tls));
        Scene { authority, running: server.workers(2).timeouts(quick()).spawn().unwrap() }
    }

    fn stream(&self) -> Stream {
        let socket = TcpStream::connect(self.running.addresses()[0]).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        let config = self.authority.trusted().config();
        StreamOwned::new(ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap(), socket)
    }

    /// Past the head of a 101.
    fn switched(&self, path: &str) -> Stream {
        let mut stream = self.stream();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend_from_slice(&byte);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        stream
    }
}

fn switch(speak: fn(Upgraded)) -> impl IntoResponse {
    (StatusCode::SWITCHING_PROTOCOLS, [(header::UPGRADE, "x")], Body::upgrade(speak))
}

/// One thread reads, one writes, as much as the client likes.
fn halves(io: Upgraded) {
    let (mut reader, mut writer) = io.split();
    let (give, pieces) = mpsc::channel::<Vec<u8>>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut buf = vec![0; 30_000];
            loop {
                match reader.read(&mut buf) {
                    Ok(n) if n > 0 => give.send(buf[..n].to_vec()).unwrap(),
                    _ => break,
                }
            }
        });
        for piece in pieces {
            writer.write_all(&piece).unwrap();
        }
        writer.end();
    });
}

/// What lies decrypted behind the socket is something to read, too.
fn bytes(mut io: Upgraded) {
    let mut said = Vec::new();
    while let Ok(Waited::Readable) = io.wait(Some(DEADLINE)) {
        let mut byte = [0];
        match io.read(&mut byte) {
            Ok(1) => said.extend_from_slice(&byte),
            _ => return,
        }
        if said.ends_with(b".") {
            io.write_all(&std::mem::take(&mut said)).unwrap();
        }
    }
    io.write_all(b"bye").unwrap();
}

#[test]
fn a_websocket() {
    let scene = Scene::new();
    let (mut client, _) = tungstenite::client("wss://localhost/ws", scene.stream()).unwrap();
    let big = patterned(1 << 20);
    for message in [Message::text("grüß"), Message::binary(big), Message::text("")] {
        client.send(message.clone()).unwrap();
        assert_eq!(client.read().unwrap(), message);
    }
    scene.running.handle().shutdown();
    let Message::Close(Some(said)) = client.read().unwrap() else { panic!("no Close") };
    assert_eq!(said.code, CloseCode::Away);
    while client.read().is_ok() {}
    assert!(!client.can_read());
    drop(client);
    scene.running.stop().unwrap();
}

#[test]
fn events_end_at_a_drain() {
    let scene = Scene::new();
    let config = scene.authority.trusted().config();
    let mut client = Secure::to(scene.running.addresses()[0], "localhost", &config).unwrap();
    client.send(get("/events"));
    let mut said = Vec::new();
    let mut buf = [0; 4096];
    loop {
        let n = client.receive(&mut buf).unwrap();
        said.extend_from_slice(&buf[..n]);
        match said.windows(5).any(|five| five == b"first") {
            _ if n == 0 => break,
            true => scene.running.handle().shutdown(),
            false => {}
        }
    }
    let said = String::from_utf8(said).unwrap();
    // "last" is sent only if the drain begins during the wait, and not during the send of "first".
    assert!(said.contains("data: first\n\n"), "{said}");
    assert!(said.ends_with("\r\n0\r\n\r\n"), "{said}");
}

#[test]
fn two_halves() {
    let scene = Scene::new();
    let mut stream = scene.switched("/halves");
    let all = patterned(1 << 20);
    let mut got = vec![0; 100_000];
    for piece in all.chunks(100_000) {
        stream.write_all(piece).unwrap();
        let got = &mut got[..piece.len()];
        stream.read_exact(got).unwrap();
        assert_eq!(got, piece);
    }
    stream.conn.send_close_notify();
    assert_eq!(stream.read(&mut got).unwrap(), 0, "an end that is announced");
}

#[test]
fn a_wait_sees_what_is_decrypted_already() {
    let scene = Scene::new();
    let mut stream = scene.switched("/bytes");
    for text in ["a.", "one record, many reads.", "x."] {
        stream.write_all(text.as_bytes()).unwrap();
        let mut got = vec![0; text.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, text.as_bytes());
    }
    scene.running.handle().shutdown();
    let mut last = Vec::new();
    stream.read_to_end(&mut last).unwrap();
    assert_eq!(last, b"bye");
}
