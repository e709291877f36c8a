//! What the owner of a guard does with it.

use std::time::Instant;

use super::super::Change;
use super::Play;
use super::world::Held;
use crate::op::Mode;

impl Play {
    /// Drops the guard of the hold with number `id`.
    pub(super) fn release(&mut self, id: u64, keep: Option<Instant>) -> bool {
        let now = self.world.now;
        let held = self.world.held.get_mut(&id).unwrap();
        held.kept = keep.filter(|&until| until > now);
        let Held { key, .. } = *held;
        self.table.release(key, id, keep, now, &mut self.world)
    }

    /// Transactions are to be fenced by the hold with number `id`, for the first time.
    pub(super) fn fence(&mut self, id: u64) {
        let held = self.world.held.get_mut(&id).unwrap();
        if std::mem::replace(&mut held.is_fenced, true) {
            return;
        }
        let Held { key, mode, .. } = *held;
        if mode == Mode::Exclusive {
            self.world.fenced_keys.insert(key.as_i64());
        }
        self.world.last_fence += 1;
        let fence = self.table.fence(key, id, self.world.last_fence).unwrap();
        assert_eq!(fence.number, self.world.last_fence);
    }

    /// The hold with number `id` is to get the mode `to`. Its caller waits for the answer, and so does
    /// not ask twice.
    pub(super) fn change(&mut self, id: u64, to: Mode) {
        let Held { key, mode, .. } = self.world.held[&id];
        let entry = &self.table.entries[&key];
        if entry.is_changing {
            return;
        }
        let shares = self.world.held.values().filter(|held| held.key == key);
        // A set that waits may have a share, too.
        let is_alone = shares.count() == 1 && entry.holders.all().len() == 1;
        let expected = match (mode, to) {
            (Mode::Exclusive, Mode::Exclusive) | (Mode::Shared, Mode::Shared) => Change::None,
            (Mode::Shared, Mode::Exclusive) if !is_alone => Change::Refused,
            (_, _) => Change::Planned,
        };
        assert_eq!(self.table.change(key, id, to), expected);
        if expected == Change::Planned && to == Mode::Exclusive {
            // Its fence ends, and may be made again.
            self.world.held.get_mut(&id).unwrap().is_fenced = false;
        }
    }
}
