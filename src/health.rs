//! [`Health`]: since when there is a session, or since when and why there is none.

use std::time::{Duration, Instant};

use crate::error::Error;

/// The state of a manager's connection, from [`Manager::health`](crate::Manager::health).
///
/// What this process knows without asking the server: at most a heartbeat old while a lock is
/// held or awaited, older in an idle manager, which sends nothing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// True if there is a session that locks can be taken on.
    pub connected: bool,
    /// Since when: since the session was made, or since it was lost.
    pub since: Instant,
    /// Why there is no session: why the last one was lost or, later, why the last connect
    /// failed. `None` while connected.
    pub cause: Option<Error>,
    /// How long held locks still count as held if the server does not answer any more.
    /// `None` without a lease, and while it is disarmed: until a session's first lock, and after
    /// nothing has been held or awaited for a quarter of the lease.
    pub lease_left: Option<Duration>,
    /// How long the exchange in progress with the server has lasted, which may take several round
    /// trips. `None` if there is none. When one of these takes longer than
    /// [`Builder::response_timeout`](crate::Builder::response_timeout) or the lease, the session
    /// is given up.
    pub unanswered_for: Option<Duration>,
    /// Connections that were given up and have not ended yet, each with a thread and a
    /// socket: to servers, or through networks, that accept a connection and stay silent.
    pub abandoned: u32,
}

impl Health {
    /// The age of the session, or of the outage.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// The state if the session ended `ago`, which only the clock knows yet.
    pub(crate) fn ended(self, ago: Duration, cause: Error) -> Self {
        let ended = Instant::now().checked_sub(ago);
        Health {
            connected: false,
            since: ended.map_or(self.since, |ended| ended.max(self.since)),
            cause: Some(cause),
            lease_left: None,
            ..self
        }
    }
}

/// Whether there is a session, and since when.
pub(crate) enum Status {
    Connected { since: Instant },
    Away(Outage),
}

/// A time without a session.
pub(crate) struct Outage {
    since: Instant,
    cause: Error,
    /// The error for acquires that do not wait for the database. `None` while all of them
    /// wait: for the outcome of the first connect or, after a session that had lasted, of the
    /// first reconnect.
    refusal: Option<Error>,
    /// When it was last logged as a warning.
    warned: Instant,
    /// True until there is a session for the first time.
    is_start: bool,
}

impl Status {
    /// A manager that has never been connected.
    pub(crate) fn starting() -> Self {
        let now = Instant::now();
        Status::Away(Outage {
            since: now,
            cause: Error::unavailable("the first connect is still under way"),
            refusal: None,
            warned: now,
            is_start: true,
        })
    }

    pub(crate) fn outage(&self) -> Option<&Outage> {
        match self {
            Status::Connected { .. } => None,
            Status::Away(outage) => Some(outage),
        }
    }

    /// True until there is a session for the first time.
    pub(crate) fn is_start(&self) -> bool {
        self.outage().is_some_and(Outage::is_start)
    }

    /// There is a session. Returns the outage that ends with it.
    pub(crate) fn connected(&mut self, now: Instant) -> Option<Outage> {
        match std::mem::replace(self, Status::Connected { since: now }) {
            Status::Connected { .. } => None,
            Status::Away(outage) => Some(outage),
        }
    }

    /// There is no session, or still none, because of `cause`.
    pub(crate) fn away(&mut self, cause: Error, now: Instant) {
        match self {
            Status::Away(outage) => outage.cause = cause,
            Status::Connected { .. } => {
                *self = Status::Away(Outage {
                    since: now,
                    cause,
                    refusal: None,
                    warned: now,
                    is_start: false,
                });
            }
        }
    }

    /// From now on, and until there is a session, acquires fail with the reason that there is
    /// none. Returns their error.
    pub(crate) fn refuse(&mut self, cause: Error, now: Instant) -> Error {
        let refusal = cause.while_away();
        self.away(cause, now);
        if let Status::Away(outage) = self {
            outage.refusal = Some(refusal.clone());
        }
        refusal
    }

    /// The error for acquires that do not wait for the database.
    pub(crate) fn refusal(&self) -> Option<&Error> {
        self.outage()?.refusal.as_ref()
    }

    /// When the next warning is due, with one each `interval` of an outage.
    pub(crate) fn warning_due(&self, interval: Duration) -> Option<Instant> {
        Some(self.outage()?.warned + interval)
    }

    /// The outage is logged as a warning now.
    pub(crate) fn warned(&mut self, now: Instant) {
        if let Status::Away(outage) = self {
            outage.warned = now;
        }
    }
}

impl Outage {
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    pub(crate) fn cause(&self) -> &Error {
        &self.cause
    }

    pub(crate) fn is_start(&self) -> bool {
        self.is_start
    }

    /// The error for a caller whose deadline has passed meanwhile.
    pub(crate) fn overdue(&self) -> Error {
        self.refusal
            .clone()
            .unwrap_or_else(|| self.cause.while_away())
    }
}

#[cfg(all(test, not(distlock_model)))]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn an_outage_has_the_age_of_the_loss_and_the_cause_of_the_last_failure() {
        let start = Instant::now();
        let mut status = Status::starting();
        assert!(status.outage().unwrap().is_start());
        assert!(status.connected(start).is_some());
        assert!(status.outage().is_none());

        status.away(Error::unavailable("the connection was lost"), start + MS);
        assert!(status.refusal().is_none(), "the first reconnect is awaited");
        status.refuse(Error::new(ErrorKind::Login, "no such role"), start + 2 * MS);
        let outage = status.outage().unwrap();
        assert!(!outage.is_start());
        assert_eq!(outage.since(), start + MS);
        assert_eq!(outage.cause().kind(), ErrorKind::Login);
        assert_eq!(status.refusal().unwrap().to_string(), "no such role");

        let ended = status.connected(start + 9 * MS).unwrap();
        assert_eq!(ended.since(), start + MS);
    }

    #[test]
    fn warnings_are_an_interval_apart() {
        let start = Instant::now();
        let mut status = Status::starting();
        status.connected(start);
        assert_eq!(status.warning_due(60 * MS), None);
        status.away(Error::unavailable("gone"), start + MS);
        assert_eq!(status.warning_due(60 * MS), Some(start + 61 * MS));
        status.warned(start + 61 * MS);
        assert_eq!(status.warning_due(60 * MS), Some(start + 121 * MS));
    }
}
