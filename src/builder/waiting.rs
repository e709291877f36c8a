//! The settings of waits: for how long, how often to ask, and what is said of it.

use std::time::Duration;

use super::Builder;

impl Builder {
    /// What an acquire does while the database is away: fail at once (`false`), or wait for it
    /// within its own deadline (`true`; `try_lock` does not wait and fails).
    ///
    /// In both cases requests that find the connection just broken wait for the outcome of
    /// one reconnect, within their own deadline: `try_lock` and `lock` for up to the
    /// [`connect_timeout`](Builder::connect_timeout), for each host. If it fails, they return
    /// its error, of the same kind and with its text: those of [`connect`](Builder::connect).
    ///
    /// Default: `false`.
    pub fn wait_while_unavailable(mut self, wait: bool) -> Builder {
        self.settings.wait_while_unavailable = wait;
        self
    }

    /// How long any wait for a lock may last, whatever the call's own limit: an acquire that
    /// would wait longer, forever or until its own deadline, fails with
    /// [`WaitLimit`](crate::ErrorKind::WaitLimit) and the key's number. So a deadlock, which is
    /// not detected, ends in an error that names the lock. Set it well above the normal waiting
    /// times. A wait for the database ends at this limit with
    /// [`Unavailable`](crate::ErrorKind::Unavailable), also that of `try_lock`. `None` turns it
    /// off; zero is refused.
    ///
    /// Default: none.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// use std::time::Duration;
    ///
    /// let mgr = distlock::Manager::builder("host=localhost user=app")
    ///     .wait_limit(Duration::from_secs(600))
    ///     .connect()?;
    /// let _guard = mgr.lock("nightly-report")?; // an error after ten minutes
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_limit(mut self, limit: impl Into<Option<Duration>>) -> Builder {
        self.settings.wait_limit = limit.into();
        self
    }

    /// Logs each wait and each hold that lasts longer than `limit`, once, as a warning: the lock
    /// with the name that its key was made from, its mode, how long, and who is in the way. That is
    /// the thread, and for how long it has had the lock, if it is one of this manager; otherwise the
    /// server is asked, once for the wait, for the backend's process id, and, as far as this role
    /// may see them, its application name and address ([`pg_stat_activity`]). The warning comes
    /// within a quarter of `limit`, and within a second. Zero is refused.
    ///
    /// For the names, the last few thousand that this program has made keys of are kept in memory.
    ///
    /// Whether or not this is set, threads of the manager that wait for each other's locks, also
    /// one that waits for a lock which it holds itself, are logged once as a warning after a
    /// second. No error comes of it, because guards can move between threads.
    ///
    /// Default: no warnings.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// use std::time::Duration;
    ///
    /// let mgr = distlock::Manager::builder("host=localhost user=app")
    ///     .warn_after(Duration::from_secs(60))
    ///     .connect()?;
    /// let _guard = mgr.lock("nightly-report")?; // a warning after a minute tells who has it
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`pg_stat_activity`]: https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-ACTIVITY-VIEW
    pub fn warn_after(mut self, limit: impl Into<Option<Duration>>) -> Builder {
        self.settings.warn_after = limit.into();
        self
    }

    /// How often to retry a lock that another process holds. The interval grows with the
    /// time already waited, of which it stays below a tenth, from `first` up to `longest`.
    /// Zero is refused.
    ///
    /// This is how waiters of a manager ask that also holds locks, or waits for several. One that
    /// only waits for a single lock waits in the server's queue instead.
    ///
    /// Default: 1 ms to 500 ms.
    pub fn retry_interval(mut self, first: Duration, longest: Duration) -> Builder {
        self.settings.retry_min = first;
        self.settings.retry_max = longest;
        self
    }
}
