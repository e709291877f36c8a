//! Sets: requests for several keys, all of which they get or none.
//!
//! A set waits for one key at a time, in the order of its keys, and holds those before it. That
//! order is the same for all sets of all processes, so no two of them can wait for each other:
//! whoever waits for a key holds only lower ones, and its holders wait for higher ones, if at all.
//! A set that tries once stops at the first key that is taken, so of several that try the same keys
//! one gets them.
//!
//! To take free keys in one round trip, a key's lock at the server brings those of the following
//! keys with it ([`Action::LockNext`]), as far as nothing here has to do with them.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::set::Set;
use super::wait_queue::Waiter;
use super::{Caller, Granted, Respond, Table, Via};
use crate::key::Key;
use crate::op::{Action, Mode, Op, Wait};

/// What is left to do for sets once the entry at hand is settled.
enum SetWork<W> {
    /// The set has got one of its keys, and has to get the next one.
    Next(Waiter<W>),
    /// This hold was of a set that gets nothing.
    Undo(Key, u64),
}

/// What the table has of its sets besides their places in queues.
pub(super) struct Sets<W> {
    work: VecDeque<SetWork<W>>,
    /// The holds of sets that wait for the rest.
    incomplete: usize,
    // Of the plan in progress: the locks that are tried together, and the keys that come with others.
    chains: Vec<Op>,
    chained: HashSet<Key>,
}

impl<W: Caller> Sets<W> {
    pub(super) fn new() -> Self {
        Sets {
            work: VecDeque::new(),
            incomplete: 0,
            chains: Vec::new(),
            chained: HashSet::new(),
        }
    }

    pub(super) fn incomplete(&self) -> usize {
        self.incomplete
    }

    pub(super) fn has_work(&self) -> bool {
        !self.work.is_empty()
    }

    /// Sets that have got one of their keys, and do not wait for the next one yet.
    #[cfg(all(test, not(distlock_model)))]
    pub(super) fn going_on(&self) -> usize {
        let goes_on = |work: &&SetWork<W>| matches!(work, SetWork::Next(_));
        self.work.iter().filter(goes_on).count()
    }

    /// How many steps of the plan in progress are in chains.
    pub(super) fn planned(&self) -> usize {
        self.chains.len()
    }

    /// Moves those steps to the end of `batch`.
    pub(super) fn take_planned(&mut self, batch: &mut Vec<Op>) {
        batch.append(&mut self.chains);
        self.chained.clear();
    }

    /// Gives `waiter` the lock of `granted`: true if that is a hold now.
    pub(super) fn grant(
        &mut self,
        mut waiter: Waiter<W>,
        granted: Granted,
        responder: &mut impl Respond<W>,
    ) -> bool {
        let Some(set) = &mut waiter.set else {
            return responder.grant(waiter.inner, &[granted]);
        };
        set.granted.push(granted);
        if set.granted.len() < set.keys.len() {
            self.incomplete += 1;
            self.work.push_back(SetWork::Next(waiter));
            return true;
        }
        let granted = std::mem::take(&mut set.granted);
        let (_, before) = granted.split_last().expect("it has just got one");
        let is_taken = responder.grant(waiter.inner, &granted);
        if is_taken {
            self.incomplete -= before.len();
        } else {
            self.undo(before);
        }
        is_taken
    }

    /// The caller of `waiter`, which does not wait any more, and so holds nothing.
    pub(super) fn dismiss(&mut self, waiter: Waiter<W>) -> W {
        if let Some(set) = waiter.set {
            self.undo(&set.granted);
        }
        waiter.inner
    }

    fn undo(&mut self, granted: &[Granted]) {
        // The last ones first: a set that waits for one of them may want those before, too.
        let holds = granted.iter().rev();
        self.work
            .extend(holds.map(|granted| SetWork::Undo(granted.key, granted.id)));
    }

    /// Removes sets that are about to go on, and have left.
    pub(super) fn remove_abandoned(&mut self, has_left: impl Fn(&W) -> bool) {
        for _ in 0..self.work.len() {
            match self.work.pop_front() {
                Some(SetWork::Next(waiter)) if has_left(&waiter.inner) => {
                    self.dismiss(waiter);
                }
                work => self.work.extend(work),
            }
        }
    }
}

impl<W: Caller> Table<W> {
    /// A request for all `keys`, each once, in [`Key`]'s order: at least one.
    pub(crate) fn acquire_all(
        &mut self,
        keys: Arc<[(Key, Mode)]>,
        wait: Wait,
        waiter: W,
        now: Instant,
        responder: &mut impl Respond<W>,
    ) {
        let granted = Vec::with_capacity(keys.len());
        let set = Set { keys, granted };
        let (key, mode) = set.next();
        let mut waiter = Waiter::new(waiter, mode, wait, now);
        waiter.set = Some(Box::new(set));
        self.enqueue(key, waiter, now, responder);
        self.proceed_with_sets(now, responder);
    }

    /// Does what the last changes have left to do for sets.
    pub(super) fn proceed_with_sets(&mut self, now: Instant, responder: &mut impl Respond<W>) {
        while let Some(work) = self.sets.work.pop_front() {
            match work {
                SetWork::Next(mut waiter) => {
                    if let Some(key) = waiter.turn_to_next() {
                        self.enqueue(key, waiter, now, responder);
                    }
                }
                SetWork::Undo(key, id) => {
                    self.sets.incomplete -= 1;
                    self.end_hold(key, id);
                    self.advance(key, now, Via::Handoff, responder);
                }
            }
        }
    }

    /// Plans `head`, which is to lock a set's next key. It may bring the locks of the set's following
    /// keys with it, `room` in all: puts it and them into the plan's chains, or it alone into `batch`.
    /// Returns how many they are.
    pub(super) fn chain(
        &mut self,
        head: Op,
        room: usize,
        batch: &mut Vec<Op>,
        now: Instant,
    ) -> usize {
        let first = self.entries.get(&head.key).and_then(|entry| entry.first());
        let following = first.and_then(|first| first.set.as_ref());
        let Sets {
            chains, chained, ..
        } = &mut self.sets;
        let start = chains.len();
        chains.push(head);
        for &(key, mode) in following.map_or(&[][..], |set| set.following()) {
            let entry = self.entries.get(&key);
            let is_untouched = entry.is_none_or(|entry| entry.is_idle());
            if chains.len() - start >= room || !is_untouched || !chained.insert(key) {
                break;
            }
            let asks = entry.is_some_and(|entry| !entry.is_over(now) && entry.has_to_ask(now));
            let action = match asks {
                true => Action::LockNextUnawaited,
                false => Action::LockNext,
            };
            chains.push(Op { key, mode, action });
        }
        let planned = chains.len() - start;
        if planned == 1 {
            batch.extend(chains.pop());
        }
        planned
    }

    /// The session has ended: the sets that had a part of their keys begin again.
    pub(super) fn restart_sets(&mut self) {
        self.sets.incomplete = 0;
        let has_part = |waiter: &mut Waiter<W>| {
            let set = waiter.set.as_ref();
            set.is_some_and(|set| !set.granted.is_empty())
        };
        let queues = self.entries.values_mut();
        let queues = queues.filter_map(|entry| entry.queue.as_mut());
        let mut begin: Vec<_> = queues.flat_map(|queue| queue.take(has_part)).collect();
        for work in self.sets.work.drain(..) {
            if let SetWork::Next(waiter) = work {
                self.waiting += 1;
                begin.push(waiter);
            }
        }
        begin.sort_by_key(|waiter| waiter.since);
        for mut waiter in begin {
            if let Some(set) = &mut waiter.set {
                set.granted.clear();
            }
            if let Some(key) = waiter.turn_to_next() {
                let spare = &mut self.spare;
                let entry = self.entries.entry(key).or_insert_with(|| spare.entry());
                let queue = entry.queue.get_or_insert_with(|| spare.queue());
                queue.waiters.push_back(waiter);
            }
        }
    }
}
