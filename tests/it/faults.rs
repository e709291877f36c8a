//! The faults of the Go package, by number and name: each test would fail on it. Those
//! that need a database which is away are in `outages`, and one which is silent in
//! `stalled`. No test: the data races of 10, which the compiler refuses, and the checks
//! of 19.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use distlock::{CancelToken, Ended, ErrorKind, Key, Manager};
use throwaway_postgres::Server;

use crate::support::*;

const MS: Duration = Duration::from_millis(1);

#[apply(isolated_test)]
fn fault_02_shutdown_deadlocks_under_load() {
    for round in 0..20 {
        let mgr = builder().queue_capacity(4).connect().unwrap();
        let callers = (0..24)
            .map(|n: i64| {
                let mgr = mgr.clone();
                thread::spawn(move || {
                    loop {
                        let guard = match n % 4 {
                            0 => mgr.lock(n).map(Some),
                            1 => mgr.try_lock("common"),
                            2 => mgr.try_lock_for("common", FOREVER),
                            _ => mgr.lock("common").map(Some),
                        };
                        match guard {
                            Err(error) => return error.kind(),
                            Ok(Some(guard)) if n % 2 == 0 => guard.unlock().unwrap_or(()),
                            Ok(guard) => drop(guard),
                        }
                    }
                })
            })
            .collect();
        eventually(|| mgr.stats().acquired > 50 * (round % 4));
        mgr.close().unwrap();
        assert_eq!(finish(callers), [ErrorKind::Closed; 24]);
    }
}

#[apply(isolated_test)]
fn fault_02_shutdown_is_missed_by_a_sleeping_worker() {
    for _ in 0..300 {
        let mgr = manager();
        let start = Arc::new(Barrier::new(5));
        let callers = (0..4)
            .map(|n: i64| {
                let (mgr, start) = (mgr.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    while mgr.try_lock(n).is_ok() {}
                })
            })
            .collect();
        start.wait();
        mgr.close().unwrap();
        finish(callers);
    }
}

#[apply(isolated_test)]
fn fault_02_callers_are_serialised() {
    let mgr = manager();
    let done = Arc::new(AtomicBool::new(false));
    let callers = (0..16)
        .map(|n: i64| {
            let (mgr, done) = (mgr.clone(), Arc::clone(&done));
            thread::spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    mgr.lock(n).unwrap().unlock().unwrap();
                }
            })
        })
        .collect();
    eventually(|| mgr.stats().largest_batch >= 4);
    done.store(true, Ordering::SeqCst);
    finish(callers);
}

#[apply(isolated_test)]
fn fault_03_unlock_by_key_without_ownership() {
    let (mgr, other) = (manager(), manager());
    let token = CancelToken::new();
    let old = mgr.acquire("key").release_on(&token).lock().unwrap();
    token.cancel();
    let next = mgr.lock("key").unwrap();
    // Every way to end the old hold once more.
    token.cancel();
    drop(old);
    drop(token);
    mgr.lock("the worker has seen it")
        .unwrap()
        .unlock()
        .unwrap();
    assert!(mgr.try_lock("key").unwrap().is_none());
    assert!(other.try_lock_shared("key").unwrap().is_none());
    assert!(!next.is_lost());
    next.unlock().unwrap();

    // Shared holders are counted, not named: none may be counted twice.
    let token = CancelToken::new();
    let old = mgr
        .acquire("key")
        .shared()
        .release_on(&token)
        .lock()
        .unwrap();
    let fellow = mgr.lock_shared("key").unwrap();
    token.cancel();
    token.cancel();
    old.unlock().unwrap_err();
    mgr.lock("the worker has seen it")
        .unwrap()
        .unlock()
        .unwrap();
    assert!(other.try_lock("key").unwrap().is_none());
    fellow.unlock().unwrap();
}

#[apply(isolated_test)]
fn fault_03_a_guard_from_before_a_reconnect_frees_the_next_holders_lock() {
    let (mgr, other) = (manager(), manager());
    let token = CancelToken::new();
    let old = [
        mgr.acquire("key").release_on(&token).lock().unwrap(),
        mgr.lock_shared("shared").unwrap(),
    ];
    terminate_sessions(&mut server().client());
    // Of the old guards only one is watched.
    assert_eq!(old[0].watch().wait(), Ended::SessionLost);
    assert!(old[1].is_lost());
    let next = [mgr.lock("key").unwrap(), mgr.lock_shared("shared").unwrap()];
    token.cancel();
    drop(old);
    mgr.lock("the worker has seen it")
        .unwrap()
        .unlock()
        .unwrap();
    for guard in next {
        assert!(other.try_lock(guard.key()).unwrap().is_none());
        guard.unlock().unwrap();
    }
}

#[apply(isolated_test)]
fn fault_04_the_entry_goes_though_the_unlock_failed() {
    let server = Server::start().unwrap();
    let mut client = server.client();
    impose(&mut client, "pg_catalog.pg_advisory_unlock", "false");
    let mgr = Manager::connect(&server.url()).unwrap();
    mgr.lock("key").unwrap().unlock().unwrap();
    for (reconnects, quiet) in [(1, false), (2, true)] {
        let (guard, bystander) = (mgr.lock("key").unwrap(), mgr.lock("by").unwrap());
        let watch = bystander.watch();
        // Not to the next session: a server on which no unlock works is refused.
        client
            .batch_execute(
                "INSERT INTO imposed SELECT pid FROM pg_stat_activity \
                 WHERE application_name = 'distlock'",
            )
            .unwrap();
        if quiet {
            drop(guard);
        } else {
            assert_eq!(guard.unlock().unwrap_err().kind(), ErrorKind::Lost);
        }
        // The session that nothing is known about any more is gone, and all its locks.
        assert_eq!(watch.wait(), Ended::SessionLost);
        eventually(|| advisory_locks(&mut client).is_empty());
        client.batch_execute("DELETE FROM imposed").unwrap();
        eventually(|| match mgr.lock("key") {
            Ok(guard) => guard.unlock().is_ok(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                false
            }
        });
        assert_eq!(mgr.stats().reconnects, reconnects);
        eventually(|| backends(&mut client).len() == 1);
    }
}

#[apply(isolated_test)]
fn fault_06_any_error_counts_as_loss() {
    let server = Server::start().unwrap();
    let mut client = server.client();
    let name = "pg_catalog.pg_try_advisory_lock";
    let slow = "pg_catalog.pg_sleep(60) IS NULL";
    impose(&mut client, name, slow);
    let mgr = Manager::connect(&server.url()).unwrap();
    let bystander = mgr.lock("by").unwrap();
    client
        .batch_execute("INSERT INTO imposed DEFAULT VALUES")
        .unwrap();
    let wait = thread::spawn({
        let mgr = mgr.clone();
        move || mgr.lock("key").unwrap().unlock().unwrap()
    });
    let asleep = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    eventually(|| client.execute(asleep, &[]).unwrap() == 1);
    client.batch_execute("DELETE FROM imposed").unwrap();
    for pid in backends(&mut client) {
        let cancel = "SELECT pg_cancel_backend($1)";
        client.execute(cancel, &[&pid]).unwrap();
    }
    finish(vec![wait]);
    assert_eq!(bystander.watch().ended(), None);
    bystander.unlock().unwrap();
    assert_eq!(mgr.stats().reconnects, 0);
}

#[apply(isolated_test)]
fn fault_12_the_pool_blocks_when_it_is_full() {
    let mgr = builder().queue_capacity(4).connect().unwrap();
    for _ in 0..3 {
        let start = Arc::new(Barrier::new(300));
        let callers = (0..300)
            .map(|n: i64| {
                let (mgr, start) = (mgr.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    // Half of them all at the same five keys.
                    let key = if n % 2 == 0 { n } else { n % 5 };
                    mgr.lock(key).unwrap().key() == &Key::from(key)
                })
            })
            .collect();
        assert_eq!(finish(callers), [true; 300]);
    }
    assert_eq!(mgr.stats().acquired, 900);
}

#[apply(isolated_test)]
fn fault_13_a_sleep_that_nothing_interrupts() {
    let holder = manager();
    let mgr = builder()
        .retry_interval(FOREVER, FOREVER)
        .connect()
        .unwrap();
    let guard = holder.lock("key").unwrap();
    let token = CancelToken::new();
    let wait = thread::spawn({
        let (mgr, token) = (mgr.clone(), token.clone());
        move || mgr.acquire("key").cancel(&token).lock().unwrap_err().kind()
    });
    eventually(|| mgr.stats().contended == 1);
    let start = Instant::now();
    token.cancel();
    assert_eq!(finish(vec![wait]), [ErrorKind::Cancelled]);
    assert!(mgr.try_lock_for("key", 200 * MS).unwrap().is_none());
    guard.unlock().unwrap();
    assert!(mgr.try_lock("key").unwrap().is_some());
    assert!(start.elapsed() < FOREVER / 4, "{:?}", start.elapsed());
}

#[apply(isolated_test)]
fn fault_13_slow_hand_over_between_managers() {
    let managers = [manager(), manager()];
    let start = Instant::now();
    let mut guard = managers[0].lock("key").unwrap();
    for n in 1..=40 {
        let mgr = managers[n % 2].clone();
        let contended = mgr.stats().contended;
        let next = thread::spawn({
            let mgr = mgr.clone();
            move || mgr.lock("key").unwrap()
        });
        eventually(|| mgr.stats().contended > contended);
        drop(guard);
        guard = finish(vec![next]).remove(0);
    }
    // The original's quarter of a second would make it 5 s on average.
    assert!(start.elapsed() < 3000 * MS, "{:?}", start.elapsed());
    drop(guard);
}

#[apply(isolated_test)]
fn fault_13_no_order_and_threads_that_are_never_served() {
    let mgr = manager();
    let served: Arc<[AtomicUsize; 16]> = Arc::default();
    let done = Arc::new(AtomicBool::new(false));
    let callers = (0..16)
        .map(|n| {
            let (mgr, done) = (mgr.clone(), Arc::clone(&done));
            let served = Arc::clone(&served);
            thread::spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let _guard = mgr.lock("key").unwrap();
                    served[n].fetch_add(1, Ordering::SeqCst);
                    thread::sleep(MS);
                }
            })
        })
        .collect();
    let all = within(Duration::from_secs(10), || {
        served.iter().all(|count| count.load(Ordering::SeqCst) >= 5)
    });
    done.store(true, Ordering::SeqCst);
    finish(callers);
    assert!(all, "{served:?}");
}

#[apply(isolated_test)]
fn fault_16_two_names_with_one_hash_are_both_held() {
    let mgr = manager();
    let twin = Key::from(Key::from("name").as_i64());
    let guard = mgr.lock("name").unwrap();
    assert!(mgr.try_lock(twin).unwrap().is_none());
    assert!(mgr.try_lock_shared(twin).unwrap().is_none());
    guard.unlock().unwrap();
    let guard = mgr.lock(twin).unwrap();
    assert!(mgr.try_lock("name").unwrap().is_none());
    drop(guard);
}

#[apply(isolated_test)]
fn fault_17_max_0_means_unlimited_and_the_limit_is_waited_for() {
    let refused = builder().max_locks(0).connect().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    let mgr = builder().max_locks(1).connect().unwrap();
    let _guard = mgr.lock("one").unwrap();
    let locks = ["one", "two"].map(|key| {
        let mgr = mgr.clone();
        thread::spawn(move || mgr.lock(key).unwrap_err().kind())
    });
    assert_eq!(finish(locks.into()), [ErrorKind::LimitReached; 2]);
}

#[apply(isolated_test)]
fn fault_18_no_close_and_the_context_that_connects_lives_on() {
    let mgr = thread::spawn(manager).join().unwrap();
    let guard = mgr.lock("held").unwrap();
    let mut client = server().client();
    mgr.close().unwrap();
    // Clones and guards are still there; threads and connections are not.
    eventually(|| threads().is_empty());
    eventually(|| backends(&mut client).is_empty());
    assert_eq!(mgr.clone().lock("x").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(guard.watch().ended(), Some(Ended::Closed));
}
