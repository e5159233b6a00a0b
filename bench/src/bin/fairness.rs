//! What a few clients that take all they can get cost others, and what that costs them: the waiting time of
//! another client and the server's CPU time, for each KB that they send. See the README beside this workspace.

use heirloom_bench::server::Running;
use heirloom_bench::{Error, latencies};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const USAGE: &str = "fairness [--server PATH] [--workers N] [--clients N] [--seconds N]
The server is kitchen_sink, as built by cargo build --release --examples. Default: 4 workers, 4 greedy clients of
each kind, 5 seconds of each.";

struct Options {
    server: String,
    workers: usize,
    clients: usize,
    seconds: u64,
}

fn options() -> Result<Options, Error> {
    let server = "../target/release/examples/kitchen_sink".to_owned();
    let mut options = Options { server, workers: 4, clients: 4, seconds: 5 };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--server" => options.server = value,
            "--workers" => options.workers = value.parse()?,
            "--clients" => options.clients = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

/// What greedy clients send again and again.
fn kinds() -> Vec<(&'static str, Option<Vec<u8>>)> {
    const BODY: usize = 2 << 20;
    let get = |path: &str, times: usize| {
        format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").repeat(times).into_bytes()
    };
    let post = |path: &str, framing: &str, body: &[u8]| {
        [format!("POST {path} HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n").as_bytes(), body].concat()
    };
    let chunks = [&b"1\r\nx\r\n".repeat(BODY)[..], b"0\r\n\r\n"].concat();
    let chunked = "Transfer-Encoding: chunked";
    vec![
        ("nobody", None),
        ("120 pipelined requests whose handler takes 100 ms", Some(get("/sleep/100", 120))),
        ("1,000 pipelined requests whose handler takes 1 ms", Some(get("/sleep/1", 1_000))),
        ("1,000 pipelined requests", Some(get("/ok", 1_000))),
        ("a body of 2 MiB", Some(post("/echo", &format!("Content-Length: {BODY}"), &vec![b'x'; BODY]))),
        ("a body of 2 MiB, in chunks of a byte", Some(post("/echo", chunked, &chunks))),
        ("the same, to a streaming handler", Some(post("/discard", chunked, &chunks))),
        ("a request for 1 GB, which is read fast", Some(get("/big/1000000000", 1))),
    ]
}

/// Clients that send `bytes` again and again, and read every response.
struct Greedy {
    sockets: Vec<TcpStream>,
    threads: Vec<thread::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Greedy {
    fn new(address: &str, clients: usize, bytes: &Arc<Vec<u8>>) -> Result<Greedy, Error> {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut greedy = Greedy { sockets: Vec::new(), threads: Vec::new(), stop, sent };
        for _ in 0..clients {
            let socket = TcpStream::connect(address)?;
            let (mut reader, mut writer) = (socket.try_clone()?, socket.try_clone()?);
            let (stop, sent, bytes) = (Arc::clone(&greedy.stop), Arc::clone(&greedy.sent), Arc::clone(bytes));
            greedy.threads.push(thread::spawn(move || {
                let mut pieces = bytes.chunks(64 << 10).cycle();
                while let Some(piece) = pieces.next().filter(|_| !stop.load(Ordering::Relaxed)) {
                    if writer.write_all(piece).is_err() {
                        return;
                    }
                    sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                }
            }));
            greedy.threads.push(thread::spawn(move || {
                let mut piece = vec![0; 256 << 10];
                while matches!(reader.read(&mut piece), Ok(n) if n > 0) {}
            }));
            greedy.sockets.push(socket);
        }
        Ok(greedy)
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for socket in &self.sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
        for thread in self.threads {
            let _ = thread.join();
        }
        self.sent.load(Ordering::Relaxed)
    }
}

fn main() -> Result<(), Error> {
    let options = options()?;
    println!(
        "| {} greedy clients, {} workers | KB/s sent | CPU ms for a KB | another waits, p50 ms | p99 ms | at most ms |",
        options.clients, options.workers
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for (kind, bytes) in kinds() {
        let words = ["--workers", &options.workers.to_string(), "--listen", "{addr}"].map(str::to_owned);
        let command = [&[options.server.clone()][..], &words].concat();
        let server = Running::start(&command, None)?;
        let bytes = bytes.map(Arc::new);
        let begin = Instant::now();
        let greedy = bytes.map(|bytes| Greedy::new(&server.address, options.clients, &bytes)).transpose()?;
        let before = server.cpu()?;
        let waits =
            latencies(&server.address, "/ok", Duration::from_millis(5), Duration::from_secs(options.seconds));
        let (cpu, time) = (server.cpu()?.saturating_sub(before), begin.elapsed());
        let sent = greedy.map_or(0, Greedy::stop) as f64 / 1e3;
        server.stop()?;
        let waits = waits?;
        let at = |percent: usize| waits[(waits.len() - 1) * percent / 100].as_secs_f64() * 1e3;
        let of_kb =
            if sent > 0.0 { format!("{:.3}", cpu.as_secs_f64() * 1e3 / sent) } else { "-".to_owned() };
        let rate = sent / time.as_secs_f64();
        println!("| {kind} | {rate:.0} | {of_kb} | {:.2} | {:.2} | {:.2} |", at(50), at(99), at(100));
    }
    Ok(())
}
