//! Runs batches: which statement does one, and what its answer says.

use std::collections::hash_map::Entry;

use postgres::types::ToSql;
use postgres::{Client, Row, Statement};

use super::Session;
use super::statements::{self, CHAIN, CHAINED, MOST_PAIRS, UNLOCK, branches, code, scalar};
use super::statements::{fenced_outcome, outcome_of, pairs_outcomes, plain_outcome};
use crate::op::{Action, Op, Outcome};

impl Session {
    /// The round trip of a batch. On an error `outcomes` is unchanged.
    pub(super) fn run(
        &mut self,
        batch: &[Op],
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), postgres::Error> {
        // Only the general statement can also verify the session.
        let is_verified = self.marker.is_due_in_batch();
        if self.sequence.is_some() {
            let row = self.run_batch(batch, is_verified)?;
            let answers: &str = row.try_get(0)?;
            outcomes.extend(answers.split(',').map(fenced_outcome));
        } else if !is_verified
            && let [op] = *batch
            && let Some(number) = scalar(op)
        {
            let client = &mut self.client;
            let statement = match op.action {
                Action::Unlock => prepared(&mut self.unlock, client, || UNLOCK.to_owned())?,
                _ => prepared(&mut self.lock, client, statements::lock)?,
            };
            let rows = self.client.execute(statement, &[&number])?;
            outcomes.push(outcome_of(rows == 1));
        } else if !is_verified && let Some(numbers) = numbers_of_pairs(batch) {
            let pairs = batch.len() / 2;
            let (slot, sql) = (&mut self.pairs[pairs - 1], || statements::pairs(pairs));
            let statement = prepared(slot, &mut self.client, sql)?;
            let params = numbers
                .each_ref()
                .map(|number| number as &(dyn ToSql + Sync));
            let rows = self.client.execute(statement, &params[..batch.len()])?;
            outcomes.extend(pairs_outcomes(rows, batch.len()));
        } else {
            let row = self.run_batch(batch, is_verified)?;
            let answers: &str = row.try_get(0)?;
            outcomes.extend(answers.bytes().map(plain_outcome));
        }
        Ok(())
    }

    /// The general statement's one row, with the answers to all steps.
    fn run_batch(&mut self, batch: &[Op], is_verified: bool) -> Result<Row, postgres::Error> {
        self.codes.clear();
        self.numbers.clear();
        // A chain is a step and those that are done only after it.
        for chain in batch.chunk_by(|_, op| op.action.is_next()) {
            let is_chain = chain.len() > 1;
            if is_chain {
                self.codes.push(CHAIN);
                self.numbers.push(chain.len() as i64);
            }
            let chained = if is_chain { CHAINED } else { 0 };
            self.codes.extend(chain.iter().map(|op| code(op) + chained));
            let numbers = chain.iter().map(|op| op.target().as_i64());
            self.numbers.extend(numbers);
        }
        let branches = branches(&self.codes);
        let statement = match self.batches.entry((branches, is_verified)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let sequence = self.sequence.as_ref().map(|sequence| sequence.number);
                let verified = is_verified.then(|| self.marker.expression());
                let sql = statements::batch(branches, sequence, verified);
                new.insert(self.client.prepare(&sql)?)
            }
        };
        let params: [&(dyn ToSql + Sync); 2] = [&self.codes, &self.numbers];
        let row = self.client.query_one(statement, &params)?;
        if is_verified {
            let is_the_one: Option<bool> = row.try_get(1)?;
            self.marker.answered(is_the_one == Some(true));
        }
        Ok(row)
    }
}

/// The keys of so many unlocks and as many locks after them, if that is what the batch is.
fn numbers_of_pairs(batch: &[Op]) -> Option<[i64; 2 * MOST_PAIRS]> {
    let (unlocks, locks) = batch.split_at(batch.len() / 2);
    let are = |ops: &[Op], action| ops.iter().all(|op| op.action == action);
    let mut numbers = [0; 2 * MOST_PAIRS];
    if batch.is_empty()
        || batch.len() > numbers.len()
        || unlocks.len() != locks.len()
        || !are(unlocks, Action::Unlock)
        || !are(locks, Action::Lock)
    {
        return None;
    }
    for (number, op) in numbers.iter_mut().zip(batch) {
        *number = scalar(*op)?;
    }
    Some(numbers)
}

pub(super) fn prepared<'a>(
    slot: &'a mut Option<Statement>,
    client: &mut Client,
    sql: impl FnOnce() -> String,
) -> Result<&'a Statement, postgres::Error> {
    match slot {
        Some(statement) => Ok(statement),
        None => Ok(slot.insert(client.prepare(&sql())?)),
    }
}
