//! The handle by which managers, guards and tokens reach the shared state and its worker.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, never, select};
use tracing::{debug, warn};

use super::answer::{Changed, Grant, UnlockReply};
use super::bell::Listener;
use super::reply::{PendingReply, Replier, ReplyPool, Waited};
use super::request::{Control, Message, Request, Wanted};
use super::shared::Shared;
use super::waiter::Waiter;
use crate::config::Settings;
use crate::error::Error;
use crate::fence::Fence;
use crate::health::Health;
use crate::holder::{Holder, Question};
use crate::key::Key;
use crate::lease::{Ended, Lease};
use crate::op::{Mode, Wait};
use crate::stats::Stats;
use crate::sync::Latch;
use crate::table::Choice;

/// How long a close waits for the worker to end the connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a wait in the server's queue has begun before it is cancelled: before it waits, its
/// statement would fail.
const EARLIEST_CANCEL: Duration = Duration::from_millis(5);

/// When the last one is dropped, the queue disconnects, and the worker ends once it
/// [keeps](crate::Acquire::hold_at_least) no lock any more.
pub(crate) struct Handle {
    shared: Arc<Shared>,
    queue: Sender<Message>,
}

/// Why a request did not get into the queue.
enum Unsent {
    TimedOut,
    Interrupted,
    Closed,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>, queue: Sender<Message>) -> Self {
        Handle { shared, queue }
    }

    #[cfg(all(test, distlock_model))]
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn settings(&self) -> &Settings {
        self.shared.settings()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.shared.stats()
    }

    pub(crate) fn health(&self) -> Health {
        self.shared.health()
    }

    /// Why the last connect failed, if there has been one and none has succeeded.
    pub(crate) fn failed_start(&self) -> Option<Error> {
        self.shared.failed_start()
    }

    /// Asks for the lock once, and waits for the answer as `wait` says, or until `interrupt`
    /// is set. `None`: the lock is taken.
    pub(crate) fn acquire(
        &self,
        key: Key,
        mode: Mode,
        wait: Wait,
        interrupt: Option<&Latch>,
    ) -> Result<Option<Grant>, Error> {
        let replies = self.shared.acquire_replies();
        self.request(
            replies,
            Wanted::One(key, mode),
            Waiter::One,
            wait,
            interrupt,
        )
    }

    /// The same for all of `keys`, each once, in their order: at least one.
    pub(crate) fn acquire_all(
        &self,
        keys: Arc<[(Key, Mode)]>,
        wait: Wait,
        interrupt: Option<&Latch>,
    ) -> Result<Option<Vec<Grant>>, Error> {
        let replies = self.shared.acquire_all_replies();
        self.request(replies, Wanted::All(keys), Waiter::All, wait, interrupt)
    }

    /// Asks once for some of many locks. `None`: they are taken.
    pub(crate) fn acquire_some(
        &self,
        choice: Choice,
        wait: Wait,
        interrupt: Option<&Latch>,
    ) -> Result<Option<Vec<Grant>>, Error> {
        let replies = self.shared.acquire_all_replies();
        self.request(replies, Wanted::Some(choice), Waiter::All, wait, interrupt)
    }

    fn request<T>(
        &self,
        replies: &ReplyPool<Result<Option<T>, Error>>,
        wanted: Wanted,
        waiter: impl FnOnce(Replier<Result<Option<T>, Error>>) -> Waiter,
        wait: Wait,
        interrupt: Option<&Latch>,
    ) -> Result<Option<T>, Error> {
        if self.shared.mailbox().is_closed() {
            return Err(Error::closed());
        }
        if interrupt.is_some_and(Latch::is_set) {
            return Err(Error::cancelled());
        }
        let interrupt = interrupt.map(Latch::channel);
        let (pending, reply) = replies.open();
        let request = Message::Acquire(Request {
            wanted: wanted.clone(),
            wait,
            waiter: waiter(reply),
        });
        // A request that is not sent is dropped, and that answers `pending`.
        let sent = self.send(request, wait.deadline(), interrupt);
        self.drain_if_closed();
        let waited = pending.wait(wait.deadline(), interrupt);
        if matches!(waited, Waited::TimedOut { .. } | Waited::Interrupted) {
            self.post([Control::GaveUp(wanted)]);
        }
        match waited {
            Waited::Answered(answer) => answer,
            Waited::Interrupted => Err(Error::cancelled()),
            Waited::TimedOut { refused: true } => Ok(None),
            Waited::TimedOut { refused: false } => Err(self.shared.overdue()),
            Waited::Dropped => Err(match sent {
                Err(Unsent::TimedOut) => self.shared.overdue(),
                Err(Unsent::Interrupted) => Error::cancelled(),
                Ok(()) | Err(Unsent::Closed) => Error::closed(),
            }),
        }
    }

    /// Puts the request into the queue, and waits while that is full.
    fn send(
        &self,
        request: Message,
        deadline: Option<Instant>,
        interrupt: Option<&Receiver<Infallible>>,
    ) -> Result<(), Unsent> {
        let request = match self.queue.try_send(request) {
            Ok(()) => {
                self.interrupt();
                return Ok(());
            }
            Err(TrySendError::Disconnected(_)) => return Err(Unsent::Closed),
            Err(TrySendError::Full(request)) => request,
        };
        let no_interrupt = never();
        let interrupt = interrupt.unwrap_or(&no_interrupt);
        let timeout = deadline.map_or_else(never, crossbeam_channel::at);
        select! {
            send(self.queue, request) -> sent => {
                self.interrupt();
                sent.map_err(|_| Unsent::Closed)
            }
            recv(interrupt) -> _ => Err(Unsent::Interrupted),
            recv(self.shared.mailbox().closed()) -> _ => Err(Unsent::Closed),
            recv(timeout) -> _ => Err(Unsent::TimedOut),
        }
    }

    /// Releases a lock without blocking: straight to the next waiter if that is possible at once,
    /// otherwise through the worker.
    pub(crate) fn release(&self, grant: Grant) {
        self.release_with(grant, None);
    }

    /// Releases several locks at once.
    pub(crate) fn release_all(&self, grants: Vec<Grant>) {
        self.release_each(grants.into_iter().map(|grant| (grant, None)));
    }

    /// Releases a lock, and waits until the server has confirmed that it lasted.
    pub(crate) fn unlock(&self, grant: Grant) -> Result<(), Error> {
        let (pending, reply) = self.shared.unlock_replies().open();
        self.release_with(grant, Some(reply));
        unlocked(pending)
    }

    /// The same for several locks at once. The error of the first that has one.
    pub(crate) fn unlock_all(&self, grants: Vec<Grant>) -> Result<(), Error> {
        let replies = self.shared.unlock_replies();
        let mut pending = Vec::with_capacity(grants.len());
        self.release_each(grants.into_iter().map(|grant| {
            let (mine, reply) = replies.open();
            pending.push(mine);
            (grant, Some(reply))
        }));
        let answers: Vec<_> = pending.into_iter().map(unlocked).collect();
        answers.into_iter().collect()
    }

    /// Gives the hold of `grant` the mode `to`. `None`: it keeps its own.
    pub(crate) fn change(&self, grant: Grant, to: Mode) -> Result<Option<Changed>, Error> {
        let (pending, reply) = self.shared.change_replies().open();
        let lease = Arc::clone(&grant.lease);
        self.post([Control::Change { grant, to, reply }]);
        match pending.wait(None, None) {
            Waited::Answered(answer) => answer,
            Waited::Dropped | Waited::TimedOut { .. } | Waited::Interrupted => {
                Err(self.no_answer(&lease))
            }
        }
    }

    /// The error where the hold of a call has ended, or its token has released it.
    fn no_answer(&self, lease: &Lease) -> Error {
        match self.shared.mailbox().is_closed() {
            true => Error::closed(),
            false => Error::ended(lease.ended().unwrap_or(Ended::Cancelled)),
        }
    }

    /// Has the server show transactions that the locks of `grants` are held.
    pub(crate) fn fence(&self, grants: Vec<Grant>) -> Result<Vec<Fence>, Error> {
        let replies = self.shared.fence_replies();
        let mut pending = Vec::with_capacity(grants.len());
        let messages = grants.into_iter().map(|grant| {
            let (mine, reply) = replies.open();
            pending.push((mine, Arc::clone(&grant.lease)));
            Control::Fence { grant, reply }
        });
        self.post(messages.collect::<Vec<_>>());
        let wait =
            |(pending, lease): (PendingReply<'_, _>, Arc<Lease>)| match pending.wait(None, None) {
                Waited::Answered(answer) => answer,
                Waited::Dropped | Waited::TimedOut { .. } | Waited::Interrupted => {
                    Err(self.no_answer(&lease))
                }
            };
        let answers: Vec<_> = pending.into_iter().map(wait).collect();
        answers.into_iter().collect()
    }

    /// True if a thread of this manager waits for the lock of `key`, which another one holds.
    pub(crate) fn is_awaited(&self, key: Key) -> bool {
        self.shared.state().lock().table.is_awaited(key)
    }

    /// Asks the server about holders.
    pub(crate) fn inquire(&self, question: Question) -> Result<Vec<Holder>, Error> {
        let (pending, reply) = self.shared.holders_replies().open();
        self.post([Control::Inquire { question, reply }]);
        match pending.wait(None, None) {
            Waited::Answered(answer) => answer,
            Waited::Dropped | Waited::TimedOut { .. } | Waited::Interrupted => Err(Error::closed()),
        }
    }

    fn release_with(&self, grant: Grant, reply: Option<Replier<UnlockReply>>) {
        let key = grant.key;
        self.hand_in(grant, reply);
        self.shared.bell().ring([key]);
    }

    fn hand_in(&self, grant: Grant, reply: Option<Replier<UnlockReply>>) {
        // A lock that is kept for a time needs the worker, which releases it then.
        if grant.keep_until.is_none()
            && let Some(mut state) = self.shared.state().try_lock()
            && state.table.is_awaited(grant.key)
            // A lock that has ended cannot be handed on.
            && grant.lease.ended().is_none()
        {
            state.release(&grant, reply, Instant::now());
            // Events are the worker's to dispatch: a drop never waits for an observer.
            let needs_worker =
                state.table.has_ready() || state.lane.has_unlocks() || state.events.is_pending();
            drop(state);
            if needs_worker {
                self.wake();
            }
        } else {
            self.post([Control::Release { grant, reply }]);
        }
    }

    /// Several locks at once: those of a set are given back in one message, but where a thread of
    /// this manager waits for one of them.
    fn release_each(&self, locks: impl Iterator<Item = (Grant, Option<Replier<UnlockReply>>)>) {
        let (awaited, others): (Vec<_>, Vec<_>) = {
            let state = self.shared.state().try_lock();
            let table = state.as_ref().map(|state| &state.table);
            locks.partition(|(grant, _)| table.is_some_and(|table| table.is_awaited(grant.key)))
        };
        let keys: Vec<_> = others.iter().map(|(grant, _)| grant.key).collect();
        let message = |(grant, reply)| Control::Release { grant, reply };
        self.post(others.into_iter().map(message));
        self.shared.bell().ring(keys);
        for (grant, reply) in awaited {
            self.release_with(grant, reply);
        }
    }

    /// Rings when a lock of `keys` is released here.
    pub(crate) fn listen(&self, keys: Arc<[Key]>) -> Listener<'_> {
        self.shared.bell().listen(keys)
    }

    /// Posts control messages to the worker without waiting for room.
    fn post(&self, controls: impl IntoIterator<Item = Control>) {
        if self.shared.mailbox().post(controls) {
            self.wake();
        }
        self.drain_if_closed();
    }

    /// Answers what was sent after the close. Each sender calls this after sending, so that nothing
    /// stays unanswered.
    fn drain_if_closed(&self) {
        if self.shared.mailbox().is_closed() {
            self.shared.mailbox().drain();
            // The worker may not have noticed the close yet, and the message that would have woken
            // it may just have been drained.
            self.wake();
        }
    }

    /// Wakes the worker if it sleeps. While the queue is full it does not sleep.
    fn wake(&self) {
        let (Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) =
            self.queue.try_send(Message::Wake);
        self.interrupt();
    }

    /// Wakes the worker if it waits in the server's queue.
    fn interrupt(&self) {
        let Some(slice) = self.shared.parking().interrupt() else {
            return;
        };
        let state = self.shared.state().lock();
        // A worker that is replaced takes its slice and its session's canceller with it.
        let is_current = self.shared.parking().is_in(slice);
        let canceller = state.lane.canceller().filter(|_| is_current);
        drop(state);
        if let Some(canceller) = canceller {
            let shared = Arc::clone(&self.shared);
            let cancelling = shared.parking().cancelling();
            let pause = EARLIEST_CANCEL.saturating_sub(self.shared.parking().age());
            canceller.cancel_while(pause, move || {
                let _until_its_end = &cancelling;
                shared.parking().is_in(slice)
            });
        }
    }

    /// Shuts the manager down. False if that was done already.
    pub(super) fn shut_down(&self) -> bool {
        let is_first = self.shared.shut_down(Ended::Closed, &Error::closed());
        if is_first {
            self.drain_if_closed();
        }
        is_first
    }

    /// Shuts the manager down, and waits for its worker.
    pub(crate) fn close(&self) -> Result<(), Error> {
        if !self.shut_down() {
            return Ok(());
        }
        // The worker sets it when the connection is gone.
        let gone = self.shared.worker_gone().channel();
        match gone.recv_timeout(CLOSE_TIMEOUT) {
            Err(RecvTimeoutError::Disconnected) => {
                let thread = self.shared.state().lock().lane.take_thread();
                if let Some(thread) = thread {
                    // It has nothing left to do but return.
                    thread.join().ok();
                }
                debug!("closed");
                Ok(())
            }
            _ => {
                warn!("closed, but the database does not answer; its connection is abandoned");
                Err(Error::unavailable(
                    "closed, but the database does not answer: the server frees the locks \
                     when it notices that the connection is gone",
                ))
            }
        }
    }
}

/// Waits for the answer to an unlock.
fn unlocked(pending: PendingReply<'_, UnlockReply>) -> UnlockReply {
    match pending.wait(None, None) {
        Waited::Answered(answer) => answer,
        Waited::Dropped | Waited::TimedOut { .. } | Waited::Interrupted => {
            Err(Error::unavailable("the unlock got no answer"))
        }
    }
}
