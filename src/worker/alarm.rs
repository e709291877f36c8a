//! How the watchdog is woken, at the cost of one atomic for each round trip.

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::sync::atomic::{AtomicBool, Ordering};

/// Wakes the watchdog.
pub(crate) struct Alarm {
    sender: Sender<()>,
    /// True if the watchdog sleeps until it is woken.
    is_idle: AtomicBool,
}

impl Alarm {
    /// With the watchdog's end.
    pub(crate) fn new() -> (Alarm, Receiver<()>) {
        let (sender, alarms) = bounded(1);
        let is_idle = AtomicBool::new(false);
        (Alarm { sender, is_idle }, alarms)
    }

    pub(super) fn ring(&self) {
        self.sender.try_send(()).ok();
    }

    /// A round trip begins: it has to be watched.
    pub(super) fn ring_if_idle(&self) {
        if self.is_idle.swap(false, Ordering::SeqCst) {
            self.ring();
        }
    }

    /// The watchdog sleeps until it is woken.
    pub(super) fn expect_ring(&self) {
        self.is_idle.store(true, Ordering::SeqCst);
    }

    /// The watchdog wakes by itself, soon enough for any round trip that begins meanwhile.
    pub(super) fn expect_none(&self) {
        self.is_idle.store(false, Ordering::SeqCst);
    }
}
