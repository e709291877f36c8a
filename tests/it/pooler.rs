//! A real PgBouncer in front of the server.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use distlock::{ErrorKind, Manager};
use postgres::{Client, NoTls};
use throwaway_postgres::{PoolMode, Pooler, Server};

use crate::support::*;

#[apply(isolated_test)]
fn a_pool_in_session_mode_keeps_locks(server: Server) {
    let pooler = or_skip!(Pooler::before(&server, PoolMode::Session, 10));
    let pooled = Manager::connect(&pooler.url()).unwrap();
    let direct = Manager::connect(&server.url()).unwrap();
    let guard = pooled.lock("pooled").unwrap();
    assert!(direct.try_lock("pooled").unwrap().is_none());
    guard.unlock().unwrap();
    let guard = direct.try_lock("pooled").unwrap().unwrap();
    assert!(pooled.try_lock("pooled").unwrap().is_none());
    guard.unlock().unwrap();
}

#[apply(isolated_test)]
fn a_session_pool_that_is_used_up_is_accepted(server: Server) {
    // Both connections of the preflight get the pool's only session.
    let pooler = or_skip!(Pooler::before(&server, PoolMode::Session, 1));
    let pooled = Manager::connect(&pooler.url()).unwrap();
    let direct = Manager::connect(&server.url()).unwrap();
    let guard = pooled.lock("pooled").unwrap();
    assert!(direct.try_lock("pooled").unwrap().is_none());
    guard.unlock().unwrap();
    pooled.close().unwrap();
}

#[apply(isolated_test)]
fn a_pool_that_lends_its_sessions_out_is_refused(server: Server) {
    for mode in [PoolMode::Transaction, PoolMode::Statement] {
        for size in [1, 10] {
            let pooler = or_skip!(Pooler::before(&server, mode, size));
            let error = Manager::connect(&pooler.url()).unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::Pooler,
                "{mode:?} of {size}: {error}"
            );
            assert!(error.to_string().contains("session mode"));
        }
    }
}

#[apply(isolated_test)]
fn a_pool_that_switches_to_transaction_mode_is_refused_at_the_reconnect(server: Server) {
    let mut pooler = or_skip!(Pooler::before(&server, PoolMode::Session, 10));
    let mgr = Manager::connect(&pooler.url()).unwrap();
    let guard = mgr.lock("held").unwrap();
    pooler.restart(PoolMode::Transaction, 10).unwrap();
    eventually(|| guard.is_lost());
    eventually(|| match mgr.try_lock("held") {
        Err(error) => error.kind() == ErrorKind::Pooler,
        Ok(guard) => panic!("{guard:?} through a pool in transaction mode"),
    });
    pooler.restart(PoolMode::Session, 10).unwrap();
    eventually(|| matches!(mgr.try_lock("held"), Ok(Some(_))));
}

#[apply(isolated_test)]
fn a_session_pool_that_is_used_up_is_accepted_within_a_short_connect_timeout(server: Server) {
    let pooler = or_skip!(Pooler::before(&server, PoolMode::Session, 1));
    let pooled = Manager::builder(&pooler.url())
        .connect_timeout(Duration::from_millis(900))
        .connect()
        .unwrap();
    pooled.close().unwrap();
}

#[apply(isolated_test)]
fn a_busy_pool_that_lends_its_sessions_out_is_refused(server: Server) {
    for size in [1, 2] {
        let pooler = or_skip!(Pooler::before(&server, PoolMode::Transaction, size));
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            // The second connection's statements wait for a session, together longer than the
            // preflight waits.
            let busy = || {
                let mut client = Client::connect(&pooler.url(), NoTls).unwrap();
                while !over.load(SeqCst) {
                    client.batch_execute("SELECT pg_sleep(1.1)").unwrap();
                }
            };
            (0..size).for_each(|_| drop(scope.spawn(busy)));
            let mut client = server.client();
            let asleep = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            eventually(|| client.execute(asleep, &[]).unwrap() == size as u64);
            let connected = Manager::builder(&pooler.url())
                .connect_timeout(FOREVER * 2)
                .connect();
            over.store(true, SeqCst);
            assert_eq!(connected.unwrap_err().kind(), ErrorKind::Pooler, "{size}");
        });
    }
}
