//! The way back from the worker to one caller, from a pool.
//!
//! A reply is a one-slot channel and a ticket. The slot means that answering never
//! waits for the caller to be scheduled. The ticket decides, once, between "the
//! worker answered" and "the caller gave up": whoever moves it first. So a caller
//! that left is noticed by the worker, which then takes its grant back, and a late
//! answer cannot reach the next call that uses the same slot, because that call has
//! the next ticket.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never, select};
use object_pool::{Pool, Reusable};

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::thread::{self, Thread};

/// Replies made before the first call needs one.
const SEED: usize = 16;

/// How often a caller lets others run before it sleeps. Where many are at work, that is
/// often long enough for the answer, and saves the worker the waking.
const YIELDS: u32 = 6;

/// For how long a caller goes on like that while there are only a [`FEW`]: about two round
/// trips to a server on the same machine. To sleep and be woken costs as much, and more
/// where the processor falls asleep as well.
const PATIENCE: Duration = match cfg!(all(test, distlock_model)) {
    false => Duration::from_micros(100),
    true => Duration::ZERO,
};

const FEW: u64 = 2;

/// After a caller has done so in vain, so many others do not: the server is farther away, or
/// the lock is taken.
const DISCOURAGED: u32 = 3;

/// The two states of a ticket; each use of a slot takes the next even number.
const OPEN: u64 = 0;
const SETTLED: u64 = 1;

struct Slot<T> {
    ticket: AtomicU64,
    /// The last ticket whose request was refused at least once.
    refused: AtomicU64,
    sender: Sender<Option<T>>,
    receiver: Receiver<Option<T>>,
}

impl<T> Slot<T> {
    fn new() -> Arc<Self> {
        let (sender, receiver) = bounded(1);
        Arc::new(Slot {
            ticket: AtomicU64::new(SETTLED),
            refused: AtomicU64::new(SETTLED),
            sender,
            receiver,
        })
    }

    /// True for the one of both sides that comes first.
    fn settle(&self, ticket: u64) -> bool {
        self.ticket
            .compare_exchange(
                ticket | OPEN,
                ticket | SETTLED,
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .is_ok()
    }
}

/// Replies waiting for their next call. Grows to the largest number of calls that
/// were ever under way at once, and never blocks.
pub(crate) struct ReplyPool<T> {
    slots: Pool<Arc<Slot<T>>>,
    spinning: Arc<Spinning>,
}

/// Whether callers try for a while before they sleep, whatever they wait for.
#[derive(Default)]
pub(crate) struct Spinning {
    /// Calls that have no answer yet.
    under_way: AtomicU64,
    /// So many callers are still to sleep at once.
    discouraged: AtomicU32,
}

impl<T> ReplyPool<T> {
    pub(crate) fn new(spinning: Arc<Spinning>) -> Self {
        ReplyPool {
            slots: Pool::new(SEED, Slot::new),
            spinning,
        }
    }

    /// Both ends of a reply.
    pub(crate) fn open(&self) -> (PendingReply<'_, T>, Replier<T>) {
        let slot = self.slots.pull(Slot::new);
        // Nobody else moves a settled ticket: a plain load and store will do.
        let ticket = (slot.ticket.load(Ordering::Acquire) | SETTLED) + 1;
        slot.ticket.store(ticket | OPEN, Ordering::Release);
        let replier = Replier {
            slot: Arc::clone(&slot),
            ticket,
            caller: thread::current(),
        };
        self.spinning.under_way.fetch_add(1, Ordering::Relaxed);
        let pending = PendingReply {
            pool: self,
            slot,
            ticket,
        };
        (pending, replier)
    }
}

/// The worker's end. Dropped without an answer, it tells the caller so.
pub(crate) struct Replier<T> {
    slot: Arc<Slot<T>>,
    ticket: u64,
    /// Who waits: only this thread opens its end.
    caller: Thread,
}

impl<T> Replier<T> {
    /// Answers, without ever waiting. Gives the answer back if the caller has left.
    pub(crate) fn send(self, answer: T) -> Result<(), T> {
        if self.slot.settle(self.ticket) {
            self.put(Some(answer));
            Ok(())
        } else {
            Err(answer)
        }
    }

    /// The lock was found taken: a caller that gives up later knows that much.
    pub(crate) fn note_refusal(&self) {
        // The slot may be another call's by now, which is not to be told less.
        self.slot.refused.fetch_max(self.ticket, Ordering::AcqRel);
    }

    fn put(&self, answer: Option<T>) {
        // The slot is empty: one answer a ticket, and the caller takes it.
        self.slot.sender.try_send(answer).ok();
        self.caller.unpark();
    }

    /// Has the caller left?
    pub(crate) fn is_abandoned(&self) -> bool {
        self.slot.ticket.load(Ordering::Acquire) != self.ticket | OPEN
    }
}

impl<T> Drop for Replier<T> {
    fn drop(&mut self) {
        if self.slot.settle(self.ticket) {
            self.put(None);
        }
    }
}

/// How a wait for a reply ended.
pub(crate) enum Waited<T> {
    Answered(T),
    /// The worker's end was dropped: there will be no answer.
    Dropped,
    /// The deadline passed. The caller has left, and the worker can see it. True if the
    /// request had been refused before.
    TimedOut {
        refused: bool,
    },
    /// The interrupting channel disconnected. The caller has left.
    Interrupted,
}

/// The caller's end.
pub(crate) struct PendingReply<'pool, T> {
    pool: &'pool ReplyPool<T>,
    slot: Reusable<'pool, Arc<Slot<T>>>,
    ticket: u64,
}

impl<T> PendingReply<'_, T> {
    /// Waits for the answer, no longer than until `deadline` or until `interrupt`
    /// disconnects. An answer that was given before either counts.
    pub(crate) fn wait(
        self,
        deadline: Option<Instant>,
        interrupt: Option<&Receiver<Infallible>>,
    ) -> Waited<T> {
        let received = match (self.soon(deadline), interrupt) {
            (Some(answer), _) => Ok(answer),
            (None, None) => self.park(deadline).ok_or(RecvTimeoutError::Timeout),
            (None, Some(interrupt)) => {
                let timeout = deadline.map_or_else(never, crossbeam_channel::at);
                select! {
                    recv(self.slot.receiver) -> answer => answer.map_err(|_| RecvTimeoutError::Disconnected),
                    recv(interrupt) -> _ => Err(RecvTimeoutError::Disconnected),
                    recv(timeout) -> _ => Err(RecvTimeoutError::Timeout),
                }
            }
        };
        match received {
            Ok(answer) => answer.map_or(Waited::Dropped, Waited::Answered),
            Err(why) if self.slot.settle(self.ticket) => match why {
                RecvTimeoutError::Timeout => Waited::TimedOut {
                    refused: self.slot.refused.load(Ordering::Acquire) == self.ticket,
                },
                // The slot holds both ends of its own channel: only an interrupt disconnects.
                RecvTimeoutError::Disconnected => Waited::Interrupted,
            },
            // The other side was first: its answer is in the slot or about to be.
            Err(_) => match self.park(None) {
                Some(Some(answer)) => Waited::Answered(answer),
                Some(None) | None => Waited::Dropped,
            },
        }
    }

    /// The answer, if it comes while others are let run.
    ///
    /// Not by the channel's `recv`, which first spins, and no answer of a database comes
    /// so soon: with 64 callers on one processor that took a quarter of it.
    fn soon(&self, deadline: Option<Instant>) -> Option<Option<T>> {
        for _ in 0..YIELDS {
            if let Ok(answer) = self.slot.receiver.try_recv() {
                return Some(answer);
            }
            thread::yield_now();
        }
        let (spinning, start) = (&self.pool.spinning, Instant::now());
        let discouraged = spinning.discouraged.load(Ordering::Relaxed);
        if discouraged > 0 {
            // Two at once may count as one.
            spinning
                .discouraged
                .store(discouraged - 1, Ordering::Relaxed);
            return None;
        }
        while spinning.under_way.load(Ordering::Relaxed) <= FEW {
            if let Ok(answer) = self.slot.receiver.try_recv() {
                return Some(answer);
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                break;
            }
            if now.duration_since(start) >= PATIENCE {
                spinning.discouraged.store(DISCOURAGED, Ordering::Relaxed);
                break;
            }
            thread::yield_now();
        }
        None
    }

    /// The answer; `None` if there is none until `deadline`.
    fn park(&self, deadline: Option<Instant>) -> Option<Option<T>> {
        loop {
            if let Ok(answer) = self.slot.receiver.try_recv() {
                return Some(answer);
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
        self.pool.spinning.under_way.fetch_sub(1, Ordering::Relaxed);
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
        // Also when both race: the slot goes back empty.
        let (pending, replier) = pool.open();
        drop(replier);
        assert!(matches!(pending.wait(past(), None), Waited::Dropped));
        assert!(pool.slots.pull(Slot::new).receiver.is_empty());
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
