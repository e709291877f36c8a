//! Notifications of what a manager does, as it happens.
//!
//! An [`Observer`] given to [`Builder::observer`](crate::Builder::observer) is called for each
//! event of its manager, with a struct that describes it. What has no event is in
//! [`Stats`](crate::Stats) and [`Health`](crate::Health), which can be read at any time.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use distlock::Manager;
//! use distlock::observer::{Acquired, Lost, Observer};
//!
//! struct Report;
//!
//! impl Observer for Report {
//!     fn acquired(&self, event: &Acquired) {
//!         println!("{} after {:?}", event.key, event.waited);
//!     }
//!
//!     fn lost(&self, event: &Lost) {
//!         eprintln!("{} locks lost: {}", event.holds, event.cause);
//!     }
//! }
//!
//! # fn main() -> Result<(), distlock::Error> {
//! let mgr = Manager::builder("host=localhost user=app")
//!     .observer(Arc::new(Report))
//!     .connect()?;
//! # drop(mgr);
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use crate::error::Error;
use crate::key::Key;
use crate::lease::Ended;

/// Receives the events of a manager. All methods do nothing by default.
///
/// The calls are made one after the other, in the order of the events, after the event has taken
/// effect and its caller has been answered, up to one exchange with the server later. They are made
/// on the manager's worker thread; those of the end on the thread that closes the manager, and
/// those of a session that does not answer on the watchdog's. Each of them also makes the calls for
/// events that are recorded meanwhile.
///
/// A call blocks the thread that makes it: on the worker's, no lock is taken or released and no
/// heartbeat sent. So an implementation has to be quick, such as a counter or a channel that is
/// not full. It may read the manager's [`stats`](crate::Manager::stats) and
/// [`health`](crate::Manager::health), cancel tokens and drop guards, but must not wait for a lock
/// of that manager, nor unlock one or close it, nor keep a clone of the manager for good, which would not
/// end then. A panic is caught and dropped.
pub trait Observer: Send + Sync {
    /// An acquire has found its lock held. Once for each, whether or not it gets it later.
    fn waited(&self, event: &Waited) {
        let _ = event;
    }

    /// An acquire has got its lock.
    fn acquired(&self, event: &Acquired) {
        let _ = event;
    }

    /// A lock was released.
    fn released(&self, event: &Released) {
        let _ = event;
    }

    /// All locks of the manager were lost, or it was closed while there were any.
    fn lost(&self, event: &Lost) {
        let _ = event;
    }

    /// A session was made.
    fn connected(&self, event: &Connected) {
        let _ = event;
    }

    /// The session has ended.
    fn disconnected(&self, event: &Disconnected) {
        let _ = event;
    }

    /// A connect has failed and will be retried.
    fn retried(&self, event: &Retried) {
        let _ = event;
    }
}

/// An acquire has found its lock held.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Waited {
    /// What is locked, the namespace applied.
    pub key: Key,
    /// True if a share was requested.
    pub shared: bool,
}

/// An acquire has got its lock.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Acquired {
    /// What is locked, the namespace applied.
    pub key: Key,
    /// True if it is a share.
    pub shared: bool,
    /// The number of the hold: no other hold of the manager has it. Its
    /// [`Released`](Released::hold) has the same.
    pub hold: u64,
    /// The [fencing token](crate::Guard::token).
    pub token: Option<i64>,
    /// How long the worker has had the request.
    pub waited: Duration,
    /// True if the lock came from another guard of this manager and was not released at the
    /// database in between.
    pub handed_over: bool,
}

/// A lock was released by its guard, by a token of
/// [`Acquire::release_on`](crate::Acquire::release_on) or at the end of
/// [`Acquire::hold_at_least`](crate::Acquire::hold_at_least).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Released {
    /// What was locked.
    pub key: Key,
    /// The number of the hold, as in [`Acquired::hold`].
    pub hold: u64,
}

/// Locks were lost with their session, or when the manager was closed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Lost {
    /// How many holds; all that the manager had.
    pub holds: usize,
    /// What their watches report.
    pub ended: Ended,
    /// Why the session has ended.
    pub cause: Error,
}

/// A session was made that locks can be taken on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Connected {
    /// The number of the session, which grows with each connect of the manager.
    pub session: u64,
    /// How long there was none.
    pub after: Duration,
}

/// The session has ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Disconnected {
    /// Why.
    pub cause: Error,
}

/// A connect has failed and will be retried.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Retried {
    /// Why it failed.
    pub error: Error,
    /// How long until the next one, unless abandoned connects delay it.
    pub pause: Duration,
}
