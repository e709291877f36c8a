//! Ties transactions to holds, of one guard or of several.

use std::thread;

use postgres::error::SqlState;
use postgres::{GenericClient, SimpleQueryMessage};

use super::Guard;
use crate::error::{Error, ErrorKind};
use crate::fence::{self, Fence, PAUSES, Verdict};
use crate::session::errors::full;

/// Ties `transaction` to the holds of `guards`, which are at least one, of one manager.
pub(super) fn fence(guards: &[&Guard], transaction: &mut impl GenericClient) -> Result<(), Error> {
    let statement = fence::statement(&fences(guards)?);
    let mut verdict = ask(transaction, &statement, guards.len())?;
    for pause in PAUSES {
        if verdict == Verdict::Unknown {
            thread::sleep(pause);
            verdict = ask(transaction, &statement, guards.len())?;
        }
    }
    // A release meanwhile was too early for the transaction to be told.
    if let Some(ended) = guards.iter().find_map(|guard| guard.ended()) {
        return Err(Error::ended(ended));
    }
    match verdict {
        Verdict::Fenced => Ok(()),
        Verdict::Over => Err(Error::new(
            ErrorKind::Lost,
            "the lock is no longer held, or the transaction is of another database",
        )),
        Verdict::NoTransaction => Err(Error::new(
            ErrorKind::NoTransaction,
            "there is no open transaction to fence: it would end with its next statement",
        )),
        Verdict::Unknown => Err(Error::unavailable(
            "the manager's session could not be seen to live",
        )),
    }
}

/// The statement that does so.
pub(super) fn sql(guards: &[&Guard]) -> Result<String, Error> {
    Ok(fence::sql(&fences(guards)?))
}

/// The fences, which the server is told of when they are first needed.
fn fences(guards: &[&Guard]) -> Result<Vec<Fence>, Error> {
    if let Some(ended) = guards.iter().find_map(|guard| guard.ended()) {
        return Err(Error::ended(ended));
    }
    let new = guards.iter().filter(|guard| guard.fence.get().is_none());
    let new: Vec<_> = new.collect();
    if let [first, ..] = new[..] {
        let grants = new.iter().map(|guard| guard.grant.clone()).collect();
        let fences = first.handle.fence(grants).map_err(|error| {
            let ended = guards.iter().find_map(|guard| guard.ended());
            ended.map_or(error, Error::ended)
        })?;
        for (guard, fence) in new.iter().zip(fences) {
            // Another thread may have been first: both hold.
            guard.fence.set(Box::new(fence)).ok();
        }
    }
    Ok(guards
        .iter()
        .filter_map(|guard| guard.fence.get().map(|fence| **fence))
        .collect())
}

/// Runs the `statement` of so many fences.
fn ask(
    transaction: &mut impl GenericClient,
    statement: &str,
    fences: usize,
) -> Result<Verdict, Error> {
    let answers = transaction.simple_query(statement).map_err(fence_failed)?;
    let words = answers.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0)),
        _ => None,
    });
    let verdicts: Vec<_> = words.map(Verdict::of).collect();
    if verdicts.len() != fences {
        return Ok(Verdict::Unknown);
    }
    let refusal = verdicts.into_iter().find(|&it| it != Verdict::Fenced);
    Ok(refusal.unwrap_or(Verdict::Fenced))
}

fn fence_failed(error: postgres::Error) -> Error {
    let (kind, message) = match error.code() {
        None => (
            ErrorKind::Unavailable,
            "the transaction's connection was lost",
        ),
        Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => (
            ErrorKind::NoTransaction,
            "the transaction has failed before",
        ),
        Some(_) => (
            ErrorKind::Database,
            "the server could not fence the transaction",
        ),
    };
    let other = || Error::new(kind, message);
    full(&error).unwrap_or_else(other).caused_by(error)
}
