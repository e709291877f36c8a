//! Wakes the watchdog, at the cost of one atomic operation for each exchange with the server.

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::sync::atomic::{AtomicBool, Ordering};

/// Wakes the watchdog.
pub(crate) struct Alarm {
    sender: Sender<()>,
    /// True if the watchdog sleeps until it is woken.
    is_idle: AtomicBool,
}

impl Alarm {
    /// An alarm, and the watchdog's end of it.
    pub(crate) fn new() -> (Alarm, Receiver<()>) {
        let (sender, alarms) = bounded(1);
        let is_idle = AtomicBool::new(false);
        (Alarm { sender, is_idle }, alarms)
    }

    pub(super) fn ring(&self) {
        self.sender.try_send(()).ok();
    }

    /// An exchange begins, which has to be watched.
    pub(super) fn ring_if_idle(&self) {
        if self.is_idle.swap(false, Ordering::SeqCst) {
            self.ring();
        }
    }

    /// The watchdog sleeps until it is woken.
    pub(super) fn expect_ring(&self) {
        self.is_idle.store(true, Ordering::SeqCst);
    }

    /// The watchdog wakes up by itself, soon enough for any round trip that begins meanwhile.
    pub(super) fn expect_none(&self) {
        self.is_idle.store(false, Ordering::SeqCst);
    }
}
