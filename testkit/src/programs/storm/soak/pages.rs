//! The report of a soak: `report.md`, `report.json`, and a plot for each group of quantities.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::plot::Plot;
use super::vitals::Quantity;
use super::{Handover, Kind, Soak};
use crate::programs::storm::binaries::Bad;
use crate::programs::storm::report::{Report, histogram, line_of, ms, times};
use crate::programs::storm::server::Holdings;
use crate::programs::storm::tally::{End, Outcome};

const FAILURES_SHOWN: usize = 20;

pub(crate) fn write(soak: &Soak, folder: &Path, report: &Report) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let plots = plots(soak);
    for plot in &plots {
        fs::write(folder.join(format!("{}.svg", plot.file)), plot.svg())?;
    }
    fs::write(folder.join("report.json"), report.json() + "\n")?;
    let mut text = String::new();
    totals(&mut text, report);
    by_mode(&mut text, report);
    handovers(&mut text, report);
    hostile(&mut text, soak);
    trends(&mut text, soak);
    let at_rest =
        |h: &Holdings| format!("{} descriptors, {} threads, {} KiB", h.fds, h.threads, h.resident_kib);
    let [first, last] = report.at_rest.each_ref().map(at_rest);
    let fresh = report.fresh.as_ref().map_or_else(|| "nothing that was seen".to_owned(), at_rest);
    let _ = writeln!(
        text,
        "Without clients the first generation held {first}; the last one, after its clients, {last}; one more, which had none, \
         {fresh}.\n"
    );
    for plot in &plots {
        // By a name, which the page defines.
        let _ = writeln!(text, "![{}][soak/{}.svg]\n", plot.title, plot.file);
    }
    fs::write(folder.join("report.md"), text)
}

fn totals(out: &mut String, report: &Report) {
    let total = report.total();
    let seconds = report.load.as_secs_f64();
    let _ = writeln!(
        out,
        "{:.1} minutes, {} clients, {} hostile clients; {} requests, {:.0} per second; {} upgrades of {}, and {} that failed, \
         as they should. **{}**\n",
        seconds / 60.0,
        report.rows.iter().map(|row| row.clients).sum::<usize>(),
        2 * Kind::ALL.len(),
        total.requests,
        f64::from(u32::try_from(total.requests).unwrap_or(u32::MAX)) / seconds.max(1.0),
        report.handovers.len(),
        report.handovers_asked,
        report.bad.len(),
        if report.good() { "Nothing was lost, and nothing grew." } else { "Something was lost or grew." }
    );
    for problem in &report.problems {
        let _ = writeln!(out, "- PROBLEM: {problem}");
    }
    for failure in total.failures.iter().take(FAILURES_SHOWN) {
        let _ = writeln!(out, "- {}", line_of(failure));
    }
    let failures = Outcome::ALL.into_iter().filter(|outcome| outcome.is_failure());
    let mut cells: Vec<(&str, u64)> = failures.map(|outcome| (outcome.name(), total.of(outcome))).collect();
    cells.extend([End::Silent, End::Stray].map(|end| (end.name(), total.ended(end))));
    let strict = report.rows.iter().filter(|row| row.strict);
    let closed = strict.map(|row| row.tally.ended(End::Announced) + row.tally.reconnects).sum();
    cells.push(("closes and reconnects", closed));
    cells.extend([Outcome::Crashed, Outcome::Crossed].map(|of| (of.name(), total.of(of))));
    row(out, cells.iter().map(|(name, _)| (*name).to_owned()));
    row(out, cells.iter().map(|_| "---".to_owned()));
    row(out, cells.iter().map(|(_, n)| n.to_string()));
    out.push('\n');
}

fn row(out: &mut String, cells: impl IntoIterator<Item = String>) {
    for cell in cells {
        let _ = write!(out, "| {cell} ");
    }
    out.push_str("|\n");
}

fn table(out: &mut String, heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    row(out, heads.iter().map(|head| (*head).to_owned()));
    row(out, heads.iter().map(|_| "---".to_owned()));
    rows.into_iter().for_each(|cells| row(out, cells));
    out.push('\n');
}

fn by_mode(out: &mut String, report: &Report) {
    let heads = [
        "mode",
        "clients",
        "requests",
        "failed",
        "crashed",
        "crossed",
        "connections",
        "announced ends",
        "reconnects",
        "p50 ms",
        "p99 ms",
    ];
    table(
        out,
        &heads,
        report.rows.iter().map(|row| {
            let tally = &row.tally;
            let [p50, p99, ..] = times(&tally.latency);
            vec![
                row.name.clone(),
                row.clients.to_string(),
                tally.requests.to_string(),
                tally.failed().to_string(),
                tally.of(Outcome::Crashed).to_string(),
                tally.of(Outcome::Crossed).to_string(),
                tally.connected.to_string(),
                tally.ended(End::Announced).to_string(),
                tally.reconnects.to_string(),
                ms(p50),
                ms(p99),
            ]
        }),
    );
}

fn handovers(out: &mut String, report: &Report) {
    let cells = |name: &str, times_of: &[Duration]| {
        let [p50, p99, _, max] = times(&histogram(times_of.iter()));
        vec![name.to_owned(), times_of.len().to_string(), ms(p50), ms(p99), ms(max)]
    };
    table(
        out,
        &["handover", "count", "p50 ms", "p99 ms", "longest ms"],
        [
            cells("signal to commit, with the probation", &report.handovers),
            cells("signal to the successor's first response", &report.first_answers),
        ],
    );
    let count = |bad: Bad| report.bad.iter().filter(|other| **other == bad).count();
    let counts = Bad::ALL.map(|bad| format!("{} {}", bad.name(), count(bad)));
    let _ = writeln!(out, "Failed handovers, as expected: {}.\n", counts.join(", "));
}

fn hostile(out: &mut String, soak: &Soak) {
    let counts = soak.counts();
    table(
        out,
        &["hostile clients", "connections", "what they got"],
        Kind::ALL.into_iter().map(|kind| {
            let of_kind = || counts.iter().filter(|((of, _), _)| *of == kind);
            let gots: Vec<String> = of_kind().map(|((_, got), n)| format!("{got}: {n}")).collect();
            let all: u64 = of_kind().map(|(_, n)| n).sum();
            vec![kind.name().to_owned(), all.to_string(), gots.join(", ")]
        }),
    );
}

fn trends(out: &mut String, soak: &Soak) {
    let heads = [
        "held by a generation 2.5 s after its commit",
        "median",
        "growth over the run",
        "highest, first third and last",
    ];
    table(
        out,
        &heads,
        soak.trends().into_iter().map(|(quantity, trend)| {
            let cells = match trend {
                None => ["too few samples".to_owned(), String::new(), String::new()],
                Some(trend) => {
                    let [first, last] = trend.peaks;
                    let mark = if trend.grows { " **grows**" } else { "" };
                    [
                        format!("{}", trend.median),
                        format!("{:+.1}{mark}", trend.growth + 0.0),
                        format!("{first}, {last}"),
                    ]
                }
            };
            [vec![quantity.name().to_owned()], cells.into()].concat()
        }),
    );
}

fn plots(soak: &Soak) -> Vec<Plot> {
    let minutes = |at: Duration| at.as_secs_f64() / 60.0;
    let intervals = soak.timeline.intervals();
    let rate = intervals.iter().map(|i| (minutes(i.at), i.requests_per_second)).collect();
    let p50 = intervals.iter().map(|i| (minutes(i.at), i.p50)).collect();
    let p99 = intervals.iter().map(|i| (minutes(i.at), i.p99)).collect();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let first = |h: &Handover| Some((minutes(h.at), ms(h.to_first_answer?)));
    let first = soak.handovers.iter().filter_map(first).collect();
    let own = |h: &Handover| (minutes(h.at), ms(h.to_commit.saturating_sub(soak.probation)));
    let commit = soak.handovers.iter().map(own).collect();
    let of = |quantity: Quantity, unit: f64| -> Vec<(f64, f64)> {
        let samples = soak.vitals.iter();
        samples.filter_map(|v| Some((minutes(v.at), v.of(quantity)? / unit))).collect()
    };
    let plot = |file, title, lines| Plot { file, title, lines };
    vec![
        plot("requests", "Requests per second", vec![("all modes", rate)]),
        plot("latency", "Latency, ms, of keepalive and close", vec![("p50", p50), ("p99", p99)]),
        plot(
            "handovers",
            "Handovers, ms from the signal",
            vec![("commit, less probation", commit), ("first response", first)],
        ),
        plot(
            "descriptors",
            "Descriptors of each generation",
            vec![("all", of(Quantity::Descriptors, 1.0)), ("other than sockets", of(Quantity::Files, 1.0))],
        ),
        plot(
            "threads",
            "Threads of each generation; processes",
            vec![("threads", of(Quantity::Threads, 1.0)), ("processes", of(Quantity::Processes, 1.0))],
        ),
        plot(
            "memory",
            "Resident memory of each generation, MiB",
            vec![("resident", of(Quantity::Resident, 1024.0))],
        ),
    ]
}
