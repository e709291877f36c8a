//! Some of many locks, whichever are free.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use distlock::{ErrorKind, Guard, Key, Manager};
use throwaway_postgres::Server;

use crate::support::*;

fn numbers(guards: &[Guard]) -> HashSet<i64> {
    guards.iter().map(|guard| guard.key().as_i64()).collect()
}

#[apply(isolated_test)]
fn those_that_are_free_are_taken_in_one_round_trip() {
    let (mgr, other) = (manager(), manager());
    let mut client = server().client();
    drop(mgr.try_lock_some([1], 1).unwrap());
    eventually(|| advisory_locks(&mut client).is_empty());
    let taken = other.lock_all(0..500).unwrap();
    let before = mgr.stats().round_trips;
    let some = mgr.try_lock_some(0..1000, 16).unwrap();
    assert_eq!(mgr.stats().round_trips, before + 1);
    assert_eq!((some.len(), numbers(&some).len()), (16, 16));
    assert!(
        numbers(&some)
            .iter()
            .all(|number| (500..1000).contains(number))
    );
    assert_eq!(advisory_locks(&mut client).len(), 516);
    assert_eq!(mgr.stats().held, 16);
    // Not those that a thread of this process has, either.
    let rest = mgr.try_lock_some(0..1000, 1000).unwrap();
    assert_eq!(rest.len(), 484);
    assert!(numbers(&some).is_disjoint(&numbers(&rest)));
    assert!(mgr.try_lock_some(0..1000, 3).unwrap().is_empty());
    taken.unlock().unwrap();
    assert_eq!(mgr.try_lock_some(0..1000, 500).unwrap().len(), 500);
    drop((some, rest));
    eventually(|| advisory_locks(&mut client).is_empty());
    assert_eq!(mgr.stats().held, 0);
}

#[apply(isolated_test)]
fn keys_of_all_kinds_and_twice() {
    let mgr = builder().namespace("jobs").connect().unwrap();
    let keys = || {
        let numbers = [Key::from(1), Key::from((1, 2)), Key::from("name")];
        numbers
            .into_iter()
            .chain([Key::from(("tenant", 17)), Key::from(1)])
    };
    let all = mgr.try_lock_some(keys(), 10).unwrap();
    assert_eq!(all.len(), 4);
    let got: HashSet<Key> = all.iter().map(|guard| *guard.key()).collect();
    assert!(got.contains(&mgr.key("name")) && got.contains(&Key::from((1, 2))));
    assert!(manager().try_lock((1, 2)).unwrap().is_none());
    // One that was released a moment ago is free.
    for guard in all {
        let key = *guard.key();
        drop(guard);
        assert_eq!(mgr.try_lock_some([key], 1).unwrap().len(), 1);
    }
}

#[apply(isolated_test)]
fn nothing_is_had_of_nothing() {
    let mgr = builder().max_locks(3).connect().unwrap();
    let nothing: [&str; 0] = [];
    assert!(mgr.try_lock_some(nothing, 5).unwrap().is_empty());
    assert!(mgr.try_lock_some([1], 0).unwrap().is_empty());
    let most = mgr.try_lock_some(0..10, usize::MAX).unwrap();
    assert_eq!(most.len(), 3);
    let error = mgr.try_lock_some(0..10, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    drop(most);
    mgr.close().unwrap();
    assert_eq!(
        mgr.try_lock_some([1], 1).unwrap_err().kind(),
        ErrorKind::Closed
    );
}

/// Workers of several processes claim jobs until all are done: each once.
#[apply(isolated_test)]
fn workers_claim_each_job_once() {
    const JOBS: i64 = 600;
    let managers: Vec<_> = (0..3).map(|_| manager()).collect();
    let (done, inside) = (Mutex::new(HashSet::new()), Mutex::new(HashSet::new()));
    let double = AtomicUsize::new(0);
    thread::scope(|scope| {
        for mgr in managers.iter().cycle().take(9) {
            let (done, inside, double) = (&done, &inside, &double);
            scope.spawn(move || {
                loop {
                    let left: Vec<i64> = {
                        let done = done.lock().unwrap();
                        (0..JOBS).filter(|job| !done.contains(job)).collect()
                    };
                    if left.is_empty() {
                        break;
                    }
                    for guard in mgr.try_lock_some(left, 4).unwrap() {
                        let job = guard.key().as_i64();
                        assert!(inside.lock().unwrap().insert(job), "two at {job}");
                        double.fetch_add(usize::from(!done.lock().unwrap().insert(job)), SeqCst);
                        inside.lock().unwrap().remove(&job);
                    }
                }
            });
        }
    });
    assert_eq!(done.lock().unwrap().len() as i64, JOBS);
    // Only those that somebody else finished after the list was made.
    assert!(double.load(SeqCst) < 300, "{double:?}");
}

/// Not all begin with the same ones.
#[apply(isolated_test)]
fn the_first_tried_is_a_random_one() {
    let mgr = manager();
    let first = || {
        let guards = mgr.try_lock_some(0..1000, 1).unwrap();
        guards[0].key().as_i64()
    };
    let firsts: HashSet<i64> = (0..20).map(|_| first()).collect();
    assert!(firsts.len() > 10, "{firsts:?}");
}

#[apply(isolated_test)]
fn each_has_its_own_token_and_may_be_fenced() {
    let mgr = builder()
        .fencing("public.distlock_pick_token")
        .connect()
        .unwrap();
    let before = mgr.lock(7).unwrap().token();
    let some = mgr.try_lock_some([5, 6, 7], 3).unwrap();
    let tokens: HashSet<_> = some.iter().map(Guard::token).collect();
    assert_eq!(tokens.len(), 3);
    assert!(tokens.iter().all(|&token| token > before));
    let mut writer = server().client();
    let mut transaction = writer.transaction().unwrap();
    some[0].fence(&mut transaction).unwrap();
    let fenced = *some[0].key();
    drop(some);
    let next = eventually_some(&mgr, [5, 6, 7], 2);
    assert!(
        !numbers(&next).contains(&fenced.as_i64()),
        "its transaction is open"
    );
    transaction.commit().unwrap();
    drop(next);
    assert_eq!(eventually_some(&mgr, [5, 6, 7], 3).len(), 3);
    drop(mgr);
    let mut admin = server().client();
    admin
        .batch_execute("DROP SEQUENCE public.distlock_pick_token")
        .unwrap();
}

fn eventually_some(mgr: &Manager, keys: [i64; 3], enough: usize) -> Vec<Guard> {
    let mut some = Vec::new();
    eventually(|| {
        some.clear();
        some = mgr.try_lock_some(keys, 3).unwrap();
        some.len() == enough
    });
    some
}

#[apply(isolated_test)]
fn after_an_error_none_is_held(server: Server) {
    let mut admin = server.client();
    let mgr = Manager::connect(&server.url()).unwrap();
    let beside = mgr.lock((1, 1)).unwrap();
    drop(mgr.try_lock_some(0..4, 4).unwrap());
    let stop = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = server.client();
            while stop.load(SeqCst) == 0 {
                // Not those that find out what the cancelled one has done.
                let before = mgr.stats().round_trips;
                cancel_statements(&mut client);
                while stop.load(SeqCst) == 0 && mgr.stats().round_trips < before + 5 {
                    thread::yield_now();
                }
            }
        });
        let tried: Vec<_> = (0..100)
            .map(|_| mgr.try_lock_some(0..2000, 1000).map(|some| some.len()))
            .collect();
        stop.store(1, SeqCst);
        for tried in &tried {
            match tried {
                Ok(some) => assert_eq!(*some, 1000),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Database, "{error:?}"),
            }
        }
    });
    eventually(|| mgr.stats().held == 1 && advisory_locks(&mut admin).len() == 1);
    assert!(!beside.is_lost());
    assert_eq!(mgr.stats().lost, 0);
}

#[apply(isolated_test)]
fn it_fails_while_the_database_is_away(server: Server) {
    let mgr = Manager::builder(&server.url())
        .reconnect_backoff(Duration::from_millis(10), Duration::from_millis(50))
        .connect()
        .unwrap();
    let some = mgr.try_lock_some(0..4, 4).unwrap();
    server.stop(throwaway_postgres::Shutdown::Fast).unwrap();
    eventually(|| some[0].is_lost());
    let error = mgr.try_lock_some(0..4, 4).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(mgr.stats().waiting, 0);
    server.start_again().unwrap();
    eventually(|| mgr.try_lock_some(0..4, 4).is_ok_and(|some| some.len() == 4));
}

/// Also while a hold is fenced, whose transactions have to see that its session lives.
#[apply(isolated_test)]
fn one_that_fails_leaves_fences_as_they_are(server: Server) {
    let mgr = Manager::builder(&server.url())
        .heartbeat(FOREVER / 4)
        .lease(FOREVER)
        .connect()
        .unwrap();
    let guard = mgr.lock("work").unwrap();
    guard.fence_sql().unwrap();
    let error = mgr.try_lock_some((0..200_000).map(|n| (7, n)), 200_000);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::LockTableFull);
    let mut writer = server.client();
    let mut transaction = writer.transaction().unwrap();
    guard.fence(&mut transaction).unwrap();
}
