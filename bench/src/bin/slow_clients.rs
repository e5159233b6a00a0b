//! What normal clients notice of thousands of slow ones: their latencies with and without, in
//! interleaved runs. See the README beside this workspace.

use heirloom_bench::{Error, free_address, wait_until_accepting};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const USAGE: &str = "slow_clients [--server PATH] [--workers N] [--rounds N] [--seconds N] [--clients N] [--scale PERCENT]
The server is kitchen_sink, as built by cargo build --release --examples. Default: 2 workers, 5 rounds of 5
seconds, 16 normal clients; beside them 2,000 slow heads, 500 bodies of 32 KiB and 100 of 4 MiB that come a byte
a second, and 500 clients that read 256 KiB a KiB a second.";

struct Options {
    server: String,
    workers: usize,
    rounds: usize,
    seconds: u64,
    clients: usize,
    scale: usize,
}

fn options() -> Result<Options, Error> {
    let mut options = Options {
        server: "../target/release/examples/kitchen_sink".to_owned(),
        workers: 2,
        rounds: 5,
        seconds: 5,
        clients: 16,
        scale: 100,
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--server" => options.server = value,
            "--workers" => options.workers = value.parse()?,
            "--rounds" => options.rounds = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            "--clients" => options.clients = value.parse()?,
            "--scale" => options.scale = value.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a slow client does.
#[derive(Clone, Copy)]
enum Kind {
    Head,
    Body(usize),
    Reader,
}

/// One slow client; it comes again when it is turned away.
struct Slow {
    kind: Kind,
    stream: Option<TcpStream>,
}

#[derive(Default, Clone, Copy)]
struct Counts {
    connects: u64,
    turned_away: u64,
    read: u64,
}

impl Slow {
    fn connect(&mut self, address: &str, counts: &mut Counts) {
        let Ok(stream) = TcpStream::connect(address) else { return };
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
                let answered = matches!(stream.read(&mut piece), Ok(_));
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

/// Acts for all slow clients, spread over each second, until told to stop.
fn torment(address: &str, kinds: &[(Kind, usize)], ready: &AtomicBool, stop: &AtomicBool) -> Counts {
    let mut counts = Counts::default();
    let mut all: Vec<Slow> = kinds
        .iter()
        .flat_map(|(kind, n)| (0..*n).map(|_| Slow { kind: *kind, stream: None }))
        .collect();
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

/// Latencies of normal clients, sorted.
fn measure(address: &str, clients: usize, time: Duration) -> Result<Vec<Duration>, Error> {
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let address = address.to_owned();
            thread::spawn(move || -> Result<Vec<Duration>, String> {
                let mut stream = TcpStream::connect(&address).map_err(|e| e.to_string())?;
                stream.set_nodelay(true).map_err(|e| e.to_string())?;
                let mut latencies = Vec::new();
                let end = Instant::now() + time;
                let mut buf = [0; 1024];
                while Instant::now() < end {
                    let begin = Instant::now();
                    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").map_err(|e| e.to_string())?;
                    let n = stream.read(&mut buf).map_err(|e| e.to_string())?;
                    if !buf[..n].starts_with(b"HTTP/1.1 200 ") {
                        return Err(format!("not 200: {}", String::from_utf8_lossy(&buf[..n])));
                    }
                    latencies.push(begin.elapsed());
                    thread::sleep(Duration::from_millis(2));
                }
                Ok(latencies)
            })
        })
        .collect();
    let mut all = Vec::new();
    for thread in threads {
        all.extend(thread.join().map_err(|_| "a client panicked")??);
    }
    all.sort_unstable();
    Ok(all)
}

fn at(sorted: &[Duration], per_mille: usize) -> f64 {
    let index = (sorted.len() * per_mille / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn main() -> Result<(), Error> {
    let options = options()?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let of = |n: usize| n * options.scale / 100;
    let kinds = [
        (Kind::Head, of(2000)),
        (Kind::Body(32 << 10), of(500)),
        (Kind::Body(4 << 20), of(100)),
        (Kind::Reader, of(500)),
    ];
    let time = Duration::from_secs(options.seconds);
    let (mut p99_alone, mut p99_beside, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    println!("| round | alone: requests, p50, p99 ms | beside: requests, p50, p99 ms | ratio of p99 | slow clients: connects, turned away |");
    println!("| --- | --- | --- | --- | --- |");
    for round in 1..=options.rounds {
        let address = free_address()?;
        let child = Command::new(&options.server)
            .args(["--listen", &address, "--workers", &options.workers.to_string()])
            .env("RUST_LOG", "error")
            .spawn()
            .map_err(|error| format!("{}: {error}", options.server))?;
        let _running = Running(child);
        wait_until_accepting(&address)?;
        measure(&address, options.clients, Duration::from_millis(500))?;
        let alone = measure(&address, options.clients, time)?;
        let (ready, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let tormentor = {
            let (address, ready, stop) = (address.clone(), Arc::clone(&ready), Arc::clone(&stop));
            thread::spawn(move || torment(&address, &kinds, &ready, &stop))
        };
        while !ready.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(10));
        }
        let beside = measure(&address, options.clients, time);
        stop.store(true, Ordering::SeqCst);
        let counts = tormentor.join().map_err(|_| "the slow clients panicked")?;
        let beside = beside?;
        let (a, b) = (at(&alone, 990), at(&beside, 990));
        println!(
            "| {round} | {}, {:.2}, {a:.2} | {}, {:.2}, {b:.2} | {:.2} | {}, {} |",
            alone.len(),
            at(&alone, 500),
            beside.len(),
            at(&beside, 500),
            b / a,
            counts.connects,
            counts.turned_away,
        );
        p99_alone.push(a);
        p99_beside.push(b);
        ratios.push(b / a);
    }
    println!(
        "| median | p99 {:.2} | p99 {:.2} | **{:.2}** | |",
        median(&mut p99_alone),
        median(&mut p99_beside),
        median(&mut ratios)
    );
    Ok(())
}
