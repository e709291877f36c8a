//! Whether the session is still the one whose path was proven.
//!
//! A pooler may begin to lend it out after the connect (a `RELOAD`), or have been taken for
//! something better because another of its clients gave back what was left behind to tell. So
//! the session goes on to ask whether the same server process answers, and whether it still
//! holds the marker. Behind a pool every batch and every heartbeat asks, in its own statement;
//! where no pool is in sight one heartbeat a second does.

use super::probe;
use crate::clock;
use crate::error::Error;

/// How long a session without a pool before it goes without being verified, in nanoseconds.
const INTERVAL: u64 = 1_000_000_000;

pub(super) struct Verification {
    expression: String,
    is_pooled: bool,
    /// When the session was last seen to be the one.
    last: u64,
    failed: bool,
}

impl Verification {
    /// Of the session that is the server process `pid` and holds `marker`.
    pub(super) fn new(marker: i32, pid: i32, is_pooled: bool) -> Self {
        Verification {
            expression: probe::verified(marker, pid),
            is_pooled,
            last: clock::now(),
            failed: false,
        }
    }

    /// What each batch has to ask with all else, if it has to.
    pub(super) fn with_each_batch(&self) -> Option<&str> {
        self.is_pooled.then_some(&*self.expression)
    }

    /// The statement for a heartbeat, if one is due.
    pub(super) fn due(&self) -> Option<String> {
        let is_due = self.is_pooled || clock::now().saturating_sub(self.last) >= INTERVAL;
        is_due.then(|| format!("SELECT {}", self.expression))
    }

    /// The server has answered.
    pub(super) fn answered(&mut self, is_the_one: bool) {
        match is_the_one {
            true => self.last = clock::now(),
            false => self.failed = true,
        }
    }

    /// The error once an answer was not of this session.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !self.failed {
            return Ok(());
        }
        Err(Error::unavailable(
            "the session is not this client's alone: another one has answered, or its locks \
             were given back; there is a pooler before the server that lends its sessions out",
        ))
    }
}
