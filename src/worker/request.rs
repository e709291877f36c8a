//! Messages to the worker, and its answers.

use std::sync::Arc;
use std::time::Instant;

use super::reply::Replier;
use crate::error::Error;
use crate::fence::Fence;
use crate::holder::Holder;
use crate::key::Key;
use crate::lease::Lease;
use crate::op::{Mode, Token, Wait};

/// Sent through the bounded queue, in which callers wait for room.
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

/// Sent beside the queue, because a release must not wait for room.
pub(crate) enum Control {
    Release {
        grant: Grant,
        reply: Option<Replier<UnlockReply>>,
    },
    /// A guard's transactions are to be fenced.
    Fence {
        grant: Grant,
        reply: Replier<FenceReply>,
    },
    /// Who has to do with the lock?
    Inquire {
        key: Key,
        reply: Replier<HoldersReply>,
    },
    /// A caller stopped waiting for this key.
    GaveUp(Key),
}

/// The answer to an acquire. `None`: the lock is taken.
pub(crate) type AcquireReply = Result<Option<Grant>, Error>;

/// The answer to an unlock.
pub(crate) type UnlockReply = Result<(), Error>;

/// The answer to a guard that is to be fenced.
pub(crate) type FenceReply = Result<Fence, Error>;

/// The answer to a question about holders.
pub(crate) type HoldersReply = Result<Vec<Holder>, Error>;

/// A lock given to one holder: plain data, valid no longer than its session.
#[derive(Clone)]
pub(crate) struct Grant {
    pub(crate) key: Key,
    pub(crate) mode: Mode,
    /// Unique among the manager's grants, so that the release of an exclusive hold can only end
    /// that hold.
    pub(crate) id: u64,
    /// With fencing.
    pub(crate) token: Option<Token>,
    /// If the lock is released earlier, the manager keeps it until then.
    pub(crate) keep_until: Option<Instant>,
    pub(crate) lease: Arc<Lease>,
}
