//! The table's batches: which operations are due at the server, and what their outcomes change.

use std::time::Instant;

use super::entry::Entry;
use super::handoff::{self, BUDGET};
use super::retry_queue::Retry;
use super::{Refusal, Respond, Stray, Table, Via};
use crate::backoff;
use crate::key::Key;
use crate::op::{Action, Op, Outcome, Token};

impl<W> Table<W> {
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
        let mut locks = 0;
        for _ in 0..self.ready.len() {
            if batch.len() >= cap {
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
            let Some(action) = entry.due(now) else {
                continue;
            };
            if let Some(mode) = entry.server {
                batch.push(Op { key, mode, action });
                continue;
            }
            if entry.is_deferred() {
                continue;
            }
            let Some(first) = entry.first() else {
                self.remove(key);
                continue;
            };
            let mode = first.mode;
            if let Some(max) = self.full(0) {
                self.refuse_all(key, Refusal::LimitReached(max), responder);
            } else if self.full(locks).is_some() {
                // The locks of this batch may be the last that fit: wait for their outcomes.
                self.list(key);
            } else {
                locks += 1;
                batch.push(Op { key, mode, action });
            }
        }
        batch.sort_unstable_by_key(|op| op.action);
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
        match (op.action, outcome) {
            (Action::Lock, Outcome::Done(token)) => self.locked(op, token, now, responder),
            (Action::Lock, Outcome::Refused) => self.defer(op.key, now, responder),
            (Action::Draw, Outcome::Done(token)) => self.drawn(op.key, token, now, responder),
            (Action::Draw, Outcome::Refused) => self.drawn(op.key, None, now, responder),
            (Action::Lock | Action::Draw, Outcome::Failed(error)) => {
                self.answer_all(op.key, |waiter| responder.fail(waiter, &error));
            }
            (Action::Unlock, Outcome::Done(_)) => self.unlocked(op.key, now),
            (Action::Unlock, Outcome::Refused | Outcome::Failed(_)) => return Err(Stray(op.key)),
        }
        Ok(())
    }

    fn locked(
        &mut self,
        op: Op,
        token: Option<Token>,
        now: Instant,
        responder: &mut impl Respond<W>,
    ) {
        let Some(entry) = self.entries.get_mut(&op.key) else {
            return;
        };
        entry.server = Some(op.mode);
        entry.token = token;
        if let Some(queue) = &mut entry.queue {
            queue.retry = None;
        }
        let start = entry.budget.or_else(|| self.recent.take(op.key, now));
        entry.budget = Some(handoff::resume(start.unwrap_or(now), now));
        self.advance(op.key, now, Via::Server, responder);
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
        entry.server = None;
        entry.was_held = false;
        let is_spent = entry.is_budget_spent(now);
        let has_waiters = entry.first().is_some();
        let ended = entry.budget.filter(|_| is_spent || !has_waiters);
        if let Some(start) = ended {
            // Longer than the pause of a waiter that has waited since the budget began.
            let pause = backoff::proportional(
                now.saturating_duration_since(start).saturating_mul(5) / 4,
                self.limits.retry_min,
                self.limits.retry_max,
            );
            let at = now + pause;
            if is_spent {
                entry.budget = None;
                entry.queue_from(&mut self.spare).is_cooldown = true;
                self.schedule(key, Retry::at(at));
            } else {
                self.recent.put(key, start, at.min(now + BUDGET));
            }
        }
        // Also if all that is left is to forget the key: the iteration for that keeps the worker
        // awake for the next request of the caller that released the lock.
        self.list(key);
    }

    /// The lock is taken elsewhere: refuses the waiters that try once, and retries later for the
    /// others.
    fn defer(&mut self, key: Key, now: Instant, responder: &mut impl Respond<W>) {
        self.recent.take(key, now);
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        // Another process has it: the budget ends.
        entry.budget = None;
        let Some(queue) = entry.queue.as_mut() else {
            return self.remove(key);
        };
        queue.tell_contended(|waiter, mode| responder.contended(waiter, key, mode));
        for waiter in queue.take(|waiter| waiter.wait.is_try()) {
            self.waiting -= 1;
            responder.refuse(waiter.inner, Refusal::Busy);
        }
        let Some(first) = queue.waiters.front() else {
            return self.remove(key);
        };
        let waited = now.saturating_duration_since(first.since);
        let pause = backoff::proportional(waited, self.limits.retry_min, self.limits.retry_max);
        let retry = Retry {
            not_before: now + pause.mul_f64(0.75),
            not_after: now + self.jitter.shorten(pause),
        };
        queue.is_cooldown = false;
        self.schedule(key, retry);
    }

    fn refuse_all(&mut self, key: Key, refusal: Refusal, responder: &mut impl Respond<W>) {
        self.answer_all(key, |waiter| responder.refuse(waiter, refusal));
    }

    /// Removes all waiters of `key` and passes them to `answer`.
    fn answer_all(&mut self, key: Key, mut answer: impl FnMut(W)) {
        while let Some(waiter) = self.entries.get_mut(&key).and_then(Entry::pop_front) {
            self.waiting -= 1;
            answer(waiter.inner);
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

    fn schedule(&mut self, key: Key, retry: Retry) {
        if let Some(queue) = self.queue(key) {
            queue.retry = Some(retry);
            self.retries.push(key, retry);
        }
    }
}
