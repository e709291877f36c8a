//! The one thread that talks to the database, and what connects it with the callers.
//!
//! Each iteration collects the requests that have arrived meanwhile, makes one batch of them,
//! with at most one operation for each key, does the batch in one round trip, and answers. The
//! worker never waits for a caller, nor for a connect: another thread connects, so that requests
//! are still answered while the database is away.
//!
//! ```text
//!   callers            Handle ── requests, control messages ──► Mailbox ──► Worker ──► Session
//!      ▲                  │                                                   │
//!      └───── reply ──────┴──── State: Table, Lane, Status, Events ◄──────────┘
//!                                             ▲
//!                                          watchdog
//! ```
//!
//! The connection is in one of three states, which [`Worker::iterate`] acts on:
//!
//! ```text
//!                      the connect succeeds
//!        Connecting ───────────────────────────► Connected
//!            ▲ │                                     │ the session ends, its lease
//!     due    │ │ the connect fails                   │ expires, or it did not hold
//!            │ ▼                                     │ a lock that it was to release
//!          Backoff ◄─────────────────────────────────┘
//! ```
//!
//! A worker that is stuck in the driver is replaced by the [watchdog]: the lane's epoch
//! grows, and the old worker ends when it finds that its own is no longer the current one.

mod alarm;
pub(crate) mod answer;
mod attempts;
mod bell;
mod connection;
mod events;
mod exchange;
mod gather;
pub(crate) mod handle;
mod in_flight;
mod lane;
mod mailbox;
mod parking;
mod reply;
mod reports;
pub(crate) mod request;
mod responder;
mod shared;
mod waiter;
mod watchdog;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, select};

use self::alarm::Alarm;
pub(crate) use self::connection::Starting;
use self::connection::{Connection, Connectivity};
use self::exchange::{Exchange, MAX_BATCH, Purpose};
use self::gather::{Gather, Pause};
use self::handle::Handle;
use self::in_flight::InFlight;
use self::reports::Reports;
use self::request::{Control, Message, Request, Wanted};
use self::shared::{Shared, State};
use self::waiter::Waiter;
use crate::connect::Dialer;
use crate::connect::abandoned::Working;
use crate::error::Error;
use crate::lease::Ended;
use crate::session::{Lost, Session};

/// Starts a manager: its threads, and the first connect, whose outcome `starting` waits for.
pub(crate) fn start(dialer: Dialer, starting: Option<Starting>) -> Result<Arc<Handle>, Error> {
    let (handle, shared, alarms) = assemble(dialer);
    watchdog::spawn(&shared, alarms)?;
    spawn(
        &shared,
        &mut shared.state().lock(),
        Duration::ZERO,
        starting,
    )?;
    Ok(handle)
}

/// A manager's parts, without their threads; the alarms are for the watchdog's.
fn assemble(dialer: Dialer) -> (Arc<Handle>, Arc<Shared>, Receiver<()>) {
    let (alarm, alarms) = Alarm::new();
    let (shared, queue) = Shared::new(dialer, alarm);
    let handle = Handle::new(Arc::clone(&shared), queue);
    (Arc::new(handle), shared, alarms)
}

/// Starts the worker, which connects after `pause`.
fn spawn(
    shared: &Arc<Shared>,
    state: &mut State,
    pause: Duration,
    starting: Option<Starting>,
) -> Result<(), Error> {
    let worker = Worker::new(shared, state, Connection::new(pause, starting));
    let thread = thread::Builder::new()
        .name("distlock-worker".into())
        .spawn(move || worker.run())
        .map_err(|error| Error::unavailable("no thread for the worker").caused_by(error))?;
    // A replaced worker is not joined: dropping its handle detaches it.
    state.lane.manned_by(thread);
    Ok(())
}

struct Worker {
    shared: Arc<Shared>,
    epoch: u64,
    in_flight: Arc<InFlight>,
    connection: Connection,
    /// The outcome of a connect, for the next iteration.
    outcome: Option<Result<Session, Error>>,
    exchange: Exchange,
    reports: Reports,
    /// When the next iteration is due without a request. `None`: not at all.
    next: Option<Instant>,
    // Kept between iterations to reuse their memory.
    requests: Vec<Message>,
    control: Vec<Control>,
    gather: Gather,
    /// Dropped last, when the session is closed: until then an abandoned worker counts.
    _working: Working,
}

impl Worker {
    /// The current worker from now on.
    fn new(shared: &Arc<Shared>, state: &mut State, connection: Connection) -> Self {
        let (waiting, working) = shared.dialer().abandoned().work();
        Worker {
            shared: Arc::clone(shared),
            epoch: state.lane.epoch(),
            in_flight: state.lane.man(waiting),
            connection,
            outcome: None,
            exchange: Exchange::new(),
            reports: Reports::new(),
            next: Some(Instant::now()),
            requests: Vec::with_capacity(MAX_BATCH),
            control: Vec::new(),
            gather: Gather::default(),
            _working: working,
        }
    }

    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        // Also if a bug makes the worker panic: no caller may wait for it forever.
        let _exit = ExitGuard {
            shared: &shared,
            epoch: self.epoch,
        };
        while self.wait() && self.iterate() {}
        // Dropping them answers their callers, who must not wait for what follows.
        self.requests.clear();
        self.end_unused();
        // The session ends here, before the exit guard reports that the worker has ended.
        if let Some(session) = self.connection.into_session() {
            session.close();
        }
    }

    /// Nothing can come any more, because no handle is left: the session ends for that.
    fn end_unused(&self) {
        let mut state = self.shared.state().lock();
        if self.is_in_charge(&state) {
            self.shared
                .disconnect(&mut state, Ended::Closed, Error::closed());
            drop(state);
            self.shared.flush_events();
        }
    }

    /// Waits for something to do. False if nothing can come any more.
    fn wait(&mut self) -> bool {
        let queue = self.shared.mailbox().queue();
        let received = match (self.connection.outcome(), self.next) {
            (None, Some(next)) => queue.recv_deadline(next),
            (None, None) => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            (Some(outcome), next) => {
                let timeout = next.map_or_else(crossbeam_channel::never, crossbeam_channel::at);
                select! {
                    recv(queue) -> message => {
                        message.map_err(|_| RecvTimeoutError::Disconnected)
                    }
                    recv(outcome) -> outcome => {
                        let panicked = |_| Err(Error::unavailable("the connect has panicked"));
                        self.outcome = Some(outcome.unwrap_or_else(panicked));
                        return true;
                    }
                    recv(timeout) -> _ => Err(RecvTimeoutError::Timeout),
                }
            }
        };
        match received {
            Ok(message) => self.requests.push(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return self.linger(),
        }
        true
    }

    /// All handles are dropped, but locks may still have to be kept for their time: sleeps
    /// until the next iteration is due. False if there are none.
    fn linger(&self) -> bool {
        let is_keeping = self.shared.state().lock().table.is_keeping();
        match self.next {
            Some(next) if is_keeping => {
                thread::sleep(next.saturating_duration_since(Instant::now()));
                true
            }
            _ => false,
        }
    }

    /// One iteration. False if this worker has been replaced or the manager is closed.
    fn iterate(&mut self) -> bool {
        self.let_callers_enqueue();
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state().lock();
        if !self.is_in_charge(&state) {
            return false;
        }
        let now = Instant::now();
        if let Some(outcome) = self.outcome.take() {
            self.connection.on_outcome(&shared, &mut state, outcome);
            self.exchange.connected(now);
        }
        if let Some(ended) = state.lane.lease().and_then(|lease| lease.ended()) {
            self.disconnect(&mut state, ended, Error::lease_expired());
        }
        self.take_in(&mut state, now);
        let settings = shared.settings();
        let late = self.reports.look(&mut state, settings, now);
        self.exchange.look_up(late);
        match self.connection.connectivity() {
            Connectivity::Connected(session) => {
                if let Some(purpose) = self.exchange.plan(&mut state, session, settings, now) {
                    state.lane.begin_exchange(match purpose {
                        Purpose::Park(_, slice) => slice,
                        _ => Duration::ZERO,
                    });
                    drop(state);
                    shared.alarm().ring_if_idle();
                    let done = self
                        .exchange
                        .run(purpose, session, &shared, &self.in_flight);
                    state = shared.state().lock();
                    if !self.is_in_charge(&state) {
                        return false;
                    }
                    self.in_flight.end();
                    // Before anybody is answered.
                    self.gather.exchanged(shared.calls().unanswered());
                    self.finish_exchange(&mut state, done);
                }
            }
            Connectivity::Connecting(_) | Connectivity::Backoff { .. } => {}
        }
        self.next = match self.connection.connectivity() {
            Connectivity::Connected(session) => self.exchange.next(&state, session, settings),
            Connectivity::Connecting(_) | Connectivity::Backoff { .. } => {
                state.table.forget_idle();
                self.connection.poll(&shared, &mut state);
                self.connection.next_poll(settings, &state)
            }
        };
        let look = self.reports.next(&state, settings);
        self.next = self.next.into_iter().chain(look).min();
        let has_events = state.events.is_pending();
        drop(state);
        if has_events {
            shared.flush_events();
        }
        self.connection.answer_start(&shared);
        !shared.mailbox().is_closed()
    }

    /// Lets callers that are about to ask do so first: a larger batch amortises the round trip.
    fn let_callers_enqueue(&self) {
        // Who has just released a lock may ask for the next.
        let is_release = matches!(self.requests[..], [Message::Wake]);
        match self.gather.pause(self.exchange.round_trip()) {
            Pause::None if !is_release => {}
            Pause::None | Pause::Yield => thread::yield_now(),
            Pause::Wait(calls, longest) => {
                let start = Instant::now();
                let have_come = || self.shared.calls().unanswered() >= calls;
                while !have_come() && start.elapsed() < longest {
                    thread::yield_now();
                }
                self.gather.waited(have_come());
                if self.requests.len() + self.shared.mailbox().queue().len() < calls {
                    // The last one counts a moment before its request is in the queue.
                    thread::yield_now();
                }
            }
        }
    }

    fn is_in_charge(&self, state: &State) -> bool {
        state.lane.epoch() == self.epoch && !self.shared.mailbox().is_closed()
    }

    /// Reads the mailbox. The control messages are taken after the requests and processed
    /// before them: a thread that drops a guard and then requests the lock again finds it free.
    fn take_in(&mut self, state: &mut State, now: Instant) {
        let mailbox = self.shared.mailbox();
        let room = MAX_BATCH.saturating_sub(self.requests.len());
        self.requests.extend(mailbox.queue().try_iter().take(room));
        mailbox.take_control(&mut self.control);
        for control in self.control.drain(..) {
            match control {
                Control::Release { grant, reply } => state.release(&grant, reply, now),
                Control::Fence { grant, reply } => state.fence(&grant, reply),
                Control::Change { grant, to, reply } => state.change(&grant, to, reply),
                Control::Inquire { question, reply } => state.inquire(question, reply),
                Control::GaveUp(Wanted::One(key, _)) => state.remove_abandoned(key, now),
                Control::GaveUp(Wanted::All(keys)) => {
                    for &(key, _) in &*keys {
                        state.remove_abandoned(key, now);
                    }
                }
                Control::GaveUp(Wanted::Some(_)) => {
                    state.table.remove_abandoned_picks(Waiter::is_abandoned);
                }
            }
        }
        let waits = self.shared.settings().wait_while_unavailable;
        for message in self.requests.drain(..) {
            let Message::Acquire(request) = message else {
                continue;
            };
            let Request {
                wanted,
                wait,
                waiter,
            } = request;
            if waiter.is_abandoned() {
                continue;
            }
            if let Some(error) = state.status.refusal().filter(|_| wait.is_try() || !waits) {
                waiter.fail(error.clone());
                continue;
            }
            let (table, mut responder) = state.table_and_responder();
            match wanted {
                Wanted::One(key, mode) => {
                    table.acquire(key, mode, wait, waiter, now, &mut responder);
                }
                Wanted::All(keys) => table.acquire_all(keys, wait, waiter, now, &mut responder),
                Wanted::Some(choice) => table.pick(choice, waiter, now),
            }
        }
    }

    fn finish_exchange(&mut self, state: &mut State, done: Result<(), Lost>) {
        if let Err(Lost(error)) = done {
            return self.disconnect(state, Ended::SessionLost, error);
        }
        if let Some(ended) = state.lane.lease().and_then(|lease| lease.ended()) {
            // The answer came too late to count.
            let error = Error::unavailable("the database answered after the lease expired");
            return self.disconnect(state, ended, error);
        }
        if let Err(error) = self.exchange.settle(state) {
            self.disconnect(state, Ended::SessionLost, error);
        }
    }

    /// The session has ended, or is given up.
    fn disconnect(&mut self, state: &mut State, ended: Ended, error: Error) {
        self.gather.exchanged(0);
        self.shared.disconnect(state, ended, error.clone());
        self.connection
            .disconnect(self.shared.settings(), state, error);
    }
}

/// Reports the end of the current worker, also if it panics.
struct ExitGuard<'a> {
    shared: &'a Shared,
    epoch: u64,
}

impl Drop for ExitGuard<'_> {
    fn drop(&mut self) {
        if self.shared.state().lock().lane.epoch() != self.epoch {
            return;
        }
        if thread::panicking() {
            let error = Error::unavailable("the lock manager's worker has panicked");
            self.shared.shut_down(Ended::SessionLost, &error);
        }
        self.shared.worker_gone().set();
    }
}

#[cfg(all(test, distlock_model))]
mod model;
