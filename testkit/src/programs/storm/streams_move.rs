//! `testkit streams_move`: what it costs to hand over thousands of WebSockets and event streams, with TLS and without: time, CPU of
//! both processes, memory. No client sends anything meanwhile; then each WebSocket must get its next count, and no event stream
//! may have ended.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};
use rustix::process::{PidfdFlags, pidfd_open};
use testkit::{Addr, Pid, Signal};

use super::halt::Halt;
use super::herd;
use super::link::Link;
use super::messages::{self, LAST, PING, PONG, TEXT};
use super::server::Server;
use super::socket::Way;
use super::streams::{ACCEPTED, HANDSHAKE};
use super::tls::Secrecy;
use crate::programs::MainResult;

const USAGE: &str = "usage: testkit streams_move [--streams N] [--rounds N] [--server PATH] [--only NAME]
  --streams N    of each kind, one kind after the other (default 5000)
  --rounds N     handovers one after the other (default 3)
  --server PATH  the kitchen_sink to run (default: the one beside testkit)
  --only NAME    one of the kinds: websocket, websocket-tls, events, events-tls";
const WITHIN: Duration = Duration::from_secs(60);
/// What a handover leaves behind is done by then.
const SETTLED: Duration = Duration::from_secs(1);
/// An event at once, and the next in an hour.
const EVENTS: &[u8] = b"GET /events/travel?ms=3600000 HTTP/1.1\r\nHost: storm\r\n\r\n";
const KINDS: [Kind; 4] = [
    Kind { name: "websocket", is_websocket: true, is_tls: false },
    Kind { name: "websocket-tls", is_websocket: true, is_tls: true },
    Kind { name: "events", is_websocket: false, is_tls: false },
    Kind { name: "events-tls", is_websocket: false, is_tls: true },
];

#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    is_websocket: bool,
    is_tls: bool,
}

/// What a process holds.
#[derive(Clone, Copy, Default)]
struct Held {
    resident_kib: u64,
    peak_kib: u64,
    threads: u64,
    fds: usize,
}

/// One handover.
struct Round {
    /// From the signal to the end of the old process.
    moved: Duration,
    /// From the signal until each client has looked at its stream.
    served: Duration,
    /// From the signal on, of the old process and of its successor; of the latter until the old one's end.
    cpu: [Duration; 2],
    /// The old process at the signal and at most; the new one after a while.
    held: [Held; 3],
}

/// A server, its streams and its directory.
struct Scene {
    kind: Kind,
    server: Arc<Server>,
    links: Vec<Link>,
    /// Messages on each WebSocket so far.
    count: u64,
    halt: Halt,
}

impl Scene {
    fn start(kind: Kind, streams: usize, program: &Path, directory: &Path) -> Result<Scene, String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let secrecy = if kind.is_tls { Some(Secrecy::new(directory, 1)?) } else { None };
        let mut args = words(&["--probation-ms", "0", "--idle-timeout-ms", "3600000"]);
        match &secrecy {
            Some(secrecy) => {
                let [certificate, key] = secrecy.pairs[0].each_ref().map(|path| path.display().to_string());
                args.extend(words(&["--tls-listen", "127.0.0.1:0", "--cert", &certificate, "--key", &key]));
            }
            None => args.extend(words(&["--listen", "127.0.0.1:0"])),
        }
        let server = Server::start(program, &args, directory, Instant::now() + WITHIN)?;
        let mut scene = Scene { kind, server, links: Vec::new(), count: 0, halt: Halt::default() };
        let addr = scene.server.addrs().pop().ok_or("no address")?;
        for n in 0..streams {
            let link = scene.open(n, &addr, &secrecy).map_err(|e| format!("stream {n}: {e}"))?;
            scene.links.push(link);
        }
        scene.look()?;
        Ok(scene)
    }

    fn open(&self, n: usize, addr: &Addr, secrecy: &Option<Secrecy>) -> Result<Link, String> {
        let mut way = Way::new(addr.clone(), n / 200, WITHIN);
        way.tls.clone_from(secrecy);
        let mut link = Link::open(&way, None).map_err(|e| e.to_string())?;
        let request = if self.kind.is_websocket { HANDSHAKE.as_bytes() } else { EVENTS };
        link.send(request, usize::MAX, Duration::ZERO, &self.halt);
        let head = link.stream_head(&self.halt).map_err(|loss| loss.detail)?;
        let expected = if self.kind.is_websocket { ACCEPTED } else { "text/event-stream" };
        if !head.to_ascii_lowercase().contains(expected) {
            return Err(format!("not a stream: {head:?}"));
        }
        if !self.kind.is_websocket {
            self.first_event(&mut link)?;
        }
        Ok(link)
    }

    fn first_event(&self, link: &mut Link) -> Result<(), String> {
        let mut text = String::new();
        while !text.contains("id: 1\n") {
            let line = link.take_line(&self.halt).map_err(|loss| loss.detail)?;
            text.push_str(&String::from_utf8_lossy(&line));
        }
        // The end of the chunk.
        while link.has_more() {
            link.take_line(&self.halt).map_err(|loss| loss.detail)?;
        }
        Ok(())
    }

    /// Each WebSocket gets its next count, and each event stream is open and silent.
    fn look(&mut self) -> Result<(), String> {
        self.count += 1;
        if self.kind.is_websocket {
            let message = messages::frame(LAST | TEXT, b"next", self.count);
            for link in &mut self.links {
                link.send(&message, usize::MAX, Duration::ZERO, &self.halt);
            }
        }
        let count = self.count.to_string();
        for (n, link) in self.links.iter_mut().enumerate() {
            let fault = match self.kind.is_websocket {
                true => match next_text(link, &self.halt) {
                    Ok(answer) if answer == count.as_bytes() => None,
                    Ok(answer) => Some(format!("{} in place of {count}", answer.escape_ascii())),
                    Err(detail) => Some(detail),
                },
                false => only_comments(link, &self.halt).err(),
            };
            if let Some(fault) = fault {
                return Err(format!("stream {n} after {} handovers: {fault}", self.count - 1));
            }
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<Round, String> {
        self.halt.pause(SETTLED);
        let old = self.server.pid().ok_or("no process serves")?;
        let raw = rustix::process::Pid::from_raw(old.as_raw()).ok_or("no pid")?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|e| e.to_string())?;
        let (before, reaped, at_signal) = (cpu_of(old), cpu_of_children(), held_by(old));
        let (begin, mut peak) = (Instant::now(), at_signal);
        self.server.hand_over(begin + WITHIN, 1, &self.halt)?;
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, PollTimeout::from(2u16)) == Ok(0) {
            let held = held_by(old);
            peak = if held.peak_kib > 0 { held } else { peak };
            if begin.elapsed() > WITHIN {
                return Err(format!("the old process does not end; {} threads are left", held.threads));
            }
        }
        let moved = begin.elapsed();
        let new = self.server.pid().ok_or("no process serves")?;
        let of_new = cpu_of(new);
        self.server.reap();
        let of_old = (cpu_of_children().saturating_sub(reaped)).saturating_sub(before);
        self.look()?;
        let served = begin.elapsed();
        self.halt.pause(SETTLED);
        let after = held_by(new);
        if after.threads < self.links.len() as u64 {
            return Err(format!("{} threads for {} streams", after.threads, self.links.len()));
        }
        Ok(Round { moved, served, cpu: [of_old, of_new], held: [at_signal, peak, after] })
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.server.signal(Signal::SIGTERM);
        self.links.clear();
        self.server.kill();
    }
}

/// The next message; a Ping, which a silent client gets, is answered.
fn next_text(link: &mut Link, halt: &Halt) -> Result<Vec<u8>, String> {
    loop {
        let head = link.take(2, halt).map_err(|loss| loss.detail)?;
        let payload = link.take(usize::from(head[1]), halt).map_err(|loss| loss.detail)?;
        match head[0] ^ LAST {
            TEXT => return Ok(payload),
            PING => {
                let pong = messages::frame(LAST | PONG, &payload, 0);
                link.send(&pong, usize::MAX, Duration::ZERO, halt);
            }
            other => return Err(format!("a frame of kind {other:#x}")),
        }
    }
}

/// An event stream is open, and has had nothing but the comments that keep it alive.
fn only_comments(link: &mut Link, halt: &Halt) -> Result<(), String> {
    while link.has_news(Duration::ZERO) {
        let size = link.take_line(halt).map_err(|loss| loss.detail)?;
        let chunk = link.take_line(halt).map_err(|loss| loss.detail)?;
        // The chunk ends with the line end of its comment, and one of its own.
        if size == b"0" || !chunk.starts_with(b":") {
            return Err(format!("{:?} of {:?} bytes", chunk.escape_ascii(), size.escape_ascii()));
        }
    }
    Ok(())
}

/// To a hundredth of a second.
fn cpu_of(pid: Pid) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').skip(11).take(2));
    let ticks: u64 = fields.into_iter().flatten().filter_map(|field| field.parse::<u64>().ok()).sum();
    let rate = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|rate| u64::try_from(rate).ok());
    Duration::from_millis(ticks * 1000 / rate.unwrap_or(100))
}

/// Of processes that have ended and were waited for.
fn cpu_of_children() -> Duration {
    let micros = getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0, |usage| {
        let time = usage.user_time() + usage.system_time();
        time.tv_sec() * 1_000_000 + time.tv_usec()
    });
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

fn held_by(pid: Pid) -> Held {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Held {
        resident_kib: field("VmRSS:").unwrap_or(0),
        peak_kib: field("VmHWM:").unwrap_or(0),
        threads: field("Threads:").unwrap_or(0),
        fds: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count),
    }
}

fn rounds(kind: Kind, streams: usize, many: usize, program: &Path) -> Result<Vec<Round>, String> {
    let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut scene = Scene::start(kind, streams, program, directory.path())?;
    (0..many).map(|_| scene.hand_over()).collect()
}

pub(crate) fn main(args: &[String]) -> MainResult {
    let (mut streams, mut many, mut only) = (5000, 3, None);
    let mut program = std::env::current_exe()?.with_file_name("kitchen_sink");
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--streams" => streams = value.parse()?,
            "--rounds" => many = value.parse()?,
            "--server" => program = PathBuf::from(value),
            "--only" => only = Some(value.as_str()),
            _ => return Err(USAGE.into()),
        }
    }
    herd::make_room(streams)?;
    println!("\n{streams} silent streams of a kind, {many} handovers one after the other:\n");
    print!(
        "| streams | handover | HUP to the end of the old process, ms | to the last answer, ms | CPU ms, old | new "
    );
    print!("| us for each stream, old | new | KiB for each, old at HUP | at most | new after it ");
    println!("| descriptors for each |\n|---|---|---|---|---|---|---|---|---|---|---|---|");
    for kind in KINDS.into_iter().filter(|kind| only.is_none_or(|only| only == kind.name)) {
        let alone = rounds(kind, 0, many, &program)?;
        let found = rounds(kind, streams, many, &program)?;
        for (number, (round, alone)) in found.iter().zip(&alone).enumerate() {
            show(kind, number + 1, streams, round, alone);
        }
    }
    Ok(())
}

fn show(kind: Kind, number: usize, streams: usize, round: &Round, alone: &Round) {
    let of = |more: f64| more / f64::from(u32::try_from(streams.max(1)).unwrap_or(u32::MAX));
    let us = |n: usize| of((round.cpu[n].as_secs_f64() - alone.cpu[n].as_secs_f64()) * 1e6);
    let kib = |with: u64, without: u64| of(float(with) - float(without));
    let [at_signal, peak, after] = &round.held;
    let [alone_at, alone_peak, alone_after] = &alone.held;
    println!(
        "| {} | {number} | {} | {} | {} | {} | {:.0} | {:.0} | {:.1} | {:.1} | {:.1} | {:.2} |",
        kind.name,
        round.moved.as_millis(),
        round.served.as_millis(),
        round.cpu[0].as_millis(),
        round.cpu[1].as_millis(),
        us(0),
        us(1),
        kib(at_signal.resident_kib, alone_at.resident_kib),
        kib(peak.peak_kib, alone_peak.peak_kib),
        kib(after.resident_kib, alone_after.resident_kib),
        kib(at_signal.fds as u64, alone_at.fds as u64),
    );
}

fn float(n: u64) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}
