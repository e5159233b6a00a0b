//! Servers that give hostile clients what no sound server gives, and one that gives what it should.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use testkit::{Addr, beside};

use super::bad::{end, reset};
use crate::programs::storm::halt::{Clock, Halt};
use crate::programs::storm::soak::{Attack, Counts, Got, Kind, faults};
use crate::programs::storm::socket::Way;

/// What a server does to a client that misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaction {
    Says(&'static [u8]),
    Ends,
    Resets,
    /// Nothing, until the client leaves.
    Waits,
}

/// A reaction to each kind, what is counted, and whether it is a fault.
const CASES: [(Kind, Reaction, Got, bool); 15] = [
    (Kind::SlowHead, Reaction::Says(b"HTTP/1.1 408 Request Timeout\r\n\r\n"), Got::Status(408), false),
    (Kind::SlowHead, Reaction::Says(b"HTTP/1.1 200 OK\r\n\r\n"), Got::Status(200), true),
    (Kind::SlowHead, Reaction::Waits, Got::Nothing, true),
    (Kind::SlowBody, Reaction::Ends, Got::End, true),
    (Kind::Half, Reaction::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Got::Status(400), false),
    (Kind::Half, Reaction::Says(b"HTTP/1.1 200 OK\r\n\r\n"), Got::Status(200), true),
    (Kind::Garbage, Reaction::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Got::Status(400), false),
    (Kind::Garbage, Reaction::Says(b"HTTP/1.1 500 Oh\r\n\r\n"), Got::Status(500), true),
    (Kind::Garbage, Reaction::Says(b"SSH-2.0-OpenSSH\r\n"), Got::Bytes, true),
    (Kind::Garbage, Reaction::Resets, Got::Reset, true),
    (Kind::Resets, Reaction::Waits, Got::Left, false),
    (Kind::NeverReads, Reaction::Waits, Got::Nothing, true),
    (Kind::TlsGarbage, Reaction::Says(&[0x15, 3, 3, 0, 2, 2, 10]), Got::Alert, false),
    (Kind::TlsGarbage, Reaction::Waits, Got::Nothing, true),
    (Kind::TlsSilence, Reaction::Ends, Got::End, false),
];

pub(super) fn names() -> impl Iterator<Item = (usize, String)> {
    CASES.iter().enumerate().map(|(n, (kind, reaction, ..))| (n, format!("hostile: {kind:?}: {reaction:?}")))
}

pub(super) fn run(case: usize) -> Result<(), String> {
    let (kind, reaction, expected, is_fault) = CASES[case];
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    let addr = Addr::Tcp(listener.local_addr().map_err(|e| e.to_string())?);
    let server = beside("bad server", move || react(&listener, reaction));
    let counts = Arc::new(Mutex::new(Counts::new()));
    let attack = Attack {
        kind,
        ways: vec![Way::new(addr, 30_000 + case, Duration::from_secs(1))],
        pause: Duration::ZERO,
        stay: Duration::from_secs(1),
        counts: Arc::clone(&counts),
        clock: Arc::new(Clock::start()),
        halt: Arc::new(Halt::default()),
    };
    let got = attack.visit(0);
    server.join().map_err(|_| "the bad server panicked")?.map_err(|e| e.to_string())?;
    if got != Some(expected) {
        return Err(format!("{expected:?} expected, got {got:?}"));
    }
    let found = faults(&Counts::from([((kind, expected), 1)]));
    if found.is_empty() == is_fault { Err(format!("a fault: {is_fault}, found {found:?}")) } else { Ok(()) }
}

fn react(listener: &TcpListener, reaction: Reaction) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut input = stream.try_clone()?;
    match reaction {
        // The client has said something, if it does at all.
        Reaction::Waits => drop(input.read_to_end(&mut Vec::new())),
        Reaction::Resets => {
            let _ = input.read(&mut [0])?;
            reset(&stream)?;
        }
        Reaction::Ends => drop(end(&stream, &mut input)),
        Reaction::Says(bytes) => {
            let _ = input.read(&mut [0])?;
            stream.write_all(bytes)?;
            drop(end(&stream, &mut input));
        }
    }
    Ok(())
}
