//! When to look at the server again, for which keys.
//!
//! Each look has some room: from when it may be, and by when it must be. Once one must
//! be, or something else goes to the server anyway, all that may be go with it. So many
//! keys that are waited for cost few statements.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::key::Key;

/// A look that is put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) from: Instant,
    pub(super) by: Instant,
}

/// The looks put off. Those that have been superseded stay in it until their time.
pub(super) struct Agenda {
    may: BinaryHeap<Reverse<Item>>,
    must: BinaryHeap<Reverse<Item>>,
}

/// Ordered by its time alone.
struct Item {
    at: Instant,
    key: Key,
    look: Look,
}

impl Agenda {
    pub(super) fn new() -> Self {
        Agenda {
            may: BinaryHeap::new(),
            must: BinaryHeap::new(),
        }
    }

    pub(super) fn put(&mut self, key: Key, look: Look) {
        let item = |at| Reverse(Item { at, key, look });
        self.may.push(item(look.from));
        self.must.push(item(look.by));
    }

    /// When the next look must be.
    pub(super) fn next(&self) -> Option<Instant> {
        self.must.peek().map(|Reverse(item)| item.at)
    }

    /// A look to do now, if there is one that must be or if the worker will `go` to the
    /// server in any case.
    pub(super) fn pop(&mut self, now: Instant, go: bool) -> Option<(Key, Look)> {
        let go = go || self.next().is_some_and(|at| at <= now);
        let Reverse(first) = self.may.peek()?;
        if !go || first.at > now {
            return None;
        }
        let Reverse(item) = self.may.pop()?;
        Some((item.key, item.look))
    }

    /// Forgets what is done, and what is not `current` any more.
    pub(super) fn prune(&mut self, now: Instant, current: impl Fn(Key, Look) -> bool) {
        while let Some(Reverse(item)) = self.must.peek() {
            if item.at > now && current(item.key, item.look) {
                break;
            }
            self.must.pop();
        }
    }

    pub(super) fn clear(&mut self) {
        self.may.clear();
        self.must.clear();
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
