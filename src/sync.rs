//! The synchronisation primitives, and a latch made of them. `make models` replaces them with
//! shuttle's, which runs the threads of a test in very many interleavings.

use std::convert::Infallible;

use crossbeam_channel::{Receiver, Sender, bounded};

use self::atomic::{AtomicBool, Ordering};

#[cfg(not(all(test, distlock_model)))]
mod primitives {
    pub(crate) use std::sync::atomic;
    pub(crate) use std::thread;

    pub(crate) use parking_lot::Mutex;
}

#[cfg(all(test, distlock_model))]
mod primitives {
    pub(crate) use shuttle::sync::atomic;
    pub(crate) use shuttle::thread;

    /// With the interface of parking_lot's.
    #[derive(Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().expect("a panic ends the model")
        }

        pub(crate) fn try_lock(&self) -> Option<shuttle::sync::MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }
}

pub(crate) use primitives::*;

/// A one-shot signal to all threads that wait for it or check it later.
pub(crate) struct Latch {
    is_set: AtomicBool,
    /// Nothing is ever sent: dropping it is the signal.
    signal: Mutex<Option<Sender<Infallible>>>,
    channel: Receiver<Infallible>,
}

impl Latch {
    /// True for the first call.
    pub(crate) fn set(&self) -> bool {
        let is_first = !self.is_set.swap(true, Ordering::SeqCst);
        // Dropped outside the mutex, because that wakes the waiting threads.
        let signal = self.signal.lock().take();
        drop(signal);
        is_first
    }

    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::SeqCst)
    }

    /// Disconnects when the latch is set, and never carries a message.
    pub(crate) fn channel(&self) -> &Receiver<Infallible> {
        &self.channel
    }
}

impl Default for Latch {
    fn default() -> Self {
        let (signal, channel) = bounded(0);
        Latch {
            is_set: AtomicBool::new(false),
            signal: Mutex::new(Some(signal)),
            channel,
        }
    }
}

/// Runs `model` in as many interleavings of its threads as `DISTLOCK_MODEL_RUNS` says: 15000
/// by default, half of them random and half with few, but well placed, context switches.
#[cfg(all(test, distlock_model))]
pub(crate) fn try_schedules(model: fn()) {
    let runs = std::env::var("DISTLOCK_MODEL_RUNS").map_or(15_000, |runs| {
        runs.parse().expect("DISTLOCK_MODEL_RUNS is a number")
    });
    shuttle::check_random(model, runs / 2);
    shuttle::check_pct(model, runs / 2, 3);
}
