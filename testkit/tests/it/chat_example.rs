//! The chat example: guests get each other's messages, over a handover too, and its page works in a real browser.

use std::io::ErrorKind;
use std::net::TcpStream;

use testkit::{Addr, Browser, DEADLINE, Proc, Signal};
use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;

struct Guest(tungstenite::WebSocket<TcpStream>);

impl Guest {
    fn enter(server: &Proc) -> Guest {
        let Addr::Tcp(addr) = server.addr() else { panic!("no address") };
        let stream = TcpStream::connect(addr).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
        Guest(tungstenite::client(format!("ws://{addr}/chat"), stream).expect("a handshake").0)
    }

    fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).expect("sent");
    }

    #[track_caller]
    fn next(&mut self) -> Message {
        loop {
            match self.0.read() {
                // A read with a timeout is not restarted after a signal.
                Err(tungstenite::Error::Io(e)) if e.kind() == ErrorKind::Interrupted => {}
                message => return message.expect("a message"),
            }
        }
    }

    /// Skips the messages before it.
    #[track_caller]
    fn hear(&mut self, wanted: &str) {
        loop {
            match self.next() {
                Message::Text(text) if text.as_str() == wanted => return,
                Message::Close(close) => panic!("closed: {close:?}"),
                _ => {}
            }
        }
    }

    #[track_caller]
    fn hear_close(&mut self) -> CloseCode {
        loop {
            if let Message::Close(close) = self.next() {
                break close.expect("a code").code;
            }
        }
    }
}

fn chat() -> Proc {
    Proc::start_as_said(env!("CARGO_BIN_EXE_websocket_chat"), &["127.0.0.1:0"])
}

#[test]
fn guests_hear_each_other_and_are_sent_on_at_a_handover() {
    let server = chat();
    let mut ann = Guest::enter(&server);
    ann.hear("guest 1 is here");
    let mut bob = Guest::enter(&server);
    ann.hear("guest 2 is here");
    bob.say("hello");
    ann.hear("guest 2: hello");
    bob.hear("guest 2: hello");
    bob.0.send(Message::binary(vec![1])).expect("sent");
    assert_eq!(bob.hear_close(), CloseCode::Unsupported);
    ann.hear("guest 2 has left");
    server.signal(Signal::SIGHUP);
    assert_eq!(ann.hear_close(), CloseCode::Away);
    let mut ann = Guest::enter(&server);
    ann.hear("guest 1 is here");
    server.settled();
    server.stop();
    assert_eq!(ann.hear_close(), CloseCode::Away);
}

#[test]
fn a_browser_is_a_guest_before_and_after_an_upgrade() {
    let server = chat();
    let mut ann = Guest::enter(&server);
    let Addr::Tcp(addr) = server.addr() else { panic!("no address") };
    let Some(_browser) = Browser::open(&format!("http://{addr}/")) else { return };
    ann.hear("guest 2 is here");
    server.signal(Signal::SIGHUP);
    assert_eq!(ann.hear_close(), CloseCode::Away);
    // The browser connects again by itself, before or after us.
    let mut ann = Guest::enter(&server);
    ann.hear("guest 2 is here");
    drop(ann);
}
