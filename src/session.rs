//! A database session: its connection, and the statements that lock and unlock on it.
//!
//! What a step did must never be guessed: after an error it is not known which steps of the
//! statement took effect, because session-level advisory locks survive its rollback ([Advisory
//! Locks]). So the session reads from `pg_locks` what it holds and continues from there, one
//! step at a time; if even that fails the whole session is given up.
//!
//! [Advisory Locks]: https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS

pub(crate) mod errors;
mod failures;
mod holders;
mod lease;
mod listing;
pub(crate) mod marker;
mod modes;
pub(crate) mod others;
pub(crate) mod parked;
mod picks;
mod recovery;
mod run;
pub(crate) mod sequence;
pub(crate) mod statements;
mod transaction;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use postgres::{CancelToken, Client, SimpleQueryMessage, SimpleQueryRow, Statement};
use tracing::debug;

use self::errors::lock_error;
use self::errors::{ATTEMPTS, ends_session, is_cancelled, lost, retry_if_cancelled};
use self::failures::Failures;
use self::marker::Marker;
use self::parked::WaitNotice;
use self::sequence::Sequence;
use self::statements::{Branches, DROP_SNAPSHOT, END, MOST_PAIRS};
use self::transaction::Transaction;
use crate::clock::BootInstant;
use crate::error::Error;
use crate::lease::Lease;
use crate::op::{Action, Op, Outcome};

/// Called before each further round trip of an exchange, so that many short ones are not taken
/// for one that hangs. The caller itself begins the first one; repeating or preparing a statement
/// counts as part of its round trip.
pub(crate) type OnRoundTrip<'a> = &'a dyn Fn();

/// The session can no longer be used: its locks count as lost.
pub(crate) struct Lost(pub(crate) Error);

pub(crate) struct Session {
    client: Client,
    lease: Arc<Lease>,
    /// How many locks the session holds at the server, without the marker.
    locks: usize,
    /// The numbers of the holds that are fenced.
    fences: HashSet<i64>,
    transaction: Transaction,
    /// With fencing, the source of tokens.
    sequence: Option<Sequence>,
    failures: Failures,
    /// A lock held at the server for the session's life: it shows that the session is a
    /// manager's, and that it lives.
    marker: Marker,
    // Prepared when first needed: few programs need all of them, and each takes a round trip.
    lock: Option<Statement>,
    unlock: Option<Statement>,
    /// By the number of pairs.
    pairs: [Option<Statement>; MOST_PAIRS],
    /// By what they do, and whether they verify the session.
    batches: HashMap<(Branches, bool), Statement>,
    held: Option<Statement>,
    /// By what they do, and whether they look at a gate.
    picks: HashMap<(Branches, bool), Statement>,
    /// How the last wait in the server's queue ended.
    wait_notice: WaitNotice,
    /// Not to wait in the server's queue before this: it was not able to.
    parks_from: BootInstant,
    codes: Vec<i16>,
    numbers: Vec<i64>,
}

impl Session {
    /// The session of `client`, which is connected and set up; its notices come to `wait_notice`.
    pub(crate) fn new(
        client: Client,
        wait_notice: WaitNotice,
        marker: Marker,
        sequence: Option<Sequence>,
        lease: Option<Duration>,
        generation: u64,
    ) -> Session {
        Session {
            client,
            lease: Arc::new(Lease::new(generation, lease)),
            locks: 0,
            fences: HashSet::new(),
            transaction: Transaction::default(),
            failures: Failures::new(sequence.is_some()),
            sequence,
            marker,
            lock: None,
            unlock: None,
            pairs: Default::default(),
            batches: HashMap::new(),
            held: None,
            picks: HashMap::new(),
            wait_notice,
            parks_from: BootInstant::now(),
            codes: Vec::new(),
            numbers: Vec::new(),
        }
    }

    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// The second half of the session's marker.
    pub(crate) fn marker(&self) -> i32 {
        self.marker.number()
    }

    /// For cancelling the statement in progress.
    pub(crate) fn cancel_token(&self) -> CancelToken {
        self.client.cancel_token()
    }

    /// Does `batch` at the server, in one round trip unless something fails or is due besides,
    /// and puts the outcome of each step into `outcomes`.
    pub(crate) fn apply(
        &mut self,
        batch: &[Op],
        outcomes: &mut Vec<Outcome>,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<(), Lost> {
        self.arm_lease(on_round_trip)?;
        let unmarked = self.mark_for_fences(batch, on_round_trip)?.map(lock_error);
        let Some(refusals) = self.failures.of_batch(batch, unmarked.as_ref()) else {
            self.send(batch, outcomes, on_round_trip)?;
            return self.update_transaction(batch, on_round_trip);
        };
        let mut refusals = refusals.into_iter();
        let mut refused = Vec::with_capacity(batch.len());
        let sent = unbroken(batch, |_| {
            refused.push(refusals.next().flatten());
            refused.last().is_some_and(Option::is_none)
        });
        let mut answers = Vec::with_capacity(sent.len());
        self.send(&sent, &mut answers, on_round_trip)?;
        let mut answers = sent.iter().zip(answers).peekable();
        outcomes.extend(batch.iter().zip(refused).map(|(op, refused)| {
            let answer = answers.next_if(|(sent, _)| *sent == op);
            match (answer, refused) {
                (Some((_, outcome)), _) => outcome,
                (None, Some(error)) => Outcome::Failed(error),
                (None, None) => Outcome::Skipped,
            }
        }));
        self.update_transaction(batch, on_round_trip)
    }

    /// In one round trip unless it fails.
    fn send(
        &mut self,
        batch: &[Op],
        outcomes: &mut Vec<Outcome>,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<(), Lost> {
        let started = BootInstant::now();
        let done = match batch {
            [] => self.client.check_connection(),
            batch => self.run(batch, outcomes),
        };
        let has_failed = done.is_err();
        match done {
            Ok(()) => {
                self.marker.check().map_err(Lost)?;
                self.lease.renew(started);
            }
            Err(error) if self.is_over(&error) => return Err(lost(error)),
            Err(error) => self.recover(batch, &error, outcomes, on_round_trip)?,
        }
        check_complete(batch, outcomes)?;
        for (&op, outcome) in batch.iter().zip(&*outcomes) {
            match (op.action, outcome) {
                (action, Outcome::Done(_)) if action.is_lock() => self.locks += 1,
                (Action::Announce, Outcome::Done(_)) => self.locks += 1,
                (Action::Unlock | Action::Withdraw, Outcome::Done(_))
                | (
                    Action::Relock,
                    Outcome::Refused | Outcome::Awaited | Outcome::Undrained | Outcome::Failed(_),
                ) => self.locks -= 1,
                (Action::Fence(hold), Outcome::Done(_)) => {
                    self.fences.insert(hold);
                }
                (Action::Unfence(hold), _) => {
                    self.fences.remove(&hold);
                }
                _ => {}
            }
            // After an error some steps were not tried again.
            let is_tried = !has_failed || op.action.is_lock() || op.action.is_unlock();
            if is_tried && matches!(outcome, Outcome::Done(_)) {
                self.failures.done(op);
            }
        }
        Ok(())
    }

    /// Shows each side that the other one is alive.
    pub(crate) fn heartbeat(&mut self, on_round_trip: OnRoundTrip<'_>) -> Result<(), Lost> {
        match (self.marker.is_due(), self.transaction.begun()) {
            (true, _) => self.verify()?,
            (false, None) => self.persist(|client| client.check_connection())?,
            (false, Some(_)) => self.query(|client| client.batch_execute(DROP_SNAPSHOT))?,
        }
        self.update_transaction(&[], on_round_trip)
    }

    fn verify(&mut self) -> Result<(), Lost> {
        let statement = format!("SELECT {}; {DROP_SNAPSHOT}", self.marker.expression());
        let answer = self.query(|client| client.simple_query(&statement))?;
        let is_true = |message: &SimpleQueryMessage| match message {
            // The second statement's row has no column.
            SimpleQueryMessage::Row(row) => row.try_get(0).ok().flatten() == Some("t"),
            _ => false,
        };
        self.marker.answered(answer.iter().any(is_true));
        self.marker.check().map_err(Lost)
    }

    /// The rows of `question`, as far as `read` understands them. They do not show that this is still
    /// the same session. The inner error: the server does not answer, and the session goes on.
    fn ask<T>(
        &mut self,
        question: &str,
        read: impl Fn(&SimpleQueryRow) -> Option<T>,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<Result<Vec<T>, postgres::Error>, Lost> {
        match self.client.simple_query(question) {
            Ok(messages) => {
                let rows = messages.iter().filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => read(row),
                    _ => None,
                });
                Ok(Ok(rows.collect()))
            }
            Err(error) if self.is_over(&error) => Err(lost(error)),
            Err(error) => {
                self.end_failed_transaction()?;
                self.update_transaction(&[], on_round_trip)?;
                Ok(Err(error))
            }
        }
    }

    /// Runs `query`, which changes nothing, and repeats it if it was cancelled. Then the
    /// transaction, if there was one, has failed with it.
    fn query<T>(
        &mut self,
        query: impl Fn(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, Lost> {
        self.attempt_until_done(query, Session::end_failed_transaction)
    }

    /// Runs `command`, which may run twice, and repeats it if it was cancelled:
    /// `pg_cancel_backend` is no reason to give the session up.
    fn persist(
        &mut self,
        command: impl Fn(&mut Client) -> Result<(), postgres::Error>,
    ) -> Result<(), Lost> {
        self.attempt_until_done(command, |_| Ok(()))
    }

    /// Runs `command` up to [`ATTEMPTS`] times; after each that was cancelled, `cancelled`.
    fn attempt_until_done<T>(
        &mut self,
        command: impl Fn(&mut Client) -> Result<T, postgres::Error>,
        cancelled: impl Fn(&mut Session) -> Result<(), Lost>,
    ) -> Result<T, Lost> {
        let mut attempt = 1;
        loop {
            let started = BootInstant::now();
            match command(&mut self.client) {
                Ok(answer) => {
                    self.lease.renew(started);
                    return Ok(answer);
                }
                Err(error)
                    if attempt < ATTEMPTS && is_cancelled(&error) && !self.is_over(&error) =>
                {
                    attempt += 1;
                    cancelled(self)?;
                }
                Err(error) => return Err(lost(error)),
            }
        }
    }

    /// Resets the session and ends it: it may belong to a pool, which gives it to another client.
    pub(crate) fn close(mut self) {
        let ended = match self.transaction.take() {
            Some(_) => self.client.batch_execute(END),
            None => Ok(()),
        };
        // A cancel of its last wait for a lock may come only now.
        let mut discard = || retry_if_cancelled(|| self.client.batch_execute("DISCARD ALL"));
        if let Err(error) = ended.and_then(|()| discard()) {
            let error = &error as &dyn std::error::Error;
            debug!(error, "the session was not reset at its end");
        }
    }

    /// Ends the connection on a thread of its own: on a dead network that takes until the
    /// network stack gives up.
    pub(crate) fn dispose(self) {
        // If no thread can be started, it is dropped here.
        let _ = thread::Builder::new()
            .name("distlock-close".into())
            .spawn(move || drop(self));
    }

    /// True if `error` ends the session, even if the driver does not know it yet.
    fn is_over(&self, error: &postgres::Error) -> bool {
        self.client.is_closed() || ends_session(error)
    }
}

/// The steps of `batch` that are to be done, but for those that depend on another one.
fn unbroken(batch: &[Op], mut is_to_be_done: impl FnMut(&Op) -> bool) -> Vec<Op> {
    let mut is_last_done = true;
    let mut is_done = |op: &Op| {
        let is_broken = op.action.is_next() && !is_last_done;
        is_last_done = is_to_be_done(op) && !is_broken;
        is_last_done
    };
    batch.iter().filter(|op| is_done(op)).copied().collect()
}

/// An error if steps, and so callers, would remain unanswered, as with a non-conforming server.
fn check_complete(batch: &[Op], outcomes: &[Outcome]) -> Result<(), Lost> {
    if outcomes.len() == batch.len() {
        return Ok(());
    }
    Err(Lost(Error::unavailable(
        "the server has answered another number of steps than it was sent",
    )))
}
