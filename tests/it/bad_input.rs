//! Invalid connection strings, servers and settings: each is a clear error at once, and no lock
//! is lost by it.

use std::error::Error as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use distlock::{Builder, Ended, Error, ErrorKind, Manager};
use serial_test::serial;
use throwaway_postgres::Server;

use crate::support::*;

const SHORT: Duration = Duration::from_millis(200);

type Change = fn(Builder) -> Builder;

/// Everything that a program could show of an error.
pub(crate) fn shown(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(" {cause} {cause:?}");
        source = cause.source();
    }
    text
}

/// A server that requires a password of the role `app`, over TCP.
fn guarded_server() -> Server {
    let server = Server::builder()
        .hba("host all app 127.0.0.1/32 scram-sha-256")
        .start()
        .unwrap();
    let mut client = server.client();
    client
        .batch_execute("CREATE ROLE app LOGIN PASSWORD 'open sesame'")
        .unwrap();
    server
}

fn as_app(server: &Server, password: &str) -> String {
    let port = server.port();
    format!("host=127.0.0.1 port={port} dbname=postgres user=app password='{password}'")
}

#[test]
fn a_malformed_connection_string_is_a_config_error() {
    for dsn in [
        "nonsense",
        "host",
        "host=/nonexistent port=http",
        "host=/nonexistent port=99999",
        "host=/nonexistent port=-1",
        "host=/nonexistent connect_timeout=soon",
        "host=/nonexistent sslmode=perhaps",
        "host=/nonexistent target_session_attrs=any-old",
        "host=/nonexistent colour=blue",
        "host='x",
        "host=/nonexistent port=0",
        "host=@nonexistent",
        "postgres://app@db:port/app",
        "postgres://app@%2Fnonexistent/app?colour=blue",
        "postgres://app@db/%zz%ff",
        "mysql://app@%2Fnonexistent/app",
    ] {
        let builder = Manager::builder(dsn).connect_timeout(SHORT);
        let error = builder.connect().map(drop).expect_err(dsn);
        assert_eq!(
            error.kind(),
            ErrorKind::Config,
            "{dsn:?}: {}",
            shown(&error)
        );
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn hosts_addresses_and_ports_in_different_numbers_are_a_config_error() {
    for dsn in [
        "host=127.0.0.1,127.0.0.1,127.0.0.1 port=1,2 user=app",
        "host=127.0.0.1 port=1,2 user=app",
        "host=localhost,localhost hostaddr=127.0.0.1 port=1 user=app",
    ] {
        let error = Manager::connect(dsn).map(drop).expect_err(dsn);
        assert_eq!(
            error.kind(),
            ErrorKind::Config,
            "{dsn:?}: {}",
            shown(&error)
        );
    }
}

#[apply(isolated_test)]
fn a_nul_in_the_connection_string_or_the_application_name_is_a_config_error() {
    let url = server().url();
    for builder in [
        Manager::builder(&format!("{url} user='a\0b'")),
        Manager::builder(&format!("{url} application_name='a\0b'")),
        Manager::builder(&url).application_name("a\0b"),
    ] {
        let error = builder.connect().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{}", shown(&error));
    }
}

#[apply(isolated_test)]
fn no_part_of_a_password_is_in_an_error() {
    for dsn in [
        "host=x password=open sesame=1",
        "host=/nonexistent password=open sesame",
        "host=/nonexistent password='open sesame",
        "host=/nonexistent password=x sesame=open",
        "host= password=it's sesame=open",
        "postgres://app:x/?sesame=1@db",
        "host=/nonexistent password=a\\ sesame port=sesame",
        "host=/nonexistent user=app port=1 password=x port=sesame",
        "password=sesame",
        "host=x sslmode= password=sesame",
        "host=x sslrootcert= password=sesame sslmode=verify-full",
        "postgres://app:sesame@db:port/app",
        "postgres://app:p@sesame:x@%2Fnonexistent/app",
        "postgres://app:open sesame@[db/app",
        "postgres://app:x#sesame@%2Fnonexistent/app?colour=1",
        "postgres://app:%zzsesame@%2Fnonexistent/app",
        "postgers://app:sesame@%2Fnonexistent/app",
    ] {
        let Err(error) = Manager::builder(dsn).connect_timeout(SHORT).connect() else {
            panic!("{dsn:?} has been connected to");
        };
        assert!(
            !shown(&error).contains("sesame"),
            "{dsn:?}: {}",
            shown(&error)
        );
        let builder = Manager::builder(dsn);
        assert!(!format!("{builder:?} {builder:#?}").contains("sesame"));
    }
}

#[test]
#[serial]
fn a_refused_login_is_an_error_without_the_password() {
    let server = guarded_server();
    let _clean = clean_on(&server);
    let error = Manager::connect(&as_app(&server, "wrong sesame")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login);
    assert!(!shown(&error).contains("sesame"));
    let missing = as_app(&server, "").replace("password=''", "");
    let error = Manager::connect(&missing).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login, "{}", shown(&error));
    assert!(!shown(&error).contains("sesame"));

    let mgr = Manager::connect(&as_app(&server, "open sesame")).unwrap();
    let guard = mgr.lock("in").unwrap();
    assert!(!format!("{mgr:?} {guard:?} {:?}", guard.watch()).contains("sesame"));
}

/// Nothing that should be encrypted is sent in the clear.
#[cfg(not(feature = "tls"))]
#[test]
fn tls_without_an_implementation_is_a_config_error() {
    for rest in [
        "sslmode=require",
        "sslmode=verify-ca",
        "sslmode=verify-full",
        "sslrootcert=system",
        "sslmode=prefer sslrootcert=/nonexistent",
    ] {
        let error = Manager::connect(&format!("host=/nonexistent user=app {rest}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{}", shown(&error));
        assert!(error.to_string().contains("feature `tls`"), "{error}");
        assert!(error.to_string().contains("Builder::tls"), "{error}");
    }
}

#[apply(isolated_test)]
fn an_unknown_role_or_database_is_a_refused_login() {
    for wrong in ["user=nobody_of_that_name", "dbname=none_of_that_name"] {
        let error = Manager::connect(&format!("{} {wrong}", server().url())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Login, "{}", shown(&error));
        let cause = error.source().unwrap().downcast_ref::<postgres::Error>();
        assert!(cause.unwrap().code().is_some());
    }
    manager().lock("fine").unwrap().unlock().unwrap();
}

#[apply(isolated_test)]
fn a_refused_connection_is_unavailable() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    for dsn in [
        format!("host=127.0.0.1 port={port} user=app"),
        "host=/nonexistent user=app".into(),
        "host=no-such-host.invalid user=app".into(),
    ] {
        let error = Manager::connect(&dsn).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", shown(&error));
        assert!(error.source().is_some());
    }
    // With several hosts the next one counts.
    let dsn = format!(
        "host=127.0.0.1,127.0.0.1 port={port},{} user=postgres",
        server().port()
    );
    drop(Manager::connect(&dsn).unwrap().lock("second").unwrap());
}

#[test]
#[serial]
fn a_server_without_a_free_slot_is_unavailable_until_there_is_one() {
    let server = Server::builder()
        .setting("max_connections", "4")
        .setting("superuser_reserved_connections", "0")
        .setting("max_wal_senders", "0")
        .start()
        .unwrap();
    let _clean = clean_on(&server);
    // Those that were there before may not be gone yet.
    let mut clients = Vec::new();
    eventually(|| {
        clients.extend(postgres::Client::connect(&server.url(), postgres::NoTls));
        clients.len() == 4
    });
    let error = Manager::connect(&server.url()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    drop(clients);
    eventually(|| Manager::connect(&server.url()).is_ok());
}

#[apply(isolated_test)]
fn a_server_that_never_answers_is_unavailable_after_the_connect_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let builder = Manager::builder(&format!("host=127.0.0.1 port={port} user=app"));
    let start = Instant::now();
    let error = builder.connect_timeout(SHORT).connect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(start.elapsed() >= SHORT);
}

#[apply(isolated_test)]
fn a_server_that_talks_rubbish_is_unavailable() {
    use std::io::Write as _;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let web = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
    });
    let builder = Manager::builder(&format!("host=127.0.0.1 port={port} user=app"));
    let error = builder.connect_timeout(FOREVER).connect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", shown(&error));
    web.join().unwrap();
}

#[test]
fn a_setting_that_cannot_work_is_a_config_error_that_names_it() {
    const MS: Duration = Duration::from_millis(1);
    const ZERO: Duration = Duration::ZERO;
    let cases: [(&str, Change); 14] = [
        ("max_locks", |b| b.max_locks(0)),
        ("queue_capacity", |b| b.queue_capacity(0)),
        ("queue_capacity", |b| b.queue_capacity((1 << 20) + 1)),
        ("queue_capacity", |b| b.queue_capacity(usize::MAX)),
        ("heartbeat", |b| b.heartbeat(ZERO)),
        ("connect_timeout", |b| b.connect_timeout(ZERO)),
        ("response_timeout", |b| b.response_timeout(ZERO)),
        ("reconnect_backoff", |b| b.reconnect_backoff(ZERO, MS)),
        ("reconnect_backoff", |b| b.reconnect_backoff(2 * MS, MS)),
        ("retry_interval", |b| b.retry_interval(ZERO, MS)),
        ("retry_interval", |b| b.retry_interval(2 * MS, MS)),
        ("lease", |b| b.lease(ZERO)),
        ("lease", |b| b.heartbeat(100 * MS).lease(399 * MS)),
        ("lease", |b| b.lease(Duration::MAX)),
    ];
    for (name, change) in cases {
        // Found before any connection is made: there is no server.
        let builder = change(Manager::builder("host=/nonexistent user=app"));
        let error = builder.connect().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{name}: {error}");
        assert!(error.to_string().contains(name), "{name}: {error}");
    }
}

/// To the server such a lease would be 0, which disables it.
#[test]
fn a_lease_below_a_millisecond_is_a_config_error() {
    let builder = Manager::builder("host=/nonexistent user=app");
    let builder = builder.heartbeat(Duration::from_micros(100));
    let error = builder
        .lease(Duration::from_micros(900))
        .connect()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

/// The largest duration is a way to say "never", not an overflow.
#[apply(isolated_test)]
fn a_setting_may_be_as_long_as_a_duration_can_be() {
    const MAX: Duration = Duration::MAX;
    let cases: [(&str, Change); 6] = [
        ("heartbeat", |b| b.lease(None).heartbeat(MAX)),
        ("connect_timeout", |b| b.connect_timeout(MAX)),
        ("response_timeout", |b| b.response_timeout(MAX)),
        ("reconnect_backoff", |b| b.reconnect_backoff(SHORT, MAX)),
        ("first reconnect_backoff", |b| b.reconnect_backoff(MAX, MAX)),
        ("retry_interval", |b| b.retry_interval(MAX, MAX)),
    ];
    let mut failed = Vec::new();
    for (name, change) in cases {
        let mgr = change(builder()).connect().unwrap();
        let holder = manager();
        let other = holder.lock("other").unwrap();
        let waited = mgr.try_lock_for("other", SHORT);
        drop(other);
        let first = mgr.lock("first").and_then(|guard| {
            // A manager that sends no heartbeats detects the loss at its next statement.
            terminate_sessions(&mut server().client());
            guard.unlock().ok();
            mgr.lock("again")
        });
        if !matches!(waited, Ok(None)) || first.is_err() {
            failed.push((name, waited.map(drop), first.map(drop)));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[apply(isolated_test)]
fn a_zero_timeout_tries_once() {
    let (mgr, other) = (manager(), manager());
    let past = Instant::now() - Duration::from_secs(1);
    let _guard = other.lock("held").unwrap();
    assert!(mgr.try_lock_for("held", Duration::ZERO).unwrap().is_none());
    assert!(mgr.try_lock_until("held", past).unwrap().is_none());
    let error = mgr
        .acquire("held")
        .timeout(Duration::ZERO)
        .lock()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    for _ in 0..100 {
        assert!(mgr.try_lock_for("free", Duration::ZERO).unwrap().is_some());
        assert!(mgr.try_lock_until("free", past).unwrap().is_some());
        assert!(mgr.try_lock_shared_until("free", past).unwrap().is_some());
        drop(mgr.acquire("free").timeout(Duration::ZERO).lock().unwrap());
    }
}

#[apply(isolated_test)]
fn a_timeout_of_the_longest_duration_waits_for_ever() {
    const MAX: Duration = Duration::MAX;
    let (mgr, other) = (manager(), manager());
    let guard = other.lock("held").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| mgr.try_lock_for("held", MAX).unwrap().unwrap());
        scope.spawn(|| mgr.acquire("held").shared().timeout(MAX).lock().unwrap());
        eventually(|| mgr.stats().waiting == 2);
        drop(guard);
    });
    let guard = mgr.try_lock_for("free", MAX).unwrap().unwrap();
    let watch = guard.watch();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| watch.wait_timeout(MAX));
        drop(guard);
        assert_eq!(waiter.join().unwrap(), Some(Ended::Unlocked));
    });
}
