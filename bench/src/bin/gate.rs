//! Starts servers one after the other, measures each with wrk (or with a burst of its own) and
//! prints markdown tables of medians. See the README beside this workspace.

use heirloom_bench::machine::{busy, cpu_of, pin_self, quiet};
use heirloom_bench::server::Running;
use heirloom_bench::wrk::{Seen, Wrk};
use heirloom_bench::{Error, answer, ask, connect, median, send, stolen};
use nix::sys::resource::UsageWho;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

struct Options {
    servers: Vec<(String, String)>,
    baseline: String,
    connections: Vec<usize>,
    seconds: u64,
    reps: usize,
    path: String,
    server_cpus: String,
    client_cpus: String,
    /// Connections that ask for `slow_path` all the time while wrk runs.
    slow_connections: usize,
    slow_path: String,
    queued_wait: bool,
    burst_paths: Vec<String>,
    burst: usize,
    bursts: usize,
    /// What all waiting for a quiet machine together may take.
    patience: Duration,
}

const USAGE: &str = "gate [--server NAME=COMMAND]... [--only NAME,...] [--baseline NAME] \
[--connections 1,16,64,1000] [--seconds 3] [--reps 3] [--path /] [--server-cpus 0] \
[--client-cpus 1] [--slow-connections 0] [--slow-path /slow] [--patience SECONDS]
gate --queued-wait [--burst-paths /slow,/block,/turn?slow] [--burst 8] [--bursts 12] ...
{addr} in COMMAND becomes the address to listen on.";

fn options() -> Result<Options, Error> {
    let mut options = Options {
        servers: Vec::new(),
        baseline: "hyper".into(),
        connections: vec![1, 16, 64, 1000],
        seconds: 3,
        reps: 3,
        path: "/".into(),
        server_cpus: "0".into(),
        client_cpus: "1".into(),
        slow_connections: 0,
        slow_path: "/slow".into(),
        queued_wait: false,
        burst_paths: ["/slow", "/block", "/turn?slow"].map(String::from).into(),
        burst: 8,
        bursts: 12,
        patience: Duration::from_secs(300),
    };
    let (mut own, mut only) = (Vec::new(), Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        if flag == "--queued-wait" {
            options.queued_wait = true;
            continue;
        }
        let value = args.next().ok_or(USAGE)?;
        let list = || value.split(',').map(String::from).collect::<Vec<_>>();
        match flag.as_str() {
            "--server" => {
                let (name, command) = value.split_once('=').ok_or(USAGE)?;
                own.push((name.to_string(), command.to_string()));
            }
            "--only" => only = list(),
            "--baseline" => options.baseline = value,
            "--connections" => {
                let numbers = value.split(',').map(str::parse);
                options.connections = numbers.collect::<Result<_, _>>()?;
            }
            "--seconds" => options.seconds = value.parse()?,
            "--reps" => options.reps = value.parse()?,
            "--path" => options.path = value,
            "--server-cpus" => options.server_cpus = value,
            "--client-cpus" => options.client_cpus = value,
            "--slow-connections" => options.slow_connections = value.parse()?,
            "--slow-path" => options.slow_path = value,
            "--burst-paths" => options.burst_paths = list(),
            "--burst" => options.burst = value.parse()?,
            "--bursts" => options.bursts = value.parse()?,
            "--patience" => options.patience = Duration::from_secs(value.parse()?),
            _ => return Err(USAGE.into()),
        }
    }
    options.servers = known_servers()?;
    options.servers.extend(own);
    if !only.is_empty() {
        options.servers.retain(|(name, _)| only.contains(name));
    }
    Ok(options)
}

/// hyper, the crate itself and every prototype, as built beside this program.
fn known_servers() -> Result<Vec<(String, String)>, Error> {
    let here = std::env::current_exe()?;
    let folder = here.parent().ok_or("no folder")?.display().to_string();
    let mut servers = vec![("hyper".to_string(), format!("{folder}/hyper_hello --listen {{addr}}"))];
    // As many workers as the prototypes have.
    let heirloom = format!("{folder}/heirloom_hello --listen {{addr}} --workers 16");
    servers.push(("heirloom".to_string(), heirloom));
    for arm in ["edge", "oneshot"] {
        for wake in ["each", "batch", "lazy", "batch-nobound"] {
            let flags = format!("--workers 16 --arm {arm} --wake {wake}");
            servers.push((format!("{arm}/{wake}"), format!("{folder}/engine --listen {{addr}} {flags}")));
        }
    }
    for wake in ["batch", "lazy"] {
        servers.push((
            format!("edge/{wake}/look-front"),
            format!("{folder}/engine --listen {{addr}} --workers 16 --arm edge --wake {wake} --look front"),
        ));
    }
    Ok(servers)
}

#[derive(Clone)]
struct Sample {
    seen: Seen,
    ratio: Option<f64>,
    cpu_us: f64,
    /// Others took a fifth of a core or more, before or during the run.
    disturbed: bool,
}

fn with_wrk(options: &Options, server: &Running, connections: usize) -> Result<Sample, Error> {
    let own = || -> Result<Duration, Error> {
        Ok(cpu_of(UsageWho::RUSAGE_SELF)? + cpu_of(UsageWho::RUSAGE_CHILDREN)?)
    };
    let (machine_before, own_before, cpu_before) = (busy()?, own()?, server.cpu()?);
    let started = Instant::now();
    let wrk = Wrk {
        url: format!("http://{}{}", server.address, options.path),
        connections,
        seconds: options.seconds,
        cpus: Some(&options.client_cpus),
        script: None,
    };
    let seen = wrk.run(|| {})?;
    let took = started.elapsed().as_secs_f64();
    let cpu = (server.cpu()? - cpu_before).as_secs_f64();
    let ours = (own()? - own_before).as_secs_f64() + cpu;
    let others = (busy()? - machine_before).as_secs_f64() - ours;
    Ok(Sample { cpu_us: cpu * 1e6 / seen.requests, seen, ratio: None, disturbed: others / took >= 0.2 })
}

fn start(command: &str, cpus: &str) -> Result<Running, Error> {
    let words: Vec<String> = command.split_whitespace().map(String::from).collect();
    Running::start(&words, Some(cpus))
}

fn measure(
    options: &Options,
    command: &str,
    connections: usize,
    patience: &mut Duration,
) -> Result<Sample, Error> {
    let calm = quiet(patience)?;
    let server = start(command, &options.server_cpus)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut slow = Vec::new();
    for _ in 0..options.slow_connections {
        let (stop, path) = (Arc::clone(&stop), options.slow_path.clone());
        let mut client = connect(&server.address)?;
        slow.push(thread::spawn(
            move || {
                while !stop.load(Ordering::Relaxed) && ask(&mut client, &path).is_ok() {}
            },
        ));
    }
    let result = with_wrk(options, &server, connections);
    stop.store(true, Ordering::Relaxed);
    drop(server);
    for client in slow {
        let _ = client.join();
    }
    let mut sample = result?;
    sample.disturbed |= !calm;
    Ok(sample)
}

fn table(options: &Options) -> Result<(), Error> {
    let mut patience = options.patience;
    let cells = options.connections.len();
    let mut samples = vec![vec![Vec::new(); options.servers.len()]; cells];
    for rep in 0..options.reps {
        for (cell, &connections) in options.connections.iter().enumerate() {
            let mut baseline = None;
            for (index, (name, command)) in options.servers.iter().enumerate() {
                let mut sample = measure(options, command, connections, &mut patience)?;
                if *name == options.baseline {
                    baseline = Some(sample.seen.rate);
                }
                sample.ratio = baseline.map(|rate| sample.seen.rate / rate);
                eprintln!(
                    "rep {} c{connections} {name}: {:.0}/s ratio {:.2} {:.2} us p99 {:.2} ms{} {}",
                    rep + 1,
                    sample.seen.rate,
                    sample.ratio.unwrap_or(f64::NAN),
                    sample.cpu_us,
                    sample.seen.p99_ms,
                    if sample.disturbed { " *" } else { "" },
                    sample.seen.errors
                );
                samples[cell][index].push(sample);
            }
        }
    }
    for (cell, connections) in options.connections.iter().enumerate() {
        println!("\n{} with {connections} connections, medians of {}:\n", options.path, options.reps);
        println!("| server | req/s | ratio (all) | CPU us/req | p50 ms | p99 ms | |");
        println!("|---|---|---|---|---|---|---|");
        for (index, (name, _)) in options.servers.iter().enumerate() {
            let runs: &[Sample] = &samples[cell][index];
            let of = |f: fn(&Sample) -> f64| median(runs.iter().map(f));
            let ratios: Vec<f64> = runs.iter().filter_map(|s| s.ratio).collect();
            let ratio = if ratios.is_empty() {
                "-".to_string()
            } else {
                let all: Vec<String> = ratios.iter().map(|r| format!("{r:.2}")).collect();
                format!("{:.2} ({})", median(ratios.into_iter()), all.join(", "))
            };
            let stars = "*".repeat(runs.iter().filter(|s| s.disturbed).count());
            let errors = runs.iter().find(|s| !s.seen.errors.is_empty());
            println!(
                "| {name} | {:.1}k | {ratio} | {:.2} | {:.3} | {:.2} | {stars} {} |",
                of(|s| s.seen.rate) / 1000.0,
                of(|s| s.cpu_us),
                of(|s| s.seen.p50_ms),
                of(|s| s.seen.p99_ms),
                errors.map_or("", |s| s.seen.errors.as_str())
            );
        }
    }
    Ok(())
}

/// Blocking requests and, right behind them, a fast one: how long does the fast one wait?
fn bursts(options: &Options, server: &Running, path: &str) -> Result<Vec<(f64, u64)>, Error> {
    let mut blocking = Vec::new();
    for _ in 0..options.burst {
        blocking.push(connect(&server.address)?);
    }
    let mut fast = connect(&server.address)?;
    let plain = path.split('?').next().unwrap_or(path).to_string();
    let mut waits = Vec::new();
    for _ in 0..options.bursts {
        for client in blocking.iter_mut().chain([&mut fast]) {
            send(client, "/")?;
            answer(client)?;
        }
        // With a query the route has been fast so far, and its slowness is a surprise.
        for _ in 0..if path.contains('?') { 200 } else { 0 } {
            send(&mut fast, &plain)?;
            answer(&mut fast)?;
        }
        // All workers are asleep again before the burst.
        thread::sleep(Duration::from_millis(5));
        for client in &mut blocking {
            send(client, path)?;
        }
        let stolen_before = stolen()?;
        let started = Instant::now();
        send(&mut fast, "/")?;
        answer(&mut fast)?;
        let wait = started.elapsed().as_secs_f64() * 1000.0;
        waits.push((wait, stolen()? - stolen_before));
        for client in &mut blocking {
            answer(client)?;
        }
    }
    Ok(waits)
}

fn queued_wait(options: &Options) -> Result<(), Error> {
    pin_self(&options.client_cpus)?;
    let mut patience = options.patience;
    println!(
        "\nA fast request behind {} blocking ones, server on cpu {}, client on cpu {}:\n",
        options.burst, options.server_cpus, options.client_cpus
    );
    println!(
        "| server | path | worst ms | worst without steal | median ms | bursts |\n|---|---|---|---|---|---|"
    );
    for (name, command) in &options.servers {
        for path in &options.burst_paths {
            let calm = quiet(&mut patience)?;
            let server = start(command, &options.server_cpus)?;
            let waits = bursts(options, &server, path)?;
            // A wait during which the hypervisor took the cores away says nothing about the server.
            let worst = |all: bool| {
                let counted = waits.iter().filter(|wait| all || wait.1 == 0);
                counted.fold(0.0, |worst, wait| f64::max(worst, wait.0))
            };
            println!(
                "| {name} | {path} | {:.2}{} | {:.2} | {:.2} | {} |",
                worst(true),
                if calm { "" } else { "*" },
                worst(false),
                median(waits.iter().map(|wait| wait.0)),
                waits.len()
            );
        }
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    let options = options()?;
    if options.queued_wait { queued_wait(&options) } else { table(&options) }
}
