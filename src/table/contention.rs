//! What there is with other processes about a key.

use std::time::Instant;

use crate::op::Action;

/// The longest budget of a process that others leave the lock to has this power of two: ten seconds.
const MOST_IGNORED: u32 = 9;

#[derive(Default)]
pub(super) struct Contention {
    /// Until when the lock is left to others that wait for it, unless one of them takes it or
    /// all go before.
    pub(super) yields_until: Option<Instant>,
    /// So many times in a row they did not take it.
    ignored: u32,
    /// When an attempt was last refused. For a budget from then on other sessions are shown that
    /// this one waits, although nobody waits here any more.
    pub(super) refused_at: Option<Instant>,
}

impl Contention {
    /// The lock was won by `action`. If it had been left to others, how many times in a row they
    /// have not taken it.
    pub(super) fn won(&mut self, action: Action) -> Option<u32> {
        let is_ignored = self.yields_until.take().is_some() && action == Action::Lock;
        if is_ignored {
            self.ignored = (self.ignored + 1).min(MOST_IGNORED);
        } else if action == Action::LockUnawaited {
            self.unawaited();
        }
        is_ignored.then_some(self.ignored)
    }

    /// Nobody else waits for the lock.
    pub(super) fn unawaited(&mut self) {
        self.ignored = 0;
    }
}
