//! What ends a hold and frees its lock: its own guard, its own token or the loss of its
//! session, and nothing else.

use std::thread;

use distlock::{CancelToken, Ended, ErrorKind, Manager};
use throwaway_postgres::Server;

use crate::support::*;

#[apply(isolated_test)]
fn ending_a_hold_twice_does_not_free_the_next_holders_lock() {
    let (mgr, other) = (manager(), manager());
    let token = CancelToken::new();
    let old = mgr.acquire("key").release_on(&token).lock().unwrap();
    token.cancel();
    let next = mgr.lock("key").unwrap();
    // Every way to end the old hold a second time.
    token.cancel();
    drop(old);
    drop(token);
    mgr.lock("the worker has seen it")
        .unwrap()
        .unlock()
        .unwrap();
    assert!(mgr.try_lock("key").unwrap().is_none());
    assert!(other.try_lock_shared("key").unwrap().is_none());
    assert!(!next.is_lost());
    next.unlock().unwrap();

    // Shared holders are only counted: none may be counted twice.
    let token = CancelToken::new();
    let old = mgr
        .acquire("key")
        .shared()
        .release_on(&token)
        .lock()
        .unwrap();
    let fellow = mgr.lock_shared("key").unwrap();
    token.cancel();
    token.cancel();
    old.unlock().unwrap_err();
    mgr.lock("the worker has seen it")
        .unwrap()
        .unlock()
        .unwrap();
    assert!(other.try_lock("key").unwrap().is_none());
    fellow.unlock().unwrap();
}

#[apply(isolated_test)]
fn a_guard_from_before_a_reconnect_does_not_free_the_next_holders_lock() {
    let (mgr, other) = (manager(), manager());
    let token = CancelToken::new();
    let old = [
        mgr.acquire("key").release_on(&token).lock().unwrap(),
        mgr.lock_shared("shared").unwrap(),
    ];
    terminate_sessions(&mut server().client());
    // Of the old guards only one is watched.
    assert_eq!(old[0].watch().wait(), Ended::SessionLost);
    assert!(old[1].is_lost());
    let next = [mgr.lock("key").unwrap(), mgr.lock_shared("shared").unwrap()];
    token.cancel();
    drop(old);
    mgr.lock("the worker has seen it")
        .unwrap()
        .unlock()
        .unwrap();
    for guard in next {
        assert!(other.try_lock(guard.key()).unwrap().is_none());
        guard.unlock().unwrap();
    }
}

#[apply(isolated_test)]
fn a_failed_unlock_ends_the_session_and_all_its_locks() {
    let server = Server::start().unwrap();
    let mut client = server.client();
    impose(&mut client, "pg_catalog.pg_advisory_unlock", "false");
    let mgr = Manager::connect(&server.url()).unwrap();
    mgr.lock("key").unwrap().unlock().unwrap();
    for (reconnects, quiet) in [(1, false), (2, true)] {
        let (guard, bystander) = (mgr.lock("key").unwrap(), mgr.lock("by").unwrap());
        let watch = bystander.watch();
        // Only for this session: a server on which no unlock works would be refused.
        client
            .batch_execute(
                "INSERT INTO imposed SELECT pid FROM pg_stat_activity \
                 WHERE application_name LIKE 'distlock %'",
            )
            .unwrap();
        if quiet {
            drop(guard);
        } else {
            assert_eq!(guard.unlock().unwrap_err().kind(), ErrorKind::Lost);
        }
        // The session, whose state is unknown now, is ended, and all its locks are released.
        assert_eq!(watch.wait(), Ended::SessionLost);
        eventually(|| advisory_locks(&mut client).is_empty());
        client.batch_execute("DELETE FROM imposed").unwrap();
        eventually(|| match mgr.lock("key") {
            Ok(guard) => guard.unlock().is_ok(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                false
            }
        });
        assert_eq!(mgr.stats().reconnects, reconnects);
        eventually(|| backends(&mut client).len() == 1);
    }
}

#[apply(isolated_test)]
fn a_cancelled_statement_ends_no_hold() {
    let server = Server::start().unwrap();
    let mut client = server.client();
    let name = "pg_catalog.pg_try_advisory_lock";
    let slow = "pg_catalog.pg_sleep(60) IS NULL";
    impose(&mut client, name, slow);
    let mgr = Manager::connect(&server.url()).unwrap();
    let bystander = mgr.lock("by").unwrap();
    client
        .batch_execute("INSERT INTO imposed DEFAULT VALUES")
        .unwrap();
    let wait = thread::spawn({
        let mgr = mgr.clone();
        move || mgr.lock("key").unwrap().unlock().unwrap()
    });
    let asleep = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    eventually(|| client.execute(asleep, &[]).unwrap() == 1);
    client.batch_execute("DELETE FROM imposed").unwrap();
    for pid in backends(&mut client) {
        let cancel = "SELECT pg_cancel_backend($1)";
        client.execute(cancel, &[&pid]).unwrap();
    }
    finish(vec![wait]);
    assert_eq!(bystander.watch().ended(), None);
    bystander.unlock().unwrap();
    assert_eq!(mgr.stats().reconnects, 0);
}
