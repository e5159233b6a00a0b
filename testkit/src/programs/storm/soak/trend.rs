//! Whether a quantity grows over a run: by its slope, which single outliers don't move (Theil and Sen: the median of the
//! slopes of all pairs), and by its highest values, in the last third against the first.

/// Fewer samples say nothing.
const ENOUGH: usize = 24;

/// What is accepted as no growth, the larger of each pair: absolute, and as a share of the median.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    /// Of the slope, over the whole run.
    pub(crate) growth: (f64, f64),
    /// Of the highest value, last third against first.
    pub(crate) peak: (f64, f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trend {
    pub(crate) median: f64,
    /// Over the whole run.
    pub(crate) growth: f64,
    /// The highest value in the first third and in the last.
    pub(crate) peaks: [f64; 2],
    pub(crate) grows: bool,
}

/// None: too few samples. Each has its time and its value.
pub(crate) fn judge(samples: &[(f64, f64)], bound: Bound) -> Option<Trend> {
    if samples.len() < ENOUGH {
        return None;
    }
    let median = median(samples.iter().map(|(_, value)| *value).collect());
    let length = samples.last()?.0 - samples.first()?.0;
    let growth = slope(samples) * length;
    let third = samples.len() / 3;
    let highest = |part: &[(f64, f64)]| part.iter().map(|(_, value)| *value).fold(f64::MIN, f64::max);
    let peaks = [highest(&samples[..third]), highest(&samples[samples.len() - third..])];
    let allowed = |(absolute, share): (f64, f64)| absolute.max(share * median);
    let grows = growth > allowed(bound.growth) || peaks[1] - peaks[0] > allowed(bound.peak);
    Some(Trend { median, growth, peaks, grows })
}

fn slope(samples: &[(f64, f64)]) -> f64 {
    let mut slopes = Vec::with_capacity(samples.len() * (samples.len() - 1) / 2);
    for (n, (at, value)) in samples.iter().enumerate() {
        let later = samples[n + 1..].iter().filter(|(other, _)| other > at);
        slopes.extend(later.map(|(other, later)| (later - value) / (other - at)));
    }
    median(slopes)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        even if even % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::asking::mix;
    use super::*;

    const BOUND: Bound = Bound { growth: (4.0, 0.0), peak: (20.0, 0.0) };

    /// A level with noise of up to 10, a sample each 5 s for an hour.
    fn series(add: impl Fn(u32) -> f64) -> Vec<(f64, f64)> {
        let noise = |n: u32| f64::from(u32::try_from(mix(n.into()) % 11).unwrap());
        (0..720).map(|n| (f64::from(n) * 5.0, 100.0 + noise(n) + add(n))).collect()
    }

    fn grows(add: impl Fn(u32) -> f64) -> bool {
        judge(&series(add), BOUND).unwrap().grows
    }

    #[test]
    fn a_leak_is_a_trend_and_noise_is_none() {
        assert!(!grows(|_| 0.0), "noise");
        assert!(grows(f64::from), "one each generation");
        assert!(grows(|n| f64::from(n / 72)), "ten in all, far less than the noise");
        assert!(!grows(|n| f64::from(n / 360)), "within the bound");
        assert!(!grows(|n| -f64::from(n)), "a fall");
        assert!(!grows(|n| if n == 100 { 500.0 } else { 0.0 }), "an outlier at the beginning");
    }

    #[test]
    fn bursts_that_become_higher_are_a_trend() {
        let burst = |n: u32| if n % 60 == 0 { f64::from(n) / 10.0 } else { 0.0 };
        let trend = judge(&series(burst), BOUND).unwrap();
        assert!(trend.grows && trend.growth < 4.0, "{trend:?}");
        assert!(!grows(|n| if n % 60 == 0 { 50.0 } else { 0.0 }), "bursts of the same height");
    }

    #[test]
    fn a_step_is_a_trend_also_relative_to_the_level() {
        assert!(grows(|n| if n > 300 { 30.0 } else { 0.0 }));
        let share = Bound { growth: (0.0, 0.05), peak: (0.0, 0.2) };
        let scaled = |add: f64| -> Vec<(f64, f64)> {
            let add = |n: u32| f64::from(n) * add;
            series(add).into_iter().map(|(at, value)| (at, value * 1024.0)).collect()
        };
        assert!(judge(&scaled(0.05), share).unwrap().grows);
        assert!(!judge(&scaled(0.002), share).unwrap().grows);
    }

    #[test]
    fn few_samples_are_not_judged() {
        assert_eq!(judge(&series(f64::from)[..ENOUGH - 1], BOUND), None);
        let flat: Vec<_> = (0..30).map(|n| (f64::from(n), 7.0)).collect();
        let trend = judge(&flat, BOUND).unwrap();
        assert_eq!(trend, Trend { median: 7.0, growth: 0.0, peaks: [7.0; 2], grows: false });
    }
}
