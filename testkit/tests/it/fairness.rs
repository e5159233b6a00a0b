//! What a few clients that take all they can get cost others. What is done in between is counted, never
//! timed: a busy machine is no failure.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use nix::sys::socket::{setsockopt, sockopt};
use testkit::{Addr, Client, DEADLINE, Pid, Proc, beside, until};

use crate::TESTKIT;

fn greedy(workers: usize) -> Proc {
    Proc::start_as_said(TESTKIT, &["greedy", "--listen", "127.0.0.1:0", "--workers", &workers.to_string()])
}

fn raw(server: &Proc) -> TcpStream {
    let Addr::Tcp(addr) = server.addr() else { panic!("TCP") };
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(3 * DEADLINE)).unwrap();
    stream
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\nAccept-Encoding: gzip\r\n\r\n")
}

/// A connection that sends so many requests at once, and reads responses until it is dropped.
fn pipelines(server: &Proc, path: &str, requests: usize) -> TcpStream {
    let stream = raw(server);
    let (mut reader, mut writer) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
    let batch = request(path).repeat(requests);
    beside("writer", move || _ = writer.write_all(batch.as_bytes()));
    beside("reader", move || {
        let mut piece = vec![0; 256 << 10];
        while matches!(reader.read(&mut piece), Ok(n) if n > 0) {}
    });
    stream
}

/// The amount of work done so far, as the server reports it while it serves the greedy clients.
#[derive(Clone, Copy, Debug)]
struct Done {
    calls: u64,
    pulled: u64,
    open: u64,
}

fn done(client: &mut Client) -> Done {
    client.renew();
    let response = client.get("/ok").ok();
    let numbers: Vec<u64> = response.text().split(' ').map(|n| n.parse().unwrap()).collect();
    let [calls, pulled, open] = numbers[..] else { panic!("{response:?}") };
    Done { calls, pulled, open }
}

/// Sends 21 requests, half of them on new connections; how much of `what` is done for others while each
/// request waits, in order of size.
fn done_meanwhile(server: &Proc, what: impl Fn(Done) -> u64) -> Vec<u64> {
    let mut kept = server.client();
    let mut last = what(done(&mut kept));
    let mut meanwhile: Vec<u64> = (0..21)
        .map(|n| {
            let now = what(if n % 2 == 0 { done(&mut kept) } else { done(&mut server.client()) });
            now - std::mem::replace(&mut last, now)
        })
        .collect();
    meanwhile.sort_unstable();
    meanwhile
}

/// Most of them are no more than `most`. Of a few this machine may have let the client itself wait.
#[track_caller]
fn expect_most(meanwhile: &[u64], most: u64, case: &str) {
    assert!(meanwhile[15] <= most, "{case}: {meanwhile:?} are done meanwhile, and {most} at most");
}

/// A turn is over after 5 ms: so what a client waits for is a request of each that is there before it, or
/// as many of them as take that long.
#[test]
fn pipelined_requests_are_one_of_many() {
    for (workers, greedy_ones, ms, most) in [(4, 4, 100, 12), (2, 4, 20, 12), (4, 8, 1, 96), (16, 40, 1, 320)]
    {
        let server = greedy(workers);
        let requests = if ms == 1 { 20_000 } else { 2_000 };
        let _greedy: Vec<_> =
            (0..greedy_ones).map(|_| pipelines(&server, &format!("/sleep/{ms}"), requests)).collect();
        let mut client = server.client();
        until("they are at it", || done(&mut client).calls >= workers as u64);
        let meanwhile = done_meanwhile(&server, |done| done.calls);
        expect_most(&meanwhile, most, &format!("{workers} workers, {greedy_ones} clients, {ms} ms"));
    }
}

/// After each piece others go first once the turn is over.
#[test]
fn sources_of_responses_are_pulled_in_turns() {
    // A piece of the text is 32 KiB, of which 5 ms compress some.
    for (workers, path, most) in
        [(4, "/computed", 48), (2, "/computed", 24), (2, "/slow", 24), (2, "/nothing", 60), (2, "/text", 600)]
    {
        let server = greedy(workers);
        let _greedy: Vec<_> = (0..workers + 1).map(|_| pipelines(&server, path, 1)).collect();
        let mut client = server.client();
        until("they are at it", || done(&mut client).pulled >= 10);
        let meanwhile = done_meanwhile(&server, |done| done.pulled);
        expect_most(&meanwhile, most, &format!("{workers} workers, {path}"));
    }
}

/// The number of `write` calls of the process, for files and the like; sockets use `send`.
fn writes(pid: Pid) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("syscw: ")).unwrap();
    line.parse().unwrap()
}

fn chunked(path: &str, chunk: &[u8], chunks: usize) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    [head.as_bytes(), &chunk.repeat(chunks), b"0\r\n\r\n"].concat()
}

/// What a body costs goes by its bytes on the wire: one system call for some KiB of them.
#[test]
fn small_chunks_cost_what_their_bytes_do() {
    let server = greedy(4);
    for (chunk, size) in [(&b"1\r\nx\r\n"[..], 1), (b"2;a=\"b\"\r\nxy\r\n", 2), (b"0007\r\n1234567\r\n", 7)] {
        // Extensions have a separate limit.
        let chunks = if chunk.contains(&b';') { 500 } else { (1 << 20) / size };
        let (pad, body) = ([b"FFFF\r\n", &[b'x'; 0xFFFF][..], b"\r\n"].concat(), chunk.repeat(chunks));
        let request = chunked("/echo", &[&pad[..], &body, &pad].concat(), 1);
        let before = writes(server.pid());
        let mut client = server.client();
        client.send(&request);
        let response = client.answer().ok();
        assert_eq!(response.body.len(), 2 * 0xFFFF + chunks * size);
        let (made, most) = (writes(server.pid()) - before, request.len() as u64 / 512);
        assert!(made <= most, "{made} writes for {} bytes, and {most} at most", request.len());
        // A handler that reads while the body arrives gets the content of many chunks by each read.
        let mut client = server.client();
        client.send(chunked("/discard", chunk, chunks));
        let said = client.answer().ok();
        let numbers: Vec<usize> = said.text().split(' ').map(|n| n.parse().unwrap()).collect();
        assert_eq!(numbers[0], chunks * size);
        assert!(numbers[1] <= chunks / 8, "{} reads for {chunks} chunks", numbers[1]);
    }
}

/// No handler runs for a client that has reset its connection: none of 479 pipelined requests but those
/// that had started, or were about to.
#[test]
fn no_handler_runs_for_clients_that_are_gone() {
    for (workers, clients, ms) in [(4, 4, 100), (2, 8, 100), (4, 8, 20)] {
        let server = greedy(workers);
        let mut watch = server.client();
        let before = done(&mut watch);
        assert_eq!((before.calls, before.open), (0, 1));
        let greedy: Vec<TcpStream> = (0..clients)
            .map(|_| {
                let mut stream = raw(&server);
                stream.write_all(request(&format!("/sleep/{ms}")).repeat(60).as_bytes()).unwrap();
                stream
            })
            .collect();
        until("all are at it or wait", || done(&mut watch).calls >= workers as u64);
        let reset = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        greedy.iter().for_each(|stream| setsockopt(stream, sockopt::Linger, &reset).unwrap());
        let at_reset = done(&mut watch).calls;
        drop(greedy);
        until("they are gone", || done(&mut watch).open == 1);
        let calls = done(&mut watch).calls - at_reset;
        // While this client was about to reset them, there was some time, too.
        assert!(calls <= 2 * clients + 40, "{calls} calls for nobody, {workers} workers, {ms} ms");
    }
}

/// A client that has shut down its side is still connected: it gets every response, beside greedy clients too.
#[test]
fn a_client_that_half_closes_gets_every_answer() {
    let server = greedy(2);
    let _greedy = [(); 3].map(|()| pipelines(&server, "/sleep/20", 2_000));
    let mut stream = raw(&server);
    stream.write_all(request("/sleep/20").repeat(60).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 60, "{answers}");
    assert_eq!(answers.matches("\r\n\r\nok\n").count(), 60, "{answers}");
}
