//! How callers interrupt a worker that waits in the server's queue.
//!
//! The worker parks only if its mailbox is empty after it has said so; callers look whether it is
//! parked only after they have left their message. So one of the two notices the other, and no
//! message waits for the end of a slice.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{AtomicBootInstant, BootInstant};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Whether the worker is parked. Its slices are numbered from 1; the lowest bit is set once one
/// has been interrupted.
#[derive(Default)]
pub(crate) struct Parking {
    /// Zero: the worker is not parked.
    slice: AtomicU64,
    slices: AtomicU64,
    /// When the last slice began.
    began: AtomicBootInstant,
    /// Threads that send cancels.
    cancels: Arc<AtomicUsize>,
}

/// A thread that sends a cancel, until this is dropped.
pub(crate) struct Cancelling(Arc<AtomicUsize>);

impl Drop for Cancelling {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A slice of the worker's, which ends with [`Parking::end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice(u64);

impl Parking {
    /// Parks, unless `has_messages` afterwards.
    pub(crate) fn begin(&self, has_messages: impl FnOnce() -> bool) -> Option<Slice> {
        let slice = 2 * (self.slices.fetch_add(1, Ordering::Relaxed) + 1);
        self.began.store(Some(BootInstant::now()));
        self.slice.store(slice, Ordering::SeqCst);
        let slice = Slice(slice);
        if has_messages() {
            self.end(slice);
            return None;
        }
        Some(slice)
    }

    /// Ends `slice`. True if it was interrupted.
    pub(crate) fn end(&self, slice: Slice) -> bool {
        // A worker that was replaced does not end its successor's.
        let end = |current| (current | 1 == slice.0 | 1).then_some(0);
        let (set, fetch) = (Ordering::SeqCst, Ordering::SeqCst);
        self.slice
            .fetch_update(set, fetch, end)
            .is_ok_and(|ended| ended & 1 == 1)
    }

    /// Ends the slice of a worker that is stuck in it.
    pub(crate) fn abandon(&self) {
        self.slice.store(0, Ordering::SeqCst);
    }

    /// After a message was left: the slice to interrupt, if the worker is parked and nobody else
    /// interrupts it.
    pub(crate) fn interrupt(&self) -> Option<Slice> {
        let slice = self.slice.load(Ordering::SeqCst);
        if slice == 0 || slice & 1 == 1 {
            return None;
        }
        let (set, failed) = (Ordering::SeqCst, Ordering::SeqCst);
        let is_ours = self.slice.compare_exchange(slice, slice | 1, set, failed);
        is_ours.is_ok().then_some(Slice(slice))
    }

    /// How long ago the last slice began.
    pub(crate) fn age(&self) -> Duration {
        let began = self.began.load();
        began.map_or(Duration::ZERO, BootInstant::elapsed)
    }

    /// Notes that a cancel will be sent.
    pub(crate) fn cancelling(&self) -> Cancelling {
        self.cancels.fetch_add(1, Ordering::SeqCst);
        Cancelling(Arc::clone(&self.cancels))
    }

    /// True if a cancel has still to be sent.
    pub(crate) fn is_cancelling(&self) -> bool {
        self.cancels.load(Ordering::SeqCst) > 0
    }

    /// True until `slice` has ended.
    pub(crate) fn is_in(&self, slice: Slice) -> bool {
        self.slice.load(Ordering::SeqCst) | 1 == slice.0 | 1
    }
}

#[cfg(all(test, not(distlock_model)))]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_interrupted_once_and_ends_by_itself() {
        let parking = Parking::default();
        assert_eq!(parking.interrupt(), None);
        assert_eq!(parking.begin(|| true), None);
        assert_eq!(parking.interrupt(), None);
        let slice = parking.begin(|| false).expect("there is no message");
        assert!(parking.is_in(slice));
        assert_eq!(parking.interrupt(), Some(slice));
        assert_eq!(parking.interrupt(), None);
        assert!(parking.is_in(slice));
        assert!(parking.end(slice));
        assert!(!parking.is_in(slice));
        let next = parking.begin(|| false).expect("there is no message");
        assert!(!parking.end(slice), "it is another one");
        assert!(!parking.end(next));
        let stuck = parking.begin(|| false).expect("there is no message");
        parking.abandon();
        assert!(!parking.is_in(stuck) && parking.interrupt().is_none());
    }
}

#[cfg(all(test, distlock_model))]
mod model;
