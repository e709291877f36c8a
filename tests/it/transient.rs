//! Which errors are transient, and which waiting does not resolve.

use std::time::Duration;

use distlock::{Error, ErrorKind, Manager};
use postgres::{Client, NoTls, SimpleQueryMessage};
use serial_test::serial;
use throwaway_postgres::{PoolMode, Pooler, Server};

use crate::support::*;

fn refusal(url: &str) -> Error {
    Manager::connect(url).unwrap_err()
}

#[apply(isolated_test)]
fn a_pooler_that_takes_no_more_clients_is_unavailable(server: Server) {
    let full = [("max_client_conn", "1")];
    let pooler = or_skip!(Pooler::with_settings(&server, PoolMode::Session, 5, &full));
    let mut other = None;
    eventually(|| {
        other = Client::connect(&pooler.url(), NoTls).ok();
        other.is_some()
    });
    let error = refusal(&pooler.url());
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.is_transient());
    assert!(
        error.to_string().contains("no connection slot free"),
        "{error}"
    );
}

#[test]
#[serial]
fn a_pooler_whose_server_takes_no_more_clients_is_unavailable() {
    let server = Server::builder()
        .setting("max_connections", "5")
        .setting("superuser_reserved_connections", "0")
        .setting("max_wal_senders", "0")
        .start()
        .unwrap();
    let _clean = clean_on(&server);
    let settings = [("server_login_retry", "1"), ("query_wait_timeout", "2")];
    let pooler = or_skip!(Pooler::with_settings(
        &server,
        PoolMode::Session,
        5,
        &settings
    ));
    // All slots, together with the pooler's own session.
    let mut others: Vec<Client> = Vec::new();
    eventually(|| {
        others.extend(Client::connect(&server.url(), NoTls).ok());
        others.len() >= 4
    });
    let end_the_poolers = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE backend_type = 'client backend' AND application_name = '' \
         AND pid <> pg_backend_pid() AND backend_start < $1::text::timestamptz";
    let started = others[0].query_one(
        "SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()",
        &[],
    );
    let started: String = started.unwrap().get(0);
    eventually(|| {
        others[0].execute(end_the_poolers, &[&started]).unwrap();
        others.extend(Client::connect(&server.url(), NoTls).ok());
        others.len() == 5
    });
    let error = refusal(&pooler.url());
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.is_transient());
    let error = refusal(&server.url());
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.is_transient());
}

#[apply(isolated_test)]
fn a_database_that_is_disabled_may_be_enabled_again(server: Server) {
    let admin = [("admin_users", "postgres")];
    let pooler = or_skip!(Pooler::with_settings(&server, PoolMode::Session, 5, &admin));
    drop(Manager::connect(&pooler.url()).unwrap());
    let console = pooler.url().replace("dbname=postgres", "dbname=pgbouncer");
    let mut console = Client::connect(&console, NoTls).unwrap();
    let done = console.simple_query("DISABLE postgres").unwrap();
    assert!(matches!(done[..], [SimpleQueryMessage::CommandComplete(_)]));
    let error = refusal(&pooler.url());
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.is_transient());
    console.simple_query("ENABLE postgres").unwrap();
    drop(Manager::connect(&pooler.url()).unwrap());

    // The server's own error for it.
    server.create_database("closed");
    let close = "ALTER DATABASE closed ALLOW_CONNECTIONS false";
    server.client().batch_execute(close).unwrap();
    let error = refusal(&server.url().replace("dbname=postgres", "dbname=closed"));
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

#[test]
#[serial]
fn a_connect_that_finds_the_lock_table_full_says_so() {
    let server = [
        ("max_locks_per_transaction", "10"),
        ("max_connections", "10"),
        ("max_prepared_transactions", "0"),
        ("max_wal_senders", "0"),
        ("wal_level", "minimal"),
    ]
    .into_iter()
    .fold(Server::builder(), |builder, (name, value)| {
        builder.setting(name, value)
    })
    .start()
    .unwrap();
    let _clean = clean_on(&server);
    let mut client = server.client();
    let mut key = 0_i64;
    while client
        .execute("SELECT pg_advisory_lock($1)", &[&key])
        .is_ok()
    {
        key += 1;
    }
    let error = refusal(&server.url());
    assert_eq!(error.kind(), ErrorKind::LockTableFull, "{error:?}");
    assert!(error.is_transient());
    // A start with `connect_within` waits.
    let builder = Manager::builder(&server.url());
    let starting = std::thread::spawn(move || builder.connect_within(FOREVER));
    client
        .batch_execute("SELECT pg_advisory_unlock_all()")
        .unwrap();
    drop(finish(vec![starting]).remove(0).unwrap());
}

#[apply(isolated_test)]
fn waiting_does_not_mend_a_login_a_certificate_or_a_setting() {
    let url = server().tcp_url();
    for (url, kind) in [
        (format!("{url} dbname=none_of_that_name"), ErrorKind::Login),
        (
            format!("{url} options='-c nothing.of=that -c kind'"),
            ErrorKind::Database,
        ),
        ("host=x sslmode=often".to_owned(), ErrorKind::Config),
        #[cfg(feature = "tls")]
        (format!("{url} sslmode=require"), ErrorKind::Tls),
    ] {
        let builder = Manager::builder(&url).connect_timeout(Duration::from_secs(10));
        let error = builder.connect().unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(!error.is_transient(), "{error:?}");
    }
}
