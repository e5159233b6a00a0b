//! Times, kept to three percent.

use std::time::Duration;

/// Buckets per power of two.
const FINE: u64 = 32;

#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Histogram {
    pub(crate) fn add(&mut self, time: Duration) {
        let bucket = bucket_of(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
        self.max = self.max.max(time);
    }

    pub(crate) fn merge(&mut self, other: &Histogram) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(ours, theirs)| *ours += theirs);
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// What was added after `earlier`, a former state of this one; its longest time is that of all.
    pub(crate) fn since(&self, earlier: &Histogram) -> Histogram {
        let before = |bucket: usize| earlier.buckets.get(bucket).copied().unwrap_or(0);
        let buckets = self.buckets.iter().enumerate();
        Histogram {
            buckets: buckets.map(|(bucket, n)| n.saturating_sub(before(bucket))).collect(),
            count: self.count.saturating_sub(earlier.count),
            max: self.max,
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn max_us(&self) -> u64 {
        u64::try_from(self.max.as_micros()).unwrap_or(u64::MAX)
    }

    /// The time, in microseconds, that so many in a thousand do not exceed.
    pub(crate) fn per_mille(&self, share: u64) -> u64 {
        let rank = (self.count * share).div_ceil(1000).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|n| {
            seen += n;
            seen >= rank
        });
        bucket.map_or(0, |bucket| top_of(bucket as u64).min(self.max_us()))
    }
}

fn bucket_of(micros: u64) -> usize {
    let bucket = if micros < FINE {
        micros
    } else {
        let shift = u64::from(micros.ilog2() - FINE.ilog2());
        (shift + 1) * FINE + (micros >> shift) - FINE
    };
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

/// The last microsecond of a bucket.
fn top_of(bucket: u64) -> u64 {
    if bucket < FINE {
        return bucket;
    }
    let shift = bucket / FINE - 1;
    ((FINE + bucket % FINE + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_its_bucket() {
        for micros in (0..5000).chain([1 << 20, (1 << 20) - 1, 10_000_000]) {
            let bucket = bucket_of(micros) as u64;
            assert!(micros <= top_of(bucket), "{micros}");
            assert!(bucket == 0 || micros > top_of(bucket - 1), "{micros}");
        }
    }

    #[test]
    fn shares_are_ranks() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        assert!((500_000..=516_000).contains(&histogram.per_mille(500)));
        assert!((999_000..=1_000_000).contains(&histogram.per_mille(999)));
        assert_eq!(histogram.max_us(), 1_000_000);
        assert_eq!(Histogram::default().per_mille(500), 0);
        let earlier = histogram.clone();
        (0..500).for_each(|_| histogram.add(Duration::from_millis(20)));
        let since = histogram.since(&earlier);
        assert_eq!(since.count(), 500);
        assert!(
            (20_000..=20_700).contains(&since.per_mille(1)) && since.per_mille(1) == since.per_mille(990)
        );
    }
}
