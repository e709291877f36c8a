//! What may be asked of a session, and what comes of it.

use std::num::NonZeroI64;
use std::time::Instant;

use crate::error::Error;
use crate::key::Key;

/// A fencing token, of the type that SQL has for it.
pub(crate) type Token = NonZeroI64;

/// The two lock modes of Postgres's advisory locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    Exclusive,
    Shared,
}

/// How long an acquire goes on when the lock is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// One attempt, then the answer. A timed call waits for it until then at most.
    Try(Option<Instant>),
    /// Until the lock is free, at most until then.
    Until(Instant),
    /// Until the lock is free.
    Forever,
}

impl Wait {
    /// True if one attempt is all.
    pub(crate) fn is_try(self) -> bool {
        matches!(self, Wait::Try(_))
    }

    /// When the caller gives up, which is its own matter: the worker only sees to it that the
    /// answer is known by then.
    pub(crate) fn deadline(self) -> Option<Instant> {
        match self {
            Wait::Until(deadline) => Some(deadline),
            Wait::Try(deadline) => deadline,
            Wait::Forever => None,
        }
    }
}

/// One step at the server. A batch has at most one for each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) key: Key,
    pub(crate) mode: Mode,
    pub(crate) action: Action,
}

// In the order of a batch: what frees comes before what takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    Unlock,
    /// With fencing also draws the token of the lock's first holder.
    Lock,
    /// Draws the token of a further holder, of a lock that the session has.
    Draw,
}

/// What became of one step.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// With fencing, what takes a lock comes with a token.
    Done(Option<Token>),
    /// The lock function has said no.
    Refused,
    /// The server could not do it, and it has no effect.
    Failed(Error),
}
