//! A histogram of latencies whose buckets grow with their values, like HdrHistogram's. A quantile
//! is exact below 256 µs, and within 1/128 above.

/// Buckets per power of two, as a power of two.
const STEPS_BITS: u32 = 7;
const STEPS: usize = 1 << STEPS_BITS;
/// Largest value: 2^36 µs, which is 19 hours.
const VALUE_BITS: u32 = 36;
const BUCKETS: usize = STEPS * (VALUE_BITS - STEPS_BITS + 1) as usize;

/// Counts of durations, in microseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Box<[u64]>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; BUCKETS].into(), count: 0, max: 0 }
    }
}

/// The bucket of a value: its highest bits, and the number of bits below them.
fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(STEPS_BITS + 1);
    (shift as usize * STEPS + (value >> shift) as usize).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn highest(bucket: usize) -> u64 {
    let shift = (bucket / STEPS).saturating_sub(1);
    (((bucket - shift * STEPS) as u64 + 1) << shift) - 1
}

impl Histogram {
    /// Adds a duration.
    pub fn add(&mut self, us: u64) {
        if let Some(count) = self.counts.get_mut(bucket(us)) {
            *count += 1;
        }
        self.count += 1;
        self.max = self.max.max(us);
    }

    /// Resets all counts.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        (self.count, self.max) = (0, 0);
    }

    /// The number of durations.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest duration.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The upper bound of that share of the durations; 0 if there are none.
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && seen > 0 {
                return highest(bucket).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        let values = (0..2000).chain((0..36).flat_map(|bits| {
            let power = 1_u64 << bits;
            [power - 1, power, power + 1, power + power / 3]
        }));
        for value in values.filter(|value| *value < 1 << VALUE_BITS) {
            let highest = highest(bucket(value));
            assert!(highest >= value && highest - value <= value >> STEPS_BITS, "{value}");
            assert!(bucket(highest + 1) == bucket(value) + 1, "{value}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_exact_to_a_bucket() {
        let mut all = Histogram::default();
        assert_eq!((all.quantile(0.5), all.max(), all.count()), (0, 0, 0));
        (1..=1000).for_each(|us| all.add(us));
        assert_eq!((all.quantile(0.1), all.quantile(0.5)), (100, 501), "500 to within 1/128");
        assert_eq!((all.quantile(0.999), all.max()), (999, 1000));
        all.clear();
        all.add(7);
        assert_eq!((all.quantile(0.001), all.quantile(1.0), all.count()), (7, 7, 1));
    }
}
