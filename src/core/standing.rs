//! How the manager stands with the database, for those who ask.

use std::time::Duration;

use super::Core;
use crate::clock;
use crate::error::Error;
use crate::health::{Health, Status};

/// A round trip that takes longer than this has the caller told `Unavailable` at its
/// deadline, and not that the lock is taken.
const SLOW: Duration = Duration::from_millis(100);

impl Core {
    /// What to tell a caller whose deadline has passed, if it is the database that kept it
    /// waiting: it is away, or has been slow to answer for long enough to tell.
    pub(crate) fn overdue(&self) -> Option<Error> {
        let state = self.state.lock();
        let is_slow = |since| clock::now().saturating_sub(since) >= clock::nanos(SLOW);
        if let Some(outage) = state.status.outage() {
            Some(outage.overdue())
        } else if state.pulse.errand().is_some_and(is_slow) {
            Some(Error::unavailable(
                "the database did not answer within the timeout",
            ))
        } else {
            None
        }
    }

    /// Why the last connect failed, if there has been one and none has succeeded.
    pub(crate) fn failed_start(&self) -> Option<Error> {
        let state = self.state.lock();
        state.status.refusal()?;
        state.status.outage().map(|outage| outage.cause().clone())
    }

    pub(crate) fn health(&self) -> Health {
        let state = self.state.lock();
        let session = state.session.clone();
        let errand = state.pulse.errand();
        let (since, cause) = match &state.status {
            Status::Connected { since } => (*since, None),
            Status::Away(outage) => (outage.since(), Some(outage.cause().clone())),
        };
        drop(state);
        let now = clock::now();
        let left = |until: u64| Duration::from_nanos(until.saturating_sub(now));
        let owed = |since: u64| Duration::from_nanos(now.saturating_sub(since));
        let trusted = session.as_ref().map(|session| session.trusted_until());
        let health = Health {
            connected: cause.is_none(),
            since,
            cause,
            lease_left: trusted.filter(|until| *until != clock::NEVER).map(left),
            unanswered_for: errand.map(owed),
            abandoned: self.abandoned.count(),
        };
        // The clock may have ended the session before the worker knows.
        match trusted.filter(|_| session.is_some_and(|session| session.ended().is_some())) {
            Some(until) => health.ended(owed(until), Error::lease_expired()),
            None => health,
        }
    }
}
