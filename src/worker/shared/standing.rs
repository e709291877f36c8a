//! How the manager stands with the database, for those who ask.

use std::time::Duration;

use super::Core;
use crate::clock;
use crate::error::Error;
use crate::health::{Health, Status};

impl Core {
    /// What to tell a caller whose deadline has passed before its request was refused even
    /// once: whether the lock is taken is not known, and the database is why.
    pub(crate) fn overdue(&self) -> Error {
        match self.state.lock().status.outage() {
            Some(outage) => outage.overdue(),
            None => Error::unavailable(
                "the request was not answered within the timeout: whether the lock is taken is not \
                 known",
            ),
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
