//! After a failed statement: what it did, and the rest of it.

use std::collections::{HashMap, HashSet};

use postgres::error::SqlState;

use super::errors::{ATTEMPTS, draw_error, is_cancelled, is_sequence_gone, lock_error, lost};
use super::failures::{Kind, SingleSteps};
use super::sequence::Missing;
use super::statements::HELD;
use super::{Lost, OnRoundTrip, Session};
use super::{check_complete, prepared, sequence};
use crate::clock::BootInstant;
use crate::config::SequenceName;
use crate::error::Error;
use crate::key::Key;
use crate::op::Mode;
use crate::op::Outcome;
use crate::op::{Action, Op};

impl Session {
    /// After a batch that failed with `error`: finds out what it did, and does the rest step
    /// by step, so that one step's failure is its own.
    pub(super) fn recover(
        &mut self,
        batch: &[Op],
        error: &postgres::Error,
        outcomes: &mut Vec<Outcome>,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<(), Lost> {
        self.end_failed_transaction()?;
        let mut held = self.held(on_round_trip)?;
        let began = BootInstant::now();
        // In a transaction that has failed before, no step was tried.
        let untried = error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION);
        let name = self.sequence.as_ref().map(|sequence| sequence.name.clone());
        let is_found_again = match name {
            Some(name) if is_sequence_gone(error) => match self.find_again(&name) {
                Ok(()) => true,
                Err(error) => {
                    self.failures.add(batch[0], &error);
                    false
                }
            },
            _ => false,
        };
        let is_innocent = untried || is_found_again || is_cancelled(error);
        let mut answered = HashMap::new();
        for group in groups(batch, is_innocent) {
            let left: Vec<Op> = group
                .iter()
                .filter_map(|&op| self.rest_of(op, &held))
                .filter(|&step| self.failures.of(step, began).is_none())
                .collect();
            match self.run_again(&left, on_round_trip)? {
                Some(answers) => answered.extend(left.iter().map(|op| op.key).zip(answers)),
                None => held = self.held(on_round_trip)?,
            }
        }
        outcomes.clear();
        let mut without_token = Vec::new();
        let mut single_steps = SingleSteps::new();
        for &op in batch {
            let outcome = match (answered.remove(&op.key), self.rest_of(op, &held)) {
                (Some(answer), _) => answer,
                (None, None) => Outcome::Done(None),
                (None, Some(unlock)) if unlock.action == Action::Unlock => {
                    self.retry(unlock, on_round_trip)?
                }
                (None, Some(step)) => {
                    let known = match self.failures.of(step, began) {
                        Some(error) => Err(error),
                        None => single_steps.count(),
                    };
                    match known {
                        Err(error) => {
                            if step.action != op.action {
                                without_token.push(op);
                            }
                            Outcome::Failed(error)
                        }
                        Ok(()) => {
                            let outcome = match step.action == op.action {
                                true => self.retry(step, on_round_trip)?,
                                false => self.complete(op, step, on_round_trip)?,
                            };
                            if let Outcome::Failed(error) = &outcome {
                                self.failures.add(op, error);
                            }
                            outcome
                        }
                    }
                }
            };
            outcomes.push(outcome);
        }
        self.give_all_back(&without_token, on_round_trip)
    }

    /// Gives back locks that the session holds and nobody gets, for want of a token.
    fn give_all_back(&mut self, locks: &[Op], on_round_trip: OnRoundTrip<'_>) -> Result<(), Lost> {
        let action = Action::Unlock;
        let unlocks: Vec<Op> = locks.iter().map(|&lock| Op { action, ..lock }).collect();
        let done = match self.run_again(&unlocks, on_round_trip)? {
            Some(outcomes) => outcomes,
            None => unlocks
                .iter()
                .map(|&unlock| self.retry(unlock, on_round_trip))
                .collect::<Result<_, _>>()?,
        };
        if done
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Done(_)))
        {
            return Ok(());
        }
        Err(not_held())
    }

    /// Looks the sequence up that was dropped: somebody may have made it anew.
    fn find_again(&mut self, name: &SequenceName) -> Result<(), Error> {
        let found = sequence::find_or_make(&mut self.client, name, Missing::Refuse)?;
        self.sequence = Some(found);
        self.batches.clear();
        Ok(())
    }

    /// What is left to do of a step.
    fn rest_of(&self, op: Op, held: &HashSet<(Key, Mode)>) -> Option<Op> {
        let action = match op.action {
            action if !is_done(op, held) => action,
            Action::Lock if self.sequence.is_some() => Action::Draw,
            Action::Lock | Action::Unlock | Action::Draw => return None,
        };
        Some(Op { action, ..op })
    }

    /// Some steps in one round trip. `None` if that failed, too.
    fn run_again(
        &mut self,
        rest: &[Op],
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<Option<Vec<Outcome>>, Lost> {
        let mut outcomes = Vec::with_capacity(rest.len());
        if !rest.is_empty() && self.attempt(rest, &mut outcomes, on_round_trip)?.is_err() {
            return Ok(None);
        }
        check_complete(rest, &outcomes)?;
        Ok(Some(outcomes))
    }

    /// One round trip. Its failure counts as the server's answer, unless the session is gone.
    fn attempt(
        &mut self,
        steps: &[Op],
        outcomes: &mut Vec<Outcome>,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<Result<(), postgres::Error>, Lost> {
        if self.lease.ended().is_some() {
            return Err(Lost(Error::unavailable(
                "the lease expired while the session recovered from an error",
            )));
        }
        on_round_trip();
        let started = BootInstant::now();
        match self.run(steps, outcomes) {
            Err(error) if self.is_over(&error) => Err(lost(error)),
            answered => {
                self.marker.check().map_err(Lost)?;
                self.lease.renew(started);
                Ok(answered)
            }
        }
    }

    /// One step. If it fails, it has no effect.
    fn retry(&mut self, op: Op, on_round_trip: OnRoundTrip<'_>) -> Result<Outcome, Lost> {
        let mut said = Vec::with_capacity(1);
        for attempt in 1.. {
            let Err(error) = self.attempt(&[op], &mut said, on_round_trip)? else {
                if op.action == Action::Unlock && attempt > 1 {
                    // If there was nothing to give back, an attempt before had done it.
                    return Ok(Outcome::Done(None));
                }
                break;
            };
            let may_retry = attempt < ATTEMPTS;
            match op.action {
                Action::Unlock if may_retry => {}
                // A lock that cannot be given back goes with the session.
                Action::Unlock => return Err(lost(error)),
                Action::Draw if may_retry && is_cancelled(&error) => {}
                Action::Draw => return Ok(Outcome::Failed(draw_error(error))),
                Action::Lock => {
                    // The lock may have been taken before the statement failed.
                    let taken = self.give_back(op, on_round_trip)?;
                    if may_retry && is_cancelled(&error) {
                        continue;
                    }
                    return Ok(Outcome::Failed(if taken && self.sequence.is_some() {
                        draw_error(error)
                    } else {
                        lock_error(error)
                    }));
                }
            }
        }
        said.pop().ok_or_else(|| {
            Lost(Error::unavailable(
                "the server has not answered to the only step it was given",
            ))
        })
    }

    /// Takes `lock` back, if it was taken: was it?
    fn give_back(&mut self, lock: Op, on_round_trip: OnRoundTrip<'_>) -> Result<bool, Lost> {
        let action = Action::Unlock;
        let outcome = self.retry(Op { action, ..lock }, on_round_trip)?;
        Ok(matches!(outcome, Outcome::Done(_)))
    }

    /// Draws the token of a lock that a failed batch has taken.
    fn complete(
        &mut self,
        lock: Op,
        draw: Op,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<Outcome, Lost> {
        let outcome = self.retry(draw, on_round_trip)?;
        if let Outcome::Failed(_) = outcome
            && !self.give_back(lock, on_round_trip)?
        {
            return Err(not_held());
        }
        Ok(outcome)
    }

    /// What the session holds, by the server's own account.
    fn held(&mut self, on_round_trip: OnRoundTrip<'_>) -> Result<HashSet<(Key, Mode)>, Lost> {
        for attempt in 1.. {
            on_round_trip();
            let started = BootInstant::now();
            let rows = prepared(&mut self.held, &mut self.client, HELD)
                .cloned()
                .and_then(|statement| self.client.query(&statement, &[]));
            match rows {
                Ok(rows) => {
                    self.lease.renew(started);
                    let held: HashSet<_> = rows
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
                        .map_err(lost)?;
                    if !held.contains(&(self.marker.key(), Mode::Exclusive)) {
                        return Err(Lost(Error::unavailable(
                            "the session has lost the lock that it keeps for its life",
                        )));
                    }
                    return Ok(held);
                }
                Err(error) if attempt < ATTEMPTS && !self.is_over(&error) => {}
                Err(error) => return Err(lost(error)),
            }
        }
        unreachable!("the loop returns")
    }
}

/// What of a batch goes again together, because it fails together. All of it where nothing is
/// wrong with any step; else first what gives locks back, and then, if there is more than one,
/// what calls the same function, so that one that cannot be called is no other's failure. The
/// rest is for one step at a time.
fn groups(batch: &[Op], is_innocent: bool) -> Vec<Vec<Op>> {
    if is_innocent {
        return vec![batch.to_vec()];
    }
    let mut groups: Vec<(Option<Kind>, Vec<Op>)> = Vec::new();
    for &op in batch {
        let kind = (op.action != Action::Unlock).then(|| Kind::function(op));
        match groups.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, group)) => group.push(op),
            None => groups.push((kind, vec![op])),
        }
    }
    let kinds = groups.iter().filter(|(kind, _)| kind.is_some()).count();
    groups.retain(|(kind, group)| kind.is_none() || (kinds > 1 && group.len() > 1));
    groups.into_iter().map(|(_, group)| group).collect()
}

fn not_held() -> Lost {
    Lost(Error::unavailable(
        "the session did not hold a lock that it had just taken",
    ))
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
