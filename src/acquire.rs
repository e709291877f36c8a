//! One acquire, from the caller's side.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{TrySendError, never, select};

use crate::cancel::CancelToken;
use crate::error::Error;
use crate::guard::Guard;
use crate::handle::Handle;
use crate::key::Key;
use crate::reply::Waited;
use crate::request::{Answer, Grant, Message, Mode, Note, Patience, Request};
use crate::watch::Ended;

/// How long a caller waits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// For one look.
    Once,
    Until(Instant),
    Forever,
}

impl Limit {
    pub(crate) fn within(timeout: Duration) -> Self {
        // Beyond the clock's range is beyond anybody's patience.
        Instant::now()
            .checked_add(timeout)
            .map_or(Limit::Forever, Limit::until)
    }

    /// A deadline that has passed still allows one look.
    pub(crate) fn until(deadline: Instant) -> Self {
        if deadline <= Instant::now() {
            Limit::Once
        } else {
            Limit::Until(deadline)
        }
    }

    fn deadline(self) -> Option<Instant> {
        match self {
            Limit::Until(deadline) => Some(deadline),
            Limit::Once | Limit::Forever => None,
        }
    }

    /// True if a caller whose grant was lost before it could return may ask again after so
    /// many `attempts`: one that does not wait asks twice.
    fn allows_another(self, attempts: u32) -> bool {
        match self {
            Limit::Once => attempts < 2,
            Limit::Until(deadline) => Instant::now() < deadline,
            Limit::Forever => true,
        }
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
    token: Option<&'a CancelToken>,
}

impl<'a> Acquire<'a> {
    pub(crate) fn new(handle: &'a Arc<Handle>, key: Key) -> Self {
        Acquire {
            handle,
            key,
            mode: Mode::Exclusive,
            timeout: None,
            token: None,
        }
    }

    /// Takes the lock together with other shared holders. Default: exclusive.
    pub fn shared(mut self) -> Self {
        self.mode = Mode::Shared;
        self
    }

    /// Waits no longer than this. Default: [`lock`](Acquire::lock) waits for as long
    /// as it takes, [`try_lock`](Acquire::try_lock) not at all. Zero is one look.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Ends the wait, and later the hold, when `token` is cancelled. Default: nothing
    /// does.
    pub fn cancel(mut self, token: &'a CancelToken) -> Self {
        self.token = Some(token);
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
        let limit = self.timeout.map_or(Limit::Forever, Limit::within);
        self.run(limit)?.ok_or_else(Error::timeout)
    }

    /// Takes the lock if it is free now, or becomes so within the
    /// [`timeout`](Acquire::timeout).
    ///
    /// # Errors
    ///
    /// What [`Manager::try_lock`](crate::Manager::try_lock) returns.
    pub fn try_lock(self) -> Result<Option<Guard>, Error> {
        let limit = self.timeout.map_or(Limit::Once, Limit::within);
        self.run(limit)
    }

    /// `None`: the lock is somebody else's and the caller's patience over.
    pub(crate) fn run(self, limit: Limit) -> Result<Option<Guard>, Error> {
        let mut attempts = 1;
        loop {
            let Some(grant) = self.attempt(limit)? else {
                return Ok(None);
            };
            // This thread may have slept since the grant, or the whole process: the session
            // may be gone by now, and with it the lock.
            match grant.session.ended() {
                None => {
                    let guard = Guard::new(Arc::clone(self.handle), grant);
                    return match self.token {
                        Some(token) => guard.cancelled_by(token).map(Some),
                        None => Ok(Some(guard)),
                    };
                }
                Some(Ended::Closed) => return Err(Error::closed()),
                Some(_) if limit.allows_another(attempts) => attempts += 1,
                Some(_) => {
                    return Err(Error::unavailable(
                        "the lock was lost again before the call could return",
                    ));
                }
            }
        }
    }

    /// Asks for the lock once, and waits for the answer for as long as `limit` says.
    fn attempt(&self, limit: Limit) -> Result<Option<Grant>, Error> {
        let core = &self.handle.core;
        if core.is_closed() {
            return Err(Error::closed());
        }
        if self.token.is_some_and(CancelToken::is_cancelled) {
            return Err(Error::cancelled());
        }
        let (pending, reply) = core.replies.open();
        let request = Message::Acquire(Request {
            key: self.key,
            mode: self.mode,
            patience: match limit {
                Limit::Once => Patience::Once,
                Limit::Until(deadline) => Patience::Until(deadline),
                Limit::Forever => Patience::Wait,
            },
            reply,
        });
        // A request that is not sent is dropped, and that answers `pending`.
        let sent = self.send(request, limit.deadline());
        self.handle.drain_if_closed();
        let waited = pending.wait(limit.deadline(), self.token.map(CancelToken::channel));
        if matches!(waited, Waited::TimedOut | Waited::Interrupted) {
            self.handle.leave(Note::GaveUp(self.key));
        }
        match waited {
            Waited::Answered(Answer::Granted(grant)) => Ok(Some(grant)),
            Waited::Answered(Answer::Busy) => Ok(None),
            Waited::Answered(Answer::Failed(error)) => Err(error),
            Waited::Interrupted => Err(Error::cancelled()),
            Waited::TimedOut => self.too_late(),
            Waited::Dropped => match sent {
                Err(Unsent::TimedOut) => self.too_late(),
                Err(Unsent::Cancelled) => Err(Error::cancelled()),
                Ok(()) | Err(Unsent::Closed) => Err(Error::closed()),
            },
            Waited::Answered(Answer::Released) => unreachable!("nothing was released"),
        }
    }

    /// Puts the request into the queue, waiting for room in it if need be.
    fn send(&self, request: Message, deadline: Option<Instant>) -> Result<(), Unsent> {
        let queue = &self.handle.queue;
        let request = match queue.try_send(request) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Disconnected(_)) => return Err(Unsent::Closed),
            Err(TrySendError::Full(request)) => request,
        };
        let unheard = never();
        let cancelled = self.token.map_or(&unheard, CancelToken::channel);
        let timeout = deadline.map_or_else(never, crossbeam_channel::at);
        select! {
            send(queue, request) -> sent => sent.map_err(|_| Unsent::Closed),
            recv(cancelled) -> _ => Err(Unsent::Cancelled),
            recv(self.handle.core.closing()) -> _ => Err(Unsent::Closed),
            recv(timeout) -> _ => Err(Unsent::TimedOut),
        }
    }

    /// The deadline passed. If the database is what kept the caller waiting, nobody
    /// knows whether the lock is taken.
    fn too_late(&self) -> Result<Option<Grant>, Error> {
        if self.handle.core.is_out_of_touch() {
            Err(Error::unavailable(
                "the database did not answer within the timeout",
            ))
        } else {
            Ok(None)
        }
    }
}

impl fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("key", &self.key)
            .field("mode", &self.mode)
            .field("timeout", &self.timeout)
            .field("token", &self.token)
            .finish()
    }
}

/// Why a request did not get into the queue.
enum Unsent {
    TimedOut,
    Cancelled,
    Closed,
}
