//! [`Acquire`]: one acquire with its options, on the caller's side.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cancel::CancelToken;
use crate::config::FOREVER;
use crate::error::Error;
use crate::guard::Guard;
use crate::key::Key;
use crate::lease::Ended;
use crate::op::{Mode, Wait};
use crate::with_lock::{self, WithLockError};
use crate::worker::handle::Handle;

/// How long the one attempt of a timed call may take that has no time left.
const ALLOWANCE: Duration = Duration::from_millis(100);

/// The wait of a call with this `timeout`.
pub(crate) fn within(timeout: Duration) -> Wait {
    // Beyond the clock's range.
    Instant::now()
        .checked_add(timeout)
        .map_or(Wait::Forever, until)
}

/// The wait of a call with this `deadline`. One that has passed still allows one attempt, which
/// takes a round trip.
pub(crate) fn until(deadline: Instant) -> Wait {
    let now = Instant::now();
    if deadline <= now {
        Wait::Try(Some(now + ALLOWANCE))
    } else {
        Wait::Until(deadline)
    }
}

/// `wait` limited to `longest` from now, and whether that shortens the wait for the lock.
fn cut(wait: Wait, longest: Option<Duration>) -> (Wait, bool) {
    let end = longest.and_then(|longest| Instant::now().checked_add(longest));
    match (wait, end) {
        (Wait::Until(deadline), Some(end)) if deadline > end => (Wait::Until(end), true),
        (Wait::Forever, Some(end)) => (Wait::Until(end), true),
        // A call that tries once waits for the database alone, not for the lock.
        (Wait::Try(deadline), Some(end)) => {
            let sooner = deadline.map_or(end, |deadline| deadline.min(end));
            (Wait::Try(Some(sooner)), false)
        }
        (wait, _) => (wait, false),
    }
}

/// True if a caller whose grant was lost before it could return may try again after so many
/// `attempts`: one that does not wait tries twice.
fn allows_another(wait: Wait, attempts: u32) -> bool {
    match wait {
        Wait::Try(_) => attempts < 2,
        Wait::Until(deadline) => Instant::now() < deadline,
        Wait::Forever => true,
    }
}

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
    timeout: Option<Duration>,
    cancel: Option<&'a CancelToken>,
    release_on: Option<&'a CancelToken>,
    hold_at_least: Option<Duration>,
    /// Ends the wait: cancelled with either of the two.
    token: Option<CancelToken>,
}

impl<'a> Acquire<'a> {
    pub(crate) fn new(handle: &'a Arc<Handle>, key: Key) -> Self {
        Acquire {
            handle,
            key,
            mode: Mode::Exclusive,
            timeout: None,
            cancel: None,
            release_on: None,
            hold_at_least: None,
            token: None,
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
        self.timeout = Some(timeout);
        self
    }

    /// Ends the wait when `token` is cancelled, and later trips the watch of the hold with
    /// [`Ended::Cancelled`]. It never releases the lock under its holder: only dropping or
    /// unlocking the guard does. Default: nothing ends the wait.
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
        self.cancel = Some(token);
        self.interruptible()
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
        self.release_on = Some(token);
        self.interruptible()
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
        self.hold_at_least = Some(time.min(FOREVER));
        self
    }

    fn interruptible(mut self) -> Self {
        self.token = match (self.cancel, self.release_on) {
            (Some(one), Some(other)) => Some(CancelToken::either(one, other)),
            (one, other) => one.or(other).cloned(),
        };
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
        let wait = self.timeout.map_or(Wait::Forever, within);
        self.wait(wait)?.ok_or_else(Error::timeout)
    }

    /// Takes the lock if it is free now, or becomes so within the
    /// [`timeout`](Acquire::timeout).
    ///
    /// # Errors
    ///
    /// What [`Manager::try_lock`](crate::Manager::try_lock) returns.
    pub fn try_lock(self) -> Result<Option<Guard>, Error> {
        let wait = self.timeout.map_or(Wait::Try(None), within);
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

    /// [`run`](Acquire::run) within [`Builder::wait_limit`](crate::Builder::wait_limit).
    pub(crate) fn wait(self, wait: Wait) -> Result<Option<Guard>, Error> {
        let (key, longest) = (self.key, self.handle.settings().wait_limit);
        let (wait, is_cut) = cut(wait, longest);
        let outcome = self.run(wait)?;
        match longest {
            Some(longest) if is_cut && outcome.is_none() => Err(Error::wait_limit(&key, longest)),
            _ => Ok(outcome),
        }
    }

    /// `None`: the lock is held, and the wait is over.
    pub(crate) fn run(self, wait: Wait) -> Result<Option<Guard>, Error> {
        let interrupt = self.token.as_ref().map(CancelToken::latch);
        let mut attempts = 1;
        loop {
            let Some(grant) = self.handle.acquire(self.key, self.mode, wait, interrupt)? else {
                return Ok(None);
            };
            // This thread, or the whole process, may have been suspended since the grant, and
            // the session may have ended meanwhile.
            match grant.lease.ended() {
                None => {
                    let keep_until = self.hold_at_least.map(|time| Instant::now() + time);
                    let guard = Guard::new(Arc::clone(self.handle), grant)
                        .cancelled_by(self.cancel, self.release_on)?;
                    // Last: a hold that was cancelled before it began is not to be kept.
                    return Ok(Some(guard.kept_until(keep_until)));
                }
                Some(Ended::Closed) => return Err(Error::closed()),
                Some(_) if allows_another(wait, attempts) => attempts += 1,
                Some(_) => {
                    return Err(Error::unavailable(
                        "the lock was lost again before the call could return",
                    ));
                }
            }
        }
    }
}

impl fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("key", &self.key)
            .field("mode", &self.mode)
            .field("timeout", &self.timeout)
            .field("cancel", &self.cancel)
            .field("release_on", &self.release_on)
            .field("hold_at_least", &self.hold_at_least)
            .finish()
    }
}
