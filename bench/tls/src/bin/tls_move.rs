//! What it costs to hand over thousands of idle connections, with TLS and without: time, CPU of both processes, memory. See the
//! README of the workspace.

use heirloom_bench::machine::{cpu_of, raise_descriptors};
use heirloom_bench::server::kill_descendants;
use heirloom_bench::{Error, free_address, wait_until_accepting};
use heirloom_bench_tls::Scratch;
use heirloom_bench_tls::crowd::Crowd;
use heirloom_bench_tls::link::Version;
use heirloom_bench_tls::peers::known;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::UsageWho;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const USAGE: &str = "tls_move [--connections 10000] [--rounds 3]";
const WITHIN: Duration = Duration::from_secs(60);

/// The process that serves now, our child: by birth, or by adoption when its parent has ended.
struct Generation {
    pid: Pid,
    address: String,
}

impl Generation {
    fn start(command: &[String]) -> Result<Generation, Error> {
        let address = free_address()?;
        let mut words = command.iter().map(|word| word.replace("{addr}", &address));
        let program = words.next().ok_or("an empty command")?;
        let child = Command::new(program).args(words).stdout(Stdio::null()).spawn()?;
        let generation = Generation { pid: Pid::from_raw(child.id().try_into()?), address };
        wait_until_accepting(&generation.address)?;
        Ok(generation)
    }

    fn has_ended(&self) -> Result<bool, Error> {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::StillAlive => Ok(false),
            WaitStatus::Exited(_, 0) => Ok(true),
            end => Err(format!("{} ended with {end:?}", self.pid).into()),
        }
    }

    fn cpu(&self) -> Result<Duration, Error> {
        Ok(clock_gettime(clock_getcpuclockid(self.pid)?)?.into())
    }

    /// Of resident memory, in MiB. None if the process has ended.
    fn memory(&self, which: &str) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(which))?;
        Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        kill_descendants();
    }
}

/// One handover.
struct Round {
    /// From the signal to the end of the old process.
    moved: Duration,
    /// From the signal until the successor has answered on each connection.
    served: Duration,
    /// From the signal on, of the old process and of its successor; of the latter until the old one's end.
    cpu: [Duration; 2],
    /// At the signal, and at most: of both.
    memory: [f64; 3],
    kept: usize,
}

fn hand_over(
    generation: &mut Generation,
    version: Option<Version>,
    crowd: &mut Crowd,
) -> Result<Round, Error> {
    let [before, reaped] = [generation.cpu()?, cpu_of(UsageWho::RUSAGE_CHILDREN)?];
    let memory = generation.memory("VmRSS:").ok_or("gone")?;
    let (signalled, mut peak) = (Instant::now(), memory);
    kill(generation.pid, Signal::SIGHUP)?;
    while !generation.has_ended()? {
        peak = generation.memory("VmHWM:").unwrap_or(peak);
        if signalled.elapsed() > WITHIN {
            return Err("the old process does not end".into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    let moved = signalled.elapsed();
    let of_old = (cpu_of(UsageWho::RUSAGE_CHILDREN)? - reaped).saturating_sub(before);
    // Nobody else is left who could answer this.
    let pid = Crowd::connect(&generation.address, version, 1, "/")?.answers("/pid")?;
    let pid = pid.into_iter().next().ok_or("no answer")?;
    generation.pid = Pid::from_raw(pid.parse()?);
    let of_new = generation.cpu()?;
    let kept = crowd.answers("/pid")?.iter().filter(|answer| **answer == pid).count();
    let served = signalled.elapsed();
    let of_successor = generation.memory("VmHWM:").ok_or("gone")?;
    Ok(Round { moved, served, cpu: [of_old, of_new], memory: [memory, peak, of_successor], kept })
}

fn rounds(
    command: &[String],
    version: Option<Version>,
    connections: usize,
    rounds: usize,
) -> Result<Vec<Round>, Error> {
    let mut generation = Generation::start(command)?;
    let mut crowd = Crowd::connect(&generation.address, version, connections, "/")?;
    (0..rounds)
        .map(|_| {
            thread::sleep(Duration::from_millis(500));
            hand_over(&mut generation, version, &mut crowd)
        })
        .collect()
}

fn main() -> Result<(), Error> {
    let (mut connections, mut many) = (10_000, 3);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--connections" => connections = value.parse()?,
            "--rounds" => many = value.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    raise_descriptors()?;
    set_child_subreaper(true)?;
    let scratch = Scratch::new()?;
    let mut commands = BTreeMap::new();
    for peer in known(&scratch)? {
        commands.insert(peer.name, peer.command);
    }
    let command = |name| commands.get(name).ok_or("no such server");
    let (plain, secured) = (command("heirloom-plain")?, command("heirloom")?);
    println!("\n{connections} idle connections, {many} handovers one after the other:\n");
    print!(
        "| connections | handover | kept | HUP to the end of the old process, ms | to the last answer, ms "
    );
    print!("| CPU ms, old | new | us for each connection, old | new | MiB, old at HUP | old, peak ");
    println!("| new, peak |\n|---|---|---|---|---|---|---|---|---|---|---|---|");
    let alone = rounds(secured, Some(Version::Tls13), 0, many)?;
    let kinds = [
        ("none", secured, Some(Version::Tls13), 0),
        ("plain", plain, None, connections),
        ("TLS 1.3", secured, Some(Version::Tls13), connections),
        ("TLS 1.2", secured, Some(Version::Tls12), connections),
    ];
    for (name, command, version, connections) in kinds {
        let found = rounds(command, version, connections, many)?;
        for (number, (round, alone)) in found.iter().zip(&alone).enumerate() {
            let millis = |time: Duration| format!("{:.0}", time.as_secs_f64() * 1000.0);
            let [old, new] = round.cpu;
            let each = |cpu: Duration, alone: Duration| match connections {
                0 => "–".to_owned(),
                _ => {
                    let more = cpu.as_secs_f64() - alone.as_secs_f64();
                    format!("{:.1}", more * 1e6 / connections as f64)
                }
            };
            let [alone_old, alone_new] = alone.cpu;
            let [at_first, peak, successor] = round.memory;
            println!(
                "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {at_first:.1} | {peak:.1} | {successor:.1} |",
                number + 1,
                round.kept,
                millis(round.moved),
                millis(round.served),
                millis(old),
                millis(new),
                each(old, alone_old),
                each(new, alone_new),
            );
        }
    }
    Ok(())
}
