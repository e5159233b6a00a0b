//! Starts servers one after the other, measures each with wrk (or with a burst of its own) and
//! prints markdown tables of medians. See the README beside this workspace.

use heirloom_bench::{Error, free_address, stolen, wait_until_accepting};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
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

/// A running server. Dropping it kills what we started, and only that, by its pid.
struct Running {
    child: Child,
    address: String,
}

impl Running {
    fn start(command: &str, cpus: &str) -> Result<Running, Error> {
        let address = free_address()?;
        let command = command.replace("{addr}", &address);
        // taskset execs the server, so the child's pid is the server's.
        let child = Command::new("taskset")
            .args(["-c", cpus])
            .args(command.split_whitespace())
            .stdout(Stdio::null())
            .spawn()?;
        let running = Running { child, address };
        wait_until_accepting(&running.address).map_err(|error| format!("{error}: {command}"))?;
        thread::sleep(Duration::from_millis(50));
        Ok(running)
    }

    /// User and system time so far.
    fn cpu(&self) -> Result<Duration, Error> {
        let path = format!("/proc/{}/stat", self.child.id());
        ticks(&fs::read_to_string(path)?, 11)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two neighbouring fields of a stat line, counted after the name in parentheses.
fn ticks(stat: &str, first: usize) -> Result<Duration, Error> {
    let (_, fields) = stat.rsplit_once(')').ok_or("stat")?;
    let mut fields = fields.split_whitespace().skip(first);
    let mut number = || -> Result<u64, Error> { Ok(fields.next().ok_or("stat")?.parse()?) };
    let sum = number()? + number()?;
    let rate = sysconf(SysconfVar::CLK_TCK)?.ok_or("CLK_TCK")? as f64;
    Ok(Duration::from_secs_f64(sum as f64 / rate))
}

/// (busy, all) of the whole machine in ticks.
fn machine() -> Result<(u64, u64), Error> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().ok_or("/proc/stat")?;
    let fields: Vec<u64> =
        line.split_whitespace().skip(1).take(8).map(str::parse).collect::<Result<_, _>>()?;
    let all: u64 = fields.iter().sum();
    Ok((all - fields[3] - fields[4], all))
}

/// Waits until the machine is above 80 % idle for half a second; `false` if it never was.
fn quiet(patience: &mut Duration) -> Result<bool, Error> {
    let started = Instant::now();
    let limit = Duration::from_secs(60).min(*patience);
    loop {
        let before = machine()?;
        thread::sleep(Duration::from_millis(500));
        let after = machine()?;
        let busy = (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64;
        if busy < 0.2 {
            return Ok(true);
        }
        if started.elapsed() >= limit {
            *patience = patience.saturating_sub(started.elapsed());
            return Ok(false);
        }
    }
}

#[derive(Clone, Default)]
struct Sample {
    rate: f64,
    ratio: Option<f64>,
    cpu_us: f64,
    p50_ms: f64,
    p99_ms: f64,
    errors: String,
    /// Others took a fifth of a core or more, before or during the run.
    disturbed: bool,
}

fn millis(text: &str) -> f64 {
    let split = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let number: f64 = number.parse().unwrap_or(f64::NAN);
    number
        * match unit {
            "us" => 0.001,
            "ms" => 1.0,
            "s" => 1000.0,
            "m" => 60_000.0,
            _ => f64::NAN,
        }
}

fn with_wrk(
    options: &Options,
    server: &Running,
    connections: usize,
    path: &str,
    seconds: u64,
) -> Result<Sample, Error> {
    let own = || -> Result<Duration, Error> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        Ok(ticks(&stat, 11)? + ticks(&stat, 13)?)
    };
    let (machine_before, own_before, cpu_before) = (machine()?, own()?, server.cpu()?);
    let started = Instant::now();
    let output = Command::new("taskset")
        .args(["-c", &options.client_cpus, "wrk", "-t1", "--latency"])
        .arg(format!("-c{connections}"))
        .arg(format!("-d{seconds}s"))
        .args(["--timeout", "5s"])
        .arg(format!("http://{}{path}", server.address))
        .output()?;
    let took = started.elapsed().as_secs_f64();
    let cpu = (server.cpu()? - cpu_before).as_secs_f64();
    let ours = (own()? - own_before).as_secs_f64() + cpu;
    let rate = sysconf(SysconfVar::CLK_TCK)?.ok_or("CLK_TCK")? as f64;
    let busy = (machine()?.0 - machine_before.0) as f64 / rate;

    let text = String::from_utf8(output.stdout)?;
    let mut sample = Sample { disturbed: (busy - ours) / took >= 0.2, ..Sample::default() };
    let mut requests = 0.0;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["Requests/sec:", rate] => sample.rate = rate.parse()?,
            ["50%", value] => sample.p50_ms = millis(value),
            ["99%", value] => sample.p99_ms = millis(value),
            [count, "requests", "in", ..] => requests = count.parse()?,
            ["Socket", "errors:", ..] | ["Non-2xx", ..] => sample.errors = line.trim().into(),
            _ => {}
        }
    }
    sample.cpu_us = cpu * 1e6 / requests;
    Ok(sample)
}

/// A keep-alive client for answers that fit one small read, which is all these servers give.
struct Client(TcpStream);

impl Client {
    fn connect(address: &str) -> Result<Client, Error> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Client(stream))
    }

    fn send(&mut self, path: &str) -> Result<(), Error> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        Ok(self.0.write_all(request.as_bytes())?)
    }

    fn answer(&mut self) -> Result<(), Error> {
        let mut answer = Vec::new();
        let mut buffer = [0; 1024];
        while !answer.ends_with(b"Hello, World!") {
            match self.0.read(&mut buffer)? {
                0 => return Err("closed".into()),
                got => answer.extend_from_slice(&buffer[..got]),
            }
        }
        Ok(())
    }
}

fn measure(
    options: &Options,
    command: &str,
    connections: usize,
    patience: &mut Duration,
) -> Result<Sample, Error> {
    let calm = quiet(patience)?;
    let server = Running::start(command, &options.server_cpus)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut slow = Vec::new();
    for _ in 0..options.slow_connections {
        let (stop, path) = (Arc::clone(&stop), options.slow_path.clone());
        let mut client = Client::connect(&server.address)?;
        slow.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) && client.send(&path).is_ok() && client.answer().is_ok() {}
        }));
    }
    let result = with_wrk(options, &server, connections, &options.path, options.seconds);
    stop.store(true, Ordering::Relaxed);
    drop(server);
    for client in slow {
        let _ = client.join();
    }
    let mut sample = result?;
    sample.disturbed |= !calm;
    Ok(sample)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
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
                    baseline = Some(sample.rate);
                }
                sample.ratio = baseline.map(|rate| sample.rate / rate);
                eprintln!(
                    "rep {} c{connections} {name}: {:.0}/s ratio {:.2} {:.2} us p99 {:.2} ms{} {}",
                    rep + 1,
                    sample.rate,
                    sample.ratio.unwrap_or(f64::NAN),
                    sample.cpu_us,
                    sample.p99_ms,
                    if sample.disturbed { " *" } else { "" },
                    sample.errors
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
            let errors = runs.iter().find(|s| !s.errors.is_empty());
            println!(
                "| {name} | {:.1}k | {ratio} | {:.2} | {:.3} | {:.2} | {stars} {} |",
                of(|s| s.rate) / 1000.0,
                of(|s| s.cpu_us),
                of(|s| s.p50_ms),
                of(|s| s.p99_ms),
                errors.map_or("", |s| s.errors.as_str())
            );
        }
    }
    Ok(())
}

/// Blocking requests and, right behind them, a fast one: how long does the fast one wait?
fn bursts(options: &Options, server: &Running, path: &str) -> Result<Vec<(f64, u64)>, Error> {
    let mut blocking = Vec::new();
    for _ in 0..options.burst {
        blocking.push(Client::connect(&server.address)?);
    }
    let mut fast = Client::connect(&server.address)?;
    let plain = path.split('?').next().unwrap_or(path).to_string();
    let mut waits = Vec::new();
    for _ in 0..options.bursts {
        for client in blocking.iter_mut().chain([&mut fast]) {
            client.send("/")?;
            client.answer()?;
        }
        // With a query the route has been fast so far, and its slowness is a surprise.
        for _ in 0..if path.contains('?') { 200 } else { 0 } {
            fast.send(&plain)?;
            fast.answer()?;
        }
        // All workers are asleep again before the burst.
        thread::sleep(Duration::from_millis(5));
        for client in &mut blocking {
            client.send(path)?;
        }
        let stolen_before = stolen()?;
        let started = Instant::now();
        fast.send("/")?;
        fast.answer()?;
        let wait = started.elapsed().as_secs_f64() * 1000.0;
        waits.push((wait, stolen()? - stolen_before));
        for client in &mut blocking {
            client.answer()?;
        }
    }
    Ok(waits)
}

fn pin_self(cpus: &str) -> Result<(), Error> {
    let mut set = CpuSet::new();
    for cpu in cpus.split(',') {
        set.set(cpu.parse()?)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
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
            let server = Running::start(command, &options.server_cpus)?;
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
