//! Medians and other percentiles.

use serde_json::{Value, json};

/// The value that `percent` of `values` do not exceed, interpolated between two of them.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = last * percent;
    let (below, above) = (values[place / 100], values[place.div_ceil(100)]);
    below + (above - below) * (place % 100) as f64 / 100.0
}

/// The middle one of `values`, or the mean of the middle two.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

/// The median of the ratios of each round.
pub(crate) fn median_ratio(candidate: &[f64], baseline: &[f64]) -> f64 {
    let rounds = candidate.iter().zip(baseline);
    let ratios: Vec<f64> = rounds
        .map(|(candidate, baseline)| candidate / baseline)
        .collect();
    median(&ratios)
}

/// Each percentile of `values`, with its percentage.
pub(crate) fn distribution(values: &[f64]) -> Vec<(f64, f64)> {
    let point = |percent| (percentile(values, percent), percent as f64);
    (0..=100).map(point).collect()
}

/// A summary of latencies in microseconds.
pub(crate) fn summary(micros: &[f64]) -> Value {
    json!({
        "count": micros.len(),
        "p50_us": median(micros),
        "p90_us": percentile(micros, 90),
        "p99_us": percentile(micros, 99),
        "max_us": percentile(micros, 100),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(percentile(&[4.0, 1.0, 2.0], 75), 3.0);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        assert_eq!(median_ratio(&[1.0, 10.0, 9.0], &[2.0, 5.0, 3.0]), 2.0);
    }
}
