//! Locks that stay with their manager for a minimum time after the grant.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use distlock::{CancelToken, Ended, Guard};

use crate::support::*;

/// Long enough for another manager's attempt on a busy machine.
const TIME: Duration = Duration::from_millis(1500);

/// For what must not be seen to end.
const LONG: Duration = Duration::from_secs(3600);

#[apply(isolated_test)]
fn a_lock_is_kept_for_its_minimum_time() {
    let give_back: [fn(Guard); 2] = [drop, |guard| guard.unlock().unwrap()];
    for give_back in give_back {
        // The time outlasts the lease, which is still renewed, also on a busy machine.
        let lease = Duration::from_secs(1);
        let (mgr, other) = (builder().lease(lease).connect().unwrap(), manager());
        let before = Instant::now();
        let guard = mgr.acquire("job").hold_at_least(TIME).lock().unwrap();
        let watch = guard.watch();
        give_back(guard);
        assert_eq!(watch.ended(), Some(Ended::Unlocked));
        let waits = [mgr.clone(), other].map(|mgr| {
            thread::spawn(move || {
                let _guard = mgr.lock("job").unwrap();
                Instant::now()
            })
        });
        for inside in finish(waits.into()) {
            let lost = mgr.stats().lost;
            assert!(
                inside - before >= TIME,
                "after {:?}, {lost} lost",
                inside - before
            );
        }
        assert_eq!(mgr.stats().lost, 0);
    }
}

#[apply(isolated_test)]
fn a_hold_that_outlasts_its_time_ends_with_its_guard() {
    let (mgr, other) = (manager(), manager());
    let time = Duration::from_millis(1);
    let guard = mgr.acquire("job").hold_at_least(time).lock().unwrap();
    eventually(|| other.try_lock("job").is_ok_and(|guard| guard.is_none()));
    thread::sleep(2 * time);
    guard.unlock().unwrap();
    assert!(other.try_lock("job").unwrap().is_some());
}

/// The token is cancelled around the time of the grant, often exactly then.
#[apply(isolated_test)]
fn an_acquire_that_was_cancelled_keeps_nothing() {
    let (mgr, other) = (manager(), manager());
    let mut cancelled = 0;
    for n in 0..2000 {
        let token = CancelToken::new();
        let outcome = thread::scope(|scope| {
            scope.spawn(|| {
                let until = Instant::now() + Duration::from_micros(n % 300);
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                token.cancel();
            });
            let acquire = mgr
                .acquire(n.cast_signed())
                .hold_at_least(LONG)
                .cancel(&token);
            acquire.lock().map(drop)
        });
        if outcome.is_err() {
            cancelled += 1;
            let guard = other.try_lock_for(n.cast_signed(), FOREVER).unwrap();
            assert!(guard.is_some(), "round {n}");
        }
    }
    assert!(cancelled > 0);
    // This releases the locks that were granted in time and are kept.
    mgr.close().unwrap();
}

#[apply(isolated_test)]
fn an_unlock_does_not_wait_and_a_kept_lock_counts() {
    let mgr = builder().max_locks(1).connect().unwrap();
    let guard = mgr.acquire("job").hold_at_least(LONG).lock().unwrap();
    let unlock = thread::spawn(move || guard.unlock());
    finish(vec![unlock]).remove(0).unwrap();
    assert_eq!((mgr.stats().held, mgr.stats().released), (1, 0));
    assert!(
        mgr.try_lock("job").is_err(),
        "the manager's one lock is out"
    );
    assert!(manager().try_lock("job").unwrap().is_none());
    // After a close the lock is free.
    mgr.close().unwrap();
    assert!(manager().try_lock("job").unwrap().is_some());
}

#[apply(isolated_test)]
fn a_lock_is_kept_though_every_manager_is_gone() {
    let other = manager();
    let mgr = manager();
    let before = Instant::now();
    drop(mgr.acquire("job").hold_at_least(TIME).lock().unwrap());
    drop(mgr);
    let guard = other.lock("job").unwrap();
    assert!(before.elapsed() >= TIME, "{:?}", before.elapsed());
    drop(guard);
    // And then the session ends.
    eventually(|| backends(&mut server().client()).len() == 1);
}

#[apply(isolated_test)]
fn shared_locks_are_kept() {
    let (mgr, other) = (manager(), manager());
    let share = |time| mgr.acquire("shared").shared().hold_at_least(time).lock();
    let before = Instant::now();
    for time in [TIME, Duration::ZERO, TIME / 2] {
        drop(share(time).unwrap());
    }
    assert!(other.try_lock_shared("shared").unwrap().is_some());
    let _writer = other.lock("shared").unwrap();
    assert!(before.elapsed() >= TIME);
}

#[apply(isolated_test)]
fn a_kept_lock_goes_with_its_session() {
    let mgr = manager();
    drop(mgr.acquire("job").hold_at_least(LONG).lock().unwrap());
    let fellow = mgr.lock("fellow").unwrap();
    terminate_sessions(&mut server().client());
    assert_eq!(fellow.watch().wait(), Ended::SessionLost);
    drop(manager().lock("job").unwrap());
    assert_eq!((mgr.stats().held, mgr.stats().lost), (0, 2));
}

#[apply(isolated_test)]
fn release_on_ends_a_kept_hold_at_once() {
    let mgr = manager();
    let token = CancelToken::new();
    let acquire = mgr.acquire("job").hold_at_least(LONG).release_on(&token);
    let guard = acquire.lock().unwrap();
    token.cancel();
    drop(manager().lock("job").unwrap());
    assert!(guard.is_lost());
}

/// The recipe: programs that start a quick job by their own clocks run it once.
#[apply(isolated_test)]
fn a_job_that_is_started_everywhere_is_done_once() {
    let done = AtomicUsize::new(0);
    let managers = [(); 4].map(|()| manager());
    let start = Instant::now();
    thread::scope(|scope| {
        for (n, mgr) in (0..).zip(&managers) {
            let done = &done;
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(5 * n));
                let job = mgr.acquire("nightly").hold_at_least(TIME);
                job.try_with_lock(|_| done.fetch_add(1, Ordering::SeqCst))
                    .unwrap();
            });
        }
    });
    // Twice is right if the machine was so busy that the time had passed.
    let all_in_time = start.elapsed() < TIME;
    assert!(!all_in_time || done.into_inner() == 1);
}
