//! The worker's way to the database: up, down, or being dialled again.
//!
//! Dialling is another thread's work, so that requests are answered meanwhile. After a
//! session that had lasted the first dial is made at once, and those who wait are not
//! told before it has failed; the next ones are spaced by a backoff.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use tracing::{debug, info, warn};

use crate::backoff::{self, Dice};
use crate::clock;
use crate::config::{Settings, Target};
use crate::core::{Core, State};
use crate::error::Error;
use crate::session::Session;

/// How long requests that met a broken connection wait for the first reconnect before
/// they are told that the database is away.
const RECONNECT_GRACE: Duration = Duration::from_secs(1);

/// The longest pause after dials that nobody answered.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The outcome of a dial, under its generation.
pub(crate) type Dialled = (u64, Result<Session, Error>);

/// Connects on a thread of its own and sends the outcome. If nobody waits for it any
/// more, the session is closed on that thread.
pub(crate) fn dial(
    target: &Target,
    settings: &Settings,
    generation: u64,
    outcomes: Sender<Dialled>,
) -> Result<(), Error> {
    let (target, settings) = (target.clone(), settings.clone());
    thread::Builder::new()
        .name("distlock-dial".into())
        .spawn(move || {
            let connect = || Session::connect(&target, &settings, generation);
            // Whoever counts on an outcome gets one.
            let outcome = catch_unwind(AssertUnwindSafe(connect))
                .unwrap_or_else(|_| Err(Error::unavailable("the connect has panicked")));
            outcomes.send((generation, outcome)).ok();
        })
        .map(drop)
        .map_err(|error| Error::unavailable("no thread for the connect").caused_by(error))
}

/// How long a dial may take in all: the driver's own limit holds for each host's TCP
/// connect, but not for a server that accepts and then says nothing.
pub(crate) fn dial_limit(target: &Target, settings: &Settings) -> Duration {
    let config = &target.config;
    let hosts = config.get_hosts().len().max(config.get_hostaddrs().len());
    config
        .get_connect_timeout()
        .copied()
        .unwrap_or(settings.connect_timeout)
        .saturating_mul(u32::try_from(hosts).unwrap_or(u32::MAX).max(1))
}

enum Phase {
    Up(Box<Session>),
    Down {
        redial_at: Instant,
    },
    Dialling {
        generation: u64,
        give_up_at: Instant,
        /// When the requests that wait for it are told.
        patience_ends: Option<Instant>,
    },
}

pub(crate) struct Link {
    phase: Phase,
    /// Dials since the last session that lasted.
    attempt: u32,
    connected_at: Instant,
    dialler: Sender<Dialled>,
    outcomes: Receiver<Dialled>,
    /// Dials without an outcome yet, those included that nobody waits for any more: a
    /// server that accepts and says nothing keeps them for as long as it likes.
    outstanding: u32,
    dice: Dice,
}

impl Link {
    /// Without a session it will dial at once.
    pub(crate) fn new(session: Option<Session>) -> Self {
        let now = Instant::now();
        let (dialler, outcomes) = unbounded();
        Link {
            phase: match session {
                Some(session) => Phase::Up(Box::new(session)),
                None => Phase::Down { redial_at: now },
            },
            attempt: 0,
            connected_at: now,
            dialler,
            outcomes,
            outstanding: 0,
            dice: Dice::new(clock::now()),
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

    /// Where dials under way will be answered, if there are any.
    pub(crate) fn outcomes(&self) -> Option<&Receiver<Dialled>> {
        (self.outstanding > 0).then_some(&self.outcomes)
    }

    /// When [`tend`](Link::tend) has something to do.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Up(_) => None,
            Phase::Down { redial_at } => Some(*redial_at),
            Phase::Dialling {
                give_up_at,
                patience_ends,
                ..
            } => Some(patience_ends.map_or(*give_up_at, |end| end.min(*give_up_at))),
        }
    }

    /// The session is of no use any more.
    pub(crate) fn hang_up(&mut self, settings: &Settings, state: &mut State, error: Error) {
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
        if let Phase::Up(session) = mem::replace(&mut self.phase, Phase::Down { redial_at }) {
            session.dispose();
        }
    }

    /// Dials when it is time to, and stops waiting for a dial that takes too long.
    pub(crate) fn tend(&mut self, core: &Core, state: &mut State) {
        let now = Instant::now();
        match &mut self.phase {
            Phase::Up(_) => {}
            Phase::Down { redial_at } if now < *redial_at => {}
            Phase::Down { .. } => {
                let Core {
                    target, settings, ..
                } = core;
                self.attempt = self.attempt.saturating_add(1);
                state.generation += 1;
                let patience_ends = state.refusing.is_none().then_some(now + RECONNECT_GRACE);
                match dial(target, settings, state.generation, self.dialler.clone()) {
                    Ok(()) => {
                        self.outstanding += 1;
                        self.phase = Phase::Dialling {
                            generation: state.generation,
                            give_up_at: now + dial_limit(target, settings),
                            patience_ends,
                        }
                    }
                    Err(error) => self.failed(settings, state, error, Duration::ZERO),
                }
            }
            Phase::Dialling {
                give_up_at,
                patience_ends,
                ..
            } => {
                if now >= *give_up_at {
                    let error = Error::unavailable("the database did not answer the connect");
                    // Twice as long for each that is still waiting: they must not pile up.
                    let pause = dial_limit(&core.target, &core.settings)
                        .saturating_mul(1_u32.checked_shl(self.outstanding).unwrap_or(u32::MAX))
                        .min(LONGEST_PAUSE);
                    self.failed(&core.settings, state, error, pause);
                } else if patience_ends.is_some_and(|end| now >= end) {
                    *patience_ends = None;
                    state.refuse(away(), &core.settings);
                }
            }
        }
    }

    /// A dial has been answered, perhaps one that nobody waits for any more.
    pub(crate) fn dialled(
        &mut self,
        core: &Core,
        state: &mut State,
        (generation, outcome): Dialled,
    ) {
        self.outstanding -= 1;
        match (outcome, &self.phase) {
            (Ok(session), Phase::Up(_)) => session.dispose(),
            (Ok(session), _) => {
                info!(generation, "reconnected");
                core.counters.reconnects.fetch_add(1, Ordering::Relaxed);
                state.session = Some(Arc::clone(session.state()));
                state.refusing = None;
                self.phase = Phase::Up(Box::new(session));
                self.connected_at = Instant::now();
            }
            (
                Err(error),
                Phase::Dialling {
                    generation: current,
                    ..
                },
            ) if *current == generation => {
                self.failed(&core.settings, state, error, Duration::ZERO);
            }
            (Err(_), _) => {}
        }
    }

    /// The dial has failed: the next one comes after the backoff, or `pause` if that is
    /// longer.
    fn failed(&mut self, settings: &Settings, state: &mut State, error: Error, pause: Duration) {
        let attempt = self.attempt.saturating_sub(1);
        let wait = self.dice.jitter(backoff(settings, attempt)).max(pause);
        let cause = &error as &dyn std::error::Error;
        // One loud line an outage.
        if attempt == 0 {
            warn!(error = cause, ?wait, "cannot reconnect");
        } else {
            debug!(error = cause, ?wait, "cannot reconnect");
        }
        let refusal = match error.is_unfit() {
            true => error,
            false => away().caused_by(error),
        };
        state.refuse(refusal, settings);
        self.phase = Phase::Down {
            redial_at: Instant::now() + wait,
        };
    }
}

fn away() -> Error {
    Error::unavailable("the database is away")
}

fn backoff(settings: &Settings, attempt: u32) -> Duration {
    backoff::exponential(attempt, settings.reconnect_min, settings.reconnect_max)
}
