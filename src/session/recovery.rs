//! After a failed statement: what it did, and the rest of it.

use std::collections::HashSet;

use postgres::error::SqlState;

use super::sql::{END, HELD};
use super::{ATTEMPTS, Beat, Lost, Outcome, Session, fence, is_cancelled, lost, prepared};
use crate::clock;
use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::request::Mode;
use crate::table::{Action, Op};

impl Session {
    /// After a failed batch: finds out what it did, then does the rest step by step,
    /// so that one step's failure is its own.
    pub(super) fn recover(
        &mut self,
        batch: &[Op],
        outcomes: &mut Vec<Outcome>,
        beat: Beat<'_>,
    ) -> Result<(), Lost> {
        outcomes.clear();
        if self.transaction.take().is_some() {
            // It has failed with the statement.
            self.persist(|client| client.batch_execute(END))?;
        }
        let held = self.held(beat)?;
        for &op in batch {
            let outcome = if !is_done(op, &held) {
                self.retry(op, beat)?
            } else if self.fenced && op.action == Action::Lock {
                self.draw(op, beat)?
            } else {
                Outcome::Done(None)
            };
            outcomes.push(outcome);
        }
        Ok(())
    }

    fn retry(&mut self, op: Op, beat: Beat<'_>) -> Result<Outcome, Lost> {
        let mut said = Vec::with_capacity(1);
        for attempt in 1.. {
            let started = clock::now();
            beat();
            let error = match self.run(&[op], &mut said) {
                Ok(()) => {
                    self.renew(started);
                    break;
                }
                Err(error) if self.is_gone(&error) => return Err(lost(error)),
                Err(error) => error,
            };
            if is_done(op, &self.held(beat)?) {
                return if self.fenced && op.action == Action::Lock {
                    self.draw(op, beat)
                } else {
                    Ok(Outcome::Done(None))
                };
            }
            if attempt < ATTEMPTS && is_cancelled(&error) {
                continue;
            }
            return match op.action {
                Action::Lock => Ok(Outcome::Failed(lock_error(error))),
                Action::Draw => Ok(Outcome::Failed(fence::draw_error(error))),
                // A lock that cannot be given back goes with the session.
                Action::Unlock => Err(lost(error)),
            };
        }
        Ok(said.pop().expect("one step has one outcome"))
    }

    /// After `lock` has left the lock behind, but not its token.
    fn draw(&mut self, lock: Op, beat: Beat<'_>) -> Result<Outcome, Lost> {
        let step = |action| Op { action, ..lock };
        let outcome = self.retry(step(Action::Draw), beat)?;
        if let Outcome::Failed(_) = outcome
            && !matches!(self.retry(step(Action::Unlock), beat)?, Outcome::Done(_))
        {
            return Err(Lost(Error::unavailable(
                "the session did not hold a lock that it had just taken",
            )));
        }
        Ok(outcome)
    }

    /// What the session holds, by the server's own account.
    fn held(&mut self, beat: Beat<'_>) -> Result<HashSet<(Key, Mode)>, Lost> {
        for attempt in 1.. {
            beat();
            let rows = prepared(&mut self.held, &mut self.client, HELD)
                .cloned()
                .and_then(|statement| self.client.query(&statement, &[]));
            match rows {
                Ok(rows) => {
                    return rows
                        .iter()
                        .map(|row| {
                            let key = Key::from_server(row.try_get(0)?, row.try_get(1)?);
                            let mode = match row.try_get(2)? {
                                true => Mode::Exclusive,
                                false => Mode::Shared,
                            };
                            Ok((key, mode))
                        })
                        .collect::<Result<_, postgres::Error>>()
                        .map_err(lost);
                }
                Err(error) if attempt < ATTEMPTS && !self.is_gone(&error) => {}
                Err(error) => return Err(lost(error)),
            }
        }
        unreachable!("the loop returns")
    }
}

fn is_done(op: Op, held: &HashSet<(Key, Mode)>) -> bool {
    let held = held.contains(&(op.key, op.mode));
    match op.action {
        Action::Lock => held,
        Action::Unlock => !held,
        // A token that was drawn and did not arrive is lost.
        Action::Draw => false,
    }
}

fn lock_error(error: postgres::Error) -> Error {
    if error.code() == Some(&SqlState::OUT_OF_MEMORY) {
        Error::new(
            ErrorKind::LockTableFull,
            "the server's lock table is full; raise max_locks_per_transaction",
        )
        .caused_by(error)
    } else {
        Error::new(ErrorKind::Database, "the server could not take the lock").caused_by(error)
    }
}
