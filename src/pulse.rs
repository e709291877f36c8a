//! Since when the worker has been waiting for the server.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock;

/// One worker's sign of life. A worker that is replaced keeps its own and so cannot
/// speak for its successor.
#[derive(Default)]
pub(crate) struct Pulse(AtomicU64);

impl Pulse {
    /// A round trip begins.
    pub(crate) fn begin(&self) {
        self.0.store(clock::now(), Ordering::SeqCst);
    }

    /// The worker is back from the server.
    pub(crate) fn end(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// When the present round trip began, on [`clock::now`].
    pub(crate) fn since(&self) -> Option<u64> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            since => Some(since),
        }
    }
}
