//! The retry queue: when to ask the server again, for which keys.
//!
//! Each retry has some slack, as timers have: it may run from one time on and must run by another.
//! When one must run, or something else goes to the server anyway, all that may run go with it. So
//! many keys with waiters cost few statements.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::key::Key;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retry {
    pub(super) not_before: Instant,
    pub(super) not_after: Instant,
}

impl Retry {
    pub(super) fn at(instant: Instant) -> Self {
        Retry {
            not_before: instant,
            not_after: instant,
        }
    }
}

/// The scheduled retries. Superseded ones stay in it until their time.
pub(super) struct RetryQueue {
    by_not_before: BinaryHeap<Reverse<Item>>,
    by_not_after: BinaryHeap<Reverse<Item>>,
}

/// Ordered by its time alone.
struct Item {
    at: Instant,
    key: Key,
    retry: Retry,
}

impl RetryQueue {
    pub(super) fn new() -> Self {
        RetryQueue {
            by_not_before: BinaryHeap::new(),
            by_not_after: BinaryHeap::new(),
        }
    }

    pub(super) fn push(&mut self, key: Key, retry: Retry) {
        let item = |at| Reverse(Item { at, key, retry });
        self.by_not_before.push(item(retry.not_before));
        self.by_not_after.push(item(retry.not_after));
    }

    /// When the next retry must run.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_not_after.peek().map(|Reverse(item)| item.at)
    }

    /// True if a retry must run now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next().is_some_and(|at| at <= now)
    }

    /// Removes a retry that may run now.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Key, Retry)> {
        let Reverse(first) = self.by_not_before.peek()?;
        if first.at > now {
            return None;
        }
        let Reverse(item) = self.by_not_before.pop()?;
        Some((item.key, item.retry))
    }

    /// Drops the first retries, as long as they are due or no longer `current`.
    pub(super) fn prune(&mut self, now: Instant, current: impl Fn(Key, Retry) -> bool) {
        while let Some(Reverse(item)) = self.by_not_after.peek() {
            if item.at > now && current(item.key, item.retry) {
                break;
            }
            self.by_not_after.pop();
        }
    }

    pub(super) fn clear(&mut self) {
        self.by_not_before.clear();
        self.by_not_after.clear();
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Item {}
