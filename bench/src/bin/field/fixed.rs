//! Latencies at a rate that all can keep, counted from the time a request was due.

use crate::peers::Peer;
use crate::run::{Bench, beside, field};
use crate::scenarios::{self, Scenario};
use crate::{Error, Options};
use heirloom_bench::median;
use heirloom_bench::wrk::output_of;
use std::time::Duration;

/// Of what the slowest of them can do.
const SHARE: f64 = 0.6;
const CONNECTIONS: &str = "64";

struct Latencies {
    /// Requests a second that were answered.
    rate: f64,
    /// p50, p90, p99, p99.9, longest, in milliseconds.
    at: [f64; 5],
    cpu_us: f64,
    /// How late the load program itself was, at worst.
    late_ms: f64,
}

pub fn table(options: &Options, peers: &[Peer]) -> Result<(), Error> {
    let peers: Vec<&Peer> = peers.iter().filter(|peer| options.fixed_peers.contains(&peer.name)).collect();
    if peers.is_empty() {
        return Ok(());
    }
    let scenario = scenarios::find("ka64").ok_or("no such scenario")?;
    let rate = match options.rate {
        Some(rate) => rate,
        None => below_saturation(&options.bench, &peers, &scenario)?,
    };
    let mut all: Vec<Vec<Latencies>> = peers.iter().map(|_| Vec::new()).collect();
    for rep in 0..options.reps {
        for turn in 0..peers.len() {
            let index = (turn + rep) % peers.len();
            let (Some(peer), Some(runs)) = (peers.get(index), all.get_mut(index)) else { continue };
            let run = one(&options.bench, peer, &scenario, rate);
            match run {
                Ok(run) => {
                    let p99 = run.at[2];
                    eprintln!(
                        "fixed {}/{} {}: {:.0}/s, p99 {p99:.2} ms",
                        rep + 1,
                        options.reps,
                        peer.name,
                        run.rate
                    );
                    runs.push(run);
                }
                Err(error) => eprintln!("fixed {}/{} {}: {error}", rep + 1, options.reps, peer.name),
            }
        }
    }
    println!("\n## {rate} requests/s on {CONNECTIONS} connections, latencies from when they were due\n");
    println!(
        "| server | answered/s | p50 ms | p90 ms | p99 ms | p99.9 ms | longest ms | CPU us/req | client late, ms |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (peer, runs) in peers.iter().zip(&all) {
        let at = |index: usize| median(runs.iter().filter_map(|run| run.at.get(index).copied()));
        println!(
            "| {} | {:.0} | {:.3} | {:.3} | {:.3} | {:.3} | {:.2} | {:.2} | {:.2} |",
            peer.name,
            median(runs.iter().map(|run| run.rate)),
            at(0),
            at(1),
            at(2),
            at(3),
            at(4),
            median(runs.iter().map(|run| run.cpu_us)),
            median(runs.iter().map(|run| run.late_ms)),
        );
    }
    Ok(())
}

/// A rate in whole thousands.
fn below_saturation(bench: &Bench, peers: &[&Peer], scenario: &Scenario) -> Result<u64, Error> {
    let mut least = f64::INFINITY;
    for peer in peers {
        let server = bench.start(peer, scenario)?;
        least = least.min(bench.load(&server, scenario, || {})?.rate);
    }
    Ok(((least * SHARE / 1000.0) as u64).max(1) * 1000)
}

fn one(bench: &Bench, peer: &Peer, scenario: &Scenario, rate: u64) -> Result<Latencies, Error> {
    let server = bench.start(peer, scenario)?;
    let mut command = beside("fixed_rate", Some(&bench.client_cpus))?;
    command.arg(&server.address).args(["--connections", CONNECTIONS]);
    command.args(["--rate", &rate.to_string(), "--seconds", &bench.seconds.to_string()]);
    let before = server.cpu()?;
    let (text, _) = output_of(command, Duration::from_secs(bench.seconds), || {})?;
    let cpu = (server.cpu()? - before).as_secs_f64();
    let millis = |name: &str| Ok::<f64, Error>(field(&text, name)? / 1000.0);
    Ok(Latencies {
        rate: field(&text, "requests")? / field(&text, "seconds")?,
        at: [millis("p50_us")?, millis("p90_us")?, millis("p99_us")?, millis("p999_us")?, millis("max_us")?],
        cpu_us: cpu * 1e6 / field(&text, "requests")?,
        late_ms: millis("late_us")?,
    })
}
