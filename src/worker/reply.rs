//! Replies from the worker to one caller each, from a pool.
//!
//! A reply is a one-slot channel and a ticket. Because of the slot, answering never waits for the
//! caller to be scheduled. The ticket decides, once, between "the worker answered" and "the caller
//! gave up": the side that changes it first wins. So the worker notices that a caller has left, and
//! takes its grant back, and a late answer cannot reach the next call that uses the same slot,
//! because that call has the next ticket.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use object_pool::{Pool, Reusable};

use super::attempts::Attempts;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::thread::{self, Thread};

/// Slots allocated in advance.
const SEED: usize = 16;

/// How often a caller yields before it sleeps. With many callers that is often long enough for the
/// answer, and saves the worker the wake-up.
const YIELDS: u32 = 6;

/// How long a caller goes on yielding while at most [`FEW`] calls have no answer: two to four round
/// trips to a server on the same machine. To sleep and be woken costs as much, and more where the
/// processor goes idle.
const SPIN_LIMIT: Duration = match cfg!(all(test, distlock_model)) {
    false => Duration::from_micros(200),
    true => Duration::ZERO,
};

/// So many callers are awake when their answers come, and ask again at once.
pub(super) const FEW: usize = 16;

/// The two states of a ticket; each use of a slot takes the next even number.
const OPEN: u64 = 0;
const SETTLED: u64 = 1;

/// What comes through a slot.
enum Delivery<T> {
    Answer(T),
    /// The request was dropped: there will be no answer.
    Dropped,
}

/// Why a caller stops waiting.
enum Stop {
    TimedOut,
    Interrupted,
}

struct Slot<T> {
    ticket: AtomicU64,
    /// The last ticket whose request was refused at least once.
    refused: AtomicU64,
    sender: Sender<Delivery<T>>,
    receiver: Receiver<Delivery<T>>,
    calls: Arc<Calls>,
}

impl<T> Slot<T> {
    fn new(calls: &Arc<Calls>) -> Arc<Self> {
        let (sender, receiver) = bounded(1);
        Arc::new(Slot {
            calls: Arc::clone(calls),
            ticket: AtomicU64::new(SETTLED),
            refused: AtomicU64::new(SETTLED),
            sender,
            receiver,
        })
    }

    /// True for the first of the two sides.
    fn settle(&self, ticket: u64) -> bool {
        let is_first = self
            .ticket
            .compare_exchange(
                ticket | OPEN,
                ticket | SETTLED,
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .is_ok();
        if is_first {
            self.calls.unanswered.fetch_sub(1, Ordering::Relaxed);
        }
        is_first
    }
}

/// The slots that are free for the next calls. Grows to the largest number of calls that were ever
/// in progress at once, and never blocks.
pub(crate) struct ReplyPool<T> {
    slots: Pool<Arc<Slot<T>>>,
    calls: Arc<Calls>,
}

/// The calls of a manager that wait for a reply. Shared by all of its pools.
#[derive(Default)]
pub(crate) struct Calls {
    /// Those that have not returned yet.
    under_way: AtomicUsize,
    /// Those of them that have no answer yet.
    unanswered: AtomicUsize,
    /// To spin before the sleep. In vain where the server is farther away, or the lock is taken.
    spins: Attempts,
}

impl Calls {
    /// How many have no answer yet. Each counts a moment before its request is sent.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }
}

impl<T> ReplyPool<T> {
    pub(crate) fn new(calls: Arc<Calls>) -> Self {
        ReplyPool {
            slots: Pool::new(SEED, || Slot::new(&calls)),
            calls,
        }
    }

    /// Both ends of a reply.
    pub(crate) fn open(&self) -> (PendingReply<'_, T>, Replier<T>) {
        let slot = self.slots.pull(|| Slot::new(&self.calls));
        // No other thread changes a settled ticket: a plain load and store will do.
        let ticket = (slot.ticket.load(Ordering::Acquire) | SETTLED) + 1;
        slot.ticket.store(ticket | OPEN, Ordering::Release);
        let replier = Replier {
            slot: Arc::clone(&slot),
            ticket,
            caller: thread::current(),
        };
        self.calls.under_way.fetch_add(1, Ordering::Relaxed);
        self.calls.unanswered.fetch_add(1, Ordering::Relaxed);
        let pending = PendingReply {
            pool: self,
            slot,
            ticket,
        };
        (pending, replier)
    }
}

/// The worker's end. Dropped without an answer, it wakes the caller with [`Waited::Dropped`].
pub(crate) struct Replier<T> {
    slot: Arc<Slot<T>>,
    ticket: u64,
    /// The waiting thread: only the one that opened the reply waits for it.
    caller: Thread,
}

impl<T> Replier<T> {
    /// Answers without blocking. Returns the answer if the caller has left.
    pub(crate) fn send(self, answer: T) -> Result<(), T> {
        if self.slot.settle(self.ticket) {
            self.put(Delivery::Answer(answer));
            Ok(())
        } else {
            Err(answer)
        }
    }

    /// Notes that the lock was found taken, for a caller that times out later.
    pub(crate) fn note_refusal(&self) {
        // The slot may belong to a later call by now, whose note must not be lost.
        self.slot.refused.fetch_max(self.ticket, Ordering::AcqRel);
    }

    fn put(&self, delivery: Delivery<T>) {
        // The slot is empty: each ticket has one answer, which its caller takes.
        self.slot.sender.try_send(delivery).ok();
        self.caller.unpark();
    }

    /// The thread that waits for the answer.
    pub(crate) fn caller(&self) -> Thread {
        self.caller.clone()
    }

    /// True if the caller has left.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.slot.ticket.load(Ordering::Acquire) != self.ticket | OPEN
    }
}

impl<T> Drop for Replier<T> {
    fn drop(&mut self) {
        if self.slot.settle(self.ticket) {
            self.put(Delivery::Dropped);
        }
    }
}

/// How a wait for a reply ended.
pub(crate) enum Waited<T> {
    Answered(T),
    /// The worker's end was dropped: there will be no answer.
    Dropped,
    /// The deadline passed. The caller has left, and the worker can see it. `refused` is true if
    /// the lock had been found taken before.
    TimedOut {
        refused: bool,
    },
    /// The interrupting channel disconnected. The caller has left.
    Interrupted,
}

impl<T> From<Delivery<T>> for Waited<T> {
    fn from(delivery: Delivery<T>) -> Self {
        match delivery {
            Delivery::Answer(answer) => Waited::Answered(answer),
            Delivery::Dropped => Waited::Dropped,
        }
    }
}

/// The caller's end.
pub(crate) struct PendingReply<'pool, T> {
    pool: &'pool ReplyPool<T>,
    slot: Reusable<'pool, Arc<Slot<T>>>,
    ticket: u64,
}

impl<T> PendingReply<'_, T> {
    /// Waits for the answer until `deadline`, or until `interrupt` disconnects. An answer that was
    /// given before either counts.
    pub(crate) fn wait(
        self,
        deadline: Option<Instant>,
        interrupt: Option<&Receiver<Infallible>>,
    ) -> Waited<T> {
        let delivered = match (self.spin(deadline), interrupt) {
            (Some(delivery), _) => Ok(delivery),
            (None, None) => self.park(deadline).ok_or(Stop::TimedOut),
            (None, Some(interrupt)) => {
                let timeout = deadline.map_or_else(never, crossbeam_channel::at);
                select! {
                    // The slot holds both ends of its own channel: only an interrupt disconnects.
                    recv(self.slot.receiver) -> delivery => delivery.map_err(|_| Stop::Interrupted),
                    recv(interrupt) -> _ => Err(Stop::Interrupted),
                    recv(timeout) -> _ => Err(Stop::TimedOut),
                }
            }
        };
        match delivered {
            Ok(delivery) => delivery.into(),
            Err(stop) if self.slot.settle(self.ticket) => match stop {
                Stop::TimedOut => Waited::TimedOut {
                    refused: self.slot.refused.load(Ordering::Acquire) == self.ticket,
                },
                Stop::Interrupted => Waited::Interrupted,
            },
            // The worker was first: its answer is in the slot or about to be.
            Err(_) => self.park(None).map_or(Waited::Dropped, Waited::from),
        }
    }

    /// The answer, if it comes while the caller spins.
    ///
    /// Does not use the channel's `recv`, which spins first: no database answers that soon, and
    /// with 64 callers on one processor this took a quarter of it.
    fn spin(&self, deadline: Option<Instant>) -> Option<Delivery<T>> {
        for _ in 0..YIELDS {
            if let Ok(delivery) = self.slot.receiver.try_recv() {
                return Some(delivery);
            }
            thread::yield_now();
        }
        let (calls, start) = (&self.pool.calls, Instant::now());
        if !calls.spins.is_due() {
            return None;
        }
        while calls.under_way.load(Ordering::Relaxed) <= FEW {
            if let Ok(delivery) = self.slot.receiver.try_recv() {
                calls.spins.succeeded();
                return Some(delivery);
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                break;
            }
            if now.duration_since(start) >= SPIN_LIMIT {
                calls.spins.failed();
                break;
            }
            thread::yield_now();
        }
        None
    }

    /// Sleeps until the answer comes. `None` if it has not come by `deadline`.
    fn park(&self, deadline: Option<Instant>) -> Option<Delivery<T>> {
        loop {
            if let Ok(delivery) = self.slot.receiver.try_recv() {
                return Some(delivery);
            }
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => thread::park(),
                Some(left) if left.is_zero() => return None,
                Some(left) => thread::park_timeout(left),
            }
        }
    }
}

impl<T> Drop for PendingReply<'_, T> {
    fn drop(&mut self) {
        self.pool.calls.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, distlock_model))]
mod model;
#[cfg(test)]
mod tests {
    use super::*;

    fn past() -> Option<Instant> {
        Some(Instant::now())
    }

    #[test]
    fn an_answer_reaches_its_caller_and_the_slot_is_used_again() {
        let pool = ReplyPool::new(Arc::default());
        for n in 0..100 {
            let (pending, replier) = pool.open();
            assert!(replier.send(n).is_ok());
            assert!(matches!(pending.wait(None, None), Waited::Answered(m) if m == n));
            assert_eq!(pool.slots.len(), SEED);
        }
    }

    #[test]
    fn a_late_answer_comes_back_and_never_reaches_the_next_call() {
        let pool = ReplyPool::new(Arc::default());
        let (pending, late) = pool.open();
        assert!(matches!(
            pending.wait(past(), None),
            Waited::TimedOut { refused: false }
        ));
        let (pending, replier) = pool.open();
        assert!(Arc::ptr_eq(&late.slot, &replier.slot));
        assert!(late.is_abandoned());
        assert_eq!(late.send("late"), Err("late"));
        assert!(replier.send("own").is_ok());
        assert!(matches!(pending.wait(None, None), Waited::Answered("own")));
    }

    #[test]
    fn a_dropped_request_wakes_its_caller() {
        let pool = ReplyPool::<()>::new(Arc::default());
        let (pending, replier) = pool.open();
        drop(replier);
        assert!(matches!(pending.wait(None, None), Waited::Dropped));
        // Also after the deadline: the slot goes back empty.
        let (pending, replier) = pool.open();
        drop(replier);
        assert!(matches!(pending.wait(past(), None), Waited::Dropped));
        assert!(
            pool.slots
                .pull(|| Slot::new(&pool.calls))
                .receiver
                .is_empty()
        );
    }

    #[test]
    fn an_interrupt_ends_the_wait() {
        let pool = ReplyPool::<()>::new(Arc::default());
        let (pending, _replier) = pool.open();
        let (sender, interrupt) = bounded(0);
        drop(sender);
        let far = Instant::now() + Duration::from_secs(3600);
        assert!(matches!(
            pending.wait(Some(far), Some(&interrupt)),
            Waited::Interrupted
        ));
    }
}
