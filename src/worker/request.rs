//! What travels to the worker, and back.

use std::sync::Arc;
use std::time::Instant;

use super::reply::Replier;
use crate::error::Error;
use crate::key::Key;
use crate::lease::Lease;
use crate::op::{Mode, Token, Wait};

/// Through the bounded queue: callers wait for room in it.
pub(crate) enum Message {
    Acquire(Request),
    /// There are control messages to read.
    Wake,
}

pub(crate) struct Request {
    pub(crate) key: Key,
    pub(crate) mode: Mode,
    pub(crate) wait: Wait,
    pub(crate) reply: Replier<AcquireReply>,
}

/// Beside the queue, because nothing may have to wait for room to be given back.
pub(crate) enum Control {
    Release {
        grant: Grant,
        reply: Option<Replier<UnlockReply>>,
    },
    /// A caller stopped waiting for this key.
    GaveUp(Key),
}

/// The answer to an acquire. `None`: the lock is taken.
pub(crate) type AcquireReply = Result<Option<Grant>, Error>;

/// The answer to an unlock.
pub(crate) type UnlockReply = Result<(), Error>;

/// A lock given to one holder: plain data, worth what its session is worth.
#[derive(Clone)]
pub(crate) struct Grant {
    pub(crate) key: Key,
    pub(crate) mode: Mode,
    /// Differs from every other grant of the manager, so that the release of an exclusive hold
    /// can only ever end its own.
    pub(crate) id: u64,
    /// With fencing.
    pub(crate) token: Option<Token>,
    /// If it is given back before, the manager keeps it until then.
    pub(crate) keep_until: Option<Instant>,
    pub(crate) lease: Arc<Lease>,
}
