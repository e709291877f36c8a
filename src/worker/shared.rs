//! The state that a manager's threads share.
//!
//! The worker does all the work, but owns nothing that other threads need while it hangs in the
//! driver: it holds the state's mutex only between two round trips. So `close` and the watchdog can
//! answer all callers without the worker, and each caller enforces its own deadline.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;

use super::alarm::Alarm;
use super::answer::{
    AcquireAllReply, AcquireReply, ChangeReply, Changed, FenceReply, Grant, HoldersReply,
    UnlockReply,
};
use super::bell::Bell;
use super::events::{self, Event, Events};
use super::lane::Lane;
use super::mailbox::Mailbox;
use super::parking::Parking;
use super::reply::{Calls, Replier, ReplyPool};
use super::request::Message;
use super::responder::Responder;
use super::waiter::Waiter;
use crate::backoff::Jitter;
use crate::config::Settings;
use crate::connect::Dialer;
use crate::error::Error;
use crate::health::{Health, Status};
use crate::holder::Question;
use crate::key::Key;
use crate::lease::Ended;
use crate::observer::Released;
use crate::op::Mode;
use crate::stats::Stats;
use crate::sync::{Latch, Mutex};
use crate::table::{Change, Limits, Table, Whom};

/// The state that one mutex guards.
pub(crate) struct State {
    pub(super) table: Table<Waiter>,
    pub(super) lane: Lane,
    /// Since when there has been a session, or why there is none.
    pub(super) status: Status,
    pub(super) events: Events,
}

pub(crate) struct Shared {
    dialer: Dialer,
    mailbox: Mailbox,
    acquire_replies: ReplyPool<AcquireReply>,
    acquire_all_replies: ReplyPool<AcquireAllReply>,
    unlock_replies: ReplyPool<UnlockReply>,
    fence_replies: ReplyPool<FenceReply>,
    change_replies: ReplyPool<ChangeReply>,
    holders_replies: ReplyPool<HoldersReply>,
    calls: Arc<Calls>,
    state: Mutex<State>,
    parking: Parking,
    bell: Bell,
    /// Wakes the watchdog.
    alarm: Alarm,
    /// Set when the worker in charge has ended.
    worker_gone: Latch,
}

impl Shared {
    /// The shared state, and the callers' end of the queue.
    pub(crate) fn new(dialer: Dialer, alarm: Alarm) -> (Arc<Self>, Sender<Message>) {
        let settings = dialer.settings();
        let limits = Limits {
            max_locks: settings.max_locks,
            retry_min: settings.retry_min,
            retry_max: settings.retry_max,
            fenced: settings.fencing.is_some(),
        };
        let (mailbox, queue) = Mailbox::new(settings.queue_capacity);
        let events = Events::new(settings.observer.as_ref());
        let calls = Arc::default();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                table: Table::new(limits, Jitter::random()),
                lane: Lane::default(),
                status: Status::starting(),
                events,
            }),
            dialer,
            mailbox,
            acquire_replies: ReplyPool::new(Arc::clone(&calls)),
            acquire_all_replies: ReplyPool::new(Arc::clone(&calls)),
            unlock_replies: ReplyPool::new(Arc::clone(&calls)),
            fence_replies: ReplyPool::new(Arc::clone(&calls)),
            change_replies: ReplyPool::new(Arc::clone(&calls)),
            holders_replies: ReplyPool::new(Arc::clone(&calls)),
            calls,
            parking: Parking::default(),
            bell: Bell::default(),
            alarm,
            worker_gone: Latch::default(),
        });
        (shared, queue)
    }

    pub(crate) fn settings(&self) -> &Settings {
        self.dialer.settings()
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// The calls that wait for a reply.
    pub(super) fn calls(&self) -> &Calls {
        &self.calls
    }

    pub(super) fn acquire_replies(&self) -> &ReplyPool<AcquireReply> {
        &self.acquire_replies
    }

    pub(super) fn acquire_all_replies(&self) -> &ReplyPool<AcquireAllReply> {
        &self.acquire_all_replies
    }

    pub(super) fn unlock_replies(&self) -> &ReplyPool<UnlockReply> {
        &self.unlock_replies
    }

    pub(super) fn fence_replies(&self) -> &ReplyPool<FenceReply> {
        &self.fence_replies
    }

    pub(super) fn change_replies(&self) -> &ReplyPool<ChangeReply> {
        &self.change_replies
    }

    pub(super) fn holders_replies(&self) -> &ReplyPool<HoldersReply> {
        &self.holders_replies
    }

    pub(super) fn state(&self) -> &Mutex<State> {
        &self.state
    }

    pub(super) fn parking(&self) -> &Parking {
        &self.parking
    }

    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    pub(super) fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    pub(super) fn worker_gone(&self) -> &Latch {
        &self.worker_gone
    }

    /// Shuts down: trips every watch with `ended`, fails all waiters of the table with `error`, and
    /// answers all other requests, now and from now on, with [`Error::closed`]. False if that was
    /// done already.
    pub(super) fn shut_down(&self, ended: Ended, error: &Error) -> bool {
        if !self.mailbox.close() {
            return false;
        }
        let mut state = self.state.lock();
        self.disconnect(&mut state, ended, error.clone());
        state.fail_waiters(Whom::All, error);
        if state.lane.is_unmanned() {
            // There is no worker to set it.
            self.worker_gone.set();
        }
        drop(state);
        self.mailbox.drain();
        self.alarm.ring();
        self.flush_events();
        true
    }

    /// Ends the session because of `cause`: every hold is lost, except those whose guards were
    /// dropped in messages that the worker has not read, which count as released. Every waiter goes
    /// on waiting.
    pub(super) fn disconnect(&self, state: &mut State, ended: Ended, cause: Error) {
        let State { lane, events, .. } = state;
        let mut released = 0;
        self.for_each_unread_drop(lane, |grant| {
            let (key, hold) = (grant.key, grant.id);
            events.record(Event::Released(Released { key, hold }));
            released += 1;
        });
        state.status.away(cause.clone(), Instant::now());
        let ended = state.lane.disconnected(ended);
        let held = state.table.disconnected().saturating_sub(released);
        if let Some(ended) = ended {
            let event = Event::Disconnected { ended, cause, held };
            state.events.record(event);
        }
    }

    /// Calls `each` for the session's locks whose guards were dropped in messages that the worker
    /// has not read.
    fn for_each_unread_drop(&self, lane: &Lane, each: impl FnMut(&Grant)) {
        if let Some(lease) = lane.lease() {
            self.mailbox
                .for_each_drop(lease.generation(), Instant::now(), each);
        }
    }

    /// Dispatches the recorded events to the log and the observer, unless another thread is doing
    /// so. The mutex must not be held.
    pub(super) fn flush_events(&self) {
        if !self.state.lock().events.begin_dispatch() {
            return;
        }
        let observer = self.settings().observer.as_deref();
        let mut batch = Vec::new();
        while self.state.lock().events.next_to_dispatch(&mut batch) {
            for event in batch.drain(..) {
                events::dispatch(&event, self.dialer.server(), observer);
            }
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let state = self.state.lock();
        // Guards that were dropped count as such before the worker has read of it.
        let mut dropped = 0;
        self.for_each_unread_drop(&state.lane, |_| dropped += 1);
        let mut stats = state.events.stats();
        stats.held = state.table.held().saturating_sub(dropped) as u64;
        stats.waiting = state.table.waiting() as u64;
        stats.released += dropped as u64;
        stats.round_trips = state.lane.in_flight().round_trips();
        stats
    }

    pub(crate) fn health(&self) -> Health {
        let state = self.state.lock();
        let lease = state.lane.lease().cloned();
        let unanswered_for = state.lane.in_flight().busy_for();
        let (since, cause) = match &state.status {
            Status::Connected { since } => (*since, None),
            Status::Away(outage) => (outage.since(), Some(outage.cause().clone())),
        };
        drop(state);
        let trusted_until = lease.as_ref().and_then(|lease| lease.trusted_until());
        let health = Health {
            connected: cause.is_none(),
            since,
            cause,
            lease_left: lease.as_ref().and_then(|lease| lease.time_left()),
            unanswered_for,
            abandoned: self.dialer.abandoned().count(),
        };
        // The lease may have expired before the worker notices.
        match trusted_until.filter(|_| lease.is_some_and(|lease| lease.ended().is_some())) {
            Some(until) => health.ended(until.elapsed(), Error::lease_expired()),
            None => health,
        }
    }

    /// The error for a caller whose deadline has passed before its request was refused even once:
    /// because of the database, it is not known whether the lock is taken.
    pub(super) fn overdue(&self) -> Error {
        match self.state.lock().status.outage() {
            Some(outage) => outage.overdue(),
            None => Error::unavailable(
                "the request was not answered within the timeout: whether the lock is taken is not \
                 known",
            ),
        }
    }

    /// Why the last connect failed, if there has been one and none has succeeded.
    pub(crate) fn failed_start(&self) -> Option<Error> {
        let state = self.state.lock();
        state.status.refusal()?;
        state.status.outage().map(|outage| outage.cause().clone())
    }
}

impl State {
    /// The table, and where its decisions go.
    pub(super) fn table_and_responder(&mut self) -> (&mut Table<Waiter>, Responder<'_>) {
        let responder = Responder::new(self.lane.lease(), &mut self.events);
        (&mut self.table, responder)
    }

    /// Callers that waited for `key`, or for a set with it, have left.
    pub(super) fn remove_abandoned(&mut self, key: Key, now: Instant) {
        let (table, mut responder) = self.table_and_responder();
        table.remove_abandoned(key, Waiter::is_abandoned, now, &mut responder);
    }

    /// Releases a guard's lock.
    pub(super) fn release(
        &mut self,
        grant: &Grant,
        reply: Option<Replier<UnlockReply>>,
        now: Instant,
    ) {
        self.lane.drop_fence(grant.id);
        let is_held = self.lane.has_made(grant) && {
            let (table, mut responder) = self.table_and_responder();
            table.release(grant.key, grant.id, grant.keep_until, now, &mut responder)
        };
        let Some(reply) = reply else { return };
        if is_held {
            self.lane.await_unlock(grant.key, reply);
        } else {
            let ended = grant.lease.ended().unwrap_or(Ended::SessionLost);
            reply.send(Err(Error::ended(ended))).ok();
        }
    }

    /// Fences a guard's hold: `reply` is answered once the server has done it, or is dropped if it
    /// does not.
    pub(super) fn fence(&mut self, grant: &Grant, reply: Replier<FenceReply>) {
        if !self.lane.has_made(grant) {
            return;
        }
        let number = self.lane.next_hold();
        match self.table.fence(grant.key, grant.id, number) {
            Some(fence) if fence.is_done => {
                reply.send(Ok(self.lane.fence(grant, fence.number))).ok();
            }
            Some(fence) => self.lane.await_fence(grant, fence.number, reply),
            None => {}
        }
    }

    /// Gives a guard's hold the mode `to`: `reply` is answered once it is known whether it has it, or
    /// is dropped if the hold is over.
    pub(super) fn change(&mut self, grant: &Grant, to: Mode, reply: Replier<ChangeReply>) {
        if !self.lane.has_made(grant) {
            return;
        }
        let unchanged = Changed { token: grant.token };
        match self.table.change(grant.key, grant.id, to) {
            Change::None => drop(reply.send(Ok(Some(unchanged)))),
            Change::Refused => drop(reply.send(Ok(None))),
            Change::Planned => self.lane.await_change(grant.id, reply),
            Change::NotHeld => {}
        }
    }

    /// Asks the server `question`; an error if there is no session to ask.
    pub(super) fn inquire(&mut self, question: Question, reply: Replier<HoldersReply>) {
        match self.status.outage() {
            None => self.lane.await_holders(question, reply),
            Some(outage) => {
                reply.send(Err(outage.cause().while_away())).ok();
            }
        }
    }

    /// The database is away because of `cause`: fails the waiters that do not wait for it, now and
    /// until there is a session.
    pub(super) fn refuse(&mut self, cause: Error, settings: &Settings) {
        let refusal = self.status.refuse(cause, Instant::now());
        let whom = match settings.wait_while_unavailable {
            true => Whom::Tries,
            false => Whom::All,
        };
        self.fail_waiters(whom, &refusal);
    }

    fn fail_waiters(&mut self, whom: Whom, error: &Error) {
        let (table, mut responder) = self.table_and_responder();
        table.fail_waiters(whom, error, Instant::now(), &mut responder);
    }

    /// True if anything is held or awaited, so that heartbeats are needed.
    pub(super) fn is_active(&self) -> bool {
        self.table.held() > 0 || self.table.waiting() > 0
    }
}
