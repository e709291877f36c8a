//! Whether the session is still the one whose path was proven.
//!
//! A pooler may begin to lend it out after the connect (a `RELOAD`), or have been taken for
//! something better because another of its clients gave back what was left behind to tell. So
//! the session goes on to ask whether the same server process answers, and whether it still
//! holds the marker. Behind a pool every batch and every heartbeat asks, in its own statement;
//! where no pool is in sight one heartbeat a second does.

use std::time::Duration;

use crate::clock::BootInstant;
use crate::error::Error;
use crate::key::Key;

/// The first half of the markers, which are keys of two `integer`s: `dlck` in ASCII. Each
/// session of a manager holds one marker for its whole life, its second half by chance.
pub(crate) const MARKER_CLASS: i32 = i32::from_be_bytes(*b"dlck");

/// The marker with the second half `marker`.
pub(crate) fn marker_key(marker: i32) -> Key {
    Key::from((MARKER_CLASS, marker))
}

/// How long a session without a pool before it goes without being verified.
const INTERVAL: Duration = Duration::from_secs(1);

/// A session's marker, and whether it was found where it belongs.
pub(crate) struct Marker {
    number: i32,
    expression: String,
    is_pooled: bool,
    /// When the session was last seen to be the one.
    last: BootInstant,
    failed: bool,
}

impl Marker {
    /// Of the session that is the server process `pid` and holds `marker`.
    pub(crate) fn new(marker: i32, pid: i32, is_pooled: bool) -> Self {
        Marker {
            number: marker,
            expression: verified(marker, pid),
            is_pooled,
            last: BootInstant::now(),
            failed: false,
        }
    }

    /// As a lock that the session holds.
    pub(super) fn key(&self) -> Key {
        marker_key(self.number)
    }

    /// What each batch has to ask with all else, if it has to.
    pub(super) fn with_each_batch(&self) -> Option<&str> {
        self.is_pooled.then_some(&*self.expression)
    }

    /// The statement for a heartbeat, if one is due.
    pub(super) fn due(&self) -> Option<String> {
        let is_due = self.is_pooled || self.last.elapsed() >= INTERVAL;
        is_due.then(|| format!("SELECT {}", self.expression))
    }

    /// The server has answered.
    pub(super) fn answered(&mut self, is_the_one: bool) {
        match is_the_one {
            true => self.last = BootInstant::now(),
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

/// Takes the marker once more, so that [`verified`] never gives it up.
pub(crate) fn mark_again(marker: i32) -> String {
    format!("SELECT pg_catalog.pg_try_advisory_lock({MARKER_CLASS}, {marker})")
}

/// True in the session that is the server process `pid` and holds the marker twice. It is
/// given back once and taken again, which the server does without its lock table.
fn verified(marker: i32, pid: i32) -> String {
    format!(
        "CASE WHEN pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {pid} \
         THEN CASE WHEN pg_catalog.pg_advisory_unlock({MARKER_CLASS}, {marker}) \
         THEN pg_catalog.pg_try_advisory_lock({MARKER_CLASS}, {marker}) END END"
    )
}
