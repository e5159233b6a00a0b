//! What normal clients notice of thousands of slow ones: their latencies with and without, in
//! interleaved runs. See the README beside this workspace.

use heirloom_bench::machine::raise_descriptors;
use heirloom_bench::server::Running;
use heirloom_bench::slow::{Kind, Tormentor};
use heirloom_bench::{Error, latencies, median};
use std::thread;
use std::time::Duration;

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

/// Latencies of normal clients, sorted.
fn measure(address: &str, clients: usize, time: Duration) -> Result<Vec<Duration>, Error> {
    let client = || {
        let address = address.to_owned();
        thread::spawn(move || latencies(&address, "/", Duration::from_millis(2), time))
    };
    let threads: Vec<_> = (0..clients).map(|_| client()).collect();
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

fn main() -> Result<(), Error> {
    let options = options()?;
    raise_descriptors()?;
    let of = |n: usize| n * options.scale / 100;
    let kinds = [
        (Kind::Head, of(2000)),
        (Kind::Body(32 << 10), of(500)),
        (Kind::Body(4 << 20), of(100)),
        (Kind::Reader, of(500)),
    ];
    let time = Duration::from_secs(options.seconds);
    let (mut p99_alone, mut p99_beside, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    println!(
        "| round | alone: requests, p50, p99 ms | beside: requests, p50, p99 ms | ratio of p99 | slow clients: connects, turned away |"
    );
    println!("| --- | --- | --- | --- | --- |");
    for round in 1..=options.rounds {
        let server = options.server.clone();
        let command =
            [server, "--listen".into(), "{addr}".into(), "--workers".into(), options.workers.to_string()];
        let running = Running::start(&command, None)?;
        let address = &running.address;
        measure(address, options.clients, Duration::from_millis(500))?;
        let alone = measure(address, options.clients, time)?;
        let tormentor = Tormentor::start(address, &kinds);
        let beside = measure(address, options.clients, time);
        let counts = tormentor.stop()?;
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
        median(p99_alone),
        median(p99_beside),
        median(ratios)
    );
    Ok(())
}
