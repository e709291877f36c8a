//! The state of one key, and what may be done with it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::key::Key;
use crate::request::{Mode, Patience};

/// How long a process may pass a lock on inside before others get their turn.
const TENURE: Duration = Duration::from_millis(20);

pub(super) struct Waiter<W> {
    pub(super) inner: W,
    pub(super) mode: Mode,
    pub(super) patience: Patience,
    pub(super) since: Instant,
    pub(super) contended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holders {
    None,
    Exclusive(u64),
    Shared(usize),
}

pub(super) struct Entry<W> {
    /// What the session holds at the server.
    pub(super) server: Option<Mode>,
    pub(super) holders: Holders,
    pub(super) queue: VecDeque<Waiter<W>>,
    /// Since when this process has had the server lock without giving others a turn.
    pub(super) tenure: Option<Instant>,
    /// When to look again. None: at once.
    pub(super) look_at: Option<Instant>,
    /// Is the key in `ready`?
    pub(super) listed: bool,
}

impl<W> Entry<W> {
    pub(super) fn new() -> Self {
        Entry {
            server: None,
            holders: Holders::None,
            queue: VecDeque::new(),
            tenure: None,
            look_at: None,
            listed: false,
        }
    }

    /// May a request that cannot wait be tried at all?
    pub(super) fn is_open_to(&self, mode: Mode) -> bool {
        match mode {
            Mode::Exclusive => self.holders == Holders::None && self.queue.is_empty(),
            Mode::Shared => {
                !matches!(self.holders, Holders::Exclusive(_))
                    && self.queue.iter().all(|waiter| waiter.mode == Mode::Shared)
            }
        }
    }

    /// May the first in the queue have the lock without the server?
    pub(super) fn can_hand_over(&self, now: Instant) -> bool {
        let Some(first) = self.queue.front() else {
            return false;
        };
        self.server == Some(first.mode)
            && match self.holders {
                Holders::None => !self.is_tenure_over(now),
                Holders::Exclusive(_) => false,
                // Its fellow holders keep the server lock anyway.
                Holders::Shared(_) => true,
            }
    }

    pub(super) fn is_tenure_over(&self, now: Instant) -> bool {
        self.tenure
            .is_some_and(|start| now.saturating_duration_since(start) >= TENURE)
    }

    pub(super) fn needs_server(&self) -> bool {
        match self.server {
            Some(_) => self.holders == Holders::None,
            None => true,
        }
    }

    pub(super) fn has_impatient(&self) -> bool {
        self.queue
            .iter()
            .any(|waiter| waiter.patience == Patience::Once)
    }
}

/// A look that is due at a time. Stale if the entry has another time by then.
#[derive(PartialEq, Eq)]
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) key: Key,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The heap's greatest is the earliest.
        other.at.cmp(&self.at)
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
