//! How long to wait before a retry. Pure but for the seed of the jitter.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The wait before attempt `attempt` (0 is the first): `min`, doubled each
/// time, at most `max`.
pub(crate) fn exponential(attempt: u32, min: Duration, max: Duration) -> Duration {
    let factor = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
    min.saturating_mul(factor).min(max)
}

/// The pause between two attempts at a lock that has been awaited for `waited`: a twelfth
/// of that, which leaves room for the attempt itself within a tenth. So a long wait costs the
/// database little and a short one is prolonged little. Between `min` and `max`.
pub(crate) fn proportional(waited: Duration, min: Duration, max: Duration) -> Duration {
    (waited / 12).clamp(min, max)
}

/// A source of jitter: spreads the retries of clients that failed together. Not fit for secrets.
pub(crate) struct Jitter(u64);

impl Jitter {
    #[cfg(test)]
    pub(crate) fn new(seed: u64) -> Self {
        Jitter(seed)
    }

    /// With a random seed.
    pub(crate) fn random() -> Self {
        Jitter(RandomState::new().hash_one(()))
    }

    /// `duration`, shortened by up to 25 % at random.
    pub(crate) fn shorten(&mut self, duration: Duration) -> Duration {
        // SplitMix64 (Steele, Lea, Flood 2014): one addition and a mix.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let share = ((z ^ (z >> 31)) >> 40) as f64 / (1_u64 << 24) as f64;
        duration.mul_f64(0.75 + 0.25 * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn exponential_doubles_up_to_its_cap() {
        let waits: Vec<u128> = (0..8)
            .map(|attempt| exponential(attempt, 50 * MS, 5000 * MS).as_millis())
            .collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 5000]);
        assert_eq!(exponential(u32::MAX, 50 * MS, 5000 * MS), 5000 * MS);
    }

    #[test]
    fn proportional_stays_below_a_tenth_of_the_wait_between_its_bounds() {
        assert_eq!(proportional(Duration::ZERO, MS, 50 * MS), MS);
        assert_eq!(proportional(240 * MS, MS, 50 * MS), 20 * MS);
        assert_eq!(proportional(Duration::MAX, MS, 50 * MS), 50 * MS);
    }

    #[test]
    fn jitter_spreads_below_and_never_above() {
        let mut jitter = Jitter::new(7);
        let pauses: Vec<Duration> = (0..1000).map(|_| jitter.shorten(100 * MS)).collect();
        assert!(pauses.iter().all(|t| (75 * MS..=100 * MS).contains(t)));
        assert!(pauses.iter().min().unwrap() < &(80 * MS));
        assert!(pauses.iter().max().unwrap() > &(95 * MS));
    }
}
