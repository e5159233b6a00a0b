//! WebSockets byte by byte: what good clients get, how bad ones are refused, and how each way to end
//! one looks from the other side.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use heirloom::RunningServer;
use heirloom::broadcast::{Broadcast, Overflow};
use heirloom::prelude::*;
use heirloom::websocket::{Message, WebSocket, WebSocketOptions, WebSocketSender};

use crate::support::*;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;

/// A server, and what its sockets' threads report.
struct Scene {
    running: RunningServer,
    reports: mpsc::Receiver<String>,
}

type Speak = fn(&mut WebSocket) -> io::Result<()>;

impl Scene {
    fn with(options: WebSocketOptions, speak: Speak) -> Scene {
        Scene::serving(move |req, report| {
            WebSocket::upgrade(req).options(options.clone()).speak(move |socket| {
                let outcome = speak(socket);
                let end = outcome.as_ref().map(|()| socket.closed_with()).map_err(io::Error::kind);
                report.send(format!("{end:?}")).unwrap();
                outcome
            })
        })
    }

    fn serving(
        handler: impl Fn(&Request, mpsc::Sender<String>) -> Response + Send + Sync + 'static,
    ) -> Scene {
        let (report, reports) = mpsc::channel();
        let report = Mutex::new(report);
        let router = Router::new()
            .get("/ws", move |req: Request| handler(&req, report.lock().unwrap().clone()))
            .get("/", |_: Request| "hello\n");
        let timeouts = Timeouts::new().idle_grace(Duration::from_millis(250));
        let running =
            Server::new(router).listen("127.0.0.1:0").workers(2).timeouts(timeouts).spawn().unwrap();
        Scene { running, reports }
    }

    fn echo() -> Scene {
        Scene::with(WebSocketOptions::default(), echo)
    }

    fn address(&self) -> SocketAddr {
        self.running.addresses()[0]
    }

    fn client(&self) -> Client {
        open(Client::to(self.address()))
    }

    #[track_caller]
    fn expect_report(&self, wanted: &str) {
        assert_eq!(self.reports.recv_timeout(DEADLINE).unwrap(), wanted);
    }

    #[track_caller]
    fn expect_no_client(&self) {
        eventually("its thread ends", || self.running.handle().stats().detached == 0);
    }
}

fn echo(socket: &mut WebSocket) -> io::Result<()> {
    while let Some(message) = socket.read()? {
        socket.send(message)?;
    }
    Ok(())
}

fn request(extra: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
    )
}

fn open(mut client: Client) -> Client {
    client.send(request(""));
    let reply = client.reply();
    assert_eq!(reply.status, 101);
    assert_eq!(reply.field("upgrade"), Some("websocket"));
    assert_eq!(reply.field("connection"), Some("upgrade"));
    assert_eq!(reply.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(reply.field("sec-websocket-protocol"), None);
    client
}

/// A frame as a client masks it; the first byte as given.
fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let mask = [0xa1, 0x02, 0xff, 0x5c];
    let mut bytes = head(first, 0x80, payload.as_ref().len());
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.as_ref().iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    [head(first, 0, payload.len()), payload.to_vec()].concat()
}

fn head(first: u8, masked: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    match len {
        0..126 => bytes.push(masked | len as u8),
        126..0x10000 => {
            bytes.push(masked | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes
}

/// The next frame: its opcode, and what it says.
#[track_caller]
fn receive(client: &mut Client) -> (u8, Vec<u8>) {
    let head = client.take(2);
    assert_eq!(head[0] & 0xf0, FIN, "whole, no extension");
    let len = match head[1] {
        126 => u64::from(u16::from_be_bytes(client.take(2).try_into().unwrap())),
        127 => u64::from_be_bytes(client.take(8).try_into().unwrap()),
        len => u64::from(len),
    };
    assert!(len < 1 << 30, "masked");
    (head[0] & 15, client.take(len as usize))
}

#[track_caller]
fn expect(client: &mut Client, opcode: u8, payload: impl AsRef<[u8]>) {
    let (got, said) = receive(client);
    assert_eq!((got, String::from_utf8_lossy(&said)), (opcode, String::from_utf8_lossy(payload.as_ref())));
}

/// A Close with this code; what it says.
#[track_caller]
fn expect_close(client: &mut Client, code: u16) -> String {
    let (opcode, said) = receive(client);
    assert_eq!(opcode, CLOSE, "{said:?}");
    assert_eq!(u16::from_be_bytes([said[0], said[1]]), code);
    String::from_utf8(said[2..].to_vec()).unwrap()
}

fn close(code: u16, reason: &str) -> Vec<u8> {
    frame(FIN | CLOSE, [&code.to_be_bytes(), reason.as_bytes()].concat())
}

#[test]
fn messages_of_every_kind() {
    let scene = Scene::echo();
    let mut client = scene.client();
    let big = patterned(1 << 20);
    for (first, payload) in [(TEXT, &b""[..]), (TEXT, "grüß".as_bytes()), (BINARY, &[0, 255]), (BINARY, &big)]
    {
        client.send(frame(FIN | first, payload));
        assert_eq!(receive(&mut client), (first, payload.to_vec()));
    }
    // Lengths around where their notation changes.
    for len in [125, 126, 127, 65535, 65536] {
        client.send(frame(FIN | BINARY, patterned(len)));
        assert_patterned(&receive(&mut client).1, len);
    }
    // In fragments, with a Ping and an unsolicited Pong between them, cut within a character.
    let text = "grüß dich".as_bytes();
    client.send(frame(TEXT, &text[..3]));
    client.send(frame(FIN | PING, "are you there?"));
    expect(&mut client, PONG, "are you there?");
    client.send(frame(FIN | PONG, ""));
    client.send(frame(0, &text[3..4]));
    client.send(frame(0, ""));
    client.send(frame(FIN, &text[4..]));
    expect(&mut client, TEXT, text);
    // Byte by byte, and many at once.
    client.send_bytewise(frame(FIN | TEXT, "slowly"));
    expect(&mut client, TEXT, "slowly");
    client.send((0..100).flat_map(|n| frame(FIN | TEXT, n.to_string())).collect::<Vec<_>>());
    (0..100).for_each(|n| expect(&mut client, TEXT, n.to_string()));
    client.send(close(1000, "enough"));
    assert_eq!(expect_close(&mut client, 1000), "enough");
    client.expect_fin();
    scene.expect_report(r#"Ok(Some((1000, "enough")))"#);
    scene.expect_no_client();
}

#[test]
fn bytes_after_the_request_are_read() {
    let scene = Scene::echo();
    for behind in [0, 3, usize::MAX] {
        let mut client = Client::to(scene.address());
        // And with an answer before it.
        let hello = get("/");
        let frames = [frame(FIN | TEXT, "early"), frame(FIN | BINARY, patterned(5000))].concat();
        let (first, rest) = frames.split_at(behind.min(frames.len()));
        client.send([hello.as_bytes(), request("").as_bytes(), first].concat());
        assert_eq!(client.reply().said(), "200 hello");
        assert_eq!(client.reply().status, 101);
        client.send(rest);
        expect(&mut client, TEXT, "early");
        assert_patterned(&receive(&mut client).1, 5000);
    }
}

#[test]
fn protocol_errors_are_answered_by_their_code() {
    let options = WebSocketOptions::new().message_bytes(1000);
    let scene = Scene::with(options, echo);
    let cases: [(&str, Vec<u8>, u16); 17] = [
        ("unmasked", unmasked(FIN | TEXT, b"hello"), 1002),
        ("unmasked Close", unmasked(FIN | CLOSE, b""), 1002),
        ("an extension's bit", frame(FIN | 0x40 | TEXT, "x"), 1002),
        ("a reserved opcode", frame(FIN | 3, "x"), 1002),
        ("a reserved control opcode", frame(FIN | 11, "x"), 1002),
        ("a continuation of nothing", frame(FIN, "x"), 1002),
        ("a message within a message", [frame(TEXT, "a"), frame(FIN | TEXT, "b")].concat(), 1002),
        ("a Ping in fragments", frame(PING, "x"), 1002),
        ("a long Ping", frame(FIN | PING, [b'x'; 126]), 1002),
        ("a Close of one byte", frame(FIN | CLOSE, "x"), 1002),
        ("no UTF-8", frame(FIN | TEXT, [0xff, 0xfe]), 1007),
        ("half a letter", frame(FIN | TEXT, &"ü".as_bytes()[..1]), 1007),
        ("half a letter in the last fragment", [frame(TEXT, "a"), frame(FIN, [0xc3])].concat(), 1007),
        ("a long message", frame(FIN | BINARY, [0; 1001]), 1009),
        ("a long message in fragments", [frame(BINARY, [0; 600]), frame(FIN, [0; 401])].concat(), 1009),
        (
            "the announcement of a very long one",
            [head(FIN | BINARY, 0x80, usize::MAX), vec![0; 4]].concat(),
            1009,
        ),
        ("something else", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), 1002),
    ];
    for (what, bytes, code) in cases {
        eprintln!("{what}");
        let mut client = scene.client();
        client.send(frame(FIN | TEXT, "good"));
        expect(&mut client, TEXT, "good");
        client.send(bytes);
        expect_close(&mut client, code);
        // Whatever else it says.
        let _ = client.try_send(frame(FIN | TEXT, "more"));
        client.expect_fin();
        scene.expect_report("Err(InvalidData)");
    }
    // Exactly as long as it may be.
    let mut client = scene.client();
    client.send([frame(BINARY, [7; 600]), frame(FIN, [7; 400])].concat());
    assert_eq!(receive(&mut client), (BINARY, vec![7; 1000]));
    scene.expect_no_report_and_drop(client);
}

impl Scene {
    #[track_caller]
    fn expect_no_report_and_drop(&self, client: Client) {
        assert!(self.reports.try_recv().is_err());
        drop(client);
        self.expect_report("Err(UnexpectedEof)");
        self.expect_no_client();
    }
}

#[test]
fn codes_that_a_client_must_not_send_are_not_repeated() {
    let scene = Scene::echo();
    let no_code: Vec<u16> = vec![0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535];
    for code in no_code {
        let mut client = scene.client();
        // Messages before it count.
        client.send([frame(FIN | TEXT, "first"), close(code, "")].concat());
        expect(&mut client, TEXT, "first");
        expect_close(&mut client, 1002);
        client.expect_fin();
        scene.expect_report("Err(InvalidData)");
    }
    // Half a code, and a reason that is no text.
    for (payload, answer) in [(&b"\x03"[..], 1002), (b"\x03\xe8\xff", 1007)] {
        let mut client = scene.client();
        client.send(frame(FIN | CLOSE, payload));
        expect_close(&mut client, answer);
        client.expect_fin();
        scene.expect_report("Err(InvalidData)");
    }
    // None at all.
    let mut client = scene.client();
    client.send(frame(FIN | CLOSE, ""));
    expect(&mut client, CLOSE, "");
    client.expect_fin();
    scene.expect_report(r#"Ok(Some((1005, "")))"#);
}

#[test]
fn valid_close_codes_are_repeated_and_reported() {
    let scene = Scene::echo();
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999] {
        let mut client = scene.client();
        // Byte by byte, after a Ping, whose answer arrives first.
        for byte in [frame(FIN | PING, "p"), close(code, "why")].concat() {
            client.send([byte]);
        }
        expect(&mut client, PONG, "p");
        assert_eq!(expect_close(&mut client, code), "why");
        client.expect_fin();
        scene.expect_report(&format!("Ok(Some(({code}, \"why\")))"));
    }
}

/// Both directions: codes that the server may send, and the error for a client's forbidden code.
#[test]
fn a_close_of_ours_has_a_code_that_may_be_sent() {
    let speak: Speak = |socket| {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            assert_eq!(socket.close(code, "").unwrap_err().kind(), ErrorKind::InvalidInput, "{code}");
        }
        let Some(Message::Text(code)) = socket.read()? else { panic!("a code") };
        socket.close(code.parse().unwrap(), "")?;
        while socket.read()?.is_some() {}
        Ok(())
    };
    let scene = Scene::with(WebSocketOptions::default(), speak);
    for code in [1000, 1003, 1007, 1012, 1013, 1014, 3000, 4999] {
        for (answer, expected) in
            [(code, format!("Ok(Some(({code}, \"\")))")), (1006, "Err(InvalidData)".to_owned())]
        {
            let mut client = scene.client();
            client.send(frame(FIN | TEXT, code.to_string()));
            expect_close(&mut client, code);
            client.send(close(answer, ""));
            scene.expect_report(&expected);
            client.expect_fin();
        }
    }
}

#[test]
fn wrong_handshakes_are_refused_and_connections_kept() {
    let scene = Scene::echo();
    let mut client = Client::to(scene.address());
    let good = request("");
    for (from, to, status) in [
        ("Upgrade: websocket", "Upgrade: h2c", 426),
        ("Version: 13", "Version: 12", 426),
        ("keep-alive, Upgrade", "keep-alive", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "short", 400),
        ("GET /ws HTTP/1.1", "POST /ws HTTP/1.1", 405),
        ("\r\n\r\n", "\r\nOrigin: http://elsewhere\r\n\r\n", 403),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        client.send(bad);
        let reply = client.reply();
        assert_eq!(reply.status, status, "{to}");
        let wanted = matches!(status, 400 | 426).then_some("13");
        assert_eq!(reply.field("sec-websocket-version"), wanted);
        assert_eq!(reply.field("connection"), wanted.map(|_| "upgrade"), "RFC 9110 §7.8");
    }
    client.send(good);
    assert_eq!(client.reply().status, 101);
    let mut old = Client::to(scene.address());
    old.send(request("").replace("HTTP/1.1", "HTTP/1.0"));
    assert_eq!(old.reply().status, 426);
}

#[test]
fn subprotocols_and_origins() {
    let scene = Scene::serving(|req, report| {
        let upgrade = WebSocket::upgrade(req).protocols(&["v2", "v1"]).origins(&["https://friend.example"]);
        upgrade.speak(move |socket| {
            report.send(format!("{:?}", socket.protocol())).unwrap();
            Ok(())
        })
    });
    for (extra, agreed) in [
        ("", None),
        ("Sec-WebSocket-Protocol: v1, v2\r\nOrigin: http://h\r\n", Some("v2")),
        ("Sec-WebSocket-Protocol: v0\r\nSec-WebSocket-Protocol: v1\r\n", Some("v1")),
        ("Sec-WebSocket-Protocol: v0\r\nOrigin: https://friend.example\r\n", None),
    ] {
        let mut client = Client::to(scene.address());
        client.send(request(extra));
        let reply = client.reply();
        assert_eq!((reply.status, reply.field("sec-websocket-protocol")), (101, agreed));
        scene.expect_report(&format!("{agreed:?}"));
        expect_close(&mut client, 1000);
    }
    let mut client = Client::to(scene.address());
    client.send(request("Origin: https://friend.example.evil\r\n"));
    assert_eq!(client.reply().status, 403);
}

#[test]
fn each_way_to_end_has_its_code() {
    let long = "ü".repeat(100);
    let cut = "ü".repeat(61);
    let cases: [(Speak, u16, &str); 6] = [
        (|_| Ok(()), 1000, ""),
        (|_| Err(io::Error::other("no more")), 1011, ""),
        (|_| panic!("as asked"), 1011, ""),
        (|socket| socket.close(4000, "bye"), 4000, "bye"),
        (|socket| socket.close(4001, &"ü".repeat(100)), 4001, &long),
        (
            |socket| {
                assert_eq!(socket.close(1005, "").unwrap_err().kind(), ErrorKind::InvalidInput);
                socket.close(1003, "")?;
                assert_eq!(socket.send("x").unwrap_err().kind(), ErrorKind::BrokenPipe);
                // Messages that the client sent before it knew.
                assert_eq!(socket.read()?, Some("last".into()));
                assert_eq!(socket.read()?, None);
                Ok(())
            },
            1003,
            "",
        ),
    ];
    let mut panics = 0;
    for (speak, code, reason) in cases {
        let scene = Scene::with(WebSocketOptions::default(), speak);
        let mut client = scene.client();
        let said = expect_close(&mut client, code);
        assert_eq!(said, if reason == long { &cut } else { reason });
        client.send([frame(FIN | TEXT, "last"), close(code, "")].concat());
        client.expect_fin();
        scene.expect_no_client();
        panics += scene.running.handle().stats().panics;
    }
    assert_eq!(panics, 1);
}

#[test]
fn a_drain_closes_with_1001_whatever_the_thread_waits_for() {
    // In a read, and in code that does not know of the drain.
    let cases: [Speak; 2] = [echo, |socket| {
        let sender = socket.sender();
        eventually("it is closed", || !sender.is_open());
        assert_eq!(sender.send("x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        Ok(())
    }];
    for speak in cases {
        let scene = Scene::with(WebSocketOptions::default(), speak);
        let mut client = scene.client();
        client.send(frame(FIN | PING, ""));
        scene.running.handle().shutdown();
        loop {
            let (opcode, said) = receive(&mut client);
            match opcode {
                PONG => {}
                CLOSE => break assert_eq!(said, 1001_u16.to_be_bytes()),
                other => panic!("{other}"),
            }
        }
        client.send(close(1001, ""));
        client.expect_fin();
        scene.running.stop().unwrap();
    }
}

#[test]
fn who_does_not_answer_the_close_is_cut_off() {
    let options = WebSocketOptions::new().closing(Duration::from_millis(200));
    let scene = Scene::with(options, echo);
    let mut silent = scene.client();
    // One that has much to say and does not listen.
    let mut deaf = open(Client::narrow(scene.address()));
    let talker = spawn({
        let mut twin = deaf.twin();
        move || while twin.try_send(frame(FIN | BINARY, patterned(100_000))).is_ok() {}
    });
    assert_patterned(&receive(&mut deaf).1, 100_000);
    scene.running.handle().shutdown();
    expect_close(&mut silent, 1001);
    silent.expect_fin();
    scene.expect_no_client();
    drop(deaf);
    scene.running.stop().unwrap();
    talker.join().unwrap();
}

#[test]
fn a_client_that_vanishes_is_noticed() {
    let options =
        WebSocketOptions::new().ping(Duration::from_millis(50)).silence(Duration::from_millis(1500));
    let scene = Scene::with(options, echo);
    let mut client = scene.client();
    // The connection stays as long as the client answers Pings.
    for _ in 0..40 {
        expect(&mut client, PING, "");
        client.send(frame(FIN | PONG, ""));
    }
    client.send(frame(FIN | TEXT, "here"));
    while receive(&mut client).0 == PING {}
    // From here on it reads, but sends nothing.
    scene.expect_report("Err(ConnectionAborted)");
    scene.expect_no_client();
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let options = WebSocketOptions::new().stall(Duration::from_millis(200));
    let flood: Speak = |socket| loop {
        socket.send(vec![0; 100_000])?;
    };
    let scene = Scene::with(options.clone(), flood);
    let client = open(Client::narrow(scene.address()));
    scene.expect_report("Err(ConnectionAborted)");
    scene.expect_no_client();
    drop(client);
    // As it is while its thread reads.
    let idle: Speak = |socket| {
        while socket.sender().try_send(vec![0; 100_000]).is_ok() {}
        echo(socket)
    };
    let scene = Scene::with(options, idle);
    let client = open(Client::narrow(scene.address()));
    scene.expect_report("Err(ConnectionAborted)");
    scene.expect_no_client();
    drop(client);
}

#[test]
fn other_threads_send_whole_messages_while_one_reads() {
    let (sender, senders) = mpsc::channel::<WebSocketSender>();
    let sender = Mutex::new(sender);
    let scene = Scene::serving(move |req, _| {
        let sender = sender.lock().unwrap().clone();
        WebSocket::upgrade(req).speak(move |socket| {
            sender.send(socket.sender()).unwrap();
            echo(socket)
        })
    });
    let mut client = scene.client();
    let sender = senders.recv_timeout(DEADLINE).unwrap();
    let threads: Vec<_> = (0..4_u8)
        .map(|n| {
            let sender = sender.clone();
            spawn(move || {
                for _ in 0..50 {
                    match n % 2 {
                        0 => sender.send(vec![n; 30_000]).unwrap(),
                        _ => {
                            let send = || sender.try_send(vec![n; 30_000]);
                            eventually("there is room", || send().is_ok());
                        }
                    }
                }
            })
        })
        .collect();
    client.send(frame(FIN | TEXT, "echo"));
    let mut seen = [0; 4];
    for _ in 0..201 {
        let (opcode, said) = receive(&mut client);
        if opcode == BINARY {
            assert_eq!(said.len(), 30_000);
            assert!(said.iter().all(|byte| *byte == said[0]));
            seen[usize::from(said[0])] += 1;
        }
    }
    assert_eq!(seen, [50; 4]);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    sender.close(4001, "by another").unwrap();
    assert_eq!(expect_close(&mut client, 4001), "by another");
    client.send(close(4001, ""));
    client.expect_fin();
    scene.expect_no_client();
    // The sender outlives it, and holds nothing.
    assert_eq!(sender.try_send("x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    sender.close(1000, "").unwrap();
    eventually("it is closed", || scene.running.handle().stats().open == 0);
}

/// Each Ping is answered; but from a client that does not read the answers, no more are read.
#[test]
fn pings_without_end_hold_no_memory_without_end() {
    const MOST: usize = 64 << 20;
    let options = WebSocketOptions::new().unsent_bytes(64 << 10);
    let scene = Scene::with(options, echo);
    let mut client = open(Client::narrow(scene.address()));
    let ping = frame(FIN | PING, [b'p'; 125]);
    let many = ping.repeat(1_000);
    // Until it stops reading: the bytes on their way then are those in the kernel's buffers.
    let sent = client.send_until_blocked(&many, MOST);
    assert!(sent < MOST, "it takes Pings for ever");
    let mut twin = client.twin();
    let rest = many[sent % many.len()..][..ping.len() - sent % ping.len()].to_vec();
    let writer = spawn(move || {
        twin.send(rest);
        twin.send(frame(FIN | TEXT, "the last"));
    });
    // All of them are answered as soon as it reads the answers.
    for _ in 0..=sent / ping.len() {
        expect(&mut client, PONG, [b'p'; 125]);
    }
    expect(&mut client, TEXT, "the last");
    writer.join().unwrap();
}

#[test]
fn a_slow_client_delays_no_other() {
    let options = WebSocketOptions::new().unsent_bytes(1 << 20);
    let speak: Speak = |socket| {
        let sender = socket.sender();
        let mut sent = 0;
        let slow = loop {
            match sender.try_send(vec![b'x'; 100_000]) {
                Ok(()) => sent += 1,
                Err(e) => break e,
            }
        };
        assert_eq!(slow.kind(), ErrorKind::WouldBlock);
        // While this thread reads, the rest goes out.
        assert_eq!(socket.read()?, Some("go on".into()));
        socket.send(format!("{sent}"))?;
        echo(socket)
    };
    let scene = Scene::with(options, speak);
    let mut client = open(Client::narrow(scene.address()));
    let mut got = 0;
    // Before any byte reaches the other side.
    while got < 5 {
        assert_eq!(receive(&mut client), (BINARY, vec![b'x'; 100_000]));
        got += 1;
    }
    client.send(frame(FIN | TEXT, "go on"));
    let sent = loop {
        match receive(&mut client) {
            (BINARY, _) => got += 1,
            (_, said) => break String::from_utf8(said).unwrap(),
        }
    };
    assert_eq!(sent, got.to_string());
}

#[test]
fn a_read_timeout_loses_nothing() {
    let scene = Scene::with(WebSocketOptions::default(), |socket| {
        socket.set_read_timeout(Some(Duration::from_millis(20)));
        loop {
            match socket.read() {
                Ok(Some(message)) => break socket.send(message)?,
                Err(e) if e.kind() == ErrorKind::TimedOut => socket.send("go on")?,
                other => panic!("{other:?}"),
            }
        }
        socket.set_read_timeout(None);
        echo(socket)
    });
    let mut client = scene.client();
    let whole = frame(FIN | TEXT, "in pieces");
    for byte in &whole {
        expect(&mut client, TEXT, "go on");
        client.send([*byte]);
    }
    while receive(&mut client).1 != b"in pieces" {}
    client.send([frame(FIN | TEXT, "more"), close(1000, "")].concat());
    expect(&mut client, TEXT, "more");
    expect_close(&mut client, 1000);
    scene.expect_report("Ok(Some((1000, \"\")))");
}

#[test]
fn resets_at_every_byte_leave_nothing_behind() {
    let scene = Scene::echo();
    let bytes = [request("").into_bytes(), frame(TEXT, "a"), frame(FIN, "b"), close(1000, "")].concat();
    for n in (0..=bytes.len()).rev() {
        let mut client = Client::to(scene.address());
        client.send(&bytes[..n]);
        client.reset();
    }
    eventually("all have come", || scene.running.handle().stats().accepted >= bytes.len() as u64);
    eventually("all are closed", || scene.running.handle().stats().open == 0);
    scene.expect_no_client();
    let mut client = scene.client();
    client.send(frame(FIN | TEXT, "x"));
    expect(&mut client, TEXT, "x");
}

#[test]
fn messages_can_be_looked_at() {
    let (text, bytes): (Message, Message) = ("a".into(), vec![1, 2].into());
    assert_eq!((text.as_text(), text.as_bytes()), (Some("a"), &b"a"[..]));
    assert_eq!((bytes.as_text(), bytes.as_bytes()), (None, &[1, 2][..]));
}

/// A server whose sockets are members of a hub, and say there what they read.
fn room(options: WebSocketOptions, hub: &Broadcast<String>) -> Scene {
    let hub = hub.clone();
    Scene::serving(move |req, report| {
        let hub = hub.clone();
        WebSocket::upgrade(req).options(options.clone()).speak(move |socket| {
            let _member = hub.attach(socket.sender());
            while let Some(message) = socket.read()? {
                hub.send(message.as_text().unwrap_or_default().to_owned());
            }
            report.send(format!("{:?}", socket.closed_with())).unwrap();
            Ok(())
        })
    })
}

#[test]
fn all_members_of_a_hub_get_each_message() {
    let hub = Broadcast::new(1);
    let scene = room(WebSocketOptions::new(), &hub);
    let mut ann = scene.client();
    eventually("the first is in", || hub.len() == 1);
    let mut bob = scene.client();
    eventually("both are in", || hub.len() == 2);
    // More than its capacity: a WebSocket has a queue of its own.
    for text in ["one", "two", "three"] {
        ann.send(frame(FIN | TEXT, text));
    }
    for text in ["one", "two", "three"] {
        expect(&mut ann, TEXT, text);
        expect(&mut bob, TEXT, text);
    }
    bob.send(frame(FIN | CLOSE, 1000_u16.to_be_bytes()));
    expect(&mut bob, CLOSE, 1000_u16.to_be_bytes());
    scene.expect_report("Some((1000, \"\"))");
    eventually("it has left", || hub.len() == 1);
    assert_eq!(hub.send("four".into()), 1);
    expect(&mut ann, TEXT, "four");
    scene.running.handle().shutdown();
    let (opcode, said) = receive(&mut ann);
    assert_eq!((opcode, said.get(..2)), (CLOSE, Some(&1001_u16.to_be_bytes()[..])));
    assert_eq!(hub.send("five".into()), 0);
}

#[test]
fn a_slow_member_of_a_hub_loses_messages_or_is_closed() {
    const EACH: usize = 100_000;
    for overflow in [Overflow::DropOldest, Overflow::Disconnect] {
        let hub = Broadcast::new(1).overflow(overflow);
        let scene = room(WebSocketOptions::new().unsent_bytes(64 << 10), &hub);
        let mut slow = open(Client::narrow(scene.address()));
        eventually("it is in", || hub.len() == 1);
        let mut sent = 0;
        while hub.send("x".repeat(EACH)) == 1 {
            sent += 1;
        }
        assert_eq!(hub.len(), usize::from(overflow == Overflow::DropOldest));
        for _ in 0..sent {
            assert_eq!(receive(&mut slow).1.len(), EACH);
        }
        match overflow {
            Overflow::DropOldest => {
                // Its queue is empty now.
                eventually("it gets messages again", || hub.send("again".into()) == 1);
                expect(&mut slow, TEXT, "again");
            }
            Overflow::Disconnect => {
                let (opcode, said) = receive(&mut slow);
                assert_eq!(
                    (opcode, &*said),
                    (CLOSE, &[&1008_u16.to_be_bytes()[..], b"too slow"].concat()[..])
                );
            }
        }
    }
}

#[test]
fn a_bell_wakes_the_reading_thread() {
    let bell = Broadcast::<()>::new(1);
    let rung = bell.clone();
    let scene = Scene::serving(move |req, _| {
        let bell = rung.clone();
        WebSocket::upgrade(req).speak(move |socket| {
            let _woken = bell.wake(socket.sender());
            loop {
                match socket.read() {
                    Ok(Some(message)) => {
                        // Nobody waits in a read now.
                        (0..3).for_each(|_| assert_eq!(bell.send(()), 1));
                        socket.send(message)?;
                    }
                    Ok(None) => return Ok(()),
                    Err(e) if e.kind() == ErrorKind::TimedOut => socket.send("woken")?,
                    Err(e) => return Err(e),
                }
            }
        })
    });
    let mut client = scene.client();
    eventually("it hears the bell", || bell.send(()) == 1);
    expect(&mut client, TEXT, "woken");
    for _ in 0..20 {
        assert_eq!(bell.send(()), 1);
        expect(&mut client, TEXT, "woken");
        client.send(frame(FIN | TEXT, "x"));
        // Three rings are one.
        for wanted in ["x", "woken"] {
            expect(&mut client, TEXT, wanted);
        }
    }
    client.send(close(1000, ""));
    expect_close(&mut client, 1000);
    scene.expect_no_client();
    assert_eq!((bell.send(()), bell.len()), (0, 0));
}
