//! The clock that leases are measured by.
//!
//! It must count the time for which the machine is suspended: at the server the lease keeps
//! running. [`Instant`](std::time::Instant) does not do that on Linux. The system time is not
//! read, so changing it has no effect.

use std::num::NonZeroU64;
use std::ops::{Add, Sub};
use std::time::Duration;

use crate::sync::atomic::{AtomicU64, Ordering};

/// A point in time, in nanoseconds since the machine booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootInstant(NonZeroU64);

impl BootInstant {
    pub(crate) fn now() -> Self {
        BootInstant::at(nanos(elapsed()))
    }

    fn at(nanos: u64) -> Self {
        BootInstant(NonZeroU64::MIN.saturating_add(nanos))
    }

    pub(crate) fn elapsed(self) -> Duration {
        BootInstant::now().saturating_duration_since(self)
    }

    pub(crate) fn saturating_duration_since(self, earlier: BootInstant) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }

    /// How long a thread that must act at this instant may sleep from `now` on. Sleeps run on a
    /// clock that stops while the machine is suspended, so this one is read at least once a
    /// second.
    pub(crate) fn pause(self, now: BootInstant) -> Duration {
        self.saturating_duration_since(now).min(LONGEST_PAUSE)
    }
}

/// Saturating, as the difference is: 584 years are enough for any lease.
impl Add<Duration> for BootInstant {
    type Output = BootInstant;

    fn add(self, duration: Duration) -> BootInstant {
        BootInstant(self.0.saturating_add(nanos(duration)))
    }
}

impl Sub<Duration> for BootInstant {
    type Output = BootInstant;

    fn sub(self, duration: Duration) -> BootInstant {
        BootInstant::at(
            self.0
                .get()
                .saturating_sub(nanos(duration))
                .saturating_sub(1),
        )
    }
}

/// An optional [`BootInstant`] that threads share.
#[derive(Default)]
pub(crate) struct AtomicBootInstant(AtomicU64);

impl AtomicBootInstant {
    pub(crate) fn load(&self) -> Option<BootInstant> {
        NonZeroU64::new(self.0.load(Ordering::SeqCst)).map(BootInstant)
    }

    pub(crate) fn store(&self, instant: Option<BootInstant>) {
        let nanos = instant.map_or(0, |instant| instant.0.get());
        self.0.store(nanos, Ordering::SeqCst);
    }
}

/// Since the machine booted.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn elapsed() -> Duration {
    use rustix::time::{ClockId, clock_gettime};

    // It is never negative.
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

/// The longest [`pause`](BootInstant::pause).
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// `duration` in nanoseconds, at most 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(distlock_model)))]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let boot = BootInstant::at(0);
        assert_eq!(boot - Duration::from_secs(1), boot);
        assert_eq!(boot + Duration::MAX, BootInstant(NonZeroU64::MAX));
        assert_eq!(
            BootInstant::at(7) - Duration::from_nanos(3),
            BootInstant::at(4)
        );
        assert_eq!(
            boot.saturating_duration_since(BootInstant::at(1)),
            Duration::ZERO
        );
    }

    #[test]
    fn a_shared_instant_may_be_none() {
        let shared = AtomicBootInstant::default();
        assert_eq!(shared.load(), None);
        let now = BootInstant::now();
        shared.store(Some(now));
        assert_eq!(shared.load(), Some(now));
        shared.store(None);
        assert_eq!(shared.load(), None);
    }

    #[test]
    fn nothing_that_will_be_due_is_slept_away() {
        let second = Duration::from_secs(1);
        for (due, now, longest) in [
            (1_000, 400, Duration::from_nanos(600)),
            (400, 1_000, Duration::ZERO),
            // Nine seconds are left, and the machine may be suspended for all of them.
            (10_000_000_000, 1_000_000_000, second),
            (u64::MAX, 1, second),
        ] {
            let pause = BootInstant::at(due).pause(BootInstant::at(now));
            assert_eq!(pause, longest);
        }
    }

    proptest::proptest! {
        /// A model of a machine with two clocks, one of which stops while it is suspended. Each
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
                let now = BootInstant::at(boot(awake) * MILLI);
                let pause = BootInstant::at(due * MILLI).pause(now);
                awake += u64::try_from(pause.as_millis()).unwrap().max(1);
            }
            let first = (0..=awake).find(|&awake| boot(awake) >= due).expect("it is past it");
            proptest::prop_assert!(awake - first <= 1_000, "{} after {}", awake, first);
        }
    }

    /// Neither the system time, which can be set, nor a clock that stops during a suspend.
    #[cfg(target_os = "linux")]
    #[test]
    fn it_is_the_time_since_the_boot() {
        use rustix::time::{ClockId, clock_gettime};

        let boot_time =
            || BootInstant::at(nanos(clock_gettime(ClockId::Boottime).try_into().unwrap()));
        let (before, now, after) = (boot_time(), BootInstant::now(), boot_time());
        assert!(
            (before..=after).contains(&now),
            "{before:?} {now:?} {after:?}"
        );
    }
}
