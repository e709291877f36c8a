//! What becomes of a change of a hold's mode after an error.

use super::errors::{lock_error, lost};
use super::recovery::{Held, not_held};
use super::{Lost, OnRoundTrip, Session, check_complete};
use crate::op::{Action, Mode, Op, Outcome};

impl Session {
    /// Finds out what became of a change of a hold's mode, and tries it once more.
    pub(super) fn change_again(
        &mut self,
        op: Op,
        held: &Held,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<Outcome, Lost> {
        let is_exclusive = self.settle_mode(op, held, on_round_trip)?;
        match (op.action, is_exclusive) {
            (Action::Downgrade(_), false) => return Ok(Outcome::Done(None)),
            (Action::Upgrade(_), true) => {
                // Without the token of the exclusive lock.
                let action = Action::Downgrade(0);
                let (back, _) = self.change(Op { action, ..op }, on_round_trip)?;
                back.map_err(lost)?;
            }
            (_, _) => {}
        }
        let (done, is_exclusive) = self.change(op, on_round_trip)?;
        Ok(match done {
            Ok(outcome) => outcome,
            // It was done, and only its token is missing.
            Err(error) if is_exclusive && matches!(op.action, Action::Upgrade(_)) => {
                return Err(lost(error));
            }
            Err(error) => Outcome::Failed(lock_error(error)),
        })
    }

    /// Changes a mode. After an error, whether the hold is an exclusive one.
    fn change(
        &mut self,
        op: Op,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<(Result<Outcome, postgres::Error>, bool), Lost> {
        let mut outcomes = Vec::with_capacity(1);
        if let Err(error) = self.attempt(&[op], &mut outcomes, on_round_trip)? {
            let (held, _) = self.held_before(&[op], on_round_trip)?;
            return Ok((Err(error), self.settle_mode(op, &held, on_round_trip)?));
        }
        check_complete(&[op], &outcomes)?;
        Ok((Ok(outcomes.remove(0)), false))
    }

    /// A hold has one mode afterwards: a share if it has both. True if it is exclusive.
    fn settle_mode(
        &mut self,
        op: Op,
        held: &Held,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<bool, Lost> {
        let mode = Mode::Exclusive;
        match [mode, Mode::Shared].map(|mode| held.contains(&(op.key, mode))) {
            [true, true] => {
                self.release_all(&[Op { mode, ..op }], on_round_trip)?;
                Ok(false)
            }
            [true, false] => Ok(true),
            [false, true] => Ok(false),
            [false, false] => Err(not_held()),
        }
    }
}
