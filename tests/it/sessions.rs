//! How a manager's session begins and how it is returned, on servers and in pools that leave
//! state in it.

use distlock::{ErrorKind, Manager};
use postgres::{Client, NoTls};
use serial_test::serial;
use throwaway_postgres::{PoolMode, Pooler, Server};

use crate::support::*;

/// A pool whose sessions lose their locks between clients and nothing else. A timeout that a client
/// has left must not end the reset: then the locks stay, and the pool is refused.
const LOCKS_ONLY: (&str, &str) = (
    "server_reset_query",
    "SET LOCAL statement_timeout = 0; SELECT pg_advisory_unlock_all()",
);

#[test]
#[serial]
fn a_session_pool_without_a_reset_is_refused() {
    let server = Server::start().unwrap();
    for reset in ["", "SELECT 1"] {
        for size in [1, 3] {
            let pooler = or_skip!(Pooler::with_settings(
                &server,
                PoolMode::Session,
                size,
                &[("server_reset_query", reset)],
            ));
            let error = Manager::connect(&pooler.url()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Pooler, "{reset} {size}: {error}");
            assert!(error.to_string().contains("server_reset_query"), "{error}");
        }
    }
}

#[apply(isolated_test)]
fn a_session_pool_whose_reset_fails_keeps_no_lock(server: Server) {
    let reset = [("server_reset_query", "SELECT 1/0")];
    let pooler = or_skip!(Pooler::with_settings(&server, PoolMode::Session, 1, &reset));
    let direct = Manager::connect(&server.url()).unwrap();
    for _ in 0..3 {
        match Manager::connect(&pooler.url()) {
            Ok(pooled) => {
                let guard = pooled.try_lock("key").unwrap().unwrap();
                assert!(direct.try_lock("key").unwrap().is_none());
                guard.unlock().unwrap();
                drop(direct.try_lock("key").unwrap().unwrap());
                pooled.close().unwrap();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Pooler, "{error}"),
        }
    }
}

#[apply(isolated_test)]
fn a_session_begins_clean_whatever_the_last_client_left(server: Server) {
    let pooler = or_skip!(Pooler::with_settings(
        &server,
        PoolMode::Session,
        1,
        &[LOCKS_ONLY]
    ));
    let mut client = Client::connect(&pooler.url(), NoTls).unwrap();
    let statement = client.prepare("SELECT 1").unwrap(); // s0, which is the driver's first here, too
    client
        .batch_execute(
            "CREATE TEMP TABLE pg_locks (); LISTEN something; SET search_path = pg_temp, pg_catalog; \
             SET default_transaction_read_only = on; SET default_transaction_isolation = serializable; \
             SET idle_session_timeout = 20000; SET jit_above_cost = 0; SET statement_timeout = 5",
        )
        .unwrap();
    std::mem::forget(statement); // not closed at the server
    drop(client);
    let mgr = Manager::builder(&pooler.url())
        .fencing("public.token")
        .connect()
        .unwrap();
    let guard = mgr.lock("key").unwrap();
    assert!(guard.token().is_some());
    guard.unlock().unwrap();
    assert_eq!(mgr.stats().lost, 0);
}

#[apply(isolated_test)]
fn a_session_is_given_back_clean(server: Server) {
    let pooler = or_skip!(Pooler::with_settings(
        &server,
        PoolMode::Session,
        1,
        &[LOCKS_ONLY]
    ));
    let settings = "SELECT name, setting FROM pg_settings ORDER BY name";
    let mut client = Client::connect(&pooler.url(), NoTls).unwrap();
    let read = |client: &mut Client| -> Vec<(String, String)> {
        let rows = client.query(settings, &[]).unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let before = read(&mut client);
    client.batch_execute("DEALLOCATE ALL").unwrap();
    drop(client);
    let mgr = Manager::connect(&pooler.url()).unwrap();
    let many: Vec<_> = (0..300).map(|n: i64| mgr.lock(n).unwrap()).collect();
    let share = mgr.lock_shared((1, 2)).unwrap();
    mgr.close().unwrap();
    assert!(many.iter().all(|guard| guard.is_lost()) && share.is_lost());
    let mut client = Client::connect(&pooler.url(), NoTls).unwrap();
    let statements = "SELECT count(*) FROM pg_prepared_statements WHERE statement !~ 'prepared'";
    assert_eq!(
        client.query_one(statements, &[]).unwrap().get::<_, i64>(0),
        0
    );
    assert_eq!(read(&mut client), before);
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(client.query_one(locks, &[]).unwrap().get::<_, i64>(0), 0);
}

#[apply(isolated_test)]
fn each_session_keeps_a_marker_and_it_goes_with_it(server: Server) {
    let mut client = server.client();
    let mut markers = || -> i64 {
        let count = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) \
             WHERE locktype = 'advisory' AND objsubid = 2 AND classid = x'646c636b'::int::oid \
             AND granted AND application_name LIKE 'distlock %'";
        client.query_one(count, &[]).unwrap().get(0)
    };
    let managers: Vec<_> = (0..3)
        .map(|_| Manager::connect(&server.url()).unwrap())
        .collect();
    assert_eq!(markers(), 3);
    drop(managers);
    eventually(|| markers() == 0);
}

#[apply(isolated_test)]
fn a_primary_whose_transactions_are_read_only_by_default_is_a_primary(server: Server) {
    let mut client = server.client();
    client
        .batch_execute("ALTER ROLE postgres SET default_transaction_read_only = on")
        .unwrap();
    let fenced = Manager::builder(&server.url()).fencing("public.token");
    let mgr = fenced.connect().unwrap();
    let guard = mgr.lock("key").unwrap();
    assert!(guard.token().is_some());
    guard.unlock().unwrap();
}

#[apply(isolated_test)]
fn a_small_statement_timeout_breaks_no_connect(server: Server) {
    // Until the session has its own, a statement is cancelled where the processors are so busy that
    // it takes a millisecond, and is repeated; but not for ever.
    let connect = |url: &str| {
        let mut cancelled = 0;
        for _ in 0..20 {
            match Manager::connect(url) {
                Ok(mgr) => drop(mgr.lock("key").unwrap()),
                Err(error) => {
                    assert!(error.to_string().contains("cancelled"), "{error}");
                    cancelled += 1;
                }
            }
        }
        assert!(cancelled <= 4, "{cancelled} of 20");
    };
    let url = server.url();
    connect(&format!("{url} options='-c statement_timeout=1'"));
    // Not the role of the observing clients: the limit would apply to them, too.
    server
        .client()
        .batch_execute("CREATE ROLE hasty LOGIN; ALTER ROLE hasty SET statement_timeout = 1")
        .unwrap();
    connect(&url.replace("user=postgres", "user=hasty"));
}

#[test]
#[serial]
fn a_role_that_may_not_call_a_lock_function_is_told_so_at_the_connect() {
    let server = Server::start().unwrap();
    let mut client = server.client();
    client.batch_execute("CREATE ROLE app LOGIN").unwrap();
    let url = server.url().replace("user=postgres", "user=app");
    for function in [
        "pg_try_advisory_lock(bigint)",
        "pg_try_advisory_lock(integer, integer)",
        "pg_try_advisory_lock_shared(bigint)",
        "pg_advisory_unlock_shared(integer, integer)",
    ] {
        let run = |client: &mut Client, what: &str| {
            client
                .batch_execute(&format!(
                    "{what} EXECUTE ON FUNCTION pg_catalog.{function} {}",
                    if what == "GRANT" {
                        "TO PUBLIC"
                    } else {
                        "FROM PUBLIC"
                    }
                ))
                .unwrap();
        };
        run(&mut client, "REVOKE");
        let error = Manager::connect(&url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Database, "{function}: {error}");
        assert!(error.to_string().contains("GRANT EXECUTE"), "{error}");
        run(&mut client, "GRANT");
        drop(Manager::connect(&url).unwrap());
    }
}
