//! Keys that this process has just given up, and may take again before others had a turn.
//!
//! Apart from the entries, which go when nobody has or wants their lock. A few are enough:
//! this is about the one key that a thread takes again and again.

use std::time::Instant;

use crate::key::Key;

const REMEMBERED: usize = 16;

#[derive(Clone, Copy)]
struct Tenure {
    key: Key,
    start: Instant,
    /// If it is taken again by then, others had no turn.
    until: Instant,
}

/// The last few, the oldest making room for the newest.
#[derive(Default)]
pub(super) struct Recent {
    tenures: [Option<Tenure>; REMEMBERED],
    next: usize,
}

impl Recent {
    /// The tenure of `key` that began at `start` goes on if it is taken again by `until`.
    pub(super) fn put(&mut self, key: Key, start: Instant, until: Instant) {
        self.tenures[self.next] = Some(Tenure { key, start, until });
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// When the tenure of `key` began that is taken again `now`, if it goes on.
    pub(super) fn take(&mut self, key: Key, now: Instant) -> Option<Instant> {
        let is_it = |tenure: &&mut Option<Tenure>| tenure.is_some_and(|tenure| tenure.key == key);
        let tenure = self.tenures.iter_mut().find(is_it)?.take()?;
        (now <= tenure.until).then_some(tenure.start)
    }
}
