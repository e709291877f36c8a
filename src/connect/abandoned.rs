//! Counts the threads that a manager has abandoned.
//!
//! A thread that blocks in the driver cannot be stopped: only the network or the server can end
//! its wait. So it is abandoned, with its connection, when its result is no longer waited for,
//! and counted until it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

/// The longest pause before another connection.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The number of abandoned threads that still wait for a response: connects, and workers that
/// were replaced.
#[derive(Clone, Default)]
pub(crate) struct Abandoned(Arc<AtomicU32>);

impl Abandoned {
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Both ends of a piece of work: for the thread that waits, and for the one that works.
    pub(crate) fn work(&self) -> (Waiting, Working) {
        let (sender, receiver) = bounded(1);
        let waiting = Waiting {
            abandoned: self.clone(),
            counted: sender,
        };
        (waiting, Working(receiver))
    }

    /// How long to wait before the next connection, so that abandoned ones do not pile up: the
    /// connect timeout, doubled for each abandoned thread, and at most [`LONGEST_PAUSE`].
    pub(crate) fn pause(&self, connect_timeout: Duration) -> Duration {
        match self.count() {
            0 => Duration::ZERO,
            count => connect_timeout
                .saturating_mul(1_u32.checked_shl(count).unwrap_or(u32::MAX))
                .min(LONGEST_PAUSE),
        }
    }
}

/// Held by the thread that waits for the work.
pub(crate) struct Waiting {
    abandoned: Abandoned,
    counted: Sender<Counted>,
}

impl Waiting {
    /// Stops waiting: the work counts as abandoned until it ends.
    pub(crate) fn leave(&self) {
        // The count stays in the channel until the other end is dropped. If it has been
        // dropped already, the count is undone here.
        self.counted.try_send(self.abandoned.enter()).ok();
    }
}

/// Held by the thread that works, until it is done.
pub(crate) struct Working(#[expect(dead_code, reason = "to be dropped")] Receiver<Counted>);

/// One abandoned thread; its drop undoes the count.
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
