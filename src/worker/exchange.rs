//! Exchanges with the server: their purposes, when the next is due, and what their outcomes change.

use std::thread;
use std::time::{Duration, Instant};

use super::answer::HoldersReply;
use super::events::Event;
use super::in_flight::InFlight;
use super::shared::{Shared, State};
use crate::backoff::Jitter;
use crate::config::Settings;
use crate::error::Error;
use crate::holder::Question;
use crate::key::Key;
use crate::lease::{heartbeat_pause, response_limit};
use crate::op::{Action, Op, Outcome, Pick, Picked};
use crate::session::others::OtherSession;
use crate::session::parked::Parked;
use crate::session::{Lost, Session};
use crate::table::OnlyWait;
use crate::table::late::Late;

/// The most operations in one batch, and the most requests read for it.
pub(super) const MAX_BATCH: usize = 1024;

#[derive(Clone)]
pub(super) enum Purpose {
    Batch,
    Heartbeat,
    /// The session is about to stay silent for long.
    DisarmLease,
    /// All there is to do is to wait for one lock: in the server's queue, for so long.
    Park(Op, Duration),
    /// A cancel of the last wait may still come.
    AbsorbCancel,
    /// Somebody waits for long.
    LookUp(Key),
    /// Somebody asks about holders.
    Inquire(Question),
    /// Some of many locks.
    Pick,
}

/// How long one wait in the server's queue lasts: below `deadlock_timeout`, whose default of one
/// second is when `log_lock_waits` reports it, and short for the statements that wait for its
/// snapshot.
const SLICE: Duration = Duration::from_millis(950);

/// Shorter ones are not worth their statement.
const SHORTEST_SLICE: Duration = Duration::from_millis(20);

/// How long to wait for a cancel to be sent that is still expected.
const SENDING: Duration = Duration::from_millis(200);

/// For how long nothing else must have been asked after a wait was interrupted: an interrupt costs a
/// connection.
const UNDISTURBED: Duration = Duration::from_millis(50);

/// Nor are those shorter than so many round trips: to interrupt a wait takes several.
const ROUND_TRIPS: u32 = 20;

pub(super) struct Exchange {
    // Reused by each exchange, to save allocations.
    ops: Vec<Op>,
    outcomes: Vec<Outcome>,
    /// When the last successful exchange began.
    last_contact: Instant,
    /// How long batches take, smoothed.
    round_trip: Duration,
    /// A wait was interrupted, but ended otherwise.
    expects_cancel: bool,
    /// Waits for which to look up who has the lock; with the answer, for the first one.
    lookups: Vec<Late>,
    others: Option<Vec<OtherSession>>,
    /// The answer to an inquiry.
    holders: Option<HoldersReply>,
    /// Some of many locks, which are to be asked for, and those that the server has given.
    pick: Option<Pick>,
    picked: Option<Result<Picked, Error>>,
    /// True if the last plan was a question: they are asked in turn with what callers wait for.
    asks: bool,
    /// Since there are other things to do: not to wait in the server's queue before this.
    parks_from: Instant,
    /// True if the last exchange has shown that the session has its locks.
    confirms: bool,
    jitter: Jitter,
}

impl Exchange {
    pub(super) fn new() -> Self {
        Exchange {
            ops: Vec::with_capacity(MAX_BATCH),
            outcomes: Vec::with_capacity(MAX_BATCH),
            last_contact: Instant::now(),
            round_trip: Duration::ZERO,
            expects_cancel: false,
            lookups: Vec::new(),
            others: None,
            holders: None,
            pick: None,
            picked: None,
            asks: false,
            parks_from: Instant::now(),
            confirms: false,
            jitter: Jitter::random(),
        }
    }

    /// Notes a new session, which has just answered.
    pub(super) fn connected(&mut self, now: Instant) {
        self.last_contact = now;
        self.expects_cancel = false;
        self.lookups.clear();
    }

    /// What is left of an exchange that was not settled, because its session has ended, says nothing
    /// of the next one.
    fn clear(&mut self) {
        self.ops.clear();
        self.outcomes.clear();
        self.others = None;
        self.holders = None;
        self.pick = None;
        self.picked = None;
    }

    /// Has the server asked who has the locks that are waited for.
    pub(super) fn look_up(&mut self, waits: Vec<Late>) {
        self.lookups.extend(waits);
    }

    /// How long batches take.
    pub(super) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Plans the exchange that is due now, if any.
    pub(super) fn plan(
        &mut self,
        state: &mut State,
        session: &Session,
        settings: &Settings,
        now: Instant,
    ) -> Option<Purpose> {
        self.clear();
        if self.expects_cancel {
            return Some(Purpose::AbsorbCancel);
        }
        let question = match (state.lane.inquiry(), self.lookups.first()) {
            (Some(question), _) => Some(Purpose::Inquire(question.clone())),
            (None, Some(wait)) => Some(Purpose::LookUp(wait.key)),
            (None, None) => None,
        };
        self.asks = !self.asks && question.is_some();
        if self.asks {
            return question;
        }
        if self.plan_pick(state) {
            return Some(Purpose::Pick);
        }
        let wait = only_wait(state, session);
        if let Some(wait) = &wait
            && wait.are_told
            && question.is_none()
            && let Some(longest) = self.longest_slice(wait, settings, now)
        {
            state.events.record_batch(1);
            state.table.parks();
            return Some(Purpose::Park(wait.op, self.jitter.shorten(longest)));
        }
        match wait {
            // A later waiter may not have the time of a slice.
            Some(wait) if !wait.are_told => self.ops.push(wait.op),
            _ => self.plan_batch(state, now),
        }
        if !self.ops.is_empty() {
            state.events.record_batch(self.ops.len());
            return Some(Purpose::Batch);
        }
        if self.plan_pick(state) {
            return Some(Purpose::Pick);
        }
        if self
            .contact_due(state, session, settings)
            .is_none_or(|due| now < due)
        {
            return None;
        }
        // A transaction that is not needed any more ends in a heartbeat.
        let is_idle = !state.is_active() && session.transaction_limit().is_none();
        match !is_idle || state.lane.has_unlocks() {
            true => Some(Purpose::Heartbeat),
            false => Some(Purpose::DisarmLease),
        }
    }

    /// How long `wait` may last in the server's queue, if that is worth it. It ends well before it is
    /// taken for no answer, and before a waiter gives up: who does so interrupts it.
    fn longest_slice(
        &self,
        wait: &OnlyWait,
        settings: &Settings,
        now: Instant,
    ) -> Option<Duration> {
        if now < self.parks_from {
            return None;
        }
        let limit = response_limit(settings.lease, settings.response_timeout) / 3;
        let left = wait
            .deadline
            .map(|at| at.saturating_duration_since(now) / 2);
        let longest = left.into_iter().fold(SLICE.min(limit), Duration::min);
        let shortest = SHORTEST_SLICE.max(self.round_trip * ROUND_TRIPS);
        (longest >= shortest).then_some(longest)
    }

    /// True if the server is to be asked for some of many locks now.
    fn plan_pick(&mut self, state: &mut State) -> bool {
        let (table, mut responder) = state.table_and_responder();
        self.pick = table.plan_pick(&mut responder);
        self.pick.is_some()
    }

    pub(super) fn plan_batch(&mut self, state: &mut State, now: Instant) {
        let (table, mut responder) = state.table_and_responder();
        table.plan(now, MAX_BATCH, &mut self.ops, &mut responder);
    }

    /// When the next exchange is due if there is no batch.
    fn contact_due(
        &self,
        state: &State,
        session: &Session,
        settings: &Settings,
    ) -> Option<Instant> {
        if state.lane.has_unlocks() {
            Some(self.last_contact)
        } else if state.is_active() {
            let limit = session.transaction_limit().unwrap_or(settings.heartbeat);
            Some(self.last_contact + heartbeat_pause(settings.heartbeat.min(limit)))
        } else if let Some(limit) = session.transaction_limit() {
            Some(self.last_contact + limit)
        } else {
            let pause = session.lease().disarm_after()?;
            Some(self.last_contact + pause)
        }
    }

    /// When the next exchange is due without new messages. `None`: not at all.
    pub(super) fn next(
        &self,
        state: &State,
        session: &Session,
        settings: &Settings,
    ) -> Option<Instant> {
        let now = Instant::now();
        let wait = only_wait(state, session);
        let parks = |wait: &OnlyWait| self.longest_slice(wait, settings, now).is_some();
        if state.table.has_ready()
            || self.expects_cancel
            || !self.lookups.is_empty()
            || state.lane.inquiry().is_some()
            || wait.as_ref().is_some_and(parks)
        {
            return Some(now);
        }
        let contact = self.contact_due(state, session, settings);
        let parks_from = wait.map(|_| self.parks_from).filter(|&from| from > now);
        let retry = state.table.next_retry();
        retry.into_iter().chain(contact).chain(parks_from).min()
    }

    /// Runs the exchange, which may take as long as the server likes: the mutex of the shared state
    /// must not be held.
    pub(super) fn run(
        &mut self,
        purpose: Purpose,
        session: &mut Session,
        shared: &Shared,
        in_flight: &InFlight,
    ) -> Result<(), Lost> {
        let on_round_trip = || in_flight.next();
        self.confirms = !matches!(
            purpose,
            Purpose::LookUp(_) | Purpose::Inquire(_) | Purpose::AbsorbCancel
        );
        let started = Instant::now();
        match purpose {
            Purpose::Heartbeat => session.heartbeat(&on_round_trip)?,
            Purpose::DisarmLease => session.disarm_lease()?,
            Purpose::Batch => {
                session.apply(&self.ops, &mut self.outcomes, &on_round_trip)?;
                self.round_trip = (3 * self.round_trip + started.elapsed()) / 4;
            }
            Purpose::LookUp(key) => self.others = Some(session.others_with(key)?),
            Purpose::Inquire(question) => {
                self.holders = Some(session.inquire(&question, &on_round_trip)?);
            }
            Purpose::Pick => {
                if let Some(pick) = &self.pick {
                    self.picked = Some(session.pick(pick, &on_round_trip)?);
                }
            }
            Purpose::AbsorbCancel => {
                let end = started + SENDING;
                while shared.parking().is_cancelling() && Instant::now() < end {
                    thread::sleep(Duration::from_millis(1));
                }
                session.absorb_cancel()?;
                self.expects_cancel = false;
            }
            Purpose::Park(op, length) => {
                let has_messages = || shared.mailbox().has_messages();
                self.ops.push(op);
                let Some(slice) = shared.parking().begin(has_messages) else {
                    // As after a slice that was interrupted at once.
                    self.outcomes.push(Outcome::Refused);
                    self.confirms = false;
                    return Ok(());
                };
                let parked = session.park(op, length, &on_round_trip);
                let was_interrupted = shared.parking().end(slice);
                let Parked {
                    outcome,
                    was_cancelled,
                } = parked?;
                self.expects_cancel = was_interrupted && !was_cancelled;
                if was_interrupted {
                    self.parks_from = Instant::now() + UNDISTURBED;
                }
                self.outcomes.push(outcome);
            }
        }
        self.last_contact = started;
        Ok(())
    }

    /// Passes the outcomes to the table, and answers the unlocks that they confirm. An error if the
    /// session can no longer be trusted.
    pub(super) fn settle(&mut self, state: &mut State) -> Result<(), Error> {
        let now = Instant::now();
        if let Some(others) = self.others.take()
            && let Some(key) = self.lookups.first().map(|wait| wait.key)
        {
            for late in self.lookups.extract_if(.., |wait| wait.key == key) {
                let others = others.clone();
                state.events.record(Event::Late { late, others });
            }
        }
        if let Some(holders) = self.holders.take() {
            state.lane.answer_inquiry(holders);
        }
        if let Some(picked) = self.picked.take() {
            let (table, mut responder) = state.table_and_responder();
            table.settle_pick(picked, now, &mut responder);
        }
        let mut settled = Ok(());
        for (op, outcome) in self.ops.drain(..).zip(self.outcomes.drain(..)) {
            match op.action {
                Action::Fence(number) => state.lane.fenced(number, &outcome),
                Action::Upgrade(id) | Action::Downgrade(id) => state.lane.changed(id, &outcome),
                _ => {}
            }
            let (table, mut responder) = state.table_and_responder();
            if let Err(stray) = table.settle(op, outcome, now, &mut responder) {
                settled = Err(stray);
            }
        }
        if let Err(stray) = settled {
            // What else is inconsistent cannot be known: give the session up.
            return Err(Error::unavailable(format!(
                "the session did not hold the lock {} that it released",
                stray.0
            )));
        }
        if !self.confirms {
            return Ok(());
        }
        let State { table, lane, .. } = state;
        lane.confirm_unlocks(|key| table.is_unlock_due(key));
        Ok(())
    }

    #[cfg(all(test, distlock_model))]
    pub(super) fn succeed(&mut self) {
        self.confirms = true;
        self.outcomes
            .extend(self.ops.iter().map(|_| Outcome::Done(None)));
    }
}

/// What there is to wait for, if that is all, and the server's queue is the place for it.
fn only_wait(state: &State, session: &Session) -> Option<OnlyWait> {
    let can_park = session.can_park() && !state.lane.has_unlocks();
    can_park.then(|| state.table.only_wait()).flatten()
}
