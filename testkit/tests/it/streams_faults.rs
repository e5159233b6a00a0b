//! Streams on their way, plain and by TLS, to or from a process that is killed at each step: a client sees an end, or goes on where
//! it was. It never sees half a frame, nor one that is missing, repeated or overtaken.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use rustls::{ClientConnection, StreamOwned};
use testkit::{Addr, DEADLINE, Pid, Signal, until};

use crate::tls_tickets::Secured;

const CLIENTS: usize = 12;

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    /// WebSocket, with numbered answers.
    Count,
    /// Numbered events.
    Events,
}

struct Client {
    wire: Box<dyn Wire>,
    speaks: Speaks,
    /// The number of the next answer or event.
    next: u64,
    /// How many messages were sent.
    sent: u64,
}

/// What becomes of a client's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    GoesOn,
    /// By the process that had it.
    Ended,
    /// With the process that had it.
    Cut,
}

impl Client {
    fn open(secured: &Secured, n: usize) -> Client {
        let connect = |addr| {
            let socket = TcpStream::connect(addr).unwrap();
            socket.set_nodelay(true).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket
        };
        let wire: Box<dyn Wire> = match n % 3 {
            0 => {
                let Some(Addr::Tcp(addr)) = secured.server.addrs().first().cloned() else { panic!("TCP") };
                Box::new(connect(addr))
            }
            n => {
                let config = secured.clients()[n - 1].clone();
                let tls = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
                Box::new(StreamOwned::new(tls, connect(secured.address())))
            }
        };
        let speaks = if n / 3 % 2 == 0 { Speaks::Count } else { Speaks::Events };
        let mut client = Client { wire, speaks, next: 1, sent: 0 };
        let request = match speaks {
            Speaks::Count => {
                "GET /ws/count HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            }
            Speaks::Events => "GET /events/travel?ms=20 HTTP/1.1\r\nHost: h\r\n\r\n",
        };
        client.wire.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert!(client.fill(&mut byte), "{}", String::from_utf8_lossy(&head));
            head.extend(byte);
        }
        client
    }

    /// False at an end before the first byte; an end behind that is in the middle of something.
    fn fill(&mut self, buf: &mut [u8]) -> bool {
        let mut at = 0;
        while at < buf.len() {
            match self.wire.read(&mut buf[at..]) {
                Ok(0) => break,
                Ok(n) => at += n,
                Err(e) => match e.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => break,
                    _ => panic!("{e}"),
                },
            }
        }
        assert!(at == 0 || at == buf.len(), "half of something: {}", buf[..at].escape_ascii());
        at == buf.len()
    }

    fn exactly(&mut self, bytes: usize) -> Vec<u8> {
        let mut buf = vec![0; bytes];
        assert!(self.fill(&mut buf), "the end, in the middle of something");
        buf
    }

    /// The end may have been noticed by a write.
    fn send(&mut self, frame: &[u8]) {
        let _ = self.wire.write_all(frame).and_then(|()| self.wire.flush());
    }

    /// A message, masked by zeros.
    fn ask(&mut self) {
        if self.speaks == Speaks::Count {
            self.sent += 1;
            self.send(b"\x81\x81\0\0\0\0?");
        }
    }

    fn note(&mut self, number: &str) {
        assert_eq!(number, self.next.to_string(), "missing, repeated or overtaken");
        self.next += 1;
    }

    /// Reads the answers to all messages, or until the end. An orderly end comes after those to all that were sent before the fault.
    fn fate_of_messages(&mut self, goes_on: bool) -> Fate {
        let before_fault = self.sent;
        self.ask();
        while !goes_on || self.next <= self.sent {
            let mut head = [0; 2];
            if !self.fill(&mut head) {
                return Fate::Cut;
            }
            let payload = self.exactly(usize::from(head[1]));
            match head[0] {
                0x81 => self.note(std::str::from_utf8(&payload).unwrap()),
                0x88 => {
                    assert_eq!(payload, 1001_u16.to_be_bytes());
                    assert!(self.next > before_fault, "a message was not answered before the Close");
                    self.send(b"\x88\x82\0\0\0\0\x03\xe9");
                    assert!(!self.fill(&mut [0]), "something comes behind a Close");
                    return Fate::Ended;
                }
                first => panic!("a frame {first:#x}"),
            }
        }
        Fate::GoesOn
    }

    /// Reads events until one comes from `survivor`, or the end.
    fn fate_of_events(&mut self, survivor: Option<Pid>) -> Fate {
        loop {
            let mut line = vec![0];
            if !self.fill(&mut line) {
                return Fate::Cut;
            }
            while !line.ends_with(b"\r\n") {
                line.extend(self.exactly(1));
            }
            let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
            let chunk = String::from_utf8(self.exactly(size + 2)).unwrap();
            if size == 0 {
                return Fate::Ended;
            }
            if chunk.starts_with(':') {
                continue;
            }
            let field =
                |name: &str| chunk.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
            assert!(chunk.ends_with("\n\n\r\n"), "{chunk:?}");
            self.note(&field("id: "));
            if survivor.is_some_and(|pid| field("data: ") == pid.to_string()) {
                return Fate::GoesOn;
            }
        }
    }

    fn fate(&mut self, survivor: Option<Pid>) -> Fate {
        match self.speaks {
            Speaks::Count => self.fate_of_messages(survivor.is_some()),
            Speaks::Events => self.fate_of_events(survivor),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Predecessor,
    Successor,
}

use Side::{Predecessor, Successor};

const SENT: &str = "handover: sent a stream";
const CAME: &str = "handover: a stream came from a predecessor";

/// By the predecessor, at its end.
const DELIVERED: (&str, &str) = ("handover: ", " connections went to the successor");

/// Hands over, stops a side at COMMIT, waits until the log has said something so often, kills a side, and lets the other one
/// continue. Returns how many streams the successor had: these share its fate, and the others that of the predecessor.
fn kill(stopped: Option<Side>, (said, n): (&str, usize), killed: Side) -> usize {
    // Idle connections are none of this.
    let secured = Secured::start(&["--probation-ms", "0"]);
    let server = &secured.server;
    let mut clients: Vec<Client> = (0..CLIENTS).map(|n| Client::open(&secured, n)).collect();
    for client in &mut clients {
        match client.speaks {
            Speaks::Count => assert_eq!(client.fate_of_messages(true), Fate::GoesOn),
            Speaks::Events => assert_eq!(client.fate_of_events(Some(server.pid())), Fate::GoesOn),
        }
    }
    let (old, new) = (server.pid(), server.hup());
    let pid_of = |side| if side == Predecessor { old } else { new };
    server.wait_for(&format!("to child {new}: COMMIT"));
    if let Some(side) = stopped {
        server.signal_to(pid_of(side), Signal::SIGSTOP);
    }
    clients.iter_mut().for_each(Client::ask);
    match n {
        0 => {}
        n => drop(server.wait_for_nth(said, n)),
    }
    server.signal_to(pid_of(killed), Signal::SIGKILL);
    // A stopped predecessor can't reap its successor.
    if let Some(side) = stopped.filter(|side| *side != killed) {
        server.signal_to(pid_of(side), Signal::SIGCONT);
    }
    server.wait_exit(pid_of(killed));
    let survivor = (killed == Predecessor).then_some(new);
    let fates: Vec<Fate> = clients.iter_mut().map(|client| client.fate(survivor)).collect();
    drop(clients);
    match killed {
        // It has nothing to wait for.
        Successor => {
            server.wait_exit(old);
            server.wait_for("end of generation 1");
        }
        Predecessor => {
            server.signal_to(new, Signal::SIGTERM);
            server.wait_exit(new);
            server.wait_for("end of generation 2");
        }
    }
    // All lines are there.
    let (sent, came) = (server.count(SENT), server.count(CAME));
    let delivered = server.lines(DELIVERED.1).first().map_or(0, |line| {
        let (before, _) = line.split_once(DELIVERED.1).unwrap();
        before.rsplit_once(DELIVERED.0).unwrap().1.parse().unwrap()
    });
    eprintln!(
        "{stopped:?} stopped, {n} times {said:?}, {killed:?} killed: {sent} sent, {came} came, {delivered} delivered: {fates:?}"
    );
    let many = |fate| fates.iter().filter(|one| **one == fate).count();
    let counts = (many(Fate::GoesOn), many(Fate::Ended), many(Fate::Cut));
    // The last one may have left, or come, when the process was killed that was to log it.
    match killed {
        Successor => {
            assert_eq!(counts, (0, CLIENTS - delivered, delivered), "{delivered} delivered");
            assert!(delivered == came || delivered == came + 1, "{delivered} delivered, {came} came");
            delivered
        }
        Predecessor => {
            assert_eq!(counts, (came, 0, CLIENTS - came), "{came} came");
            assert!(came == sent || came == sent + 1, "{came} came, {sent} sent");
            came
        }
    }
}

/// For a process that is to be stopped before a stream has moved: if some have, it was stopped too late.
fn kill_in_time(stopped: Side, step: (&str, usize), killed: Side) {
    until("it is stopped in time", || kill(Some(stopped), step, killed) == 0);
}

/// What it had acknowledged ends with it. The others come back, and end as if there were no successor.
#[test]
fn a_successor_killed_at_any_step_has_what_it_had_acknowledged() {
    kill_in_time(Predecessor, (SENT, 0), Successor);
    kill_in_time(Successor, (SENT, 4), Successor);
    for n in [1, CLIENTS / 2, CLIENTS] {
        assert!(kill(None, (CAME, n), Successor) >= n, "{n} had moved");
    }
}

/// What it had sent goes on. The others end with it.
#[test]
fn a_predecessor_killed_at_any_step_has_what_it_had_not_sent() {
    kill_in_time(Predecessor, (SENT, 0), Predecessor);
    for (stopped, said, n) in
        [(Some(Successor), SENT, 4), (None, CAME, 1), (None, CAME, CLIENTS / 2), (None, CAME, CLIENTS)]
    {
        assert!(kill(stopped, (said, n), Predecessor) >= n, "{n} were sent");
    }
}
