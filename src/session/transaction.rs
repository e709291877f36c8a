//! The transaction that is open while many locks are held.
//!
//! A statement outside of a transaction ends with a walk over all locks of the session
//! (`LockReleaseAll` in PostgreSQL's `lock.c`), so its cost would grow with them.

use std::time::Duration;

use super::statements::{BEGIN, END, RENEW};
use super::{Lost, OnRoundTrip, Session};
use crate::clock::BootInstant;

/// The number of locks from which on a transaction is opened, and the one below which it ends.
const MANY: usize = 256;
const FEW: usize = MANY / 2;

/// Its maximum age: below what monitors of idle transactions report.
const MAX_AGE: Duration = Duration::from_secs(1);

/// When the open transaction began, if there is one.
#[derive(Default)]
pub(super) struct Transaction(Option<BootInstant>);

impl Transaction {
    pub(super) fn begun(&self) -> Option<BootInstant> {
        self.0
    }

    /// Notes that it ends. Returns when it began.
    pub(super) fn take(&mut self) -> Option<BootInstant> {
        self.0.take()
    }

    /// The command that is due at `now` with so many `locks`, and the begin of the transaction that
    /// is open after it.
    fn due(&self, locks: usize, now: BootInstant) -> Option<(&'static str, Option<BootInstant>)> {
        match self.0 {
            None if locks >= MANY => Some((BEGIN, Some(now))),
            Some(_) if locks < FEW => Some((END, None)),
            Some(begun) if now.saturating_duration_since(begun) >= MAX_AGE => {
                Some((RENEW, Some(now)))
            }
            _ => None,
        }
    }
}

impl Session {
    /// Opens, renews or ends the transaction if that is due. Not with fencing: tokens must survive
    /// a crash, and the commit is what makes them durable.
    pub(super) fn update_transaction(
        &mut self,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<(), Lost> {
        if self.sequence.is_some() {
            return Ok(());
        }
        let Some((command, begun)) = self.transaction.due(self.locks, BootInstant::now()) else {
            return Ok(());
        };
        on_round_trip();
        self.persist(|client| client.batch_execute(command))?;
        self.transaction = Transaction(begun);
        Ok(())
    }

    /// Ends the transaction, if there is one, after a statement has failed, and the transaction
    /// with it.
    pub(super) fn end_failed_transaction(&mut self) -> Result<(), Lost> {
        match self.transaction.take() {
            Some(_) => self.persist(|client| client.batch_execute(END)),
            None => Ok(()),
        }
    }

    /// The maximum age of the open transaction, if there is one.
    pub(crate) fn transaction_limit(&self) -> Option<Duration> {
        self.transaction.begun().map(|_| MAX_AGE)
    }
}

#[cfg(all(test, not(distlock_model)))]
mod tests {
    use super::*;

    #[test]
    fn many_locks_open_it_few_end_it_and_in_between_it_is_renewed() {
        let now = BootInstant::now();
        let (none, open) = (Transaction(None), Transaction(Some(now)));
        assert_eq!(none.due(MANY - 1, now), None);
        assert_eq!(none.due(MANY, now), Some((BEGIN, Some(now))));
        assert_eq!(open.due(FEW, now), None);
        assert_eq!(open.due(FEW - 1, now), Some((END, None)));
        let later = now + MAX_AGE;
        assert_eq!(open.due(MANY, later), Some((RENEW, Some(later))));
    }
}
