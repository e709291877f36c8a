//! The waiters of a key, in order of arrival.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::retry_queue::Retry;
use super::set::Set;
use crate::key::Key;
use crate::op::{Mode, Wait};

/// For how long a waiter is new: a little longer than a process that tries in a loop is shown to
/// wait after it has stopped.
const MOMENT: Duration = Duration::from_millis(25);

pub(super) struct Waiter<W> {
    pub(super) inner: W,
    /// If it waits for more than one key.
    pub(super) set: Option<Box<Set>>,
    pub(super) mode: Mode,
    pub(super) wait: Wait,
    pub(super) since: Instant,
    /// True once the waiter has been told that the lock is taken.
    pub(super) contended: bool,
    /// True once it has been reported that the wait lasts long.
    pub(super) is_reported: bool,
    /// True once it has been looked for a cycle of waits with this one in it.
    pub(super) is_examined: bool,
}

impl<W> Waiter<W> {
    pub(super) fn new(inner: W, mode: Mode, wait: Wait, now: Instant) -> Self {
        Waiter {
            inner,
            set: None,
            mode,
            wait,
            since: now,
            contended: false,
            is_reported: false,
            is_examined: false,
        }
    }

    /// The key that its set, if it is one, waits for now.
    pub(super) fn turn_to_next(&mut self) -> Option<Key> {
        let (key, mode) = self.set.as_ref()?.next();
        self.mode = mode;
        self.contended = false;
        self.is_reported = false;
        self.is_examined = false;
        Some(key)
    }

    pub(super) fn is_shared(&self) -> bool {
        self.mode == Mode::Shared
    }

    pub(super) fn is_new(&self, now: Instant) -> bool {
        now < self.since + MOMENT
    }
}

pub(super) struct WaitQueue<W> {
    pub(super) waiters: VecDeque<Waiter<W>>,
    /// When to ask the server again. `None`: at once.
    pub(super) retry: Option<Retry>,
    /// True if other sessions are to be shown that this one waits.
    pub(super) announces: bool,
}

impl<W> WaitQueue<W> {
    pub(super) fn new() -> Box<Self> {
        Box::new(WaitQueue {
            waiters: VecDeque::new(),
            retry: None,
            announces: false,
        })
    }

    /// Prepares it for another key. Keeps its memory.
    pub(super) fn reset(&mut self) {
        self.retry = None;
        self.announces = false;
    }

    /// True if there are no waiters, and other sessions need not be shown any.
    pub(super) fn is_idle(&self) -> bool {
        self.waiters.is_empty() && !self.announces
    }

    /// True if the next attempt at the server has to wait; false if any waiter tries once, unless
    /// the lock is left to others.
    pub(super) fn is_deferred(&self, is_yielding: bool) -> bool {
        self.retry.is_some()
            && !self.is_idle()
            && (is_yielding || self.waiters.iter().all(|waiter| !waiter.wait.is_try()))
    }

    /// Removes the waiters for which `is_meant` is true, in their order; the others keep theirs.
    pub(super) fn take(
        &mut self,
        mut is_meant: impl FnMut(&mut Waiter<W>) -> bool,
    ) -> Vec<Waiter<W>> {
        let mut taken = Vec::new();
        for _ in 0..self.waiters.len() {
            let mut waiter = self.waiters.pop_front().expect("it was just counted");
            if is_meant(&mut waiter) {
                taken.push(waiter);
            } else {
                self.waiters.push_back(waiter);
            }
        }
        taken
    }

    /// Calls `tell` for each waiter that was not told before that the lock is taken. Those are the
    /// last ones, because all are told at once. Returns how many there are.
    pub(super) fn tell_contended(&mut self, mut tell: impl FnMut(&W, Mode)) -> usize {
        let mut told = 0;
        let waiters = self.waiters.iter_mut().rev();
        for waiter in waiters.take_while(|waiter| !waiter.contended) {
            waiter.contended = true;
            tell(&waiter.inner, waiter.mode);
            told += 1;
        }
        told
    }

    /// Removes those of the last `told` waiters that try once, except those that may join shared
    /// holders. `may_join` is true if the holders are shared.
    pub(super) fn take_refused(&mut self, told: usize, may_join: bool) -> Vec<Waiter<W>> {
        let mut refused = Vec::new();
        let waiters = &mut self.waiters;
        let mut next = waiters.len() - told;
        if !waiters.range(next..).any(|waiter| waiter.wait.is_try()) {
            return refused;
        }
        let mut may_join = may_join && waiters.range(..next).all(Waiter::is_shared);
        while let Some(waiter) = waiters.get(next) {
            let joins = may_join && waiter.is_shared();
            if waiter.wait.is_try() && !joins {
                refused.extend(waiters.remove(next));
            } else {
                may_join = joins;
                next += 1;
            }
        }
        refused
    }
}
