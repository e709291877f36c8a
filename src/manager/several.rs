//! The manager's methods for several locks at once.

use super::Manager;
use crate::acquire::all::AcquireAll;
use crate::acquire::some;
use crate::error::Error;
use crate::guard::Guard;
use crate::guard::set::GuardSet;
use crate::key::Key;
use crate::semaphore::Semaphore;

impl Manager {
    /// Waits for all of the locks, and takes them together: a round trip for each 1,024 keys if they
    /// are free. While it waits for one it keeps those before it from others, in an
    /// [order](AcquireAll#order) in which no two sets ever wait for each other.
    ///
    /// # Errors
    ///
    /// Those of [every acquire](Manager#errors);
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is no key, or there are more than
    /// [`Builder::max_locks`](crate::Builder::max_locks). After an error none is held.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// let _accounts = mgr.lock_all(["account-17", "account-4"])?;
    /// // nobody else is at either of them
    /// # Ok(())
    /// # }
    /// ```
    pub fn lock_all<K: Into<Key>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<GuardSet, Error> {
        self.acquire_all(keys).lock()
    }

    /// Takes all of the locks if they are free now, and else none. Of several that try the same
    /// ones at the same time, one gets them. `Ok(None)`: one is held.
    ///
    /// # Errors
    ///
    /// Those of [`lock_all`](Manager::lock_all).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// if let Some(_tables) = mgr.try_lock_all(["orders", "invoices"])? {
    ///     // nobody else is at either of them
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_lock_all<K: Into<Key>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Option<GuardSet>, Error> {
        self.acquire_all(keys).try_lock()
    }

    /// Takes at most `most` of the locks: those that are free now, in one round trip. It begins at a
    /// random one of the keys, so that workers who choose from the same jobs do not all try the
    /// same ones first. None: all are held, or there are none.
    ///
    /// Each guard is one lock's, and is released by itself. A key that is given twice counts once.
    ///
    /// # Errors
    ///
    /// Those of [every acquire](Manager#errors). After an error none is held.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// let jobs = (1..=10_000).map(|job| ("job", job));
    /// for guard in mgr.try_lock_some(jobs, 16)? {
    ///     println!("{} is ours", guard.key());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_lock_some<K: Into<Key>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        most: usize,
    ) -> Result<Vec<Guard>, Error> {
        let keys = keys.into_iter().map(|key| self.key(key)).collect();
        some::try_lock_some(&self.handle, keys, most)
    }

    /// An acquire of several locks with options: of some of them a share, with a timeout, ended by a
    /// token, held for a time.
    pub fn acquire_all<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> AcquireAll<'_> {
        AcquireAll::new(&self.handle, keys)
    }

    /// A semaphore: a lock that up to `permits` may hold at a time, in all processes. `name` is in
    /// the manager's [namespace](crate::Builder::namespace), and has nothing to do with the lock of
    /// that name. No round trip.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if `permits` is 0 or above 1,024.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// let exports = mgr.semaphore("exports", 3)?;
    /// if let Some(_permit) = exports.try_acquire()? {
    ///     // at most three of us, on all machines, are here
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn semaphore(&self, name: &str, permits: usize) -> Result<Semaphore, Error> {
        Semaphore::new(&self.handle, name, permits)
    }
}
