//! Servers whose locks would mean nothing, each refused with its own error kind: at the first
//! connect, and at a reconnect.

use std::time::Duration;

use distlock::{ErrorKind, Manager};
use postgres::Client;
use serial_test::serial;
use throwaway_postgres::Server;

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

/// A server whose lock functions return true and do nothing.
const NO_OP: &str = "CREATE OR REPLACE FUNCTION pg_catalog.pg_try_advisory_lock(bigint) \
     RETURNS boolean LANGUAGE sql AS 'SELECT true'";

/// A server that reports another version. (Not strict: the planner has to inline the body,
/// because a call finds the built-in function by its OID.)
fn pretend(version: u32) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION pg_catalog.current_setting(text) \
         RETURNS text LANGUAGE sql STABLE AS \
         $$ SELECT CASE $1 WHEN 'server_version_num' THEN '{version}' \
         ELSE pg_catalog.current_setting($1, false) END $$"
    )
}

fn kind(url: &str) -> ErrorKind {
    Manager::connect(url).unwrap_err().kind()
}

/// The manager's session ends and the next one is refused with `expected`; after `heal`
/// all is well again.
fn assert_refused_at_reconnect(
    client: &mut Client,
    mgr: &Manager,
    expected: ErrorKind,
    heal: &str,
) {
    terminate_sessions(client);
    eventually(|| match mgr.try_lock("preflight") {
        Ok(_) => false,
        Err(error) if error.kind() == ErrorKind::Unavailable => false,
        Err(error) => {
            assert_eq!(error.kind(), expected, "{error}");
            true
        }
    });
    client.batch_execute(heal).unwrap();
    eventually(|| matches!(mgr.try_lock("preflight"), Ok(Some(_))));
}

#[apply(isolated_test)]
fn a_server_whose_lock_functions_do_nothing_is_refused(server: Server) {
    let mgr = Manager::connect(&server.url()).unwrap();
    let mut client = server.client();
    client.batch_execute(NO_OP).unwrap();
    assert_eq!(kind(&server.url()), ErrorKind::NotLocking);
    let heal = "CREATE OR REPLACE FUNCTION pg_catalog.pg_try_advisory_lock(bigint) \
         RETURNS boolean LANGUAGE internal STRICT AS 'pg_try_advisory_lock_int8'";
    assert_refused_at_reconnect(&mut client, &mgr, ErrorKind::NotLocking, heal);
}

#[apply(isolated_test)]
fn an_old_server_is_refused(server: Server) {
    let mgr = Manager::connect(&server.url()).unwrap();
    let mut client = server.client();
    client.batch_execute(&pretend(130_022)).unwrap();
    let error = Manager::connect(&server.url()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ServerTooOld);
    assert!(error.to_string().contains("130022"), "{error}");
    assert_refused_at_reconnect(
        &mut client,
        &mgr,
        ErrorKind::ServerTooOld,
        &pretend(150_000),
    );
}

#[apply(isolated_test)]
fn the_lock_functions_are_postgres_own_whatever_else_has_their_names(server: Server) {
    let mut client = server.client();
    client.batch_execute("CREATE SCHEMA trap").unwrap();
    for name in [
        "pg_try_advisory_lock(bigint)",
        "pg_try_advisory_lock_shared(bigint)",
        "pg_advisory_unlock(bigint)",
        "pg_advisory_unlock_shared(bigint)",
        "pg_is_in_recovery()",
    ] {
        client
            .batch_execute(&format!(
                "CREATE FUNCTION trap.{name} RETURNS boolean LANGUAGE sql AS 'SELECT true'"
            ))
            .unwrap();
    }
    client
        .batch_execute(
            "CREATE FUNCTION trap.shift(bigint, integer) RETURNS bigint LANGUAGE sql AS 'SELECT 1'; \
             CREATE OPERATOR trap.>> (FUNCTION = trap.shift, LEFTARG = bigint, RIGHTARG = integer); \
             ALTER DATABASE postgres SET search_path = trap, pg_catalog",
        )
        .unwrap();
    let (one, two) = (
        Manager::connect(&server.url()).unwrap(),
        Manager::connect(&server.url()).unwrap(),
    );
    let _name = one.lock("name").unwrap();
    let _pair = one.lock((1, 2)).unwrap();
    let _other = two.lock((3, 2)).unwrap();
    let _share = one.lock_shared("share").unwrap();
    assert!(two.try_lock("name").unwrap().is_none());
    assert!(two.try_lock((1, 2)).unwrap().is_none());
    assert!(two.try_lock("share").unwrap().is_none());
    drop(two.try_lock_shared("share").unwrap().unwrap());
    eventually(|| advisory_locks(&mut client).len() == 4);
}

#[test]
#[serial]
fn the_server_is_told_to_watch_the_network() {
    let server = Server::builder()
        .setting("log_statement", "all")
        .start()
        .unwrap();
    let _clean = clean_on(&server);
    let mgr = Manager::builder(&server.tcp_url())
        .tcp_user_timeout(7 * SECOND)
        .tcp_keepalives(8 * SECOND, 3 * SECOND, 4)
        .client_connection_check_interval(2 * SECOND)
        .connect()
        .unwrap();
    drop(mgr.lock("network").unwrap());
    let log = server.log();
    for setting in [
        "SET tcp_user_timeout = 7000",
        "SET tcp_keepalives_idle = 8",
        "SET tcp_keepalives_interval = 3",
        "SET tcp_keepalives_count = 4",
        "SET client_connection_check_interval = 2000",
    ] {
        assert!(log.contains(setting), "no `{setting}` in {log}");
    }
    assert!(!log.contains("ERROR:"), "{log}");
}

#[apply(isolated_test)]
fn limits_of_a_role_are_not_for_this_session(server: Server) {
    let mut client = server.client();
    // Longer than each of the limits.
    let slow = "pg_catalog.pg_sleep(0.5) IS NOT NULL AND pg_catalog.honest(n)";
    impose(&mut client, "pg_catalog.pg_try_advisory_lock", slow);
    for limit in [
        "statement_timeout = 200",
        "lock_timeout = 200",
        "idle_session_timeout = 200",
        "idle_in_transaction_session_timeout = 200",
    ] {
        client
            .batch_execute(&format!("ALTER ROLE postgres SET {limit}"))
            .unwrap();
    }
    let mgr = Manager::builder(&server.url())
        .heartbeat(FOREVER)
        .lease(None)
        .connect()
        .unwrap();
    // The limits apply to sessions that connect from now on.
    client
        .batch_execute("ALTER ROLE postgres RESET ALL; INSERT INTO imposed DEFAULT VALUES")
        .unwrap();
    let guard = mgr.lock("slow").unwrap();
    client
        .batch_execute("DELETE FROM imposed; SELECT pg_sleep(0.5)")
        .unwrap();
    guard.unlock().unwrap();
    assert_eq!((mgr.stats().lost, mgr.stats().reconnects), (0, 0));
}
