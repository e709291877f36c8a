//! Checks that the session is still the one that the preflight has proven.
//!
//! A pooler may begin to share the session after the connect (a `RELOAD`), or may have gone
//! undetected because another of its clients released the preflight's probe. So the session keeps
//! checking that the same server process answers, and that it still holds the marker. Behind a pool
//! every batch and every heartbeat checks this, in its own statement; where no pool was detected,
//! one of them does in a second, a batch if there is any.

use std::time::Duration;

use crate::clock::BootInstant;
use crate::error::Error;
use crate::key::Key;

/// The first half of the markers, which are keys of two `integer`s: `dlck` in ASCII. Each session
/// of a manager holds one marker for its whole life, with a random second half.
pub(crate) const MARKER_CLASS: i32 = i32::from_be_bytes(*b"dlck");

/// The marker with the second half `marker`.
pub(crate) fn marker_key(marker: i32) -> Key {
    Key::from((MARKER_CLASS, marker))
}

/// How long a session that is not behind a pool goes unverified.
const INTERVAL: Duration = Duration::from_secs(1);

/// A session's marker, and whether a check of it has failed.
pub(crate) struct Marker {
    number: i32,
    expression: String,
    is_pooled: bool,
    /// When the session was last verified.
    last: BootInstant,
    failed: bool,
}

impl Marker {
    /// The marker of the session with server process `pid`, which holds `marker`.
    pub(crate) fn new(marker: i32, pid: i32, is_pooled: bool) -> Self {
        Marker {
            number: marker,
            expression: verified(marker, pid),
            is_pooled,
            last: BootInstant::now(),
            failed: false,
        }
    }

    pub(crate) fn number(&self) -> i32 {
        self.number
    }

    /// The key of the marker lock.
    pub(super) fn key(&self) -> Key {
        marker_key(self.number)
    }

    /// True in this session, and for as long as it has its marker.
    pub(super) fn expression(&self) -> &str {
        &self.expression
    }

    /// True if a check is due, in a statement of its own.
    pub(super) fn is_due(&self) -> bool {
        self.is_pooled || self.last.elapsed() >= INTERVAL
    }

    /// True if a check is due in a batch: earlier, to save that statement.
    pub(super) fn is_due_in_batch(&self) -> bool {
        self.is_pooled || self.last.elapsed() >= INTERVAL / 2
    }

    /// Notes a check's answer.
    pub(super) fn answered(&mut self, is_same_session: bool) {
        match is_same_session {
            true => self.last = BootInstant::now(),
            false => self.failed = true,
        }
    }

    /// An error once a check has failed.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !self.failed {
            return Ok(());
        }
        Err(Error::unavailable(
            "another session has answered, or the session's locks were released: a pooler in \
             front of the server shares its sessions between clients",
        ))
    }
}

/// Takes the marker a second time, so that [`verified`] never frees it.
pub(crate) fn mark_again(marker: i32) -> String {
    format!("SELECT pg_catalog.pg_try_advisory_lock({MARKER_CLASS}, {marker})")
}

/// True in the session with server process `pid` if it holds the marker twice. Releases it once and
/// takes it again, which the server does without its lock table.
fn verified(marker: i32, pid: i32) -> String {
    format!(
        "CASE WHEN pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {pid} \
         THEN CASE WHEN pg_catalog.pg_advisory_unlock({MARKER_CLASS}, {marker}) \
         THEN pg_catalog.pg_try_advisory_lock({MARKER_CLASS}, {marker}) END END"
    )
}
