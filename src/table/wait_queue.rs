//! Those who wait for a key, in their order.

use std::collections::VecDeque;
use std::time::Instant;

use super::retry_queue::Retry;
use crate::op::{Mode, Wait};

pub(super) struct Waiter<W> {
    pub(super) inner: W,
    pub(super) mode: Mode,
    pub(super) wait: Wait,
    pub(super) since: Instant,
    /// True once it has been told that the lock is taken.
    pub(super) contended: bool,
}

impl<W> Waiter<W> {
    pub(super) fn is_shared(&self) -> bool {
        self.mode == Mode::Shared
    }
}

pub(super) struct WaitQueue<W> {
    pub(super) waiters: VecDeque<Waiter<W>>,
    /// When to ask the server again. `None`: at once.
    pub(super) retry: Option<Retry>,
    /// True if other processes have their turn until that retry, so that whoever comes
    /// meanwhile waits, too.
    pub(super) is_cooldown: bool,
}

impl<W> WaitQueue<W> {
    pub(super) fn new() -> Box<Self> {
        Box::new(WaitQueue {
            waiters: VecDeque::new(),
            retry: None,
            is_cooldown: false,
        })
    }

    /// For another key, with the memory that it has.
    pub(super) fn reset(&mut self) {
        self.retry = None;
        self.is_cooldown = false;
    }

    /// True if there are no waiters, and whoever came would not have to wait.
    pub(super) fn is_idle(&self) -> bool {
        self.waiters.is_empty() && !(self.is_cooldown && self.retry.is_some())
    }

    /// True if the next attempt at the server is for later. Not for one that tries once.
    pub(super) fn is_deferred(&self) -> bool {
        self.retry.is_some()
            && !self.is_idle()
            && self.waiters.iter().all(|waiter| !waiter.wait.is_try())
    }

    /// Takes out those that are `meant`, in their order; the others keep theirs.
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

    /// The lock is taken: tells so of each waiter that was not told before. Those are the
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

    /// Takes those of the last `told` out that try once, but for those that may join shared
    /// holders: `may_join` says that the holders are.
    pub(super) fn take_refused(&mut self, told: usize, may_join: bool) -> Vec<W> {
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
                refused.extend(waiters.remove(next).map(|waiter| waiter.inner));
            } else {
                may_join = joins;
                next += 1;
            }
        }
        refused
    }
}
