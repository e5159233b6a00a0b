//! Clients that send and read a little once a second, thousands of them on one thread.

use crate::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A server that accepts no connection for so long has no room for a slow client.
const CONNECT_WITHIN: Duration = Duration::from_millis(200);

/// What a slow client does.
#[derive(Clone, Copy)]
pub enum Kind {
    Head,
    Body(usize),
    Reader,
}

/// One slow client, which connects again when it is refused.
struct Slow {
    kind: Kind,
    stream: Option<TcpStream>,
}

#[derive(Default, Clone, Copy)]
pub struct Counts {
    pub connects: u64,
    pub turned_away: u64,
    pub read: u64,
}

impl Slow {
    fn connect(&mut self, address: &str, counts: &mut Counts) {
        let Ok(address) = address.parse() else { return };
        let Ok(stream) = TcpStream::connect_timeout(&address, CONNECT_WITHIN) else { return };
        let begin = match self.kind {
            Kind::Head => "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ".to_owned(),
            Kind::Body(len) => format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n"),
            Kind::Reader => "GET /big/262144 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        };
        if let Kind::Reader = self.kind {
            // What the kernel holds for the client is not slow.
            let _ = nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::RcvBuf, &4096);
        }
        if (&stream).write_all(begin.as_bytes()).is_ok() && stream.set_nonblocking(true).is_ok() {
            counts.connects += 1;
            self.stream = Some(stream);
        }
    }

    /// Once a second.
    fn act(&mut self, address: &str, counts: &mut Counts) {
        let Some(stream) = &mut self.stream else { return self.connect(address, counts) };
        let mut piece = [0; 1024];
        let gone = match self.kind {
            Kind::Reader => match stream.read(&mut piece) {
                Ok(0) => true,
                Ok(n) => {
                    counts.read += n as u64;
                    false
                }
                Err(e) => e.kind() != ErrorKind::WouldBlock,
            },
            _ => {
                let answered = stream.read(&mut piece).is_ok();
                answered || stream.write(b"a").is_err()
            }
        };
        if gone {
            counts.turned_away += 1;
            self.stream = None;
            self.connect(address, counts);
        }
    }
}

/// Acts for all slow clients, spread over each second, until it is stopped.
fn torment(address: &str, kinds: &[(Kind, usize)], ready: &AtomicBool, stop: &AtomicBool) -> Counts {
    let mut counts = Counts::default();
    let mut all: Vec<Slow> =
        kinds.iter().flat_map(|(kind, n)| (0..*n).map(|_| Slow { kind: *kind, stream: None })).collect();
    for slow in &mut all {
        slow.connect(address, &mut counts);
    }
    ready.store(true, Ordering::SeqCst);
    let parts = 100;
    let size = all.len().div_ceil(parts).max(1);
    let begin = Instant::now();
    for turn in 0.. {
        for slow in all.chunks_mut(size).nth(turn % parts).unwrap_or_default() {
            slow.act(address, &mut counts);
        }
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let next = begin + Duration::from_millis(10) * (turn as u32 + 1);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    counts
}

/// Slow clients at work, on a thread of their own.
pub struct Tormentor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Counts>,
}

impl Tormentor {
    /// Returns when each has tried to connect, or after 10 s.
    pub fn start(address: &str, kinds: &[(Kind, usize)]) -> Tormentor {
        let (ready, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (address, kinds) = (address.to_owned(), kinds.to_vec());
            let (ready, stop) = (Arc::clone(&ready), Arc::clone(&stop));
            thread::spawn(move || torment(&address, &kinds, &ready, &stop))
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !ready.load(Ordering::SeqCst) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        Tormentor { stop, thread }
    }

    pub fn stop(self) -> Result<Counts, Error> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| "the slow clients panicked".into())
    }
}
