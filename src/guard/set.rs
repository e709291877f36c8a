//! [`GuardSet`]: the holds of a set of locks, as their owner sees them.

use std::fmt;
use std::mem;
use std::time::Duration;

use postgres::GenericClient;

use super::{Guard, fencing};
use crate::error::Error;
use crate::key::Key;
use crate::watch::Watch;

/// Several locks that are held until it is dropped: from
/// [`Manager::lock_all`](crate::Manager::lock_all).
///
/// They are of one session, and so are lost together. Dropping it queues their unlocks, in one
/// message, and returns at once, as a [`Guard`] does.
///
/// ```no_run
/// # fn main() -> Result<(), distlock::Error> {
/// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
/// let accounts = mgr.lock_all(["account-17", "account-4"])?;
/// // ... move the money ...
/// accounts.unlock()?; // nobody else has been at either of them
/// # Ok(())
/// # }
/// ```
#[must_use = "the locks are released as soon as their guard is dropped, and `let _ =` drops it \
              at once: write `let _guards =`"]
pub struct GuardSet {
    /// In the order of their keys; at least one, until they are taken out.
    guards: Vec<Guard>,
}

impl GuardSet {
    pub(crate) fn new(mut guards: Vec<Guard>) -> Self {
        guards.sort_unstable_by_key(|guard| *guard.key());
        GuardSet { guards }
    }

    /// What is locked: each key once, in the [order](crate::AcquireAll#order) of sets.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &Key> {
        self.guards.iter().map(Guard::key)
    }

    /// The guard of each lock, in the order of [`keys`](GuardSet::keys), for its token and its mode.
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// The guard of each lock, to release one before the others.
    pub fn into_guards(mut self) -> Vec<Guard> {
        mem::take(&mut self.guards)
    }

    /// The fencing token of each lock, in the order of [`keys`](GuardSet::keys): see
    /// [`Guard::token`]. None without [`Builder::fencing`](crate::Builder::fencing).
    pub fn tokens(&self) -> impl Iterator<Item = i64> {
        self.guards.iter().filter_map(Guard::token)
    }

    /// True if the work under the locks has to stop: see [`Guard::is_lost`].
    pub fn is_lost(&self) -> bool {
        self.first().is_lost()
    }

    /// How long the locks still count as held if the server does not answer any more: see
    /// [`Guard::time_left`].
    pub fn time_left(&self) -> Option<Duration> {
        self.first().time_left()
    }

    /// A watch, which reports the end of the hold: see [`Guard::watch`].
    pub fn watch(&self) -> Watch {
        self.first().watch()
    }

    /// Ties `transaction` to the holds of all the locks, in one round trip of its connection: see
    /// [`Guard::fence`].
    ///
    /// # Errors
    ///
    /// Those of [`Guard::fence`].
    pub fn fence(&self, transaction: &mut impl GenericClient) -> Result<(), Error> {
        fencing::fence(&self.all(), transaction)
    }

    /// The statement by which [`fence`](GuardSet::fence) does so: see [`Guard::fence_sql`].
    ///
    /// # Errors
    ///
    /// Those of [`Guard::fence_sql`].
    pub fn fence_sql(&self) -> Result<String, Error> {
        fencing::sql(&self.all())
    }

    /// Releases the locks and waits until other holders can have them: see [`Guard::unlock`].
    ///
    /// # Errors
    ///
    /// Those of [`Guard::unlock`], if any of the locks was not held to the end.
    pub fn unlock(mut self) -> Result<(), Error> {
        let mut guards = mem::take(&mut self.guards);
        let handle = guards.first().map(|guard| guard.handle.clone());
        let ended = guards.iter_mut().map(Guard::finish).collect::<Vec<_>>();
        let ends = guards.iter().zip(&ended).filter(|(_, ended)| ended.is_ok());
        let grants = ends.map(|(guard, _)| guard.grant.clone()).collect();
        let unlocked = handle.map_or(Ok(()), |handle| handle.unlock_all(grants));
        let ended: Result<(), _> = ended.into_iter().collect();
        ended.map_err(Error::ended).and(unlocked)
    }

    /// They are all of one session, so the first stands for all.
    fn first(&self) -> &Guard {
        &self.guards[0]
    }

    fn all(&self) -> Vec<&Guard> {
        self.guards.iter().collect()
    }
}

impl Drop for GuardSet {
    fn drop(&mut self) {
        let Some(first) = self.guards.first() else {
            return;
        };
        let handle = first.handle.clone();
        let ends = self.guards.iter_mut().filter(|guard| !guard.over);
        let held = ends.filter_map(|guard| guard.finish().is_ok().then(|| guard.grant.clone()));
        handle.release_all(held.collect());
    }
}

impl fmt::Debug for GuardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.guards).finish()
    }
}
