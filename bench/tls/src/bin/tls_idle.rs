//! What an idle connection costs a server, with TLS and without: its own memory, and the kernel's. See the README of the
//! workspace.

use heirloom_bench::Error;
use heirloom_bench::machine::raise_descriptors;
use heirloom_bench::server::Running;
use heirloom_bench_tls::Scratch;
use heirloom_bench_tls::crowd::Crowd;
use heirloom_bench_tls::link::Version;
use heirloom_bench_tls::peers::{Peer, known};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

const USAGE: &str = "tls_idle [--connections 10000] [--only PEER,...] [--server-cpus 0,1]";
/// Connections that are made and closed before the first reading: what any connection touches is no cost of one.
const WARM_UP: usize = 200;

struct Usage {
    rss_kib: f64,
    kernel_kib: f64,
    cpu: Duration,
}

impl Usage {
    fn of(server: &Running) -> Result<Usage, Error> {
        Ok(Usage { rss_kib: server.status("VmRSS:")? as f64, kernel_kib: kernel_kib()?, cpu: server.cpu()? })
    }
}

/// Memory of the kernel that it can't give back, of the whole machine: sockets, files, events.
fn kernel_kib() -> Result<f64, Error> {
    let all = fs::read_to_string("/proc/meminfo")?;
    let line = all.lines().find_map(|line| line.strip_prefix("SUnreclaim:")).ok_or("no SUnreclaim")?;
    Ok(line.split_whitespace().next().ok_or("no number")?.parse()?)
}

fn measure(peer: &Peer, connections: usize, cpus: &str) -> Result<(), Error> {
    let server = peer.start(cpus)?;
    let version = peer.is_tls.then_some(Version::Tls13);
    Crowd::connect(&server.address, version, WARM_UP, "/")?;
    thread::sleep(Duration::from_millis(500));
    let before = Usage::of(&server)?;
    let started = Instant::now();
    let mut crowd = Crowd::connect(&server.address, version, connections, "/")?;
    let took = started.elapsed();
    thread::sleep(Duration::from_secs(1));
    let after = Usage::of(&server)?;
    let asked = crowd.ask_all("/")?;
    let each = |before: f64, after: f64| (after - before) / connections as f64;
    println!(
        "| {} | {:.2} | {:.0} -> {:.0} | {:.2} | {:.1} | {:.1} | {asked} |",
        peer.name,
        each(before.rss_kib, after.rss_kib),
        before.rss_kib / 1024.0,
        after.rss_kib / 1024.0,
        each(before.kernel_kib, after.kernel_kib),
        each(before.cpu.as_secs_f64() * 1e6, after.cpu.as_secs_f64() * 1e6),
        took.as_secs_f64(),
    );
    Ok(())
}

fn main() -> Result<(), Error> {
    let (mut connections, mut only, mut cpus) = (10_000, Vec::<String>::new(), "0,1".to_owned());
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--connections" => connections = value.parse()?,
            "--only" => only = value.split(',').map(String::from).collect(),
            "--server-cpus" => cpus = value,
            _ => return Err(USAGE.into()),
        }
    }
    let most = raise_descriptors()?.saturating_sub(100);
    if connections as u64 > most {
        return Err(format!("{connections} connections: the limit of open files allows {most}").into());
    }
    let scratch = Scratch::new()?;
    let mut peers = known(&scratch)?;
    peers.retain(|peer| only.is_empty() || only.iter().any(|name| name == peer.name));
    println!("\n{connections} idle connections, TLS 1.3, after a request on each:\n");
    println!(
        "| server | KiB each | MiB in all | kernel, both ends: KiB each | CPU us to open each | s | answered again |"
    );
    println!("|---|---|---|---|---|---|---|");
    for peer in peers {
        if let Err(error) = measure(&peer, connections, &cpus) {
            println!("| {} | {error} |", peer.name);
        }
    }
    Ok(())
}
