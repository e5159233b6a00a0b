//! What a connection costs that does nothing: memory, threads and descriptors of a server with
//! thousands of them. See the README beside this workspace.

use heirloom_bench::machine::raise_descriptors;
use heirloom_bench::server::Running;
use heirloom_bench::{Error, ask, ask_once, connect};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const USAGE: &str = "idle [--server PATH]... [--connections 1000,10000]
The server is started with --listen ADDRESS. Default: heirloom_hello, as built beside this program.";
/// Descriptors of ours that are not connections to the server.
const RESERVED_FDS: u64 = 32;
const WARM_UP: usize = 200;
const FRESH: usize = 100;

struct Options {
    servers: Vec<String>,
    connections: Vec<usize>,
}

fn options() -> Result<Options, Error> {
    let mut options = Options { servers: Vec::new(), connections: vec![1000, 10_000] };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--server" => options.servers.push(value),
            "--connections" => {
                options.connections = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            _ => return Err(USAGE.into()),
        }
    }
    if options.servers.is_empty() {
        let beside = std::env::current_exe()?.with_file_name("heirloom_hello");
        options.servers.push(beside.display().to_string());
    }
    Ok(options)
}

struct Usage {
    rss_kib: u64,
    threads: u64,
    fds: usize,
}

impl Usage {
    fn of(server: &Running) -> Result<Usage, Error> {
        Ok(Usage {
            rss_kib: server.status("VmRSS:")?,
            threads: server.status("Threads:")?,
            fds: server.descriptors()?,
        })
    }
}

fn measure(server: &str, connections: usize) -> Result<(), Error> {
    let running = Running::start(&[server, "--listen", "{addr}"].map(String::from), None)?;
    // What the first requests touch (stacks, code) is no cost of a connection. One after the other:
    // memory for many connections must not be there already.
    for _ in 0..WARM_UP {
        ask_once(&running.address, "/")?;
    }
    thread::sleep(Duration::from_millis(200));
    let before = Usage::of(&running)?;

    let mut idle = Vec::with_capacity(connections);
    let (mut answered, mut failure) = (0, None);
    for _ in 0..connections {
        match connect(&running.address).and_then(|mut stream| {
            ask(&mut stream, "/")?;
            Ok(stream)
        }) {
            Ok(stream) => {
                answered += 1;
                idle.push(stream);
            }
            Err(error) => {
                failure = Some(error);
                // One refusal is a result; thousands that each run into the timeout are not.
                break;
            }
        }
    }
    if let Some(error) = failure {
        eprintln!("connection {} of {connections}: {error}", answered + 1);
    }
    thread::sleep(Duration::from_secs(1));
    let after = Usage::of(&running)?;

    let mut fresh = Vec::new();
    for _ in 0..FRESH {
        let started = Instant::now();
        ask_once(&running.address, "/")?;
        fresh.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    fresh.sort_by(f64::total_cmp);
    let again = idle.iter_mut().filter_map(|stream| ask(stream, "/").ok()).count();

    let name = Path::new(server).file_name().unwrap_or_default().display();
    println!(
        "| {name} | {connections} | {answered} | {again} | {:.2} | {} -> {} | {} -> {} | {} -> {} | {:.2} | {:.2} |",
        (after.rss_kib as f64 - before.rss_kib as f64) / f64::from(answered.max(1)),
        before.rss_kib,
        after.rss_kib,
        before.threads,
        after.threads,
        before.fds,
        after.fds,
        fresh[FRESH / 2],
        fresh[FRESH - 1]
    );
    Ok(())
}

fn main() -> Result<(), Error> {
    let options = options()?;
    // For us and, inherited, for servers that don't raise it themselves.
    let most = raise_descriptors()?.saturating_sub(RESERVED_FDS);
    if let Some(&many) = options.connections.iter().find(|&&many| many as u64 > most) {
        return Err(format!("{many} connections: the limit of open files allows {most}").into());
    }
    println!("\nIdle keep-alive connections; fresh requests are made while they idle:\n");
    print!("| server | connections | answered | answered again | KiB each | RSS KiB | threads | fds ");
    println!("| fresh ms, median | worst |\n|---|---|---|---|---|---|---|---|---|---|");
    for &connections in &options.connections {
        for server in &options.servers {
            measure(server, connections)?;
        }
    }
    Ok(())
}
