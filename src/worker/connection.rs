//! The worker's way to the database: up, down, or being dialled again.
//!
//! Dialling is another thread's work, so that requests are answered meanwhile. The first
//! dial, and the first one after a session that had lasted, is made at once, and those who
//! wait are not told before it has failed, however long that takes; the next ones are spaced
//! by a backoff.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use tracing::{debug, info, warn};

use crate::backoff::{self, Dice};
use crate::clock;
use crate::config::Settings;
use crate::connect::{Canceller, Dialer};
use crate::error::Error;
use crate::health::Outage;
use crate::lease::Ended;
use crate::session::Session;
use crate::session::sequence::Missing;
use crate::worker::shared::{Core, State};

enum Phase {
    Up(Box<Session>),
    Down {
        redial_at: Instant,
        /// Not before then either, unless one of so many that are left behind has its answer.
        pause: Option<(Instant, u32)>,
    },
    Dialling(Receiver<Result<Session, Error>>),
}

/// How often a pause looks whether the server has begun to answer.
const LOOK: Duration = Duration::from_secs(1);

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

/// What there is to log. Not before the state's mutex is free: a subscriber may do anything,
/// and take any time for it.
enum News {
    Lost {
        error: Error,
        held: usize,
    },
    Connected {
        generation: u64,
        /// For how long there was no session.
        after: Duration,
        is_start: bool,
    },
    NotConnected {
        error: Error,
        wait: Duration,
        is_first: bool,
        is_start: bool,
    },
    StillAway {
        error: Error,
        lasted: Duration,
    },
}

pub(crate) struct Link {
    phase: Phase,
    /// Dials since the last session that lasted.
    attempt: u32,
    connected_at: Instant,
    starting: Option<Starting>,
    dice: Dice,
    news: Vec<News>,
}

impl Link {
    /// Dials after `pause`.
    pub(crate) fn new(pause: Duration, starting: Option<Starting>) -> Self {
        let now = Instant::now();
        Link {
            phase: Phase::Down {
                redial_at: now + pause,
                pause: None,
            },
            attempt: 0,
            connected_at: now,
            starting,
            dice: Dice::new(clock::now()),
            news: Vec::new(),
        }
    }

    pub(crate) fn session(&self) -> Option<&Session> {
        match &self.phase {
            Phase::Up(session) => Some(session),
            Phase::Down { .. } | Phase::Dialling(_) => None,
        }
    }

    pub(crate) fn session_mut(&mut self) -> Option<&mut Session> {
        match &mut self.phase {
            Phase::Up(session) => Some(session),
            Phase::Down { .. } | Phase::Dialling(_) => None,
        }
    }

    /// The session, to be ended.
    pub(crate) fn into_session(self) -> Option<Session> {
        match self.phase {
            Phase::Up(session) => Some(*session),
            Phase::Down { .. } | Phase::Dialling { .. } => None,
        }
    }

    /// Where the dial under way will be answered, if there is one.
    pub(crate) fn outcome(&self) -> Option<&Receiver<Result<Session, Error>>> {
        match &self.phase {
            Phase::Dialling(outcome) => Some(outcome),
            Phase::Up(_) | Phase::Down { .. } => None,
        }
    }

    /// When [`tend`](Link::tend) has something to do.
    pub(crate) fn next_look(&self, settings: &Settings, state: &State) -> Option<Instant> {
        let redial = match &self.phase {
            Phase::Up(_) | Phase::Dialling(_) => None,
            Phase::Down {
                redial_at,
                pause: None,
            } => Some(*redial_at),
            Phase::Down {
                redial_at,
                pause: Some((end, _)),
            } => Some((*end).min(Instant::now() + LOOK).max(*redial_at)),
        };
        let warning = state.status.warning_due(settings.outage_warnings);
        redial.into_iter().chain(warning).min()
    }

    /// Logs what has happened, and tells the call that waits for the first session. A start
    /// that nobody waits for any more is over.
    pub(crate) fn announce(&mut self, core: &Core) {
        for news in mem::take(&mut self.news) {
            match news {
                News::Lost { error, held } => {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, held, "lost the database session");
                }
                News::Connected {
                    generation,
                    after,
                    is_start: false,
                } => info!(generation, ?after, "reconnected"),
                News::Connected {
                    after,
                    is_start: true,
                    ..
                } => {
                    let hosts = core.target.config.get_hosts();
                    let dbname = core.target.config.get_dbname();
                    info!(?hosts, dbname, ?after, "connected");
                    if let Some(starting) = self.starting.take() {
                        starting.outcome.send(Ok(())).ok();
                    }
                }
                News::NotConnected {
                    error,
                    wait,
                    is_first,
                    is_start,
                } => {
                    if let Some(starting) =
                        self.starting.take_if(|starting| !starting.waits_on(&error))
                    {
                        core.shut(Ended::Closed, &Error::closed());
                        starting.outcome.send(Err(error)).ok();
                        continue;
                    }
                    let error = &error as &dyn std::error::Error;
                    let what = if is_start {
                        "cannot connect"
                    } else {
                        "cannot reconnect"
                    };
                    if is_first {
                        warn!(error, ?wait, "{what}");
                    } else {
                        debug!(error, ?wait, "{what}");
                    }
                }
                News::StillAway { error, lasted } => {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, ?lasted, "the database is still away");
                }
            }
        }
    }

    /// The session is of no use any more.
    pub(crate) fn hang_up(
        &mut self,
        settings: &Settings,
        state: &mut State,
        held: usize,
        error: Error,
    ) {
        self.news.push(News::Lost {
            error: error.clone(),
            held,
        });
        let now = Instant::now();
        if now.duration_since(self.connected_at) >= 2 * backoff(settings, self.attempt) {
            self.attempt = 0;
        }
        let redial_at = match self.attempt.checked_sub(1) {
            // A session that had lasted is worth an immediate second one.
            None => now,
            Some(attempt) => {
                state.refuse(error, settings);
                now + self.dice.jitter(backoff(settings, attempt))
            }
        };
        if let Phase::Up(session) = mem::replace(
            &mut self.phase,
            Phase::Down {
                redial_at,
                pause: None,
            },
        ) {
            session.dispose();
        }
    }

    /// Dials when it is time to, and has the log told of an outage that lasts.
    pub(crate) fn tend(&mut self, core: &Core, state: &mut State) {
        let now = Instant::now();
        self.warn_again(core, state, now);
        let is_due = match &self.phase {
            Phase::Up(_) | Phase::Dialling(_) => false,
            Phase::Down { redial_at, .. } if now < *redial_at => false,
            Phase::Down {
                pause: Some((end, left_behind)),
                ..
            } => now >= *end || core.abandoned.count() < *left_behind,
            Phase::Down { pause: None, .. } => true,
        };
        if !is_due {
            return;
        }
        self.attempt = self.attempt.saturating_add(1);
        state.generation += 1;
        let dialer = Dialer {
            target: core.target.clone(),
            settings: core.settings.clone(),
            abandoned: core.abandoned.clone(),
            missing: match state.status.is_start() {
                true => Missing::Make,
                false => Missing::Refuse,
            },
        };
        match dialer.spawn(state.generation) {
            Ok(outcome) => self.phase = Phase::Dialling(outcome),
            Err(error) => self.failed(core, state, error),
        }
    }

    fn warn_again(&mut self, core: &Core, state: &mut State, now: Instant) {
        let due = state.status.warning_due(core.settings.outage_warnings);
        if due.is_some_and(|due| now >= due)
            && let Some(outage) = state.status.outage()
        {
            self.news.push(News::StillAway {
                error: outage.cause().clone(),
                lasted: now.duration_since(outage.since()),
            });
            state.status.warned(now);
        }
    }

    /// The dial has been answered.
    pub(crate) fn dialled(
        &mut self,
        core: &Core,
        state: &mut State,
        outcome: Result<Session, Error>,
    ) {
        match outcome {
            Ok(session) => self.connected(core, state, session),
            Err(error) => self.failed(core, state, error),
        }
    }

    fn connected(&mut self, core: &Core, state: &mut State, session: Session) {
        let connector = core.target.connector.clone();
        let canceller = Canceller::new(session.cancel_token(), connector);
        let outage = state.connected(Arc::clone(session.state()), Some(canceller));
        let is_start = outage.as_ref().is_some_and(Outage::is_start);
        if is_start {
            // As if it had been made at the first attempt: it is the first that can last.
            self.attempt = 0;
        } else {
            core.counters.reconnects.fetch_add(1, Ordering::Relaxed);
        }
        self.connected_at = Instant::now();
        self.news.push(News::Connected {
            generation: session.state().generation(),
            after: outage.map_or(Duration::ZERO, |outage| outage.since().elapsed()),
            is_start,
        });
        self.phase = Phase::Up(Box::new(session));
    }

    /// The dial has failed: the next one comes after the backoff, and later the more connects
    /// still wait for an answer, which must not pile up.
    fn failed(&mut self, core: &Core, state: &mut State, error: Error) {
        let settings = &core.settings;
        let attempt = self.attempt.saturating_sub(1);
        let now = Instant::now();
        let wait = self.dice.jitter(backoff(settings, attempt));
        let left_behind = core.abandoned.count();
        let pause =
            (left_behind > 0).then(|| (now + core.abandoned.pause(&core.target), left_behind));
        let is_first = attempt == 0;
        self.news.push(News::NotConnected {
            error: error.clone(),
            wait,
            is_first,
            is_start: state.status.is_start(),
        });
        state.refuse(error, settings);
        if is_first {
            state.status.warned(now);
        }
        self.phase = Phase::Down {
            redial_at: now + wait,
            pause,
        };
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
    use crate::connect::target::Target;
    use crate::error::ErrorKind;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A manager's parts, without a thread: the database was lost, and a reconnect refused.
    fn away() -> (Arc<Core>, Link) {
        let settings = Settings::default();
        assert_eq!(settings.outage_warnings, MINUTE);
        let target = Target::parse("host=/nowhere", &settings, None).unwrap();
        let (_, requests) = crossbeam_channel::bounded(1);
        let (alarm, _) = crossbeam_channel::bounded(1);
        let core = Core::new(target, settings, requests, alarm);
        let mut link = Link::new(Duration::from_secs(3600), None);
        link.attempt = 1;
        let refused = Error::new(ErrorKind::Login, "the password is wrong");
        link.failed(&core, &mut core.state.lock(), refused);
        (core, link)
    }

    /// The warnings that have been given, with the age that they tell.
    fn warnings(link: &mut Link) -> Vec<Duration> {
        let warning = |news| match news {
            News::NotConnected { is_first: true, .. } => Some(Duration::ZERO),
            News::StillAway { error, lasted } => {
                assert_eq!(error.kind(), ErrorKind::Login);
                Some(lasted)
            }
            _ => None,
        };
        link.news.drain(..).filter_map(warning).collect()
    }

    #[test]
    fn an_outage_is_told_of_when_it_begins_and_again_every_minute() {
        let (core, mut link) = away();
        let mut state = core.state.lock();
        assert_eq!(warnings(&mut link), [Duration::ZERO]);
        let mut due = state.status.warning_due(MINUTE).unwrap();
        for minute in 1..=3 {
            link.warn_again(&core, &mut state, due - Duration::from_millis(1));
            assert!(warnings(&mut link).is_empty(), "{minute}");
            // It wakes for that, although it does not dial.
            link.phase = Phase::Dialling(crossbeam_channel::never());
            assert_eq!(link.next_look(&core.settings, &state), Some(due));
            link.warn_again(&core, &mut state, due);
            let [lasted] = warnings(&mut link)[..] else {
                panic!("one a minute");
            };
            assert!(lasted >= minute * MINUTE, "{lasted:?}");
            let next = state.status.warning_due(MINUTE).unwrap();
            assert_eq!(next, due + MINUTE);
            due = next;
        }
    }
}
