//! Holds by which transactions are fenced.

use std::collections::VecDeque;

use super::{Caller, Table};
use crate::key::Key;
use crate::op::{Action, Mode, Op};

impl<W: Caller> Table<W> {
    /// Has the hold of `key` with number `id` fenced by `number`, which the settled
    /// [`Action::Fence`] ends. False if there is no such hold.
    pub(crate) fn fence(&mut self, key: Key, id: u64, number: i64) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else {
            return false;
        };
        let is_exclusive = entry.holders.is_exclusive();
        let Some(holder) = entry.holders.get_mut(id) else {
            return false;
        };
        holder.fence = Some(number);
        entry.is_fenced |= is_exclusive;
        self.fences.push_back(step(key, Action::Fence(number)));
        true
    }

    /// The server could not fence the hold by `number`.
    pub(super) fn not_fenced(&mut self, key: Key, number: i64) {
        let holders = self.entries.get_mut(&key).map(|entry| &mut entry.holders);
        for holder in holders.into_iter().flat_map(|holders| holders.all_mut()) {
            if holder.fence == Some(number) {
                holder.fence = None;
            }
        }
    }
}

/// The hold of `key` that is fenced by `number` ends.
pub(super) fn unfence(fences: &mut VecDeque<Op>, key: Key, number: i64) {
    let fence = step(key, Action::Fence(number));
    match fences.iter().position(|&op| op == fence) {
        // The server has not been asked yet.
        Some(position) => {
            fences.remove(position);
        }
        None => fences.push_back(step(key, Action::Unfence(number))),
    }
}

fn step(key: Key, action: Action) -> Op {
    let mode = Mode::Exclusive;
    Op { key, mode, action }
}
