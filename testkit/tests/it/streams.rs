//! WebSockets and event streams outlive their process: the client sees no end, no message is lost, repeated or overtaken,
//! and a stream that can't move ends as before, after what the client had sent was answered.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use testkit::handover::{Packet, Part, Understudy};
use testkit::{Addr, DEADLINE, Exit, Pid, Proc, Signal, beside, copy_program, kitchen_sink, until};

use crate::TESTKIT;

const TEXT: u8 = 0x81;
const START: u8 = 0x01;
const MIDDLE: u8 = 0x00;
const LAST: u8 = 0x80;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// A client, byte by byte.
struct Peer(TcpStream);

impl Peer {
    fn ask(server: &Proc, request: &str) -> Peer {
        let Addr::Tcp(addr) = server.addr() else { panic!("TCP") };
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(format!("GET {request}\r\n\r\n").as_bytes()).unwrap();
        let mut peer = Peer(stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(peer.exactly(1));
        }
        peer
    }

    fn open(server: &Proc, path: &str) -> Peer {
        let fields = "Host: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        Peer::ask(server, &format!("{path} HTTP/1.1\r\n{fields}"))
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    #[track_caller]
    fn exactly(&mut self, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        let mut at = 0;
        while at < bytes {
            match self.0.read(&mut read[at..]) {
                Ok(0) => panic!("the end after {:?}", read[..at].escape_ascii().to_string()),
                Ok(n) => at += n,
                // A read with a timeout is not restarted after a signal.
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => panic!("{e}"),
            }
        }
        read
    }

    /// The first byte of the next frame, and its payload.
    #[track_caller]
    fn frame(&mut self) -> (u8, Vec<u8>) {
        let [first, len] = self.exactly(2)[..] else { unreachable!() };
        let len = match len {
            126 => usize::from(u16::from_be_bytes(self.exactly(2).try_into().unwrap())),
            127 => u64::from_be_bytes(self.exactly(8).try_into().unwrap()) as usize,
            len => usize::from(len),
        };
        (first, self.exactly(len))
    }

    #[track_caller]
    fn text(&mut self) -> String {
        let (first, payload) = self.frame();
        assert_eq!(first, TEXT, "{}", payload.escape_ascii());
        String::from_utf8(payload).unwrap()
    }

    #[track_caller]
    fn answer(&mut self, message: &str) -> String {
        self.send(frame(TEXT, message));
        self.text()
    }

    #[track_caller]
    fn served_by(&mut self, pid: Pid) {
        assert_eq!(self.answer("pid"), pid.to_string());
    }

    #[track_caller]
    fn expect_going_away(&mut self) {
        assert_eq!(self.frame(), (CLOSE, 1001_u16.to_be_bytes().to_vec()));
        self.send(frame(CLOSE, 1001_u16.to_be_bytes()));
        assert_eq!(self.0.read(&mut [0]).unwrap(), 0);
    }

    /// The next event that comes as a chunk.
    #[track_caller]
    fn chunked_event(&mut self) -> String {
        loop {
            let mut size = Vec::new();
            while !size.ends_with(b"\r\n") {
                size.extend(self.exactly(1));
            }
            let size = usize::from_str_radix(std::str::from_utf8(&size).unwrap().trim(), 16).unwrap();
            assert!(size > 0, "the last chunk");
            let chunk = String::from_utf8(self.exactly(size + 2)).unwrap();
            if !chunk.starts_with(':') {
                return chunk;
            }
        }
    }

    /// The next event that comes without framing.
    #[track_caller]
    fn bare_event(&mut self) -> String {
        let mut event = Vec::new();
        while !event.ends_with(b"\n\n") {
            event.extend(self.exactly(1));
            if event.starts_with(b":") && event.ends_with(b"\n") {
                event.clear();
            }
        }
        String::from_utf8(event).unwrap()
    }

    /// The next event of `/events/travel`: its id, and the pid of the process that has sent it.
    #[track_caller]
    fn event(&mut self) -> (u64, i32) {
        id_and_pid(&self.chunked_event())
    }
}

fn id_and_pid(event: &str) -> (u64, i32) {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    (field("id: ").parse().unwrap(), field("data: ").parse().unwrap())
}

/// A frame as a client masks it; the first byte as given.
fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let (mask, payload) = ([0xa1, 0x02, 0xff, 0x5c], payload.as_ref());
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..0x10000 => bytes.extend([&[0xfe][..], &(len as u16).to_be_bytes()].concat()),
        len => bytes.extend([&[0xff][..], &(len as u64).to_be_bytes()].concat()),
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The old process has nothing to wait for, whatever its streams were doing.
#[track_caller]
fn hand_over(server: &Proc) -> Pid {
    let old = server.newest();
    let new = server.handover();
    assert!(matches!(server.wait_exit(old), Exit::Status(0) | Exit::Untold));
    new
}

#[test]
fn clients_notice_nothing_over_ten_handovers() {
    let server = kitchen_sink!("--probation-ms", "0");
    let (mut echo, mut count) = (Peer::open(&server, "/ws"), Peer::open(&server, "/ws/count"));
    let mut events = Peer::ask(&server, "/events/travel?ms=1 HTTP/1.1\r\nHost: h");
    let mut id = 0;
    for n in 1..=10_u64 {
        echo.served_by(server.newest());
        assert_eq!(count.answer("any"), (2 * n - 1).to_string());
        let new = hand_over(&server);
        echo.served_by(new);
        assert_eq!(count.answer("any"), (2 * n).to_string());
        loop {
            let (next, pid) = events.event();
            id += 1;
            assert_eq!(next, id);
            if pid == new.as_raw() {
                break;
            }
        }
    }
}

#[test]
fn another_protocol_moves_with_the_bytes_not_read_yet() {
    const AT_ONCE: u64 = 300;
    let server = Proc::start_as_said(TESTKIT, &["counter"]);
    let mut peer = Peer::ask(&server, "/count HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: count");
    let mut n = 0;
    let mut answered_by = |peer: &mut Peer| {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            line.extend(peer.exactly(1));
        }
        let line = String::from_utf8(line).unwrap();
        let (number, pid) = line.trim_end().split_once(' ').unwrap();
        n += 1;
        assert_eq!(number, n.to_string());
        Pid::from_raw(pid.parse().unwrap())
    };
    for _ in 0..10 {
        peer.send([b'.'; AT_ONCE as usize]);
        let new = hand_over(&server);
        for _ in 0..AT_ONCE {
            answered_by(&mut peer);
        }
        peer.send(".");
        assert_eq!(answered_by(&mut peer), new);
    }
}

/// None has anything to say or a timeout: the handover alone wakes them.
#[test]
fn another_protocol_that_waits_without_a_timeout_moves() {
    const PEERS: usize = 32;
    let server = Proc::start_as_said(TESTKIT, &["counter"]);
    let request = "/count HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: count";
    let mut peers: Vec<Peer> = (0..PEERS).map(|_| Peer::ask(&server, request)).collect();
    for generation in 1..=3 {
        let new = hand_over(&server);
        server.wait_for_nth(&format!("handover: {PEERS} connections went to the successor"), generation);
        for peer in &mut peers {
            peer.send(".");
            let line = format!("{generation} {new}\n");
            assert_eq!(peer.exactly(line.len()), line.as_bytes());
        }
    }
}

#[test]
fn half_a_frame_is_carried_wherever_it_is_cut() {
    let server = kitchen_sink!("--probation-ms", "0");
    let text = "x".repeat(300);
    let whole = frame(TEXT, &text);
    let cuts = [1, 2, 3, 4, 7, 8, 9, whole.len() - 1];
    let mut peers: Vec<Peer> = cuts.iter().map(|_| Peer::open(&server, "/ws")).collect();
    for (peer, cut) in peers.iter_mut().zip(cuts) {
        assert_eq!(peer.answer("first"), "first");
        peer.send(&whole[..cut]);
    }
    hand_over(&server);
    for (peer, cut) in peers.iter_mut().zip(cuts) {
        peer.send(&whole[cut..]);
        assert_eq!(peer.text(), text, "{cut}");
    }
}

/// One that is longer than a packet.
#[test]
fn half_a_long_frame_is_carried() {
    let server = kitchen_sink!("--probation-ms", "0");
    let text = "y".repeat(3 << 20);
    let whole = frame(TEXT, &text);
    let mut peer = Peer::open(&server, "/ws");
    for cut in [70_000, whole.len() - 1] {
        peer.send(&whole[..cut]);
        hand_over(&server);
        peer.send(&whole[cut..]);
        assert!(peer.text() == text, "{cut}");
    }
}

#[test]
fn fragments_are_carried_without_what_was_between_them() {
    let server = kitchen_sink!("--probation-ms", "0");
    let (mut echo, mut count) = (Peer::open(&server, "/ws"), Peer::open(&server, "/ws/count"));
    for peer in [&mut echo, &mut count] {
        peer.send([frame(START, "one "), frame(PING, "1"), frame(MIDDLE, "two ")].concat());
        assert_eq!(peer.frame(), (PONG, b"1".to_vec()));
    }
    hand_over(&server);
    for peer in [&mut echo, &mut count] {
        // Half a Ping.
        peer.send(&frame(PING, "22")[..7]);
    }
    hand_over(&server);
    for peer in [&mut echo, &mut count] {
        peer.send([&frame(PING, "22")[7..], &frame(MIDDLE, "three ")].concat());
        assert_eq!(peer.frame(), (PONG, b"22".to_vec()));
    }
    hand_over(&server);
    for peer in [&mut echo, &mut count] {
        peer.send(frame(LAST, "four"));
    }
    assert_eq!((&*echo.text(), &*count.text()), ("one two three four", "1"));
    echo.served_by(server.newest());
}

#[test]
fn half_a_close_is_carried() {
    let server = kitchen_sink!("--probation-ms", "0");
    let close = frame(CLOSE, [&1000_u16.to_be_bytes()[..], b"bye"].concat());
    let cuts = [1, 2, 5, close.len() - 1];
    let mut peers: Vec<Peer> = cuts.iter().map(|_| Peer::open(&server, "/ws")).collect();
    for (peer, cut) in peers.iter_mut().zip(cuts) {
        peer.send([&frame(START, "never complete"), &close[..cut]].concat());
    }
    hand_over(&server);
    for (peer, cut) in peers.iter_mut().zip(cuts) {
        peer.send(&close[cut..]);
        assert_eq!(peer.frame(), (CLOSE, [&1000_u16.to_be_bytes()[..], b"bye"].concat()));
        assert_eq!(peer.0.read(&mut [0]).unwrap(), 0, "{cut}");
    }
}

/// HTTP/1.0: nothing but the close frames the body.
#[test]
fn events_that_end_with_their_connection_move() {
    let server = kitchen_sink!("--probation-ms", "0");
    let mut events = Peer::ask(&server, "/events/travel?ms=1 HTTP/1.0\r\nHost: h");
    let mut id = 0;
    for _ in 0..3 {
        let new = hand_over(&server);
        loop {
            let (next, pid) = id_and_pid(&events.bare_event());
            id += 1;
            assert_eq!(next, id);
            if pid == new.as_raw() {
                break;
            }
        }
    }
    server.signal_to(server.newest(), Signal::SIGTERM);
    let mut rest = String::new();
    events.0.read_to_string(&mut rest).unwrap();
    assert!(rest.is_empty() || rest.ends_with("\n\n"), "{rest:?}");
}

/// Its code answers only after two more generations have started: then the newest one reads the first one's channel. With
/// the longest state that there may be.
#[test]
fn a_stream_that_leaves_late_goes_to_the_newest_generation() {
    let directory = tempfile::tempdir().unwrap();
    let gate = directory.path().join("gate");
    mkfifo(&gate, Mode::S_IRWXU).unwrap();
    let server = Proc::start_as_said(TESTKIT, &["latecomer", gate.to_str().unwrap()]);
    let first = server.pid();
    let mut peer = Peer::open(&server, "/late");
    assert_eq!(peer.answer("a"), format!("1 {first}"));
    let second = server.handover();
    server.wait_for("at the gate");
    peer.send(&frame(TEXT, "b")[..3]);
    let third = server.handover();
    assert!(matches!(server.wait_exit(second), Exit::Status(0) | Exit::Untold));
    peer.send(&frame(TEXT, "b")[3..]);
    fs::write(&gate, "").unwrap();
    assert_eq!(peer.text(), format!("2 {third}"));
    assert_eq!(server.wait_exit(first), Exit::Status(0));
    // From there it moves as any other.
    let fourth = hand_over(&server);
    assert_eq!(peer.answer("c"), format!("3 {fourth}"));
}

/// All that the hub of a process has sent before the stream leaves is there before what the next one's hub sends.
#[test]
fn a_stream_that_follows_a_hub_moves() {
    let server = Proc::start_as_said(TESTKIT, &["latecomer", "/dev/null"]);
    let mut events = Peer::ask(&server, "/news HTTP/1.1\r\nHost: h");
    let mut odd = Peer::open(&server, "/odd");
    assert_eq!(odd.answer("a"), format!("1 {}", server.pid()));
    let mut n = 0;
    for _ in 0..3 {
        until("it listens", || server.get("/members").ok().text() == "1");
        let said = 10;
        for value in n..n + said {
            assert_eq!(server.get(&format!("/say/{value}")).ok().text(), "1");
        }
        let old = server.newest();
        server.handover();
        if n == 0 {
            // Its name is that of event streams.
            odd.expect_going_away();
        }
        assert!(matches!(server.wait_exit(old), Exit::Status(0) | Exit::Untold));
        for value in n..n + said {
            assert_eq!(events.chunked_event(), format!("data: {value}\n\n\r\n"));
        }
        n += said;
    }
}

/// The server waits in `send` when the handover comes.
#[test]
fn a_client_that_does_not_read_meanwhile_misses_nothing() {
    let server = kitchen_sink!("--probation-ms", "0");
    let mut peer = Peer::open(&server, "/ws");
    peer.0.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let message = |n: usize| format!("{n:60000}");
    // Until no side takes more.
    let (mut sent, mut rest) = (0, Vec::new());
    while rest.is_empty() {
        rest = frame(TEXT, message(sent));
        sent += 1;
        while !rest.is_empty() {
            match peer.0.write(&rest) {
                Ok(n) => drop(rest.drain(..n)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
        }
    }
    let new = server.handover();
    let mut sends = peer.0.try_clone().unwrap();
    sends.set_write_timeout(Some(DEADLINE)).unwrap();
    beside("the rest", move || sends.write_all(&rest).unwrap());
    for n in 0..sent {
        assert!(peer.text() == message(n), "{n} of {sent}");
    }
    peer.served_by(new);
}

#[test]
fn a_stream_without_a_name_ends_as_before() {
    let server = kitchen_sink!("--probation-ms", "0");
    let (mut stays, mut moves) = (Peer::open(&server, "/ws/stay"), Peer::open(&server, "/ws"));
    assert_eq!((&*stays.answer("a"), &*moves.answer("b")), ("a", "b"));
    let new = server.handover();
    stays.expect_going_away();
    moves.served_by(new);
    server.signal_to(new, Signal::SIGTERM);
    moves.expect_going_away();
}

/// A generation 1 whose successors are played.
struct Watched {
    server: Proc,
    understudy: Understudy,
    _directory: tempfile::TempDir,
}

impl Watched {
    fn start() -> Watched {
        let directory = tempfile::tempdir().unwrap();
        let understudy = Understudy::new(directory.path());
        let program = directory.path().join("program");
        copy_program(env!("CARGO_BIN_EXE_kitchen_sink"), &program);
        let mut command = Command::new(&program);
        command.args(["--listen", "127.0.0.1:0", "--probation-ms", "0"]);
        command.env("TESTKIT_PUPPET", understudy.socket());
        let server = Proc::start_command(command);
        understudy.take_over(Path::new(TESTKIT), &program).unwrap();
        Watched { server, understudy, _directory: directory }
    }

    /// A successor until it accepts, which says this of itself.
    fn until_serving(&self, prepared: &str, credit: &str) -> Part {
        self.server.signal(Signal::SIGHUP);
        let mut part = self.understudy.step_in();
        let lifecycle = &mut part.ends.lifecycle;
        assert!(lifecycle.hear().unwrap().starts_with("HELLO "));
        lifecycle.say("HELLO version=1 generation=2 pid=1 nohup=0 blocked=");
        lifecycle.say(&format!("PREPARED adopted=127.0.0.1:0 {prepared}"));
        part.ends.connections.send(format!("{credit}\n").as_bytes(), &[]);
        assert!(lifecycle.hear().unwrap().starts_with("GO "));
        lifecycle.say("SERVING");
        part
    }

    fn until_commit(&self, prepared: &str, credit: &str) -> Part {
        let mut part = self.until_serving(prepared, credit);
        part.ends.lifecycle.say("STILL-GOOD");
        assert_eq!(part.ends.lifecycle.hear().as_deref(), Some("COMMIT"));
        part
    }
}

/// The next packet that is about connections.
#[track_caller]
fn packet(part: &Part) -> Packet {
    loop {
        let packet = part.ends.connections.receive().expect("a packet");
        if !packet.bytes.starts_with(b"COUNTS ") && !packet.bytes.starts_with(b"TICKETS ") {
            return packet;
        }
    }
}

fn batch(packet: &Packet) -> String {
    let line = String::from_utf8_lossy(&packet.bytes).lines().next().unwrap().to_owned();
    line.split(' ').find_map(|word| word.strip_prefix("batch=")).expect("a batch").to_owned()
}

const RESUMES: &str = "records=1 resumes=count,echo,other";
const CREDIT: &str = "CREDIT n=256 streams=1";

/// The state and the unread bytes come back with a stream, and this process continues it: nothing is lost.
#[test]
fn what_the_successor_refuses_is_continued_here() {
    let watched = Watched::start();
    let (mut counted, mut echo) =
        (Peer::open(&watched.server, "/ws/count"), Peer::open(&watched.server, "/ws"));
    assert_eq!((&*counted.answer("one"), &*echo.answer("a")), ("1", "a"));
    let half = frame(TEXT, "three");
    let part = watched.until_commit(RESUMES, CREDIT);
    for _ in 0..2 {
        let stream = packet(&part);
        assert!(stream.bytes.starts_with(b"STREAM batch="), "{}", stream.bytes.escape_ascii());
        if stream.bytes.windows(5).any(|run| run == b"count") {
            // Both processes are asleep on it.
            counted.send([&frame(TEXT, "two")[..], &half[..5]].concat());
        }
        part.ends
            .connections
            .send(format!("NAK batch={} never=1 streams=1\n", batch(&stream)).as_bytes(), &[]);
    }
    assert_eq!(counted.text(), "2", "with the state that it had");
    counted.expect_going_away();
    echo.expect_going_away();
    assert_eq!(watched.server.wait_exit(watched.server.pid()), Exit::Status(0));
}

#[test]
fn what_is_on_its_way_to_a_dead_successor_is_continued_here() {
    let watched = Watched::start();
    let mut echo = Peer::open(&watched.server, "/ws");
    assert_eq!(echo.answer("a"), "a");
    let part = watched.until_commit(RESUMES, CREDIT);
    // It has read it, and has not acknowledged it.
    let stream = packet(&part);
    let text = String::from_utf8_lossy(&stream.bytes).into_owned();
    assert!(text.starts_with("STREAM batch=") && text.contains(" name=echo kind=websocket "), "{text}");
    drop((stream, part));
    echo.expect_going_away();
    assert_eq!(watched.server.wait_exit(watched.server.pid()), Exit::Status(0));
}

/// Nobody else continues what a process has acknowledged.
#[test]
fn what_a_successor_has_acknowledged_ends_with_it() {
    let watched = Watched::start();
    let mut echo = Peer::open(&watched.server, "/ws");
    assert_eq!(echo.answer("a"), "a");
    let part = watched.until_commit(RESUMES, CREDIT);
    let stream = packet(&part);
    let ack = format!("ACK batch={} credit=0 streams=1\n", batch(&stream));
    part.ends.connections.send(ack.as_bytes(), &[]);
    drop((stream, part));
    assert_eq!(watched.server.wait_exit(watched.server.pid()), Exit::Status(0));
    assert!(!echo.0.read(&mut [0]).is_ok_and(|n| n > 0), "something after its end");
}

#[test]
fn a_refusal_that_comes_late_gives_nothing_back() {
    let watched = Watched::start();
    let mut echo = Peer::open(&watched.server, "/ws");
    assert_eq!(echo.answer("a"), "a");
    let part = watched.until_commit(RESUMES, CREDIT);
    let mut stream = packet(&part);
    let batch = batch(&stream);
    for receipt in
        ["ACK batch=B credit=0", "NAK batch=B never=0", "NAK batch=B never=1", "ACK batch=B credit=9"]
    {
        let receipt = format!("{} streams=1\n", receipt.replace('B', &batch));
        part.ends.connections.send(receipt.as_bytes(), &[]);
    }
    assert_eq!(watched.server.wait_exit(watched.server.pid()), Exit::Status(0));
    // It is alive, and ours alone.
    let message = frame(TEXT, "b");
    echo.send(&message);
    let ours = TcpStream::from(stream.fds.remove(0));
    ours.set_nonblocking(false).unwrap();
    ours.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut ours = Peer(ours);
    assert_eq!(ours.exactly(message.len()), message);
    ours.send([TEXT, 1, b'c']);
    assert_eq!(echo.text(), "c");
}

/// 4a81a84 says neither; a later generation of that version may get the channel of one that has said the first.
#[test]
fn a_version_without_streams_gets_none() {
    for (prepared, credit) in
        [("", "CREDIT n=256"), (RESUMES, "CREDIT n=256"), ("resumes=other", CREDIT), ("", CREDIT)]
    {
        let watched = Watched::start();
        let mut echo = Peer::open(&watched.server, "/ws");
        assert_eq!(echo.answer("a"), "a");
        let part = watched.until_commit(prepared, credit);
        echo.expect_going_away();
        assert_eq!(watched.server.wait_exit(watched.server.pid()), Exit::Status(0));
        while let Some(packet) = part.ends.connections.receive() {
            assert!(!packet.bytes.starts_with(b"STREAM"), "{}", packet.bytes.escape_ascii());
        }
    }
}

#[test]
fn a_successor_that_fails_on_probation_is_noticed_by_nobody() {
    let watched = Watched::start();
    let mut echo = Peer::open(&watched.server, "/ws");
    let mut events = Peer::ask(&watched.server, "/events/travel?ms=1 HTTP/1.1\r\nHost: h");
    for n in 2..5 {
        let mut part = watched.until_serving(RESUMES, CREDIT);
        echo.served_by(watched.server.pid());
        part.ends.lifecycle.say("FAILED reason=test");
        drop(part);
        watched.server.wait_for_nth("serving as generation 1", n);
        echo.served_by(watched.server.pid());
    }
    for id in 1..100 {
        assert_eq!(events.event(), (id, watched.server.pid().as_raw()));
    }
    // A stop afterwards is one.
    watched.server.signal(Signal::SIGTERM);
    echo.expect_going_away();
}

/// Killed at any moment: the client sees an end, and never half a frame.
#[test]
fn a_killed_process_takes_only_its_own_streams_along() {
    let server = kitchen_sink!("--probation-ms", "0");
    let mut peers: Vec<Peer> = (0..100).map(|_| Peer::open(&server, "/ws")).collect();
    for peer in &mut peers {
        assert_eq!(peer.answer("a"), "a");
    }
    let new = server.hup();
    server.wait_for(&format!("to child {new}: COMMIT"));
    // At least one has moved.
    until("it has moved", || peers[0].answer("pid") == new.to_string());
    server.signal_to(new, Signal::SIGKILL);
    server.wait_exit(new);
    let moved = peers.remove(0);
    assert!(!(&moved.0).read(&mut [0]).is_ok_and(|n| n > 0), "it ends with its process");
    for peer in &mut peers {
        let mut rest = Vec::new();
        // A reset is an end too.
        while rest.len() < 4 && (&peer.0).take(1).read_to_end(&mut rest).is_ok_and(|n| n == 1) {}
        assert!(rest.is_empty() || rest == [CLOSE, 2, 3, 0xe9], "{rest:?}");
    }
}
