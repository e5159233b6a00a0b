//! Clients that waste the server's time: slowly, with bytes that are no request, by resets, without ever reading. What they
//! get is counted apart; it is a failure only if no server should give it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use testkit::beside;

use crate::programs::storm::asking::{between, mix};
use crate::programs::storm::halt::{Clock, Halt};
use crate::programs::storm::socket::{Socket, Way};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A head that never ends, a byte at a time.
    SlowHead,
    /// A body that never ends, a byte at a time, less than the lowest rate.
    SlowBody,
    /// Half a request, and the end.
    Half,
    /// Bytes that are no request.
    Garbage,
    /// A reset: without a request, within one, or within its response.
    Resets,
    /// A large response, none of which is read.
    NeverReads,
    /// Bytes that are no TLS, to a listener with TLS.
    TlsGarbage,
    /// The beginning of a handshake, and nothing more.
    TlsSilence,
}

impl Kind {
    pub(crate) const ALL: [Kind; 8] = [
        Kind::SlowHead,
        Kind::SlowBody,
        Kind::Half,
        Kind::Garbage,
        Kind::Resets,
        Kind::NeverReads,
        Kind::TlsGarbage,
        Kind::TlsSilence,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::SlowHead => "slow head",
            Kind::SlowBody => "slow body",
            Kind::Half => "half a request, then the end",
            Kind::Garbage => "garbage",
            Kind::Resets => "resets",
            Kind::NeverReads => "never reads",
            Kind::TlsGarbage => "garbage instead of TLS",
            Kind::TlsSilence => "half a TLS handshake",
        }
    }

    fn attacks_tls(self) -> bool {
        matches!(self, Kind::TlsGarbage | Kind::TlsSilence)
    }

    /// Whether a sound server may give it this.
    fn expects(self, got: Got) -> bool {
        match self {
            Kind::SlowHead | Kind::SlowBody => got == Got::Status(408),
            Kind::Half => matches!(got, Got::Status(400) | Got::End),
            Kind::Garbage => got == Got::Status(400),
            Kind::Resets => got == Got::Left,
            // By the server, which gives up first, or by the client.
            Kind::NeverReads => matches!(got, Got::Left | Got::End | Got::Reset),
            Kind::TlsGarbage => matches!(got, Got::Alert | Got::Status(400) | Got::End | Got::Reset),
            Kind::TlsSilence => matches!(got, Got::Alert | Got::End),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Got {
    Status(u16),
    /// An alert of TLS.
    Alert,
    /// The end of the connection, without a response.
    End,
    Reset,
    /// The client has left without a wait for anything.
    Left,
    /// Nothing, for longer than any of the server's limits.
    Nothing,
    /// Neither HTTP nor an alert.
    Bytes,
    /// From a successor that storm has killed.
    Crashed,
    /// And the error's description.
    NotConnected(&'static str),
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Got::Status(status) => write!(f, "{status}"),
            Got::Alert => f.write_str("TLS alert"),
            Got::End => f.write_str("closed"),
            Got::Reset => f.write_str("reset"),
            Got::Left => f.write_str("left by itself"),
            Got::Nothing => f.write_str("no answer"),
            Got::Bytes => f.write_str("other bytes"),
            Got::Crashed => f.write_str("crashed"),
            Got::NotConnected(why) => write!(f, "not connected: {why}"),
        }
    }
}

pub(crate) type Counts = BTreeMap<(Kind, Got), u64>;

/// What no sound server gives.
pub(crate) fn faults(counts: &Counts) -> Vec<String> {
    let wrong = counts.iter().filter(|((kind, got), _)| *got != Got::Crashed && !kind.expects(*got));
    wrong.map(|((kind, got), n)| format!("{n} hostile clients ({}): {got}", kind.name())).collect()
}

#[derive(Debug)]
pub(crate) struct Attack {
    pub(crate) kind: Kind,
    /// It takes turns with these.
    pub(crate) ways: Vec<Way>,
    /// Between two connections: half of this to one and a half.
    pub(crate) pause: Duration,
    /// How long a client that never reads stays, at most; between two bytes of slow clients a hundredth of it.
    pub(crate) stay: Duration,
    pub(crate) counts: Arc<Mutex<Counts>>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) halt: Arc<Halt>,
}

impl Attack {
    /// One client of this kind, until the end of the load.
    pub(crate) fn start(self) -> JoinHandle<()> {
        beside(self.kind.name(), move || {
            for n in 0.. {
                if self.halt.is_called() {
                    return;
                }
                if let Some(got) = self.visit(n) {
                    self.count(got);
                }
                self.halt.pause(between([self.pause / 2, self.pause * 3 / 2], self.turn(n)));
            }
        })
    }

    fn turn(&self, n: u64) -> u64 {
        mix((self.kind as u64) << 40 | n)
    }

    fn count(&self, got: Got) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry((self.kind, got)).or_default() += 1;
    }

    /// One connection; None: the load ended first.
    pub(crate) fn visit(&self, n: u64) -> Option<Got> {
        let way = &self.ways[usize::try_from(n).unwrap_or(0) % self.ways.len()];
        let begin = Instant::now();
        let mut socket = match way.connect() {
            Ok(socket) => socket,
            Err(_) if self.clock.crashes.touch(begin, Instant::now()) => return Some(Got::Crashed),
            Err(errno) => return Some(Got::NotConnected(errno.desc())),
        };
        let opened = Instant::now();
        let got = self.act(&mut socket, n)?;
        let crashed = matches!(got, Got::End | Got::Reset) && self.clock.crashes.touch(begin, opened);
        Some(if crashed { Got::Crashed } else { got })
    }

    /// What it gets; None: the load ended first.
    fn act(&self, socket: &mut Socket, n: u64) -> Option<Got> {
        let turn = self.turn(n);
        match self.kind {
            Kind::SlowHead => self.slowly(socket, b"GET /ok HTTP/1.1\r\nHost: storm\r\nX-Slow: "),
            Kind::SlowBody => {
                self.slowly(socket, b"POST /echo HTTP/1.1\r\nHost: storm\r\nContent-Length: 100000\r\n\r\n")
            }
            Kind::Half => {
                let halves: [&[u8]; 2] = [
                    b"GET /headers HTT",
                    b"POST /echo HTTP/1.1\r\nHost: storm\r\nContent-Length: 9\r\n\r\nhalf",
                ];
                let _ = socket.send_all(halves[usize::from(turn & 1 == 1)]);
                socket.end_sending();
                Some(reply(socket))
            }
            Kind::Garbage => {
                let _ = socket.send_all(&[&garbage(turn)[..], b"\r\n\r\n"].concat());
                Some(reply(socket))
            }
            Kind::Resets => Some(self.reset(socket, turn)),
            Kind::NeverReads => self.never_read(socket, turn),
            Kind::TlsGarbage => {
                let _ = socket.send_all(&garbage(turn));
                Some(reply(socket))
            }
            Kind::TlsSilence => {
                // The head of a record with 512 bytes, and the first of them.
                let _ = socket.send_all(&[0x16, 3, 1, 2, 0, 1, 0, 1]);
                Some(reply(socket))
            }
        }
    }

    /// Sends a byte now and then, until there is an answer.
    fn slowly(&self, socket: &mut Socket, start: &[u8]) -> Option<Got> {
        let _ = socket.send_all(start);
        let until = Instant::now() + self.stay;
        while !socket.readable_within(self.stay / 100) {
            if self.halt.is_called() {
                return None;
            }
            if Instant::now() > until {
                return Some(Got::Nothing);
            }
            let _ = socket.send_all(b"a");
        }
        Some(reply(socket))
    }

    fn reset(&self, socket: &mut Socket, turn: u64) -> Got {
        let _ = match turn % 4 {
            0 => Ok(()),
            1 => socket.send_all(b"GET /headers HTTP/1.1\r\nHos"),
            2 => socket.send_all(b"POST /echo HTTP/1.1\r\nHost: storm\r\nContent-Length: 100000\r\n\r\nhalf"),
            _ => socket.send_all(b"GET /big/4000000 HTTP/1.1\r\nHost: storm\r\n\r\n"),
        };
        if turn % 4 == 3 {
            let _ = socket.receive(&mut [0; 4096]);
        }
        self.halt.pause(Duration::from_millis(turn % 50));
        socket.reset_at_close();
        Got::Left
    }

    /// Asks for much, reads nothing for a while, often longer than the server waits, and then looks what has become of it.
    fn never_read(&self, socket: &mut Socket, turn: u64) -> Option<Got> {
        let _ = socket.send_all(b"GET /big/50000000 HTTP/1.1\r\nHost: storm\r\n\r\n");
        self.halt.pause(between([self.stay / 10, self.stay], turn));
        socket.reset_at_close();
        let mut received = 0;
        // More than both kernels keep.
        while received < 16 << 20 && !self.halt.is_called() {
            match socket.receive(&mut [0; 64 << 10]) {
                Ok(0) => return Some(Got::End),
                Ok(n) => received += n,
                Err(Errno::EAGAIN) => return Some(Got::Nothing),
                Err(_) => return Some(Got::Reset),
            }
        }
        (!self.halt.is_called()).then_some(Got::Left)
    }
}

/// Up to 512 bytes, the first of which begins neither a request nor TLS.
fn garbage(turn: u64) -> Vec<u8> {
    let words = (turn..turn + 8 + turn % 56).flat_map(|n| mix(n).to_le_bytes());
    [0x80 | (turn % 100) as u8].into_iter().chain(words).collect()
}

/// The beginning of what the server says.
fn reply(socket: &mut Socket) -> Got {
    let mut bytes = [0; 12];
    let mut length = 0;
    loop {
        match socket.receive(&mut bytes[length..]) {
            Ok(0) if length == 0 => return Got::End,
            Ok(0) => return Got::Bytes,
            Ok(n) => length += n,
            Err(Errno::EAGAIN) => return Got::Nothing,
            Err(_) => return Got::Reset,
        }
        if bytes[0] == 0x15 {
            return Got::Alert;
        }
        if length == bytes.len() {
            let status = bytes.strip_prefix(b"HTTP/1.1 ").and_then(|status| std::str::from_utf8(status).ok());
            return status.and_then(|status| status.parse().ok()).map_or(Got::Bytes, Got::Status);
        }
    }
}

/// Two clients of each kind that can reach one of the ways: those with TLS by `tls`.
pub(crate) fn start(
    ways: &[Way],
    counts: &Arc<Mutex<Counts>>,
    clock: &Arc<Clock>,
    halt: &Arc<Halt>,
) -> Vec<JoinHandle<()>> {
    let mut threads = Vec::new();
    for kind in Kind::ALL {
        let fits = |way: &&Way| way.tls.is_some() || !kind.attacks_tls();
        let mut ways: Vec<Way> = ways.iter().filter(fits).cloned().collect();
        if kind.attacks_tls() {
            ways.iter_mut().for_each(|way| way.tls = None);
        }
        if kind == Kind::NeverReads {
            ways.iter_mut().for_each(|way| way.room = Some(64 << 10));
        }
        for n in 0..if ways.is_empty() { 0 } else { 2 } {
            // The second one begins with another way.
            ways.rotate_left(n);
            let attack = Attack {
                kind,
                ways: ways.clone(),
                pause: Duration::from_millis(1500),
                stay: Duration::from_secs(40),
                counts: Arc::clone(counts),
                clock: Arc::clone(clock),
                halt: Arc::clone(halt),
            };
            threads.push(attack.start());
        }
    }
    threads
}
