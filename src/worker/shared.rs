//! What a manager's threads share: the lock table, the session's state and the ways
//! to the worker.
//!
//! The worker does all the work, but owns none of what others need when it hangs in
//! the driver: it holds the state's mutex only between two round trips. So `close`
//! and the watchdog can answer everybody without the worker's help, and a caller's
//! deadline is the caller's own.

mod standing;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::clock;
use crate::config::Settings;
use crate::connect::Canceller;
use crate::connect::abandoned::{Abandoned, Waiting};
use crate::connect::target::Target;
use crate::error::Error;
use crate::health::{Outage, Status};
use crate::key::Key;
use crate::lease::{Ended, SessionState};
use crate::op::{Mode, Token};
use crate::stats::{Counters, Stats};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::table::{Desk, Limits, Refusal, Table};
use crate::worker::in_flight::Pulse;
use crate::worker::reply::{Replier, ReplyPool};
use crate::worker::request::{Answer, Grant, Message, Note, Request};

/// What the worker answers to.
pub(crate) struct Waiter {
    pub(crate) reply: Replier<Answer>,
}

/// An explicit unlock. It is answered by the first round trip that began after it and in
/// which the server was well: only then is it certain that the lock lasted until then, also
/// if it has gone to the next holder without the server.
pub(crate) struct Unlock {
    key: Key,
    reply: Replier<Answer>,
    /// The round trips begun before.
    after: u64,
}

pub(crate) struct State {
    pub(crate) table: Table<Waiter>,
    /// The session that grants are made on; `None` while there is none.
    pub(crate) session: Option<Arc<SessionState>>,
    /// That session's, for when it is given up with a statement under way.
    pub(crate) canceller: Option<Canceller>,
    /// Explicit unlocks that wait for the server's word.
    pub(crate) unlocks: Vec<Unlock>,
    /// Round trips begun on the session.
    pub(crate) round_trips: u64,
    /// Since when there has been a session, or why there is none.
    pub(crate) status: Status,
    /// Which worker is in charge. One that finds another number here has been
    /// replaced, and leaves.
    pub(crate) epoch: u64,
    /// That worker's.
    pub(crate) pulse: Arc<Pulse>,
    /// To leave that worker behind with.
    pub(crate) waiting: Option<Waiting>,
    pub(crate) generation: u64,
    /// True while there is no worker, for want of a thread.
    pub(crate) is_unmanned: bool,
    pub(crate) thread: Option<std::thread::JoinHandle<()>>,
}

pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) target: Target,
    pub(crate) counters: Counters,
    pub(crate) abandoned: Abandoned,
    pub(crate) replies: ReplyPool<Answer>,
    pub(crate) state: Mutex<State>,
    pub(crate) notes: Mutex<Vec<Note>>,
    /// Are there notes that the worker has been woken for?
    pub(crate) noted: AtomicBool,
    /// For whoever has to answer in the worker's place.
    pub(crate) queue: Receiver<Message>,
    /// Wakes the watchdog.
    pub(crate) alarm: Sender<()>,
    /// Does the watchdog sleep until it is woken?
    pub(crate) unguarded: AtomicBool,
    closed: AtomicBool,
    /// Disconnects when the manager is closed, for those who wait for room in the queue.
    closing: Receiver<Infallible>,
    /// Nothing is ever sent: dropping it is the signal.
    not_closing: Mutex<Option<Sender<Infallible>>>,
    /// Disconnects when the worker in charge has ended.
    pub(crate) worker_gone: Receiver<()>,
    /// The worker's end of `worker_gone`, for its successor to take over.
    pub(crate) worker_alive: Mutex<Option<Sender<()>>>,
}

impl Core {
    pub(crate) fn new(
        target: Target,
        settings: Settings,
        queue: Receiver<Message>,
        alarm: Sender<()>,
    ) -> Arc<Self> {
        let limits = Limits {
            max_locks: settings.max_locks,
            retry_min: settings.retry_min,
            retry_max: settings.retry_max,
            fenced: settings.fencing.is_some(),
        };
        let (worker_alive, worker_gone) = bounded(0);
        let (not_closing, closing) = bounded(0);
        // Only to spread retries: a time and a process differ where it matters.
        let seed = clock::nanos(
            std::time::UNIX_EPOCH
                .elapsed()
                .unwrap_or(Duration::from_secs(1)),
        ) ^ u64::from(std::process::id());
        Arc::new(Core {
            state: Mutex::new(State {
                table: Table::new(limits, seed),
                session: None,
                canceller: None,
                unlocks: Vec::new(),
                round_trips: 0,
                status: Status::starting(),
                epoch: 0,
                pulse: Arc::default(),
                waiting: None,
                generation: 0,
                is_unmanned: false,
                thread: None,
            }),
            settings,
            target,
            counters: Counters::default(),
            abandoned: Abandoned::default(),
            replies: ReplyPool::new(),
            notes: Mutex::default(),
            noted: AtomicBool::new(false),
            queue,
            alarm,
            unguarded: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            closing,
            not_closing: Mutex::new(Some(not_closing)),
            worker_gone,
            worker_alive: Mutex::new(Some(worker_alive)),
        })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn closing(&self) -> &Receiver<Infallible> {
        &self.closing
    }

    /// A worker turns to the database, and the watchdog to the worker.
    pub(crate) fn set_out(&self, pulse: &Pulse) {
        self.counters.round_trip();
        pulse.set_out();
        if self.unguarded.swap(false, Ordering::SeqCst) {
            self.alarm.try_send(()).ok();
        }
    }

    /// One more round trip on the same errand.
    pub(crate) fn beat(&self, pulse: &Pulse) {
        self.counters.round_trip();
        pulse.beat();
    }

    /// Where the table's grants go, on `session`.
    pub(crate) fn desk<'a>(&'a self, session: Option<&'a Arc<SessionState>>) -> FrontDesk<'a> {
        FrontDesk {
            session,
            counters: &self.counters,
            settings: &self.settings,
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let state = self.state.lock();
        let dropped = self.dropped(&state);
        let mut stats = self.counters.snapshot();
        stats.held = state.table.held().saturating_sub(dropped) as u64;
        stats.waiting = state.table.waiting() as u64;
        stats.released += dropped as u64;
        stats
    }

    /// Guards that are dropped though the worker has not read of it: they count as given
    /// back.
    fn dropped(&self, state: &State) -> usize {
        let current = state.session.as_ref().map(|session| session.generation());
        let now = Instant::now();
        let is_dropped = |note: &&Note| match note {
            Note::Release { grant, .. } => {
                Some(grant.session.generation()) == current
                    && grant.keep_until.is_none_or(|until| until <= now)
            }
            Note::GaveUp(_) => false,
        };
        self.notes.lock().iter().filter(is_dropped).count()
    }

    /// Ends everything: trips every watch with `ended` and answers every request with
    /// `error`, now and from now on. False if that was done already.
    pub(crate) fn shut(&self, ended: Ended, error: &Error) -> bool {
        if self.closed.swap(true, Ordering::SeqCst) {
            return false;
        }
        let mut state = self.state.lock();
        let dropped = self.dropped(&state) as u64;
        self.counters.released.fetch_add(dropped, Ordering::Relaxed);
        state.lose(ended, error.clone(), &self.counters);
        self.counters.lost.fetch_sub(dropped, Ordering::Relaxed);
        state.dismiss(true, error);
        if state.is_unmanned {
            // Nobody else says that it has ended.
            self.worker_alive.lock().take();
        }
        drop(state);
        drop(self.not_closing.lock().take());
        self.drain();
        self.alarm.try_send(()).ok();
        true
    }

    /// Answers for a worker that there is not: all requests in the queue with `error`, and
    /// unlocks with the loss of their session.
    pub(crate) fn answer_unmanned(&self, error: &Error) {
        self.refuse_queued(error);
        for note in self.notes.lock().iter_mut() {
            if let Note::Release { grant, reply } = note
                && let Some(ended) = grant.session.ended()
                && let Some(reply) = reply.take()
            {
                reply.send(Answer::Failed(Error::ended(ended))).ok();
            }
        }
    }

    fn refuse_queued(&self, error: &Error) {
        while let Ok(message) = self.queue.try_recv() {
            if let Message::Acquire(Request { reply, .. }) = message {
                reply.send(Answer::Failed(error.clone())).ok();
            }
        }
    }

    /// Answers what still arrives after the end.
    pub(crate) fn drain(&self) {
        self.refuse_queued(&Error::closed());
        let notes = std::mem::take(&mut *self.notes.lock());
        for note in notes {
            if let Note::Release {
                reply: Some(reply), ..
            } = note
            {
                reply.send(Answer::Failed(Error::closed())).ok();
            }
        }
    }
}

impl State {
    /// A guard's lock is given back.
    pub(crate) fn release(
        &mut self,
        core: &Core,
        grant: Grant,
        reply: Option<Replier<Answer>>,
        now: Instant,
    ) {
        let session = self.session.as_ref();
        let released = session
            .is_some_and(|session| session.generation() == grant.session.generation())
            && self.table.release(
                grant.key,
                grant.id,
                grant.keep_until,
                now,
                &mut core.desk(session),
            );
        let Some(reply) = reply else { return };
        if released {
            self.unlocks.push(Unlock {
                key: grant.key,
                reply,
                after: self.round_trips,
            });
        } else {
            let ended = grant.session.ended().unwrap_or(Ended::SessionLost);
            reply.send(Answer::Failed(Error::ended(ended))).ok();
        }
    }

    /// A round trip has succeeded, the last that began: answers the unlocks that it speaks for.
    pub(crate) fn confirm_unlocks(&mut self) {
        let (table, last) = (&self.table, self.round_trips);
        let is_sure = |unlock: &mut Unlock| unlock.after < last && !table.is_unlock_due(unlock.key);
        for unlock in self.unlocks.extract_if(.., is_sure) {
            unlock.reply.send(Answer::Released).ok();
        }
    }

    /// There is a session to make grants on. Returns the outage that ends with it.
    pub(crate) fn connected(
        &mut self,
        session: Arc<SessionState>,
        canceller: Option<Canceller>,
    ) -> Option<Outage> {
        self.session = Some(session);
        self.canceller = canceller;
        self.status.connected(Instant::now())
    }

    /// The session is gone because of `cause`: every hold ends, every wait goes on.
    pub(crate) fn lose(&mut self, ended: Ended, cause: Error, counters: &Counters) {
        self.status.away(cause, Instant::now());
        if let Some(session) = self.session.take() {
            session.trip(ended);
        }
        let lost = self.table.lose();
        counters.lost.fetch_add(lost as u64, Ordering::Relaxed);
        for unlock in self.unlocks.drain(..) {
            unlock.reply.send(Answer::Failed(Error::ended(ended))).ok();
        }
    }

    /// The database is away because of `cause`: tells those who are not to wait for it, now
    /// and until there is a session.
    pub(crate) fn refuse(&mut self, cause: Error, settings: &Settings) {
        let refusal = self.status.refuse(cause, Instant::now());
        self.dismiss(!settings.wait_while_unavailable, &refusal);
    }

    fn dismiss(&mut self, all: bool, error: &Error) {
        self.table.dismiss(all, |waiter| {
            waiter.reply.send(Answer::Failed(error.clone())).ok();
        });
    }
}

/// Carries the table's decisions to the callers.
pub(crate) struct FrontDesk<'a> {
    session: Option<&'a Arc<SessionState>>,
    counters: &'a Counters,
    settings: &'a Settings,
}

impl Desk<Waiter> for FrontDesk<'_> {
    fn grant(
        &mut self,
        waiter: Waiter,
        key: Key,
        mode: Mode,
        id: u64,
        token: Option<Token>,
        handed_over: bool,
    ) -> bool {
        let session = self.session.expect("there is no grant without a session");
        let grant = Grant {
            key,
            mode,
            id,
            token,
            keep_until: None,
            session: Arc::clone(session),
        };
        // Before the answer: the caller may look at the figures at once.
        self.counters.acquired.fetch_add(1, Ordering::Relaxed);
        if handed_over {
            self.counters.hand_overs.fetch_add(1, Ordering::Relaxed);
        }
        let taken = waiter.reply.send(Answer::Granted(grant)).is_ok();
        if !taken {
            self.counters.acquired.fetch_sub(1, Ordering::Relaxed);
            if handed_over {
                self.counters.hand_overs.fetch_sub(1, Ordering::Relaxed);
            }
        }
        taken
    }

    fn refuse(&mut self, waiter: Waiter, refusal: Refusal) {
        let answer = match refusal {
            Refusal::Busy => Answer::Busy,
            Refusal::LimitReached => Answer::Failed(Error::limit_reached(
                self.settings.max_locks.unwrap_or(usize::MAX),
            )),
        };
        waiter.reply.send(answer).ok();
    }

    fn released(&mut self, _: u64) {
        self.counters.released.fetch_add(1, Ordering::Relaxed);
    }

    fn contended(&mut self, waiter: &Waiter) {
        waiter.reply.note_refusal();
        self.counters.contended.fetch_add(1, Ordering::Relaxed);
    }
}
