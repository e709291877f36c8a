//! [`Guard`]: a hold, as its owner sees it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use crate::cancel::CancelToken;
use crate::error::Error;
use crate::key::Key;
use crate::lease::{Ended, Hold};
use crate::watch::Watch;
use crate::worker::handle::Handle;
use crate::worker::request::Grant;

/// A lock that is held until the guard is dropped.
///
/// Dropping it queues the unlock and returns at once: it never waits, never panics, and
/// may happen on any thread, also while unwinding. [`unlock`](Guard::unlock) waits
/// for the server and returns the outcome. Once the lock is lost the guard is inert; dropping
/// it then affects no later hold. A guard leaked by [`std::mem::forget`] keeps its lock,
/// and with it the connection, until the manager is closed.
///
/// A lock can be lost while the guard lives: see [`is_lost`](Guard::is_lost) and
/// [`watch`](Guard::watch).
///
/// ```no_run
/// # fn main() -> Result<(), distlock::Error> {
/// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
/// {
///     let guard = mgr.lock((17, 4))?;
///     println!("{} is ours", guard.key());
/// } // given back here
/// # Ok(())
/// # }
/// ```
#[must_use = "the lock is released as soon as its guard is dropped, and `let _ =` drops it \
              at once: write `let _guard =`, or use `Manager::with_lock`"]
pub struct Guard {
    handle: Arc<Handle>,
    grant: Grant,
    /// Made when first needed: by a watch or a token.
    hold: OnceCell<Arc<Hold>>,
    /// Where the hold is registered while it lasts.
    tokens: [Option<CancelToken>; 2],
    /// True once nothing is left to release.
    over: bool,
}

impl Guard {
    pub(crate) fn new(handle: Arc<Handle>, grant: Grant) -> Self {
        Guard {
            handle,
            grant,
            hold: OnceCell::new(),
            tokens: [None, None],
            over: false,
        }
    }

    /// Ends the hold with either token, and with `release_on` the lock as well; an error if
    /// one is cancelled already.
    pub(crate) fn cancelled_by(
        mut self,
        cancel: Option<&CancelToken>,
        release_on: Option<&CancelToken>,
    ) -> Result<Guard, Error> {
        let (grant, handle) = (&self.grant, &self.handle);
        let ends = cancel.is_none_or(|token| token.trip(self.hold(), grant, handle));
        // Second, so that it prevails if both are the same token.
        let releases = release_on.is_none_or(|token| token.release(self.hold(), grant, handle));
        self.tokens = [cancel.cloned(), release_on.cloned()];
        if ends && releases {
            Ok(self)
        } else {
            Err(Error::cancelled())
        }
    }

    /// If the guard is dropped or unlocked before, the manager keeps the lock until then.
    pub(crate) fn kept_until(mut self, keep_until: Option<Instant>) -> Guard {
        self.grant.keep_until = keep_until;
        self
    }

    fn hold(&self) -> &Arc<Hold> {
        self.hold.get_or_init(|| Hold::new(&self.grant.lease))
    }

    /// What is locked, with the namespace applied; [`Key::as_i64`] tells its row in `pg_locks`.
    pub fn key(&self) -> &Key {
        &self.grant.key
    }

    /// True if the work under the lock has to stop: the lock is lost, or the acquire's token
    /// was cancelled. See [`Watch::is_lost`].
    ///
    /// No round trip: this reads a flag and a clock, and may be called often.
    pub fn is_lost(&self) -> bool {
        self.ended().is_some()
    }

    /// How long the lock still counts as held if the server does not answer any more:
    /// [renewed](crate::Builder::heartbeat) while it does, zero once the lock is lost. `None`
    /// without a [lease](crate::Builder::lease).
    ///
    /// No round trip: for a step that must not begin unless there is time to finish it. To be
    /// notified, see [`Watch::wait_at_risk`].
    ///
    /// ```no_run
    /// # fn step() {}
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// use std::time::Duration;
    ///
    /// let guard = mgr.lock("import")?;
    /// let enough = |left| left > Duration::from_secs(3); // the step takes two
    /// if guard.time_left().is_none_or(enough) && !guard.is_lost() {
    ///     step();
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn time_left(&self) -> Option<Duration> {
        match self.hold.get() {
            Some(hold) => hold.time_left(),
            None => self.grant.lease.time_left(),
        }
    }

    fn ended(&self) -> Option<Ended> {
        match self.hold.get() {
            Some(hold) => hold.ended(),
            None => self.grant.lease.ended(),
        }
    }

    /// A watch, which reports the end of this hold, also on other threads and after the guard.
    pub fn watch(&self) -> Watch {
        Watch::new(Arc::clone(self.hold()))
    }

    /// The fencing token of this hold: greater than those of all earlier holders, in the whole
    /// database. Above zero, and a `bigint` in SQL. Holders that share a lock at the same time
    /// have tokens in any order. `None` without
    /// [`Builder::fencing`](crate::Builder::fencing).
    pub fn token(&self) -> Option<i64> {
        self.grant.token.map(i64::from)
    }

    /// Releases the lock and waits until other holders can have it; with
    /// [`Acquire::hold_at_least`](crate::Acquire::hold_at_least) only until the server has
    /// confirmed that it lasted.
    ///
    /// # Errors
    ///
    /// The lock was not held to the end, so another holder may have been inside:
    /// [`ErrorKind::Lost`](crate::ErrorKind::Lost), or
    /// [`Closed`](crate::ErrorKind::Closed) or, with
    /// [`Acquire::release_on`](crate::Acquire::release_on),
    /// [`Cancelled`](crate::ErrorKind::Cancelled) if that is the cause. After an error, as
    /// after success, this guard does not hold the lock.
    ///
    /// A success was confirmed by the server in a round trip that began after the call, also
    /// where the lock was handed to another thread of this process. A hold whose
    /// [`cancel`](crate::Acquire::cancel) token was cancelled succeeds as well if its lock
    /// lasted: its watch reports `Cancelled`, and no other holder was inside.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// let guard = mgr.lock("nightly-report")?;
    /// // ... the report ...
    /// guard.unlock()?; // now it is certain that nobody else was writing it
    /// # Ok(())
    /// # }
    /// ```
    pub fn unlock(mut self) -> Result<(), Error> {
        self.finish().map_err(Error::ended)?;
        self.handle.unlock(self.grant.clone())
    }

    /// Ends the hold. An error if the lock is not this guard's to release: it was lost before,
    /// or its token has released it.
    fn finish(&mut self) -> Result<(), Ended> {
        self.over = true;
        for token in self.tokens.iter_mut().filter_map(Option::take) {
            token.unregister(&self.grant, &self.handle);
        }
        match self.hold.get() {
            Some(hold) => hold.claim_release(Ended::Unlocked),
            None => self.grant.lease.ended().map_or(Ok(()), Err),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.over && self.finish().is_ok() {
            self.handle.release(self.grant.clone());
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("key", &self.grant.key)
            .field("mode", &self.grant.mode)
            .field("ended", &self.ended())
            .finish()
    }
}
