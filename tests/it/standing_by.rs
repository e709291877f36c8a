//! Processes that wait for a lock of another one: what they hold up meanwhile, and what they leave
//! behind.

use std::thread;
use std::time::Duration;

use distlock::{CancelToken, ErrorKind, Key, Manager};
use postgres::Client;
use throwaway_postgres::Server;

use crate::support::*;

/// A client, not of a manager, that has `key`.
fn hold(server: &Server, key: &str) -> Client {
    let mut client = server.client();
    let number = Key::from(key).as_i64();
    client
        .execute("SELECT pg_advisory_lock($1)", &[&number])
        .unwrap();
    client
}

/// The advisory locks that managers' sessions have or wait for, except their markers.
fn traces(client: &mut Client) -> Vec<i64> {
    client
        .query(
            "SELECT (classid::int8 << 32) | objid::int8 \
             FROM pg_locks JOIN pg_stat_activity USING (pid) \
             WHERE locktype = 'advisory' AND application_name LIKE 'distlock %' \
             AND NOT (objsubid = 2 AND classid::int8 = 1684824939)",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// Ends the waits of a test, also of one that fails, which would otherwise hang.
struct Over<'a>(&'a CancelToken);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// How a wait ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Grant,
    Timeout,
    Cancel,
    Close,
}

/// Waits for `key` with `mgr` until `end`, before which `meanwhile` runs.
fn wait(mgr: &Manager, key: &str, shared: bool, end: End, meanwhile: impl FnOnce()) {
    let token = CancelToken::new();
    let contended = mgr.stats().contended;
    let outcome = thread::scope(|scope| {
        let _over = Over(&token);
        let mut acquire = mgr.acquire(key).cancel(&token);
        if shared {
            acquire = acquire.shared();
        }
        acquire = acquire.timeout(match end {
            End::Timeout => Duration::from_millis(200),
            _ => FOREVER,
        });
        let wait = scope.spawn(|| acquire.lock().map(drop).map_err(|error| error.kind()));
        eventually(|| mgr.stats().contended > contended);
        meanwhile();
        match end {
            End::Grant | End::Timeout => {}
            End::Cancel => token.cancel(),
            End::Close => mgr.close().unwrap(),
        }
        wait.join().unwrap()
    });
    let expected = match end {
        End::Grant => Ok(()),
        End::Timeout => Err(ErrorKind::Timeout),
        End::Cancel => Err(ErrorKind::Cancelled),
        End::Close => Err(ErrorKind::Closed),
    };
    assert_eq!(outcome, expected);
}

#[apply(isolated_test)]
fn a_wait_is_seen_at_the_server_and_leaves_nothing_there() {
    let another = Key::from("another").as_i64();
    let mut admin = server().client();
    let mut others = || {
        let mut traces = traces(&mut admin);
        traces.retain(|number| *number != another);
        traces
    };
    for end in [End::Grant, End::Cancel, End::Close, End::Timeout] {
        for (shared, holds_another) in [(false, false), (false, true), (true, false), (true, true)]
        {
            let told = format!("{end:?}, shared: {shared}, holds another: {holds_another}");
            let mut holder = hold(server(), "awaited");
            let mgr = manager();
            let guard = holds_another.then(|| mgr.lock("another").unwrap());
            wait(&mgr, "awaited", shared, end, || {
                // A timeout may have passed by now.
                let is_seen = end == End::Timeout || within(FOREVER / 6, || !others().is_empty());
                assert!(is_seen, "{told}");
                if end == End::Grant {
                    holder
                        .execute("SELECT pg_advisory_unlock_all()", &[])
                        .unwrap();
                }
            });
            // While the session goes on, unless it was closed.
            assert!(within(FOREVER, || others().is_empty()), "{told}");
            drop(guard);
        }
    }
}

#[apply(isolated_test)]
fn a_process_goes_on_when_who_waited_for_its_lock_has_gone() {
    let mut admin = server().client();
    for end in [End::Timeout, End::Cancel, End::Close] {
        let (mgr, other) = (manager(), manager());
        let guard = mgr.lock("again").unwrap();
        wait(&other, "again", false, end, || {});
        let own = Key::from("again").as_i64();
        eventually(|| traces(&mut admin) == [own]);
        guard.unlock().unwrap();
        eventually(|| mgr.try_lock("again").unwrap().is_some());
        // For longer than a process may go on while others wait.
        for round in 0..300 {
            let guard = mgr.try_lock("again").unwrap();
            let guard = guard.unwrap_or_else(|| panic!("{end:?}: not in round {round}"));
            guard.unlock().unwrap();
            mgr.lock("again").unwrap().unlock().unwrap();
        }
    }
}

/// A snapshot that is kept for as long as a wait would keep both from ending.
#[apply(isolated_test)]
fn processes_that_wait_keep_no_vacuum_and_no_new_index_from_ending(server: Server) {
    let mut admin = server.client();
    admin
        .batch_execute(
            "SET statement_timeout = '60s'; \
             CREATE TABLE jobs AS SELECT n FROM generate_series(1, 1000) n",
        )
        .unwrap();
    let _holder = hold(&server, "awaited");
    let managers: Vec<Manager> = (0..20)
        .map(|_| Manager::connect(&server.url()).unwrap())
        .collect();
    let token = CancelToken::new();
    thread::scope(|scope| {
        let _over = Over(&token);
        for mgr in &managers {
            scope.spawn(|| mgr.acquire("awaited").cancel(&token).lock().map(drop));
        }
        eventually(|| managers.iter().all(|mgr| mgr.stats().contended == 1));
        for _ in 0..3 {
            admin
                .batch_execute("CREATE INDEX CONCURRENTLY fresh ON jobs (n)")
                .unwrap();
            admin.batch_execute("DROP INDEX fresh").unwrap();
        }
        admin.batch_execute("DELETE FROM jobs").unwrap();
        // The rows go once no snapshot is as old as they are.
        eventually(|| {
            admin.batch_execute("VACUUM jobs").unwrap();
            let size = admin.query_one("SELECT pg_relation_size('jobs')", &[]);
            size.unwrap().get::<_, i64>(0) == 0
        });
        let all_wait = managers.iter().all(|mgr| mgr.stats().waiting == 1);
        assert!(all_wait, "somebody stopped waiting");
    });
}

#[apply(isolated_test)]
fn waits_and_their_ends_are_no_errors_in_the_servers_log(server: Server) {
    let logged = server.log().len();
    let _holder = hold(&server, "awaited");
    let mgr = Manager::connect(&server.url()).unwrap();
    for round in 0..30 {
        wait(&mgr, "awaited", round % 2 == 0, End::Cancel, || {
            // The wait goes on, and holds up nothing else that is asked of the manager.
            mgr.lock("free").unwrap().unlock().unwrap();
            assert!(mgr.try_lock("awaited").unwrap().is_none());
            mgr.lock_shared("free").unwrap().unlock().unwrap();
            assert_eq!(mgr.stats().waiting, 1);
        });
    }
    wait(&mgr, "awaited", false, End::Timeout, || {});
    wait(&mgr, "awaited", false, End::Close, || {
        // Long enough for all that a wait does again and again.
        let before = mgr.stats().round_trips;
        eventually(|| mgr.stats().round_trips >= before + 3);
    });
    let log = server.log().split_off(logged);
    assert!(!log.contains("WARNING:"), "{log}");
    // On a busy machine a cancel may come before its statement waits, or after.
    let errors = log.matches("ERROR:").count();
    assert!(errors <= 3, "{errors} of more than 90 cancels: {log}");
}

#[apply(isolated_test)]
fn whoever_cancels_the_statement_of_a_wait_does_not_end_it() {
    let mut holder = hold(server(), "awaited");
    let mgr = manager();
    let mut admin = server().client();
    let [pid] = backends(&mut admin)[..] else {
        panic!("one session");
    };
    wait(&mgr, "awaited", false, End::Grant, || {
        for _ in 0..4 {
            // One at a time: several in a row count as a failed server.
            let before = mgr.stats().round_trips;
            admin
                .execute("SELECT pg_cancel_backend($1)", &[&pid])
                .unwrap();
            eventually(|| mgr.stats().round_trips > before + 2);
        }
        assert_eq!(mgr.stats().waiting, 1);
        holder
            .execute("SELECT pg_advisory_unlock_all()", &[])
            .unwrap();
    });
    eventually(|| traces(&mut admin).is_empty());
}
