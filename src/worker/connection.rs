//! The connection to the database, and its reconnects.
//!
//! A separate thread connects, so that requests are answered meanwhile. The first connect, and the
//! first reconnect after a session that lasted, starts at once, and waiters fail only after it has
//! failed, however long it takes; further attempts are spaced by a backoff.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::events::{Event, Occasion};
use super::shared::{Shared, State};
use crate::backoff::{self, Jitter};
use crate::config::Settings;
use crate::connect::Canceller;
use crate::error::Error;
use crate::health::Outage;
use crate::lease::Ended;
use crate::observer::{Connected, Retried};
use crate::session::Session;
use crate::session::sequence::Missing;

/// The three states of a connection.
pub(super) enum Connectivity {
    Connected(Box<Session>),
    /// Another thread is connecting, and sends the outcome.
    Connecting(Receiver<Result<Session, Error>>),
    /// Waiting for the next attempt.
    Backoff {
        retry_at: Instant,
        /// Nor before this instant, unless fewer threads than this number are still abandoned.
        pause: Option<(Instant, u32)>,
    },
}

/// How often, during a pause, to check whether an abandoned thread has ended.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The call that creates the manager and waits for its first session.
pub(crate) struct Starting {
    pub(crate) outcome: Sender<Result<(), Error>>,
    /// True if it keeps waiting while the errors are transient.
    pub(crate) persistent: bool,
}

impl Starting {
    fn waits_on(&self, error: &Error) -> bool {
        self.persistent && error.is_transient()
    }
}

pub(super) struct Connection {
    connectivity: Connectivity,
    /// Connect attempts since the last session that lasted.
    attempt: u32,
    connected_at: Instant,
    starting: Option<Starting>,
    /// The outcome to send to the starting call.
    started: Option<Result<(), Error>>,
    jitter: Jitter,
}

impl Connection {
    /// Connects after `pause`.
    pub(super) fn new(pause: Duration, starting: Option<Starting>) -> Self {
        let now = Instant::now();
        Connection {
            connectivity: Connectivity::Backoff {
                retry_at: now + pause,
                pause: None,
            },
            attempt: 0,
            connected_at: now,
            starting,
            started: None,
            jitter: Jitter::random(),
        }
    }

    pub(super) fn connectivity(&mut self) -> &mut Connectivity {
        &mut self.connectivity
    }

    /// The session, to be closed.
    pub(super) fn into_session(self) -> Option<Session> {
        match self.connectivity {
            Connectivity::Connected(session) => Some(*session),
            Connectivity::Connecting(_) | Connectivity::Backoff { .. } => None,
        }
    }

    /// The channel for the outcome of the connect in progress, if there is one.
    pub(super) fn outcome(&self) -> Option<&Receiver<Result<Session, Error>>> {
        match &self.connectivity {
            Connectivity::Connecting(outcome) => Some(outcome),
            Connectivity::Connected(_) | Connectivity::Backoff { .. } => None,
        }
    }

    /// When [`poll`](Connection::poll) is next due.
    pub(super) fn next_poll(&self, settings: &Settings, state: &State) -> Option<Instant> {
        let retry = match &self.connectivity {
            Connectivity::Connected(_) | Connectivity::Connecting(_) => None,
            Connectivity::Backoff {
                retry_at,
                pause: None,
            } => Some(*retry_at),
            Connectivity::Backoff {
                retry_at,
                pause: Some((end, _)),
            } => Some((*end).min(Instant::now() + CHECK_INTERVAL).max(*retry_at)),
        };
        let warning = state.status.warning_due(settings.outage_warnings);
        retry.into_iter().chain(warning).min()
    }

    /// Sends the outcome of the start to the call that waits for it, if there is one. A failed
    /// start shuts the manager down.
    pub(super) fn answer_start(&mut self, shared: &Shared) {
        let Some(outcome) = self.started.take() else {
            return;
        };
        if outcome.is_err() {
            shared.shut_down(Ended::Closed, &Error::closed());
        }
        if let Some(starting) = self.starting.take() {
            starting.outcome.send(outcome).ok();
        }
    }

    /// Drops the session, which has ended or is unusable because of `error`, and schedules a
    /// connect.
    pub(super) fn disconnect(&mut self, settings: &Settings, state: &mut State, error: Error) {
        let now = Instant::now();
        if now.duration_since(self.connected_at) >= 2 * backoff(settings, self.attempt) {
            self.attempt = 0;
        }
        let retry_at = match self.attempt.checked_sub(1) {
            // After a session that lasted, reconnect at once.
            None => now,
            Some(attempt) => {
                state.refuse(error, settings);
                now + self.jitter.shorten(backoff(settings, attempt))
            }
        };
        let backoff = Connectivity::Backoff {
            retry_at,
            pause: None,
        };
        if let Connectivity::Connected(session) = mem::replace(&mut self.connectivity, backoff) {
            session.dispose();
        }
    }

    /// Without a session: connects when that is due, and records the repeated warning of an outage.
    pub(super) fn poll(&mut self, shared: &Shared, state: &mut State) {
        let now = Instant::now();
        warn_again(shared.settings(), state, now);
        let is_due = match &self.connectivity {
            Connectivity::Connected(_) | Connectivity::Connecting(_) => false,
            Connectivity::Backoff { retry_at, .. } if now < *retry_at => false,
            Connectivity::Backoff {
                pause: Some((end, abandoned)),
                ..
            } => now >= *end || shared.dialer().abandoned().count() < *abandoned,
            Connectivity::Backoff { pause: None, .. } => true,
        };
        if !is_due {
            return;
        }
        self.attempt = self.attempt.saturating_add(1);
        let missing = match state.status.is_start() {
            true => Missing::Make,
            false => Missing::Refuse,
        };
        let dialer = shared.dialer().clone();
        match dialer.spawn(state.lane.next_generation(), missing) {
            Ok(outcome) => self.connectivity = Connectivity::Connecting(outcome),
            Err(error) => self.on_connect_failed(shared, state, error),
        }
    }

    /// Handles the outcome of a connect.
    pub(super) fn on_outcome(
        &mut self,
        shared: &Shared,
        state: &mut State,
        outcome: Result<Session, Error>,
    ) {
        match outcome {
            Ok(session) => self.on_connected(shared, state, session),
            Err(error) => self.on_connect_failed(shared, state, error),
        }
    }

    fn on_connected(&mut self, shared: &Shared, state: &mut State, session: Session) {
        let canceller = Canceller::new(session.cancel_token(), shared.dialer().connector());
        let lease = Arc::clone(session.lease());
        let generation = lease.generation();
        let marker = session.marker();
        state.lane.connected(lease, marker, Some(canceller));
        let now = Instant::now();
        let outage = state.status.connected(now);
        let is_start = outage.as_ref().is_some_and(Outage::is_start);
        if is_start {
            // Attempts before the first session do not count against it.
            self.attempt = 0;
            self.started = Some(Ok(()));
        }
        self.connected_at = now;
        state.events.record(Event::Connected {
            event: Connected {
                session: generation,
                after: outage.map_or(Duration::ZERO, |outage| outage.since().elapsed()),
            },
            occasion: occasion(is_start),
        });
        self.connectivity = Connectivity::Connected(Box::new(session));
    }

    /// Schedules the next connect: after the backoff, and later still the more abandoned threads
    /// wait for an answer, so that connections do not pile up.
    fn on_connect_failed(&mut self, shared: &Shared, state: &mut State, error: Error) {
        let settings = shared.settings();
        let attempt = self.attempt.saturating_sub(1);
        let now = Instant::now();
        let wait = self.jitter.shorten(backoff(settings, attempt));
        let is_first = attempt == 0;
        let waits_on = |starting: &Starting| starting.waits_on(&error);
        if self.starting.as_ref().is_none_or(waits_on) {
            state.events.record(Event::Retried {
                event: Retried {
                    error: error.clone(),
                    pause: wait,
                },
                occasion: occasion(state.status.is_start()),
                is_first,
            });
        } else {
            self.started = Some(Err(error.clone()));
        }
        state.refuse(error, settings);
        if is_first {
            state.status.warned(now);
        }
        let abandoned = shared.dialer().abandoned().count();
        let pause = (abandoned > 0).then(|| (now + shared.dialer().pause(), abandoned));
        self.connectivity = Connectivity::Backoff {
            retry_at: now + wait,
            pause,
        };
    }
}

fn occasion(is_start: bool) -> Occasion {
    match is_start {
        true => Occasion::Start,
        false => Occasion::Reconnect,
    }
}

fn warn_again(settings: &Settings, state: &mut State, now: Instant) {
    let due = state.status.warning_due(settings.outage_warnings);
    if due.is_some_and(|due| now >= due)
        && let Some(outage) = state.status.outage()
    {
        state.events.record(Event::StillAway {
            cause: outage.cause().clone(),
            lasted: now.duration_since(outage.since()),
        });
        state.status.warned(now);
    }
}

fn backoff(settings: &Settings, attempt: u32) -> Duration {
    backoff::exponential(attempt, settings.reconnect_min, settings.reconnect_max)
}

#[cfg(all(test, not(distlock_model)))]
mod tests {
    // Tests may panic.
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::connect::Dialer;
    use crate::error::ErrorKind;
    use crate::worker::alarm::Alarm;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A manager's parts, without threads, after its first connect was refused.
    fn away() -> (Arc<Shared>, Connection) {
        let settings = Settings::default();
        assert_eq!(settings.outage_warnings, MINUTE);
        let dialer = Dialer::nowhere(settings);
        let (shared, _) = Shared::new(dialer, Alarm::new().0);
        let mut connection = Connection::new(Duration::from_secs(3600), None);
        connection.attempt = 1;
        let refused = Error::new(ErrorKind::Login, "the password is wrong");
        connection.on_connect_failed(&shared, &mut shared.state().lock(), refused);
        (shared, connection)
    }

    /// The recorded warnings, each with the age of the outage that it reports.
    fn warnings(state: &mut State) -> Vec<Duration> {
        let warning = |event| match event {
            Event::Retried { is_first: true, .. } => Some(Duration::ZERO),
            Event::StillAway { cause, lasted } => {
                assert_eq!(cause.kind(), ErrorKind::Login);
                Some(lasted)
            }
            _ => None,
        };
        let mut events = Vec::new();
        state.events.next_to_dispatch(&mut events);
        events.into_iter().filter_map(warning).collect()
    }

    #[test]
    fn an_outage_is_told_of_when_it_begins_and_again_every_minute() {
        let (shared, mut connection) = away();
        let mut state = shared.state().lock();
        assert_eq!(warnings(&mut state), [Duration::ZERO]);
        let mut due = state.status.warning_due(MINUTE).unwrap();
        for minute in 1..=3 {
            warn_again(
                shared.settings(),
                &mut state,
                due - Duration::from_millis(1),
            );
            assert!(warnings(&mut state).is_empty(), "{minute}");
            // The warning is due also while a connect is in progress.
            connection.connectivity = Connectivity::Connecting(crossbeam_channel::never());
            assert_eq!(connection.next_poll(shared.settings(), &state), Some(due));
            warn_again(shared.settings(), &mut state, due);
            let [lasted] = warnings(&mut state)[..] else {
                panic!("one a minute");
            };
            assert!(lasted >= minute * MINUTE, "{lasted:?}");
            let next = state.status.warning_due(MINUTE).unwrap();
            assert_eq!(next, due + MINUTE);
            due = next;
        }
    }
}
