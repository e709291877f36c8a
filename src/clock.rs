//! The clock that leases are measured by.
//!
//! It must count the time in which the machine was suspended: a lease goes on running
//! at the server meanwhile. [`Instant`](std::time::Instant) does not do that on Linux.
//! Nothing here reads the time of day, so setting that does no harm.

use std::time::Duration;

/// Never: later than any time [`now`] returns.
pub(crate) const NEVER: u64 = u64::MAX;

/// Nanoseconds on a clock that only goes forward, in a form that fits an
/// atomic; never 0, so that 0 can mean "no time".
pub(crate) fn now() -> u64 {
    nanos(elapsed()).saturating_add(1)
}

/// Since the machine has booted.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn elapsed() -> Duration {
    use rustix::time::{ClockId, clock_gettime};

    // It has been running for at least no time.
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

/// Since the first use.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn elapsed() -> Duration {
    use once_cell::sync::Lazy;
    use std::time::Instant;

    static START: Lazy<Instant> = Lazy::new(Instant::now);
    START.elapsed()
}

/// The longest [`pause`].
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a thread may sleep that has to act at `due`; `None`: until it is woken. A sleep
/// runs on a clock that stops while the machine is suspended, and this one goes on: so it is
/// looked at once a second at least.
pub(crate) fn pause(due: u64, now: u64) -> Option<Duration> {
    let left = Duration::from_nanos(due.saturating_sub(now));
    (due != NEVER).then(|| left.min(LONGEST_PAUSE))
}

/// `duration` in nanoseconds; [`NEVER`] if it is longer than 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_will_be_due_is_slept_away() {
        let second = Duration::from_secs(1);
        for (due, now, longest) in [
            (1_000, 400, Duration::from_nanos(600)),
            (400, 1_000, Duration::ZERO),
            // Nine seconds are left, and the machine may be suspended for all of them.
            (10_000_000_000, 1_000_000_000, second),
            (NEVER - 1, 1, second),
        ] {
            assert_eq!(pause(due, now), Some(longest));
        }
        assert_eq!(pause(NEVER, 1), None);
    }

    proptest::proptest! {
        /// A model of a machine with two clocks, of which one stops while it is suspended. Each
        /// suspend is a time on that one, and a length.
        #[test]
        fn a_sleeper_is_awake_a_second_after_a_suspend(
            due in 1_u64..60_000,
            suspends in proptest::collection::btree_map(0_u64..60_000, 0_u64..600_000, 0..8),
        ) {
            const MILLI: u64 = 1_000_000;
            let boot = |awake: u64| awake + suspends.range(..=awake).map(|(_, long)| long).sum::<u64>();
            let mut awake = 0;
            while boot(awake) < due {
                let pause = pause(due * MILLI, boot(awake) * MILLI).expect("it is due some time");
                awake += u64::try_from(pause.as_millis()).unwrap().max(1);
            }
            let first = (0..=awake).find(|&awake| boot(awake) >= due).expect("it is past it");
            proptest::prop_assert!(awake - first <= 1_000, "{} after {}", awake, first);
        }
    }

    /// Neither the time of day, which can be set, nor a clock that stops with the machine.
    #[cfg(target_os = "linux")]
    #[test]
    fn it_is_the_time_since_the_boot() {
        use rustix::time::{ClockId, clock_gettime};

        let boot_time = || nanos(clock_gettime(ClockId::Boottime).try_into().unwrap());
        let (before, now, after) = (boot_time(), now(), boot_time());
        assert!(
            (before..=after + 1).contains(&now),
            "{before} {now} {after}"
        );
    }
}
