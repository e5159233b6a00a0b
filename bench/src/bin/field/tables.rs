//! Medians and ratios as markdown.

use crate::peers::{Kind, Peer};
use crate::run::Sample;
use crate::{Options, Outcome};
use heirloom_bench::median;
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

/// Near this many cores on one, the load program was the limit.
const CLIENT_FULL: f64 = 0.9;

pub fn heading(options: &Options, peers: &[Peer], burn_us: f64) {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models = cpus.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let models: Vec<&str> = models.map(|(_, name)| name).collect();
    let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
    println!("# The field\n");
    println!("- {} cores: {}; Linux {}", models.len(), models.first().unwrap_or(&"?"), kernel.trim());
    println!("- {}", version("rustc", "--version"));
    println!("- servers: {}", names.join(", "));
    if names.contains(&"go") {
        println!("- {}", version("go", "version"));
    }
    println!("- {} interleaved repetitions of {} s, medians", options.reps, options.bench.seconds);
    println!(
        "- pinned: server on core {}, client on core {}",
        options.bench.server_cpus, options.bench.client_cpus
    );
    println!("- one burn takes {burn_us:.0} us");
    println!("- in parentheses: theirs divided by ours in the same repetition, the median of those");
}

fn version(program: &str, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|_| format!("no {program} on the PATH"))
}

/// A figure of a run, and how many digits it is shown with.
type Figure = (fn(&Sample) -> f64, usize);

const RATE: Figure = (|sample| sample.seen.rate, 0);
const CPU: Figure = (|sample| sample.cpu_us, 2);
const P50: Figure = (|sample| sample.seen.p50_ms, 3);
const P99: Figure = (|sample| sample.seen.p99_ms, 2);
const RSS: Figure = (|sample| sample.rss_mib, 1);

pub fn scenario(peers: &[Peer], outcome: &Outcome) {
    println!("\n## {} (`{}`)\n", outcome.scenario.title, outcome.scenario.id);
    println!("| server | req/s | CPU us/req | p50 ms | p99 ms | RSS MiB | req/s, each ratio | notes |");
    println!("|---|---|---|---|---|---|---|---|");
    let ours = ours(peers, outcome);
    for ((peer, runs), found) in peers.iter().zip(&outcome.runs).zip(&outcome.notes) {
        let cells = [RATE, CPU, P50, P99, RSS].map(|figure| cell(runs, ours, figure));
        let each = each_ratio(runs, ours, RATE.0).into_iter();
        let each: Vec<String> = each.map(|ratio| format!("{ratio:.2}")).collect();
        let each = if each.is_empty() { "–".to_owned() } else { each.join(", ") };
        let notes = notes(runs, found, outcome.scenario.pinned);
        println!("| {} | {} | {each} | {notes} |", peer.name, cells.join(" | "));
    }
}

fn ours<'a>(peers: &[Peer], outcome: &'a Outcome) -> Option<&'a [Option<Sample>]> {
    let index = peers.iter().position(|peer| peer.kind == Kind::Ours)?;
    outcome.runs.get(index).map(Vec::as_slice)
}

fn cell(runs: &[Option<Sample>], ours: Option<&[Option<Sample>]>, (of, digits): Figure) -> String {
    let value = median(runs.iter().flatten().map(of).filter(|value| value.is_finite()));
    if value.is_nan() {
        return "–".to_owned();
    }
    let ratio = median(each_ratio(runs, ours, of));
    let ratio = if ratio.is_nan() { String::new() } else { format!(" ({ratio:.2})") };
    format!("{value:.digits$}{ratio}")
}

/// Of the repetitions in which both have a figure.
fn each_ratio(runs: &[Option<Sample>], ours: Option<&[Option<Sample>]>, of: fn(&Sample) -> f64) -> Vec<f64> {
    let pairs = runs.iter().zip(ours.unwrap_or_default());
    let ratios = pairs.filter_map(|(theirs, ours)| Some(of(theirs.as_ref()?) / of(ours.as_ref()?)));
    ratios.filter(|ratio| ratio.is_finite()).collect()
}

fn notes(runs: &[Option<Sample>], found: &[String], pinned: bool) -> String {
    let mut notes = found.to_vec();
    let failed = runs.iter().filter(|run| run.is_none()).count();
    let samples: Vec<&Sample> = runs.iter().flatten().collect();
    if failed > 0 && !samples.is_empty() {
        notes.push(format!("{failed} runs failed"));
    }
    let said: BTreeSet<&String> = samples.iter().flat_map(|sample| &sample.notes).collect();
    notes.extend(said.into_iter().take(2).cloned());
    let full = samples.iter().filter(|sample| sample.seen.client_cores >= CLIENT_FULL).count();
    if pinned && full > 0 {
        notes.push(format!("client full in {full}"));
    }
    notes.push("*".repeat(samples.iter().filter(|sample| sample.disturbed).count()));
    notes.retain(|note| !note.is_empty());
    notes.join("; ")
}

/// The tables to choose by: each peer beside ours, with the best of each scenario in bold.
pub fn summary(peers: &[Peer], outcomes: &[Outcome]) {
    if outcomes.is_empty() || !peers.iter().any(|peer| peer.kind == Kind::Ours) {
        return;
    }
    println!("\n## In all scenarios\n");
    println!(
        "Each peer's figure divided by ours in the same repetition, the median of those. In bold the best of a row,"
    );
    println!("the floor aside: less CPU is better, and so are more requests/s unless the client was full.");
    compare(peers, outcomes, "CPU us/req", CPU, f64::min);
    compare(peers, outcomes, "req/s", RATE, f64::max);
}

fn compare(peers: &[Peer], outcomes: &[Outcome], what: &str, figure: Figure, better: fn(f64, f64) -> f64) {
    let (of, digits) = figure;
    let (ours_first, others): (Vec<_>, Vec<_>) =
        peers.iter().enumerate().partition(|(_, peer)| peer.kind == Kind::Ours);
    let columns: Vec<(usize, &Peer)> = ours_first.into_iter().chain(others).collect();
    let names: Vec<&str> = columns.iter().map(|(_, peer)| peer.name.as_str()).collect();
    println!("\n| {what}: scenario | ours | {} |", names.join(" | "));
    println!("|---|---|{}", "---|".repeat(names.len()));
    for outcome in outcomes {
        let ours = ours(peers, outcome);
        let ratio = |index: usize| {
            let runs = outcome.runs.get(index).map(Vec::as_slice).unwrap_or_default();
            Some(median(each_ratio(runs, ours, of))).filter(|ratio| ratio.is_finite())
        };
        let ratios: Vec<(&str, Option<f64>)> =
            columns.iter().map(|(index, peer)| (peer.name.as_str(), ratio(*index))).collect();
        let competing = ratios.iter().filter(|(name, _)| *name != "floor").filter_map(|(_, ratio)| *ratio);
        let best = competing.reduce(better);
        let cells = ratios.iter().map(|(name, ratio)| match ratio {
            None => "–".to_owned(),
            Some(ratio) if Some(*ratio) == best && *name != "floor" => format!("**{ratio:.2}**"),
            Some(ratio) => format!("{ratio:.2}"),
        });
        let cells: Vec<String> = cells.collect();
        let own = median(ours.unwrap_or_default().iter().flatten().map(of));
        println!("| {} | {own:.digits$} | {} |", outcome.scenario.id, cells.join(" | "));
    }
}
