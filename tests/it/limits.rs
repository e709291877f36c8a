//! The server's lock table and the manager's own limit.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use distlock::{ErrorKind, Guard, Key, Manager};
use postgres::Client;
use serial_test::serial;
use throwaway_postgres::Server;

use crate::support::*;

/// A server whose lock table is as small as PostgreSQL allows.
fn small_server() -> Server {
    [
        ("max_locks_per_transaction", "10"),
        ("max_connections", "10"),
        ("max_prepared_transactions", "0"),
        ("autovacuum", "off"),
        ("autovacuum_max_workers", "1"),
        ("max_worker_processes", "1"),
        ("max_wal_senders", "0"),
        ("wal_level", "minimal"),
    ]
    .into_iter()
    .fold(Server::builder(), |builder, (name, value)| {
        builder.setting(name, value)
    })
    .start()
    .unwrap()
}

/// Takes new locks, from `first` on, until the server has no room for more.
fn fill(mgr: &Manager, first: i64) -> Vec<Guard> {
    let mut guards = Vec::new();
    for key in first.. {
        match mgr.try_lock(key) {
            Ok(guard) => guards.push(guard.unwrap()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::LockTableFull);
                break;
            }
        }
    }
    guards
}

fn assert_held(client: &mut Client, guards: &[Guard]) {
    let mut found = advisory_locks(client);
    found.sort_unstable();
    let mut expected: Vec<i64> = guards.iter().map(|guard| guard.key().as_i64()).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert!(guards.iter().all(|guard| !guard.is_lost()));
}

#[test]
#[serial]
fn a_full_lock_table_is_an_error_that_costs_nobody_a_lock() {
    let server = small_server();
    let _clean = clean_on(&server);
    let mgr = Manager::connect(&server.url()).unwrap();
    // Once the table is full, no client can connect.
    let mut client = server.client();
    let mut guards = fill(&mgr, 0);
    assert!(guards.len() > 50, "{}", guards.len());
    assert_held(&mut client, &guards);
    // Each way to acquire.
    for error in [
        mgr.lock(-1).unwrap_err(),
        mgr.lock_shared(-1).unwrap_err(),
        mgr.lock((-1, -1)).unwrap_err(),
        mgr.try_lock_for(-1, FOREVER).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::LockTableFull);
        let source = std::error::Error::source(&error).unwrap();
        let code = source.downcast_ref::<postgres::Error>().unwrap().code();
        assert_eq!(code.unwrap().code(), "53200");
    }
    assert_held(&mut client, &guards);
    // A held lock can be released and acquired again.
    for _ in 0..10 {
        let guard = guards.pop().unwrap();
        let key = *guard.key();
        guard.unlock().unwrap();
        guards.push(mgr.lock(key).unwrap());
    }
    assert_held(&mut client, &guards);
    drop(guards);
    eventually(|| advisory_locks(&mut client).is_empty());
    let again = fill(&mgr, 1_000_000);
    assert_held(&mut client, &again);
    assert!(again.len() > 50, "{}", again.len());
    let stats = mgr.stats();
    assert_eq!((stats.lost, stats.reconnects, stats.waiting), (0, 0, 0));
}

#[test]
#[serial]
fn a_batch_that_overfills_the_lock_table_leaks_nothing() {
    const THREADS: i32 = 16;
    let server = small_server();
    let _clean = clean_on(&server);
    let mgr = Manager::connect(&server.url()).unwrap();
    // Once the table is full, no client can connect.
    let mut client = server.client();
    let mut base = fill(&mgr, 0);
    let room = base.split_off(base.len() - 40);
    drop(room);
    let barrier = Barrier::new(THREADS.unsigned_abs() as usize);
    let guards: Vec<Guard> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|n| {
                let (mgr, barrier) = (&mgr, &barrier);
                scope.spawn(move || {
                    let mut guards = Vec::new();
                    for round in 0..10 {
                        barrier.wait();
                        match mgr.try_lock(Key::from((7, n * 1000 + round))) {
                            Ok(guard) => guards.push(guard.unwrap()),
                            Err(error) => assert_eq!(error.kind(), ErrorKind::LockTableFull),
                        }
                        // So that a failing batch contains unlocks as well.
                        if n % 4 == 0 {
                            guards.pop();
                        }
                    }
                    guards
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(guards.len() < 160 - 40, "{}", guards.len());
    let stats = mgr.stats();
    assert!(stats.largest_batch > 1);
    assert_eq!((stats.lost, stats.reconnects), (0, 0));
    base.extend(guards);
    eventually(|| advisory_locks(&mut client).len() == base.len());
    assert_held(&mut client, &base);
    drop(base);
    eventually(|| advisory_locks(&mut client).is_empty());
    assert!(mgr.try_lock(1).unwrap().is_some());
}

#[test]
#[serial]
fn a_full_lock_table_of_another_manager_frees_up_for_this_one() {
    let server = small_server();
    let _clean = clean_on(&server);
    let [one, two] = [(); 2].map(|()| Manager::connect(&server.url()).unwrap());
    let guards = fill(&one, 0);
    assert_eq!(two.lock(-1).unwrap_err().kind(), ErrorKind::LockTableFull);
    drop(guards);
    eventually(|| two.lock(-1).is_ok());
    assert_eq!((one.stats().lost, two.stats().lost), (0, 0));
}

#[apply(isolated_test)]
fn at_max_locks_every_acquire_is_refused_until_one_is_given_back() {
    let mgr = builder().max_locks(2).connect().unwrap();
    let one = mgr.lock("one").unwrap();
    let two = mgr.lock_shared("two").unwrap();
    for result in [
        mgr.try_lock("three"),
        mgr.lock("three").map(Some),
        mgr.lock_shared("two").map(Some),
        mgr.try_lock_for("three", FOREVER),
        mgr.try_lock("one"),
    ] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::LimitReached);
    }
    one.unlock().unwrap();
    let three = mgr.lock("three").unwrap();
    drop(two);
    let again = mgr.lock("one").unwrap();
    assert_eq!(mgr.stats().held, 2);
    drop((three, again));
    // A limit is this manager's own.
    let guards = [(); 4]
        .map(|()| manager())
        .map(|other| other.lock_shared("many").unwrap());
    assert_eq!(guards.len(), 4);
}

#[apply(isolated_test)]
fn no_more_than_max_locks_are_out_at_once_in_many_threads() {
    const MAX: usize = 4;
    let mgr = builder().max_locks(MAX).connect().unwrap();
    let (out, most, refused) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    thread::scope(|scope| {
        for n in 0..12_i64 {
            let (mgr, out, most, refused) = (&mgr, &out, &most, &refused);
            scope.spawn(move || {
                for _ in 0..100 {
                    match mgr.try_lock(n) {
                        Ok(guard) => {
                            most.fetch_max(out.fetch_add(1, SeqCst) + 1, SeqCst);
                            thread::yield_now();
                            out.fetch_sub(1, SeqCst);
                            drop(guard.unwrap());
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::LimitReached);
                            refused.fetch_add(1, SeqCst);
                        }
                    }
                }
            });
        }
    });
    assert!(most.load(SeqCst) <= MAX, "{most:?}");
    assert!(refused.load(SeqCst) > 0);
    // None of them counts towards the limit any more.
    let guards: Vec<_> = (0..MAX as i64).map(|key| mgr.lock(key).unwrap()).collect();
    assert_eq!(mgr.lock(-1).unwrap_err().kind(), ErrorKind::LimitReached);
    drop(guards);
}

#[apply(isolated_test)]
fn a_thread_that_drops_at_the_limit_can_lock_at_once() {
    let mgr = builder().max_locks(1).connect().unwrap();
    for key in 0..500_i64 {
        drop(mgr.lock(key).unwrap());
    }
}

#[test]
#[serial]
fn a_failure_in_the_middle_of_a_big_batch_costs_nobody_a_lock() {
    const CALLERS: usize = 400;
    const ROOM: usize = 100;
    // Room for some 7,000 locks: reading the held locks from the server takes a while.
    let server = Server::builder()
        .setting("max_locks_per_transaction", "256")
        .setting("max_connections", "10")
        .start()
        .unwrap();
    let _clean = clean_on(&server);
    // Too short to read all locks at each step.
    let mgr = Manager::builder(&server.url())
        .lease(Duration::from_secs(3))
        .connect()
        .unwrap();
    // Once the table is full, hardly any query succeeds.
    let mut client = server.client();
    let session = backends(&mut client);
    let mut guards = fill(&mgr, 0);
    drop(guards.split_off(guards.len() - ROOM));
    let paused = Paused::new(session);
    let taken: Vec<Guard> = thread::scope(|scope| {
        let callers: Vec<_> = (1..)
            .take(CALLERS)
            .map(|n: i64| {
                let caller = thread::Builder::new().name("caller".into());
                let mgr = &mgr;
                caller
                    .spawn_scoped(scope, move || mgr.try_lock(-n))
                    .unwrap()
            })
            .collect();
        // They wait while the worker waits for the server.
        eventually(|| asleep("caller") == CALLERS);
        drop(paused);
        callers
            .into_iter()
            .filter_map(|caller| match caller.join().unwrap() {
                Ok(guard) => Some(guard.unwrap()),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::LockTableFull);
                    None
                }
            })
            .collect()
    });
    let stats = mgr.stats();
    assert!(stats.largest_batch > CALLERS as u64 / 2, "{stats:?}");
    assert_eq!((stats.lost, stats.reconnects), (0, 0));
    assert!(
        !taken.is_empty() && taken.len() < CALLERS,
        "{}",
        taken.len()
    );
    guards.extend(taken);
    assert_held(&mut client, &guards);
    drop(guards);
    eventually(|| advisory_locks(&mut client).is_empty());
}

#[apply(isolated_test)]
fn whoever_cancels_a_heartbeat_ends_no_hold_of_many(server: Server) {
    let mgr = Manager::builder(&server.url())
        .heartbeat(Duration::from_millis(1))
        .connect()
        .unwrap();
    let guards: Vec<_> = (0..300_i64).map(|key| mgr.lock(key).unwrap()).collect();
    let mut client = server.client();
    let [pid] = backends(&mut client)[..] else {
        panic!("one session");
    };
    let cancelled = || {
        server
            .log()
            .matches("canceling statement due to user")
            .count()
    };
    // Few of them hit a heartbeat. One at a time: three in a row count as a failed server.
    let cancel = client.prepare("SELECT pg_cancel_backend($1)").unwrap();
    eventually(|| {
        for _ in 0..100 {
            let before = mgr.stats().round_trips;
            client.execute(&cancel, &[&pid]).unwrap();
            eventually(|| mgr.stats().round_trips > before + 3);
        }
        cancelled() >= 3
    });
    assert!(guards.iter().all(|guard| !guard.is_lost()));
    assert_eq!(mgr.stats().lost, 0);
}

#[apply(isolated_test)]
fn the_transaction_that_many_locks_open_does_not_get_old() {
    let mgr = builder().heartbeat(FOREVER).lease(None).connect().unwrap();
    let _guards: Vec<_> = (0..300_i64).map(|key| mgr.lock(key).unwrap()).collect();
    let mut client = server().client();
    let begun = "SELECT xact_start::text FROM pg_stat_activity \
         WHERE application_name LIKE 'distlock %' AND state LIKE 'idle in transaction%'";
    let mut begun = || client.query_one(begun, &[]).ok().and_then(|row| row.get(0));
    let mut first: Option<String> = None;
    eventually(|| {
        first = begun();
        first.is_some()
    });
    // Sooner than the heartbeat.
    assert!(within(FOREVER / 3, || begun()
        .is_some_and(|now| Some(now) != first)));
}

#[apply(isolated_test)]
fn the_transaction_that_many_locks_open_holds_no_vacuum_back(server: Server) {
    let mgr = Manager::connect(&server.url()).unwrap();
    let _guards: Vec<_> = (0..300_i64).map(|key| mgr.lock(key).unwrap()).collect();
    let mut client = server.client();
    let mut transaction = || -> Option<(String, bool)> {
        let session = "SELECT xact_start::text, backend_xmin IS NULL FROM pg_stat_activity \
             WHERE application_name LIKE 'distlock %' AND state = 'idle in transaction'";
        let row = client.query_opt(session, &[]).unwrap()?;
        Some((row.get(0), row.get(1)))
    };
    // Within one transaction: its snapshot is released, although the transaction is the same.
    eventually(|| {
        drop(mgr.lock(1000).unwrap());
        let before = transaction();
        let mut after = before.clone();
        eventually(|| {
            after = transaction();
            after.as_ref().is_some_and(|(_, free)| *free)
        });
        matches!((before, after), (Some((begun, false)), Some((same, true))) if begun == same)
    });
    assert!(!server.log().contains("WARNING"), "{}", server.log());
}

#[apply(isolated_test)]
fn max_locks_of_zero_is_refused_and_a_lock_beyond_the_limit_fails_at_once() {
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
