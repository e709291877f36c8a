//! Tokens that cannot be drawn for a while: what that costs the callers that need them, and all
//! others.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use distlock::{ErrorKind, Manager};
use throwaway_postgres::Server;

use crate::support::*;

const SEQUENCE: &str = "public.distlock_token";

#[apply(isolated_test)]
fn an_error_that_lasts_costs_a_round_trip_for_all_and_not_for_each(server: Server) {
    const THREADS: usize = 200;
    let mut client = server.client();
    client
        .batch_execute("CREATE SEQUENCE public.distlock_token MAXVALUE 100")
        .unwrap();
    let mgr = Manager::builder(&server.url())
        .fencing(SEQUENCE)
        .connect()
        .unwrap();
    let held: Vec<_> = (1000..1100).map(|n: i64| mgr.lock(n).unwrap()).collect();
    let before = mgr.stats().round_trips;
    let together = Barrier::new(THREADS);
    thread::scope(|scope| {
        for n in (0_i64..).take(THREADS) {
            let (mgr, together) = (&mgr, &together);
            scope.spawn(move || {
                together.wait();
                let error = mgr.try_lock(n).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Fencing, "{error}");
            });
        }
    });
    for guard in held {
        guard.unlock().unwrap();
    }
    let round_trips = mgr.stats().round_trips - before;
    // 100 unlocks, one after the other, and the failures: far fewer than one for each failure.
    assert!(round_trips < 100 + 100, "{round_trips}");
    assert_eq!((mgr.stats().lost, mgr.stats().held), (0, 0));
    eventually(|| advisory_locks(&mut client).is_empty());
    client
        .batch_execute("ALTER SEQUENCE public.distlock_token MAXVALUE 1000000")
        .unwrap();
    eventually(|| mgr.try_lock(1).is_ok_and(|guard| guard.is_some()));
}

/// A lock function whose privilege is revoked fails only the calls that need it.
#[apply(isolated_test)]
fn a_right_that_is_revoked_costs_nobody_else_a_lock(server: Server) {
    const THREADS: usize = 200;
    let mut client = server.client();
    client
        .batch_execute(
            "CREATE ROLE app LOGIN; \
             GRANT EXECUTE ON FUNCTION pg_try_advisory_lock_shared(bigint) TO app",
        )
        .unwrap();
    let mgr = Manager::connect(&server.url().replace("user=postgres", "user=app")).unwrap();
    client
        .batch_execute(
            "REVOKE EXECUTE ON FUNCTION pg_try_advisory_lock_shared(bigint) FROM app, PUBLIC",
        )
        .unwrap();
    let together = Barrier::new(THREADS + 1);
    thread::scope(|scope| {
        scope.spawn(|| {
            together.wait();
            for _ in 0..100 {
                let error = mgr.lock_shared("shared").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Database, "{error}");
            }
        });
        for n in (0_i64..).take(THREADS) {
            let (mgr, together) = (&mgr, &together);
            scope.spawn(move || {
                together.wait();
                for _ in 0..20 {
                    assert!(mgr.try_lock(n).unwrap().is_some());
                }
            });
        }
    });
    assert_eq!(mgr.stats().lost, 0);
}

#[apply(isolated_test)]
fn a_sequence_that_was_made_anew_is_found_again(server: Server) {
    let mut client = server.client();
    let mgr = Manager::builder(&server.url())
        .fencing(SEQUENCE)
        .connect()
        .unwrap();
    let kept = mgr.lock("kept").unwrap();
    client
        .batch_execute("DROP SEQUENCE public.distlock_token")
        .unwrap();
    // The manager does not create it: its tokens would start over. Nor does the next session.
    let missing = |mgr: &Manager| {
        let error = mgr.try_lock("missing").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fencing, "{error}");
        assert!(error.to_string().contains("START above"), "{error}");
    };
    missing(&mgr);
    let reconnected = Manager::builder(&server.url())
        .fencing("public.other_token")
        .reconnect_backoff(Duration::from_millis(1), Duration::from_millis(10))
        .connect()
        .unwrap();
    client
        .batch_execute("DROP SEQUENCE public.other_token")
        .unwrap();
    let all_but_the_oldest = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE application_name LIKE 'distlock %' AND backend_start > (SELECT min(backend_start) \
         FROM pg_stat_activity WHERE application_name LIKE 'distlock %')";
    assert_eq!(client.execute(all_but_the_oldest, &[]).unwrap(), 1);
    eventually(|| reconnected.try_lock("missing").is_err() && !reconnected.health().connected);
    missing(&reconnected);
    client
        .batch_execute("CREATE SEQUENCE public.distlock_token START 1000")
        .unwrap();
    eventually(|| mgr.try_lock("found").is_ok_and(|guard| guard.is_some()));
    let guards: Vec<_> = (0..10).map(|n: i64| mgr.lock(n).unwrap()).collect();
    assert!(guards.iter().all(|guard| guard.token() >= Some(1000)));
    kept.unlock().unwrap();
    assert_eq!((mgr.stats().lost, mgr.stats().reconnects), (0, 0));
}
