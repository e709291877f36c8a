//! The operations on a session, and their outcomes.

use std::num::NonZeroI64;
use std::time::Instant;

use crate::error::Error;
use crate::key::Key;

/// A fencing token: a positive `bigint` in SQL.
pub(crate) type Token = NonZeroI64;

/// The two lock modes of Postgres's advisory locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    Exclusive,
    Shared,
}

/// How long an acquire waits for a lock that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// One attempt. A timed call waits for its outcome until the deadline.
    Try(Option<Instant>),
    /// Until the lock is free, at most until the deadline.
    Until(Instant),
    /// Until the lock is free.
    Forever,
}

impl Wait {
    /// True if there is only one attempt.
    pub(crate) fn is_try(self) -> bool {
        matches!(self, Wait::Try(_))
    }

    /// When the caller gives up, by its own clock: the worker only sees to it that an attempt
    /// is made before.
    pub(crate) fn deadline(self) -> Option<Instant> {
        match self {
            Wait::Until(deadline) => Some(deadline),
            Wait::Try(deadline) => deadline,
            Wait::Forever => None,
        }
    }
}

/// One operation at the server. A batch has at most one for each [target](Op::target).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) key: Key,
    pub(crate) mode: Mode,
    pub(crate) action: Action,
}

impl Op {
    /// The key of the lock that it takes or frees: for what concerns waiters, the companion; for
    /// what concerns transactions, the number of the hold.
    pub(crate) fn target(self) -> Key {
        match self.action {
            Action::Announce | Action::Withdraw => self.key.waiters(),
            Action::Fence(hold) | Action::Unfence(hold) => Key::from(hold),
            _ => self.key,
        }
    }

    /// The companion that an acquire drains: nobody may hold it, because the fenced transactions
    /// of earlier holders do, as long as they are open.
    pub(crate) fn drained(self) -> Key {
        match self.mode {
            Mode::Exclusive => self.key.fenced(),
            Mode::Shared => self.key.fenced_exclusively(),
        }
    }
}

// In the order of a batch: what frees comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    /// Ends a [`Fence`](Action::Fence): before the lock is released.
    Unfence(i64),
    Unlock,
    /// Ends an [`Announce`](Action::Announce).
    Withdraw,
    /// Unlocks, and locks again unless another session has got the lock or waits for it.
    Relock,
    /// With fencing also draws the token of the lock's first holder.
    Lock,
    /// The same, but leaves the lock to another session that waits for it.
    LockUnawaited,
    /// The same as the two before, if the step before it in the batch has got its lock: the next
    /// one of a set.
    LockNext,
    LockNextUnawaited,
    /// Makes the share of the hold with this number, the session's only one, an exclusive lock,
    /// unless another session has a share. With fencing also draws its token.
    Upgrade(u64),
    /// Makes the exclusive lock of the hold with this number a share.
    Downgrade(u64),
    /// Draws the token of a further holder, of a lock that the session has.
    Draw,
    /// Shows other sessions that this one waits for the lock.
    Announce,
    /// Asks whether another session waits for a lock that the session has.
    Check,
    /// Shows transactions that the hold with this number lasts: takes the number's lock.
    Fence(i64),
}

impl Action {
    pub(crate) fn is_lock(self) -> bool {
        matches!(self.alone(), Action::Lock | Action::LockUnawaited)
    }

    /// True if it is not done unless the step before it in the batch has got its lock.
    pub(crate) fn is_next(self) -> bool {
        self != self.alone()
    }

    /// The same without regard to the step before.
    pub(crate) fn alone(self) -> Action {
        match self {
            Action::LockNext => Action::Lock,
            Action::LockNextUnawaited => Action::LockUnawaited,
            _ => self,
        }
    }

    /// True if it changes the mode of a lock that the session has.
    pub(crate) fn is_change(self) -> bool {
        matches!(self, Action::Upgrade(_) | Action::Downgrade(_))
    }

    /// True if all it does is to free a lock.
    pub(crate) fn is_unlock(self) -> bool {
        matches!(self, Action::Unlock | Action::Withdraw | Action::Unfence(_))
    }
}

/// Some of many locks, whichever are free: exclusive ones.
#[derive(Debug)]
pub(crate) struct Pick {
    /// What to choose from, each once.
    pub(crate) keys: Vec<Key>,
    /// So many at most.
    pub(crate) most: usize,
    /// If fewer are free, none.
    pub(crate) least: usize,
    /// None either while another session has this lock.
    pub(crate) gate: Option<Key>,
}

/// What a pick has got, with fencing each with its token.
pub(crate) type Picked = Vec<(Key, Option<Token>)>;

/// The outcome of one operation.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// With fencing, a lock or draw has a token. A check: nobody waits.
    Done(Option<Token>),
    /// Another session has the lock, or, for a check, waits for it. The session did not hold what
    /// it was to unlock or withdraw.
    Refused,
    /// The lock was left to another session that waits for it.
    Awaited,
    /// The lock was free, but a transaction that was fenced by an earlier holder is still open.
    Undrained,
    /// The session did not hold what it was to unlock and lock again.
    NotHeld,
    /// Not tried, because the step before it has not got its lock.
    Skipped,
    /// The server could not do it, and it has no effect; or a lock that was to be taken again was
    /// given back.
    Failed(Error),
}
