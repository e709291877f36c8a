//! What a manager's threads share: the lock table, the session's state and the ways
//! to the worker.
//!
//! The worker does all the work, but owns none of what others need when it hangs in
//! the driver: it holds the state's mutex only between two round trips. So `close`
//! and the watchdog can answer everybody without the worker's help, and a caller's
//! deadline is the caller's own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tracing::{debug, warn};

use crate::clock;
use crate::config::{Settings, Target};
use crate::error::Error;
use crate::key::Key;
use crate::pulse::Pulse;
use crate::reply::{Replier, ReplyPool};
use crate::request::{Answer, Grant, Message, Mode, Note, Request, Token};
use crate::stats::{Counters, Stats};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::table::{Desk, Limits, Refusal, Released, Table};
use crate::watch::{Ended, SessionState};

/// How long `Handle::close` waits for the worker to end the connection.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// A round trip that takes longer than this has the caller told `Unavailable` at its
/// deadline, and not that the lock is taken.
const SLOW: Duration = Duration::from_millis(100);

/// What managers and guards hold. When the last one goes, the queue disconnects and
/// the worker ends.
pub(crate) struct Handle {
    pub(crate) core: Arc<Core>,
    pub(crate) queue: Sender<Message>,
}

impl Handle {
    /// Gives a lock back, without ever waiting: straight to the next in line if that can
    /// be done here and now, or else through the worker.
    pub(crate) fn release(&self, grant: Grant, reply: Option<Replier<Answer>>) {
        if let Some(mut state) = self.core.state.try_lock()
            && state.table.is_awaited(grant.key)
            // What has ended is not for the next in line.
            && grant.session.ended().is_none()
        {
            state.release(&self.core, grant, reply, Instant::now());
            let worker_needed = state.table.has_ready();
            drop(state);
            if worker_needed {
                self.wake();
            }
        } else {
            self.leave(Note::Release { grant, reply });
        }
    }

    /// Leaves a note for the worker, without ever waiting.
    pub(crate) fn leave(&self, note: Note) {
        self.core.notes.lock().push(note);
        if !self.core.noted.swap(true, Ordering::SeqCst) {
            self.wake();
        }
        self.drain_if_closed();
    }

    /// Answers what was sent after the end. Whoever sends calls this afterwards, so
    /// nothing stays unanswered.
    pub(crate) fn drain_if_closed(&self) {
        if self.core.is_closed() {
            self.core.drain();
            // The worker may not have seen yet that it is to end, and what would have
            // woken it may just have been drained.
            self.wake();
        }
    }

    /// Wakes the worker if it sleeps. With a full queue it does not.
    fn wake(&self) {
        let (Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) =
            self.queue.try_send(Message::Wake);
    }

    pub(crate) fn close(&self) -> Result<(), Error> {
        if !self.core.shut(Ended::Closed, &Error::closed()) {
            return Ok(());
        }
        self.drain_if_closed();
        // Nothing is ever sent: the worker drops its end when the connection is gone.
        match self.core.worker_gone.recv_timeout(CLOSE_PATIENCE) {
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
                let thread = self.core.state.lock().thread.take();
                if let Some(thread) = thread {
                    // It has nothing left to do but return.
                    thread.join().ok();
                }
                debug!("closed");
                Ok(())
            }
            _ => {
                warn!("closed while the database does not answer; its connection is left behind");
                Err(Error::unavailable(
                    "closed, but the database does not answer: the server frees the locks \
                     when it notices that the connection is gone",
                ))
            }
        }
    }
}

/// What the worker answers to.
pub(crate) struct Waiter {
    pub(crate) reply: Replier<Answer>,
}

pub(crate) struct State {
    pub(crate) table: Table<Waiter>,
    /// The session that grants are made on; `None` while there is none.
    pub(crate) session: Option<Arc<SessionState>>,
    /// Explicit unlocks whose result the server still has to give.
    pub(crate) unlocking: Vec<(Key, Replier<Answer>)>,
    /// Why requests are refused at once, while the database is away.
    pub(crate) refusing: Option<Error>,
    /// Which worker is in charge. One that finds another number here has been
    /// replaced, and leaves.
    pub(crate) epoch: u64,
    /// That worker's.
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) generation: u64,
    pub(crate) thread: Option<std::thread::JoinHandle<()>>,
}

pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) target: Target,
    pub(crate) counters: Counters,
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
    worker_gone: Receiver<()>,
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
                unlocking: Vec::new(),
                refusing: None,
                epoch: 0,
                pulse: Arc::default(),
                generation: 0,
                thread: None,
            }),
            settings,
            target,
            counters: Counters::default(),
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
    pub(crate) fn begin_round_trip(&self, pulse: &Pulse) {
        self.counters.round_trip();
        pulse.begin();
        if self.unguarded.swap(false, Ordering::SeqCst) {
            self.alarm.try_send(()).ok();
        }
    }

    /// Where the table's grants go, on `session`.
    pub(crate) fn desk<'a>(&'a self, session: Option<&'a Arc<SessionState>>) -> FrontDesk<'a> {
        FrontDesk {
            session,
            counters: &self.counters,
            settings: &self.settings,
        }
    }

    /// Is the database what kept somebody waiting who has waited since `start`: is it
    /// away, or has it been slow to answer for long enough to tell?
    pub(crate) fn is_out_of_touch(&self, start: Instant) -> bool {
        let state = self.state.lock();
        let slow = || {
            let since = state.pulse.since()?;
            Some(clock::now().saturating_sub(since) >= clock::nanos(SLOW))
        };
        state.session.is_none() || (start.elapsed() >= SLOW && slow() == Some(true))
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
        let is_dropped = |note: &&Note| match note {
            Note::Release { grant, .. } => Some(grant.session.generation()) == current,
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
        state.lose(ended, &self.counters);
        self.counters.lost.fetch_sub(dropped, Ordering::Relaxed);
        state.dismiss(true, error);
        drop(state);
        drop(self.not_closing.lock().take());
        self.drain();
        self.alarm.try_send(()).ok();
        true
    }

    /// Answers what still arrives after the end.
    fn drain(&self) {
        while let Ok(message) = self.queue.try_recv() {
            if let Message::Acquire(Request { reply, .. }) = message {
                reply.send(Answer::Failed(Error::closed())).ok();
            }
        }
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
        let released =
            if session.is_some_and(|session| session.generation() == grant.session.generation()) {
                self.table
                    .release(grant.key, grant.id, now, &mut core.desk(session))
            } else {
                Released::Stale
            };
        if released != Released::Stale {
            core.counters.released.fetch_add(1, Ordering::Relaxed);
        }
        let Some(reply) = reply else { return };
        match released {
            Released::UnlockDue => self.unlocking.push((grant.key, reply)),
            Released::Done => drop(reply.send(Answer::Released)),
            Released::Stale => {
                let ended = grant.session.ended().unwrap_or(Ended::SessionLost);
                reply.send(Answer::Failed(Error::ended(ended))).ok();
            }
        }
    }

    /// The session is gone: every hold ends, every wait goes on.
    pub(crate) fn lose(&mut self, ended: Ended, counters: &Counters) {
        if let Some(session) = self.session.take() {
            session.trip(ended);
        }
        let lost = self.table.lose();
        counters.lost.fetch_add(lost as u64, Ordering::Relaxed);
        for (_, reply) in self.unlocking.drain(..) {
            reply.send(Answer::Failed(Error::ended(ended))).ok();
        }
    }

    /// The database is away: tells those who are not to wait for it, now and until
    /// `refusing` is taken back.
    pub(crate) fn refuse(&mut self, error: Error, settings: &Settings) {
        self.dismiss(!settings.wait_while_unavailable, &error);
        self.refusing = Some(error);
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

    fn contended(&mut self) {
        self.counters.contended.fetch_add(1, Ordering::Relaxed);
    }
}
