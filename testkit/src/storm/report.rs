//! The table for people and the line for programs.

use std::fmt::Write;
use std::time::Duration;

use super::histogram::Histogram;
use super::server::Holdings;
use super::tally::{End, Failure, Outcome, Tally};

/// So many failures are shown.
const SHOWN: usize = 30;

#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Name, clients, what they counted.
    pub(crate) modes: Vec<(&'static str, usize, Tally)>,
    pub(crate) handovers_asked: u32,
    /// How long each took, in order.
    pub(crate) handovers: Vec<Duration>,
    pub(crate) load: Duration,
    /// The first generation before the load, and the last one after it.
    pub(crate) at_rest: [Holdings; 2],
    /// Each generation that has handed over, when it was told to.
    pub(crate) under_load: Vec<Holdings>,
    pub(crate) ended_well: usize,
    pub(crate) ended_untold: usize,
    /// Everything else that went wrong: handovers, ends of processes, sums.
    pub(crate) problems: Vec<String>,
}

impl Report {
    pub(crate) fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.modes.iter().for_each(|(_, _, tally)| total.merge(tally));
        total
    }

    pub(crate) fn good(&self) -> bool {
        self.problems.is_empty() && self.total().failed() == 0
    }

    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let total = self.total();
        let clients = self.modes.iter().map(|(_, clients, _)| clients).sum();
        let rows: Vec<(&str, usize, &Tally)> = self
            .modes
            .iter()
            .map(|(name, clients, tally)| (*name, *clients, tally))
            .chain([("all", clients, &total)])
            .collect();

        let heads = "mode clients requests ok refused reset cut timeout wrong dismissed own_limit";
        line(&mut out, heads.split(' ').map(str::to_owned));
        for (name, clients, tally) in &rows {
            let both = |outcome| match (tally.on_fresh(outcome), tally.on_reused(outcome)) {
                (0, 0) => "0".to_owned(),
                (fresh, reused) => format!("{fresh}f+{reused}r"),
            };
            let start = [(*name).to_owned(), clients.to_string(), tally.begun.to_string()];
            let ok = [tally.of(Outcome::Ok).to_string()];
            line(&mut out, start.into_iter().chain(ok).chain(Outcome::ALL[1..].iter().copied().map(both)));
        }
        let heads = "mode connects made reconnects asked announced silent stray lost ours";
        let _ = writeln!(out, "\n(f: on a fresh connection, r: on a reused one)\n");
        line(&mut out, heads.split(' ').map(str::to_owned));
        for (name, _, tally) in &rows {
            let start = [tally.tried, tally.connected, tally.reconnects].into_iter();
            let numbers = start.chain(End::ALL.into_iter().map(|end| tally.ended(end)));
            line(&mut out, [(*name).to_owned()].into_iter().chain(numbers.map(|n| n.to_string())));
        }
        let _ = writeln!(out);
        let heads = "ms p50 p99 p99.9 max near:n near:p50 near:p99 near:p99.9 near:max";
        line(&mut out, heads.split(' ').map(str::to_owned));
        for (name, _, tally) in &rows {
            let cells = times(&tally.latency).into_iter().map(ms);
            let near = times(&tally.near).into_iter().map(ms);
            let count = [tally.near.count().to_string()];
            line(&mut out, [(*name).to_owned()].into_iter().chain(cells).chain(count).chain(near));
        }
        let _ = writeln!(out, "\n(near: under way within 250 ms after a signal)\n");
        self.of_the_server(&mut out);
        for failure in total.failures.iter().take(SHOWN) {
            let _ = writeln!(out, "{}", told(failure));
        }
        for problem in &self.problems {
            let _ = writeln!(out, "PROBLEM: {problem}");
        }
        let _ = writeln!(out, "{}", if self.good() { "GOOD: nothing was lost" } else { "LOST OR WRONG" });
        out
    }

    fn of_the_server(&self, out: &mut String) {
        let took = self.took();
        let [p50, p99, _, max] = times(&took);
        let _ = writeln!(
            out,
            "handovers: {} of {}, from signal to commit p50 {} p99 {} max {} ms; load for {:.1} s",
            self.handovers.len(),
            self.handovers_asked,
            ms(p50),
            ms(p99),
            ms(max),
            self.load.as_secs_f64()
        );
        let _ = writeln!(
            out,
            "processes: {} ended with status 0, {} seen by their parent only",
            self.ended_well, self.ended_untold
        );
        let show = |h: &Holdings| format!("{} fds, {} threads, {} KiB", h.fds, h.threads, h.resident_kib);
        let [first, last] = &self.at_rest;
        let _ = writeln!(out, "at rest: first generation {}; last {}", show(first), show(last));
        if let (Some(first), Some(last)) = (self.under_load.first(), self.under_load.last()) {
            let most = |of: fn(&Holdings) -> u64| self.under_load.iter().map(of).max().unwrap_or(0);
            let _ = writeln!(
                out,
                "under load: first {}; last {}; most {} fds, {} threads, {} KiB",
                show(first),
                show(last),
                most(|h| h.fds as u64),
                most(|h| h.threads as u64),
                most(|h| h.resident_kib)
            );
        }
        let grown = last.fds.saturating_sub(first.fds);
        if grown > 2 {
            let _ =
                writeln!(out, "GROWTH: {grown} descriptors more in the last generation than in the first");
        }
    }

    fn took(&self) -> Histogram {
        let mut took = Histogram::default();
        self.handovers.iter().for_each(|time| took.add(*time));
        took
    }

    /// One line of JSON.
    pub(crate) fn json(&self) -> String {
        let modes = self
            .modes
            .iter()
            .map(|(name, clients, tally)| format!("{}:{}", quoted(name), of_tally(tally, Some(*clients))));
        let holdings = |h: &Holdings| {
            format!("{{\"fds\":{},\"threads\":{},\"rss_kib\":{}}}", h.fds, h.threads, h.resident_kib)
        };
        let failures = self.total().failures;
        let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(",");
        format!(
            "{{\"good\":{},\"handovers\":{},\"handovers_asked\":{},\"handover_us\":{},\"load_ms\":{},\
             \"all\":{},\"modes\":{{{}}},\"ended_well\":{},\"ended_untold\":{},\
             \"at_rest\":[{}],\"under_load\":[{}],\"failures\":[{}],\"problems\":[{}]}}",
            self.good(),
            self.handovers.len(),
            self.handovers_asked,
            of_times(&self.took()),
            self.load.as_millis(),
            of_tally(&self.total(), None),
            list(&mut modes.into_iter()),
            self.ended_well,
            self.ended_untold,
            list(&mut self.at_rest.iter().map(holdings)),
            list(&mut self.under_load.first().into_iter().chain(self.under_load.last()).map(holdings)),
            list(&mut failures.iter().take(SHOWN).map(|failure| quoted(&told(failure)))),
            list(&mut self.problems.iter().map(|problem| quoted(problem))),
        )
    }
}

fn line(out: &mut String, cells: impl IntoIterator<Item = String>) {
    for (n, cell) in cells.into_iter().enumerate() {
        let _ = if n == 0 { write!(out, "{cell:<10}") } else { write!(out, " {cell:>10}") };
    }
    out.push('\n');
}

/// p50, p99, p99.9 and the longest, in microseconds.
fn times(histogram: &Histogram) -> [u64; 4] {
    [histogram.per_mille(500), histogram.per_mille(990), histogram.per_mille(999), histogram.max_us()]
}

fn ms(us: u64) -> String {
    format!("{}.{:02}", us / 1000, us % 1000 / 10)
}

fn told(failure: &Failure) -> String {
    let since = failure.since_signal.map_or("before any signal".to_owned(), |since| {
        format!("{:.1} ms after the last signal", since.as_secs_f64() * 1000.0)
    });
    format!(
        "{:9.3} {} {} ({since}; {} answers on the connection before): {}",
        failure.at.as_secs_f64(),
        failure.mode,
        failure.what,
        failure.answers,
        failure.detail
    )
}

fn of_times(histogram: &Histogram) -> String {
    let [p50, p99, p999, max] = times(histogram);
    format!("{{\"n\":{},\"p50\":{p50},\"p99\":{p99},\"p999\":{p999},\"max\":{max}}}", histogram.count())
}

fn of_tally(tally: &Tally, clients: Option<usize>) -> String {
    let mut out = String::from("{");
    if let Some(clients) = clients {
        let _ = write!(out, "\"clients\":{clients},");
    }
    let _ = write!(out, "\"requests\":{},\"failed\":{}", tally.begun, tally.failed());
    for outcome in Outcome::ALL {
        let _ = write!(out, ",\"{}\":{}", outcome.name(), tally.of(outcome));
        if outcome.is_failure() {
            let _ = write!(out, ",\"{}_reused\":{}", outcome.name(), tally.on_reused(outcome));
        }
    }
    let _ = write!(out, ",\"connects\":{},\"reconnects\":{}", tally.tried, tally.reconnects);
    for end in End::ALL {
        let _ = write!(out, ",\"end_{}\":{}", end.name(), tally.ended(end));
    }
    let (latency, near) = (of_times(&tally.latency), of_times(&tally.near));
    let _ = write!(out, ",\"latency_us\":{latency},\"near_us\":{near}}}");
    out
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out + "\""
}
