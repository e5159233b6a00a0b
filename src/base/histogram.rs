//! Histograms: how many values were in which range. Each worker has its own, and a snapshot adds them up.
//!
//! They are ours and not those of `prometheus-client`. A histogram of that has a lock, and a family of them one more, so that
//! recording a request takes three to seven times the CPU time: docs/performance.md has the figures, `recording` (bench)
//! measures them. It can't take over the counts of an earlier process, so that counters would go back at each handover.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is measured, and the upper bounds of its ranges; what is beyond the last bound is counted, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// In nanoseconds.
    Duration,
    /// In bytes.
    Size,
}

/// Those that OpenTelemetry advises for the durations of HTTP requests, and five below for handlers that wait for nothing.
const DURATIONS: [(u64, &str); 19] = [
    (10_000, "0.00001"),
    (100_000, "0.0001"),
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (75_000_000, "0.075"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (750_000_000, "0.75"),
    (1_000_000_000, "1"),
    (2_500_000_000, "2.5"),
    (5_000_000_000, "5"),
    (7_500_000_000, "7.5"),
    (10_000_000_000, "10"),
];

const SIZES: [(u64, &str); 9] = [
    (0, "0"),
    (256, "256"),
    (1 << 10, "1024"),
    (4 << 10, "4096"),
    (16 << 10, "16384"),
    (64 << 10, "65536"),
    (1 << 20, "1048576"),
    (16 << 20, "16777216"),
    (256 << 20, "268435456"),
];

/// For each number of significant bits, the first range that may hold a value of that length. Two bounds at most lie between
/// a power of two and the next one, so a value is compared with three at most.
type FirstRanges = [u8; 65];

static DURATION_RANGES: FirstRanges = first_ranges(&DURATIONS);
static SIZE_RANGES: FirstRanges = first_ranges(&SIZES);

#[expect(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "evaluated by the compiler")]
#[expect(clippy::cast_possible_truncation, reason = "there are few bounds")]
const fn first_ranges(bounds: &[(u64, &str)]) -> FirstRanges {
    let (mut first, mut bits, mut range) = ([0; 65], 1, 0);
    while bits < 65 {
        while range < bounds.len() && bounds[range].0 < 1 << (bits - 1) {
            range += 1;
        }
        first[bits] = range as u8;
        bits += 1;
    }
    first
}

impl Scale {
    /// The upper bounds, each with its text in seconds or bytes.
    fn bounds(self) -> &'static [(u64, &'static str)] {
        match self {
            Scale::Duration => &DURATIONS,
            Scale::Size => &SIZES,
        }
    }

    /// The range of a value.
    fn range_of(self, value: u64) -> usize {
        let (bounds, first) = match self {
            Scale::Duration => (DURATIONS.as_slice(), &DURATION_RANGES),
            Scale::Size => (SIZES.as_slice(), &SIZE_RANGES),
        };
        let bits = u64::BITS.saturating_sub(value.leading_zeros());
        let mut range = first.get(bits as usize).map_or(0, |first| usize::from(*first));
        while bounds.get(range).is_some_and(|(bound, _)| *bound < value) {
            range = range.wrapping_add(1);
        }
        range
    }
}

/// Ranges of the scale that has most, with the one beyond the last bound.
const RANGES: usize = DURATIONS.len() + 1;

/// Counts of one thread, which alone writes them.
pub(crate) struct Histogram {
    scale: Scale,
    sum: AtomicU64,
    /// The largest value since the last `forget_longest`.
    longest: AtomicU64,
    ranges: [AtomicU64; RANGES],
}

impl Histogram {
    pub(crate) fn new(scale: Scale) -> Histogram {
        Histogram { scale, sum: AtomicU64::new(0), longest: AtomicU64::new(0), ranges: Default::default() }
    }

    /// Nanoseconds or bytes.
    pub(crate) fn record(&self, value: u64) {
        if let Some(range) = self.ranges.get(self.scale.range_of(value)) {
            add(range, 1);
        }
        add(&self.sum, value);
        if value > self.longest.load(Ordering::Relaxed) {
            self.longest.store(value, Ordering::Relaxed);
        }
    }

    /// A value that is recorded at the same time may be forgotten as well, or may bring an older one back.
    pub(crate) fn forget_longest(&self) {
        self.longest.store(0, Ordering::Relaxed);
    }
}

/// One writer: a load and a store suffice.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// The sum of histograms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HistogramTotal {
    scale: Scale,
    ranges: Vec<u64>,
    sum: u64,
    /// The largest value of a minute, or 0 if it is not known.
    pub(crate) longest: u64,
}

impl HistogramTotal {
    pub(crate) fn new(scale: Scale) -> HistogramTotal {
        HistogramTotal { scale, ranges: vec![0; scale.bounds().len().saturating_add(1)], sum: 0, longest: 0 }
    }

    pub(crate) fn add(&mut self, one: &Histogram) {
        for (total, range) in self.ranges.iter_mut().zip(&one.ranges) {
            *total = total.saturating_add(range.load(Ordering::Relaxed));
        }
        self.sum = self.sum.saturating_add(one.sum.load(Ordering::Relaxed));
        self.longest = self.longest.max(one.longest.load(Ordering::Relaxed));
    }

    pub(crate) fn merge(&mut self, other: &HistogramTotal) {
        for (total, n) in self.ranges.iter_mut().zip(&other.ranges) {
            *total = total.saturating_add(*n);
        }
        self.sum = self.sum.saturating_add(other.sum);
        self.longest = self.longest.max(other.longest);
    }

    pub(crate) fn count(&self) -> u64 {
        self.ranges.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Calls `f` with the name and the count of each range that has any, and of the sum and the largest value. Names last over versions with
    /// other bounds.
    pub(crate) fn for_each_count(&self, mut f: impl FnMut(&str, u64)) {
        let names = self.scale.bounds().iter().map(|(bound, _)| bound.to_string()).chain(["more".to_owned()]);
        for (name, n) in names.zip(&self.ranges).filter(|(_, n)| **n > 0) {
            f(&name, *n);
        }
        if self.sum > 0 {
            f("sum", self.sum);
        }
        if self.longest > 0 {
            f("longest", self.longest);
        }
    }

    /// Adds what another process has counted under a name of [`for_each_count`](Self::for_each_count).
    pub(crate) fn add_count(&mut self, name: &str, n: u64) {
        if name == "longest" {
            self.longest = self.longest.max(n);
            return;
        }
        let counter = match name {
            "sum" => Some(&mut self.sum),
            "more" => self.ranges.last_mut(),
            bound => bound.parse().ok().and_then(|bound| self.ranges.get_mut(self.scale.range_of(bound))),
        };
        if let Some(counter) = counter {
            *counter = counter.saturating_add(n);
        }
    }

    /// What was counted since `before`.
    pub(crate) fn since(&self, before: &HistogramTotal) -> HistogramTotal {
        let ranges = self.ranges.iter().zip(&before.ranges).map(|(now, then)| now.saturating_sub(*then));
        HistogramTotal {
            scale: self.scale,
            ranges: ranges.collect(),
            sum: self.sum.saturating_sub(before.sum),
            longest: self.longest,
        }
    }

    /// The value below which this share of all values lies, by linear interpolation within its range, as Prometheus
    /// estimates it, but no more than the largest value. In seconds or bytes; None if there are no values. What lies beyond
    /// the last bound counts as that.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let (bounds, count) = (self.scale.bounds(), self.count());
        if count == 0 {
            return None;
        }
        let rank = share * to_f64(count);
        let (mut below, mut lower) = (0u64, 0.0);
        for ((bound, _), n) in bounds.iter().zip(&self.ranges) {
            let (until, upper) = (below.saturating_add(*n), self.in_unit(*bound));
            if *n > 0 && to_f64(until) >= rank {
                let estimated = lower + (upper - lower) * (rank - to_f64(below)) / to_f64(*n);
                let longest = if self.longest > 0 { self.in_unit(self.longest) } else { estimated };
                return Some(estimated.min(longest));
            }
            (below, lower) = (until, upper);
        }
        Some(lower)
    }

    /// In seconds or bytes.
    fn in_unit(&self, value: u64) -> f64 {
        match self.scale {
            Scale::Duration => to_f64(value) / 1e9,
            Scale::Size => to_f64(value),
        }
    }

    /// The samples in the text format of Prometheus. `labels` are those of all, such as `a="b",c="d"`, or empty.
    pub(crate) fn write_samples(&self, name: &str, labels: &str, out: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let (mut below, texts) = (0u64, self.scale.bounds().iter().map(|(_, text)| *text).chain(["+Inf"]));
        for (text, n) in texts.zip(&self.ranges) {
            below = below.saturating_add(*n);
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{text}\"}} {below}");
        }
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}_sum{braces} {}\n{name}_count{braces} {below}", self.in_unit(self.sum));
    }
}

#[expect(clippy::cast_precision_loss, reason = "52 bits are enough for estimates and sums")]
fn to_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(scale: Scale, values: &[u64]) -> HistogramTotal {
        let (one, mut total) = (Histogram::new(scale), HistogramTotal::new(scale));
        values.iter().for_each(|value| one.record(*value));
        total.add(&one);
        total
    }

    #[test]
    fn bounds_grow_and_are_their_texts() {
        for (scale, unit) in [(Scale::Duration, 1e9), (Scale::Size, 1.0)] {
            assert!(scale.bounds().is_sorted_by(|a, b| a.0 < b.0));
            for (bound, text) in scale.bounds() {
                assert_eq!(text.parse::<f64>().unwrap() * unit, to_f64(*bound), "{text}");
            }
        }
    }

    #[test]
    fn each_value_is_in_its_range() {
        for scale in [Scale::Duration, Scale::Size] {
            let bounds = scale.bounds();
            let near = |bound: u64| [bound.saturating_sub(1), bound, bound + 1];
            let powers = (0..64).map(|bit| 1 << bit);
            let values = powers.chain(bounds.iter().map(|(bound, _)| *bound)).flat_map(near);
            for value in values.chain([u64::MAX]) {
                let range = bounds.iter().position(|(bound, _)| value <= *bound).unwrap_or(bounds.len());
                assert_eq!(scale.range_of(value), range, "{value}");
            }
        }
    }

    #[test]
    fn samples_are_cumulative() {
        let mut out = String::new();
        total(Scale::Size, &[0, 7, 256, 257, u64::MAX >> 1]).write_samples("size", "", &mut out);
        for line in ["size_bucket{le=\"0\"} 1", "size_bucket{le=\"256\"} 3", "size_bucket{le=\"1024\"} 4"] {
            assert!(out.lines().any(|l| l == line), "{line} in\n{out}");
        }
        assert!(
            out.ends_with("size_bucket{le=\"+Inf\"} 5\nsize_sum 9223372036854776000\nsize_count 5\n"),
            "{out}"
        );
        out.clear();
        total(Scale::Duration, &[1_500_000]).write_samples("time", "a=\"b\"", &mut out);
        assert!(
            out.contains("time_bucket{a=\"b\",le=\"0.001\"} 0\ntime_bucket{a=\"b\",le=\"0.0025\"} 1\n"),
            "{out}"
        );
        assert!(out.ends_with("time_sum{a=\"b\"} 0.0015\ntime_count{a=\"b\"} 1\n"), "{out}");
    }

    #[test]
    fn counts_pass_from_one_process_to_another() {
        let before = total(Scale::Duration, &[1, 100_000, 100_001, 20_000_000_000]);
        let mut after = HistogramTotal::new(Scale::Duration);
        let mut names = Vec::new();
        before.for_each_count(|name, n| {
            names.push(format!("{name}={n}"));
            after.add_count(name, n);
        });
        assert_eq!(
            names,
            ["10000=1", "100000=1", "500000=1", "more=1", "sum=20000200002", "longest=20000000000"]
        );
        assert_eq!(after, before);
        // Of a version with other bounds, and of none.
        after.add_count("300000", 1);
        after.add_count("99999999999999", 1);
        after.add_count("many", 1);
        let news = after.since(&before);
        assert_eq!((news.ranges[2], news.ranges[19], news.count()), (1, 1, 2));
    }

    #[test]
    fn quantiles_are_estimated_within_a_range() {
        assert_eq!(total(Scale::Duration, &[]).quantile(0.5), None);
        // A hundred values between 1 and 2.5 ms, of which none is longer than 2 ms.
        let hundred = total(Scale::Duration, &[2_000_000; 100]);
        let unknown = HistogramTotal { longest: 0, ..hundred.clone() };
        for (share, seconds, most) in [(0.0, 0.001, 0.001), (0.5, 0.00175, 0.00175), (1.0, 0.0025, 0.002)] {
            let estimated = unknown.quantile(share).unwrap();
            assert!((estimated - seconds).abs() < 1e-9, "{share}: {estimated}");
            let bounded = hundred.quantile(share).unwrap();
            assert!((bounded - most).abs() < 1e-9, "{share}: {bounded}");
        }
        assert_eq!(total(Scale::Duration, &[u64::MAX]).quantile(0.5), Some(10.0), "the last bound");
    }
}
