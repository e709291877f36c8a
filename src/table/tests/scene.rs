//! A table with a record of its decisions, and a clock and a server that the test drives.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::thread;

use super::*;
use crate::error::Error;
use crate::op::Token;
use crate::sync::thread::Thread;

pub(super) const MS: Duration = Duration::from_millis(1);
/// The hand-off budget, as documented.
pub(super) const BUDGET: Duration = Duration::from_millis(20);
pub(super) const A: (i32, i32) = (0, 1);
pub(super) const B: (i32, i32) = (0, 2);

/// Records the table's decisions. A waiter is a number.
#[derive(Default)]
pub(super) struct Book {
    pub(super) granted: Vec<u32>,
    pub(super) ids: Vec<u64>,
    pub(super) tokens: Vec<Option<i64>>,
    pub(super) handed_over: usize,
    pub(super) released: usize,
    pub(super) refused: Vec<(u32, Refusal)>,
    pub(super) failed: Vec<u32>,
    pub(super) contended: usize,
    /// Waiters that have left and take no grant.
    pub(super) gone: Vec<u32>,
}

impl Respond<u32> for Book {
    fn grant(&mut self, waiter: u32, granted: &[Granted]) -> bool {
        if self.gone.contains(&waiter) {
            return false;
        }
        self.granted.push(waiter);
        for granted in granted {
            self.ids.push(granted.id);
            self.tokens.push(granted.token.map(i64::from));
            self.handed_over += usize::from(granted.via == Via::Handoff);
        }
        true
    }

    fn refuse(&mut self, waiter: u32, refusal: Refusal) {
        self.refused.push((waiter, refusal));
    }

    fn fail(&mut self, waiter: u32, _: &Error) {
        self.failed.push(waiter);
    }

    fn released(&mut self, _: Key, _: u64) {
        self.released += 1;
    }

    fn contended(&mut self, _: &u32, _: Key, _: Mode) {
        self.contended += 1;
    }
}

/// Each waiter is a thread of its own.
impl Caller for u32 {
    fn thread(&self) -> Thread {
        static THREADS: Mutex<BTreeMap<u32, Thread>> = Mutex::new(BTreeMap::new());
        let mut threads = THREADS.lock().unwrap();
        let ended = || thread::spawn(|| {}).thread().clone();
        threads.entry(*self % 64).or_insert_with(ended).clone()
    }
}

/// A table with its record and a clock that the test drives.
pub(super) struct Scene {
    pub(super) table: Table<u32>,
    pub(super) book: Book,
    pub(super) now: Instant,
    pub(super) last_token: i64,
}

impl Scene {
    pub(super) fn new(max_locks: Option<usize>) -> Self {
        let limits = Limits {
            max_locks,
            retry_min: MS,
            retry_max: 50 * MS,
            fenced: false,
        };
        Scene {
            table: Table::new(limits, Jitter::new(7)),
            book: Book::default(),
            now: Instant::now(),
            last_token: 0,
        }
    }

    pub(super) fn fenced() -> Self {
        let mut scene = Scene::new(None);
        scene.table.limits.fenced = true;
        scene
    }

    pub(super) fn ask(&mut self, key: (i32, i32), mode: Mode, wait: Wait, waiter: u32) {
        self.table
            .acquire(key.into(), mode, wait, waiter, self.now, &mut self.book);
    }

    pub(super) fn wait(&mut self, key: (i32, i32), waiters: Range<u32>) {
        for waiter in waiters {
            self.ask(key, Mode::Exclusive, Wait::Forever, waiter);
        }
    }

    pub(super) fn once(&mut self, key: (i32, i32), waiter: u32) {
        self.ask(key, Mode::Exclusive, Wait::Try(None), waiter);
    }

    pub(super) fn share(&mut self, key: (i32, i32), waiter: u32) {
        self.ask(key, Mode::Shared, Wait::Forever, waiter);
    }

    pub(super) fn release(&mut self, key: (i32, i32), id: u64) -> bool {
        self.table
            .release(key.into(), id, None, self.now, &mut self.book)
    }

    /// Releases the lock that was granted last.
    pub(super) fn release_last(&mut self, key: (i32, i32)) -> bool {
        let id = *self.book.ids.last().unwrap();
        self.release(key, id)
    }

    pub(super) fn plan(&mut self) -> Vec<Op> {
        self.plan_up_to(100)
    }

    /// The next batch, but for what shows others that this process waits: that succeeds at once.
    pub(super) fn plan_up_to(&mut self, cap: usize) -> Vec<Op> {
        loop {
            let batch = self.plan_all(cap);
            let (shown, others): (Vec<Op>, Vec<Op>) = batch
                .into_iter()
                .partition(|op| matches!(op.action, Action::Announce | Action::Withdraw));
            let is_complete = shown.is_empty() || !others.is_empty();
            self.settle(shown, true);
            if is_complete {
                return others;
            }
        }
    }

    pub(super) fn plan_all(&mut self, cap: usize) -> Vec<Op> {
        let mut batch = Vec::new();
        self.table.plan(self.now, cap, &mut batch, &mut self.book);
        batch
    }

    /// After a while nothing is left of keys that nobody holds or waits for.
    pub(super) fn forgets_all(&mut self) -> bool {
        self.now += Duration::from_secs(1);
        self.plan().is_empty() && self.table.entries.is_empty()
    }

    pub(super) fn settle(&mut self, batch: Vec<Op>, yes: bool) {
        for op in batch {
            let takes = yes && op.action != Action::Unlock;
            let token = (takes && self.table.limits.fenced).then(|| {
                self.last_token += 1;
                Token::new(self.last_token).unwrap()
            });
            let outcome = match yes {
                true => Outcome::Done(token),
                false => Outcome::Refused,
            };
            let settled = self.table.settle(op, outcome, self.now, &mut self.book);
            assert_eq!(settled.is_err(), !yes && op.action == Action::Unlock);
        }
    }

    /// The server cannot do `op`.
    pub(super) fn fail(&mut self, op: Op) {
        let outcome = Outcome::Failed(Error::unavailable("it cannot"));
        let settled = self.table.settle(op, outcome, self.now, &mut self.book);
        assert!(settled.is_ok());
    }

    /// Fails waiters because the database is away.
    pub(super) fn fail_waiters(&mut self, whom: Whom) {
        let away = Error::unavailable("away");
        let now = self.now;
        self.table.fail_waiters(whom, &away, now, &mut self.book);
    }

    /// One exchange in which every step succeeds. Returns the number of steps.
    pub(super) fn iterate(&mut self) -> usize {
        let batch = self.plan();
        let steps = batch.len();
        self.settle(batch, true);
        steps
    }

    /// One exchange in which other processes hold the locks. Returns the number of steps.
    pub(super) fn refused_iteration(&mut self) -> usize {
        let batch = self.plan();
        let steps = batch.len();
        self.settle(batch, false);
        steps
    }

    /// How long until the next retry.
    pub(super) fn pause(&self) -> Duration {
        self.table.next_retry().unwrap() - self.now
    }
}

pub(super) fn op(key: (i32, i32), mode: Mode, action: Action) -> Op {
    Op {
        key: key.into(),
        mode,
        action,
    }
}

pub(super) fn lock(key: (i32, i32)) -> Op {
    op(key, Mode::Exclusive, Action::Lock)
}

pub(super) fn unlock(key: (i32, i32)) -> Op {
    op(key, Mode::Exclusive, Action::Unlock)
}
