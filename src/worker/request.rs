//! What travels to the worker, and back.

use std::sync::Arc;
use std::time::Instant;

use crate::error::Error;
use crate::key::Key;
use crate::lease::SessionState;
use crate::op::{Mode, Patience, Token};
use crate::worker::reply::Replier;

/// Through the bounded queue: callers wait for room in it.
pub(crate) enum Message {
    Acquire(Request),
    /// There are notes to read.
    Wake,
}

pub(crate) struct Request {
    pub(crate) key: Key,
    pub(crate) mode: Mode,
    pub(crate) patience: Patience,
    pub(crate) reply: Replier<Answer>,
}

/// Beside the queue, because nobody may wait for room to give something back.
pub(crate) enum Note {
    Release {
        grant: Grant,
        reply: Option<Replier<Answer>>,
    },
    /// A caller stopped waiting for this key.
    GaveUp(Key),
}

pub(crate) enum Answer {
    Granted(Grant),
    Busy,
    Released,
    Failed(Error),
}

/// A lock given to one holder: plain data, worth what its session is worth.
#[derive(Clone)]
pub(crate) struct Grant {
    pub(crate) key: Key,
    pub(crate) mode: Mode,
    /// Differs from every other grant of the manager, so that a release can only
    /// ever end its own.
    pub(crate) id: u64,
    /// With fencing.
    pub(crate) token: Option<Token>,
    /// If it is given back before, the manager keeps it until then.
    pub(crate) keep_until: Option<Instant>,
    pub(crate) session: Arc<SessionState>,
}
