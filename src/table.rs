//! Who holds and who waits, in this process. Pure: no I/O and no clock of its own.
//!
//! The table alone decides between the threads of one process, because the server
//! cannot: to it they are one session, and a session may take the same advisory lock
//! again and again. The server decides between processes: for each key the table
//! holds at most one server lock, of one mode, however many guards share it.
//!
//! Waiters of a key are served first in, first out. A released lock goes straight to
//! the next waiter of the same mode, without the server, until this process has had
//! it for `entry::TENURE`; then the server lock is given up and left alone for as long as
//! another process may need to look at it.

mod batch;
mod entry;
mod handoff;
mod kept;
mod retry_queue;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use self::entry::{Entry, Holders, Line, Waiter};
use self::handoff::Recent;
use self::kept::Kept;
use self::retry_queue::Agenda;
use crate::backoff::Dice;
use crate::key::Key;
use crate::op::{Mode, Patience, Token};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Somebody else has the lock.
    Busy,
    /// The process has as many locks as it may.
    LimitReached,
}

/// Where the table's decisions go.
pub(crate) trait Desk<W> {
    /// The lock is `waiter`'s, under the number `id` and, with fencing, `token`; after a
    /// guard of this process if `handed_over`. False if the waiter has left and does not
    /// take it.
    fn grant(
        &mut self,
        waiter: W,
        key: Key,
        mode: Mode,
        id: u64,
        token: Option<Token>,
        handed_over: bool,
    ) -> bool;

    fn refuse(&mut self, waiter: W, refusal: Refusal);

    /// The hold with number `id` is over, at its end or its guard's.
    fn released(&mut self, id: u64);

    /// An acquire found its lock taken, here or at the server; said once for each.
    fn contended(&mut self, waiter: &W);
}

/// So many keys that nobody waits for are no burden.
const MANY_IDLE: usize = 64;

pub(crate) struct Limits {
    pub(crate) max_locks: Option<usize>,
    pub(crate) retry_min: Duration,
    pub(crate) retry_max: Duration,
    /// Does every holder need a token of the server's?
    pub(crate) fenced: bool,
}

pub(crate) struct Table<W> {
    limits: Limits,
    entries: HashMap<Key, Entry<W>>,
    /// Keys whose entry has to be looked at for the next batch.
    ready: VecDeque<Key>,
    agenda: Agenda,
    recent: Recent,
    kept: Kept,
    /// Empty lines, kept for their memory.
    #[allow(clippy::vec_box)] // the boxes are what is kept
    spare: Vec<Box<Line<W>>>,
    held: usize,
    waiting: usize,
    last_id: u64,
    dice: Dice,
}

impl<W> Table<W> {
    pub(crate) fn new(limits: Limits, seed: u64) -> Self {
        Table {
            limits,
            entries: HashMap::new(),
            ready: VecDeque::new(),
            agenda: Agenda::new(),
            recent: Recent::default(),
            kept: Kept::default(),
            spare: Vec::new(),
            held: 0,
            waiting: 0,
            last_id: 0,
            dice: Dice::new(seed),
        }
    }

    /// Guards out, and locks kept for their time alone.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Requests without an answer.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Has [`plan`](Table::plan) something to do already?
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When [`plan`](Table::plan) will have something to do by itself.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        [self.agenda.next(), self.kept.next()]
            .into_iter()
            .flatten()
            .min()
    }

    /// True if a lock is kept that has no guard any more.
    pub(crate) fn is_keeping(&self) -> bool {
        self.kept.next().is_some()
    }

    /// Somebody wants `key`.
    pub(crate) fn acquire(
        &mut self,
        key: Key,
        mode: Mode,
        patience: Patience,
        waiter: W,
        now: Instant,
        desk: &mut impl Desk<W>,
    ) {
        if self.is_full(0) {
            return desk.refuse(waiter, Refusal::LimitReached);
        }
        let spare = &mut self.spare;
        let entry = self.entries.entry(key).or_insert_with(Entry::new);
        if patience == Patience::Once && !entry.is_open_to(mode) && entry.is_known_taken() {
            desk.contended(&waiter);
            return desk.refuse(waiter, Refusal::Busy);
        }
        entry.line_from(spare).queue.push_back(Waiter {
            inner: waiter,
            mode,
            patience,
            since: now,
            contended: false,
        });
        self.waiting += 1;
        if let Patience::Until(deadline) = patience {
            self.hasten(key, deadline, now);
        }
        self.advance(key, now, false, desk);
    }

    /// The holder with number `id` gives `key` back; until `keep_until`, if that is to come,
    /// it counts as held all the same. False if there is no such hold.
    pub(crate) fn release(
        &mut self,
        key: Key,
        id: u64,
        keep_until: Option<Instant>,
        now: Instant,
        desk: &mut impl Desk<W>,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else {
            return false;
        };
        let left = match entry.holders {
            Holders::Exclusive(holder) if holder == id => Holders::None,
            Holders::Shared(1) => Holders::None,
            Holders::Shared(count) => Holders::Shared(count - 1),
            Holders::None | Holders::Exclusive(_) => return false,
        };
        if let Some(until) = keep_until.filter(|&until| until > now) {
            self.kept.put(until, id, key);
            return true;
        }
        entry.holders = left;
        self.held -= 1;
        desk.released(id);
        self.advance(key, now, true, desk);
        true
    }

    /// Ends the holds that were kept for their time alone, when it is over.
    fn release_kept(&mut self, now: Instant, desk: &mut impl Desk<W>) {
        while let Some((id, key)) = self.kept.pop(now) {
            self.release(key, id, None, now, desk);
        }
    }

    /// Does somebody wait for `key` while somebody here has it?
    pub(crate) fn is_awaited(&self, key: Key) -> bool {
        self.entries
            .get(&key)
            .is_some_and(|entry| entry.holders != Holders::None && entry.first().is_some())
    }

    /// Does the session hold `key` for nobody?
    pub(crate) fn is_unlock_due(&self, key: Key) -> bool {
        self.entries
            .get(&key)
            .is_some_and(|entry| entry.server.is_some() && entry.holders == Holders::None)
    }

    /// Drops the waiters of `key` that are `gone`.
    pub(crate) fn sweep(
        &mut self,
        key: Key,
        gone: impl Fn(&W) -> bool,
        now: Instant,
        desk: &mut impl Desk<W>,
    ) {
        if let Some(line) = self.line(key) {
            let before = line.queue.len();
            line.queue.retain(|waiter| !gone(&waiter.inner));
            let after = line.queue.len();
            self.waiting -= before - after;
            self.advance(key, now, false, desk);
        }
    }

    /// The session is gone, and all its locks. Everybody who waits goes on waiting.
    /// Returns how many holds were lost.
    pub(crate) fn lose(&mut self) -> usize {
        self.agenda.clear();
        self.recent = Recent::default();
        self.kept.clear();
        self.ready.clear();
        for (&key, entry) in &mut self.entries {
            entry.server = None;
            entry.holders = Holders::None;
            entry.tenure = None;
            entry.listed = true;
            if let Some(line) = &mut entry.line {
                line.look = None;
            }
            self.ready.push_back(key);
        }
        std::mem::take(&mut self.held)
    }

    /// Without a session nothing is planned, and every key that anybody asks for stays
    /// listed: forgets those that nobody waits for any more, if they are many.
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

    /// Sends away those who wait: all, or only those who cannot wait.
    pub(crate) fn dismiss(&mut self, all: bool, mut tell: impl FnMut(W)) {
        for line in self
            .entries
            .values_mut()
            .filter_map(|entry| entry.line.as_mut())
        {
            for _ in 0..line.queue.len() {
                let waiter = line.queue.pop_front().expect("it was just counted");
                if all || waiter.patience == Patience::Once {
                    self.waiting -= 1;
                    tell(waiter.inner);
                } else {
                    line.queue.push_back(waiter);
                }
            }
        }
    }

    /// Would one more lock, beside `more` that are on their way, be too many?
    fn is_full(&self, more: usize) -> bool {
        self.limits
            .max_locks
            .is_some_and(|max| self.held + more >= max)
    }

    /// Gives the lock to the first waiters for as long as that needs no server (with
    /// fencing: to one, if there is a token), and lists the key if something is left for
    /// the server to do.
    fn advance(&mut self, key: Key, now: Instant, handed_over: bool, desk: &mut impl Desk<W>) {
        let full = self.limits.max_locks;
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        loop {
            while entry.can_hand_over(now) && !(self.limits.fenced && entry.token.is_none()) {
                let waiter = entry.pop_front().expect("it can be handed over to");
                self.waiting -= 1;
                if full.is_some_and(|max| self.held >= max) {
                    desk.refuse(waiter.inner, Refusal::LimitReached);
                    continue;
                }
                self.last_id += 1;
                let id = self.last_id;
                let token = entry.token;
                if desk.grant(waiter.inner, key, waiter.mode, id, token, handed_over) {
                    self.held += 1;
                    entry.token = None;
                    entry.holders = match (waiter.mode, entry.holders) {
                        (Mode::Exclusive, _) => Holders::Exclusive(id),
                        (Mode::Shared, Holders::Shared(count)) => Holders::Shared(count + 1),
                        (Mode::Shared, _) => Holders::Shared(1),
                    };
                }
            }
            // A later holder needs a later one.
            entry.token = None;
            if entry.holders == Holders::None {
                break;
            }
            let refused = entry.tell_taken(|waiter| desk.contended(waiter));
            if refused.is_empty() {
                break;
            }
            // Those behind them may join the holders now.
            self.waiting -= refused.len();
            refused
                .into_iter()
                .for_each(|waiter| desk.refuse(waiter, Refusal::Busy));
        }
        if entry.line.as_ref().is_some_and(|line| line.is_idle()) {
            self.spare.extend(entry.line.take());
        }
        if entry.due(now).is_some() {
            self.list(key);
        }
    }

    fn line(&mut self, key: Key) -> Option<&mut Line<W>> {
        self.entries.get_mut(&key)?.line.as_deref_mut()
    }

    fn list(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key)
            && !entry.listed
        {
            entry.listed = true;
            self.ready.push_back(key);
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(entry) = self.entries.remove(&key) {
            debug_assert!(entry.first().is_none() && !entry.listed);
            self.spare.extend(entry.line);
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
