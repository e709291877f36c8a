//! Who holds a lock in this process.

use std::time::Instant;

use crate::op::Mode;
use crate::sync::thread::Thread;

/// By what a hold is fenced.
#[derive(Clone, Copy)]
pub(crate) struct HoldFence {
    pub(crate) number: i64,
    /// True once the server has done it.
    pub(crate) is_done: bool,
}

pub(super) struct Holder {
    pub(super) id: u64,
    /// Where the lock was acquired. The guard may have moved to another thread since.
    pub(super) thread: Thread,
    pub(super) since: Instant,
    pub(super) fence: Option<HoldFence>,
    /// True once it has been reported that the hold lasts long.
    pub(super) is_reported: bool,
}

impl Holder {
    pub(super) fn new(id: u64, thread: Thread, now: Instant) -> Self {
        Holder {
            id,
            thread,
            since: now,
            fence: None,
            is_reported: false,
        }
    }
}

pub(super) enum Holders {
    None,
    Exclusive(Holder),
    Shared(Vec<Holder>),
}

impl Holders {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Holders::None)
    }

    pub(super) fn is_exclusive(&self) -> bool {
        matches!(self, Holders::Exclusive(_))
    }

    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Holders::Shared(_))
    }

    pub(super) fn all(&self) -> &[Holder] {
        match self {
            Holders::None => &[],
            Holders::Exclusive(holder) => std::slice::from_ref(holder),
            Holders::Shared(holders) => holders,
        }
    }

    pub(super) fn all_mut(&mut self) -> &mut [Holder] {
        match self {
            Holders::None => &mut [],
            Holders::Exclusive(holder) => std::slice::from_mut(holder),
            Holders::Shared(holders) => holders,
        }
    }

    pub(super) fn into_all(self) -> Vec<Holder> {
        match self {
            Holders::None => Vec::new(),
            Holders::Exclusive(holder) => vec![holder],
            Holders::Shared(holders) => holders,
        }
    }

    pub(super) fn add(&mut self, mode: Mode, holder: Holder) {
        match (mode, self) {
            (Mode::Shared, Holders::Shared(holders)) => holders.push(holder),
            (Mode::Shared, none) => *none = Holders::Shared(vec![holder]),
            (Mode::Exclusive, none) => *none = Holders::Exclusive(holder),
        }
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Holder> {
        self.all_mut().iter_mut().find(|holder| holder.id == id)
    }

    /// The hold with number `id`, which is one of them, has ended.
    pub(super) fn remove(&mut self, id: u64) {
        if let Holders::Shared(holders) = self {
            holders.retain(|holder| holder.id != id);
            if !holders.is_empty() {
                return;
            }
        }
        *self = Holders::None;
    }
}
