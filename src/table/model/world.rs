//! The world outside the table: the server, the other process, the waiters and the holders.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::super::{Granted, Refusal, Respond, Via, Whom};
use crate::error::Error;
use crate::key::Key;
use crate::op::{Mode, Op, Outcome, Token, Wait};

#[derive(Clone)]
pub(super) struct Waiting {
    /// More than one of a set.
    pub(super) keys: Vec<(Key, Mode)>,
    pub(super) wait: Wait,
    pub(super) left: bool,
}

impl Waiting {
    pub(super) fn is_set(&self) -> bool {
        self.keys.len() > 1
    }

    fn is_excluded_by(&self, key: Key, mode: Mode) -> bool {
        let mut keys = self.keys.iter();
        keys.any(|&(own, own_mode)| own == key && exclude(own_mode, mode))
    }
}

#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) key: Key,
    pub(super) mode: Mode,
    pub(super) is_fenced: bool,
    /// If its guard is gone: until when the lock is kept.
    pub(super) kept: Option<Instant>,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) fenced: bool,
    pub(super) max_locks: Option<usize>,
    /// At the server.
    pub(super) ours: BTreeMap<i64, Mode>,
    pub(super) theirs: BTreeMap<i64, Mode>,
    /// The keys that this process, or the other one, is known to wait for.
    pub(super) announced: BTreeSet<i64>,
    pub(super) they_wait: BTreeSet<i64>,
    /// The holds that are fenced at the server, by their numbers: of which key.
    pub(super) fences: BTreeMap<i64, i64>,
    /// The keys whose holders since the last grant of the server have fenced transactions.
    pub(super) fenced_keys: BTreeSet<i64>,
    /// The keys that have open transactions of earlier holders.
    pub(super) open: BTreeSet<i64>,
    pub(super) last_fence: i64,
    pub(super) last_token: i64,
    /// By number, and so in the order of arrival.
    pub(super) waiting: BTreeMap<u32, Waiting>,
    /// By the number of the hold.
    pub(super) held: BTreeMap<u64, Held>,
    /// True once a set was wanted.
    pub(super) has_sets: bool,
    /// Of each key, and whether of shared holders.
    pub(super) newest_tokens: BTreeMap<(i64, bool), i64>,
    /// The waiters that may be failed now.
    pub(super) failing: Option<Whom>,
}

pub(super) fn exclude(one: Mode, other: Mode) -> bool {
    one == Mode::Exclusive || other == Mode::Exclusive
}

impl World {
    /// True if a holder, or an earlier waiter, excludes `waiter`, which is none of a set.
    pub(super) fn must_wait(&self, waiter: u32) -> bool {
        let (key, mode) = self.waiting[&waiter].keys[0];
        let mut inside = self.held.values().filter(|held| held.key == key);
        let mut before = self.waiting.range(..waiter).map(|(_, other)| other);
        inside.any(|held| exclude(held.mode, mode))
            || before.any(|other| !other.is_set() && other.is_excluded_by(key, mode))
    }

    /// The waiters but for sets, of which it is not known for which key they wait.
    fn singles(&self) -> impl Iterator<Item = (u32, &Waiting, Key)> {
        let singles = self.waiting.iter().filter(|(_, waiting)| !waiting.is_set());
        singles.map(|(&waiter, waiting)| (waiter, waiting, waiting.keys[0].0))
    }

    /// True if a request that tries once waits for a lock with holders here that exclude it.
    pub(super) fn has_waiting_try(&self) -> bool {
        self.singles().any(|(waiter, waiting, key)| {
            waiting.wait == Wait::Try(None)
                && self.held.values().any(|held| held.key == key)
                && self.must_wait(waiter)
        })
    }

    /// The holds that have guards.
    pub(super) fn guards(&self) -> impl Iterator<Item = u64> {
        let has_guard = |(&id, held): (&u64, &Held)| held.kept.is_none().then_some(id);
        self.held.iter().filter_map(has_guard)
    }

    /// The server gives the lock of `op` to this process.
    pub(super) fn lock(&mut self, op: Op) -> Outcome {
        self.ours.insert(op.key.as_i64(), op.mode);
        self.fenced_keys.remove(&op.key.as_i64());
        Outcome::Done(self.draw())
    }

    /// The server changes the mode of a hold, which may have been released meanwhile.
    pub(super) fn change(&mut self, op: Op, id: u64, to: Mode) -> Outcome {
        self.ours.insert(op.key.as_i64(), to);
        if let Some(held) = self.held.get_mut(&id) {
            held.mode = to;
            let others = self.held.values().filter(|held| held.key == op.key);
            assert_eq!(others.count(), 1, "two inside");
        }
        if to == Mode::Exclusive {
            self.fenced_keys.remove(&op.key.as_i64());
        }
        Outcome::Done(self.draw().filter(|_| to == Mode::Exclusive))
    }

    pub(super) fn draw(&mut self) -> Option<Token> {
        self.last_token += i64::from(self.fenced);
        Token::new(self.last_token)
    }

    /// True if a waiter could share a lock that has shared holders here and `is_joinable`.
    pub(super) fn has_waiting_joiner(&self, is_joinable: impl Fn(Key) -> bool) -> bool {
        let may_be_awaited_by_set = |key| {
            let mut waiting = self.waiting.values();
            waiting.any(|it| it.is_set() && it.is_excluded_by(key, Mode::Shared))
        };
        self.singles().any(|(waiter, waiting, key)| {
            waiting.keys[0].1 == Mode::Shared
                && is_joinable(key)
                && self.held.values().any(|held| held.key == key)
                && !self.must_wait(waiter)
                && !may_be_awaited_by_set(key)
        })
    }
}

impl Respond<u32> for World {
    fn grant(&mut self, waiter: u32, granted: &[Granted]) -> bool {
        let waiting = self.waiting.remove(&waiter).expect("answered once");
        let got: Vec<_> = granted.iter().map(|it| (it.key, it.mode)).collect();
        assert_eq!(waiting.keys, got, "all or none, in their order");
        for granted in granted {
            let (key, mode) = (granted.key, granted.mode);
            let is_drained =
                granted.via == Via::Server || !self.fenced_keys.contains(&key.as_i64());
            assert!(is_drained || mode == Mode::Shared, "not drained");
            if waiting.left {
                continue;
            }
            assert_eq!(
                self.ours.get(&key.as_i64()),
                Some(&mode),
                "not at the server"
            );
            let joins = self.held.values().any(|held| held.key == key);
            let is_open = self.fenced_keys.contains(&key.as_i64());
            assert!(!joins || !is_open, "beside what was fenced exclusively");
            let mut others = self.held.values().filter(|held| held.key == key);
            assert!(others.all(|held| !exclude(held.mode, mode)), "two inside");
            let mut earlier = self.waiting.range(..waiter).map(|(_, other)| other);
            let is_before = |other: &Waiting| {
                !other.is_set() && !other.left && other.keys.iter().any(|&(own, _)| own == key)
            };
            assert!(!earlier.any(is_before), "overtaken");
            assert_eq!(granted.token.is_some(), self.fenced);
            if let Some(token) = granted.token.map(i64::from) {
                // A set that got its share earlier may be complete only now.
                let tokens = self
                    .newest_tokens
                    .entry((key.as_i64(), mode == Mode::Shared));
                let newest = tokens.or_default();
                assert!(mode == Mode::Shared || *newest < token, "a stale token");
                *newest = token.max(*newest);
                let other = self
                    .newest_tokens
                    .get(&(key.as_i64(), mode != Mode::Shared));
                assert!(other.is_none_or(|&other| other < token), "a stale token");
            }
            self.held.insert(
                granted.id,
                Held {
                    key,
                    mode,
                    is_fenced: false,
                    kept: None,
                },
            );
        }
        !waiting.left
    }

    fn released(&mut self, _: Key, id: u64) {
        let held = self.held.remove(&id).expect("it is held");
        assert!(held.kept.is_none_or(|until| until <= self.now), "too early");
    }

    fn refuse(&mut self, waiter: u32, refusal: Refusal) {
        let waiting = self.waiting.remove(&waiter).expect("answered once");
        match refusal {
            Refusal::Busy => assert_eq!(waiting.wait, Wait::Try(None)),
            Refusal::LimitReached(_) => {
                let max = self.max_locks.expect("there is a limit");
                // Sets that wait hold a part, and a moment longer if they are refused.
                assert!(self.has_sets || self.held.len() >= max);
            }
        }
    }

    fn fail(&mut self, waiter: u32, _: &Error) {
        let waiting = self.waiting.remove(&waiter).expect("answered once");
        let whom = self.failing.expect("nothing has failed");
        assert!(whom == Whom::All || waiting.wait.is_try());
    }

    fn contended(&mut self, _: &u32, _: Key, _: Mode) {}
}
