//! Keys without holders and waiters, whose last holds count for a while.

use std::time::Instant;

use super::retry_queue::Retry;
use super::{Caller, Table};
use crate::key::Key;

/// So many keys that were released or refused are remembered at most.
pub(super) const MOST_REMEMBERED: usize = 1024;

impl<W: Caller> Table<W> {
    /// The lock has neither holders nor waiters: remembers or forgets it.
    pub(super) fn retire(&mut self, key: Key, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if entry.server.is_some() || entry.first().is_some() {
            return;
        }
        if let Some(until) = entry.announced_until() {
            entry.queue.get_or_insert_with(|| self.spare.queue());
            return self.schedule(key, Retry::at(until));
        }
        if !entry.is_idle() {
            return;
        }
        if entry.queue.as_ref().is_some_and(|queue| queue.is_idle()) {
            self.spare.queues.extend(entry.queue.take());
        }
        match entry.remembered_until.filter(|&until| until > now) {
            None => self.remove(key),
            Some(_) if entry.is_remembered => {}
            Some(until) => {
                entry.is_remembered = true;
                self.remembered.push_back((until, key));
            }
        }
    }

    /// Forgets keys whose time is over, or that are too many.
    pub(super) fn forget_old(&mut self, now: Instant) {
        while let Some(&(until, key)) = self.remembered.front()
            && (until <= now || self.remembered.len() > MOST_REMEMBERED)
        {
            self.remembered.pop_front();
            let is_full = self.remembered.len() >= MOST_REMEMBERED;
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            entry.is_remembered = false;
            if is_full {
                entry.remembered_until = None;
            }
            if !entry.listed {
                self.retire(key, now);
            }
        }
    }
}
