//! The table's batches: which operations are due at the server, and what their outcomes change.

use std::time::{Duration, Instant};

use super::handoff::{self, BUDGET};
use super::retry_queue::Retry;
use super::{Caller, Refusal, Respond, Stray, Table, Via};
use crate::backoff;
use crate::key::Key;
use crate::op::{Action, Mode, Op, Outcome, Token};

/// A fraction of the time for which tries are new.
const SOON: Duration = Duration::from_millis(5);

/// After so many budgets in a row the lock is released for a moment, whoever waits.
const BUDGETS: u32 = 10;

impl<W: Caller> Table<W> {
    /// Puts the steps that are due at the server now into `batch`, at most `cap`. The outcome of
    /// each must be passed to [`settle`](Table::settle) before the next plan.
    pub(crate) fn plan(
        &mut self,
        now: Instant,
        cap: usize,
        batch: &mut Vec<Op>,
        responder: &mut impl Respond<W>,
    ) {
        self.release_kept(now, responder);
        self.proceed_with_sets(now, responder);
        self.forget_old(now);
        if !self.ready.is_empty() || self.retries.is_due(now) {
            while let Some((key, retry)) = self.retries.pop(now) {
                if let Some(queue) = self.queue(key)
                    && queue.retry == Some(retry)
                {
                    queue.retry = None;
                    self.list(key);
                }
            }
        }
        let entries = &self.entries;
        self.retries.prune(now, |key, retry| {
            let queue = entries.get(&key).and_then(|entry| entry.queue.as_ref());
            queue.is_some_and(|queue| queue.retry == Some(retry))
        });
        // First, because a fence ends before its lock is released.
        let fences = self.fences.len().min(cap);
        batch.extend(self.fences.drain(..fences));
        let mut locks = 0;
        for _ in 0..self.ready.len() {
            if batch.len() + self.sets.planned() >= cap {
                break;
            }
            let key = self.ready.pop_front().expect("it was just counted");
            let entry = self
                .entries
                .get_mut(&key)
                .expect("listed keys have entries");
            entry.listed = false;
            if !self.limits.fenced && entry.can_hand_over(now) {
                // The waiters before this one have been answered.
                self.advance(key, now, self.via(key), responder);
                continue;
            }
            if entry.has_to_withdraw() {
                let (mode, action) = (Mode::Shared, Action::Withdraw);
                batch.push(Op { key, mode, action });
            }
            let action = match entry.due(now) {
                // The token of the next holder would not be drawn with it.
                Some(Action::Relock) if self.limits.fenced => Action::Unlock,
                // Clients that ask now and then, and are not seen to wait, have a chance.
                Some(Action::Relock) if entry.budgets >= BUDGETS => Action::Unlock,
                Some(action) => action,
                None => {
                    self.retire(key, now);
                    continue;
                }
            };
            if !action.is_lock() {
                let mode = entry.server.unwrap_or(Mode::Shared);
                batch.push(Op { key, mode, action });
                continue;
            }
            if entry.is_deferred() {
                continue;
            }
            let first = entry.first().expect("it is to be locked for it");
            let (mode, is_set) = (first.mode, first.set.is_some());
            if let Some(max) = self.full(0) {
                self.refuse_all(key, Refusal::LimitReached(max), responder);
            } else if self.full(locks).is_some() {
                // The locks of this batch may be the last that fit: wait for their outcomes.
                self.list(key);
            } else if is_set {
                let room = cap - batch.len() - self.sets.planned();
                let op = Op { key, mode, action };
                locks += self.chain(op, room.min(self.room(locks)), batch, now);
            } else {
                locks += 1;
                batch.push(Op { key, mode, action });
            }
        }
        batch.sort_unstable_by_key(|op| op.action);
        self.sets.take_planned(batch);
        self.picks_are_next();
        self.proceed_with_sets(now, responder);
    }

    /// Applies the outcome of `op`. With fencing, a lock that was taken comes with a token. An
    /// error if the session did not hold the lock that it was to unlock.
    pub(crate) fn settle(
        &mut self,
        op: Op,
        outcome: Outcome,
        now: Instant,
        responder: &mut impl Respond<W>,
    ) -> Result<(), Stray> {
        let action = op.action.alone();
        match (action, outcome) {
            (Action::Lock | Action::LockUnawaited, Outcome::Done(token)) => {
                self.locked(op, token, now, responder);
            }
            (Action::Lock | Action::LockUnawaited, Outcome::Refused) => {
                self.taken(op.key, now, responder);
            }
            (Action::LockUnawaited, Outcome::Awaited) => self.awaited(op.key, now, responder),
            (Action::Lock | Action::LockUnawaited, Outcome::Undrained) => {
                self.undrained(op, now, responder);
            }
            (Action::Relock, Outcome::Done(_))
            | (Action::Check, Outcome::Done(_) | Outcome::Failed(_)) => {
                self.resumed(op.key, now, responder);
            }
            (Action::Relock, Outcome::Failed(error)) => {
                self.relinquished(op.key);
                self.answer_all(op.key, |waiter| responder.fail(waiter, &error));
            }
            // Its set does not wait for it yet.
            (_, Outcome::Skipped) => {}
            (Action::Relock, Outcome::Refused) => {
                self.relinquished(op.key);
                self.taken(op.key, now, responder);
            }
            (Action::Relock, Outcome::Awaited) => {
                self.relinquished(op.key);
                self.awaited(op.key, now, responder);
            }
            (Action::Relock, Outcome::Undrained) => {
                self.relinquished(op.key);
                self.undrained(op, now, responder);
            }
            (Action::Check, Outcome::Refused) => self.closed(op.key, now, responder),
            (Action::Draw, Outcome::Done(token)) => self.drawn(op.key, token, now, responder),
            (Action::Draw, Outcome::Refused) => self.drawn(op.key, None, now, responder),
            (Action::Lock | Action::LockUnawaited | Action::Draw, Outcome::Failed(error)) => {
                self.answer_all(op.key, |waiter| responder.fail(waiter, &error));
            }
            (Action::Unlock, Outcome::Done(_)) => self.unlocked(op.key, now),
            (Action::Announce, outcome) => {
                self.announced(op.key, matches!(outcome, Outcome::Done(_)));
            }
            (Action::Withdraw, Outcome::Done(_)) => self.withdrawn(op.key),
            (Action::Fence(number), outcome) => {
                self.fenced(op.key, number, matches!(outcome, Outcome::Done(_)));
            }
            (Action::Unfence(_), _) => {}
            (Action::Upgrade(_) | Action::Downgrade(_), outcome) => {
                self.changed(op, &outcome, now, responder);
            }
            _ => return Err(Stray(op.key)),
        }
        // Not before all unlocks of the batch are settled, which come first.
        if !action.is_unlock() {
            self.proceed_with_sets(now, responder);
        }
        Ok(())
    }

    pub(super) fn locked(
        &mut self,
        op: Op,
        token: Option<Token>,
        now: Instant,
        responder: &mut impl Respond<W>,
    ) {
        let spare = &mut self.spare;
        let entry = self.entries.entry(op.key).or_insert_with(|| spare.entry());
        let action = op.action.alone();
        entry.server = Some(op.mode);
        entry.token = token;
        let contention = entry.contention.as_mut();
        let ignored = contention.and_then(|contention| contention.won(action));
        if let Some(queue) = &mut entry.queue {
            queue.reset();
        }
        entry.is_contested = entry.is_announced;
        entry.budget = Some(match (ignored, entry.budget, action) {
            // They do not take it: they are asked for less and less often.
            (Some(times), _, _) => now + BUDGET * ((1 << times) - 1),
            (None, Some(start), Action::Lock) if !entry.is_announced => handoff::resume(start, now),
            _ => now,
        });
        self.advance(op.key, now, Via::Server, responder);
    }

    /// Nobody else waits for the lock, which the session still has.
    fn resumed(&mut self, key: Key, now: Instant, responder: &mut impl Respond<W>) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.budget = Some(now);
            entry.budgets += 1;
            if let Some(contention) = &mut entry.contention {
                contention.unawaited();
            }
            entry.is_contested = false;
            entry.is_fenced = false;
            entry.is_closed = false;
            self.advance(key, now, Via::Server, responder);
        }
    }

    /// Others wait for a lock that has shared holders here: nobody joins them, as long as they do.
    fn closed(&mut self, key: Key, now: Instant, responder: &mut impl Respond<W>) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.is_closed = true;
            self.defer(key, now, responder);
        }
    }

    /// The session has not got the lock back that it released.
    fn relinquished(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.unlocked();
        }
    }

    fn announced(&mut self, key: Key, is_done: bool) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.is_announced = is_done;
            if let Some(queue) = &mut entry.queue {
                // If it failed, it is tried again after the next refusal.
                queue.announces = false;
            }
            self.list(key);
        }
    }

    fn withdrawn(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.is_announced = false;
            self.list(key);
        }
    }

    fn drawn(
        &mut self,
        key: Key,
        token: Option<Token>,
        now: Instant,
        responder: &mut impl Respond<W>,
    ) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.token = token;
            self.advance(key, now, self.via(key), responder);
        }
    }

    fn unlocked(&mut self, key: Key, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        entry.unlocked();
        entry.remembered_until = Some(now + self.limits.retry_max);
        if entry.budgets >= BUDGETS {
            entry.budgets = 0;
            if entry.first().is_some() {
                let at = now + self.limits.retry_min;
                self.schedule(key, Retry::at(at));
            }
        }
        // Also if there is nothing left to do: the iteration for that keeps the worker awake for
        // the next request of the caller that released the lock.
        self.list(key);
    }

    /// Another process has the lock.
    fn taken(&mut self, key: Key, now: Instant, responder: &mut impl Respond<W>) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        // A caller that tries in a loop waits, too, but not one that tries now and then: others
        // would leave the lock to somebody who does not come for it.
        let since = |at| now.saturating_duration_since(at) <= BUDGET;
        let is_persistent = entry.budget.is_some() || entry.refused_at().is_some_and(since);
        entry.forget();
        entry.contention().refused_at = Some(now);
        entry.remembered_until = Some(now + BUDGET);
        let is_awaited = self.defer(key, now, responder);
        if let Some(entry) = self.entries.get_mut(&key)
            && !entry.is_announced
            && let Some(queue) = &mut entry.queue
        {
            queue.announces = is_awaited || is_persistent;
            if queue.announces {
                self.list(key);
            }
        }
    }

    /// Other processes wait for the lock: it is left to them until one of them has it, or none is
    /// left. But not for ever, because they may be unable to take it.
    fn awaited(&mut self, key: Key, now: Instant, responder: &mut impl Respond<W>) {
        if let Some(entry) = self.entries.get_mut(&key) {
            let until = now + self.limits.retry_max * 2;
            let until = *entry.contention().yields_until.get_or_insert(until);
            entry.remembered_until = Some(until);
            // Those who tried in a loop are shown to wait for a moment after they have stopped:
            // for them alone the lock is not said to be taken.
            match entry.has_only_new_tries(now) {
                true => self.retry_soon(key, now),
                false => {
                    self.defer(key, now, responder);
                }
            }
        }
    }

    /// A fenced transaction of an earlier holder is open: to others the lock is taken.
    fn undrained(&mut self, op: Op, now: Instant, responder: &mut impl Respond<W>) {
        // Or another session has drained it in the same moment to share the lock, too.
        match self.entries.get(&op.key) {
            Some(entry) if op.mode == Mode::Shared && entry.has_new(now) => {
                self.retry_soon(op.key, now);
            }
            _ => self.taken(op.key, now, responder),
        }
    }

    /// Refuses the waiters that try once, and retries later for the others. False if there are
    /// none.
    fn defer(&mut self, key: Key, now: Instant, responder: &mut impl Respond<W>) -> bool {
        self.refuse_tries(key, responder);
        self.retry_later(key, now)
    }

    /// Schedules the next attempt. False if there is nobody to make it for.
    fn retry_later(&mut self, key: Key, now: Instant) -> bool {
        let Some(first) = self.entries.get(&key).and_then(|entry| entry.first()) else {
            self.list(key);
            return false;
        };
        let waited = now.saturating_duration_since(first.since);
        let pause = backoff::proportional(waited, self.limits.retry_min, self.limits.retry_max);
        let retry = Retry {
            not_before: now + pause.mul_f64(0.75),
            not_after: now + self.jitter.shorten(pause),
        };
        self.schedule(key, retry);
        true
    }

    /// Schedules the next attempt while it is in doubt whether the lock is taken.
    fn retry_soon(&mut self, key: Key, now: Instant) {
        match self.entries.get(&key).and_then(|entry| entry.first()) {
            Some(_) => self.schedule(key, Retry::at(now + self.limits.retry_min.min(SOON))),
            None => self.list(key),
        }
    }

    /// Tells the waiters of `key` that it is taken, and refuses those that try once.
    pub(super) fn refuse_tries(&mut self, key: Key, responder: &mut impl Respond<W>) {
        let Some(queue) = self.queue(key) else {
            return;
        };
        queue.tell_contended(|waiter, mode| responder.contended(waiter, key, mode));
        let refused = queue.take(|waiter| waiter.wait.is_try());
        self.waiting -= refused.len();
        for waiter in refused {
            responder.refuse(self.sets.dismiss(waiter), Refusal::Busy);
        }
    }

    fn refuse_all(&mut self, key: Key, refusal: Refusal, responder: &mut impl Respond<W>) {
        self.answer_all(key, |waiter| responder.refuse(waiter, refusal));
    }

    /// Removes all waiters of `key` and passes them to `answer`.
    fn answer_all(&mut self, key: Key, mut answer: impl FnMut(W)) {
        while let Some(waiter) = self
            .entries
            .get_mut(&key)
            .and_then(|entry| entry.pop_front())
        {
            self.waiting -= 1;
            answer(self.sets.dismiss(waiter));
        }
        self.list(key);
    }

    /// Moves the next attempt before `deadline`, by which a waiter has to know whether the lock is
    /// taken.
    pub(super) fn expedite(&mut self, key: Key, deadline: Instant, now: Instant) {
        if let Some(queue) = self.queue(key)
            && queue.retry.is_some_and(|retry| retry.not_after > deadline)
        {
            // The other half of the time is for the answer.
            let at = now + deadline.saturating_duration_since(now) / 2;
            self.schedule(key, Retry::at(at));
        }
    }

    pub(super) fn schedule(&mut self, key: Key, retry: Retry) {
        if let Some(queue) = self.queue(key) {
            queue.retry = Some(retry);
            self.retries.push(key, retry);
        }
    }
}
