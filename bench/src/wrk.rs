//! wrk: how it is called, and what it says.

use crate::machine::cpu_of;
use crate::{Error, millis};
use nix::sys::resource::UsageWho;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub struct Wrk<'a> {
    pub url: String,
    pub connections: usize,
    pub seconds: u64,
    /// As for `taskset -c`; None: all cores, and a thread more if there are connections for it.
    pub cpus: Option<&'a str>,
    /// A file with a Lua script, and its arguments.
    pub script: Option<(&'a str, String)>,
}

/// What a load program saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub requests: f64,
    /// Requests a second.
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Bytes read for each request, with the head.
    pub bytes_each: f64,
    pub errors: String,
    /// Cores the load program itself kept busy: near 1 on one core, it was the limit.
    pub client_cores: f64,
}

impl Wrk<'_> {
    /// `meanwhile` is called once, when most of the time has passed.
    pub fn run(&self, meanwhile: impl FnOnce()) -> Result<Seen, Error> {
        let threads = if self.cpus.is_none() && self.connections > 1 { 2 } else { 1 };
        let mut command = match self.cpus {
            Some(cpus) => {
                let mut command = Command::new("taskset");
                command.args(["-c", cpus, "wrk"]);
                command
            }
            None => Command::new("wrk"),
        };
        command.arg(format!("-t{threads}")).args(["--latency", "--timeout", "5s"]);
        command.arg(format!("-c{}", self.connections)).arg(format!("-d{}s", self.seconds));
        if let Some((file, _)) = &self.script {
            command.args(["-s", file]);
        }
        command.arg(&self.url);
        if let Some((_, argument)) = &self.script {
            command.args(["--", argument]);
        }
        let (text, client_cores) = output_of(command, Duration::from_secs(self.seconds), meanwhile)?;
        let mut seen = parse(&text)?;
        seen.client_cores = client_cores;
        Ok(seen)
    }
}

/// Runs a load program to its end: what it printed, and how many cores it kept busy.
pub fn output_of(
    mut command: Command,
    time: Duration,
    meanwhile: impl FnOnce(),
) -> Result<(String, f64), Error> {
    let before = cpu_of(UsageWho::RUSAGE_CHILDREN)?;
    let started = Instant::now();
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(|error| format!("{error}: {command:?}"))?;
    std::thread::sleep(time * 4 / 5);
    meanwhile();
    let mut text = String::new();
    child.stdout.take().ok_or("no output")?.read_to_string(&mut text)?;
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("{command:?}: {status}").into());
    }
    let cpu = cpu_of(UsageWho::RUSAGE_CHILDREN)?.saturating_sub(before);
    Ok((text, cpu.as_secs_f64() / started.elapsed().as_secs_f64()))
}

fn parse(text: &str) -> Result<Seen, Error> {
    let mut seen = Seen::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["Requests/sec:", rate] => seen.rate = rate.parse()?,
            ["50%", value] => seen.p50_ms = millis(value),
            ["99%", value] => seen.p99_ms = millis(value),
            [count, "requests", "in", _, bytes, "read"] => {
                seen.requests = count.parse()?;
                seen.bytes_each = bytes_of(bytes) / seen.requests;
            }
            ["Socket", "errors:", ..] | ["Non-2xx", ..] => {
                seen.errors = format!("{} {}", seen.errors, line.trim()).trim().to_owned();
            }
            _ => {}
        }
    }
    Ok(seen)
}

fn bytes_of(text: &str) -> f64 {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "KB" => 1024.0,
        "MB" => 1024.0 * 1024.0,
        "GB" => 1024.0 * 1024.0 * 1024.0,
        _ => 1.0,
    };
    number.parse::<f64>().unwrap_or(f64::NAN) * factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_wrk_is_read() {
        let text = "Running 1s test @ http://127.0.0.1:1/\n  1 threads and 64 connections\n\
                    \x20 Latency Distribution\n     50%  290.00us\n     75%  1.0ms\n     90%    1.10ms\n\
                    \x20    99%    3.83ms\n  17000 requests in 1.10s, 2.00MB read\n\
                    \x20 Socket errors: connect 0, read 1, write 0, timeout 0\n\
                    \x20 Non-2xx or 3xx responses: 3\nRequests/sec:  15454.5\nTransfer/sec:   1.8MB\n";
        let seen = parse(text).unwrap();
        assert_eq!((seen.requests, seen.rate, seen.p50_ms, seen.p99_ms), (17000.0, 15454.5, 0.29, 3.83));
        assert_eq!(seen.bytes_each, 2.0 * 1024.0 * 1024.0 / 17000.0);
        assert!(seen.errors.contains("read 1") && seen.errors.contains("responses: 3"), "{}", seen.errors);
    }
}
