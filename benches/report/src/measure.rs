//! Measures subjects side by side, interleaved.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Result;
use subjects::{More, Subject};

/// Measures every subject once in each round, so that changes of the machine affect all alike,
/// and returns the figures of each. Rounds below zero are warm-up: their figures are not kept.
pub(crate) fn interleave<S, T>(
    rounds: Range<i64>,
    subjects: &mut [S],
    mut measure: impl FnMut(&mut S, i64) -> Result<T>,
) -> Result<Vec<Vec<T>>> {
    let mut figures: Vec<Vec<T>> = subjects.iter().map(|_| Vec::new()).collect();
    for round in rounds {
        for (subject, figures) in subjects.iter_mut().zip(&mut figures) {
            let figure = measure(subject, round)?;
            if round >= 0 {
                figures.push(figure);
            }
        }
    }
    Ok(figures)
}

/// The average time for each of `count`, in microseconds.
pub(crate) fn micros_each(count: i64, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e6 / count as f64)
}

/// Pairs per second of `tasks` concurrent tasks.
pub(crate) fn rate(subject: &mut dyn Subject, tasks: u32, time: Duration) -> Result<f64> {
    let pairs = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&pairs);
    let start = Instant::now();
    let more: More = Arc::new(move || {
        let more = start.elapsed() < time;
        count.fetch_add(u64::from(more), Relaxed);
        more
    });
    subject.load(tasks, &more)?;
    Ok(pairs.load(Relaxed) as f64 / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_take_turns_and_warm_up() {
        let mut order = Vec::new();
        let figures = interleave(-1..2, &mut ["a", "b"], |subject, round| {
            order.push(format!("{subject}{round}"));
            Ok(round)
        });
        assert_eq!(order, ["a-1", "b-1", "a0", "b0", "a1", "b1"]);
        assert_eq!(figures.expect("nothing fails"), [[0, 1], [0, 1]]);
    }
}
