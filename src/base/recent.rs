//! The last ten minutes of a server: a few counts each ten seconds, for charts, and all histograms each minute, for
//! quantiles. They are passed from generation to generation as lines of words, by programs with the feature `admin`.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::{Duration, Instant};

use litemap::LiteMap;

use crate::base::history::millis;
use crate::base::requests::{self, Totals};

const EVERY: Duration = Duration::from_secs(10);
const POINTS: usize = 61;
const MINUTE: Duration = Duration::from_secs(60);
const MINUTES: usize = 11;

/// A few counts at one time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) at: Instant,
    /// Requests so far.
    pub(crate) requests: u64,
    /// Those of them that were answered with 5xx.
    pub(crate) errors: u64,
}

/// All counts at one time from which differences are shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Minute {
    pub(crate) totals: Totals,
    /// Connections closed, by the name of the reason.
    pub(crate) closes: LiteMap<String, u64>,
}

#[derive(Clone, Default)]
pub(crate) struct Recent {
    points: VecDeque<Point>,
    minutes: VecDeque<(Instant, Minute)>,
}

impl Recent {
    /// When the next sample is to be taken. None: now.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.points.back()?.at.checked_add(EVERY)
    }

    /// Takes a sample. `minute` is called once a minute.
    pub(crate) fn add(&mut self, point: Point, minute: impl FnOnce() -> Minute) {
        push(&mut self.points, point, POINTS);
        let is_over = |(last, _): &(Instant, Minute)| point.at.saturating_duration_since(*last) >= MINUTE;
        if self.minutes.back().is_none_or(is_over) {
            push(&mut self.minutes, (point.at, minute()), MINUTES);
        }
    }

    /// The oldest first.
    pub(crate) fn points(&self) -> impl DoubleEndedIterator<Item = &Point> {
        self.points.iter()
    }

    /// The counts as they were so long ago, or the oldest that are known, and those since then, the oldest first. None before
    /// the first sample.
    pub(crate) fn since(
        &self,
        age: Duration,
        now: Instant,
    ) -> Option<(&Minute, impl Iterator<Item = &Minute> + Clone)> {
        let is_old = |(at, _): &(Instant, Minute)| now.saturating_duration_since(*at) >= age;
        let first = self.minutes.iter().rposition(is_old).unwrap_or(0);
        let mut minutes = self.minutes.iter().skip(first).map(|(_, minute)| minute);
        minutes.next().map(|before| (before, minutes))
    }

    /// Writes all samples for the next generation.
    pub(crate) fn write(&self, now: Instant, out: &mut String) {
        if !cfg!(feature = "admin") {
            return;
        }
        let age = |at: Instant| millis(now.saturating_duration_since(at));
        for Point { at, requests, errors } in &self.points {
            let _ = writeln!(out, "point age={} requests={requests} errors={errors}", age(*at));
        }
        for (at, minute) in &self.minutes {
            let _ = write!(out, "minute age={}", age(*at));
            requests::for_each_count(&minute.totals, |name, n| {
                let _ = write!(out, " {name}={n}");
            });
            for (reason, n) in &minute.closes {
                let _ = write!(out, " closes.{reason}={n}");
            }
            out.push('\n');
        }
    }

    /// Reads a line of an earlier generation, which must come in their order. What this version does not know is skipped.
    pub(crate) fn read(&mut self, line: &str, now: Instant) {
        if !cfg!(feature = "admin") {
            return;
        }
        let mut words = line.split(' ');
        let kind = words.next();
        let mut counts = words.filter_map(|word| {
            let (name, n) = word.split_once('=')?;
            Some((name, n.parse::<u64>().ok()?))
        });
        let Some(("age", age)) = counts.next() else { return };
        let Some(at) = now.checked_sub(Duration::from_millis(age)) else { return };
        match kind {
            Some("point") => {
                let mut point = Point { at, requests: 0, errors: 0 };
                for (name, n) in counts {
                    match name {
                        "requests" => point.requests = n,
                        "errors" => point.errors = n,
                        _ => {}
                    }
                }
                push(&mut self.points, point, POINTS);
            }
            Some("minute") => {
                let mut minute = Minute::default();
                for (name, n) in counts {
                    if let Some(reason) = name.strip_prefix("closes.") {
                        minute.closes.insert(reason.to_owned(), n);
                    } else {
                        requests::add_count(&mut minute.totals, name, n);
                    }
                }
                push(&mut self.minutes, (at, minute), MINUTES);
            }
            _ => {}
        }
    }
}

fn push<T>(queue: &mut VecDeque<T>, last: T, most: usize) {
    if queue.len() >= most {
        queue.pop_front();
    }
    queue.push_back(last);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::requests::{AllRequests, SeriesKey};

    #[test]
    fn ten_minutes_are_kept_and_passed_on() {
        let all = AllRequests::default();
        all.want();
        let mut recorder = all.recorder().unwrap();
        let (mut recent, begin) = (Recent::default(), Instant::now());
        assert_eq!(recent.due(), None);
        for n in 0..100 {
            let at = begin + n * EVERY;
            recorder.duration(SeriesKey::new(1, "GET", 200), Duration::from_millis(1), || "/a".to_owned());
            recent.add(Point { at, requests: n.into(), errors: 1 }, || Minute {
                totals: all.totals(),
                closes: [("idle".to_owned(), 7)].into_iter().collect(),
            });
            assert_eq!(recent.due(), Some(at + EVERY));
        }
        let now = begin + 100 * EVERY;
        let requests = |recent: &Recent| recent.points().map(|point| point.requests).collect::<Vec<_>>();
        assert_eq!(requests(&recent), (39..100).collect::<Vec<_>>());
        let counted = |recent: &Recent, age| {
            recent.since(age, now).unwrap().0.totals.values().map(|total| total.count()).sum::<u64>()
        };
        // Each sixth sample, after that sample's request.
        let cases = [(0, 97), (60, 91), (600, 37), (10_000, 37)];
        for (age, n) in cases {
            assert_eq!(counted(&recent, Duration::from_secs(age)), n, "{age} s");
        }

        let (mut text, mut next) = (String::new(), Recent::default());
        recent.write(now, &mut text);
        ["", "point", "point age=x", "colour age=1"].iter().for_each(|line| next.read(line, now));
        text.lines().for_each(|line| next.read(line, now));
        assert_eq!(requests(&next), requests(&recent));
        for (age, n) in cases {
            assert_eq!(counted(&next, Duration::from_secs(age)), n, "{age} s");
        }
        assert_eq!(next.minutes[3].1.closes, [("idle".to_owned(), 7)].into_iter().collect());
        assert_eq!(next.due(), recent.due());
    }
}
