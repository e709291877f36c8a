//! Locks that are kept until a set time although their guards are gone.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::key::Key;

/// Ordered by the end of their time; the hold's id tells equal ones apart.
#[derive(Default)]
pub(super) struct Kept(BTreeMap<(Instant, u64), Key>);

impl Kept {
    pub(super) fn put(&mut self, until: Instant, id: u64, key: Key) {
        self.0.insert((until, id), key);
    }

    /// When the first one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first_key_value().map(|(&(until, _), _)| until)
    }

    /// One whose time is over, with the id of its hold.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(u64, Key)> {
        let first = self.0.first_entry().filter(|first| first.key().0 <= now)?;
        let ((_, id), key) = first.remove_entry();
        Some((id, key))
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
