//! System calls for a request, counted by strace in runs of their own: it slows a server down so
//! much that nothing else in such a run is worth a look.

use crate::peers::Peer;
use crate::run::Bench;
use crate::scenarios::{self, Scenario};
use heirloom_bench::Error;
use heirloom_bench::server::Running;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const SCENARIOS: [&str; 4] = ["ka1", "ka16", "ka64", "pipe16"];
const ATTACHED_WITHIN: Duration = Duration::from_secs(10);
/// So many kinds of calls are named.
const NAMED: usize = 4;

pub fn table(bench: &Bench, peers: &[Peer]) -> Result<(), Error> {
    println!("\n## System calls for a request\n");
    println!("| server | 1 connection | 16 | 64 | pipelined 16 | what they are with 16 connections |");
    println!("|---|---|---|---|---|---|");
    for peer in peers {
        let mut cells = Vec::new();
        let mut named = String::new();
        for id in SCENARIOS {
            let scenario = scenarios::find(id).ok_or("no such scenario")?;
            let calls = count(bench, peer, &scenario);
            match calls {
                Ok(calls) => {
                    let sum: f64 = calls.iter().map(|(_, each)| each).sum();
                    eprintln!("syscalls {id} {}: {sum:.2}", peer.name);
                    cells.push(format!("{sum:.2}"));
                    if id == "ka16" {
                        let names = calls.iter().take(NAMED).filter(|(_, each)| *each >= 0.01);
                        let names: Vec<String> =
                            names.map(|(name, each)| format!("{name} {each:.2}")).collect();
                        named = names.join(", ");
                    }
                }
                Err(error) => {
                    eprintln!("syscalls {id} {}: {error}", peer.name);
                    cells.push("–".to_owned());
                }
            }
        }
        println!("| {} | {} | {named} |", peer.name, cells.join(" | "));
    }
    Ok(())
}

/// Names and numbers for each request, the most frequent first.
fn count(bench: &Bench, peer: &Peer, scenario: &Scenario) -> Result<Vec<(String, f64)>, Error> {
    let server = bench.start(peer, scenario)?;
    let file = bench.scratch.join("strace.txt");
    let strace = attach(&server, &file)?;
    let seen = bench.load(&server, scenario, || {});
    detach(strace)?;
    drop(server);
    let seen = seen?;
    if seen.requests == 0.0 {
        return Err("no request was answered".into());
    }
    let mut calls = parse(&fs::read_to_string(&file)?);
    calls.iter_mut().for_each(|(_, calls)| *calls /= seen.requests);
    calls.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(calls)
}

fn attach(server: &Running, file: &Path) -> Result<Child, Error> {
    let mut command = Command::new("strace");
    command.args(["-q", "-c", "-f", "-o"]).arg(file).stderr(Stdio::null());
    for pid in server.processes() {
        command.args(["-p", &pid.to_string()]);
    }
    let strace = command.spawn()?;
    let deadline = Instant::now() + ATTACHED_WITHIN;
    while !server.processes().iter().all(|pid| traced(*pid)) {
        if Instant::now() > deadline {
            return Err("strace does not attach".into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(strace)
}

/// Whether all threads of a process have a tracer.
fn traced(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
    })
}

/// Interrupted, it writes its table and lets the server go on.
fn detach(mut strace: Child) -> Result<(), Error> {
    kill(Pid::from_raw(strace.id().try_into()?), Signal::SIGINT)?;
    strace.wait()?;
    Ok(())
}

/// The rows of `strace -c`: share, seconds, microseconds a call, calls, perhaps errors, name.
fn parse(text: &str) -> Vec<(String, f64)> {
    let rows = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, calls) = (*words.last()?, words.get(3)?.parse().ok()?);
        (name != "total").then(|| (name.to_owned(), calls))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_strace() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n\
                    ------ ----------- ----------- --------- --------- ----------------\n\
                    \x2060.00    0.010000           1     10000           recvfrom\n\
                    \x2040.00    0.000700           1       700         7 futex\n\
                    ------ ----------- ----------- --------- --------- ----------------\n\
                    100.00    0.010700           1     10700         7 total\n";
        assert_eq!(parse(text), [("recvfrom".to_owned(), 10000.0), ("futex".to_owned(), 700.0)]);
    }
}
