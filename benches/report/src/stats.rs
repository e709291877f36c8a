//! Medians, and histograms of latencies.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// The middle one of `values`; of two the mean.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The median of the ratios of each round.
pub(crate) fn median_ratio(candidate: &[f64], baseline: &[f64]) -> f64 {
    let rounds = candidate.iter().zip(baseline);
    let ratios: Vec<f64> = rounds
        .map(|(candidate, baseline)| candidate / baseline)
        .collect();
    median(&ratios)
}

/// Latencies in nanoseconds.
#[derive(Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        Latencies(Histogram::new(3).expect("3 is a precision it knows"))
    }

    pub(crate) fn record(&mut self, nanos: u64) {
        self.0.record(nanos).expect("it grows with its values");
    }

    pub(crate) fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("both are of one kind");
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    /// The latency that a share of all does not exceed, in microseconds.
    pub(crate) fn micros_at(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e3
    }

    pub(crate) fn median(&self) -> f64 {
        self.micros_at(0.5)
    }

    pub(crate) fn max(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }

    /// Each latency in microseconds with the percentage of all that it covers.
    pub(crate) fn distribution(&self) -> Vec<(f64, f64)> {
        self.0
            .iter_quantiles(10)
            .map(|step| {
                (
                    step.value_iterated_to() as f64 / 1e3,
                    step.quantile() * 100.0,
                )
            })
            .collect()
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "count": self.len(),
            "p50_us": self.median(),
            "p90_us": self.micros_at(0.9),
            "p99_us": self.micros_at(0.99),
            "max_us": self.max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        assert_eq!(median_ratio(&[1.0, 10.0, 9.0], &[2.0, 5.0, 3.0]), 2.0);
    }
}
