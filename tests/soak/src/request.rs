//! What a thread asks for: one lock, a set, some of many, or permits of a semaphore.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, ensure};
use distlock::{Error, Guard, GuardSet, Key, Manager};

use crate::history::How;

/// How many permits the semaphore has.
const PERMITS: usize = 3;
/// The journals' numbers of its slots, the first of which is not a permit but the queue.
const SLOTS: i32 = 400;

/// The journals' numbers of the permits.
pub(crate) fn permits() -> Range<i32> {
    let first = SLOTS + 1;
    first..first + i32::try_from(PERMITS).expect("they are few")
}

/// A request for one or several locks, chosen at random.
pub(crate) struct Request {
    pub(crate) how: How,
    locks: Vec<Lock>,
    /// How many of them.
    count: usize,
    pub(crate) wait: Wait,
    /// What the semaphore is called.
    semaphore: String,
}

/// A lock that is asked for, with the number that the journals have for it.
struct Lock {
    number: i32,
    key: Key,
    shared: bool,
}

#[derive(Clone, Copy)]
pub(crate) enum Wait {
    Not,
    For(Duration),
    Forever,
}

/// What came of a request.
pub(crate) enum Held {
    Guards(Vec<Guard>),
    Set(GuardSet),
}

/// A lock that is held, as the journals have it.
pub(crate) struct Record {
    pub(crate) key: i32,
    pub(crate) shared: bool,
    pub(crate) token: i64,
}

impl Request {
    /// Asks in one of the ways of `hows` for locks with numbers of `keys`, in any order.
    pub(crate) fn random(
        rng: &mut fastrand::Rng,
        hows: &[How],
        keys: Range<i32>,
        space: i32,
    ) -> Request {
        let how = hows[rng.usize(0..hows.len())];
        let semaphore = format!("soak-{space}");
        let mut locks: Vec<Lock> = if how == How::Permit {
            let slot = |number: i32| Lock {
                number: SLOTS + number,
                key: Key::slot(&semaphore, number.unsigned_abs()),
                shared: false,
            };
            // Twice as many as there are permits: what it should not give is seen, too.
            (0..).take(2 * PERMITS).map(slot).collect()
        } else {
            let lock = |number| Lock {
                number,
                key: Key::from((space, number)),
                shared: how != How::Some && rng.u8(0..5) == 0,
            };
            keys.map(lock).collect()
        };
        let count = match how {
            How::Some | How::Permit => rng.usize(1..=PERMITS),
            How::All => rng.usize(2..=locks.len().min(3)),
            How::One | How::Upgrade | How::Downgrade => 1,
        };
        rng.shuffle(&mut locks);
        if matches!(how, How::One | How::All) {
            locks.truncate(count);
        }
        let wait = match (how, rng.u8(0..3)) {
            (How::Some, _) | (How::All | How::Permit, 0) => Wait::Not,
            (How::All | How::Permit, 1) => Wait::Forever,
            _ => Wait::For(Duration::from_millis(rng.u64(0..1500))),
        };
        Request {
            how,
            locks,
            count,
            wait,
            semaphore,
        }
    }

    /// `None` if too few of the locks were free.
    pub(crate) fn send(&self, mgr: &Manager) -> Result<Option<Held>, Error> {
        match self.how {
            How::All => Ok(self.all(mgr)?.map(Held::Set)),
            How::Permit => self.permits(mgr),
            How::Some => {
                let guards = mgr.try_lock_some(self.locks.iter().map(|it| it.key), self.count)?;
                Ok(Some(guards).filter(|it| !it.is_empty()).map(Held::Guards))
            }
            How::One | How::Upgrade | How::Downgrade => Ok(self.one(mgr)?.map(Held::one)),
        }
    }

    fn one(&self, mgr: &Manager) -> Result<Option<Guard>, Error> {
        let Lock { key, shared, .. } = self.locks[0];
        let acquire = mgr.acquire(key);
        let acquire = if shared { acquire.shared() } else { acquire };
        match self.wait {
            Wait::Not => acquire.try_lock(),
            Wait::For(time) => acquire.timeout(time).try_lock(),
            Wait::Forever => acquire.lock().map(Some),
        }
    }

    fn all(&self, mgr: &Manager) -> Result<Option<GuardSet>, Error> {
        let keys = |shared| {
            let locks = self.locks.iter().filter(move |it| it.shared == shared);
            locks.map(|it| it.key)
        };
        let all_alone = keys(true).next().is_none();
        let acquire = || mgr.acquire_all(keys(false)).shared(keys(true));
        match self.wait {
            Wait::Not if all_alone => mgr.try_lock_all(keys(false)),
            Wait::Not => acquire().try_lock(),
            Wait::For(time) => acquire().timeout(time).try_lock(),
            Wait::Forever if all_alone => mgr.lock_all(keys(false)).map(Some),
            Wait::Forever => acquire().lock().map(Some),
        }
    }

    fn permits(&self, mgr: &Manager) -> Result<Option<Held>, Error> {
        let semaphore = mgr.semaphore(&self.semaphore, PERMITS)?;
        let request = || semaphore.request(self.count);
        Ok(match (self.count, self.wait) {
            (1, Wait::Not) => semaphore.try_acquire()?.map(Held::one),
            (1, Wait::For(time)) => semaphore.try_acquire_for(time)?.map(Held::one),
            (1, Wait::Forever) => Some(Held::one(semaphore.acquire()?)),
            (_, Wait::Not) => request().try_acquire()?.map(Held::Set),
            (_, Wait::For(time)) => request().timeout(time).try_acquire()?.map(Held::Set),
            (count, Wait::Forever) => Some(Held::Set(semaphore.acquire_many(count)?)),
        })
    }

    /// What is held, since `at`; an error if it is not what was asked for.
    pub(crate) fn records(&self, held: &Held, at: u64) -> anyhow::Result<Vec<Record>> {
        let guards = held.guards();
        let (asked, got) = (self.count, guards.len());
        let is_enough = got == asked || (self.how == How::Some && got < asked);
        ensure!(is_enough, "{got} locks instead of {asked}");
        let record = |guard: &Guard| {
            let mut locks = self.locks.iter();
            let lock = locks.find(|it| it.key == *guard.key());
            let lock = lock.with_context(|| format!("nobody asked for {}", guard.key()))?;
            Ok(Record {
                key: lock.number,
                shared: lock.shared,
                token: token(guard, at)?,
            })
        };
        guards.iter().map(record).collect()
    }
}

/// Without tokens the time is one: the processes have the same clock.
pub(crate) fn token(guard: &Guard, at: u64) -> anyhow::Result<i64> {
    Ok(match guard.token() {
        Some(token) => token,
        None => i64::try_from(at)?,
    })
}

impl Held {
    fn one(guard: Guard) -> Held {
        Held::Guards(vec![guard])
    }

    pub(crate) fn guards(&self) -> &[Guard] {
        match self {
            Held::Guards(guards) => guards,
            Held::Set(set) => set.guards(),
        }
    }

    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Held::Guards(guards) => guards.iter().any(Guard::is_lost),
            Held::Set(set) => set.is_lost(),
        }
    }

    pub(crate) fn into_guards(self) -> Vec<Guard> {
        match self {
            Held::Guards(guards) => guards,
            Held::Set(set) => set.into_guards(),
        }
    }
}
