//! The connection to the database, and how it is made again.
//!
//! Connecting is another thread's work, so that requests are answered meanwhile. The first
//! connect, and the first one after a session that had lasted, is made at once, and waiters are
//! not failed before it has, however long that takes; the next ones are spaced by a backoff.

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
    /// Another thread connects, and sends the outcome.
    Connecting(Receiver<Result<Session, Error>>),
    /// Until the next attempt.
    Backoff {
        retry_at: Instant,
        /// Not before then either, unless one of so many that are abandoned has its answer.
        pause: Option<(Instant, u32)>,
    },
}

/// How often a pause checks whether the server has begun to answer.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The call that has made the manager and waits for its first session.
pub(crate) struct Starting {
    pub(crate) outcome: Sender<Result<(), Error>>,
    /// It waits on while the errors are transient.
    pub(crate) persistent: bool,
}

impl Starting {
    fn waits_on(&self, error: &Error) -> bool {
        self.persistent && error.is_transient()
    }
}

pub(super) struct Connection {
    connectivity: Connectivity,
    /// Connects since the last session that lasted.
    attempt: u32,
    connected_at: Instant,
    starting: Option<Starting>,
    /// The outcome that the starting call waits for.
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

    /// The session, to be ended.
    pub(super) fn into_session(self) -> Option<Session> {
        match self.connectivity {
            Connectivity::Connected(session) => Some(*session),
            Connectivity::Connecting(_) | Connectivity::Backoff { .. } => None,
        }
    }

    /// Where the outcome of the connect under way comes from, if there is one.
    pub(super) fn outcome(&self) -> Option<&Receiver<Result<Session, Error>>> {
        match &self.connectivity {
            Connectivity::Connecting(outcome) => Some(outcome),
            Connectivity::Connected(_) | Connectivity::Backoff { .. } => None,
        }
    }

    /// When [`poll`](Connection::poll) has something to do.
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

    /// Tells the call that waits for the first session of its outcome, if there is one. A start
    /// that has failed is the manager's end.
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

    /// The session has ended because of `error`, or must be given up.
    pub(super) fn disconnect(&mut self, settings: &Settings, state: &mut State, error: Error) {
        let now = Instant::now();
        if now.duration_since(self.connected_at) >= 2 * backoff(settings, self.attempt) {
            self.attempt = 0;
        }
        let retry_at = match self.attempt.checked_sub(1) {
            // A session that had lasted is worth an immediate second one.
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

    /// While there is no session: connects when it is time to, and has the log warn of an
    /// outage that lasts.
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

    /// The connect has ended.
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
        state.lane.connected(lease, Some(canceller));
        let now = Instant::now();
        let outage = state.status.connected(now);
        let is_start = outage.as_ref().is_some_and(Outage::is_start);
        if is_start {
            // As if it had been made at the first attempt: it is the first that can last.
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

    /// The next connect comes after the backoff, and later the more connects still wait for an
    /// answer, which must not pile up.
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

    /// A manager's parts, without a thread: the database was lost, and a reconnect refused.
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

    /// The warnings that have been given, with the age that they tell.
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
            // It wakes for that, although it does not connect.
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
