//! What a manager has done so far.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A manager's figures at one moment, from [`Manager::stats`](crate::Manager::stats).
///
/// `held` and `waiting` are how things stand; the others count since the manager
/// was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Locks that guards hold now, or the manager for
    /// [`Acquire::hold_at_least`](crate::Acquire::hold_at_least).
    pub held: u64,
    /// Acquires that have reached the worker and have no answer yet.
    pub waiting: u64,
    /// Acquires that got their lock.
    pub acquired: u64,
    /// Acquires that found their lock taken, whether or not they got it later.
    pub contended: u64,
    /// Locks given back, by a guard or by a token of
    /// [`Acquire::release_on`](crate::Acquire::release_on), and done with.
    pub released: u64,
    /// Of the acquired locks, those passed on inside the process, from one guard to the
    /// next, and not given up at the database in between.
    pub hand_overs: u64,
    /// Locks lost: their session ended or was given up while they were held.
    pub lost: u64,
    /// Connections made after the first one.
    pub reconnects: u64,
    /// Times the worker waited for the server: batches, heartbeats, recoveries.
    pub round_trips: u64,
    /// Batches of lock and unlock operations sent.
    pub batches: u64,
    /// Operations in the largest batch.
    pub largest_batch: u64,
}

/// The counters behind [`Stats`]. The worker writes, anybody reads.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) acquired: AtomicU64,
    pub(crate) contended: AtomicU64,
    pub(crate) released: AtomicU64,
    pub(crate) hand_overs: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    pub(crate) round_trips: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) largest_batch: AtomicU64,
}

impl Counters {
    pub(crate) fn round_trip(&self) {
        self.round_trips.fetch_add(1, Relaxed);
    }

    pub(crate) fn batch(&self, size: usize) {
        self.batches.fetch_add(1, Relaxed);
        self.largest_batch.fetch_max(size as u64, Relaxed);
    }

    /// The counters; the gauges are for whoever knows the lock table.
    pub(crate) fn snapshot(&self) -> Stats {
        Stats {
            held: 0,
            waiting: 0,
            acquired: self.acquired.load(Relaxed),
            contended: self.contended.load(Relaxed),
            released: self.released.load(Relaxed),
            hand_overs: self.hand_overs.load(Relaxed),
            lost: self.lost.load(Relaxed),
            reconnects: self.reconnects.load(Relaxed),
            round_trips: self.round_trips.load(Relaxed),
            batches: self.batches.load(Relaxed),
            largest_batch: self.largest_batch.load(Relaxed),
        }
    }
}
