//! What a call returns when a fault occurs while it is in progress.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use distlock::{ErrorKind, Manager};
use throwaway_postgres::{Proxy, Server};

use crate::support::*;

const MS: Duration = Duration::from_millis(1);

#[apply(isolated_test)]
fn a_lock_that_is_lost_before_the_call_returns_is_waited_for_again(server: Server) {
    let mgr = Manager::builder(&server.url())
        .wait_while_unavailable(true)
        .reconnect_backoff(Duration::from_millis(1), Duration::from_millis(1))
        .connect()
        .unwrap();
    let over = AtomicBool::new(false);
    // More than the processors: some have their grant, but are not running, when it is lost.
    let callers = 32;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..callers)
            .map(|n: i64| {
                let (mgr, over) = (&mgr, &over);
                scope.spawn(move || {
                    while !over.load(SeqCst) {
                        drop(mgr.lock(n)?);
                        mgr.try_lock_for(n, FOREVER)?;
                    }
                    Ok::<_, distlock::Error>(())
                })
            })
            .collect();
        let mut client = server.client();
        for _ in 0..40 {
            let before = mgr.stats().acquired;
            terminate_sessions(&mut client);
            eventually(|| {
                mgr.stats().acquired > before + 100 || threads.iter().any(|t| t.is_finished())
            });
        }
        over.store(true, SeqCst);
        for thread in threads {
            thread.join().unwrap().unwrap();
        }
    });
}

/// A call with a timeout; `Ok(true)` if it got the lock.
fn timed(mgr: &Manager, key: &str, time: Duration) -> Result<bool, ErrorKind> {
    let outcome = mgr.try_lock_for(key, time);
    outcome
        .map(|guard| guard.is_some())
        .map_err(|error| error.kind())
}

#[apply(isolated_test)]
fn a_free_lock_is_not_said_to_be_taken_by_who_is_too_far_away_to_know() {
    let network = Proxy::to(server()).unwrap();
    let mgr = Manager::connect(&network.url()).unwrap();
    drop(mgr.lock("warm").unwrap());
    network.delay_data(75 * MS);
    for time in [20 * MS, 60 * MS, 100 * MS, 120 * MS] {
        let outcome = timed(&mgr, "free", time);
        assert_eq!(outcome, Err(ErrorKind::Unavailable), "{time:?}");
    }
    network.delay_data(Duration::ZERO);
    eventually(|| timed(&mgr, "free", FOREVER) == Ok(true));
}

#[apply(isolated_test)]
fn a_taken_lock_is_said_to_be_taken_however_far_the_database_is() {
    let holder = manager();
    let guard = holder.lock("taken").unwrap();
    let network = Proxy::to(server()).unwrap();
    let mgr = Manager::connect(&network.url()).unwrap();
    network.delay_data(150 * MS);
    // Long enough for one round trip, even if the last one is still in progress.
    for _ in 0..3 {
        assert_eq!(timed(&mgr, "taken", 2500 * MS), Ok(false));
    }
    network.delay_data(Duration::ZERO);
    drop(guard);
    eventually(|| timed(&mgr, "taken", FOREVER) == Ok(true));
}

#[apply(isolated_test)]
fn an_overloaded_manager_does_not_say_that_free_locks_are_taken() {
    let network = Proxy::to(server()).unwrap();
    let mgr = Manager::builder(&network.url())
        .queue_capacity(1)
        .connect()
        .unwrap();
    network.delay_data(20 * MS);
    thread::scope(|scope| {
        for n in 0..64 {
            let mgr = &mgr;
            scope.spawn(move || {
                for round in 0..5 {
                    let outcome = mgr.try_lock_for(n * 100 + round, 10 * MS);
                    assert!(!matches!(outcome, Ok(None)), "free, and said to be taken");
                }
            });
        }
    });
    network.delay_data(Duration::ZERO);
}

#[apply(isolated_test)]
fn behind_somebody_whom_nobody_has_answered_a_lock_is_not_said_to_be_taken() {
    let network = Proxy::to(server()).unwrap();
    network.silence(true);
    let mgr = Manager::builder(&network.url())
        .connect_timeout(500 * MS)
        .connect_lazy()
        .unwrap();
    thread::scope(|scope| {
        let first = scope.spawn(|| mgr.lock("key").map(drop));
        eventually(|| mgr.stats().waiting == 1);
        for outcome in [mgr.try_lock("key"), first.join().unwrap().map(|()| None)] {
            let kind = outcome.map(|guard| guard.is_some()).unwrap_err().kind();
            assert_eq!(kind, ErrorKind::Unavailable);
        }
    });
    network.silence(false);
    mgr.close().unwrap();
}

#[apply(isolated_test)]
fn a_call_with_no_time_left_does_not_wait_for_a_silent_server() {
    let network = Proxy::to(server()).unwrap();
    let mgr = Manager::connect(&network.url()).unwrap();
    assert_eq!(timed(&mgr, "free", Duration::ZERO), Ok(true));
    let guard = mgr.lock("held").unwrap();
    assert_eq!(timed(&mgr, "held", Duration::ZERO), Ok(false));
    network.silence(true);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let calls = scope.spawn(|| {
            // Together longer than the server may stay silent, if each waited for it.
            let zero = timed(&mgr, "free", Duration::ZERO);
            let past = mgr.try_lock_until("free", Instant::now()).map(drop);
            let built = mgr.acquire("free").timeout(Duration::ZERO).lock().map(drop);
            over.store(true, SeqCst);
            (
                zero,
                past.map_err(|e| e.kind()),
                built.map_err(|e| e.kind()),
            )
        });
        // The guard's lease expires long after that.
        while !guard.is_lost() && !over.load(SeqCst) {
            thread::sleep(MS);
        }
        assert!(over.load(SeqCst), "a call waits for the server");
        let unknown = Err(ErrorKind::Unavailable);
        assert_eq!(
            calls.join().unwrap(),
            (Err(ErrorKind::Unavailable), unknown, unknown)
        );
    });
    network.silence(false);
}
