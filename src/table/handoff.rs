//! How long a process may hand a lock on inside before other processes have their turn.
//!
//! As in lock cohorting (Dice, Marathe, Shavit 2012): handing over inside is cheap, and a budget
//! keeps it from starving those outside. The budget is of time, and goes on over a short
//! release: a thread that takes the same key again and again spends one budget, not many.

use std::time::{Duration, Instant};

use crate::key::Key;

pub(super) const BUDGET: Duration = Duration::from_millis(20);

/// A budget that began at `start` goes on, for one hold at least: what has been taken at the
/// server is not given back unused.
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
    /// If the key is taken again by then, others had no turn.
    until: Instant,
}

/// The budgets of keys that this process has just given up. Apart from the entries, which go
/// when nobody has or wants their lock. The last few are enough, the oldest making room for the
/// newest: this is about the one key that a thread takes again and again.
#[derive(Default)]
pub(super) struct RecentReleases {
    releases: [Option<Release>; REMEMBERED],
    next: usize,
}

impl RecentReleases {
    /// The budget of `key` that began at `start` goes on if it is taken again by `until`.
    pub(super) fn put(&mut self, key: Key, start: Instant, until: Instant) {
        self.releases[self.next] = Some(Release { key, start, until });
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// When the budget of `key` began that is taken again `now`, if it goes on.
    pub(super) fn take(&mut self, key: Key, now: Instant) -> Option<Instant> {
        let is_it = |release: &&mut Option<Release>| release.is_some_and(|it| it.key == key);
        let release = self.releases.iter_mut().find(is_it)?.take()?;
        (now <= release.until).then_some(release.start)
    }
}
