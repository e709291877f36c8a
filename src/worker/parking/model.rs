//! Callers that leave messages for a worker that parks, in many interleavings.

use std::sync::Arc;

use shuttle::thread;

use super::*;
use crate::sync::atomic::AtomicUsize;
use crate::sync::try_schedules;

/// A worker that parks again and again until it has read all messages: one that is parked
/// without an interrupt, with a message unread and nobody left to interrupt it, would park for
/// ever, which shuttle reports.
#[test]
fn no_message_waits_for_a_parked_worker() {
    try_schedules(|| {
        const CALLERS: usize = 3;
        let (parking, mailbox) = (Arc::new(Parking::default()), Arc::new(AtomicUsize::new(0)));
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (parking, mailbox) = (Arc::clone(&parking), Arc::clone(&mailbox));
                thread::spawn(move || {
                    mailbox.fetch_add(1, Ordering::SeqCst);
                    parking.interrupt();
                })
            })
            .collect();
        let mut read = 0;
        while read < CALLERS {
            read += mailbox.swap(0, Ordering::SeqCst);
            let has_messages = || mailbox.load(Ordering::SeqCst) > 0;
            if read < CALLERS
                && let Some(slice) = parking.begin(has_messages)
            {
                // The server would wait for the cancel.
                while parking.slice.load(Ordering::SeqCst) & 1 == 0 {
                    thread::yield_now();
                }
                assert!(parking.end(slice));
            }
        }
        for caller in callers {
            caller.join().expect("it does not panic");
        }
    });
}
