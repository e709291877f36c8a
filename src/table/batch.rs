//! A turn at the server: the steps that are due, and what becomes of them.

use std::time::Instant;

use super::entry::{Entry, TENURE};
use super::retry_queue::Look;
use super::{Desk, Refusal, Table};
use crate::backoff;
use crate::key::Key;
use crate::op::{Action, Op};
use crate::op::{Patience, Token};

impl<W> Table<W> {
    /// Puts into `batch` what is to be done at the server now, at most `cap` steps.
    /// Every step's result must come back through [`settle`](Table::settle) or
    /// [`fail`](Table::fail) before the next plan.
    pub(crate) fn plan(
        &mut self,
        now: Instant,
        cap: usize,
        batch: &mut Vec<Op>,
        desk: &mut impl Desk<W>,
    ) {
        self.release_kept(now, desk);
        let go = !self.ready.is_empty();
        while let Some((key, look)) = self.agenda.pop(now, go) {
            if let Some(line) = self.line(key)
                && line.look == Some(look)
            {
                line.look = None;
                self.list(key);
            }
        }
        let entries = &self.entries;
        self.agenda.prune(now, |key, look| {
            let line = entries.get(&key).and_then(|entry| entry.line.as_ref());
            line.is_some_and(|line| line.look == Some(look))
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
                // Whoever stood before the first in line has been sent away.
                self.advance(key, now, false, desk);
                continue;
            }
            let Some(action) = entry.due(now) else {
                continue;
            };
            if let Some(mode) = entry.server {
                batch.push(Op { key, mode, action });
                continue;
            }
            if entry.is_put_off() {
                continue;
            }
            let Some(first) = entry.first() else {
                self.remove(key);
                continue;
            };
            let mode = first.mode;
            if self.is_full(0) {
                self.refuse_all(key, Refusal::LimitReached, desk);
            } else if self.is_full(locks) {
                // The locks of this batch may be the last that fit: see how they end.
                self.list(key);
            } else {
                locks += 1;
                batch.push(Op { key, mode, action });
            }
        }
        batch.sort_unstable_by_key(|op| op.action);
    }

    /// The server has done `op`. For a lock, `yes` means that it was free, and then with
    /// fencing there is a `token`.
    pub(crate) fn settle(
        &mut self,
        op: Op,
        yes: bool,
        token: Option<Token>,
        now: Instant,
        desk: &mut impl Desk<W>,
    ) {
        let Some(entry) = self.entries.get_mut(&op.key) else {
            return;
        };
        match op.action {
            Action::Lock if yes => {
                entry.server = Some(op.mode);
                entry.token = token;
                if let Some(line) = &mut entry.line {
                    line.look = None;
                }
                let start = entry.tenure.or_else(|| self.recent.take(op.key, now));
                entry.begin_tenure(start.unwrap_or(now), now);
                self.advance(op.key, now, false, desk);
            }
            Action::Draw => {
                entry.token = token;
                self.advance(op.key, now, true, desk);
            }
            Action::Lock => {
                // Somebody else has it: that is their turn.
                entry.tenure = None;
                self.recent.take(op.key, now);
                self.put_off(op.key, now, desk);
            }
            Action::Unlock => {
                entry.server = None;
                let over = entry.is_tenure_over(now);
                if let Some(start) = entry.tenure.filter(|_| over || entry.first().is_none()) {
                    // Longer than the pause of whoever has waited since the tenure began.
                    let tenure = now.saturating_duration_since(start);
                    let pause = backoff::proportional(
                        tenure.saturating_mul(5) / 4,
                        self.limits.retry_min,
                        self.limits.retry_max,
                    );
                    let at = now + pause;
                    if over {
                        entry.tenure = None;
                        entry.line_from(&mut self.spare).is_rest = true;
                        self.look_later(op.key, Look { from: at, by: at });
                    } else {
                        self.recent.put(op.key, start, at.min(now + TENURE));
                    }
                }
                self.list(op.key);
            }
        }
    }

    /// The server could not do a lock step: its waiters are out, to be told why.
    pub(crate) fn fail(&mut self, key: Key, mut tell: impl FnMut(W)) {
        while let Some(waiter) = self.entries.get_mut(&key).and_then(Entry::pop_front) {
            self.waiting -= 1;
            tell(waiter.inner);
        }
        self.list(key);
    }

    /// The lock is taken elsewhere: who cannot wait leaves, the others look later.
    fn put_off(&mut self, key: Key, now: Instant, desk: &mut impl Desk<W>) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        entry.tell_contended(|waiter| desk.contended(waiter));
        let Some(line) = entry.line.as_mut() else {
            return self.remove(key);
        };
        for _ in 0..line.queue.len() {
            let waiter = line.queue.pop_front().expect("it was just counted");
            match waiter.patience {
                Patience::Until(_) | Patience::Wait => line.queue.push_back(waiter),
                Patience::Once => {
                    self.waiting -= 1;
                    desk.refuse(waiter.inner, Refusal::Busy);
                }
            }
        }
        match line.queue.front() {
            Some(first) => {
                let waited = now.saturating_duration_since(first.since);
                let pause =
                    backoff::proportional(waited, self.limits.retry_min, self.limits.retry_max);
                let look = Look {
                    from: now + pause.mul_f64(0.75),
                    by: now + self.dice.jitter(pause),
                };
                line.is_rest = false;
                self.look_later(key, look);
            }
            None => self.remove(key),
        }
    }

    fn refuse_all(&mut self, key: Key, refusal: Refusal, desk: &mut impl Desk<W>) {
        self.fail(key, |waiter| desk.refuse(waiter, refusal));
    }

    /// Whoever waits until `deadline` is to know by then whether the lock is taken: the next
    /// attempt comes before it.
    pub(super) fn hasten(&mut self, key: Key, deadline: Instant, now: Instant) {
        if let Some(line) = self.line(key)
            && line.look.is_some_and(|look| look.by > deadline)
        {
            // With the other half of the time for the answer.
            let at = now + deadline.saturating_duration_since(now) / 2;
            self.look_later(key, Look { from: at, by: at });
        }
    }

    fn look_later(&mut self, key: Key, look: Look) {
        if let Some(line) = self.line(key) {
            line.look = Some(look);
            self.agenda.put(key, look);
        }
    }
}
