//! [`Guard`]: a hold, as its owner sees it.

mod fencing;
pub(crate) mod set;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;
use postgres::GenericClient;

use crate::cancel::CancelToken;
use crate::error::Error;
use crate::fence::Fence;
use crate::holder::{Claim, Holder, Question};
use crate::key::Key;
use crate::lease::{Ended, Hold};
use crate::op::Mode;
use crate::watch::Watch;
use crate::worker::answer::Grant;
use crate::worker::handle::Handle;

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
    /// Made when first needed: by a transaction.
    fence: OnceCell<Box<Fence>>,
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
            fence: OnceCell::new(),
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

    /// Ties `transaction` to this hold: after success nobody else's acquire of the lock returns
    /// before the transaction has ended, whatever happens to this process, its session or the
    /// server meanwhile. So what the transaction writes is never later than what the next holder
    /// does, without a token, a column or a table for it.
    ///
    /// The transaction may be one of any connection to the manager's database, also of a pool in
    /// transaction mode. Several may be fenced by one hold, one after the other and at the same time;
    /// the end of the hold does not wait for them. Begin a transaction when the lock is held: one
    /// with an older snapshot (`REPEATABLE READ`, `SERIALIZABLE`) does not see what the last holder
    /// has committed since. Rolling back to a savepoint that is older than the fence undoes it.
    ///
    /// It costs one round trip of the transaction's connection, and for the first one of a hold two
    /// of the manager's. While a lock is fenced the manager's session is in a transaction, which it
    /// renews each second. A lock that was fenced is handed on by the server, not within the process.
    ///
    /// A thread that locks again before its own transaction has ended waits for itself.
    ///
    /// This relies on each process that uses the lock to be a manager of this crate, of this version
    /// or later: other programs have to [look for open transactions](crate::Key#companions)
    /// themselves.
    ///
    /// # Errors
    ///
    /// The transaction is not fenced, and should be rolled back:
    ///
    /// * [`Lost`](crate::ErrorKind::Lost) (or [`Closed`](crate::ErrorKind::Closed),
    ///   [`Cancelled`](crate::ErrorKind::Cancelled)): the hold is over, or the transaction is of
    ///   another database or server, such as a standby;
    /// * [`NoTransaction`](crate::ErrorKind::NoTransaction): no transaction is open, or it has failed;
    /// * [`Unavailable`](crate::ErrorKind::Unavailable): the connection is gone, or the manager's
    ///   session could not be seen to live;
    /// * [`LockTableFull`](crate::ErrorKind::LockTableFull),
    ///   [`Database`](crate::ErrorKind::Database).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// # let mut client = postgres::Client::connect("host=localhost user=app", postgres::NoTls)?;
    /// let guard = mgr.lock("tenant-17")?;
    /// let mut transaction = client.transaction()?;
    /// guard.fence(&mut transaction)?;
    /// transaction.execute("UPDATE stock SET left_over = left_over - 1", &[])?;
    /// transaction.commit()?; // until here nobody else gets the lock
    /// # Ok(())
    /// # }
    /// ```
    pub fn fence(&self, transaction: &mut impl GenericClient) -> Result<(), Error> {
        fencing::fence(&[self], transaction)
    }

    /// The statement by which [`fence`](Guard::fence) ties a transaction to this hold, for programs
    /// that reach the database by another driver or in another language. It has no parameters and
    /// answers with one row of one `boolean`, `fenced`. True: nobody else's acquire of the lock
    /// returns before the transaction has ended. False: it is not fenced, and should be rolled
    /// back; the hold may be over, or the server may not be able to say.
    ///
    /// Run it in an open transaction, in a message of its own, after that of the `BEGIN`. Outside of
    /// a transaction it answers false. Where a driver has it parsed and executed in one go, without a
    /// name for the prepared statement, the server cannot tell the two cases: then the first answer
    /// in a transaction is false, and the second one says how it is. (So do libpq's `PQexecParams`,
    /// and what is based on it, and `query_typed` of the `postgres` crate; JDBC until it names a
    /// statement.)
    ///
    /// The text may be kept, and run as often as needed. It answers false once the lock of the guard
    /// was released.
    ///
    /// # Errors
    ///
    /// Those of [`fence`](Guard::fence), as far as they are the manager's.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// let guard = mgr.lock("tenant-17")?;
    /// println!("{}", guard.fence_sql()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn fence_sql(&self) -> Result<String, Error> {
        fencing::sql(&[self])
    }

    /// Makes a share of the lock an exclusive lock, if nobody else shares it: no other holder is let
    /// in between. True: it is exclusive now, with a [token](Guard::token) of its own. False: another
    /// thread or session has a share, or waits for the lock in the server's queue, or a transaction
    /// that is [fenced](Guard::fence) by a share is open, also one of this guard; the share is kept. Of
    /// several that try, at most one succeeds, and only once the others have released theirs. True
    /// at once if the lock is exclusive.
    ///
    /// It does not wait: two that waited for each other's share would do so for ever. After a refusal
    /// release the share and [lock](crate::Manager::lock) exclusively. A statement of [`fence_sql`](Guard::fence_sql) from before is of
    /// no use afterwards; the next [`fence`](Guard::fence) makes another.
    ///
    /// # Errors
    ///
    /// The hold is as it was: [`Lost`](crate::ErrorKind::Lost) (or
    /// [`Closed`](crate::ErrorKind::Closed), [`Cancelled`](crate::ErrorKind::Cancelled)) if it is
    /// over; [`LockTableFull`](crate::ErrorKind::LockTableFull),
    /// [`Fencing`](crate::ErrorKind::Fencing), [`Database`](crate::ErrorKind::Database) if the server
    /// could not do it.
    ///
    /// ```no_run
    /// # fn is_stale() -> bool { true }
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// let mut guard = mgr.lock_shared("catalogue")?;
    /// if is_stale() && guard.try_upgrade()? {
    ///     // write it: nobody else reads
    ///     guard.downgrade()?; // and read on what was written
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_upgrade(&mut self) -> Result<bool, Error> {
        self.change(Mode::Exclusive)
    }

    /// Makes an exclusive lock a share of it, without a moment in which another holder could have it
    /// exclusively. Readers may join from then on, but for threads of the manager where a transaction
    /// was [fenced](Guard::fence) by the guard: these get in once it is released. A statement of
    /// [`fence_sql`](Guard::fence_sql) from before still keeps readers out, and is refused where one is
    /// just coming: get another one. Nothing happens if it is a share.
    ///
    /// # Errors
    ///
    /// Those of [`try_upgrade`](Guard::try_upgrade).
    pub fn downgrade(&mut self) -> Result<(), Error> {
        self.change(Mode::Shared).map(drop)
    }

    fn change(&mut self, to: Mode) -> Result<bool, Error> {
        if let Some(ended) = self.ended() {
            return Err(Error::ended(ended));
        }
        if to == self.grant.mode {
            return Ok(true);
        }
        if to == Mode::Exclusive {
            // That of a share does not keep readers out.
            self.fence = OnceCell::new();
        }
        let changed = self.handle.change(self.grant.clone(), to);
        let changed = changed.map_err(|error| self.ended().map_or(error, Error::ended))?;
        let Some(changed) = changed else {
            return Ok(false);
        };
        self.grant.mode = to;
        match to {
            Mode::Exclusive => self.grant.token = changed.token,
            // That of an exclusive lock would keep readers out.
            Mode::Shared => self.fence = OnceCell::new(),
        }
        // A release by a token may have come first.
        self.ended()
            .map_or(Ok(true), |ended| Err(Error::ended(ended)))
    }

    /// True if somebody waits for the lock: another thread of the manager, or another session. For
    /// a long job that can give the lock away between two steps.
    ///
    /// A round trip, with a look at all locks of the server, whose cost grows with their number.
    ///
    /// # Errors
    ///
    /// Those of [`Manager::holders`](crate::Manager::holders).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// let mut guard = mgr.lock("index")?;
    /// for part in 0..100 {
    ///     println!("part {part}");
    ///     if guard.others_wait()? {
    ///         guard.unlock()?;
    ///         guard = mgr.lock("index")?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn others_wait(&self) -> Result<bool, Error> {
        if self.handle.is_awaited(self.grant.key) {
            return Ok(true);
        }
        let waits = |holder: &Holder| holder.claim == Claim::Waits;
        let holders = self.handle.inquire(Question::Of(self.grant.key))?;
        Ok(holders.iter().any(waits))
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
