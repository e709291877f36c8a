//! What is logged, at which level, and what is never logged.

use std::time::Duration;

use distlock::Manager;
use serial_test::serial;
use throwaway_postgres::{Server, Shutdown};

use crate::recording::{record, said};
use crate::support::*;

/// The crate's own lines of this level.
fn lines(level: &str) -> Vec<String> {
    said()
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with(level) && line.contains("distlock::"))
        .map(String::from)
        .collect()
}

/// The lines of all levels above TRACE.
fn loud() -> Vec<String> {
    ["ERROR", "WARN", "INFO", "DEBUG"].map(lines).concat()
}

#[apply(isolated_test)]
fn a_sessions_life_is_logged() {
    record();
    let mgr = manager();
    let [connected] = &lines("INFO")[..] else {
        panic!("{}", said());
    };
    assert!(connected.contains("connected"), "{connected}");
    assert_eq!(loud().len(), 1, "{}", said());

    let guard = mgr.lock("logged").unwrap();
    let watch = guard.watch();
    terminate_sessions(&mut server().client());
    watch.wait();
    mgr.lock("again").unwrap().unlock().unwrap();
    let [lost] = &lines("WARN")[..] else {
        panic!("{}", said());
    };
    assert!(lost.contains("lost") && lost.contains("held=1"), "{lost}");
    let [_, reconnected] = &lines("INFO")[..] else {
        panic!("{}", said());
    };
    assert!(reconnected.contains("reconnected"), "{reconnected}");
    assert!(reconnected.contains("after="), "{reconnected}");

    mgr.close().unwrap();
    assert!(lines("DEBUG").iter().any(|line| line.contains("closed")));
    assert_eq!((lines("WARN").len(), lines("INFO").len()), (1, 2));
    assert!(lines("ERROR").is_empty());
}

#[apply(isolated_test)]
fn single_locks_are_not_logged() {
    let (mgr, other) = (manager(), manager());
    record();
    for n in 0..50_i64 {
        let guard = mgr.lock(n).unwrap();
        assert!(other.try_lock(n).unwrap().is_none());
        let timed = other.try_lock_for(n, Duration::from_millis(1));
        assert!(!matches!(timed, Ok(Some(_))));
        guard.unlock().unwrap();
        drop(other.lock_shared(n).unwrap());
    }
    assert!(loud().is_empty(), "{:#?}", loud());
}

#[apply(isolated_test)]
fn an_outage_is_one_loud_line_however_long_it_lasts(server: Server) {
    let mgr = Manager::builder(&server.url())
        .reconnect_backoff(Duration::from_millis(2), Duration::from_millis(5))
        .connect()
        .unwrap();
    let guard = mgr.lock("outage").unwrap();
    record();
    server.stop(Shutdown::Immediate).unwrap();
    let failed = |line: &String| line.contains("cannot reconnect");
    eventually(|| lines("DEBUG").iter().filter(|line| failed(line)).count() > 20);
    for _ in 0..50 {
        mgr.lock("outage").unwrap_err();
    }
    let warnings = lines("WARN");
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].contains("lost") && failed(&warnings[1]));
    server.start_again().unwrap();
    eventually(|| mgr.lock("outage").is_ok());
    assert_eq!(lines("INFO").len(), 1);
    drop(guard);
}

#[test]
#[serial]
fn no_password_is_logged_by_us() {
    let server = Server::builder()
        .hba("host all app 127.0.0.1/32 scram-sha-256")
        .start()
        .unwrap();
    let _clean = clean_on(&server);
    let mut client = server.client();
    client
        .batch_execute("CREATE ROLE app LOGIN PASSWORD 'open sesame'")
        .unwrap();
    let port = server.port();
    let dsn = |word: &str| {
        format!("host=127.0.0.1 port={port} dbname=postgres user=app password='{word}'")
    };
    record();
    Manager::connect(&dsn("wrong sesame")).unwrap_err();
    Manager::connect("host=x password=open sesame=1").unwrap_err();
    let mgr = Manager::builder(&dsn("open sesame"))
        .reconnect_backoff(Duration::from_millis(2), Duration::from_millis(5))
        .connect()
        .unwrap();
    let guard = mgr.lock("secret").unwrap();
    // From now on the password is wrong, and reconnects fail.
    client
        .batch_execute("ALTER ROLE app PASSWORD 'another'")
        .unwrap();
    terminate_sessions(&mut client);
    guard.watch().wait();
    eventually(|| said().contains("cannot reconnect"));
    mgr.lock("secret").unwrap_err();
    mgr.close().ok();
    assert!(said().contains("connected"));
    assert!(!said().contains("sesame"), "{}", said());
}
