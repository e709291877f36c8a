//! Threads of a manager that are left behind.
//!
//! A thread that waits in the driver cannot be ended from outside: nothing but the network
//! or the server can do that. Whoever stops waiting for it leaves it behind, with its
//! connection, and counts it until it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

/// The longest pause before another connection.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How many threads a manager has left behind that still wait for an answer: connects, and
/// workers that were replaced.
#[derive(Clone, Default)]
pub(crate) struct Abandoned(Arc<AtomicU32>);

impl Abandoned {
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Both ends of a piece of work: for the thread that waits, and for the one at work.
    pub(crate) fn work(&self) -> (Waiting, Working) {
        let (sender, receiver) = bounded(1);
        let waiting = Waiting {
            abandoned: self.clone(),
            counted: sender,
        };
        (waiting, Working(receiver))
    }

    /// How long to wait before there is another connection, so that they do not pile up:
    /// twice as long for each thread that is left behind.
    pub(crate) fn pause(&self, connect_timeout: Duration) -> Duration {
        match self.count() {
            0 => Duration::ZERO,
            count => connect_timeout
                .saturating_mul(1_u32.checked_shl(count).unwrap_or(u32::MAX))
                .min(LONGEST_PAUSE),
        }
    }
}

/// Held by whoever waits for the work.
pub(crate) struct Waiting {
    abandoned: Abandoned,
    counted: Sender<Counted>,
}

impl Waiting {
    /// Stops waiting: the work counts as abandoned until it ends.
    pub(crate) fn leave(&self) {
        // The count lies in the channel until the other end goes. If that has gone already,
        // it is taken back here.
        self.counted.try_send(self.abandoned.enter()).ok();
    }
}

/// Held by the thread at work, for as long as it is at it.
pub(crate) struct Working(#[expect(dead_code, reason = "to be dropped")] Receiver<Counted>);

/// One that counts.
struct Counted(Abandoned);

impl Abandoned {
    fn enter(&self) -> Counted {
        self.0.fetch_add(1, Ordering::SeqCst);
        Counted(self.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(all(test, not(distlock_model)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_behind_counts_until_it_ends() {
        let abandoned = Abandoned::default();
        let (waiting, working) = abandoned.work();
        assert_eq!(abandoned.count(), 0);
        waiting.leave();
        assert_eq!(abandoned.count(), 1);
        drop(waiting);
        assert_eq!(abandoned.count(), 1);
        drop(working);
        assert_eq!(abandoned.count(), 0);
    }

    #[test]
    fn what_has_ended_does_not_count() {
        let abandoned = Abandoned::default();
        let (waiting, working) = abandoned.work();
        drop(working);
        waiting.leave();
        assert_eq!(abandoned.count(), 0);
    }
}
