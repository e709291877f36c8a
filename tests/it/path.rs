//! Paths between a manager and its server: every kind of path on which a lock would mean nothing
//! is refused, and every other one works.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use distlock::{Builder, Ended, ErrorKind, Manager};
use postgres::{Client, NoTls};
use serial_test::serial;
use throwaway_postgres::{PoolMode, Pooler, Proxy, Server};

use crate::support::*;

/// Enough for a connect here, half of which the preflight waits for what is not released.
const SHORT: Duration = Duration::from_secs(2);

fn quick(url: &str) -> Builder {
    Manager::builder(url).connect_timeout(SHORT)
}

#[apply(isolated_test)]
fn several_transaction_poolers_behind_one_address_are_refused(server: Server) {
    for number in [2, 3] {
        let poolers: io::Result<Vec<_>> = (0..number)
            .map(|_| Pooler::before(&server, PoolMode::Transaction, 3))
            .collect();
        let poolers = or_skip!(poolers);
        let ports: Vec<_> = poolers.iter().map(Pooler::port).collect();
        let balancer = Proxy::among(&ports).unwrap();
        for _ in 0..4 {
            let error = quick(&balancer.url()).connect().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Pooler, "{number}: {error}");
        }
    }
}

#[apply(isolated_test)]
fn a_transaction_pooler_with_no_client_slot_left_is_refused(server: Server) {
    for mode in [PoolMode::Transaction, PoolMode::Statement] {
        let slots = [("max_client_conn", "1")];
        let pooler = or_skip!(Pooler::with_settings(&server, mode, 3, &slots));
        let error = quick(&pooler.url()).connect().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pooler, "{mode:?}: {error}");
        // With the only slot taken, nothing can be verified.
        let mut client = None;
        eventually(|| {
            // The pooler may not have seen yet that the refused connection has gone.
            client = Client::connect(&pooler.url(), NoTls).ok();
            client.is_some()
        });
        let error = quick(&pooler.url()).connect().unwrap_err();
        assert_ne!(error.kind(), ErrorKind::Pooler, "{mode:?}: {error}");
    }
}

#[apply(isolated_test)]
fn a_transaction_pooler_that_is_slow_to_log_in_is_refused(server: Server) {
    let pooler = or_skip!(Pooler::before(&server, PoolMode::Transaction, 3));
    let network = Proxy::among(&[pooler.port()]).unwrap();
    network.delay_connects(Duration::from_millis(1200));
    let error = Manager::connect(&network.url()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Pooler, "{error}");
    network.delay_connects(Duration::ZERO);
    network.delay_data(Duration::from_millis(50));
    let error = Manager::connect(&network.url()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Pooler, "{error}");
}

#[apply(isolated_test)]
fn a_busy_transaction_pooler_is_refused_every_time(server: Server) {
    let pooler = or_skip!(Pooler::before(&server, PoolMode::Transaction, 3));
    let busy = |client: &mut Client| drop(client.simple_query("SELECT pg_sleep(0.001)").unwrap());
    among_clients(&pooler, busy, || {
        let kinds: Vec<_> = (0..30)
            .map(|_| {
                Manager::connect(&pooler.url())
                    .map(drop)
                    .unwrap_err()
                    .kind()
            })
            .collect();
        assert!(
            kinds.iter().all(|kind| *kind == ErrorKind::Pooler),
            "{kinds:?}"
        );
    });
}

/// Runs `work` while four other clients of the pooler do `theirs` again and again.
fn among_clients(pooler: &Pooler, theirs: impl Fn(&mut Client) + Sync, work: impl FnOnce()) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::connect(&pooler.url(), NoTls).unwrap();
                while !over.load(SeqCst) {
                    theirs(&mut client);
                }
            });
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, SeqCst);
        outcome.unwrap();
    });
}

/// Releases all locks of the session that the pooler assigns to the client.
fn unlock_all(client: &mut Client) {
    client
        .simple_query("SELECT pg_advisory_unlock_all()")
        .unwrap();
    thread::sleep(Duration::from_millis(1));
}

/// Another client of such a pooler can release the probe that was left behind to detect it, and
/// then it may be taken for a pool in session mode.
#[apply(isolated_test)]
fn a_session_that_is_lent_out_after_all_is_given_up(server: Server) {
    let pooler = or_skip!(Pooler::before(&server, PoolMode::Transaction, 3));
    among_clients(&pooler, unlock_all, || {
        let mut refused = 0;
        for _ in 0..100 {
            let Ok(mgr) = quick(&pooler.url()).connect() else {
                refused += 1;
                continue;
            };
            if let Ok(guard) = mgr.lock("key") {
                let ended = guard.watch().wait_timeout(FOREVER);
                assert_eq!(ended, Some(Ended::SessionLost));
            }
        }
        assert!(refused > 0);
    });
}

#[apply(isolated_test)]
fn a_pool_that_begins_to_lend_its_sessions_out_is_noticed(server: Server) {
    let pooler = or_skip!(Pooler::before(&server, PoolMode::Session, 6));
    let mgr = quick(&pooler.url()).connect().unwrap();
    let guard = mgr.lock("key").unwrap();
    assert_eq!(guard.watch().wait_timeout(SHORT), None);
    pooler.reload(PoolMode::Transaction, 6).unwrap();
    among_clients(&pooler, unlock_all, || {
        let ended = guard.watch().wait_timeout(FOREVER);
        assert_eq!(ended, Some(Ended::SessionLost));
    });
    assert_eq!(guard.unlock().unwrap_err().kind(), ErrorKind::Lost);
}

#[apply(isolated_test)]
fn a_transaction_pooler_that_resets_its_sessions_is_refused(server: Server) {
    let reset = [("server_reset_query_always", "1")];
    for (mode, size) in [(PoolMode::Transaction, 1), (PoolMode::Statement, 3)] {
        let pooler = or_skip!(Pooler::with_settings(&server, mode, size, &reset));
        let error = quick(&pooler.url()).connect().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pooler, "{mode:?}: {error}");
    }
    let once = [("server_lifetime", "0")];
    let pooler = or_skip!(Pooler::with_settings(
        &server,
        PoolMode::Transaction,
        3,
        &once
    ));
    let error = quick(&pooler.url()).connect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Pooler, "{error}");
}

#[test]
#[serial]
fn paths_of_different_kinds_behind_one_address_are_not_taken() {
    let server = Server::start().unwrap();
    let other = Server::start().unwrap();
    let _clean = clean_on(&server);
    let pooler = or_skip!(Pooler::before(&server, PoolMode::Transaction, 3));
    let mixed = Proxy::among(&[server.port(), pooler.port()]).unwrap();
    let servers = Proxy::among(&[server.port(), other.port()]).unwrap();
    for _ in 0..3 {
        // With the pooler first and with the server first.
        for offset in 0..2 {
            (0..offset).for_each(|_| drop(Client::connect(&mixed.url(), NoTls)));
            let kind = quick(&mixed.url()).connect().unwrap_err().kind();
            assert!(
                matches!(kind, ErrorKind::Pooler | ErrorKind::Unavailable),
                "{kind:?}"
            );
        }
        let error = quick(&servers.url()).connect().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
}

#[apply(isolated_test)]
fn a_refused_pooler_is_left_as_it_was(server: Server) {
    let pooler = or_skip!(Pooler::before(&server, PoolMode::Transaction, 1));
    let mut other = Client::connect(&pooler.url(), NoTls).unwrap();
    let settings = "SELECT string_agg(name || '=' || setting, ',' ORDER BY name) FROM pg_settings \
         WHERE name <> 'application_name'";
    let mut state = || -> String {
        let row = other.simple_query(settings).unwrap().remove(1);
        let postgres::SimpleQueryMessage::Row(row) = row else {
            panic!("no row");
        };
        row.get(0).unwrap().to_owned()
    };
    let before = state();
    for _ in 0..3 {
        assert_eq!(
            quick(&pooler.url()).connect().unwrap_err().kind(),
            ErrorKind::Pooler
        );
    }
    assert_eq!(state(), before);
}

#[test]
#[serial]
fn a_manager_that_is_refused_again_and_again_leaves_one_lock_at_most() {
    let server = Server::start().unwrap();
    let mut pooler = or_skip!(Pooler::before(&server, PoolMode::Session, 3));
    let mgr = quick(&pooler.url())
        .reconnect_backoff(Duration::from_millis(10), Duration::from_millis(10))
        .connect()
        .unwrap();
    pooler.restart(PoolMode::Transaction, 3).unwrap();
    let mut client = server.client();
    let mut refusals = 0;
    eventually(|| {
        let error = mgr.try_lock("key").unwrap_err();
        refusals += usize::from(error.kind() == ErrorKind::Pooler);
        refusals > 200
    });
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    let left: i64 = client.query_one(locks, &[]).unwrap().get(0);
    assert!(left <= 1, "{left} locks are left in pooled sessions");
}

#[apply(isolated_test)]
fn one_free_slot_is_enough(server: Server) {
    let mut client = server.client();
    client
        .batch_execute("CREATE ROLE single LOGIN CONNECTION LIMIT 1")
        .unwrap();
    let url = server.url().replace("user=postgres", "user=single");
    let slots = [("max_client_conn", "1")];
    let pooler = or_skip!(Pooler::with_settings(&server, PoolMode::Session, 1, &slots));
    for url in [&url, &pooler.url()] {
        for _ in 0..10 {
            let mgr = Manager::connect(url).unwrap();
            drop(mgr.lock("single").unwrap());
            terminate_sessions(&mut client);
            // It is enough for a reconnect, too.
            eventually(|| mgr.try_lock("single").is_ok());
            mgr.close().unwrap();
            // The last connection's process ends, which frees its slot.
            eventually(|| backends(&mut client).is_empty());
        }
    }
}

#[apply(isolated_test)]
fn a_connect_takes_few_round_trips() {
    let network = Proxy::to(server()).unwrap();
    let url = format!("{} sslmode=disable", network.url());
    let taken = || {
        let before = (network.accepted(), network.answers());
        let mgr = Manager::connect(&url).unwrap();
        let after = (network.accepted(), network.answers());
        mgr.close().unwrap();
        (after.0 - before.0, after.1 - before.1)
    };
    // Each connection: the TCP connect and the login, which is one round trip without a
    // password and three with one. The first sends one query, the second three; and one more
    // each time that the first one's process has not ended yet, which may happen to any
    // connect on a busy machine, but not to all.
    let least = (0..20).map(|_| taken()).min().unwrap();
    assert_eq!(least, (2, 2 + 1 + 3));
}
