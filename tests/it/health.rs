//! The health of a manager, and the ways to start one while its database is down.

use std::error::Error as _;
use std::thread;
use std::time::{Duration, Instant};

use distlock::{ErrorKind, Manager};
use throwaway_postgres::{Proxy, Server, Shutdown};

use crate::support::*;

const MS: Duration = Duration::from_millis(1);

#[apply(isolated_test)]
fn health_follows_the_session(server: Server) {
    let before = Instant::now();
    let mgr = Manager::builder(&server.url())
        .reconnect_backoff(5 * MS, 20 * MS)
        .connect()
        .unwrap();
    let fresh = mgr.health();
    assert!(fresh.connected && fresh.cause.is_none());
    assert!(fresh.since >= before && fresh.age() <= before.elapsed());
    assert_eq!((fresh.lease_left, fresh.abandoned), (None, 0));

    let guard = mgr.lock("held").unwrap();
    let left = mgr.health().lease_left.unwrap();
    assert!(left <= Duration::from_secs(9), "{left:?}");

    server.stop(Shutdown::Immediate).unwrap();
    guard.watch().wait();
    let mut away = mgr.health();
    assert!(!away.connected && away.cause.is_some());
    assert!(away.since > fresh.since && away.lease_left.is_none());
    let lost_at = away.since;
    // The cause is the latest one, the age counts from the loss.
    eventually(|| {
        away = mgr.health();
        let cause = away.cause.as_ref().unwrap();
        cause.to_string() == "cannot connect to the database"
    });
    assert_eq!(away.cause.unwrap().kind(), ErrorKind::Unavailable);
    assert_eq!(away.since, lost_at);

    server.start_again().unwrap();
    eventually(|| mgr.health().connected);
    assert!(mgr.health().since > lost_at && mgr.health().cause.is_none());

    mgr.close().unwrap();
    let closed = mgr.health();
    assert!(!closed.connected);
    assert_eq!(closed.cause.unwrap().kind(), ErrorKind::Closed);
}

#[apply(isolated_test)]
fn health_sees_an_answer_that_is_owed_and_a_lease_that_ends(server: Server) {
    let mgr = Manager::builder(&server.url())
        .lease(1000 * MS)
        .connect()
        .unwrap();
    let guard = mgr.lock("held").unwrap();
    let paused = Paused::new(backends(&mut server.client()));
    eventually(|| {
        mgr.health()
            .unanswered_for
            .is_some_and(|owed| owed > 100 * MS)
    });
    let before = mgr.health();
    // Because the lease expires by the clock.
    eventually(|| !mgr.health().connected);
    assert!(guard.is_lost());
    assert!(mgr.health().since > before.since && mgr.health().cause.is_some());
    drop(paused);
    eventually(|| mgr.health().connected);
}

#[apply(isolated_test)]
fn what_the_first_connect_leaves_behind_counts() {
    let silent = Proxy::to(server()).unwrap();
    silent.silence(true);
    let both = |url: &str| {
        let port = url.split("port=").nth(1).unwrap();
        port.split(' ').next().unwrap().to_owned()
    };
    let (first, second) = (both(&silent.url()), both(&server().tcp_url()));
    let mgr = Manager::builder(&format!(
        "host=127.0.0.1,127.0.0.1 port={first},{second} user=postgres dbname=postgres"
    ))
    .connect_timeout(300 * MS)
    .connect()
    .unwrap();
    assert_eq!(mgr.health().abandoned, 1);
    silent.cut();
    silent.silence(false);
    eventually(|| mgr.health().abandoned == 0);
}

#[apply(isolated_test)]
fn a_start_can_wait_for_the_database(server: Server) {
    server.stop(Shutdown::Immediate).unwrap();
    let builder = Manager::builder(&server.url()).reconnect_backoff(5 * MS, 20 * MS);
    let error = builder.clone().connect_within(100 * MS).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // The last attempt's own error.
    assert_eq!(error.to_string(), "cannot connect to the database");
    assert!(error.source().is_some());

    let starting = thread::spawn(move || builder.connect_within(FOREVER));
    thread::sleep(50 * MS); // for a few attempts; without them the test is only weaker
    server.start_again().unwrap();
    let mgr = finish(vec![starting]).remove(0).unwrap();
    drop(mgr.lock("here").unwrap());
    assert_eq!(mgr.stats().reconnects, 0);
}

#[apply(isolated_test)]
fn a_start_waits_for_nothing_that_does_not_pass() {
    let url = format!("{} dbname=none_of_that_name", server().url());
    let error = Manager::builder(&url)
        .connect_within(10 * FOREVER)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login);
    let error = Manager::builder("host=x sslmode=often")
        .connect_within(10 * FOREVER)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[apply(isolated_test)]
fn a_start_whose_time_ends_in_an_attempt_says_so() {
    let silent = Proxy::to(server()).unwrap();
    silent.silence(true);
    let error = Manager::builder(&silent.url())
        .connect_within(50 * MS)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.to_string().contains("within the time given"),
        "{error}"
    );
    silent.cut();
    silent.silence(false);
}

#[apply(isolated_test)]
fn a_lazy_manager_waits_for_its_first_connect() {
    let mgr = builder().connect_lazy().unwrap();
    assert!(mgr.try_lock("lazy").unwrap().is_some());
    assert!(mgr.health().connected);
    assert_eq!(mgr.stats().reconnects, 0);
    // An invalid connection string is an error at once.
    let error = Manager::builder("host=x sslmode=often")
        .connect_lazy()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let error = builder().max_locks(0).connect_lazy().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[apply(isolated_test)]
fn a_lazy_manager_meets_the_state_of_things(server: Server) {
    server.stop(Shutdown::Immediate).unwrap();
    let lazy = |wait| {
        Manager::builder(&server.url())
            .reconnect_backoff(5 * MS, 20 * MS)
            .wait_while_unavailable(wait)
            .connect_lazy()
            .unwrap()
    };
    let (mgr, patient) = (lazy(false), lazy(true));
    assert!(!mgr.health().connected);
    let error = mgr.lock("lazy").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("cannot connect"), "{error}");
    let waiting = {
        let patient = patient.clone();
        thread::spawn(move || patient.lock("lazy").map(drop))
    };
    eventually(|| patient.stats().waiting == 1);
    server.start_again().unwrap();
    finish(vec![waiting]).remove(0).unwrap();
    eventually(|| mgr.lock("lazy").is_ok());
    assert_eq!((mgr.stats().reconnects, patient.stats().reconnects), (0, 0));
}
