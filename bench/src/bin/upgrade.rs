//! Hands a server over to its successor again and again, and measures from the outside how long
//! that takes and whether a client noticed. See the README beside this workspace.

use heirloom_bench::server::kill_descendants;
use heirloom_bench::{Error, ask_once, free_address, stolen, wait_until_accepting};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io::ErrorKind;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const USAGE: &str = "upgrade [--server ../target/release/examples/kitchen_sink] [--rounds 50] [--load 0]";
/// A handover takes milliseconds; one that takes this long has failed.
const ROUND_WITHIN: Duration = Duration::from_secs(30);
/// Between two rounds, for workers to fall asleep and for what the last process left to be freed.
const PAUSE: Duration = Duration::from_millis(50);

struct Options {
    server: String,
    rounds: usize,
    /// Threads that send requests without pause, each request on a new connection.
    load: usize,
}

fn options() -> Result<Options, Error> {
    let mut options =
        Options { server: "../target/release/examples/kitchen_sink".into(), rounds: 50, load: 0 };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--server" => options.server = value,
            "--rounds" => options.rounds = value.parse()?,
            "--load" => options.load = value.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

/// What became of requests. All but the answered ones must be none.
#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    refused: AtomicU64,
    reset: AtomicU64,
    cut: AtomicU64,
    other: AtomicU64,
    slowest_us: AtomicU64,
}

impl Tally {
    /// Sends a request and counts its outcome.
    fn ask(&self, address: &str, path: &str) -> Option<String> {
        let started = Instant::now();
        let outcome = ask_once(address, path);
        self.slowest_us.fetch_max(started.elapsed().as_micros() as u64, Ordering::Relaxed);
        let count = match &outcome {
            Ok(_) => &self.answered,
            Err(error) => match error.kind() {
                ErrorKind::ConnectionRefused => &self.refused,
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => &self.reset,
                ErrorKind::UnexpectedEof => &self.cut,
                _ => &self.other,
            },
        };
        let before = count.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(answer) => Some(answer),
            Err(error) => {
                // Only the first of each kind is reported, because there may be thousands.
                if before == 0 {
                    eprintln!("a request for {path} failed: {error}");
                }
                None
            }
        }
    }

    fn failures(&self) -> u64 {
        let all = [&self.refused, &self.reset, &self.cut, &self.other];
        all.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn row(&self, name: &str) {
        let all = [&self.answered, &self.refused, &self.reset, &self.cut, &self.other];
        let all: Vec<String> = all.iter().map(|count| count.load(Ordering::Relaxed).to_string()).collect();
        let slowest = self.slowest_us.load(Ordering::Relaxed) as f64 / 1000.0;
        println!("| {name} | {} | {slowest:.2} |", all.join(" | "));
    }
}

/// The process that serves now. Dropping it kills every generation that is left.
struct Generation {
    pid: Pid,
    number: u32,
    address: String,
}

/// One handover, in milliseconds.
struct Round {
    /// From the signal to the first complete answer of the successor.
    successor: f64,
    /// The longest time without an answer of either.
    gap: f64,
    /// From the signal to the end of the old process.
    gone: f64,
    stolen: u64,
}

impl Generation {
    fn start(server: &str) -> Result<Generation, Error> {
        let address = free_address()?;
        let child = Command::new(server)
            .args(["--listen", &address, "--probation-ms", "0"])
            // Its lines for each handover are no use here; warnings are.
            .env("RUST_LOG", "warn")
            .spawn()
            .map_err(|error| format!("{server}: {error}"))?;
        let generation = Generation { pid: Pid::from_raw(child.id() as i32), number: 1, address };
        wait_until_accepting(&generation.address)?;
        Ok(generation)
    }

    /// Whether this process has ended. We are its parent, by adoption if not by birth.
    fn ended(&self) -> Result<bool, Error> {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::StillAlive => Ok(false),
            WaitStatus::Exited(_, 0) => Ok(true),
            end => Err(format!("generation {} ended with {end:?}", self.number).into()),
        }
    }

    /// One handover. Requests go on until the old process is gone, since it could break something
    /// while it closes, too.
    fn hand_over(&mut self, tally: &Tally) -> Result<Round, Error> {
        let stolen_before = stolen()?;
        let next = self.number + 1;
        tally.ask(&self.address, "/generation").ok_or("no answer before the signal")?;
        let mut last = Instant::now();
        let (mut successor, mut gone, mut gap) = (None, None, Duration::ZERO);
        let signalled = Instant::now();
        kill(self.pid, Signal::SIGHUP)?;
        while successor.is_none() || gone.is_none() {
            if let Some(answer) = tally.ask(&self.address, "/generation") {
                let now = Instant::now();
                gap = gap.max(now - last);
                last = now;
                if successor.is_none() && answer.parse() == Ok(next) {
                    successor = Some(now - signalled);
                }
            }
            if gone.is_none() && self.ended()? {
                gone = Some(signalled.elapsed());
            }
            if signalled.elapsed() > ROUND_WITHIN {
                return Err(format!("no handover from generation {}", self.number).into());
            }
        }
        // No other process is left that could answer this.
        let pid = tally.ask(&self.address, "/pid").ok_or("no answer after the handover")?;
        (self.pid, self.number) = (Pid::from_raw(pid.parse()?), next);
        // Not our child: not a process that we may send signals to.
        if self.ended()? {
            return Err(format!("generation {next} is gone already").into());
        }
        let millis = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64() * 1000.0;
        Ok(Round {
            successor: millis(successor),
            gap: millis(Some(gap)),
            gone: millis(gone),
            stolen: stolen()? - stolen_before,
        })
    }

    fn stop(&self) -> Result<(), Error> {
        kill(self.pid, Signal::SIGTERM)?;
        let deadline = Instant::now() + ROUND_WITHIN;
        while !self.ended()? {
            if Instant::now() > deadline {
                return Err("does not stop".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Generation {
    /// After a failed round there may be two generations, or one whose pid we never learned.
    fn drop(&mut self) {
        kill_descendants();
    }
}

fn row(name: &str, rounds: &[Round], of: fn(&Round) -> f64) {
    let mut sorted: Vec<f64> = rounds.iter().map(of).collect();
    sorted.sort_by(f64::total_cmp);
    let rank = |share: f64| sorted[((sorted.len() as f64 * share).ceil() as usize).max(1) - 1];
    let undisturbed = rounds.iter().filter(|round| round.stolen == 0).map(of).fold(0.0, f64::max);
    println!(
        "| {name} | {:.2} | {:.2} | {:.2} | {:.2} | {undisturbed:.2} |",
        rank(0.0),
        rank(0.5),
        rank(0.9),
        rank(1.0)
    );
}

fn main() -> Result<(), Error> {
    let options = options()?;
    if options.rounds == 0 {
        return Err(USAGE.into());
    }
    // A successor is its predecessor's child. When that ends, the successor becomes ours, and we
    // see each of them end, and how.
    set_child_subreaper(true)?;
    let mut generation = Generation::start(&options.server)?;
    let (address, stop) = (generation.address.clone(), AtomicBool::new(false));
    let (probes, load) = (Tally::default(), Tally::default());
    let rounds: Result<Vec<Round>, Error> = thread::scope(|scope| {
        for _ in 0..options.load {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    load.ask(&address, "/");
                }
            });
        }
        let mut rounds = Vec::new();
        let outcome = (0..options.rounds).try_for_each(|_| {
            thread::sleep(PAUSE);
            rounds.push(generation.hand_over(&probes)?);
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        outcome.map(|()| rounds)
    });
    let rounds = rounds?;
    generation.stop()?;

    println!("\n{} handovers, {} threads of load, milliseconds:\n", options.rounds, options.load);
    println!("| | min | p50 | p90 | max | max without steal |\n|---|---|---|---|---|---|");
    row("signal to the successor's first answer", &rounds, |round| round.successor);
    row("longest gap between two answers", &rounds, |round| round.gap);
    row("signal to the end of the old process", &rounds, |round| round.gone);
    println!("\n| requests | answered | refused | reset | cut | other | slowest ms |");
    println!("|---|---|---|---|---|---|---|");
    probes.row("measuring");
    load.row("load");
    match probes.failures() + load.failures() {
        0 => Ok(()),
        failures => Err(format!("{failures} requests failed").into()),
    }
}
