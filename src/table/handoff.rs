//! The hand-off budget: how long a process may hand a lock on to its own callers before other
//! processes may take it.
//!
//! As in lock cohorting (Dice, Marathe, Shavit 2012): handing over within the process is cheap, and
//! a budget keeps it from starving other processes. The budget is a time, and continues across a
//! short release: a thread that takes the same key again and again spends one budget, not many.

use std::time::{Duration, Instant};

use crate::key::Key;

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

const REMEMBERED: usize = 16;

#[derive(Clone, Copy)]
struct Release {
    key: Key,
    start: Instant,
    /// If the key is taken again by then, other processes had no time to take it.
    until: Instant,
}

/// The budgets of keys that this process has just released. Kept apart from the entries, which are
/// removed once their lock has neither holders nor waiters. The last few are enough, the newest
/// replacing the oldest: they serve the one key that a thread takes again and again.
#[derive(Default)]
pub(super) struct RecentReleases {
    releases: [Option<Release>; REMEMBERED],
    next: usize,
}

impl RecentReleases {
    /// The budget of `key` that began at `start` continues if the key is taken again by `until`.
    pub(super) fn put(&mut self, key: Key, start: Instant, until: Instant) {
        self.releases[self.next] = Some(Release { key, start, until });
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// When the budget of `key`, which is taken again at `now`, began, if it continues.
    pub(super) fn take(&mut self, key: Key, now: Instant) -> Option<Instant> {
        let is_it = |release: &&mut Option<Release>| release.is_some_and(|it| it.key == key);
        let release = self.releases.iter_mut().find(is_it)?.take()?;
        (now <= release.until).then_some(release.start)
    }
}
