//! Trips, releases and new watches of a lease in many interleavings of their threads.
// Tests may panic.
#![allow(clippy::unwrap_used)]

use crossbeam_channel::TryRecvError;
use shuttle::thread;

use super::*;
use crate::sync::atomic::AtomicBool;
use crate::sync::try_schedules;

fn long_ago() -> BootInstant {
    BootInstant::now() - Duration::from_secs(24 * 3600)
}

fn is_notified(hold: &Hold) -> bool {
    matches!(hold.over().try_recv(), Err(TryRecvError::Disconnected))
}

#[test]
fn a_watch_made_while_the_lease_ends_is_told() {
    try_schedules(|| {
        let lease = Arc::new(Lease::new(1, Some(Duration::from_secs(60))));
        let breaker = thread::spawn({
            let lease = Arc::clone(&lease);
            move || lease.trip(Ended::SessionLost)
        });
        let holds = [Hold::new(&lease), Hold::new(&lease)];
        breaker.join().unwrap();
        for hold in holds {
            // Without a call of `ended`.
            assert!(is_notified(&hold));
            assert_eq!(hold.ended(), Some(Ended::SessionLost));
        }
    });
}

#[test]
fn a_hold_ends_once_and_for_one_cause() {
    try_schedules(|| {
        let lease = Arc::new(Lease::new(1, Some(Duration::from_secs(60))));
        let hold = Hold::new(&lease);
        let breaker = thread::spawn({
            let lease = Arc::clone(&lease);
            move || lease.trip(Ended::SessionLost)
        });
        let closer = thread::spawn({
            let lease = Arc::clone(&lease);
            move || lease.trip(Ended::Closed)
        });
        let watcher = thread::spawn({
            let hold = Arc::clone(&hold);
            move || {
                let first = hold.ended();
                assert!(first.is_none() || hold.ended() == first);
                first
            }
        });
        let unlocked = hold.end(Ended::Unlocked);
        breaker.join().unwrap();
        closer.join().unwrap();
        let seen = watcher.join().unwrap();
        let ended = hold.ended().unwrap();
        assert_eq!(unlocked, ended == Ended::Unlocked);
        assert!(seen.is_none_or(|seen| seen == ended));
        assert!(is_notified(&hold));
    });
}

#[test]
fn a_lease_that_was_seen_to_have_expired_is_not_renewed() {
    try_schedules(|| {
        let lease = Arc::new(Lease::new(1, Some(Duration::from_secs(60))));
        lease.arm(BootInstant::now());
        let hold = Hold::new(&lease);
        let renewal = thread::spawn({
            let lease = Arc::clone(&lease);
            move || lease.renew(BootInstant::now())
        });
        let expiry = thread::spawn({
            let lease = Arc::clone(&lease);
            move || {
                // Time passes.
                lease.arm(long_ago());
                lease.ended()
            }
        });
        renewal.join().unwrap();
        let seen = expiry.join().unwrap();
        assert!(seen.is_none_or(|seen| seen == Ended::LeaseExpired));
        assert_eq!(lease.ended().is_some(), seen.is_some());
        assert_eq!(is_notified(&hold), seen.is_some());
    });
}

#[test]
fn what_is_given_back_after_its_lease_was_not_ours_to_the_end() {
    try_schedules(|| {
        let lease = Arc::new(Lease::new(1, Some(Duration::from_secs(60))));
        let hold = Hold::new(&lease);
        // The server has given the lock to another holder, which it does after the lease.
        let given_away = Arc::new(AtomicBool::new(false));
        let time = thread::spawn({
            let (lease, given_away) = (Arc::clone(&lease), Arc::clone(&given_away));
            move || {
                lease.arm(long_ago());
                given_away.store(true, Ordering::SeqCst);
            }
        });
        let breaker = thread::spawn({
            let lease = Arc::clone(&lease);
            move || lease.trip(Ended::SessionLost)
        });
        let late = given_away.load(Ordering::SeqCst);
        let unlocked = hold.end(Ended::Unlocked);
        assert!(!(late && unlocked), "another holder was inside");
        time.join().unwrap();
        breaker.join().unwrap();
        assert_eq!(unlocked, hold.ended() == Some(Ended::Unlocked));
        assert!(is_notified(&hold));
    });
}

#[test]
fn a_lock_is_given_back_once_and_not_after_its_loss() {
    try_schedules(|| {
        let lease = Arc::new(Lease::new(1, Some(Duration::from_secs(60))));
        let hold = Hold::new(&lease);
        // A token of each kind, and the end of the lease.
        let trip = thread::spawn({
            let hold = Arc::clone(&hold);
            move || hold.end(Ended::Cancelled)
        });
        let release = thread::spawn({
            let hold = Arc::clone(&hold);
            move || hold.claim_release(Ended::Cancelled).is_ok()
        });
        let breaker = thread::spawn({
            let lease = Arc::clone(&lease);
            move || lease.trip(Ended::SessionLost)
        });
        let guard = hold.claim_release(Ended::Unlocked);
        trip.join().unwrap();
        let token = release.join().unwrap();
        breaker.join().unwrap();
        assert!(!(token && guard.is_ok()), "released twice");
        // If the guard does not release the lock, the cause is another than its own.
        assert_ne!(guard, Err(Ended::Unlocked));
        assert!(is_notified(&hold));
        assert_eq!(
            hold.claim_release(Ended::Unlocked),
            Err(hold.ended().unwrap())
        );
    });
}
