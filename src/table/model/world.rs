//! The world outside the table: the server, the other process, the waiters and the holders.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::super::{Granted, Refusal, Respond, Via, Whom};
use crate::error::Error;
use crate::key::Key;
use crate::op::{Mode, Op, Outcome, Token, Wait};

#[derive(Clone, Copy)]
pub(super) struct Waiting {
    pub(super) key: Key,
    pub(super) mode: Mode,
    pub(super) wait: Wait,
    pub(super) left: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) key: Key,
    pub(super) mode: Mode,
    pub(super) id: u64,
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
    pub(super) held: BTreeMap<u32, Held>,
    pub(super) newest_token: i64,
    /// The waiters that may be failed now.
    pub(super) failing: Option<Whom>,
}

pub(super) fn exclude(one: Mode, other: Mode) -> bool {
    one == Mode::Exclusive || other == Mode::Exclusive
}

impl World {
    /// True if a holder, or an earlier waiter, excludes `waiter`.
    pub(super) fn must_wait(&self, waiter: u32) -> bool {
        let Waiting { key, mode, .. } = self.waiting[&waiter];
        let mut inside = self.held.values().filter(|held| held.key == key);
        let mut before = self.waiting.range(..waiter).map(|(_, other)| other);
        inside.any(|held| exclude(held.mode, mode))
            || before.any(|other| other.key == key && exclude(other.mode, mode))
    }

    /// True if a request that tries once waits for a lock with holders here that exclude it.
    pub(super) fn has_waiting_try(&self) -> bool {
        self.waiting.iter().any(|(&waiter, waiting)| {
            waiting.wait == Wait::Try(None)
                && self.held.values().any(|held| held.key == waiting.key)
                && self.must_wait(waiter)
        })
    }

    /// The holders that have guards.
    pub(super) fn guards(&self) -> impl Iterator<Item = u32> {
        let has_guard = |(&waiter, held): (&u32, &Held)| held.kept.is_none().then_some(waiter);
        self.held.iter().filter_map(has_guard)
    }

    /// The server gives the lock of `op` to this process.
    pub(super) fn lock(&mut self, op: Op) -> Outcome {
        self.ours.insert(op.key.as_i64(), op.mode);
        self.fenced_keys.remove(&op.key.as_i64());
        Outcome::Done(self.draw())
    }

    pub(super) fn draw(&mut self) -> Option<Token> {
        self.last_token += i64::from(self.fenced);
        Token::new(self.last_token)
    }

    /// True if a waiter could share a lock that has shared holders here and `is_joinable`.
    pub(super) fn has_waiting_joiner(&self, is_joinable: impl Fn(Key) -> bool) -> bool {
        self.waiting.iter().any(|(&waiter, waiting)| {
            waiting.mode == Mode::Shared
                && is_joinable(waiting.key)
                && self.held.values().any(|held| held.key == waiting.key)
                && !self.must_wait(waiter)
        })
    }
}

impl Respond<u32> for World {
    fn grant(&mut self, waiter: u32, granted: Granted) -> bool {
        let Granted {
            key,
            mode,
            id,
            token,
            via,
            ..
        } = granted;
        let is_drained = via == Via::Server || !self.fenced_keys.contains(&key.as_i64());
        assert!(is_drained || mode == Mode::Shared, "not drained");
        let waiting = self.waiting.remove(&waiter).expect("answered once");
        assert!((waiting.key, waiting.mode) == (key, mode));
        if waiting.left {
            return false;
        }
        assert_eq!(
            self.ours.get(&key.as_i64()),
            Some(&mode),
            "not at the server"
        );
        let mut others = self.held.values().filter(|held| held.key == key);
        assert!(others.all(|held| !exclude(held.mode, mode)), "two inside");
        let mut earlier = self.waiting.range(..waiter).map(|(_, other)| other);
        assert!(
            earlier.all(|other| other.key != key || other.left),
            "overtaken"
        );
        assert_eq!(token.is_some(), self.fenced);
        if let Some(token) = token.map(i64::from) {
            assert!(self.newest_token < token, "a stale token");
            self.newest_token = token;
        }
        let kept = None;
        self.held.insert(
            waiter,
            Held {
                key,
                mode,
                id,
                is_fenced: false,
                kept,
            },
        );
        true
    }

    fn released(&mut self, _: Key, id: u64) {
        let mut held = self.held.iter();
        let (&holder, held) = held.find(|(_, held)| held.id == id).expect("it is held");
        assert!(held.kept.is_none_or(|until| until <= self.now), "too early");
        self.held.remove(&holder);
    }

    fn refuse(&mut self, waiter: u32, refusal: Refusal) {
        let waiting = self.waiting.remove(&waiter).expect("answered once");
        match refusal {
            Refusal::Busy => assert_eq!(waiting.wait, Wait::Try(None)),
            Refusal::LimitReached(_) => {
                assert!(self.max_locks.is_some_and(|max| self.held.len() >= max));
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
