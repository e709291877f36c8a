//! The hand-off budget: how long a process may hand a lock on to its own callers before other
//! processes may take it.
//!
//! As in lock cohorting (Dice, Marathe, Shavit 2012): handing over within the process is cheap, and
//! a budget keeps it from starving other processes. The budget is a time, and continues across
//! releases: a thread that takes the same key again and again spends one budget, not many. When it
//! is spent the server is asked whether anybody else waits, and another budget begins if not.

use std::time::{Duration, Instant};

pub(super) const BUDGET: Duration = Duration::from_millis(20);

/// The start of a budget that began at `start` and continues, for one hold at least: what has been
/// taken at the server is not released unused.
pub(super) fn resume(start: Instant, now: Instant) -> Instant {
    let oldest = now.checked_sub(BUDGET - Duration::from_nanos(1));
    oldest.map_or(start, |oldest| start.max(oldest))
}

/// True if a budget that began at `start` is spent.
pub(super) fn is_spent(start: Instant, now: Instant) -> bool {
    now.saturating_duration_since(start) >= BUDGET
}
