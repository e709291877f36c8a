//! What a watch reports by the clock alone.
// Tests may panic.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::clock::BootInstant;
use crate::lease::Lease;

const SECOND: Duration = Duration::from_secs(1);

fn leased() -> Arc<Lease> {
    Arc::new(Lease::new(1, Some(10 * SECOND)))
}

/// Arms `lease` with `left` of it remaining.
fn leave(lease: &Lease, left: Duration) {
    lease.arm(BootInstant::now() + left - 9 * SECOND);
}

/// A hold whose lease is about to expire, and no other thread that would report it.
fn about_to_expire() -> Watch {
    let lease = leased();
    leave(&lease, Duration::from_millis(20));
    Watch::new(Hold::new(&lease))
}

#[test]
fn waits_see_by_the_clock_alone_that_a_lease_has_expired() {
    assert_eq!(about_to_expire().wait(), Ended::LeaseExpired);
    let far = Duration::from_secs(3600);
    let ended = about_to_expire().wait_timeout(far);
    assert_eq!(ended, Some(Ended::LeaseExpired));
}

#[test]
fn a_hold_is_at_risk_when_less_than_the_margin_is_left() {
    let lease = leased();
    leave(&lease, SECOND / 2);
    let watch = Watch::new(Hold::new(&lease));
    assert_eq!(watch.wait_at_risk(SECOND), None);
    assert!(watch.hold.time_left().unwrap() < SECOND);
    leave(&lease, Duration::ZERO);
    assert_eq!(watch.wait_at_risk(SECOND), Some(Ended::LeaseExpired));
    assert_eq!(watch.hold.time_left(), Some(Duration::ZERO));
}

#[test]
fn a_lease_that_is_renewed_in_time_is_not_at_risk() {
    let lease = leased();
    let watch = Watch::new(Hold::new(&lease));
    let at_risk = BootInstant::now() + SECOND;
    leave(&lease, 2 * SECOND);
    let waiter = std::thread::spawn(move || watch.wait_at_risk(SECOND));
    lease.renew(BootInstant::now());
    // Unless this thread was delayed for a second.
    let in_time = BootInstant::now() < at_risk;
    while BootInstant::now() < at_risk + SECOND / 4 {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!in_time || !waiter.is_finished(), "it was renewed");
    leave(&lease, SECOND / 2);
    waiter.join().unwrap();
}

#[test]
fn without_a_lease_nothing_is_at_risk() {
    let lease = Arc::new(Lease::new(1, None));
    let watch = Watch::new(Hold::new(&lease));
    assert_eq!(watch.hold.time_left(), None);
    let waiter = std::thread::spawn(move || watch.wait_at_risk(Duration::MAX));
    lease.trip(Ended::SessionLost);
    assert_eq!(waiter.join().unwrap(), Some(Ended::SessionLost));
}

#[test]
fn looks_see_it_too_and_then_tell_the_channel() {
    let watch = about_to_expire();
    while !watch.is_lost() {
        std::thread::yield_now();
    }
    assert_eq!(watch.ended(), Some(Ended::LeaseExpired));
    assert!(watch.channel().recv().is_err());
}

#[test]
fn what_has_expired_is_not_given_back() {
    for late in [Ended::Unlocked, Ended::Cancelled] {
        let lease = leased();
        let watch = Watch::new(Hold::new(&lease));
        // The process was stopped past the lease, and the lease was not checked since.
        leave(&lease, Duration::ZERO);
        assert!(!watch.hold.end(late));
        assert_eq!(watch.ended(), Some(Ended::LeaseExpired));
        assert!(watch.channel().recv().is_err());
    }
}

#[test]
fn what_has_expired_is_not_renewed() {
    let lease = leased();
    let watch = Watch::new(Hold::new(&lease));
    leave(&lease, Duration::ZERO);
    watch.wait();
    lease.renew(BootInstant::now());
    assert!(watch.is_lost());
    assert!(lease.ended().is_some());
}
