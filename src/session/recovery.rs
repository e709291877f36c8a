//! Recovery after a failed statement: finds out what it did, and does the rest.

use std::collections::{HashMap, HashSet};

use postgres::error::SqlState;

use super::errors::{ATTEMPTS, full, is_cancelled, is_sequence_gone, lost};
use super::errors::{draw_error, lock_error};
use super::failures::{Kind, SingleSteps};
use super::run::prepared;
use super::sequence::Missing;
use super::statements::HELD;
use super::{Lost, OnRoundTrip, Session};
use super::{check_complete, sequence, unbroken};
use crate::clock::BootInstant;
use crate::config::SequenceName;
use crate::error::Error;
use crate::key::Key;
use crate::op::Mode;
use crate::op::Outcome;
use crate::op::{Action, Op};

/// The locks that a session holds.
pub(super) type Held = HashSet<(Key, Mode)>;

impl Session {
    /// Finds out what a batch that failed with `error` did, and does the rest in groups and step by
    /// step, so that one step's failure is not another's.
    pub(super) fn recover(
        &mut self,
        batch: &[Op],
        error: &postgres::Error,
        outcomes: &mut Vec<Outcome>,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<(), Lost> {
        // A lock that was to be taken again is given back as well, if it was not before.
        let take_again = |&op: &Op| match op.action {
            Action::Relock => Op {
                action: Action::LockUnawaited,
                ..op
            },
            _ => op,
        };
        let batch: &[Op] = &batch.iter().map(take_again).collect::<Vec<_>>();
        let (mut held, mut taken) = self.held_before(batch, on_round_trip)?;
        if full(error).is_some() {
            // The last one leaves room for the companions, of which each needs one for a moment.
            taken.pop();
        }
        if let Some(&op) = batch.iter().find(|op| !is_retried(op.action))
            && let Some(error) = full(error)
        {
            self.failures.add(op, &error);
        }
        let began = BootInstant::now();
        // In a transaction that had failed already, no step was tried.
        let untried = error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION);
        let name = self.sequence.as_ref().map(|sequence| sequence.name.clone());
        let is_found_again = match name {
            Some(name) if is_sequence_gone(error) => match self.find_again(&name, on_round_trip) {
                Ok(()) => true,
                Err(error) => {
                    self.failures.add(batch[0], &error);
                    false
                }
            },
            _ => false,
        };
        let retry_whole = untried || is_found_again || is_cancelled(error);
        let mut answered = HashMap::new();
        // What could be done before can be done again, whatever is to become of the rest.
        let groups = groups(batch, retry_whole);
        for group in [taken].into_iter().chain(groups) {
            let left = unbroken(&group, |&op| {
                is_retried(op.action)
                    && !is_done(op, &held)
                    && !answered.contains_key(&op.target())
                    && self.failures.of(op, began).is_none()
            });
            match self.run_again(&left, on_round_trip)? {
                Some(answers) => answered.extend(left.iter().map(|op| op.target()).zip(answers)),
                None => (held, _) = self.held_before(&left, on_round_trip)?,
            }
        }
        outcomes.clear();
        let mut single_steps = SingleSteps::new();
        for &op in batch {
            let outcome = match answered.remove(&op.target()) {
                Some(answer) => answer,
                // What comes after it was not tried with it.
                None if op.action.is_next() => Outcome::Skipped,
                None if op.action.is_change() => self.change_again(op, &held, on_round_trip)?,
                None if !is_retried(op.action) || is_done(op, &held) => without_retry(op, &held),
                None if op.action.is_unlock() => self.retry(op, on_round_trip)?,
                None => {
                    let known = match self.failures.of(op, began) {
                        Some(error) => Err(error),
                        None => single_steps.count(),
                    };
                    match known {
                        Err(error) => Outcome::Failed(error),
                        Ok(()) => {
                            let outcome = self.retry(op, on_round_trip)?;
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
        Ok(())
    }

    /// What the session holds once its failed transaction has ended, but for what the failed `batch`
    /// has taken, which is given back: locks, because it is not known whether they were drained, and
    /// the companions that it took for a moment to find that out. Also returns the steps that had
    /// taken a lock.
    pub(super) fn held_before(
        &mut self,
        batch: &[Op],
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<(Held, Vec<Op>), Lost> {
        if self.transaction.begun().is_some() {
            on_round_trip();
            self.end_failed_transaction()?;
        }
        let mut held = self.held(on_round_trip)?;
        let is_taken = |op: &&Op| op.action.is_lock() && is_done(**op, &held);
        let taken = batch.iter().filter(is_taken);
        let taken: Vec<Op> = taken.copied().collect();
        let companions = batch.iter().flat_map(|op| [op.key.waiters(), op.drained()]);
        let locks = companions
            .map(|key| (key, Mode::Exclusive))
            .chain(taken.iter().map(|op| (op.key, op.mode)));
        let action = Action::Unlock;
        let back: Vec<Op> = locks
            .filter(|lock| held.remove(lock))
            .map(|(key, mode)| Op { key, mode, action })
            .collect();
        self.release_all(&back, on_round_trip)?;
        Ok((held, taken))
    }

    /// Releases locks that the session holds but no caller gets.
    pub(super) fn release_all(
        &mut self,
        locks: &[Op],
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<(), Lost> {
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

    /// Looks up the dropped sequence again: it may have been recreated.
    fn find_again(
        &mut self,
        name: &SequenceName,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<(), Error> {
        on_round_trip();
        let found = sequence::find_or_make(&mut self.client, name, Missing::Refuse)?;
        self.sequence = Some(found);
        self.batches.clear();
        self.picks.clear();
        Ok(())
    }

    /// Does `rest` in one round trip. `None` if that failed, too.
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

    /// One round trip. The inner error is a failed statement, the outer one a lost session.
    pub(super) fn attempt(
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

    /// Does one step, with retries. If it fails, it has no effect.
    fn retry(&mut self, op: Op, on_round_trip: OnRoundTrip<'_>) -> Result<Outcome, Lost> {
        let mut outcomes = Vec::with_capacity(1);
        for attempt in 1.. {
            let Err(error) = self.attempt(&[op], &mut outcomes, on_round_trip)? else {
                if op.action.is_unlock() && attempt > 1 {
                    // If there was nothing to release, an earlier attempt had done it.
                    return Ok(Outcome::Done(None));
                }
                break;
            };
            let may_retry = attempt < ATTEMPTS;
            match op.action {
                action if action.is_unlock() && may_retry => {}
                // A lock that cannot be released is freed with the session.
                Action::Unlock | Action::Withdraw | Action::Unfence(_) => return Err(lost(error)),
                Action::Relock
                | Action::Announce
                | Action::Check
                | Action::Upgrade(_)
                | Action::Downgrade(_)
                | Action::LockNext
                | Action::LockNextUnawaited => {
                    unreachable!("it is not retried as it is")
                }
                Action::Draw if may_retry && is_cancelled(&error) => {}
                Action::Draw => return Ok(Outcome::Failed(draw_error(error))),
                Action::Lock | Action::LockUnawaited | Action::Fence(_) => {
                    // The lock may have been taken before the statement failed.
                    let taken = self.undo_lock(op, on_round_trip)?;
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
        outcomes.pop().ok_or_else(|| {
            Lost(Error::unavailable(
                "the server did not answer the only step of a statement",
            ))
        })
    }

    /// Releases `lock` if it was taken. True if it was.
    fn undo_lock(&mut self, lock: Op, on_round_trip: OnRoundTrip<'_>) -> Result<bool, Lost> {
        let action = match lock.action {
            Action::Fence(hold) => Action::Unfence(hold),
            _ => Action::Unlock,
        };
        let outcome = self.retry(Op { action, ..lock }, on_round_trip)?;
        Ok(matches!(outcome, Outcome::Done(_)))
    }

    /// What the session holds, according to the server.
    pub(super) fn held(&mut self, on_round_trip: OnRoundTrip<'_>) -> Result<Held, Lost> {
        for attempt in 1.. {
            on_round_trip();
            let started = BootInstant::now();
            let rows = prepared(&mut self.held, &mut self.client, || HELD.to_owned())
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
                            "the session no longer holds its marker lock",
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

/// The steps of a batch that are retried together, because they fail together. All of it if no step
/// is at fault; otherwise the unlocks and, if there is more than one function to call, the steps
/// that call the same one, so that a function that cannot be called does not fail the others. The
/// other steps are tried one at a time, but for those that depend on another one.
fn groups(batch: &[Op], retry_whole: bool) -> Vec<Vec<Op>> {
    if retry_whole {
        return vec![batch.to_vec()];
    }
    let mut groups: Vec<(Option<Kind>, Vec<Op>)> = Vec::new();
    for &op in batch.iter().filter(|op| !op.action.is_next()) {
        let kind = (!op.action.is_unlock()).then(|| Kind::function(op));
        match groups.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, group)) => group.push(op),
            None => groups.push((kind, vec![op])),
        }
    }
    let kinds = groups.iter().filter(|(kind, _)| kind.is_some()).count();
    groups.retain(|(kind, group)| kind.is_none() || (kinds > 1 && group.len() > 1));
    groups.into_iter().map(|(_, group)| group).collect()
}

pub(super) fn not_held() -> Lost {
    Lost(Error::unavailable(
        "the session did not hold a lock that it had just taken",
    ))
}

/// False for steps that need not be done after an error.
fn is_retried(action: Action) -> bool {
    !matches!(action, Action::Announce | Action::Check) && !action.is_change()
}

/// The outcome of a step that has been done, or that failed and is not retried.
fn without_retry(op: Op, held: &Held) -> Outcome {
    match op.action {
        // It is not known whether anybody waits: as if so.
        Action::Check => Outcome::Refused,
        _ if is_done(op, held) => Outcome::Done(None),
        _ => Outcome::Refused,
    }
}

fn is_done(op: Op, held: &Held) -> bool {
    let is_held = |mode| held.contains(&(op.target(), mode));
    match op.action {
        Action::Lock
        | Action::LockUnawaited
        | Action::LockNext
        | Action::LockNextUnawaited
        | Action::Relock
        | Action::Fence(_) => is_held(op.mode),
        Action::Unlock | Action::Unfence(_) => !is_held(op.mode),
        Action::Announce => is_held(Mode::Shared),
        Action::Withdraw => !is_held(Mode::Shared),
        // A token that was drawn and did not arrive is lost; a check has no lasting effect. Changes
        // of a mode are looked at by themselves.
        Action::Draw | Action::Check | Action::Upgrade(_) | Action::Downgrade(_) => false,
    }
}
