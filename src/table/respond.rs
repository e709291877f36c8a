//! Who waits, and where the table's decisions go.

use std::time::Duration;

use crate::error::Error;
use crate::key::Key;
use crate::op::{Mode, Token};
use crate::sync::thread::Thread;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The lock is held.
    Busy,
    /// The manager holds its maximum of locks, which is this many.
    LimitReached(usize),
}

/// How a holder got its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// From the server, or as a share beside other holders of the manager.
    Server,
    /// From another holder of the manager; the session has kept it.
    Handoff,
}

/// What a waiter is given.
#[derive(Clone, Copy)]
pub(crate) struct Granted {
    pub(crate) key: Key,
    pub(crate) mode: Mode,
    /// Unique among the holds of the table.
    pub(crate) id: u64,
    /// With fencing.
    pub(crate) token: Option<Token>,
    /// Since the request was queued.
    pub(crate) waited: Duration,
    pub(crate) via: Via,
}

/// Which waiters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    All,
    /// Only those that try once.
    Tries,
}

/// Somebody who waits.
pub(crate) trait Caller {
    /// The thread that waits.
    fn thread(&self) -> Thread;
}

/// Where the table's decisions go.
pub(crate) trait Respond<W> {
    /// Grants the lock, or all those of its set, to `waiter`. False if that has left and does not
    /// take them.
    fn grant(&mut self, waiter: W, granted: &[Granted]) -> bool;

    fn refuse(&mut self, waiter: W, refusal: Refusal);

    /// The server could not do what `waiter` asked for, or is away.
    fn fail(&mut self, waiter: W, error: &Error);

    /// The hold of `key` with number `id` has ended: its lock was released, or the time for which
    /// it was kept is over.
    fn released(&mut self, key: Key, id: u64);

    /// An acquire found its lock held, here or at the server; called once for each.
    fn contended(&mut self, waiter: &W, key: Key, mode: Mode);
}
