//! The crate beside its peers: servers of many kinds that do the same work, measured in turns, as
//! markdown tables of medians. See the README beside this workspace.

mod fixed;
mod peers;
mod run;
mod scenarios;
mod syscalls;
mod tables;
mod turns;

use heirloom_bench::machine::{has, quiet, raise_descriptors};
use heirloom_bench::{Error, work};
use peers::{Kind, Peer};
use run::{Bench, Check, Sample};
use scenarios::Scenario;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const USAGE: &str = "field [--quick] [--only PEER,...] [--scenarios ID,...] [--reps 5] [--seconds 3]
[--server NAME=COMMAND]... [--server-cpus 0] [--client-cpus 1] [--patience SECONDS]
[--rate N] [--fixed-peers heirloom,hyper] [--list]
Peers, ids and parts of a run: --list. --quick is --seconds 1. {addr} in COMMAND becomes the address to listen on.
Any ID-unpinned is that scenario on all cores; small is a set of ten. Besides scenarios there are syscalls, fixed and turns.";

struct Options {
    only: Vec<String>,
    scenarios: Vec<String>,
    reps: usize,
    own: Vec<String>,
    rate: Option<u64>,
    fixed_peers: Vec<String>,
    patience: Duration,
    list: bool,
    bench: Bench,
}

fn options(scratch: PathBuf) -> Result<Options, Error> {
    let mut options = Options {
        only: Vec::new(),
        scenarios: Vec::new(),
        reps: 5,
        own: Vec::new(),
        rate: None,
        fixed_peers: vec!["heirloom".into(), "hyper".into()],
        patience: Duration::from_secs(300),
        list: false,
        bench: Bench { server_cpus: "0".into(), client_cpus: "1".into(), seconds: 3, scratch },
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        match flag.as_str() {
            "--quick" => {
                options.bench.seconds = 1;
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
            "--only" => options.only = list(),
            "--scenarios" => options.scenarios = list().into_iter().flat_map(scenarios::named).collect(),
            "--reps" => options.reps = value.parse()?,
            "--seconds" => options.bench.seconds = value.parse()?,
            "--server" => options.own.push(value),
            "--server-cpus" => options.bench.server_cpus = value,
            "--client-cpus" => options.bench.client_cpus = value,
            "--patience" => options.patience = Duration::from_secs(value.parse()?),
            "--rate" => options.rate = Some(value.parse()?),
            "--fixed-peers" => options.fixed_peers = list(),
            _ => return Err(USAGE.into()),
        }
    }
    if options.reps == 0 || options.bench.seconds == 0 {
        return Err(USAGE.into());
    }
    Ok(options)
}

/// A temporary directory for scripts, configurations and files that are served; gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, Error> {
        let folder = std::env::temp_dir().join(format!("heirloom-field-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// All runs of one scenario: `runs[peer][repetition]`, and the results of the checks before them.
pub struct Outcome {
    pub scenario: Scenario,
    pub runs: Vec<Vec<Option<Sample>>>,
    pub notes: Vec<Vec<String>>,
}

/// Which peers take part, by `--only`.
fn selected(options: &Options, scratch: &Path) -> Result<Vec<Peer>, Error> {
    let mut all = peers::known(scratch)?;
    for text in &options.own {
        all.push(peers::own(text).ok_or(USAGE)?);
    }
    if let Some(unknown) = options.only.iter().find(|name| !all.iter().any(|peer| peer.name == **name)) {
        eprintln!("field: {unknown} is not there: left out");
    }
    all.retain(|peer| options.only.is_empty() || options.only.contains(&peer.name));
    if !all.iter().any(|peer| peer.kind == Kind::Ours) {
        eprintln!("field: without heirloom there are no ratios");
    }
    Ok(all)
}

fn measure(
    options: &Options,
    peers: &[Peer],
    scenario: Scenario,
    patience: &mut Duration,
) -> Result<Outcome, Error> {
    let mut runs: Vec<Vec<Option<Sample>>> = peers.iter().map(|_| Vec::new()).collect();
    let mut checks = Vec::new();
    for peer in peers {
        let check = match peer.can(scenario.needs) {
            true => options.bench.check(peer, &scenario),
            false => Ok(Check { comparable: false, notes: Vec::new() }),
        };
        let failed = |error: Error| Check { comparable: false, notes: vec![error.to_string()] };
        checks.push(check.unwrap_or_else(failed));
    }
    for rep in 0..options.reps {
        let calm = quiet(patience)?;
        // Each peer is first once, and follows each other peer once.
        for turn in 0..peers.len() {
            let index = (turn + rep) % peers.len();
            let (Some(peer), Some(runs)) = (peers.get(index), runs.get_mut(index)) else { continue };
            if !checks.get(index).is_some_and(|check| check.comparable) {
                runs.push(None);
                continue;
            }
            let sample = options.bench.run(peer, &scenario);
            let sample = sample.map(|sample| Sample { disturbed: sample.disturbed || !calm, ..sample });
            match &sample {
                Ok(sample) => eprintln!(
                    "{} {}/{} {}: {:.0}/s, {:.2} us, p99 {:.2} ms{} {}",
                    scenario.id,
                    rep + 1,
                    options.reps,
                    peer.name,
                    sample.seen.rate,
                    sample.cpu_us,
                    sample.seen.p99_ms,
                    if sample.disturbed { " *" } else { "" },
                    sample.notes.join("; ")
                ),
                Err(error) => {
                    eprintln!("{} {}/{} {}: {error}", scenario.id, rep + 1, options.reps, peer.name)
                }
            }
            runs.push(sample.ok());
        }
    }
    let notes = checks.into_iter().map(|check| check.notes).collect();
    Ok(Outcome { scenario, runs, notes })
}

/// Microseconds of the quickest of several burns.
fn burn_us() -> f64 {
    let one = |_| {
        let started = Instant::now();
        work::burn();
        started.elapsed().as_secs_f64() * 1e6
    };
    (0..20).map(one).fold(f64::INFINITY, f64::min)
}

fn main() -> Result<(), Error> {
    let scratch = Scratch::new()?;
    let options = options(scratch.0.clone())?;
    for program in ["wrk", "taskset"] {
        if !has(program) {
            return Err(format!("{program} is not installed, and nothing can be measured without it").into());
        }
    }
    raise_descriptors()?;
    run::write_scripts(&scratch.0)?;
    let peers = selected(&options, &scratch.0)?;
    let wants =
        |id: &str| options.scenarios.is_empty() || options.scenarios.iter().any(|wanted| wanted == id);
    let scenarios = match options.scenarios.as_slice() {
        [] => scenarios::usual(),
        ids => ids.iter().filter_map(|id| scenarios::find(id)).collect(),
    };
    let known = |id: &str| scenarios::find(id).is_some() || ["syscalls", "fixed", "turns"].contains(&id);
    if let Some(unknown) = options.scenarios.iter().find(|id| !known(id)) {
        return Err(format!("no scenario {unknown}\n{USAGE}").into());
    }
    if options.list {
        peers.iter().for_each(|peer| println!("peer {}", peer.name));
        scenarios.iter().for_each(|scenario| println!("scenario {}: {}", scenario.id, scenario.title));
        println!("part syscalls: system calls for a request\npart fixed: latencies at a fixed rate");
        println!("part turns: CPU for a request on kept connections, in short turns");
        return Ok(());
    }

    let runs: usize = scenarios.iter().map(|s| peers.iter().filter(|peer| peer.can(s.needs)).count()).sum();
    let seconds = runs as f64 * options.reps as f64 * (options.bench.seconds as f64 + 0.2);
    eprintln!("field: {} runs, at least {:.0} minutes", runs * options.reps, seconds / 60.0);
    tables::heading(&options, &peers, burn_us());
    let (started, mut patience) = (Instant::now(), options.patience);
    let mut outcomes = Vec::new();
    for scenario in scenarios {
        let outcome = measure(&options, &peers, scenario, &mut patience)?;
        tables::scenario(&peers, &outcome);
        outcomes.push(outcome);
        eprintln!("field: {:.1} minutes so far", started.elapsed().as_secs_f64() / 60.0);
    }
    if wants("syscalls") {
        if has("strace") {
            syscalls::table(&options.bench, &peers)?;
        } else {
            eprintln!("field: no strace on the PATH: system calls are not counted");
        }
    }
    if wants("fixed") {
        fixed::table(&options, &peers)?;
    }
    if wants("turns") {
        turns::table(&options.bench, &peers)?;
    }
    tables::summary(&peers, &outcomes);
    eprintln!("field: {:.1} minutes in all", started.elapsed().as_secs_f64() / 60.0);
    Ok(())
}
