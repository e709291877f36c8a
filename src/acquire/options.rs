//! The options that all acquires have: how long they wait, and what ends them.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cancel::CancelToken;
use crate::config::FOREVER;
use crate::error::Error;
use crate::guard::Guard;
use crate::lease::{Ended, Lease};
use crate::op::Wait;
use crate::sync::Latch;
use crate::worker::answer::Grant;
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

#[derive(Debug, Default)]
pub(crate) struct Options<'a> {
    pub(crate) timeout: Option<Duration>,
    cancel: Option<&'a CancelToken>,
    release_on: Option<&'a CancelToken>,
    hold_at_least: Option<Duration>,
    /// Ends the wait: cancelled with either of the two.
    token: Option<CancelToken>,
}

/// The setters of a request for several locks with `options` that live for `'a`. Those of
/// [`Acquire`](crate::Acquire) say more.
macro_rules! option_setters {
    () => {
        /// The longest wait: as [`Acquire::timeout`](crate::Acquire::timeout).
        pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
            self.options.timeout = Some(timeout);
            self
        }

        /// Ends the wait when `token` is cancelled, and later trips the watch: as
        /// [`Acquire::cancel`](crate::Acquire::cancel).
        pub fn cancel(mut self, token: &'a crate::CancelToken) -> Self {
            self.options.cancel(token);
            self
        }

        /// The same, but also releases all of them at once: as
        /// [`Acquire::release_on`](crate::Acquire::release_on).
        pub fn release_on(mut self, token: &'a crate::CancelToken) -> Self {
            self.options.release_on(token);
            self
        }

        /// Keeps them for a time: as [`Acquire::hold_at_least`](crate::Acquire::hold_at_least).
        pub fn hold_at_least(mut self, time: std::time::Duration) -> Self {
            self.options.hold_at_least(time);
            self
        }
    };
}
pub(crate) use option_setters;

impl<'a> Options<'a> {
    pub(crate) fn cancel(&mut self, token: &'a CancelToken) {
        self.cancel = Some(token);
        self.interruptible();
    }

    pub(crate) fn release_on(&mut self, token: &'a CancelToken) {
        self.release_on = Some(token);
        self.interruptible();
    }

    pub(crate) fn hold_at_least(&mut self, time: Duration) {
        self.hold_at_least = Some(time.min(FOREVER));
    }

    fn interruptible(&mut self) {
        self.token = match (self.cancel, self.release_on) {
            (Some(one), Some(other)) => Some(CancelToken::either(one, other)),
            (one, other) => one.or(other).cloned(),
        };
    }

    /// As long as the timeout, or else as `without` one.
    pub(crate) fn patience(&self, without: Wait) -> Wait {
        self.timeout.map_or(without, within)
    }

    /// Has `ask` obtain something on a session that has not ended, within `limit`, the manager's for
    /// all waits. `None`: `what` is held, and the wait is over.
    pub(crate) fn obtain<T>(
        &self,
        wait: Wait,
        limit: Option<Duration>,
        what: &dyn Display,
        ask: impl Fn(Wait, Option<&Latch>) -> Result<Option<(Arc<Lease>, T)>, Error>,
    ) -> Result<Option<T>, Error> {
        within_limit(wait, limit, what, |wait| self.attempt(wait, &ask))
    }

    /// The same without a limit.
    pub(crate) fn attempt<T>(
        &self,
        wait: Wait,
        ask: impl Fn(Wait, Option<&Latch>) -> Result<Option<(Arc<Lease>, T)>, Error>,
    ) -> Result<Option<T>, Error> {
        let interrupt = self.interrupt();
        let mut attempts = 1;
        loop {
            let Some((lease, obtained)) = ask(wait, interrupt)? else {
                return Ok(None);
            };
            // This thread, or the whole process, may have been suspended since the grant, and
            // the session may have ended meanwhile.
            match lease.ended() {
                None => return Ok(Some(obtained)),
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

    /// What ends the wait.
    pub(crate) fn interrupt(&self) -> Option<&Latch> {
        self.token.as_ref().map(CancelToken::latch)
    }

    /// The guards of `grants`; an error if one of the holds was cancelled before it began.
    pub(crate) fn guards(
        &self,
        handle: &Arc<Handle>,
        grants: Vec<Grant>,
    ) -> Result<Vec<Guard>, Error> {
        // All of them first: it takes a guard to release a lock.
        let guards = grants.into_iter().map(|it| self.guard(handle, it));
        let guards: Vec<_> = guards.collect();
        guards.into_iter().collect()
    }

    /// The guard of `grant`; an error if its hold was cancelled before it began.
    pub(crate) fn guard(&self, handle: &Arc<Handle>, grant: Grant) -> Result<Guard, Error> {
        let keep_until = self.hold_at_least.map(|time| Instant::now() + time);
        let guard =
            Guard::new(Arc::clone(handle), grant).cancelled_by(self.cancel, self.release_on)?;
        // Last: a hold that was cancelled before it began is not to be kept.
        Ok(guard.kept_until(keep_until))
    }
}

/// Has `attempt` wait within `limit`, the manager's for all waits: an error if that was too short for
/// `what`.
pub(crate) fn within_limit<T>(
    wait: Wait,
    limit: Option<Duration>,
    what: &dyn Display,
    attempt: impl FnOnce(Wait) -> Result<Option<T>, Error>,
) -> Result<Option<T>, Error> {
    let (wait, is_cut) = cut(wait, limit);
    match (attempt(wait)?, limit) {
        (None, Some(limit)) if is_cut => Err(Error::wait_limit(what, limit)),
        (outcome, _) => Ok(outcome),
    }
}

/// `grants`, which are at least one, with their lease: they are all of one session.
pub(crate) fn of_one_session(grants: Option<Vec<Grant>>) -> Option<(Arc<Lease>, Vec<Grant>)> {
    let grants = grants?;
    let lease = Arc::clone(&grants.first()?.lease);
    Some((lease, grants))
}
