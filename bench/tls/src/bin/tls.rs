//! TLS beside peers: handshakes, small requests and bulk data, in turns, as markdown tables of medians. See the README of the
//! workspace.

use heirloom_bench::machine::{busy, cpu_of, has, quiet};
use heirloom_bench::server::Running;
use heirloom_bench::{Error, median};
use heirloom_bench_tls::load::{Per, Scenario, Seen, Until, scenarios};
use heirloom_bench_tls::peers::{Peer, known};
use heirloom_bench_tls::{Scratch, stay_on};
use nix::sys::resource::UsageWho;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const USAGE: &str = "tls [--quick] [--reps 5] [--seconds 2] [--only PEER,...] [--scenarios ID,...]
[--server-cpus 0] [--client-cpus 1] [--patience 120] [--instructions [--keep FOLDER]] [--list]
--quick is --reps 3 --seconds 0.5. With --instructions, valgrind counts them, instead of time.";
/// Near this many cores on one, the client was the limit.
const CLIENT_FULL: f64 = 0.9;

struct Options {
    reps: usize,
    time: Duration,
    only: Vec<String>,
    scenarios: Vec<String>,
    server_cpus: String,
    client_cpus: String,
    patience: Duration,
    instructions: bool,
    keep: Option<PathBuf>,
    list: bool,
}

fn options() -> Result<Options, Error> {
    let mut options = Options {
        reps: 5,
        time: Duration::from_secs(2),
        only: Vec::new(),
        scenarios: Vec::new(),
        server_cpus: "0".into(),
        client_cpus: "1".into(),
        patience: Duration::from_secs(120),
        instructions: false,
        keep: None,
        list: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        match flag.as_str() {
            "--quick" => {
                (options.reps, options.time) = (3, Duration::from_millis(500));
                continue;
            }
            "--instructions" => {
                options.instructions = true;
                continue;
            }
            "--list" => {
                options.list = true;
                continue;
            }
            _ => {}
        }
        let value = args.next().ok_or(USAGE)?;
        let list = || value.split(',').map(String::from).collect::<Vec<_>>();
        match flag.as_str() {
            "--reps" => options.reps = value.parse()?,
            "--seconds" => options.time = Duration::from_secs_f64(value.parse()?),
            "--only" => options.only = list(),
            "--scenarios" => options.scenarios = list(),
            "--server-cpus" => options.server_cpus = value,
            "--client-cpus" => options.client_cpus = value,
            "--patience" => options.patience = Duration::from_secs(value.parse()?),
            "--keep" => options.keep = Some(value.into()),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

struct Sample {
    seen: Seen,
    cpu_us: f64,
    /// Other processes took a fifth of a core or more.
    is_disturbed: bool,
}

fn own() -> Result<Duration, Error> {
    Ok(cpu_of(UsageWho::RUSAGE_SELF)? + cpu_of(UsageWho::RUSAGE_CHILDREN)?)
}

fn run(peer: &Peer, scenario: &Scenario, options: &Options) -> Result<Sample, Error> {
    let server = peer.start(&options.server_cpus)?;
    let (others_before, started, before) = (busy()? - own()?, Instant::now(), server.cpu()?);
    let seen = scenario.run(&server.address, Until::Time(options.time))?;
    let cpu = server.cpu()? - before;
    let others = (busy()? - own()?).saturating_sub(others_before).saturating_sub(cpu);
    Ok(Sample {
        cpu_us: cpu.as_secs_f64() * 1e6 / seen.count,
        is_disturbed: others.as_secs_f64() / started.elapsed().as_secs_f64() >= 0.2,
        seen,
    })
}

/// `[peer][repetition]`
type Runs = Vec<Vec<Option<Sample>>>;

fn measure(peers: &[Peer], scenario: &Scenario, options: &Options) -> Result<Runs, Error> {
    let mut patience = options.patience;
    let mut runs: Runs = peers.iter().map(|_| Vec::new()).collect();
    for rep in 0..options.reps {
        let is_calm = quiet(&mut patience)?;
        for turn in 0..peers.len() {
            let index = (turn + rep) % peers.len();
            let (Some(peer), Some(runs)) = (peers.get(index), runs.get_mut(index)) else { continue };
            if !serves(peer, scenario) {
                runs.push(None);
                continue;
            }
            let sample = run(peer, scenario, options)
                .map(|sample| Sample { is_disturbed: sample.is_disturbed || !is_calm, ..sample });
            if let Err(error) = &sample {
                eprintln!("{} {}: {error}", scenario.id, peer.name);
            }
            runs.push(sample.ok());
        }
    }
    Ok(runs)
}

/// nginx has no handler that echoes.
fn serves(peer: &Peer, scenario: &Scenario) -> bool {
    scenario.upload == 0 || !peer.is_nginx()
}

type Figure = fn(&Sample) -> f64;
const RATE: Figure = |sample| sample.seen.count / sample.seen.seconds;
const CPU: Figure = |sample| sample.cpu_us;
const P50: Figure = |sample| sample.seen.p50_ms;
const P99: Figure = |sample| sample.seen.p99_ms;

/// Of the repetitions in which both have a figure.
fn ratio(runs: &[Option<Sample>], ours: &[Option<Sample>], of: Figure) -> f64 {
    let pairs = runs.iter().zip(ours);
    median(pairs.filter_map(|(theirs, ours)| Some(of(theirs.as_ref()?) / of(ours.as_ref()?))))
}

fn table(peers: &[Peer], scenario: &Scenario, runs: &Runs) {
    let per = if scenario.per == Per::Request { "request" } else { "connection" };
    println!("\n## {} (`{}`)\n", scenario.title, scenario.id);
    println!("| server | each second | CPU us for a {per} | p50 ms | p99 ms | notes |");
    println!("|---|---|---|---|---|---|");
    let ours = peers.iter().position(|peer| peer.is_ours).and_then(|index| runs.get(index));
    for (peer, runs) in peers.iter().zip(runs) {
        let cell = |of: Figure, digits: usize| {
            let value = median(runs.iter().flatten().map(of));
            let ratio = ratio(runs, ours.map_or(&[], Vec::as_slice), of);
            if value.is_nan() { "–".to_owned() } else { format!("{value:.digits$} ({ratio:.2})") }
        };
        let cells = [cell(RATE, 0), cell(CPU, 1), cell(P50, 3), cell(P99, 2)].join(" | ");
        println!("| {} | {cells} | {} |", peer.name, notes(runs, scenario));
    }
}

fn notes(runs: &[Option<Sample>], scenario: &Scenario) -> String {
    let samples: Vec<&Sample> = runs.iter().flatten().collect();
    let mut notes = Vec::new();
    let full = samples.iter().filter(|sample| sample.seen.client_cores >= CLIENT_FULL).count();
    if full > 0 {
        notes.push(format!("client full in {full}"));
    }
    let errors: u64 = samples.iter().map(|sample| sample.seen.errors).sum();
    if errors > 0 {
        let first = samples.iter().find_map(|sample| sample.seen.first_error.as_deref());
        notes.push(format!("{errors} errors: {}", first.unwrap_or_default()));
    }
    let other: u64 = samples.iter().map(|sample| sample.seen.other_kind).sum();
    if other > (samples.len() * scenario.connections) as u64 {
        notes.push(format!("{other} handshakes of the other kind"));
    }
    notes.push("*".repeat(samples.iter().filter(|sample| sample.is_disturbed).count()));
    notes.retain(|note| !note.is_empty());
    notes.join("; ")
}

fn summary(peers: &[Peer], all: &[(Scenario, Runs)]) {
    for (what, figure) in [("CPU us", CPU), ("each second", RATE)] {
        let names: Vec<&str> = peers.iter().map(|peer| peer.name).collect();
        println!("\n| {what}; each divided by ours | ours | {} |", names.join(" | "));
        println!("|---|---|{}", "---|".repeat(names.len()));
        for (scenario, runs) in all {
            let ours = peers.iter().position(|peer| peer.is_ours).and_then(|index| runs.get(index));
            let ours = ours.map_or(&[][..], Vec::as_slice);
            let cells = runs.iter().map(|runs| match ratio(runs, ours, figure) {
                ratio if ratio.is_nan() => "–".to_owned(),
                ratio => format!("{ratio:.2}"),
            });
            let cells: Vec<String> = cells.collect();
            let own = median(ours.iter().flatten().map(figure));
            println!("| {} | {own:.1} | {} |", scenario.title, cells.join(" | "));
        }
    }
}

/// Instructions in user space for each of a scenario: the difference of two runs.
fn instructions(
    peer: &Peer,
    scenario: &Scenario,
    options: &Options,
    scratch: &Scratch,
) -> Result<f64, Error> {
    let folder = options.keep.clone().unwrap_or_else(|| scratch.folder().to_owned());
    fs::create_dir_all(&folder)?;
    let (few, many) = if scenario.path == "/" { (100, 1100) } else { (10, 60) };
    let count = |count: u64, file: PathBuf| -> Result<f64, Error> {
        let out = format!("--callgrind-out-file={}", file.display());
        let words = ["valgrind", "--quiet", "--tool=callgrind", &out].map(String::from);
        let command: Vec<String> = words.into_iter().chain(peer.command.iter().cloned()).collect();
        let server = Running::start(&command, None)?;
        let seen = scenario.run(&server.address, Until::Count(count))?;
        if seen.errors > 0 {
            return Err(seen.first_error.unwrap_or_default().into());
        }
        server.stop()?;
        let text = fs::read_to_string(file)?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).ok_or("no totals")?;
        Ok(total.trim().parse::<f64>()?)
    };
    let name = peer.name.replace(' ', "_");
    let few_file = folder.join(format!("{}.{name}.few", scenario.id));
    let many_file = folder.join(format!("{}.{name}.out", scenario.id));
    Ok((count(many, many_file)? - count(few, few_file)?) / (many - few) as f64)
}

fn count_all(
    peers: &[Peer],
    scenarios: &[Scenario],
    options: &Options,
    scratch: &Scratch,
) -> Result<(), Error> {
    if !has("valgrind") {
        return Err("valgrind is not installed, and nothing can be counted without it".into());
    }
    // nginx works in a child, which valgrind does not follow.
    let peers: Vec<&Peer> = peers.iter().filter(|peer| !peer.is_nginx()).collect();
    let names: Vec<&str> = peers.iter().map(|peer| peer.name).collect();
    println!("| instructions in user space | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
    for scenario in scenarios {
        let mut cells = Vec::new();
        for peer in &peers {
            // Timers and threads that happen to sleep add to the count.
            let mut fewest = f64::INFINITY;
            for _ in 0..options.reps {
                fewest = fewest.min(instructions(peer, scenario, options, scratch)?);
            }
            cells.push(format!("{fewest:.0}"));
        }
        println!("| {} | {} |", scenario.title, cells.join(" | "));
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    let options = options()?;
    let scratch = Scratch::new()?;
    let mut peers = known(&scratch)?;
    peers.retain(|peer| peer.is_tls);
    peers.retain(|peer| options.only.is_empty() || options.only.iter().any(|name| name == peer.name));
    let mut scenarios = scenarios();
    let is_wanted =
        |id: &str| options.scenarios.is_empty() || options.scenarios.iter().any(|name| name == id);
    scenarios.retain(|scenario| is_wanted(scenario.id));
    if options.list {
        peers.iter().for_each(|peer| println!("peer {}", peer.name));
        scenarios.iter().for_each(|scenario| println!("scenario {}: {}", scenario.id, scenario.title));
        return Ok(());
    }
    if options.instructions {
        return count_all(&peers, &scenarios, &options, &scratch);
    }
    if !has("taskset") {
        return Err("taskset is not installed, and nothing can be measured without it".into());
    }
    let seconds = (peers.len() * scenarios.len() * options.reps) as f64 * (options.time.as_secs_f64() + 0.2);
    eprintln!("tls: at least {seconds:.0} s");
    stay_on(&options.client_cpus)?;
    println!("# TLS\n");
    println!(
        "{} interleaved repetitions of {} s; in parentheses theirs divided by ours, the median of those.",
        options.reps,
        options.time.as_secs_f64()
    );
    let mut all = Vec::new();
    for scenario in scenarios {
        let runs = measure(&peers, &scenario, &options)?;
        table(&peers, &scenario, &runs);
        all.push((scenario, runs));
    }
    summary(&peers, &all);
    Ok(())
}
