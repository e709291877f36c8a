//! Acquire and release on one quiet server.

use std::thread;
use std::time::{Duration, Instant};

use distlock::{Ended, ErrorKind, Key};

use crate::support::*;

#[apply(isolated_test)]
fn lock_unlock_and_lock_again() {
    let mgr = manager();
    let mut client = server().client();
    for _ in 0..3 {
        let guard = mgr.lock("basics").unwrap();
        assert_eq!(guard.key(), &Key::from("basics"));
        assert!(!guard.is_lost());
        assert_eq!(advisory_locks(&mut client), [guard.key().as_i64()]);
        guard.unlock().unwrap();
        assert!(advisory_locks(&mut client).is_empty());
    }
    let stats = mgr.stats();
    assert_eq!((stats.acquired, stats.released, stats.held), (3, 3, 0));
}

#[apply(isolated_test)]
fn a_drop_then_try_lock_on_one_thread_always_succeeds() {
    let mgr = manager();
    for _ in 0..2000 {
        let guard = mgr.try_lock("again").unwrap();
        assert!(guard.is_some());
    }
}

#[apply(isolated_test)]
fn a_held_lock_is_refused_to_others_and_waited_for() {
    let (one, two) = (manager(), manager());
    let guard = one.lock("held").unwrap();
    assert!(one.try_lock("held").unwrap().is_none());
    assert!(two.try_lock("held").unwrap().is_none());
    let start = Instant::now();
    let wait = Duration::from_millis(50);
    assert!(two.try_lock_for("held", wait).unwrap().is_none());
    assert!(
        one.try_lock_until("held", start + 2 * wait)
            .unwrap()
            .is_none()
    );
    assert!(start.elapsed() >= 2 * wait);
    thread::scope(|scope| {
        for mgr in [&one, &two] {
            scope.spawn(move || mgr.lock("held").unwrap().unlock().unwrap());
        }
        eventually(|| one.stats().waiting == 1 && two.stats().waiting == 1);
        drop(guard);
    });
}

#[apply(isolated_test)]
fn shared_holders_exclude_only_exclusive_ones() {
    let (one, two) = (manager(), manager());
    let first = one.lock_shared("shared").unwrap();
    let second = one.try_lock_shared("shared").unwrap().unwrap();
    let third = two.try_lock_shared("shared").unwrap().unwrap();
    for mgr in [&one, &two] {
        assert!(mgr.try_lock("shared").unwrap().is_none());
    }
    drop(first);
    third.unlock().unwrap();
    assert!(two.try_lock("shared").unwrap().is_none());
    second.unlock().unwrap();
    let exclusive = two.try_lock("shared").unwrap().unwrap();
    assert!(one.try_lock_shared("shared").unwrap().is_none());
    drop(exclusive);
}

#[apply(isolated_test)]
fn a_watch_says_unlocked_and_outlives_the_guard() {
    let mgr = manager();
    let guard = mgr.lock("watched").unwrap();
    let watch = guard.watch();
    assert_eq!(watch.wait_timeout(Duration::from_millis(1)), None);
    drop(guard);
    assert_eq!(watch.wait(), Ended::Unlocked);
    assert!(!watch.is_lost());
    assert!(watch.channel().recv().is_err());
}

#[apply(isolated_test)]
fn a_lost_session_trips_the_watch_and_the_manager_recovers() {
    let mgr = manager();
    let guard = mgr.lock("lost").unwrap();
    let watch = guard.watch();
    let mut client = server().client();
    assert_eq!(terminate_sessions(&mut client), 1);
    assert_eq!(watch.wait(), Ended::SessionLost);
    assert!(guard.is_lost());
    let next = mgr.lock("lost").unwrap();
    drop(guard);
    assert!(!next.is_lost());
    assert_eq!(advisory_locks(&mut client), [next.key().as_i64()]);
    assert_eq!(mgr.stats().reconnects, 1);
    assert_eq!(mgr.stats().lost, 1);
}

#[apply(isolated_test)]
fn close_trips_watches_and_answers_everybody() {
    let mgr = manager();
    let guard = mgr.lock("closed").unwrap();
    let watch = guard.watch();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| mgr.lock("closed").unwrap_err().kind());
        eventually(|| mgr.stats().waiting == 1);
        mgr.close().unwrap();
        assert_eq!(waiter.join().unwrap(), ErrorKind::Closed);
    });
    assert_eq!(watch.wait(), Ended::Closed);
    assert_eq!(mgr.lock("other").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(guard.unlock().unwrap_err().kind(), ErrorKind::Closed);
    mgr.close().unwrap();
}

#[apply(isolated_test)]
fn a_lock_given_back_just_before_the_close_is_not_lost() {
    for _ in 0..30 {
        let mgr = manager();
        for _ in 0..3 {
            drop(mgr.lock("close").unwrap());
        }
        mgr.close().unwrap();
        let stats = mgr.stats();
        assert_eq!((stats.acquired, stats.released, stats.lost), (3, 3, 0));
    }
}
