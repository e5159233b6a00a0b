//! The table for people and the line for programs.

use std::fmt::Write;
use std::time::Duration;

use super::binaries::Bad;
use super::histogram::Histogram;
use super::server::Holdings;
use super::tally::{End, Failure, Outcome, Tally};

/// The number of failures that are shown.
const SHOWN: usize = 30;

/// What the clients of a mode have counted.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) clients: usize,
    pub(crate) tally: Tally,
    /// Whether announced closes and reconnects count.
    pub(crate) strict: bool,
}

/// What the clients with a cipher suite have counted.
#[derive(Debug, Default)]
pub(crate) struct SuiteRow {
    pub(crate) name: &'static str,
    pub(crate) clients: usize,
    pub(crate) tally: Tally,
    /// Handshakes: full ones, and resumed sessions.
    pub(crate) handshakes: [u64; 2],
}

impl Row {
    /// Closed with an announcement where no connection may be closed.
    fn closed(&self) -> u64 {
        if self.strict { self.tally.ended(End::Announced) + self.tally.reconnects } else { 0 }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) handovers_asked: u32,
    /// How long each took, in order.
    pub(crate) handovers: Vec<Duration>,
    /// From each first signal until a new connection was answered by a later generation.
    pub(crate) first_answers: Vec<Duration>,
    /// What all the signals have led to.
    pub(crate) generations: u64,
    /// Connections that went to a successor, and how long after the signal all of them had.
    pub(crate) moved: Vec<(usize, Duration)>,
    /// Handovers that failed, as they should.
    pub(crate) bad: Vec<Bad>,
    /// From each TERM until no process was left.
    pub(crate) stops: Vec<Duration>,
    pub(crate) load: Duration,
    /// The first generation before the load, and the last one after it.
    pub(crate) at_rest: [Holdings; 2],
    /// A generation after these, which had no client.
    pub(crate) fresh: Option<Holdings>,
    /// For each generation that has handed over, when it was signalled to.
    pub(crate) under_load: Vec<Holdings>,
    pub(crate) ended_well: usize,
    pub(crate) ended_untold: usize,
    pub(crate) suites: Vec<SuiteRow>,
    /// Everything else that went wrong: handovers, ends of processes, sums.
    pub(crate) problems: Vec<String>,
}

impl Report {
    pub(crate) fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.rows.iter().for_each(|row| total.merge(&row.tally));
        total
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.problems.extend(row.tally.contradiction().map(|what| format!("{}: {what}", row.name)));
        self.rows.push(row);
    }

    /// A generation that had no client holds what the first one held: else something is inherited from each to the next.
    pub(crate) fn note_fresh(&mut self, fresh: Option<Holdings>) {
        self.fresh = fresh;
        self.problems.extend(fresh.and_then(|fresh| inherited(&self.at_rest[0], &fresh)));
    }

    pub(crate) fn good(&self) -> bool {
        let is_good = |row: &Row| row.tally.failed() + row.closed() == 0;
        self.problems.is_empty() && self.rows.iter().all(is_good)
    }

    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let total = self.total();
        let clients = self.rows.iter().map(|row| row.clients).sum();
        let rows = self.rows.iter().map(|row| (row.name.as_str(), row.clients, &row.tally));
        let rows: Vec<(&str, usize, &Tally)> = rows.chain([("all", clients, &total)]).collect();

        let heads = "mode clients requests ok refused reset cut timeout wrong dismissed own_limit away crashed crossed";
        line(&mut out, heads.split(' ').map(str::to_owned));
        for (name, clients, tally) in &rows {
            let both = |outcome| match (tally.on_fresh(outcome), tally.on_reused(outcome)) {
                (0, 0) => "0".to_owned(),
                (fresh, reused) => format!("{fresh}f+{reused}r"),
            };
            let start = [(*name).to_owned(), clients.to_string(), tally.requests.to_string()];
            let ok = [tally.of(Outcome::Ok).to_string()];
            line(&mut out, start.into_iter().chain(ok).chain(Outcome::ALL[1..].iter().copied().map(both)));
        }
        let heads = "mode connects made reconnects asked announced silent stray lost ours gone";
        let _ = writeln!(out, "\n(f: on a fresh connection, r: on a reused one)\n");
        line(&mut out, heads.split(' ').map(str::to_owned));
        for (name, _, tally) in &rows {
            let start = [tally.tried, tally.connected, tally.reconnects].into_iter();
            let numbers = start.chain(End::ALL.into_iter().map(|end| tally.ended(end)));
            line(&mut out, [(*name).to_owned()].into_iter().chain(numbers.map(|n| n.to_string())));
        }
        let _ = writeln!(out);
        let heads = "ms p50 p99 p99.9 max far:n far:p99.9 near:n near:p50 near:p99 near:p99.9 near:max ratio";
        line(&mut out, heads.split(' ').map(str::to_owned));
        for (name, _, tally) in &rows {
            let cells = times(&tally.latency).into_iter().map(ms);
            let [far, near] = [false, true].map(|near| tally.latency_when(near));
            let counts = [far.count().to_string(), ms(far.per_mille(999)), near.count().to_string()];
            let ratio = tally.ratio().map_or("-".to_owned(), |(ratio, _)| decimal(ratio, 1000));
            let start = [(*name).to_owned()].into_iter().chain(cells).chain(counts);
            line(&mut out, start.chain(times(&near).into_iter().map(ms)).chain([ratio]));
        }
        self.of_suites(&mut out);
        let parts = total.ratio().map_or(0, |(_, parts)| parts);
        let _ = writeln!(
            out,
            "\n(near: under way within 250 ms after a signal, far: not; ratio: of p99.9 near to p99.9 far, the\n\
             median of the tenths of the load that have a thousand of both: {parts})\n"
        );
        if total.travelled > 0 {
            let _ = writeln!(
                out,
                "event streams: {} times the next event was of another process",
                total.travelled
            );
        }
        self.of_the_server(&mut out);
        for failure in total.failures.iter().take(SHOWN) {
            let _ = writeln!(out, "{}", line_of(failure));
        }
        for problem in &self.problems {
            let _ = writeln!(out, "PROBLEM: {problem}");
        }
        let _ = writeln!(out, "{}", if self.good() { "GOOD: nothing was lost" } else { "LOST OR WRONG" });
        out
    }

    fn of_suites(&self, out: &mut String) {
        if self.suites.is_empty() {
            return;
        }
        let heads = "clients requests failed connects reconnects announced full resumed divided key_updates";
        let _ = writeln!(out);
        let line = |out: &mut String, name: &str, cells: Vec<String>| {
            let _ = write!(out, "{name:<45}");
            for cell in cells {
                let _ = write!(out, " {cell:>11}");
            }
            out.push('\n');
        };
        line(out, "cipher suite", heads.split(' ').map(str::to_owned).collect());
        for SuiteRow { name, clients, tally, handshakes: [full, resumed] } in &self.suites {
            let [clients, failed] = [*clients as u64, tally.failed()];
            let ends = [tally.tried, tally.reconnects, tally.ended(End::Announced)];
            let start = [clients, tally.requests, failed].into_iter().chain(ends);
            let numbers = start.chain([*full, *resumed, tally.divided, tally.key_updates]);
            line(out, name, numbers.map(|n| n.to_string()).collect());
        }
    }

    fn of_the_server(&self, out: &mut String) {
        let show = |times_of: &[Duration]| {
            let [p50, p99, _, max] = times(&histogram(times_of.iter()));
            format!("p50 {} p99 {} max {} ms", ms(p50), ms(p99), ms(max))
        };
        let _ = writeln!(
            out,
            "handovers: {} of {}, to generation {}; load for {:.1} s",
            self.handovers.len(),
            self.handovers_asked,
            self.generations + 1,
            self.load.as_secs_f64()
        );
        if !self.handovers.is_empty() {
            let _ = writeln!(out, "from signal to commit: {}", show(&self.handovers));
            let _ =
                writeln!(out, "from signal to the successor's first answer: {}", show(&self.first_answers));
        }
        if let Some((most, _)) = self.moved.iter().max() {
            let took: Vec<Duration> = self.moved.iter().map(|(_, took)| *took).collect();
            let least = self.moved.iter().map(|(moved, _)| *moved).min().unwrap_or(0);
            let _ =
                writeln!(out, "from signal until {least} to {most} connections had moved: {}", show(&took));
        }
        if !self.bad.is_empty() {
            let count = |bad: Bad| self.bad.iter().filter(|other| **other == bad).count();
            let counts: Vec<_> = Bad::ALL.map(|bad| format!("{} {}", bad.name(), count(bad))).into();
            let _ = writeln!(out, "handovers that failed, and should: {}", counts.join(", "));
        }
        if !self.stops.is_empty() {
            let _ = writeln!(out, "stops: {}; each took {}", self.stops.len(), show(&self.stops));
        }
        let _ = writeln!(
            out,
            "processes: {} ended with status 0, {} seen by their parent only",
            self.ended_well, self.ended_untold
        );
        let show = |h: &Holdings| format!("{} fds, {} threads, {} KiB", h.fds, h.threads, h.resident_kib);
        let [first, last] = &self.at_rest;
        let _ = writeln!(out, "at rest: first generation {}; last {}", show(first), show(last));
        if let Some(fresh) = &self.fresh {
            let _ = writeln!(out, "at rest: one more generation, without clients {}", show(fresh));
        }
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
    }

    /// One line of JSON.
    pub(crate) fn json(&self) -> String {
        let of = |row: &Row| format!("{}:{}", quoted(&row.name), of_tally(&row.tally, Some(row.clients)));
        let modes = self.rows.iter().map(of);
        let holdings = |h: &Holdings| {
            format!("{{\"fds\":{},\"threads\":{},\"rss_kib\":{}}}", h.fds, h.threads, h.resident_kib)
        };
        let failures = self.total().failures;
        let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(",");
        format!(
            "{{\"good\":{},\"handovers\":{},\"handovers_asked\":{},\"handover_us\":{},\
             \"generations\":{},\"first_answer_us\":{},\"moved\":{},\"moved_us\":{},\"bad\":{},\"stop_us\":{},\"load_ms\":{},\
             \"all\":{},\"modes\":{{{}}},\"ended_well\":{},\"ended_untold\":{},\
             \"tls\":{{{}}},\"at_rest\":[{}],\"under_load\":[{}],\"failures\":[{}],\"problems\":[{}]}}",
            self.good(),
            self.handovers.len(),
            self.handovers_asked,
            of_times(&histogram(self.handovers.iter())),
            self.generations,
            of_times(&histogram(self.first_answers.iter())),
            self.moved.iter().map(|(moved, _)| *moved).min().unwrap_or(0),
            of_times(&histogram(self.moved.iter().map(|(_, took)| took))),
            self.bad.len(),
            of_times(&histogram(self.stops.iter())),
            self.load.as_millis(),
            of_tally(&self.total(), None),
            list(&mut modes.into_iter()),
            self.ended_well,
            self.ended_untold,
            list(&mut self.suites.iter().map(of_suite)),
            list(&mut self.at_rest.iter().chain(&self.fresh).map(holdings)),
            list(&mut self.under_load.first().into_iter().chain(self.under_load.last()).map(holdings)),
            list(&mut failures.iter().take(SHOWN).map(|failure| quoted(&line_of(failure)))),
            list(&mut self.problems.iter().map(|problem| quoted(problem))),
        )
    }
}

/// What a generation without clients holds beyond the first one, which had none either. The history of the generations takes some
/// memory.
fn inherited(first: &Holdings, fresh: &Holdings) -> Option<String> {
    let most_kib = first.resident_kib + first.resident_kib / 8 + 1024;
    let is_more = fresh.fds > first.fds || fresh.threads > first.threads || fresh.resident_kib > most_kib;
    is_more.then(|| format!("a generation inherits from its predecessors: {first:?} at first, {fresh:?} now"))
}

pub(crate) fn histogram<'a>(times: impl Iterator<Item = &'a Duration>) -> Histogram {
    let mut histogram = Histogram::default();
    times.for_each(|time| histogram.add(*time));
    histogram
}

fn line(out: &mut String, cells: impl IntoIterator<Item = String>) {
    for (n, cell) in cells.into_iter().enumerate() {
        let _ = if n == 0 { write!(out, "{cell:<14}") } else { write!(out, " {cell:>10}") };
    }
    out.push('\n');
}

/// p50, p99, p99.9 and the longest, in microseconds.
pub(crate) fn times(histogram: &Histogram) -> [u64; 4] {
    [histogram.per_mille(500), histogram.per_mille(990), histogram.per_mille(999), histogram.max_us()]
}

pub(crate) fn ms(us: u64) -> String {
    decimal(us, 1000)
}

/// `n` / `unit`, with two places.
fn decimal(n: u64, unit: u64) -> String {
    format!("{}.{:02}", n / unit, n % unit * 100 / unit)
}

pub(crate) fn line_of(failure: &Failure) -> String {
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
    let _ = write!(out, "\"requests\":{},\"failed\":{}", tally.requests, tally.failed());
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
    let [far, near] = [false, true].map(|near| of_times(&tally.latency_when(near)));
    let latency = of_times(&tally.latency);
    let (ratio, parts) = tally.ratio().unwrap_or_default();
    let _ = write!(out, ",\"latency_us\":{latency},\"far_us\":{far},\"near_us\":{near}");
    let _ = write!(out, ",\"near_to_far_thousandths\":{ratio},\"parts\":{parts}}}");
    out
}

fn of_suite(row: &SuiteRow) -> String {
    let [full, resumed] = row.handshakes;
    let Tally { divided, key_updates, .. } = &row.tally;
    format!(
        "{}:{{\"full\":{full},\"resumed\":{resumed},\"divided\":{divided},\"key_updates\":{key_updates},\"counts\":{}}}",
        quoted(row.name),
        of_tally(&row.tally, Some(row.clients))
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_generation_inherits_is_noticed() {
        let first = Holdings { fds: 13, threads: 35, resident_kib: 8_688 };
        let more = |fds, threads, resident_kib| Holdings { fds, threads, resident_kib };
        for (fresh, is_noticed) in [
            (first, false),
            (more(12, 34, 10_700), false),
            (more(14, 35, 8_688), true),
            (more(13, 36, 8_688), true),
            // Twelve KiB for each of a thousand upgrades.
            (more(13, 35, 8_688 + 12_000), true),
        ] {
            let mut report = Report { at_rest: [first, first], ..Report::default() };
            report.note_fresh(Some(fresh));
            assert_eq!(report.good(), !is_noticed, "{fresh:?}: {:?}", report.problems);
        }
    }
}
