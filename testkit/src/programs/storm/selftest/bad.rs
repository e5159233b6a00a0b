//! The server that misbehaves, and else behaves.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use testkit::beside;

use super::streams;
use crate::programs::storm::halt::Halt;

/// The time at which clients that check at once are done, and clients that wait long have not sent yet.
const LATE: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// No process listens.
    Refuse,
    /// Not a fault of the server: no address to connect from.
    OwnLimit,
    /// Not a fault either: another process is expected to answer.
    OtherPid,
    /// A reset instead of the answer, and in the middle of it.
    Reset,
    ResetWithin,
    /// An end instead of the answer, and in the middle of it.
    Cut,
    CutWithin,
    /// The answer, and an end that it does not announce.
    SilentClose,
    /// The answer, which announces the end. No fault, if nothing more was asked.
    Announce,
    /// The answer, and a while later, when nothing was asked, an end or a reset.
    LateClose,
    LateReset,
    /// An end or a reset a while after the connection, before anything was asked on it.
    NeverReads,
    NeverReadsReset,
    Never,
    /// The right body under a wrong status.
    Status,
    Twice,
    /// The answer of the request before.
    Former,
    /// The answers of two connections, each to the other.
    Swap,
    /// Of a stream: an end in order, but not the one of a process that goes away.
    OtherEnd,
    /// Of a stream: the next answer, without this one.
    Skip,
    /// Of a WebSocket: the end that is announced, in place of an answer.
    Crossing,
}

#[derive(Debug)]
pub(super) struct Bad {
    fault: Fault,
    at: u64,
    most: u64,
    committed: AtomicU64,
    halt: Halt,
    /// Answers that wait for each other.
    swap: Mutex<Vec<Vec<u8>>>,
    both: Condvar,
}

struct Asked {
    bytes: Vec<u8>,
    closes: bool,
    /// The path of a stream, which begins here.
    stream: Option<String>,
}

impl Bad {
    /// Commits `fault` at request `at` of each connection, at most so often.
    pub(super) fn new(fault: Fault, at: u64, most: u64) -> Arc<Bad> {
        let (committed, halt) = (AtomicU64::new(0), Halt::default());
        Arc::new(Bad { fault, at, most, committed, halt, swap: Mutex::default(), both: Condvar::new() })
    }

    pub(super) fn serve(self: &Arc<Bad>, listener: TcpListener) -> JoinHandle<()> {
        let bad = Arc::clone(self);
        beside("bad server", move || {
            while !bad.halt.is_called() {
                let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, PollTimeout::from(20_u8)) != Ok(1) {
                    continue;
                }
                if let Ok((stream, _)) = listener.accept() {
                    let bad = Arc::clone(&bad);
                    beside("bad connection", move || drop(bad.talk(stream)));
                }
            }
        })
    }

    pub(super) fn stop(&self) {
        self.halt.call();
    }

    pub(super) fn committed(&self) -> u64 {
        self.committed.load(Ordering::SeqCst)
    }

    pub(super) fn fault(&self) -> Fault {
        self.fault
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn pause(&self, pause: Duration) {
        self.halt.pause(pause);
    }

    fn talk(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut input = BufReader::new(stream.try_clone()?);
        let mut former = Vec::new();
        if matches!(self.fault, Fault::NeverReads | Fault::NeverReadsReset) && self.commits() {
            self.halt.pause(LATE);
            return if self.fault == Fault::NeverReads { end(&stream, &mut input) } else { reset(&stream) };
        }
        for n in 0.. {
            let Some(asked) = self.asked(&mut input)? else { return Ok(()) };
            if let Some(path) = asked.stream {
                return streams::talk(self, stream, &mut input, &path);
            }
            let due = n == self.at && self.fault != Fault::None;
            if !(due && self.commits()) {
                stream.write_all(&asked.bytes)?;
                if asked.closes {
                    return end(&stream, &mut input);
                }
                former = asked.bytes;
                continue;
            }
            let half = &asked.bytes[..asked.bytes.len() / 2];
            match self.fault {
                Fault::Reset => return reset(&stream),
                Fault::ResetWithin => {
                    stream.write_all(half)?;
                    return reset(&stream);
                }
                Fault::Cut => return end(&stream, &mut input),
                Fault::CutWithin => {
                    stream.write_all(half)?;
                    return end(&stream, &mut input);
                }
                Fault::SilentClose => {
                    stream.write_all(&asked.bytes)?;
                    return end(&stream, &mut input);
                }
                Fault::Announce => {
                    stream.write_all(&announced(&asked.bytes))?;
                    return end(&stream, &mut input);
                }
                Fault::LateClose | Fault::LateReset => {
                    stream.write_all(&asked.bytes)?;
                    self.halt.pause(LATE);
                    let by_end = self.fault == Fault::LateClose;
                    return if by_end { end(&stream, &mut input) } else { reset(&stream) };
                }
                Fault::Never => return input.read_to_end(&mut Vec::new()).map(drop),
                Fault::Status => {
                    stream.write_all(&[b"HTTP/1.1 500", &asked.bytes[12..]].concat())?;
                    if asked.closes {
                        return end(&stream, &mut input);
                    }
                }
                Fault::Twice => {
                    stream.write_all(&asked.bytes.repeat(2))?;
                    return end(&stream, &mut input);
                }
                Fault::Former => stream.write_all(&former)?,
                Fault::Swap => stream.write_all(&self.swapped(asked.bytes))?,
                Fault::None
                | Fault::OtherEnd
                | Fault::Skip
                | Fault::Crossing
                | Fault::Refuse
                | Fault::OwnLimit
                | Fault::OtherPid
                | Fault::NeverReads
                | Fault::NeverReadsReset => {}
            }
        }
        Ok(())
    }

    /// Whether the fault is to be committed once more; it is then.
    pub(super) fn commits(&self) -> bool {
        let counts = |committed: u64| (committed < self.most).then_some(committed + 1);
        self.committed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, counts).is_ok()
    }

    /// The other connection's answer, for ours.
    fn swapped(&self, ours: Vec<u8>) -> Vec<u8> {
        let mut waiting = self.swap.lock().unwrap_or_else(PoisonError::into_inner);
        let first = waiting.is_empty();
        waiting.push(ours);
        self.both.notify_all();
        let both = self.both.wait_timeout_while(waiting, Duration::from_secs(10), |both| both.len() < 2);
        let both = both.unwrap_or_else(PoisonError::into_inner).0;
        both[usize::from(first) % both.len()].clone()
    }

    /// Reads a request and makes its answer; None at the end.
    fn asked(&self, input: &mut impl BufRead) -> std::io::Result<Option<Asked>> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if input.read_line(&mut head)? == 0 {
                return Ok(None);
            }
        }
        let (first, fields) = head.split_once("\r\n").unwrap_or_default();
        let path = first.split(' ').nth(1).unwrap_or_default();
        let field = |name: &str| fields.lines().find_map(|line| line.strip_prefix(name));
        let mut body = Vec::new();
        if field("Transfer-Encoding: ").is_some() {
            loop {
                let mut size = String::new();
                input.read_line(&mut size)?;
                let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
                let mut chunk = vec![0; size + 2];
                input.read_exact(&mut chunk)?;
                body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = field("Content-Length: ").and_then(|length| length.parse().ok()) {
            body.resize(length, 0);
            input.read_exact(&mut body)?;
        }
        let number = || path.rsplit('/').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        let closes = field("Connection: close").is_some();
        let body = match path.split('/').nth(1).unwrap_or_default() {
            "headers" => {
                fields.trim_end().replace("\r\n", "\n").into_bytes().into_iter().chain([b'\n']).collect()
            }
            "echo" => body,
            "pid" => std::process::id().to_string().into_bytes(),
            "sleep" => {
                self.halt.pause(Duration::from_millis(number()));
                b"ok\n".to_vec()
            }
            "big" => vec![b'x'; usize::try_from(number()).unwrap_or(0)],
            "stream" => {
                return Ok(Some(Asked { bytes: chunked(&vec![b'x'; 1 << 20]), closes, stream: None }));
            }
            "ws" | "events" => {
                return Ok(Some(Asked { bytes: Vec::new(), closes, stream: Some(path.to_owned()) }));
            }
            _ => Vec::new(),
        };
        let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(&body);
        let bytes = if closes { announced(&bytes) } else { bytes };
        Ok(Some(Asked { bytes, closes, stream: None }))
    }
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(16 << 10) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// The same response with the announcement of a close.
fn announced(response: &[u8]) -> Vec<u8> {
    [b"HTTP/1.1 200 OK\r\nConnection: close", &response["HTTP/1.1 200 OK".len()..]].concat()
}

pub(super) fn reset(stream: &TcpStream) -> std::io::Result<()> {
    setsockopt(stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    Ok(())
}

/// Ends with a FIN, without a reset: bytes that still arrive are read.
pub(super) fn end(stream: &TcpStream, input: &mut impl Read) -> std::io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    input.read_to_end(&mut Vec::new()).map(drop)
}
