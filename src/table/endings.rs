//! What ends waits and holds from outside: callers that leave, and the end of the session.

use std::time::Instant;

use super::wait_queue::Waiter;
use super::{Caller, Respond, Table, Whom};
use crate::error::Error;
use crate::key::Key;

/// Up to this many keys without waiters may stay listed without a session.
const MANY_IDLE: usize = 64;

impl<W: Caller> Table<W> {
    /// Removes the waiters of `key` that have left.
    pub(crate) fn remove_abandoned(
        &mut self,
        key: Key,
        has_left: impl Fn(&W) -> bool,
        now: Instant,
        responder: &mut impl Respond<W>,
    ) {
        if let Some(queue) = self.queue(key) {
            let gone = queue.take(|waiter| has_left(&waiter.inner));
            self.waiting -= gone.len();
            for waiter in gone {
                self.sets.dismiss(waiter);
            }
            self.advance(key, now, self.via(key), responder);
        }
        self.sets.remove_abandoned(has_left);
        self.proceed_with_sets(now, responder);
    }

    /// The session has ended, and all its locks with it. All waiters keep waiting. Returns how
    /// many holds were lost.
    pub(crate) fn disconnected(&mut self) -> usize {
        let held = self.held();
        self.restart_sets();
        self.retries.clear();
        self.remembered.clear();
        self.kept.clear();
        self.ready.clear();
        self.fences.clear();
        self.entries.retain(|_, entry| entry.first().is_some());
        for (&key, entry) in &mut self.entries {
            entry.disconnected();
            entry.listed = true;
            self.ready.push_back(key);
        }
        self.held = 0;
        held
    }

    /// Without a session nothing is planned, and every requested key stays listed: forgets those
    /// that have no waiters any more, if there are many.
    pub(crate) fn forget_idle(&mut self) {
        if self.ready.len() < 2 * self.waiting + MANY_IDLE {
            return;
        }
        let entries = &mut self.entries;
        self.ready.retain(|key| {
            let wanted = entries.get(key).is_some_and(|entry| !entry.is_idle());
            if !wanted {
                entries.remove(key);
            }
            wanted
        });
    }

    /// Fails waiters with `error`.
    pub(crate) fn fail_waiters(
        &mut self,
        whom: Whom,
        error: &Error,
        now: Instant,
        responder: &mut impl Respond<W>,
    ) {
        let is_meant = |waiter: &mut Waiter<W>| whom == Whom::All || waiter.wait.is_try();
        let queues = self.entries.values_mut();
        let queues = queues.filter_map(|entry| entry.queue.as_mut());
        let meant: Vec<_> = queues.flat_map(|queue| queue.take(is_meant)).collect();
        self.waiting -= meant.len();
        for waiter in meant {
            responder.fail(self.sets.dismiss(waiter), error);
        }
        self.fail_picks(error, responder);
        self.proceed_with_sets(now, responder);
    }
}
