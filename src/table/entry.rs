//! The state of one key, and what may be done with it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::retry_queue::Look;
use crate::op::Action;
use crate::op::{Mode, Patience, Token};

/// How long a process may pass a lock on inside before others get their turn.
pub(super) const TENURE: Duration = Duration::from_millis(20);

pub(super) struct Waiter<W> {
    pub(super) inner: W,
    pub(super) mode: Mode,
    pub(super) patience: Patience,
    pub(super) since: Instant,
    pub(super) contended: bool,
}

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
    /// With fencing: drawn at the server for the next holder.
    pub(super) token: Option<Token>,
    /// Since when this process has had the server lock without giving others a turn.
    pub(super) tenure: Option<Instant>,
    /// Apart, and only where somebody waits: there may be very many held locks.
    pub(super) line: Option<Box<Line<W>>>,
    /// Is the key in `ready`?
    pub(super) listed: bool,
}

/// Those who wait for a key, in their order.
pub(super) struct Line<W> {
    pub(super) queue: VecDeque<Waiter<W>>,
    /// When to look at the server again. None: at once.
    pub(super) look: Option<Look>,
    /// Until that look, is it others' turn? Then whoever comes meanwhile waits, too.
    pub(super) is_rest: bool,
}

impl<W> Line<W> {
    pub(super) fn new() -> Box<Self> {
        Box::new(Line {
            queue: VecDeque::new(),
            look: None,
            is_rest: false,
        })
    }

    /// Does nobody stand in it, and would nobody have to?
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && !(self.is_rest && self.look.is_some())
    }
}

impl<W> Entry<W> {
    pub(super) fn new() -> Self {
        Entry {
            server: None,
            holders: Holders::None,
            token: None,
            tenure: None,
            line: None,
            listed: false,
        }
    }

    pub(super) fn first(&self) -> Option<&Waiter<W>> {
        self.line.as_ref()?.queue.front()
    }

    /// The line, made of a `spare` one if there is none.
    #[allow(clippy::vec_box)] // as in the table
    pub(super) fn line_from(&mut self, spare: &mut Vec<Box<Line<W>>>) -> &mut Line<W> {
        self.line.get_or_insert_with(|| {
            let mut line = spare.pop().unwrap_or_else(Line::new);
            line.look = None;
            line.is_rest = false;
            line
        })
    }

    /// Does nobody here have it or want it, nor the session hold it?
    pub(super) fn is_idle(&self) -> bool {
        self.server.is_none() && self.holders == Holders::None && self.first().is_none()
    }

    fn waiters(&self) -> impl Iterator<Item = &Waiter<W>> {
        self.line.iter().flat_map(|line| &line.queue)
    }

    /// The lock is taken: tells so of each waiter that was not told before. Those are the
    /// last ones, because all are told at once. Returns how many there are.
    pub(super) fn tell_contended(&mut self, mut tell: impl FnMut(&W)) -> usize {
        let mut told = 0;
        let waiters = self
            .line
            .iter_mut()
            .flat_map(|line| line.queue.iter_mut().rev());
        for waiter in waiters.take_while(|waiter| !waiter.contended) {
            waiter.contended = true;
            tell(&waiter.inner);
            told += 1;
        }
        told
    }

    /// Somebody here has the lock: tells so of each waiter that was not told before, and takes
    /// those of them out that cannot wait and cannot share it.
    pub(super) fn tell_taken(&mut self, tell: impl FnMut(&W)) -> Vec<W> {
        let told = self.tell_contended(tell);
        let mut refused = Vec::new();
        let Some(line) = self.line.as_mut() else {
            return refused;
        };
        let queue = &mut line.queue;
        let mut next = queue.len() - told;
        let is_hasty = |waiter: &Waiter<W>| waiter.patience == Patience::Once;
        if !queue.range(next..).any(is_hasty) {
            return refused;
        }
        let is_shared = |waiter: &Waiter<W>| waiter.mode == Mode::Shared;
        let mut may_join =
            matches!(self.holders, Holders::Shared(_)) && queue.range(..next).all(is_shared);
        while let Some(waiter) = queue.get(next) {
            let joins = may_join && is_shared(waiter);
            if is_hasty(waiter) && !joins {
                refused.extend(queue.remove(next).map(|waiter| waiter.inner));
            } else {
                may_join = joins;
                next += 1;
            }
        }
        refused
    }

    pub(super) fn pop_front(&mut self) -> Option<Waiter<W>> {
        self.line.as_mut()?.queue.pop_front()
    }

    /// May a request that cannot wait be tried at all?
    pub(super) fn is_open_to(&self, mode: Mode) -> bool {
        match mode {
            Mode::Exclusive => self.holders == Holders::None && self.first().is_none(),
            Mode::Shared => {
                !matches!(self.holders, Holders::Exclusive(_))
                    && self.waiters().all(|waiter| waiter.mode == Mode::Shared)
            }
        }
    }

    /// Is it certain that somebody has the lock, or that it is others' turn? If not, those who
    /// wait may all be told yet that nobody knows.
    pub(super) fn is_known_taken(&self) -> bool {
        self.holders != Holders::None
            || self.first().is_some_and(|first| first.contended)
            || self.line.as_ref().is_some_and(|line| line.is_rest)
    }

    /// May the first in the queue have the lock, which the session has already?
    pub(super) fn can_hand_over(&self, now: Instant) -> bool {
        let Some(first) = self.first() else {
            return false;
        };
        self.server == Some(first.mode)
            && match self.holders {
                Holders::None => !self.is_tenure_over(now),
                Holders::Exclusive(_) => false,
                // Its fellow holders keep the server lock anyway.
                Holders::Shared(_) => true,
            }
    }

    /// A tenure that began at `start` goes on, for one hold at least: what has been taken at
    /// the server is not given back unused.
    pub(super) fn begin_tenure(&mut self, start: Instant, now: Instant) {
        let oldest = now.checked_sub(TENURE - Duration::from_nanos(1));
        self.tenure = Some(oldest.map_or(start, |oldest| start.max(oldest)));
    }

    pub(super) fn is_tenure_over(&self, now: Instant) -> bool {
        self.tenure
            .is_some_and(|start| now.saturating_duration_since(start) >= TENURE)
    }

    /// What the server is to do for the key with its session's lock, if anything.
    pub(super) fn due(&self, now: Instant) -> Option<Action> {
        match self.server {
            None => Some(Action::Lock),
            // With fencing: otherwise it had been handed over.
            Some(_) if self.can_hand_over(now) => Some(Action::Draw),
            Some(_) if self.holders == Holders::None => Some(Action::Unlock),
            Some(_) => None,
        }
    }

    /// Is the next look at the server for later? Not for one who cannot wait.
    pub(super) fn is_put_off(&self) -> bool {
        self.line
            .as_ref()
            .is_some_and(|line| line.look.is_some() && !line.is_idle())
            && self
                .waiters()
                .all(|waiter| waiter.patience != Patience::Once)
    }
}
