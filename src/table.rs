//! The lock table: the holders and waiters of each key in this process. Pure: no I/O and no
//! clock of its own.
//!
//! The table alone arbitrates between the threads that share a manager, because the server
//! cannot: to it they are one session, and a session may take the same advisory lock
//! repeatedly. The server arbitrates between processes: for each key the table holds at most one
//! server lock, of one mode, however many guards share it.
//!
//! Waiters of a key are served first in, first out. A released lock is handed to the next waiter
//! of the same mode, without the server, until this process has spent its [hand-off
//! budget](handoff).
//!
//! Processes see each other's waiters by the key's [companion](Key::waiters): a session whose
//! attempt was refused holds that shared until it has the lock or gives up (`Announce`,
//! `Withdraw`). A process that takes a lock again, or hands it on for longer than its budget, asks
//! whether anybody holds the companion (`Relock`, `LockUnawaited`, `Check`). If so, it leaves the
//! lock to them, until its attempts find the lock taken or the companion free. While it does so it
//! is not announced: of two processes that wait for each other, none would take the lock.

mod batch;
mod changes;
mod contention;
mod endings;
mod entry;
mod fences;
mod handoff;
mod holders;
mod kept;
pub(crate) mod late;
mod only_wait;
mod picks;
mod remembered;
mod respond;
mod retry_queue;
mod set;
mod sets;
mod spare;
mod wait_queue;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

pub(crate) use self::changes::Change;
use self::entry::Entry;
use self::fences::unfence;
use self::kept::Kept;
pub(crate) use self::only_wait::OnlyWait;
pub(crate) use self::picks::Choice;
use self::picks::Picker;
pub(crate) use self::respond::{Caller, Granted, Refusal, Respond, Via, Whom};
use self::retry_queue::RetryQueue;
use self::sets::Sets;
use self::spare::Spare;
use self::wait_queue::{WaitQueue, Waiter};
use crate::backoff::Jitter;
use crate::key::Key;
use crate::op::{Mode, Op, Wait};

/// The session does not hold the lock of this key, which it was to release.
#[derive(Debug)]
pub(crate) struct Stray(pub(crate) Key);

pub(crate) struct Limits {
    pub(crate) max_locks: Option<usize>,
    pub(crate) retry_min: Duration,
    pub(crate) retry_max: Duration,
    /// True if every holder needs a token from the server.
    pub(crate) fenced: bool,
}

pub(crate) struct Table<W> {
    limits: Limits,
    /// Boxed: a hash map has room for up to twice as many as it has.
    entries: HashMap<Key, Box<Entry<W>>>,
    /// Keys whose entry the next plan has to check.
    ready: VecDeque<Key>,
    /// Steps that fence holds, or end that, for the next plan.
    fences: VecDeque<Op>,
    retries: RetryQueue,
    /// Keys without holders and waiters whose entries are kept for a while, and until when.
    remembered: VecDeque<(Instant, Key)>,
    kept: Kept,
    spare: Spare<W>,
    sets: Sets<W>,
    pickers: VecDeque<Picker<W>>,
    held: usize,
    waiting: usize,
    last_id: u64,
    jitter: Jitter,
}

impl<W: Caller> Table<W> {
    pub(crate) fn new(limits: Limits, jitter: Jitter) -> Self {
        Table {
            limits,
            entries: HashMap::new(),
            ready: VecDeque::new(),
            fences: VecDeque::new(),
            retries: RetryQueue::new(),
            remembered: VecDeque::new(),
            kept: Kept::default(),
            spare: Spare::default(),
            sets: Sets::new(),
            pickers: VecDeque::new(),
            held: 0,
            waiting: 0,
            last_id: 0,
            jitter,
        }
    }

    /// Holds of guards, and locks kept after their guard is gone.
    pub(crate) fn held(&self) -> usize {
        self.held - self.sets.incomplete()
    }

    /// Requests that are not answered yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// True if [`plan`](Table::plan) has something to do now.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
            || !self.fences.is_empty()
            || !self.pickers.is_empty()
            || self.sets.has_work()
    }

    /// When [`plan`](Table::plan) will have something to do without another call.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        [self.retries.next(), self.kept.next()]
            .into_iter()
            .flatten()
            .min()
    }

    /// True if a lock is kept after its guard is gone.
    pub(crate) fn is_keeping(&self) -> bool {
        self.kept.next().is_some()
    }

    /// A request for `key`: grants, refuses or queues it.
    pub(crate) fn acquire(
        &mut self,
        key: Key,
        mode: Mode,
        wait: Wait,
        waiter: W,
        now: Instant,
        responder: &mut impl Respond<W>,
    ) {
        let waiter = Waiter::new(waiter, mode, wait, now);
        self.enqueue(key, waiter, now, responder);
        self.proceed_with_sets(now, responder);
    }

    fn enqueue(
        &mut self,
        key: Key,
        waiter: Waiter<W>,
        now: Instant,
        responder: &mut impl Respond<W>,
    ) {
        if let Some(max) = self.full(0) {
            return responder.refuse(self.sets.dismiss(waiter), Refusal::LimitReached(max));
        }
        let (mode, wait) = (waiter.mode, waiter.wait);
        let spare = &mut self.spare;
        let entry = self.entries.entry(key).or_insert_with(|| spare.entry());
        if entry.is_over(now) && entry.is_idle() {
            entry.forget();
        }
        if wait.is_try() && !entry.is_open_to(mode) && entry.is_known_taken() {
            responder.contended(&waiter.inner, key, mode);
            return responder.refuse(self.sets.dismiss(waiter), Refusal::Busy);
        }
        let via = entry.via();
        let queue = entry.queue.get_or_insert_with(|| spare.queue());
        if queue.waiters.is_empty() {
            // It was when to stop being announced.
            queue.retry = None;
        }
        queue.waiters.push_back(waiter);
        self.waiting += 1;
        if let Wait::Until(deadline) = wait {
            self.expedite(key, deadline, now);
        }
        self.advance(key, now, via, responder);
    }

    /// The holder with number `id` releases `key`; until `keep_until`, if that is in the future,
    /// it still counts as held. False if there is no such hold.
    pub(crate) fn release(
        &mut self,
        key: Key,
        id: u64,
        keep_until: Option<Instant>,
        now: Instant,
        responder: &mut impl Respond<W>,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else {
            return false;
        };
        let Some(holder) = entry.holders.get_mut(id) else {
            return false;
        };
        if let Some(fence) = holder.fence.take() {
            unfence(&mut self.fences, key, fence.number);
        }
        if let Some(until) = keep_until.filter(|&until| until > now) {
            self.kept.put(until, id, key);
            return true;
        }
        self.end_hold(key, id);
        responder.released(key, id);
        // A set that gets it goes on with the next plan: a batch may be on its way now, with an
        // unlock of the set's next key.
        self.advance(key, now, Via::Handoff, responder);
        true
    }

    /// The hold of `key` with number `id`, which is one of them, has ended.
    fn end_hold(&mut self, key: Key, id: u64) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.holders.remove(id);
            self.held -= 1;
        }
    }

    /// Ends the holds that were kept after their guard, when their time is over.
    fn release_kept(&mut self, now: Instant, responder: &mut impl Respond<W>) {
        while let Some((id, key)) = self.kept.pop(now) {
            self.release(key, id, None, now, responder);
        }
    }

    /// True if `key` has both holders and waiters here.
    pub(crate) fn is_awaited(&self, key: Key) -> bool {
        self.entries
            .get(&key)
            .is_some_and(|entry| !entry.holders.is_none() && entry.first().is_some())
    }

    /// True if the session holds `key` without a holder.
    pub(crate) fn is_unlock_due(&self, key: Key) -> bool {
        self.entries
            .get(&key)
            .is_some_and(|entry| entry.server.is_some() && entry.holders.is_none())
    }

    /// How many more locks the limit allows besides `more` that are in progress.
    fn room(&self, more: usize) -> usize {
        let max = self.limits.max_locks.unwrap_or(usize::MAX);
        max.saturating_sub(self.held + more)
    }

    /// The limit of locks, if one more, besides `more` that are in progress, would exceed it.
    fn full(&self, more: usize) -> Option<usize> {
        self.limits.max_locks.filter(|&max| self.held + more >= max)
    }

    /// Grants the lock to the first waiters as far as that needs no server (with fencing: to
    /// one, if there is a token), and lists the key if something is left to do at the server.
    fn advance(&mut self, key: Key, now: Instant, via: Via, responder: &mut impl Respond<W>) {
        let limit = self.limits.max_locks;
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        loop {
            while entry.can_hand_over(now) && !(self.limits.fenced && entry.token.is_none()) {
                let waiter = entry.pop_front().expect("it can be handed over to");
                self.waiting -= 1;
                if let Some(max) = limit.filter(|&max| self.held >= max) {
                    responder.refuse(self.sets.dismiss(waiter), Refusal::LimitReached(max));
                    continue;
                }
                self.last_id += 1;
                let granted = Granted {
                    key,
                    mode: waiter.mode,
                    id: self.last_id,
                    token: entry.token,
                    waited: now.saturating_duration_since(waiter.since),
                    via,
                };
                let thread = waiter.inner.thread();
                if self.sets.grant(waiter, granted, responder) {
                    self.held += 1;
                    entry.begin_hold(granted, thread, now);
                }
            }
            // A later holder needs a later token.
            entry.token = None;
            if entry.holders.is_none() {
                break;
            }
            let refused = entry.tell_taken(|waiter, mode| responder.contended(waiter, key, mode));
            if refused.is_empty() {
                break;
            }
            // Waiters behind them may now join the holders.
            self.waiting -= refused.len();
            for waiter in refused {
                responder.refuse(self.sets.dismiss(waiter), Refusal::Busy);
            }
        }
        if entry.queue.as_ref().is_some_and(|queue| queue.is_idle()) {
            self.spare.queues.extend(entry.queue.take());
        }
        let is_unwanted = entry.server.is_none() && entry.first().is_none();
        if is_unwanted || entry.has_to_withdraw() || entry.due(now).is_some() {
            self.list(key);
        }
    }

    fn via(&self, key: Key) -> Via {
        self.entries
            .get(&key)
            .map_or(Via::Server, |entry| entry.via())
    }

    fn queue(&mut self, key: Key) -> Option<&mut WaitQueue<W>> {
        self.entries.get_mut(&key)?.queue.as_deref_mut()
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
            self.spare.keep(entry);
        }
    }
}

#[cfg(all(test, not(distlock_model)))]
mod model;
#[cfg(all(test, not(distlock_model)))]
mod tests;
