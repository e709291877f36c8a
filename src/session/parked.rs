//! Waits for a lock in the server's own queue, where the server serves first in, first out.
//!
//! The wait is a statement with a snapshot, for which VACUUM and CREATE INDEX CONCURRENTLY wait
//! ([Routine Vacuuming]); so it is short, and repeated. A `DO` block catches its end, and that of
//! a cancelled one, so that neither is an error in the server's log. How it ended comes as a
//! notice, because a `DO` block has no result.
//!
//! That the wait has ended does not say that the lock was not granted: a timeout and a cancel may
//! come just after the grant. So the block then looks up what the session holds.
//!
//! [Routine Vacuuming]: https://www.postgresql.org/docs/current/routine-vacuuming.html

use std::sync::Arc;
use std::time::Duration;

use postgres::error::DbError;

use super::errors::{is_cancelled, lost};
use super::statements::is_of;
use super::{Lost, OnRoundTrip, Session};
use crate::clock::BootInstant;
use crate::op::{Mode, Op, Outcome};
use crate::sync::Mutex;

/// What the block's notice begins with.
const PREFIX: &str = "distlock: ";

/// How long to ask at intervals instead after the server has failed to do it.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// For how long a cancel that did not end a wait is still expected.
const LATE_CANCEL: Duration = Duration::from_millis(20);

/// Runs `statements`, until they end or are cancelled, which sets `cancelled`. The server sends two
/// signals for a cancel, to the process and to its group (`signal_child` in PostgreSQL's
/// `postmaster.c`): the second one ends the first one's handler, within its pause.
fn cancellable(statements: &str) -> String {
    format!(
        "BEGIN BEGIN {statements} \
         EXCEPTION WHEN lock_not_available THEN NULL; \
         WHEN query_canceled THEN cancelled := true; PERFORM pg_catalog.pg_sleep(0.001); END; \
         EXCEPTION WHEN query_canceled THEN cancelled := true; END;"
    )
}

/// The last notice of a wait's end; shared with the driver's callback for notices.
#[derive(Clone, Default)]
pub(crate) struct WaitNotice(Arc<Mutex<Option<Report>>>);

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Report {
    is_held: bool,
    was_cancelled: bool,
    is_same_session: bool,
}

impl WaitNotice {
    /// Notes `notice` if it is one of a wait's end.
    pub(crate) fn note(&self, notice: &DbError) {
        if let Some(report) = notice.message().strip_prefix(PREFIX) {
            *self.0.lock() = parse(report);
        }
    }

    fn take(&self) -> Option<Report> {
        self.0.lock().take()
    }
}

/// Three booleans, as the server shows them.
fn parse(report: &str) -> Option<Report> {
    let mut words = report.split(' ').map(|word| match word {
        "t" => Some(true),
        "f" => Some(false),
        _ => None,
    });
    let mut next = || words.next().flatten();
    Some(Report {
        is_held: next()?,
        was_cancelled: next()?,
        is_same_session: next()?,
    })
}

/// How a wait ended, for the worker.
pub(crate) struct Parked {
    pub(crate) outcome: Outcome,
    /// True if a cancel ended the wait, and so cannot end anything else.
    pub(crate) was_cancelled: bool,
}

impl Session {
    /// False for a while after the server was not able to do it; in a transaction, which a cancel
    /// that comes too late would end; and with fencing, where it could end a commit's wait for the
    /// synchronous standby, which makes its token durable.
    pub(crate) fn can_park(&self) -> bool {
        self.sequence.is_none()
            && self.transaction.begun().is_none()
            && BootInstant::now() >= self.parks_from
    }

    /// Waits for the lock of `op` in the server's queue, for `slice`.
    pub(crate) fn park(
        &mut self,
        op: Op,
        slice: Duration,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<Parked, Lost> {
        // Before a grant, which relies on it.
        self.arm_lease(on_round_trip)?;
        let started = BootInstant::now();
        self.wait_notice.take();
        let block = block(op, slice, self.marker.expression());
        let done = self.client.batch_execute(&block);
        let (is_held, was_cancelled) = match (done, self.wait_notice.take()) {
            (Err(error), _) if self.is_over(&error) => return Err(lost(error)),
            (Ok(()), Some(report)) => {
                self.marker.answered(report.is_same_session);
                self.marker.check().map_err(Lost)?;
                (report.is_held, report.was_cancelled)
            }
            (done, _) => {
                // It came between two statements of the block, or the server cannot do it.
                let was_cancelled = done.as_ref().is_err_and(is_cancelled);
                if !was_cancelled {
                    self.parks_from = BootInstant::now() + AFTER_FAILURE;
                }
                // What it has got is given back.
                self.held_before(&[op], on_round_trip)?;
                (false, was_cancelled)
            }
        };
        self.lease.renew(started);
        let outcome = match is_held {
            true => {
                self.locks += 1;
                Outcome::Done(None)
            }
            false => Outcome::Refused,
        };
        Ok(Parked {
            outcome,
            was_cancelled,
        })
    }

    /// Has a cancel that may still come end a statement that does nothing.
    pub(crate) fn absorb_cancel(&mut self) -> Result<(), Lost> {
        let sleep = format!(
            "PERFORM pg_catalog.pg_sleep({});",
            LATE_CANCEL.as_secs_f64()
        );
        let sleep = cancellable(&sleep);
        self.persist(|client| {
            client.batch_execute(&format!("DO $$DECLARE cancelled bool; BEGIN {sleep} END$$"))
        })
    }
}

/// The statement that waits for the lock of `op`, and reports how that ended; `same_session` is an
/// expression.
fn block(op: Op, slice: Duration, same_session: &str) -> String {
    let arguments = op.key.sql();
    let (function, unlock, mode) = match op.mode {
        Mode::Exclusive => ("pg_advisory_lock", "pg_advisory_unlock", "ExclusiveLock"),
        Mode::Shared => (
            "pg_advisory_lock_shared",
            "pg_advisory_unlock_shared",
            "ShareLock",
        ),
    };
    let millis = slice.as_millis().max(1);
    // The companion, too, is waited for: the lock is free while a fenced transaction is open.
    let companion = op.drained();
    let drained = companion.sql();
    let wait = cancellable(&format!(
        "PERFORM pg_catalog.{function}({arguments}); held := true; \
         PERFORM pg_catalog.pg_advisory_lock({drained}); drained := true;"
    ));
    let is_held = |key, mode| {
        format!(
            "EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' \
             AND pid = pg_catalog.pg_backend_pid() AND granted AND {} AND mode = '{mode}')",
            is_of(key)
        )
    };
    format!(
        "DO $$DECLARE held bool := false; drained bool := false; cancelled bool := false; \
         BEGIN PERFORM pg_catalog.set_config('lock_timeout', '{millis}', true); {wait} \
         IF NOT drained THEN held := {is_key_held}; drained := held AND {is_drained}; END IF; \
         IF drained THEN PERFORM pg_catalog.pg_advisory_unlock({drained}); END IF; \
         IF held AND NOT drained THEN PERFORM pg_catalog.{unlock}({arguments}); \
         held := false; END IF; \
         RAISE INFO '{PREFIX}% % %', held, cancelled, {same_session}; END$$",
        is_key_held = is_held(op.key, mode),
        is_drained = is_held(companion, "ExclusiveLock"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_understood_or_not_believed() {
        let report = Report {
            is_held: true,
            was_cancelled: false,
            is_same_session: true,
        };
        assert_eq!(parse("t f t"), Some(report));
        for broken in ["", "t", "t f", "t f <NULL>", "true f t"] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }
}
