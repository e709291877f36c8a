//! Holds by which transactions are fenced.

use std::collections::VecDeque;

use super::holders::HoldFence;
use super::{Caller, Table};
use crate::key::Key;
use crate::op::{Action, Mode, Op};

impl<W: Caller> Table<W> {
    /// Has the hold of `key` with number `id` fenced, by `number` unless it is already. It is done
    /// with the settled [`Action::Fence`]. `None` if there is no such hold.
    pub(crate) fn fence(&mut self, key: Key, id: u64, number: i64) -> Option<HoldFence> {
        let entry = self.entries.get_mut(&key)?;
        let is_exclusive = entry.holders.is_exclusive();
        let holder = entry.holders.get_mut(id)?;
        if holder.fence.is_none() {
            self.fences.push_back(step(key, Action::Fence(number)));
        }
        entry.is_fenced |= is_exclusive;
        let is_done = false;
        Some(*holder.fence.get_or_insert(HoldFence { number, is_done }))
    }

    /// The server has fenced the hold by `number`, or could not.
    pub(super) fn fenced(&mut self, key: Key, number: i64, is_done: bool) {
        let holders = self.entries.get_mut(&key).map(|entry| &mut entry.holders);
        for holder in holders.into_iter().flat_map(|holders| holders.all_mut()) {
            if holder.fence.is_some_and(|fence| fence.number == number) {
                holder.fence = is_done.then_some(HoldFence { number, is_done });
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
