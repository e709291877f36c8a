//! [`Acquire`]: one acquire with its options, on the caller's side.

pub(crate) mod all;
pub(crate) mod options;
pub(crate) mod some;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::options::Options;
use crate::cancel::CancelToken;
use crate::error::Error;
use crate::guard::Guard;
use crate::key::Key;
use crate::op::{Mode, Wait};
use crate::with_lock::{self, WithLockError};
use crate::worker::handle::Handle;

/// An acquire with options, from [`Manager::acquire`](crate::Manager::acquire).
///
/// ```no_run
/// # fn main() -> Result<(), distlock::Error> {
/// # use std::time::Duration;
/// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
/// let shutdown = distlock::CancelToken::new();
/// let guard = mgr
///     .acquire("tenant-17")
///     .shared()
///     .timeout(Duration::from_secs(5))
///     .cancel(&shutdown)
///     .lock()?;
/// # drop(guard);
/// # Ok(())
/// # }
/// ```
#[must_use = "an acquire does nothing until `lock` or `try_lock`"]
pub struct Acquire<'a> {
    handle: &'a Arc<Handle>,
    key: Key,
    mode: Mode,
    options: Options<'a>,
}

impl<'a> Acquire<'a> {
    pub(crate) fn new(handle: &'a Arc<Handle>, key: Key) -> Self {
        Acquire {
            handle,
            key,
            mode: Mode::Exclusive,
            options: Options::default(),
        }
    }

    /// Takes the lock together with other shared holders. Default: exclusive.
    pub fn shared(mut self) -> Self {
        self.mode = Mode::Shared;
        self
    }

    /// The longest wait. Default: [`lock`](Acquire::lock) waits without limit,
    /// [`try_lock`](Acquire::try_lock) not at all. Zero tries once, for up to 100 ms.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Ends the wait when `token` is cancelled, and later trips the watch of the hold with
    /// [`Ended::Cancelled`](crate::Ended::Cancelled). It never releases the lock under its holder:
    /// only dropping or unlocking the guard does. Default: nothing ends the wait.
    ///
    /// ```no_run
    /// # fn steps() -> std::vec::IntoIter<fn()> { Vec::new().into_iter() }
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// # let shutdown = distlock::CancelToken::new();
    /// let guard = mgr.acquire("import").cancel(&shutdown).lock()?;
    /// for step in steps() {
    ///     if guard.is_lost() {
    ///         break; // told to stop, or the lock is lost
    ///     }
    ///     step();
    /// }
    /// guard.unlock()?; // only now can somebody else have it
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancel(mut self, token: &'a CancelToken) -> Self {
        self.options.cancel(token);
        self
    }

    /// Like [`cancel`](Acquire::cancel), but also releases the lock as soon as `token` is
    /// cancelled, without waiting for its guard: the guard's holder may then be inside
    /// together with the next holder. For holds whose work is over when the token is
    /// cancelled, or that a supervisor must be able to end; not for a shutdown. Both tokens
    /// may be set. Default: only the guard releases the lock.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// let request = distlock::CancelToken::new();
    /// let guard = mgr.acquire("seat-17").release_on(&request).lock()?;
    /// request.cancel(); // the request is over, wherever its guard is
    /// assert!(guard.is_lost());
    /// # Ok(())
    /// # }
    /// ```
    pub fn release_on(mut self, token: &'a CancelToken) -> Self {
        self.options.release_on(token);
        self
    }

    /// Keeps the lock until `time` after the grant, even if its guard is dropped or unlocked
    /// earlier: other acquires, here or elsewhere, find it held until then. Default: the lock is
    /// released with its guard.
    ///
    /// The guard's drop and [`unlock`](Guard::unlock) return as early as without it; `unlock`'s
    /// `Ok` says that the lock has lasted until that call. A kept lock counts as
    /// [held](crate::Stats::held), also for [`Builder::max_locks`](crate::Builder::max_locks), and
    /// its lease is renewed. It is kept while the process and the session last, also if every
    /// clone of the manager is dropped; [`Manager::close`](crate::Manager::close) releases it. The
    /// locks of a program end with it: one that is to keep them has to wait.
    ///
    /// ```no_run
    /// # fn report() {}
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// # use std::time::Duration;
    /// let minute = Duration::from_secs(60);
    /// let nightly = mgr.acquire("nightly-report").hold_at_least(minute);
    /// // However quick the report is, no one else begins it within the minute.
    /// nightly.try_with_lock(|_guard| report())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn hold_at_least(mut self, time: Duration) -> Self {
        self.options.hold_at_least(time);
        self
    }

    /// Waits for the lock.
    ///
    /// # Errors
    ///
    /// [`Timeout`](crate::ErrorKind::Timeout) if it was not free within the
    /// [`timeout`](Acquire::timeout), and what [`Manager::lock`](crate::Manager::lock)
    /// returns.
    pub fn lock(self) -> Result<Guard, Error> {
        let wait = self.options.patience(Wait::Forever);
        self.wait(wait)?.ok_or_else(Error::timeout)
    }

    /// Takes the lock if it is free now, or becomes so within the
    /// [`timeout`](Acquire::timeout).
    ///
    /// # Errors
    ///
    /// What [`Manager::try_lock`](crate::Manager::try_lock) returns.
    pub fn try_lock(self) -> Result<Option<Guard>, Error> {
        let wait = self.options.patience(Wait::Try(None));
        self.wait(wait)
    }

    /// [`lock`](Acquire::lock) around `work`: see
    /// [`Manager::with_lock`](crate::Manager::with_lock).
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Acquire::lock) and [`Guard::unlock`].
    pub fn with_lock<T>(self, work: impl FnOnce(&Guard) -> T) -> Result<T, WithLockError<T>> {
        with_lock::run(self.lock()?, work)
    }

    /// [`try_lock`](Acquire::try_lock) around `work`: see
    /// [`Manager::try_with_lock`](crate::Manager::try_with_lock).
    ///
    /// # Errors
    ///
    /// Those of [`try_lock`](Acquire::try_lock) and [`Guard::unlock`].
    pub fn try_with_lock<T>(
        self,
        work: impl FnOnce(&Guard) -> T,
    ) -> Result<Option<T>, WithLockError<T>> {
        let guard = self.try_lock()?;
        guard.map(|guard| with_lock::run(guard, work)).transpose()
    }

    /// `None`: the lock is held, and the wait is over.
    pub(crate) fn wait(self, wait: Wait) -> Result<Option<Guard>, Error> {
        let Acquire {
            handle,
            key,
            mode,
            options,
        } = self;
        let limit = handle.settings().wait_limit;
        let what = format_args!("the lock {key}");
        let grant = options.obtain(wait, limit, &what, |wait, interrupt| {
            let grant = handle.acquire(key, mode, wait, interrupt)?;
            Ok(grant.map(|grant| (Arc::clone(&grant.lease), grant)))
        })?;
        let guard = grant.map(|grant| options.guard(handle, grant));
        guard.transpose()
    }
}

impl fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("key", &self.key)
            .field("mode", &self.mode)
            .field("options", &self.options)
            .finish()
    }
}
