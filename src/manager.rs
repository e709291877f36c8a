//! [`Manager`]: takes locks for its users, through the worker.

mod holders;
mod several;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::acquire::Acquire;
use crate::acquire::options::{until, within};
use crate::error::Error;
use crate::guard::Guard;
use crate::health::Health;
use crate::key::Key;
use crate::op::Wait;
use crate::stats::Stats;
use crate::with_lock::WithLockError;
use crate::worker::handle::Handle;

/// Takes and keeps locks, over one database connection.
///
/// Cheap to clone, for use by any number of threads: all clones are one manager. Its worker ends
/// when the last clone *and* the last guard are dropped and no lock is kept for
/// [`Acquire::hold_at_least`], or at [`close`](Manager::close).
///
/// The methods follow `std::sync::Mutex` and `parking_lot`: `lock` waits, `try_lock` does not,
/// `try_lock_for` and `try_lock_until` wait for a limited time; each has a `_shared` variant,
/// whose holders exclude only exclusive ones. All take anything that converts to a [`Key`].
///
/// # Errors
///
/// Every acquire can fail with
/// [`Unavailable`](crate::ErrorKind::Unavailable) while the database is away (see
/// [`Builder::wait_while_unavailable`](crate::Builder::wait_while_unavailable)) or when it does not answer;
/// [`Login`](crate::ErrorKind::Login) while it refuses the login of a reconnect;
/// [`Closed`](crate::ErrorKind::Closed);
/// [`LimitReached`](crate::ErrorKind::LimitReached);
/// [`WaitLimit`](crate::ErrorKind::WaitLimit);
/// [`LockTableFull`](crate::ErrorKind::LockTableFull);
/// [`Fencing`](crate::ErrorKind::Fencing) if there is no token for the lock;
/// after a reconnect that found an unsuitable server, the kinds of [`Builder::connect`](crate::Builder::connect);
/// [`Database`](crate::ErrorKind::Database) for any other error of the server.
#[derive(Clone)]
pub struct Manager {
    handle: Arc<Handle>,
}

impl Manager {
    pub(crate) fn new(handle: Arc<Handle>) -> Self {
        Manager { handle }
    }

    /// Waits for the lock, first in, first out among the threads that share the manager.
    ///
    /// Two ways to wait forever: locks are not reentrant, so a thread that requests a lock it
    /// holds waits for itself; and two threads or programs that take two locks in opposite order
    /// wait for each other, which is not detected. Take locks in one order everywhere, such as by
    /// their names, or take the second one with [`try_lock_for`](Manager::try_lock_for) and
    /// release the first if that fails. [`Builder::wait_limit`](crate::Builder::wait_limit) turns
    /// such a wait into an error.
    ///
    /// # Errors
    ///
    /// Those of [every acquire](Manager#errors).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// let guard = mgr.lock("nightly-report")?;
    /// // only one of us, on all machines, is here
    /// drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    pub fn lock(&self, key: impl Into<Key>) -> Result<Guard, Error> {
        self.acquire(key).lock()
    }

    /// Takes the lock if it is free now. `Ok(None)`: it is held, or this process has had its turn
    /// and leaves it to another one that waits for it.
    ///
    /// # Errors
    ///
    /// Those of [every acquire](Manager#errors).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// if let Some(_guard) = mgr.try_lock("sweep")? {
    ///     // nobody else is at it
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_lock(&self, key: impl Into<Key>) -> Result<Option<Guard>, Error> {
        self.acquire(key).wait(Wait::Try(None))
    }

    /// Waits for the lock, runs `work` under it, and releases it. The value is returned only if
    /// the lock lasted to the end, which the server confirms in a round trip after `work`; and no
    /// guard can be dropped too early. If `work` panics the lock is released and the panic
    /// continues. For shared locks, timeouts and tokens see [`Acquire::with_lock`].
    ///
    /// # Errors
    ///
    /// Those of [every acquire](Manager#errors), and then `work` has not run; or those of
    /// [`Guard::unlock`], with [the value](WithLockError::value) of `work`, if the lock was lost
    /// while it ran.
    ///
    /// ```no_run
    /// # fn report() -> String { String::new() }
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// let text = mgr.with_lock("nightly-report", |_guard| report())?;
    /// println!("nobody else was writing it: {text}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_lock<T>(
        &self,
        key: impl Into<Key>,
        work: impl FnOnce(&Guard) -> T,
    ) -> Result<T, WithLockError<T>> {
        self.acquire(key).with_lock(work)
    }

    /// Like [`with_lock`](Manager::with_lock) if the lock is free now. `Ok(None)`: it is held,
    /// and `work` has not run.
    ///
    /// # Errors
    ///
    /// Those of [`with_lock`](Manager::with_lock).
    ///
    /// ```no_run
    /// # fn sweep() {}
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// if mgr.try_with_lock("sweep", |_guard| sweep())?.is_none() {
    ///     println!("somebody else is at it");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_with_lock<T>(
        &self,
        key: impl Into<Key>,
        work: impl FnOnce(&Guard) -> T,
    ) -> Result<Option<T>, WithLockError<T>> {
        self.acquire(key).try_with_lock(work)
    }

    /// Waits for the lock for at most `timeout`. A zero timeout tries once, for up to 100 ms.
    /// `Ok(None)`: the lock was seen to be held; if that could not be determined in time, the
    /// error is [`Unavailable`](crate::ErrorKind::Unavailable).
    ///
    /// # Errors
    ///
    /// Those of [every acquire](Manager#errors).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// use std::time::Duration;
    ///
    /// match mgr.try_lock_for("import", Duration::from_secs(2))? {
    ///     Some(_guard) => println!("importing"),
    ///     None => println!("somebody has been importing for two seconds"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_lock_for(
        &self,
        key: impl Into<Key>,
        timeout: Duration,
    ) -> Result<Option<Guard>, Error> {
        self.acquire(key).wait(within(timeout))
    }

    /// Waits for the lock until `deadline`, as [`try_lock_for`](Manager::try_lock_for)
    /// does. A deadline that has passed allows one attempt.
    ///
    /// # Errors
    ///
    /// Those of [every acquire](Manager#errors).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// use std::time::{Duration, Instant};
    ///
    /// // All of them within a minute.
    /// let deadline = Instant::now() + Duration::from_secs(60);
    /// for tenant in ["tenant-17", "tenant-18"] {
    ///     let guard = mgr.try_lock_until(tenant, deadline)?;
    ///     println!("{tenant}: {}", guard.is_some());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_lock_until(
        &self,
        key: impl Into<Key>,
        deadline: Instant,
    ) -> Result<Option<Guard>, Error> {
        self.acquire(key).wait(until(deadline))
    }

    /// Waits for a share of the lock. Exclusive requests that are already waiting go first.
    ///
    /// # Errors
    ///
    /// Those of [every acquire](Manager#errors).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// let _reader = mgr.lock_shared("catalogue")?; // beside other readers
    /// assert!(mgr.try_lock("catalogue")?.is_none()); // but no writer
    /// # Ok(())
    /// # }
    /// ```
    pub fn lock_shared(&self, key: impl Into<Key>) -> Result<Guard, Error> {
        self.acquire(key).shared().lock()
    }

    /// Takes a share of the lock if that is possible now.
    ///
    /// # Errors
    ///
    /// Those of [every acquire](Manager#errors).
    pub fn try_lock_shared(&self, key: impl Into<Key>) -> Result<Option<Guard>, Error> {
        self.acquire(key).shared().wait(Wait::Try(None))
    }

    /// Waits for a share of the lock for at most `timeout`. A zero timeout tries once, for up to
    /// 100 ms. `Ok(None)`: the lock was seen to be held; if that could not be determined in time,
    /// the error is [`Unavailable`](crate::ErrorKind::Unavailable).
    ///
    /// # Errors
    ///
    /// Those of [every acquire](Manager#errors).
    pub fn try_lock_shared_for(
        &self,
        key: impl Into<Key>,
        timeout: Duration,
    ) -> Result<Option<Guard>, Error> {
        self.acquire(key).shared().wait(within(timeout))
    }

    /// Waits for a share of the lock until `deadline`. A deadline that has passed allows one
    /// attempt.
    ///
    /// # Errors
    ///
    /// Those of [every acquire](Manager#errors).
    pub fn try_lock_shared_until(
        &self,
        key: impl Into<Key>,
        deadline: Instant,
    ) -> Result<Option<Guard>, Error> {
        self.acquire(key).shared().wait(until(deadline))
    }

    /// The key that a call of this manager with `key` locks: names are those of the manager's
    /// [namespace](crate::Builder::namespace), if it has one. [`Key::sql`] tells it to other programs.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// let mgr = distlock::Manager::builder("host=localhost user=app")
    ///     .namespace("billing")
    ///     .connect()?;
    /// let key = mgr.key(("tenant", 17));
    /// println!("SELECT pg_advisory_lock({})", key.sql());
    /// # Ok(())
    /// # }
    /// ```
    pub fn key(&self, key: impl Into<Key>) -> Key {
        key.into().within(self.handle.settings().namespace.as_ref())
    }

    /// An acquire with options: shared, with a timeout, ended by a token, held for a time.
    pub fn acquire(&self, key: impl Into<Key>) -> Acquire<'_> {
        Acquire::new(&self.handle, self.key(key))
    }

    /// The manager's counters and gauges.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// let stats = mgr.stats();
    /// println!("{} held, {} lost so far", stats.held, stats.lost);
    /// # Ok(())
    /// # }
    /// ```
    pub fn stats(&self) -> Stats {
        self.handle.stats()
    }

    /// The state of the manager's connection: connected or not, since when, and why not.
    /// No round trip and no waiting, so that a probe or a metrics exporter can call it at any
    /// rate.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// let health = mgr.health();
    /// println!("distlock_connected {}", u8::from(health.connected));
    /// println!("distlock_state_age_seconds {}", health.age().as_secs_f64());
    /// if let Some(cause) = health.cause {
    ///     println!("not ready for {:?}: {cause}", health.since.elapsed());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn health(&self) -> Health {
        self.handle.health()
    }

    /// Ends the manager for all its clones: every watch trips with
    /// [`Ended::Closed`](crate::Ended::Closed), every waiting or later request fails with
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed), the connection is closed and the worker
    /// thread joined. Locks that are kept for [`Acquire::hold_at_least`] are released as well.
    /// Closing twice is not an error.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the database did not answer
    /// within two seconds. The manager is closed all the same, but the server releases its locks
    /// only when it notices that the connection is gone.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// let guard = mgr.lock("leader")?;
    /// mgr.close()?;
    /// assert!(guard.is_lost());
    /// assert_eq!(mgr.lock("leader").unwrap_err().kind(), distlock::ErrorKind::Closed);
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(&self) -> Result<(), Error> {
        self.handle.close()
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
