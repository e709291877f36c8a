//! Transactions that are tied to a hold: nobody else has the lock before they have ended.

use std::thread;
use std::time::{Duration, Instant};

use distlock::{CancelToken, ErrorKind, Guard, Key, Manager};
use postgres::{Client, GenericClient, IsolationLevel, NoTls};
use throwaway_postgres::{PoolMode, Pooler, Proxy, Server, Shutdown};

use crate::support::*;

/// A table to write to, which has no token.
fn make_table(client: &mut Client) {
    client
        .batch_execute("CREATE TABLE written (by text NOT NULL)")
        .unwrap();
}

fn write(client: &mut impl GenericClient, by: &str) {
    client
        .execute("INSERT INTO written VALUES ($1)", &[&by])
        .unwrap();
}

fn written(client: &mut impl GenericClient) -> Vec<String> {
    let rows = client.query("SELECT by FROM written", &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// True if the statement of a guard ties a transaction of `client` to its hold.
fn is_fenced(client: &mut impl GenericClient, statement: &str) -> bool {
    client.query_one(statement, &[]).unwrap().get(0)
}

/// Another program that wants the lock `"work"`: what it finds in the table once it has it.
fn next(server: &Server) -> thread::JoinHandle<Vec<String>> {
    let (mgr, mut client) = (Manager::connect(&server.url()).unwrap(), server.client());
    thread::spawn(move || {
        let _guard = mgr.lock("work").unwrap();
        written(&mut client)
    })
}

/// The first holder writes in a fenced transaction, and `fault` ends its hold. Only after the commit
/// has the next one the lock.
#[track_caller]
fn outlasts(server: &Server, holder: &Manager, fault: impl FnOnce(&Guard)) {
    let mut client = server.client();
    make_table(&mut client);
    let guard = holder.lock("work").unwrap();
    let mut writer = server.client();
    let mut transaction = writer.transaction().unwrap();
    guard.fence(&mut transaction).unwrap();
    write(&mut transaction, "first");
    fault(&guard);
    eventually(|| guard.is_lost());
    let mut admin = server.client();
    let of_key = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted \
                  AND (classid::int8 << 32) | objid::int8 = $1";
    let number = guard.key().as_i64();
    let other = Manager::connect(&server.url()).unwrap();
    // The server has released the lock, but nobody can have it.
    eventually(|| admin.execute(of_key, &[&number]).unwrap() == 0);
    assert!(other.try_lock("work").unwrap().is_none());
    let waits = other.try_lock_for("work", Duration::from_millis(300));
    assert!(waits.unwrap().is_none());
    let next = next(server);
    let mut late = server.client();
    let mut refused = late.transaction().unwrap();
    assert_eq!(
        guard.fence(&mut refused).unwrap_err().kind(),
        ErrorKind::Lost
    );
    drop(refused);
    eventually(|| queued(&mut admin) > 0);
    assert!(!next.is_finished());
    write(&mut transaction, "first again");
    transaction.commit().unwrap();
    assert_eq!(next.join().unwrap(), ["first", "first again"]);
    client.batch_execute("DROP TABLE written").unwrap();
}

#[apply(isolated_test)]
fn a_transaction_outlasts_the_session_of_its_hold() {
    let holder = manager();
    outlasts(server(), &holder, |_| {
        terminate_sessions(&mut server().client());
    });
}

#[apply(isolated_test)]
fn a_transaction_outlasts_the_connection_of_its_hold() {
    let proxy = Proxy::to(server()).unwrap();
    let holder = Manager::connect(&proxy.url()).unwrap();
    outlasts(server(), &holder, |_| {
        proxy.refuse(true);
        proxy.cut();
    });
}

/// As if the process were stopped: it is silent until its lease is over.
#[apply(isolated_test)]
fn a_transaction_outlasts_the_lease_of_its_hold() {
    let proxy = Proxy::to(server()).unwrap();
    let holder = Manager::builder(&proxy.url())
        .lease(Duration::from_secs(1))
        .connect()
        .unwrap();
    outlasts(server(), &holder, |_| proxy.silence(true));
    proxy.silence(false);
    proxy.cut();
}

/// The server ends it only once it runs again.
#[apply(isolated_test)]
fn a_transaction_outlasts_a_stopped_backend() {
    let mut admin = server().client();
    let holder = builder().lease(Duration::from_secs(1)).connect().unwrap();
    outlasts(server(), &holder, |guard| {
        let paused = Paused::new(backends(&mut admin));
        eventually(|| guard.is_lost());
        drop(paused);
    });
}

#[apply(isolated_test)]
fn a_rollback_lets_the_next_one_in() {
    let (mgr, other) = (manager(), manager());
    let mut writer = server().client();
    let guard = mgr.lock("work").unwrap();
    let mut transaction = writer.transaction().unwrap();
    guard.fence(&mut transaction).unwrap();
    guard.unlock().unwrap();
    // The lock is free, but not drained.
    assert!(other.try_lock("work").unwrap().is_none());
    assert!(mgr.try_lock("work").unwrap().is_none());
    transaction.rollback().unwrap();
    assert!(other.try_lock("work").unwrap().is_some());
}

/// Threads of one process do not hand a lock on that was fenced.
#[apply(isolated_test)]
fn a_thread_of_the_process_waits_for_the_transaction_too() {
    let mgr = manager();
    let mut client = server().client();
    make_table(&mut client);
    let guard = mgr.lock("work").unwrap();
    let mut writer = server().client();
    let mut transaction = writer.transaction().unwrap();
    guard.fence(&mut transaction).unwrap();
    let waiting = {
        let mgr = mgr.clone();
        thread::spawn(move || {
            let _guard = mgr.lock("work").unwrap();
            written(&mut server().client())
        })
    };
    eventually(|| mgr.stats().waiting == 1);
    drop(guard);
    eventually(|| mgr.stats().held == 0);
    write(&mut transaction, "first");
    assert!(mgr.try_lock("work").unwrap().is_none());
    assert!(!waiting.is_finished());
    transaction.commit().unwrap();
    assert_eq!(waiting.join().unwrap(), ["first"]);
    client.batch_execute("DROP TABLE written").unwrap();
}

#[apply(isolated_test)]
fn a_late_fence_is_refused() {
    let (mgr, other) = (manager(), manager());
    let mut client = server().client();
    let mut answer = |statement: &str| {
        let mut transaction = client.transaction().unwrap();
        is_fenced(&mut transaction, statement)
    };
    let guard = mgr.lock("work").unwrap();
    let first = guard.fence_sql().unwrap();
    assert!(answer(&first));
    assert!(answer(&first), "as often as needed");
    guard.unlock().unwrap();
    assert!(!answer(&first), "it was released");
    let guard = mgr.lock("work").unwrap();
    assert!(!answer(&first), "it was locked again");
    let second = guard.fence_sql().unwrap();
    assert!(answer(&second));
    assert!(!answer(&first));
    drop(guard);
    let guard = other.lock("work").unwrap();
    assert!(!answer(&first) && !answer(&second), "another one has it");
    let third = guard.fence_sql().unwrap();
    terminate_sessions(&mut server().client());
    eventually(|| guard.is_lost());
    assert!(!answer(&third), "it was lost");
    // What was refused keeps nobody out.
    eventually(|| matches!(mgr.try_lock("work"), Ok(Some(_))));
}

/// The token releases the lock around the time at which the fence is asked for: whatever the answer,
/// it is true.
#[apply(isolated_test)]
fn a_release_by_a_token_meets_a_fence() {
    let (mgr, other) = (manager(), manager());
    let mut writer = server().client();
    let (mut fenced, mut refused) = (0, 0);
    for round in 0..300 {
        let token = CancelToken::new();
        let guard = mgr.acquire("work").release_on(&token).lock().unwrap();
        let mut transaction = writer.transaction().unwrap();
        let outcome = thread::scope(|scope| {
            scope.spawn(|| {
                let end = Instant::now() + Duration::from_micros(round * 7);
                while Instant::now() < end {
                    std::hint::spin_loop();
                }
                token.cancel();
            });
            guard.fence(&mut transaction)
        });
        match outcome {
            Ok(()) => {
                fenced += 1;
                assert!(other.try_lock("work").unwrap().is_none());
                assert!(mgr.try_lock("work").unwrap().is_none());
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
            }
        }
        transaction.rollback().unwrap();
    }
    assert!(fenced > 0 && refused > 0, "{fenced} {refused}");
    let mut admin = server().client();
    eventually(|| advisory_locks(&mut admin).is_empty());
}

/// The hold is over when its guard is gone, although the lock is kept.
#[apply(isolated_test)]
fn a_kept_lock_fences_nothing_any_more() {
    let mgr = manager();
    let mut client = server().client();
    let guard = mgr.acquire("work").hold_at_least(FOREVER).lock().unwrap();
    let statement = guard.fence_sql().unwrap();
    let mut is_fenced_now = || {
        let mut transaction = client.transaction().unwrap();
        is_fenced(&mut transaction, &statement)
    };
    assert!(is_fenced_now());
    guard.unlock().unwrap();
    assert!(!is_fenced_now());
    assert!(mgr.try_lock("work").unwrap().is_none(), "it is kept");
    mgr.close().unwrap();
}

#[apply(isolated_test)]
fn a_prepared_transaction_is_fenced_until_its_commit() {
    let server = Server::builder()
        .setting("max_prepared_transactions", "2")
        .start()
        .unwrap();
    let mgr = Manager::connect(&server.url()).unwrap();
    let mut writer = server.client();
    let guard = mgr.lock("work").unwrap();
    writer.batch_execute("BEGIN").unwrap();
    guard.fence(&mut writer).unwrap();
    writer
        .batch_execute("PREPARE TRANSACTION 'fenced'")
        .unwrap();
    guard.unlock().unwrap();
    assert!(mgr.try_lock("work").unwrap().is_none());
    writer.batch_execute("COMMIT PREPARED 'fenced'").unwrap();
    assert!(mgr.try_lock("work").unwrap().is_some());
}

#[apply(isolated_test)]
fn readers_keep_writers_out_and_not_each_other() {
    let (mgr, other) = (manager(), manager());
    let (mut one, mut two) = (server().client(), server().client());
    let reader = mgr.lock_shared("book").unwrap();
    let mut reading = one.transaction().unwrap();
    reader.fence(&mut reading).unwrap();
    let second = other.try_lock_shared("book").unwrap().unwrap();
    let mut second_reading = two.transaction().unwrap();
    second.fence(&mut second_reading).unwrap();
    drop((reader, second));
    assert!(other.try_lock("book").unwrap().is_none());
    let third = other.try_lock_shared("book").unwrap().unwrap();
    third.unlock().unwrap();
    reading.commit().unwrap();
    assert!(
        mgr.try_lock("book").unwrap().is_none(),
        "the other reads on"
    );
    second_reading.commit().unwrap();
    let writer = mgr.try_lock("book").unwrap().unwrap();
    let mut writing = one.transaction().unwrap();
    writer.fence(&mut writing).unwrap();
    writer.unlock().unwrap();
    assert!(other.try_lock_shared("book").unwrap().is_none());
    let waits = other.try_lock_shared_for("book", Duration::from_millis(200));
    assert!(waits.unwrap().is_none());
    writing.commit().unwrap();
    assert!(other.try_lock_shared("book").unwrap().is_some());
}

/// Two that share a lock drain it at the same moment: neither is told that it is taken.
#[apply(isolated_test)]
fn readers_that_come_together_do_not_find_it_taken() {
    let managers = [manager(), manager(), manager()];
    thread::scope(|scope| {
        for mgr in &managers {
            scope.spawn(move || {
                for _ in 0..500 {
                    assert!(mgr.try_lock_shared("book").unwrap().is_some());
                }
            });
            scope.spawn(move || {
                for _ in 0..500 {
                    drop(mgr.lock_shared("book").unwrap());
                }
            });
        }
    });
}

#[apply(isolated_test)]
fn what_is_no_open_transaction_of_the_database_is_an_error() {
    let mgr = manager();
    let guard = mgr.lock("work").unwrap();
    let statement = guard.fence_sql().unwrap();
    let mut client = server().client();
    let kind = |fenced: Result<(), distlock::Error>| fenced.map_err(|error| error.kind());
    assert_eq!(
        kind(guard.fence(&mut client)),
        Err(ErrorKind::NoTransaction),
        "autocommit"
    );
    assert!(!is_fenced(&mut client, &statement), "prepared");
    let answer = client.simple_query(&statement).unwrap();
    let is_no = |message: &postgres::SimpleQueryMessage| match message {
        postgres::SimpleQueryMessage::Row(row) => row.get(0) == Some("f"),
        _ => false,
    };
    assert!(answer.iter().any(is_no), "not prepared");
    // A cursor of an earlier transaction does not make it one.
    client
        .batch_execute("BEGIN; DECLARE old CURSOR WITH HOLD FOR SELECT 1; COMMIT")
        .unwrap();
    assert!(!is_fenced(&mut client, &statement));
    assert_eq!(
        kind(guard.fence(&mut client)),
        Err(ErrorKind::NoTransaction)
    );
    // Parsed and executed in one go.
    let at_once =
        |client: &mut Client| -> bool { client.query_typed(&statement, &[]).unwrap()[0].get(0) };
    assert_eq!([(); 3].map(|()| at_once(&mut client)), [false; 3]);
    // With the cursor in the message of the `BEGIN`.
    client
        .batch_execute("BEGIN; DECLARE new CURSOR FOR SELECT 1")
        .unwrap();
    let answers = [(); 3].map(|()| at_once(&mut client));
    assert_eq!(answers, [false, true, true], "the first one cannot tell");
    assert_eq!(kind(guard.fence(&mut client)), Ok(()), "begun by hand");
    assert!(is_fenced(&mut client, &statement));
    client.batch_execute("COMMIT").unwrap();
    assert!(!at_once(&mut client), "the transaction is over");

    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("SELECT 1 / 0").unwrap_err();
    let error = guard.fence(&mut transaction).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoTransaction);
    assert!(!error.is_transient());
    drop(transaction);

    server().create_database("elsewhere");
    let url = server()
        .url()
        .replace("dbname=postgres", "dbname=elsewhere");
    assert_ne!(url, server().url());
    let mut elsewhere = Client::connect(&url, NoTls).unwrap();
    let mut transaction = elsewhere.transaction().unwrap();
    assert_eq!(kind(guard.fence(&mut transaction)), Err(ErrorKind::Lost));
    assert!(!is_fenced(&mut transaction, &statement));
    drop(transaction);
    drop(elsewhere);
    client.batch_execute("DROP DATABASE elsewhere").unwrap();
}

#[apply(isolated_test)]
fn a_standby_is_no_place_for_a_fence(server: Server) {
    let standby = or_skip!(Server::builder().standby_of(&server).start());
    server.await_standby();
    let mgr = Manager::connect(&server.url()).unwrap();
    let guard = mgr.lock("work").unwrap();
    let mut client = standby.client();
    let mut transaction = client.transaction().unwrap();
    let error = guard.fence(&mut transaction).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error}");
}

#[apply(isolated_test)]
fn a_pool_in_transaction_mode_is_good_enough_for_the_transaction(server: Server) {
    let pooler = or_skip!(Pooler::before(&server, PoolMode::Transaction, 2));
    let mut client = server.client();
    make_table(&mut client);
    let holder = Manager::connect(&server.url()).unwrap();
    let guard = holder.lock("work").unwrap();
    let mut writer = Client::connect(&pooler.url(), NoTls).unwrap();
    let mut transaction = writer.transaction().unwrap();
    guard.fence(&mut transaction).unwrap();
    terminate_sessions(&mut server.client());
    eventually(|| guard.is_lost());
    let next = next(&server);
    eventually(|| queued(&mut client) > 0);
    transaction
        .batch_execute("INSERT INTO written VALUES ('pooled')")
        .unwrap();
    transaction.commit().unwrap();
    assert_eq!(next.join().unwrap(), ["pooled"]);
    // Nothing of it is left in the pool's sessions.
    eventually(|| advisory_locks(&mut client).is_empty());
    let mut transaction = writer.transaction().unwrap();
    let error = guard.fence(&mut transaction).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
}

#[apply(isolated_test)]
fn every_isolation_level_may_be_fenced() {
    let (mgr, other) = (manager(), manager());
    let mut client = server().client();
    make_table(&mut client);
    let mut writer = server().client();
    for (isolation, name) in [
        (IsolationLevel::ReadCommitted, "read committed"),
        (IsolationLevel::RepeatableRead, "repeatable read"),
        (IsolationLevel::Serializable, "serializable"),
    ] {
        let guard = mgr.lock("work").unwrap();
        let begun = writer.build_transaction().isolation_level(isolation);
        let mut transaction = begun.start().unwrap();
        guard.fence(&mut transaction).unwrap();
        write(&mut transaction, name);
        drop(guard);
        assert!(other.try_lock("work").unwrap().is_none(), "{name}");
        transaction.commit().unwrap();
        let guard = other.lock("work").unwrap();
        // Begun under the lock, it sees what the last holder has committed.
        let begun = writer.build_transaction().isolation_level(isolation);
        let mut transaction = begun.start().unwrap();
        guard.fence(&mut transaction).unwrap();
        assert_eq!(written(&mut transaction).last().unwrap(), name);
    }
    client.batch_execute("DROP TABLE written").unwrap();
}

#[apply(isolated_test)]
fn a_rollback_to_a_savepoint_undoes_a_fence_of_it() {
    let (mgr, other) = (manager(), manager());
    let mut writer = server().client();
    let guard = mgr.lock("work").unwrap();
    let mut transaction = writer.transaction().unwrap();
    let mut savepoint = transaction.transaction().unwrap();
    guard.fence(&mut savepoint).unwrap();
    guard.unlock().unwrap();
    assert!(other.try_lock("work").unwrap().is_none());
    savepoint.rollback().unwrap();
    assert!(other.try_lock("work").unwrap().is_some());
    transaction.commit().unwrap();
}

/// A parked process, which waits in the server's queue, goes on to wait for the transaction there.
#[apply(isolated_test)]
fn a_parked_process_waits_for_the_transaction() {
    let holder = manager();
    let mut admin = server().client();
    let mut writer = server().client();
    make_table(&mut admin);
    for rounds in 0..3 {
        let guard = holder.lock("work").unwrap();
        let mut transaction = writer.transaction().unwrap();
        guard.fence(&mut transaction).unwrap();
        let next = next(server());
        eventually(|| queued(&mut admin) == 1);
        drop(guard);
        // It waits on, through the end of a slice, too.
        let slices = admin_statements(&mut admin);
        eventually(|| admin_statements(&mut admin) > slices + rounds);
        eventually(|| queued(&mut admin) == 1);
        assert!(!next.is_finished());
        write(&mut transaction, "first");
        transaction.commit().unwrap();
        assert_eq!(next.join().unwrap().last().unwrap(), "first");
    }
    admin.batch_execute("DROP TABLE written").unwrap();
}

/// How many waits of parked managers have begun, as far as can be seen: when the last one did, in
/// tenths of a second.
fn admin_statements(client: &mut Client) -> i64 {
    let begun = "SELECT coalesce(max((extract(epoch FROM query_start) * 10)::int8), 0) \
                 FROM pg_stat_activity WHERE query LIKE 'DO %' AND pid <> pg_backend_pid()";
    client.query_one(begun, &[]).unwrap().get(0)
}

/// The transaction of the manager's session, by which fences see that it lives, is renewed each
/// second, and ended by each statement that fails.
#[apply(isolated_test)]
fn a_fence_holds_while_the_managers_transaction_comes_and_goes() {
    let mgr = manager();
    let guard = mgr.lock("work").unwrap();
    let mut writer = server().client();
    let mut canceller = server().client();
    for round in 0..400 {
        if round % 4 == 0 {
            canceller
                .execute(
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                     WHERE application_name LIKE 'distlock %'",
                    &[],
                )
                .unwrap();
            mgr.try_lock("another").unwrap();
        }
        let mut transaction = writer.transaction().unwrap();
        guard.fence(&mut transaction).unwrap();
        transaction.commit().unwrap();
    }
    guard.unlock().unwrap();
}

#[apply(isolated_test)]
fn the_managers_transaction_ends_after_its_last_fence() {
    let mgr = builder().lease(None).connect().unwrap();
    let mut admin = server().client();
    let mut open = || {
        let sql = "SELECT count(*) FROM pg_stat_activity \
                   WHERE application_name LIKE 'distlock %' AND xact_start IS NOT NULL";
        admin.query_one(sql, &[]).unwrap().get::<_, i64>(0)
    };
    let guard = mgr.lock("work").unwrap();
    assert_eq!(open(), 0, "not without a fence");
    guard.fence_sql().unwrap();
    assert_eq!(open(), 1);
    guard.unlock().unwrap();
    eventually(|| open() == 0);
}

/// Has the server take its time for the mark of a manager's transaction, or fail.
fn impose_on_marks(client: &mut Client, work: &str) {
    client
        .batch_execute(&format!(
            "ALTER FUNCTION pg_advisory_xact_lock(int, int) RENAME TO honest; \
             CREATE FUNCTION pg_catalog.pg_advisory_xact_lock(a int, b int) RETURNS void \
             LANGUAGE plpgsql AS $$BEGIN {work}; END$$"
        ))
        .unwrap();
}

const SLOWLY: &str = "PERFORM pg_sleep(0.3); PERFORM pg_catalog.honest(a, b)";

fn stop_imposing(client: &mut Client) {
    client
        .batch_execute(
            "DROP FUNCTION pg_catalog.pg_advisory_xact_lock(int, int); \
             ALTER FUNCTION honest(int, int) RENAME TO pg_advisory_xact_lock",
        )
        .unwrap();
}

/// Cancels the statement that gives a manager's transaction its mark.
fn cancel_mark(client: &mut Client) {
    let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                  WHERE application_name LIKE 'distlock %' AND wait_event = 'PgSleep'";
    eventually(|| client.execute(cancel, &[]).unwrap() > 0);
}

#[apply(isolated_test)]
fn a_mark_that_is_cancelled_is_given_again(server: Server) {
    let mut admin = server.client();
    for fencing in [None, Some("public.distlock_token")] {
        let builder = Manager::builder(&server.url());
        let mgr = match fencing {
            Some(sequence) => builder.fencing(sequence),
            None => builder,
        };
        let mgr = mgr.connect().unwrap();
        let guard = mgr.lock("work").unwrap();
        impose_on_marks(&mut admin, SLOWLY);
        thread::scope(|scope| {
            let fenced = scope.spawn(|| guard.fence_sql());
            cancel_mark(&mut admin);
            fenced.join().unwrap().unwrap();
        });
        // When the transaction is renewed.
        for _ in 0..3 {
            cancel_mark(&mut admin);
        }
        stop_imposing(&mut admin);
        let mut writer = server.client();
        let mut transaction = writer.transaction().unwrap();
        eventually(|| guard.fence(&mut transaction).is_ok());
        assert_eq!((mgr.stats().lost, mgr.stats().reconnects), (0, 0));
    }
}

#[apply(isolated_test)]
fn a_session_that_gets_no_mark_keeps_its_locks(server: Server) {
    let mut admin = server.client();
    let mgr = Manager::connect(&server.url()).unwrap();
    let guard = mgr.lock("work").unwrap();
    let statement = guard.fence_sql().unwrap();
    // As for a full lock table.
    impose_on_marks(&mut admin, "RAISE 'no'");
    let mut writer = server.client();
    let mut transaction = writer.transaction().unwrap();
    eventually(|| !is_fenced(&mut transaction, &statement));
    let error = guard.fence(&mut transaction).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let other = mgr.lock("another").unwrap();
    let error = other.fence_sql().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    assert!(!guard.is_lost());
    stop_imposing(&mut admin);
    eventually(|| guard.fence(&mut transaction).is_ok());
    other.fence(&mut transaction).unwrap();
    transaction.commit().unwrap();
    guard.unlock().unwrap();
    other.unlock().unwrap();
    assert_eq!(mgr.stats().lost, 0);
}

/// A transaction that is not needed any more is not kept by a wait for another lock.
#[apply(isolated_test)]
fn a_manager_parks_once_its_transaction_has_ended() {
    let mgr = manager();
    let mut holder = server().client();
    let mut admin = server().client();
    let number = Key::from("another").as_i64();
    holder
        .execute("SELECT pg_advisory_lock($1)", &[&number])
        .unwrap();
    let guard = mgr.lock("work").unwrap();
    guard.fence_sql().unwrap();
    guard.unlock().unwrap();
    let waiting = {
        let mgr = mgr.clone();
        thread::spawn(move || drop(mgr.lock("another").unwrap()))
    };
    eventually(|| queued(&mut admin) == 1);
    let marks = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 1684829304";
    assert_eq!(admin.execute(marks, &[]).unwrap(), 0);
    holder
        .execute("SELECT pg_advisory_unlock($1)", &[&number])
        .unwrap();
    waiting.join().unwrap();
}

/// However long the manager's interval is.
#[apply(isolated_test)]
fn a_try_to_share_is_told_soon_that_a_transaction_is_open() {
    let (mgr, other) = (
        manager(),
        builder()
            .retry_interval(FOREVER, FOREVER)
            .connect()
            .unwrap(),
    );
    let mut writer = server().client();
    let guard = mgr.lock("work").unwrap();
    let mut transaction = writer.transaction().unwrap();
    guard.fence(&mut transaction).unwrap();
    guard.unlock().unwrap();
    let started = Instant::now();
    assert!(other.try_lock_shared("work").unwrap().is_none());
    assert!(started.elapsed() < FOREVER);
}

#[apply(isolated_test)]
fn a_fence_goes_with_many_locks_and_with_tokens() {
    let mut writer = server().client();
    let many = manager();
    let held: Vec<_> = (0..300).map(|n| many.lock((n, 0)).unwrap()).collect();
    let tokens = builder()
        .fencing("public.distlock_token")
        .connect()
        .unwrap();
    for mgr in [&many, &tokens] {
        let mut last = None;
        for _ in 0..20 {
            let guard = mgr.lock("work").unwrap();
            assert!(guard.token() > last || last.is_none());
            last = guard.token();
            let mut transaction = writer.transaction().unwrap();
            guard.fence(&mut transaction).unwrap();
            drop(guard);
            assert!(tokens.try_lock("work").unwrap().is_none());
            transaction.commit().unwrap();
        }
    }
    drop(held);
    drop(tokens);
    let mut admin = server().client();
    admin
        .batch_execute("DROP SEQUENCE public.distlock_token")
        .unwrap();
}

/// A session that ends releases its locks one after the other, and many take a while: the next
/// holder may have the one long before those by which a fence sees that the hold lasts are gone.
#[test]
#[serial_test::serial]
fn a_session_that_ends_slowly_fences_nothing_any_more() {
    let server = Server::builder()
        .setting("max_locks_per_transaction", "1000")
        .start()
        .unwrap();
    let _clean = clean_on(&server);
    let mut client = server.client();
    client
        .batch_execute("CREATE TABLE written (n serial, by text NOT NULL)")
        .unwrap();
    for round in 0..SLOW_ENDS {
        let holder = Manager::connect(&server.url()).unwrap();
        let guard = holder.lock("work").unwrap();
        let number = guard.key().as_i64();
        let fenced = guard.fence_sql().unwrap();
        let many = lock_many(&holder);
        // Both programs are at the server, where they are quick enough for this.
        let old = format!(
            "DO $$BEGIN COMMIT; LOOP EXIT WHEN NOT ({fenced}); \
             INSERT INTO written (by) VALUES ('old'); COMMIT; END LOOP; END$$"
        );
        let new = format!(
            "DO $$BEGIN LOOP IF pg_try_advisory_lock({number}) THEN \
             IF pg_try_advisory_lock({number} # {FENCED}) THEN \
             INSERT INTO written (by) VALUES ('new'); \
             PERFORM pg_advisory_unlock({number} # {FENCED}); EXIT; END IF; \
             PERFORM pg_advisory_unlock({number}); END IF; END LOOP; END$$"
        );
        let programs = [old, new].map(|program| {
            let mut client = server.client();
            thread::spawn(move || client.batch_execute(&program).unwrap())
        });
        let olds = "SELECT FROM written";
        eventually(|| client.execute(olds, &[]).unwrap() > 0);
        terminate_sessions(&mut client);
        finish(programs.into());
        let later = "SELECT FROM written WHERE by = 'old' \
                     AND n > (SELECT n FROM written WHERE by = 'new')";
        let late = client.execute(later, &[]).unwrap();
        assert_eq!(late, 0, "an old holder has written in round {round}");
        drop((guard, many));
        client.batch_execute("TRUNCATE written").unwrap();
    }
}

const SLOW_ENDS: i64 = 8;

/// What the companion of fenced transactions differs by.
const FENCED: i64 = -7_662_212_718_126_397_390;

/// Thousands of locks, taken by several threads, which is faster.
fn lock_many(mgr: &Manager) -> Vec<Guard> {
    let threads = (0..16).map(|thread| {
        let mgr = mgr.clone();
        thread::spawn(move || -> Vec<Guard> {
            let keys = (0..1500).map(|n| (n, thread));
            keys.map(|key| mgr.lock(key).unwrap()).collect()
        })
    });
    let threads: Vec<_> = threads.collect();
    finish(threads).into_iter().flatten().collect()
}

/// Programs in other languages compute the same numbers.
#[apply(isolated_test)]
fn the_companions_have_their_published_numbers() {
    let mgr = manager();
    let mut writer = server().client();
    let golden: [(Key, i64, i64); 2] = [
        (
            Key::from("foobar"),
            6_197_469_652_402_593_951,
            -6_323_535_852_268_357_870,
        ),
        (
            Key::from((4, 2)),
            6_282_293_004_499_179_033,
            -4_304_094_412_640_616_106,
        ),
    ];
    for (key, all, exclusive) in golden {
        let mut taken = |guard: &Guard| {
            let mut transaction = writer.transaction().unwrap();
            guard.fence(&mut transaction).unwrap();
            let own = "SELECT (classid::int8 << 32) | objid::int8 AS n FROM pg_locks \
                       WHERE locktype = 'advisory' AND pid = pg_backend_pid() \
                       AND mode = 'ShareLock' AND objsubid = 1 ORDER BY n";
            let rows = transaction.query(own, &[]).unwrap();
            let numbers: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            numbers
        };
        let mut both = [all, exclusive];
        both.sort_unstable();
        assert_eq!(taken(&mgr.lock(key).unwrap()), both);
        assert_eq!(taken(&mgr.lock_shared(key).unwrap()), [all]);
    }
}

/// The statement of the documentation of `Key`.
#[apply(isolated_test)]
fn a_program_without_the_crate_can_drain_a_lock() {
    let mgr = manager();
    let (mut writer, mut other) = (server().client(), server().client());
    let statement = "SELECT CASE WHEN NOT pg_try_advisory_lock(7440995589958059143) THEN false \
         WHEN pg_try_advisory_lock(7440995589958059143 # -7662212718126397390) \
         THEN pg_advisory_unlock(7440995589958059143 # -7662212718126397390) \
         ELSE NOT pg_advisory_unlock(7440995589958059143) END";
    let mut takes = || -> bool { other.query_one(statement, &[]).unwrap().get(0) };
    let guard = mgr.lock("nightly-report").unwrap();
    let mut transaction = writer.transaction().unwrap();
    guard.fence(&mut transaction).unwrap();
    assert!(!takes(), "it is held");
    guard.unlock().unwrap();
    assert!(!takes(), "it is not drained");
    transaction.commit().unwrap();
    assert!(takes());
}

#[apply(isolated_test)]
fn after_a_crash_of_the_server_an_old_fence_is_refused(server: Server) {
    let mgr = Manager::builder(&server.url())
        .wait_while_unavailable(true)
        .connect()
        .unwrap();
    let guard = mgr.lock("work").unwrap();
    let statement = guard.fence_sql().unwrap();
    server.restart(Shutdown::Immediate).unwrap();
    let mut client = server.client();
    let mut transaction = client.transaction().unwrap();
    assert!(!is_fenced(&mut transaction, &statement));
    drop(transaction);
    let guard = mgr.lock("work").unwrap();
    let mut transaction = client.transaction().unwrap();
    assert!(!is_fenced(&mut transaction, &statement));
    guard.fence(&mut transaction).unwrap();
}
