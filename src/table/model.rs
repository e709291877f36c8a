//! Checks the table against a simple model, under random operations.
//!
//! The model is the world around the table: a server that grants by the rules of advisory locks,
//! another process that takes and releases the same locks, and a record of waiters and holders.
//! Every decision of the table is checked against it.
// Tests may panic.
#![allow(clippy::unwrap_used)]

mod guards;
mod step;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use self::step::{Step, step};
use self::world::{Held, Waiting, World, exclude};
use super::*;
use crate::error::Error;
use crate::op::{Action, Op, Outcome};

const CAP: usize = 100;

fn key(number: i32) -> Key {
    Key::from((1, number))
}

struct Play {
    table: Table<u32>,
    world: World,
    batch: Vec<Op>,
    arrived: u32,
}

impl Play {
    fn new(fenced: bool, max_locks: Option<usize>) -> Play {
        let limits = Limits {
            max_locks,
            retry_min: Duration::from_millis(1),
            retry_max: Duration::from_millis(50),
            fenced,
        };
        Play {
            table: Table::new(limits, Jitter::new(7)),
            world: World {
                now: Instant::now(),
                fenced,
                max_locks,
                ours: BTreeMap::new(),
                theirs: BTreeMap::new(),
                announced: BTreeSet::new(),
                they_wait: BTreeSet::new(),
                fences: BTreeMap::new(),
                fenced_keys: BTreeSet::new(),
                open: BTreeSet::new(),
                last_fence: 0,
                last_token: 0,
                waiting: BTreeMap::new(),
                held: BTreeMap::new(),
                has_sets: false,
                newest_tokens: BTreeMap::new(),
                failing: None,
            },
            batch: Vec::new(),
            arrived: 0,
        }
    }

    fn step(&mut self, step: Step) {
        // While a batch is out no request is taken in, and only a lock with waiters can be
        // released: straight to the next of them.
        let out = !self.batch.is_empty();
        match step {
            Step::Acquire {
                key: number,
                mode,
                wait,
            } if !out => {
                let key = key(number);
                let waiter = self.arrive(vec![(key, mode)], wait);
                self.table
                    .acquire(key, mode, wait, waiter, self.world.now, &mut self.world);
            }
            Step::AcquireAll { modes, wait } if !out && modes.iter().any(Option::is_some) => {
                let keys = (0..).zip(modes);
                let keys = keys.filter_map(|(number, mode)| Some((key(number), mode?)));
                let keys: Vec<_> = keys.collect();
                let waiter = self.arrive(keys.clone(), wait);
                let now = self.world.now;
                self.table
                    .acquire_all(keys.into(), wait, waiter, now, &mut self.world);
            }
            Step::Release { which, twice, keep } if self.world.guards().next().is_some() => {
                let id = *which.get(&self.world.guards().collect::<Vec<_>>());
                let Held { key, .. } = self.world.held[&id];
                // A lock that is to be kept goes to the worker, not to the next waiter.
                if out && (keep.is_some() || !self.table.is_awaited(key)) {
                    return;
                }
                let keep = keep.map(|millis| self.world.now + Duration::from_millis(millis));
                assert!(self.release(id, keep));
                if twice && !self.world.held.contains_key(&id) {
                    let now = self.world.now;
                    assert!(!self.table.release(key, id, None, now, &mut self.world));
                }
            }
            Step::Leave { which, told } if !self.world.waiting.is_empty() => {
                let waiter = **which.get(&self.world.waiting.keys().collect::<Vec<_>>());
                let waiting = self.world.waiting.get_mut(&waiter).unwrap();
                waiting.left = true;
                if told && !out {
                    let now = self.world.now;
                    let is_gone = |other: &u32| *other == waiter;
                    for (key, _) in self.world.waiting.remove(&waiter).unwrap().keys {
                        self.table
                            .remove_abandoned(key, is_gone, now, &mut self.world);
                    }
                }
            }
            Step::Pass { millis } => self.world.now += Duration::from_millis(millis),
            Step::Plan if !out => self.plan(),
            Step::Answer { failing } => self.answer(failing),
            Step::Other { key: number, mode } => self.other(key(number), mode),
            Step::OtherWaits { key: number, waits } => {
                let number = key(number).as_i64();
                match waits {
                    true => self.world.they_wait.insert(number),
                    false => self.world.they_wait.remove(&number),
                };
            }
            Step::Fence { which } if !out && self.world.guards().next().is_some() => {
                let id = *which.get(&self.world.guards().collect::<Vec<_>>());
                self.fence(id);
            }
            Step::Change { which, to } if !out && self.world.guards().next().is_some() => {
                let id = *which.get(&self.world.guards().collect::<Vec<_>>());
                self.change(id, to);
            }
            Step::Transaction { key: number, open } => {
                let number = key(number).as_i64();
                match open {
                    true => self.world.open.insert(number),
                    false => self.world.open.remove(&number),
                };
            }
            Step::Disconnect => {
                self.batch.clear();
                self.world.ours.clear();
                self.world.announced.clear();
                self.world.fences.clear();
                self.world.fenced_keys.clear();
                assert_eq!(self.table.disconnected(), self.world.held.len());
                self.world.held.clear();
            }
            Step::FailWaiters { all } => {
                let whom = match all {
                    true => Whom::All,
                    false => Whom::Tries,
                };
                self.world.failing = Some(whom);
                let away = Error::unavailable("away");
                let now = self.world.now;
                self.table.fail_waiters(whom, &away, now, &mut self.world);
                self.world.failing = None;
            }
            Step::Acquire { .. }
            | Step::AcquireAll { .. }
            | Step::Release { .. }
            | Step::Leave { .. }
            | Step::Fence { .. }
            | Step::Change { .. }
            | Step::Plan => {}
        }
        assert_eq!(self.table.held(), self.world.held.len());
        let waiting = self.table.waiting() + self.table.sets.going_on();
        assert_eq!(waiting, self.world.waiting.len());
        assert!(!self.world.has_waiting_try(), "a try was kept waiting");
        let max = self.world.max_locks.unwrap_or(usize::MAX);
        assert!(self.table.held() <= max);
        let server_needed = self.world.fenced || !self.batch.is_empty();
        let entries = &self.table.entries;
        let is_joinable = |key: Key| {
            let now = self.world.now;
            entries.get(&key).is_some_and(|entry| {
                !entry.is_closed
                    && !entry.is_fenced
                    && !entry.is_changing
                    && !entry.is_budget_spent(now)
            })
        };
        assert!(server_needed || !self.world.has_waiting_joiner(is_joinable));
    }

    /// A request arrives.
    fn arrive(&mut self, keys: Vec<(Key, Mode)>, wait: Wait) -> u32 {
        let waiter = self.arrived;
        self.arrived += 1;
        let left = false;
        let waiting = Waiting { keys, wait, left };
        self.world.has_sets |= waiting.is_set();
        self.world.waiting.insert(waiter, waiting);
        waiter
    }

    fn plan(&mut self) {
        let now = self.world.now;
        self.table.plan(now, CAP, &mut self.batch, &mut self.world);
        // Kept locks are released in time, and the next release is scheduled.
        let kept = self.world.held.values().filter_map(|held| held.kept).min();
        assert!(kept.is_none_or(|until| until > now));
        assert!(kept.is_none_or(|until| self.table.next_retry().unwrap() <= until));
        let keys: BTreeSet<i64> = self.batch.iter().map(|op| op.target().as_i64()).collect();
        assert_eq!(keys.len(), self.batch.len(), "two steps for one lock");
        // Sets come last, each in one piece.
        let mut pieces = self.batch.chunk_by(|_, op| op.action.is_next());
        let mut alone = pieces.by_ref().take_while(|piece| piece.len() == 1);
        assert!(alone.by_ref().is_sorted_by_key(|piece| piece[0].action));
        assert!(pieces.all(|piece| piece.len() > 1 && piece.is_sorted_by_key(|op| op.key)));
    }

    /// The server does the batch, one step after the other.
    fn answer(&mut self, failing: Option<prop::sample::Index>) {
        let failing = failing
            .filter(|_| !self.batch.is_empty())
            .map(|which| which.index(self.batch.len()));
        let mut is_last_done = true;
        for (n, op) in std::mem::take(&mut self.batch).into_iter().enumerate() {
            let (number, ours) = (op.key.as_i64(), self.world.ours.get(&op.key.as_i64()));
            let fails = failing == Some(n);
            let other = self.world.theirs.get(&number);
            let is_free = other.is_none_or(|&other| !exclude(other, op.mode));
            let they_wait = self.world.they_wait.contains(&number);
            let is_undrained = self.world.open.contains(&number);
            let outcome = match op.action.alone() {
                _ if op.action.is_next() && !is_last_done => Outcome::Skipped,
                _ if fails && !op.action.is_unlock() => {
                    if op.action == Action::Relock {
                        self.world.ours.remove(&number);
                    }
                    Outcome::Failed(Error::unavailable("it cannot"))
                }
                Action::Lock | Action::LockUnawaited => {
                    assert_eq!(ours, None, "locked twice");
                    match op.action.alone() == Action::LockUnawaited && they_wait {
                        _ if !is_free => Outcome::Refused,
                        _ if is_undrained => Outcome::Undrained,
                        true => Outcome::Awaited,
                        false => self.world.lock(op),
                    }
                }
                Action::Draw => {
                    assert!(self.world.fenced);
                    assert_eq!(ours, Some(&op.mode), "a token for no lock");
                    Outcome::Done(self.world.draw())
                }
                // A failed one would end the session.
                Action::Unlock | Action::Relock => {
                    assert_eq!(ours, Some(&op.mode), "unlocked what is not ours");
                    let mut held = self.world.held.values();
                    assert!(held.all(|held| held.key != op.key), "unlocked what is held");
                    let mut fences = self.world.fences.values();
                    assert!(
                        fences.all(|&key| key != number),
                        "unlocked before its fence"
                    );
                    self.world.ours.remove(&number);
                    match op.action {
                        Action::Unlock => Outcome::Done(None),
                        _ if !is_free => Outcome::Refused,
                        _ if is_undrained => Outcome::Undrained,
                        _ if they_wait => Outcome::Awaited,
                        _ => self.world.lock(op),
                    }
                }
                Action::Check => {
                    assert_eq!(ours, Some(&Mode::Shared), "asked for nothing");
                    match they_wait {
                        true => Outcome::Refused,
                        false => Outcome::Done(None),
                    }
                }
                Action::Fence(fence) => {
                    assert!(ours.is_some(), "fenced without the lock");
                    self.world.fences.insert(fence, number);
                    Outcome::Done(None)
                }
                Action::Unfence(fence) => match self.world.fences.remove(&fence) {
                    Some(_) => Outcome::Done(None),
                    None => Outcome::Refused,
                },
                Action::Announce => {
                    assert!(self.world.announced.insert(number), "announced twice");
                    Outcome::Done(None)
                }
                Action::Withdraw => {
                    assert!(self.world.announced.remove(&number), "it was not announced");
                    Outcome::Done(None)
                }
                Action::Upgrade(id) => {
                    assert_eq!(ours, Some(&Mode::Shared), "not a share");
                    match () {
                        () if !is_free => Outcome::Refused,
                        () if is_undrained => Outcome::Undrained,
                        () => self.world.change(op, id, Mode::Exclusive),
                    }
                }
                Action::Downgrade(id) => {
                    assert_eq!(ours, Some(&Mode::Exclusive), "not exclusive");
                    self.world.change(op, id, Mode::Shared)
                }
                Action::LockNext | Action::LockNextUnawaited => unreachable!("it is not alone"),
            };
            is_last_done = matches!(outcome, Outcome::Done(_));
            self.world.failing = matches!(outcome, Outcome::Failed(_)).then_some(Whom::All);
            let now = self.world.now;
            let settled = self.table.settle(op, outcome, now, &mut self.world);
            assert!(settled.is_ok());
            self.world.failing = None;
        }
    }

    fn other(&mut self, key: Key, mode: Option<Mode>) {
        let number = key.as_i64();
        let ours = self.world.ours.get(&number);
        match mode {
            None => drop(self.world.theirs.remove(&number)),
            Some(mode) if ours.is_none_or(|&ours| !exclude(ours, mode)) => {
                self.world.theirs.insert(number, mode);
            }
            Some(_) => {}
        }
    }

    /// Every holder releases its lock at once, and the other process is gone: then all waiters are
    /// served, and in the end nothing is left.
    fn settle_down(&mut self) {
        self.world.theirs.clear();
        self.world.they_wait.clear();
        self.world.open.clear();
        for _ in 0..40 * (self.arrived + 1) {
            self.answer(None);
            while let Some(id) = { self.world.guards().next() } {
                self.release(id, None);
            }
            self.world.now += Duration::from_millis(10);
            self.plan();
        }
        assert!(self.world.waiting.is_empty(), "a waiter was forgotten");
        assert!(self.world.ours.is_empty(), "a lock was left at the server");
        assert!(
            self.world.announced.is_empty(),
            "a waiter that is gone is announced"
        );
        assert!(self.world.held.is_empty());
        assert!(self.world.fences.is_empty(), "a fence was left");
        // Released keys are remembered for a while.
        self.world.now += Duration::from_secs(1);
        self.plan();
        assert!(self.table.entries.is_empty());
        assert!(self.batch.is_empty() && !self.table.has_ready());
        assert_eq!(self.table.next_retry(), None);
    }
}

/// `PROPTEST_CASES` can ask for more.
fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig {
        cases: config.cases.max(2000),
        failure_persistence: None,
        ..config
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_table_does_as_the_model_says(
        fenced: bool,
        max_locks in prop::option::weighted(0.3, 1_usize..4),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut play = Play::new(fenced, max_locks);
        for step in steps {
            play.step(step);
        }
        play.settle_down();
    }
}
