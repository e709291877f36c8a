//! The state of one key, and what may be done with it.

use std::time::Instant;

use super::Via;
use super::handoff;
use super::wait_queue::{WaitQueue, Waiter};
use crate::op::{Action, Mode, Token};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holders {
    None,
    Exclusive(u64),
    Shared(usize),
}

pub(super) struct Entry<W> {
    /// What the session holds at the server.
    pub(super) server: Option<Mode>,
    pub(super) holders: Holders,
    /// True if the session's lock has had a holder here.
    pub(super) was_held: bool,
    /// With fencing: drawn at the server for the next holder.
    pub(super) token: Option<Token>,
    /// When the [budget](handoff) began within which this process hands the lock on.
    pub(super) budget: Option<Instant>,
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

    /// The queue, created from a `spare` one if there is none.
    #[allow(clippy::vec_box)] // as in the table
    pub(super) fn queue_from(&mut self, spare: &mut Vec<Box<WaitQueue<W>>>) -> &mut WaitQueue<W> {
        self.queue.get_or_insert_with(|| {
            let mut queue = spare.pop().unwrap_or_else(WaitQueue::new);
            queue.reset();
            queue
        })
    }

    /// True if the lock has neither holders nor waiters here, and the session does not hold it.
    pub(super) fn is_idle(&self) -> bool {
        self.server.is_none() && self.holders == Holders::None && self.first().is_none()
    }

    fn waiters(&self) -> impl Iterator<Item = &Waiter<W>> {
        self.queue.iter().flat_map(|queue| &queue.waiters)
    }

    /// The lock has holders here: calls `tell` for each waiter that was not told so before, and
    /// removes those of them that try once and cannot share it.
    pub(super) fn tell_taken(&mut self, tell: impl FnMut(&W, Mode)) -> Vec<W> {
        let may_join = matches!(self.holders, Holders::Shared(_));
        let Some(queue) = self.queue.as_mut() else {
            return Vec::new();
        };
        let told = queue.tell_contended(tell);
        queue.take_refused(told, may_join)
    }

    /// True if no holder and no waiter here keeps a request that tries once from being attempted.
    pub(super) fn is_open_to(&self, mode: Mode) -> bool {
        match mode {
            Mode::Exclusive => self.holders == Holders::None && self.first().is_none(),
            Mode::Shared => {
                !matches!(self.holders, Holders::Exclusive(_))
                    && self.waiters().all(Waiter::is_shared)
            }
        }
    }

    /// True if it is certain that the lock is taken, or during the cooldown, when other processes
    /// may take it. If false, an attempt for the waiters may still be in flight.
    pub(super) fn is_known_taken(&self) -> bool {
        self.holders != Holders::None
            || self.first().is_some_and(|first| first.contended)
            || self.queue.as_ref().is_some_and(|queue| queue.is_cooldown)
    }

    /// True if the first waiter may have the lock, which the session holds already.
    pub(super) fn can_hand_over(&self, now: Instant) -> bool {
        let Some(first) = self.first() else {
            return false;
        };
        self.server == Some(first.mode)
            && match self.holders {
                Holders::None => !self.is_budget_spent(now),
                Holders::Exclusive(_) => false,
                // The other holders keep the server lock anyway.
                Holders::Shared(_) => true,
            }
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

    /// The action that is due at the server for the session's lock of this key, if any.
    pub(super) fn due(&self, now: Instant) -> Option<Action> {
        match self.server {
            None => Some(Action::Lock),
            // Only with fencing: otherwise the lock would have been handed over.
            Some(_) if self.can_hand_over(now) => Some(Action::Draw),
            Some(_) if self.holders == Holders::None => Some(Action::Unlock),
            Some(_) => None,
        }
    }

    /// True if the next attempt at the server has to wait.
    pub(super) fn is_deferred(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.is_deferred())
    }
}
