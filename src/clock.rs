//! The clock that leases are measured by.

use std::time::{Duration, Instant};

use once_cell::sync::Lazy;

/// The moment that [`now`] counts from: some time before its first use.
static START: Lazy<Instant> = Lazy::new(Instant::now);

/// Never: later than any time [`now`] returns.
pub(crate) const NEVER: u64 = u64::MAX;

/// Nanoseconds on a clock that only goes forward, in a form that fits an
/// atomic; never 0, so that 0 can mean "no time".
pub(crate) fn now() -> u64 {
    nanos(START.elapsed()).saturating_add(1)
}

/// `duration` in nanoseconds; [`NEVER`] if it is longer than 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER)
}
