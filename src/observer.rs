//! Being told what a manager does, as it does it.
//!
//! An [`Observer`] given to [`Builder::observer`](crate::Builder::observer) is called for each
//! event of its manager, with a struct that says what happened. What it is not told of is in
//! [`Stats`](crate::Stats) and [`Health`](crate::Health), which can be asked at any time.
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

/// Is called for each event of a manager. All methods do nothing by default.
///
/// The calls come one after the other, in the order of the events, after the event has taken
/// effect and its caller has been answered. Most are made on the manager's worker thread; those
/// of a lock that is given back while another thread of the manager waits for it are made on
/// the thread that drops or unlocks the guard, and those of the end on the one that closes the
/// manager.
///
/// While a call lasts, the thread that makes it does nothing else: on the worker's, no lock is
/// taken or given back and no heartbeat sent. So an implementation has to be quick, such as a
/// counter or a channel that is not full. It may ask the manager for its
/// [`stats`](crate::Manager::stats) and [`health`](crate::Manager::health), cancel tokens and
/// drop guards, but must not wait for a lock of that manager, nor unlock one or close it. A
/// panic is caught and dropped.
pub trait Observer: Send + Sync {
    /// An acquire has found its lock taken. Once for each, whether or not it gets it later.
    fn waited(&self, event: &Waited) {
        let _ = event;
    }

    /// An acquire has got its lock.
    fn acquired(&self, event: &Acquired) {
        let _ = event;
    }

    /// A lock was given back.
    fn released(&self, event: &Released) {
        let _ = event;
    }

    /// All locks of the manager were lost, or it was closed while there were any.
    fn lost(&self, event: &Lost) {
        let _ = event;
    }

    /// There is a session.
    fn connected(&self, event: &Connected) {
        let _ = event;
    }

    /// The session is gone.
    fn disconnected(&self, event: &Disconnected) {
        let _ = event;
    }

    /// A connect has failed and will be tried again.
    fn retried(&self, event: &Retried) {
        let _ = event;
    }
}

/// An acquire has found its lock taken.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Waited {
    /// What is locked, the namespace applied.
    pub key: Key,
    /// True if a share was asked for.
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
    /// How long the request was with the worker.
    pub waited: Duration,
    /// True if the lock came from another guard of this manager and was not given up at the
    /// database in between.
    pub handed_over: bool,
}

/// A lock was given back by its guard, by a token of
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

/// Locks were lost with their session, or at the end of the manager.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Lost {
    /// How many holds; all that the manager had.
    pub holds: usize,
    /// What their watches say.
    pub ended: Ended,
    /// Why the session has ended.
    pub cause: Error,
}

/// There is a session that locks can be taken on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Connected {
    /// The number of the session, which grows with each connect of the manager.
    pub session: u64,
    /// How long there was none.
    pub after: Duration,
}

/// The session is gone.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Disconnected {
    /// Why.
    pub cause: Error,
}

/// A connect has failed and will be tried again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Retried {
    /// Why it failed.
    pub error: Error,
    /// How long until the next one, if the connects given up before do not put it off.
    pub pause: Duration,
}
