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

    /// What both have said in this round: each in its own order, and nothing twice.
    #[track_caller]
    fn hear_all(&mut self, round: usize) {
        let mut next = [0; 2];
        while next != [10; 2] {
            let Message::Text(text) = self.next() else { panic!("no text") };
            let said =
                ["guest 1: a", "guest 2: b"].map(|said| text.as_str().strip_prefix(said).map(str::to_owned));
            let Some(who) = said.iter().position(Option::is_some) else { continue };
            assert_eq!(said[who].as_deref(), Some(&*format!(" {round} {}", next[who])));
            next[who] += 1;
        }
    }

    #[track_caller]
    fn hear_next(&mut self, wanted: &str) {
        let Message::Text(text) = self.next() else { panic!("no text") };
        assert_eq!(text.as_str(), wanted);
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
fn guests_hear_each_other_over_upgrades() {
    let server = chat();
    let mut ann = Guest::enter(&server);
    ann.hear("guest 1 is here");
    let mut bob = Guest::enter(&server);
    ann.hear("guest 2 is here");
    bob.say("hello");
    ann.hear("guest 2: hello");
    bob.hear("guest 2: hello");
    let mut eve = Guest::enter(&server);
    eve.0.send(Message::binary(vec![1])).expect("sent");
    assert_eq!(eve.hear_close(), CloseCode::Unsupported);
    ann.hear("guest 3 has left");
    for n in 0..3 {
        server.signal_to(server.newest(), Signal::SIGHUP);
        // While they move: each is in another room for a moment.
        for m in 0..10 {
            ann.say(&format!("a {n} {m}"));
            bob.say(&format!("b {n} {m}"));
        }
        server.settled();
        for guest in [&mut ann, &mut bob] {
            guest.hear_all(n);
        }
    }
    server.stop();
    assert_eq!(ann.hear_close(), CloseCode::Away);
}

#[test]
fn a_browser_is_a_guest_before_and_after_an_upgrade() {
    let server = chat();
    let mut ann = Guest::enter(&server);
    let Addr::Tcp(addr) = server.addr() else { panic!("no address") };
    let Some(browser) = Browser::open(&format!("http://{addr}/")) else { return };
    ann.hear("guest 2 is here");
    server.signal(Signal::SIGHUP);
    ann.say("after it");
    ann.hear("guest 1: after it");
    server.settled();
    // It has not left meanwhile, or would come as another guest.
    drop(browser);
    ann.hear_next("guest 2 has left");
}
