//! Since when the worker has been waiting for the server.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock;

/// One worker's sign of life. A worker that is replaced keeps its own and so cannot
/// speak for its successor. Times are on [`clock::now`].
#[derive(Default)]
pub(crate) struct Pulse {
    /// When the present round trip began, or 0.
    round_trip: AtomicU64,
    /// When the first of the present errand's round trips began, or 0.
    errand: AtomicU64,
}

impl Pulse {
    /// The worker turns to the server, for one round trip or several.
    pub(crate) fn set_out(&self) {
        let now = clock::now();
        self.errand.store(now, Ordering::SeqCst);
        self.round_trip.store(now, Ordering::SeqCst);
    }

    /// One more round trip of the same errand begins.
    pub(crate) fn beat(&self) {
        self.round_trip.store(clock::now(), Ordering::SeqCst);
    }

    /// The worker is back from the server.
    pub(crate) fn end(&self) {
        self.round_trip.store(0, Ordering::SeqCst);
        self.errand.store(0, Ordering::SeqCst);
    }

    /// Since when the server has owed an answer: it may be stuck.
    pub(crate) fn round_trip(&self) -> Option<u64> {
        some(&self.round_trip)
    }

    /// Since when the worker has answered nobody.
    pub(crate) fn errand(&self) -> Option<u64> {
        some(&self.errand)
    }
}

fn some(time: &AtomicU64) -> Option<u64> {
    match time.load(Ordering::SeqCst) {
        0 => None,
        since => Some(since),
    }
}
