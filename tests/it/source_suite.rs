//! What the Go package's own suite tests, in its order: cancelling (which releases at once
//! there, and so is `release_on` here), basic use, the limit, exclusion among threads and among
//! managers, and a database that goes down.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use distlock::{CancelToken, Ended, ErrorKind, Guard, Manager};
use throwaway_postgres::{Server, Shutdown};

use crate::support::*;

/// How many threads, or managers, compete.
const CROWDS: [usize; 4] = [2, 3, 10, 50];

#[apply(isolated_test)]
fn a_cancelled_parent_ends_holds_and_waits_without_their_owners_help() {
    let (mgr, other) = (manager(), manager());
    let parent = CancelToken::new();
    let child = parent.child();
    let guard = mgr.acquire("parent").release_on(&child).lock().unwrap();
    let watch = guard.watch();
    let (_own, _foreign) = (mgr.lock("own").unwrap(), other.lock("foreign").unwrap());
    let pending: Vec<_> = ["own", "foreign"]
        .into_iter()
        .map(|key| {
            let (mgr, token) = (mgr.clone(), parent.child());
            thread::spawn(move || {
                mgr.acquire(key)
                    .release_on(&token)
                    .lock()
                    .unwrap_err()
                    .kind()
            })
        })
        .collect();
    eventually(|| mgr.stats().waiting == 2);
    parent.cancel();
    assert_eq!(watch.wait(), Ended::Cancelled);
    assert_eq!(finish(pending), [ErrorKind::Cancelled; 2]);
    // The guard is alive, but another manager can take the lock.
    let next = other.lock("parent").unwrap();
    assert!(guard.is_lost() && !next.is_lost());
    assert_eq!(guard.unlock().unwrap_err().kind(), ErrorKind::Cancelled);
    let late = mgr.acquire("late").release_on(&child).try_lock();
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[apply(isolated_test)]
fn a_cancelled_child_token_ends_only_its_own_hold() {
    let mgr = manager();
    let parent = CancelToken::new();
    let (one, two) = (parent.child(), parent.child());
    let first = mgr.acquire("first").release_on(&one).lock().unwrap();
    let second = mgr.acquire("second").release_on(&two).lock().unwrap();
    let third = mgr.acquire("third").release_on(&parent).lock().unwrap();
    one.cancel();
    assert_eq!(first.watch().wait(), Ended::Cancelled);
    mgr.lock("first").unwrap().unlock().unwrap();
    assert!(!second.is_lost() && !third.is_lost());
    assert!(!two.is_cancelled() && !parent.is_cancelled());
    assert!(mgr.try_lock("second").unwrap().is_none());
    parent.cancel();
    for guard in [second, third] {
        assert_eq!(guard.watch().wait(), Ended::Cancelled);
    }
}

#[apply(isolated_test)]
fn a_lock_can_be_taken_again_after_each_way_to_give_it_back() {
    let (mgr, other) = (manager(), manager());
    let give_back: [fn(Guard, &CancelToken); 3] = [
        |guard, _| guard.unlock().unwrap(),
        |guard, _| drop(guard),
        |_guard, token| token.cancel(),
    ];
    for way in give_back {
        let token = CancelToken::new();
        let guard = mgr.acquire("again").release_on(&token).try_lock().unwrap();
        assert!(other.try_lock("again").unwrap().is_none());
        way(guard.expect("it is free"), &token);
    }
    other.lock("again").unwrap().unlock().unwrap();
    assert_eq!((mgr.stats().acquired, mgr.stats().released), (3, 3));
}

#[apply(isolated_test)]
fn at_the_limit_every_acquire_fails_at_once_until_a_lock_is_given_back() {
    let mgr = builder().max_locks(3).connect().unwrap();
    let mut guards: Vec<Guard> = (0..3).map(|n| mgr.lock(n).unwrap()).collect();
    for key in [2, 3] {
        let mgr = mgr.clone();
        let acquires = thread::spawn(move || {
            [
                mgr.lock(key).map(Some),
                mgr.try_lock(key),
                mgr.try_lock_for(key, FOREVER),
                mgr.lock_shared(key).map(Some),
                mgr.acquire(key).timeout(FOREVER).lock().map(Some),
            ]
        });
        for acquire in finish(vec![acquires]).remove(0) {
            assert_eq!(acquire.unwrap_err().kind(), ErrorKind::LimitReached);
        }
    }
    guards.remove(0).unlock().unwrap();
    guards.push(mgr.lock(3).unwrap());
    drop(guards.pop());
    guards.push(mgr.try_lock(4).unwrap().expect("the slot is free again"));
    assert_eq!(mgr.stats().held, 3);
}

/// Tries from all managers at once, a thread for each. Returns how many got the lock.
fn winners(managers: &[Manager]) -> usize {
    let start = Arc::new(Barrier::new(managers.len()));
    let tries: Vec<_> = managers
        .iter()
        .cloned()
        .map(|mgr| {
            let start = Arc::clone(&start);
            thread::spawn(move || {
                start.wait();
                mgr.try_lock("one winner").unwrap()
            })
        })
        .collect();
    // All guards live until the last call has returned.
    finish(tries).into_iter().flatten().count()
}

#[apply(isolated_test)]
fn of_many_threads_that_try_exactly_one_wins() {
    let mgr = manager();
    for crowd in CROWDS {
        for _ in 0..10 {
            assert_eq!(winners(&vec![mgr.clone(); crowd]), 1, "of {crowd}");
        }
    }
}

#[apply(isolated_test)]
fn of_many_managers_that_try_exactly_one_wins() {
    let managers: Vec<Manager> = (0..50).map(|_| manager()).collect();
    for crowd in CROWDS {
        for _ in 0..10 {
            assert_eq!(winners(&managers[..crowd]), 1, "of {crowd}");
            // The winner's drop does not wait for its unlock.
            managers[0].lock("one winner").unwrap().unlock().unwrap();
        }
    }
}

/// Locks from all managers at once, a thread for each, `rounds` times. Fails if two ever hold
/// the lock together.
fn take_turns(managers: &[Manager], rounds: usize) {
    let start = Arc::new(Barrier::new(managers.len()));
    let inside = Arc::new(AtomicUsize::new(0));
    let entries = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = managers
        .iter()
        .cloned()
        .map(|mgr| {
            let (start, inside) = (Arc::clone(&start), Arc::clone(&inside));
            let entries = Arc::clone(&entries);
            thread::spawn(move || {
                start.wait();
                for _ in 0..rounds {
                    let guard = mgr.lock("turns").unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    // An increment that would be wrong with two at a time.
                    let seen = entries.load(Ordering::Relaxed);
                    thread::yield_now();
                    entries.store(seen + 1, Ordering::Relaxed);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(guard);
                }
            })
        })
        .collect();
    finish(threads);
    assert_eq!(entries.load(Ordering::SeqCst), managers.len() * rounds);
}

#[apply(isolated_test)]
fn many_threads_that_wait_all_get_in_one_at_a_time() {
    let mgr = manager();
    for crowd in CROWDS {
        take_turns(&vec![mgr.clone(); crowd], 20);
    }
}

#[apply(isolated_test)]
fn many_managers_that_wait_all_get_in_one_at_a_time() {
    let managers: Vec<Manager> = (0..50).map(|_| manager()).collect();
    for crowd in CROWDS {
        take_turns(&managers[..crowd], 2);
    }
    // And both at once: five threads on each of four managers.
    let mixed: Vec<Manager> = (0..20).map(|n| managers[n % 4].clone()).collect();
    take_turns(&mixed, 5);
}

#[apply(isolated_test)]
fn a_wait_can_be_cancelled_while_the_database_is_away() {
    let server = Server::start().unwrap();
    let mgr = Manager::builder(&server.url())
        .wait_while_unavailable(true)
        .connect()
        .unwrap();
    let token = CancelToken::new();
    let held = mgr.acquire("held").release_on(&token).lock().unwrap();
    server.stop(Shutdown::Immediate).unwrap();
    assert_eq!(held.watch().wait(), Ended::SessionLost);
    let waits: Vec<_> = (0..8)
        .map(|_| {
            let (mgr, token) = (mgr.clone(), token.child());
            thread::spawn(move || mgr.acquire("away").release_on(&token).lock().unwrap_err())
        })
        .collect();
    eventually(|| mgr.stats().waiting == 8);
    token.cancel();
    assert!(
        finish(waits)
            .iter()
            .all(|error| error.kind() == ErrorKind::Cancelled)
    );
    assert_eq!(held.watch().wait(), Ended::SessionLost);
    // A call that was cancelled meanwhile takes no lock afterwards.
    server.start_again().unwrap();
    mgr.lock("after").unwrap().unlock().unwrap();
    assert!(advisory_locks(&mut server.client()).is_empty());
    assert_eq!(mgr.stats().waiting, 0);
}

#[apply(isolated_test)]
fn every_lock_trips_when_the_database_is_ripped_out() {
    let server = Server::start().unwrap();
    let managers: Vec<_> = (0..3)
        .map(|_| Manager::connect(&server.url()).unwrap())
        .collect();
    let guards: Vec<Guard> = (0..30)
        .map(|n: usize| managers[n % 3].lock(n as i64).unwrap())
        .collect();
    server.stop(Shutdown::Immediate).unwrap();
    for guard in guards {
        assert_eq!(guard.watch().wait(), Ended::SessionLost);
        assert!(guard.is_lost());
        assert_eq!(guard.unlock().unwrap_err().kind(), ErrorKind::Lost);
    }
    for mgr in managers {
        let error = mgr.lock("gone").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!((mgr.stats().lost, mgr.stats().held), (10, 0));
    }
}

#[apply(isolated_test)]
fn the_manager_works_after_a_flapping_database() {
    let server = Server::start().unwrap();
    let mgr = Manager::connect(&server.url()).unwrap();
    for round in 1..=4 {
        let mut taken = None;
        eventually(|| {
            taken = mgr.try_lock("flap").ok().flatten();
            taken.is_some()
        });
        let guard = taken.expect("it was just seen");
        assert_eq!(
            advisory_locks(&mut server.client()),
            [guard.key().as_i64()],
            "in round {round}"
        );
        server.restart(Shutdown::Immediate).unwrap();
        assert_eq!(guard.watch().wait(), Ended::SessionLost);
        assert_eq!(mgr.stats().lost, round);
    }
    eventually(|| mgr.try_lock("flap").is_ok_and(|guard| guard.is_some()));
    eventually(|| advisory_locks(&mut server.client()).is_empty());
}
