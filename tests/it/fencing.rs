//! Tokens only grow, whatever happens to their holders.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use distlock::{Builder, ErrorKind, Manager};
use serial_test::serial;
use throwaway_postgres::{Server, Shutdown};

use crate::support::*;

const SEQUENCE: &str = "public.distlock_token";

fn fenced(server: &Server) -> Builder {
    Manager::builder(&server.url()).fencing(SEQUENCE)
}

/// The token of a lock that is acquired and released at once.
fn token(mgr: &Manager) -> i64 {
    mgr.lock("token").unwrap().token().unwrap()
}

#[apply(isolated_test)]
fn without_fencing_there_is_no_token() {
    assert_eq!(manager().lock("plain").unwrap().token(), None);
}

#[apply(isolated_test)]
fn tokens_grow_from_holder_to_holder_of_every_manager_and_thread() {
    let managers = [(); 2].map(|()| fenced(server()).connect().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let threads = managers
        .iter()
        .flat_map(|mgr| [(); 4].map(|()| mgr.clone()))
        .map(|mgr| {
            let seen = Arc::clone(&seen);
            thread::spawn(move || {
                for _ in 0..50 {
                    let guard = mgr.lock("contended").unwrap();
                    seen.lock().unwrap().push(guard.token().unwrap());
                }
            })
        })
        .collect();
    finish(threads);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 400);
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    let hand_overs: u64 = managers.iter().map(|mgr| mgr.stats().hand_overs).sum();
    assert!(hand_overs > 0, "no token of a hand-over was seen");
}

#[apply(isolated_test)]
fn each_shared_holder_has_a_token_of_its_own() {
    let mgr = fenced(server()).connect().unwrap();
    let before = token(&mgr);
    let shares = [(); 5].map(|()| mgr.lock_shared("token").unwrap());
    let tokens: Vec<_> = shares.iter().map(|share| share.token().unwrap()).collect();
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    assert!(tokens[0] > before);
    drop(shares);
    assert!(token(&mgr) > tokens[4]);
}

#[apply(isolated_test)]
fn every_kind_of_key_and_a_whole_batch_has_tokens() {
    let mgr = fenced(server()).connect().unwrap();
    let threads = (0..64)
        .map(|n| {
            let mgr = mgr.clone();
            thread::spawn(move || match n % 3 {
                0 => mgr.lock((1, n)).unwrap().token().unwrap(),
                1 => mgr.lock_shared((2, n)).unwrap().token().unwrap(),
                _ => mgr.lock(format!("{n}").as_str()).unwrap().token().unwrap(),
            })
        })
        .collect();
    let tokens: BTreeSet<i64> = finish(threads).into_iter().collect();
    assert_eq!(tokens.len(), 64);
}

#[apply(isolated_test)]
fn tokens_grow_over_reconnects_and_managers() {
    let mgr = fenced(server()).connect().unwrap();
    let guard = mgr.lock("token").unwrap();
    let mut last = guard.token().unwrap();
    terminate_sessions(&mut server().client());
    eventually(|| guard.is_lost());
    assert_eq!(guard.token(), Some(last), "a guard keeps the token it had");
    for mgr in [mgr, fenced(server()).connect().unwrap()] {
        let next = token(&mgr);
        assert!(next > last);
        last = next;
    }
}

#[test]
#[serial]
fn tokens_grow_over_crashes_of_the_server_in_the_middle_of_traffic() {
    // As in production: only what is flushed survives.
    let server = Server::builder()
        .setting("fsync", "on")
        .setting("full_page_writes", "on")
        .start()
        .unwrap();
    let _clean = clean_on(&server);
    let mgr = fenced(&server)
        .wait_while_unavailable(true)
        .reconnect_backoff(Duration::from_millis(5), Duration::from_millis(50))
        .connect()
        .unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let granted = Arc::new(Mutex::new(BTreeSet::new()));
    let threads = (0..8)
        .map(|n: i32| {
            let (mgr, over, granted) = (mgr.clone(), Arc::clone(&over), Arc::clone(&granted));
            thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    // A crash may hit any of these calls.
                    if let Ok(guard) = mgr.lock((7, n)) {
                        let new = granted.lock().unwrap().insert(guard.token().unwrap());
                        assert!(new, "a token was given twice");
                    }
                }
            })
        })
        .collect();
    let count = || granted.lock().unwrap().len();
    for _ in 0..5 {
        let before = count();
        eventually(|| count() > before + 200);
        server.restart(Shutdown::Immediate).unwrap();
        let last = *granted.lock().unwrap().last().unwrap();
        let after = Manager::builder(&server.url())
            .fencing(SEQUENCE)
            .connect()
            .unwrap();
        assert!(token(&after) > last);
    }
    over.store(true, Ordering::SeqCst);
    finish(threads);
}

#[apply(isolated_test)]
fn without_the_right_to_make_the_sequence_the_error_says_what_to_run(server: Server) {
    let mut client = server.client();
    client
        .batch_execute("CREATE ROLE app LOGIN; REVOKE CREATE ON SCHEMA public FROM public")
        .unwrap();
    let url = server.url().replace("user=postgres", "user=app");
    let connect = || Manager::builder(&url).fencing("locks.token").connect();
    let error = connect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fencing);
    let message = error.to_string();
    let (_, sql) = message.split_once("run ").unwrap();
    client.batch_execute(&sql.replace("<role>", "app")).unwrap();
    assert!(token(&connect().unwrap()) > 0);
}

#[apply(isolated_test)]
fn a_missing_right_to_draw_tokens_is_a_fencing_error_until_it_is_granted(server: Server) {
    let mut client = server.client();
    client
        .batch_execute("CREATE ROLE app LOGIN; CREATE SEQUENCE public.distlock_token")
        .unwrap();
    let url = server.url().replace("user=postgres", "user=app");
    let connect = || Manager::builder(&url).fencing(SEQUENCE).connect();
    let error = connect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fencing);
    let message = error.to_string();
    let (_, grant) = message.split_once("run ").unwrap();
    let grant = grant.replace("<role>", "app");
    client.batch_execute(&grant).unwrap();
    let mgr = connect().unwrap();
    let before = token(&mgr);
    client
        .batch_execute("REVOKE USAGE ON SEQUENCE public.distlock_token FROM app")
        .unwrap();
    let error = mgr.lock("token").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fencing, "{error}");
    // A lock without a token is not granted; the worker replies first and then releases it.
    eventually(|| advisory_locks(&mut client).is_empty());
    client.batch_execute(&grant).unwrap();
    // Draws are not retried at once.
    eventually(|| {
        mgr.lock("token")
            .is_ok_and(|guard| guard.token() > Some(before))
    });
    assert_eq!(mgr.stats().reconnects, 0);
}

#[apply(isolated_test)]
fn a_sequence_that_gives_no_lasting_order_is_refused(server: Server) {
    let mut client = server.client();
    for (n, made) in [
        "SEQUENCE public.unfit CACHE 20",
        "SEQUENCE public.unfit CYCLE",
        "SEQUENCE public.unfit INCREMENT -1",
        "SEQUENCE public.unfit MINVALUE -5",
        "TABLE public.unfit ()",
        "VIEW public.unfit AS SELECT 1",
    ]
    .iter()
    .enumerate()
    {
        client.batch_execute(&format!("CREATE {made}")).unwrap();
        let error = Manager::builder(&server.url())
            .fencing("public.unfit")
            .connect()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fencing, "{n}: {made}");
        let (what, _) = made.split_once(' ').unwrap();
        client
            .batch_execute(&format!("DROP {what} public.unfit"))
            .unwrap();
    }
}

#[test]
fn a_malformed_sequence_name_is_a_config_error() {
    for name in [
        "",
        "token",
        ".token",
        "public.",
        "a.b.c",
        "public.\"x\"",
        "p.x\0",
    ] {
        let error = Manager::builder("host=localhost")
            .fencing(name)
            .connect()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{name}");
    }
}

#[apply(isolated_test)]
fn a_sequence_that_came_to_its_end_is_an_error_and_no_lock(server: Server) {
    let mut client = server.client();
    client
        .batch_execute("CREATE SEQUENCE public.distlock_token MAXVALUE 2")
        .unwrap();
    let mgr = fenced(&server).connect().unwrap();
    assert_eq!((token(&mgr), token(&mgr)), (1, 2));
    let error = mgr.lock("token").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fencing);
    eventually(|| advisory_locks(&mut client).is_empty());
}

/// PostgreSQL logs one draw of 32, ahead of the others.
#[test]
#[serial]
fn a_token_waits_for_what_others_have_logged() {
    // WAL is flushed only by sessions that wait for it.
    let server = Server::builder()
        .setting("fsync", "on")
        .setting("wal_writer_delay", "10s")
        .setting("wal_writer_flush_after", "100MB")
        .setting("autovacuum", "off")
        .start()
        .unwrap();
    let _clean = clean_on(&server);
    let mgr = fenced(&server).connect().unwrap();
    let before = token(&mgr);
    // The first draw after a checkpoint is logged; it is this one.
    server.client().batch_execute("CHECKPOINT").unwrap();
    let mut other = server.client();
    other.batch_execute("BEGIN").unwrap();
    let drawn: i64 = other
        .query_one("SELECT nextval('public.distlock_token')", &[])
        .unwrap()
        .get(0);
    assert!(drawn > before);
    let last = token(&mgr);
    server.restart(Shutdown::Immediate).unwrap();
    let next = token(&fenced(&server).connect().unwrap());
    assert!(next > last, "{next} after {last}");
}

#[apply(isolated_test)]
fn a_token_is_drawn_after_its_lock(server: Server) {
    let mut client = server.client();
    let function = "pg_catalog.pg_try_advisory_lock";
    let waits = "pg_catalog.pg_advisory_xact_lock(1, 1) IS NOT NULL AND pg_catalog.honest(n)";
    impose(&mut client, function, waits);
    let [slow, quick] = [(); 2].map(|()| fenced(&server).connect().unwrap());
    client
        .batch_execute("SELECT pg_advisory_lock(1, 1); INSERT INTO imposed DEFAULT VALUES")
        .unwrap();
    let wait = thread::spawn(move || token(&slow));
    eventually(|| queued(&mut client) == 1);
    client.batch_execute("DELETE FROM imposed").unwrap();
    let before = quick.lock("other").unwrap().token().unwrap();
    client
        .batch_execute("SELECT pg_advisory_unlock(1, 1)")
        .unwrap();
    let after = finish(vec![wait]).remove(0);
    assert!(after > before, "{after} after {before}");
}
