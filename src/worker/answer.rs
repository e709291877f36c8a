//! The worker's answers.

use std::sync::Arc;
use std::time::Instant;

use crate::error::Error;
use crate::fence::Fence;
use crate::holder::Holder;
use crate::key::Key;
use crate::lease::Lease;
use crate::op::{Mode, Token};

/// The answer to an acquire. `None`: the lock is taken.
pub(crate) type AcquireReply = Result<Option<Grant>, Error>;

/// The answer to an acquire of several locks.
pub(crate) type AcquireAllReply = Result<Option<Vec<Grant>>, Error>;

/// The answer to an unlock.
pub(crate) type UnlockReply = Result<(), Error>;

/// The answer to a guard whose mode is to change: its token with the new mode. `None`: it keeps the
/// old one.
pub(crate) type ChangeReply = Result<Option<Changed>, Error>;

/// A hold whose mode has changed.
#[derive(Clone, Copy)]
pub(crate) struct Changed {
    /// With fencing, of one that is exclusive now.
    pub(crate) token: Option<Token>,
}

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
