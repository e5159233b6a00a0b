//! What `/status` and `/status.json` show, gathered at one time.

use std::time::{Duration, Instant, SystemTime};

use litemap::LiteMap;

use crate::base::histogram::HistogramTotal;
use crate::base::history::{Generation, unix_ms};
use crate::base::last_closes::ClosedConnection;
use crate::base::order::greatest_first;
use crate::base::recent::{Minute, Point, Recent};
use crate::base::records;
use crate::base::requests::Recorded;
use crate::base::status::{RunningHandler, Stats};
use crate::server::handle::Handle;

/// Tables show differences to this time ago.
pub(super) const TABLES: Duration = Duration::from_secs(600);

/// More rows than these help nobody.
const ROUTES: usize = 40;
const HANDLERS: usize = 40;

pub(super) struct Report {
    pub(super) program: String,
    pub(super) version: Option<String>,
    pub(super) pid: u32,
    pub(super) time: SystemTime,
    pub(super) stats: Stats,
    /// The rate of each ten seconds, the oldest first. The last bar, which is the present rate, ends now.
    pub(super) chart: Vec<Bar>,
    /// Of all requests.
    pub(super) latency: Latency,
    /// The busiest first.
    pub(super) routes: Vec<RouteRow>,
    /// The oldest first.
    pub(super) handlers: Vec<RunningHandler>,
    /// Connections closed, by reason: since the first generation, and in the last ten minutes.
    pub(super) closes: Vec<(&'static str, u64, u64)>,
    /// The latest first, each with its reason.
    pub(super) last_closes: Vec<(String, ClosedConnection)>,
    /// The newest first.
    pub(super) generations: Vec<Generation>,
}

/// Requests and 5xx per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Bar {
    /// How many seconds ago it ended.
    pub(super) age: u64,
    /// How long it lasted.
    pub(super) seconds: u64,
    pub(super) requests: f64,
    pub(super) errors: f64,
}

/// The time below which half, nine tenths and 99 of 100 requests lie, in seconds. None without requests.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) struct Latency(pub(super) [Option<f64>; 3]);

impl Latency {
    fn of(total: &HistogramTotal) -> Latency {
        Latency([0.5, 0.9, 0.99].map(|share| total.quantile(share)))
    }
}

#[derive(PartialEq)]
pub(super) struct RouteRow {
    /// Empty without a route.
    pub(super) route: String,
    pub(super) method: &'static str,
    /// Requests in the last ten minutes, and 5xx among them.
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) latency: Latency,
}

impl Report {
    pub(super) fn of(handle: &Handle) -> Report {
        let records = &handle.shared.records;
        let (now, stats) = (Instant::now(), handle.stats());
        let (recent, history) = (records.recent(), records.history());
        let minute = Minute { totals: records.counters.requests.totals(), closes: stats.closes_by_reason() };
        let none = Minute::default();
        let (before, later) =
            recent.since(TABLES, now).map_or((&none, None), |(one, later)| (one, Some(later)));
        let mut routes = route_rows(&minute, before, later.into_iter().flatten());
        let latency = routes.1;
        routes.0.truncate(ROUTES);
        let mut handlers = handle.handlers();
        // What shows this report, which would be in it each time.
        handlers.retain(|handler| std::thread::current().name() != Some(&handler.thread));
        let mut handlers = RunningHandler::oldest_first(handlers);
        handlers.truncate(HANDLERS);
        let closes = stats.closes.iter().filter(|(_, n)| *n > 0).map(|(reason, n)| {
            let then = before.closes.get(reason.name()).copied().unwrap_or(0);
            (reason.name(), *n, n.saturating_sub(then))
        });
        Report {
            program: program(),
            version: records.version_of(stats.generation),
            pid: std::process::id(),
            time: SystemTime::now(),
            chart: chart(&recent, &stats, now),
            latency,
            routes: routes.0,
            handlers,
            closes: closes.collect(),
            last_closes: records.counters.last_closes.list(),
            generations: history.generations().rev().cloned().collect(),
            stats,
        }
    }

    /// The present rate.
    pub(super) fn rate(&self) -> Bar {
        self.chart.last().copied().unwrap_or_default()
    }

    /// Connections that no request is in flight on, nor queued.
    pub(super) fn idle(&self) -> u64 {
        self.stats.open.saturating_sub(self.stats.in_flight).saturating_sub(self.stats.queued)
    }

    /// Milliseconds since 1970.
    pub(super) fn unix_ms(&self) -> u64 {
        unix_ms(self.time)
    }
}

fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&path).file_name().unwrap_or(&path).to_string_lossy().into_owned()
}

#[expect(clippy::cast_precision_loss, reason = "52 bits are enough for a rate")]
fn per_second(n: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { n as f64 / time.as_secs_f64() }
}

/// The last sample is replaced by the present counts: so the last bar is of ten seconds or more, and does not jump at a
/// sample.
fn chart(recent: &Recent, stats: &Stats, now: Instant) -> Vec<Bar> {
    let present = Point { at: now, requests: stats.requests, errors: records::errors(stats) };
    let mut points: Vec<Point> = recent.points().copied().collect();
    if points.len() > 1 {
        points.pop();
    }
    points.push(present);
    let bar = |(before, after): (&Point, &Point)| {
        let time = after.at.saturating_duration_since(before.at);
        Bar {
            age: now.saturating_duration_since(after.at).as_secs(),
            seconds: time.as_secs(),
            requests: per_second(after.requests.saturating_sub(before.requests), time),
            errors: per_second(after.errors.saturating_sub(before.errors), time),
        }
    };
    let bars = points.iter().zip(points.iter().skip(1)).map(bar);
    bars.filter(|bar| bar.age < TABLES.as_secs()).collect()
}

/// The classes of status of a route and method are one row.
fn route_rows<'a>(
    now: &'a Minute,
    before: &Minute,
    later: impl Iterator<Item = &'a Minute> + Clone,
) -> (Vec<RouteRow>, Latency) {
    let mut rows: LiteMap<(&str, &'static str), (HistogramTotal, u64)> = LiteMap::new();
    let mut all: Option<HistogramTotal> = None;
    for (recorded, total) in &now.totals {
        let Recorded::Duration { route, method, class } = recorded else { continue };
        let mut total =
            before.totals.get(recorded).map_or_else(|| total.clone(), |before| total.since(before));
        total.longest = longest(recorded, later.clone().chain([now]));
        let count = total.count();
        if count == 0 {
            continue;
        }
        match &mut all {
            Some(all) => all.merge(&total),
            None => all = Some(total.clone()),
        }
        let errors = if *class == 5 { count } else { 0 };
        match rows.get_mut(&(route.as_str(), *method)) {
            Some((sum, failed)) => {
                sum.merge(&total);
                *failed = failed.saturating_add(errors);
            }
            None => {
                rows.insert((route, method), (total, errors));
            }
        }
    }
    let row = |((route, method), (total, errors)): ((&str, &'static str), (HistogramTotal, u64))| RouteRow {
        route: route.to_owned(),
        method,
        requests: total.count(),
        errors,
        latency: Latency::of(&total),
    };
    let rows = rows.into_iter().map(row).collect();
    (greatest_first(rows, |row| row.requests), all.as_ref().map(Latency::of).unwrap_or_default())
}

/// The longest value of these minutes.
fn longest<'a>(of: &Recorded, minutes: impl Iterator<Item = &'a Minute>) -> u64 {
    minutes.filter_map(|minute| minute.totals.get(of)).map(|total| total.longest).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::phase::Phase;
    use crate::base::requests::{AllRequests, SeriesKey};

    const SAMPLE: Duration = Duration::from_secs(10);

    /// The present rate is that of the last bar, and does not depend on how long ago the last sample was.
    #[test]
    fn the_last_bar_ends_now() {
        let begin = Instant::now();
        let (mut recent, mut stats) = (Recent::default(), Stats::new(1, Phase::Serving));
        assert_eq!(chart(&recent, &stats, begin), []);
        for n in 0..4 {
            recent.add(Point { at: begin + n * SAMPLE, requests: n.into(), errors: 0 }, Minute::default);
        }
        (stats.requests, stats.responses) = (32, [0, 0, 0, 0, 15]);
        let bars = chart(&recent, &stats, begin + 3 * SAMPLE + SAMPLE / 2);
        let ends: Vec<(u64, u64)> = bars.iter().map(|bar| (bar.age, bar.seconds)).collect();
        assert_eq!(ends, [(25, 10), (15, 10), (0, 15)]);
        assert_eq!(bars[2], Bar { age: 0, seconds: 15, requests: 2.0, errors: 1.0 });
    }

    #[test]
    fn no_percentile_is_above_the_longest_request_of_the_window() {
        let all = AllRequests::default();
        all.want();
        let mut recorder = all.recorder().unwrap();
        let mut record = |ms| {
            let took = Duration::from_millis(ms);
            recorder.duration(SeriesKey::new(1, "GET", 200), took, || "/a".to_owned());
        };
        let mut minutes = Vec::new();
        for longest in [9_000, 510, 400] {
            record(longest);
            minutes.push(Minute { totals: all.totals(), ..Minute::default() });
            all.forget_longest();
        }
        record(300);
        let now = Minute { totals: all.totals(), ..Minute::default() };
        let p99 = |minutes: &[Minute]| route_rows(&now, &minutes[0], minutes[1..].iter()).1.0[2].unwrap();
        assert!((p99(&minutes) - 0.510).abs() < 1e-9, "{}", p99(&minutes));
        assert!((p99(&minutes[1..]) - 0.400).abs() < 1e-9, "{}", p99(&minutes[1..]));
    }
}
