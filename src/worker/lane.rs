//! The state that exists once: that of the worker in charge and its session.
//!
//! It is guarded by the mutex of the [shared state](super::shared), so that a close and the
//! watchdog can end a session, and replace its worker, without the worker.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::answer::{ChangeReply, Changed, FenceReply, Grant, HoldersReply, UnlockReply};
use super::in_flight::InFlight;
use super::reply::Replier;
use crate::connect::Canceller;
use crate::connect::abandoned::Waiting;
use crate::error::Error;
use crate::fence::{Fence, hold_number};
use crate::holder::Question;
use crate::key::Key;
use crate::lease::{Ended, Lease};
use crate::op::Outcome;

/// An explicit unlock. It is answered by the first successful exchange that began after it: only
/// then is it certain that the lock lasted until the unlock, even if it has been handed to the next
/// holder without the server.
struct Unlock {
    key: Key,
    reply: Replier<UnlockReply>,
    /// The number of exchanges begun before it.
    after: u64,
}

/// A guard whose hold is being fenced.
struct Fencing {
    hold: u64,
    fence: Fence,
    reply: Replier<FenceReply>,
}

#[derive(Default)]
pub(crate) struct Lane {
    /// Of the session that grants are made on; `None` while there is none.
    lease: Option<Arc<Lease>>,
    /// The second half of that session's marker.
    marker: i32,
    /// That session's, to cancel its statement in progress when it is given up.
    canceller: Option<Canceller>,
    /// The number of the last session that was requested.
    generation: u64,
    /// A counter of its holds that were fenced, begun at random: their numbers are not used again
    /// by a session that happens to have the same marker.
    fenced_holds: u32,
    /// Explicit unlocks that wait for the server's answer.
    unlocks: Vec<Unlock>,
    /// Guards that wait for another mode, by the number of their hold.
    changes: Vec<(u64, Replier<ChangeReply>)>,
    /// Guards that wait for their fence.
    fencing: Vec<Fencing>,
    /// Questions about holders that wait for the server's answer.
    inquiries: VecDeque<(Question, Replier<HoldersReply>)>,
    /// Exchanges begun on the session.
    exchanges: u64,
    /// Identifies the worker in charge. A worker that finds another number here has been replaced,
    /// and exits.
    epoch: u64,
    /// That worker's.
    in_flight: Arc<InFlight>,
    /// Marks that worker as abandoned.
    waiting: Option<Waiting>,
    thread: Option<JoinHandle<()>>,
    /// True from when a worker is abandoned until the next one has started.
    is_unmanned: bool,
}

impl Lane {
    pub(crate) fn lease(&self) -> Option<&Arc<Lease>> {
        self.lease.as_ref()
    }

    /// True if `grant` was made on the current session.
    pub(crate) fn has_made(&self, grant: &Grant) -> bool {
        let generation = grant.lease.generation();
        self.lease
            .as_ref()
            .is_some_and(|lease| lease.generation() == generation)
    }

    pub(crate) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// Notes the session that grants are made on from now on.
    pub(crate) fn connected(
        &mut self,
        lease: Arc<Lease>,
        marker: i32,
        canceller: Option<Canceller>,
    ) {
        self.lease = Some(lease);
        self.marker = marker;
        self.fenced_holds = (RandomState::new().hash_one(marker) >> 32) as u32;
        self.canceller = canceller;
    }

    /// Ends the holds of the session, which is unusable, and fails the unlocks that wait for it.
    /// Returns why they ended, which is `ended` or a cause before it, if there was a session.
    pub(crate) fn disconnected(&mut self, ended: Ended) -> Option<Ended> {
        let lease = self.lease.take();
        if let Some(lease) = &lease {
            lease.trip(ended);
        }
        for unlock in self.unlocks.drain(..) {
            unlock.reply.send(Err(Error::ended(ended))).ok();
        }
        self.fencing.clear();
        self.changes.clear();
        for (_, reply) in self.inquiries.drain(..) {
            let message = "the connection was lost before the server could tell";
            reply.send(Err(Error::unavailable(message))).ok();
        }
        lease.and_then(|lease| lease.ended())
    }

    /// Answers `reply` once the server has confirmed that the lock lasted until now.
    pub(crate) fn await_unlock(&mut self, key: Key, reply: Replier<UnlockReply>) {
        self.unlocks.push(Unlock {
            key,
            reply,
            after: self.exchanges,
        });
    }

    /// Answers `reply` once the server has fenced `grant` by `number`.
    pub(crate) fn await_fence(&mut self, grant: &Grant, number: i64, reply: Replier<FenceReply>) {
        self.fencing.push(Fencing {
            hold: grant.id,
            fence: self.fence(grant, number),
            reply,
        });
    }

    /// The fence of `grant` by `number`.
    pub(crate) fn fence(&self, grant: &Grant, number: i64) -> Fence {
        Fence {
            key: grant.key,
            mode: grant.mode,
            hold: number,
            marker: self.marker,
        }
    }

    /// A number for a hold that is to be fenced.
    pub(crate) fn next_hold(&mut self) -> i64 {
        self.fenced_holds = self.fenced_holds.wrapping_add(1);
        hold_number(self.marker, self.fenced_holds)
    }

    /// The server has fenced the hold by `number`, or could not.
    pub(crate) fn fenced(&mut self, number: i64, outcome: &Outcome) {
        let is_it = |fencing: &mut Fencing| fencing.fence.hold == number;
        for Fencing { fence, reply, .. } in self.fencing.extract_if(.., is_it) {
            let answer = match outcome {
                Outcome::Done(_) => Ok(fence),
                Outcome::Failed(error) => Err(error.clone()),
                _ => Err(Error::unavailable(
                    "the server could not fence the hold now",
                )),
            };
            reply.send(answer).ok();
        }
    }

    /// Answers `reply` once the server has changed the mode of the hold with number `id`, or has
    /// not.
    pub(crate) fn await_change(&mut self, id: u64, reply: Replier<ChangeReply>) {
        self.changes.push((id, reply));
    }

    /// The server has changed the mode of the hold with number `id`, or has not.
    pub(crate) fn changed(&mut self, id: u64, outcome: &Outcome) {
        for (_, reply) in self.changes.extract_if(.., |(hold, _)| *hold == id) {
            let answer = match outcome {
                Outcome::Done(token) => Ok(Some(Changed { token: *token })),
                Outcome::Failed(error) => Err(error.clone()),
                _ => Ok(None),
            };
            reply.send(answer).ok();
        }
    }

    /// Answers `reply` once the server has answered `question`.
    pub(crate) fn await_holders(&mut self, question: Question, reply: Replier<HoldersReply>) {
        self.inquiries.push_back((question, reply));
    }

    /// The next question about holders.
    pub(crate) fn inquiry(&self) -> Option<&Question> {
        self.inquiries.front().map(|(question, _)| question)
    }

    /// Answers that question.
    pub(crate) fn answer_inquiry(&mut self, answer: HoldersReply) {
        if let Some((_, reply)) = self.inquiries.pop_front() {
            reply.send(answer).ok();
        }
    }

    /// The hold with number `id` is over.
    pub(crate) fn drop_fence(&mut self, id: u64) {
        self.fencing.retain(|fencing| fencing.hold != id);
    }

    /// True if unlocks wait for the server's answer.
    pub(crate) fn has_unlocks(&self) -> bool {
        !self.unlocks.is_empty()
    }

    /// Answers the unlocks that the last exchange, which has succeeded, confirms, except those of
    /// keys whose unlock still `is_due` at the server.
    pub(crate) fn confirm_unlocks(&mut self, is_due: impl Fn(Key) -> bool) {
        let last = self.exchanges;
        let is_sure = |unlock: &mut Unlock| unlock.after < last && !is_due(unlock.key);
        for unlock in self.unlocks.extract_if(.., is_sure) {
            unlock.reply.send(Ok(())).ok();
        }
    }

    pub(crate) fn in_flight(&self) -> &Arc<InFlight> {
        &self.in_flight
    }

    /// Notes that the worker begins an exchange with the server, whose answer is due after `slice`.
    pub(crate) fn begin_exchange(&mut self, slice: Duration) {
        self.exchanges += 1;
        self.in_flight.begin(slice);
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What cancels the session's statement in progress.
    pub(crate) fn canceller(&self) -> Option<Canceller> {
        self.canceller.clone()
    }

    /// Prepares for a new worker, which gets an [`InFlight`] of its own and can be abandoned with
    /// `waiting`.
    pub(crate) fn man(&mut self, waiting: Waiting) -> Arc<InFlight> {
        self.in_flight = Arc::new(self.in_flight.successor());
        self.waiting = Some(waiting);
        Arc::clone(&self.in_flight)
    }

    /// Notes the new worker's thread.
    pub(crate) fn manned_by(&mut self, thread: JoinHandle<()>) {
        self.thread = Some(thread);
        self.is_unmanned = false;
    }

    /// Gives up the worker, which is stuck: it counts as abandoned until it ends, and its results
    /// no longer have any effect. Returns what may free it.
    pub(crate) fn abandon_worker(&mut self) -> Option<Canceller> {
        self.epoch += 1;
        if let Some(waiting) = self.waiting.take() {
            waiting.leave();
        }
        self.is_unmanned = true;
        // It is not waited for, whenever it ends.
        self.thread = None;
        self.canceller.take()
    }

    pub(crate) fn is_unmanned(&self) -> bool {
        self.is_unmanned
    }

    /// The worker's thread, to be joined once.
    pub(crate) fn take_thread(&mut self) -> Option<JoinHandle<()>> {
        self.thread.take()
    }
}
