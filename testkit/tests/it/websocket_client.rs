//! A WebSocket client of another make (tungstenite) over many handovers: numbered messages both ways, in fragments with Pings between
//! them, several on their way at once. `HEIRLOOM_UPGRADES` is how many handovers there are (default 20).

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use testkit::{Addr, DEADLINE, Exit, beside, kitchen_sink, until};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::{Message, WebSocket};

/// Messages on their way.
const AT_ONCE: u64 = 4;

/// One connection, which is never made anew.
struct Client {
    socket: WebSocket<TcpStream>,
    /// Answers are the messages; otherwise they are how many there have been.
    is_echo: bool,
    sent: u64,
    heard: u64,
    pings: u64,
    pongs: u64,
}

impl Client {
    fn connect(addr: SocketAddr, path: &str) -> Client {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let (socket, _) = tungstenite::client(format!("ws://{addr}{path}"), stream).unwrap();
        Client { socket, is_echo: path == "/ws", sent: 0, heard: 0, pings: 0, pongs: 0 }
    }

    fn text(n: u64) -> String {
        let words = [1, 1, 40, 9_000][(n % 4) as usize];
        format!("message {n}; ").repeat(words)
    }

    /// Sends the next message, most of them in three fragments.
    fn say(&mut self) {
        self.sent += 1;
        let text = Client::text(self.sent).into_bytes();
        let pieces: Vec<&[u8]> =
            if self.sent % 3 == 0 { vec![&text] } else { text.chunks(text.len().div_ceil(3)).collect() };
        for (n, piece) in pieces.iter().enumerate() {
            let kind = if n == 0 { Data::Text } else { Data::Continue };
            let frame = Frame::message(piece.to_vec(), OpCode::Data(kind), n + 1 == pieces.len());
            self.socket.write(Message::Frame(frame)).unwrap();
            if n == 0 && pieces.len() > 1 && self.sent % 2 == 0 {
                self.pings += 1;
                self.socket.write(Message::Ping(self.pings.to_be_bytes().to_vec().into())).unwrap();
            }
        }
        self.socket.flush().unwrap();
    }

    fn next(&mut self) -> Message {
        loop {
            match self.socket.read() {
                // A read with a timeout is not restarted after a signal.
                Err(tungstenite::Error::Io(e)) if e.kind() == ErrorKind::Interrupted => {}
                message => return message.expect("a message"),
            }
        }
    }

    /// Takes the next answer or Pong.
    fn hear(&mut self) {
        match self.next() {
            Message::Text(text) => {
                self.heard += 1;
                let expected = if self.is_echo { Client::text(self.heard) } else { self.heard.to_string() };
                assert!(text.as_str() == expected, "{:.60} in place of {expected:.60}", text.as_str());
            }
            Message::Pong(number) => {
                let number = u64::from_be_bytes(number[..].try_into().unwrap());
                assert!(number > self.pongs && number <= self.pings, "Pong {number} after {}", self.pongs);
                self.pongs = number;
            }
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Sends and counts until `done`. Returns the number of answers, which is that of messages.
    fn count(mut self, done: &AtomicBool, answers: &AtomicU64) -> u64 {
        while !done.load(Ordering::SeqCst) || self.heard < self.sent {
            while !done.load(Ordering::SeqCst) && self.sent - self.heard < AT_ONCE {
                self.say();
            }
            if self.heard < self.sent {
                self.hear();
                answers.store(self.heard, Ordering::SeqCst);
            }
        }
        // A Ping comes before the end of its message, and a later Pong answers for all.
        assert_eq!(self.pongs, self.pings);
        self.socket.close(None).unwrap();
        while !matches!(self.next(), Message::Close(_)) {}
        self.heard
    }
}

#[test]
fn tungstenite_notices_no_handover() {
    let upgrades = std::env::var("HEIRLOOM_UPGRADES").map_or(20, |n| n.parse().expect("a number"));
    let server = kitchen_sink!("--probation-ms", "0");
    let Addr::Tcp(addr) = server.addr() else { panic!("TCP") };
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = ["/ws", "/ws/count", "/ws", "/ws/count"]
        .into_iter()
        .map(|path| {
            let (client, answers) = (Client::connect(addr, path), Arc::new(AtomicU64::new(0)));
            let (done, heard) = (Arc::clone(&done), Arc::clone(&answers));
            (beside(path, move || client.count(&done, &heard)), answers)
        })
        .collect();
    for n in 1..=upgrades {
        let before: Vec<u64> = clients.iter().map(|(_, answers)| answers.load(Ordering::SeqCst)).collect();
        let old = server.newest();
        server.handover();
        assert!(matches!(server.wait_exit(old), Exit::Status(0) | Exit::Untold), "handover {n}");
        // More than were on their way: the new process has answered.
        let is_served = |(client, answers): &(std::thread::JoinHandle<u64>, Arc<AtomicU64>), before: &u64| {
            client.is_finished() || answers.load(Ordering::SeqCst) > before + AT_ONCE
        };
        until("each client is served", || clients.iter().zip(&before).all(|(c, b)| is_served(c, b)));
    }
    done.store(true, Ordering::SeqCst);
    for (client, _) in clients {
        assert!(client.join().expect("nothing went wrong") > upgrades * AT_ONCE);
    }
}
