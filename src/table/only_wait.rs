//! Whether a manager has nothing else to do than to wait for one lock.

use std::time::Instant;

use super::{Caller, Table};
use crate::op::{Action, Op};

/// All that there is to do.
pub(crate) struct OnlyWait {
    pub(crate) op: Op,
    /// True if all waiters have been told that the lock is taken.
    pub(crate) are_told: bool,
    /// Of the first waiter that gives up.
    pub(crate) deadline: Option<Instant>,
}

impl<W: Caller> Table<W> {
    /// The lock that one key's waiters wait for, if nothing else is held, awaited or to be done at
    /// the server, and another process has it.
    pub(crate) fn only_wait(&self) -> Option<OnlyWait> {
        if self.waiting == 0 || self.held > 0 || self.has_ready() {
            return None;
        }
        let mut busy = self.entries.iter().filter(|(_, entry)| !entry.is_idle());
        let (&key, entry) = busy.next().filter(|_| busy.next().is_none())?;
        let (mode, action) = (entry.first()?.mode, Action::Lock);
        let is_taken = entry.is_announced && entry.server.is_none();
        is_taken.then(|| OnlyWait {
            op: Op { key, mode, action },
            are_told: entry.waiters().all(|waiter| waiter.contended),
            deadline: entry.waiters().filter_map(|it| it.wait.deadline()).min(),
        })
    }

    /// The only wait goes on in the server's queue: it needs no retries.
    pub(crate) fn parks(&mut self) {
        self.retries.clear();
        for queue in self
            .entries
            .values_mut()
            .filter_map(|entry| entry.queue.as_mut())
        {
            queue.retry = None;
        }
    }
}
