//! The state of one key, and what may be done with it.

use std::time::Instant;

use super::contention::Contention;
use super::handoff;
use super::holders::{Holder, Holders};
use super::wait_queue::{WaitQueue, Waiter};
use super::{Granted, Via};
use crate::op::{Action, Mode, Token};
use crate::sync::thread::Thread;

pub(super) struct Entry<W> {
    /// What the session holds at the server.
    pub(super) server: Option<Mode>,
    pub(super) holders: Holders,
    /// True if the session's lock has had a holder here.
    pub(super) was_held: bool,
    /// With fencing: drawn at the server for the next holder.
    pub(super) token: Option<Token>,
    /// When the [budget](handoff) began within which this process hands the lock on. Kept for a
    /// while after the lock was released.
    pub(super) budget: Option<Instant>,
    /// True if the lock was won against other processes: then they are let have it after each
    /// hold, not only after a budget.
    pub(super) is_contested: bool,
    /// An exclusive holder had its transactions fenced: the next one has to drain them, and so gets
    /// the lock from the server.
    pub(super) is_fenced: bool,
    /// The mode of its only hold is about to change: nobody joins it.
    pub(super) is_changing: bool,
    /// Another process waits for a lock that has shared holders here: nobody joins them.
    pub(super) is_closed: bool,
    /// True if other sessions are shown that this one waits.
    pub(super) is_announced: bool,
    /// Boxed, and usually absent, as the queue is.
    pub(super) contention: Option<Box<Contention>>,
    /// So many budgets in a row the lock was not released for longer than a moment.
    pub(super) budgets: u32,
    /// Until when this entry is remembered although the lock has neither holders nor waiters.
    pub(super) remembered_until: Option<Instant>,
    /// True if the key is in `remembered`.
    pub(super) is_remembered: bool,
    /// Boxed, and usually absent: there may be very many held locks without waiters.
    pub(super) queue: Option<Box<WaitQueue<W>>>,
    /// True if the key is in `ready`.
    pub(super) listed: bool,
}

impl<W> Entry<W> {
    pub(super) fn new() -> Self {
        Entry {
            server: None,
            holders: Holders::None,
            was_held: false,
            token: None,
            budget: None,
            is_contested: false,
            is_fenced: false,
            is_changing: false,
            is_closed: false,
            is_announced: false,
            contention: None,
            budgets: 0,
            remembered_until: None,
            is_remembered: false,
            queue: None,
            listed: false,
        }
    }

    pub(super) fn first(&self) -> Option<&Waiter<W>> {
        self.queue.as_ref()?.waiters.front()
    }

    pub(super) fn pop_front(&mut self) -> Option<Waiter<W>> {
        self.queue.as_mut()?.waiters.pop_front()
    }

    pub(super) fn contention(&mut self) -> &mut Contention {
        self.contention.get_or_insert_default()
    }

    fn yields_until(&self) -> Option<Instant> {
        self.contention.as_ref()?.yields_until
    }

    pub(super) fn refused_at(&self) -> Option<Instant> {
        self.contention.as_ref()?.refused_at
    }

    /// True if the lock has neither holders nor waiters here, and the session holds nothing for it.
    pub(super) fn is_idle(&self) -> bool {
        self.server.is_none()
            && self.holders.is_none()
            && !self.is_announced
            && self.first().is_none()
    }

    /// What was `granted` is a hold now, of `thread`.
    pub(super) fn begin_hold(&mut self, granted: Granted, thread: Thread, now: Instant) {
        self.was_held = true;
        self.token = None;
        let holder = Holder::new(granted.id, thread, now);
        self.holders.add(granted.mode, holder);
    }

    /// The session has ended.
    pub(super) fn disconnected(&mut self) {
        self.unlocked();
        self.holders = Holders::None;
        self.is_announced = false;
        self.remembered_until = None;
        self.is_remembered = false;
        self.forget();
        if let Some(queue) = &mut self.queue {
            queue.reset();
        }
    }

    /// What the last holds left behind does not count any more.
    pub(super) fn forget(&mut self) {
        self.budget = None;
        self.is_contested = false;
        self.contention = None;
        self.budgets = 0;
    }

    /// The session has released the lock.
    pub(super) fn unlocked(&mut self) {
        self.server = None;
        self.was_held = false;
        self.is_fenced = false;
        self.is_changing = false;
        self.is_closed = false;
    }

    pub(super) fn waiters(&self) -> impl Iterator<Item = &Waiter<W>> {
        self.queue.iter().flat_map(|queue| &queue.waiters)
    }

    /// True if all who wait try once, and have only just begun to.
    pub(super) fn has_only_new_tries(&self, now: Instant) -> bool {
        self.waiters().all(|it| it.wait.is_try() && it.is_new(now))
    }

    /// True if somebody has only just begun to wait, and nobody who tries once has waited for longer.
    pub(super) fn has_new(&self, now: Instant) -> bool {
        let is_old_try = |it: &Waiter<W>| it.wait.is_try() && !it.is_new(now);
        self.waiters().any(|it| it.is_new(now)) && !self.waiters().any(is_old_try)
    }

    /// The lock has holders here: calls `tell` for each waiter that was not told so before, and
    /// removes those of them that try once and cannot share it.
    pub(super) fn tell_taken(&mut self, tell: impl FnMut(&W, Mode)) -> Vec<Waiter<W>> {
        let may_join = self.is_joinable();
        let Some(queue) = self.queue.as_mut() else {
            return Vec::new();
        };
        let told = queue.tell_contended(tell);
        queue.take_refused(told, may_join)
    }

    /// True if it has shared holders, who keep no other from sharing it.
    fn is_joinable(&self) -> bool {
        self.holders.is_shared() && !self.is_closed && !self.is_fenced
    }

    /// True if no holder and no waiter here keeps a request that tries once from being attempted.
    pub(super) fn is_open_to(&self, mode: Mode) -> bool {
        match mode {
            Mode::Exclusive => self.holders.is_none() && self.first().is_none(),
            Mode::Shared => {
                (self.holders.is_none() || self.is_joinable())
                    && self.waiters().all(Waiter::is_shared)
            }
        }
    }

    /// True if it is certain that the lock is taken. If false, an attempt for the waiters may still
    /// be in flight.
    pub(super) fn is_known_taken(&self) -> bool {
        !self.holders.is_none() || self.first().is_some_and(|first| first.contended)
    }

    /// True if the first waiter may have the lock, which the session holds already.
    pub(super) fn can_hand_over(&self, now: Instant) -> bool {
        let Some(first) = self.first() else {
            return false;
        };
        self.server == Some(first.mode)
            && !self.holders.is_exclusive()
            && !self.is_closed
            && !self.is_fenced
            && !self.is_changing
            && !self.is_budget_spent(now)
    }

    /// How the lock, which the session holds, comes to its next holder.
    pub(super) fn via(&self) -> Via {
        match self.holders {
            Holders::None if self.was_held => Via::Handoff,
            Holders::None | Holders::Exclusive(_) | Holders::Shared(_) => Via::Server,
        }
    }

    pub(super) fn is_budget_spent(&self, now: Instant) -> bool {
        self.budget
            .is_some_and(|start| handoff::is_spent(start, now))
    }

    /// The action that is due at the server, if any.
    pub(super) fn due(&self, now: Instant) -> Option<Action> {
        let first = self.first();
        let Some(mode) = self.server else {
            return match first {
                _ if self.has_to_announce() => Some(Action::Announce),
                None if self.is_announced => {
                    let is_over = self.announced_until().is_none_or(|until| until <= now);
                    is_over.then_some(Action::Withdraw)
                }
                None => None,
                Some(_) if self.has_to_ask(now) => Some(Action::LockUnawaited),
                Some(_) => Some(Action::Lock),
            };
        };
        let continues = first.is_some_and(|first| first.mode == mode);
        match self.holders {
            _ if self.is_changing => None,
            // Only with fencing: otherwise the lock would have been handed over.
            _ if self.can_hand_over(now) => Some(Action::Draw),
            Holders::None if continues => Some(Action::Relock),
            Holders::None => Some(Action::Unlock),
            // Nobody joins a hold that was exclusive and has fenced transactions.
            Holders::Shared(_) if self.is_fenced => None,
            Holders::Shared(_) if continues && !(self.is_closed && self.is_deferred()) => {
                Some(Action::Check)
            }
            Holders::Shared(_) | Holders::Exclusive(_) => None,
        }
    }

    /// Until when other sessions are shown that this one waits, if nobody waits here.
    pub(super) fn announced_until(&self) -> Option<Instant> {
        let refused_at = self.refused_at().filter(|_| self.is_announced);
        refused_at.map(|at| at + handoff::BUDGET)
    }

    /// True if other sessions are still shown that this one waits, although it has the lock.
    pub(super) fn has_to_withdraw(&self) -> bool {
        self.is_announced && self.server.is_some()
    }

    /// True if the server has refused the lock, and other sessions are to be shown that this one
    /// waits.
    fn has_to_announce(&self) -> bool {
        !self.is_announced && self.queue.as_ref().is_some_and(|queue| queue.announces)
    }

    /// True if the lock has to be left to other processes that wait for it. Not if this one has
    /// been announced, too: then one of them has to take it.
    pub(super) fn has_to_ask(&self, now: Instant) -> bool {
        !self.is_announced
            && match self.yields_until() {
                Some(until) => now < until,
                None => self.is_contested || self.is_budget_spent(now),
            }
    }

    /// True if the entry need not be remembered any longer.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.remembered_until.is_none_or(|until| until <= now)
    }

    /// True if the next attempt at the server has to wait.
    pub(super) fn is_deferred(&self) -> bool {
        let is_yielding = self.yields_until().is_some();
        let is_deferred = |queue: &WaitQueue<W>| queue.is_deferred(is_yielding);
        self.queue.as_deref().is_some_and(is_deferred)
    }
}
