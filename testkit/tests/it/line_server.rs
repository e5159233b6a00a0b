//! The lifecycle without HTTP: `line_server`'s clients, which send a line twice only if the server asks for it,
//! lose none over handovers, bad programs and stops.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use testkit::{Addr, DEADLINE, Exit, Proc, Signal, beside, copy_program, pass, put_script, until};

fn line_server(more: &[&str]) -> Proc {
    Proc::start_as_said(env!("CARGO_BIN_EXE_line_server"), &[&["127.0.0.1:0"], more].concat())
}

/// How a client uses its connections.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// One connection, line after line.
    Keep,
    /// A new one for each line.
    Anew,
    /// Four lines at once, in pieces that end anywhere.
    Pipelined,
    /// One connection, with pauses.
    Pausing,
}

const MANNERS: [Manner; 8] = [
    Manner::Keep,
    Manner::Keep,
    Manner::Keep,
    Manner::Anew,
    Manner::Anew,
    Manner::Pipelined,
    Manner::Pausing,
    Manner::Pausing,
];

/// The outcomes of the lines.
#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    /// Asked to connect again, with so many lines unanswered.
    byes: usize,
    lost: Vec<String>,
}

struct Crowd {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Crowd {
    fn of(server: &Proc) -> Crowd {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let Addr::Tcp(addr) = server.addr() else { panic!("a TCP listener") };
        let client = |manner| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            beside("client", move || {
                let mut tally = Tally::default();
                while !stop.load(Ordering::SeqCst) {
                    match TcpStream::connect(addr) {
                        Ok(stream) => converse(&stream, manner, &stop, &answered, &mut tally),
                        Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
                            tally.lost.push("refused".to_owned());
                            break;
                        }
                        Err(e) => tally.lost.push(format!("connect: {e}")),
                    }
                }
                tally
            })
        };
        let clients = MANNERS.map(client).into();
        Crowd { stop, answered, clients }
    }

    /// Every client has had answers since.
    #[track_caller]
    fn goes_on(&self) {
        let before = self.answered.load(Ordering::SeqCst);
        until("lines are answered", || self.answered.load(Ordering::SeqCst) > before + 100);
    }

    fn end(self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        self.joined()
    }

    fn joined(self) -> Tally {
        let mut all = Tally::default();
        for client in self.clients {
            let tally = client.join().expect("a client");
            all.answered += tally.answered;
            all.byes += tally.byes;
            all.lost.extend(tally.lost);
        }
        all
    }
}

/// Runs until the connection or the crowd ends.
fn converse(
    stream: &TcpStream,
    manner: Manner,
    stop: &AtomicBool,
    answered: &AtomicUsize,
    tally: &mut Tally,
) {
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.set_nodelay(true).expect("an option");
    let mut answers = BufReader::new(stream);
    let at_once = if matches!(manner, Manner::Pipelined) { 4 } else { 1 };
    while !stop.load(Ordering::SeqCst) {
        let text: String = (0..at_once).map(|n| format!("line {}\n", tally.answered + n)).collect();
        let (first, rest) = text.split_at(text.len() - 4);
        for piece in [first, rest] {
            if let Err(e) = { stream }.write_all(piece.as_bytes()) {
                // If BYE was sent before, it can be read.
                if e.kind() != ErrorKind::BrokenPipe && e.kind() != ErrorKind::ConnectionReset {
                    return tally.lost.push(format!("{manner:?}: write: {e}"));
                }
            }
        }
        for n in 0..at_once {
            let mut answer = String::new();
            match answers.read_line(&mut answer) {
                Ok(_) if answer == "BYE\n" => {
                    tally.byes += 1;
                    let mut more = Vec::new();
                    match answers.read_to_end(&mut more) {
                        Ok(0) => return,
                        end => return tally.lost.push(format!("{manner:?}: after BYE {end:?} {more:?}")),
                    }
                }
                Ok(_) if answer.trim_end().ends_with(&format!(" LINE {}", tally.answered)) => {
                    tally.answered += 1;
                    answered.fetch_add(1, Ordering::SeqCst);
                }
                other => return tally.lost.push(format!("{manner:?}: {n}: {other:?} {answer:?}")),
            }
        }
        match manner {
            Manner::Anew => return,
            Manner::Pausing => pass(Duration::from_millis(50)),
            _ => {}
        }
    }
}

#[test]
fn ten_handovers_lose_no_line_and_close_no_connection() {
    let server = line_server(&[]);
    let crowd = Crowd::of(&server);
    for _ in 0..10 {
        crowd.goes_on();
        let old = server.newest();
        server.handover();
        crowd.goes_on();
        assert_eq!(server.wait_exit(old), Exit::Status(0));
    }
    server.wait_for("serving as generation 11");
    crowd.goes_on();
    let tally = crowd.end();
    assert_eq!(tally.lost, [] as [String; 0], "{} lines were answered", tally.answered);
    assert_eq!(tally.byes, 0, "a parked connection travels");
    server.stop();
}

#[test]
fn hups_at_once_are_one_handover_or_two_and_lose_nothing() {
    let server = line_server(&[]);
    let crowd = Crowd::of(&server);
    crowd.goes_on();
    server.signal(Signal::SIGHUP);
    server.wait_for(" as child ");
    // Remembered, and passed on.
    server.signal(Signal::SIGHUP);
    server.wait_for("serving as generation 3");
    server.settled().expect("one that serves");
    crowd.goes_on();
    let tally = crowd.end();
    assert_eq!(tally.lost, [] as [String; 0], "{} lines were answered", tally.answered);
    server.stop();
}

#[test]
fn a_bad_program_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (program, good) = (folder.path().join("program"), folder.path().join("good"));
    copy_program(env!("CARGO_BIN_EXE_line_server"), &program);
    let server = Proc::start_as_said(&program, &["127.0.0.1:0"]);
    let crowd = Crowd::of(&server);
    crowd.goes_on();
    fs::rename(&program, &good).unwrap();
    put_script(&program, "#!/bin/sh\nexit 3\n");
    server.signal(Signal::SIGHUP);
    let line = server.wait_for("still serving");
    assert!(line.contains("exited with status 3"), "{line}");
    crowd.goes_on();
    fs::rename(&good, &program).unwrap();
    server.handover();
    crowd.goes_on();
    let tally = crowd.end();
    assert_eq!((tally.lost, tally.byes), (vec![], 0));
    server.stop();
}

#[test]
fn a_stop_answers_pending_lines_and_sends_bye() {
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let server = line_server(&[pid_file.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{}\n", server.pid()));
    let Addr::Tcp(addr) = server.addr() else { panic!("a TCP listener") };
    let mut idle = TcpStream::connect(addr).unwrap();
    idle.set_read_timeout(Some(DEADLINE)).unwrap();
    idle.write_all(b"hello\n").unwrap();
    let mut answer = vec![0; format!("{} HELLO\n", server.pid()).len()];
    idle.read_exact(&mut answer).unwrap();

    let crowd = Crowd::of(&server);
    crowd.goes_on();
    server.signal(Signal::SIGTERM);
    let tally = crowd.joined();
    assert!(tally.lost.iter().all(|lost| lost == "refused"), "{:?}", tally.lost);
    assert_eq!(tally.lost.len(), MANNERS.len(), "each ends where nobody listens any more");
    assert!(tally.byes >= 1);
    let mut last = String::new();
    idle.read_to_string(&mut last).unwrap();
    assert_eq!(last, "BYE\n", "to one that was idle, at the end of the grace");
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
    server.wait_gone();
    assert!(!pid_file.exists());
}

#[test]
fn a_second_term_cuts_and_logs_each_connection() {
    let server = line_server(&[]);
    let Addr::Tcp(addr) = server.addr() else { panic!("a TCP listener") };
    let mut slow = TcpStream::connect(addr).unwrap();
    let peer = slow.local_addr().unwrap();
    // A line that does not end, and never pauses for long.
    let slow = beside("slow", move || {
        while slow.write_all(b"x").is_ok() {
            pass(Duration::from_millis(100));
        }
    });
    server.in_flight(server.pid(), 1);
    server.signal(Signal::SIGTERM);
    server.wait_for("draining (stop requested)");
    pass(Duration::from_millis(600));
    server.signal(Signal::SIGTERM);
    server.wait_for(&format!("abort: cut a connection of {peer} to 127.0.0.1:0"));
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(1));
    slow.join().unwrap();
}
