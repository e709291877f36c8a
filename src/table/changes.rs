//! Changes of a hold's mode.

use std::time::Instant;

use super::fences::unfence;
use super::holders::Holders;
use super::{Caller, Respond, Table, Via};
use crate::key::Key;
use crate::op::{Action, Mode, Op, Outcome};

/// What is to become of a hold that is to change its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It has that mode already.
    None,
    /// The server is asked; the change is done with the settled step.
    Planned,
    /// Others of this process share the lock.
    Refused,
    /// There is no such hold.
    NotHeld,
}

impl<W: Caller> Table<W> {
    /// Has the hold of `key` with number `id` get the mode `to`.
    pub(crate) fn change(&mut self, key: Key, id: u64, to: Mode) -> Change {
        let Some(entry) = self.entries.get_mut(&key) else {
            return Change::NotHeld;
        };
        let is_exclusive = entry.holders.is_exclusive();
        let is_alone = entry.holders.all().len() == 1;
        let Some(holder) = entry.holders.get_mut(id) else {
            return Change::NotHeld;
        };
        let action = match (is_exclusive, to) {
            (true, Mode::Exclusive) | (false, Mode::Shared) => return Change::None,
            (true, Mode::Shared) => Action::Downgrade(id),
            (false, Mode::Exclusive) if is_alone => Action::Upgrade(id),
            (false, Mode::Exclusive) => return Change::Refused,
        };
        if to == Mode::Exclusive
            && let Some(fence) = holder.fence.take()
        {
            // It does not keep readers out.
            unfence(&mut self.fences, key, fence.number);
        }
        entry.is_changing = true;
        let mode = Mode::Exclusive;
        self.fences.push_back(Op { key, mode, action });
        Change::Planned
    }

    /// The server has changed the mode of the hold of `op`, or has not.
    pub(super) fn changed(
        &mut self,
        op: Op,
        outcome: &Outcome,
        now: Instant,
        responder: &mut impl Respond<W>,
    ) {
        let Some(entry) = self.entries.get_mut(&op.key) else {
            return;
        };
        entry.is_changing = false;
        if matches!(outcome, Outcome::Done(_)) {
            let mode = match op.action {
                Action::Upgrade(_) => Mode::Exclusive,
                _ => Mode::Shared,
            };
            entry.server = Some(mode);
            let holders = std::mem::replace(&mut entry.holders, Holders::None);
            // None if it was released meanwhile.
            for holder in holders.into_all() {
                entry.holders.add(mode, holder);
            }
            if mode == Mode::Exclusive && !entry.holders.is_none() {
                // Those who could have joined it.
                self.refuse_tries(op.key, responder);
            }
        }
        self.advance(op.key, now, Via::Server, responder);
        self.list(op.key);
    }
}
