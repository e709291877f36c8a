//! The hold, as its owner sees it.

use std::fmt;
use std::sync::Arc;

use once_cell::sync::OnceCell;

use crate::cancel::CancelToken;
use crate::error::Error;
use crate::handle::Handle;
use crate::key::Key;
use crate::reply::Waited;
use crate::request::{Answer, Grant};
use crate::watch::{Ended, Hold, Watch};

/// A lock that is held until the guard is dropped.
///
/// The drop queues the unlock and returns at once: it never waits, never panics, and
/// may happen on any thread, also while unwinding. [`unlock`](Guard::unlock) waits
/// for the server and reports. Once the lock is lost the guard is inert; dropping it
/// then touches no newer hold. A guard leaked by [`std::mem::forget`] keeps its lock,
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
#[must_use = "the lock is released as soon as the guard is dropped"]
pub struct Guard {
    handle: Arc<Handle>,
    grant: Grant,
    /// Made for the first who watches.
    hold: OnceCell<Arc<Hold>>,
    token: Option<CancelToken>,
    /// Is the lock given back, or lost and done with?
    over: bool,
}

impl Guard {
    pub(crate) fn new(handle: Arc<Handle>, grant: Grant) -> Self {
        Guard {
            handle,
            grant,
            hold: OnceCell::new(),
            token: None,
            over: false,
        }
    }

    /// Has the hold end with `token`; an error if that is cancelled already.
    pub(crate) fn cancelled_by(mut self, token: &CancelToken) -> Result<Guard, Error> {
        if token.register(self.hold(), &self.grant, &self.handle) {
            self.token = Some(token.clone());
            Ok(self)
        } else {
            Err(Error::cancelled())
        }
    }

    fn hold(&self) -> &Arc<Hold> {
        self.hold.get_or_init(|| Hold::new(&self.grant.session))
    }

    /// What is locked: the number to look for in `pg_locks`, the namespace applied.
    pub fn key(&self) -> &Key {
        &self.grant.key
    }

    /// Was the lock lost? See [`Watch::is_lost`].
    ///
    /// No round trip: this reads a flag and a clock, and may be asked often.
    pub fn is_lost(&self) -> bool {
        self.ended().is_some()
    }

    fn ended(&self) -> Option<Ended> {
        match self.hold.get() {
            Some(hold) => hold.ended(),
            None => self.grant.session.ended(),
        }
    }

    /// What tells when this hold ends, also on other threads and after the guard.
    pub fn watch(&self) -> Watch {
        Watch::new(Arc::clone(self.hold()))
    }

    /// The fencing token of this hold: greater than those of all holders before, in the
    /// whole database. Those who share a lock at one time have tokens in any order. `None`
    /// without [`Builder::fencing`](crate::Builder::fencing).
    pub fn token(&self) -> Option<u64> {
        self.grant.token.map(u64::from)
    }

    /// Gives the lock back and waits until it is free for others.
    ///
    /// # Errors
    ///
    /// The lock was not held to the end, so somebody else may have been inside:
    /// [`ErrorKind::Lost`](crate::ErrorKind::Lost), or
    /// [`Closed`](crate::ErrorKind::Closed) or
    /// [`Cancelled`](crate::ErrorKind::Cancelled) if that is why. After an error, as
    /// after success, this guard does not hold the lock.
    ///
    /// A success was confirmed by the server in a round trip after the call, also where the
    /// lock has gone to another thread of this process.
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
        if let Some(ended) = self.ended() {
            return Err(Error::ended(ended));
        }
        if !self.finish() {
            return Err(Error::ended(self.ended().unwrap_or(Ended::SessionLost)));
        }
        let (pending, replier) = self.handle.core.replies.open();
        self.handle.release(self.grant.clone(), Some(replier));
        match pending.wait(None, None) {
            Waited::Answered(Answer::Released) => Ok(()),
            Waited::Answered(Answer::Failed(error)) => Err(error),
            Waited::Answered(Answer::Granted(_) | Answer::Busy)
            | Waited::Dropped
            | Waited::TimedOut
            | Waited::Interrupted => Err(Error::unavailable("the unlock has got no answer")),
        }
    }

    /// Ends the hold. True if the lock is now this guard's to give back: once, and not
    /// after it was lost.
    fn finish(&mut self) -> bool {
        if std::mem::replace(&mut self.over, true) {
            return false;
        }
        if let Some(token) = self.token.take() {
            token.unregister(&self.grant, &self.handle);
        }
        match self.hold.get() {
            Some(hold) => hold.end(Ended::Unlocked),
            None => self.grant.session.ended().is_none(),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.finish() {
            self.handle.release(self.grant.clone(), None);
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
