//! The lifecycle without HTTP, in one process: how connections are given out, parked and ended.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use heirloom::stream::{Connection, StreamServer, Wake};
use heirloom::{CloseReason, Limits, Phase, RunningServer, Timeouts};

use crate::support::{DEADLINE, eventually, spawn};

/// A service whose connections come out here.
fn give(lifecycle: StreamServer) -> (RunningServer, Receiver<Connection>) {
    let (give, take): (Sender<Connection>, _) = channel();
    let running = lifecycle.listen("127.0.0.1:0").spawn(move |incoming| {
        for connection in incoming {
            // Dropped where the test has ended.
            let _ = give.send(connection);
        }
    });
    (running.unwrap(), take)
}

fn connect(running: &RunningServer) -> TcpStream {
    let stream = TcpStream::connect(running.addresses()[0]).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn closes(running: &RunningServer, reason: CloseReason) -> u64 {
    running.handle().stats().closes.iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| *n)
}

/// All bytes until the end.
fn rest(mut stream: &TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_connection_is_delivered_before_its_first_byte() {
    let (running, given) = give(StreamServer::new());
    let client = connect(&running);
    let connection = given.recv_timeout(DEADLINE).unwrap();
    assert_eq!(connection.wake(), Wake::New);
    assert_eq!(connection.peer_addr(), Some(client.local_addr().unwrap()));
    assert_eq!(connection.listener(), "127.0.0.1:0");
    assert!(connection.tcp().is_some() && connection.unix().is_none());
    assert!(!connection.drain().is_draining());
    let stats = running.handle().stats();
    assert_eq!((stats.accepted, stats.open, stats.in_flight), (1, 1, 1));
    (&connection).write_all(b"welcome\n").unwrap();
    drop(connection);
    assert_eq!(rest(&client), "welcome\n");
    assert_eq!(running.handle().stats().in_flight, 0);
    drop(client);
    eventually("it is closed", || closes(&running, CloseReason::Detached) == 1);
    running.stop().unwrap();
}

#[test]
fn reads_wait_and_time_out() {
    let (running, given) = give(StreamServer::new());
    let mut client = connect(&running);
    let mut connection = given.recv_timeout(DEADLINE).unwrap();
    connection.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    connection.set_write_timeout(Some(DEADLINE)).unwrap();
    let late = connection.read(&mut [0; 8]).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::WouldBlock);
    assert!(connection.set_read_timeout(Some(Duration::ZERO)).is_err());
    connection.set_read_timeout(None).unwrap();
    let reader = spawn(move || {
        let mut buf = [0; 8];
        let n = connection.read(&mut buf).unwrap();
        (connection, buf[..n].to_vec())
    });
    client.write_all(b"hello").unwrap();
    let (connection, read) = reader.join().unwrap();
    assert_eq!(read, b"hello");
    drop((connection, client));
    running.stop().unwrap();
}

#[test]
fn a_parked_connection_returns_only_when_readable() {
    let (running, given) = give(StreamServer::new());
    let client = connect(&running);
    let mut connection = given.recv_timeout(DEADLINE).unwrap();
    for n in 0..20 {
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        connection.park().unwrap();
        assert_eq!(running.handle().stats().in_flight, 0);
        assert_eq!(
            given.recv_timeout(Duration::from_millis(5)).err().map(|_| ()),
            Some(()),
            "{n}: too early"
        );
        (&client).write_all(b"line\n").unwrap();
        connection = given.recv_timeout(DEADLINE).unwrap();
        assert_eq!(connection.wake(), Wake::Readable);
        // The second is read in one go with the first, though it was announced on its own.
        (&client).write_all(b"line\n").unwrap();
        let mut lines = BufReader::new(&connection);
        for _ in 0..2 {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            assert_eq!(line, "line\n");
        }
    }
    connection.park().unwrap();
    drop(client);
    let mut connection = given.recv_timeout(DEADLINE).unwrap();
    assert_eq!(connection.read(&mut [0]).unwrap(), 0, "the client's end is something to read");
    drop(connection);
    running.stop().unwrap();
}

#[test]
fn an_expired_connection_comes_back_for_a_last_message() {
    let timeouts = Timeouts::new().idle(Duration::from_millis(50));
    let (running, given) = give(StreamServer::new().timeouts(timeouts));
    let client = connect(&running);
    given.recv_timeout(DEADLINE).unwrap().park().unwrap();
    let mut connection = given.recv_timeout(DEADLINE).unwrap();
    assert_eq!(connection.wake(), Wake::Expired);
    connection.write_all(b"BYE\n").unwrap();
    drop(connection);
    assert_eq!(rest(&client), "BYE\n");
    running.stop().unwrap();
}

#[test]
fn in_a_drain_parked_connections_get_a_last_word() {
    let timeouts = Timeouts::new().idle_grace(Duration::from_millis(300));
    let (running, given) = give(StreamServer::new().timeouts(timeouts));
    let (parked, held) = (connect(&running), connect(&running));
    let mut connections = [(); 2].map(|()| Some(given.recv_timeout(DEADLINE).unwrap()));
    let of = |client: &TcpStream, all: &mut [Option<Connection>; 2]| {
        let peer = client.local_addr().ok();
        all.iter_mut().find(|c| c.as_ref().is_some_and(|c| c.peer_addr() == peer)).unwrap().take().unwrap()
    };
    of(&parked, &mut connections).park().unwrap();
    let connection = of(&held, &mut connections);
    running.handle().shutdown();
    assert!(connection.drain().wait(DEADLINE).is_draining());
    let mut connection = connection.park().unwrap_err();
    connection.write_all(b"no more\n").unwrap();
    drop(connection);
    assert_eq!(rest(&held), "no more\n");
    let mut connection = given.recv_timeout(DEADLINE).unwrap();
    assert_eq!(connection.wake(), Wake::Expired);
    connection.write_all(b"BYE\n").unwrap();
    drop(connection);
    assert_eq!(rest(&parked), "BYE\n");
    drop((parked, held));
    running.stop().unwrap();
    assert!(given.recv().is_err(), "the iterator has ended");
}

/// Like a client that sends without reading.
#[test]
fn what_was_written_is_not_taken_away_by_a_reset() {
    let (running, given) = give(StreamServer::new());
    let mut client = connect(&running);
    let mut connection = given.recv_timeout(DEADLINE).unwrap();
    client.write_all(&[b'x'; 4096]).unwrap();
    connection.write_all(b"the last word\n").unwrap();
    drop(connection);
    client.write_all(&[b'x'; 4096]).unwrap();
    assert_eq!(rest(&client), "the last word\n");
    drop(client);
    running.stop().unwrap();
}

#[test]
fn a_panic_resets_so_that_no_answer_looks_whole() {
    let (running, given) = give(StreamServer::new());
    let mut client = connect(&running);
    let connection = given.recv_timeout(DEADLINE).unwrap();
    let panicked = spawn(move || {
        (&connection).write_all(b"half an ans").unwrap();
        panic!("as the test wants it");
    });
    assert!(panicked.join().is_err());
    let mut text = Vec::new();
    let end = client.read_to_end(&mut text).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    eventually("it is closed", || closes(&running, CloseReason::Broken) == 1);
    running.stop().unwrap();
}

#[test]
fn busy_is_sent_to_clients_that_get_no_thread() {
    let timeouts = Timeouts::new().queue_wait(Duration::from_secs(1));
    let limits = Limits::new().connections_per_peer(2);
    let (release, held) = channel::<()>();
    let lifecycle =
        StreamServer::new().listen("127.0.0.1:0").timeouts(timeouts).limits(limits).busy("BUSY\n");
    let running = lifecycle
        .spawn(move |mut incoming| {
            let first = incoming.next();
            let _ = held.recv();
            drop(first);
            incoming.for_each(drop);
        })
        .unwrap();
    let _served = connect(&running);
    eventually("it is served", || running.handle().stats().in_flight == 1);
    let waiting = connect(&running);
    let one_too_many = connect(&running);
    assert_eq!(rest(&one_too_many), "BUSY\n");
    assert_eq!(rest(&waiting), "BUSY\n");
    drop(waiting);
    eventually("it is closed", || closes(&running, CloseReason::Overload) == 1);
    let stats = running.handle().stats();
    assert_eq!((stats.requests, stats.responses), (0, [0; 5]), "nothing of HTTP is counted");
    drop(release);
    running.stop().unwrap();
}

/// No connection is open while the program does something else, so nothing but the new client wakes the acceptor.
#[test]
fn busy_is_sent_while_no_connection_is_open() {
    let timeouts = Timeouts::new().queue_wait(Duration::from_secs(1));
    let (release, held) = channel::<()>();
    let running = StreamServer::new()
        .listen("127.0.0.1:0")
        .timeouts(timeouts)
        .busy("BUSY\n")
        .spawn(move |mut incoming| {
            drop(incoming.next());
            let _ = held.recv();
            incoming.for_each(drop);
        })
        .unwrap();
    assert_eq!(rest(&connect(&running)), "");
    eventually("it is closed", || running.handle().stats().open == 0);
    assert_eq!(rest(&connect(&running)), "BUSY\n");
    drop(release);
    running.stop().unwrap();
}

#[test]
fn a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("unix:{}", folder.path().join("socket").display());
    let (running, given) = give(StreamServer::new().listen(&*name));
    let mut client = UnixStream::connect(folder.path().join("socket")).unwrap();
    let connection = given.recv_timeout(DEADLINE).unwrap();
    assert_eq!((connection.listener(), connection.peer_addr()), (&*name, None));
    assert!(connection.unix().is_some() && connection.tcp().is_none());
    connection.park().unwrap();
    client.write_all(b"hello").unwrap();
    let mut connection = given.recv_timeout(DEADLINE).unwrap();
    let mut buf = [0; 5];
    connection.read_exact(&mut buf).unwrap();
    connection.write_all(&buf).unwrap();
    drop(connection);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    drop(client);
    running.stop().unwrap();
    assert!(!folder.path().join("socket").exists());
}

#[test]
fn several_threads_get_each_connection_once() {
    let (report, reports) = channel();
    let running = StreamServer::new()
        .listen("127.0.0.1:0")
        .spawn(move |incoming| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let (incoming, report) = (incoming.clone(), report.clone());
                    spawn(move || {
                        incoming.for_each(|connection| report.send(connection.peer_addr()).unwrap())
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        })
        .unwrap();
    let clients: Vec<TcpStream> = (0..100).map(|_| connect(&running)).collect();
    let mut seen: Vec<_> = (0..100).map(|_| reports.recv_timeout(DEADLINE).unwrap()).collect();
    let mut expected: Vec<_> = clients.iter().map(|client| client.local_addr().ok()).collect();
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
    drop(clients);
    running.stop().unwrap();
    assert!(reports.recv().is_err());
}

#[test]
fn a_service_that_returns_or_panics_stops_the_process() {
    let early = StreamServer::new().listen("127.0.0.1:0").spawn(|_| {}).unwrap();
    eventually("it ends", || early.handle().phase() == Phase::Exited);
    early.stop().unwrap();
    let panicked =
        StreamServer::new().listen("127.0.0.1:0").spawn(|_| panic!("as the test wants it")).unwrap();
    eventually("it ends", || panicked.handle().phase() == Phase::Exited);
    let error = panicked.stop().unwrap_err();
    assert_eq!(error.to_string(), "the service panicked");
}

#[test]
fn an_abort_cuts_what_the_program_has() {
    let (running, given) = give(StreamServer::new());
    let _client = connect(&running);
    let connection = given.recv_timeout(DEADLINE).unwrap();
    running.handle().abort();
    eventually("it ends", || running.handle().phase() == Phase::Exited);
    assert_eq!(running.stop().unwrap_err().kind(), heirloom::ErrorKind::Aborted);
    drop(connection);
}

#[test]
fn without_a_listener_it_does_not_start() {
    let error = StreamServer::new().spawn(|_| {}).unwrap_err();
    assert_eq!(error.to_string(), "nothing to listen on: call `listen`");
}
