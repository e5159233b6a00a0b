//! Whether a steady flood of new connections starves those that are kept, or is starved by them: each alone, then both at
//! once. See the README beside this workspace.

use heirloom_bench::server::Running;
use heirloom_bench::wrk::Wrk;
use heirloom_bench::{Error, machine};
use std::process::{Command, Stdio};
use std::time::Duration;

const USAGE: &str = "flood [--server PATH]... [--kept 256] [--new 64] [--seconds 3] [--reps 3]
A server takes --listen ADDRESS. Default: heirloom_hello and hyper_hello. The server is on core 0, both clients on core 1.";

struct Options {
    servers: Vec<String>,
    kept: usize,
    new: usize,
    seconds: u64,
    reps: usize,
}

fn options() -> Result<Options, Error> {
    let mut options = Options { servers: Vec::new(), kept: 256, new: 64, seconds: 3, reps: 3 };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--server" => options.servers.push(value),
            "--kept" => options.kept = value.parse()?,
            "--new" => options.new = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            "--reps" => options.reps = value.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    if options.servers.is_empty() {
        let here = std::env::current_exe()?;
        let peer = |name| here.with_file_name(name).display().to_string();
        options.servers = ["heirloom_hello", "hyper_hello"].map(peer).into();
    }
    Ok(options)
}

/// Requests a second, and the latency of most of them.
#[derive(Clone, Copy)]
struct Seen {
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// The new connections of `reconnect`, while `beside` runs.
fn flood<T>(
    server: &Running,
    options: &Options,
    beside: impl FnOnce() -> Result<T, Error>,
) -> Result<(Seen, T), Error> {
    let program = std::env::current_exe()?.with_file_name("reconnect");
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(program).arg(&server.address);
    command.args(["--connections", &options.new.to_string(), "--seconds", &options.seconds.to_string()]);
    let child = command.stdout(Stdio::piped()).spawn()?;
    let other = beside();
    let text = String::from_utf8(child.wait_with_output()?.stdout)?;
    let number = |name: &str| -> Result<f64, Error> {
        let found = text.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        Ok(found.ok_or_else(|| format!("no {name} in {text:?}"))?.parse()?)
    };
    // On a busy machine that says nothing of the server.
    if number("errors")? > 0.0 {
        eprintln!("flood: new connections without an answer within a second: {}", text.trim());
    }
    let rate = number("requests")? / number("seconds")?;
    let seen = Seen { rate, p50_ms: number("p50_us")? / 1e3, p99_ms: number("p99_us")? / 1e3 };
    Ok((seen, other?))
}

fn kept(server: &Running, options: &Options) -> Result<Seen, Error> {
    let url = format!("http://{}/", server.address);
    let wrk = Wrk { url, connections: options.kept, seconds: options.seconds, cpus: Some("1"), script: None };
    let seen = wrk.run(|| ())?;
    if !seen.errors.is_empty() {
        eprintln!("flood: wrk: {}", seen.errors);
    }
    Ok(Seen { rate: seen.rate, p50_ms: seen.p50_ms, p99_ms: seen.p99_ms })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Error> {
    let options = options()?;
    if !machine::has("wrk") {
        return Err("wrk is not installed".into());
    }
    println!(
        "| server | {} kept connections alone: requests/s, p50, p99 ms | {} new at a time alone | kept, beside new | new, beside kept |",
        options.kept, options.new
    );
    println!("|---|---|---|---|---|");
    let mut rows: Vec<[Vec<Seen>; 4]> = options.servers.iter().map(|_| Default::default()).collect();
    for _ in 0..options.reps {
        for (server, row) in options.servers.iter().zip(&mut rows) {
            let command = [server.clone(), "--listen".into(), "{addr}".into()];
            let server = Running::start(&command, Some("0"))?;
            row[0].push(kept(&server, &options)?);
            row[1].push(flood(&server, &options, || Ok(()))?.0);
            let (new, kept) = flood(&server, &options, || kept(&server, &options))?;
            row[2].push(kept);
            row[3].push(new);
            // What is left of the connections.
            std::thread::sleep(Duration::from_millis(100));
            server.stop()?;
        }
    }
    for (server, row) in options.servers.iter().zip(rows) {
        let name = server.rsplit('/').next().unwrap_or(server);
        let cells = row.map(|seen| {
            let of = |part: fn(&Seen) -> f64| median(seen.iter().map(part).collect());
            format!(
                "{:.0}, {:.2}, {:.2}",
                of(|seen| seen.rate),
                of(|seen| seen.p50_ms),
                of(|seen| seen.p99_ms)
            )
        });
        println!("| {name} | {} |", cells.join(" | "));
    }
    Ok(())
}
