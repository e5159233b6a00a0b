//! Clients of other makes keep their WebSockets and event streams over ten handovers, plain and over TLS: Python's
//! `websockets`, node's `ws`, `tungstenite`, and a browser. What the others do is in `stream_clients/`. In each handover a message
//! is under way, and others are sent, Pings too. None of them connects again, and none sees an end. `HEIRLOOM_UPGRADES` is how many
//! handovers there are (default 10).

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use rustls::{ClientConnection, StreamOwned};
use serde_json::json;
use testkit::{Browser, DEADLINE, lacks, skip, until};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::{Error, Message, WebSocket};

use crate::outside::{Outside, Relay, Scene, handovers};

/// What a client does in each generation. `meanwhile` is asked while a handover is under way.
#[track_caller]
fn notices_nothing(
    scene: &Scene,
    mut ask: impl FnMut(&str) -> String,
    mut meanwhile: impl FnMut(&mut dyn FnMut(&str) -> String),
) {
    let mut messages = 0;
    let handovers = handovers();
    for n in 0..=handovers {
        assert_eq!(ask("pid"), scene.server.newest().to_string());
        messages += 1;
        assert_eq!(ask("count"), messages.to_string());
        assert_eq!(ask("echo"), "same");
        if n < handovers {
            assert_eq!(ask("begin"), "begun");
            scene.hand_over(|| {
                meanwhile(&mut ask);
                messages += 1;
                assert_eq!(ask("count"), messages.to_string());
            });
            assert_eq!(ask("end"), "same");
        }
    }
    assert_eq!(ask("close"), "1000 1000");
}

#[track_caller]
fn pings(ask: &mut dyn FnMut(&str) -> String) {
    assert_eq!(ask("ping"), "pong");
}

/// Debian's node finds its libraries there by itself.
const LIBRARIES: (&str, &str) = ("NODE_PATH", "/usr/share/nodejs");

/// The first of the programs that has a library; the others may be there without it.
fn with_library(programs: &[&'static str], flag: &str, use_it: &str, package: &str) -> Option<&'static str> {
    let has = |program: &&&'static str| {
        let output = Command::new(program).args([flag, use_it]).env(LIBRARIES.0, LIBRARIES.1).output();
        output.is_ok_and(|output| output.status.success())
    };
    let found = programs.iter().find(has).copied();
    if found.is_none() {
        skip(&format!("this test needs {package}"));
    }
    found
}

fn keeps_its_websockets(program: &str, file: &str) {
    for tls in [false, true] {
        let scene = Scene::start();
        let relay = Relay::to(scene.address_of(tls));
        let scheme = if tls { "wss" } else { "ws" };
        let mut client = Outside::start(program, |command| {
            let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/stream_clients");
            command.arg(format!("{directory}/{file}")).arg(format!("{scheme}://localhost:{}", relay.port));
            command.arg(scene.authority.file()).env(LIBRARIES.0, LIBRARIES.1).env("NO_PROXY", "localhost")
        });
        notices_nothing(&scene, |line| client.ask(line), pings);
        assert_eq!(relay.connections(), 2);
        client.end();
    }
}

#[test]
fn websockets_of_python_outlive_the_process() {
    let programs = ["python3", "/usr/bin/python3"];
    let Some(python) = with_library(&programs, "-c", "import websockets", "python3-websockets") else {
        return;
    };
    keeps_its_websockets(python, "client.py");
}

#[test]
fn websockets_of_node_outlive_the_process() {
    if lacks("node") {
        return;
    }
    let programs = ["node", "/usr/bin/node"];
    let Some(node) = with_library(&programs, "-e", "require('ws')", "node-ws") else { return };
    keeps_its_websockets(node, "client.js");
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Short frames are sent byte by byte: over TLS each byte is a record.
struct ByteByByte(Box<dyn Stream>);

impl Read for ByteByByte {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for ByteByByte {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = if buf.len() < 1000 { 1 } else { buf.len() };
        let n = self.0.write(&buf[..n])?;
        self.0.flush()?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

struct Tungstenite(WebSocket<ByteByByte>);

impl Tungstenite {
    fn open(scene: &Scene, tls: bool, path: &str) -> Tungstenite {
        let socket = TcpStream::connect(scene.address_of(tls)).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let stream: Box<dyn Stream> = if tls {
            let session =
                ClientConnection::new(scene.authority.trusted().config(), "localhost".try_into().unwrap());
            Box::new(StreamOwned::new(session.unwrap(), socket))
        } else {
            Box::new(socket)
        };
        let url = format!("ws://localhost{path}");
        Tungstenite(tungstenite::client(url, ByteByByte(stream)).unwrap().0)
    }

    #[track_caller]
    fn ask(&mut self, message: Message) -> Message {
        self.0.send(message).unwrap();
        self.0.read().unwrap()
    }

    #[track_caller]
    fn ask_text(&mut self, text: &str) -> String {
        self.ask(Message::text(text)).into_text().unwrap().to_string()
    }

    fn fragment(&mut self, data: Data, text: &str, is_last: bool) {
        let frame = Frame::message(text.to_owned(), OpCode::Data(data), is_last);
        self.0.send(Message::Frame(frame)).unwrap();
    }

    #[track_caller]
    fn ping(&mut self) {
        let payload = b"a Ping".to_vec();
        assert_eq!(self.ask(Message::Ping(payload.clone().into())), Message::Pong(payload.into()));
    }

    fn close(&mut self) -> CloseCode {
        self.0.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).unwrap();
        let Message::Close(Some(answer)) = self.0.read().unwrap() else { panic!("not closed") };
        assert!(matches!(self.0.read(), Err(Error::ConnectionClosed)));
        answer.code
    }
}

#[test]
fn websockets_of_tungstenite_outlive_the_process() {
    for tls in [false, true] {
        let scene = Scene::start();
        let [mut echo, mut count] = ["/ws", "/ws/count"].map(|path| Tungstenite::open(&scene, tls, path));
        let text = "grüß dich, 世界 😀 ".repeat(5000);
        let mut client = |line: &str| match line {
            "pid" => echo.ask_text("pid"),
            "count" => count.ask_text("any"),
            "ping" => {
                [&mut echo, &mut count].into_iter().for_each(Tungstenite::ping);
                "pong".to_owned()
            }
            "echo" => {
                for message in [Message::text(&*text), Message::text(""), Message::binary(text.clone())] {
                    assert!(echo.ask(message.clone()) == message);
                }
                "same".to_owned()
            }
            "begin" => {
                echo.fragment(Data::Text, "one ", false);
                echo.fragment(Data::Continue, "", false);
                echo.ping();
                echo.fragment(Data::Continue, "zwölf ", false);
                "begun".to_owned()
            }
            "end" => {
                echo.fragment(Data::Continue, "three", true);
                assert_eq!(echo.0.read().unwrap(), Message::text("one zwölf three"));
                "same".to_owned()
            }
            "close" => format!("{} {}", echo.close(), count.close()),
            other => panic!("{other}"),
        };
        notices_nothing(&scene, &mut client, pings);
    }
}

/// Over one connection each: the relay counts those that the server ends.
#[test]
fn streams_of_a_browser_outlive_the_process() {
    for tls in [false, true] {
        let scene = Scene::start();
        let relay = Relay::to(scene.address_of(tls));
        let scheme = if tls { "https" } else { "http" };
        let url = format!("{scheme}://localhost:{}/", relay.port);
        let Some(browser) = Browser::open_with(&url, &["--ignore-certificate-errors"]) else { return };
        let mut page = browser.page();
        until("the page is there", || page.evaluate("document.body.innerText") == "Hello, World!");
        page.evaluate(include_str!("stream_clients/page.js"));
        let mut ask = |line: &str| {
            let expression = format!("ask({})", json!(line));
            let call = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
            let result = page.call("Runtime.evaluate", call);
            result["result"]["value"].as_str().unwrap_or_else(|| panic!("{line}: {result}")).to_owned()
        };
        notices_nothing(&scene, &mut ask, |ask| assert!(ask("event").parse::<u32>().is_ok()));
        let newest = scene.server.newest().to_string();
        until("the events come from the last process", || ask("event") == newest);
        assert_eq!(page.evaluate("problems.join()"), "");
        // The page has closed its WebSockets, and the server has ended their connections.
        assert!(relay.ended_by_server() <= 2);
    }
}
