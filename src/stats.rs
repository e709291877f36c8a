//! [`Stats`]: the counters and gauges of a manager.

/// A manager's counters and gauges at one moment, from [`Manager::stats`](crate::Manager::stats).
///
/// `held` and `waiting` are gauges; the others count since the manager was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Locks held now, by guards or kept for
    /// [`Acquire::hold_at_least`](crate::Acquire::hold_at_least).
    pub held: u64,
    /// Acquires that have reached the worker and have no answer yet.
    pub waiting: u64,
    /// Acquires that got their lock.
    pub acquired: u64,
    /// Acquires that found their lock held, whether or not they got it later.
    pub contended: u64,
    /// Locks released: by a guard, by a token of
    /// [`Acquire::release_on`](crate::Acquire::release_on), or at the end of
    /// [`Acquire::hold_at_least`](crate::Acquire::hold_at_least).
    pub released: u64,
    /// Of the acquired locks, those handed from one guard of the manager to the next without
    /// being released at the database in between.
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
