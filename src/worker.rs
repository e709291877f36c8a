//! The loop of the one thread that talks to the database.
//!
//! Each turn takes what callers have asked for meanwhile, makes one batch of it, with
//! at most one step for each key, does the batch in one round trip, and answers. The
//! worker never waits for a caller, and never for a connect either: another thread
//! dials, so that while the database is away requests are still answered.

pub(crate) mod connection;
pub(crate) mod handle;
pub(crate) mod in_flight;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod shared;
pub(crate) mod watchdog;

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, select};

use crate::connect::abandoned::Working;
use crate::error::Error;
use crate::lease::Ended;
use crate::op::Outcome;
use crate::op::Patience;
use crate::op::{Action, Op};
use crate::session::{Lost, Session};
use crate::worker::connection::{Link, Starting};
use crate::worker::in_flight::Pulse;
use crate::worker::request::{Answer, Message, Note, Request};
use crate::worker::shared::{Core, State, Waiter};

/// Requests taken in, and steps sent, in one turn.
const BATCH_CAP: usize = 1024;

/// The steps of one busy thread: its last unlock and its next lock.
const PAIR: usize = 2;

/// Starts the worker in charge, which connects after `pause`; `starting` waits for that.
pub(crate) fn spawn(
    core: &Arc<Core>,
    state: &mut State,
    pause: Duration,
    starting: Option<Starting>,
) -> Result<(), Error> {
    let now = Instant::now();
    let (waiting, working) = core.abandoned.work();
    state.pulse = Arc::default();
    state.waiting = Some(waiting);
    let worker = Worker {
        core: Arc::clone(core),
        queue: core.queue.clone(),
        epoch: state.epoch,
        pulse: Arc::clone(&state.pulse),
        link: Link::new(pause, starting),
        dialled: None,
        last_contact: now,
        next: Some(now),
        inbox: Vec::with_capacity(BATCH_CAP),
        notes: Vec::new(),
        batch: Vec::with_capacity(BATCH_CAP),
        outcomes: Vec::with_capacity(BATCH_CAP),
        crowd: 0,
        _working: working,
    };
    let thread = thread::Builder::new()
        .name("distlock-worker".into())
        .spawn(move || worker.run())
        .map_err(|error| Error::unavailable("no thread for the worker").caused_by(error))?;
    // A replaced worker is not waited for: dropping its handle detaches it.
    state.thread = Some(thread);
    Ok(())
}

/// What the worker goes to the database for.
enum Errand {
    Batch,
    Heartbeat,
    /// To say that it will be silent for long.
    Rest,
}

struct Worker {
    core: Arc<Core>,
    queue: Receiver<Message>,
    epoch: u64,
    pulse: Arc<Pulse>,
    link: Link,
    /// A dial's outcome, for the next turn.
    dialled: Option<Result<Session, Error>>,
    /// When the last successful round trip began.
    last_contact: Instant,
    /// When the next turn is due if nobody calls. None: not at all.
    next: Option<Instant>,
    // Kept from turn to turn for their memory.
    inbox: Vec<Message>,
    notes: Vec<Note>,
    batch: Vec<Op>,
    outcomes: Vec<Outcome>,
    /// Steps in the last turn's batch.
    crowd: usize,
    /// Dropped last, when the session is closed: until then a worker that was left behind
    /// counts.
    _working: Working,
}

impl Worker {
    fn run(mut self) {
        let core = Arc::clone(&self.core);
        // Also when a bug makes the worker panic: nobody may be left waiting for it.
        let _last_words = LastWords {
            core: &core,
            epoch: self.epoch,
        };
        while self.wait() && self.turn() {}
        // The session ends here, before the last words say that it has.
        if let Some(session) = self.link.into_session() {
            session.close();
        }
    }

    /// Waits for something to do. False if there can be nothing any more.
    fn wait(&mut self) -> bool {
        let received = match (self.link.outcome(), self.next) {
            (None, Some(next)) => self.queue.recv_deadline(next),
            (None, None) => self
                .queue
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
            (Some(outcome), next) => {
                let timeout = next.map_or_else(crossbeam_channel::never, crossbeam_channel::at);
                select! {
                    recv(self.queue) -> message => {
                        message.map_err(|_| RecvTimeoutError::Disconnected)
                    }
                    recv(outcome) -> outcome => {
                        let panicked = |_| Err(Error::unavailable("the connect has panicked"));
                        self.dialled = Some(outcome.unwrap_or_else(panicked));
                        return true;
                    }
                    recv(timeout) -> _ => Err(RecvTimeoutError::Timeout),
                }
            }
        };
        match received {
            Ok(message) => self.inbox.push(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return self.linger(),
        }
        true
    }

    /// Nobody can call any more, but locks that are kept for their time are kept: sleeps
    /// until the next turn is due. False if there are none.
    fn linger(&self) -> bool {
        let is_keeping = self.core.state.lock().table.is_keeping();
        match self.next {
            Some(next) if is_keeping => {
                thread::sleep(next.saturating_duration_since(Instant::now()));
                true
            }
            _ => false,
        }
    }

    /// One turn. False if another worker, or nobody, is in charge now.
    fn turn(&mut self) -> bool {
        let goes_on = self.work();
        self.link.announce(&self.core);
        goes_on && !self.core.is_closed()
    }

    fn work(&mut self) -> bool {
        if self.crowd > PAIR || matches!(self.inbox[..], [Message::Wake]) {
            // Many are at work, and some are just about to ask, or whoever has just given a
            // lock back is: a batch with them in it does more for all than a quicker one.
            thread::yield_now();
        }
        let core = Arc::clone(&self.core);
        let mut state = core.state.lock();
        if !self.is_in_charge(&state) {
            return false;
        }
        let now = Instant::now();
        if let Some(outcome) = self.dialled.take() {
            self.link.dialled(&core, &mut state, outcome);
            self.last_contact = now;
        }
        if self.link.session().is_some()
            && let Some(ended) = state.session.as_ref().and_then(|session| session.ended())
        {
            self.lose(&mut state, ended, Error::lease_expired());
        }
        self.take_in(&mut state, now);
        if self.link.session().is_some() {
            self.plan(&mut state, now);
            self.crowd = self.batch.len();
            let Some(errand) = self.errand(&state, now) else {
                self.next = self.next_turn(&state);
                return true;
            };
            core.set_out(&self.pulse);
            state.round_trips += 1;
            drop(state);
            let result = self.round_trip(errand);
            state = core.state.lock();
            if !self.is_in_charge(&state) {
                return false;
            }
            self.pulse.end();
            match result {
                Ok(()) => self.settle(&mut state),
                Err(Lost(error)) => self.lose(&mut state, Ended::SessionLost, error),
            }
        }
        if self.link.session().is_none() {
            state.table.forget_idle();
        }
        self.link.tend(&core, &mut state);
        self.next = self.next_turn(&state);
        true
    }

    fn is_in_charge(&self, state: &State) -> bool {
        state.epoch == self.epoch && !self.core.is_closed()
    }

    /// Reads the queue and the notes. The notes are taken after the queue and worked
    /// off before it: a thread that drops a guard and then asks for the lock again
    /// finds it free.
    fn take_in(&mut self, state: &mut State, now: Instant) {
        while self.inbox.len() < BATCH_CAP {
            match self.queue.try_recv() {
                Ok(message) => self.inbox.push(message),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        self.core.noted.store(false, Ordering::SeqCst);
        mem::swap(&mut *self.core.notes.lock(), &mut self.notes);

        for note in self.notes.drain(..) {
            match note {
                Note::Release { grant, reply } => state.release(&self.core, grant, reply, now),
                Note::GaveUp(key) => {
                    let mut desk = self.core.desk(state.session.as_ref());
                    let gone = |waiter: &Waiter| waiter.reply.is_abandoned();
                    state.table.sweep(key, gone, now, &mut desk);
                }
            }
        }
        let State {
            table,
            session,
            status,
            ..
        } = state;
        let mut desk = self.core.desk(session.as_ref());
        for message in self.inbox.drain(..) {
            let Message::Acquire(request) = message else {
                continue;
            };
            let Request {
                key,
                mode,
                patience,
                reply,
            } = request;
            if reply.is_abandoned() {
                continue;
            }
            match status.refusal() {
                Some(error)
                    if patience == Patience::Once || !self.core.settings.wait_while_unavailable =>
                {
                    reply.send(Answer::Failed(error.clone())).ok();
                }
                _ => table.acquire(key, mode, patience, Waiter { reply }, now, &mut desk),
            }
        }
    }

    fn plan(&mut self, state: &mut State, now: Instant) {
        self.batch.clear();
        let mut desk = self.core.desk(state.session.as_ref());
        state.table.plan(now, BATCH_CAP, &mut self.batch, &mut desk);
    }

    /// What to go to the database for now, if anything.
    fn errand(&self, state: &State, now: Instant) -> Option<Errand> {
        if !self.batch.is_empty() {
            Some(Errand::Batch)
        } else if self.contact_due(state).is_none_or(|due| now < due) {
            None
        } else if is_active(state) || !state.unlocks.is_empty() {
            Some(Errand::Heartbeat)
        } else {
            Some(Errand::Rest)
        }
    }

    /// When the database has to hear from us if there is no batch for it.
    fn contact_due(&self, state: &State) -> Option<Instant> {
        let session = self.link.session()?;
        let settings = &self.core.settings;
        if !state.unlocks.is_empty() {
            Some(self.last_contact)
        } else if is_active(state) {
            let limit = session.transaction_limit().unwrap_or(settings.heartbeat);
            // An eighth early, so that the round trip, too, is within the interval.
            Some(self.last_contact + settings.heartbeat.min(limit) * 7 / 8)
        } else if session.is_armed() {
            // Early enough for the lease, late enough not to be undone at once.
            settings.lease.map(|lease| self.last_contact + lease / 4)
        } else {
            None
        }
    }

    /// Without the state's mutex: this may take as long as the database likes.
    fn round_trip(&mut self, errand: Errand) -> Result<(), Lost> {
        let session = self.link.session_mut().expect("errands need a session");
        let (core, pulse) = (&self.core, &self.pulse);
        let beat = || core.beat(pulse);
        self.outcomes.clear();
        let started = Instant::now();
        match errand {
            Errand::Heartbeat => session.heartbeat(&beat)?,
            Errand::Rest => session.rest()?,
            Errand::Batch => {
                core.counters.batch(self.batch.len());
                session.apply(&self.batch, &mut self.outcomes, &beat)?;
            }
        }
        self.last_contact = started;
        Ok(())
    }

    fn settle(&mut self, state: &mut State) {
        // The answer may have come too late to be believed.
        if let Some(ended) = state.session.as_ref().and_then(|session| session.ended()) {
            return self.lose(
                state,
                ended,
                Error::unavailable("the database answered after the lease"),
            );
        }
        let now = Instant::now();
        let mut stray = None;
        let State { table, session, .. } = state;
        let mut desk = self.core.desk(session.as_ref());
        for (op, outcome) in self.batch.drain(..).zip(self.outcomes.drain(..)) {
            match (op.action, outcome) {
                (Action::Unlock, Outcome::Refused | Outcome::Failed(_)) => stray = Some(op.key),
                (_, Outcome::Done(token)) => table.settle(op, true, token, now, &mut desk),
                (_, Outcome::Refused) => table.settle(op, false, None, now, &mut desk),
                (_, Outcome::Failed(error)) => table.fail(op.key, |waiter| {
                    waiter.reply.send(Answer::Failed(error.clone())).ok();
                }),
            }
        }
        if let Some(key) = stray {
            // What else has gone astray cannot be known: start afresh.
            let error = Error::unavailable(format!(
                "the session did not hold the lock {key} that it gave back"
            ));
            self.lose(state, Ended::SessionLost, error);
        } else {
            state.confirm_unlocks();
        }
    }

    /// The session is gone, or must go.
    fn lose(&mut self, state: &mut State, ended: Ended, error: Error) {
        self.batch.clear();
        self.outcomes.clear();
        let held = state.table.held();
        state.lose(ended, error.clone(), &self.core.counters);
        self.link.hang_up(&self.core.settings, state, held, error);
    }

    fn next_turn(&self, state: &State) -> Option<Instant> {
        if self.link.session().is_none() {
            self.link.next_look(&self.core.settings, state)
        } else if state.table.has_ready() {
            Some(Instant::now())
        } else {
            let times = [state.table.next_look(), self.contact_due(state)];
            times.into_iter().flatten().min()
        }
    }
}

/// Is anything held or awaited? If not, the worker sends nothing.
fn is_active(state: &State) -> bool {
    state.table.held() > 0 || state.table.waiting() > 0
}

/// Says that the worker in charge is gone, however it went.
struct LastWords<'a> {
    core: &'a Core,
    epoch: u64,
}

impl Drop for LastWords<'_> {
    fn drop(&mut self) {
        if self.core.state.lock().epoch != self.epoch {
            return;
        }
        if thread::panicking() {
            let error = Error::unavailable("the lock manager's worker has panicked");
            self.core.shut(Ended::SessionLost, &error);
        }
        self.core.worker_alive.lock().take();
    }
}

#[cfg(all(test, distlock_model))]
mod model;
