//! What the clock alone decides.
// Tests may panic.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::clock;
use crate::lease::SessionState;

/// A hold whose lease runs out in a moment, and nobody who would say so.
fn about_to_expire() -> Watch {
    let session = Arc::new(SessionState::new(1));
    session.trust_until(clock::now() + 20_000_000);
    Watch::new(Hold::new(&session))
}

#[test]
fn waits_see_by_the_clock_alone_that_a_lease_has_expired() {
    assert_eq!(about_to_expire().wait(), Ended::LeaseExpired);
    let far = Duration::from_secs(3600);
    let ended = about_to_expire().wait_timeout(far);
    assert_eq!(ended, Some(Ended::LeaseExpired));
}

#[test]
fn no_wait_sleeps_for_longer_than_a_second_while_there_is_a_lease() {
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    let session = Arc::new(SessionState::new(1));
    let hold = Hold::new(&session);
    assert_eq!(hold.pause_until(session.trusted_until(), None), None);
    assert_eq!(hold.pause_until(clock::NEVER, Some(hour)), Some(hour));
    session.trust_until(clock::now() + 9_000_000_000);
    for left in [None, Some(hour), Some(second / 2)] {
        let pause = hold.pause_until(session.trusted_until(), left).unwrap();
        assert!(pause <= left.unwrap_or(second).min(second), "{pause:?}");
    }
}

#[test]
fn a_hold_is_at_risk_when_less_than_the_margin_is_left() {
    let margin = Duration::from_secs(60);
    let session = Arc::new(SessionState::new(1));
    session.trust_until(clock::now() + 30_000_000_000);
    let watch = Watch::new(Hold::new(&session));
    assert_eq!(watch.wait_at_risk(margin), None);
    assert!(watch.hold.time_left().unwrap() < margin);
    session.trust_until(1);
    assert_eq!(watch.wait_at_risk(margin), Some(Ended::LeaseExpired));
    assert_eq!(watch.hold.time_left(), Some(Duration::ZERO));
}

#[test]
fn a_lease_that_is_renewed_in_time_is_not_at_risk() {
    const SECOND: u64 = 1_000_000_000;
    let session = Arc::new(SessionState::new(1));
    let watch = Watch::new(Hold::new(&session));
    let at_risk = clock::now() + SECOND;
    session.trust_until(at_risk + SECOND);
    let waiter = std::thread::spawn(move || watch.wait_at_risk(Duration::from_secs(1)));
    session.renew(at_risk + 60 * SECOND);
    // If this thread was not kept from it for a second.
    let in_time = clock::now() < at_risk;
    while clock::now() < at_risk + SECOND / 4 {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!in_time || !waiter.is_finished(), "it was renewed");
    session.trust_until(clock::now() + SECOND / 2);
    waiter.join().unwrap();
}

#[test]
fn without_a_lease_nothing_is_at_risk() {
    let session = Arc::new(SessionState::new(1));
    let watch = Watch::new(Hold::new(&session));
    assert_eq!(watch.hold.time_left(), None);
    let waiter = std::thread::spawn(move || watch.wait_at_risk(Duration::MAX));
    session.trip(Ended::SessionLost);
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
        let session = Arc::new(SessionState::new(1));
        let watch = Watch::new(Hold::new(&session));
        // The process is stopped past the lease, and nobody has looked.
        session.trust_until(1);
        assert!(!watch.hold.end(late));
        assert_eq!(watch.ended(), Some(Ended::LeaseExpired));
        assert!(watch.channel().recv().is_err());
    }
}

#[test]
fn what_has_expired_is_not_renewed() {
    let session = Arc::new(SessionState::new(1));
    let watch = Watch::new(Hold::new(&session));
    session.trust_until(1);
    watch.wait();
    session.renew(clock::NEVER);
    assert!(watch.is_lost());
    assert!(session.ended().is_some());
}
