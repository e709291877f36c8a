//! The worker's way to the database: up, down, or being dialled again.
//!
//! Dialling is another thread's work, so that requests are answered meanwhile. After a
//! session that had lasted the first dial is made at once, and those who wait are not
//! told before it has failed; the next ones are spaced by a backoff.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing::{debug, info, warn};

use crate::backoff::{self, Dice};
use crate::clock;
use crate::config::Settings;
use crate::core::{Core, State};
use crate::dial::{self, Stuck};
use crate::error::Error;
use crate::session::Session;

/// How long requests that met a broken connection wait for the first reconnect before
/// they are told that the database is away.
const RECONNECT_GRACE: Duration = Duration::from_secs(1);

enum Phase {
    Up(Box<Session>),
    Down {
        redial_at: Instant,
        /// Not before then either, unless one of so many that are stuck has its answer.
        pause: Option<(Instant, u32)>,
    },
    Dialling {
        /// When the requests that wait for it are told.
        patience_ends: Option<Instant>,
    },
}

/// How often a pause looks whether the server has begun to answer.
const LOOK: Duration = Duration::from_secs(1);

/// What there is to log. Not before the state's mutex is free: a subscriber may do anything,
/// and take any time for it.
enum News {
    Lost {
        error: Error,
        held: usize,
    },
    Reconnected {
        generation: u64,
    },
    NotReconnected {
        error: Error,
        wait: Duration,
        is_first: bool,
    },
}

pub(crate) struct Link {
    phase: Phase,
    /// Dials since the last session that lasted.
    attempt: u32,
    connected_at: Instant,
    dialler: Sender<Result<Session, Error>>,
    outcomes: Receiver<Result<Session, Error>>,
    dice: Dice,
    news: Vec<News>,
}

impl Link {
    /// Without a session it will dial after `pause`.
    pub(crate) fn new(session: Option<Session>, pause: Duration) -> Self {
        let now = Instant::now();
        let (dialler, outcomes) = bounded(1);
        Link {
            phase: match session {
                Some(session) => Phase::Up(Box::new(session)),
                None => Phase::Down {
                    redial_at: now + pause,
                    pause: None,
                },
            },
            attempt: 0,
            connected_at: now,
            dialler,
            outcomes,
            dice: Dice::new(clock::now()),
            news: Vec::new(),
        }
    }

    pub(crate) fn session(&self) -> Option<&Session> {
        match &self.phase {
            Phase::Up(session) => Some(session),
            Phase::Down { .. } | Phase::Dialling { .. } => None,
        }
    }

    pub(crate) fn session_mut(&mut self) -> Option<&mut Session> {
        match &mut self.phase {
            Phase::Up(session) => Some(session),
            Phase::Down { .. } | Phase::Dialling { .. } => None,
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
    pub(crate) fn outcomes(&self) -> Option<&Receiver<Result<Session, Error>>> {
        matches!(self.phase, Phase::Dialling { .. }).then_some(&self.outcomes)
    }

    /// When [`tend`](Link::tend) has something to do.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Up(_) => None,
            Phase::Down {
                redial_at,
                pause: None,
            } => Some(*redial_at),
            Phase::Down {
                redial_at,
                pause: Some((end, _)),
            } => Some((*end).min(Instant::now() + LOOK).max(*redial_at)),
            Phase::Dialling { patience_ends } => *patience_ends,
        }
    }

    /// Logs what has happened.
    pub(crate) fn announce(&mut self) {
        for news in self.news.drain(..) {
            match news {
                News::Lost { error, held } => {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, held, "lost the database session");
                }
                News::Reconnected { generation } => info!(generation, "reconnected"),
                News::NotReconnected {
                    error,
                    wait,
                    is_first,
                } => {
                    let error = &error as &dyn std::error::Error;
                    // One loud line an outage.
                    if is_first {
                        warn!(error, ?wait, "cannot reconnect");
                    } else {
                        debug!(error, ?wait, "cannot reconnect");
                    }
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
                state.refuse(away().caused_by(error), settings);
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

    /// Dials when it is time to, and tells those who wait when it takes too long.
    pub(crate) fn tend(&mut self, core: &Core, state: &mut State) {
        let now = Instant::now();
        match &mut self.phase {
            Phase::Up(_) => {}
            Phase::Down { redial_at, .. } if now < *redial_at => {}
            Phase::Down {
                pause: Some((end, stuck)),
                ..
            } if now < *end && core.stuck.count() >= *stuck => {}
            Phase::Down { .. } => {
                self.attempt = self.attempt.saturating_add(1);
                state.generation += 1;
                let patience_ends = state.refusing.is_none().then_some(now + RECONNECT_GRACE);
                let dialled = dial::spawn(
                    &core.target,
                    &core.settings,
                    state.generation,
                    &core.stuck,
                    self.dialler.clone(),
                );
                match dialled {
                    Ok(()) => self.phase = Phase::Dialling { patience_ends },
                    Err(error) => self.failed(core, state, error),
                }
            }
            Phase::Dialling { patience_ends } => {
                if patience_ends.is_some_and(|end| now >= end) {
                    *patience_ends = None;
                    state.refuse(away(), &core.settings);
                }
            }
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
            Ok(session) => {
                self.news.push(News::Reconnected {
                    generation: session.state().generation(),
                });
                core.counters.reconnects.fetch_add(1, Ordering::Relaxed);
                state.session = Some(Arc::clone(session.state()));
                state.canceller = Some(session.canceller(&core.target));
                state.refusing = None;
                self.phase = Phase::Up(Box::new(session));
                self.connected_at = Instant::now();
            }
            Err(error) => self.failed(core, state, error),
        }
    }

    /// The dial has failed: the next one comes after the backoff, and later the more connects
    /// still wait for an answer, which must not pile up.
    fn failed(&mut self, core: &Core, state: &mut State, error: Error) {
        let settings = &core.settings;
        let attempt = self.attempt.saturating_sub(1);
        let now = Instant::now();
        let wait = self.dice.jitter(backoff(settings, attempt));
        let stuck = core.stuck.count();
        let pause = (stuck > 0).then(|| (now + Stuck::pause(stuck, &core.target), stuck));
        self.news.push(News::NotReconnected {
            error: error.clone(),
            wait,
            is_first: attempt == 0,
        });
        let refusal = match error.is_unfit() {
            true => error,
            false => away().caused_by(error),
        };
        state.refuse(refusal, settings);
        self.phase = Phase::Down {
            redial_at: now + wait,
            pause,
        };
    }
}

fn away() -> Error {
    Error::unavailable("the database is away")
}

fn backoff(settings: &Settings, attempt: u32) -> Duration {
    backoff::exponential(attempt, settings.reconnect_min, settings.reconnect_max)
}
