//! The transaction that is open while many locks are held, or a hold is fenced.
//!
//! A statement outside of a transaction ends with a walk over all locks of the session
//! (`LockReleaseAll` in PostgreSQL's `lock.c`), so its cost would grow with them.
//!
//! A session that ends releases its locks in no particular order. So a lock of the session cannot
//! show others that the rest is still held; a lock of its transaction can, because the server ends
//! the transaction first (`ShutdownPostgres` in PostgreSQL's `postinit.c`). While a hold is fenced
//! the transaction has such a lock, its mark, but for the moments in which it is renewed.

use std::time::Duration;

use super::errors::{ATTEMPTS, is_cancelled, lost};
use super::statements::{BEGIN, END, LOG, RENEW};
use super::{Lost, OnRoundTrip, Session};
use crate::clock::BootInstant;
use crate::fence::mark;
use crate::op::{Action, Op};

/// The number of locks from which on a transaction is opened, and the one below which it ends.
const MANY: usize = 256;
const FEW: usize = MANY / 2;

/// Its maximum age: below what monitors of idle transactions report.
const MAX_AGE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Transaction {
    /// When the open one began.
    begun: Option<BootInstant>,
    is_marked: bool,
}

/// What a session has that needs a transaction.
#[derive(Clone, Copy)]
struct Needs {
    locks: usize,
    fences: usize,
    /// True if what it has done has to be durable now.
    durable: bool,
}

impl Transaction {
    pub(super) fn begun(&self) -> Option<BootInstant> {
        self.begun
    }

    /// Notes that it ends. Returns when it began.
    pub(super) fn take(&mut self) -> Option<BootInstant> {
        std::mem::take(self).begun
    }

    /// The command that is due at `now`.
    fn due(&self, needs: Needs, now: BootInstant) -> Option<&'static str> {
        let is_fenced = needs.fences > 0;
        let Some(begun) = self.begun else {
            return (needs.locks >= MANY || is_fenced).then_some(BEGIN);
        };
        let is_old = now.saturating_duration_since(begun) >= MAX_AGE;
        match needs.locks < FEW && !is_fenced {
            // Another fence may follow soon.
            true if self.is_marked && !is_old => needs.durable.then_some(RENEW),
            true => Some(END),
            false => (is_old || needs.durable || is_fenced && !self.is_marked).then_some(RENEW),
        }
    }

    /// The one that is open at `now`, after `command`.
    fn after(command: &str, is_marked: bool, now: BootInstant) -> Transaction {
        match command {
            END => Transaction::default(),
            _ => Transaction {
                begun: Some(now),
                is_marked,
            },
        }
    }
}

impl Session {
    /// Opens, renews or ends the transaction if that is due after `batch`.
    pub(super) fn update_transaction(
        &mut self,
        batch: &[Op],
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<(), Lost> {
        let draws =
            |op: &Op| op.action.is_lock() || matches!(op.action, Action::Draw | Action::Upgrade(_));
        // Tokens must survive a crash, and the commit is what makes them durable.
        let has_tokens = self.sequence.is_some();
        let needs = Needs {
            locks: if has_tokens { 0 } else { self.locks },
            fences: self.fences.len(),
            durable: has_tokens && batch.iter().any(draws),
        };
        let Some(command) = self.transaction.due(needs, BootInstant::now()) else {
            return Ok(());
        };
        let is_marked = command != END && !self.fences.is_empty();
        if self
            .change_transaction(command, is_marked, on_round_trip)?
            .is_some()
            && needs.durable
        {
            // It may have been rolled back.
            on_round_trip();
            self.persist(|client| client.batch_execute(LOG))?;
        }
        // What failed is due again after the next exchange.
        Ok(())
    }

    /// Before the first hold of `batch` is fenced, opens a transaction with its mark. `Some`: the
    /// server does not do it.
    pub(super) fn mark_for_fences(
        &mut self,
        batch: &[Op],
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<Option<postgres::Error>, Lost> {
        let is_fence = |op: &Op| matches!(op.action, Action::Fence(_));
        if self.transaction.is_marked || !batch.iter().any(is_fence) {
            return Ok(None);
        }
        let mut attempt = 1;
        loop {
            let command = self.transaction.begun.map_or(BEGIN, |_| RENEW);
            match self.change_transaction(command, true, on_round_trip)? {
                Some(error) if attempt < ATTEMPTS && is_cancelled(&error) => attempt += 1,
                done => return Ok(done),
            }
        }
    }

    /// Runs `command`, and gives the transaction that is open afterwards its mark, if it
    /// `is_marked`. `Some`: that failed, and no transaction is open; what was not committed before
    /// is rolled back.
    fn change_transaction(
        &mut self,
        command: &str,
        is_marked: bool,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<Option<postgres::Error>, Lost> {
        on_round_trip();
        let now = BootInstant::now();
        let statements = match is_marked {
            true => format!("{command}; {}", mark(self.marker.number())),
            false => command.to_owned(),
        };
        match self.client.batch_execute(&statements) {
            Ok(()) => {
                self.lease.renew(now);
                self.transaction = Transaction::after(command, is_marked, now);
                Ok(None)
            }
            Err(error) if self.is_over(&error) => Err(lost(error)),
            Err(error) => {
                self.transaction = Transaction::default();
                self.persist(|client| client.batch_execute(END))?;
                Ok(Some(error))
            }
        }
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

    const NONE: Transaction = Transaction {
        begun: None,
        is_marked: false,
    };

    fn open(begun: BootInstant, is_marked: bool) -> Transaction {
        Transaction {
            begun: Some(begun),
            is_marked,
        }
    }

    fn needs(locks: usize, fences: usize) -> Needs {
        Needs {
            locks,
            fences,
            durable: false,
        }
    }

    #[test]
    fn many_locks_open_it_few_end_it_and_in_between_it_is_renewed() {
        let now = BootInstant::now();
        let open = open(now, false);
        assert_eq!(NONE.due(needs(MANY - 1, 0), now), None);
        assert_eq!(NONE.due(needs(MANY, 0), now), Some(BEGIN));
        assert_eq!(open.due(needs(FEW, 0), now), None);
        assert_eq!(open.due(needs(FEW - 1, 0), now), Some(END));
        assert_eq!(open.due(needs(MANY, 0), now + MAX_AGE), Some(RENEW));
    }

    #[test]
    fn it_is_marked_while_a_hold_is_fenced_and_a_moment_longer() {
        let now = BootInstant::now();
        let later = now + MAX_AGE;
        assert_eq!(NONE.due(needs(1, 1), now), Some(BEGIN));
        assert_eq!(open(now, false).due(needs(MANY, 1), now), Some(RENEW));
        let marked = open(now, true);
        assert_eq!(marked.due(needs(1, 1), now), None);
        assert_eq!(marked.due(needs(1, 1), later), Some(RENEW));
        assert_eq!(marked.due(needs(1, 0), now), None);
        assert_eq!(marked.due(needs(1, 0), later), Some(END));
    }

    #[test]
    fn what_has_to_be_durable_is_committed_at_once() {
        let now = BootInstant::now();
        for fences in [0, 1] {
            let needs = Needs {
                durable: true,
                ..needs(0, fences)
            };
            assert_eq!(open(now, true).due(needs, now), Some(RENEW));
        }
    }
}
