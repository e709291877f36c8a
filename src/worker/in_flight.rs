//! How long the worker has been waiting for the server.

use std::time::Duration;

use crate::clock::{AtomicBootInstant, BootInstant};
use crate::sync::atomic::{AtomicU64, Ordering};

/// The exchange with the server that is in flight, which may take several round trips. Each worker
/// has its own, so that a replaced worker does not change its successor's.
#[derive(Default)]
pub(crate) struct InFlight {
    exchange: AtomicBootInstant,
    round_trip: AtomicBootInstant,
    /// Round trips begun, including those of replaced workers.
    round_trips: AtomicU64,
}

impl InFlight {
    /// For the next worker, which continues the count of round trips.
    pub(crate) fn successor(&self) -> InFlight {
        InFlight {
            round_trips: AtomicU64::new(self.round_trips()),
            ..InFlight::default()
        }
    }

    /// An exchange begins, and its first round trip. The server answers after `slice`: a wait in its
    /// queue counts as unanswered from then on.
    pub(crate) fn begin(&self, slice: Duration) {
        let due = BootInstant::now() + slice;
        self.exchange.store(Some(due));
        self.round_trip.store(Some(due));
        self.round_trips.fetch_add(1, Ordering::Relaxed);
    }

    /// One more round trip of the same exchange begins.
    pub(crate) fn next(&self) {
        self.round_trip.store(Some(BootInstant::now()));
        self.round_trips.fetch_add(1, Ordering::Relaxed);
    }

    /// The exchange has ended.
    pub(crate) fn end(&self) {
        self.round_trip.store(None);
        self.exchange.store(None);
    }

    /// When the round trip in flight began. If that is long ago, the worker may be stuck.
    pub(crate) fn round_trip_since(&self) -> Option<BootInstant> {
        self.round_trip.load()
    }

    /// How long the exchange in flight has lasted; the worker answers no caller meanwhile. `None`
    /// if there is none.
    pub(crate) fn busy_for(&self) -> Option<Duration> {
        self.exchange.load().map(BootInstant::elapsed)
    }

    pub(crate) fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }
}
